"""What frozen networks compute is computed once: VAE posteriors of images, text embeddings of captions.

A cache file is named by its content and by the weights that made it, so it can be stale for no one and may be shared by
all strategies. It is one safetensors file, renamed into place, and mapped into memory instead of read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sarnb.errors import InputError
from sarnb.model.foundation import encode_posterior, encode_prompts, fingerprint


@dataclass(frozen=True)
class LatentCache:
    """Posterior mean and standard deviation of the VAE, each [N, C, h, w], not normalised.

    Both are kept, not one sample, so that every step draws its own latents as it would without a cache.
    """

    mean: Tensor
    std: Tensor

    def joined(self, other: LatentCache) -> LatentCache:
        """The latents of both sets, this one's first."""
        return LatentCache(torch.cat([self.mean, other.mean]), torch.cat([self.std, other.std]))

    def sample(self, ids: np.ndarray, generator: torch.Generator) -> Tensor:
        """One draw of the posterior for each image in ``ids``, [len(ids), C, h, w]."""
        mean, std = self.mean[ids], self.std[ids]
        return mean + std * torch.randn(mean.shape, generator=generator)


@dataclass(frozen=True)
class TextCache:
    """Embeddings of every caption once: ``hidden`` [U, T, D], ``pooled`` [U, P], and each caption's row."""

    hidden: Tensor
    pooled: Tensor
    rows: dict[str, int]

    def look_up(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings of ``captions``: [B, T, D] and [B, P]."""
        index = torch.tensor([self.rows[caption] for caption in captions])
        return self.hidden[index], self.pooled[index]


def content_key(*parts: str | bytes | np.ndarray) -> str:
    """Sixteen hex digits of the SHA-256 of the parts, each with its length: no two lists of parts collide by joining."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            data: bytes | memoryview = np.ascontiguousarray(part).data
        else:
            data = part.encode() if isinstance(part, str) else part
        digest.update(f"{memoryview(data).nbytes}:".encode())
        digest.update(data)
    return digest.hexdigest()[:16]


def cache_latents(pipe: StableDiffusionXLPipeline, images: np.ndarray, folder: Path | None) -> LatentCache:
    """Posteriors of uint8 images [N, H, W] or [N, H, W, 3]; read from ``folder`` where they are, else made and kept.

    Raises ``InputError`` for an image size that the VAE cannot divide, and a full disk.
    """

    def make() -> dict[str, Tensor]:
        mean, std = encode_posterior(pipe.vae, images)
        return {"mean": mean, "std": std}

    if folder is None:
        return LatentCache(**make())
    key = content_key(images, fingerprint(pipe.vae))
    return LatentCache(**_stored(folder / f"latents-{key}.safetensors", make))


def cache_text(
    pipe: StableDiffusionXLPipeline, captions: Sequence[str], folder: Path | None, batch_size: int = 64
) -> TextCache:
    """Embeddings of the different captions among ``captions``, and of the empty one."""
    unique = sorted({"", *captions})

    @torch.no_grad()
    def make() -> dict[str, Tensor]:
        pieces = [encode_prompts(pipe, unique[start : start + batch_size]) for start in range(0, len(unique), batch_size)]
        hidden, pooled = (torch.cat([piece.cpu() for piece in part]) for part in zip(*pieces))
        return {"hidden": hidden, "pooled": pooled}

    rows = {caption: row for row, caption in enumerate(unique)}
    if folder is None:
        return TextCache(rows=rows, **make())
    weights = fingerprint(pipe.text_encoder), fingerprint(pipe.text_encoder_2)
    words = (repr(sorted(tokenizer.get_vocab().items())) for tokenizer in (pipe.tokenizer, pipe.tokenizer_2))
    key = content_key(*unique, *weights, *words)
    return TextCache(rows=rows, **_stored(folder / f"text-{key}.safetensors", make))


def text_cache_bytes(pipe: StableDiffusionXLPipeline, captions: Sequence[str]) -> int:
    """Size of ``cache_text``'s tensors before they are made."""
    tokens = pipe.tokenizer.model_max_length
    width = pipe.text_encoder.config.hidden_size + pipe.text_encoder_2.config.hidden_size
    pooled = pipe.text_encoder_2.config.projection_dim
    return len({"", *captions}) * (tokens * width + pooled) * pipe.text_encoder.dtype.itemsize


def _stored(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of ``path``; made and written first where the file is missing or damaged."""
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError):
        tensors = {name: value.contiguous() for name, value in make().items()}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: the cache could not be saved ({error}); free some disk space and run again") from error
    return load_file(path)
