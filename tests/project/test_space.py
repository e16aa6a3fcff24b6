"""The folder of the Space on the Hub: its head, its requirements, and the page that it opens."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest
import yaml
from tree import ROOT

SPACE = ROOT / "integrations" / "space"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPENS = """
import sys
import app, robust_encoders
sys.stdout.write(f"{robust_encoders.__file__}\\n{app.demo is app.page.blocks}\\n{app.page.launch()}\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def head() -> dict[str, Any]:
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_head_says_what_the_hub_needs() -> None:
    found = head()
    pinned = dict(re.findall(r"^([\w-]+)==([\w.]+)$", (ROOT / "constraints-app.txt").read_text(), re.MULTILINE))
    assert (found["sdk"], found["sdk_version"]) == ("gradio", pinned["gradio"])
    assert (SPACE / found["app_file"]).is_file()
    assert found["license"] == PROJECT["license"].casefold()
    assert len(found["short_description"]) <= 60
    assert f">={found['python_version']}" == PROJECT["requires-python"]


def test_the_requirements_are_those_of_the_package_and_of_its_extra() -> None:
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    asked = [line for line in lines if not line.startswith(("#", "--"))]
    assert asked == sorted({*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["app"]})


def test_the_folder_is_made_of_the_wheel_and_of_these_files() -> None:
    """``make space`` does what the next test does in a folder of its own."""
    (recipe,) = re.findall(r"^space: env\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "pip wheel --quiet --no-deps --no-build-isolation" in recipe
    assert "zipfile -e *.whl ." in recipe
    assert "cp integrations/space/* build/space/" in recipe


@pytest.mark.browser
@pytest.mark.base
def test_the_page_opens_in_the_folder_with_nothing_but_its_own_package(tmp_path: Path) -> None:
    folder = assembled(tmp_path)
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "no_proxy", "NO_PROXY")}
    clean |= {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}  # nobody listens there
    command = [sys.executable, "-c", OPENS]
    with subprocess.Popen(
        command, cwd=folder, env=clean, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            package, found, address = (process.stdout.readline().strip() for _ in range(3))
            assert Path(package).parent == folder / "robust_encoders"
            assert found == "True"
            with build_opener(ProxyHandler({})).open(address, timeout=60) as answer:
                assert "Robust text encoders" in answer.read().decode()
        finally:
            process.terminate()


def assembled(folder: Path) -> Path:
    """Return a folder with the files of the Space and the package beside them."""
    source, space = folder / "source", folder / "space"
    for name in ("robust_encoders", "training"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(space)
    shutil.copytree(SPACE, space, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return space
