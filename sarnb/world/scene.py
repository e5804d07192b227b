"""A scene in metres: terrain, buildings, trees and metal points of one class, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from sarnb.errors import InputError
from sarnb.world.backscatter import CODE, COVERS, SEASONS
from sarnb.world.canvas import Canvas, smoothstep
from sarnb.world.layouts import LAYOUTS

__all__ = ["CLASSES", "CODE", "COMPOSITIONS", "COVERS", "SEASONS", "SEEN", "UNSEEN", "Scene", "make_scene"]

CLASSES: tuple[str, ...] = tuple(LAYOUTS)
"""The twelve classes of the twin world."""
SEEN: tuple[str, ...] = CLASSES[:8]
"""Classes that SAR fine-tuning shows."""
UNSEEN: tuple[str, ...] = CLASSES[8:]
"""Classes that no SAR training image shows; the foundation knows them in optical only."""
COMPOSITIONS: tuple[str, ...] = ("river+forest", "city+coast", "crop fields+mountains", "suburb+river", "industrial+forest")
"""Pairs of seen classes in one patch that no SAR training image shows."""


@dataclass(frozen=True)
class Scene:
    """One patch of the twin world; rows run from north to south (azimuth), columns from west to east (ground range).

    Raises
    ------
    InputError
        Arrays disagree in shape, numbers are not finite, a cover has no name, or the spacing is not positive.
    """

    kind: str  # class, or two or three classes joined by "+"
    height: np.ndarray  # float32 [H, W], metres: surface with buildings and canopy
    ground: np.ndarray  # float32 [H, W], metres: bare terrain
    cover: np.ndarray  # uint8 [H, W]: index into COVERS
    tint: np.ndarray  # float32 [H, W] in [-1, 1]: variation of the material from object to object
    points: np.ndarray  # float32 [n, 5]: row, column, metres above ground, peak cross section in dBsm, facing in degrees or NaN
    spacing: float  # metres per cell
    season: str  # one of SEASONS
    counts: dict[str, int] = field(default_factory=dict)  # objects in sight, by plural name
    relations: tuple[str, ...] = ()  # phrases such as "crossed by a bridge"
    seed: int = 0

    def __post_init__(self) -> None:
        shape = self.height.shape
        if len(shape) != 2 or any(a.shape != shape for a in (self.ground, self.cover, self.tint)):
            raise InputError(f"scene {self.kind!r}: give height, ground, cover and tint one 2-D shape, not {shape}.")
        codes = np.issubdtype(self.cover.dtype, np.integer)
        if not codes or self.cover.min() < 0 or self.cover.max() >= len(COVERS):
            raise InputError(f"scene {self.kind!r}: cover must hold whole numbers from 0 to {len(COVERS) - 1}, one a land cover.")
        numbers = {name: getattr(self, name) for name in ("height", "ground", "tint")} | {"points": self.points[..., :4]}
        for name, values in numbers.items():
            if not np.isfinite(values).all():
                raise InputError(f"scene {self.kind!r}: {name} holds NaN or infinite values; fill the gaps first.")
        if not self.spacing > 0:
            raise InputError(f"scene {self.kind!r}: spacing is {self.spacing}; give metres per cell above zero.")
        if self.points.ndim != 2 or self.points.shape[1] != 5:
            raise InputError(f"scene {self.kind!r}: points must be [n, 5], got {self.points.shape}.")


def parts_of(kind: str) -> tuple[str, ...]:
    """The classes of ``kind``: one, or the two or three of a composition; ``InputError`` when one is unknown."""
    parts = tuple(part.strip() for part in kind.split("+"))
    unknown = [part for part in parts if part not in LAYOUTS]
    if unknown or len(parts) > 3 or len(set(parts)) != len(parts):
        known = f"{', '.join(CLASSES)}, or two or three different ones as in 'river+forest'"
        raise InputError(f"scene class {kind!r} is unknown; use one of {known}.")
    return parts


def make_scene(kind: str, seed: int, size: int = 128, spacing: float = 2.0) -> Scene:
    """Draw the scene of a class, or of a composition "a+b" or "a+b+c", from a seed.

    ``size`` is the number of rows and of columns (32 or more), ``spacing`` the metres per cell (above zero). The same
    arguments give the same scene in every process.

    Raises
    ------
    InputError
        Another class, size or spacing.

    >>> make_scene("river", seed=1, size=64).height.shape
    (64, 64)
    """
    parts = parts_of(kind)
    if size < 32:
        raise InputError(f"scene size is {size} cells; give 32 or more, or the patch holds no structure.")
    if not (np.isfinite(spacing) and spacing > 0):
        raise InputError(f"scene spacing is {spacing}; give metres per cell above zero.")
    if seed < 0:
        raise InputError(f"scene seed is {seed}; give a whole number of 0 or more.")
    codes = [CLASSES.index(part) for part in parts]
    rng = np.random.default_rng((seed, len(parts), *codes))
    season = SEASONS[int(rng.integers(len(SEASONS)))]
    canvases = []
    for part in parts:
        canvas = Canvas(rng, size, spacing, season)
        LAYOUTS[part](canvas)
        canvases.append(canvas)
    # What has a feature (river bed, sea) lies over the others, so it comes last.
    canvas = reduce(_merge, sorted(canvases, key=lambda canvas: canvas.feature is not None))
    ground = np.asarray(canvas.ground, np.float32)
    return Scene(
        kind=kind,
        height=ground + np.asarray(canvas.above, np.float32),
        ground=ground,
        cover=canvas.cover,
        tint=np.clip(np.asarray(canvas.tint, np.float32), -1, 1),
        points=np.array(canvas.points, np.float32).reshape(-1, 5),
        spacing=float(spacing),
        season=season,
        counts=dict(canvas.counts),
        relations=tuple(canvas.relations),
        seed=int(seed),
    )


def _merge(first: Canvas, second: Canvas) -> Canvas:
    """Lay two classes over one patch: the one with a feature (river bed, sea) over the other, else half and half."""
    under, over = (second, first) if first.feature is not None else (first, second)
    if over.feature is not None:
        mask = over.feature
        soft = mask.astype(np.float32)
    else:
        _, across = under.frame(under.uniform(0, 2 * np.pi))
        line = across + 10 * under.noise(60) + under.uniform(-0.08, 0.08) * under.extent
        mask = line > 0
        soft = smoothstep(-0.12 * under.extent, 0.12 * under.extent, line)
    # A feature brings its own terrain everywhere, so that banks and beaches do not become cliffs.
    ground = over.ground if over.feature is not None else under.ground * (1 - soft) + over.ground * soft
    for layer in ("above", "cover", "tint"):
        setattr(under, layer, np.where(mask, getattr(over, layer), getattr(under, layer)))
    under.ground = ground.astype(np.float32)
    under.points = [p for p in under.points if not mask[int(p[0]), int(p[1])]] + [p for p in over.points if mask[int(p[0]), int(p[1])]]
    # Only what the feature itself carries is surely still in sight.
    kept = over.feature is not None
    under.counts = {name: n for name, n in over.counts.items() if kept and name == "bridges"}
    under.relations = [p for p in over.relations if kept and any(word in p for word in ("bridge", "sea", "flowing"))]
    under.feature = None
    return under
