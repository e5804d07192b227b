"""Amplitude statistics: how far the grey-value distributions of two image sets are apart, and speckle statistics.

All functions of `counts` take histograms [..., 256] of 8-bit amplitude (level v stands for amplitude v/255 of the
normalisation A/(mu + 3 sigma)) and keep the leading axes, so one call treats all bootstrap resamples. Counts may be
weighted, hence fractional. Distances are in the order (real, generated).
"""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

from sarnb.errors import InputError
from sarnb.metrics import image_stack

LEVELS = 256
EPSILON = 1e-6  # added to the probability of every bin before KL, then renormalised; keeps empty bins finite
_VALUES = np.arange(LEVELS) / (LEVELS - 1)
# Level 0 holds amplitudes in [0, 0.5) levels. With a density that starts linearly, as Rayleigh's does, the mean of
# ln a in that cell is ln(0.5) - 1/2: the only finite and unbiased stand-in for ln 0.
_LOG_VALUES = np.log(np.concatenate([[0.5 * np.exp(-0.5)], np.arange(1, LEVELS)]) / (LEVELS - 1))


def histogram(images: np.ndarray) -> np.ndarray:
    """Counts of each 8-bit level per image: uint8 [N, H, W] -> int64 [N, 256]."""
    stack = image_stack(images)
    return np.stack([np.bincount(image.ravel(), minlength=LEVELS) for image in stack])


def probabilities(counts: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
    """Histogram [..., 256] -> probabilities (c/sum(c) + epsilon) / (1 + 256 epsilon), which sum to 1.

    Raises:
        InputError: wrong number of bins, a NaN, or a histogram without a count.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.shape[-1] != LEVELS:
        raise InputError(f"histogram: {counts.shape[-1]} bins, {LEVELS} expected; make it with amplitude.histogram.")
    total = counts.sum(-1, keepdims=True)
    if not (np.isfinite(total).all() and (total > 0).all()):
        raise InputError("histogram: empty or NaN counts; give at least one image.")
    return (counts / total + epsilon) / (1.0 + LEVELS * epsilon)


def kl(real: np.ndarray, fake: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    """Kullback-Leibler divergence sum p ln(p/q) in nats, p the real and q the generated smoothed histogram.

    Kullback and Leibler, Ann. Math. Stat. 22 (1951) 79. Counts [..., 256] -> [...].
    """
    p, q = probabilities(real, epsilon), probabilities(fake, epsilon)
    return (p * (np.log(p) - np.log(q))).sum(-1)


def reverse_kl(real: np.ndarray, fake: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    """KL(generated || real) = sum q ln(q/p) in nats: large where the generator puts amplitudes that real images do not have.

    Kullback and Leibler, Ann. Math. Stat. 22 (1951) 79, who call the two directions I(1:2) and I(2:1). [..., 256] -> [...].
    """
    return kl(fake, real, epsilon)


def jensen_shannon(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in nats, 0 to ln 2; needs no smoothing. Lin, IEEE T-IT 37 (1991) 145."""
    p, q = probabilities(real), probabilities(fake)
    middle = 0.5 * (p + q)
    return 0.5 * (xlogy(p, p) + xlogy(q, q) - 2.0 * xlogy(middle, middle)).sum(-1)


def wasserstein(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Wasserstein-1 distance, the area between the two distribution functions, in normalised amplitude (0 to 1).

    Vallender, Theory Probab. Appl. 18 (1974) 784, for the equality with that area. Counts [..., 256] -> [...].
    """
    gap = np.cumsum(probabilities(real) - probabilities(fake), -1)
    return np.abs(gap[..., :-1]).sum(-1) / (LEVELS - 1)


def kolmogorov_smirnov(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Largest gap between the two distribution functions, 0 to 1 (the two-sample Kolmogorov-Smirnov statistic).

    Smirnov, Ann. Math. Stat. 19 (1948) 279. Counts [..., 256] -> [...].
    """
    return np.abs(np.cumsum(probabilities(real) - probabilities(fake), -1)).max(-1)


def coefficient_of_variation(counts: np.ndarray) -> np.ndarray:
    """Standard deviation over mean of the amplitude; sqrt(4/pi - 1) = 0.5227 for single-look speckle on a flat scene.

    NaN for an all-zero image.
    """
    p = probabilities(counts)
    mean = p @ _VALUES
    deviation = np.sqrt(np.maximum(p @ _VALUES**2 - mean**2, 0.0))
    return np.divide(deviation, mean, out=np.full_like(mean, np.nan), where=mean > 0)


def equivalent_number_of_looks(counts: np.ndarray) -> np.ndarray:
    """Squared mean over variance of intensity (amplitude squared), dimensionless; 1 for single-look flat speckle.

    Oliver and Quegan, Understanding SAR Images, 2004, section 4.3. On a scene that is not flat the scene's own
    contrast lowers the number; see `local_looks`. NaN where the intensity does not vary.
    """
    p = probabilities(counts)
    mean = p @ _VALUES**2
    variance = p @ _VALUES**4 - mean**2
    return np.divide(mean**2, variance, out=np.full_like(mean, np.nan), where=variance > 1e-12)


def local_looks(images: np.ndarray, window: int = 8) -> np.ndarray:
    """Equivalent number of looks inside small windows: uint8 [N, H, W] -> [N], the median over windows.

    Squared mean over variance (n - 1) of the intensity in each window; Oliver and Quegan, Understanding SAR Images, 2004,
    section 4.3. Small windows see speckle and little of the scene. Windows darker than 4 levels (quantisation rules there) or with
    more than 5 % saturated pixels are left out; NaN when none is left.
    """
    stack = image_stack(images)
    rows, cols = stack.shape[1] // window, stack.shape[2] // window
    if rows == 0 or cols == 0:
        raise InputError(f"images: {stack.shape[1]}x{stack.shape[2]} pixels, smaller than the {window} px window; give larger images.")
    looks = np.full(len(stack), np.nan)
    for index, image in enumerate(stack):
        cut = image[: rows * window, : cols * window].reshape(rows, window, cols, window).swapaxes(1, 2)
        blocks = cut.reshape(rows * cols, window * window).astype(np.float64)
        valid = (blocks.mean(1) >= 4.0) & ((blocks == LEVELS - 1).mean(1) <= 0.05)
        intensity = blocks[valid] ** 2
        variance = intensity.var(1, ddof=1)
        varied = variance > 0
        if varied.any():
            looks[index] = np.median(intensity[varied].mean(1) ** 2 / variance[varied])
    return looks


def log_cumulants(counts: np.ndarray, order: int = 3) -> np.ndarray:
    """Log-cumulants kappa_1 .. kappa_order (order 1 to 3) of amplitude: counts [..., 256] -> [..., order].

    Cumulants of ln A; Nicolas, Traitement du Signal 19 (2002) 139. For single-look speckle on a flat scene
    kappa_2 = pi^2/24 = 0.4112 and kappa_3 = psi''(1)/8 = -0.3005. Level 0 enters as half a level times exp(-1/2).
    """
    if order not in (1, 2, 3):
        raise InputError(f"log_cumulants: order {order}; use 1, 2 or 3.")
    p = probabilities(counts)
    first = p @ _LOG_VALUES
    centred = _LOG_VALUES - first[..., None]
    squared = p * centred * centred
    cumulants = [first, squared.sum(-1), (squared * centred).sum(-1)]
    return np.stack(cumulants[:order], -1)


def log_cumulant_distance(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """Euclidean distance of two sets in the (kappa_3, kappa_2) diagram; zero when speckle and texture law agree.

    The diagram: Nicolas, Traitement du Signal 19 (2002) 139; the distance in it is ours. Counts [..., 256] -> [...].
    """
    gap = log_cumulants(real)[..., 1:] - log_cumulants(fake)[..., 1:]
    return np.sqrt((gap**2).sum(-1))
