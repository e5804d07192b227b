"""Images of the GOTCHA set's phase history (AFRL, circular spotlight at X band) by backprojection, window by window.

Each .mat file holds one degree of the circle: frequencies, antenna positions, the range to the scene's centre, and the samples. A pixel p
of the ground plane is

    I(p) = sum over pulses n and frequencies k of  S(k, n) exp(j 4 pi f_k dR_n(p) / c),   dR_n(p) = |a_n - p| - r_n,

in which the sum over k is an inverse Fourier transform, interpolated at dR (Gorham and Moore, SPIE 7699, 2010). The phase of the middle
pulse at the middle frequency is taken off, so that the image's spectrum lies about zero and can be resampled.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.constants import c
from scipy.io import loadmat

from sarnb.errors import InputError

GRID = 0.2  # m, finer than the resolution of the set: 0.34 m in ground range
FINER = 8  # samples of a range profile for each of its resolution cells: between them it is interpolated linearly
LARGEST_BYTES = 2**30  # of a file unpacked; one of the set has a megabyte
FIELDS = {"fp": "samples", "freq": "frequencies", "x": "positions", "y": "positions", "z": "positions", "r0": "ranges to the centre"}


@dataclass(frozen=True)
class Aperture:
    """Phase history of N pulses of K frequencies: ``profiles`` [N, M] over ``ranges`` [M] in m about the centre; ``positions`` [N, 3]."""

    profiles: np.ndarray
    ranges: np.ndarray
    positions: np.ndarray
    centres: np.ndarray  # [N], m: from the antenna to the scene's centre
    frequency: float  # Hz, the middle one

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the square on the ground that is unambiguous in range."""
        swath = self.ranges[-1] - self.ranges[0]
        side = int(swath / np.cos(self.elevation) / np.sqrt(2) / GRID)
        return side, side

    @property
    def elevation(self) -> float:
        """Of the middle pulse above the ground plane, in radians."""
        middle = self.positions[len(self.positions) // 2]
        return float(np.arctan2(middle[2], np.hypot(middle[0], middle[1])))

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors [x, y] along the track, and to the right of it."""
        along = (self.positions[-1] - self.positions[0])[:2]
        along = along / np.linalg.norm(along)
        return along, np.array([along[1], -along[0]])

    @property
    def side(self) -> str:
        """Side to which the radar looks from its track."""
        return "left" if -self.positions[len(self.positions) // 2, :2] @ self.axes[1] < 0 else "right"


@lru_cache(maxsize=2)
def read_aperture(path: Path) -> Aperture:
    """The phase history in a .mat file of the GOTCHA layout.

    Raises
    ------
    InputError
        A part of it is missing or does not fit.
    """
    _check_unpacked(path)
    data = loadmat(path, squeeze_me=True, struct_as_record=False).get("data")
    missing = [f"{name} ({what})" for name, what in FIELDS.items() if not hasattr(data, name)]
    if missing:
        raise InputError(f"{path}: its variable 'data' has no {', '.join(missing)}; give phase history in the layout of the GOTCHA set")
    samples, frequencies = np.asarray(data.fp), np.asarray(data.freq, float)
    positions = np.stack([np.asarray(getattr(data, name), float) for name in "xyz"], axis=-1)
    if samples.shape != (len(frequencies), len(positions)) or len(positions) < 2 or not np.isfinite(samples).all():
        raise InputError(
            f"{path}: {samples.shape} samples do not fit {len(frequencies)} frequencies of {len(positions)} pulses, or are not finite"
        )
    step = (frequencies[-1] - frequencies[0]) / (len(frequencies) - 1)
    if not step > 0 or np.abs(np.diff(frequencies) - step).max() > 0.01 * step:
        raise InputError(f"{path}: its frequencies are not evenly spaced, which the Fourier transform over them needs")
    count = FINER * len(frequencies)
    # Of the middle frequency: the phase of the others turns slowly over range and can be interpolated.
    profiles = np.fft.fftshift(np.fft.ifft(np.roll(_padded(samples, count), -(count // 2), axis=0), axis=0), axes=0)
    ranges = (np.arange(count) - count // 2) * c / (2 * count * step)
    middle = frequencies[0] + step * (len(frequencies) // 2)
    return Aperture(profiles.T.astype(np.complex64), ranges, positions, np.asarray(data.r0, float), float(middle))


def _check_unpacked(path: Path) -> None:
    """Raise InputError where the compressed variables of a .mat file grow beyond all measure, before they are in memory."""
    unpacked = 0
    with path.open("rb") as file:
        order = ">" if file.read(128)[126:] == b"MI" else "<"
        while len(head := file.read(8)) == 8:
            kind, left = struct.unpack(f"{order}II", head)
            coder = zlib.decompressobj() if kind == 15 else None  # 15: compressed
            while left and (part := file.read(min(left, 2**16))):
                left -= len(part)
                while coder and part:
                    unpacked += len(coder.decompress(part, 2**20))
                    part = coder.unconsumed_tail
                    if unpacked > LARGEST_BYTES:
                        raise InputError(f"{path}: unpacks to more than {LARGEST_BYTES >> 20} MB, which no file of the GOTCHA set does")


def _padded(samples: np.ndarray, count: int) -> np.ndarray:
    """Zeros around the frequencies [K, N], so that the middle one is number ``count // 2``."""
    before = count // 2 - len(samples) // 2
    return np.pad(samples, ((before, count - before - len(samples)), (0, 0)))


def form_window(aperture: Aperture, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """Complex image [bottom - top, right - left] of a window: rows against the track, columns to its right, centre at the scene's."""
    along, across = aperture.axes
    rows, columns = aperture.shape
    up, aside = GRID * ((rows - 1) / 2 - np.arange(top, bottom)), GRID * (np.arange(left, right) - (columns - 1) / 2)
    x = up[:, None] * along[0] + aside[None] * across[0]
    y = up[:, None] * along[1] + aside[None] * across[1]
    wave, image = 4 * np.pi * aperture.frequency / c, np.zeros(x.shape, np.complex128)

    def excess(pulse: int) -> np.ndarray:
        ax, ay, az = aperture.positions[pulse]
        return np.sqrt((x - ax) ** 2 + (y - ay) ** 2 + az**2) - aperture.centres[pulse]

    for pulse, profile in enumerate(aperture.profiles):
        distance = excess(pulse)
        values = np.interp(distance, aperture.ranges, profile, 0, 0)
        image += values * np.exp(1j * wave * distance)
    return (image * np.exp(-1j * wave * excess(len(aperture.profiles) // 2))).astype(np.complex64)
