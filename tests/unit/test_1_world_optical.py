"""The camera: shadows and shading against geometry, seasons, bytes that repeat; texture pictures against their laws."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sarnb.errors import InputError
from sarnb.world.optical import Sun, cast_shadow, dead_leaves, default_sun, power_law_noise, render_optical, shading, texture_pictures
from sarnb.world.scene import CLASSES, CODE, SEASONS, Scene, make_scene


def flat_scene(height: np.ndarray, cover: str = "concrete", season: str = "summer") -> Scene:
    """A scene of one cover with the given heights [H, W] over level ground."""
    zeros = np.zeros(height.shape, np.float32)
    code = np.full(height.shape, CODE[cover], np.uint8)
    return Scene("city", height.astype(np.float32), zeros, code, zeros, np.zeros((0, 5), np.float32), 1.0, season)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_renders_to_repeatable_bytes(kind):
    scene = make_scene(kind, 6, 64)
    image = render_optical(scene)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and image.std() > 5
    np.testing.assert_array_equal(image, render_optical(scene))


@pytest.mark.parametrize("elevation", [25.0, 40.0, 60.0])
@pytest.mark.parametrize("azimuth", [0.0, 90.0, 180.0, 270.0])
def test_shadow_of_a_block_is_as_long_as_geometry_says(azimuth, elevation):
    height = np.zeros((121, 121), np.float32)
    height[55:66, 55:66] = 20.0
    dark = cast_shadow(height, 1.0, Sun(azimuth, elevation)) > 0
    length = 20.0 / np.tan(np.radians(elevation))
    # Walk away from the sun from the block's middle, starting at its edge.
    away = {0.0: dark[66:, 60], 180.0: dark[54::-1, 60], 90.0: dark[60, 54::-1], 270.0: dark[60, 66:]}[azimuth]
    assert abs(int(away.sum()) - length) <= 1
    assert away[: int(length) - 1].all() and not dark[55:66, 55:66].any()


def test_shadow_agrees_with_a_ray_marched_cell_by_cell():
    rng = np.random.default_rng(5)
    height = (rng.random((24, 24)) * 12).astype(np.float32)
    sun = Sun(137.0, 30.0)
    up, drop = np.radians(sun.azimuth), 2.0 * np.tan(np.radians(sun.elevation))
    expected = np.zeros((24, 24), bool)
    for row in range(24):
        for col in range(24):
            for k in range(1, 24):
                r, q = row + round(-k * np.cos(up)), col + round(k * np.sin(up))
                if 0 <= r < 24 and 0 <= q < 24 and height[r, q] - k * drop > height[row, col] + 1e-4:
                    expected[row, col] = True
    np.testing.assert_array_equal(cast_shadow(height, 2.0, sun) > 1e-4, expected)


@pytest.mark.parametrize("azimuth", [30.0, 200.0])
def test_shading_of_a_tilted_plane_is_lamberts(azimuth):
    east, north = 0.3, -0.2  # metres of rise a metre
    row, col = np.mgrid[:20, :20].astype(np.float32)
    plane = (east * col - north * row).astype(np.float32) * 2.0
    sun = Sun(azimuth, 50.0)
    az, el = np.radians(azimuth), np.radians(50.0)
    normal = np.array([-east, -north, 1]) / np.sqrt(1 + east**2 + north**2)
    light = np.array([np.sin(az) * np.cos(el), np.cos(az) * np.cos(el), np.sin(el)])
    np.testing.assert_allclose(shading(plane, 2.0, sun), normal @ light / np.sin(el), rtol=1e-4)
    np.testing.assert_allclose(shading(0 * plane, 2.0, sun), 1.0, rtol=1e-6)
    assert cast_shadow(0 * plane + 7, 2.0, sun).max() == 0, "flat ground has no shadow"


def test_shadow_is_darker_in_the_picture():
    height = np.zeros((64, 64))
    height[28:36, 28:36] = 15
    scene = flat_scene(height)
    sun = Sun(180.0, 40.0)
    image = render_optical(scene, sun).mean(2)
    assert image[16:26, 30:34].mean() < 0.7 * image[50:60, 30:34].mean()


def test_seasons_change_vegetation_but_not_concrete_much():
    level, sun = np.zeros((32, 32)), Sun(180, 45)
    lawns = {s: render_optical(flat_scene(level, "grass", s), sun).mean((0, 1)) for s in SEASONS}
    slabs = {s: render_optical(flat_scene(level, "concrete", s), sun).mean((0, 1)) for s in SEASONS}
    assert lawns["winter"].mean() > lawns["summer"].mean() + 40  # snow on the ground
    assert lawns["autumn"][0] > lawns["autumn"][1] > lawns["autumn"][2] and lawns["spring"][1] > lawns["spring"][0] + 20
    assert max(np.abs(slabs[s] - slabs["summer"]).max() for s in SEASONS) < 20


def test_default_sun_is_the_scenes_own_and_in_the_southern_sky():
    scene = make_scene("city", 3, 32)
    assert default_sun(scene) == default_sun(scene)
    suns = [default_sun(dataclasses.replace(scene, seed=k)) for k in range(30)]
    assert len({sun.azimuth for sun in suns}) == 30 and all(90 < sun.azimuth < 270 for sun in suns)
    np.testing.assert_array_equal(render_optical(scene), render_optical(scene, default_sun(scene)))


@pytest.mark.parametrize(("azimuth", "elevation"), [(100.0, 0.0), (100.0, 95.0), (float("nan"), 40.0)])
def test_impossible_sun_is_refused(azimuth, elevation):
    with pytest.raises(InputError, match="elevation"):
        Sun(azimuth, elevation)


# Texture pictures against the laws that they are named after.


class FixedSlope:
    """Generator whose first uniform draw is the given spectral slope; the rest is as ever."""

    def __init__(self, slope: float) -> None:
        self.slope, self.rng, self.first = slope, np.random.default_rng(0), True

    def uniform(self, low, high, size=None):
        if self.first:
            self.first = False
            return self.slope
        return 20.0 if size is None else np.full(size, (low + high) / 2)

    def random(self):
        return 0.0

    def standard_normal(self, shape):
        return self.rng.standard_normal(shape)


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_amplitude_spectrum_falls_with_the_drawn_slope(slope):
    picture = power_law_noise(FixedSlope(slope), 256)[..., 0].astype(float)
    power = np.abs(np.fft.fft2(picture - picture.mean())) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    bands = np.geomspace(0.02, 0.3, 8)
    mean = [power[(radius >= low) & (radius < high)].mean() for low, high in zip(bands, bands[1:])]
    centre = np.sqrt(bands[:-1] * bands[1:])
    fitted = -np.polyfit(np.log(centre), 0.5 * np.log(mean), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.12)  # clipping to 8 bits whitens a little


def test_pictures_depend_on_seed_and_index_only():
    long, short = texture_pictures(6, 3, 32), texture_pictures(2, 3, 32)
    assert np.array_equal(long[:2], short) and long.shape == (6, 32, 32, 3) and long.dtype == np.uint8
    assert not np.array_equal(long, texture_pictures(6, 4, 32))


def test_dead_leaves_have_edges_that_hide_one_another():
    pictures = np.stack([dead_leaves(np.random.default_rng(i), 64).astype(float) for i in range(20)])
    steps = np.abs(np.diff(pictures.mean(-1), axis=2)).ravel()
    # Occlusion makes a few large steps among many small ones: far heavier tails than a Gaussian (kurtosis 3).
    assert (steps**4).mean() / (steps**2).mean() ** 2 > 6
