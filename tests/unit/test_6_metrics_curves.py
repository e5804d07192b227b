"""What the figures draw agrees with the measures of the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics import texture
from sarnb.metrics.image_statistics import measure
from sarnb.metrics.report import amplitude_curves, class_means, cumulant_points, law_table, shared_labels, texture_curves


def image_set(counts: dict[str, int], scale: float = 60.0, seed: int = 0) -> ImageSet:
    """Single-look speckle images, of twice the amplitude for each further class."""
    rng, images, labels = np.random.default_rng(seed), [], []
    for index, (label, count) in enumerate(counts.items()):
        amplitude = scale * 2.0**index * np.sqrt(rng.exponential(size=(count, 64, 64)))
        images.append(np.clip(np.rint(amplitude), 0, 255).astype(np.uint8))
        labels += [label] * count
    rows = tuple({"label": label, "group": "seen"} for label in labels)
    texts = tuple(f"a radar image of {label}" for label in labels)
    return ImageSet(Path("x"), tuple(map(str, range(len(labels)))), np.concatenate(images), texts, tuple(labels), rows)


REAL = measure(image_set({"a": 6, "b": 2}, 20.0))
DRAWN = measure(image_set({"b": 2, "c": 2}, 20.0, seed=1))


def test_only_shared_classes_are_used_and_each_counts_the_same():
    assert shared_labels([REAL, DRAWN]) == ("b",)
    with pytest.raises(InputError, match="no class in common"):
        shared_labels([REAL, measure(image_set({"z": 2}))])
    values = np.array([1.0, 1, 1, 1, 1, 1, 5, 7])
    assert class_means(values, REAL.labels, ("b", "a")).tolist() == [6.0, 1.0]


def test_amplitude_shares_sum_to_one_and_match_the_pixels():
    curves = amplitude_curves({"real": [REAL], "own": [DRAWN, DRAWN]})
    assert curves.groupby("strategy")["share"].sum().tolist() == pytest.approx([1.0, 1.0])
    own = curves[curves["strategy"] == "own"]
    b = image_set({"b": 2, "c": 2}, 20.0, seed=1).images[:2]
    assert own["share"].to_numpy() == pytest.approx(np.bincount(b.ravel(), minlength=256) / b.size)
    assert own["amplitude"].iloc[[0, -1]].tolist() == [0.0, 1.0]


def test_texture_curves_are_the_mean_descriptors():
    curves = texture_curves({"real": [REAL], "same": [REAL, REAL]})
    assert len(curves) == 2 * len(texture.descriptor_names())
    row = curves.query("strategy == 'same' and property == 'entropy' and direction == 'azimuth' and distance == 4")
    column = texture.descriptor_names().index("entropy azimuth 4")
    by_class = [REAL.descriptors[:6, column].mean(), REAL.descriptors[6:, column].mean()]
    assert row["value"].tolist() == pytest.approx([np.mean(by_class)])


def test_log_cumulants_of_flat_speckle_are_those_of_theory():
    points = cumulant_points({"real": [measure(image_set({"a": 16}))]}).set_index("class")
    assert points.loc["a", "kappa2"] == pytest.approx(np.pi**2 / 24, rel=0.05)
    assert points.loc["a", "kappa3"] == pytest.approx(-0.3005, rel=0.15)
    mixed = cumulant_points({"real": [REAL]}).set_index("class")
    assert mixed.loc["all", "kappa2"] > mixed.loc[["a", "b"], "kappa2"].max(), "two levels of brightness spread ln A"


def test_training_seeds_are_averaged():
    dark, bright = (replace(DRAWN, histograms=np.eye(256, dtype=int)[[level] * 4]) for level in (10, 30))
    curves = amplitude_curves({"own": [dark, bright]}).set_index("amplitude")["share"]
    assert curves[curves > 0].to_dict() == pytest.approx({10 / 255: 0.5, 30 / 255: 0.5})


def test_each_law_is_nearest_to_its_own_histogram():
    levels = (np.arange(257) - 0.5).clip(0) / 255.0
    laws = {"lognormal": stats.lognorm(0.5, scale=0.2), "gamma": stats.gamma(6.0, scale=0.04), "weibull": stats.weibull_min(3.2, scale=0.3)}
    curves = pd.concat(
        [
            pd.DataFrame({"strategy": name, "share": np.diff(law.cdf(levels)), "amplitude": np.arange(256) / 255})
            for name, law in laws.items()
        ]
    )
    table = law_table(curves)
    best = table[table["best"]].set_index("strategy")
    assert best["law"].to_dict() == {name: name for name in laws} and (best["KS distance"] < 0.01).all()
    black = pd.DataFrame({"strategy": "black", "amplitude": np.arange(256) / 255, "share": np.eye(256)[0]})
    assert law_table(black).empty
