"""Corner reflectors put into radar images, as on a calibration site: points whose response is known, on dim surroundings."""

from __future__ import annotations

import numpy as np

from sarnb.errors import InputError
from sarnb.world.speckle import band_filter, broadening

MARGIN = 16  # px beyond the image, as the impulse response is circular and a point near the border has side lobes
PEAKS = (0.4, 1.0)  # amplitude of a point over the largest that an image holds
DIMMEST_DB = -24.0  # of the surroundings: a strong reflector leaves them little of an image's range


def with_reflectors(
    images: np.ndarray, ratios: tuple[float, float], rng: np.random.Generator, count: int = 16, window: str = "taylor"
) -> np.ndarray:
    """Images with ``count`` point scatterers each, on their own scene made darker: uint8 [N, H, W] → uint8 [N, H, W].

    ``ratios``: resolution (-3 dB width) over pixel spacing in range (columns) and azimuth (rows), of a radar with the spectral
    ``window``. The places, between pixels too, and the amplitudes are drawn evenly (the latter from ``PEAKS``), the dimming
    evenly in dB from ``DIMMEST_DB`` to 0. Point and scene add as fields; the scene's phase is not known and is drawn for each
    pixel, so that on average their powers add. Raises ``InputError`` for a ratio that no such window has.
    """
    if min(ratios) < 0.999 * broadening(window):
        raise InputError(f"reflectors: resolution over spacing is {ratios}; under the window {window} it is {broadening(window):.3g} or more")
    return np.stack([_with_reflectors(image, ratios, rng, count, window) for image in images])


def _with_reflectors(image: np.ndarray, ratios: tuple[float, float], rng: np.random.Generator, count: int, window: str) -> np.ndarray:
    scene = image / 255 * 10 ** (rng.uniform(DIMMEST_DB, 0) / 20) * np.exp(2j * np.pi * rng.random(image.shape))
    rows, columns = rng.random((2, count)) * np.array(image.shape)[:, None]
    peaks = rng.uniform(*PEAKS, count) * np.exp(2j * np.pi * rng.random(count))
    height, width = image.shape
    points = np.einsum("p,pr,pc->rc", peaks, _responses(height, ratios[1], window, rows), _responses(width, ratios[0], window, columns))
    return np.rint(np.clip(np.abs(scene + points), 0, 1) * 255).astype(np.uint8)


def _responses(size: int, ratio: float, window: str, places: np.ndarray) -> np.ndarray:
    """The impulse response along an axis around each of the ``places`` [P], between samples too: complex [P, size], peak 1.

    A shift by a fraction of a pixel is a phase over the band, so it is exact for a band-limited response.
    """
    padded = size + 2 * MARGIN
    band = band_filter(padded, ratio, window)
    shifts = np.exp(-2j * np.pi * np.fft.fftfreq(padded) * (MARGIN + places[:, None]))
    return np.fft.ifft(band / band.mean() * shifts)[:, MARGIN : MARGIN + size]
