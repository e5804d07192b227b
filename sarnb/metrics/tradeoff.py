"""Scores between the anchors, quality against cost, and failures by rule: what the last figures of the evaluation draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sarnb.data.dataset import ImageSet
from sarnb.data.imagefolder import default_caption
from sarnb.data.overview import some_per_label
from sarnb.errors import InputError
from sarnb.metrics import find_metric
from sarnb.metrics.bootstrap import stratified_weights
from sarnb.metrics.evaluation import ANCHORS, OPTICAL_AS_GREY, REAL_VS_REAL, evaluate, halves
from sarnb.metrics.image_statistics import COMPOSITION, ImageStatistics, measure
from sarnb.metrics.report import over_seeds
from sarnb.metrics.semantic import Judge, embed_texts, zero_shot
from sarnb.metrics.significance import ALPHA, TESTED, exchange_test, holm, measure_of, paired_rows


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
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["strategy", "metric", "score", "lo", "hi"])


def pareto_table(evaluation: pd.DataFrame, costs: pd.DataFrame, metric: str, cost: str, split: str = "pooled") -> pd.DataFrame:
    """Which strategies nobody beats in quality and cost at once.

    Args:
        costs: columns strategy and `cost`, one or more rows a strategy (their mean counts).

    Returns:
        columns metric, cost of, strategy, value, cost, dominated by (names joined by "; ", "" on the front); by rising cost. A
        strategy of unknown cost is left out. Equal in both does not dominate.
    """
    joined = over_seeds(evaluation)
    rows = joined[
        (joined["split"] == split) & (joined["class"] == "all") & (joined["metric"] == metric) & ~joined["strategy"].isin(ANCHORS)
    ]
    prices = costs.groupby("strategy")[cost].mean()
    known = [
        (name, value, float(prices[name])) for name, value in zip(rows["strategy"], rows["value"]) if np.isfinite(prices.get(name, np.nan))
    ]
    sign = {"higher": -1.0, "lower": 1.0}.get(find_metric(metric).better)
    if sign is None:
        raise InputError(f"quality against cost: {metric} has no better direction; choose another measure.")
    table = []
    for name, value, price in known:
        beaten = [
            other for other, theirs, paid in known if sign * theirs <= sign * value and paid <= price and (theirs != value or paid != price)
        ]
        table.append((metric, cost, name, value, price, "; ".join(beaten)))
    columns = ["metric", "cost of", "strategy", "value", "cost", "dominated by"]
    return pd.DataFrame(table, columns=columns).sort_values("cost", kind="stable", ignore_index=True)


def pareto_sentences(table: pd.DataFrame) -> list[str]:
    """One sentence a measure and cost: who is on the front."""
    lines = []
    for (metric, cost), part in table.groupby(["metric", "cost of"], sort=False):
        front = part.loc[part["dominated by"] == "", "strategy"]
        lines.append(f"{metric} against {cost}: nobody is both better and cheaper than {', '.join(front)} ({len(front)} of {len(part)}).")
    return lines


def failures(runs: Mapping[str, ImageStatistics], judge: Judge, count: int = 6) -> pd.DataFrame:
    """The images of each strategy that fit their class prompt worst, by the judge's cosine: a rule, not a taste.

    Each class gives its worst image, and of these the `count` worst are taken, so that one hard class does not fill the row.

    Returns:
        columns strategy, rank (1 = worst), index (of the image), class, cosine, called (the nearest class prompt; classes
        compete with classes, compositions with compositions).
    """
    labels = sorted({label for part in runs.values() for label in part.labels if label})
    if not labels:
        raise InputError("failures: the images have no class labels; the rule needs the prompt of a class.")
    prompts = embed_texts(judge, [default_caption(label) for label in labels])
    rows = []
    for name, part in runs.items():
        truth = np.array([labels.index(label) for label in part.labels])
        mixed = np.isin(labels, [label for label, group in zip(part.labels, part.groups) if group == COMPOSITION])
        own = (part.features * prompts[truth]).sum(1)
        nearest = zero_shot(part.features, prompts, mixed[None] == mixed[truth][:, None])
        worst = [min(np.flatnonzero(truth == index), key=lambda i: own[i]) for index in np.unique(truth)]
        for rank, i in enumerate(sorted(worst, key=lambda i: own[i])[:count], start=1):
            rows.append((name, rank, int(i), part.labels[i], float(own[i]), labels[nearest[i]]))
    return pd.DataFrame(rows, columns=["strategy", "rank", "index", "class", "cosine", "called"])


# Sensors: images tuned on one sensor, judged by real images of others. Decoders: the same latents, drawn by two autoencoders.

ACROSS = ("amplitude_kl", "texture_distance", "look_accuracy")  # what needs no judge: SAR-CLIP knows one sensor only


def sensor_halves(images: ImageSet, few: int, seed: int = 0) -> tuple[ImageStatistics, ImageStatistics]:
    """Two random halves of a sensor's real images, at most `few` of each class in either: one judges, one is judged.

    Distances between small sets are biased upwards, so sensors are compared by the same few images a class. Raises InputError
    where no class has two images.
    """
    part = some_per_label(images, 2 * few, seed)
    first, second = halves(part.labels, seed)
    if not len(second):
        raise InputError(f"{images.root}: no class with two images, so there are no two halves; give more real images.")
    return measure(part.subset(first), None, str(images.root)), measure(part.subset(second), None, str(images.root))


def sensor_table(
    drawn: Mapping[str, ImageStatistics], sensors: Mapping[str, ImageStatistics], resamples: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Every set against real images of every sensor: columns strategy, sensor, metric, value, lo, hi, n.

    Args:
        drawn: name -> images, of strategies or real ones. sensors: name -> held-out real images, normalised by their own sensor.
    """
    parts = []
    for name, fake in drawn.items():
        for sensor, real in sensors.items():
            table = evaluate(name, 0, real, fake, None, resamples, seed)
            kept = table[(table["split"] == "pooled") & (table["class"] == "all") & table["metric"].isin(ACROSS)]
            parts.append(kept.assign(sensor=sensor))
    columns = ["strategy", "sensor", "metric", "value", "lo", "hi", "n"]
    return pd.concat(parts, ignore_index=True)[columns]


def sensor_sentences(table: pd.DataFrame, own: str) -> list[str]:
    """For each set and measure, the sensor whose real images it is nearest to, those whose intervals overlap, and whether that is `own`."""
    lines = []
    for (name, metric), part in table[table["metric"] != "look_accuracy"].groupby(["strategy", "metric"], sort=False):
        best = part.loc[part["value"].idxmin()]
        near = part.loc[(part["lo"] <= best["hi"]) & (part["sensor"] != best["sensor"]), "sensor"].tolist()
        words = f"nearest to {best['sensor']}" + ", the sensor of the study" * (best["sensor"] == own)
        there = part[part["sensor"] == own]
        if best["sensor"] != own and own not in near and len(there):
            words = f"nearer to {best['sensor']} ({best['value']:.3g}) than to {own}, the sensor of the study "
            words += f"({there['value'].iloc[0]:.3g})"
        lines.append(f"{name}: by {metric} {words}" + f"; not told apart from {', '.join(near)}" * bool(near) + ".")
    return lines


def decoder_table(
    real: ImageStatistics,
    frozen: Mapping[str, ImageStatistics],
    adapted: Mapping[str, ImageStatistics],
    judge: Judge | None,
    metrics: Sequence[str] = TESTED,
    permutations: int = 4999,
    seed: int = 0,
) -> pd.DataFrame:
    """What another decoder makes of the same latents, paired image by image.

    Args:
        frozen, adapted: strategy -> images of the same latents in the same order, by either decoder.

    Returns:
        columns strategy, metric, frozen, adapted, gain (positive = the adapted decoder is better), p, p_holm (corrected over the
        strategies of a measure), verdict. Classes count the same, all groups pooled.
    """
    rows = []
    for metric in metrics:
        own = []
        for name in frozen:
            sides = [paired_rows(real, part, judge, (metric,)).get(metric) for part in (frozen[name], adapted[name])]
            if any(side is None for side in sides):
                continue
            if frozen[name].labels != adapted[name].labels:
                raise InputError(f"decoders: the images of {name} are of other classes or in another order; decode the same latents.")
            inside = np.array([label in real.labels for label in frozen[name].labels])
            labels = [label for label, used in zip(frozen[name].labels, inside) if used]
            weights, statistic = stratified_weights(labels, 0, 0)[0], measure_of(metric, real, sorted(set(labels)))
            before, after = (float(statistic((weights @ side[inside])[None])[0]) for side in sides)
            _, p = exchange_test(sides[0][inside], sides[1][inside], weights, statistic, permutations, seed)
            gain = (after - before) * (1 if find_metric(metric).better == "higher" else -1)
            own.append((name, metric, before, after, gain, p))
        corrected = holm(np.array([row[-1] for row in own]))
        rows += [(*row, p, ("better" if row[4] > 0 else "worse") if p < ALPHA else "not told apart") for row, p in zip(own, corrected)]
    return pd.DataFrame(rows, columns=["strategy", "metric", "frozen", "adapted", "gain", "p", "p_holm", "verdict"])


def decoder_sentences(table: pd.DataFrame) -> list[str]:
    """For how many strategies the adapted decoder is better, worse or not told apart, a sentence a measure; then where it loses."""
    lines, lost = [], []
    for metric, part in table.groupby("metric", sort=False):
        counts = ", ".join(f"{word} for {(part['verdict'] == word).sum()}" for word in ("better", "worse", "not told apart"))
        lines.append(f"{metric}: the adapted decoder is {counts} of {len(part)} strategies (Holm, {ALPHA:.0%}).")
        if names := part.loc[part["verdict"] == "worse", "strategy"].tolist():
            lost.append(f"{metric} for {', '.join(names)}")
    return [*lines, f"The frozen decoder wins: {'; '.join(lost)}." if lost else "The frozen decoder wins nowhere."]
