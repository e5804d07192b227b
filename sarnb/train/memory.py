"""Peak memory of a stretch of training, of the graphics card where there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from sarnb.memory import reset_resident_peak, resident_peak_mb


_earlier = 0.0  # peak before the last stretch that does not count [MB]


def reset_peak_memory() -> None:
    """Start a new peak, where the system can (Linux, CUDA); elsewhere the peak is that of the whole process."""
    global _earlier
    _earlier = 0.0
    _reset()


def peak_memory_mb() -> float:
    """Peak since the last reset in MB (10^6 bytes): of the GPU's allocator where there is one, else resident memory."""
    return max(_earlier, _peak())


@contextlib.contextmanager
def uncounted_memory() -> Iterator[None]:
    """What is allocated and freed inside does not raise the peak, such as the drawing of samples during a training."""
    global _earlier
    _earlier = peak_memory_mb()
    try:
        yield
    finally:
        _reset()


def _reset() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    reset_resident_peak()


def _peak() -> float:
    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else resident_peak_mb()
