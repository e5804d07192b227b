"""Is a loaded pipeline whole? The libraries start missing weights at random, with a warning that scrolls by."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diffusers import StableDiffusionXLPipeline
from safetensors import safe_open
from torch import nn

from sarnb.errors import InputError

ENCODERS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))


def check_whole(pipe: StableDiffusionXLPipeline, folder: Path, parts: Iterable[str]) -> None:
    """Raise ``InputError`` if weights that one of the ``parts`` needs are not in its files in a local diffusers folder.

    Files of other formats are not looked into. The prefix ``text_model.`` plays no part: transformers 5 dropped it.
    """
    for part in parts:
        stored = _stored_names(folder / part)
        missing = sorted(_names(getattr(pipe, part)) - stored) if stored else []
        if missing:
            raise InputError(
                f"{folder / part}: {len(missing)} weights are missing, such as {missing[0]}, so the file belongs to another "
                f"network than its config.json; put the two of one model there"
            )


def check_words(pipe: StableDiffusionXLPipeline, where: str) -> None:
    """Raise ``InputError`` if a tokenizer writes ids, or sequences, that its text encoder has no row for."""
    for tokenizer, encoder in ((getattr(pipe, a), getattr(pipe, b)) for a, b in ENCODERS):
        rows, words = encoder.get_input_embeddings().num_embeddings, len(tokenizer)
        places, length = encoder.config.max_position_embeddings, tokenizer.model_max_length
        if words > rows or length > places:
            raise InputError(
                f"{where}: a tokenizer of {words} words and {length} places does not match its text encoder of {rows} words and "
                f"{places} places; take both from one model"
            )


def _names(module: nn.Module) -> set[str]:
    return {name.removeprefix("text_model.") for name, _ in module.named_parameters()}


def _stored_names(folder: Path) -> set[str]:
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names |= {name.removeprefix("text_model.") for name in file.keys()}
    return names
