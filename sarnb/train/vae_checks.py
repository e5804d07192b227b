"""What a fine-tuning of the autoencoder asks of its images, so that bad input ends in one clear sentence."""

from __future__ import annotations

import numpy as np
from diffusers import AutoencoderKL

from sarnb.errors import InputError
from sarnb.train.vae_losses import PERIODOGRAM_SIDE, LossRecipe


def downsampling(vae: AutoencoderKL) -> int:
    """Pixels a latent cell, along each axis."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def check_images(
    vae: AutoencoderKL, images: np.ndarray, crop: int, recipe: LossRecipe, val: np.ndarray | None = None
) -> None:
    """Refuse what cannot be trained on: images [N, H, W], crops of ``crop`` px, whole validation images ``val`` [N, H, W].

    Raises ``InputError`` for another type or shape, a crop or a validation image that the autoencoder cannot divide, a crop
    larger than the images, and sides that a term of ``recipe`` cannot compare.
    """
    factor = downsampling(vae)
    _check_stack(images, "images")
    if crop % factor or crop > min(images.shape[1:]):
        raise InputError(
            f"autoencoder training: crops of {crop} px from images of {images.shape[2]} x {images.shape[1]} px; the crop must "
            f"be a multiple of {factor} px and fit in the images"
        )
    if "periodogram" in recipe.weights and crop < PERIODOGRAM_SIDE:
        raise InputError(
            f"autoencoder training: crops of {crop} px are smaller than the windows of the loss term periodogram; give crops "
            f"of {PERIODOGRAM_SIDE} px or more, or leave the term out"
        )
    if val is not None:
        _check_validation(val, factor, recipe)


def _check_validation(val: np.ndarray, factor: int, recipe: LossRecipe) -> None:
    """Validation images are seen whole, so their own sides must suit the autoencoder and the terms."""
    _check_stack(val, "validation images")
    height, width = val.shape[1:]
    about = f"autoencoder training: validation images of {width} x {height} px"
    if height % factor or width % factor:
        raise InputError(f"{about}; they are coded whole, so cut both sides to multiples of {factor} px")
    if "spectrum" in recipe.weights and height != width:
        raise InputError(f"{about}: the loss term spectrum compares square pictures; cut them square or leave the term out")
    if "periodogram" in recipe.weights and min(height, width) < PERIODOGRAM_SIDE:
        raise InputError(f"{about}: the loss term periodogram needs sides of {PERIODOGRAM_SIDE} px or more; leave it out here")


def _check_stack(images: np.ndarray, name: str) -> None:
    if images.dtype != np.uint8 or images.ndim != 3 or not len(images):
        about = f"autoencoder training: {name} are {images.dtype} {images.shape}"
        raise InputError(f"{about}; give grey uint8 [N, H, W], one or more")
