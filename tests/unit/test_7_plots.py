"""Figures that several notebooks share: what is drawn is what was given."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import nbclient
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from sarnb import plots
from sarnb.metrics.geometry import block_scene, shadow_marks
from sarnb.results import figure_faults, figure_file, literal_text
from sarnb.world.radar import PRESETS, simulate

matplotlib.use("agg")

RADAR = replace(PRESETS["airborne-x"], spacing_m=(2.0, 2.0), look="left")


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


def test_paint_marks_exactly_the_masks() -> None:
    image, layover, shadow = np.full((4, 4), 100, np.uint8), np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    layover[0, 0], shadow[1, 1] = True, True
    layover[2, 2] = shadow[2, 2] = True
    painted = plots.paint(image, layover, shadow, strength=1.0)
    orange, blue = (255 * np.array(plots.MASK_COLOURS[name]) for name in ("layover", "shadow"))
    for place, colour in ((0, orange), (1, blue), (2, (orange + blue) / 2)):
        np.testing.assert_allclose(painted[place, place], colour, atol=1)
    assert (painted[3] == 100).all()


def test_amplitude_laws_draw_every_law_twice() -> None:
    sample = np.random.default_rng(0).rayleigh(40, 40_000)
    counts = np.bincount(np.clip(sample, 0, 255).astype(int), minlength=256)
    figure = plots.amplitude_laws({"flat": counts, "again": counts})
    assert len(figure.axes) == 4 and all(len(axis.lines) == 3 for axis in figure.axes)
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "Rayleigh")
    peak = curve.get_xdata()[np.argmax(curve.get_ydata())]
    assert peak == pytest.approx(40 / 255, rel=0.05)  # the mode of Rayleigh is its scale


def test_measure_panels_show_sizes_signs_floors_and_goals_without_overlaps() -> None:
    names = ["frozen", "l1+l2+histogram+loghistogram+spectrum+periodogram+lattice+grey", "floor"]
    table = pd.DataFrame({"variant": names, "kl": [0.09, 0.01, 0.005], "cv": [-0.2, 0.03, 0.02], "psnr": [19.0, 17.0, np.nan]})
    titles = {"kl": "amplitude KL [nats]", "cv": "CV, relative error", "psnr": "PSNR [dB]", "bias": "not there"}
    figure = plots.measure_panels(table, titles, "floor", {"kl": 0.02, "cv": 0.05}, ("cv",))
    assert [axis.get_xlabel() for axis in figure.axes] == [*titles.values()][:3]
    kl, cv, _ = figure.axes
    assert [line.get_xdata()[0] for line in kl.lines] == [0.09, 0.01, 0.005, 0.02], "two variants, the floor, the figure to reach"
    assert [line.get_xdata()[0] for line in cv.lines[:2]] == [0.2, 0.03] and cv.lines[0].get_markerfacecolor() == "none"
    assert cv.lines[1].get_markerfacecolor() != "none" and kl.get_xscale() == "log"
    assert len({line.get_marker() for line in kl.lines[:2]}) == 2, "shapes too tell variants apart"
    literal_text(figure)
    assert figure_faults(figure) == []


def test_powers_of_ten_are_formulas_also_where_the_layout_adds_them_while_a_figure_is_saved() -> None:
    with matplotlib.rc_context():
        plots.set_theme()
        figure, axes = plt.subplots(2, 3, figsize=(10.2, 4.7), sharex=True, sharey=True)
        for axis in axes.flat:
            axis.plot([0, 1], [1e-6, 0.4])
            axis.set_yscale("log")
            axis.set_title("costs $5 and $6")
        axes[0, 0].set_ylim(7e-7, 0.6)
        figure.supxlabel("x")
        drawn = figure_file(figure, "powers")[1].decode()
    assert "mathdefault{10^{-6}}" in drawn, "said so in a comment"
    assert ">$\\mathdefault" not in drawn
    assert drawn.count(">costs $5 and $6<") == 6


def test_law_lines_meet_at_the_star() -> None:
    axis = plt.figure().add_subplot()
    plots.law_lines(axis, pd.DataFrame({"kappa2": [0.5, 1.0], "kappa3": [-0.4, 0.1]}))
    for line in axis.lines[1:3]:  # K and G0 end, with smooth texture, in plain speckle
        assert (line.get_xdata()[-1], line.get_ydata()[-1]) == pytest.approx((-0.3005, 0.4112), abs=0.003)
    (low, high), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    assert low < -0.4 and 0.1 < high < 1 and bottom < 0.4112 and 1 < top < 2, "the view is that of the points, not of the lines"


def test_a_block_draws_its_wall_and_shadow_in_metres() -> None:
    scene = block_scene()
    figure = plots.side_views({"one block": (scene, RADAR, simulate(scene, RADAR, 0))})
    assert [axis.get_ylabel() for axis in figure.axes] == ["height [m]", "azimuth [m]", "azimuth [m]"]
    texts = [text.get_text() for text in figure.axes[0].texts]
    tangent = np.tan(np.radians(RADAR.incidence_deg))
    length = shadow_marks(scene, RADAR)["length"][0]
    assert texts == [f"h / tan θ\n{30 / tangent:.0f} m", f"h tan θ\n{length:.0f} m"]
    assert length == pytest.approx(30 * tangent, abs=2)


def test_image_grid_shows_values_on_the_fixed_scale():
    images = np.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8).astype(np.uint8)
    figure = plots.image_grid(images, ["a", "b"], ["x", "y", "z"])
    assert len(figure.axes) == 6
    shown = figure.axes[4].images[0]
    np.testing.assert_array_equal(shown.get_array(), images[1, 1])
    assert shown.get_clim() == (0, 255)
    assert [axis.get_title() for axis in figure.axes[:3]] == ["x", "y", "z"] and figure.axes[3].get_ylabel() == "b"


def test_long_heads_do_not_touch_their_neighbours():
    names = ["unet-lora-r64", "unet-lora+te-lora+token", "hybrid+prior", "unet-full+te-full+token"]
    figure = plots.image_grid([[np.zeros((8, 8), np.uint8)] * len(names)] * 2, column_labels=names)
    figure.canvas.draw()
    heads = [axis.title.get_window_extent() for axis in figure.axes[: len(names)]]
    assert all(left.x1 < right.x0 for left, right in zip(heads, heads[1:]))
    assert [axis.get_title().replace("\n", "") for axis in figure.axes[: len(names)]] == names


def test_image_grid_leaves_gaps_empty_and_checks_labels():
    colour = np.zeros((4, 4, 3), np.uint8)
    figure = plots.image_grid([[colour, None], [colour]])
    assert [len(axis.images) for axis in figure.axes] == [1, 0, 1, 0]
    with pytest.raises(ValueError, match="2 row labels for 1 rows"):
        plots.image_grid([[colour]], ["a", "b"])
    with pytest.raises(ValueError, match="no image"):
        plots.image_grid([])


def test_a_notebook_shows_jpeg_whatever_is_drawn_first():
    draw = "figure = plt.figure(figsize=(2, 1)); plt.plot([0, 1]); plt.show()"
    cells = ["import matplotlib.pyplot as plt\nfrom sarnb.plots import set_theme\nset_theme()", draw, draw]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    shown = [output["data"] for cell in notebook.cells for output in cell.outputs if "data" in output]
    assert len(shown) == 2 and not any("image/png" in data for data in shown)
    for data in shown:
        assert Image.open(io.BytesIO(base64.b64decode(data["image/jpeg"]))).format == "JPEG"


@pytest.mark.parametrize(("count", "scale"), [(3, "linear"), (20, "linear"), (20, "log")])
def test_names_of_points_lie_in_the_order_of_the_points_and_never_on_each_other(count, scale) -> None:
    rng = np.random.default_rng(count)
    x, y = rng.random(count).tolist(), np.r_[rng.normal(1, 0.02, count - 1).clip(0.1), 0.2].tolist()  # nearly one height, and one far off
    names = [f"a class, number {place}" for place in range(count)]
    figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
    axis.scatter(x, y)
    axis.set(yscale=scale, ylim=(0.1, 1.1))
    plots.name_points(axis, x, y, names)
    assert figure_faults(figure) == []
    figure.draw_without_rendering()
    boxes = {text.get_text(): Text.get_window_extent(text) for text in axis.texts}
    heights = [boxes[name].y0 for name in np.array(names)[np.argsort(y)]]
    assert np.all(np.diff(heights) > 0)
    for name, height in zip(names, y):
        assert (axis.texts[[text.get_text() for text in axis.texts].index(name)].xy[1]) == height, "its line leads to its point"
    frame = axis.get_window_extent()
    assert all(frame.y0 - 8 <= box.y0 and box.y1 <= frame.y1 + 8 and box.x0 > frame.x1 for box in boxes.values())
