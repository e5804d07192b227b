"""Spectra of small windows and the lattice of a decoder, against theory."""

from __future__ import annotations

import numpy as np
import pytest

from sarnb.errors import InputError
from sarnb.metrics.roundtrip import lattice, periodogram, periodogram_gap


def noise(count: int = 24, size: int = 64, deviation: float = 20, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(128, deviation, (count, size, size))
    return values.clip(0, 255).round().astype(np.uint8)


def test_white_noise_has_its_variance_at_every_frequency():
    power = periodogram(noise())[3:14, 2:]  # the lowest lose power with the mean
    np.testing.assert_allclose(power, (20 / 255) ** 2, rtol=0.12)


def test_twice_the_contrast_is_six_decibels_everywhere():
    gap = periodogram_gap(noise(deviation=15), noise(deviation=30))
    np.testing.assert_allclose(gap, 20 * np.log10(2), atol=0.25)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_grating_stands_on_its_own_axis(axis):
    wave = 128 + 60 * np.cos(2 * np.pi * np.arange(64) / 4)  # a quarter of a cycle a pixel
    image = np.broadcast_to(wave[:, None] if axis == 0 else wave, (64, 64)).round().astype(np.uint8)
    row, column = np.unravel_index(periodogram(image[None]).argmax(), (16, 9))
    assert (min(row, 16 - row), column) == ((4, 0) if axis == 0 else (0, 4))


def test_lattice_of_speckle_is_what_chance_leaves_and_grows_with_the_pattern():
    speckle = np.random.default_rng(1).rayleigh(30, (16, 64, 64))
    cell = np.zeros((8, 8))
    cell[::2, ::2] = 1
    plain, weak, strong = (lattice((speckle * np.tile(1 + a * cell, (8, 8))).clip(0, 255).astype(np.uint8)) for a in (0, 0.2, 0.6))
    assert plain == pytest.approx(0.523 / np.sqrt(16 * 64), rel=0.4)
    assert weak == pytest.approx(0.2 * cell.std() / (1 + 0.2 * cell.mean()), rel=0.3)
    assert strong == pytest.approx(0.6 * cell.std() / (1 + 0.6 * cell.mean()), rel=0.15)


def test_a_pattern_that_moves_with_the_scene_is_no_lattice():
    wave = 60 * np.cos(2 * np.pi * np.arange(64) / 8)
    images = np.stack([np.broadcast_to(128 + np.roll(wave, shift), (64, 64)) for shift in range(8)]).round().astype(np.uint8)
    assert lattice(images) < 0.02 < 0.2 < lattice(images[:1])


def test_small_images_are_refused():
    with pytest.raises(InputError, match="at least 16 x 16"):
        periodogram(np.zeros((2, 8, 8), np.uint8))
