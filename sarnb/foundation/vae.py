"""Pretraining of the foundation's autoencoder: its crops, its losses together, and the scale of its latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from sarnb.model.foundation import encode_posterior, to_pixels
from sarnb.train.loop import MicroBatch, batch_ids, step_generator, train_loop
from sarnb.train.state import LoopConfig
from sarnb.train.vae import random_crops
from sarnb.train.vae_losses import kl_to_unit_normal, perceptual_distance


def mixed_crops(
    scenes: np.ndarray, textures: np.ndarray, count: int, size: int, seed: int, step: int, scene_share: float = 0.625
) -> np.ndarray:
    """One batch of crops, uint8 [count, size, size, 3]: a share of scenes, the rest textures, a quarter of all as grey."""
    rng, share = np.random.default_rng((seed, 31, step)), int(count * scene_share)
    sources = ((scenes, share), (textures, count - share))
    pictures = np.concatenate([random_crops(source[batch_ids(len(source), part, seed, step)], size, rng) for source, part in sources])
    grey = rng.random(count) < 0.25
    pictures[grey] = pictures[grey].mean(axis=3, keepdims=True).astype(np.uint8)
    return pictures


def pretrain_vae(
    vae: AutoencoderKL,
    scenes: np.ndarray,
    textures: np.ndarray,
    config: LoopConfig,
    out: Path,
    *,
    batch_size: int,
    crop: int,
    kl: float,
    perceptual: float = 0.0,
    features: nn.Module | None = None,
    scene_share: float = 0.625,
) -> pd.DataFrame:
    """Train a general VAE on ``mixed_crops`` of optical scenes and texture pictures; no SAR.

    Parameters
    ----------
    scenes, textures : uint8 [N, H, W, 3].
    crop : side of a crop in px.
    kl : weight, per latent element, of the divergence from the unit normal, which is added to L1.
    perceptual, features : weight and network of the perceptual loss; no network leaves that loss out.
    scene_share : of the crops that are of scenes.
    """

    def loss(modules: dict[str, nn.Module], step: int, micro: MicroBatch) -> dict[str, Tensor]:
        pixels = to_pixels(micro.of(mixed_crops(scenes, textures, batch_size, crop, config.seed, step, scene_share))).to(vae.device)
        shape = (batch_size, vae.config.latent_channels, crop // 8, crop // 8)
        noise = micro.of(torch.randn(shape, generator=step_generator(config.seed, step))).to(vae.device)
        posterior = modules["vae"].encode(pixels).latent_dist
        decoded = modules["vae"].decode(posterior.mean + posterior.std * noise).sample
        parts = {"l1": (decoded - pixels).abs().mean(), "kl": kl_to_unit_normal(posterior.mean, posterior.logvar)}
        parts["loss"] = parts["l1"] + kl * parts["kl"]
        if features is not None:
            parts["perceptual"] = perceptual_distance(features, pixels, decoded)
            parts["loss"] = parts["loss"] + perceptual * parts["perceptual"]
        return parts

    vae.train().requires_grad_(True)
    history = train_loop({"vae": vae}, loss, config, out, batch_size=batch_size, label=out.name)
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
