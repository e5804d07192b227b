"""Where a side-looking radar has to put walls and shadows, from a scene's own heights, to be laid over the image.

In ground-range projection a point at ground position y and height z arrives at p = y - z / tan(theta). Positions are in
columns of the scene's grid, cell c reaching from c to c + 1; heights count from the median of the bare ground, as in the
simulator, so that flat ground stays where it is.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.world.backscatter import CODE
from sarnb.world.radar import Radar
from sarnb.world.scene import Scene

LEAST_HEIGHT = 5.0  # m: lower steps are left out, they are a pixel or two


def block_scene(height: float = 30.0, depth: int = 16, width: int = 24, size: int = 96, spacing: float = 2.0) -> Scene:
    """One flat-roofed block on a level meadow with a paved yard before it: the clearest case of layover and shadow.

    ``height`` in metres; ``depth`` along range and ``width`` along azimuth in cells; the block stands in the middle of
    ``size`` x ``size`` cells.

    Raises
    ------
    InputError
        The block does not fit with a quarter of the scene free on each side.
    """
    if not (0 < depth <= size // 2 and 0 < width <= size // 2 and height > 0):
        raise InputError(f"block of {depth} x {width} cells and {height} m in {size} cells: make it at most half as long as the scene")
    top, left = (size - width) // 2, (size - depth) // 2
    above, cover = np.zeros((size, size), np.float32), np.full((size, size), CODE["grass"], np.uint8)
    cover[top : top + width, left - 4 : left] = CODE["asphalt"]
    cover[top : top + width, left + depth : left + depth + 4] = CODE["asphalt"]
    above[top : top + width, left : left + depth] = height
    cover[top : top + width, left : left + depth] = CODE["roof"]
    return known_scene(above, cover, spacing)


RAISED = ("roof", "tile", "metal", "forest")  # covers whose surface is not the ground


def known_scene(height: np.ndarray, cover: np.ndarray, spacing: float) -> Scene:
    """What the geometry needs of a scene, from its surface height [m] and land cover codes, both [H, W]."""
    bare = ~np.isin(cover, [CODE[name] for name in RAISED])
    level = float(np.median(height[bare])) if bare.any() else float(np.median(height))
    flat = np.full(height.shape, level, np.float32)
    return Scene(
        kind="known",
        height=height.astype(np.float32),
        ground=flat,
        cover=cover,
        tint=np.zeros_like(flat),
        points=np.zeros((0, 5), np.float32),
        spacing=spacing,
        season="summer",
    )


def range_line(scene: Scene, radar: Radar, row: int) -> pd.DataFrame:
    """The surface along one row as the radar meets it, near range first.

    Columns: ground (distance of the cell centres from the near border) and height (above the median ground), both in
    metres; dark (no ray reaches the middle of the cell).

    Raises
    ------
    InputError
        The scene has no such row.
    """
    z, cot = _from_near(scene, radar)
    if not 0 <= row < len(z):
        raise InputError(f"range line {row}: the scene has the rows 0 to {len(z) - 1}")
    dark = _heights_above_rays(z, cot, scene.spacing)[row] < 0
    return pd.DataFrame({"ground": (np.arange(z.shape[1]) + 0.5) * scene.spacing, "height": z[row] * scene.spacing, "dark": dark})


def wall_marks(scene: Scene, radar: Radar, least: float = LEAST_HEIGHT) -> pd.DataFrame:
    """Walls of ``least`` metres or more that face the radar and whose top it sees; the rough edges of trees are none.

    Columns: row; edge (where the wall stands, in columns of the scene); foot (image column of its foot, where the double
    bounce arrives too); layover (image column of its top, height / tan(theta) nearer to the radar); height in metres.
    """
    z, cot = _from_near(scene, radar)
    over = _heights_above_rays(z, cot, scene.spacing)
    solid = (scene.cover[:, ::-1] if radar.look == "right" else scene.cover) != CODE["forest"]
    row, col = np.nonzero((np.diff(z, axis=1) * scene.spacing >= least) & (over[:, 1:] > 0) & solid[:, 1:])
    low, high = z[row, col], z[row, col + 1]
    edge, foot, top = (_to_image(col + 1.0 - level * cot, z.shape[1], radar) for level in (0.0, low, high))
    return pd.DataFrame({"row": row, "edge": edge, "foot": foot, "layover": top, "height": (high - low) * scene.spacing})


def shadow_marks(scene: Scene, radar: Radar, least: float = LEAST_HEIGHT) -> pd.DataFrame:
    """Shadows as long as one of ``least`` metres height casts, or longer, that end inside the scene.

    Columns: row; end (image column of the first point that is lit again; on a level yard h tan(theta) behind the wall);
    length in metres along the ground.
    """
    z, cot = _from_near(scene, radar)
    over = _heights_above_rays(z, cot, scene.spacing)
    change = np.diff((over < 0).astype(int), axis=1)  # the first column is never dark
    start_row, starts = np.nonzero(change == 1)
    rows = []
    for r, c in np.argwhere(change == -1) + [0, 1]:  # c: the first lit cell behind the shadow
        start = starts[(start_row == r) & (starts < c)].max() + 1
        wall = (z[r, c] - z[r, c - 1]) * scene.spacing >= least
        excess = over[r, c]  # of the cell's middle over the last ray, in cells
        y = float(c) if wall else float(np.clip(c + 0.5 - excess / cot, c - 0.5, c + 0.5))
        level = max(z[r, c - 1], z[r, c] - excess + 0.5 * cot) if wall else z[r, c]  # a wall is lit from there up
        rows.append((r, y - level * cot, (y - start) * scene.spacing))
    table = pd.DataFrame(rows, columns=["row", "end", "length"])
    table = table[table["length"] >= least / cot].reset_index(drop=True)
    table["end"] = _to_image(table["end"].to_numpy(), z.shape[1], radar)
    return table


def _from_near(scene: Scene, radar: Radar) -> tuple[np.ndarray, float]:
    """Heights [rows, cols] in cells above the median ground with near range at column 0, and 1 / tan(theta)."""
    z = (scene.height.astype(np.float64) - np.median(scene.ground)) / scene.spacing
    return (z[:, ::-1] if radar.look == "right" else z), float(1 / np.tan(np.deg2rad(radar.incidence_deg)))


def _heights_above_rays(z: np.ndarray, cot: float, spacing: float) -> np.ndarray:
    """How far, in cells, the middle of each cell rises above the last ray that passes all nearer ones: below 0 is shadow.

    A cell blocks with its far edge where a wall falls there, else with its middle, for a slope has no edge.
    """
    column = np.arange(z.shape[1])
    falls = np.diff(z, axis=1, append=z[:, -1:]) * spacing <= -LEAST_HEIGHT / 2
    blocks = np.maximum.accumulate(z + (column + np.where(falls, 1.0, 0.5)) * cot, axis=1)
    before = np.concatenate([np.full((len(z), 1), -np.inf), blocks[:, :-1]], axis=1)
    return z + (column + 0.5) * cot - before


def _to_image(position: np.ndarray, columns: int, radar: Radar) -> np.ndarray:
    """Columns counted from near range -> columns of the image."""
    return columns - position if radar.look == "right" else position
