"""The figures of a fine-tuning show the numbers they were given."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sarnb.data.dataset import Column
from sarnb.metrics.evaluation import COLUMNS, REFERENCE_FLOOR
from sarnb.plots import (
    comparison_grid,
    component_bars,
    measure_dots,
    neighbour_bars,
    training_curves,
)

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def drawn(figure):
    figure.canvas.draw()  # what cannot be drawn fails here
    return figure.axes


TABLE = pd.DataFrame(
    [
        (name, seed, split, "all", metric, value, value * 0.9, value * 1.1, 8)
        for name, seed, value in (("unet-full", 0, 0.2), ("unet-full", 1, 0.4), ("scratch", 0, 0.8), (REFERENCE_FLOOR, 0, 0.01))
        for split in ("seen", "unseen")
        for metric in ("amplitude_kl", "amplitude_cv")
    ],
    columns=list(COLUMNS),
)


def test_component_bars_are_as_long_as_the_counts():
    counts = pd.DataFrame({"component": ["unet", "vae"], "trains": [200, 0], "total": [1000, 50]})
    axis = drawn(component_bars(counts, "a strategy"))[0]
    assert [patch.get_width() for patch in axis.patches] == [1000, 50, 200, 0]
    assert [text.get_text() for text in axis.texts] == ["200 of 1,000 (20.00%)", "none of 50"]


def test_training_curves_leave_out_what_was_not_measured():
    history = pd.DataFrame({"step": [0, 5, 10], "loss": [np.nan, 0.9, 0.8], "held_out": [1.0, np.nan, 0.7]})
    losses, held = drawn(training_curves({"unet-full": [history, history], "scratch": [history.drop(columns="held_out")]}))
    assert [line.get_xydata().tolist() for line in losses.lines[:1]] == [[[5, 0.9], [10, 0.8]]]
    assert held.lines[0].get_xydata().tolist() == [[0, 1.0], [10, 0.7]] and len(losses.lines) == 3
    assert [text.get_text() for text in losses.figure.legends[0].get_texts()] == ["unet-full", "scratch"]
    assert len({line.get_color() for line in losses.lines[:2]}) == 1
    assert len({line.get_marker() for line in losses.lines}) == 2  # a shape a strategy, not a colour alone
    empty = drawn(training_curves({"x": [history.drop(columns="held_out")]}))[1]
    assert "not measured" in empty.texts[0].get_text()


def test_comparison_grid_parts_the_groups():
    columns = [Column("seen", "city"), Column("seen", "river"), Column("unseen", "harbour")]
    images = np.arange(3, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    axes = drawn(comparison_grid({"real": images, "hybrid": images}, columns))
    assert [axis.get_title() for axis in axes[:4]] == ["seen\ncity", "\nriver", "", "unseen\nharbour"]
    assert [len(axis.images) for axis in axes] == [1, 1, 0, 1] * 2
    with pytest.raises(ValueError, match="row real has 2 images for 3 columns"):
        comparison_grid({"real": images[:2]}, columns)


def test_the_scale_bar_of_a_grid_has_the_length_that_it_says():
    columns = [Column("seen", "city"), Column("unseen", "harbour"), Column("unseen", "port")]
    axes = drawn(comparison_grid({"a": [np.zeros((128, 128), np.uint8)] * 3}, columns, spacing_m=(3.0, 2.0)))
    x, _ = axes[0].lines[0].get_data()
    assert axes[0].get_xlabel() == "bar: 100 m" and np.ptp(x) * 2.0 == pytest.approx(100)  # metres a pixel along range
    assert axes[2].get_xlabel() == "arrow: range" and not axes[1].get_xlabel()  # 1 is the gap between the groups
    assert not any(axis.get_xlabel() for axis in drawn(comparison_grid({"a": [np.zeros((8, 8), np.uint8)] * 3}, columns)))


def test_measure_dots_show_the_mean_over_seeds_and_the_anchor():
    kl, cv = drawn(measure_dots(TABLE, ("amplitude_kl", "amplitude_cv"), ["seen", "unseen"]))
    assert [text.get_text() for text in kl.figure.legends[0].get_texts()] == ["seen", "unseen"]
    assert [text.get_text() for text in kl.get_yticklabels()] == ["unet-full", "scratch", REFERENCE_FLOOR]
    seen, unseen = ([dots.lines[0] for dots in kl.containers[start : start + 3]] for start in (0, 3))
    assert [dot.get_xdata()[0] for dot in seen] == pytest.approx([0.3, 0.8, 0.01])
    assert len({dot.get_marker() for dot in seen + unseen}) == 2  # a shape a split, not a colour alone
    assert [dot.get_markerfacecolor() for dot in seen] == ["C0", "C0", "white"]
    assert kl.get_xscale() == "log" and cv.get_xscale() == "linear" and "nearer to the reference" in cv.get_xlabel()


def test_neighbour_bars_draw_words_as_they_are():
    near = pd.DataFrame(
        [
            (encoder, when, rank, word, 1 / rank)
            for encoder in ("one", "two")
            for when in ("start", "learned")
            for rank, word in ((1, "$"), (2, "city_x$"))
        ],
        columns=["encoder", "when", "rank", "word", "cosine"],
    )
    axes = drawn(neighbour_bars(near))
    assert len(axes) == 4 and [patch.get_width() for patch in axes[0].patches] == [1, 0.5]
    assert axes[0].get_title() == "one, start"
