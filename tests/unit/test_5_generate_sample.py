"""Sampling: an image depends on its prompt and seed; evaluation sets are the same for every strategy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline, tiny_set

import sarnb.generate.strategies as strategies
import sarnb.train.training as training
from sarnb.data.dataset import load_set
from sarnb.data.files import write_set
from sarnb.errors import InputError
from sarnb.generate.sample import coarse_unet, evaluation_prompts, generate, initial_noise, to_grey, write_samples
from sarnb.generate.strategies import SamplingConfig, train_and_sample
from sarnb.train.finetune import FinetuneConfig
from sarnb.world.scene import CLASSES, COMPOSITIONS

PROMPTS = ["a radar image of a city", "a radar image of a forest", "city"]
SEEDS = [7, 8, 9]


def draw(pipe, prompts=PROMPTS, seeds=SEEDS, **more):
    """Three small images in a few steps."""
    return generate(pipe, prompts, seeds, **({"steps": 4, "guidance_scale": 3.0, "precision": "fp32"} | more))


def test_an_image_does_not_depend_on_its_batch():
    pipe = tiny_pipeline()
    together = draw(pipe)
    assert together.shape == (3, 16, 16, 3) and together.dtype == np.uint8
    for other in (draw(pipe, batch_size=1), draw(pipe, batch_size=2)):
        assert np.abs(other.astype(int) - together).max() <= 1
    alone = draw(pipe, PROMPTS[1:2], SEEDS[1:2])
    assert np.abs(alone.astype(int) - together[1:2]).max() <= 1
    assert not np.array_equal(draw(pipe, [PROMPTS[0]] * 2, [1, 2])[0], draw(pipe, [PROMPTS[0]] * 2, [1, 2])[1])


def test_it_is_the_pipelines_own_sampling():
    pipe = tiny_pipeline()
    latents = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(7))
    assert torch.equal(initial_noise(pipe, [7], 16), latents)
    plain = pipe(PROMPTS[0], latents=latents, num_inference_steps=4, guidance_scale=3.0, output_type="np").images
    assert np.abs(draw(pipe, PROMPTS[:1], SEEDS[:1]) - np.rint(255 * plain)).max() <= 1


def test_the_global_random_state_is_left_alone():
    pipe = tiny_pipeline()
    torch.manual_seed(1)
    first, state = draw(pipe, steps=2), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert np.array_equal(draw(pipe, steps=2), first)


def test_coarse_unet_gives_float32_and_goes_away():
    pipe = tiny_pipeline()
    fine, coarse = draw(pipe), draw(pipe, precision="bf16")
    assert 0 < np.abs(fine.astype(float) - coarse).mean() < 3
    with coarse_unet(pipe, "bf16"):
        conditions = {"text_embeds": torch.ones(1, 24), "time_ids": torch.ones(1, 6)}
        (output,) = pipe.unet(torch.ones(1, 4, 4, 4), 1, torch.ones(1, 16, 40), added_cond_kwargs=conditions, return_dict=False)
        assert output.dtype == torch.float32
    assert "forward" not in vars(pipe.unet)


def test_guidance_and_size():
    pipe = tiny_pipeline()
    assert not np.array_equal(draw(pipe, guidance_scale=1.0), draw(pipe, guidance_scale=6.0))
    assert draw(pipe, size=32).shape == (3, 32, 32, 3)
    with pytest.raises(InputError, match="size is 20"):
        draw(pipe, size=20)


@pytest.mark.parametrize(
    "values",
    [{"prompts": []}, {"prompts": ["a"]}, {"prompts": [" "], "seeds": [1]}, {"steps": 0}, {"guidance_scale": 0.5}, {"batch_size": 0}],
)
def test_refusals(values):
    with pytest.raises(InputError):
        draw(tiny_pipeline(), **({"seeds": []} if values.get("prompts") == [] else {}), **values)


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


@pytest.fixture
def study(tmp_path):
    """A foundation and a data set on disk."""
    tiny_pipeline().save_pretrained(tmp_path / "foundation")
    for split, seed in (("train", 0), ("val", 1), ("test", 2)):
        data = tiny_set(6, seed)
        rows = [{key: value for key, value in row.items() if key != "file_name"} for row in data.rows]
        write_set(tmp_path / "data" / split, data.images, rows)
    return tmp_path


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

    def forbidden(*_, **__):
        raise AssertionError("done twice")

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
