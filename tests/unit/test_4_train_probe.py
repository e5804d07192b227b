"""Errors under several wordings: against the loss written out, and paired by scene."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline, tiny_set

from sarnb.errors import InputError
from sarnb.model.foundation import encode_prompts, normalise_latents, time_ids
from sarnb.train.cache import cache_latents
from sarnb.train.finetune import FinetuneConfig
from sarnb.train.held_out import HELD_OUT, held_out_errors, held_out_loss, timestep_grid, wording_errors
from sarnb.train.loop import step_generator


@pytest.fixture(scope="module")
def asked():
    pipe, data = tiny_pipeline(), tiny_set(3)
    return pipe, cache_latents(pipe, data.images, None), list(data.captions)


def test_the_error_is_the_formula_written_out(asked):
    pipe, latents, captions = asked
    found = held_out_errors(pipe, latents, captions, [100, 700], batch_size=2, precision="fp32")
    clean = normalise_latents(pipe.vae, latents.mean)[2:]
    noise = torch.randn(clean.shape[1:], generator=step_generator(2, 700, HELD_OUT))[None]
    alpha = pipe.scheduler.alphas_cumprod[700]
    hidden, pooled = encode_prompts(pipe, captions[2:])
    conditions = {"text_embeds": pooled, "time_ids": time_ids(pipe, 1)}
    with torch.no_grad():
        predicted = pipe.unet(alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, 700, hidden, added_cond_kwargs=conditions).sample
    assert found.shape == (3, 2) and found[2, 1] == pytest.approx(float((predicted - noise).pow(2).mean()), rel=1e-5)


def test_the_held_out_loss_is_the_mean_of_the_errors(asked):
    pipe, latents, captions = asked
    config = FinetuneConfig(steps=1, batch_size=2, held_out_timesteps=4, precision="fp32")
    assert timestep_grid(pipe, 4).tolist() == [125, 375, 625, 875]
    errors = held_out_errors(pipe, latents, captions, [125, 375, 625, 875], 3, "fp32")
    assert held_out_loss(pipe, latents, captions, config) == pytest.approx(errors.mean(), rel=1e-5)


def test_rows_are_paired_by_scene_and_differ_by_the_wording(asked):
    pipe, latents, captions = asked
    wordings = {"radar": captions, "optical": ["an image of a city"] * 3}
    table = wording_errors(pipe, {"radar": latents, "optical": latents}, wordings, [300], 2, "fp32")
    errors = table.set_index(["images", "wording", "scene"])["error"]
    np.testing.assert_array_equal(errors["radar"], errors["optical"])  # the same latents, the same noise
    assert (errors["radar", "radar"] != errors["radar", "optical"]).all() and len(table) == 12
    with pytest.raises(InputError, match="3 radar images but 1 captions"):
        wording_errors(pipe, {"radar": latents}, {"radar": ["x"]}, [300])
