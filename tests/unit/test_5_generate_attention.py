"""Attention maps: shares of one, the picture unchanged, and a word found where the attention was put."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline, tiny_tokenizer

from sarnb.errors import InputError
from sarnb.generate.attention import AttentionRecord, draw_with_attention, phrase_map, record_attention, word_places
from sarnb.generate.sample import generate

PROMPTS = ["a radar image of a city", "city"]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_maps_are_shares_and_the_picture_is_the_same(pipe, guidance):
    images, maps = draw_with_attention(pipe, PROMPTS, [1, 2], 2, guidance, precision="fp32")
    assert maps.shape == (2, 16, 4, 4) and (maps >= 0).all()
    np.testing.assert_allclose(maps.sum(axis=1), 1.0, atol=1e-5)
    plain = generate(pipe, PROMPTS, [1, 2], 2, guidance, precision="fp32")
    assert np.abs(plain.astype(int) - images).max() <= 1
    assert np.abs(maps[0] - maps[1]).max() > 1e-4, "other words, other attention"


def test_the_maps_are_those_with_the_prompt(pipe):
    _, alone = draw_with_attention(pipe, PROMPTS[:1], [1], 1, 1.0, precision="fp32")  # no guidance: one question only
    _, guided = draw_with_attention(pipe, PROMPTS[:1], [1], 1, 3.0, precision="fp32")  # one step: both see the same noise
    np.testing.assert_allclose(guided, alone, atol=1e-5)


def test_the_processors_are_put_back(pipe):
    before = {name: type(value) for name, value in pipe.unet.attn_processors.items()}
    with pytest.raises(RuntimeError, match="stop"), record_attention(pipe.unet):
        raise RuntimeError("stop")
    assert {name: type(value) for name, value in pipe.unet.attn_processors.items()} == before


def test_layers_and_calls_are_averaged():
    record = AttentionRecord()
    record.add("small", torch.tensor([[[1.0, 0.0]]]))  # one place, two tokens
    record.add("small", torch.tensor([[[0.0, 1.0]]]))
    record.add("large", torch.tensor([[[1.0, 0.0]] * 4]))
    np.testing.assert_allclose(record.maps(2)[0], [np.full((2, 2), 0.75), np.full((2, 2), 0.25)])
    with pytest.raises(InputError, match="nothing was recorded"):
        AttentionRecord().maps(2)
    record.add("odd", torch.zeros(1, 3, 2))
    with pytest.raises(InputError, match="3 places"):
        record.maps(2)


def test_a_phrase_is_found_in_the_prompt():
    tokenizer = tiny_tokenizer("<|endoftext|>")  # radar, image, of, city and forest are one token each
    assert word_places(tokenizer, "a radar image of a city", "radar image") == [2, 3]
    assert word_places(tokenizer, "a radar image of a city", "city") == [6] and word_places(tokenizer, "city", "forest") == []
    maps = np.arange(16 * 4, dtype=float).reshape(16, 2, 2)
    np.testing.assert_array_equal(phrase_map(tokenizer, "a radar image of a city", maps, "radar image"), maps[2] + maps[3])
    assert phrase_map(tokenizer, "a radar image of a city", maps, "forest") is None
