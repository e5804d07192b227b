"""The examination of the judge, with a judge whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics.judging import (
    ACCURACY,
    COSINE,
    LOOK,
    RETRIEVAL,
    aims_table,
    class_similarity,
    confusion,
    fact_scores,
    judge_images,
    judge_sentences,
    judge_table,
    look_scores,
    pair_cosines,
)
from sarnb.metrics.semantic import label_prompt

NAMES = ("city", "forest", "airport", "river+forest", "city+coast")
GROUPS = ("seen", "seen", "unseen", "composition", "composition")
PROMPTS = [label_prompt(name) for name in NAMES]


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
    ids, texts = tuple(map(str, range(len(rows)))), tuple(row["text"] for row in rows)
    return ImageSet(Path("known"), ids, np.stack(images), texts, tuple(row["label"] for row in rows), tuple(rows))


def value(table, measure: str, split: str = "pooled", label: str = "all") -> float:
    chosen = table[(table["measure"] == measure) & (table["split"] == split) & (table["class"] == label)]
    assert len(chosen) == 1
    return chosen.iloc[0]["value"]


def test_a_perfect_judge_scores_one_and_its_confusion_is_the_identity():
    data = known_set()
    judged = judge_images(Reader(), data)
    assert judged.names == NAMES
    shares = confusion(judged)
    assert np.array_equal(np.diag(shares), np.ones(5)) and np.nansum(shares) == 5
    assert np.isnan(shares[0, 3]) and np.isnan(shares[4, 0]), "a composition never competes with a class"
    looks = look_scores(Reader(), judged, data.column("look"), "airborne-x")
    table, missing = judge_table(judged, looks, resamples=20)
    assert missing == [] and len(set(judged.texts)) == 10, "just enough captions for a gallery"
    assert {value(table, name) for name in (ACCURACY, LOOK, RETRIEVAL)} == {1.0}
    assert set(table["split"]) == {"pooled", "seen", "unseen", "composition"}


def test_mistakes_are_counted_where_they_are_and_classes_weigh_the_same():
    judged = judge_images(Reader(), known_set(mistakes={0: 1, 5: 1, 2: 0}))  # cities as forest, an airport as city
    shares = confusion(judged)
    assert shares[0].tolist()[:3] == [0.5, 0.5, 0.0] and shares[2].tolist()[:3] == [0.25, 0.0, 0.75]
    table, _ = judge_table(judged, None, resamples=50)
    assert value(table, ACCURACY, "seen") == pytest.approx(0.75) and value(table, ACCURACY, "unseen") == pytest.approx(0.75)
    assert value(table, ACCURACY) == pytest.approx((0.5 + 1 + 0.75 + 1 + 1) / 5)
    few = judge_images(Reader(), known_set(mistakes={0: 1}).subset([0, 1, 6, 11, 16]))  # one wrong city, four right forests
    assert value(judge_table(few, None, 10)[0], ACCURACY) == pytest.approx(0.5)
    rows = table[table["measure"] == ACCURACY]
    assert ((rows["lo"] <= rows["value"]) & (rows["value"] <= rows["hi"])).all()


def test_a_guess_is_one_of_the_rivals():
    table, _ = judge_table(judge_images(Reader(), known_set()), None, resamples=5)
    chances = table[table["measure"] == ACCURACY].set_index(["split", "class"])["chance"]
    assert chances["seen", "city"] == pytest.approx(1 / 3) and chances["composition", "all"] == pytest.approx(1 / 2)
    assert chances["pooled", "all"] == pytest.approx((3 / 3 + 2 / 2) / 5)
    assert table[table["measure"] == COSINE]["chance"].isna().all()


def test_sides_are_read_by_the_pair_of_prompts():
    data = known_set()
    judged = judge_images(Reader(), data)
    looks = list(data.column("look"))
    assert look_scores(Reader(), judged, looks, "airborne-x").tolist() == [1.0] * len(data)
    turned = [{"left": "right", "right": "left"}[look] for look in looks]
    assert look_scores(Reader(), judged, turned, "airborne-x").tolist() == [0.0] * len(data)
    for unknown in ([None] * len(data), [*looks[:-1], None], []):
        with pytest.raises(InputError, match="illuminated"):
            look_scores(Reader(), judged, unknown, "airborne-x")


def test_cosines_of_pairs_and_of_classes():
    judged = judge_images(Reader(), known_set(mistakes={0: 1}))
    matching, mismatching = pair_cosines(judged)
    assert len(matching) == 20 and len(mismatching) == 20 * 16
    assert matching[1:] == pytest.approx(np.ones(19)) and matching[0] == pytest.approx(0.2)  # only the side agrees
    similarity = class_similarity(judged)
    assert similarity.argmax(1).tolist() == list(range(5)) and similarity[0, 1] > similarity[1, 0]


def test_what_is_missing_is_said():
    one = judge_images(Reader(), known_set().where(label="city"))
    table, missing = judge_table(one, None, resamples=5)
    assert set(table["measure"]) == {ACCURACY, COSINE}
    assert [line.split(":")[0] for line in missing[:2]] == ["Look-side accuracy is left out", "Retrieval R@1 is left out"]
    assert len(missing) == 3 and missing[2].startswith("There is one class only")
    unlabelled = replace(known_set(), labels=("",) * 20)
    with pytest.raises(InputError, match="without a class label"):
        judge_images(Reader(), unlabelled)


def test_the_sentences_say_whether_the_judge_may_be_asked():
    good, _ = judge_table(judge_images(Reader(), known_set()), None, resamples=20)
    assert judge_sentences(good)[-1].startswith("The judge tells classes apart")
    judged = judge_images(Reader(), known_set())
    for sides, blind in ((np.ones(20), False), (np.tile([0.0, 1.0], 10), True)):
        told = judge_sentences(judge_table(judged, sides, resamples=50)[0])
        assert any("cannot tell the side" in line for line in told) == blind
    always_city = judge_images(Reader(), known_set(mistakes={k: 0 for k in range(20)}))
    bad, _ = judge_table(always_city, None, resamples=20)
    assert value(bad, ACCURACY) == pytest.approx(0.4) and judge_sentences(bad)[-1].startswith("The judge cannot be told from a guess")


def test_facts_come_into_the_table_with_the_images_that_were_asked():
    data = known_set()
    judged = judge_images(Reader(), data)
    scores = fact_scores(Reader(), data, judged.images)
    assert list(scores) == ["side"] and scores["side"].all()
    scores["side"] = np.where(judged.truth == 0, np.nan, scores["side"])  # no caption of a city tells it
    table, _ = judge_table(judged, None, 20, 0, scores)
    rows = table[table["measure"] == "own caption before wrong side"].set_index(["split", "class"])
    assert rows.loc[("pooled", "all"), ["value", "n", "chance"]].tolist() == [1.0, 16, 0.5]
    assert ("seen", "city") not in rows.index and rows.loc[("seen", "all"), "n"] == 4


def test_aims_are_asked_of_single_classes_only():
    clean, mixed = known_set(), known_set(mistakes={3: 4, 8: 3})  # both mistakes among the compositions
    for data in (clean, mixed):
        judged = judge_images(Reader(), data)
        looks = look_scores(Reader(), judged, [row["look"] for row in data.rows], "airborne-x")
        table = aims_table(judged, looks, 20)
        assert table["value"].tolist() == [1.0, 1.0] and table["n"].tolist() == [12, 12] and set(table["verdict"]) == {"reached"}
    judged = judge_images(Reader(), known_set(mistakes={0: 1, 5: 1, 10: 1, 15: 1}))  # no city is known
    table = aims_table(judged, None, 20)
    assert table["aim"].tolist() == [ACCURACY] and table["value"][0] == pytest.approx(2 / 3) and table["verdict"][0] == "not reached"
