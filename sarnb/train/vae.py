"""Fine-tuning of the autoencoder on radar images: grey in three channels, losses by recipe, the loop of all strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from torch import Tensor, nn
from torch.func import functional_call

from sarnb.data.dataset import load_card, load_set, spread
from sarnb.data.files import CARD, METADATA, content_key
from sarnb.errors import DivergedError, InputError
from sarnb.model.export import load_vae
from sarnb.model.foundation import fingerprint, load_foundation, to_pixels
from sarnb.model.strategy import Strategy, prepare, seeded
from sarnb.model.vae import downsampling
from sarnb.train.finetune import FinetuneResult, identity, training_cost
from sarnb.train.loop import MicroBatch, batch_ids, step_generator, train_loop
from sarnb.train.machine import autocast, processes, reset_peak_memory
from sarnb.train.state import TRACKERS, LoopConfig
from sarnb.train.training import keep_trained
from sarnb.train.vae_losses import (
    NETWORKS,
    PERIODOGRAM_SIDE,
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator_loss,
    kl_to_unit_normal,
    last_layer_gradient,
    parse_recipe,
    reconstruction_terms,
)
from sarnb.world.speckle import with_reflectors

CROPS, POSTERIOR, REFLECTORS, DISCRIMINATOR = 41, 42, 43, 5  # streams of random numbers


@dataclass(frozen=True)
class VaeConfig(LoopConfig):
    """How to fine-tune the autoencoder: what every training says of its loop, and what follows."""

    weight_decay: float = 0.0
    batch_size: int = 8  # crops a step
    crop: int = 64  # px, a multiple of the autoencoder's downsampling
    losses: str = "l1+l2+histogram+loghistogram+spectrum+periodogram+increments+lattice+grey+kl"  # see parse_recipe
    point_share: float = 0.0  # share of a step's crops that carry corner reflectors, see with_reflectors
    point_ratios: tuple[float, float] = (1.2, 1.2)  # resolution over spacing of the radar in range and azimuth, for these
    point_window: str = "taylor"  # spectral window of the radar, for these
    adversarial_start: float = 0.2  # share of the run after which the decoder hears of the discriminator, which trains from the start
    lr_vae_lora: float = 2e-3  # these rates take the place of learning_rate
    lr_vae_full: float = 5e-4  # full weights, of the decoder or of all
    lr_discriminator: float = 1e-3
    gradient_checkpointing: bool = False  # activations are computed twice instead of stored
    held_out_images: int = 16  # validation images of the held-out loss
    collapse_level: float = 0.02  # a discriminator's loss below it, ...
    collapse_patience: int = 40  # ... for so many steps on end, stops the run

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.point_share <= 1:
            raise InputError(f"point_share is {self.point_share}; give a share from 0 to 1")
        if not 0 <= self.adversarial_start < 1:
            raise InputError(f"adversarial_start is {self.adversarial_start}; give a share from 0 up to, not including, 1")
        parse_recipe(self.losses)

    @classmethod
    def of(cls, profile: Any, seed: int | None = None) -> VaeConfig:
        """What a profile says of it: its values named ``vae_...``, and those of the same names as here."""
        values = cls.values(profile, seed, "vae_")
        values |= {"warmup_steps": min(profile.warmup_steps, profile.vae_steps // 4), "batch_size": profile.vae_batch}
        return cls(steps=profile.vae_steps, **values | {"schedule": "cosine"})  # the profile's schedule is that of the strategies

    def of_radar(self, card: Mapping[str, Any]) -> VaeConfig:
        """The same with the response of the radar in a data set's ``card``; without corner reflectors if it names none."""
        radar = card.get("radar")
        if not radar:
            return replace(self, point_share=0.0)
        ratios = tuple(size / step for size, step in zip(radar["resolution_m"], radar["spacing_m"]))
        return replace(self, point_ratios=ratios, point_window=radar.get("window", self.point_window))


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
    trackers: Sequence[str] = (),
) -> FinetuneResult:
    """Fine-tune ``pipe.vae`` in place by ``strategy`` on grey uint8 images [N, H, W]; resumes from ``out``.

    The held-out loss (column ``held_out``) is the recipe without discriminator and KL on whole validation images, each
    encoded to its posterior mean; it compares trainings of one recipe only.

    Raises
    ------
    InputError
        A strategy that trains no autoencoder, what ``check_images`` refuses, a missing extra, and a checkpoint of another run.
    DivergedError
        A loss that is not finite, or a discriminator that has won; the last checkpoint then stands.
    """
    if strategy.vae == "frozen":
        raise InputError(f"strategy {strategy.name} trains no autoencoder; choose one of the VAE strategies, such as vae-decoder")
    recipe = parse_recipe(config.losses)
    val = None if val is None else val[spread(len(val), config.held_out_images)]
    check_images(pipe.vae, images, config.crop, recipe, val)
    features = {name: NETWORKS[name]().to(processes().device) for name in NETWORKS if name in recipe}
    record = _record(pipe, strategy, images, config)
    reset_peak_memory()
    trained = prepare(pipe, strategy, config.seed)["vae"]
    pipe.vae.train()  # no dropout in it; diffusers checkpoints activations in this mode only
    if config.gradient_checkpointing:
        pipe.vae.enable_gradient_checkpointing()
    rate = config.lr_vae_lora if strategy.vae.startswith("lora") else config.lr_vae_full
    modules, groups = {"vae": RoundTrip(pipe.vae)}, [{"params": trained, "lr": rate}]
    if "adversarial" in recipe:
        with seeded(config.seed, DISCRIMINATOR):
            modules["discriminator"] = PatchDiscriminator()
        groups.append({"params": list(modules["discriminator"].parameters()), "lr": config.lr_discriminator})
    history = train_loop(
        modules,
        training_loss(modules, images, recipe, features, config, strategy, out),
        config,
        out,
        identity=identity(record),
        batch_size=config.batch_size,
        groups=groups,
        validate=None if val is None else lambda: held_out_reconstruction(pipe.vae, val, recipe, features, config),
        trackers=trackers,
        label=strategy.name,
    )
    modules["vae"].release()
    pipe.vae.disable_gradient_checkpointing()
    pipe.vae.eval().requires_grad_(False)
    cost = training_cost(trained, history, config, strategy.caches)
    cost["vae_parameters"] = sum(p.numel() for name, p in pipe.vae.named_parameters() if ".lora_" not in name)
    return FinetuneResult(history, cost, record)


def training_loss(
    raw: Mapping[str, nn.Module],
    images: np.ndarray,
    recipe: Mapping[str, float],
    features: Mapping[str, nn.Module],
    config: VaeConfig,
    strategy: Strategy,
    out: Path,
):
    """The loss of a step, (prepared modules, step, micro-batch) → dict of scalars: one backward pass trains both networks.

    The generator's term sees the discriminator's weights detached, the discriminator's term sees the picture detached. The
    discriminator trains from the first step; the generator's term joins later, as an untrained discriminator teaches noise.
    The generator's term weighs what the recipe says times the ratio of gradients at the last layer.

    Raises
    ------
    DivergedError
        The discriminator has won: the loss raises it at the step where that is seen.
    """
    vae = raw["vae"].vae
    latent = (config.batch_size, vae.config.latent_channels, *(config.crop // downsampling(vae),) * 2)
    last = vae.decoder.conv_out
    below, seen = 0, -1  # steps on end at which the discriminator separated every picture from its original by a margin; the last step

    def loss(modules: dict[str, nn.Module], step: int, micro: MicroBatch) -> dict[str, Tensor]:
        nonlocal below, seen
        crops = micro.of(step_crops(images, config, step))
        pixels = to_pixels(crops).to(vae.device)
        noise = micro.of(torch.randn(latent, generator=step_generator(config.seed, step, POSTERIOR))).to(vae.device)
        decoded, mean, log_variance, inputs = modules["vae"](pixels, noise)
        parts = reconstruction_terms(recipe, pixels, decoded, features)
        total = sum(recipe[name] * value for name, value in parts.items())
        if "kl" in recipe:
            parts["kl"] = kl_to_unit_normal(mean.float(), log_variance.float())
        parts["loss"] = total + recipe.get("kl", 0.0) * parts.get("kl", 0.0)
        if "adversarial" in recipe:
            joined = step >= config.adversarial_start * config.steps
            scores = modules["discriminator"](torch.cat([pixels, decoded.detach().to(pixels)])).float().chunk(2)
            parts |= {"discriminator": hinge_discriminator_loss(*scores), "adaptive": total.new_zeros(())}
            parts["loss"] = parts["loss"] + parts["discriminator"]
            if joined:
                frozen = {name: value.detach() for name, value in raw["discriminator"].named_parameters()}
                generator = -functional_call(raw["discriminator"], frozen, (decoded,)).float().mean()
                norms = (last_layer_gradient(value, decoded, inputs, last.weight.shape) for value in (total, generator))
                parts["adaptive"] = adaptive_weight(*norms)
                parts["loss"] = parts["loss"] + recipe["adversarial"] * parts["adaptive"] * generator
                low = float(parts["discriminator"].detach()) < config.collapse_level
                below, seen = (below + (step != seen) if low else 0), step  # micro-batches of one step count once
                if below >= config.collapse_patience:
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
    strategy: Strategy, foundation: str, data_dir: Path, out: Path, config: VaeConfig, trackers: Sequence[str] = ()
) -> tuple[AutoencoderKL, pd.DataFrame, dict]:
    """Fine-tune on ``data_dir/train`` and save into ``out`` unless it holds the same training, finished.

    Corner reflectors get the response of the data's radar; where the data's card names none, no crop carries any.

    Returns
    -------
    vae : the trained autoencoder, as ``load_vae`` reads it.
    history, cost : see ``FinetuneResult``.
    """
    config = config.of_radar(load_card(data_dir) if (data_dir / CARD).exists() else {})
    images = load_set(data_dir / "train").images
    val = load_set(data_dir / "val").images if (data_dir / "val" / METADATA).exists() else None
    pipe = load_foundation(foundation)
    history, cost = keep_trained(
        pipe,
        strategy,
        out,
        _record(pipe, strategy, images, config),
        lambda training: finetune_vae(pipe, strategy, images, config, training, val, trackers),
        (TRACKERS,),
    )
    return load_vae(out, foundation), history, cost


def _record(pipe: StableDiffusionXLPipeline, strategy: Strategy, images: np.ndarray, config: VaeConfig) -> dict:
    """What identifies a training: of the foundation only its autoencoder, for the other networks have no part in it."""
    return {
        "strategy": asdict(strategy),
        "vae": fingerprint(pipe.vae),
        "data": content_key(images),
        "config": asdict(config),
        "terms": parse_recipe(config.losses),
    }


def check_images(vae: AutoencoderKL, images: np.ndarray, crop: int, recipe: Mapping[str, float], val: np.ndarray | None = None) -> None:
    """Refuse what cannot be trained on: images [N, H, W], crops of ``crop`` px, whole validation images ``val`` [N, H, W].

    Raises
    ------
    InputError
        Another type or shape, a crop larger than the images, and sides of crops or of validation images that the autoencoder cannot
        divide or that a term of ``recipe`` cannot compare.
    """
    for name, stack in (("images", images), ("validation images", val)):
        if stack is not None and (stack.dtype != np.uint8 or stack.ndim != 3 or not len(stack)):
            about = f"autoencoder training: {name} are {stack.dtype} {stack.shape}"
            raise InputError(f"{about}; give grey uint8 [N, H, W], one or more")
    if crop > min(images.shape[1:]):
        sides = f"{images.shape[2]} x {images.shape[1]} px"
        raise InputError(f"autoencoder training: crops of {crop} px from images of {sides}; the crop must fit in the images")
    factor = downsampling(vae)
    for name, sides in (("crops", (crop, crop)), ("validation images, seen whole,", None if val is None else val.shape[1:])):
        if sides is None:
            continue
        about = f"autoencoder training: {name} of {sides[1]} x {sides[0]} px"
        if sides[0] % factor or sides[1] % factor:
            raise InputError(f"{about}; cut both sides to multiples of {factor} px")
        if "spectrum" in recipe and sides[0] != sides[1]:
            raise InputError(f"{about}: the loss term spectrum compares square pictures; cut them square or leave the term out")
        if "periodogram" in recipe and min(sides) < PERIODOGRAM_SIDE:
            raise InputError(f"{about}: the loss term periodogram needs sides of {PERIODOGRAM_SIDE} px or more; leave it out here")


@torch.no_grad()
def held_out_reconstruction(
    vae: AutoencoderKL, images: np.ndarray, recipe: Mapping[str, float], features: Mapping[str, nn.Module], config: VaeConfig
) -> float:
    """The recipe's terms that compare pictures, on whole images uint8 [N, H, W] and posterior means; mean over images.

    In batches that have no more pixels than the crops of a training step, so what fits into memory in training fits here. The
    lattice's term is one of a whole batch and not of an image: chance leaves more of it in smaller batches, so it compares
    runs of one crop and batch.
    """
    total, batch = 0.0, max(1, config.batch_size * config.crop**2 // images[0].size)
    for start in range(0, len(images), batch):
        pixels = to_pixels(images[start : start + batch]).to(vae.device)
        with autocast(config.precision):
            decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
            parts = reconstruction_terms(recipe, pixels, decoded, features)
        total += len(pixels) * float(sum(recipe[name] * value for name, value in parts.items()))
    return total / len(images)


def random_crops(images: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """One ``size`` x ``size`` crop of each image [N, H, W, 3] or [N, H, W]."""
    rows = rng.integers(0, images.shape[1] - size + 1, len(images))
    columns = rng.integers(0, images.shape[2] - size + 1, len(images))
    return np.stack([image[r : r + size, c : c + size] for image, r, c in zip(images, rows, columns)])
