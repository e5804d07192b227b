"""Notebook parameters, the graph, and the plan of what runs and why."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import site
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from sarnb import graph
from sarnb.cli import app
from sarnb.errors import InputError
from sarnb.graph import first_files, forecast, plan, read_graph, resolve, run, schedule, verify
from sarnb.notebook import _shortened, child_environment, declared_parameters, injected_parameters, stamp_text, time_left
from sarnb.profile import load_profile
from sarnb.results import BOX, Record, add_executed_copy, claim_folder, notebook_digest, record_digest, write_atomically
from sarnb.settings import notebooks_folder, repository

VALUES = {"SEED": 0, "RATE": 1e-3, "RESULTS": "r", "RANKS": [4], "DATA": ""}


def _notebook(path: Path, parameters: str = "SEED = 0  # seed\n", code: str = "print(SEED)", tag: str = "parameters") -> Path:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Title"]},
        {"cell_type": "code", "metadata": {"tags": [tag]}, "source": parameters.splitlines(keepends=True)},
        {"cell_type": "code", "metadata": {}, "source": [code]},
    ]
    path.write_text(json.dumps({"cells": cells}))
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A diamond: b and c need a, d needs both."""
    monkeypatch.setenv("SARNB_NOTEBOOKS", str(tmp_path / "nb"))
    monkeypatch.setenv("SARNB_RESULTS", str(tmp_path / "results"))
    (tmp_path / "nb").mkdir()
    for name in ("00_a", "01_b", "02_c", "03_d"):
        _notebook(tmp_path / "nb" / f"{name}.ipynb")
    _notebook(tmp_path / "nb" / "02_c.ipynb", "SEED = 0  # seed\nRATE = 1.0e-4  # rate\n")
    (tmp_path / "nb" / "graph.yaml").write_text("00_a: []\n01_b: [00_a]\n02_c: [00_a]\n03_d: [01_b, 02_c]\n")
    return tmp_path


def _plan(folder, extra=None, only="", **values):
    return plan(folder / "nb", folder / "r", {**VALUES, **values}, extra or {}, only)


def _finish(folder, nodes):
    """What a run leaves: for each notebook a table, a model, the executed copy, the record and the stamp."""
    for node in nodes.values():
        for old in node.stamp.parent.glob(f"{node.name}.*.done"):
            old.unlink()
        record = Record(node.name, folder / "r", "quick", 0, {"SEED": 0})
        record.table(pd.DataFrame({"x": [1]}), f"{node.name}_table", "one number")
        write_atomically(folder / "r/models" / f"{node.name}.bin", "weights")
        record.artefact(f"models/{node.name}.bin", "weights")
        record.close()
        write_atomically(folder / "r/notebooks" / f"{node.name}.ipynb", "{}")
        add_executed_copy(folder / "r", node.name)
        write_atomically(node.stamp, stamp_text({**node.parts, "record": record_digest(folder / "r", node.name)}))


def _todo(nodes):
    return {name: node.problems[0] for name, node in nodes.items() if node.problems}


def test_parameters_are_read_from_the_syntax_tree(tmp_path):
    text = "SEED = 0  # a = b\nRATE = 1.0e-4  # rate\nRANKS = [4, 16]  # ranks\nLOOK = ''  # side\nLOW = -1  # low\n"
    assert declared_parameters(_notebook(tmp_path / "x.ipynb", text)) == {"SEED": 0, "RATE": 1e-4, "RANKS": [4, 16], "LOOK": "", "LOW": -1}


@pytest.mark.parametrize("text", ["X: int = 1", "X = 1 + Y", "x = 1", "X = Y = 1", "X, Y = 1, 2", "X = 1\nX = 2", "import os", "X = ("])
def test_other_lines_in_the_parameters_cell_are_refused(tmp_path, text):
    with pytest.raises(InputError, match="x.ipynb: the cell tagged 'parameters'"):
        declared_parameters(_notebook(tmp_path / "x.ipynb", text))


def test_a_notebook_receives_what_it_declares_of_the_type_of_its_default(tmp_path):
    with pytest.raises(InputError, match="0 cells are tagged"):
        declared_parameters(_notebook(tmp_path / "x.ipynb", tag="other"))
    assert injected_parameters(_notebook(tmp_path / "x.ipynb"), VALUES) == {"SEED": 0}
    with pytest.raises(InputError, match="SEED is 'x', it must be a int like 0"):
        injected_parameters(_notebook(tmp_path / "x.ipynb"), {"SEED": "x"})
    floats = _notebook(tmp_path / "y.ipynb", "RATE = 1.5  # rate")
    assert injected_parameters(floats, {"RATE": 2}) == {"RATE": 2}


def test_the_graph_is_put_in_order_and_what_is_independent_shares_the_cores(folder):
    order = read_graph(folder / "nb")
    assert list(order) == ["00_a", "01_b", "02_c", "03_d"]
    assert graph.closure(order, ["01_b"]) == ["00_a", "01_b"]
    for only, names in (("1, 03", ["01_b", "03_d"]), ("", list(order)), ("02_c", ["02_c"])):
        assert graph.select(order, only) == names
    assert graph.independent(_plan(folder)) == {"01_b", "02_c"}


@pytest.mark.parametrize(
    "text, words",
    [
        ("00_a: [01_b]\n01_b: []\n", "00_a needs '01_b', which is not named above it"),
        ("07_x: []\n", "there is no 07_x.ipynb"),
        ("- a\n", "lines"),
        ("1: []\n", "lines"),
        ("00_a: [\n", "not readable as YAML"),
    ],
)
def test_a_broken_graph_is_one_sentence(folder, text, words):
    (folder / "nb/graph.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_graph(folder / "nb")


def test_everything_runs_once_and_only_takes_what_it_needs(folder):
    assert set(_todo(_plan(folder))) == {"00_a", "01_b", "02_c", "03_d"}
    assert set(_plan(folder, only="01")) == {"00_a", "01_b"}
    _finish(folder, _plan(folder, only="00"))
    assert set(_todo(_plan(folder, only="01"))) == {"01_b"}
    _finish(folder, _plan(folder))
    assert _todo(_plan(folder)) == {}
    _notebook(folder / "nb/01_b.ipynb", code="print(SEED + 1)")
    assert _todo(_plan(folder)) == {"01_b": "the notebook changed", "03_d": "what it builds on changed"}
    _finish(folder, _plan(folder))
    (folder / "r/notebooks/01_b.ipynb").unlink()
    assert _todo(_plan(folder)) == {"01_b": "notebooks/01_b.ipynb is missing", "03_d": "01_b runs before it"}


def test_file_times_and_outputs_do_not_matter(folder):
    _finish(folder, _plan(folder))
    path = folder / "nb/00_a.ipynb"
    text = json.loads(path.read_text())
    text["cells"][2]["outputs"] = [{"output_type": "stream", "text": ["0"]}]
    path.write_text(json.dumps(text))
    os.utime(path, (0, 0))
    assert _todo(_plan(folder)) == {}


def test_a_parameter_reruns_those_that_declare_it(folder):
    _finish(folder, _plan(folder))
    assert _todo(_plan(folder, extra={"RATE": 0.5})) == {"02_c": "RATE 0.001 → 0.5", "03_d": "what it builds on changed"}
    assert set(_todo(_plan(folder, SEED=1))) == {"00_a", "01_b", "02_c", "03_d"}
    assert _todo(_plan(folder, RESULTS="elsewhere", RANKS=[8])) == {}


@pytest.mark.parametrize(
    "options, words",
    [
        *(({"only": only}, "there is no notebook") for only in ("7", "05", "x", "00,99")),
        ({"extra": {"RANKS": [4]}}, "--param RANKS: none of 00_a, 01_b, 02_c, 03_d declares it"),
        ({"extra": {"RATE": 0.1}, "only": "01"}, "--param RATE"),
    ],
)
def test_what_no_notebook_knows_is_refused(folder, options, words):
    with pytest.raises(InputError, match=words):
        _plan(folder, **options)


def test_lost_models_rerun_only_where_they_are_needed(folder):
    _finish(folder, _plan(folder))
    (folder / "r/models/01_b.bin").unlink()
    assert verify(folder / "r") == ["01_b: models/01_b.bin is missing; run it again"] and _todo(_plan(folder)) == {}
    shutil.rmtree(folder / "r/models")
    assert _todo(_plan(folder)) == {} and verify(folder / "r") == []  # as in a clone of the committed results
    (folder / "r/notebooks/03_d.ipynb").unlink()
    todo = _todo(_plan(folder))
    assert todo["01_b"] == "03_d needs models/01_b.bin, which is missing" and todo["03_d"] == "notebooks/03_d.ipynb is missing"


def _edit(path: str, old: str, new: str):
    def edit(folder: Path) -> None:
        (found,) = folder.glob(path)
        text = found.read_text()
        assert old in text
        found.write_text(text.replace(old, new))

    return edit


def _linked(name: str):
    def link(folder: Path) -> None:
        path = (folder / "r" / name).rename(folder / "elsewhere.csv")
        (folder / "r" / name).symlink_to(path)

    return link


def _lose(folder: Path) -> None:
    """A notebook with all that it left, its place in the index apart."""
    for path in [path for path in (folder / "r").rglob("*03_d*") if path.is_file()]:
        path.unlink()


EDITED = "its record manifest/03_d.json is missing, damaged or edited"


@pytest.mark.parametrize(
    "damage, name, reason",
    [
        (_edit("nb/03_d.ipynb", "print(SEED)", "print(SEED + 1)"), "03_d", "the notebook changed"),
        (_edit("sarnb/code.py", "X = 1", "X = 2"), "03_d", "the package code it uses changed"),
        (_edit("r/tables/03_d_table.csv", "1", "2"), "03_d", "tables/03_d_table.csv changed"),
        (lambda f: (f / "r/tables/03_d_table.md").unlink(), "03_d", "tables/03_d_table.md is missing"),
        (_edit("r/models/03_d.bin", "weights", "others"), "03_d", "models/03_d.bin changed"),
        (_edit("r/notebooks/03_d.ipynb", "{}", "{ }"), "03_d", "notebooks/03_d.ipynb changed"),
        (_edit("r/manifest/03_d.json", '"seed": 0', '"seed": 7'), "03_d", EDITED),
        (_edit("r/manifest/03_d.json", '"profile": "quick"', '"profile": "study"'), "03_d", EDITED),
        (_edit("r/manifest/03_d.json", '"stamp": ""', '"stamp": "x"'), "03_d", EDITED),
        (_edit("r/manifest/03_d.json", "tables/03_d_table.csv", "../03_d_table.csv"), "03_d", EDITED),
        (lambda f: (f / "r/manifest/03_d.json").write_text("[1]"), "03_d", EDITED),
        (_edit("r/.state/03_d.*.done", '"SEED": 0', '"SEED": 5'), "03_d", "it has no finished run"),
        (lambda f: next((f / "r/.state").glob("03_d.*.done")).write_text("[]"), "03_d", "it has no finished run"),
        (_edit("r/.state/03_d.*.done", '"SEED": 0', '"SEED":  0'), "03_d", "it has no finished run"),
        (_linked("tables/03_d_table.csv"), "03_d", "tables/03_d_table.csv is a link now"),
        (lambda f: (f / "data/linked/a.png").write_bytes(b"22"), "00_a", "the data folder changed"),
        (_lose, "03_d", "it has no finished run"),
    ],
)
def test_what_changed_is_named_by_verify_and_by_the_plan(folder, monkeypatch, damage, name, reason):
    package, elsewhere = folder / "sarnb", folder / "elsewhere"
    for place in (package, elsewhere, folder / "data"):
        place.mkdir()
    (package / "__init__.py").write_text("")
    (package / "code.py").write_text("X = 1\n")
    monkeypatch.setattr(graph, "PACKAGE", package)
    graph._module.cache_clear()
    (elsewhere / "a.png").write_bytes(b"1")
    (folder / "data/linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder / "data")  # a circle
    _notebook(folder / "nb/00_a.ipynb", "DATA = ''  # data\n", "print(DATA)")
    _notebook(folder / "nb/03_d.ipynb", code="from sarnb import code\nprint(SEED)")
    claim_folder(folder / "r", "quick", "", str(folder / "data"))
    _finish(folder, _plan(folder, DATA=str(folder / "data")))
    assert verify(folder / "r") == [] and _todo(_plan(folder, DATA=str(folder / "data"))) == {}

    damage(folder)
    graph._module.cache_clear()
    said = verify(folder / "r")
    assert any(line.startswith((f"{name}: {reason}", f"manifest/{name}.json: missing, index.md lists it")) for line in said), said
    assert _todo(_plan(folder, DATA=str(folder / "data")))[name] == reason


@pytest.mark.parametrize(
    "damage, words",
    [
        (_edit("r/index.md", "one number", "two numbers"), "index.md: not what the records say"),
        (lambda f: (f / "r/index.md").unlink(), "index.md: not what the records say"),
        (_edit("r/profile.json", '"stamp": ""', '"stamp": "smoke"'), "profile.json: its stamp 'smoke' is not that of the profile quick"),
        (_edit("r/profile.json", "quick", "study"), "its profile 'quick' is not 'study' as in profile.json"),
        (lambda f: (f / "r/figures").mkdir() or (f / "r/figures/stray.png").write_bytes(b"x"), "figures/stray.png: stale, no manifest"),
        (lambda f: (f / "r/notebooks/01_b.failed.ipynb").write_text("{}"), "01_b.failed.ipynb: the last run of this notebook failed"),
        (lambda f: (f / "r/manifest/99_z.json").write_text("{}"), "99_z: .*graph.yaml names no such notebook"),
    ],
)
def test_what_contradicts_the_records_is_named(folder, damage, words):
    _finish(folder, _plan(folder))
    damage(folder)
    assert re.search(words, "\n".join(verify(folder / "r")))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"profile": 3, "stamp": "", "data": ""}', "null"])
def test_an_odd_profile_file_is_one_sentence(folder, text):
    _finish(folder, _plan(folder))
    (folder / "r/profile.json").write_text(text)
    with pytest.raises(InputError, match="profile.json: not readable"):
        verify(folder / "r")


def test_verify_knows_the_profile_and_what_was_given_otherwise(folder, monkeypatch):
    """A value of the shipped profile that was edited since is named; what --seed or --param had set is not."""
    nodes = _plan(folder, extra={"RATE": 0.5})
    _finish(folder, nodes)
    for node in nodes.values():
        given = {key: value for key, value in node.parts["parameters"].items() if key == "RATE"}
        write_atomically(node.stamp, stamp_text({**json.loads(node.stamp.read_text()), "given": given}))
    assert verify(folder / "r") == []
    edited = {**load_profile("quick").parameters(""), "SEED": 3, "RATE": 9.0}
    monkeypatch.setattr(graph, "_shipped", lambda profile: edited if profile == "quick" else {})
    assert [line for line in verify(folder / "r") if "builds on" not in line] == [
        f"{name}: SEED 0 → 3; run it again" for name in ("00_a", "01_b", "02_c", "03_d")
    ]


def test_verify_of_nothing_is_bad_input(tmp_path):
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError):
            verify(place)


def test_a_place_with_the_users_files_is_no_results_folder(folder):
    (folder / "results/smoke").mkdir(parents=True)
    (folder / "results/smoke/index.md").write_text("mine")
    with pytest.raises(InputError, match="smoke: holds index.md, and no profile.json of a run"):
        run("smoke")
    assert [path.name for path in (folder / "results/smoke").iterdir()] == ["index.md"]


def test_the_code_digest_follows_imports_and_ignores_docstrings(tmp_path, monkeypatch):
    package = tmp_path / "sarnb"
    (package / "metrics").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "a.py": "from .metrics import b\n",
        "metrics/__init__.py": "",
        "metrics/b.py": "X = 1\n",
        "other.py": "Y = 1\n",
    }.items():
        (package / name).write_text(text)
    monkeypatch.setattr(graph, "PACKAGE", package)
    notebook = _notebook(tmp_path / "x.ipynb", code="%matplotlib inline\nfrom sarnb import a")

    def digest() -> str:
        graph._module.cache_clear()
        return graph.code_digest(notebook)

    first = digest()
    (package / "other.py").write_text("Y = 2\n")
    (package / "metrics/b.py").write_text('"""Doc."""\nX = 1  # comment\n')
    assert digest() == first
    (package / "metrics/b.py").write_text("X = 2\n")
    assert digest() != first


def test_a_broken_notebook_names_itself(tmp_path):
    (tmp_path / "x.ipynb").write_text("{")
    with pytest.raises(InputError, match="x.ipynb: not a Jupyter notebook"):
        notebook_digest(tmp_path / "x.ipynb")


def test_parameter_words():
    assert graph.parse_params(["RATE=1e-4", "ranks=[4, 8]", "DATA=", "LOOK=left"]) == {
        "RATE": 1e-4,
        "RANKS": [4, 8],
        "DATA": "",
        "LOOK": "left",
    }
    with pytest.raises(InputError, match="--param RANKS=.4: '.4' is not readable as YAML"):
        graph.parse_params(["RANKS=[4"])
    for word in ("RATE", "=1", "A B=1", "1A=1"):
        with pytest.raises(InputError, match="write NAME=value"):
            graph.parse_params([word])


def test_overrides_go_through_the_profile_and_user_data_get_their_own_results_folder(folder):
    profile, extra, results = resolve("smoke", seed=3, params=("LR_TOKEN=1",))
    assert profile.seed == 3 and extra == {"LR_TOKEN": 1.0} and results == folder / "results/smoke"
    (folder / "my sar").mkdir()
    profile, _, results = resolve("smoke", data=str(folder / "my sar"))
    assert profile.data == str(folder / "my sar") and results == folder / "results/smoke-my sar"
    assert resolve("smoke", data=str(folder / "my sar"), params=('UNSEEN="city,lake"',))[0].unseen == "city,lake"
    for word, words in (
        ("TRAIN_STEPS=-1", "train_steps is -1"),
        ("RESULTS=x", "--param RESULTS"),
        ('UNSEEN="city"', "--unseen city: names classes of your own images; give --data"),
    ):
        with pytest.raises(InputError, match=words):
            resolve("smoke", params=(word,))
    for place, words in (("none", "no such folder"), (".", "what this call reads")):  # results lie neither in the images nor around them
        with pytest.raises(InputError, match=words):
            resolve("smoke", data=str(folder / place))


def test_a_profile_out_of_reach_says_in_one_sentence_what_to_fetch_and_where_to_put_it(folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(graph.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        resolve("paper")
    monkeypatch.setattr(graph.importlib.util, "find_spec", lambda name: name)
    said = str(caught.value)
    assert "\n" not in said and ". " not in said  # one sentence
    for words in (
        "dataset sarlo80 --shards ONERA/SARLO-80/train --revision 96f1355 --out data/sarlo80",
        "from stabilityai/stable-diffusion-xl-base-1.0 model_index.json",
        "--param FOUNDATION=models/stable-diffusion-xl-base-1.0",
        "from timm/vit_large_patch14_clip_224.openai open_clip_config.json",
        "--param JUDGE=models/vit_large_patch14_clip_224.openai",
        "the packages bitsandbytes, open_clip, by SARNB_EXTRAS=test,report,paper",
    ):
        assert words in said
    for name in ("sarlo80", "sdxl", "clip"):
        (folder / name).mkdir()
    given = (f"FOUNDATION={folder / 'sdxl'}", f"JUDGE={folder / 'clip'}")
    assert resolve("paper", str(folder / "sarlo80"), params=given)[0].foundation == str(folder / "sdxl")
    with pytest.raises(InputError, match="fetch first, .* from some/autoencoder config.json and .* behind .vae=$"):
        resolve("paper", str(folder / "sarlo80"), params=(f"{given[0]}+vae=some/autoencoder", given[1]))
    assert resolve("quick")[0].name == "quick"
    with pytest.raises(InputError, match="^/no/sdxl: no such folder or file"):
        resolve("quick", params=("FOUNDATION=/no/sdxl",))


def test_an_unknown_executor_names_its_package():
    with pytest.raises(InputError, match="snakemake-executor-plugin-moon-base, which is not installed"):
        run(executor="moon-base")


def test_a_dry_run_and_bad_data_write_nothing(folder, capsys):
    assert run("smoke", dry=True) == 0
    assert "00_a: would run, it has no finished run" in capsys.readouterr().out
    (folder / "empty").mkdir()
    with pytest.raises(InputError):
        run("smoke", data=str(folder / "empty"))
    assert not (folder / "results").exists()


def test_a_results_place_that_is_no_folder_is_bad_input(folder):
    (folder / "results").write_text("a file")
    with pytest.raises(InputError, match="cannot be written to"):
        run("smoke")


def test_a_second_run_into_one_folder_is_refused(folder, monkeypatch):
    state = folder / "results/smoke/.state"
    state.mkdir(parents=True)
    monkeypatch.setattr(graph.time, "sleep", lambda seconds: None)
    with open(state / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="smoke: another run is writing there; wait for it, or stop it first"):
            run("smoke")
    assert [path.name for path in (folder / "results/smoke").rglob("*")] == [".state", "lock"]


@pytest.mark.parametrize("home", ["", "/", "/dev/null/nowhere"])
def test_what_a_run_starts_does_not_depend_on_the_shell(folder, monkeypatch, home):
    for name in (
        "MPLBACKEND MATPLOTLIBRC IPYTHONDIR JUPYTER_PATH PYTHONSTARTUP PYTHONOPTIMIZE PYTHONIOENCODING COLUMNS TQDM_DISABLE "
        "DIFFUSERS_VERBOSITY"
    ).split():
        monkeypatch.setenv(name, "/mine")
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("HF_HOME", "/hub")
    found = child_environment(folder / "state")
    assert "/mine" not in found.values() and found["PYTHONUTF8"] == "1" and found["HF_HOME"] == "/hub"
    for name in ("HOME", "IPYTHONDIR", "MPLCONFIGDIR", "JUPYTER_PATH", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "XDG_CACHE_HOME"):
        assert Path(found[name]).is_dir() and Path(found[name]).is_relative_to(folder / "state")
    kernel = json.loads((Path(found["JUPYTER_PATH"]) / "kernels/python3/kernel.json").read_text())
    assert kernel["argv"][0] == sys.executable
    for allowed in (True, False):  # packages of the user's own are seen by a kernel as they are by this process
        monkeypatch.setattr(site, "ENABLE_USER_SITE", allowed)
        assert ("PYTHONNOUSERSITE" in child_environment(folder / "state")) == (not allowed)


def test_a_home_that_works_stays_and_so_does_what_the_hub_has_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HF_HOME", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    found = child_environment(tmp_path / "state")
    assert found["HOME"] == str(tmp_path) and found["HF_HOME"] == str(tmp_path / ".cache/huggingface")
    monkeypatch.setattr(os, "environ", found)
    assert child_environment(tmp_path / "state") == found  # once more by the job that inherits it


@pytest.mark.parametrize("home", ["", "/", "/home/me", "/home/me/", "/home//me/."])
def test_whole_paths_in_texts_are_shortened_and_images_are_not_touched(monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    image = "iVBORw0KGgo/AAA/home/me/xyz" + sys.prefix
    output = {
        "output_type": "display_data",
        "data": {
            "image/png": image,
            "image/svg+xml": [f"<svg>{sys.prefix}</svg>"],
            "text/plain": [
                "read /home/me/sar/a.tif in 1/2 s",
                f"{sys.prefix}/lib, {repository()}/sarnb, /home/me, /home/meadow/x, x/home/me/y",
            ],
            "text/html": f'<img src="data:image/png;base64,{image}"> <a href="/home/me/b">',
        },
        "metadata": {},
    }
    found = _shortened(output)["data"]
    me = "~" if "me" in home else "/home/me"
    assert found["image/png"] == image and found["image/svg+xml"] == output["data"]["image/svg+xml"]
    assert found["text/plain"] == [f"read {me}/sar/a.tif in 1/2 s", f"<environment>/lib, sarnb, {me}, /home/meadow/x, x/home/me/y"]
    assert found["text/html"] == f'<img src="data:image/png;base64,{image}"> <a href="{me}/b">'
    error = {"output_type": "error", "ename": "E", "evalue": "/home/me/c", "traceback": ["File \x1b[0;32m/home/me/c.py\x1b[0m:3"]}
    assert _shortened(error)["traceback"] == [f"File \x1b[0;32m{me}/c.py\x1b[0m:3"] and _shortened(error)["evalue"] == f"{me}/c"
    stream = {"output_type": "stream", "name": "stdout", "text": "a / b /home/me/c\n"}
    assert _shortened(stream)["text"] == f"a / b {me}/c\n"


def test_a_schedule_is_that_of_paper_and_pencil():
    needs = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ()}
    seconds = {"a": 1.0, "b": 2.0, "c": 5.0, "d": 3.0, "e": 4.0}
    assert schedule(needs, seconds, 1) == 15.0  # one after the other
    assert schedule(needs, seconds, 9) == 1.0 + 5.0 + 3.0  # the longest way: a, c, d
    assert schedule({"a": (), "b": (), "c": ()}, {"a": 1.0, "b": 3.0, "c": 3.0}, 2) == 4.0  # c follows a, next to b
    assert schedule({}, {}, 2) == 0.0


def test_a_plan_tells_minutes_by_recorded_costs_and_the_speed_of_the_machine(folder, monkeypatch, capsys):
    nodes = _plan(folder)
    assert forecast("quick", nodes, folder, 2) == {} and capsys.readouterr().out == ""  # nothing recorded, nothing measured
    (folder / "nb/costs.csv").write_text("profile,notebook,rounds,megabytes\nsmoke,00_a,9,9\n")
    _finish(folder, nodes)
    manifests = {name: json.loads((folder / f"r/manifest/{name}.json").read_text()) for name in nodes}
    for name, busy in zip(nodes, (10.0, 20.0, 50.0, 30.0)):
        write_atomically(folder / f"r/manifest/{name}.json", json.dumps({**manifests[name], "cpu_seconds": busy}))
    monkeypatch.setattr(graph, "measure_speed", lambda slots: (0.0, 3.0))
    lines = graph.write_costs(folder / "r").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [
        *(["quick", name, rounds] for name, rounds in zip(nodes, ("30", "60", "150", "90"))),
        ["smoke", "00_a", "9"],
    ]
    assert sum(float(line.split(",")[3]) for line in lines[1:5]) == pytest.approx(1e-6 * graph._size(folder / "r"), abs=0.2)
    monkeypatch.setattr(graph, "measure_speed", lambda slots: (0.5, 0.0))  # half a round a second: six times as slow
    known = forecast("quick", _plan(folder, SEED=1), folder, 2)
    assert known["seconds"] == {"00_a": 60.0, "01_b": 120.0, "02_c": 300.0, "03_d": 180.0} and known["expected"] == 540.0
    assert capsys.readouterr().out.startswith("4 notebooks, 2 side by side: about 9 min on this machine, 0.0 GB of disk\n")
    write_atomically(folder / "r/manifest/00_a.json", json.dumps({**manifests["00_a"], "cpu_seconds": 1, "device": {"cores": -1}}))
    with pytest.raises(InputError, match="holds no run of this machine"):
        graph.write_costs(folder / "r")


def test_the_time_left_follows_the_forecast_first_and_the_pace_in_the_end(folder, monkeypatch):
    nodes = _plan(folder)
    work = {"results": str(folder / "r"), "nodes": {name: {"problems": ["new"], "stamp": node.stamp.name} for name, node in nodes.items()}}
    work |= {"seconds": dict.fromkeys(nodes, 600.0), "expected": 2400.0, "began": 0.0}
    monkeypatch.setattr("sarnb.notebook.time.time", lambda: 0.0)
    assert time_left(work, "00_a", 0.0) == ", about 40 min left" and time_left({**work, "seconds": {}}, "00_a", 0.0) == ""
    for done, (clock, words) in enumerate(
        [(1200.0, ", about 38 min left"), (2400.0, ", about 30 min left"), (3600.0, ", about 18 min left")]
    ):
        write_atomically(nodes[list(nodes)[done]].stamp, "done")  # each takes twice as long as was foreseen
        monkeypatch.setattr("sarnb.notebook.time.time", lambda clock=clock: clock)
        assert time_left(work, list(nodes)[done], 0.0) == words
    write_atomically(nodes["03_d"].stamp, "done")
    assert time_left(work, "03_d", 0.0) == ""


def test_the_command_verify_ends_with_1_and_then_writes_no_page(folder):
    _finish(folder, _plan(folder))
    page = folder / "README.md"
    page.write_text(before := f"{BOX}\nold\n{BOX}\n")

    def call(*words):
        return CliRunner().invoke(app, ["verify", str(folder / "r"), *words])

    done = call()
    assert done.exit_code == 0 and "of 4 notebooks, all as recorded" in done.stdout, done.output
    (folder / "r/tables/03_d_table.csv").write_text("x\n2\n")
    done = call("--page", str(page))
    assert done.exit_code == 1 and "03_d: tables/03_d_table.csv changed" in done.stdout and page.read_text() == before


def test_the_command_run_hands_on_what_it_was_given(monkeypatch):
    given = []
    monkeypatch.setattr(graph, "run", lambda *words: given.extend(words) or 0)
    CliRunner().invoke(app, "run --data d --unseen city,lake --only 05 --jobs 2 --param RATE=1".split(), catch_exceptions=False)
    assert given[1:4] == ["d", "05", 2] and given[5] == ["RATE=1", 'UNSEEN="city,lake"']


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": -1}, "--jobs -1"),
        ({"seed": 3, "params": ["SEED=4"]}, "--seed 3 and --param SEED=4 say the same"),
        ({"params": ["TRAIN_STEPS=5", "TRAIN_STEPS=6"]}, "TRAIN_STEPS was given already"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        run("smoke", **options)


def test_a_single_file_of_weights_counts_by_its_bytes(tmp_path):
    weights, found = tmp_path / "x.safetensors", set()
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        graph.foundation_digest.cache_clear()
        found.add(graph.foundation_digest(str(weights)))
    assert len(found) == 2


def test_the_files_to_open_first_are_those_of_the_verdict(folder):
    _finish(folder, _plan(folder))
    assert first_files(folder / "r") == ["index.md", "notebooks/03_d.ipynb"]
    record = Record("10_evaluation", folder / "r", "quick", 0, {})
    figure = pd.Series([1, 2]).plot().figure
    record.figure(figure, "one", "a line")
    record.close()
    assert first_files(folder / "r") == ["index.md", "figures/one.svg", "notebooks/10_evaluation.ipynb"]


def test_what_was_recorded_of_styles_makes_the_notebook_that_shows_it_outdated_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "_weights", lambda part: f"[{part}]")

    def foundation(name: str, **parameters: str) -> str:
        return graph._node(notebooks_folder(), tmp_path, name, (), parameters, {}).parts["foundation"]

    assert foundation("12_scenes", STYLE_FOUNDATIONS="").endswith("/styles.csv]")
    assert foundation("12_scenes", STYLE_FOUNDATIONS="few,many") == "[few][many]", "measured anew, the record is not read"
    assert foundation("05_unet_full") == ""
    assert (repository() / foundation("12_scenes", STYLE_FOUNDATIONS="").strip("[]")).is_file()
