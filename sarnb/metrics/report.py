"""The evaluation table rearranged and put into words; table and sentences come from the same rows, so they cannot disagree.

Below: joined training seeds, the verdict, the headline measures of a strategy's notebook, what the figures draw, quality against
cost, the targets, and the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics import (
    HEADLINE,
    KEY_METRICS,
    METRICS,
    WHOLE,
    amplitude,
    class_name,
    distribution,
    evaluation,
    find_metric,
    geometry,
    semantic,
    texture,
)
from sarnb.metrics.bootstrap import over_trainings
from sarnb.metrics.describe import ImageStatistics, measure
from sarnb.metrics.evaluation import (
    ANCHORS,
    COLUMNS,
    FROZEN_DECODER,
    REFERENCE_FLOOR,
    SPLITS,
    TUNED_DECODER,
    anchors,
    combine,
    evaluate,
)

Sets = Mapping[str, Sequence[ImageStatistics]]  # strategy -> its trainings; "reference" -> the reference images


def over_seeds(evaluation: pd.DataFrame) -> pd.DataFrame:
    """Join training seeds: the mean value, its 95 % interval over images and trainings, ``seeds`` counts them, n is summed.

    Of several trainings each half of the interval is that of ``bootstrap.over_trainings``, with the root mean square of the trainings'
    own halves as that over images. Of one training the interval is that over images, given this model.

    Returns
    -------
    Columns strategy, split, class, metric, value, lo, hi, n, seeds, in order of first appearance.

    Raises
    ------
    InputError
        A table without one of the columns.
    """
    missing = [column for column in COLUMNS if column not in evaluation.columns]
    if missing:
        raise InputError(f"evaluation table: no column {missing[0]!r}; use the table that evaluate() returns.")
    value, lo, hi = (evaluation[name].astype(float) for name in ("value", "lo", "hi"))
    table = evaluation.assign(value=value, lo=lo, hi=hi, down=(value - lo) ** 2, up=(hi - value) ** 2)
    parts = table.groupby(["strategy", "split", "class", "metric"], sort=False)
    joined = parts.agg(value=("value", "mean"), lo=("lo", "min"), hi=("hi", "max"), n=("n", "sum"), seeds=("seed", "nunique"))
    spread, halves, again = parts["value"].std(), np.sqrt(parts[["down", "up"]].mean()), joined["seeds"] > 1
    bounds = np.array([find_metric(name).bounds for name in joined.index[again].get_level_values("metric")]).reshape(-1, 2)
    for sign, column, half in ((-1, "lo", "down"), (1, "hi", "up")):
        reach = over_trainings(halves.loc[again, half], spread[again], joined.loc[again, "seeds"])
        joined.loc[again, column] = np.clip(joined.loc[again, "value"] + sign * reach, *bounds.T)
    return joined.reset_index()


def splits_of(table: pd.DataFrame) -> list[str]:
    """The splits, pooled left out, that an evaluation table has rows of some strategy for, in the usual order."""
    present = set(table.loc[~table["strategy"].isin(ANCHORS), "split"])
    return [split for split in SPLITS[1:] if split in present]


def headline_measures(
    test: ImageSet | ImageStatistics,
    runs: Mapping[tuple[str, int], ImageSet],
    anchored: pd.DataFrame,
    resamples: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Rows of the evaluation table for the measures ``HEADLINE``, over whole splits, with the anchors.

    Parameters
    ----------
    test : held-out reference images, measured already or not.
    runs : (strategy, training seed) -> its samples.
    anchored : the anchors' rows, as ``headline_anchors`` gives them.
    resamples, seed : of the bootstrap.
    """
    real = measure(test, None, "reference images")
    tables = [evaluate(name, number, real, samples, None, resamples, seed) for (name, number), samples in runs.items()]
    table = combine([*tables, anchored])
    return table[(table["class"] == "all") & table["metric"].isin(HEADLINE)].reset_index(drop=True)


def headline_anchors(
    test: ImageSet,
    drawn: Sequence[str] | None = None,
    resamples: int = 200,
    seed: int = 0,
    decoded: Mapping[str, ImageSet] | None = None,
) -> pd.DataFrame:
    """The anchors' rows for ``headline_measures``: they depend on no strategy, but for the labels ``drawn`` of its images.

    See ``sarnb.metrics.evaluation.anchors``; the halvings are a fifth of the ``resamples``.
    """
    return anchors(test, None, seed, drawn=drawn, decoded=decoded, halvings=max(2, resamples // 5))


# The verdict.


def _select(evaluation: pd.DataFrame, metrics: Sequence[str], split: str) -> pd.DataFrame:
    """Joined rows of whole splits. Raises InputError for an unknown measure, or where there are none."""
    for name in metrics:
        find_metric(name)
    joined = over_seeds(evaluation)
    chosen = joined[(joined["split"] == split) & (joined["class"] == "all") & joined["metric"].isin(metrics)]
    if chosen.empty:
        raise InputError(f"evaluation table: nothing for split {split!r}; evaluate it first.")
    return chosen


def verdict_table(evaluation: pd.DataFrame, metrics: Sequence[str] = KEY_METRICS, splits: Sequence[str] = ("pooled",)) -> pd.DataFrame:
    """Wide table: a row a split and strategy (anchors last), a column a measure, cells "value [lo, hi]" or "" where left out.

    ``seeds`` counts the trainings behind a row; "" for anchors, which train nothing. Measures that no row has are left out.
    """
    parts = []
    for split in splits:
        chosen = _select(evaluation, metrics, split)
        cells = chosen.assign(cell=[format_interval(row) for _, row in chosen.iterrows()])
        wide = cells.pivot(index="strategy", columns="metric", values="cell")
        names = [name for name in chosen["strategy"].unique() if name not in ANCHORS] + [name for name in ANCHORS if name in wide.index]
        trained = chosen.groupby("strategy")["seeds"].max()
        wide = wide.loc[names].assign(split=split, seeds=["" if name in ANCHORS else int(trained[name]) for name in names])
        parts.append(wide.reset_index())
    table = pd.concat(parts, ignore_index=True)
    return table[["split", "strategy", "seeds", *(name for name in metrics if name in table)]].fillna("")


def format_interval(row: pd.Series) -> str:
    """ "0.123 [0.100, 0.150]" with three significant figures; the interval is left out when there is none."""
    if pd.isna(row["lo"]):
        return f"{row['value']:.3g}"
    return f"{row['value']:.3g} [{row['lo']:.3g}, {row['hi']:.3g}]"


def rank(evaluation: pd.DataFrame, metric: str, split: str = "pooled") -> pd.DataFrame:
    """Strategies (no anchors) from best to worst on one measure, with columns of ``over_seeds``, gap, gap_lo, gap_hi.

    ``gap`` is what is sorted: the value (lower is better), its negative (higher is better), or its distance from the
    "reference vs reference" row (match), where that row exists. ``gap_lo`` and ``gap_hi`` are the interval in the same terms.

    Raises
    ------
    InputError
        The table has no anchor row that the measure is compared with.
    """
    chosen = _select(evaluation, [metric], split)
    better = find_metric(metric).better
    runs = chosen[~chosen["strategy"].isin(ANCHORS)].copy()
    if better == "match":
        real = chosen.loc[chosen["strategy"] == REFERENCE_FLOOR, "value"]
        if real.empty:
            raise InputError(f"evaluation table: no {REFERENCE_FLOOR!r} row for {metric}; add the anchors first.")
        offsets = runs[["value", "lo", "hi"]] - float(real.iloc[0])
        ends = offsets[["lo", "hi"]].abs()
        around = (offsets["lo"] <= 0) & (offsets["hi"] >= 0)  # an interval around the real value has gaps down to 0
        runs["gap"], runs["gap_lo"], runs["gap_hi"] = offsets["value"].abs(), ends.min(axis=1).mask(around, 0.0), ends.max(axis=1)
    elif better == "lower":
        runs["gap"], runs["gap_lo"], runs["gap_hi"] = runs["value"], runs["lo"], runs["hi"]
    else:
        runs["gap"], runs["gap_lo"], runs["gap_hi"] = -runs["value"], -runs["hi"], -runs["lo"]
    return runs.sort_values("gap", kind="stable").reset_index(drop=True)


def sentences(evaluation: pd.DataFrame, metrics: Sequence[str] = KEY_METRICS, split: str = "pooled") -> list[str]:
    """One sentence a measure: who is best, who cannot be distinguished from it, and where floor and ceiling lie.

    Overlapping 95 % intervals are read as "not distinguished"; that is cautious, since intervals may overlap a little while a
    paired test still separates two strategies. Where a strategy was trained once, the sentence says so and names no winner.
    """
    chosen, lines = _select(evaluation, metrics, split), []
    for metric in metrics:
        rows = chosen[chosen["metric"] == metric]
        if rows.empty or rows["strategy"].isin(ANCHORS).all():
            lines.append(f"{_title(metric)} could not be computed for any strategy on {split}.")
        elif METRICS[metric].better == "match" and REFERENCE_FLOOR not in set(rows["strategy"]):
            lines.append(f"{_title(metric)} has no reference value to be compared with on {split}.")
        else:
            lines.append(_sentence(rank(evaluation, metric, split), rows, metric, split))
    return lines


def _title(metric: str) -> str:
    words = metric.replace("_", " ").split()
    known = {"kl": "KL", "js": "JS", "ks": "KS", "cv": "CV", "enl": "ENL", "clip": "SAR-CLIP", "kid": "KID", "r1": "R@1"}
    text = " ".join(known.get(word, word) for word in words)
    return text[0].upper() + text[1:]


def _sentence(order: pd.DataFrame, rows: pd.DataFrame, metric: str, split: str) -> str:
    best, others = order.iloc[0], order.iloc[1:]
    ties = others[others["gap"] == best["gap"]]["strategy"].tolist()
    goal = {"lower": "lowest", "higher": "highest", "match": "nearest to the reference"}[METRICS[metric].better]
    text = f"{_title(metric)} ({split}) is {goal} for {_listed([best['strategy'], *ties])}: {format_interval(best)}"
    rest = others[~others["strategy"].isin(ties)]
    if pd.isna(best["lo"]) or rest["lo"].isna().any():
        text += "; without intervals the order is not settled" if len(rest) else ""
    elif len(rest):
        overlap = rest[(rest["gap_lo"] <= best["gap_hi"]) & (rest["gap_hi"] >= best["gap_lo"])]["strategy"].tolist()
        kind = "a distance whose interval" if METRICS[metric].better == "match" else "an interval that"
        if overlap:
            text += f", {kind} overlaps that of {_listed(overlap)}, so these are not distinguished"
        else:
            text += f", {kind} overlaps no other strategy's"
    values = rows.set_index("strategy")["value"]
    marks = [f"{name} {values[name]:.3g}" for name in ANCHORS if name in values.index]
    return text + (f" ({', '.join(marks)})." if marks else ".") + once_sentence(dict(zip(order["strategy"], order["seeds"])))


def once_sentence(seeds: Mapping[str, int]) -> str:
    """What a comparison of strategies with these numbers of trainings cannot say; "" where all were trained more than once."""
    once = [name for name, count in seeds.items() if count < 2]
    if len(seeds) < 2 or not once:
        return ""
    whose = "All were" if len(once) == len(seeds) else f"{_listed(once)} {'was' if len(once) == 1 else 'were'}"
    return f" {whose} trained once: of those only the trained models are compared, and no winner among strategies is named."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# What the figures draw. Only classes that all sets have are used, and each of them counts the same.


def shared_labels(sets: Sequence[ImageStatistics]) -> tuple[str, ...]:
    """Classes that every set has, in the order of the first one.

    Raises
    ------
    InputError
        The sets have no class in common.
    """
    shared = tuple(label for label in dict.fromkeys(sets[0].labels) if all(label in part.labels for part in sets[1:]))
    if not shared:
        raise InputError("the image sets have no class in common; draw the classes of the real images.")
    return shared


def class_means(values: np.ndarray, labels: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Mean over the images of each wanted class: values [N, ...] -> [K, ...]."""
    names = np.asarray(labels, dtype=object)
    return np.stack([values[names == label].mean(0) for label in wanted])


def class_shares(sets: Sets) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The shared classes, and of each set the share of pixels at each 8-bit level by class [K, 256], the mean over trainings."""
    wanted, shares = shared_labels([part for several in sets.values() for part in several]), {}
    for name, several in sets.items():
        parts = [class_means(amplitude.probabilities(part.histograms), part.labels, wanted) for part in several]
        shares[name] = np.mean(parts, axis=0)
    return wanted, shares


def amplitude_shares(sets: Sets) -> dict[str, np.ndarray]:
    """Share of pixels at each 8-bit level, [256] a set."""
    return {name: shares.mean(0) for name, shares in class_shares(sets)[1].items()}


def texture_curves(sets: Sets) -> pd.DataFrame:
    """GLCM properties: columns strategy, property, direction, distance (px), value; the mean over classes of the images'."""
    wanted, rows = shared_labels([part for several in sets.values() for part in several]), []
    for name, several in sets.items():
        means = np.mean([class_means(part.descriptors, part.labels, wanted).mean(0) for part in several], axis=0)
        for described, value in zip(texture.descriptor_names(), means, strict=True):
            what, direction, distance = described.rsplit(" ", 2)
            rows.append((name, what, direction, int(distance), float(value)))
    return pd.DataFrame(rows, columns=["strategy", "property", "direction", "distance", "value"])


def cumulant_points(sets: Sets) -> pd.DataFrame:
    """Log-cumulants of amplitude: columns strategy, class ("all" and each), kappa2, kappa3.

    A class's come from the pixels of all its images; "all" from the pixels of all classes, each class counting the same.
    """
    wanted, shares = class_shares(sets)
    rows = []
    for name, by_class in shares.items():
        cumulants = amplitude.log_cumulants(np.vstack([by_class.mean(0)[None], by_class]))
        rows += [(name, label, second, third) for label, (_, second, third) in zip((WHOLE, *map(class_name, wanted)), cumulants)]
    return pd.DataFrame(rows, columns=["strategy", "class", "kappa2", "kappa3"])


def pareto_table(evaluation: pd.DataFrame, costs: pd.DataFrame, metrics: Sequence[str], cost: str) -> pd.DataFrame:
    """Which strategies no other beats in quality and cost at once, on the pooled split.

    Parameters
    ----------
    costs : columns strategy and ``cost``, one or more rows a strategy (their mean counts).

    Returns
    -------
    Columns metric, cost of, strategy, value, cost, dominated by (names joined by "; ", "" on the front); measure by measure, by
    rising cost. A strategy of unknown cost is left out. Equal in both does not dominate.

    Raises
    ------
    InputError
        A measure without a better direction.
    """
    rows = _select(evaluation, metrics, "pooled")
    prices, tables = costs.groupby("strategy")[cost].mean(), []
    for metric in metrics:
        sign = {"higher": -1.0, "lower": 1.0}.get(find_metric(metric).better)
        if sign is None:
            raise InputError(f"quality against cost: {metric} has no better direction; choose another measure.")
        own = rows[(rows["metric"] == metric) & ~rows["strategy"].isin(ANCHORS)]
        table = pd.DataFrame({"metric": metric, "cost of": cost, "strategy": own["strategy"], "value": own["value"]})
        table = table.assign(cost=own["strategy"].map(prices)).dropna(subset="cost").sort_values("cost", kind="stable")
        beaten = []
        for row in table.itertuples():
            as_good = (sign * table["value"] <= sign * row.value) & (table["cost"] <= row.cost)
            better = as_good & ((table["value"] != row.value) | (table["cost"] != row.cost))
            beaten.append("; ".join(own.loc[better[better].index.sort_values(), "strategy"]))
        tables.append(table.assign(**{"dominated by": beaten}))
    return pd.concat(tables, ignore_index=True)


# What this study set its best strategy as targets, and what is reached of them; notebooks 00 and 03 set their own.

REACHED, OPEN = "reached", "reached, but not surely"  # the whole interval reaches the goal, or the value alone
INSIDE, MISSED = "not reached, but inside the interval", "not reached"
UNKNOWN = "could not be computed"


@dataclass(frozen=True)
class Target:
    """``metric`` of the evaluation table on ``split``: at least ``bound`` if ``most`` is False, else at most.

    ``anchor``: the bound counts the value of this anchor's row of the same measure and split; "decoder": of the one of the decoder used.
    """

    title: str
    metric: str
    split: str
    bound: float
    most: bool = False
    anchor: str = ""


DECODER = "decoder"
TARGETS = (  # of the best strategy, set before anything was drawn
    Target("amplitude KL at most 3 times the decoder's", "amplitude_kl", "seen", 3.0, most=True, anchor=DECODER),
    Target("log-cumulant distance at most 3 times the decoder's", "log_cumulant_distance", "seen", 3.0, most=True, anchor=DECODER),
    Target("black pixels at most twice the reference's", "zero_share", "seen", 2.0, most=True, anchor=REFERENCE_FLOOR),
    Target("class accuracy of the judge at least 80 %", "clip_accuracy", "seen", 0.80),
    Target("class accuracy of the judge at least 50 %", "clip_accuracy", "unseen", 0.50),
    Target("look side followed at least 90 %", "look_accuracy", "pooled", 0.90),
    Target("recall at least 0.3", "clip_recall", "pooled", 0.30),
    Target("no memorised image", "memorised_fraction", "pooled", 0.0, most=True),
)


def target_table(evaluation: pd.DataFrame, strategy: str, decoder: str = FROZEN_DECODER) -> pd.DataFrame:
    """What a strategy reaches of ``TARGETS``, the mean over its training seeds: columns target, split, goal, value, lo, hi, verdict.

    Parameters
    ----------
    evaluation : table of ``evaluate``, with the rows of ``anchors`` for targets that count those.
    strategy : the one the targets are for, the first in the average rank.
    decoder : the anchor whose decoder made the strategy's images.

    Raises
    ------
    InputError
        A table without this strategy.
    """
    if strategy in ANCHORS or strategy not in set(evaluation["strategy"]):
        raise InputError(f"targets: no strategy {strategy!r} in the evaluation table; evaluate it first.")
    joined = over_seeds(evaluation)
    whole = joined[joined["class"] == "all"].set_index(["strategy", "split", "metric"])[["value", "lo", "hi"]].astype(float)
    rows = []
    for target in TARGETS:
        units = [decoder if target.anchor == DECODER else target.anchor, strategy]
        (unit, *_), (value, lo, hi) = whole.reindex([(name, target.split, target.metric) for name in units]).to_numpy()  # NaN: no such row
        bound = target.bound * (unit if target.anchor else 1.0)
        rows.append((target.title, target.split, bound, value, lo, hi, verdict(target.most, bound, value, lo, hi)))
    return pd.DataFrame(rows, columns=["target", "split", "goal", "value", "lo", "hi", "verdict"])


def target_sentences(table: pd.DataFrame, strategy: str) -> list[str]:
    """How many targets the strategy reaches, then one sentence a target, from ``target_table``."""
    surely, barely = ((table["verdict"] == each).sum() for each in (REACHED, OPEN))
    more = f", and {barely} more by its value, but not by the whole of its interval" if barely else ""
    lines = [f"{strategy} reaches {surely} of {len(table)} targets that were set beforehand{more}."]
    for row in table.itertuples():
        if row.verdict == UNKNOWN:
            lines.append(f"{row.target} ({row.split}): {UNKNOWN}.")
        else:
            interval = "" if np.isnan(row.lo) else f" [{row.lo:.3g}, {row.hi:.3g}]"
            lines.append(f"{row.target} ({row.split}): {row.verdict}; {row.value:.3g}{interval}, target {row.goal:.3g}.")
    return lines


def verdict(most: bool, goal: float, value: float, lo: float, hi: float) -> str:
    """Whether ``value`` is at most (``most``) or at least ``goal``, and whether the interval [lo, hi] leaves a doubt of it.

    Without an interval, NaN, the value decides.
    """
    if np.isnan(value) or np.isnan(goal):
        return UNKNOWN
    if value <= goal if most else value >= goal:
        return OPEN if (hi > goal if most else lo < goal) else REACHED
    return INSIDE if (lo <= goal if most else hi >= goal) else MISSED


def protocol_table(resamples: int) -> pd.DataFrame:
    """The settings that belong to the measures' definitions, read from the code that uses them: item, value."""
    few = min(resamples, evaluation.FRECHET_RESAMPLES)
    unlike = f"{distribution.ALIKE} and {distribution.RARE:.0%} of"
    rows = [
        ("amplitude histogram", f"{amplitude.LEVELS} bins, one a grey level of A/(mu + 3 sigma) in 8 bits"),
        ("smoothing of KL and reverse KL", f"{amplitude.EPSILON:g} added to the probability of every bin, renormalised"),
        ("smoothing of the other amplitude distances", "none"),
        ("GLCM levels", f"{texture.LEVELS}, uniform on [0, 1]"),
        ("GLCM distances", f"{', '.join(map(str, texture.DISTANCES))} px"),
        ("GLCM directions", f"{' and '.join(texture.DIRECTIONS)}, kept apart; symmetric, normalised"),
        ("GLCM properties", ", ".join(texture.PROPERTIES)),
        ("texture unit", "standard deviations of the property over the reference images of the test split"),
        ("retrieval gallery", f"{semantic.GALLERY} different captions, averaged over all galleries"),
        ("precision and recall", "balls to the third nearest neighbour in SAR-CLIP features"),
        ("least images a side, Fréchet distances", str(evaluation.FRECHET_MINIMUM)),
        ("least images a side, kernel distance, precision, recall", str(evaluation.KERNEL_MINIMUM)),
        ("least real images of known side, look reader", str(geometry.CALIBRATION_MINIMUM)),
        ("shrinkage of Fréchet covariances", "OAS, the larger of both, where a side has fewer than 2 D images"),
        (
            "intervals",
            f"95 %, {resamples} resamples of images inside their class, of n images n - 1; percentiles where a measure is a mean",
        ),
        ("intervals of shares of images at 0 and 1", "Wilson's, as every resample says the same"),
        (
            "intervals of distances",
            "corrected for what chance adds to a distance of samples: basic bootstrap and moved percentiles together",
        ),
        ("resamples of Fréchet distances", str(few)),
        ("resamples of average ranks", f"{few} where a Fréchet distance is ranked too, else {resamples}"),
        ("several trainings", "value: their mean; half of the interval: sqrt(h^2 + (t s)^2 / k), h over images, s over k trainings"),
        ("one training", "interval over images only: it says nothing of another training, so no strategy wins by it"),
        (
            "gaps of 8-bit levels",
            f"up to {amplitude.WIDEST_GAP} levels, or twice the median gap, that hardly a pixel of a set has are filled from both ends",
        ),
        (
            "anchors",
            f"median of {evaluation.HALVINGS} random halvings at most, of decoders and optical {evaluation.LEAST_HALVINGS}; 95 % of them",
        ),
        (
            "memorisation",
            f"thumbnails of 32 x 32 block means, mirrored too, nearer to training images than {unlike} held-out reference images",
        ),
        ("duplicates", f"the same thumbnails nearer to each other than {unlike} reference images"),
        ("images that are in two sets", f"grain correlates above {distribution.SAME_GRAIN}; they set no threshold"),
    ]
    return pd.DataFrame(rows, columns=["item", "value"])


def measured_sentences(measures: pd.DataFrame) -> list[str]:
    """A sentence a measure: the value of each strategy with its interval, on seen and unseen classes, and what perfect latents would reach.

    The last one counts the trainings behind them. ``measures``: as ``headline_measures`` gives.
    """
    joined, found = over_seeds(measures[measures["class"] == "all"]), []
    anchor = next(name for name in (TUNED_DECODER, FROZEN_DECODER, REFERENCE_FLOOR) if name in set(joined["strategy"]))
    for metric in HEADLINE:
        parts = []
        for split in splits_of(measures)[:2]:
            part = joined[(joined["metric"] == metric) & (joined["split"] == split)].set_index("strategy")
            values = [f"{name} has {format_interval(row)}" for name, row in part.iterrows() if name not in ANCHORS]
            near = part["value"].get(anchor)  # None where a split has too few images for halves
            also = "" if near is None else f", and {anchor.replace(', ', ' images by the ')} {near:.3g}"
            parts.append(f"on {split} classes {', '.join(values)}{also}")
        about, words = find_metric(metric), metric.replace("_", " ").replace(" kl", " KL").replace(" cv", " CV")
        found.append(f"The {words}{f' in {about.unit}' if about.unit not in ('', '1') else ''}: {'; '.join(parts)}.")
    trained = measures.groupby("strategy", sort=False)["seed"].nunique().drop([*ANCHORS, "zero-shot"], errors="ignore")
    counts = ", ".join(f"{name} {count}" for name, count in trained.items())
    return [*found, f"Trainings behind these numbers: {counts}; of one training the interval is over images only."]
