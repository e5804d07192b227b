"""Layouts of built-up land: city, suburb, industrial estate, stadium."""

from __future__ import annotations

import numpy as np

from sarnb.world.canvas import Canvas, cells, count_cells, pick


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
    _yards(c, (inset > 9) & (kind >= 0.4) & (kind < 0.6), lu, lv)
    c.crowns((inset > 0) & ((kind > 0.8) | (inset < 5)), 9, 8, keep=0.35)


def _tanks(
    c: Canvas, where: np.ndarray, i: np.ndarray, j: np.ndarray, lu: np.ndarray, lv: np.ndarray, long: float,
    short: float,
) -> None:
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


def _yards(c: Canvas, where: np.ndarray, lu: np.ndarray, lv: np.ndarray) -> None:
    """Stacks of coloured containers in rows."""
    if not where.any():
        return
    a, ta = cells(lu, 17.0)
    b, tb = cells(lv, 11.0)
    stack = where & (np.abs(ta) < 6.6) & (np.abs(tb) < 3.4) & (pick(c.table(), a, b) < 0.75)
    c.paint(where, "asphalt", 0.4, 0.0)
    c.paint(stack, "metal", pick(c.table(), a, b) * 1.3 - 1, 3 + 5 * pick(c.table(), a, b))
    c.relations.append("with a container yard")


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
    _pitch(c, u, v, 46.0 if track else 50.0, 29.0 if track else 33.0)
    c.relations.append("with a running track around the pitch" if track else "with stands close to the pitch")
    for bearing in np.linspace(0, 2 * np.pi, 16, endpoint=False):
        along, across = 0.85 * (40 + outer) * s * np.cos(bearing), outer * s * np.sin(bearing)
        c.point(*c.place(angle, along, across, x0, y0), 22.0, 20.0)


def _pitch(c: Canvas, u: np.ndarray, v: np.ndarray, half_length: float, half_width: float) -> None:
    """Mown stripes and white lines of a football pitch; ``u``, ``v`` in metres along and across."""
    pitch = (np.abs(u) < half_length) & (np.abs(v) < half_width)
    c.paint(pitch, "grass", np.float32(-0.85) + np.float32(0.15) * np.sign(np.sin(u * 0.33)), 0.0)
    edge = np.minimum(half_length - np.abs(u), half_width - np.abs(v))
    line = (edge < 2.2) | (np.abs(u) < 1.1) | (np.abs(np.hypot(u, v) - 9.5) < 1.1)
    c.paint(pitch & line, "paint", 0.0, 0.0)


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
