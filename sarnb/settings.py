"""Where things are, and what the machine offers."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import resource
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_libc = ctypes.CDLL(None)
_before_resets = [0.0]  # [MB]; the kernel forgets the earlier peak at a reset, also for getrusage


def repository() -> Path:
    """The folder that holds the package, the notebooks and the results."""
    return Path(__file__).resolve().parent.parent


def notebooks_folder() -> Path:
    """Folder of the notebook sources; the variable SARNB_NOTEBOOKS names another one."""
    return Path(os.environ.get("SARNB_NOTEBOOKS") or repository() / "notebooks").absolute()


def results_root() -> Path:
    """Folder of all results; the variable SARNB_RESULTS names another one."""
    return Path(os.environ.get("SARNB_RESULTS") or repository() / "results").absolute()


def cores() -> int:
    """Processor cores that this process may use, a container's quota included."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup, or the quota is "max"
        pass
    return allowed


def default_jobs() -> int:
    """Notebooks to run side by side: one where they would share a graphics card, else one per core, at most four.

    Two trainings with one thread each finish sooner than one after the other with two: small models scale badly.
    """
    cards = Path("/proc/driver/nvidia/gpus")  # what the driver shows, without the seconds that importing torch takes
    return 1 if cards.is_dir() and any(cards.iterdir()) else min(cores(), 4)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds; hours count on beyond a day.

    >>> duration(59.6), duration(100_000)
    ('00:01:00', '27:46:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


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
