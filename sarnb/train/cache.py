"""What frozen networks compute is computed once: VAE posteriors of images, text embeddings of captions.

A cache is named by its content and by the weights that made it, so it can be stale for no one and is shared by all
strategies and processes. It is written piece by piece and mapped into memory instead of read, so a set may be larger than
the memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from sarnb.data.files import content_key, kept
from sarnb.errors import InputError
from sarnb.model.foundation import encode_posterior, encode_prompts, fingerprint

PIXELS_AT_ONCE = 32 * 128**2  # encoded together; a few large images would take more memory than training itself


@dataclass(frozen=True)
class LatentCache:
    """Posterior mean and standard deviation of the VAE, each [N, C, h, w], not normalised.

    Both are kept, not one sample, so that every step draws its own latents as it would without a cache. ``vae`` is the
    fingerprint of the autoencoder that made them, ``tail`` the latents whose rows follow (of another file).
    """

    mean: Tensor
    std: Tensor
    vae: str
    tail: LatentCache | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one latent: (C, h, w)."""
        return tuple(self.mean.shape[1:])

    def joined(self, other: LatentCache) -> LatentCache:
        """The latents of both sets, this one's first.

        Raises
        ------
        InputError
            Two autoencoders made the latents.
        """
        other.check(self.vae)
        return LatentCache(self.mean, self.std, self.vae, other)

    def check(self, vae: str) -> None:
        """Raise ``InputError`` if an autoencoder of another fingerprint than ``vae`` made these latents: its decoder reads them
        differently.
        """
        if self.vae != vae:
            raise InputError(
                f"cached latents: made by the autoencoder {self.vae[:16]}, but {vae[:16]} is used here; encode the images again"
            )

    def sample(self, ids: np.ndarray, generator: torch.Generator) -> Tensor:
        """One draw of the posterior for each image in ``ids``, [len(ids), C, h, w]."""
        mean, std = self.rows(np.asarray(ids))
        return mean + std * torch.randn(mean.shape, generator=generator)

    def rows(self, ids: np.ndarray) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the images in ``ids``, each [len(ids), C, h, w]; only they are read."""
        if self.tail is None:
            return self.mean[ids], self.std[ids]
        behind = ids >= len(self.mean)
        mean, std = self.mean.new_empty(len(ids), *self.shape), self.std.new_empty(len(ids), *self.shape)
        mean[~behind], std[~behind] = self.mean[ids[~behind]], self.std[ids[~behind]]
        mean[behind], std[behind] = self.tail.rows(ids[behind] - len(self.mean))
        return mean, std


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


def cache_latents(pipe: StableDiffusionXLPipeline, images: np.ndarray, folder: Path | None, digest: str | None = None) -> LatentCache:
    """Posteriors of uint8 images [N, H, W] or [N, H, W, 3]; read from ``folder`` where they are, else made and kept.

    ``digest``: of the images, where it is known.

    Raises
    ------
    InputError
        An image size that the VAE cannot divide, and a full disk.
    """
    vae = fingerprint(pipe.vae)
    several = max(1, PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))

    def make() -> Batches:
        for start in range(0, len(images), several):
            mean, std = encode_posterior(pipe.vae, images[start : start + several])
            yield {"mean": mean, "std": std}

    key = {"images": digest or content_key(images), "vae": vae} if folder else {}
    return LatentCache(**tensor_store(folder, "latents", key, make, len(images)), vae=vae)


def cache_text(pipe: StableDiffusionXLPipeline, captions: Sequence[str], folder: Path | None, batch_size: int = 64) -> TextCache:
    """Embeddings of the different captions among ``captions``, and of the empty one."""
    unique = sorted({"", *captions})

    def make() -> Batches:
        for start in range(0, len(unique), batch_size):
            with torch.no_grad():
                hidden, pooled = encode_prompts(pipe, unique[start : start + batch_size])
            yield {"hidden": hidden, "pooled": pooled}

    key = {"captions and encoders": content_key(*unique, *_text_makers(pipe, unique))} if folder else {}
    rows = {caption: row for row, caption in enumerate(unique)}
    return TextCache(rows=rows, **tensor_store(folder, "text", key, make, len(unique)))


def _text_makers(pipe: StableDiffusionXLPipeline, captions: list[str]) -> Iterator[str | np.ndarray]:
    """What the embeddings of ``captions`` depend on besides their words.

    Weights and words alone do not tell foundations apart that pad, cut or split captions differently, or compute otherwise.
    """
    for tokenizer, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)):
        yield fingerprint(encoder)
        settings = ("hidden_act", "num_attention_heads", "layer_norm_eps", "eos_token_id")
        yield repr([getattr(encoder.config, name) for name in settings])
        yield repr(sorted(tokenizer.get_vocab().items()))
        length = tokenizer.model_max_length
        yield np.array(tokenizer(captions, padding="max_length", max_length=length, truncation=True).input_ids)


def text_cache_bytes(pipe: StableDiffusionXLPipeline, captions: Sequence[str]) -> int:
    """Size of ``cache_text``'s tensors before they are made."""
    tokens = pipe.tokenizer.model_max_length
    width = pipe.text_encoder.config.hidden_size + pipe.text_encoder_2.config.hidden_size
    pooled = pipe.text_encoder_2.config.projection_dim
    return len({"", *captions}) * (tokens * width + pooled) * pipe.text_encoder.dtype.itemsize


# The tensor store: tables of tensors on disk, written piece by piece and mapped into memory instead of read.

Batches = Iterator[dict[str, Tensor]]


def tensor_store(folder: Path | None, kind: str, key: dict[str, str], make: Callable[[], Batches], count: int) -> dict[str, Tensor]:
    """The tensors of ``key`` below ``folder``, each mapped from an .npy file of its own; made first where they are not there.

    Parameters
    ----------
    folder : None keeps all pieces in memory.
    kind : how their folder's name begins.
    make : gives pieces {name: [b, ...]} whose rows add up to ``count``; no two of them are in memory at once.

    Raises
    ------
    InputError
        The disk is full.
    """
    if folder is None:
        pieces = list(make())
        return {name: torch.cat([piece[name] for piece in pieces]).cpu() for name in pieces[0]}
    place = Path(folder) / f"{kind}-{content_key(json.dumps(key))}"

    def write() -> dict[str, dict[str, str]]:
        shutil.rmtree(place, ignore_errors=True)  # of a process that died, or damaged; others that mapped it keep their files
        place.mkdir()
        try:
            return {"types": _write(place, make(), count)}
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise

    def load(note: dict) -> dict[str, Tensor]:
        arrays = {name: np.lib.format.open_memmap(place / f"{name}.npy", mode="c") for name in note["types"]}
        return {name: torch.from_numpy(array).view(getattr(torch, note["types"][name])) for name, array in arrays.items()}

    return kept(place, key, write, load)


def _write(place: Path, pieces: Batches, count: int) -> dict[str, str]:
    """Write the rows of all pieces; name -> type. A file is mapped for one piece at a time, so that it takes no memory."""
    types, written, rows = {}, 0, ()
    for piece in pieces:
        for name, rows in piece.items():
            rows = rows.detach().cpu().contiguous()
            path, values = place / f"{name}.npy", rows.view(torch.int16) if rows.dtype == torch.bfloat16 else rows
            mode, start = ("r+", written) if name in types else ("w+", 0)
            types[name] = str(rows.dtype).removeprefix("torch.")
            array = np.lib.format.open_memmap(path, mode, values.numpy().dtype, (count, *rows.shape[1:]))
            if mode == "w+" and hasattr(
                os, "posix_fallocate"
            ):  # a full disk is an error here, but would kill a process that writes into a mapping
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            array[start : start + len(rows)] = values.numpy()
        written += len(rows)
    if written != count:
        raise ValueError(f"{place}: {written} rows were made where {count} were announced")
    for name in types:
        with open(place / f"{name}.npy", "rb") as file:
            os.fsync(file.fileno())
    return types
