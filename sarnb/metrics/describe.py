"""What a set of radar images is like: statistics by image and by land cover, the laws of its amplitudes, and all that the evaluation needs.

Rayleigh, Weibull, log-normal and gamma laws are fitted by maximum likelihood, K by log-cumulants (Nicolas 2002). A fit takes
amplitudes (any positive unit) with optional weights, so a histogram is fitted as its levels weighted by its counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq
from scipy.special import digamma, gammainc, gammaln, kve, polygamma

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics import image_stack
from sarnb.metrics.amplitude import LEVELS, coefficient_of_variation, histogram, local_enl, log_cumulants, usable, varied_windows, windows
from sarnb.metrics.distribution import grain, thumbnails
from sarnb.metrics.geometry import side_features
from sarnb.metrics.semantic import Judge, embed_images, embed_texts
from sarnb.metrics.texture import DIRECTIONS, PROPERTIES, cooccurrence, glcm_descriptors, properties
from sarnb.world.backscatter import COVERS

RAYLEIGH_CV = float(np.sqrt(4.0 / np.pi - 1.0))
"""Coefficient of variation of single-look amplitude over a flat scene, 0.5227."""
WINDOW = 8  # px, in four quarters
FAR = 4  # px between the pixels of a GLCM that sensors are compared by


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
    return pd.concat([part.sort_values("ks", kind="stable") for _, part in table.groupby("sample", sort=False)], ignore_index=True)


def cover_statistics(images: np.ndarray, masks: np.ndarray, least: int = 10) -> pd.DataFrame:
    """Speckle inside windows that lie in one land cover: one row a cover with ``least`` windows or more.

    Parameters
    ----------
    images : uint8 [N, H, W].
    masks : land-cover codes uint8 [N, H, W].
    least : windows of a cover below which it has no row.

    Returns
    -------
    columns cover, windows, level (median of the window means, 0 to 255), cv and enl (medians over windows); as for
    ``local_enl``, windows darker than 4 levels or with more than 5 % saturated pixels are left out.
    """
    values, codes = _one_cover_windows(images, masks)
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


def flat_sample(images: np.ndarray, masks: np.ndarray, cover: str) -> np.ndarray:
    """Histogram int64 [256] of an area as flat as a set offers: windows of one cover with nearly one mean.

    Of the windows that lie in ``cover``, those whose mean is within a tenth of the median of all. Raises
    InputError if there is none.
    """
    if cover not in COVERS:
        raise InputError(f"flat sample: unknown cover {cover!r}; use one of {', '.join(COVERS)}.")
    values, codes = _one_cover_windows(images, masks)
    own = values[codes == COVERS.index(cover)]
    if not len(own):
        raise InputError(f"flat sample: no {WINDOW} px window lies in {cover} alone; choose another cover.")
    means = own.mean(1)
    middle = np.sort(means)[len(means) // 2]  # a window's own mean, so that at least this one is taken
    chosen = own[np.abs(means / middle - 1.0) <= 0.1]
    return np.bincount(chosen.astype(np.int64).ravel(), minlength=LEVELS)


def _one_cover_windows(images: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels float64 [n, WINDOW²] and cover codes [n] of the windows that show one cover and are neither dark nor clipped."""
    stack, covers = image_stack(images), image_stack(masks, "masks")
    if stack.shape != covers.shape:
        raise InputError(f"masks are {covers.shape} and images {stack.shape}; give one mask an image, of its size.")
    values, codes = windows(stack, WINDOW).astype(np.float64), windows(covers, WINDOW)
    keep = (codes.min(1) == codes.max(1)) & usable(values)
    return values[keep], codes[keep, 0]


def flat_enl(images: np.ndarray) -> np.ndarray:
    """Equivalent number of looks in the flattest windows: uint8 [N, H, W] -> [N], the median over them.

    Flattest is where the mean intensities of the window's four quarters differ least; the quarter of the windows with the
    smallest relative difference is taken, one at least. The choice sees the quarters and not the pixels, yet it selects
    a little: 12 % too many looks for uncorrelated single-look speckle, 7 % for four looks; correlated pixels add to it.
    Windows darker than 4 levels or with more than 5 % saturated pixels are left out; NaN when none is left. Raises
    InputError for images smaller than a window.
    """
    enl = np.full(len(images), np.nan)
    for index, (intensity, variance) in enumerate(varied_windows(images, WINDOW)):
        if not len(intensity):
            continue
        quarters = intensity.reshape(-1, 2, WINDOW // 2, 2, WINDOW // 2).mean((2, 4)).reshape(-1, 4)
        flattest = np.argsort(quarters.std(1) / quarters.mean(1), kind="stable")[: max(1, len(quarters) // 4)]
        enl[index] = np.median(intensity[flattest].mean(1) ** 2 / variance[flattest])
    return enl


def lag_one_correlation(images: np.ndarray) -> np.ndarray:
    """Correlation of the amplitudes of neighbouring pixels: uint8 [N, H, W] -> [N, 2], along columns (range) and rows (azimuth).

    Pearson's coefficient over all pairs of an image; NaN for a constant one. It holds the impulse response, the sampling
    and the scene's own structure together.
    """
    stack, found = image_stack(images), []
    for image in stack.astype(np.float64):
        for first, second in ((image[:, :-1], image[:, 1:]), (image[:-1], image[1:])):
            first, second = (part.ravel() - part.mean() for part in (first, second))
            scale = np.sqrt((first @ first) * (second @ second))
            found.append(first @ second / scale if scale > 0 else np.nan)
    return np.reshape(found, (-1, 2))


def image_measures(images: np.ndarray) -> pd.DataFrame:
    """One row an image: what can be compared between sensors, uint8 [N, H, W].

    Columns: cv, flat_enl (of the flattest windows, another number than the ``enl`` of all windows), kappa2, kappa3, "lag 1 range",
    "lag 1 azimuth", then the GLCM properties "<property> <direction>" at ``FAR`` px, then the shares ``zero`` and ``saturated``.
    """
    stack = image_stack(images)
    counts = histogram(stack)
    share = counts / counts.sum(1, keepdims=True)
    cumulants, neighbours = log_cumulants(counts), lag_one_correlation(stack)
    textures = np.array([properties(cooccurrence(image, (FAR,))).ravel() for image in stack])
    names = [f"{name} {way}" for way in DIRECTIONS for name in PROPERTIES]
    return pd.DataFrame(
        {
            "cv": coefficient_of_variation(counts),
            "flat_enl": flat_enl(stack),
            "kappa2": cumulants[:, 1],
            "kappa3": cumulants[:, 2],
            **{f"lag 1 {way}": neighbours[:, place] for place, way in enumerate(DIRECTIONS)},
            **dict(zip(names, textures.T)),
            "zero": share[:, 0],
            "saturated": share[:, -1],
        }
    )


# Amplitude laws: what product models predict, and what fits the images.

FAMILIES = ("rayleigh", "weibull", "lognormal", "gamma", "k")
_SMOOTH_ORDER = 100.0  # a K law of higher texture order cannot be distinguished from its limit without texture
_NODES = 1024  # equally probable values of the texture over which the distribution function of K is averaged


def law_log_cumulants(law: str, order: np.ndarray) -> np.ndarray:
    """Log-cumulants (kappa_2, kappa_3) of the amplitude under a product law: order [...] -> [..., 2].

    ``law``: "speckle" (no texture; ``order`` is the number of looks), "k" (gamma texture of order nu) or "g0"
    (inverse-gamma texture of order nu), both with one look. Log-cumulants of a product add, and ln A is half of
    ln I, hence kappa_2 = (psi'(1) + psi'(nu)) / 4 and kappa_3 = (psi''(1) +- psi''(nu)) / 8.
    Nicolas, Traitement du Signal 19 (2002) 139; Frery et al., IEEE TGRS 35 (1997) 648 (G0).

    Raises
    ------
    InputError
        An unknown law.

    >>> law_log_cumulants("speckle", np.array(1.0)).round(4)
    array([ 0.4112, -0.3005])
    """
    order = np.asarray(order, np.float64)
    own = np.stack([polygamma(1, order) / 4.0, polygamma(2, order) / 8.0], -1)
    if law == "speckle":
        return own
    if law not in ("k", "g0"):
        raise InputError(f"log-cumulants: unknown law {law!r}; use 'speckle', 'k' or 'g0'.")
    speckle = np.array([polygamma(1, 1.0) / 4.0, polygamma(2, 1.0) / 8.0])
    return speckle + own * np.array([1.0, 1.0 if law == "k" else -1.0])


@dataclass(frozen=True)
class AmplitudeFit:
    """One fitted law: ``family`` of FAMILIES and its ``parameters`` (scales in the unit of the amplitudes)."""

    family: str
    parameters: dict[str, float]

    def pdf(self, amplitude: np.ndarray) -> np.ndarray:
        """Probability density at ``amplitude`` (any shape, > 0), in 1/unit."""
        return self._law.pdf(np.asarray(amplitude, dtype=np.float64))

    def cdf(self, amplitude: np.ndarray) -> np.ndarray:
        """Distribution function at ``amplitude`` (any shape), 0 to 1."""
        return self._law.cdf(np.asarray(amplitude, dtype=np.float64))

    @property
    def _law(self):
        p = self.parameters
        match self.family:
            case "rayleigh":
                return stats.rayleigh(scale=p["scale"])
            case "weibull":
                return stats.weibull_min(p["shape"], scale=p["scale"])
            case "lognormal":
                return stats.lognorm(p["sigma"], scale=np.exp(p["mu"]))
            case "gamma":
                return stats.gamma(p["shape"], scale=p["scale"])
            case "k" if np.isinf(p["nu"]):
                return stats.nakagami(p["looks"], scale=np.sqrt(p["mean"]))
            case "k":
                return _KLaw(**p)
        raise InputError(f"amplitude fit: unknown law {self.family!r}; use one of {', '.join(FAMILIES)}.")


@dataclass(frozen=True)
class _KLaw:
    """Gamma speckle of ``looks`` looks times gamma texture of order ``nu``; ``mean`` is that of the intensity."""

    mean: float
    nu: float
    looks: float

    def pdf(self, amplitude: np.ndarray) -> np.ndarray:
        nu, looks = self.nu, self.looks
        rate = np.sqrt(looks * nu / self.mean)
        argument = np.maximum(2.0 * rate * amplitude, 1e-300)
        order = abs(nu - looks)
        with np.errstate(over="ignore", divide="ignore"):
            bessel = np.log(kve(order, argument)) - argument
        # kve overflows at small arguments; its leading term Gamma(order)/2 (2/x)^order is exact there
        small = gammaln(max(order, 1e-9)) - np.log(2.0) + order * np.log(2.0 / argument)
        bessel = np.where(np.isfinite(bessel), bessel, small)
        return np.exp(np.log(4.0 * rate) + (looks + nu - 1.0) * np.log(argument / 2.0) - gammaln(looks) - gammaln(nu) + bessel)

    def cdf(self, amplitude: np.ndarray) -> np.ndarray:
        # average the speckle law over equally probable values of the texture
        texture = stats.gamma.ppf((np.arange(_NODES) + 0.5) / _NODES, self.nu, scale=self.mean / self.nu)
        return gammainc(self.looks, self.looks * amplitude[..., None] ** 2 / np.maximum(texture, 1e-300)).mean(-1)


def _prepare(amplitude: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    amplitude = np.asarray(amplitude, dtype=np.float64).ravel()
    weights = np.ones_like(amplitude) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    if weights.shape != amplitude.shape:
        raise InputError(f"amplitude fit: {len(amplitude)} amplitudes but {len(weights)} weights; give one weight each.")
    if not (np.isfinite(amplitude).all() and np.isfinite(weights).all()):
        raise InputError("amplitude fit: NaN or infinite values; leave them out.")
    used = weights > 0
    amplitude, weights = amplitude[used], weights[used]
    if (amplitude <= 0).any():
        raise InputError("amplitude fit: amplitudes of 0 or less; leave them out or add half a level.")
    if len(np.unique(amplitude)) < 2:
        raise InputError("amplitude fit: fewer than two different amplitudes; give an image that is not constant.")
    return amplitude, weights / weights.sum()


def fit(family: str, amplitude: np.ndarray, weights: np.ndarray | None = None, looks: float = 1.0) -> AmplitudeFit:
    """Fit the law named ``family`` (one of FAMILIES) to amplitudes, by maximum likelihood but for K.

    Rayleigh (single-look speckle on a flat scene): scale^2 = E[A^2]/2. Weibull: a shape of 2 is Rayleigh, a lower one has the
    heavier tail. Gamma: ln k - psi(k) = ln E[A] - E[ln A], scale = E[A]/k. K, by log-cumulants, is gamma speckle of ``looks``
    looks times gamma texture of order ``nu``: the intensity I = A^2 has kappa_2 = psi'(L) + psi'(nu) and
    kappa_1 = ln mean + psi(L) - ln L + psi(nu) - ln nu. Where the data vary less than speckle alone, nu is infinite (no texture)
    and the law is Nakagami. Jakeman and Pusey, IEEE T-AP 24 (1976) 806; Nicolas, Traitement du Signal 19 (2002) 139.

    Raises
    ------
    InputError
        An unknown law, a number of looks that is not above 0, or amplitudes that no law can be fitted to.
    """
    if family not in FAMILIES:
        raise InputError(f"amplitude fit: unknown law {family!r}; use one of {', '.join(FAMILIES)}.")
    if not looks > 0:
        raise InputError(f"amplitude fit: {looks} looks; give a number above 0.")
    a, w = _prepare(amplitude, weights)
    log = np.log(a)
    first = float(w @ log)
    if family == "rayleigh":
        return AmplitudeFit(family, {"scale": float(np.sqrt(w @ a**2 / 2.0))})
    if family == "lognormal":
        return AmplitudeFit(family, {"mu": first, "sigma": float(np.sqrt(w @ (log - first) ** 2))})
    if family == "gamma":
        mean = float(w @ a)
        gap = float(np.log(mean) - first)
        shape = brentq(lambda k: np.log(k) - digamma(k) - gap, 1e-3, 1e9)
        return AmplitudeFit(family, {"shape": float(shape), "scale": mean / shape})
    if family == "weibull":
        relative = log - log.max()  # the equation for the shape is free of scale; this keeps powers finite

        def equation(shape: float) -> float:
            power = w * np.exp(shape * relative)
            return float(power @ relative / power.sum() - 1.0 / shape - w @ relative)

        shape = brentq(equation, 1e-2, 1e3)
        scale = a.max() * float(w @ np.exp(shape * relative)) ** (1.0 / shape)
        return AmplitudeFit(family, {"shape": float(shape), "scale": float(scale)})
    texture = 4.0 * float(w @ (log - first) ** 2) - float(polygamma(1, looks))
    nu, shift = np.inf, 0.0
    if texture > float(polygamma(1, _SMOOTH_ORDER)):
        nu = float(brentq(lambda value: float(polygamma(1, value)) - texture, 1e-3, _SMOOTH_ORDER))
        shift = digamma(nu) - np.log(nu)
    mean = float(np.exp(2.0 * first - digamma(looks) + np.log(looks) - shift))
    return AmplitudeFit(family, {"mean": mean, "nu": nu, "looks": float(looks)})


def fit_histogram(family: str, counts: np.ndarray) -> AmplitudeFit:
    """Fit a law to an 8-bit histogram [256], amplitude = level/255; level 0 counts as half a level times exp(-1/2).

    Raises
    ------
    InputError
        A histogram of another shape.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.shape != (256,):
        raise InputError(f"amplitude fit: histogram of shape {counts.shape}, (256,) expected; sum over images first.")
    levels = np.concatenate([[0.5 * np.exp(-0.5)], np.arange(1, 256)]) / 255.0
    return fit(family, levels, counts)


def goodness(model: AmplitudeFit, counts: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance (0 to 1) of an 8-bit histogram [256] to a fitted law.

    Compared at the upper edges of the levels except the last, which also holds every clipped amplitude.
    """
    counts = np.asarray(counts, dtype=np.float64)
    edges = (np.arange(255) + 0.5) / 255.0
    return float(np.abs(np.cumsum(counts)[:-1] / counts.sum() - model.cdf(edges)).max())


# ---- everything the evaluation needs to know about an image set ----

LEAST_SIZE = 32  # px a side


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of N images.

    Attributes
    ----------
    size : (H, W) in px.
    labels, groups, captions, looks : length N; a group is seen, unseen or composition, a look left, right or None.
    histograms : int64 [N, 256]; descriptors : GLCM, float64 [N, 48]; enl : float64 [N].
    side_features : float64 [N, 108]; thumbnails, grain : float64 [N, K²], of K = 32 (thumbnails of less than 64 px: half their side).
    features, caption_features : of the judge, float64 [N, D]; None without a judge.
    decoded_side : ``side_features`` of the same images through a decoder, float64 [N, 108]; the reader of the side learns from both.
    """

    size: tuple[int, int]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    captions: tuple[str, ...]
    looks: tuple[str | None, ...]
    histograms: np.ndarray
    descriptors: np.ndarray
    enl: np.ndarray
    side_features: np.ndarray
    thumbnails: np.ndarray
    grain: np.ndarray
    features: np.ndarray | None = None
    caption_features: np.ndarray | None = None
    decoded_side: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len({len(self.labels), len(self.groups), len(self.histograms), len(self.descriptors)}) != 1:
            raise InputError("image statistics: labels and statistics differ in length; measure the set again.")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageStatistics:
        """The images at ``indices`` int [K], in that order."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        for name, values in columns.items():
            if isinstance(values, tuple):
                columns[name] = tuple(values[index] for index in indices)
            elif values is not None:
                columns[name] = values[np.asarray(indices, dtype=int)]
        return ImageStatistics(self.size, **columns)


class Prints(NamedTuple):
    """What the search for memorised images needs of the training images; see ``distribution``."""

    thumbnails: np.ndarray
    grain: np.ndarray


def prints(images: ImageSet | ImageStatistics | Prints) -> Prints:
    """The thumbnails and the grain of training images; taken once, they serve many evaluations."""
    if isinstance(images, ImageSet):
        return Prints(thumbnails(images.images), grain(images.images))
    return Prints(images.thumbnails, images.grain)


def measure(images: ImageSet | ImageStatistics, judge: Judge | None = None, name: str = "images", minimum: int = 2) -> ImageStatistics:
    """Compute the statistics of an image set; those of one that is measured already are returned as they are.

    Parameters
    ----------
    images : uint8 images [N, H, W] with labels, captions and rows; a row may have ``group`` and ``look``.
    judge : SAR-CLIP; without it the measures of meaning and distribution are left out.
    name : what messages call the set.
    minimum : least number of images; 1 for a part of a larger set.

    Raises
    ------
    InputError
        Fewer images, or images smaller than 32 px.
    """
    if isinstance(images, ImageStatistics):
        return images
    stack = image_stack(images.images, name, minimum)
    if min(stack.shape[1:]) < LEAST_SIZE:
        raise InputError(f"{name}: {stack.shape[1]}x{stack.shape[2]} px, at least 32x32 needed; give larger images.")
    return ImageStatistics(
        size=stack.shape[1:],
        labels=tuple(images.labels),
        groups=tuple(row.get("group") or "seen" for row in images.rows),
        captions=tuple(images.captions),
        looks=tuple(row.get("look") if row.get("look") in ("left", "right") else None for row in images.rows),
        histograms=histogram(stack),
        descriptors=glcm_descriptors(stack),
        enl=local_enl(stack),
        side_features=side_features(stack),
        thumbnails=thumbnails(stack),
        grain=grain(stack),
        features=None if judge is None else embed_images(judge, stack),
        caption_features=None if judge is None else embed_texts(judge, images.captions),
    )


def join(parts: Iterable[ImageStatistics]) -> ImageStatistics:
    """The images of several parts, in order, as one set.

    Raises
    ------
    InputError
        No part, parts of different sizes, or features of some parts only.
    """
    parts = list(parts)
    if not parts or len({part.size for part in parts}) > 1 or len({part.features is None for part in parts}) > 1:
        raise InputError("image statistics: parts of one size, all with or all without a judge, are needed to join them.")
    columns = {}
    for name in (field.name for field in fields(ImageStatistics)[1:]):
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], tuple):
            columns[name] = sum(values, ())
        elif all(value is not None for value in values):
            columns[name] = np.concatenate(values)
    return ImageStatistics(parts[0].size, **columns)
