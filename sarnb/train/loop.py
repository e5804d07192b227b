"""The one training loop: accelerate, warm-up, gradient clipping, moving average, checkpoints, history.

Nothing in it draws a random number. A loss picks its images, its noise and its timesteps from (seed, step), so that
resuming, re-ordering and side-by-side runs see exactly the same training signal. Several processes, or several
micro-batches a step, share out one such batch (``MicroBatch``): the same step, whatever the hardware.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from sarnb.data.files import write_text
from sarnb.errors import DivergedError, InputError
from sarnb.settings import duration
from sarnb.train.machine import autocast
from sarnb.train.state import LoopConfig, TrainState, gathered, local, rate_factor, save_checkpoint

HISTORY = "history.csv"


@dataclass(frozen=True)
class MicroBatch:
    """The part of a step's batch that one call of a loss sees: number ``index`` of ``count`` equal ones."""

    index: int = 0
    count: int = 1

    def of(self, batch: Any) -> Any:
        """The own part of anything that has a length and can be sliced."""
        size = len(batch) // self.count
        return batch[self.index * size : (self.index + 1) * size]


Loss = Callable[[dict[str, nn.Module], int, MicroBatch], Tensor | dict[str, Tensor]]


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
    loss : (prepared modules, step, micro-batch of the step) → scalar, or a dict of scalars whose entry ``"loss"`` is
        minimised; means over the batch, so that the mean over equal shares is the loss of the whole.
    batch_size : images a step, over all shares.
    groups : optimiser parameter groups ``{"params", "lr"}``; all trainable parameters at one rate if None. Where one has
        ``longest``, a number a parameter, none becomes longer than that.
    validate : held-out loss, called at the start, every ``validate_every`` steps and at the end.
    trackers : accelerate's trackers, such as ``["tensorboard"]``, which write below ``out/trackers``.
    watchers : what looks at the networks on the way; see ``Watcher``.

    Returns
    -------
    history : columns step, loss, learning_rate, images_per_second, seconds, and further entries of the loss or
        ``held_out``. Also in ``out/history.csv``. The modules then hold the moving average, if there is one.

    Raises
    ------
    InputError
        Nothing trains, the batch cannot be shared out, a tracker is not installed, or the disk is full.
    DivergedError
        The loss, or a weight that a checkpoint would hold, is not finite; the last checkpoint stands.
    """
    state = TrainState(modules, config, out, identity, batch_size, groups, trackers, label)

    def held_out() -> None:
        began = time.perf_counter()
        value = with_average(state.parameters, state.average, validate)
        state.rows.append({"step": state.done, "held_out": value})
        state.accelerator.log({"held_out": value}, step=state.done)
        state.tick += time.perf_counter() - began  # it is no part of the training's time

    if state.done == 0 and validate is not None:
        held_out()
    if state.done == 0:
        watch(state, watchers)
    bar = tqdm(total=config.steps, initial=state.done, desc=label, unit="step", disable=not _watched(state))
    state.tick = time.perf_counter()
    while state.done < config.steps:
        _optimise(state, loss)
        bar.update()
        last = state.done == config.steps
        saves = last or state.done % config.checkpoint_every == 0
        if saves or state.done % config.log_every == 0:  # a row never spans a checkpoint, so a resumed history is the same
            bar.set_postfix_str(_log(state))
        if saves:
            _check_weights(state)
        if validate is not None and (last or (config.validate_every and state.done % config.validate_every == 0)):
            held_out()
        watch(state, watchers)  # before the checkpoint: what it holds, was looked at
        if saves:
            _save(state)
    bar.close()
    adopt_average(state.parameters, state.average)
    for name, twin in state.empty.items():
        modules[name] = gathered(modules[name], twin)
    for tracker in state.accelerator.trackers:  # ``end_training`` would close the process group too, which others still need
        tracker.finish()
    return _history(state.rows)


def _optimise(state: TrainState, loss: Loss) -> None:
    """One optimiser step over all micro-batches of this process, then the moving average."""
    config, accelerator, step = state.config, state.accelerator, state.done
    for group, peak in zip(state.optimizer.param_groups, state.peaks):
        group["lr"] = peak * rate_factor(step, config)
    seen = []
    for part in range(config.accumulate):
        micro = MicroBatch(accelerator.process_index * config.accumulate + part, accelerator.num_processes * config.accumulate)
        with accelerator.accumulate(*state.prepared.values()):
            with autocast(config.precision):
                value = loss(state.prepared, step, micro)
            parts = value if isinstance(value, dict) else {"loss": value}
            accelerator.backward(parts["loss"])
            if accelerator.sync_gradients:
                _along_the_ball(state)
                _clip(state)
            state.optimizer.step()
            _into_the_ball(state)
            state.optimizer.zero_grad(set_to_none=True)
        seen.append({name: part.detach().float() for name, part in parts.items()})
    state.pending.append({name: sum(part[name] for part in seen) / len(seen) for name in seen[0]})
    if state.average is not None:
        update_average(state.average, state.parameters, ema_decay_at(step, config.ema_decay))
    state.done += 1


def _clip(state: TrainState) -> None:
    """Scale the gradients down to the largest norm, all together. On a CPU short ones are not touched: to multiply all of
    them by one takes as long as to measure them.
    """
    largest = state.config.max_grad_norm
    if state.empty or state.accelerator.device.type != "cpu":
        state.accelerator.clip_grad_norm_(state.parameters, largest)
        return
    norm = nn.utils.get_total_norm([p.grad for p in state.parameters if p.grad is not None])
    if not norm <= largest:  # or it is not a number, which has to spread
        nn.utils.clip_grads_with_norm_(state.parameters, largest, norm)


@torch.no_grad()
def _along_the_ball(state: TrainState) -> None:
    """Of the gradient of a parameter that is as long as its group's ``longest``, take away what would make it longer.

    Adam divides by the size of each number's gradient: where all of the gradient points outwards, as at the best place of the
    ball, it would go on to turn the parameter.
    """
    for parameter, most in _bounded(state):
        if parameter.grad is not None:
            outwards = ((parameter.grad * parameter).sum() / parameter.square().sum()).clamp(max=0)
            parameter.grad.sub_(torch.where(parameter.norm() > (1 - 1e-4) * most, outwards, 0) * parameter)


@torch.no_grad()
def _into_the_ball(state: TrainState) -> None:
    """Put parameters that are longer than ``longest`` to the nearest point of that ball; it holds their moving average, too."""
    for parameter, most in _bounded(state):
        parameter.mul_((most / parameter.norm()).clamp(max=1))


def _bounded(state: TrainState) -> list[tuple[Tensor, float]]:
    """Parameters that have a longest length, with it."""
    return [pair for group in state.optimizer.param_groups for pair in zip(group["params"], group.get("longest", ()))]


def _log(state: TrainState) -> str:
    """Turn the pending losses into one row of the history; what a person reads of it. Stops where one is not finite.

    Only here the device is waited for, so the steps between two rows run at its speed.
    """
    names = list(state.pending[0])
    losses = torch.stack([torch.stack([part[name] for name in names]) for part in state.pending])
    losses = state.accelerator.reduce(losses, "mean").cpu().numpy()
    first = state.done - len(state.pending)
    bad = ~np.isfinite(losses[:, names.index("loss")])
    if bad.any():
        raise DivergedError(
            f"{state.label}: the loss is {losses[bad.argmax(), names.index('loss')]} at step {first + int(bad.argmax())}; "
            f"lower the learning rate and run again, the last good checkpoint stands in {state.out}"
        )
    now = time.perf_counter()
    seconds = now - state.tick
    row = {"step": state.done} | dict(zip(names, losses.mean(axis=0, dtype=float).tolist()))
    row |= {"learning_rate": state.optimizer.param_groups[0]["lr"], "seconds": seconds}
    row["images_per_second"] = state.batch_size * len(state.pending) / seconds
    state.accelerator.log({name: value for name, value in row.items() if name != "step"}, step=state.done)
    state.rows.append(row)
    left = (state.config.steps - state.done) * seconds / len(state.pending)
    state.pending, state.tick = [], now
    return f"loss {row['loss']:.4f}, {row['images_per_second']:.1f} images/s, {duration(left)} left"


@torch.no_grad()
def _check_weights(state: TrainState) -> None:
    """Stop, on all processes, where a weight is not finite: a gradient can be so although its step's loss was not.

    A checkpoint of such weights would be taken for a good one, and every run that resumes from it would fail.
    """
    tensors = [*state.parameters, *(state.average or [])]
    finite = torch.stack([torch.isfinite(local(tensor.detach())).all() for tensor in tensors]).all()
    if state.accelerator.reduce((~finite).float(), "sum").item():
        raise DivergedError(
            f"{state.label}: the weights are not finite after step {state.done}, though its loss is; lower the learning rate and "
            f"run again, the last good checkpoint stands in {state.out}"
        )


def _save(state: TrainState) -> None:
    """Checkpoint and history, by the main process; a line of progress where no bar is drawn."""
    if state.accelerator.is_main_process or state.empty:
        save_checkpoint(state)
    if state.accelerator.is_main_process:
        try:
            write_text(state.out / HISTORY, _history(state.rows).to_csv(index=False))
        except OSError as error:
            raise InputError(
                f"{state.out / HISTORY}: the history could not be saved ({error}); free some disk space and run again, "
                "the last checkpoint still stands"
            ) from error
        if not _watched(state):
            rate = next((row["images_per_second"] for row in reversed(state.rows) if "images_per_second" in row), 0.0)
            print(f"{state.label}: step {state.done}/{state.config.steps}, {rate:.1f} images/s", flush=True)
    state.accelerator.wait_for_everyone()
    state.tick = time.perf_counter()


def _watched(state: TrainState) -> bool:
    """Whether a person sees a progress bar of this process."""
    return sys.stderr.isatty() and state.accelerator.is_main_process


def _history(rows: list[dict]) -> pd.DataFrame:
    """The rows as a table; those of one step are joined."""
    return pd.DataFrame(rows).groupby("step", as_index=False).first()


# The exponential moving average of the weights; where there is none, ``average`` is None.


def ema_decay_at(step: int, decay: float) -> float:
    """Decay after ``step`` finished steps: it rises with the step, so that a short run does not average its start."""
    return min(decay, (1 + step) / (10 + step))


def update_average(average: Sequence[Tensor], parameters: Sequence[Tensor], decay: float) -> None:
    """average ← decay · average + (1 - decay) · parameters, in place; of equal shapes one by one."""
    torch._foreach_lerp_(_local(average), _local(parameters), 1 - decay)


def adopt_average(parameters: Sequence[Tensor], average: Sequence[Tensor] | None) -> None:
    """Let the parameters hold their moving average, of the same shapes, from now on."""
    if average is not None:
        with torch.no_grad():
            torch._foreach_copy_(_local(parameters), _local(average))


def with_average(parameters: Sequence[Tensor], average: Sequence[Tensor] | None, call: Callable[[], Any]) -> Any:
    """``call()`` while the parameters hold their moving average."""
    if average is None:
        return call()
    current = [p.detach().clone() for p in parameters]
    adopt_average(parameters, average)
    try:
        return call()
    finally:
        with torch.no_grad():
            torch._foreach_copy_(_local(parameters), _local(current))


def _local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """This process' parts, without history of gradients."""
    return [local(tensor.detach()) for tensor in tensors]


# What looks at the networks while they train, and changes nothing in them.


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


def watch(state: TrainState, watchers: Sequence[Watcher]) -> None:
    """Let every watcher look whose turn it is; the time that it takes is no part of the training's."""
    began = time.perf_counter()
    due = [watcher for watcher in watchers if state.done % watcher.every == 0 or state.done == state.config.steps]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    for watcher in due:
        with torch.random.fork_rng(devices=devices):
            with_average(state.parameters, state.average, lambda watcher=watcher: watcher.call(state.done))
    if due:
        state.accelerator.wait_for_everyone()
        state.tick += time.perf_counter() - began


# Questions to a training history, the table that ``train_loop`` returns.


def last(history: pd.DataFrame, column: str = "held_out") -> float:
    """The last value of a column, NaN if there is none."""
    known = history[column].dropna() if column in history else pd.Series(dtype=float)
    return float(known.iloc[-1]) if len(known) else float("nan")


# Which images a step sees, with which noise, and how processes and micro-batches share them out.


WHOLE = MicroBatch()


def batch_ids(count: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Image indices [batch_size] of one step: every epoch a new permutation, a pure function of (seed, step)."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // count
    orders = {epoch: np.random.default_rng((seed, 11, int(epoch))).permutation(count) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][position % count] for epoch, position in zip(epochs, positions)])


def pair_sides(chosen: np.ndarray, partners: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A batch in which some images are followed by the same scene seen, or lit, from the other side.

    Under one noise and one timestep the two differ in the side alone, and so does what they teach.

    Parameters
    ----------
    chosen : int [B], images of the batch.
    partners : int [N], the image of the same scene from the other side, -1 where there is none.
    share : of the images with a partner that get it, in the place of the image behind them.

    Returns
    -------
    images, source : int [B] each; image i of the batch takes noise and timestep number ``source[i]``.
    """
    images, source = chosen.copy(), np.arange(len(chosen))
    place = 0
    while place < len(chosen) - 1:
        if partners[images[place]] >= 0 and rng.random() < share:
            images[place + 1], source[place + 1] = partners[images[place]], place
            place += 1
        place += 1
    return images, source


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """A local CPU generator that depends on (seed, step, stream) only; streams keep noise and timesteps apart."""
    state = np.random.SeedSequence((seed, step, stream)).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
