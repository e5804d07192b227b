"""Bootstrap intervals against the known error of a mean, and weights against real resampling."""

from __future__ import annotations

import numpy as np
import pytest

from sarnb.errors import InputError
from sarnb.metrics import bootstrap


def test_interval_of_a_mean_has_the_textbook_width() -> None:
    data = np.random.default_rng(0).normal(2, 1, 200)
    value, lo, hi = bootstrap.interval(np.mean, [data], resamples=1000, seed=0)
    assert value == data.mean()
    assert hi - lo == pytest.approx(2 * 1.96 * data.std() / np.sqrt(200), rel=0.1)


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


def test_interval_contains_the_value() -> None:
    assert bootstrap.percentile_interval(np.array([2.0, 3.0]), 1.0)[0] == 1.0
    assert np.isnan(bootstrap.percentile_interval(np.array([np.nan]), 1.0)).all()


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
