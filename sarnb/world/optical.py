"""The camera: an orthophoto of a scene with materials, season, sun shading and cast shadows.

Also pictures of nothing in particular, from which an autoencoder learns edges, colours and grain that no scene has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sarnb.errors import InputError
from sarnb.world.backscatter import CODE, COVERS, SEASONS
from sarnb.world.scene import Scene

_STEPS = 65
"""Tint levels in the colour table."""

Ramp = tuple[tuple[int, int, int], ...]

_ANY: dict[str, Ramp] = {
    "water": ((16, 38, 62), (22, 54, 84), (34, 80, 108), (60, 122, 134), (118, 178, 176), (242, 246, 244)),
    "bare": ((118, 92, 66), (152, 124, 90), (188, 164, 126)),
    "sand": ((196, 170, 120), (224, 202, 154), (242, 228, 190)),
    "asphalt": ((50, 52, 57), (76, 78, 82), (112, 112, 114)),
    "concrete": ((132, 130, 126), (168, 165, 158), (208, 204, 196)),
    "roof": ((66, 66, 72), (104, 94, 92), (146, 116, 102), (164, 156, 150), (206, 203, 198)),
    "tile": ((92, 84, 86), (128, 72, 56), (176, 84, 58), (206, 120, 84)),
    "metal": ((178, 46, 40), (214, 124, 40), (40, 88, 152), (48, 118, 92), (140, 150, 160), (204, 209, 212), (250, 250, 250)),
    "rock": ((80, 74, 70), (118, 110, 104), (158, 150, 142)),
    "snow": ((188, 198, 214), (214, 220, 230), (230, 234, 240)),
    "solar": ((14, 20, 52), (24, 38, 88), (48, 70, 128)),
    "track": ((150, 58, 42), (182, 78, 56), (206, 104, 78)),
    "paint": ((236, 236, 232), (250, 250, 248)),
}
_BY_SEASON: dict[str, dict[str, Ramp]] = {
    "spring": {
        "grass": ((78, 124, 50), (108, 154, 66), (148, 180, 88)),
        "crop": ((44, 104, 40), (88, 152, 58), (142, 186, 72), (236, 216, 52), (156, 122, 86), (124, 92, 66)),
        "forest": ((30, 66, 30), (62, 108, 44), (110, 150, 66)),
    },
    "summer": {
        "grass": ((76, 108, 46), (112, 138, 64), (158, 164, 90)),
        "crop": ((54, 92, 38), (94, 136, 54), (160, 172, 78), (222, 192, 100), (196, 158, 96), (138, 102, 72)),
        "forest": ((20, 46, 22), (36, 72, 32), (70, 104, 48)),
    },
    "autumn": {
        "grass": ((88, 118, 52), (120, 122, 62), (142, 132, 70), (170, 150, 86)),
        "crop": ((82, 104, 50), (132, 128, 64), (190, 158, 92), (168, 122, 80), (126, 88, 62), (94, 66, 50)),
        "forest": ((52, 66, 32), (132, 88, 34), (188, 108, 36), (214, 160, 58)),
    },
    "winter": {
        "grass": ((84, 122, 62), (150, 156, 140), (192, 196, 190), (226, 229, 228)),
        "crop": ((112, 124, 98), (160, 160, 142), (196, 194, 184), (226, 226, 222), (160, 146, 132), (118, 102, 90)),
        "forest": ((34, 52, 42), (74, 70, 62), (110, 100, 90)),
    },
}
_LIGHT = {  # colour of the sun light by season
    "spring": (1.0, 1.0, 0.97),
    "summer": (1.02, 1.0, 0.95),
    "autumn": (1.04, 0.98, 0.90),
    "winter": (0.97, 0.99, 1.03),
}
_GRAIN = np.full(len(COVERS), 0.03, np.float32)
_GRAIN[[CODE[name] for name in ("grass", "forest", "rock", "bare")]] = 0.06
_GRAIN[[CODE[name] for name in ("water", "metal", "paint", "snow")]] = 0.015


@dataclass(frozen=True)
class Sun:
    """Where the light comes from, in degrees: ``azimuth`` clockwise from north, ``elevation`` over the horizon."""

    azimuth: float
    elevation: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.azimuth) and 5 <= self.elevation <= 90):
            raise InputError(f"sun elevation is {self.elevation} and azimuth {self.azimuth}; give an elevation from 5 to 90 degrees.")


@lru_cache(maxsize=len(SEASONS))
def _colours(season: str) -> np.ndarray:
    """Piecewise linear colour table of a season, float32 [covers * _STEPS, 3] in [0, 255]."""
    table = np.empty((len(COVERS), _STEPS, 3), np.float32)
    for code, name in enumerate(COVERS):
        ramp = np.array(_BY_SEASON[season].get(name) or _ANY[name], np.float32)
        place = np.linspace(0, len(ramp) - 1, _STEPS)
        for channel in range(3):
            table[code, :, channel] = np.interp(place, np.arange(len(ramp)), ramp[:, channel])
    return table.reshape(-1, 3)


def default_sun(scene: Scene) -> Sun:
    """The sun of a scene: from the southern half of the sky, low in winter, drawn from the scene's seed."""
    rng = np.random.default_rng((scene.seed, 7001))
    low = {"winter": 32, "summer": 46}.get(scene.season, 38)
    return Sun(azimuth=float(rng.uniform(115, 245)), elevation=float(low + rng.uniform(0, 14)))


def cast_shadow(height: np.ndarray, spacing: float, sun: Sun) -> np.ndarray:
    """How far each cell lies under the shadow surface, in metres, float32 [H, W]; 0 or less in the sun.

    Horizon scan: walk towards the sun in steps of one cell; a cell is dark when the surface there, lowered by the
    distance times tan(elevation), is higher than the cell.
    """
    rows, cols = height.shape
    up = np.radians(sun.azimuth)
    d_row, d_col = -np.cos(up), np.sin(up)
    drop = spacing * np.tan(np.radians(sun.elevation))
    span = float(height.max() - height.min())
    excess = np.zeros_like(height)
    for k in range(1, min(max(rows, cols), int(span / drop) + 1) + 1):
        r, q = int(np.round(k * d_row)), int(np.round(k * d_col))
        if abs(r) >= rows or abs(q) >= cols:
            break
        here = (slice(max(0, -r), rows - max(0, r)), slice(max(0, -q), cols - max(0, q)))
        there = (slice(max(0, r), rows + min(0, r)), slice(max(0, q), cols + min(0, q)))
        np.maximum(excess[here], height[there] - height[here] - np.float32(k * drop), out=excess[here])
    return excess


def shading(height: np.ndarray, spacing: float, sun: Sun) -> np.ndarray:
    """Lambertian shading relative to flat ground, cos(sun's incidence) / sin(elevation) in [0, 1.6], [H, W]."""
    slope_row, slope_col = np.gradient(height, np.float32(spacing))
    # Walls of one cell would otherwise black out the roof edges.
    np.clip(slope_row, -1.6, 1.6, out=slope_row)
    np.clip(slope_col, -1.6, 1.6, out=slope_col)
    azimuth, elevation = np.radians(sun.azimuth), np.radians(sun.elevation)
    east, south = np.float32(np.sin(azimuth) * np.cos(elevation)), np.float32(-np.cos(azimuth) * np.cos(elevation))
    lit = np.float32(np.sin(elevation)) - slope_col * east - slope_row * south
    lit /= np.sqrt(1 + slope_row**2 + slope_col**2)
    return np.clip(lit / np.float32(np.sin(elevation)), 0, 1.6)


def _soften(image: np.ndarray) -> np.ndarray:
    """A three-tap blur along both axes (the camera's point spread), [H, W, 3]."""
    for axis in (0, 1):
        padded = np.concatenate([image.take([0], axis), image, image.take([-1], axis)], axis)
        before, after = (padded[:-2], padded[2:]) if axis == 0 else (padded[:, :-2], padded[:, 2:])
        image = image * np.float32(0.64) + (before + after) * np.float32(0.18)
    return image


def render_optical(scene: Scene, sun: Sun | None = None) -> np.ndarray:
    """The orthophoto of a scene, uint8 [H, W, 3], red green blue.

    ``sun`` defaults to ``default_sun(scene)``. The same scene and sun give the same bytes.
    """
    sun = sun or default_sun(scene)
    index = np.rint((scene.tint + 1) * ((_STEPS - 1) / 2)).astype(np.intp)
    colour = _colours(scene.season)[scene.cover.astype(np.intp) * _STEPS + np.clip(index, 0, _STEPS - 1)]
    light = 0.42 + 0.58 * shading(scene.height, scene.spacing, sun)
    dark = np.clip(cast_shadow(scene.height, scene.spacing, sun) / 1.5, 0, 1)
    light *= 1 - np.float32(0.45) * dark
    rng = np.random.default_rng((scene.seed, 7002))
    light *= 1 + _GRAIN[scene.cover] * rng.standard_normal(scene.cover.shape, dtype=np.float32)
    # Shadows are lit by the blue sky.
    tone = np.array(_LIGHT[scene.season], np.float32) + dark[..., None] * np.array((-0.06, 0.0, 0.10), np.float32)
    image = _soften(colour * light[..., None] * tone)
    return np.clip(image, 0, 255).astype(np.uint8)


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
