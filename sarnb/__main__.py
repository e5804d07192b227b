"""The command line: ``python -m sarnb run | notebook | verify | dataset | finetune | generate | evaluate``.

Each command imports what it needs when it runs. A user's mistake ends with one sentence and exit code 2.
"""

from __future__ import annotations

import sys
import typing
from pathlib import Path

import typer

from sarnb.errors import InputError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="How should a text-to-image diffusion model be fine-tuned so that it draws radar images?",
)


@app.command()
def run(
    profile: str = typer.Option("quick", help="smoke, quick, study, paper, or a .yaml file"),
    data: str = typer.Option("", help="folder of your own SAR images"),
    only: str = typer.Option("", help="notebooks to run, such as 05,06; with what they need if it is out of date"),
    jobs: int = typer.Option(0, help="notebooks side by side; 0 = by the machine"),
    seed: typing.Optional[int] = typer.Option(None, help="seed of data, generation and bootstrap"),
    param: list[str] = typer.Option([], help="NAME=value of a notebook parameter"),
    executor: str = typer.Option("local", help="Snakemake executor, such as slurm"),
    dry_run: bool = typer.Option(False, "--dry-run", help="tell what would run and why; write nothing"),
    snakemake: typing.Optional[list[str]] = typer.Argument(None, help="after --: further options of Snakemake"),
) -> None:
    """Bring the notebooks' results up to date (what ./run_all.sh calls)."""
    from sarnb.run import Wishes
    from sarnb.run import run as run_all

    wishes = Wishes(profile, data, only, jobs, seed, tuple(param), executor, tuple(snakemake or ()))
    raise typer.Exit(run_all(wishes, dry_run))


@app.command()
def notebook(
    name: str = typer.Argument(help="name of the notebook, such as 05_unet_full"),
    plan: Path = typer.Option(..., help="plan-….json that 'run' wrote into results/<profile>/.state"),
) -> None:
    """Run one notebook of a plan (what the Snakefile calls)."""
    from sarnb.node import run_node
    from sarnb.notebook import NotebookError

    try:
        run_node(name, plan)
    except NotebookError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None


@app.command()
def verify(results: Path = typer.Argument(help="a results folder, such as results/quick")) -> None:
    """Find changed, missing and stale artefacts; exit code 1 if there are any."""
    from sarnb.manifest import read_manifests
    from sarnb.manifest import verify as problems_of

    problems = problems_of(results.absolute())
    for problem in problems:
        print(problem)
    manifests = read_manifests(results.absolute())
    count = sum(len(manifest.get("artefacts", [])) for manifest in manifests.values())
    print(f"{results}: {count} artefacts of {len(manifests)} notebooks, {f'{len(problems)} problems' if problems else 'all as recorded'}")
    raise typer.Exit(1 if problems else 0)


@app.command()
def dataset(
    source: str = typer.Argument(help="'twin' for the twin world, or a folder of your own radar images"),
    out: Path = typer.Option(..., help="folder to make"),
    n: typing.Optional[int] = typer.Option(
        None, help="so many twin scenes of all classes and compositions, split 80/10/10; default: the study's splits of the profile"
    ),
    profile: str = typer.Option("quick", help="profile that gives what is not said here"),
    sensor: str = typer.Option("", help="radar preset: airborne-x, terrasar-x, sentinel-1, umbra; the same scenes through each"),
    size: typing.Optional[int] = typer.Option(None, help="side of an image in pixels, a multiple of 8"),
    seed: typing.Optional[int] = typer.Option(None, help="seed of scenes and speckle, or of the split of your images"),
    workers: typing.Optional[int] = typer.Option(None, help="processes; the files are the same for any number"),
) -> None:
    """Make a data set (imagefolder with metadata.jsonl and a data card) of the twin world or of your own images."""
    from sarnb.commands import dataset_command

    dataset_command(source, out, n, profile, sensor, size, seed, workers)


@app.command()
def finetune(
    strategy: str = typer.Option(..., help="hybrid, unet-full, unet-lora-r16, te-lora, token …"),
    data: typing.Optional[Path] = typer.Option(None, help="data set that 'dataset' made; default: that of the notebooks"),
    out: typing.Optional[Path] = typer.Option(None, help="folder for the trained model; default: that of the notebooks"),
    profile: str = typer.Option("quick", help="profile that gives rates, steps and the foundation"),
    foundation: str = typer.Option("", help="'embedded', a hub id or a folder, with +vae=… another autoencoder; default: the profile's"),
    steps: int = typer.Option(0, help="optimizer steps; default: the profile's"),
    seed: typing.Optional[int] = typer.Option(None, help="training seed; default: the profile's first"),
    tracker: list[str] = typer.Option([], help="follow the training in 'tensorboard' (or another tracker of accelerate)"),
    param: list[str] = typer.Option([], help="NAME=value of another value than the profile's, such as OPTIMIZER=adamw"),
) -> None:
    """Fine-tune the foundation by one strategy.

    On many GPUs: 'accelerate launch --config_file sarnb/profiles/accelerate/ddp.yaml -m sarnb finetune …', or fsdp.yaml
    beside it where one card cannot hold the model (with '--param OPTIMIZER=adamw', for 8-bit moments cannot be shared out).
    """
    from sarnb.commands import finetune_command

    finetune_command(strategy, data, out, profile, foundation, steps, seed, tracker, param)


@app.command()
def generate(
    model: typing.Optional[str] = typer.Argument(None, help="trained model of 'finetune', or 'zero-shot' for the foundation itself"),
    out: typing.Optional[Path] = typer.Argument(None, help="folder for the images"),
    model_option: str = typer.Option("", "--model", help="the same as MODEL"),
    out_option: typing.Optional[Path] = typer.Option(None, "--out", help="the same as OUT"),
    prompt: list[str] = typer.Option([], help="what to draw, once for each image"),
    seed: typing.Optional[int] = typer.Option(None, help="noise of the first prompt's image, the others count on; default: 0"),
    data: typing.Optional[Path] = typer.Option(None, help="instead of prompts: data set whose test classes are drawn"),
    profile: str = typer.Option("quick", help="profile that gives sampler, guidance and number"),
    foundation: str = typer.Option("", help="'embedded', a hub id or a folder, with +vae=… another autoencoder; default: the profile's"),
    per_class: int = typer.Option(0, help="images per class; default: the profile's"),
) -> None:
    """Generate images: of your prompts ('--model DIR --prompt "…" --out DIR'), or a model's evaluation images ('DIR OUT --data …')."""
    model, out = _once(model, model_option, "model"), _once(out, out_option, "out")
    if bool(prompt) == (data is not None):
        raise InputError("generate draws either prompts or the classes of a data set; give --prompt, once for each image, or --data")
    if prompt:
        if per_class:
            raise InputError("--per-class belongs to --data; give --prompt once for each image instead")
        from sarnb.commands import draw_command

        draw_command(model, prompt, seed or 0, Path(out), profile, foundation)
        return
    if seed is not None:
        raise InputError("--seed belongs to --prompt; the noise of evaluation images follows from their class and number")
    from sarnb.commands import generate_command

    generate_command(model, Path(out), data, profile, foundation, per_class)


def _once(argument: typing.Any, option: typing.Any, name: str) -> typing.Any:
    """What was given by place or by option; InputError where it was given twice or not at all."""
    if bool(argument) == bool(option):
        how = "twice; leave one of them out" if argument else f"not at all; give --{name}"
        raise InputError(f"generate was given {name.upper()} {how}")
    return argument or option


@app.command()
def evaluate(
    real: Path = typer.Option(..., help="folder of real radar images: 8 or 16 bit, float, complex; PNG, JPEG, TIFF, NPY"),
    fake: Path = typer.Option(..., help="folder of generated images, or of whatever is to be compared"),
    out: Path = typer.Option(..., help="folder for the tables (CSV, Markdown) and figures"),
    captions: typing.Optional[Path] = typer.Option(None, help="metadata.jsonl with file_name, text, label, look of images of either"),
    clip: str = typer.Option("", help="SAR-CLIP, a trained judge's folder; without it the measures that need one are left out"),
    train: typing.Optional[Path] = typer.Option(None, help="folder of the generator's training images, to find memorised ones"),
    size: typing.Optional[int] = typer.Option(None, help="compare the middle of so many px; default: whole images of one size"),
    scale: str = typer.Option(
        "real", help="amplitude scale: 'real' keeps 8 bit and takes the real set's for the rest; 'own': each its own"
    ),
    sensor: str = typer.Option("", help="compare images of this sensor only (column sensor of metadata.jsonl or index.csv)"),
    ignore_classes: bool = typer.Option(False, "--ignore-classes", help="compare the sets as wholes"),
    resamples: int = typer.Option(200, help="bootstrap resamples behind each interval"),
    seed: int = typer.Option(0, help="seed of the bootstrap, the halves and the images shown"),
    workers: typing.Optional[int] = typer.Option(None, help="processes; the numbers are the same for any number"),
) -> None:
    """Compare two folders of radar images: amplitude, texture, meaning, distribution, geometry."""
    from sarnb.commands import evaluate_command

    evaluate_command(real, fake, out, captions, clip, train, size, scale, sensor, ignore_classes, resamples, seed, workers)


def main() -> None:
    """Runs the command line; a mistake of the user is told in one sentence."""
    try:
        app()
    except InputError as error:
        print(f"sarnb: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
