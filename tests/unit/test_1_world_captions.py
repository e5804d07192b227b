"""Captions: canonical prompts, real variation, true counts, physics for the radar; hard negatives, false in one fact only."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import pytest

from sarnb import foundation_path
from sarnb.errors import InputError
from sarnb.world.captions import (
    LENGTHS,
    MODALITIES,
    NEGATIVE_KINDS,
    OBJECTS,
    caption,
    hard_negative,
    hard_negative_table,
    hard_negatives,
    mirror_table,
    mirrored_caption,
    noun,
    prompt,
)
from sarnb.world.radar import PRESETS
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
    assert short == [caption(scene, modality, "short", radar, seed) for seed in range(120)], "the same arguments, the same words"
    assert prompt(kind, modality) in short
    assert modality == "optical" or prompt(kind, "sar", RADAR) in short


def sides_told(text: str) -> tuple[set[str], set[str]]:
    """Where the words say that the radar is, and where that the shadows are."""
    return set(re.findall(r"(?:from|radar on) the (left|right)", text)), set(re.findall(r"shadows (?:to|on) the (left|right)", text))


@pytest.mark.parametrize(("look", "away"), [("left", "right"), ("right", "left")])
def test_radar_captions_tell_the_acquisition_and_no_season(look, away):
    radar = SimpleNamespace(band="C", look=look, incidence_deg=33.4, resolution_m=(5.0, 20.0))
    scene, shadows = make_scene("harbour", 1), 0
    for length in LENGTHS:
        for seed in range(80):
            text = caption(scene, "sar", length, radar, seed)
            side, shadow = sides_told(text)
            assert side == {look} or (length == "short" and not side)
            assert len(re.findall(r"\b(?:left|right)\b", text)) == len(side) + len(shadow), "no other left or right"
            assert shadow <= {away}
            assert not any(season in text for season in SEASONS)
            if length != "short":
                assert text.count("C band") == text.count("band") == 1
                assert re.findall(r"(\d+) degrees", text) == ["33"] and text.count("incidence") == 1
            assert re.findall(r"[\d.]+ m\b", text) == (["20.0 m"] if length == "long" else [])
            assert not {"band", "incidence", "shadows", "left", "right"} & set(caption(scene, "sar", length, None, seed).split())
            shadows += len(shadow)
    assert shadows > 10


@pytest.mark.parametrize(
    "wording",
    [
        "a harbour with three ships, illuminated from the left",
        "a harbour with three ships, seen by radar,",
        "three ships moored at two piers",
        "three ships and two piers",
        "viewed from the left",
        "an X band radar image of",
        "illuminated from the left, a ",
        "with shadows to the right",
        "in a SAR image",
    ],
)
def test_the_grammar_has_these_sentences(wording):
    scene = dataclasses.replace(
        make_scene("harbour", 0, 64),
        counts={"piers": 2, "ships": 3},
        relations=("with container stacks on the quay", "with ships moored at the piers"),
    )
    assert any(wording in caption(scene, "sar", LENGTHS[seed % 3], RADAR, seed) for seed in range(3000))


def test_radar_captions_of_one_scene_hardly_repeat():
    scene = dataclasses.replace(make_scene("harbour", 0, 64), counts={"piers": 2, "ships": 3})
    for length, least in (("short", 60), ("mid", 250), ("long", 250)):
        assert len({caption(scene, "sar", length, RADAR, seed) for seed in range(300)}) >= least


SAID = {  # the numbers that a wording of a count may mean, written out independently of the code
    **{word: range(n, n + 1) for n, word in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), start=1)},
    "about fifteen": range(13, 18),
    "about twenty": range(18, 25),
    "dozens of": range(25, 100),
    "over a hundred": range(100, 10**6),
}


@pytest.mark.parametrize("kind", ["city", "suburb", "industrial", "crop fields", "river", "airport", "harbour", "solar farm"])
def test_every_number_in_a_radar_caption_is_that_of_the_scene(kind):
    reported = 0
    for number in range(8):
        scene = make_scene(kind, number, 64)
        plain = {name: {name, name.removesuffix("s")} for name in scene.counts}
        for seed in range(30):
            text = caption(scene, "sar", "long", RADAR, seed)
            for words, noun_word in re.findall(rf"\b({'|'.join(SAID)}) (\w+)", text):
                (name,) = [name for name in plain if noun_word in plain[name]]  # a number stands before a counted object only
                assert scene.counts[name] in SAID[words], text
                reported += 1
    assert reported > 60


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize(
    ("kind", "name", "one"), [("airport", "runways", "runway"), ("harbour", "ships", "ship"), ("industrial", "sheds", "shed")]
)
def test_what_is_counted_is_named_in_its_number(kind, name, one, modality):
    """Over 1,200 captions of each kind and modality: "a runway" where one is counted, "runways" where several are, else neither."""
    seen = dict.fromkeys((0, 1, 2), 0)
    for number in range(100):
        scene = make_scene(kind, number, 64)
        for text in (caption(scene, modality, LENGTHS[seed % 3], RADAR, seed) for seed in range(12)):
            found = {"several": re.search(rf"\b{name}\b", text), "one": re.search(rf"\b(?:a|one|the)(?: \w+)? {one}\b", text)}
            wanted = {0: (), 1: ("one",)}.get(scene.counts.get(name, 0), ("several",))
            assert not [word for word in found if found[word] and word not in wanted], text
            seen[min(2, scene.counts.get(name, 0))] += bool(found["several"] or found["one"])
    assert seen[0] == 0 and min(seen[1], seen[2]) > 5


def test_radar_captions_fit_the_text_encoders():
    tokenizer = pytest.importorskip("transformers").CLIPTokenizer.from_pretrained(foundation_path() / "tokenizer")
    scenes = [make_scene(kind, number, 64) for kind in CLASSES + COMPOSITIONS for number in range(3)]
    radars = [dataclasses.replace(radar, look="right") for radar in PRESETS.values()]
    texts = {caption(scene, "sar", length, radar, seed) for scene in scenes for length in LENGTHS for seed, radar in enumerate(radars * 3)}
    assert len(texts) > 1300
    assert max(map(len, tokenizer(sorted(texts))["input_ids"])) <= 60
    assert max(len(text.split()) for text in texts) <= 54


def test_optical_captions_tell_the_season_and_no_radar():
    scene = make_scene("forest", 1)
    for length in ("mid", "long"):
        for seed in range(40):
            text = caption(scene, "optical", length, RADAR, seed)
            assert text.endswith(f"in {scene.season}") and "band" not in text and "radar" not in text


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
    with pytest.raises(InputError, match="season"):
        hard_negative("a city", "season")


# Contrary captions: false of the scene in exactly one fact, and of every fact that the caption tells.


def scene_captions(modality):
    """(scene, caption) of all kinds, several wordings each."""
    for kind in CLASSES + COMPOSITIONS:
        for number in range(3):
            scene = make_scene(kind, number, 64)
            for seed in range(6):
                yield scene, caption(scene, modality, LENGTHS[seed % 3], RADAR if modality == "sar" else None, seed)


def counts_told(text):
    """Numbers a caption gives for each object it counts."""
    found = re.findall(rf"\b({'|'.join(SAID)}) (\w+)", text)
    return {noun if noun in OBJECTS else noun + "s": SAID[words] for words, noun in found}


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_hard_negative_is_false_of_the_scene_in_its_one_fact(modality):
    seen = dict.fromkeys(NEGATIVE_KINDS, 0)
    for scene, text in scene_captions(modality):
        for fact in NEGATIVE_KINDS:
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
                reported = [re.sub(r"\b(?:and|with) ", "", relation) for relation in scene.relations]
                assert sum(part in text and part not in wrong for part in reported) == 1, (text, wrong)
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
        ("with over a hundred houses", {"with about fifteen houses", "with about twenty houses"}),
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
    bare, reported = "a radar image of a forest", "a radar image of a harbour with two piers, illuminated from the right"
    table = hard_negative_table([bare, reported, bare], draws=3)
    assert list(table) == [bare, reported] and table[bare] == ()
    assert reported not in table[reported] and len(set(table[reported])) == len(table[reported]) >= 2
    assert hard_negative_table([reported], draws=3)[reported] == table[reported]


def test_a_mirrored_picture_has_its_own_caption():
    befores = (
        "a river flowing north-west to south-east, with the radar on the left",
        "a forest with a track running east to west, seen from the right with shadows to the left",
        "mountains with ridges running north to south, viewed from the left",
        "a coast with the sea to the south-west, viewed from the right",
    )
    afters = (
        "a river flowing north-east to south-west, with the radar on the right",
        "a forest with a track running east to west, seen from the left with shadows to the right",
        "mountains with ridges running north to south, viewed from the right",
        "a coast with the sea to the south-east, viewed from the left",
    )
    pairs = dict(zip(befores, afters))
    for text, turned in pairs.items():
        assert mirrored_caption(text) == turned and mirrored_caption(turned) == text
    bare = "a coast with the sea to the east"
    assert mirrored_caption(bare) is None and mirror_table([*pairs, bare, *pairs]) == pairs


def test_mirroring_twice_changes_no_caption_of_the_world():
    reported = [text for _, text in scene_captions("sar") if mirrored_caption(text)]
    assert len(reported) > 200 and all(mirrored_caption(mirrored_caption(text)) == text for text in reported)
    assert all(counts_told(mirrored_caption(text)) == counts_told(text) for text in reported)
