"""Whether a drawn image follows the picture that steered it: land cover, the coarse view, edges, shadows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter, sobel

from sarnb.data.amplitude import Normalisation
from sarnb.world.backscatter import COVERS
from sarnb.world.radar import Radar, simulate
from sarnb.world.scene import Scene

LEAST_CELLS = 50  # of shadow, and of lit ground, below which an image has no contrast between them; this project's choice
OTHER = {"left": "right", "right": "left"}


def iou_table(truth: np.ndarray, read: np.ndarray, least: float = 0.001) -> pd.DataFrame:
    """Intersection over union of each land cover over all pixels: columns cover, share, iou.

    Parameters
    ----------
    truth, read : codes of ``COVERS``, uint8 [N, H, W].
    least : covers with a smaller share of the truth are left out; their mean is the mean IoU.
    """
    both = _confusion(truth, read).sum(0)
    inside, wanted, found = both.diagonal(), both.sum(1), both.sum(0)
    table = pd.DataFrame({"cover": COVERS, "share": wanted / truth.size, "iou": inside / np.maximum(wanted + found - inside, 1)})
    return table[table["share"] >= least].reset_index(drop=True)


def mean_ious(truth: np.ndarray, read: np.ndarray, draws: np.ndarray, least: float = 0.001) -> np.ndarray:
    """The mean IoU of ``iou_table`` of each of ``draws`` int [R, n] of scenes, [R]; every image is counted once only."""
    both = _confusion(truth, read)[draws].sum(1)
    inside, wanted, found = both.diagonal(axis1=1, axis2=2), both.sum(2), both.sum(1)
    known = wanted >= least * wanted.sum(1, keepdims=True)
    return (inside / np.maximum(wanted + found - inside, 1)).mean(1, where=known)


def _confusion(truth: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Pixels of each cover that are read as each cover, int [N, K, K]."""
    pairs = (truth.astype(int) * len(COVERS) + read).reshape(len(truth), -1)
    return np.stack([np.bincount(own, minlength=len(COVERS) ** 2) for own in pairs]).reshape(-1, len(COVERS), len(COVERS))


@dataclass(frozen=True)
class Consistency:
    """How a set agrees with its coarse views, over all their cells: Pearson's ``correlation`` of log amplitudes; ``bias`` and
    ``spread``, mean and standard deviation of the log ratio [dB]. Numbers, or one a draw of scenes.
    """

    correlation: float | np.ndarray
    bias: float | np.ndarray
    spread: float | np.ndarray


def coarse_amplitude(images: np.ndarray, scale: Normalisation, factor: int) -> np.ndarray:
    """Amplitude [N, H/f, W/f] of 8-bit images multi-looked over ``factor`` x ``factor`` cells: the root of their mean intensity."""
    count, height, width = images.shape
    cells = (images / 255.0 * scale.scale).reshape(count, height // factor, factor, width // factor, factor)
    return np.sqrt((cells**2).mean(axis=(2, 4)))


def consistency(
    images: np.ndarray, views: np.ndarray, scale: Normalisation, view_scale: Normalisation, draws: np.ndarray | None = None
) -> Consistency:
    """Agreement of 8-bit images [N, H, W] with their coarse views [N, h, w], both brought to amplitudes by their scales.

    Cells that are black or saturated in either are left out: their amplitude is not known. ``draws``: int [R, n] of scenes.
    """
    own, given = coarse_amplitude(images, scale, images.shape[1] // views.shape[1]), views / 255.0 * view_scale.scale
    known = ((own > 0) & (views > 0) & (views < 255)).reshape(len(images), -1)
    logs = (20 * np.log10(np.where(known, values.reshape(known.shape), 1)) for values in (own, given))
    first, second = (np.where(known, values, 0) for values in logs)
    terms = (known, first, second, first**2, second**2, first * second)
    sums = np.stack([term.sum(1, dtype=float) for term in terms], axis=-1)  # of each scene, so that a draw of scenes adds them up
    sums = sums.sum(0) if draws is None else sums[draws].sum(1)
    count, first, second, square, second_square, product = np.moveaxis(sums, -1, 0)
    first, second = first / count, second / count
    variance, second_variance, shared = square / count - first**2, second_square / count - second**2, product / count - first * second
    correlation = shared / np.sqrt(variance * second_variance)
    return Consistency(correlation, first - second, np.sqrt(np.maximum(variance + second_variance - 2 * shared, 0)))


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


def shadow_contrast(images: np.ndarray, shade: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """Lit cells over those in radar shadow, by the mean log amplitude [dB] of each image, [N]; NaN with fewer than ``LEAST_CELLS``.

    Parameters
    ----------
    images : uint8 [N, H, W]; a level of half a step stands for black.
    shade, lit : bool [N, H, W], see ``shadow_masks``.
    """
    logs = 20 * np.log10(images.astype(float) + 0.5)
    few = np.minimum(shade.sum((1, 2)), lit.sum((1, 2))) < LEAST_CELLS
    means = [np.divide((logs * mask).sum((1, 2)), mask.sum((1, 2)), where=~few, out=np.full(len(images), np.nan)) for mask in (lit, shade)]
    return means[0] - means[1]


def shadow_masks(scene: Scene, radar: Radar) -> tuple[np.ndarray, np.ndarray]:
    """Where the radar's shadow lies, and where it would lie if the radar looked from the other side but does not: bool [H, W] each.

    Both lie next to the same things, so that they differ in the light and not in the land cover; what faces the radar is laid over
    the second, which makes it brighter still. An image that does not know the side has a contrast of 0 between the two, one whose
    shadows fall the wrong way a negative one. Shadow is where less than half of the surface is lit in the simulator.
    """
    own, other = (simulate(scene, replace(radar, look=look, looks=1), 0) for look in (radar.look, OTHER[radar.look]))
    return own.shadow & ~other.shadow, other.shadow & ~own.shadow


def nearest(conditions: np.ndarray, known: np.ndarray, codes: bool = False) -> np.ndarray:
    """For each condition the number of the nearest among ``known``: by squared distance, or by the cells whose ``codes`` differ.

    ``conditions`` uint8 [N, ...], ``known`` uint8 [M, ...] of the same further shape.
    """
    if codes:
        return np.array([int(np.argmin((known != one).reshape(len(known), -1).sum(1))) for one in conditions])
    flat = known.reshape(len(known), -1).astype(np.float32)
    squares = (flat**2).sum(1)
    return np.array([int(np.argmin(squares - 2 * flat @ one.ravel().astype(np.float32))) for one in conditions])
