"""From radar amplitude to 8 bits: A / (mu + 3 sigma), clipped to [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sarnb.errors import InputError


@dataclass(frozen=True)
class Normalisation:
    """Mean ``mu`` and standard deviation ``sigma`` of the amplitude (same unit) over all pixels of a set.

    The scale is mu + 3 sigma, as in arXiv 2506.13307: an amplitude of that size becomes 1, larger ones are clipped.
    Clipping is what a set with one common scale pays; for Rayleigh amplitude 0.56 % of the pixels are above.

    >>> Normalisation(mu=1.0, sigma=0.5).scale
    2.5
    """

    mu: float
    sigma: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mu) and math.isfinite(self.sigma) and self.mu >= 0 and self.sigma >= 0 and self.scale > 0):
            raise InputError(
                f"mu = {self.mu}, sigma = {self.sigma} cannot scale an amplitude; both must be finite, not negative and not both 0"
            )

    @property
    def scale(self) -> float:
        """mu + 3 sigma, the amplitude that becomes 1."""
        return self.mu + 3.0 * self.sigma

    @classmethod
    def fit(cls, amplitudes: Iterable[np.ndarray]) -> Normalisation:
        """Mean and (population) standard deviation over every pixel of the arrays, one array in memory at a time.

        Raises InputError if there is no pixel.
        """
        return cls.from_moments(moments(amplitude) for amplitude in amplitudes)

    @classmethod
    def from_moments(cls, parts: Iterable[tuple[int, float, float]]) -> Normalisation:
        """The same from (pixels, mean, sum of squared deviations) of each array, merged in the given order."""
        count, mean, squares = 0, 0.0, 0.0
        for part_count, part_mean, part_squares in parts:
            # Chan, Golub and LeVeque (1983): merging centred moments does not cancel as sums of squares do
            total, step = count + part_count, part_mean - mean
            mean += step * part_count / total
            squares += part_squares + step * step * count * part_count / total
            count = total
        if count == 0:
            raise InputError("no pixel to fit the amplitude scale on; give at least one image")
        return cls(mean, math.sqrt(squares / count))

    def apply(self, amplitude: np.ndarray) -> np.ndarray:
        """Amplitude [...] to uint8 [...], rounded to the nearest of 256 levels; level / 255 * scale leads back."""
        unit = np.clip(np.asarray(amplitude, np.float32) / np.float32(self.scale), 0.0, 1.0)
        return np.rint(unit * 255.0).astype(np.uint8)


def moments(amplitude: np.ndarray) -> tuple[int, float, float]:
    """(pixels, mean, sum of squared deviations from it) of one array, in float64."""
    values = np.asarray(amplitude, np.float64)
    mean = float(values.mean())
    return values.size, mean, float(np.square(values - mean).sum())
