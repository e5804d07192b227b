"""The command line and the shell script: messages, exit codes, and nothing installed without need."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import rasterio
import torch
from PIL import Image
from tiny import tiny_pipeline, tiny_twin
from typer.testing import CliRunner

import sarnb.generate.strategies
import sarnb.profile
from sarnb.cli import app
from sarnb.comparison import compare_folders
from sarnb.data.dataset import load_card, load_set
from sarnb.data.files import check_out, claim, release
from sarnb.errors import InputError
from sarnb.generate.large import draw_scene, edit
from sarnb.generate.sample import generate, to_grey
from sarnb.metrics.folders import Options
from sarnb.model.control import conditions_of
from sarnb.model.export import foundation_fingerprint, load_control, load_trained, save_trained
from sarnb.model.strategy import find_strategy, prepare
from sarnb.profile import load_profile
from sarnb.settings import repository
from sarnb.train.finetune import FinetuneConfig

SCRIPT = repository() / "run_all.sh"


def _call(*words: str, environment: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess:
    variables = {**os.environ, "PYTHONPATH": str(repository()), **(environment or {})}
    return subprocess.run([*words], capture_output=True, text=True, env=variables, cwd=cwd, timeout=60)


def _python(*words: str, **variables: str) -> subprocess.CompletedProcess:
    return _call(sys.executable, "-m", "sarnb", *words, environment=variables)


@pytest.mark.parametrize(("words", "variables"), [(["--profile", "fast"], {}), ([], {"SARNB_PROFILE": "fast"})])
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, words, variables):
    done = _python("run", *words, SARNB_RESULTS=str(tmp_path / "r"), **variables)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("sarnb: unknown profile 'fast'") and done.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("words", [("--out=~/x",), ("--out", "~/x")])
def test_a_home_is_expanded_where_the_shell_did_not(words, tmp_path):
    (tmp_path / "x").write_text("a file")
    done = _python("dataset", "~/", *words, HOME=str(tmp_path))
    assert done.returncode == 2 and done.stderr.startswith(f"sarnb: {tmp_path}/x: is a file")


def test_all_commands_are_there():
    done = _python("--help")
    assert done.returncode == 0
    for command in ("run", "notebook", "verify", "student", "dataset", "finetune", "generate", "evaluate"):
        assert f"  {command} " in done.stdout


def _said(*words: str) -> str:
    """What a command prints; raises what it raises."""
    done = CliRunner().invoke(app, [*words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_dataset_of_the_twin_world(tmp_path):
    out = tmp_path / "d"
    said = _said(*"dataset twin --n 51 --size 32 --sensor umbra --seed 4 --workers 1 --out".split(), str(out))
    assert "train 41, val 5, test 5 images" in said
    card = load_card(out)
    assert (card["sensor"], card["size"], card["seed"]) == ("umbra", 32, 4) and len(card["labels"]) == 17
    assert sorted(path.name for path in out.iterdir()) == [".sarnb.json", "README.md", "card.json", "test", "train", "val"]


def test_without_n_dataset_makes_the_studys_splits(tmp_path, monkeypatch):
    received = {}

    def note(out, splits, sensor, size, seed, workers):
        received.update(splits=splits, numbers=(sensor, size, seed, workers))
        return {"totals": {}}

    monkeypatch.setattr("sarnb.data.twin.build_twin", note)
    _said("dataset", "twin", "--out", str(tmp_path / "d"), "--profile", "smoke")
    values = load_profile("smoke")
    assert received["numbers"] == (values.sensor, values.image_size, values.seed, values.workers)
    counts = {split: spec.count for split, spec in received["splits"].items()}
    assert counts["train"] == values.train_images and counts["judge"] == values.judge_images
    assert not {"airport", "harbour", "solar farm", "stadium", "river+forest"} & {
        kind for split in ("train", "val") for kind in received["splits"][split].kinds
    }


def test_dataset_of_own_images(tmp_path):
    for number in range(6):
        folder = tmp_path / "in" / ("a" if number % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 40), np.uint8)).save(folder / f"{number}.png")
    assert "train 2" in _said("dataset", str(tmp_path / "in"), "--out", str(tmp_path / "d"), "--size", "32")
    assert load_card(tmp_path / "d")["kind"] == "user"


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> tuple[str, Path]:
    """A tiny foundation, and a learned word on it whose rows moved."""
    foundation, model = tmp_path_factory.mktemp("foundation"), tmp_path_factory.mktemp("model")
    pipe = tiny_pipeline()
    pipe.save_pretrained(foundation)
    fingerprint = foundation_fingerprint(pipe)
    with torch.no_grad():
        for parameter in (p for group in prepare(pipe, find_strategy("token")).values() for p in group):
            parameter += 0.5
    save_trained(pipe, find_strategy("token"), model, {"foundation": fingerprint})
    return str(foundation), model


def _generate(*words: str) -> str:
    return _said("generate", "--profile", "smoke", *words)


def test_prompts_are_drawn_as_the_package_draws_them(tiny_model, tmp_path):
    foundation, model = tiny_model
    prompts, out, values = ["a <SAR> image of a city", "a <SAR> image of a forest"], tmp_path / "out", load_profile("smoke")
    said = _generate(
        "--model", str(model), "--foundation", foundation, "--prompt", prompts[0], "--prompt", prompts[1], "--seed", "7", "--out", str(out)
    )
    assert said == f"{out}: 2 images\n"
    pipe = load_trained(foundation, model, fuse=True)
    expected = to_grey(generate(pipe, prompts, [7, 8], values.sampling_steps, values.guidance_scale, values.batch_size))
    drawn = load_set(out)
    assert np.array_equal(drawn.images, expected) and len(np.unique(expected)) > 2
    assert [(row["text"], row["seed"]) for row in drawn.rows] == list(zip(prompts, (7, 8)))
    files = [Image.open(out / row["file_name"]) for row in drawn.rows]
    assert [(file.format, file.mode) for file in files] == [("PNG", "L")] * 2
    # By position as well, into the folder of earlier images; without the word it says that there is one.
    assert "learned the word <SAR>" in _generate(str(model), str(out), "--foundation", foundation, "--prompt", "a city")
    assert len(load_set(out).images) == 1


def test_large_scenes_are_drawn_as_the_package_draws_them_and_say_that_they_are_synthetic(tiny_model, tmp_path):
    foundation, model = tiny_model
    out, values, file = tmp_path / "out", load_profile("smoke"), tmp_path / "prompts.txt"
    file.write_text("a <SAR> image of a city\na <SAR> image of a forest\n")
    common = ("--model", str(model), "--foundation", foundation, "--prompts", str(file), "--n", "3", "--size", "32x48", "--spacing", "0.5")
    assert _generate(*common, "--seed", "3", "--out", str(out)) == f"{out}: 6 images\n"
    drawn, pipe = load_set(out), load_trained(foundation, model, fuse=True)
    assert drawn.images.shape == (6, 32, 48) and [row["seed"] for row in drawn.rows] == [3, 4, 5, 6, 7, 8]
    scene = draw_scene(pipe, [["a <SAR> image of a forest"]], 6, 32, 48, values.sampling_steps, values.guidance_scale)
    assert np.array_equal(drawn.images[3], to_grey(scene[None])[0])
    assert list(drawn.labels) == ["city"] * 3 + ["forest"] * 3
    assert {row["synthetic"]["model"] for row in drawn.rows} == {model.name}
    with Image.open(out / "000003.png") as image:
        assert json.loads(image.text["synthetic"]) == drawn.rows[3]["synthetic"], "a file that is copied elsewhere says so, too"
    with rasterio.open(out / "000003.tif") as tiff:
        assert np.array_equal(tiff.read(1), drawn.images[3]) and tiff.res == (0.5, 0.5) and tiff.tags()["synthetic"] == "yes"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".out")) == []
    assert "train 2" in _said("dataset", str(out), "--out", str(tmp_path / "data"), "--size", "32")
    texts = {text for split in ("train", "val", "test") for text in load_set(tmp_path / "data" / split).captions}
    assert texts == {"a <SAR> image of a city", "a <SAR> image of a forest"}, "drawn images and their captions can be trained on"


def test_a_control_is_trained_for_a_model_and_steers_it_by_a_picture(tiny_model, tmp_path, monkeypatch):
    foundation, model = tiny_model
    (placed := tmp_path / "models" / "token").mkdir(parents=True)
    (placed / "seed0").symlink_to(model)
    data, out = tiny_twin(tmp_path / "data" / "train"), tmp_path / "models" / "controlnet-map" / "seed0"
    train = ("finetune", "--control", "map", "--model", str(placed / "seed0"), "--foundation", foundation, "--profile", "smoke")
    assert f"{out}: controlnet-map, 2 steps" in _said(*train, "--data", str(data.root.parent), "--out", str(out), "--steps", "2")
    kind, net = load_control(out)
    picture, prompt, values = data.root / data.rows[3]["mask"], "a <SAR> image of a city", load_profile("smoke")
    common = ("--model", str(placed / "seed0"), "--foundation", foundation, "--prompt", prompt, "--seed", "5", "--n", "2")
    _generate(*common, "--control", f"map={picture}", "--scale", "0.5", "--out", str(tmp_path / "steered"))
    drawn, pipe = load_set(tmp_path / "steered"), load_trained(foundation, model, fuse=True)
    sampler = values.sampling_steps, values.guidance_scale, values.batch_size
    controls = {kind: (net, conditions_of(data, "map")[[3, 3]])}
    assert np.array_equal(drawn.images, to_grey(generate(pipe, [prompt] * 2, [5, 6], *sampler, controls=controls, scale=0.5)))
    assert drawn.rows[0]["synthetic"]["control"] == {"map": picture.name} and drawn.rows[0]["synthetic"]["scale"] == 0.5
    _generate(*common, "--from", str(data.root / data.ids[2]), "--strength", "0.75", "--out", str(tmp_path / "edited"))
    drawn = load_set(tmp_path / "edited")
    assert np.array_equal(drawn.images, to_grey(edit(pipe, data.images[[2, 2]], [prompt] * 2, [5, 6], 0.75, *sampler)))
    assert drawn.rows[0]["synthetic"]["from"] == data.ids[2] and drawn.rows[0]["synthetic"]["strength"] == 0.75
    wide = tmp_path / "wide.png"
    Image.fromarray(np.tile(np.arange(24, dtype=np.uint8) // 2, (16, 1))).save(wide)
    _generate(*common, "--control", f"map={wide}", "--size", "16x24", "--out", str(tmp_path / "scene"))
    drawn = load_set(tmp_path / "scene")
    controls = {kind: (net, np.asarray(Image.open(wide))[None])}
    sampler = values.sampling_steps, values.guidance_scale
    scene = draw_scene(pipe, [[prompt]], 6, 16, 24, *sampler, controls=controls)
    assert np.array_equal(drawn.images[1], to_grey(scene[None])[0])
    assert not np.array_equal(scene, draw_scene(pipe, [[prompt]], 6, 16, 24, *sampler))
    assert drawn.rows[1]["synthetic"]["control"] == {"map": "wide.png"}
    for words, message in (
        (("--control", f"map={wide}"), "the map has 24 x 16 px"),
        (("--control", f"map={picture}", "--size", "16x24"), "the map has 16 x 16 px; give one of 24 x 16 px"),
        (("--control", f"map={wide}", "--size", "16x25"), "the map has 24 x 16 px; give one of 25 x 16 px"),
        (("--control", f"optical={picture}"), "holds no finished model"),
        (("--control", f"satellite={picture}", "--control-model", str(out)), "that of the kind map has no picture"),
        (("--from", str(wide)), "wide.png: give an 8-bit grey image of 16 x 16 px"),
    ):
        with pytest.raises(InputError, match=message):
            _generate(*common, *words, "--out", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


SENSELESS = {  # a command -> words of the one sentence that refuses it; CITY stands for "m o --prompt city"
    "dataset moon --out d": "unknown source 'moon'; give the word twin, or a folder",
    "dataset twin --n 20 --out d": "n is 20; give 21 or more",
    "dataset twin --size 48 --out d": "image_size is 48, it must be a multiple of 32 px",
    "dataset twin --size 5000 --out d": "image_size is 5000, it must be at most 4096",
    "dataset twin --profile fast --out d": "unknown profile 'fast'",
    **{f"dataset . --out e {given}": f"{given.split()[0]} is for the twin world" for given in ("--n 60", "--sensor umbra", "--workers 2")},
    "dataset . --out e --seed -2": "seed is -2, it must be at least 0",
    "finetune --control map": "--control KIND with --model DIR",
    "finetune --control map --model zero-shot --strategy hybrid": "a strategy or a control",
    "finetune --control sketch --model zero-shot": "unknown condition 'sketch'; choose one of map, satellite, optical",
    "finetune --control map --model zero-shot --network lora": "unknown network 'lora'",
    "finetune --control map --model zero-shot --param LR_TOKEN=1": "training controlnet-map reads; known are",
    "finetune --strategy hybrid --param OPTIMISER=adamw": "--param OPTIMISER: no value",
    "finetune --strategy hybrid --param RANKS=[4]": "--param RANKS: no value",
    "finetune --strategy hybrid --param OPTIMIZER": "NAME=value",
    "finetune --strategy hybrid --param OPTIMIZER=sgd": "optimizer is 'sgd'",
    "finetune --strategy token --steps 4 --param TRAIN_STEPS=5": "--steps and --param TRAIN_STEPS say the same",
    "finetune --strategy token --steps 4 --param WARMUP_STEPS=5": "warmup_steps 5 is above train_steps 4",
    "finetune --strategy vae-full --steps 4 --param WARMUP_STEPS=4 --param VAE_STEPS=3": "VAE_STEPS say the same",
    "finetune --strategy vae-full --param LR_TOKEN=1": "no value of a profile that training vae-full reads",
    "finetune --strategy token --param VAE_CROP=64": "no value of a profile that training token reads",
    "finetune --strategy vae-full --tracker tensorbored": "unknown tracker 'tensorbored'",
    "finetune --strategy token --tracker tensorbored": "unknown tracker 'tensorbored'",
    "generate CITY --control map": "'map': give KIND=FILE",
    "generate CITY --control sketch=x.png": "unknown condition 'sketch'",
    "generate CITY --control map=a.png --control map=b.png": "kind map was given already, a.png",
    "generate CITY --control map=a.png --from b.png": "not to each other",
    "generate m o --data d --from b.png": "belong to --prompt",
    "generate CITY --from b.png --size 32x32": "--from without --size",
    "generate CITY --from b.png --strength 0": "--strength 0: give a number above 0 and up to 1",
    "generate CITY --from b.png --strength 1.5": "--strength 1.5",
    "generate CITY --control-model c": "--control-model is for --control",
    "generate CITY --size 12": "give height and width",
    "generate m o --data d --size 12x12": "--size and --n belong to --prompt",
    "generate CITY --n 0": "at least one image",
    "generate CITY --spacing 2": "together with --size",
    "generate m o --prompts nowhere.txt": "nowhere.txt: no prompts can be read",
    "generate m o --prompts prompts.txt": "prompts.txt: line 2 holds no prompt",
    "generate --model m --out o": "give --prompt.*or --data",
    "generate CITY --data d": "give --prompt.*or --data",
    "generate --prompt city --out o": "MODEL not at all; give --model",
    "generate CITY --model m": "MODEL twice",
    "generate m --prompt city": "OUT not at all; give --out",
    "generate CITY --per-class 3": "--per-class belongs to --data",
    "generate m o --data d --seed 3": "--seed belongs to --prompt",
    "generate CITY": "holds no finished model",
}


@pytest.mark.parametrize("command", SENSELESS)
def test_a_senseless_request_is_one_sentence_and_writes_nothing(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a city\n\na forest\n")
    with pytest.raises(InputError, match=SENSELESS[command]) as caught:
        _said(*command.replace("CITY", "m o --prompt city").split())
    assert "\n" not in str(caught.value) and [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


@pytest.mark.parametrize(
    "command",
    [
        "generate zero-shot mine --prompt city",
        "generate zero-shot mine --data elsewhere",
        "dataset twin --n 51 --out mine",
        "dataset elsewhere --out mine",
        "finetune --strategy token --data elsewhere --out mine",
        "finetune --strategy vae-decoder --data elsewhere --out mine",
        "evaluate --real elsewhere --fake elsewhere --out mine",
    ],
)
def test_no_command_touches_files_that_were_not_made_here(command, tmp_path, monkeypatch):
    """A user's own folder, whose files have the very names that the command writes."""
    monkeypatch.chdir(tmp_path)
    for name in ("metadata.jsonl", "card.json", "README.md", "history.csv", "record.json", "unet/config.json", "vae/config.json"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text("mine")
    (tmp_path / "mine/evaluation.csv").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="not written here"):
        _said(*command.split())
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("seed", ["-1", "4294967296", "99999999999999999999999"])
@pytest.mark.parametrize(
    "command",
    [
        "run --profile smoke --seed",
        "run --profile smoke --param SEED=",
        "dataset twin --out o --seed",
        "dataset . --out o --seed",
        "finetune --strategy token --data d --out o --seed",
        "finetune --strategy vae-decoder --data d --out o --seed",
        "generate zero-shot o --prompt city --seed",
        "evaluate --real . --fake . --out o --seed",
    ],
)
def test_every_command_takes_the_same_seeds(command, seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = f"{command}{'' if command.endswith('=') else ' '}{seed}".split()
    with pytest.raises(InputError, match=rf"seed.* is .*{seed}\D.*it must be at (least 0|most 4294967295)"):
        _said(*words)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_comparison_keeps_no_figure_of_an_earlier_one_and_all_that_is_the_users(tmp_path):
    for side in ("real", "fake"):
        (tmp_path / side).mkdir()
        for number in range(3):
            pixels = np.random.default_rng([number, len(side)]).integers(0, 255, (32, 32), np.uint8)
            Image.fromarray(pixels).save(tmp_path / side / f"{number}{side}.png")
    out = claim(tmp_path / "out", "comparison", names=("figures/*.png",))
    (out / "figures").mkdir()
    (out / "figures/old.png").write_bytes(b"of an earlier comparison")
    release(out)
    (out / "notes.txt").write_text("mine")
    compare_folders(tmp_path / "real", tmp_path / "fake", out, Options(resamples=0, halvings=2))
    assert not (out / "figures/old.png").exists() and (out / "figures/texture.svg").is_file()
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(InputError, match="holds notes.txt, not"):  # all else is listed as written here
        check_out(out, "comparison")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_parent_alone_ends_the_workers_too(number, tmp_path):
    words = [sys.executable, *"-m sarnb dataset twin --n 2000 --size 256 --workers 2 --out".split(), str(tmp_path / "d")]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(repository())}, start_new_session=True, stderr=subprocess.PIPE)
    while len(workers := psutil.Process(process.pid).children()) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    begun = time.monotonic()
    os.kill(process.pid, number)
    process.communicate(timeout=30)
    assert time.monotonic() - begun < 10 and process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


def test_every_option_of_evaluate_reaches_the_comparison(monkeypatch, tmp_path):
    received = []
    monkeypatch.setattr("sarnb.comparison.compare_folders", lambda *given: received.extend(given))
    words = (
        "--captions c --clip j --train t --size 64 --scale own --sensor S --ignore-classes --resamples 7 --seed 3 --workers 2 --quantity db"
    )
    _said(*f"evaluate --real r --fake f --out {tmp_path / 'o'} {words}".split())
    assert received[3] == Options(64, "own", "S", by_class=False, resamples=7, seed=3, workers=2, quantity="db")
    assert [str(received[place]) for place in (0, 1, 4, 5, 6)] == ["r", "f", "c", "j", "t"]


@pytest.mark.parametrize("out", ["foundation", "foundation/tuned", ".", "data", "data/train"])
def test_finetune_does_not_write_over_what_it_reads(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("foundation/model_index.json", "data/train/metadata.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match="what this call reads"):
        _said(*"finetune --strategy unet-full --data data --foundation foundation --out".split(), out)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def _finetune(monkeypatch, *words: str) -> FinetuneConfig:
    """The configuration that ``finetune`` would train with."""
    received = []

    def train(plan, foundation, data, out, config, *others):
        received.append(config)
        return pd.DataFrame({"loss": [1.0]}), {}

    monkeypatch.setattr(sarnb.generate.strategies, "train_strategy", train)
    _said("finetune", *words)
    return received[0]


def test_finetune_takes_other_values_than_the_profiles(monkeypatch):
    plain = _finetune(monkeypatch, "--strategy", "hybrid", "--profile", "paper")
    changed = _finetune(monkeypatch, "--strategy", "hybrid", "--profile", "paper", "--param", "OPTIMIZER=adamw", "--param", "lr_token=1e-3")
    assert plain.optimizer == "adamw8bit" and changed == replace(plain, optimizer="adamw", lr_token=1e-3)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_the_command_in_the_shipped_configuration_can_train(kind, monkeypatch):
    """What stands there is what people copy; FSDP refuses 8-bit moments."""
    text = (Path(sarnb.profile.__file__).parent / "profiles" / "accelerate" / f"{kind}.yaml").read_text()
    (command,) = [line for line in text.splitlines() if "accelerate launch" in line]
    config = _finetune(monkeypatch, *command.split("-m sarnb finetune")[1].split())
    assert config.optimizer == "adamw" or kind == "ddp"


def test_help_needs_no_environment():
    done = _call("bash", str(SCRIPT), "--help", environment={"VIRTUAL_ENV": "", "CONDA_PREFIX": ""}, cwd=Path("/"))
    assert done.returncode == 0
    for option in ("--profile", "--data", "--only", "--jobs", "--seed", "--param", "--executor", "--dry-run", "test"):
        assert option in done.stdout


@pytest.mark.parametrize("words", [["--profil", "smoke"], ["nonsense"], ["--seed"]])
def test_a_typing_error_is_reported_at_once(words):
    done = _call("bash", str(SCRIPT), *words)
    assert done.returncode == 2 and done.stderr.startswith("run_all.sh: ") and "--help" in done.stderr


@pytest.fixture
def clone(tmp_path):
    """A clone in a folder with a space, and an environment in which the packages count as installed."""
    root = tmp_path / "my clone"
    root.mkdir()
    for name in ("run_all.sh", "pyproject.toml", "sarnb", "notebooks"):
        (root / name).symlink_to(repository() / name)
    (root / "run_all.sh").unlink()
    (root / "run_all.sh").write_bytes(SCRIPT.read_bytes())
    environment = tmp_path / "an environment"
    (environment / "bin").mkdir(parents=True)
    # A python that says it belongs to that environment and notes every pip.
    (environment / "bin/python").write_text(
        f"#!/usr/bin/env bash\nif [[ \"$*\" == *'-m pip'* ]]; then echo \"$*\" >> '{tmp_path}/pip.log'; exit 0; fi\n"
        f"if [[ \"$*\" == *sys.prefix* ]]; then echo '{environment}'; exit 0; fi\nexec '{sys.executable}' \"$@\"\n"
    )
    (environment / "bin/python").chmod(0o755)
    return root, environment, tmp_path / "pip.log"


@pytest.mark.parametrize("active", ["VIRTUAL_ENV", "CONDA_PREFIX"])
@pytest.mark.slow
def test_installs_once_in_the_active_environment_and_works_from_any_folder(clone, tmp_path, active):
    root, environment, pip = clone
    variables = {"SARNB_EXTRAS": "", "VIRTUAL_ENV": "", "CONDA_PREFIX": "", "CONDA_DEFAULT_ENV": "mine", active: str(environment)}
    first, second = (_call("bash", str(root / "run_all.sh"), "--profile", "fast", environment=variables, cwd=tmp_path) for _ in "12")
    assert "installing" in first.stdout and "installing" not in second.stdout
    assert "unknown profile 'fast'" in second.stderr and second.returncode == 2
    assert pip.read_text().splitlines() == [f"-m pip install --quiet --editable {root}[test,report]"]
    want = hashlib.sha256((root / "pyproject.toml").read_bytes()).hexdigest()
    assert (environment / ".sarnb-installed").read_text().split()[0] == want


def test_a_changed_pin_installs_again(clone, tmp_path):
    root, environment, pip = clone
    (environment / ".sarnb-installed").write_text("0 elsewhere\n")
    _call("bash", str(root / "run_all.sh"), "--profile", "fast", environment={"VIRTUAL_ENV": str(environment)}, cwd=tmp_path)
    assert len(pip.read_text().splitlines()) == 1


# What was given is used, refused, or said in the last lines.


@pytest.mark.parametrize(
    "words, warmup",
    [
        (("--steps", "40"), 10),  # a quarter of the steps, for the profile has more
        (("--steps", "40", "--param", "WARMUP_STEPS=30"), 30),
        (("--param", "WARMUP_STEPS=7"), 7),
        ((), load_profile("paper").warmup_steps),
    ],
)
def test_a_warm_up_that_was_given_stays(words, warmup, monkeypatch):
    assert _finetune(monkeypatch, "--strategy", "hybrid", "--profile", "paper", *words).warmup_steps == warmup


def test_a_word_that_was_never_learned_is_refused_and_a_prompt_that_is_cut_is_named(tiny_model, tmp_path):
    foundation, model = tiny_model
    for given, prompt, message in (
        ("zero-shot", "a <SAR> image of a city", "holds a word that zero-shot has not learned.*write 'radar image'"),
        (str(model), "a <sar> image of a city", "has not learned: write it as <SAR>"),
    ):
        with pytest.raises(InputError, match=message):
            _generate(given, str(tmp_path / "out"), "--foundation", foundation, "--prompt", prompt)
    assert not (tmp_path / "out").exists()
    said = _generate("zero-shot", str(tmp_path / "out"), "--foundation", foundation, "--prompt", " ".join(["city"] * 20))
    assert "1 of 1 texts are longer than the 16 tokens that are read, and were cut" in said.splitlines()[-1]
