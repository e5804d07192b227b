"""Which weights a training changed, to the bit: the proof that a learned word trains its own row and nothing else."""

from __future__ import annotations

import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from sarnb.errors import InputError
from sarnb.model.foundation import components
from sarnb.model.strategy import ENCODERS
from sarnb.model.token import TOKEN, embedding_table, token_row


def changed_weights(before: StableDiffusionXLPipeline, after: StableDiffusionXLPipeline, token: str = TOKEN) -> pd.DataFrame:
    """A row a network: tensors, changed tensors, rows of its embedding table (0 where it has none), changed rows.

    ``before``: the foundation after ``add_token``. ``after``: a pipeline whose word was trained, still with its adapters or
    loaded again. An embedding table counts by its rows, any other tensor as a whole; "changed" means another bit.
    Raises ``InputError`` where the two have other tensors, as with LoRA.
    """
    rows = []
    tables = {encoder: tokenizer for tokenizer, encoder in ENCODERS}
    for name, module in components(before).items():
        old, new = _plain(module), _plain(components(after)[name])
        if old.keys() != new.keys():
            raise InputError(
                f"changed weights: {name} has other tensors after the training than before; compare strategies without LoRA"
            )
        changed = sum(not torch.equal(old[key], new[key]) for key in old)
        moved = torch.zeros(0, dtype=torch.bool)
        if name in tables:
            first, second = (_whole_table(pipe, tables[name], name, token) for pipe in (before, after))
            moved = (first != second).any(dim=1)
        rows.append((name, len(old), changed, len(moved), int(moved.sum())))
    return pd.DataFrame(rows, columns=["network", "tensors", "changed tensors", "embedding rows", "changed rows"])


def _plain(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor by its name without adapters, but the embedding table and the trained row."""
    return {
        name.replace(".base_layer", "").replace(".token_adapter", ""): value.detach().cpu()
        for name, value in module.state_dict().items()
        if "token_embedding" not in name
    }


def _whole_table(pipe: StableDiffusionXLPipeline, tokenizer: str, encoder: str, token: str) -> Tensor:
    """The embedding table as the encoder uses it: with the trained row in its place."""
    words, network = getattr(pipe, tokenizer), getattr(pipe, encoder)
    table = embedding_table(network).cpu().clone()
    table[words.convert_tokens_to_ids(token)] = token_row(network, words, token)[0].to(table)
    return table
