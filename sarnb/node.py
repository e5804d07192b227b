"""One node of the graph: runs a planned notebook and leaves its stamp, or its error, behind."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from pathlib import Path

from sarnb.errors import InputError
from sarnb.manifest import add_executed_copy, write_atomically
from sarnb.notebook import NotebookError, execute


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

    def say(line: str) -> None:
        with open(state / "progress.log", "a", encoding="utf-8") as stream:
            stream.write(line + "\n")

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


# glibc gives every large freed array back to the system and asks for the next one anew; on small models that costs a tenth
# of a training step and more. With these, which other systems ignore, a process keeps what it freed.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30), "MALLOC_TOP_PAD_": str(64 * 2**20)}


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
