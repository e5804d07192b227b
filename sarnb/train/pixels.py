"""A network from a condition to the image without diffusion: a regression, which blurs what it cannot know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from sarnb.data.files import content_key
from sarnb.errors import InputError
from sarnb.model.control import KINDS, to_condition
from sarnb.model.strategy import seeded
from sarnb.train.loop import MicroBatch, batch_ids, train_loop
from sarnb.train.machine import autocast
from sarnb.train.state import LoopConfig

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
    modules = {"pixels": net}
    train_loop(modules, loss, config, out, identity=identity, batch_size=batch_size, label=f"{kind} to image")
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
