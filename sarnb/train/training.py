"""One strategy's training on disk, done once: its learning rates from a small grid, and the model that is saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pandas as pd
from diffusers import StableDiffusionXLPipeline

from sarnb.data.dataset import load_set
from sarnb.data.files import METADATA, check_out, claim, content_key, kept, working_in
from sarnb.errors import DivergedError, InputError
from sarnb.model.export import MODEL, MODEL_FILES, RECORD, foundation_fingerprint, save_trained
from sarnb.model.foundation import load_foundation
from sarnb.model.strategy import Strategy, find_strategy
from sarnb.train.finetune import FinetuneConfig, FinetuneResult, PriorSet, check_captions, finetune, training_record
from sarnb.train.loop import HISTORY, Watcher
from sarnb.train.machine import processes
from sarnb.train.state import CHECKPOINT, TRACKERS

TRIAL = "trial.json"
TRAINING = ".training-"  # folder of a training that is under way, below that of the finished model
#: Rate -> the strategy that trains its component and nothing else, on which the rate is tried.
ALONE = {
    "lr_unet_full": "unet-full",
    "lr_unet_scratch": "scratch",
    "lr_unet_lora": "unet-lora",
    "lr_text_full": "te-full",
    "lr_text_lora": "te-lora",
    "lr_token": "token",
}
GRIDS, TOKEN_PATH = "grids", "token_path"  # what watchers leave, see ``sarnb.generate.progress``


@dataclass(frozen=True)
class RateChoice:
    """The configuration with the chosen rates, and the grid: columns strategy, rate, tried on, factor, value, steps, held_out, chosen."""

    config: FinetuneConfig
    table: pd.DataFrame

    @property
    def remark(self) -> str:
        """Where each chosen factor stands in the grid: at an end of it, the best rate may lie beyond."""
        factors = sorted(self.table["factor"].unique())
        if len(factors) == 1:
            return f"nothing was tried, its rates are those of the profile times {factors[0]:g}."
        chosen, grid = self.table[self.table["chosen"]].set_index("rate")["factor"], ", ".join(f"{factor:g}" for factor in factors)
        ends = {factors[0]: "the smallest: the best rate may lie beyond", factors[-1]: "the largest: the best rate may lie beyond"}
        places = [f"{rate} times {factor:g} ({ends.get(factor, 'inside the grid')})" for rate, factor in chosen.items()]
        return f"of the factors {grid} the lowest held-out loss chose {'; '.join(places)}."


def rates_of(strategy: Strategy, config: FinetuneConfig) -> dict[str, float]:
    """The learning rates that a strategy uses, by the configuration's names."""
    names = [f"lr_{part}_{getattr(strategy, part)}" for part in ("unet", "text") if getattr(strategy, part) != "frozen"]
    return {name: getattr(config, name) for name in names + ["lr_token"] * strategy.token}


def tune_rates(
    strategy: Strategy, foundation: str, data_dir: Path, out: Path, config: FinetuneConfig, factors: Sequence[float], steps: int
) -> RateChoice:
    """For each rate of a strategy try every factor for ``steps`` steps; a finished trial in ``out`` is read back.

    A rate is tried on the strategy that trains its component and nothing else (``ALONE``), so that strategies which share a
    component train it at one rate, and a comparison of two is not one of rates. What is best for a component by itself need
    not be best beside others. With one factor nothing is tried: the table then holds it, without a held-out loss.

    Raises
    ------
    InputError : no factor, a factor that is not positive, a set without validation images, and what ``finetune`` refuses.
    """
    if not factors or min(factors) <= 0:
        raise InputError(f"learning-rate factors are {list(factors)}; give at least one, all above 0")
    rows = []
    for name, rate in rates_of(strategy, config).items():
        others = {item.name: item.default for item in fields(config) if item.name.startswith("lr_") and item.name != name}
        for factor in factors:
            # The same trial for every strategy with this component: rates that it does not use are no part of it.
            trial = replace(config, **others, **{name: factor * rate}, steps=steps, warmup_steps=min(config.warmup_steps, steps // 4))
            alone = find_strategy(ALONE[name])
            held_out = float("nan") if len(factors) == 1 else _try(alone, foundation, Path(data_dir), Path(out), trial)
            rows.append((strategy.name, name, alone.name, factor, factor * rate, steps, held_out))
    table = pd.DataFrame(rows, columns=["strategy", "rate", "tried on", "factor", "value", "steps", "held_out"])
    best = table.index if len(factors) == 1 else table.groupby("rate")["held_out"].idxmin()
    table["chosen"] = table.index.isin(best)
    return RateChoice(replace(config, **dict(table.loc[table["chosen"], ["rate", "value"]].to_numpy())), table)


def differing_settings(trained: Mapping[str, FinetuneConfig]) -> pd.DataFrame:
    """Every setting in which strategies that are compared differ, but their seeds: a row a setting, a column a strategy.

    Parameters
    ----------
    trained : name of a strategy -> how it is trained. Settings that a strategy has no use for, such as the rank of one
        without LoRA, are "none".
    """
    columns = {}
    for name, config in trained.items():
        strategy = find_strategy(name)
        unused = {"name"} | (set() if strategy.has_rank else {"rank", "alpha"}) | (set() if strategy.token else {"init"})
        settings = {key: value for key, value in asdict(strategy).items() if key not in unused}
        settings |= {
            key: value for key, value in asdict(config).items() if not key.startswith("lr_") and key not in ("seed", "learning_rate")
        }
        columns[name] = settings | {key: f"{value:.3g}" for key, value in rates_of(strategy, config).items()}
    table = pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in columns.items()}).astype(object)
    table = table.where(table.notna(), "none").rename_axis("setting")
    return table[table.astype(str).nunique(axis=1) > 1].reset_index()


def _try(strategy: Strategy, foundation: str, data_dir: Path, out: Path, config: FinetuneConfig) -> float:
    """Held-out loss at the end of one short training, infinite where it diverged; its checkpoint is not kept."""
    data, val = load_set(data_dir / "train"), load_set(data_dir / "val")
    pipe = load_foundation(foundation)
    parts = [json.dumps(asdict(value), sort_keys=True) for value in (strategy, config)]
    folder = out / content_key(*parts, foundation_fingerprint(pipe), data.digest, val.digest)

    def make() -> dict[str, float | None]:
        try:
            history = finetune(pipe, strategy, data, config, folder, val, out.parent / "cache").history
            held_out = float(history["held_out"].dropna().iloc[-1])
        except DivergedError:
            held_out = None  # loses against every other rate
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return {"held_out": held_out}

    with working_in(folder) if processes().is_main_process else nullcontext():  # another notebook may try the same
        processes().wait_for_everyone()
        held_out = kept(folder, {"strategy": strategy.name}, make, lambda note: note["held_out"], TRIAL, alone=False)
    return float("inf") if held_out is None else held_out


def train(
    strategy: Strategy,
    foundation: str,
    data_dir: Path,
    out: Path,
    config: FinetuneConfig,
    cache: Path | None = None,
    prior: Callable[[StableDiffusionXLPipeline], PriorSet | None] = lambda pipe: None,
    watchers: Callable[[StableDiffusionXLPipeline, Path], Sequence[Watcher]] = lambda pipe, folder: (),
    trackers: Sequence[str] = (),
) -> tuple[pd.DataFrame, dict]:
    """Fine-tune and save into ``out`` unless it holds the same training, finished.

    Parameters
    ----------
    data_dir : its ``train`` teaches; its ``val``, where there is one, gives the held-out loss.
    cache : folder for caches that all strategies share.
    prior : the foundation -> its pictures, for a strategy with prior preservation.
    watchers : the foundation and the folder of the training -> what follows it; what they leave in ``grids`` and
        ``token_path`` there is kept with the model. None of this changes what is trained.
    trackers : such as ``["tensorboard"]``; their files are kept in ``out/trackers``.

    Returns
    -------
    history, cost : see ``FinetuneResult``.
    """
    data = load_set(data_dir / "train")
    val = load_set(data_dir / "val") if (data_dir / "val" / METADATA).exists() else None
    for part in (part for part in (data, val) if part is not None):
        check_captions(part)  # before anything is loaded or written
    pipe = load_foundation(foundation)
    pictures = prior(pipe)
    wanted = training_record(pipe, strategy, data, config, pictures)

    beside = (GRIDS, TOKEN_PATH, TRACKERS)

    def tune(training: Path) -> FinetuneResult:
        return finetune(pipe, strategy, data, config, training, val, cache, pictures, trackers, watchers(pipe, training))

    return keep_trained(pipe, strategy, out, wanted, tune, beside)


def keep_trained(
    pipe: StableDiffusionXLPipeline,
    strategy: Strategy,
    out: Path,
    record: dict,
    tune: Callable[[Path], FinetuneResult],
    beside: Sequence[str] = (),
) -> tuple[pd.DataFrame, dict]:
    """History and cost of the finished training in ``out``, if it is one of the same ``record``; else ``tune`` trains and it is saved.

    ``tune`` gets the folder of the training that is under way; of the names ``beside`` what it leaves there is kept as well.
    """

    def make() -> None:
        # A folder for each set of settings: a training that is under way leaves a finished one alone until it is done itself.
        training = out / f"{TRAINING}{content_key(json.dumps(record, sort_keys=True))}"
        if processes().is_main_process:  # hours before the model is saved
            check_out(out, MODEL, names=(*MODEL_FILES, HISTORY, *(f"{name}/*" for name in beside)))
            claim(out, MODEL, names=(f"{TRAINING}*",))
        result = tune(training)
        if processes().is_main_process:
            kept_beside = {name: training / name for name in (HISTORY, *beside)}
            save_trained(pipe, strategy, out, result.record | {"cost": result.cost}, kept_beside, result.network)
            for folder in out.glob(f"{TRAINING}*"):  # optimiser states, three times the model's size each
                shutil.rmtree(folder)
        processes().wait_for_everyone()

    # Of processes that train together the main one holds the folder; the others begin when it does.
    with working_in(out) if processes().is_main_process else nullcontext():
        processes().wait_for_everyone()
        return kept(out, record, make, lambda found: (pd.read_csv(out / HISTORY), found["cost"]), RECORD, alone=False)
