"""Download of the packages that the emoji world is made from, by the clients of their registries."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from robust_encoders.errors import DownloadError
from robust_encoders.utils.home import expanded

from ...progress import ProgressBar
from .packages import SOURCES, Package, is_whole, require_packages


def fetch(folder: str | Path, packages: Iterable[Package] = SOURCES.packages) -> None:
    """Download packages into a folder, and check their hashes; files that are there and whole are kept.

    Args:
        folder: Folder that receives the files.
        packages: Packages of npm, and wheels of PyPI.

    Raises:
        DownloadError: If a client is missing or fails.
        IntegrityError: If a file has another hash.
    """
    folder, wanted = expanded(folder), tuple(packages)
    folder.mkdir(parents=True, exist_ok=True)
    missing = [package for package in wanted if not is_whole(folder, package)]
    with ProgressBar(missing, desc="packages", disable=not missing) as bar:
        for package in bar:
            (folder / package.file).unlink(missing_ok=True)
            _run(_command(package, folder))
    require_packages(folder, wanted)


def _command(package: Package, folder: Path) -> list[str]:
    if package.file.endswith(".whl"):
        wheel = f"{package.name}=={package.version}"
        return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), wheel]
    npm = shutil.which("npm")
    if npm is None:
        raise DownloadError(f"expected npm for {package.spec}, found none; install Node.js, which brings npm")
    return [npm, "pack", "--silent", "--pack-destination", str(folder), package.spec]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise DownloadError(f"expected {' '.join(command)} to succeed, found: {' '.join(last)}")
