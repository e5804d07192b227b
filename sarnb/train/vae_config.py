"""How to fine-tune the autoencoder: a dataclass, validated when made, that a profile can fill."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sarnb.errors import InputError
from sarnb.model.strategy import Strategy
from sarnb.train.loop_config import LoopConfig
from sarnb.train.vae_losses import parse_recipe


@dataclass(frozen=True)
class VaeConfig:
    """How to fine-tune the autoencoder."""

    steps: int  # optimiser steps
    batch_size: int = 8  # crops a step
    crop: int = 64  # px, a multiple of the autoencoder's downsampling
    losses: str = "l1+l2+histogram+loghistogram+spectrum+periodogram+lattice+grey+kl"  # see parse_recipe
    point_share: float = 0.0  # share of a step's crops that carry corner reflectors, see with_reflectors
    point_ratios: tuple[float, float] = (1.2, 1.2)  # resolution over spacing of the radar in range and azimuth, for these
    point_window: str = "taylor"  # spectral window of the radar, for these
    adversarial_start: float = 0.2  # share of the run after which the discriminator joins
    seed: int = 0  # of everything random
    lr_vae_lora: float = 2e-3
    lr_vae_full: float = 5e-4  # full weights, of the decoder or of all
    lr_discriminator: float = 1e-3
    warmup_steps: int = 0  # linear rise of all rates
    schedule: str = "constant"  # or "cosine"
    weight_decay: float = 0.0
    ema_decay: float = 0.0  # moving average of the weights; 0 is none
    max_grad_norm: float = 1.0
    accumulate: int = 1  # micro-batches a step
    gradient_checkpointing: bool = False  # activations are computed twice instead of stored
    optimizer: str = "adamw"
    held_out_images: int = 16  # validation images of the held-out loss
    collapse_level: float = 0.02  # a discriminator's loss below it, ...
    collapse_patience: int = 40  # ... for so many steps on end, stops the run
    checkpoint_every: int = 200
    validate_every: int = 0
    log_every: int = 10
    precision: str = "auto"  # "auto", "fp32" or "bf16"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "crop", "held_out_images", "collapse_patience", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1")
        for name in ("lr_vae_lora", "lr_vae_full", "lr_discriminator"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; give a positive number")
        if not 0 <= self.point_share <= 1:
            raise InputError(f"point_share is {self.point_share}; give a share from 0 to 1")
        parse_recipe(self.losses, self.adversarial_start)

    @classmethod
    def of(cls, profile: Any, seed: int | None = None) -> VaeConfig:
        """What a profile says of it: its values named ``vae_...``, and those of the same names as here."""
        names = {field.name for field in dataclasses.fields(cls)} - {"seed", "steps", "batch_size", "precision"}
        values = {name: getattr(profile, name) for name in names if hasattr(profile, name)}
        values |= {name: getattr(profile, f"vae_{name}") for name in names if hasattr(profile, f"vae_{name}")}
        values["warmup_steps"] = min(profile.warmup_steps, profile.vae_steps // 4)
        seed = profile.train_seeds[0] if seed is None else seed
        return cls(steps=profile.vae_steps, batch_size=profile.vae_batch, seed=seed, **values)

    def rate(self, strategy: Strategy) -> float:
        """Peak learning rate of the autoencoder under ``strategy``."""
        return self.lr_vae_lora if strategy.vae.startswith("lora") else self.lr_vae_full

    def loop(self) -> LoopConfig:
        """The part that the training loop reads."""
        names = {field.name for field in dataclasses.fields(LoopConfig)}
        return LoopConfig(**{name: value for name, value in asdict(self).items() if name in names})


def of_radar(config: VaeConfig, card: Mapping[str, Any]) -> VaeConfig:
    """The configuration with the response of the radar in a data set's ``card``; without corner reflectors if it names none."""
    radar = card.get("radar")
    if not radar:
        return replace(config, point_share=0.0)
    ratios = tuple(size / step for size, step in zip(radar["resolution_m"], radar["spacing_m"]))
    return replace(config, point_ratios=ratios, point_window=radar.get("window", config.point_window))
