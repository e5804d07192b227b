"""The helpers that draw."""

from __future__ import annotations

import base64
import io

import matplotlib
import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from sarnb.plots import image_grid

matplotlib.use("agg")


def test_image_grid_shows_values_on_the_fixed_scale():
    images = np.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8).astype(np.uint8)
    figure = image_grid(images, ["a", "b"], ["x", "y", "z"])
    assert len(figure.axes) == 6
    shown = figure.axes[4].images[0]
    np.testing.assert_array_equal(shown.get_array(), images[1, 1])
    assert shown.get_clim() == (0, 255)
    assert [axis.get_title() for axis in figure.axes[:3]] == ["x", "y", "z"] and figure.axes[3].get_ylabel() == "b"


def test_long_heads_do_not_touch_their_neighbours():
    names = ["unet-lora-r64", "unet-lora+te-lora+token", "hybrid+prior", "unet-full+te-full+token"]
    figure = image_grid([[np.zeros((8, 8), np.uint8)] * len(names)] * 2, column_labels=names)
    figure.canvas.draw()
    heads = [axis.title.get_window_extent() for axis in figure.axes[: len(names)]]
    assert all(left.x1 < right.x0 for left, right in zip(heads, heads[1:]))
    assert [axis.get_title().replace("\n", "") for axis in figure.axes[: len(names)]] == names


def test_image_grid_leaves_gaps_empty_and_checks_labels():
    colour = np.zeros((4, 4, 3), np.uint8)
    figure = image_grid([[colour, None], [colour]])
    assert [len(axis.images) for axis in figure.axes] == [1, 0, 1, 0]
    with pytest.raises(ValueError, match="2 row labels for 1 rows"):
        image_grid([[colour]], ["a", "b"])
    with pytest.raises(ValueError, match="no image"):
        image_grid([])


def test_a_notebook_shows_jpeg_whatever_is_drawn_first():
    draw = "figure = plt.figure(figsize=(2, 1)); plt.plot([0, 1]); plt.show()"
    cells = ["import matplotlib.pyplot as plt\nfrom sarnb.plots import set_theme\nset_theme()", draw, draw]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    shown = [output["data"] for cell in notebook.cells for output in cell.outputs if "data" in output]
    assert len(shown) == 2 and not any("image/png" in data for data in shown)
    for data in shown:
        assert Image.open(io.BytesIO(base64.b64decode(data["image/jpeg"]))).format == "JPEG"
