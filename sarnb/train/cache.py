"""What frozen networks compute is computed once: VAE posteriors of images, text embeddings of captions.

A cache file is named by its content and by the weights that made it, so it can be stale for no one and is shared by all
strategies and processes. It is written piece by piece and mapped into memory instead of read (``sarnb.train.cache``), so a
set may be larger than the memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sarnb.data.files import locked
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
        """The latents of both sets, this one's first. Raises ``InputError`` if two autoencoders made them."""
        _same_vae("cached latents", other.vae, self.vae)
        return LatentCache(self.mean, self.std, self.vae, other)

    def check(self, vae: nn.Module) -> None:
        """Raise ``InputError`` if another autoencoder than ``vae`` made these latents: its decoder reads them differently."""
        _same_vae("cached latents", self.vae, fingerprint(vae))

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

    Raises ``InputError`` for an image size that the VAE cannot divide, a full disk, and a file that another VAE made.
    """
    vae = fingerprint(pipe.vae)

    several = max(1, PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))

    def make() -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(images), several):
            yield dict(zip(("mean", "std"), encode_posterior(pipe.vae, images[start : start + several])))

    if folder is None:
        return LatentCache(**_together(make()), vae=vae)
    path = folder / f"latents-{content_key(images, vae)}.safetensors"
    tensors = stored_rows(path, make, len(images), {"vae": vae})
    with safe_open(path, framework="pt") as file:
        _same_vae(str(path), (file.metadata() or {}).get("vae", vae), vae)
    return LatentCache(**tensors, vae=vae)


def _together(pieces: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    """All pieces in memory."""
    kept = list(pieces)
    return {name: torch.cat([piece[name] for piece in kept]) for name in kept[0]}


def _same_vae(what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise InputError(
            f"{what}: made by the autoencoder {found[:16]}, but {wanted[:16]} is used here; encode the images again "
            "(delete the file, if it is one)"
        )


def cache_text(pipe: StableDiffusionXLPipeline, captions: Sequence[str], folder: Path | None, batch_size: int = 64) -> TextCache:
    """Embeddings of the different captions among ``captions``, and of the empty one."""
    unique = sorted({"", *captions})

    def make() -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(unique), batch_size):
            with torch.no_grad():
                hidden, pooled = encode_prompts(pipe, unique[start : start + batch_size])
            yield {"hidden": hidden.cpu(), "pooled": pooled.cpu()}

    rows = {caption: row for row, caption in enumerate(unique)}
    if folder is None:
        return TextCache(rows=rows, **_together(make()))
    key = content_key(*unique, *_text_makers(pipe, unique))
    return TextCache(rows=rows, **stored_rows(folder / f"text-{key}.safetensors", make, len(unique)))


def _text_makers(pipe: StableDiffusionXLPipeline, captions: list[str]) -> Iterator[str | np.ndarray]:
    """What the embeddings of ``captions`` depend on beside themselves.

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


# Large tables of tensors on disk: written piece by piece, by one process, and mapped into memory instead of read.

TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
Pieces = Iterable[dict[str, Tensor]]


def stored_rows(path: Path, make: Callable[[], Pieces], count: int, about: dict[str, str] | None = None) -> dict[str, Tensor]:
    """The tensors of ``path``, mapped; made and written first where the file is missing or damaged.

    ``make()`` gives pieces {name: [b, ...]} whose rows add up to ``count``; no two are in memory at once. Of several
    processes that want the same file one makes it and the others wait. The file is renamed into place when it is whole, so a
    process that dies leaves nothing that could be taken for a table.

    Raises ``InputError`` when the disk is full.
    """
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError):
        pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            try:
                return load_file(path)  # another process has made it meanwhile
            except (FileNotFoundError, SafetensorError):
                for left in path.parent.glob(f"{path.name}.*.tmp"):  # of a process that died: the living hold the lock
                    left.unlink()
                _write(path, make(), count, about or {})
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: the cache could not be saved ({error}); free some disk space and run again") from error
    return load_file(path)


def _write(path: Path, pieces: Pieces, count: int, about: dict[str, str]) -> None:
    temporary, written, starts = path.with_name(f"{path.name}.{os.getpid()}.tmp"), 0, {}
    try:
        with open(temporary, "wb") as file:
            for piece in pieces:
                if not starts:
                    starts = _write_header(file, piece, count, about)
                for name, rows in piece.items():
                    rows = rows.detach().cpu().contiguous()
                    file.seek(starts[name] + written * rows[0].nbytes)
                    file.write(rows.view(torch.uint8).numpy().data)
                written += len(rows)
            if written != count:
                raise ValueError(f"{path}: {written} rows were made where {count} were announced")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_header(file, piece: dict[str, Tensor], count: int, about: dict[str, str]) -> dict[str, int]:
    """Name, type, shape and place of every tensor, after the first piece; name → where its bytes start in the file."""
    header: dict[str, dict] = {"__metadata__": about} if about else {}
    places, end = {}, 0
    for name, rows in piece.items():
        places[name], start = end, end
        end += count * rows[0].nbytes
        header[name] = {"dtype": TYPES[rows.dtype], "shape": [count, *rows.shape[1:]], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    return {name: 8 + len(text) + place for name, place in places.items()}
