"""Attention maps: shares of one, the picture unchanged, and a word found where the attention was put."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline, tiny_tokenizer

from sarnb.errors import InputError
from sarnb.generate.attention import AttentionRecord, phrase_map, record_attention
from sarnb.generate.sample import generate

PROMPTS = ["a radar image of a city", "city"]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def drawn(pipe, prompts, steps: int, guidance: float):
    """Images, and the maps of the half of the batch that has the prompts."""
    with record_attention(pipe.unet) as record:
        images = generate(pipe, prompts, [1, 2][: len(prompts)], steps, guidance, precision="fp32")
    return images, record.maps(4)[-len(prompts) :]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_maps_are_shares_and_the_picture_is_the_same(pipe, guidance):
    images, maps = drawn(pipe, PROMPTS, 2, guidance)
    assert maps.shape == (2, 16, 4, 4) and (maps >= 0).all()
    np.testing.assert_allclose(maps.sum(axis=1), 1.0, atol=1e-5)
    plain = generate(pipe, PROMPTS, [1, 2], 2, guidance, precision="fp32")
    assert np.abs(plain.astype(int) - images).max() <= 1
    assert np.abs(maps[0] - maps[1]).max() > 1e-4, "other words, other attention"


def test_the_maps_at_the_end_of_the_batch_are_those_with_the_prompt(pipe):
    _, alone = drawn(pipe, PROMPTS[:1], 1, 1.0)  # no guidance: the UNet is called with the prompt only
    _, guided = drawn(pipe, PROMPTS[:1], 1, 3.0)  # one step: both see the same noise
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
    maps = np.arange(16 * 4, dtype=float).reshape(16, 2, 2)
    np.testing.assert_array_equal(phrase_map(tokenizer, "a radar image of a city", maps, "radar image"), maps[2] + maps[3])
    np.testing.assert_array_equal(phrase_map(tokenizer, "a radar image of a city", maps, "city"), maps[6])
    assert phrase_map(tokenizer, "a radar image of a city", maps, "forest") is None
