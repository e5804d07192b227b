"""The way of a learned word through the embedding space, from the files that its training left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cosine_similarity

from sarnb.errors import InputError
from sarnb.model.neighbours import nearest_words
from sarnb.model.token import ROW_KEYS, embedding_table

Files = Mapping[int, Path]  # step → textual-inversion file


def path_rows(files: Files, key: str) -> Tensor:
    """The word's rows float32 [n, D] in the order of the steps; ``key``: "clip_l" or "clip_g"."""
    if not files:
        raise InputError("token path: no file of the word's rows; train a strategy with the learned word first")
    return torch.cat([load_file(path)[key] for path in files.values()]).float()


def path_table(pipe: StableDiffusionXLPipeline, files: Files) -> pd.DataFrame:
    """The way step by step, in both encoders of the foundation ``pipe``.

    Columns encoder, step, distance (Euclidean, from the first row), cosine (with the first row), norm, word (the nearest of
    the vocabulary), word cosine.
    """
    parts = []
    for key, (tokenizer, encoder) in ROW_KEYS.items():
        rows, table = path_rows(files, key), embedding_table(getattr(pipe, encoder)).float().cpu()
        near = pd.concat([nearest_words(table, getattr(pipe, tokenizer), row, 1) for row in rows])
        parts.append(pd.DataFrame({
            "encoder": encoder,
            "step": list(files),
            "distance": (rows - rows[:1]).norm(dim=1).tolist(),
            "cosine": cosine_similarity(rows, rows[:1]).tolist(),
            "norm": rows.norm(dim=1).tolist(),
            "word": near["word"].tolist(),
            "word cosine": near["cosine"].tolist(),
        }))
    return pd.concat(parts, ignore_index=True)


def path_plane(paths: Mapping[str, Files]) -> pd.DataFrame:
    """Several ways in the plane that shows most of them: columns encoder, start, step, x, y, shown.

    ``paths``: word that the way starts from → its files. The plane is spanned by the first two principal axes of all rows
    of an encoder (Pearson 1901), about their mean; ``shown`` is its share of their variance.
    """
    parts = []
    for key, (_, encoder) in ROW_KEYS.items():
        rows = torch.cat([path_rows(files, key) for files in paths.values()]).double().numpy()
        centred = rows - rows.mean(axis=0)
        left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
        plane = np.zeros((len(rows), 2))
        plane[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
        power = float((sizes**2).sum())
        parts.append(pd.DataFrame({
            "encoder": encoder,
            "start": [word for word, files in paths.items() for _ in files],
            "step": [step for files in paths.values() for step in files],
            "x": plane[:, 0],
            "y": plane[:, 1],
            "shown": float((sizes[:2] ** 2).sum()) / power if power else 1.0,
        }))
    return pd.concat(parts, ignore_index=True)


def start_comparison(paths: Mapping[str, Files], words: Sequence[str] = ()) -> pd.DataFrame:
    """Whether ways from different words meet: cosine of each pair of rows at the first and at the last step.

    Columns encoder, pair, at start, learned. ``words``: keys of ``paths``, all if empty.
    """
    rows = []
    for key, (_, encoder) in ROW_KEYS.items():
        ends = {word: path_rows(files, key)[[0, -1]] for word, files in paths.items() if not words or word in words}
        for one, other in combinations(ends, 2):
            first, last = cosine_similarity(ends[one], ends[other]).tolist()
            rows.append((encoder, f"{one} and {other}", first, last))
    return pd.DataFrame(rows, columns=["encoder", "pair", "at start", "learned"])
