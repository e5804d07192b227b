"""Figures of image formation: marks lie where they were predicted, sensors show the same ground."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from sarnb.data.sideview import block_scene, side_view  # noqa: E402
from sarnb.plots import formation  # noqa: E402
from sarnb.world.radar import PRESETS  # noqa: E402


@pytest.fixture(autouse=True)
def close() -> None:
    yield
    plt.close("all")


def test_side_views_draw_the_predictions_in_metres() -> None:
    view = side_view(block_scene(height=20.0), PRESETS["airborne-x"], 0)
    figure = formation.side_views({"block": view, "again": view})
    assert len(figure.axes) == 6
    panel, image, masks = figure.axes[0], figure.axes[2], figure.axes[4]
    tangent = np.tan(np.radians(40.0))
    drawn = {round(float(line.get_xdata()[0]), 3) for line in image.lines if len(line.get_xdata()) == 24}
    assert drawn == {80.0, round(80 - 20 / tangent, 3), round(112 + 20 * tangent, 3)}
    assert [text.get_text() for text in panel.texts] == [f"h / tan θ\n{20 / tangent:.0f} m", f"h tan θ\n{20 * tangent:.0f} m"]
    front = next(line for line in panel.lines if line.get_linestyle() == "--" and line.get_xdata()[1] == 80.0)
    assert front.get_ydata().tolist() == pytest.approx([0.0, 20.0]), "the front reaches from the ground to the top of the wall"
    ray = [line for line in panel.lines if line.get_linestyle() == "--"][-1]
    assert np.interp(112.0, ray.get_xdata(), ray.get_ydata()) == pytest.approx(20.0), "the last ray touches the far edge of the roof"
    np.testing.assert_array_equal(image.images[0].get_array(), view.image)
    assert masks.images[0].get_array().shape == (96, 96, 3)


def test_side_views_without_walls() -> None:
    view = side_view(block_scene(height=1.0), PRESETS["airborne-x"], 0)
    figure = formation.side_views({"flat": view})
    assert not view.walls.size and not figure.axes[0].texts


def test_sensors_show_the_same_ground() -> None:
    image = np.zeros((100, 80), np.uint8)
    image[30:40, 48:56] = 200
    assert formation.brightest_square(image, 0.1) == pytest.approx((0.3, 0.6))
    coarse = image[::5, ::4]
    figure = formation.sensor_sheet({"fine": image, "coarse": coarse}, extent_m=500.0, detail_m=50.0)
    details = [axis.images[0].get_array() for axis in figure.axes[2:]]
    assert [detail.shape for detail in details] == [(10, 8), (2, 2)]
    assert all((detail == 200).all() for detail in details)
    assert [axis.get_xlabel() for axis in figure.axes] == ["500 m = 80 px", "500 m = 20 px", "50 m = 8 px", "50 m = 2 px"]
