"""The error of noise prediction on images that training does not see, always with the same noise and timesteps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline

from sarnb.errors import InputError
from sarnb.model.foundation import encode_prompts, normalise_latents, time_ids
from sarnb.train.cache import LatentCache
from sarnb.train.diffusion import noise_prediction_error
from sarnb.train.loop import step_generator
from sarnb.train.machine import autocast

HELD_OUT = 6  # stream of random numbers, next to those of ``sarnb.train.finetune``


class HeldOut(Protocol):
    """The part of a configuration that the held-out loss reads."""

    batch_size: int
    held_out_timesteps: int
    precision: str


def held_out_loss(pipe: StableDiffusionXLPipeline, latents: LatentCache, captions: Sequence[str], config: HeldOut) -> float:
    """Mean squared noise-prediction error, unweighted, over all images times an even grid of timesteps."""
    timesteps = timestep_grid(pipe, config.held_out_timesteps)
    return float(held_out_errors(pipe, latents, captions, timesteps, config.batch_size, config.precision).mean())


def timestep_grid(pipe: StableDiffusionXLPipeline, count: int) -> np.ndarray:
    """``count`` timesteps, the middles of as many equal parts of the schedule, int [count]."""
    return ((np.arange(count) + 0.5) * pipe.scheduler.config.num_train_timesteps / count).astype(int)


@torch.no_grad()
def held_out_errors(
    pipe: StableDiffusionXLPipeline,
    latents: LatentCache,
    captions: Sequence[str],
    timesteps: Sequence[int],
    batch_size: int = 16,
    precision: str = "auto",
) -> np.ndarray:
    """Squared noise-prediction error of each image at each timestep, mean over the latent: float64 [N, T].

    Posterior means, and noise that depends on the image's number and the timestep only: two calls differ by the weights
    and the captions, so their difference is paired.
    """
    clean = normalise_latents(pipe.vae, latents.mean)
    device, errors = pipe.unet.device, np.zeros((len(captions), len(timesteps)))
    for start in range(0, len(captions), batch_size):
        chosen = range(start, min(len(captions), start + batch_size))
        with autocast(precision):
            hidden, pooled = encode_prompts(pipe, [captions[i] for i in chosen])
        for column, timestep in enumerate(timesteps):
            noise = torch.stack([torch.randn(clean.shape[1:], generator=step_generator(i, int(timestep), HELD_OUT)) for i in chosen])
            with autocast(precision):
                error = noise_prediction_error(
                    pipe.unet,
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
