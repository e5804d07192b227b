"""The change that one thing more makes: equal to direct computation, and narrow where images are paired."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics.evaluation import evaluate
from sarnb.metrics.significance import paired_changes


def speckle(count: int, seed: int, contrast: float = 1.0) -> ImageSet:
    """Rayleigh amplitude around level 75, its deviations times ``contrast``, 32 px, a seen and an unseen class in turn.

    Images differ in brightness too, so that the measures vary over redrawn images.
    """
    rng = np.random.default_rng(seed)
    gains = rng.uniform(0.5, 1.5, (count, 1, 1))
    levels = gains * (75 + contrast * (60 * rng.rayleigh(size=(count, 32, 32)) - 75))
    labels = tuple("city" if number % 2 else "harbour" for number in range(count))
    groups = ("unseen", "seen")
    rows = tuple({"label": label, "group": groups[n % 2], "look": "left", "seed": n} for n, label in enumerate(labels))
    images = levels.clip(0, 255).astype(np.uint8)
    return ImageSet(Path("."), tuple(map(str, range(count))), images, ("",) * count, labels, rows)


def spread_of(images: ImageSet, label: str) -> float:
    """Coefficient of variation over all pixels of a class."""
    levels = images.where(label=(label,)).images.astype(float)
    return levels.std() / levels.mean()


def kl_of(table: pd.DataFrame, split: str) -> pd.Series:
    """The row of the evaluation table for amplitude KL over a whole split."""
    return table[(table["split"] == split) & (table["class"] == "all") & (table["metric"] == "amplitude_kl")].iloc[0]


def test_the_change_is_the_difference_of_distances_from_the_real_images():
    test, without, flat = speckle(24, 0), speckle(16, 1), speckle(16, 1, 0.5)
    table = paired_changes(test, {0: without}, {0: flat}, resamples=50)
    assert set(table["split"]) == {"seen", "unseen"} and (table["n"] == 8).all() and (table["seeds"] == 1).all()
    rows = table.set_index(["split", "metric"])
    for split, label in (("seen", "city"), ("unseen", "harbour")):
        real, old, new = (spread_of(images, label) for images in (test, without, flat))
        row = rows.loc[split, "amplitude_cv"]
        assert row["change"] == pytest.approx(abs(new - real) - abs(old - real), abs=1e-3) and row["lo"] > 0
        both = [kl_of(evaluate("x", 0, test, images, None, 0), split)["value"] for images in (without, flat)]
        assert rows.loc[split, "amplitude_kl"][["without", "with"]].tolist() == pytest.approx(both)
    turned = paired_changes(test, {0: flat}, {0: without}, resamples=50)
    assert turned["change"].tolist() == pytest.approx((-table["change"]).tolist())
    assert turned.set_index(["split", "metric"]).loc[("unseen", "amplitude_cv"), "hi"] < 0


def test_what_both_share_cancels():
    test, without = speckle(24, 0), speckle(16, 1)
    nothing = paired_changes(test, {0: without}, {0: without}, resamples=50)
    assert (nothing[["change", "lo", "hi"]] == 0).all(axis=None)
    near = replace(without, images=np.minimum(without.images.astype(int) + 4, 255).astype(np.uint8))
    row = paired_changes(test, {0: without}, {0: near}, ("amplitude_kl",), 200).set_index("split").loc["seen"]
    alone = kl_of(evaluate("x", 0, test, without, None, 200), "seen")
    assert row["lo"] < row["hi"] and row["hi"] - row["lo"] < 0.5 * (alone["hi"] - alone["lo"])


def test_common_trainings_are_averaged_and_the_others_tell_the_spread():
    test = speckle(24, 0)
    old, new = {k: speckle(16, k + 1) for k in range(3)}, {k: speckle(16, k + 9, 0.7) for k in (1, 2)}
    each = [paired_changes(test, {k: old[k]}, {k: new[k]}, resamples=20) for k in (1, 2)]
    table = paired_changes(test, old, new, resamples=20)
    assert table["change"].tolist() == pytest.approx(np.mean([part["change"] for part in each], axis=0).tolist())
    assert (table["seeds"] == 2).all() and (table["n"] == 16).all() and each[0]["spread"].isna().all()
    alone = np.array([paired_changes(test, {k: old[k]}, {k: old[k]}, resamples=0)["without"] for k in range(3)])
    assert table["spread"].tolist() == pytest.approx(np.ptp(alone, axis=0).tolist())


def test_what_cannot_be_compared_is_refused():
    test, images = speckle(8, 0), speckle(8, 1)
    other = replace(images, rows=tuple({**row, "seed": 5} for row in images.rows))
    for without, with_it, metrics, words in (
        ({0: images}, {1: images}, ("amplitude_kl",), "none in common"),
        ({0: images}, {0: other}, ("amplitude_kl",), "other noise"),
        ({0: images}, {0: images}, ("clip_accuracy",), "no distance"),
    ):
        with pytest.raises(InputError, match=words):
            paired_changes(test, without, with_it, metrics, 5)
