"""Measures of the round trip against theory: known leaks, spectra, gains, point responses, moved latents."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from sarnb.errors import InputError
from sarnb.metrics.distribution import channel_table, latent_shift, unit_scaling
from sarnb.metrics.roundtrip import (
    FLOOR,
    MEASURES,
    ORIGINAL,
    _half_power,
    colour_leak,
    gain_shares,
    homogeneous_looks,
    lattice,
    point_cuts,
    point_images,
    point_response,
    point_table,
    radial_spectrum,
    reached_table,
    round_trip_table,
    score,
    set_table,
    sigma0_bias,
    spectrum_gap,
    texture_by_distance,
)
from sarnb.world.backscatter import COVERS


def speckle(count: int = 8, size: int = 64, seed: int = 0, level: float = 45.0) -> np.ndarray:
    """Single-look amplitude of a flat scene, 8 bit."""
    return np.random.default_rng(seed).rayleigh(level, (count, size, size)).clip(0, 255).astype(np.uint8)


def rgb(images: np.ndarray) -> np.ndarray:
    return np.repeat(images[..., None], 3, -1)


def smoothed(images: np.ndarray, width: float) -> np.ndarray:
    return ndimage.gaussian_filter(images.astype(float), (0, width, width)).round().astype(np.uint8)


def test_leak_is_the_distance_from_grey_by_hand():
    image = np.full((1, 4, 4, 3), 100, np.uint8)
    assert colour_leak(image)[0] == 0
    image[..., 0], image[..., 2] = 97, 103
    assert colour_leak(image)[0] == pytest.approx(np.sqrt((9 + 0 + 9) / 3))
    with pytest.raises(InputError, match="three channels"):
        colour_leak(image[..., 0])


def test_spectrum_of_white_noise_is_flat_and_of_a_wave_has_its_line():
    white = np.random.default_rng(0).normal(128, 20, (64, 64, 64)).round().astype(np.uint8)
    frequency, power = radial_spectrum(white)
    assert frequency[-1] == 0.5 and power.shape == (64, 32)
    np.testing.assert_allclose(power.mean(0)[2:], (20 / 255) ** 2, rtol=0.1)
    wave = np.rint(128 + 60 * np.cos(2 * np.pi * 8 * np.arange(64) / 64))[None, None, :].repeat(64, 1).astype(np.uint8)
    assert frequency[radial_spectrum(wave)[1][0].argmax()] == 8 / 64
    with pytest.raises(InputError, match="square"):
        radial_spectrum(white[:, :32])


def test_spectrum_gap_is_the_contrast_lost_in_decibels():
    images = speckle()
    halved = np.rint((images.astype(float) - 64) / 2 + 64).clip(0, 255).astype(np.uint8)
    np.testing.assert_allclose(spectrum_gap(images, halved), -20 * np.log10(2), atol=0.3)
    assert spectrum_gap(images, images) == pytest.approx(0)


def test_bias_is_the_gain_of_each_cover_in_decibels():
    images, masks = speckle(), np.zeros((8, 64, 64), np.uint8)
    masks[:, :, 32:] = COVERS.index("forest")
    masks[0, 0, 0] = COVERS.index("snow")  # a single pixel is no area
    changed = images.copy().astype(float)
    changed[:, :, 32:] *= 0.5
    table = sigma0_bias(images, changed.round().astype(np.uint8), masks).set_index("cover")
    assert set(table.index) == {"water", "forest"}
    assert table.loc["water", "bias_db"] == pytest.approx(0) and table.loc["forest", "bias_db"] == pytest.approx(-6.02, abs=0.1)
    with pytest.raises(InputError, match="same scenes"):
        sigma0_bias(images, images[:2], masks)


def test_looks_of_flat_windows_are_one_for_single_look_speckle_whatever_stands_beside():
    images, masks = speckle(16), np.zeros((16, 64, 64), np.uint8)
    images[:, :, 36:] = 200
    masks[:, :, 32:40], masks[:, :, 40:] = 1, 2
    flat = homogeneous_looks(images[:, :, :32], masks[:, :, :32])
    assert flat == pytest.approx(1.0, abs=0.12) and homogeneous_looks(images[:, :, :32], None) == pytest.approx(flat, abs=0.1)


def test_the_table_orders_ever_stronger_smoothing_and_knows_the_original():
    images, masks = speckle(8), np.zeros((8, 64, 64), np.uint8)
    variants = {"same": rgb(images), "little": rgb(smoothed(images, 0.4)), "much": rgb(smoothed(images, 1.2))}
    table = round_trip_table(images, variants, masks).set_index("variant")
    assert list(table.index) == [*variants, FLOOR] and list(table.columns) == list(MEASURES)
    errors = table.loc["same"].drop(["psnr_db", "lattice"])  # the one no error, the other there in the originals too
    assert (errors.abs() < 1e-9).all()
    assert table.loc["same", "lattice"] == table.loc[FLOOR, "lattice"] == lattice(images)  # equally many images
    for name in (name for name in MEASURES[1:-2] if name != "lattice"):
        assert abs(table.loc["little", name]) < abs(table.loc["much", name]), name
    assert table.loc["little", "psnr_db"] > table.loc["much", "psnr_db"]
    assert table.loc["much", "cv_error"] < -0.3 and table.loc["much", "enl_error"] > 1  # a despeckler
    assert table.loc[FLOOR, "amplitude_kl"] < table.loc["little", "amplitude_kl"]
    without = round_trip_table(images, variants).set_index("variant")
    assert without["bias_db"].isna().all() and without.loc["much", "amplitude_kl"] == table.loc["much", "amplitude_kl"]


def test_texture_table_keeps_directions_apart():
    striped = np.tile(np.array([0, 0, 200, 200], np.uint8), (2, 64, 16))
    table = texture_by_distance({"stripes": striped}).set_index(["direction", "distance", "property"])["value"]
    assert table["azimuth", 1, "contrast"] == 0 and table["range", 2, "contrast"] > table["range", 1, "contrast"] > 0


def test_gain_share_by_hand():
    names = ["frozen", "half", "full", FLOOR]
    table = pd.DataFrame({"variant": names, "amplitude_kl": [1.0, 0.6, 0.2, 0.0], "cv_error": [-0.1, -0.2, -0.3, 0]})
    shares = gain_shares(table, "full", "frozen", ("amplitude_kl", "cv_error")).set_index("variant")
    assert shares["amplitude_kl"].to_dict() == pytest.approx({"half": 0.5, "full": 1.0}) and shares["cv_error"].isna().all()


def test_score_is_the_geometric_mean_over_the_figures_to_reach():
    goals = {"amplitude_kl": 0.02, "cv_error": 0.05, "enl_error": 0.1, "spectrum_db": 1.0, "periodogram_db": 1.0, "glcm_distance": 2 * 0.3}
    factors = {"poor": 4.0, "good": -0.5}
    rows = [{"variant": name, "bias_db": np.nan} | {m: factor * goal for m, goal in goals.items()} for name, factor in factors.items()]
    rows[1]["amplitude_kl"] = 0.02 * 2  # and 0.5 five times
    table = pd.DataFrame([*rows, {"variant": FLOOR, **{m: 0.3 for m in goals}, "bias_db": np.nan}])
    found = score(table)
    assert list(found.index) == ["good", "poor"] and found["poor"] == pytest.approx(4)
    assert found["good"] == pytest.approx((2 * 0.5**5) ** (1 / 6))
    reached = reached_table(table).set_index("measure")
    assert reached.loc["glcm_distance", "to reach"] == pytest.approx(0.6) and reached.loc["cv_error", "good"] == pytest.approx(0.025)


def test_the_points_width_is_the_larger_change_of_both_directions_and_missing_where_no_point_is():
    table = pd.DataFrame([{"variant": name} | dict.fromkeys(MEASURES, 0.1) for name in ("wide", "narrow", "gone", FLOOR)])
    widths = {ORIGINAL: (2.0, 4.0), "wide": (2.1, 5.0), "narrow": (1.6, 4.0), "gone": (2.0, np.nan), FLOOR: (2.0, 4.04)}
    rows = [(name, *pair, 0.0) for name, pair in widths.items()]
    points = pd.DataFrame(rows, columns=["variant", "width_range", "width_azimuth", "contrast"])
    row = reached_table(table, points).set_index("measure").loc["point_width"]
    assert row[["to reach", "floor", "wide", "narrow"]].tolist() == pytest.approx([0.1, 0.01, 0.25, 0.2]) and np.isnan(row["gone"])
    without = reached_table(table, points[points["variant"] != FLOOR]).set_index("measure").loc["point_width"]
    assert np.isnan(without["floor"]) and without["wide"] == row["wide"]
    assert "point_width" not in set(reached_table(table)["measure"])


def test_lattices_of_sets_of_different_size_are_those_of_equally_many_images():
    real, few = speckle(64), speckle(8, seed=1)
    table = set_table(real, {"few": few, "more": speckle(16, seed=2)}).set_index("variant")["lattice"]
    assert table["few"] == lattice(few) and table[FLOOR] == lattice(real[::8])
    chance = 0.523 / np.sqrt(8 * 64)  # 8 images of 64 cells
    assert table.tolist() == pytest.approx([chance] * 3, rel=0.4)  # of 64 values each, within 9 %


def test_sets_of_other_scenes_are_told_apart_from_smoothed_ones():
    real, other = speckle(8), speckle(8, seed=1)
    table = set_table(real, {"other": other, "smooth": smoothed(other, 1.0)}).set_index("variant")
    for name in ("amplitude_kl", "kappa_distance", "glcm_distance", "spectrum_db"):
        assert table.loc["other", name] < 0.2 * table.loc["smooth", name], name


@pytest.mark.parametrize("window, lobe", [("rect", -13.26), ("taylor", -35.0)])
def test_point_response_is_the_designed_one(window, lobe):
    images = point_images(32, 96, (2.6, 3.4), window, clutter_db=-60)
    found = point_response(images)
    assert found["width_range"] == pytest.approx(2.6, rel=0.03) and found["width_azimuth"] == pytest.approx(3.4, rel=0.03)
    assert found["lobe_range"] == pytest.approx(lobe, abs=1.2)  # 8 bits see nothing below -47 dB
    cuts = point_cuts(images)
    assert cuts.loc[cuts["offset"] == 0, "power_db"].eq(0).all() and set(cuts["direction"]) == {"range", "azimuth"}


@pytest.mark.parametrize("side", [1.0, 1.37, 2.9])
def test_the_half_power_point_is_found_between_samples(side):
    samples = np.exp(-0.5 * np.log(2) * (np.linspace(0, 4, 129) / side) ** 2)  # half of the power at ``side``, in 32nds
    assert _half_power(samples) / 32 == pytest.approx(side, abs=1e-3)
    assert _half_power(samples[:20]) is None  # it has not fallen so far


def test_point_response_widens_with_blur_and_is_missing_where_no_point_is():
    images = point_images(16, 48, (1.2, 1.2))
    blurred = smoothed(images, 1.0)
    table = point_table({"before": images, "after": blurred}).set_index("variant")
    assert table.loc["after", "width_range"] > 1.3 * table.loc["before", "width_range"]
    assert table.loc["after", "contrast"] < table.loc["before", "contrast"]
    assert np.isnan(point_response(np.full((4, 48, 48), 9, np.uint8))["width_range"])
    with pytest.raises(InputError, match="too few"):
        point_images(1, 16, (1.2, 1.2))


def test_latents_that_all_move_by_one_deviation_have_the_frechet_distance_one():
    before = np.random.default_rng(0).normal(3, 2, (16, 4, 8, 8))
    moved = latent_shift(before, before + 2.0)
    assert moved["frechet"] == pytest.approx(1, rel=0.1) and moved["rms"] == pytest.approx(1, rel=0.1)
    assert moved["mean_shift"] == pytest.approx(2, rel=0.1) and moved["covariance_change"] == pytest.approx(0, abs=1e-9)
    wider = latent_shift(before, 3 + 1.5 * (before - 3))
    assert wider["covariance_change"] == pytest.approx(1.25, rel=0.01)
    assert wider["frechet"] == pytest.approx(0.25, rel=0.1)  # (1.5 - 1)^2 in every channel
    assert all(value == pytest.approx(0, abs=1e-9) for value in latent_shift(before, before).values())
    with pytest.raises(InputError, match="same images"):
        latent_shift(before, before[:2])


def test_scaling_gives_unit_variance_and_channels_are_told_apart():
    latents = np.random.default_rng(0).normal(0, 4, (8, 2, 16, 16))
    latents[:, 1] += 3
    assert (latents * unit_scaling(latents)).std() == pytest.approx(np.sqrt(1 + 0), rel=1e-9)
    table = channel_table({"sar": latents})
    assert table["mean"].iloc[1] == pytest.approx(3, abs=0.3) and list(table["channel"]) == [0, 1]
    with pytest.raises(InputError, match="expected"):
        unit_scaling(latents[0])
