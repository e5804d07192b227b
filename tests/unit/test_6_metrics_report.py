"""The evaluation rearranged, put into words and made ready to draw, says what its numbers say."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics import HEADLINE, KEY_METRICS, METRICS, find_metric, texture
from sarnb.metrics.describe import measure
from sarnb.metrics.evaluation import COLUMNS, FROZEN_DECODER, OPTICAL_AS_GREY, REFERENCE_FLOOR, TUNED_DECODER, evaluate
from sarnb.metrics.report import (
    INSIDE,
    MISSED,
    OPEN,
    REACHED,
    TARGETS,
    UNKNOWN,
    amplitude_shares,
    class_means,
    cumulant_points,
    headline_anchors,
    headline_measures,
    measured_sentences,
    over_seeds,
    pareto_table,
    protocol_table,
    rank,
    sentences,
    shared_labels,
    splits_of,
    target_sentences,
    target_table,
    texture_curves,
    verdict_table,
)


def table(*rows: tuple) -> pd.DataFrame:
    """Rows (strategy, seed[, split], metric, value, lo, hi) as an evaluation table, of the pooled split where none is named."""
    whole = [(*row[:2], *("pooled",)[: 7 - len(row)], *row[2:]) for row in rows]
    return pd.DataFrame([(s, k, split, "all", m, v, lo, hi, 8) for s, k, split, m, v, lo, hi in whole], columns=list(COLUMNS))


EVALUATION = table(
    ("reference vs reference", 0, "amplitude_kl", 0.01, 0.005, 0.02),
    ("hybrid", 0, "amplitude_kl", 0.10, 0.08, 0.12),
    ("hybrid", 1, "amplitude_kl", 0.14, 0.11, 0.16),
    ("unet-full", 0, "amplitude_kl", 0.15, 0.13, 0.19),
    ("token", 0, "amplitude_kl", 0.90, 0.80, 1.00),
    ("reference vs reference", 0, "amplitude_cv", 0.8, 0.7, 0.9),
    ("hybrid", 0, "amplitude_cv", 0.5, 0.45, 0.55),
    ("token", 0, "amplitude_cv", 0.9, 0.85, 0.95),
)


def test_seeds_are_joined() -> None:
    joined = over_seeds(EVALUATION).set_index(["strategy", "metric"]).loc[("hybrid", "amplitude_kl")]
    assert (joined["value"], joined["n"], joined["seeds"]) == pytest.approx((0.12, 16, 2))
    # by hand: the deviation of two values 0.04 apart over root 2 is 0.02, and the halves over images are 0.02, 0.03 and 0.02, 0.02
    trainings = stats.t.ppf(0.975, 1) * 0.02
    assert joined["hi"] == pytest.approx(0.12 + np.hypot(0.02, trainings)) and joined["lo"] == 0  # a distance is not below 0


def test_intervals_of_several_trainings_cover_the_strategys_own_value() -> None:
    """Trainings scatter around the strategy by 0.1 or 0.02, images around the model by 0.05 and alike in all of them."""
    rng, rows = np.random.default_rng(4), []
    for k, scatter, number in product((2, 3), (0.02, 0.1), range(300)):
        values = 1 + rng.normal(0, scatter, k) + rng.normal(0, 0.05)
        rows += [
            (f"{k} {scatter} {number}", seed, "amplitude_kl", value, value - 0.098, value + 0.098) for seed, value in enumerate(values)
        ]
    joined = over_seeds(table(*rows))
    covered = ((joined["lo"] <= 1) & (joined["hi"] >= 1)).groupby(joined["strategy"].str.rsplit(" ", n=1).str[0]).mean()
    assert len(covered) == 4 and covered.between(0.93, 0.999).all()
    bare = rng.normal(1, 0.1, (300, 3))  # one training's interval, if it were read as the strategy's
    assert (abs(bare[:, 0] - 1) <= 0.098).mean() < 0.8


def test_verdict_table_puts_anchors_last() -> None:
    wide = verdict_table(EVALUATION, ["amplitude_kl", "amplitude_cv", "clip_recall"])
    assert list(wide.columns) == ["split", "strategy", "seeds", "amplitude_kl", "amplitude_cv"]
    assert wide["seeds"].tolist() == [2, 1, 1, ""]
    assert wide["strategy"].tolist() == ["hybrid", "unet-full", "token", "reference vs reference"]
    assert wide.loc[0, "amplitude_kl"].startswith("0.12 [")
    assert wide.loc[1, "amplitude_cv"] == ""


def test_rank_follows_the_direction_of_the_metric() -> None:
    assert rank(EVALUATION, "amplitude_kl")["strategy"].tolist() == ["hybrid", "unet-full", "token"]
    assert rank(EVALUATION, "amplitude_cv")["strategy"].tolist() == ["token", "hybrid"]  # 0.9 is nearer to 0.8 than 0.5
    accuracy = table(("a", 0, "clip_accuracy", 0.2, 0.1, 0.3), ("b", 0, "clip_accuracy", 0.9, 0.8, 1.0))
    assert rank(accuracy, "clip_accuracy")["strategy"].tolist() == ["b", "a"]


def test_sentences_name_best_overlap_and_floor() -> None:
    kl, cv, recall = sentences(EVALUATION, ["amplitude_kl", "amplitude_cv", "clip_recall"])
    assert kl == (
        "Amplitude KL (pooled) is lowest for hybrid: 0.12 [0, 0.375], an interval that overlaps that of unet-full, so these are not "
        "distinguished (reference vs reference 0.01). unet-full and token were trained once: of those only the trained models are "
        "compared, and no winner among strategies is named."
    )
    assert "nearest to the reference for token" in cv and "overlaps no other strategy's" in cv
    assert recall == "SAR-CLIP recall could not be computed for any strategy on pooled."


def test_equal_distances_on_either_side_of_real_are_not_distinguished() -> None:
    rows = table(
        ("reference vs reference", 0, "amplitude_cv", 0.8, 0.7, 0.9),
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
    with pytest.raises(InputError, match="reference vs reference"):
        rank(EVALUATION[EVALUATION["strategy"] != "reference vs reference"], "amplitude_cv")


def test_the_protocol_names_the_numbers_that_belong_to_the_definitions():
    values = protocol_table(500).set_index("item")["value"]
    assert "256" in values["amplitude histogram"] and "1e-06" in values["smoothing of KL and reverse KL"]
    assert "64" in values["GLCM levels"] and values["GLCM distances"] == "1, 2, 4, 8 px"
    assert "500" in values["intervals"] and values["resamples of Fréchet distances"] == "100"
    assert values["resamples of average ranks"] == "100 where a Fréchet distance is ranked too, else 500"
    assert protocol_table(20).set_index("item")["value"]["resamples of Fréchet distances"] == "20"


def test_splits_are_those_of_strategies_not_of_anchors():
    splits = [("hybrid", "unseen"), ("scratch", "seen"), (REFERENCE_FLOOR, "composition"), (REFERENCE_FLOOR, "seen")]
    assert splits_of(table(*((name, 0, split, "clip_accuracy", 0.5, 0.4, 0.6) for name, split in splits))) == ["seen", "unseen"]


def rayleigh_set(count: int, seed: int) -> ImageSet:
    """Single-look Rayleigh amplitude, 32 px, two classes."""
    rng = np.random.default_rng(seed)
    images = np.minimum(255, 60 * rng.rayleigh(size=(count, 32, 32))).astype(np.uint8)
    labels = tuple("city" if number % 2 else "harbour" for number in range(count))
    return ImageSet(Path("."), images, tuple({"label": label, "group": "seen" if label == "city" else "unseen"} for label in labels))


def test_headline_measures_are_rows_of_the_evaluation_with_anchors():
    test, good = rayleigh_set(12, 0), rayleigh_set(12, 1)
    smooth = replace(good, images=(128 + (good.images.astype(float) - 128) / 8).astype(np.uint8))
    table = headline_measures(test, {("good", 0): good, ("smooth", 0): smooth}, headline_anchors(test, good.labels, 20), resamples=20)
    assert set(table["metric"]) == set(HEADLINE) and set(table["class"]) == {"all"} and REFERENCE_FLOOR in set(table["strategy"])
    assert splits_of(table) == ["seen", "unseen"]
    whole = evaluate("good", 0, test, good, None, 20)
    row = whole[(whole["metric"] == "amplitude_kl") & (whole["split"] == "seen") & (whole["class"] == "all")]
    values = table[table["split"] == "seen"].set_index(["strategy", "metric"])["value"]
    assert values["good", "amplitude_kl"] == row["value"].item()
    # Rayleigh amplitude varies by sqrt(4/pi - 1), whoever draws it.
    assert values["good", "amplitude_cv"] == pytest.approx(np.sqrt(4 / np.pi - 1), rel=0.05)
    for metric in ("amplitude_kl", "texture_distance"):
        assert values["good", metric] < values["smooth", metric]
    sentences = measured_sentences(table)
    assert len(sentences) == len(HEADLINE) + 1 and sentences[0].startswith("The amplitude KL in nats: on seen classes good has ")
    for metric, line in zip(HEADLINE, sentences):
        assert f"good has {values['good', metric]:.3g}" in line and "; on unseen classes good has " in line
        assert f"and reference vs reference {values[REFERENCE_FLOOR, metric]:.3g}" in line
    assert "numbers: good 1, smooth 1; of one training" in sentences[-1], "anchors are not trained"
    wide = verdict_table(table, HEADLINE, splits_of(table))
    assert list(wide["split"]) == ["seen"] * 3 + ["unseen"] * 3 and list(wide["strategy"][:3]) == ["good", "smooth", REFERENCE_FLOOR]


def image_set(counts: dict[str, int], scale: float = 60.0, seed: int = 0) -> ImageSet:
    """Single-look speckle images, of twice the amplitude for each further class."""
    rng, images, labels = np.random.default_rng(seed), [], []
    for index, (label, count) in enumerate(counts.items()):
        amplitude = scale * 2.0**index * np.sqrt(rng.exponential(size=(count, 64, 64)))
        images.append(np.clip(np.rint(amplitude), 0, 255).astype(np.uint8))
        labels += [label] * count
    rows = tuple({"text": f"a radar image of {label}", "label": label, "group": "seen"} for label in labels)
    return ImageSet(Path("x"), np.concatenate(images), rows)


REAL = measure(image_set({"a": 6, "b": 2}, 20.0))
DRAWN = measure(image_set({"b": 2, "c": 2}, 20.0, seed=1))


def test_only_shared_classes_are_used_and_each_counts_the_same():
    assert shared_labels([REAL, DRAWN]) == ("b",)
    with pytest.raises(InputError, match="no class in common"):
        shared_labels([REAL, measure(image_set({"z": 2}))])
    values = np.array([1.0, 1, 1, 1, 1, 1, 5, 7])
    assert class_means(values, REAL.labels, ("b", "a")).tolist() == [6.0, 1.0]


def test_amplitude_shares_sum_to_one_and_match_the_pixels():
    shares = amplitude_shares({"real": [REAL], "own": [DRAWN, DRAWN]})
    assert [share.sum() for share in shares.values()] == pytest.approx([1.0, 1.0])
    b = image_set({"b": 2, "c": 2}, 20.0, seed=1).images[:2]
    assert shares["own"] == pytest.approx(np.bincount(b.ravel(), minlength=256) / b.size)


def test_texture_curves_are_the_mean_descriptors():
    curves = texture_curves({"real": [REAL], "same": [REAL, REAL]})
    assert len(curves) == 2 * len(texture.descriptor_names())
    row = curves.query("strategy == 'same' and property == 'entropy' and direction == 'azimuth' and distance == 4")
    column = texture.descriptor_names().index("entropy azimuth 4")
    by_class = [REAL.descriptors[:6, column].mean(), REAL.descriptors[6:, column].mean()]
    assert row["value"].tolist() == pytest.approx([np.mean(by_class)])


def test_log_cumulants_of_flat_speckle_are_those_of_theory():
    points = cumulant_points({"real": [measure(image_set({"a": 16}))]}).set_index("class")
    assert points.loc["a", "kappa2"] == pytest.approx(np.pi**2 / 24, rel=0.05)
    assert points.loc["a", "kappa3"] == pytest.approx(-0.3005, rel=0.15)
    mixed = cumulant_points({"real": [REAL]}).set_index("class")
    assert mixed.loc["all", "kappa2"] > mixed.loc[["a", "b"], "kappa2"].max(), "two levels of brightness spread ln A"


def test_training_seeds_are_averaged():
    dark, bright = (replace(DRAWN, histograms=np.eye(256, dtype=int)[[level] * 4]) for level in (10, 30))
    share = amplitude_shares({"own": [dark, bright]})["own"]
    assert np.flatnonzero(share).tolist() == [10, 30] and share[[10, 30]].tolist() == [0.5, 0.5]


def wide_evaluation(**values):
    """An evaluation table: metric -> {strategy: value}, intervals of plus and minus a tenth."""
    cells = [(metric, *cell) for metric, several in values.items() for cell in several.items()]
    return table(*((name, 0, metric, value, value - 0.1, value + 0.1) for metric, name, value in cells))


def test_the_front_is_what_nobody_beats():
    table = wide_evaluation(clip_accuracy={"cheap": 0.5, "good": 0.9, "dear": 0.9, "poor": 0.4, "unknown": 1.0, REFERENCE_FLOOR: 1.0})
    costs = pd.DataFrame({"strategy": ["cheap", "good", "good", "dear", "poor", "unknown"], "seconds": [1.0, 4, 6, 9, 2, np.nan]})
    front = pareto_table(table, costs, ["clip_accuracy"], "seconds").set_index("strategy")
    assert front["dominated by"].to_dict() == {"cheap": "", "poor": "cheap", "good": "", "dear": "good"}
    assert front["cost"].tolist() == [1, 2, 5, 9]


def test_several_trainings_count_by_their_mean_and_span():
    single = wide_evaluation(amplitude_kl={"a": 0.5, "b": 0.75, REFERENCE_FLOOR: 0.0, OPTICAL_AS_GREY: 1.0})
    low, high = (single[single["strategy"] == "a"].assign(seed=k, value=v, lo=v - 0.1, hi=v + 0.1) for k, v in ((0, 0.25), (1, 0.75)))
    several = pd.concat([low, high, single[single["strategy"] != "a"]], ignore_index=True)
    costs = pd.DataFrame({"strategy": ["a", "a", "b"], "seconds": [1.0, 3.0, 2.0]})  # two trainings of a: 2 s on average
    fronts = [pareto_table(table, costs, ["amplitude_kl"], "seconds").set_index("strategy") for table in (single, several)]
    pd.testing.assert_frame_equal(*fronts)
    assert fronts[1].loc["a", ["value", "cost"]].tolist() == [0.5, 2.0] and fronts[1].loc["b", "dominated by"] == "a"


# The targets by hand: one just met, one just missed, one inside its interval, one without a row.


BEST = (FROZEN_DECODER, 0, "seen", "amplitude_kl", 0.125, 0.1, 0.2)
AIMED = table(
    BEST,
    (TUNED_DECODER, 0, "seen", "amplitude_kl", 0.1, 0.1, 0.2),
    (REFERENCE_FLOOR, 0, "seen", "amplitude_kl", 0.001, 0.0, 0.002),  # counts nothing: a perfect latent does not reach it
    (REFERENCE_FLOOR, 0, "seen", "zero_share", 0.001, 0.0, 0.002),
    ("best", 0, "seen", "amplitude_kl", 0.25, 0.2, 0.6),  # the mean of both is 0.375, exactly 3 times the decoder's
    ("best", 1, "seen", "amplitude_kl", 0.5, 0.4, 0.7),
    ("best", 0, "seen", "zero_share", 0.0021, 0.0020, 0.003),
    ("best", 0, "seen", "clip_accuracy", 0.79, 0.70, 0.799),
    ("best", 0, "unseen", "clip_accuracy", 0.49, 0.40, 0.50),
    ("best", 0, "pooled", "look_accuracy", 0.90, 0.85, 0.95),
    ("best", 0, "pooled", "memorised_fraction", 0.01, 0.005, 0.02),
    ("other", 0, "pooled", "clip_recall", 0.9, 0.8, 1.0),
)


def test_targets_by_hand() -> None:
    found = target_table(AIMED, "best")
    assert found["verdict"].tolist() == [OPEN, UNKNOWN, INSIDE, MISSED, INSIDE, OPEN, UNKNOWN, MISSED]
    assert found["goal"].fillna(-1).tolist() == pytest.approx([0.375, -1, 0.002, 0.8, 0.5, 0.9, 0.3, 0.0])
    assert found.loc[0, "value"] == 0.375 and np.isnan(found.loc[6, ["value", "lo", "hi"]].astype(float)).all()
    tuned = target_table(AIMED, "best", TUNED_DECODER)
    assert tuned.loc[0, "goal"] == pytest.approx(0.3) and tuned.loc[0, "verdict"] == INSIDE
    lines = target_sentences(found, "best")
    assert lines[0].startswith("best reaches 0 of 8") and "and 2 more by its value" in lines[0] and len(lines) == 9
    assert "0.79 [0.7, 0.799], target 0.8" in lines[4] and "not reached;" in lines[4]
    assert lines[7] == "recall at least 0.3 (pooled): could not be computed."


def test_just_above_three_times_the_decoder_is_not_reached_and_the_interval_decides_how() -> None:
    for lo, verdict in ((0.375, INSIDE), (0.3755, MISSED)):
        rows = table(BEST, ("best", 0, "seen", "amplitude_kl", 0.376, lo, 0.5))
        assert target_table(rows, "best").loc[0, "verdict"] == verdict


def test_without_an_anchor_a_target_that_counts_it_cannot_be_computed() -> None:
    rows = table(("best", 0, "seen", "amplitude_kl", 0.0, 0.0, 0.0), ("best", 0, "pooled", "memorised_fraction", 0, None, None))
    found = target_table(rows, "best")
    assert found.loc[0, "verdict"] == UNKNOWN and found.iloc[-1]["verdict"] == REACHED
    assert target_sentences(found, "best")[-1] == "no memorised image (pooled): reached; 0, target 0."


def test_targets_name_measures_of_the_catalogue_in_their_direction() -> None:
    for target in TARGETS:
        assert find_metric(target.metric).better in (("lower", "match") if target.most else ("higher",))


def test_an_unknown_strategy_is_refused() -> None:
    for name in ("nobody", REFERENCE_FLOOR):
        with pytest.raises(InputError, match="no strategy"):
            target_table(AIMED, name)
