"""The linear start of the autoencoder, against principal components computed in one piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sarnb.errors import InputError
from sarnb.foundation.linear_start import (
    bypass_norms,
    fit_linear,
    skeleton,
    skeleton_decode,
    skeleton_encode,
    start_linear,
)
from sarnb.model.foundation import FoundationConfig, build_vae
from sarnb.train.state import LoopConfig

WIDE = FoundationConfig(image_size=64, latent_channels=8, vae_channels=(16, 48, 48, 64))


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
