"""Final latents: beside the samples, decoded again to the same images, and by another decoder to others."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import AutoencoderKL
from tiny import tiny_pipeline

from sarnb.data.dataset import load_set
from sarnb.errors import InputError
from sarnb.generate.sample import LATENTS, draw, generate, read_latents, redraw, to_grey, write_latents, write_samples


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def samples(pipe, tmp_path):
    images, latents = draw(pipe, ["a radar image of a city"] * 3, [1, 2, 3], 2, 3.0, batch_size=2, precision="fp32")
    rows = [{"text": "a city", "label": "city", "group": "seen", "look": None, "seed": seed} for seed in (1, 2, 3)]
    write_latents(write_samples(tmp_path / "seed0", to_grey(images), rows), latents)
    return load_set(tmp_path / "seed0")


def test_the_own_decoder_draws_the_same(pipe, samples, tmp_path):
    assert read_latents(samples.root).shape == (3, 4, 4, 4) and read_latents(samples.root).dtype == np.float16
    again = redraw(samples, pipe.vae, tmp_path / "own")
    assert np.abs(again.images.astype(int) - samples.images).max() <= 1
    assert again.root == tmp_path / "own" and [row["seed"] for row in again.rows] == [1, 2, 3]
    images = generate(pipe, ["a radar image of a city"], [2], 2, 3.0, precision="fp32")
    assert np.abs(to_grey(images).astype(int) - samples.images[1:2]).max() <= 1


def test_another_decoder_draws_others_once(samples, tmp_path, monkeypatch):
    other = tiny_pipeline(seed=1).vae
    first = redraw(samples, other, tmp_path / "other")
    assert not np.array_equal(first.images, samples.images)
    monkeypatch.setattr("sarnb.generate.sample.decode_latents", lambda *args: pytest.fail("decoded again"))
    assert np.array_equal(redraw(samples, other, tmp_path / "other").images, first.images)


def test_other_weights_are_decoded_anew(samples, tmp_path):
    first = redraw(samples, tiny_pipeline(seed=1).vae, tmp_path / "best")
    assert not np.array_equal(redraw(samples, tiny_pipeline(seed=2).vae, tmp_path / "best").images, first.images)


def test_what_does_not_fit_is_one_sentence(pipe, samples, tmp_path):
    wide = AutoencoderKL.from_config({**pipe.vae.config, "latent_channels": 6})
    with pytest.raises(InputError, match="latents of 4 channels, the decoder takes 6"):
        redraw(samples, wide, tmp_path / "wide")
    write_latents(samples.root, np.zeros((2, 4, 4, 4)))
    with pytest.raises(InputError, match="2 latents for 3 images"):
        redraw(samples, pipe.vae, tmp_path / "own")
    (samples.root / LATENTS).write_bytes(b"PK damaged")
    with pytest.raises(InputError, match="draw the samples again"):
        redraw(samples, pipe.vae, tmp_path / "own")
