"""A user without a clone runs the wheel by pipx, from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from built_wheel import build_wheel, copy_of_the_source, dependencies_wheel
from safetensors import safe_open

Runner = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Return a function that runs a command of the wheel by pipx; pipx makes an environment once and keeps it."""
    folder = tmp_path_factory.mktemp("pipx")
    wheel = build_wheel(copy_of_the_source(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel"))
    # What the wheel requires is lent by the running environment, so that nothing is downloaded.
    lent = dependencies_wheel(folder)
    command = [
        *(sys.executable, "-m", "pipx", "run", "--skip-maintenance", "--backend", "pip", "--python", sys.executable),
        *("--with", str(lent), "--pip-args=--no-deps --no-index", "--spec", str(wheel), "robust-encoders"),
    ]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("PIPX_")}
    places = {f"PIPX_{name}": str(folder / name.lower()) for name in ("HOME", "BIN_DIR", "MAN_DIR", "SHARED_LIBS")}

    def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {**clean, **places, "NO_COLOR": "1"}
        return subprocess.run(
            [*command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )

    return run


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


def test_pipx_hands_on_the_answer_no(run: Runner, tmp_path: Path) -> None:
    done = run("info", "shapes/no-such-encoder", cwd=tmp_path)
    assert done.returncode == 2
    assert "expected" in done.stderr
