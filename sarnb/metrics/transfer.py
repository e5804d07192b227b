"""Sensors: images tuned on one sensor, judged by real images of others. Decoders: the same latents, drawn by two autoencoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sarnb.data.dataset import ImageSet
from sarnb.data.overview import some_per_label
from sarnb.errors import InputError
from sarnb.metrics.bootstrap import stratified_weights
from sarnb.metrics.catalogue import find_metric
from sarnb.metrics.evaluation import evaluate, halves
from sarnb.metrics.measured import Measured, measure
from sarnb.metrics.paired import ALPHA, TESTED, exchange_test, holm, measure_of, paired_rows
from sarnb.metrics.semantic import Judge

ACROSS = ("amplitude_kl", "texture_distance", "look_accuracy")  # what needs no judge: SAR-CLIP knows one sensor only


def sensor_halves(images: ImageSet, few: int, seed: int = 0) -> tuple[Measured, Measured]:
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
    drawn: Mapping[str, Measured], sensors: Mapping[str, Measured], resamples: int = 200, seed: int = 0
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
    real: Measured,
    frozen: Mapping[str, Measured],
    adapted: Mapping[str, Measured],
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
                raise InputError(
                    f"decoders: the images of {name} are of other classes or in another order; decode the same latents."
                )
            inside = np.array([label in real.labels for label in frozen[name].labels])
            labels = [label for label, used in zip(frozen[name].labels, inside) if used]
            weights, statistic = stratified_weights(labels, 0, 0)[0], measure_of(metric, real, sorted(set(labels)))
            before, after = (float(statistic((weights @ side[inside])[None])[0]) for side in sides)
            _, p = exchange_test(sides[0][inside], sides[1][inside], weights, statistic, permutations, seed)
            gain = (after - before) * (1 if find_metric(metric).better == "higher" else -1)
            own.append((name, metric, before, after, gain, p))
        corrected = holm(np.array([row[-1] for row in own]))
        rows += [
            (*row, p, ("better" if row[4] > 0 else "worse") if p < ALPHA else "not told apart")
            for row, p in zip(own, corrected)
        ]
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
