"""What one thing more does to a strategy: each measure with it and without it, and a paired interval of the change.

Image i of both was drawn for the same prompt from the same noise. Each redraw of the bootstrap takes the same images of
both, and the same real ones, so that what they have in common cancels in the difference (Efron and Tibshirani 1993). Its
interval is that of the images; the trainings are taken as they came out. Where the strategy without has several training
seeds, their spread stands beside the change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics.bootstrap import percentile_interval
from sarnb.metrics.catalogue import find_metric
from sarnb.metrics.evaluation import SPLITS, outcomes
from sarnb.metrics.first import FIRST
from sarnb.metrics.measured import Measured, measure

COLUMNS = ("split", "metric", "seeds", "n", "without", "with", "change", "lo", "hi", "spread")
NEARER, FURTHER, SAME = "nearer to real images", "further from real images", "not told apart from those without it"

_Distances = dict[tuple[str, str], np.ndarray]  # (split, metric) -> [1 + resamples], the images as given first


def paired_changes(
    test: ImageSet,
    without: Mapping[int, ImageSet],
    with_it: Mapping[int, ImageSet],
    metrics: Sequence[str] = FIRST,
    resamples: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Distance from real images without and with something, over whole splits, means over the training seeds of both.

    Args:
        test: held-out real images. without, with_it: training seed -> what was drawn, for the same prompts and noise.
        metrics: measures of which lower is better, or that have to match the real value, which then count |value - real|.

    Returns:
        columns COLUMNS. seeds: training seeds that both have; n: pairs of images; change: with - without, negative is
        nearer to real images, [lo, hi] its 95 % interval; spread: largest difference of two trainings without it that differ
        in their seed only, NaN with one.

    Raises:
        InputError: no training seed in common, images drawn for other prompts or from other noise, a measure of which
        higher is better.
    """
    if wrong := [name for name in metrics if find_metric(name).better == "higher"]:
        raise InputError(f"change: {wrong[0]} is no distance from real images; leave it out.")
    shared = [k for k in without if k in with_it]
    if not shared:
        raise InputError(f"change: training seeds {list(without)} and {list(with_it)} have none in common.")
    for k in shared:
        if _asked(without[k]) != _asked(with_it[k]):
            raise InputError("change: the two were drawn for other prompts or from other noise; draw them for the same.")
    real = measure(test, None, "real images")
    own = _values(real, real, metrics, resamples, seed)
    before, after = (
        {k: _distances(own, _values(real, measure(images, None, "generated images"), metrics, resamples, seed))
         for k, images in side.items()}
        for side in (without, with_it)
    )
    rows = []
    for split in SPLITS[1:]:
        count = sum(label in test.labels and (row.get("group") or "seen") == split
                    for k in shared for label, row in zip(without[k].labels, without[k].rows))
        for key in ((split, metric) for metric in metrics):
            if any(key not in side[k] for k in shared for side in (before, after)):
                continue
            old, new = (np.mean([side[k][key] for k in shared], axis=0) for side in (before, after))
            change = new - old
            trained = [float(part[key][0]) for part in before.values() if key in part]
            spread = max(trained) - min(trained) if len(trained) > 1 else np.nan
            ends = percentile_interval(change[1:], change[0])
            rows.append((*key, len(shared), count, old[0], new[0], change[0], *ends, spread))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def verdict(row: pd.Series) -> str:
    """Whether the interval of a change lies on one side of 0: NEARER, FURTHER or SAME."""
    return NEARER if row["hi"] < 0 else FURTHER if row["lo"] > 0 else SAME


def change_sentences(table: pd.DataFrame, what: str) -> list[str]:
    """For each split what ``what`` (such as "prior preservation") did: a line a measure, then the answer in one sentence."""
    lines = []
    for split, part in table.groupby("split", sort=False):
        told: dict[str, list[str]] = {NEARER: [], FURTHER: [], SAME: []}
        for _, row in part.iterrows():
            told[verdict(row)].append(_name(row["metric"]))
            lines.append(_line(row, what))
        parts = [f"{word} by {', '.join(names)}" for word, names in told.items() if names]
        seeds = int(part["seeds"].iloc[0])
        lines.append(f"So with {what} the {split} images are {'; '.join(parts)} ({int(part['n'].iloc[0])} pairs of images, "
                     f"{seeds} training{'s' if seeds > 1 else ''} of each).")
    return lines


def _line(row: pd.Series, what: str) -> str:
    text = (f"{_title(row['metric'])}, {row['split']}: {row['without']:.3g} without {what}, {row['with']:.3g} with it, "
            f"change {row['change']:+.3g} [{row['lo']:+.3g}, {row['hi']:+.3g}], {verdict(row)}")
    if np.isfinite(row["spread"]):
        size = "more than" if abs(row["change"]) > row["spread"] else "not more than"
        text += f"; {size} trainings without it differ by their seed alone ({row['spread']:.3g})"
    return text + "."


def _title(metric: str) -> str:
    return f"distance of {_name(metric)} from the real value" if find_metric(metric).better == "match" else _name(metric)


def _name(metric: str) -> str:
    return metric.replace("_", " ").replace("kl", "KL").replace("cv", "CV")


def _asked(images: ImageSet) -> list[tuple]:
    """What each image was to show, and the seed of its noise."""
    return [(row.get("label"), row.get("look"), row.get("seed")) for row in images.rows]


def _values(real: Measured, fake: Measured, metrics: Sequence[str], resamples: int, seed: int) -> _Distances:
    """Each measure over whole splits, and its bootstrap samples."""
    return {
        (split, name): np.concatenate([[float(outcome[name][0])], outcome[name][1]])
        for split, _, _, outcome in outcomes(real, fake, None, resamples, seed, classes=False)
        for name in metrics
        if not isinstance(outcome.get(name, ""), str)
    }


def _distances(own: _Distances, values: _Distances) -> _Distances:
    """Values that have to match become their distance from the real ones."""
    return {
        key: np.abs(value - own[key]) if find_metric(key[1]).better == "match" else value
        for key, value in values.items()
        if key in own
    }
