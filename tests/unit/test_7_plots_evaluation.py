"""The figures of the evaluation show the numbers they were given."""

from __future__ import annotations

import io
from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny import tiny_set

from sarnb.metrics.describe import measure
from sarnb.metrics.evaluation import COLUMNS, OPTICAL_AS_GREY, REFERENCE_FLOOR
from sarnb.metrics.report import amplitude_shares, pareto_table, texture_curves
from sarnb.plots import set_theme
from sarnb.plots.evaluation import (
    LINES,
    amplitude_histograms,
    colours,
    cumulant_diagram,
    interval_panels,
    marks,
    mosaic,
    quality_against_cost,
    sample_grid,
    texture_lines,
)
from sarnb.results import figure_file

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _theme():
    with matplotlib.rc_context():
        set_theme()
        yield
    plt.close("all")


def drawn(figure):
    figure.canvas.draw()
    return figure.axes


def test_the_long_heads_of_a_mosaic_do_not_touch_their_neighbours():
    names = ["unet-lora-r64", "unet-lora+te-lora+token", "unet-full", "unet-full+te-full+token"]
    figure = mosaic([[np.zeros((128, 128), np.uint8)] * len(names)], ["a"], names)
    figure.canvas.draw()
    heads = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert len(heads) == len(names) and all(left.x1 < right.x0 for left, right in zip(heads, heads[1:]))


@pytest.mark.parametrize("side", [64, 128])
def test_a_mosaic_keeps_every_pixel(side):
    """Those of small images are there several times, so that heads have room."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, side, side), dtype=np.uint8)
    figure = mosaic([[*images[0]], [images[1, 0], None, images[1, 2]]], ["a", "b"], ["x", "y", "z"])
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=plt.rcParams["savefig.dpi"])
    pixels = np.asarray(Image.open(stream).convert("L")).astype(int)
    recorded = Image.open(io.BytesIO(figure_file(figure, "a")[1]))
    assert recorded.width >= pixels.shape[1] and recorded.height >= pixels.shape[0], "with labels around, and not made smaller"
    assert pixels.shape == (2 * 132 - 4, 3 * 132 - 4)
    images = images.repeat(128 // side, axis=2).repeat(128 // side, axis=3)
    assert np.abs(pixels[:128, 132:260] - images[0, 1]).max() <= 1, "but for the rounding of the colour map"
    assert np.abs(pixels[132:, 264:] - images[1, 2]).max() <= 1
    assert (pixels[132:, 132:260] == 255).all()


def test_the_sample_grid_puts_a_real_image_of_the_same_side_first():
    real = tiny_set(8)
    drawn_set = replace(tiny_set(8, seed=1), rows=tuple({**row, "look": "right"} for row in real.rows))
    figure = sample_grid(real, {"hybrid": drawn_set, "empty": drawn_set.where(label="forest")}, ["city", "forest"])
    sheet = drawn(figure)[0].images[0].get_array()
    city_right = next(i for i, row in enumerate(real.rows) if row["label"] == "city" and row["look"] == "right")
    assert (sheet[:128:8, :128:8] == real.images[city_right]).all(), "each pixel of 16 is there 8 times"
    assert (sheet[:128:8, 132:260:8] == drawn_set.images[drawn_set.labels.index("city")]).all()
    assert (sheet[:128, 264:] == 255).all(), "a class that a set lacks stays empty"
    sideless = replace(drawn_set, rows=tuple({**row, "look": None} for row in drawn_set.rows))
    assert drawn(sample_grid(real, {"own": sideless}, ["city"]))


def test_colours_are_the_strategies_own():
    names = ["zero-shot", "hybrid"]
    assert colours([*names, REFERENCE_FLOOR]) == colours(["reference", *names]) == colours(names[::-1])
    assert marks([*names, REFERENCE_FLOOR]) == marks(["reference", *names]) == marks(names[::-1])
    many = [f"s{k}" for k in range(30)]
    assert len({(colours(many)[name], marks(many)[name]) for name in many}) == 30


@pytest.fixture(scope="module")
def sets():
    """Speckle of three levels of brightness, two classes."""
    parts = {}
    for seed, name in enumerate(("reference", "a", "b", "c", "d")):
        images = np.random.default_rng(seed).rayleigh(30.0 + 10 * seed, (8, 32, 32)).clip(0, 255).astype(np.uint8)
        parts[name] = [measure(replace(tiny_set(8), images=images))]
    return parts


def test_histograms_have_a_panel_a_strategy(sets):
    axes = drawn(amplitude_histograms(sets))
    assert [axis.get_title() for axis in axes] == ["a", "b", "c", "d", "", ""]
    assert axes[0].lines[0].get_ydata() == pytest.approx(amplitude_shares(sets)["a"]) and axes[0].get_yscale() == "log"


def test_textures_have_a_panel_a_property_and_direction(sets):
    axes = drawn(texture_lines(sets))
    assert len(axes) == 12 and [axis.get_title() for axis in axes[:2]] == ["contrast", "dissimilarity"]
    curves = texture_curves(sets).query("strategy == 'b' and property == 'contrast' and direction == 'azimuth'")
    assert axes[6].lines[2].get_xydata() == pytest.approx(curves[["distance", "value"]].to_numpy())


def test_the_cumulant_diagram_draws_every_set(sets):
    whole, single = drawn(cumulant_diagram(sets))
    assert {"reference", "a", "b", "c", "d"} <= set(whole.get_legend_handles_labels()[1])
    assert [len(part.get_offsets()) for part in whole.collections] == [1] * 5
    assert [len(part.get_offsets()) for part in single.collections] == [2] * 5  # two classes


def test_intervals_are_drawn_in_the_order_of_the_first_table_with_anchors_as_lines():
    table = pd.DataFrame({"strategy": ["good", "bad"], "average rank": [1.2, 1.8], "lo": [1.0, 1.5], "hi": [1.5, 2.0]})
    axis = drawn(interval_panels({"pooled": table, "unseen": table.iloc[::-1]}, "average rank", "rank"))[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["good", "bad"] and axis.yaxis_inverted()
    assert [box.lines[0].get_xdata()[0] for box in axis.containers] == [1.2, 1.8]
    values = pd.DataFrame({"strategy": ["a", "a guess", REFERENCE_FLOOR], "value": [0.5, 0.25, 0.9], "lo": np.nan, "hi": np.nan})
    axes = drawn(interval_panels({"seen": values, "unseen": values[:1]}, "value", "accuracy"))
    lines = {line.get_label(): line.get_xdata()[0] for line in axes[0].lines if line.get_label() in LINES}
    assert lines == {"a guess": 0.25, REFERENCE_FLOOR: 0.9}
    assert not LINES.keys() & {line.get_label() for line in axes[1].lines}


@pytest.mark.parametrize("dearest", [4e2, 1e6, 1e10])
def test_quality_against_cost_averages_seeds_and_fills_the_front(dearest):
    values = (
        ("zero-shot", 0, 0.9),
        ("hybrid", 0, 0.2),
        ("hybrid", 1, 0.4),
        ("poor", 0, 0.8),
        (REFERENCE_FLOOR, 0, 0.1),
        (OPTICAL_AS_GREY, 0, 2.0),
    )
    rows = [(name, seed, "pooled", "all", "amplitude_kl", v, v * 0.9, v * 1.1, 8) for name, seed, v in values]
    evaluation = pd.DataFrame(rows, columns=list(COLUMNS))
    costs = pd.DataFrame({"strategy": ["zero-shot", "hybrid", "hybrid", "poor"], "cost": [0, 100, 300, dearest]})
    fronts = pareto_table(evaluation, costs, ["amplitude_kl"], "cost")
    axis = drawn(quality_against_cost(fronts, evaluation))[0]
    points = {box.get_label().removeprefix("_"): box.lines[0] for box in axis.containers}
    assert points["hybrid"].get_xydata().tolist() == [[200, pytest.approx(0.3)]] and points["zero-shot"].get_xdata()[0] == 100
    assert points["poor"].get_markerfacecolor() == "white" != points["hybrid"].get_markerfacecolor()
    assert {REFERENCE_FLOOR, OPTICAL_AS_GREY} <= set(axis.get_legend_handles_labels()[1])
    (low, high), ticks = axis.get_xlim(), zip(axis.get_xticks(), axis.get_xticklabels())
    boxes = [label.get_window_extent() for value, label in ticks if low <= value <= high]
    assert len(boxes) > 1 and all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:])), "numbers that do not touch"
