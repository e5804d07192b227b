"""First-order statistics of speckle, set by set, with intervals over images: what the grain of an image is like."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sarnb.metrics.bootstrap import percentile_interval, stratified_weights, weighted_mean
from sarnb.metrics.describe import image_statistics

STATISTICS = {"mean": "mean level", "cv": "coefficient of variation", "enl": "looks in 8 px windows"}


def speckle_table(sets: Mapping[str, np.ndarray], resamples: int = 200, seed: int = 0) -> pd.DataFrame:
    """Mean over images of each statistic of one image: columns set, statistic, images, value, lo, hi.

    ``sets``: name → uint8 [N, H, W]. Looks (equivalent number of, Oliver and Quegan 2004) are the median of an image's
    windows, which see speckle and little of the scene; 1 for single-look speckle, more for a smoother grain.
    """
    rows = []
    for name, images in sets.items():
        statistics = image_statistics(images)
        base, resampled = stratified_weights(["all"] * len(images), resamples, seed)
        for column, title in STATISTICS.items():
            values = statistics[column].to_numpy()
            value = float(weighted_mean(values, base))
            rows.append((name, title, len(images), value, *percentile_interval(weighted_mean(values, resampled), value)))
    return pd.DataFrame(rows, columns=["set", "statistic", "images", "value", "lo", "hi"])


def speckle_sentences(table: pd.DataFrame, real: str) -> list[str]:
    """One line a statistic: the real value, and which sets' intervals meet that of the real images, in words."""
    lines = []
    for title in dict.fromkeys(table["statistic"]):
        rows = table[table["statistic"] == title].set_index("set")
        own = rows.loc[real]
        parts = [
            f"{name} {row['value']:.3g} [{row['lo']:.3g}, {row['hi']:.3g}], {_beside(row, own)}"
            for name, row in rows.drop(index=real).iterrows()
        ]
        lines.append(f"{title}: {real} {own['value']:.3g} [{own['lo']:.3g}, {own['hi']:.3g}]; " + "; ".join(parts) + ".")
    return lines


def _beside(row: pd.Series, own: pd.Series) -> str:
    """Where a value lies beside another one, in words."""
    if row["lo"] <= own["hi"] and own["lo"] <= row["hi"]:
        return "not told apart"
    return "lower" if row["value"] < own["value"] else "higher"
