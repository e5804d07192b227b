"""Does the image show what its prompt asks for? Judged by SAR-CLIP, a text-image encoder trained on reference images.

The judge is any object with ``embed_images(uint8 [N, H, W]) -> [N, D]`` and ``embed_texts(list[str]) -> [N, D]``, both of
unit length. It is never the model that generated the images. Radford et al., ICML 2021 (CLIP).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd
import torch

from sarnb.errors import InputError
from sarnb.metrics import image_stack

GALLERY = 10  # captions a retrieval chooses from


class Judge(Protocol):
    """What the measures ask of SAR-CLIP."""

    def embed_images(self, images: np.ndarray) -> torch.Tensor: ...

    def embed_texts(self, texts: list[str]) -> torch.Tensor: ...


def embed_images(judge: Judge, images: np.ndarray) -> np.ndarray:
    """Unit feature vectors of uint8 [N, H, W] by the judge: float64 [N, D], without gradients."""
    with torch.inference_mode():
        return _unit(judge.embed_images(image_stack(images)))


def embed_texts(judge: Judge, texts: Sequence[str]) -> np.ndarray:
    """Unit feature vectors of texts by the judge: float64 [N, D]; a learned token "<SAR>" is read as the word SAR."""
    distinct, place = np.unique([re.sub(r"<([^<>]+)>", r"\1", text) for text in texts], return_inverse=True)
    with torch.inference_mode():
        return _unit(judge.embed_texts(distinct.tolist()))[place]


def _unit(features: torch.Tensor) -> np.ndarray:
    array = torch.as_tensor(features).detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(array).all():
        raise InputError("judge: its features are NaN or infinite; train it again or load other weights.")
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)


def zero_shot(image_features: np.ndarray, prompt_features: np.ndarray, candidates: np.ndarray | None = None) -> np.ndarray:
    """Index [N] of the class prompt nearest to each image: unit vectors [N, D], [C, D] -> int [N].

    ``candidates``: bool [N, C], classes each image may be called; all by default.
    """
    similarity = image_features @ prompt_features.T
    return (similarity if candidates is None else np.where(candidates, similarity, -np.inf)).argmax(1)


def retrieval_r1(image_features: np.ndarray, text_features: np.ndarray, captions: Sequence[str], gallery: int = GALLERY) -> np.ndarray:
    """Chance [N] that an image finds its own caption first in a gallery of ``gallery`` different captions.

    Recall at 1 depends on the size of the gallery, so it is fixed: the own caption and gallery - 1 others drawn at
    random from the set. With m other captions, r of them nearer to the image than its own, the chance is exactly
    C(m - r, gallery - 1) / C(m, gallery - 1); nothing is drawn. Equal captions count once.

    Raises
    ------
    InputError
        Fewer than ``gallery`` different captions.
    """
    distinct, first, own = np.unique(np.asarray(captions, dtype=object), return_index=True, return_inverse=True)
    if len(distinct) < gallery:
        raise InputError(f"retrieval: {len(distinct)} different captions, {gallery} needed; give more varied captions.")
    similarity = image_features @ text_features[first].T
    nearer = (similarity > similarity[np.arange(len(own)), own][:, None]).sum(1)
    others = len(distinct) - 1
    # product form of the ratio of binomials; a factor of 0 means fewer than gallery - 1 farther captions
    steps = np.arange(gallery - 1)
    return np.prod(np.maximum(others - nearer[:, None] - steps, 0) / (others - steps), axis=1)


def read_classes(judge: Judge, images: np.ndarray, prompts: Mapping[str, str]) -> np.ndarray:
    """The label [N] whose prompt is nearest to each picture by the judge's cosine.

    Parameters
    ----------
    judge : of any modality, so pictures may have three channels.
    images : uint8 [N, H, W] or [N, H, W, 3].
    prompts : label -> the sentence that stands for it.

    Raises
    ------
    InputError
        No prompt or no picture.
    """
    if not prompts or not len(images):
        raise InputError("read_classes: no prompt or no picture; give at least one of each")
    with torch.inference_mode():
        pictures, texts = judge.embed_images(images), judge.embed_texts(list(prompts.values()))
    nearest = zero_shot(*(torch.as_tensor(part).to("cpu", torch.float64).numpy() for part in (pictures, texts)))
    return np.array(list(prompts), dtype=object)[nearest]


def accuracy_table(readings: Mapping[str, tuple[Sequence[str], Sequence[str]]], labels: Sequence[str]) -> pd.DataFrame:
    """Share of the pictures of each class that are read rightly, one column a set of pictures, and a last row ``all``.

    ``readings``: name of the set -> (true labels, labels read). NaN where a set has no picture of a class; ``all`` is
    the share over all pictures of the set.
    """
    table = pd.DataFrame({"class": [*labels, "all"]})
    for name, (truth, read) in readings.items():
        hits = pd.Series(np.array(truth, dtype=object) == np.array(read, dtype=object)).groupby(np.array(truth, dtype=object))
        table[name] = [*hits.mean().reindex(labels), hits.obj.mean()]
    return table
