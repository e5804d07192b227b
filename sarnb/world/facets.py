"""Where a scene's power arrives in a side-looking image: facets, walls, corners, layover and shadow.

Far field: every ray comes from the left at the same incidence θ. On a range line, in units of cells, a surface element at
ground position y and height z lies in the image at the projected position ``p = y - z / tan θ`` (slant range over sin θ),
so flat ground at the reference height maps to itself and what stands up leans toward the sensor. It is lit where
``q = z + y / tan θ`` exceeds all q nearer to the sensor. Both are exact for piecewise-linear profiles; power is spread
evenly between the projected ends of a facet by integrating the profile's distribution, so that none is lost or made.

References
----------
G. Franceschetti, M. Migliaccio, D. Riccio, "SAR raw signal simulation of actual ground sites described in terms of sparse
input data", IEEE TGRS 32 (1994) 1160-1169. S. Auer, S. Hinz, R. Bamler, "Ray-tracing simulation techniques for understanding
high-resolution SAR images", IEEE TGRS 48 (2010) 1445-1456. F. T. Ulaby, R. K. Moore, A. K. Fung, Microwave Remote Sensing II.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from sarnb.world.backscatter import Table

STEP_M = 1.5  # a rise above the ground of at least this between neighbours is a wall, not a slope
CORNER_GAIN = 1.5  # RCS of a well-aligned wall-ground corner, m² per m² of lit wall: chosen here for rough masonry, not a mirror
CORNER_HEIGHT_M = 20.0  # walls above this add nothing to the corner: the ground in front is not empty that far
CORNER_WIDTH = 0.5  # cells over which a corner's return is spread
CORNER_NU = 1.0
STOREY_M = 3.0
WINDOW_STEP_M = 4.0  # between windows along the wall
WINDOW_RCS = 1.2  # m², mean of an exponential law
FLASH_WIDTH_DEG = 20.0  # of a metal side about broadside, where its cross section falls to 1/e; chosen here
FLASH_FLOOR = 0.05  # part of the peak cross section that is left far from broadside (-13 dB); chosen here
MIN_WIDTH = 1e-3  # cells: keeps the density of a facet that folds onto one range finite


@dataclass(frozen=True)
class Strips:
    """Pieces of range lines that return power: all arrays [n], positions in scene cells."""

    row: np.ndarray
    start: np.ndarray  # projected ends of what returns power
    stop: np.ndarray
    power: np.ndarray  # σ0 times area over the cell area, before texture
    nu: np.ndarray  # texture order
    surface: np.ndarray  # projected length of the lit surface (a volume's power reaches further than its surface)
    incidence: np.ndarray  # local incidence, degrees


@dataclass(frozen=True)
class Glints:
    """Point returns: positions in scene cells (edges at whole numbers), RCS in units of the cell area."""

    row: np.ndarray
    position: np.ndarray
    rcs: np.ndarray


@dataclass(frozen=True)
class Profile:
    """The lit polyline of every range line, arrays [rows, cols] in cells."""

    left: np.ndarray  # height at the near edge of a cell
    right: np.ndarray
    wall: np.ndarray  # bool [rows, cols - 1]: the step between two cells is vertical
    horizon: np.ndarray  # [rows, cols + 1]: greatest q nearer than each edge
    dark: np.ndarray  # part of the facet, from its near end, that lies in shadow
    cot: float


def trace(height: np.ndarray, ground: np.ndarray, volume: np.ndarray, step: float, cot: float) -> Profile:
    """Polyline and horizon of range lines lit from column 0.

    ``height``, ``ground`` [rows, cols] in cells, ``volume`` bool (canopies are rough, their steps are slopes), ``step`` in
    cells: rises above the ground that make a wall; ``cot`` = 1 / tan(incidence).
    """
    above = height - ground
    wall = np.abs(np.diff(above, axis=1)) > step
    wall &= ~(volume[:, :-1] & volume[:, 1:])
    middle = 0.5 * (height[:, :-1] + height[:, 1:])
    left, right = height.copy(), height.copy()
    right[:, :-1] = np.where(wall, height[:, :-1], middle)
    left[:, 1:] = np.where(wall, height[:, 1:], middle)
    column = np.arange(height.shape[1])
    q_left, q_right = left + column * cot, right + (column + 1) * cot
    horizon = np.empty((height.shape[0], height.shape[1] + 1))
    horizon[:, 0] = -np.inf
    np.maximum.accumulate(np.maximum(q_left, q_right), axis=1, out=horizon[:, 1:])
    rise = q_right - q_left
    lit_possible = rise > 1e-9
    dark = np.clip((horizon[:, :-1] - q_left) / np.where(lit_possible, rise, 1.0), 0, 1)
    return Profile(left, right, wall, horizon, np.where(lit_possible, dark, 1.0), cot)


def surface_strips(
    profile: Profile, azimuth_slope: np.ndarray, cover: np.ndarray, tint: np.ndarray, table: Table, spacing: float
) -> Strips:
    """The lit parts of the terrain, roofs and canopies [H, W]: σ0 at the local incidence times true area."""
    slope = profile.right - profile.left
    norm = np.sqrt(1 + slope**2 + azimuth_slope**2)
    sine = 1 / np.sqrt(1 + profile.cot**2)
    cosine = sine * (slope + profile.cot) / norm
    power = table.mean(cover, cosine) * norm * (1 - profile.dark) * 10 ** (0.1 * table.spread_db[cover] * tint)
    column = np.arange(slope.shape[1])
    start = column + profile.dark - (profile.left + profile.dark * slope) * profile.cot
    stop = column + 1 - profile.right * profile.cot
    surface = np.abs(stop - start)
    deep = np.maximum(start, stop) + table.depth_m[cover] / spacing * profile.cot
    row = np.broadcast_to(np.arange(slope.shape[0])[:, None], slope.shape)
    lit = profile.dark < 1
    incidence = np.rad2deg(np.arccos(np.clip(cosine, 0, 1)))
    return Strips(*(a[lit] for a in (row, np.minimum(start, stop), deep, power, table.nu[cover], surface, incidence)))


def wall_strips(
    profile: Profile, cover: np.ndarray, table: Table, spacing: float, rng: np.random.Generator
) -> tuple[Strips, Strips, Glints]:
    """Faces toward the sensor where ``cover`` [H, W] has walls: (facades, wall-ground corners, window glints).

    A facade spreads over its layover interval. The corner returns from the foot of the wall, more the higher the lit wall,
    the smoother the ground and the better the wall is aligned with the flight track. A window a storey, every WINDOW_STEP_M along it.
    """
    row, col = np.nonzero(profile.wall & (profile.left[:, 1:] > profile.right[:, :-1]))
    edge = col + 1.0
    foot, top = profile.right[row, col], profile.left[row, col + 1]
    bottom = np.maximum(foot, profile.horizon[row, col + 1] - edge * profile.cot)
    lit = np.maximum(top - bottom, 0)
    built = table.built[cover[row, col + 1]]
    code = np.where(built, table.wall, cover[row, col + 1])
    sine = 1 / np.sqrt(1 + profile.cot**2)
    mean = table.mean(code, np.full(len(row), sine))  # a vertical face is met at 90° - θ
    angle = np.full(len(row), np.rad2deg(np.arccos(sine)))
    start, stop = edge - top * profile.cot, edge - bottom * profile.cot
    facades = Strips(row, start, stop, mean * lit, table.nu[code], np.maximum(stop - start, 0), angle)

    facing = np.zeros(profile.wall.shape, np.float32)
    facing[row, col] = 1
    aligned = ndimage.uniform_filter1d(facing, 5, axis=0, mode="nearest")[row, col]
    open_ground = (1 - profile.dark[row, col]) * table.mirror[cover[row, col]]
    corner = CORNER_GAIN * np.minimum(lit, CORNER_HEIGHT_M / spacing) * open_ground * aligned**2 * built
    at = edge - foot * profile.cot
    zero = np.zeros(len(row))
    corners = Strips(row, at - 0.9 * CORNER_WIDTH, at + 0.1 * CORNER_WIDTH, corner, np.full(len(row), CORNER_NU), zero, angle)

    every = max(1, round(WINDOW_STEP_M / spacing))
    storeys = np.where(built & (row % every == 0), (top - foot) * spacing // STOREY_M, 0).astype(int)
    wall = np.repeat(np.arange(len(row)), storeys)
    level = np.arange(len(wall)) - np.repeat(np.cumsum(storeys) - storeys, storeys)
    z = foot[wall] + (level + 0.5) * STOREY_M / spacing
    rcs = WINDOW_RCS / spacing**2 * rng.standard_exponential(len(wall)) * (z > bottom[wall])
    return facades, corners, Glints(row[wall].astype(float) + 0.5, edge[wall] - z * profile.cot, rcs)


def metal_glints(points: np.ndarray, ground: np.ndarray, profile: Profile, spacing: float, rng: np.random.Generator) -> Glints:
    """The scene's point scatterers that are not in shadow.

    ``points`` [n, 5]: row, col (whole numbers at cell centres), height above ground m, peak RCS dBsm, facing in degrees (see
    ``aspect_gain``); ``ground`` in cells. Fine structure of the aspect pattern, which no one knows, varies the RCS of one look
    by 2 dB (standard deviation).
    """
    row, col, height, decibel, facing = np.asarray(points, float).T
    r = np.clip(np.rint(row).astype(int), 0, ground.shape[0] - 1)
    c = np.clip(np.rint(col).astype(int), 0, ground.shape[1] - 1)
    z, y = ground[r, c] + height / spacing, col + 0.5
    seen = z + y * profile.cot > profile.horizon[r, c]
    rcs = 10 ** (0.1 * (decibel + 2.0 * rng.standard_normal(len(row)))) / spacing**2 * aspect_gain(facing)
    return Glints(row + 0.5, y - z * profile.cot, rcs * seen)


def aspect_gain(facing_deg: np.ndarray) -> np.ndarray:
    """Part of its peak cross section that a metal object shows to the radar, 0 … 1, [n].

    ``facing_deg``: direction of the normal of its long sides in the image plane, from the range axis; NaN for an object without a
    preferred side (a mast, a tank). A flash about broadside over a floor of corners and edges, alike from both sides.
    """
    off = np.abs((facing_deg + 90.0) % 180.0 - 90.0)
    flash = FLASH_FLOOR + (1 - FLASH_FLOOR) * np.exp(-((off / FLASH_WIDTH_DEG) ** 2))
    return np.where(np.isnan(facing_deg), 1.0, flash)


def accumulate(
    row: np.ndarray, start: np.ndarray, stop: np.ndarray, weights: tuple[np.ndarray, ...], shape: tuple[int, int]
) -> tuple[np.ndarray, ...]:
    """Spread each weight evenly over [start, stop) of its row and integrate over unit bins.

    The cumulative distribution of an interval is a ramp up at its start and a ramp down at its stop; ramps add, so two
    ``bincount`` and two cumulative sums a weight do all intervals, of any length, exactly. What lies outside the bins is
    lost. Positions in bins, returns float64 [rows, bins] per weight.
    """
    rows, bins = shape
    density = 1 / np.maximum(stop - start, MIN_WIDTH)
    stop = start + 1 / density
    ends = np.clip(np.concatenate([start, stop]), 0, bins)
    first = np.ceil(ends).astype(np.intp)  # the first whole position at or after the end
    index = np.tile(row, 2) * (bins + 2) + first
    lead = first - ends
    sums = []
    for weight in weights:
        slope = np.concatenate([weight * density, -weight * density])
        size = rows * (bins + 2)
        value = np.bincount(index, slope * lead, size).reshape(rows, -1)
        growth = np.bincount(index, slope, size).reshape(rows, -1)
        value[:, 1:] += np.cumsum(growth, axis=1)[:, :-1]
        # value[k] is now what the cumulative distribution gains between k - 1 and k: the content of bin k - 1
        sums.append(np.maximum(value[:, 1 : bins + 1], 0))
    return tuple(sums)
