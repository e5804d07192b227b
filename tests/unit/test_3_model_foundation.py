"""The foundation: the parts of SDXL and their sizes, from a folder, with another autoencoder, or from one file."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl as pipeline_module
import huggingface_hub.constants as hub
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    infer_diffusers_model_type,
)
from safetensors.torch import load_file, save_file
from single_file import single_file_weights, vae_weights
from tiny import SDXL_CONFIGS, sdxl_folder, tiny_pipeline
from transformers import CLIPTextModelWithProjection

import sarnb
import sarnb.model.foundation as module
from sarnb import split_foundation
from sarnb.errors import InputError
from sarnb.generate.sample import generate
from sarnb.graph import foundation_digest
from sarnb.model.export import foundation_fingerprint, foundation_vae
from sarnb.model.foundation import (
    components,
    decode_latents,
    denormalise_latents,
    encode_posterior,
    encode_prompts,
    fingerprint,
    load_foundation,
    normalise_latents,
    on_card,
    read_autoencoder,
    sdxl_components,
    time_ids,
    to_images,
    to_pixels,
)
from sarnb.model.judge import foundation_tokenizer
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
    beyond = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5]).reshape(1, 1, 1, 5).expand(-1, 3, -1, -1)  # amplitudes -0.25 to 1.25
    assert to_images(beyond)[0, 0, :, 0].tolist() == [64, 0, 128, 255, 255], "the modulus below zero, the cut above one"
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


def test_fingerprint_reads_the_weights_once_and_again_when_they_change(monkeypatch):
    def requested() -> tuple[str, bool]:
        count = len(read)
        return fingerprint(unet), len(read) > count

    read, unet = [], tiny_pipeline().unet
    hashed = module.hashlib.sha256
    monkeypatch.setattr(module.hashlib, "sha256", lambda: read.append(0) or hashed())
    first, weights = fingerprint(unet), {name: value.clone() for name, value in unet.state_dict().items()}
    assert requested() == (first, False)
    with torch.no_grad():
        torch._foreach_add_([parameter.detach() for parameter in unet.parameters()], 1.0)
    assert requested()[1]
    unet.load_state_dict(weights)
    assert requested() == (first, True) and requested() == (first, False)
    unet.to(torch.bfloat16).to(torch.float32)
    changed, again = requested()
    assert changed != first and again and not requested()[1]
    unet.requires_grad_(True)
    assert requested()[1] and requested()[1]  # what trains may change in ways that nobody counts


def test_fingerprint_of_a_trained_network_is_not_that_of_its_start(tmp_path):
    unet = tiny_pipeline().unet
    first = fingerprint(unet)
    unet.conv_in.requires_grad_(True)
    train_loop({"unet": unet}, lambda modules, step, micro: modules["unet"].conv_in.weight.sum(), LoopConfig(steps=1), tmp_path)
    assert fingerprint(unet.requires_grad_(False)) != first


@pytest.mark.parametrize("spec", [".", "no/such/folder"])
def test_missing_foundation_is_one_sentence(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be loaded from"):
        load_foundation(spec)


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


def test_embedded_foundation_opens_with_plain_diffusers():
    pipe = DiffusionPipeline.from_pretrained(sarnb.foundation_path(), local_files_only=True)
    assert isinstance(pipe, StableDiffusionXLPipeline)
    assert pipe("a city", num_inference_steps=1, output_type="np").images.shape == (1, 128, 128, 3)
    mine = load_foundation("embedded")
    assert all(fingerprint(m) == fingerprint(getattr(pipe, name)) for name, m in components(mine).items())
    total = sum(path.stat().st_size for path in sarnb.foundation_path().rglob("*") if path.is_file())
    assert total < 60e6


# A foundation with another autoencoder.


@pytest.fixture
def foundation(tmp_path):
    """A foundation on disk, and two autoencoders in the layouts of a hub's model and of a pipeline."""
    tiny_pipeline().save_pretrained(tmp_path / "base")
    other = tiny_pipeline(seed=1).vae
    other.register_to_config(force_upcast=False, scaling_factor=0.25)
    other.save_pretrained(tmp_path / "fix")
    other.save_pretrained(tmp_path / "model" / "vae")
    return tmp_path


@pytest.mark.parametrize("name", ["fix", "model"])
def test_another_autoencoder_and_nothing_else(foundation, name):
    spec = f"{foundation / 'base'}+vae={foundation / name}"
    plain, other = load_foundation(str(foundation / "base")), load_foundation(spec)
    changed = {part for part, net in components(plain).items() if fingerprint(net) != fingerprint(getattr(other, part))}
    assert changed == {"vae"} and fingerprint(other.vae) == fingerprint(tiny_pipeline(seed=1).vae)
    assert other.vae.config.scaling_factor == 0.25 and not other.vae.config.force_upcast
    assert not any(p.requires_grad for p in other.vae.parameters()) and not other.vae.training
    assert foundation_fingerprint(plain) != foundation_fingerprint(other)  # a checkpoint of one does not fit the other
    assert fingerprint(foundation_vae(spec)) == fingerprint(other.vae)
    assert foundation_tokenizer(spec).get_vocab() == plain.tokenizer.get_vocab()


def test_the_identity_of_a_run_follows_both_folders(foundation):
    base, fix = str(foundation / "base"), foundation / "fix"
    before = foundation_digest(f"{base}+vae={fix}")
    assert before != foundation_digest(base)
    (fix / "config.json").write_text((fix / "config.json").read_text().replace("0.25", "0.5"))
    foundation_digest.cache_clear()
    assert foundation_digest(f"{base}+vae={fix}") != before
    assert foundation_digest("a/b+vae=c/d") == "a/b+vae=c/d" and split_foundation("a/b") == ("a/b", "")


def test_autoencoders_that_do_not_fit_or_are_not_there(foundation):
    config = dict(tiny_pipeline().vae.config) | {"latent_channels": 6}
    AutoencoderKL.from_config(config).save_pretrained(foundation / "wide")
    with pytest.raises(InputError, match="wide.*6 channels.*works on 4"):
        load_foundation(f"{foundation / 'base'}+vae={foundation / 'wide'}")
    with pytest.raises(InputError, match="autoencoder .*nothing'.*cannot be loaded"):
        load_foundation(f"{foundation / 'base'}+vae={foundation / 'nothing'}")
    weights = foundation / "fix" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(InputError, match="autoencoder .*fix'.*cannot be loaded"):
        load_foundation(f"{foundation / 'base'}+vae={foundation / 'fix'}")


# SDXL as one file, as other tools keep it: the same networks as the folder's, without the hub; what it lacks is named.


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", Mock(side_effect=AssertionError("a test reached for the network")))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)


def configurations(pipe: StableDiffusionXLPipeline, folder: Path) -> Path:
    """A diffusers folder without weights."""
    pipe.save_pretrained(folder)
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    return folder


@pytest.fixture
def file(tmp_path) -> Path:
    """``xl.safetensors`` with the configurations in ``xl/`` next to it."""
    pipe = tiny_pipeline()
    configurations(pipe, tmp_path / "xl")
    save_file(single_file_weights(pipe), tmp_path / "xl.safetensors", metadata={"format": "pt"})
    return tmp_path / "xl.safetensors"


def assert_same(found: StableDiffusionXLPipeline, expected: StableDiffusionXLPipeline) -> None:
    for part, network in components(expected).items():
        loaded = components(found)[part]
        package, theirs = loaded.state_dict(), network.state_dict()
        assert package.keys() == theirs.keys() and all(torch.equal(package[name], value) for name, value in theirs.items())
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
    for vae in (loaded.vae, foundation_vae(str(file))):  # that of the whole, and the autoencoder alone
        assert vae.config.scaling_factor == pipe.vae.config.scaling_factor
        assert all(torch.equal(vae.state_dict()[name], value) for name, value in pipe.vae.state_dict().items())


@pytest.mark.parametrize(
    "mark, about, words",
    [
        ("v_pred", {}, "says prediction_type 'v_prediction', its configuration 'epsilon'; set it in .*xl/scheduler/scheduler_config.json"),
        ("", {"modelspec.prediction_type": "v"}, "says prediction_type 'v_prediction'"),
        ("ztsnr", {}, "says rescale_betas_zero_snr True"),
    ],
)
def test_a_file_that_says_it_predicts_otherwise_than_its_configuration_is_refused(mark, about, words, file):
    marks = {mark: torch.zeros(1)} if mark else {}
    save_file(single_file_weights(tiny_pipeline()) | marks, file, metadata={"format": "pt", **about})
    with pytest.raises(InputError, match=words):
        load_foundation(str(file))
    path = file.with_suffix("") / "scheduler" / "scheduler_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": mark == "ztsnr"})
    )
    assert load_foundation(str(file)).scheduler.config.prediction_type == "v_prediction"


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


@pytest.mark.parametrize("damage", [lambda whole: whole[:5000], lambda whole: b"not a weight file"])
def test_a_damaged_file_is_refused(damage, file):
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=r"xl\.safetensors.*cannot be loaded"):
        load_foundation(str(file))


def test_without_configurations_and_hub_the_sentence_says_where_to_put_them(file):
    (file.parent / "xl").rename(file.parent / "elsewhere")
    with pytest.raises(InputError, match="diffusers folder .*/xl of its configurations and tokenizers") as raised:
        load_foundation(str(file))
    assert "\n" not in str(raised.value)


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


def test_what_draws_is_on_the_card_while_it_draws_and_back_afterwards(monkeypatch):
    """With the meta device in the card's place."""
    pipe, seen = tiny_pipeline(), {}

    @on_card
    def look(pipe, name):
        seen[name] = {part.device.type for part in components(pipe).values()}

    move = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, place: move(module, "meta") if place == "cuda" else seen.update(back=place))
    look(pipe, "no card")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    look(pipe, "card")
    assert seen == {"no card": {"cpu"}, "card": {"meta"}, "back": torch.device("cpu")}


def test_large_images_are_coded_a_few_at_once(monkeypatch):
    pipe, images = tiny_pipeline(), np.zeros((5, 16, 16), np.uint8)
    whole = encode_posterior(pipe.vae, images)[0]
    monkeypatch.setattr(module, "LARGEST_BATCH", 2 * 16 * 16)
    sizes, encode, decode = [], pipe.vae.encode, pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "encode", lambda pixels: (sizes.append(len(pixels)), encode(pixels))[1])
    monkeypatch.setattr(pipe.vae, "decode", lambda latents: (sizes.append(len(latents)), decode(latents))[1])
    torch.testing.assert_close(encode_posterior(pipe.vae, images)[0], whole)
    assert decode_latents(pipe.vae, whole).shape == (5, 16, 16, 3) and sizes == [2, 2, 1] * 2


#: Of stabilityai/stable-diffusion-xl-base-1.0, from Git LFS pointers of a public copy: SHA-256 of files as published.
PUBLISHED = {
    "model_index.json": "a40ca00944bb33ea9281580f50d009d1e23a434173c0e4e234bb90bd75178874",
    "text_encoder/config.json": "39b8b2e4b1949e36969caa425b6c81c68bace99198dd9078ce05d16ad401fe7f",
    "unet/config.json": "30ebc70750223e59006f7f2b4e1e6c102570aa19a9c4ae3e1fbe7591332dbae6",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recorded_configurations_are_the_published_ones_to_the_bit(name):
    text = json.dumps(SDXL_CONFIGS[name], indent=2) + "\n"
    assert hashlib.sha256(text.encode()).hexdigest() == PUBLISHED[name]


def test_sdxl_as_it_is_published_is_loaded_and_draws(tmp_path):
    pipe = load_foundation(str(sdxl_folder(tmp_path / "sdxl", side=32)))
    assert [len(words) for words in (pipe.tokenizer, pipe.tokenizer_2)] == [49408, 49408]
    ids = [words("a city", padding="max_length").input_ids for words in (pipe.tokenizer, pipe.tokenizer_2)]
    assert ids[0][0] == ids[1][0] == 49406 and len(ids[0]) == 77 and (ids[0][-1], ids[1][-1]) == (49407, 0)  # padded by end, by "!"
    assert generate(pipe, ["a city"], [0], steps=1).shape == (1, 32, 32, 3)
