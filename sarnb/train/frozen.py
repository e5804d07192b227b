"""Less memory for what does not train: half the bytes under autocast, and off the graphics card where no step needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from sarnb.train.precision import resolve_precision


class Frozen:
    """The parts of a training that stay as they are, made small while its steps run.

    The frozen weights of linear layers in ``used`` are held in bf16 where ``precision`` resolves to it. Autocast rounds
    them so at every call, so nothing that is computed under it changes; all else (normalisations, convolutions,
    embeddings) stays. Networks in ``idle``, which no step calls, wait in the CPU's memory. Afterwards all is what it was, to the bit.
    """

    def __init__(self, used: nn.Module, idle: Iterable[nn.Module], precision: str) -> None:
        own = [p for layer in used.modules() if isinstance(layer, nn.Linear) for p in layer.parameters(recurse=False)]
        frozen = [p for p in own if not p.requires_grad and p.dtype == torch.float32]
        self.weights = frozen if resolve_precision(precision) == "bf16" else []
        self.places = [(module, module.device) for module in idle]
        self.kept: list[Tensor] = []

    def shrink(self) -> None:
        """Make them small."""
        self.kept = [weight.data.cpu() for weight in self.weights]  # of a network on the CPU the weight itself, no copy
        for weight in self.weights:
            weight.data = weight.data.bfloat16()
        for module, _ in self.places:
            module.to("cpu")

    def restore(self) -> None:
        """Make them what they were."""
        for weight, whole in zip(self.weights, self.kept):
            weight.data = whole.to(weight.device)
        self.kept = []
        for module, device in self.places:
            module.to(device)

    @contextlib.contextmanager
    def small(self) -> Iterator[None]:
        """Small inside the block."""
        self.shrink()
        try:
            yield
        finally:
            self.restore()

    def whole(self, call: Callable[[int], None]) -> Callable[[int], None]:
        """``call`` with everything as it was, for use inside ``small``: drawing needs all networks, in any precision."""

        def called(step: int) -> None:
            self.restore()
            try:
                call(step)
            finally:
                self.shrink()

        return called
