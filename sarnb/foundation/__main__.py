"""``python -m sarnb.foundation --minutes M --device cuda|cpu --out DIR``: pretrain the foundation in the time there is.

A rehearsal of a few steps measures how fast each stage runs on this machine; the steps are planned from it and written to
``plan.json``, so that a run that was killed goes on with the same plan. All cores draw scenes while the first stage trains.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from transformers import CLIPTextModelWithProjection

from sarnb import foundation_path
from sarnb.data.files import write_json
from sarnb.errors import InputError
from sarnb.foundation.recipe import (
    FoundationRecipe,
    Pictures,
    carry_history,
    export_foundation,
    pretrain_foundation,
    radar_captions,
    stage_history,
    styled_pictures,
)
from sarnb.model.foundation import FoundationConfig, load_foundation
from sarnb.model.judge import DualEncoder
from sarnb.train.machine import processes
from sarnb.world.styles import STYLES

SHARES = {"linear": 0.03, "vae": 0.25, "text": 0.15, "unet": 0.50}  # of the minutes; the rest draws and exports
ON = {"text": 0.12, "unet": 0.78}  # the same where the start's autoencoder and latents stay
LEAST = 50  # steps of a stage, below which it teaches nothing
REHEARSAL = 25  # steps
FIRST = 8  # the first stage begins with this part of the scenes
GPU = {"vae_batch": 128, "text_batch": 512, "unet_batch": 512, "unet_rate": 1e-3, "scenes": 60_000}  # not tried on a card yet
GOES_ON = {  # one cycle each, at the rates and weights of the recipe's last one
    "text_steps": (600,),
    "text_rates": (5e-4,),
    "text_negatives": (2,),
    "text_separation": (1.0,),
    "unet_steps": (20_000,),
    "unet_high_noise": (3.0,),
}
PLAN = "plan.json"
Start = tuple[StableDiffusionXLPipeline, DualEncoder]


def say(line: str) -> None:
    """One line of progress, at once."""
    print(line, flush=True)


def load_start(folder: Path, words: list[str]) -> Start:
    """A foundation that ``export_foundation`` wrote: its pipeline, and its text towers with the image tower.

    SDXL's first text encoder has no projection, so that of its tower is found anew: the linear map by which its pooled state
    tells the second tower's vector best, over the captions ``words``.
    """
    pipe, judge = load_foundation(str(folder)), DualEncoder.load(folder / "judge")
    tower = CLIPTextModelWithProjection(judge.texts[0].config)
    own = {name.removeprefix("text_model."): value for name, value in pipe.text_encoder.state_dict().items()}
    tower.load_state_dict({name: own.get(name.removeprefix("text_model."), value) for name, value in tower.state_dict().items()})
    ids = judge.tokens(words)
    with torch.no_grad():
        states, targets = pipe.text_encoder(ids).pooler_output.float(), judge.texts[0](ids).text_embeds.float()
        tower.text_projection.weight.copy_(torch.linalg.lstsq(states, targets).solution.T)
    encoder = DualEncoder([tower, judge.texts[0]], judge.tokenizer)
    encoder.image, encoder.log_scale = judge.image, judge.log_scale
    return pipe, encoder


def recipe_of(values: dict[str, Any]) -> FoundationRecipe:
    """The recipe in a ``recipe.json``; what is not there has its default.

    How its start was made, which an exported recipe tells under ``start``, is no part of it: ``--start`` gives the weights.

    Raises
    ------
    InputError
        A name that no field of the recipe has.
    """
    values = {name: value for name, value in values.items() if name != "start"}
    known, sizes = ({entry.name for entry in fields(kind)} for kind in (FoundationRecipe, FoundationConfig))
    unknown = sorted((set(values) - known) | (set(values.get("model", {})) - sizes))
    if unknown:
        raise InputError(f"recipe: {unknown[0]} is unknown; use some of {', '.join(sorted(known))}")
    tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name != "model"}
    model = {name: tuple(value) if isinstance(value, list) else value for name, value in values.get("model", {}).items()}
    return FoundationRecipe(model=FoundationConfig(**model), **tuples)


def with_steps(recipe: FoundationRecipe, counts: dict[str, int]) -> FoundationRecipe:
    """The recipe with so many steps a stage; its cycles keep their proportions."""
    changes: dict[str, Any] = {}
    for stage, count in counts.items():
        steps = getattr(recipe, f"{stage}_steps")
        if isinstance(steps, tuple):
            parts = [max(1, count * part // sum(steps)) for part in steps]
            changes[f"{stage}_steps"] = (*parts[:-1], max(1, count - sum(parts[:-1])))
        else:
            changes[f"{stage}_steps"] = count
    return replace(recipe, **changes)


def shares_of(recipe: FoundationRecipe, on: bool) -> dict[str, float]:
    """Share of the minutes of each stage that the recipe has."""
    return ON if on else {stage: share for stage, share in SHARES.items() if np.sum(getattr(recipe, f"{stage}_steps"))}


def rehearse(recipe: FoundationRecipe, first: Pictures, words: list[str], begin: Callable[[], Start | None]) -> dict[str, float]:
    """Seconds a step of each stage, from a few steps in a folder that is thrown away."""
    start = begin()
    stages = shares_of(recipe, start is not None)
    trial = with_steps(recipe, dict.fromkeys(stages, REHEARSAL))
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        part = first.part(1_024)
        pretrain_foundation(trial, part, words, Path(folder), start=start)
        for stage in stages:
            history = stage_history(Path(folder), stage)
            pace = history["seconds"] / history["step"].diff().fillna(history["step"])
            seconds[stage] = float(pace.iloc[len(pace) // 2 :].min())  # the first steps compile and warm up
    return seconds


def fitting(
    recipe: FoundationRecipe, first: Pictures, words: list[str], begin: Callable[[], Start | None]
) -> tuple[FoundationRecipe, dict[str, float]]:
    """The recipe with batches that the card's memory holds, and seconds a step: halved, and said, until a rehearsal passes.

    Raises
    ------
    InputError
        Not even a batch of two fits into the memory of the graphics card.
    """
    while True:
        try:
            return recipe, rehearse(recipe, first, words, begin)
        except torch.OutOfMemoryError as error:
            halved = {name: getattr(recipe, name) // 2 for name in ("vae_batch", "text_batch", "unet_batch")}
            if min(halved.values()) < 2:
                raise InputError(f"the graphics card has no memory for a batch of two ({error}); use --device cpu") from error
            recipe = replace(recipe, **halved)
            torch.cuda.empty_cache()
            say(f"out of memory on the card: batches halved to {', '.join(f'{name} {value}' for name, value in halved.items())}")


def plan(recipe: FoundationRecipe, minutes: float, spent: float, seconds: dict[str, float], on: bool) -> FoundationRecipe:
    """The recipe with as many steps of each stage as its share of the minutes holds that are left after ``spent``.

    Raises
    ------
    InputError
        A stage would have fewer than ``LEAST``.
    """
    shares = shares_of(recipe, on)
    need = spent + max(LEAST * seconds[stage] / (60 * share) for stage, share in shares.items())
    if need > minutes:
        raise InputError(
            f"--minutes {minutes:g}: drawing and rehearsal took {spent:.1f}, and what is left is too short for {LEAST} steps of each stage "
            f"({', '.join(f'{stage} {value:.2f} s a step' for stage, value in seconds.items())}); give at least {np.ceil(need):g}"
        )
    return with_steps(recipe, {stage: int(60 * (minutes - spent) * share / seconds[stage]) for stage, share in shares.items()})


def pictures_of(recipe: FoundationRecipe, count: int, first: int, workers: int, folder: Path) -> Pictures:
    """``styled_pictures``, kept in ``folder`` for a run that was killed."""
    images, words = folder / f"pictures-{first}.npy", folder / f"captions-{first}.json"
    if words.is_file():
        captions, partners = json.loads(words.read_text())
        return Pictures(np.load(images, mmap_mode="c"), [tuple(several) for several in captions], np.array(partners, int))
    if not count:
        return Pictures(np.zeros((0, *(2 * [recipe.model.image_size]), 3), np.uint8), [], np.zeros(0, int))
    drawn = styled_pictures(recipe, count, first, workers)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(images, drawn.images)
    write_json(words, [drawn.captions, drawn.partners.tolist()])
    return drawn


def joined(parts: Sequence[Pictures]) -> Pictures:
    """The pictures of all parts in a row."""
    moved, before = [], 0
    for part in parts:
        moved.append(np.where(part.partners >= 0, part.partners + before, -1))
        before += len(part.images)
    captions = [several for part in parts for several in part.captions]
    return Pictures(np.concatenate([part.images for part in parts]), captions, np.concatenate(moved))


def drawing(draw: Callable[[], Pictures]) -> Callable[[], Pictures]:
    """Begin to draw in the background; the function that waits for the pictures, or raises what went wrong."""
    result: list[Pictures | BaseException] = []

    def work() -> None:
        try:
            result.append(draw())
        except BaseException as error:  # handed to the one who waits
            result.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def wait() -> Pictures:
        thread.join()
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    return wait


def pretrain(recipe: FoundationRecipe, minutes: float, out: Path, start: Path | None, workers: int, pictures: int = 0) -> Path:
    """Plan, draw, train and export; the folder of the new foundation. A run of the same settings goes on where it was killed.

    ``pictures``: that the UNet sees, whatever the minutes, and the text towers take a step for five of its; 0 for as many as they hold.

    Raises
    ------
    InputError
        ``out`` holds a run of other settings, or the time is too short for a stage.
    """
    began, runs = time.monotonic(), out / "runs"
    wanted = json.loads(json.dumps({"minutes": minutes, "pictures": pictures, "start": str(start or "nothing"), "recipe": asdict(recipe)}))
    words = radar_captions(1_500, recipe.seed)
    # Towers that go on need all scenes from their first step; an autoencoder begins with few, while the others are drawn.
    count = recipe.scenes if start else max(len(recipe.styles), recipe.scenes // FIRST)
    if (out / PLAN).is_file():
        stored = json.loads((out / PLAN).read_text())
        if stored["wanted"] != wanted:
            raise InputError(f"{out / PLAN}: is the plan of other settings; give those to go on with it, or name another folder")
        planned = recipe_of(stored["planned"])
        first = pictures_of(planned, count, 0, workers, runs)
    else:
        first = pictures_of(recipe, count, 0, workers, runs)
        fits, seconds = fitting(recipe, first, words, lambda: load_start(start, words) if start else None)
        planned = plan(fits, minutes, (time.monotonic() - began) / 60, seconds, start is not None)
        if pictures:  # all steps follow from it, so that runs of several styles differ in nothing but their styles
            unet = max(1, pictures // planned.unet_batch)
            planned = with_steps(planned, {"unet": unet, "text": max(1, unet // 5)})
        write_json(out / PLAN, {"wanted": wanted, "planned": asdict(planned), "seconds_a_step": seconds})
    stages = shares_of(planned, start is not None)
    say("plan: " + ", ".join(f"{stage} {np.sum(getattr(planned, f'{stage}_steps'))} steps" for stage in stages))
    wait = drawing(lambda: pictures_of(planned, planned.scenes - count, count, workers, runs))
    begin = load_start(start, words) if start else None
    made = pretrain_foundation(planned, first, words, runs, lambda: joined([first, wait()]), begin)
    export_foundation(*made, planned, runs, out / "pipeline")
    if start:
        carry_history(out / "pipeline", start)
    seen = sum(planned.unet_steps) * planned.unet_batch
    say(f"{out / 'pipeline'}: done in {(time.monotonic() - began) / 60:.1f} minutes; the UNet saw {seen:,} pictures")
    return out / "pipeline"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line; 0, or 2 after one sentence about a wrong argument."""
    parser = argparse.ArgumentParser(prog="python -m sarnb.foundation", description="Pretrain the embedded foundation.")
    parser.add_argument("--minutes", type=float, required=True, help="time for everything")
    parser.add_argument(
        "--pictures", type=int, default=0, help="that the UNet sees, the towers' steps in proportion; default: as many as fit"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints, plan and, at the end, pipeline/")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--start", default="embedded", help="go on from a foundation: embedded, a folder, or none (from nothing)")
    parser.add_argument("--styles", default=",".join(STYLES), help="comma-separated, the photograph among them")
    parser.add_argument("--recipe", type=Path, help="a recipe.json whose values take the place of the defaults")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that draw scenes")
    options = parser.parse_args(arguments)
    try:
        if not 0 < options.minutes < 100_000:
            raise InputError(f"--minutes {options.minutes:g}: give the minutes that the run may take, above zero")
        if options.pictures < 0:
            raise InputError(f"--pictures {options.pictures}: give the number of pictures that the UNet sees, or leave it out")
        if options.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: this machine has no CUDA card that torch can use; give --device cpu")
        if options.device == "cpu":
            os.environ["ACCELERATE_USE_CPU"] = "true"
        start = None if options.start == "none" else foundation_path() if options.start == "embedded" else Path(options.start)
        if start is not None and not (start / "model_index.json").is_file():
            raise InputError(f"--start {options.start}: no model_index.json there; give a folder with a foundation, embedded, or none")
        values: dict[str, Any] = dict(GPU) if processes().device.type == "cuda" else {}
        values |= (GOES_ON if start else {}) | {"styles": [name.strip() for name in options.styles.split(",")]}
        if start and (start / "recipe.json").is_file():
            values["model"] = json.loads((start / "recipe.json").read_text())["model"]
        if options.recipe:
            values |= json.loads(options.recipe.read_text())
        pretrain(recipe_of(values), options.minutes, options.out, start, max(1, options.workers), options.pictures)
    except (InputError, json.JSONDecodeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
