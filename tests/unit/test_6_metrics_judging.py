"""The examination of the judge: with judges whose answers are known, probabilities that are known, and kappa by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_set

from sarnb.data.dataset import ImageSet
from sarnb.data.imagefolder import default_caption
from sarnb.errors import InputError
from sarnb.metrics.judging import (
    fit_scale,
    hard_negative_scores,
    judge_images,
    judge_sentence,
    judge_table,
    kappa,
)

NAMES = ("city", "forest", "airport", "river+forest", "city+coast")
GROUPS = ("seen", "seen", "unseen", "composition", "composition")
PROMPTS = [default_caption(name) for name in NAMES]


class Reader:
    """Reads class k off the first pixel and the side off the second; a text by its class words and its side."""

    def embed_images(self, images: np.ndarray) -> torch.Tensor:
        return self._vectors([int(image[0, 0]) for image in images], [int(image[0, 1]) for image in images])

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        kinds = [max(range(len(NAMES)), key=lambda k: len(PROMPTS[k]) * (PROMPTS[k] in text)) for text in texts]
        return self._vectors(kinds, [1 if "left" in text else 2 if "right" in text else 0 for text in texts])

    @staticmethod
    def _vectors(kinds: list[int], sides: list[int]) -> torch.Tensor:
        vectors = torch.eye(len(NAMES) + 3)[kinds] + 0.5 * torch.eye(len(NAMES) + 3)[[len(NAMES) + side for side in sides]]
        return torch.nn.functional.normalize(vectors, dim=1)


def known_set(per_class: int = 4, mistakes: dict[int, int] | None = None) -> ImageSet:
    """Class and side are written in the first two pixels; ``mistakes``: image → the class its pixel shows instead."""
    rows, images = [], []
    for number in range(per_class * len(NAMES)):
        kind, side = number % len(NAMES), ("left", "right")[number // len(NAMES) % 2]
        image = np.zeros((8, 8), np.uint8)
        image[0, :2] = (mistakes or {}).get(number, kind), 1 if side == "left" else 2
        text = f"{PROMPTS[kind]}, illuminated from the {side}"
        rows.append({"text": text, "label": NAMES[kind], "group": GROUPS[kind], "look": side})
        images.append(image)
    return ImageSet(Path("known"), np.stack(images), tuple(rows))


def accuracy(judged, resamples: int = 20):
    """The table of the class accuracy, indexed by split and class."""
    scores = {"class accuracy": (judged.guess == judged.truth, 1 / judged.rivals.sum(1))}
    return judge_table(scores, judged.labels, judged.splits, resamples)


def test_a_perfect_judge_calls_every_class_and_no_class_is_called_a_composition():
    judged = judge_images(Reader(), known_set())
    assert judged.names == NAMES and np.array_equal(judged.guess, judged.truth) and judged.labels[2] == "airport"
    assert np.isneginf(judged.logits[0, 3:]).all() and np.isfinite(judged.logits[4]).all()
    assert judged.cosines[0].argmax() == 0 and (judged.images * judged.captions).sum(1) == pytest.approx(1)
    table = accuracy(judged)
    assert set(table["value"]) == {1.0} and set(table["split"]) == {"pooled", "seen", "unseen", "composition"}
    with pytest.raises(InputError, match="without a class label"):
        judge_images(Reader(), replace(known_set(), rows=({},) * 20))


def test_mistakes_are_counted_where_they_are_classes_weigh_the_same_and_a_guess_is_one_of_the_rivals():
    table = accuracy(judge_images(Reader(), known_set(mistakes={0: 1, 5: 1, 2: 0})))  # cities as forest, an airport as city
    values = table.set_index(["split", "class"])
    assert values.loc[("seen", "all"), "value"] == values.loc[("unseen", "airport"), "value"] == pytest.approx(0.75)
    assert values.loc[("pooled", "all"), "value"] == pytest.approx((0.5 + 1 + 0.75 + 1 + 1) / 5)
    assert ((table["lo"] <= table["value"]) & (table["value"] <= table["hi"])).all()
    chances = values["chance"]
    assert chances["seen", "city"] == pytest.approx(1 / 3) and chances["composition", "all"] == pytest.approx(1 / 5)
    assert chances["pooled", "all"] == pytest.approx((3 / 3 + 2 / 5) / 5)
    few = judge_images(Reader(), known_set(mistakes={0: 1}).subset([0, 1, 6, 11, 16]))  # one wrong city, four right forests
    assert accuracy(few)["value"][0] == pytest.approx(0.5)


def test_images_without_a_score_are_left_out_of_the_table():
    judged = judge_images(Reader(), known_set())
    score = np.where(judged.truth == 0, np.nan, 1.0)
    rows = judge_table({"side": (score, 0.5)}, judged.labels, judged.splits, 20).set_index(["split", "class"])
    assert rows.loc[("pooled", "all"), ["value", "n", "chance"]].tolist() == [1.0, 16, 0.5]
    assert ("seen", "city") not in rows.index and rows.loc[("seen", "all"), "n"] == 4


@pytest.mark.parametrize(
    "shown, words", [(None, "The judge tells classes apart"), (0, "The judge cannot be told from a guess")], ids=["perfect", "always city"]
)
def test_the_sentence_says_whether_the_judge_may_be_asked(shown, words):
    data = known_set(mistakes=None if shown is None else dict.fromkeys(range(20), shown))
    assert judge_sentence(accuracy(judge_images(Reader(), data))).startswith(words)


# Captions that are wrong in one statement.

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
    scores = hard_negative_scores(judge, data, images)
    assert list(scores) == ["own caption before wrong side", "own caption before wrong count", "own caption before wrong direction"]
    expected = [[1, np.nan, np.nan, 1], [np.nan, 0.5, np.nan, np.nan], [np.nan, np.nan, np.nan, 0.5]]
    np.testing.assert_array_equal(list(scores.values()), expected)
    wrong = judge.embed_texts(["right", "", "", "left"]).numpy().astype(float)
    np.testing.assert_array_equal(hard_negative_scores(judge, data, wrong)["own caption before wrong side"], [0, np.nan, np.nan, 0])


def test_captions_without_such_statements_give_no_score(data):
    bare = replace(data, rows=tuple({**row, "captions": ["a city"]} for row in data.rows))
    assert hard_negative_scores(WordJudge(["city"]), bare, np.ones((4, 2))) == {}
    with pytest.raises(InputError, match="3 feature vectors for 4 images"):
        hard_negative_scores(WordJudge(["city"]), data, np.ones((3, 2)))


# Calibration: the factor that makes certainties true is found again.


def drawn(scale: float, count: int, seed: int = 0):
    """Cosines of three classes, and truths drawn with exactly the probabilities that `scale` gives."""
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-0.5, 0.5, (count, 3))
    weights = np.exp(scale * similarity)
    shares = weights / weights.sum(1, keepdims=True)
    truth = (rng.random((count, 1)) > shares.cumsum(1)).sum(1).clip(max=2)
    return similarity, truth


def test_the_factor_of_the_drawing_is_found_also_among_further_classes_that_do_not_compete():
    similarity, truth = drawn(7.0, 20_000)
    assert fit_scale(similarity, truth) == pytest.approx(7.0, rel=0.03)
    wider = np.column_stack([similarity, np.full(len(truth), -np.inf)])
    assert fit_scale(wider, truth) == pytest.approx(fit_scale(similarity, truth))
    with pytest.raises(InputError, match="no image"):
        fit_scale(np.empty((0, 3)), np.empty(0, int))


def test_kappa_of_a_two_by_two_table_by_hand():
    first = np.repeat(["a", "a", "b", "b"], [20, 5, 10, 15])
    second = np.repeat(["a", "b", "a", "b"], [20, 5, 10, 15])
    assert kappa(first, second) == pytest.approx((0.7 - 0.5) / 0.5)  # Cohen 1960: agreement 35/50, by chance 0.5
    assert kappa(first, first) == 1 and np.isnan(kappa(np.array(["a"]), np.array(["a"])))
    assert kappa(np.array(["left"] * 3 + ["right"]), np.full(4, "left")) == pytest.approx(0), "who always says the same"
