"""The first measures are rows of the evaluation table, with anchors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sarnb.data.dataset import ImageSet
from sarnb.metrics.evaluation import REAL_VS_REAL, evaluate
from sarnb.metrics.headline import FIRST, first_measures, first_table, readings, splits_of


def speckle(count: int, seed: int) -> ImageSet:
    """Single-look Rayleigh amplitude, 32 px, two classes."""
    rng = np.random.default_rng(seed)
    images = np.minimum(255, 60 * rng.rayleigh(size=(count, 32, 32))).astype(np.uint8)
    labels = tuple("city" if number % 2 else "harbour" for number in range(count))
    rows = tuple({"label": label, "group": "seen" if label == "city" else "unseen"} for label in labels)
    return ImageSet(Path("."), tuple(map(str, range(count))), images, ("",) * count, labels, rows)


def test_rows_are_those_of_the_evaluation_and_anchors_are_there():
    test, good = speckle(12, 0), speckle(12, 1)
    smooth = replace(good, images=(128 + (good.images.astype(float) - 128) / 8).astype(np.uint8))
    table = first_measures(test, {("good", 0): good, ("smooth", 0): smooth}, resamples=20)
    assert set(table["metric"]) == set(FIRST) and set(table["class"]) == {"all"} and REAL_VS_REAL in set(table["strategy"])
    assert splits_of(table) == ["seen", "unseen"]
    whole = evaluate("good", 0, test, good, None, 20)
    row = whole[(whole["metric"] == "amplitude_kl") & (whole["split"] == "seen") & (whole["class"] == "all")]
    values = table[table["split"] == "seen"].set_index(["strategy", "metric"])["value"]
    assert values["good", "amplitude_kl"] == row["value"].item()
    # Rayleigh amplitude varies by sqrt(4/pi - 1), whoever draws it.
    assert values["good", "amplitude_cv"] == pytest.approx(np.sqrt(4 / np.pi - 1), rel=0.05)
    for metric in ("amplitude_kl", "texture_distance"):
        assert values["good", metric] < values["smooth", metric]
    wide = first_table(table)
    assert list(wide["split"]) == ["seen"] * 3 + ["unseen"] * 3 and list(wide["strategy"][:3]) == ["good", "smooth", REAL_VS_REAL]
    lines = readings(table, "unseen")
    assert len(lines) == 3 and lines[0].startswith("amplitude kl, unseen: good ") and f"; {REAL_VS_REAL} " in lines[0]
    assert readings(table, "composition") == []
