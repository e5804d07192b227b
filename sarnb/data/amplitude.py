"""What a number of a radar image is, and how it becomes 8 bits: quantity to amplitude, then A / (mu + 3 sigma), clipped to [0, 1]."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sarnb.errors import InputError

BLOCK = 2**24  # pixels that are worked on at a time


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
        """Mean and (population) standard deviation over every pixel of the arrays [H, W], one array in memory at a time.

        Raises
        ------
        InputError
            There is no pixel.
        """
        return cls.from_moments(moments(amplitude) for amplitude in amplitudes)

    @classmethod
    def from_moments(cls, parts: Iterable[tuple[int, float, float]]) -> Normalisation:
        """The same from (pixels, mean, sum of squared deviations) of each array, merged in the given order.

        Raises
        ------
        InputError
            There is no pixel.
        """
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
        levels = np.asarray(np.asarray(amplitude, np.float32) / np.float32(self.scale))  # an array of its own, worked on in place
        np.clip(levels, 0.0, 1.0, out=levels)
        return np.rint(np.multiply(levels, np.float32(255.0), out=levels), out=levels).astype(np.uint8)


def moments(amplitude: np.ndarray, valid: np.ndarray | None = None) -> tuple[int, float, float]:
    """(pixels, mean, sum of squared deviations from it) of one array [H, W], in float64; of the pixels that ``valid`` [H, W] marks."""
    count, mean, squares = 0, 0.0, 0.0
    step = max(1, BLOCK // max(1, amplitude[:1].size))
    for start in range(0, len(amplitude), step):  # a scene of 10,000 x 10,000 px need not stand in memory in float64
        part = amplitude[start : start + step]
        values = np.array(part if valid is None else part[valid[start : start + step]], np.float64)  # a copy, worked on in place
        own = float(values.mean()) if values.size else mean
        total, shift = count + values.size, own - mean
        values -= own
        squares += float(np.square(values, out=values).sum())
        if count and values.size:
            squares += shift * shift * count * values.size / total
            mean += shift * values.size / total
        elif values.size:
            mean = own
        count = total
    return count, mean, squares


# The quantity: amplitude, intensity (power, sigma0, gamma0, beta0), decibels, or complex samples.

QUANTITIES = ("amplitude", "intensity", "db", "complex")
WORDS = {  # what tags say of it; the first that is found counts, so "sigma0 in dB" is decibels
    "db": r"(?<![a-z0-9])db(?![a-z0-9])|(sigma|gamma|beta)[0_ -]*db(?![a-z0-9])|decibel",  # not in an identifier such as 3db8
    "amplitude": r"amplitude|magnitude|modulus|(?<![a-z])amp(?![a-z])",
    "intensity": r"intensity|power(?!ed)|(?<![a-z])(pow|nrcs)(?![a-z])|(sigma|gamma|beta|σ|γ|β)[ _-]?(0|°|nought|naught|zero)"
    r"|(?<![a-z0-9])[sgb]0(?![a-z0-9])",  # s0_vv, and not in an identifier such as b0f3
}
WINDOW = 16  # px: flat windows of this side tell the speckle's law
FLATTEST = 0.25  # share of the windows that counts as flat
POWER_CV = 0.7  # of flat windows: single-look amplitude has 0.52, single-look intensity 1
DECIBEL_SKEWNESS, DECIBEL_CV = -0.2, 0.4  # of flat windows: amplitude leans to the right, its logarithm to the left; and varies less
RAYLEIGH_CV = math.sqrt(4 / math.pi - 1)


def stated_quantity(text: str) -> str:
    """The quantity that words of a tag name, "" if none.

    >>> stated_quantity("Sigma0_VV_db"), stated_quantity("Gamma0_VH"), stated_quantity("Amplitude_HH"), stated_quantity("VV")
    ('db', 'intensity', 'amplitude', '')
    >>> stated_quantity("s0_vv"), stated_quantity("NRCS_VV"), stated_quantity("NRCS in dB"), stated_quantity("id b0f3 as0")
    ('intensity', 'intensity', 'db', '')
    >>> stated_quantity("sigma0dB"), stated_quantity("linear power"), stated_quantity("Powered by X, id 3db8-0db1")
    ('db', 'intensity', '')
    """
    return next((name for name, words in WORDS.items() if re.search(words, text.lower())), "")


def flat_statistics(values: np.ndarray, valid: np.ndarray | None = None) -> tuple[float, float]:
    """Coefficient of variation and skewness in the flattest windows of an image [H, W]; NaN where it has none.

    Windows with pixels that are not valid, of one value, at the highest level of the image, or with over 5 % zeros (borders
    that nothing declares) are left out.
    """
    rows, columns = values.shape[0] // WINDOW, values.shape[1] // WINDOW
    stride = max(1, math.isqrt(rows * columns // 1024))  # at most about 1024 windows, spread over the image
    places = [(r * WINDOW, c * WINDOW) for r in range(0, rows, stride) for c in range(0, columns, stride)]
    high = values.max()
    cuts = [(slice(r, r + WINDOW), slice(c, c + WINDOW)) for r, c in places]
    windows = [values[cut].ravel() for cut in cuts if valid is None or valid[cut].all()]
    tiles = np.array([window for window in windows if window.min() < window.max() < high and np.mean(window == 0) <= 0.05], np.float64)
    if not len(tiles):
        return math.nan, math.nan
    mean, spread = tiles.mean(1), tiles.std(1)
    variation = spread / np.maximum(np.abs(mean), 1e-30)
    flat = variation <= np.quantile(variation, FLATTEST)
    skewness = ((tiles[flat] - mean[flat, None]) / spread[flat, None]) ** 3
    return float(np.median(variation[flat])), float(skewness.mean())


def decide_quantity(
    what: str, stated: Sequence[str], flat: Sequence[tuple[float, float]], requested: str = "", kept: bool = False
) -> tuple[str, str]:
    """The quantity of images of one sensor and storage, and one sentence on how it is known.

    Parameters
    ----------
    what : the images in words, such as "6 of 6 images, float".
    stated : what the type or the tags of each say, "" where they say nothing.
    flat : ``flat_statistics`` of each.
    requested : of QUANTITIES; it decides, but real numbers are no complex samples. "": tags decide, else the statistics.
    kept : statistics are reported and change nothing: 8-bit images, whose scaling nobody knows.

    Raises
    ------
    InputError
        Tags differ between the images, tags and statistics disagree, or an unknown or impossible request.
    """
    if requested and requested not in QUANTITIES:
        raise InputError(f"quantity {requested!r}: use {', '.join(QUANTITIES)}, or leave it out to have it guessed")
    mend = f"give --quantity {', '.join(QUANTITIES[:-1])} for what the numbers are"
    named = sorted(set(stated) - {""})
    known = [pair for pair in flat if not math.isnan(pair[1])]
    variation, skewness = (float(np.median(part)) for part in zip(*known)) if known else (math.nan, math.nan)
    looks = (RAYLEIGH_CV / variation) ** 2 if variation > 0 else math.nan
    numbers = f"{looks:.2g} looks and a skewness of {skewness:.2f} in flat areas, read as amplitude"
    seems = "db" if skewness < DECIBEL_SKEWNESS and variation < DECIBEL_CV else "intensity" if variation > POWER_CV else ""
    if requested == "complex" and named != ["complex"] or requested in ("intensity", "db") and "complex" in named:
        raise InputError(
            f"quantity {requested!r}: {what}: they hold {'complex samples' if 'complex' in named else 'real numbers'}; leave it out"
        )
    if requested:
        against = [name for name in named if name not in (requested, "complex")]
        return requested, f"{what}: {requested}, as requested" + (f", though tags say {', '.join(against)}" if against else "")
    if len(named) > 1:
        raise InputError(f"{what}: tags of some say {named[0]}, of others {named[1]}; {mend}, or separate them by sensor")
    if named == ["complex"]:
        return "complex", f"{what}: complex, by the type of the files"
    if named and seems and named[0] != seems:
        raise InputError(f"{what}: tags say {named[0]}, but {numbers}, are those of {seems}; {mend}")
    if named:
        return named[0], f"{what}: {named[0]}, by the {'tags or the negative values' if named[0] == 'db' else 'tags'} of the files"
    measured = f" ({numbers})" if looks == looks else ""
    if kept and seems:
        return "amplitude", f"{what}: kept as amplitude, though {numbers}, are those of {seems}; see --quantity"
    if looks == looks and not seems:  # single-look intensity is recognised, several looks are not
        measured = f"{measured[:-1]}; intensity of {variation**-2:.2g} looks spreads as much, so this is not sure)"
    return seems or "amplitude", f"{what}: {seems or 'amplitude'}, guessed{measured}; --quantity says otherwise"
