"""Which number format the hardware is good at."""

from __future__ import annotations

import contextlib

import torch

PRECISIONS = ("auto", "fp32", "bf16")


def resolve_precision(precision: str = "auto") -> str:
    """``"bf16"`` or ``"fp32"``; ``"auto"`` takes bf16 only where hardware multiplies it, for emulation is slower."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "fp32"


def autocast(precision: str = "auto") -> contextlib.AbstractContextManager:
    """Autocast context of the resolved precision on the device at hand; a null context for fp32."""
    if resolve_precision(precision) == "fp32":
        return contextlib.nullcontext()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, dtype=torch.bfloat16)
