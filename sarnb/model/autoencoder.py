"""Another autoencoder for a foundation, such as SDXL's fp16-fix, and float32 for those that overflow in fp16."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError
from torch import nn

from sarnb.errors import InputError


SINGLE = (".safetensors", ".ckpt")
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def single_file_configuration(path: Path) -> dict[str, str]:
    """What ``from_single_file`` needs beside the weights of an autoencoder: the folder ``x/`` of ``x.safetensors``, else SDXL's.

    Left to itself, diffusers takes a lone autoencoder for that of Stable Diffusion 1.5, whose latents are scaled otherwise.
    """
    folder = path.with_suffix("")
    if (folder / "vae" / "config.json").is_file():
        return {"config": str(folder), "subfolder": "vae"}
    if (folder / "config.json").is_file():
        return {"config": str(folder)}
    return {"config": SDXL, "subfolder": "vae"}


def read_autoencoder(source: str, dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """The autoencoder of a hub id, a single .safetensors file, or a folder (of it, or of a pipeline or model with ``vae/``).

    A single file holds weights only, of the autoencoder alone or of all networks; see ``single_file_configuration``. Raises ``InputError`` where nothing is there or the weights are damaged.
    """
    path = Path(source)
    try:
        if path.suffix in SINGLE:
            return AutoencoderKL.from_single_file(path, **single_file_configuration(path)).to(dtype)
        below = {"subfolder": "vae"} if (path / "vae").is_dir() else {}
        return AutoencoderKL.from_pretrained(source, torch_dtype=dtype, **below)
    except (OSError, KeyError, SafetensorError, SingleFileComponentError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        single = path.suffix in SINGLE
        beside = f" (with its configuration in {path.with_suffix('')}/config.json, if the hub is out of reach)" if single else ""
        raise InputError(
            f"autoencoder {source!r}: cannot be loaded ({reason}); give a diffusers folder, a single .safetensors file{beside} or "
            "a hub id that can be reached"
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
