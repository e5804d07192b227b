"""A dual encoder: one image tower and one or more CLIP text towers that share an embedding space.

With two text towers it pretrains the foundation's; with one, trained on SAR, it is the judge (SAR-CLIP).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from sarnb.errors import InputError
from sarnb.model.foundation import FoundationConfig, build_text_tower, to_pixels

WIDTHS = (32, 64, 128, 256)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm around a shortcut; the first one may halve the size."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, inputs),
            nn.SiLU(),
            nn.Conv2d(inputs, outputs, 3, stride, 1),
            nn.GroupNorm(8, outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class ImageTower(nn.Module):
    """Small residual network: [N, 3, H, W] in [-1, 1] → [N, D]. Means *and* maxima are pooled, for small bright objects."""

    def __init__(self, embedding: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 4, 2, 1)
        levels = zip((widths[0],) + widths, widths)
        self.blocks = nn.Sequential(*(ResidualBlock(i, o, 2 if n else 1) for n, (i, o) in enumerate(levels)))
        self.norm = nn.GroupNorm(8, widths[-1])
        self.head = nn.Linear(2 * widths[-1], embedding)

    def forward(self, pixels: Tensor) -> Tensor:
        features = F.silu(self.norm(self.blocks(self.stem(pixels))))
        return self.head(torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1))


class TwoTowers(nn.Module):
    """What training and judging ask of a dual encoder; ``embed_images`` and ``embed_texts`` follow from the rest.

    A subclass has ``image_embeddings``, ``text_embeddings``, ``tokens``, ``log_scale`` (ln of the factor on the cosines) and
    ``save``.
    """

    @torch.no_grad()
    def embed_images(self, images: np.ndarray, batch_size: int = 64) -> Tensor:
        """uint8 [N, H, W] or [N, H, W, 3] → unit vectors [N, D]."""
        self.eval()
        pieces = range(0, len(images), batch_size)
        return torch.cat([self.image_embeddings(to_pixels(images[i : i + batch_size])) for i in pieces])

    @torch.no_grad()
    def embed_texts(self, captions: list[str], batch_size: int = 64) -> Tensor:
        """Captions → unit vectors [N, D]; with several towers, their normalised mean."""
        self.eval()
        pieces = [captions[i : i + batch_size] for i in range(0, len(captions), batch_size)]
        means = [torch.stack(self.text_embeddings(self.tokens(piece))).mean(dim=0) for piece in pieces]
        return F.normalize(torch.cat(means), dim=-1)


class DualEncoder(TwoTowers):
    """Image tower and text towers with one learned temperature (Radford et al. 2021)."""

    def __init__(self, towers: list[CLIPTextModelWithProjection], tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.image = ImageTower(towers[0].config.projection_dim)
        self.texts = nn.ModuleList(towers)
        self.log_scale = nn.Parameter(torch.tensor(2.659))  # ln(1 / 0.07), CLIP's start
        self.tokenizer = tokenizer

    def image_embeddings(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W] → unit vectors [N, D]."""
        return F.normalize(self.image(pixels.to(self.log_scale.device)).float(), dim=-1)

    def text_embeddings(self, ids: Tensor) -> list[Tensor]:
        """Token ids [N, T] → unit vectors [N, D], one tensor a tower."""
        ids = _trimmed(ids).to(self.log_scale.device)
        return [F.normalize(tower(ids).text_embeds.float(), dim=-1) for tower in self.texts]

    def tokens(self, captions: list[str]) -> Tensor:
        """Padded and cut token ids [N, T]."""
        length = self.tokenizer.model_max_length
        return self.tokenizer(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        tower = self.texts[0].config.to_dict()
        (folder / "dual_encoder.json").write_text(json.dumps({"towers": len(self.texts), "tower": tower}, default=str))
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / "dual_encoder.safetensors")

    @classmethod
    def load(cls, folder: Path) -> DualEncoder:
        """Read what ``save`` wrote; ``InputError`` if it is missing or damaged."""
        try:
            description = json.loads((folder / "dual_encoder.json").read_text())
            weights = load_file(folder / "dual_encoder.safetensors")
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise InputError(f"{folder}: no readable dual encoder ({error}); train it with notebook 03") from error
        config = CLIPTextConfig(**description["tower"])
        towers = [CLIPTextModelWithProjection(config) for _ in range(description["towers"])]
        model = cls(towers, CLIPTokenizer.from_pretrained(folder))
        model.load_state_dict(weights)
        return model.eval()


def build_dual_encoder(
    tokenizer: CLIPTokenizer, towers: int = 1, config: FoundationConfig = FoundationConfig(), seed: int = 0
) -> DualEncoder:
    """A randomly started dual encoder whose weights depend on ``seed`` only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DualEncoder([build_text_tower(config, tokenizer) for _ in range(towers)], tokenizer)


def _trimmed(ids: Tensor) -> Tensor:
    """Token ids [N, T] without the columns that are padding in every row, but for one; the attention is causal, so nothing changes.

    CLIP pads either with the end token itself or with another one: what the last column holds is padding.
    """
    padding = ids[:, -1:]
    used = int((ids != padding).sum(dim=1).max()) + 2 if len(ids) else ids.shape[1]
    return ids[:, :used]
