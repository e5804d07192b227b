"""What a training did to words and weights: a learned word's neighbours, its way, and weight differences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import CLIPTokenizer

from sarnb.errors import InputError
from sarnb.model.foundation import ENCODERS, components
from sarnb.model.token import ROW_KEYS, TOKEN, embedding_table, token_row, word_entries

# Where a learned word lies, and the way that it came.


def nearest_words(table: Tensor, tokenizer: CLIPTokenizer, row: Tensor, count: int = 8) -> pd.DataFrame:
    """The words of ``word_entries`` nearest to an embedding by cosine: rank (from 1), word, cosine.

    table : [V, D]. row : [1, D] or [D].
    """
    words = word_entries(tokenizer, len(table))
    cosines = cosine_similarity(table[list(words.values())].float(), row.reshape(1, -1).float())
    best = torch.topk(cosines, min(count, len(words)))
    names = np.array(list(words), dtype=object)[best.indices.cpu().numpy()]
    return pd.DataFrame({"rank": range(1, len(names) + 1), "word": names, "cosine": best.values.tolist()})


def token_neighbours(
    start: StableDiffusionXLPipeline, trained: StableDiffusionXLPipeline, count: int = 8
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Neighbours of the learned word before and after training, and how far it went, in both encoders.

    Parameters
    ----------
    start, trained : the foundation after ``add_token``, and the trained pipeline.

    Returns
    -------
    neighbours : columns encoder, when ("start" or "learned"), rank, word, cosine.
    travel : a row an encoder: cosine of learned and start row; their distance and norms; as a scale, the median norm of the
        vocabulary's words, and the cosine with the learned row that one word in a hundred exceeds.
    """
    near, travel = [], []
    for tokenizer_name, name in ENCODERS:
        tokenizer = getattr(start, tokenizer_name)
        before = token_row(getattr(start, name), tokenizer).float()
        after = token_row(getattr(trained, name), getattr(trained, tokenizer_name)).float()
        table = embedding_table(getattr(start, name)).float()
        known = table[list(word_entries(tokenizer, len(table)).values())]
        for when, row in (("start", before), ("learned", after)):
            near.append(nearest_words(table, tokenizer, row, count).assign(encoder=name, when=when))
        travel.append(
            {
                "encoder": name,
                "cosine to its start": float(cosine_similarity(before, after)),
                "distance from its start": float((after - before).norm()),
                "norm at start": float(before.norm()),
                "norm learned": float(after.norm()),
                "median norm of the vocabulary": float(known.norm(dim=1).median()),
                "cosine that 1 % of words exceed": float(cosine_similarity(known, after).quantile(0.99)),
            }
        )
    return pd.concat(near, ignore_index=True)[["encoder", "when", "rank", "word", "cosine"]], pd.DataFrame(travel)


def path_rows(files: Mapping[int, Path]) -> dict[str, Tensor]:
    """Encoder -> the word's rows float32 [n, D]; ``files``: step -> textual-inversion file, as ``token_files`` finds them.

    Raises
    ------
    InputError
        There is no file.
    """
    if not files:
        raise InputError("token path: no file of the word's rows; train a strategy with the learned word first")
    return {encoder: torch.cat([load_file(path)[key] for path in files.values()]) for key, (_, encoder) in ROW_KEYS.items()}


def path_table(pipe: StableDiffusionXLPipeline, files: Mapping[int, Path]) -> pd.DataFrame:
    """The way of a learned word step by step, in both encoders of the foundation ``pipe``.

    Columns encoder, step, distance (Euclidean, from the first row), cosine (with the first row), norm, word (the nearest of
    the vocabulary), word cosine.
    """
    parts = []
    for (tokenizer, _), (encoder, rows) in zip(ENCODERS, path_rows(files).items()):
        table = embedding_table(getattr(pipe, encoder)).float().cpu()
        near = pd.concat([nearest_words(table, getattr(pipe, tokenizer), row, 1) for row in rows], ignore_index=True)
        way = {
            "encoder": encoder,
            "step": list(files),
            "distance": (rows - rows[:1]).norm(dim=1).tolist(),
            "cosine": cosine_similarity(rows, rows[:1]).tolist(),
            "norm": rows.norm(dim=1).tolist(),
        }
        parts.append(pd.DataFrame(way).assign(**{"word": near["word"], "word cosine": near["cosine"]}))
    return pd.concat(parts, ignore_index=True)


# Which weights a training changed, to the bit.


def weight_difference(before: StableDiffusionXLPipeline, after: StableDiffusionXLPipeline) -> pd.DataFrame:
    """A row a network: tensors, changed tensors, rows of its embedding table (0 where it has none), changed rows.

    An embedding table counts by its rows, any other tensor as a whole; "changed" means another bit.

    Parameters
    ----------
    before : the foundation after ``add_token``.
    after : a pipeline whose word was trained, still with its adapters or loaded again.

    Raises
    ------
    InputError
        The two have other tensors, as with LoRA.
    """
    rows = []
    for name in components(before):
        old, new = _weights(before, name), _weights(after, name)
        if old.keys() != new.keys():
            raise InputError(f"weight difference: {name} has other tensors after the training than before; compare strategies without LoRA")
        table = old.pop("embedding table", torch.zeros(0, 1))
        moved = (table != new.pop("embedding table", table)).any(dim=1)
        changed = sum(not torch.equal(old[key], new[key]) for key in old)
        rows.append((name, len(old), changed, len(moved), int(moved.sum())))
    return pd.DataFrame(rows, columns=["network", "tensors", "changed tensors", "embedding rows", "changed rows"])


def _weights(pipe: StableDiffusionXLPipeline, name: str) -> dict[str, Tensor]:
    """Every tensor of a network by its name without adapters; its "embedding table" with the trained row in its place."""
    network = getattr(pipe, name)
    weights = {
        key.replace(".base_layer", "").replace(".token_adapter", ""): value.detach().cpu()
        for key, value in network.state_dict().items()
        if "token_embedding" not in key
    }
    for tokenizer in (getattr(pipe, words) for words, encoder in ENCODERS if encoder == name):
        table = embedding_table(network).cpu().clone()
        table[tokenizer.convert_tokens_to_ids(TOKEN)] = token_row(network, tokenizer)[0].to(table)
        weights["embedding table"] = table
    return weights
