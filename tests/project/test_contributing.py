"""CONTRIBUTING, executed: its method, attack, metric and benchmark run through the command line.

By one file and one line each in a copy of the tree, and from a package of their own by entry points.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tree import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (training/\S+\.py)\n(.*?)```", TEXT, re.DOTALL))
# What the text says about the one line: the file, and what goes into the mapping.
LINES = {
    "training/methods/__init__.py": ("swap", "Swap"),
    "training/attacks/__init__.py": ("shout", "Shout"),
    "training/metrics/__init__.py": ("brightness", "Brightness"),
    "training/evaluation/benchmarks/__init__.py": ("greetings", "Greetings"),
}
TRAIN: str = re.findall(r"^\$ (robust-encoders train .*)$", TEXT, re.MULTILINE)[0]
EVALUATE: list[str] = re.findall(r"^\$ (robust-encoders evaluate .*)$", TEXT, re.MULTILINE)
SMALL = "--n-kept 2 --n-renders 2 --n-probes 2 --checks 0 --steps 2"


# Runs the commands of the text one after another, as one shell would, without importing everything each time.
SHELL = """
import contextlib, io, json, sys
from robust_encoders.cli.main import main
for arguments in json.load(sys.stdin):
    said, besides = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(besides):
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code
    print(json.dumps([code or 0, said.getvalue() + besides.getvalue()]), flush=True)
"""


def run(lines: Sequence[str], tree: Path, work: Path) -> list[str]:
    """Run commands of the text in ``work`` with the packages of ``tree``, and return what each says.

    A line that begins with ``!`` must fail.
    """
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    given = json.dumps([shlex.split(line.removeprefix("!"))[1:] for line in lines])
    done = subprocess.run(
        [sys.executable, "-c", SHELL],
        input=given, cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(said) for said in done.stdout.splitlines()]
    assert len(found) == len(lines)
    for line, (code, said) in zip(lines, found, strict=True):
        assert (code != 0) is line.startswith("!"), f"{line}\n{said}"
    return [said for _, said in found]


def rates(folder: Path) -> Mapping[str, float]:
    """Return metric, or label of an attack, to value."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]
    return {one["settings"].get("attack", {}).get("label", one["metric"]): one["value"] for one in results}


def follow_the_page(tree: Path, work: Path) -> None:
    """Run the commands of the text, and look at what they make."""
    shouted, greeted = EVALUATE
    help_of_training, *_ = run(["robust-encoders train swap --help", TRAIN], tree, work)
    # A process of its own: nothing that training left in memory may help.
    again, _, _, refused = run(
        [
            "robust-encoders reproduce runs/swap",
            f"{shouted} {SMALL}",
            f"{greeted} --checks 0 --steps 2",
            "!robust-encoders evaluate shapes/circle --attacks shot --out runs/none",
        ],
        tree,
        work,
    )
    assert "--share FLOAT" in help_of_training
    manifest = json.loads((work / "runs" / "swap" / "robust_encoder.json").read_text(encoding="utf-8"))
    assert manifest["method"] == {"name": "swap", "share": 0.5}
    assert again.startswith("equal, bit for bit")
    found = rates(work / "runs" / "shouted")
    assert {"none", "shout", "brightness"} <= set(found)
    assert 0 < found["brightness"] < 1
    assert {"none", "brightness"} <= set(rates(work / "runs" / "greeted"))
    assert "did you mean 'shout'" in refused


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as it is installed, to be written into."""
    folder = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "robust_encoders", folder / "robust_encoders", ignore=ignored)
    shutil.copytree(ROOT / "training", folder / "robust_encoders" / "training", ignore=ignored)
    return folder


def test_the_page_names_a_file_and_a_line_for_each() -> None:
    assert len(FILES) == len(LINES) == 4
    for path, (name, kind) in LINES.items():
        assert path in TEXT
        assert f'`"{name}": {kind}`' in TEXT


def test_one_file_and_one_line_each_are_enough(copied: Path, tmp_path: Path) -> None:
    for path, text in FILES.items():
        target = copied / "robust_encoders" / path
        assert not target.exists()
        target.write_text(text, encoding="utf-8")
    for path, (name, kind) in LINES.items():
        face = copied / "robust_encoders" / path
        text = face.read_text(encoding="utf-8")
        entered, count = re.subn(r"(_OURS: .*?= \{\n)", rf'\1    "{name}": {kind},\n', text, count=1)
        assert count == 1, path
        module = next(Path(file).stem for file in FILES if Path(file).parent == Path(path).parent)
        face.write_text(entered.replace("\nfrom .", f"\nfrom .{module} import {kind}\nfrom .", 1), encoding="utf-8")
    follow_the_page(copied, tmp_path)


@pytest.mark.docs  # with the commands of the test above; test_plugins.py tests entry points
def test_a_package_of_its_own_is_enough(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "my_package").mkdir(parents=True)
    (site / "my_package" / "__init__.py").touch()
    for path, text in FILES.items():
        (site / "my_package" / Path(path).name).write_text(text, encoding="utf-8")
    points = re.findall(r"```toml\n(\[project\.entry-points.*?)```", TEXT, re.DOTALL)[0]
    lines = re.sub(r'\[project\.entry-points\."(.*?)"\]', r"[\1]", points).replace('"', "")
    info = site / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(lines, encoding="utf-8")
    follow_the_page(site, tmp_path)
