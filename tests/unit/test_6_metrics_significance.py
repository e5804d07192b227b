"""Paired tests, average ranks and changes: exact on small cases, blind where nothing differs, Holm's correction as published."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_set

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics.describe import measure
from sarnb.metrics.evaluation import combine, evaluate
from sarnb.metrics.report import over_seeds
from sarnb.metrics.significance import (
    average_ranks,
    exchange_test,
    holm,
    pair_sentences,
    pair_table,
    paired_changes,
    paired_tests,
    rank_sentences,
    rank_table,
)


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
    seen, p, deviation = exchange_test(first, second, weights, lambda means: means[:, 0], 20_000, 0)
    assert seen == pytest.approx(gaps.mean()) and p == pytest.approx(exact, abs=0.01)
    assert deviation == pytest.approx(np.sqrt((gaps**2).sum()) / 8, rel=0.03)  # signs are independent, so that variances add
    turned, again, _ = exchange_test(second, first, weights, lambda means: means[:, 0], 20_000, 1)
    assert turned == pytest.approx(-seen) and again == pytest.approx(p, abs=0.015)


def test_a_fair_coin_is_called_unfair_as_often_as_promised():
    rng = np.random.default_rng(1)
    p = [exchange_test(*rng.normal(size=(2, 12, 1)), np.full(12, 1 / 12), lambda means: means[:, 0], 199, k)[1] for k in range(300)]
    assert 0.05 < np.mean(np.array(p) <= 0.1) < 0.15 and np.mean(p) == pytest.approx(0.5, abs=0.06)


def test_equal_images_never_differ():
    same = np.random.default_rng(0).normal(size=(6, 3))
    assert exchange_test(same, same, np.full(6, 1 / 6), lambda means: (means**2).sum(1), 200, 0) == (0.0, 1.0, 0.0)


def test_the_nearer_strategy_is_named_and_like_ones_are_not_distinguished():
    real = measure(side_set(0, count=24))
    runs = {
        "like": {0: measure(side_set(11))},
        "like too": {0: measure(side_set(12))},
        "dark": {0: measure(side_set(3, 0.5))},
    }
    tests = paired_tests(real, runs, None, metrics=("amplitude_kl",), permutations=999)
    reported = {(row.first, row.second): row.better for row in tests.itertuples()}
    assert reported == {("like", "like too"): "not distinguished", ("like", "dark"): "like", ("like too", "dark"): "like too"}
    row = tests[tests["second"] == "dark"].iloc[0]
    assert row["difference"] < 0 and row["p"] == pytest.approx(0.001) and row["p_holm"] == pytest.approx(0.003) and row["n"] == 12
    assert row["shown"] == "≤ 0.003" and not tests.iloc[0]["shown"].startswith("≤")  # no exchange went as far; some went further
    assert set(tests["winner"]) == {"trained once"} and tests[["lo", "hi"]].isna().all(axis=None)
    (sentence,) = pair_sentences(tests)
    assert "2 of 3 pairs differ" in sentence and sentence.endswith("only these trained models are compared and no strategy wins.")
    assert pair_table(tests)["models"].tolist() == ["like over dark; like too over dark"] and pair_table(tests)["wins"].tolist() == [""]


def test_pairs_are_of_common_training_seeds_and_of_one_split():
    real = measure(side_set(0))
    parts = [measure(side_set(seed)) for seed in range(4)]
    runs = {"a": {0: parts[0], 1: parts[1]}, "b": {1: parts[2]}, "c": {7: parts[3]}}
    tests = paired_tests(real, runs, None, metrics=("amplitude_kl", "texture_distance", "clip_accuracy"), permutations=50)
    assert {(row.metric, row.first, row.second, row.seeds, row.n) for row in tests.itertuples()} == {
        ("amplitude_kl", "a", "b", 1, 12),
        ("texture_distance", "a", "b", 1, 12),
    }
    assert paired_tests(real, runs, None, "unseen", permutations=50).empty and paired_tests(real, {"a": runs["a"]}, None).empty


def test_other_prompts_are_refused():
    real, part = measure(side_set(0)), measure(side_set(1))
    other = replace(part, looks=part.looks[::-1])
    for runs in ({"a": {0: part}, "b": {0: other}}, {"a": {0: part, 1: other}, "b": {0: part, 1: other}}):
        with pytest.raises(InputError, match="other classes or sides"):
            paired_tests(real, runs, None, permutations=10)


def test_the_difference_is_that_of_the_means_over_seeds_in_the_evaluation_table():
    real = measure(side_set(0, count=24))
    runs = {
        "a": {0: measure(side_set(11)), 1: measure(side_set(12, 0.5)), 2: measure(side_set(13, 1.4))},
        "b": {0: measure(side_set(21)), 1: measure(side_set(22, 0.8)), 2: measure(side_set(23, 1.1))},
    }
    metrics = ("amplitude_kl", "log_cumulant_distance", "zero_share_distance", "texture_distance", "look_accuracy")
    table = over_seeds(combine([evaluate(name, k, real, part, None, 0) for name, own in runs.items() for k, part in own.items()]))
    value = table[(table["split"] == "pooled") & (table["class"] == "all")].set_index(["metric", "strategy"])["value"]
    tests = paired_tests(real, runs, None, metrics=metrics, permutations=20)
    assert set(tests["metric"]) == set(metrics) and (tests["seeds"] == 3).all() and (tests["n"] == 12).all()
    for row in tests.itertuples():
        assert row.difference == pytest.approx(value[row.metric, "a"] - value[row.metric, "b"], rel=1e-9, abs=1e-12)
        assert row.lo < row.difference < row.hi
    uneven = paired_tests(real, {**runs, "c": {0: runs["b"][0]}}, None, metrics=("amplitude_kl",), permutations=20)
    assert "1 of the pairs were trained with several common seeds" in pair_sentences(uneven)[0]


def test_a_strategy_wins_where_its_lead_exceeds_the_spread_of_trainings_and_not_by_many_images_alone():
    real = measure(side_set(0, count=24))
    darks, steady = [
        {k: measure(side_set(40 + k, gain)) for k, gain in enumerate(gains)} for gains in ((0.3, 0.95, 0.8), (0.5, 0.52, 0.51))
    ]
    like = {k: measure(side_set(50 + k)) for k in range(3)}
    tests = paired_tests(real, {"like": like, "uneven": darks, "dark": steady}, None, metrics=("amplitude_kl",), permutations=999)
    reported = tests.set_index(["first", "second"])
    assert reported.loc[("like", "uneven"), "better"] == "like" and reported.loc[("like", "uneven"), "winner"] == "not distinguished"
    assert reported.loc[("like", "dark"), "winner"] == "like"
    assert "the better strategy is known: like over dark." in pair_sentences(tests)[0]


def test_images_of_one_prompt_are_exchanged_for_all_seeds_together():
    rng = np.random.default_rng(7)
    first, second, weights = rng.normal(0.7, 1, (2, 6, 1)), rng.normal(0, 1, (2, 6, 1)), np.full(6, 1 / 6)

    def square(means):  # not linear, so that the mean of the statistic is not the statistic of the mean
        return means[:, 0] ** 2

    def gap(signs):
        swapped = [np.where(np.array(signs)[:, None], (b, a), (a, b)) for a, b in zip(first, second)]
        return np.mean([weights @ a[:, 0] * (weights @ a[:, 0]) - (weights @ b[:, 0]) ** 2 for a, b in swapped])

    every = np.array([gap(signs) for signs in product((False, True), repeat=6)])
    seen, p, _ = exchange_test(first, second, weights, square, 20_000, 0)
    assert seen == pytest.approx(every[0]) and p == pytest.approx(np.mean(abs(every) >= abs(every[0]) - 1e-12), abs=0.015)


def part(seed, scale=60.0, count=16):
    return measure(side_set(seed, scale / 60, count))


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
    assert table["seeds"].tolist() == [2, 1]
    (sentence,) = rank_sentences(table)
    assert (
        "no other interval reaches it" in sentence and sentence.endswith("no winner among strategies is named.") and "bad was" in sentence
    )


def test_the_interval_of_an_average_rank_holds_the_luck_of_the_training():
    real = part(0)
    runs = {"lucky": {0: part(1), 1: part(2, 20.0), 2: part(4)}, "middling": {0: part(3, 45.0), 1: part(5, 45.0), 2: part(6, 45.0)}}
    table = rank_table(real, runs, None, metrics=("amplitude_kl",), resamples=100).set_index("strategy")
    assert (table["lo"] == 1).all() and (table["hi"] == 2).all()  # redrawn images alone never change the order, redrawn trainings do
    fixed = rank_table(real, {name: {0: own[0]} for name, own in runs.items()}, None, metrics=("amplitude_kl",), resamples=100)
    assert fixed["hi"].tolist() == [1, 2]


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


# The change that one thing more makes: equal to direct computation, and narrow where images are paired.


def speckle(count: int, seed: int, contrast: float = 1.0) -> ImageSet:
    """Rayleigh amplitude around level 75, its deviations times ``contrast``, 32 px, a seen and an unseen class in turn.

    Images differ in brightness too, so that the measures vary over redrawn images.
    """
    rng = np.random.default_rng(seed)
    gains = rng.uniform(0.5, 1.5, (count, 1, 1))
    levels = gains * (75 + contrast * (60 * rng.rayleigh(size=(count, 32, 32)) - 75))
    labels = tuple("city" if number % 2 else "harbour" for number in range(count))
    groups = ("unseen", "seen")
    rows = tuple({"label": label, "group": groups[n % 2], "look": "left", "seed": n} for n, label in enumerate(labels))
    return ImageSet(Path("."), levels.clip(0, 255).astype(np.uint8), rows)


def spread_of(images: ImageSet, label: str) -> float:
    """Coefficient of variation over all pixels of a class."""
    levels = images.where(label=(label,)).images.astype(float)
    return levels.std() / levels.mean()


def kl_of(table: pd.DataFrame, split: str) -> pd.Series:
    """The row of the evaluation table for amplitude KL over a whole split."""
    return table[(table["split"] == split) & (table["class"] == "all") & (table["metric"] == "amplitude_kl")].iloc[0]


def test_the_change_is_the_difference_of_distances_from_the_real_images():
    test, without, flat = speckle(24, 0), speckle(16, 1), speckle(16, 1, 0.5)
    table = paired_changes(test, {0: without}, {0: flat}, resamples=50)
    assert set(table["split"]) == {"seen", "unseen"} and (table["n"] == 8).all() and (table["seeds"] == 1).all()
    rows = table.set_index(["split", "metric"])
    for split, label in (("seen", "city"), ("unseen", "harbour")):
        real, old, new = (spread_of(images, label) for images in (test, without, flat))
        row = rows.loc[split, "amplitude_cv"]
        assert row["change"] == pytest.approx(abs(new - real) - abs(old - real), abs=1e-3) and row["lo"] > 0
        both = [kl_of(evaluate("x", 0, test, images, None, 0), split)["value"] for images in (without, flat)]
        assert rows.loc[split, "amplitude_kl"][["without", "with"]].tolist() == pytest.approx(both)
    turned = paired_changes(test, {0: flat}, {0: without}, resamples=50)
    assert turned["change"].tolist() == pytest.approx((-table["change"]).tolist())
    assert turned.set_index(["split", "metric"]).loc[("unseen", "amplitude_cv"), "hi"] < 0


def test_what_both_share_cancels():
    test, without = speckle(24, 0), speckle(16, 1)
    nothing = paired_changes(test, {0: without}, {0: without}, resamples=50)
    assert (nothing[["change", "lo", "hi"]] == 0).all(axis=None)
    near = replace(without, images=np.minimum(without.images.astype(int) + 4, 255).astype(np.uint8))
    row = paired_changes(test, {0: without}, {0: near}, ("amplitude_kl",), 200).set_index("split").loc["seen"]
    alone = kl_of(evaluate("x", 0, test, without, None, 200), "seen")
    assert row["lo"] < row["hi"] and row["hi"] - row["lo"] < 0.5 * (alone["hi"] - alone["lo"])


def test_common_trainings_are_averaged_and_the_others_tell_the_spread():
    test = speckle(24, 0)
    old, new = {k: speckle(16, k + 1) for k in range(3)}, {k: speckle(16, k + 9, 0.7) for k in (1, 2)}
    each = [paired_changes(test, {k: old[k]}, {k: new[k]}, resamples=20) for k in (1, 2)]
    table = paired_changes(test, old, new, resamples=20)
    assert table["change"].tolist() == pytest.approx(np.mean([part["change"] for part in each], axis=0).tolist())
    assert (table["seeds"] == 2).all() and (table["n"] == 16).all() and each[0]["spread"].isna().all()
    alone = np.array([paired_changes(test, {k: old[k]}, {k: old[k]}, resamples=0)["without"] for k in range(3)])
    assert table["spread"].tolist() == pytest.approx(np.ptp(alone, axis=0).tolist())


def test_what_cannot_be_compared_is_refused():
    test, images = speckle(8, 0), speckle(8, 1)
    other = replace(images, rows=tuple({**row, "seed": 5} for row in images.rows))
    for without, with_it, metrics, words in (
        ({0: images}, {1: images}, ("amplitude_kl",), "none in common"),
        ({0: images}, {0: other}, ("amplitude_kl",), "other noise"),
        ({0: images}, {0: images}, ("clip_accuracy",), "no distance"),
    ):
        with pytest.raises(InputError, match=words):
            paired_changes(test, without, with_it, metrics, 5)
