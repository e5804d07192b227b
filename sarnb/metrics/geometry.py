"""Side-looking geometry read back from the image: which side was the scene illuminated from?

A raised object is bright on the side that faces the radar (layover, double bounce) and casts a shadow away from it.
Going away from the radar along range one meets bright, then dark; "left" means near range is column 0. A closed canopy
shows the reverse at short distance (the shadow of one crown ends at the bright face of the next), so one fixed rule cannot
serve all classes: `fit_look_reader` learns from real images of known side how much each distance and contrast counts.
Every feature changes sign when the image is mirrored, so neither side can be preferred. Method: this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from sarnb.errors import InputError
from sarnb.metrics.checks import image_stack

LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24)  # pixels along range between bright and dark
BRIGHT, DARK = (0.0, 1.0, 2.0), (0.0, 1.0)  # thresholds in standard deviations of log amplitude
SMOOTHING = ((3, 1), (3, 3))  # averaging windows (azimuth, range) in pixels against speckle
RIDGE = 30.0
CALIBRATION_MINIMUM = 8  # real images of known side
_COLUMNS = [(size, bright, dark, lag) for size in SMOOTHING for bright in BRIGHT for dark in DARK for lag in LAGS]
_STRONG = [index for index, column in enumerate(_COLUMNS) if column[:3] == ((3, 3), 2.0, 1.0) and column[3] <= 8]


def side_features(images: np.ndarray) -> np.ndarray:
    """Bright-before-dark asymmetries of images: uint8 [N, H, W] -> float64 [N, 108], each in [-1, 1].

    z is the log amplitude, averaged over a small window and standardised in the image; b = max(z - t, 0) and
    d = max(-z - u, 0). With C(l) = sum of b(r, c) d(r, c + l), a feature is (C(l) - C(-l)) / (C(l) + C(-l)); positive =
    dark lies to the right of bright. Columns: smoothing, t, u, lag. A constant image gives zeros.

    Raises:
        InputError: images of fewer than 32 columns.
    """
    stack = image_stack(images)
    if stack.shape[2] < 32:
        raise InputError(f"look side: images {stack.shape[2]} px wide, 32 needed; give wider images.")
    return np.stack([_asymmetries(image) for image in stack])


def _asymmetries(image: np.ndarray) -> np.ndarray:
    log = np.log(image.astype(np.float32) + 2.0)
    features = []
    for size in SMOOTHING:
        z = uniform_filter(log, size)
        z = (z - z.mean()) / max(float(z.std()), 1e-4)
        # rows one after the other with a neutral border between them: a lag is then one shift of the whole image
        z = np.pad(z, ((0, 0), (0, max(LAGS)))).ravel()
        bright = np.stack([np.maximum(z - threshold, 0.0) for threshold in BRIGHT])
        dark = np.stack([np.maximum(-z - threshold, 0.0) for threshold in DARK])
        after = np.stack([bright[:, :-lag] @ dark[:, lag:].T for lag in LAGS], axis=-1)
        before = np.stack([bright[:, lag:] @ dark[:, :-lag].T for lag in LAGS], axis=-1)
        features.append(((after - before) / (after + before + 1e-3)).ravel())
    return np.concatenate(features).astype(np.float64)


@dataclass(frozen=True)
class LookReader:
    """Linear reader of the look side: weights [108] for `side_features`; score above 0 = left."""

    weights: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Evidence [N] from features [N, 108]; about +1 for a clear left, -1 for a clear right."""
        return features @ self.weights


def fit_look_reader(features: np.ndarray, looks: Sequence[str | None], ridge: float = RIDGE) -> LookReader:
    """Calibrate a reader on real images of known side, by ridge regression on +1 (left) and -1 (right).

    Args:
        features: `side_features` of real images [N, 108]. looks: their sides; None where unknown.
        ridge: penalty, for features scaled to unit mean square.

    Raises:
        InputError: fewer than 8 images of known side.
    """
    sides = _signs(looks)
    known = np.isfinite(sides)
    if known.sum() < CALIBRATION_MINIMUM:
        raise InputError(f"look side: {known.sum()} real images of known side, {CALIBRATION_MINIMUM} needed to calibrate the reader.")
    chosen = features[known]
    scale = np.sqrt((chosen**2).mean(0)) + 1e-6
    scaled = chosen / scale
    normal = scaled.T @ scaled + ridge * np.eye(scaled.shape[1])
    return LookReader(np.linalg.solve(normal, scaled.T @ sides[known]) / scale)


def look_side(images: np.ndarray, reader: LookReader | None = None) -> np.ndarray:
    """Evidence for the illumination side: uint8 [N, H, W] -> float [N]; above 0 left, below 0 right.

    Without a calibrated reader it is the plain rule "a bright object, then its dark shadow within 8 pixels", which suits
    separate raised objects (city, industry, harbour) and fails on closed canopy.
    """
    features = side_features(images)
    return features[:, _STRONG].mean(1) if reader is None else reader.scores(features)


def look_correct(scores: np.ndarray, looks: Sequence[str | None]) -> np.ndarray:
    """1 where the side read back equals the one asked for, 0 where not, NaN where none was asked for: float [N].

    A score of exactly 0 (no evidence) counts one half, as a guess would.
    """
    return 0.5 * (1.0 + np.sign(scores) * _signs(looks))


def _signs(looks: Sequence[str | None]) -> np.ndarray:
    for look in looks:
        if look not in ("left", "right", None):
            raise InputError(f"look side: {look!r}; use 'left', 'right' or leave it out.")
    return np.array([np.nan if look is None else (1.0 if look == "left" else -1.0) for look in looks])
