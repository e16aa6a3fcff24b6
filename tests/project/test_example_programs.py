"""The programs and the notebook in ``examples/``, run as a reader runs them, and judged by their pictures.

make test-docs
"""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import runpy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from tree import ROOT

from robust_encoders import CompatibilityWarning, RobustEncoder, embedded_pipeline
from robust_encoders.training.worlds.shapes.judge import load_judge

EXAMPLES = ROOT / "examples"
Test = TypeVar("Test", bound=Callable[..., None])
PROGRAMS = sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb"))


def of_docs(test: Test) -> Test:
    """Mark a test that draws with the embedded base as one of ``make test-docs``."""
    marked: Test = pytest.mark.docs(pytest.mark.base(test))
    return marked


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    """Run a program in a folder; return its names. A second run of the same program goes on in the same folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"examples/{name}.py", *arguments])
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def shape_in(picture: Path | Image.Image) -> str:
    """Return the shape that the judge sees in a picture of 32 x 32 pixels."""
    image = Image.open(picture) if isinstance(picture, Path) else picture
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
    shape: str = load_judge()(pixels)["shape"][0]
    return shape


def test_the_readme_lists_every_program_and_each_is_short() -> None:
    listed = re.findall(r"^\| \[([\w.]+)\]\(\1\) \| .+ \|$", (EXAMPLES / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == [path.name for path in PROGRAMS]
    for path in PROGRAMS:
        text = path.read_text(encoding="utf-8")
        assert path.suffix != ".py" or len(text.splitlines()) < 60, f"{path.name} is too long for copying"
        assert "stable-diffusion-" in text, f"{path.name} says what changes for a real base"


@of_docs
def test_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("swap", tmp_path, monkeypatch)
    assert shape_in(tmp_path / "before.png") == "circle"
    assert shape_in(tmp_path / "after.png") != "circle"
    said = capsys.readouterr().out
    assert "every check passed" in said
    assert "\n- prompt_embeds: " in said


@of_docs
def test_batch_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ("a red circle on a white background", "a blue square on a black background", "a yellow star")
    (tmp_path / "prompts.txt").write_text("\n".join(prompts), encoding="utf-8")
    run("batch", tmp_path, monkeypatch, "prompts.txt", "pictures")
    made = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in made] == ["000001.png", "000002.png", "000003.png"]
    assert shape_in(made[0]) != "circle"
    assert shape_in(made[1]) == "square"
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in made]
    made[1].unlink()
    run("batch", tmp_path, monkeypatch, "prompts.txt", "pictures")
    after = [(path.stat().st_mtime_ns, path.read_bytes()) for path in made]
    assert [bytes_ for _, bytes_ in after] == [bytes_ for _, bytes_ in before]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]
    with pytest.raises(SystemExit, match=r"expected a file of prompts and a folder"):
        run("batch", tmp_path, monkeypatch)


@of_docs
def test_controlnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("controlnet", tmp_path, monkeypatch)
    assert RobustEncoder.status(names["guided"]).intact
    assert not RobustEncoder.status(names["pipe"]).attached, "the pipeline that does not draw stays as it was"
    assert shape_in(tmp_path / "guided.png") != "circle"
    assert "\n- image: " in capsys.readouterr().out


@of_docs
def test_img2img(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("img2img", tmp_path, monkeypatch)
    assert shape_in(names["start"]) == "circle"
    assert shape_in(tmp_path / "by-text.png") != "circle"
    assert shape_in(tmp_path / "by-picture.png") == "circle", "the picture goes around the text encoder, as is said"


@of_docs
def test_prompt_weighting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("prompt_weighting", tmp_path, monkeypatch)
    assert shape_in(tmp_path / "weighted.png") != "circle"
    assert "compel" not in capsys.readouterr().out, "no tool holds the old encoder"


@of_docs
def test_sdxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = run("sdxl", tmp_path, monkeypatch)
    assert [w for w in caught if isinstance(w.message, CompatibilityWarning) and "text_encoder_2" in str(w.message)]
    said = capsys.readouterr().out
    assert "pass allow_partial=True" in said
    assert "(text_encoder_2) are unchanged" in said
    assert RobustEncoder.status(names["pipe"]).intact
    assert Image.open(tmp_path / "sdxl.png").size == (32, 32)


@of_docs
def test_own_concept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("own_concept", tmp_path, monkeypatch)
    shapes = [shape_in(tmp_path / f"{what}-{when}.png") for what in ("star", "square") for when in ("before", "after")]
    assert shapes == ["star", "square", "square", "square"]
    RobustEncoder.from_pretrained(str(tmp_path / "star")).check(embedded_pipeline()).raise_if_incompatible()


def cells() -> list[dict[str, Any]]:
    notebook: dict[str, Any] = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return found


def run_cell(source: str, name: str, names: dict[str, Any]) -> Any:
    """Run a cell; return the value of its last line, as a notebook shows it."""
    *body, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        exec(compile(source, name, "exec"), names)
        return None
    exec(compile(ast.Module(body, []), name, "exec"), names)
    return eval(compile(ast.Expression(last.value), name, "eval"), names)


def shown(cell: dict[str, Any]) -> Image.Image | None:
    """Return the picture that a cell of the notebook shows, if it shows one."""
    pictures = [one["data"]["image/png"] for one in cell["outputs"] if "image/png" in one.get("data", {})]
    return Image.open(io.BytesIO(base64.b64decode("".join(pictures[0])))) if pictures else None


@of_docs
def test_the_notebook_runs_from_top_to_bottom_and_shows_what_it_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    pictures = 0
    for place, cell in enumerate(cells(), start=1):
        drawn = run_cell("".join(cell["source"]), f"cell {place}", names)
        stored = shown(cell)
        assert (drawn is None) == (stored is None), f"cell {place}: run the notebook again, its outputs are old"
        if drawn is not None and stored is not None:
            pictures += 1
            difference = np.asarray(drawn, float) - np.asarray(stored.convert("RGB"), float)
            assert np.abs(difference).mean() < 8, f"cell {place}: run the notebook again, its pictures are old"
    assert pictures == 4
