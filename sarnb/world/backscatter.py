"""Backscatter of land covers: mean σ0 by incidence, texture order, and how covers act in walls and corners.

``SIGMA0`` holds **rounded guide values** (to 0.5 dB), not a transcription; fields of one cover differ by ±3 dB and more in
the sources. Where they come from and how far they were checked:

- bare soil, grass, crop (short vegetation) and dry snow follow the regression that F. T. Ulaby and M. C. Dobson fitted to their
  collected measurements, *Handbook of Radar Scattering Statistics for Terrain*, Artech House 1989. Its C-band coefficients are
  in the tests, which hold these rows, shifted to C band, within 2 dB of it from 20° to 60°. The step from C to
  X band (``c_band_db``) is this project's choice, about 1 dB.
- forest: X-band canopies lie at -8 to -10 dB about 40° in the same book; at C band Sentinel-1 sees a γ0 of about -7 dB. The
  book's shrubs are its nearest C-band row, 1 to 3 dB below (tested).
- rock and road surfaces (asphalt, concrete, track): level and slope after the same book's figures, not checked by number.
- water, light wind (about 3 m/s): level and slope as X-band geophysical model functions give them, X.-M. Li, S. Lehner,
  "Algorithm for sea surface wind retrieval from TerraSAR-X and TanDEM-X data", IEEE TGRS 52 (2014) 2928-2939.
- roof, tile, paint, metal, solar, wall: no published mean exists for them as covers; values are this project's choice,
  placed relative to the road curve, and their strong returns come from corners and point scatterers (world/facets.py), not from σ0.

The texture order ν of the K distribution (Ward 1981; Oliver and Quegan 2004) is chosen here per cover: large for natural
distributed covers at metre resolution, near 1 for built ones, whose cells hold few dominant scatterers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sarnb.errors import InputError

# Land covers: the code of a cell's surface, shared by the optical and the radar renderer.

COVERS: tuple[str, ...] = tuple("water grass crop bare sand forest asphalt concrete roof tile metal rock snow solar track paint".split())
"""Names of the land covers; a cover's index is its ``uint8`` code.

``roof`` is a flat bitumen or gravel roof, ``tile`` a pitched clay roof, ``metal`` sheds, tanks, ships, aircraft and
containers, ``track`` a synthetic running track, ``paint`` a road or pitch marking.
"""

CODE: dict[str, int] = {name: code for code, name in enumerate(COVERS)}
"""The ``uint8`` code of each cover name."""

SEASONS: tuple[str, ...] = ("spring", "summer", "autumn", "winter")
"""The four seasons of a scene."""


INCIDENCE_NODES_DEG = (10, 20, 30, 40, 50, 60, 70, 80)
BANDS_GHZ = {"C": (4.0, 8.0), "X": (8.0, 12.0)}
POLARISATIONS = ("HH", "VV")
LUT_PER_DEGREE = 10


@dataclass(frozen=True)
class Cover:
    """One land cover as the radar sees it."""

    sigma0_db: tuple[float, ...]  # X band, VV, mean σ0 in dB at INCIDENCE_NODES_DEG
    nu: float  # order of the gamma texture, X band at metre resolution
    c_band_db: float = 0.0  # C band minus X band, dB
    hh_db: float = 0.0  # HH minus VV, dB (at 40°; applied at all angles)
    spread_db: float = 1.5  # how far an object of this cover moves σ0, at tint ±1
    mirror: float = 0.5  # power reflectivity as the floor of a wall-ground corner, 0 … 1
    depth_m: float = 0.0  # > 0: a volume that returns power from this depth below its top
    built: bool = False  # its steps are facades: storeys of windows, corner with the ground


SIGMA0 = {
    "water": Cover((-4, -11, -18, -24, -28, -31, -34, -38), 8.0, -1.5, -3.0, 1.0, 0.8),
    "grass": Cover((-2, -7, -10, -12, -13, -13.5, -14.5, -16), 10.0, -1.0, 0.0, 1.5, 0.3),
    "crop": Cover((-3.5, -7, -9, -10.5, -11.5, -12.5, -14, -16), 12.0, -1.0, 0.0, 4.0, 0.2),
    "bare": Cover((-2, -6, -9.5, -12, -14.5, -16.5, -18, -20), 8.0, -1.0, 0.0, 2.5, 0.4),
    "sand": Cover((-4, -10, -15, -18.5, -21, -23.5, -26, -30), 10.0, -2.0, -1.0, 1.5, 0.4),
    "forest": Cover((-4.5, -7, -8, -9, -10, -11, -12.5, -15), 4.0, 0.0, -0.5, 1.5, 0.2, 4.0),
    "asphalt": Cover((-6, -13, -18, -21.5, -24.5, -27.5, -31, -36), 10.0, -2.0, -1.5, 1.0, 0.9),
    "concrete": Cover((-6, -13, -18, -21, -24, -27, -30, -35), 6.0, -2.0, -1.5, 1.0, 0.9),
    "roof": Cover((-2, -7, -10, -13, -15, -17, -19, -22), 1.5, -0.5, 0.0, 2.5, 0.7, 0.0, True),
    "tile": Cover((-2, -7, -9.5, -12, -14, -16, -18, -21), 1.5, -0.5, 0.0, 2.0, 0.5, 0.0, True),
    "metal": Cover((0, -6, -9.5, -12, -14, -16, -18, -21), 1.0, 0.0, 0.0, 2.0, 1.0, 0.0, True),
    "solar": Cover((-3, -9, -13, -16, -18, -20, -22, -25), 1.2, 0.0, 0.0, 1.0, 0.8),
    "rock": Cover((-1, -5, -8, -10, -11.5, -13, -15, -18), 3.0, -0.5, 0.0, 1.5, 0.4),
    "snow": Cover((-8, -11.5, -13.5, -15, -17, -19, -20.5, -22.5), 10.0, -1.0, 1.0, 1.0, 0.3),
    "track": Cover((-5, -11, -16, -19, -22, -25, -28, -33), 10.0, -2.0, -1.0, 1.0, 0.6),
    "paint": Cover((-6, -13, -18, -21, -24, -27, -30.5, -35.5), 10.0, -2.0, -1.5, 1.0, 0.9),
    "wall": Cover((-6, -8, -10, -11, -12, -13, -14, -16), 1.2, 0.0, 0.0, 0.0, 0.5, 0.0, True),
}


@dataclass(frozen=True)
class Table:
    """``SIGMA0`` as arrays indexed by cover code; the last row is the wall."""

    sigma0: np.ndarray  # linear σ0 [n + 1, 90 * LUT_PER_DEGREE + 1]
    nu: np.ndarray
    spread_db: np.ndarray
    mirror: np.ndarray
    depth_m: np.ndarray
    built: np.ndarray

    @property
    def wall(self) -> int:
        """Code of the facade row."""
        return len(self.nu) - 1

    def mean(self, code: np.ndarray, cos_incidence: np.ndarray) -> np.ndarray:
        """Linear σ0 for cover codes at the local incidence whose cosine is given (clipped to [0, 1])."""
        degrees = np.rad2deg(np.arccos(np.clip(cos_incidence, 0, 1)))
        return self.sigma0[code, (degrees * LUT_PER_DEGREE + 0.5).astype(np.intp)]


def sigma0_db(cover: str, incidence_deg: float, band: str = "X", polarisation: str = "VV") -> float:
    """Mean σ0 in dB of one cover, linear in dB between the nodes and constant beyond them.

    Raises
    ------
    InputError
        A cover, band or polarisation that has no row here.
    """
    if cover not in SIGMA0:
        raise InputError(f"no backscatter row for the land cover {cover!r}: add it to {__name__} (known: {', '.join(SIGMA0)})")
    if band not in BANDS_GHZ or polarisation not in POLARISATIONS:
        raise InputError(
            f"no backscatter for band {band!r}, polarisation {polarisation!r}: choose from {tuple(BANDS_GHZ)} and {POLARISATIONS}"
        )
    row = SIGMA0[cover]
    level = float(np.interp(incidence_deg, INCIDENCE_NODES_DEG, row.sigma0_db))
    return level + (row.c_band_db if band == "C" else 0.0) + (row.hh_db if polarisation == "HH" else 0.0)


@lru_cache(maxsize=16)
def lookup(covers: tuple[str, ...], band: str, polarisation: str) -> Table:
    """Arrays for the covers of a scene, in the order of its codes.

    Raises
    ------
    InputError
        A cover without a row.
    """
    names = (*covers, "wall")
    angles = np.arange(90 * LUT_PER_DEGREE + 1) / LUT_PER_DEGREE
    for name in names:
        sigma0_db(name, 0.0, band, polarisation)  # the named error of an unknown one
    rows = [SIGMA0[name] for name in names]
    shift = [sigma0_db(name, 0.0, band, polarisation) - row.sigma0_db[0] for name, row in zip(names, rows)]
    decibel = np.array([np.interp(angles, INCIDENCE_NODES_DEG, row.sigma0_db) for row in rows]) + np.array(shift)[:, None]
    return Table(
        10 ** (decibel / 10),
        *(np.array([getattr(row, field) for row in rows]) for field in ("nu", "spread_db", "mirror", "depth_m", "built")),
    )
