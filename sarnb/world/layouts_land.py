"""Layouts of the open country: forest, crop fields, coast, mountains, river."""

from __future__ import annotations

import numpy as np

from sarnb.world.canvas import Canvas, cells, count_cells, heading, pick, smoothstep


def _road(c: Canvas, offset: np.ndarray, width: float, cover: str = "asphalt") -> None:
    """A road along the line ``offset = 0`` (metres, [H, W]); trees and crops on it go."""
    c.paint(np.abs(offset) < width / 2, cover, 0.2, 0.0)


def forest(c: Canvas) -> None:
    """Closed canopy with crowns, often a clearing and a winding track; broadleaf, conifer or mixed."""
    c.relief(c.uniform(2, 6), 110)
    c.paint(np.ones_like(c.cover, bool), "grass", -0.3 + c.mottle())
    stand = c.noise(c.uniform(45, 90))
    pitch = c.uniform(8.5, 13)
    tint = c.uniform(-0.6, 0.35)
    where = np.ones_like(c.cover, bool)
    if c.chance(0.55):
        radius = c.uniform(22, 46) * c.scale
        x0, y0 = c.rng.uniform(-0.3, 0.3, 2) * c.extent
        where &= np.hypot(c.x - x0, c.y - y0) + 7 * stand > radius
        c.relations.append("with a clearing")
    c.crowns(where, pitch, c.uniform(14, 24), keep=c.uniform(0.92, 1.0), tint=tint)
    c.tint += np.where(c.above > 0, 0.4 * np.sign(stand) * smoothstep(0.1, 0.5, np.abs(stand)), 0)
    if c.chance(0.45):
        angle = c.uniform(0, np.pi)
        u, v = c.frame(angle, *c.rng.uniform(-0.2, 0.2, 2) * c.extent)
        bend = c.uniform(5, 22) * np.sin(u / c.uniform(30, 60) + c.uniform(0, 6))
        _road(c, v - bend, c.uniform(7, 11), "bare")
        c.relations.append(f"with a track running {heading(angle)}")


def crop_fields(c: Canvas) -> None:
    """Parcels of different crops with furrows, split by tracks and hedges."""
    c.relief(c.uniform(1, 4))
    angle = c.uniform(0, np.pi / 2)
    u, v = c.frame(angle, *c.rng.uniform(-40, 40, 2))
    strip, length = c.uniform(42, 85), c.uniform(80, 170)
    i, lv = cells(v, strip)
    j, lu = cells(u + length * c.rng.random(64, dtype=np.float32)[i % 64], length)
    tint = np.clip(pick(c.table(), i, j) * 2.2 - 1.1, -1, 1)
    row_along = pick(c.table(), i, j) < 0.7
    period = c.uniform(9, 13)
    furrow = np.sin(np.where(row_along, v, u) * np.float32(2 * np.pi / period))
    strength = pick(c.table(), i, j) * 0.16
    c.paint(np.ones_like(c.cover, bool), "crop", np.clip(tint + strength * furrow + c.mottle(0.06, 30), -1, 1))
    c.above[:] = np.maximum(0, 1.2 - np.abs(tint + 0.4)) + 0.15 * (1 + furrow)
    edge = np.minimum(strip / 2 - np.abs(lv), length / 2 - np.abs(lu))
    c.paint(edge < c.uniform(1.6, 3), "grass", 0.5, 0.2)
    c.counts["parcels"] = count_cells(i, j, edge > 2, int(600 / c.spacing**2))
    if c.chance(0.6):
        hedge = (edge < 5) & (pick(c.table(), i, j) < 0.25)
        c.crowns(hedge, 8, 7, tint=-0.2)
        c.relations.append("with hedges and trees between the fields")
    if c.chance(0.6):
        _road(c, v - int(c.rng.integers(-1, 2)) * strip, c.uniform(7, 10), "asphalt" if c.chance(0.4) else "bare")
        c.relations.append(f"with a road running {heading(angle)}")


def coast(c: Canvas) -> None:
    """Open sea with surf, a beach and the land behind it: dunes, scrub, a cliff or a road."""
    angle = c.uniform(0, 2 * np.pi)
    u, v = c.frame(angle)
    shore = v + c.noise(c.uniform(80, 140)) * c.uniform(8, 20) * c.scale + c.noise(30) * 2.5
    shore = shore + c.uniform(-0.16, 0.16) * c.extent
    beach = c.uniform(16, 42)
    cliff = c.chance(0.3)
    c.relief(c.uniform(1, 3))
    inland, rise = (14, 20) if cliff else (110, 8)
    rise = 2 * smoothstep(0, beach, shore) + rise * smoothstep(beach, beach + inland, shore)
    c.ground = np.where(shore > 0, rise + c.ground * smoothstep(0, 60, shore), 0).astype(np.float32)
    c.paint(shore > 0, "grass", np.clip(c.mottle(0.5, 35), -1, 1), 0.3)
    wave = np.sin((shore + 3 * c.noise(40)) / c.uniform(3.0, 4.5))
    depth = np.clip(0.62 + shore / c.uniform(70, 130) + 0.05 * wave, -1, 0.7)
    c.paint(shore <= 0, "water", depth, 0.0)
    for line in np.cumsum(c.rng.uniform(9, 16, c.rng.integers(1, 4))) - 9:
        foam = np.abs(shore + line + 1.5 * c.noise(25)) < c.uniform(1.5, 3.2)
        c.paint(foam & (shore < 2), "water", 1.0, 0.4)
    if c.chance(0.7):
        c.crowns(shore > beach + 12, c.uniform(9, 13), c.uniform(5, 11), keep=c.uniform(0.15, 0.6), tint=-0.2)
        c.relations.append("with trees behind the beach")
    c.paint((shore > 0) & (shore <= beach), "sand", np.clip(0.7 - shore / beach + c.mottle(0.15), -1, 1), 0.0)
    if cliff:
        c.paint((shore > beach) & (shore < beach + 16), "rock", c.mottle(0.5, 12), 0.0)
        c.relations.append("below a rocky cliff")
    elif c.chance(0.45):
        _road(c, shore - beach - c.uniform(18, 34), 9)
        c.relations.append("with a road along the shore")
    side = ("south", "south-west", "west", "north-west", "north", "north-east", "east", "south-east")
    # Land lies towards +v, whose bearing is ``angle`` + 90 degrees from east to south.
    c.relations.append(f"with the sea to the {side[(int(np.round(np.degrees(angle) / 45)) + 4) % 8]}")
    c.feature = shore <= beach + 4


def mountains(c: Canvas) -> None:
    """Steep ridges and valleys: rock, meadows or trees below, snow above a line that the season moves."""
    angle = c.uniform(0, np.pi)
    height = _ranges(c, angle)
    gully = np.abs(c.noise(26 * c.scale)) * 5 + np.abs(c.noise(13 * c.scale)) * 2.5 + 0.6 * c.noise(9)
    height = height - c.scale * gully * smoothstep(0, 40 * c.scale, height)
    low, high = np.quantile(height, (0.01, 0.995))
    level = np.clip((height - low) / (high - low), 0, 1.05).astype(np.float32)
    c.ground = np.float32(high - low) * level
    line = {"winter": 0.42, "spring": 0.52, "autumn": 0.6, "summer": 0.68}[c.season] + c.uniform(-0.1, 0.1)
    meadow = c.uniform(0.16, 0.34)
    rough = level + 0.03 * c.noise(14)
    c.paint(np.ones_like(c.cover, bool), "rock", np.clip(0.45 * c.noise(16) + 0.3 * c.noise(60), -1, 1), 0.0)
    c.paint(rough < meadow, "grass", c.mottle(0.4, 30), 0.2)
    if c.chance(0.6):
        c.crowns(rough < meadow * 0.85, 9, 11, keep=c.uniform(0.4, 1.0), tint=-0.5)
        c.relations.append("with trees in the valley")
    c.paint(rough > line, "snow", np.clip(0.4 * c.noise(30), -1, 1), 0.0)
    if np.mean(rough > line) > 0.08:
        c.relations.append("with snow on the summits")
    c.relations.append(f"with ridges running {heading(angle)}")


def _ranges(c: Canvas, angle: float) -> np.ndarray:
    """Heights in metres of a branching range: the highest of the roofs that fall away from every crest segment."""
    s = c.scale
    u, v = c.frame(angle)
    u = u + c.noise(55 * s) * 4 * s
    v = v + c.noise(55 * s) * 4 * s
    slope = c.uniform(0.8, 1.05)
    height = np.full_like(u, -1e3)
    spread = c.uniform(115, 165) * s
    lanes = int(np.ceil(0.45 * c.extent / spread))
    for lane in range(-lanes, lanes + 1):
        step = c.uniform(65, 95) * s
        along = np.arange(-0.62 * c.extent - step, 0.62 * c.extent + step, step) + c.uniform(0, step)
        across = lane * 1.3 * spread + c.rng.uniform(-0.22, 0.22, len(along)) * spread
        top = c.rng.uniform(70, 130, len(along)) * s * c.uniform(0.75, 1.1)
        for k in range(len(along) - 1):
            near = (along[k], across[k], top[k])
            _roof(c, angle, height, u, v, near, (along[k + 1], across[k + 1], top[k + 1]), slope)
            side = 1 if k % 2 else -1
            foot = (along[k] + c.uniform(-0.4, 0.4) * step, across[k] + side * 0.62 * spread, 0.15 * top[k])
            _roof(c, angle, height, u, v, near, foot, slope)
    return np.maximum(height, c.uniform(4, 14) * s)


def _roof(
    c: Canvas, angle: float, height: np.ndarray, u: np.ndarray, v: np.ndarray, a: tuple[float, float, float],
    b: tuple[float, float, float], slope: float,
) -> None:
    """Raise ``height`` [H, W] in place to the roof over the crest from ``a`` to ``b`` (along, across, height)."""
    # Beyond this distance the roof is under the valley floor; 20 m more for the bends of u and v.
    reach = max(a[2], b[2]) / slope + 20 * c.scale
    ends = [c.place(angle, end[0], end[1]) for end in (a, b)]
    rows, cols = (_window(c, [end[axis] for end in ends], reach) for axis in (1, 0))
    height, u, v = height[rows, cols], u[rows, cols], v[rows, cols]
    if not height.size:
        return
    length = np.hypot(b[0] - a[0], b[1] - a[1])
    eu, ev = np.float32((b[0] - a[0]) / length), np.float32((b[1] - a[1]) / length)
    du, dv = u - np.float32(a[0]), v - np.float32(a[1])
    t = np.clip(du * eu + dv * ev, 0, np.float32(length))
    distance = np.hypot(du - t * eu, dv - t * ev)
    crest = np.float32(a[2]) + t * np.float32((b[2] - a[2]) / length)
    np.maximum(height, crest - np.float32(slope) * distance, out=height)


def _window(c: Canvas, ends: list[float], reach: float) -> slice:
    """Rows or columns within ``reach`` metres of an interval of the patch's y or x axis."""
    low, high = (min(ends) - reach) / c.spacing + c.size / 2, (max(ends) + reach) / c.spacing + c.size / 2
    return slice(int(np.clip(low, 0, c.size)), int(np.clip(high + 1, 0, c.size)))


def river(c: Canvas) -> None:
    """A meandering river between grass, trees and gravel bars, sometimes under a bridge."""
    angle = c.uniform(0, np.pi)
    u, v = c.frame(angle, *c.rng.uniform(-0.08, 0.08, 2) * c.extent)
    s = c.scale
    bend, wave, phase = c.uniform(12, 36) * s, c.uniform(30, 48) * s, c.uniform(0, 2 * np.pi)
    width = c.uniform(26, 52) * float(np.sqrt(s))
    second = c.uniform(3, 9) * s
    centre = bend * np.sin(u / wave + phase) + second * np.sin(u / (0.47 * wave) + 2 * phase)
    slope = bend / wave * np.cos(u / wave + phase) + second / (0.47 * wave) * np.cos(u / (0.47 * wave) + 2 * phase)
    offset = (v - centre) / np.sqrt(1 + slope**2) + 1.5 * c.noise(30)
    bank = np.abs(offset) - width / 2
    c.relief(c.uniform(1, 4))
    c.ground = (c.ground - c.ground.min()) * smoothstep(0, 70, bank) + 2.5 * smoothstep(-1, 12, bank)
    c.paint(np.ones_like(c.cover, bool), "grass", c.mottle(0.6, 45), 0.3)
    gallery = (bank > 4) & ((c.noise(35) > c.uniform(-0.2, 0.7)) & (bank < c.uniform(25, 80)))
    c.crowns(gallery, c.uniform(8, 12), c.uniform(8, 15), keep=0.9, tint=c.uniform(-0.4, 0.3))
    bar = (bank < c.uniform(5, 12)) & (offset * np.sin(u / wave + phase) < 0) & (np.abs(np.sin(u / wave + phase)) > 0.6)
    c.paint(bar, "sand", c.mottle(0.4, 15), 0.0)
    c.paint(bank <= 0, "water", np.clip(-0.35 + 0.10 * c.noise(25) - 0.3 * smoothstep(0, 20, -bank), -1, 0.5), 0.0)
    c.feature = bank < 9
    c.relations.append(f"flowing {heading(angle)}")
    if c.chance(0.4):
        _bridge(c, u, v, bank)


def _bridge(c: Canvas, u: np.ndarray, v: np.ndarray, bank: np.ndarray) -> None:
    """A road across the river at a straight angle to its valley, on a concrete deck over the water."""
    u0 = c.uniform(-0.25, 0.25) * c.extent
    width = c.uniform(10, 15)
    road = np.abs(u - u0) < width / 2
    deck = road & (bank < 8)
    c.paint(road, "asphalt", 0.1, 0.0)
    c.paint(deck, "concrete", 0.7, 7.0)
    c.paint(deck & (np.abs(u - u0) < width / 4), "asphalt", 0.3, 7.0)
    c.counts["bridges"] = 1
    c.relations.append("crossed by a bridge")
    # The bridge belongs to the river when the river is laid over another class.
    c.feature = (bank < 9) | road
