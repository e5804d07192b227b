"""Bootstrap intervals over images, made cheap by resampling weights instead of images.

An image drawn k times in a resample is an image of weight k/n. A measure written in terms of weights then needs its
per-image statistics (histogram, descriptors, embedding) only once. Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapters 6 and 13.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sarnb.errors import InputError


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
        share = 1.0 / (len(members) * len(distinct))
        base[members] = share
        resampled[:, members] = rng.multinomial(len(members), np.full(len(members), 1.0 / len(members)), size=resamples) * share
    return base, resampled


def percentile_interval(samples: np.ndarray, value: float, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval (lo, hi) of bootstrap ``samples`` [B], widened where needed to contain ``value``.

    A distance between two samples is biased upwards, and a resample (with repeated images) more so; the value of the
    images as given may therefore lie below the lower percentile. Widening says so instead of shifting the interval.
    Without finite samples the interval is (nan, nan).
    """
    finite = samples[np.isfinite(samples)]
    if finite.size == 0:
        return float("nan"), float("nan")
    tail = (1.0 - level) / 2.0
    lo, hi = np.quantile(finite, [tail, 1.0 - tail])
    return float(min(lo, value)), float(max(hi, value))


def interval(
    statistic: Callable[..., float], arrays: Sequence[np.ndarray], resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float, float]:
    """Value and percentile interval of any statistic, by really resampling rows.

    Parameters
    ----------
    statistic : function of the arrays that returns one number.
    arrays : arrays whose first axis is images; each is resampled independently of the others.
    resamples, seed : number of resamples; the same seed gives the same interval.
    level : coverage.

    Returns
    -------
    (value, lo, hi) in the unit of the statistic.

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
        samples[index] = statistic(*(array[rng.integers(0, len(array), len(array))] for array in arrays))
    return value, *percentile_interval(samples, value, level)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over images of ``values`` [N] under ``weights`` [..., N], NaN values left out and the rest reweighted.

    [...]; NaN where no image of positive weight has a value.
    """
    known = np.isfinite(values)
    mass = weights @ known.astype(np.float64)
    total = weights @ np.where(known, values, 0.0)
    return np.divide(total, mass, out=np.full_like(total, np.nan, dtype=np.float64), where=mass > 0)
