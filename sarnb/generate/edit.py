"""A given image drawn on by a tuned model, without any training: SDEdit (Meng et al. 2022, arXiv 2108.01073).

The image's latents are noised to some timestep and denoised from there. The more noise, the less is left of the image, and the more
of it is what the model has learned.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import SchedulerMixin, StableDiffusionXLPipeline
from tqdm import tqdm

from sarnb.errors import InputError
from sarnb.generate.large import guided
from sarnb.generate.sample import SAMPLER, check_drawing, coarse_unet, initial_noise
from sarnb.model.foundation import decode_latents, encode_posterior, encode_prompts, normalise_latents, on_card
from sarnb.train.loop import step_generator


@on_card
def edit(
    pipe: StableDiffusionXLPipeline,
    images: np.ndarray,
    prompts: Sequence[str],
    seeds: Sequence[int],
    strength: float,
    steps: int = 25,
    guidance_scale: float = 5.0,
    batch_size: int = 16,
    precision: str = "auto",
    label: str = "edited",
) -> np.ndarray:
    """The images drawn on by the model, uint8 [N, H, W, 3], from the first of the sampler's timesteps that is not above ``strength`` T.

    Parameters
    ----------
    images : uint8 [N, H, W] or [N, H, W, 3], of a size that the model draws; the mean of the autoencoder's posterior is where it starts.
    prompts, seeds, steps, guidance_scale, batch_size, precision : as in ``sarnb.generate.sample.draw``; noise by ``seeds``.
    strength : where the drawing starts, as a share of the T timesteps of training, above 0; at 1 next to nothing of the image is left.
        Of a sampler whose timesteps are even that is the share of its ``steps`` which is done, as diffusers counts. The embedded
        foundation's go down evenly in log(signal / noise): half of its steps is not half of the noise.

    Raises
    ------
    InputError
        A strength outside (0, 1] or below the sampler's last timestep, another number of images than of prompts, and what ``draw``
        refuses.
    """
    if not 0 < strength <= 1:
        raise InputError(f"strength is {strength}; give a number above 0 and up to 1")
    if len(images) != len(prompts) or images.shape[1] != images.shape[2]:
        given = f"{len(images)} images of {images.shape[2]} x {images.shape[1]} px"
        raise InputError(f"{given} for {len(prompts)} prompts; give a square one each")
    side = images.shape[1]
    check_drawing(pipe, prompts, seeds, steps, guidance_scale, batch_size, side)
    scheduler, device, pieces = copy.deepcopy(pipe.scheduler), pipe.unet.device, []
    first = first_step(scheduler, steps, strength)
    bar = tqdm(total=len(prompts), desc=label, unit="image", disable=not sys.stderr.isatty())
    with torch.no_grad(), coarse_unet(pipe, precision), bar:
        empty = encode_prompts(pipe, [""])
        blank = [torch.zeros_like(part) if pipe.config.force_zeros_for_empty_prompt else part for part in empty]
        for start in range(0, len(prompts), batch_size):
            chosen = slice(start, start + batch_size)
            scheduler.set_timesteps(steps, device=device)
            timesteps = scheduler.timesteps[first:]
            scheduler.set_begin_index(first)
            texts = encode_prompts(pipe, list(prompts[chosen]))
            clean = normalise_latents(pipe.vae, encode_posterior(pipe.vae, images[chosen])[0]).to(device)
            noise = initial_noise(pipe, seeds[chosen], side).to(clean)
            generators = [step_generator(int(seed), 0, SAMPLER) for seed in seeds[chosen]]  # of samplers that draw noise
            latents = scheduler.add_noise(clean, noise, timesteps[:1].expand(len(clean)))
            more = pipe.prepare_extra_step_kwargs(generators, 0.0)
            for timestep in timesteps:
                predicted = guided(pipe, scheduler.scale_model_input(latents, timestep), timestep, texts, blank, guidance_scale)
                latents = scheduler.step(predicted, timestep, latents, **more).prev_sample
            pieces.append(decode_latents(pipe.vae, latents, batch_size))
            bar.update(len(latents))
    return np.concatenate(pieces)


def first_step(scheduler: SchedulerMixin, steps: int, strength: float) -> int:
    """Place among the sampler's timesteps of the first one that is not above ``strength`` times the training's number of them.

    Sets the scheduler's timesteps.

    Raises
    ------
    InputError
        All timesteps are above it.
    """
    scheduler.set_timesteps(steps)
    horizon, order = scheduler.config.num_train_timesteps, scheduler.order
    timesteps = scheduler.timesteps[::order]  # samplers of second order list all but the first twice
    if not (above := timesteps > strength * horizon).all():
        return order * int(above.sum())
    least = float(timesteps[-1]) / horizon
    raise InputError(f"strength {strength} is below the last of {steps} timesteps, {least:.3g}; give that or more, or more steps")
