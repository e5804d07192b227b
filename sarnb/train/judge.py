"""Training of a dual encoder on images and captions, and of the judge (SAR-CLIP), which is one.

The loss is CLIP's, with two additions that make a small model read single words: captions with one statement wrong (hard
negatives) as further columns of their own image, and a term that moves their text vectors apart.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from sarnb.data.dataset import ImageSet, load_card
from sarnb.data.files import kept, write_json, write_text
from sarnb.data.twin import same_world, world_facts
from sarnb.errors import InputError
from sarnb.model.foundation import to_pixels
from sarnb.model.judge import SHIPPED, SMALL, TwoTowers, load_judge, start_judge
from sarnb.train.cache import content_key
from sarnb.train.loop import MicroBatch, batch_ids, train_loop
from sarnb.train.machine import peak_memory_mb, plain_attention, reset_peak_memory
from sarnb.train.state import LoopConfig
from sarnb.world.captions import hard_negative_table, mirror_table

MARGIN = 0.7  # distance of unit vectors beyond which a caption and a wrong one need no parting; this project's choice
SEPARATION = 2.0  # weight of the parting in the judge's training; this project's choice
RATES = {True: 1e-3, False: 1e-5}  # of the small judge, and of a CLIP that is tuned; this project's choice
RECORD, HISTORY = "record.json", "history.csv"


def contrastive_loss(
    images: Tensor, texts: Tensor, log_scale: Tensor, negatives: Tensor | None = None, present: Tensor | None = None
) -> Tensor:
    """Symmetric cross-entropy over a batch of unit vectors (Radford et al. 2021, figure 3), a scalar.

    Parameters
    ----------
    images, texts : [B, D], row i of one belongs to row i of the other.
    log_scale : ln of the factor on the cosines.
    negatives : [B, K, D], captions that are wrong of each image: further columns of its own row only, because what is wrong
        of one image may be true of another (after Yuksekgonul et al., ICLR 2023).
    present : bool [B, K], which of the negatives there are.
    """
    scale = log_scale.exp().clamp(max=100)
    logits = scale * images @ texts.T
    targets = torch.arange(len(logits), device=logits.device)
    rows = logits
    if negatives is not None:
        wrong = scale * torch.einsum("bd,bkd->bk", images, negatives)
        rows = torch.cat([logits, wrong.masked_fill(~present, -torch.inf)], dim=1)
    return 0.5 * (F.cross_entropy(rows, targets) + F.cross_entropy(logits.T, targets))


def separation_loss(texts: Tensor, negatives: Tensor, present: Tensor, margin: float = MARGIN) -> Tensor:
    """Mean of max(0, margin - distance) over captions [B, D] and those of their wrong ones [B, K, D] that are ``present``.

    A text tower may start with one vector for a caption and its hard negative; the contrastive loss then has no gradient
    that parts them. The distance has, and the margin leaves them alone once they are apart. 0 where none is present.
    """
    gaps = ((texts.unsqueeze(1) - negatives).square().sum(dim=-1) + 1e-6).sqrt()
    short = F.relu(margin - gaps) * present
    return short.sum() / present.sum().clamp(min=1)


def towers_loss(
    images: Tensor, texts: list[Tensor], log_scale: Tensor, negatives: list[Tensor], present: Tensor, separation: float
) -> Tensor:
    """Mean over the text towers of ``contrastive_loss`` plus ``separation`` times ``separation_loss``, a scalar.

    ``texts`` and ``negatives``: what each tower makes of the captions, [B, D], and of the wrong ones, [B, K, D].
    """
    pairs = list(zip(texts, negatives))
    value = sum(contrastive_loss(images, text, log_scale, wrong, present) for text, wrong in pairs) / len(pairs)
    if separation:
        value = value + separation * sum(separation_loss(text, wrong, present) for text, wrong in pairs) / len(pairs)
    return value


def hard_negative_r1(images: Tensor, texts: Tensor, negatives: Tensor, present: Tensor) -> Tensor:
    """Share of images [B, D] that are nearer to their text [B, D] than to all of their wrong ones [B, K, D].

    Of those images that have a wrong one at all, as ``present`` [B, K] says; NaN if none has.
    """
    own = (images * texts).sum(dim=1, keepdim=True)
    beaten = (own > torch.einsum("bd,bkd->bk", images, negatives)) | ~present
    return beaten.all(dim=1)[present.any(dim=1)].float().mean()


def shifted(images: np.ndarray, rng: np.random.Generator, reach: int = 8) -> np.ndarray:
    """Every image [N, H, W(, 3)] rolled by up to ``reach`` px: the only augmentation that leaves shadows where they fall."""
    moves = rng.integers(-reach, reach + 1, (len(images), 2))
    return np.stack([np.roll(image, tuple(move), axis=(0, 1)) for image, move in zip(images, moves)])


def drawn_pairs(
    images: np.ndarray, captions: list[tuple[str, ...]], mirrors: Mapping[str, str], rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Images [B, H, W(, 3)], shifted, each with one of its ``captions``; then the mirror images of those M whose drawn
    caption has a mirrored one in ``mirrors``, with that. The pictures [B + M, H, W(, 3)] and their texts.
    """
    drawn = [several[rng.integers(len(several))] for several in captions]
    moved = shifted(images, rng)
    if turned := [place for place, text in enumerate(drawn) if text in mirrors]:
        moved = np.concatenate([moved, moved[turned, :, ::-1]])
        drawn += [mirrors[drawn[place]] for place in turned]
    return moved, drawn


def drawn_negatives(several: list[Sequence[str]], count: int, rng: np.random.Generator) -> list[list[str | None]]:
    """``count`` of the wrong captions of each image, drawn without replacement; None behind them where it has fewer."""
    drawn = [[texts[i] for i in rng.permutation(len(texts))[:count]] for texts in several]
    return [texts + [None] * (count - len(texts)) for texts in drawn]


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
    """Train in place on images and captions.

    Parameters
    ----------
    images : uint8 [N, H, W] or [N, H, W, 3].
    captions : one or more of each image.
    out, label, identity : see ``train_loop``.
    negatives : caption → captions that are wrong of whatever it describes, as ``hard_negative_table`` makes them; each image of a
        step meets ``negatives_per_image`` of those of its caption.
    separation : weight of ``separation_loss``, which parts the texts themselves.
    mirrors : caption → caption of the mirrored picture, as ``mirror_table`` makes them. Half of the batch are then mirror
        images of the other half, where the caption drawn has one: a pair that nothing but the side tells apart.
    text_only : captions of pictures that are not here, with their wrong ones; a quarter of a batch of them is parted by
        ``separation_loss`` each step, so that the words differ where no picture tells them apart.

    Returns
    -------
    history : with the column retrieval_r1, the share of images whose nearest text of the batch is their own, and, where
        there are hard negatives, hard_negative_r1, the share that is nearer to its caption than to these (NaN where a step had none).

    Raises
    ------
    InputError
        Images and captions differ in number, or a step sees less than its batch.
    """
    if len(images) != len(captions):
        raise InputError(f"{len(images)} images but captions for {len(captions)}; give one entry for each image")
    known = dict.fromkeys(caption for several in captions for caption in several)
    mirrors = {text: mirrors[text] for text in known if text in mirrors} if mirrors else {}
    known |= dict.fromkeys(mirrors.values())
    negatives = {text: negatives[text] for text in known if negatives.get(text)} if negatives else {}
    apart = [(text, several) for text, several in (text_only or {}).items() if several]
    for text, several in [*negatives.items(), *apart]:
        known |= dict.fromkeys((text, *several))
    rows, ids = {text: row for row, text in enumerate(known)}, encoder.tokens(list(known))
    originals = max(1, batch_size // 2) if mirrors else batch_size
    count = negatives_per_image if negatives else 0

    def embedded(model: TwoTowers, texts: list[str | None]) -> list[Tensor]:
        return model.text_embeddings(ids[[rows.get(text, 0) for text in texts]])

    def loss(modules: dict[str, nn.Module], step: int, micro: MicroBatch) -> dict[str, Tensor]:
        if micro.count > 1:
            raise InputError(f"{label}: contrastive training compares the whole batch; run it in one process, without micro-batches")
        model = modules["encoder"]
        streams = [np.random.default_rng((config.seed, stream, step)) for stream in (41, 43, 47)]
        chosen = batch_ids(len(images), originals, config.seed, step)
        moved, drawn = drawn_pairs(images[chosen], [captions[i] for i in chosen], mirrors, streams[0])
        pictures = model.image_embeddings(to_pixels(moved))
        wrong = drawn_negatives([negatives.get(text, ()) for text in drawn], count, streams[1])
        present = torch.tensor([[text is not None for text in several] for several in wrong], dtype=torch.bool, device=pictures.device)
        several = embedded(model, drawn + sum(wrong, []))  # captions and hard negatives in one pass
        texts = [part[: len(drawn)] for part in several]
        others = [part[len(drawn) :].reshape(len(drawn), count, part.shape[1]) for part in several]
        value = towers_loss(pictures, texts, model.log_scale, others, present, separation)
        if apart:  # texts without a picture, each with one wrong one
            pairs = [apart[i] for i in streams[2].choice(len(apart), max(1, batch_size // 4))]
            lone = [text for text, _ in pairs] + [several[streams[2].choice(len(several))] for _, several in pairs]
            there = torch.ones(len(pairs), 1, dtype=torch.bool, device=pictures.device)
            halves = [part.chunk(2) for part in embedded(model, lone)]
            value = value + separation * sum(separation_loss(own, other[:, None], there) for own, other in halves) / len(halves)
        with torch.no_grad():
            nearest = (pictures @ texts[0].T).argmax(dim=1)
            figures = {"loss": value, "retrieval_r1": (nearest == torch.arange(len(drawn), device=nearest.device)).float().mean()}
            if count:
                figures["hard_negative_r1"] = hard_negative_r1(pictures, texts[0], others[0], present)
        return figures

    encoder.train().requires_grad_(True)
    with plain_attention(encoder, tokens=ids.shape[1]):
        history = train_loop({"encoder": encoder}, loss, config, out, batch_size=batch_size, label=label, identity=identity)
    encoder.eval().requires_grad_(False)
    return history


@dataclass(frozen=True)
class JudgeRun:
    """The trained judge, the history of its training (see ``train_loop``), and its record."""

    judge: TwoTowers
    history: pd.DataFrame
    record: dict  # key, images, captions (different ones), batch_size, negatives, parameters, seconds, peak_memory_mb …


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
    """Train a judge on ``data`` and save it in ``out``, once: one of the same images, captions, tokenizer and configuration
    is read back, one that was cut short goes on, any other is replaced.

    Parameters
    ----------
    foundation : whose tokenizer gives the words of a small judge.
    batch_size : a batch holds an image once, so it is never larger than the set; ``record["batch_size"]`` says what was used.
    negatives : hard negatives (other side, other count, other direction) that each image meets in a step next to the
        captions of the others; 0 is none. With them, images whose caption tells the side also come mirrored, with the
        caption of the mirror image.
    start : "small", a judge from nothing, or what ``load_open_clip`` takes.

    Raises
    ------
    InputError
        Fewer than two images, one caption only, a full disk, and what ``start_judge`` and ``train_clip`` refuse.
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
    wrong = hard_negative_table(sorted(different | set(mirrors.values())), seed=config.seed) if negatives else {}
    judge = start_judge(start, foundation, config.seed)
    words = judge.tokens(sorted(different)).tolist()
    settings = json.dumps([start, captions, words, asdict(config), batch, negatives, wrong, mirrors, SEPARATION])
    key = content_key(data.images, settings)

    def make() -> None:
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
            "negatives": negatives,
            "captions_with_negatives": sum(bool(wrong[caption]) for caption in different if caption in wrong),
            "captions_with_mirrors": len(mirrors),
            "config": asdict(config),
            "parameters": sum(parameter.numel() for parameter in judge.parameters()),
            "seconds": float(history["seconds"].sum()),
            "peak_memory_mb": peak_memory_mb(),
        }
        (out / RECORD).unlink(missing_ok=True)  # an older one does not vouch for the weights that come now
        try:
            judge.cpu().save(out)
        except SafetensorError as error:  # what a full disk is to safetensors
            raise InputError(f"{out}: the judge could not be saved ({error}); free some disk space and run again") from error
        shutil.copy(work / HISTORY, out / HISTORY)
        write_json(out / RECORD, record)
        shutil.rmtree(work)  # the optimiser's state

    def load(record: dict) -> JudgeRun:
        return JudgeRun(load_judge(out), pd.read_csv(out / HISTORY), record)

    return kept(out, {"key": key}, make, load, note=RECORD, alone=False)


# A judge in the package, so that a short run is judged as surely as a long one.

CARD = """# SAR-CLIP of the study

The judge of the notebooks (`sarnb.model.judge.DualEncoder`, {parameters:,} parameters, half precision): a dual encoder that tells how
well a caption fits a simulated radar image. It learned from {images:,} images of the twin world (sensor {sensor}, {size} px, split
`judge`, which holds no scene of another split) in {steps:,} steps of {batch_size} pairs, from nothing, as notebook 03 shows. It is loaded
where the twin world still shows what it learned from (`world` in `{record}`), and else another is trained. On held-out images, by
notebook 03 of that run:

{measures}

{moved}It knows this simulated world and its twelve classes and five compositions. It is no judge of measured images, and a cosine is no
measure of quality by itself.
"""


def ship_judge(results: Path, out: Path = SHIPPED) -> Path:
    """Put the judge of a results folder into the package, in half precision, with its world, history and card; returns the folder.

    Raises
    ------
    InputError
        There is no judge that ``train_judge`` made from a twin world.
    """
    trained, card = results / "models" / "sar_clip", load_card(results / "data")
    if not (trained / RECORD).is_file() or card["kind"] != "twin":
        raise InputError(f"{results}: holds no judge of a twin world; run notebook 03 with --param JUDGE=small first")
    record = json.loads((trained / RECORD).read_text(encoding="utf-8"))
    measures = pd.read_csv(results / "tables" / "judge_measures.csv").query("split == 'pooled'")
    facts = world_facts(card["sensor"], card["size"])
    same = record.get("world", facts) == facts  # else a judge that was shipped before has been examined anew
    moved = "" if same else "Its training images are of an earlier edition of this world, the measures of today's.\n\n"
    shutil.rmtree(out, ignore_errors=True)
    load_judge(trained).half().save(out)
    shutil.copy(trained / HISTORY, out / HISTORY)
    about = {**record, **record["config"], "sensor": card["sensor"], "size": card["size"], "record": RECORD, "moved": moved}
    columns = ["measure", "value", "lo", "hi", "n", "chance"]
    write_text(out / "README.md", CARD.format(**about, measures=measures[columns].to_markdown(index=False, floatfmt=".3g")))
    write_json(out / RECORD, {**record, "world": facts})
    return out


def shipped_judge(card: Mapping[str, Any], out: Path, place: Path = SHIPPED) -> JudgeRun | None:
    """The package's judge, copied into ``out``; None where there is none, or the data set of ``card`` shows another world.

    That is another source or sensor, another size, or a twin world that draws or words its scenes differently by now.
    """
    if not (place / RECORD).is_file():
        return None
    record = json.loads((place / RECORD).read_text(encoding="utf-8"))
    known, own = record["world"], (card["kind"], card.get("sensor"), card.get("size"))
    if own != ("twin", known["sensor"], known["size"]) or not same_world(known):
        return None

    def make() -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(place, out)

    def load(_: dict) -> JudgeRun:
        return JudgeRun(load_judge(out), pd.read_csv(out / HISTORY), record)

    return kept(out, record, make, load, note=RECORD)


if __name__ == "__main__":
    print(ship_judge(Path(sys.argv[1])))
