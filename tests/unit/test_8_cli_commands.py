"""The command line and the shell script: messages, exit codes, and nothing installed without need."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sarnb.__main__ import app
from sarnb.data.dataset import load_card
from sarnb.errors import InputError
from sarnb.profile import load_profile
from sarnb.settings import repository

SCRIPT = repository() / "run_all.sh"


def _call(*words: str, environment: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess:
    variables = {**os.environ, "PYTHONPATH": str(repository()), **(environment or {})}
    return subprocess.run([*words], capture_output=True, text=True, env=variables, cwd=cwd, timeout=60)


def _python(*words: str, **variables: str) -> subprocess.CompletedProcess:
    return _call(sys.executable, "-m", "sarnb", *words, environment=variables)


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    done = _python("run", "--profile", "fast", SARNB_RESULTS=str(tmp_path / "r"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("sarnb: unknown profile 'fast'") and done.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_verify_of_a_missing_folder(tmp_path):
    done = _python("verify", str(tmp_path / "none"))
    assert done.returncode == 2 and "no such folder" in done.stderr


def test_all_commands_are_there():
    done = _python("--help")
    assert done.returncode == 0
    for command in ("run", "notebook", "verify", "dataset", "finetune", "generate", "evaluate"):
        assert f"  {command} " in done.stdout


def _dataset(*words: str) -> str:
    """What ``dataset`` prints; raises what it raises."""
    done = CliRunner().invoke(app, ["dataset", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_dataset_of_the_twin_world(tmp_path):
    out = tmp_path / "d"
    told = _dataset("twin", "--n", "51", "--out", str(out), "--size", "32", "--sensor", "umbra", "--seed", "4", "--workers", "1")
    assert "train 17, val 17, test 17 images" in told
    card = load_card(out)
    assert (card["sensor"], card["size"], card["seed"]) == ("umbra", 32, 4) and len(card["labels"]) == 17
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "card.json", "test", "train", "val"]


def test_without_n_dataset_makes_the_studys_splits(tmp_path, monkeypatch):
    asked = {}

    def note(out, splits, sensor, size, seed, workers):
        asked.update(splits=splits, numbers=(sensor, size, seed, workers))
        return {"totals": {}}

    monkeypatch.setattr("sarnb.data.twin.build_twin", note)
    _dataset("twin", "--out", str(tmp_path / "d"), "--profile", "smoke")
    values = load_profile("smoke")
    assert asked["numbers"] == (values.sensor, values.image_size, values.seed, values.workers)
    counts = {split: spec.count for split, spec in asked["splits"].items()}
    assert counts["train"] == values.train_images and counts["judge"] == values.judge_images
    assert not {"airport", "harbour", "solar farm", "stadium", "river+forest"} & {
        kind for split in ("train", "val") for kind in asked["splits"][split].kinds}


def test_dataset_of_own_images(tmp_path):
    for number in range(6):
        folder = tmp_path / "in" / ("a" if number % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 40), np.uint8)).save(folder / f"{number}.png")
    assert "train 2" in _dataset(str(tmp_path / "in"), "--out", str(tmp_path / "d"), "--size", "32")
    assert load_card(tmp_path / "d")["kind"] == "user"
    for option, value in (("--n", "60"), ("--sensor", "umbra"), ("--workers", "2")):
        with pytest.raises(InputError, match=f"{option} is for the twin world"):
            _dataset(str(tmp_path / "in"), "--out", str(tmp_path / "e"), option, value)
    with pytest.raises(InputError, match="seed is -2"):
        _dataset(str(tmp_path / "in"), "--out", str(tmp_path / "e"), "--seed", "-2")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["moon"], "unknown source 'moon'; give the word twin, or a folder"),
        (["twin", "--n", "50"], "n is 50; give at least 51"),
        (["twin", "--n", "-3"], "n is -3; give at least 51"),
        (["twin", "--sensor", "ers"], "unknown sensor 'ers'; choose of airborne-x"),
        (["twin", "--size", "24"], "size is 24 px; give 32 or more"),
        (["twin", "--size", "100"], "a multiple of 8"),
        (["twin", "--seed", "-1"], "seed is -1"),
        (["twin", "--workers", "0"], "workers is 0"),
        (["twin", "--profile", "fast"], "unknown profile 'fast'"),
    ],
)
def test_a_bad_option_of_dataset_is_one_sentence_and_writes_nothing(words, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        _dataset(*words, "--out", str(tmp_path / "d"))
    assert "\n" not in str(caught.value) and not (tmp_path / "d").exists()


def test_dataset_leaves_other_folders_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="name another folder or empty it"):
        _dataset("twin", "--n", "51", "--out", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_help_needs_no_environment():
    done = _call("bash", str(SCRIPT), "--help", environment={"VIRTUAL_ENV": "", "CONDA_PREFIX": ""}, cwd=Path("/"))
    assert done.returncode == 0
    for option in ("--profile", "--data", "--only", "--jobs", "--seed", "--param", "--executor", "--dry-run", "test"):
        assert option in done.stdout


@pytest.mark.parametrize("words", [["--profil", "smoke"], ["nonsense"], ["--seed"]])
def test_a_typing_error_is_told_at_once(words):
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
        f"if [[ \"$*\" == *sys.prefix* ]]; then echo '{environment}'; exit 0; fi\nexec '{sys.executable}' \"$@\"\n")
    (environment / "bin/python").chmod(0o755)
    return root, environment, tmp_path / "pip.log"


@pytest.mark.parametrize("active", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_installs_once_in_the_active_environment_and_works_from_any_folder(clone, tmp_path, active):
    root, environment, pip = clone
    variables = {"VIRTUAL_ENV": "", "CONDA_PREFIX": "", "CONDA_DEFAULT_ENV": "mine", active: str(environment)}
    first, second = (_call("bash", str(root / "run_all.sh"), "--profile", "fast", environment=variables, cwd=tmp_path) for _ in "12")
    assert "installing" in first.stdout and "installing" not in second.stdout
    assert "unknown profile 'fast'" in second.stderr and second.returncode == 2
    assert pip.read_text().splitlines() == [f"-m pip install --quiet --editable {root}[test]"]
    want = hashlib.sha256((root / "pyproject.toml").read_bytes()).hexdigest()
    assert (environment / ".sarnb-installed").read_text().split()[0] == want


def test_a_changed_pin_installs_again(clone, tmp_path):
    root, environment, pip = clone
    (environment / ".sarnb-installed").write_text("0 elsewhere\n")
    _call("bash", str(root / "run_all.sh"), "--profile", "fast", environment={"VIRTUAL_ENV": str(environment)}, cwd=tmp_path)
    assert len(pip.read_text().splitlines()) == 1
