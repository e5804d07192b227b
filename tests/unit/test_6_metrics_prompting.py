"""What prompts do, measured: known responses, tables by hand, and recommendations that follow the figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import uniform_filter

from sarnb.errors import InputError
from sarnb.metrics.prompting import (
    attention_shares,
    neighbour_correlation,
    recommendations,
    response,
    steering_table,
    wording_table,
)


def noise(seed, count=6, size=64):
    return np.random.default_rng(seed).integers(0, 200, (count, size, size), dtype=np.uint8)


def test_neighbour_correlation_is_that_of_theory():
    white = noise(0, 4, 128)
    assert np.abs(neighbour_correlation(white)).max() < 0.03
    smooth = np.stack([uniform_filter(image.astype(float), 4) for image in white])
    np.testing.assert_allclose(neighbour_correlation(smooth), 0.75, atol=0.03)  # a box of n cells: 1 - 1/n
    assert neighbour_correlation(np.full((1, 8, 8), 7)).tolist() == [0.0]


def test_responses_have_the_sign_they_promise():
    images = noise(1)
    assert response("incidence", images // 2).mean() < response("incidence", images).mean()
    with pytest.raises(InputError, match="season"):
        response("season", images)


def test_steering_is_found_in_its_direction_only():
    dark, bright, other = noise(1) // 2, noise(1), noise(2)
    smooth = np.stack([uniform_filter(image, 5) for image in bright])
    pictures = {"incidence": (bright, dark), "resolution": (smooth, bright), "side": (bright, bright)}
    table = steering_table(pictures, other, None, 200, 0).set_index("quantity")
    assert table["verdict"].to_dict() == {
        "incidence": "steers",
        "resolution": "steers the wrong way",
        "side": "no effect seen",
    }
    assert table.loc["incidence", "response"] == pytest.approx((dark.mean() - bright.mean()) / 255)
    assert table.loc["side", "change of the picture"] == 0
    assert table.loc["incidence", "change by other noise"] == pytest.approx(np.sqrt(((bright.astype(float) - other) ** 2).mean()))


def wordings():
    pictures = {"short": noise(0), "long": noise(0) // 4 + 90}
    return wording_table(
        pictures, ["city"] * 3 + ["river"] * 3, {"short": ["city"] * 6, "long": ["river"] * 3 + ["city"] * 3}, 0.57, 100, 0
    )


def test_wordings_by_hand():
    table = wordings().set_index("wording")
    assert table["read rightly"].to_dict() == {"short": 0.5, "long": 0.0}
    assert table.loc["short", "cv"] == pytest.approx(noise(0).std() / noise(0).mean(), rel=0.01)
    assert table.loc["long", "cv gap"] == pytest.approx(0.57 - table.loc["long", "cv"]) and table.loc["long", "lo"] == 0
    blind = wording_table({"short": noise(0)}, ["city"] * 6, {}, 0.5, 10, 0)
    assert blind["read rightly"].isna().all()


def test_recommendations_follow_the_figures():
    steering = steering_table({"side": (noise(1), noise(1))}, noise(2), None, 20, 0)
    guidance = pd.DataFrame({"scale": [1.0, 1.0, 4.0], "cv": [0.2, 0.3, 0.6]})
    table = recommendations(wordings(), {"short": "a city", "long": "a long city"}, steering, guidance, 0.57).set_index("purpose")
    assert table.loc["the class is recognised", ["recommendation", "example"]].tolist() == ["short", "a city"]
    assert table.loc["amplitudes near real radar", "recommendation"] == "short"
    assert (
        table.loc["guidance scale by amplitude", "recommendation"] == "s = 4"
        and "0.320 at s = 1" in table.loc["guidance scale by amplitude", "evidence"]
    )
    assert "does not follow" in table.loc["a chosen side", "recommendation"]
    blind = wordings().assign(**{"read rightly": np.nan})
    assert "the class is recognised" not in recommendations(blind, {"short": "", "long": ""}, steering, guidance, 0.57)["purpose"].tolist()


def test_shares_are_ordered_and_empty_groups_left_out():
    table = attention_shares({"padding": [0.2, 0.4], "start": [0.6], "side": []})
    assert table["words"].tolist() == ["start", "padding"] and table.loc[1, ["share", "lowest", "highest", "n"]].tolist() == [
        pytest.approx(0.3),
        0.2,
        0.4,
        2,
    ]
