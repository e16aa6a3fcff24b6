"""Every trained method at the size of Stable Diffusion 1.4 on a CPU, with random weights: in what memory?

Study: ``pytest -m slow -s tests/training/methods/test_methods_full_size.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import full_size
import full_size_methods
import pytest
from full_size_methods import ITERATIONS, ROWS
from recorded import record, table

MACHINE = 24 * full_size.GIB


def worked(found: dict[str, Any]) -> None:
    """Check what every run must have made."""
    assert found["finite"]
    assert found["numbers"] > 0
    on_text = "text encoder" in found["row"] or "embedding" in found["row"]
    assert found["component"] == ("text_encoder" if on_text else "unet")


@pytest.mark.parametrize("row", ROWS)
def test_every_method_runs_on_parts_of_the_same_kind(row: str, tmp_path: Path) -> None:
    worked(full_size_methods.run(row, "small", tmp_path))


def test_a_run_is_recorded_by_a_process_of_its_own(tmp_path: Path) -> None:
    found = in_a_process("ESD, x", "small", tmp_path)
    worked(found)
    assert 0 < found["loaded"] <= found["peak"]


def in_a_process(row: str, size: str, folder: Path) -> dict[str, Any]:
    subprocess.run([sys.executable, full_size_methods.__file__, row, size, str(folder)], check=True)
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_two_iterations_complete_at_full_size(row: str, tmp_path: Path) -> None:
    found = in_a_process(row, "sd1", tmp_path)
    figures = {
        "method": row,
        "trained numbers, million": found["numbers"] / 1e6,
        "loaded GiB": found["loaded"] / full_size.GIB,
        "peak GiB": found["peak"] / full_size.GIB,
        "s/iteration": found["seconds"] / ITERATIONS,
    }
    where = record(f"full_size_{row.lower().replace(', ', '_').replace(' ', '_')}", {"result": found})
    sys.stdout.write(f"\n{table([figures])}\n{where}\n")
    worked(found)
    assert found["peak"] < MACHINE
