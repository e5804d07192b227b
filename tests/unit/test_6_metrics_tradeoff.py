"""Scores between the anchors, the Pareto front and the failures, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_set

from sarnb.errors import InputError
from sarnb.metrics.evaluation import COLUMNS, OPTICAL_AS_GREY, REAL_VS_REAL
from sarnb.metrics.image_statistics import measure
from sarnb.metrics.tradeoff import anchored_scores, failures, pareto_sentences, pareto_table


def evaluation(**values):
    """An evaluation table: metric -> {strategy: value}, intervals of plus and minus a tenth."""
    rows = [
        (name, 0, "pooled", "all", metric, value, value - 0.1, value + 0.1, 8)
        for metric, several in values.items()
        for name, value in several.items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_scores_lie_between_ceiling_and_floor():
    table = evaluation(
        amplitude_kl={"a": 0.5, "b": 1.25, REAL_VS_REAL: 0.0, OPTICAL_AS_GREY: 1.0},
        clip_accuracy={"a": 0.3, "b": 0.9, REAL_VS_REAL: 0.9},
    )
    scores = anchored_scores(table, ("amplitude_kl", "clip_accuracy", "clip_recall")).set_index(["metric", "strategy"])
    assert scores.loc[("amplitude_kl", "a"), ["score", "lo", "hi"]].tolist() == pytest.approx([0.5, 0.4, 0.6])
    assert scores.loc[("amplitude_kl", "b"), "score"] == pytest.approx(-0.25)
    assert scores.loc[("clip_accuracy",), "score"].tolist() == pytest.approx([0.0, 1.0])  # the worst is the bottom without a ceiling
    with pytest.raises(InputError, match="amplitude_cv"):
        anchored_scores(table, ("amplitude_cv",))


def test_the_front_is_what_nobody_beats():
    table = evaluation(clip_accuracy={"cheap": 0.5, "good": 0.9, "dear": 0.9, "poor": 0.4, "unknown": 1.0, REAL_VS_REAL: 1.0})
    costs = pd.DataFrame({"strategy": ["cheap", "good", "good", "dear", "poor", "unknown"], "seconds": [1.0, 4, 6, 9, 2, np.nan]})
    front = pareto_table(table, costs, "clip_accuracy", "seconds").set_index("strategy")
    assert front["dominated by"].to_dict() == {"cheap": "", "poor": "cheap", "good": "", "dear": "good"}
    assert front["cost"].tolist() == [1, 2, 5, 9]
    assert "nobody is both better and cheaper than cheap, good (2 of 4)" in pareto_sentences(front.reset_index())[0]


class FixedJudge:
    """Prompts of city and forest are the two axes."""

    def embed_texts(self, texts):
        return torch.tensor([[1.0, 0.0] if "city" in text else [0.0, 1.0] for text in texts])


def test_the_worst_of_each_class_worst_first():
    data = tiny_set(6)  # forest, city, forest, city …
    wide = replace(data, images=np.repeat(np.repeat(data.images, 2, 1), 2, 2))
    angles = np.deg2rad([80, 10, 20, 70, 90, 0])  # from the city's axis
    part = replace(measure(wide), features=np.stack([np.cos(angles), np.sin(angles)], axis=1))
    table = failures({"one": part}, FixedJudge(), count=5)
    assert table["index"].tolist() == [2, 3] and table["class"].tolist() == ["forest", "city"]
    assert table["cosine"].tolist() == pytest.approx([np.sin(np.deg2rad(20)), np.cos(np.deg2rad(70))])
    assert table["called"].tolist() == ["city", "forest"] and table["rank"].tolist() == [1, 2]
    assert len(failures({"one": part}, FixedJudge(), count=1)) == 1


def test_several_trainings_count_by_their_mean_and_span():
    single = evaluation(amplitude_kl={"a": 0.5, "b": 0.75, REAL_VS_REAL: 0.0, OPTICAL_AS_GREY: 1.0})
    low, high = (single[single["strategy"] == "a"].assign(seed=k, value=v, lo=v - 0.1, hi=v + 0.1) for k, v in ((0, 0.25), (1, 0.75)))
    several = pd.concat([low, high, single[single["strategy"] != "a"]], ignore_index=True)
    one, two = (anchored_scores(table, ("amplitude_kl",)).set_index("strategy") for table in (single, several))
    assert one.loc["a", ["score", "lo", "hi"]].tolist() == pytest.approx([0.5, 0.4, 0.6])
    assert two.loc["a", ["score", "lo", "hi"]].tolist() == pytest.approx([0.5, 0.15, 0.85])
    assert two.loc["b", ["score", "lo", "hi"]].tolist() == one.loc["b", ["score", "lo", "hi"]].tolist()
    costs = pd.DataFrame({"strategy": ["a", "a", "b"], "seconds": [1.0, 3.0, 2.0]})  # two trainings of a: 2 s on average
    fronts = [pareto_table(table, costs, "amplitude_kl", "seconds").set_index("strategy") for table in (single, several)]
    pd.testing.assert_frame_equal(*fronts)
    assert fronts[1].loc["a", ["value", "cost"]].tolist() == [0.5, 2.0] and fronts[1].loc["b", "dominated by"] == "a"
