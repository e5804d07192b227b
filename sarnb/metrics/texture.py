"""Texture by grey-level co-occurrence (GLCM): 64 uniform levels on [0, 1], range and azimuth kept apart.

Haralick, Shanmugam and Dinstein, IEEE T-SMC 3 (1973) 610; formulae as in scikit-image's ``graycoprops``. Columns are range,
rows are azimuth: speckle is correlated differently along the two, so they are not averaged. A descriptor is a vector of the
six properties at each distance in each direction, one an image: 6 x 4 x 2 = 48 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import xlogy

from sarnb.errors import InputError
from sarnb.metrics import image_stack
from sarnb.metrics.distribution import feature_pair

LEVELS = 64
DISTANCES = (1, 2, 4, 8)  # pixels
DIRECTIONS = ("range", "azimuth")  # 0 degrees along columns, 90 degrees along rows
PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")

_ROW, _COL = (place.astype(np.float64) for place in np.divmod(np.arange(LEVELS * LEVELS), LEVELS))
_GAP = np.abs(_ROW - _COL)
_WEIGHTS = np.stack([_GAP**2, _GAP, 1.0 / (1.0 + _GAP**2), _ROW * _COL, _ROW, _ROW**2], axis=1)


def cooccurrence(image: np.ndarray, distances: Sequence[int] = DISTANCES, directions: Sequence[str] = DIRECTIONS) -> np.ndarray:
    """Symmetric, normalised co-occurrence matrices g of one image.

    Parameters
    ----------
    image : uint8 [H, W], divided by 4 into 64 levels.
    distances : in pixels.
    directions : "range" (along columns), "azimuth" (along rows) or both.

    Returns
    -------
    float64 [directions * distances, 64, 64], directions outermost. g(i, j) is the share of pixel pairs with levels i and j, so
    each matrix sums to 1.

    Raises
    ------
    InputError
        A distance that does not fit in the image, or an unknown direction.
    """
    levels = (image >> 2).astype(np.intp)
    counts = []
    for direction, distance in ((way, step) for way in directions for step in distances):
        if direction not in DIRECTIONS:
            raise InputError(f"texture: direction {direction!r}; use 'range' or 'azimuth'.")
        along = levels if direction == "range" else levels.T
        if not 0 < distance < along.shape[1]:
            raise InputError(f"texture: distance {distance} px does not fit in an image of {image.shape}; give larger images.")
        codes = along[:, :-distance] * LEVELS + along[:, distance:]
        counts.append(np.bincount(codes.ravel(), minlength=LEVELS * LEVELS))
    matrices = np.array(counts, dtype=np.float64).reshape(-1, LEVELS, LEVELS)
    matrices = matrices + matrices.swapaxes(1, 2)
    return matrices / matrices.sum((1, 2), keepdims=True)


def properties(matrices: np.ndarray) -> np.ndarray:
    """Six properties of co-occurrence matrices, in the order of ``PROPERTIES``: float64 [M, 64, 64] -> [M, 6].

    contrast sum g (i - j)^2; dissimilarity sum g |i - j|; homogeneity sum g / (1 + (i - j)^2); energy sqrt(sum g^2);
    correlation sum g (i - m)(j - m) / v, m and v the mean and variance of i under g (1 where there is a single level, as in
    scikit-image); entropy -sum g ln g in nats.
    """
    flat = matrices.reshape(len(matrices), -1)
    contrast, dissimilarity, homogeneity, product, mean, square = (flat @ _WEIGHTS).T
    variance = square - mean**2
    correlation = np.divide(product - mean**2, variance, out=np.ones_like(variance), where=variance > 1e-12)
    energy = np.sqrt((flat**2).sum(1))
    entropy = -xlogy(flat, flat).sum(1)
    return np.stack([contrast, dissimilarity, homogeneity, energy, correlation, entropy], axis=1)


def descriptor_names() -> tuple[str, ...]:
    """Names "property direction distance" of the columns of ``glcm_descriptors``."""
    return tuple(f"{name} {way} {step}" for way in DIRECTIONS for step in DISTANCES for name in PROPERTIES)


def glcm_descriptors(images: np.ndarray, distances: Sequence[int] = DISTANCES, directions: Sequence[str] = DIRECTIONS) -> np.ndarray:
    """Descriptors of images: uint8 [N, H, W] -> float64 [N, 6 * directions * distances].

    >>> glcm_descriptors(np.zeros((1, 16, 16), np.uint8)).shape
    (1, 48)
    """
    return np.stack([properties(cooccurrence(image, distances, directions)).ravel() for image in image_stack(images)])


def standardise(descriptors: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """``descriptors`` [M, P] less the mean of ``reference`` [N, P], over its standard deviation, column by column.

    A column that does not vary in the reference is divided by 1e-6 of its size, so that a difference still shows.
    """
    spread = reference.std(0)
    floor = 1e-6 * np.maximum(np.abs(reference.mean(0)), 1.0)
    return (descriptors - reference.mean(0)) / np.maximum(spread, floor)


def property_distances(real_means: np.ndarray, fake_means: np.ndarray) -> np.ndarray:
    """Absolute difference of two sets' mean standardised descriptors, by property: [..., P] twice -> [..., 6].

    Averaged over directions and distances; the unit is the standard deviation of one reference image.
    """
    gap = np.abs(real_means - fake_means)
    return gap.reshape(*gap.shape[:-1], -1, len(PROPERTIES)).mean(-2)


def texture_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Texture distance mean_k |mean z_k|, z the generated descriptors in standard deviations of the reference ones.

    Parameters
    ----------
    real, fake : descriptors [N, P] and [M, P].

    Returns
    -------
    0 for equal textures; 1 where the two means lie one standard deviation of a reference image apart, on average over columns.

    Raises
    ------
    InputError
        Fewer than two reference images, NaN, or different lengths.
    """
    real, fake = feature_pair(real, fake, "texture descriptors", (2, 1))
    return float(np.abs(standardise(fake, real).mean(0)).mean())
