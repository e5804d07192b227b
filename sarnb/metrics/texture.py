"""Texture by grey-level co-occurrence: 64 uniform levels on [0, 1], range and azimuth kept apart.

Haralick, Shanmugam and Dinstein, IEEE T-SMC 3 (1973) 610; property formulae as in scikit-image's `graycoprops`.
Columns are range, rows are azimuth: speckle is correlated differently along the two, so they are not averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import xlogy

from sarnb.errors import InputError
from sarnb.metrics import image_stack
from sarnb.metrics.distribution import feature_pair, frechet_distance

LEVELS = 64
DISTANCES = (1, 2, 4, 8)  # pixels
DIRECTIONS = ("range", "azimuth")  # 0 degrees along columns, 90 degrees along rows
PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")

_ROW, _COL = np.divmod(np.arange(LEVELS * LEVELS), LEVELS)
_WEIGHTS = np.stack([(_ROW - _COL) ** 2, np.abs(_ROW - _COL), 1.0 / (1.0 + (_ROW - _COL) ** 2), _ROW * _COL, _ROW, _ROW**2], axis=1).astype(
    np.float64
)


def cooccurrence(image: np.ndarray, distances: Sequence[int] = DISTANCES, directions: Sequence[str] = DIRECTIONS) -> np.ndarray:
    """Symmetric, normalised co-occurrence matrices of one image.

    Args:
        image: uint8 [H, W], divided by 4 into 64 levels.
        distances: pixel distances. directions: "range" (along columns) and/or "azimuth" (along rows).

    Returns:
        float64 [len(directions) * len(distances), 64, 64], directions outermost; each matrix sums to 1.

    Raises:
        InputError: a distance that does not fit in the image, an unknown direction.
    """
    levels = (image >> 2).astype(np.intp)
    scaled = levels * LEVELS
    counts = np.empty((len(directions) * len(distances), LEVELS * LEVELS))
    for index, (direction, distance) in enumerate((way, step) for way in directions for step in distances):
        if direction not in DIRECTIONS:
            raise InputError(f"texture: direction {direction!r}; use 'range' or 'azimuth'.")
        axis = 1 if direction == "range" else 0
        if not 0 < distance < image.shape[axis]:
            raise InputError(f"texture: distance {distance} px does not fit in an image of {image.shape}; give larger images.")
        if direction == "range":
            codes = scaled[:, :-distance] + levels[:, distance:]
        else:
            codes = scaled[:-distance] + levels[distance:]
        counts[index] = np.bincount(codes.ravel(), minlength=LEVELS * LEVELS)
    matrices = counts.reshape(-1, LEVELS, LEVELS)
    matrices = matrices + matrices.swapaxes(1, 2)
    return matrices / matrices.sum((1, 2), keepdims=True)


def properties(matrices: np.ndarray) -> np.ndarray:
    """Six properties of co-occurrence matrices: [M, 64, 64] -> float64 [M, 6] in the order of PROPERTIES.

    contrast sum p (i-j)^2; dissimilarity sum p |i-j|; homogeneity sum p / (1 + (i-j)^2); energy sqrt(sum p^2);
    correlation (1 when a matrix has a single level, as scikit-image does); entropy -sum p ln p in nats.
    """
    flat = matrices.reshape(len(matrices), -1)
    contrast, dissimilarity, homogeneity, product, mean, square = (flat @ _WEIGHTS).T
    variance = square - mean**2
    correlation = np.divide(product - mean**2, variance, out=np.ones_like(variance), where=variance > 1e-12)
    energy = np.sqrt((flat**2).sum(1))
    entropy = -xlogy(flat, flat).sum(1)
    return np.stack([contrast, dissimilarity, homogeneity, energy, correlation, entropy], axis=1)


def descriptor_names(distances: Sequence[int] = DISTANCES, directions: Sequence[str] = DIRECTIONS) -> tuple[str, ...]:
    """Names "property direction distance" of the columns of `glcm_descriptors`."""
    return tuple(f"{name} {way} {step}" for way in directions for step in distances for name in PROPERTIES)


def glcm_descriptors(images: np.ndarray, distances: Sequence[int] = DISTANCES, directions: Sequence[str] = DIRECTIONS) -> np.ndarray:
    """Texture descriptors of images: uint8 [N, H, W] -> float64 [N, P], P = 6 x directions x distances (48).

    Example:
        >>> glcm_descriptors(np.zeros((1, 16, 16), np.uint8)).shape
        (1, 48)
    """
    stack = image_stack(images)
    return np.stack([properties(cooccurrence(image, distances, directions)).ravel() for image in stack])


def standardise(descriptors: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Subtract the mean and divide by the standard deviation of `reference` [N, P], column by column.

    A column that does not vary in the reference is divided by 1e-6 of its size, so that a difference still shows.
    """
    spread = reference.std(0)
    floor = 1e-6 * np.maximum(np.abs(reference.mean(0)), 1.0)
    return (descriptors - reference.mean(0)) / np.maximum(spread, floor)


def property_distances(real_means: np.ndarray, fake_means: np.ndarray) -> np.ndarray:
    """Mean absolute difference per property of standardised mean descriptors: [..., P] twice -> [..., 6].

    Unit: standard deviations of one real image; averaged over directions and distances.
    """
    gap = np.abs(real_means - fake_means)
    return gap.reshape(*gap.shape[:-1], -1, len(PROPERTIES)).mean(-2)


def texture_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Standardised texture distance of two descriptor sets [N, P] and [M, P].

    Each property is measured in standard deviations of the real set; the absolute differences of the two means are
    averaged over all P columns. 0 for equal textures; 1 = one real standard deviation apart on average.
    """
    real, fake = feature_pair(real, fake, "texture descriptors", (2, 1))
    return float(np.abs(standardise(fake, real).mean(0)).mean())


def texture_frechet(real: np.ndarray, fake: np.ndarray) -> float:
    """Frechet distance of the standardised descriptor vectors [N, P], [M, P]; shrinkage as in `frechet_distance`."""
    real, fake = feature_pair(real, fake, "texture descriptors")
    return frechet_distance(standardise(real, real), standardise(fake, real))
