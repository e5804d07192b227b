"""One set of pins, and a package that ships its data."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
import yaml

from sarnb import __version__
from sarnb.settings import repository

PROJECT = tomllib.loads((repository() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [
    *PROJECT["dependencies"],
    *(pin for extra in ("test", "report", "browser", "dev") for pin in PROJECT["optional-dependencies"][extra]),
]


def test_conda_and_pip_have_the_same_pins():
    conda = yaml.safe_load((repository() / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    pip = next(item["pip"] for item in conda if isinstance(item, dict))
    assert sorted(pip) == sorted(PINS)


def test_every_dependency_is_pinned_once():
    names = []
    for pin in PINS:
        match = re.fullmatch(r"([a-z0-9_-]+)==[\w.]+", pin)
        assert match, f"{pin} is not name==version"
        names.append(match[1])
    assert len(names) == len(set(names))


def test_versions_agree():
    assert PROJECT["version"] == __version__
    assert yaml.safe_load((repository() / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__
    assert PROJECT["requires-python"] == ">=3.11"


@pytest.mark.parametrize(
    "path", ["LICENSE", "CITATION.cff", "README.md", "run_all.sh", "notebooks/Snakefile", ".ci/run", "CHANGELOG.md", "CONTRIBUTING.md"]
)
def test_the_files_of_the_front_page_are_there(path):
    assert (repository() / path).stat().st_size > 0


def test_what_the_badges_open_is_there_and_set_up_by_the_readmes_command():
    readme, colab = ((repository() / name).read_text(encoding="utf-8") for name in ("README.md", "notebooks/colab/start.ipynb"))
    opened = re.findall(r"^\[\w+\]: \S+?(?:/blob/main/|lab/tree/)(\S+)$", readme, re.MULTILINE)
    container = json.loads((repository() / ".devcontainer.json").read_text(encoding="utf-8"))
    opened += container["customizations"]["codespaces"]["openFiles"]
    assert len(opened) == 3 and all((repository() / path).is_file() for path in opened)
    owners = set(re.findall(r"(?:github\.com/|github/|/gh/|codespaces\.new/)([\w-]+/sarnb)", readme + colab))
    assert len(owners) == 1, "one repository in all links"
    image = (repository() / ".binder" / "Dockerfile").read_text(encoding="utf-8")
    assert "./run_all.sh --dry-run" in image and container["postCreateCommand"] == "./run_all.sh --dry-run"
    assert f"PIP_EXTRA_INDEX_URL={container['containerEnv']['PIP_EXTRA_INDEX_URL']} " in image and "SARNB_PROFILE=smoke" in image
    assert all(f"python:3.{minor}" in text for minor, text in ((11, image), (11, container["image"])))
