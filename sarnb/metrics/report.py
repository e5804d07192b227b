"""Tables that explain and rearrange the evaluation: legend of the measures, protocol, values by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics import amplitude, evaluation, geometry, semantic, texture
from sarnb.metrics.catalogue import KEY_METRICS, METRICS, find_metric
from sarnb.metrics.evaluation import ANCHORS, OPTICAL_AS_GREY, REAL_VS_REAL, SPLITS
from sarnb.metrics.measured import Measured
from sarnb.metrics.summary import format_interval, over_seeds

BETTER = {"lower": "lower is better", "higher": "higher is better", "match": "as near to real as possible"}


def metric_legend() -> pd.DataFrame:
    """One row a measure: name, family, direction, unit, meaning."""
    rows = [(m.name, m.family, BETTER[m.better], m.unit, m.meaning) for m in METRICS.values()]
    return pd.DataFrame(rows, columns=["metric", "family", "direction", "unit", "meaning"])


def protocol_table(resamples: int) -> pd.DataFrame:
    """The settings that belong to the measures' definitions, read from the code that uses them: item, value."""
    rows = [
        ("amplitude histogram", f"{amplitude.LEVELS} bins, one a grey level of A/(mu + 3 sigma) in 8 bits"),
        ("smoothing of KL and reverse KL", f"{amplitude.EPSILON:g} added to the probability of every bin, renormalised"),
        ("smoothing of the other amplitude distances", "none"),
        ("GLCM levels", f"{texture.LEVELS}, uniform on [0, 1]"),
        ("GLCM distances", f"{', '.join(map(str, texture.DISTANCES))} px"),
        ("GLCM directions", f"{' and '.join(texture.DIRECTIONS)}, kept apart; symmetric, normalised"),
        ("GLCM properties", ", ".join(texture.PROPERTIES)),
        ("texture unit", "standard deviations of the property over the real test images"),
        ("retrieval gallery", f"{semantic.GALLERY} different captions, averaged over all galleries"),
        ("precision and recall", "balls to the third nearest neighbour in SAR-CLIP features"),
        ("least images a side, Fréchet distances", str(evaluation.FRECHET_MINIMUM)),
        ("least images a side, kernel distance, precision, recall", str(evaluation.KERNEL_MINIMUM)),
        ("least real images of known side, look reader", str(geometry.CALIBRATION_MINIMUM)),
        ("shrinkage of Fréchet covariances", "OAS, the larger of both, where a side has fewer than 2 D images"),
        ("intervals", f"95 % percentile, {resamples} resamples of images inside their class"),
        ("resamples of Fréchet distances", str(min(resamples, evaluation.FRECHET_RESAMPLES))),
        (
            "resamples of average ranks",
            f"{min(resamples, evaluation.FRECHET_RESAMPLES)} where a Fréchet distance is ranked too, else {resamples}",
        ),
        ("training seeds", "value: their mean; interval: from the lowest lo to the highest hi"),
        ("memorisation", "thumbnails of 32 x 32 block means, threshold: nearest held-out real image"),
        ("duplicates", "the same thumbnails, threshold: the two most alike real images"),
    ]
    return pd.DataFrame(rows, columns=["item", "value"])


def sample_sizes(sets: Mapping[str, Measured]) -> pd.DataFrame:
    """Images by set and group, and least and most images a class: columns set, seen, unseen, composition, least, most."""
    rows = []
    for name, part in sets.items():
        classes = np.unique(np.asarray(part.labels), return_counts=True)[1]
        rows.append((name, *(sum(group == split for group in part.groups) for split in SPLITS[1:]), classes.min(), classes.max()))
    columns = ["set", *SPLITS[1:], "fewest in a class", "most in a class"]
    return pd.DataFrame(rows, columns=columns)


def splits_of(table: pd.DataFrame) -> list[str]:
    """The splits that an evaluation table has rows for, in the usual order; anchors alone do not count."""
    present = set(table.loc[~table["strategy"].isin(ANCHORS), "split"])
    return [split for split in SPLITS if split in present]


def left_out_sentences(table: pd.DataFrame) -> list[str]:
    """What the table lacks for whole splits, one sentence a measure and split; single classes are in `left_out`."""
    gone = evaluation.left_out(table)
    gone = gone[(gone["class"] == "all") & (gone["split"] != "all")]
    count, lines = table.groupby(["strategy", "seed"]).ngroups, []
    for (metric, split), part in gone.groupby(["metric", "split"], sort=False):
        what = "Every measure" if metric == "all" else metric
        lines.append(f"{what} ({split}) is missing for {len(part)} of {count} sets: {part['reason'].iloc[0].rstrip('.')}.")
    return lines


def split_table(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One measure by split: a row a strategy (anchors last), a column a split, cells "value [lo, hi]"."""
    find_metric(metric)
    joined = over_seeds(table)
    rows = joined[(joined["metric"] == metric) & (joined["class"] == "all")]
    if rows.empty:
        raise InputError(f"evaluation table: no values of {metric}; see what was left out.")
    names = list(dict.fromkeys(rows["strategy"]))
    names = [name for name in names if name not in ANCHORS] + [name for name in ANCHORS if name in names]
    cells = {(row["strategy"], row["split"]): format_interval(row) for _, row in rows.iterrows()}
    splits = [split for split in SPLITS if split in set(rows["split"])]
    return pd.DataFrame([[name, *(cells.get((name, split), "") for split in splits)] for name in names], columns=["strategy", *splits])


def gap_sentences(table: pd.DataFrame, metric: str, first: str = "seen", second: str = "unseen") -> list[str]:
    """How each strategy's value changes from one split to another, and whether the intervals overlap; empty without both."""
    find_metric(metric)
    joined = over_seeds(table)
    rows = joined[(joined["metric"] == metric) & (joined["class"] == "all") & ~joined["strategy"].isin((REAL_VS_REAL, OPTICAL_AS_GREY))]
    lines = []
    for name, part in rows.groupby("strategy", sort=False):
        part = part.set_index("split")
        if not {first, second} <= set(part.index):
            continue
        a, b = part.loc[first], part.loc[second]
        apart = a["lo"] > b["hi"] or b["lo"] > a["hi"]
        words = "the intervals do not overlap" if apart else "the intervals overlap, so the change is not settled"
        change = b["value"] - a["value"]
        lines.append(f"{name}: {first} {format_interval(a)}, {second} {format_interval(b)}, a change of {change:+.3f}; {words}.")
    return lines


def seed_table(table: pd.DataFrame) -> pd.DataFrame:
    """How far the trainings of one strategy lie apart: columns strategy, split, metric, seeds, mean, sd, min, max.

    One row a strategy (no anchors), split and measure over all classes. ``seeds`` counts trainings; ``sd`` is their sample
    standard deviation, NaN for one training. Unit: that of the measure.
    """
    rows = table[~table["strategy"].isin(ANCHORS) & (table["class"] == "all")]
    parts = rows.groupby(["strategy", "split", "metric"], sort=False)
    joined = parts.agg(
        seeds=("seed", "nunique"), mean=("value", "mean"), sd=("value", "std"), min=("value", "min"), max=("value", "max")
    )
    return joined.reset_index()


def training_sentences(seeds: pd.DataFrame) -> list[str]:
    """Which strategies were trained once and which several times, and what that does to their intervals, from `seed_table`."""
    counts = seeds.groupby("strategy", sort=False)["seeds"].max()
    once, several = counts[counts == 1].index.tolist(), counts[counts > 1]
    lines = []
    if once:
        lines.append(f"One training at most: {', '.join(once)}; these intervals leave out the luck of the training.")
    if len(several):
        words = ", ".join(f"{name} ({count})" for name, count in several.items())
        lines.append(f"Several trainings: {words}; these intervals span those of all trainings, so they are wider.")
    return lines


def lead_sentences(
    seeds: pd.DataFrame, strategy: str, split: str = "pooled", metrics: Sequence[str] = KEY_METRICS
) -> list[str]:
    """Whether the lead of a strategy exceeds the spread of its own trainings, one sentence a measure, from `seed_table`.

    Lead: how much better its mean over trainings is than that of the best other strategy. Spread: from the lowest to the
    highest of its own trainings.
    """
    lines = []
    for metric in metrics:
        own = seeds[(seeds["split"] == split) & (seeds["metric"] == metric)].set_index("strategy")
        others = own["mean"].drop(index=strategy, errors="ignore")
        if strategy not in own.index or others.empty:
            continue
        sign = {"higher": -1.0, "lower": 1.0}[find_metric(metric).better]
        rival = (sign * others).idxmin()
        mine, lead = own.loc[strategy], sign * (others[rival] - own.loc[strategy, "mean"])
        spread = mine["max"] - mine["min"]
        if lead <= 0:
            words = f"{strategy} has no lead, {rival} is as good or better"
        elif mine["seeds"] < 2:
            words = f"{strategy} leads {rival} by {lead:.3g}; it was trained once at most, so the spread of its trainings is not known"
        else:
            relation = "more than" if lead > spread else "no more than"
            words = f"{strategy} leads {rival} by {lead:.3g}, {relation} the spread of its own {mine['seeds']} trainings, {spread:.3g}"
        lines.append(f"{metric} ({split}): {words}.")
    return lines
