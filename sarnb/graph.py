"""The graph of notebooks: what has to run and why. Snakemake then orders and runs it.

``notebooks/graph.yaml`` names for each notebook those that it needs. A notebook is up to date when its stamp,
``results/<profile>/.state/<notebook>.<fingerprint>.done``, exists and nothing that it recorded is missing. The
fingerprint covers the notebook, its parameters, the package code it imports, and the fingerprints it builds on.
``run`` resolves the options of the command line, writes this plan, hands it to Snakemake and reports.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import dataclasses
import fcntl
import functools
import heapq
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import sarnb.results as records
from sarnb import OTHER_VAE, split_foundation
from sarnb.data.files import check_apart
from sarnb.errors import InputError, first_line
from sarnb.notebook import child_environment, declared_parameters, injected_parameters, stamp_text
from sarnb.profile import Profile, load_profile, profile_names, read_yaml, read_yaml_file
from sarnb.settings import cores, default_jobs, duration, notebooks_folder, repository, results_root

PACKAGE = Path(__file__).parent
CARD = "README.md"  # of a foundation
BY_STYLES = "styles.csv"  # of the embedded foundation: what notebook 12 measured of foundations of few and many styles
COSTS = "costs.csv"  # next to the notebooks: what each took, as ``write_costs`` makes it
CALIBRATION_SECONDS = 5.0
MEMORY_MB = 6000
STOPPED, SECONDS_TO_END = 130, 5.0  # exit code of a run that a signal stopped; how long its notebooks may take to end
SECONDS_TO_CANCEL = 60.0  # how long a cluster may take to cancel its jobs
# They say where and how fast, not what: a change of them makes no result stale.
NEUTRAL = frozenset({"RESULTS", "WORKERS", "THREADS", "DATA"})
# These modules decide when and where a notebook runs, not what it computes.
MACHINERY = frozenset(f"sarnb.{name}" for name in ("__main__", "cli", "graph", "notebook", "profile", "settings"))

# What the profile paper names, where the hub cannot be reached.
SHARDS = "ONERA/SARLO-80/train --revision 96f1355"
PIPELINE_FILES = (
    "model_index.json, the folders scheduler, tokenizer and tokenizer_2, config.json and model.safetensors of text_encoder and "
    "text_encoder_2, config.json and diffusion_pytorch_model.safetensors of unet and vae"
)
JUDGES = {"ViT-L-14:openai": "timm/vit_large_patch14_clip_224.openai"}  # open_clip's name -> the repository of its weights

CHANGES = {
    "notebook": "the notebook changed",
    "code": "the package code it uses changed",
    "data": "the data folder changed",
    "foundation": "the foundation changed",
    "upstream": "what it builds on changed",
}
UNFINISHED = "it has no finished run"

Graph = dict[str, tuple[str, ...]]


# ---- what a notebook's results depend on, as hashes of content ----


def listing_digest(folder: Path) -> str:
    """SHA-256 (hex) over names, sizes and times below a folder: quick, for a user's large data folder."""
    stats = [(name, (folder / name).stat()) for name in records.file_names(folder)]
    return records.digest([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])


@functools.cache
def foundation_digest(foundation: str) -> str:
    """Identity of the foundation, and of the autoencoder that is named behind it: bytes of what is here, else the hub id.

    Its model card and its tables of measures are left out: they tell what a study measured, and must not make that study outdated.
    """
    return OTHER_VAE.join(_weights(part) for part in split_foundation(foundation) if part)


def _weights(part: str) -> str:
    """Identity of the weights in a folder, or in a file with its configuration next to it; a hub id as it is."""
    path = PACKAGE / "model" / "embedded" if part == "embedded" else repository() / part
    if path.is_file():
        found = [each for each in (path, path.with_suffix("")) if each.exists()]
        return records.digest([records.content_digest(each) for each in found])
    return records.content_digest(path, but=(CARD, "measures.csv", BY_STYLES)) if path.is_dir() else part


def _judge_digest(judge: str) -> str:
    """Identity of the package's judge, or of one on this machine, for the notebook that may load it; empty elsewhere."""
    folder = PACKAGE / "model" / "sar_clip"
    if judge == "shipped":
        return records.content_digest(folder, but=(CARD,)) if folder.is_dir() else ""
    return _weights(judge) if judge not in ("", "small") and (repository() / judge).exists() else ""


def code_digest(notebook: Path) -> str:
    """SHA-256 (hex) of the package code that a notebook imports, directly or through other modules.

    Comments, docstrings and layout do not count: the syntax trees are compared.

    Raises
    ------
    InputError
        A code cell is not valid Python.
    """
    code = "\n".join(_python_only(cell["source"]) for cell in records.read_cells(notebook) if cell["cell_type"] == "code")
    try:
        wanted = _imports(ast.parse(code), "")
    except SyntaxError as error:
        raise InputError(f"{notebook}: a code cell is not valid Python ({error.msg}: {error.text}); mend it") from None
    found: dict[str, str] = {}
    while wanted:
        name = wanted.pop()
        base = PACKAGE.parent.joinpath(*name.split("."))
        path = next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
        if name in found or name in MACHINERY or path is None:
            continue
        found[name], imported = _module(path, name)
        wanted |= imported - found.keys()
    return records.digest(found)


def _python_only(source: str) -> str:
    """A cell without the lines that only IPython understands."""
    if source.startswith("%%"):
        return ""
    return "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!", "?")))


@functools.cache
def _module(path: Path, name: str) -> tuple[str, frozenset[str]]:
    """The digest of one module's syntax tree without docstrings, and the sarnb modules that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imported = frozenset(_imports(tree, package))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return records.digest(_plain(tree)), imported


def _plain(node: Any) -> Any:
    """A syntax tree as lists, without what is empty: the same in every version of Python."""
    if isinstance(node, ast.AST):
        return [type(node).__name__, *([name, _plain(part)] for name, part in ast.iter_fields(node) if part is not None and part != [])]
    return [_plain(part) for part in node] if isinstance(node, list) else repr(node)


def _imports(tree: ast.AST, package: str) -> set[str]:
    """Names of the sarnb modules that a syntax tree imports anywhere, with the packages that hold them."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    names = {name for name in names if name.split(".")[0] == "sarnb"}
    return {".".join(name.split(".")[:k]) for name in names for k in range(1, name.count(".") + 2)}


# ---- the graph, and why a notebook of it has to run ----


@dataclass
class Node:
    """One notebook of a plan.

    Attributes
    ----------
    name : file name without its ending.
    upstream : names of the notebooks that it needs.
    parameters : the values injected into it.
    parts : what its fingerprint is made of.
    stamp : the file that says it is up to date.
    problems : why its results are not those of its present sources; empty = up to date.
    gone : what was lost of its models, samples and data, which are missed only where a notebook that runs reads them.
    """

    name: str
    upstream: tuple[str, ...]
    parameters: dict[str, Any]
    parts: dict[str, Any]
    stamp: Path
    problems: list[str]
    gone: list[str]


def read_graph(notebooks: Path) -> Graph:
    """Read ``graph.yaml``, in which each notebook stands after those that it needs.

    Raises
    ------
    InputError
        Broken file, a notebook that is not there, or one that needs another that is not named above it.
    """
    path = notebooks / "graph.yaml"
    if not path.is_file():
        raise InputError(f"{path}: not found; it names the notebooks and what each needs")
    raw = read_yaml_file(path)
    if not isinstance(raw, dict) or not all(isinstance(name, str) and isinstance(needs, list) for name, needs in raw.items()):
        raise InputError(f"{path}: must hold lines 'notebook: [notebooks it needs]'")
    graph: Graph = {}
    for name, needs in raw.items():
        if not (notebooks / f"{name}.ipynb").is_file():
            raise InputError(f"{path}: names {name!r}, but there is no {name}.ipynb; add it or drop the line")
        if unknown := [need for need in needs if need not in graph]:
            raise InputError(f"{path}: {name} needs {unknown[0]!r}, which is not named above it; move or add its line")
        graph[name] = tuple(needs)
    return graph


def closure(graph: Graph, names: Iterable[str]) -> list[str]:
    """The named notebooks and everything that they need, in the order of the graph."""
    wanted = set(names)
    for name in reversed(graph):
        if name in wanted:
            wanted.update(graph[name])
    return [name for name in graph if name in wanted]


def select(graph: Graph, only: str) -> list[str]:
    """The notebooks that ``--only 05,06`` means: numbers or names, commas between; empty = all.

    Raises
    ------
    InputError
        A number or name that is not in the graph.
    """
    chosen = []
    for word in filter(None, (part.strip() for part in only.split(","))):
        stem = word.removesuffix(".ipynb")
        match = [name for name in graph if name == stem or (stem.isdigit() and name.split("_")[0] == stem.zfill(2))]
        if not match:
            raise InputError(f"--only {only}: there is no notebook {word!r}; there are {', '.join(graph)}")
        chosen += match
    return [name for name in graph if name in chosen or not chosen]


def independent(nodes: dict[str, Node]) -> set[str]:
    """Names of the notebooks to run that may run at the same time as another one to run."""
    running = {name: node.upstream for name, node in nodes.items() if node.problems}
    graph = {name: tuple(need for need in needs if need in running) for name, needs in running.items()}
    above = {name: set(closure(graph, [name])) for name in graph}
    return {name for name in graph if any(name not in above[other] and other not in above[name] for other in graph)}


def plan(notebooks: Path, results: Path, values: dict[str, Any], extra: dict[str, Any], only: str) -> dict[str, Node]:
    """The chosen notebooks and what they need, with the reason to run each.

    Parameters
    ----------
    notebooks : folder of the notebooks and ``graph.yaml``.
    results : the results folder of the profile.
    values : the profile's parameters, upper case.
    extra : ``--param`` values; each must be declared by one of the planned notebooks.
    only : selection, see ``select``.

    Raises
    ------
    InputError
        What ``read_graph``, ``select`` and the parameter checks raise.
    """
    graph = read_graph(notebooks)
    names = closure(graph, select(graph, only))
    declared = {name: declared_parameters(notebooks / f"{name}.ipynb") for name in names}
    for key in extra:
        if not any(key in parameters for parameters in declared.values()):
            raise InputError(f"--param {key}: none of {', '.join(names)} declares it; see their cell tagged 'parameters'")
    nodes: dict[str, Node] = {}
    for name in names:
        own = {key: value for key, value in extra.items() if key in declared[name]}
        parameters = injected_parameters(notebooks / f"{name}.ipynb", {**values, **own})
        nodes[name] = _node(notebooks, results, name, graph[name], parameters, nodes)
    ran = None
    while ran != (ran := sum(bool(node.problems) for node in nodes.values())):  # until nothing new has to run
        for name, node in ((name, node) for name, node in nodes.items() if not node.problems):
            users = [user for user, other in nodes.items() if name in other.upstream and other.problems]
            if first := [need for need in node.upstream if nodes[need].problems]:
                node.problems = [f"{first[0]} runs before it"]
            elif users and (lost := _lost(results, name)):
                node.problems = [f"{users[0]} needs {lost[0]}, which is missing"]
    return nodes


def _lost(results: Path, name: str) -> list[str]:
    """Recorded files that are not there, those of a clone's absent local folders among them."""
    entries = records.read_manifest(results, name).get("artefacts", [])
    return [entry["path"] for entry in entries if not (results / entry["path"]).exists()]


def verify(results: Path) -> list[str]:
    """Compare a results folder with its records, and the records with what their notebooks are now.

    The same code as a plan's, with the profile and what was given otherwise at each notebook's last run.

    Returns
    -------
    problems : one sentence for each; empty if all is well.

    Raises
    ------
    InputError
        The folder is not there or holds no manifest.
    """
    if not results.is_dir():
        raise InputError(f"{results}: no such folder; give a results folder such as results/quick")
    manifests, notebooks = records.read_manifests(results), notebooks_folder()
    if not manifests:
        raise InputError(f"{results}: holds no manifest; run ./run_all.sh first")
    graph, claim = read_graph(notebooks), records.read_claim(results)
    data, shipped = claim.get("data", ""), _shipped(claim.get("profile", ""))
    stamped = {path.name.rsplit(".", 2)[0] for path in (results / ".state").glob("*.done")}
    problems = [f"{name}: {notebooks}/graph.yaml names no such notebook" for name in sorted({*manifests, *stamped} - graph.keys())]
    nodes: dict[str, Node] = {}
    for name in closure(graph, {*manifests, *stamped}):
        before = _stamp(results, name)
        values = {**shipped, **before.get("given", before.get("parameters", {})), "DATA": data}
        parameters = {key: values[key] for key in declared_parameters(notebooks / f"{name}.ipynb") if key in values}
        nodes[name] = _node(notebooks, results, name, graph[name], parameters, nodes)
        problems += [f"{name}: {text}; run it again" for text in (*nodes[name].problems, *nodes[name].gone)]
    return problems + records.folder_problems(results)


def _node(notebooks: Path, results: Path, name: str, needs: tuple[str, ...], parameters: dict[str, Any], nodes: dict[str, Node]) -> Node:
    """One notebook with what it depends on now, compared with what its last run left; ``nodes``: those before it."""
    notebook, foundation = notebooks / f"{name}.ipynb", parameters.get("FOUNDATION")
    folders = [Path(given).expanduser() for key in ("DATA", "REAL_DATA") if (given := parameters.get(key))]
    styled = [part for part in parameters.get("STYLE_FOUNDATIONS", "").split(",") if part]
    if "STYLE_FOUNDATIONS" in parameters and not styled:
        styled = [f"sarnb/model/embedded/{BY_STYLES}"]  # what was recorded of them
    parts: dict[str, Any] = {
        "notebook": records.notebook_digest(notebook),
        "code": code_digest(notebook),
        "parameters": {key: value for key, value in parameters.items() if key not in NEUTRAL},
        "data": "".join(map(listing_digest, folders)),
        "foundation": "".join(
            [foundation_digest(foundation) if foundation else "", _judge_digest(parameters.get("JUDGE", "")), *map(_weights, styled)]
        ),
        "upstream": {need: records.digest(nodes[need].parts)[:16] for need in needs},
    }
    stamp = results / ".state" / f"{name}.{records.digest(parts)[:16]}.done"
    recorded = _stamp(results, name)
    problems, gone = records.file_problems(results, name)
    changes = [text for key, text in CHANGES.items() if recorded.get(key) != parts[key]]
    old, new = recorded.get("parameters", {}), parts["parameters"]
    changes += [f"{key} {old.get(key)!r} → {new.get(key)!r}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if recorded.get("record", "") != records.record_digest(results, name):
        changes.append(f"its record manifest/{name}.json is missing, damaged or edited")
    if not (results / "notebooks" / f"{name}.ipynb").is_file():
        changes.append(f"notebooks/{name}.ipynb is missing")
    return Node(name, needs, parameters, parts, stamp, list(dict.fromkeys(changes + problems)) if recorded else [UNFINISHED], gone)


def _shipped(profile: str) -> dict[str, Any]:
    """The parameters of a shipped profile; empty for a profile of the user's own."""
    return load_profile(profile).parameters("") if profile in profile_names() else {}


def _stamp(results: Path, name: str) -> dict[str, Any]:
    """What the last finished run of a notebook noted: the parts of its fingerprint, and its record's; empty if none or edited."""
    for path in sorted((results / ".state").glob(f"{name}.*.done"), key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            text = path.read_text(encoding="utf-8")
            found = json.loads(text)
            parts = {key: found[key] for key in (*CHANGES, "parameters")}
            whole = path.name == f"{name}.{records.digest(parts)[:16]}.done" and text == stamp_text(found)
            if whole and isinstance(parts["parameters"], dict):
                return found
    return {}


# ---- a run: options resolved, the plan handed to Snakemake, the outcome reported ----


def parse_params(params: Iterable[str]) -> dict[str, Any]:
    """``NAME=value`` words as a dictionary, names in upper case; values are YAML (``[4, 16]``, ``1e-4``, ``text``).

    Raises
    ------
    InputError
        A word that is no NAME=value, a value that is no YAML, or a name that is given twice.
    """
    found: dict[str, Any] = {}
    for word in params:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--param {word}: write NAME=value with a name that the notebook declares")
        if name.upper() in found:
            raise InputError(f"--param {word}: {name.upper()} was given already; leave one of them out")
        try:
            found[name.upper()] = read_yaml(text) if text else ""
        except yaml.YAMLError as error:
            raise InputError(
                f"--param {word}: {text!r} is not readable as YAML ({first_line(error)}); quote a text, close a list"
            ) from None
    return found


def to_fetch(values: Profile) -> list[str]:
    """What a profile needs and is neither on this machine nor within its reach: which files, and the option that then names them."""
    base, vae = split_foundation(values.foundation)
    found = []
    if values.source != "twin" and not values.data:
        command = f"python -m sarnb dataset sarlo80 --shards {SHARDS} --out data/sarlo80"
        found.append(f"its images, by '{command}' (or with a pattern of shard files that are here), and give --data data/sarlo80")
    if not _at_hand(base, "model_index.json"):
        folder = f"models/{Path(base).name}"
        found.append(f"from {base} {PIPELINE_FILES}, put them into {folder} as they lie there, and give --param FOUNDATION={folder}")
    if vae and not _at_hand(vae, "config.json"):
        folder = f"models/{Path(vae).name}"
        found.append(f"from {vae} config.json and diffusion_pytorch_model.safetensors, put them into {folder}, and name it behind +vae=")
    packages = {"bitsandbytes": values.optimizer == "adamw8bit", "open_clip": values.judge not in ("", "small", "shipped")}
    if lacks := [name for name, used in packages.items() if used and importlib.util.find_spec(name) is None]:
        found.append(f"the packages {', '.join(lacks)}, by SARNB_EXTRAS=test,report,paper in front of ./run_all.sh")
    judge = JUDGES.get(values.judge, values.judge.removeprefix("hf-hub:"))
    if values.judge not in ("small", "shipped") and not _at_hand(judge, "open_clip_config.json"):
        folder, files = f"models/{Path(judge).name}", "open_clip_config.json and open_clip_model.safetensors"
        found.append(f"from {judge} {files}, put them into {folder}, and give --param JUDGE={folder}")
    return found


def _at_hand(name: str, file: str) -> bool:
    """Whether a folder, or the hub's repository of that name, is on this machine or can be fetched."""
    if name == "embedded" or Path(name).exists():
        return True
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(f"{name}: no such folder or file; correct the path, or give a name of the hub as owner/name")
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(name, file), str) or bool(HfApi().model_info(name, timeout=10))
    except Exception:  # the client's own, its transport's, and those of names that the hub does not allow
        return False


def resolve(profile: str, data: str = "", seed: int | None = None, params: Iterable[str] = ()) -> tuple[Profile, dict[str, Any], Path]:
    """The profile with everything overridden, the ``--param`` values, and the results folder. Writes nothing.

    Raises
    ------
    InputError
        Whatever is wrong with the options.
    """
    values, extra = load_profile(profile), parse_params(params)
    for name in ("PROFILE", "RESULTS", "DATA", "STAMP"):
        if name in extra:
            raise InputError(f"--param {name}: it follows from --profile, --data and SARNB_RESULTS; use those")
    known = vars(values).keys() - {"name"}
    for name, mark in (("FOUNDATION", OTHER_VAE), ("JUDGE", ","), ("STYLE_FOUNDATIONS", ","), ("REAL_DATA", ",")):
        if isinstance(extra.get(name), str):
            extra[name] = mark.join(map(_from_here, extra[name].split(mark)))
    fields = {name.lower(): value for name, value in extra.items() if name.lower() in known}
    if seed is not None:
        if "seed" in fields:
            raise InputError(f"--seed {seed} and --param SEED={fields['seed']} say the same; leave one of them out")
        fields["seed"] = seed
    results = results_of(values.name, data)
    if data:
        source = Path(data).expanduser().absolute()
        if not source.is_dir():
            raise InputError(f"--data {data}: no such folder; give a folder of SAR images")
        fields["data"] = str(source)
        check_apart(results, [source], "results")
    values = dataclasses.replace(values, **fields)
    if values.unseen and not values.data:
        raise InputError(f"--unseen {values.unseen}: names classes of your own images; give --data, or leave it out")
    if missing := to_fetch(values):
        raise InputError(f"profile {values.name}: fetch first, on a machine that reaches the hub, {'; and '.join(missing)}")
    # A value checked and converted by the profile (1 → 1.0) goes to the notebooks as such.
    converted = values.parameters(results.name)
    return values, {name: converted.get(name, value) for name, value in extra.items()}, results


def results_of(profile: str, data: str = "") -> Path:
    """The results folder of a profile's name and of a user's data folder."""
    return results_root() / (f"{profile}-{Path(data).expanduser().absolute().resolve().name}" if data else profile)


def _from_here(part: str) -> str:
    """A relative path of the caller's folder as an absolute one, for notebooks run in the repository's root; other names as they are."""
    known = part in ("", "embedded", "small", "shipped") or Path.cwd() == repository()
    return part if known or not Path(part).exists() else str(Path(part).absolute())


def run(
    profile: str = "quick",
    data: str = "",
    only: str = "",
    jobs: int = 0,
    seed: int | None = None,
    params: Iterable[str] = (),
    executor: str = "local",
    snakemake: Iterable[str] = (),
    dry: bool = False,
) -> int:
    """Bring the chosen notebooks of a profile up to date.

    Parameters
    ----------
    profile, data, only, jobs, seed, params, executor, snakemake : those of the command line; empty texts and 0 mean the default.
    dry : only say what would run and why; write nothing.

    Returns
    -------
    code : 0, or 1 if a notebook failed, its message is then the last thing printed; 130 if a signal stopped the run.

    Raises
    ------
    InputError
        Bad input, or another run into the same folder; nothing is written.
    """
    if jobs < 0:
        raise InputError(f"--jobs {jobs}: give the number of notebooks to run side by side, 1 or more")
    plugin = f"snakemake-executor-plugin-{executor}"
    if executor != "local" and importlib.util.find_spec(plugin.replace("-", "_")) is None:
        raise InputError(f"--executor {executor}: Snakemake knows it through the package {plugin}, which is not installed; pip install it")
    values, extra, results = resolve(profile, data, seed, params)
    records.claim_folder(results, values.name, values.stamp, values.data, write=False)
    planned = functools.partial(plan, notebooks_folder(), results, values.parameters(_shown(results)), extra, only)
    nodes = planned()
    todo = [name for name, node in nodes.items() if node.problems]
    if values.data and todo:
        from sarnb.data.prepare import check_user_folder, ready_set

        if not ready_set(Path(values.data), values.image_size):  # else every image is read, so only when something will run
            hidden = values.unseen.split(",") if values.unseen else []
            for note in check_user_folder(Path(values.data), values.image_size, values.seed, unseen=hidden).notes:
                print(f"! {note}", flush=True)
    if dry:
        for name, node in nodes.items():
            print(f"{name}: {'would run, ' + node.problems[0] if node.problems else ', but '.join(['up to date', *node.gone[:1]])}")
        for problem in records.folder_problems(results):
            print(problem)
        return 0
    if not todo:
        page, text = results / "index.md", records.index(results)
        if not page.is_file() or page.read_text(encoding="utf-8") != text:
            records.write_atomically(page, text)
        print(f"everything is up to date ({len(nodes)} notebooks); look first at {_shown(results)}/index.md")
        return 0
    with _locked(results) as lock:
        records.claim_folder(results, values.name, values.stamp, values.data)
        nodes, state, start = planned(), results / ".state", time.monotonic()  # planned anew: it may have waited for a run
        for old in state.glob("*.error"):
            old.unlink()
        work = make_plan(values, results, nodes, jobs or default_jobs())
        work |= forecast(values.name, nodes, results, jobs or default_jobs()) if executor == "local" else {}
        for name, node in nodes.items():
            if node.problems:
                took = f", about {minutes(work['seconds'][name])}" if name in work.get("seconds", {}) else ""
                print(f"{name}: to run{took}, {node.problems[0]}", flush=True)
                node.stamp.unlink(missing_ok=True)
        records.write_atomically(state / "plan.json", json.dumps(work, indent=1))
        code = _snakemake(state, jobs, executor, snakemake, lock)
        if records.read_manifests(results):
            records.write_atomically(results / "index.md", records.index(results))
    took = duration(time.monotonic() - start)
    idle = [name for name, node in nodes.items() if not node.stamp.is_file()] if code == 0 else []
    if idle:  # such as by --dry-run behind --, or by a profile of Snakemake's
        print(f"Snakemake ended without an error and did not run {', '.join(idle)}; see {_shown(state / 'snakemake.log')}", file=sys.stderr)
        return 1
    if code == 0:
        print(f"finished in {took}; open first", *(f"  {_shown(results)}/{name}" for name in first_files(results)), sep="\n")
        return 0
    if code == STOPPED:
        print(f"stopped by a signal after {took}; the next call continues from here", file=sys.stderr)
        return code
    errors = [path.read_text(encoding="utf-8").strip() for path in sorted(state.glob("*.error"))]
    if not errors and executor != "local":
        errors = ["Snakemake stopped; what it and the cluster said stands above"]
    if not errors:
        tail = (state / "snakemake.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
        errors = ["Snakemake stopped:", *tail]
    print(f"stopped after {took}; the next call continues from here", *errors, sep="\n", file=sys.stderr)
    return 1


# ---- what a run will take: costs recorded in rounds of a fixed calculation, which is timed on this machine ----


def count_rounds(seconds: float = CALIBRATION_SECONDS) -> tuple[float, float]:
    """Rounds of a fixed calculation, half of a small network's training and half of numpy, a second of the clock and a second of a core."""
    import numpy as np
    import torch

    from sarnb.train.machine import autocast

    network = torch.nn.Sequential(*(torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(4)))
    pictures, scene = torch.randn(16, 64, 16, 16), np.random.default_rng(0).normal(size=(384, 384))

    def one_round() -> None:
        for _ in range(4):
            with autocast():
                loss = network(pictures).square().mean()
            loss.backward()
        np.sort(np.abs(np.fft.ifft2(np.fft.fft2(scene))), axis=None)

    one_round()  # what is set up once does not count
    start, busy, rounds = time.perf_counter(), time.process_time(), 0
    while (took := time.perf_counter() - start) < seconds:
        one_round()
        rounds += 1
    return rounds / took, rounds / (time.process_time() - busy)


def measure_speed(slots: int) -> tuple[float, float]:
    """``count_rounds`` in as many processes at once as notebooks run side by side; the mean of each number."""
    command = [sys.executable, "-c", "from sarnb.graph import count_rounds; print(*count_rounds())"]
    path = os.pathsep.join(filter(None, (str(repository()), os.environ.get("PYTHONPATH"))))
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(max(1, cores() // slots))}
    children = [subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) for _ in range(slots)]
    found = [[float(word) for word in child.communicate()[0].split()] for child in children]
    found = [pair for pair in found if len(pair) == 2]  # a forecast is no reason to stop
    return (sum(pair[0] for pair in found) / len(found), sum(pair[1] for pair in found) / len(found)) if found else (0.0, 0.0)


def read_costs(profile: str) -> dict[str, tuple[float, float]]:
    """Notebook -> rounds and megabytes that it took at a profile; empty where no run of it was recorded."""
    path = notebooks_folder() / COSTS
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []
    return {row["notebook"]: (float(row["rounds"]), float(row["megabytes"])) for row in rows if row["profile"] == profile}


def write_costs(results: Path) -> Path:
    """Put what the notebooks of a results folder took into ``costs.csv``, in place of what stood there of them; returns its path.

    Rounds are seconds of the processor, which other work on the machine hardly changes, times the rounds a second of a core,
    which are measured now. Of the folder, what no notebook recorded, such as caches, is shared out by size.

    Raises
    ------
    InputError
        The folder is of another machine, or holds no record of such seconds.
    """
    manifests, path = records.read_manifests(results), notebooks_folder() / COSTS
    busy = {name: manifest["cpu_seconds"] for name, manifest in manifests.items() if "cpu_seconds" in manifest}
    if not busy or not all(records.device().items() <= manifests[name]["device"].items() for name in busy):
        raise InputError(f"{results}: holds no run of this machine; run its notebooks here with ./run_all.sh")
    profile, speed = records.read_claim(results)["profile"], measure_speed(default_jobs())[1]
    sizes = {name: sum(_size(results / entry["path"]) for entry in manifests[name]["artefacts"]) for name in busy}
    more = 1e-6 * _size(results) / sum(sizes.values())
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:] if path.is_file() else []
    rows = [row for row in rows if row[0] != profile or row[1] not in busy]
    rows += [[profile, name, f"{busy[name] * speed:.0f}", f"{sizes[name] * more:.1f}"] for name in busy]
    lines = [["profile", "notebook", "rounds", "megabytes"], *sorted(rows)]
    records.write_atomically(path, "".join(",".join(line) + "\n" for line in lines))
    return path


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return sum(each.stat().st_size for each in (path.rglob("*") if path.is_dir() else [path]) if each.is_file())


def forecast(profile: str, nodes: dict[str, Node], results: Path, slots: int) -> dict[str, Any]:
    """Time and disk that the notebooks to run will take, printed; for the plan: the seconds of each, of all, and when they began.

    Empty where no cost of them is recorded: then nothing is measured either.
    """
    costs, todo = read_costs(profile), [name for name, node in nodes.items() if node.problems]
    if not (known := [name for name in todo if name in costs]):
        return {}
    if not (speed := measure_speed(slots)[0]):
        return {}
    seconds = {name: costs[name][0] / speed for name in known}
    total = schedule({name: nodes[name].upstream for name in todo}, seconds, slots)
    size, free = 1e-3 * sum(costs[name][1] for name in known), 1e-9 * shutil.disk_usage(results).free
    blank = f", without {len(todo) - len(known)} of which nothing is recorded" if len(known) < len(todo) else ""
    print(f"{len(todo)} notebooks, {slots} side by side: about {minutes(total)} on this machine, {size:.1f} GB of disk{blank}", flush=True)
    if size > free:
        print(f"! only {free:.1f} GB of disk are free below {results}", flush=True)
    return {"seconds": seconds, "expected": total, "began": time.time()}


def schedule(needs: dict[str, tuple[str, ...]], seconds: dict[str, float], slots: int) -> float:
    """When the last notebook ends, if each starts in the order of ``needs`` once a slot is free and what it needs has ended [s]."""
    free: list[float] = [0.0] * slots
    ends: dict[str, float] = {}
    for name, wanted in needs.items():
        begin = max(heapq.heappop(free), *(ends.get(need, 0.0) for need in wanted), 0.0)
        ends[name] = begin + seconds.get(name, 0.0)
        heapq.heappush(free, ends[name])
    return max(ends.values(), default=0.0)


def minutes(seconds: float) -> str:
    """Whole minutes, 1 or more."""
    return f"{max(1, round(seconds / 60))} min"


def first_files(results: Path) -> list[str]:
    """What to open first: the list of all results, the verdict's first figure and the notebook it stands in (without it the last one's)."""
    manifests = records.read_manifests(results)
    name = records.VERDICT if records.VERDICT in manifests else max(manifests, default="")
    paths = [entry["path"] for entry in manifests.get(name, {}).get("artefacts", [])]
    return ["index.md", *[path for path in paths if path.startswith("figures/")][:1], f"notebooks/{name}.ipynb"]


def make_plan(profile: Profile, results: Path, nodes: dict[str, Node], jobs: int) -> dict[str, Any]:
    """The plan as the Snakefile and ``sarnb notebook`` read it.

    A notebook that may have company gets its share of the cores, one that runs alone gets all of them.
    """
    share, crowd, shipped = max(1, cores() // jobs), independent(nodes), _shipped(profile.name)
    sources = (*split_foundation(profile.foundation), profile.judge)
    return {
        "root": str(repository()),
        "python": sys.executable,
        "results": str(results),
        "notebooks": str(notebooks_folder()),
        "runner": {"host": os.uname().nodename, "pid": os.getpid()},
        "offline": all(part in ("", "embedded", "small", "shipped") or (repository() / part).exists() for part in sources),
        "nodes": {
            name: {
                **vars(node),
                "stamp": node.stamp.name,
                "threads": profile.threads or (share if name in crowd else cores()),
                "given": {key: value for key, value in node.parts["parameters"].items() if shipped.get(key) != value},
            }
            for name, node in nodes.items()
        },
    }


def _snakemake(state: Path, jobs: int, executor: str, more: Iterable[str], lock: int) -> int:
    """Run Snakemake on the plan; returns its exit code.

    Notebooks print their progress through it. What Snakemake itself says goes to a log, on a cluster to the terminal,
    as nothing else is heard from there. It inherits the lock's descriptor, so that the next call waits if this process
    is killed and Snakemake is not yet.
    """
    local, slots = executor == "local", jobs or default_jobs()
    scale = ["--cores", str(max(cores(), slots)), "--resources", f"slot={slots}"]
    if not local:
        # What a job asks for, unless the user's own --default-resources, which come later, say otherwise.
        scale = ["--jobs", str(jobs or 4), "--executor", executor, "--default-resources", f"mem_mb={MEMORY_MB}"]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(repository() / "notebooks" / "Snakefile")]
    command += ["--directory", str(state), "--config", "plan=plan.json", *scale, "--scheduler", "greedy"]
    command += ["--keep-going", "--rerun-incomplete", "--rerun-triggers", "input", "--nolock"]
    command += ["--quiet", "progress", "rules", *more]
    with open(state / "snakemake.log", "wb") as log:
        errors, variables = log if local else None, child_environment(state)
        if local:  # a profile that a shell names is for a cluster
            variables.pop("SNAKEMAKE_PROFILE", None)
        child = subprocess.Popen(command, stderr=errors, stdin=subprocess.DEVNULL, pass_fds=(lock,), env=variables)
        previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return child.wait()
        except KeyboardInterrupt:
            for number in previous:
                signal.signal(number, signal.SIG_IGN)
            _end(child.pid, local)
            return STOPPED
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _end(snakemake: int, local: bool) -> None:
    """End Snakemake and its jobs within seconds, whoever else has received the signal.

    By itself Snakemake waits for the running notebooks. It is held first, so that it starts none in the place of one that ends.
    Jobs on a cluster are cancelled by Snakemake itself.
    """
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(snakemake)
        if not local:
            parent.send_signal(signal.SIGINT)
            psutil.wait_procs([parent], SECONDS_TO_CANCEL)
        parent.suspend()
        jobs = parent.children(recursive=True)
        for process in jobs:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, left = psutil.wait_procs(jobs, SECONDS_TO_END)
        for process in (*left, parent):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        parent.wait()


@contextlib.contextmanager
def _locked(results: Path) -> Iterator[int]:
    """Hold the results folder's lock and give its file descriptor.

    Snakemake's own lock does not do: it is a file that stays when its run is killed, and it holds the outputs' names,
    which are others when parameters are. This one goes when its processes end, however they end. The notebooks of a killed
    run notice within seconds and stop, hence the waiting.
    """
    path = results / ".state" / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a")
    except OSError as error:
        raise InputError(
            f"{results}: cannot be written to ({error.strerror}); mend its permissions or choose another folder with SARNB_RESULTS"
        ) from None
    with stream:
        for _ in range(60):
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.5)
            except OSError:  # a file system that knows no locks, as some of clusters
                break
        else:
            raise InputError(f"{results}: another run is writing there; wait for it, or stop it first")
        yield stream.fileno()


def _shown(path: Path) -> str:
    """A path as the user may type it in the repository's root."""
    return path.relative_to(repository()).as_posix() if path.is_relative_to(repository()) else str(path)
