"""Pretraining of the foundation's autoencoder: its linear start against principal components computed in one piece, crops, folding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sarnb.errors import InputError
from sarnb.foundation.vae import (
    bypass_norms,
    channel_weights,
    fit_linear,
    fold_latent_statistics,
    mixed_crops,
    pretrain_vae,
    skeleton,
    skeleton_decode,
    skeleton_encode,
    start_linear,
)
from sarnb.model.foundation import FoundationConfig, build_vae, encode_posterior, to_pixels
from sarnb.train.state import LoopConfig
from sarnb.train.vae import random_crops

WIDE = FoundationConfig(image_size=64, latent_channels=8, vae_channels=(16, 48, 48, 64))
SMALL = FoundationConfig(image_size=32, vae_channels=(16, 16, 32, 32), latent_channels=4)


def pictures(count: int = 6, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def small_vae():
    torch.manual_seed(0)
    return build_vae(SMALL).eval()


@pytest.fixture(scope="module")
def pixels():
    """Smooth random pictures [24, 3, 64, 64] in [-1, 1], whose colours go together."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(24, 3, 16, 16, generator=generator) * 0.2 + torch.randn(24, 1, 16, 16, generator=generator) * 0.4
    return torch.nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(-1, 1)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return build_vae(WIDE)


@torch.no_grad()
def test_encoder_keeps_the_principal_components_of_blocks(vae, pixels):
    start_linear(vae, pixels)
    latents = skeleton_encode(vae, pixels)
    blocks = pixels.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(-1, 192).double()
    codes = latents.permute(0, 2, 3, 1).reshape(-1, 8).double()
    lost = (blocks - codes @ torch.linalg.lstsq(codes, blocks).solution).pow(2).sum()
    spectrum = torch.linalg.svdvals(blocks).pow(2)
    assert lost == pytest.approx(spectrum[8:].sum().item(), rel=1e-3)  # Eckart and Young: no eight numbers lose less
    assert codes.std(dim=0).numpy() == pytest.approx(np.ones(8), abs=0.01)


@torch.no_grad()
def test_decoder_returns_most_of_the_picture(vae, pixels):
    start_linear(vae, pixels)
    error = (skeleton_decode(vae, skeleton_encode(vae, pixels)) - pixels).pow(2).mean()
    assert error < 0.25 * pixels.var()


@torch.no_grad()
def test_whole_autoencoder_computes_what_its_skeleton_does(vae, pixels):
    start_linear(vae, pixels)
    latents, picture = skeleton_encode(vae, pixels), skeleton_decode(vae, skeleton_encode(vae, pixels))
    before = (vae.encode(pixels).latent_dist.mean - latents).pow(2).mean() / latents.var()
    bypass_norms(vae, pixels)
    posterior = vae.encode(pixels).latent_dist
    assert before > 0.1
    assert (posterior.mean - latents).pow(2).mean() / latents.var() < 2e-3
    assert (vae.decode(posterior.mean).sample - picture).pow(2).mean() / picture.var() < 5e-3
    assert 0.01 < posterior.std.mean() < 0.1


@pytest.mark.slow
def test_fit_trains_the_skeleton_alone_and_lowers_its_error(vae, pixels, tmp_path):
    start_linear(vae, pixels)
    pictures = ((pixels.permute(0, 2, 3, 1) + 1) * 127.5).byte().numpy()
    trained = {id(conv.weight) for conv in skeleton(vae)} | {id(conv.bias) for conv in skeleton(vae)}
    others = {name: p.clone() for name, p in vae.named_parameters() if id(p) not in trained}
    with torch.no_grad():
        before = (skeleton_decode(vae, skeleton_encode(vae, pixels)) - pixels).pow(2).mean()
    fit_linear(vae, pictures, LoopConfig(30, 1e-3, warmup_steps=5, precision="fp32"), tmp_path, batch_size=8, crop=64)
    with torch.no_grad():
        after = (skeleton_decode(vae, skeleton_encode(vae, pixels)) - pixels).pow(2).mean()
    assert after < 0.8 * before
    assert all(torch.equal(value, vae.get_parameter(name)) for name, value in others.items())


def test_too_narrow_an_autoencoder_is_refused(pixels):
    with pytest.raises(InputError, match="linear_steps to 0"):
        start_linear(build_vae(FoundationConfig(vae_channels=(16, 16, 32, 32))), pixels)


def test_folding_gives_unit_latents_and_the_same_pictures():
    vae, images = small_vae(), pictures()
    with torch.no_grad():
        before = vae.decode(vae.encode(to_pixels(images)).latent_dist.mean).sample
        fold_latent_statistics(vae, images)
        after = vae.decode(vae.encode(to_pixels(images)).latent_dist.mean).sample
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    mean, std = encode_posterior(vae, images)
    torch.testing.assert_close(mean.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    total = mean.var(dim=(0, 2, 3)) + std.pow(2).mean(dim=(0, 2, 3))
    torch.testing.assert_close(total, torch.ones(4), atol=1e-3, rtol=0)


@torch.no_grad()
def test_balanced_folding_gives_each_channel_the_spread_of_its_weight():
    vae, images = small_vae(), pictures()
    before = vae.decode(vae.encode(to_pixels(images)).latent_dist.mean).sample
    fold_latent_statistics(vae, images)
    means, _ = encode_posterior(vae, images)
    weights = channel_weights(vae, means, torch.ones(4))
    fold_latent_statistics(vae, images, balance=1.0)
    mean, std = encode_posterior(vae, images)
    spread = (mean.var(dim=(0, 2, 3)) + std.pow(2).mean(dim=(0, 2, 3))).sqrt()
    torch.testing.assert_close(spread, weights / weights.max(), atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(vae.decode(vae.encode(to_pixels(images)).latent_dist.mean).sample, before, atol=1e-4, rtol=1e-4)
    again = channel_weights(vae, mean, torch.full((4,), 0.3))  # as heavy as it is wide: equal noise now moves pixels equally
    assert (again.max() / again.min()) < 1.2


@torch.no_grad()
def test_weight_of_a_channel_is_that_of_its_gain():
    vae, moved = small_vae(), []
    for factor in (1.0, 3.0):
        vae.post_quant_conv.weight.zero_()
        for channel in range(4):
            vae.post_quant_conv.weight[channel, channel] = factor if channel == 2 else 0.0
        weights = channel_weights(vae, torch.zeros(2, 4, 4, 4), torch.full((4,), 0.01))
        assert weights.argmax() == 2 and weights[[0, 1, 3]].max() == 0
        moved.append(float(weights[2]))
    assert moved[1] == pytest.approx(3 * moved[0], rel=0.1)  # small noise passes the network linearly


def test_crops_are_parts_of_their_own_picture():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 20, 20, 3), np.uint8)
    crops = random_crops(images, 8, np.random.default_rng(0))
    assert crops.shape == (3, 8, 8, 3)
    assert [crop.max() for crop in crops] == [0, 1, 2] and [crop.min() for crop in crops] == [0, 1, 2]


def test_training_moves_all_weights_and_freezes_them_again(tmp_path):
    vae, scenes = small_vae(), pictures()
    before = [p.clone() for p in vae.parameters()]
    pretrain_vae(vae, scenes, pictures(4), LoopConfig(steps=2, learning_rate=1e-3), tmp_path, batch_size=4, crop=32, kl=1e-6)
    assert not any(torch.equal(a, b) or b.requires_grad for a, b in zip(before, vae.parameters()))


def test_a_batch_of_crops_depends_on_seed_and_step_and_holds_both_sources():
    scenes, textures = np.full((8, 40, 40, 3), 200, np.uint8), np.full((8, 40, 40, 3), 50, np.uint8)
    crops = mixed_crops(scenes, textures, 16, 32, seed=1, step=3)
    assert crops.shape == (16, 32, 32, 3)
    assert (crops == 200).all(axis=(1, 2, 3)).sum() == 10 and (crops == 50).all(axis=(1, 2, 3)).sum() == 6
    pictures_ = np.random.default_rng(0).integers(0, 256, (20, 40, 40, 3), dtype=np.uint8)
    draws = [mixed_crops(pictures_, pictures_, 8, 32, 1, step) for step in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])
