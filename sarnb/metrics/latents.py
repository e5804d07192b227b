"""How an autoencoder's latents are distributed, and how far tuning its encoder moves them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics.distribution import gaussian_frechet, weighted_moments


def latent_vectors(latents: np.ndarray) -> np.ndarray:
    """Latents [N, C, h, w] → one vector a place, float64 [N·h·w, C]."""
    if np.ndim(latents) != 4:
        raise InputError(f"latents: shape {np.shape(latents)}, [N, C, h, w] expected")
    return np.moveaxis(np.asarray(latents, np.float64), 1, -1).reshape(-1, latents.shape[1])


def channel_table(sets: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Mean and standard deviation of each channel: name → latents [N, C, h, w] gives rows (set, channel, mean, std)."""
    rows = []
    for name, latents in sets.items():
        vectors = latent_vectors(latents)
        rows += [(name, channel, own.mean(), own.std()) for channel, own in enumerate(vectors.T)]
    return pd.DataFrame(rows, columns=["set", "channel", "mean", "std"])


def unit_scaling(latents: np.ndarray) -> float:
    """The factor that gives all latents together unit variance, 1/σ (Rombach et al. 2022): SDXL's ``scaling_factor``."""
    return float(1 / np.std(latent_vectors(latents)))


def latent_shift(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How far the latents of the same images moved, [N, C, h, w] each, in the units of ``before``.

    mean_shift: length of the difference of mean vectors over the root mean variance of a channel. covariance_change: Frobenius
    norm of the difference of covariances over that of ``before``. frechet: squared Fréchet distance of Gaussians fitted to the
    vectors of single places (Dowson & Landau 1982), a channel, over the mean variance: 0 is unmoved, 1 is a mean shift
    of one standard deviation in every channel. rms: root mean square move of a latent, over the same deviation.
    """
    first, second = latent_vectors(before), latent_vectors(after)
    if first.shape != second.shape:
        raise InputError(f"latent shift: {np.shape(before)} before and {np.shape(after)} after; encode the same images")
    (mean_a, cov_a, _), (mean_b, cov_b, _) = weighted_moments(first), weighted_moments(second)
    variance = float(np.trace(cov_a) / len(cov_a))
    return {
        "mean_shift": float(np.linalg.norm(mean_b - mean_a) / np.sqrt(variance)),
        "covariance_change": float(np.linalg.norm(cov_b - cov_a) / np.linalg.norm(cov_a)),
        "frechet": gaussian_frechet(mean_a, cov_a, mean_b, cov_b) / (len(cov_a) * variance),
        "rms": float(np.sqrt(((second - first) ** 2).mean() / variance)),
    }
