"""Facts: judges that know one fact, all or none get the scores they deserve; kappa against its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_set

from sarnb.errors import InputError
from sarnb.metrics.judging import agreement_table, fact_scores, kappa

TEXTS = (
    ("a city, illuminated from the left", "a city"),
    ("a harbour with two ships", "a harbour with three piers and one ship"),
    ("a forest",),
    ("a river flowing east to west, illuminated from the right",),
)


class WordJudge:
    """Texts become counts of chosen words; an image is the same of its true captions."""

    def __init__(self, words):
        self.words = words

    def embed_texts(self, texts):
        features = [[float(f" {word} " in f" {text.replace(',', ' ')} ") for word in self.words] + [0.5] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(features), dim=1)


@pytest.fixture
def data():
    part = tiny_set(len(TEXTS))
    return replace(part, rows=tuple({**row, "captions": list(several)} for row, several in zip(part.rows, TEXTS)))


def test_one_who_reads_sides_only_knows_sides_only(data):
    judge = WordJudge(["left", "right"])
    images = judge.embed_texts([several[0] for several in TEXTS]).numpy().astype(float)
    scores = fact_scores(judge, data, images)
    np.testing.assert_array_equal(scores["side"], [1, np.nan, np.nan, 1])
    np.testing.assert_array_equal(scores["count"], [np.nan, 0.5, np.nan, np.nan])
    np.testing.assert_array_equal(scores["relation"], [np.nan, np.nan, np.nan, 0.5])
    wrong = judge.embed_texts(["right", "", "", "left"]).numpy().astype(float)
    np.testing.assert_array_equal(fact_scores(judge, data, wrong)["side"], [0, np.nan, np.nan, 0])


def test_captions_without_facts_give_no_score(data):
    bare = replace(data, rows=tuple({**row, "captions": ["a city"]} for row in data.rows))
    assert fact_scores(WordJudge(["city"]), bare, np.ones((4, 2))) == {}
    with pytest.raises(InputError, match="3 feature vectors for 4 images"):
        fact_scores(WordJudge(["city"]), data, np.ones((3, 2)))


def test_kappa_of_a_two_by_two_table_by_hand():
    first = np.repeat(["a", "a", "b", "b"], [20, 5, 10, 15])
    second = np.repeat(["a", "b", "a", "b"], [20, 5, 10, 15])
    assert kappa(first, second) == pytest.approx((0.7 - 0.5) / 0.5)  # Cohen 1960: agreement 35/50, by chance 0.5
    assert kappa(first, first) == 1 and np.isnan(kappa(np.array(["a"]), np.array(["a"])))


def test_a_reader_who_always_says_the_same_agrees_by_chance_only():
    truth = np.array(["left", "left", "left", "right"])
    table = agreement_table({"side": (truth, np.full(4, "left"))}, 50, 0).iloc[0]
    assert table["agreement"] == 0.75 and table["kappa"] == pytest.approx(0) and table["answers"] == 2
