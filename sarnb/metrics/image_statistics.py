"""Everything the evaluation needs to know about an image set, computed once: one row of statistics per image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics import image_stack
from sarnb.metrics.amplitude import histogram, local_enl
from sarnb.metrics.distribution import grain, thumbnails
from sarnb.metrics.geometry import side_features
from sarnb.metrics.semantic import Judge, embed_images, embed_texts
from sarnb.metrics.texture import glcm_descriptors

LEAST_SIZE = 32  # px a side


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of N images.

    Attributes
    ----------
    size : (H, W) in px.
    labels, groups, captions, looks : length N; a group is seen, unseen or composition, a look left, right or None.
    histograms : int64 [N, 256]; descriptors : GLCM, float64 [N, 48]; enl : float64 [N].
    side_features : float64 [N, 108]; thumbnails, grain : float64 [N, K²], of K = 32 (thumbnails of less than 64 px: half their side).
    features, caption_features : of the judge, float64 [N, D]; None without a judge.
    decoded_side : ``side_features`` of the same images through a decoder, float64 [N, 108]; the reader of the side learns from both.
    """

    size: tuple[int, int]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    captions: tuple[str, ...]
    looks: tuple[str | None, ...]
    histograms: np.ndarray
    descriptors: np.ndarray
    enl: np.ndarray
    side_features: np.ndarray
    thumbnails: np.ndarray
    grain: np.ndarray
    features: np.ndarray | None = None
    caption_features: np.ndarray | None = None
    decoded_side: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len({len(self.labels), len(self.groups), len(self.histograms), len(self.descriptors)}) != 1:
            raise InputError("image statistics: labels and statistics differ in length; measure the set again.")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageStatistics:
        """The images at ``indices`` int [K], in that order."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        for name, values in columns.items():
            if isinstance(values, tuple):
                columns[name] = tuple(values[index] for index in indices)
            elif values is not None:
                columns[name] = values[np.asarray(indices, dtype=int)]
        return ImageStatistics(self.size, **columns)


class Prints(NamedTuple):
    """What the search for memorised images needs of the training images; see ``distribution``."""

    thumbnails: np.ndarray
    grain: np.ndarray


def prints(images: ImageSet | ImageStatistics | Prints) -> Prints:
    """The thumbnails and the grain of training images; taken once, they serve many evaluations."""
    if isinstance(images, ImageSet):
        return Prints(thumbnails(images.images), grain(images.images))
    return Prints(images.thumbnails, images.grain)


def measure(images: ImageSet | ImageStatistics, judge: Judge | None = None, name: str = "images", minimum: int = 2) -> ImageStatistics:
    """Compute the statistics of an image set; those of one that is measured already are returned as they are.

    Parameters
    ----------
    images : uint8 images [N, H, W] with labels, captions and rows; a row may have ``group`` and ``look``.
    judge : SAR-CLIP; without it the measures of meaning and distribution are left out.
    name : what messages call the set.
    minimum : least number of images; 1 for a part of a larger set.

    Raises
    ------
    InputError
        Fewer images, or images smaller than 32 px.
    """
    if isinstance(images, ImageStatistics):
        return images
    stack = image_stack(images.images, name, minimum)
    if min(stack.shape[1:]) < LEAST_SIZE:
        raise InputError(f"{name}: {stack.shape[1]}x{stack.shape[2]} px, at least 32x32 needed; give larger images.")
    return ImageStatistics(
        size=stack.shape[1:],
        labels=tuple(images.labels),
        groups=tuple(row.get("group") or "seen" for row in images.rows),
        captions=tuple(images.captions),
        looks=tuple(row.get("look") if row.get("look") in ("left", "right") else None for row in images.rows),
        histograms=histogram(stack),
        descriptors=glcm_descriptors(stack),
        enl=local_enl(stack),
        side_features=side_features(stack),
        thumbnails=thumbnails(stack),
        grain=grain(stack),
        features=None if judge is None else embed_images(judge, stack),
        caption_features=None if judge is None else embed_texts(judge, images.captions),
    )


def join(parts: Iterable[ImageStatistics]) -> ImageStatistics:
    """The images of several parts, in order, as one set.

    Raises
    ------
    InputError
        No part, parts of different sizes, or features of some parts only.
    """
    parts = list(parts)
    if not parts or len({part.size for part in parts}) > 1 or len({part.features is None for part in parts}) > 1:
        raise InputError("image statistics: parts of one size, all with or all without a judge, are needed to join them.")
    columns = {}
    for name in (field.name for field in fields(ImageStatistics)[1:]):
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], tuple):
            columns[name] = sum(values, ())
        elif all(value is not None for value in values):
            columns[name] = np.concatenate(values)
    return ImageStatistics(parts[0].size, **columns)
