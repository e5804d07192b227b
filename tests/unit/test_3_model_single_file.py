"""SDXL as one file, as other tools keep it: the same networks as the folder's, without the hub; what it lacks is named."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl as pipeline_module
import huggingface_hub.constants as hub
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    infer_diffusers_model_type,
)
from safetensors.torch import save_file
from single_file import single_file_weights, vae_weights
from tiny import tiny_pipeline
from transformers import CLIPTextModelWithProjection

from sarnb.errors import InputError
from sarnb.model.export import foundation_vae
from sarnb.model.foundation import components, encode_prompts, load_foundation, read_autoencoder
from sarnb.model.sdxl import sdxl_components


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("a test asked the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)


def configurations(pipe: StableDiffusionXLPipeline, folder: Path) -> Path:
    """A diffusers folder without weights."""
    pipe.save_pretrained(folder)
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    return folder


@pytest.fixture
def file(tmp_path) -> Path:
    """``xl.safetensors`` with the configurations in ``xl/`` beside it."""
    pipe = tiny_pipeline()
    configurations(pipe, tmp_path / "xl")
    save_file(single_file_weights(pipe), tmp_path / "xl.safetensors", metadata={"format": "pt"})
    return tmp_path / "xl.safetensors"


def assert_same(found: StableDiffusionXLPipeline, expected: StableDiffusionXLPipeline) -> None:
    for part, network in components(expected).items():
        loaded = components(found)[part]
        ours, theirs = loaded.state_dict(), network.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], value) for name, value in theirs.items())
        assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_the_layout_of_the_tests_is_that_of_the_published_file():
    """At SDXL's own size diffusers takes it for SDXL, and its converters find exactly the names that the networks have."""
    networks = sdxl_components()
    weights = single_file_weights(SimpleNamespace(**networks))
    assert infer_diffusers_model_type(weights) == "xl_base"
    for part, convert in (("unet", convert_ldm_unet_checkpoint), ("vae", convert_ldm_vae_checkpoint)):
        found = convert(dict(weights), networks[part].config)
        expected = {name: value.shape for name, value in networks[part].state_dict().items()}
        assert {name: value.shape for name, value in found.items()} == expected
    for name in (
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight",
        "model.diffusion_model.output_blocks.5.2.conv.weight",
        "first_stage_model.decoder.up.3.block.0.conv1.weight",
        "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight",
    ):
        assert name in weights


def test_a_good_file_is_the_pipeline_it_was_written_from(file):
    pipe, loaded = tiny_pipeline(), load_foundation(str(file))
    assert_same(loaded, pipe)
    prompts = ["a radar image of a city", ""]
    assert all(torch.equal(a, b) for a, b in zip(encode_prompts(loaded, prompts), encode_prompts(pipe, prompts)))
    shown = [{name: value for name, value in p.scheduler.config.items() if not name.startswith("_")} for p in (loaded, pipe)]
    assert shown[0] == shown[1] and type(loaded.scheduler) is type(pipe.scheduler)
    assert loaded.vae.config.scaling_factor == pipe.vae.config.scaling_factor


def test_the_asked_number_format_is_that_of_every_weight(file):
    parts = components(load_foundation(str(file), torch.bfloat16)).values()
    assert {p.dtype for part in parts for p in part.parameters()} == {torch.bfloat16}


def test_another_autoencoder_takes_the_place_of_the_files_own(file, tmp_path):
    tiny_pipeline(seed=1).vae.save_pretrained(tmp_path / "other")
    expected = tiny_pipeline()
    expected.vae = tiny_pipeline(seed=1).vae
    assert_same(load_foundation(f"{file}+vae={tmp_path / 'other'}"), expected)


def test_no_watermark_is_drawn_where_its_package_is_installed(file, monkeypatch):
    """It would be drawn into every generated radar image; folders are loaded without it too."""
    monkeypatch.setattr(pipeline_module, "is_invisible_watermark_available", lambda: True)
    monkeypatch.setattr(pipeline_module, "StableDiffusionXLWatermarker", object, raising=False)
    assert load_foundation(str(file)).watermark is None


LACKING = [
    "model.diffusion_model.input_blocks.0.0.weight",
    "model.diffusion_model.label_emb.0.0.weight",
    "first_stage_model.encoder.conv_in.weight",
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
    "conditioner.embedders.1.model.ln_final.weight",
    "conditioner.embedders.1.model.positional_embedding",
    "model.diffusion_model.",
    "first_stage_model.",
    "conditioner.embedders.0.",
    "conditioner.embedders.1.",
]


@pytest.mark.parametrize("lacking", LACKING)
def test_missing_weights_are_refused(lacking, file):
    """One of them, or a whole network: diffusers itself leaves those of the text encoders on the meta device."""
    weights = single_file_weights(tiny_pipeline())
    kept = {name: value for name, value in weights.items() if not name.startswith(lacking)}
    assert len(kept) < len(weights)
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"xl\.safetensors.*cannot be loaded"):
        load_foundation(str(file))


def test_a_cut_file_is_refused(file):
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"xl\.safetensors.*cannot be loaded"):
        load_foundation(str(file))


def test_without_configurations_and_hub_the_sentence_says_where_to_put_them(file):
    (file.parent / "xl").rename(file.parent / "elsewhere")
    with pytest.raises(InputError, match="diffusers folder .*/xl of its configurations and tokenizers") as raised:
        load_foundation(str(file))
    assert "\n" not in str(raised.value)


def test_a_folder_without_a_name_is_refused_in_one_sentence_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be loaded from"):
        load_foundation(".")


def test_configurations_that_the_hub_left_here_serve_as_well(tmp_path, monkeypatch):
    """Of a file that is recognised as SDXL by its ten layers or more; its autoencoder alone is read too."""
    pipe = tiny_pipeline()
    config = type(pipe.text_encoder_2.config).from_dict(pipe.text_encoder_2.config.to_dict() | {"num_hidden_layers": 10})
    pipe.text_encoder_2 = CLIPTextModelWithProjection(config).eval().requires_grad_(False)
    save_file(single_file_weights(pipe), tmp_path / "x.safetensors", metadata={"format": "pt"})
    repository = tmp_path / "hub" / "models--stabilityai--stable-diffusion-xl-base-1.0"
    configurations(pipe, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert_same(load_foundation(str(tmp_path / "x.safetensors")), pipe)
    vae = foundation_vae(str(tmp_path / "x.safetensors"))
    assert all(torch.equal(vae.state_dict()[name], value) for name, value in pipe.vae.state_dict().items())
    assert vae.config.scaling_factor == pipe.vae.config.scaling_factor


def test_a_lone_autoencoder_is_scaled_as_its_configuration_says_and_not_as_that_of_stable_diffusion_1(tmp_path):
    vae = tiny_pipeline().vae
    vae.register_to_config(scaling_factor=0.13025)  # SDXL's; what diffusers infers from the file alone has 0.18215
    bare = {name.removeprefix("first_stage_model."): value.contiguous() for name, value in vae_weights(vae).items()}
    save_file(bare, tmp_path / "other.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="configuration in .*/other/config.json, if the hub is out of reach") as raised:
        read_autoencoder(str(tmp_path / "other.safetensors"))
    assert "\n" not in str(raised.value)
    vae.save_config(tmp_path / "other")
    found = read_autoencoder(str(tmp_path / "other.safetensors"))
    assert found.config.scaling_factor == 0.13025
    assert all(torch.equal(found.state_dict()[name], value) for name, value in vae.state_dict().items())


def test_the_autoencoder_alone_of_a_file_has_the_configuration_beside_it(file):
    expected = tiny_pipeline().vae
    found = foundation_vae(str(file))
    assert found.config.scaling_factor == expected.config.scaling_factor
    assert all(torch.equal(found.state_dict()[name], value) for name, value in expected.state_dict().items())
