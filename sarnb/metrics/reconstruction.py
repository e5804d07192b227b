"""How much of a picture survives the autoencoder's round trip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sarnb.errors import InputError


def round_trip(original: np.ndarray, decoded: np.ndarray) -> pd.DataFrame:
    """One row a picture: PSNR [dB], SSIM, and the coefficient of variation before and after.

    original, decoded : uint8 [N, H, W, 3]. PSNR and SSIM (Wang et al. 2004, 7 px windows) by scikit-image on the
    range 0 to 255; the coefficient of variation σ/μ on the mean of the channels. Raises ``InputError`` if the
    shapes differ or a picture is black.
    """
    if original.shape != decoded.shape:
        raise InputError(f"round trip: {original.shape} before and {decoded.shape} after; decode the same pictures")
    if not original.any(axis=(1, 2, 3)).all():
        raise InputError("round trip: a picture is all zero, its coefficient of variation is not defined; leave it out")
    rows = []
    for before, after in zip(original, decoded):
        grey = before.mean(axis=-1), after.mean(axis=-1)
        rows.append(
            {
                "psnr_db": peak_signal_noise_ratio(before, after, data_range=255),
                "ssim": structural_similarity(before, after, channel_axis=-1, data_range=255),
                "cv_before": float(grey[0].std() / grey[0].mean()),
                "cv_after": float(grey[1].std() / grey[1].mean()),
            }
        )
    return pd.DataFrame(rows)


def linear_code_psnr(fit: np.ndarray, images: np.ndarray, block: int, numbers: Sequence[int]) -> dict[int, float]:
    """What the best linear code of blocks reaches: the yardstick of an autoencoder with as many latent channels.

    Principal components of the ``block`` x ``block`` px blocks of ``fit``, of which the first k code those of ``images``
    (both uint8 [N, H, W, C], sides multiples of ``block``). Returns k → mean PSNR of a picture in dB, for k in ``numbers``.
    Raises ``InputError`` for sides that are no multiples and more numbers than a block has values.
    """
    values = block * block * images.shape[-1]
    if any(side % block for side in (*fit.shape[1:3], *images.shape[1:3])) or max(numbers) > values:
        raise InputError(f"blocks of {block} px: give images whose sides they divide, and at most {values} numbers a block")
    known, wanted = _blocks(fit, block), _blocks(images, block)
    mean = known.mean(axis=0)
    _, components = np.linalg.eigh(np.cov((known - mean).T))
    inside = ((wanted - mean) @ components[:, ::-1]) ** 2  # energy by component, the strongest first
    lost = inside.sum(axis=1, keepdims=True) - np.cumsum(inside, axis=1)  # of each block, after its first k components
    errors = lost.reshape(len(images), -1, values).mean(axis=1) / values
    return {k: float(np.mean(10 * np.log10(255**2 / np.maximum(errors[:, k - 1], 1e-12)))) for k in numbers}


def _blocks(images: np.ndarray, block: int) -> np.ndarray:
    """float64 [blocks, values of a block]."""
    count, height, width, channels = images.shape
    cut = images.reshape(count, height // block, block, width // block, block, channels).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(-1, block * block * channels).astype(np.float64)
