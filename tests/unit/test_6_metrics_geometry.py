"""Look side read from drawn edges and simulated cities; shadow ends and layover against closed forms of a block."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sarnb.data.amplitude import Normalisation
from sarnb.data.dataset import ImageSet
from sarnb.data.twin import ground_radar
from sarnb.errors import InputError
from sarnb.metrics import geometry
from sarnb.metrics.geometry import block_scene
from sarnb.world.radar import PRESETS, Radar, amplitude, simulate
from sarnb.world.scene import Scene, make_scene


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
    assert geometry.look_correct(features[16:] @ reader, looks[16:]).mean() >= 0.85
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


RADAR = ground_radar("airborne-x")


def imaged(scene: Scene, radar: Radar) -> np.ndarray:
    level = amplitude(simulate(scene, radar, 1))
    return Normalisation.fit([level]).apply(level)


@pytest.mark.parametrize("look", ["left", "right"])
@pytest.mark.parametrize("incidence", [30.0, 40.0, 50.0])
def test_a_shadow_of_another_incidence_ends_where_the_formula_says(look: str, incidence: float) -> None:
    scene, truth = block_scene(30.0, 16, 32, 96), replace(RADAR, look=look, incidence_deg=40.0)
    profile, lines = geometry.shadow_profile(imaged(scene, replace(truth, incidence_deg=incidence)), scene, truth)
    expected = 30.0 * (np.tan(np.radians(incidence)) - np.tan(np.radians(40.0)))
    assert lines == 32
    assert geometry.change_point(profile) * scene.spacing == pytest.approx(expected, abs=1.5 * scene.spacing)


def test_layover_turns_its_sign_with_the_side() -> None:
    scene = make_scene("city", 3)
    image = imaged(scene, RADAR)
    right = geometry.layover_evidence(image, scene, RADAR)
    wrong = geometry.layover_evidence(image, scene, replace(RADAR, look="right" if RADAR.look == "left" else "left"))
    assert right > 0.3 and wrong == pytest.approx(-right)


def test_change_point_by_hand() -> None:
    assert geometry.change_point(np.array([1.0, 1, 1, 9, 9, 9])) == 0
    assert geometry.change_point(np.array([1.0, 1, 9, 9, 9, 9])) == -1
    assert np.isnan(geometry.change_point(np.array([9.0, 8, 7, 6]))), "no dark part before a lit one"


@pytest.fixture
def city(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    scenes = [make_scene(kind, seed) for seed in (3, 4) for kind in ("city", "crop fields")]
    rows = tuple({"label": scene.kind, "look": ("left", "right")[k // 2], "incidence": 40.0} for k, scene in enumerate(scenes))
    images = np.stack([imaged(scene, replace(RADAR, look=row["look"], incidence_deg=40.0)) for scene, row in zip(scenes, rows)])
    monkeypatch.setattr(ImageSet, "heights", lambda self: np.stack([scene.height for scene in scenes]))
    monkeypatch.setattr(ImageSet, "masks", lambda self: np.stack([scene.cover for scene in scenes]))
    return ImageSet(tmp_path, images, rows)


def test_table_of_images_and_of_the_wrong_side(city: ImageSet) -> None:
    scores = geometry.truth_scores(city, "airborne-x")
    fields = scores[scores["class"] == "crop fields"]
    assert fields["layover side"].isna().all(), "fields have no walls, so no figure"
    table = geometry.truth_table(scores, resamples=20).set_index("measure")
    assert table.loc["layover side", "value"] == 1.0 and table.loc["layover side", "n"] == 2
    assert table.loc["shadow contrast", "value"] > 3.0
    assert table.loc["shadow offset, absolute", "value"] <= 6.0
    turned = replace(city, rows=tuple({**row, "look": {"left": "right", "right": "left"}[row["look"]]} for row in city.rows))
    assert geometry.truth_scores(turned, "airborne-x")["layover side"].dropna().tolist() == [0.0, 0.0]


def test_scene_truth_refuses_what_it_cannot_measure(city: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="has no look"):
        geometry.truth_scores(replace(city, rows=({"file_name": "a.png"},) * 4), "airborne-x")
    monkeypatch.setattr(ImageSet, "heights", lambda self: None)
    with pytest.raises(InputError, match="no scene truth"):
        geometry.truth_scores(city, "airborne-x")
