"""Bootstrap intervals against the known error of a mean, and weights against real resampling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sarnb.errors import InputError
from sarnb.metrics import amplitude, bootstrap, distribution


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for index in range(200):
        _, lo, hi = bootstrap.interval(np.mean, [rng.normal(size=40)], resamples=120, seed=index)
        hits += lo <= 0 <= hi
    assert 175 <= hits <= 199


def test_interval_is_deterministic_and_takes_two_arrays() -> None:
    first, second = np.arange(9.0), np.arange(5.0) + 4
    gap = lambda a, b: float(b.mean() - a.mean())  # noqa: E731
    assert bootstrap.interval(gap, [first, second], 50, seed=3) == bootstrap.interval(gap, [first, second], 50, seed=3)
    assert bootstrap.interval(gap, [first, second], 50, seed=3) != bootstrap.interval(gap, [first, second], 50, seed=4)


def test_stratified_weights() -> None:
    strata = ["a"] * 6 + ["b"] * 2
    base, resampled = bootstrap.stratified_weights(strata, 500, seed=0)
    np.testing.assert_allclose(base, [1 / 12] * 6 + [1 / 4] * 2)
    np.testing.assert_allclose(resampled[:, :6].sum(1), 0.5)
    np.testing.assert_allclose(resampled.mean(0), base, rtol=0.15)
    np.testing.assert_array_equal(resampled, bootstrap.stratified_weights(strata, 500, seed=0)[1])


def test_weights_agree_with_resampling() -> None:
    data = np.random.default_rng(2).gamma(2, size=60)
    _, weights = bootstrap.stratified_weights(["x"] * 60, 2000, seed=0)
    by_weights = bootstrap.percentile_interval(weights @ data, data.mean())
    _, *by_rows = bootstrap.interval(np.mean, [data], 2000, seed=1)
    np.testing.assert_allclose(by_weights, by_rows, atol=0.04)


def test_variance_over_resamples_is_the_unbiased_one() -> None:
    data = np.random.default_rng(5).normal(size=8)  # as many images as the quick profile draws of a class
    _, weights = bootstrap.stratified_weights(["x"] * 8, 20_000, seed=0)
    assert (weights @ data).var() == pytest.approx(data.var(ddof=1) / 8, rel=0.04)


def test_interval_of_a_mean_agrees_with_bca_of_scipy() -> None:
    data = np.random.default_rng(3).gamma(2, size=80)
    _, *package = bootstrap.interval(np.mean, [data], 4000, seed=0)
    theirs = stats.bootstrap((data,), np.mean, method="BCa", n_resamples=4000, rng=np.random.default_rng(1)).confidence_interval
    np.testing.assert_allclose(package, theirs, atol=0.15 * (theirs.high - theirs.low))


EDGES = np.concatenate([[0], np.arange(255) + 0.5, [1e9]])
FIRST = [stats.rayleigh(scale=scale) for scale in (30, 40, 50)]  # each image has one of these laws, as scenes differ in brightness
OTHERS = {
    "same": FIRST,
    "near": [stats.rayleigh(scale=1.1 * scale) for scale in (30, 40, 50)],
    "far": [stats.gamma(2, scale=scale) for scale in (20, 35, 50)],
}


def shares(laws: list) -> np.ndarray:
    """Probabilities of the 8-bit levels under each law, [K, 256]."""
    return np.array([np.diff(law.cdf(EDGES)) for law in laws])


def coverage(draw, statistic, truth: float, trials: int, resamples: int, interval=bootstrap.distance_interval) -> float:
    """Share of ``trials`` in which the interval holds ``truth``; in all of them it has to hold the value."""
    hits = 0
    for trial in range(trials):
        sides = draw(np.random.default_rng((trial, 7)))
        weights = [bootstrap.stratified_weights(["x"] * len(side), resamples, (trial, k)) for k, side in enumerate(sides)]
        value = float(statistic(*sides, *(given[None] for given, _ in weights))[0])
        lo, hi = interval(statistic(*sides, *(redrawn for _, redrawn in weights)), value)
        assert lo <= value <= hi
        hits += lo <= truth <= hi
    return hits / trials


@pytest.mark.parametrize("images", [16, 64])
@pytest.mark.parametrize("other", list(OTHERS))
@pytest.mark.parametrize("measure", [amplitude.kl, amplitude.log_cumulant_distance], ids=["kl", "log-cumulants"])
def test_intervals_of_amplitude_distances_cover_the_known_distance(measure, other: str, images: int) -> None:
    cells = shares(FIRST), shares(OTHERS[other])

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        return [np.array([rng.multinomial(4096, own[k]) / 4096 for k in rng.integers(len(own), size=images)]) for own in cells]

    truth = float(measure(cells[0].mean(0), cells[1].mean(0)))
    assert coverage(draw, lambda p, q, w, v: measure(w @ p, v @ q), truth, 120, 200) >= 0.9


@pytest.mark.parametrize(("size", "images"), [(4, 24), (4, 96), (24, 32), (24, 96)])
@pytest.mark.parametrize("gap", [0.0, 0.2, 1.0])
def test_intervals_of_a_frechet_distance_cover_the_known_one(gap: float, size: int, images: int) -> None:
    deviation = np.ones(size)  # round laws, which shrinkage towards the identity leaves as they are
    truth = float(((gap * deviation) ** 2).sum() + ((deviation * gap / 2) ** 2).sum())

    def draw(rng: np.random.Generator) -> list[np.ndarray]:
        first, second = rng.normal(size=(2, images, size)) * deviation
        return [first, second * (1 + gap / 2) + gap * deviation]

    def statistic(p: np.ndarray, q: np.ndarray, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        amount = distribution.shrinkage(p, q)
        return np.array([distribution.frechet_distance(p, q, a, b, amount) for a, b in zip(w, v)])

    assert coverage(draw, statistic, truth, 60, 60) >= 0.9


def test_percentiles_of_a_distance_miss_it() -> None:
    """What the intervals were before: two sets of one law, and percentiles of their divergence."""
    own = shares(FIRST[:1])[0]

    def draw(rng: np.random.Generator) -> np.ndarray:
        return rng.multinomial(4096, own, size=(2, 16)) / 4096

    def statistic(p: np.ndarray, q: np.ndarray, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        return amplitude.kl(w @ p, v @ q)

    assert coverage(draw, statistic, 0.0, 40, 100, bootstrap.percentile_interval) < 0.1
    assert coverage(draw, statistic, 0.0, 40, 100) >= 0.9


def test_interval_contains_the_value() -> None:
    lo, hi = bootstrap.distance_interval(np.array([2.0, 2.5, 3.0]), 1.0)
    assert 0 == lo <= 1 <= hi
    assert bootstrap.distance_interval(np.array([-2.0, -1.5]), 0.5, least=-np.inf)[1] > 0.5
    assert np.isnan(bootstrap.distance_interval(np.array([np.nan]), 1.0)).all()
    assert bootstrap.percentile_interval(np.array([2.0, 3.0]), 1.0)[0] == 1.0
    assert np.isnan(bootstrap.percentile_interval(np.array([np.nan]), 1.0)).all()


@pytest.mark.parametrize("images", [8, 36, 600])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_none_or_all_has_the_interval_of_wilson(share: float, images: int) -> None:
    """As scipy has it; and a law at its far end gives so extreme a sample in less than 5 % of all."""
    ends = bootstrap.share_interval(np.full(50, share), share, images)
    theirs = stats.binomtest(int(share * images), images).proportion_ci(method="wilson")
    assert ends == pytest.approx((theirs.low, theirs.high))
    assert 0.01 < stats.binom.pmf(int(share * images), images, ends[1] if share == 0 else ends[0]) < 0.05
    assert np.isnan(bootstrap.share_interval(np.empty(0), share, images)).all()
    samples = np.array([0.1, 0.2, 0.3])
    assert bootstrap.share_interval(samples, 0.2, images) == bootstrap.percentile_interval(samples, 0.2)


def test_the_effective_number_is_that_of_equal_images_of_the_same_variance() -> None:
    weights, _ = bootstrap.stratified_weights(["a"] * 6 + ["b"] * 2, 0, seed=0)
    spread = (np.random.default_rng(0).normal(size=(40_000, 8)) @ weights).var()
    assert 1 / spread == pytest.approx(bootstrap.effective_number(np.zeros(8), weights), rel=0.03)
    assert bootstrap.effective_number(np.array([0.0, np.nan, 1.0]), np.full(3, 1 / 3)) == pytest.approx(2)
    assert bootstrap.effective_number(np.array([np.nan]), np.ones(1)) == 0


def test_weighted_mean_skips_unknown_values() -> None:
    values = np.array([1.0, np.nan, 3.0])
    weights = np.array([[0.5, 0.0, 0.5], [0.2, 0.6, 0.2], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(bootstrap.weighted_mean(values, weights), [2, 2, np.nan])


def test_bad_input() -> None:
    with pytest.raises(InputError):
        bootstrap.stratified_weights([], 10, 0)
    with pytest.raises(InputError):
        bootstrap.interval(np.mean, [np.empty(0)], 10, 0)
    with pytest.raises(InputError):
        bootstrap.stratified_weights(["a"], -1, 0)
