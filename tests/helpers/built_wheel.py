"""The wheel as a release has it, and an environment for it without any download."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock
from tree import ROOT


class Built(NamedTuple):
    """A wheel, and the copy of the source that it was built from."""

    source: Path
    wheel: Path


def built_once(factory: pytest.TempPathFactory) -> Built:
    """Return the wheel of this run of the tests; the first process that asks for it builds it. Nobody changes it."""
    own = factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    place = shared / "built"
    with FileLock(shared / "built.lock"):
        if not place.exists():
            begun = shared / "begun"
            shutil.rmtree(begun, ignore_errors=True)
            source = copy_of_the_source(begun / "source")
            build_wheel(source, begun / "wheel")
            begun.rename(place)
    (wheel,) = (place / "wheel").glob("*.whl")
    return Built(place / "source", wheel)


def copy_of_the_source(folder: Path) -> Path:
    """Copy all that the wheel is built from, so that no build folder of this tree can leak into it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("robust_encoders", "training"):
        shutil.copytree(ROOT / name, folder / name, ignore=_left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def _left_out(folder: str, names: list[str]) -> list[str]:
    # A checkout may link one package into the other.
    return [name for name in names if name == "__pycache__" or (Path(folder) / name).is_symlink()]


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a copy of the source."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def wheelhouse(folder: Path, names: Iterable[str]) -> Path:
    """Make wheels that lend packages of the running environment to another one, under their names and versions.

    Each wheel has the metadata of a package and a path line to the real one.

    Args:
        folder: Folder that receives the wheels.
        names: Names of the packages.
    """
    for name in names:
        version, stem = metadata.version(name), re.sub(r"[-.]+", "_", name)
        info = f"{stem}-{version}.dist-info"
        files = {
            f"lent_for_{stem}.pth": "\n".join(lent()) + "\n",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
        with zipfile.ZipFile(folder / f"{stem}-{version}-py3-none-any.whl", "w") as wheel:
            for file, text in {**files, f"{info}/RECORD": record}.items():
                wheel.writestr(file, text)
    return folder


def lent() -> list[str]:
    """Return the folders of installed packages of the running environment, for the lines of a ``.pth`` file.

    Such a line adds a folder without reading the ``.pth`` files inside it, so the editable copy of this package in the
    running environment cannot be found.
    """
    return [path for path in sys.path if Path(path).name == "site-packages"]
