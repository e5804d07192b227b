"""What coherent imaging does to reflectivity: texture, speckle and the impulse response.

The product model (Ward 1981; Oliver and Quegan 2004, ch. 5): intensity = mean power x gamma texture x exponential
speckle, whose product is K-distributed. The impulse response is a weighted band in the frequency domain, so samples of a
homogeneous area become correlated exactly as far as the resolution exceeds the spacing.

References
----------
K. D. Ward, "Compound representation of high resolution sea clutter", Electron. Lett. 17 (1981) 561-563.
E. Jakeman, P. N. Pusey, "A model for non-Rayleigh sea echo", IEEE Trans. Antennas Propag. 24 (1976) 806-814.
C. Oliver, S. Quegan, Understanding Synthetic Aperture Radar Images, SciTech 2004.
W. G. Carrara, R. S. Goodman, R. M. Majewski, Spotlight Synthetic Aperture Radar, Artech House 1995, app. D.2 (Taylor).
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
from scipy import fft, optimize, special

from sarnb.errors import InputError

TAYLOR_SIDELOBE_DB = -35.0
TAYLOR_NBAR = 5
WINDOWS = ("rect", "taylor")
SUBPIXEL_TAPS = 8  # cells over which a point between grid positions is interpolated, per axis


def gamma_texture(order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit-mean gamma texture of order ν per cell; ``inf`` means none (all ones).

    ``order``: float array of any shape, > 0. Returns float32 of the same shape, variance 1/ν.
    """
    finite = np.isfinite(order)
    shape = np.where(finite, order, 1.0).astype(np.float32)
    drawn = rng.standard_gamma(shape, dtype=np.float32)
    return np.where(finite, drawn / shape, np.float32(1.0))


def circular_gaussian(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Fully developed speckle: complex64 of ``shape``, circular Gaussian, E|s|² = 1."""
    pairs = rng.standard_normal((*shape, 2), dtype=np.float32)
    pairs *= np.float32(np.sqrt(0.5))
    return pairs.view(np.complex64)[..., 0]


def _taylor_coefficients(sidelobe_db: float, nbar: int) -> np.ndarray:
    """Cosine coefficients F_m, m = 1 … nbar-1, of a Taylor window (Carrara et al., app. D.2)."""
    a = np.arccosh(10 ** (-sidelobe_db / 20)) / np.pi
    dilation = nbar**2 / (a**2 + (nbar - 0.5) ** 2)
    m = np.arange(1, nbar)
    coefficients = np.empty(nbar - 1)
    for i, order in enumerate(m):
        numerator = np.prod(1 - order**2 / dilation / (a**2 + (m - 0.5) ** 2))
        denominator = np.prod([1 - order**2 / j**2 for j in m if j != order])
        coefficients[i] = (-1) ** (order + 1) * numerator / (2 * denominator)
    return coefficients


def band_weight(x: np.ndarray, window: str) -> np.ndarray:
    """Weight of a unit-width band at ``x`` in [-0.5, 0.5]; "rect" is 1, "taylor" is -35 dB, nbar 5."""
    if window == "rect":
        return np.ones_like(x)
    coefficients = _taylor_coefficients(TAYLOR_SIDELOBE_DB, TAYLOR_NBAR)
    m = np.arange(1, TAYLOR_NBAR)
    return 1 + 2 * np.cos(2 * np.pi * x[..., None] * m) @ coefficients


@cache
def broadening(window: str) -> float:
    """-3 dB width of the impulse response times the bandwidth: 0.886 for "rect", about 1.19 for "taylor".

    Also the finest resolution/spacing ratio a grid can carry: there the band fills the sampling rate.
    """
    x = np.linspace(-0.5, 0.5, 4001)
    weight = band_weight(x, window)

    def excess(delay: float) -> float:
        return np.trapezoid(weight * np.cos(2 * np.pi * x * delay), x) / np.trapezoid(weight, x) - np.sqrt(0.5)

    return 2 * optimize.brentq(excess, 0.1, 1.5)


@lru_cache(maxsize=64)
def band_filter(n: int, ratio: float, window: str) -> np.ndarray:
    """Frequency response of the impulse response along one axis.

    ``n``: samples; ``ratio``: resolution (-3 dB width) / spacing, at least ``broadening(window)``. Returns float32 [n] in
    ``fft`` order, scaled so that white noise keeps its power (which calibrates distributed targets in σ0 and gives a
    point target an energy equal to its RCS over the cell area).
    """
    band = min(broadening(window) / ratio, 1.0)
    frequency = fft.fftfreq(n)
    # the bin on the band edge counts by the part of it that lies inside, else the width would be quantised in 1/n
    inside = np.clip((band / 2 - np.abs(frequency)) * n + 0.5, 0, 1)
    weight = inside * band_weight(np.clip(frequency / band, -0.5, 0.5), window)
    if band >= 1.0:
        weight = band_weight(frequency, window)
    response = (weight / np.sqrt(np.mean(weight**2))).astype(np.float32)
    response.flags.writeable = False
    return response


def impulse_response(cells: np.ndarray, ratios: tuple[float, float], window: str) -> np.ndarray:
    """Band-limit a complex grid: complex64 [rows, cols] → the same, with (range, azimuth) resolution/spacing ratios.

    The convolution is circular: pad before, crop after.
    """
    rows, cols = cells.shape
    response = band_filter(rows, ratios[1], window)[:, None] * band_filter(cols, ratios[0], window)[None, :]
    spectrum = fft.fft2(cells)
    spectrum *= response
    return fft.ifft2(spectrum, overwrite_x=True)


def _sinc_taps(fraction: np.ndarray) -> np.ndarray:
    """Kaiser-windowed sinc taps [n, SUBPIXEL_TAPS] for positions ``fraction`` in [0, 1) past the fourth tap, unit sum.

    So a point has the same energy within the band wherever it lies; unit energy would lift it by up to 1.9 dB between cells, as
    the taps fall off towards Nyquist, where the impulse response has no band.
    """
    half = SUBPIXEL_TAPS // 2
    distance = np.arange(1 - half, half + 1)[None, :] - fraction[:, None]
    taper = special.i0(6.0 * np.sqrt(np.clip(1 - (distance / half) ** 2, 0, 1)))
    taps = np.sinc(distance) * taper
    return taps / taps.sum(axis=1, keepdims=True)


def add_points(cells: np.ndarray, rows: np.ndarray, cols: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """Add complex point scatterers at fractional grid positions, before the impulse response.

    ``cells`` complex64 [R, C]; ``rows``, ``cols`` float [n] with whole numbers at cell centres; ``amplitudes`` complex [n].
    Points whose interpolation kernel would leave the grid are dropped. Returns a new complex64 [R, C]; energy within
    the band is kept.
    """
    half = SUBPIXEL_TAPS // 2
    row0, col0 = np.floor(rows).astype(int), np.floor(cols).astype(int)
    height, width = cells.shape
    keep = (row0 >= half - 1) & (row0 + half < height) & (col0 >= half - 1) & (col0 + half < width)
    if not keep.any():
        return cells
    row0, col0, amplitudes = row0[keep], col0[keep], amplitudes[keep]
    kernel = _sinc_taps(rows[keep] - row0)[:, :, None] * _sinc_taps(cols[keep] - col0)[:, None, :]
    offset = np.arange(1 - half, half + 1)
    index = ((row0[:, None] + offset)[:, :, None] * width + (col0[:, None] + offset)[:, None, :]).ravel()
    weight = (kernel * amplitudes[:, None, None]).ravel()
    summed = np.bincount(index, weight.real, cells.size) + 1j * np.bincount(index, weight.imag, cells.size)
    return cells + summed.reshape(cells.shape).astype(np.complex64)


# Corner reflectors put into radar images, as on a calibration site: points whose response is known, on dim surroundings.

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
    pixel, so that on average their powers add.

    Raises
    ------
    InputError
        A ratio that no such window has.
    """
    if min(ratios) < 0.999 * broadening(window):
        raise InputError(
            f"reflectors: resolution over spacing is {ratios}; under the window {window} it is {broadening(window):.3g} or more"
        )
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
