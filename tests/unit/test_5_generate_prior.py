"""The foundation's own pictures: whose classes they show, drawn once."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny_pipeline, tiny_set

import sarnb.generate.prior as module
from sarnb.generate.prior import draw_prior, prior_prompts, prior_set
from sarnb.model.strategy import find_strategy


def test_all_classes_take_turns_in_optical_words():
    texts = prior_prompts(["airport", "river+forest", "sea_ships"], 5)
    assert texts[0] == "an aerial photograph of an airport" and texts[1] == "an aerial photograph of a river through a forest"
    assert texts[2] == "an aerial photograph of sea ships" and texts[3] == texts[0]
    assert not any("radar" in text for text in texts)


def test_pictures_are_drawn_once_for_a_foundation(monkeypatch, tmp_path):
    first = draw_prior(tiny_pipeline(), ["city"], 3, tmp_path, steps=2)
    assert first.images.shape == (3, 16, 16, 3) and len(first.captions) == 3

    def drawn(*args, **kwargs):
        raise AssertionError("drawn again")

    monkeypatch.setattr(module, "generate", drawn)
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
