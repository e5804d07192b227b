"""Amplitude measures against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import gammaln, polygamma

from sarnb.errors import InputError
from sarnb.metrics import amplitude

RNG_SEED = 11


def speckle(looks: float, count: int = 8, size: int = 128, scale: float = 40.0, seed: int = RNG_SEED) -> np.ndarray:
    """Flat scene of `looks`-look speckle as 8-bit amplitude [count, size, size]."""
    intensity = np.random.default_rng(seed).gamma(looks, 1.0 / looks, (count, size, size))
    return np.clip(np.rint(np.sqrt(intensity) * scale), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def rayleigh() -> np.ndarray:
    return amplitude.histogram(speckle(1.0)).sum(0)


def test_histogram_counts_every_level() -> None:
    image = np.array([[[0, 0, 3], [255, 3, 3]]], np.uint8)
    counts = amplitude.histogram(image)
    assert counts.shape == (1, 256)
    assert {0: 2, 3: 3, 255: 1} == {int(level): int(counts[0, level]) for level in np.flatnonzero(counts[0])}


@pytest.mark.parametrize("looks", [1.0, 4.0])
def test_equivalent_number_of_looks(looks: float) -> None:
    assert amplitude.local_enl(speckle(looks)).mean() == pytest.approx(looks, rel=0.15)


def test_local_enl_ignores_the_scene() -> None:
    flat = speckle(1.0)
    steps = flat.copy()
    steps[:, :, 64:] = speckle(1.0, scale=10.0)[:, :, 64:]  # an edge of 12 dB on a window border
    intensity = steps.astype(float) ** 2
    assert intensity.mean() ** 2 / intensity.var() < 0.6, "the ENL of the whole image is that of the scene's contrast"
    assert amplitude.local_enl(steps).mean() == pytest.approx(amplitude.local_enl(flat).mean(), rel=0.1)


@pytest.mark.parametrize(("looks", "order"), [(1.0, np.inf), (4.0, np.inf), (1.0, 4.0), (4.0, 2.0)])
def test_gamma_and_k_log_cumulants_and_variation(looks: float, order: float) -> None:
    """L-look speckle (gamma intensity), alone and over gamma texture of order nu (K law); A = sqrt(I)."""
    rng = np.random.default_rng(RNG_SEED)
    shape = (8, 250, 250)
    texture = 1.0 if np.isinf(order) else rng.gamma(order, 1 / order, shape)
    images = np.clip(np.rint(np.sqrt(rng.gamma(looks, 1 / looks, shape) * texture) * 45), 0, 255).astype(np.uint8)
    parts = [looks] if np.isinf(order) else [looks, order]
    counts = amplitude.histogram(images).sum(0)
    _, second, third = amplitude.log_cumulants(counts)
    assert second == pytest.approx(sum(polygamma(1, x) for x in parts) / 4, rel=0.02)
    assert third == pytest.approx(sum(polygamma(2, x) for x in parts) / 8, rel=0.05)
    # E A = prod Gamma(x + 1/2) / (Gamma(x) sqrt x) and E A^2 = 1
    mean = np.exp(sum(gammaln(x + 0.5) - gammaln(x) - 0.5 * np.log(x) for x in parts))
    assert amplitude.coefficient_of_variation(counts) == pytest.approx(np.sqrt(1 / mean**2 - 1), rel=0.01)


def test_kl_by_hand() -> None:
    p, q = np.zeros(256), np.zeros(256)
    p[[10, 20]] = 3, 1
    q[[10, 20]] = 1, 1
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert amplitude.kl(p, q, epsilon=0.0 + 1e-12) == pytest.approx(expected, abs=1e-8)
    assert amplitude.kl(p, q) == pytest.approx(stats.entropy(amplitude.probabilities(p, 1e-6), amplitude.probabilities(q, 1e-6)))
    assert amplitude.reverse_kl(p, q) == pytest.approx(amplitude.kl(q, p))
    assert amplitude.kl(p, p) == 0.0


def test_jensen_shannon_bounds(rayleigh: np.ndarray) -> None:
    other = np.zeros(256)
    other[255] = 1
    lonely = np.zeros(256)
    lonely[0] = 5
    assert amplitude.jensen_shannon(other, lonely) == pytest.approx(np.log(2))
    assert amplitude.jensen_shannon(rayleigh, 3 * rayleigh) == pytest.approx(0, abs=1e-12)


def test_wasserstein_and_kolmogorov_smirnov_equal_scipy() -> None:
    first, second = speckle(1.0, count=1, size=64), speckle(3.0, count=1, size=64, seed=2)
    counts = amplitude.histogram(first)[0], amplitude.histogram(second)[0]
    a, b = first.ravel() / 255, second.ravel() / 255
    assert amplitude.wasserstein(*counts) == pytest.approx(stats.wasserstein_distance(a, b))
    assert amplitude.kolmogorov_smirnov(*counts) == pytest.approx(stats.ks_2samp(a, b).statistic)


def test_leading_axes_are_kept() -> None:
    counts = amplitude.histogram(speckle(1.0, count=4, size=32))
    together = amplitude.kl(counts, counts[::-1])
    assert together.shape == (4,)
    assert together[1] == pytest.approx(amplitude.kl(counts[1], counts[2]))
    assert amplitude.log_cumulants(counts).shape == (4, 3)


@pytest.mark.parametrize("measure", ["kl", "reverse_kl", "jensen_shannon", "wasserstein", "kolmogorov_smirnov", "log_cumulant_distance"])
def test_wrong_speckle_law_is_ordered(measure: str, rayleigh: np.ndarray) -> None:
    function = getattr(amplitude, measure)
    values = [float(function(rayleigh, amplitude.histogram(speckle(looks, seed=5)).sum(0))) for looks in (1.0, 1.5, 2.5, 4.0)]
    assert values == sorted(values)
    assert values[1] > 10 * values[0]


def test_gaps_of_storage_are_filled_by_hand() -> None:
    counts = np.zeros((2, 256))
    counts[0, [10, 12, 14]], counts[1, [16, 17]] = 100, (100, 300)
    filled = amplitude.filled(counts)
    assert filled.sum(1) == pytest.approx([1, 1])
    # 10 stands for [9.5, 11], 12 for [11, 13], 14 for [13, 15]; 16 for [15, 16.5], 17 for itself
    assert filled[0, 9:17] * 3 == pytest.approx([0, 1 / 1.5, 0.5 / 1.5 + 0.25, 0.5, 0.25 + 0.25, 0.5, 0.25, 0])
    assert filled[1, 14:19] == pytest.approx([0, 0.25 * 0.5 / 1.5, 0.25 / 1.5, 0.75, 0])


def overlay(images: np.ndarray) -> np.ndarray:
    """A scale bar of all grey levels in one image."""
    images[0, 0, :], images[0, 1, :] = np.arange(0, 256, 2), np.arange(1, 256, 2)
    return images


@pytest.mark.parametrize("strays", ["none", "an overlay", "an image as it was"])
@pytest.mark.parametrize("curve", [lambda a: a**0.9, lambda a: a**0.8, lambda a: 1.7 * a], ids=["gamma 0.9", "gamma 0.8", "stretch"])
def test_a_curve_in_8_bits_costs_what_the_curve_itself_costs(curve, strays: str) -> None:
    def drawn(levels: np.ndarray) -> np.ndarray:
        return np.rint(np.clip(curve(levels / 255), 0, 1) * 255).astype(np.uint8)

    real, other = amplitude.histogram(speckle(1.0, 20)), speckle(1.0, 20, seed=5)
    before = np.sqrt(np.random.default_rng(5).gamma(1.0, 1.0, other.shape)) * 40  # the same amplitudes, not yet in 8 bits
    curved = {
        "none": drawn,
        "an overlay": lambda a: overlay(drawn(a)),
        "an image as it was": lambda a: np.concatenate([a[:1], drawn(a[1:])]),
    }[strays]
    truth, filled, raw = (
        float(amplitude.kl(share(real).mean(0), share(amplitude.histogram(images)).mean(0)))
        for share, images in ((amplitude.filled, drawn(before)), (amplitude.filled, curved(other)), (amplitude.probabilities, drawn(other)))
    )
    assert filled == pytest.approx(truth, rel=0.3, abs=0.02) and raw > 3 * filled


@pytest.mark.parametrize("step", [4, 16, 17, 36])
def test_coarse_levels_cost_no_more_than_what_their_middles_know_of_the_law(step: int) -> None:
    """Rounded to every ``step``-th level; independently, the same levels spread evenly over their cells as pixels."""
    real, other = amplitude.histogram(speckle(1.0, 20)).sum(0), speckle(1.0, 20, seed=5)
    coarse = np.rint(other / step) * step
    spread = np.abs(np.rint(coarse + np.random.default_rng(2).uniform(-step / 2, step / 2, coarse.shape)))  # what falls below 0 turns back
    found, even = (
        amplitude.filled(amplitude.histogram(coarse.astype(np.uint8))).mean(0),
        np.bincount(spread.astype(int).ravel(), minlength=256),
    )
    assert amplitude.kl(real, found) == pytest.approx(amplitude.kl(real, even[:256]), rel=0.3, abs=0.03)
    assert amplitude.kl(real, found) < 0.3 < amplitude.kl(real, amplitude.histogram(coarse.astype(np.uint8)).sum(0))


def test_sets_without_gaps_of_storage_stay_as_they_are() -> None:
    flat = amplitude.histogram(speckle(1.0))
    assert np.array_equal(amplitude.filled(flat), amplitude.probabilities(flat))
    border = speckle(1.0)
    border[:, :20], border[:, 20:] = 0, np.maximum(border[:, 20:], 9)  # no data, and nothing between 0 and 9
    modes = np.concatenate([speckle(60.0, scale=15.0), speckle(60.0, scale=90.0), speckle(200.0, scale=200.0)])  # valleys between them
    for images in (border, modes, np.maximum(speckle(1.0, scale=110.0), 4)):  # the last is saturated
        counts = amplitude.histogram(images)
        assert np.array_equal(amplitude.filled(counts), amplitude.probabilities(counts))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="at least 1 needed"):
        amplitude.histogram(np.zeros((0, 8, 8), np.uint8))
    with pytest.raises(InputError, match="NaN"):
        amplitude.histogram(np.full((1, 8, 8), np.nan))
    with pytest.raises(InputError, match="8-bit"):
        amplitude.histogram(np.zeros((1, 8, 8), np.float32))
    with pytest.raises(InputError, match="different sizes"):
        amplitude.histogram([np.zeros((8, 8), np.uint8), np.zeros((8, 9), np.uint8)])
    with pytest.raises(InputError, match="empty or NaN"):
        amplitude.kl(np.zeros(256), np.ones(256))
    with pytest.raises(InputError, match="smaller than the 8 px window"):
        amplitude.local_enl(np.zeros((1, 4, 4), np.uint8))


def test_zero_share_of_speckle_is_that_of_rayleigh() -> None:
    mean, count = 4.0, 1_000_000
    drawn = np.random.default_rng(0).rayleigh(mean / np.sqrt(np.pi / 2), (1, 1000, count // 1000)).round().clip(0, 255).astype(np.uint8)
    expected = 1 - np.exp(-np.pi / (16 * mean**2))
    found = amplitude.zero_share(amplitude.histogram(drawn))[0]
    assert found == pytest.approx(expected, abs=4 * np.sqrt(expected / count))
