"""SDEdit against diffusers' own image-to-image pipeline, its two ends, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from tiny import tiny_pipeline, tiny_set

from sarnb.errors import InputError
from sarnb.generate.edit import edit
from sarnb.model.foundation import decode_latents, encode_posterior, normalise_latents

PROMPTS, SEEDS = ["a radar image of a city", "a radar image of a forest"], [3, 4]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
def test_it_is_what_diffusers_own_pipeline_does(pipe, strength):
    images = tiny_set(2).images
    start = normalise_latents(pipe.vae, encode_posterior(pipe.vae, images)[0])
    theirs = StableDiffusionXLImg2ImgPipeline(**pipe.components, add_watermarker=False)
    theirs.set_progress_bar_config(disable=True)
    latents = theirs(
        PROMPTS,
        image=start,
        strength=strength,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        num_inference_steps=8,
        guidance_scale=3.0,
        original_size=(16, 16),
        target_size=(16, 16),
        output_type="latent",
    ).images
    ours = edit(pipe, images, PROMPTS, SEEDS, strength, 8, 3.0, precision="fp32")
    assert np.abs(ours.astype(int) - decode_latents(pipe.vae, latents)).max() <= 1


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
    with pytest.raises(InputError, match="less than one step; give 0.125 or more"):
        edit(pipe, images, PROMPTS, SEEDS, 0.1, 8)
    with pytest.raises(InputError, match="1 images of 16 x 16 px for 2 prompts"):
        edit(pipe, images[:1], PROMPTS, SEEDS, 0.5)
    with pytest.raises(InputError, match="size is 12 px; give a multiple of 8"):
        edit(pipe, images[:, :12, :12], PROMPTS, SEEDS, 0.5)
