"""The prompts of the study, and the foundation's own pictures of its classes."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
from tiny import tiny_pipeline, tiny_set

import sarnb.generate.prior as module
from sarnb.generate.prior import draw_prior, prior_prompts, prior_set
from sarnb.generate.prompts import caption_variants, optical_text, prompt_table, wordings
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


def test_all_classes_take_turns_in_optical_words():
    texts = prior_prompts(["airport", "river+forest", "sea_ships"], 5)
    assert texts[0] == "an aerial photograph of an airport" and texts[1] == "an aerial photograph of a river through a forest"
    assert texts[2] == "an aerial photograph of sea ships" and texts[3] == texts[0]
    assert not any("radar" in text for text in texts)


def test_pictures_are_drawn_once_for_a_foundation(monkeypatch, tmp_path):
    first = draw_prior(tiny_pipeline(), ["city"], 3, tmp_path, steps=2)
    assert first.images.shape == (3, 16, 16, 3) and len(first.captions) == 3

    monkeypatch.setattr(module, "generate", Mock(side_effect=AssertionError("drawn again")))
    assert np.array_equal(draw_prior(tiny_pipeline(), ["city"], 3, tmp_path, steps=2).images, first.images)
    with pytest.raises(AssertionError, match="drawn again"):
        draw_prior(tiny_pipeline(seed=1), ["city"], 3, tmp_path, steps=2)
    assert not list(tmp_path.glob("*.tmp"))


def test_the_set_of_a_strategy_shows_every_class_and_is_the_same_for_trials_and_training(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PRIOR_PICTURES", 5)
    monkeypatch.setattr(module, "load_set", lambda folder: tiny_set(4) if folder == tmp_path / "test" else None)
    drawn = []

    def generate(pipe, texts, *args, **kwargs):
        drawn.append(texts)
        return np.zeros((len(texts), 16, 16, 3), np.uint8)

    monkeypatch.setattr(module, "generate", generate)
    pipe = tiny_pipeline()
    assert prior_set(pipe, find_strategy("hybrid"), tmp_path, tmp_path) is None and not drawn
    prior = prior_set(pipe, find_strategy("hybrid+prior"), tmp_path, tmp_path)
    assert prior.captions == tuple(prior_prompts(["forest", "city"], 5)) and len(prior.images) == 5
    again = prior_set(pipe, find_strategy("hybrid+prior"), tmp_path, tmp_path)
    assert again.captions == prior.captions and len(drawn) == 1
