"""Measures of the round trip against theory: known leaks, spectra, lattices, gains, point responses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio

from sarnb.errors import InputError
from sarnb.metrics.roundtrip import (
    FLOOR,
    MEASURES,
    homogeneous_enl,
    lattice,
    linear_code_psnr,
    mean_periodogram,
    periodogram_gap,
    point_images,
    point_response,
    radial_spectrum,
    round_trip_table,
    score,
    set_table,
    sigma0_bias,
    spectrum_gap,
    targets,
)
from sarnb.metrics.texture import glcm_descriptors
from sarnb.world.backscatter import COVERS


def speckle(count: int = 8, size: int = 64, seed: int = 0, level: float = 45.0) -> np.ndarray:
    """Single-look amplitude of a flat scene, 8 bit."""
    return np.random.default_rng(seed).rayleigh(level, (count, size, size)).clip(0, 255).astype(np.uint8)


def noise(count: int = 24, size: int = 64, deviation: float = 20) -> np.ndarray:
    """Normally distributed amplitudes around the middle grey."""
    return np.random.default_rng(0).normal(128, deviation, (count, size, size)).clip(0, 255).round().astype(np.uint8)


def rgb(images: np.ndarray) -> np.ndarray:
    return np.repeat(images[..., None], 3, -1)


def smoothed(images: np.ndarray, width: float) -> np.ndarray:
    return ndimage.gaussian_filter(images.astype(float), (0, width, width)).round().astype(np.uint8)


def test_leak_is_the_distance_from_grey_by_hand():
    real = noise(32)
    tinted = np.repeat(np.clip(real, 3, 252)[..., None], 3, axis=-1) + np.array([-3, 0, 3], np.int8).astype(np.uint8)
    leaks = round_trip_table(real, {"grey": np.repeat(real[..., None], 3, axis=-1), "tinted": tinted})["leak"]
    assert leaks[0] == 0 and leaks[1] == pytest.approx(np.sqrt((9 + 0 + 9) / 3))
    with pytest.raises(InputError, match="three channels"):
        round_trip_table(real, {"grey": real})


def test_spectrum_of_white_noise_is_flat_and_of_a_wave_has_its_line():
    frequency, power = radial_spectrum(noise(64))
    assert frequency[-1] == 0.5 and power.shape == (32,)
    np.testing.assert_allclose(power[2:], (20 / 255) ** 2, rtol=0.1)  # the two lowest lose power with the mean
    wave = np.rint(128 + 60 * np.cos(2 * np.pi * 8 * np.arange(64) / 64))[None, None, :].repeat(64, 1).astype(np.uint8)
    assert frequency[radial_spectrum(wave)[1].argmax()] == 8 / 64
    with pytest.raises(InputError, match="square"):
        radial_spectrum(noise(2)[:, :32])


def test_rings_equal_those_of_the_whole_plane():
    """By numpy's transform of both halves of the plane, ring by ring."""
    image = noise(1, size=32)
    window = np.outer(np.hanning(32), np.hanning(32))
    power = np.abs(np.fft.fft2((image[0] / 255 - image[0].mean() / 255) * window)) ** 2 / (window**2).sum()
    ring = np.rint(np.hypot(*np.meshgrid(*[np.fft.fftfreq(32, 1 / 32)] * 2)))
    np.testing.assert_allclose(radial_spectrum(image)[1], [power[ring == r].mean() for r in range(1, 17)])


def test_white_noise_has_its_variance_at_every_frequency_of_the_plane():
    np.testing.assert_allclose(mean_periodogram(noise())[3:14, 2:], (20 / 255) ** 2, rtol=0.12)
    with pytest.raises(InputError, match="at least 16 x 16"):
        mean_periodogram(np.zeros((2, 8, 8), np.uint8))


def test_twice_the_contrast_is_six_decibels_everywhere():
    np.testing.assert_allclose(periodogram_gap(noise(deviation=15), noise(deviation=30)), 20 * np.log10(2), atol=0.25)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_grating_stands_on_its_own_axis(axis):
    wave = 128 + 60 * np.cos(2 * np.pi * np.arange(64) / 4)  # a quarter of a cycle a pixel
    image = np.broadcast_to(wave[:, None] if axis == 0 else wave, (64, 64)).round().astype(np.uint8)
    row, column = np.unravel_index(mean_periodogram(image[None]).argmax(), (16, 9))
    assert (min(row, 16 - row), column) == ((4, 0) if axis == 0 else (0, 4))


def test_lattice_of_speckle_is_what_chance_leaves_and_grows_with_the_pattern():
    amplitudes = np.random.default_rng(1).rayleigh(30, (16, 64, 64))
    cell = np.zeros((8, 8))
    cell[::2, ::2] = 1
    plain, weak, strong = (lattice((amplitudes * np.tile(1 + a * cell, (8, 8))).clip(0, 255).astype(np.uint8)) for a in (0, 0.2, 0.6))
    assert plain == pytest.approx(0.523 / np.sqrt(16 * 64), rel=0.4)
    assert weak == pytest.approx(0.2 * cell.std() / (1 + 0.2 * cell.mean()), rel=0.3)
    assert strong == pytest.approx(0.6 * cell.std() / (1 + 0.6 * cell.mean()), rel=0.15)


def test_a_pattern_that_moves_with_the_scene_is_no_lattice():
    wave = 60 * np.cos(2 * np.pi * np.arange(64) / 8)
    images = np.stack([np.broadcast_to(128 + np.roll(wave, shift), (64, 64)) for shift in range(8)]).round().astype(np.uint8)
    assert lattice(images) < 0.02 < 0.2 < lattice(images[:1])


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
    table = sigma0_bias(images, changed.round().astype(np.uint8), masks, masks).set_index("cover")
    assert set(table.index) == {"water", "forest"}
    assert table.loc["water", "bias_db"] == pytest.approx(0) and table.loc["forest", "bias_db"] == pytest.approx(-6.02, abs=0.1)
    with pytest.raises(InputError, match="same scenes"):
        sigma0_bias(images, images[:2], masks, masks)


def test_looks_of_flat_windows_are_one_for_single_look_speckle_whatever_stands_next_to_them():
    images, masks = speckle(16), np.zeros((16, 64, 64), np.uint8)
    images[:, :, 36:] = 200
    masks[:, :, 32:40], masks[:, :, 40:] = 1, 2
    flat = homogeneous_enl(images[:, :, :32], masks[:, :, :32])
    assert flat == pytest.approx(1.0, abs=0.12) and homogeneous_enl(images[:, :, :32], None) == pytest.approx(flat, abs=0.1)


def test_the_table_orders_ever_stronger_smoothing_and_knows_the_original():
    images, masks = speckle(8), np.zeros((8, 64, 64), np.uint8)
    variants = {"same": rgb(images), "little": rgb(smoothed(images, 0.4)), "much": rgb(smoothed(images, 1.2))}
    table = round_trip_table(images, variants, masks).set_index("variant")
    assert list(table.index) == [*variants, FLOOR] and list(table.columns) == list(MEASURES)
    errors = table.loc["same"].drop(["psnr_db", "lattice", "zero_share"])  # the one no error, the others there in the originals too
    assert (errors.abs() < 1e-9).all()
    assert table.loc["same", "lattice"] == table.loc[FLOOR, "lattice"] == lattice(images)  # equally many images
    for name in set(MEASURES) - {"psnr_db", "lattice", "bias_db", "leak", "zero_share"}:
        assert abs(table.loc["little", name]) < abs(table.loc["much", name]), name
    assert table.loc["little", "psnr_db"] > table.loc["much", "psnr_db"]
    assert table.loc["much", "cv_error"] < -0.3 and table.loc["much", "enl_error"] > 1  # a despeckler
    assert table.loc[FLOOR, "amplitude_kl"] < table.loc["little", "amplitude_kl"]
    without = round_trip_table(images, variants).set_index("variant")
    assert without["bias_db"].isna().all() and without.loc["much", "amplitude_kl"] == table.loc["much", "amplitude_kl"]


def test_the_floor_is_the_median_of_halvings_in_the_unit_of_all_originals():
    real = np.concatenate([speckle(9, level=30.0), speckle(4, seed=1, level=60.0)])
    standard = glcm_descriptors(real)
    standard = (standard - standard.mean(0)) / standard.std(0)
    distances, contrasts = [], []
    for number in range(20):
        order = np.random.default_rng(number).permutation(13)
        first, second = order[:7], order[7:]
        distances.append(np.abs(standard[first].mean(0) - standard[second].mean(0)).mean())
        spread = [np.mean([image.std() / image.mean() for image in real[part].astype(float)]) for part in (first, second)]
        contrasts.append(abs(spread[1] / spread[0] - 1))
    floor = set_table(real, {"other": speckle(6, seed=2)}).set_index("variant").loc[FLOOR]
    assert floor["glcm_distance"] == pytest.approx(np.median(distances))
    assert floor["cv_error"] == pytest.approx(np.median(contrasts), rel=1e-6)


def test_score_is_the_geometric_mean_over_the_figures_to_reach():
    goals = {"amplitude_kl": 0.02, "cv_error": 0.05, "enl_error": 0.1, "spectrum_db": 1.0, "periodogram_db": 1.0}
    goals |= dict.fromkeys(("glcm_distance", "kappa_distance", "lattice", "zero_share"), 2 * 0.3)  # twice the floor
    factors = {"poor": 4.0, "good": -0.5}
    rows = [{"variant": name, "bias_db": np.nan} | {m: factor * goal for m, goal in goals.items()} for name, factor in factors.items()]
    rows[1]["amplitude_kl"] = 0.02 * 2  # and 0.5 eight times
    table = pd.DataFrame([*rows, {"variant": FLOOR, **{m: 0.3 for m in goals}, "bias_db": np.nan}])
    found = score(table)
    assert list(found.index) == ["good", "poor"] and found["poor"] == pytest.approx(4)
    assert found["good"] == pytest.approx((2 * 0.5**8) ** (1 / 9))
    assert targets(table)["kappa_distance"] == pytest.approx(0.6)
    assert targets(table.assign(zero_share=0.0))["zero_share"] == 1e-3, "references without a black pixel ask for no miracle"


def test_black_pixels_are_counted_of_each_variant_and_of_the_originals():
    real = speckle(8).clip(1)
    real[0, 0, :8] = 0
    cut = real.copy()
    cut[:, ::8] = 0  # an eighth of the rows
    table = round_trip_table(real, {"cut": rgb(cut)}).set_index("variant")["zero_share"]
    assert table[FLOOR] == 8 / real.size and table["cut"] == 1 / 8


def test_lattices_of_sets_of_different_size_are_those_of_equally_many_images():
    real, few = speckle(64), speckle(8, seed=1)
    table = set_table(real, {"few": few, "more": speckle(16, seed=2)}).set_index("variant")["lattice"]
    assert table["few"] == lattice(few) and table[FLOOR] == lattice(real[::8])
    chance = 0.523 / np.sqrt(8 * 64)  # 8 images of 64 cells
    assert table.tolist() == pytest.approx([chance] * 3, rel=0.4)  # of 64 values each, within 9 %


@pytest.mark.parametrize("window, lobe", [("rect", -13.26), ("taylor", -35.0)])
def test_point_response_is_the_designed_one(window, lobe):
    images = point_images(32, 96, (2.6, 3.4), window, clutter_db=-60)
    found, power = point_response(images)
    assert found["width_range"] == pytest.approx(2.6, rel=0.03) and found["width_azimuth"] == pytest.approx(3.4, rel=0.03)
    assert found["lobe_range"] == pytest.approx(lobe, abs=1.2)  # 8 bits see nothing below -47 dB
    assert np.unravel_index(power.argmax(), (96, 96)) == (48, 48)


def test_point_response_widens_with_blur_and_is_missing_where_no_point_is():
    images = point_images(16, 48, (1.2, 1.2))
    before, after = (point_response(stack)[0] for stack in (images, smoothed(images, 1.0)))
    assert after["width_range"] > 1.3 * before["width_range"] and after["contrast"] < before["contrast"]
    assert np.isnan(point_response(np.full((4, 48, 48), 9, np.uint8))[0]["width_range"])
    with pytest.raises(InputError, match="too few"):
        point_images(1, 16, (1.2, 1.2))


def test_linear_code_equals_scikit_image_on_its_own_reconstruction():
    """The same subspace by a singular value decomposition, the picture rebuilt and compared by scikit-image."""
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(6, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    images = (128 + 20 * smooth + 8 * rng.normal(size=(6, 16, 16, 3))).clip(0, 255).astype(np.uint8)
    blocks = images.reshape(6, 2, 8, 2, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(24, 192).astype(float)
    mean = blocks.mean(axis=0)
    axes = np.linalg.svd(blocks - mean, full_matrices=False)[2][:5]
    rebuilt = (mean + (blocks - mean) @ axes.T @ axes).reshape(6, 2, 2, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(images.shape)
    expected = np.mean([peak_signal_noise_ratio(a.astype(float), b, data_range=255) for a, b in zip(images, rebuilt)])
    assert linear_code_psnr(images, images, 8, (5,))[5] == pytest.approx(expected, abs=1e-6)


def test_linear_code_keeps_all_with_as_many_numbers_as_values():
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    found = linear_code_psnr(images, images, 4, (1, 8, 16))
    assert found[1] < found[8] < found[16] and found[16] > 100
    with pytest.raises(InputError, match="at most 16"):
        linear_code_psnr(images, images, 4, (17,))
    with pytest.raises(InputError, match="sides"):
        linear_code_psnr(images, images, 3, (1,))
