"""The whole study: checks the wishes, plans, hands the graph to Snakemake, and reports."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import typing
from dataclasses import dataclass
from pathlib import Path

from sarnb import split_foundation
from sarnb.errors import InputError
from sarnb.graph import Node, independent, plan
from sarnb.manifest import index, read_manifests, write_atomically
from sarnb.profile import Profile, load_profile, read_yaml
from sarnb.settings import cores, default_jobs, notebooks_folder, repository, results_root

MEMORY_MB = 6000


@dataclass(frozen=True)
class Wishes:
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


def settle(wishes: Wishes) -> tuple[Profile, dict[str, typing.Any], Path]:
    """The profile with everything overridden, the ``--param`` values, and the results folder. Writes nothing.

    Raises:
        InputError: whatever is wrong with the wishes.
    """
    extra = parse_params(wishes.params)
    profile = load_profile(wishes.profile)
    fields = {name.lower(): value for name, value in extra.items() if name.lower() in vars(profile) and name not in ("NAME", "DATA")}
    for name in ("PROFILE", "RESULTS", "DATA", "STAMP"):
        if name in extra:
            raise InputError(f"--param {name}: it follows from --profile, --data and SARNB_RESULTS; use those")
    if wishes.seed is not None:
        fields["seed"] = wishes.seed
    folder = profile.name
    if wishes.data:
        source = Path(wishes.data).expanduser().absolute()
        if not source.is_dir():
            raise InputError(f"--data {wishes.data}: no such folder; give a folder of SAR images")
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


def run(wishes: Wishes, dry: bool = False) -> int:
    """Brings the chosen notebooks of a profile up to date.

    Args:
        wishes: the command line.
        dry: only tell what would run and why; write nothing.

    Returns:
        0, or 1 if a notebook failed; its message is then the last thing printed.

    Raises:
        InputError: bad input; nothing is written.
    """
    profile, extra, results = settle(wishes)
    values = profile.parameters(_shown(results))
    nodes = plan(notebooks_folder(), results, values, extra, wishes.only)
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
        from sarnb.results import claim_folder

        claim_folder(results, profile.name, profile.stamp, profile.data)
        nodes = plan(notebooks_folder(), results, values, extra, wishes.only)
        return _carry_out(wishes, profile, results, nodes, lock)


def _carry_out(wishes: Wishes, profile: Profile, results: Path, nodes: dict[str, Node], lock: int) -> int:
    """Writes the plan, runs Snakemake on it, and reports."""
    state, start = results / ".state", time.monotonic()
    jobs = wishes.jobs or default_jobs()
    for old in (*state.glob("*.error"), *state.glob("plan-*.json")):
        old.unlink()
    for name, node in nodes.items():
        if node.reason:
            print(f"{name}: to run, {node.reason}", flush=True)
            node.stamp.unlink(missing_ok=True)
    plan_file = state / f"plan-{os.getpid()}.json"
    write_atomically(plan_file, json.dumps(make_plan(profile, results, nodes, jobs), indent=1))
    with _progress(state / "progress.log"):
        code = _snakemake(wishes, plan_file, jobs, lock)
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


def _snakemake(wishes: Wishes, plan_file: Path, jobs: int, lock: int) -> int:
    """Runs Snakemake; what it prints goes to a log, the notebooks tell their progress themselves.

    It inherits the lock's descriptor, so that the next call waits if this process is killed and Snakemake is not yet.
    """
    state = plan_file.parent
    local = wishes.executor == "local"
    scale = ["--cores", str(max(cores(), jobs))] if local else ["--jobs", str(wishes.jobs or 4), "--executor", wishes.executor]
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
        *wishes.snakemake,
    ]
    environment = {**os.environ, "PYTHONPATH": _python_path(), "TOKENIZERS_PARALLELISM": "false"}
    with open(state / "snakemake.log", "wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, pass_fds=(lock,))
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


@contextlib.contextmanager
def _progress(log: Path) -> typing.Iterator[None]:
    """Prints what the notebooks append to the progress file, while the body runs."""
    log.write_text("", encoding="utf-8")
    done = threading.Event()

    def follow() -> None:
        with open(log, encoding="utf-8") as stream:
            while True:
                last = done.is_set()
                if text := stream.read():
                    print(text, end="", flush=True)
                if last:
                    return
                done.wait(0.3)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
