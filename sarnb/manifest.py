"""Manifests: which notebook made which file, from what, and whether the files are still those.

One JSON file per producer in ``results/<profile>/manifest``. ``verify`` compares them with what lies on the disk. Files are
known by hashes of their content, never by their times, which a git clone does not keep.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sarnb.errors import InputError
from sarnb.profile import read_yaml
from sarnb.settings import cores, notebooks_folder, repository

# Large and rebuilt by a run: ignored by git, so their absence in a clone is no fault.
LOCAL_FOLDERS = ("data", "models", "samples")
RECORDED_FOLDERS = ("figures", "tables", "notebooks")
PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "numpy",
    "scipy",
    "pandas",
    "scikit-image",
    "matplotlib",
    "seaborn",
    "datasets",
    "papermill",
    "snakemake",
)


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(folder: Path, but: Collection[str] = ()) -> str:
    """SHA-256 (hex) over the names and bytes of all files below a folder, without hidden ones and those named in ``but``."""
    return digest([[name, file_digest(folder / name)] for name in file_names(folder) if name not in but])


def file_names(folder: Path) -> list[str]:
    """Relative paths of all files below a folder, sorted, without those that are hidden or in a hidden folder."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))


def read_cells(notebook: Path) -> list[dict[str, Any]]:
    """Cells of a notebook file, the source of each as one text.

    Raises
    ------
    InputError
        The file is missing or no notebook.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return [{**cell, "source": "".join(cell["source"])} for cell in cells]
    except FileNotFoundError:
        raise InputError(f"{notebook}: no such notebook") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{notebook}: not a Jupyter notebook ({error}); save it again from Jupyter") from None


def notebook_digest(notebook: Path) -> str:
    """SHA-256 (hex) of a notebook's cell types and sources; outputs and metadata do not count."""
    return digest([[cell["cell_type"], cell["source"]] for cell in read_cells(notebook)])


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: into a temporary file next to it, then renamed.

    Raises
    ------
    InputError
        The folder cannot be written to, or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(
            f"{path}: cannot be saved ({error.strerror}); free some space or choose a folder you may write to with SARNB_RESULTS"
        ) from None


def environment() -> dict[str, Any]:
    """Git revision and dirty flag, package versions, and the machine."""
    return {"git": _git(), "python": platform.python_version(), "packages": _versions(), "device": _device()}


def _git() -> dict[str, Any]:
    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(["git", "-C", str(repository()), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    changes = ask("status", "--porcelain", "--", "sarnb", "notebooks", "pyproject.toml")
    return {"revision": ask("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _device() -> dict[str, Any]:
    found: dict[str, Any] = {"system": platform.system(), "machine": platform.machine(), "cores": cores()}
    try:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        found["processor"] = models[0].partition(":")[2].strip()
    except (OSError, IndexError):
        found["processor"] = platform.processor()
    torch = sys.modules.get("torch")  # a notebook that does not use torch need not wait for it
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        found["graphics"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return found


def manifest_path(results: Path, producer: str) -> Path:
    """Where a producer's manifest lies."""
    return results / "manifest" / f"{producer}.json"


def read_manifest(results: Path, producer: str) -> dict[str, Any]:
    """A producer's manifest; empty if there is none or it is not readable."""
    try:
        found = json.loads(manifest_path(results, producer).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_manifests(results: Path) -> dict[str, dict[str, Any]]:
    """All manifests of a results folder, by producer, in the order of their names."""
    return {path.stem: read_manifest(results, path.stem) for path in sorted((results / "manifest").glob("*.json"))}


def artefact_entry(results: Path, path: Path, kind: str, meaning: str) -> dict[str, Any]:
    """The manifest's entry of one file or folder."""
    sha = tree_digest(path) if path.is_dir() else file_digest(path)
    return {"path": path.relative_to(results).as_posix(), "kind": kind, "meaning": meaning, "sha256": sha}


def artefacts_digest(results: Path, producer: str) -> str:
    """One hash over the figures, tables, models and data that a producer recorded (its executed copy left out)."""
    entries = read_manifest(results, producer).get("artefacts", [])
    return digest([[entry["path"], entry["sha256"]] for entry in entries if entry["kind"] != "notebook"])


def sources(results: Path, producer: str) -> dict[str, Any]:
    """What the producer was made from: hash of the notebook's source, and of what the notebooks before it recorded."""
    notebook, graph = notebooks_folder() / f"{producer}.ipynb", notebooks_folder() / "graph.yaml"
    needs = (read_yaml(graph.read_text(encoding="utf-8")) or {}).get(producer, []) if graph.is_file() else []
    return {
        "notebook_sha256": notebook_digest(notebook) if notebook.is_file() else None,
        "upstream": {need: artefacts_digest(results, need) for need in needs if manifest_path(results, need).is_file()},
    }


def write_manifest(results: Path, manifest: dict[str, Any]) -> None:
    """Writes a producer's manifest and rebuilds the index."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False, default=str) + "\n"
    write_atomically(manifest_path(results, manifest["producer"]), text)
    write_atomically(results / "index.md", index(results))


def add_executed_copy(results: Path, producer: str) -> None:
    """Adds the executed notebook to its producer's manifest; nothing to do where the notebook keeps no record."""
    manifest = read_manifest(results, producer)
    if manifest:
        entry = artefact_entry(results, results / "notebooks" / f"{producer}.ipynb", "notebook", "the executed notebook")
        manifest["artefacts"] = [old for old in manifest["artefacts"] if old["path"] != entry["path"]] + [entry]
        write_manifest(results, manifest)


def index(results: Path) -> str:
    """The text of index.md: every figure and table with one line, notebook by notebook."""
    manifests = read_manifests(results)
    first = next(iter(manifests.values()), {})
    lines = [f"# Results of the profile `{first.get('profile', results.name)}`", ""]
    if stamp := first.get("stamp"):
        lines += [f"**{stamp}**", ""]
    for producer, manifest in manifests.items():
        lines += [f"## {producer}", ""]
        for entry in sorted(manifest.get("artefacts", []), key=lambda e: (e["kind"] != "notebook", e["kind"])):
            if not entry["path"].endswith((".svg", ".md", ".tex")):
                name = entry["path"]
                link = f"[{name}]({name.replace(' ', '%20')})"
                lines.append(f"- {link}: {entry['meaning']}{' — ' + stamp if stamp and entry['kind'] != 'notebook' else ''}")
        lines.append("")
    return "\n".join(lines)


def verify(results: Path) -> list[str]:
    """Compares a results folder with its manifests.

    Returns
    -------
    problems : one sentence per artefact that is changed, missing, stale (its notebook, or what that builds on, is no
        longer the one it was made from) or recorded by nobody; empty if all is well.

    Raises
    ------
    InputError
        The folder is not there or holds no manifest.
    """
    if not results.is_dir():
        raise InputError(f"{results}: no such folder; give a results folder such as results/quick")
    manifests = read_manifests(results)
    if not manifests:
        raise InputError(f"{results}: holds no manifest; run ./run_all.sh first")
    problems, known = [], set()
    for producer, manifest in manifests.items():
        if not isinstance(manifest.get("artefacts"), list):
            problems.append(f"manifest/{producer}.json: not readable; run {producer} again")
            continue
        problems += _stale(results, producer, manifest)
        for entry in manifest["artefacts"]:
            known.add(entry["path"])
            problems += _compare(results, producer, entry)
    for path in sorted(path for folder in RECORDED_FOLDERS for path in (results / folder).rglob("*") if path.is_file()):
        name = path.relative_to(results).as_posix()
        if name.endswith(".failed.ipynb"):
            problems.append(f"{name}: the last run of this notebook failed; see the error in it and run it again")
        elif name not in known:
            problems.append(f"{name}: stale, no manifest records it; delete it or run its notebook again")
    return problems


def _compare(results: Path, producer: str, entry: dict[str, Any]) -> list[str]:
    path = results / entry["path"]
    if not path.exists():
        top = entry["path"].split("/")[0]
        gone = top in LOCAL_FOLDERS and not (results / top).exists()
        return [] if gone else [f"{entry['path']}: missing; run {producer} again"]
    sha = tree_digest(path) if path.is_dir() else file_digest(path)
    return [] if sha == entry["sha256"] else [f"{entry['path']}: changed since {producer} recorded it; run {producer} again"]


def _stale(results: Path, producer: str, manifest: dict[str, Any]) -> list[str]:
    notebook, problems = notebooks_folder() / f"{producer}.ipynb", []
    made_from = manifest.get("notebook_sha256")
    if made_from and (not notebook.is_file() or notebook_digest(notebook) != made_from):
        problems.append(f"manifest/{producer}.json: stale, notebooks/{producer}.ipynb changed since; run {producer} again")
    for need, sha in manifest.get("upstream", {}).items():
        if artefacts_digest(results, need) != sha:
            problems.append(f"manifest/{producer}.json: stale, {need} recorded other results since; run {producer} again")
    return problems
