"""Everything the evaluation needs to know about an image set, computed once: one row of statistics per image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics import image_stack
from sarnb.metrics.amplitude import histogram, local_looks
from sarnb.metrics.distribution import thumbnails
from sarnb.metrics.geometry import side_features
from sarnb.metrics.semantic import Judge, embed_images, embed_texts
from sarnb.metrics.texture import glcm_descriptors

COMPOSITION = "composition"


@dataclass(frozen=True)
class ImageStatistics:
    """Per-image statistics of N images.

    `size` (H, W) px; `labels`, `groups` (seen, unseen, composition), `captions`, `looks` (left, right or None): length N;
    `histograms` [N, 256]; `descriptors` [N, 48]; `enl` [N] looks; `side_features` [N, 108]; `thumbnails` [N, T];
    `features` and `caption_features` [N, D] of the judge, None without a judge.
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
    features: np.ndarray | None = None
    caption_features: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len({len(self.labels), len(self.groups), len(self.histograms), len(self.descriptors)}) != 1:
            raise InputError("measured image set: labels and statistics differ in length; measure the set again.")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageStatistics:
        """The images at ``indices``, in that order."""
        chosen = np.asarray(indices, dtype=int)
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "size"}
        return ImageStatistics(self.size, **{name: _take(value, chosen) for name, value in values.items()})


def measure(images: ImageSet, judge: Judge | None = None, name: str = "images", minimum: int = 2) -> ImageStatistics:
    """Compute the statistics of an image set.

    Args:
        images: uint8 images [N, H, W] with labels, captions and rows; a row may tell `group` and `look`.
        judge: SAR-CLIP; without it the measures of meaning and distribution are left out.
        name: what messages call the set. minimum: least number of images; 1 for a part of a larger set.

    Raises:
        InputError: fewer images, or images smaller than 32 px.
    """
    stack = image_stack(images.images, name, minimum)
    if min(stack.shape[1:]) < 32:
        raise InputError(f"{name}: {stack.shape[1]}x{stack.shape[2]} px, at least 32x32 needed; give larger images.")
    return ImageStatistics(
        size=stack.shape[1:],
        labels=tuple(images.labels),
        groups=tuple(row.get("group") or "seen" for row in images.rows),
        captions=tuple(images.captions),
        looks=tuple(_side(row.get("look")) for row in images.rows),
        histograms=histogram(stack),
        descriptors=glcm_descriptors(stack),
        enl=local_looks(stack),
        side_features=side_features(stack),
        thumbnails=thumbnails(stack),
        features=None if judge is None else embed_images(judge, stack),
        caption_features=None if judge is None else embed_texts(judge, images.captions),
    )


def _side(look: object) -> str | None:
    return look if look in ("left", "right") else None


def join(parts: Iterable[ImageStatistics]) -> ImageStatistics:
    """The images of several parts, in order, as one set. Raises InputError for none, different sizes, or features of some."""
    parts = list(parts)
    if not parts or len({part.size for part in parts}) > 1 or len({part.features is None for part in parts}) > 1:
        raise InputError("measured image set: parts of one size, all with or all without a judge, are needed to join them.")
    columns = {}
    for field in fields(ImageStatistics):
        if field.name != "size":
            columns[field.name] = _joined([getattr(part, field.name) for part in parts])
    return ImageStatistics(parts[0].size, **columns)


def _joined(values: list) -> tuple | np.ndarray | None:
    if values[0] is None:
        return None
    return sum(values, ()) if isinstance(values[0], tuple) else np.concatenate(values)


def _take(values: tuple | np.ndarray | None, chosen: np.ndarray) -> tuple | np.ndarray | None:
    if values is None:
        return None
    return tuple(values[index] for index in chosen) if isinstance(values, tuple) else values[chosen]
