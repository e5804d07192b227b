"""Scenes larger than the UNet was trained on, by overlapping windows that are fused at every denoising step; and given images drawn on.

MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113): at each step every window is denoised on its own, and the predictions are
averaged where windows overlap. Here the predicted noise is averaged, with weights that fall towards a window's border, and the grid
of windows is shifted from step to step, so that no place of the scene is always a border. A picture of the whole scene may steer it:
each window is steered by its part.

``edit`` draws on a given image by a tuned model, without any training: SDEdit (Meng et al. 2022, arXiv 2108.01073). The image's
latents are noised to some timestep and denoised from there. The more noise, the less is left of the image, and the more of it is
what the model has learned.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from sarnb.data.files import content_key, saving
from sarnb.errors import InputError
from sarnb.generate.sample import SAMPLER, Controls, check_controls, check_drawing, coarse_unet, initial_noise, padded
from sarnb.model.control import check_sort, residuals, to_condition
from sarnb.model.foundation import (
    decode_latents,
    encode_posterior,
    encode_prompts,
    fingerprint,
    normalise_latents,
    on_card,
    settings_of,
    time_ids,
)
from sarnb.train.loop import step_generator

WINDOWS = 10  # stream of random numbers of the windows' shifts, next to that of ``sarnb.generate.sample``
OVERLAP = 0.5  # share of a window's side that its neighbour covers, too
TILE, RIM = 32, 4  # latent cells that the autoencoder decodes at once, and those around them that are decoded and dropped or faded out


def draw_scene(
    pipe: StableDiffusionXLPipeline,
    prompts: Sequence[Sequence[str]],
    seed: int,
    height: int,
    width: int,
    steps: int = 25,
    guidance_scale: float = 5.0,
    batch_size: int = 16,
    precision: str = "auto",
    state: Path | None = None,
    controls: Controls | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """One scene of any size, uint8 [height, width, 3]; ``scene_latents``, decoded by tiles, says the rest.

    ``state`` is removed at the end.
    """
    latents = scene_latents(pipe, prompts, seed, height, width, steps, guidance_scale, batch_size, precision, state, controls, scale)
    scene = decode_tiles(pipe.vae, latents)
    if state:
        state.unlink(missing_ok=True)
    return scene


@on_card
def scene_latents(
    pipe: StableDiffusionXLPipeline,
    prompts: Sequence[Sequence[str]],
    seed: int,
    height: int,
    width: int,
    steps: int = 25,
    guidance_scale: float = 5.0,
    batch_size: int = 16,
    precision: str = "auto",
    state: Path | None = None,
    controls: Controls | None = None,
    scale: float = 1.0,
) -> Tensor:
    """The latents of one scene of any size, normalised, [1, C, h, w].

    Parameters
    ----------
    pipe : the model; its UNet sees windows of the size that it was trained on.
    prompts : rows of texts; they share out the scene evenly, and a window has the text of the part in which its middle lies.
    seed : of the noise.
    height, width : of the scene [px], at least those of one window and multiples of the autoencoder's downsampling.
    steps, guidance_scale, precision : as in ``sarnb.generate.sample.draw``.
    batch_size : windows at once.
    state : file that keeps the latents after every step, and what the sampler remembers of earlier ones; a call that was cut short
        goes on there.
    controls, scale : as in ``sarnb.generate.sample.draw``, of each kind one picture of the whole scene; a window is steered by its part.

    Raises
    ------
    InputError
        Sizes, texts or pictures that cannot be drawn, or a sampler that remembers more than DPM-Solver's predictions.
    """
    _check(pipe, prompts, height, width, steps, guidance_scale, batch_size)
    controls = controls or {}
    check_controls(controls, 1, (height, width), scale)
    nets = [net.to(pipe.unet.device) for net, _ in controls.values()]
    check_sort(nets)
    window, factor = pipe.unet.config.sample_size, pipe.vae_scale_factor
    size, device = (height // factor, width // factor), pipe.unet.device
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps, device=device)
    texts = list(dict.fromkeys(text for row in prompts for text in row))
    with torch.no_grad():
        hidden, pooled = encode_prompts(pipe, texts)
        empty = encode_prompts(pipe, [""])
    blank = [torch.zeros_like(part) if pipe.config.force_zeros_for_empty_prompt else part for part in empty]
    part_of = np.array([[texts.index(text) for text in row] for row in prompts])
    weight = window_weight(window).to(device)
    key = content_key(
        np.array([seed, height, width, steps, guidance_scale, scale]),
        *(text for row in prompts for text in (*row, "\n")),
        *(fingerprint(getattr(pipe, name)) for name in ("unet", "text_encoder", "text_encoder_2")),
        str(sorted(settings_of(pipe).items())),
        *(part for kind, (net, picture) in controls.items() for part in (kind, fingerprint(net), picture)),
    )
    # A coarse view is enlarged by repeating its cells, so that the crops of all pictures are made alike.
    pictures = {
        kind: np.kron(own, np.ones((1, fine, fine), np.uint8)) if (fine := height // own.shape[1]) > 1 else own
        for kind, (_, own) in controls.items()
    }
    noise = torch.randn((1, pipe.unet.config.in_channels, *size), generator=torch.Generator().manual_seed(int(seed)))
    latents, first = (noise * scheduler.init_noise_sigma).to(device), 0
    if state and (found := _kept_state(state, key)):
        (latents, *past), first = [part.to(device) for part in found[0]], found[1]
        scheduler.set_begin_index(first)
        if past:
            scheduler.model_outputs = [None] * (scheduler.config.solver_order - len(past)) + past
            scheduler.lower_order_nums = len(past)
    bar = tqdm(total=steps, initial=first, desc=f"{height} x {width} px", unit="step", disable=not sys.stderr.isatty())
    with torch.no_grad(), coarse_unet(pipe, precision, nets), bar:
        for number in range(first, steps):
            timestep = scheduler.timesteps[number]
            scaled = scheduler.scale_model_input(latents, timestep)
            total, weights = torch.zeros_like(latents), torch.zeros_like(latents[:, :1])
            places = window_places(size, window, np.random.default_rng((seed, WINDOWS, number)))
            for start in range(0, len(places), batch_size):
                chosen = places[start : start + batch_size]
                middles = (np.array(chosen) + window / 2) / size * part_of.shape
                own = torch.from_numpy(part_of[tuple(middles.astype(int).T)]).to(device)
                pieces = torch.cat([scaled[:, :, y : y + window, x : x + window] for y, x in chosen])
                seen = [(net, _crops(pictures[kind], kind, chosen, window, factor).to(device)) for net, kind in zip(nets, controls)]
                predicted = guided(pipe, pieces, timestep, (hidden[own], pooled[own]), blank, guidance_scale, seen, scale)
                for (y, x), piece in zip(chosen, predicted):
                    total[0, :, y : y + window, x : x + window] += weight * piece
                    weights[0, :, y : y + window, x : x + window] += weight
            generator = step_generator(int(seed), number, SAMPLER)  # of samplers that draw noise
            latents = scheduler.step(total / weights, timestep, latents, generator=generator).prev_sample
            if state:
                past = [part for part in getattr(scheduler, "model_outputs", []) if part is not None]
                _keep_state(state, [latents, *past], number + 1, key)
            bar.update()
    return latents


def _crops(picture: np.ndarray, kind: str, places: Sequence[tuple[int, int]], window: int, factor: int) -> Tensor:
    """What a network sees of the windows at ``places`` (latent cells) of one picture uint8 [1, H, W, ...] of the whole scene."""
    side = window * factor
    parts = [picture[:, y * factor : y * factor + side, x * factor : x * factor + side] for y, x in places]
    return to_condition(np.concatenate(parts), kind, (side, side))


def window_places(size: tuple[int, int], window: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Upper left corners of square windows that cover an area of ``size``, overlap by ``OVERLAP`` or more, and lie at random shifts.

    Every cell is covered; along a side that is as long as the window there is one place.
    """
    stride, starts = max(1, round(window * (1 - OVERLAP))), []
    for length in size:
        shifted = np.arange(-rng.integers(stride), length - window + stride, stride)
        starts.append(sorted(set(np.clip(shifted, 0, length - window).tolist())))
    return [(y, x) for y in starts[0] for x in starts[1]]


def window_weight(window: int) -> Tensor:
    """Weight of a window's cells in the average, [window, window]: a pyramid, above 0 everywhere."""
    ramp = torch.minimum(torch.arange(1, window + 1), torch.arange(window, 0, -1)).float()
    return torch.outer(ramp, ramp) / ramp.max() ** 2


@on_card
def decode_tiles(vae: AutoencoderKL, latents: Tensor, tile: int = TILE, rim: int = RIM) -> np.ndarray:
    """Normalised latents [1, C, h, w] as an image uint8 [H, W, 3], decoded tile by tile, so that memory does not grow with the scene.

    A tile is decoded with ``rim`` more cells on each side. The outer half of them is dropped: what a pixel is then depends on its
    surroundings as in one piece, but for the means of the group normalisation, which are the tile's own. These differ from tile
    to tile, so the inner half is where one tile fades into the next.
    """
    factor, size, fade = 2 ** (len(vae.config.block_out_channels) - 1), latents.shape[2:], min(rim, tile) // 2
    scene = np.zeros((size[0] * factor, size[1] * factor, 3), np.float32)

    def share(start: int, pixels: slice, length: int) -> np.ndarray:
        """Share of the tile that begins at that cell in each of the pixels of one axis; those of all tiles add up to 1."""
        cells, reach = (np.arange(pixels.start, pixels.stop) + 0.5) / factor, max(2 * fade, 1e-9)
        begins = np.clip((cells - start + fade) / reach, 0, 1) if start else 1.0
        ends = np.clip((start + tile + fade - cells) / reach, 0, 1) if start + tile < length else 1.0
        return np.asarray(begins * ends * np.ones_like(cells), np.float32)

    for corner in itertools.product(*(range(0, length, tile) for length in size)):
        cells = [slice(max(0, start - rim), min(length, start + tile + rim)) for start, length in zip(corner, size)]
        pixels = tuple(slice(part.start * factor, part.stop * factor) for part in cells)
        rows, columns = (share(start, part, length) for start, part, length in zip(corner, pixels, size))
        scene[pixels] += (rows[:, None] * columns)[:, :, None] * decode_latents(vae, latents[:, :, cells[0], cells[1]])[0]
    return np.rint(scene).astype(np.uint8)


def guided(
    pipe: StableDiffusionXLPipeline,
    pieces: Tensor,
    timestep: Tensor,
    texts: tuple[Tensor, Tensor],
    blank: Sequence[Tensor],
    scale: float,
    seen: Sequence[tuple[nn.Module, Tensor]] = (),
    weight: float = 1.0,
) -> Tensor:
    """The prediction for windows [B, C, w, w] with their texts' embeddings, by classifier-free guidance.

    ``seen``: networks that steer it with ``weight``, each with its conditions [B, C', H, W]; guidance strengthens them as it does texts.
    """
    (hidden, pooled), count = texts, len(pieces)
    conditions = {"text_embeds": pooled, "time_ids": time_ids(pipe, count)}
    each = [residuals(net, picture, weight, pieces, timestep, hidden, conditions) for net, picture in seen]
    added = {name: _sum([own[name] for own in each]) for name in (each[0] if each else ())}
    if scale > 1:
        pieces = torch.cat([pieces, pieces])
        hidden, pooled = (torch.cat([none.expand(count, *part.shape[1:]), part]) for none, part in zip(blank, (hidden, pooled)))
        conditions = {"text_embeds": pooled, "time_ids": time_ids(pipe, len(pieces))}
        added = {name: padded(part) for name, part in added.items()}
    predicted = pipe.unet(pieces, timestep, encoder_hidden_states=hidden, added_cond_kwargs=conditions, **added).sample
    if scale > 1:
        without, predicted = predicted.chunk(2)
        predicted = without + scale * (predicted - without)
    return predicted


def _sum(parts: Sequence[Any]) -> Any:
    """Tensors, or lists of them place by place, added up."""
    return sum(parts[1:], parts[0]) if isinstance(parts[0], Tensor) else [_sum(own) for own in zip(*parts)]


def _keep_state(path: Path, parts: Sequence[Tensor], done: int, key: str) -> None:
    with saving(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        save_file({str(place): part.contiguous().cpu() for place, part in enumerate(parts)}, temporary, {"done": str(done), "key": key})
        os.replace(temporary, path)


def _kept_state(path: Path, key: str) -> tuple[list[Tensor], int] | None:
    """Latents with the sampler's predictions, oldest first, and the number of steps done, where ``path`` keeps those of this very scene."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            noted = file.metadata()
        parts = load_file(path)
        return ([parts[place] for place in sorted(parts)], int(noted["done"])) if noted["key"] == key else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _check(pipe, prompts, height: int, width: int, steps: int, guidance_scale: float, batch_size: int) -> None:
    factor, least = pipe.vae_scale_factor, pipe.unet.config.sample_size * pipe.vae_scale_factor
    if wrong := [side for side in (height, width) if side < least or side % factor]:
        raise InputError(f"size {height}x{width}: {wrong[0]} px is no side; give at least {least} px and a multiple of {factor}")
    if not prompts or len({len(row) for row in prompts}) != 1 or not all(text.strip() for row in prompts for text in row):
        raise InputError("a scene needs rows of prompts, each with as many texts, and none of them empty")
    if len(prompts) > height // least or len(prompts[0]) > width // least:
        raise InputError(f"{len(prompts)} x {len(prompts[0])} prompts for {height}x{width} px; a part must hold {least} x {least} px")
    if steps < 1 or batch_size < 1 or not guidance_scale >= 1:
        raise InputError(f"steps {steps}, batch_size {batch_size}, guidance_scale {guidance_scale}; give at least 1 of each")
    name = type(pipe.scheduler).__name__
    single = pipe.scheduler.order == 1 and "generator" in inspect.signature(type(pipe.scheduler).step).parameters
    if not single or (hasattr(pipe.scheduler, "model_outputs") and name != "DPMSolverMultistepScheduler"):
        raise InputError(f"{name} looks back on earlier steps, or takes two for one; choose DPMSolverMultistepScheduler for large scenes")


# ---- a given image drawn on ----


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
