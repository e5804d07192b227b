"""Figures of the autoencoder's notebook: each shows every variant once, with its numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backend_bases import MouseEvent

from sarnb.metrics.distribution import channel_table
from sarnb.metrics.roundtrip import (
    FLOOR,
    MEASURES,
    ORIGINAL,
    class_cumulants,
    point_cuts,
    point_images,
    radial_spectrum,
    texture_by_distance,
)
from sarnb.plots.vae import (
    bias_dots,
    channel_bars,
    kappa_shift,
    loss_curves,
    measure_bars,
    periodogram_maps,
    point_sheet,
    round_trip_sheet,
    spectrum_lines,
    texture_lines,
)
from sarnb.train.vae_losses import TERM_WEIGHTS


def images(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).rayleigh(40, (4, 32, 32)).clip(0, 255).astype(np.uint8)


def test_sheet_shows_half_the_difference_around_grey():
    before, after = [np.full((8, 8), 100, np.uint8)], [np.full((8, 8), 140, np.uint8)]
    figure = round_trip_sheet(before, {"decoder": after}, ["city"])
    shown = [axis.images[0].get_array() for axis in figure.axes]
    assert [int(picture[0, 0]) for picture in shown] == [100, 140, 148]


def test_bars_are_the_values_in_percent_where_they_are_relative_with_floor_and_target():
    values = {"frozen": -0.5, "lora": 0.2, FLOOR: 0.1}
    table = pd.DataFrame([{"variant": name} | dict.fromkeys(MEASURES, value) for name, value in values.items()])
    figure = measure_bars(table, ("cv_error", "bias_db"), {"bias_db": 0.3})
    first, second = figure.axes
    assert [bar.get_width() for bar in first.patches] == [-50, 20]
    places = sorted(line.get_xdata()[0] for line in second.lines)
    assert np.allclose(places, [0, 0.1, 0.3])


def test_lines_of_spectra_and_textures_name_every_variant():
    frequency, power = radial_spectrum(images())
    figure = spectrum_lines(frequency, {ORIGINAL: power.mean(0), "lora": power.mean(0) * 10})
    assert np.allclose(figure.axes[1].lines[0].get_ydata(), 10) or np.allclose(figure.axes[1].lines[-1].get_ydata(), 10)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [ORIGINAL, "lora"]
    figure = texture_lines(texture_by_distance({ORIGINAL: images(), "lora": images(1)}))
    assert len(figure.axes) == 8 and all(len(axis.lines) == 2 for axis in figure.axes)


def test_cumulants_of_every_class_start_and_end_where_they_were_measured():
    points = class_cumulants({ORIGINAL: images(), "lora": images(1)}, ["a", "a", "b", "b"])
    assert len(points) == 4
    figure = kappa_shift(points)
    before = points[points["variant"] == ORIGINAL]
    assert np.allclose(sorted(figure.axes[0].collections[0].get_offsets()[:, 0]), sorted(before["kappa3"]))


def test_curves_leave_out_the_steps_before_the_discriminator_joined():
    history = pd.DataFrame({"step": [1, 2, 3], "l1": [3.0, 2.0, 1.0], "discriminator": [0.0, 0.0, 0.7]})
    figure = loss_curves({"lora": history})
    assert [list(axis.lines[0].get_xdata()) for axis in figure.axes] == [[1, 2, 3], [3]]


def test_curves_have_a_panel_for_every_term_that_a_recipe_may_name():
    history = pd.DataFrame({"step": [1, 2], **{name: [2.0, 1.0] for name in (*TERM_WEIGHTS, "held_out")}})
    titles = {axis.get_title() for axis in loss_curves({"lora": history}).axes}
    assert titles == {*TERM_WEIGHTS, "held out"}


def test_maps_show_a_gap_where_its_frequencies_stand_on_the_axes():
    gap = np.zeros((16, 9))
    gap[np.flatnonzero(np.fft.fftfreq(16) == -3 / 16)[0], 5] = 4.0
    figure = periodogram_maps({"frozen": np.zeros((16, 9)), "lora": gap})
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title().split("\n")[0] for axis in panels] == ["frozen", "lora"]
    figure.canvas.draw()
    for azimuth, level in ((-3 / 16, 4.0), (3 / 16, 0.0)):
        place = panels[1].transData.transform((5 / 16, azimuth))
        assert panels[1].images[0].get_cursor_data(MouseEvent("motion_notify_event", figure.canvas, *place)) == level


def test_points_biases_and_channels():
    points = point_images(4, 40, (1.3, 1.3))
    figure = point_sheet({ORIGINAL: points, "lora": points}, {name: point_cuts(points) for name in (ORIGINAL, "lora")})
    assert len(figure.get_axes()) == 4
    table = pd.DataFrame({"variant": ["a", "b"], "cover": ["water", "water"], "pixels": [9, 9], "bias_db": [0.1, -2.0]})
    assert [line.get_xdata()[0] for line in bias_dots(table).axes[0].lines[1:]] == [0.1, -2.0]
    latents = np.random.default_rng(0).normal(size=(4, 3, 4, 4))
    assert len(channel_bars(channel_table({"a": latents, "b": latents})).axes[0].containers) == 2


@pytest.mark.parametrize("count", [1, 4, 6])
def test_maps_of_any_number_of_variants_share_one_scale(count):
    figure = periodogram_maps({f"variant {k}": np.full((16, 9), float(k)) for k in range(count)})
    figure.canvas.draw()
    assert len([axis for axis in figure.axes if axis.get_title()]) == count and len(figure.axes) == count + 1
