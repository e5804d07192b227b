"""The judge before and after its training: SAR-CLIP, an image tower and text towers that share an embedding space.

The small one starts from nothing and reads with the foundation's words; another starts from a CLIP of open_clip.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from sarnb import foundation_path, split_foundation
from sarnb.errors import InputError, first_line
from sarnb.model.foundation import FoundationConfig, build_text_tower, load_foundation, to_pixels

SMALL = "small"  # the judge that starts from nothing
SHIPPED = Path(__file__).parent / "sar_clip"  # the study's, see ``sarnb.train.judge.shipped_judge``
WIDTHS = (32, 64, 128, 256)  # channels of the image tower's levels; this project's choice
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"  # open_clip's own names


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
        """[N, C, H, W] → [N, D, H, W], or half as high and wide."""
        return self.body(x) + self.shortcut(x)


class ImageTower(nn.Module):
    """Small residual network: [N, 3, H, W] in [-1, 1] → [N, D]. Means *and* maxima are pooled, for small bright objects."""

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 4, 2, 1)
        levels = zip((WIDTHS[0],) + WIDTHS, WIDTHS)
        self.blocks = nn.Sequential(*(ResidualBlock(i, o, 2 if n else 1) for n, (i, o) in enumerate(levels)))
        self.norm = nn.GroupNorm(8, WIDTHS[-1])
        self.head = nn.Linear(2 * WIDTHS[-1], embedding)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [N, C, H, W] → vectors [N, D], not of unit length yet."""
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
        return self.tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        tower = self.texts[0].config.to_dict()
        (folder / "dual_encoder.json").write_text(json.dumps({"towers": len(self.texts), "tower": tower}, default=str))
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / "dual_encoder.safetensors")

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


def build_dual_encoder(tokenizer: CLIPTokenizer, config: FoundationConfig, towers: int = 1, seed: int = 0) -> DualEncoder:
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


class OpenClipEncoder(TwoTowers):
    """A CLIP of open_clip (ViT-L, SARCLIP or any other): it trains in ``train_clip`` and judges as the small one does."""

    def __init__(self, model: nn.Module, tokenizer: Any, config: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.tokenizer, self.config = model, tokenizer, config
        size = model.visual.image_size
        self.size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        self.register_buffer("mean", torch.tensor(model.visual.image_mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(model.visual.image_std).view(1, -1, 1, 1), persistent=False)

    @property
    def log_scale(self) -> Tensor:
        """ln of the factor on the cosines, a scalar."""
        return self.model.logit_scale

    def image_embeddings(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] → unit vectors [N, D]; resized to what the model takes."""
        pixels = pixels.to(self.log_scale.device)
        if pixels.shape[-2:] != self.size:
            pixels = F.interpolate(pixels, self.size, mode="bicubic", antialias=True, align_corners=False)
        pixels = (pixels.clamp(-1, 1) / 2 + 0.5 - self.mean) / self.std
        return F.normalize(self.model.encode_image(pixels).float(), dim=-1)

    def text_embeddings(self, ids: Tensor) -> list[Tensor]:
        """Token ids [N, T] → unit vectors [N, D], in a list because there is one tower."""
        return [F.normalize(self.model.encode_text(ids.to(self.log_scale.device)).float(), dim=-1)]

    def tokens(self, captions: list[str]) -> Tensor:
        """Padded and cut token ids [N, T]."""
        return self.tokenizer(captions)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and configuration in the layout that open_clip's "local-dir:" reads."""
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(folder)
        (folder / CONFIG).write_text(json.dumps(self.config, indent=1))
        save_file({name: value.contiguous() for name, value in self.model.state_dict().items()}, folder / WEIGHTS)


def load_open_clip(spec: str) -> OpenClipEncoder:
    """A CLIP of open_clip in float32, ready to judge.

    Parameters
    ----------
    spec : a folder in open_clip's layout, "hf-hub:owner/name", or "architecture:weights" where weights is one of open_clip's
        tags or a file, as in "ViT-L-14:openai".

    Raises
    ------
    InputError
        The package is not there, the spec is unknown, or the weights cannot be read.
    """
    try:
        import open_clip
    except ImportError as error:
        raise InputError(f"judge {spec!r} needs the package open_clip_torch; install sarnb[paper], or choose the judge 'small'") from error
    name, weights, folder = spec, None, Path(spec.removeprefix("local-dir:"))
    if folder.is_dir():
        name = f"local-dir:{folder}"
    elif not spec.startswith(("hf-hub:", "local-dir:")):
        name, _, weights = spec.partition(":")
        if not weights:
            raise InputError(f"judge {spec!r}: no such folder; give one in open_clip's layout, hf-hub:owner/name, or architecture:weights")
    try:
        model = open_clip.create_model(name, pretrained=weights, require_pretrained=True)
        tokenizer, config = open_clip.get_tokenizer(name), open_clip.get_model_config(name)
    except Exception as error:  # open_clip raises anything, from RuntimeError to what the hub's client does
        raise InputError(f"judge {spec!r}: open_clip cannot load it ({' '.join(str(error).split())[:200]})") from error
    preprocess = {"mean": list(model.visual.image_mean), "std": list(model.visual.image_std)}
    return OpenClipEncoder(model, tokenizer, {"model_cfg": config, "preprocess_cfg": preprocess}).eval()


def foundation_tokenizer(spec: str = "embedded") -> CLIPTokenizer:
    """The first tokenizer of a foundation, without loading its networks where that is possible.

    ``spec``: what ``load_foundation`` takes.

    Raises
    ------
    InputError
        The foundation has no tokenizer.
    """
    base, _ = split_foundation(spec)
    path = foundation_path() if base == "embedded" else Path(base)
    if path.suffix in (".safetensors", ".ckpt"):
        return load_foundation(spec).tokenizer
    try:
        return CLIPTokenizer.from_pretrained(str(path) if path.exists() else base, subfolder="tokenizer")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f'foundation {spec!r}: its tokenizer cannot be loaded ({first_line(error)}); give "embedded", a diffusers folder, '
            "a single .safetensors file or a hub id that can be reached"
        ) from error


def build_judge(tokenizer: CLIPTokenizer, seed: int = 0) -> DualEncoder:
    """A randomly started judge: one image tower, one text tower as long as the tokenizer's texts.

    It shares words with the foundation but no weight: a judge must not inherit what it judges.
    """
    config = replace(FoundationConfig(), max_tokens=tokenizer.model_max_length)
    return build_dual_encoder(tokenizer, config, seed=seed)


def load_judge(spec: str | Path) -> TwoTowers:
    """A trained judge, frozen as after its training: a folder that ``train_judge`` made, or what ``load_open_clip`` takes.

    Raises
    ------
    InputError
        The judge is missing or damaged.
    """
    folder = Path(spec)
    of_open_clip = (folder / CONFIG).is_file() if folder.is_dir() else ":" in str(spec)
    judge = load_open_clip(str(spec)) if of_open_clip else DualEncoder.load(folder)
    return judge.eval().requires_grad_(False)


def start_judge(spec: str, foundation: str, seed: int = 0) -> TwoTowers:
    """What a judge's training starts from: "small", with the words of ``foundation``, or a CLIP of open_clip."""
    if spec == SMALL:
        return build_judge(foundation_tokenizer(foundation), seed)
    judge = load_open_clip(spec)
    judge.model.set_grad_checkpointing()  # activations computed twice: a batch of a large CLIP then fits on one GPU
    return judge
