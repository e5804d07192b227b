"""Fitted amplitude laws against the laws the samples were drawn from, and against scipy's own fits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from sarnb.errors import InputError
from sarnb.metrics import fits

COUNT = 40_000


def k_samples(nu: float, looks: float, mean: float, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.sqrt(mean * rng.gamma(nu, 1 / nu, COUNT) * rng.gamma(looks, 1 / looks, COUNT))


def test_rayleigh_equals_scipy() -> None:
    sample = stats.rayleigh(scale=0.3).rvs(COUNT, random_state=1)
    assert fits.fit("rayleigh", sample).parameters["scale"] == pytest.approx(stats.rayleigh.fit(sample, floc=0)[1], rel=1e-4)


def test_weibull_equals_scipy() -> None:
    sample = stats.weibull_min(1.4, scale=0.2).rvs(COUNT, random_state=1)
    shape, _, scale = stats.weibull_min.fit(sample, floc=0)
    assert fits.fit("weibull", sample).parameters == pytest.approx({"shape": shape, "scale": scale}, rel=1e-3)


def test_lognormal_and_gamma_equal_scipy() -> None:
    sample = stats.gamma(2.3, scale=0.1).rvs(COUNT, random_state=1)
    sigma, _, median = stats.lognorm.fit(sample, floc=0)
    assert fits.fit("lognormal", sample).parameters == pytest.approx({"mu": np.log(median), "sigma": sigma}, rel=1e-3)
    shape, _, scale = stats.gamma.fit(sample, floc=0)
    assert fits.fit("gamma", sample).parameters == pytest.approx({"shape": shape, "scale": scale}, rel=1e-3)


@pytest.mark.parametrize(("nu", "looks"), [(0.8, 1.0), (3.0, 1.0), (4.0, 3.0)])
def test_k_finds_its_parameters(nu: float, looks: float) -> None:
    model = fits.fit_k(k_samples(nu, looks, 0.05), looks=looks)
    assert model.parameters["nu"] == pytest.approx(nu, rel=0.12)
    assert model.parameters["mean"] == pytest.approx(0.05, rel=0.03)


@pytest.mark.parametrize(("nu", "looks"), [(0.8, 1.0), (3.0, 1.0), (4.0, 3.0), (60.0, 1.0)])
def test_k_density_integrates_to_its_distribution(nu: float, looks: float) -> None:
    model = fits.AmplitudeFit("k", {"mean": 0.05, "nu": nu, "looks": looks})
    for upper in (0.1, 0.3):
        assert quad(lambda a: float(model.pdf(a)), 0, upper)[0] == pytest.approx(float(model.cdf(upper)), abs=2e-3)
    assert float(model.cdf(10.0)) == pytest.approx(1.0, abs=1e-3)


def test_k_without_texture_is_rayleigh() -> None:
    sample = stats.rayleigh(scale=0.3).rvs(COUNT, random_state=4)
    model, points = fits.fit_k(sample), np.linspace(0.1, 1, 10)
    np.testing.assert_allclose(model.cdf(points), stats.rayleigh(scale=0.3).cdf(points), atol=0.02)


def test_k_of_order_three_halves_is_a_gamma_law() -> None:
    # Bessel K of order 1/2 is elementary: the density becomes a exp(-b a) with b = 2 sqrt(nu / mean)
    model, points = fits.AmplitudeFit("k", {"mean": 0.02, "nu": 1.5, "looks": 1.0}), np.linspace(0.01, 0.8, 20)
    gamma = stats.gamma(2, scale=1 / (2 * np.sqrt(1.5 / 0.02)))
    np.testing.assert_allclose(model.pdf(points), gamma.pdf(points), rtol=1e-9)
    np.testing.assert_allclose(model.cdf(points), gamma.cdf(points), atol=1e-3)


def test_the_true_law_fits_best() -> None:
    sample = k_samples(4.0, 1.0, 0.02)
    counts = np.bincount(np.clip(np.rint(sample * 255), 0, 255).astype(int), minlength=256)
    scores = {name: fits.goodness(fits.fit_histogram(name, counts), counts) for name in fits.FAMILIES}
    assert min(scores, key=scores.get) == "k"
    assert scores["k"] < 0.02 < scores["rayleigh"]


def test_weights_stand_for_repeats() -> None:
    values, weights = np.array([0.1, 0.2, 0.5]), np.array([1, 3, 2])
    for name in fits.FAMILIES:
        first = fits.fit(name, values, weights).parameters
        assert first == pytest.approx(fits.fit(name, np.repeat(values, weights)).parameters)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="unknown law"):
        fits.fit("cauchy", np.ones(3))
    with pytest.raises(InputError, match="different amplitudes"):
        fits.fit("weibull", np.full(9, 0.2))
    with pytest.raises(InputError, match="NaN"):
        fits.fit("gamma", np.array([0.1, np.nan]))
    with pytest.raises(InputError, match="0 or less"):
        fits.fit("rayleigh", np.array([0.0, 1.0]))
    with pytest.raises(InputError, match="looks"):
        fits.fit_k(np.array([0.1, 1.0]), looks=0)
