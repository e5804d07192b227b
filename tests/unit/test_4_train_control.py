"""Control networks: what they add at first, their loss by hand, resuming, what is saved, and what is refused."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
)
from PIL import Image
from scipy.stats import chisquare
from tiny import tiny_pipeline, tiny_set, tiny_twin
from torch import nn

from sarnb.errors import InputError
from sarnb.generate import large
from sarnb.generate.large import draw_scene
from sarnb.generate.sample import draw, generate, initial_noise
from sarnb.model.control import KINDS, NETWORKS, PALETTE, conditions_of, control_network, controlled, read_condition, to_condition
from sarnb.model.export import load_control, load_trained, model_key
from sarnb.model.foundation import encode_prompts, load_foundation, normalise_latents, time_ids
from sarnb.model.strategy import find_strategy
from sarnb.train import loop as looping
from sarnb.train.cache import cache_latents
from sarnb.train.control import ControlConfig, apply_pixels, denoiser_of, finetune_control, train_control, train_pixels
from sarnb.train.finetune import FinetuneConfig, captions_of, step_draw, training_loss
from sarnb.train.loop import WHOLE
from sarnb.train.state import LoopConfig

CONFIG = ControlConfig(steps=3, batch_size=4, checkpoint_every=1, log_every=1, precision="fp32", held_out_images=4)
ZERO = find_strategy("zero-shot")
PROMPTS, SEEDS = ["a radar image of a city", "a radar image of a forest"], [3, 4]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("twin")
    tiny_twin(root / "train"), tiny_twin(root / "val", 4, seed=1)
    return root


@pytest.fixture(scope="module")
def data(folder):
    return tiny_twin(folder / "train")


def drawn(pipe, data, nets, scale=1.0):
    controls = {kind: (net, conditions_of(data, kind)[:2]) for kind, net in nets.items()}
    return draw(pipe, PROMPTS, SEEDS, 3, 3.0, precision="fp32", controls=controls, scale=scale)


@pytest.mark.parametrize("kinds", [("map",), ("satellite",), ("optical",), ("map", "satellite")])
def test_a_fresh_controlnet_changes_nothing_and_one_with_other_weights_does(pipe, data, kinds):
    images, latents = draw(pipe, PROMPTS, SEEDS, 3, 3.0, precision="fp32")
    nets = {kind: control_network(pipe, kind) for kind in kinds}
    same = drawn(pipe, data, nets)
    assert np.array_equal(same[0], images) and np.array_equal(same[1], latents)
    with torch.no_grad():
        nets[kinds[0]].controlnet_mid_block.weight += 1.0
    assert not np.array_equal(drawn(pipe, data, nets)[1], latents)
    assert np.array_equal(drawn(pipe, data, nets, scale=0.0)[1], latents)


def test_the_sampler_and_the_training_steer_alike(pipe, data):
    """One step of noise prediction as the pipeline does it, through diffusers' networks called by hand."""
    kind, conditions = "map", to_condition(conditions_of(data, "map")[:2], "map", (16, 16))
    hidden, pooled = encode_prompts(pipe, PROMPTS)
    added = {"text_embeds": pooled, "time_ids": time_ids(pipe, 2)}
    noisy = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for network in NETWORKS:
        net = control_network(pipe, kind, network)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 0.01
            package = controlled(pipe.unet, net, conditions)(noisy, 500, encoder_hidden_states=hidden, added_cond_kwargs=added).sample
            if network == "controlnet":
                down, middle = net(noisy, 500, hidden, conditions, added_cond_kwargs=added, return_dict=False)
                more = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            else:
                more = {"down_intrablock_additional_residuals": net(conditions)}
            by_hand = pipe.unet(noisy, 500, hidden, added_cond_kwargs=added, **more).sample
            plain = pipe.unet(noisy, 500, hidden, added_cond_kwargs=added).sample
        torch.testing.assert_close(package, by_hand, rtol=0, atol=0)
        assert not torch.allclose(package, plain, atol=1e-4)


def test_a_map_is_one_channel_a_cover_and_a_coarse_view_is_enlarged_by_repeating(data):
    maps, views = conditions_of(data, "map"), conditions_of(data, "satellite")
    seen = to_condition(maps, "map", (16, 16))
    assert seen.shape == (12, KINDS["map"], 16, 16) and np.array_equal(seen.argmax(1).numpy(), maps) and (seen.sum(1) == 1).all()
    enlarged = to_condition(views, "satellite", (16, 16))
    np.testing.assert_allclose(enlarged[:, 1].numpy(), np.kron(views, np.ones((4, 4))) / 255, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_reaches_a_fresh_controlnet_and_teaches_it_from_the_first_step(kind, pipe, data):
    """diffusers' own start, whose embedding ends in zeros, leaves the first gradient alike for all pictures."""
    pictures = to_condition(conditions_of(data, kind)[:4], kind, (16, 16))
    hidden, pooled = encode_prompts(pipe, [""] * 4)
    added = {"text_embeds": pooled, "time_ids": time_ids(pipe, 4)}
    noisy = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    differ = {}
    plain = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32, 96), conditioning_channels=KINDS[kind])
    for name, net in (("diffusers", plain), ("package", control_network(pipe, kind))):
        first = []
        for shown in (pictures, pictures.flip(0)):
            net.zero_grad()
            steered = controlled(pipe.unet, net.requires_grad_(True), shown)
            steered(noisy, 500, encoder_hidden_states=hidden, added_cond_kwargs=added).sample.square().mean().backward()
            first.append(net.controlnet_mid_block.weight.grad.clone())
        differ[name] = float((first[0] - first[1]).norm() / first[0].norm())
    assert differ["diffusers"] == 0 and differ["package"] > 0.02, differ
    reads = control_network(load_foundation(), kind).controlnet_cond_embedding
    with torch.no_grad():
        seen = reads(nn.functional.interpolate(pictures, (128, 128)))
    contrast = (seen - seen.mean((0, 2, 3), keepdim=True)).std()
    assert 0.2 < contrast < 2, contrast  # noisy latents have 1.1 at the same place


def test_timesteps_have_the_cubic_law_of_the_adapters(data):
    """P((1 - u^3) T <= t) = 1 - (1 - t / T)^(1/3); the other trainings draw all alike."""
    edges = np.linspace(0, 1, 11)
    laws = {"cubic": np.diff(1 - np.cbrt(1 - edges)), "even": np.diff(edges)}
    for own, config in (("cubic", replace(CONFIG, batch_size=4000)), ("even", FinetuneConfig(steps=1, batch_size=4000))):
        found = np.histogram(step_draw(12, (4, 4, 4), 1000, config, 0).timesteps.numpy(), 1000 * edges)[0]
        fits = {name: chisquare(found, 4000 * law).pvalue for name, law in laws.items()}
        assert fits.pop(own) > 1e-3 and max(fits.values()) < 1e-9, own


def test_one_step_by_hand_is_the_package_s(pipe, data):
    config = replace(CONFIG, caption_dropout=0.5)
    net, latents, captions = control_network(pipe, "satellite"), cache_latents(pipe, data.images, None), captions_of(data, False)
    with torch.no_grad():
        net.controlnet_mid_block.weight += 0.3  # else the condition would play no part
    loss = training_loss(pipe, latents, captions, None, config, denoiser=denoiser_of(pipe, net, "satellite", data))({}, 0, WHOLE)
    one = step_draw(12, latents.shape, 1000, config, 0)
    texts = [captions[i][int(u * 3)] for i, u in zip(one.ids, one.captions.tolist())]
    hidden, pooled = encode_prompts(pipe, texts)
    hidden, pooled = hidden * ~one.dropped[:, None, None], pooled * ~one.dropped[:, None]
    clean = normalise_latents(pipe.vae, latents.sample(one.ids, one.latents))
    alpha = pipe.scheduler.alphas_cumprod[one.timesteps].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * one.noise
    added = {"text_embeds": pooled, "time_ids": time_ids(pipe, 4)}
    views = torch.from_numpy(np.kron(conditions_of(data, "satellite")[one.ids], np.ones((4, 4)))).float() / 255
    down, middle = net(noisy, one.timesteps, hidden, views[:, None].expand(-1, 3, -1, -1), added_cond_kwargs=added, return_dict=False)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    predicted = pipe.unet(noisy, one.timesteps, hidden, added_cond_kwargs=added, **residuals).sample
    snr = (alpha / (1 - alpha)).flatten()
    by_hand = (snr.clamp(max=5) / snr * (predicted - one.noise).pow(2).mean(dim=(1, 2, 3))).mean()
    assert one.dropped.any() and not one.dropped.all()
    torch.testing.assert_close(loss, by_hand, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert net.controlnet_mid_block.weight.grad.abs().sum() > 0 and all(p.grad is None for p in pipe.unet.parameters())


@pytest.mark.parametrize("network", NETWORKS)
def test_a_training_that_was_cut_goes_on_to_the_same_bits(network, data, monkeypatch, tmp_path):
    whole = finetune_control(tiny_pipeline(), ZERO, "map", data, CONFIG, tmp_path / "whole", network)
    saved = looping._save

    def die(state):
        saved(state)
        if state.done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(looping, "_save", die)
    with pytest.raises(KeyboardInterrupt):
        finetune_control(tiny_pipeline(), ZERO, "map", data, CONFIG, tmp_path / "cut", network)
    monkeypatch.setattr(looping, "_save", saved)
    resumed = finetune_control(tiny_pipeline(), ZERO, "map", data, CONFIG, tmp_path / "cut", network)
    fresh = control_network(tiny_pipeline(), "map", network).state_dict()
    first, second = whole.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], fresh[name]) for name in first)
    assert np.array_equal(whole.history["loss"], resumed.history["loss"])


def test_training_lowers_the_held_out_loss_and_leaves_the_model_alone(data, tmp_path):
    pipe = tiny_pipeline()
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    few = data.subset(range(4))
    config = replace(CONFIG, steps=25, learning_rate=5e-3, caption_dropout=0.0)
    result = finetune_control(pipe, ZERO, "map", few, config, tmp_path, val=few)
    held_out = result.history["held_out"].dropna().to_list()
    assert held_out[-1] < 0.95 * held_out[0]
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_saved_draws_the_same_in_plain_diffusers(network, folder, data, tmp_path):
    foundation, out = tmp_path / "foundation", tmp_path / "control"
    tiny_pipeline().save_pretrained(foundation)
    history, cost = train_control("map", str(foundation), None, folder, out, CONFIG, network)
    assert "held_out" in history and cost["trainable_parameters"] > 0
    stamp = (out / "record.json").stat().st_mtime_ns
    train_control("map", str(foundation), None, folder, out, CONFIG, network)
    assert (out / "record.json").stat().st_mtime_ns == stamp  # what is finished is not done again
    kind, net = load_control(out, model_key(None, str(foundation)))
    condition = to_condition(conditions_of(data, "map")[:1], "map", (16, 16))
    if network == "controlnet":
        theirs = StableDiffusionXLControlNetPipeline.from_pretrained(
            foundation, controlnet=ControlNetModel.from_pretrained(out / network), add_watermarker=False
        )
    else:
        theirs = StableDiffusionXLAdapterPipeline.from_pretrained(foundation, adapter=T2IAdapter.from_pretrained(out / network))
    theirs.set_progress_bar_config(disable=True)
    package = tiny_pipeline()
    noise = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(3))
    shared = {"num_inference_steps": 3, "guidance_scale": 1.0, "height": 16, "width": 16, "output_type": "latent"}
    expected = theirs(PROMPTS[:1], image=condition, latents=noise, **shared).images
    controls = {kind: (net, conditions_of(data, "map")[:1])}
    found = draw(package, PROMPTS[:1], SEEDS[:1], 3, 1.0, precision="fp32", controls=controls)[1]
    np.testing.assert_allclose(found, expected.to(torch.float16).numpy(), atol=2e-2)
    assert "a land-cover map" in (out / "README.md").read_text() and NETWORKS[network].__name__ in (out / "README.md").read_text()


@pytest.mark.parametrize("network", NETWORKS)
def test_guidance_strengthens_the_picture_as_it_does_the_text(network, pipe, data):
    """One step of Euler from noise: latents + (end - start) x [e(none) + 3 (e(text, picture) - e(none))], each e by hand."""
    net = control_network(pipe, "map", network)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.01
    pictures, scheduler = conditions_of(data, "map")[:2], EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    own = StableDiffusionXLPipeline(**{**pipe.components, "scheduler": scheduler}, add_watermarker=False)
    found = draw(own, PROMPTS, SEEDS, 1, 3.0, precision="fp32", controls={"map": (net, pictures)})[1]
    scheduler.set_timesteps(1)
    hidden, pooled = encode_prompts(pipe, PROMPTS)
    start = initial_noise(pipe, SEEDS, 16) * scheduler.init_noise_sigma
    seen = scheduler.scale_model_input(start, scheduler.timesteps[0])
    added = {"text_embeds": pooled, "time_ids": time_ids(pipe, 2)}
    blank = added | {"text_embeds": torch.zeros_like(pooled)}
    with torch.no_grad():
        steered = controlled(pipe.unet, net, to_condition(pictures, "map", (16, 16)))
        full = steered(seen, scheduler.timesteps[0], encoder_hidden_states=hidden, added_cond_kwargs=added).sample
        none = pipe.unet(seen, scheduler.timesteps[0], torch.zeros_like(hidden), added_cond_kwargs=blank).sample
        expected = scheduler.step(none + 3 * (full - none), scheduler.timesteps[0], start).prev_sample
    np.testing.assert_allclose(found, expected.to(torch.float16).numpy(), atol=2e-2, rtol=1e-2)


def test_two_adapters_add_up(pipe, data):
    nets = {kind: control_network(pipe, kind, "adapter") for kind in ("map", "satellite")}
    with torch.no_grad():
        for net in nets.values():
            for parameter in net.parameters():
                parameter += 0.01
    both = drawn(pipe, data, nets)[1]
    assert not np.array_equal(both, drawn(pipe, data, {"map": nets["map"]})[1])
    with torch.no_grad():
        for parameter in nets["satellite"].parameters():
            parameter.zero_()  # one that adds nothing
    assert np.array_equal(drawn(pipe, data, nets)[1], drawn(pipe, data, {"map": nets["map"]})[1])


def opened(pipe, kind: str, network: str) -> nn.Module:
    """A network whose answers are large enough to be seen."""
    net = control_network(pipe, kind, network)
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return net


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kinds", [("map",), ("satellite",), ("map", "optical")])
def test_a_steered_scene_of_one_window_is_what_the_pipeline_draws(kinds, network, pipe, data):
    nets = {kind: opened(pipe, kind, network) for kind in kinds}
    controls = {kind: (net, conditions_of(data, kind)[1:2]) for kind, net in nets.items()}
    settings = {"steps": 3, "guidance_scale": 3.0, "precision": "fp32", "controls": controls, "scale": 0.7}
    (image,) = generate(pipe, ["a city"], [7], **settings)
    scene = draw_scene(pipe, [["a city"]], 7, 16, 16, **settings)
    assert np.abs(scene.astype(int) - image).max() <= 1
    plain = draw_scene(pipe, [["a city"]], 7, 16, 16, **settings | {"controls": None})
    assert np.abs(plain.astype(int) - scene).max() > 5


@pytest.mark.parametrize("kind", ["map", "satellite"])
def test_each_window_of_a_scene_is_steered_by_its_part_of_the_picture(kind, pipe, data, monkeypatch):
    """A network that answers with its own picture, a UNet that hands the answer on: the fused prediction is the picture itself."""
    pictures = conditions_of(data, kind)[:6]
    rows = [np.concatenate(list(pictures[start : start + 3]), axis=1) for start in (0, 3)]
    whole = np.concatenate(rows)[None]  # 32 x 48 px, or a quarter of it along each side
    seen = to_condition(whole, kind, (32, 48))[:, :1]

    class Echo(nn.Module):
        def forward(self, condition):
            return [nn.functional.avg_pool2d(condition[:, :1], 4)]

    def forward(self, z, t, down_intrablock_additional_residuals, **_):
        return type("Drawn", (), {"sample": down_intrablock_additional_residuals[0].expand_as(z)})

    fused, step = [], type(pipe.scheduler).step
    monkeypatch.setattr(type(pipe.unet), "forward", forward)
    monkeypatch.setattr(large, "fingerprint", lambda part: "")

    @functools.wraps(step)
    def watched(self, x, *args, **more):
        fused.append(x)
        return step(self, x, *args, **more)

    monkeypatch.setattr(type(pipe.scheduler), "step", watched)
    large.scene_latents(pipe, [["a city"]], 0, 32, 48, 2, 1.0, controls={kind: (Echo(), whole)})
    wanted = nn.functional.avg_pool2d(seen, 4)
    assert wanted.std() > 0.01
    for prediction in fused:
        torch.testing.assert_close(prediction, wanted.expand_as(prediction), rtol=1e-5, atol=1e-6)


def test_a_steered_scene_that_was_cut_short_goes_on_and_takes_no_other_picture_s_state(pipe, data, tmp_path, monkeypatch):
    controls = {"map": (opened(pipe, "map", "controlnet"), np.concatenate([conditions_of(data, "map")[:2]], axis=1).reshape(1, 32, 16))}
    call, state = {"steps": 3, "guidance_scale": 2.0, "precision": "fp32"}, tmp_path / "scene"
    whole = draw_scene(pipe, [["a city"]], 1, 32, 16, **call, controls=controls)
    kept = large._keep_state

    def cut(path, latents, number, key):
        kept(path, latents, number, key)
        raise KeyboardInterrupt

    monkeypatch.setattr(large, "_keep_state", cut)
    with pytest.raises(KeyboardInterrupt):
        draw_scene(pipe, [["a city"]], 1, 32, 16, **call, controls=controls, state=state)
    numbers = []
    monkeypatch.setattr(large, "_keep_state", lambda path, latents, number, key: numbers.append(number))
    turned = {kind: (net, picture[:, ::-1].copy()) for kind, (net, picture) in controls.items()}
    large.scene_latents(pipe, [["a city"]], 1, 32, 16, **call, controls=turned, state=state)
    large.scene_latents(pipe, [["a city"]], 1, 32, 16, **call, controls=controls, state=state, scale=0.5)
    assert numbers == [1, 2, 3, 1, 2, 3]
    again = draw_scene(pipe, [["a city"]], 1, 32, 16, **call, controls=controls, state=state)
    assert numbers[6:] == [2, 3] and np.array_equal(again, whole)


def test_pictures_that_do_not_fit_a_scene_are_refused(pipe, data):
    net, maps = control_network(pipe, "map"), conditions_of(data, "map")
    for pictures, message in (
        (maps[:1], "the map has 16 x 16 px; give one of 48 x 32 px"),
        (maps[:2], "2 conditions of the kind map for 1 images"),
        (np.full((1, 32, 48), 99, np.uint8), "the map holds the code 99"),
    ):
        with pytest.raises(InputError, match=message):
            draw_scene(pipe, [["a city"]], 0, 32, 48, 2, controls={"map": (net, pictures)})


def test_refusals(pipe, data, folder, tmp_path):
    with pytest.raises(InputError, match="unknown condition 'sketch'; choose one of map, satellite, optical"):
        conditions_of(data, "sketch")
    with pytest.raises(InputError, match="unknown network 'lora'"):
        control_network(pipe, "map", "lora")
    with pytest.raises(InputError, match="has no map of every image; name its file in the column mask_file_name of metadata.jsonl"):
        conditions_of(tiny_set(), "map")
    with pytest.raises(InputError, match="empty training set"):
        finetune_control(pipe, ZERO, "map", data.subset([]), CONFIG, tmp_path)
    net = control_network(pipe, "map")
    maps = conditions_of(data, "map")
    for pictures, message in (
        (maps[:1], "1 conditions of the kind map for 2 images"),
        (maps[:2, :8], "the map has 16 x 8 px; give one of 16 x 16 px"),
        (maps[:2] + 200, "the map holds the code 2..; land covers are 0 to 15"),
    ):
        with pytest.raises(InputError, match=message):
            generate(pipe, PROMPTS, SEEDS, 2, controls={"map": (net, pictures)})
    with pytest.raises(InputError, match="conditioning scale is -1"):
        generate(pipe, PROMPTS, SEEDS, 2, controls={"map": (net, maps[:2])}, scale=-1)
    mixed = {"map": (net, maps[:2]), "optical": (control_network(pipe, "optical", "adapter"), conditions_of(data, "optical")[:2])}
    with pytest.raises(InputError, match="cannot steer one drawing"):
        generate(pipe, PROMPTS, SEEDS, 2, controls=mixed)
    with pytest.raises(InputError, match="cannot steer one drawing"):
        draw_scene(pipe, [["a city"]], 0, 16, 16, 2, controls={kind: (net, own[:1]) for kind, (net, own) in mixed.items()})


def test_condition_files_are_read_and_refused_by_name(tmp_path):
    codes = np.random.default_rng(0).integers(0, 16, (16, 16), dtype=np.uint8)
    Image.fromarray(codes).save(tmp_path / "map.png")
    assert np.array_equal(read_condition("map", tmp_path / "map.png", (16, 16)), codes[None])
    assert read_condition("satellite", tmp_path / "map.png", (64, 64)).shape == (1, 16, 16)
    with pytest.raises(InputError, match="map.png: the map has 16 x 16 px; give one of 64 x 64 px"):
        read_condition("map", tmp_path / "map.png", (64, 64))
    Image.fromarray(np.full((16, 16), 99, np.uint8)).save(tmp_path / "wrong.png")
    with pytest.raises(InputError, match="wrong.png: the map holds the code 99"):
        read_condition("map", tmp_path / "wrong.png", (16, 16))
    colours = PALETTE[codes]
    Image.fromarray(colours).save(tmp_path / "colour.png")
    indexed = Image.fromarray(colours).quantize(16, dither=Image.Dither.NONE)
    indexed.save(tmp_path / "indexed.png")
    for name in ("colour.png", "indexed.png"):  # an index of its own is no code
        assert np.array_equal(read_condition("map", tmp_path / name, (16, 16)), codes[None]), name
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == KINDS["map"]
    colours[2, 5, 0] ^= 1
    Image.fromarray(colours).save(tmp_path / "strange.png")
    with pytest.raises(InputError, match=f"strange.png: #{bytes(colours[2, 5]).hex()} at row 2, column 5 .*; use water #0064c8"):
        read_condition("map", tmp_path / "strange.png", (16, 16))
    Image.fromarray(codes).convert("RGBA").save(tmp_path / "clear.png")
    with pytest.raises(InputError, match="clear.png: a map is 8-bit grey, .* not of mode RGBA"):
        read_condition("map", tmp_path / "clear.png", (16, 16))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match="text.png: cannot be read as an image"):
        read_condition("optical", tmp_path / "text.png", (16, 16))
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 256).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match="deep.png: a condition is a picture of 8-bit grey or RGB, not of mode I;16"):
        read_condition("satellite", tmp_path / "deep.png", (64, 64))


def test_a_control_belongs_to_the_model_that_it_was_trained_with(folder, tmp_path):
    foundation, out = tmp_path / "foundation", tmp_path / "control"
    tiny_pipeline().save_pretrained(foundation)
    train_control("optical", str(foundation), None, folder, out, replace(CONFIG, steps=1))
    with pytest.raises(InputError, match="steers another model of zero-shot"):
        load_control(out, "0" * 16)
    with pytest.raises(InputError, match="holds a control network, not a model that draws"):
        load_trained(str(foundation), out)
    record = json.loads((out / "record.json").read_text())
    del record["control"]
    (out / "record.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="holds a model, no control network"):
        load_control(out)


def test_a_regression_answers_with_the_median_of_what_a_condition_leaves_open(tmp_path):
    rng = np.random.default_rng(0)
    codes = np.kron(rng.integers(0, 3, (24, 2, 2)), np.ones((8, 8))).astype(np.uint8)
    config = LoopConfig(steps=80, learning_rate=4e-3, schedule="linear", precision="fp32")
    noisy = (codes * 100 + np.where(rng.random(codes.shape) < 0.25, 50, 10)).astype(np.uint8)  # a median of 10, a mean of 20
    blurred = apply_pixels(train_pixels(codes, "map", noisy, config, tmp_path / "image", 8), codes, "map", (16, 16))
    assert abs(float(np.median(blurred.astype(float) - codes * 100.0)) - 10) < 6
    with pytest.raises(InputError, match="0 inputs for 24 targets"):
        train_pixels(codes[:0], "map", noisy, config, tmp_path)
