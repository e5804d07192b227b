"""Networks from picture to picture without diffusion: a reader of land cover, and a regression, which blurs what it cannot know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from sarnb.data.files import content_key
from sarnb.errors import InputError
from sarnb.model.control import to_condition
from sarnb.model.strategy import seeded
from sarnb.train.loop import MicroBatch, batch_ids, train_loop
from sarnb.train.machine import autocast
from sarnb.train.state import LoopConfig

CELL = 4  # px: the network works on cells of so many px a side, each px a channel of its own
WIDTHS = (48, 96)
PIXELS = 12  # stream of random starts, next to those of ``sarnb.model.strategy``


class PixelNetwork(nn.Module):
    """diffusers' ``UNet2DModel`` on cells of ``CELL`` px: float [N, inputs, H, W] -> [N, outputs, H, W]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        blocks = {"down_block_types": ("DownBlock2D",) * len(WIDTHS), "up_block_types": ("UpBlock2D",) * len(WIDTHS)}
        channels = {"in_channels": inputs * CELL**2, "out_channels": outputs * CELL**2, "block_out_channels": WIDTHS}
        self.body = UNet2DModel(**blocks, **channels, layers_per_block=1, norm_num_groups=8, add_attention=False)

    def forward(self, pictures: Tensor) -> Tensor:
        cells = nn.functional.pixel_unshuffle(pictures, CELL)
        return nn.functional.pixel_shuffle(self.body(cells, 0).sample, CELL)


def train_pixels(
    inputs: np.ndarray, kind: str, targets: np.ndarray, classes: int, config: LoopConfig, out: Path, batch_size: int = 16
) -> PixelNetwork:
    """A network that reads ``targets`` off ``inputs``; resumes from ``out`` if a run of the same identity was cut short.

    Parameters
    ----------
    inputs : uint8 pictures of ``kind``: a condition of ``sarnb.model.control``, or "" for grey images [N, H, W].
    targets : uint8 [N, H, W]: codes below ``classes``, learned by cross-entropy, or with 0 ``classes`` grey levels, by the mean
        absolute error, whose best answer is the median of all that a picture leaves open.

    Raises
    ------
    InputError
        Another number of inputs than of targets, or none.
    """
    if not len(inputs) or len(inputs) != len(targets):
        raise InputError(f"{len(inputs)} inputs for {len(targets)} targets; give one or more, and a target each")
    size = targets.shape[1:]
    with seeded(config.seed, PIXELS):
        net = PixelNetwork(see(inputs[:1], kind, size).shape[1], classes or 1)

    def loss(modules: dict[str, nn.Module], step: int, micro: MicroBatch) -> Tensor:
        ids = micro.of(batch_ids(len(inputs), batch_size, config.seed, step))
        device = next(net.parameters()).device
        answer, wanted = modules["pixels"](see(inputs[ids], kind, size).to(device)), torch.from_numpy(targets[ids]).to(device)
        if classes:
            return nn.functional.cross_entropy(answer.float(), wanted.long())
        return (answer[:, 0].float() - (wanted.float() / 127.5 - 1)).abs().mean()

    identity = f"pixels {kind or 'image'}, {content_key(inputs, targets)}, {config}"
    modules, label = {"pixels": net}, f"{kind or 'image'} to {'cover' if classes else 'image'}"
    train_loop(modules, loss, config, out, identity=identity, batch_size=batch_size, label=label)
    return modules["pixels"].eval().requires_grad_(False)


@torch.no_grad()
def apply_pixels(net: PixelNetwork, inputs: np.ndarray, kind: str, size: tuple[int, int], batch_size: int = 16) -> np.ndarray:
    """Codes, or with one output grey levels, that the network reads off the pictures: uint8 [N, H, W]."""
    pieces, device = [], next(net.parameters()).device
    for start in range(0, len(inputs), batch_size):
        with autocast():
            answer = net(see(inputs[start : start + batch_size], kind, size).to(device)).float()
        read = answer.argmax(1) if answer.shape[1] > 1 else ((answer[:, 0] + 1) * 127.5).round().clamp(0, 255)
        pieces.append(read.to(torch.uint8).cpu().numpy())
    return np.concatenate(pieces)


def see(pictures: np.ndarray, kind: str, size: tuple[int, int]) -> Tensor:
    """What the network sees: a condition in [0, 1], or a grey image in [-1, 1]."""
    return to_condition(pictures, kind, size) if kind else torch.from_numpy(pictures).float().unsqueeze(1) / 127.5 - 1
