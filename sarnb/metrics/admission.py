"""Is a measure fit to judge? Reference images are damaged in rising strength, and the measure has to notice.

Protocol. The reference images are cut into two random halves, class by class. One stays the reference, the other is compared with
it as it is (strength 0: the floor) and after each corruption; this is done for several cuts. The error of a measure is its
value (lower is better), its negative (higher is better), or its distance from the value of the reference (match). A measure
passes a corruption if its error, averaged over the cuts, never falls as the strength rises (a share may reach its end), and
if the worst floor of all cuts lies below the best error of all cuts at every strength. What leaves no scene at all (white noise,
shuffled patches, random phases) has to lie behind the mildest blur too. What ``CLAIMS`` says of a measure has to pass, and a claim
that fails stays in the table; the rest is shown, not claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.stats import gamma, norm, rankdata

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics import KEY_METRICS, METRICS, image_stack
from sarnb.metrics.amplitude import LEVELS
from sarnb.metrics.describe import RAYLEIGH_CV, ImageStatistics, join, measure
from sarnb.metrics.evaluation import evaluate, halves
from sarnb.metrics.semantic import Judge, embed_texts

BLUR, GAUSSIAN, MULTILOOK, GAMMA = "blur", "gaussian speckle", "more looks", "gamma"
NOISE, PATCHES, PHASE = "white noise", "shuffled patches", "random phases"
FLIPPED, SWAPPED, DUPLICATES, COPIES = "flipped side", "swapped class", "duplicates", "training copies"
PIXELS = (BLUR, GAUSSIAN, MULTILOOK, GAMMA)
NO_SCENE = (NOISE, PATCHES, PHASE)
"""The grey values, the texture inside a patch, or the power spectrum of each image, and nothing else of it."""

BY_CLASS = ("amplitude_kl by class", "texture_distance by class")
"""Means over the classes' own values: pooled figures cannot see that classes were exchanged."""

# What a measure is used as evidence of. A corruption is missing only where it leaves the measured quantity alone by construction,
# or where other measures are held responsible for it (a trial showed that texture puts random phases behind the floor and
# before the mildest blur: the table shows that, and the judge answers for it); no other claim was withdrawn after a trial.
FAMILY_CLAIMS: dict[str, tuple[str, ...]] = {
    "amplitude": (*PIXELS, PHASE),  # a histogram does not know where a pixel lies: noise and patches leave it as it is
    # of two pixels 1 to 8 px apart most lie in one patch of 16 px, and what pairs say of an image is mostly its power spectrum
    "texture": (*PIXELS, NOISE),
    "meaning": (SWAPPED, *NO_SCENE),  # of speckle's law nothing: it is the same in every class
    "distribution": (BLUR, MULTILOOK, GAMMA, *NO_SCENE),
    "geometry": (FLIPPED, NOISE, PHASE),  # a wall's echo and its shadow lie in one patch; a power spectrum has no side
}
CLAIMS: dict[str, tuple[str, ...]] = {name: FAMILY_CLAIMS[metric.family] for name, metric in METRICS.items()} | {
    "amplitude_cv": (BLUR, MULTILOOK, GAMMA),  # the Gaussian law and random phases have the coefficient of variation of the right one
    "amplitude_enl": (*PIXELS, NOISE, PHASE),  # read in windows of 8 px
    # the Gaussian law and random phases lead to amplitudes below 0, which are drawn as 0; a curve leaves 0 where it is
    "zero_share": (GAUSSIAN, PHASE),
    "zero_share_distance": (GAUSSIAN, PHASE),
    "texture_correlation": (BLUR, MULTILOOK, NOISE),  # unchanged by a law or curve that keeps the order of brightness, or nearly so
    "clip_precision": (MULTILOOK, GAMMA, *NO_SCENE),
    "clip_recall": (DUPLICATES, *NO_SCENE),
    "memorised_fraction": (COPIES,),
    "duplicate_fraction": (DUPLICATES,),
    "amplitude_kl by class": (*PIXELS, PHASE, SWAPPED),
    "texture_distance by class": (*PIXELS, NOISE, SWAPPED),
}


# Known damage to radar images, in rising strength: what a measure that claims to see it has to put in order.

WINDOW = 7  # px a side of the mean that stands for the scene when the speckle is exchanged


def blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian filter of ``sigma`` px along both axes, mirrored at the borders: uint8 [N, H, W] -> the same."""
    stack = image_stack(images)
    return _eight_bit(gaussian_filter(stack.astype(np.float32), (0, sigma, sigma), mode="reflect"))


def change_gamma(images: np.ndarray, exponent: float) -> np.ndarray:
    """a -> a^exponent for amplitudes a in [0, 1]: below 1 the shadows are lifted, as a display curve does."""
    levels = np.arange(LEVELS) / (LEVELS - 1)
    return np.rint(levels**exponent * (LEVELS - 1)).astype(np.uint8)[image_stack(images)]


def exchange_speckle(images: np.ndarray, quantile: Callable[[np.ndarray], np.ndarray], share: float = 1.0) -> np.ndarray:
    """Give the speckle another law and leave scene, correlation and order of brightness as they are.

    s = a / (mean over WINDOW x WINDOW px) stands for the speckle of a pixel. Its ranks in the image are kept and their
    values become those of ``quantile`` [probability -> amplitude of mean 1]; with ``share`` below 1, that share of the way.
    """
    stack, found = image_stack(images), []
    grid = (np.arange(stack[0].size) + 0.5) / stack[0].size
    values = np.maximum(quantile(grid), 0.0)
    for image in stack.astype(np.float64):
        scene = np.maximum(uniform_filter(image, WINDOW, mode="reflect"), 1e-6)
        speckle = image / scene
        order = (rankdata(speckle, axis=None) - 0.5) / speckle.size  # equal values, as zeros, keep one rank
        wanted = np.interp(order, grid, values).reshape(speckle.shape)
        found.append(scene * ((1.0 - share) * speckle + share * wanted))
    return _eight_bit(np.stack(found))


def gaussian_law(probability: np.ndarray) -> np.ndarray:
    """Quantiles [N] at ``probability`` [N] of a normal law of mean 1 with the coefficient of variation of single-look amplitude, 0.5227."""
    return norm.ppf(probability, 1.0, RAYLEIGH_CV)


def multilook_law(enl: float) -> Callable[[np.ndarray], np.ndarray]:
    """Probabilities [N] -> quantiles [N] of amplitude, of ``enl`` looks over a flat scene (Nakagami), of mean 1; one look is Rayleigh."""

    def quantile(probability: np.ndarray) -> np.ndarray:
        amplitude = np.sqrt(gamma.ppf(probability, enl))
        return amplitude / amplitude.mean()

    return quantile


def shuffle_patches(images: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """The patches of ``side`` px of each image in random order; a border that holds no whole patch stays. uint8 [N, H, W] -> the same.

    Patches of one pixel leave white noise with the image's own grey values.
    """
    stack = image_stack(images).copy()
    rows, cols = (length // side for length in stack.shape[1:])
    inner = stack[:, : rows * side, : cols * side]
    patches = inner.reshape(len(stack), rows, side, cols, side).swapaxes(2, 3).reshape(len(stack), rows * cols, side, side)
    mixed = np.stack([own[rng.permutation(rows * cols)] for own in patches]).reshape(len(stack), rows, cols, side, side)
    inner[:] = mixed.swapaxes(2, 3).reshape(inner.shape)
    return stack


def randomise_phase(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images of the same mean and amplitude spectrum with random phases: uint8 [N, H, W] -> the same.

    The phases are those of white Gaussian noise, so grey values become nearly Gaussian (Oppenheim and Lim, Proc. IEEE 69
    (1981) 529: what a picture shows lies in its phases). What falls below 0 or above 255 is cut.
    """
    stack = image_stack(images)
    noise = np.fft.rfft2(rng.standard_normal(stack.shape))
    noise[:, 0, 0] = 1.0
    return _eight_bit(np.fft.irfft2(np.abs(np.fft.rfft2(stack)) * noise / np.abs(noise), stack.shape[1:]))


def flip(images: ImageSet, share: float, rng: np.random.Generator) -> ImageSet:
    """Mirror a ``share`` of the images along range; their rows go on saying the side that they had."""
    chosen = _some(len(images), share, rng)
    pixels = images.images.copy()
    pixels[chosen] = pixels[chosen][:, :, ::-1]
    return replace(images, images=pixels)


def swap_classes(images: ImageSet, share: float, rng: np.random.Generator) -> ImageSet:
    """Give a ``share`` of the images of every class the pixels of another class of the same group; labels stay.

    The class that stands in is the next one of the group in order of first appearance, so the pool of pixels stays the
    same as far as classes are equally large.

    Raises
    ------
    InputError
        A group has a single class.
    """
    groups = [row.get("group") or "seen" for row in images.rows]
    source = np.arange(len(images))
    for group in dict.fromkeys(groups):
        own = list(dict.fromkeys(label for label, part in zip(images.labels, groups) if part == group))
        for label, other in zip(own, own[1:] + own[:1]):
            members, others = _of_class(images, label), _of_class(images, other)
            taken = members[_some(len(members), share, rng)]
            source[taken] = rng.permutation(np.resize(others, len(taken)))
    if all(images.labels[index] == label for index, label in zip(source, images.labels)):
        raise InputError("swapped classes: no group of the images has two classes; leave this corruption out.")
    return _showing(images, images, dict(enumerate(source)))


def duplicate(images: ImageSet, share: float, rng: np.random.Generator) -> ImageSet:
    """Replace a ``share`` of every class by copies of its other images: what a generator does that has few pictures.

    Share 0.5 is half of the set duplicated: every image that is left has one copy.
    """
    source = np.arange(len(images))
    for label in dict.fromkeys(images.labels):
        members = rng.permutation(_of_class(images, label))
        count = min(int(round(share * len(members))), len(members) - 1)
        source[members[:count]] = np.resize(members[count:], count)
    return _showing(images, images, dict(enumerate(source)))


def training_copies(train: ImageSet) -> Corruption:
    """A ``share`` of the images becomes training images of the same class, as far as it has any: what memorising does."""

    def copy(images: ImageSet, share: float, rng: np.random.Generator) -> ImageSet:
        source: dict[int, int] = {}
        for label in dict.fromkeys(images.labels):
            members, others = _of_class(images, label), _of_class(train, label)
            taken = members[_some(len(members), share, rng)] if len(others) else members[:0]
            source |= dict(zip(taken, rng.permutation(np.resize(others, len(taken)))))
        return _showing(images, train, source)

    return Corruption(COPIES, (0.25, 0.5, 1.0), "share of the images", copy)


@dataclass(frozen=True)
class Corruption:
    """One kind of damage. ``strengths`` rise; ``apply`` takes (images, strength, generator)."""

    name: str
    strengths: tuple[float, ...]
    unit: str
    apply: Callable[[ImageSet, float, np.random.Generator], ImageSet]


def _pixels(change: Callable[[np.ndarray, float], np.ndarray]) -> Callable[[ImageSet, float, np.random.Generator], ImageSet]:
    return lambda images, strength, _: replace(images, images=change(images.images, strength))


def _shuffled(images: ImageSet, side: float, rng: np.random.Generator) -> ImageSet:
    return replace(images, images=shuffle_patches(images.images, int(side), rng))


CORRUPTIONS: dict[str, Corruption] = {
    one.name: one
    for one in (
        Corruption(BLUR, (0.5, 1.0, 2.0), "σ, px", _pixels(blur)),
        Corruption(
            GAUSSIAN,
            (0.5, 1.0),
            "share of the way from the image's own law",
            _pixels(lambda images, share: exchange_speckle(images, gaussian_law, share)),
        ),
        Corruption(
            MULTILOOK, (2.0, 4.0), "looks instead of one", _pixels(lambda images, enl: exchange_speckle(images, multilook_law(enl)))
        ),
        Corruption(GAMMA, (0.9, 0.8, 0.6), "exponent of the amplitude", _pixels(change_gamma)),
        Corruption(NOISE, (1.0,), "px a side of the patches", _shuffled),
        Corruption(PATCHES, (16.0,), "px a side of the patches", _shuffled),
        Corruption(
            PHASE,
            (1.0,),
            "share of the frequencies",
            lambda images, _, rng: replace(images, images=randomise_phase(images.images, rng)),
        ),
        Corruption(FLIPPED, (0.25, 0.5, 1.0), "share of the images", flip),
        Corruption(SWAPPED, (0.25, 0.5, 1.0), "share of the images", swap_classes),
        Corruption(DUPLICATES, (0.5, 0.75), "share of the images that are copies", duplicate),
    )
}
"""By name; the strengths are in the order in which a measure that sees the corruption must rise."""


def _of_class(images: ImageSet, label: str) -> np.ndarray:
    return np.flatnonzero(np.asarray(images.labels, dtype=object) == label)


def _showing(images: ImageSet, other: ImageSet, source: Mapping[int, int]) -> ImageSet:
    """At each place of ``source`` the pixels of that image of ``other`` and the side that it shows; all else is said as before."""
    pixels, rows = images.images.copy(), list(images.rows)
    for place, index in source.items():
        pixels[place] = other.images[index]
        if "look" in rows[place]:
            rows[place] = {**rows[place], "look": other.rows[index].get("look")}
    return replace(images, images=pixels, rows=tuple(rows))


def _some(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(count)[: int(round(share * count))]


def _eight_bit(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, LEVELS - 1).astype(np.uint8)


COLUMNS = ("metric", "corruption", "strength", "value", "error", "best", "worst", "n")
FEW = 64  # damaged images, below which two halves of reference images may differ as much as light damage does
PASSES, FAILS, SEES, BLIND = "passed", "failed", "sees it unclaimed", "blind, as said"


def admission_table(
    images: ImageSet,
    judge: Judge | None = None,
    train: ImageSet | None = None,
    corruptions: Sequence[Corruption] = (),
    cuts: int = 3,
    seed: int = 0,
    per_class: int | None = None,
) -> pd.DataFrame:
    """Every measure at every strength of every corruption.

    Parameters
    ----------
    images : reference images, uint8 [N, H, W] with labels; two or more a class for measures by class.
    judge : SAR-CLIP; without it its measures are left out.
    train : training images, for the check of memorisation.
    corruptions : what to try; all of ``CORRUPTIONS`` by default, and with ``train`` copies of training images.
    cuts, seed : number of random halvings; seed of the halves and of what a corruption draws.
    per_class : use so many images of a class at most, the first ones; None: all.

    Returns
    -------
    Columns ``COLUMNS``, one row a measure, corruption and strength (0: undamaged): mean ``value`` and mean ``error`` over the
    cuts, the ``best`` and ``worst`` error among them, and ``n``, the images in the half that is damaged. A corruption that the
    images do not admit, such as swapped classes where there is one class, has no rows but that of strength 0.

    Raises
    ------
    InputError
        Fewer than one cut, or no class with two images.
    """
    corruptions = corruptions or (*CORRUPTIONS.values(), *([training_copies(train)] if train is not None else []))
    if cuts < 1:
        raise InputError(f"admission: {cuts} cuts; give at least 1.")
    if per_class is not None:
        places = pd.Series(images.labels, dtype=object).groupby(list(images.labels)).cumcount()
        images = images.subset(np.flatnonzero(places < per_class))
    rows: list[tuple] = []
    for cut in range(cuts):
        first, second = halves(images.labels, seed + cut)
        if not len(second):
            raise InputError(f"{images.root}: no class with two images, so there are no two halves; give more images.")
        reference, other = measure(images.subset(first), judge, "reference images"), images.subset(second)
        bench = _Bench(reference, judge, train, None if judge is None else embed_texts(judge, other.captions), {})
        own, clean = _values(reference, reference, judge, train), bench.values(other)
        for kind in corruptions:
            for strength, values in [(0.0, clean), *_damaged(kind, other, bench, seed + cut)]:
                rows += [(name, kind.name, strength, value, _error(name, value, own), len(other)) for name, value in values.items()]
    frame = pd.DataFrame(rows, columns=["metric", "corruption", "strength", "value", "error", "n"])
    parts = frame.groupby(["metric", "corruption", "strength"], sort=False)
    table = parts.agg(value=("value", "mean"), error=("error", "mean"), best=("error", "min"), worst=("error", "max"), n=("n", "min"))
    return table.reset_index()[list(COLUMNS)]


def admission_verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Does each measure see each corruption, and does it claim to? From a table of ``admission_table``.

    Returns
    -------
    Rows (metric, corruption, claimed, monotone, above floor, behind blur, reach, verdict, n). ``behind blur``: behind the mildest
    blur, required of what leaves no scene and where blur was tried, else true. ``reach``: the error at the greatest strength
    less the floor, over the same of the corruption that the measure sees most clearly (1 at most). ``verdict``: PASSES or FAILS
    what is claimed, SEES or BLIND where nothing is.
    """
    rows = []
    for metric, own in table.groupby("metric", sort=False):
        parts = [(kind, part) for kind, part in own.groupby("corruption", sort=False) if len(part) > 1]
        gains = {kind: part["error"].iloc[-1] - part["error"].iloc[0] for kind, part in parts}
        most = max(gains.values(), default=0.0)
        mildest = next((part["worst"].iloc[1] for kind, part in parts if kind == BLUR), -np.inf)
        for kind, part in parts:
            errors, floor = part["error"].to_numpy(), part["worst"].iloc[0]
            monotone = bool((np.diff(errors) >= 0).all())
            above = bool((part["best"].iloc[1:] > floor).all())
            behind = kind not in NO_SCENE or bool((part["best"].iloc[1:] > mildest).all())
            claimed, seen = kind in CLAIMS[metric], monotone and above and behind
            verdict = (PASSES if seen else FAILS) if claimed else (SEES if seen else BLIND)
            reach = gains[kind] / most if most > 0 else 0.0
            rows.append((metric, kind, claimed, monotone, above, behind, reach, verdict, part["n"].iloc[0]))
    columns = ["metric", "corruption", "claimed", "monotone", "above floor", "behind blur", "reach", "verdict", "n"]
    return pd.DataFrame(rows, columns=columns)


def failed_claims(verdicts: pd.DataFrame, metrics: Sequence[str] = KEY_METRICS) -> dict[str, list[str]]:
    """Measure -> corruptions that it claims to see and does not, for those of ``metrics`` that fail any."""
    failed = verdicts[verdicts["verdict"] == FAILS]
    kinds = {name: failed.loc[failed["metric"] == name, "corruption"].tolist() for name in metrics}
    return {name: own for name, own in kinds.items() if own}


def trust_sentences(verdicts: pd.DataFrame, metrics: Sequence[str] = KEY_METRICS) -> list[str]:
    """Which of the key measures failed their admission, that the average rank goes without them, and what speaks for caution."""
    failed, lines = failed_claims(verdicts, metrics), []
    words = "; ".join(f"{name} (does not see {', '.join(kinds)} as it claims)" for name, kinds in failed.items())
    ranked = [name for name in metrics if name not in failed]
    if not failed:
        lines = [f"No claim failed of the key measures {', '.join(metrics)}: all of them are ranked."]
    elif not ranked:
        lines = [f"Every key measure failed a claim: {words}. They are ranked all the same, and that rank carries no weight."]
    else:
        lines = [f"Read with care in the tables, and left out of the average rank: {words}."]
        lines.append(f"Ranked, as far as they can be computed: {', '.join(ranked)}.")
    if failed and verdicts["n"].min() < FEW:
        lines.append(
            f"Only {verdicts['n'].min()} images were damaged: two halves of so few reference images differ as much as light damage "
            "does, so that a failure says more of this set than of the measure."
        )
    return lines


@dataclass(frozen=True)
class _Bench:
    """The reference of one cut, and the statistics of every image measured before: many damaged sets share images."""

    reference: ImageStatistics
    judge: Judge | None
    train: ImageSet | None
    caption_features: np.ndarray | None  # of the damaged half; its captions stay
    known: dict[bytes, ImageStatistics]

    def values(self, images: ImageSet) -> dict[str, float]:
        """Measure -> value of a set against the reference."""
        keys = [image.tobytes() for image in images.images]
        fresh = [keys.index(key) for key in dict.fromkeys(keys) if key not in self.known]
        if fresh:
            measured = measure(images.subset(fresh), self.judge, minimum=1)
            self.known.update((keys[index], measured.subset([place])) for place, index in enumerate(fresh))
        sides = tuple(row.get("look") if row.get("look") in ("left", "right") else None for row in images.rows)
        groups = tuple(row.get("group") or "seen" for row in images.rows)
        described = {"labels": images.labels, "groups": groups, "captions": images.captions, "looks": sides}
        fake = replace(join(self.known[key] for key in keys), **described, caption_features=self.caption_features)
        return _values(self.reference, fake, self.judge, self.train)


def _damaged(kind: Corruption, images: ImageSet, bench: _Bench, seed: int) -> list[tuple[float, dict[str, float]]]:
    """(strength, values) for every strength; nothing where the images do not admit the corruption."""
    try:
        damaged = [(strength, kind.apply(images, strength, np.random.default_rng(seed))) for strength in kind.strengths]
    except InputError:
        return []
    return [(strength, bench.values(part)) for strength, part in damaged]


def _values(real: ImageStatistics, fake: ImageStatistics, judge: Judge | None, train: ImageSet | None) -> dict[str, float]:
    """Measure -> value over all classes; "NAME by class": the mean over the classes' own values."""
    table = evaluate("", 0, real, fake, judge, 0, 0, train)
    pooled = table[(table["split"] == "pooled") & (table["class"] == "all")].set_index("metric")["value"]
    by_class = table[table["class"] != "all"].groupby("metric")["value"].mean()
    single = {name: float(by_class[own]) for name in BY_CLASS if (own := name.removesuffix(" by class")) in by_class.index}
    return {name: float(pooled[name]) for name in METRICS if name in pooled.index} | single


def _error(name: str, value: float, reference: dict[str, float]) -> float:
    better = METRICS[name.removesuffix(" by class")].better
    if better == "match":
        return abs(value - reference[name])
    return value if better == "lower" else -value
