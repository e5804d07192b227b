"""Contrastive training of a dual encoder on images and captions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sarnb.errors import InputError
from sarnb.model.clip import TwoTowers
from sarnb.model.foundation import to_pixels
from sarnb.train.loop import LoopConfig, Share, batch_ids, train_loop


SEPARATION_MARGIN = 0.7  # distance of unit vectors; ours


def contrastive_loss(
    images: Tensor, texts: Tensor, log_scale: Tensor, negatives: Tensor | None = None, present: Tensor | None = None
) -> Tensor:
    """Symmetric cross-entropy over a batch of unit vectors [B, D] (Radford et al. 2021, figure 3), a scalar.

    ``negatives`` [B, K, D]: unit vectors of K captions that are wrong of each image, further columns of its own row only,
    because what is wrong of one image may be true of another (after Yuksekgonul et al., ICLR 2023). ``present`` bool
    [B, K]: which of them there are; all if None.
    """
    scale = log_scale.exp().clamp(max=100)
    logits = scale * images @ texts.T
    targets = torch.arange(len(logits), device=logits.device)
    rows = logits
    if negatives is not None:
        wrong = scale * torch.einsum("bd,bkd->bk", images, negatives)
        if present is not None:
            wrong = wrong.masked_fill(~present, -torch.inf)
        rows = torch.cat([logits, wrong], dim=1)
    return 0.5 * (F.cross_entropy(rows, targets) + F.cross_entropy(logits.T, targets))


def separation_loss(texts: Tensor, negatives: Tensor, present: Tensor, margin: float = SEPARATION_MARGIN) -> Tensor:
    """Mean of max(0, margin - distance) over captions [B, D] and those of their wrong ones [B, K, D] that are ``present``.

    A text tower may start with one vector for a caption and its contrary; the contrastive loss then has no gradient that parts
    them. The distance has, and the margin leaves them alone once they are apart. 0 where none is present.
    """
    gaps = ((texts.unsqueeze(1) - negatives).square().sum(dim=-1) + 1e-6).sqrt()
    short = F.relu(margin - gaps) * present
    return short.sum() / present.sum().clamp(min=1)


def drawn_negatives(rows: list[list[int]], count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``count`` of the wrong captions of each image: ids [B, count] of ``rows`` [B][any number], and which of them there are.

    Where an image has fewer, all of them come first and the rest is 0 and absent.
    """
    ids, present = np.zeros((len(rows), count), int), np.zeros((len(rows), count), bool)
    for place, several in enumerate(rows):
        chosen = rng.permutation(several)[:count]
        ids[place, : len(chosen)], present[place, : len(chosen)] = chosen, True
    return ids, present


def shifted(images: np.ndarray, rng: np.random.Generator, reach: int = 8) -> np.ndarray:
    """Every image [N, H, W(, 3)] rolled by up to ``reach`` px: the only augmentation that leaves shadows where they fall."""
    moves = rng.integers(-reach, reach + 1, (len(images), 2))
    return np.stack([np.roll(image, tuple(move), axis=(0, 1)) for image, move in zip(images, moves)])


def train_clip(
    encoder: TwoTowers,
    images: np.ndarray,
    captions: list[tuple[str, ...]],
    config: LoopConfig,
    out: Path,
    *,
    batch_size: int = 64,
    label: str = "CLIP",
    identity: str = "",
    negatives: Mapping[str, tuple[str, ...]] | None = None,
    negatives_per_image: int = 1,
    separation: float = 0.0,
    mirrors: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Train in place on uint8 images [N, H, W] or [N, H, W, 3], each with one or more captions; the history.

    ``negatives``: captions that are wrong of whatever a caption describes, as ``sarnb.world.contrary.contrary_table`` makes
    them; each image of a step meets ``negatives_per_image`` of those of its caption. The history's ``contrary_r1`` is the
    share of images that are nearer to their caption than to these (NaN where a step had none). ``separation`` weighs
    ``separation_loss``, which parts the texts themselves. ``mirrors``: captions of the mirrored pictures, as
    ``sarnb.world.contrary.mirror_table`` makes them; half of the batch are then mirror images of the other half, where the
    caption drawn has one: a pair that nothing but the side tells apart. Without ``negatives`` the
    training is the same as if there were no such argument. Raises ``InputError`` unless images and captions agree in number.
    """
    if len(images) != len(captions):
        raise InputError(f"{len(images)} images but captions for {len(captions)}; give one entry for each image")
    tokens = {caption: None for several in captions for caption in several}
    mirrors = {caption: mirrors[caption] for caption in tokens if caption in mirrors} if mirrors else {}
    tokens |= dict.fromkeys(mirrors.values())
    negatives = {caption: negatives[caption] for caption in tokens if negatives.get(caption)} if negatives else {}
    tokens |= {wrong: None for several in negatives.values() for wrong in several}
    ids = encoder.tokens(list(tokens))
    rows = {caption: index for index, caption in enumerate(tokens)}
    caption_rows = [[rows[caption] for caption in several] for several in captions]
    mirror_rows = {rows[caption]: rows[turned] for caption, turned in mirrors.items()}
    wrong_rows = {rows[caption]: [rows[wrong] for wrong in several] for caption, several in negatives.items()}

    def loss(modules: dict[str, nn.Module], step: int, share: Share) -> dict[str, Tensor]:
        if share.count > 1:
            raise InputError(f"{label}: contrastive training compares the whole batch; run it in one process, without micro-batches")
        model = modules["encoder"]
        rng = np.random.default_rng((config.seed, 41, step))
        chosen = batch_ids(len(images), max(1, batch_size // 2) if mirror_rows else batch_size, config.seed, step)
        drawn = [caption_rows[i][rng.integers(len(caption_rows[i]))] for i in chosen]
        moved = shifted(images[chosen], rng)
        if turned := [place for place, row in enumerate(drawn) if row in mirror_rows]:
            moved = np.concatenate([moved, moved[turned, :, ::-1]])
            drawn += [mirror_rows[drawn[place]] for place in turned]
        pictures = model.image_embeddings(to_pixels(moved))
        if not wrong_rows:
            texts, wrong, present = model.text_embeddings(ids[drawn]), None, None
        else:
            choices = [wrong_rows.get(row, []) for row in drawn]
            wrong_ids, present = drawn_negatives(choices, negatives_per_image, np.random.default_rng((config.seed, 43, step)))
            present = torch.from_numpy(present).to(pictures.device)
            several = model.text_embeddings(ids[[*drawn, *wrong_ids.ravel()]])
            texts = [part[: len(drawn)] for part in several]
            wrong = [part[len(drawn) :].unflatten(0, wrong_ids.shape) for part in several]
        pairs = zip(texts, wrong or [None] * len(texts))
        value = sum(contrastive_loss(pictures, text, model.log_scale, other, present) for text, other in pairs) / len(texts)
        if separation and wrong is not None:
            apart = [separation_loss(text, other, present) for text, other in zip(texts, wrong)]
            value = value + separation * sum(apart) / len(apart)
        with torch.no_grad():
            hits = (pictures @ texts[0].T).argmax(dim=1) == torch.arange(len(pictures), device=pictures.device)
            figures = {"loss": value, "retrieval_r1": hits.float().mean()}
            if wrong_rows:
                own = (pictures * texts[0]).sum(dim=1, keepdim=True)
                beaten = (own > torch.einsum("bd,bkd->bk", pictures, wrong[0])) | ~present
                figures["contrary_r1"] = beaten.all(dim=1)[present.any(dim=1)].float().mean()
        return figures

    encoder.train().requires_grad_(True)
    history = train_loop(
        {"encoder": encoder}, loss, config, out, batch_size=batch_size, label=label, identity=identity
    )
    encoder.eval().requires_grad_(False)
    return history
