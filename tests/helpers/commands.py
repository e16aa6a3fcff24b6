"""Commands under test: artifacts for them, and what they say where they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
