"""The scripts of the studies and the commands of the texts: what they run is what the command line takes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from tree import ROOT

from robust_encoders.cli.main import main

SCRIPTS = sorted((ROOT / "studies").rglob("*.sh"))
RUNS = {
    "results/row.sh": (
        ("circle", "base", "1", "OUT"),
        ("red", "esd", "0", "OUT"),
        ("circle", "advunlearn", "0", "OUT"),
    ),
    "matrix/row.sh": tuple(
        ("circle", subject, "OUT", "ENCODERS") for subject in ("open", "base", "esd", "hardened", "spm-te", "strict")
    ),
    "methods/row.sh": tuple(
        ("circle", method, "0", "OUT") for method in ("base", "esd-unet", "advunlearn+surgery", "advunlearn+synonyms")
    ),
    "second_suite/row.sh": (("circle", "encoder", "OUT"), ("red", "base", "OUT"), ("striped", "empty_prompt", "OUT")),
    "fresh_trajectories/compare.sh": (("OUT", "circle", "4", "2"),),
}
# Writes down its arguments, and leaves what a finished command leaves.
STAND_IN = """#!/bin/sh
python3 - "$@" <<'END'
import json, pathlib, sys
with open("calls", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if "--out" in sys.argv:
    out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
    out.mkdir(parents=True, exist_ok=True)
    (out / ("robust_encoder.json" if sys.argv[1] == "train" else "results.json")).touch()
END
"""


def calls_of(name: str, runs: Sequence[Sequence[str]], folder: Path) -> list[list[str]]:
    """Return the command lines of the package that some runs of a script give, in a tree with a stand-in for it."""
    copy, stand_in = folder / "studies" / name, folder / ".venv" / "bin" / "robust-encoders"
    for file in (copy, stand_in):
        file.parent.mkdir(parents=True)
    shutil.copy(ROOT / "studies" / name, copy)
    stand_in.write_text(STAND_IN, encoding="utf-8")
    stand_in.chmod(0o755)
    for arguments in runs:
        subprocess.run([copy, *arguments], cwd=folder, check=True, capture_output=True)
    return [json.loads(line) for line in (folder / "calls").read_text(encoding="utf-8").splitlines()]


def refused(call: Sequence[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the options of a command line that do not exist, one that was put there to be refused among them."""
    try:
        code = main([*call, "--no-such-option"])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    assert code == 2, f"expected {call} with a wrong option to be refused, found exit code {code}"
    said = capsys.readouterr()
    text = re.sub(r"[\s│╭╮╰╯─]+", " ", said.out + said.err)
    found = re.search(r"Unrecognized options: ((?:[^\s,]+, )*[^\s,]+)", text)
    assert found, f"expected the unrecognized options, found {text}"
    return found.group(1).split(", ")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return a reader of Python scripts of the studies, as modules."""

    def read(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"studies_{Path(name).stem}", ROOT / "studies" / name)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return read


def test_every_script_is_tried_and_can_be_run() -> None:
    assert [str(path.relative_to(ROOT / "studies")) for path in SCRIPTS] == sorted(RUNS)
    assert [path for path in SCRIPTS if not os.access(path, os.X_OK)] == []


@pytest.mark.parametrize("name", RUNS)
def test_the_scripts_give_only_options_that_exist(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = [call for call in calls_of(name, RUNS[name], tmp_path) if call[0] in ("train", "evaluate")]
    assert len(calls) >= len(RUNS[name])
    unlike = {tuple(part for part in call if part.startswith("--")): call for call in calls}
    assert {tuple(call): refused(call, capsys) for call in unlike.values()} == {
        tuple(call): ["--no-such-option"] for call in unlike.values()
    }


def commands(text: str) -> list[list[str]]:
    """Return the command lines of `train` and `evaluate` in the console blocks of a text, those with gaps left out."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [re.search(r"robust-encoders ((?:train|evaluate) .*)", line) for line in lines]
    given = [shlex.split(one.group(1), comments=True) for one in found if one]
    return [call for call in given if "..." not in call and not any(re.search("[A-Z]{4}", part) for part in call)]


def command_lines() -> dict[str, list[str]]:
    """Return the different command lines of all texts that are not about an extension."""
    texts = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "studies").rglob("*.md")]
    calls = [call for path in texts for call in commands(path.read_text(encoding="utf-8"))]
    return {" ".join(call): named(call) for call in calls}


def named(call: list[str]) -> list[str]:
    """Return a command that trains by a name in place of a file of settings, which is not there."""
    if "--config" not in call:
        return call
    i = call.index("--config")
    return [call[0], "shapes/circle-esd", *call[1:i], *call[i + 2 :]]


@pytest.mark.parametrize("call", command_lines().values(), ids=command_lines().keys())
def test_the_texts_give_only_options_that_exist(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(call, capsys) == ["--no-such-option"]


def test_finished_parts_are_not_run_again(tmp_path: Path) -> None:
    once = ("red", "esd", "0", "OUT")
    assert [call[0] for call in calls_of("results/row.sh", (once, once), tmp_path)] == ["train", "evaluate", "evaluate"]


def test_every_row_of_the_ablations_has_settings_that_exist(script: Callable[[str], ModuleType]) -> None:
    ablations = script("ablations/ablations.py")
    for study in ablations.STUDIES.values():
        methods = {row: change(study.method()) for row, change in study.rows.items()}
        alike = {row for row, method in methods.items() if method == study.method()}
        assert alike <= {"the paper's terms", "UNet", "base", "both"}, "the other rows change something"


def test_recorded_rows_are_read_again(script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    ablations, records = script("ablations/ablations.py"), ROOT / "studies" / "ablations"
    for name, study in ablations.STUDIES.items():
        lines = ablations.table(study, records / name).splitlines()
        assert all(any(row in line for line in lines) for row in study.rows)
    several, folder = script("several/several.py"), ROOT / "studies" / "several"
    several.main(folder, folder / "results", train=False)
    script("several/hardened.py").main(folder, folder / "hardened", train=False)
    told = (folder / "README.md").read_text(encoding="utf-8")
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line in told][:3] == printed[:3]
    assert len(printed) > 30


@pytest.mark.parametrize("study", ["fresh_trajectories", "matrix", "overlays", "results"])
def test_recorded_evaluations_are_read_again(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    records = sorted((ROOT / "studies" / study).rglob("results.json"))
    assert main(["results", *map(str, records)]) == 0
    assert len(capsys.readouterr().out.splitlines()) > len(records)


def test_what_the_makefile_runs_from_the_studies_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"studies/[\w/]+\.(?:sh|py)", makefile))
    assert named == {"studies/results/row.sh", "studies/matrix/row.sh"}
    assert [name for name in named if not (ROOT / name).exists()] == []
