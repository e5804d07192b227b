"""Paired tests: exact on small cases, blind where nothing differs, and Holm's correction as published."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from tiny import tiny_set

from sarnb.errors import InputError
from sarnb.metrics.measured import measure
from sarnb.metrics.paired import exchange_test, holm, pair_sentences, paired_tests


def side_set(seed, gain=1.0, count=12):
    """Noise images of 32 px whose grey levels are multiplied by a gain."""
    rng = np.random.default_rng(seed)
    images = np.clip(rng.rayleigh(60, (count, 32, 32)) * gain, 0, 255).astype(np.uint8)
    return replace(tiny_set(count), images=images)


def test_holm_is_that_of_the_paper():
    assert holm(np.array([0.005, 0.011, 0.02, 0.04, 0.13])) == pytest.approx([0.025, 0.044, 0.06, 0.08, 0.13])
    assert holm(np.array([0.4, 0.6])).tolist() == [0.8, 0.8] and holm(np.empty(0)).size == 0


def test_p_is_the_share_of_all_exchanges():
    rng = np.random.default_rng(5)
    first, second, weights = rng.normal(0.8, 1, (8, 1)), rng.normal(0, 1, (8, 1)), np.full(8, 1 / 8)
    gaps = (first - second)[:, 0]
    exact = np.mean([abs(np.dot(signs, gaps)) >= abs(gaps.sum()) - 1e-12 for signs in product((1, -1), repeat=8)])
    seen, p = exchange_test(first, second, weights, lambda means: means[:, 0], 20_000, 0)
    assert seen == pytest.approx(gaps.mean()) and p == pytest.approx(exact, abs=0.01)
    turned, again = exchange_test(second, first, weights, lambda means: means[:, 0], 20_000, 1)
    assert turned == pytest.approx(-seen) and again == pytest.approx(p, abs=0.015)


def test_a_fair_coin_is_called_unfair_as_often_as_promised():
    rng = np.random.default_rng(1)
    p = [
        exchange_test(*rng.normal(size=(2, 12, 1)), np.full(12, 1 / 12), lambda means: means[:, 0], 199, k)[1]
        for k in range(300)
    ]
    assert 0.05 < np.mean(np.array(p) <= 0.1) < 0.15 and np.mean(p) == pytest.approx(0.5, abs=0.06)


def test_equal_images_never_differ():
    same = np.random.default_rng(0).normal(size=(6, 3))
    assert exchange_test(same, same, np.full(6, 1 / 6), lambda means: (means**2).sum(1), 200, 0) == (0.0, 1.0)


def test_the_nearer_strategy_is_named_and_like_ones_are_not_told_apart():
    real = measure(side_set(0, count=24))
    runs = {
        "like": {0: measure(side_set(11))},
        "like too": {0: measure(side_set(12))},
        "dark": {0: measure(side_set(3, 0.5))},
    }
    tests = paired_tests(real, runs, None, metrics=("amplitude_kl",), permutations=999)
    told = {(row.first, row.second): row.better for row in tests.itertuples()}
    assert told == {("like", "like too"): "not told apart", ("like", "dark"): "like", ("like too", "dark"): "like too"}
    row = tests[tests["second"] == "dark"].iloc[0]
    assert (
        row["difference"] < 0
        and row["p"] == pytest.approx(0.001)
        and row["p_holm"] == pytest.approx(0.003)
        and row["n"] == 12
    )
    (sentence,) = pair_sentences(tests)
    assert "2 of 3 pairs" in sentence and "like is better than dark" in sentence


def test_pairs_are_of_common_training_seeds_and_of_one_split():
    real = measure(side_set(0))
    parts = [measure(side_set(seed)) for seed in range(4)]
    runs = {"a": {0: parts[0], 1: parts[1]}, "b": {1: parts[2]}, "c": {7: parts[3]}}
    tests = paired_tests(real, runs, None, metrics=("amplitude_kl", "texture_distance", "clip_accuracy"), permutations=50)
    assert {(row.metric, row.first, row.second, row.seeds, row.n) for row in tests.itertuples()} == {
        ("amplitude_kl", "a", "b", 1, 12),
        ("texture_distance", "a", "b", 1, 12),
    }
    assert (
        paired_tests(real, runs, None, "unseen", permutations=50).empty and paired_tests(real, {"a": runs["a"]}, None).empty
    )


def test_other_prompts_are_refused():
    real, part = measure(side_set(0)), measure(side_set(1))
    other = replace(part, looks=part.looks[::-1])
    with pytest.raises(InputError, match="other classes or sides"):
        paired_tests(real, {"a": {0: part}, "b": {0: other}}, None, permutations=10)
