"""Judged meaning with a judge whose vectors are known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from sarnb.data.imagefolder import default_caption
from sarnb.errors import InputError
from sarnb.metrics import semantic


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
    ours = semantic.retrieval_r1(images, texts, captions, gallery=4)
    similarity = images @ texts.T
    for index in range(7):
        galleries = list(combinations([other for other in range(7) if other != index], 3))
        wins = sum(all(similarity[index, other] <= similarity[index, index] for other in gallery) for gallery in galleries)
        assert ours[index] == pytest.approx(wins / len(galleries))


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
