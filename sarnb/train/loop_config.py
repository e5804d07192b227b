"""How long and how fast the training loop trains: its configuration, and the learning rate's course over the steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sarnb.errors import InputError

OPTIMIZERS = ("adamw", "adamw8bit")


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train."""

    steps: int  # optimiser steps
    learning_rate: float = 1e-4  # peak rate, where a parameter group names none
    warmup_steps: int = 0  # linear rise from 0
    schedule: str = "constant"  # after the warm-up: "constant" or "cosine" down to a tenth
    weight_decay: float = 0.01  # decoupled, AdamW
    betas: tuple[float, float] = (0.9, 0.99)  # AdamW
    optimizer: str = "adamw"  # or "adamw8bit": moments in 8 bits, on CUDA, by the package bitsandbytes
    ema_decay: float = 0.0  # moving average of the weights; 0 is none
    max_grad_norm: float = 1.0  # global norm at which gradients are clipped
    accumulate: int = 1  # micro-batches that share out the batch of one optimiser step, for less memory
    checkpoint_every: int = 200  # steps; also saved at the end
    validate_every: int = 0  # steps between held-out losses; 0 is only at start and end
    log_every: int = 10  # steps averaged into one row of the history
    precision: str = "auto"  # "auto", "fp32" or "bf16"
    seed: int = 0  # part of the run's identity

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; give at least 1")
        if self.accumulate < 1:
            raise InputError(f"accumulate is {self.accumulate}; give at least 1 micro-batch a step")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}; give a positive number")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}; give a number from 0 up to, not including, 1")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer is {self.optimizer!r}; choose {' or '.join(OPTIMIZERS)}")
        if self.schedule not in ("constant", "cosine"):
            raise InputError(f"schedule is {self.schedule!r}; choose constant or cosine")


def rate_factor(step: int, config: LoopConfig) -> float:
    """Factor on the peak learning rate at ``step`` (0-based)."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
