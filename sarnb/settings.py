"""Where things are, and what the machine offers."""

from __future__ import annotations

import math
import os
from pathlib import Path


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


def graphics_cards() -> int:
    """NVIDIA cards that the driver shows, without the seconds that importing torch takes."""
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def default_jobs() -> int:
    """Notebooks to run side by side: one where they would share a graphics card, else one per core, at most four.

    Two trainings with one thread each finish sooner than one after the other with two: small models scale badly.
    """
    return 1 if graphics_cards() else min(cores(), 4)
