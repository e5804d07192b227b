"""Look side read from drawn edges with shadows and from simulated cities of both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sarnb.data.amplitude import Normalisation
from sarnb.errors import InputError
from sarnb.metrics import geometry
from sarnb.world.radar import PRESETS, amplitude, simulate
from sarnb.world.scene import make_scene


def buildings(count: int, seed: int = 0) -> np.ndarray:
    """Speckled ground with bright edges, each followed on its right by a dark shadow (illumination from the left)."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        level = np.full((64, 64), 30.0)
        for row, col in rng.integers(2, 48, (8, 2)):
            level[row : row + 10, col : col + 2] = 200
            level[row : row + 10, col + 2 : col + 8] = 5
        images.append(level * rng.rayleigh(0.8, level.shape))
    return np.clip(images, 0, 255).astype(np.uint8)


def test_bright_edge_then_shadow_is_left() -> None:
    images = buildings(6)
    assert (geometry.look_side(images) > 0.2).all()
    np.testing.assert_allclose(geometry.look_side(images[:, :, ::-1]), -geometry.look_side(images), atol=1e-5)


def test_features_ignore_top_and_bottom_and_constant_images() -> None:
    images = buildings(2)
    np.testing.assert_allclose(geometry.side_features(images[:, ::-1]), geometry.side_features(images), atol=1e-5)
    assert not geometry.side_features(np.full((1, 32, 32), 90, np.uint8)).any()


def test_asymmetry_by_hand() -> None:
    image = np.full((9, 40), 20, np.uint8)
    image[:, 10], image[:, 14] = 250, 0  # one bright column, dark four columns to its right
    features = geometry.side_features(image[None])[0].reshape(2, 3, 2, len(geometry.LAGS))
    assert features[0, 2, 1, geometry.LAGS.index(4)] == pytest.approx(1.0, abs=1e-3)
    assert features[0, 2, 1, geometry.LAGS.index(3)] == 0.0


def test_reader_on_simulated_cities() -> None:
    radars = [replace(PRESETS["airborne-x"], look=look) for look in ("left", "right")]
    scenes = [make_scene("city", 500 + index, size=96) for index in range(16)]
    amplitudes = [amplitude(simulate(scene, radar, 0)) for scene in scenes for radar in radars]
    scale = Normalisation.fit(amplitudes)
    images = np.stack([scale.apply(image) for image in amplitudes])
    looks = ["left", "right"] * len(scenes)
    features = geometry.side_features(images)
    reader = geometry.fit_look_reader(features[:16], looks[:16])
    assert geometry.look_correct(reader.scores(features[16:]), looks[16:]).mean() >= 0.85
    assert geometry.look_correct(geometry.look_side(images), looks).mean() >= 0.65


def test_one_known_side_is_enough_because_of_the_symmetry() -> None:
    images = buildings(20)
    reader = geometry.fit_look_reader(geometry.side_features(images[:10]), ["left"] * 10)
    assert (geometry.look_side(images[10:, :, ::-1], reader) < 0).all()


def test_look_correct() -> None:
    np.testing.assert_array_equal(
        geometry.look_correct(np.array([0.3, 0.3, -0.1, 0.0, 1.0]), ["left", "right", "right", "left", None]), [1, 0, 1, 0.5, np.nan]
    )


def test_bad_input() -> None:
    with pytest.raises(InputError, match="32 needed"):
        geometry.look_side(np.zeros((1, 40, 20), np.uint8))
    with pytest.raises(InputError, match="8 needed"):
        geometry.fit_look_reader(np.zeros((3, 108)), ["left", "right", None])
    with pytest.raises(InputError, match="'up'"):
        geometry.look_correct(np.zeros(1), ["up"])
