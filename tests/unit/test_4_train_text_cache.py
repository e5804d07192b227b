"""Cached text embeddings: the right file for the right captions, encoders and tokenizers, whole and mapped, or made anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_pipeline

import sarnb.train.cache as module
from sarnb.train.cache import cache_text, text_cache_bytes

CAPTIONS = ["a radar image of a city", "forest", "a radar image of a forest of a city", "image"]


@pytest.fixture
def encoded(monkeypatch) -> list[list[str]]:
    """The batches of captions that the encoders are asked for."""
    asked: list[list[str]] = []
    encode = module.encode_prompts

    def noted(pipe, prompts):
        asked.append(prompts)
        return encode(pipe, prompts)

    monkeypatch.setattr(module, "encode_prompts", noted)
    return asked


def only_file(folder: Path, name: str = "hidden.npy") -> Path:
    (path,) = folder.glob(f"*/{name}")
    return path


def nudge(encoder) -> None:
    (place,) = [p for name, p in encoder.named_parameters() if "position_embedding" in name]
    with torch.no_grad():
        place[0, 3] += 1e-3


def compute_otherwise(pipe, name: str, **config) -> None:
    """The same weights in a network of another configuration."""
    old = getattr(pipe, name)
    new = type(old)(type(old.config).from_dict(old.config.to_dict() | config)).eval()
    new.load_state_dict(old.state_dict())
    setattr(pipe, name, new)


CHANGES = {
    "a weight of the first encoder": lambda pipe: nudge(pipe.text_encoder),
    "a weight of the second encoder": lambda pipe: nudge(pipe.text_encoder_2),
    "a word of the first tokenizer": lambda pipe: pipe.tokenizer.add_tokens("<new>"),
    "a word of the second tokenizer": lambda pipe: pipe.tokenizer_2.add_tokens("<new>"),
    "the padding": lambda pipe: setattr(pipe.tokenizer_2, "pad_token", "<|endoftext|>"),
    "the activation of the first encoder": lambda pipe: compute_otherwise(pipe, "text_encoder", hidden_act="gelu"),
    "the heads of the second encoder": lambda pipe: compute_otherwise(pipe, "text_encoder_2", num_attention_heads=4),
    "the number of places": lambda pipe: [setattr(words, "model_max_length", 12) for words in (pipe.tokenizer, pipe.tokenizer_2)],
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_pipeline_has_another_file(change, encoded, tmp_path):
    """With the rows that it would make without a cache, not those that the first one left."""
    left = cache_text(tiny_pipeline(), CAPTIONS, tmp_path)
    pipe = tiny_pipeline()
    CHANGES[change](pipe)
    found, fresh = cache_text(pipe, CAPTIONS, tmp_path), cache_text(pipe, CAPTIONS, None)
    assert len(encoded) == 3 and len(list(tmp_path.iterdir())) == 2
    assert torch.equal(found.hidden, fresh.hidden) and torch.equal(found.pooled, fresh.pooled)
    assert "word" in change or not torch.equal(found.hidden, left.hidden)


@pytest.mark.parametrize("captions", [CAPTIONS[:-1], [*CAPTIONS, "radar"], [*CAPTIONS[:-1], "an image"]])
def test_other_captions_have_another_file(captions, encoded, tmp_path):
    cache_text(tiny_pipeline(), CAPTIONS, tmp_path)
    found = cache_text(tiny_pipeline(), captions, tmp_path)
    assert len(encoded) == len(list(tmp_path.iterdir())) == 2 and sorted(found.rows) == sorted(["", *captions])


def test_order_and_repetition_of_captions_make_no_difference(encoded, tmp_path):
    first = cache_text(tiny_pipeline(), CAPTIONS, tmp_path)
    again = cache_text(tiny_pipeline(), [*reversed(CAPTIONS), *CAPTIONS, ""], tmp_path)
    assert len(encoded) == 1 and only_file(tmp_path) and again.rows == first.rows
    assert len(set(encoded[0])) == len(encoded[0]) == len(CAPTIONS) + 1  # each once, and the empty one


@pytest.mark.parametrize("batch_size", [64, 2])
def test_rows_are_what_the_diffusers_pipeline_encodes(batch_size, encoded, tmp_path):
    pipe = tiny_pipeline()
    texts = cache_text(pipe, CAPTIONS, tmp_path, batch_size)
    assert [len(batch) for batch in encoded] == ([5] if batch_size == 64 else [2, 2, 1])
    asked = ["forest", "", CAPTIONS[0], "forest"]
    hidden, pooled = texts.look_up(asked)
    assert hidden.shape == (4, 16, 16 + 24) and pooled.shape == (4, 24)
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    for row, caption in enumerate(asked):
        expected, _, expected_pooled, _ = pipe.encode_prompt(caption, do_classifier_free_guidance=False)
        torch.testing.assert_close(hidden[row], expected[0])
        torch.testing.assert_close(pooled[row], expected_pooled[0])
    assert (hidden[0] - hidden[1]).abs().max() > 0.1 and torch.equal(hidden[0], hidden[3])


def test_a_second_call_asks_no_encoder(encoded, tmp_path):
    first = cache_text(tiny_pipeline(), CAPTIONS, tmp_path)
    written = only_file(tmp_path).stat().st_mtime_ns
    second = cache_text(tiny_pipeline(), CAPTIONS, tmp_path)
    assert len(encoded) == 1 and only_file(tmp_path).stat().st_mtime_ns == written
    assert torch.equal(first.hidden, second.hidden) and torch.equal(first.pooled, second.pooled)


DAMAGES = {
    "half of it": lambda whole: whole[: len(whole) // 2],
    "another header": lambda whole: b"\xff" * 8 + whole[8:],
    "nothing": lambda whole: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(damage, encoded, tmp_path):
    cache_text(tiny_pipeline(), CAPTIONS, tmp_path)
    path = only_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    texts = cache_text(tiny_pipeline(), CAPTIONS, tmp_path)
    assert len(encoded) == 2 and only_file(tmp_path) == path and path.read_bytes() == whole
    assert torch.equal(texts.hidden, cache_text(tiny_pipeline(), CAPTIONS, None).hidden)


def test_an_encoder_that_fails_half_way_leaves_no_file(monkeypatch, encoded, tmp_path):
    encode = module.encode_prompts

    def fails(pipe, prompts):
        if len(encoded) == 2:
            raise RuntimeError("out of memory")
        return encode(pipe, prompts)

    monkeypatch.setattr(module, "encode_prompts", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        cache_text(tiny_pipeline(), CAPTIONS, tmp_path, batch_size=1)
    assert list(tmp_path.iterdir()) == []
    encoded.clear()
    assert len(cache_text(tiny_pipeline(), CAPTIONS, tmp_path).hidden) == 5


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list a process' mappings")
def test_rows_lie_in_the_mapped_file(tmp_path):
    texts = cache_text(tiny_pipeline(), CAPTIONS, tmp_path)
    for name, tensor in (("hidden.npy", texts.hidden), ("pooled.npy", texts.pooled)):
        lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(only_file(tmp_path, name)))]
        spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
        assert any(start <= tensor.data_ptr() and tensor.data_ptr() + tensor.nbytes <= end for start, end in spans)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_size_and_format_are_known_before(dtype, tmp_path):
    pipe = tiny_pipeline()
    pipe.text_encoder.to(dtype), pipe.text_encoder_2.to(dtype)
    texts = cache_text(pipe, [*CAPTIONS, *CAPTIONS], tmp_path)
    assert texts.hidden.dtype == texts.pooled.dtype == dtype
    assert text_cache_bytes(pipe, [*CAPTIONS, *CAPTIONS]) == texts.hidden.nbytes + texts.pooled.nbytes
