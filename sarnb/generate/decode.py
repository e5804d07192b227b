"""The same samples by another decoder: final latents beside the images, drawn anew by an autoencoder of the same latents.

What the UNet learned is in the latents; grain and amplitude are the decoder's too. Two strategies that differ little can look
alike under a decoder that cannot carry speckle, so each set of samples is also judged as a better decoder draws it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from sarnb.data.dataset import ImageSet, load_set
from sarnb.data.files import content_key, saving, write_json
from sarnb.errors import InputError
from sarnb.generate.sample import to_grey, write_samples
from sarnb.model.foundation import decode_latents, fingerprint, to_images, to_pixels

LATENTS = "latents.npz"
STAMP = "decoding.json"


def write_latents(folder: Path, latents: np.ndarray) -> None:
    """Put final latents float16 [N, C, h, w], one a row of the folder's metadata, beside the images."""
    with saving(folder):
        temporary = Path(folder) / f".{LATENTS}.tmp.npz"
        np.savez(temporary, latents=np.asarray(latents, np.float16))
        os.replace(temporary, Path(folder) / LATENTS)


def read_latents(folder: Path) -> np.ndarray:
    """The final latents of a samples folder, float16 [N, C, h, w]. Raises ``InputError`` if they are missing or damaged."""
    path = Path(folder) / LATENTS
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["latents"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: no final latents can be read ({type(error).__name__}); draw the samples again") from error


def redraw(samples: ImageSet, vae: AutoencoderKL, out: Path, batch_size: int = 16) -> ImageSet:
    """Samples with the images that another decoder makes of their final latents, written into the folder ``out``.

    What is there already, of the same latents and weights, is read back. Raises ``InputError`` where the latents are
    missing, of another number than the images, or of other channels than the decoder's.
    """
    latents, out = read_latents(samples.root), Path(out)
    if len(latents) != len(samples):
        raise InputError(f"{samples.root}: {len(latents)} latents for {len(samples)} images; draw the samples again")
    if latents.shape[1] != vae.config.latent_channels:
        raise InputError(
            f"{samples.root}: latents of {latents.shape[1]} channels, the decoder takes {vae.config.latent_channels}; give one "
            "of the same foundation"
        )
    stamp = {"latents": content_key(latents), "decoder": fingerprint(vae)}
    try:
        if json.loads((out / STAMP).read_text(encoding="utf-8")) == stamp:
            return load_set(out)
    except (OSError, ValueError):
        pass
    images = to_grey(decode_latents(vae, torch.from_numpy(latents.astype(np.float32)), batch_size))
    write_samples(out, images, [{key: value for key, value in row.items() if key != "file_name"} for row in samples.rows])
    write_json(out / STAMP, stamp)
    return load_set(out)


# The autoencoder's round trip: images in, images out, whole or in tiles.


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: np.ndarray, batch_size: int = 16, tile: int = 0) -> np.ndarray:
    """Images after encoding to the posterior mean and decoding: uint8 [N, H, W] or [N, H, W, 3] → uint8 [N, H, W, 3].

    Grey goes into all three channels. On the graphics card where there is one; the autoencoder stays there. ``tile`` > 0
    encodes and decodes in blended tiles of that many px, as diffusers does: memory then grows with the tile and not with
    the image. Raises ``InputError`` for sides or tiles that the autoencoder cannot divide.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    sides = (("image height", images.shape[1], factor), ("image width", images.shape[2], factor), ("tile", tile, 4 * factor))
    for what, side, unit in sides:  # tiles overlap by a quarter, which has to hold whole latent cells too
        if side % unit:
            raise InputError(f"round trip: {what} is {side} px, the autoencoder needs multiples of {unit}; crop or pad")
    vae.to("cuda" if torch.cuda.is_available() else "cpu")
    pieces = []
    with _tiled(vae, tile, factor):
        for start in range(0, len(images), batch_size):
            pixels = to_pixels(images[start : start + batch_size]).to(vae.device, vae.dtype)
            pieces.append(to_images(vae.decode(vae.encode(pixels).latent_dist.mean).sample))
    return np.concatenate(pieces)


@contextlib.contextmanager
def _tiled(vae: AutoencoderKL, tile: int, factor: int) -> Iterator[None]:
    """Tiling of the given size inside the block, and the autoencoder's own settings after it."""
    names = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size")
    own = {name: getattr(vae, name) for name in names}
    if tile:
        vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size = True, tile, tile // factor
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(vae, name, value)
