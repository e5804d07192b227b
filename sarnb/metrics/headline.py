"""The first measures that each strategy's notebook shows: amplitude law, contrast of speckle, texture.

The full table of all measures, the judge's included, is that of the final evaluation (``sarnb.metrics.evaluation``).
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from sarnb.data.dataset import ImageSet
from sarnb.metrics.evaluation import ANCHORS, anchors, combine, evaluate
from sarnb.metrics.image_statistics import measure
from sarnb.metrics.report import format_interval, over_seeds, verdict_table

FIRST = ("amplitude_kl", "amplitude_cv", "texture_distance")


def first_measures(test: ImageSet, runs: Mapping[tuple[str, int], ImageSet], resamples: int = 200, seed: int = 0) -> pd.DataFrame:
    """Rows of the evaluation table for the measures ``FIRST``, over whole splits, with both anchors.

    ``test``: held-out real images; ``runs``: (strategy, training seed) → its samples. Columns as ``evaluate``'s.
    """
    real = measure(test, None, "real images")
    tables = [evaluate(name, number, real, samples, None, resamples, seed) for (name, number), samples in runs.items()]
    table = combine([*tables, anchors(test, None, resamples, seed)])
    return table[(table["class"] == "all") & table["metric"].isin(FIRST)].reset_index(drop=True)


def splits_of(table: pd.DataFrame) -> list[str]:
    """The splits of an evaluation table that some strategy has rows for, in order, pooled left out."""
    rows = table[~table["strategy"].isin(ANCHORS) & (table["split"] != "pooled")]
    return list(dict.fromkeys(rows["split"]))


def first_table(table: pd.DataFrame) -> pd.DataFrame:
    """The same as a wide table to read: a row a split and strategy (anchors last), a column a measure, "value [lo, hi]"."""
    parts = [verdict_table(table, FIRST, split).assign(split=split) for split in splits_of(table)]
    wide = pd.concat(parts, ignore_index=True)
    return wide[["split", *(column for column in wide if column != "split")]]


def readings(table: pd.DataFrame, split: str) -> list[str]:
    """One line a measure: each strategy's value with its interval, then the anchors, for a table of few strategies."""
    joined = over_seeds(table)
    lines = []
    for metric in FIRST:
        rows = joined[(joined["split"] == split) & (joined["class"] == "all") & (joined["metric"] == metric)]
        values = [f"{row['strategy']} {format_interval(row)}" for _, row in rows.iterrows() if row["strategy"] not in ANCHORS]
        marks = [f"{row['strategy']} {row['value']:.3g}" for _, row in rows.iterrows() if row["strategy"] in ANCHORS]
        if values:
            lines.append(f"{metric.replace('_', ' ')}, {split}: {'; '.join([*values, *marks])}.")
    return lines
