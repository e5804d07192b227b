"""The command line: what ``python -m sarnb`` does; ``python -m sarnb --help`` lists its commands.

Each command imports what it needs when it runs. A user's mistake ends with one sentence and exit code 2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sarnb import foundation_folders
from sarnb.errors import InputError
from sarnb.profile import BASE, Profile, load_profile
from sarnb.settings import cores, results_root

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="How should a text-to-image diffusion model be fine-tuned so that it draws radar images?",
)
FOUNDATION = typer.Option("", help="'embedded', a hub id or a folder, with +vae=… another autoencoder; default: the profile's")


@app.command()
def run(
    profile: str = typer.Option("quick", envvar="SARNB_PROFILE", help="smoke, quick, study, paper, or a .yaml file"),
    data: str = typer.Option("", help="folder of your own SAR images"),
    unseen: str = typer.Option("", help="classes of --data that train does not show, such as city,harbour"),
    only: str = typer.Option("", help="notebooks to run, such as 05,06; with what they need if it is out of date"),
    jobs: int = typer.Option(0, help="notebooks side by side; 0 = by the machine"),
    seed: int | None = typer.Option(None, help="seed of data, generation and bootstrap"),
    param: list[str] = typer.Option([], help="NAME=value of a notebook parameter"),
    executor: str = typer.Option("local", help="Snakemake executor, such as slurm"),
    dry_run: bool = typer.Option(False, "--dry-run", help="tell what would run and why; write nothing"),
    snakemake: list[str] | None = typer.Argument(None, help="after --: further options of Snakemake"),
) -> None:
    """Bring the notebooks' results up to date (what ./run_all.sh calls)."""
    from sarnb.graph import run as run_all

    param = [*param, *([f"UNSEEN={json.dumps(unseen)}"] if unseen else [])]
    raise typer.Exit(run_all(profile, data, only, jobs, seed, param, executor, snakemake or (), dry_run))


@app.command()
def notebook(
    name: str = typer.Argument(help="name of the notebook, such as 05_unet_full"),
    plan: Path = typer.Option(..., help="plan.json that 'run' wrote into results/<profile>/.state"),
) -> None:
    """Run one notebook of a plan (what the Snakefile calls)."""
    from sarnb.notebook import NotebookError, run_node

    try:
        run_node(name, plan)
    except NotebookError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


@app.command()
def verify(
    results: Path = typer.Argument(help="a results folder, such as results/quick"),
    page: Path | None = typer.Option(None, help="write the verdict into this Markdown page, where there are no problems"),
    costs: bool = typer.Option(False, help="write what the notebooks took of this machine into notebooks/costs.csv, for plans of runs"),
) -> None:
    """Find changed, missing and stale artefacts; exit code 1 if there are any."""
    from sarnb.graph import verify as problems_of
    from sarnb.graph import write_costs
    from sarnb.results import read_manifests, write_findings

    problems = problems_of(results.absolute())
    for problem in problems:
        print(problem)
    manifests = read_manifests(results.absolute())
    count = sum(len(found.get("artefacts", [])) for found in manifests.values())
    outcome = f"{len(problems)} problems" if problems else "all as recorded"
    print(f"{results}: {count} artefacts of {len(manifests)} notebooks, {outcome}")
    if page and not problems:
        write_findings(results.absolute(), page)
    if costs:
        print(f"{write_costs(results.absolute())}: written")
    raise typer.Exit(1 if problems else 0)


@app.command()
def student(
    out: Path | None = typer.Option(None, help="folder to make; default: student in the results folder"),
    results: Path | None = typer.Option(None, help="results folder whose outputs the notebooks are given, such as results/study"),
) -> None:
    """Copy the notebooks and the course without the solutions of the exercises."""
    from sarnb.data.files import claim, release, working_in, write_text
    from sarnb.notebook import with_outputs
    from sarnb.settings import notebooks_folder

    out, source = out or results_root() / "student", notebooks_folder()
    ran = {path.name: path for path in (results / "notebooks").glob("[!.]*.ipynb")} if results else {}
    if results and not ran:
        raise InputError(f"{results}: holds no executed notebooks; run them first, or name another results folder")
    without = []
    with working_in(out):
        claim(out, "students' edition", [source, *([results / "notebooks"] if results else [])])
        for path in (path for path in source.glob("[!.]*") if path.is_file()):
            shutil.copyfile(path, out / path.name)
        for path in sorted(out.glob("*.ipynb")):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            for cell in (cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"):
                text = re.sub(r"<details>.*?</details>\n*", "", "".join(cell["source"]), flags=re.DOTALL)
                cell["source"] = text.splitlines(keepends=True)
            if results:
                executed = json.loads(ran[path.name].read_text(encoding="utf-8")) if path.name in ran else {"cells": []}
                notebook, missing = with_outputs(notebook, executed)
                without += [f"{path.stem} ({missing} cells)"] if missing else []
            text = json.dumps(notebook, indent=1, ensure_ascii=False)
            pictures = set(re.findall(r"\]\(\.\./(figures/[^)/]+)\)", text)) if results else set()
            for name in pictures:  # they are handed on together
                (out / "figures").mkdir(exist_ok=True)
                shutil.copyfile(results / name, out / name)
            write_text(path, text.replace("](../figures/", "](figures/") + "\n")
        release(out)
    if without:
        print(f"! {results} was run with other code, so outputs are missing in: {', '.join(without)}")
    print(f"{out}: the notebooks without solutions; SARNB_NOTEBOOKS={out} ./run_all.sh runs them")


@app.command()
def cost(
    profile: str = typer.Option("paper", help="paper, or a .yaml file"),
    param: list[str] = typer.Option([], help="NAME=value of the profile, such as TRAIN_STEPS=5000"),
    rate: list[str] = typer.Option([], help="KIND=images a second of one GPU; kinds: train, draw, vae (crops), judge"),
    gpus: int = typer.Option(1, min=1, help="GPUs that share the work"),
    classes: int = typer.Option(12, min=1, help="classes that are drawn"),
) -> None:
    """Count what a profile costs with SDXL: steps, images, memory, GPU hours, disk."""
    from sarnb.cost import PUBLISHED, cost_table, parse_rates
    from sarnb.graph import parse_params

    rates = parse_rates(rate)
    values = load_profile(profile, **{name.lower(): value for name, value in parse_params(param).items()})
    table = cost_table(values, rates, classes)
    shown = table.astype(object).where(table.notna(), None)
    print(shown.to_markdown(index=False, floatfmt=",.1f", intfmt=",", missingval=""))
    hours, unknown = table["GPU hours"].sum(), table.loc[table["GPU hours"].isna() & table["steps"].notna(), "what"]
    print(f"Together {hours:,.0f} GPU hours, {hours / gpus:,.0f} hours on {gpus} GPU{'s' * (gpus > 1)} that share them out evenly", end="")
    print(f"; not counted, for want of a rate: {', '.join(unknown)}." if len(unknown) else ".")
    print(f"Kept on disk: {table['disk [GB]'].sum():,.0f} GB. The state leaves activations out.")
    if rates.items() & PUBLISHED.items():
        print("Rates that were not given are published ones of one H100 at 1024 px; yours replace them (--rate train=…).")


@app.command()
def report(
    profile: str = typer.Option("quick", envvar="SARNB_PROFILE", help="smoke, quick, study, paper, or a .yaml file"),
    data: str = typer.Option("", help="folder of your own SAR images, of the run that is reported"),
) -> None:
    """Make results/<profile>/report: a site of the executed notebooks with their figures, tables and the package's reference."""
    from sarnb.graph import results_of
    from sarnb.profile import load_profile
    from sarnb.report import build_report

    results = results_of(load_profile(profile).name, data)
    out = results / "report"
    for remark in build_report(results, out).splitlines():
        print(f"! {remark}")
    print(f"{out / 'index.html'}: open it in a browser; it needs no network")


READS = {  # the options that each source of a data set reads
    "twin": ("--n", "--sensor", "--size", "--workers"),
    "sarlo80": ("--shards", "--revision", "--unseen", "--part", "--size", "--workers", "--quantity"),
    "import": ("FILE", "--patch", "--grid", "--spacing", "--workers", "--quantity", "--unseen"),
    "": ("--unseen", "--size", "--quantity", "--captions"),
}
WORLDS = {"twin": "the twin world", "": "your own images"}


@app.command()
def dataset(
    source: str = typer.Argument(help="'twin' for the twin world, 'sarlo80', 'import' of products, or a folder of your radar images"),
    files: list[Path] | None = typer.Argument(
        None, help="of import: SICD, GeoTIFF, NPY, a GOTCHA .mat, or the folder of a SAFE; their folders' names are the classes"
    ),
    out: Path = typer.Option(..., help="folder to make"),
    n: int | None = typer.Option(
        None,
        help="so many twin scenes of all classes and compositions, split 80/10/10; default: the study's splits of the profile",
    ),
    profile: str = typer.Option("quick", help="profile that gives what is not said here"),
    sensor: str = typer.Option("", help="radar preset: airborne-x, terrasar-x, sentinel-1, umbra; the same scenes through each"),
    size: int | None = typer.Option(None, help="side of an image in pixels, a multiple of 32"),
    seed: int | None = typer.Option(None, help="seed of scenes and speckle, or of the split of your images"),
    workers: int | None = typer.Option(None, help="processes; the files are the same for any number"),
    quantity: str = typer.Option(
        "", help="what the numbers of your images are: amplitude, intensity, db or complex; default: by tags and statistics"
    ),
    shards: str = typer.Option("", help="of sarlo80: shards as a pattern of files, https addresses, or a data set of the hub (owner/name)"),
    revision: str = typer.Option("", help="of sarlo80: branch, tag or commit of the hub's data set"),
    unseen: str = typer.Option("", help="classes, of sarlo80 also words of captions, that train does not show, such as harbour,airport"),
    part: str = typer.Option("", help="of sarlo80: K/N reads every N-th shard from the K-th on, for N machines; the call without it ends"),
    patch: int = typer.Option(0, help="of import: side of a patch in pixels; default: 1024"),
    grid: float | None = typer.Option(None, help="of import: metres a pixel, 0 for each product's own; default: 0.8"),
    spacing: float = typer.Option(0.0, help="of import: metres a pixel of files that do not say it"),
    captions: Path | None = typer.Option(None, help="file with captions of your images, such as 'caption' writes"),
) -> None:
    """Make a data set (imagefolder with metadata.jsonl and a data card) of the twin world, SARLO-80, products or your own images."""
    from sarnb.data.files import working_in
    from sarnb.data.twin import build_twin, general_splits, study_splits

    values = load_profile(profile, image_size=size, seed=seed, workers=workers)
    kind = source if source in READS else ""
    if not kind and not Path(source).exists():
        raise InputError(f"unknown source '{source}'; give the word twin, or a folder of your own radar images; or sarlo80, or import")
    used = {"--n": n is not None, "--sensor": sensor, "--size": size, "--workers": workers, "--quantity": quantity, "FILE": files}
    used |= {"--shards": shards, "--revision": revision, "--unseen": unseen, "--patch": patch, "--grid": grid is not None}
    used |= {"--spacing": spacing, "--captions": captions, "--part": part}
    for option in (option for option, given in used.items() if given and option not in READS[kind]):
        worlds = ", ".join(WORLDS.get(name, name) for name, options in READS.items() if option in options)
        raise InputError(f"{option} is for {worlds} and changes nothing about {source}; leave it out")
    requested, size, seed = size, values.image_size, values.seed
    hidden = unseen.split(",") if unseen else []
    if source == "sarlo80":
        from sarnb.data.sarlo80 import build_sarlo80

        if part and not re.fullmatch(r"\d+/\d+", part):
            raise InputError(f"--part {part}: write K/N, such as 2/8 for the second of eight machines")
        of = (int(part.split("/")[0]), int(part.split("/")[1])) if part else None
        with contextlib.nullcontext() if part else working_in(out):
            card = build_sarlo80(out, shards, revision, hidden, requested or 1024, seed, values.workers, quantity, of)
        print(f"licence: {card['licence']}, which what you make of it carries on")
    elif source == "import":
        from sarnb.data.files import check_apart
        from sarnb.data.patches import import_products

        check_apart(out, files or (), "data set")
        with working_in(out):
            card = import_products(
                files or (), out, patch or 1024, 0.8 if grid is None else grid, spacing, seed, values.workers, quantity, hidden
            )
    elif source == "twin":
        if n is None:
            counts = (values.train_images, values.val_images, values.test_per_class, values.judge_images)
            splits = study_splits(*counts, values.both_sides)
        else:
            splits = general_splits(n)
        with working_in(out):
            card = build_twin(out, splits, sensor or values.sensor, size, seed, values.workers)
    else:
        from sarnb.data.prepare import prepare_user_data

        with working_in(out):
            card = prepare_user_data(Path(source), out, size, seed, quantity=quantity, unseen=hidden, captions=captions)
    for line in card.get("read", ()):
        print(f"! {line}")
    if "part" in card["totals"]:
        print(f"{out}: part {part} is read, {card['totals']['part']} images; when all are, the same call without --part makes the set")
        return
    totals = ", ".join(f"{name} {number}" for name, number in card["totals"].items())
    print(f"{out}: {totals} images; {out / 'README.md'} describes them")
    if card.get("refused"):
        print(f"sarnb: {len(card['refused'])} of the files were refused, see above", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def caption(
    source: Path = typer.Argument(help="folder of radar images; with metadata.jsonl, its column optical_file_name names photographs"),
    out: Path = typer.Option(..., help="file to write, for 'dataset FOLDER --captions FILE'; a stopped call goes on with it"),
    model: str = typer.Option("", help="image-text model (hub id or folder) that describes the photographs; without it, captions by class"),
    batch: int = typer.Option(16, min=1, help="photographs at a time"),
) -> None:
    """Write captions for images that have none: what a model sees in the photograph next to each, or the class; and the physics."""
    from sarnb.data.prepare import write_captions

    described, others = write_captions(source, out, model, batch)
    print(f"{out}: {described} captions of photographs, {others} by the class; 'dataset {source} --captions {out}' takes them")


@app.command()
def finetune(
    strategy: str = typer.Option("", help="hybrid, unet-full, unet-lora-r16, te-lora, token …"),
    control: str = typer.Option("", help="instead: map, satellite or optical, for a network that steers --model by such pictures"),
    model: str = typer.Option("", help="with --control: the trained model that is steered, or 'zero-shot' for the foundation itself"),
    network: str = typer.Option("controlnet", help="with --control: controlnet, or adapter, which is smaller"),
    data: Path | None = typer.Option(None, help="data set that 'dataset' made; default: that of the notebooks"),
    out: Path | None = typer.Option(None, help="folder for the trained model; default: that of the notebooks"),
    profile: str = typer.Option("quick", help="profile that gives rates, steps and the foundation"),
    foundation: str = FOUNDATION,
    steps: int | None = typer.Option(None, help="optimizer steps; default: the profile's"),
    seed: int | None = typer.Option(None, help="training seed; default: the profile's first"),
    tracker: list[str] = typer.Option([], help="follow the training in 'tensorboard' (or another tracker of accelerate)"),
    param: list[str] = typer.Option([], help="NAME=value of another value than the profile's, such as OPTIMIZER=adamw"),
) -> None:
    """Fine-tune the foundation by one strategy, or train a control for a tuned model.

    On many GPUs: 'accelerate launch --config_file sarnb/profiles/accelerate/ddp.yaml -m sarnb finetune …', or fsdp.yaml
    next to it where one card cannot hold the model (with '--param OPTIMIZER=adamw', for 8-bit moments cannot be shared out).
    """
    from sarnb.data.files import check_out
    from sarnb.graph import parse_params
    from sarnb.model.control import check_kind
    from sarnb.model.export import MODEL, MODEL_FILES
    from sarnb.model.strategy import find_strategy
    from sarnb.train.finetune import FinetuneConfig
    from sarnb.train.state import check_trackers

    if bool(strategy) == bool(control) or bool(control) != bool(model):
        raise InputError("finetune trains a strategy or a control; give --strategy NAME, or --control KIND with --model DIR")
    if control:
        check_kind(control, network)
    plan = find_strategy(strategy or "zero-shot")  # a wrong name is reported before the images are read
    what, title = ("control", f"{network}-{control}") if control else ("vae" if plan.vae != "frozen" else "train", plan.name)
    check_trackers(tracker)
    changes = {name.lower(): value for name, value in parse_params(param).items()}
    known = _read_by_training(what)
    for name in changes:
        if name not in known:
            names = ", ".join(known).upper()
            raise InputError(f"--param {name.upper()}: no value of a profile that training {title} reads; known are {names}")
    for option, name, value in (("steps", f"{what}_steps", steps), ("seed", "train_seeds", seed), ("foundation", "foundation", foundation)):
        if name in changes and value not in (None, ""):
            raise InputError(f"--{option} and --param {name.upper()} say the same; leave one of them out")
    if steps is not None:  # a warm-up that was given stays, that of the profile is cut to a quarter of the steps
        warmup = min(load_profile(profile).warmup_steps, steps // 4)
        changes = {"train_steps": steps, "vae_steps": steps, "control_steps": steps, "warmup_steps": warmup} | changes
    if seed is not None:
        changes["train_seeds"] = [seed]
    values = load_profile(profile, **changes)
    foundation = foundation or values.foundation
    results = results_root() / values.name
    data = data or results / "data"
    out = out or results / "models" / title / f"seed{values.train_seeds[0] if seed is None else seed}"
    steered = None if model in ("", "zero-shot") else Path(model)
    check_out(out, MODEL, [data, steered or "", *foundation_folders(foundation)], MODEL_FILES)
    if tracker:
        where = f"follow it with: tensorboard --logdir {out}"
        _say(where if "tensorboard" in tracker else f"tracked by {', '.join(tracker)}")
    if plan.vae != "frozen":
        from sarnb.train.vae import VaeConfig, train_vae

        vae_config = VaeConfig.of(values, seed)
        if "warmup_steps" in changes:
            vae_config = dataclasses.replace(vae_config, warmup_steps=values.warmup_steps)
        if vae_config.warmup_steps > vae_config.steps:
            raise InputError(f"warmup_steps {vae_config.warmup_steps} is above the {vae_config.steps} steps; lower it")
        count, (_, history, cost) = vae_config.steps, train_vae(plan, foundation, data, out, vae_config, tracker)
    elif control:
        from sarnb.train.control import ControlConfig, train_control

        own = ControlConfig.of(values, seed)
        history, cost = train_control(control, foundation, steered, data, out, own, network, out.parent / "cache", tracker)
        count = own.steps
    else:
        from sarnb.generate.strategies import SamplingConfig, train_strategy

        config = FinetuneConfig.of(values, seed)
        sampling = SamplingConfig(steps=values.sampling_steps, guidance_scale=values.guidance_scale, sensor=values.sensor)
        cache, every = out.parent / "cache", values.sample_every
        history, cost = train_strategy(plan, foundation, data, out, config, cache, sampling, every, tracker)
        count = config.steps
    _say(f"{out}: {title}, {count} steps, last loss {history['loss'].iloc[-1]:.4g}")
    for remark in cost.get("remarks", []):
        _say(remark)


def _read_by_training(what: str) -> list[str]:
    """The values of a profile that ``finetune`` reads, for an autoencoder ("vae"), a "control" or the rest ("train")."""
    from sarnb.train.control import ControlConfig
    from sarnb.train.finetune import FinetuneConfig
    from sarnb.train.vae import VaeConfig

    of_vae, config = what == "vae", {"vae": VaeConfig, "control": ControlConfig, "train": FinetuneConfig}[what]
    fields = {field.name for field in dataclasses.fields(config)} - {"seed", "batch_size" * of_vae}
    if what == "control":
        fields = {name for name in fields if not name.startswith("lr_")}
    sampler = {"sensor", "sampling_steps", "guidance_scale", "sample_every"}  # of the samples during a training
    fields |= sampler if what == "train" else {f"{what}_{name}" for name in fields}
    fields |= {"foundation", "train_seeds", f"{what}_steps"} | ({"vae_batch"} if of_vae else set())
    return [field.name for field in dataclasses.fields(Profile) if field.name in fields]


def _say(line: str) -> None:
    """Print, once where several processes train."""
    from sarnb.train.machine import processes

    if processes().is_main_process:
        print(line)


@app.command()
def generate(
    model: str | None = typer.Argument(None, help="trained model of 'finetune', or 'zero-shot' for the foundation itself"),
    out: Path | None = typer.Argument(None, help="folder for the images"),
    model_option: str = typer.Option("", "--model", help="the same as MODEL"),
    out_option: Path | None = typer.Option(None, "--out", help="the same as OUT"),
    prompt: list[str] = typer.Option([], help="what to draw, once for each image"),
    seed: int | None = typer.Option(None, help="noise of the first prompt's image, the others count on; default: 0"),
    data: Path | None = typer.Option(None, help="instead of prompts: data set whose test classes are drawn"),
    profile: str = typer.Option("quick", help="profile that gives sampler, guidance and number"),
    foundation: str = FOUNDATION,
    per_class: int = typer.Option(0, help="images per class; default: the profile's"),
    prompts: Path | None = typer.Option(None, help="file with a prompt a line, instead of --prompt"),
    n: int = typer.Option(1, help="images of each prompt"),
    size: str = typer.Option("", help="HxW in px, such as 512x2048, for scenes larger than the model's images; with prompts"),
    spacing: float = typer.Option(0.0, help="metres a pixel: each scene is written as GeoTIFF as well; with --size"),
    control: list[str] = typer.Option(
        [], help="KIND=FILE of a picture, as large as --size, that steers: map, satellite or optical; repeatable"
    ),
    control_model: list[Path] = typer.Option([], help="folder of a trained control; default: ../../controlnet-KIND/… of the model"),
    scale: float = typer.Option(1.0, help="weight of the conditions; 0 is none"),
    source: Path | None = typer.Option(None, "--from", help="image of the model's size that is drawn on, instead of noise alone"),
    strength: float = typer.Option(0.5, help="with --from: share of the noise schedule at which the drawing starts, (0, 1]"),
) -> None:
    """Generate images: of your prompts ('--model DIR --prompt "…" --out DIR'), or a model's evaluation images ('DIR OUT --data …')."""
    model, out = _once(model, model_option, "model"), Path(_once(out, out_option, "out"))
    prompt = prompt or _lines(prompts)
    if bool(prompt) == (data is not None):
        raise InputError("generate draws either prompts or the classes of a data set; give --prompt, once for each image, or --data")
    if prompt and per_class:
        raise InputError("--per-class belongs to --data; give --prompt once for each image instead")
    sides = _sides(size)
    if data and (sides or n != 1):
        raise InputError("--size and --n belong to --prompt; evaluation images have the size and the number of the test set")
    if (control or source) and (data or (control and source)) or (source and sides):
        raise InputError("--control and --from belong to --prompt, --from without --size, and not to each other; leave one of them out")
    if control_model and not control:
        raise InputError("--control-model is for --control KIND=FILE; give the picture, too")
    if source and not 0 < strength <= 1:
        raise InputError(f"--strength {strength:g}: give a number above 0 and up to 1")
    files = _control_files(control)
    if n < 1 or spacing < 0 or (spacing and not sides):
        raise InputError(f"--n {n} --spacing {spacing:g}: give at least one image, and a spacing above 0 together with --size")
    if data and seed is not None:
        raise InputError("--seed belongs to --prompt; the noise of evaluation images follows from their class and number")
    values = load_profile(profile, generate_per_class=per_class or None, seed=seed)
    from sarnb.data.dataset import load_set
    from sarnb.data.files import check_out, working_in
    from sarnb.generate import sample
    from sarnb.model.foundation import cut_prompts
    from sarnb.model.token import TOKEN

    foundation = foundation or values.foundation
    check_out(out, sample.DRAWN, [model, data or "", *foundation_folders(foundation)])
    test = load_set(data / "test") if data else None
    pipe, token = _drawing_model(model, foundation)
    mark: dict[str, Any] = {"model": Path(model).name, "steps": values.sampling_steps, "guidance_scale": values.guidance_scale}
    if test is None:
        start, size_of_test, classes = seed or 0, None, ""
        common: dict[str, Any] = {"group": "seen"}
        wanted = [text for text in prompt for _ in range(n)]
        if files:
            mark |= {"control": {kind: path.name for kind, path in files.items()}, "scale": scale}
        if source:
            mark |= {"from": source.name, "strength": strength}
        rows = [{"text": text, "label": _subject(text), **common, "seed": start + i, "look": None} for i, text in enumerate(wanted)]
    else:
        groups = {row["label"]: row.get("group", "seen") for row in test.rows if row.get("label")}
        looks = sorted({row["look"] for row in test.rows if row.get("look")}) or [None]
        rows = sample.evaluation_prompts(list(groups), values.generate_per_class, token, looks, groups, values.sensor)
        size_of_test, classes = test.images.shape[1], f" of {len(groups)} classes"
    rows = [row | {"synthetic": mark} for row in rows]
    texts, seeds = [row["text"] for row in rows], [row["seed"] for row in rows]
    word = TOKEN if TOKEN in pipe.tokenizer.get_vocab() else None  # a foundation may have learned it too
    if strange := [text for text in texts if TOKEN.lower() in text.replace(word or "", "").lower()]:
        mend = f"write it as {word}" if word else "which read it letter by letter; write 'radar image', or give a model that learned it"
        raise InputError(f"prompt {strange[0]!r} holds a word that {model} has not learned: {mend}")
    sampler = values.sampling_steps, values.guidance_scale, values.batch_size
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    controls = _controls(files, control_model, model, foundation, sides or (side, side), 1 if sides else len(texts)) if files else {}
    given_image = None if source is None else _start_image(source, side)
    with working_in(out):
        if sides:
            images = _scenes(pipe, texts, seeds, sides, sampler, out, controls, scale)
        elif given_image is not None:
            from sarnb.generate.large import edit

            images = sample.to_grey(edit(pipe, given_image.repeat(len(texts), 0), texts, seeds, strength, *sampler))
        elif controls:
            images = sample.to_grey(sample.generate(pipe, texts, seeds, *sampler, controls=controls, scale=scale))
        else:
            images = sample.to_grey(sample.generate(pipe, texts, seeds, *sampler, size_of_test))
        sample.write_samples(out, images, rows, spacing)
    print(f"{out}: {len(rows)} images{classes}")
    if cut := cut_prompts(pipe, texts):
        print(cut)
    if prompt and token and not any(token in text for text in prompt):
        print(f'{model} has learned the word {token}, which no prompt holds; it draws radar best for "a {token} image of …"')


def _subject(prompt: str) -> str:
    """What a prompt asks for, as the class name of its images.

    >>> _subject("a <SAR> image of a city, illuminated from the left"), _subject("crop fields / snow")
    ('city', 'crop fields   snow')
    """
    words = re.sub(r"^(an? )?(<SAR>|SAR|radar|synthetic aperture radar) (image|view) of ", "", prompt.strip(), flags=re.IGNORECASE)
    return re.sub(r"[/\\\x00-\x1f]", " ", re.sub(r"^(an?|the) ", "", words.split(",")[0])).strip() or "scene"


def _lines(path: Path | None) -> list[str]:
    """The prompts of a file, one a line."""
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no prompts can be read ({error}); give a UTF-8 file with one a line") from None
    if not lines or (empty := next((number for number, line in enumerate(lines, 1) if not line.strip()), 0)):
        raise InputError(f"{path}: line {empty if lines else 1} holds no prompt; write one on every line")
    return lines


def _sides(size: str) -> tuple[int, int] | None:
    """Height and width of "HxW"; None where nothing is given."""
    found = re.fullmatch(r"([1-9]\d{0,5})[xX×]([1-9]\d{0,5})", size)
    if size and not found:
        raise InputError(f"--size {size!r}: give height and width in px, such as 512x2048")
    return (int(found[1]), int(found[2])) if found else None


def _scenes(
    pipe: StableDiffusionXLPipeline,
    texts: list[str],
    seeds: list[int],
    sides: tuple[int, int],
    sampler: tuple[int, float, int],
    out: Path,
    controls: dict[str, Any],
    weight: float,
) -> Any:
    """Grey scenes uint8 [N, H, W]; what is done of one that was cut short lies next to ``out``, and is gone on with."""
    import numpy as np

    from sarnb.generate.large import decode_tiles, scene_latents
    from sarnb.generate.sample import to_grey

    steps, scale, batch = sampler
    states = [out.absolute().with_name(f".{out.absolute().name}.scene-{number}") for number in range(len(texts))]
    drawn = []
    for text, seed, state in zip(texts, seeds, states):
        latents = scene_latents(pipe, [[text]], seed, *sides, steps, scale, batch, state=state, controls=controls, scale=weight)
        drawn.append(decode_tiles(pipe.vae, latents))
    for state in states:  # only now: of several scenes the finished ones are needed if a later one is cut short
        state.unlink(missing_ok=True)
    return to_grey(np.stack(drawn))


def _control_files(given: list[str]) -> dict[str, Path]:
    """Kind -> file of every KIND=FILE."""
    from sarnb.model.control import check_kind

    files: dict[str, Path] = {}
    for word in given:
        kind, equals, path = word.partition("=")
        if not equals or not path:
            raise InputError(f"--control {word!r}: give KIND=FILE, such as map=cover.png")
        check_kind(kind)
        if kind in files:
            raise InputError(f"--control {word!r}: a condition of the kind {kind} was given already, {files[kind]}; leave one of them out")
        files[kind] = Path(path)
    return files


def _controls(
    files: dict[str, Path], folders: list[Path], model: str, foundation: str, size: tuple[int, int], count: int
) -> dict[str, Any]:
    """Kind -> network and a condition of ``size`` (H, W) an image, of files and of trained controls."""
    from sarnb.model.control import read_condition
    from sarnb.model.export import load_control, model_key

    pictures = {kind: read_condition(kind, path, size).repeat(count, 0) for kind, path in files.items()}
    steered = model_key(None if model == "zero-shot" else Path(model), foundation)
    loaded = dict(load_control(folder, steered) for folder in folders)
    if unused := [kind for kind in loaded if kind not in files]:
        raise InputError(f"--control-model: that of the kind {unused[0]} has no picture; give --control {unused[0]}=FILE, or leave it out")
    for kind in [kind for kind in files if kind not in loaded]:
        if model == "zero-shot":
            raise InputError(f"--control {kind}=…: the foundation itself has no control next to it; give its folder by --control-model")
        place = Path(model).absolute()
        _, loaded[kind] = load_control(place.parents[1] / f"controlnet-{kind}" / place.name, steered)
    return {kind: (loaded[kind], pictures[kind]) for kind in files}


def _start_image(path: Path, side: int) -> Any:
    """The image of a file as uint8 [1, side, side]."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))[None] if image.mode in ("L", "RGB") else None
    except OSError as error:
        raise InputError(f"{path}: cannot be read as an image ({error}); give an 8-bit PNG") from None
    if grey is None or grey.shape[1:] != (side, side):
        raise InputError(f"{path}: give an 8-bit grey image of {side} x {side} px, the size that this model draws")
    return grey


def _once(argument: Any, option: Any, name: str) -> Any:
    """What was given by place or by option; InputError where it was given twice or not at all."""
    if bool(argument) == bool(option):
        how = "twice; leave one of them out" if argument else f"not at all; give --{name}"
        raise InputError(f"generate was given {name.upper()} {how}")
    return argument or option


def _drawing_model(model: str, spec: str) -> tuple[StableDiffusionXLPipeline, str | None]:
    """The pipeline of a trained model's folder, or of the foundation for "zero-shot"; its learned word, if it has one."""
    from sarnb.model.export import load_trained, read_record
    from sarnb.model.foundation import load_foundation
    from sarnb.model.token import TOKEN

    if model == "zero-shot":
        return load_foundation(spec), None
    token = TOKEN if read_record(Path(model))["strategy"]["token"] else None
    return load_trained(spec, Path(model), fuse=True), token


@app.command()
def evaluate(
    real: Path = typer.Option(..., help="folder of real radar images: 8 or 16 bit, float, complex; PNG, JPEG, TIFF, NPY"),
    fake: Path = typer.Option(..., help="folder of generated images, or of whatever is to be compared"),
    out: Path = typer.Option(..., help="folder for the tables (CSV, Markdown) and figures"),
    captions: Path | None = typer.Option(None, help="metadata.jsonl with file_name, text, label, look of images of either"),
    clip: str = typer.Option("", help="SAR-CLIP, a trained judge's folder; without it the measures that need one are left out"),
    train: Path | None = typer.Option(None, help="folder of the generator's training images, to find memorised ones"),
    size: int | None = typer.Option(None, help="compare the middle of so many px; default: whole images of one size"),
    scale: str = typer.Option(
        "real", help="amplitude scale: 'real' keeps 8 bit and takes the real set's for the rest; 'own': each its own"
    ),
    sensor: str = typer.Option("", help="compare images of this sensor only (column sensor of metadata.jsonl or index.csv)"),
    ignore_classes: bool = typer.Option(False, "--ignore-classes", help="compare the sets as wholes"),
    resamples: int = typer.Option(200, help="bootstrap resamples behind each interval"),
    seed: int = typer.Option(0, help="seed of the bootstrap, the halves and the images shown"),
    workers: int | None = typer.Option(None, help="processes; the numbers are the same for any number"),
    quantity: str = typer.Option(
        "", help="what the real images' numbers are: amplitude, intensity, db or complex; 'intensity,amplitude': of both sides"
    ),
) -> None:
    """Compare two folders of radar images: amplitude, texture, meaning, distribution, geometry."""
    load_profile(BASE, seed=seed, workers=min(cores(), 8) if workers is None else workers)  # the ranges of every command
    from sarnb.comparison import compare_folders
    from sarnb.data.files import working_in
    from sarnb.metrics.folders import Options

    options = Options(size, scale, sensor, not ignore_classes, resamples, seed, workers or min(cores(), 8), quantity=quantity)
    with working_in(out):
        compare_folders(real, fake, out, options, captions, clip, train)


def main() -> None:
    """Run the command line; a mistake of the user is reported in one sentence."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what a call has begun to write is cleared away
    os.environ["MPLBACKEND"] = "agg"  # no command opens a window, whatever a person's settings say
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows ASCII only shows the rest in escapes
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # few shells expand a home behind "="
    home = re.compile(r"^((?:--[\w-]+=)?(?:[A-Z_]+=)?)~(?=/|$)")
    sys.argv[1:] = [home.sub(lambda match: match[1] + os.path.expanduser("~"), word) for word in sys.argv[1:]]
    try:
        app()
    except InputError as error:
        print(f"sarnb: {error}", file=sys.stderr)
        raise SystemExit(2) from None
