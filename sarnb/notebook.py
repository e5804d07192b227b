"""One notebook: its parameters checked, executed by papermill, its copy kept, and what failed said clearly.

``run_node`` is what the graph's job for a notebook calls: it leaves the notebook's stamp, or its error, behind.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import json
import os
import re
import shutil
import site
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sarnb.errors import InputError, first_line
from sarnb.results import add_executed_copy, read_cells, record_digest, write_atomically
from sarnb.settings import repository

TAG = "parameters"
PROGRESS_SECONDS = 15.0
BATCH = "SARNB_BATCH"  # variable that says that nobody sits at the notebook
JUPYTER = ("PATH", "DATA_DIR", "CONFIG_DIR", "RUNTIME_DIR")  # variables JUPYTER_..., folders
# Variables by which a person changes how Python, Jupyter and matplotlib behave, how wide and coloured text is, and what
# libraries say.
PERSONAL = r"(PYTHON|IPYTHON|JUPYTER|MPL|MATPLOTLIB|PAPERMILL|TQDM_|\w+_VERBOSITY$|"
PERSONAL += r"XDG_CACHE_HOME$|COLUMNS$|LINES$|NO_COLOR$|(FORCE|CLI)_?COLOR)"
# The kernel, without the start-up files and settings that a system holds for all its users.
KERNEL = (
    "import runpy, IPython.core.application as own; own.SYSTEM_CONFIG_DIRS.clear(); own.ENV_CONFIG_DIRS.clear(); "
    "runpy.run_module('ipykernel_launcher', run_name='__main__')"
)
Say = Callable[[str], None]
# glibc gives every large freed array back to the system and asks for the next one anew; on small models that costs a tenth
# of a training step and more. With these, which other systems ignore, a process keeps what it freed.
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


class NotebookError(RuntimeError):
    """A notebook failed; the text names the notebook, the cell and the error, and where the executed copy is."""


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Names and default values in the notebook's one cell tagged ``parameters``.

    papermill's own inspector is a regular expression that misses annotated names, so the cell is parsed.

    Raises
    ------
    InputError
        No such cell, more than one, or a line that is not ``NAME = literal``.
    """
    cells = [cell["source"] for cell in read_cells(notebook) if TAG in cell.get("metadata", {}).get("tags", [])]
    if len(cells) != 1:
        raise InputError(f"{notebook}: {len(cells)} cells are tagged 'parameters', it must be one")
    found: dict[str, Any] = {}
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


def injected_parameters(notebook: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values (upper-case names) that a notebook declares, checked against the types of its defaults.

    Raises
    ------
    InputError
        A value of another type.
    """
    declared = declared_parameters(notebook)
    for name in declared.keys() & values.keys():
        default, value = declared[name], values[name]
        same = type(default) is type(value) or (type(default) is float and type(value) is int)
        if not same and default is not None:
            kind = type(default).__name__
            raise InputError(f"{notebook.name}: {name} is {value!r}, it must be a {kind} like {default!r}")
    return {name: values[name] for name in declared if name in values}


def run_node(name: str, plan_file: Path) -> None:
    """Run one notebook of a plan that ``sarnb.graph.run`` wrote.

    The stamp of an earlier run goes first: from here on the results may be of two runs. It comes back last.

    Raises
    ------
    InputError, NotebookError
        The notebook failed; the message also lies in ``.state/<name>.error``.
    """
    try:
        plan = json.loads(plan_file.read_text(encoding="utf-8"))
        node, results, runner = plan["nodes"][name], Path(plan["results"]), plan["runner"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{plan_file}: no plan of a run with the notebook {name!r} ({error}); start the notebooks by ./run_all.sh"
        ) from None
    state, threads = results / ".state", node["threads"]
    variables = child_environment(state)
    variables |= {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (plan["root"], variables.get("PYTHONPATH"))))
    if plan["offline"]:  # nothing has to come from the hub
        variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.environ.clear()
    os.environ.update(variables)
    if runner["host"] == os.uname().nodename:
        threading.Thread(target=_stop_without, args=(runner["pid"],), daemon=True).start()
    with open(state / f"{name}.lock", "a") as lock:  # on a cluster, a killed run's job for it may still be running
        with contextlib.suppress(OSError):  # a file system that knows no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        for old in state.glob(f"{name}.*.done"):
            old.unlink()
        start = time.monotonic()
        print_line(f"{name}  started, {threads} thread{'s' if threads > 1 else ''}")

        def say(line: str) -> None:
            print_line(line + time_left(plan, name, time.monotonic() - start))

        try:
            execute(name, Path(plan["notebooks"]) / f"{name}.ipynb", results, node["parameters"], say)
            add_executed_copy(results, name)
            stamp = {**node["parts"], "given": node["given"], "record": record_digest(results, name)}
            write_atomically(state / node["stamp"], stamp_text(stamp))
        except (InputError, NotebookError) as error:
            print_line(f"{name}  FAILED after {time.monotonic() - start:.0f} s")
            write_atomically(state / f"{name}.error", f"{error}\n")
            raise
        say(f"{name}  done in {time.monotonic() - start:.0f} s")


def time_left(plan: Mapping[str, Any], name: str, took: float) -> str:
    """ ", about 12 min left" of a plan's run, by its forecast at the beginning and by the pace so far towards the end; "" where unknown.

    ``took``: seconds that the notebook ``name`` has run.
    """
    seconds, state = plan.get("seconds", {}), Path(plan["results"]) / ".state"
    stamps = {other: state / node["stamp"] for other, node in plan["nodes"].items() if node["problems"]}
    if not seconds or seconds.keys() != stamps.keys():
        return ""
    done = {other: seconds[other] for other in seconds if stamps[other].is_file()}
    done.setdefault(name, min(took, seconds.get(name, 0.0)))
    rest = 1 - sum(done.values()) / sum(seconds.values())
    left = rest * (rest * plan["expected"] + time.time() - plan["began"])
    return f", about {max(1, round(left / 60))} min left" if rest > 0 else ""


def stamp_text(stamp: dict[str, Any]) -> str:
    """A stamp as it is written; any other text of the same values was edited."""
    return json.dumps(stamp, indent=1, ensure_ascii=False) + "\n"


def print_line(line: str) -> None:
    """Print a line of progress; a closed terminal must not end a notebook."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def child_environment(state: Path) -> dict[str, str]:
    """The variables for all that a run starts: what a person's shell, home and settings say about Python and figures is left out.

    Jupyter, IPython and matplotlib get folders of their own in ``state``, and caches go there too, but for what the hub has
    downloaded. The kernel ``python3`` is this interpreter, whatever other kernels of that name a home or a system holds.
    """
    own = state / "environment"
    folders = {
        name: own / name.lower() for name in ("IPYTHONDIR", "MPLCONFIGDIR", *(f"JUPYTER_{word}" for word in JUPYTER), "XDG_CACHE_HOME")
    }
    kept = {name: value for name, value in os.environ.items() if name == "PYTHONPATH" or not re.match(PERSONAL, name)}
    for name in ("SARNB_NOTEBOOKS", "SARNB_RESULTS", "SARNB_REAL_DATA"):  # the kernels work in the repository's root
        if kept.get(name):
            kept[name] = str(Path(kept[name]).expanduser().absolute())
    home = Path(kept.get("HOME") or "/")
    if not (len(home.parts) > 1 and home.is_dir() and os.access(home, os.W_OK)):  # a container's, or none
        folders |= {"HOME": own / "home"}
        home = own / "home"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")  # here again, of a job that the run has started, it is this run's
    downloaded = {"HF_HOME": str(cache / "huggingface"), "TORCH_HOME": str(cache / "torch")}
    spec = {
        "argv": [sys.executable, "-c", KERNEL, "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    }
    write_atomically(own / "jupyter_path" / "kernels" / "python3" / "kernel.json", json.dumps(spec))
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    # Remarks on import of parts that nothing here uses, as in ``sarnb/__init__.py``, for cells that import libraries first.
    quiet = {"PYTHONWARNINGS": "ignore:IProgress not found", "TRANSFORMERS_VERBOSITY": "error"}
    fixed = {"PYTHONUTF8": "1", "TOKENIZERS_PARALLELISM": "false", BATCH: "1", **quiet}
    fixed |= {} if site.ENABLE_USER_SITE else {"PYTHONNOUSERSITE": "1"}  # as here, where a variable or the environment said so
    return {**KEEP_FREED_MEMORY, **downloaded, **kept, **{name: str(folder) for name, folder in folders.items()}, **fixed}


def _stop_without(pid: int) -> None:
    """End this process and its kernel when the run that started it is gone.

    When a run is killed, neither Snakemake nor the system ends its jobs, and they would write into the next run's results.
    """
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # killed, and its parent has not waited for it yet
            time.sleep(1)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(137)


def execute(name: str, source: Path, results: Path, parameters: dict[str, Any], say: Say = print_line) -> Path:
    """Execute a notebook in the repository's root with the kernel ``python3``.

    Parameters
    ----------
    name : the notebook's name, for messages.
    source : the notebook; it is not changed.
    results : the results folder; the copy becomes ``notebooks/<name>.ipynb`` in it, of a failed run
        ``notebooks/<name>.failed.ipynb``, and then an earlier copy stays as it is.
    parameters : values for declared parameters, see ``injected_parameters``.
    say : takes progress lines.

    Returns
    -------
    copy : the executed copy.

    Raises
    ------
    NotebookError
        A cell failed, the kernel died, or the copy could not be saved.
    """
    folder = results / "notebooks"
    running = results / ".state" / f"{name}.running.ipynb"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        running.parent.mkdir(parents=True, exist_ok=True)
        failure = _papermill(name, source, running, parameters, say)
        copy = folder / (f"{name}.failed.ipynb" if failure else f"{name}.ipynb")
        _keep(running, copy, source)
        if (course := source.parent / "COURSE.md").is_file():  # where the words of the notebooks are explained
            shutil.copyfile(course, folder / course.name)
    except OSError as error:
        raise NotebookError(
            f"{name}: its executed copy cannot be saved in {folder} ({error.strerror or error}); free some "
            "space, or choose another folder with SARNB_RESULTS"
        ) from None
    if failure:
        raise NotebookError(f"{failure}\n  executed copy with the traceback: {copy}")
    (folder / f"{name}.failed.ipynb").unlink(missing_ok=True)
    return copy


def _papermill(name: str, source: Path, running: Path, parameters: dict[str, Any], say: Say) -> str:
    """Run papermill into ``running``; returns what failed, empty if nothing."""
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    node = nbformat.read(source, as_version=4)
    node.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    numbers = {cell.get("id"): number for number, cell in enumerate(node.cells, start=1)}  # papermill's own cell has none
    start, at, said = time.monotonic(), 0, time.monotonic()

    def note(cell: Any, cell_index: int) -> None:
        """Which cell it is at, said from time to time."""
        nonlocal at, said
        at = numbers.get(cell.get("id"), at)
        if time.monotonic() - said >= PROGRESS_SECONDS:
            said = time.monotonic()
            say(f"{name}  cell {at} of {len(numbers)}  {said - start:.0f} s")

    escaped = str(running).replace("{", "{{").replace("}", "}}")  # papermill formats its paths
    options = {"kernel_name": "python3", "progress_bar": False, "start_timeout": 120, "on_cell_start": note}
    try:
        papermill.execute_notebook(node, escaped, parameters, cwd=str(repository()), **options)
    except PapermillExecutionError as error:
        lines = [line for line in str(error.source).splitlines() if line.strip()]
        kind = "" if error.ename == "InputError" else f"{error.ename}: "
        text = f"{kind}{str(error.evalue).strip() or 'no message'}"
        text += f"\n  the cell begins: {lines[0][:100]}" if lines else ""
    except DeadKernelError:
        text = "the kernel died, most often because the memory was full; use a smaller profile, --jobs 1, or close other programs"
    except RuntimeError as error:  # what jupyter raises where a kernel does not answer
        text = f"the kernel did not start ({first_line(error)}); close other programs or use --jobs 1, and run again"
    else:
        return ""
    return f"{name} failed in cell {at} of {len(numbers)}: {text}"


def _keep(running: Path, copy: Path, source: Path) -> None:
    """Move the executed notebook to its place, free of this machine's paths and of times."""
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
            cell.outputs = [nbformat.from_dict(_shortened(output)) for output in cell.outputs]
    node.metadata = nbformat.from_dict(_last_parts(node.metadata))
    write_atomically(copy, nbformat.writes(node))
    running.unlink()


def with_outputs(notebook: dict[str, Any], executed: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A notebook with the outputs of an executed copy, whose text may be that of an earlier edition.

    Parameters
    ----------
    notebook, executed : notebooks as JSON; cells are matched by their ids.

    Returns
    -------
    filled : the notebook; its code cells have the outputs of equal cells, and behind the parameters stand those of the run, as text,
        so that who runs the notebook does not write into the results that it shows.
    missing : how many code cells the copy does not have, or has with other code.
    """
    ran = {cell.get("id"): cell for cell in executed["cells"] if cell["cell_type"] == "code"}
    given = [cell for cell in ran.values() if "injected-parameters" in cell["metadata"].get("tags", [])]
    cells, missing = [], 0
    for cell in notebook["cells"]:
        cells.append(cell)
        if cell["cell_type"] != "code":
            continue
        same = ran.get(cell.get("id"))
        if same and "".join(same["source"]) == "".join(cell["source"]):
            cells[-1] = cell | {key: same[key] for key in ("outputs", "execution_count")}
        else:
            missing += 1
        if TAG in cell["metadata"].get("tags", []):
            for number, own in enumerate(given):
                text = f"The outputs in this notebook are those of a run with\n\n```python\n{''.join(own['source'])}\n```\n"
                lines = text.splitlines(keepends=True)
                cells.append({"cell_type": "markdown", "id": f"given-{number}", "metadata": {}, "source": lines})
    return notebook | {"cells": cells}, missing


def _shortened(value: Any, kind: str = "text/") -> Any:
    """A cell's output with the folders of the environment, the repository and the user shortened in its texts, never in an image."""
    if isinstance(value, dict):
        return {key: _shortened(item, key if "/" in key else kind) for key, item in value.items()}  # a key with "/" is a type
    if isinstance(value, list):
        return [_shortened(item, kind) for item in value]
    if not isinstance(value, str) or not kind.startswith("text/"):
        return value
    parts = re.split(r"(data:[\w/+.-]+;base64,[\w+/=]+)", value)  # every second one is an image within HTML
    home = os.path.normpath(os.environ.get("HOME") or ".")  # shells keep the "/" that was written at its end
    for folder, short in ((sys.prefix, "<environment>"), (f"{repository()}/", ""), (home, "~")):
        if len(Path(folder).parts) > 1 and Path(folder).is_absolute():  # of "/" nothing would be left
            # whole, perhaps behind a colour code as in tracebacks
            path = rf"(\x1b\[[\d;]*m|(?<![\w./~-])){re.escape(folder)}" + ("" if folder.endswith("/") else r"(?![\w.-])")
            parts[::2] = [re.sub(path, rf"\g<1>{short}", part) for part in parts[::2]]
    return "".join(parts)


def _last_parts(value: Any) -> Any:
    """The same JSON value with every absolute path in it cut to its last part."""
    if isinstance(value, dict):
        return {key: _last_parts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_last_parts(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
