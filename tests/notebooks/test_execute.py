"""Each notebook, executed once with the smoke profile into a folder of its own, in the order of the graph."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from tiny import run_profile

from sarnb.graph import read_graph, verify
from sarnb.results import read_manifest
from sarnb.settings import repository

pytestmark = pytest.mark.slow

CLOCK = r"\[s\]|/s\b|\bseconds\b|memory"  # in the name of a column: what a second run does not repeat
FOLDER = repository() / "notebooks"
NAMES = list(read_graph(FOLDER))
REAL = os.environ.get("SARNB_REAL_DATA", "")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The results root after one run of everything."""
    folder = tmp_path_factory.mktemp("results")
    done = run_profile(folder)
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


def test_no_figure_has_texts_that_overlap_or_is_larger_than_a_screen(root):
    assert [fault for name in NAMES for fault in read_manifest(root / "smoke", name)["figure_faults"]] == []


@pytest.mark.parametrize("name", NAMES)
def test_ends_in_what_was_found_and_no_library_makes_noise(root, name):
    found = read_manifest(root / "smoke", name)["found"]
    assert 3 <= len(found) <= 10 and all(sentence[0].isupper() and sentence.endswith(".") for sentence in found)
    assert any(sign.isdigit() for sign in "".join(found))
    cells = json.loads((root / "smoke/notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []


def test_the_second_call_has_nothing_to_do(root):
    done = run_profile(root)
    assert done.returncode == 0 and "everything is up to date" in done.stdout


def test_times_and_memory_stand_in_timing_tables_only(root):
    tables = {path.stem: pd.read_csv(path) for path in (root / "smoke/tables").glob("*.csv") if not path.stem.endswith("_timing")}
    assert tables
    assert not {name: list(table) for name, table in tables.items() if table.columns.str.contains(CLOCK).any()}


@pytest.mark.skipif(not REAL, reason="SARNB_REAL_DATA names no folder of real SAR images")
def test_real_images_go_through_the_data_notebook(root):
    done = run_profile(root, "--data", REAL, "--unseen", "city,harbour", "--only", "01")
    assert done.returncode == 0, done.stderr
    results = root / f"smoke-{Path(REAL).resolve().name}"
    assert verify(results) == []
    card = json.loads((results / "data/card.json").read_text(encoding="utf-8"))
    assert card["groups"]["unseen"] == ["city", "harbour"] and not {"city", "harbour"} & card["counts"]["train"].keys()
    assert any("8-bit" in note for note in card["notes"]) and any("sensors are mixed" in note for note in card["notes"])
