"""What a notebook's results depend on, as hashes of content: never of file times, which a git clone does not keep."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import typing
from pathlib import Path

from sarnb import OTHER_VAE, split_foundation
from sarnb.errors import InputError

PACKAGE = Path(__file__).parent
CARD = "README.md"  # of a foundation
# These decide when and where a notebook runs, not what it computes.
MACHINERY = frozenset(
    f"sarnb.{name}"
    for name in ("__main__", "run", "node", "graph", "notebook", "fingerprint", "manifest", "profile", "settings", "commands")
)


def digest(value: typing.Any) -> str:
    """SHA-256 (hex) of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    sha = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def tree_digest(folder: Path, but: typing.Collection[str] = ()) -> str:
    """SHA-256 (hex) over the names and bytes of all files below a folder, hidden ones and those named in ``but`` left out."""
    return digest([[name, file_digest(folder / name)] for name in _names(folder) if name not in but])


def listing_digest(folder: Path) -> str:
    """SHA-256 (hex) over names, sizes and times below a folder: the quick look for a user's large data folder."""
    stats = [(name, (folder / name).stat()) for name in _names(folder)]
    return digest([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])


def _names(folder: Path) -> list[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))


def read_cells(notebook: Path) -> list[dict[str, typing.Any]]:
    """The cells of a notebook file.

    Raises:
        InputError: the file is missing or no notebook.
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


@functools.lru_cache(maxsize=None)
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


@functools.lru_cache(maxsize=None)
def foundation_digest(foundation: str) -> str:
    """Identity of the foundation, and of the autoencoder that is named behind it: bytes of what is here, else the hub id.

    Its model card is left out: it tells what a study measured, and must not make that study outdated.
    """
    folders = [PACKAGE / "model" / "embedded" if part == "embedded" else Path(part) for part in split_foundation(foundation) if part]
    return OTHER_VAE.join(tree_digest(folder, but=(CARD,)) if folder.is_dir() else str(folder) for folder in folders)
