"""The state of a training under way, and how it starts: optimiser, processes, moving average, the last checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import ProjectConfiguration
from torch import Tensor, nn

from sarnb.errors import InputError
from sarnb.model.foundation import forget_fingerprints
from sarnb.train.checkpoint import load_checkpoint, shard, sharding

# How long and how fast the training loop trains: its configuration, and the learning rate's course over the steps.

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


# Trackers of a training's numbers, such as TensorBoard, by accelerate.

FOLDER = "trackers"  # beside the checkpoint of a training


def check_trackers(names: Sequence[str]) -> None:
    """Raises ``InputError`` for a tracker that accelerate does not know, or whose package is not installed.

    accelerate itself leaves out what is not installed without a word.
    """
    known = sorted(str(name) for name in LOGGER_TYPE_TO_CLASS)
    installed = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            raise InputError(f"unknown tracker {name!r}; choose one of {', '.join(known)}")
        if name not in installed:
            raise InputError(f"tracker {name!r} needs its package, which is not installed; pip install {name}, or drop it")


@dataclass
class TrainState:
    """A training under way."""

    config: LoopConfig
    out: Path
    identity: str
    batch_size: int
    label: str
    accelerator: Accelerator
    modules: dict[str, nn.Module]  # the networks themselves, which are saved
    prepared: dict[str, nn.Module]  # the same as accelerate wrapped them, which are called
    parameters: list[Tensor]
    optimizer: torch.optim.Optimizer
    peaks: list[float]  # peak rate of each parameter group
    average: list[Tensor] | None
    rows: list[dict]
    done: int  # finished steps
    empty: dict[str, nn.Module]  # twins of networks whose weights are shared out among processes
    pending: list[dict[str, Tensor]] = field(default_factory=list)  # losses since the last row of the history
    tick: float = 0.0  # when that row was written


def start_training(
    modules: dict[str, nn.Module],
    config: LoopConfig,
    out: Path,
    identity: str,
    batch_size: int,
    groups: list[dict] | None,
    trackers: Sequence[str],
    label: str,
) -> TrainState:
    """Optimiser, moving average and the state of the last checkpoint; networks on their device.

    The arguments are those of ``sarnb.train.loop.train_loop``. Raises ``InputError`` for a tracker that is not there, where
    nothing trains, for a batch that cannot be shared out, an optimiser that cannot work here, and another run's checkpoint.
    """
    check_trackers(trackers)
    forget_fingerprints()
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(f"{label} trains nothing: no parameter requires a gradient")
    accelerator = _accelerator(config, out, trackers)
    _check_shares(batch_size, accelerator.num_processes, config.accumulate, label)
    groups = groups or [{"params": parameters, "lr": config.learning_rate}]
    plugin, empty = sharding(), {}
    if plugin is not None:
        if config.optimizer != "adamw":
            raise InputError(f'optimizer is "{config.optimizer}", which cannot work on weights that FSDP shares out; choose "adamw"')
        before = _named(modules)
        empty = shard(modules, plugin, accelerator)
        after = {id(p): q for p, q in zip(before.values(), _named(modules).values(), strict=True)}
        parameters = [after[id(p)] for p in parameters]
        groups = [group | {"params": [after[id(p)] for p in group["params"]]} for group in groups]
    optimizer = make_optimizer(groups, config, fused=plugin is None)
    peaks = [group["lr"] for group in optimizer.param_groups]
    average = [p.detach().clone() for p in parameters] if config.ema_decay else None
    identity = f"{identity}|{config}"
    done, extra = load_checkpoint(out, identity, modules, optimizer, average)
    if plugin is None:
        *prepared, optimizer = accelerator.prepare(*modules.values(), optimizer)
    else:
        prepared, optimizer = modules.values(), accelerator.prepare_optimizer(optimizer)
    if average is not None:
        average = [value.to(p.device) for value, p in zip(average, parameters)]
    return TrainState(
        config,
        out,
        identity,
        batch_size,
        label,
        accelerator,
        modules,
        dict(zip(modules, prepared)),
        parameters,
        optimizer,
        peaks,
        average,
        extra.get("history", []),
        done,
        empty,
    )


def _accelerator(config: LoopConfig, out: Path, trackers: Sequence[str]) -> Accelerator:
    """accelerate's own, with its trackers running."""
    accelerator = Accelerator(
        mixed_precision="no",  # ``autocast`` chooses the format by the hardware
        gradient_accumulation_steps=config.accumulate,
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / FOLDER)),
    )
    if trackers:
        accelerator.init_trackers("sarnb")
    return accelerator


def _check_shares(batch_size: int, processes: int, accumulate: int, label: str) -> None:
    shares = processes * accumulate
    if shares > 1 and batch_size % shares:
        raise InputError(
            f"{label}: a batch of {batch_size} images cannot be shared out to {processes} process(es) with "
            f"{accumulate} micro-batch(es) each; give a multiple of {shares}"
        )


def _named(modules: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    """All parameters by network and name."""
    return {f"{key}.{name}": p for key, module in modules.items() for name, p in module.named_parameters()}


def make_optimizer(groups: list[dict], config: LoopConfig, fused: bool = True) -> torch.optim.Optimizer:
    """AdamW over parameter groups, as training makes it; ``fused`` is for weights that are not shared out among processes."""
    how = {"betas": config.betas, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        # One pass over all weights instead of one for each operation: AdamW is a tenth of a full fine-tuning's step otherwise.
        return torch.optim.AdamW(groups, fused=fused or None, **how)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise InputError('optimizer is "adamw8bit", which needs the package bitsandbytes; install it, or choose "adamw"') from error
    if not torch.cuda.is_available():
        raise InputError('optimizer is "adamw8bit", which needs a CUDA graphics card; choose "adamw"')
    return AdamW8bit(groups, **how)
