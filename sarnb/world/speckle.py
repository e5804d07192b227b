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

from functools import lru_cache

import numpy as np
from scipy import fft, optimize, special

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
    """Fully developed speckle: complex64, circular Gaussian, E|s|² = 1."""
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


@lru_cache(maxsize=None)
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
    """Kaiser-windowed sinc taps [n, SUBPIXEL_TAPS] for positions ``fraction`` in [0, 1) past the fourth tap, unit energy."""
    half = SUBPIXEL_TAPS // 2
    distance = np.arange(1 - half, half + 1)[None, :] - fraction[:, None]
    taper = special.i0(6.0 * np.sqrt(np.clip(1 - (distance / half) ** 2, 0, 1)))
    taps = np.sinc(distance) * taper
    return taps / np.sqrt((taps**2).sum(axis=1, keepdims=True))


def add_points(cells: np.ndarray, rows: np.ndarray, cols: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """Add complex point scatterers at fractional grid positions, before the impulse response.

    ``cells`` complex64 [R, C]; ``rows``, ``cols`` float [n] with whole numbers at cell centres; ``amplitudes`` complex [n].
    Points whose interpolation kernel would leave the grid are dropped. Returns a new complex64 [R, C]; energy is kept.
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
