"""What a training did to words and weights, and where words act: neighbours, ways, weight differences, cross-attention maps."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
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


# Where each word of a prompt acts: cross-attention maps, averaged over heads, layers and denoising steps.
#
# In a cross-attention layer each place of the picture shares out one unit of attention over the tokens of the prompt,
# softmax(q·k / sqrt(d)) (Vaswani et al. 2017; Rombach et al. 2022). Averaged, these shares say which word a place listens to
# (Hertz et al. 2022; Tang et al. 2022, DAAM). They say where a word is read, not what it does there.


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
