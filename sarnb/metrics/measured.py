"""Everything the evaluation needs to know about an image set, computed once: one row of statistics per image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics.amplitude import histogram, local_looks
from sarnb.metrics.checks import image_stack
from sarnb.metrics.distribution import thumbnails
from sarnb.metrics.geometry import side_features
from sarnb.metrics.semantic import Judge, embed_images, embed_texts
from sarnb.metrics.texture import glcm_descriptors

COMPOSITION = "composition"


@dataclass(frozen=True)
class Measured:
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


def measure(images: ImageSet, judge: Judge | None = None, name: str = "images") -> Measured:
    """Compute the statistics of an image set.

    Args:
        images: uint8 images [N, H, W] with labels, captions and rows; a row may tell `group` and `look`.
        judge: SAR-CLIP; without it the measures of meaning and distribution are left out.
        name: what messages call the set.

    Raises:
        InputError: fewer than two images, or images smaller than 32 px.
    """
    stack = image_stack(images.images, name, minimum=2)
    if min(stack.shape[1:]) < 32:
        raise InputError(f"{name}: {stack.shape[1]}x{stack.shape[2]} px, at least 32x32 needed; give larger images.")
    return Measured(
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
