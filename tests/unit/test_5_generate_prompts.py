"""The prompts of the study, and the foundation's own pictures of its classes."""

from __future__ import annotations

import numpy as np
from tiny import tiny_pipeline, tiny_set

import sarnb.generate.prompts as module
from sarnb.generate.prompts import caption_variants, optical_text, prior_set, prompt_table, wordings
from sarnb.model.strategy import find_strategy
from sarnb.world.captions import noun, prompt
from sarnb.world.scene import CLASSES, COMPOSITIONS


def test_optical_text_of_known_and_own_labels() -> None:
    assert [optical_text(label) for label in CLASSES] == [prompt(label, "optical") for label in CLASSES]
    assert optical_text("sea_ships") == "an aerial photograph of sea ships"


def test_prompts_differ_in_the_modality_words_only() -> None:
    table = prompt_table([*CLASSES, *COMPOSITIONS]).set_index("class")
    assert table["group"].tolist() == ["seen"] * 8 + ["unseen"] * 4 + ["composition"] * 5
    for label, row in table.iterrows():
        assert row["optical"] == f"an aerial photograph of {noun(label)}"
        assert row["radar"] == f"a radar image of {noun(label)}"
        assert row["with side"] == f"a radar image of {noun(label)}, illuminated from the left"
        assert row["with token"] == f"a <SAR> image of {noun(label)}"


def test_groups_of_own_labels_are_taken() -> None:
    table = prompt_table(["water", "city"], {"water": "unseen", "city": "seen"})
    assert table["group"].tolist() == ["unseen", "seen"]


def test_variants_name_the_class_and_tell_what_their_name_says():
    variants = caption_variants("harbour", seed=3)
    assert list(variants) == ["nothing", "radar image of", "<SAR>", "short", "mid", "long", "mid + physics", "long + physics"]
    assert variants["nothing"] == "a harbour" and variants["<SAR>"] == "a <SAR> image of a harbour"
    for name, text in variants.items():
        assert "harbour" in text and ("incidence" in text) == ("physics" in name) and ("resolution" in text) == (name == "long + physics")
    assert caption_variants("river+forest")["nothing"] == "a river through a forest"
    own = caption_variants("sea_ships")
    assert own["nothing"] == "sea ships" and own["short + physics"].endswith("illuminated from the left") and len(own) == 4


# Wordings of a prompt.


def test_wordings_differ_in_the_kind_of_image_only():
    expected = ["a <SAR> image of a city", "a radar image of a city", "an image of a city", "an aerial photograph of a city"]
    for text in expected[:2]:
        assert list(wordings(text).values()) == expected
    assert wordings("ships in a port") == {
        "<SAR> image": "<SAR> image, ships in a port",
        "radar image": "radar image, ships in a port",
        "image": "image, ships in a port",
        "aerial photograph": "aerial photograph, ships in a port",
    }


# The foundation's own pictures: whose classes they show, drawn once.


def test_the_pictures_show_every_class_in_turn_in_optical_words_and_are_drawn_once_for_a_foundation(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PRIOR_PICTURES", 5)
    monkeypatch.setattr(module, "load_set", lambda folder: tiny_set(4) if folder == tmp_path / "test" else None)
    drawn = []

    def generate(pipe, texts, *args, **kwargs):
        drawn.append(texts)
        return np.full((len(texts), 16, 16, 3), len(drawn), np.uint8)

    monkeypatch.setattr(module, "generate", generate)
    pipe, strategy = tiny_pipeline(), find_strategy("hybrid+prior")
    assert prior_set(pipe, find_strategy("hybrid"), tmp_path, tmp_path) is None and not drawn
    prior, again = (prior_set(pipe, strategy, tmp_path, tmp_path) for _ in range(2))
    forest, city = "an aerial photograph of a forest", "an aerial photograph of a city"
    assert prior.captions == again.captions == (forest, city, forest, city, forest) and len(drawn) == 1
    assert len(prior.images) == 5 and np.array_equal(prior.images, again.images)
    assert prior_set(tiny_pipeline(seed=1), strategy, tmp_path, tmp_path).images.max() == 2, "another foundation draws its own"
    assert not list(tmp_path.glob("*.tmp"))
