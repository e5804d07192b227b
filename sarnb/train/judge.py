"""Training of the judge (SAR-CLIP), once: a finished one is read back, one that was cut short goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from sarnb.data.dataset import ImageSet
from sarnb.data.files import saving, write_json
from sarnb.errors import InputError
from sarnb.model.foundation import to_pixels
from sarnb.model.judge import SMALL, TwoTowers, load_judge, start_judge
from sarnb.train.cache import content_key
from sarnb.train.loop import Loss, MicroBatch, batch_ids, train_loop
from sarnb.train.machine import peak_memory_mb, plain_attention, reset_peak_memory
from sarnb.train.state import LoopConfig
from sarnb.world.hard_negatives import contrary_table, mirror_table

# Contrastive training of a dual encoder on images and captions.

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

    A text tower may start with one vector for a caption and its contrary; the contrastive loss then has no gradient that
    parts them. The distance has, and the margin leaves them alone once they are apart. 0 where none is present.
    """
    gaps = ((texts.unsqueeze(1) - negatives).square().sum(dim=-1) + 1e-6).sqrt()
    short = F.relu(margin - gaps) * present
    return short.sum() / present.sum().clamp(min=1)


def towers_loss(
    images: Tensor,
    texts: list[Tensor],
    log_scale: Tensor,
    negatives: list[Tensor] | None,
    present: Tensor | None,
    separation: float,
) -> Tensor:
    """Mean over the text towers of ``contrastive_loss`` plus ``separation`` times ``separation_loss``, a scalar.

    ``texts`` and ``negatives``: what each tower makes of the captions, [B, D], and of the wrong ones, [B, K, D].
    """
    pairs = zip(texts, negatives or [None] * len(texts))
    value = sum(contrastive_loss(images, text, log_scale, wrong, present) for text, wrong in pairs) / len(texts)
    if separation and negatives is not None:
        apart = [separation_loss(text, wrong, present) for text, wrong in zip(texts, negatives)]
        value = value + separation * sum(apart) / len(apart)
    return value


def retrieval_r1(images: Tensor, texts: Tensor) -> Tensor:
    """Share of images [B, D] whose nearest text of the batch [B, D] is their own."""
    hits = (images @ texts.T).argmax(dim=1) == torch.arange(len(images), device=images.device)
    return hits.float().mean()


def contrary_r1(images: Tensor, texts: Tensor, negatives: Tensor, present: Tensor) -> Tensor:
    """Share of images [B, D] that are nearer to their text [B, D] than to all of their wrong ones [B, K, D].

    Of those images that have a wrong one at all, as ``present`` [B, K] says; NaN if none has.
    """
    own = (images * texts).sum(dim=1, keepdim=True)
    beaten = (own > torch.einsum("bd,bkd->bk", images, negatives)) | ~present
    return beaten.all(dim=1)[present.any(dim=1)].float().mean()


@dataclass(frozen=True)
class CaptionTable:
    """Every different text of a training once, and which belong together, by their number in ``texts``."""

    texts: list[str]
    captions: list[list[int]]  # of each image
    negatives: dict[int, list[int]]  # text → those that are wrong of what it describes, where there are any
    mirrors: dict[int, int]  # text → that of the mirrored picture, where there is one
    text_only: dict[int, list[int]]  # text of no picture here → those that are wrong of what it describes


def caption_table(
    captions: list[tuple[str, ...]],
    negatives: Mapping[str, tuple[str, ...]] | None = None,
    mirrors: Mapping[str, str] | None = None,
    text_only: Mapping[str, tuple[str, ...]] | None = None,
) -> CaptionTable:
    """The table of the images' captions; of ``negatives`` and ``mirrors`` what concerns them (see ``train_clip``)."""
    texts = {caption: None for several in captions for caption in several}
    mirrors = {caption: mirrors[caption] for caption in texts if caption in mirrors} if mirrors else {}
    texts |= dict.fromkeys(mirrors.values())
    negatives = {caption: negatives[caption] for caption in texts if negatives.get(caption)} if negatives else {}
    text_only = {text: several for text, several in (text_only or {}).items() if several}
    texts |= {text: None for pairs in (negatives, text_only) for several in pairs.values() for text in several}
    texts |= dict.fromkeys(text_only)
    rows = {text: row for row, text in enumerate(texts)}
    return CaptionTable(
        texts=list(texts),
        captions=[[rows[caption] for caption in several] for several in captions],
        negatives={rows[caption]: [rows[wrong] for wrong in several] for caption, several in negatives.items()},
        mirrors={rows[caption]: rows[turned] for caption, turned in mirrors.items()},
        text_only={rows[text]: [rows[wrong] for wrong in several] for text, several in text_only.items()},
    )


def drawn_pairs(
    images: np.ndarray, captions: list[list[int]], mirrors: Mapping[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, list[int]]:
    """Images [B, H, W(, 3)], shifted, each with one of its ``captions``; then the mirror images of those M whose drawn
    caption has a mirrored one in ``mirrors``, with that. The pictures [B + M, H, W(, 3)] and the numbers of their texts.
    """
    drawn = [several[rng.integers(len(several))] for several in captions]
    moved = shifted(images, rng)
    if turned := [place for place, row in enumerate(drawn) if row in mirrors]:
        moved = np.concatenate([moved, moved[turned, :, ::-1]])
        drawn += [mirrors[drawn[place]] for place in turned]
    return moved, drawn


def drawn_negatives(rows: list[list[int]], count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``count`` of the wrong captions of each image: ids [B, count] of ``rows`` [B][any number], and which there are.

    Where an image has fewer, all of them come first and the rest is 0 and absent.
    """
    ids, present = np.zeros((len(rows), count), int), np.zeros((len(rows), count), bool)
    for place, several in enumerate(rows):
        chosen = rng.permutation(several)[:count]
        ids[place, : len(chosen)], present[place, : len(chosen)] = chosen, True
    return ids, present


def text_only_loss(model: TwoTowers, table: CaptionTable, ids: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """``separation_loss`` of ``count`` drawn captions of ``table.text_only``, each with one wrong one; mean over the towers.

    ``ids`` [number of texts, T]: the tokens of ``table.texts``.
    """
    drawn = rng.choice(list(table.text_only), count)
    wrong = [rng.choice(table.text_only[row]) for row in drawn]
    several = model.text_embeddings(ids[[*drawn, *wrong]])
    there = torch.ones(count, 1, dtype=torch.bool, device=several[0].device)
    return sum(separation_loss(part[:count], part[count:].unsqueeze(1), there) for part in several) / len(several)


def shifted(images: np.ndarray, rng: np.random.Generator, reach: int = 8) -> np.ndarray:
    """Every image [N, H, W(, 3)] rolled by up to ``reach`` px: the only augmentation that leaves shadows where they fall."""
    moves = rng.integers(-reach, reach + 1, (len(images), 2))
    return np.stack([np.roll(image, tuple(move), axis=(0, 1)) for image, move in zip(images, moves)])


def clip_loss(
    images: np.ndarray,
    table: CaptionTable,
    ids: Tensor,
    seed: int,
    *,
    batch_size: int,
    negatives: int,
    separation: float,
    label: str,
) -> Loss:
    """The loss of a step with its figures, (prepared modules, step, micro-batch) → dict; see ``train_clip``.

    ``ids`` [number of texts, T]: the tokens of ``table.texts``. Raises ``InputError`` where a step sees less than its batch.
    """
    originals = max(1, batch_size // 2) if table.mirrors else batch_size

    def loss(modules: dict[str, nn.Module], step: int, micro: MicroBatch) -> dict[str, Tensor]:
        if micro.count > 1:
            raise InputError(f"{label}: contrastive training compares the whole batch; run it in one process, without micro-batches")
        model = modules["encoder"]
        chosen = batch_ids(len(images), originals, seed, step)
        rng = np.random.default_rng((seed, 41, step))
        moved, drawn = drawn_pairs(images[chosen], [table.captions[i] for i in chosen], table.mirrors, rng)
        pictures = model.image_embeddings(to_pixels(moved))
        if not table.negatives:
            texts, wrong, present = model.text_embeddings(ids[drawn]), None, None
        else:
            choices = [table.negatives.get(row, []) for row in drawn]
            rows, there = drawn_negatives(choices, negatives, np.random.default_rng((seed, 43, step)))
            present = torch.from_numpy(there).to(pictures.device)
            several = model.text_embeddings(ids[[*drawn, *rows.ravel()]])  # both in one pass
            texts = [part[: len(drawn)] for part in several]
            wrong = [part[len(drawn) :].unflatten(0, rows.shape) for part in several]
        value = towers_loss(pictures, texts, model.log_scale, wrong, present, separation)
        if table.text_only:
            rng = np.random.default_rng((seed, 47, step))
            value = value + separation * text_only_loss(model, table, ids, max(1, batch_size // 4), rng)
        with torch.no_grad():
            figures = {"loss": value, "retrieval_r1": retrieval_r1(pictures, texts[0])}
            if wrong is not None:
                figures["contrary_r1"] = contrary_r1(pictures, texts[0], wrong[0], present)
        return figures

    return loss


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
    text_only: Mapping[str, tuple[str, ...]] | None = None,
) -> pd.DataFrame:
    """Train in place on uint8 images [N, H, W] or [N, H, W, 3], each with one or more captions; the history.

    ``negatives``: captions that are wrong of whatever a caption describes, as ``sarnb.world.hard_negatives.contrary_table`` makes
    them; each image of a step meets ``negatives_per_image`` of those of its caption. The history's ``contrary_r1`` is the
    share of images that are nearer to their caption than to these (NaN where a step had none). ``separation`` weighs
    ``separation_loss``, which parts the texts themselves. ``mirrors``: captions of the mirrored pictures, as
    ``sarnb.world.hard_negatives.mirror_table`` makes them; half of the batch are then mirror images of the other half, where the
    caption drawn has one: a pair that nothing but the side tells apart. ``text_only``: captions of pictures that are not
    here, with their wrong ones; a quarter of a batch of them is parted by ``separation_loss`` each step, so that the words
    differ where no picture tells them apart. Without ``negatives`` the
    training is the same as if there were no such argument. Raises ``InputError`` unless images and captions agree in number.
    """
    if len(images) != len(captions):
        raise InputError(f"{len(images)} images but captions for {len(captions)}; give one entry for each image")
    table = caption_table(captions, negatives, mirrors, text_only)
    ids = encoder.tokens(table.texts)
    loss = clip_loss(
        images,
        table,
        ids,
        config.seed,
        batch_size=batch_size,
        negatives=negatives_per_image,
        separation=separation,
        label=label,
    )
    encoder.train().requires_grad_(True)
    with plain_attention(encoder, tokens=ids.shape[1]):
        history = train_loop({"encoder": encoder}, loss, config, out, batch_size=batch_size, label=label, identity=identity)
    encoder.eval().requires_grad_(False)
    return history


RECORD, HISTORY = "record.json", "history.csv"


@dataclass(frozen=True)
class JudgeRun:
    """The trained judge, the history of its training (see ``train_loop``), and its record."""

    judge: TwoTowers
    history: pd.DataFrame
    record: dict  # key, images, captions (different ones), batch_size, batch_asked, negatives, parameters, seconds, peak_memory_mb …


SEPARATION = 2.0  # weight of the loss that parts a caption from its wrong ones; ours
RATES = {True: 1e-3, False: 1e-5}  # of the small judge, and of a CLIP that is tuned; ours


def judge_config(steps: int, checkpoint_every: int = 200, seed: int = 0, start: str = SMALL) -> LoopConfig:
    """The judge's schedule: the one that trained the foundation's text towers, for any number of steps."""
    return LoopConfig(
        steps=steps,
        learning_rate=RATES[start == SMALL],
        warmup_steps=min(50, steps // 10),
        schedule="cosine",
        ema_decay=0.99,
        checkpoint_every=checkpoint_every,
        log_every=max(1, steps // 40),
        seed=seed,
    )


def train_judge(
    data: ImageSet,
    foundation: str,
    config: LoopConfig,
    out: Path,
    batch_size: int = 64,
    negatives: int = 1,
    start: str = SMALL,
) -> JudgeRun:
    """Train a judge on ``data`` and save it in ``out``.

    ``start``: "small", a judge from nothing with the words of ``foundation``, or what ``load_open_clip`` takes.
    ``negatives``: wrong captions (other side, other count, other direction) that each image meets in a step beside the
    captions of the others; 0 is none. With them, images whose caption tells the side also come mirrored, with the caption of
    the mirror image. A batch holds an image once, so it is never larger than the set:
    ``record["batch_size"]`` says what was used. A judge that is there already, of the same images, captions, tokenizer and
    configuration, is read back; any other is replaced.

    Raises ``InputError`` for fewer than two images, a set with one caption only, a full disk, and what ``start_judge`` and
    ``train_clip`` refuse.
    """
    captions = [tuple(several) for several in data.all_captions()]
    different = {caption for several in captions for caption in several}
    if len(data) < 2 or len(different) < 2:
        raise InputError(
            f"{data.root}: {len(data)} image(s) with {len(different)} different caption(s) cannot train a judge, which learns "
            "to tell captions apart; give at least two of each"
        )
    batch = min(batch_size, len(data))
    mirrors = mirror_table(sorted(different)) if negatives else {}
    wrong = contrary_table(sorted(different | set(mirrors.values())), seed=config.seed) if negatives else {}
    judge = start_judge(start, foundation, config.seed)
    words = judge.tokens(sorted(different)).tolist()
    settings = json.dumps([start, captions, words, asdict(config), batch, negatives, wrong, mirrors, SEPARATION])
    key = content_key(data.images, settings)
    if found := _finished(out, key):
        return found
    work = out / f"training-{key}"
    for other in out.glob("training-*"):
        if other != work:
            shutil.rmtree(other)
    reset_peak_memory()
    history = train_clip(
        judge,
        data.images,
        captions,
        config,
        work,
        batch_size=batch,
        label="judge",
        identity=key,
        negatives=wrong,
        negatives_per_image=negatives,
        separation=SEPARATION,
        mirrors=mirrors,
    )
    record = {
        "key": key,
        "start": start,
        "images": len(data),
        "captions": len(different),
        "batch_size": batch,
        "batch_asked": batch_size,
        "negatives": negatives,
        "captions_with_negatives": sum(bool(wrong[caption]) for caption in different if caption in wrong),
        "captions_with_mirrors": len(mirrors),
        "config": asdict(config),
        "parameters": sum(parameter.numel() for parameter in judge.parameters()),
        "seconds": float(history["seconds"].sum()),
        "peak_memory_mb": peak_memory_mb(),
    }
    _save(judge, record, work, out)
    return JudgeRun(judge, history, record)


def _save(judge: TwoTowers, record: dict, work: Path, out: Path) -> None:
    """Put the judge, its history and its record into ``out``; the record last, for with it the judge is whole."""
    try:
        with saving(out):
            (out / RECORD).unlink(missing_ok=True)
            judge.cpu().save(out)
            shutil.copy(work / HISTORY, out / HISTORY)
            write_json(out / RECORD, record)
            shutil.rmtree(work)  # the optimiser's state
    except SafetensorError as error:  # what a full disk is to safetensors
        raise InputError(f"{out}: the judge could not be saved ({error}); free some disk space and run again") from error


def _finished(out: Path, key: str) -> JudgeRun | None:
    """The judge in ``out`` if it is whole and of this key."""
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        if record.get("key") != key:
            return None
        return JudgeRun(load_judge(out), pd.read_csv(out / HISTORY), record)
    except (OSError, ValueError, AttributeError):  # InputError of a damaged file is a ValueError too
        return None
