"""Whether a drawn image follows the picture that steered it: land cover, the coarse view, edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter, sobel

from sarnb.data.amplitude import Normalisation
from sarnb.world.backscatter import COVERS


def iou_table(truth: np.ndarray, read: np.ndarray, least: float = 0.001) -> pd.DataFrame:
    """Intersection over union of each land cover over all pixels: columns cover, share, iou.

    Parameters
    ----------
    truth, read : codes of ``COVERS``, uint8 [N, H, W].
    least : covers with a smaller share of the truth are left out; their mean is the mean IoU.
    """
    both = np.bincount(truth.ravel().astype(int) * len(COVERS) + read.ravel(), minlength=len(COVERS) ** 2).reshape(len(COVERS), -1)
    inside, wanted, found = both.diagonal(), both.sum(1), both.sum(0)
    table = pd.DataFrame({"cover": COVERS, "share": wanted / truth.size, "iou": inside / np.maximum(wanted + found - inside, 1)})
    return table[table["share"] >= least].reset_index(drop=True)


@dataclass(frozen=True)
class Consistency:
    """How a set agrees with its coarse views, over all their cells: Pearson's ``correlation`` of log amplitudes; ``bias`` and
    ``spread``, mean and standard deviation of the log ratio [dB].
    """

    correlation: float
    bias: float
    spread: float


def coarse_amplitude(images: np.ndarray, scale: Normalisation, factor: int) -> np.ndarray:
    """Amplitude [N, H/f, W/f] of 8-bit images multi-looked over ``factor`` x ``factor`` cells: the root of their mean intensity."""
    count, height, width = images.shape
    cells = (images / 255.0 * scale.scale).reshape(count, height // factor, factor, width // factor, factor)
    return np.sqrt((cells**2).mean(axis=(2, 4)))


def consistency(images: np.ndarray, views: np.ndarray, scale: Normalisation, view_scale: Normalisation) -> Consistency:
    """Agreement of 8-bit images [N, H, W] with their coarse views [N, h, w], both brought to amplitudes by their scales.

    Cells that are black or saturated in either are left out: their amplitude is not known.
    """
    own, given = coarse_amplitude(images, scale, images.shape[1] // views.shape[1]), views / 255.0 * view_scale.scale
    known = (own > 0) & (views > 0) & (views < 255)
    ours, theirs = np.log(own[known]), np.log(given[known])
    ratio = 20 / np.log(10) * (ours - theirs)
    return Consistency(float(np.corrcoef(ours, theirs)[0, 1]), float(ratio.mean()), float(ratio.std()))


def edge_agreement(images: np.ndarray, reference: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """Correlation of the edge strength of each image with that of its reference, [N]; uint8 [N, H, W].

    Edge strength: the modulus of the gradient of log amplitude smoothed by a Gaussian of ``sigma`` px, so that speckle, which
    multiplies, is alike in bright and dark areas.
    """
    strengths = []
    for stack in (images, reference):
        logs = gaussian_filter(np.log1p(stack.astype(float)), (0, sigma, sigma))
        strengths.append(np.hypot(sobel(logs, axis=1), sobel(logs, axis=2)).reshape(len(stack), -1))
    first, second = (values - values.mean(1, keepdims=True) for values in strengths)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.divide((first * second).sum(1), norms, out=np.zeros(len(first)), where=norms > 0)


def nearest(conditions: np.ndarray, known: np.ndarray, codes: bool = False) -> np.ndarray:
    """For each condition the number of the nearest among ``known``: by squared distance, or by the cells whose ``codes`` differ.

    ``conditions`` uint8 [N, ...], ``known`` uint8 [M, ...] of the same further shape.
    """
    if codes:
        return np.array([int(np.argmin((known != one).reshape(len(known), -1).sum(1))) for one in conditions])
    flat = known.reshape(len(known), -1).astype(np.float32)
    squares = (flat**2).sum(1)
    return np.array([int(np.argmin(squares - 2 * flat @ one.ravel().astype(np.float32))) for one in conditions])
