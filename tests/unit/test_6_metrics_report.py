"""Legend, protocol, and the evaluation rearranged by split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics import HEADLINE, METRICS
from sarnb.metrics.evaluation import COLUMNS, OPTICAL_AS_GREY, REAL_VS_REAL, evaluate
from sarnb.metrics.report import (
    gap_sentences,
    headline_measures,
    lead_sentences,
    left_out_sentences,
    metric_legend,
    protocol_table,
    sample_sizes,
    seed_table,
    split_table,
    splits_of,
    training_sentences,
    verdict_table,
)

ROWS = [
    ("hybrid", 0, "seen", "all", "clip_accuracy", 0.9, 0.8, 0.95, 16),
    ("hybrid", 1, "seen", "all", "clip_accuracy", 0.7, 0.6, 0.75, 16),
    ("hybrid", 0, "unseen", "all", "clip_accuracy", 0.3, 0.2, 0.4, 8),
    ("scratch", 0, "seen", "all", "clip_accuracy", 0.5, 0.4, 0.6, 16),
    ("scratch", 0, "unseen", "all", "clip_accuracy", 0.4, 0.3, 0.5, 8),
    (REAL_VS_REAL, 0, "composition", "all", "clip_accuracy", 1.0, 0.9, 1.0, 8),
    (REAL_VS_REAL, 0, "seen", "all", "clip_accuracy", 1.0, 0.9, 1.0, 8),
    ("hybrid", 0, "seen", "city", "clip_accuracy", 0.1, 0.0, 0.2, 2),
]
TABLE = pd.DataFrame(ROWS, columns=list(COLUMNS))


def test_the_legend_explains_every_measure():
    legend = metric_legend()
    assert legend["metric"].tolist() == list(METRICS) and not legend.isna().any().any()


def test_the_protocol_names_the_numbers_that_belong_to_the_definitions():
    values = protocol_table(500).set_index("item")["value"]
    assert "256" in values["amplitude histogram"] and "1e-06" in values["smoothing of KL and reverse KL"]
    assert "64" in values["GLCM levels"] and values["GLCM distances"] == "1, 2, 4, 8 px"
    assert "500" in values["intervals"] and values["resamples of Fréchet distances"] == "100"
    assert values["resamples of average ranks"] == "100 where a Fréchet distance is ranked too, else 500"
    assert protocol_table(20).set_index("item")["value"]["resamples of Fréchet distances"] == "20"


def test_sample_sizes_count_groups_and_classes():
    part = SimpleNamespace(labels=("a", "a", "b", "c"), groups=("seen", "seen", "unseen", "unseen"))
    assert sample_sizes({"real": part}).iloc[0].tolist() == ["real", 2, 2, 0, 1, 2]


def test_splits_are_those_of_strategies_not_of_anchors():
    assert splits_of(TABLE) == ["seen", "unseen"]


def test_values_by_split_join_seeds_and_put_anchors_last():
    table = split_table(TABLE, "clip_accuracy")
    assert table.columns.tolist() == ["strategy", "seen", "unseen", "composition"]
    assert table["strategy"].tolist() == ["hybrid", "scratch", REAL_VS_REAL]
    assert table.iloc[0].tolist() == ["hybrid", "0.8 [0.6, 0.95]", "0.3 [0.2, 0.4]", ""]
    with pytest.raises(InputError, match="unknown"):
        split_table(TABLE, "beauty")
    with pytest.raises(InputError, match="no values"):
        split_table(TABLE, "look_accuracy")


def test_gap_sentences_say_whether_the_change_is_settled():
    lines = gap_sentences(TABLE, "clip_accuracy")
    assert len(lines) == 2 and "a change of -0.500; the intervals do not overlap" in lines[0]
    assert "a change of -0.100; the intervals overlap" in lines[1]
    assert gap_sentences(TABLE[TABLE["split"] == "seen"], "clip_accuracy") == []


def test_left_out_sentences_speak_of_whole_splits_only():
    table = TABLE.copy()
    table.attrs["left_out"] = [
        ("hybrid", 0, "seen", "all", "clip_kid", "too few images."),
        ("scratch", 0, "seen", "all", "clip_kid", "no judge"),
        ("hybrid", 0, "seen", "city", "clip_kid", "too few images"),
        (OPTICAL_AS_GREY, 0, "all", "all", "all", "no twins"),
    ]
    assert left_out_sentences(table) == ["clip_kid (seen) is missing for 2 of 4 sets: too few images."]


def test_trainings_by_hand():
    table = seed_table(TABLE)
    assert table.columns.tolist() == ["strategy", "split", "metric", "seeds", "mean", "sd", "min", "max"]
    assert set(table["strategy"]) == {"hybrid", "scratch"} and len(table) == 4, "no anchors, no single classes"
    row = table.set_index(["strategy", "split"]).loc[("hybrid", "seen")]
    assert row[["seeds", "mean", "sd", "min", "max"]].tolist() == pytest.approx([2, 0.8, (2 * 0.1**2) ** 0.5, 0.7, 0.9])
    assert pd.isna(table.set_index(["strategy", "split"]).loc[("scratch", "seen"), "sd"])
    once, several = training_sentences(table)
    assert once.startswith("One training at most: scratch;") and several.startswith("Several trainings: hybrid (2);")
    assert len(training_sentences(table[table["strategy"] == "scratch"])) == 1


def leads(**values):
    """Lead sentences of "hybrid" on seen: strategy -> values of its trainings."""
    rows = [(name, k, "seen", "all", "amplitude_kl", v, v, v, 8) for name, several in values.items() for k, v in enumerate(several)]
    return lead_sentences(seed_table(pd.DataFrame(rows, columns=list(COLUMNS))), "hybrid", "seen")


def test_a_lead_is_held_against_the_spread_of_its_own_trainings():
    (sentence,) = leads(hybrid=[0.25, 0.5], scratch=[1.0, 2.0], token=[0.875])
    assert sentence == ("amplitude_kl (seen): hybrid leads token by 0.5, more than the spread of its own 2 trainings, 0.25.")
    assert "no more than the spread of its own 2 trainings, 0.25" in leads(hybrid=[0.25, 0.5], token=[0.625])[0]
    assert "spread of its trainings is not known" in leads(hybrid=[0.25], token=[0.625])[0]
    assert "hybrid has no lead, token is as good or better" in leads(hybrid=[0.25, 0.5], token=[0.375])[0]
    assert leads(hybrid=[0.25]) == [] and leads(token=[0.25]) == []


def speckle(count: int, seed: int) -> ImageSet:
    """Single-look Rayleigh amplitude, 32 px, two classes."""
    rng = np.random.default_rng(seed)
    images = np.minimum(255, 60 * rng.rayleigh(size=(count, 32, 32))).astype(np.uint8)
    labels = tuple("city" if number % 2 else "harbour" for number in range(count))
    rows = tuple({"label": label, "group": "seen" if label == "city" else "unseen"} for label in labels)
    return ImageSet(Path("."), tuple(map(str, range(count))), images, ("",) * count, labels, rows)


def test_headline_measures_are_rows_of_the_evaluation_with_anchors():
    test, good = speckle(12, 0), speckle(12, 1)
    smooth = replace(good, images=(128 + (good.images.astype(float) - 128) / 8).astype(np.uint8))
    table = headline_measures(test, {("good", 0): good, ("smooth", 0): smooth}, resamples=20)
    assert set(table["metric"]) == set(HEADLINE) and set(table["class"]) == {"all"} and REAL_VS_REAL in set(table["strategy"])
    assert splits_of(table) == ["seen", "unseen"]
    whole = evaluate("good", 0, test, good, None, 20)
    row = whole[(whole["metric"] == "amplitude_kl") & (whole["split"] == "seen") & (whole["class"] == "all")]
    values = table[table["split"] == "seen"].set_index(["strategy", "metric"])["value"]
    assert values["good", "amplitude_kl"] == row["value"].item()
    # Rayleigh amplitude varies by sqrt(4/pi - 1), whoever draws it.
    assert values["good", "amplitude_cv"] == pytest.approx(np.sqrt(4 / np.pi - 1), rel=0.05)
    for metric in ("amplitude_kl", "texture_distance"):
        assert values["good", metric] < values["smooth", metric]
    wide = verdict_table(table, HEADLINE, splits_of(table))
    assert list(wide["split"]) == ["seen"] * 3 + ["unseen"] * 3 and list(wide["strategy"][:3]) == ["good", "smooth", REAL_VS_REAL]
