"""Shifts of text embeddings: against vectors whose angle and length are known."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import tiny_pipeline

import sarnb.model.inspect as module
from sarnb.errors import InputError
from sarnb.model.inspect import text_shift, token_change, wording_gap


def test_nothing_changed_is_zero_and_one():
    pipe = tiny_pipeline()
    table = text_shift(pipe, pipe, ["city", "forest"], {"radar": ["a radar image of a city", "forest"], "optical": ["city", "a forest"]})
    assert table["pooled cosine"].tolist() == pytest.approx([1.0] * 4) and table["token change"].tolist() == [0.0] * 4
    assert table["prompt"].tolist() == ["radar", "radar", "optical", "optical"] and table["class"].tolist() == ["city", "forest"] * 2


def test_known_vectors(monkeypatch):
    before, after = tiny_pipeline(), tiny_pipeline()

    def encode(pipe, prompts):
        hidden = torch.ones(len(prompts), 16, 2)
        angle = 0.0
        if pipe is after:  # 3 tokens of "city" with start and end grow by a half; what is behind them is padding
            hidden[:, :3] *= 1.5
            hidden[:, 3:] *= 100
            angle = math.pi / 3
        return hidden, torch.tensor([[math.cos(angle), math.sin(angle)]]).repeat(len(prompts), 1) * 7

    monkeypatch.setattr(module, "encode_prompts", encode)
    monkeypatch.setattr("sarnb.model.inspect.encode_prompts", encode)
    assert token_change(before, after, ["city", "forest"]) == pytest.approx([0.5, 0.5])
    assert text_shift(before, after, ["c"], {"radar": ["city"]})["pooled cosine"].tolist() == pytest.approx([0.5])


def test_the_gap_between_wordings_is_the_cosine_of_their_pooled_vectors():
    pipe = tiny_pipeline()
    table = wording_gap({"before": pipe, "after": pipe}, ["city"], ["radar city"], ["image of a city"])
    pooled = [module.encode_prompts(pipe, [text])[1] for text in ("radar city", "image of a city")]
    expected = float(torch.nn.functional.cosine_similarity(*pooled).detach())
    assert table["cosine"].tolist() == pytest.approx([expected] * 2, abs=1e-6) and table["model"].tolist() == ["before", "after"]
    with pytest.raises(InputError, match="2 prompts of wording first for 1 classes"):
        wording_gap({"before": pipe}, ["city"], ["a", "b"], ["c"])
