"""Trackers of a training's numbers, such as TensorBoard, by accelerate."""

from __future__ import annotations

from collections.abc import Sequence

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from sarnb.errors import InputError

FOLDER = "trackers"  # beside the checkpoint of a training


def check_trackers(names: Sequence[str]) -> None:
    """Raises ``InputError`` for a tracker that accelerate does not know, or whose package is not installed.

    accelerate itself leaves out what is not installed without a word.
    """
    known = sorted(str(name) for name in LOGGER_TYPE_TO_CLASS)
    installed = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            raise InputError(f"unknown tracker {name!r}; choose one of {', '.join(known)}")
        if name not in installed:
            raise InputError(f"tracker {name!r} needs its package, which is not installed; pip install {name}, or drop it")
