"""Figures of notebook 02: what is drawn is what was given."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from sarnb.plots import prompts as plots  # noqa: E402


@pytest.fixture(autouse=True)
def close() -> None:
    yield
    plt.close("all")


def test_token_histogram_is_of_shares_and_shows_the_limit() -> None:
    axis = plots.token_histogram({"short": np.array([8, 8, 9, 12]), "long": np.array([70])}, 64).axes[0]
    shares = [patch.get_data().values for patch in axis.patches]
    assert [values.sum() for values in shares] == [1, 1] and shares[0][8] == 0.5
    assert axis.get_xlim()[1] > 70 and axis.lines[0].get_xdata()[0] == 64.5


def test_heatmaps_share_one_scale() -> None:
    names = ["a", "b"]
    first = pd.DataFrame([[1, 0.9], [0.9, 1]], names, names)
    figure = plots.similarity_heatmaps({"one": first, "two": first - 0.5})
    maps = [axis.collections[0] for axis in figure.axes[:2]]
    assert [mesh.get_clim() for mesh in maps] == [(0.4, 1)] * 2
    np.testing.assert_allclose(maps[1].get_array().ravel(), (first - 0.5).to_numpy().ravel())


def test_prior_bars_draw_every_share() -> None:
    table = pd.DataFrame({"class": ["a", "b", "all"], "real": [1.0, 0.5, 0.75], "drawn": [0.25, 0.0, 0.125]})
    axis = plots.prior_bars(table, 0.5).axes[0]
    widths = [bar.get_width() for container in axis.containers for bar in container]
    assert widths == pytest.approx([1.0, 0.5, 0.75, 0.25, 0.0, 0.125])
    assert axis.lines[-1].get_xdata()[0] == 0.5


def test_confusion_leaves_unknown_rows_empty() -> None:
    table = pd.DataFrame([[0.5, 0.5], [np.nan, np.nan]], ["a", "b"], ["a", "b"])
    values = plots.confusion_heatmap(table).axes[0].collections[0].get_array()
    assert np.ma.getmaskarray(values).reshape(2, 2).tolist() == [[False, False], [True, True]]


def test_guidance_curves_hold_means_and_references() -> None:
    measures = {"cv": 0.5, "enl": 1.0, "saturated": 0.0}
    table = pd.DataFrame(
        [
            {"class": label, "scale": scale, "mean": level, **measures}
            for label in ("a", "b")
            for scale in (1.0, 4.0)
            for level in (0.1 * scale, 0.2 * scale)
        ]
    )
    real = pd.DataFrame([{"class": "a", "mean": 0.3, **measures}])
    axes = plots.guidance_curves(table, real).axes
    assert len(axes) == 4
    lines = axes[0].lines
    np.testing.assert_allclose(lines[0].get_ydata(), [0.15, 0.6])
    assert lines[1].get_ydata()[0] == 0.3 and len(lines) == 3, "class b has no real image, hence no dotted line"


def test_wordings_stand_beside_real_radar() -> None:
    table = pd.DataFrame({"wording": ["nothing", "long"], "read rightly": [0.5, 1.0], "lo": [0.2, 1.0], "hi": [0.8, 1.0], "cv": [0.3, 0.4]})
    left, right = plots.wording_dots(table, 0.6, 1 / 12).axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["nothing", "long"]
    assert right.lines[0].get_xdata().tolist() == [0.3, 0.4] and right.lines[1].get_xdata()[0] == 0.6


def test_each_phrase_has_its_map_and_its_share() -> None:
    picture, maps = np.zeros((8, 8, 3), np.uint8), {"city": np.full((4, 4), 0.25), "radar image": np.full((4, 4), 0.1)}
    axes = plots.attention_sheet([picture, picture], [maps, {"city": maps["city"]}], ["a city", "city"]).axes
    assert axes[1].get_title() == "city\n25.0%" and axes[2].images[0].get_array().max() == 0.1 and not axes[5].images
