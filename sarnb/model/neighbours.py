"""Where a learned word lies: its nearest rows in the vocabulary of each text encoder."""

from __future__ import annotations

import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import CLIPTokenizer

from sarnb.model.token import ROW_KEYS, TOKEN, embedding_table, token_row


def nearest_words(table: Tensor, tokenizer: CLIPTokenizer, row: Tensor, count: int = 8, but: tuple[str, ...] = (TOKEN,)) -> pd.DataFrame:
    """The vocabulary entries nearest to an embedding by cosine: rank (from 1), word, cosine.

    ``table`` [V, D], ``row`` [1, D] or [D]; entries ``but``, and rows without an entry, are left out. A piece that only
    begins or continues a word is written with a hyphen, "harb-".
    """
    ids = [index for word, index in tokenizer.get_vocab().items() if word not in but and index < len(table)]
    words = tokenizer.convert_ids_to_tokens(ids)
    cosines = cosine_similarity(table[ids].float(), row.reshape(1, -1).float())
    best = torch.topk(cosines, min(count, len(ids)))
    return pd.DataFrame(
        {
            "rank": range(1, len(best.indices) + 1),
            "word": [readable(words[index]) for index in best.indices.tolist()],
            "cosine": best.values.tolist(),
        }
    )


def readable(piece: str) -> str:
    """A CLIP vocabulary entry as one reads it.

    >>> readable("city</w>"), readable("harb"), readable("<|endoftext|>")
    ('city', 'harb-', '<|endoftext|>')
    """
    if piece.endswith("</w>"):
        return piece.removesuffix("</w>")
    return piece if piece.startswith("<") and piece.endswith(">") else f"{piece}-"


def token_neighbours(
    start: StableDiffusionXLPipeline, trained: StableDiffusionXLPipeline, count: int = 8, token: str = TOKEN
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Neighbours of the learned word before and after training, and how far it went, in both encoders.

    ``start``: the foundation after ``add_token``; ``trained``: the trained pipeline.

    Returns
    -------
    neighbours : columns encoder, when ("start" or "learned"), rank, word, cosine.
    travel : a row an encoder: cosine of learned and start row; their distance and norms; the median norm of the
        vocabulary's rows and the 99th percentile of the cosine of the start row with them, as a scale.
    """
    near, travel = [], []
    for tokenizer_name, name in ROW_KEYS.values():
        tokenizer = getattr(start, tokenizer_name)
        before = token_row(getattr(start, name), tokenizer, token).float()
        after = token_row(getattr(trained, name), getattr(trained, tokenizer_name), token).float()
        table = embedding_table(getattr(start, name)).float()
        known = table[[index for word, index in tokenizer.get_vocab().items() if word != token and index < len(table)]]
        for when, row in (("start", before), ("learned", after)):
            near.append(nearest_words(table, tokenizer, row, count, (token,)).assign(encoder=name, when=when))
        travel.append(
            {
                "encoder": name,
                "cosine to its start": float(cosine_similarity(before, after)),
                "distance from its start": float((after - before).norm()),
                "norm at start": float(before.norm()),
                "norm learned": float(after.norm()),
                "median norm of the vocabulary": float(known.norm(dim=1).median()),
                "cosine that 1 % of words exceed": float(cosine_similarity(known, before).quantile(0.99)),
            }
        )
    return pd.concat(near, ignore_index=True)[["encoder", "when", "rank", "word", "cosine"]], pd.DataFrame(travel)
