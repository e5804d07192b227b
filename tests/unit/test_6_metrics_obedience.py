"""Obedience to prompts, with judges whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from sarnb.errors import InputError
from sarnb.metrics.prompting import Contrast, obedience_table, parts_found, sea_on_the_left, told_apart
from sarnb.world.optical import render_optical
from sarnb.world.scene import make_scene

CONTRAST = Contrast("red or blue", "red", "blue")
AXES = {"red": 0, "green": 1, "blue": 2}


class ColourJudge:
    """Sees the mean colour and knows three words."""

    def embed_images(self, images, batch_size=64):
        colours = images.reshape(len(images), -1, 3).mean(axis=1)
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)

    def embed_texts(self, captions, batch_size=64):
        return np.eye(3)[[AXES[caption] for caption in captions]]


def _plain(*colours):
    return np.stack([np.broadcast_to(np.array(colour, np.uint8), (8, 8, 3)) for colour in colours])


def test_pictures_of_their_own_prompts_are_told_apart_and_swapped_ones_are_not():
    red, blue = _plain((200, 10, 10), (150, 90, 80)), _plain((10, 10, 200), (90, 80, 150))
    assert told_apart(ColourJudge(), red, blue, CONTRAST).tolist() == [1, 1]
    assert told_apart(ColourJudge(), blue, red, CONTRAST).tolist() == [0, 0]
    assert told_apart(ColourJudge(), red, red, CONTRAST).tolist() == [0.5, 0.5]  # a model that does not listen
    with pytest.raises(InputError, match="same seeds"):
        told_apart(ColourJudge(), red, blue[:1], CONTRAST)


def test_the_sea_lies_where_the_blue_is():
    picture = _plain((200, 180, 140), (200, 180, 140)).copy()
    picture[0, :, :3] = (20, 60, 140)
    picture[1, :, 6:] = (20, 60, 140)
    left, right = sea_on_the_left(picture)
    assert left > 0 > right
    assert sea_on_the_left(picture[:, :, ::-1]) == pytest.approx([-left, -right])


def test_the_sea_of_true_scenes_is_found_on_the_side_that_their_captions_tell():
    sides = {"to the west": 1, "to the east": -1}
    right = []
    for seed in range(40):
        scene = make_scene("coast", seed, size=64)
        told = [sign for words, sign in sides.items() if any(relation.endswith(words) for relation in scene.relations)]
        if told:
            right.append(told[0] * sea_on_the_left(render_optical(scene)[None])[0] > 0)
    assert len(right) >= 5 and all(right)


def test_table_gives_the_share_and_an_interval_around_it():
    table = obedience_table({"all": np.ones(10), "half": np.array([0, 1] * 20)}, 200, 0).set_index("question")
    assert table.loc["all", ["obeyed", "lo", "hi"]].tolist() == [1, 1, 1]
    assert table.loc["half", "obeyed"] == 0.5 and table.loc["half", "lo"] < 0.5 < table.loc["half", "hi"]
    assert table.loc["half", "hi"] - table.loc["half", "lo"] == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, rel=0.25)  # binomial


def test_parts_must_be_among_the_nearest():
    images = _plain((200, 150, 10), (200, 10, 150))
    wanted = {"red": "red", "green": "green", "blue": "blue", "violet": "blue"}
    parts = [("red", "green"), ("red", "green")]
    assert parts_found(ColourJudge(), images, parts, wanted).tolist() == [True, False]
    with pytest.raises(InputError, match="no prompt for yellow"):
        parts_found(ColourJudge(), images, [("yellow",)] * 2, wanted)
