"""Tables that explain and rearrange the evaluation: legend of the measures, protocol, values by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics import HEADLINE, KEY_METRICS, METRICS, amplitude, evaluation, find_metric, fits, geometry, semantic, texture
from sarnb.metrics.evaluation import ANCHORS, COLUMNS, OPTICAL_AS_GREY, REAL_VS_REAL, SPLITS, anchors, combine, evaluate
from sarnb.metrics.image_statistics import ImageStatistics, measure

# The verdict in a table and in sentences, both written from the evaluation table so that they cannot disagree.


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
    evaluation: pd.DataFrame, metrics: Sequence[str] = KEY_METRICS, splits: Sequence[str] = ("pooled",), label: str = "all"
) -> pd.DataFrame:
    """Wide table: a row a split and strategy (anchors last), a column a measure, cells "value [lo, hi]" or "" where left out.

    ``seeds`` counts the trainings behind a row; "" for anchors, which train nothing. Measures that no row has are left out.
    """
    parts = []
    for split in splits:
        chosen = _select(evaluation, metrics, split, label)
        cells = chosen.assign(cell=[format_interval(row) for _, row in chosen.iterrows()])
        wide = cells.pivot(index="strategy", columns="metric", values="cell")
        names = [name for name in wide.index if name not in ANCHORS]
        names = [name for name in dict.fromkeys(chosen["strategy"]) if name in names]
        wide = wide.loc[names + [name for name in ANCHORS if name in wide.index]]
        trained = chosen.groupby("strategy")["seeds"].max()
        wide.insert(0, "seeds", ["" if name in ANCHORS else int(trained[name]) for name in wide.index])
        parts.append(wide.reset_index().assign(split=split))
    table = pd.concat(parts, ignore_index=True)
    return table[["split", "strategy", "seeds", *(name for name in metrics if name in table)]].fillna("")


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


def sentences(evaluation: pd.DataFrame, metrics: Sequence[str] = KEY_METRICS, split: str = "pooled", label: str = "all") -> list[str]:
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


# What the figures of the evaluation draw, as tidy tables: histograms, textures and log-cumulants of image sets.

Sets = Mapping[str, Sequence[ImageStatistics]]


def shared_labels(sets: Sequence[ImageStatistics]) -> tuple[str, ...]:
    """Classes that every set has, in the order of the first one. Raises InputError where there is none."""
    shared = tuple(label for label in dict.fromkeys(sets[0].labels) if all(label in part.labels for part in sets[1:]))
    if not shared:
        raise InputError("the image sets have no class in common; draw the classes of the real images.")
    return shared


def class_means(values: np.ndarray, labels: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Mean over the images of each wanted class: values [N, ...] -> [K, ...]."""
    names = np.asarray(labels, dtype=object)
    return np.stack([values[names == label].mean(0) for label in wanted])


def amplitude_curves(sets: Sets) -> pd.DataFrame:
    """Share of pixels at each 8-bit level: columns strategy, amplitude (level/255), share; 256 rows a strategy."""
    wanted = _shared(sets)
    levels = np.arange(amplitude.LEVELS) / (amplitude.LEVELS - 1)
    parts = [
        pd.DataFrame({"strategy": name, "amplitude": levels, "share": _class_histograms(several, wanted).mean(0)})
        for name, several in sets.items()
    ]
    return pd.concat(parts, ignore_index=True)


def law_table(curves: pd.DataFrame) -> pd.DataFrame:
    """How far each set is from each fitted law: columns strategy, law, KS distance (0 to 1), best (its nearest law), parameters.

    ``curves``: of `amplitude_curves`. A set with one grey level only has no fit and is left out.
    """
    rows = []
    for name, part in curves.groupby("strategy", sort=False):
        share = part["share"].to_numpy(float)
        if (share > 0).sum() < 2:
            continue
        models = {family: fits.fit_histogram(family, share) for family in fits.FAMILIES}
        gaps = {family: fits.goodness(model, share) for family, model in models.items()}
        for family, model in models.items():
            words = ", ".join(f"{key} {value:.3g}" for key, value in model.parameters.items())
            rows.append((name, family, gaps[family], family == min(gaps, key=gaps.get), words))
    return pd.DataFrame(rows, columns=["strategy", "law", "KS distance", "best", "parameters"])


def texture_curves(sets: Sets) -> pd.DataFrame:
    """GLCM properties: columns strategy, property, direction, distance (px), value; the mean over classes of the images'."""
    wanted, rows = _shared(sets), []
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
    wanted, rows = _shared(sets), []
    for name, several in sets.items():
        histograms = _class_histograms(several, wanted)
        for label, histogram in [("all", histograms.mean(0)), *zip(wanted, histograms)]:
            _, second, third = amplitude.log_cumulants(histogram)
            rows.append((name, label, float(second), float(third)))
    return pd.DataFrame(rows, columns=["strategy", "class", "kappa2", "kappa3"])


def _shared(sets: Sets) -> tuple[str, ...]:
    return shared_labels([part for several in sets.values() for part in several])


def _class_histograms(several: Sequence[ImageStatistics], wanted: Sequence[str]) -> np.ndarray:
    """Share of pixels [K, 256] of each class, the mean over training seeds."""
    return np.mean([class_means(amplitude.probabilities(part.histograms), part.labels, wanted) for part in several], axis=0)


BETTER = {"lower": "lower is better", "higher": "higher is better", "match": "as near to real as possible"}


def metric_legend() -> pd.DataFrame:
    """One row a measure: name, family, direction, unit, meaning."""
    rows = [(m.name, m.family, BETTER[m.better], m.unit, m.meaning) for m in METRICS.values()]
    return pd.DataFrame(rows, columns=["metric", "family", "direction", "unit", "meaning"])


def protocol_table(resamples: int) -> pd.DataFrame:
    """The settings that belong to the measures' definitions, read from the code that uses them: item, value."""
    rows = [
        ("amplitude histogram", f"{amplitude.LEVELS} bins, one a grey level of A/(mu + 3 sigma) in 8 bits"),
        ("smoothing of KL and reverse KL", f"{amplitude.EPSILON:g} added to the probability of every bin, renormalised"),
        ("smoothing of the other amplitude distances", "none"),
        ("GLCM levels", f"{texture.LEVELS}, uniform on [0, 1]"),
        ("GLCM distances", f"{', '.join(map(str, texture.DISTANCES))} px"),
        ("GLCM directions", f"{' and '.join(texture.DIRECTIONS)}, kept apart; symmetric, normalised"),
        ("GLCM properties", ", ".join(texture.PROPERTIES)),
        ("texture unit", "standard deviations of the property over the real test images"),
        ("retrieval gallery", f"{semantic.GALLERY} different captions, averaged over all galleries"),
        ("precision and recall", "balls to the third nearest neighbour in SAR-CLIP features"),
        ("least images a side, Fréchet distances", str(evaluation.FRECHET_MINIMUM)),
        ("least images a side, kernel distance, precision, recall", str(evaluation.KERNEL_MINIMUM)),
        ("least real images of known side, look reader", str(geometry.CALIBRATION_MINIMUM)),
        ("shrinkage of Fréchet covariances", "OAS, the larger of both, where a side has fewer than 2 D images"),
        ("intervals", f"95 % percentile, {resamples} resamples of images inside their class"),
        ("resamples of Fréchet distances", str(min(resamples, evaluation.FRECHET_RESAMPLES))),
        (
            "resamples of average ranks",
            f"{min(resamples, evaluation.FRECHET_RESAMPLES)} where a Fréchet distance is ranked too, else {resamples}",
        ),
        ("training seeds", "value: their mean; interval: from the lowest lo to the highest hi"),
        ("memorisation", "thumbnails of 32 x 32 block means, threshold: nearest held-out real image"),
        ("duplicates", "the same thumbnails, threshold: the two most alike real images"),
    ]
    return pd.DataFrame(rows, columns=["item", "value"])


def sample_sizes(sets: Mapping[str, ImageStatistics]) -> pd.DataFrame:
    """Images by set and group, and least and most images a class: columns set, seen, unseen, composition, least, most."""
    rows = []
    for name, part in sets.items():
        classes = np.unique(np.asarray(part.labels), return_counts=True)[1]
        rows.append((name, *(sum(group == split for group in part.groups) for split in SPLITS[1:]), classes.min(), classes.max()))
    columns = ["set", *SPLITS[1:], "fewest in a class", "most in a class"]
    return pd.DataFrame(rows, columns=columns)


def splits_of(table: pd.DataFrame) -> list[str]:
    """The splits, pooled left out, that an evaluation table has rows of some strategy for, in the usual order."""
    present = set(table.loc[~table["strategy"].isin(ANCHORS), "split"])
    return [split for split in SPLITS[1:] if split in present]


def headline_measures(test: ImageSet, runs: Mapping[tuple[str, int], ImageSet], resamples: int = 200, seed: int = 0) -> pd.DataFrame:
    """Rows of the evaluation table for the measures ``HEADLINE``, over whole splits, with both anchors.

    ``test``: held-out real images; ``runs``: (strategy, training seed) → its samples. Columns as ``evaluate``'s.
    """
    real = measure(test, None, "real images")
    tables = [evaluate(name, number, real, samples, None, resamples, seed) for (name, number), samples in runs.items()]
    table = combine([*tables, anchors(test, None, resamples, seed)])
    return table[(table["class"] == "all") & table["metric"].isin(HEADLINE)].reset_index(drop=True)


def left_out_sentences(table: pd.DataFrame) -> list[str]:
    """What the table lacks for whole splits, one sentence a measure and split; single classes are in `left_out`."""
    gone = evaluation.left_out(table)
    gone = gone[(gone["class"] == "all") & (gone["split"] != "all")]
    count, lines = table.groupby(["strategy", "seed"]).ngroups, []
    for (metric, split), part in gone.groupby(["metric", "split"], sort=False):
        what = "Every measure" if metric == "all" else metric
        lines.append(f"{what} ({split}) is missing for {len(part)} of {count} sets: {part['reason'].iloc[0].rstrip('.')}.")
    return lines


def split_table(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One measure by split: a row a strategy (anchors last), a column a split, cells "value [lo, hi]"."""
    find_metric(metric)
    joined = over_seeds(table)
    rows = joined[(joined["metric"] == metric) & (joined["class"] == "all")]
    if rows.empty:
        raise InputError(f"evaluation table: no values of {metric}; see what was left out.")
    names = list(dict.fromkeys(rows["strategy"]))
    names = [name for name in names if name not in ANCHORS] + [name for name in ANCHORS if name in names]
    cells = {(row["strategy"], row["split"]): format_interval(row) for _, row in rows.iterrows()}
    splits = [split for split in SPLITS if split in set(rows["split"])]
    return pd.DataFrame([[name, *(cells.get((name, split), "") for split in splits)] for name in names], columns=["strategy", *splits])


def gap_sentences(table: pd.DataFrame, metric: str, first: str = "seen", second: str = "unseen") -> list[str]:
    """How each strategy's value changes from one split to another, and whether the intervals overlap; empty without both."""
    find_metric(metric)
    joined = over_seeds(table)
    rows = joined[(joined["metric"] == metric) & (joined["class"] == "all") & ~joined["strategy"].isin((REAL_VS_REAL, OPTICAL_AS_GREY))]
    lines = []
    for name, part in rows.groupby("strategy", sort=False):
        part = part.set_index("split")
        if not {first, second} <= set(part.index):
            continue
        a, b = part.loc[first], part.loc[second]
        apart = a["lo"] > b["hi"] or b["lo"] > a["hi"]
        words = "the intervals do not overlap" if apart else "the intervals overlap, so the change is not settled"
        change = b["value"] - a["value"]
        lines.append(f"{name}: {first} {format_interval(a)}, {second} {format_interval(b)}, a change of {change:+.3f}; {words}.")
    return lines


def seed_table(table: pd.DataFrame) -> pd.DataFrame:
    """How far the trainings of one strategy lie apart: columns strategy, split, metric, seeds, mean, sd, min, max.

    One row a strategy (no anchors), split and measure over all classes. ``seeds`` counts trainings; ``sd`` is their sample
    standard deviation, NaN for one training. Unit: that of the measure.
    """
    rows = table[~table["strategy"].isin(ANCHORS) & (table["class"] == "all")]
    parts = rows.groupby(["strategy", "split", "metric"], sort=False)
    joined = parts.agg(seeds=("seed", "nunique"), mean=("value", "mean"), sd=("value", "std"), min=("value", "min"), max=("value", "max"))
    return joined.reset_index()


def training_sentences(seeds: pd.DataFrame) -> list[str]:
    """Which strategies were trained once and which several times, and what that does to their intervals, from `seed_table`."""
    counts = seeds.groupby("strategy", sort=False)["seeds"].max()
    once, several = counts[counts == 1].index.tolist(), counts[counts > 1]
    lines = []
    if once:
        lines.append(f"One training at most: {', '.join(once)}; these intervals leave out the luck of the training.")
    if len(several):
        words = ", ".join(f"{name} ({count})" for name, count in several.items())
        lines.append(f"Several trainings: {words}; these intervals span those of all trainings, so they are wider.")
    return lines


def lead_sentences(seeds: pd.DataFrame, strategy: str, split: str = "pooled", metrics: Sequence[str] = KEY_METRICS) -> list[str]:
    """Whether the lead of a strategy exceeds the spread of its own trainings, one sentence a measure, from `seed_table`.

    Lead: how much better its mean over trainings is than that of the best other strategy. Spread: from the lowest to the
    highest of its own trainings.
    """
    lines = []
    for metric in metrics:
        own = seeds[(seeds["split"] == split) & (seeds["metric"] == metric)].set_index("strategy")
        others = own["mean"].drop(index=strategy, errors="ignore")
        if strategy not in own.index or others.empty:
            continue
        sign = {"higher": -1.0, "lower": 1.0}[find_metric(metric).better]
        rival = (sign * others).idxmin()
        mine, lead = own.loc[strategy], sign * (others[rival] - own.loc[strategy, "mean"])
        spread = mine["max"] - mine["min"]
        if lead <= 0:
            words = f"{strategy} has no lead, {rival} is as good or better"
        elif mine["seeds"] < 2:
            words = f"{strategy} leads {rival} by {lead:.3g}; it was trained once at most, so the spread of its trainings is not known"
        else:
            relation = "more than" if lead > spread else "no more than"
            words = f"{strategy} leads {rival} by {lead:.3g}, {relation} the spread of its own {mine['seeds']} trainings, {spread:.3g}"
        lines.append(f"{metric} ({split}): {words}.")
    return lines
