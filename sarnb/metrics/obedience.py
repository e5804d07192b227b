"""Does a picture show what its prompt asked for: the parts of a composition, a number, a side?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics.bootstrap import interval
from sarnb.metrics.semantic import Judge

LEAD = "an aerial photograph of"


@dataclass(frozen=True)
class Contrast:
    """Two prompts that differ in one fact only."""

    question: str
    first: str
    second: str


CONTRASTS: tuple[Contrast, ...] = (  # in the words of the foundation's captions, except for "no ships"
    Contrast("three ships or none", f"{LEAD} a harbour with two piers and three ships", f"{LEAD} a harbour with two piers and no ships"),
    Contrast("nine ships or one", f"{LEAD} a harbour with two piers and nine ships", f"{LEAD} a harbour with two piers and one ship"),
    Contrast("sea left or right", f"{LEAD} a coast with the sea to the west", f"{LEAD} a coast with the sea to the east"),
    Contrast("river down or across", f"{LEAD} a river flowing north to south", f"{LEAD} a river flowing west to east"),
    Contrast("winter or summer", f"{LEAD} crop fields in winter", f"{LEAD} crop fields in summer"),
)


def told_apart(judge: Judge, first: np.ndarray, second: np.ndarray, contrast: Contrast) -> np.ndarray:
    """Float [N]: 1 where the judge finds the first prompt more in the picture of the first prompt than in that of the second.

    first, second : uint8 [N, H, W, 3], drawn from the two prompts with the same seeds. With the margin
    m(x) = cos(x, first prompt) - cos(x, second prompt), a pair counts 1 if m(first picture) > m(second picture), one half
    if they are equal: the area under the ROC curve for pairs, 0.5 for a model that does not listen. Raises ``InputError``
    if the numbers differ.
    """
    if len(first) != len(second) or not len(first):
        raise InputError(f"{contrast.question}: {len(first)} and {len(second)} pictures; draw both prompts with the same seeds")
    texts = np.asarray(judge.embed_texts([contrast.first, contrast.second]), dtype=float)
    margins = [np.asarray(judge.embed_images(part), dtype=float) @ (texts[0] - texts[1]) for part in (first, second)]
    return 0.5 * (1 + np.sign(margins[0] - margins[1]))


def sea_on_the_left(images: np.ndarray) -> np.ndarray:
    """Float [N]: by how much more blue than red the left half of a picture is than its right half, in [-1, 1].

    A detector without any learning: in the twin world's photographs (uint8 [N, H, W, 3]) water is the only large blue thing.
    """
    blueness = (images[..., 2].astype(float) - images[..., 0]) / 255
    half = images.shape[2] // 2
    return 0.5 * (blueness[:, :, :half].mean(axis=(1, 2)) - blueness[:, :, half:].mean(axis=(1, 2)))


def obedience_table(scores: Mapping[str, np.ndarray], resamples: int, seed: int) -> pd.DataFrame:
    """One row a question: columns question, n, obeyed (share, 0.5 is chance), lo, hi (95 % bootstrap over pairs)."""
    rows = []
    for question, values in scores.items():
        value, lo, hi = interval(np.mean, [np.asarray(values, dtype=float)], resamples, seed)
        rows.append((question, len(values), value, lo, hi))
    return pd.DataFrame(rows, columns=["question", "n", "obeyed", "lo", "hi"])


def parts_found(judge: Judge, images: np.ndarray, parts: Sequence[tuple[str, ...]], prompts: Mapping[str, str]) -> np.ndarray:
    """Bool [N]: all parts of a picture's composition are among the nearest prompts, one more of them than it has parts.

    ``parts`` [N]: the classes that the picture should show; ``prompts``: class → the sentence that stands for it.
    Raises ``InputError`` for another number of pictures and a part without a prompt.
    """
    unknown = sorted({part for several in parts for part in several} - set(prompts))
    if len(parts) != len(images) or unknown:
        raise InputError(
            f"parts found: {len(images)} pictures, {len(parts)} compositions, no prompt for {', '.join(unknown) or 'none'}; "
            "give the parts of each picture and a prompt for each part"
        )
    cosines = np.asarray(judge.embed_images(images), dtype=float) @ np.asarray(judge.embed_texts(list(prompts.values())), dtype=float).T
    names = np.array(list(prompts), dtype=object)
    order = np.argsort(-cosines, axis=1)
    return np.array([set(several) <= set(names[row[: len(several) + 1]]) for several, row in zip(parts, order)])
