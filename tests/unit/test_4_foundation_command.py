"""The pretraining command: plan, pictures, sides in pairs, going on from a foundation, and refusals."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import sarnb.foundation.__main__ as command
from sarnb import foundation_path
from sarnb.data.twin import twin_optical
from sarnb.errors import InputError
from sarnb.foundation.recipe import FoundationRecipe, radar_captions, styled_pictures
from sarnb.model.foundation import FoundationConfig, assemble, encode_prompts, first_tower, load_foundation
from sarnb.model.judge import DualEncoder
from sarnb.train.loop import pair_sides
from sarnb.world.styles import STYLES

SIZES = FoundationConfig(
    image_size=64, latent_channels=4, vae_channels=(16, 24, 24, 32), unet_channels=(32, 32, 64), text_width=32, text_layers=2, head_width=32
)
STYLED = FoundationRecipe(model=SIZES, styles=tuple(STYLES), scenes=80)


def test_photographs_alone_are_the_twin_worlds_own():
    pictures = styled_pictures(FoundationRecipe(model=SIZES), 20, workers=1)
    images, captions, _ = twin_optical(20, 0, size=64, workers=1)
    assert np.array_equal(pictures.images, images) and pictures.captions == captions and (pictures.partners == -1).all()


def test_lit_pictures_come_with_the_same_scene_from_the_other_side():
    pictures = styled_pictures(STYLED, 80, workers=1)
    paired = np.flatnonzero(pictures.partners >= 0)
    assert len(paired) >= 8 and (pictures.partners[pictures.partners[paired]] == paired).all()
    for i in paired:
        package, theirs = pictures.captions[i], pictures.captions[pictures.partners[i]]
        exchanged = [text.replace("left", "#").replace("right", "left").replace("#", "right") for text in package]
        assert [text.split()[-1] for text in theirs] == [text.split()[-1] for text in exchanged]
        assert not np.array_equal(pictures.images[i], pictures.images[pictures.partners[i]])
    lone = np.setdiff1d(np.arange(len(pictures.images)), paired)
    assert not any("from the" in text for i in lone for text in pictures.captions[i])


def test_pictures_in_two_parts_are_the_pictures_in_one_and_partners_stay_right():
    whole = styled_pictures(STYLED, 60, workers=1)
    parts = command.joined([styled_pictures(STYLED, 24, workers=1), styled_pictures(STYLED, 36, first=24, workers=1)])
    assert np.array_equal(whole.images, parts.images) and whole.captions == parts.captions
    assert np.array_equal(whole.partners, parts.partners)


def test_a_partner_takes_the_place_behind_and_the_noise_of_the_one_before():
    partners = np.full(100, -1)
    partners[10], partners[11] = 11, 10
    chosen = np.array([3, 10, 5, 7, 11, 2])
    pictures, source = pair_sides(chosen, partners, 1.0, np.random.default_rng(0))
    assert pictures.tolist() == [3, 10, 11, 7, 11, 10] and source.tolist() == [0, 1, 1, 3, 4, 4]
    pictures, source = pair_sides(chosen, partners, 0.0, np.random.default_rng(0))
    assert pictures.tolist() == chosen.tolist() and source.tolist() == list(range(6))


def test_plan_gives_each_stage_its_share_of_the_minutes():
    recipe = FoundationRecipe(text_steps=(300, 100), text_rates=(1e-3, 1e-3))
    seconds = {"linear": 0.01, "vae": 0.1, "text": 0.05, "unet": 0.3}
    planned = command.plan(recipe, 70, 10, seconds, on=False)
    for stage, share in command.SHARES.items():
        assert np.sum(getattr(planned, f"{stage}_steps")) == pytest.approx(3600 * share / seconds[stage], abs=1)
    assert planned.text_steps[0] == pytest.approx(3 * planned.text_steps[1], abs=4)
    with pytest.raises(InputError, match="give at least 1[0-9]$"):
        command.plan(recipe, 10.1, 10, seconds, on=False)


def test_going_on_keeps_the_words_of_the_towers():
    """The towers say what they said, and the first one's new projection tells the second one's vectors."""
    (_, towers), pipe = command.load_start(foundation_path(), radar_captions(300, 0)), load_foundation("embedded")
    texts = ["a radar image of a harbour, illuminated from the left", "an aerial photograph of a stadium in spring"]
    again = assemble(pipe.vae, first_tower(towers.texts[0]), towers.texts[1], towers.tokenizer, pipe.unet)
    for package, theirs in zip(encode_prompts(again, texts), encode_prompts(pipe, texts), strict=True):
        assert torch.allclose(package, theirs, atol=1e-5)
    judge = DualEncoder.load(foundation_path() / "judge")
    ids = judge.tokens(sorted(set(radar_captions(60, 1))))
    first, second = towers.text_embeddings(ids)
    assert torch.equal(second, judge.text_embeddings(ids)[0])
    assert ((first @ second.T).argmax(dim=1) == torch.arange(len(ids))).float().mean() > 0.5  # chance is 0.02


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "0"], "--minutes 0"),
        (["--minutes", "5", "--styles", "photograph,oil"], "'oil' is unknown"),
        (["--minutes", "5", "--styles", "relief"], "photograph is missing"),
        (["--minutes", "5", "--pictures", "-1"], "--pictures -1"),
        (["--minutes", "5", "--start", "nowhere"], "no model_index.json"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(tmp_path, capsys, arguments, said):
    assert command.main([*arguments, "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_unknown_name_in_a_recipe_is_refused_and_an_exported_one_is_not():
    with pytest.raises(InputError, match="unet_stepps is unknown"):
        command.recipe_of({"unet_stepps": [3]})
    shipped = json.loads((foundation_path() / "recipe.json").read_text(encoding="utf-8"))
    assert command.recipe_of(shipped).unet_steps == tuple(shipped["unet_steps"]), "what the package ships can be given to --recipe"
    assert command.recipe_of({"model": {"image_size": 64}, "unet_steps": [3], "unet_high_noise": [2.0]}).unet_steps == (3,)


@pytest.mark.slow
def test_command_runs_from_nothing_and_goes_on_from_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "LEAST", 1)
    words = radar_captions(40, 0)
    monkeypatch.setattr(command, "radar_captions", lambda *_: words)
    monkeypatch.setattr(command, "rehearse", lambda *_: {"linear": 5, "vae": 20, "text": 12, "unet": 40})
    sizes = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(SIZES).items()}
    recipe = {"model": sizes, "scenes": 64, "textures": 8, "vae_batch": 4, "vae_perceptual": 0, "vae_crops": [32], "vae_steps": [1]}
    recipe |= {"text_batch": 8, "unet_batch": 8, "vocabulary": 700}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    common = ["--minutes", "4", "--device", "cpu", "--recipe", str(tmp_path / "recipe.json"), "--workers", "1"]
    assert command.main([*common, "--start", "none", "--out", str(tmp_path / "a")]) == 0
    made = tmp_path / "a" / "pipeline"
    assert "photograph" in (made / "recipe.json").read_text() and load_foundation(str(made)).unet.config.sample_size == 8
    weights = {path: path.read_bytes() for path in made.rglob("*.safetensors")}
    assert all(len(data) < 15e6 for data in weights.values())
    assert command.main([*common, "--start", "none", "--out", str(tmp_path / "a")]) == 0  # all is there: the same again
    assert weights == {path: path.read_bytes() for path in made.rglob("*.safetensors")}
    (tmp_path / "recipe.json").write_text(json.dumps({"scenes": 64, "text_batch": 8, "unet_batch": 8}))
    for _ in range(2):  # the second call finds all there
        assert command.main([*common, "--start", str(made), "--pictures", "16", "--out", str(tmp_path / "b")]) == 0
    histories = [pd.read_csv(folder / "curves" / "unet.csv")["step"].max() for folder in (made, tmp_path / "b" / "pipeline")]
    own, before = (json.loads((folder / "recipe.json").read_text()) for folder in (tmp_path / "b" / "pipeline", made))
    assert own["unet_steps"] == [2] and own["text_steps"] == [1] and histories[1] == histories[0] + 2 and own["start"] == before
    assert not any(name.startswith(("vae_", "linear_")) for name in own)  # those stages were not run
    card = (tmp_path / "b" / "pipeline" / "README.md").read_text()
    assert "go on from an earlier foundation" in card and (tmp_path / "b" / "pipeline" / "curves" / "vae.csv").is_file()
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "b" / "pipeline" / vae).read_bytes() == (made / vae).read_bytes()  # latents stay
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "b" / "pipeline" / unet).read_bytes() != (made / unet).read_bytes()
    assert command.main([*common, "--start", str(made), "--styles", "photograph", "--out", str(tmp_path / "b")]) == 2
    assert "plan of other settings" in capsys.readouterr().err
