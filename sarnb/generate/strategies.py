"""One line a strategy: train it, draw the evaluation set, record the cost; and find again what was drawn, if it may be compared.

What is complete is not done again. Also what a model draws while it trains, and the way of the learned word, whose rows are kept as
the textual-inversion file of each step.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from sarnb.data.dataset import Column, ImageSet, load_set
from sarnb.data.files import METADATA, content_key, kept, read_json, saving, write_json, write_png
from sarnb.errors import InputError
from sarnb.generate.prompts import prior_set
from sarnb.generate.sample import draw, evaluation_prompts, generate, read_latents, to_grey, write_latents, write_samples
from sarnb.model.export import RECORD, foundation_fingerprint, load_trained
from sarnb.model.foundation import load_foundation
from sarnb.model.strategy import STRATEGIES, Strategy, find_strategy
from sarnb.model.token import TOKEN, save_token, with_token
from sarnb.train import training
from sarnb.train.finetune import FinetuneConfig
from sarnb.train.loop import Watcher
from sarnb.train.machine import processes, uncounted_memory
from sarnb.train.training import GRIDS, TOKEN_PATH

SAMPLING = "sampling.json"
EDITION = 3  # of drawing, raised where the same settings draw other images: 2 by another sampler, 3 by last digits of the decoder


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
    within: str = "",
) -> StrategyResult:
    """Fine-tune by ``strategy`` on ``data_dir``, save, and draw every label of its test split.

    Folders: ``out_models/<within>/<strategy>/seed<k>``, the same below ``out_samples``, and ``out_models/cache``, which all
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
    name = Path(within) / strategy.name / f"seed{config.seed}"
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


# What the strategies drew: every samples folder of a results folder, whether it may be compared, and what it cost.

Seeds = Callable[[str], Sequence[int]] | None  # a strategy's name -> the training seeds that it should have
# what tables and figures call images that no strategy drew
RESERVED = ("reference", "reference vs reference", "reference, frozen decoder", "reference, tuned decoder", "optical as grey")
PROMPT = ("text", "label", "seed", "look")  # columns that say what an image was to show


@dataclass(frozen=True)
class DrawnSamples:
    """One samples folder, ``samples/<strategy>/seed<k>``.

    ``images``: what was drawn; None if it cannot be read. ``sampling``: the settings it was drawn with. ``cost``: training
    and drawing joined, as ``StrategyResult.cost``. ``problem``: why it must not be compared with the others; empty if it may.
    """

    strategy: str
    seed: int
    folder: Path
    images: ImageSet | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def find_runs(
    results: Path,
    test: ImageSet,
    wanted: Mapping[str, Any] | None = None,
    trained: Mapping[str, Any] | None = None,
    seeds: Seeds = None,
) -> list[DrawnSamples]:
    """Every finished samples folder of a results folder, the foundation's own first, then by strategy, rank and seed.

    Parameters
    ----------
    test : the real images, whose classes and sides were to be drawn.
    wanted : sampler settings (fields of ``SamplingConfig``) that all must share.
    trained : what all trainings must share: "foundation" (``foundation_fingerprint``), which the untouched foundation's
        images must come from too, "data" (``ImageSet.digest``), and fields of ``FinetuneConfig`` such as "steps".
    seeds : the training seeds that a strategy of this name should have.

    A folder that was drawn by other settings, for other classes, by a model that was trained otherwise or again since, or with
    a seed that is not among those, has a ``problem``. Where the model was deleted, its training is not looked at.
    """
    folders = [path.parent for path in (results / "samples").glob(f"*/seed*/{METADATA}") if re.fullmatch(r"seed\d+", path.parent.name)]
    runs = [_read(results, folder, test, wanted or {}, trained or {}, seeds) for folder in folders]
    return sorted(runs, key=lambda run: (strategy_order(run.strategy), run.seed))


def usable_runs(runs: Sequence[DrawnSamples]) -> list[DrawnSamples]:
    """The runs without a problem.

    Raises
    ------
    InputError
        No run is left; the message is the first problem if there is one.
    """
    usable = [run for run in runs if not run.problem]
    if not usable:
        why = f"{runs[0].folder}: {runs[0].problem}" if runs else "no strategy has drawn anything yet; run notebooks 02 and 05 to 09"
        raise InputError(f"nothing to evaluate: {why}")
    return usable


def strategy_order(name: str) -> tuple[int, int, str]:
    """Sort key: the order of ``STRATEGIES``, ranks of one LoRA strategy by their number, strange names last."""
    families = list(dict.fromkeys(_family(known)[0] for known in STRATEGIES))
    family, rank = _family(name)
    return (families.index(family) if family in families else len(families), rank, name)


def cost_table(runs: Sequence[DrawnSamples | StrategyResult]) -> pd.DataFrame:
    """What each run cost and no clock tells, a row each: the same in every run. NaN where the model is no longer there.

    Columns: strategy, seed, trainable parameters, images seen, checkpoint [MB] (10^6 bytes of the trained weights), caches.
    """
    entries = {"trainable parameters": "trainable_parameters", "images seen": "images_seen", "checkpoint [MB]": "checkpoint_bytes"}
    table = _costs(runs, entries).assign(caches=[", ".join(run.cost.get("caches", [])) or "none" for run in runs])
    return table.assign(**{"checkpoint [MB]": table["checkpoint [MB]"] * 1e-6})


def timing_table(runs: Sequence[DrawnSamples | StrategyResult]) -> pd.DataFrame:
    """What each run took of this machine, a row each: another run gives other numbers. NaN where nothing trained.

    Columns: strategy, seed, training [s], training [images/s], peak memory [MB] (10^6 bytes), drawing [images/s].
    """
    entries = {"training [s]": "seconds", "training [images/s]": "images_per_second"}
    return _costs(runs, entries | {"peak memory [MB]": "peak_memory_mb", "drawing [images/s]": "sampling_images_per_second"})


def _costs(runs: Sequence[DrawnSamples | StrategyResult], entries: Mapping[str, str]) -> pd.DataFrame:
    """Columns strategy, seed and those of ``entries``: name -> entry of a run's cost."""
    names = [(getattr(run.strategy, "name", run.strategy), run.seed) for run in runs]
    rows = [(*name, *(float(run.cost.get(key, np.nan)) for key in entries.values())) for name, run in zip(names, runs)]
    return pd.DataFrame(rows, columns=["strategy", "seed", *entries])


def _family(name: str) -> tuple[str, int]:
    """A strategy's name without its rank, and the rank (that of the family's default where the name has none)."""
    match = re.fullmatch(r"(.+)-r(\d+)", name)
    if match:
        return match[1], int(match[2])
    return name, STRATEGIES[name].rank if name in STRATEGIES and STRATEGIES[name].has_lora else 0


def _read(results: Path, folder: Path, test: ImageSet, wanted: Mapping[str, Any], trained: Mapping[str, Any], seeds: Seeds) -> DrawnSamples:
    name, seed = folder.parent.name, int(folder.name.removeprefix("seed"))
    record = results / "models" / name / folder.name / RECORD
    try:
        images = load_set(folder)
        stamp = json.loads((folder / SAMPLING).read_text(encoding="utf-8"))
        sampling, model_key = SamplingConfig(**stamp["sampling"]), stamp["model"]
        model = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        strategy = Strategy(**model["strategy"]) if model else STRATEGIES.get(name) or Strategy(name)
    except (InputError, OSError, ValueError, KeyError, TypeError) as error:
        return DrawnSamples(name, seed, folder, problem=f"its files cannot be read ({error}); run its notebook again")
    cost = {"trainable_parameters": 0, "seconds": 0.0, "checkpoint_bytes": 0} if name == "zero-shot" else {}
    cost = cost | model.get("cost", {}) | stamp.get("cost", {})
    # Images of the foundation itself are stamped with its fingerprint.
    record_of = model or ({"foundation": model_key} if name == "zero-shot" else {})
    problem = "tables call other images so; give the folder another name" if name in RESERVED else ""
    problem = (
        problem or _drawn_otherwise(images, test, strategy, sampling, wanted) or _trained_otherwise(name, seed, seeds, record_of, trained)
    )
    if not problem and model and model_key != content_key(record.read_bytes()):
        problem = "drawn by an earlier model than the one that is there; run its notebook again"
    return DrawnSamples(name, seed, folder, images, asdict(sampling), cost, problem)


def _drawn_otherwise(images: ImageSet, test: ImageSet, strategy: Strategy, sampling: SamplingConfig, wanted: Mapping[str, Any]) -> str:
    """Why images must not be compared: other settings, another size, or other prompts than the test images ask for."""
    for name, value in wanted.items():
        if getattr(sampling, name) != value:
            return f"drawn with {name} {getattr(sampling, name)}, not {value}; run its notebook again"
    if images.images.shape[1:] != test.images.shape[1:]:
        return f"drawn at {images.images.shape[1]} px, the test images have {test.images.shape[1]} px; run its notebook again"
    shown, requested = (
        [[row.get(name) for name in PROMPT] for row in rows] for rows in (images.rows, evaluation_rows(test, strategy, sampling))
    )
    return "" if shown == requested else "drawn for other classes, sides or seeds than the test images ask for; run its notebook again"


def _trained_otherwise(name: str, seed: int, seeds: Seeds, record: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """Why a model does not belong: a seed left from a run with others, another foundation, other data, or another setting."""
    expected = [seed] if seeds is None else list(seeds(name))
    if seed not in expected:
        return f"of the training seed {seed}, this profile trains {', '.join(map(str, expected))}; delete the folder or add the seed"
    held = record.get("config", {}) | {key: record[key] for key in ("foundation", "data") if key in record}
    for key, value in trained.items():
        if key in held and held[key] != value:
            return f"trained with {key} {held[key]}, not {value}; run its notebook again"
    return ""


# ---- what a model draws while it trains: a few prompts, always from the same noise, every so many steps ----

PROMPTS = "prompts.json"
IMAGES = 4  # prompts of a grid; this project's choice, as many as cost a quick run a few seconds
TOKEN_POINTS = 20  # points of the word's way, its start not counted


@dataclass(frozen=True)
class Progress:
    """The grids of one training: ``images`` step → uint8 [n, H, W, 3]; ``rows``: what each column shows."""

    images: dict[int, np.ndarray]
    rows: tuple[dict, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The classes, as figures take them; groups stand together."""
        return tuple(Column(row["group"], row["label"]) for row in self.rows)

    def named(self) -> dict[str, np.ndarray]:
        """The grids, images uint8 [N, H, W, 3] each, by what a figure calls them, in the order of their steps."""
        return {f"step {step}": images for step, images in self.images.items()}


def progress_rows(rows: Sequence[dict]) -> list[dict]:
    """At most ``IMAGES`` of the evaluation's rows: an image of some classes, half of them unseen where there are any.

    Compositions are left out. Of each group the classes are taken evenly from its first to its last. Every second row shows the
    other side, where the evaluation asks for both.
    """
    first = {row["label"] or row["seed"]: row for row in reversed(rows)}
    turned = {row["label"]: row for row in reversed(rows) if row["label"] and row.get("look") != first[row["label"]].get("look")}
    ones = sorted(first.values(), key=rows.index)
    unseen = _evenly([row for row in ones if row["group"] == "unseen"], IMAGES // 2)
    chosen = _evenly([row for row in ones if row["group"] == "seen"], IMAGES - len(unseen)) + unseen
    return [turned.get(row["label"], row) if place % 2 else row for place, row in enumerate(chosen)]


def watch_samples(
    pipe: StableDiffusionXLPipeline,
    rows: Sequence[dict],
    folder: Path,
    every: int,
    steps: int,
    guidance_scale: float,
    size: int,
    precision: str = "auto",
) -> Watcher:
    """Draws ``rows`` (text, seed, label, group) into ``folder/step<k>.png``, one image next to the other, each step once.

    ``steps`` denoising steps, images of ``size`` px. Grids of other prompts or another sampler in ``folder`` are removed.
    """
    wanted = {"rows": list(rows), "steps": steps, "guidance_scale": guidance_scale, "size": size}
    if processes().is_main_process:
        with saving(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if read_json(folder / PROMPTS) != wanted:
                for path in folder.glob("step*.png"):
                    path.unlink()
                write_json(folder / PROMPTS, wanted)
    processes().wait_for_everyone()

    def draw(step: int) -> None:
        path = folder / f"step{step:06d}.png"
        if path.exists():
            return
        texts, seeds = [row["text"] for row in rows], [row["seed"] for row in rows]
        # One image at a time where they are large: drawing should not need more memory than training.
        batch = max(1, len(rows) * 128**2 // size**2)
        with uncounted_memory():  # the cost is that of training
            images = generate(pipe, texts, seeds, steps, guidance_scale, batch, size, precision, label=f"step {step}")
        if processes().is_main_process:
            with _whole(path) as temporary:
                write_png(temporary, np.concatenate(list(images), axis=1))

    return Watcher(every, draw)


def read_progress(model: Path) -> Progress | None:
    """The grids that the training of ``model`` left; None where none were drawn (``sample_every`` 0)."""
    stored = read_json(Path(model) / GRIDS / PROMPTS)
    paths = sorted((Path(model) / GRIDS).glob("step*.png"))
    if not stored or not paths:
        return None
    strips = {int(path.stem.removeprefix("step")): np.asarray(Image.open(path).convert("RGB")) for path in paths}
    count = len(stored["rows"])
    images = {step: np.stack(np.split(strip, count, axis=1)) for step, strip in sorted(strips.items())}
    return Progress(images, tuple(stored["rows"]))


def watch_token(pipe: StableDiffusionXLPipeline, folder: Path, every: int) -> Watcher:
    """Saves the learned word's rows as ``folder/learned_embeds-<step>.safetensors``, as they are with the moving average."""

    def keep(step: int) -> None:
        path, writes = folder / f"learned_embeds-{step:06d}.safetensors", processes().is_main_process
        if path.exists():
            return
        with _whole(path, writes) as temporary:
            save_token(pipe, temporary, writes=writes)

    return Watcher(every, keep)


def token_files(model: Path) -> dict[int, Path]:
    """Step → file of the word's rows, in the order of the steps, that the training of ``model`` left."""
    paths = sorted((Path(model) / TOKEN_PATH).glob("learned_embeds-*.safetensors"))
    return {int(path.stem.rpartition("-")[2]): path for path in paths}


@contextmanager
def _whole(path: Path, writes: bool = True) -> Iterator[Path]:
    """A temporary file to be written, which becomes ``path`` at the end; readers see all of it or none."""
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield (temporary := path.with_name(f".{path.name}.partial"))
        if writes:
            os.replace(temporary, path)


def _evenly(rows: Sequence[dict], count: int) -> list[dict]:
    """``count`` of the rows, the first and the last among them."""
    count = min(count, len(rows))
    return [rows[index] for index in np.linspace(0, len(rows) - 1, count).round().astype(int)] if count else []
