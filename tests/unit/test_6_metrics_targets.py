"""The targets by hand: one just met, one just missed, one inside its interval, one without a row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sarnb.errors import InputError
from sarnb.metrics import find_metric
from sarnb.metrics.evaluation import COLUMNS, REAL_VS_REAL
from sarnb.metrics.targets import INSIDE, MISSED, REACHED, TARGETS, UNKNOWN, target_sentences, target_table


def evaluation(*rows: tuple) -> pd.DataFrame:
    """Rows (strategy, seed, split, metric, value, lo, hi) as an evaluation table."""
    return pd.DataFrame([(s, k, split, "all", m, v, lo, hi, 8) for s, k, split, m, v, lo, hi in rows], columns=list(COLUMNS))


FLOOR = (REAL_VS_REAL, 0, "seen", "amplitude_kl", 0.125, 0.1, 0.2)
TABLE = evaluation(
    FLOOR,
    ("best", 0, "seen", "amplitude_kl", 0.25, 0.2, 0.6),  # the mean of both is 0.375, exactly 3 floors
    ("best", 1, "seen", "amplitude_kl", 0.5, 0.4, 0.7),
    ("best", 0, "seen", "clip_accuracy", 0.79, 0.70, 0.799),
    ("best", 0, "unseen", "clip_accuracy", 0.49, 0.40, 0.50),
    ("best", 0, "pooled", "look_accuracy", 0.90, 0.85, 0.95),
    ("best", 0, "pooled", "memorised_fraction", 0.01, 0.005, 0.02),
    ("other", 0, "pooled", "clip_recall", 0.9, 0.8, 1.0),
)


def test_targets_by_hand() -> None:
    table = target_table(TABLE, "best")
    assert table["verdict"].tolist() == [REACHED, MISSED, INSIDE, REACHED, UNKNOWN, MISSED]
    assert table["asked"].tolist() == pytest.approx([0.375, 0.8, 0.5, 0.9, 0.3, 0.0])
    assert table.loc[0, ["value", "lo", "hi"]].tolist() == pytest.approx([0.375, 0.2, 0.7])
    assert np.isnan(table.loc[4, ["value", "lo", "hi"]].astype(float)).all()
    lines = target_sentences(table, "best")
    assert lines[0].startswith("best reaches 2 of 6") and len(lines) == 7
    assert "0.79 [0.7, 0.799], target 0.8" in lines[2] and "not reached;" in lines[2]
    assert lines[5] == "recall at least 0.3 (pooled): could not be computed."


def test_just_above_three_floors_is_not_reached_and_the_interval_decides_how() -> None:
    for lo, verdict in ((0.375, INSIDE), (0.376, MISSED)):
        rows = evaluation(FLOOR, ("best", 0, "seen", "amplitude_kl", 0.376, lo, 0.5))
        assert target_table(rows, "best").loc[0, "verdict"] == verdict


def test_without_a_floor_a_target_that_counts_floors_cannot_be_computed() -> None:
    rows = evaluation(("best", 0, "seen", "amplitude_kl", 0.0, 0.0, 0.0), ("best", 0, "pooled", "memorised_fraction", 0, None, None))
    table = target_table(rows, "best")
    assert table.loc[0, "verdict"] == UNKNOWN and table.loc[5, "verdict"] == REACHED
    assert target_sentences(table, "best")[-1] == "no memorised image (pooled): reached; 0, target 0."


def test_targets_name_measures_of_the_catalogue_in_their_direction() -> None:
    for target in TARGETS:
        assert find_metric(target.metric).better == ("lower" if target.most else "higher")


def test_an_unknown_strategy_is_refused() -> None:
    for name in ("nobody", REAL_VS_REAL):
        with pytest.raises(InputError, match="no strategy"):
            target_table(TABLE, name)
