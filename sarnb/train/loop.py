"""The one training loop: accelerate, warm-up, gradient clipping, moving average, checkpoints, history.

Nothing in it draws a random number. A loss picks its images, its noise and its timesteps from (seed, step), so that
resuming, re-ordering and side-by-side runs see exactly the same training signal.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from sarnb.errors import InputError
from sarnb.train.checkpoint import load_checkpoint, save_checkpoint
from sarnb.train.precision import autocast

Loss = Callable[[dict[str, nn.Module], int], Tensor | dict[str, Tensor]]


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train."""

    steps: int  # optimiser steps
    learning_rate: float = 1e-4  # peak rate, where a parameter group names none
    warmup_steps: int = 0  # linear rise from 0
    schedule: str = "constant"  # after the warm-up: "constant" or "cosine" down to a tenth
    weight_decay: float = 0.01  # decoupled, AdamW
    betas: tuple[float, float] = (0.9, 0.99)  # AdamW
    ema_decay: float = 0.0  # moving average of the weights; 0 is none
    max_grad_norm: float = 1.0  # global norm at which gradients are clipped
    checkpoint_every: int = 200  # steps; also saved at the end
    validate_every: int = 0  # steps between held-out losses; 0 is only at start and end
    log_every: int = 10  # steps averaged into one row of the history
    precision: str = "auto"  # "auto", "fp32" or "bf16"
    seed: int = 0  # part of the run's identity

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; give at least 1")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}; give a positive number")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}; give a number from 0 up to, not including, 1")
        if self.schedule not in ("constant", "cosine"):
            raise InputError(f"schedule is {self.schedule!r}; choose constant or cosine")


def batch_ids(count: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Image indices [batch_size] of one step: every epoch a new permutation, a pure function of (seed, step)."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // count
    orders = {epoch: np.random.default_rng((seed, 11, int(epoch))).permutation(count) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][position % count] for epoch, position in zip(epochs, positions)])


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """A local CPU generator that depends on (seed, step, stream) only; streams keep noise and timesteps apart."""
    state = np.random.SeedSequence((seed, step, stream)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def rate_factor(step: int, config: LoopConfig) -> float:
    """Factor on the peak learning rate at ``step`` (0-based)."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def ema_decay_at(step: int, decay: float) -> float:
    """Decay after ``step`` finished steps: it rises with the step, so that a short run does not average its start."""
    return min(decay, (1 + step) / (10 + step))


def train_loop(
    modules: dict[str, nn.Module],
    loss: Loss,
    config: LoopConfig,
    out: Path,
    *,
    identity: str = "",
    batch_size: int = 1,
    groups: list[dict] | None = None,
    validate: Callable[[], float] | None = None,
    label: str = "",
) -> pd.DataFrame:
    """Train in place, resuming from ``out`` where it holds a checkpoint of the same ``identity``.

    Parameters
    ----------
    modules : networks by name; what has ``requires_grad`` trains.
    loss : (prepared modules, step) → scalar, or a dict of scalars whose entry ``"loss"`` is minimised.
    batch_size : images a step, for the rate in images/s only.
    groups : optimiser parameter groups ``{"params", "lr"}``; all trainable parameters at one rate if None.
    validate : held-out loss, called at the start, every ``validate_every`` steps and at the end.

    Returns
    -------
    history : columns step, loss, learning_rate, images_per_second, seconds, and further entries of the loss or
        ``held_out``. Also in ``out/history.csv``. The modules then hold the moving average, if there is one.

    Raises
    ------
    InputError : nothing trains, the loss is not finite (the last checkpoint stands), or the disk is full.
    """
    accelerator = Accelerator(mixed_precision="no")
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(f"{label or 'this run'} trains nothing: no parameter requires a gradient")
    groups = groups or [{"params": parameters, "lr": config.learning_rate}]
    optimizer = torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay)
    peaks = [group["lr"] for group in optimizer.param_groups]
    average = [p.detach().clone() for p in parameters] if config.ema_decay else None
    identity = f"{identity}|{config}"
    start, extra = load_checkpoint(out, identity, modules, optimizer, average)
    rows: list[dict] = extra.get("history", [])
    *prepared, optimizer = accelerator.prepare(*modules.values(), optimizer)
    prepared = dict(zip(modules, prepared))
    if start == 0 and validate is not None:
        rows.append({"step": 0, "held_out": validate()})
    terminal = sys.stderr.isatty()
    bar = tqdm(total=config.steps, initial=start, desc=label or "training", disable=not terminal, unit="step")
    pending: list[dict[str, float]] = []
    tick = time.perf_counter()
    for step in range(start, config.steps):
        for group, peak in zip(optimizer.param_groups, peaks):
            group["lr"] = peak * rate_factor(step, config)
        with autocast(config.precision):
            value = loss(prepared, step)
        parts = value if isinstance(value, dict) else {"loss": value}
        accelerator.backward(parts["loss"])
        pending.append({name: float(part.detach()) for name, part in parts.items()})
        if not math.isfinite(pending[-1]["loss"]):
            raise InputError(
                f"{label or 'training'}: the loss is {pending[-1]['loss']} at step {step}; "
                f"lower the learning rate and run again, the last good checkpoint stands in {out}"
            )
        accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            weight = 1 - ema_decay_at(step, config.ema_decay)
            torch._foreach_lerp_(average, [p.detach() for p in parameters], weight)
        done = step + 1
        bar.update()
        last, saves = done == config.steps, done % config.checkpoint_every == 0 or done == config.steps
        if done % config.log_every == 0 or saves:  # a row never spans a checkpoint, so a resumed history is the same
            now = time.perf_counter()
            row = {"step": done} | {name: float(np.mean([p[name] for p in pending])) for name in pending[0]}
            row |= {"learning_rate": optimizer.param_groups[0]["lr"], "seconds": now - tick}
            row["images_per_second"] = batch_size * len(pending) / (now - tick)
            rows.append(row)
            pending, tick = [], now
            bar.set_postfix(loss=f"{row['loss']:.4f}", images_per_second=f"{row['images_per_second']:.1f}")
        if validate is not None and (last or (config.validate_every and done % config.validate_every == 0)):
            rows.append({"step": done, "held_out": _with_average(parameters, average, validate)})
            tick = time.perf_counter()
        if saves and accelerator.is_main_process:
            save_checkpoint(out, done, identity, modules, optimizer, average, {"history": rows})
            _write_history(rows, out)
            tick = time.perf_counter()
            if not terminal:
                rate = next((r["images_per_second"] for r in reversed(rows) if "images_per_second" in r), 0.0)
                print(f"{label or 'training'}: step {done}/{config.steps}, {rate:.1f} images/s", flush=True)
    bar.close()
    if average is not None:
        with torch.no_grad():
            torch._foreach_copy_([p.data for p in parameters], average)
    return _write_history(rows, out)


def _with_average(parameters: list[Tensor], average: list[Tensor] | None, call: Callable[[], float]) -> float:
    """``call()`` while the parameters hold their moving average."""
    if average is None:
        return call()
    current = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_copy_([p.data for p in parameters], average)
    try:
        return call()
    finally:
        with torch.no_grad():
            torch._foreach_copy_([p.data for p in parameters], current)


def _write_history(rows: list[dict], out: Path) -> pd.DataFrame:
    """History table, written atomically; rows of one step are joined."""
    history = pd.DataFrame(rows).groupby("step", as_index=False).first()
    out.mkdir(parents=True, exist_ok=True)
    history.to_csv(out / "history.csv.tmp", index=False)
    os.replace(out / "history.csv.tmp", out / "history.csv")
    return history
