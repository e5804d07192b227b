"""Forward process and loss against diffusers' own functions and against hand-computed values."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import nn

from sarnb.model.foundation import build_scheduler
from sarnb.train.diffusion import add_noise, drop_captions, high_noise_weight, min_snr_weight, noise_prediction_loss

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


class Constant(nn.Module):
    """Predicts the same tensor whatever it is shown."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, sample, timesteps, encoder_hidden_states, added_cond_kwargs):
        return SimpleNamespace(sample=self.answer)


def test_schedule_is_that_of_sdxl():
    torch.testing.assert_close(build_scheduler().alphas_cumprod, SCHEDULER.alphas_cumprod)


def test_forward_process_equals_diffusers():
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 5, 4, 8, 8, generator=generator)
    steps = torch.tensor([0, 10, 250, 600, 999])
    torch.testing.assert_close(add_noise(latents, noise, steps, SCHEDULER.alphas_cumprod), SCHEDULER.add_noise(latents, noise, steps))


def test_min_snr_weight_equals_the_formula_on_diffusers_snr():
    steps = torch.arange(0, 1000, 37)
    snr = compute_snr(SCHEDULER, steps)
    expected = torch.minimum(snr, torch.full_like(snr, 5.0)) / snr
    torch.testing.assert_close(min_snr_weight(SCHEDULER.alphas_cumprod, steps, 5.0), expected)
    assert torch.equal(min_snr_weight(SCHEDULER.alphas_cumprod, steps, 0.0), torch.ones(len(steps)))


def test_high_noise_weighs_as_noise_over_signal_and_never_less_than_one():
    steps = torch.arange(0, 1000, 37)
    amplitude_ratio = compute_snr(SCHEDULER, steps).sqrt()  # signal over noise
    expected = np.clip(1 / amplitude_ratio.double().numpy(), 1, 6)
    weights = high_noise_weight(SCHEDULER.alphas_cumprod, steps, 6.0)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-4)
    assert weights[0] == 1 and weights[-1] == 6 and (weights.diff() >= 0).all()
    assert torch.equal(high_noise_weight(SCHEDULER.alphas_cumprod, steps, 1.0), torch.ones(len(steps)))
    noise = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    rest = (SCHEDULER, noise, torch.zeros(8, 3, 2), torch.zeros(8, 2), torch.zeros(8, 6), noise, torch.full((8,), 999))
    losses = [noise_prediction_loss(Constant(torch.zeros_like(noise)), *rest, min_snr_gamma=5.0, high_noise=most) for most in (1.0, 6.0)]
    torch.testing.assert_close(losses[1], 6 * losses[0])


def test_loss_is_zero_for_the_true_noise_and_one_for_silence():
    noise = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    steps = torch.full((64,), 999)
    rest = (SCHEDULER, torch.zeros_like(noise), torch.zeros(64, 3, 2), torch.zeros(64, 2), torch.zeros(64, 6), noise, steps)
    assert noise_prediction_loss(Constant(noise), *rest, min_snr_gamma=0.0) == 0
    silent = noise_prediction_loss(Constant(torch.zeros_like(noise)), *rest, min_snr_gamma=0.0)
    torch.testing.assert_close(silent, torch.tensor(1.0), rtol=0.03, atol=0)


def test_only_dropped_captions_are_replaced():
    hidden, pooled = torch.ones(3, 2, 4), torch.ones(3, 5)
    dropped = torch.tensor([False, True, False])
    new_hidden, new_pooled = drop_captions(hidden, pooled, torch.zeros(3, 2, 4), torch.zeros(3, 5), dropped)
    assert new_hidden.sum(dim=(1, 2)).tolist() == [8, 0, 8]
    assert new_pooled.sum(dim=1).tolist() == [5, 0, 5]
