"""Training of control networks: the diffusion loss of fine-tuning, with the tuned model frozen and a picture next to the caption.

And, for comparison, of a network without diffusion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DModel
from torch import Tensor, nn

from sarnb.data.dataset import ImageSet, load_set
from sarnb.data.files import METADATA, content_key
from sarnb.errors import InputError
from sarnb.model.control import KINDS, check_kind, conditions_of, control_network, controlled, to_condition
from sarnb.model.export import load_trained, model_key, read_record
from sarnb.model.foundation import load_foundation
from sarnb.model.strategy import Strategy, find_strategy, seeded
from sarnb.train.cache import cache_latents, cache_text, text_cache_bytes
from sarnb.train.diffusion import Denoiser
from sarnb.train.finetune import (
    FinetuneConfig,
    FinetuneResult,
    captions_of,
    check_captions,
    compact_loop,
    identity,
    partners_of,
    training_cost,
    training_loss,
    training_record,
    validation,
)
from sarnb.train.loop import MicroBatch, batch_ids, train_loop
from sarnb.train.machine import autocast, processes, reset_peak_memory
from sarnb.train.state import TRACKERS, LoopConfig
from sarnb.train.training import keep_trained


@dataclass(frozen=True)
class ControlConfig(FinetuneConfig):
    """How to train a control network; ``learning_rate`` is its rate.

    Half of the captions are dropped (Zhang et al. 2023), so that the network reads from the picture what the text leaves out. And
    most timesteps are early ones of a drawing, at which its layout is settled (Mou et al. 2023).
    """

    learning_rate: float = 1e-3
    caption_dropout: float = 0.5
    timestep_power: float = 3.0  # p of the timesteps (1 - u^p) T, u even in [0, 1); 1: all alike

    @classmethod
    def of(cls, profile: Any, seed: int | None = None) -> ControlConfig:
        """What a profile says: its values named ``control_...`` first, then those of the same names."""
        return cls(steps=profile.control_steps, **cls.values(profile, seed, "control_"))

    def draw_timesteps(self, horizon: int, generator: torch.Generator) -> Tensor:
        """Timesteps [batch_size] of one step, most of them noisy: (1 - u^timestep_power) of the ``horizon``, u even on [0, 1)."""
        return horizon - 1 - (horizon * torch.rand(self.batch_size, generator=generator) ** self.timestep_power).long()


def control_record(
    pipe: StableDiffusionXLPipeline, strategy: Strategy, steered: str, kind: str, network: str, data: ImageSet, config: ControlConfig
) -> dict[str, Any]:
    """What identifies the training of a control, as JSON; see ``finetune_control``."""
    named = {"kind": kind, "network": network, "conditions": content_key(conditions_of(data, kind))}
    return training_record(pipe, strategy, data, config) | {"foundation": steered, "control": named}


def denoiser_of(pipe: StableDiffusionXLPipeline, net: nn.Module, kind: str, data: ImageSet) -> Denoiser:
    """What predicts the noise of the images of ``data`` by their numbers: the UNet, steered by their conditions."""
    pictures, size = conditions_of(data, kind), data.images.shape[1:]

    def denoiser(modules: Mapping[str, nn.Module], ids: np.ndarray) -> Callable[..., Any]:
        return controlled(pipe.unet, modules.get("control", net), to_condition(pictures[ids], kind, size).to(pipe.unet.device))

    return denoiser


def finetune_control(
    pipe: StableDiffusionXLPipeline,
    strategy: Strategy,
    kind: str,
    data: ImageSet,
    config: ControlConfig,
    out: Path,
    network: str = "controlnet",
    steered: str = "",
    val: ImageSet | None = None,
    cache: Path | None = None,
    trackers: Sequence[str] = (),
) -> FinetuneResult:
    """Train a control network for ``pipe``, which stays as it is; resumes from ``out`` if a run of the same identity was cut short.

    Parameters
    ----------
    strategy : how the pipeline was tuned: whether captions hold the learned word.
    kind, network : of ``sarnb.model.control``.
    steered : ``model_key`` of the pipeline.
    val, cache, trackers : as in ``finetune``; the held-out loss is that of the steered model.

    Raises
    ------
    InputError
        An unknown kind or network, no images, images without their condition, or what ``finetune`` refuses of a training.
    """
    check_kind(kind, network)
    if len(data.images) == 0:
        raise InputError("the training of a control got an empty training set; give at least one image")
    for part in (part for part in (data, val) if part is not None):
        check_captions(part)
    record = control_record(pipe, strategy, steered, kind, network, data, config)
    reset_peak_memory()
    net, label = control_network(pipe, kind, network, config.seed), f"{network} {kind}"
    if config.gradient_checkpointing and network == "controlnet":
        net.enable_gradient_checkpointing()
        pipe.unet.enable_gradient_checkpointing()
        pipe.unet.train()  # diffusers checkpoints in training mode only; the UNet has no dropout
    for part in (pipe.unet, pipe.text_encoder, pipe.text_encoder_2, pipe.vae):
        part.requires_grad_(False).to(processes().device)
    if processes().device.type == "cpu":  # a third of a step reads the picture, by convolutions of few channels: a sixth faster so
        net.to(memory_format=torch.channels_last)
    latents, captions = cache_latents(pipe, data.images, cache, data.digest), captions_of(data, strategy.token)
    flat = [caption for several in captions for caption in several]
    texts = cache_text(pipe, flat, cache) if text_cache_bytes(pipe, flat) <= config.text_cache_gb * 1e9 else None
    loss = training_loss(pipe, latents, captions, texts, config, denoiser=denoiser_of(pipe, net, kind, data), partners=partners_of(data))
    validate = None if val is None else validation(pipe, strategy, val, config, cache, denoiser_of(pipe, net, kind, val))
    modules, parameters = {"control": net.train()}, list(net.parameters())
    more = {"identity": identity(record), "validate": validate, "trackers": trackers, "label": label}
    history = compact_loop(pipe, modules, loss, config, out, latents, texts, **more)
    pipe.unet.eval()
    cost = training_cost(parameters, history, config, ["latents"] + ["text"] * (texts is not None))
    return FinetuneResult(history, cost, record, modules["control"].eval().requires_grad_(False).to(memory_format=torch.contiguous_format))


def train_control(
    kind: str,
    foundation: str,
    model: Path | None,
    data_dir: Path,
    out: Path,
    config: ControlConfig,
    network: str = "controlnet",
    cache: Path | None = None,
    trackers: Sequence[str] = (),
) -> tuple[pd.DataFrame, dict]:
    """Train a control for a tuned model and save it into ``out`` unless it holds the same, finished; (history, cost).

    ``model``: folder of the tuned model, None for the foundation itself.

    Raises
    ------
    InputError
        As ``finetune_control`` does.
    """
    check_kind(kind, network)
    data, steered = load_set(data_dir / "train"), model_key(model, foundation)
    val = load_set(data_dir / "val") if (data_dir / "val" / METADATA).exists() else None
    strategy = Strategy(**read_record(model)["strategy"]) if model else find_strategy("zero-shot")
    conditions_of(data, kind)  # before anything is loaded or written
    pipe = load_trained(foundation, model, fuse=True) if model else load_foundation(foundation)
    wanted = control_record(pipe, strategy, steered, kind, network, data, config)

    def tune(training: Path) -> FinetuneResult:
        return finetune_control(pipe, strategy, kind, data, config, training, network, steered, val, cache, trackers)

    return keep_trained(pipe, strategy, out, wanted, tune, (TRACKERS,))


# A network from a condition to the image without diffusion: a regression, which blurs what it cannot know.

CELL = 4  # px: the network works on cells of so many px a side, each px a channel of its own
WIDTHS = (32, 64)
PIXELS = 12  # stream of random starts, next to those of ``sarnb.model.strategy``


class PixelNetwork(nn.Module):
    """diffusers' ``UNet2DModel`` on cells of ``CELL`` px: float [N, inputs, H, W] -> grey [N, 1, H, W]."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        blocks = {"down_block_types": ("DownBlock2D",) * len(WIDTHS), "up_block_types": ("UpBlock2D",) * len(WIDTHS)}
        channels = {"in_channels": inputs * CELL**2, "out_channels": CELL**2, "block_out_channels": WIDTHS}
        self.body = UNet2DModel(**blocks, **channels, layers_per_block=1, norm_num_groups=8, add_attention=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures [N, C, H, W] → images [N, 1, H, W]."""
        cells = nn.functional.pixel_unshuffle(pictures, CELL)
        return nn.functional.pixel_shuffle(self.body(cells, 0).sample, CELL)


def train_pixels(inputs: np.ndarray, kind: str, targets: np.ndarray, config: LoopConfig, out: Path, batch_size: int = 16) -> PixelNetwork:
    """A network that answers conditions by images; resumes from ``out`` if a run of the same identity was cut short.

    Its loss is the mean absolute error, whose best answer is the median of all that a condition leaves open.

    Parameters
    ----------
    inputs : conditions of ``kind``, as ``sarnb.model.control.conditions_of`` gives them.
    targets : images, uint8 [N, H, W].

    Raises
    ------
    InputError
        Another number of inputs than of targets, or none.
    """
    if not len(inputs) or len(inputs) != len(targets):
        raise InputError(f"{len(inputs)} inputs for {len(targets)} targets; give one or more, and a target each")
    size = targets.shape[1:]
    with seeded(config.seed, PIXELS):
        net = PixelNetwork(KINDS[kind])

    def loss(modules: dict[str, nn.Module], step: int, micro: MicroBatch) -> Tensor:
        ids = micro.of(batch_ids(len(inputs), batch_size, config.seed, step))
        device = next(net.parameters()).device
        wanted = torch.from_numpy(targets[ids]).to(device).float() / 127.5 - 1
        return (modules["pixels"](to_condition(inputs[ids], kind, size).to(device))[:, 0].float() - wanted).abs().mean()

    identity = f"pixels {kind}, {content_key(inputs, targets)}, {config}"
    modules, own = {"pixels": net}, out / content_key(identity)  # other settings train anew, next to these
    train_loop(modules, loss, config, own, identity=identity, batch_size=batch_size, label=f"{kind} to image")
    return modules["pixels"].eval().requires_grad_(False)


@torch.no_grad()
def apply_pixels(net: PixelNetwork, inputs: np.ndarray, kind: str, size: tuple[int, int], batch_size: int = 16) -> np.ndarray:
    """The network's answers to conditions: uint8 [N, H, W]."""
    pieces, device = [], next(net.parameters()).device
    for start in range(0, len(inputs), batch_size):
        with autocast():
            answer = net(to_condition(inputs[start : start + batch_size], kind, size).to(device))[:, 0].float()
        pieces.append(((answer + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy())
    return np.concatenate(pieces)
