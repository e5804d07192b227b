"""What the strategies drew: every samples folder of a results folder, whether it may be compared, and what it cost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sarnb.data.dataset import ImageSet, load_set
from sarnb.data.files import METADATA, content_key
from sarnb.errors import InputError
from sarnb.generate.strategies import SAMPLING, SamplingConfig, StrategyResult, evaluation_rows
from sarnb.model.export import RECORD
from sarnb.model.strategy import STRATEGIES, Strategy

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
    seeds: Callable[[str], Sequence[int]] | None = None,
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
    a seed that is not among those, has a ``problem``. Where the model was deleted, its training is not asked for.
    """
    folders = [path.parent for path in (results / "samples").glob(f"*/seed*/{METADATA}") if re.fullmatch(r"seed\d+", path.parent.name)]
    runs = [_read(results, folder, test, dict(wanted or {}), dict(trained or {}), seeds) for folder in folders]
    return sorted(runs, key=lambda run: (strategy_order(run.strategy), run.seed))


def usable_runs(runs: Sequence[DrawnSamples]) -> list[DrawnSamples]:
    """The runs without a problem. Raises InputError where none is left, with the first problem if there is one."""
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
    numbers = {
        "trainable parameters": ("trainable_parameters", 1.0),
        "images seen": ("images_seen", 1.0),
        "checkpoint [MB]": ("checkpoint_bytes", 1e-6),
    }
    return _costs(runs, numbers).assign(caches=[", ".join(run.cost.get("caches", [])) or "none" for run in runs])


def timing_table(runs: Sequence[DrawnSamples | StrategyResult]) -> pd.DataFrame:
    """What each run took of this machine, a row each: another run gives other numbers. NaN where nothing trained.

    Columns: strategy, seed, training [s], training [images/s], peak memory [MB] (10^6 bytes), drawing [images/s].
    """
    numbers = {
        "training [s]": ("seconds", 1.0),
        "training [images/s]": ("images_per_second", 1.0),
        "peak memory [MB]": ("peak_memory_mb", 1.0),
        "drawing [images/s]": ("sampling_images_per_second", 1.0),
    }
    return _costs(runs, numbers)


def _costs(runs: Sequence[DrawnSamples | StrategyResult], numbers: Mapping[str, tuple[str, float]]) -> pd.DataFrame:
    """Columns strategy, seed and those of ``numbers``: name -> (entry of a run's cost, factor)."""
    rows = [
        {"strategy": getattr(run.strategy, "name", run.strategy), "seed": run.seed}
        | {name: float(run.cost.get(key, np.nan)) * factor for name, (key, factor) in numbers.items()}
        for run in runs
    ]
    return pd.DataFrame(rows, columns=["strategy", "seed", *numbers])


def _family(name: str) -> tuple[str, int]:
    """A strategy's name without its rank, and the rank (that of the family's default where the name has none)."""
    match = re.fullmatch(r"(.+)-r(\d+)", name)
    if match:
        return match[1], int(match[2])
    return name, STRATEGIES[name].rank if name in STRATEGIES and STRATEGIES[name].has_lora else 0


def _read(
    results: Path,
    folder: Path,
    test: ImageSet,
    wanted: dict[str, Any],
    trained: dict[str, Any],
    seeds: Callable[[str], Sequence[int]] | None,
) -> DrawnSamples:
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
    problem = _problem(images, test, strategy, sampling, wanted) or _other_seed(name, seed, seeds)
    if not problem:
        # Images of the foundation itself are stamped with its fingerprint.
        problem = _other_training(model or ({"foundation": model_key} if name == "zero-shot" else {}), trained)
    if not problem and model and model_key != content_key(record.read_bytes()):
        problem = "drawn by an earlier model than the one that is there; run its notebook again"
    return DrawnSamples(name, seed, folder, images, asdict(sampling), cost, problem)


def _problem(images: ImageSet, test: ImageSet, strategy: Strategy, sampling: SamplingConfig, wanted: dict[str, Any]) -> str:
    """Why images must not be compared: other settings, another size, or other prompts than the test images ask for."""
    for name, value in wanted.items():
        if getattr(sampling, name) != value:
            return f"drawn with {name} {getattr(sampling, name)}, not {value}; run its notebook again"
    if images.images.shape[1:] != test.images.shape[1:]:
        return f"drawn at {images.images.shape[1]} px, the test images have {test.images.shape[1]} px; run its notebook again"
    requested = evaluation_rows(test, strategy, sampling)
    if [{name: row.get(name) for name in PROMPT} for row in images.rows] != [{name: row[name] for name in PROMPT} for row in requested]:
        return "drawn for other classes, sides or seeds than the test images ask for; run its notebook again"
    return ""


def _other_seed(name: str, seed: int, seeds: Callable[[str], Sequence[int]] | None) -> str:
    """Why a seed does not belong: left from a run with others."""
    expected = [seed] if seeds is None else list(seeds(name))
    if seed in expected:
        return ""
    return f"of the training seed {seed}, this profile trains {', '.join(map(str, expected))}; delete the folder or add the seed"


def _other_training(record: dict[str, Any], trained: dict[str, Any]) -> str:
    """Why a model does not belong: its record names another foundation, other data, or another setting such as the steps."""
    held = record.get("config", {}) | {name: record[name] for name in ("foundation", "data") if name in record}
    for name, value in trained.items():
        if name in held and held[name] != value:
            return f"trained with {name} {held[name]}, not {value}; run its notebook again"
    return ""


SampleRun = DrawnSamples  # goes when no notebook uses it
