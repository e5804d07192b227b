"""The script that measures SDXL on a graphics card works from end to end, in miniature; its FLOPs are those of the formula."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from sarnb.model.strategy import STRATEGIES

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "sdxl_gpu.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("sdxl_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_table_has_every_row_and_keeps_those_of_earlier_days(script, tmp_path, monkeypatch):
    few = {name: STRATEGIES[name] for name in ("zero-shot", "unet-full", "te-lora", "hybrid")}
    for name, value in {"STEPS": 2, "WARM": 1, "STRATEGIES": few}.items():
        monkeypatch.setattr(script, name, value)
    table = script.main([str(tmp_path), "--tiny", "--peak-tflops", "1"])
    kinds = table["what"].tolist()
    every = [name for name in few if name != "zero-shot"]
    assert kinds[0] == "unet-lora" and kinds[-7 - len(every) : -7] == every and kinds[-7].startswith("sampling, 2 steps")
    coded = table.tail(6)
    assert coded["what"].tolist() == [name for name in ("vae-decoder", "vae-lora-r16", "vae-full") for _ in range(2)]
    assert (coded[["step_s", "images_per_s", "peak_gib"]] > 0).all(axis=None)
    assert coded["side_px"].tolist() == [32, 64] * 3 and coded["checkpointing"].tolist() == [False, True] * 3
    assert coded["images_per_s"].tolist() == pytest.approx((coded["batch"] / coded["step_s"]).tolist())
    trained = table.iloc[:-7]
    assert (trained[["step_s", "images_per_s", "tflop_per_step", "mfu", "peak_gib", "state_gib"]] > 0).all(axis=None)
    assert (trained["predicted_gib"] > trained["state_gib"]).all()
    expected = trained["tflop_per_step"] / trained["step_s"]  # TFLOP/s over a peak of one
    assert trained["mfu"].tolist() == pytest.approx(expected.tolist())
    assert set(table["model"]) == {"miniature"} and table["date"].str.match(r"\d{4}-\d\d-\d\d").all()
    path = tmp_path / "sdxl_gpu.csv"
    path.write_text(path.read_text().replace(table["date"][0], "2020-01-01"))
    monkeypatch.setattr(script, "rows", lambda *_: [{"what": "unet-lora", "batch": 1}])
    script.main([str(tmp_path), "--tiny"])
    assert len(pd.read_csv(path)) == len(table) + 1 and "2020-01-01" in (tmp_path / "sdxl_gpu.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the hardware")
def test_sdxl_itself_asks_for_a_card(script, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main([str(tmp_path)])
    assert "there is none; give --tiny" in capsys.readouterr().err


def test_lora_costs_less_than_two_thirds_of_full_training(script):
    """Backward costs as much as forward through the activations and as much again through the weights. LoRA skips the
    latter, and the former below its first layer.
    """
    full, lora = (script.count_step(script.TINY, name).flops for name in ("unet-full", "unet-lora-r1"))
    assert 1 / 2 < lora / full < 2 / 3


def test_what_autograd_keeps_is_counted_once_and_of_blocks_the_largest(script):
    first, second = torch.nn.Linear(8, 16, bias=False), torch.nn.Linear(16, 4, bias=False)
    given = torch.zeros(3, 8)
    held = script.Held([first.weight, second.weight])
    with held.hooks(held.known) as outside:
        second(torch.relu(first(given)))  # keeps what each layer is given; the result of relu, which is one of them, too
    assert sum(outside) == 2 * (3 * 8 + 3 * 16)
    held = script.Held([first.weight, second.weight])
    with held.hooks(held.known) as outside:
        middle = held.block(lambda x: torch.relu(first(x)), given)
        held.block(second, middle)
    assert sum(outside) == 0 and held.outside == 2 * (3 * 8 + 3 * 16) and held.largest == 2 * 3 * 16  # the inside of the first


@pytest.mark.slow
def test_checkpointing_holds_less_at_the_real_size(script):
    plain, thrifty = (script.count_step(script.SDXL, "unet-lora", how).activations / 2**30 for how in (False, True))
    assert thrifty < plain / 3
