"""Scenes of any size: windows, their fusion, texts by place, tiles of the autoencoder, and resuming."""

from __future__ import annotations

import copy
import functools

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from scipy.stats import ks_2samp
from tiny import tiny_pipeline

from sarnb.errors import InputError
from sarnb.generate import large, sample
from sarnb.generate.sample import to_grey
from sarnb.model.foundation import decode_latents, encode_posterior, load_foundation, normalise_latents
from sarnb.world.radar import PRESETS, amplitude, simulate
from sarnb.world.scene import make_scene


class Drawn:
    """What a UNet returns."""

    def __init__(self, values: torch.Tensor) -> None:
        self.sample = values


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def native(pipe) -> int:
    return pipe.unet.config.sample_size * pipe.vae_scale_factor


def test_a_scene_of_one_window_is_what_the_pipeline_draws(pipe, native):
    settings = {"steps": 3, "guidance_scale": 3.0, "precision": "fp32"}
    scene = large.draw_scene(pipe, [["a city"]], 7, native, native, **settings)
    (image,) = sample.generate(pipe, ["a city"], [7], **settings)
    assert np.abs(scene.astype(int) - image).max() <= 1


@pytest.mark.parametrize("size", [(16, 16), (16, 33), (40, 21)])
def test_windows_cover_every_cell_and_lie_inside(size):
    seen = set()
    for number in range(50):
        places, count = large.window_places(size, 16, np.random.default_rng(number)), np.zeros(size, int)
        for y, x in places:
            assert 0 <= y <= size[0] - 16 and 0 <= x <= size[1] - 16
            count[y : y + 16, x : x + 16] += 1
        assert count.min() >= 1 and len(places) == len(set(places))
        for side in range(2):
            starts = sorted({place[side] for place in places})
            assert max(np.diff(starts), default=0) <= 8, "neighbours overlap by half"
        seen |= set(places)
    free = [min(length - 16, 8) + 1 for length in size]  # of the first places at least
    assert len(seen) >= free[0] * free[1], "over the steps the windows' borders lie anywhere"


def test_the_fusion_of_a_pointwise_prediction_is_that_prediction(pipe, native, monkeypatch):
    """Windows of a UNet that looks at each cell alone add up to the whole scene denoised at once."""
    size = 2 * native, 3 * native
    monkeypatch.setattr(type(pipe.unet), "forward", lambda self, z, t, **_: Drawn(0.3 * z + 0.001 * t * z.tanh()))
    monkeypatch.setattr(large, "decode_tiles", lambda vae, latents: latents.numpy())
    drawn = large.draw_scene(pipe, [["a city"]], 3, *size, steps=4, guidance_scale=1.0)
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(4)
    cells = [side // pipe.vae_scale_factor for side in size]
    latents = (
        torch.randn((1, pipe.unet.config.in_channels, *cells), generator=torch.Generator().manual_seed(3)) * scheduler.init_noise_sigma
    )
    for t in scheduler.timesteps:
        z = scheduler.scale_model_input(latents, t)
        latents = scheduler.step(0.3 * z + 0.001 * t * z.tanh(), t, latents).prev_sample
    np.testing.assert_allclose(drawn, latents.numpy(), rtol=1e-4, atol=1e-4)


def test_each_part_of_a_scene_has_its_text(pipe, native, monkeypatch):
    """A UNet that answers with its text's mark, under a sampler that keeps the answer, shows the map of texts."""
    texts = [["north west", "north east"], ["south west", "south east"]]
    flat = [text for row in texts for text in row]
    marks = {text: float(number) for number, text in enumerate(flat)}

    def encoded(_, given):
        values = torch.tensor([marks.get(text, 9.0) for text in given])
        return values[:, None, None].expand(-1, 4, 8), values[:, None].expand(-1, 8)

    def forward(self, z, t, encoder_hidden_states, **_):
        return Drawn(encoder_hidden_states[:, 0, 0].view(-1, 1, 1, 1).expand_as(z))

    seen = []
    monkeypatch.setattr(large, "encode_prompts", encoded)
    monkeypatch.setattr(type(pipe.unet), "forward", forward)
    monkeypatch.setattr(large, "decode_tiles", lambda vae, latents: seen.append(latents))
    step = type(pipe.scheduler).step
    fused = []

    @functools.wraps(step)
    def watched(self, x, *args, **more):
        fused.append(x)
        return step(self, x, *args, **more)

    monkeypatch.setattr(type(pipe.scheduler), "step", watched)
    large.draw_scene(pipe, texts, 0, 4 * native, 4 * native, steps=2, guidance_scale=1.0)
    for values in fused:
        mark, edge = values[0, 0].numpy(), pipe.unet.config.sample_size
        assert (mark[:edge, :edge] == 0).all() and (mark[:edge, -edge:] == 1).all()
        assert (mark[-edge:, :edge] == 2).all() and (mark[-edge:, -edge:] == 3).all()
        assert (np.diff(mark[0]) >= -1e-6).all() and len(set(mark[0].round(4))) > 3, "one text passes over into the next"


@pytest.mark.parametrize("solver", [EulerDiscreteScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("done", [1, 2])
def test_a_scene_that_was_cut_short_goes_on_where_it_was(done, solver, pipe, native, tmp_path, monkeypatch):
    """Also by a solver of second order, which looks back on its last prediction."""
    monkeypatch.setattr(pipe, "scheduler", solver.from_config(pipe.scheduler.config))
    call = {"steps": 4, "guidance_scale": 2.0, "precision": "fp32"}
    whole = large.draw_scene(pipe, [["a city"]], 1, native, 2 * native, **call)
    kept, state = large._keep_state, tmp_path / "scene/state.safetensors"

    def cut(path, latents, number, key):
        kept(path, latents, number, key)
        if number == done:
            raise KeyboardInterrupt

    monkeypatch.setattr(large, "_keep_state", cut)
    with pytest.raises(KeyboardInterrupt):
        large.draw_scene(pipe, [["a city"]], 1, native, 2 * native, **call, state=state)
    numbers = []
    monkeypatch.setattr(large, "_keep_state", lambda path, latents, number, key: (numbers.append(number), kept(path, latents, number, key)))
    again = large.draw_scene(pipe, [["a city"]], 1, native, 2 * native, **call, state=state)
    assert numbers == list(range(done + 1, 5)) and not state.exists()
    np.testing.assert_array_equal(again, whole)


def test_the_state_of_another_scene_is_not_taken(pipe, native, tmp_path, monkeypatch):
    state, numbers = tmp_path / "state.safetensors", []
    large._keep_state(state, [torch.zeros(1, 4, 8, 8)], 2, "another")
    monkeypatch.setattr(large, "_keep_state", lambda path, latents, number, key: numbers.append(number))
    large.draw_scene(pipe, [["a city"]], 1, native, native, steps=3, guidance_scale=1.0, state=state)
    assert numbers == [1, 2, 3]


def test_tiles_are_the_whole_image_where_one_tile_holds_it_and_near_it_where_not(pipe):
    latents = torch.randn((1, pipe.vae.config.latent_channels, 24, 40), generator=torch.Generator().manual_seed(0))
    (whole,) = decode_latents(pipe.vae, latents)
    np.testing.assert_array_equal(large.decode_tiles(pipe.vae, latents, 64), whole)
    tiled = large.decode_tiles(pipe.vae, latents, 16, 8)
    assert tiled.shape == whole.shape
    gap, scale = np.abs(tiled.astype(float) - whole).mean(), np.abs(whole - whole.mean((0, 1))).mean()
    assert gap < 0.2 * scale, (gap, scale)
    shuffled = large.decode_tiles(pipe.vae, latents.flip(-1), 16, 8)
    assert np.abs(shuffled.astype(float) - whole).mean() > 0.5 * scale, "the measure tells another picture"


@pytest.mark.parametrize(("tile", "rim"), [(32, 4), (16, 8), (12, 0), (3, 4), (1, 4)])
def test_the_shares_of_all_tiles_add_up_to_one_everywhere(pipe, tile, rim, monkeypatch):
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    monkeypatch.setattr(large, "decode_latents", lambda vae, part: np.full((1, *(factor * n for n in part.shape[2:]), 3), 200, np.uint8))
    assert (large.decode_tiles(pipe.vae, torch.zeros(1, 4, 33, 13), tile, rim) == 200).all()


@pytest.mark.parametrize(
    ("prompts", "height", "width", "changes", "message"),
    [
        ([["a"]], 1, 0, {}, "multiple of"),
        ([["a"]], 0, -1, {}, "at least"),
        ([["a", "b"]], 0, 0, {}, "2 prompts"),
        ([["a"], ["b", "c"]], 4, 4, {}, "each with as many"),
        ([[" "]], 0, 0, {}, "none of them empty"),
        ([], 0, 0, {}, "rows of prompts"),
        ([["a"]], 0, 0, {"steps": 0}, "at least 1"),
        ([["a"]], 0, 0, {"guidance_scale": 0.5}, "at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(prompts, height, width, changes, message, pipe, native):
    sides = [native + (extra if abs(extra) == 1 else extra * native) for extra in (height, width)]
    with pytest.raises(InputError, match=message):
        large.draw_scene(pipe, prompts, 0, *sides, **changes)


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "KDPM2AncestralDiscreteScheduler"])
def test_samplers_that_look_back_or_take_two_steps_for_one_are_refused(name, native):
    pipe = tiny_pipeline()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    with pytest.raises(InputError, match=f"{name} looks back"):
        large.draw_scene(pipe, [["a city"]], 0, native, native, steps=3)


@pytest.mark.slow
def test_tiles_of_the_foundation_s_decoder_leave_no_seam_and_without_a_rim_they_do():
    """Differences across the borders of tiles, of four grids, against those of cell borders nearby: Kolmogorov-Smirnov, n > 10,000."""
    vae = load_foundation().vae
    scene = make_scene("city+river+forest", 1, size=384)
    level = amplitude(simulate(scene, PRESETS["airborne-x"], 1))
    image = np.clip(level / level.mean() * 50, 0, 255).astype(np.uint8)[None]
    latents, tile, found = normalise_latents(vae, encode_posterior(vae, image)[0]), 12, {}
    for rim, grids in ((0, [0]), (large.RIM, range(0, tile, 2))):
        on, off = [], []
        for moved in grids:
            drawn = to_grey(large.decode_tiles(vae, latents[:, :, moved:, moved:], tile, rim)[None])[0].astype(float)
            for matrix in (drawn, drawn.T):
                gaps, borders = np.abs(np.diff(matrix, axis=0)), np.arange(tile, len(drawn) // 8, tile)
                on.append(gaps[8 * borders - 1].ravel())
                off += [gaps[8 * places[places < len(drawn) // 8] - 1].ravel() for places in (borders + k for k in (-3, -2, -1, 1, 2, 3))]
        found[rim] = ks_2samp(np.concatenate(on), np.concatenate(off))
    assert min(sum(map(len, on)), sum(map(len, off))) > 10_000
    assert found[0].pvalue < 1e-6 and found[0].statistic > 0.2, found
    assert found[large.RIM].pvalue > 0.05 and found[large.RIM].statistic < 0.02, found
