"""What must be said beside a comparison of two sets of images: where its numbers do not mean what they seem to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from sarnb.data.amplitude import Normalisation
from sarnb.data.plain import UNSTATED, Facts, PlainFolder
from sarnb.metrics.amplitude import LEVELS
from sarnb.metrics.evaluation import ANCHORS, FRECHET_MINIMUM
from sarnb.metrics.measured import Measured

LEAST_FOR_INTERVAL = 10  # images a side; below it a percentile interval covers clearly less than it says
LEAST_FOR_FLOOR = 20  # real images, so that each half has LEAST_FOR_INTERVAL
LEVEL_RATIO = 1.5  # of mu + 3 sigma between the sides, beyond which a shared scaling is doubtful
CUT_SHARE = 0.05  # of pixels at either end of the scale


Side = tuple[PlainFolder, Measured]


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


def without_weak_intervals(table: pd.DataFrame, real: Measured, fake: Measured) -> pd.DataFrame:
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


def _counts(part: Measured) -> Counter:
    """Images by (split, class), "all" and "pooled" included."""
    counts: Counter = Counter()
    for label, group in zip(part.labels, part.groups):
        for split in ("pooled", group):
            counts[split, "all"] += 1
            counts[split, label] += 1
    return counts


def _small(real: Measured, fake: Measured, judged: bool) -> Iterator[str]:
    for side, count in (("real", len(real)), ("generated", len(fake))):
        if count < LEAST_FOR_INTERVAL:
            yield (f"Only {count} {side} images: too few for intervals ({LEAST_FOR_INTERVAL} needed), so none are given; the values "
                   "are noisy.")
        elif count < FRECHET_MINIMUM:
            yield f"Only {count} {side} images: no Fréchet distance ({FRECHET_MINIMUM} needed)."
    if LEAST_FOR_INTERVAL <= len(real) < LEAST_FOR_FLOOR:
        yield (f"Only {len(real)} real images: each half of the floor has fewer than {LEAST_FOR_INTERVAL}, so the floor has no "
               "interval and is high.")
    least = {label: min(count, Counter(fake.labels)[label]) for label, count in Counter(real.labels).items() if label}
    few = sorted(label for label, count in least.items() if 0 < count < LEAST_FOR_INTERVAL)
    if few:
        yield f"Fewer than {LEAST_FOR_INTERVAL} images on a side of {', '.join(few)}: the rows of these classes have no interval."
    if judged and max(len(real), len(fake)) > LEVEL_RATIO * min(len(real), len(fake)):
        yield (f"{len(real)} real and {len(fake)} generated images: precision and recall grow with a set's size and compare equal "
               "sizes only.")


def _damaged(side: str, facts: tuple[Facts, ...], histograms: np.ndarray) -> Iterator[str]:
    constant = sum(one.constant for one in facts)
    if constant:
        yield (f"{constant} of {len(facts)} {side} images have one value only (such as all zero); they are measured as they are, "
               "ratios leave them out.")
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
        yield (f"The real images are stored as {words[0]}, the generated ones as {words[1]}: their amplitude scales agree only if "
               "the 8-bit ones were made by A/(mu + 3 sigma) of the real set; if not, use --scale own.")
    levels = [_level(side, folder, scales) for side, folder in (("real", real), ("generated", fake))]
    ratio = levels[1] / levels[0] if min(levels) > 0 else np.inf
    if max(ratio, 1.0 / max(ratio, 1e-9)) > LEVEL_RATIO:
        yield (f"Normalisations differ: mean + 3 standard deviations is {levels[0]:.3g} of full scale in the real set and "
               f"{levels[1]:.3g} in the generated one. Unless the generator is to blame, use --scale own, or one sensor at a time.")
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
        yield (f"The sides hold different sensors, real: {words[0]}; generated: {words[1]}: differences of resolution, looks and "
               f"scaling are measured too{mend}.")
    elif len(counts[0]) > 1:
        yield (f"Both sides mix sensors ({words[0]}), whose scalings need not agree; compare one at a time by --sensor, or use "
               "--scale own.")


def _copies(real: PlainFolder, fake: PlainFolder) -> Iterator[str]:
    digests = [[one.digest for one in folder.facts] for folder in (real, fake)]
    for side, part in zip(("real", "generated"), digests):
        repeats = len(part) - len(set(part))
        if repeats:
            yield f"{repeats} of {len(part)} {side} images have the same pixels as another one, so the intervals are too narrow."
    shared = sum(digest in set(digests[0]) for digest in digests[1])
    if shared:
        yield f"{shared} of {len(digests[1])} generated images have the same pixels as a real one: the sets are not independent."
