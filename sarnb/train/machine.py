"""How a training uses its machine: number format, processes, memory, attention on CPUs, compact frozen parts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

import torch
from accelerate import PartialState
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor, nn
from transformers import PreTrainedModel

from sarnb.settings import reset_resident_peak, resident_peak_mb

# Which number format the hardware is good at.

PRECISIONS = ("auto", "fp32", "bf16")


def resolve_precision(precision: str = "auto") -> str:
    """``"bf16"`` or ``"fp32"``; ``"auto"`` takes bf16 only where hardware multiplies it, for emulation is slower.

    Raises
    ------
    ValueError
        An unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "fp32"


def autocast(precision: str = "auto") -> contextlib.AbstractContextManager:
    """Autocast context of the resolved precision on the device at hand; a null context for fp32."""
    if resolve_precision(precision) == "fp32":
        return contextlib.nullcontext()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, dtype=torch.bfloat16)


def compile_on_card(network: nn.Module) -> None:
    """Have PyTorch compile a network at its first step, where there is a CUDA card; in place, so names of weights stay."""
    if torch.cuda.is_available():
        network.compile()


# The processes that share a training.


def processes() -> PartialState:
    """accelerate's state of them: device, number, which one is the main one.

    On the CPU accelerate has to be set so when the state is first read; ``PartialState()`` alone would take each of
    several processes for the only one.
    """
    # Others wait while one of them writes a checkpoint of many gigabytes, or draws what all need: longer than NCCL's ten minutes.
    return PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true", timeout=timedelta(hours=6))


# Peak memory of a stretch of training, of the graphics card where there is one.

_earlier = 0.0  # peak before the last stretch that does not count [MB]


def reset_peak_memory(earlier: float = 0.0) -> None:
    """Start a new peak, not below ``earlier`` [MB], where the system can (Linux, CUDA); elsewhere it is that of the whole process."""
    global _earlier
    _earlier = earlier
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    reset_resident_peak()


def peak_memory_mb() -> float:
    """Peak since the last reset in MB (10^6 bytes): of the GPU's allocator where there is one, else resident memory."""
    return max(_earlier, torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else resident_peak_mb())


@contextlib.contextmanager
def uncounted_memory() -> Iterator[None]:
    """What is allocated and freed inside does not raise the peak, such as the drawing of samples during a training."""
    earlier = peak_memory_mb()
    try:
        yield
    finally:
        reset_peak_memory(earlier)


# Attention written as matrix products while networks train on a CPU, where sequences are short.

SHORT = 256  # tokens, beyond which the fused kernel is the faster one


@contextlib.contextmanager
def plain_attention(*networks: nn.Module, tokens: int) -> Iterator[None]:
    """Inside the block the attention of diffusers' and transformers' modules in ``networks`` is plain, with a softmax in fp32.

    ``tokens``: the longest sequence that they will see. Nothing changes beyond ``SHORT`` of them, or on another device than
    the CPU. Afterwards every module is what it was.
    """
    with contextlib.ExitStack() as undo:
        if tokens <= SHORT and processes().device.type == "cpu":
            for network in networks:
                for part in list(network.modules()):
                    if isinstance(part, Attention):
                        undo.callback(_restore, part, part.processor, part.upcast_softmax)
                        part.upcast_softmax = True
                        part.set_processor(AttnProcessor())
                    elif isinstance(part, PreTrainedModel):
                        undo.callback(part.set_attn_implementation, part.config._attn_implementation)
                        part.set_attn_implementation("eager")
        yield


def _restore(attention: Attention, processor: object, upcast: bool) -> None:
    attention.set_processor(processor)
    attention.upcast_softmax = upcast


# Less memory for what does not train: half the bytes under autocast, and off the graphics card where no step needs it.


class Frozen:
    """The parts of a training that stay as they are, held in a compact form while its steps run.

    The frozen weights of linear layers in ``used`` are held in bf16 where ``precision`` resolves to it. Autocast rounds
    them so at every call, so nothing that is computed under it changes; all else (normalisations, convolutions,
    embeddings) stays. Networks in ``idle``, which no step calls, wait in the CPU's memory. Afterwards all is what it was,
    to the bit.
    """

    def __init__(self, used: nn.Module, idle: Iterable[nn.Module], precision: str) -> None:
        own = [p for layer in used.modules() if isinstance(layer, nn.Linear) for p in layer.parameters(recurse=False)]
        frozen = [p for p in own if not p.requires_grad and p.dtype == torch.float32]
        self.weights = frozen if resolve_precision(precision) == "bf16" else []
        self.places = [(module, module.device) for module in idle]
        self.full: list[Tensor] = []

    @contextlib.contextmanager
    def compact(self) -> Iterator[None]:
        """Compact inside the block."""
        self._compact()
        try:
            yield
        finally:
            self._restore()

    def at_full_precision(self, call: Callable[[int], None]) -> Callable[[int], None]:
        """``call`` with everything as it was, for use inside ``compact``: drawing needs all networks, in any precision."""

        def called(step: int) -> None:
            self._restore()
            try:
                call(step)
            finally:
                self._compact()

        return called

    def _compact(self) -> None:
        self.full = [weight.data.cpu() for weight in self.weights]  # of a network on the CPU the weight itself, no copy
        for weight in self.weights:
            weight.data = weight.data.bfloat16()
        for module, _ in self.places:
            module.to("cpu")

    def _restore(self) -> None:
        for weight, full in zip(self.weights, self.full):
            weight.data = full.to(weight.device)
        self.full = []
        for module, device in self.places:
            module.to(device)
