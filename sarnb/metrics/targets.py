"""What this study set its best strategy as targets, and what is reached of them; notebooks 00 and 03 set their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics.evaluation import ANCHORS, REAL_VS_REAL
from sarnb.metrics.report import over_seeds

REACHED, INSIDE, MISSED = "reached", "not reached, but inside the interval", "not reached"
UNKNOWN = "could not be computed"


@dataclass(frozen=True)
class Target:
    """``metric`` of the evaluation table on ``split``: at least ``bound`` if ``most`` is False, else at most.

    ``floors``: the bound counts floors, the value of the "real vs real" row of the same measure and split.
    """

    title: str
    metric: str
    split: str
    bound: float
    most: bool = False
    floors: bool = False


TARGETS = (  # of the best strategy, set before anything was drawn
    Target("amplitude KL at most 3 floors", "amplitude_kl", "seen", 3.0, most=True, floors=True),
    Target("class accuracy of the judge at least 80 %", "clip_accuracy", "seen", 0.80),
    Target("class accuracy of the judge at least 50 %", "clip_accuracy", "unseen", 0.50),
    Target("look side obeyed at least 90 %", "look_accuracy", "pooled", 0.90),
    Target("recall at least 0.3", "clip_recall", "pooled", 0.30),
    Target("no memorised image", "memorised_fraction", "pooled", 0.0, most=True),
)


def target_table(evaluation: pd.DataFrame, strategy: str) -> pd.DataFrame:
    """What a strategy reaches of ``TARGETS``, the mean over its training seeds: columns aim, split, asked, value, lo, hi, verdict.

    Parameters
    ----------
    evaluation : table of ``evaluate``, with the "real vs real" rows of ``anchors`` for targets that count floors.
    strategy : the one the targets are for, the first in the average rank.

    Raises
    ------
    InputError
        A table without this strategy.
    """
    if strategy in ANCHORS or strategy not in set(evaluation["strategy"]):
        raise InputError(f"targets: no strategy {strategy!r} in the evaluation table; evaluate it first.")
    joined = over_seeds(evaluation)
    whole = joined[joined["class"] == "all"].set_index(["strategy", "split", "metric"])[["value", "lo", "hi"]].astype(float)
    wanted = [(name, target.split, target.metric) for name in (strategy, REAL_VS_REAL) for target in TARGETS]
    own, floors = np.split(whole.reindex(wanted).to_numpy(), 2)  # NaN where the table has no such row
    rows = []
    for target, (value, lo, hi), (floor, *_) in zip(TARGETS, own, floors):
        bound = target.bound * (floor if target.floors else 1.0)
        rows.append((target.title, target.split, bound, value, lo, hi, verdict(target.most, bound, value, lo, hi)))
    return pd.DataFrame(rows, columns=["aim", "split", "asked", "value", "lo", "hi", "verdict"])


def target_sentences(table: pd.DataFrame, strategy: str) -> list[str]:
    """How many targets the strategy reaches, then one sentence a target, from ``target_table``."""
    lines = [f"{strategy} reaches {(table['verdict'] == REACHED).sum()} of {len(table)} targets that were set beforehand."]
    for row in table.itertuples():
        if row.verdict == UNKNOWN:
            lines.append(f"{row.aim} ({row.split}): {UNKNOWN}.")
        else:
            interval = "" if np.isnan(row.lo) else f" [{row.lo:.3g}, {row.hi:.3g}]"
            lines.append(f"{row.aim} ({row.split}): {row.verdict}; {row.value:.3g}{interval}, target {row.asked:.3g}.")
    return lines


def verdict(most: bool, asked: float, value: float, lo: float, hi: float) -> str:
    """Whether ``value`` is at most (``most``) or at least ``asked``, or else its interval [lo, hi] holds a value that is."""
    if np.isnan(value) or np.isnan(asked):
        return UNKNOWN
    if value <= asked if most else value >= asked:
        return REACHED
    return INSIDE if (lo <= asked if most else hi >= asked) else MISSED
