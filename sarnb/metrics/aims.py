"""What this study asked of its best strategy before anything was drawn, and what that strategy reaches of it.

The aims are this study's own. They were written down beforehand and are not adjusted to what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics.evaluation import ANCHORS, REAL_VS_REAL
from sarnb.metrics.summary import over_seeds

REACHED, INSIDE, MISSED = "reached", "not reached, but inside the interval", "not reached"
UNKNOWN = "could not be computed"


@dataclass(frozen=True)
class Aim:
    """``metric`` of the evaluation table on ``split``: at least ``bound`` if ``most`` is False, else at most.

    ``floors``: the bound counts floors, the value of the "real vs real" row of the same measure and split.
    """

    title: str
    metric: str
    split: str
    bound: float
    most: bool = False
    floors: bool = False


AIMS = (
    Aim("amplitude KL at most 3 floors", "amplitude_kl", "seen", 3.0, most=True, floors=True),
    Aim("class accuracy of the judge at least 80 %", "clip_accuracy", "seen", 0.80),
    Aim("class accuracy of the judge at least 50 %", "clip_accuracy", "unseen", 0.50),
    Aim("look side obeyed at least 90 %", "look_accuracy", "pooled", 0.90),
    Aim("recall at least 0.3", "clip_recall", "pooled", 0.30),
    Aim("no memorised image", "memorised_fraction", "pooled", 0.0, most=True),
)


def aims_table(evaluation: pd.DataFrame, strategy: str) -> pd.DataFrame:
    """What a strategy reaches of `AIMS`, the mean over its training seeds: columns aim, split, asked, value, lo, hi, verdict.

    Args:
        evaluation: table of `evaluate`, with the "real vs real" rows of `anchors` for aims that count floors.
        strategy: the one the aims are for, the first in the average rank.

    Raises:
        InputError: a table without this strategy.
    """
    if strategy in ANCHORS or strategy not in set(evaluation["strategy"]):
        raise InputError(f"aims: no strategy {strategy!r} in the evaluation table; evaluate it first.")
    joined = over_seeds(evaluation)
    whole = joined[joined["class"] == "all"].set_index(["strategy", "split", "metric"])[["value", "lo", "hi"]]
    rows = []
    for aim in AIMS:
        floor = _row(whole, REAL_VS_REAL, aim)[0] if aim.floors else 1.0
        value, lo, hi = _row(whole, strategy, aim)
        asked = aim.bound * floor
        rows.append((aim.title, aim.split, asked, value, lo, hi, verdict(aim.most, asked, value, lo, hi)))
    return pd.DataFrame(rows, columns=["aim", "split", "asked", "value", "lo", "hi", "verdict"])


def aims_sentences(table: pd.DataFrame, strategy: str) -> list[str]:
    """How many aims the strategy reaches, then one sentence an aim, from `aims_table`."""
    reached = int((table["verdict"] == REACHED).sum())
    lines = [f"{strategy} reaches {reached} of {len(table)} aims that were set beforehand."]
    for row in table.itertuples():
        if row.verdict == UNKNOWN:
            lines.append(f"{row.aim} ({row.split}): {UNKNOWN}.")
            continue
        interval = "" if np.isnan(row.lo) else f" [{row.lo:.3g}, {row.hi:.3g}]"
        lines.append(f"{row.aim} ({row.split}): {row.verdict}; {row.value:.3g}{interval}, asked for {row.asked:.3g}.")
    return lines


def _row(whole: pd.DataFrame, strategy: str, aim: Aim) -> tuple[float, float, float]:
    key = (strategy, aim.split, aim.metric)
    return tuple(float(number) for number in whole.loc[key]) if key in whole.index else (np.nan, np.nan, np.nan)


def verdict(most: bool, asked: float, value: float, lo: float, hi: float) -> str:
    """Whether ``value`` is at most (``most``) or at least ``asked``, or else its interval [lo, hi] holds a value that is."""
    if np.isnan(value) or np.isnan(asked):
        return UNKNOWN
    if value <= asked if most else value >= asked:
        return REACHED
    return INSIDE if (lo <= asked if most else hi >= asked) else MISSED
