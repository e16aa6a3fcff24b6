"""A user without a clone runs the wheel by pipx, from any folder: make test-docs.

``test_packaging.py`` installs the wheel without pipx, and runs its modules and its command.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from built_wheel import built_once, wheelhouse
from safetensors import safe_open
from tree import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
Runner = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Return a function that runs a command of the wheel by pipx; pipx makes an environment once and keeps it.

    pip resolves what the wheel requires, and finds it in the running environment, so that nothing is downloaded.
    """
    folder, house = tmp_path_factory.mktemp("pipx"), tmp_path_factory.mktemp("wheels")
    wheel = built_once(tmp_path_factory).wheel
    wheelhouse(house, [re.split(r"[<>=]", line)[0] for line in PROJECT["dependencies"]])
    command = [
        *(sys.executable, "-m", "pipx", "run", "--skip-maintenance", "--backend", "pip", "--python", sys.executable),
        *(f"--pip-args=--no-index --find-links {house}", "--spec", str(wheel), "robust-encoders"),
    ]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "PIPX_", "PYTHONPATH"))}
    places = {f"PIPX_{name}": str(folder / name.lower()) for name in ("HOME", "BIN_DIR", "MAN_DIR", "SHARED_LIBS")}
    environment = {**clean, **places, "PIP_CONFIG_FILE": os.devnull}

    def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.xdist_group("pipx")
@pytest.mark.docs
@pytest.mark.base
def test_pipx_runs_the_wheel_from_another_folder(run: Runner, tmp_path: Path) -> None:
    done = run("info", "shapes/circle", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "circle" in done.stdout
    assert list(tmp_path.iterdir()) == []
    done = run("export", "shapes/circle", "--to", "comfyui", "--out", "exported", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (written,) = (tmp_path / "exported").rglob("*.safetensors")
    with safe_open(written, framework="pt") as file:
        assert any(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118 - it is no mapping


@pytest.mark.xdist_group("pipx")
@pytest.mark.docs
def test_pipx_hands_on_the_answer_no(run: Runner, tmp_path: Path) -> None:
    done = run("info", "shapes/no-such-encoder", cwd=tmp_path)
    assert done.returncode == 2
    assert "expected" in done.stderr
