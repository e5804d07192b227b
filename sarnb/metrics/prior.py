"""What a model knows of a class before it has seen radar: its pictures read by a zero-shot classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from sarnb.errors import InputError
from sarnb.metrics.bootstrap import interval
from sarnb.metrics.semantic import Judge, zero_shot


def read_classes(judge: Judge, images: np.ndarray, prompts: Mapping[str, str]) -> np.ndarray:
    """The label [N] whose prompt is nearest to each picture, uint8 [N, H, W] or [N, H, W, 3], by the judge's cosine.

    ``prompts``: label -> the sentence that stands for it. Raises InputError without a prompt or a picture.
    """
    if not prompts or not len(images):
        raise InputError("read_classes: no prompt or no picture; give at least one of each")
    with torch.inference_mode():
        pictures = judge.embed_images(images)
        texts = judge.embed_texts(list(prompts.values()))
    nearest = zero_shot(_array(pictures), _array(texts))
    return np.array(list(prompts), dtype=object)[nearest]


def _array(features: torch.Tensor) -> np.ndarray:
    return torch.as_tensor(features).detach().to("cpu", torch.float64).numpy()


def accuracy_table(readings: Mapping[str, tuple[Sequence[str], Sequence[str]]], labels: Sequence[str]) -> pd.DataFrame:
    """Share of the pictures of each class that are read rightly, one column a set of pictures, and a last row ``all``.

    ``readings``: name of the set -> (labels asked for, labels read). NaN where a set has no picture of a class; ``all`` is
    the share over all pictures of the set.
    """
    table = pd.DataFrame({"class": [*labels, "all"]})
    for name, (asked, read) in readings.items():
        asked, hits = np.array(asked, dtype=object), np.array(asked, dtype=object) == np.array(read, dtype=object)
        shares = [hits[asked == label].mean() if (asked == label).any() else np.nan for label in labels]
        table[name] = [*shares, hits.mean()]
    return table


def accuracy_intervals(
    readings: Mapping[str, tuple[Sequence[str], Sequence[str]]], resamples: int, seed: int
) -> pd.DataFrame:
    """Share read rightly over all pictures of each set, with its 95 % bootstrap interval: columns pictures, value, lo, hi, n."""
    rows = []
    for name, (asked, read) in readings.items():
        hits = (np.array(asked, dtype=object) == np.array(read, dtype=object)).astype(float)
        rows.append((name, *interval(np.mean, [hits], resamples, seed), len(hits)))
    return pd.DataFrame(rows, columns=["pictures", "value", "lo", "hi", "n"])


def confusion(asked: Sequence[str], read: Sequence[str], labels: Sequence[str]) -> pd.DataFrame:
    """Share of the pictures asked as the row's class that are read as the column's; a row without a picture is NaN."""
    counts = pd.crosstab(pd.Categorical(asked, labels), pd.Categorical(read, labels), dropna=False)
    counts = counts.reindex(index=labels, columns=labels, fill_value=0)
    table = counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0)
    return table.rename_axis(index="asked for", columns="read as")
