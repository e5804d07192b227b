"""Amplitude to 8 bits: A / (mu + 3 sigma)."""

from __future__ import annotations

import numpy as np
import pytest

from sarnb.data.amplitude import Normalisation, moments
from sarnb.errors import InputError


def test_fit_equals_numpy_over_all_pixels_of_unequal_images() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.rayleigh(scale, shape) for scale, shape in ((1.0, (40, 30)), (7.0, (11, 5)), (0.1, (64, 64)))]
    everything = np.concatenate([part.ravel() for part in parts])
    fitted = Normalisation.fit(part.astype(np.float64) for part in parts)
    assert fitted.mu == pytest.approx(everything.mean(), rel=1e-12)
    assert fitted.sigma == pytest.approx(everything.std(), rel=1e-12)


def test_fit_keeps_its_digits_far_from_zero() -> None:
    values = 1e6 + np.random.default_rng(1).normal(0, 1e-2, 20_000)
    fitted = Normalisation.fit(np.array_split(values, 7))
    assert fitted.sigma == pytest.approx(values.std(), rel=1e-6)


def test_rayleigh_amplitude_is_scaled_as_theory_says() -> None:
    # Rayleigh with E[A^2] = 1: mu = sqrt(pi)/2, sigma = sqrt(1 - pi/4); P(A > mu + 3 sigma) = exp(-(mu + 3 sigma)^2)
    amplitude = np.random.default_rng(2).rayleigh(np.sqrt(0.5), 400_000)
    mu, sigma = np.sqrt(np.pi) / 2, np.sqrt(1 - np.pi / 4)
    fitted = Normalisation.fit([amplitude])
    assert fitted.mu == pytest.approx(mu, rel=5e-3)
    assert fitted.scale == pytest.approx(mu + 3 * sigma, rel=5e-3)
    clipped = np.mean(fitted.apply(amplitude) == 255)
    assert clipped == pytest.approx(np.exp(-((mu + 3 * sigma) ** 2 * (254.5 / 255) ** 2)), rel=0.1)


def test_apply_ends_and_inverts_to_half_a_level() -> None:
    scale = Normalisation(mu=2.0, sigma=1.0)
    assert scale.apply(np.array([0.0, 5.0, 50.0])).tolist() == [0, 255, 255]
    amplitude = np.linspace(0, scale.scale, 999)
    assert np.abs(scale.apply(amplitude) / 255 * scale.scale - amplitude).max() <= scale.scale / 510 * 1.001
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(scale.apply(levels / 255 * scale.scale), levels)


@pytest.mark.parametrize(("mu", "sigma"), [(0.0, 0.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_impossible_scales_are_refused(mu: float, sigma: float) -> None:
    with pytest.raises(InputError, match="cannot scale"):
        Normalisation(mu, sigma)


def test_fit_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="at least one image"):
        Normalisation.fit([])


def test_moments_of_one_array() -> None:
    assert moments(np.array([[1.0, 3.0]])) == (2, 2.0, 2.0)
