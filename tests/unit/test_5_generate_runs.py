"""Samples of all strategies are found, ordered, checked for comparability, and their cost is read back."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_set

from sarnb.data.files import write_json
from sarnb.errors import InputError
from sarnb.generate.sample import write_samples
from sarnb.generate.strategies import (
    RESERVED,
    SamplingConfig,
    cost_table,
    evaluation_rows,
    find_runs,
    strategy_order,
    timing_table,
    usable_runs,
)
from sarnb.metrics.evaluation import ANCHORS
from sarnb.model.strategy import find_strategy, seeds_of
from sarnb.train.cache import content_key

TEST = tiny_set(12)
SAMPLING = SamplingConfig(per_class=2, steps=3, guidance_scale=4.0)
TRAINED = {"foundation": "f0f0", "data": "d0d0"}
COST = {
    "trainable_parameters": 1000,
    "images_seen": 64,
    "seconds": 8.0,
    "images_per_second": 8.0,
    "peak_memory_mb": 900.0,
    "checkpoint_bytes": 4_000_000,
    "caches": ["latents", "text"],
}
WANTED = {"per_class": 2, "steps": 3, "guidance_scale": 4.0}


def draw(
    results: Path, name: str, seed: int = 0, sampling: SamplingConfig = SAMPLING, cost: dict | None = None, steps: int = 9, **stamps: str
) -> Path:
    """What ``train_and_sample`` leaves of a strategy, without training or drawing."""
    strategy = find_strategy(name)
    rows = evaluation_rows(TEST, strategy, sampling)
    folder = results / "samples" / name / f"seed{seed}"
    write_samples(folder, np.full((len(rows), 16, 16), 7, np.uint8), rows)
    stamps = TRAINED | stamps
    key = stamps["foundation"]
    if strategy.trains:
        record = results / "models" / name / f"seed{seed}" / "record.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        about = {"strategy": asdict(strategy), "cost": cost or {"trainable_parameters": 10}, "config": {"steps": steps, "seed": seed}}
        write_json(record, about | {name: stamps[name] for name in TRAINED})
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


@pytest.mark.parametrize("name, value", [("foundation", "f1f1"), ("data", "d1d1"), ("steps", 8)])
def test_models_of_another_foundation_data_set_or_length_are_left_out(tmp_path, name, value):
    draw(tmp_path, "unet-full")
    draw(tmp_path, "hybrid", **{name: value})
    draw(tmp_path, "zero-shot", **({name: value} if name == "foundation" else {}))
    found = {run.strategy: run.problem for run in find_runs(tmp_path, TEST, WANTED, TRAINED | {"steps": 9})}
    assert found["unet-full"] == "" and found["hybrid"].startswith(f"trained with {name} {value}, not")
    assert bool(found["zero-shot"]) == (name == "foundation")


def test_a_seed_left_from_another_profile_is_left_out(tmp_path):
    for name, seed in (("zero-shot", 0), ("unet-full", 0), ("unet-full", 1), ("hybrid", 0), ("hybrid", 1), ("hybrid", 7)):
        draw(tmp_path, name, seed)
    runs = find_runs(tmp_path, TEST, WANTED, seeds=partial(seeds_of, seeds=[0, 1], repeated=["hybrid"]))
    assert [(run.strategy, run.seed) for run in runs if run.problem] == [("unet-full", 1), ("hybrid", 7)]
    assert "training seed 7, this profile trains 0, 1" in runs[-1].problem


def test_a_strategy_is_not_called_as_other_images_are_in_tables(tmp_path):
    draw(tmp_path, "zero-shot").parent.rename(tmp_path / "samples" / "reference")
    assert {"reference", *ANCHORS} == set(RESERVED)
    assert "give the folder another name" in problems(tmp_path)[0]


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
    draw(tmp_path, "unet-lora", cost=COST)
    runs = find_runs(tmp_path, TEST, WANTED)
    table, timing = (of(runs).set_index("strategy") for of in (cost_table, timing_table))
    assert table.loc["unet-lora", ["trainable parameters", "images seen", "checkpoint [MB]"]].tolist() == [1000, 64, 4.0]
    assert table.loc["unet-lora", "caches"] == "latents, text" and table.loc["zero-shot", "trainable parameters"] == 0
    assert timing.loc["unet-lora"].drop("seed").tolist() == [8.0, 8.0, 900.0, 2.5]
    assert pd.isna(timing.loc["zero-shot", "peak memory [MB]"]) and timing.loc["zero-shot", "training [s]"] == 0


def test_a_slower_machine_changes_the_timing_only(tmp_path):
    draw(tmp_path / "fast", "unet-lora", cost=COST)
    draw(tmp_path / "slow", "unet-lora", cost=COST | {"seconds": 16.0, "images_per_second": 4.0, "peak_memory_mb": 901.0})
    fast, slow = (find_runs(tmp_path / name, TEST, WANTED) for name in ("fast", "slow"))
    pd.testing.assert_frame_equal(cost_table(fast), cost_table(slow))
    assert not timing_table(fast).equals(timing_table(slow))
