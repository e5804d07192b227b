"""Scores between the anchors, quality against cost, and failures by rule: what the last figures of the evaluation draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics.catalogue import find_metric
from sarnb.metrics.evaluation import ANCHORS, OPTICAL_AS_GREY, REAL_VS_REAL
from sarnb.metrics.measured import COMPOSITION, Measured
from sarnb.metrics.semantic import Judge, cosine, embed_texts, label_prompt, zero_shot
from sarnb.metrics.summary import over_seeds


def anchored_scores(evaluation: pd.DataFrame, metrics: Sequence[str], split: str = "pooled") -> pd.DataFrame:
    """Each measure on one scale: 1 = real against real, 0 = optical as grey (or the worst strategy where there is no optical).

    Args:
        evaluation: the evaluation table. metrics: names of the catalogue with a better direction.

    Returns:
        columns strategy, metric, score, lo, hi; not clipped: beyond the anchors it is above 1 or below 0. A measure without a
        floor row, or whose anchors are equal, is left out.
    """
    joined = over_seeds(evaluation)
    rows = joined[(joined["split"] == split) & (joined["class"] == "all")]
    parts = []
    for metric in metrics:
        better = find_metric(metric).better
        if better == "match":
            raise InputError(f"score between the anchors: {metric} has no better direction; leave it out.")
        own = rows[rows["metric"] == metric].set_index("strategy")
        drawn = own.drop(index=[name for name in ANCHORS if name in own.index])
        if REAL_VS_REAL not in own.index or drawn.empty:
            continue
        top = own.loc[REAL_VS_REAL, "value"]
        worst = drawn["value"].min() if better == "higher" else drawn["value"].max()
        bottom = own.loc[OPTICAL_AS_GREY, "value"] if OPTICAL_AS_GREY in own.index else worst
        if top == bottom:
            continue
        scaled = (drawn[["value", "lo", "hi"]] - bottom) / (top - bottom)
        ends = scaled[["lo", "hi"]]
        parts.append(
            pd.DataFrame(
                {
                    "strategy": drawn.index,
                    "metric": metric,
                    "score": scaled["value"].to_numpy(),
                    "lo": ends.min(axis=1).to_numpy(),
                    "hi": ends.max(axis=1).to_numpy(),
                }
            )
        )
    return (
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["strategy", "metric", "score", "lo", "hi"])
    )


def pareto_table(
    evaluation: pd.DataFrame, costs: pd.DataFrame, metric: str, cost: str, split: str = "pooled"
) -> pd.DataFrame:
    """Which strategies nobody beats in quality and cost at once.

    Args:
        costs: columns strategy and `cost`, one or more rows a strategy (their mean counts).

    Returns:
        columns metric, cost of, strategy, value, cost, dominated by (names joined by "; ", "" on the front); by rising cost. A
        strategy of unknown cost is left out. Equal in both does not dominate.
    """
    joined = over_seeds(evaluation)
    rows = joined[
        (joined["split"] == split)
        & (joined["class"] == "all")
        & (joined["metric"] == metric)
        & ~joined["strategy"].isin(ANCHORS)
    ]
    prices = costs.groupby("strategy")[cost].mean()
    known = [
        (name, value, float(prices[name]))
        for name, value in zip(rows["strategy"], rows["value"])
        if np.isfinite(prices.get(name, np.nan))
    ]
    sign = {"higher": -1.0, "lower": 1.0}.get(find_metric(metric).better)
    if sign is None:
        raise InputError(f"quality against cost: {metric} has no better direction; choose another measure.")
    table = []
    for name, value, price in known:
        beaten = [
            other
            for other, theirs, paid in known
            if sign * theirs <= sign * value and paid <= price and (theirs != value or paid != price)
        ]
        table.append((metric, cost, name, value, price, "; ".join(beaten)))
    columns = ["metric", "cost of", "strategy", "value", "cost", "dominated by"]
    return pd.DataFrame(table, columns=columns).sort_values("cost", kind="stable", ignore_index=True)


def pareto_sentences(table: pd.DataFrame) -> list[str]:
    """One sentence a measure and cost: who is on the front."""
    lines = []
    for (metric, cost), part in table.groupby(["metric", "cost of"], sort=False):
        front = part.loc[part["dominated by"] == "", "strategy"]
        lines.append(
            f"{metric} against {cost}: nobody is both better and cheaper than {', '.join(front)} ({len(front)} of {len(part)})."
        )
    return lines


def failures(runs: Mapping[str, Measured], judge: Judge, count: int = 6) -> pd.DataFrame:
    """The images of each strategy that fit their class prompt worst, by the judge's cosine: a rule, not a taste.

    Each class gives its worst image, and of these the `count` worst are taken, so that one hard class does not fill the row.

    Returns:
        columns strategy, rank (1 = worst), index (of the image), class, cosine, called (the nearest class prompt; classes
        compete with classes, compositions with compositions).
    """
    labels = sorted({label for part in runs.values() for label in part.labels if label})
    if not labels:
        raise InputError("failures: the images have no class labels; the rule needs the prompt of a class.")
    prompts = embed_texts(judge, [label_prompt(label) for label in labels])
    rows = []
    for name, part in runs.items():
        truth = np.array([labels.index(label) for label in part.labels])
        mixed = np.isin(labels, [label for label, group in zip(part.labels, part.groups) if group == COMPOSITION])
        own = cosine(part.features, prompts[truth])
        nearest = zero_shot(part.features, prompts, mixed[None] == mixed[truth][:, None])
        worst = [min(np.flatnonzero(truth == index), key=lambda i: own[i]) for index in np.unique(truth)]
        for rank, i in enumerate(sorted(worst, key=lambda i: own[i])[:count], start=1):
            rows.append((name, rank, int(i), part.labels[i], float(own[i]), labels[nearest[i]]))
    return pd.DataFrame(rows, columns=["strategy", "rank", "index", "class", "cosine", "called"])
