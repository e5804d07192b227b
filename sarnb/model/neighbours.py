"""Where a learned word lies: its nearest rows in the vocabulary of each text encoder."""

from __future__ import annotations

import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import CLIPTokenizer

from sarnb.model.token import ROW_KEYS, TOKEN, embedding_table, token_row


def nearest_words(table: Tensor, tokenizer: CLIPTokenizer, row: Tensor, count: int = 8) -> pd.DataFrame:
    """The words nearest to an embedding by cosine: rank (from 1), word, cosine.

    ``table`` [V, D], ``row`` [1, D] or [D]. Only words count, see ``word_entries``.
    """
    words = word_entries(tokenizer, len(table))
    cosines = cosine_similarity(table[list(words.values())].float(), row.reshape(1, -1).float())
    best = torch.topk(cosines, min(count, len(words)))
    names = list(words)
    return pd.DataFrame(
        {
            "rank": range(1, len(best.indices) + 1),
            "word": [names[index] for index in best.indices.tolist()],
            "cosine": best.values.tolist(),
        }
    )


def word_entries(tokenizer: CLIPTokenizer, rows: int) -> dict[str, int]:
    """Word → id, for the entries below ``rows`` that end a word, of two letters or more, in the order of their ids.

    Byte-pair entries do not tell whole words from their endings, so some are endings ("ter"). Left out are beginnings of
    words, signs, single bytes and added words: many of them stand in no caption at all, so their rows never moved from
    their random start, and a neighbourhood with them would mean nothing.
    """
    found = ((entry.removesuffix("</w>"), index) for entry, index in tokenizer.get_vocab().items() if entry.endswith("</w>"))
    return {word: index for word, index in sorted(found, key=lambda pair: pair[1])
            if len(word) > 1 and word.isascii() and word.isalpha() and index < rows}


def token_neighbours(
    start: StableDiffusionXLPipeline, trained: StableDiffusionXLPipeline, count: int = 8, token: str = TOKEN
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Neighbours of the learned word before and after training, and how far it went, in both encoders.

    ``start``: the foundation after ``add_token``; ``trained``: the trained pipeline.

    Returns
    -------
    neighbours : columns encoder, when ("start" or "learned"), rank, word, cosine.
    travel : a row an encoder: cosine of learned and start row; their distance and norms; as a scale, the median norm of the
        vocabulary's words, and the cosine with the learned row that one word in a hundred exceeds.
    """
    near, travel = [], []
    for tokenizer_name, name in ROW_KEYS.values():
        tokenizer = getattr(start, tokenizer_name)
        before = token_row(getattr(start, name), tokenizer, token).float()
        after = token_row(getattr(trained, name), getattr(trained, tokenizer_name), token).float()
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
