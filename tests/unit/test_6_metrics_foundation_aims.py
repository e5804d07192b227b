"""The aims of the foundation by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sarnb.errors import InputError
from sarnb.metrics.targets import FOUNDATION_AIMS, INSIDE, MISSED, REACHED, UNKNOWN, foundation_aims, foundation_sentence


def _rows(**values):
    table = foundation_aims({key.replace("_", " "): value for key, value in values.items()}, 200, 0)
    return table, table.set_index(table["aim"].str.partition(":")[0])


def test_a_mean_has_an_interval_and_a_single_number_none():
    table, rows = _rows(recall=0.3, class_accuracy_of_scenes=np.array([1, 1, 1, 0] * 25))
    assert len(table) == len(FOUNDATION_AIMS)
    assert rows.loc["recall", "verdict"] == REACHED and np.isnan(rows.loc["recall", "lo"]) and rows.loc["recall", "n"] == 1
    scenes = rows.loc["class accuracy of scenes"]
    spread = 1.96 * np.sqrt(0.75 * 0.25 / 100)  # of a share over a hundred pictures
    assert scenes["value"] == 0.75 and scenes["n"] == 100 and scenes["verdict"] == MISSED
    assert scenes["lo"] == pytest.approx(0.75 - spread, abs=0.03) and scenes["hi"] == pytest.approx(0.75 + spread, abs=0.03)
    assert (table["verdict"] == UNKNOWN).sum() == len(FOUNDATION_AIMS) - 2


def test_chance_itself_is_not_more_than_chance_and_a_bound_is_met_by_itself():
    side, copies = "the sea on the side that is asked", "copies: nearer to training than 99 % of scenes"
    for values, expected in (([1, 0], INSIDE), ([1, 1, 0], REACHED), ([0.5, 0.5], MISSED)):
        table = foundation_aims({side: np.array(values), copies: 0.01}, 200, 0).set_index("aim")
        assert table.loc[f"{side}: above 0.5", "verdict"] == expected
        assert table.loc[f"{copies}: at most 0.01", "verdict"] == REACHED
    assert foundation_aims({copies: 0.02}, 0, 0).set_index("aim").loc[f"{copies}: at most 0.01", "verdict"] == MISSED


def test_the_sentence_names_what_was_missed_and_nothing_that_is_not_known():
    table, _ = _rows(recall=0.25, class_accuracy_of_scenes=1.0)
    assert foundation_sentence(table) == f"The foundation reaches 1 of {len(table)} aims; not: recall: at least 0.3 (0.25)."


def test_a_measure_without_an_aim_is_refused():
    with pytest.raises(InputError, match="no aim for beauty"):
        foundation_aims({"beauty": 1.0}, 0, 0)
