"""The package's rooms stand in one order, and nothing imports backwards."""

from __future__ import annotations

import ast
import tomllib

import pytest

from sarnb.settings import repository

ROOMS = ("world", "data", "model", "train", "foundation", "generate", "metrics", "plots")
BELOW = ("errors", "settings", "profile", "")  # what every room may use
PACKAGE = repository() / "sarnb"


def imported(path) -> set[str]:
    """First parts, below the package, of what a file imports from it; "" for the package itself."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            parts = [alias.name for alias in node.names if (PACKAGE / alias.name).is_dir() or (PACKAGE / f"{alias.name}.py").is_file()]
            modules = [f"sarnb.{part}" for part in parts] if node.module == "sarnb" and parts else [node.module]
        names |= {module.partition(".")[2].split(".")[0] for module in modules if module.split(".")[0] == "sarnb"}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_those_before_it(room):
    allowed = {*ROOMS[: ROOMS.index(room) + 1], *BELOW}
    assert not {path.name: over for path in (PACKAGE / room).glob("*.py") if (over := imported(path) - allowed)}


def test_no_room_is_left_out():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)


def test_how_the_foundation_was_made_is_imported_by_nothing_that_uses_it():
    users = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "foundation"]
    assert not [path.name for path in users if "foundation" in imported(path)]


def test_an_installed_package_has_every_file_of_this_one():
    patterns = tomllib.loads((repository() / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]["sarnb"]
    packed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert len(files) > 20 and not [path.relative_to(PACKAGE) for path in files if path not in packed]
