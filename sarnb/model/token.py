"""The learned word ``<SAR>``: one new embedding row in each of SDXL's two text encoders.

A learned word is textual inversion (Gal et al. 2022, arXiv 2208.01618): the network stays as it is, and one vector moves
until captions that hold the word describe the new images.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from peft import TrainableTokensConfig
from peft.tuners.trainable_tokens import TrainableTokensLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sarnb.errors import InputError

TOKEN = "<SAR>"
EMBEDDING_FILE = "learned_embeds.safetensors"
#: SDXL's names of the two rows in a textual-inversion file, and the components they belong to.
ROW_KEYS = {"clip_l": ("tokenizer", "text_encoder"), "clip_g": ("tokenizer_2", "text_encoder_2")}

_RADAR_IMAGE = re.compile(r"\b(?:(an?) )?(?:synthetic[ -]aperture[ -])?(?:radar|SAR) (?:image|view|picture|scene)\b", re.IGNORECASE)


def with_token(caption: str, token: str = TOKEN) -> str:
    """The caption with "radar image", "SAR image", "radar view" and the like written as "<SAR> image".

    A caption that has neither gets "<SAR> image, " in front, for the word can only be learned where it stands.

    >>> with_token("a radar image of a city")
    'a <SAR> image of a city'
    >>> with_token("ships in a port")
    '<SAR> image, ships in a port'
    """
    if token in caption:
        return caption
    replaced, count = _RADAR_IMAGE.subn(lambda match: f"a {token} image" if match[1] else f"{token} image", caption)
    return replaced if count else f"{token} image, {caption}"


def add_token(pipe: StableDiffusionXLPipeline, init: str = "image") -> None:
    """Add ``TOKEN`` to both tokenizers and encoders; its row starts as that of ``init`` (the mean over its pieces).

    All other rows keep their bits.

    Raises
    ------
    InputError
        The token is there already or ``init`` is empty.
    """
    if not init.strip():
        raise InputError(f"init word of {TOKEN} is {init!r}; give a word, for example image")
    rows = {}
    for key, (tokenizer_name, encoder_name) in ROW_KEYS.items():
        pieces = getattr(pipe, tokenizer_name)(init, add_special_tokens=False).input_ids
        rows[key] = getattr(pipe, encoder_name).get_input_embeddings().weight[pieces].mean(dim=0, keepdim=True)
    _install(pipe, rows, TOKEN)


def train_token(encoder: CLIPTextModel | CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> None:
    """Let the token's row train, and nothing else of the embedding table (PEFT trainable tokens).

    Masking the gradient of the table would not do: weight decay would still move every row.
    For an encoder with LoRA give ``trainable_token_indices`` in its ``LoraConfig`` instead.
    """
    ids = [tokenizer.convert_tokens_to_ids(TOKEN)]
    encoder.add_adapter(TrainableTokensConfig(token_indices=ids, target_modules=["token_embedding"]))


def token_row(encoder: CLIPTextModel | CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> Tensor:
    """The token's embedding [1, D] as it is now, trained or not, detached."""
    layer = encoder.get_input_embeddings()
    layer = getattr(layer, "token_adapter", layer)
    if isinstance(layer, TrainableTokensLayer):
        row = layer.trainable_tokens_delta["default"].detach()
        return row.full_tensor() if isinstance(row, DTensor) else row.clone()
    return layer.weight[[tokenizer.convert_tokens_to_ids(TOKEN)]].detach().clone()


def embedding_table(encoder: CLIPTextModel | CLIPTextModelWithProjection) -> Tensor:
    """The whole table [V, D], detached, with the token's untrained starting row where it is being trained."""
    layer = encoder.get_input_embeddings()
    layer = getattr(layer, "token_adapter", layer)
    return getattr(layer, "base_layer", layer).weight.detach()


def word_entries(tokenizer: CLIPTokenizer, rows: int) -> dict[str, int]:
    """Word -> id, for the entries below ``rows`` that end a word, of two letters or more, in the order of their ids.

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


def longest_row(encoder: CLIPTextModel | CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> float:
    """How long the token's row may become: as long as the longest word of the vocabulary, or as it is now, whichever is more.

    An encoder's first layer norm sees hardly more than the direction of a long row, so the gradient stands at right angles to
    the row, every step makes it longer (Heo et al. 2021, arXiv 2006.08217), and it leaves the shell in which all words lie. There
    the encoder's own layers add next to nothing to it: the word no longer reads its neighbours, nor they it.
    """
    table = embedding_table(encoder).float()
    words, start = list(word_entries(tokenizer, len(table)).values()), float(token_row(encoder, tokenizer).norm())
    return max(start, float(table[words].norm(dim=1).max())) if words else start


def save_token(pipe: StableDiffusionXLPipeline, path: Path, writes: bool = True) -> Path:
    """Write both rows in SDXL's textual-inversion layout: safetensors with ``clip_l`` and ``clip_g``, each [1, D].

    Where weights are shared out among processes, all of them call it and the one that ``writes`` writes.
    """
    parts = {key: (getattr(pipe, encoder), getattr(pipe, tokenizer)) for key, (tokenizer, encoder) in ROW_KEYS.items()}
    rows = {key: token_row(*part).float().cpu().contiguous() for key, part in parts.items()}
    if writes:
        save_file(rows, path, metadata={"format": "pt", "token": TOKEN})
    return path


def load_token(pipe: StableDiffusionXLPipeline, path: Path) -> str:
    """Install the rows of ``save_token`` and return the token.

    Raises
    ------
    InputError
        The file is not readable, or its rows do not fit the encoders.
    """
    try:
        with safe_open(path, framework="pt") as file:
            token = (file.metadata() or {}).get("token", TOKEN)
            rows = {key: file.get_tensor(key) for key in ROW_KEYS}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable token file ({error}); export the trained token again") from error
    for key, (_, encoder) in ROW_KEYS.items():
        wanted = getattr(pipe, encoder).config.hidden_size
        if rows[key].shape != (1, wanted):
            raise InputError(
                f"{path}: {key} has shape {tuple(rows[key].shape)} where this foundation needs (1, {wanted}); "
                "load it with the foundation it was trained on"
            )
    _install(pipe, rows, token)
    return token


def _install(pipe: StableDiffusionXLPipeline, rows: dict[str, Tensor], token: str) -> None:
    for key, (tokenizer_name, encoder_name) in ROW_KEYS.items():
        tokenizer, encoder = getattr(pipe, tokenizer_name), getattr(pipe, encoder_name)
        table = encoder.get_input_embeddings().weight
        known = tokenizer.convert_tokens_to_ids(token) if token in tokenizer.get_vocab() else None
        # Both tokenizers may be one object: then the token is in the vocabulary but not yet in the second table.
        if known is not None and known < len(table):
            raise InputError(f"token {token}: it is in the vocabulary already; load a fresh foundation")
        tokenizer.add_tokens(token)
        # Resizing draws random rows; the caller's random state must not notice.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            weight = encoder.get_input_embeddings().weight
            weight[tokenizer.convert_tokens_to_ids(token)] = rows[key][0].to(weight)
        encoder.get_input_embeddings().requires_grad_(False)
        pool_at_end(encoder, tokenizer)


def pool_at_end(encoder: CLIPTextModel | CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> None:
    """Make CLIP pool at the end-of-text token.

    SDXL's configurations say ``eos_token_id: 2``, at which transformers pools at the *highest* id of the prompt. That is
    the end of text until a word is added behind it: then the pooled embedding would stop at the new word, and what
    follows it ("of a city") would never reach the UNet's second text input.
    """
    inner: nn.Module = getattr(encoder, "text_model", encoder)
    inner.eos_token_id = tokenizer.eos_token_id
    encoder.config.eos_token_id = tokenizer.eos_token_id
