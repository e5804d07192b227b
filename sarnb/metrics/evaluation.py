"""The evaluation table: every measure, per split and class, with 95 % bootstrap intervals over images.

Protocol. Splits are pooled, seen, unseen and composition, each with a row group "all"; every class has its own row group in the
split it belongs to (not again in pooled). Only classes that both sides have are compared, and in "all" each class counts the
same on both sides. Images are redrawn inside their class. A value is what the formula gives for these images; its interval is that of
the distance of the two laws, without what chance adds to that of two samples, and contains the value. ``n`` is the number of
generated images. What cannot be computed is not in the table: ``left_out(table)`` says what and why. The floor, real against
real, is the median of many random halvings, and its "interval" their spread; see ``floor``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter

from sarnb.data.dataset import ImageSet
from sarnb.data.imagefolder import default_caption
from sarnb.errors import InputError
from sarnb.metrics import COMPOSITION, METRICS, WHOLE, amplitude, class_name, distribution, geometry, semantic, texture
from sarnb.metrics.bootstrap import (
    distance_interval,
    effective_number,
    percentile_interval,
    share_interval,
    stratified_weights,
    weighted_mean,
)
from sarnb.metrics.describe import ImageStatistics, Prints, measure, prints

COLUMNS = ("strategy", "seed", "split", "class", "metric", "value", "lo", "hi", "n")
SPLITS = ("pooled", "seen", "unseen", COMPOSITION)
REFERENCE_FLOOR = "reference vs reference"
FROZEN_DECODER, TUNED_DECODER = "reference, frozen decoder", "reference, tuned decoder"  # what a perfect latent would reach
OPTICAL_AS_GREY = "optical as grey"
ANCHORS = (REFERENCE_FLOOR, FROZEN_DECODER, TUNED_DECODER, OPTICAL_AS_GREY)
HALVINGS, LEAST_HALVINGS, HALVED = 60, 20, 24_000  # random halvings behind the floor: as many as halve HALVED images in all
FRECHET_RESAMPLES = 100  # a matrix square root each, so fewer than for the other measures
FRECHET_MINIMUM, KERNEL_MINIMUM = 16, 8  # images a side, below which the figure would be mostly noise

# Metric -> (value, bootstrap samples [B], and of a share of images their effective number), or why there is none.
Outcome = dict[str, tuple[float, np.ndarray] | tuple[float, np.ndarray, float] | str]


@dataclass(frozen=True)
class _Cell:
    """One row group of the table: the images of one split and class, with their bootstrap weights (given [N], redrawn [B, N])."""

    split: str
    label: str
    real: np.ndarray
    fake: np.ndarray
    real_weights: tuple[np.ndarray, np.ndarray]
    fake_weights: tuple[np.ndarray, np.ndarray]


def evaluate(
    strategy: str,
    seed: int,
    real: ImageSet | ImageStatistics,
    fake: ImageSet | ImageStatistics,
    judge: semantic.Judge | None = None,
    resamples: int = 200,
    bootstrap_seed: int = 0,
    train: ImageSet | ImageStatistics | Prints | None = None,
    reference: ImageStatistics | None = None,
) -> pd.DataFrame:
    """Compare generated with held-out real images.

    Parameters
    ----------
    strategy, seed : name and training seed written in the rows.
    real, fake : image sets of one size, or what ``measure`` returned for them, which saves time with many strategies.
    judge : SAR-CLIP for the measures of meaning and distribution; None leaves them out.
    resamples, bootstrap_seed : bootstrap resamples, and their seed.
    train : the training images, for the check of memorisation; ``prints`` of them saves time with many strategies.
    reference : the images whose standard deviations are the unit of texture; ``real`` if None.

    Returns
    -------
    Long table with columns ``COLUMNS``; units and directions are in ``sarnb.metrics.METRICS``.

    Raises
    ------
    InputError
        Fewer than two images, different sizes, or no class in common.
    """
    real, fake = measure(real, judge, "real images"), measure(fake, judge, "generated images")
    rows, reasons = [], []
    for split, label, count, outcome in outcomes(real, fake, judge, resamples, bootstrap_seed, train, reasons, reference=reference):
        for metric, result in outcome.items():
            if isinstance(result, str):
                reasons.append((split, label, metric, result))
            elif not np.isfinite(result[0]):
                reasons.append((split, label, metric, "the images have no value for it"))
            else:
                value, samples, images = float(result[0]), result[1], result[2] if len(result) > 2 else 0.0
                usual = distance_interval if METRICS[metric].distance else percentile_interval
                ends = share_interval(samples, value, images) if images else usual(samples, value)
                rows.append((strategy, seed, split, label, metric, value, *ends, count))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.attrs["left_out"] = [(strategy, seed, *reason) for reason in reasons]
    return table


def outcomes(
    real: ImageStatistics,
    fake: ImageStatistics,
    judge: semantic.Judge | None,
    resamples: int,
    bootstrap_seed: int,
    train: ImageSet | ImageStatistics | Prints | None = None,
    reasons: list | None = None,
    splits: Sequence[str] = SPLITS,
    classes: bool = True,
    reference: ImageStatistics | None = None,
) -> Iterator[tuple[str, str, int, Outcome]]:
    """Every measure of every row group of the table, with its bootstrap samples: (split, class, generated images, outcome).

    The same ``bootstrap_seed`` redraws the same images of two sets with equal labels, so samples of two strategies are paired.
    ``reasons`` collects why row groups are missing; ``classes`` False leaves single classes out.

    Raises
    ------
    InputError
        As ``evaluate``.
    """
    if real.size != fake.size:
        raise InputError(f"real images are {real.size} and generated ones {fake.size} px; cut both to one size.")
    if not set(real.labels) & set(fake.labels):
        raise InputError(f"no class in common: real has {sorted(set(real.labels))}, generated has {sorted(set(fake.labels))}.")
    scores = image_scores(real, fake, judge, train)
    standard = [texture.standardise(part.descriptors, (reference or real).descriptors) for part in (real, fake)]
    levels = [amplitude.filled(part.histograms) for part in (real, fake)]
    for cell in _cells(real, fake, resamples, bootstrap_seed, [] if reasons is None else reasons):
        if cell.split in splits and (classes or cell.label == WHOLE):
            outcome = _amplitude(*levels, fake, cell) | _texture(*standard, cell) | _distribution(real, fake, cell) | _means(scores, cell)
            yield cell.split, cell.label, len(cell.fake), outcome


def left_out(table: pd.DataFrame) -> pd.DataFrame:
    """What ``evaluate`` or ``anchors`` could not compute: strategy, seed, split, class, metric ("all": every one), reason."""
    return pd.DataFrame(table.attrs.get("left_out", []), columns=["strategy", "seed", "split", "class", "metric", "reason"])


def combine(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put tables of several strategies below each other, keeping what each left out.

    Raises
    ------
    InputError
        No table.
    """
    if not tables:
        raise InputError("evaluation: no tables to combine; evaluate at least one strategy.")
    table = pd.concat([part.copy() for part in tables if len(part)] or tables[:1], ignore_index=True)
    table.attrs["left_out"] = [reason for part in tables for reason in part.attrs.get("left_out", [])]
    return table


def anchors(
    real: ImageSet,
    judge: semantic.Judge | None = None,
    seed: int = 0,
    train: ImageSet | ImageStatistics | Prints | None = None,
    drawn: Sequence[str] | None = None,
    decoded: Mapping[str, ImageSet] | None = None,
    halvings: int = HALVINGS,
    decoded_side: np.ndarray | None = None,
) -> pd.DataFrame:
    """Rows that say what values mean, from held-out reference images alone, as of training seed 0; all of them by ``floor``.

    "reference vs reference": other reference images. "optical as grey": the optical twin, mean of three channels; left out where
    there is no twin. ``decoded``: name -> the same images, in order, as a decoder makes them of their latents. All are compared
    with reference images of other scenes, at the numbers of ``drawn``, the labels of a generated set, by ``halvings`` at most.
    ``decoded_side``: what the headline's decoder leaves of the side, from which the strategies' reader learns too.

    Raises
    ------
    InputError
        No class with two images.
    """
    measured, optical = replace(measure(real, judge, "reference images"), decoded_side=decoded_side), real.optical()
    tables = [floor(measured, judge, seed, train, drawn, halvings)]
    if not len(tables[0]):
        raise InputError(f"{real.root}: no class with two images, so there are no two halves; give more real images.")
    others = dict(decoded or {})
    if optical is None:
        tables[0].attrs["left_out"].append((OPTICAL_AS_GREY, 0, WHOLE, WHOLE, WHOLE, "the data have no optical images"))
    else:
        others[OPTICAL_AS_GREY] = replace(real, images=np.rint(optical.mean(axis=3)).astype(np.uint8))
    for name, images in others.items():
        tables.append(floor(measured, judge, seed, train, drawn, min(LEAST_HALVINGS, halvings), name, measure(images, judge, name)))
    return combine(tables)


def floor(
    real: ImageStatistics,
    judge: semantic.Judge | None = None,
    seed: int = 0,
    train: ImageSet | ImageStatistics | Prints | None = None,
    drawn: Sequence[str] | None = None,
    halvings: int = HALVINGS,
    name: str = REFERENCE_FLOOR,
    other: ImageStatistics | None = None,
) -> pd.DataFrame:
    """What reference images reach against others: rows "reference vs reference", the median over random halvings, class by class.

    Parameters
    ----------
    real : all held-out real images; their standard deviations are the unit of texture, as for generated ones.
    drawn : labels of a generated set. One part then has as many images of a class as it, at most half of those that are
        there; distances grow as sets shrink, and compare at one number only. Halves if None.
    judge, train : as for ``evaluate``.
    name, other : of an anchor, and the same images in the same order as it shows them, of which the compared part is then taken.
    seed, halvings : of the halvings, and their number at most; of over 400 images fewer than ``HALVINGS``, as large sets vary
        less, but not below ``LEAST_HALVINGS``.

    Returns
    -------
    Rows as of ``evaluate``; [lo, hi] holds 95 % of the halvings, and tells what the choice of the images changes.
    """
    train = None if train is None else prints(train)
    counts = None if drawn is None else Counter(drawn)
    tables = []
    for number in range(min(halvings, max(LEAST_HALVINGS, HALVED // max(1, len(real))))):
        chosen = halves(real.labels, (seed, number), counts)
        if min(map(len, chosen)) > 1:
            parts = real.subset(chosen[0]), (other or real).subset(chosen[1])
            tables.append(evaluate(name, 0, *parts, judge, 0, 0, train, real))
    if not tables:
        return combine([pd.DataFrame(columns=list(COLUMNS))])
    rows = pd.concat(tables).groupby(["split", "class", "metric"], sort=False)
    joined = rows.agg(value=("value", "median"), lo=("value", lambda v: v.quantile(0.025)), hi=("value", lambda v: v.quantile(0.975)))
    joined["n"] = rows["n"].max()
    table = joined.reset_index().assign(strategy=name, seed=0)[list(COLUMNS)]
    table.attrs["left_out"] = tables[0].attrs["left_out"]
    return table


def halves(labels: Sequence[str], seed: int | Sequence[int], most: Mapping[str, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Indices int [K] and [M] of two random halves of a set, class by class; the first gets the odd one. Deterministic by seed.

    ``most``: images of each class in the second part at most; the first part then has the rest.
    """
    rng = np.random.default_rng(seed)
    names = np.asarray(labels, dtype=object)
    parts: tuple[list[int], list[int]] = ([], [])
    for label in sorted(set(labels)):
        members = rng.permutation(np.flatnonzero(names == label))
        middle = (len(members) + 1) // 2
        if most is not None:
            middle = max(middle, len(members) - most.get(label, 0))
        parts[0].extend(members[:middle])
        parts[1].extend(members[middle:])
    return np.sort(np.array(parts[0], dtype=int)), np.sort(np.array(parts[1], dtype=int))


def _cells(real: ImageStatistics, fake: ImageStatistics, resamples: int, seed: int, reasons: list) -> Iterator[_Cell]:
    """All cells with at least two images a side; reasons for the others are appended to ``reasons``."""
    names = [np.asarray(part.labels, dtype=object) for part in (real, fake)]
    groups = [np.asarray(part.groups, dtype=object) for part in (real, fake)]
    shared = set(names[0]) & set(names[1])
    for label in sorted(set(names[0]) ^ set(names[1])):
        side = "generated" if label in names[0] else "real"
        reasons.append(("pooled", class_name(label), WHOLE, f"no {side} images of this class, so it is left out everywhere"))
    for split in SPLITS:
        inside = [np.isin(name, list(shared)) & ((group == split) | (split == "pooled")) for name, group in zip(names, groups)]
        labels = sorted(set(names[0][inside[0]]) & set(names[1][inside[1]]))
        named = [label for label in labels if label and split != "pooled"]
        for label, chosen in [(WHOLE, labels)] + [(class_name(label), [label]) for label in named]:
            sides = [np.flatnonzero(mask & np.isin(name, chosen)) for mask, name in zip(inside, names)]
            if min(len(side) for side in sides) < 2:
                if chosen:
                    reasons.append((split, label, WHOLE, f"{len(sides[0])} real and {len(sides[1])} generated images, 2 of each needed"))
                continue
            weights = [stratified_weights(list(name[side]), resamples, (seed, k)) for k, (name, side) in enumerate(zip(names, sides))]
            yield _Cell(split, label, *sides, *weights)


def _both(statistic: Callable, cell: _Cell) -> tuple[Any, np.ndarray]:
    """A statistic of (real weights [B, N], fake weights [B, M]) for the images as given, and for every resample."""
    value = statistic(cell.real_weights[0][None], cell.fake_weights[0][None])[0]
    resampled = statistic(cell.real_weights[1], cell.fake_weights[1]) if len(cell.real_weights[1]) else np.empty(0)
    return value, resampled


def _amplitude(real: np.ndarray, levels: np.ndarray, fake: ImageStatistics, cell: _Cell) -> Outcome:
    """``real`` and ``levels``: shares of grey levels of both sides, gaps filled; the statistics of one side take them as stored."""
    counts, filled, others = real[cell.real], levels[cell.fake], amplitude.probabilities(fake.histograms[cell.fake])
    pairs = {
        "amplitude_kl": amplitude.kl,
        "amplitude_reverse_kl": amplitude.reverse_kl,
        "amplitude_js": amplitude.jensen_shannon,
        "amplitude_wasserstein": amplitude.wasserstein,
        "amplitude_ks": amplitude.kolmogorov_smirnov,
        "log_cumulant_distance": amplitude.log_cumulant_distance,
        "zero_share_distance": amplitude.zero_share_distance,
    }
    single = {
        "amplitude_cv": amplitude.coefficient_of_variation,
        "zero_share": amplitude.zero_share,
        "amplitude_kappa2": lambda histograms: amplitude.log_cumulants(histograms)[..., 1],
        "amplitude_kappa3": lambda histograms: amplitude.log_cumulants(histograms)[..., 2],
    }
    outcome: Outcome = {name: _both(lambda w, v, f=f: f(w @ counts, v @ filled), cell) for name, f in pairs.items()}
    outcome |= {name: _both(lambda _, v, f=f: f(v @ others), cell) for name, f in single.items()}
    outcome["amplitude_enl"] = _both(lambda _, v: weighted_mean(fake.enl[cell.fake], v), cell)
    return outcome


def _texture(real: np.ndarray, fake: np.ndarray, cell: _Cell) -> Outcome:
    real, fake = real[cell.real], fake[cell.fake]
    value, samples = _both(lambda w, v: texture.property_distances(w @ real, v @ fake), cell)
    samples = samples.reshape(-1, len(texture.PROPERTIES))
    outcome: Outcome = {"texture_distance": (value.mean(), samples.mean(-1))}
    for column, name in enumerate(texture.PROPERTIES):
        outcome[f"texture_{name}"] = (value[column], samples[:, column])
    return outcome | {"texture_frechet": _frechet(real, fake, cell)}


def _frechet(real: np.ndarray, fake: np.ndarray, cell: _Cell) -> tuple[float, np.ndarray] | str:
    if min(len(real), len(fake)) < FRECHET_MINIMUM:
        return f"{len(real)} real and {len(fake)} generated images, {FRECHET_MINIMUM} of each needed"
    few = [(given, redrawn[:FRECHET_RESAMPLES]) for given, redrawn in (cell.real_weights, cell.fake_weights)]
    cell = replace(cell, real_weights=few[0], fake_weights=few[1])
    # the shrinkage of the images as given, as a resample holds fewer different ones and would be shrunk more
    amount = distribution.shrinkage(real, fake, cell.real_weights[0], cell.fake_weights[0])
    return _both(lambda w, v: np.array([distribution.frechet_distance(real, fake, a, b, amount) for a, b in zip(w, v)]), cell)


def _distribution(real: ImageStatistics, fake: ImageStatistics, cell: _Cell) -> Outcome:
    names = ("clip_frechet_distance", "clip_kid", "clip_precision", "clip_recall")
    if real.features is None or fake.features is None:
        return dict.fromkeys(names, "no judge was given")
    first, second = real.features[cell.real], fake.features[cell.fake]
    outcome: Outcome = {"clip_frechet_distance": _frechet(first, second, cell)}
    if min(len(first), len(second)) < KERNEL_MINIMUM:
        reason = f"{len(first)} real and {len(second)} generated images, {KERNEL_MINIMUM} of each needed"
        return outcome | dict.fromkeys(names[1:], reason)
    scale = np.sqrt(first.shape[1])  # the kernel divides by D, so this makes it (cosine + 1)^3
    pairs = ((first, first), (second, second), (first, second))
    kernels = [distribution.polynomial_kernel(scale * a, scale * b) for a, b in pairs]
    outcome["clip_kid"] = _both(lambda w, v: distribution.weighted_kid(*kernels, w, v), cell)
    # the manifolds stay those of all images; only who is counted is resampled
    precise = distribution.manifold_hits(first, second).astype(float)
    recalled = distribution.manifold_hits(second, first).astype(float)
    outcome["clip_precision"] = *_both(lambda _, v: v @ precise, cell), effective_number(precise, cell.fake_weights[0])
    outcome["clip_recall"] = *_both(lambda w, _: w @ recalled, cell), effective_number(recalled, cell.real_weights[0])
    return outcome


def _means(scores: dict[str, np.ndarray | str], cell: _Cell) -> Outcome:
    """Measures that are the mean of one score a generated image; those of scores from 0 to 1 are shares."""
    outcome: Outcome = {}
    for name, score in scores.items():
        if isinstance(score, str):
            outcome[name] = score
            continue
        value, samples = _both(lambda _, v, s=score: weighted_mean(s[cell.fake], v), cell)
        images = effective_number(score[cell.fake], cell.fake_weights[0]) if METRICS[name].bounds == (0.0, 1.0) else 0.0
        outcome[name] = value, samples, images
    return outcome


def image_scores(
    real: ImageStatistics, fake: ImageStatistics, judge: semantic.Judge | None, train: ImageSet | ImageStatistics | Prints | None
) -> dict[str, np.ndarray | str]:
    """One score per generated image [N], NaN where it has none, or the reason why none has one."""
    scores: dict[str, np.ndarray | str] = {"look_accuracy": _look_scores(real, fake)}
    scores["duplicate_fraction"] = distribution.duplicated(fake.thumbnails, real.thumbnails, real.grain).astype(float)
    if train is None:
        scores["memorised_fraction"] = "no training images were given"
    else:
        known = prints(train)
        overlap = distribution.overlapping(real.grain, known.grain)
        try:
            scores["memorised_fraction"] = distribution.memorised(fake.thumbnails, known.thumbnails, real.thumbnails, overlap) * 1.0
        except InputError as error:
            scores["memorised_fraction"] = str(error)
    meaning = ("clip_cosine", "clip_accuracy", "clip_retrieval_r1")
    if judge is None or fake.features is None:
        return scores | dict.fromkeys(meaning, "no judge was given")
    labels = sorted({label for label in real.labels + fake.labels if label})
    if not labels:
        return scores | dict.fromkeys(meaning, "the images have no class labels")
    mixed = {label for part in (real, fake) for label, group in zip(part.labels, part.groups) if group == COMPOSITION}
    readings = class_readings(fake, judge, labels, mixed)
    scores["clip_cosine"] = readings["cosine"].to_numpy()
    scores["clip_accuracy"] = np.where(readings["class"] != "", readings["called"] == readings["class"], np.nan)
    try:
        scores["clip_retrieval_r1"] = semantic.retrieval_r1(fake.features, fake.caption_features, fake.captions)
    except InputError as error:
        scores["clip_retrieval_r1"] = str(error)
    return scores


def class_readings(
    images: ImageStatistics, judge: semantic.Judge, labels: Sequence[str], compositions: Collection[str] = ()
) -> pd.DataFrame:
    """What the judge calls each image: columns class, cosine (with the prompt of its class, NaN without one), called.

    ``labels`` are the classes to choose from. A class competes with classes: "river+forest" is not wrong for "river". A composition
    competes with all of them, so that a texture without a scene, which has a nearest composition too, does not pass for it.
    """
    prompts = semantic.embed_texts(judge, [default_caption(label) for label in labels])
    truth = np.array([labels.index(label) if label else -1 for label in images.labels])
    mixed = np.array([label in compositions for label in labels])
    places = semantic.zero_shot(images.features, prompts, ~mixed[None] | mixed[truth][:, None])
    own = np.where(truth >= 0, (images.features * prompts[truth]).sum(1), np.nan)
    return pd.DataFrame({"class": images.labels, "cosine": own, "called": np.array(labels, dtype=object)[places]})


def uniform_textures(size: tuple[int, int], each: int = 8, seed: int = 0) -> np.ndarray:
    """Images without a scene, uint8 [9 * each, H, W]: three mean levels of speckle, of textured speckle, and of smoothed speckle."""
    rng, found = np.random.default_rng((seed, 17)), []
    for level in (32, 64, 96):
        speckle = rng.rayleigh(level / np.sqrt(np.pi / 2), (2, each, *size))
        smooth = uniform_filter(speckle[1], (0, 3, 3), mode="wrap")
        found += [speckle[0], speckle[1] * np.sqrt(rng.gamma(2.0, 0.5, speckle[1].shape)), smooth]
    return np.rint(np.concatenate(found).clip(0, 255)).astype(np.uint8)


def look_reader(real: ImageStatistics) -> np.ndarray:
    """Weights of ``side_features`` [108] that read the side: learned from real images, and from their ``decoded_side`` where it is there.

    A decoder smooths the edges of shadows: read by what undamaged images show, even a perfect latent would often seem to have no side.

    Raises
    ------
    InputError
        As ``geometry.fit_look_reader``.
    """
    if real.decoded_side is None:
        return geometry.fit_look_reader(real.side_features, real.looks)
    return geometry.fit_look_reader(np.concatenate([real.side_features, real.decoded_side]), real.looks * 2)


def _look_scores(real: ImageStatistics, fake: ImageStatistics) -> np.ndarray | str:
    """Whether each generated image shows the requested side, by a reader calibrated on the real images."""
    if not any(fake.looks):
        return "no look side was requested"
    try:
        reader = look_reader(real)
    except InputError as error:
        return str(error)
    return geometry.look_correct(fake.side_features @ reader, fake.looks)
