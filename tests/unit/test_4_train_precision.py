"""The number format follows the hardware: bf16 where something multiplies it, float32 elsewhere."""

from __future__ import annotations

import pytest
import torch

from sarnb.train.machine import resolve_precision


@pytest.mark.parametrize(
    "cuda, native, cpu, expected",
    [
        (True, True, {}, "bf16"),
        (True, False, {"amx_bf16": True}, "fp32"),  # the card decides, not the CPU beside it
        (False, False, {"amx_bf16": True, "avx512_bf16": False}, "bf16"),
        (False, False, {"amx_bf16": False, "avx512_bf16": True}, "bf16"),
        (False, False, {"avx2": True}, "fp32"),
    ],
)
def test_auto_takes_what_the_hardware_is_good_at(cuda, native, cpu, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert resolve_precision("auto") == expected
    assert [resolve_precision(name) for name in ("fp32", "bf16")] == ["fp32", "bf16"]  # who asks for one gets it


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="fp8.*auto, fp32, bf16"):
        resolve_precision("fp8")
