"""Paired comparisons of errors: numbers by hand, and an interval that is narrow because scenes are paired."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sarnb.errors import InputError
from sarnb.metrics.prompting import caption_choice, error_change


def errors(own, other, timesteps=(100, 900)):
    """Radar images only: ``own`` and ``other`` [N] under the wordings radar and optical, the same at each timestep."""
    return pd.DataFrame(
        [
            ("radar", wording, scene, timestep, value)
            for wording, values in (("radar", own), ("optical", other))
            for scene, value in enumerate(values)
            for timestep in timesteps
        ],
        columns=["images", "wording", "scene", "timestep", "error"],
    )


def test_change_is_that_of_the_sums_and_its_interval_that_of_the_pairs():
    rng = np.random.default_rng(0)
    old = rng.uniform(0.1, 10.0, 40)  # scenes differ a hundredfold, the change does not
    table = error_change(errors(old, old), {"same": errors(old, old), "less": errors(0.8 * old, old)}, "radar", "radar", 200, 0)
    assert table["timestep"].tolist() == [100, 900] * 2
    rows = table[table["model"] == "less"]
    assert rows["value"].tolist() == pytest.approx([-0.2] * 2)
    assert (rows["hi"] - rows["lo"]).max() < 1e-9 and table[table["model"] == "same"]["value"].abs().max() == 0
    noisy = old * rng.choice([0.5, 1.1], 40)
    wide = error_change(errors(old, old), {"mixed": errors(noisy, old)}, "radar", "radar", 500, 0).iloc[0]
    assert wide["value"] == pytest.approx(noisy.sum() / old.sum() - 1) and wide["lo"] < wide["value"] < wide["hi"]
    with pytest.raises(InputError, match="other scenes or timesteps"):
        error_change(errors(old, old), {"few": errors(old[:3], old[:3])}, "radar", "radar")
    with pytest.raises(InputError, match="no optical images"):
        error_change(errors(old, old), {"x": errors(old, old)}, "optical", "radar")


def test_the_lower_error_is_the_choice():
    table = caption_choice({"m": errors([1.0, 1.0, 1.0, 2.0], [2.0, 1.0, 0.5, 3.0])}, 100, 0).iloc[0]
    assert table["right"] == pytest.approx((1 + 0.5 + 0 + 1) / 4) and table["scenes"] == 4
    assert table["gap"] == pytest.approx(np.mean([1.0, 0.0, -0.5, 0.5]))
    assert 0 <= table["lo"] <= table["right"] <= table["hi"] <= 1
