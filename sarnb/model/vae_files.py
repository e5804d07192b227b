"""Trained autoencoders on disk: load one of ours, and write one as a folder that plain diffusers loads."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from diffusers import AutoencoderKL
from safetensors import SafetensorError

from sarnb import foundation_path, split_foundation
from sarnb.errors import InputError
from sarnb.model.autoencoder import read_autoencoder
from sarnb.model.export import CARD, RECORD, read_record
from sarnb.model.strategy import Strategy
from sarnb.model.trained_card import trained_card
from sarnb.model.vae import LORA_FILE, apply_lora

FOLDER = "vae"  # below a model's folder, as in a diffusers pipeline


def load_vae(folder: Path, foundation: str = "embedded") -> AutoencoderKL:
    """The trained autoencoder of ``folder``, frozen, float32, LoRA multiplied in.

    ``folder``: of ``save_trained`` or of ``write_vae``. ``foundation``: what it was trained from, which only a LoRA needs.
    Raises ``InputError`` for a folder without a finished autoencoder, damaged weights, and a LoRA for another autoencoder.
    """
    folder = Path(folder)
    strategy = Strategy(**read_record(folder)["strategy"])
    if strategy.vae == "frozen":
        raise InputError(f"{folder}: {strategy.name} trained no autoencoder; give the folder of a VAE strategy")
    if strategy.vae.startswith("lora") and (folder / LORA_FILE).exists():
        return _frozen(apply_lora(foundation_vae(foundation), folder / LORA_FILE))
    return _frozen(_read(folder / FOLDER))


def foundation_vae(foundation: str = "embedded") -> AutoencoderKL:
    """The autoencoder alone of a foundation: "embedded", a local diffusers folder, a single file or a hub id; float32.

    Of ``FOUNDATION+vae=VAE`` it is the VAE named behind the foundation.
    """
    base, other = split_foundation(foundation)
    if other:
        return _frozen(read_autoencoder(other))
    path = foundation_path() if base == "embedded" else Path(base)
    if path.suffix in (".safetensors", ".ckpt"):
        return _frozen(read_autoencoder(base))
    return _frozen(_read(str(path) if path.exists() else base, subfolder=FOLDER))


def write_vae(vae: AutoencoderKL, record: dict, folder: Path) -> Path:
    """Write a plain autoencoder into ``folder/vae``, with record and model card: what any diffusers user can load.

    ``AutoencoderKL.from_pretrained(folder, subfolder="vae")`` and ``load_vae(folder)`` read it. Raises ``InputError`` on a
    full disk.
    """
    folder, staging = Path(folder), Path(folder) / f"{FOLDER}.tmp"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        (folder / RECORD).unlink(missing_ok=True)
        vae.save_pretrained(staging, safe_serialization=True)
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        os.replace(staging, folder / FOLDER)
        record = record | {"merged": True}
        (folder / CARD).write_text(trained_card(Strategy(**record["strategy"]), record), encoding="utf-8")
        files = {f"{FOLDER}/{path.name}": path.stat().st_size for path in sorted((folder / FOLDER).iterdir())}
        (folder / RECORD).write_text(json.dumps(record | {"files": files}, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: the autoencoder could not be saved ({error}); free some disk space and run again") from error
    return folder


def _read(source: Path | str, **where: str) -> AutoencoderKL:
    try:
        return AutoencoderKL.from_pretrained(source, low_cpu_mem_usage=False, **where).float()
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{source}: no autoencoder can be loaded ({reason}); train it again, or give another folder") from error


def _frozen(vae: AutoencoderKL) -> AutoencoderKL:
    return vae.eval().requires_grad_(False)
