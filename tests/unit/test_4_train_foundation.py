"""The whole pretraining recipe, on a toy."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open

from sarnb.errors import InputError
from sarnb.foundation.recipe import FoundationRecipe, export_foundation, pretrain_foundation, radar_captions
from sarnb.model.foundation import FoundationConfig, fingerprint
from sarnb.model.judge import DualEncoder

MODEL = FoundationConfig(
    image_size=64,
    latent_channels=4,
    vae_channels=(16, 24, 24, 32),
    unet_channels=(32, 32, 64),
    text_width=32,
    text_layers=2,
    max_tokens=24,
    head_width=32,
)
RECIPE = FoundationRecipe(
    model=MODEL,
    scenes=24,
    textures=16,
    vae_batch=4,
    linear_steps=2,
    vae_steps=(2, 2),
    vae_rates=(1e-3, 1e-3),
    vae_crops=(32, 64),
    decoder_steps=2,
    vocabulary=560,
    text_steps=(2, 2),
    text_batch=8,
    unet_steps=(2, 3),
    unet_batch=4,
)


def test_recipe_runs_exports_and_resumes(tmp_path):
    scenes = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    captions = [(f"an aerial photograph of a coast with {n} ships", "a forest") for n in ("one", "two", "six") for _ in range(8)]
    pipe = pretrain_foundation(RECIPE, scenes, captions, ["a radar image of a city"], tmp_path)
    folder = tmp_path / "pipeline"
    loaded = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    with safe_open(folder / "text_encoder" / "model.safetensors", framework="pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # what transformers 4 looks for
        assert all(file.get_tensor(name).dtype == torch.float16 for name in file.keys())
    weights = {name.removeprefix("text_model."): w.half() for name, w in pipe.text_encoder.state_dict().items()}
    assert all(torch.equal(w.half(), weights[n.removeprefix("text_model.")]) for n, w in loaded.text_encoder.state_dict().items())
    assert json.loads((folder / "recipe.json").read_text())["unet_steps"] == [2, 3]
    steps = {name: pd.read_csv(folder / "curves" / f"{name}.csv")["step"].tolist() for name in ("vae", "text", "unet")}
    assert steps == {"vae": [2, 4], "text": [2, 4], "unet": [2, 5]}  # two cycles each, counted through
    assert "CPU, interim" in (folder / "README.md").read_text() or torch.cuda.is_available()
    assert DualEncoder.load(folder / "judge").embed_images(scenes[:2]).shape == (2, 32)
    again = pretrain_foundation(RECIPE, scenes, captions, ["a radar image of a city"], tmp_path)
    assert fingerprint(again.unet) == fingerprint(pipe.unet) and fingerprint(again.vae) == fingerprint(pipe.vae)
    assert str(tmp_path) in loaded.unet.config["_name_or_path"]  # what diffusers would write into the next configuration
    export_foundation(loaded, DualEncoder.load(tmp_path / "encoder"), RECIPE, tmp_path, tmp_path / "exported")
    assert not any(str(tmp_path) in path.read_text() for path in (tmp_path / "exported").rglob("*.json"))


@pytest.mark.parametrize("change", [{"unet_high_noise": (6.0,)}, {"vae_crops": (64, 64)}, {"text_separation": ()}])
def test_a_recipe_with_cycles_of_different_number_is_refused_at_once(change):
    (name,) = change
    with pytest.raises(InputError, match=f"{name} has .* one value a cycle"):
        FoundationRecipe(**change)


def test_radar_captions_name_both_sides_and_several_bands():
    words = " ".join(radar_captions(150, 0))
    assert all(word in words for word in ("radar", "left", "right", "X band", "C band"))
