"""The graph of notebooks: what runs, in which order and why; Snakemake runs it.

``notebooks/graph.yaml`` names for each notebook those that it needs. A notebook is up to date when its stamp,
``results/<profile>/.state/<notebook>.<fingerprint>.done``, exists and nothing that it recorded is missing. The
fingerprint covers the notebook, its parameters, the package code it imports, and the fingerprints it builds on.
That, and a lock that the system lifts from a killed run, is all that is added to Snakemake.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import typing
from dataclasses import dataclass, replace
from pathlib import Path

from sarnb import OTHER_VAE, split_foundation
from sarnb.errors import InputError
from sarnb.manifest import (
    LOCAL_FOLDERS,
    digest,
    file_names,
    index,
    notebook_digest,
    read_cells,
    read_manifest,
    read_manifests,
    tree_digest,
    write_atomically,
)
from sarnb.notebook import declared_parameters, injected_parameters
from sarnb.profile import Profile, load_profile, read_yaml
from sarnb.settings import cores, default_jobs, notebooks_folder, repository, results_root

PACKAGE = Path(__file__).parent
CARD = "README.md"  # of a foundation
MEMORY_MB = 6000
# These decide when and where a notebook runs, not what it computes.
MACHINERY = frozenset(f"sarnb.{name}" for name in ("__main__", "cli", "graph", "notebook", "manifest", "profile", "settings"))
# They say where and how fast, not what: a change of them makes no result stale.
NEUTRAL = frozenset({"RESULTS", "WORKERS", "THREADS", "DATA"})

Graph = dict[str, tuple[str, ...]]


def listing_digest(folder: Path) -> str:
    """SHA-256 (hex) over names, sizes and times below a folder: the quick look for a user's large data folder."""
    stats = [(name, (folder / name).stat()) for name in file_names(folder)]
    return digest([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])


def code_digest(notebook: Path) -> str:
    """SHA-256 (hex) of the package code that a notebook imports, directly or through other modules.

    Comments, docstrings and layout do not count: the syntax trees are compared.
    """
    code = "\n".join(_python_only(cell["source"]) for cell in read_cells(notebook) if cell["cell_type"] == "code")
    try:
        wanted = _imports(ast.parse(code), "")
    except SyntaxError as error:
        raise InputError(f"{notebook}: a code cell is not valid Python ({error.msg}: {error.text}); mend it") from None
    found: dict[str, str] = {}
    while wanted:
        name = wanted.pop()
        path = _module_file(name)
        if name in found or name in MACHINERY or path is None:
            continue
        found[name], imported = _module(path, name)
        wanted |= imported - found.keys()
    return digest(found)


def _python_only(source: str) -> str:
    """A cell without the lines that only IPython understands."""
    if source.startswith("%%"):
        return ""
    return "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!", "?")))


def _module_file(name: str) -> Path | None:
    base = PACKAGE.parent.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@functools.cache
def _module(path: Path, name: str) -> tuple[str, frozenset[str]]:
    """The digest of one module's syntax tree without docstrings, and the sarnb modules that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imported = frozenset(_imports(tree, package))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported


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


@functools.cache
def foundation_digest(foundation: str) -> str:
    """Identity of the foundation, and of the autoencoder that is named behind it: bytes of what is here, else the hub id.

    Its model card is left out: it tells what a study measured, and must not make that study outdated.
    """
    folders = [PACKAGE / "model" / "embedded" if part == "embedded" else Path(part) for part in split_foundation(foundation) if part]
    return OTHER_VAE.join(tree_digest(folder, but=(CARD,)) if folder.is_dir() else str(folder) for folder in folders)


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
    return {name: replace(node, reason=reasons[name]) for name, node in nodes.items()}


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


@dataclass(frozen=True)
class Options:
    """What the user asked for on the command line; empty texts and 0 mean the default."""

    profile: str = "quick"
    data: str = ""
    only: str = ""
    jobs: int = 0
    seed: int | None = None
    params: tuple[str, ...] = ()
    executor: str = "local"
    snakemake: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.jobs < 0:
            raise InputError(f"--jobs {self.jobs}: give the number of notebooks to run side by side, 1 or more")
        plugin = f"snakemake_executor_plugin_{self.executor.replace('-', '_')}"
        if self.executor != "local" and importlib.util.find_spec(plugin) is None:
            raise InputError(
                f"--executor {self.executor}: Snakemake knows it through the package "
                f"{plugin.replace('_', '-')}, which is not installed; pip install it"
            )


def parse_params(params: typing.Iterable[str]) -> dict[str, typing.Any]:
    """``NAME=value`` words as a dictionary, names in upper case; the value is read as YAML (``[4, 16]``, ``1e-4``, ``text``)."""
    found: dict[str, typing.Any] = {}
    for word in params:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--param {word}: write NAME=value with a name that the notebook declares")
        found[name.upper()] = read_yaml(text) if text else ""
    return found


def resolve(options: Options) -> tuple[Profile, dict[str, typing.Any], Path]:
    """The profile with everything overridden, the ``--param`` values, and the results folder. Writes nothing.

    Raises:
        InputError: whatever is wrong with the options.
    """
    extra = parse_params(options.params)
    profile = load_profile(options.profile)
    fields = {name.lower(): value for name, value in extra.items() if name.lower() in vars(profile) and name not in ("NAME", "DATA")}
    for name in ("PROFILE", "RESULTS", "DATA", "STAMP"):
        if name in extra:
            raise InputError(f"--param {name}: it follows from --profile, --data and SARNB_RESULTS; use those")
    if options.seed is not None:
        fields["seed"] = options.seed
    folder = profile.name
    if options.data:
        source = Path(options.data).expanduser().absolute()
        if not source.is_dir():
            raise InputError(f"--data {options.data}: no such folder; give a folder of SAR images")
        fields["data"] = str(source)
        folder = f"{profile.name}-{source.resolve().name}"
    profile = profile.replace(**fields)
    if profile.source != "twin" and not profile.data:
        raise InputError(
            f"profile {profile.name}: its images ({profile.source}) have to be on this machine; "
            "prepare a folder of them and give it with --data DIR"
        )
    # A value checked and converted by the profile (1 → 1.0) goes to the notebooks as such.
    values = profile.parameters(folder)
    return profile, {name: values.get(name, value) for name, value in extra.items()}, results_root() / folder


def run(options: Options, dry: bool = False) -> int:
    """Brings the chosen notebooks of a profile up to date.

    Args:
        options: the command line.
        dry: only tell what would run and why; write nothing.

    Returns:
        0, or 1 if a notebook failed; its message is then the last thing printed.

    Raises:
        InputError: bad input; nothing is written.
    """
    profile, extra, results = resolve(options)
    values = profile.parameters(_shown(results))
    nodes = plan(notebooks_folder(), results, values, extra, options.only)
    todo = {name: node for name, node in nodes.items() if node.reason}
    if profile.data and todo:
        from sarnb.data.prepare import check_user_folder  # reads every image, so only when something will run

        check_user_folder(Path(profile.data), profile.image_size, profile.seed)
    if dry:
        for name, node in nodes.items():
            print(f"{name}: {'would run, ' + node.reason if node.reason else 'up to date'}")
        return 0
    if not todo:
        print(f"everything is up to date ({len(nodes)} notebooks); look first at {_shown(results)}/index.md")
        return 0
    with _locked(results) as lock:
        from sarnb.results import claim_folder  # it imports matplotlib

        claim_folder(results, profile.name, profile.stamp, profile.data)
        nodes = plan(notebooks_folder(), results, values, extra, options.only)
        return _carry_out(options, profile, results, nodes, lock)


def _carry_out(options: Options, profile: Profile, results: Path, nodes: dict[str, Node], lock: int) -> int:
    """Writes the plan, runs Snakemake on it, and reports."""
    state, start = results / ".state", time.monotonic()
    jobs = options.jobs or default_jobs()
    for old in (*state.glob("*.error"), *state.glob("plan-*.json")):
        old.unlink()
    for name, node in nodes.items():
        if node.reason:
            print(f"{name}: to run, {node.reason}", flush=True)
            node.stamp.unlink(missing_ok=True)
    plan_file = state / f"plan-{os.getpid()}.json"
    write_atomically(plan_file, json.dumps(make_plan(profile, results, nodes, jobs), indent=1))
    code = _snakemake(options, plan_file, jobs, lock)
    if read_manifests(results):
        write_atomically(results / "index.md", index(results))
    took = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - start))
    if code == 0:
        print(f"finished in {took}; look first at {_shown(results)}/index.md")
        return 0
    errors = [path.read_text(encoding="utf-8").strip() for path in sorted(state.glob("*.error"))]
    if not errors:
        tail = (state / "snakemake.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
        errors = ["Snakemake stopped:", *tail]
    print(f"stopped after {took}; the next call continues from here", *errors, sep="\n", file=sys.stderr)
    return 1


def make_plan(profile: Profile, results: Path, nodes: dict[str, Node], jobs: int) -> dict[str, typing.Any]:
    """The plan as the Snakefile and ``sarnb notebook`` read it.

    A notebook that may have company gets its share of the cores, one that runs alone gets all of them.
    """
    share, crowd = max(1, cores() // jobs), independent(nodes)
    local = all(part == "embedded" or Path(part).is_dir() for part in split_foundation(profile.foundation) if part)
    return {
        "root": str(repository()),
        "python": sys.executable,
        "results": str(results),
        "notebooks": str(notebooks_folder()),
        "runner": {"host": os.uname().nodename, "pid": os.getpid()},
        "offline": local,
        "memory_mb": MEMORY_MB,
        "nodes": {
            name: {
                "upstream": list(node.upstream),
                "stamp": node.stamp.name,
                "parameters": node.parameters,
                "parts": node.parts,
                "threads": profile.threads or (share if name in crowd else cores()),
            }
            for name, node in nodes.items()
        },
    }


def _snakemake(options: Options, plan_file: Path, jobs: int, lock: int) -> int:
    """Runs Snakemake; what it reports goes to a log, the notebooks print their own progress.

    It inherits the lock's descriptor, so that the next call waits if this process is killed and Snakemake is not yet.
    """
    state = plan_file.parent
    local = options.executor == "local"
    scale = ["--cores", str(max(cores(), jobs))] if local else ["--jobs", str(options.jobs or 4), "--executor", options.executor]
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(repository() / "notebooks" / "Snakefile"),
        "--directory",
        str(state),
        "--config",
        f"plan={plan_file.name}",
        *scale,
        *(["--resources", f"slot={jobs}"] if local else []),
        "--keep-going",
        "--rerun-incomplete",
        "--rerun-triggers",
        "input",
        "--scheduler",
        "greedy",
        # This folder has a lock of its own, which the system lifts when its holder is killed.
        "--nolock",
        "--quiet",
        "progress",
        "rules",
        *options.snakemake,
    ]
    environment = {**os.environ, "PYTHONPATH": _python_path(), "TOKENIZERS_PARALLELISM": "false"}
    with open(state / "snakemake.log", "wb") as log:
        child = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL, env=environment, pass_fds=(lock,))
        previous = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            return child.wait()
        except KeyboardInterrupt:  # the terminal has told Snakemake too
            return child.wait() or 130
        finally:
            signal.signal(signal.SIGTERM, previous)


def _python_path() -> str:
    return os.pathsep.join(filter(None, (str(repository()), os.environ.get("PYTHONPATH"))))


def _shown(path: Path) -> str:
    """A path as the user may type it in the repository's root."""
    return path.relative_to(repository()).as_posix() if path.is_relative_to(repository()) else str(path)


@contextlib.contextmanager
def _locked(results: Path) -> typing.Iterator[int]:
    """Holds the results folder's lock, gives its file descriptor; it goes when the processes end, however they end.

    A killed run's notebooks notice within seconds and stop, hence the waiting.
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
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.5)
        else:
            raise InputError(f"{results}: another run is writing there; wait for it, or stop it first")
        yield stream.fileno()
