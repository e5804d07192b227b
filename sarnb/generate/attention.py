"""Where each word of a prompt acts: cross-attention maps, averaged over heads, layers and denoising steps.

In a cross-attention layer each place of the picture shares out one unit of attention over the tokens of the prompt,
softmax(q·k / sqrt(d)) (Vaswani et al. 2017; Rombach et al. 2022). Averaged, these shares say which word a place listens to
(Hertz et al. 2022; Tang et al. 2022, DAAM). They say where a word is read, not what it does there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTokenizer

from sarnb.errors import InputError
from sarnb.generate.sample import generate


class AttentionRecord:
    """Cross-attention of all calls: for each layer the sum over calls of the shares [N, places, tokens], mean over heads."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.calls: dict[str, int] = {}

    def add(self, layer: str, shares: Tensor) -> None:
        """Add one call's shares [N, places, tokens]."""
        shares = shares.detach().float().cpu()
        self.sums[layer] = self.sums[layer] + shares if layer in self.sums else shares
        self.calls[layer] = self.calls.get(layer, 0) + 1

    def maps(self, side: int) -> np.ndarray:
        """Shares [N, tokens, side, side], the mean over calls and layers; over the tokens they sum to 1 everywhere.

        Square layers of any size are brought to ``side`` by bilinear interpolation. Raises ``InputError`` if nothing was recorded.
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
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **_,
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
    """Record the cross-attention of every call of the UNet inside the block; the drawn pictures stay what they are."""
    record, before = AttentionRecord(), dict(unet.attn_processors)
    crossing = {name: _Recording(name, record) if name.endswith("attn2.processor") else own for name, own in before.items()}
    unet.set_attn_processor(dict(crossing))
    try:
        yield record
    finally:
        unet.set_attn_processor(dict(before))


def draw_with_attention(
    pipe: StableDiffusionXLPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = 25,
    guidance_scale: float = 5.0,
    precision: str = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, 3] as ``generate`` draws them, all in one batch, and their maps [N, tokens, h, w] in latent pixels.

    With guidance the UNet is asked twice, without and with the prompt; the maps are those with it. Raises as ``generate``.
    """
    with record_attention(pipe.unet) as record:
        images = generate(pipe, prompts, seeds, steps, guidance_scale, batch_size=len(prompts), precision=precision, label="attention")
    return images, record.maps(pipe.unet.config.sample_size)[-len(prompts) :]


def word_places(tokenizer: CLIPTokenizer, prompt: str, phrase: str) -> list[int]:
    """Positions of a phrase's tokens in the tokenised prompt, start mark counted; [] where it does not occur or was cut off."""
    ids = tokenizer(prompt, truncation=True).input_ids
    wanted = tokenizer(phrase, add_special_tokens=False).input_ids
    for start in range(1, len(ids) - len(wanted)):
        if ids[start : start + len(wanted)] == wanted:
            return list(range(start, start + len(wanted)))
    return []


def phrase_map(tokenizer: CLIPTokenizer, prompt: str, maps: np.ndarray, phrase: str) -> np.ndarray | None:
    """The map [h, w] of a phrase, the sum over its tokens of ``maps`` [tokens, h, w]; None where the prompt lacks it."""
    places = word_places(tokenizer, prompt, phrase)
    return maps[places].sum(axis=0) if places else None
