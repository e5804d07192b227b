"""Amplitude statistics: how far the grey-value distributions of two image sets are apart, and speckle statistics.

A histogram is an array of counts [..., 256] of 8-bit amplitude, where level v stands for amplitude v/255 of the
normalisation A/(mu + 3 sigma). The functions of histograms keep the leading axes, so that one call treats all bootstrap
resamples, and weighted counts may be fractions. Below, p is the reference and q the generated histogram as probabilities, P and Q
are their cumulative sums. Distances take (reference, generated).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import xlogy

from sarnb.errors import InputError
from sarnb.metrics import image_stack

LEVELS = 256
WIDEST_GAP = 16  # levels from one in use to the next, up to which a gap is one of storage; twice the median gap, if that is more
LEAST_GAPS = 3
STRAY = 0.1  # of the pixels at its ends a gap's levels may have: those of an overlay, or of images that were stored otherwise
SURE = 12  # pixels for each level of a gap at its ends; an even density leaves the least gap, of one level, empty once in exp(24) times
EPSILON = 1e-6  # added to the probability of every bin before KL, then renormalised; keeps empty bins finite
_VALUES = np.arange(LEVELS) / (LEVELS - 1)
# Level 0 holds amplitudes in [0, 0.5) levels. With a density that starts linearly, as Rayleigh's does, the mean of
# ln a in that cell is ln(0.5) - 1/2: the only finite and unbiased stand-in for ln 0.
_LOG_VALUES = np.log(np.concatenate([[0.5 * np.exp(-0.5)], np.arange(1, LEVELS)]) / (LEVELS - 1))


def histogram(images: np.ndarray) -> np.ndarray:
    """Counts of each 8-bit level per image: uint8 [N, H, W] -> int64 [N, 256]."""
    return np.stack([np.bincount(image.ravel(), minlength=LEVELS) for image in image_stack(images)])


def probabilities(counts: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
    """Histograms [..., 256] as probabilities (c / sum c + epsilon) / (1 + 256 epsilon), which sum to 1.

    Raises
    ------
    InputError
        Wrong number of bins, a NaN, or a histogram without a count.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.shape[-1] != LEVELS:
        raise InputError(f"histogram: {counts.shape[-1]} bins, {LEVELS} expected; make it with amplitude.histogram.")
    total = counts.sum(-1, keepdims=True)
    if not (np.isfinite(total).all() and (total > 0).all()):
        raise InputError("histogram: empty or NaN counts; give at least one image.")
    return (counts / total + epsilon) / (1.0 + LEVELS * epsilon)


def filled(counts: np.ndarray) -> np.ndarray:
    """Histograms of one set as probabilities, with its unreachable levels filled: counts [N, 256] -> [N, 256].

    A tone curve or a stretch in 8 bits leaves levels that hardly a pixel of the whole set has, between levels that many have. They
    are no property of the amplitudes, yet a divergence of histograms sees little else. A level next to such a gap stands for
    all amplitudes half-way to its neighbours, so its share is spread evenly over them. Sets without gaps stay as they are.
    """
    shares, (used, gaps) = probabilities(counts), unreachable(counts)
    if not gaps.any():
        return shares
    stray = shares.copy()
    stray[:, used] = 0.0
    middles = np.where(gaps, (used[:-1] + used[1:]) / 2.0, np.nan)
    low = np.concatenate([[used[0] - 0.5], np.where(gaps, middles, used[1:] - 0.5)])
    high = np.concatenate([np.where(gaps, middles, used[:-1] + 0.5), [used[-1] + 0.5]])
    levels = np.arange(LEVELS)
    inside = np.minimum(high[:, None], levels + 0.5) - np.maximum(low[:, None], levels - 0.5)
    return stray + shares[:, used] @ (np.maximum(inside, 0.0) / (high - low)[:, None])


def unreachable(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The levels that a set's pixels have [K], and whether the gap behind each is one of levels that cannot occur [K - 1].

    A gap is a run of levels with at most ``STRAY`` of the pixels of either end, where both ends have so many that chance would not
    leave it. A set has ``LEAST_GAPS`` of them, or none: a border of zeros makes one, and two modes a valley. Stray pixels in a gap
    are not among the levels.
    """
    total = np.asarray(counts).sum(0)
    inside, found, highest = np.zeros(LEVELS, bool), [], np.zeros(LEVELS)
    for width in range(2, LEVELS // 2):  # from the narrowest, so that none holds another
        highest = np.maximum(highest[: LEVELS - width], total[width - 1 : -1])
        ends = np.minimum(total[:-width], total[width:])
        for start in np.flatnonzero((highest <= STRAY * ends) & (ends >= SURE * width)):
            if not inside[start : start + width + 1].any() and not any(start < end < start + width for gap in found for end in gap):
                inside[start + 1 : start + width] = True
                found.append((start, start + width))
    widest = max(WIDEST_GAP, 2 * np.median([end - start for start, end in found])) if found else 0
    kept = [(start, end) for start, end in found if end - start <= widest]
    kept = kept if len(kept) >= LEAST_GAPS else []
    used = np.setdiff1d(np.flatnonzero(total), [level for start, end in kept for level in range(start + 1, end)])
    return used, np.isin(used[:-1], [start for start, _ in kept])


def kl(real: np.ndarray, fake: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    """Kullback-Leibler divergence KL(p || q) = sum p ln(p / q) of the smoothed histograms.

    Parameters
    ----------
    real, fake : counts [..., 256].
    epsilon : added to every probability, so that a level that one side lacks costs much but not infinitely.

    Returns
    -------
    Divergence [...] in nats, 0 or more: large where amplitudes of the reference are missing among the generated ones.

    References
    ----------
    Kullback and Leibler, Ann. Math. Stat. 22 (1951) 79.
    """
    p, q = probabilities(real, epsilon), probabilities(fake, epsilon)
    return (p * (np.log(p) - np.log(q))).sum(-1)


def reverse_kl(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """KL(q || p) = sum q ln(q / p) in nats, [..., 256] -> [...]: large where generated amplitudes do not occur in reality."""
    return kl(fake, real)


def jensen_shannon(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2, in nats: 0 to ln 2, [..., 256] -> [...].

    Needs no smoothing, and so checks that of ``kl``. Lin, IEEE T-IT 37 (1991) 145.
    """
    p, q = probabilities(real), probabilities(fake)
    middle = 0.5 * (p + q)
    return 0.5 * (xlogy(p, p) + xlogy(q, q) - 2.0 * xlogy(middle, middle)).sum(-1)


def wasserstein(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Wasserstein-1 distance sum |P - Q| / 255 in normalised amplitude, 0 to 1, [..., 256] -> [...].

    Vallender, Theory Probab. Appl. 18 (1974) 784: it is the area between the distribution functions.
    """
    gap = np.cumsum(probabilities(real) - probabilities(fake), -1)
    return np.abs(gap[..., :-1]).sum(-1) / (LEVELS - 1)


def kolmogorov_smirnov(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Kolmogorov-Smirnov distance max |P - Q|, 0 to 1, [..., 256] -> [...]. Smirnov, Ann. Math. Stat. 19 (1948) 279."""
    return np.abs(np.cumsum(probabilities(real) - probabilities(fake), -1)).max(-1)


def zero_share(counts: np.ndarray) -> np.ndarray:
    """Share of the pixels that are exactly black, [..., 256] -> [...]: what a decoder leaves that goes below zero and is cut.

    Level 0 holds amplitudes below half a level: of single-look speckle of mean m levels 1 - exp(-pi / (16 m^2)).
    """
    return probabilities(counts)[..., 0]


def zero_share_distance(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """How far the shares of black pixels of two sets lie apart, [..., 256] -> [...]; see ``zero_share``."""
    return np.abs(zero_share(real) - zero_share(fake))


def coefficient_of_variation(counts: np.ndarray) -> np.ndarray:
    """Standard deviation over mean of the amplitude, [..., 256] -> [...]; NaN for an all-zero image.

    sqrt(4 / pi - 1) = 0.5227 for single-look speckle on a flat scene.
    """
    p = probabilities(counts)
    mean = p @ _VALUES
    deviation = np.sqrt(np.maximum(p @ _VALUES**2 - mean**2, 0.0))
    return np.divide(deviation, mean, out=np.full_like(mean, np.nan), where=mean > 0)


def local_enl(images: np.ndarray, window: int = 8) -> np.ndarray:
    """Equivalent number of looks inside small windows, the median over an image's windows.

    ENL = mean(I)^2 / var(I) of the intensity I = A^2 of a window, with the variance over n - 1. Small windows see speckle and
    little of the scene, whose own contrast would lower the number.

    Parameters
    ----------
    images : uint8 [N, H, W].
    window : side in px. Windows darker than 4 levels, where quantisation rules, or with more than 5 % saturated pixels are
        left out.

    Returns
    -------
    float64 [N]; 1 for single-look speckle, NaN where no window is left.

    Raises
    ------
    InputError
        Images smaller than the window.

    References
    ----------
    Oliver and Quegan, Understanding SAR Images, 2004, section 4.3.
    """
    looks = [intensity.mean(1) ** 2 / variance for intensity, variance in varied_windows(images, window)]
    return np.array([np.median(own) if len(own) else np.nan for own in looks])


def varied_windows(images: np.ndarray, window: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each image the intensity [n, window²] and its variance [n], over n - 1, in the ``usable`` windows that are not of one value."""
    for image in image_stack(images):
        values = windows(image[None], window)
        intensity = values[usable(values)] ** 2.0
        variance = intensity.var(1, ddof=1)
        yield intensity[variance > 0], variance[variance > 0]


def windows(stack: np.ndarray, window: int) -> np.ndarray:
    """Pixels of the windows side by side of images [N, H, W]: [N * rows * columns, window²]. InputError where none fits."""
    rows, cols = stack.shape[1] // window, stack.shape[2] // window
    if not rows or not cols:
        raise InputError(f"images: {stack.shape[1]}x{stack.shape[2]} px, smaller than the {window} px window; give larger images.")
    cut = stack[:, : rows * window, : cols * window].reshape(-1, rows, window, cols, window)
    return cut.swapaxes(2, 3).reshape(-1, window * window)


def usable(values: np.ndarray) -> np.ndarray:
    """Which windows [n, window²] are neither darker than 4 levels, where quantisation rules, nor saturated in over 5 % of their pixels."""
    return (values.mean(1) >= 4.0) & ((values == LEVELS - 1).mean(1) <= 0.05)


def log_cumulants(counts: np.ndarray) -> np.ndarray:
    """The first three cumulants of ln A: kappa_1 = E ln A, kappa_2 = E (ln A - kappa_1)^2, kappa_3 = E (ln A - kappa_1)^3.

    For single-look speckle on a flat scene kappa_2 = pi^2 / 24 = 0.4112 and kappa_3 = psi''(1) / 8 = -0.3005. Level 0 enters as
    half a level times exp(-1/2). Counts [..., 256] -> [..., 3]. Nicolas, Traitement du Signal 19 (2002) 139.
    """
    p = probabilities(counts)
    first = p @ _LOG_VALUES
    centred = _LOG_VALUES - first[..., None]
    squared = p * centred * centred
    return np.stack([first, squared.sum(-1), (squared * centred).sum(-1)], -1)


def log_cumulant_distance(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Euclidean distance of two sets in the (kappa_3, kappa_2) diagram, [..., 256] -> [...]; 0 when their laws agree.

    The diagram is Nicolas' (2002), the distance in it this project's choice.
    """
    gap = log_cumulants(real)[..., 1:] - log_cumulants(fake)[..., 1:]
    return np.sqrt((gap**2).sum(-1))
