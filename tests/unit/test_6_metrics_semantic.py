"""Judged meaning, and the examination of the judge: by judges whose vectors and answers are known, and by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_set

from sarnb.data.dataset import ImageSet
from sarnb.data.imagefolder import default_caption
from sarnb.errors import InputError
from sarnb.metrics import semantic
from sarnb.metrics.semantic import fit_scale, hard_negative_scores, judge_images, judge_sentence, judge_table, kappa


class BrightnessJudge:
    """Images and texts as unit vectors on a half circle: brightness, and a number written in the text."""

    def embed_images(self, images: np.ndarray) -> torch.Tensor:
        return self._circle([float(image.mean()) / 255 for image in images])

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        assert not any("<" in text for text in texts)
        return self._circle([float(text.split()[-1]) for text in texts])

    @staticmethod
    def _circle(values: list[float]) -> torch.Tensor:
        angle = torch.tensor(values) * np.pi
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def grey(values: list[float]) -> np.ndarray:
    return np.stack([np.full((8, 8), round(255 * value), np.uint8) for value in values])


def test_a_learned_word_is_read_as_a_word() -> None:
    texts = semantic.embed_texts(BrightnessJudge(), ["a <SAR> 0.5", "b 0", "a <SAR> 0.5"])
    np.testing.assert_allclose(texts, [[0, 1], [1, 0], [0, 1]], atol=1e-6)


def test_zero_shot_with_and_without_candidates() -> None:
    judge = BrightnessJudge()
    images = semantic.embed_images(judge, grey([0.0, 0.4, 0.6, 1.0]))
    prompts = semantic.embed_texts(judge, ["0", "0.5", "1"])
    assert semantic.zero_shot(images, prompts).tolist() == [0, 1, 1, 2]
    only = np.array([[True, False, True]] * 4)
    assert semantic.zero_shot(images, prompts, only).tolist() == [0, 0, 2, 2]


def test_retrieval_chance_equals_enumeration() -> None:
    rng = np.random.default_rng(0)
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 7, 3)))
    captions = list("abcdefg")
    package = semantic.retrieval_r1(images, texts, captions, gallery=4)
    similarity = images @ texts.T
    for index in range(7):
        galleries = list(combinations([other for other in range(7) if other != index], 3))
        wins = sum(all(similarity[index, other] <= similarity[index, index] for other in gallery) for gallery in galleries)
        assert package[index] == pytest.approx(wins / len(galleries))


def test_equal_captions_count_once() -> None:
    judge = BrightnessJudge()
    captions = ["0.0", "0.5", "1.0", "0.5"]
    images, texts = semantic.embed_images(judge, grey([0, 0.5, 1, 0.5])), semantic.embed_texts(judge, captions)
    assert semantic.retrieval_r1(images, texts, captions, gallery=3).tolist() == [1, 1, 1, 1]
    with pytest.raises(InputError, match="3 different captions, 4 needed"):
        semantic.retrieval_r1(images, texts, captions, gallery=4)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="8-bit"):
        semantic.embed_images(BrightnessJudge(), np.zeros((2, 8, 8)))

    class Broken(BrightnessJudge):
        def embed_images(self, images: np.ndarray) -> torch.Tensor:
            return torch.full((len(images), 2), float("nan"))

    with pytest.raises(InputError, match="judge"):
        semantic.embed_images(Broken(), grey([0.1]))


def test_the_sentence_of_a_class() -> None:
    assert default_caption("city") == "a radar image of a city" and "river" in default_caption("river+forest")
    assert default_caption("vehicle_t72") == "a radar image of vehicle t72"  # as its training captions say


SENTENCES = {"dark": "a dark picture", "bright": "a bright picture"}


class DarkOrBright:
    """Unit features (1, 0) for dark and (0, 1) for bright, for pictures and for sentences."""

    def embed_images(self, images: np.ndarray) -> torch.Tensor:
        bright = images.reshape(len(images), -1).mean(axis=1) > 127
        return torch.eye(2)[torch.as_tensor(bright).long()]

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.eye(2)[[int("bright" in text) for text in texts]]


def test_pictures_grey_and_colour_are_read():
    for shape in ((3, 8, 8), (3, 8, 8, 3)):
        images = np.zeros(shape, np.uint8)
        images[1] = 200
        assert semantic.read_classes(DarkOrBright(), images, SENTENCES).tolist() == ["dark", "bright", "dark"]


def test_nothing_to_read_is_refused():
    with pytest.raises(InputError, match="no prompt or no picture"):
        semantic.read_classes(DarkOrBright(), np.zeros((0, 8, 8), np.uint8), SENTENCES)


def test_accuracy_by_class_and_over_all():
    table = semantic.accuracy_table({"drawn": (["a", "a", "b"], ["a", "b", "b"]), "real": (["a"], ["b"])}, ["a", "b"]).set_index("class")
    assert table["drawn"].tolist() == pytest.approx([0.5, 1.0, 2 / 3])
    assert table["real"].tolist() == pytest.approx([0.0, np.nan, 0.0], nan_ok=True)


# The judge judged.

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
    "shown, words",
    [(None, "The judge tells classes apart"), (0, "The judge cannot be distinguished from a guess")],
    ids=["perfect", "always city"],
)
def test_the_sentence_says_whether_the_judge_may_be_used(shown, words):
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
