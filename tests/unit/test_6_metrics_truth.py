"""Shadow ends and layover against closed forms of a block, and against scenes with the side told wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sarnb.data.amplitude import Normalisation
from sarnb.data.dataset import ImageSet
from sarnb.data.sideview import block_scene
from sarnb.data.twin import ground_radar
from sarnb.errors import InputError
from sarnb.metrics import geometry as scene_truth
from sarnb.world.radar import Radar, amplitude, simulate
from sarnb.world.scene import Scene, make_scene

RADAR = ground_radar("airborne-x")


def imaged(scene: Scene, radar: Radar) -> np.ndarray:
    level = amplitude(simulate(scene, radar, 1))
    return Normalisation.fit([level]).apply(level)


@pytest.mark.parametrize("look", ["left", "right"])
@pytest.mark.parametrize("incidence", [30.0, 40.0, 50.0])
def test_a_shadow_of_another_incidence_ends_where_the_formula_says(look: str, incidence: float) -> None:
    scene, truth = block_scene(30.0, 16, 32, 96), replace(RADAR, look=look, incidence_deg=40.0)
    profile, lines = scene_truth.shadow_profile(imaged(scene, replace(truth, incidence_deg=incidence)), scene, truth)
    expected = 30.0 * (np.tan(np.radians(incidence)) - np.tan(np.radians(40.0)))
    assert lines == 32
    assert scene_truth.change_point(profile) * scene.spacing == pytest.approx(expected, abs=1.5 * scene.spacing)


def test_layover_turns_its_sign_with_the_side() -> None:
    scene = make_scene("city", 3)
    image = imaged(scene, RADAR)
    right = scene_truth.layover_evidence(image, scene, RADAR)
    wrong = scene_truth.layover_evidence(image, scene, replace(RADAR, look="right" if RADAR.look == "left" else "left"))
    assert right > 0.3 and wrong == pytest.approx(-right)


def test_change_point_by_hand() -> None:
    assert scene_truth.change_point(np.array([1.0, 1, 1, 9, 9, 9])) == 0
    assert scene_truth.change_point(np.array([1.0, 1, 9, 9, 9, 9])) == -1
    assert np.isnan(scene_truth.change_point(np.array([9.0, 8, 7, 6]))), "no dark part before a lit one"


@pytest.fixture
def city(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    scenes = [make_scene(kind, seed) for seed in (3, 4) for kind in ("city", "crop fields")]
    rows = tuple({"file_name": f"{k}.png", "look": ("left", "right")[k // 2], "incidence": 40.0} for k in range(4))
    images = np.stack([imaged(scene, replace(RADAR, look=row["look"], incidence_deg=40.0)) for scene, row in zip(scenes, rows)])
    monkeypatch.setattr(ImageSet, "heights", lambda self: np.stack([scene.height for scene in scenes]))
    monkeypatch.setattr(ImageSet, "masks", lambda self: np.stack([scene.cover for scene in scenes]))
    return ImageSet(tmp_path, tuple(row["file_name"] for row in rows), images, ("",) * 4, ("city", "crop fields") * 2, rows)


def test_table_of_images_and_of_the_wrong_side(city: ImageSet) -> None:
    scores = scene_truth.truth_scores(city, "airborne-x")
    fields = scores[scores["class"] == "crop fields"]
    assert fields["layover side"].isna().all(), "fields have no walls, so no figure"
    table = scene_truth.truth_table(scores, resamples=20).set_index("measure")
    assert table.loc["layover side", "value"] == 1.0 and table.loc["layover side", "n"] == 2
    assert table.loc["shadow contrast", "value"] > 3.0
    assert table.loc["shadow offset, absolute", "value"] <= 6.0
    turned = replace(city, rows=tuple({**row, "look": {"left": "right", "right": "left"}[row["look"]]} for row in city.rows))
    assert scene_truth.truth_scores(turned, "airborne-x")["layover side"].dropna().tolist() == [0.0, 0.0]


def test_bad_input(city: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="tells no look"):
        scene_truth.truth_scores(replace(city, rows=({"file_name": "a.png"},) * 4), "airborne-x")
    monkeypatch.setattr(ImageSet, "heights", lambda self: None)
    with pytest.raises(InputError, match="no scene truth"):
        scene_truth.truth_scores(city, "airborne-x")
