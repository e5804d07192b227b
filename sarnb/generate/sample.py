"""Text to images, by diffusers' own pipeline; an image depends on its prompt and its seed, not on its batch."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import rasterio
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from torch import Tensor, nn
from tqdm import tqdm

from sarnb.data.dataset import ImageSet, load_set
from sarnb.data.files import check_out, content_key, kept, release, replace_folder, saving, write_set
from sarnb.data.imagefolder import default_caption, label_words
from sarnb.errors import InputError
from sarnb.model.control import check_conditions, check_kind, control_pipeline, to_condition
from sarnb.model.foundation import decode_latents, fingerprint, on_card
from sarnb.model.token import with_token
from sarnb.profile import LARGEST_SEED
from sarnb.train.loop import step_generator
from sarnb.train.machine import autocast
from sarnb.world.captions import prompt as world_prompt
from sarnb.world.radar import PRESETS
from sarnb.world.scene import CLASSES, COMPOSITIONS, SEEN

SAMPLER = 9  # stream of random numbers of a sampler that draws noise at every step, next to those of ``sarnb.train.finetune``
#: Kind of condition -> the network that reads it, and a condition an image as ``sarnb.model.control.conditions_of`` gives them.
Controls = Mapping[str, tuple[nn.Module, np.ndarray]]


def generate(
    pipe: StableDiffusionXLPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = 25,
    guidance_scale: float = 5.0,
    batch_size: int = 16,
    size: int | None = None,
    precision: str = "auto",
    label: str = "images",
    controls: Controls | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Images of ``prompts``, uint8 [N, H, W, 3]: the first of what ``draw`` returns, which says the rest."""
    return draw(pipe, prompts, seeds, steps, guidance_scale, batch_size, size, precision, label, controls, scale)[0]


@on_card
def draw(
    pipe: StableDiffusionXLPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = 25,
    guidance_scale: float = 5.0,
    batch_size: int = 16,
    size: int | None = None,
    precision: str = "auto",
    label: str = "images",
    controls: Controls | None = None,
    scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Images of ``prompts``, uint8 [N, H, W, 3], image i from its own noise of ``seeds[i]``, and their final latents.

    The latents are as the UNet sees them, float16 [N, C, h, w]: another decoder of the same latents can draw them anew
    (``redraw``). ``size`` is the side in px (the UNet's own if None). The same call with another
    ``batch_size`` gives the same images within a grey level in fp32. In bf16 only the UNet's arithmetic is coarser: latents
    and decoder stay float32. Each of ``controls`` steers the drawing with ``scale`` times its weight of training,
    and guidance strengthens it as it does the text.

    Raises
    ------
    InputError
        Lengths that differ, no prompt, fewer than one step, a size that the VAE cannot divide, and conditions that do not fit.
    """
    check_drawing(pipe, prompts, seeds, steps, guidance_scale, batch_size, size)
    native = pipe.unet.config.sample_size * pipe.vae_scale_factor
    side, controls = size or native, controls or {}
    check_controls(controls, len(prompts), (side, side), scale)
    pipe = control_pipeline(pipe, [net.to(pipe.unet.device) for net, _ in controls.values()]) if controls else pipe
    strength = "adapter_conditioning_scale" if hasattr(pipe, "adapter") else "controlnet_conditioning_scale"
    pipe.set_progress_bar_config(disable=True)
    pieces, finals = [], []
    bar = tqdm(total=len(prompts), desc=label, unit="image", disable=not sys.stderr.isatty())
    with coarse_unet(pipe, precision), _guided_by_pictures(pipe, guidance_scale), bar:
        for start in range(0, len(prompts), batch_size):
            chosen = slice(start, start + batch_size)
            seen = [to_condition(pictures[chosen], kind, (side, side)) for kind, (_, pictures) in controls.items()]
            more = {"image": seen, strength: [float(scale)] * len(seen)} if len(seen) > 1 else {}
            more |= {"image": seen[0], strength: float(scale)} if len(seen) == 1 else {}
            latents = pipe(
                prompt=list(prompts[chosen]),
                latents=initial_noise(pipe, seeds[chosen], side).to(pipe.unet.device, pipe.unet.dtype),
                generator=[step_generator(int(seed), 0, SAMPLER) for seed in seeds[chosen]],  # of samplers that draw noise
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                height=side,
                width=side,
                # The micro-conditioning of training, whatever the size that is drawn.
                original_size=(native, native),
                target_size=(native, native),
                output_type="latent",
                **more,
            ).images
            pieces.append(decode_latents(pipe.vae, latents, batch_size))
            finals.append(latents.to(torch.float16).cpu().numpy())
            bar.update(len(latents))
    return np.concatenate(pieces), np.concatenate(finals)


def initial_noise(pipe: StableDiffusionXLPipeline, seeds: Sequence[int], side: int) -> Tensor:
    """Unit Gaussian latents [N, C, h, w], each drawn by its own CPU generator: the same on any device, in any batch."""
    edge = side // pipe.vae_scale_factor
    shape = (1, pipe.unet.config.in_channels, edge, edge)
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])


@contextlib.contextmanager
def _guided_by_pictures(pipe: StableDiffusionXLPipeline, guidance_scale: float) -> Iterator[None]:
    """What steers the UNet is left out of guidance's unconditional half, so that guidance strengthens pictures as it does words.

    diffusers steers both halves; what they share is not guided, and a text at scale 3 then outweighs the picture. A ControlNet is
    not even run on the unconditional half.
    """
    networks = steering_networks(pipe)
    forwards = {network: network.forward for network in (pipe.unet, *networks)}

    def later(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {name: later(one) for name, one in part.items()}
        return part[len(part) // 2 :] if isinstance(part, Tensor) and part.ndim else part

    def conditional(part: Any) -> Any:
        return part if part is None else padded(later(part)) if isinstance(part, Tensor) else [padded(later(one)) for one in part]

    def steered(*args: Any, **kwargs: Any) -> Any:
        return forwards[pipe.unet](*args, **{name: conditional(part) if "residual" in name else part for name, part in kwargs.items()})

    def halved(network: nn.Module) -> Callable[..., Any]:
        return lambda *args, **kwargs: padded(forwards[network](*map(later, args), **later(kwargs)))

    if guidance_scale > 1:
        pipe.unet.forward = steered
        for network in networks:
            network.forward = halved(network)
    try:
        yield
    finally:
        for network, forward in forwards.items():
            network.forward = forward


def padded(part: Any) -> Any:
    """A tensor, or each of a list, behind as many zeros: what does not steer the unconditional half."""
    return torch.cat([torch.zeros_like(part), part]) if isinstance(part, Tensor) else [padded(one) for one in part]


def steering_networks(pipe: StableDiffusionXLPipeline) -> list[nn.Module]:
    """The ControlNets of a pipeline, none for one that has no such thing."""
    steering = getattr(pipe, "controlnet", None)
    return [] if steering is None else list(getattr(steering, "nets", [steering]))


@contextlib.contextmanager
def coarse_unet(pipe: StableDiffusionXLPipeline, precision: str, steering: Sequence[nn.Module] = ()) -> Iterator[None]:
    """The UNet, and what steers it at every step (the pipeline's own, or ``steering``), under autocast, its output back in float32.

    Autocast around the whole pipeline would leave the latents in bf16 between the steps, 8 bits for what becomes speckle.
    """
    networks = [pipe.unet, *steering_networks(pipe), *steering]

    def coarse(forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with autocast(precision):
                output = forward(*args, **kwargs)
            return fine(output)

        return call

    def fine(output: Any) -> Any:
        if isinstance(output, dict):  # what diffusers returns by name
            return type(output)(**{name: fine(part) for name, part in output.items()})
        if isinstance(output, (tuple, list)):
            return type(output)(map(fine, output))
        return output.to(pipe.unet.dtype) if isinstance(output, Tensor) else output

    for network in networks:
        network.forward = coarse(network.forward)
    try:
        yield
    finally:
        for network in networks:
            del network.forward


def to_grey(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] → uint8 [N, H, W], the mean of the three channels, rounded."""
    return ((images.astype(np.uint16).sum(axis=-1) * 2 + 3) // 6).astype(np.uint8)


def evaluation_prompts(
    labels: Sequence[str],
    per_class: int,
    token: str | None = None,
    looks: Sequence[str | None] = (None,),
    groups: dict[str, str] | None = None,
    sensor: str = "airborne-x",
) -> list[dict]:
    """Rows (text, label, group, seed, look) of an evaluation set: ``per_class`` images of each label.

    Looks ("left", "right", or None for unsaid) take turns. A seed depends on the label and the image's number only, so
    every strategy starts image i of a class from the same noise. ``groups`` names the group of labels that the twin
    world does not know; without it they are "seen".

    Raises
    ------
    InputError
        A number per class below 1, or no label or look.
    """
    if per_class < 1:
        raise InputError(f"per_class is {per_class}; give at least 1")
    if not labels or not looks:
        raise InputError("evaluation prompts need at least one label and one look (None leaves it unsaid)")
    rows = []
    for label in labels:
        group = (groups or {}).get(label) or group_of(label)
        for number in range(per_class):
            look = looks[number % len(looks)]
            text = evaluation_text(label, token, look, sensor)
            seed = zlib.crc32(f"{label}|{number}".encode()) & 0x7FFFFFFF
            rows.append({"text": text, "label": label, "group": group, "seed": seed, "look": look})
    return rows


def evaluation_text(label: str, token: str | None = None, look: str | None = None, sensor: str = "airborne-x") -> str:
    """The canonical prompt of a class, of a composition ("river+forest"), or of a label of the user's own."""
    radar = replace(PRESETS[sensor], look=look) if look else None
    words = label_words(label)
    if words in CLASSES or words in COMPOSITIONS:
        return world_prompt(words, "sar", radar=radar, token=token)
    text = default_caption(label) + (f", illuminated from the {look}" if look else "")
    return with_token(text, token) if token else text


def group_of(label: str) -> str:
    """ "seen", "unseen" or "composition"; labels that are not of the twin world are "seen"."""
    if label in COMPOSITIONS:
        return "composition"
    return "unseen" if label in CLASSES and label not in SEEN else "seen"


def write_samples(folder: Path, images: np.ndarray, rows: Sequence[dict], spacing: float = 0.0) -> Path:
    """Write grey uint8 images [N, H, W] and their rows as an imagefolder that ``load_set`` reads.

    With a ``spacing`` [m] each is written as a GeoTIFF, too, on a local grid: north up, the upper left corner at the origin.

    The folder appears whole or not at all, and replaces an older one made here.

    Raises
    ------
    InputError
        The folder cannot be written, or holds anything else.
    """
    folder = check_out(folder, DRAWN)
    staging = folder.resolve().with_name(f".{folder.resolve().name}.partial-{os.getpid()}")
    try:
        with saving(folder):
            shutil.rmtree(staging, ignore_errors=True)
            write_set(staging, images, rows)
            for number, image in enumerate(images if spacing else ()):
                profile = {"driver": "GTiff", "height": image.shape[0], "width": image.shape[1], "count": 1, "dtype": "uint8"}
                grid = rasterio.transform.from_origin(0, 0, spacing, spacing)
                with rasterio.open(staging / f"{number:06d}.tif", "w", transform=grid, compress="deflate", **profile) as file:
                    file.write(image, 1)
                    file.update_tags(synthetic="yes", prompt=rows[number].get("text", ""))
            replace_folder(staging, folder, DRAWN)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


# The same samples by another decoder. What the UNet learned is in the latents; grain and amplitude are the decoder's too. Two
# strategies that differ little can look alike under a decoder that cannot carry speckle, so final latents lie next to the
# images, and each set of samples is also judged as a better decoder draws it.

DRAWN = "set of drawn images"  # what a folder of samples is to ``sarnb.data.files``
LATENTS = "latents.npz"
STAMP = "decoding.json"


def write_latents(folder: Path, latents: np.ndarray) -> None:
    """Put final latents float16 [N, C, h, w], one a row of the folder's metadata, next to the images."""
    with saving(folder):
        temporary = Path(folder) / f".{LATENTS}.tmp.npz"
        np.savez(temporary, latents=np.asarray(latents, np.float16))
        os.replace(temporary, Path(folder) / LATENTS)
    release(Path(folder), LATENTS)


def read_latents(folder: Path) -> np.ndarray:
    """The final latents of a samples folder, float16 [N, C, h, w].

    Raises
    ------
    InputError
        The latents are missing or damaged.
    """
    path = Path(folder) / LATENTS
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["latents"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: no final latents can be read ({type(error).__name__}); draw the samples again") from error


def redraw(samples: ImageSet, vae: AutoencoderKL, out: Path) -> ImageSet:
    """Samples with the images that another decoder makes of their final latents, written into the folder ``out``.

    What is there already, of the same latents and weights, is read back.

    Raises
    ------
    InputError
        The latents are missing, of another number than the images, or of other channels than the decoder's.
    """
    latents, out = read_latents(samples.root), Path(out)
    if len(latents) != len(samples):
        raise InputError(f"{samples.root}: {len(latents)} latents for {len(samples)} images; draw the samples again")
    if latents.shape[1] != vae.config.latent_channels:
        raise InputError(
            f"{samples.root}: latents of {latents.shape[1]} channels, the decoder takes {vae.config.latent_channels}; give one "
            "of the same foundation"
        )
    key = {"latents": content_key(latents), "decoder": fingerprint(vae)}
    return keep_decoded(samples, lambda: torch.from_numpy(latents.astype(np.float32)), vae, out, key, batch_size=16)


def keep_decoded(
    samples: ImageSet, latents: Callable[[], torch.Tensor], vae: AutoencoderKL, out: Path, key: Mapping[str, Any], batch_size: int = 32
) -> ImageSet:
    """The rows of ``samples`` with what a decoder makes of ``latents`` [N, C, h, w], in the folder ``out``.

    Of the same key they are read back.
    """

    def make() -> dict:
        images = to_grey(decode_latents(vae, latents(), batch_size))
        write_samples(out, images, [{name: value for name, value in row.items() if name != "file_name"} for row in samples.rows])
        return {}

    return kept(out, key, make, lambda note: load_set(out), STAMP)


def check_drawing(
    pipe: StableDiffusionXLPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    guidance_scale: float,
    batch_size: int,
    size: int | None,
) -> None:
    """Raise ``InputError`` for what cannot be drawn; see ``draw``."""
    if isinstance(prompts, str) or len(prompts) == 0 or len(prompts) != len(seeds):
        counts = f"{len(prompts)} prompts and {len(seeds)} seeds"
        raise InputError(f"generate got {counts}; give one or more, and a seed a prompt")
    if not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise InputError("generate got an empty prompt; say what to draw")
    if wrong := [seed for seed in seeds if not 0 <= int(seed) <= LARGEST_SEED]:
        raise InputError(f"generate got the seed {wrong[0]}; give a whole number from 0 to {LARGEST_SEED}")
    if steps < 1 or batch_size < 1:
        raise InputError(f"generate got steps {steps} and batch_size {batch_size}; give at least 1 of each")
    if not guidance_scale >= 1:
        raise InputError(f"guidance_scale is {guidance_scale}; give 1 (off) or more")
    levels = 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    if size is not None and (size < 1 or size % (pipe.vae_scale_factor * levels)):
        raise InputError(f"size is {size} px; give a multiple of {pipe.vae_scale_factor * levels} for this model")


def check_controls(controls: Controls, count: int, size: tuple[int, int], scale: float) -> None:
    """Raise ``InputError`` for conditions that do not fit ``count`` images of ``size`` (H, W) px, and for a negative scale."""
    if not scale >= 0:
        raise InputError(f"the conditioning scale is {scale}; give 0 (no effect) or more")
    for kind, (_, pictures) in controls.items():
        check_kind(kind)
        if len(pictures) != count:
            raise InputError(f"{len(pictures)} conditions of the kind {kind} for {count} images; give one an image")
        check_conditions(pictures, kind, size, "generate")
