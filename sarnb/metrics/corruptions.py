"""Known damage to real radar images, in rising strength: what a measure that claims to see it has to put in order.

Every corruption takes an image set, a strength and a generator, and leaves size, number and rows' order as they are.
Method: this project's own; each function says what it does to the pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.stats import gamma, norm, rankdata

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics.amplitude import LEVELS
from sarnb.metrics.checks import image_stack
from sarnb.metrics.claims import BLUR, COPIES, DUPLICATES, FLIPPED, GAMMA, GAUSSIAN, LOOKS, SWAPPED
from sarnb.metrics.describe import RAYLEIGH_CV

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
    """Quantiles of a normal law with the mean 1 and the coefficient of variation 0.5227 of single-look amplitude."""
    return norm.ppf(probability, 1.0, RAYLEIGH_CV)


def look_law(looks: float) -> Callable[[np.ndarray], np.ndarray]:
    """Quantiles of the amplitude of ``looks`` looks over a flat scene (Nakagami), of mean 1; one look is Rayleigh."""

    def quantile(probability: np.ndarray) -> np.ndarray:
        amplitude = np.sqrt(gamma.ppf(probability, looks))
        return amplitude / amplitude.mean()

    return quantile


def flip(images: ImageSet, share: float, rng: np.random.Generator) -> ImageSet:
    """Mirror a ``share`` of the images along range; their rows go on saying the side that they had."""
    chosen = _some(len(images), share, rng)
    pixels = images.images.copy()
    pixels[chosen] = pixels[chosen][:, :, ::-1]
    return replace(images, images=pixels)


def swap_classes(images: ImageSet, share: float, rng: np.random.Generator) -> ImageSet:
    """Give a ``share`` of the images of every class the pixels of another class of the same group; labels stay.

    The class that stands in is the next one of the group in order of first appearance, so the pool of pixels stays the
    same as far as classes are equally large. Raises InputError where a group has a single class.
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
    return _redrawn(images, source)


def duplicate(images: ImageSet, share: float, rng: np.random.Generator) -> ImageSet:
    """Replace a ``share`` of every class by copies of its other images: what a generator does that has few pictures.

    Share 0.5 is half of the set duplicated: every image that is left has one copy.
    """
    source = np.arange(len(images))
    for label in dict.fromkeys(images.labels):
        members = rng.permutation(_of_class(images, label))
        count = min(int(round(share * len(members))), len(members) - 1)
        source[members[:count]] = np.resize(members[count:], count)
    return _redrawn(images, source)


def training_copies(train: ImageSet) -> Corruption:
    """A ``share`` of the images becomes training images of the same class, as far as it has any: what memorising does."""

    def copy(images: ImageSet, share: float, rng: np.random.Generator) -> ImageSet:
        pixels, rows = images.images.copy(), list(images.rows)
        for label in dict.fromkeys(images.labels):
            members, others = _of_class(images, label), _of_class(train, label)
            taken = members[_some(len(members), share, rng)] if len(others) else members[:0]
            for place, source in zip(taken, rng.permutation(np.resize(others, len(taken)))):
                pixels[place] = train.images[source]
                rows[place] = _with_side(rows[place], train.rows[source])
        return replace(images, images=pixels, rows=tuple(rows))

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


CORRUPTIONS: dict[str, Corruption] = {
    one.name: one
    for one in (
        Corruption(BLUR, (0.5, 1.0, 2.0), "σ, px", _pixels(blur)),
        Corruption(GAUSSIAN, (0.5, 1.0), "share of the way from the image's own law",
                   _pixels(lambda images, share: exchange_speckle(images, gaussian_law, share))),
        Corruption(LOOKS, (2.0, 4.0), "looks instead of one",
                   _pixels(lambda images, looks: exchange_speckle(images, look_law(looks)))),
        Corruption(GAMMA, (0.9, 0.8, 0.6), "exponent of the amplitude", _pixels(change_gamma)),
        Corruption(FLIPPED, (0.25, 0.5, 1.0), "share of the images", flip),
        Corruption(SWAPPED, (0.25, 0.5, 1.0), "share of the images", swap_classes),
        Corruption(DUPLICATES, (0.5, 0.75), "share of the images that are copies", duplicate),
    )
}
"""By name; the strengths are in the order in which a measure that sees the corruption must rise."""


def find_corruption(name: str) -> Corruption:
    """The corruption called ``name``; InputError when there is none."""
    if name not in CORRUPTIONS:
        raise InputError(f"corruption {name!r} is unknown; use one of {', '.join(CORRUPTIONS)}.")
    return CORRUPTIONS[name]


def _of_class(images: ImageSet, label: str) -> np.ndarray:
    return np.flatnonzero(np.asarray(images.labels, dtype=object) == label)


def _redrawn(images: ImageSet, source: np.ndarray) -> ImageSet:
    """The pixels of ``source`` [N] with the side that they show; all else is said of them as before."""
    rows = tuple(_with_side(row, images.rows[index]) for row, index in zip(images.rows, source))
    return replace(images, images=images.images[source], rows=rows)


def _with_side(row: dict, shown: dict) -> dict:
    return {**row, "look": shown.get("look")} if "look" in row else row


def _some(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(count)[: int(round(share * count))]


def _eight_bit(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, LEVELS - 1).astype(np.uint8)
