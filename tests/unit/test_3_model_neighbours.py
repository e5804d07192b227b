"""Nearest words by cosine: against angles known beforehand."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import tiny_pipeline

from sarnb.model.inspect import nearest_words, token_neighbours, word_entries
from sarnb.model.token import ROW_KEYS, TOKEN, add_token


def test_nearest_words_of_known_angles():
    pipe = tiny_pipeline()
    table = torch.zeros(len(pipe.tokenizer), 2)
    table[:, 0] = 1.0  # as near as can be, but no words
    angles = {"city": 10, "forest": 40, "image": 60, "of": 90, "radar": 170, "sar": 180}
    assert set(word_entries(pipe.tokenizer, len(table))) == set(angles)
    for word, degrees in angles.items():
        index = pipe.tokenizer.convert_tokens_to_ids(f"{word}</w>")
        # Length must not matter.
        table[index] = (1 + index) * torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
    found = nearest_words(table, pipe.tokenizer, torch.tensor([[5.0, 0.0]]), count=3)
    assert list(found["word"]) == ["city", "forest", "image"] and list(found["rank"]) == [1, 2, 3]
    assert found["cosine"].tolist() == pytest.approx([math.cos(math.radians(angle)) for angle in (10, 40, 60)], abs=1e-6)
    assert len(nearest_words(table, pipe.tokenizer, torch.tensor([1.0, 0.0]), count=99)) == len(angles)


def test_an_untrained_word_lies_on_the_word_it_starts_from():
    start, trained = tiny_pipeline(), tiny_pipeline()
    add_token(start, "city")
    add_token(trained, "forest")
    near, travel = token_neighbours(start, trained, count=3)
    first = near[near["rank"] == 1].set_index(["encoder", "when"])["word"]
    for _, encoder in ROW_KEYS.values():
        assert first[encoder, "start"] == "city" and first[encoder, "learned"] == "forest"
    assert TOKEN not in set(near["word"])
    tables = [getattr(start, name).get_input_embeddings().weight for _, name in ROW_KEYS.values()]
    city, forest = (start.tokenizer.convert_tokens_to_ids(word) for word in ("city</w>", "forest</w>"))
    expected = [float((table[city] - table[forest]).norm()) for table in tables]
    assert travel["distance from its start"].tolist() == pytest.approx(expected, rel=1e-5)
    assert travel["norm learned"].tolist() == pytest.approx([float(table[forest].norm()) for table in tables], rel=1e-5)
