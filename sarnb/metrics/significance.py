"""Are two strategies different, and who is first? Paired exchange tests, average ranks, and what one thing more changes.

Image i of two strategies was drawn for the same prompt from the same noise, so tests and intervals are of pairs. The bootstrap
redraws the same images for every strategy and measure. Friedman 1937 and Demšar, JMLR 7 (2006), for average ranks, which put
measures of different units on one footing and say nothing of how large a lead is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations, product

import numpy as np
import pandas as pd
from scipy import stats
from scipy.stats import rankdata

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics import HEADLINE, KEY_METRICS, amplitude, find_metric, texture
from sarnb.metrics.bootstrap import distance_interval, over_trainings, percentile_interval, stratified_weights
from sarnb.metrics.describe import ImageStatistics, measure
from sarnb.metrics.evaluation import SPLITS, Outcome, image_scores, outcomes
from sarnb.metrics.report import once_sentence
from sarnb.metrics.semantic import Judge

LAWS = {  # measures of two amplitude distributions
    "amplitude_kl": amplitude.kl,
    "log_cumulant_distance": amplitude.log_cumulant_distance,
    "zero_share_distance": amplitude.zero_share_distance,
}
TESTED = (*LAWS, "texture_distance", "clip_accuracy", "clip_cosine", "look_accuracy")
ALPHA = 0.05  # on the corrected p
UNDECIDED, ONCE = "not distinguished", "trained once"
TEST_COLUMNS = ("metric", "split", "first", "second", "seeds", "n", "difference", "p", "p_holm", "shown", "better")
TEST_COLUMNS += ("lo", "hi", "winner")
_CHUNK = 500  # exchanges computed at once

Runs = Mapping[str, Mapping[int, ImageStatistics]]  # strategy -> training seed -> its images, in the same order of prompts


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
) -> tuple[float, float, float]:
    """Difference T = statistic(first) - statistic(second), its two-sided p by exchanging pairs, and the deviation of T*.

    p = (1 + #{|T*| >= |T|}) / (1 + R), T* after each pair was exchanged by the toss of a coin, R times (Good 2005).

    Parameters
    ----------
    first, second : what one measure needs of each image [N, F], row i of both is a pair; or [S, N, F] of S training seeds,
        whose mean statistic is tested, pair i exchanged in all of them at once.
    weights : of the pairs [N], sum 1.
    statistic : weighted means of the rows [B, F] -> value [B].
    permutations, seed : number R of exchanges, and their seed.
    """
    sides = list(zip(first, second)) if first.ndim == 3 else [(first, second)]
    totals = [weights @ a + weights @ b for a, b in sides]
    given = [(weights @ a)[None] for a, _ in sides]
    gaps = [(b - a) * weights[:, None] for a, b in sides]

    def difference(means: list[np.ndarray]) -> np.ndarray:
        return np.mean([statistic(part) - statistic(total - part) for part, total in zip(means, totals)], axis=0)

    seen, rng, as_large, squares = float(difference(given)[0]), np.random.default_rng(seed), 1, 0.0
    for start in range(0, permutations, _CHUNK):
        exchanged = rng.random((min(_CHUNK, permutations - start), len(weights))) < 0.5
        differences = difference([part + exchanged @ gap for part, gap in zip(given, gaps)])
        as_large += int((np.abs(differences) >= abs(seen) * (1 - 1e-9)).sum())
        squares += float((differences**2).sum())
    return seen, as_large / (permutations + 1), float(np.sqrt(squares / max(1, permutations)))


def paired_tests(
    real: ImageStatistics,
    runs: Runs,
    judge: Judge | None,
    split: str = "pooled",
    metrics: Sequence[str] = TESTED,
    permutations: int = 4999,
    seed: int = 0,
) -> pd.DataFrame:
    """Every two strategies on every measure, Holm-corrected over the pairs of strategies of a measure.

    Parameters
    ----------
    real : held-out real images.
    runs : strategy -> training seed -> statistics of what was drawn.
    judge : SAR-CLIP; None leaves its measures out.
    split : pooled, seen, unseen or composition.
    metrics : some of ``TESTED``.

    Returns
    -------
    Columns metric, split, first, second, seeds (training seeds that both have), n (prompts, the pairs exchanged), difference
    (first minus second, of the means over these seeds), p, p_holm, shown (p_holm as text: what no exchange reached is "≤"), better:
    of the trained models, the better ones, or "not distinguished"; then what would hold for another training: lo, hi (of the
    difference, of all pairs with several common seeds together at 95 %), winner (the better strategy where that interval leaves out 0,
    "not distinguished", or "trained once"). The interval is that of ``bootstrap.over_trainings``, with the differences of trainings of one
    seed, and the deviation of T* as that over images. Classes count the same. Empty with one strategy.

    Raises
    ------
    InputError
        Images of two strategies, or of two training seeds, that were drawn for different classes or sides.
    """
    prepared = {name: {k: paired_rows(real, part, judge, metrics) for k, part in several.items()} for name, several in runs.items()}
    rows, least = [], 1 / (permutations + 1)
    for metric in metrics:
        tests = [_pair(metric, split, a, b, runs, prepared, real, permutations, seed) for a, b in combinations(runs, 2)]
        tests = [test for test in tests if test is not None]
        level = 1 - ALPHA / max(1, sum(test["seeds"] > 1 for test in tests))  # Bonferroni's, over the pairs that were trained again
        for test, p in zip(tests, holm(np.array([test["p"] for test in tests]))):
            gap, own = test["difference"], {**test, "p_holm": p, "better": UNDECIDED, "winner": ONCE}
            own["shown"] = f"{'≤ ' if test['p'] <= least * (1 + 1e-9) else ''}{p:.2g}"
            ahead = test["first"] if (gap > 0) == (find_metric(metric).better == "higher") else test["second"]
            if test["seeds"] > 1:
                images = stats.norm.ppf((1 + level) / 2) * test["deviation"]
                half = float(over_trainings(images, test["spread"], test["seeds"], level))
                own |= {"lo": gap - half, "hi": gap + half, "winner": ahead if p < ALPHA and abs(gap) > half else UNDECIDED}
            rows.append(own | ({"better": ahead} if p < ALPHA else {}))
    return pd.DataFrame(rows, columns=list(TEST_COLUMNS))


def paired_rows(real: ImageStatistics, fake: ImageStatistics, judge: Judge | None, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """What each measure needs of each image [N, F]; a measure that these images have no value for is left out."""
    scores = {name: score for name, score in image_scores(real, fake, judge, None).items() if not isinstance(score, str)}
    scores = {name: score[:, None] for name, score in scores.items() if np.isfinite(score).all()}
    scores |= dict.fromkeys(LAWS, amplitude.filled(fake.histograms))
    scores["texture_distance"] = texture.standardise(fake.descriptors, real.descriptors)
    return {name: scores[name] for name in metrics if name in scores}


def _pair(metric, split, first, second, runs: Runs, prepared, real: ImageStatistics, permutations: int, seed: int) -> dict | None:
    """One test; None where the two have no training seed in common or no value for the measure."""
    seeds = [k for k in runs[first] if k in runs[second] and metric in prepared[first][k] and metric in prepared[second][k]]
    if not seeds:
        return None
    part = runs[first][seeds[0]]
    for other in (runs[name][k] for name in (first, second) for k in seeds):
        if (other.labels, other.looks) != (part.labels, part.looks):
            raise InputError(f"paired test: {first} and {second} were drawn for other classes or sides; draw them for the same prompts.")
    chosen = [i for i, (label, group) in enumerate(zip(part.labels, part.groups)) if label in real.labels and split in ("pooled", group)]
    if not chosen:
        return None
    sides = [np.stack([prepared[name][k][metric][chosen] for k in seeds]) for name in (first, second)]
    weights, statistic = weighted_measure(metric, real, [part.labels[i] for i in chosen])
    difference, p, deviation = exchange_test(*sides, weights, statistic, permutations, seed)
    test = {"metric": metric, "split": split, "first": first, "second": second, "seeds": len(seeds), "n": len(chosen)}
    test |= {"difference": difference, "p": p}
    each = [float((statistic((weights @ a)[None]) - statistic((weights @ b)[None]))[0]) for a, b in zip(*sides)]
    return test | {"deviation": deviation, "spread": np.std(each, ddof=1) if len(each) > 1 else np.nan}


def weighted_measure(metric: str, real: ImageStatistics, labels: Sequence[str]) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Weights [N] of images of these ``labels``, and the measure of weighted means [B, F] against real images of their classes."""
    own = stratified_weights(labels, 0, 0)[0]
    inside = np.isin(np.asarray(real.labels, dtype=object), sorted(set(labels)))
    weights = stratified_weights([label for label, used in zip(real.labels, inside) if used], 0, 0)[0]
    if metric in LAWS:
        shares = weights @ amplitude.filled(real.histograms)[inside]
        return own, lambda means: LAWS[metric](shares[None], np.maximum(means, 0.0))
    if metric == "texture_distance":
        centre = weights @ texture.standardise(real.descriptors, real.descriptors)[inside]
        return own, lambda means: texture.property_distances(centre[None], means).mean(-1)
    return own, lambda means: means[:, 0]


def pair_table(tests: pd.DataFrame) -> pd.DataFrame:
    """A row a split and measure: how many pairs of trained models differ, of how many pairs a strategy wins, and which wins.

    Columns split, metric, pairs, differ (trained models, 5 % after Holm's correction), trained again (pairs of which both have several
    common seeds), wins ("a over b, c; d over b": what would hold for another training too), models ("a over b", those of trained models).
    """
    rows = []
    for (split, metric), part in tests.groupby(["split", "metric"], sort=False):
        counts = len(part), (part["better"] != UNDECIDED).sum(), (part["winner"] != ONCE).sum()
        rows.append((split, metric, *counts, _over(part, "winner"), _over(part, "better")))
    return pd.DataFrame(rows, columns=["split", "metric", "pairs", "differ", "trained again", "wins", "models"])


def _over(part: pd.DataFrame, column: str) -> str:
    """Who is over whom: "a over b, c; d over b", "" where no pair is distinguished."""
    decided = part[~part[column].isin([UNDECIDED, ONCE])]
    others = decided["second"].where(decided[column] == decided["first"], decided["first"])
    return "; ".join(f"{name} over {beaten}" for name, beaten in others.groupby(decided[column], sort=False).agg(", ".join).items())


def pair_sentences(tests: pd.DataFrame) -> list[str]:
    """One sentence a measure and split, from ``pair_table``: winners where both were trained again, else trained models only."""
    lines = []
    for row in pair_table(tests).rename(columns={"trained again": "again"}).itertuples():
        line = f"{row.metric} ({row.split}): the trained models of {row.differ} of {row.pairs} pairs differ at {ALPHA:.0%} after Holm's "
        line += "correction. "
        if not row.again:
            line += "No pair was trained with several common seeds, so only these trained models are compared and no strategy wins."
        else:
            line += f"{row.again} of the pairs were trained with several common seeds; of them "
            line += f"the better strategy is known: {row.wins}." if row.wins else "no pair is distinguished over trainings."
        lines.append(line)
    return lines


def rank_table(
    real: ImageStatistics,
    runs: Runs,
    judge: Judge | None,
    split: str = "pooled",
    metrics: Sequence[str] = KEY_METRICS,
    resamples: int = 200,
    seed: int = 0,
    distrusted: Collection[str] = (),
) -> pd.DataFrame:
    """Average rank over the measures that every strategy has, with 95 % bootstrap intervals, best first.

    Parameters
    ----------
    runs : strategy -> training seed -> statistics; a strategy's value is the mean over its training seeds. A resample redraws the
        images and, of a strategy with k seeds, k - 1 of them.
    resamples : at most; with a Fréchet distance among the measures as many as that one has, ``FRECHET_RESAMPLES``.
    distrusted : measures that failed their admission. They are left out, unless no other measure is there.

    Returns
    -------
    Columns strategy, seeds, average rank, lo, hi, first (share of the resamples in which it is the best), and a column of ranks a
    measure. Of a strategy with one seed the interval is that of this trained model.

    Raises
    ------
    InputError
        No measure that all strategies have, or one that has no better direction ("match").
    """
    if matching := [name for name in metrics if find_metric(name).better == "match"]:
        raise InputError(f"average rank: {matching[0]} has no better direction; leave it out.")
    found = {}
    for name, several in runs.items():
        pools = [outcomes(real, part, judge, resamples, seed, splits=(split,), classes=False) for part in several.values()]
        found[name] = [_samples(next(pool, (split, "all", 0, {}))[-1], metrics) for pool in pools]
    shared = [metric for metric in metrics if all(metric in part for several in found.values() for part in several)]
    if not shared:
        raise InputError(f"average rank: no measure on {split} that every strategy has; draw more images.")
    shared = [metric for metric in shared if metric not in distrusted] or shared
    length = min(len(part[metric]) for several in found.values() for part in several for metric in shared)
    # [1 + resamples, strategies, measures]; the first entry is the images as given
    rng, means = np.random.default_rng((seed, 1)), []
    for several in found.values():
        each = np.array([[part[metric][:length] for metric in shared] for part in several])  # [k, measures, 1 + resamples]
        shares = rng.multinomial(draws := max(1, len(each) - 1), np.full(len(each), 1 / len(each)), size=length) / draws
        shares[0] = 1 / len(each)
        means.append(np.einsum("bk,kmb->bm", shares, each))
    values = np.stack(means, axis=1)
    higher = np.array([find_metric(metric).better == "higher" for metric in shared])
    averages = average_ranks(values, higher)
    best = (averages[1:] == averages[1:].min(axis=1, keepdims=True)).mean(0) if length > 1 else np.full(len(found), np.nan)
    table = pd.DataFrame({"strategy": list(found), "seeds": [len(part) for part in found.values()], "average rank": averages[0]})
    table[["lo", "hi"]] = [percentile_interval(averages[1:, place], averages[0, place]) for place in range(len(found))]
    table["first"] = best
    table[shared] = rankdata(np.where(higher, -values[0], values[0]), axis=0)
    return table.sort_values("average rank", kind="stable", ignore_index=True)


def average_ranks(values: np.ndarray, higher: np.ndarray) -> np.ndarray:
    """Average rank of each strategy, 1 = best; equal values share their rank.

    ``values`` [..., S, M] of S strategies on M measures; ``higher`` bool [M], whether more is better. Returns [..., S].
    """
    return rankdata(np.where(higher, -values, values), axis=-2).mean(-1)


def _samples(outcome: Outcome, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """measure -> [1 + resamples]: its value, then its bootstrap samples; measures without a value are left out."""
    known = {name: outcome[name] for name in metrics if not isinstance(outcome.get(name, ""), str)}
    return {name: np.concatenate([[float(value)], samples]) for name, (value, samples, *_) in known.items() if np.isfinite(value)}


def rank_sentences(table: pd.DataFrame, distrusted: Collection[str] = ()) -> list[str]:
    """Who is first, over which measures, and whose interval reaches its own, from ``rank_table``."""
    best, others = table.iloc[0], table.iloc[1:]
    near = others[others["lo"] <= best["hi"]]["strategy"].tolist()
    measures = list(table.columns[6:])
    interval = f"{best['average rank']:.2f} [{best['lo']:.2f}, {best['hi']:.2f}]"
    text = f"Best average rank over {', '.join(measures)}: {best['strategy']}, {interval} of {len(table)}"
    text += f"; its interval reaches those of {', '.join(near)}." if near else "; no other interval reaches it." if len(others) else "."
    text += once_sentence(dict(zip(table["strategy"], table["seeds"])))
    if failed := [name for name in measures if name in distrusted]:
        text += f" {', '.join(failed)} failed in admission and nothing else can be ranked, so this rank carries no weight."
    return [text]


# What one thing more does to a strategy: each measure with it and without it, and a paired interval of the change.

COLUMNS = ("split", "metric", "seeds", "n", "without", "with", "change", "lo", "hi", "spread")


def paired_changes(
    test: ImageSet,
    without: Mapping[int, ImageSet],
    with_it: Mapping[int, ImageSet],
    metrics: Sequence[str] = HEADLINE,
    resamples: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Distance from real images without and with something, over whole splits, means over the training seeds of both.

    Parameters
    ----------
    test : held-out real images.
    without, with_it : training seed -> what was drawn, for the same prompts and noise.
    metrics : measures of which lower is better, or that have to match the real value, which then count |value - real|.

    Returns
    -------
    columns COLUMNS. seeds: training seeds that both have; n: pairs of images; change: with - without, negative is nearer to
    real images, [lo, hi] its 95 % interval, of several trainings over these too; spread: largest difference of two trainings without
    it that differ in their seed only, NaN with one.

    Raises
    ------
    InputError
        No training seed in common, images drawn for other prompts or from other noise, a measure of which higher is better.
    """
    if wrong := [name for name in metrics if find_metric(name).better == "higher"]:
        raise InputError(f"change: {wrong[0]} is no distance from real images; leave it out.")
    shared = [k for k in without if k in with_it]
    if not shared:
        raise InputError(f"change: training seeds {list(without)} and {list(with_it)} have none in common.")
    shown = [
        [[(row.get("label"), row.get("look"), row.get("seed")) for row in side[k].rows] for k in shared] for side in (without, with_it)
    ]
    if shown[0] != shown[1]:
        raise InputError("change: the two were drawn for other prompts or from other noise; draw them for the same.")
    real = measure(test, None, "real images")

    def values(images: ImageSet | ImageStatistics) -> dict[tuple[str, str], tuple[int, np.ndarray]]:
        """(split, measure) -> number of images, and [1 + resamples]: the images as given first."""
        parts = outcomes(real, measure(images, None, "generated images"), None, resamples, seed, splits=SPLITS[1:], classes=False)
        return {(split, name): (n, own) for split, _, n, outcome in parts for name, own in _samples(outcome, metrics).items()}

    own, sides = values(real), [{k: values(images) for k, images in side.items()} for side in (without, with_it)]

    def distance(key: tuple[str, str], part: dict) -> np.ndarray:
        return np.abs(part[key][1] - own[key][1]) if find_metric(key[1]).better == "match" else part[key][1]

    rows = []
    for key in product(SPLITS[1:], metrics):
        if key not in own or any(key not in side[k] for k in shared for side in sides):
            continue
        old, new = (np.mean([distance(key, side[k]) for k in shared], axis=0) for side in sides)
        trained = [distance(key, part)[0] for part in sides[0].values() if key in part]
        spread, count = np.ptp(trained) if len(trained) > 1 else np.nan, sum(sides[0][k][key][0] for k in shared)
        change = new - old
        ends = np.array(distance_interval(change[1:], change[0], least=-np.inf))
        if len(shared) > 1:
            each = np.array([distance(key, sides[1][k])[0] - distance(key, sides[0][k])[0] for k in shared])
            ends = change[0] + np.array([-1, 1]) * over_trainings(ends - change[0], each.std(ddof=1), len(each))
        rows.append((*key, len(shared), count, old[0], new[0], change[0], *ends, spread))
    return pd.DataFrame(rows, columns=list(COLUMNS))
