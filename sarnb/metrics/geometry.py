"""Side-looking geometry read back from the image: which side was the scene illuminated from?

A raised object is bright on the side that faces the radar (layover, double bounce) and casts a shadow away from it.
Going away from the radar along range one meets bright, then dark. "left" means near range is column 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import uniform_filter

from sarnb.errors import InputError
from sarnb.metrics.checks import image_stack

MAX_LAG = 10  # pixels between a bright edge and its shadow


def look_side(images: np.ndarray, max_lag: int = MAX_LAG) -> np.ndarray:
    """Evidence for the illumination side: uint8 [N, H, W] -> float [N] in [-1, 1]; above 0 left, below 0 right.

    z is log amplitude, averaged over 3x3 pixels and standardised; b = max(z - 1, 0) marks bright, d = max(-z, 0) dark.
    With C(l) = mean of b(r, c) d(r, c + l), the score is (sum C(l) - sum C(-l)) / (sum C(l) + sum C(-l)), l = 1..max_lag.
    A mirrored image has exactly the opposite score; a constant image scores 0. Method: this project's own.

    Raises:
        InputError: images narrower than max_lag + 2.
    """
    stack = image_stack(images)
    if stack.shape[2] < max_lag + 2:
        raise InputError(f"look side: images {stack.shape[2]} px wide, {max_lag + 2} needed; give wider images.")
    return np.array([_score(image, max_lag) for image in stack])


def _score(image: np.ndarray, max_lag: int) -> float:
    level = uniform_filter(np.log(image.astype(np.float32) + 2.0), 3, mode="nearest")
    spread = level.std()
    if spread < 1e-4:
        return 0.0
    z = (level - level.mean()) / spread
    bright, dark = np.maximum(z - 1.0, 0.0), np.maximum(-z, 0.0)
    after = sum(float((bright[:, :-lag] * dark[:, lag:]).sum()) for lag in range(1, max_lag + 1))
    before = sum(float((bright[:, lag:] * dark[:, :-lag]).sum()) for lag in range(1, max_lag + 1))
    return (after - before) / max(after + before, 1e-9)


def look_correct(scores: np.ndarray, looks: Sequence[str | None]) -> np.ndarray:
    """1 where the side read back equals the one asked for, 0 where not, NaN where none was asked for: float [N].

    A score of exactly 0 (no evidence) counts one half, as a guess would.
    """
    for look in looks:
        if look not in ("left", "right", None):
            raise InputError(f"look side: {look!r}; use 'left', 'right' or leave it out.")
    asked = np.array([np.nan if look is None else (1.0 if look == "left" else -1.0) for look in looks])
    return 0.5 * (1.0 + np.sign(scores) * asked)
