"""How much of a picture survives the autoencoder's round trip."""

from __future__ import annotations

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
