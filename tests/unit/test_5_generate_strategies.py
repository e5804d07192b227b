"""A strategy is tuned, trained and drawn in one call, never twice; samples on the way, and the way of the word."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from tiny import tiny_pipeline, tiny_set
from typer.testing import CliRunner

import sarnb.generate.progress as module
import sarnb.generate.strategies as strategies
import sarnb.train.training as training
from sarnb.cli import app
from sarnb.data.files import write_set
from sarnb.errors import DivergedError, InputError
from sarnb.generate.progress import progress_rows, read_progress, token_files
from sarnb.generate.sample import evaluation_prompts, generate
from sarnb.generate.strategies import SamplingConfig, train_and_sample, train_strategy
from sarnb.model.export import load_trained
from sarnb.model.strategy import find_strategy
from sarnb.model.token import token_row
from sarnb.profile import load_profile
from sarnb.train.finetune import FinetuneConfig
from sarnb.train.training import RateChoice, differing_settings, rates_of, tune_rates
from sarnb.world.scene import CLASSES, COMPOSITIONS, SEEN

RATES = FinetuneConfig(steps=50, batch_size=4, warmup_steps=10, precision="fp32", lr_unet_full=1e-2, lr_token=2e-2)


def test_a_strategy_has_the_rates_of_its_own_components():
    assert rates_of(find_strategy("hybrid"), RATES) == {"lr_unet_full": 1e-2, "lr_text_lora": 3e-4, "lr_token": 2e-2}
    assert rates_of(find_strategy("scratch"), RATES) == {"lr_unet_scratch": 4e-4}
    for rate, name in training.ALONE.items():
        assert list(rates_of(find_strategy(name), RATES)) == [rate]


@pytest.fixture
def sets(monkeypatch):
    """Tiny sets and foundation in place of files."""
    monkeypatch.setattr(training, "load_set", lambda folder: tiny_set(4, seed=folder.name == "val"))
    monkeypatch.setattr(training, "load_foundation", lambda spec: tiny_pipeline())


def trained_as(monkeypatch, losses: dict[float, float]) -> list[tuple[str, FinetuneConfig]]:
    """Replace the training: its held-out loss follows from its one rate (it is the rate itself if not said); what it was asked for."""
    asked = []

    def finetune(pipe, strategy, data, config, folder, val, cache):
        asked.append((strategy.name, config))
        (rate,) = rates_of(strategy, config).values()
        loss = losses.get(rate, rate)
        if np.isnan(loss):
            raise DivergedError("the loss is nan")
        return type("Result", (), {"history": pd.DataFrame({"step": [0, config.steps], "held_out": [9.0, loss]})})()

    monkeypatch.setattr(training, "finetune", finetune)
    return asked


def test_the_lowest_held_out_loss_wins_and_a_diverged_rate_loses(sets, monkeypatch, tmp_path):
    asked = trained_as(monkeypatch, {5e-3: 0.4, 1e-2: 0.3, 2e-2: float("nan")})
    call = lambda: tune_rates(find_strategy("unet-full"), "x", tmp_path, tmp_path / "trials", RATES, (0.5, 1, 2), 8)  # noqa: E731
    choice = call()
    assert choice.config == RATES and choice.table["chosen"].tolist() == [False, True, False]
    assert choice.table["held_out"].tolist() == [0.4, 0.3, np.inf]
    assert [(config.steps, config.warmup_steps) for _, config in asked] == [(8, 2)] * 3
    assert call().table.equals(choice.table) and len(asked) == 3  # read back


def test_a_real_trial_leaves_no_checkpoint(sets, tmp_path):
    choice = tune_rates(find_strategy("token"), "x", tmp_path, tmp_path / "trials", RATES, (1e-6, 1.0), 3)
    assert np.isfinite(choice.table["held_out"]).all()
    assert not list((tmp_path / "trials").rglob("checkpoint*")) and len(list((tmp_path / "trials").rglob("trial.json"))) == 2


def test_one_factor_is_no_trial_and_senseless_grids_are_refused(tmp_path):
    choice = tune_rates(find_strategy("unet-full"), "nowhere", tmp_path, tmp_path, RATES, (2.0,), 8)
    assert choice.config.lr_unet_full == 2e-2 and choice.table["chosen"].tolist() == [True]
    for factors in ((), (0.0, 1.0)):
        with pytest.raises(InputError, match="factors"):
            tune_rates(find_strategy("unet-full"), "nowhere", tmp_path, tmp_path, RATES, factors, 8)


def test_strategies_train_a_component_that_they_share_at_one_rate(sets, monkeypatch, tmp_path):
    asked = trained_as(monkeypatch, {5e-3: 0.9, 1e-2: 0.4, 2e-2: 0.8, 5e-5: 0.2, 1e-4: 0.3, 2e-4: 0.4})
    names = ("hybrid", "unet-full", "hybrid+prior", "unet-full+te-full+token")
    other = replace(RATES, lr_unet_lora=7.0)  # a notebook that says other rates than it uses
    chosen = {
        name: tune_rates(find_strategy(name), "x", tmp_path, tmp_path / "trials", config, (0.5, 1, 2), 8).config
        for name, config in zip(names, (RATES, other, RATES, RATES))
    }
    assert {config.lr_unet_full for config in chosen.values()} == {1e-2}
    assert chosen["unet-full+te-full+token"].lr_text_full == 5e-5 and chosen["hybrid"].lr_text_lora == 1.5e-4
    tried = [(name, *rates_of(find_strategy(name), config).values()) for name, config in asked]
    assert len(tried) == len(set(tried)) == 12  # three factors for each of four components, whatever shares them
    differing = differing_settings({name: chosen[name] for name in ("hybrid", "unet-full+te-full+token")})
    # Full text encoders have no rank. All that both train, they train alike.
    assert set(differing["setting"]) == {"text", "rank", "alpha", "lr_text_lora", "lr_text_full"}
    assert differing.set_index("setting").loc["rank"].tolist() == [16, "none"]
    assert differing_settings({name: chosen[name] for name in ("hybrid", "hybrid+prior")})["setting"].tolist() == ["prior"]
    assert set(differing_settings({"hybrid": RATES, "unet-full": replace(RATES, steps=7)})["setting"]) >= {"steps", "token", "init"}


@pytest.mark.parametrize(
    "factors, chosen, words",
    [
        (
            (0.3, 1.0, 3.0),
            0,
            "of the factors 0.3, 1, 3 the lowest held-out loss chose r times 0.3 (the smallest: the best rate may lie beyond).",
        ),
        ((0.3, 1.0, 3.0), 1, "of the factors 0.3, 1, 3 the lowest held-out loss chose r times 1 (inside the grid)."),
        (
            (0.3, 1.0, 3.0),
            2,
            "of the factors 0.3, 1, 3 the lowest held-out loss chose r times 3 (the largest: the best rate may lie beyond).",
        ),
        ((1.0,), 0, "nothing was tried, its rates are those of the profile times 1."),
    ],
)
def test_a_choice_at_an_end_of_the_grid_is_remarked(factors, chosen, words):
    table = pd.DataFrame({"rate": "r", "factor": factors, "chosen": [place == chosen for place in range(len(factors))]})
    assert RateChoice(RATES, table).remark == words


# Samples on the way: which prompts, the same training with and without, nothing drawn twice, and the way of the word.


CONFIG = FinetuneConfig(steps=4, batch_size=2, held_out_images=2, held_out_timesteps=1, precision="fp32", checkpoint_every=1)
SAMPLING = SamplingConfig(per_class=2, steps=6, precision="fp32")


@pytest.fixture
def study(tmp_path):
    """A foundation and a data set on disk."""
    tiny_pipeline().save_pretrained(tmp_path / "foundation")
    for split, seed in (("train", 0), ("val", 1), ("test", 2)):
        data = tiny_set(6, seed)
        rows = [{key: value for key, value in row.items() if key != "file_name"} for row in data.rows]
        write_set(tmp_path / "data" / split, data.images, rows)
    return tmp_path


def trained(study, out, every, name="hybrid-r4", config=CONFIG):
    train_strategy(find_strategy(name), str(study / "foundation"), study / "data", study / out, config, None, SAMPLING, every)
    return study / out


def tensors_of(folder):
    """Every saved tensor by file and name."""
    paths = sorted(folder.rglob("*.safetensors"))
    return {(path.relative_to(folder).as_posix(), name): value for path in paths for name, value in load_file(path).items()}


def test_the_prompts_are_the_evaluations_half_of_them_unseen():
    rows = evaluation_prompts([*CLASSES, *COMPOSITIONS], 3, looks=("left", "right"))
    chosen = progress_rows(rows)
    assert [row["group"] for row in chosen] == ["seen", "seen", "unseen", "unseen"]
    unseen = [label for label in CLASSES if label not in SEEN]
    seen = [label for label in CLASSES if label in SEEN]
    assert [row["label"] for row in chosen] == [seen[0], seen[-1], unseen[0], unseen[-1]]
    assert all(row in rows for row in chosen)
    sided = progress_rows(evaluation_prompts(list(CLASSES), 3, looks=("left", "right")))
    assert [(row["label"], row["look"]) for row in sided] == list(zip([row["label"] for row in chosen], ["left", "right"] * 2))
    assert [row["label"] for row in progress_rows(evaluation_prompts(["ships"], 3), 4)] == ["ships"]
    captions = [{"text": text, "label": "", "group": "seen", "seed": seed} for seed, text in enumerate("abcdef")]
    assert [row["text"] for row in progress_rows(captions)] == ["a", "c", "d", "f"]


@pytest.mark.slow
def test_the_weights_are_the_same_bits_with_and_without(study):
    without, watched = (tensors_of(trained(study, name, every)) for name, every in (("without", 0), ("with", 2)))
    assert without.keys() == watched.keys() and all(torch.equal(without[key], watched[key]) for key in without)
    assert read_progress(study / "without") is None
    assert list(read_progress(study / "with").images) == [0, 2, 4]


@pytest.mark.slow
def test_the_last_grid_is_what_the_saved_model_draws_and_the_first_what_the_foundation_draws(study):
    found = read_progress(trained(study, "model", 2, "unet-full"))
    texts, seeds = ([row[key] for row in found.rows] for key in ("text", "seed"))
    assert [column.label for column in found.columns] == ["forest", "city"] and list(found.named()) == ["step 0", "step 2", "step 4"]
    for step, pipe in ((0, tiny_pipeline()), (4, load_trained(str(study / "foundation"), study / "model"))):
        drawn = generate(pipe, texts, seeds, SAMPLING.steps // 2, SAMPLING.guidance_scale, 1, 16, "fp32")
        assert np.abs(found.images[step].astype(int) - drawn).max() <= 1
    assert not np.array_equal(found.images[0], found.images[4])


@pytest.mark.slow
def test_after_a_kill_nothing_is_drawn_twice_and_other_prompts_start_anew(study, monkeypatch):
    drawn, original = [], module.generate

    def counting(*args, label, **more):
        if label == "step 3" and "step 3" not in drawn:
            drawn.append(label)
            raise KeyboardInterrupt
        drawn.append(label)
        return original(*args, label=label, **more)

    monkeypatch.setattr(module, "generate", counting)
    rare = replace(CONFIG, checkpoint_every=4)  # the kill throws all steps away, not the grids
    with pytest.raises(KeyboardInterrupt):
        trained(study, "cut", 1, "unet-lora-r4", rare)
    whole = trained(study, "cut", 1, "unet-lora-r4", rare)
    assert drawn == ["step 0", "step 1", "step 2", "step 3", "step 3", "step 4"]
    monkeypatch.undo()
    again = trained(study, "whole", 1, "unet-lora-r4", rare)
    for step, images in read_progress(again).images.items():
        assert np.array_equal(images, read_progress(whole).images[step])
    folder, rows = study / "grids", [{"text": "a city", "seed": 1, "label": "city", "group": "seen"}]
    watch = lambda steps: module.watch_samples(tiny_pipeline(), rows, folder, 1, steps, 2.0, 16)  # noqa: E731
    watch(1).call(0)
    watch(1)
    assert len(list(folder.glob("*.png"))) == 1
    watch(2)
    assert not list(folder.glob("*.png"))


@pytest.mark.slow
def test_the_way_of_the_word_starts_at_its_first_word_and_ends_in_the_model(study):
    model = trained(study, "token", 0, "token")
    files = token_files(model)
    assert list(files) == [0, 1, 2, 3, 4]
    plain = tiny_pipeline()
    image = plain.tokenizer.convert_tokens_to_ids("image</w>")
    assert torch.equal(load_file(files[0])["clip_l"][0], plain.text_encoder.get_input_embeddings().weight[image])
    last, saved = load_file(files[4]), load_file(model / "learned_embeds.safetensors")
    assert all(torch.equal(last[key], saved[key]) for key in ("clip_l", "clip_g"))
    assert not torch.equal(last["clip_g"], load_file(files[2])["clip_g"])
    other = StableDiffusionXLPipeline.from_pretrained(study / "foundation", add_watermarker=False)
    for key, encoder, tokenizer in (("clip_l", "text_encoder", "tokenizer"), ("clip_g", "text_encoder_2", "tokenizer_2")):
        parts = {"text_encoder": getattr(other, encoder), "tokenizer": getattr(other, tokenizer)}
        other.load_textual_inversion(load_file(files[2])[key], token="<SAR>", **parts)
        assert torch.equal(token_row(*parts.values()), load_file(files[2])[key])


@pytest.mark.slow
def test_the_command_follows_a_training_in_tensorboard(study, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values = replace(load_profile("smoke"), sampling_steps=2, sample_every=2)
    monkeypatch.setattr("sarnb.cli.load_profile", lambda *_, **__: values)
    words = ["finetune", "--strategy", "te-lora-r4", "--data", str(study / "data"), "--foundation", str(study / "foundation")]
    words += ["--out", str(study / "model"), "--tracker"]
    with pytest.raises(InputError, match="unknown tracker 'paper'"):
        CliRunner().invoke(app, [*words, "paper"], catch_exceptions=False)
    done = CliRunner().invoke(app, [*words, "tensorboard"], catch_exceptions=False)
    assert done.exit_code == 0 and f"tensorboard --logdir {study / 'model'}" in done.stdout
    events = EventAccumulator(str(study / "model" / "trackers" / "sarnb"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    assert list(read_progress(study / "model").images) == [0, 2] and not list(study.glob("model/.training*"))


# Training and drawing in one call.


def test_one_line_trains_draws_and_is_not_done_twice(study, monkeypatch):
    def call(name, steps=2, **changes):
        config = FinetuneConfig(steps=steps, batch_size=2, held_out_images=2, held_out_timesteps=1, precision="fp32")
        sampling = replace(SamplingConfig(per_class=2, steps=2, precision="fp32"), **changes)
        folders = study / "data", study / "models", study / "samples"
        return train_and_sample(name, str(study / "foundation"), *folders, config, sampling, seed=3)

    first = call("token")
    assert first.model == study / "models" / "token" / "seed3" and (first.model / "record.json").exists()
    assert not list(first.model.rglob("checkpoint*"))  # the optimiser's state is gone, the model is whole
    assert first.samples.labels == ("forest", "forest", "city", "city")
    assert [row["look"] for row in first.samples.rows] == ["left", "right"] * 2
    assert first.cost["trainable_parameters"] == 40 and first.cost["sampling_seconds"] > 0
    assert {"step", "loss", "held_out"} <= set(first.history.columns)

    forbidden = Mock(side_effect=AssertionError("done twice"))
    with monkeypatch.context() as context:
        context.setattr(training, "finetune", forbidden)
        context.setattr(strategies, "draw", forbidden)
        again = call("token")
        assert np.array_equal(again.samples.images, first.samples.images) and again.cost == first.cost
        with pytest.raises(AssertionError):
            call("token", steps=3)
    with monkeypatch.context() as context:
        context.setattr(training, "finetune", forbidden)
        call("token")  # the refused attempt destroyed nothing
        call("token", guidance_scale=2.0)  # other sampling, same model
    assert call("token", steps=3).history["step"].max() == 3


def test_zero_shot_samples_the_foundation(study):
    sampling = SamplingConfig(per_class=1, steps=2, precision="fp32")
    folders = study / "data", study / "models", study / "samples"
    result = train_and_sample("zero-shot", str(study / "foundation"), *folders, FinetuneConfig(steps=1), sampling)
    assert result.model is None and result.cost["trainable_parameters"] == 0 and len(result.samples.ids) == 2
