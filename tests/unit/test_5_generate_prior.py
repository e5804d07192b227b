"""The foundation's own pictures: whose classes they show, drawn once."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny_pipeline

import sarnb.generate.prior as module
from sarnb.generate.prior import draw_prior, prior_prompts


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
