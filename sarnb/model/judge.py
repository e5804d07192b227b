"""The judge before and after its training: SAR-CLIP, a dual encoder that reads with the foundation's words or with CLIP's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from transformers import CLIPTokenizer

from sarnb import foundation_path, split_foundation
from sarnb.errors import InputError
from sarnb.model.clip import DualEncoder, TwoTowers, build_dual_encoder
from sarnb.model.foundation import FoundationConfig, load_foundation
from sarnb.model.openclip import CONFIG, load_open_clip

SMALL = "small"  # the judge that starts from nothing


def foundation_tokenizer(spec: str = "embedded") -> CLIPTokenizer:
    """The first tokenizer of a foundation, without loading its networks where that is possible.

    ``spec`` is what ``load_foundation`` takes: "embedded", a diffusers folder, a single file, or a hub id. Raises
    ``InputError`` where there is no tokenizer.
    """
    base, _ = split_foundation(spec)
    path = foundation_path() if base == "embedded" else Path(base)
    if path.suffix in (".safetensors", ".ckpt"):
        return load_foundation(spec).tokenizer
    try:
        return CLIPTokenizer.from_pretrained(str(path) if path.exists() else base, subfolder="tokenizer")
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


def load_judge(spec: str | Path) -> TwoTowers:
    """A trained judge, frozen as after its training: a folder that ``train_judge`` made, or what ``load_open_clip`` takes.

    Raises ``InputError`` if it is missing or damaged.
    """
    folder = Path(spec)
    of_open_clip = (folder / CONFIG).is_file() if folder.is_dir() else ":" in str(spec)
    judge = load_open_clip(str(spec)) if of_open_clip else DualEncoder.load(folder)
    return judge.eval().requires_grad_(False)


def start_judge(spec: str, foundation: str, seed: int = 0) -> TwoTowers:
    """What a judge's training starts from: "small", with the words of ``foundation``, or a CLIP of open_clip."""
    if spec == SMALL:
        return build_judge(foundation_tokenizer(foundation), seed)
    judge = load_open_clip(spec)
    judge.model.set_grad_checkpointing()  # activations computed twice: a batch of a large CLIP then fits on one GPU
    return judge
