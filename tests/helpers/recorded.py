"""What studies leave behind: a table on the terminal, and the numbers as JSON in ``runs/studies``."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from robust_encoders.training.provenance import library_versions

STUDIES = Path(__file__).resolve().parents[2] / "runs" / "studies"


def record(name: str, found: Mapping[str, Any], folder: Path = STUDIES) -> Path:
    """Write the numbers of a study with what they depend on, and return where."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = {"processor": platform.processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**found, "machine": machine, "versions": library_versions()}, indent=1) + "\n")
    return path


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of equal keys as a table in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(row[key]) for key in rows[0]] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
