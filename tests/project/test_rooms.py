"""The house: no circles of imports, few modules at the top, rooms as the map shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from import_graph import FOLDERS, LOADER, TRAINING, Module, circles, imports, module_graph, modules, room_graph
from tree import ROOT

MODULES = modules(ROOT)
GRAPH = module_graph(MODULES)
SHAPES = f"{TRAINING}.worlds.shapes"
# The one world, its recipes and its benchmark; a package's face may register them.
KNOW_SHAPES = (
    *("training/worlds/shapes/*", "training/recipes/shapes*.py", "training/evaluation/benchmarks/shapes*.py"),
    "*/__init__.py",
)


def relative(module: Module) -> str:
    return module.path.relative_to(ROOT).as_posix()


def rooms_in(folder: Path) -> set[str]:
    """Return the folders of a package that hold modules."""
    return {path.parent.name for path in folder.glob("*/__init__.py")}


def mapped_rooms(text: str) -> dict[str, set[str]]:
    """Return the rooms that a map names, by package.

    The map is a fenced block of code. A package opens with a line whose first word is ``robust_encoders/`` or
    ``training/``, in the block or in a Markdown heading before it. Each room is a line whose first word is the folder's
    name and ``/``; what follows on the line is free::

        robust_encoders/    the loader
          cli/              main  trust
        training/           installed as robust_encoders.training
          cli/              main  parsing  train
          types.py          read by all rooms

    Lines that start otherwise, and lines that are indented deeper than the first room of a package, name no room.
    """
    found: dict[str, set[str]] = {}
    package, depth = "", -1
    for fenced, indent, folder in _map_lines(text):
        if folder in FOLDERS.values():
            package, depth = folder, -1
        elif not fenced or (indent == 0 and depth > 0):
            package = ""
        elif package and indent == (indent if depth < 0 else depth):
            depth = indent
            found.setdefault(package, set()).add(folder)
    return found


def _map_lines(text: str) -> Iterator[tuple[bool, int, str]]:
    """Yield headings, and the lines of fenced blocks that start with a folder: fenced or not, indent, folder."""
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced and (entry := re.match(r"( *)(\w+)/(?!\S)", line)):
            yield True, len(entry.group(1)), entry.group(2)
        elif not fenced and line.startswith("#"):
            named = re.search(r"\b(robust_encoders|training)/", line)
            yield False, 0, named.group(1) if named else ""


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circles(GRAPH) == []


def test_no_two_rooms_point_both_ways_and_no_circle_of_rooms_is_longer() -> None:
    assert circles(room_graph(GRAPH)) == []


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_at_most_twelve_modules_lie_at_the_top_of_a_package(folder: str) -> None:
    assert len([path for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"]) <= 12


def test_the_loader_imports_training_only_in_functions_of_the_command_line() -> None:
    offenders = [
        f"{relative(module)}:{found.line}"
        for name, module in MODULES.items()
        if not f"{name}.".startswith(f"{TRAINING}.")
        for found in imports(module)
        if f"{found.name}.".startswith(f"{TRAINING}.") and not (found.in_function and name.startswith(f"{LOADER}.cli."))
    ]
    assert offenders == []


def test_only_the_world_its_recipes_and_its_benchmark_import_shapes() -> None:
    offenders = {
        relative(module)
        for module in MODULES.values()
        for found in imports(module)
        if f"{found.name}.".startswith(f"{SHAPES}.")
    }
    assert sorted(path for path in offenders if not any(fnmatch(path, known) for known in KNOW_SHAPES)) == []


def test_the_map_names_every_room_and_no_other() -> None:
    named = mapped_rooms((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert named == {folder: rooms_in(ROOT / folder) for folder in FOLDERS.values()}


MAPS = {
    "packages in the block": """
# Contributing
```console
$ make env
```
```
robust_encoders/        the loader
  cli/            main  trust
  hub/            catalog
                  nested/{a,b}
  concepts.py     read by all
training/               installed elsewhere
  cli/            main
                  html/  page
studies/                what took hours
  ways/           no room
```
""",
    "packages as headings": """
### `robust_encoders/`

```
cli/    main
hub/    catalog
```

### `training/`: installed elsewhere

```text
cli/
```

### The rest

```
studies/    what took hours
```
""",
}


@pytest.mark.parametrize("text", MAPS.values(), ids=MAPS.keys())
def test_a_map_is_read_by_its_first_words(text: str) -> None:
    assert mapped_rooms(text) == {"robust_encoders": {"cli", "hub"}, "training": {"cli"}}


def tree_of(folder: Path, files: dict[str, str]) -> dict[str, Module]:
    """Write a small tree of both packages, a face in every folder, and return its modules."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        face = path.parent / "__init__.py"
        face.write_text(face.read_text("utf-8") if face.exists() else "", encoding="utf-8")
    return modules(folder)


CIRCLES = {
    "at the top": ("from .b import x", "from . import a"),
    "in a function": ("from .b import x", "def f():\n    from robust_encoders.training.one import a"),
    "for types alone": ("from .b import x", "if TYPE_CHECKING:\n    from ..one.a import y"),
    "by name": ("import robust_encoders.training.one.b", "import_module('.a', __package__)"),
}


@pytest.mark.parametrize("pair", CIRCLES.values(), ids=CIRCLES.keys())
def test_a_circle_of_modules_is_found(tmp_path: Path, pair: tuple[str, str]) -> None:
    known = tree_of(tmp_path, {"training/one/a.py": pair[0], "training/one/b.py": pair[1]})
    assert circles(module_graph(known)) == [[f"{TRAINING}.one.a", f"{TRAINING}.one.b"]]


def test_a_face_is_no_arrow_but_counts_for_its_room(tmp_path: Path) -> None:
    files = {
        "training/one/__init__.py": "from ..two import c",
        "training/one/a.py": "from . import b_name",
        "training/two/c.py": "from ..three.d import x",
        "training/three/d.py": "from ..one import b_name\nfrom ..one.a import y",
        "robust_encoders/top.py": "import json",
    }
    graph = module_graph(tree_of(tmp_path, files))
    assert circles(graph) == []
    assert graph[f"{TRAINING}.one.a"] == set()
    assert circles(room_graph(graph)) == [["training/one", "training/three", "training/two"]]
    assert room_graph(graph)["robust_encoders/top"] == set()
