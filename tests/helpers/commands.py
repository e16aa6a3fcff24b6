"""Commands under test: artifacts for them, and what they say where they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from robust_encoders.artifact.base import Base
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.cli.main import main
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.concepts import Concept
from robust_encoders.encoder import RobustEncoder

RESULT: dict[str, Any] = {
    "metric": "pre_asr",
    "value": 0.125,
    "n": 8,
    "interval": [0.02, 0.47],
    "prompt_set": "a-set",
    "origin": "measured",
}


def save_artifact(pipe: Any, folder: Path) -> Path:
    """Write an encoder that changes nothing and fits a pipeline, with two results in its manifest."""
    manifest = Manifest(
        concept=Concept(name="circle", kind="object", synonyms=("disc",)),
        method={"name": "a-method"},
        base=Base.from_pipeline(pipe, family="a-family"),
        results=(
            RESULT,
            {**RESULT, "metric": "asr_any", "settings": {"attack": {"name": "p4d", "label": "an-attack"}}},
        ),
        license="a-licence",
    )
    text_encoder = pipe.text_encoder
    RobustEncoder(manifest, nested_state(text_encoder), text_encoder.config.to_dict()).save_pretrained(folder)
    return folder


def refused(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """Run a command that fails, and return what it says: one message, no traceback, nothing on stdout."""
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    message = err.partition("robust-encoders: ")[2]
    assert message
    assert "Traceback" not in err
    return message


# Runs commands one after another, as one shell would, without importing everything each time.
_TOGETHER = """
import contextlib, io, json, sys
before, commands = json.load(sys.stdin)
exec(before)
from robust_encoders.cli.main import main
answers = sys.stdout
for arguments in commands:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code
    answers.write(json.dumps([code or 0, said.getvalue()]) + "\\n")
    sys.stderr.write("\\0")
"""


class Ended(NamedTuple):
    """A command that ended: its exit code, and what it wrote to stdout and stderr."""

    code: int
    out: str
    err: str


def ran_together(commands: Sequence[Sequence[str]], environment: Mapping[str, str], before: str = "") -> list[Ended]:
    """Run commands in one process of their own; ``before`` is code that runs at its beginning."""
    done = subprocess.run(
        [sys.executable, "-c", _TOGETHER],
        input=json.dumps([before, commands]), env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    *told, rest = done.stderr.split("\0")
    assert len(answers) == len(told) == len(commands), done.stderr
    assert rest == "", "nothing comes after the last command"
    return [Ended(code, out, err) for (code, out), err in zip(answers, told, strict=True)]
