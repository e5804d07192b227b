"""The figures of the evaluation show the numbers they were given."""

from __future__ import annotations

import io
from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tiny import tiny_set

from sarnb.metrics.evaluation import COLUMNS, OPTICAL_AS_GREY, REAL_VS_REAL
from sarnb.plots import set_theme
from sarnb.plots.verdict import (
    _laws,
    amplitude_histograms,
    colours,
    cumulant_diagram,
    label_cost_axis,
    marks,
    mosaic,
    quality_against_cost,
    sample_grid,
    split_bars,
    texture_lines,
)

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


TABLE = pd.DataFrame(
    [
        (name, seed, split, "all", metric, value, value * 0.9, value * 1.1, 8)
        for name, seed, value in (
            ("zero-shot", 0, 0.9),
            ("hybrid", 0, 0.2),
            ("hybrid", 1, 0.4),
            (REAL_VS_REAL, 0, 0.1),
            (OPTICAL_AS_GREY, 0, 2.0),
        )
        for split in ("pooled", "seen", "unseen")
        for metric in ("amplitude_kl", "clip_accuracy")
    ],
    columns=list(COLUMNS),
)


def test_the_long_heads_of_a_mosaic_do_not_touch_their_neighbours():
    names = ["unet-lora-r64", "unet-lora+te-lora+token", "unet-full", "unet-full+te-full+token"]
    figure = mosaic([[np.zeros((128, 128), np.uint8)] * len(names)], ["a"], names)
    figure.canvas.draw()
    heads = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert len(heads) == len(names) and all(left.x1 < right.x0 for left, right in zip(heads, heads[1:]))


def test_a_mosaic_keeps_every_pixel():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    figure = mosaic([[*images[0]], [images[1, 0], None, images[1, 2]]], ["a", "b"], ["x", "y", "z"])
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=plt.rcParams["savefig.dpi"])
    pixels = np.asarray(Image.open(stream).convert("L")).astype(int)
    assert pixels.shape == (2 * 66 - 2, 3 * 66 - 2)
    assert np.abs(pixels[:64, 66:130] - images[0, 1]).max() <= 1, "but for the rounding of the colour map"
    assert np.abs(pixels[66:, 132:] - images[1, 2]).max() <= 1
    assert (pixels[66:, 66:130] == 255).all()


def test_the_sample_grid_puts_a_real_image_of_the_same_side_first():
    real = tiny_set(8)
    drawn_set = replace(tiny_set(8, seed=1), rows=tuple({**row, "look": "right"} for row in real.rows))
    figure = sample_grid(real, {"hybrid": drawn_set, "empty": drawn_set.where(label="forest")}, ["city", "forest"])
    sheet = drawn(figure)[0].images[0].get_array()
    city_right = next(i for i, row in enumerate(real.rows) if row["label"] == "city" and row["look"] == "right")
    assert (sheet[:16, :16] == real.images[city_right]).all()
    assert (sheet[:16, 18:34] == drawn_set.images[drawn_set.labels.index("city")]).all()
    assert (sheet[:16, 36:] == 255).all(), "a class that a set lacks stays empty"
    sideless = replace(drawn_set, rows=tuple({**row, "look": None} for row in drawn_set.rows))
    assert drawn(sample_grid(real, {"own": sideless}, ["city"]))


def test_colours_are_the_strategies_own():
    names = ["zero-shot", "hybrid"]
    assert colours([*names, REAL_VS_REAL]) == colours(["real", *names]) == colours(names[::-1])
    assert marks([*names, REAL_VS_REAL]) == marks(["real", *names]) == marks(names[::-1])
    assert len(set(colours([f"s{k}" for k in range(14)]).values())) == 15


@pytest.mark.parametrize("dearest", [1e3, 1e6, 1e10])
def test_the_numbers_of_a_cost_axis_do_not_touch(dearest):
    figure = Figure(figsize=(3.6, 2.4), layout="constrained")
    axis = figure.subplots()
    axis.semilogx([1, dearest], [0, 1], "o")
    label_cost_axis(axis, "trainable parameters", "")
    figure.canvas.draw()
    low, high = axis.get_xlim()
    shown = [label for value, label in zip(axis.get_xticks(), axis.get_xticklabels()) if low <= value <= high]
    boxes = [label.get_window_extent() for label in shown]
    assert len(boxes) > 2 and all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:]))


def test_histograms_have_a_panel_a_strategy():
    levels = np.arange(256) / 255
    share = np.exp(-5 * levels) / np.exp(-5 * levels).sum()
    curves = pd.concat([pd.DataFrame({"strategy": name, "amplitude": levels, "share": share}) for name in ("real", "a", "b", "c", "d")])
    axes = drawn(amplitude_histograms(curves))
    assert [axis.get_title() for axis in axes] == ["a", "b", "c", "d", "", ""]
    assert axes[0].lines[0].get_ydata() == pytest.approx(share) and axes[0].get_yscale() == "log"


def test_textures_have_a_panel_a_property_and_direction():
    rows = [
        (name, what, way, step, step * (1 + index))
        for index, name in enumerate(("real", "hybrid"))
        for what in ("contrast", "entropy")
        for way in ("range", "azimuth")
        for step in (1, 2, 4)
    ]
    axes = drawn(texture_lines(pd.DataFrame(rows, columns=["strategy", "property", "direction", "distance", "value"])))
    assert len(axes) == 4 and [axis.get_title() for axis in axes[:2]] == ["contrast", "entropy"]
    assert axes[0].lines[1].get_xydata().tolist() == [[1, 2], [2, 4], [4, 8]]


def test_bars_of_splits_carry_anchors_and_a_guess():
    axes = drawn(split_bars(TABLE, "clip_accuracy", ["seen", "unseen"], {"seen": 0.25}))
    assert [patch.get_width() for patch in axes[0].patches] == pytest.approx([0.9, 0.3])
    lines = {line.get_label(): line.get_xdata()[0] for line in axes[0].lines if len(set(line.get_xdata())) == 1}
    assert {REAL_VS_REAL: 0.1, OPTICAL_AS_GREY: 2.0, "a guess": 0.25}.items() <= lines.items()
    assert "a guess" not in {line.get_label() for line in axes[1].lines}
    without = TABLE[~TABLE["strategy"].isin((REAL_VS_REAL, OPTICAL_AS_GREY))]
    assert drawn(split_bars(without, "clip_accuracy", ["seen"]))


def test_the_laws_meet_at_single_look_speckle():
    laws = _laws()
    for name in ("single look × gamma texture (K)", "single look × inverse gamma texture (G0)"):
        third, second, _ = laws[name]
        assert (third[-1], second[-1]) == pytest.approx((-0.3005, 0.4112), abs=5e-3), "texture of infinite order is none"
    third, second, _ = laws["speckle of 0.25 to 200 looks"]
    assert np.interp(0.4112, second[::-1], third[::-1]) == pytest.approx(-0.3005, abs=5e-3)


def test_the_cumulant_diagram_draws_every_set():
    points = pd.DataFrame(
        [("real", "all", 1.0, -0.5), ("real", "city", 1.2, -0.4), ("hybrid", "all", 0.5, 0.1)],
        columns=["strategy", "class", "kappa2", "kappa3"],
    )
    axis = drawn(cumulant_diagram(points))[0]
    assert [-0.5, 1.0] in [offset.tolist() for mark in axis.collections for offset in mark.get_offsets()]


def test_quality_against_cost_averages_seeds_and_marks_what_is_free():
    costs = pd.DataFrame({"strategy": ["zero-shot", "hybrid", "hybrid"], "trainable parameters": [0, 100, 300]})
    axis = drawn(quality_against_cost(TABLE, costs, ["amplitude_kl"], ["trainable parameters"]))[0]
    labels = axis.get_legend_handles_labels()[1]
    assert {"zero-shot (costs nothing)", "hybrid", REAL_VS_REAL, OPTICAL_AS_GREY} == set(labels)
    mark = next(box for box in axis.containers if box.get_label() == "hybrid").lines[0]
    assert mark.get_xydata().tolist() == [[200, pytest.approx(0.3)]]
    unknown = costs.assign(**{"trainable parameters": np.nan})
    assert drawn(quality_against_cost(TABLE, unknown, ["amplitude_kl", "clip_accuracy"], ["trainable parameters"]))
