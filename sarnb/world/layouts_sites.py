"""Layouts of single large sites: airport, harbour, solar farm."""

from __future__ import annotations

import numpy as np

from sarnb.world.canvas import Canvas, cells, count_cells, heading, pick, smoothstep

_FUSELAGE = np.array([(0.5, 0), (0.44, 0.045), (0.3, 0.062), (-0.3, 0.062), (-0.5, 0.02),
                      (-0.5, -0.02), (-0.3, -0.062), (0.3, -0.062), (0.44, -0.045)])
_WINGS = np.array([(0.16, 0), (-0.12, 0.48), (-0.22, 0.48), (-0.10, 0), (-0.22, -0.48), (-0.12, -0.48)])
_TAIL = np.array([(-0.34, 0), (-0.44, 0.19), (-0.5, 0.19), (-0.46, 0), (-0.5, -0.19), (-0.44, -0.19)])
_HULL = np.array([(0.5, 0), (0.42, 0.32), (0.3, 0.5), (-0.46, 0.5), (-0.5, 0.36),
                  (-0.5, -0.36), (-0.46, -0.5), (0.3, -0.5), (0.42, -0.32)])


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
    c.relations.append(f"with a runway running {heading(angle)}")
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
    _moor(c, angle, x0, y0, quay, pitch, wide, length, i, lu, u)


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


def _moor(
    c: Canvas, angle: float, x0: float, y0: float, quay: float, pitch: float, wide: float, length: float,
    i: np.ndarray, lu: np.ndarray, u: np.ndarray,
) -> None:
    """Ships alongside the piers, one or none on each side, bow out to sea."""
    # Middle of pier 0 along the quay, read from the cell arithmetic at one pixel.
    first = float(u[0, 0] - lu[0, 0] - i[0, 0] * pitch)
    reach = c.extent * 0.75
    seen = 0
    for k in range(int(np.floor((-reach - first) / pitch)), int(np.ceil((reach - first) / pitch)) + 1):
        for side in (-1, 1):
            size, beam = c.uniform(0.62, 0.95) * length, c.uniform(14, 19) * c.scale
            hull, cargo, moored = c.uniform(-1, 0.5), c.chance(0.5), c.chance(0.62) or (k == 0 and side == 1)
            if moored:
                along = first + k * pitch + side * (wide / 2 + beam / 2 + 1.5)
                across = quay - length * 0.5 - c.uniform(-0.1, 0.15) * length
                x, y = c.place(angle, along, across, x0, y0)
                seen += _ship(c, x, y, angle - np.pi / 2, size, beam, hull, cargo) > 60
    if seen:
        c.counts["ships"] = seen
        c.relations.append("with ships moored at the piers")


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
    tilt = across / (fill * period) + 0.5
    c.paint(block & ~panel, "grass", c.uniform(-0.4, 0.9), 0.1)
    c.paint(panel, "solar", np.clip(c.uniform(-0.4, 0.5) + 0.5 * (pick(c.table(), i, j) - 0.5), -1, 1),
            0.8 + 2.0 * (1 - tilt if np.cos(angle) > 0 else tilt))
    if c.chance(0.6):
        hut = (edge < -1) & (np.abs(lu) < 6) & (np.abs(lv) > short / 2 + 1) & kept
        c.paint(hut, "concrete", 1.0, 3.0)
    outside = ~site & ~block & (smoothstep(0.2, 1.0, c.noise(60)) > 0.5)
    c.crowns(outside, 10, 10, keep=0.8)
    c.counts["blocks"] = count_cells(i, j, panel, 150)
    c.relations.append(f"with rows of panels running {heading(angle)}")
