"""Every preset on the common ground grid: geometry, resolution and noise as the sensor has them, speckle of its own."""

from __future__ import annotations

import numpy as np
import pytest

from sarnb.data.twin import GROUND_SPACING_M, ground_radar, sample_radar, satellite_radar, speckle_seed, twin_sample
from sarnb.errors import InputError
from sarnb.world.backscatter import CODE
from sarnb.world.radar import PRESETS, amplitude, simulate
from sarnb.world.scene import Scene

SIZE = 48


def flat_field(size: int = 128) -> Scene:
    """Level grass: what varies in its images is speckle alone."""
    zero = np.zeros((size, size), np.float32)
    cover = np.full((size, size), CODE["grass"], np.uint8)
    return Scene("crop fields", zero, zero, cover, zero, np.zeros((0, 5), np.float32), GROUND_SPACING_M, "summer")


def view(kind: str, seed: int, sensor: str) -> np.ndarray:
    """The scene through a preset, as the data set of that sensor has it: amplitude [64, 64]."""
    return twin_sample(kind, seed, sample_radar(ground_radar(sensor), seed, 0), 64).sar


def width_at_half(correlation: np.ndarray) -> float:
    """The lag, in cells, at which a falling correlation crosses one half."""
    after = int(np.argmax(correlation < 0.5))
    high, low = correlation[after - 1], correlation[after]
    return after - 1 + (high - 0.5) / (high - low)


@pytest.mark.parametrize("sensor", PRESETS)
def test_every_preset_lies_on_the_ground_grid(sensor: str) -> None:
    radar, preset = ground_radar(sensor), PRESETS[sensor]
    assert radar.geometry == "ground" and radar.spacing_m == (GROUND_SPACING_M, GROUND_SPACING_M)
    for name in ("name", "band", "frequency_ghz", "incidence_deg", "looks", "nesz_db", "polarisation"):
        assert getattr(radar, name) == getattr(preset, name)
    assert all(mine >= theirs for mine, theirs in zip(radar.resolution_m, preset.resolution_m))
    sample = twin_sample("city", 3, sample_radar(radar, 3, 1), SIZE)
    assert sample.sar.shape == (SIZE, SIZE) and sample.sar.dtype == np.float32 and sample.sar.min() >= 0
    assert sample.row["look"] == "right" and sample.row["sensor"] == sensor


def test_coarse_resolutions_are_kept_and_fine_ones_are_cut_to_the_grid() -> None:
    assert ground_radar("sentinel-1").resolution_m == PRESETS["sentinel-1"].resolution_m
    assert ground_radar("airborne-x") == PRESETS["airborne-x"]
    assert ground_radar("umbra").resolution_m == pytest.approx((1.1875 * 2, 1.1875 * 2), rel=1e-3)  # Taylor, -35 dB, nbar 5
    assert ground_radar("terrasar-x").resolution_m == pytest.approx((1.1875 * 2, 3.3), rel=1e-3)
    with pytest.raises(InputError, match="unknown sensor 'radarsat'"):
        ground_radar("radarsat")


def test_sentinel_1_is_as_coarse_in_the_image_as_its_resolution_says() -> None:
    """Speckle correlates over the resolution: about ten cells for Sentinel-1 at 2 m, about one for the airborne radar."""
    widths = {}
    for sensor in ("airborne-x", "sentinel-1"):
        slc = simulate(flat_field(), ground_radar(sensor), 1).slc
        correlation = [abs(np.vdot(slc[:, : 128 - lag], slc[:, lag:])) / np.sum(abs(slc[:, lag:]) ** 2) for lag in range(30)]
        widths[sensor] = width_at_half(np.array(correlation))
    ratio = PRESETS["sentinel-1"].resolution_m[0] / PRESETS["airborne-x"].resolution_m[0]
    assert widths["sentinel-1"] / widths["airborne-x"] == pytest.approx(ratio, rel=0.2)


def test_the_satellite_view_averages_four_looks() -> None:
    """Coefficient of variation of the intensity is 1 / sqrt(looks): measured on level grass, with its own texture added."""
    cells = simulate(flat_field(512), satellite_radar("left"), 2).intensity[::2, ::2]
    one = simulate(flat_field(512), ground_radar("airborne-x"), 2).intensity[::3, ::3]
    assert cells.std() / cells.mean() == pytest.approx(0.5, abs=0.06)
    assert one.std() / one.mean() > 0.95


def test_the_satellite_view_is_coarse_and_depends_on_the_side_only() -> None:
    radar = satellite_radar("right")
    assert radar.look == "right" and radar.spacing_m == (8.0, 8.0) and min(radar.resolution_m) > 8.0
    assert radar.nesz_db == PRESETS["terrasar-x"].nesz_db
    samples = [twin_sample("river", 4, sample_radar(ground_radar(sensor), 4, 0), SIZE) for sensor in ("airborne-x", "sentinel-1")]
    assert np.array_equal(samples[0].satellite, samples[1].satellite)


def test_two_sensors_do_not_share_their_speckle() -> None:
    views = {sensor: [np.log(view("crop fields", seed, sensor) + 1e-6) for seed in range(4)] for sensor in ("airborne-x", "umbra")}
    together = [np.corrcoef(np.diff(a).ravel(), np.diff(b).ravel())[0, 1] for a, b in zip(*views.values())]
    assert np.mean(together) < 0.15  # with one seed for both it is 0.5
    seeds = {speckle_seed(seed, sensor) for sensor in (*PRESETS, "satellite") for seed in (0, 1, 2**48 - 1)}
    assert len(seeds) == 3 * (len(PRESETS) + 1)


def test_views_are_of_one_scene() -> None:
    """A coarse view of the scene agrees in the large with the fine ones, and not with those of another scene."""

    def coarse(view: np.ndarray) -> np.ndarray:
        return np.log((view**2).reshape(4, 16, 4, 16).mean(axis=(1, 3))).ravel()

    sensors = ("airborne-x", "umbra", "sentinel-1")
    views = [{sensor: coarse(view("coast", seed, sensor)) for sensor in sensors} for seed in range(4)]
    same = [np.corrcoef(v["airborne-x"], v[other])[0, 1] for v in views for other in sensors[1:]]
    assert np.mean(same) > 0.7


def test_unknown_kinds_and_sensors() -> None:
    with pytest.raises(InputError, match="moon"):
        view("moon", 0, "umbra")
    with pytest.raises(InputError, match="unknown sensor 'ers'"):
        view("city", 0, "ers")
    with pytest.raises(InputError, match="the sensor 'ers'"):
        speckle_seed(0, "ers")


def test_amplitude_is_the_root_of_the_intensity() -> None:
    image = simulate(flat_field(32), ground_radar("umbra"), 0)
    np.testing.assert_allclose(amplitude(image) ** 2, image.intensity, rtol=1e-5)
