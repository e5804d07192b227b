"""How a text-to-image model reads its prompts: tokens, the pieces that words fall into, and text embeddings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline
from transformers import CLIPTokenizer

from sarnb.errors import InputError
from sarnb.model.foundation import encode_prompts


def token_lengths(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> np.ndarray:
    """Tokens of each text, int [N], marks of start and end included, before anything is cut off."""
    return np.array([len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False).input_ids], dtype=int)


def pieces(tokenizer: CLIPTokenizer, word: str) -> list[str]:
    """The vocabulary entries that a word falls into; a piece that does not end the word carries a hyphen."""
    found = tokenizer.tokenize(word)
    return [piece.removesuffix("</w>") if piece.endswith("</w>") else f"{piece}-" for piece in found]


def word_table(tokenizer: CLIPTokenizer, texts: Iterable[str]) -> pd.DataFrame:
    """The words of some texts, those in most pieces first, then the frequent ones: columns word, uses, tokens, pieces."""
    uses = Counter(word for text in texts for word in re.findall(r"<\w+>|[^\W\d_]+", text.lower()))
    if not uses:
        raise InputError("word_table: the texts hold no word; give at least one caption")
    rows = [(word, count, pieces(tokenizer, word)) for word, count in uses.items()]
    table = pd.DataFrame({
        "word": [word for word, _, _ in rows],
        "uses": [count for _, count, _ in rows],
        "tokens": [len(parts) for _, _, parts in rows],
        "pieces": [" ".join(parts) for _, _, parts in rows],
    })
    return table.sort_values(["tokens", "uses", "word"], ascending=[False, False, True], ignore_index=True)


@torch.no_grad()
def pooled_embeddings(pipe: StableDiffusionXLPipeline, prompts: Sequence[str], batch_size: int = 32) -> np.ndarray:
    """Pooled text embeddings as unit vectors float64 [N, P]: what the UNet gets beside the sequence of token vectors."""
    if not len(prompts):
        raise InputError("pooled_embeddings: no prompt; give at least one")
    starts = range(0, len(prompts), batch_size)
    parts = [encode_prompts(pipe, list(prompts[start : start + batch_size]))[1].cpu() for start in starts]
    vectors = torch.cat(parts).double().numpy()
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@torch.no_grad()
def pair_gaps(pipe: StableDiffusionXLPipeline, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """How far apart the text towers put two prompts: columns first, second, token, pooled.

    ``token``: the largest distance of the two prompts' vectors at one place of the sequence, over the mean of their lengths;
    ``pooled``: the same of the pooled vectors. 0 for towers to which both are one prompt; about 1.4 for unrelated vectors.
    """
    rows = []
    for first, second in pairs:
        hidden, pooled = encode_prompts(pipe, [first, second])
        gaps = [2 * (a - b).norm(dim=-1) / (a.norm(dim=-1) + b.norm(dim=-1)) for a, b in (hidden, pooled)]
        rows.append((first, second, gaps[0].max().item(), gaps[1].item()))
    return pd.DataFrame(rows, columns=["first", "second", "token", "pooled"])
