"""What every committed notebook keeps to, seen without running it."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize

import pytest

from sarnb.graph import read_graph
from sarnb.notebook import TAG, declared_parameters
from sarnb.profile import load_profile
from sarnb.settings import repository

FOLDER = repository() / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUICK = load_profile("quick").parameters("results/quick")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _code(notebook) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _tree(notebook, skip_parameters: bool) -> ast.Module:
    cells = [cell for cell in _code(notebook) if not (skip_parameters and TAG in cell["metadata"].get("tags", []))]
    lines = "\n".join("".join(cell["source"]) for cell in cells).splitlines()
    return ast.parse("\n".join(line for line in lines if not line.lstrip().startswith(("%", "!"))))


def _text(notebook) -> str:
    return "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")


def test_there_is_one_for_each_node_of_the_graph():
    assert [path.stem for path in NOTEBOOKS] == sorted(read_graph(FOLDER))


def test_one_parameters_cell_of_plain_explained_lines(path, notebook):
    assert declared_parameters(path)
    cell = next(cell for cell in _code(notebook) if TAG in cell["metadata"].get("tags", []))
    source = "".join(cell["source"])
    for line in filter(str.strip, source.splitlines()):
        assert re.match(r"[A-Z][A-Z0-9_]* = \S.*  # \S", line), f"not 'NAME = literal  # meaning': {line}"
    comments = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == tokenize.COMMENT]
    assert len(comments) == len(declared_parameters(path))


def test_every_parameter_is_read(path, notebook):
    read = {node.id for node in ast.walk(_tree(notebook, skip_parameters=True)) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert not declared_parameters(path).keys() - read


def test_defaults_are_those_of_the_quick_profile(path):
    declared = declared_parameters(path)
    assert {name: value for name, value in declared.items() if name in QUICK} == {name: QUICK[name] for name in declared if name in QUICK}


def test_no_outputs_are_committed(notebook):
    for cell in _code(notebook):
        assert cell["outputs"] == [] and cell["execution_count"] is None


def test_nothing_is_defined(notebook):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assert not [node.name for node in ast.walk(_tree(notebook, skip_parameters=False)) if isinstance(node, kinds)]


def test_kernel_is_python3(notebook):
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert not any("papermill" in cell["metadata"] for cell in notebook["cells"]) and "papermill" not in notebook["metadata"]


def test_title_exercises_solutions_and_references(notebook):
    assert notebook["cells"][0]["cell_type"] == "markdown"
    assert "".join(notebook["cells"][0]["source"]).startswith("# ")
    text = _text(notebook)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    for word in ("Summary", "Exercises", "References"):
        assert any(word.lower() in heading.lower() for heading in headings), f"no heading {word}"
    assert text.count("<details>") >= 3, "three exercises with folded solutions"


def test_no_path_of_a_machine(path):
    assert not re.search(r"/(home|Users|root|work|tmp)/", path.read_text(encoding="utf-8"))
