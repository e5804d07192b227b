"""Fine-tuning by strategy: the same images, captions, noise and timesteps at the same step, whatever trains.

Everything random is a function of (seed, step), never of the strategy: see ``step_draw``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from sarnb.data.dataset import ImageSet, spread
from sarnb.data.files import METADATA, content_key
from sarnb.errors import InputError
from sarnb.model.export import foundation_fingerprint
from sarnb.model.foundation import ENCODERS, components, cut_prompts, encode_prompts, fingerprint, normalise_latents, settings_of, time_ids
from sarnb.model.strategy import Strategy, prepare, trainable_parameters, trained_count
from sarnb.model.token import TOKEN, longest_row, with_token
from sarnb.train.cache import LatentCache, TextCache, cache_latents, cache_text, text_cache_bytes
from sarnb.train.diffusion import Denoiser, diffusion_loss, drop_captions, held_out_errors
from sarnb.train.loop import Loss, MicroBatch, Watcher, batch_ids, pair_sides, step_generator, train_loop
from sarnb.train.machine import Frozen, compile_on_card, peak_memory_mb, plain_attention, processes, reset_peak_memory, resolve_precision
from sarnb.train.state import LoopConfig, sharding

# One stream of random numbers for each purpose, so that leaving one out (a cache, a mode) shifts none of the others.
# Stream 6 is that of the held-out loss (``sarnb.train.diffusion``).
LATENTS, NOISE, TIMESTEPS, CAPTIONS, DROPOUT, PRIOR, OFFSET, SIDES = 1, 2, 3, 4, 5, 7, 8, 10


@dataclass(frozen=True)
class FinetuneConfig(LoopConfig):
    """How to fine-tune: what every training says of its loop, and what follows; shared by all strategies."""

    batch_size: int = 16  # images a step
    # One rate for each kind of component; they take the place of learning_rate.
    lr_unet_full: float = 2e-4  # full UNet
    lr_unet_scratch: float = 4e-4  # UNet from random weights
    lr_unet_lora: float = 1e-3
    lr_text_full: float = 1e-4
    lr_text_lora: float = 3e-4
    lr_token: float = 5e-3
    gradient_checkpointing: bool = False  # activations are computed twice instead of stored
    compiled: bool = False  # on a CUDA card the UNet is compiled before it trains: minutes at the start, faster steps
    caption_dropout: float = 0.1  # share of images trained without caption, for guidance
    side_pairs: float = 0.5  # share of images followed by their scene from the other side, where the set shows both
    min_snr_gamma: float = 5.0  # Hang et al. 2023; 0 is the plain loss
    high_noise: float = 1.0  # largest weight of the timesteps at which layout is settled; 1: all alike
    noise_offset: float = 0.0  # standard deviation of a further noise that is constant over a channel; 0 is none
    held_out_images: int = 64  # validation images of the held-out loss
    held_out_timesteps: int = 4  # evenly spaced timesteps, each with every held-out image
    text_cache_gb: float = 4.0  # larger text caches are not made; captions are then encoded at every step

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.high_noise >= 1:
            raise InputError(f"high_noise is {self.high_noise}; give 1, which weights all timesteps alike, or more")
        if not 0 <= self.caption_dropout < 1:
            raise InputError(f"caption_dropout is {self.caption_dropout}; give a number from 0 up to, not including, 1")

    @classmethod
    def of(cls, profile: Any, seed: int | None = None) -> FinetuneConfig:
        """What a profile says of training: its values of the same names; ``seed``, or the first of its training seeds."""
        return cls(steps=profile.train_steps, **cls.values(profile, seed))

    def draw_timesteps(self, horizon: int, generator: torch.Generator) -> Tensor:
        """Timesteps [batch_size] of one step, out of ``horizon``."""
        return torch.randint(0, horizon, (self.batch_size,), generator=generator)


@dataclass(frozen=True)
class FinetuneResult:
    """history: see ``train_loop``; cost: what it took; record: what identifies the training, for ``save_trained``.

    ``network``: what trained, where it is none of the pipeline's own (``sarnb.train.control``).
    """

    history: pd.DataFrame
    cost: dict
    record: dict
    network: nn.Module | None = None


@dataclass(frozen=True)
class PriorSet:
    """What the foundation knows already, to be kept: its own optical pictures.

    ``images`` uint8 [M, H, W, 3] with one caption each.
    """

    images: np.ndarray
    captions: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.images) == 0 or len(self.images) != len(self.captions):
            raise InputError(f"prior: {len(self.images)} pictures with {len(self.captions)} captions; give one caption each")

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of the pictures and captions; computed once."""
        return content_key(self.images, *self.captions)


@dataclass(frozen=True)
class StepDraw:
    """All that is random at one step."""

    ids: np.ndarray  # [B] images
    captions: Tensor  # [B] in [0, 1): which of an image's captions
    dropped: Tensor  # [B] bool: trained without caption
    timesteps: Tensor  # [B]
    noise: Tensor  # [B, C, h, w]
    latents: torch.Generator  # draws the VAE posterior

    def with_sides(self, partners: np.ndarray, share: float, seed: int, step: int) -> StepDraw:
        """The same draw, but some images are followed by their ``partners`` int [N] under the same noise, timestep and kind of caption.

        See ``sarnb.train.loop.pair_sides``.
        """
        ids, source = pair_sides(self.ids, partners, share, np.random.default_rng((seed, SIDES, step)))
        alike = {name: getattr(self, name)[source] for name in ("captions", "dropped", "timesteps", "noise")}
        return dataclasses.replace(self, ids=ids, **alike)

    def with_prior(self, count: int, prior: int, share: float, seed: int, step: int) -> StepDraw:
        """The same draw, but the first ``share`` of the batch shows the ``prior`` pictures that follow ``count`` images.

        Over the steps the share is met whatever the batch: a quarter of batches of one is every fourth step. All else stays, so
        that a strategy with prior preservation differs from its twin without by those pictures only.
        """
        shown = [math.floor(share * len(self.ids) * steps + 1e-9) for steps in (step, step + 1)]  # so far, and after this step
        places = shown[1] - shown[0]
        ids = self.ids.copy()
        ids[:places] = count + np.random.default_rng((seed, PRIOR, step)).integers(prior, size=places)
        return dataclasses.replace(self, ids=ids)


def step_draw(count: int, latent_shape: tuple[int, ...], timesteps: int, config: FinetuneConfig, step: int) -> StepDraw:
    """The draw of ``step`` for a set of ``count`` images: a pure function of (seed, step) and these sizes."""
    size, seed = config.batch_size, config.seed
    streams = {stream: step_generator(seed, step, stream) for stream in (LATENTS, NOISE, TIMESTEPS, CAPTIONS, DROPOUT)}
    noise = torch.randn((size, *latent_shape), generator=streams[NOISE])
    if config.noise_offset:
        noise += config.noise_offset * torch.randn((size, latent_shape[0], 1, 1), generator=step_generator(seed, step, OFFSET))
    return StepDraw(
        ids=batch_ids(count, size, seed, step),
        captions=torch.rand(size, generator=streams[CAPTIONS]),
        dropped=torch.rand(size, generator=streams[DROPOUT]) < config.caption_dropout,
        timesteps=config.draw_timesteps(timesteps, streams[TIMESTEPS]),
        noise=noise,
        latents=streams[LATENTS],
    )


def partners_of(data: ImageSet) -> np.ndarray:
    """Of each image the one of the same scene from the other side, int [N]; -1 where the set shows the scene once, or names none.

    A scene is a label and a seed, as the twin world writes them: images of other origin have no partner.
    """
    other = {"left": "right", "right": "left"}
    views = [(row.get("label"), row.get("seed"), row.get("look")) for row in data.rows]
    known = [all(part not in (None, "") for part in view) and view[2] in other for view in views]
    place = {view: number for number, (view, whole) in enumerate(zip(views, known)) if whole}
    return np.array([place.get((*view[:2], other[view[2]]), -1) if whole else -1 for view, whole in zip(views, known)], int)


def captions_of(data: ImageSet, token: bool) -> list[tuple[str, ...]]:
    """All captions of each image (short, middle, long where there are several), with the learned word if ``token``."""
    several = [tuple(captions) for captions in data.all_captions()]
    return [tuple(map(with_token, captions)) for captions in several] if token else several


def check_captions(data: ImageSet) -> None:
    """Raise ``InputError`` if an image has no caption: it would train as one without a prompt."""
    texts = zip(data.ids, data.all_captions())
    empty = [name for name, several in texts if not all(isinstance(text, str) and text.strip() for text in several)]
    if empty:
        columns = ", ".join(key for key in data.rows[data.ids.index(empty[0])] if key not in ("file_name", "captions"))
        raise InputError(
            f"{data.root / METADATA}: {len(empty)} of {len(data)} images have no text, such as {empty[0]} (its columns: "
            f"{columns or 'none'}); write a caption into the column text of each, or let 'dataset' caption them"
        )


def remarks(pipe: StableDiffusionXLPipeline, strategy: Strategy, captions: Sequence[tuple[str, ...]]) -> list[str]:
    """What a person should know of the captions that a training reads: one sentence each."""
    flat = [caption for several in captions for caption in several]
    found = [cut] if (cut := cut_prompts(pipe, flat)) else []
    strange = sum(TOKEN.lower() in caption.lower() for caption in flat)
    if strange and not strategy.token:
        found.append(f"{strange} captions hold the word {TOKEN}, which {strategy.name} does not learn: it is read letter by letter.")
    return found


def training_record(
    pipe: StableDiffusionXLPipeline, strategy: Strategy, data: ImageSet, config: FinetuneConfig, prior: PriorSet | None = None
) -> dict[str, Any]:
    """What identifies a training, as JSON: strategy, foundation (before it is adapted), data, configuration and prior pictures.

    ``paired``: images that have a partner, which the data's digest, of pixels and captions, does not tell.
    """
    record = {"strategy": asdict(strategy), "foundation": foundation_fingerprint(pipe), "data": data.digest, "config": asdict(config)}
    record["paired"] = int((partners_of(data) >= 0).sum())
    record |= {"settings": settings} if (settings := settings_of(pipe)) else {}
    return record if prior is None else record | {"prior": prior.digest}


def finetune(
    pipe: StableDiffusionXLPipeline,
    strategy: Strategy,
    data: ImageSet,
    config: FinetuneConfig,
    out: Path,
    val: ImageSet | None = None,
    cache: Path | None = None,
    prior: PriorSet | None = None,
    trackers: Sequence[str] = (),
    watchers: Sequence[Watcher] = (),
) -> FinetuneResult:
    """Fine-tune ``pipe`` in place by ``strategy``; resumes from ``out`` if a run of the same identity was cut short.

    ``prior`` is what a strategy with prior preservation shows next to the radar images; others do not look at it. ``cache``
    is a folder for caches that all strategies share; without it they are made in memory. ``trackers`` (such as
    ``["tensorboard"]``) and ``watchers`` are those of ``train_loop``: they follow a training and change nothing in it, so
    they are no part of its identity. The held-out loss (column ``held_out``) is the plain noise-prediction error on fixed
    noise and timesteps; compare it only between strategies that leave VAE and text encoders alone (it is measured with the
    training's own captions).

    Raises
    ------
    InputError
        A strategy that trains nothing, no images, an adapted pipeline, a rank larger than a layer, a checkpoint of another strategy,
        foundation, data set or configuration, and a loss that is not finite.
    """
    if not strategy.trains:
        raise InputError(f"strategy {strategy.name} trains nothing; sample the foundation itself instead")
    if strategy.vae != "frozen":
        raise InputError(f"strategy {strategy.name} trains the autoencoder, on images and not on noise; use finetune_vae")
    if len(data.images) == 0:
        raise InputError("fine-tuning got an empty training set; give at least one image")
    for part in (part for part in (data, val) if part is not None):
        check_captions(part)
    if strategy.prior and prior is None:
        raise InputError(f"strategy {strategy.name} shows the foundation's own pictures; draw them first (sarnb.generate.prompts)")
    prior = prior if strategy.prior else None
    record = training_record(pipe, strategy, data, config, prior)
    reset_peak_memory()
    prepare(pipe, strategy, config.seed)
    groups = parameter_groups(pipe, strategy, config)
    if config.gradient_checkpointing:
        _checkpoint_activations(pipe)
    if config.compiled:
        compile_on_card(pipe.unet)
    modules = {name: part for name, part in components(pipe).items() if any(p.requires_grad for p in part.parameters())}
    for name, part in components(pipe).items():
        if name not in modules:  # those that train are moved by accelerate
            part.to(processes().device)
    latents = cache_latents(pipe, data.images, cache, data.digest)
    captions = captions_of(data, strategy.token)
    if prior is not None:
        latents = latents.joined(cache_latents(pipe, prior.images, cache, prior.digest))
        captions = captions + [(caption,) for caption in prior.captions]
    flat = [caption for several in captions for caption in several]
    fits = "text" in strategy.caches and text_cache_bytes(pipe, flat) <= config.text_cache_gb * 1e9
    texts = cache_text(pipe, flat, cache) if fits else None
    loss = training_loss(pipe, latents, captions, texts, config, len(data.images), strategy.prior, partners=partners_of(data))
    validate = None if val is None else validation(pipe, strategy, val, config, cache)
    more = {"identity": identity(record), "groups": groups, "validate": validate, "trackers": trackers, "label": strategy.name}
    history = compact_loop(pipe, modules, loss, config, out, latents, texts, watchers=watchers, **more)
    for name, part in modules.items():
        setattr(pipe, name, part)  # FSDP gives other objects back
    caches = [name for name in strategy.caches if name == "latents" or texts is not None]
    cost = training_cost([parameter for group in groups for parameter in group["params"]], history, config, caches)
    cost["remarks"] = remarks(pipe, strategy, captions)
    cost["trainable_by_component"] = {name: trained_count(part) for name, part in components(pipe).items()}
    return FinetuneResult(history, cost, record)


def compact_loop(
    pipe: StableDiffusionXLPipeline,
    modules: dict[str, nn.Module],
    loss: Loss,
    config: FinetuneConfig,
    out: Path,
    latents: LatentCache,
    texts: TextCache | None,
    watchers: Sequence[Watcher] = (),
    **more: Any,
) -> pd.DataFrame:
    """``train_loop`` with the frozen parts of the pipeline held compactly, networks that no step calls out of the way, and attention as
    a CPU computes it fastest; ``more`` are its further arguments.
    """
    idle = [pipe.vae] if texts is None else [pipe.vae, pipe.text_encoder, pipe.text_encoder_2]
    # FSDP's parts of a weight are not its own to be replaced.
    frozen = Frozen(pipe.unet, idle, "fp32" if sharding() else config.precision)
    networks = {id(part): part for part in (pipe.unet, pipe.text_encoder, pipe.text_encoder_2, *modules.values())}
    attentive = [] if sharding() else list(networks.values())  # gradients pass frozen ones too
    longest = max(latents.shape[1] * latents.shape[2], pipe.tokenizer.model_max_length)
    with frozen.compact(), plain_attention(*attentive, tokens=longest):
        looking = [dataclasses.replace(watcher, call=frozen.at_full_precision(watcher.call)) for watcher in watchers]
        return train_loop(modules, loss, config, out, batch_size=config.batch_size, watchers=looking, **more)


def parameter_groups(pipe: StableDiffusionXLPipeline, strategy: Strategy, config: FinetuneConfig) -> list[dict[str, Any]]:
    """The optimiser's parameter groups of a pipeline that ``prepare`` set up, as training uses them.

    Returns
    -------
    groups : one a component that trains: ``name`` ("unet", "text" or "token"), ``params``, its peak rate ``lr``, and
        ``weight_decay``, which is 0 for the learned word: its length is bounded instead, by ``longest``, a number a parameter
        (``longest_row``).
    """
    groups: list[dict[str, Any]] = [
        {
            "name": name,
            "params": parameters,
            "lr": config.lr_token if name == "token" else getattr(config, f"lr_{name}_{getattr(strategy, name)}"),
            "weight_decay": 0.0 if name == "token" else config.weight_decay,
        }
        for name, parameters in trainable_parameters(pipe).items()
    ]
    for group in (group for group in groups if group["name"] == "token"):
        group["longest"] = [longest_row(getattr(pipe, encoder), getattr(pipe, words)) for words, encoder in ENCODERS]
    return groups


def training_loss(
    pipe: StableDiffusionXLPipeline,
    latents: LatentCache,
    captions: list[tuple[str, ...]],
    texts: TextCache | None,
    config: FinetuneConfig,
    count: int | None = None,
    prior: float = 0.0,
    denoiser: Denoiser | None = None,
    partners: np.ndarray | None = None,
) -> Loss:
    """The loss of a step, (prepared modules, step, micro-batch) → scalar; captions are encoded live where ``texts`` is None.

    The first ``count`` latents and captions are those of the training images (all if None), the others those of the prior
    pictures, which take the share ``prior`` of each batch. ``denoiser``: the UNet alone if None. ``partners``: of ``partners_of``.
    """
    paired = partners is not None and (partners >= 0).any()
    horizon = pipe.scheduler.config.num_train_timesteps
    count = len(captions) if count is None else count
    latents.check(fingerprint(pipe.vae))

    def loss(modules: dict[str, nn.Module], step: int, micro: MicroBatch) -> Tensor:
        draw = step_draw(count, latents.shape, horizon, config, step)
        if partners is not None and paired:
            draw = draw.with_sides(partners, config.side_pairs, config.seed, step)
        if prior:
            draw = draw.with_prior(count, len(captions) - count, prior, config.seed, step)
        prompts = micro.of([captions[i][int(u * len(captions[i]))] for i, u in zip(draw.ids, draw.captions.tolist())])
        hidden, pooled = embed(pipe, prompts, micro.of(draw.dropped), texts, modules)
        sample = micro.of(normalise_latents(pipe.vae, latents.sample(draw.ids, draw.latents)))
        device = pipe.unet.device
        return diffusion_loss(
            modules.get("unet", pipe.unet) if denoiser is None else denoiser(modules, micro.of(draw.ids)),
            pipe.scheduler,
            sample.to(device),
            hidden,
            pooled,
            time_ids(pipe, len(prompts)),
            micro.of(draw.noise).to(device),
            micro.of(draw.timesteps).to(device),
            config.min_snr_gamma,
            config.high_noise,
        )

    return loss


def embed(
    pipe: StableDiffusionXLPipeline,
    prompts: list[str],
    dropped: Tensor,
    texts: TextCache | None,
    modules: dict[str, nn.Module],
) -> tuple[Tensor, Tensor]:
    """Embeddings [B, T, D] and [B, P] of ``prompts``, of no prompt where ``dropped`` [B], as the pipeline's guidance has them.

    ``modules`` holds the encoders that train, as the loop prepared them (they may be wrapped for several processes).
    """
    device = pipe.unet.device
    texted = SimpleNamespace(
        tokenizer=pipe.tokenizer,
        tokenizer_2=pipe.tokenizer_2,
        text_encoder=modules.get("text_encoder", pipe.text_encoder),
        text_encoder_2=modules.get("text_encoder_2", pipe.text_encoder_2),
    )
    wanted = [*prompts, ""]
    hidden, pooled = encode_prompts(texted, wanted) if texts is None else texts.look_up(wanted)
    hidden, pooled = hidden.to(device), pooled.to(device)
    empty_hidden, empty_pooled = hidden[-1:], pooled[-1:]
    if pipe.config.force_zeros_for_empty_prompt:
        empty_hidden, empty_pooled = torch.zeros_like(empty_hidden), torch.zeros_like(empty_pooled)
    return drop_captions(hidden[:-1], pooled[:-1], empty_hidden, empty_pooled, dropped.to(device))


def _checkpoint_activations(pipe: StableDiffusionXLPipeline) -> None:
    """Gradient checkpointing (Chen et al. 2016) in the UNet, and in text encoders that train.

    Both libraries checkpoint in training mode only; none of these networks has dropout, so that the mode changes nothing else.
    """
    pipe.unet.enable_gradient_checkpointing()
    pipe.unet.train()
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        if any(p.requires_grad for p in encoder.parameters()):
            encoder.gradient_checkpointing_enable()
            encoder.train()


def identity(record: dict) -> str:
    """A training's record in a line that a person can read in an error message."""
    start = "foundation" if "foundation" in record else "vae"
    settings = content_key(json.dumps({key: value for key, value in record.items() if key not in (start, "data")}, sort_keys=True))
    return f"strategy {record['strategy']['name']}, {start} {record[start][:16]}, data {record['data']}, settings {settings}"


def validation(
    pipe: StableDiffusionXLPipeline,
    strategy: Strategy,
    val: ImageSet,
    config: FinetuneConfig,
    cache: Path | None,
    denoiser: Denoiser | None = None,
) -> Callable[[], float]:
    """The held-out loss of ``held_out_images`` of ``val``, to be called at any time."""
    latents, captions = held_out_part(pipe, strategy, val, config, cache)
    return lambda: held_out_loss(pipe, latents, captions, config, denoiser)


def held_out_part(
    pipe: StableDiffusionXLPipeline, strategy: Strategy, val: ImageSet, config: FinetuneConfig, cache: Path | None
) -> tuple[LatentCache, list[str]]:
    """Latents and captions of ``held_out_images`` of ``val``, spread over it, on which held-out errors are measured."""
    few = val.subset(spread(len(val.images), config.held_out_images))
    # Image i is predicted by its caption i mod 3: all lengths, and always the same one.
    captions = [several[i % len(several)] for i, several in enumerate(captions_of(few, strategy.token))]
    return cache_latents(pipe, few.images, cache, few.digest), captions


def held_out_loss(
    pipe: StableDiffusionXLPipeline,
    latents: LatentCache,
    captions: Sequence[str],
    config: FinetuneConfig,
    denoiser: Denoiser | None = None,
) -> float:
    """Mean squared noise-prediction error, unweighted, over all images times an even grid of timesteps."""
    count, horizon = config.held_out_timesteps, pipe.scheduler.config.num_train_timesteps
    timesteps = ((np.arange(count) + 0.5) * horizon / count).astype(int)  # middles of equal parts of the schedule
    return float(held_out_errors(pipe, latents, captions, timesteps, config.batch_size, config.precision, denoiser).mean())


def training_cost(trained: Sequence[nn.Parameter], history: pd.DataFrame, config: Any, caches: Sequence[str]) -> dict:
    """What the training took; the seconds are those of steps, without loading, validation and saving."""
    seconds, seen = float(history["seconds"].sum()), config.steps * config.batch_size
    return {
        "trainable_parameters": sum(p.numel() for p in trained),
        "images_seen": seen,
        "seconds": seconds,
        "images_per_second": seen / seconds,
        "peak_memory_mb": peak_memory_mb(),
        "checkpoint_bytes": sum(p.numel() * p.element_size() for p in trained),
        "caches": list(caches),
        "precision": resolve_precision(config.precision),
        "device": str(processes().device),
    }
