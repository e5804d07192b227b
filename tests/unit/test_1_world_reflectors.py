"""Corner reflectors in images against the response they are meant to have."""

from __future__ import annotations

import numpy as np
import pytest

from sarnb.errors import InputError
from sarnb.world import speckle as reflectors
from sarnb.world.speckle import add_points, impulse_response, with_reflectors

DARK = np.zeros((24, 64, 64), np.uint8)


def half_power_width(cut: np.ndarray) -> float:
    """-3 dB width of a band-limited amplitude cut, read on a grid 32 times finer (zero-padded spectrum)."""
    spectrum, size = np.fft.fftshift(np.fft.fft(cut)), len(cut)
    fine = np.abs(np.fft.ifft(np.fft.ifftshift(np.pad(spectrum, (size * 31) // 2))))
    top = int(fine.argmax())
    above = np.roll(fine, len(fine) // 2 - top) >= fine.max() * np.sqrt(0.5)
    left, right = np.flatnonzero(~above[: len(fine) // 2]).max(), np.flatnonzero(~above[len(fine) // 2 :]).min() + len(fine) // 2
    return (right - left - 1) / 32


def test_a_point_is_as_wide_as_the_resolution_and_as_high_as_was_drawn(monkeypatch):
    monkeypatch.setattr(reflectors, "PEAKS", (0.8, 0.8))
    found, peaks = [], []
    for image in with_reflectors(np.zeros((40, 64, 64), np.uint8), (3.0, 4.0), np.random.default_rng(0), count=1):
        row, column = np.unravel_index(image.argmax(), image.shape)
        if 14 <= row < 50 and 14 <= column < 50:
            found.append((half_power_width(image[row] / 255), half_power_width(image[:, column] / 255)))
            peaks.append(image.max() / 255)
    assert len(found) > 5
    np.testing.assert_allclose(np.mean(found, axis=0), (3.0, 4.0), rtol=0.05)
    assert 0.7 < min(peaks) and max(peaks) <= 0.805  # between pixels the highest sample lies below the peak


def test_a_point_on_a_pixel_is_that_of_the_image_formation():
    """Against ``impulse_response`` of one point in a grid, which filters in two dimensions at once."""
    dark = np.zeros((64, 64), np.complex64)
    place = np.array([30]), np.array([21])
    formed = impulse_response(add_points(dark, *place, np.ones(1, np.complex64)), (1.7, 2.4), "taylor")
    rows, columns = (reflectors._responses(64, ratio, "taylor", where.astype(float)) for ratio, where in zip((2.4, 1.7), place))
    np.testing.assert_allclose(np.abs(rows.T @ columns), np.abs(formed) / np.abs(formed).max(), atol=0.02)


def test_point_and_scene_add_in_power(monkeypatch):
    """E|A e^{iφ} + P|² = A² + P² over the random phase φ, with the dimming held at none."""
    monkeypatch.setattr(reflectors, "DIMMEST_DB", 0.0)
    monkeypatch.setattr(reflectors, "PEAKS", (0.5, 0.5))
    count, scene = 1200, np.full((1200, 16, 16), 51, np.uint8)
    powers = [(with_reflectors(level * scene, (2.0, 2.0), np.random.default_rng(1), count=1) / 255.0) ** 2 for level in (0, 1)]
    alone, both = (power.mean(axis=(1, 2)) for power in powers)
    noise = (both - alone).std() / np.sqrt(count)
    assert both.mean() - alone.mean() == pytest.approx(0.2**2, abs=4 * noise) and noise < 4e-3


def test_without_points_the_scene_is_dimmed_by_at_most_the_stated_factor():
    scene = np.random.default_rng(0).rayleigh(40, (32, 32, 32)).clip(1, 255).astype(np.uint8)
    dimmed = with_reflectors(scene, (1.2, 1.2), np.random.default_rng(0), count=0)
    factors = dimmed.mean(axis=(1, 2)) / scene.mean(axis=(1, 2))
    assert 10 ** (reflectors.DIMMEST_DB / 20) * 0.9 < factors.min() < 0.15 and 0.7 < factors.max() <= 1.001
    assert np.corrcoef(dimmed[factors.argmax()].ravel(), scene[factors.argmax()].ravel())[0, 1] > 0.999


def test_the_same_generator_gives_the_same_images_and_an_impossible_resolution_is_refused():
    first, second = (with_reflectors(DARK, (1.2, 1.2), np.random.default_rng(3)) for _ in range(2))
    assert (first == second).all() and (first.max(axis=(1, 2)) > 0.3 * 255).all()
    with pytest.raises(InputError, match="resolution over spacing is"):
        with_reflectors(DARK, (1.0, 1.2), np.random.default_rng(0))
