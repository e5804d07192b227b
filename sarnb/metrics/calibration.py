"""Is the judge as sure as it is right? Temperature scaling and the reliability diagram.

Probabilities are p_k = softmax(t s_k) over the class prompts, s_k the cosines. One number t is fitted to held-out images,
so that among images called with 80 % certainty eight of ten are right (Guo et al., ICML 2017). It changes no decision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from sarnb.errors import InputError

BINS = 10  # of equal width on the certainty, 0 to 1
SCALES = (1e-2, 1e4)  # between which the factor is searched


def class_probabilities(similarity: np.ndarray, scale: float, candidates: np.ndarray | None = None) -> np.ndarray:
    """softmax of ``scale`` times the cosines [N, K] over the candidates bool [N, K] (all if None): float [N, K]."""
    return np.exp(_log_probabilities(similarity, scale, candidates))


def _log_probabilities(similarity: np.ndarray, scale: float, candidates: np.ndarray | None) -> np.ndarray:
    logits = scale * np.asarray(similarity, np.float64)
    return log_softmax(logits if candidates is None else np.where(candidates, logits, -np.inf), axis=1)


def log_loss(similarity: np.ndarray, truth: np.ndarray, scale: float, candidates: np.ndarray | None = None) -> float:
    """Mean negative log-probability of the true classes int [N], in nats."""
    return float(-_log_probabilities(similarity, scale, candidates)[np.arange(len(truth)), truth].mean())


def fit_scale(similarity: np.ndarray, truth: np.ndarray, candidates: np.ndarray | None = None) -> float:
    """The factor t of least log loss, the inverse of the temperature; convex in t, searched on SCALES.

    Raises:
        InputError: no image.
    """
    if not len(truth):
        raise InputError("calibration: no image; give held-out images with their classes.")
    found = minimize_scalar(
        lambda log_t: log_loss(similarity, truth, float(np.exp(log_t)), candidates),
        bounds=np.log(SCALES),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def reliability(certainty: np.ndarray, correct: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """The reliability diagram: images by certainty, in bins of equal width that hold any.

    Args:
        certainty: probability [N] of the class that was called. correct: whether it was the true one [N].

    Returns:
        columns low, high (ends of the bin), certainty (mean), accuracy, lo, hi (95 % Wilson interval), n.
    """
    place = np.clip((np.asarray(certainty) * bins).astype(int), 0, bins - 1)
    rows = []
    for index in np.unique(place):
        inside = place == index
        n, share = int(inside.sum()), float(np.mean(np.asarray(correct, float)[inside]))
        rows.append((index / bins, (index + 1) / bins, float(np.mean(certainty[inside])), share, *wilson(share, n), n))
    return pd.DataFrame(rows, columns=["low", "high", "certainty", "accuracy", "lo", "hi", "n"])


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Score interval of a share of n (Wilson 1927), 95 % by default."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def calibration_error(certainty: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: mean over images of |accuracy - certainty| of their bin, 0 to 1 (Naeini et al. 2015)."""
    table = reliability(certainty, correct, bins)
    return float(((table["accuracy"] - table["certainty"]).abs() * table["n"]).sum() / table["n"].sum())


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found.

    ``scale``: fitted on all images. ``table``: columns factor, scale, log loss [nats], calibration error, n, for the judge's
    own factor and the fitted one. ``certainty`` [N], ``correct`` [N]: with the factor of the half that the image was not in.
    """

    scale: float
    table: pd.DataFrame
    certainty: np.ndarray
    correct: np.ndarray


def calibrate(
    similarity: np.ndarray,
    truth: np.ndarray,
    folds: tuple[np.ndarray, np.ndarray],
    own_scale: float,
    candidates: np.ndarray | None = None,
) -> Calibration:
    """Fit the factor and examine it on images that it was not fitted on: fitted on one half, examined on the other, and back.

    Args:
        similarity: cosines [N, K] of images and class prompts. truth: int [N]. folds: indices of two halves, all images.
        own_scale: the factor that the judge learned in its contrastive training. candidates: bool [N, K].
    """
    guess = similarity.argmax(1) if candidates is None else np.where(candidates, similarity, -np.inf).argmax(1)
    correct, everyone = guess == truth, np.arange(len(truth))
    crossed = np.full(len(truth), own_scale)
    for fitted, examined in (folds, folds[::-1]):
        if len(fitted) and len(examined):
            crossed[examined] = fit_scale(
                similarity[fitted], truth[fitted], None if candidates is None else candidates[fitted]
            )
    rows, certainty = [], np.empty(0)
    for name, scales in (("as trained", np.full(len(truth), own_scale)), ("fitted on the other half", crossed)):
        probabilities = class_probabilities(similarity * scales[:, None], 1.0, candidates)
        certainty = probabilities[everyone, guess]
        loss = log_loss(similarity * scales[:, None], truth, 1.0, candidates)
        rows.append((name, float(scales.mean()), loss, calibration_error(certainty, correct), len(truth)))
    table = pd.DataFrame(rows, columns=["factor", "scale", "log loss [nats]", "calibration error", "n"])
    return Calibration(fit_scale(similarity, truth, candidates), table, certainty, correct)
