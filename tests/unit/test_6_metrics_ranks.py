"""Average ranks: by hand, certain where one strategy is better in everything, and honest where two are alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_set

from sarnb.errors import InputError
from sarnb.metrics.image_statistics import measure
from sarnb.metrics.significance import average_ranks, rank_sentences, rank_table


def part(seed, scale=60.0, count=16):
    rng = np.random.default_rng(seed)
    images = np.clip(rng.rayleigh(scale, (count, 32, 32)), 0, 255).astype(np.uint8)
    return measure(replace(tiny_set(count), images=images))


def test_ranks_by_hand():
    values = np.array([[0.1, 0.9], [0.2, 0.5], [0.2, 0.7]])  # the first measure lower is better, the second higher
    assert average_ranks(values, np.array([False, True])).tolist() == [1.0, 2.75, 2.25]


def test_a_strategy_that_is_worse_in_everything_is_surely_last():
    real = part(0)
    runs = {"bad": {0: part(3, 20.0)}, "good": {0: part(1), 1: part(2)}}
    table = rank_table(real, runs, None, metrics=("amplitude_kl", "texture_distance", "clip_accuracy"), resamples=40)
    assert table["strategy"].tolist() == ["good", "bad"] and table.columns[-2:].tolist() == [
        "amplitude_kl",
        "texture_distance",
    ]
    assert table.iloc[1][["average rank", "lo", "hi", "first"]].tolist() == [2.0, 2.0, 2.0, 0.0]
    assert "no other interval reaches it" in rank_sentences(table)[0]


def test_two_alike_share_the_place():
    real = part(0)
    table = rank_table(real, {"one": {0: part(1)}, "two": {0: part(2)}}, None, metrics=("amplitude_kl",), resamples=100)
    assert (table["lo"] == 1).all() and (table["hi"] == 2).all() and table["first"].sum() == pytest.approx(1)
    assert "its interval reaches those of" in rank_sentences(table)[0]


def test_what_cannot_be_ranked_is_refused():
    real, runs = part(0), {"one": {0: part(1)}}
    with pytest.raises(InputError, match="amplitude_enl has no better direction"):
        rank_table(real, runs, None, metrics=("amplitude_enl",))
    with pytest.raises(InputError, match="no measure on unseen"):
        rank_table(real, runs, None, split="unseen", metrics=("amplitude_kl",))


def test_a_measure_that_failed_its_admission_is_not_ranked_unless_nothing_else_is_there():
    real, runs = part(0), {"one": {0: part(1)}, "two": {0: part(3, 20.0)}}
    both = ("amplitude_kl", "texture_distance")
    table = rank_table(real, runs, None, metrics=both, resamples=5, distrusted=["amplitude_kl"])
    pd.testing.assert_frame_equal(table, rank_table(real, runs, None, metrics=("texture_distance",), resamples=5))
    assert "over texture_distance:" in rank_sentences(table, ["amplitude_kl"])[0]
    none_left = rank_table(real, runs, None, metrics=both, resamples=5, distrusted=both)
    pd.testing.assert_frame_equal(none_left, rank_table(real, runs, None, metrics=both, resamples=5))
    assert "this rank carries no weight" in rank_sentences(none_left, both)[0]
