"""Two folders of radar images, compared by the protocol of the study: one table, and every caution that belongs to it.

Images are read one at a time; what is kept of each is one row of statistics, so memory hardly grows with their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from sarnb.data.amplitude import Normalisation
from sarnb.data.listing import UserImage
from sarnb.data.plain import PlainFolder, common_size, load_batch, merged_scale
from sarnb.data.pool import ordered_map
from sarnb.errors import InputError
from sarnb.metrics.cautions import LEAST_FOR_INTERVAL, cautions, one_sided, without_weak_intervals
from sarnb.metrics.evaluation import REAL_VS_REAL, combine, evaluate, halves, left_out
from sarnb.metrics.measured import Measured, join, measure
from sarnb.metrics.semantic import Judge, embed_images, embed_texts

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
    real: Measured
    fake: Measured
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
            raise InputError(f"{folder.source}: {len(folder)} image(s) as the {side} set; a comparison of sets needs at least 2, "
                             f"and {LEAST_FOR_INTERVAL} for an interval")
    if train is not None:
        sides["training"] = train
    classes = wish.by_class and _classes_usable(sides["real"], sides["generated"])
    told = list(one_sided(sides["real"], sides["generated"])) if classes else []
    if classes:
        shared = {image.label for image in sides["real"].images} & {image.label for image in sides["generated"].images}
        for side in ("real", "generated"):
            sides[side] = sides[side].where([image.label in shared for image in sides[side].images])
    size, scales = common_size(list(sides.values()), wish.size), fit_scales(sides, wish.scale)
    parts = {side: _measured(side, folder, scales, size, classes, wish.workers, judge if side != "training" else None)
             for side, folder in sides.items()}
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
    told += cautions((sides["real"], parts["real"]), (sides["generated"], parts["generated"]), scales,
                     classes_lost=wish.by_class and not classes, judged=judge is not None)
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
        raise InputError(f"no class in common: {real.source} has {', '.join(sorted(labels[0]))}, {fake.source} has "
                         f"{', '.join(sorted(labels[1]))}; give labels by --captions, or compare without classes by "
                         "--ignore-classes")
    return True


def _measured(
    side: str, folder: PlainFolder, scales: Scales, size: tuple[int, int], classes: bool, workers: int, judge: Judge | None
) -> Measured:
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
    return Measured(**values)


def _measure_chunk(chunk: Sequence[tuple[UserImage, Scale]], root: Path, size: tuple[int, int]) -> Measured:
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
