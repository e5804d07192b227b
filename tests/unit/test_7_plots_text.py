"""Figures of the notebooks on text: they show every number they were given, and no more."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sarnb.plots.text import count_bars, error_change_lines, shift_dots, speckle_dots, token_path_lines, token_plane


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_shifts_stand_at_their_class():
    shift = pd.DataFrame(
        {
            "class": ["city", "forest"] * 2,
            "prompt": ["radar"] * 2 + ["optical"] * 2,
            "pooled cosine": 0.9,
            "token change": [0.4, 0.3, 0.2, 0.1],
        }
    )
    gap = pd.DataFrame({"class": ["city", "forest"] * 2, "model": ["before"] * 2 + ["te-lora"] * 2, "cosine": [0.8, 0.7, 0.3, 0.2]})
    left, right = shift_dots({"te-lora": shift}, gap).axes
    assert [list(line.get_xdata()) for line in left.lines] == [[0.4, 0.3], [0.2, 0.1]]
    assert [list(line.get_xdata()) for line in right.lines] == [[0.8, 0.7], [0.3, 0.2]]
    assert [text.get_text() for text in left.get_yticklabels()] == ["city", "forest"]


def test_changes_are_shown_in_per_cent_and_choices_as_shares():
    change = pd.DataFrame(
        {
            "model": ["a", "a", "b", "b"],
            "timestep": [900, 100] * 2,
            "value": [-0.1, -0.02, 0.0, 0.05],
            "lo": [-0.2, -0.03, -0.01, 0.0],
            "hi": [0.0, -0.01, 0.01, 0.1],
        }
    )
    choice = pd.DataFrame(
        {
            "model": ["x", "a"] * 2,
            "images": ["radar"] * 2 + ["optical"] * 2,
            "right": [0.5, 0.9, 1.0, 1.0],
            "lo": [0.4, 0.8, 0.9, 0.9],
            "hi": [0.6, 1.0, 1.0, 1.0],
        }
    )
    left, right = error_change_lines(change, choice).axes
    line = next(line for line in left.lines if line.get_label() == "_nolegend_" or len(line.get_xdata()) == 2)
    assert list(line.get_xdata()) == [100, 900] and list(line.get_ydata()) == pytest.approx([-2, -10])
    assert [text.get_text() for text in right.get_yticklabels()] == ["x", "a"]


def test_statistics_of_speckle():
    table = pd.DataFrame(
        [
            (name, title, 4, value, value - 0.1, value + 0.1)
            for title in ("mean level", "coefficient of variation", "looks in 8 px windows")
            for name, value in (("real", 1.0), ("other", 5.0))
        ],
        columns=["set", "statistic", "images", "value", "lo", "hi"],
    )
    axes = speckle_dots(table, "real").axes
    assert len(axes) == 3 and axes[2].get_xscale() == "log"
    assert all(any(np.allclose(line.get_xdata(), 1.0) for line in axis.lines) for axis in axes)


def test_ways_and_planes():
    path = pd.DataFrame({"encoder": ["l", "l", "g", "g"], "step": [0, 5] * 2, "distance": [0, 1.0, 0, 2.0], "cosine": [1, 0.5, 1, 0.2]})
    left, right = token_path_lines(path).axes
    assert [list(line.get_ydata()) for line in left.lines] == [[0, 1.0], [0, 2.0]]
    assert [list(line.get_ydata()) for line in right.lines] == [[1, 0.5], [1, 0.2]]
    plane = pd.DataFrame(
        {"encoder": ["l"] * 4, "start": ["a", "a", "b", "b"], "step": [0, 5] * 2, "x": [0, 1, 2, 3.0], "y": [0, 0, 1, 1.0], "shown": 0.75}
    )
    (axis,) = token_plane(plane).axes
    assert "75%" in axis.get_title() and [list(line.get_xdata()) for line in axis.lines[::3]] == [[0, 1], [2, 3]]


def test_counts_of_strategies_side_by_side():
    one = pd.DataFrame({"component": ["unet", "text_encoder"], "trains": [0, 20]})
    two = pd.DataFrame({"component": ["unet", "of which <SAR>"], "trains": [100, 7]})
    (axis,) = count_bars({"te-lora": one, "both": two}).axes
    assert [bar.get_width() for bar in axis.patches] == [0, 20, 0, 100, 0, 7]
    assert [text.get_text() for text in axis.texts] == ["none", "20", "none", "100", "none", "7"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["unet", "text_encoder", "of which <SAR>"]
