"""Captions: canonical prompts, real variation, counts that are true, and physics only for the radar."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import pytest

from sarnb.errors import InputError
from sarnb.world.captions import LENGTHS, MODALITIES, caption, noun, prompt
from sarnb.world.scene import CLASSES, COMPOSITIONS, SEASONS, make_scene

RADAR = SimpleNamespace(band="X", look="left", incidence_deg=40.0, resolution_m=(2.0, 2.0))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("city", "optical"), "an aerial photograph of a city"),
        (("city", "sar"), "a radar image of a city"),
        (("crop fields", "sar"), "a radar image of crop fields"),
        (("airport", "sar", RADAR), "a radar image of an airport, illuminated from the left"),
        (("city", "sar", None, "<SAR>"), "a <SAR> image of a city"),
        (("river+forest", "sar"), "a radar image of a river through a forest"),
        (("stadium+forest", "optical"), "an aerial photograph of a stadium beside a forest"),
    ],
)
def test_canonical_prompts(arguments, expected):
    assert prompt(*arguments) == expected


@pytest.mark.parametrize("kind", CLASSES + COMPOSITIONS)
@pytest.mark.parametrize("modality", MODALITIES)
def test_captions_vary_name_the_class_and_stay_short(kind, modality):
    scene = make_scene(kind, 2, 64)
    radar = RADAR if modality == "sar" else None
    words = [w for part in kind.split("+") for w in part.split()]
    for length in LENGTHS:
        texts = {caption(scene, modality, length, radar, seed) for seed in range(120)}
        assert len(texts) >= (4 if length == "short" or len(scene.relations) < 2 else 6)
        for text in texts:
            assert len(text.split()) < 55 and text.isascii() and "  " not in text
            assert all(word in text for word in words)
    short = [caption(scene, modality, "short", radar, seed) for seed in range(120)]
    assert prompt(kind, modality) in short
    assert modality == "optical" or prompt(kind, "sar", RADAR) in short


def test_same_arguments_same_words():
    scene = make_scene("harbour", 9)
    for length in LENGTHS:
        assert caption(scene, "sar", length, RADAR, 4) == caption(scene, "sar", length, RADAR, 4)


def test_radar_captions_tell_the_acquisition_and_no_season():
    right = SimpleNamespace(band="C", look="right", incidence_deg=33.4, resolution_m=(5.0, 20.0))
    scene = make_scene("coast", 1)
    for length in ("mid", "long"):
        for seed in range(40):
            text = caption(scene, "sar", length, right, seed)
            assert "C band, illuminated from the right, incidence 33 degrees" in text
            assert not any(season in text for season in SEASONS)
            assert ("20.0 m resolution" in text) == (length == "long")
            assert "band" not in caption(scene, "sar", length, None, seed)


def test_optical_captions_tell_the_season_and_no_radar():
    scene = make_scene("forest", 1)
    for length in ("mid", "long"):
        for seed in range(40):
            text = caption(scene, "optical", length, RADAR, seed)
            assert text.endswith(f"in {scene.season}") and "band" not in text and "radar" not in text


def test_counts_in_words_are_the_scenes_counts():
    numbers = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    for n in range(1, 13):
        scene = dataclasses.replace(make_scene("harbour", 0, 64), counts={"ships": n}, relations=())
        text = caption(scene, "sar", "long", RADAR)
        assert re.search(rf"with {numbers[n - 1]} ship{'s' if n > 1 else ''}\b", text)
    scene = dataclasses.replace(scene, counts={"ships": 60})
    assert "dozens of ships" in caption(scene, "sar", "long", RADAR)
    scene = dataclasses.replace(scene, counts={"ships": 0})
    assert "no ships" not in caption(scene, "sar", "long", RADAR) and "with" not in caption(scene, "sar", "mid")


def test_bad_input_is_one_clear_error():
    scene = make_scene("city", 0, 32)
    with pytest.raises(InputError, match="lidar"):
        caption(scene, "lidar", "short")
    with pytest.raises(InputError, match="huge"):
        caption(scene, "sar", "huge")
    with pytest.raises(InputError, match="village"):
        prompt("village", "sar")
    with pytest.raises(InputError, match="moon"):
        noun("city+moon")
