"""The semantic prior's tables against readings made by hand and a judge whose features are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from sarnb.errors import InputError
from sarnb.metrics import prompting as prior

SENTENCES = {"dark": "a dark picture", "bright": "a bright picture"}


class BrightnessJudge:
    """Unit features (1, 0) for dark and (0, 1) for bright, for pictures and for sentences."""

    def embed_images(self, images: np.ndarray) -> torch.Tensor:
        bright = images.reshape(len(images), -1).mean(axis=1) > 127
        return torch.eye(2)[torch.as_tensor(bright).long()]

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.eye(2)[[int("bright" in text) for text in texts]]


def test_pictures_grey_and_colour_are_read() -> None:
    for shape in ((3, 8, 8), (3, 8, 8, 3)):
        images = np.zeros(shape, np.uint8)
        images[1] = 200
        assert prior.read_classes(BrightnessJudge(), images, SENTENCES).tolist() == ["dark", "bright", "dark"]


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(InputError, match="no prompt or no picture"):
        prior.read_classes(BrightnessJudge(), np.zeros((0, 8, 8), np.uint8), SENTENCES)


def test_accuracy_by_class_and_over_all() -> None:
    table = prior.accuracy_table({"drawn": (["a", "a", "b"], ["a", "b", "b"]), "real": (["a"], ["b"])}, ["a", "b"]).set_index("class")
    assert table["drawn"].tolist() == pytest.approx([0.5, 1.0, 2 / 3])
    assert table["real"].tolist() == pytest.approx([0.0, np.nan, 0.0], nan_ok=True)


def test_interval_holds_the_value_and_is_certain_where_all_agree() -> None:
    readings = {"half": (["a"] * 40, ["a", "b"] * 20), "sure": (["a"] * 5, ["a"] * 5)}
    table = prior.accuracy_intervals(readings, resamples=300, seed=0).set_index("pictures")
    assert table.loc["half", "lo"] < 0.5 < table.loc["half", "hi"]
    # binomial standard error of 40 pictures: 0.079
    assert table.loc["half", "hi"] - table.loc["half", "lo"] == pytest.approx(2 * 1.96 * 0.079, rel=0.25)
    assert table.loc["sure", ["value", "lo", "hi"]].tolist() == [1, 1, 1] and table.loc["sure", "n"] == 5


def test_confusion_rows_are_shares() -> None:
    table = prior.confusion(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "c"])
    expected = pd.DataFrame([[0.5, 0.5, 0], [0, 1, 0], [np.nan] * 3], index=["a", "b", "c"], columns=["a", "b", "c"])
    np.testing.assert_array_equal(table.to_numpy(float), expected.to_numpy(float))
    assert (table.index.name, table.columns.name) == ("asked for", "read as")
