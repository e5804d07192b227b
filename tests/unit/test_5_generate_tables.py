"""Wordings of a prompt, and the table of what runs cost."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from tiny import tiny_set

from sarnb.generate.cost import cost_table
from sarnb.generate.run import StrategyRun
from sarnb.generate.wordings import wordings
from sarnb.model.strategy import find_strategy


def test_wordings_differ_in_the_kind_of_image_only():
    expected = ["a <SAR> image of a city", "a radar image of a city", "an image of a city", "an aerial photograph of a city"]
    for prompt in expected[:2]:
        assert list(wordings(prompt).values()) == expected
    assert wordings("ships in a port") == {
        "<SAR> image": "<SAR> image, ships in a port",
        "radar image": "radar image, ships in a port",
        "image": "image, ships in a port",
        "aerial photograph": "aerial photograph, ships in a port",
    }


def test_cost_table_has_a_row_a_run_and_gaps_where_nothing_trained():
    trained = {"trainable_parameters": 10, "seconds": 2.0, "images_per_second": 5.0, "peak_memory_mb": 7.0, "precision": "fp32",
               "checkpoint_bytes": 4_000_000, "caches": ["latents", "text"], "sampling_images_per_second": 3.0}
    bare = {"trainable_parameters": 0, "seconds": 0.0, "checkpoint_bytes": 0, "caches": [], "sampling_images_per_second": 3.0}
    runs = [StrategyRun(find_strategy(name), 1, Path("."), tiny_set(2), pd.DataFrame(), cost)
            for name, cost in (("unet-full", trained), ("zero-shot", bare))]
    table = cost_table(runs)
    assert list(table["strategy"]) == ["unet-full", "zero-shot"] and list(table["caches"]) == ["latents + text", "none"]
    assert table.loc[0, "weights MB"] == 4.0 and pd.isna(table.loc[1, "training images/s"])
