"""The foundation's autoencoder: a linear start, its pretraining, and the scale of its latents.

The linear start is the best linear code first, then everything else. An autoencoder whose residual blocks start as the
identity is linear up to its last normalisations: a chain of convolutions, here called the skeleton. The skeleton's weights can be
computed. The encoder gets the principal components of 8 x 8 px blocks, level by level. The decoder gets, level by level, the
least-squares estimate of what the encoder had there. A short descent of the mean squared error then fits both to each other. A like
network that started at random was still four decibels behind this one after half an hour of training.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from sarnb.errors import InputError
from sarnb.model.foundation import encode_posterior, to_pixels
from sarnb.train.loop import MicroBatch, batch_ids, step_generator, train_loop
from sarnb.train.state import LoopConfig
from sarnb.train.vae import random_crops
from sarnb.train.vae_losses import kl_to_unit_normal, perceptual_distance

# The pixel itself and its eight neighbours, nearest first: where a feature of the decoder may come from.
SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))
STEADY = 16.0  # of the constant channels next to signals of unit variance, see ``bypass_norms``


def signal_count(vae: AutoencoderKL, width: int) -> int:
    """Signals that pass a normalisation of ``width`` channels: a pair of channels each, after a constant pair a group."""
    return width // 2 - vae.config.norm_num_groups


def skeleton(vae: AutoencoderKL) -> list[nn.Conv2d]:
    """The convolutions that are not inside a residual branch, in the order in which they act."""
    parts = vae.encoder, vae.decoder
    return [getattr(layer, "conv", layer) for part in parts for layer in (*_chain(part), part.conv_out)]


def _chain(part: nn.Module) -> list[nn.Module]:
    """The layers of one half outside its residual branches, but for the last convolution: convolutions and samplers."""
    layers = [part.conv_in]
    for block in getattr(part, "down_blocks", None) or part.up_blocks:
        if (shortcut := block.resnets[0].conv_shortcut) is not None:  # the block changes the width, and no other residual block does
            layers.append(shortcut)
        layers += getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None) or []
    return layers


def skeleton_encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Mean of the latents [N, C, H/8, W/8] of pixels [N, 3, H, W], through the skeleton alone."""
    return _linear(vae, vae.encoder, pixels)[:, : vae.config.latent_channels]


def skeleton_decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pixels [N, 3, H, W] of latents, through the skeleton alone."""
    return _linear(vae, vae.decoder, latents)


def _linear(vae: AutoencoderKL, part: nn.Module, values: Tensor) -> Tensor:
    signals = _signals(vae, part, values)
    return F.conv2d(signals, part.conv_out.weight[:, : signals.shape[1]], part.conv_out.bias, padding=1)


def _signals(vae: AutoencoderKL, part: nn.Module, values: Tensor) -> Tensor:
    """What passes the last normalisation of one half, before it: [N, ``signal_count``, H, W]."""
    for layer in _chain(part):
        values = layer(values)
    return values[:, : signal_count(vae, values.shape[1])]


@torch.no_grad()
def start_linear(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Set the skeleton's weights, in place, from pictures [N, 3, H, W] in [-1, 1]; latents of unit variance, narrow posterior.

    Raises
    ------
    InputError
        An autoencoder without four levels, or too narrow for the blocks' components.
    """
    widths, channels = vae.config.block_out_channels, vae.config.latent_channels
    needs = (12, 24, channels)
    groups, last = vae.config.norm_num_groups, signal_count(vae, widths[-1])
    narrow = any(width < need for width, need in zip(widths, needs, strict=False)) or last < channels
    if len(widths) != 4 or narrow or signal_count(vae, widths[0]) < 3:
        raise InputError(
            f"linear start: an autoencoder of channels {tuple(widths)} in {groups} groups cannot hold it; give four levels, the "
            f"first three of at least {needs}, the first also of {2 * groups + 6}, the last of {2 * (groups + channels)}, "
            "or set linear_steps to 0"
        )
    for conv in skeleton(vae):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    levels = _start_encoder(vae, pixels)
    _start_decoder(vae, levels)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        _pass_through(conv, conv.out_channels)
        nn.init.zeros_(conv.bias)
    vae.encoder.conv_out.bias[channels:] = -6.0  # log-variance of the posterior: a little noise, for smooth latents


def _start_encoder(vae: AutoencoderKL, pixels: Tensor) -> list[Tensor]:
    """Principal components of ever larger blocks; the features of all levels, pixels first and latents last."""
    encoder, channels = vae.encoder, vae.config.latent_channels
    levels, values, known = [pixels], pixels, 3
    _pass_through(encoder.conv_in, known)
    values = encoder.conv_in(values)
    for layer in _chain(encoder)[1:]:
        if isinstance(layer, nn.Conv2d):
            known = _pass_through(layer, known)
        else:
            known = _principal_components(layer.conv, values, known)
        values = layer(values)
        if not isinstance(layer, nn.Conv2d):
            levels.append(values[:, :known])
    _pass_through(encoder.conv_out, channels)
    spread = values[:, :channels].std(dim=(0, 2, 3)).clamp_min(1e-6)
    encoder.conv_out.weight[:channels] /= spread.view(-1, 1, 1, 1)
    return levels[:-1] + [values[:, :channels] / spread.view(1, -1, 1, 1)]


def _start_decoder(vae: AutoencoderKL, levels: list[Tensor]) -> None:
    """Least squares from each level to the next finer one; what room is left holds the same features, shifted."""
    decoder = vae.decoder
    for row, (channel, (down, right)) in enumerate(_shifted_channels(levels[-1].shape[1], decoder.conv_in.out_channels)):
        decoder.conv_in.weight[row, channel, 1 - down, 1 - right] = 1
    values, known = decoder.conv_in(levels[-1]), decoder.conv_in.out_channels
    signals = signal_count(vae, decoder.conv_out.in_channels)
    finer = levels[:-1]
    for layer in _chain(decoder)[1:]:
        if isinstance(layer, nn.Conv2d):
            known = _pass_through(layer, known)
        else:
            target, room = finer.pop(), layer.conv.out_channels
            room = min(room, 9 * target.shape[1], room if finer else signals)
            wanted = torch.stack([torch.roll(target[:, c], shift, (1, 2)) for c, shift in _shifted_channels(target.shape[1], room)], dim=1)
            _least_squares(layer.conv, F.interpolate(values, scale_factor=2.0, mode="nearest"), wanted, known)
            known = room
        values = layer(values)
    _least_squares(decoder.conv_out, values, levels[0], signals)


def _shifted_channels(channels: int, room: int) -> list[tuple[int, tuple[int, int]]]:
    """(channel, shift) for ``room`` features: all channels as they are, then all shifted by one, and so on."""
    return [(channel, shift) for shift in SHIFTS for channel in range(channels)][:room]


def _pass_through(conv: nn.Conv2d, known: int) -> int:
    """The first ``known`` channels as they are, as many as there is room for, and nothing else; their number."""
    nn.init.zeros_(conv.weight)
    known, centre = min(known, conv.out_channels), conv.kernel_size[0] // 2
    for channel in range(known):
        conv.weight[channel, channel, centre, centre] = 1
    return known


def _principal_components(conv: nn.Conv2d, values: Tensor, known: int) -> int:
    """A convolution of stride 2 becomes the principal components of 2 x 2 blocks of ``known`` channels; their number."""
    count = min(4 * known, conv.out_channels)
    blocks = F.unfold(values[:, :known], 2, stride=2).transpose(1, 2).reshape(-1, 4 * known).double()
    _, vectors = torch.linalg.eigh(blocks.T @ blocks / len(blocks))  # about zero, not the mean: grey stays grey
    strongest = vectors.flip(1)[:, :count]
    strongest = strongest * torch.where(strongest.sum(dim=0) < 0, -1.0, 1.0)
    conv.weight[:count, :known, :2, :2] = strongest.T.reshape(count, known, 2, 2).to(conv.weight.dtype)
    return count


def _least_squares(conv: nn.Conv2d, values: Tensor, wanted: Tensor, known: int, ridge: float = 1e-3) -> None:
    """A 3 x 3 convolution becomes the ridge regression of ``wanted`` on the first ``known`` channels of ``values``."""
    inner = slice(4, -4)  # not at the border, where padding and rolled shifts are wrong
    size = values.shape[2] - 8, values.shape[3] - 8
    normal = torch.zeros(9 * known, 9 * known, dtype=torch.float64)
    moment = torch.zeros(9 * known, wanted.shape[1], dtype=torch.float64)
    for picture, target in zip(values, wanted, strict=True):  # one at a time: the patches of all would not fit
        patches = F.unfold(picture[None, :known], 3, padding=1).view(9 * known, *picture.shape[1:])
        patches = patches[:, inner, inner].reshape(9 * known, size[0] * size[1])
        normal += (patches @ patches.T).double()
        moment += (patches @ target[:, inner, inner].reshape(len(target), -1).T).double()
    normal += ridge * normal.diagonal().mean() * torch.eye(len(normal), dtype=torch.float64)
    weights = torch.linalg.solve(normal, moment)
    conv.weight[: wanted.shape[1], :known] = weights.T.reshape(wanted.shape[1], known, 3, 3).to(conv.weight.dtype)


@torch.no_grad()
def bypass_norms(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Make the whole autoencoder compute what its skeleton does, to within a few per cent, in place; ``pixels`` [N, 3, H, W].

    The last normalisation of encoder and decoder would take away the picture's own brightness and contrast. So each
    group gets two constant channels ±``STEADY``, next to which the signals hardly change its statistics; and each signal
    x goes through as the pair (x, -x), for SiLU(x) - SiLU(-x) = x. Both are ordinary weights and train on.
    """
    encoder, decoder, groups = vae.encoder, vae.decoder, vae.config.norm_num_groups
    encoded = _signals(vae, encoder, pixels)
    decoded = _signals(vae, decoder, skeleton_encode(vae, pixels))  # before the encoder is changed
    _arrange(encoder, encoder.down_blocks[-1], encoder.mid_block.resnets, encoded, groups)
    _arrange(decoder, decoder.up_blocks[-1], [], decoded, groups)


def _arrange(part: nn.Module, block: nn.Module, after: list[nn.Module], signals: Tensor, groups: int) -> None:
    """Constants and pairs for one half: the last shortcut makes them, the last convolution takes the pairs apart."""
    shortcut, last, norm = block.resnets[0].conv_shortcut, part.conv_out, part.conv_norm_out
    if shortcut is None:
        raise InputError(
            f"linear start: the last block of an autoencoder's half has {last.in_channels} channels going in and out; choose "
            "block_out_channels whose neighbours at that end differ, so that a shortcut can carry the constants"
        )
    spread = signals.square().mean(dim=(0, 2, 3)).sqrt().clamp_min(1e-6)
    made, bias, taken = shortcut.weight.clone(), shortcut.bias.clone(), last.weight.clone()
    for conv in (shortcut, last):
        nn.init.zeros_(conv.weight)
    nn.init.zeros_(shortcut.bias)
    width = last.in_channels // groups
    slots = [group * width + 2 + 2 * pair for group in range(groups) for pair in range(width // 2 - 1)]
    for group in range(groups):
        shortcut.bias[group * width], shortcut.bias[group * width + 1] = STEADY, -STEADY
    for signal, slot in enumerate(slots[: signals.shape[1]]):
        for channel, sign in ((slot, 1), (slot + 1, -1)):
            shortcut.weight[channel] = sign * made[signal] / spread[signal]
            shortcut.bias[channel] = sign * bias[signal] / spread[signal]
            last.weight[:, channel] = sign * taken[:, signal] * spread[signal]
    level = math.sqrt((2 * STEADY**2 + width - 2) / width)  # a group's standard deviation
    norms = [norm] + [resnet.norm1 for resnet in [*block.resnets[1:], *after]]
    for layer in norms:
        layer.weight.fill_(level)


def fit_linear(vae: AutoencoderKL, scenes: np.ndarray, config: LoopConfig, out: Path, batch_size: int, crop: int) -> pd.DataFrame:
    """Train the skeleton alone, in place, for the mean squared error on crops of scenes uint8 [N, H, W, 3]; the history."""

    def loss(modules: dict[str, nn.Module], step: int, micro: MicroBatch) -> dict[str, Tensor]:
        rng = np.random.default_rng((config.seed, 33, step))
        pictures = random_crops(scenes[batch_ids(len(scenes), batch_size, config.seed, step)], crop, rng)
        pixels = to_pixels(micro.of(pictures)).to(vae.device)
        return {"loss": F.mse_loss(skeleton_decode(vae, skeleton_encode(vae, pixels)), pixels)}

    vae.requires_grad_(False)
    for conv in skeleton(vae):
        conv.requires_grad_(True)
    history = train_loop({"vae": vae}, loss, config, out, batch_size=batch_size, label="linear start")
    vae.requires_grad_(False)
    return history


# Pretraining: crops, losses together, and the scale of the latents.


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
    """Give each latent channel zero mean over ``images`` uint8 [N, H, W, 3] and a chosen variance, by changing the two 1x1 convolutions.

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
