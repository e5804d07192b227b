"""Peak resident memory of this process: since the last reset, and over its whole life."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_libc = ctypes.CDLL(None)
_before_resets = [0.0]  # [MB]; the kernel forgets the earlier peak at a reset, also for getrusage


def resident_peak_mb() -> float:
    """Peak since the last reset [MB, 10^6 bytes]."""
    try:
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def reset_resident_peak() -> None:
    """Start a new peak where the system can (Linux); elsewhere the peak stays that of the whole process.

    What earlier work freed goes back to the system first, so that it does not count for what comes next.
    """
    _before_resets[0] = process_peak_mb()
    gc.collect()
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
    try:
        _CLEAR.write_text("5")  # 5 resets the peak resident set size, see man 5 proc
    except OSError:
        pass


def process_peak_mb() -> float:
    """Peak of the whole life of the process [MB, 10^6 bytes], whatever was reset meanwhile."""
    return max(_before_resets[0], resident_peak_mb())
