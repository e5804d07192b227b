"""One line a strategy: train it, draw the evaluation set, record the cost. What is complete is not done again."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
from diffusers import StableDiffusionXLPipeline

from sarnb.data.dataset import ImageSet, load_set
from sarnb.data.files import METADATA, content_key, kept
from sarnb.generate.progress import TOKEN_POINTS, progress_rows, watch_samples, watch_token
from sarnb.generate.prompts import prior_set
from sarnb.generate.sample import draw, evaluation_prompts, read_latents, to_grey, write_latents, write_samples
from sarnb.model.export import RECORD, foundation_fingerprint, load_trained
from sarnb.model.foundation import load_foundation
from sarnb.model.strategy import Strategy, find_strategy
from sarnb.model.token import TOKEN, with_token
from sarnb.train import training
from sarnb.train.finetune import FinetuneConfig
from sarnb.train.loop import Watcher
from sarnb.train.training import GRIDS, TOKEN_PATH

SAMPLING = "sampling.json"
EDITION = 2  # of drawing, raised where the same settings draw other images; since 2 the embedded foundation's sampler is DPM-Solver++


@dataclass(frozen=True)
class SamplingConfig:
    """How the evaluation images are drawn; the same for all strategies."""

    per_class: int = 16  # images a class and composition
    steps: int = 25  # denoising steps
    guidance_scale: float = 5.0  # classifier-free guidance; 1 is off
    batch_size: int = 16
    precision: str = "auto"  # of the UNet: "auto", "fp32" or "bf16"
    sensor: str = "airborne-x"  # whose looks the prompts name


@dataclass(frozen=True)
class StrategyResult:
    """What one strategy gave: trained model, training history (empty if nothing trains), cost, and its samples."""

    strategy: Strategy
    seed: int
    model: Path | None
    samples: ImageSet
    history: pd.DataFrame
    cost: dict


def train_and_sample(
    strategy: str | Strategy,
    foundation: str,
    data_dir: Path,
    out_models: Path,
    out_samples: Path,
    config: FinetuneConfig,
    sampling: SamplingConfig | None = None,
    seed: int | None = None,
    sample_every: int = 0,
) -> StrategyResult:
    """Fine-tune by ``strategy`` on ``data_dir``, save, and draw every label of its test split.

    Folders: ``out_models/<strategy>/seed<k>``, ``out_samples/<strategy>/seed<k>``, and ``out_models/cache``, which all
    strategies share. A run that was cut short goes on from its checkpoint; a finished one is read back. A finished one
    with other settings is done again. ``seed`` replaces the configuration's. ``sample_every``: see ``train_strategy``.

    Raises
    ------
    InputError
        An unknown strategy, a missing data set, and all that ``finetune`` and ``generate`` refuse.
    """
    strategy = find_strategy(strategy) if isinstance(strategy, str) else strategy
    sampling = sampling or SamplingConfig()
    config = config if seed is None else replace(config, seed=seed)
    name = Path(strategy.name) / f"seed{config.seed}"
    model = Path(out_models) / name if strategy.trains else None
    history, cost = pd.DataFrame(), {"trainable_parameters": 0, "seconds": 0.0, "checkpoint_bytes": 0, "caches": []}
    if model is not None:
        cache = Path(out_models) / "cache"
        history, cost = train_strategy(strategy, foundation, Path(data_dir), model, config, cache, sampling, sample_every)
    samples, drawn = sample(strategy, foundation, Path(data_dir), model, Path(out_samples) / name, sampling)
    return StrategyResult(strategy, config.seed, model, samples, history, cost | drawn)


def train_strategy(
    strategy: Strategy,
    foundation: str,
    data_dir: Path,
    out: Path,
    config: FinetuneConfig,
    cache: Path | None = None,
    sampling: SamplingConfig | None = None,
    sample_every: int = 0,
    trackers: Sequence[str] = (),
) -> tuple[pd.DataFrame, dict]:
    """``sarnb.train.training.train`` with the foundation's prior pictures and with what follows the training; (history, cost).

    Every ``sample_every`` steps (0: never) a few of the evaluation's prompts are drawn into ``out/grids``, by ``sampling``
    with half of its denoising steps; ``read_progress`` reads them. A learned word leaves its way in ``out/token_path``.
    """
    sampling, cache = sampling or SamplingConfig(), cache or out

    def watchers(pipe: StableDiffusionXLPipeline, folder: Path) -> list[Watcher]:
        found = []
        if sample_every and (data_dir / "test" / METADATA).exists():
            test = load_set(data_dir / "test")
            rows = progress_rows(evaluation_rows(test, strategy, sampling))
            how = max(1, sampling.steps // 2), sampling.guidance_scale, test.images.shape[1], sampling.precision
            found.append(watch_samples(pipe, rows, folder / GRIDS, sample_every, *how))
        if strategy.token:
            found.append(watch_token(pipe, folder / TOKEN_PATH, max(1, config.steps // TOKEN_POINTS)))
        return found

    prior = partial(prior_set, strategy=strategy, data_dir=data_dir, folder=cache)
    return training.train(strategy, foundation, data_dir, out, config, cache, prior, watchers, trackers)


def sample(
    strategy: Strategy, foundation: str, data_dir: Path, model: Path | None, out: Path, sampling: SamplingConfig
) -> tuple[ImageSet, dict]:
    """Draw the evaluation set into ``out`` unless it is there, by the same model and settings; (images, cost).

    Beside the images stand their final latents, for other decoders.
    """
    test = load_set(data_dir / "test")
    rows, size = evaluation_rows(test, strategy, sampling), test.images.shape[1]
    untrained = None if model else load_foundation(foundation)
    wanted = {
        "sampling": asdict(sampling),
        "rows": content_key(json.dumps([size, rows, EDITION])),
        "model": content_key((model / RECORD).read_bytes()) if model else foundation_fingerprint(untrained),
    }

    def make() -> dict[str, dict]:
        pipe, start = untrained or load_trained(foundation, model, fuse=True), time.perf_counter()
        texts, seeds = [row["text"] for row in rows], [row["seed"] for row in rows]
        how = sampling.steps, sampling.guidance_scale, sampling.batch_size, size, sampling.precision
        images, latents = draw(pipe, texts, seeds, *how, label=strategy.name)
        seconds = time.perf_counter() - start
        write_samples(out, to_grey(images), rows)
        write_latents(out, latents)
        return {"cost": {"sampling_seconds": seconds, "sampling_images_per_second": len(rows) / seconds}}

    def load(note: dict) -> tuple[ImageSet, dict]:
        read_latents(out)  # an image set without its latents is not whole
        return load_set(out), note["cost"]

    return kept(out, wanted, make, load, SAMPLING)


def evaluation_rows(test: ImageSet, strategy: Strategy, sampling: SamplingConfig) -> list[dict]:
    """What to draw for a test split: its labels with its look directions, or its captions where it has no labels."""
    token = TOKEN if strategy.token else None
    labels = [label for label in dict.fromkeys(test.labels) if label]
    if not labels:
        texts = test.captions[: sampling.per_class]
        return [
            {"text": with_token(text) if token else text, "label": "", "group": "seen", "seed": number, "look": None}
            for number, text in enumerate(texts)
        ]
    groups = {row["label"]: row["group"] for row in test.rows if row.get("label") and row.get("group")}
    looks = sorted({row["look"] for row in test.rows if row.get("look")}) or [None]
    return evaluation_prompts(labels, sampling.per_class, token, looks, groups, sampling.sensor)
