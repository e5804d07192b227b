"""A foundation's own settings: what it predicts, how it adds noise, how its sampler goes back, how its latents are scaled.

What is followed is compared with diffusers' own schedulers and pipeline; all else is refused by name, key and value.
"""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from tiny import tiny_pipeline
from torch import nn

from sarnb.errors import InputError
from sarnb.generate.sample import SAMPLER, draw, initial_noise
from sarnb.model.export import foundation_fingerprint
from sarnb.model.foundation import decode_latents, load_foundation, normalise_latents, settings_of
from sarnb.train.diffusion import diffusion_error, diffusion_loss, prediction_target
from sarnb.train.finetune import embed
from sarnb.train.loop import step_generator

ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
KINDS = ("epsilon", "v_prediction", "sample")


class Oracle(nn.Module):
    """Knows the clean latents, and says of them what a network of ``kind`` would, at the noise of the timestep."""

    def __init__(self, kind: str, clean: torch.Tensor, alphas_cumprod: torch.Tensor, error: float = 0.0) -> None:
        super().__init__()
        self.kind, self.clean, self.alphas, self.error = kind, clean, alphas_cumprod, error

    def forward(self, sample, timestep, **_):
        signal = self.alphas[timestep.long().expand(len(sample))].view(-1, 1, 1, 1)
        clean = self.clean + self.error
        noise = (sample - signal.sqrt() * clean) / (1 - signal).sqrt()
        said = {"epsilon": noise, "sample": clean.expand_as(sample), "v_prediction": signal.sqrt() * noise - (1 - signal).sqrt() * clean}
        return SimpleNamespace(sample=said[self.kind])


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A foundation on disk."""
    folder = tmp_path_factory.mktemp("stored") / "foundation"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def changed(stored, tmp_path):
    """Loads the foundation with other settings: (part, key=value …) → the folder; ``_class_name`` also in model_index.json."""

    def change(part: str, **values):
        folder = tmp_path / "changed"
        if not folder.exists():
            shutil.copytree(stored, folder)
        paths = [folder / part / f"{'scheduler_config' if part == 'scheduler' else 'config'}.json"] if part else []
        for path in paths or [folder / "model_index.json"]:
            path.write_text(json.dumps(json.loads(path.read_text()) | values))
        if "_class_name" in values:
            change("", scheduler=["diffusers", values["_class_name"]])
        return folder

    return change


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_is_that_of_the_schedulers_and_the_loss_of_who_knows_it_is_zero(kind):
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 5, 4, 3, 3, generator=generator)
    steps = torch.tensor([0, 10, 500, 900, 999])
    scheduler = DDPMScheduler.from_config(SCHEDULER.config, prediction_type=kind)
    expected = {"epsilon": noise, "sample": clean, "v_prediction": scheduler.get_velocity(clean, noise, steps)}[kind]
    target = prediction_target(kind, clean, noise, steps, scheduler.alphas_cumprod)
    torch.testing.assert_close(target, expected)
    rest = scheduler, clean, None, None, None, noise, steps
    silent = diffusion_error(lambda *_, **__: SimpleNamespace(sample=torch.zeros_like(clean)), *rest)
    torch.testing.assert_close(silent, expected.square().mean(dim=(1, 2, 3)))
    # One error in the clean latents weighs min(SNR, 5) of its square, whatever the network predicts (Hang et al. 2023).
    loss = diffusion_loss(Conditioned(Oracle(kind, clean, scheduler.alphas_cumprod, 0.1)), *rest, min_snr_gamma=5.0)
    alpha = scheduler.alphas_cumprod[steps].double()
    assert loss.item() == pytest.approx(float((alpha / (1 - alpha)).clamp(max=5).mean()) * 0.01, rel=2e-3)


class Conditioned(nn.Module):
    """Takes the conditions of SDXL's UNet and does not look at them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, sample, timestep, encoder_hidden_states=None, added_cond_kwargs=None, **_):
        return self.inner(sample, timestep)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"prediction_type": "v_prediction"},
        {"prediction_type": "sample"},
        ZERO_SNR,
        {"beta_schedule": "linear", "steps_offset": 0},
        {"_class_name": "DDIMScheduler", "clip_sample": False, **ZERO_SNR},
    ],
)
def test_training_and_sampling_agree_on_what_the_network_says(values, changed):
    """Who answers each question of the training without error, is led to the clean latents by the sampler."""
    pipe = load_foundation(str(changed("scheduler", **values)))
    clean = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    scheduler, kind = pipe.scheduler, values.get("prediction_type", "epsilon")
    oracle = Oracle(kind, clean, scheduler.alphas_cumprod)
    steps, noise = torch.tensor([1, 400, 998]), torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(4))
    error = diffusion_error(Conditioned(oracle), scheduler, clean.expand(3, -1, -1, -1), None, None, None, noise, steps)
    assert error.max() < 1e-4
    pipe.unet.forward = lambda sample, timestep, **_: (oracle(sample, timestep).sample,)
    found = draw(pipe, ["a radar image of a city"], [1], steps=10, guidance_scale=1.0, precision="fp32")[1]
    np.testing.assert_allclose(found, clean.numpy(), atol=0.02)


@pytest.mark.parametrize(
    "values",
    [
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"timestep_spacing": "linspace", "use_karras_sigmas": True},
        {"_class_name": "EulerAncestralDiscreteScheduler"},
    ],
)
def test_drawing_is_that_of_plain_diffusers_with_the_foundations_sampler_and_one_noise_an_image(values, changed):
    folder, prompts = changed("scheduler", **values), ["a radar image of a city", "a forest"]
    plain = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    plain.set_progress_bar_config(disable=True)
    generators = [step_generator(seed, 0, SAMPLER) for seed in (1, 2)]
    start = initial_noise(plain, (1, 2), 16)
    expected = plain(prompts, latents=start, num_inference_steps=4, guidance_scale=3.0, generator=generators, output_type="latent").images
    pipe = load_foundation(str(folder))
    for batch in (2, 1):
        found = draw(pipe, prompts, [1, 2], 4, 3.0, batch, precision="fp32")[1]
        np.testing.assert_allclose(found, expected.half(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("zeros", [True, False])
def test_a_dropped_caption_is_the_pipelines_empty_prompt(zeros, changed):
    pipe = load_foundation(str(changed("", force_zeros_for_empty_prompt=zeros)))
    _, negative, _, pooled = pipe.encode_prompt(["a city"], do_classifier_free_guidance=True)
    found = embed(pipe, ["a city"], torch.tensor([True]), None, {})
    torch.testing.assert_close(found, (negative, pooled))
    assert bool(negative.any()) != zeros


def test_latents_are_scaled_as_the_autoencoder_says(changed):
    mean, std = [0.1, -0.2, 0.3, 0.0], [2.0, 1.0, 0.5, 3.0]
    folder = changed("vae", latents_mean=mean, latents_std=std, scaling_factor=0.7)
    pipe = load_foundation(str(folder))
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    scaled = normalise_latents(pipe.vae, latents)
    torch.testing.assert_close(scaled[:, 3], latents[:, 3] / 3 * 0.7)
    plain = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    plain.set_progress_bar_config(disable=True)
    plain.unet.forward = lambda sample, *_, **__: (torch.zeros_like(sample),)  # no noise found: the start stays as it is
    plain.scheduler.set_timesteps(1)
    start = scaled[:1] / plain.scheduler.init_noise_sigma
    wanted = plain(["a"], latents=start, num_inference_steps=1, guidance_scale=1.0, output_type="np").images
    kept = wanted > 0  # what diffusers cuts at zero is read by its modulus here
    assert kept.mean() > 0.2
    np.testing.assert_allclose((decode_latents(pipe.vae, scaled[:1]) / 255)[kept], wanted[kept], atol=0.003)


@pytest.mark.parametrize(
    "part, values, words",
    [
        ("scheduler", {"prediction_type": "flow_prediction"}, "scheduler_config.json has prediction_type = 'flow_prediction'"),
        ("scheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr = True.*v_prediction"),
        ("scheduler", {"prediction_type": "v_prediction", "timestep_type": "continuous"}, "timestep_type = 'continuous'"),
        ("scheduler", {"clip_sample": True}, "clip_sample = True.*EulerDiscreteScheduler does not read it"),
        ("scheduler", {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0}, "_class_name = 'EDMEulerScheduler'"),
        ("scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name = 'FlowMatchEulerDiscreteScheduler'"),
        (
            "scheduler",
            {"_class_name": "PNDMScheduler", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
            "rescale_betas_zero_snr = True.*PNDMScheduler does not read it",
        ),
        ("scheduler", {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas = True"),
        ("vae", {"shift_factor": 0.1}, "vae/config.json has shift_factor = 0.1"),
        ("vae", {"latents_mean": [0.0] * 4}, "latents_mean = .*latents_std with 4 numbers"),
        ("vae", {"scaling_factor": 0.0}, "scaling_factor = 0.0"),
        ("vae", {"scaling_factor": "0.13"}, "scaling_factor = '0.13'.*a positive number"),
        ("vae", {"latents_mean": 5, "latents_std": 5}, "latents_mean = 5"),
        ("vae", {"latents_mean": [0.0] * 4, "latents_std": [0.0] * 4}, "std above 0"),
        ("vae", {"latents_mean": [float("nan")] * 4, "latents_std": [1.0] * 4}, "latents_mean = .*nan"),
        ("scheduler", {"timestep_spacing": "middle"}, "scheduler_config.json: middle is not supported"),
        ("scheduler", {"final_sigmas_type": "weird"}, "scheduler_config.json: .*weird"),
        ("scheduler", {"num_train_timesteps": 0}, "scheduler_config.json: .*0 timesteps"),
        ("scheduler", {"trained_betas": [0.1, 0.2]}, "betas do not take the signal from 1 towards 0 .1000 timesteps"),
        ("scheduler", {"beta_end": 2.0}, "betas do not take"),
        ("scheduler", {"beta_start": 0.0, "beta_end": 0.0}, "betas do not take"),
        ("", {"force_zeros_for_empty_prompt": "no"}, "model_index.json has force_zeros_for_empty_prompt = 'no'.*true or false"),
        ("unet", {"class_embed_type": "identity"}, "unet/config.json has class_embed_type = 'identity'.*no such condition"),
        ("vae", {"force_upcast": "false"}, "vae/config.json has force_upcast = 'false'"),
        ("vae", {"use_post_quant_conv": False}, "2 weights are there and not used, such as post_quant_conv.bias"),
        ("text_encoder", {"num_hidden_layers": 1}, "text_encoder: .* weights are there and not used, such as encoder.layers.1"),
        ("scheduler", {"_class_name": "DDIMScheduler", "use_karras_sigmas": True}, "use_karras_sigmas = True.*DDIMScheduler does not read"),
    ],
)
def test_a_setting_that_is_not_followed_is_refused_by_name_key_and_value(part, values, words, changed):
    with pytest.raises(InputError, match=words):
        load_foundation(str(changed(part, **values)))


def test_a_scheduler_named_twice_is_refused(changed):
    folder = changed("scheduler", prediction_type="epsilon")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace("EulerDiscreteScheduler", "DDIMScheduler"))
    with pytest.raises(InputError, match="_class_name = 'DDIMScheduler', model_index.json 'EulerDiscreteScheduler'"):
        load_foundation(str(folder))


@pytest.mark.parametrize(
    "part, values",
    [
        ("scheduler", {"prediction_type": "v_prediction"}),
        ("vae", {"scaling_factor": 0.3}),
        ("vae", {"norm_num_groups": 2}),
        ("unet", {"sample_size": 8}),
        ("unet", {"center_input_sample": True}),
        ("unet", {"freq_shift": 1}),
        ("text_encoder", {"hidden_act": "relu"}),
        ("text_encoder", {"eos_token_id": 5}),
        ("", {"force_zeros_for_empty_prompt": False}),
    ],
)
def test_foundations_of_the_same_weights_and_other_settings_are_distinguished(part, values, stored, changed):
    first, other = load_foundation(str(stored)), load_foundation(str(changed(part, **values)))
    assert foundation_fingerprint(first) != foundation_fingerprint(other)
    differ = {name: value for name, value in settings_of(other).items() if settings_of(first).get(name) != value}
    assert {name.split(".")[-1]: value for name, value in differ.items()} == values


def test_tokenizers_that_pad_or_cut_otherwise_are_distinguished():
    pipe = tiny_pipeline()
    found = [settings_of(pipe)]
    for name, value in (("pad_token", "!"), ("padding_side", "left"), ("truncation_side", "left")):
        setattr(pipe.tokenizer, name, value)
        found.append(settings_of(pipe))
    assert len({json.dumps(one) for one in found}) == 4


def test_the_embedded_foundation_has_the_usual_settings():
    assert settings_of(load_foundation()) == {}
