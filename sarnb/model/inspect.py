"""Which weights a training changed, to the bit: the proof that a learned word trains its own row and nothing else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import CLIPTokenizer

from sarnb.errors import InputError
from sarnb.model.foundation import components, encode_prompts
from sarnb.model.strategy import ENCODERS
from sarnb.model.token import ROW_KEYS, TOKEN, embedding_table, token_row

# How a text-to-image model reads its prompts: tokens, the pieces that words fall into, and text embeddings.


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
    table = pd.DataFrame(
        {
            "word": [word for word, _, _ in rows],
            "uses": [count for _, count, _ in rows],
            "tokens": [len(parts) for _, _, parts in rows],
            "pieces": [" ".join(parts) for _, _, parts in rows],
        }
    )
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


# Where a learned word lies: its nearest rows in the vocabulary of each text encoder.


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
    return {
        word: index
        for word, index in sorted(found, key=lambda pair: pair[1])
        if len(word) > 1 and word.isascii() and word.isalpha() and index < rows
    }


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


# The way of a learned word through the embedding space, from the files that its training left.

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
        parts.append(
            pd.DataFrame(
                {
                    "encoder": encoder,
                    "step": list(files),
                    "distance": (rows - rows[:1]).norm(dim=1).tolist(),
                    "cosine": cosine_similarity(rows, rows[:1]).tolist(),
                    "norm": rows.norm(dim=1).tolist(),
                    "word": near["word"].tolist(),
                    "word cosine": near["cosine"].tolist(),
                }
            )
        )
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
        parts.append(
            pd.DataFrame(
                {
                    "encoder": encoder,
                    "start": [word for word, files in paths.items() for _ in files],
                    "step": [step for files in paths.values() for step in files],
                    "x": plane[:, 0],
                    "y": plane[:, 1],
                    "shown": float((sizes[:2] ** 2).sum()) / power if power else 1.0,
                }
            )
        )
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


# What tuning the text encoders does to prompts: how far their embeddings went, and how far apart two wordings lie.


@torch.no_grad()
def token_change(before: StableDiffusionXLPipeline, after: StableDiffusionXLPipeline, prompts: Sequence[str]) -> list[float]:
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
            raise InputError(f"text shift: {len(texts)} prompts of wording {wording} for {len(labels)} classes; give one each")
    return prompts


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
            raise InputError(f"changed weights: {name} has other tensors after the training than before; compare strategies without LoRA")
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
