"""Every block of code and every command of README and docs is run: make test-docs.

The blocks of a page run in order, in one empty folder, Python in one namespace. What takes long gets smaller budgets.
What needs weights or files that the package does not ship has its options checked by ``test_studies.py`` instead.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from single_files import save_checkpoint, tensors_of
from tree import ROOT

from robust_encoders import AssetsMissingError, RobustEncoder, embedded_pipeline
from robust_encoders.cli.main import main
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.hub.embedded import EMBEDDED_BASES, is_installed
from robust_encoders.training.cli.app import app_parser

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Weights of Stable Diffusion, files of the reader's, and placeholders in capitals.
ELSEWHERE = re.compile(
    r"CompVis/|eval-unlearn run|runs/(nudity|church)/|\b[A-Z][A-Z_/]{3,}\b|torchrun|accelerate launch"
)
SMALL_EVALUATION = "--suite quick --n 2 --n-kept 4 --n-probes 2 --n-renders 4 --checks 0 --steps 3"
ATTACKED = "--train.iterations 2 --adversary.warmup 1 --bank.limit 4"
# Budgets in place of those of a page, by the start of its command.
SMALLER = {
    r"certify (shapes/circle|runs/)": ("--pairs-among 2 --nearest 2 --random 2 --each 1 --seeds 1 --floor 1 --steps 2"),
    r"train shapes/\S+-(advunlearn|hardened)\b(?!.*--train)": ATTACKED,
    r"train shapes/\S+-pooled(-fast)?\b(?!.*--train)": ATTACKED,
    r"train shapes/\S+-esd\b(?!.*--train)": "--train.iterations 2 --bank.limit 4",
    r"train shapes/\S+-ablation(-te)?\b(?!.*--train)": "--train.iterations 2 --pictures 4 --bank.limit 4",
    r"train shapes/\S+-doco(-te)?\b(?!.*--train)": "--train.iterations 2 --warmup 1 --pictures 2 --bank.steps 2",
    r"train shapes/\S+-(des|sage|hirm|hirm-s)\b(?!.*--train)": "--train.iterations 2",
    r"train shapes/\S+-s-grace\b(?!.*--train)": "--train.iterations 2 --attack.steps 1",
    r"train shapes/\S+-race(-te)?\b(?!.*--train)": (
        "--train.iterations 1 --start.train.iterations 1 --start.bank.limit 4"
    ),
    r"train shapes/\S+-receler\b(?!.*--train)": "--train.iterations 2 --bank.limit 4",
    r"train shapes/\S+-spm(-te)?\b(?!.*--train)": "--train.iterations 3 --train.warmup 1 --bank.limit 4",
    r"train advunlearn --concept star --quick": ATTACKED,
    r"evaluate .*--captions open --attacks paraphrase": f"{SMALL_EVALUATION} --n 4 --steps 15 --metrics clip_score",
    r"evaluate .*--captions open": f"{SMALL_EVALUATION} --attacks none",
    r"evaluate base shapes/circle word_filter": f"{SMALL_EVALUATION} --attacks none",
    r"compare .*--quick": (
        "--attacks none --metrics retain_all --n 4 --n-kept 4 --n-probes 2 --n-renders 4 --checks 0 --steps 3"
    ),
    r"evaluate runs/circle-pooled --attacks": SMALL_EVALUATION,
    r"evaluate runs/star --quick": "--n 2 --n-kept 4 --n-probes 2 --n-renders 4 --steps 3",
    r"evaluate .*--out runs/first": "--attacks random --n 2 --steps 3",
    r"evaluate shapes/circle --attacks": "--n 2 --n-kept 4 --n-probes 2 --n-renders 4 --checks 0 --steps 3",
}
# Files that a page takes for the reader's own, made before its first block.
OWN_FILES: Mapping[str, Callable[[Path], object]] = {
    "docs/without-python.md": lambda folder: save_checkpoint_of_the_embedded_base(folder / "my-checkpoint.safetensors"),
}
# What cannot be had without the Hub is shown by what can.
SHIPPED = {'from_pretrained("nudity")': 'from_pretrained("shapes/circle")'}


def save_checkpoint_of_the_embedded_base(path: Path) -> Path:
    pipe = embedded_pipeline()
    return save_checkpoint(tensors_of(pipe, nested_state(pipe.text_encoder)), path)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[tuple[str, str]]:
    """Return the language and the text of every block of a page, in order."""
    return BLOCK.findall(path.read_text(encoding="utf-8"))


def commands(block: str) -> list[str]:
    """Return the command lines of a console block."""
    lines = block.replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+", " ", line[2:]) for line in lines if line.startswith("$ ")]


def budget(command: str) -> list[str]:
    """Return the options that make a command of a page short."""
    return next((shlex.split(options) for start, options in SMALLER.items() if re.search(start, command)), [])


def run(command: str) -> None:
    """Run a command of the package in this process; look others up where they are defined."""
    name, *arguments = shlex.split(command, comments=True)
    if missing := {*arguments[1:]} & set(missing_bases()):
        assert main(arguments) != 0, f"expected {command} to need the base {', '.join(missing)}"
    elif name == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif name == "pip":
        known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        extras = re.search(r"\[(.*)\]", arguments[-1])
        assert set(extras.group(1).split(",") if extras else ()) <= set(known)
        assert arguments[:-1] == ["install"]
        assert arguments[-1].startswith(".")
    elif name == "eval-unlearn":  # its import changes logs and warnings of the whole process
        done = subprocess.run(
            [str(Path(sys.executable).with_name(name)), *arguments], capture_output=True, text=True, check=True
        )
        assert re.search(r"^  robust_encoders$", done.stdout, re.MULTILINE)
    elif arguments[0] == "app":  # it serves until it is stopped: tests/training/app/test_page_browser.py
        assert app_parser().parse_args(arguments[1:])
    else:
        assert name == "robust-encoders", command
        assert main([*arguments, *budget(command)]) == 0, command


def missing_bases() -> list[str]:
    """Return the embedded bases that a checkout may lack, because their weights are trained later."""
    return [base for base in EMBEDDED_BASES if not is_installed(base)]


def execute(code: CodeType, text: str, names: dict[str, Any]) -> None:
    """Run a block of a page; one that opens a missing embedded base must say how to get it."""
    if asked := [base for base in missing_bases() if f'embedded_pipeline("{base}")' in text]:
        with pytest.raises(AssetsMissingError, match=f"{asked[0]}.*; reinstall robust-encoders"):
            exec(code, names)
    else:
        exec(code, names)


@pytest.mark.docs
@pytest.mark.parametrize("page", [path for path in PAGES if blocks(path)], ids=relative)
def test_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if make := OWN_FILES.get(relative(page)):
        make(tmp_path)
    names: dict[str, Any] = {}
    for language, block in blocks(page):
        if language == "python":
            text = block
            for published, shipped in SHIPPED.items():
                text = text.replace(published, shipped)
            if text != block:
                names = {"RobustEncoder": RobustEncoder, "pipe": embedded_pipeline(), **names}
            execute(compile(text, relative(page), "exec"), text, names)
        elif language == "console":
            for command in commands(block):
                if not ELSEWHERE.search(command.partition(" # ")[0]):
                    run(command)
        else:
            assert language in ("json", "text"), f"expected a language that is known here, found {language}"


def test_every_block_says_its_language_and_every_page_begins_with_one_that_runs() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        fences = re.findall(r"^```(.*)$", text, re.MULTILINE)
        assert all(fences[::2]), f"expected a language behind every ``` in {relative(path)}"
        if path.name != "README.md" or path.parent.name == "docs":
            before = text.partition("```")[0]
            assert len(before.splitlines()) <= 12, f"expected a command or code near the top of {relative(path)}"
            language, block = blocks(path)[0]
            assert language == "python" or not all(ELSEWHERE.search(command) for command in commands(block))


def test_a_command_that_fails_fails_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, SystemExit)):
        run("robust-encoders verify no-such-encoder")
    with pytest.raises(AssertionError):
        run("make no-such-target")
    with pytest.raises(AssertionError):
        run("pip install '.[no-such-extra]'")
    assert commands("$ a \\\n   b  # c\n$ d\noutput\n") == ["a b # c", "d"]
    assert os.listdir(tmp_path) == []
