"""Saved models: the same outputs after loading, by us and by plain diffusers, under the names of the ecosystem; damage is named."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import outputs, tiny_pipeline

import sarnb.model.export as module
from sarnb.errors import InputError
from sarnb.model.export import LORA_FILE, RECORD, foundation_fingerprint, load_trained, lora_layers, save_trained
from sarnb.model.foundation import components, fingerprint, load_foundation
from sarnb.model.strategy import TEXT_TARGETS, UNET_TARGETS, Strategy, find_strategy, prepare
from sarnb.train.finetune import FinetuneConfig


@pytest.fixture(scope="module")
def foundation(tmp_path_factory) -> str:
    """A tiny foundation on disk."""
    folder = tmp_path_factory.mktemp("foundation")
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


def trained(name: str, alpha: float | None = None):
    """A pipeline whose trainable parameters moved, its strategy, and the fingerprint of the foundation."""
    strategy = find_strategy(name)
    strategy = strategy if alpha is None else replace(strategy, alpha=alpha)
    pipe = tiny_pipeline()
    fingerprint = foundation_fingerprint(pipe)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in (p for group in prepare(pipe, strategy).values() for p in group):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return pipe, strategy, {"foundation": fingerprint}


def plain_diffusers(foundation: str, folder) -> StableDiffusionXLPipeline:
    """What the model card tells a user to do without this package: its own lines, all but the drawing, are run."""
    code = (folder / "README.md").read_text().split("```python")[1].split("```")[0]
    code = code.replace("the foundation's folder or hub id", foundation).replace("this folder", str(folder))
    assert "sarnb" not in code
    names: dict = {}
    exec(code[: code.index("image = pipe(")], names)
    return names["pipe"]


@pytest.mark.parametrize(
    "name", ["scratch", "token", "unet-lora+te-lora+token-r4", "unet-full+te-full+token", "hybrid-r4", "unet-dora-r4", "unet-lora-conv-r4"]
)
def test_loaded_outputs_are_the_trained_ones_bit_for_bit(name, foundation, tmp_path):
    pipe, strategy, record = trained(name)
    save_trained(pipe, strategy, tmp_path, record)
    prompt = "a <SAR> image of a city" if strategy.token else "a radar image of a city"
    expected = outputs(pipe, prompt)
    for loaded in (load_trained(foundation, tmp_path), plain_diffusers(foundation, tmp_path)):
        assert all(torch.equal(a, b) for a, b in zip(outputs(loaded, prompt), expected))


def contents(folder) -> dict:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("writer", ["save_file", "trained_card", "shutil.copyfile"])
def test_a_disk_that_fills_up_leaves_the_earlier_model_whole(writer, foundation, tmp_path, monkeypatch):
    out, history = tmp_path / "model", tmp_path / "history.csv"
    history.write_text("step,loss")
    pipe, strategy, record = trained("te-full")
    save_trained(pipe, strategy, out, record, {"history.csv": history})
    expected, before = outputs(pipe), contents(out)
    assert before.keys() >= {Path("record.json"), Path("history.csv"), Path("text_encoder/model.safetensors")}

    monkeypatch.setattr(f"sarnb.model.export.{writer}", Mock(side_effect=OSError(28, "No space left on device")))
    history.write_text("step,loss of another training")
    with torch.no_grad():
        pipe.text_encoder.get_parameter(next(name for name, p in pipe.text_encoder.named_parameters() if p.requires_grad)).add_(1)
    with pytest.raises(InputError, match="No space left on device.*free some disk space"):
        save_trained(pipe, strategy, out, record, {"history.csv": history})
    assert contents(out) == before
    loaded = load_trained(foundation, out)
    assert all(torch.equal(a, b) for a, b in zip(outputs(loaded), expected))


def test_the_card_tells_the_noise_offset(tmp_path):
    pipe, strategy, record = trained("token")
    save_trained(pipe, strategy, tmp_path, record | {"config": asdict(FinetuneConfig(steps=1, noise_offset=0.375))})
    assert "| noise_offset | 0.375 |" in (tmp_path / module.CARD).read_text()


def test_what_belongs_to_a_model_is_replaced_with_it(tmp_path):
    out, first, second = tmp_path / "model", tmp_path / "first", tmp_path / "second"
    for folder, text in ((first, "1"), (second, "2")):
        folder.mkdir()
        (folder / "history.csv").write_text(text)
    (first / "grids").mkdir()
    (first / "grids" / "a.png").write_text("1")
    pipe, strategy, record = trained("token")
    for folder, grids in ((first, True), (second, False)):
        save_trained(pipe, strategy, out, record, {name: folder / name for name in ("history.csv", "grids")})
        assert (out / "history.csv").read_text() == (folder / "history.csv").read_text() and (out / "grids").is_dir() == grids
        assert not (out / module.STAGING).exists() and "history.csv" not in json.loads((out / module.RECORD).read_text())["files"]


def test_fused_lora_differs_by_rounding_only(foundation, tmp_path):
    pipe, strategy, record = trained("unet-lora+te-lora+token-r4", alpha=8)
    save_trained(pipe, strategy, tmp_path, record)
    fused = load_trained(foundation, tmp_path, fuse=True)
    assert not any("lora" in name for part in (fused.unet, fused.text_encoder) for name, _ in part.named_modules())
    torch.testing.assert_close(outputs(fused), outputs(pipe), atol=1e-4, rtol=1e-4)


def test_alpha_is_in_the_weights_for_readers_that_ignore_it(foundation, tmp_path):
    pipe, strategy, record = trained("unet-lora-r4", alpha=8)
    save_trained(pipe, strategy, tmp_path, record)
    loaded = plain_diffusers(foundation, tmp_path)
    assert torch.equal(outputs(loaded)[-1], outputs(pipe)[-1])


def test_dora_and_convolutions_keep_the_names_of_their_layers(tmp_path):
    for name, needle in (("unet-dora-r4", "attn1.to_q.lora_magnitude_vector"), ("unet-lora-conv-r4", "resnets.0.conv1.lora.down.weight")):
        pipe, strategy, record = trained(name)
        save_trained(pipe, strategy, tmp_path / name, record)
        assert any(key.startswith("unet.down_blocks") and key.endswith(needle) for key in load_file(tmp_path / name / LORA_FILE))


def test_damage_and_mismatch_are_named(foundation, tmp_path):
    pipe, strategy, record = trained("te-lora-r4")
    with pytest.raises(InputError, match="holds no finished model"):
        load_trained(foundation, tmp_path)
    save_trained(pipe, strategy, tmp_path, {"foundation": "0" * 16})
    with pytest.raises(InputError, match="trained on the foundation 0000"):
        load_trained(foundation, tmp_path)
    save_trained(pipe, strategy, tmp_path, record)
    weights = tmp_path / LORA_FILE
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="pytorch_lora_weights.safetensors: truncated"):
        load_trained(foundation, tmp_path)
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(InputError, match="record.json: damaged"):
        load_trained(foundation, tmp_path)
    with pytest.raises(InputError, match="nothing to save"):
        save_trained(pipe, find_strategy("zero-shot"), tmp_path)


def test_an_autoencoder_belongs_to_the_autoencoder_that_it_was_trained_on(foundation, tmp_path):
    pipe, strategy, _ = trained("vae-lora-r4")
    autoencoder = fingerprint(tiny_pipeline().vae)
    save_trained(pipe, strategy, tmp_path / "model", {"vae": autoencoder})
    assert autoencoder[:16] in (tmp_path / "model" / "README.md").read_text()
    other = tiny_pipeline()
    with torch.no_grad():
        next(other.unet.parameters()).add_(1.0)
    other.save_pretrained(tmp_path / "other-unet")
    load_trained(str(tmp_path / "other-unet"), tmp_path / "model")
    with torch.no_grad():
        next(other.vae.parameters()).add_(1.0)
    other.save_pretrained(tmp_path / "other-vae")
    with pytest.raises(InputError, match="trained on the autoencoder"):
        load_trained(str(tmp_path / "other-vae"), tmp_path / "model")


# Names in the files of the ecosystem: lists recorded under transformers 4, against what is written and read here.


#: How the lists were made, and by which versions, stands in the file.
RECORDED = json.loads((Path(__file__).parent / "recorded" / "transformers_4_keys.json").read_text())
ADAPTED = ("unet", "text_encoder", "text_encoder_2")


def shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}


def random_values(listed: dict[str, list[int]], scale: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {key: scale * torch.randn(shape, generator=generator) for key, shape in listed.items()}


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
        rows = json.loads((tmp_path / encoder / "config.json").read_text())["vocab_size"]
        assert rows == len(tiny_pipeline().tokenizer)  # a learned word lies in its own file


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
@pytest.mark.parametrize("style, header", [("lora_diffusers", False), ("lora_diffusers", True), ("lora_peft", False), ("lora_peft", True)])
def test_a_file_of_transformers_4_changes_each_network_as_its_values_say(style, header, how, foundation, tmp_path):
    """Without a header the factor alpha / r is 1 by convention; the recorded header says alpha 8 and r 4."""
    weights = random_values(RECORDED[style], 0.2)
    about = {"lora_adapter_metadata": json.dumps(RECORDED["lora_header"])} if header else {}
    save_file(weights, tmp_path / LORA_FILE, metadata={"format": "pt"} | about)
    expected, found, before = by_hand(weights, 2.0 if header else 1.0), read(how, foundation, tmp_path), tiny_pipeline()
    for package, theirs, old in zip(outputs(found), outputs(expected), outputs(before)):
        torch.testing.assert_close(package, theirs, atol=2e-5, rtol=1e-4)
        assert (theirs - old).abs().max() > 0.05
    if how == "fused":
        for part, network in components(expected).items():
            torch.testing.assert_close(components(found)[part].state_dict(), network.state_dict(), atol=1e-6, rtol=1e-5)


def test_text_encoders_of_transformers_4_are_read_as_a_foundation(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    for encoder in ("text_encoder", "text_encoder_2"):
        weights = random_values(RECORDED[encoder], 0.1)
        save_file(weights, tmp_path / encoder / "model.safetensors", metadata={"format": "pt"})
        state = getattr(load_foundation(str(tmp_path)), encoder).state_dict()
        found = {key.removeprefix("text_model."): value for key, value in state.items()}
        assert all(torch.equal(found[key.removeprefix("text_model.")], value) for key, value in weights.items())


def test_a_text_encoder_of_the_users_own_is_not_replaced(tmp_path):
    (tmp_path / "text_encoder").mkdir()
    own = tmp_path / "text_encoder" / "model.safetensors"
    own.write_bytes(b"mine")
    prepare(pipe := tiny_pipeline(), find_strategy("te-full"))
    with pytest.raises(InputError, match="text_encoder/model.safetensors, not written here"):
        save_trained(pipe, find_strategy("te-full"), tmp_path)
    assert own.read_bytes() == b"mine" and [path.name for path in tmp_path.iterdir()] == ["text_encoder"]
