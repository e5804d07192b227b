"""What tuning the text encoders does to prompts: how far their embeddings went, and how far apart two wordings lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from sarnb.errors import InputError
from sarnb.model.foundation import encode_prompts
from sarnb.model.words import pooled_embeddings


@torch.no_grad()
def token_change(
    before: StableDiffusionXLPipeline, after: StableDiffusionXLPipeline, prompts: Sequence[str]
) -> list[float]:
    """‖H' - H‖ / ‖H‖ (Frobenius) of each prompt's token vectors, from its start mark to its end mark; padding left out."""
    first, second = encode_prompts(before, list(prompts))[0].cpu(), encode_prompts(after, list(prompts))[0].cpu()
    lengths = [len(ids) for ids in before.tokenizer(list(prompts), truncation=True, max_length=first.shape[1]).input_ids]
    return [_relative(old[:length], new[:length]) for old, new, length in zip(first, second, lengths)]


def text_shift(
    before: StableDiffusionXLPipeline,
    after: StableDiffusionXLPipeline,
    labels: Sequence[str],
    prompts: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """How far each prompt's embeddings went: columns class, prompt, pooled cosine, token change.

    ``prompts``: wording ("radar", "optical") → one prompt a label. Pooled cosine: of the prompt before and after, 1 where
    nothing changed. Token change: see ``token_change``, 0 where nothing changed.
    """
    rows = []
    for wording, texts in _checked(labels, prompts).items():
        cosines = (pooled_embeddings(before, texts) * pooled_embeddings(after, texts)).sum(axis=1)
        rows += zip(labels, [wording] * len(labels), cosines, token_change(before, after, texts))
    return pd.DataFrame(rows, columns=["class", "prompt", "pooled cosine", "token change"])


def wording_gap(
    pipes: Mapping[str, StableDiffusionXLPipeline], labels: Sequence[str], first: Sequence[str], second: Sequence[str]
) -> pd.DataFrame:
    """Pooled cosine between two wordings of each class: columns class, model, cosine; near 1 a model reads them as one."""
    texts = _checked(labels, {"first": first, "second": second})
    rows = []
    for model, pipe in pipes.items():
        cosines = (pooled_embeddings(pipe, texts["first"]) * pooled_embeddings(pipe, texts["second"])).sum(axis=1)
        rows += zip(labels, [model] * len(labels), cosines)
    return pd.DataFrame(rows, columns=["class", "model", "cosine"])


def _relative(old: Tensor, new: Tensor) -> float:
    return float((new.double() - old.double()).norm() / old.double().norm())


def _checked(labels: Sequence[str], prompts: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    for wording, texts in prompts.items():
        if len(texts) != len(labels):
            raise InputError(
                f"text shift: {len(texts)} prompts of wording {wording} for {len(labels)} classes; give one each"
            )
    return prompts
