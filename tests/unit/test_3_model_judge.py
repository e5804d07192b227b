"""The judge before its training: the foundation's words, weights of its own."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_tokenizer

from sarnb import foundation_path
from sarnb.errors import InputError
from sarnb.model.judge import build_judge, foundation_tokenizer, load_judge


def test_the_words_are_the_foundations():
    by_name, by_folder = foundation_tokenizer("embedded"), foundation_tokenizer(str(foundation_path()))
    text = "a radar image of a city, illuminated from the left"
    assert by_name(text).input_ids == by_folder(text).input_ids
    assert by_name.get_vocab() == by_folder.get_vocab()


def test_a_missing_foundation_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing_here.*tokenizer"):
        foundation_tokenizer(str(tmp_path / "nothing_here"))


def test_the_start_depends_on_the_seed_only_and_reads_texts_of_full_length():
    tokenizer = tiny_tokenizer("<|endoftext|>")
    first, again, other = (build_judge(tokenizer, seed) for seed in (3, 3, 4))
    state = first.state_dict()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in state.items())
    assert not torch.equal(state["image.stem.weight"], other.state_dict()["image.stem.weight"])
    assert first.texts[0].config.max_position_embeddings == tokenizer.model_max_length
    assert first.embed_texts(["radar " * 40]).shape == (1, 128)


def test_a_judge_that_is_read_back_is_frozen_and_the_same(tmp_path):
    judge = build_judge(tiny_tokenizer("<|endoftext|>"), 1)
    judge.save(tmp_path / "judge")
    found = load_judge(tmp_path / "judge")
    assert not found.training and not any(parameter.requires_grad for parameter in found.parameters())
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in judge.state_dict().items())
