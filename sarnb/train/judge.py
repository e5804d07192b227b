"""Training of the judge (SAR-CLIP), once: a finished one is read back, one that was cut short goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError

from sarnb.data.dataset import ImageSet
from sarnb.data.files import saving, write_json
from sarnb.errors import InputError
from sarnb.model.clip import TwoTowers
from sarnb.model.judge import SMALL, load_judge, start_judge
from sarnb.train.cache import content_key
from sarnb.train.clip import train_clip
from sarnb.train.loop_config import LoopConfig
from sarnb.train.memory import peak_memory_mb, reset_peak_memory
from sarnb.world.contrary import contrary_table, mirror_table

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
    data: ImageSet, foundation: str, config: LoopConfig, out: Path, batch_size: int = 64, negatives: int = 1,
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
        judge, data.images, captions, config, work, batch_size=batch, label="judge", identity=key, negatives=wrong,
        negatives_per_image=negatives, separation=SEPARATION, mirrors=mirrors,
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
