"""The first measures that each strategy's notebook shows: amplitude law, contrast of speckle, texture.

The full table of all measures, the judge's included, is that of the final evaluation (``sarnb.metrics.evaluation``).
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from sarnb.data.dataset import ImageSet
from sarnb.metrics.evaluation import ANCHORS, anchors, combine, evaluate
from sarnb.metrics.measured import measure

FIRST = ("amplitude_kl", "amplitude_cv", "texture_distance")


def first_measures(
    test: ImageSet, runs: Mapping[tuple[str, int], ImageSet], resamples: int = 200, seed: int = 0
) -> pd.DataFrame:
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
