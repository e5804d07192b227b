"""The drawing board of the layouts: grids in metres, smooth noise, repeated cells, tree crowns and polygons."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from skimage.draw import polygon as raster_polygon

from sarnb.world.backscatter import CODE

TABLE = 64
"""Side of the random tables that give every repeated cell its own value."""


@lru_cache(maxsize=64)
def _coordinates(size: int, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """East and south coordinates of the cell centres in metres from the middle of the patch, float32 [H, W]."""
    axis = ((np.arange(size) - (size - 1) / 2) * spacing).astype(np.float32)
    x, y = np.broadcast_to(axis, (size, size)).copy(), np.broadcast_to(axis[:, None], (size, size)).copy()
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


@lru_cache(maxsize=256)
def _spline_basis(size: int, knots: int) -> np.ndarray:
    """Uniform cubic B-spline weights, float32 [size, knots + 3], scaled so that noise of unit variance stays so."""
    position = np.arange(size) / size * knots
    cell = position.astype(int)
    t = position - cell
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    basis = np.zeros((size, knots + 3), np.float32)
    for k in range(4):
        basis[np.arange(size), cell + k] = weights[:, k]
    return basis / np.sqrt(np.mean(np.sum(basis**2, axis=1)))


class Canvas:
    """A patch being drawn: arrays [size, size], the scene's random generator, and what was put on it.

    Coordinates are metres from the middle of the patch, ``x`` to the east (columns) and ``y`` to the south (rows).
    ``above`` is the height of buildings and trees over ``ground``. ``feature`` marks the part of the patch that
    defines the class and is laid over the other class in a composition (the river bed, the sea); ``None`` means that
    the whole patch does.
    """

    def __init__(self, rng: np.random.Generator, size: int, spacing: float, season: str) -> None:
        self.rng, self.size, self.spacing, self.season = rng, size, float(spacing), season
        self.x, self.y = _coordinates(size, float(spacing))
        self.extent = size * float(spacing)
        # Landmarks keep their proportion to the patch, within what is physically plausible.
        self.scale = float(np.clip(self.extent / 256.0, 0.3, 2.5))
        shape = (size, size)
        self.ground = np.zeros(shape, np.float32)
        self.above = np.zeros(shape, np.float32)
        self.cover = np.full(shape, CODE["grass"], np.uint8)
        self.tint = np.zeros(shape, np.float32)
        self.points: list[tuple[float, float, float, float, float]] = []
        self.counts: dict[str, int] = {}
        self.relations: list[str] = []
        self.feature: np.ndarray | None = None

    def uniform(self, low: float, high: float) -> float:
        """One uniform number in [low, high)."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def noise(self, cell: float) -> np.ndarray:
        """Smooth noise of about zero mean and unit variance whose bumps are ``cell`` metres wide, float32 [H, W]."""
        knots = int(np.clip(round(self.extent / cell), 1, self.size))
        basis = _spline_basis(self.size, knots)
        grid = self.rng.standard_normal((knots + 3, knots + 3), dtype=np.float32)
        return basis @ grid @ basis.T

    def frame(self, angle: float, x0: float = 0.0, y0: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates [H, W] in metres along and across a direction ``angle`` (radians from east towards south)."""
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        dx, dy = self.x - np.float32(x0), self.y - np.float32(y0)
        return dx * cos + dy * sin, dy * cos - dx * sin

    def place(self, angle: float, along: Any, across: Any, x0: float = 0.0, y0: float = 0.0) -> tuple[Any, Any]:
        """Patch coordinates (x, y) in metres of a place in a turned frame: the inverse of ``frame``; arrays allowed."""
        cos, sin = np.cos(angle), np.sin(angle)
        return x0 + along * cos - across * sin, y0 + along * sin + across * cos

    def table(self) -> np.ndarray:
        """Random numbers in [0, 1), float32 [TABLE, TABLE], one for each repeated cell."""
        return self.rng.random((TABLE, TABLE), dtype=np.float32)

    def paint(
        self,
        mask: np.ndarray,
        cover: str,
        tint: np.ndarray | float | None = None,
        above: np.ndarray | float | None = None,
    ) -> None:
        """Set cover, tint and height above ground where ``mask`` [H, W] is true; ``None`` leaves a layer alone."""
        np.copyto(self.cover, np.uint8(CODE[cover]), where=mask)
        if tint is not None:
            np.copyto(self.tint, tint, where=mask, casting="same_kind")
        if above is not None:
            np.copyto(self.above, above, where=mask, casting="same_kind")

    def relief(self, amplitude: float, cell: float = 130.0) -> None:
        """Give the whole patch gentle terrain of the given amplitude in metres (standard deviation)."""
        self.ground += np.float32(amplitude) * self.noise(cell)

    def mottle(self, amplitude: float = 0.35, cell: float = 40.0) -> np.ndarray:
        """A soft tint variation for large natural surfaces, float32 [H, W] in [-1, 1]."""
        return np.clip(self.noise(cell) * np.float32(amplitude), -1, 1)

    def polygon(self, points: np.ndarray, x0: float, y0: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of a polygon ``points`` [n, 2] (metres along, across) placed at (x0, y0), turned."""
        x, y = self.place(angle, points[:, 0], points[:, 1], x0, y0)
        middle = (self.size - 1) / 2
        return raster_polygon(y / self.spacing + middle, x / self.spacing + middle, self.cover.shape)

    def stamp(self, cells: tuple[np.ndarray, np.ndarray], cover: str, tint: float, above: float) -> int:
        """Paint the cells of a polygon, rows int [n] and columns int [n], and return how many there were inside the patch."""
        self.cover[cells] = CODE[cover]
        self.tint[cells] = tint
        self.above[cells] = above
        return len(cells[0])

    def point(self, x: float, y: float, height: float, rcs_dbsm: float, axis: float | None = None) -> None:
        """Add a metal point scatterer at (x, y) metres if it is inside the patch.

        ``axis``: direction of a long object (radians from east towards south), whose sides flash when they face the radar.
        """
        middle = (self.size - 1) / 2
        self.point_at(y / self.spacing + middle, x / self.spacing + middle, height, rcs_dbsm, axis)

    def point_at(self, row: float, col: float, height: float, rcs_dbsm: float, axis: float | None = None) -> None:
        """The same at a fractional row and column; ``height`` metres above ground, but not inside the object that was stamped there."""
        if 0 <= row <= self.size - 1 and 0 <= col <= self.size - 1:
            height = max(height, float(self.above[round(row), round(col)]))
            facing = np.nan if axis is None else float(np.rad2deg(axis) + 90.0)
            self.points.append((float(row), float(col), float(height), rcs_dbsm, facing))

    def crowns(self, where: np.ndarray, pitch: float, height: float, keep: float = 1.0, tint: float = 0.0) -> int:
        """Plant round tree crowns about ``pitch`` metres apart whose trunk stands where the mask [H, W] is true.

        Every crown has its own place, radius and tint; ``keep`` is the share that is planted. Crowns overlap, so
        ``keep=1`` makes a closed canopy. Returns the number of trees planted.
        """
        pitch = max(pitch, 2.5 * self.spacing)
        n = int(self.extent / pitch) + 4
        east = (np.arange(n) - 1.5)[None, :] + self.rng.uniform(-0.35, 0.35, (n, n))
        south = (np.arange(n) - 1.5)[:, None] + self.rng.uniform(-0.35, 0.35, (n, n))
        cell = pitch / self.spacing
        row, col = (np.clip((axis * cell).astype(int), 0, self.size - 1) for axis in (south, east))
        planted = where[row, col] & (self.rng.random((n, n)) < keep)
        radius = np.where(planted, self.rng.uniform(0.55, 0.85, (n, n)), 1e-3)
        own = self.rng.uniform(-0.5, 0.5, (n, n)).astype(np.float32)
        best, best_tint = _nearest_dome(self.size, cell, east, south, radius, own)
        crown = best > 0
        dome = np.sqrt(np.where(crown, best, 0))
        self.paint(crown, "forest", np.clip(tint + best_tint, -1, 1), np.float32(height) * (0.45 + 0.55 * dome))
        return int(planted.sum())


def _nearest_dome(
    size: int, cell: float, east: np.ndarray, south: np.ndarray, radius: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Height (0 to 1, squared dome) and tint of the highest crown over every cell, both float32 [size, size]."""
    position = (np.arange(size) / cell).astype(np.float32)
    index = position.astype(int) + 1
    best = np.zeros((size, size), np.float32)
    tint = np.zeros((size, size), np.float32)
    east, south = east.astype(np.float32), south.astype(np.float32)
    inverse = (1 / radius**2).astype(np.float32)
    for down in (0, 1, 2):
        rows = index + down
        for right in (0, 1, 2):
            cols = index + right
            dx = position[None, :] - east[rows][:, cols]
            dy = position[:, None] - south[rows][:, cols]
            dome = 1 - (dx * dx + dy * dy) * inverse[rows][:, cols]
            higher = dome > best
            np.copyto(best, dome, where=higher)
            np.copyto(tint, own[rows][:, cols], where=higher)
    return best, tint


def cells(coordinate: np.ndarray, pitch: float, phase: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Split a coordinate in metres into repeated cells: index int [H, W] and metres from the cell's middle."""
    scaled = coordinate / np.float32(pitch) + np.float32(phase)
    index = np.floor(scaled)
    return index.astype(np.int32), (scaled - index - np.float32(0.5)) * np.float32(pitch)


def pick(table: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """The value [H, W] of each repeated cell (i, j), int [H, W], from a random table [TABLE, TABLE]."""
    return table[i % TABLE, j % TABLE]


def count_cells(i: np.ndarray, j: np.ndarray, mask: np.ndarray, least: int) -> int:
    """How many different repeated cells (i, j), int [H, W], show at least ``least`` pixels inside the mask [H, W]."""
    identity = (i[mask] % TABLE).astype(np.int64) * TABLE + j[mask] % TABLE
    return int(np.sum(np.bincount(identity, minlength=1) >= least)) if identity.size else 0


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """Cubic step from 0 at ``low`` to 1 at ``high``, of the shape of ``value``."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def heading(angle: float) -> str:
    """Compass wording of a line's direction, ``angle`` in radians from east towards south."""
    names = ("east to west", "north-west to south-east", "north to south", "north-east to south-west")
    return names[int(np.round(np.degrees(angle) / 45.0)) % 4]
