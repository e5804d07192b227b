"""The comparison of worlds on tables made by hand, whose sentences must say what the numbers say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sarnb.data.measured import ImageGroup
from sarnb.errors import InputError
from sarnb.metrics import twin_vs_real as worlds
from sarnb.metrics.describe import RAYLEIGH_CV


def table(**columns: list) -> pd.DataFrame:
    return pd.DataFrame(columns)


OWN = table(**{"class": ["city", "forest", "coast"], "cv": [1.2, 0.6, 0.2], "enl": [1.0, 1.1, 1.2]})
REAL = table(
    sensor=["A", "A", "B", "B"], **{"class": ["city", "shanghai", "city", "sea"], "cv": [0.9, 0.5, 0.7, 0.4], "enl": [3.0, 1.0, 0.5, 0.6]}
)


def test_group_table_measures_each_group() -> None:
    noise = np.clip(np.random.default_rng(0).rayleigh(40, (4, 64, 64)), 0, 255).astype(np.uint8)
    groups = [ImageGroup("made", "X", "flat", noise[:3]), ImageGroup("made", "Y", "flat", np.maximum(noise[3:], 100))]
    found = worlds.group_table(groups, "real")
    assert found[["world", "source", "sensor", "class", "n"]].values.tolist() == [
        ["real", "made", "X", "flat", 3],
        ["real", "made", "Y", "flat", 1],
    ]
    assert found["cv"][0] == pytest.approx(RAYLEIGH_CV, rel=0.03) and found["cv"][1] < 0.2
    assert set(worlds.SCALE_FREE) <= set(found.columns)


def test_gaps_name_exactly_the_classes_outside() -> None:
    gaps = worlds.world_gaps(OWN, REAL, ("cv", "enl")).set_index("measure")
    assert gaps.loc["cv", ["own low", "own high", "real low", "real high"]].tolist() == [0.2, 1.2, 0.4, 0.9]
    assert gaps.loc["cv", ["below", "above", "outside"]].tolist() == ["coast 0.2", "city 1.2", 2]
    assert gaps.loc["enl", ["below", "above", "outside"]].tolist() == ["", "", 0]
    with pytest.raises(InputError, match="no row"):
        worlds.world_gaps(OWN, REAL[:0])


def test_sentences_follow_the_table() -> None:
    sentences = worlds.gap_sentences(worlds.world_gaps(OWN, REAL, ("cv", "enl")), 3, "twin")
    assert sentences == [
        "cv: the real images span 0.4 to 0.9; 2 of 3 twin classes lie outside, below it coast 0.2 and above it city 1.2.",
        "enl: the real images span 0.5 to 3; all 3 twin classes lie inside, at 1 to 1.2.",
    ]


def test_values_without_looks_are_doubted() -> None:
    assert worlds.no_amplitude(REAL).to_dict() == {"B": pytest.approx(0.55)}


def test_medians_keep_sensors_apart() -> None:
    both = pd.concat([OWN.assign(world="twin", sensor="X"), REAL.assign(world="real")])
    medians = worlds.sensor_medians(both, ("cv",))
    assert medians.values.tolist() == [["twin", "X", 3, 0.6], ["real", "A", 2, pytest.approx(0.7)], ["real", "B", 2, pytest.approx(0.55)]]


def test_counterparts_are_matched_by_meaning_and_one_is_no_range() -> None:
    alike = worlds.alike_table(OWN, REAL, ("cv", "enl"))
    assert alike.values.tolist() == [["city", 3, "1.20 >(0.50 to 0.90)", "1.00 (0.50 to 3.00)"]]
    assert worlds.alike_sentences(alike, ("cv", "enl")) == [
        "cv: larger than in all its real counterparts for city.",
        "enl: every class within the span of its real counterparts.",
    ]
    small = worlds.alike_table(OWN.assign(cv=0.1), REAL, ("cv",))
    assert worlds.alike_sentences(small, ("cv",)) == ["cv: smaller than in all its real counterparts for city."]
    assert worlds.alike_table(OWN, REAL.assign(**{"class": "sea"})).empty
