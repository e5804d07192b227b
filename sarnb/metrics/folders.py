"""Two folders of radar images, compared by the protocol of the study: one table, and every caution that belongs to it.

Images are read one at a time; what is kept of each is one row of statistics, so memory hardly grows with their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from sarnb.data.amplitude import Normalisation
from sarnb.data.files import METADATA, ordered_map
from sarnb.data.imagefolder import INDEX, UNSTATED, ImageFolder, UserImage, common_size, load_batch, merged_scale
from sarnb.errors import InputError
from sarnb.generate.strategies import RESERVED
from sarnb.metrics import WHOLE, class_name
from sarnb.metrics.amplitude import LEVELS, unreachable
from sarnb.metrics.describe import LEAST_SIZE, ImageStatistics, join, measure, prints
from sarnb.metrics.distribution import ALIKE, copy_threshold, nearest_picture, overlapping
from sarnb.metrics.evaluation import FRECHET_MINIMUM, HALVINGS, REFERENCE_FLOOR, combine, evaluate, floor, left_out
from sarnb.metrics.semantic import Judge, embed_images, embed_texts
from sarnb.model.foundation import cut_prompts
from sarnb.profile import LARGEST_SEED

CHUNK = 32  # images in memory at a time, in each process
SCALES = ("real", "own")
EXAMPLES = 8
LEAST_FOR_INTERVAL = 10  # images a side; below it a percentile interval covers clearly less than it says
LEVEL_RATIO = 1.5  # of mu + 3 sigma between the sides, beyond which a shared scaling is doubtful
CUT_SHARE = 0.05  # of pixels at either end of the scale

Scale = Normalisation | None
Scales = Mapping[tuple[str, str, str], Scale]  # (side, sensor, storage) -> scale; None keeps 8-bit values
Sides = Mapping[str, ImageFolder]  # "real", "generated" and, where given, "training"


@dataclass(frozen=True)
class Options:
    """How two folders are to be compared.

    ``size``: side in px of the middle that is compared, None for whole images of one size. ``scale``: "real" keeps 8-bit
    values and scales everything else by the one A / (mu + 3 sigma) of the sensor's real images that are not 8-bit, whatever
    their storage (of all sensors where that one has none and they agree), so that a difference of brightness shows;
    "own" scales every set and sensor by its own. ``seed``: from 0 to LARGEST_SEED.
    ``sensor``: compare images of this one only. ``by_class``: only classes that both have, each counting the same.
    ``quantity``: what the numbers of the real images are, or of the real and the generated ones ("intensity,amplitude"), see
    ``sarnb.data.imagefolder.survey_quantity``; "" has it guessed, and the guess is a caution.
    """

    size: int | None = None
    scale: str = "real"
    sensor: str = ""
    by_class: bool = True
    resamples: int = 200
    seed: int = 0
    workers: int = 1
    halvings: int = HALVINGS  # at most, of the real images, see ``floor``
    quantity: str = ""

    @property
    def quantities(self) -> tuple[str, str]:
        """What the numbers of the real (and training) images are, and of the generated ones; "" where it is to be guessed."""
        real, _, fake = self.quantity.partition(",")
        return real.strip(), fake.strip()

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise InputError(f"scale {self.scale!r}: use 'real' (the real set's, for both) or 'own' (each set's and sensor's).")
        if self.size is not None and self.size < LEAST_SIZE:
            raise InputError(f"size {self.size} px: give 32 or more, the measures need that much.")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise InputError(f"seed {self.seed}: give a whole number from 0 to {LARGEST_SEED}.")
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
    real: ImageFolder,
    fake: ImageFolder,
    options: Options | None = None,
    judge: Judge | None = None,
    train: ImageFolder | None = None,
) -> Comparison:
    """Compare two folders.

    Parameters
    ----------
    real, fake : folders from ``read_folder``; fake is the generated one, or whatever is to be judged.
    options : how; the defaults of ``Options`` where None.
    judge : SAR-CLIP for the measures of meaning and distribution.
    train : training images of the generator, for the check of memorisation.

    Raises
    ------
    InputError
        A set with fewer than two images, different sizes, no class in common, no image of the requested sensor.
    """
    options = options or Options()
    sides = {"real": _of_sensor(real, options.sensor), "generated": _of_sensor(fake, options.sensor)}
    for side, folder in sides.items():
        if len(folder) < 2:
            raise InputError(
                f"{folder.source}: {len(folder)} image(s) as the {side} set; a comparison of sets needs at least 2, "
                f"and {LEAST_FOR_INTERVAL} for an interval"
            )
    classes, lines = options.by_class and _classes_usable(sides), []
    if classes:
        lines += one_sided(sides)
        shared = set.intersection(*({image.label for image in folder.images} for folder in sides.values()))
        sides = {side: folder.where(lambda image: image.label in shared) for side, folder in sides.items()}
    every = sides | ({"training": train} if train is not None else {})
    size, scales = common_size(every.values(), options.size), fit_scales(every, options.scale)
    parts = {}
    for side, folder in every.items():
        parts[side] = _measured(_pairs(side, folder, scales), folder.source, size, options.workers, judge if side in sides else None)
        if not classes:
            parts[side] = replace(parts[side], labels=("",) * len(parts[side]), groups=("seen",) * len(parts[side]))
    known = prints(parts["training"]) if train is not None else None
    name = shown_name(fake.source)
    own = evaluate(name, 0, parts["real"], parts["generated"], judge, options.resamples, options.seed, known)
    table = combine([own, floor(parts["real"], judge, options.seed, known, parts["generated"].labels, options.halvings)])
    examples = tuple(_examples(_pairs(side, folder, scales), folder.source, size, options.seed) for side, folder in sides.items())
    lines += cautions(every, parts, scales, classes_lost=options.by_class and not classes, judged=judge is not None)
    if hasattr(getattr(judge, "tokenizer", None), "model_max_length"):  # open_clip's own tokenizers tell no length
        cut = cut_prompts(judge, [text for part in (parts["real"], parts["generated"]) for text in part.captions])
        lines += [f"The judge's captions: {cut}"] if cut else []
    table, missing = without_weak_intervals(table, parts["real"], parts["generated"]), left_out(table)
    return Comparison(name, table, missing, tuple(lines), parts["real"], parts["generated"], scales, examples)


def shown_name(source: Path) -> str:
    """What tables and figures call the generated set: its folder, unless that is what they call another set or would hide."""
    name = source.resolve().name
    return f"generated {name}".strip() if not name or name in RESERVED or name.startswith("_") else name


def fit_scales(sides: Sides, how: str) -> Scales:
    """The amplitude scale of every (side, sensor, storage) that occurs; see ``Options.scale``.

    Raises
    ------
    InputError
        Real images of other sensors only are there and their scales are apart: none of them would do.
    """
    groups: dict[tuple[str, str, str], list[UserImage]] = {}
    for side, folder in sides.items():
        for image in folder.images:
            groups.setdefault((side, image.sensor, image.facts.storage), []).append(image)
    if how == "own":
        return {key: merged_scale(images) for key, images in groups.items()}
    known = [image for key, images in groups.items() if key[0] == "real" and key[2] != "8-bit" for image in images]
    levels = {name: merged_scale([image for image in known if image.sensor == name]).scale for name in {image.sensor for image in known}}
    scales: dict[tuple[str, str, str], Scale] = {}
    for side, sensor, storage in groups:
        alike = [image for image in known if image.sensor == sensor]  # each sensor has levels of its own
        alone = [image for key, images in groups.items() if key[0] == side and key[2] != "8-bit" for image in images]
        if storage != "8-bit" and known and not alike and max(levels.values()) > LEVEL_RATIO * min(levels.values()):
            given = ", ".join(f"{name} {level:.3g}" for name, level in sorted(levels.items()))
            raise InputError(
                f"{sides[side].source}: its {storage} images are of the sensor '{sensor}', the real ones of others with different scales "
                f"({given}), of which none is theirs; name their sensor in {INDEX} or {METADATA}, or use --scale own"
            )
        scales[side, sensor, storage] = None if storage == "8-bit" else merged_scale(alike or known or alone)
    return scales


def _of_sensor(folder: ImageFolder, sensor: str) -> ImageFolder:
    if not sensor:
        return folder
    found = folder.where(lambda image: image.sensor == sensor)
    if not len(found):
        others = ", ".join(sorted({image.sensor for image in folder.images}))
        raise InputError(f"{folder.source}: no image of the sensor '{sensor}'; it has {others}")
    return found


def _classes_usable(sides: Sides) -> bool:
    """Whether both sides have classes to be matched; InputError where both have some and none is shared."""
    real, fake = ({image.label for image in folder.images} for folder in sides.values())
    if not any(real) or not any(fake):
        return False
    if not real & fake:
        raise InputError(
            f"no class in common: {sides['real'].source} has {', '.join(sorted(real))}, {sides['generated'].source} has "
            f"{', '.join(sorted(fake))}; give labels by --captions, or compare without classes by --ignore-classes"
        )
    return True


def _pairs(side: str, folder: ImageFolder, scales: Scales) -> list[tuple[UserImage, Scale]]:
    return [(image, scales[side, image.sensor, image.facts.storage]) for image in folder.images]


def _measured(
    pairs: list[tuple[UserImage, Scale]], root: Path, size: tuple[int, int], workers: int, judge: Judge | None
) -> ImageStatistics:
    chunks = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
    whole = join(ordered_map(partial(_measure_chunk, root=root, size=size), chunks, workers, f"measuring {root.name}"))
    if judge is None:
        return whole
    # in this process and not in the workers: a network is loaded once, and its threads do not survive a fork
    features = np.concatenate([embed_images(judge, load_batch(chunk, root, size).images) for chunk in chunks])
    return replace(whole, features=features, caption_features=embed_texts(judge, whole.captions))


def _measure_chunk(chunk: Sequence[tuple[UserImage, Scale]], root: Path, size: tuple[int, int]) -> ImageStatistics:
    return measure(load_batch(chunk, root, size), None, str(root), minimum=1)


def _examples(pairs: list[tuple[UserImage, Scale]], root: Path, size: tuple[int, int], seed: int) -> np.ndarray:
    """Some images drawn by the seed, uint8 [K, H, W]."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:EXAMPLES])
    return load_batch([pairs[index] for index in chosen], root, size).images


# What must be said with a comparison of two sets of images: where its numbers do not mean what they seem to.


def cautions(sides: Sides, parts: Mapping[str, ImageStatistics], scales: Scales, classes_lost: bool, judged: bool) -> list[str]:
    """One sentence for each thing to be known before the table is believed: sizes, classes, scales, sensors, copies."""
    lines: list[str] = []
    both = {side: sides[side] for side in ("real", "generated")}
    if classes_lost:
        bare = [side for side, folder in both.items() if not any(image.label for image in folder.images)]
        where = "either side" if len(bare) == 2 else f"the {bare[0]} side"
        lines.append(f"No class labels on {where}: the sets are compared as wholes, so a difference in what they show counts as one.")
    lines += _small(parts["real"], parts["generated"], judged)
    for side, folder in both.items():
        lines += _damaged(side, sum(image.facts.constant for image in folder.images), parts[side].histograms)
    return [*lines, *_scaling(both, scales), *_sensors(both), *_copies(sides, parts)]


def one_sided(sides: Sides) -> Iterator[str]:
    """One sentence for each side that has classes which the other lacks: they take no part."""
    counts = [Counter(image.label for image in folder.images) for folder in sides.values()]
    for side, own, other in zip(sides, counts, reversed(counts)):
        alone = {label or "unlabelled": count for label, count in sorted(own.items()) if label not in other}
        if alone:
            names = ", ".join(f"{label} ({count})" for label, count in alone.items())
            yield f"Only on the {side} side, and therefore left out: {names}, {sum(alone.values())} of {own.total()} images."


def without_weak_intervals(table: pd.DataFrame, real: ImageStatistics, fake: ImageStatistics) -> pd.DataFrame:
    """The evaluation table without the intervals of cells with fewer than LEAST_FOR_INTERVAL images on a side.

    The floor keeps the spread of its halvings, which is no interval over images.
    """
    counts: list[Counter] = [Counter(), Counter()]
    for count, part in zip(counts, (real, fake)):
        for label, group in zip(part.labels, part.groups):
            count.update([("pooled", WHOLE), (group, WHOLE), (group, class_name(label))])
    cells = zip(table["strategy"], zip(table["split"], table["class"]))
    weak = [strategy != REFERENCE_FLOOR and min(count[cell] for count in counts) < LEAST_FOR_INTERVAL for strategy, cell in cells]
    return table.assign(lo=table["lo"].mask(weak), hi=table["hi"].mask(weak))


def _small(real: ImageStatistics, fake: ImageStatistics, judged: bool) -> Iterator[str]:
    for side, count in (("real", len(real)), ("generated", len(fake))):
        if count < LEAST_FOR_INTERVAL:
            yield (
                f"Only {count} {side} images: too few for intervals ({LEAST_FOR_INTERVAL} needed), so none are given; the values are noisy."
            )
        elif count < FRECHET_MINIMUM:
            yield f"Only {count} {side} images: no Fréchet distance ({FRECHET_MINIMUM} needed)."
    if len(fake) > len(real) // 2:
        yield (
            f"The floor compares halves of the {len(real)} real images, fewer than the {len(fake)} generated ones: distances grow as "
            "sets shrink, so it is a little high."
        )
    least = {label: min(count, Counter(fake.labels)[label]) for label, count in Counter(real.labels).items() if label}
    few = sorted(label for label, count in least.items() if 0 < count < LEAST_FOR_INTERVAL)
    if few:
        yield f"Fewer than {LEAST_FOR_INTERVAL} images on a side of {', '.join(few)}: the rows of these classes have no interval."
    if judged and max(len(real), len(fake)) > LEVEL_RATIO * min(len(real), len(fake)):
        yield (
            f"{len(real)} real and {len(fake)} generated images: precision and recall grow with a set's size and compare equal sizes only."
        )


def _damaged(side: str, constant: int, histograms: np.ndarray) -> Iterator[str]:
    if constant:
        yield (
            f"{constant} of {len(histograms)} {side} images have one value only (such as all zero); they are measured as they are, "
            "ratios leave them out."
        )
    used, gaps = unreachable(histograms)
    if gaps.any():
        empty = int((np.diff(used)[gaps] - 1).sum())
        yield (
            f"{empty} grey levels between others are empty, or nearly so, in the {side} images, as a tone curve or a stretch in "
            "8 bits leaves them: the distances of amplitudes fill them from their neighbours, on both sides alike; texture is "
            "measured on the values as they are."
        )
    share = histograms.sum(0) / histograms.sum()
    if share[0] > CUT_SHARE:
        yield f"{share[0]:.1%} of the {side} pixels are zero: borders without data or cut shadows bend every amplitude measure."
    if share[LEVELS - 1] > CUT_SHARE:
        yield f"{share[LEVELS - 1]:.1%} of the {side} pixels are saturated: the bright tail is cut off and not compared."


def _scaling(sides: Sides, scales: Scales) -> Iterator[str]:
    if any(key[2] == "8-bit" and scale is not None for key, scale in scales.items()):
        yield "Every set and sensor is scaled by its own mean + 3 standard deviations: differences of brightness are not measured."
        return
    storages = [sorted({image.facts.storage for image in folder.images}) for folder in sides.values()]
    words = [" and ".join(names) for names in storages]
    if storages[0] == ["8-bit"] != storages[1]:
        yield (
            f"The real images are stored as 8-bit, the generated ones as {words[1]}: the real set's scale is not known, so generated "
            "ones are scaled by their own mean + 3 standard deviations and differences of brightness are not measured."
        )
    elif "8-bit" in storages[0] + storages[1] and storages[0] != storages[1]:
        yield (
            f"The real images are stored as {words[0]}, the generated ones as {words[1]}: their amplitude scales agree only if "
            "the 8-bit ones were made by A/(mu + 3 sigma) of the real set; if not, use --scale own."
        )
    elif storages[0] != storages[1]:
        yield (
            f"The real images are stored as {words[0]}, the generated ones as {words[1]}, and both are scaled by the real set's mean "
            "+ 3 standard deviations: brightness is compared as if both were in one unit; if they are not, use --scale own."
        )
    levels = [_level(side, folder, scales) for side, folder in sides.items()]
    ratio = levels[1] / levels[0] if min(levels) > 0 else np.inf
    if max(ratio, 1.0 / max(ratio, 1e-9)) > LEVEL_RATIO:
        yield (
            f"Normalisations differ: mean + 3 standard deviations is {levels[0]:.3g} of full scale in the real set and "
            f"{levels[1]:.3g} in the generated one. Unless the generator is to blame, use --scale own, or one sensor at a time."
        )
    if "8-bit" in storages[0] + storages[1]:
        yield "8-bit images keep their values; how they were scaled, and whether they are amplitude, is not known."


def _level(side: str, folder: ImageFolder, scales: Scales) -> float:
    """mu + 3 sigma of a side in units of the full scale, before clipping."""
    parts = []
    for image, scale in _pairs(side, folder, scales):
        full = LEVELS - 1 if scale is None else scale.scale
        count, mean, squares = image.facts.moments
        parts.append((count, mean / full, squares / full**2))
    return Normalisation.from_moments(parts).scale


def _sensors(sides: Sides) -> Iterator[str]:
    counts = [Counter(image.sensor for image in folder.images) for folder in sides.values()]
    words = [", ".join(f"{name} {count}" for name, count in sorted(part.items())) for part in counts]
    shares = [{name: count / part.total() for name, count in part.items()} for part in counts]
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


def _copies(sides: Sides, parts: Mapping[str, ImageStatistics]) -> Iterator[str]:
    """Images that are twice in a set, or in two sets, by their pixels or by their grain; each kind with its number."""
    digests = {side: [image.facts.digest for image in folder.images] for side, folder in sides.items()}
    for side, part in digests.items():
        count = Counter(part)
        repeats = overlapping(parts[side].grain) | np.array([count[digest] > 1 for digest in part])
        if repeats.any():
            yield (
                f"{repeats.sum()} of {len(part)} {side} images are there twice (same pixels or speckle, mirrored too), so intervals "
                "are too narrow."
            )
    for side, other, what in (
        ("real", "training", "they take no part in the thresholds, and being near to them says nothing of new images."),
        ("generated", "training", "they are no drawings."),
        ("generated", "real", "the sets are not independent."),
    ):
        if side in parts and other in parts:
            same = overlapping(parts[side].grain, parts[other].grain) | np.isin(digests[side], digests[other])
            if same.any():
                yield f"{same.sum()} of {len(same)} {side} images are {other} images too (same pixels or speckle, mirrored too): {what}"
    real, train = parts["real"], parts.get("training")
    nearest = {"duplicate_fraction": nearest_picture(real.thumbnails, grain=real.grain)}
    if train is not None:
        new = real.thumbnails[~overlapping(real.grain, train.grain)]
        nearest["memorised_fraction"] = nearest_picture(new, train.thumbnails) if len(new) else np.empty(0)
    for measure_name, near in nearest.items():
        if (least := copy_threshold(near)) > ALIKE:
            others = "training images" if measure_name.startswith("m") else "each other"
            yield (
                f"Real images are so near to {others} that {measure_name} counts only layouts that correlate above {least:.2f}: if places "
                "are there twice (passes of other days, shifted or resampled copies), it is too low."
            )
