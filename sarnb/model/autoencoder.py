"""Another autoencoder for a foundation, such as SDXL's fp16-fix, and float32 for those that overflow in fp16."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn

from sarnb.errors import InputError


def read_autoencoder(source: str, dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """The autoencoder of a hub id, a single .safetensors file, or a folder (of it, or of a pipeline or model with ``vae/``).

    Raises ``InputError`` where nothing is there or the weights are damaged.
    """
    path = Path(source)
    try:
        if path.suffix in (".safetensors", ".ckpt"):
            return AutoencoderKL.from_single_file(path).to(dtype)
        below = {"subfolder": "vae"} if (path / "vae").is_dir() else {}
        return AutoencoderKL.from_pretrained(source, torch_dtype=dtype, **below)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"autoencoder {source!r}: cannot be loaded ({reason}); give a diffusers folder, a single .safetensors file or a "
            "hub id that can be reached"
        ) from error


def check_fit(vae: AutoencoderKL, unet: UNet2DConditionModel, source: str) -> None:
    """Raise ``InputError`` if the UNet cannot work on the latents of ``vae``."""
    if vae.config.latent_channels != unet.config.in_channels:
        raise InputError(
            f"autoencoder {source!r}: its latents have {vae.config.latent_channels} channels, but the foundation's UNet "
            f"works on {unet.config.in_channels}; give an autoencoder of the same kind"
        )


@contextlib.contextmanager
def upcast(vae: AutoencoderKL) -> Iterator[None]:
    """Inside the block an fp16 autoencoder whose configuration says ``force_upcast`` works in float32, as in diffusers.

    SDXL's own has activations beyond 65504, the largest number of fp16, and would give NaN; fp16-fix says no such thing.
    """
    if not (vae.dtype == torch.float16 and vae.config.force_upcast):
        yield
        return
    nn.Module.to(vae, torch.float32)  # diffusers' own method warns at every call
    try:
        yield
    finally:
        nn.Module.to(vae, torch.float16)
