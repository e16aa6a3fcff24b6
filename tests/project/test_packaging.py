"""What is installed is what lies in the tree: package list, import rules, declared dependencies, the wheel itself."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from tree import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"robust_encoders": ROOT / "robust_encoders", "robust_encoders.training": ROOT / "training"}


def modules() -> dict[str, Path]:
    """Every module of the tree: installed name to file."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of every import below ``node``; ``from a import b`` counts as ``a.b``."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from ((0, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from ((child.level, ".".join(filter(None, (child.module, alias.name)))) for alias in child.names)


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def distributions(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~ ;\[]", line, maxsplit=1)[0].lower().replace("_", "-") for line in requirements}


def declared_by(*extras: str) -> set[str]:
    """Distributions that installing with these extras asks for."""
    project = PROJECT["project"]
    return distributions([*project["dependencies"], *(x for e in extras for x in project["optional-dependencies"][e])])


def third_party(folder: Path) -> set[str]:
    """Distributions that the modules below ``folder`` import."""
    owners = metadata.packages_distributions()
    names = {
        name.split(".")[0]
        for path in folder.rglob("*.py")
        for level, name in imports(ast.parse(path.read_text()))
        if level == 0
    }
    foreign = names - set(sys.stdlib_module_names) - {"robust_encoders"}
    return {owner.lower().replace("_", "-") for name in foreign for owner in owners.get(name, [name])}


def test_the_package_list_names_every_folder_with_code_and_each_is_a_package() -> None:
    with_code = {name.rpartition(".")[0] if path.stem != "__init__" else name for name, path in modules().items()}
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(with_code)
    assert all((path.parent / "__init__.py").exists() for path in modules().values())


def test_nothing_imports_the_training_folder_by_its_own_name() -> None:
    files = [*modules().values(), *(ROOT / "tests").rglob("*.py")]
    offenders = [
        str(path.relative_to(ROOT))
        for path in files
        if any(level == 0 and inside(name, "training") for level, name in imports(ast.parse(path.read_text())))
    ]
    assert offenders == []


def test_training_imports_itself_relatively() -> None:
    offenders = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "training").rglob("*.py")
        for level, name in imports(ast.parse(path.read_text()))
        if level == 0 and inside(name, "robust_encoders.training")
    ]
    assert offenders == []


def test_the_loader_imports_training_only_inside_the_functions_of_its_command_line() -> None:
    offenders = []
    for path in (ROOT / "robust_encoders").rglob("*.py"):
        tree = ast.parse(path.read_text())
        if path.parent.name == "cli":
            tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
        offenders += [
            f"{path.relative_to(ROOT)}: {name}"
            for level, name in imports(tree)
            if inside(name, "robust_encoders.training") or (level and inside(name, "training"))
        ]
    assert offenders == []


def test_importing_the_whole_loader_imports_no_training_code() -> None:
    loader = [name for name in modules() if not inside(name, "robust_encoders.training")]
    code = (
        f"import importlib, sys\nfor name in {loader!r}: importlib.import_module(name)\n"
        "assert not [name for name in sys.modules if name.startswith('robust_encoders.training')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_loader_needs_only_declared_core_dependencies() -> None:
    # The loader touches accelerate only on a pipeline that accelerate has offloaded.
    assert third_party(ROOT / "robust_encoders") <= declared_by() | {"accelerate"}


def test_training_needs_only_declared_dependencies() -> None:
    # No extra can name torchattacks, which pins an old requests; where it is missing, its error gives the command.
    declared = declared_by("train", "eval", "attacks", "lpips", "metrics", "nudenet", "worlds")
    assert third_party(ROOT / "training") <= declared | {"torchattacks"}


@pytest.mark.parametrize("extra", ["train", "eval"])
def test_the_commands_of_an_extra_import_with_nothing_but_that_extra(extra: str) -> None:
    forbidden = sorted(
        declared_by("train", "eval", "attacks", "lpips", "metrics", "nudenet", "worlds") - declared_by(extra)
    )
    commands = {"train": ["cli.train", "worlds.pretrain.build"], "eval": ["cli.evaluate", "cli.demo"]}[extra]
    names = [f"robust_encoders.training.{command}" for command in commands]
    code = (
        "import importlib, sys\n"
        f"for name in {forbidden!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_declared_dependency_is_pinned_in_the_constraints() -> None:
    declared = declared_by(*PROJECT["project"]["optional-dependencies"])
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert declared | {"torch", "torchattacks", "setuptools"} <= distributions(lines)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all that the wheel is built from, so that no build folder of this tree can leak into it."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("robust_encoders", "training"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_tree_and_nothing_else(source: Path, wheel: Path) -> None:
    folders = {"robust_encoders": source / "robust_encoders", "robust_encoders/training": source / "training"}
    files = {
        f"{package}/{path.relative_to(folder).as_posix()}": path
        for package, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        built = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert sorted(built) == sorted(files)
        assert [name for name in built if archive.read(name) != files[name].read_bytes()] == []
        assert len([name for name in archive.namelist() if name.endswith("/LICENSE")]) == 1


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel in it; the dependencies come from the running one, by a path line.

    A path line in a ``.pth`` file adds a folder without reading the ``.pth`` files inside it, so the editable copy of
    this package in the running environment cannot be found.
    """
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_installed_wheel_imports_every_module_from_another_folder(environment: Path, tmp_path: Path) -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {sorted(modules())!r}:\n"
        "    path = importlib.import_module(name).__file__\n"
        "    assert path.startswith(sys.prefix), (name, path)\n"
        "import robust_encoders\n"
        f"assert robust_encoders.__version__ == {PROJECT['project']['version']!r}\n"
    )
    python = environment / "bin" / "python"
    done = subprocess.run([python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_installed_console_script_lists_the_catalog(environment: Path, tmp_path: Path) -> None:
    script = environment / "bin" / "robust-encoders"
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([script, "list"], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "shapes/circle" in done.stdout
