"""Names in the files of the ecosystem: lists recorded under transformers 4, against what is written and read here.

How the lists were made, and by which versions, stands in ``recorded/transformers_4_keys.json``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import tiny_pipeline

from sarnb.model.export import LORA_FILE, RECORD, load_trained, lora_layers, save_trained
from sarnb.model.foundation import components, encode_prompts, load_foundation
from sarnb.model.strategy import TEXT_TARGETS, UNET_TARGETS, Strategy, find_strategy, prepare

RECORDED = json.loads((Path(__file__).parent / "recorded" / "transformers_4_keys.json").read_text())
ADAPTED = ("unet", "text_encoder", "text_encoder_2")


def shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}


def random_values(listed: dict[str, list[int]], scale: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {key: scale * torch.randn(shape, generator=generator) for key, shape in listed.items()}


@torch.no_grad()
def outputs(pipe: StableDiffusionXLPipeline) -> list[torch.Tensor]:
    """Text embeddings of the first and of the second encoder, pooled embedding, noise prediction."""
    hidden, pooled = encode_prompts(pipe, ["a radar image of a city"])
    conditions = {"text_embeds": pooled, "time_ids": torch.ones(1, 6)}
    latents = torch.linspace(-1, 1, 64).view(1, 4, 4, 4)
    noise = pipe.unet(latents, 500, encoder_hidden_states=hidden, added_cond_kwargs=conditions).sample
    return [*hidden.split([16, 24], dim=-1), pooled, noise]


@pytest.fixture(scope="module")
def foundation(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("foundation")
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


def test_adapters_on_every_layer_have_the_recorded_names_and_shapes():
    pipe, found = tiny_pipeline(), {}
    for part in ADAPTED:
        targets = list(UNET_TARGETS if part == "unet" else TEXT_TARGETS)
        network = getattr(pipe, part)
        network.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=targets))
        found |= {f"{part}.{key}": list(value.shape) for key, value in lora_layers(network, part != "unet").items()}
    assert found == RECORDED["lora_diffusers"]


def test_a_saved_strategy_has_the_recorded_names_and_shapes(tmp_path):
    """All but those of the first encoder's last layer, which SDXL never uses and no strategy trains."""
    pipe, strategy = tiny_pipeline(), find_strategy("unet-lora+te-lora+token-r4")
    prepare(pipe, strategy)
    save_trained(pipe, strategy, tmp_path)
    unused = "text_encoder.text_model.encoder.layers.1."
    assert shapes(tmp_path / LORA_FILE) == {k: v for k, v in RECORDED["lora_diffusers"].items() if not k.startswith(unused)}


@pytest.mark.parametrize("name", ["te-full", "unet-full+te-full+token"])
def test_whole_text_encoders_have_the_recorded_names_and_shapes(name, tmp_path):
    pipe, strategy = tiny_pipeline(), find_strategy(name)
    prepare(pipe, strategy)
    save_trained(pipe, strategy, tmp_path)
    for encoder in ("text_encoder", "text_encoder_2"):
        assert shapes(tmp_path / encoder / "model.safetensors") == RECORDED[encoder]


def by_hand(weights: dict[str, torch.Tensor], scale: float) -> StableDiffusionXLPipeline:
    """The foundation with W + scale·B·A in place of every W that the file names."""
    pipe = tiny_pipeline()
    for key, down in weights.items():
        if key.endswith(("lora_linear_layer.down.weight", "lora.down.weight", "lora_A.weight")):
            layer = key.partition(".lora")[0]
            part, _, path = layer.partition(".")
            (up,) = [value for other, value in weights.items() if other != key and other.startswith(f"{layer}.lora")]
            network = getattr(pipe, part)
            path = path if part == "unet" or hasattr(network, "text_model") else path.removeprefix("text_model.")
            network.get_submodule(path).weight += scale * up @ down
    return pipe


def read(how: str, foundation: str, folder: Path) -> StableDiffusionXLPipeline:
    if how == "plain diffusers":
        pipe = StableDiffusionXLPipeline.from_pretrained(foundation, add_watermarker=False)
        pipe.load_lora_weights(folder, weight_name=LORA_FILE)
        return pipe
    strategy = Strategy("unet-lora+te-lora", unet="lora", text="lora", rank=4)
    (folder / RECORD).write_text(json.dumps({"strategy": asdict(strategy)}))
    return load_trained(foundation, folder, fuse=how == "fused")


@pytest.mark.parametrize("how", ["plain diffusers", "loaded", "fused"])
@pytest.mark.parametrize("style, header", [("lora_diffusers", False), ("lora_diffusers", True), ("lora_peft", True)])
def test_a_file_of_transformers_4_changes_each_network_as_its_values_say(style, header, how, foundation, tmp_path):
    """Without a header the factor alpha / r is 1 by convention; the recorded header says alpha 8 and r 4."""
    weights = random_values(RECORDED[style], 0.2)
    about = {"lora_adapter_metadata": json.dumps(RECORDED["lora_header"])} if header else {}
    save_file(weights, tmp_path / LORA_FILE, metadata={"format": "pt"} | about)
    expected, found, before = by_hand(weights, 2.0 if header else 1.0), read(how, foundation, tmp_path), tiny_pipeline()
    for ours, theirs, old in zip(outputs(found), outputs(expected), outputs(before)):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
        assert (theirs - old).abs().max() > 0.05
    if how == "fused":
        for part, network in components(expected).items():
            fused = components(found)[part].state_dict()
            assert fused.keys() == network.state_dict().keys()
            for key, value in network.state_dict().items():
                torch.testing.assert_close(fused[key], value, atol=1e-6, rtol=1e-5)


def test_text_encoders_of_transformers_4_are_read_as_a_foundation(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    for encoder in ("text_encoder", "text_encoder_2"):
        weights = random_values(RECORDED[encoder], 0.1)
        save_file(weights, tmp_path / encoder / "model.safetensors", metadata={"format": "pt"})
        state = getattr(load_foundation(str(tmp_path)), encoder).state_dict()
        found = {key.removeprefix("text_model."): value for key, value in state.items()}
        assert all(torch.equal(found[key.removeprefix("text_model.")], value) for key, value in weights.items())
