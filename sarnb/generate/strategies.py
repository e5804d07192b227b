"""One line a strategy: fine-tune, save, draw the evaluation set, record the cost. What is complete is not done again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
from diffusers import StableDiffusionXLPipeline

from sarnb.data.dataset import ImageSet, load_set
from sarnb.data.files import METADATA, write_json
from sarnb.errors import DivergedError, InputError
from sarnb.generate.decode import LATENTS, write_latents
from sarnb.generate.prior import prior_set
from sarnb.generate.progress import GRIDS, TOKEN_PATH, TOKEN_POINTS, progress_rows, watch_samples, watch_token
from sarnb.generate.sample import draw, evaluation_prompts, to_grey, write_samples
from sarnb.model.export import RECORD, foundation_fingerprint, load_trained, save_trained
from sarnb.model.foundation import load_foundation
from sarnb.model.strategy import Strategy, find_strategy
from sarnb.model.token import TOKEN, with_token
from sarnb.train.cache import content_key
from sarnb.train.checkpoint import NAME as CHECKPOINT
from sarnb.train.finetune import FinetuneConfig, PriorSet, finetune, training_key
from sarnb.train.loop import Watcher, last
from sarnb.train.machine import processes
from sarnb.train.state import FOLDER as TRACKERS

# Learning rates from the same small grid for every strategy, chosen on the validation split.

TRIAL = "trial.json"


@dataclass(frozen=True)
class RateChoice:
    """The configuration with the chosen rates, and the grid: columns strategy, factor, one a rate, steps, held_out, chosen."""

    config: FinetuneConfig
    table: pd.DataFrame

    @property
    def remark(self) -> str:
        """Where the chosen factor stands in the grid: at an end of it, the best rate may lie beyond."""
        factors, chosen = sorted(self.table["factor"]), float(self.table.loc[self.table["chosen"], "factor"].iloc[0])
        if len(factors) == 1:
            return f"nothing was tried, its rates are those of the profile times {chosen:g}."
        end = {factors[0]: "smallest", factors[-1]: "largest"}.get(chosen)
        place = f"the {end} of the grid: the best rate may lie beyond" if end else "inside the grid"
        return f"the chosen factor {chosen:g} is {place} ({', '.join(f'{factor:g}' for factor in factors)})."


def grid_sentences(table: pd.DataFrame) -> list[str]:
    """``RateChoice.remark`` of each strategy; goes when no notebook uses it."""
    return [f"{name}: {RateChoice(None, rows).remark}" for name, rows in table.groupby("strategy", sort=False)]


def rates_of(strategy: Strategy, config: FinetuneConfig) -> dict[str, float]:
    """The learning rates that a strategy uses, by the configuration's names."""
    names = [f"lr_{part}_{getattr(strategy, part)}" for part in ("unet", "text") if getattr(strategy, part) != "frozen"]
    return {name: getattr(config, name) for name in names + ["lr_token"] * strategy.token}


def scaled(strategy: Strategy, config: FinetuneConfig, factor: float) -> FinetuneConfig:
    """The configuration with the strategy's own rates times ``factor``."""
    return replace(config, **{name: factor * rate for name, rate in rates_of(strategy, config).items()})


def tune_rates(
    strategy: Strategy,
    foundation: str,
    data_dir: Path,
    out: Path,
    config: FinetuneConfig,
    factors: Sequence[float],
    steps: int,
    prior: PriorSet | None = None,
) -> RateChoice:
    """Try every factor for ``steps`` steps from the foundation; a finished trial in ``out`` is read back.

    ``prior``: see ``finetune``; it belongs to a strategy with prior preservation.

    With one factor nothing is tried: the table then holds it, without a held-out loss. Raises ``InputError`` for no factor,
    a factor that is not positive, a set without validation images, and what ``finetune`` refuses.
    """
    if not factors or min(factors) <= 0:
        raise InputError(f"learning-rate factors are {list(factors)}; give at least one, all above 0")
    rows = []
    for factor in factors:
        trial = replace(scaled(strategy, config, factor), steps=steps, warmup_steps=min(config.warmup_steps, steps // 4))
        held_out = float("nan") if len(factors) == 1 else _try(strategy, foundation, Path(data_dir), Path(out), trial, prior)
        rows.append({"strategy": strategy.name, "factor": factor, **rates_of(strategy, trial), "steps": steps, "held_out": held_out})
    table = pd.DataFrame(rows)
    best = int(table["held_out"].idxmin()) if len(factors) > 1 else 0
    return RateChoice(scaled(strategy, config, factors[best]), table.assign(chosen=table.index == best))


def _try(strategy: Strategy, foundation: str, data_dir: Path, out: Path, config: FinetuneConfig, prior: PriorSet | None) -> float:
    """Held-out loss at the end of one short training, infinite where it diverged; its checkpoint is not kept."""
    data, val = load_set(data_dir / "train"), load_set(data_dir / "val")
    pipe = load_foundation(foundation)
    parts = [json.dumps(asdict(value), sort_keys=True) for value in (strategy, config)]
    parts += [content_key(prior.images, *prior.captions)] if prior is not None else []
    folder = out / content_key(*parts, foundation_fingerprint(pipe), training_key(data), training_key(val))
    try:
        held_out = json.loads((folder / TRIAL).read_text(encoding="utf-8"))["held_out"]
    except (OSError, ValueError, KeyError):
        held_out = _held_out(pipe, strategy, data, config, folder, val, out.parent / "cache", prior)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / TRIAL, {"strategy": strategy.name, "held_out": held_out})
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return float("inf") if held_out is None else held_out


def _held_out(pipe, strategy, data, config, folder, val, cache, prior) -> float | None:
    """The last held-out loss of a training; None where it diverged, which loses against every other rate."""
    try:
        return last(finetune(pipe, strategy, data, config, folder, val, cache, prior).history)
    except DivergedError:
        return None


SAMPLING, HISTORY, TRAINING = "sampling.json", "history.csv", ".training-"


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
class StrategyRun:
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
) -> StrategyRun:
    """Fine-tune by ``strategy`` on ``data_dir``, save, and draw every label of its test split.

    Folders: ``out_models/<strategy>/seed<k>``, ``out_samples/<strategy>/seed<k>``, and ``out_models/cache``, which all
    strategies share. A run that was cut short goes on from its checkpoint; a finished one is read back. A finished one
    with other settings is done again. ``seed`` replaces the configuration's. ``sample_every``: see ``train``.

    Raises ``InputError`` for an unknown strategy, a missing data set, and all that ``finetune`` and ``generate`` refuse.
    """
    strategy = find_strategy(strategy) if isinstance(strategy, str) else strategy
    sampling = sampling or SamplingConfig()
    config = config if seed is None else replace(config, seed=seed)
    name = Path(strategy.name) / f"seed{config.seed}"
    model = Path(out_models) / name if strategy.trains else None
    history, cost = pd.DataFrame(), {"trainable_parameters": 0, "seconds": 0.0, "checkpoint_bytes": 0, "caches": []}
    if model is not None:
        cache = Path(out_models) / "cache"
        history, cost = train(strategy, foundation, Path(data_dir), model, config, cache, sampling, sample_every)
    samples, drawn = sample(strategy, foundation, Path(data_dir), model, Path(out_samples) / name, sampling)
    return StrategyRun(strategy, config.seed, model, samples, history, cost | drawn)


def train(
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
    """Fine-tune and save into ``out`` unless it holds the same training, finished; (history, cost).

    Every ``sample_every`` steps (0: never) a few of the evaluation's prompts are drawn into ``out/grids``, by ``sampling``
    with half of its denoising steps; ``read_progress`` reads them. A learned word leaves its way in ``out/token_path``,
    ``trackers`` (such as ``["tensorboard"]``) their files in ``out/trackers``. None of this changes what is trained.
    """
    data = load_set(data_dir / "train")
    val = load_set(data_dir / "val") if (data_dir / "val" / METADATA).exists() else None
    pipe = load_foundation(foundation)
    wanted = {
        "strategy": _plain(strategy),
        "config": _plain(config),
        "foundation": foundation_fingerprint(pipe),
        "data": training_key(data),
    }
    prior = prior_set(pipe, strategy, data_dir, cache or out)
    if prior is not None:
        wanted["prior"] = content_key(prior.images, *prior.captions)
    history = out / HISTORY
    if history.exists():
        record = _finished(out / RECORD)
        if {name: record.get(name) for name in wanted} == wanted:
            return pd.read_csv(history), record["cost"]
    # A folder for each set of settings: a training that is under way leaves a finished one alone until it is done itself.
    training = out / f"{TRAINING}{content_key(json.dumps(wanted, sort_keys=True))}"
    watchers = _watchers(pipe, strategy, data_dir, training, config, sampling or SamplingConfig(), sample_every)
    result = finetune(pipe, strategy, data, config, training, val, cache, prior, trackers, watchers)
    if processes().is_main_process:
        beside = {name: training / name for name in (HISTORY, GRIDS, TOKEN_PATH, TRACKERS)}
        save_trained(pipe, strategy, out, result.record | {"cost": result.cost}, beside)
        for folder in out.glob(f"{TRAINING}*"):  # optimiser states, three times the model's size each
            shutil.rmtree(folder)
    processes().wait_for_everyone()
    return result.history, result.cost


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
        "sampling": _plain(sampling),
        "rows": content_key(json.dumps([size, rows])),
        "model": content_key((model / RECORD).read_bytes()) if model else foundation_fingerprint(untrained),
    }
    stamp = out / SAMPLING
    found = _finished(stamp)
    if {name: found.get(name) for name in wanted} == wanted and (out / LATENTS).is_file():
        return load_set(out), found["cost"]
    pipe = untrained or load_trained(foundation, model, fuse=True)
    start = time.perf_counter()
    images, latents = draw(
        pipe,
        [row["text"] for row in rows],
        [row["seed"] for row in rows],
        sampling.steps,
        sampling.guidance_scale,
        sampling.batch_size,
        size,
        precision=sampling.precision,
        label=strategy.name,
    )
    seconds = time.perf_counter() - start
    cost = {"sampling_seconds": seconds, "sampling_images_per_second": len(rows) / seconds}
    write_samples(out, to_grey(images), rows)
    write_latents(out, latents)
    write_json(stamp, wanted | {"cost": cost})
    return load_set(out), cost


def _watchers(
    pipe: StableDiffusionXLPipeline,
    strategy: Strategy,
    data_dir: Path,
    training: Path,
    config: FinetuneConfig,
    sampling: SamplingConfig,
    sample_every: int,
) -> list[Watcher]:
    """What is drawn and kept on the way of a training."""
    watchers = []
    if sample_every and (data_dir / "test" / METADATA).exists():
        test = load_set(data_dir / "test")
        rows = progress_rows(evaluation_rows(test, strategy, sampling))
        steps, size = max(1, sampling.steps // 2), test.images.shape[1]
        watchers.append(watch_samples(pipe, rows, training / GRIDS, sample_every, steps, sampling.guidance_scale, size, sampling.precision))
    if strategy.token:
        watchers.append(watch_token(pipe, training / TOKEN_PATH, max(1, config.steps // TOKEN_POINTS)))
    return watchers


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


def _finished(path: Path) -> dict:
    """The record of earlier work, or {} where there is none or it is damaged: then the work is done again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _plain(value: object) -> dict:
    """A dataclass as what JSON gives back."""
    return json.loads(json.dumps(asdict(value)))
