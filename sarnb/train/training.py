"""One strategy's training on disk, done once: its learning rates from a small grid, and the model that is saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from diffusers import StableDiffusionXLPipeline

from sarnb.data.dataset import load_set
from sarnb.data.files import METADATA, check_out, claim, content_key, kept, working_in
from sarnb.errors import DivergedError, InputError
from sarnb.model.export import MODEL, MODEL_FILES, RECORD, foundation_fingerprint, save_trained
from sarnb.model.foundation import load_foundation
from sarnb.model.strategy import Strategy, find_strategy
from sarnb.train.diffusion import held_out_errors
from sarnb.train.finetune import FinetuneConfig, FinetuneResult, PriorSet, check_captions, finetune, held_out_part, training_record
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
#: Band of noise -> the parts of the schedule at which its held-out loss is measured. Speckle is settled in the first, layout in the last.
BANDS = {"low noise": (0.075, 0.225), "middle noise": (0.4, 0.6), "high noise": (0.775, 0.925)}
ACCURACIES = ("left out", "trained")  # of the classes that a trial did not see, and of those that it did
GROWTHS = 3  # factors that a grid gets beyond its ends, at most
#: (fine-tuned pipeline, strategy, classes) -> the share of pictures drawn of these classes that a judge recognises.
Grade = Callable[[StableDiffusionXLPipeline, Strategy, Sequence[str]], float]
GRIDS, TOKEN_PATH = "grids", "token_path"  # what watchers leave, see ``sarnb.generate.strategies``


@dataclass(frozen=True)
class RateChoice:
    """The configuration with the chosen rates, and the grid.

    Columns of the table: strategy, rate, tried on, factor, value, steps; of a grid of several factors also held_out, the accuracy
    of classes "left out" and "trained", the held-out loss of each of ``BANDS``, and score; then chosen.
    """

    config: FinetuneConfig
    table: pd.DataFrame

    @property
    def remark(self) -> str:
        """Where each chosen factor stands in its grid: at an end of it, the best rate may lie beyond."""
        chosen = self.table[self.table["chosen"]].set_index("rate")["factor"]
        places = []
        for rate, part in self.table.groupby("rate", sort=False):
            factors = sorted(part["factor"])
            if len(factors) == 1:
                return f"nothing was tried, its rates are those of the profile times {factors[0]:g}."
            ends = {factors[0]: "the smallest: the best rate may lie beyond", factors[-1]: "the largest: the best rate may lie beyond"}
            grid = ", ".join(f"{factor:g}" for factor in factors)
            places.append(f"{rate} times {chosen[rate]:g} of {grid} ({ends.get(chosen[rate], 'inside the grid')})")
        return f"the highest score chose {'; '.join(places)}."


def rates_of(strategy: Strategy, config: FinetuneConfig) -> dict[str, float]:
    """The learning rates that a strategy uses, by the configuration's names."""
    names = [f"lr_{part}_{getattr(strategy, part)}" for part in ("unet", "text") if getattr(strategy, part) != "frozen"]
    return {name: getattr(config, name) for name in names + ["lr_token"] * strategy.token}


def left_out_classes(labels: Sequence[str]) -> tuple[str, ...]:
    """The two classes that a trial does not see: at one and three quarters of the alphabetical list; none of fewer than four.

    >>> left_out_classes(["river", "city", "forest", "coast", "city"])
    ('coast', 'river')
    """
    classes = sorted({label for label in labels if label})
    return (classes[len(classes) // 4], classes[3 * len(classes) // 4]) if len(classes) >= 4 else ()


def score_trials(trials: pd.DataFrame) -> pd.Series:
    """How good each trial of one rate is: the mean of its two accuracies and of its loss by bands.

    The third number is the mean over ``BANDS`` of the lowest loss of any trial in this band by that of this trial, so that low noise,
    which makes up most of a plain loss, counts as much as high noise. All three lie between 0 and 1; what is NaN does not count.
    """
    losses = trials[list(BANDS)]
    bands = (losses.min() / losses).mean(axis=1)
    return pd.concat([trials[list(ACCURACIES)], bands], axis=1).mean(axis=1)


def tune_rates(
    strategy: Strategy,
    foundation: str,
    data_dir: Path,
    out: Path,
    config: FinetuneConfig,
    factors: Sequence[float],
    steps: int,
    grade: Grade | None = None,
) -> RateChoice:
    """For each rate of a strategy try every factor for ``steps`` steps; a finished trial in ``out`` is read back.

    A rate is tried on the strategy that trains its component and nothing else (``ALONE``), so that strategies which share a
    component train it at one rate, and a comparison of two is not one of rates. What is best for a component by itself need
    not be best next to others. A trial does not see two of the classes (``left_out_classes``); the highest ``score_trials`` is
    chosen, which asks ``grade`` for classes that the trial saw and for those that it did not, as the study does. Where the
    choice is an end of the grid, the grid grows there by its own ratio, ``GROWTHS`` times at most. With one factor nothing is
    tried: the table then holds it alone.

    Raises
    ------
    InputError
        No factor, a factor that is not positive, a set without validation images, and what ``finetune`` refuses.
    """
    if not factors or min(factors) <= 0:
        raise InputError(f"learning-rate factors are {list(factors)}; give at least one, all above 0")
    tables = []
    for name, rate in rates_of(strategy, config).items():
        others = {item.name: item.default for item in fields(config) if item.name.startswith("lr_") and item.name != name}
        alone, rows, wanted = find_strategy(ALONE[name]), {}, sorted(set(factors))
        for _ in range(GROWTHS + 1):
            for factor in wanted:
                # The same trial for every strategy with this component: rates that it does not use are no part of it.
                trial = replace(config, **others, **{name: factor * rate}, steps=steps, warmup_steps=min(config.warmup_steps, steps // 4))
                row = {"strategy": strategy.name, "rate": name, "tried on": alone.name, "factor": factor, "value": factor * rate}
                tried = {} if len(factors) == 1 else _try(alone, foundation, Path(data_dir), Path(out), trial, grade)
                rows[factor] = row | {"steps": steps} | tried
            table = pd.DataFrame([rows[factor] for factor in sorted(rows)])
            if len(table) == 1:
                break
            table["score"] = score_trials(table)
            place = int(table["score"].argmax())
            if 0 < place < len(table) - 1:
                break
            end, next_to_it = table["factor"].iloc[[0, 1] if place == 0 else [-1, -2]]
            wanted = [end * end / next_to_it]
        table["chosen"] = table.index == (0 if len(table) == 1 else place)
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
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


def _try(strategy: Strategy, foundation: str, data_dir: Path, out: Path, config: FinetuneConfig, grade: Grade | None) -> dict[str, float]:
    """Losses and accuracies at the end of one short training; infinite and 0 where it diverged. Its checkpoint is not kept."""
    data, val = load_set(data_dir / "train"), load_set(data_dir / "val")
    hidden = left_out_classes(data.labels) if grade else ()
    shown = data.subset(np.array([label not in hidden for label in data.labels]))
    pipe = load_foundation(foundation)
    parts = [json.dumps(asdict(value), sort_keys=True) for value in (strategy, config)]
    folder = out / content_key(*parts, foundation_fingerprint(pipe), shown.digest, val.digest, "graded" if grade else "by loss")

    def make() -> dict[str, float | None]:
        found: dict[str, float | None] = dict.fromkeys(("held_out", *BANDS)) | dict.fromkeys(ACCURACIES, 0.0)
        try:
            history = finetune(pipe, strategy, shown, config, folder, val, out.parent / "cache").history
            found["held_out"] = float(history["held_out"].dropna().iloc[-1])
            latents, captions = held_out_part(pipe, strategy, val, config, out.parent / "cache")
            horizon = pipe.scheduler.config.num_train_timesteps
            for band, places in BANDS.items():
                timesteps = [int(place * horizon) for place in places]
                errors = held_out_errors(pipe, latents, captions, timesteps, config.batch_size, config.precision)
                found[band] = float(errors.mean())
            for name, classes in zip(ACCURACIES, (hidden, sorted(set(shown.labels)))):
                found[name] = grade(pipe, strategy, classes) if grade and any(classes) else None
        except DivergedError:
            pass  # loses against every other rate
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return found

    def load(note: dict[str, float | None]) -> dict[str, float]:
        missing = dict.fromkeys(("held_out", *BANDS), float("inf")) | dict.fromkeys(ACCURACIES, float("nan"))
        return {name: missing[name] if note[name] is None else note[name] for name in missing}

    with working_in(folder) if processes().is_main_process else nullcontext():  # another notebook may try the same
        processes().wait_for_everyone()
        return kept(folder, {"strategy": strategy.name}, make, load, TRIAL, alone=False)


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
    processes()  # of several, each has its own card from here on, on which it may draw what is to be preserved
    pipe = load_foundation(foundation)
    pictures = prior(pipe)
    wanted = training_record(pipe, strategy, data, config, pictures)

    companions = (GRIDS, TOKEN_PATH, TRACKERS)

    def tune(training: Path) -> FinetuneResult:
        return finetune(pipe, strategy, data, config, training, val, cache, pictures, trackers, watchers(pipe, training))

    return keep_trained(pipe, strategy, out, wanted, tune, companions)


def keep_trained(
    pipe: StableDiffusionXLPipeline,
    strategy: Strategy,
    out: Path,
    record: dict,
    tune: Callable[[Path], FinetuneResult],
    companions: Sequence[str] = (),
) -> tuple[pd.DataFrame, dict]:
    """History and cost of the finished training in ``out``, if it is one of the same ``record``; else ``tune`` trains and it is saved.

    ``tune`` gets the folder of the training that is under way; of the names ``companions`` what it leaves there is kept as well.
    """

    def make() -> None:
        # A folder for each set of settings: a training that is under way leaves a finished one alone until it is done itself.
        training = out / f"{TRAINING}{content_key(json.dumps(record, sort_keys=True))}"
        if processes().is_main_process:  # hours before the model is saved
            check_out(out, MODEL, names=(*MODEL_FILES, HISTORY, *(f"{name}/*" for name in companions)))
            claim(out, MODEL, names=(f"{TRAINING}*",))
        result = tune(training)
        if processes().is_main_process:
            kept_companions = {name: training / name for name in (HISTORY, *companions)}
            save_trained(pipe, strategy, out, result.record | {"cost": result.cost}, kept_companions, result.network)
            for folder in out.glob(f"{TRAINING}*"):  # optimiser states, three times the model's size each
                shutil.rmtree(folder)
        processes().wait_for_everyone()

    # Of processes that train together the main one holds the folder; the others begin when it does.
    with working_in(out) if processes().is_main_process else nullcontext():
        processes().wait_for_everyone()
        return kept(out, record, make, lambda found: (pd.read_csv(out / HISTORY), found["cost"]), RECORD, alone=False)
