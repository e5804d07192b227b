"""The whole pretraining recipe, on a toy, and the model card: what it says is what was measured."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open

from sarnb import foundation_path
from sarnb.errors import InputError
from sarnb.foundation.recipe import (
    FoundationRecipe,
    Pictures,
    export_foundation,
    foundation_card,
    pretrain_foundation,
    radar_captions,
    write_measures,
)
from sarnb.graph import foundation_digest
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
    vae_perceptual=0.0,
    vocabulary=560,
    text_steps=(2, 2),
    text_batch=8,
    unet_steps=(2, 3),
    unet_batch=4,
)


@pytest.mark.slow
def test_recipe_runs_exports_and_resumes(tmp_path):
    scenes = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    captions = [(f"an aerial photograph of a coast with {n} ships", "a forest") for n in ("one", "two", "six") for _ in range(8)]
    pictures, folder = Pictures(scenes, captions, np.full(24, -1)), tmp_path / "pipeline"
    pipe, encoder = pretrain_foundation(RECIPE, pictures, ["a radar image of a city"], tmp_path)
    export_foundation(pipe, encoder, RECIPE, tmp_path, folder)
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
    again, _ = pretrain_foundation(RECIPE, pictures, ["a radar image of a city"], tmp_path)
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


TARGETS = pd.DataFrame(
    [
        ("recall: at least 0.3", "later", 0.3, 0.25, np.nan, np.nan, 1, "not reached"),
        ("SSIM: at least 0.8", "before training", 0.8, 0.91234, 0.9, 0.95, 24, "reached"),
    ],
    columns=["target", "set", "goal", "value", "lo", "hi", "n", "verdict"],
)


@pytest.fixture()
def folder(tmp_path):
    pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "seconds": [30, 30], "images_per_second": [5, 5]}).to_csv(tmp_path / "unet.csv")
    recipe = {"model": {"latent_channels": 16}, "scenes": 24, "textures": 16, "seed": 3}
    (tmp_path / "README.md").write_text(foundation_card(recipe, tmp_path))
    return tmp_path


def test_measures_take_the_place_of_those_before_and_leave_the_rest(folder):
    before = (folder / "README.md").read_text()
    assert "Not measured yet" in before and "| unet | 2 | 1 | 1.0000 | 5 |" in before
    write_measures(folder, TARGETS.assign(value=0.1))
    write_measures(folder, TARGETS)
    card = (folder / "README.md").read_text()
    assert "| recall: at least 0.3 | later | 0.25 | not reached |" in card
    assert "| SSIM: at least 0.8 | before training | 0.912 [0.9, 0.95], n = 24 | reached |" in card
    assert "Not measured yet" not in card and "0.1 " not in card and "Known limits" in card
    head, tail = "## Measures and limits", "## Licence"
    assert card.partition(head)[0] == before.partition(head)[0] and card.partition(tail)[2] == before.partition(tail)[2]


@pytest.mark.parametrize("text", [None, "# another model\n"])
def test_what_is_no_card_of_a_foundation_is_left_alone(tmp_path, text):
    if text:
        (tmp_path / "README.md").write_text(text)
    with pytest.raises(InputError, match="no section 'Measures and limits'"):
        write_measures(tmp_path, TARGETS)
    assert not text or (tmp_path / "README.md").read_text() == text


def test_the_card_does_not_make_a_study_outdated_and_the_weights_do(folder):
    (folder / "unet").mkdir()
    digests = []
    for weights, targets in (("a", TARGETS), ("a", TARGETS.assign(value=0.0)), ("b", TARGETS)):
        (folder / "unet" / "weights.safetensors").write_text(weights)
        write_measures(folder, targets)
        targets.to_csv(folder / "styles.csv")  # what notebook 12 measured of it
        foundation_digest.cache_clear()
        digests.append(foundation_digest(str(folder)))
    assert digests[0] == digests[1] != digests[2]


def test_the_shipped_card_tells_what_its_table_of_measures_says(tmp_path):
    shipped, table = (foundation_path() / name for name in ("README.md", "measures.csv"))
    (tmp_path / "README.md").write_text(shipped.read_text())
    write_measures(tmp_path, pd.read_csv(table))
    assert (tmp_path / "README.md").read_text() == shipped.read_text()
    assert pd.read_csv(tmp_path / "measures.csv").equals(pd.read_csv(table))
