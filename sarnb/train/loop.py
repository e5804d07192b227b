"""The one training loop: accelerate, warm-up, gradient clipping, moving average, checkpoints, history.

Nothing in it draws a random number. A loss picks its images, its noise and its timesteps from (seed, step), so that
resuming, re-ordering and side-by-side runs see exactly the same training signal. Several processes, or several
micro-batches a step, share out one such batch (``Share``): the same step, whatever the hardware.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch import Tensor, nn
from tqdm import tqdm

from sarnb.errors import DivergedError, InputError
from sarnb.train.checkpoint import load_checkpoint, save_checkpoint
from sarnb.train.precision import autocast
from sarnb.train.shards import gathered, local, shard, sharding
from sarnb.train.tracking import FOLDER, check_trackers


@dataclass(frozen=True)
class Share:
    """The part of a step's batch that one call of a loss sees: number ``index`` of ``count`` equal ones."""

    index: int = 0
    count: int = 1

    def of(self, batch: Any) -> Any:
        """The own part of anything that has a length and can be sliced."""
        size = len(batch) // self.count
        return batch[self.index * size : (self.index + 1) * size]


WHOLE = Share()
OPTIMIZERS = ("adamw", "adamw8bit")
Loss = Callable[[dict[str, nn.Module], int, Share], Tensor | dict[str, Tensor]]


@dataclass(frozen=True)
class Watcher:
    """Something that looks at the networks on the way, such as a drawing of samples: before the first step, every ``every``
    steps, and at the end, with the moving average in place.

    ``call`` gets the number of finished steps, on every process. After a kill it is called again for the steps that are
    repeated, so it should leave alone what it has made already. Random numbers that it draws do not disturb the training.
    """

    every: int  # steps
    call: Callable[[int], None]

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"a watcher looks every {self.every} steps; give at least 1")


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


@dataclass
class _Run:
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
    trackers: Sequence[str] = (),
    watchers: Sequence[Watcher] = (),
    label: str = "training",
) -> pd.DataFrame:
    """Train in place, resuming from ``out`` where it holds a checkpoint of the same ``identity``.

    Parameters
    ----------
    modules : networks by name; what has ``requires_grad`` trains. Where FSDP shares out their weights, the dict holds whole
        networks again at the end, but others than at the start.
    loss : (prepared modules, step, share of the step's batch) → scalar, or a dict of scalars whose entry ``"loss"`` is
        minimised; means over the batch, so that the mean over equal shares is the loss of the whole.
    batch_size : images a step, over all shares.
    groups : optimiser parameter groups ``{"params", "lr"}``; all trainable parameters at one rate if None.
    validate : held-out loss, called at the start, every ``validate_every`` steps and at the end.
    trackers : accelerate's trackers, such as ``["tensorboard"]``, which write below ``out/trackers``.
    watchers : what looks at the networks on the way; see ``Watcher``.

    Returns
    -------
    history : columns step, loss, learning_rate, images_per_second, seconds, and further entries of the loss or
        ``held_out``. Also in ``out/history.csv``. The modules then hold the moving average, if there is one.

    Raises
    ------
    InputError : nothing trains, the batch cannot be shared out, a tracker is not installed, or the disk is full.
    DivergedError : the loss is not finite; the last checkpoint stands.
    """
    run = _start(modules, config, out, identity, batch_size, groups, trackers, label)
    if run.done == 0 and validate is not None:
        run.rows.append({"step": 0, "held_out": validate()})
    if run.done == 0:
        _watch(run, watchers)
    bar = tqdm(total=config.steps, initial=run.done, desc=label, unit="step", disable=not _watched(run))
    run.tick = time.perf_counter()
    while run.done < config.steps:
        _optimise(run, loss)
        bar.update()
        last = run.done == config.steps
        saves = last or run.done % config.checkpoint_every == 0
        if saves or run.done % config.log_every == 0:  # a row never spans a checkpoint, so a resumed history is the same
            bar.set_postfix_str(_log(run))
        if validate is not None and (last or (config.validate_every and run.done % config.validate_every == 0)):
            run.rows.append({"step": run.done, "held_out": _with_average(run, validate)})
            run.tick = time.perf_counter()
        _watch(run, watchers)  # before the checkpoint: what it holds, was looked at
        if saves:
            _save(run)
    bar.close()
    _adopt_average(run)
    for name, twin in run.empty.items():
        modules[name] = gathered(modules[name], twin)
    for tracker in run.accelerator.trackers:  # ``end_training`` would close the process group too, which others still need
        tracker.finish()
    return _history(run.rows)


def _start(
    modules: dict[str, nn.Module],
    config: LoopConfig,
    out: Path,
    identity: str,
    batch_size: int,
    groups: list[dict] | None,
    trackers: Sequence[str],
    label: str,
) -> _Run:
    """Optimiser, moving average and the state of the last checkpoint; networks on their device."""
    check_trackers(trackers)
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(f"{label} trains nothing: no parameter requires a gradient")
    places = ProjectConfiguration(project_dir=str(out), logging_dir=str(out / FOLDER))
    accelerator = Accelerator(
        mixed_precision="no",  # ``autocast`` chooses the format by the hardware
        gradient_accumulation_steps=config.accumulate,
        log_with=list(trackers) or None,
        project_config=places,
    )
    if trackers:
        accelerator.init_trackers("sarnb")
    shares = accelerator.num_processes * config.accumulate
    if shares > 1 and batch_size % shares:
        raise InputError(
            f"{label}: a batch of {batch_size} images cannot be shared out to {accelerator.num_processes} process(es) with "
            f"{config.accumulate} micro-batch(es) each; give a multiple of {shares}"
        )
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
    # One pass over all weights instead of one for each operation: AdamW is a tenth of a full fine-tuning's step otherwise.
    fused = {"fused": True} if config.optimizer == "adamw" and plugin is None else {}
    optimizer = _adamw(config)(groups, betas=config.betas, weight_decay=config.weight_decay, **fused)
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
    return _Run(
        config, out, identity, batch_size, label, accelerator, modules, dict(zip(modules, prepared)), parameters, optimizer,
        peaks, average, extra.get("history", []), done, empty,
    )


def _named(modules: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    """All parameters by network and name."""
    return {f"{key}.{name}": p for key, module in modules.items() for name, p in module.named_parameters()}


def _adamw(config: LoopConfig) -> type[torch.optim.Optimizer]:
    """The class of the configured optimiser."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise InputError('optimizer is "adamw8bit", which needs the package bitsandbytes; install it, or choose "adamw"') from error
    if not torch.cuda.is_available():
        raise InputError('optimizer is "adamw8bit", which needs a CUDA graphics card; choose "adamw"')
    return AdamW8bit


def _optimise(run: _Run, loss: Loss) -> None:
    """One optimiser step over all micro-batches of this process, then the moving average."""
    config, accelerator, step = run.config, run.accelerator, run.done
    for group, peak in zip(run.optimizer.param_groups, run.peaks):
        group["lr"] = peak * rate_factor(step, config)
    seen = []
    for part in range(config.accumulate):
        share = Share(accelerator.process_index * config.accumulate + part, accelerator.num_processes * config.accumulate)
        with accelerator.accumulate(*run.prepared.values()):
            with autocast(config.precision):
                value = loss(run.prepared, step, share)
            parts = value if isinstance(value, dict) else {"loss": value}
            accelerator.backward(parts["loss"])
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(run.parameters, config.max_grad_norm)
            run.optimizer.step()
            run.optimizer.zero_grad(set_to_none=True)
        seen.append({name: part.detach().float() for name, part in parts.items()})
    run.pending.append({name: sum(part[name] for part in seen) / len(seen) for name in seen[0]})
    if run.average is not None:
        weight = 1 - ema_decay_at(step, config.ema_decay)
        torch._foreach_lerp_(_local(run.average), _local(run.parameters), weight)
    run.done += 1


def _log(run: _Run) -> str:
    """Turn the pending losses into one row of the history; what a person reads of it. Stops where one is not finite.

    Only here the device is waited for, so the steps between two rows run at its speed.
    """
    names = list(run.pending[0])
    losses = torch.stack([torch.stack([part[name] for name in names]) for part in run.pending])
    losses = run.accelerator.reduce(losses, "mean").cpu().numpy()
    first = run.done - len(run.pending)
    bad = ~np.isfinite(losses[:, names.index("loss")])
    if bad.any():
        raise DivergedError(
            f"{run.label}: the loss is {losses[bad.argmax(), names.index('loss')]} at step {first + int(bad.argmax())}; "
            f"lower the learning rate and run again, the last good checkpoint stands in {run.out}"
        )
    now = time.perf_counter()
    seconds = now - run.tick
    row = {"step": run.done} | dict(zip(names, losses.mean(axis=0, dtype=float).tolist()))
    row |= {"learning_rate": run.optimizer.param_groups[0]["lr"], "seconds": seconds}
    row["images_per_second"] = run.batch_size * len(run.pending) / seconds
    run.accelerator.log({name: value for name, value in row.items() if name != "step"}, step=run.done)
    run.rows.append(row)
    left = (run.config.steps - run.done) * seconds / len(run.pending)
    run.pending, run.tick = [], now
    clock = time.strftime("%H:%M:%S", time.gmtime(left))
    return f"loss {row['loss']:.4f}, {row['images_per_second']:.1f} images/s, {clock} left"


def _save(run: _Run) -> None:
    """Checkpoint and history, by the main process; a line of progress where no bar is drawn."""
    writes = run.accelerator.is_main_process
    if writes or run.empty:
        state = run.modules, run.optimizer, run.average, {"history": run.rows}
        save_checkpoint(run.out, run.done, run.identity, *state, writes=writes)
    if writes:
        _write_history(run.rows, run.out)
        if not _watched(run):
            rate = next((row["images_per_second"] for row in reversed(run.rows) if "images_per_second" in row), 0.0)
            print(f"{run.label}: step {run.done}/{run.config.steps}, {rate:.1f} images/s", flush=True)
    run.accelerator.wait_for_everyone()
    run.tick = time.perf_counter()


def _watched(run: _Run) -> bool:
    """Whether a person sees a progress bar of this process."""
    return sys.stderr.isatty() and run.accelerator.is_main_process


def _watch(run: _Run, watchers: Sequence[Watcher]) -> None:
    """Let every watcher look whose turn it is; the time that it takes is no part of the training's."""
    due = [watcher for watcher in watchers if run.done % watcher.every == 0 or run.done == run.config.steps]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    for watcher in due:
        with torch.random.fork_rng(devices=devices):
            _with_average(run, lambda: watcher.call(run.done))
    if due:
        run.accelerator.wait_for_everyone()
        run.tick = time.perf_counter()


def _with_average(run: _Run, call: Callable[[], Any]) -> Any:
    """``call()`` while the parameters hold their moving average."""
    if run.average is None:
        return call()
    current = [p.detach().clone() for p in run.parameters]
    _adopt_average(run)
    try:
        return call()
    finally:
        with torch.no_grad():
            torch._foreach_copy_(_local(run.parameters), _local(current))


def _adopt_average(run: _Run) -> None:
    if run.average is not None:
        with torch.no_grad():
            torch._foreach_copy_(_local(run.parameters), _local(run.average))


def _local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """This process' parts, without history of gradients."""
    return [local(tensor.detach()) for tensor in tensors]


def _history(rows: list[dict]) -> pd.DataFrame:
    """The rows as a table; those of one step are joined."""
    return pd.DataFrame(rows).groupby("step", as_index=False).first()


def _write_history(rows: list[dict], out: Path) -> None:
    """Write the history atomically."""
    out.mkdir(parents=True, exist_ok=True)
    _history(rows).to_csv(out / "history.csv.tmp", index=False)
    os.replace(out / "history.csv.tmp", out / "history.csv")
