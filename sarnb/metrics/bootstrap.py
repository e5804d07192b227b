"""Bootstrap intervals over images, made cheap by resampling weights instead of images.

An image drawn k times in a resample of m is an image of weight k/m. A measure written in terms of weights then needs its
per-image statistics (histogram, descriptors, embedding) only once. Of n images n - 1 are drawn: the variance over resamples is then
the unbiased one (McCarthy and Snowden 1985), where n draws give (n - 1)/n of it, which shows where a class has eight images.
Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6, 10 and 13.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from sarnb.errors import InputError

LEVEL = 0.95
TAIL = (1.0 - LEVEL) / 2.0


def stratified_weights(strata: Sequence[str], resamples: int, seed: int | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the images as given, and of bootstrap resamples, with every stratum counting the same.

    Images are redrawn inside their stratum (their class), because the number of images a class has is chosen by the
    protocol and is not random. Equal shares keep a set with many cities comparable to one with few.

    Parameters
    ----------
    strata : stratum of each image, length N.
    resamples : number B of resamples, 0 or more.
    seed : the same seed gives the same weights.

    Returns
    -------
    base [N] and resampled [B, N]; each row sums to 1.

    Raises
    ------
    InputError
        No images, or fewer than 0 resamples.
    """
    if len(strata) == 0:
        raise InputError("bootstrap: no images; give at least one.")
    if resamples < 0:
        raise InputError(f"bootstrap: {resamples} resamples; give 0 or more.")
    rng = np.random.default_rng(seed)
    names = np.asarray(strata, dtype=object)
    distinct = sorted(set(strata))
    base = np.zeros(len(names))
    resampled = np.zeros((resamples, len(names)))
    for name in distinct:
        members = np.flatnonzero(names == name)
        base[members] = 1.0 / (len(members) * len(distinct))
        draws = max(1, len(members) - 1)
        counts = rng.multinomial(draws, np.full(len(members), 1.0 / len(members)), size=resamples)
        resampled[:, members] = counts / (draws * len(distinct))
    return base, resampled


def percentile_interval(samples: np.ndarray, value: float) -> tuple[float, float]:
    """95 % percentile interval (lo, hi) of bootstrap ``samples`` [B] of a mean, widened where needed to contain ``value``.

    Without finite samples the interval is (nan, nan). A distance needs ``distance_interval``.
    """
    finite = samples[np.isfinite(samples)]
    if finite.size == 0:
        return float("nan"), float("nan")
    lo, hi = np.quantile(finite, [TAIL, 1.0 - TAIL])
    return float(min(lo, value)), float(max(hi, value))


def share_interval(samples: np.ndarray, value: float, images: float) -> tuple[float, float]:
    """95 % interval (lo, hi) of a share of images: percentiles, and Wilson's where it is 0 or 1, as all resamples then say the same.

    Of n images of which none has it, [0, z^2 / (n + z^2)]. Wilson, J. Am. Stat. Assoc. 22 (1927) 209.

    Parameters
    ----------
    samples, value : as for ``percentile_interval``; without samples the interval is (nan, nan).
    images : number of images, by ``effective_number`` where they have weights.
    """
    lo, hi = percentile_interval(samples, value)
    if np.isnan(lo) or 1e-9 < value < 1.0 - 1e-9:
        return lo, hi
    square = float(stats.norm.ppf((1.0 + LEVEL) / 2.0)) ** 2
    reach = square / (images + square)
    return (min(0.0, value), reach) if value < 0.5 else (1.0 - reach, max(1.0, value))  # sums of weights are rounded


def effective_number(values: np.ndarray, weights: np.ndarray) -> float:
    """Number of images with a value [N] (not NaN) that count as much under ``weights`` [N]: (sum w)^2 / sum w^2 of these; 0 for none.

    >>> effective_number(np.array([1.0, 0.0, np.nan]), np.array([0.4, 0.4, 0.2]))
    2.0
    """
    known = weights[np.isfinite(values)]
    return float(known.sum() ** 2 / np.maximum((known**2).sum(), 1e-300))


def distance_interval(samples: np.ndarray, value: float, least: float = 0.0) -> tuple[float, float]:
    """95 % interval (lo, hi) of the distance of two laws, of which ``value`` is that of two samples and ``samples`` [B] resamples'.

    Chance adds some b to the distance of samples, and once more to that of resamples of them, so that percentiles lie 2 b too
    high and may miss both the laws' distance and the value itself. With b = mean(samples) - value, the interval holds the basic
    bootstrap's, 2 value - quantile, and the percentiles moved down: by 2 b below, and by b above, as b shrinks where the laws are
    apart. The basic one's lower end is at a quarter of the tail: a length of several differences, such as of kappa 2 and 3,
    exceeds two of its deviations more often than one difference does. It contains ``value``. The coverage is measured in the tests.

    Parameters
    ----------
    least : the lowest value that the distance can have; minus infinity for a difference of two distances.
    """
    finite = samples[np.isfinite(samples)]
    if finite.size == 0:
        return float("nan"), float("nan")
    bias = float(finite.mean()) - value
    low, high, highest = np.quantile(finite, [TAIL, 1.0 - TAIL, 1.0 - TAIL / 4.0])
    lo, hi = min(2.0 * value - highest, low - 2.0 * bias, value), max(2.0 * value - low, high - bias, value)
    return float(max(lo, min(least, value))), float(hi)


def over_trainings(images: np.ndarray, deviation: np.ndarray, k: int | np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Half of the interval of a strategy's value, the mean of ``k`` trainings: sqrt(h^2 + (t s)^2 / k).

    Model: value of a training = strategy + training + images. All trainings draw the same prompts from the same noise and meet the
    same reference images, so the images' part is common to them and does not shrink with k; the trainings' part does. Each part
    has its own quantile, t that of Student's law with k - 1 degrees of freedom: of a sum of both, Satterthwaite's degrees of
    freedom are too many where two trainings happen to agree. With one training its luck is unknown, and h is all.

    Parameters
    ----------
    images : h [...], half of the interval over images at this ``level``.
    deviation : s [...], standard deviation of the trainings' values.
    """
    known = np.asarray(k) > 1
    quantile = np.where(known, stats.t.ppf((1 + level) / 2, np.maximum(np.asarray(k) - 1, 1)), 0.0)
    return np.sqrt(np.square(images) + np.square(quantile * np.where(known, deviation, 0.0)) / k)


def interval(statistic: Callable[..., float], arrays: Sequence[np.ndarray], resamples: int, seed: int) -> tuple[float, float, float]:
    """Value and 95 % percentile interval of a mean or another unbiased statistic, by really resampling rows.

    Parameters
    ----------
    statistic : function of the arrays that returns one number.
    arrays : arrays whose first axis is images; each is resampled independently of the others.
    resamples, seed : number of resamples; the same seed gives the same interval.

    Returns
    -------
    (value, lo, hi) in the unit of the statistic.

    Raises
    ------
    InputError
        An array without images.

    >>> value, lo, hi = interval(np.mean, [np.arange(10.0)], resamples=200, seed=0)
    >>> value, lo < 4.5 < hi
    (4.5, True)
    """
    if any(len(array) == 0 for array in arrays):
        raise InputError("bootstrap: an array without images; give at least one image.")
    rng = np.random.default_rng(seed)
    value = float(statistic(*arrays))
    samples = np.empty(resamples)
    for index in range(resamples):
        samples[index] = statistic(*(array[rng.integers(0, len(array), max(1, len(array) - 1))] for array in arrays))
    return value, *percentile_interval(samples, value)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over images of ``values`` [N] under ``weights`` [..., N], NaN values left out and the rest reweighted.

    [...]; NaN where no image of positive weight has a value.
    """
    known = np.isfinite(values)
    mass = weights @ known.astype(np.float64)
    total = weights @ np.where(known, values, 0.0)
    return np.divide(total, mass, out=np.full_like(total, np.nan, dtype=np.float64), where=mass > 0)


def score_interval(scores: np.ndarray, strata: Sequence[str], resamples: int, seed: int) -> tuple[float, float, float]:
    """Mean of one score an image [N], NaN left out, with every stratum counting the same, and its 95 % interval over images.

    Of scores that are all 0 or 1 it is the interval of a share. Returns (value, lo, hi); NaN where no image has a score.
    """
    base, resampled = stratified_weights(strata, resamples, seed)
    value, samples = float(weighted_mean(scores, base)), weighted_mean(scores, resampled)
    if np.isin(scores[np.isfinite(scores)], (0.0, 1.0)).all():
        return value, *share_interval(samples, value, effective_number(scores, base))
    return value, *percentile_interval(samples, value)
