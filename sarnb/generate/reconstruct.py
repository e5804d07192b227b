"""The autoencoder's round trip: images in, images out, whole or in tiles."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from diffusers import AutoencoderKL

from sarnb.errors import InputError
from sarnb.model.foundation import to_images, to_pixels


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
