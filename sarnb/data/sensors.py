"""One scene through several radars: every preset on the common ground grid, and the coarse satellite view beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sarnb.errors import InputError
from sarnb.world.radar import PRESETS, Radar, amplitude, simulate
from sarnb.world.scene import make_scene
from sarnb.world.speckle import broadening

GROUND_SPACING_M = 2.0  # the grid of every data set: the scenes are drawn on it, whichever sensor looks at them
INCIDENCE_STEPS_DEG = (-10.0, 0.0, 10.0)  # about the preset's incidence: a set shows three of them
SATELLITE_FACTOR = 4  # scene cells a cell of the satellite view, along each axis
SATELLITE_LOOKS = 4


def ground_radar(sensor: str) -> Radar:
    """The preset ``sensor`` on the common ground grid, where all radars and the optical image share every pixel.

    The scene and the image then have one extent in metres, so that sets of different sensors show the same scenes. What
    makes the sensor stays: band, polarisation, incidence, looks, noise floor and resolution. A slant-range resolution is
    projected to the ground, r / sin(incidence). A resolution finer than the grid carries (TerraSAR-X, Umbra) becomes the
    finest it carries, 1.19 cells with the Taylor window: the band is cut to the grid, as a processor does, and not
    multi-looked. A coarser one (Sentinel-1) is kept, so its image is oversampled by the impulse response itself instead of
    being enlarged by interpolation. Raises InputError for an unknown preset.
    """
    if sensor not in PRESETS:
        raise InputError(f"unknown sensor '{sensor}'; choose of {', '.join(PRESETS)}")
    radar = PRESETS[sensor]
    across, along = radar.resolution_m
    if radar.geometry == "slant":
        across /= math.sin(math.radians(radar.incidence_deg))
    finest = broadening(radar.window) * GROUND_SPACING_M
    resolution = (max(across, finest), max(along, finest))
    return replace(radar, geometry="ground", resolution_m=resolution, spacing_m=(GROUND_SPACING_M, GROUND_SPACING_M))


def sample_radar(radar: Radar, seed: int, turn: int) -> Radar:
    """The radar of one scene: sides take turns (``turn`` even: left), the incidence is drawn from the seed."""
    step = np.random.default_rng([seed, 1]).choice(INCIDENCE_STEPS_DEG)
    return replace(radar, look=("left", "right")[turn % 2], incidence_deg=float(radar.incidence_deg + step))


def satellite_radar(look: str) -> Radar:
    """The sensor of the satellite view: TerraSAR-X at its own incidence (35 degrees) from the side ``look``.

    Four times coarser than the ground grid (spacing 8 m, resolution 9.5 x 13.2 m in range and azimuth), four looks,
    TerraSAR-X's noise floor. Factor and looks are this project's choice, made so that the view shows where things are
    and not what they look like. It does not depend on the other sensor: sets of several sensors have the same views.
    """
    coarse = ground_radar("terrasar-x").scaled(SATELLITE_FACTOR)
    return replace(coarse, name="satellite", look=look, looks=SATELLITE_LOOKS)


def speckle_seed(seed: int, sensor: str) -> int:
    """Seed for ``simulate`` of the scene ``seed`` (below 2^48) seen by ``sensor``, a preset or "satellite".

    With one seed for all, two sensors would share their speckle, which no two passes do. The first preset has the scene's
    own seed; those of the others lie above all scene seeds. Raises InputError for another name.

    >>> speckle_seed(7, "airborne-x"), speckle_seed(7, "terrasar-x") == 7 + 2**48
    (7, True)
    """
    names = (*PRESETS, "satellite")
    if sensor not in names:
        raise InputError(f"no speckle is set aside for the sensor '{sensor}'; use a radar named {', '.join(names)}")
    return seed + (names.index(sensor) << 48)


def twin_views(
    kind: str, seed: int, sensors: Sequence[str] = tuple(PRESETS), size: int = 128, turn: int = 0
) -> dict[str, np.ndarray]:
    """One scene through several presets: amplitude float32 [size, size] by sensor, all on the ground grid.

    Side and offset of the incidence are those that ``build_twin`` gives the scene (``turn``: see ``sample_radar``), so a
    view equals the amplitude of the same scene in the data set of that sensor. Forming and grid: see ``ground_radar``.
    Raises InputError for an unknown kind or sensor and a size below 32.
    """
    scene = make_scene(kind, seed, size=size, spacing=GROUND_SPACING_M)
    radars = {sensor: sample_radar(ground_radar(sensor), seed, turn) for sensor in sensors}
    return {sensor: amplitude(simulate(scene, radar, speckle_seed(seed, sensor))) for sensor, radar in radars.items()}
