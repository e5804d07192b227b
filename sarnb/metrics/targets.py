"""What this study set itself as targets, of its best strategy and of its embedded foundation, and what is reached of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics.bootstrap import interval
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


BEFORE, LATER = "before training", "later"


@dataclass(frozen=True)
class FoundationAim:
    """The mean of ``measure`` over pictures: at least ``asked`` or, if ``most``, at most; if ``beyond``, ``asked`` itself will not do.

    ``when`` it was set: before the first weights were trained, or later, with a measure that came later.
    """

    measure: str
    asked: float
    most: bool = False
    beyond: bool = False
    when: str = BEFORE


FOUNDATION_AIMS = (  # held-out pictures; they are not adjusted to what comes out
    FoundationAim("class accuracy of scenes", 0.95),
    FoundationAim("R@1 within 64, long captions", 0.60),
    FoundationAim("optical scenes, PSNR in dB", 27.0),
    FoundationAim("optical scenes, SSIM", 0.80),
    FoundationAim("dead leaves, PSNR in dB", 24.0),
    FoundationAim("single-look radar, error of the CV", 0.25, most=True),
    FoundationAim("class accuracy of what was drawn", 0.85),
    FoundationAim("class accuracy of the worst class drawn", 0.60),
    FoundationAim("compositions drawn, both parts", 0.60),
    FoundationAim("compositions drawn, named", 0.60, when=LATER),  # a second rule, as the one above misses true scenes, too
    FoundationAim("recall", 0.30),
    FoundationAim("copies: nearer to training than 99 % of scenes", 0.01, most=True, when=LATER),  # was: no memorised picture
    FoundationAim("more ships where three are asked than none", 0.5, beyond=True),  # one half is chance
    FoundationAim("the sea on the side that is asked", 0.5, beyond=True),
)


def foundation_aims(values: Mapping[str, np.ndarray | float], resamples: int, seed: int) -> pd.DataFrame:
    """What the foundation reaches of `FOUNDATION_AIMS`: columns aim, set, asked, value, lo, hi, n, verdict.

    Args:
        values: measure -> one number a picture [N], whose mean is the value, or a single number, which has no interval. An aim
            whose measure is not given is not known.

    Raises:
        InputError: a measure that no aim is set for.
    """
    unknown = set(values) - {aim.measure for aim in FOUNDATION_AIMS}
    if unknown:
        raise InputError(f"foundation aims: no aim for {', '.join(sorted(unknown))}; name a measure of FOUNDATION_AIMS")
    rows = []
    for aim in FOUNDATION_AIMS:
        several = np.atleast_1d(np.asarray(values.get(aim.measure, np.nan), dtype=float))
        value, lo, hi = interval(np.mean, [several], resamples, seed) if len(several) > 1 else (float(several[0]), np.nan, np.nan)
        words = f"{aim.measure}: {'at most' if aim.most else 'above' if aim.beyond else 'at least'} {aim.asked:g}"
        bound = np.nextafter(aim.asked, np.inf) if aim.beyond else aim.asked
        rows.append((words, aim.when, aim.asked, value, lo, hi, len(several), verdict(aim.most, bound, value, lo, hi)))
    return pd.DataFrame(rows, columns=["aim", "set", "asked", "value", "lo", "hi", "n", "verdict"])


def foundation_sentence(table: pd.DataFrame) -> str:
    """How many aims are reached, and which are not, with what came out, from `foundation_aims`."""
    missed = table[~table["verdict"].isin([REACHED, UNKNOWN])]
    rest = "; ".join(f"{row.aim} ({row.value:.3g})" for row in missed.itertuples())
    return f"The foundation reaches {(table['verdict'] == REACHED).sum()} of {len(table)} aims" + (f"; not: {rest}." if rest else ".")
