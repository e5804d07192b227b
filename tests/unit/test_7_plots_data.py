"""Figures of notebook 01: what is drawn is what was given, also with few classes and without scene truth."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from sarnb.metrics.describe import RAYLEIGH_CV  # noqa: E402
from sarnb.plots import data as plots  # noqa: E402


@pytest.fixture(autouse=True)
def close() -> None:
    yield
    plt.close("all")


def grey(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16), dtype=np.uint8)


def test_sheet_wraps_labels_into_bands() -> None:
    labels = [f"class {n}" for n in range(5)]
    colour = np.repeat(grey(5)[..., None], 3, axis=-1)
    figure = plots.modality_sheet(labels, {"optical": colour, "radar": grey(5, 1)}, columns=3)
    assert len(figure.axes) == 4 * 3, "two bands of two rows and three columns"
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:3] == labels[:3] and titles[6:8] == labels[3:] and titles[3:6] == [""] * 3
    np.testing.assert_array_equal(figure.axes[9].images[0].get_array(), grey(5, 1)[3])


def test_sheet_of_one_modality() -> None:
    figure = plots.modality_sheet(["a", "b"], {"radar": grey(2)})
    assert [axis.get_title() for axis in figure.axes] == ["a", "b"]


def test_caption_figure_counts_all_captions_and_shares() -> None:
    captions = pd.DataFrame({"length": ["short"] * 3 + ["long"] * 2, "words": [3, 3, 4, 9, 10]})
    shares = pd.DataFrame({"length": ["short", "long"], "names look side": [0.25, 1.0], "names a count": [0.0, 0.5]})
    left, right = plots.caption_lengths_figure(captions, shares).axes
    assert [bar.get_height() for bar in right.patches if bar.get_width()][:4] == pytest.approx([25, 0, 100, 50])
    assert [label.get_text() for label in right.get_xticklabels()] == ["look side", "a count"]
    assert left.get_xlim()[0] < 3 and left.get_xlim()[1] > 10


def test_paint_marks_exactly_the_masks() -> None:
    image, layover, shadow = np.full((4, 4), 100, np.uint8), np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    layover[0, 0], shadow[1, 1] = True, True
    layover[2, 2] = shadow[2, 2] = True
    painted = plots.paint(image, layover, shadow, strength=1.0)
    assert tuple(painted[0, 0]) == plots.LAYOVER and tuple(painted[1, 1]) == plots.SHADOW
    np.testing.assert_allclose(painted[2, 2], (np.array(plots.LAYOVER) + np.array(plots.SHADOW)) / 2, atol=0.5)
    assert (painted[3] == 100).all()


def test_anatomy_says_where_near_range_is() -> None:
    mask = np.zeros((16, 16), bool)
    views = {look: (grey(1)[0], mask, mask) for look in ("left", "right")}
    figure = plots.scene_anatomy(np.repeat(grey(1)[0][..., None], 3, axis=-1), np.arange(256.0).reshape(16, 16), views)
    labels = [axis.get_xlabel() for axis in figure.axes if "range" in axis.get_xlabel()]
    assert [label.split()[0] for label in labels] == ["near", "far"]


def test_amplitude_laws_draw_every_law_twice() -> None:
    sample = np.random.default_rng(0).rayleigh(40, 40_000)
    counts = np.bincount(np.clip(sample, 0, 255).astype(int), minlength=256)
    figure = plots.amplitude_laws({"flat": counts, "again": counts})
    assert len(figure.axes) == 4 and all(len(axis.lines) == 3 for axis in figure.axes)
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "Rayleigh")
    peak = curve.get_xdata()[np.argmax(curve.get_ydata())]
    assert peak == pytest.approx(40 / 255, rel=0.05)  # the mode of Rayleigh is its scale


def test_spread_keeps_the_speckle_line_in_sight() -> None:
    table = pd.DataFrame({"class": ["a", "a", "b"], "cv": [1.4, 1.5, 2.0], "enl": [0.2, np.nan, 0.3]})
    axes = plots.spread_by_class(table).axes
    assert axes[0].get_xlim()[0] < RAYLEIGH_CV and axes[1].get_xlim()[1] > 1.0


def test_log_cumulant_lines_meet_at_the_star() -> None:
    points = pd.DataFrame({"class": ["a", "b"], "group": ["seen", "unseen"], "kappa2": [0.5, 1.0], "kappa3": [-0.4, 0.1]})
    axis = plots.log_cumulant_diagram(points).axes[0]
    for line in axis.lines[1:3]:  # K and G0 end, with smooth texture, in plain speckle
        assert (line.get_xdata()[-1], line.get_ydata()[-1]) == pytest.approx((-0.3005, 0.4112), abs=0.003)
    low, high = axis.get_xlim()
    assert low < -0.4 and high > 0.1
    assert {"a", "b"} <= {text.get_text() for text in axis.texts}


def test_texture_panels_and_their_farthest_class() -> None:
    rows = [(label, "seen", name, 1.0, 1.0 + gap) for name in ("contrast", "energy", "entropy") for label, gap in (("a", 0.0), ("b", 0.5))]
    table = pd.DataFrame(rows, columns=["class", "group", "property", "range", "azimuth"])
    figure = plots.texture_directions(table, named=1)
    assert len(figure.axes) == 3
    assert all([text.get_text() for text in axis.texts] == ["b"] for axis in figure.axes)


def test_clipping_with_and_without_amplitudes() -> None:
    shares = pd.Series({"a": 0.01, "b": 0.02})
    ratios = np.random.default_rng(0).rayleigh(0.4, (2, 32, 32))
    assert len(plots.clipping(shares).axes) == 1
    figure = plots.clipping(shares, ratios)
    assert [bar.get_width() for bar in figure.axes[1].patches] == pytest.approx([1.0, 2.0])


def test_look_evidence_draws_every_image() -> None:
    table = pd.DataFrame({"class": ["a", "a", "b"], "look": ["left", "right", "left"], "score": [1.0, -1.0, 0.5]})
    axis = plots.look_evidence(table).axes[0]
    places = [points.get_offsets().tolist() for points in axis.collections]
    before = np.random.get_state()[1].tolist()
    again = plots.look_evidence(table).axes[0]
    assert [points.get_offsets().tolist() for points in again.collections] == places and np.random.get_state()[1].tolist() == before
    assert sum(len(points.get_offsets()) for points in axis.collections) == 3
