"""The held-out loss of a fine-tuning of the autoencoder: whole images, no noise, nothing random."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn

from sarnb.model.foundation import to_pixels
from sarnb.train.precision import autocast
from sarnb.train.vae_config import VaeConfig
from sarnb.train.vae_losses import LossRecipe, reconstruction_terms


def beside(vae: AutoencoderKL, features: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The feature networks on the device to which the loop has moved the autoencoder."""
    return {name: network.to(vae.device) for name, network in features.items()}


def held_out_batch(config: VaeConfig, height: int, width: int) -> int:
    """How many whole images have no more pixels than the crops of a training step, one at least."""
    return max(1, config.batch_size * config.crop**2 // (height * width))


@torch.no_grad()
def held_out_loss(
    vae: AutoencoderKL, images: np.ndarray, recipe: LossRecipe, features: Mapping[str, nn.Module], config: VaeConfig
) -> float:
    """The recipe's terms that compare pictures, on whole images uint8 [N, H, W] and posterior means; mean over images.

    In batches of ``held_out_batch`` images, so what fits into memory in training fits here. The lattice's term is one of a
    whole batch and not of an image: chance leaves more of it in smaller batches, so it compares runs of one crop and batch.
    """
    total, batch = 0.0, held_out_batch(config, *images.shape[1:])
    for start in range(0, len(images), batch):
        pixels = to_pixels(images[start : start + batch]).to(vae.device)
        with autocast(config.precision):
            decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
            parts = reconstruction_terms(recipe.weights, pixels, decoded, beside(vae, features))
        total += len(pixels) * float(sum(recipe.weights[name] * value for name, value in parts.items()))
    return total / len(images)
