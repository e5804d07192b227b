"""The comparing figures show the numbers they were given."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sarnb.plots.comparison import (
    failure_sheet,
    fitted_laws,
    pair_matrix,
    pareto_fronts,
    radar_chart,
    rank_intervals,
    sensor_heatmaps,
)

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def drawn(figure):
    figure.canvas.draw()
    return [axis for axis in figure.axes if axis.axison]


def test_ranks_are_drawn_best_on_top():
    table = pd.DataFrame({"strategy": ["good", "bad"], "average rank": [1.2, 1.8], "lo": [1.0, 1.5], "hi": [1.5, 2.0]})
    axis = drawn(rank_intervals({"pooled": table, "unseen": table.iloc[::-1]}))[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["good", "bad"] and axis.yaxis_inverted()
    assert [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"] == [1.2, 1.8]


def test_the_pair_matrix_is_antisymmetric():
    tests = pd.DataFrame(
        {
            "metric": "amplitude_kl",
            "first": ["a", "a"],
            "second": ["b", "c"],
            "p_holm": [0.0004, 0.3],
            "better": ["b", "not told apart"],
        }
    )
    axis = drawn(pair_matrix(tests, ["a", "b", "c"], 0.05))[0]
    assert sorted(text.get_text() for text in axis.texts if text.get_text()) == [".3", ".3", "<.001", "<.001"]
    values = axis.collections[0].get_array()
    filled = np.ma.filled(values.reshape(3, 3), 9)
    assert filled[0, 1] == -1 and filled[1, 0] == 1 and filled[0, 2] == filled[2, 0] == 0 and filled[1, 2] == 9


def test_the_web_closes():
    scores = pd.DataFrame(
        {
            "strategy": "a",
            "metric": ["amplitude_kl", "clip_recall", "clip_accuracy"],
            "score": [0.5, 2.0, -1.0],
            "lo": [0.4, 0.9, -1.2],
            "hi": [0.6, 2.1, -0.9],
        }
    )
    (axis,) = drawn(radar_chart(scores))
    assert axis.lines[0].get_ydata().tolist() == [0.5, 1.25, -0.25, 0.5]


def test_the_front_is_filled_and_the_rest_hollow():
    table = pd.DataFrame(
        {
            "metric": "clip_accuracy",
            "cost of": "training [s]",
            "strategy": ["free", "good", "poor"],
            "value": [0.2, 0.9, 0.1],
            "cost": [0.0, 4.0, 6.0],
            "dominated by": ["", "", "good"],
        }
    )
    (axis,) = drawn(pareto_fronts(table))
    marks = {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}
    assert (
        marks["free"].get_xdata()[0] == 2.0
        and marks["poor"].get_markerfacecolor() == "white"
        and marks["good"].get_markerfacecolor() != "white"
    )


def test_failures_carry_their_class_and_cosine():
    table = pd.DataFrame(
        {
            "strategy": ["a", "a", "b"],
            "rank": [1, 2, 1],
            "index": [1, 0, 0],
            "class": ["city", "river", "city"],
            "cosine": [-0.2, 0.1, 0.3],
            "called": ["river", "city", "city"],
        }
    )
    images = {name: np.full((2, 8, 8), [[[9]], [[200]]], np.uint8) for name in "ab"}
    axes = drawn(failure_sheet(table, images))
    assert (
        axes[0].get_title() == "city\n→ river -0.20"
        and axes[0].images[0].get_array()[0, 0] == 200
        and axes[2].get_title() == "city\n→ city 0.30"
    )


def test_laws_are_drawn_over_every_set():
    share = np.diff(1 - np.exp(-((np.arange(257) / 255) ** 2) / (2 * 0.2**2)))
    curves = pd.DataFrame({"strategy": "real", "amplitude": np.arange(256) / 255, "share": share / share.sum()})
    (axis,) = drawn(fitted_laws(curves))
    assert len(axis.lines) == 5 and axis.get_title() == "real"


def test_sensors_are_columns():
    table = pd.DataFrame({"strategy": ["a", "a"], "sensor": ["x", "y"], "metric": "amplitude_kl", "value": [0.1, 0.25]})
    (axis,) = drawn(sensor_heatmaps(table, ["amplitude_kl"]))
    assert [text.get_text() for text in axis.texts] == ["0.1", "0.25"] and [t.get_text() for t in axis.get_xticklabels()] == ["x", "y"]
