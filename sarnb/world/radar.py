"""SAR image formation: a scene and a radar → the complex image, with its layover, shadow and incidence.

Complex first, amplitude last: facets put their mean power where their range is (world/facets.py), gamma texture and
circular Gaussian speckle make it a K-distributed complex field (world/speckle.py), metal and window glints are added as
complex points with the phase of their range, and the band-limited impulse response forms the image. Thermal noise enters
before the impulse response, because the receiver's noise passes the same processor. Looks are independent and averaged
in intensity.

Left out, knowingly: one incidence for the whole patch (far field), no azimuth layover or ambiguities, no motion, no
multipath beyond the wall-ground corner, incoherent sums inside a cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sarnb.errors import InputError
from sarnb.world import facets, speckle
from sarnb.world.backscatter import BANDS_GHZ, COVERS, POLARISATIONS, lookup
from sarnb.world.scene import Scene

SPEED_OF_LIGHT = 299_792_458.0
MARGIN = 8  # cells formed beyond each border, so that the circular impulse response does not wrap
BORDER = (8, 128)  # least and most scene cells mirrored at the near and far border, to stand for the swath beyond
SMALLEST = 8  # cells an image needs on each side
SHADOW_COVERAGE, LAYOVER_COVERAGE = 0.5, 1.3  # lit surface per cell below / above which a cell counts as such


@dataclass(frozen=True)
class Radar:
    """What a sensor and its processor do to a scene.

    Raises
    ------
    InputError
        Values no radar has.
    """

    name: str
    band: str  # "X" or "C": chooses the backscatter
    frequency_ghz: float  # carrier, sets the phase of point scatterers
    incidence_deg: float  # at the scene centre, from the vertical, open interval (0, 90)
    look: str = "left"  # the side of the image the illumination comes from: "left" = near range at column 0
    geometry: str = "ground"  # columns are "ground" or "slant" range
    resolution_m: tuple[float, float] = (2.4, 2.4)  # -3 dB widths (range, azimuth), range in the plane of `geometry`
    spacing_m: tuple[float, float] = (2.0, 2.0)  # pixel spacing (range, azimuth), range in the plane of `geometry`
    looks: int = 1
    window: str = "taylor"  # band weighting: "rect" (side lobes -13.3 dB) or "taylor" (-35 dB)
    nesz_db: float = -30.0  # noise-equivalent σ0
    polarisation: str = "VV"

    def __post_init__(self) -> None:
        def need(good: bool, message: str) -> None:
            if not good:
                raise InputError(f"radar {self.name!r}: {message}")

        need(0 < self.incidence_deg < 90, f"incidence_deg {self.incidence_deg} must lie between 0 and 90, both excluded")
        need(self.look in ("left", "right"), f"look {self.look!r} must be 'left' or 'right'")
        need(self.geometry in ("ground", "slant"), f"geometry {self.geometry!r} must be 'ground' or 'slant'")
        need(self.window in speckle.WINDOWS, f"window {self.window!r} must be one of {speckle.WINDOWS}")
        need(self.band in BANDS_GHZ, f"band {self.band!r} must be one of {tuple(BANDS_GHZ)}")
        low, high = BANDS_GHZ[self.band]
        need(low <= self.frequency_ghz <= high, f"frequency {self.frequency_ghz} GHz lies outside {self.band} band ({low}-{high} GHz)")
        need(self.polarisation in POLARISATIONS, f"polarisation {self.polarisation!r} must be one of {POLARISATIONS}")
        need(isinstance(self.looks, int) and self.looks >= 1, f"looks {self.looks} must be a whole number, 1 or more")
        need(np.isfinite(self.nesz_db), f"nesz_db {self.nesz_db} must be a number")
        for what in ("resolution_m", "spacing_m"):
            pair = getattr(self, what)
            need(isinstance(pair, (tuple, list)) and len(pair) == 2, f"{what} {pair} must be (range, azimuth)")
            need(all(np.isfinite(value) and value > 0 for value in pair), f"{what} {pair} must be positive")
            object.__setattr__(self, what, tuple(float(value) for value in pair))
        for axis, resolution, spacing in zip(("range", "azimuth"), self.resolution_m, self.spacing_m):
            # the band 'broadening / resolution' may fill the sampling rate '1 / spacing', no more (Nyquist)
            finest = speckle.broadening(self.window) * spacing
            need(
                resolution >= 0.999 * finest,
                f"{axis} resolution {resolution} m is finer than a spacing of {spacing} m carries with window "
                f"{self.window!r}; use at least {finest:.3f} m or a finer spacing",
            )

    @property
    def wavelength_m(self) -> float:
        """Carrier wavelength in metres."""
        return SPEED_OF_LIGHT / (self.frequency_ghz * 1e9)

    def scaled(self, factor: float) -> Radar:
        """The same radar with spacing and resolution ``factor`` times as large."""
        pairs = {name: tuple(factor * value for value in getattr(self, name)) for name in ("resolution_m", "spacing_m")}
        return replace(self, **pairs)


# Modes after the operators' product descriptions (TerraSAR-X TX-GS-DD-3302; Sentinel-1 S1-RS-MDA-52-7440; Umbra product guide),
# rounded; range resolutions are on the ground. airborne-x is an idea of a SETHI-like airborne X-band sensor, put on the
# 2 m grid of the 128-pixel patches; its noise floor and Umbra's are this project's choice.
PRESETS = {
    "airborne-x": Radar("airborne-x", "X", 9.6, 40.0, resolution_m=(2.4, 2.4), spacing_m=(2.0, 2.0), nesz_db=-32.0),
    "terrasar-x": Radar("terrasar-x", "X", 9.65, 35.0, resolution_m=(2.1, 3.3), spacing_m=(1.5, 1.5), nesz_db=-22.0),
    "sentinel-1": Radar("sentinel-1", "C", 5.405, 39.0, resolution_m=(20.0, 22.0), spacing_m=(10.0, 10.0), looks=5, nesz_db=-22.0),
    "umbra": Radar("umbra", "X", 9.6, 45.0, geometry="slant", resolution_m=(1.0, 1.0), spacing_m=(0.8, 0.8), nesz_db=-20.0),
}


@dataclass(frozen=True)
class SarImage:
    """One image and the geometry it was formed with; all arrays [rows = azimuth, cols = range].

    ``slc`` complex64, calibrated so that the mean of |slc|² over a homogeneous cover is its σ0 plus noise (the first look where
    there are several); ``intensity`` float32, averaged over looks; ``layover`` and ``shadow`` bool; ``incidence`` float32,
    local incidence in degrees, averaged over what shares a cell, the radar's own where nothing is lit. ``slant_range`` float32
    [cols]: metres from the scene centre at the reference height, growing away from the radar (far field: the same in all rows).
    """

    slc: np.ndarray
    intensity: np.ndarray
    layover: np.ndarray
    shadow: np.ndarray
    incidence: np.ndarray
    slant_range: np.ndarray


@dataclass(frozen=True)
class Reflectivity:
    """What is there to be imaged, before speckle: arrays on the image grid, points at fractional positions."""

    power: np.ndarray  # float64 [rows, cols], σ0 units, textured
    coverage: np.ndarray  # lit surface per cell, 1 on flat lit ground
    incidence: np.ndarray  # degrees
    point_row: np.ndarray  # whole numbers at cell centres
    point_col: np.ndarray
    point_amplitude: np.ndarray  # complex, sqrt(RCS / cell area)


def simulate(scene: Scene, radar: Radar, seed: int) -> SarImage:
    """Form the SAR image of a scene.

    With geometry "ground" and the scene's own spacing the image lies on the scene's grid: flat ground at the median height
    maps to itself. Any other spacing or "slant" resamples, keeping energy. Deterministic in (scene, radar, seed); a
    mirrored scene seen from the other side gives the mirrored image.

    Raises
    ------
    InputError
        A scene no image can be made of.
    """
    rows, cols = _grid(scene, radar)[0]
    if min(rows, cols) < SMALLEST:
        raise InputError(
            f"scene: {scene.height.shape} cells of {scene.spacing} m make only {rows}x{cols} pixels of radar "
            f"{radar.name!r} ({radar.spacing_m[0]} x {radar.spacing_m[1]} m); use a larger scene or a finer radar"
        )
    if seed < 0:
        raise InputError(f"speckle seed is {seed}; give a whole number of 0 or more")
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x5A12]))
    mirrored = radar.look == "right"
    seen = reflectivity(_mirror(scene) if mirrored else scene, radar, rng)
    ratios = tuple(resolution / spacing for resolution, spacing in zip(radar.resolution_m, radar.spacing_m))
    scale = np.sqrt(np.pad(seen.power, MARGIN, mode="symmetric") + 10 ** (radar.nesz_db / 10)).astype(np.float32)
    dark = np.zeros(scale.shape, np.complex64)
    points = speckle.add_points(dark, seen.point_row + MARGIN, seen.point_col + MARGIN, seen.point_amplitude)  # alike in all looks
    first, intensity = None, 0.0
    for _ in range(radar.looks):
        cells = scale * speckle.circular_gaussian(scale.shape, rng) + points
        look = speckle.impulse_response(cells, ratios, radar.window)[MARGIN:-MARGIN, MARGIN:-MARGIN]
        first = look if first is None else first
        intensity = intensity + (look.real**2 + look.imag**2)
    across = (np.arange(first.shape[1]) + 0.5 - first.shape[1] / 2) * radar.spacing_m[0]  # near range first
    slant_range = across * (np.sin(np.deg2rad(radar.incidence_deg)) if radar.geometry == "ground" else 1.0)
    arrays = (
        first,
        intensity / np.float32(radar.looks),
        seen.coverage > LAYOVER_COVERAGE,
        seen.coverage < SHADOW_COVERAGE,
        seen.incidence.astype(np.float32),
        slant_range.astype(np.float32),
    )
    return SarImage(*(np.ascontiguousarray(a[..., ::-1] if mirrored else a) for a in arrays))


def amplitude(image: SarImage) -> np.ndarray:
    """Amplitude float32 [rows, cols]: the square root of the multi-looked intensity."""
    return np.sqrt(image.intensity)


def reflectivity(scene: Scene, radar: Radar, rng: np.random.Generator) -> Reflectivity:
    """Everything up to speckle, for illumination from the left (``radar.look`` is not read)."""
    table = lookup(tuple(COVERS), radar.band, radar.polarisation)
    cot = 1 / np.tan(np.deg2rad(radar.incidence_deg))
    shape, factor, range_factor = _grid(scene, radar)
    rows = scene.height.shape[0]
    scene, near = _widen(scene, cot)
    reference = np.median(scene.ground)
    ground = (scene.ground.astype(np.float64) - reference) / scene.spacing
    height = (scene.height.astype(np.float64) - reference) / scene.spacing
    profile = facets.trace(height, ground, table.depth_m[scene.cover] > 0, facets.STEP_M / scene.spacing, cot)
    surface = facets.surface_strips(profile, np.gradient(ground, axis=0), scene.cover, scene.tint, table, scene.spacing)
    facades, corners, windows = facets.wall_strips(profile, scene.cover, table, scene.spacing, rng)
    metal = facets.metal_glints(scene.points, ground, profile, scene.spacing, rng)
    strips, factors = (surface, facades, corners), (factor, range_factor)
    maps = _maps(strips, near, (rows, shape[1]), shape[0], factors, radar.incidence_deg, rng)
    row, position, rcs = (np.concatenate([getattr(windows, n), getattr(metal, n)]) for n in ("row", "position", "rcs"))
    row, position, rcs = (values[rcs > 0] for values in (row, position - near, rcs))
    slant_m = position * scene.spacing * np.sin(np.deg2rad(radar.incidence_deg))
    phase = np.exp(-4j * np.pi / radar.wavelength_m * slant_m)  # two ways
    cell_area = 1 / (factor * range_factor)  # on the ground, in scene cells
    return Reflectivity(*maps, row * factor - 0.5, position * range_factor - 0.5, np.sqrt(rcs / cell_area) * phase)


def _widen(scene: Scene, cot: float) -> tuple[Scene, int]:
    """Mirror the scene at its near and far border, as far as heights reach across it; (scene, cells added at the near side).

    Without it the far border would be empty where what lies behind leans into the image, and nothing outside would cast shadows.
    """
    relief = (scene.height - np.median(scene.ground)) * (cot / scene.spacing)
    low, high = BORDER
    most = min(high, scene.height.shape[1])
    near, far = (int(np.clip(np.ceil(reach) + 1, min(low, most), most)) for reach in (-relief.min(), relief.max()))
    index = np.pad(np.arange(scene.height.shape[1]), (near, far), mode="symmetric")
    points = np.array(scene.points, np.float32)
    points[:, 1] += near
    return _columns(scene, index, points), near


def _columns(scene: Scene, index: np.ndarray | slice, points: np.ndarray) -> Scene:
    """The scene with other columns, in the order of ``index``, and other points."""
    return replace(scene, points=points, **{name: getattr(scene, name)[:, index] for name in ("height", "ground", "cover", "tint")})


def _grid(scene: Scene, radar: Radar) -> tuple[tuple[int, int], float, float]:
    """Image shape, and image cells per scene cell in azimuth and (projected) range."""
    factor = scene.spacing / radar.spacing_m[1]
    range_factor = scene.spacing / radar.spacing_m[0] * (np.sin(np.deg2rad(radar.incidence_deg)) if radar.geometry == "slant" else 1.0)
    rows, cols = scene.height.shape
    return (int(rows * factor + 1e-6), int(cols * range_factor + 1e-6)), factor, range_factor


def _maps(
    strips: tuple[facets.Strips, ...],
    near: int,
    bins: tuple[int, int],
    rows: int,
    factors: tuple[float, float],
    angle: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accumulate strips over range, then azimuth: (power, coverage, local incidence in degrees) per image cell.

    ``near``: scene cells before the image; ``bins``: (scene rows, image columns); ``factors``: image cells per scene cell in
    azimuth and range; ``angle``: the incidence to report where nothing is lit.
    """
    names = ("row", "start", "stop", "power", "nu", "surface", "incidence")
    row, start, stop, power, nu, surface, incidence = (np.concatenate([getattr(s, n) for s in strips]) for n in names)
    power = power * speckle.gamma_texture(nu, rng)
    start, stop, reach = (start - near) * factors[1], (stop - near) * factors[1], surface * factors[1]
    (image,) = facets.accumulate(row, start, stop, (power,), bins)
    coverage, weighted = facets.accumulate(row, start, start + reach, (surface, surface * incidence), bins)
    scale = factors[0] * factors[1]
    image, coverage, weighted = (_azimuth(a, rows, factors[0]) * scale for a in (image, coverage, weighted))
    empty = coverage < 1e-6
    return image, coverage, np.where(empty, angle, weighted / np.where(empty, 1, coverage))


def _azimuth(rows: np.ndarray, count: int, factor: float) -> np.ndarray:
    """Energy-conserving resampling of the first axis to ``count`` cells, ``factor`` of them per old one."""
    if factor == 1.0 and count == len(rows):
        return rows
    total = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)])
    edge = np.arange(count + 1) / factor
    below = np.minimum(edge.astype(int), len(rows) - 1)
    part = (edge - below)[:, None]
    return np.diff(total[below] * (1 - part) + total[below + 1] * part, axis=0)


def _mirror(scene: Scene) -> Scene:
    """The scene seen in a mirror along range."""
    points = np.array(scene.points, np.float32)
    points[:, 1] = scene.height.shape[1] - 1 - points[:, 1]
    points[:, 4] = -points[:, 4]
    return _columns(scene, slice(None, None, -1), points)
