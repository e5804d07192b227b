"""The foundation's own pictures: whose classes they show, drawn once."""

from __future__ import annotations

import os
import time

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


def test_of_several_processes_one_draws(monkeypatch, tmp_path):
    """Two processes that start at the same moment: each tells by a file of its own that it drew."""
    start, drawn = tmp_path / "start", tmp_path / "drawn"
    drawn.mkdir()
    read, write = os.pipe()

    def generate(pipe, texts, *args, **kwargs):
        (drawn / str(os.getpid())).touch()
        time.sleep(0.3)  # long enough for the other to arrive
        return np.full((len(texts), 16, 16, 3), os.getpid() % 251, np.uint8)

    monkeypatch.setattr(module, "generate", generate)
    monkeypatch.setattr(module, "foundation_fingerprint", lambda pipe: "x")
    children = []
    for _ in range(2):
        if (child := os.fork()) == 0:
            os.close(write)
            os.read(read, 1)  # returns when the parent closes its end
            try:
                images = draw_prior(None, ["city"], 3, start).images
                os._exit(0 if len(images) == 3 else 1)
            except BaseException:
                os._exit(2)
        children.append(child)
    os.close(write)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    os.close(read)
    assert len(list(drawn.iterdir())) == 1 and [path.name for path in start.glob("*/*.npy")] == ["images.npy"]


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
