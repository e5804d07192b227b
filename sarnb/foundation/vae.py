"""Pretraining of the foundation's autoencoder: its crops, its losses together, and the scale of its latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.func import functional_call

from sarnb.model.foundation import encode_posterior, to_pixels
from sarnb.train.loop import MicroBatch, batch_ids, step_generator, train_loop
from sarnb.train.state import LoopConfig
from sarnb.train.vae import random_crops
from sarnb.train.vae_losses import PatchDiscriminator, hinge_discriminator_loss, kl_to_unit_normal, perceptual_distance


@dataclass(frozen=True)
class VaeLossWeights:
    """Weights of the terms that are added to L1."""

    kl: float = 1e-6  # per latent element, towards the unit normal
    perceptual: float = 0.1  # on the features of a frozen network, where one is given
    adversarial: float = 0.05  # hinge loss of a patch discriminator
    adversarial_start: float = 0.4  # share of the run after which the discriminator joins


def mixed_crops(
    scenes: np.ndarray, textures: np.ndarray, count: int, size: int, seed: int, step: int, scene_share: float = 0.625
) -> np.ndarray:
    """One batch of crops, uint8 [count, size, size, 3]: a share of scenes, the rest textures, a quarter of all as grey."""
    rng = np.random.default_rng((seed, 31, step))
    share = int(count * scene_share)
    pictures = np.concatenate(
        [
            random_crops(scenes[batch_ids(len(scenes), share, seed, step)], size, rng),
            random_crops(textures[batch_ids(len(textures), count - share, seed, step)], size, rng),
        ]
    )
    grey = rng.random(count) < 0.25
    pictures[grey] = pictures[grey].mean(axis=3, keepdims=True).astype(np.uint8)
    return pictures


def autoencoder_losses(
    vae: nn.Module,
    discriminator: nn.Module,
    pixels: Tensor,
    noise: Tensor,
    weights: VaeLossWeights,
    features: nn.Module | None,
    adversarial: bool,
) -> dict[str, Tensor]:
    """All terms of one step; the entry ``"loss"`` trains autoencoder and discriminator in one backward pass.

    The generator term sees the discriminator's weights detached, the discriminator term sees the picture detached.
    """
    posterior = vae.encode(pixels).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    parts = {"l1": (decoded - pixels).abs().mean(), "kl": kl_to_unit_normal(posterior.mean, posterior.logvar)}
    parts["loss"] = parts["l1"] + weights.kl * parts["kl"]
    if features is not None:
        parts["perceptual"] = perceptual_distance(features, pixels, decoded)
        parts["loss"] = parts["loss"] + weights.perceptual * parts["perceptual"]
    parts["discriminator"] = parts["loss"].new_zeros(())
    if adversarial:
        detached = {name: value.detach() for name, value in discriminator.named_parameters()}
        generator = -functional_call(discriminator, detached, (decoded,)).mean()
        scores = discriminator(torch.cat([pixels, decoded.detach()])).chunk(2)
        parts["discriminator"] = hinge_discriminator_loss(*scores)
        parts["loss"] = parts["loss"] + weights.adversarial * generator + parts["discriminator"]
    return parts


def pretrain_vae(
    vae: AutoencoderKL,
    scenes: np.ndarray,
    textures: np.ndarray,
    config: LoopConfig,
    out: Path,
    *,
    batch_size: int = 16,
    crop: int = 64,
    weights: VaeLossWeights = VaeLossWeights(),
    features: nn.Module | None = None,
    decoder_only: bool = False,
    scene_share: float = 0.625,
) -> pd.DataFrame:
    """Train a general VAE on ``mixed_crops`` of optical scenes and texture pictures; no SAR.

    Parameters
    ----------
    scenes, textures : uint8 [N, H, W, 3].
    crop : side of a crop in px.
    features : network of the perceptual loss; none leaves that loss out.
    decoder_only : leaves encoder and latents as they are, and so all that was built on them.
    scene_share : of the crops that are of scenes.
    """
    discriminator = PatchDiscriminator()
    trained = (vae.decoder, vae.post_quant_conv) if decoder_only else (vae,)
    vae.eval().requires_grad_(False)
    for part in trained:
        part.train().requires_grad_(True)

    def loss(modules: dict[str, nn.Module], step: int, micro: MicroBatch) -> dict[str, Tensor]:
        pixels = to_pixels(micro.of(mixed_crops(scenes, textures, batch_size, crop, config.seed, step, scene_share))).to(vae.device)
        shape = (batch_size, vae.config.latent_channels, crop // 8, crop // 8)
        noise = micro.of(torch.randn(shape, generator=step_generator(config.seed, step))).to(vae.device)
        adversarial = weights.adversarial > 0 and step >= weights.adversarial_start * config.steps
        return autoencoder_losses(modules["vae"], modules["discriminator"], pixels, noise, weights, features, adversarial)

    modules = {"vae": vae, "discriminator": discriminator}
    history = train_loop(modules, loss, config, out, batch_size=batch_size, label=out.name)
    vae.eval().requires_grad_(False)
    return history


@torch.no_grad()
def fold_latent_statistics(vae: AutoencoderKL, images: np.ndarray, balance: float = 0.0) -> None:
    """Give each latent channel zero mean over ``images`` and a chosen variance, by changing the two 1x1 convolutions.

    The standard deviation becomes (w / max w)^balance with the channel's weight w in the picture (``channel_weights``):
    unit variance for 0, the proportions of the pixels for 1. Between them, noise drowns fine detail before layout, and
    sampling settles layout first, as with pixels (see Skorokhodov et al. 2025, arXiv 2502.14831, on the spectrum of
    latents). z' = (z - m) / s goes into ``quant_conv``, its inverse into ``post_quant_conv``; reconstructions stay the
    same. (diffusers can hold m and s in the configuration, but its SDXL pipeline reads them for four channels only.)
    """
    means, stds = encode_posterior(vae, images)
    mean = means.mean(dim=(0, 2, 3))
    scale = (means.var(dim=(0, 2, 3)) + stds.pow(2).mean(dim=(0, 2, 3))).sqrt()
    if balance:
        weights = channel_weights(vae, means[:32], scale)
        scale = scale / (weights / weights.max()) ** balance
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= scale.view(1, -1, 1, 1)
    quant.weight[:channels] /= scale.view(-1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - mean) / scale
    quant.bias[channels:] -= 2 * scale.log()


@torch.no_grad()
def channel_weights(vae: AutoencoderKL, latents: Tensor, scale: Tensor) -> Tensor:
    """How much each channel moves the picture [C]: rms change of the pixels for noise of a third of the channel's ``scale`` [C].

    latents [N, C, h, w], not normalised; the noise is fixed.
    """
    picture, generator, changes = vae.decode(latents).sample, torch.Generator().manual_seed(0), []
    for channel, size in enumerate(scale / 3):
        moved = latents.clone()
        moved[:, channel] += size * torch.randn(moved[:, channel].shape, generator=generator).to(moved)
        changes.append((vae.decode(moved).sample - picture).pow(2).mean().sqrt())
    return torch.stack(changes)
