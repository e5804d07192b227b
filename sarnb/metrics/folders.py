"""Two folders of radar images, compared by the protocol of the study: one table, and every caution that belongs to it.

Images are read one at a time; what is kept of each is one row of statistics, so memory hardly grows with their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

import sarnb
from sarnb.data.amplitude import Normalisation
from sarnb.data.files import ordered_map
from sarnb.data.imagefolder import UNSTATED, Facts, PlainFolder, UserImage, common_size, load_batch, merged_scale
from sarnb.errors import InputError
from sarnb.metrics import METRICS
from sarnb.metrics.amplitude import LEVELS
from sarnb.metrics.describe import law_table
from sarnb.metrics.evaluation import ANCHORS, FRECHET_MINIMUM, REAL_VS_REAL, combine, evaluate, halves, left_out
from sarnb.metrics.fits import FAMILIES
from sarnb.metrics.image_statistics import ImageStatistics, join, measure
from sarnb.metrics.report import BETTER, format_interval, protocol_table
from sarnb.metrics.semantic import Judge, embed_images, embed_texts

# What must be said beside a comparison of two sets of images: where its numbers do not mean what they seem to.

LEAST_FOR_INTERVAL = 10  # images a side; below it a percentile interval covers clearly less than it says
LEAST_FOR_FLOOR = 20  # real images, so that each half has LEAST_FOR_INTERVAL
LEVEL_RATIO = 1.5  # of mu + 3 sigma between the sides, beyond which a shared scaling is doubtful
CUT_SHARE = 0.05  # of pixels at either end of the scale


Side = tuple[PlainFolder, ImageStatistics]


def cautions(real_side: Side, fake_side: Side, scales: Mapping, classes_lost: bool, judged: bool) -> list[str]:
    """One sentence for each thing to be known before the table is believed: sizes, classes, scales, sensors, copies."""
    (real, real_measured), (fake, fake_measured) = real_side, fake_side
    sides = (("real", real, real_measured), ("generated", fake, fake_measured))
    told: list[str] = []
    if classes_lost:
        bare = [side for side, folder, _ in sides if not any(image.label for image in folder.images)]
        where = "either side" if len(bare) == 2 else f"the {bare[0]} side"
        told.append(f"No class labels on {where}: the sets are compared as wholes, so a difference in what they show counts as one.")
    told += _small(real_measured, fake_measured, judged)
    for side, folder, measured in sides:
        told += _damaged(side, folder.facts, measured.histograms)
    told += _scaling(real, fake, scales)
    told += _sensors(real, fake)
    told += _copies(real, fake)
    return told


def one_sided(real: PlainFolder, fake: PlainFolder) -> Iterator[str]:
    """One sentence for each side that has classes which the other lacks: they take no part."""
    counts = [Counter(image.label for image in folder.images) for folder in (real, fake)]
    for side, own, other in (("real", *counts), ("generated", *reversed(counts))):
        alone = {label or "unlabelled": count for label, count in sorted(own.items()) if label not in other}
        if alone:
            names = ", ".join(f"{label} ({count})" for label, count in alone.items())
            yield f"Only on the {side} side, and therefore left out: {names}, {sum(alone.values())} of {own.total()} images."


def without_weak_intervals(table: pd.DataFrame, real: ImageStatistics, fake: ImageStatistics) -> pd.DataFrame:
    """The evaluation table without the intervals of cells with fewer than LEAST_FOR_INTERVAL images on a side.

    Of the floor's rows each side holds half of the real images.
    """
    table = table.copy()
    counts = [_counts(part) for part in (real, fake)]
    for index, row in table.iterrows():
        own = counts[0][row["split"], row["class"]]
        least = own // 2 if row["strategy"] in ANCHORS else min(own, counts[1][row["split"], row["class"]])
        if least < LEAST_FOR_INTERVAL:
            table.loc[index, ["lo", "hi"]] = np.nan
    return table


def _counts(part: ImageStatistics) -> Counter:
    """Images by (split, class), "all" and "pooled" included."""
    counts: Counter = Counter()
    for label, group in zip(part.labels, part.groups):
        for split in ("pooled", group):
            counts[split, "all"] += 1
            counts[split, label] += 1
    return counts


def _small(real: ImageStatistics, fake: ImageStatistics, judged: bool) -> Iterator[str]:
    for side, count in (("real", len(real)), ("generated", len(fake))):
        if count < LEAST_FOR_INTERVAL:
            yield (
                f"Only {count} {side} images: too few for intervals ({LEAST_FOR_INTERVAL} needed), so none are given; the values are noisy."
            )
        elif count < FRECHET_MINIMUM:
            yield f"Only {count} {side} images: no Fréchet distance ({FRECHET_MINIMUM} needed)."
    if LEAST_FOR_INTERVAL <= len(real) < LEAST_FOR_FLOOR:
        yield (
            f"Only {len(real)} real images: each half of the floor has fewer than {LEAST_FOR_INTERVAL}, so the floor has no "
            "interval and is high."
        )
    least = {label: min(count, Counter(fake.labels)[label]) for label, count in Counter(real.labels).items() if label}
    few = sorted(label for label, count in least.items() if 0 < count < LEAST_FOR_INTERVAL)
    if few:
        yield f"Fewer than {LEAST_FOR_INTERVAL} images on a side of {', '.join(few)}: the rows of these classes have no interval."
    if judged and max(len(real), len(fake)) > LEVEL_RATIO * min(len(real), len(fake)):
        yield (
            f"{len(real)} real and {len(fake)} generated images: precision and recall grow with a set's size and compare equal sizes only."
        )


def _damaged(side: str, facts: tuple[Facts, ...], histograms: np.ndarray) -> Iterator[str]:
    constant = sum(one.constant for one in facts)
    if constant:
        yield (
            f"{constant} of {len(facts)} {side} images have one value only (such as all zero); they are measured as they are, "
            "ratios leave them out."
        )
    share = histograms.sum(0) / histograms.sum()
    if share[0] > CUT_SHARE:
        yield f"{share[0]:.1%} of the {side} pixels are zero: borders without data or cut shadows bend every amplitude measure."
    if share[LEVELS - 1] > CUT_SHARE:
        yield f"{share[LEVELS - 1]:.1%} of the {side} pixels are saturated: the bright tail is cut off and not compared."


def _scaling(real: PlainFolder, fake: PlainFolder, scales: Mapping) -> Iterator[str]:
    storages = [sorted({one.storage for one in folder.facts}) for folder in (real, fake)]
    if any(key[2] == "8-bit" and scale is not None for key, scale in scales.items()):
        yield "Every set and sensor is scaled by its own mean + 3 standard deviations: differences of brightness are not measured."
        return
    if storages[0] != storages[1]:
        words = [" and ".join(names) for names in storages]
        yield (
            f"The real images are stored as {words[0]}, the generated ones as {words[1]}: their amplitude scales agree only if "
            "the 8-bit ones were made by A/(mu + 3 sigma) of the real set; if not, use --scale own."
        )
    levels = [_level(side, folder, scales) for side, folder in (("real", real), ("generated", fake))]
    ratio = levels[1] / levels[0] if min(levels) > 0 else np.inf
    if max(ratio, 1.0 / max(ratio, 1e-9)) > LEVEL_RATIO:
        yield (
            f"Normalisations differ: mean + 3 standard deviations is {levels[0]:.3g} of full scale in the real set and "
            f"{levels[1]:.3g} in the generated one. Unless the generator is to blame, use --scale own, or one sensor at a time."
        )
    if "8-bit" in storages[0] + storages[1]:
        yield "8-bit images keep their values; how they were scaled, and whether they are amplitude, is not known."


def _level(side: str, folder: PlainFolder, scales: Mapping) -> float:
    """mu + 3 sigma of a side in units of the full scale, before clipping."""
    parts = []
    for sensor, one in zip(folder.sensors(), folder.facts):
        scale = scales[side, sensor, one.storage]
        full = LEVELS - 1 if scale is None else scale.scale
        count, mean, squares = one.moments
        parts.append((count, mean / full, squares / full**2))
    return Normalisation.from_moments(parts).scale


def _sensors(real: PlainFolder, fake: PlainFolder) -> Iterator[str]:
    counts = [Counter(folder.sensors()) for folder in (real, fake)]
    words = [", ".join(f"{name} {count}" for name, count in sorted(part.items())) for part in counts]
    shares = [{name: count / part.total() for name, count in part.items()} for part in counts]
    if set(counts[0]) == set(counts[1]) and len(counts[0]) == 1:
        return
    gap = sum(abs(shares[0].get(name, 0) - shares[1].get(name, 0)) for name in {*shares[0], *shares[1]})
    if gap > 0.1:
        common = sorted((set(counts[0]) & set(counts[1])) - {UNSTATED})
        mend = f"; compare one at a time by --sensor ({', '.join(common)})" if common else "; none is on both sides"
        yield (
            f"The sides hold different sensors, real: {words[0]}; generated: {words[1]}: differences of resolution, looks and "
            f"scaling are measured too{mend}."
        )
    elif len(counts[0]) > 1:
        yield (
            f"Both sides mix sensors ({words[0]}), whose scalings need not agree; compare one at a time by --sensor, or use --scale own."
        )


def _copies(real: PlainFolder, fake: PlainFolder) -> Iterator[str]:
    digests = [[one.digest for one in folder.facts] for folder in (real, fake)]
    for side, part in zip(("real", "generated"), digests):
        repeats = len(part) - len(set(part))
        if repeats:
            yield f"{repeats} of {len(part)} {side} images have the same pixels as another one, so the intervals are too narrow."
    shared = sum(digest in set(digests[0]) for digest in digests[1])
    if shared:
        yield f"{shared} of {len(digests[1])} generated images have the same pixels as a real one: the sets are not independent."


# The comparison of two folders in tables and in Markdown: what to print, what to write down, and how it was computed.

CLASS_METRICS = ("amplitude_kl", "amplitude_cv", "amplitude_enl", "texture_distance", "clip_accuracy")


def summary_table(comparison: Comparison) -> pd.DataFrame:
    """One row a measure over all images: measure, value with interval, floor, direction, unit; or why there is no value.

    Columns: measure, family, value, floor (the same measure between two halves of the real images), better, unit, reason.
    """
    rows = _pooled(comparison.table)
    missing = comparison.missing
    missing = missing[missing["split"].isin(("pooled", "all")) & missing["class"].isin(("all", "unlabelled"))]
    reasons = {(row["strategy"], row["metric"]): row["reason"] for _, row in missing.iterrows()}
    lines = []
    for name, metric in METRICS.items():
        cells = {}
        for strategy in (comparison.name, REAL_VS_REAL):
            found = rows[(rows["strategy"] == strategy) & (rows["metric"] == name)]
            cells[strategy] = format_interval(found.iloc[0]) if len(found) else ""
        value, floor = cells[comparison.name], cells[REAL_VS_REAL]
        told = reasons.get((comparison.name, name)) or reasons.get((comparison.name, "all"), "not computed")
        lines.append((name, metric.family, value, floor, BETTER[metric.better], metric.unit, "" if value else told))
    return pd.DataFrame(lines, columns=["measure", "family", "value", "floor", "better", "unit", "reason"])


def counted(comparison: Comparison) -> str:
    """How many images of what size are compared."""
    height, width = comparison.real.size
    return f"{len(comparison.real)} real and {len(comparison.fake)} generated images of {height} x {width} px"


def class_table(comparison: Comparison) -> pd.DataFrame:
    """Some measures by class, a row a class, cells "value [lo, hi]"; empty without classes."""
    table = comparison.table
    own = table[(table["strategy"] == comparison.name) & (table["class"] != "all") & table["metric"].isin(CLASS_METRICS)]
    cells = own.assign(cell=[format_interval(row) for _, row in own.iterrows()])
    wide = cells.pivot(index="class", columns="metric", values="cell")
    shown = [name for name in CLASS_METRICS if name in wide.columns]
    return wide.reindex(columns=shown).fillna("").reset_index().rename_axis(columns=None)


def laws_of_both(comparison: Comparison) -> pd.DataFrame:
    """Laws fitted to the amplitudes of each side, the best first: sample, law, parameters, ks; "none" for a constant side."""
    parts = []
    for name, part in (("real", comparison.real), (comparison.name, comparison.fake)):
        try:
            parts.append(law_table({name: part.histograms.sum(0)}, FAMILIES))
        except InputError as error:
            parts.append(pd.DataFrame([(name, "none", str(error), np.nan)], columns=["sample", "law", "parameters", "ks"]))
    return pd.concat(parts, ignore_index=True)


def setting_table(comparison: Comparison, wish: Wish, real: PlainFolder, fake: PlainFolder, judge: str) -> pd.DataFrame:
    """What was compared, and how, down to the definitions of the measures: item, value."""
    rows = [
        ("real", _told(real)),
        ("generated", _told(fake)),
        ("compared", f"{counted(comparison)}{', the middle of each' if wish.size else ''}"),
        ("sensor", wish.sensor or "all"),
        ("amplitude scales", "; ".join(sorted({_scale_words(key, scale) for key, scale in comparison.scales.items()}))),
        ("classes", "each counts the same; only those on both sides" if any(comparison.real.labels) else "not told apart"),
        ("floor", "one random half of the real images against the other, class by class"),
        ("intervals left out", f"fewer than {LEAST_FOR_INTERVAL} images on a side"),
        ("judge", judge or "none"),
        ("seed", str(wish.seed)),
        ("version", f"sarnb {sarnb.__version__}"),
    ]
    return pd.concat([pd.DataFrame(rows, columns=["item", "value"]), protocol_table(wish.resamples)], ignore_index=True)


def markdown(comparison: Comparison, setting: pd.DataFrame, figures: dict[str, str]) -> str:
    """The whole report. ``figures``: file name -> one sentence on what it shows."""
    summary = summary_table(comparison)
    known, gone = summary[summary["reason"] == ""], summary[summary["reason"] != ""]
    parts = [
        f"# {comparison.name} against real radar images",
        "## Read this first" if comparison.cautions else "",
        "\n".join(f"- {line}" for line in comparison.cautions),
        "## Measures",
        "Value with its 95 % interval; the floor is the same measure between two halves of the real images, so a set cannot "
        "be expected to do better.",
        known.drop(columns="reason").to_markdown(index=False),
        "## Not computed" if len(gone) else "",
        "\n".join(f"- {row['measure']}: {row['reason']}" for _, row in gone.iterrows()),
    ]
    classes = class_table(comparison)
    if len(classes):
        parts += ["## By class", classes.to_markdown(index=False)]
    parts += [
        "## Amplitude laws",
        "Kolmogorov-Smirnov distance `ks` of the histogram to each fitted law, the best first.",
        laws_of_both(comparison).round(4).to_markdown(index=False),
        "## Figures",
        "\n\n".join(f"![{words}](figures/{name}.png)\n{words}" for name, words in figures.items()),
        "## Images",
        sizes_table(comparison).to_markdown(index=False),
        "## Protocol",
        setting.to_markdown(index=False),
        "Measures: " + "; ".join(f"`{name}`: {metric.meaning}" for name, metric in METRICS.items()) + ".",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def floor_ratios(comparison: Comparison) -> pd.DataFrame:
    """Measures that are better low as multiples of their floor, where that is above 0: measure, family, ratio, lo, hi."""
    rows = _pooled(comparison.table)
    found = []
    for name, metric in METRICS.items():
        own = rows[(rows["metric"] == name) & (rows["strategy"] == comparison.name)]
        floor = rows[(rows["metric"] == name) & (rows["strategy"] == REAL_VS_REAL)]
        if metric.better == "lower" and len(own) and len(floor) and floor["value"].iloc[0] > 0 and own["value"].iloc[0] > 0:
            value, lo, hi = (own[column].iloc[0] / floor["value"].iloc[0] for column in ("value", "lo", "hi"))
            found.append((name, metric.family, value, lo, hi))
    return pd.DataFrame(found, columns=["measure", "family", "ratio", "lo", "hi"])


def _pooled(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["split"] == "pooled") & (table["class"] == "all")]


def _told(folder: PlainFolder) -> str:
    storages, sensors = Counter(one.storage for one in folder.facts), Counter(folder.sensors())
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(storages.items()))
    known = ", ".join(f"{name} {count}" for name, count in sorted(sensors.items()))
    return f"{folder.source.resolve().name}: {len(folder)} images ({kinds}; sensor {known})"


def _scale_words(key: tuple[str, str, str], scale) -> str:
    side, sensor, storage = key
    if scale is None:
        return f"{side} {storage}: as stored"
    return f"{side} {storage} ({sensor}): A / {scale.scale:.6g}, mu {scale.mu:.6g}, sigma {scale.sigma:.6g}"


CHUNK = 32  # images in memory at a time, in each process
SCALES = ("real", "own")
EXAMPLES = 8

Scale = Normalisation | None
Scales = Mapping[tuple[str, str, str], Scale]  # (side, sensor, storage) -> scale; None keeps 8-bit values


@dataclass(frozen=True)
class Wish:
    """How two folders are to be compared.

    ``size``: side in px of the middle that is compared, None for whole images of one size. ``scale``: "real" keeps 8-bit
    values and scales all other storages by A / (mu + 3 sigma) of the real set; "own" scales every set and sensor by its own.
    ``sensor``: compare images of this one only. ``by_class``: only classes that both have, each counting the same.
    """

    size: int | None = None
    scale: str = "real"
    sensor: str = ""
    by_class: bool = True
    resamples: int = 200
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise InputError(f"scale {self.scale!r}: use 'real' (the real set's, for both) or 'own' (each set's and sensor's).")
        if self.size is not None and self.size < 32:
            raise InputError(f"size {self.size} px: give 32 or more, the measures need that much.")
        if self.resamples < 0:
            raise InputError(f"{self.resamples} resamples: give 0 (no intervals) or more.")


@dataclass(frozen=True)
class Comparison:
    """What came out: the evaluation ``table`` (rows of ``name`` and of the floor), what it lacks and why, the ``cautions``,
    the statistics of both sides, the scales used, and some images of each for the eye: uint8 [K, H, W]."""

    name: str
    table: pd.DataFrame
    missing: pd.DataFrame
    cautions: tuple[str, ...]
    real: ImageStatistics
    fake: ImageStatistics
    scales: Scales
    examples: tuple[np.ndarray, np.ndarray]


def compare(
    real: PlainFolder, fake: PlainFolder, wish: Wish = Wish(), judge: Judge | None = None, train: PlainFolder | None = None
) -> Comparison:
    """Compare two folders.

    Args:
        real, fake: folders from `read_folder`; fake is the generated one, or whatever is to be judged.
        wish: how. judge: SAR-CLIP for the measures of meaning and distribution. train: training images of the generator, for
            the check of memorisation.

    Raises:
        InputError: a set with fewer than two images, different sizes, no class in common, no image of the sensor asked for.
    """
    sides = {"real": _of_sensor(real, wish.sensor), "generated": _of_sensor(fake, wish.sensor)}
    for side, folder in sides.items():
        if len(folder) < 2:
            raise InputError(
                f"{folder.source}: {len(folder)} image(s) as the {side} set; a comparison of sets needs at least 2, "
                f"and {LEAST_FOR_INTERVAL} for an interval"
            )
    if train is not None:
        sides["training"] = train
    classes = wish.by_class and _classes_usable(sides["real"], sides["generated"])
    told = list(one_sided(sides["real"], sides["generated"])) if classes else []
    if classes:
        shared = {image.label for image in sides["real"].images} & {image.label for image in sides["generated"].images}
        for side in ("real", "generated"):
            sides[side] = sides[side].where([image.label in shared for image in sides[side].images])
    size, scales = common_size(list(sides.values()), wish.size), fit_scales(sides, wish.scale)
    parts = {
        side: _measured(side, folder, scales, size, classes, wish.workers, judge if side != "training" else None)
        for side, folder in sides.items()
    }
    name = fake.source.resolve().name or "generated"
    name = f"{name} (generated)" if name == REAL_VS_REAL else name
    rest = (judge, wish.resamples, wish.seed, parts.get("training"))
    tables = [evaluate(name, 0, parts["real"], parts["generated"], *rest)]
    first, second = halves(parts["real"].labels, wish.seed)
    if len(second) > 1:
        tables.append(evaluate(REAL_VS_REAL, 0, parts["real"].subset(first), parts["real"].subset(second), *rest))
    table = combine(tables)
    missing = left_out(table)
    table = without_weak_intervals(table, parts["real"], parts["generated"])
    examples = tuple(_examples(side, sides[side], scales, size, wish.seed) for side in ("real", "generated"))
    told += cautions(
        (sides["real"], parts["real"]),
        (sides["generated"], parts["generated"]),
        scales,
        classes_lost=wish.by_class and not classes,
        judged=judge is not None,
    )
    return Comparison(name, table, missing, tuple(told), parts["real"], parts["generated"], scales, examples)


def fit_scales(sides: Mapping[str, PlainFolder], how: str) -> Scales:
    """The amplitude scale of every (side, sensor, storage) that occurs; see `Wish.scale`."""
    groups: dict[tuple[str, str, str], list] = {}
    for side, folder in sides.items():
        for sensor, facts in zip(folder.sensors(), folder.facts):
            groups.setdefault((side, sensor, facts.storage), []).append(facts)
    if how == "own":
        return {key: merged_scale(facts) for key, facts in groups.items()}
    scales: dict[tuple[str, str, str], Scale] = {}
    for side, sensor, storage in groups:
        known = [one for key, facts in groups.items() if key[2] == storage and key[0] == "real" for one in facts]
        alone = [one for key, facts in groups.items() if key[2] == storage and key[0] == side for one in facts]
        scales[side, sensor, storage] = None if storage == "8-bit" else merged_scale(known or alone)
    return scales


def _of_sensor(folder: PlainFolder, sensor: str) -> PlainFolder:
    if not sensor:
        return folder
    found = folder.where([name == sensor for name in folder.sensors()])
    if not len(found):
        others = ", ".join(sorted(set(folder.sensors())))
        raise InputError(f"{folder.source}: no image of the sensor '{sensor}'; it has {others}")
    return found


def _classes_usable(real: PlainFolder, fake: PlainFolder) -> bool:
    """Whether the classes of the two sides can be told and matched; InputError where both tell some and none is shared."""
    labels = [{image.label for image in folder.images} for folder in (real, fake)]
    if not all(any(part) for part in labels):
        return False
    if not labels[0] & labels[1]:
        raise InputError(
            f"no class in common: {real.source} has {', '.join(sorted(labels[0]))}, {fake.source} has "
            f"{', '.join(sorted(labels[1]))}; give labels by --captions, or compare without classes by "
            "--ignore-classes"
        )
    return True


def _measured(
    side: str, folder: PlainFolder, scales: Scales, size: tuple[int, int], classes: bool, workers: int, judge: Judge | None
) -> ImageStatistics:
    pairs = _pairs(side, folder, scales)
    chunks = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
    work = partial(_measure_chunk, root=folder.source, size=size)
    whole = join(ordered_map(work, chunks, workers, f"measuring {folder.source.name}"))
    values = dict(vars(whole))
    if not classes:
        values |= {"labels": ("",) * len(whole), "groups": ("seen",) * len(whole)}
    if judge is not None:
        # in this process and not in the workers: a network is loaded once, and its threads do not survive a fork
        batches = (load_batch(chunk, folder.source, size).images for chunk in chunks)
        values["features"] = np.concatenate([embed_images(judge, batch) for batch in batches])
        values["caption_features"] = embed_texts(judge, whole.captions)
    return ImageStatistics(**values)


def _measure_chunk(chunk: Sequence[tuple[UserImage, Scale]], root: Path, size: tuple[int, int]) -> ImageStatistics:
    return measure(load_batch(chunk, root, size), None, str(root), minimum=1)


def _pairs(side: str, folder: PlainFolder, scales: Scales) -> list[tuple[UserImage, Scale]]:
    facts = zip(folder.images, folder.sensors(), folder.facts)
    return [(image, scales[side, sensor, one.storage]) for image, sensor, one in facts]


def _examples(side: str, folder: PlainFolder, scales: Scales, size: tuple[int, int], seed: int) -> np.ndarray:
    """Some images drawn by the seed, uint8 [K, H, W]."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(folder))[:EXAMPLES])
    pairs = _pairs(side, folder, scales)
    return load_batch([pairs[index] for index in chosen], folder.source, size).images


def sizes_table(comparison: Comparison) -> pd.DataFrame:
    """Images of each class on both sides: columns class, real, generated; the last row is all."""
    counts = [Counter(part.labels) for part in (comparison.real, comparison.fake)]
    names = sorted(set(counts[0]) | set(counts[1]))
    rows = [(label or "unlabelled", counts[0][label], counts[1][label]) for label in names]
    return pd.DataFrame([*rows, ("all", len(comparison.real), len(comparison.fake))], columns=["class", "real", "generated"])
