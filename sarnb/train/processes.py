"""The processes that share a training."""

from __future__ import annotations

import os

from accelerate import PartialState


def processes() -> PartialState:
    """accelerate's state of them: device, number, which one is the main one.

    On the CPU accelerate has to be told so when the state is first asked for; ``PartialState()`` alone would take each of
    several processes for the only one.
    """
    return PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true")
