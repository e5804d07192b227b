"""Runs one notebook: checks its parameters, executes it with papermill, keeps the copy, and says clearly what failed."""

from __future__ import annotations

import ast
import fcntl
import functools
import json
import os
import sys
import threading
import time
import typing
from pathlib import Path

from sarnb.errors import InputError
from sarnb.manifest import add_executed_copy, read_cells, write_atomically
from sarnb.settings import repository

TAG = "parameters"
PROGRESS_SECONDS = 15.0
Say = typing.Callable[[str], None]


class NotebookError(RuntimeError):
    """A notebook failed; the text names the notebook, the cell and the error, and where the executed copy is."""


def declared_parameters(notebook: Path) -> dict[str, typing.Any]:
    """Names and default values in the notebook's one cell tagged ``parameters``.

    papermill's own inspector is a regular expression that misses annotated names, so the cell is parsed.

    Raises:
        InputError: no such cell, more than one, or a line that is not ``NAME = literal``.
    """
    cells = [cell["source"] for cell in read_cells(notebook) if TAG in cell.get("metadata", {}).get("tags", [])]
    if len(cells) != 1:
        raise InputError(f"{notebook}: {len(cells)} cells are tagged 'parameters', it must be one")
    found: dict[str, typing.Any] = {}
    try:
        for line in ast.parse(cells[0]).body:
            match line:
                case ast.Assign(targets=[ast.Name(id=name)]) if name.isupper() and name not in found:
                    found[name] = ast.literal_eval(line.value)
                case _:
                    raise ValueError(f"line {line.lineno} is not 'NAME = literal' with a new upper-case name")
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{notebook}: the cell tagged 'parameters' is not plain 'NAME = literal' lines ({error})") from None
    return found


def injected_parameters(notebook: Path, values: typing.Mapping[str, typing.Any], must: typing.Iterable[str] = ()) -> dict[str, typing.Any]:
    """The values that this notebook declares, checked against the types of its defaults.

    Args:
        notebook: the source.
        values: what a profile offers, upper-case names; what the notebook does not declare is left out.
        must: names that were asked for explicitly.

    Raises:
        InputError: a name of ``must`` that the notebook does not declare, or a value of another type.
    """
    declared = declared_parameters(notebook)
    for name in must:
        if name not in declared:
            raise InputError(f"{notebook.name}: declares no parameter {name!r}; it declares {', '.join(declared) or 'none'}")
    for name in declared.keys() & values.keys():
        default, value = declared[name], values[name]
        same = type(default) is type(value) or (type(default) is float and type(value) is int)
        if not same and default is not None:
            raise InputError(f"{notebook.name}: {name} is {value!r}, it must be a {type(default).__name__} like {default!r}")
    return {name: values[name] for name in declared if name in values}


def execute(name: str, source: Path, results: Path, parameters: dict[str, typing.Any], say: Say) -> Path:
    """Executes a notebook in the repository's root with the kernel ``python3``.

    Args:
        name: the notebook's name, for messages.
        source: the notebook; it is not changed.
        results: the results folder; the copy becomes ``notebooks/<name>.ipynb`` in it, of a failed run
            ``notebooks/<name>.failed.ipynb``, and then an earlier copy stays as it is.
        parameters: values for declared parameters.
        say: takes progress lines.

    Returns:
        The executed copy.

    Raises:
        InputError: a parameter that the notebook does not declare, or of a wrong type.
        NotebookError: a cell failed, the kernel died, or the copy could not be saved.
    """
    parameters = injected_parameters(source, parameters, tuple(parameters))
    folder = results / "notebooks"
    running = results / ".state" / f"{name}.running.ipynb"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        running.parent.mkdir(parents=True, exist_ok=True)
        failure = _papermill(name, source, running, parameters, say)
        copy = folder / (f"{name}.failed.ipynb" if failure else f"{name}.ipynb")
        _keep(running, copy, name, source)
    except OSError as error:
        raise NotebookError(
            f"{name}: its executed copy cannot be saved in {folder} ({error.strerror or error}); free some "
            "space, or choose another folder with SARNB_RESULTS"
        ) from None
    if failure:
        raise NotebookError(f"{failure}\n  executed copy with the traceback: {copy}")
    (folder / f"{name}.failed.ipynb").unlink(missing_ok=True)
    return copy


def _papermill(name: str, source: Path, running: Path, parameters: dict[str, typing.Any], say: Say) -> str:
    """Runs papermill into ``running``; returns what failed, empty if nothing."""
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.engines import NBClientEngine, papermill_engines
    from papermill.exceptions import PapermillExecutionError

    node = nbformat.read(source, as_version=4)
    ids = [cell.get("id") for cell in node.cells]
    node.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    told = _Progress(name, len(ids), ids, say)

    class Engine(NBClientEngine):
        """papermill's engine, which also tells which cell it is at."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: typing.Any, kernel_name: str, **options: typing.Any) -> typing.Any:
            start = nb_man.cell_start
            nb_man.cell_start = lambda cell, *args, **kwargs: (told.at(cell), start(cell, *args, **kwargs))
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    papermill_engines.register("sarnb", Engine)
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel of this environment, not one of the user's home
    escaped = str(running).replace("{", "{{").replace("}", "}}")  # papermill formats its paths
    try:
        papermill.execute_notebook(
            node,
            escaped,
            parameters,
            engine_name="sarnb",
            kernel_name="python3",
            progress_bar=False,
            cwd=str(repository()),
            start_timeout=120,
        )
    except PapermillExecutionError as error:
        return _describe(told, error)
    except DeadKernelError:
        return (
            f"{name} failed in cell {told.number} of {told.count}: the kernel died, most often because the memory was "
            "full; use a smaller profile, --jobs 1, or close other programs"
        )
    return ""


class _Progress:
    """Knows the cell that runs, numbered as in the source from 1, and says so from time to time."""

    def __init__(self, name: str, count: int, ids: list[str | None], say: Say) -> None:
        self.name, self.count, self.number = name, count, 0
        self._ids, self._say, self._start = ids, say, time.monotonic()
        self._last = self._start

    def at(self, cell: typing.Any) -> None:
        """Takes the cell that starts; papermill's own injected cell counts as the one before it."""
        if cell.get("id") in self._ids:
            self.number = self._ids.index(cell.get("id")) + 1
        now = time.monotonic()
        if now - self._last >= PROGRESS_SECONDS:
            self._last = now
            self._say(f"{self.name}  cell {self.number} of {self.count}  {now - self._start:.0f} s")


def _describe(told: _Progress, error: typing.Any) -> str:
    """What went wrong in a cell, in three lines: where, what, and how the cell begins."""
    lines = [line for line in str(error.source).splitlines() if line.strip()]
    what = str(error.evalue).strip() or "no message"
    kind = "" if error.ename == "InputError" else f"{error.ename}: "
    text = f"{told.name} failed in cell {told.number} of {told.count}: {kind}{what}"
    return f"{text}\n  the cell begins: {lines[0][:100]}" if lines else text


def _keep(running: Path, copy: Path, name: str, source: Path) -> None:
    """Moves the executed notebook to its place, free of this machine's paths and of times."""
    import nbformat

    node = nbformat.read(running, as_version=4)
    about = node.metadata.get("papermill", {})
    about.update(input_path=f"notebooks/{source.name}", output_path=f"notebooks/{copy.name}")
    for key in ("environment_variables", "start_time", "end_time", "duration"):
        about.pop(key, None)
    for cell in node.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [nbformat.from_dict(_without_paths(output)) for output in cell.outputs]
    node.metadata = nbformat.from_dict(_relative(node.metadata))
    write_atomically(copy, nbformat.writes(node))
    running.unlink()


def _without_paths(value: typing.Any) -> typing.Any:
    """The same outputs, with the folders of the environment and the repository cut out of every text."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if isinstance(value, str):
        return value.replace(sys.prefix, "<environment>").replace(f"{repository()}/", "").replace(str(Path.home()), "~")
    return value


def _relative(value: typing.Any) -> typing.Any:
    """The same metadata, with every absolute path cut to its last part."""
    if isinstance(value, dict):
        return {key: _relative(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_relative(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


# glibc gives every large freed array back to the system and asks for the next one anew; on small models that costs a tenth
# of a training step and more. With these, which other systems ignore, a process keeps what it freed.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30), "MALLOC_TOP_PAD_": str(64 * 2**20)}


def run_node(name: str, plan_file: Path) -> None:
    """Runs one notebook of a plan that `sarnb.run` wrote.

    The stamp of an earlier run goes first: from here on the results may be of two runs. It comes back last.

    Raises:
        InputError, NotebookError: the notebook failed; the message also lies in ``.state/<name>.error``.
    """
    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    node, results = plan["nodes"][name], Path(plan["results"])
    state = results / ".state"
    stamp = state / node["stamp"]

    say = functools.partial(print, flush=True)
    set_environment(node["threads"], plan["offline"], plan["root"])
    if plan["runner"]["host"] == os.uname().nodename:
        _stop_if_gone(plan["runner"]["pid"])
        threading.Thread(target=_watch, args=(plan["runner"]["pid"],), daemon=True).start()
    with open(state / f"{name}.lock", "a") as lock:  # an orphan of a killed run may still be stopping
        fcntl.flock(lock, fcntl.LOCK_EX)
        for old in state.glob(f"{name}.*.done"):
            old.unlink()
        start = time.monotonic()
        say(f"{name}  started, {node['threads']} thread{'s' if node['threads'] > 1 else ''}")
        try:
            execute(name, Path(plan["notebooks"]) / f"{name}.ipynb", results, node["parameters"], say)
            add_executed_copy(results, name)
            write_atomically(stamp, json.dumps(node["parts"], indent=1, ensure_ascii=False) + "\n")
        except (InputError, NotebookError) as error:
            say(f"{name}  FAILED after {time.monotonic() - start:.0f} s")
            write_atomically(state / f"{name}.error", f"{error}\n")
            raise
        say(f"{name}  done in {time.monotonic() - start:.0f} s")


def set_environment(threads: int, offline: bool, root: str) -> None:
    """Sets what the kernel inherits: capped threads, no hub where nothing has to come from it, the package's folder."""
    for name, value in KEEP_FREED_MEMORY.items():
        os.environ.setdefault(name, value)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    if offline:
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")


def _watch(pid: int) -> None:
    """Ends this process and its kernel when the run that started it is gone (killed, perhaps)."""
    while True:
        time.sleep(1)
        _stop_if_gone(pid)


def _stop_if_gone(pid: int) -> None:
    import psutil

    if psutil.pid_exists(pid):
        return
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(137)
