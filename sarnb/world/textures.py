"""Pictures of nothing in particular, so that an autoencoder learns edges, colours and grain, not only scenes."""

from __future__ import annotations

import numpy as np


def power_law_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Gaussian noise with amplitude spectrum 1 / f^a, a from 0 (white) to 2 (clouds); uint8 [size, size, 3].

    Natural images have a near 1 (Field 1987). Grey half of the time.
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    filtered = frequency ** -rng.uniform(0, 2)
    channels = 1 if rng.random() < 0.5 else 3
    spectrum = np.fft.rfft2(rng.standard_normal((channels, size, size)), axes=(1, 2)) * filtered
    noise = np.fft.irfft2(spectrum, s=(size, size), axes=(1, 2))
    noise /= noise.std() + 1e-9
    picture = rng.uniform(60, 190, (channels, 1, 1)) + rng.uniform(10, 60) * noise
    return np.broadcast_to(picture, (3, size, size)).transpose(1, 2, 0).clip(0, 255).astype(np.uint8)


def dead_leaves(rng: np.random.Generator, size: int, count: int = 120) -> np.ndarray:
    """Discs that hide one another, radii of density r^-3: the occlusion statistics of photographs; uint8 [size, size, 3].

    Lee, Mumford & Huang (2001), "Occlusion models for natural images". Each leaf has its own colour and grain.
    """
    rows, columns = np.mgrid[0:size, 0:size]
    grain = rng.standard_normal((size, size)) * rng.uniform(0, 25)
    grey = rng.random() < 0.4
    picture = np.broadcast_to(rng.uniform(0, 255, 3), (size, size, 3)).copy()
    smallest, largest = 2.0, size / 2
    radii = 1 / np.sqrt(rng.uniform(1 / largest**2, 1 / smallest**2, count))
    for radius in np.sort(radii)[::-1]:
        row, column = rng.uniform(0, size, 2)
        top, bottom = max(0, int(row - radius)), min(size, int(row + radius) + 2)
        left, right = max(0, int(column - radius)), min(size, int(column + radius) + 2)
        window = (slice(top, bottom), slice(left, right))
        inside = (rows[window] - row) ** 2 + (columns[window] - column) ** 2 <= radius**2
        colour = np.full(3, rng.uniform(0, 255)) if grey else rng.uniform(0, 255, 3)
        picture[window][inside] = colour + grain[window][inside][:, None] * rng.uniform(0, 1.5)
    return (picture.mean(axis=2, keepdims=True).repeat(3, 2) if grey else picture).clip(0, 255).astype(np.uint8)


def texture_pictures(count: int, seed: int, size: int = 64) -> np.ndarray:
    """Half dead leaves, half power-law noise; uint8 [count, size, size, 3], each picture a function of (seed, index)."""
    draw = (dead_leaves, power_law_noise)
    return np.stack([draw[i % 2](np.random.default_rng((seed, 23, i)), size) for i in range(count)])
