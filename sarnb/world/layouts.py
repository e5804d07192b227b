"""Layouts of the twelve classes: open country, single large sites, built-up land."""

from __future__ import annotations

import numpy as np

from sarnb.world.canvas import Canvas, cells, count_cells, heading, pick, smoothstep

# Open country: forest, crop fields, coast, mountains, river.


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
            _roof(c, angle, (height, u, v), near, (along[k + 1], across[k + 1], top[k + 1]), slope)
            side = 1 if k % 2 else -1
            foot = (along[k] + c.uniform(-0.4, 0.4) * step, across[k] + side * 0.62 * spread, 0.15 * top[k])
            _roof(c, angle, (height, u, v), near, foot, slope)
    return np.maximum(height, c.uniform(4, 14) * s)


def _roof(c: Canvas, angle: float, grids: tuple[np.ndarray, ...], a: tuple[float, ...], b: tuple[float, ...], slope: float) -> None:
    """Raise the heights in place to the roof over the crest from ``a`` to ``b`` (along, across, height).

    ``grids``: heights, then coordinates along and across, each [H, W].
    """
    # Beyond this distance the roof is under the valley floor; 20 m more for the bends of u and v.
    reach = max(a[2], b[2]) / slope + 20 * c.scale
    near = []
    for places in zip(*(c.place(angle, end[0], end[1]) for end in (b, a))):  # columns within reach, then rows
        low, high = (min(places) - reach) / c.spacing + c.size / 2, (max(places) + reach) / c.spacing + c.size / 2
        near.append(slice(int(np.clip(low, 0, c.size)), int(np.clip(high + 1, 0, c.size))))
    height, u, v = (grid[near[1], near[0]] for grid in grids)
    if not height.size:
        return
    length = np.hypot(b[0] - a[0], b[1] - a[1])
    eu, ev = np.float32((b[0] - a[0]) / length), np.float32((b[1] - a[1]) / length)
    du, dv = u - np.float32(a[0]), v - np.float32(a[1])
    t = np.clip(du * eu + dv * ev, 0, np.float32(length))
    distance = np.hypot(du - t * eu, dv - t * ev)
    crest = np.float32(a[2]) + t * np.float32((b[2] - a[2]) / length)
    np.maximum(height, crest - np.float32(slope) * distance, out=height)


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
    if c.chance(0.4):  # a road at a straight angle to the valley, on a concrete deck over the water
        u0, width = c.uniform(-0.25, 0.25) * c.extent, c.uniform(10, 15)
        road = np.abs(u - u0) < width / 2
        deck = road & (bank < 8)
        c.paint(road, "asphalt", 0.1, 0.0)
        c.paint(deck, "concrete", 0.7, 7.0)
        c.paint(deck & (np.abs(u - u0) < width / 4), "asphalt", 0.3, 7.0)
        c.counts["bridges"] = 1
        c.relations.append("crossed by a bridge")
        c.feature |= road  # the bridge belongs to the river when the river is laid over another class


# Single large sites, airport, harbour and solar farm; then built-up land.

_FUSELAGE = np.array(
    [(0.5, 0), (0.44, 0.045), (0.3, 0.062), (-0.3, 0.062), (-0.5, 0.02), (-0.5, -0.02), (-0.3, -0.062), (0.3, -0.062), (0.44, -0.045)]
)
_WINGS = np.array([(0.16, 0), (-0.12, 0.48), (-0.22, 0.48), (-0.10, 0), (-0.22, -0.48), (-0.12, -0.48)])
_TAIL = np.array([(-0.34, 0), (-0.44, 0.19), (-0.5, 0.19), (-0.46, 0), (-0.5, -0.19), (-0.44, -0.19)])
_HULL = np.array([(0.5, 0), (0.42, 0.32), (0.3, 0.5), (-0.46, 0.5), (-0.5, 0.36), (-0.5, -0.36), (-0.46, -0.5), (0.3, -0.5), (0.42, -0.32)])


def airport(c: Canvas) -> None:
    """Runway with markings, parallel taxiway, apron, terminal and parked aircraft on grass."""
    c.relief(c.uniform(0.2, 0.6), 200)
    s = c.scale
    angle = c.uniform(0, 2 * np.pi)
    x0, y0 = c.rng.uniform(-14, 14, 2) * s
    u, v = c.frame(angle, x0, y0)
    c.paint(np.ones_like(c.cover, bool), "grass", 0.35 + c.mottle(0.35, 40), 0.1)
    runway, taxi, apron = -c.uniform(58, 78) * s, -c.uniform(2, 12) * s, c.uniform(22, 30) * s
    wide, narrow, pave = c.uniform(36, 46) * s, c.uniform(15, 20) * s, c.uniform(-0.5, 0.3)
    end = c.uniform(-0.45, -0.2) * c.extent if c.chance(0.5) else -10 * c.extent
    if c.chance(0.25):
        _, w = c.frame(angle + c.uniform(0.5, 1.1), x0 - 0.1 * c.extent, y0)
        c.paint(np.abs(w) < wide / 2.4, "asphalt", pave, 0.0)
        c.paint((np.abs(w) < 1.6) & (np.sin(u * 0.14) > 0), "paint", 0.0, 0.0)
        c.counts["runways"] = 2
    c.paint(np.abs(v - taxi) < narrow / 2, "asphalt", pave + 0.5, 0.0)
    links = c.uniform(70, 120) * s
    _, lu = cells(u, links, c.uniform(0, 1))
    slant = np.abs(lu + c.uniform(-0.5, 0.5) * (v - taxi))
    c.paint((slant < narrow / 2) & (v > runway) & (v < apron), "asphalt", pave + 0.5, 0.0)
    depth, half = c.uniform(62, 80) * s, c.uniform(85, 130) * s
    ramp = (v > apron) & (v < apron + depth) & (np.abs(u) < half)
    c.paint(ramp, "concrete", c.uniform(-0.2, 0.6), 0.0)
    _runway(c, u - end, v - runway, wide, pave)
    c.paint((np.abs(v - taxi) < 1.0) | ((np.abs(v - apron - 6 * s) < 1.0) & ramp), "paint", 0.0, 0.0)
    c.counts.setdefault("runways", 1)
    one = c.counts["runways"] == 1
    c.relations.append(f"with a runway running {heading(angle)}" if one else "with two runways at an angle")
    hall = (v > apron + depth - 2 * s) & (v < apron + depth + c.uniform(18, 30) * s) & (np.abs(u) < half * 0.85)
    c.paint((v > apron + depth) & (np.abs(u) < half), "asphalt", 0.2, 0.0)
    c.paint(hall, "roof", c.uniform(0.2, 1.0), 14.0)
    _park_aircraft(c, angle, x0, y0, apron + depth * 0.58, half * 0.85)


def _runway(c: Canvas, u: np.ndarray, v: np.ndarray, width: float, pave: float) -> None:
    """A runway of ``width`` metres along ``v = 0`` that begins at ``u = 0``, with edge, centre and threshold lines."""
    strip = (np.abs(v) < width / 2) & (u > 0)
    c.paint(strip, "asphalt", pave - 0.3, 0.0)
    edge = np.abs(np.abs(v) - width / 2 + 4) < 1.0
    centre = (np.abs(v) < 1.8) & (u % 44 < 26) & (u > 44)
    _, lane = cells(v, width / 6)
    piano = (np.abs(lane) < width / 22) & (u > 6) & (u < 32) & (np.abs(v) < width / 2 - 4)
    c.paint(strip & (edge | centre | piano), "paint", 0.0, 0.0)


def _park_aircraft(c: Canvas, angle: float, x0: float, y0: float, across: float, half: float) -> None:
    """White aircraft in a row on the apron, noses towards the terminal."""
    length = c.uniform(36, 46) * c.scale
    slots = np.arange(-half + length * 0.4, half - length * 0.3, length * 1.12)
    used = slots[c.rng.random(len(slots)) < c.uniform(0.45, 0.95)] if len(slots) else slots
    seen = 0
    for along in used if len(used) else np.zeros(1):
        x, y = c.place(angle, float(along), across, x0, y0)
        nose = angle + np.pi / 2
        pixels = 0
        for part, height in ((_WINGS, 4.0), (_TAIL, 7.0), (_FUSELAGE, 6.0)):
            pixels += c.stamp(c.polygon(part * length, x, y, nose), "metal", 1.0, height)
        seen += pixels > 40
        for place in (-0.45, -0.15, 0.1, 0.4):
            c.point(*c.place(nose, place * length, 0.0, x, y), 5.0, c.uniform(18, 28), axis=nose)
    if seen:
        c.counts["aircraft"] = seen
        c.relations.append("with aircraft parked at the terminal")


def harbour(c: Canvas) -> None:
    """A concrete quay with piers in dark water, moored ships, container stacks and sheds."""
    s = c.scale
    angle = c.uniform(0, 2 * np.pi)
    x0, y0 = c.rng.uniform(-12, 12, 2) * s
    u, v = c.frame(angle, x0, y0)
    quay = c.uniform(22, 48) * s
    water = c.uniform(-0.6, -0.1) + 0.08 * c.noise(30)
    c.paint(np.ones_like(c.cover, bool), "water", np.clip(water, -1, 0.3), 0.0)
    land = v > quay
    c.ground[:] = -3.0
    pitch, wide = c.uniform(78, 112) * s, c.uniform(20, 30) * s
    length = c.uniform(85, 125) * s
    i, lu = cells(u, pitch, c.uniform(0, 1))
    pier = (np.abs(lu) < wide / 2) & (v > quay - length) & ~land
    c.counts["piers"] = count_cells(i, np.zeros_like(i), pier, 80)
    c.ground[land | pier] = 0.0
    c.paint(land | pier, "concrete", np.clip(0.1 + c.mottle(0.15, 30), -1, 1), 0.0)
    edge = np.minimum(np.abs(v - quay), np.where(v < quay, np.abs(np.abs(lu) - wide / 2), 99))
    c.paint((land | pier) & (edge < 1.6), "concrete", 0.9, 0.5)
    _stacks(c, u, v - quay)
    store = pier & (np.abs(lu) < wide * 0.28) & (v > quay - length * 0.85) & (v < quay - 14)
    if c.chance(0.6):
        c.paint(store, "metal", pick(c.table(), i, i) * 0.6 + 0.4, 8.0)
    # Ships alongside the piers, one or none on each side, bow out to sea. Pier 0 is read from the cell arithmetic at one pixel.
    first, reach, seen = float(u[0, 0] - lu[0, 0] - i[0, 0] * pitch), c.extent * 0.75, 0
    for k in range(int(np.floor((-reach - first) / pitch)), int(np.ceil((reach - first) / pitch)) + 1):
        for side in (-1, 1):
            size, beam = c.uniform(0.62, 0.95) * length, c.uniform(14, 19) * s
            hull, cargo, moored = c.uniform(-1, 0.5), c.chance(0.5), c.chance(0.62) or (k == 0 and side == 1)
            if moored:
                along = first + k * pitch + side * (wide / 2 + beam / 2 + 1.5)
                across = quay - length * 0.5 - c.uniform(-0.1, 0.15) * length
                x, y = c.place(angle, along, across, x0, y0)
                seen += _ship(c, x, y, angle - np.pi / 2, size, beam, hull, cargo) > 60
    if seen:
        c.counts["ships"] = seen
        c.relations.append("with ships moored at the piers")


def _stacks(c: Canvas, u: np.ndarray, inland: np.ndarray) -> None:
    """Coloured container stacks, a crane track and long sheds on the land behind the quay."""
    a, ta = cells(u, 24.0)
    b, tb = cells(inland, 13.0)
    g, gap = cells(u, 84.0, c.uniform(0, 1))
    deep = c.uniform(38, 60)
    yard = (inland > 12) & (inland < 12 + deep) & (np.abs(gap) < 37)
    stack = yard & (np.abs(ta) < 10.5) & (np.abs(tb) < 5.0) & (pick(c.table(), a, b) < 0.8)
    c.paint(yard, "asphalt", 0.3, 0.0)
    c.paint(stack, "metal", pick(c.table(), a, b) * 1.35 - 1, 3 + 8 * pick(c.table(), a, b))
    shed = (inland > 22 + deep) & (inland < 22 + deep + c.uniform(32, 45)) & (np.abs(gap) < 34)
    c.paint(shed, "metal", 0.4 + 0.5 * pick(c.table(), g, g), 10.0)
    c.relations.append("with container stacks on the quay")


def _ship(c: Canvas, x: float, y: float, bearing: float, length: float, beam: float, hull: float, cargo: bool) -> int:
    """One ship: hull, deck with containers or hatches, white bridge at the stern; returns its pixels."""
    shape = _HULL * (length, beam)
    pixels = c.stamp(c.polygon(shape, x, y, bearing), "metal", hull, 7.0)
    c.stamp(c.polygon(_HULL * (length - 5, beam - 5), x, y, bearing), "metal", 0.45, 6.0)
    box = np.array([(0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)])
    bays = np.arange(-0.26, 0.34, 11.0 * c.scale / length)
    for bay, tint in zip(bays, c.rng.uniform(-1, 0.3, len(bays))):
        cx, cy = c.place(bearing, bay * length, 0.0, x, y)
        colour, size = (tint, beam * 0.74) if cargo else (-0.85, beam * 0.5)
        c.stamp(c.polygon(box * (8.0 * c.scale, size), cx, cy, bearing), "metal", colour, 13.0 if cargo else 7.5)
        c.point(cx, cy, 9.0, c.uniform(22, 32), axis=bearing)
    cx, cy = c.place(bearing, -0.39 * length, 0.0, x, y)
    c.stamp(c.polygon(box * (11 * c.scale, beam * 0.8), cx, cy, bearing), "metal", 1.0, 20.0)
    c.point(cx, cy, 20.0, c.uniform(24, 34))
    return pixels


def solar_farm(c: Canvas) -> None:
    """Long parallel rows of dark-blue panels on grass, in blocks between tracks, often with huts."""
    c.relief(c.uniform(1, 3))
    s = float(np.sqrt(c.scale))
    c.paint(np.ones_like(c.cover, bool), "grass", 0.3 + c.mottle(0.5, 45), 0.2)
    angle = c.uniform(-0.6, 0.6) if c.chance(0.7) else c.uniform(0, np.pi)
    u, v = c.frame(angle, *c.rng.uniform(-25, 25, 2))
    period = c.uniform(11, 15.5) * s
    rows = int(c.rng.integers(6, 11))
    long, short, lane = c.uniform(85, 190) * s, rows * period, c.uniform(9, 13)
    j, lv = cells(v, short + lane, c.uniform(0, 1))
    i, lu = cells(u + pick(c.table(), j, j) * 25, long + lane, c.uniform(0, 1))
    edge = np.minimum(long / 2 - np.abs(lu), short / 2 - np.abs(lv))
    block = edge > 0
    site = c.noise(140) + 0.9 > np.hypot(c.x, c.y) / (0.75 * c.extent)
    kept = pick(c.table(), i, j) < 0.93
    block &= kept & (site | (np.hypot(c.x, c.y) < 0.3 * c.extent))
    c.paint((edge <= 0) & site, "bare" if c.chance(0.6) else "grass", 0.2, 0.0)
    k, across = cells(lv + short / 2, period)
    fill = c.uniform(0.56, 0.68)
    panel = block & (np.abs(across) < fill * period / 2)
    rise = across / (fill * period) + 0.5
    c.paint(block & ~panel, "grass", c.uniform(-0.4, 0.9), 0.1)
    tint = np.clip(c.uniform(-0.4, 0.5) + 0.5 * (pick(c.table(), i, j) - 0.5), -1, 1)
    c.paint(panel, "solar", tint, 0.8 + 2.0 * (1 - rise if np.cos(angle) > 0 else rise))
    if c.chance(0.6):
        hut = (edge < -1) & (np.abs(lu) < 6) & (np.abs(lv) > short / 2 + 1) & kept
        c.paint(hut, "concrete", 1.0, 3.0)
    outside = ~site & ~block & (smoothstep(0.2, 1.0, c.noise(60)) > 0.5)
    c.crowns(outside, 10, 10, keep=0.8)
    c.counts["blocks"] = count_cells(i, j, panel, 150)
    c.relations.append(f"with rows of panels running {heading(angle)}")


def city(c: Canvas) -> None:
    """Dense blocks on a street grid of any orientation, flat roofs 10 to 45 m high, sometimes a park or an avenue."""
    c.relief(c.uniform(0.5, 2))
    u, v = c.frame(c.uniform(0, np.pi / 2), *c.rng.uniform(-30, 30, 2))
    long, short, street = c.uniform(66, 112), c.uniform(54, 78), c.uniform(13, 18)
    i, lu = cells(u, long)
    j, lv = cells(v, short)
    inset = np.minimum((long - street) / 2 - np.abs(lu), (short - street) / 2 - np.abs(lv))
    block = inset > 0
    c.paint(~block, "asphalt", c.uniform(-0.1, 0.5))
    c.paint(block, "concrete", -0.1)
    lot = c.uniform(22, 36)
    nu, nv = max(1, round((long - street) / lot)), max(1, round((short - street) / lot))
    i2, mu = cells(lu + (long - street) / 2, (long - street) / nu)
    j2, mv = cells(lv + (short - street) / 2, (short - street) / nv)
    i2, j2 = i * nu + i2, j * nv + j2
    gap = c.uniform(0, 2.2)
    wall = np.minimum((long - street) / nu / 2 - np.abs(mu), (short - street) / nv / 2 - np.abs(mv)) > gap
    built = block & wall & (inset > 1.5) & (pick(c.table(), i2, j2) < 0.96)
    if c.chance(0.45):
        built &= inset < c.uniform(15, 19)
        c.relations.append("with courtyards inside the blocks")
    tall = c.uniform(12, 34)
    centre = np.clip(1 + 0.35 * c.noise(110), 0.5, 1.8)
    height = np.clip(9 + tall * pick(c.table(), i2, j2) ** 1.6 * centre, 9, 48)
    tint = np.clip(c.uniform(0.05, 0.5) + 1.5 * (pick(c.table(), i2, j2) - 0.5), -1, 1)
    park = pick(c.table(), i, j) < 0.09
    built &= ~park
    c.paint(built, "roof", tint, height)
    # A darker plant room on every second roof gives the flat roofs a scale.
    plant = built & (np.abs(mu) < 3.6) & (np.abs(mv) < 3.6) & (pick(c.table(), i2, j2) < 0.4)
    c.paint(plant, "roof", np.clip(tint - 0.5, -1, 1), height + 3)
    c.counts["buildings"] = count_cells(i2, j2, built, 20)
    if np.count_nonzero(height[built] > 28) > 0.2 * np.count_nonzero(built):
        c.relations.append("with tall buildings")
    if np.mean(block & park) > 0.03:
        c.paint(block & park, "grass", 0.0, 0.0)
        c.crowns(block & park & (inset > 3), 9, 10, keep=0.6)
        c.relations.append("with a park")
    # Masts, railings and air conditioning on some of the roofs.
    rows, cols = np.nonzero(built)
    for k in c.rng.integers(0, len(rows), 24 if len(rows) else 0):
        c.point_at(rows[k], cols[k], c.above[rows[k], cols[k]], c.uniform(8, 20))


def suburb(c: Canvas) -> None:
    """Rows of small gabled houses along straight or curved streets, with gardens and trees."""
    c.relief(c.uniform(1, 3))
    c.paint(np.ones_like(c.cover, bool), "grass", c.mottle(0.45, 25), 0.1)
    u, v = c.frame(c.uniform(0, np.pi), *c.rng.uniform(-30, 30, 2))
    if c.chance(0.65):
        curve, wave = c.uniform(14, 34), c.uniform(60, 110)
        v = v + np.float32(curve) * np.sin(u / np.float32(wave) + np.float32(c.uniform(0, 6)))
        c.relations.append("along curved streets")
    else:
        c.relations.append("along straight streets")
    row, lot, street = c.uniform(66, 82), c.uniform(24, 31), c.uniform(9, 12)
    i, lv = cells(v, row)
    group = int(c.rng.integers(5, 9))
    j, lu = cells(u, lot)
    cross = (j % group) == 0
    side = (lv > 0).astype(np.int32)
    k = 2 * i + side
    length, depth = c.uniform(14.5, 18), c.uniform(11, 13.5)
    setback = street / 2 + c.uniform(5, 8) + depth / 2
    across = np.abs(lv) - setback
    along = lu + (pick(c.table(), k, j) - 0.5) * 4
    turn = pick(c.table(), k, j) < 0.35
    a, b = np.where(turn, across, along), np.where(turn, along, across)
    house = (np.abs(a) < length / 2) & (np.abs(b) < depth / 2) & ~cross & (pick(c.table(), k, j) < 0.94)
    plot_tint = (pick(c.table(), k, j) - 0.5) * 0.8
    c.tint += plot_tint
    np.clip(c.tint, -1, 1, out=c.tint)
    trees = ~house & (np.abs(lv) > street / 2 + 3) & ~cross
    c.crowns(trees, c.uniform(9, 11.5), c.uniform(5, 8), keep=c.uniform(0.1, 0.3), tint=-0.1)
    c.paint((np.abs(lv) < street / 2) | (cross & (np.abs(lu) < street / 2)), "asphalt", 0.3, 0.0)
    drive = (np.abs(along - 7) < 1.8) & (np.abs(lv) < setback) & ~cross
    c.paint(drive & (np.abs(lv) > street / 2), "concrete", 0.2, 0.0)
    ridge = 1 - np.abs(b) / (depth / 2)
    tint = np.clip(c.uniform(-0.3, 0.5) + 1.4 * (pick(c.table(), k, j) - 0.5), -1, 1)
    c.paint(house, "tile", tint, 5.0 + 3.6 * ridge)
    c.counts["houses"] = count_cells(k, j, house, 12)
    c.relations.append("with gardens and trees")


def industrial(c: Canvas) -> None:
    """A few very large pale sheds, round tanks and paved yards on a coarse grid of roads."""
    c.relief(c.uniform(0.3, 1))
    u, v = c.frame(c.uniform(0, np.pi / 2), *c.rng.uniform(-35, 35, 2))
    long, short, road = c.uniform(120, 165), c.uniform(88, 118), c.uniform(12, 17)
    i, lu = cells(u, long)
    j, lv = cells(v, short)
    kinds = c.table()
    kinds[:4, :4] = kinds[-4:, -4:] = kinds[:4, -4:] = kinds[-4:, :4] = c.rng.permutation(
        np.repeat([0.1, 0.3, 0.5, 0.7, 0.9], (7, 3, 2, 3, 1))
    ).reshape(4, 4)
    kind = pick(kinds, i, j)
    inside_u, inside_v = (long - road) / 2 - np.abs(lu), (short - road) / 2 - np.abs(lv)
    inset = np.minimum(inside_u, inside_v)
    c.paint(inset <= 0, "asphalt", 0.0)
    c.paint(inset > 0, "grass", 0.2, 0.1)
    yard = inset > 4
    c.paint(yard, "concrete", np.clip(pick(c.table(), i, j) * 1.2 - 0.9, -1, 1), 0.0)
    tint = 0.42 + 0.55 * pick(c.table(), i, j)
    height = 8 + 7 * pick(c.table(), i, j)
    margin = 8 + 9 * pick(c.table(), i, j)
    shed = (inset > margin) & ((kind < 0.4) & ((kind < 0.2) | (np.abs(lu) > 6)))
    ribs = 0.12 * np.sign(np.sin(lu * (2 * np.pi / c.uniform(14, 22))))
    c.paint(shed, "metal", np.clip(tint + ribs, 0.35, 1), height + 1.5 * (1 - np.abs(lv) / (short / 2)))
    c.counts["sheds"] = count_cells(2 * i + (lu > 0) * (kind >= 0.2), j, shed, 60)
    _tanks(c, yard & (kind >= 0.6) & (kind < 0.8), i, j, lu, lv, long - road, short - road)
    containers = (inset > 9) & (kind >= 0.4) & (kind < 0.6)
    if containers.any():  # stacks of coloured ones in rows
        a, ta = cells(lu, 17.0)
        b, tb = cells(lv, 11.0)
        stack = containers & (np.abs(ta) < 6.6) & (np.abs(tb) < 3.4) & (pick(c.table(), a, b) < 0.75)
        c.paint(containers, "asphalt", 0.4, 0.0)
        c.paint(stack, "metal", pick(c.table(), a, b) * 1.3 - 1, 3 + 5 * pick(c.table(), a, b))
        c.relations.append("with a container yard")
    c.crowns((inset > 0) & ((kind > 0.8) | (inset < 5)), 9, 8, keep=0.35)


def _tanks(c: Canvas, where: np.ndarray, i: np.ndarray, j: np.ndarray, lu: np.ndarray, lv: np.ndarray, long: float, short: float) -> None:
    """Round white tanks in a row of two or three by two, inside the parcels ``where``."""
    if not where.any():
        return
    across = 2 if short < 92 else int(c.rng.integers(2, 4))
    along = max(2, round(long / (short / across)))
    a, ta = cells(lu + long / 2, long / along)
    b, tb = cells(lv + short / 2, short / across)
    radius = c.uniform(0.34, 0.43) * min(long / along, short / across)
    distance = np.hypot(ta, tb)
    c.paint(where, "bare", 0.3, 0.0)
    tank = where & (distance < radius)
    c.paint(tank, "metal", np.where(distance < 0.8 * radius, np.float32(0.95), np.float32(0.6)), c.uniform(9, 15))
    number = count_cells(i * along + a, j * across + b, tank, 40)
    if number:
        c.counts["tanks"] = number
        c.relations.append("with storage tanks")
        rows, cols = np.nonzero(tank & (np.abs(distance - radius) < c.spacing) & (np.abs(tb) < c.spacing))
        for row, col in zip(rows[::3], cols[::3]):
            c.point_at(row, col, 11.0, 18.0)


def stadium(c: Canvas) -> None:
    """An oval bowl around a green pitch, often with a red running track and a roof, car parks around."""
    c.relief(c.uniform(0.3, 1))
    angle = c.uniform(0, np.pi)
    x0, y0 = c.rng.uniform(-14, 14, 2) * c.scale
    u, v = c.frame(angle, x0, y0)
    s = c.uniform(0.8, 1.0) * c.scale
    u, v = u / np.float32(s), v / np.float32(s)
    track = c.chance(0.6)
    _car_parks(c, u * s, v * s)
    if track:
        d = np.hypot(np.maximum(np.abs(u) - 40, 0), v)
        field, lane, outer = 36.0, 47.0, c.uniform(76, 84)
    else:
        d = np.hypot(np.maximum(np.abs(u) - 26, 0), np.maximum(np.abs(v) - 6, 0))
        field, lane, outer = 40.0, 40.0, c.uniform(68, 80)
    c.paint(d < outer + 14, "concrete", 0.2, 0.0)
    stand = (d >= lane) & (d < outer)
    rake = (d - np.float32(lane)) / np.float32(outer - lane)
    seats = c.uniform(-0.9, 0.3)
    c.paint(stand, "roof", np.clip(seats + 0.25 * np.sign(np.sin(d * 0.7)), -1, 1), 3 + 17 * rake)
    roof = {0: rake > 0.4, 1: (rake > 0.35) & (np.abs(v) > 20), 2: rake > 0.93}[int(c.rng.integers(3))]
    c.paint(stand & roof, "metal", np.float32(c.uniform(0.6, 1.0)), 24.0)
    c.paint((d >= field) & (d < lane), "track", 0.1 + 0.3 * np.sign(np.sin(d * 1.2)), 0.0)
    c.paint(d < field, "grass", -0.8, 0.0)
    inside_u, inside_v = (46.0 if track else 50.0) - np.abs(u), (29.0 if track else 33.0) - np.abs(v)
    pitch, edge = (inside_u > 0) & (inside_v > 0), np.minimum(inside_u, inside_v)
    c.paint(pitch, "grass", np.float32(-0.85) + np.float32(0.15) * np.sign(np.sin(u * 0.33)), 0.0)  # mown stripes
    line = (edge < 2.2) | (np.abs(u) < 1.1) | (np.abs(np.hypot(u, v) - 9.5) < 1.1)
    c.paint(pitch & line, "paint", 0.0, 0.0)
    c.relations.append("with a running track around the pitch" if track else "with stands close to the pitch")
    for bearing in np.linspace(0, 2 * np.pi, 16, endpoint=False):
        along, across = 0.85 * (40 + outer) * s * np.cos(bearing), outer * s * np.sin(bearing)
        c.point(*c.place(angle, along, across, x0, y0), 22.0, 20.0)


def _car_parks(c: Canvas, u: np.ndarray, v: np.ndarray) -> None:
    """Paved car parks with rows of cars, lawns and trees around the stadium."""
    lawn = c.noise(90) > c.uniform(0.0, 0.9)
    c.paint(np.ones_like(c.cover, bool), "asphalt", 0.3, 0.0)
    a, ta = cells(u, 9.0)
    b, tb = cells(v, 22.0)
    car = (np.abs(ta) < 3.2) & (np.abs(tb) < 5.2) & (pick(c.table(), a // 5, b) < 0.65) & (a % 7 != 0)
    c.paint(car, "metal", pick(c.table(), a, b) ** 0.6 * 1.6 - 0.6, 1.5)
    c.paint(lawn, "grass", 0.0, 0.0)
    c.crowns(lawn, 10, 9, keep=0.6)
    c.relations.append("surrounded by car parks")


# Radar fine-tuning shows the first eight; their order is part of every scene's seed, so a new one comes last.
LAYOUTS = {
    layout.__name__.replace("_", " "): layout
    for layout in (city, suburb, industrial, forest, crop_fields, coast, mountains, river, airport, harbour, solar_farm, stadium)
}
