"""Tokens, pieces and pooled embeddings on a tokenizer whose merges are known."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny_pipeline, tiny_tokenizer

from sarnb.errors import InputError
from sarnb.model.foundation import encode_prompts
from sarnb.model.inspect import pair_gaps, pieces, pooled_embeddings, token_lengths, word_table


def test_lengths_count_both_marks_and_are_not_cut() -> None:
    tokenizer = tiny_tokenizer("<|endoftext|>")  # reads 16 tokens
    assert token_lengths(tokenizer, ["radar image", "x " * 30]).tolist() == [4, 32]


def test_pieces_of_known_and_unknown_words() -> None:
    tokenizer = tiny_tokenizer("<|endoftext|>")
    assert pieces(tokenizer, "radar") == ["radar"]
    assert pieces(tokenizer, "rad") == ["ra-", "d"]  # "ra d" is a merge inside a word only
    assert pieces(tokenizer, "xy") == ["x-", "y"]


def test_word_table_puts_the_spelled_words_first() -> None:
    table = word_table(tiny_tokenizer("<|endoftext|>"), ["radar image", "Radar xyz"])
    assert table["word"].tolist() == ["xyz", "radar", "image"]
    assert table["tokens"].tolist() == [3, 1, 1] and table["uses"].tolist() == [1, 2, 1]
    with pytest.raises(InputError, match="no word"):
        word_table(tiny_tokenizer("<|endoftext|>"), ["12 34"])


def test_pooled_embeddings_are_the_encoders_own_as_unit_vectors() -> None:
    pipe, prompts = tiny_pipeline(), ["radar image", "city", "forest image"]
    vectors = pooled_embeddings(pipe, prompts, batch_size=2)
    pooled = encode_prompts(pipe, prompts)[1].double().numpy()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(vectors, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), atol=1e-5)
    with pytest.raises(InputError, match="no prompt"):
        pooled_embeddings(pipe, [])


def test_gaps_of_pairs_are_distances_over_lengths() -> None:
    pipe = tiny_pipeline()
    table = pair_gaps(pipe, [("radar image", "city image"), ("city", "city")])
    hidden, pooled = (values.double().numpy() for values in encode_prompts(pipe, ["radar image", "city image"]))
    apart = [np.linalg.norm(a - b) / np.mean([np.linalg.norm(a), np.linalg.norm(b)]) for a, b in zip(*hidden)]
    assert table["token"].tolist() == pytest.approx([max(apart), 0], abs=1e-5) and apart[0] == 0 < apart[1]
    lengths = np.linalg.norm(pooled, axis=1)
    assert table["pooled"][0] == pytest.approx(np.linalg.norm(pooled[0] - pooled[1]) / lengths.mean(), abs=1e-5)
