"""Calibration: the factor that makes certainties true is found again, and the error measures what it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from sarnb.errors import InputError
from sarnb.metrics.judging import (
    calibrate,
    calibration_error,
    class_probabilities,
    fit_scale,
    log_loss,
    reliability,
    wilson,
)


def drawn(scale: float, count: int, seed: int = 0):
    """Cosines of three classes, and truths drawn with exactly the probabilities that `scale` gives."""
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-0.5, 0.5, (count, 3))
    weights = np.exp(scale * similarity)
    shares = weights / weights.sum(1, keepdims=True)
    truth = (rng.random((count, 1)) > shares.cumsum(1)).sum(1).clip(max=2)
    return similarity, truth


def test_the_factor_of_the_drawing_is_found():
    similarity, truth = drawn(7.0, 20_000)
    assert fit_scale(similarity, truth) == pytest.approx(7.0, rel=0.03)


def test_probabilities_are_shares_of_the_candidates():
    similarity = np.array([[0.2, 0.1, 0.9]])
    candidates = np.array([[True, True, False]])
    first, second, third = class_probabilities(similarity, 10.0, candidates)[0]
    assert third == 0 and first / second == pytest.approx(np.e) and first + second == pytest.approx(1)
    assert log_loss(similarity, np.array([1]), 10.0, candidates) == pytest.approx(-np.log(second))


def test_error_and_reliability_by_hand():
    certainty, correct = np.array([0.92, 0.98, 0.31, 0.39, 1.0]), np.array([1, 0, 1, 0, 1])
    table = reliability(certainty, correct, 10)
    assert table["n"].tolist() == [2, 3] and table["low"].tolist() == [0.3, 0.9]
    gap = 2 * abs(0.5 - 0.35) + 3 * abs(2 / 3 - (0.92 + 0.98 + 1.0) / 3)
    assert calibration_error(certainty, correct, 10) == pytest.approx(gap / 5)


def test_wilson_is_the_score_interval():
    for hits, n in ((0, 5), (7, 9), (40, 40)):
        expected = binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_an_overconfident_judge_is_mended_on_images_it_was_not_fitted_on():
    similarity, truth = drawn(4.0, 4000, seed=1)
    folds = (np.arange(0, 4000, 2), np.arange(1, 4000, 2))
    result = calibrate(similarity, truth, folds, own_scale=40.0)
    before, after = result.table.set_index("factor")["calibration error"]
    assert before > 0.2 and after < 0.03 and result.scale == pytest.approx(4.0, rel=0.1)
    guess = similarity.argmax(1)
    assert np.array_equal(result.correct, guess == truth)
    # the certainty of an image of one half comes from the factor of the other half alone
    changed = truth.copy()
    changed[folds[0]] = guess[folds[0]]
    again = calibrate(similarity, changed, folds, own_scale=40.0)
    assert np.array_equal(again.certainty[folds[0]], result.certainty[folds[0]])
    assert not np.array_equal(again.certainty[folds[1]], result.certainty[folds[1]])


def test_nothing_to_fit_on_is_refused():
    with pytest.raises(InputError, match="no image"):
        fit_scale(np.empty((0, 3)), np.empty(0, int))
