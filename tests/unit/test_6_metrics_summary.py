"""The verdict's table and sentences say what the numbers say."""

from __future__ import annotations

import pandas as pd
import pytest

from sarnb.errors import InputError
from sarnb.metrics import KEY_METRICS, METRICS
from sarnb.metrics.evaluation import COLUMNS
from sarnb.metrics.report import over_seeds, rank, sentences, verdict_table


def table(*rows: tuple) -> pd.DataFrame:
    """Rows (strategy, seed, metric, value, lo, hi) as an evaluation table of the pooled split."""
    return pd.DataFrame([(s, k, "pooled", "all", m, v, lo, hi, 8) for s, k, m, v, lo, hi in rows], columns=list(COLUMNS))


EVALUATION = table(
    ("real vs real", 0, "amplitude_kl", 0.01, 0.005, 0.02),
    ("hybrid", 0, "amplitude_kl", 0.10, 0.08, 0.12),
    ("hybrid", 1, "amplitude_kl", 0.14, 0.11, 0.16),
    ("unet-full", 0, "amplitude_kl", 0.15, 0.13, 0.19),
    ("token", 0, "amplitude_kl", 0.90, 0.80, 1.00),
    ("real vs real", 0, "amplitude_cv", 0.8, 0.7, 0.9),
    ("hybrid", 0, "amplitude_cv", 0.5, 0.45, 0.55),
    ("token", 0, "amplitude_cv", 0.9, 0.85, 0.95),
)


def test_seeds_are_joined() -> None:
    joined = over_seeds(EVALUATION).set_index(["strategy", "metric"]).loc[("hybrid", "amplitude_kl")]
    assert (joined["value"], joined["lo"], joined["hi"], joined["n"], joined["seeds"]) == pytest.approx((0.12, 0.08, 0.16, 16, 2))


def test_verdict_table_puts_anchors_last() -> None:
    wide = verdict_table(EVALUATION, ["amplitude_kl", "amplitude_cv", "clip_recall"])
    assert list(wide.columns) == ["split", "strategy", "seeds", "amplitude_kl", "amplitude_cv"]
    assert wide["seeds"].tolist() == [2, 1, 1, ""]
    assert wide["strategy"].tolist() == ["hybrid", "unet-full", "token", "real vs real"]
    assert wide.loc[0, "amplitude_kl"] == "0.12 [0.08, 0.16]"
    assert wide.loc[1, "amplitude_cv"] == ""


def test_rank_follows_the_direction_of_the_metric() -> None:
    assert rank(EVALUATION, "amplitude_kl")["strategy"].tolist() == ["hybrid", "unet-full", "token"]
    assert rank(EVALUATION, "amplitude_cv")["strategy"].tolist() == ["token", "hybrid"]  # 0.9 is nearer to 0.8 than 0.5
    accuracy = table(("a", 0, "clip_accuracy", 0.2, 0.1, 0.3), ("b", 0, "clip_accuracy", 0.9, 0.8, 1.0))
    assert rank(accuracy, "clip_accuracy")["strategy"].tolist() == ["b", "a"]


def test_sentences_name_best_overlap_and_floor() -> None:
    kl, cv, recall = sentences(EVALUATION, ["amplitude_kl", "amplitude_cv", "clip_recall"])
    assert kl == (
        "Amplitude KL (pooled) is lowest for hybrid: 0.12 [0.08, 0.16], an interval that overlaps that of unet-full, "
        "so these are not told apart (real vs real 0.01)."
    )
    assert "nearest to real images for token" in cv and "overlaps no other strategy's" in cv
    assert recall == "SAR-CLIP recall could not be computed for any strategy on pooled."


def test_equal_distances_on_either_side_of_real_are_not_told_apart() -> None:
    rows = table(
        ("real vs real", 0, "amplitude_cv", 0.8, 0.7, 0.9),
        ("a", 0, "amplitude_cv", 0.6, 0.55, 0.65),
        ("b", 0, "amplitude_cv", 1.01, 0.96, 1.06),
    )
    assert "a distance whose interval overlaps that of b" in sentences(rows, ["amplitude_cv"])[0]


def test_ties_are_shared() -> None:
    tied = table(("a", 0, "clip_accuracy", 0.5, 0.4, 0.6), ("b", 0, "clip_accuracy", 0.5, 0.4, 0.6))
    assert "highest for a and b" in sentences(tied, ["clip_accuracy"])[0]


def test_without_intervals_nothing_is_settled() -> None:
    bare = table(("a", 0, "amplitude_kl", 0.5, None, None), ("b", 0, "amplitude_kl", 0.6, None, None))
    assert "without intervals the order is not settled" in sentences(bare, ["amplitude_kl"])[0]


def test_bad_input() -> None:
    assert set(KEY_METRICS) <= set(METRICS)
    with pytest.raises(InputError, match="unknown"):
        verdict_table(EVALUATION, ["fid"])
    with pytest.raises(InputError, match="nothing for split"):
        verdict_table(EVALUATION, splits=["unseen"])
    with pytest.raises(InputError, match="no column"):
        over_seeds(pd.DataFrame({"a": [1]}))
    with pytest.raises(InputError, match="real vs real"):
        rank(EVALUATION[EVALUATION["strategy"] != "real vs real"], "amplitude_cv")
