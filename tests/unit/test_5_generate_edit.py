"""SDEdit against diffusers' own image-to-image pipeline, its two ends, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from tiny import tiny_pipeline, tiny_set

from sarnb.errors import InputError
from sarnb.generate.large import edit, first_step
from sarnb.model.foundation import decode_latents, encode_posterior, load_foundation, normalise_latents

PROMPTS, SEEDS = ["a radar image of a city", "a radar image of a forest"], [3, 4]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def theirs(components, images, strength, steps=8):
    start = normalise_latents(components["vae"], encode_posterior(components["vae"], images)[0])
    pipe = StableDiffusionXLImg2ImgPipeline(**components, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    latents = pipe(
        PROMPTS,
        image=start,
        strength=strength,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        num_inference_steps=steps,
        guidance_scale=3.0,
        original_size=(16, 16),
        target_size=(16, 16),
        output_type="latent",
    ).images
    return decode_latents(components["vae"], latents)


@pytest.mark.parametrize(("spacing", "strength"), [("trailing", 0.3), ("trailing", 0.75), ("leading", 0.75), ("leading", 1.0)])
def test_with_even_timesteps_it_is_what_diffusers_own_pipeline_does(pipe, spacing, strength):
    images, scheduler = tiny_set(2).images, EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing)
    own = StableDiffusionXLPipeline(**{**pipe.components, "scheduler": scheduler}, add_watermarker=False)
    package = edit(own, images, PROMPTS, SEEDS, strength, 8, 3.0, precision="fp32")
    assert np.abs(package.astype(int) - theirs(own.components, images, strength)).max() <= 1


@pytest.mark.parametrize("make", [EulerDiscreteScheduler, HeunDiscreteScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("strength", [0.2, 0.5, 0.9, 1.0])
def test_the_start_is_the_first_timestep_not_above_the_strength(make, strength, pipe):
    """Also of a sampler whose timesteps are even in log(signal / noise), half of which lie below a sixth of T."""
    even = {"use_lu_lambdas": True} if make is DPMSolverMultistepScheduler else {}
    scheduler = make.from_config(pipe.scheduler.config, **even)
    first = first_step(scheduler, 12, strength)
    timesteps = scheduler.timesteps.tolist()
    assert timesteps[first] <= 1000 * strength
    assert first == 0 or timesteps[first - scheduler.order] > 1000 * strength
    if make is HeunDiscreteScheduler and first:
        assert timesteps[first] == timesteps[first - 1], "it begins with the second of a pair"


def test_the_foundation_s_own_sampler_starts_half_way_in_time_not_in_steps():
    scheduler = load_foundation().scheduler
    first = first_step(scheduler, 12, 0.5)
    assert 400 < scheduler.timesteps[first] <= 500 and first < 6 and scheduler.timesteps[6] < 200


def test_the_batch_plays_no_part_and_the_seed_does(pipe):
    images = tiny_set(2).images
    whole = edit(pipe, images, PROMPTS, SEEDS, 0.5, 8, 3.0, precision="fp32")
    single = edit(pipe, images, PROMPTS, SEEDS, 0.5, 8, 3.0, batch_size=1, precision="fp32")
    assert np.abs(whole.astype(int) - single).max() <= 1
    assert not np.array_equal(edit(pipe, images, PROMPTS, [5, 6], 0.5, 8, 3.0, precision="fp32"), whole)


def test_refusals(pipe):
    images = tiny_set(2).images
    for strength in (0, -0.5, 1.01, float("nan")):
        with pytest.raises(InputError, match="strength is .*; give a number above 0 and up to 1"):
            edit(pipe, images, PROMPTS, SEEDS, strength)
    with pytest.raises(InputError, match="strength 0.0005 is below the last of 8 timesteps, 0.001; give that or more"):
        edit(pipe, images, PROMPTS, SEEDS, 0.0005, 8)
    with pytest.raises(InputError, match="1 images of 16 x 16 px for 2 prompts"):
        edit(pipe, images[:1], PROMPTS, SEEDS, 0.5)
    with pytest.raises(InputError, match="size is 12 px; give a multiple of 8"):
        edit(pipe, images[:, :12, :12], PROMPTS, SEEDS, 0.5)
