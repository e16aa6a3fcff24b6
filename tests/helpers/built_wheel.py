"""The wheel as a release has it, and an environment for it without any download."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from tree import ROOT


def copy_of_the_source(folder: Path) -> Path:
    """Copy all that the wheel is built from, so that no build folder of this tree can leak into it."""
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


def dependencies_wheel(folder: Path) -> Path:
    """Make a wheel that lends the packages of the running environment to the one into which it is installed.

    It holds a path line. A path line in a ``.pth`` file adds a folder without reading the ``.pth`` files inside it, so
    the editable copy of this package in the running environment cannot be found.
    """
    path, info = folder / "dependencies-0-py3-none-any.whl", "dependencies-0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("dependencies.pth", "\n".join(lent()) + "\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: dependencies\nVersion: 0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        names = ["dependencies.pth", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD"]
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
    return path


def lent() -> list[str]:
    """Return the folders of installed packages of the running environment."""
    return [sysconfig.get_path("purelib")]
