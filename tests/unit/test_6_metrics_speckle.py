"""Statistics of speckle: against the Rayleigh law and its multi-look mean."""

from __future__ import annotations

import numpy as np
import pytest

from sarnb.metrics.prompting import speckle_table


def speckle(looks: int, count: int = 24, seed: int = 0) -> np.ndarray:
    """Flat scenes of L-look amplitude, normalised as the data are (mu + 3 sigma is the highest level)."""
    rng = np.random.default_rng(seed)
    amplitude = np.sqrt(rng.gamma(looks, 1.0 / looks, (count, 64, 64)))
    return np.clip(amplitude / (amplitude.mean() + 3 * amplitude.std()) * 255, 0, 255).round().astype(np.uint8)


def test_looks_and_variation_are_those_of_the_law():
    table = speckle_table({"one": speckle(1), "sixteen": speckle(16)}, 300, 0).set_index(["set", "statistic"])
    cv = table.loc[("one", "coefficient of variation")]
    assert cv["value"] == pytest.approx(np.sqrt(4 / np.pi - 1), rel=0.02) and cv["images"] == 24
    # Median over windows of 64 px: near the number of looks for many looks, a little above for one, whose estimate is skewed.
    assert 0.9 < table.loc[("one", "looks in 8 px windows"), "value"] < 1.35
    assert table.loc[("sixteen", "looks in 8 px windows"), "value"] == pytest.approx(16, rel=0.12)
    assert (table["lo"] <= table["value"]).all() and (table["value"] <= table["hi"]).all()
