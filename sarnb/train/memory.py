"""Peak memory of a stretch of training, of the graphics card where there is one."""

from __future__ import annotations

import torch

from sarnb.memory import reset_resident_peak, resident_peak_mb


def reset_peak_memory() -> None:
    """Start a new peak, where the system can (Linux, CUDA); elsewhere the peak is that of the whole process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    reset_resident_peak()


def peak_memory_mb() -> float:
    """Peak since the last reset in MB (10^6 bytes): of the GPU's allocator where there is one, else resident memory."""
    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else resident_peak_mb()
