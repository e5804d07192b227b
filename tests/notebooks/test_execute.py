"""Each notebook, executed once with the smoke profile into a folder of its own, in the order of the graph."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sarnb.graph import read_graph
from sarnb.manifest import read_manifest, verify
from sarnb.settings import repository

FOLDER = repository() / "notebooks"
NAMES = list(read_graph(FOLDER)) if list(FOLDER.glob("*.ipynb")) else []
REAL = os.environ.get("SARNB_REAL_DATA", "")


def _run(results: Path, *words: str) -> subprocess.CompletedProcess:
    variables = {**os.environ, "SARNB_RESULTS": str(results), "PYTHONPATH": str(repository())}
    variables.pop("SARNB_NOTEBOOKS", None)
    return subprocess.run([sys.executable, "-m", "sarnb", "run", "--profile", "smoke", *words], capture_output=True, text=True,
                          env=variables)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The results root after one run of everything."""
    folder = tmp_path_factory.mktemp("results")
    done = _run(folder)
    print(done.stdout, done.stderr, sep="\n")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_executes_and_records(root, name):
    error = root / "smoke/.state" / f"{name}.error"
    assert not error.exists(), error.read_text()
    copy = root / "smoke/notebooks" / f"{name}.ipynb"
    assert copy.is_file(), f"{name} did not run, because one before it failed"
    cells = json.loads(copy.read_text(encoding="utf-8"))["cells"]
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip())
    artefacts = read_manifest(root / "smoke", name)["artefacts"]
    assert {entry["kind"] for entry in artefacts} & {"figure", "table"}, "records no figure and no table"


def test_what_was_made_is_what_was_recorded(root):
    assert verify(root / "smoke") == []


def test_the_second_call_has_nothing_to_do(root):
    done = _run(root)
    assert done.returncode == 0 and "everything is up to date" in done.stdout


@pytest.mark.skipif(not REAL, reason="SARNB_REAL_DATA names no folder of real SAR images")
def test_real_images_go_through_the_data_notebook(root):
    done = _run(root, "--data", REAL, "--only", "01")
    assert done.returncode == 0, done.stderr
    assert verify(root / f"smoke-{Path(REAL).resolve().name}") == []
