"""Distances between sets of vectors: Frechet, kernel, precision and recall, and the move of latents.

The features are the judge's (SAR-CLIP) unless said otherwise, so none of these numbers is a FID or comparable to one.
Functions that take weights let a bootstrap reuse the features; weights [N] sum to 1, default equal.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import uniform_filter

from sarnb.errors import InputError

ALIKE = 0.7  # correlation of thumbnails below which no two images are copies; one redrawn in other speckle at 64 px reaches 0.8
RARE = 0.99  # quantile of the similarities of real images that a copy exceeds
SAME_GRAIN = 0.5  # correlation of the grain from which two images are one acquisition
CELL = 8  # px of a latent cell of Stable Diffusion's autoencoders, and of a JPEG block
_ROWS = 512  # images compared at once


def feature_pair(
    first: np.ndarray,
    second: np.ndarray,
    what: str,
    least: tuple[int, int] = (2, 2),
    names: tuple[str, str] = ("real", "generated"),
) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of feature vectors as finite float64 matrices [N, D] and [M, D], of at least ``least`` rows.

    Raises
    ------
    InputError
        One is no matrix, has too few rows, NaN or infinite values, or rows of another length; ``what`` and ``names`` are how the
        message calls the measure and the sets.
    """
    pair = [np.asarray(features, dtype=np.float64) for features in (first, second)]
    for matrix, minimum, name in zip(pair, least, names):
        if matrix.ndim != 2 or len(matrix) < minimum:
            raise InputError(f"{what}: {name} features {matrix.shape}, [N, D] with N of at least {minimum} expected; give more images.")
        if not np.isfinite(matrix).all():
            raise InputError(f"{what}: {name} features are NaN or infinite; check the images and the model that embedded them.")
    lengths = [matrix.shape[1] for matrix in pair]
    if lengths[0] != lengths[1]:
        raise InputError(f"{what}: lengths {lengths[0]} and {lengths[1]} differ; describe both sets in the same way.")
    return pair[0], pair[1]


def weighted_moments(features: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean [D], unbiased covariance [D, D] and effective number of samples 1/sum(w^2) of features [N, D].

    Raises
    ------
    InputError
        A single image, which has no covariance.
    """
    weights = np.full(len(features), 1.0 / len(features)) if weights is None else weights
    mean = weights @ features
    centred = features - mean
    concentration = float(weights @ weights)
    if concentration > 1.0 - 1e-9:
        raise InputError("frechet distance: a single image has no covariance; give at least two.")
    covariance = (centred * weights[:, None]).T @ centred / (1.0 - concentration)
    return mean, covariance, 1.0 / concentration


def oas_intensity(covariance: np.ndarray, samples: float) -> float:
    """Shrinkage intensity in [0, 1] towards a multiple of the identity: oracle approximating shrinkage.

    Chen, Wiesel, Eldar and Hero, IEEE T-SP 58 (2010) 5016, equation 23.
    """
    size = len(covariance)
    trace, square = float(np.trace(covariance)), float((covariance**2).sum())
    top = (1.0 - 2.0 / size) * square + trace**2
    bottom = (samples + 1.0 - 2.0 / size) * (square - trace**2 / size)
    return 1.0 if bottom <= 0 else float(min(1.0, top / bottom))


def shrink(covariance: np.ndarray, intensity: float) -> np.ndarray:
    """(1 - intensity) C + intensity (trace C / D) I of a covariance C [D, D], which keeps the trace."""
    size = len(covariance)
    return (1.0 - intensity) * covariance + intensity * np.trace(covariance) / size * np.eye(size)


def gaussian_frechet(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """Squared Frechet distance of two Gaussians of means [D] and covariances [D, D]: |ma - mb|^2 + tr(Ca + Cb - 2 (Ca Cb)^(1/2)).

    Dowson and Landau, J. Multivariate Anal. 12 (1982) 450. Unit: squared feature units; never below 0.
    """
    root = _root(cov_a)
    cross = np.linalg.eigvalsh(root.T @ cov_b @ root)
    overlap = np.sqrt(np.maximum(cross, 0.0)).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2.0 * overlap
    return float(max(distance, 0.0))


def _root(covariance: np.ndarray) -> np.ndarray:
    """R [D, D] with R R^T = C. Any one will do, for R^T B R has the eigenvalues of C B; Cholesky's is the quickest, and eigenvectors
    are left for matrices that are not positive definite.
    """
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return vectors * np.sqrt(np.maximum(values, 0.0))


def shrinkage(real: np.ndarray, fake: np.ndarray, real_weights: np.ndarray | None = None, fake_weights: np.ndarray | None = None) -> float:
    """How far ``frechet_distance`` shrinks covariances of features [N, D] and [M, D]: 0, or with fewer than 2 D effective samples the
    larger OAS intensity.
    """
    moments = weighted_moments(real, real_weights), weighted_moments(fake, fake_weights)
    if min(samples for *_, samples in moments) >= 2 * real.shape[1]:
        return 0.0
    return max(oas_intensity(covariance, samples) for _, covariance, samples in moments)


def frechet_distance(
    real: np.ndarray,
    fake: np.ndarray,
    real_weights: np.ndarray | None = None,
    fake_weights: np.ndarray | None = None,
    intensity: float | None = None,
) -> float:
    """Squared Frechet distance between Gaussians fitted to features [N, D] and [M, D].

    ``real_weights`` [N] and ``fake_weights`` [M] each sum to 1; equal if None. When either set has fewer than 2 D effective
    samples, both covariances are shrunk towards their mean variance by the larger of their two OAS intensities (the same for
    both, so that unequal sizes alone make no distance), or by ``intensity`` where it is given.

    Raises
    ------
    InputError
        Fewer than two images, different D, and NaN.
    """
    real, fake = feature_pair(real, fake, "frechet distance")
    intensity = shrinkage(real, fake, real_weights, fake_weights) if intensity is None else intensity
    (mean_a, cov_a, _), (mean_b, cov_b, _) = weighted_moments(real, real_weights), weighted_moments(fake, fake_weights)
    return gaussian_frechet(mean_a, shrink(cov_a, intensity), mean_b, shrink(cov_b, intensity))


def polynomial_kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(x.y / D + 1)^3 for all pairs: [N, D], [M, D] -> [N, M]."""
    return (first @ second.T / first.shape[1] + 1.0) ** 3


def mean_offdiagonal(kernel: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of a square kernel [N, N] over pairs of different images, weights [..., N] -> [...].

    Copies that a bootstrap resample makes of one image are one image here: pairing it with itself would be bias.
    """
    inside = ((weights @ kernel) * weights).sum(-1) - weights**2 @ np.diag(kernel)
    mass = weights.sum(-1) ** 2 - (weights**2).sum(-1)
    return np.divide(inside, mass, out=np.full_like(mass, np.nan), where=mass > 1e-12)


def weighted_kid(
    real_kernel: np.ndarray, fake_kernel: np.ndarray, cross_kernel: np.ndarray, real_weights: np.ndarray, fake_weights: np.ndarray
) -> np.ndarray:
    """Unbiased squared maximum mean discrepancy from kernels [N, N], [M, M], [N, M] and weights [..., N], [..., M] -> [...].

    With the cubic polynomial kernel it is the kernel distance of Binkowski, Sutherland, Arbel and Gretton, ICLR 2018, on all
    images at once (no random subsets); it may be slightly negative.
    """
    cross = ((real_weights @ cross_kernel) * fake_weights).sum(-1)
    return mean_offdiagonal(real_kernel, real_weights) + mean_offdiagonal(fake_kernel, fake_weights) - 2.0 * cross


def euclidean(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distances of all pairs: [N, D], [M, D] -> [N, M]."""
    square = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2.0 * first @ second.T
    return np.sqrt(np.maximum(square, 0.0))


def manifold_hits(reference: np.ndarray, queries: np.ndarray, neighbours: int = 3) -> np.ndarray:
    """Which queries [M, D] lie inside the manifold of reference [N, D]: bool [M].

    The manifold is the union of balls around reference points, each reaching to its k-th nearest other point.
    Kynkaanniemi et al., NeurIPS 2019, equation 1, with k = 3. The share of generated images inside the real manifold is the
    precision, that of real ones inside the generated one the recall. Both grow with the number of images: compare equal sizes only.
    """
    reference, queries = feature_pair(reference, queries, "precision and recall", (neighbours + 1, 1), ("reference", "query"))
    within = euclidean(reference, reference)
    np.fill_diagonal(within, 0.0)  # rounding must not count a point as its own neighbour
    radius = np.partition(within, neighbours, axis=1)[:, neighbours]
    return (euclidean(reference, queries) <= radius[:, None]).any(0)


def thumbnails(images: np.ndarray, size: int = 32) -> np.ndarray:
    """Block means of images, centred and of unit length: uint8 [N, H, W] -> float64 [N, K * K].

    The memorisation check compares these: a copy of a training image keeps its layout even when the decoder redraws
    the speckle. K is ``size``, or half of the shorter side where that is less, as blocks below 2 px would be speckle. Blocks
    are of one size and fill the image, with parts of pixels at their borders. A constant image gives the zero vector.

    Raises
    ------
    InputError
        Images of fewer than ``size`` px a side.
    """
    sides = images.shape[1:]
    if min(sides) < size:
        raise InputError(f"images: {sides[0]}x{sides[1]} pixels, less than {size} a side; give larger images.")
    count = min(size, min(sides) // 2)
    rows, columns = (_block_weights(side, count) for side in sides)
    flat = np.stack([rows @ image @ columns.T for image in images]).reshape(len(images), -1)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(length > 1e-6, flat / np.maximum(length, 1e-6), 0.0)  # below it, in grey levels, is nothing but rounding


def _block_weights(side: int, count: int) -> np.ndarray:
    """Weights [count, side] of ``side`` pixels in the means of ``count`` equal blocks."""
    edges, pixels = np.linspace(0, side, count + 1)[:, None], np.arange(side)
    inside = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return np.maximum(inside, 0.0) * count / side


def grain(images: np.ndarray, size: int = 32) -> np.ndarray:
    """What marks one acquisition: single pixels over the mean around them, uint8 [N, H, W] -> unit vectors float64 [N, size * size].

    Speckle is drawn anew in every acquisition, also of one scene, so that the grain of two correlates by 0 +- 1 / size. The same
    pixels in other storage, scaled anew, after JPEG or with some noise keep theirs. What repeats every ``CELL`` px is taken off: a
    decoder draws it into all of its images. A constant image gives the zero vector.
    """
    halves = [((np.arange(size // 2) + 0.5) * side / size).astype(int) for side in images.shape[1:]]
    # the same places in a mirrored image, so that its grain is the mirrored grain
    rows, cols = (np.r_[half, side - 1 - half[::-1]] for half, side in zip(halves, images.shape[1:]))
    found = []
    for image in images.astype(np.float32):
        around = uniform_filter(image, 5, mode="reflect")
        ratio = np.clip(image / np.maximum(around, 0.5) - 1.0, -1.0, 1.5)  # few bright points would rule the product
        height, width = (side // CELL for side in image.shape)
        pattern = ratio[: height * CELL, : width * CELL].reshape(height, CELL, width, CELL).mean((0, 2))
        ratio -= np.tile(pattern, (height + 1, width + 1))[: len(ratio), : ratio.shape[1]]
        found.append(ratio[np.ix_(rows, cols)].ravel().astype(np.float64))
    flat = np.stack(found)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


def overlapping(first: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
    """Which of some images are also among others, by their ``grain`` [N, D], [M, D]: bool [N]; without others, among themselves.

    Also where one is the other mirrored, in range, in azimuth or in both. A copy that was resampled, shifted or turned by a
    quarter has another grain and is not found; that its layout is the same is for ``memorised`` and ``duplicated`` to see.
    """
    return nearest_picture(first, second) > SAME_GRAIN


def nearest_picture(first: np.ndarray, second: np.ndarray | None = None, grain: np.ndarray | None = None) -> np.ndarray:
    """Highest correlation of each picture [N, D] with another one [M, D], as it is or mirrored: [N]; without others, among themselves.

    Pictures are ``thumbnails`` or ``grain``. Pairs of one ``grain`` [N, D] do not count. -infinity where nothing is left.
    """
    others, found = first if second is None else second, []
    for start in range(0, len(first), _ROWS):
        own = np.arange(start, min(start + _ROWS, len(first)))
        near = _likeness(first[own], others)
        if second is None:
            near[own - start, own] = -np.inf
        if grain is not None:
            near[_likeness(grain[own], grain) > SAME_GRAIN] = -np.inf
        found.append(near.max(1))
    return np.concatenate(found)


def _likeness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation [N, M] of square pictures [N, D] and [M, D], the highest of the four that mirroring gives."""
    grids = first.reshape(len(first), *[math.isqrt(first.shape[1])] * 2)
    turned = (grids, grids[:, ::-1], grids[:, :, ::-1], grids[:, ::-1, ::-1])
    return np.max([grid.reshape(first.shape) @ second.T for grid in turned], axis=0)


def copy_threshold(similarities: np.ndarray) -> float:
    """The similarity beyond which an image counts as a copy, from those [N] of real images that are none.

    The quantile ``RARE`` of them, the lower of two neighbours, so that a single outlier does not set it; ``ALIKE`` at least.
    Real images of which nothing is left to compare have the similarity -infinity and do not count.
    """
    known = similarities[np.isfinite(similarities)]
    return float(max(ALIKE, np.quantile(known, RARE, method="lower"))) if len(known) else ALIKE


def memorised(fake: np.ndarray, train: np.ndarray, held_out: np.ndarray, overlap: np.ndarray | None = None) -> np.ndarray:
    """Which generated thumbnails [M, D] are closer to a training one, as it is or mirrored, than held-out real images are: bool [M].

    Parameters
    ----------
    fake, train, held_out : ``thumbnails``. The threshold is ``copy_threshold`` of the similarities of ``held_out`` [N, D] to
        ``train`` [T, D]: images that cannot be copies reach it, so only what goes beyond needs the word memorised.
    overlap : which held-out images are training images themselves, bool [N]; they say nothing of what is new.

    Raises
    ------
    InputError
        Every held-out image is a training image.
    """
    fake, train = feature_pair(fake, train, "memorised", (1, 1), ("generated", "training"))
    new = held_out if overlap is None else held_out[~overlap]
    if not len(new):
        raise InputError("every real image is a training image too; give real images that the generator has not seen")
    return nearest_picture(fake, train) > copy_threshold(nearest_picture(new, train))


def duplicated(fake: np.ndarray, real: np.ndarray, real_grain: np.ndarray | None = None) -> np.ndarray:
    """Which generated thumbnails [M, D] are closer to another generated one, as it is or mirrored, than real ones are: bool [M].

    ``real`` [N, D], N of at least 2. The threshold is ``copy_threshold`` of the similarity of each real image to the nearest
    other one: scenes of the world are as alike as that. Pairs of real images with one ``real_grain`` are one acquisition that is
    there twice, and do not count.
    """
    real, fake = feature_pair(real, fake, "duplicates")
    return nearest_picture(fake) > copy_threshold(nearest_picture(real, grain=real_grain)) + 1e-9


def latent_shift(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How far an autoencoder's latents of the same images moved, [N, C, h, w] each, in the units of ``before``.

    Returns
    -------
    mean_shift : length of the difference of mean vectors over the root mean variance of a channel.
    covariance_change : Frobenius norm of the difference of covariances over that of ``before``.
    frechet : squared Fréchet distance of Gaussians fitted to the vectors of single places (Dowson & Landau 1982), a channel,
        over the mean variance: 0 is unmoved, 1 is a mean shift of one standard deviation in every channel.
    rms : root mean square move of a latent, over the same deviation.

    Raises
    ------
    InputError
        The shapes differ.
    """
    if np.shape(before) != np.shape(after):
        raise InputError(f"latent shift: {np.shape(before)} before and {np.shape(after)} after; encode the same images")
    # One vector a place: [N·h·w, C].
    first, second = (np.moveaxis(np.asarray(own, np.float64), 1, -1).reshape(-1, own.shape[1]) for own in (before, after))
    (mean_a, cov_a, _), (mean_b, cov_b, _) = weighted_moments(first), weighted_moments(second)
    variance = float(np.trace(cov_a) / len(cov_a))
    return {
        "mean_shift": float(np.linalg.norm(mean_b - mean_a) / np.sqrt(variance)),
        "covariance_change": float(np.linalg.norm(cov_b - cov_a) / np.linalg.norm(cov_a)),
        "frechet": gaussian_frechet(mean_a, cov_a, mean_b, cov_b) / (len(cov_a) * variance),
        "rms": float(np.sqrt(((second - first) ** 2).mean() / variance)),
    }
