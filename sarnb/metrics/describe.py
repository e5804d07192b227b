"""What a set of radar images is like: statistics by image, by class and by land cover, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import polygamma

from sarnb.errors import InputError
from sarnb.metrics import image_stack
from sarnb.metrics.amplitude import LEVELS, coefficient_of_variation, histogram, local_enl, log_cumulants
from sarnb.metrics.fits import fit_histogram, goodness
from sarnb.metrics.texture import DIRECTIONS, PROPERTIES, cooccurrence, properties
from sarnb.world.backscatter import COVERS

RAYLEIGH_CV = float(np.sqrt(4.0 / np.pi - 1.0))
"""Coefficient of variation of single-look amplitude over a flat scene, 0.5227."""
RAYLEIGH_CLIPPED = float(np.exp(-0.25 * np.pi * (1.0 + 3.0 * RAYLEIGH_CV) ** 2))
"""Share of Rayleigh amplitudes above mu + 3 sigma, 0.0056."""
WINDOW = 8  # px


def image_statistics(images: np.ndarray) -> pd.DataFrame:
    """One row an image: uint8 [N, H, W] -> mean (0 to 1), cv, enl (in 8 px windows), shares ``saturated`` and ``zero``."""
    counts = histogram(images)
    share = counts / counts.sum(1, keepdims=True)
    return pd.DataFrame(
        {
            "mean": share @ (np.arange(LEVELS) / (LEVELS - 1)),
            "cv": coefficient_of_variation(counts),
            "enl": local_enl(images, WINDOW),
            "saturated": share[:, -1],
            "zero": share[:, 0],
        }
    )


def law_table(samples: Mapping[str, np.ndarray], families: Sequence[str]) -> pd.DataFrame:
    """Laws fitted to 8-bit histograms: name -> counts [256] gives rows (sample, law, parameters, ks), best fit first.

    ``ks``: Kolmogorov-Smirnov distance of the histogram to the law, 0 to 1.
    """
    rows = []
    for name, counts in samples.items():
        for family in families:
            model = fit_histogram(family, counts)
            words = ", ".join(f"{key} {value:.3g}" for key, value in model.parameters.items())
            rows.append((name, family, words, goodness(model, counts)))
    table = pd.DataFrame(rows, columns=["sample", "law", "parameters", "ks"])
    order = {name: place for place, name in enumerate(samples)}
    return table.sort_values(
        ["sample", "ks"], key=lambda column: column.map(order) if column.name == "sample" else column, ignore_index=True
    )


def cover_statistics(images: np.ndarray, masks: np.ndarray, window: int = WINDOW, least: int = 10) -> pd.DataFrame:
    """Speckle inside windows that lie in one land cover: one row a cover with ``least`` windows or more.

    Args:
        images: uint8 [N, H, W]. masks: land-cover codes uint8 [N, H, W]. window: side in px.

    Returns:
        columns cover, windows, level (median of the window means, 0 to 255), cv and enl (medians over windows); as for
        `local_enl`, windows darker than 4 levels or with more than 5 % saturated pixels are left out.
    """
    values, codes = _one_cover_windows(images, masks, window)
    rows = []
    for code in np.unique(codes):
        own = values[codes == code]
        if len(own) < least:
            continue
        intensity = own**2
        enl = intensity.mean(1) ** 2 / np.maximum(intensity.var(1, ddof=1), 1e-12)
        spread = own.std(1, ddof=1) / own.mean(1)
        rows.append((COVERS[code], len(own), np.median(own.mean(1)), np.median(spread), np.median(enl)))
    table = pd.DataFrame(rows, columns=["cover", "windows", "level", "cv", "enl"])
    return table.sort_values("windows", ascending=False, ignore_index=True)


def flat_sample(images: np.ndarray, masks: np.ndarray, cover: str, window: int = WINDOW, tolerance: float = 0.1) -> np.ndarray:
    """Histogram int64 [256] of an area as flat as a set offers: windows of one cover with nearly one mean.

    Of the windows that lie in ``cover``, those whose mean is within ``tolerance`` of the median of all. Raises
    InputError if there is none.
    """
    if cover not in COVERS:
        raise InputError(f"flat sample: unknown cover {cover!r}; use one of {', '.join(COVERS)}.")
    values, codes = _one_cover_windows(images, masks, window)
    own = values[codes == COVERS.index(cover)]
    if not len(own):
        raise InputError(f"flat sample: no {window} px window lies in {cover} alone; choose another cover.")
    means = own.mean(1)
    middle = np.sort(means)[len(means) // 2]  # a window's own mean, so that at least this one is taken
    chosen = own[np.abs(means / middle - 1.0) <= tolerance]
    return np.bincount(chosen.astype(np.int64).ravel(), minlength=LEVELS)


def _one_cover_windows(images: np.ndarray, masks: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels float64 [n, window²] and cover codes [n] of the windows that show one cover and are neither dark nor clipped."""
    stack, covers = image_stack(images), image_stack(masks, "masks")
    if stack.shape != covers.shape:
        raise InputError(f"masks are {covers.shape} and images {stack.shape}; give one mask an image, of its size.")
    values, codes = _cut(stack, window).astype(np.float64), _cut(covers, window)
    keep = (codes.min(1) == codes.max(1)) & (values.mean(1) >= 4.0) & ((values == LEVELS - 1).mean(1) <= 0.05)
    return values[keep], codes[keep, 0]


def _cut(stack: np.ndarray, window: int) -> np.ndarray:
    count, rows, cols = len(stack), stack.shape[1] // window, stack.shape[2] // window
    if not rows or not cols:
        raise InputError(f"images: {stack.shape[1]}x{stack.shape[2]} px, smaller than the {window} px window; give larger images.")
    cut = stack[:, : rows * window, : cols * window].reshape(count, rows, window, cols, window)
    return cut.swapaxes(2, 3).reshape(count * rows * cols, window * window)


def flat_enl(images: np.ndarray, window: int = WINDOW, share: float = 0.25) -> np.ndarray:
    """Equivalent number of looks in the flattest windows: uint8 [N, H, W] -> [N], the median over them.

    Flattest is where the mean intensities of the window's four quarters differ least; the ``share`` of the windows with the
    smallest relative difference is taken, one at least. The choice sees the quarters and not the pixels, yet it selects
    a little: 12 % too many looks for uncorrelated single-look speckle, 7 % for four looks; correlated pixels add to it.
    Windows darker than 4 levels or with more than 5 % saturated pixels are left out; NaN when none is left. Raises
    InputError for an odd window or one larger than the images.
    """
    if window % 2:
        raise InputError(f"flat enl: the window has {window} px; give an even number, it is cut into quarters.")
    enl = np.full(len(images), np.nan)
    for index, image in enumerate(image_stack(images)):
        values = _cut(image[None], window).astype(np.float64)
        intensity = values[(values.mean(1) >= 4.0) & ((values == LEVELS - 1).mean(1) <= 0.05)] ** 2
        variance = intensity.var(1, ddof=1)
        intensity, variance = intensity[variance > 0], variance[variance > 0]
        if not len(intensity):
            continue
        quarters = intensity.reshape(-1, 2, window // 2, 2, window // 2).mean((2, 4)).reshape(-1, 4)
        flattest = np.argsort(quarters.std(1) / quarters.mean(1), kind="stable")[: max(1, int(share * len(quarters)))]
        enl[index] = np.median(intensity[flattest].mean(1) ** 2 / variance[flattest])
    return enl


def neighbour_correlation(images: np.ndarray) -> np.ndarray:
    """Correlation of the amplitudes of neighbouring pixels: uint8 [N, H, W] -> [N, 2], along columns (range) and rows (azimuth).

    Pearson's coefficient over all pairs of an image; NaN for a constant one. It holds the impulse response, the sampling
    and the scene's own structure together.
    """
    stack, found = image_stack(images), []
    for image in stack.astype(np.float64):
        pairs = ((image[:, :-1], image[:, 1:]), (image[:-1], image[1:]))
        found.append([_correlation(first.ravel(), second.ravel()) for first, second in pairs])
    return np.array(found)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / scale) if scale > 0 else float("nan")


def image_measures(images: np.ndarray, distance: int = 4) -> pd.DataFrame:
    """One row an image: what can be compared between sensors, uint8 [N, H, W].

    Columns: cv, enl (in the flattest windows), kappa2, kappa3, "lag 1 range", "lag 1 azimuth", then the GLCM properties
    "<property> <direction>" at ``distance`` px, then the shares ``zero`` and ``saturated``.
    """
    stack = image_stack(images)
    counts = histogram(stack)
    share = counts / counts.sum(1, keepdims=True)
    cumulants, neighbours = log_cumulants(counts), neighbour_correlation(stack)
    textures = np.array([properties(cooccurrence(image, (distance,))).ravel() for image in stack])
    names = [f"{name} {way}" for way in DIRECTIONS for name in PROPERTIES]
    return pd.DataFrame(
        {
            "cv": coefficient_of_variation(counts),
            "enl": flat_enl(stack),
            "kappa2": cumulants[:, 1],
            "kappa3": cumulants[:, 2],
            **{f"lag 1 {way}": neighbours[:, place] for place, way in enumerate(DIRECTIONS)},
            **dict(zip(names, textures.T)),
            "zero": share[:, 0],
            "saturated": share[:, -1],
        }
    )


def law_log_cumulants(law: str, order: np.ndarray, looks: float = 1.0) -> np.ndarray:
    """Log-cumulants (kappa_2, kappa_3) of the amplitude under a product law: order [...] -> [..., 2].

    ``law``: "speckle" (no texture; ``order`` is the number of looks), "k" (gamma texture of order nu) or "g0"
    (inverse-gamma texture of order nu), both with ``looks`` looks. Log-cumulants of a product add, and ln A is half of
    ln I, hence kappa_2 = (psi'(L) + psi'(nu)) / 4 and kappa_3 = (psi''(L) +- psi''(nu)) / 8.
    Nicolas, Traitement du Signal 19 (2002) 139; Frery et al., IEEE TGRS 35 (1997) 648 (G0).

    >>> law_log_cumulants("speckle", np.array(1.0)).round(4)
    array([ 0.4112, -0.3005])
    """
    order = np.asarray(order, np.float64)
    own = np.stack([polygamma(1, order) / 4.0, polygamma(2, order) / 8.0], -1)
    if law == "speckle":
        return own
    if law not in ("k", "g0"):
        raise InputError(f"log-cumulants: unknown law {law!r}; use 'speckle', 'k' or 'g0'.")
    speckle = np.array([polygamma(1, looks) / 4.0, polygamma(2, looks) / 8.0])
    return speckle + own * np.array([1.0, 1.0 if law == "k" else -1.0])
