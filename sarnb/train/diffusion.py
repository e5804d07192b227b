"""Diffusion with the foundation's own schedule: the forward process, the loss, and its error on images that training does not see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import SchedulerMixin, StableDiffusionXLPipeline
from torch import Tensor, nn

from sarnb.errors import InputError
from sarnb.model.foundation import encode_prompts, normalise_latents, on_card, time_ids
from sarnb.train.cache import LatentCache
from sarnb.train.loop import step_generator
from sarnb.train.machine import autocast

HELD_OUT = 6  # stream of random numbers of the held-out errors, next to those of ``sarnb.train.finetune``


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_t = sqrt(ā_t) x_0 + sqrt(1 - ā_t) ε (Ho et al. 2020, equation 4); latents and noise [B, C, h, w], t [B]."""
    signal = alphas_cumprod.to(latents)[timesteps].view(-1, 1, 1, 1)
    return signal.sqrt() * latents + (1 - signal).sqrt() * noise


def prediction_target(kind: str, latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """What a UNet of the scheduler's ``prediction_type`` is trained to give, shaped as ``latents`` [B, C, h, w].

    "epsilon": the noise ε; "sample": the latents x_0; "v_prediction": v = sqrt(ā_t) ε - sqrt(1 - ā_t) x_0 (Salimans & Ho 2022).
    """
    if kind == "v_prediction":
        return add_noise(noise, -latents, timesteps, alphas_cumprod)
    return {"epsilon": noise, "sample": latents}[kind]


def signal_to_noise(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """SNR(t) = ā_t / (1 - ā_t), [B]."""
    alpha = alphas_cumprod[timesteps]
    return alpha / (1 - alpha)


def min_snr_weight(alphas_cumprod: Tensor, timesteps: Tensor, gamma: float, kind: str = "epsilon") -> Tensor:
    """min(SNR, γ) as the weight of the error in x_0 (Hang et al. 2023), for what is predicted, [B]; 1 everywhere for γ = 0.

    An error in the noise is SNR times as large as one in x_0, one in v is SNR + 1 times as large: it is divided by that.
    """
    snr = signal_to_noise(alphas_cumprod, timesteps)
    if gamma == 0:
        return torch.ones_like(snr)
    if kind == "epsilon":
        return torch.clamp(gamma / snr, max=1.0)
    return snr.clamp(max=gamma) / {"v_prediction": snr + 1, "sample": torch.ones_like(snr)}[kind]


def high_noise_weight(alphas_cumprod: Tensor, timesteps: Tensor, most: float) -> Tensor:
    """SNR^(-1/2), not below 1 and not above ``most``: more of the loss where layout is settled, [B]; 1 everywhere for 1.

    What a picture shows changes the noise-prediction loss in proportion to the SNR, so that at high noise, where words
    decide what lies where, a loss that is even over the timesteps has next to nothing to teach. The weight is this project's choice.
    """
    return signal_to_noise(alphas_cumprod, timesteps).rsqrt().clamp(1.0, most)


#: (prepared networks, numbers of the images) -> what predicts their noise, called as the UNet is; for conditions next to the text.
Denoiser = Callable[[Mapping[str, nn.Module], np.ndarray], Callable[..., Any]]


def diffusion_loss(
    unet: Callable[..., Any],
    scheduler: SchedulerMixin,
    latents: Tensor,
    hidden: Tensor,
    pooled: Tensor,
    time_ids: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    min_snr_gamma: float = 5.0,
    high_noise: float = 1.0,
) -> Tensor:
    """Weighted mean squared error of what the UNet predicts, a scalar; see ``diffusion_error``.

    The weights are ``min_snr_weight`` times ``high_noise_weight``, whose ``most`` is ``high_noise``.
    """
    error = diffusion_error(unet, scheduler, latents, hidden, pooled, time_ids, noise, timesteps)
    alphas_cumprod = scheduler.alphas_cumprod.to(latents.device)
    weight = min_snr_weight(alphas_cumprod, timesteps, min_snr_gamma, scheduler.config.get("prediction_type", "epsilon"))
    weight = weight * high_noise_weight(alphas_cumprod, timesteps, high_noise)
    return (weight * error).mean()


def diffusion_error(
    unet: Callable[..., Any],
    scheduler: SchedulerMixin,
    latents: Tensor,
    hidden: Tensor,
    pooled: Tensor,
    time_ids: Tensor,
    noise: Tensor,
    timesteps: Tensor,
) -> Tensor:
    """Squared error of the prediction, of the noise or of what the scheduler's ``prediction_type`` says; mean over each latent, [B].

    latents, noise [B, C, h, w] (normalised latents), hidden [B, T, D], pooled [B, P], time_ids [B, 6], timesteps [B].
    """
    alphas_cumprod, kind = scheduler.alphas_cumprod.to(latents.device), scheduler.config.get("prediction_type", "epsilon")
    noisy = add_noise(latents, noise, timesteps, alphas_cumprod)
    target = prediction_target(kind, latents, noise, timesteps, alphas_cumprod)
    conditions = {"text_embeds": pooled, "time_ids": time_ids}
    predicted = unet(noisy, timesteps, encoder_hidden_states=hidden, added_cond_kwargs=conditions).sample
    return (predicted.float() - target.float()).pow(2).mean(dim=(1, 2, 3))


def drop_captions(hidden: Tensor, pooled: Tensor, empty_hidden: Tensor, empty_pooled: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings with those of the empty prompt where ``dropped`` [B] is true: the unconditional part of guidance.

    SDXL's pipeline takes zeros for an empty negative prompt (``force_zeros_for_empty_prompt``); hand in zeros then.
    """
    keep = ~dropped
    return torch.where(keep[:, None, None], hidden, empty_hidden), torch.where(keep[:, None], pooled, empty_pooled)


@on_card
@torch.no_grad()
def held_out_errors(
    pipe: StableDiffusionXLPipeline,
    latents: LatentCache,
    captions: Sequence[str],
    timesteps: Sequence[int],
    batch_size: int = 16,
    precision: str = "auto",
    denoiser: Denoiser | None = None,
) -> np.ndarray:
    """Squared noise-prediction error of each image at each timestep, mean over the latent: float64 [N, T].

    Posterior means, and noise that depends on the image's number and the timestep only: two calls differ by the weights
    and the captions, so their difference is paired. ``denoiser``: the UNet alone if None.
    """
    clean = normalise_latents(pipe.vae, latents.mean)
    device, errors = pipe.unet.device, np.zeros((len(captions), len(timesteps)))
    for start in range(0, len(captions), batch_size):
        chosen = range(start, min(len(captions), start + batch_size))
        with autocast(precision):
            hidden, pooled = encode_prompts(pipe, [captions[i] for i in chosen])
        unet = pipe.unet if denoiser is None else denoiser({}, np.array(chosen))
        for column, timestep in enumerate(timesteps):
            noise = torch.stack([torch.randn(clean.shape[1:], generator=step_generator(i, int(timestep), HELD_OUT)) for i in chosen])
            with autocast(precision):
                error = diffusion_error(
                    unet,
                    pipe.scheduler,
                    clean[chosen.start : chosen.stop].to(device),
                    hidden.to(device),
                    pooled.to(device),
                    time_ids(pipe, len(chosen)),
                    noise.to(device),
                    torch.full((len(chosen),), int(timestep), device=device),
                )
            errors[chosen.start : chosen.stop, column] = error.cpu().numpy()
    return errors


# Asking a denoiser which caption explains an image: its noise-prediction error under several wordings.


def wording_errors(
    pipe: StableDiffusionXLPipeline,
    latents: Mapping[str, LatentCache],
    captions: Mapping[str, Sequence[str]],
    timesteps: Sequence[int],
    batch_size: int = 16,
    precision: str = "auto",
) -> pd.DataFrame:
    """Errors of every image at every timestep under every wording: columns images, wording, scene, timestep, error.

    ``latents``: kind of image ("radar", "optical") → N scenes in the same order; ``captions``: wording → N texts. Noise
    depends on scene and timestep only, so that rows which differ in the model, the wording or the kind of image are paired.
    """
    rows = []
    for kind, cache in latents.items():
        for wording, texts in captions.items():
            if len(texts) != len(cache.mean):
                raise InputError(f"probe: {len(cache.mean)} {kind} images but {len(texts)} captions in wording {wording}; give one each")
            errors = held_out_errors(pipe, cache, texts, timesteps, batch_size, precision)
            for (scene, column), error in np.ndenumerate(errors):
                rows.append((kind, wording, scene, int(timesteps[column]), float(error)))
    return pd.DataFrame(rows, columns=["images", "wording", "scene", "timestep", "error"])
