"""The runner with small notebooks of its own: results, failures, a killed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from sarnb.graph import verify
from sarnb.settings import repository

pytestmark = pytest.mark.slow

PARAMETERS = "PROFILE = 'quick'  # profile\nSEED = 0  # seed\nRESULTS = 'results/quick'  # folder"
RECORD = """import pandas as pd
from sarnb.results import Record
record = Record('{name}', RESULTS, PROFILE, SEED, {{'SEED': SEED}})
record.table(pd.DataFrame({{'seed': [SEED]}}), '{name}_table', 'the seed')
record.close()"""


def _write(folder: Path, name: str, *code: str) -> None:
    cells = [new_markdown_cell("# Title"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, code)]
    nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a space, a graph of two notebooks, the second built on the first."""
    notebooks = tmp_path / "my notebooks"
    notebooks.mkdir()
    monkeypatch.setenv("SARNB_NOTEBOOKS", str(notebooks))
    (notebooks / "graph.yaml").write_text("00_one: []\n01_two: [00_one]\n")
    for name in ("00_one", "01_two"):
        _write(notebooks, name, RECORD.format(name=name))
    return tmp_path


def _start(folder: Path, *words: str, **options) -> subprocess.Popen:
    variables = {**os.environ, "SARNB_RESULTS": str(folder / "res {ults}"), "PYTHONPATH": str(repository())}
    return subprocess.Popen(
        [sys.executable, "-m", "sarnb", "run", "--profile", "smoke", *words],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def _run(folder: Path, *words: str) -> tuple[int, str, str]:
    process = _start(folder, *words)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def test_runs_records_fails_clearly_and_continues(folder):
    results = folder / "res {ults}" / "smoke"
    code, out, err = _run(folder, "--seed", "5")
    assert code == 0, err
    assert "00_one  started" in out and "01_two  done in" in out
    assert verify(results) == [] and "5,smoke: not a result" in (results / "tables/01_two_table.csv").read_text()
    copy = json.loads((results / "notebooks/01_two.ipynb").read_text())
    assert copy["metadata"]["papermill"]["input_path"] == "notebooks/01_two.ipynb"
    assert str(folder) not in json.dumps(copy["metadata"])

    _write(folder / "my notebooks", "01_two", "x = 1", "# why\nx / 0")
    before = {path: path.read_bytes() for part in ("tables", "notebooks", "manifest") for path in (results / part).glob("*")}
    code, out, err = _run(folder, "--seed", "5")
    assert code == 1
    assert err.splitlines()[-3] == "01_two failed in cell 4 of 4: ZeroDivisionError: division by zero"
    assert err.splitlines()[-1] == f"  executed copy with the traceback: {results}/notebooks/01_two.failed.ipynb"
    assert "ZeroDivisionError" in (results / "notebooks/01_two.failed.ipynb").read_text()
    assert {path: path.read_bytes() for path in before} == before

    _write(folder / "my notebooks", "01_two", "x = 2", RECORD.format(name="01_two"))
    code, out, err = _run(folder, "--seed", "5")
    assert code == 0 and "00_one" not in out
    assert not (results / "notebooks/01_two.failed.ipynb").exists() and verify(results) == []


def test_a_killed_run_stops_and_the_next_one_continues(folder):
    started = folder / "started"
    slow = f"import pathlib, time\nstarted = pathlib.Path({str(started)!r})\n"
    slow += "if not started.exists():\n    started.touch(); time.sleep(300)"
    _write(folder / "my notebooks", "01_two", slow, RECORD.format(name="01_two"))
    process = _start(folder)
    while not started.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=200)  # its notebook, which holds the other end of the pipe, stops long before it has slept
    code, out, err = _run(folder)
    assert code == 0, err
    assert "00_one" not in out and verify(folder / "res {ults}" / "smoke") == []
