"""Contrastive training of a dual encoder on images and captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sarnb.errors import InputError
from sarnb.model.clip import DualEncoder
from sarnb.model.foundation import to_pixels
from sarnb.train.loop import LoopConfig, Share, batch_ids, train_loop


def contrastive_loss(images: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over a batch of unit vectors [B, D] (Radford et al. 2021, figure 3), a scalar."""
    logits = log_scale.exp().clamp(max=100) * images @ texts.T
    targets = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets))


def shifted(images: np.ndarray, rng: np.random.Generator, reach: int = 8) -> np.ndarray:
    """Every image [N, H, W(, 3)] rolled by up to ``reach`` px: the only augmentation that leaves shadows where they fall."""
    moves = rng.integers(-reach, reach + 1, (len(images), 2))
    return np.stack([np.roll(image, tuple(move), axis=(0, 1)) for image, move in zip(images, moves)])


def train_clip(
    encoder: DualEncoder,
    images: np.ndarray,
    captions: list[tuple[str, ...]],
    config: LoopConfig,
    out: Path,
    *,
    batch_size: int = 64,
    label: str = "CLIP",
    identity: str = "",
) -> pd.DataFrame:
    """Train in place on uint8 images [N, H, W] or [N, H, W, 3], each with one or more captions; the history."""
    if len(images) != len(captions):
        raise InputError(f"{len(images)} images but captions for {len(captions)}; give one entry for each image")
    tokens = {caption: None for several in captions for caption in several}
    ids = encoder.tokens(list(tokens))
    rows = {caption: index for index, caption in enumerate(tokens)}
    caption_rows = [[rows[caption] for caption in several] for several in captions]

    def loss(modules: dict[str, nn.Module], step: int, share: Share) -> dict[str, Tensor]:
        if share.count > 1:
            raise InputError(f"{label}: contrastive training compares the whole batch; run it in one process, without micro-batches")
        model = modules["encoder"]
        rng = np.random.default_rng((config.seed, 41, step))
        chosen = batch_ids(len(images), batch_size, config.seed, step)
        text_ids = ids[[caption_rows[i][rng.integers(len(caption_rows[i]))] for i in chosen]]
        pictures = model.image_embeddings(to_pixels(shifted(images[chosen], rng)))
        texts = model.text_embeddings(text_ids)
        value = sum(contrastive_loss(pictures, text, model.log_scale) for text in texts) / len(texts)
        with torch.no_grad():
            hits = (pictures @ texts[0].T).argmax(dim=1) == torch.arange(len(pictures), device=pictures.device)
        return {"loss": value, "retrieval_r1": hits.float().mean()}

    encoder.train().requires_grad_(True)
    history = train_loop(
        {"encoder": encoder}, loss, config, out, batch_size=batch_size, label=label, identity=identity
    )
    encoder.eval().requires_grad_(False)
    return history
