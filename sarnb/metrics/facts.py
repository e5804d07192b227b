"""Does the judge know single facts? Every caption against the same caption with one fact wrong.

The two texts share all other words, so class, length and wording cannot help: a judge that looks at the class alone is right
half the time.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics.bootstrap import interval
from sarnb.metrics.semantic import Judge, embed_texts
from sarnb.world.contrary import FACTS, contrary

MEASURES = {
    "side": "own caption before wrong side",
    "count": "own caption before wrong count",
    "relation": "own caption before wrong direction",
}


def fact_scores(judge: Judge, data: ImageSet, features: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """For each fact, how often an image is nearer to its caption than to the caption with this fact wrong: float [N].

    Args:
        data: images with captions; all captions of an image are asked. features: the judge's unit vectors of them [N, D].
        seed: which wrong count or direction is written.

    Returns:
        fact -> share of an image's captions, ties one half; NaN where no caption of the image tells the fact. A fact that
        no caption tells is left out.

    Raises:
        InputError: features of another number of images.
    """
    if len(features) != len(data):
        raise InputError(f"fact scores: {len(features)} feature vectors for {len(data)} images; embed the same images.")
    pairs = [
        (index, fact, text, wrong)
        for index, several in enumerate(data.all_captions())
        for text in several
        for fact in FACTS
        if (wrong := contrary(text, fact, seed)) is not None
    ]
    if not pairs:
        return {}
    texts = list(dict.fromkeys(text for pair in pairs for text in pair[2:]))
    vectors, place = embed_texts(judge, texts), {text: row for row, text in enumerate(texts)}
    rows = np.array([index for index, *_ in pairs])
    own, other = (vectors[[place[pair[column]] for pair in pairs]] for column in (2, 3))
    won = 0.5 * (1.0 + np.sign((features[rows] * (own - other)).sum(1)))
    facts = np.array([fact for _, fact, *_ in pairs])
    scores = {}
    for fact in (name for name in FACTS if name in facts):
        asked = facts == fact
        count = np.bincount(rows[asked], minlength=len(data)).astype(float)
        total = np.bincount(rows[asked], weights=won[asked], minlength=len(data))
        scores[fact] = np.divide(total, count, out=np.full(len(data), np.nan), where=count > 0)
    return scores


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
    return (
        (len(first) * float(np.trace(table)) - by_chance) / (everything - by_chance)
        if by_chance < everything
        else float("nan")
    )


def agreement_table(readings: Mapping[str, tuple[np.ndarray, np.ndarray]], resamples: int, seed: int) -> pd.DataFrame:
    """Agreement of the judge with the truth: a row a question, with 95 % bootstrap intervals of kappa over images.

    Args:
        readings: question -> (truth [N], what the judge says [N]), values of any one kind.

    Returns:
        columns question, n, answers (different true ones), agreement (share), kappa, lo, hi.
    """
    rows = []
    for question, (truth, said) in readings.items():
        truth, said = np.asarray(truth).astype(str), np.asarray(said).astype(str)
        pairs = np.stack([truth, said], axis=1)
        value, lo, hi = interval(lambda part: kappa(part[:, 0], part[:, 1]), [pairs], resamples, seed)
        rows.append((question, len(truth), len(set(truth)), float((truth == said).mean()), value, lo, hi))
    return pd.DataFrame(rows, columns=["question", "n", "answers", "agreement", "kappa", "lo", "hi"])
