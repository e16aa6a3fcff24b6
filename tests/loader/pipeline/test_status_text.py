"""print(status) is read by a stranger at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robust_encoders import RobustEncoder
from robust_encoders.pipeline.status import Status


def test_an_untouched_pipeline_says_so(tiny_pipe: Any) -> None:
    assert str(RobustEncoder.status(tiny_pipe)) == (
        "No robust encoder and no overlays in this pipeline: nothing is erased."
    )


def test_an_attached_encoder_is_told_line_by_line(tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    encoder = RobustEncoder.from_pretrained(tmp_path / "artifact")
    encoder.attach(tiny_pipe)
    found = RobustEncoder.status(tiny_pipe)
    lines = str(found).splitlines()
    assert lines[0] == (
        "robust encoder: erases circle (object), in pipe.text_encoder, method test, base tiny, licence apache-2.0"
    )
    assert f"loaded from:    {found.source}" in lines
    assert "weights:        unchanged since they were attached" in lines
    assert "ways past it:" in lines
    assert sum(line.startswith("  - ") for line in lines) == len(found.bypasses)
    next(iter(tiny_pipe.text_encoder.parameters())).data += 1
    assert "weights:        changed since they were attached" in str(RobustEncoder.status(tiny_pipe)).splitlines()


def test_scopes_and_notes_are_told() -> None:
    text = str(Status(False, overlays=("spm circle",), scopes=2, notes=("a note",)))
    assert text.splitlines() == [
        "robust encoder: none", "overlays:       spm circle", "open scopes:    2", "notes:", "  - a note",
    ]  # fmt: skip
