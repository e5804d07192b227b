"""Does synthetic data help a classifier that has few reference images? What radar lets one augment, how sets are mixed, the classifier.

A classifier that is trained on synthetic images and tested on others measures what they teach (Ravuri and Vinyals, NeurIPS 2019).
The network is small on purpose: it has to be trained from nothing hundreds of times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from scipy.ndimage import uniform_filter
from torch import Tensor, nn
from torch.nn import functional as F

from sarnb.data.dataset import ImageSet, some_per_label
from sarnb.data.files import content_key, kept, ordered_map
from sarnb.errors import InputError
from sarnb.metrics import image_stack
from sarnb.metrics.conditioning import iou_table
from sarnb.metrics.significance import ALPHA, UNDECIDED, holm
from sarnb.world.backscatter import COVERS
from sarnb.world.speckle import circular_gaussian, impulse_response

CELLS = 32  # along each side of what the classifier sees
FLOOR = 1e-3  # intensity added before the logarithm: a black cell is no outlier
WIDTHS = (16, 32, 64)  # channels of the classifier's levels; this project's choice
RATE, DECAY = 1e-2, 1e-2  # learning rate at the first step, and weight decay; this project's choice
BATCH, COVER_BATCH = 32, 16  # images a step of the classifier and of the segmenter; this project's choice
Reader = Callable[[np.ndarray], np.ndarray]  # uint8 images [N, H, W] -> what is read off them
WEIGHTS = "covers.safetensors"  # of a reader of land cover that is kept
WINDOW = 7  # px a side of the mean that stands for the scene when the speckle is drawn again


def flip_azimuth(images: np.ndarray, axis: int = 1) -> np.ndarray:
    """Images [N, H, W] mirrored along azimuth, their rows (``axis`` 1), or their columns (2) where range lies along the rows.

    Range keeps its direction: layover goes on leaning to the radar and shadows go on falling away from it. Mirrored along
    range, an image shows what another radar sees, from the other side.
    """
    return np.flip(images, axis)


def redraw_speckle(
    images: np.ndarray, ratios: tuple[float, float], looks: int, rng: np.random.Generator, window: str = "taylor"
) -> np.ndarray:
    """Images with new speckle where there is nothing but speckle and texture, and as they are elsewhere: uint8 [N, H, W] -> the same.

    m and C are mean and coefficient of variation of the intensity over WINDOW x WINDOW px. Where C^2 < 2 / looks, which is where
    the filter of Lee (IEEE T-PAMI 2, 1980) trusts the mean more than the pixel, the intensity becomes m s with speckle s of mean 1
    that the sensor's impulse response correlates. Edges, points and walls lie above and stay.

    Parameters
    ----------
    ratios : resolution (-3 dB width) over pixel spacing in range (columns) and azimuth (rows).
    looks : looks that the sensor averages in intensity.
    rng : draws the speckle.
    window : spectral window of the radar.
    """
    stack, found = image_stack(images), []
    for image in (stack / 255.0) ** 2:
        mean = np.maximum(uniform_filter(image, WINDOW, mode="reflect"), 1e-9)
        variance = uniform_filter(image**2, WINDOW, mode="reflect") - mean**2
        fields = (impulse_response(circular_gaussian(image.shape, rng), ratios, window) for _ in range(looks))
        speckle = sum(field.real**2 + field.imag**2 for field in fields) / looks
        found.append(np.where(variance < 2 / looks * mean**2, mean * speckle, image))
    return np.rint(np.clip(np.sqrt(np.stack(found)), 0, 1) * 255).astype(np.uint8)


def few_shot(images: ImageSet, classes: Sequence[str], count: int, seed: int) -> ImageSet:
    """``count`` images of each of the ``classes``, drawn by ``seed``; a smaller count gives a part of them.

    Raises
    ------
    InputError
        A class has fewer images.
    """
    for label in classes:
        if (held := images.labels.count(label)) < count:
            raise InputError(f"{images.root}: shows {held} images of the class {label!r}, {count} are requested; lower AUGMENT_SHOTS")
    return some_per_label(images.where(label=tuple(classes)), count, seed)


@dataclass(frozen=True)
class Mixture:
    """What a classifier trains on: images uint8 [N, H, W], their classes int [N], and the chance [N] of each to be drawn, sum 1."""

    images: np.ndarray
    truth: np.ndarray
    chance: np.ndarray


def mix(own: ImageSet, synthetic: Sequence[ImageSet], share: float, classes: Sequence[str]) -> Mixture:
    """Own and synthetic images in one training set, in which a ``share`` of the images drawn for a batch is synthetic.

    Every class is drawn as often as any other, and of a class every own image as often as any other own one, every synthetic
    image as often as any other synthetic one. A class that has no synthetic image is drawn from its own images alone.

    Parameters
    ----------
    own : images of every class.
    synthetic : sets that are put together; images of other classes are not used. None = own images alone.
    share : in [0, 1].
    classes : their order gives the numbers of ``Mixture.truth``.

    Raises
    ------
    InputError
        A share out of range, a class without an own image, or synthetic images of none of the classes.
    """
    if not 0 <= share <= 1:
        raise InputError(f"the share of synthetic images is {share}; give a number from 0 to 1")
    if lost := [label for label in classes if label not in own.labels]:
        raise InputError(f"{own.root}: has no image of the class {lost[0]!r}; give some, or leave the class out")
    sets = [own, *synthetic]
    labels = np.concatenate([np.asarray(part.labels, dtype=object) for part in sets])
    images = np.concatenate([part.images for part in sets])
    drawn = np.arange(len(labels)) >= len(own)
    chance = np.zeros(len(labels))
    for label in classes:
        known, made = (labels == label) & ~drawn, (labels == label) & drawn
        part = share if made.any() else 0.0
        chance[known] = (1 - part) / known.sum()
        chance[made] = part / max(1, made.sum())
    if synthetic and share and not chance[drawn].any():
        wanted = ", ".join(classes)
        raise InputError(f"{synthetic[0].root}: shows none of the classes {wanted}; give synthetic images of them")
    used = np.isin(labels, list(classes))
    truth = np.array([list(classes).index(label) for label in labels[used]])
    return Mixture(images[used], truth, chance[used] / len(classes))


def cell_features(images: np.ndarray) -> Tensor:
    """What the classifier sees of uint8 images [N, H, W]: float32 [N, 2, CELLS, CELLS].

    ln of the mean intensity of a cell, which is multi-looked by as many pixels as it has, and the coefficient of variation
    of the intensity in it, which holds speckle, texture and points.

    Raises
    ------
    InputError
        Images of fewer than two pixels a side of a cell.
    """
    stack = image_stack(images)
    rows, cols = (length // CELLS for length in stack.shape[1:])
    if min(rows, cols) < 2:
        raise InputError(f"classifier: images of {stack.shape[1]}x{stack.shape[2]} px; give at least {2 * CELLS} px a side")
    power = (stack[:, : rows * CELLS, : cols * CELLS].astype(np.float32) / 255) ** 2
    cells = power.reshape(len(stack), CELLS, rows, CELLS, cols)
    mean = cells.mean((2, 4)) + np.float32(FLOOR)
    return torch.from_numpy(np.stack([np.log(mean), cells.std((2, 4)) / mean], axis=1))


class SceneNet(nn.Module):
    """A small convolutional classifier: features [N, 2, CELLS, CELLS] -> logits [N, K]; means and maxima are pooled."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        levels = zip((2, *WIDTHS), WIDTHS)
        self.body = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.GroupNorm(4, o), nn.SiLU()) for i, o in levels)
        )
        self.head = nn.Linear(2 * WIDTHS[-1], classes)

    def pooled(self, features: Tensor) -> Tensor:
        """What the linear head reads: [N, 2 WIDTHS[-1]]."""
        maps = self.body(features)
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [N, K] of features [N, 2, CELLS, CELLS]."""
        return self.head(self.pooled(features))


def scene_net(classes: int, seed: int) -> SceneNet:
    """A classifier whose first weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SceneNet(classes)


def train_classifier(mixture: Mixture, seed: int, steps: int, held_out: np.ndarray, classes: int) -> np.ndarray:
    """The class int [M] that a classifier calls each of the ``held_out`` images uint8 [M, H, W], trained on a mixture; see ``_fit``."""
    with _one_thread():
        return _fit(scene_net(classes, seed), mixture.images, torch.from_numpy(mixture.truth), seed, steps, mixture.chance).call(held_out)


class CoverNet(nn.Module):
    """A small segmenter that sees what the classifier sees: [N, 2, CELLS, CELLS] -> logits [N, covers, CELLS, CELLS].

    Its residual layers look ever further apart, up to 8 cells, for a cell of one look says little by itself.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, width, 3, padding=1)
        apart = (nn.Conv2d(width, width, 3, padding=cells, dilation=cells) for cells in (1, 2, 4, 8, 1))
        self.body = nn.ModuleList(nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), layer) for layer in apart)
        self.head = nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, len(COVERS), 1))

    def forward(self, features: Tensor) -> Tensor:
        """Logits of the land covers [N, K, h, w] of features [N, C, h, w]."""
        inside = self.first(features)
        for layer in self.body:
            inside = inside + layer(inside)
        return self.head(inside)


def train_covers(
    images: np.ndarray, maps: np.ndarray, seed: int, steps: int, chance: np.ndarray | None = None, place: Path | None = None
) -> Reader:
    """A reader of land cover, images uint8 [N, H, W] -> codes uint8 [N, H, W], one a cell; trained on images and their maps.

    A cell's truth is the cover that most of it has. A cover weighs by the root of its rarity, or rare ones would never be read.
    In the folder ``place`` it is kept, and what is there already, of the same images and settings, is read back.
    """
    side = np.array(maps.shape[1:]) // CELLS

    def make() -> Fitted:
        shares = np.stack([maps.reshape(len(maps), CELLS, side[0], CELLS, side[1]) == code for code in range(len(COVERS))]).mean((3, 5))
        truth = torch.from_numpy(shares.argmax(0))
        often = torch.bincount(truth.ravel(), minlength=len(COVERS)) / truth.numel()
        weight = torch.where(often > 0, often.clamp(min=1e-4).rsqrt(), 0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _fit(CoverNet(), images, truth, seed, steps, chance, COVER_BATCH, weight / (weight * often).sum())

    def save() -> dict[str, str]:
        made = make()
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"mean": made.mean, "spread": made.spread} | made.net.state_dict(), folder / WEIGHTS)
        return {}

    def load(_: dict[str, Any]) -> Fitted:
        net, tensors = CoverNet(), load_file(folder / WEIGHTS)
        mean, spread = tensors.pop("mean"), tensors.pop("spread")
        net.load_state_dict(tensors)
        return Fitted(net, mean, spread)

    with _one_thread():
        if place is None:
            fitted = make()
        else:
            folder, given = Path(place), content_key(images, maps, np.array([] if chance is None else chance))
            fitted = kept(folder, {"pairs": given, "seed": seed, "steps": steps}, save, load)

    def reader(grey: np.ndarray) -> np.ndarray:
        with _one_thread():
            parts = [fitted.call(grey[start : start + 64]) for start in range(0, len(grey), 64)]
        return np.kron(np.concatenate(parts), np.ones((1, *side))).astype(np.uint8)

    return reader


@contextmanager
def _one_thread() -> Iterator[None]:
    """On one thread inside the block, so that the outcome does not depend on the machine's others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Fitted:
    """A trained network, and the mean and spread by which its features are standardised, [1, 2, 1, 1] each."""

    net: nn.Module
    mean: Tensor
    spread: Tensor

    @torch.no_grad()
    def call(self, images: np.ndarray) -> np.ndarray:
        """What it calls images uint8 [N, H, W]: int [N, ...]."""
        return self.net((cell_features(images) - self.mean) / self.spread).argmax(1).numpy()


def _fit(
    net: nn.Module,
    images: np.ndarray,
    truth: Tensor,
    seed: int,
    steps: int,
    chance: np.ndarray | None = None,
    count: int = BATCH,
    weight: Tensor | None = None,
) -> Fitted:
    """``net`` after ``steps`` of AdamW on the mean cross-entropy of ``count`` images.

    Features are standardised by mean and deviation of the images with a ``chance``; the rate falls linearly to 0.
    """
    known = cell_features(images)
    used = known if chance is None else known[chance > 0]
    mean, spread = used.mean((0, 2, 3), keepdim=True), used.std((0, 2, 3), keepdim=True) + 1e-6
    known = (known - mean) / spread
    batches = np.random.default_rng(seed).choice(len(known), (steps, count), p=chance)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    for step, batch in enumerate(torch.from_numpy(batches)):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        loss = F.cross_entropy(net(known[batch]), truth[batch], weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Fitted(net, mean, spread)


def seed_recalls(
    pool: ImageSet,
    held_out: ImageSet,
    classes: Sequence[str],
    count: int,
    seeds: Sequence[int],
    steps: int,
    synthetic: Sequence[ImageSet] = (),
    share: float = 0.0,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    workers: int = 1,
    covers: bool = False,
) -> np.ndarray:
    """Recall of each class by a classifier a seed, [seeds, K]: few images drawn, augmented, mixed with synthetic ones, trained, tested.

    The seed chooses the few images, the first weights and the batches; two calls that differ in the synthetic images alone can be
    compared seed by seed. In ``workers`` processes of one thread each; where there is a graphics card, in this process, because
    torch forbids to go on training in a copy of one that has used it.

    Parameters
    ----------
    pool : reference images, of which each classifier has ``count`` a class.
    held_out : the images it is tested on; those of other classes are not used.
    synthetic, share : see ``mix``.
    augment : images [N, H, W] -> a multiple of them [k N, H, W], the same classes in turn, as ``copies`` does it.
    covers : a segmenter reads land cover instead, off all sets' maps, and what is returned is the IoU of each cover, [seeds, covers].
    """
    tested = held_out.where(label=tuple(classes))
    truth = np.array([list(classes).index(label) for label in tested.labels])
    jobs = [(few_shot(pool, classes, count, seed), seed) for seed in seeds]
    made = [part.where(label=tuple(classes)) for part in synthetic]
    work = partial(_call, synthetic=made, share=share, augment=augment, classes=classes, steps=steps, held_out=tested.images, covers=covers)
    guesses = ordered_map(work, jobs, 1 if torch.cuda.is_available() else workers)
    if covers:
        maps = tested.masks()
        return np.stack([iou_table(maps, guess)["iou"] for guess in guesses])
    return np.stack([recalls(truth, guess, len(classes)) for guess in guesses])


def _call(
    job: tuple[ImageSet, int],
    synthetic: Sequence[ImageSet],
    share: float,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None,
    classes: Sequence[str],
    steps: int,
    held_out: np.ndarray,
    covers: bool,
) -> np.ndarray:
    """What one classifier calls the held-out images: the part of ``seed_recalls`` that a worker does."""
    own, seed = job
    maps = [part.masks() for part in (own, *synthetic)] if covers else []
    if augment:
        images = augment(own.images, np.random.default_rng((seed, 1)))
        if covers:  # ``copies`` flips every other copy
            maps[0] = np.concatenate([copies(maps[0], np.random.default_rng())] * (len(images) // len(own) // 2))
        own = replace(own.subset(np.arange(len(images)) % len(own)), images=images)
    mixture = mix(own, synthetic, share, classes)
    if covers:
        return train_covers(mixture.images, np.concatenate(maps), seed, steps, mixture.chance)(held_out)
    return train_classifier(mixture, seed, steps, held_out, len(classes))


def copies(
    images: np.ndarray, rng: np.random.Generator, ratios: tuple[float, float] | None = None, looks: int = 1, axis: int = 1
) -> np.ndarray:
    """Images [N, H, W], then their azimuth flips; with ``ratios`` also both with new speckle: [2 N, H, W] or [4 N, H, W]."""
    several = [images] if ratios is None else [images, redraw_speckle(images, ratios, looks, rng)]
    return np.concatenate([turned for part in several for turned in (part, flip_azimuth(part, axis))])


def recalls(truth: np.ndarray, guess: np.ndarray, classes: int) -> np.ndarray:
    """Share of the images of each class that are called rightly [K]; their mean is the balanced accuracy. NaN without an image.

    >>> recalls(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 2).tolist()
    [0.5, 1.0]
    """
    count = np.bincount(truth, minlength=classes)
    right = np.bincount(truth[truth == guess], minlength=classes)
    return np.divide(right, count, out=np.full(classes, np.nan), where=count > 0)


def gain_table(found: Mapping[tuple[int, str], np.ndarray], alone: str) -> pd.DataFrame:
    """Balanced accuracy over seeds, and what it gains on that of reference images alone, with 95 % t intervals.

    The gain is that of a seed's two classifiers, which share their few images, first weights and batch seed; its p is that of
    the paired t test, corrected by Holm over what is compared at one number of images.

    Parameters
    ----------
    found : (reference images a class, what the classifiers train on) -> recalls [seeds, K]; at least two seeds.
    alone : the name with which all are compared.

    Returns
    -------
    columns shots, images, value, lo, hi, gain, gain lo, gain hi, p_holm, verdict ("helps", "hurts", "not distinguished"; empty for
    ``alone``).
    """
    rows = []
    for (shots, name), own in found.items():
        value, lo, hi, _ = _t_interval(own.mean(1))
        gain = _t_interval(own.mean(1) - found[shots, alone].mean(1))
        rows.append((shots, name, value, lo, hi, *(gain if name != alone else [np.nan] * 4)))
    table = pd.DataFrame(rows, columns=["shots", "images", "value", "lo", "hi", "gain", "gain lo", "gain hi", "p_holm"])
    others = table["images"] != alone
    table.loc[others, "p_holm"] = table[others].groupby("shots")["p_holm"].transform(lambda p: holm(p.to_numpy()))
    effect = np.where(table["gain"] > 0, "helps", "hurts")
    table["verdict"] = np.where(others, np.where(table["p_holm"] < ALPHA, effect, UNDECIDED), "")
    return table


def _t_interval(values: np.ndarray) -> tuple[float, float, float, float]:
    """Mean of ``values`` [n], its 95 % t interval, and p of the mean being 0."""
    if len(values) < 2:
        raise InputError(f"classifiers of {len(values)} seed(s) give no interval; give AUGMENT_SEEDS at least two")
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, len(values) - 1)) if error > 0 else float(mean == 0)
    return mean, mean - half, mean + half, p
