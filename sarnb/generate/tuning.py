"""Learning rates from the same small grid for every strategy, chosen on the validation split.

A strategy's rates (UNet, text encoders, token) are scaled together by each factor of the grid. A short training with
each tells the held-out loss; the lowest wins. Losses are compared within one strategy only: they share its captions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from sarnb.data.dataset import load_set
from sarnb.data.files import write_json
from sarnb.errors import DivergedError, InputError
from sarnb.model.export import foundation_fingerprint
from sarnb.model.foundation import load_foundation
from sarnb.model.strategy import Strategy
from sarnb.train.cache import content_key
from sarnb.train.checkpoint import NAME as CHECKPOINT
from sarnb.train.finetune import FinetuneConfig, PriorSet, finetune, training_key
from sarnb.train.history import last

TRIAL = "trial.json"


@dataclass(frozen=True)
class RateChoice:
    """The configuration with the chosen rates, and the grid: columns strategy, factor, one a rate, steps, held_out, chosen."""

    config: FinetuneConfig
    table: pd.DataFrame


def rates_of(strategy: Strategy, config: FinetuneConfig) -> dict[str, float]:
    """The learning rates that a strategy uses, by the configuration's names."""
    names = [f"lr_{part}_{getattr(strategy, part)}" for part in ("unet", "text") if getattr(strategy, part) != "frozen"]
    return {name: getattr(config, name) for name in names + ["lr_token"] * strategy.token}


def scaled(strategy: Strategy, config: FinetuneConfig, factor: float) -> FinetuneConfig:
    """The configuration with the strategy's own rates times ``factor``."""
    return replace(config, **{name: factor * rate for name, rate in rates_of(strategy, config).items()})


def tune_rates(
    strategy: Strategy, foundation: str, data_dir: Path, out: Path, config: FinetuneConfig, factors: Sequence[float], steps: int,
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


def grid_sentences(table: pd.DataFrame) -> list[str]:
    """One sentence a strategy on where its chosen factor stands in the grid: at an end, the best rate may lie beyond.

    ``table``: that of a ``RateChoice``, or several below each other.
    """
    lines = []
    for name, rows in table.groupby("strategy", sort=False):
        factors, chosen = sorted(rows["factor"]), float(rows.loc[rows["chosen"], "factor"].iloc[0])
        if len(factors) == 1:
            lines.append(f"{name}: nothing was tried, its rates are those of the profile times {chosen:g}.")
            continue
        grid = ", ".join(f"{factor:g}" for factor in factors)
        ends = {factors[0]: "smallest", factors[-1]: "largest"}
        place = f"the {ends[chosen]} of the grid ({grid}): the best rate may lie beyond" if chosen in ends else f"inside the grid ({grid})"
        lines.append(f"{name}: the chosen factor {chosen:g} is {place}.")
    return lines


def _try(
    strategy: Strategy, foundation: str, data_dir: Path, out: Path, config: FinetuneConfig, prior: PriorSet | None
) -> float:
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
