"""Samples of all strategies are found, ordered, checked for comparability, and their cost is read back."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_set

from sarnb.data.files import write_json
from sarnb.errors import InputError
from sarnb.generate.run import SamplingConfig, evaluation_rows
from sarnb.generate.runs import cost_table, find_runs, strategy_order, usable_runs
from sarnb.generate.sample import write_samples
from sarnb.model.strategy import find_strategy
from sarnb.train.cache import content_key

TEST = tiny_set(12)
SAMPLING = SamplingConfig(per_class=2, steps=3, guidance_scale=4.0)
WANTED = {"per_class": 2, "steps": 3, "guidance_scale": 4.0}


def draw(results: Path, name: str, seed: int = 0, sampling: SamplingConfig = SAMPLING, cost: dict | None = None) -> Path:
    """What ``train_and_sample`` leaves of a strategy, without training or drawing."""
    strategy = find_strategy(name)
    rows = evaluation_rows(TEST, strategy, sampling)
    folder = results / "samples" / name / f"seed{seed}"
    write_samples(folder, np.full((len(rows), 16, 16), 7, np.uint8), rows)
    key = "embedded"
    if strategy.trains:
        record = results / "models" / name / f"seed{seed}" / "record.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"strategy": asdict(strategy), "cost": cost or {"trainable_parameters": 10}}))
        key = content_key(record.read_bytes())
    cost = {"sampling_images_per_second": 2.5}
    write_json(folder / "sampling.json", {"sampling": asdict(sampling), "rows": "", "model": key, "cost": cost})
    return folder


def problems(results: Path, test=TEST, wanted=WANTED) -> list[str]:
    return [run.problem for run in find_runs(results, test, wanted)]


def test_runs_come_in_the_order_of_the_strategies_and_of_their_ranks(tmp_path):
    names = ["hybrid", "unet-lora-r64", "unet-full", "zero-shot", "unet-lora-r4", "unet-lora", "scratch"]
    for name in names:
        draw(tmp_path, name)
    draw(tmp_path, "hybrid", seed=11)
    draw(tmp_path, "hybrid", seed=2)
    runs = usable_runs(find_runs(tmp_path, TEST, WANTED))
    expected = ["zero-shot", "scratch", "unet-lora-r4", "unet-lora", "unet-lora-r64", "unet-full", "hybrid", "hybrid", "hybrid"]
    assert [run.strategy for run in runs] == expected and [run.seed for run in runs[-3:]] == [0, 2, 11]
    assert sorted(["own", "token", "zero-shot"], key=strategy_order) == ["zero-shot", "token", "own"]
    assert runs[0].images.labels == ("forest", "forest", "city", "city")


def test_half_written_and_foreign_folders_are_no_runs(tmp_path):
    draw(tmp_path, "zero-shot")
    (tmp_path / "samples" / "hybrid" / ".seed0.partial-1").mkdir(parents=True)
    (tmp_path / "samples" / "hybrid" / "seed0").mkdir()
    draw(tmp_path, "scratch").rename(tmp_path / "samples" / "scratch" / "seed0-old")
    assert [run.strategy for run in find_runs(tmp_path, TEST)] == ["zero-shot"]


@pytest.mark.parametrize("name, change", [("per_class", 1), ("steps", 4), ("guidance_scale", 1.5)])
def test_other_sampler_settings_are_left_out(tmp_path, name, change):
    draw(tmp_path, "zero-shot", sampling=replace(SAMPLING, **{name: change}))
    assert problems(tmp_path)[0].startswith(f"drawn with {name} {change}, not {WANTED[name]}")
    with pytest.raises(InputError, match=f"nothing to evaluate.*{name}"):
        usable_runs(find_runs(tmp_path, TEST, WANTED))


def test_other_classes_sizes_and_models_are_left_out(tmp_path):
    draw(tmp_path, "hybrid")
    assert problems(tmp_path) == [""]
    assert "other classes" in problems(tmp_path, TEST.where(label="city"))[0]
    sideless = replace(TEST, rows=tuple({**row, "look": None} for row in TEST.rows))
    assert "sides" in problems(tmp_path, sideless)[0]
    assert "16 px" in problems(tmp_path, replace(TEST, images=np.zeros((12, 32, 32), np.uint8)))[0]
    record = tmp_path / "models" / "hybrid" / "seed0" / "record.json"
    record.write_text(record.read_text() + " ")
    assert "earlier model" in problems(tmp_path)[0]
    record.unlink()
    assert problems(tmp_path) == [""], "samples stay good where the model was deleted"


def test_damaged_files_are_named_and_do_not_stop_the_others(tmp_path):
    (draw(tmp_path, "scratch") / "sampling.json").write_text("{")
    (draw(tmp_path, "hybrid") / "000000.png").write_bytes(b"no image")
    draw(tmp_path, "zero-shot")
    runs = find_runs(tmp_path, TEST, WANTED)
    assert [bool(run.problem) for run in runs] == [False, True, True]
    assert all("cannot be read" in run.problem for run in runs[1:]) and len(usable_runs(runs)) == 1


def test_without_samples_the_notebooks_to_run_are_named(tmp_path):
    with pytest.raises(InputError, match="02 and 05 to 09"):
        usable_runs(find_runs(tmp_path, TEST, WANTED))


def test_costs_are_those_of_the_records(tmp_path):
    draw(tmp_path, "zero-shot")
    cost = {"trainable_parameters": 1000, "images_seen": 64, "seconds": 8.0, "images_per_second": 8.0, "peak_memory_mb": 900.0,
            "checkpoint_bytes": 4_000_000, "caches": ["latents", "text"]}
    draw(tmp_path, "unet-lora", cost=cost)
    table = cost_table(find_runs(tmp_path, TEST, WANTED)).set_index("strategy")
    assert table.loc["unet-lora", ["trainable parameters", "checkpoint [MB]", "drawing [images/s]"]].tolist() == [1000, 4.0, 2.5]
    assert table.loc["unet-lora", "caches"] == "latents, text" and table.loc["zero-shot", "trainable parameters"] == 0
    assert pd.isna(table.loc["zero-shot", "peak memory [MB]"])
