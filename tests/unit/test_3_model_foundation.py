"""The foundation: the parts of SDXL, its sizes, and what every caller does with a pipeline."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from tiny import tiny_pipeline

import sarnb
import sarnb.model.foundation as module
from sarnb.errors import InputError
from sarnb.generate.sample import generate
from sarnb.model.foundation import (
    components,
    decode_latents,
    denormalise_latents,
    encode_posterior,
    encode_prompts,
    fingerprint,
    load_foundation,
    normalise_latents,
    time_ids,
    to_images,
    to_pixels,
)
from sarnb.model.sdxl import sdxl_components
from sarnb.train.loop import train_loop
from sarnb.train.state import LoopConfig


def test_sdxl_sizes_are_the_published_ones():
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in sdxl_components().items()}
    assert sizes == {"unet": 2_567_463_684, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840, "vae": 83_653_863}


def test_prompt_encoding_is_that_of_the_diffusers_pipeline():
    pipe = tiny_pipeline()
    prompts = ["a radar image of a city", "forest"]
    hidden, pooled = encode_prompts(pipe, prompts)
    reference = pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
    torch.testing.assert_close(hidden, reference[0])
    torch.testing.assert_close(pooled, reference[2])


def test_time_ids_are_those_of_the_diffusers_pipeline():
    pipe = tiny_pipeline()
    dimension = pipe.text_encoder_2.config.projection_dim
    reference = pipe._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, dimension)
    assert torch.equal(time_ids(pipe, 1), reference)


def test_pixels_and_images_are_inverse():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(to_images(to_pixels(images)), images)
    grey = to_pixels(images[..., 0])
    assert grey.shape == (2, 3, 8, 8) and torch.equal(grey[:, 0], grey[:, 2])


def test_latent_statistics_of_the_configuration_are_undone():
    vae = tiny_pipeline().vae
    vae.register_to_config(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[2.0] * 4, scaling_factor=0.5)
    latents = torch.ones(1, 4, 2, 2)
    assert normalise_latents(vae, latents)[0, :, 0, 0].tolist() == [0.0, -0.25, -0.5, -0.75]
    torch.testing.assert_close(denormalise_latents(vae, normalise_latents(vae, latents)), latents)


def test_decoding_batches_change_nothing():
    pipe = tiny_pipeline()
    latents = torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    whole, parts = decode_latents(pipe.vae, latents, 5), decode_latents(pipe.vae, latents, 2)
    assert np.abs(whole.astype(int) - parts).max() <= 1


def test_image_size_that_the_vae_cannot_divide_is_refused():
    with pytest.raises(InputError, match="multiples of 4"):
        encode_posterior(tiny_pipeline().vae, np.zeros((1, 18, 16), np.uint8))


def test_fingerprint_sees_one_changed_weight():
    unet = tiny_pipeline().unet
    before = fingerprint(unet)
    assert before == fingerprint(tiny_pipeline().unet)
    with torch.no_grad():
        next(unet.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(unet) != before


def test_fingerprint_reads_the_weights_once_and_again_when_they_change(monkeypatch):
    def asked() -> tuple[str, bool]:
        count = len(read)
        return fingerprint(unet), len(read) > count

    read, unet = [], tiny_pipeline().unet
    hashed = module.hashlib.sha256
    monkeypatch.setattr(module.hashlib, "sha256", lambda: read.append(0) or hashed())
    first, weights = fingerprint(unet), {name: value.clone() for name, value in unet.state_dict().items()}
    assert asked() == (first, False)
    with torch.no_grad():
        torch._foreach_add_([parameter.detach() for parameter in unet.parameters()], 1.0)
    assert asked()[1]
    unet.load_state_dict(weights)
    assert asked() == (first, True) and asked() == (first, False)
    unet.to(torch.bfloat16).to(torch.float32)
    changed, again = asked()
    assert changed != first and again and not asked()[1]
    unet.requires_grad_(True)
    assert asked()[1] and asked()[1]  # what trains may change in ways that nobody counts


def test_fingerprint_of_a_trained_network_is_not_that_of_its_start(tmp_path):
    unet = tiny_pipeline().unet
    first = fingerprint(unet)
    unet.conv_in.requires_grad_(True)
    train_loop({"unet": unet}, lambda modules, step, micro: modules["unet"].conv_in.weight.sum(), LoopConfig(steps=1), tmp_path)
    assert fingerprint(unet.requires_grad_(False)) != first


@pytest.mark.parametrize("spec", ["", "no/such/folder"])
def test_missing_foundation_is_one_sentence(spec, tmp_path):
    with pytest.raises(InputError, match="cannot be loaded"):
        load_foundation(str(tmp_path / spec) if spec else str(tmp_path))


def test_truncated_weights_are_refused(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    weights = next((tmp_path / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_foundation(str(tmp_path))


@pytest.mark.parametrize("part", ["unet", "text_encoder", "text_encoder_2", "vae"])
def test_weights_of_another_network_are_refused(part, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    weights = next((tmp_path / part).glob("*.safetensors"))
    first, *others = load_file(weights).items()
    save_file({f"foreign.{first[0]}": first[1]} | dict(others), weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=part):
        load_foundation(str(tmp_path))


@pytest.mark.parametrize("change", [{"model_max_length": 77}, {"words": ["<new>", "<newer>"]}])
def test_tokenizer_of_another_model_is_refused(change, tmp_path):
    pipe = tiny_pipeline()
    pipe.tokenizer_2.add_tokens(change.get("words", []))
    pipe.tokenizer_2.model_max_length = change.get("model_max_length", 16)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="does not match its text encoder"):
        load_foundation(str(tmp_path))


def test_prompt_over_the_limit_warns_and_says_what_is_cut(monkeypatch):
    pipe, logger = tiny_pipeline(), logging.getLogger("diffusers")
    monkeypatch.setattr(logger, "level", logging.WARNING)
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger.addHandler(handler)
    try:
        generate(pipe, ["radar image of city " + "city " * 20 + "forest"], [0], steps=1)
    finally:
        logger.removeHandler(handler)
    assert any("truncated" in text and "forest" in text for text in heard)


def test_single_weight_file_is_refused_in_one_sentence_when_broken(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not a weight file")
    with pytest.raises(InputError, match="model.safetensors"):
        load_foundation(str(path))


def test_embedded_foundation_opens_with_plain_diffusers():
    pipe = DiffusionPipeline.from_pretrained(sarnb.foundation_path(), local_files_only=True)
    assert isinstance(pipe, StableDiffusionXLPipeline)
    assert pipe("a city", num_inference_steps=1, output_type="np").images.shape == (1, 128, 128, 3)
    mine = load_foundation("embedded")
    assert all(fingerprint(m) == fingerprint(getattr(pipe, name)) for name, m in components(mine).items())
    total = sum(path.stat().st_size for path in sarnb.foundation_path().rglob("*") if path.is_file())
    assert total < 60e6
