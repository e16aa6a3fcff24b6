"""Which module imports which, read from the text of the tree: imports in functions and for types alone count, too.

To import a package's ``__init__`` makes no arrow. What an ``__init__`` itself imports counts for its room. A room is a
folder directly in one of the two packages, or a module at its top.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import NamedTuple

LOADER, TRAINING = "robust_encoders", "robust_encoders.training"
BY_NAME = ("importlib.import_module", "import_module", "__import__")
FOLDERS = {LOADER: "robust_encoders", TRAINING: "training"}
Graph = Mapping[str, Set[str]]


class Module(NamedTuple):
    """One file of a package: its dotted name, and whether it is the face of a folder."""

    name: str
    path: Path

    @property
    def is_face(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def package(self) -> str:
        return self.name if self.is_face else self.name.rpartition(".")[0]


class Import(NamedTuple):
    """A name that a module imports, whether it is a module or what lies in one, and where.

    Args:
        name: Absolute dotted name.
        line: Line of the import.
        in_function: Whether it runs only when a function is called.
    """

    name: str
    line: int
    in_function: bool


def modules(root: Path) -> dict[str, Module]:
    """Return the modules of both packages by dotted name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = [*package.split("."), *path.relative_to(root / folder).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module(name, path)
    return found


def imports(module: Module) -> Iterator[Import]:
    """Yield what a module imports anywhere in its text; ``from x import y`` gives ``x`` and ``x.y``."""
    tree = ast.parse(module.path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        for name in _imported(node, module.package):
            yield Import(name, getattr(node, "lineno", 0), id(node) in inside)


def _imported(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute("." * node.level + (node.module or ""), package)
        return [base, *(f"{base}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in (
        "importlib.import_module",
        "import_module",
        "__import__",
    ):
        return [
            _absolute(argument.value, package)
            for argument in node.args[:1]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        ]
    return []


def _absolute(name: str, package: str) -> str:
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], *filter(None, [name[level:]])])


def module_graph(known: Mapping[str, Module]) -> Graph:
    """Return the modules, faces apart, that each module imports."""
    return {
        name: {
            found.name
            for found in imports(module)
            if found.name in known and not known[found.name].is_face and found.name != name
        }
        for name, module in known.items()
    }


def room(name: str) -> str:
    """Return the room of a module as ``FOLDER/ROOM``; that of a package's own face is ``FOLDER/``."""
    package = TRAINING if f"{name}.".startswith(f"{TRAINING}.") else LOADER
    return f"{FOLDERS[package]}/{name[len(package) + 1 :].partition('.')[0]}"


def room_graph(graph: Graph) -> Graph:
    """Return the rooms that each room imports."""
    rooms: dict[str, set[str]] = {}
    for name, targets in graph.items():
        rooms.setdefault(room(name), set()).update({room(target) for target in targets} - {room(name)})
    return rooms


def circles(graph: Graph) -> list[list[str]]:
    """Return the sets of nodes of which each reaches each other, of two nodes or more."""
    reached = {node: _reached(graph, node) for node in graph}
    sets = {frozenset(other for other in reached[node] if node in reached[other]) for node in graph}
    return sorted(sorted(members) for members in sets if len(members) > 1)


def _reached(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting.extend(new)
    return seen
