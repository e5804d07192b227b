"""Does the image show what its prompt asks for? Judged by SAR-CLIP, a text-image encoder trained on reference images.

The judge is any object with ``embed_images(uint8 [N, H, W]) -> [N, D]`` and ``embed_texts(list[str]) -> [N, D]``, both of
unit length. It is never the model that generated the images. Radford et al., ICML 2021 (CLIP). The second half judges the judge:
class, side and caption of held-out reference images, as SAR-CLIP reads them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from sarnb.data.dataset import ImageSet
from sarnb.data.imagefolder import default_caption
from sarnb.errors import InputError
from sarnb.metrics import COMPOSITION, class_name, image_stack
from sarnb.metrics.bootstrap import score_interval, stratified_weights
from sarnb.world.captions import hard_negative

GALLERY = 10  # captions a retrieval chooses from
ACCURACY = "class accuracy"
HARD_NEGATIVES = {  # what is wrong in the caption → the measure
    "side": "own caption before wrong side",
    "count": "own caption before wrong count",
    "relation": "own caption before wrong direction",
}
SCALES = (1e-2, 1e4)  # between which the factor on the cosines is searched


class Judge(Protocol):
    """What the measures ask of SAR-CLIP."""

    def embed_images(self, images: np.ndarray) -> torch.Tensor:
        """uint8 [N, H, W] → unit vectors [N, D]."""

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """N texts → unit vectors [N, D]."""


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


# How good is the judge? Every figure is a mean of one score an image, so that its interval comes from redrawing images inside their
# class, and each class counts the same, as in the evaluation of generated images.


@dataclass(frozen=True)
class Judged:
    """What the judge says of N images of K classes.

    Attributes
    ----------
    names : the classes, single ones before compositions.
    truth : int [N], index into ``names``.
    splits : seen, unseen or composition, [N].
    images, captions : unit features of the images and of their captions, [N, D].
    cosines : of the images with the class prompts, [N, K].
    rivals : bool [N, K], the classes that an image may be called.
    """

    names: tuple[str, ...]
    truth: np.ndarray
    splits: np.ndarray
    images: np.ndarray
    captions: np.ndarray
    cosines: np.ndarray
    rivals: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """The class of each image, text [N]."""
        return np.asarray(self.names, dtype=object)[self.truth]

    @property
    def logits(self) -> np.ndarray:
        """The cosines [N, K], minus infinity where a class does not compete."""
        return np.where(self.rivals, self.cosines, -np.inf)

    @property
    def guess(self) -> np.ndarray:
        """The class that each image is called: index into ``names`` [N]."""
        return self.logits.argmax(1)


def judge_images(judge: Judge, data: ImageSet) -> Judged:
    """Embed images, captions and class prompts.

    A class competes with classes, because "a river through a forest" is not wrong for a river; a composition competes with all.

    Raises
    ------
    InputError
        A set with an image that has no label.
    """
    if not all(data.labels):
        raise InputError(f"{data.root}: images without a class label cannot be judged by class; label them all")
    groups = {label: row.get("group") or "seen" for label, row in zip(data.labels, data.rows)}
    order = list(dict.fromkeys(data.labels))
    names = tuple(sorted(order, key=lambda label: (groups[label] == COMPOSITION, order.index(label))))
    mixed = np.array([groups[label] == COMPOSITION for label in names])
    truth = np.array([names.index(label) for label in data.labels])
    images, captions = embed_images(judge, data.images), embed_texts(judge, data.captions)
    prompts = embed_texts(judge, [default_caption(label) for label in names])
    splits = np.array([groups[label] for label in data.labels], dtype=object)
    return Judged(names, truth, splits, images, captions, images @ prompts.T, ~mixed[None] | mixed[truth][:, None])


def hard_negative_scores(judge: Judge, data: ImageSet, features: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """How often an image is nearer to its caption than to the same caption with one statement wrong.

    Parameters
    ----------
    data : images with captions; all captions of an image count.
    features : the judge's unit vectors of the images [N, D].
    seed : which wrong count or direction is written.

    Returns
    -------
    measure of ``HARD_NEGATIVES`` → float [N], the share of an image's captions, ties one half; NaN where no caption of the
    image states such a thing. A measure that no caption gives is left out.

    Raises
    ------
    InputError
        Features of another number of images.
    """
    if len(features) != len(data):
        raise InputError(f"hard negatives: {len(features)} feature vectors for {len(data)} images; embed the same images.")
    pairs = pd.DataFrame(
        [
            (HARD_NEGATIVES[fact], index, text, hard_negative(text, fact, seed))
            for fact in HARD_NEGATIVES
            for index, several in enumerate(data.all_captions())
            for text in several
        ],
        columns=["measure", "image", "own", "wrong"],
    ).dropna()
    if pairs.empty:
        return {}
    texts = list(dict.fromkeys([*pairs["own"], *pairs["wrong"]]))
    vectors = pd.Series(list(embed_texts(judge, texts)), index=texts)
    own, wrong = (np.stack(vectors[pairs[column]].to_list()) for column in ("own", "wrong"))
    pairs["won"] = 0.5 * (1.0 + np.sign((features[pairs["image"]] * (own - wrong)).sum(1)))
    shares = pairs.groupby(["measure", "image"], sort=False)["won"].mean()
    return {name: shares[name].reindex(range(len(data))).to_numpy() for name in pairs["measure"].unique()}


def judge_table(
    scores: Mapping[str, tuple[np.ndarray, np.ndarray | float]],
    labels: Sequence[str],
    splits: Sequence[str],
    resamples: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Means of scores by split and class, with 95 % intervals over images redrawn inside their class.

    Parameters
    ----------
    scores : measure → (score of each image [N], NaN where it has none; what a guess would reach of it, [N] or one number).
    labels, splits : of each image.

    Returns
    -------
    columns measure, split, class ("all" and each), value, lo, hi, n (images with a score), chance.
    """
    labels, splits, rows = np.asarray(labels, dtype=object), np.asarray(splits, dtype=object), []
    parts = [("pooled", "all", np.ones(len(splits), bool))]
    for split in [name for name in ("seen", "unseen", COMPOSITION) if name in splits]:
        parts.append((split, "all", splits == split))
        parts += [(split, class_name(label), (splits == split) & (labels == label)) for label in dict.fromkeys(labels[splits == split])]
    for measure, (score, chance) in scores.items():
        for split, label, inside in parts:
            chosen = inside & np.isfinite(score)
            if chosen.any():
                own = list(labels[chosen])
                guess = float(stratified_weights(own, 0, seed)[0] @ np.broadcast_to(chance, len(labels))[chosen])
                ends = score_interval(score[chosen], own, resamples, seed)
                rows.append((measure, split, label, *ends, int(chosen.sum()), guess))
    return pd.DataFrame(rows, columns=["measure", "split", "class", "value", "lo", "hi", "n", "chance"])


def judge_sentence(table: pd.DataFrame) -> str:
    """Whether the judge of a ``judge_table`` may be used to read the class of other images."""
    accuracy = table[(table["measure"] == ACCURACY) & (table["split"] == "pooled") & (table["class"] == "all")].iloc[0]
    if accuracy["lo"] > accuracy["chance"]:
        return "The judge tells classes apart better than a guess, on reference images; for images without a scene see notebook 10."
    return "The judge cannot be distinguished from a guess, so its measures of other images mean nothing in this run."


# Is the judge as sure as it is right? Temperature scaling, the reliability diagram, and agreement beyond chance.


def fit_scale(logits: np.ndarray, truth: np.ndarray) -> float:
    """The factor t on the cosines [N, K] of least log loss of the true classes int [N], the inverse of the temperature.

    The loss is convex in t, which is searched on ``SCALES``.

    Raises
    ------
    InputError
        There is no image.
    """
    if not len(truth):
        raise InputError("calibration: no image; give held-out images with their classes.")
    found = minimize_scalar(
        lambda log_t: -log_softmax(np.exp(log_t) * logits, axis=1)[np.arange(len(truth)), truth].mean(),
        bounds=np.log(SCALES),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa of two readings of the same N things: 1 = they agree, 0 = no more than by chance (Cohen 1960).

    NaN where both always give one and the same answer, because chance then agrees always.

    >>> kappa(np.array(["a", "a", "b", "b"]), np.array(["a", "b", "b", "b"]))
    0.5
    """
    answers, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    table = np.zeros((len(answers),) * 2)
    np.add.at(table, tuple(codes.reshape(2, -1)), 1.0)
    everything, by_chance = float(len(first)) ** 2, float(table.sum(0) @ table.sum(1))
    return (len(first) * float(np.trace(table)) - by_chance) / (everything - by_chance) if by_chance < everything else float("nan")
