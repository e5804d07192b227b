"""The judge before its training: SAR-CLIP, a dual encoder that reads with the foundation's words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from transformers import CLIPTokenizer

from sarnb import foundation_path
from sarnb.errors import InputError
from sarnb.model.clip import DualEncoder, build_dual_encoder
from sarnb.model.foundation import FoundationConfig, load_foundation


def foundation_tokenizer(spec: str = "embedded") -> CLIPTokenizer:
    """The first tokenizer of a foundation, without loading its networks where that is possible.

    ``spec`` is what ``load_foundation`` takes: "embedded", a diffusers folder, a single file, or a hub id. Raises
    ``InputError`` where there is no tokenizer.
    """
    path = foundation_path() if spec == "embedded" else Path(spec)
    if path.suffix in (".safetensors", ".ckpt"):
        return load_foundation(spec).tokenizer
    try:
        return CLIPTokenizer.from_pretrained(str(path) if path.exists() else spec, subfolder="tokenizer")
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f'foundation {spec!r}: its tokenizer cannot be loaded ({reason}); give "embedded", a diffusers folder, '
            "a single .safetensors file or a hub id that can be reached"
        ) from error


def build_judge(tokenizer: CLIPTokenizer, seed: int = 0) -> DualEncoder:
    """A randomly started judge: one image tower, one text tower as long as the tokenizer's texts.

    It shares words with the foundation but no weight: a judge must not inherit what it judges.
    """
    config = replace(FoundationConfig(), max_tokens=tokenizer.model_max_length)
    return build_dual_encoder(tokenizer, towers=1, config=config, seed=seed)
