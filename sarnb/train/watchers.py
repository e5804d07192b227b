"""What looks at the networks while they train, and changes nothing in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sarnb.errors import InputError
from sarnb.train.ema import with_average
from sarnb.train.state import TrainState


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
    due = [watcher for watcher in watchers if state.done % watcher.every == 0 or state.done == state.config.steps]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    for watcher in due:
        with torch.random.fork_rng(devices=devices):
            with_average(state.parameters, state.average, lambda: watcher.call(state.done))
    if due:
        state.accelerator.wait_for_everyone()
        state.tick = time.perf_counter()
