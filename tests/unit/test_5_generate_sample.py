"""Sampling: an image depends on its prompt and seed; latents are decoded again, attention is recorded, and neither changes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from tiny import tiny_pipeline, tiny_tokenizer

from sarnb.data.dataset import load_set
from sarnb.errors import InputError
from sarnb.generate.sample import (
    LATENTS,
    coarse_unet,
    draw,
    evaluation_prompts,
    generate,
    initial_noise,
    read_latents,
    redraw,
    to_grey,
    write_latents,
    write_samples,
)
from sarnb.model.inspect import AttentionRecord, phrase_map, record_attention
from sarnb.world.scene import CLASSES, COMPOSITIONS

PROMPTS = ["a radar image of a city", "a radar image of a forest", "city"]
SEEDS = [7, 8, 9]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def small(pipe, prompts=PROMPTS, seeds=SEEDS, **more):
    """Three small images in a few steps."""
    return generate(pipe, prompts, seeds, **({"steps": 4, "guidance_scale": 3.0, "precision": "fp32"} | more))


def test_an_image_does_not_depend_on_its_batch(pipe):
    together = small(pipe)
    assert together.shape == (3, 16, 16, 3) and together.dtype == np.uint8
    for other in (small(pipe, batch_size=1), small(pipe, batch_size=2)):
        assert np.abs(other.astype(int) - together).max() <= 1
    alone = small(pipe, PROMPTS[1:2], SEEDS[1:2])
    assert np.abs(alone.astype(int) - together[1:2]).max() <= 1
    assert not np.array_equal(small(pipe, [PROMPTS[0]] * 2, [1, 2])[0], small(pipe, [PROMPTS[0]] * 2, [1, 2])[1])


def test_it_is_the_pipelines_own_sampling(pipe):
    latents = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(7))
    assert torch.equal(initial_noise(pipe, [7], 16), latents)
    plain = pipe(PROMPTS[0], latents=latents, num_inference_steps=4, guidance_scale=3.0, output_type="np").images
    assert np.abs(small(pipe, PROMPTS[:1], SEEDS[:1]) - np.rint(255 * plain)).max() <= 1


def test_the_global_random_state_is_left_alone(pipe):
    torch.manual_seed(1)
    first, state = small(pipe, steps=2), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert np.array_equal(small(pipe, steps=2), first)


def test_coarse_unet_gives_float32_and_goes_away(pipe):
    fine, coarse = small(pipe), small(pipe, precision="bf16")
    assert 0 < np.abs(fine.astype(float) - coarse).mean() < 3
    with coarse_unet(pipe, "bf16"):
        conditions = {"text_embeds": torch.ones(1, 24), "time_ids": torch.ones(1, 6)}
        (output,) = pipe.unet(torch.ones(1, 4, 4, 4), 1, torch.ones(1, 16, 40), added_cond_kwargs=conditions, return_dict=False)
        assert output.dtype == torch.float32
        assert pipe.unet(torch.ones(1, 4, 4, 4), 1, torch.ones(1, 16, 40), added_cond_kwargs=conditions).sample.dtype == torch.float32
    assert "forward" not in vars(pipe.unet)


def test_guidance_and_size(pipe):
    assert not np.array_equal(small(pipe, guidance_scale=1.0), small(pipe, guidance_scale=6.0))
    assert small(pipe, size=32).shape == (3, 32, 32, 3)
    with pytest.raises(InputError, match="size is 20"):
        small(pipe, size=20)


@pytest.mark.parametrize(
    "values",
    [
        {"prompts": []},
        {"prompts": ["a"]},
        {"prompts": [" "], "seeds": [1]},
        {"steps": 0},
        {"guidance_scale": 0.5},
        {"batch_size": 0},
        {"prompts": ["a"], "seeds": [-1]},
        {"prompts": ["a"], "seeds": [2**32]},
    ],
)
def test_refusals(values, pipe):
    with pytest.raises(InputError):
        small(pipe, **({"seeds": []} if values.get("prompts") == [] else {}), **values)


def test_to_grey_is_the_rounded_mean():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    assert np.array_equal(to_grey(images), np.rint(images.astype(float).mean(axis=-1)).astype(np.uint8))
    assert to_grey(np.full((1, 1, 1, 3), 255, np.uint8))[0, 0, 0] == 255


def test_evaluation_prompts():
    rows = evaluation_prompts([*CLASSES, *COMPOSITIONS], 4, looks=("left", "right"))
    assert len(rows) == 4 * (len(CLASSES) + len(COMPOSITIONS)) and len({row["seed"] for row in rows}) == len(rows)
    assert {row["group"] for row in rows} == {"seen", "unseen", "composition"}
    assert rows[0]["text"] == "a radar image of a city, illuminated from the left" and rows[1]["look"] == "right"
    learned = evaluation_prompts(["airport"], 1, token="<SAR>")
    assert learned[0] | {"seed": 0} == {
        "text": "a <SAR> image of an airport",
        "label": "airport",
        "group": "unseen",
        "seed": 0,
        "look": None,
    }
    # The noise of an image does not depend on the strategy or on the other labels.
    assert learned[0]["seed"] == next(row["seed"] for row in rows if row["label"] == "airport")
    own = evaluation_prompts(["ships"], 1, token="<SAR>", groups={"ships": "seen"})
    assert own[0]["text"] == "a <SAR> image of ships"
    with pytest.raises(InputError, match="per_class is 0"):
        evaluation_prompts(["city"], 0)


def test_written_samples_are_read_back(tmp_path):
    rows = evaluation_prompts(["city", "forest"], 2)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)
    write_samples(tmp_path / "samples", images[:2], rows[:2])
    found = load_set(write_samples(tmp_path / "samples", images, rows))
    assert np.array_equal(found.images, images) and found.labels == ("city", "city", "forest", "forest")
    assert found.rows[1]["seed"] == rows[1]["seed"] and [path.name for path in tmp_path.iterdir()] == ["samples"]
    with pytest.raises(InputError, match="1 images but 4"):
        write_samples(tmp_path / "other", images[:1], rows)
    assert not (tmp_path / "other").exists()


# Final latents: next to the samples, decoded again to the same images, and by another decoder to others.


@pytest.fixture
def samples(pipe, tmp_path):
    images, latents = draw(pipe, ["a radar image of a city"] * 3, [1, 2, 3], 2, 3.0, batch_size=2, precision="fp32")
    rows = [{"text": "a city", "label": "city", "group": "seen", "look": None, "seed": seed} for seed in (1, 2, 3)]
    write_latents(write_samples(tmp_path / "seed0", to_grey(images), rows), latents)
    return load_set(tmp_path / "seed0")


def test_the_own_decoder_draws_the_same(pipe, samples, tmp_path):
    assert read_latents(samples.root).shape == (3, 4, 4, 4) and read_latents(samples.root).dtype == np.float16
    (path,) = samples.root.glob("*.npz")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:80] + bytes([whole[80] ^ 255]) + whole[81:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="no final latents can be read"):
            read_latents(samples.root)
    path.write_bytes(whole)
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


# Attention maps: shares of one, the picture unchanged, and a word found where the attention was put.


def drawn(pipe, prompts, steps: int, guidance: float):
    """Images, and the maps of the half of the batch that has the prompts."""
    with record_attention(pipe.unet) as record:
        images = generate(pipe, prompts, [1, 2][: len(prompts)], steps, guidance, precision="fp32")
    return images, record.maps(4)[-len(prompts) :]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_maps_are_shares_and_the_picture_is_the_same(pipe, guidance):
    images, maps = drawn(pipe, PROMPTS[::2], 2, guidance)
    assert maps.shape == (2, 16, 4, 4) and (maps >= 0).all()
    np.testing.assert_allclose(maps.sum(axis=1), 1.0, atol=1e-5)
    plain = generate(pipe, PROMPTS[::2], [1, 2], 2, guidance, precision="fp32")
    assert np.abs(plain.astype(int) - images).max() <= 1
    assert np.abs(maps[0] - maps[1]).max() > 1e-4, "other words, other attention"


def test_the_maps_at_the_end_of_the_batch_are_those_with_the_prompt(pipe):
    _, alone = drawn(pipe, PROMPTS[:1], 1, 1.0)  # no guidance: the UNet is called with the prompt only
    _, guided = drawn(pipe, PROMPTS[:1], 1, 3.0)  # one step: both see the same noise
    np.testing.assert_allclose(guided, alone, atol=1e-5)


def test_the_processors_are_put_back(pipe):
    before = {name: type(value) for name, value in pipe.unet.attn_processors.items()}
    with pytest.raises(RuntimeError, match="stop"), record_attention(pipe.unet):
        raise RuntimeError("stop")
    assert {name: type(value) for name, value in pipe.unet.attn_processors.items()} == before


def test_layers_and_calls_are_averaged():
    record = AttentionRecord()
    record.add("small", torch.tensor([[[1.0, 0.0]]]))  # one place, two tokens
    record.add("small", torch.tensor([[[0.0, 1.0]]]))
    record.add("large", torch.tensor([[[1.0, 0.0]] * 4]))
    np.testing.assert_allclose(record.maps(2)[0], [np.full((2, 2), 0.75), np.full((2, 2), 0.25)])
    with pytest.raises(InputError, match="nothing was recorded"):
        AttentionRecord().maps(2)
    record.add("odd", torch.zeros(1, 3, 2))
    with pytest.raises(InputError, match="3 places"):
        record.maps(2)


def test_a_phrase_is_found_in_the_prompt():
    tokenizer = tiny_tokenizer("<|endoftext|>")  # radar, image, of, city and forest are one token each
    maps = np.arange(16 * 4, dtype=float).reshape(16, 2, 2)
    np.testing.assert_array_equal(phrase_map(tokenizer, "a radar image of a city", maps, "radar image"), maps[2] + maps[3])
    np.testing.assert_array_equal(phrase_map(tokenizer, "a radar image of a city", maps, "city"), maps[6])
    assert phrase_map(tokenizer, "a radar image of a city", maps, "forest") is None
