"""What every measure asks of its images, so that bad input ends in one clear sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sarnb.errors import InputError


def image_stack(images: np.ndarray | Sequence[np.ndarray], name: str = "images", minimum: int = 1) -> np.ndarray:
    """Return `images` as one uint8 array [N, H, W].

    Args:
        images: 8-bit single-channel images, an array [N, H, W] or a list of equal arrays [H, W].
        name: what the message calls the set.
        minimum: least number of images the caller can work with.

    Raises:
        InputError: sizes differ, values are not 8 bit, NaN or infinite, wrong number of axes, too few images.
    """
    if isinstance(images, (list, tuple)):
        shapes = sorted({np.shape(image) for image in images})
        if len(shapes) > 1:
            raise InputError(f"{name}: images of different sizes {shapes[0]} and {shapes[1]}; cut them to one size first.")
    stack = np.asarray(images)
    if stack.size == 0 or len(stack) < minimum:
        count = 0 if stack.size == 0 else len(stack)
        raise InputError(f"{name}: {count} image(s), at least {minimum} needed; give more images.")
    if stack.dtype != np.uint8:
        if np.issubdtype(stack.dtype, np.floating) and not np.isfinite(stack).all():
            raise InputError(f"{name}: values are NaN or infinite; mend or leave out those images.")
        raise InputError(f"{name}: type {stack.dtype}, 8-bit (uint8) expected; normalise by A/(mu+3 sigma) first.")
    if stack.ndim != 3:
        raise InputError(f"{name}: shape {stack.shape}, [N, H, W] expected; average the three channels first.")
    return stack


def feature_matrix(features: np.ndarray, name: str = "features", minimum: int = 1) -> np.ndarray:
    """Return `features` as a finite float64 matrix [N, D] with at least `minimum` rows.

    Raises:
        InputError: not a matrix, too few rows, NaN or infinite values.
    """
    matrix = np.asarray(features, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) < minimum:
        raise InputError(f"{name}: shape {matrix.shape}, [N, D] with N of at least {minimum} expected; give more images.")
    if not np.isfinite(matrix).all():
        raise InputError(f"{name}: values are NaN or infinite; check the images and the model that embedded them.")
    return matrix


def same_width(first: np.ndarray, second: np.ndarray, name: str) -> None:
    """Refuse two matrices whose rows have different lengths."""
    if first.shape[-1] != second.shape[-1]:
        raise InputError(f"{name}: lengths {first.shape[-1]} and {second.shape[-1]} differ; describe both sets in the same way.")
