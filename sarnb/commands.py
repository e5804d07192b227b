"""What ``python -m sarnb dataset | finetune | generate | evaluate`` do: load, call the package, save, say where."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarnb.data.dataset import ImageSet, load_set
from sarnb.data.files import METADATA
from sarnb.errors import InputError
from sarnb.profile import Profile, load_profile
from sarnb.settings import cores, results_root

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

    from sarnb.model.strategy import Strategy


def dataset_command(
    source: str, out: Path, count: int | None, profile: str, sensor: str, size: int | None, seed: int | None, workers: int | None
) -> None:
    """Makes a data set in ``out`` and says what it holds.

    ``source``: "twin", or a folder of the user's images. ``count``: twin scenes of a general set, None for the study's splits.
    What is None or "" comes from the profile. Raises InputError for values that fit no data set, or not this source.
    """
    values = load_profile(profile)
    size, seed = values.image_size if size is None else size, values.seed if seed is None else seed
    if source == "twin":
        from sarnb.data.twin import build_twin, general_splits, study_splits

        if count is None:
            splits = study_splits(values.train_images, values.val_images, values.test_per_class, values.judge_images)
        else:
            splits = general_splits(count)
        card = build_twin(out, splits, sensor or values.sensor, size, seed, values.workers if workers is None else workers)
    else:
        if not Path(source).exists():
            raise InputError(f"unknown source '{source}'; give the word twin, or a folder of your own radar images")
        for option, given in (("--n", count is not None), ("--sensor", bool(sensor)), ("--workers", workers is not None)):
            if given:
                raise InputError(f"{option} is for the twin world and changes nothing about {source}; leave it out")
        from sarnb.data.prepare import prepare_user_data
        from sarnb.data.twin import check_request

        check_request(size, seed)
        card = prepare_user_data(Path(source), out, size, seed)
    print(f"{out}: {', '.join(f'{name} {number}' for name, number in card['totals'].items())} images; {out / 'README.md'} describes them")


def finetune_command(
    strategy: str,
    data: Path | None,
    out: Path | None,
    profile: str,
    foundation: str,
    steps: int,
    seed: int | None,
    trackers: Sequence[str] = (),
    params: Sequence[str] = (),
) -> None:
    """Fine-tunes the foundation on ``data/train``, with ``data/val`` for the held-out loss, and saves the model.

    ``params``: NAME=value words that change values of the profile, such as OPTIMIZER=adamw; ``steps`` and ``seed`` go before them.
    ``trackers``: names such as "tensorboard"; their files end in the model's folder, in a hidden one of it until it is done.
    Several processes of ``accelerate launch`` share the work; the defaults are the folders of the notebooks.
    """
    changes = _changes(params) | ({"train_steps": steps, "warmup_steps": 0} if steps else {})
    values = load_profile(profile, **changes)
    from sarnb.model.strategy import find_strategy

    plan = find_strategy(strategy)  # a wrong name is told before the images are read
    if plan.vae != "frozen":
        _finetune_vae(plan, data, out, values.replace(vae_steps=steps) if steps else values, foundation, seed)
        return
    from sarnb.generate.strategies import SamplingConfig, train_strategy
    from sarnb.train.finetune import FinetuneConfig
    from sarnb.train.state import check_trackers

    check_trackers(trackers)
    config = FinetuneConfig.of(values, seed)
    results = results_root() / values.name
    data, out = data or results / "data", out or results / "models" / plan.name / f"seed{config.seed}"
    sampling = SamplingConfig(steps=values.sampling_steps, guidance_scale=values.guidance_scale, sensor=values.sensor)
    if trackers:
        _say(f"follow it with: tensorboard --logdir {out}" if "tensorboard" in trackers else f"tracked by {', '.join(trackers)}")
    history, _ = train_strategy(
        plan, foundation or values.foundation, data, out, config, out.parent / "cache", sampling, values.sample_every, trackers
    )
    _say(f"{out}: {plan.name}, {config.steps} steps, last loss {history['loss'].iloc[-1]:.4g}")


def _say(line: str) -> None:
    """Print, once where several processes train."""
    from sarnb.train.machine import processes

    if processes().is_main_process:
        print(line)


def _trained_by() -> list[str]:
    """The values of a profile that ``finetune`` reads."""
    from sarnb.train.finetune import FinetuneConfig

    of_unet = {field.name for field in dataclasses.fields(FinetuneConfig)} - {"seed"}
    others = {"foundation", "sensor", "train_steps", "train_seeds", "sampling_steps", "guidance_scale", "sample_every"}
    names = [field.name for field in dataclasses.fields(Profile)]
    return [name for name in names if name in of_unet | others or name.startswith(("vae_", "lr_"))]


def _changes(params: Sequence[str]) -> dict[str, Any]:
    """Profile keys and values of NAME=value words. Raises InputError for a word of another form and an unknown name."""
    from sarnb.run import parse_params

    changes = {name.lower(): value for name, value in parse_params(params).items()}
    for name in changes:
        if name not in (known := _trained_by()):
            raise InputError(f"--param {name.upper()}: no value of a profile that a training reads; known are {', '.join(known).upper()}")
    return changes


def _finetune_vae(plan: Strategy, data: Path | None, out: Path | None, values: Profile, foundation: str, seed: int | None) -> None:
    """The same for a strategy that trains the autoencoder."""
    from sarnb.train.vae import VaeConfig, train_vae

    config = VaeConfig.of(values, seed)
    results = results_root() / values.name
    data, out = data or results / "data", out or results / "models" / plan.name / f"seed{config.seed}"
    history, _ = train_vae(plan, foundation or values.foundation, data, out, config)
    _say(f"{out}: {plan.name}, {config.steps} steps, last loss {history['loss'].iloc[-1]:.4g}")


def draw_command(model: str, prompts: Sequence[str], seed: int, out: Path, profile: str, foundation: str) -> None:
    """Draws ``prompts`` as they stand with a trained model, or with the foundation itself, into ``out``.

    Prompt i starts from the noise of ``seed`` + i. ``out`` gets grey PNGs and metadata.jsonl with text and seed of each.
    """
    values = load_profile(profile)
    _check_samples(out)
    from sarnb.generate.sample import generate, to_grey, write_samples

    pipe, token = _drawing_model(model, foundation or values.foundation)
    rows = [{"text": text, "label": "", "group": "seen", "seed": seed + i, "look": None} for i, text in enumerate(prompts)]
    images = generate(pipe, list(prompts), [row["seed"] for row in rows], values.sampling_steps, values.guidance_scale, values.batch_size)
    write_samples(out, to_grey(images), rows)
    print(f"{out}: {len(rows)} images")
    if token and not any(token in text for text in prompts):
        print(f'{model} has learned the word {token}, which no prompt holds; it draws radar best for "a {token} image of …"')


def _check_samples(out: Path) -> None:
    """Refuses a folder of other files: what is drawn takes the place of the whole folder."""
    if Path(out).exists() and not (Path(out) / METADATA).is_file() and (not Path(out).is_dir() or any(Path(out).iterdir())):
        raise InputError(f"{out}: holds other files than generated images (no {METADATA}); name another folder or an empty one")


def _drawing_model(model: str, spec: str) -> tuple[StableDiffusionXLPipeline, str | None]:
    """The pipeline of a trained model's folder, or of the foundation for "zero-shot"; its learned word, if it has one."""
    from sarnb.model.export import load_trained, read_record
    from sarnb.model.foundation import load_foundation
    from sarnb.model.token import TOKEN

    if model == "zero-shot":
        return load_foundation(spec), None
    token = TOKEN if read_record(Path(model))["strategy"]["token"] else None
    return load_trained(spec, Path(model), fuse=True), token


def generate_command(model: str, out: Path, data: Path, profile: str, foundation: str, per_class: int) -> None:
    """Draws the classes of ``data/test`` with a trained model, or with the foundation itself, into ``out``."""
    values = load_profile(profile, **({"generate_per_class": per_class} if per_class else {}))
    _check_samples(out)
    test = load_set(data / "test")
    from sarnb.generate.sample import evaluation_prompts, generate, to_grey, write_samples

    pipe, token = _drawing_model(model, foundation or values.foundation)
    looks = sorted({row["look"] for row in test.rows if row.get("look")}) or [None]
    rows = evaluation_prompts(list(groups_of(test)), values.generate_per_class, token, looks, groups_of(test), values.sensor)
    images = generate(
        pipe,
        [row["text"] for row in rows],
        [row["seed"] for row in rows],
        values.sampling_steps,
        values.guidance_scale,
        values.batch_size,
        test.images.shape[1],
    )
    write_samples(out, to_grey(images), rows)
    print(f"{out}: {len(rows)} images of {len(groups_of(test))} classes")


def evaluate_command(
    real: Path,
    fake: Path,
    out: Path,
    captions: Path | None,
    clip: str,
    train: Path | None,
    size: int | None,
    scale: str,
    sensor: str,
    ignore_classes: bool,
    resamples: int,
    seed: int,
    workers: int | None,
) -> None:
    """Compares two folders of images, prints the table and writes it with its figures into ``out``."""
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; give at least 1")
    from sarnb.comparison import compare_folders
    from sarnb.metrics.folders import Wish

    wish = Wish(size, scale, sensor, not ignore_classes, resamples, seed, workers or min(cores(), 8))
    compare_folders(real, fake, out, wish, captions, clip, train)


def groups_of(images: ImageSet) -> dict[str, str]:
    """Group (seen, unseen, composition) of every class of a set, in the order of first appearance."""
    return {row["label"]: row.get("group", "seen") for row in images.rows if row.get("label")}
