"""The exponential moving average of the weights; where there is none, ``average`` is None.

Parameters and their averages are lists of tensors in the same order, shared out among processes in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sarnb.train.shards import local


def ema_decay_at(step: int, decay: float) -> float:
    """Decay after ``step`` finished steps: it rises with the step, so that a short run does not average its start."""
    return min(decay, (1 + step) / (10 + step))


def update_average(average: Sequence[Tensor], parameters: Sequence[Tensor], decay: float) -> None:
    """average ← decay · average + (1 - decay) · parameters, in place."""
    torch._foreach_lerp_(_local(average), _local(parameters), 1 - decay)


def adopt_average(parameters: Sequence[Tensor], average: Sequence[Tensor] | None) -> None:
    """Let the parameters hold their moving average from now on."""
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
