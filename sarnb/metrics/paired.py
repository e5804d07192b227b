"""Paired tests between strategies: image i of both was drawn for the same prompt from the same noise.

Permutation test (Good 2005, ch. 3; Edgington 1995). If it made no difference which strategy drew an image, the two images of
a pair could be exchanged. The measure is computed again with each pair exchanged or not, at random, many times; p is the share
of exchanges with a difference at least as large as the one seen (the one seen counts too, so p is never 0). It holds for
any measure of a whole set, also for those that have no value for a single image. With several training seeds the statistic is
the mean over them, and image i is exchanged for all of them together: images of one prompt and noise are one unit. The
trainings are taken as they came out: the test says whether these trained models differ, the spread over training seeds
whether another training would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics import amplitude, texture
from sarnb.metrics.bootstrap import stratified_weights
from sarnb.metrics.catalogue import find_metric
from sarnb.metrics.evaluation import image_scores
from sarnb.metrics.measured import Measured
from sarnb.metrics.semantic import Judge

TESTED = ("amplitude_kl", "texture_distance", "clip_accuracy", "clip_cosine", "look_accuracy")
ALPHA = 0.05  # on the corrected p
_CHUNK = 500  # exchanges computed at once

Runs = Mapping[str, Mapping[int, Measured]]  # strategy -> training seed -> its images


def holm(p: np.ndarray) -> np.ndarray:
    """p values corrected for their number m: the k-th smallest times m - k + 1, never falling, at most 1 (Holm 1979).

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    grown = np.maximum.accumulate(np.minimum(np.asarray(p)[order] * np.arange(len(p), 0, -1), 1.0))
    corrected = np.empty(len(p))
    corrected[order] = grown
    return corrected


def exchange_test(
    first: np.ndarray,
    second: np.ndarray,
    weights: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    permutations: int,
    seed: int,
) -> tuple[float, float]:
    """Difference statistic(first) - statistic(second) and its two-sided p by exchanging pairs.

    Args:
        first, second: what one measure needs of each image [N, F], row i of both is a pair; or [S, N, F] of S training seeds,
            whose mean statistic is tested, pair i exchanged in all of them at once. weights: of the pairs [N], sum 1.
        statistic: weighted means of the rows [B, F] -> value [B].
    """
    sides = list(zip(first, second)) if first.ndim == 3 else [(first, second)]
    totals = [weights @ a + weights @ b for a, b in sides]
    mine = [(weights @ a)[None] for a, _ in sides]
    gaps = [(b - a) * weights[:, None] for a, b in sides]

    def difference(means: list[np.ndarray]) -> np.ndarray:
        return np.mean([statistic(part) - statistic(total - part) for part, total in zip(means, totals)], axis=0)

    seen, rng, as_large = float(difference(mine)[0]), np.random.default_rng(seed), 1
    for start in range(0, permutations, _CHUNK):
        exchanged = rng.random((min(_CHUNK, permutations - start), len(weights))) < 0.5
        differences = difference([part + exchanged @ gap for part, gap in zip(mine, gaps)])
        as_large += int((np.abs(differences) >= abs(seen) * (1 - 1e-9)).sum())
    return seen, as_large / (permutations + 1)


def paired_tests(
    real: Measured,
    runs: Runs,
    judge: Judge | None,
    split: str = "pooled",
    metrics: Sequence[str] = TESTED,
    permutations: int = 4999,
    seed: int = 0,
) -> pd.DataFrame:
    """Every two strategies on every measure, Holm-corrected over the pairs of strategies of a measure.

    Args:
        real: held-out real images. runs: strategy -> training seed -> measured images, in the same order of prompts.
        judge: SAR-CLIP; None leaves its measures out. split: pooled, seen, unseen or composition. metrics: some of TESTED.

    Returns:
        columns metric, split, first, second, seeds (training seeds that both have), n (prompts, the pairs exchanged),
        difference (first minus second, of the means over these seeds), p, p_holm, better (the better one, or "not told
        apart"). Classes count the same. Empty with one strategy.

    Raises:
        InputError: images of two strategies, or of two training seeds, that were drawn for different classes or sides.
    """
    prepared = {
        name: {k: paired_rows(real, part, judge, metrics) for k, part in several.items()} for name, several in runs.items()
    }
    rows = []
    for metric in metrics:
        tests = [_pair(metric, split, a, b, runs, prepared, real, permutations, seed) for a, b in combinations(runs, 2)]
        tests = [test for test in tests if test is not None]
        corrected = holm(np.array([test["p"] for test in tests]))
        for test, p in zip(tests, corrected):
            towards = test["difference"] > 0 if find_metric(metric).better == "higher" else test["difference"] < 0
            better = (test["first"] if towards else test["second"]) if p < ALPHA else "not told apart"
            rows.append({**test, "p_holm": p, "better": better})
    return pd.DataFrame(
        rows, columns=["metric", "split", "first", "second", "seeds", "n", "difference", "p", "p_holm", "better"]
    )


def paired_rows(real: Measured, fake: Measured, judge: Judge | None, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """What each measure needs of each image [N, F]; a measure that these images have no value for is left out."""
    scores = {name: score for name, score in image_scores(real, fake, judge, None).items() if not isinstance(score, str)}
    scores = {name: score[:, None] for name, score in scores.items() if np.isfinite(score).all()}
    scores["amplitude_kl"] = amplitude.probabilities(fake.histograms)
    scores["texture_distance"] = texture.standardise(fake.descriptors, real.descriptors)
    return {name: scores[name] for name in metrics if name in scores}


def _pair(metric, split, first, second, runs: Runs, prepared, real: Measured, permutations: int, seed: int) -> dict | None:
    """One test; None where the two have no training seed in common or no value for the measure."""
    seeds = [k for k in runs[first] if k in runs[second] and metric in prepared[first][k] and metric in prepared[second][k]]
    if not seeds:
        return None
    part = runs[first][seeds[0]]
    for other in (runs[name][k] for name in (first, second) for k in seeds):
        if (other.labels, other.looks) != (part.labels, part.looks):
            raise InputError(
                f"paired test: {first} and {second} were drawn for other classes or sides; draw them for the same prompts."
            )
    chosen = [
        i
        for i, (label, group) in enumerate(zip(part.labels, part.groups))
        if label in real.labels and split in ("pooled", group)
    ]
    if not chosen:
        return None
    labels = [part.labels[i] for i in chosen]
    sides = [np.stack([prepared[name][k][metric][chosen] for k in seeds]) for name in (first, second)]
    weights = stratified_weights(labels, 0, 0)[0]
    difference, p = exchange_test(*sides, weights, measure_of(metric, real, sorted(set(labels))), permutations, seed)
    return {
        "metric": metric,
        "split": split,
        "first": first,
        "second": second,
        "seeds": len(seeds),
        "n": len(labels),
        "difference": difference,
        "p": p,
    }


def measure_of(metric: str, real: Measured, labels: Sequence[str]) -> Callable[[np.ndarray], np.ndarray]:
    """The measure as a function of weighted means [B, F], against the real images of these classes."""
    inside = np.isin(np.asarray(real.labels, dtype=object), labels)
    weights = stratified_weights([label for label, used in zip(real.labels, inside) if used], 0, 0)[0]
    if metric == "amplitude_kl":
        shares = weights @ amplitude.probabilities(real.histograms[inside])
        return lambda means: amplitude.kl(shares[None], np.maximum(means, 0.0))
    if metric == "texture_distance":
        centre = weights @ texture.standardise(real.descriptors, real.descriptors)[inside]
        return lambda means: texture.property_distances(centre[None], means).mean(-1)
    return lambda means: means[:, 0]


def pair_sentences(tests: pd.DataFrame) -> list[str]:
    """One sentence a measure and split: which strategies are better than which others, after correction, over which seeds."""
    lines = []
    for (split, metric), part in tests.groupby(["split", "metric"], sort=False):
        told = part[part["better"] != "not told apart"]
        wins = {
            name: [
                other
                for row in told.itertuples()
                if row.better == name
                for other in (row.first, row.second)
                if other != name
            ]
            for name in dict.fromkeys(told["better"])
        }
        words = (
            "; ".join(f"{name} is better than {', '.join(others)}" for name, others in wins.items())
            or "no pair is told apart"
        )
        few, most = part["seeds"].min(), part["seeds"].max()
        seeds = f"{few} to {most}" if few < most else f"{few}"
        lines.append(
            f"{metric} ({split}): {len(told)} of {len(part)} pairs differ at {ALPHA:.0%} after Holm's correction "
            f"(common training seeds of a pair: {seeds}). {words}."
        )
    return lines
