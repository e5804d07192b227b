"""How good is the judge? Class, side and caption of held-out reference images, as SAR-CLIP reads them.

Every figure is a mean of one score an image, so that its interval comes from redrawing images inside their class, and
each class counts the same, as in the evaluation of generated images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from sarnb.data.dataset import ImageSet
from sarnb.data.imagefolder import default_caption
from sarnb.errors import InputError
from sarnb.metrics import class_name
from sarnb.metrics.bootstrap import effective_number, percentile_interval, share_interval, stratified_weights, weighted_mean
from sarnb.metrics.image_statistics import COMPOSITION
from sarnb.metrics.semantic import Judge, embed_images, embed_texts
from sarnb.world.captions import FACTS, hard_negative

ACCURACY = "class accuracy"
HARD_NEGATIVES = {  # what is wrong in the caption → the measure
    "side": "own caption before wrong side",
    "count": "own caption before wrong count",
    "relation": "own caption before wrong direction",
}
SCALES = (1e-2, 1e4)  # between which the factor on the cosines is searched


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
        """The class of each image."""
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
    Raises ``InputError`` for a set with an image that has no label.
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
            for fact in FACTS
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
                base, resampled = stratified_weights(list(labels[chosen]), resamples, seed)
                value = float(weighted_mean(score[chosen], base))
                samples, images = weighted_mean(score[chosen], resampled), effective_number(score[chosen], base)
                share = np.isin(score[chosen], (0.0, 1.0)).all()
                lo, hi = share_interval(samples, value, images) if share else percentile_interval(samples, value)
                guess = float(base @ np.broadcast_to(chance, len(labels))[chosen])
                rows.append((measure, split, label, value, lo, hi, int(chosen.sum()), guess))
    return pd.DataFrame(rows, columns=["measure", "split", "class", "value", "lo", "hi", "n", "chance"])


def judge_sentence(table: pd.DataFrame) -> str:
    """Whether the judge of a ``judge_table`` may be asked for the class of other images."""
    accuracy = table[(table["measure"] == ACCURACY) & (table["split"] == "pooled") & (table["class"] == "all")].iloc[0]
    if accuracy["lo"] > accuracy["chance"]:
        return "The judge tells classes apart better than a guess, so its measures of other images carry meaning."
    return "The judge cannot be told from a guess, so its measures of other images mean nothing in this run."


# Is the judge as sure as it is right? Temperature scaling, the reliability diagram, and agreement beyond chance.


def fit_scale(logits: np.ndarray, truth: np.ndarray) -> float:
    """The factor t on the cosines [N, K] of least log loss of the true classes int [N], the inverse of the temperature.

    The loss is convex in t, which is searched on ``SCALES``. Raises ``InputError`` without an image.
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
