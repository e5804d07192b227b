"""The graph of notebooks: what runs, in which order, and why.

``notebooks/graph.yaml`` names for each notebook those that it needs. A notebook is up to date when its stamp,
``results/<profile>/.state/<notebook>.<fingerprint>.done``, exists and nothing that it recorded is missing. The
fingerprint covers the notebook, its parameters, the package code it imports, and the fingerprints it builds on.
"""

from __future__ import annotations

import json
import typing
from dataclasses import dataclass
from pathlib import Path

from sarnb.errors import InputError
from sarnb.fingerprint import code_digest, digest, foundation_digest, listing_digest, notebook_digest
from sarnb.manifest import LOCAL_FOLDERS, read_manifest
from sarnb.notebook import declared_parameters, injected_parameters
from sarnb.profile import read_yaml

# They say where and how fast, not what: a change of them makes no result stale.
NEUTRAL = frozenset({"RESULTS", "WORKERS", "THREADS", "DATA"})

Graph = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Node:
    """One notebook of a plan.

    Attributes:
        name: file name without its ending.
        upstream: names of the notebooks that it needs.
        parameters: the values injected into it.
        parts: what its fingerprint is made of.
        stamp: the file that says it is up to date.
        reason: why it has to run; empty = up to date.
    """

    name: str
    upstream: tuple[str, ...]
    parameters: dict[str, typing.Any]
    parts: dict[str, typing.Any]
    stamp: Path
    reason: str


def read_graph(notebooks: Path) -> Graph:
    """Reads ``graph.yaml`` in an order in which each notebook comes after those that it needs.

    Raises:
        InputError: broken file, a notebook that is not there, or a circle.
    """
    path = notebooks / "graph.yaml"
    if not path.is_file():
        raise InputError(f"{path}: not found; it names the notebooks and what each needs")
    raw = read_yaml(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict) or not all(isinstance(needs, list) for needs in raw.values()):
        raise InputError(f"{path}: must hold lines 'notebook: [notebooks it needs]'")
    graph: Graph = {}
    waiting = {name: tuple(needs) for name, needs in raw.items()}
    for name, needs in waiting.items():
        if not (notebooks / f"{name}.ipynb").is_file():
            raise InputError(f"{path}: names {name!r}, but {name}.ipynb is not beside it; add it or drop the line")
        if unknown := [need for need in needs if need not in waiting]:
            raise InputError(f"{path}: {name} needs {unknown[0]!r}, which the file does not name; add a line for it")
    while waiting:
        ready = [name for name, needs in waiting.items() if all(need in graph for need in needs)]
        if not ready:
            raise InputError(f"{path}: {', '.join(waiting)} wait for each other in a circle; break it")
        graph.update({name: waiting.pop(name) for name in ready})
    return graph


def closure(graph: Graph, names: typing.Iterable[str]) -> list[str]:
    """The named notebooks and everything that they need, in the order of the graph."""
    wanted = set(names)
    for name in reversed(graph):
        if name in wanted:
            wanted.update(graph[name])
    return [name for name in graph if name in wanted]


def select(graph: Graph, only: str) -> list[str]:
    """The notebooks that ``--only 05,06`` means: numbers or names, commas between; empty = all.

    Raises:
        InputError: a number or name that is not in the graph.
    """
    chosen = []
    for word in filter(None, (part.strip() for part in only.split(","))):
        stem = word.removesuffix(".ipynb")
        match = [name for name in graph if name == stem or (stem.isdigit() and name.split("_")[0] == stem.zfill(2))]
        if not match:
            raise InputError(f"--only {only}: there is no notebook {word!r}; there are {', '.join(graph)}")
        chosen += match
    return [name for name in graph if name in chosen or not chosen]


def plan(notebooks: Path, results: Path, values: dict[str, typing.Any], extra: dict[str, typing.Any], only: str) -> dict[str, Node]:
    """Everything that a run has to know: the chosen notebooks and what they need, with the reason to run each.

    Args:
        notebooks: folder of the notebooks and ``graph.yaml``.
        results: the results folder of the profile.
        values: the profile's parameters, upper case.
        extra: ``--param`` values; each must be declared by one of the planned notebooks.
        only: selection, see `select`.

    Raises:
        InputError: what `read_graph`, `select` and the parameter checks raise.
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
        parameters = injected_parameters(notebooks / f"{name}.ipynb", {**values, **own}, tuple(own))
        parts = _parts(notebooks / f"{name}.ipynb", parameters, [nodes[need] for need in graph[name]])
        stamp = results / ".state" / f"{name}.{digest(parts)[:16]}.done"
        nodes[name] = Node(name, graph[name], parameters, parts, stamp, "")
    return _with_reasons(nodes, results)


def _parts(notebook: Path, parameters: dict[str, typing.Any], upstream: list[Node]) -> dict[str, typing.Any]:
    data, foundation = parameters.get("DATA"), parameters.get("FOUNDATION")
    return {
        "notebook": notebook_digest(notebook),
        "code": code_digest(notebook),
        "parameters": {key: value for key, value in parameters.items() if key not in NEUTRAL},
        "data": listing_digest(Path(data)) if data else "",
        "foundation": foundation_digest(foundation) if foundation else "",
        "upstream": {node.name: digest(node.parts)[:16] for node in upstream},
    }


def _with_reasons(nodes: dict[str, Node], results: Path) -> dict[str, Node]:
    """Fills in why each notebook has to run.

    Trained models and samples are not in a git clone. They are missed only where a notebook that runs reads them,
    so the graph is walked until nothing new has to run.
    """
    reasons = {name: _own_reason(node, results) for name, node in nodes.items()}
    while True:
        changed = {}
        for name, node in nodes.items():
            ran = [need for need in node.upstream if reasons[need]]
            users = [user for user, other in nodes.items() if name in other.upstream and reasons[user]]
            if not reasons[name] and ran:
                changed[name] = f"{ran[0]} runs before it"
            elif not reasons[name] and users and (lost := _missing(node, results, local=True)):
                changed[name] = f"{users[0]} needs {lost}, which is missing"
        if not changed:
            break
        reasons.update(changed)
    return {
        name: Node(*(getattr(node, key) for key in ("name", "upstream", "parameters", "parts", "stamp")), reasons[name])
        for name, node in nodes.items()
    }


def _own_reason(node: Node, results: Path) -> str:
    if node.stamp.is_file():
        lost = _missing(node, results, local=False)
        return f"{lost} is missing" if lost else ""
    earlier = sorted(node.stamp.parent.glob(f"{node.name}.*.done"), key=lambda path: path.stat().st_mtime)
    if not earlier:
        return "it has no finished run"
    try:
        before = json.loads(earlier[-1].read_text(encoding="utf-8"))
    except ValueError:
        return "it has no finished run"
    words = {
        "notebook": "the notebook changed",
        "code": "the package code it uses changed",
        "data": "the data folder changed",
        "foundation": "the foundation changed",
        "upstream": "what it builds on changed",
    }
    told = [text for key, text in words.items() if before.get(key) != node.parts[key]]
    old, new = before.get("parameters", {}), node.parts["parameters"]
    told += [f"{key} {old.get(key)!r} → {new.get(key)!r}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return told[0] if told else "it changed"


def _missing(node: Node, results: Path, local: bool) -> str:
    """The first recorded file that is gone: of the local folders (models, samples, data) or of the others."""
    if not local and not (results / "notebooks" / f"{node.name}.ipynb").is_file():
        return f"notebooks/{node.name}.ipynb"
    for entry in read_manifest(results, node.name).get("artefacts", []):
        if (entry["path"].split("/")[0] in LOCAL_FOLDERS) == local and not (results / entry["path"]).exists():
            return entry["path"]
    return ""


def independent(nodes: dict[str, Node]) -> set[str]:
    """Names of the notebooks to run that another one to run may run beside."""
    running = {name: node.upstream for name, node in nodes.items() if node.reason}
    graph = {name: tuple(need for need in needs if need in running) for name, needs in running.items()}
    above = {name: set(closure(graph, [name])) for name in graph}
    return {name for name in graph if any(name not in above[other] and other not in above[name] for other in graph)}
