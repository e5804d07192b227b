"""Hard negative captions: false of the scene in exactly one fact, and of every fact that the caption tells."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from sarnb.errors import InputError
from sarnb.world.captions import LENGTHS, MODALITIES, caption
from sarnb.world.hard_negatives import (
    FACTS,
    OBJECTS,
    hard_negative,
    hard_negative_table,
    hard_negatives,
    mirror_table,
    mirrored_caption,
)
from sarnb.world.scene import CLASSES, COMPOSITIONS, make_scene

RADAR = SimpleNamespace(band="X", look="left", incidence_deg=40.0, resolution_m=(2.0, 2.0))
WORDS = {  # the numbers that a wording of a count may mean, written out independently of the code
    **{word: range(n, n + 1) for n, word in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), start=1)},
    "about fifteen": range(13, 18),
    "about twenty": range(18, 25),
    "dozens of": range(25, 100),
    "over a hundred": range(100, 10**6),
}


def scene_captions(modality):
    """(scene, caption) of all kinds, several wordings each."""
    for kind in CLASSES + COMPOSITIONS:
        for number in range(3):
            scene = make_scene(kind, number, 64)
            for seed in range(6):
                yield scene, caption(scene, modality, LENGTHS[seed % 3], RADAR if modality == "sar" else None, seed)


def counts_told(text):
    """Numbers a caption gives for each object it counts."""
    found = re.findall(rf"\b({'|'.join(WORDS)}) (\w+)", text)
    return {noun if noun in OBJECTS else noun + "s": WORDS[words] for words, noun in found}


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_hard_negative_is_false_of_the_scene_in_its_one_fact(modality):
    seen = dict.fromkeys(FACTS, 0)
    for scene, text in scene_captions(modality):
        for fact in FACTS:
            wrong = hard_negative(text, fact, seed=1)
            if wrong is None:
                continue
            seen[fact] += 1
            before, after = counts_told(text), counts_told(wrong)
            assert all(scene.counts[name] in numbers for name, numbers in before.items())
            false_counts = [name for name in before if scene.counts[name] not in after[name]]
            sides = set(re.findall(r"(?:from|radar on) the (left|right)", wrong))
            assert before.keys() == after.keys() and len(false_counts) == (fact == "count")
            assert sides <= ({"right"} if fact == "side" else {"left"})
            if fact == "relation":
                told = [re.sub(r"\b(?:and|with) ", "", relation) for relation in scene.relations]
                assert sum(part in text and part not in wrong for part in told) == 1, (text, wrong)
                assert re.sub(r"north|south|east|west|-", "", wrong).split()[:3] == re.sub(r"north|south|east|west|-", "", text).split()[:3]
    assert seen["count"] > 20 and seen["relation"] > 20 and (seen["side"] > 100) == (modality == "sar")


def test_shadows_turn_with_the_radar():
    text = "a radar image of a city, viewed from the left with shadows to the right"
    assert hard_negative(text, "side") == "a radar image of a city, viewed from the right with shadows to the left"
    assert hard_negative(hard_negative(text, "side"), "side") == text


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("with one ship", {"with two ships", "with three ships"}),
        ("with two aircraft", {"with one aircraft", "with three aircraft", "with four aircraft"}),
        ("with over a hundred houses", {"with about twenty houses", "with dozens of houses"}),
        ("flowing east to west", {"flowing north to south"}),
        ("flowing north-west to south-east", {"flowing north-east to south-west"}),
        ("with the sea to the north-east", {f"with the sea to the {s}" for s in ("south-east", "south-west", "north-west")}),
        ("along curved streets", {"along straight streets"}),
        ("a stadium with stands close to the pitch", {"a stadium with a running track around the pitch"}),
    ],
)
def test_the_alternatives_of_a_fact(text, allowed):
    assert {wrong for seed in range(60) for wrong in hard_negatives(text, 1, seed)} == allowed


def test_every_counted_object_of_the_world_is_known():
    counted = {name for kind in CLASSES for seed in range(6) for name in make_scene(kind, seed, 64).counts}
    assert counted <= set(OBJECTS)


def test_the_table_holds_each_caption_once_and_nothing_for_a_bare_one():
    bare, told = "a radar image of a forest", "a radar image of a harbour with two piers, illuminated from the right"
    table = hard_negative_table([bare, told, bare], draws=3)
    assert list(table) == [bare, told] and table[bare] == ()
    assert told not in table[told] and len(set(table[told])) == len(table[told]) >= 2
    assert hard_negative_table([told], draws=3)[told] == table[told]


def test_an_unknown_fact_is_refused():
    with pytest.raises(InputError, match="season"):
        hard_negative("a city", "season")


def test_a_mirrored_picture_has_its_own_caption():
    pairs = dict(
        [
            (
                "a river flowing north-west to south-east, with the radar on the left",
                "a river flowing north-east to south-west, with the radar on the right",
            ),
            (
                "a forest with a track running east to west, seen from the right with shadows to the left",
                "a forest with a track running east to west, seen from the left with shadows to the right",
            ),
            (
                "mountains with ridges running north to south, viewed from the left",
                "mountains with ridges running north to south, viewed from the right",
            ),
            (
                "a coast with the sea to the south-west, viewed from the right",
                "a coast with the sea to the south-east, viewed from the left",
            ),
        ]
    )
    for text, turned in pairs.items():
        assert mirrored_caption(text) == turned and mirrored_caption(turned) == text
    bare = "a coast with the sea to the east"
    assert mirrored_caption(bare) is None and mirror_table([*pairs, bare, *pairs]) == pairs


def test_mirroring_twice_changes_no_caption_of_the_world():
    told = [text for _, text in scene_captions("sar") if mirrored_caption(text)]
    assert len(told) > 200 and all(mirrored_caption(mirrored_caption(text)) == text for text in told)
    assert all(counts_told(mirrored_caption(text)) == counts_told(text) for text in told)
