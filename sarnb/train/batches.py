"""Which images a step sees, with which noise, and how processes and micro-batches share them out.

All of it is a function of (seed, step), so that resuming, re-ordering and side-by-side runs see exactly the same training
signal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


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
