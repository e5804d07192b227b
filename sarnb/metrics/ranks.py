"""One place for each strategy: its average rank over the key measures, and how sure that place is.

Ranks put measures of different units on one footing (Friedman 1937; Demšar 2006) and say nothing of how large a lead is. The
images are redrawn as in the evaluation table, the same ones for every strategy and measure, all ranks are taken anew, and
the interval is that of the average rank.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from sarnb.errors import InputError
from sarnb.metrics.bootstrap import percentile_interval
from sarnb.metrics.catalogue import KEY_METRICS, find_metric
from sarnb.metrics.evaluation import outcomes
from sarnb.metrics.measured import Measured
from sarnb.metrics.semantic import Judge


def average_ranks(values: np.ndarray, higher: np.ndarray) -> np.ndarray:
    """Average rank of each strategy, 1 = best; equal values share their rank.

    Args:
        values: [..., S, M] of S strategies on M measures. higher: bool [M], whether more is better.

    Returns:
        [..., S].
    """
    return rankdata(np.where(higher, -values, values), axis=-2).mean(-1)


def rank_table(
    real: Measured,
    runs: Mapping[str, Mapping[int, Measured]],
    judge: Judge | None,
    split: str = "pooled",
    metrics: Sequence[str] = KEY_METRICS,
    resamples: int = 200,
    seed: int = 0,
    distrusted: Collection[str] = (),
) -> pd.DataFrame:
    """Average rank over the measures that every strategy has, with 95 % bootstrap intervals, best first.

    Args:
        runs: strategy -> training seed -> measured images; a strategy's value is the mean over its training seeds.
        resamples: at most; with a Fréchet distance among the measures as many as that one has, FRECHET_RESAMPLES.
        distrusted: measures that failed their admission. They are left out, unless no other measure is there.

    Returns:
        columns strategy, average rank, lo, hi, first (share of the resamples in which it is the best), and a column of ranks
        a measure.

    Raises:
        InputError: no measure that all strategies have, or one that has no better direction ("match").
    """
    if matching := [name for name in metrics if find_metric(name).better == "match"]:
        raise InputError(f"average rank: {matching[0]} has no better direction; leave it out.")
    found = {
        name: [_samples(real, part, judge, split, metrics, resamples, seed) for part in several.values()]
        for name, several in runs.items()
    }
    shared = [metric for metric in metrics if all(metric in part for several in found.values() for part in several)]
    if not shared:
        raise InputError(f"average rank: no measure on {split} that every strategy has; draw more images.")
    shared = [metric for metric in shared if metric not in distrusted] or shared
    length = min(len(part[metric]) for several in found.values() for part in several for metric in shared)
    # [1 + resamples, strategies, measures]; the first entry is the images as given
    values = np.stack(
        [
            np.mean([[part[metric][:length] for metric in shared] for part in several], axis=0).T
            for several in found.values()
        ],
        axis=1,
    )
    higher = np.array([find_metric(metric).better == "higher" for metric in shared])
    means = average_ranks(values, higher)
    single = rankdata(np.where(higher, -values[0], values[0]), axis=0)
    best = (means[1:] == means[1:].min(axis=1, keepdims=True)).mean(0) if length > 1 else np.full(len(found), np.nan)
    rows = []
    for place, name in enumerate(found):
        lo, hi = percentile_interval(means[1:, place], means[0, place])
        rows.append((name, means[0, place], lo, hi, best[place], *single[place]))
    table = pd.DataFrame(rows, columns=["strategy", "average rank", "lo", "hi", "first", *shared])
    return table.sort_values("average rank", kind="stable", ignore_index=True)


def _samples(
    real: Measured, fake: Measured, judge: Judge | None, split: str, metrics: Sequence[str], resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """measure -> [1 + resamples]: its value, then its bootstrap samples."""
    for _, _, _, outcome in outcomes(real, fake, judge, resamples, seed, splits=(split,), classes=False):
        known = {name: outcome[name] for name in metrics if not isinstance(outcome.get(name, ""), str)}
        return {
            name: np.concatenate([[float(value)], samples]) for name, (value, samples) in known.items() if np.isfinite(value)
        }
    return {}


def rank_sentences(table: pd.DataFrame, distrusted: Collection[str] = ()) -> list[str]:
    """Who is first, over which measures, and whose interval reaches its own, from `rank_table`."""
    best, others = table.iloc[0], table.iloc[1:]
    near = others[others["lo"] <= best["hi"]]["strategy"].tolist()
    measures = ", ".join(table.columns[5:])
    text = f"Best average rank over {measures}: {best['strategy']}, {best['average rank']:.2f} [{best['lo']:.2f}, {best['hi']:.2f}] of {len(table)}"
    text += (
        f"; its interval reaches those of {', '.join(near)}."
        if near
        else "; no other interval reaches it." if len(others) else "."
    )
    if failed := [name for name in table.columns[5:] if name in distrusted]:
        text += f" {', '.join(failed)} failed in admission and nothing else can be ranked, so this rank carries no weight."
    return [text]
