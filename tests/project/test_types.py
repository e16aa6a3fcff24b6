"""A wrong call of a training function in a test file fails the type check of ``make lint``: make test-docs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tree import ROOT

# Lines that end in `# wrong` are the ones that must fail.
CALLS = {
    "test_modules.py": """
from pathlib import Path
from typing import Any

from robust_encoders.training.methods import RECE
from robust_encoders.training.recipes.run import run_recipe


def test_calls(recipe: Any, pipe: Any, out: Path) -> None:
    run_recipe(recipe, pipe, out, progress=False)
    run_recipe(recipe=1)  # wrong
    run_recipe(recipe, pipe, out, progres=False)  # wrong
    RECE().erase(pipe, recipe.concept, generator=recipe.generator)
    RECE(epoch=3)  # wrong
    RECE().erase(pipe, "circle", generator=recipe.generator)  # wrong
""",
    "test_public_names.py": """
from pathlib import Path
from typing import Any

import robust_encoders.training
from robust_encoders.training import run_recipe


def test_calls(recipe: Any, pipe: Any, out: Path) -> None:
    run_recipe(recipe, pipe, out, progress=False)
    run_recipe(recipe=1)  # wrong
    run_recipe(recipe, pipe, out, progres=False)  # wrong
    robust_encoders.training.run_recipe(recipe, pipe, out, progress=False)
    robust_encoders.training.run_recipe(recipe, pipe, out, progres=False)  # wrong
""",
}
# Reading the libraries takes a minute, and no call above needs their types.
WITHOUT_LIBRARIES = """
[[tool.mypy.overrides]]
module = [
    "huggingface_hub.*", "jinja2.*", "matplotlib.*", "numpy.*", "PIL.*", "safetensors.*", "tokenizers.*", "torch.*",
    "tyro.*",
]
follow_imports = "skip"
"""


def copy_what_mypy_reads(folder: Path) -> None:
    """Lay out the package, the settings and test files with the calls as they lie in the repository."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as settings:
        settings.write(WITHOUT_LIBRARIES)
    for name in ("robust_encoders", "training"):
        (folder / name).symlink_to(ROOT / name)
    subprocess.run(["make", "-s", "types"], cwd=folder, check=True, capture_output=True)
    (folder / "tests").mkdir()
    for name, text in CALLS.items():
        (folder / "tests" / name).write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what mypy says of the test files with the calls."""
    folder = tmp_path_factory.mktemp("types")
    copy_what_mypy_reads(folder)
    files = [f"tests/{name}" for name in CALLS]
    found = subprocess.run([sys.executable, "-m", "mypy", *files], cwd=folder, capture_output=True, text=True)
    assert found.returncode == 1, found.stdout + found.stderr
    return found.stdout


@pytest.mark.xdist_group("types")
@pytest.mark.docs
@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_in_a_test_file_fails_the_type_check_and_a_right_one_passes(name: str, said: str) -> None:
    wrong = {number for number, line in enumerate(CALLS[name].splitlines(), 1) if line.endswith("# wrong")}
    lines = re.findall(rf"^tests/{name}:(\d+): error: .*$", said, re.MULTILINE)
    assert {int(line) for line in lines} == wrong, said


def test_make_lint_checks_the_types_of_the_tests() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert settings["strict"] is True
    assert settings["files"] == [".types/robust_encoders", "tests", "studies", "examples", "integrations", "website"]
    (recipe,) = re.findall(r"^lint: env types\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert "\t$(BIN)/mypy\n" in recipe
