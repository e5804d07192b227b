"""The verdict in a table and in sentences, both written from the evaluation table so that they cannot disagree."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics.catalogue import KEY_METRICS, METRICS, find_metric
from sarnb.metrics.evaluation import ANCHORS, COLUMNS, OPTICAL_AS_GREY, REAL_VS_REAL


def over_seeds(evaluation: pd.DataFrame) -> pd.DataFrame:
    """Join training seeds: value is their mean, [lo, hi] spans all their intervals, `seeds` counts them, n is summed.

    Returns:
        columns strategy, split, class, metric, value, lo, hi, n, seeds, in order of first appearance.
    """
    missing = [column for column in COLUMNS if column not in evaluation.columns]
    if missing:
        raise InputError(f"evaluation table: no column {missing[0]!r}; use the table that evaluate() returns.")
    keys = ["strategy", "split", "class", "metric"]
    parts = evaluation.groupby(keys, sort=False)
    joined = parts.agg(value=("value", "mean"), lo=("lo", "min"), hi=("hi", "max"), n=("n", "sum"), seeds=("seed", "nunique"))
    return joined.reset_index()


def _select(evaluation: pd.DataFrame, metrics: Sequence[str], split: str, label: str) -> pd.DataFrame:
    for name in metrics:
        find_metric(name)
    joined = over_seeds(evaluation)
    chosen = joined[(joined["split"] == split) & (joined["class"] == label) & joined["metric"].isin(metrics)]
    if chosen.empty:
        raise InputError(f"evaluation table: nothing for split {split!r} and class {label!r}; evaluate it first.")
    return chosen


def verdict_table(
    evaluation: pd.DataFrame, metrics: Sequence[str] = KEY_METRICS, split: str = "pooled", label: str = "all"
) -> pd.DataFrame:
    """Wide table: one row a strategy (anchors last), one column a metric, cells "value [lo, hi]" or "" where left out.

    ``seeds`` counts the trainings behind a row; "" for anchors, which train nothing.
    """
    chosen = _select(evaluation, metrics, split, label)
    names = list(dict.fromkeys(chosen["strategy"]))
    names = [name for name in names if name not in ANCHORS] + [name for name in ANCHORS if name in names]
    cells = {(row["strategy"], row["metric"]): format_interval(row) for _, row in chosen.iterrows()}
    shown = [name for name in metrics if name in set(chosen["metric"])]
    trained = chosen.groupby("strategy")["seeds"].max()
    seeds = {name: "" if name in ANCHORS else int(trained[name]) for name in names}
    body = [[name, seeds[name], *(cells.get((name, metric), "") for metric in shown)] for name in names]
    return pd.DataFrame(body, columns=["strategy", "seeds", *shown])


def format_interval(row: pd.Series) -> str:
    """ "0.123 [0.100, 0.150]" with three significant figures; the interval is left out when there is none."""
    if pd.isna(row["lo"]):
        return f"{row['value']:.3g}"
    return f"{row['value']:.3g} [{row['lo']:.3g}, {row['hi']:.3g}]"


def rank(evaluation: pd.DataFrame, metric: str, split: str = "pooled", label: str = "all") -> pd.DataFrame:
    """Strategies (no anchors) from best to worst on one metric, with columns of `over_seeds`, `gap`, `gap_lo`, `gap_hi`.

    `gap` is what is sorted: the value (lower is better), its negative (higher is better), or its distance from the
    "real vs real" row (match), where that row exists. `gap_lo` and `gap_hi` are the interval in the same terms.
    """
    chosen = _select(evaluation, [metric], split, label)
    better = find_metric(metric).better
    runs = chosen[~chosen["strategy"].isin(ANCHORS)].copy()
    if better == "match":
        real = chosen.loc[chosen["strategy"] == REAL_VS_REAL, "value"]
        if real.empty:
            raise InputError(f"evaluation table: no {REAL_VS_REAL!r} row for {metric}; add the anchors first.")
        offsets = runs[["value", "lo", "hi"]] - float(real.iloc[0])
        ends = offsets[["lo", "hi"]].abs()
        around = (offsets["lo"] <= 0) & (offsets["hi"] >= 0)  # an interval around the real value has gaps down to 0
        runs["gap"], runs["gap_lo"], runs["gap_hi"] = offsets["value"].abs(), ends.min(axis=1).mask(around, 0.0), ends.max(axis=1)
    elif better == "lower":
        runs["gap"], runs["gap_lo"], runs["gap_hi"] = runs["value"], runs["lo"], runs["hi"]
    else:
        runs["gap"], runs["gap_lo"], runs["gap_hi"] = -runs["value"], -runs["hi"], -runs["lo"]
    return runs.sort_values("gap", kind="stable").reset_index(drop=True)


def sentences(
    evaluation: pd.DataFrame, metrics: Sequence[str] = KEY_METRICS, split: str = "pooled", label: str = "all"
) -> list[str]:
    """One sentence a metric: who is best, who cannot be told apart from it, and where floor and ceiling lie.

    Overlapping 95 % intervals are read as "not told apart"; that is cautious, since intervals may overlap a little
    while a paired test still separates two strategies.
    """
    chosen = _select(evaluation, metrics, split, label)
    lines = []
    for metric in metrics:
        rows = chosen[chosen["metric"] == metric]
        if rows.empty or rows["strategy"].isin(ANCHORS).all():
            lines.append(f"{_title(metric)} could not be computed for any strategy on {split}.")
            continue
        if METRICS[metric].better == "match" and REAL_VS_REAL not in set(rows["strategy"]):
            lines.append(f"{_title(metric)} has no real value to be compared with on {split}.")
            continue
        lines.append(_sentence(rank(evaluation, metric, split, label), rows, metric, split))
    return lines


def _title(metric: str) -> str:
    words = metric.replace("_", " ").split()
    known = {"kl": "KL", "js": "JS", "ks": "KS", "cv": "CV", "enl": "ENL", "clip": "SAR-CLIP", "kid": "KID", "r1": "R@1", "glcm": "GLCM"}
    text = " ".join(known.get(word, word) for word in words)
    return text[0].upper() + text[1:]


def _sentence(order: pd.DataFrame, rows: pd.DataFrame, metric: str, split: str) -> str:
    best, others = order.iloc[0], order.iloc[1:]
    ties = others[others["gap"] == best["gap"]]["strategy"].tolist()
    goal = {"lower": "lowest", "higher": "highest", "match": "nearest to real images"}[METRICS[metric].better]
    leaders = _join([best["strategy"], *ties])
    text = f"{_title(metric)} ({split}) is {goal} for {leaders}: {format_interval(best)}"
    rest = others[~others["strategy"].isin(ties)]
    if pd.isna(best["lo"]) or rest["lo"].isna().any():
        text += "; without intervals the order is not settled" if len(rest) else ""
    elif len(rest):
        overlap = rest[(rest["gap_lo"] <= best["gap_hi"]) & (rest["gap_hi"] >= best["gap_lo"])]["strategy"].tolist()
        kind = "a distance whose interval" if METRICS[metric].better == "match" else "an interval that"
        if overlap:
            text += f", {kind} overlaps that of {_join(overlap)}, so these are not told apart"
        else:
            text += f", {kind} overlaps no other strategy's"
    anchors = {row["strategy"]: row["value"] for _, row in rows.iterrows()}
    marks = [f"{name} {anchors[name]:.3g}" for name in (REAL_VS_REAL, OPTICAL_AS_GREY) if name in anchors]
    return text + (f" ({', '.join(marks)})." if marks else ".")


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
