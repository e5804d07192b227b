"""What every committed notebook keeps to, seen without running it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import json
import re
import statistics
import tokenize
from types import SimpleNamespace

import pytest

from sarnb.graph import read_graph
from sarnb.notebook import TAG, declared_parameters
from sarnb.profile import Profile, load_profile
from sarnb.settings import repository
from sarnb.study import Study
from sarnb.train.control import ControlConfig
from sarnb.train.finetune import FinetuneConfig
from sarnb.train.vae import VaeConfig

FOLDER = repository() / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUICK = load_profile("quick").parameters("results/quick")
CONFIGS = {config.__name__: config for config in (ControlConfig, FinetuneConfig, VaeConfig)}


class Noted:
    """A profile that notes which of its values are read."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getattr__(self, name: str):
        self.names.add(name)
        return getattr(load_profile("quick"), name)


def _read_by(method: ast.FunctionDef) -> set[str]:
    """What a method of a study reads: parameters, by ``values`` or a configuration, and other attributes of the study."""
    names = set()
    for node in ast.walk(method):
        match node:
            case ast.Attribute(value=ast.Name(id="values" | "self") | ast.Attribute(attr="values"), attr=name):
                names.add(name)
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=name), *_]):
                names.add(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=config), attr="of")) if config in CONFIGS:
                profile = Noted()
                CONFIGS[config].of(profile)
                names |= profile.names
    return names


METHODS = [node for node in ast.walk(ast.parse(inspect.getsource(Study))) if isinstance(node, ast.FunctionDef)]
READS = {method.name: _read_by(method) for method in METHODS}


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


def _settings_used(notebook) -> set[str]:
    """Parameters that reach a notebook through the settings of its study, by the attributes of ``study`` that it uses."""
    tree = _tree(notebook, skip_parameters=True)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "study"}
    names = set()
    while names != (names := names | {name for attribute in used for name in READS.get(attribute, ())}):
        used |= {name for name in names if name in READS}
    return {name.upper() for name in names}


def test_every_parameter_is_read(path, notebook):
    names = [node for node in ast.walk(_tree(notebook, skip_parameters=True)) if isinstance(node, ast.Name)]
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    assert not declared_parameters(path).keys() - read - _settings_used(notebook) - {"PROFILE", "RESULTS", "SEED"}


def test_defaults_are_those_of_the_quick_profile(path):
    declared = declared_parameters(path)
    assert {name: value for name, value in declared.items() if name in QUICK} == {name: QUICK[name] for name in declared if name in QUICK}


@pytest.mark.parametrize("name", ["05_unet_full", "06_unet_lora", "07_text_encoders", "08_sar_token", "09_hybrid"])
def test_what_a_profile_says_of_training_reaches_the_training(name):
    """A key that a notebook does not declare, or does not pass on, would be a profile's value that is accepted and ignored."""
    shared = {field.name for field in dataclasses.fields(FinetuneConfig)} & {field.name for field in dataclasses.fields(Profile)}
    shared -= {"seed", *(field for field in shared if field.startswith("lr_"))}  # each notebook declares the rates that it uses
    assert {"accumulate", "gradient_checkpointing", "optimizer", "noise_offset"} <= shared
    declared = declared_parameters(FOLDER / f"{name}.ipynb")
    assert not ({field.upper() for field in shared} | {"TRAIN_STEPS"}) - declared.keys()
    changed = {key: _another(value) for key, value in declared.items()}
    study = Study.__new__(Study)
    study.values = SimpleNamespace(**{key.lower(): value for key, value in changed.items()})
    for field in shared:
        assert getattr(study.finetune, field) == changed[field.upper()] != getattr(FinetuneConfig(steps=1), field)
    assert study.finetune.steps == changed["TRAIN_STEPS"]


STRINGS = {"adamw": "adamw8bit", "linear": "cosine"}  # of a choice: another one


def _another(value):
    """A value of the same type that no default has."""
    kinds = {
        bool: lambda: not value,
        int: lambda: 7 * value + 7,
        float: lambda: value / 2 + 0.011,
        str: lambda: STRINGS.get(value, value + "?"),
    }
    return kinds[type(value)]() if type(value) in kinds else value


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


def test_a_notebook_imports_few_names():
    counts = {path.stem: _imported(json.loads(path.read_text(encoding="utf-8"))) for path in NOTEBOOKS}
    assert max(counts.values()) <= 35 and statistics.median(counts.values()) <= 22, counts


def _imported(notebook) -> int:
    """How many names of the package a notebook imports."""
    imports = [node for node in ast.walk(_tree(notebook, skip_parameters=True)) if isinstance(node, ast.ImportFrom)]
    return sum(len(node.names) for node in imports if (node.module or "").split(".")[0] == "sarnb")


def test_no_code_line_is_long(notebook):
    lines = [line.rstrip("\n") for cell in _code(notebook) for line in cell["source"]]
    assert not [line for line in lines if len(line) > 120]


RECORDS = {"figure", "table"}


def _recorded(tree: ast.AST) -> list[ast.expr]:
    """The names in every call of study.figure and study.table."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return [call.args[1] for call in calls if getattr(call.func.value, "id", "") == "study" and call.func.attr in RECORDS]


def _fixed(name: ast.expr) -> str:
    """A literal name in full, an f-string up to its first value, "" for anything else."""
    if isinstance(name, ast.JoinedStr):
        return _fixed(name.values[0])
    return name.value if isinstance(name, ast.Constant) else ""


def test_what_is_recorded_is_named_in_the_first_cell(notebook):
    head = "".join(notebook["cells"][0]["source"])
    recorded = _recorded(_tree(notebook, skip_parameters=True))
    names = {(_fixed(name), isinstance(name, ast.JoinedStr)) for name in recorded} - {("", False)}
    assert names
    assert not sorted(name for name, open_end in names if f"`{name}" + "`" * (not open_end) not in head)


def test_committed_results_hold_no_path_of_one_machine():
    study = repository() / "results/study"
    files = [path for path in study.rglob("*") if path.suffix in (".ipynb", ".json", ".md", ".csv", ".tex") and path.is_file()]
    kept = [path for path in files if path.relative_to(study).parts[0] in ("notebooks", "manifest", "tables", "index.md", "profile.json")]
    places = re.compile(r"(?<![\w.])/(?:tmp|home|root|work|Users)/")
    assert kept
    assert not [path.name for path in kept if places.search(path.read_text(encoding="utf-8"))]


def test_sentences_are_whole(notebook):
    """No ellipsis and no "shall": readers of all languages read these."""
    quoted = re.sub(r"`[^`]*`|\"[^\"]*\"", "", _text(notebook))
    assert not re.findall(r"…|\.\.\.|\bshall\b", quoted)


# A number in the prose is one that code has too (the notebook's own, or of a module it uses), or it belongs to a formula, a
# citation or an exercise; a duration or a multiple in words is nobody's.
NUMBER_WORDS = "two three four five six seven eight nine ten eleven twelve fifteen twenty thirty fifty hundred thousand several".split()
MULTIPLES = re.compile(
    rf"\b(?:twice|thrice|half|(?:{'|'.join(NUMBER_WORDS)}) times) as \w+|\b(?:{'|'.join(NUMBER_WORDS)}) times\b"
    rf"|\b(?:{'|'.join(NUMBER_WORDS)}|\d+)[ -](?:seconds?|minutes?|hours?|days?)\b"
)
ALLOWED = {  # what a reader may find in the prose although no code has it, and why
    "Stable Diffusion 1.5": "a name",
    "Stable Diffusion 3.5": "a name",
    "Sentinel-1": "a name",
    "R@1": "a name",
    "fp16 holds 65,504": "the largest number of the format",
    "2,567,463,684 parameters": "test_3_model_sdxl counts them",
}


def _prose(notebook) -> str:
    """The text of a notebook's cells without formulas, code, its references, and the numbers that are names."""
    text = re.split(r"^## References", _text(notebook), flags=re.MULTILINE)[0]
    for pattern in (r"```.*?```", r"\$\$.*?\$\$", r"\$[^$]*\$", r"`[^`]*`", r"^# \d\d", r"^\d\. ", r"\b(?:19|20)\d\d\b", r"arXiv \d+\.\d+"):
        text = re.sub(pattern, " ", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"[Nn]otebooks? \d\d(?:(?:,| to| and| or) \d\d)*|\(\d\d\)", " ", text)
    for phrase in ALLOWED:
        text = text.replace(phrase, " ")
    return text


def _literals(tree: ast.AST) -> set[float]:
    return {float(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, int | float)}


def _numbers_of_code(notebook) -> set[float]:
    """Numbers that the notebook's cells hold, its parameters, and the modules of the package that it imports."""
    tree = _tree(notebook, skip_parameters=False)
    numbers = _literals(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sarnb"):
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                path = repository() / (name.replace(".", "/") + ".py")
                path = path if path.is_file() else repository() / name.replace(".", "/") / "__init__.py"
                if path.is_file():
                    numbers |= _literals(ast.parse(path.read_text(encoding="utf-8")))
    return numbers | {100 * number for number in numbers if 0 < number < 1}  # a share may be said in per cent


def test_no_number_in_the_prose_is_typed_by_hand(notebook):
    text = _prose(notebook)
    assert not MULTIPLES.findall(text)
    before_exercises = re.split(r"^## Exercises", text, flags=re.MULTILINE)[0]
    known = _numbers_of_code(notebook)
    found = re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", before_exercises)
    near = {float(round(number, 9)) for number in known}
    assert not [word for word in found if round(float(word.rstrip(",").replace(",", "")), 9) not in near]


def test_the_rule_for_numbers_finds_what_it_is_for():
    cells = [
        ("markdown", "It takes four minutes, is twice as long, and 37 of $12$ images (`n = 5`) in 2024 are 24 px or 25 %."),
        ("code", "n = 24\nshare = 0.25"),
    ]
    notebook = {"cells": [{"cell_type": kind, "source": [text], "metadata": {}} for kind, text in cells]}
    assert MULTIPLES.findall(_prose(notebook)) == ["four minutes", "twice as long"]
    with pytest.raises(AssertionError):
        test_no_number_in_the_prose_is_typed_by_hand(notebook)
    notebook["cells"][0]["source"] = ["In `n = 5` of $12$ cases (Ho 2022) 24 px are 25 %, see notebook 07."]
    test_no_number_in_the_prose_is_typed_by_hand(notebook)
    notebook["cells"][0]["source"] = ["There are 37 images."]
    with pytest.raises(AssertionError, match="37"):
        test_no_number_in_the_prose_is_typed_by_hand(notebook)
