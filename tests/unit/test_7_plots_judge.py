"""The figures of the judge show the numbers they were given."""

from __future__ import annotations

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sarnb.metrics.judging import COLUMNS
from sarnb.plots.judge import cosine_histogram, matrix, reliability_diagram, score_bars, training_curve

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def drawn(figure):
    figure.canvas.draw()
    return figure.axes


def test_the_training_curve_shows_the_level_of_no_knowledge():
    history = pd.DataFrame({"step": [4], "loss": [2.7], "retrieval_r1": [0.1]})
    left, right = drawn(training_curve(history, 16))
    assert left.lines[0].get_xydata().tolist() == [[4, 2.7]] and left.lines[0].get_marker() == "o"
    assert left.lines[1].get_ydata()[0] == pytest.approx(math.log(16)) and right.lines[1].get_ydata()[0] == pytest.approx(1 / 16)


def test_the_curve_shows_wrong_captions_where_there_were_any():
    history = pd.DataFrame({"step": [4], "loss": [2.7], "retrieval_r1": [0.1], "contrary_r1": [0.8]})
    *_, last = drawn(training_curve(history, 16))
    assert last.lines[0].get_ydata().tolist() == [0.8] and last.lines[1].get_ydata()[0] == 0.5


def test_the_reliability_diagram_shows_accuracy_over_certainty():
    table = pd.DataFrame(
        {
            "low": [0.3, 0.9],
            "high": [0.4, 1.0],
            "certainty": [0.35, 0.96],
            "accuracy": [0.5, 0.9],
            "lo": [0.3, 0.8],
            "hi": [0.7, 0.95],
            "n": [10, 30],
        }
    )
    first, second = drawn(reliability_diagram({"as trained": table, "fitted": table}))
    assert first.get_title() == "as trained" and [patch.get_height() for patch in second.patches] == [0.25, 0.75]
    points = next(line for line in first.lines if line.get_marker() == "o")
    assert points.get_xydata().tolist() == [[0.35, 0.5], [0.96, 0.9]]


def test_the_matrix_writes_its_numbers_and_leaves_gaps_white():
    values = np.array([[0.75, 0.0, np.nan], [0.25, 1.0, np.nan], [np.nan, np.nan, 1.0]])
    axis = drawn(matrix(values, ("a", "b", "c"), "share", "true", "called", zeros=False))[0]
    assert [text.get_text() for text in axis.texts if text.get_text()] == ["0.75", "0.25", "1.00", "1.00"]
    assert axis.get_ylabel() == "true" and axis.get_xlabel() == "called"
    signed = drawn(matrix(values - 0.5, ("a", "b", "c"), "cosine", "images", "prompt"))[0]
    low, high = signed.collections[0].get_clim()
    assert low == -high == -0.5, "a diverging scale about zero"
    assert drawn(matrix(np.zeros((1, 1)), ("a",), "share", "true", "called"))


def test_bars_carry_intervals_and_the_level_of_a_guess():
    rows = [
        ("class accuracy", "pooled", "all", 0.5, 0.4, 0.6, 8, 0.25),
        ("class accuracy", "seen", "city", 1.0, 1.0, 1.0, 4, 0.25),
        ("side", "pooled", "all", 0.8, 0.7, 0.9, 8, 0.5),
    ]
    axes = drawn(score_bars(pd.DataFrame(rows, columns=list(COLUMNS)), ["class accuracy", "side"]))
    assert [patch.get_width() for patch in axes[0].patches] == [0.5, 1.0]
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["all", "city"]
    assert axes[1].patches[0].get_width() == 0.8 and np.isnan(axes[1].patches[1].get_width())


def test_cosines_are_drawn_even_without_pairs_of_other_classes():
    rng = np.random.default_rng(0)
    both = drawn(cosine_histogram(rng.normal(0.5, 0.1, 50), rng.normal(0, 0.1, 400)))[0]
    labels = [text.get_text() for text in both.get_legend().get_texts()]
    assert labels[0].startswith("caption of another class: mean") and labels[1].endswith("50 pairs")
    alone = drawn(cosine_histogram(np.full(3, 0.5), np.empty(0)))[0]
    assert len(alone.get_legend().get_texts()) == 1
