"""Fine-tuning of the autoencoder on radar images: grey in three channels, losses by recipe, the engine of all strategies.

Everything random is a function of (seed, step): which images, which crops of them, what is put into these, and the noise of
the posterior.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from torch import Tensor, nn
from torch.func import functional_call

from sarnb.data.dataset import load_card, load_set
from sarnb.data.files import CARD, METADATA
from sarnb.errors import DivergedError, InputError
from sarnb.model.export import read_record, save_trained
from sarnb.model.foundation import fingerprint, load_foundation, to_pixels
from sarnb.model.strategy import Strategy, prepare, seeded
from sarnb.train.batches import Share, batch_ids, step_generator
from sarnb.train.cache import content_key
from sarnb.train.features import NETWORKS
from sarnb.train.finetune import FinetuneResult
from sarnb.train.loop import train_loop
from sarnb.train.memory import peak_memory_mb, reset_peak_memory
from sarnb.train.precision import resolve_precision
from sarnb.train.processes import processes
from sarnb.train.vae import PatchDiscriminator, random_crops
from sarnb.train.vae_checks import check_images, downsampling
from sarnb.train.vae_config import VaeConfig, of_radar
from sarnb.train.vae_held_out import beside, held_out_loss
from sarnb.train.vae_losses import (
    CollapseWatch,
    LossRecipe,
    adaptive_weight,
    hinge_discriminator_loss,
    kl_to_unit_normal,
    last_layer_gradient,
    parse_recipe,
    reconstruction_terms,
)
from sarnb.world.reflectors import with_reflectors

CROPS, POSTERIOR, REFLECTORS, DISCRIMINATOR = 41, 42, 43, 5  # streams of random numbers
HISTORY, TRAINING = "history.csv", ".training-"


class RoundTrip(nn.Module):
    """Encoder, one draw of the posterior, decoder; and what went into the decoder's last convolution."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae
        self.hook = vae.decoder.conv_out.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, arguments: tuple[Tensor]) -> None:
        self.last = arguments[0]

    def release(self) -> None:
        """Leave the autoencoder as it was found."""
        self.hook.remove()
        self.last = None

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels [N, 3, H, W], noise [N, C, h, w] → decoded pixels, posterior mean and log-variance, last inputs."""
        posterior = self.vae.encode(pixels).latent_dist
        decoded = self.vae.decode(posterior.mean + posterior.std * noise).sample
        return decoded, posterior.mean, posterior.logvar, self.last


def finetune_vae(
    pipe: StableDiffusionXLPipeline,
    strategy: Strategy,
    images: np.ndarray,
    config: VaeConfig,
    out: Path,
    val: np.ndarray | None = None,
) -> FinetuneResult:
    """Fine-tune ``pipe.vae`` in place by ``strategy`` on grey uint8 images [N, H, W]; resumes from ``out``.

    The held-out loss (column ``held_out``) is the recipe without discriminator and KL on whole validation images, each
    encoded to its posterior mean; it compares trainings of one recipe only.

    Raises ``InputError`` for a strategy that trains no autoencoder, what ``check_images`` refuses, a missing extra, and a
    checkpoint of another run; ``DivergedError`` with the step for a loss that is not finite and for a discriminator that
    has won: the last checkpoint then stands.
    """
    if strategy.vae == "frozen":
        raise InputError(f"strategy {strategy.name} trains no autoencoder; choose one of the VAE strategies, such as vae-decoder")
    recipe = parse_recipe(config.losses, config.adversarial_start)
    val = None if val is None else val[: config.held_out_images]
    check_images(pipe.vae, images, config.crop, recipe, val)
    features = {name: NETWORKS[name]() for name in NETWORKS if name in recipe.weights}
    record = _record(pipe, strategy, images, config)
    reset_peak_memory()
    trained = prepare(pipe, strategy, config.seed)["vae"]
    pipe.vae.train()  # no dropout in it; diffusers checkpoints activations in this mode only
    if config.gradient_checkpointing:
        pipe.vae.enable_gradient_checkpointing()
    modules, groups = {"vae": RoundTrip(pipe.vae)}, [{"params": trained, "lr": config.rate(strategy)}]
    if recipe.adversarial:
        with seeded(config.seed, DISCRIMINATOR):
            modules["discriminator"] = PatchDiscriminator()
        groups.append({"params": list(modules["discriminator"].parameters()), "lr": config.lr_discriminator})
    history = train_loop(
        modules,
        training_loss(modules, images, recipe, features, config, strategy, out),
        config.loop(),
        out,
        identity=_identity(record),
        batch_size=config.batch_size,
        groups=groups,
        validate=None if val is None else lambda: held_out_loss(pipe.vae, val, recipe, features, config),
        label=strategy.name,
    )
    modules["vae"].release()
    pipe.vae.disable_gradient_checkpointing()
    pipe.vae.eval().requires_grad_(False)
    return FinetuneResult(history, _cost(pipe, trained, history, config, strategy), record)


def training_loss(
    raw: Mapping[str, nn.Module],
    images: np.ndarray,
    recipe: LossRecipe,
    features: Mapping[str, nn.Module],
    config: VaeConfig,
    strategy: Strategy,
    out: Path,
):
    """The loss of a step, (prepared modules, step, share) → dict of scalars: one backward pass trains both networks.

    The generator's term sees the discriminator's weights detached, the discriminator's term sees the picture detached.
    The generator's term weighs what the recipe says times the ratio of gradients at the last layer.
    """
    vae = raw["vae"].vae
    latent = (config.batch_size, vae.config.latent_channels, *(config.crop // downsampling(vae),) * 2)
    last = vae.decoder.conv_out
    watch = CollapseWatch(config.collapse_level, config.collapse_patience)

    def loss(modules: dict[str, nn.Module], step: int, share: Share) -> dict[str, Tensor]:
        crops = share.of(step_crops(images, config, step))
        pixels = to_pixels(crops).to(vae.device)
        noise = share.of(torch.randn(latent, generator=step_generator(config.seed, step, POSTERIOR))).to(vae.device)
        decoded, mean, log_variance, inputs = modules["vae"](pixels, noise)
        parts = reconstruction_terms(recipe.weights, pixels, decoded, beside(vae, features))
        total = sum(recipe.weights[name] * value for name, value in parts.items())
        if "kl" in recipe.weights:
            parts["kl"] = kl_to_unit_normal(mean.float(), log_variance.float())
        parts["loss"] = total + recipe.weights.get("kl", 0.0) * parts.get("kl", 0.0)
        if recipe.adversarial:
            parts |= {name: total.new_zeros(()) for name in ("discriminator", "adaptive")}
            if step >= recipe.adversarial_start * config.steps:
                generator = -_frozen_scores(raw["discriminator"], decoded).mean()
                norms = (last_layer_gradient(value, decoded, inputs, last.weight.shape) for value in (total, generator))
                parts["adaptive"] = adaptive_weight(*norms)
                scores = modules["discriminator"](torch.cat([pixels, decoded.detach().to(pixels)])).float().chunk(2)
                parts["discriminator"] = hinge_discriminator_loss(*scores)
                parts["loss"] = parts["loss"] + recipe.adversarial * parts["adaptive"] * generator + parts["discriminator"]
                if watch.collapsed(float(parts["discriminator"].detach())):
                    raise DivergedError(
                        f"{strategy.name}: the discriminator has won, its loss stayed below {config.collapse_level} for "
                        f"{config.collapse_patience} steps up to step {step}; lower lr_discriminator or leave 'adversarial' out "
                        f"and run again, the last good checkpoint stands in {out}"
                    )
        return parts

    return loss


def step_crops(images: np.ndarray, config: VaeConfig, step: int) -> np.ndarray:
    """The crops of ``step``, uint8 [batch, crop, crop]; never turned or mirrored, as shadows would turn round with them.

    The first ``point_share`` of them carry corner reflectors, which scenes hold too rarely to teach the radar's response.
    """
    chosen = images[batch_ids(len(images), config.batch_size, config.seed, step)]
    crops = random_crops(chosen, config.crop, np.random.default_rng((config.seed, CROPS, step)))
    if marked := round(config.point_share * len(crops)):
        rng = np.random.default_rng((config.seed, REFLECTORS, step))
        crops = np.concatenate([with_reflectors(crops[:marked], config.point_ratios, rng, window=config.point_window), crops[marked:]])
    return crops


def train_vae(
    strategy: Strategy, foundation: str, data_dir: Path, out: Path, config: VaeConfig
) -> tuple[pd.DataFrame, dict]:
    """Fine-tune on ``data_dir/train`` and save into ``out`` unless it holds the same training, finished; (history, cost).

    Corner reflectors get the response of the data's radar; where the data's card names none, no crop carries any.
    """
    config = of_radar(config, load_card(data_dir) if (data_dir / CARD).exists() else {})
    images = load_set(data_dir / "train").images
    val = load_set(data_dir / "val").images if (data_dir / "val" / METADATA).exists() else None
    pipe = load_foundation(foundation)
    wanted = json.loads(json.dumps(_record(pipe, strategy, images, config)))
    try:
        found = read_record(out)
        if {name: found.get(name) for name in wanted} == wanted:
            return pd.read_csv(out / HISTORY), found["cost"]
    except (InputError, FileNotFoundError):
        pass  # not there, or not whole: it is trained
    training = out / f"{TRAINING}{content_key(json.dumps(wanted, sort_keys=True))}"
    result = finetune_vae(pipe, strategy, images, config, training, val)
    if processes().is_main_process:
        save_trained(pipe, strategy, out, result.record | {"cost": result.cost})
        os.replace(training / HISTORY, out / HISTORY)
        for folder in out.glob(f"{TRAINING}*"):
            shutil.rmtree(folder)
    processes().wait_for_everyone()
    return result.history, result.cost


def _frozen_scores(discriminator: nn.Module, decoded: Tensor) -> Tensor:
    detached = {name: value.detach() for name, value in discriminator.named_parameters()}
    return functional_call(discriminator, detached, (decoded,)).float()


def _record(pipe: StableDiffusionXLPipeline, strategy: Strategy, images: np.ndarray, config: VaeConfig) -> dict:
    """What identifies a training: of the foundation only its autoencoder, for the other networks have no part in it."""
    return {
        "strategy": asdict(strategy),
        "vae": fingerprint(pipe.vae),
        "data": content_key(images),
        "config": asdict(config),
        "terms": dict(parse_recipe(config.losses).weights),
    }


def _identity(record: dict) -> str:
    """The record in a line that a person can read in an error message."""
    settings = content_key(json.dumps([record["strategy"], record["config"], record["terms"]], sort_keys=True))
    name = record["strategy"]["name"]
    return f"strategy {name}, autoencoder {record['vae'][:16]}, data {record['data']}, settings {settings}"


def _cost(pipe, trained: list[nn.Parameter], history: pd.DataFrame, config: VaeConfig, strategy: Strategy) -> dict:
    """What the training took; the seconds are those of steps, without loading, validation and saving."""
    seconds, seen = float(history["seconds"].sum()), config.steps * config.batch_size
    return {
        "trainable_parameters": sum(p.numel() for p in trained),
        "vae_parameters": sum(p.numel() for name, p in pipe.vae.named_parameters() if ".lora_" not in name),
        "images_seen": seen,
        "seconds": seconds,
        "images_per_second": seen / seconds,
        "peak_memory_mb": peak_memory_mb(),
        "checkpoint_bytes": sum(p.numel() * p.element_size() for p in trained),
        "caches": list(strategy.caches),
        "precision": resolve_precision(config.precision),
        "device": str(pipe.vae.device),
    }
