"""Fine-tuning of the autoencoder: what moves, exact resume, bad input, SDXL's real size."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace

import crash_workers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from tiny import tiny_pipeline, tiny_set

from sarnb import cli
from sarnb.data.files import write_set
from sarnb.errors import DivergedError, InputError
from sarnb.model.export import foundation_vae, load_vae
from sarnb.model.foundation import encode_posterior, fingerprint, sdxl_components
from sarnb.model.strategy import VAE_STRATEGIES, find_strategy
from sarnb.model.vae import reconstruct
from sarnb.train import vae as vae_finetune
from sarnb.train.cache import LatentCache, cache_latents
from sarnb.train.finetune import FinetuneConfig, finetune, training_loss
from sarnb.train.state import CHECKPOINT
from sarnb.train.vae import VaeConfig, finetune_vae, held_out_reconstruction, step_crops, train_vae
from sarnb.train.vae_losses import parse_recipe

IMAGES = tiny_set(8).images
LOSSES = f"{VaeConfig.losses}+adversarial"  # the default recipe and the discriminator
CONFIG = VaeConfig(
    steps=4,
    batch_size=4,
    crop=16,
    losses=LOSSES,
    adversarial_start=0.5,
    checkpoint_every=2,
    log_every=1,
    precision="fp32",
)
DECODER, FULL, LORA = find_strategy("vae-decoder"), find_strategy("vae-full"), find_strategy("vae-lora-r2")


@pytest.mark.parametrize("strategy", [DECODER, FULL, LORA, find_strategy("vae-lora-decoder-r2")], ids=lambda s: s.name)
@pytest.mark.slow
def test_training_moves_what_the_strategy_says_and_lowers_the_held_out_loss(strategy, tmp_path):
    pipe = tiny_pipeline()
    latents = encode_posterior(pipe.vae, IMAGES)
    config = replace(CONFIG, steps=12, losses="l1+histogram", lr_vae_full=5e-3, lr_vae_lora=1e-2)
    history = finetune_vae(pipe, strategy, IMAGES, config, tmp_path, IMAGES[:4]).history
    assert history["held_out"].iloc[-1] < history["held_out"].iloc[0]
    same = all(map(torch.equal, encode_posterior(pipe.vae, IMAGES), latents))
    assert same == strategy.keeps_latents
    assert not any(p.requires_grad for p in pipe.vae.parameters()) and not pipe.vae.training


def test_the_stated_share_of_the_crops_carries_reflectors_and_the_rest_stays_as_it_was():
    dark = np.zeros((4, 32, 32), np.uint8)
    marked = step_crops(dark, replace(CONFIG, point_share=0.5), step=3)
    assert (marked.max(axis=(1, 2)) > 0).tolist() == [True, True, False, False]
    plain, some = (step_crops(IMAGES, replace(CONFIG, point_share=share), step=3) for share in (0.0, 0.25))
    assert (plain[1:] == some[1:]).all() and (plain[0] != some[0]).any()
    with pytest.raises(InputError, match="point_share is 1.5; give a share from 0 to 1"):
        replace(CONFIG, point_share=1.5)


def test_reflectors_have_the_response_of_the_radar_of_the_data_and_none_is_there_where_it_is_unknown():
    card = {"radar": {"resolution_m": [3.0, 5.0], "spacing_m": [1.5, 2.0]}}
    assert CONFIG.of_radar(card).point_ratios == (2.0, 2.5) and CONFIG.of_radar(card).point_window == "taylor"
    card["radar"]["window"] = "rect"  # narrower, with higher side lobes
    config = replace(CONFIG.of_radar(card), point_share=1.0, batch_size=2)
    assert config.point_window == "rect"
    assert (step_crops(IMAGES, config, 0) != step_crops(IMAGES, replace(config, point_window="taylor"), 0)).any()
    assert replace(CONFIG, point_share=0.5).of_radar({}).point_share == 0.0


@pytest.mark.slow
def test_after_kill_9_a_run_ends_with_the_bits_of_the_uninterrupted_one(tmp_path, strategy=LORA):
    config = replace(CONFIG, ema_decay=0.9)
    whole = tiny_pipeline()
    finetune_vae(whole, strategy, IMAGES, config, tmp_path / "whole")
    process = crash_workers.PROCESSES.Process(
        target=crash_workers.die_at, args=(3, strategy, config, tmp_path / "cut", torch.get_num_threads())
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and (tmp_path / "cut" / CHECKPOINT).exists()
    resumed = tiny_pipeline()
    finetune_vae(resumed, strategy, IMAGES, config, tmp_path / "cut")
    assert fingerprint(resumed.vae) == fingerprint(whole.vae)


def test_micro_batches_and_checkpointed_activations_make_the_same_step(tmp_path):
    config = replace(CONFIG, steps=2, losses="l1+l2+kl")
    prints = []
    for number, other in enumerate((config, replace(config, accumulate=2), replace(config, gradient_checkpointing=True))):
        pipe = tiny_pipeline()
        finetune_vae(pipe, FULL, IMAGES, other, tmp_path / str(number))
        prints.append(torch.cat([p.flatten() for p in pipe.vae.parameters()]))
    torch.testing.assert_close(prints[1:], prints[:1] * 2, atol=2e-4, rtol=1e-3)


def test_the_discriminator_trains_from_the_start_and_joins_when_the_recipe_says(tmp_path):
    history = finetune_vae(tiny_pipeline(), DECODER, IMAGES, CONFIG, tmp_path).history
    assert (history["discriminator"] > 0).all() and history["discriminator"].nunique() == len(history)
    assert (history["adaptive"] > 0).tolist() == [False, False, True, True]


def test_crops_are_grey_parts_and_depend_on_seed_and_step():
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 40), dtype=np.uint8)
    config = replace(CONFIG, crop=24)
    crops = step_crops(images, config, 3)
    assert crops.shape == (4, 24, 24) and np.array_equal(crops, step_crops(images, config, 3))
    assert not np.array_equal(crops, step_crops(images, config, 4))
    windows = np.lib.stride_tricks.sliding_window_view(images, (24, 24), (1, 2))
    assert all((windows == crop).all((-2, -1)).any() for crop in crops)


def test_held_out_loss_of_a_perfect_autoencoder_is_zero_and_large_images_go_one_by_one():
    batches = []

    class Perfect(torch.nn.Module):
        device = torch.device("cpu")

        def encode(self, pixels):
            batches.append(len(pixels))
            return type("Output", (), {"latent_dist": type("Posterior", (), {"mean": pixels})})

        def decode(self, latents):
            return type("Output", (), {"sample": latents})

    for size, batch_size, expected in ((16, 4, [4, 4]), (64, 4, [1] * 8), (64, 32, [2] * 4)):  # of crops of 16 px
        batches.clear()
        images, config = np.resize(IMAGES, (8, size, size)), replace(CONFIG, batch_size=batch_size)
        assert held_out_reconstruction(Perfect(), images, parse_recipe(VaeConfig.losses), {}, config) == pytest.approx(0, abs=1e-6)
        assert batches == expected


def test_held_out_loss_is_the_mean_over_images_whatever_the_batch():
    vae, recipe = tiny_pipeline().vae, parse_recipe("l1+spectrum")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
    alone = [held_out_reconstruction(vae, images[i : i + 1], recipe, {}, CONFIG) for i in range(5)]
    for batch_size in (1, 8):  # of crops of 16 px: 1 and 2 whole images at a time
        assert held_out_reconstruction(vae, images, recipe, {}, replace(CONFIG, batch_size=batch_size)) == pytest.approx(
            np.mean(alone), rel=1e-4
        )


def test_a_discriminator_that_has_won_stops_with_the_step_and_keeps_the_checkpoint(tmp_path):
    config = replace(CONFIG, steps=20, collapse_level=10.0, collapse_patience=3)
    with pytest.raises(DivergedError, match="has won.* step 12;.*last good checkpoint stands"):
        finetune_vae(tiny_pipeline(), DECODER, IMAGES, config, tmp_path)
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        weights = [file.get_tensor(name) for name in file.keys() if name.startswith("weights.")]
        assert file.metadata()["step"] == "12"  # all steps before the one that stopped, as two make a checkpoint
    assert weights and all(torch.isfinite(value).all() for value in weights)


def test_a_loss_that_is_not_finite_stops_with_the_step_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    terms = vae_finetune.reconstruction_terms
    calls = []

    def broken(*arguments):
        calls.append(1)
        parts = terms(*arguments)
        return {name: value * float("nan") for name, value in parts.items()} if len(calls) == 4 else parts

    monkeypatch.setattr(vae_finetune, "reconstruction_terms", broken)
    with pytest.raises(DivergedError, match="nan at step 3"):
        finetune_vae(tiny_pipeline(), DECODER, IMAGES, replace(CONFIG, losses="l1", steps=8), tmp_path)
    monkeypatch.setattr(vae_finetune, "reconstruction_terms", terms)
    seen, crops = [], vae_finetune.step_crops

    def counted(images, config, step):
        seen.append(step)
        return crops(images, config, step)

    monkeypatch.setattr(vae_finetune, "step_crops", counted)
    pipe = tiny_pipeline()
    finetune_vae(pipe, DECODER, IMAGES, replace(CONFIG, losses="l1", steps=8), tmp_path)
    assert seen == [2, 3, 4, 5, 6, 7]  # from the checkpoint after two steps
    assert all(torch.isfinite(p).all() for p in pipe.vae.parameters())


@pytest.mark.parametrize(
    "images, changes, strategy, word",
    [
        (IMAGES, {"crop": 10}, "vae-decoder", "multiples of 4 px"),
        (IMAGES, {"crop": 20}, "vae-decoder", "fit in the images"),
        (IMAGES[..., None], {}, "vae-decoder", "grey uint8"),
        (IMAGES[:0], {}, "vae-decoder", "one or more"),
        (IMAGES, {}, "vae-frozen", "trains no autoencoder"),
        (IMAGES, {}, "vae-lora-r64", "larger than every layer"),
        (IMAGES, {"crop": 12, "losses": "l1+periodogram"}, "vae-decoder", "12 x 12 px: .* periodogram needs sides of 16 px"),
    ],
)
def test_bad_input_is_one_clear_sentence(images, changes, strategy, word, tmp_path):
    with pytest.raises(InputError, match=word):
        finetune_vae(tiny_pipeline(), find_strategy(strategy), images, replace(CONFIG, **changes), tmp_path)


@pytest.mark.parametrize(
    "sides, losses, word",
    [
        ((18, 16), "l1", "16 x 18 px; .* multiples of 4 px"),
        ((16, 18), "l1", "18 x 16 px; .* multiples of 4 px"),
        ((16, 20), "l1+spectrum", "20 x 16 px: .* spectrum compares square pictures"),
        ((12, 12), "l1+periodogram", "12 x 12 px: .* periodogram needs sides of 16 px"),
        ((16, 16, 3), "l1", "validation images are uint8"),
    ],
)
def test_validation_images_that_cannot_be_seen_whole_are_refused_before_training(sides, losses, word, tmp_path):
    val = np.zeros((2, *sides), np.uint8)
    with pytest.raises(InputError, match=word):
        finetune_vae(tiny_pipeline(), DECODER, IMAGES, replace(CONFIG, losses=losses), tmp_path, val)
    assert not any(tmp_path.iterdir())


def test_validation_images_need_not_be_square_where_no_term_asks_for_it(tmp_path):
    val = np.zeros((2, 16, 20), np.uint8)
    history = finetune_vae(tiny_pipeline(), DECODER, IMAGES, replace(CONFIG, steps=1, losses="l1+periodogram"), tmp_path, val).history
    assert np.isfinite(history["held_out"]).all()


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"lr_vae_full": 0.0}, {"losses": "nothing"}, {"adversarial_start": 1.0}, {"collapse_patience": 0}]
)
def test_bad_settings_are_refused(changes):
    with pytest.raises(InputError):
        replace(CONFIG, **changes)


def test_noise_prediction_does_not_train_an_autoencoder(tmp_path):
    with pytest.raises(InputError, match="trains the autoencoder"):
        finetune(tiny_pipeline(), VAE_STRATEGIES["vae-decoder"], tiny_set(4), FinetuneConfig(steps=1), tmp_path)


def test_latents_of_another_autoencoder_are_refused(tmp_path):
    pipe, other = tiny_pipeline(), tiny_pipeline()
    finetune_vae(other, FULL, IMAGES, replace(CONFIG, steps=1, losses="l1"), tmp_path / "t")
    latents = cache_latents(pipe, IMAGES, tmp_path)
    latents.check(fingerprint(pipe.vae))
    with pytest.raises(InputError, match="encode the images again"):
        training_loss(other, latents, [("x",)] * len(IMAGES), None, FinetuneConfig(steps=1))
    with pytest.raises(InputError, match="made by the autoencoder"):
        latents.joined(LatentCache(latents.mean, latents.std, fingerprint(other.vae)))
    path = next(tmp_path.glob("latents-*"))
    theirs = cache_latents(other, IMAGES, tmp_path).mean.clone()
    assert not torch.equal(theirs, latents.mean)
    place = next(folder for folder in tmp_path.glob("latents-*") if folder != path)
    shutil.rmtree(place)
    path.rename(place)  # it tells by its note whose latents it holds
    assert torch.equal(cache_latents(other, IMAGES, tmp_path).mean, theirs)


def data_folder(root, side=16):
    for split, count in (("train", 8), ("val", 4)):
        images = np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)
        write_set(root / split, images, [{"text": "x"}] * count)
    return root


def with_other_unet():
    pipe = tiny_pipeline()
    with torch.no_grad():
        next(pipe.unet.parameters()).add_(1.0)
    return pipe


def test_a_finished_training_is_read_back_and_another_one_is_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr(vae_finetune, "load_foundation", lambda spec: tiny_pipeline())
    data, out = data_folder(tmp_path / "data"), tmp_path / "model"
    _, history, cost = train_vae(DECODER, "embedded", data, out, CONFIG, ("tensorboard",))
    assert list((out / "trackers").rglob("events.*"))
    written = (out / "vae" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    vae, again, cost_again = train_vae(DECODER, "embedded", data, out, CONFIG)
    assert cost_again == cost and list(again["step"]) == list(history["step"]) and fingerprint(vae) == fingerprint(load_vae(out))
    assert (out / "vae" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns == written
    monkeypatch.setattr(vae_finetune, "load_foundation", lambda spec: with_other_unet())
    train_vae(DECODER, "embedded", data, out, CONFIG)  # the UNet has no part in it
    assert (out / "vae" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns == written
    train_vae(DECODER, "embedded", data, out, replace(CONFIG, losses="l2"))
    assert (out / "vae" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns > written
    assert not list(out.glob(".training-*"))


@pytest.mark.slow
def test_sdxls_autoencoder_trains_by_lora_on_crops_and_decodes_in_tiles(tmp_path):
    """The real configuration with random weights, on the smallest input: 8 px a latent cell, attention in the middle."""
    torch.manual_seed(0)
    pipe = tiny_pipeline()
    pipe.vae = AutoencoderKL.from_config(sdxl_components()["vae"].config).eval().requires_grad_(False)
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 40), dtype=np.uint8)
    config = replace(CONFIG, steps=1, batch_size=1, crop=16, losses="l1+adversarial", adversarial_start=0.0, gradient_checkpointing=True)
    strategy = replace(find_strategy("vae-lora-decoder"), rank=1, alpha=1)
    assert pipe.vae.config.block_out_channels == (128, 256, 512, 512)
    result = finetune_vae(pipe, strategy, images, config, tmp_path)
    assert 0 < result.cost["trainable_parameters"] < 0.01 * result.cost["vae_parameters"]
    assert reconstruct(pipe.vae, images[:1], tile=32).shape == (1, 40, 40, 3)


def test_the_command_line_trains_an_autoencoder_as_every_other_strategy(tmp_path, capsys):
    foundation, data = tmp_path / "foundation", data_folder(tmp_path / "data", side=64)
    tiny_pipeline().save_pretrained(foundation)
    network = {"control": "", "model": "", "network": "controlnet"}
    setting = {"profile": "smoke", "foundation": str(foundation), "steps": 1, "seed": 3, "tracker": [], "param": []}
    cli.finetune("vae-decoder", data=data, out=tmp_path / "model", **network, **setting)
    assert "vae-decoder, 1 steps" in capsys.readouterr().out
    before, after = foundation_vae(str(foundation)), load_vae(tmp_path / "model", str(foundation))
    assert fingerprint(before.encoder) == fingerprint(after.encoder) and fingerprint(before.decoder) != fingerprint(after.decoder)
