"""Pretraining of the autoencoder: whose gradient goes where, crops, the folding of latent statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sarnb.foundation.vae import (
    PatchDiscriminator,
    VaeLossWeights,
    autoencoder_losses,
    channel_weights,
    fold_latent_statistics,
    mixed_crops,
    pretrain_vae,
    random_crops,
)
from sarnb.model.foundation import FoundationConfig, build_vae, encode_posterior, to_pixels
from sarnb.train.state import LoopConfig

SMALL = FoundationConfig(image_size=32, vae_channels=(16, 16, 32, 32), latent_channels=4)


def pictures(count: int = 6, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def small_vae():
    torch.manual_seed(0)
    return build_vae(SMALL).eval()


def test_generator_term_does_not_move_the_discriminator():
    vae, discriminator = small_vae().requires_grad_(True), PatchDiscriminator(16)
    pixels = to_pixels(pictures(2))
    parts = autoencoder_losses(vae, discriminator, pixels, torch.zeros(2, 4, 4, 4), VaeLossWeights(adversarial=1.0), None, adversarial=True)
    (parts["loss"] - parts["discriminator"]).backward()
    assert all(p.grad is None or not p.grad.any() for p in discriminator.parameters())
    assert any(p.grad is not None and p.grad.any() for p in vae.decoder.parameters())


def test_discriminator_term_does_not_move_the_autoencoder():
    vae, discriminator = small_vae().requires_grad_(True), PatchDiscriminator(16)
    parts = autoencoder_losses(
        vae, discriminator, to_pixels(pictures(2)), torch.zeros(2, 4, 4, 4), VaeLossWeights(), None, adversarial=True
    )
    parts["discriminator"].backward()
    assert all(p.grad is None or not p.grad.any() for p in vae.parameters())
    assert any(p.grad.any() for p in discriminator.parameters())


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
    vae, found = small_vae(), []
    for factor in (1.0, 3.0):
        vae.post_quant_conv.weight.zero_()
        for channel in range(4):
            vae.post_quant_conv.weight[channel, channel] = factor if channel == 2 else 0.0
        weights = channel_weights(vae, torch.zeros(2, 4, 4, 4), torch.full((4,), 0.01))
        assert weights.argmax() == 2 and weights[[0, 1, 3]].max() == 0
        found.append(float(weights[2]))
    assert found[1] == pytest.approx(3 * found[0], rel=0.1)  # small noise passes the network linearly


def test_crops_are_parts_of_their_own_picture():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 20, 20, 3), np.uint8)
    crops = random_crops(images, 8, np.random.default_rng(0))
    assert crops.shape == (3, 8, 8, 3)
    assert [crop.max() for crop in crops] == [0, 1, 2] and [crop.min() for crop in crops] == [0, 1, 2]


def test_decoder_training_leaves_every_latent_bit_identical(tmp_path):
    vae, scenes = small_vae(), pictures()
    before = encode_posterior(vae, scenes)
    decoder = [p.clone() for p in vae.decoder.parameters()]
    loop = LoopConfig(steps=2, learning_rate=1e-3)
    weights = VaeLossWeights(adversarial_start=0.0)
    pretrain_vae(vae, scenes, pictures(4), loop, tmp_path, batch_size=4, crop=32, weights=weights, decoder_only=True)
    assert all(torch.equal(a, b) for a, b in zip(before, encode_posterior(vae, scenes)))
    assert any(not torch.equal(a, b) for a, b in zip(decoder, vae.decoder.parameters()))
    assert not any(p.requires_grad for p in vae.parameters())


def test_a_batch_of_crops_depends_on_seed_and_step_and_holds_both_sources():
    scenes, textures = np.full((8, 40, 40, 3), 200, np.uint8), np.full((8, 40, 40, 3), 50, np.uint8)
    crops = mixed_crops(scenes, textures, 16, 32, seed=1, step=3)
    assert crops.shape == (16, 32, 32, 3)
    assert (crops == 200).all(axis=(1, 2, 3)).sum() == 10 and (crops == 50).all(axis=(1, 2, 3)).sum() == 6
    pictures_ = np.random.default_rng(0).integers(0, 256, (20, 40, 40, 3), dtype=np.uint8)
    draws = [mixed_crops(pictures_, pictures_, 8, 32, 1, step) for step in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])
