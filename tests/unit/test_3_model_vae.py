"""Adapters of the autoencoder, LoRA files, merging, half precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from tiny import tiny_pipeline, tiny_set
from torch.nn import functional as F

from sarnb.errors import InputError
from sarnb.model.export import foundation_vae, load_trained, load_vae, read_record, save_trained, write_vae
from sarnb.model.foundation import fingerprint, sdxl_components, to_pixels
from sarnb.model.strategy import VAE_MODES, VAE_STRATEGIES, Strategy, find_strategy, prepare
from sarnb.model.vae import (
    LARGEST_HALF,
    LORA_FILE,
    activation_peaks,
    adaptable_layers,
    apply_lora,
    reconstruct,
    scale_for_half,
)

IMAGES = tiny_set(4).images
SMALL = {name: replace(strategy, rank=4, alpha=4) for name, strategy in VAE_STRATEGIES.items()}  # no tiny layer has rank 16


@torch.no_grad()
def decoded(vae) -> torch.Tensor:
    return vae.decode(vae.encode(to_pixels(IMAGES)).latent_dist.mean).sample


def shaken(strategy: Strategy, seed: int = 1):
    """A tiny pipeline whose trainable weights were moved, as by a training, and what it was before."""
    pipe = tiny_pipeline()
    before = fingerprint(pipe.vae)
    generator = torch.Generator().manual_seed(seed)
    for parameter in prepare(pipe, strategy)["vae"]:
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return pipe, before


def saved(strategy: Strategy, folder):
    pipe, before = shaken(strategy)
    save_trained(pipe, strategy, folder, {"vae": before})
    return pipe


def test_every_mode_is_a_strategy_and_trains_only_the_autoencoder():
    assert {strategy.vae for strategy in VAE_STRATEGIES.values()} == set(VAE_MODES)
    assert find_strategy("vae-lora-decoder-r3").rank == 3
    for strategy in SMALL.values():
        assert set(prepare(tiny_pipeline(), strategy)) == ({"vae"} if strategy.trains else set())


def test_decoder_modes_keep_the_latents_and_encoder_modes_move_them():
    latents = {}
    for name, strategy in SMALL.items():
        vae = shaken(strategy)[0].vae if strategy.trains else tiny_pipeline().vae
        latents[name] = vae.encode(to_pixels(IMAGES)).latent_dist.mean
    same = {name: torch.equal(value, latents["vae-frozen"]) for name, value in latents.items()}
    assert same == {name: strategy.keeps_latents for name, strategy in VAE_STRATEGIES.items()}
    assert all(("latents" in strategy.caches) == strategy.keeps_latents for strategy in VAE_STRATEGIES.values())


def test_lora_trains_the_sum_of_rank_times_inputs_and_outputs():
    layers = adaptable_layers(tiny_pipeline().vae)
    shapes = [layer.weight.shape for layer in layers.values()]
    expected = sum(2 * (shape.numel() // shape[0] + shape[0]) for shape in shapes)
    groups = prepare(tiny_pipeline(), find_strategy("vae-lora-r2"))
    assert sum(p.numel() for p in groups["vae"]) == expected
    assert any(".attentions." in name for name in layers)
    assert any(name.endswith("conv_shortcut") for name in adaptable_layers(sdxl_components()["vae"]))


@pytest.mark.slow
def test_sdxls_autoencoder_gets_at_most_a_tenth_of_its_parameters_at_rank_16():
    layers = adaptable_layers(sdxl_components()["vae"])
    lora = sum(16 * (layer.weight.numel() // layer.weight.shape[0] + layer.weight.shape[0]) for layer in layers.values())
    assert lora < 0.1 * sum(p.numel() for p in sdxl_components()["vae"].parameters())


@pytest.mark.parametrize("name", ["vae-lora-r3", "vae-lora-encoder-r3", "vae-lora-decoder-r3"])
def test_merged_lora_draws_what_the_adapter_drew(name, tmp_path):
    strategy = find_strategy(name)
    pipe = saved(strategy, tmp_path)
    wanted = decoded(pipe.vae)
    assert not torch.allclose(wanted, decoded(tiny_pipeline().vae), atol=1e-3)
    torch.testing.assert_close(decoded(apply_lora(tiny_pipeline().vae, tmp_path / LORA_FILE)), wanted, atol=1e-4, rtol=1e-4)


def test_thin_layers_get_their_own_rank_and_the_same_factor():
    pipe, _ = shaken(Strategy("x", vae="lora", rank=6, alpha=12))
    last = pipe.vae.decoder.conv_out
    assert last.lora_A["default"].weight.shape[0] == 3 and last.scaling["default"] == pytest.approx(12 / 6**0.5)
    assert pipe.vae.decoder.mid_block.resnets[0].conv1.scaling["default"] == pytest.approx(12 / 6**0.5)


def test_convolution_lora_adds_the_product_of_its_kernels(tmp_path):
    pipe = saved(find_strategy("vae-lora-r2"), tmp_path)
    weights = load_file(tmp_path / LORA_FILE)
    down, up = (weights[f"vae.decoder.conv_out.lora.{name}.weight"] for name in ("down", "up"))
    x = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    base = tiny_pipeline().vae.decoder.conv_out
    torch.testing.assert_close(pipe.vae.decoder.conv_out(x), base(x) + F.conv2d(F.conv2d(x, down, padding=1), up), atol=1e-5, rtol=1e-4)


def test_a_lora_for_another_autoencoder_is_refused_though_its_shapes_fit(tmp_path):
    saved(find_strategy("vae-lora-r2"), tmp_path)
    with pytest.raises(InputError, match="trained on"):
        apply_lora(tiny_pipeline(seed=1).vae, tmp_path / LORA_FILE)


def test_a_damaged_or_foreign_lora_file_is_refused(tmp_path):
    path = tmp_path / LORA_FILE
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        apply_lora(tiny_pipeline().vae, path)
    save_file({"unet.x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="holds no LoRA"):
        apply_lora(tiny_pipeline().vae, path)


@pytest.mark.parametrize("name", ["vae-decoder", "vae-full"])
def test_full_modes_are_folders_that_plain_diffusers_loads(name, tmp_path):
    pipe = saved(find_strategy(name), tmp_path)
    plain = AutoencoderKL.from_pretrained(tmp_path, subfolder="vae")
    assert fingerprint(plain) == fingerprint(pipe.vae) == fingerprint(load_vae(tmp_path))
    assert (tmp_path / "record.json").exists() and "AutoencoderKL" in (tmp_path / "README.md").read_text()


def test_a_pipeline_loads_its_trained_autoencoder(tmp_path):
    foundation = tmp_path / "foundation"
    tiny_pipeline().save_pretrained(foundation)
    for name in ("vae-lora-r2", "vae-decoder"):
        folder = tmp_path / name
        pipe = saved(find_strategy(name), folder)
        for vae in (load_trained(str(foundation), folder).vae, load_vae(folder, str(foundation))):
            torch.testing.assert_close(decoded(vae), decoded(pipe.vae), atol=1e-4, rtol=1e-4)
    assert fingerprint(foundation_vae(str(foundation))) == fingerprint(tiny_pipeline().vae)


def test_a_written_autoencoder_is_plain_and_carries_its_record(tmp_path):
    strategy = find_strategy("vae-lora-decoder-r2")
    pipe = saved(strategy, tmp_path / "trained")
    wanted = decoded(pipe.vae)
    plain = write_vae(
        apply_lora(tiny_pipeline().vae, tmp_path / "trained" / LORA_FILE), tmp_path / "trained", tmp_path / "plain", score=0.5
    )
    card = (plain / "README.md").read_text()
    assert 'AutoencoderKL.from_pretrained(HERE + "/vae")' in card and "apply_lora" not in card
    assert read_record(plain)["score"] == 0.5 and read_record(plain)["strategy"]["name"] == strategy.name
    torch.testing.assert_close(decoded(load_vae(plain)), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decoded(AutoencoderKL.from_pretrained(plain, subfolder="vae")), wanted, atol=1e-4, rtol=1e-4)


def test_folders_without_an_autoencoder_are_refused(tmp_path):
    with pytest.raises(InputError, match="no finished model"):
        load_vae(tmp_path)
    with pytest.raises(InputError, match="autoencoder .* cannot be loaded"):
        foundation_vae(str(tmp_path))


def test_half_precision_peaks_are_those_of_the_layers_and_shrink_with_the_stream():
    vae = tiny_pipeline().vae
    with torch.no_grad():
        vae.decoder.conv_in.weight *= 1e6
        vae.decoder.conv_in.bias *= 1e6
    table = activation_peaks(vae, IMAGES[:2])
    assert table["share"].iloc[0] > 1 and table["peak"].iloc[0] == table["share"].iloc[0] * LARGEST_HALF
    scaled = scale_for_half(vae, 1e-3)
    after = activation_peaks(vae, IMAGES[:2], 1e-3).set_index("layer")["peak"]
    before = table.set_index("layer")["peak"]
    assert after["decoder.conv_in"] == pytest.approx(1e-3 * before["decoder.conv_in"], rel=1e-4)
    assert after.filter(like="decoder").max() < LARGEST_HALF
    torch.testing.assert_close(decoded(scaled), decoded(vae), atol=2e-3, rtol=2e-3)
    half = scaled.half().decoder(torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).half())
    assert torch.isfinite(half).all()
    with pytest.raises(InputError, match="factor"):
        scale_for_half(vae, 0)


def test_scaling_is_exact_with_attention_and_shortcuts():
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=16,
    ).eval()
    assert any(name.endswith("conv_shortcut") for name, _ in vae.decoder.named_modules())
    torch.testing.assert_close(decoded(scale_for_half(vae, 0.25)), decoded(vae), atol=1e-3, rtol=1e-3)
    assert np.isfinite(activation_peaks(vae, IMAGES[:1])["peak"]).all()


def test_one_tile_is_the_whole_picture_and_tiling_is_off_again():
    vae = tiny_pipeline().vae
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32), dtype=np.uint8)
    whole, tiled = reconstruct(vae, images), reconstruct(vae, images, tile=32)
    assert np.array_equal(whole, tiled) and vae.use_tiling is False
    assert reconstruct(vae, images, tile=16).shape == whole.shape
    with pytest.raises(InputError, match="multiples of 4"):
        reconstruct(vae, images[:, :30])
    with pytest.raises(InputError, match="tile"):
        reconstruct(vae, images, tile=10)
