"""One set of pins, and a package that ships its data."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from sarnb import __version__
from sarnb.settings import repository

PROJECT = tomllib.loads((repository() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [*PROJECT["dependencies"], *(pin for extra in ("test", "dev") for pin in PROJECT["optional-dependencies"][extra])]


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
