"""The command line and the shell script: messages, exit codes, and nothing installed without need."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
