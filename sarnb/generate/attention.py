"""Where each word of a prompt acts: cross-attention maps, averaged over heads, layers and denoising steps.

In a cross-attention layer each place of the picture shares out one unit of attention over the tokens of the prompt,
softmax(q·k / sqrt(d)) (Vaswani et al. 2017; Rombach et al. 2022). Averaged, these shares say which word a place listens to
(Hertz et al. 2022; Tang et al. 2022, DAAM). They say where a word is read, not what it does there.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTokenizer

from sarnb.errors import InputError


class AttentionRecord:
    """Cross-attention of all calls.

    Attributes
    ----------
    sums : layer -> the sum over calls of its shares [N, places, tokens], mean over heads.
    calls : layer -> how many calls those are.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.calls: Counter[str] = Counter()

    def add(self, layer: str, shares: Tensor) -> None:
        """Add one call's shares [N, places, tokens]."""
        self.sums[layer] = self.sums.get(layer, 0) + shares.detach().float().cpu()
        self.calls[layer] += 1

    def maps(self, side: int) -> np.ndarray:
        """Shares [N, tokens, side, side], the mean over calls and layers; over the tokens they sum to 1 everywhere.

        Square layers of any size are brought to ``side`` by bilinear interpolation. With guidance the UNet is called on
        twice the batch, the half without the prompt first.

        Raises
        ------
        InputError
            Nothing was recorded, or a layer's places are no square.
        """
        if not self.sums:
            raise InputError("attention: nothing was recorded; draw inside record_attention")
        grids = []
        for layer, total in self.sums.items():
            edge = round(total.shape[1] ** 0.5)
            if edge * edge != total.shape[1]:
                raise InputError(f"attention: layer {layer} has {total.shape[1]} places, which are no square; draw square pictures")
            grid = (total / self.calls[layer]).transpose(1, 2).unflatten(2, (edge, edge))
            grids.append(F.interpolate(grid, (side, side), mode="bilinear", align_corners=False))
        return torch.stack(grids).mean(dim=0).numpy()


class _Recording:
    """Attention as diffusers computes it, written out, so that the shares can be seen. For cross-attention only."""

    def __init__(self, layer: str, record: AttentionRecord) -> None:
        self.layer, self.record = layer, record

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None = None, **_
    ) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, encoder_hidden_states.shape[1], len(hidden_states))
        shares = attn.get_attention_scores(query, key, attention_mask)
        self.record.add(self.layer, shares.unflatten(0, (len(hidden_states), -1)).mean(dim=1))
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(torch.bmm(shares, value))))


@contextlib.contextmanager
def record_attention(unet: UNet2DConditionModel) -> Iterator[AttentionRecord]:
    """Record the cross-attention of every call of the UNet inside the block; the drawn pictures stay what they are.

    Layers go by their module's name, such as ``"mid_block.attentions.0.transformer_blocks.0.attn2"``.
    """
    record, before = AttentionRecord(), dict(unet.attn_processors)
    crossing = {name: _Recording(name.removesuffix(".processor"), record) for name in before if name.endswith("attn2.processor")}
    unet.set_attn_processor(before | crossing)
    try:
        yield record
    finally:
        unet.set_attn_processor(before)


def phrase_map(tokenizer: CLIPTokenizer, prompt: str, maps: np.ndarray, phrase: str) -> np.ndarray | None:
    """The map [h, w] of a phrase, the sum over its tokens of ``maps`` [tokens, h, w]; None where the prompt lacks it.

    A phrase that the tokenizer cut off is lacking, too.
    """
    ids = tokenizer(prompt, truncation=True).input_ids
    wanted = tokenizer(phrase, add_special_tokens=False).input_ids
    for start in range(1, len(ids) - len(wanted)):
        if ids[start : start + len(wanted)] == wanted:
            return maps[start : start + len(wanted)].sum(axis=0)
    return None
