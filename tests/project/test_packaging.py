"""What is installed is what lies in the tree: package list, import rules, declared dependencies, the wheel itself."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from built_wheel import Built, built_once, lent
from tree import ROOT

from robust_encoders.cli.main import EXTRA_OF

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
    declared = declared_by("train", "eval", "app", "attacks", "lpips", "metrics", "nudenet", "worlds")
    assert third_party(ROOT / "training") <= declared | {"torchattacks"}


def forbidden_without(*extras: str) -> list[str]:
    """Modules that the extras for users install, and the core and these extras do not."""
    forbidden = declared_by("train", "eval", "app", "attacks", "lpips", "metrics", "nudenet", "worlds") - declared_by(
        *extras
    )
    # torch, diffusers and transformers require these.
    forbidden -= {"numpy", "tokenizers", "tqdm"}
    owners = metadata.packages_distributions()
    return sorted(
        name for name, found in owners.items() if {one.lower().replace("_", "-") for one in found} & forbidden
    )


@pytest.mark.parametrize("extra", ["train", "eval", "app"])
def test_the_commands_of_an_extra_import_with_nothing_but_that_extra(extra: str) -> None:
    forbidden = forbidden_without(extra)
    assert {"scipy", {"train": "matplotlib"}.get(extra, "tomli_w")} <= {*forbidden}
    commands = {
        "train": ["cli.train", "worlds.pretrain.build"],
        "eval": ["cli.evaluate", "cli.demo"],
        "app": ["cli.app", "app.opening", "app.panels", "app.attacks"],
    }[extra]
    names = [f"robust_encoders.training.{command}" for command in commands]
    code = (
        "import importlib, sys\n"
        f"for name in {forbidden!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_extra_eval_is_enough_for_the_quick_suite_on_the_embedded_base() -> None:
    # torchmetrics imports scipy where it is installed, and does without it where it is not.
    forbidden = [name for name in forbidden_without("eval") if name != "scipy"]
    code = (
        "import sys\n"
        f"for name in {forbidden!r}: sys.modules[name] = None\n"
        "from robust_encoders.training import EvaluationConfig, ShapesBenchmark\n"
        "print(ShapesBenchmark('circle', suite='quick').problems(EvaluationConfig()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_without_its_extra_every_training_command_names_the_extra() -> None:
    code = (
        "import sys\nfrom robust_encoders.cli.main import EXTRA_OF, main\n"
        f"for name in {forbidden_without()!r}: sys.modules[name] = None\n"
        "for command in EXTRA_OF: print(command, main([command, '--help']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [word for command in EXTRA_OF for word in (command, "1")], done.stderr
    told = re.findall(r"expected \w+ for this command, found none; run `pip install '\.\[([\w,]+)\]'`", done.stderr)
    assert told == list(EXTRA_OF.values())


def test_every_declared_dependency_is_pinned_in_the_constraints() -> None:
    declared = declared_by(*PROJECT["project"]["optional-dependencies"])
    pinned = [(ROOT / name).read_text() for name in ("constraints.txt", "constraints-app.txt")]
    lines = [line for text in pinned for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert declared | {"torch", "torchattacks", "eval-unlearn", "setuptools"} <= distributions(lines)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel, and a copy of all that it is built from."""
    return built_once(tmp_path_factory)


@pytest.fixture(scope="module")
def wheel(built: Built) -> Path:
    """The wheel."""
    return built.wheel


def test_the_page_on_releases_gives_size_and_reasons(wheel: Path) -> None:
    text = (ROOT / "docs" / "release.md").read_text(encoding="utf-8")
    found = re.search(r"It has ([\d.]+) MB", text)
    assert found is not None
    assert abs(wheel.stat().st_size / 1e6 - float(found[1])) < 0.06  # the last bytes depend on the machine's zlib
    rows = re.findall(r"^\| `([\w.-]+)` \| (.+?) \| \S.* \|$", text, re.MULTILINE)
    extras = PROJECT["project"]["optional-dependencies"]
    stated = {(name.lower().replace("_", "-"), where) for name, wheres in rows for where in wheres.split(", ")}
    declared = {(name, "loader") for name in declared_by()}
    declared |= {(name, extra) for extra in extras if extra != "dev" for name in distributions(extras[extra])}
    # An extra that names a package of the loader again asks for nothing new.
    assert stated == declared - {(name, extra) for name in declared_by() for extra in extras}


def test_the_wheel_holds_the_tree_and_nothing_else(built: Built) -> None:
    source, wheel = built
    folders = {"robust_encoders": source / "robust_encoders", "robust_encoders/training": source / "training"}
    files = {
        f"{package}/{path.relative_to(folder).as_posix()}": path
        for package, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert sorted(packed) == sorted(files)
        assert [name for name in packed if archive.read(name) != files[name].read_bytes()] == []
        assert len([name for name in archive.namelist() if name.endswith("/LICENSE")]) == 1


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel in it; the dependencies come from the running one, by a path line."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(lent()) + "\n")
    return folder


def test_the_installed_wheel_imports_every_module_from_another_folder(environment: Path, tmp_path: Path) -> None:
    # `make test-browser` installs Gradio, and imports the page itself.
    without = set() if find_spec("gradio") else {"robust_encoders.training.app.page"}
    code = (
        "import importlib, sys\n"
        f"for name in {sorted({*modules()} - without)!r}:\n"
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
