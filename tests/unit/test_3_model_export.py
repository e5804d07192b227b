"""Saved models: the same outputs after loading, by us and by plain diffusers; damage is named."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from tiny import tiny_pipeline

import sarnb.model.export as module
from sarnb.errors import InputError
from sarnb.model.export import LORA_FILE, foundation_fingerprint, load_trained, save_trained
from sarnb.model.foundation import encode_prompts, fingerprint
from sarnb.model.strategy import find_strategy, prepare
from sarnb.train.finetune import FinetuneConfig

# The names that diffusers' own mapping gives a LoRA file; readers on transformers 4 look for `text_model`.
TEXT_KEY = r"text_encoder(_2)?\.text_model\.encoder\.layers\.\d+\.self_attn\.(q|k|v|out)_proj\.lora_linear_layer\.(down|up)\.weight"
UNET_KEY = r"unet\.(down_blocks|mid_block|up_blocks)\.[\w.]+\.attn[12]\.to_(q|k|v|out\.0)\.lora\.(down|up)\.weight"


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


@torch.no_grad()
def outputs(pipe, token: bool) -> list[torch.Tensor]:
    """Text embeddings and a noise prediction."""
    hidden, pooled = encode_prompts(pipe, ["a <SAR> image of a city" if token else "a radar image of a city"])
    conditions = {"text_embeds": pooled, "time_ids": torch.ones(1, 6)}
    latents = torch.linspace(-1, 1, 64).view(1, 4, 4, 4)
    return [hidden, pooled, pipe.unet(latents, 500, encoder_hidden_states=hidden, added_cond_kwargs=conditions).sample]


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
    expected = outputs(pipe, strategy.token)
    for loaded in (load_trained(foundation, tmp_path), plain_diffusers(foundation, tmp_path)):
        assert all(torch.equal(a, b) for a, b in zip(outputs(loaded, strategy.token), expected))


def contents(folder) -> dict:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("writer", ["save_file", "trained_card", "shutil.copyfile"])
def test_a_disk_that_fills_up_leaves_the_earlier_model_whole(writer, foundation, tmp_path, monkeypatch):
    out, history = tmp_path / "model", tmp_path / "history.csv"
    history.write_text("step,loss")
    pipe, strategy, record = trained("te-full")
    save_trained(pipe, strategy, out, record, {"history.csv": history})
    expected, before = outputs(pipe, strategy.token), contents(out)
    assert before.keys() >= {Path("record.json"), Path("history.csv"), Path("text_encoder/model.safetensors")}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"sarnb.model.export.{writer}", full)
    history.write_text("step,loss of another training")
    with torch.no_grad():
        pipe.text_encoder.get_parameter(next(name for name, p in pipe.text_encoder.named_parameters() if p.requires_grad)).add_(1)
    with pytest.raises(InputError, match="No space left on device.*free some disk space"):
        save_trained(pipe, strategy, out, record, {"history.csv": history})
    assert contents(out) == before
    loaded = load_trained(foundation, out)
    assert all(torch.equal(a, b) for a, b in zip(outputs(loaded, strategy.token), expected))


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
    for found, expected in zip(outputs(fused, True), outputs(pipe, True)):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_alpha_is_in_the_weights_for_readers_that_ignore_it(foundation, tmp_path):
    pipe, strategy, record = trained("unet-lora-r4", alpha=8)
    save_trained(pipe, strategy, tmp_path, record)
    loaded = plain_diffusers(foundation, tmp_path)
    assert torch.equal(outputs(loaded, False)[2], outputs(pipe, False)[2])


def test_lora_keys_are_those_of_the_ecosystem(tmp_path):
    pipe, strategy, record = trained("unet-lora+te-lora+token-r4")
    save_trained(pipe, strategy, tmp_path, record)
    keys = set(load_file(tmp_path / LORA_FILE))
    text = {key for key in keys if key.startswith("text_encoder")}
    assert text and all(re.fullmatch(TEXT_KEY, key) for key in text)
    assert all(re.fullmatch(UNET_KEY, key) for key in keys - text)
    assert "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight" in text
    assert len([key for key in text if key.startswith("text_encoder_2.")]) == 2 * 4 * 2  # layers, projections, matrices


def test_dora_and_convolutions_keep_the_names_of_their_layers(tmp_path):
    for name, needle in (("unet-dora-r4", "attn1.to_q.lora_magnitude_vector"), ("unet-lora-conv-r4", "resnets.0.conv1.lora.down.weight")):
        pipe, strategy, record = trained(name)
        save_trained(pipe, strategy, tmp_path / name, record)
        assert any(key.startswith("unet.down_blocks") and key.endswith(needle) for key in load_file(tmp_path / name / LORA_FILE))


def test_full_text_encoders_have_the_prefix_of_transformers_4(tmp_path):
    pipe, strategy, record = trained("unet-full+te-full+token")
    save_trained(pipe, strategy, tmp_path, record)
    for folder in ("text_encoder", "text_encoder_2"):
        weights = load_file(tmp_path / folder / "model.safetensors")
        assert all(key.startswith("text_model.") or key == "text_projection.weight" for key in weights)
        rows = json.loads((tmp_path / folder / "config.json").read_text())["vocab_size"]
        assert weights["text_model.embeddings.token_embedding.weight"].shape[0] == rows == len(tiny_pipeline().tokenizer)


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


# Names in files of other tools: diffusers on transformers 4, in its own and in peft's style.
LAYER = "{encoder}.text_model.encoder.layers.0.self_attn.{projection}"
STYLES = {
    "diffusers": (LAYER + ".lora_linear_layer.down.weight", LAYER + ".lora_linear_layer.up.weight"),
    "peft": (LAYER + ".lora_A.weight", LAYER + ".lora_B.weight"),
}


@pytest.mark.parametrize("style", sorted(STYLES))
def test_text_lora_of_other_tools_is_read(style, tmp_path):
    """A file as transformers 4 had it, loaded here, changes each encoder as the product of its matrices says."""
    generator = torch.Generator().manual_seed(7)
    pipe, weights, products = tiny_pipeline(), {}, {}
    for encoder in ("text_encoder", "text_encoder_2"):
        width = getattr(pipe, encoder).config.hidden_size
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            down, up = torch.randn(2, width, generator=generator), torch.randn(width, 2, generator=generator)
            names = (name.format(encoder=encoder, projection=projection) for name in STYLES[style])
            weights |= dict(zip(names, (down, up)))
            products[encoder, projection] = up @ down
    save_file(weights, tmp_path / LORA_FILE)
    before = {key: attention(pipe, *key).weight.detach().clone() for key in products}
    pipe.load_lora_weights(tmp_path, weight_name=LORA_FILE)
    pipe.fuse_lora(components=["text_encoder", "text_encoder_2"])
    pipe.unload_lora_weights()
    for key, product in products.items():
        torch.testing.assert_close(attention(pipe, *key).weight, before[key] + product, atol=1e-5, rtol=1e-5)


def attention(pipe, encoder: str, projection: str):
    """One projection of the first layer's attention, whatever prefix this version of transformers gives it."""
    names = dict(getattr(pipe, encoder).named_modules())
    return next(layer for name, layer in names.items() if name.endswith(f"encoder.layers.0.self_attn.{projection}"))
