"""What a verified encoder of full size costs, beside what transformers takes for the same file unchecked.

Study: ``pytest -m slow -s tests/loader/hub/test_later_loads.py``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from random_encoders import CLIP_L, SMALL, saved

from robust_encoders import Manifest
from robust_encoders.hub.pins import Pin, write_pin

HELPERS = Path(__file__).parents[2] / "helpers"
LIBRARIES = "torch, transformers"
Row = dict[str, float]
# Rows of the table, and what the process of each one does.
KINDS = {
    "first, unpinned": "ours",
    "first, pinned": "ours",
    "later": "ours",
    "transformers": "transformers",
    "copy of the bytes": "copied",
    "attach": "attach",
}
ROUNDS = 5


def environment(home: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(HELPERS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "ROBUST_ENCODERS_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def ran(command: list[str], home: Path) -> str:
    found = subprocess.run(
        [sys.executable, *command], env=environment(home), capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()[-1]


def measured(kind: str, home: Path, full: Path, small: Path) -> Row:
    """Load in a process of its own; return seconds and MiB."""
    row: Row = json.loads(ran([str(HELPERS / "load_costs.py"), KINDS[kind], str(full), str(small)], home))
    return row


def imported(names: str, home: Path) -> float:
    """Import in a process of its own; return seconds of processor time."""
    program = f"import time; t = time.process_time(); import {names}; print(time.process_time() - t)"
    return float(ran(["-c", program], home))


def table(medians: dict[str, Row]) -> str:
    head = f"\n{'':18}{'wall s':>9}{'CPU s':>9}{'peak MiB':>10}{'own MiB':>9}{'first prompt, CPU s':>21}\n"
    return head + "".join(
        f"{kind:18}{row['wall']:9.3f}{row['cpu']:9.3f}{row['peak']:10.0f}{row['own']:9.0f}{row['prompt']:21.3f}\n"
        for kind, row in medians.items()
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
def test_an_encoder_costs_what_transformers_own_does_and_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, small = saved(tmp_path / "full", CLIP_L), saved(tmp_path / "small", SMALL)
    time.sleep(2.5)  # a file that was written just now is not remembered
    rows: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    imports: list[tuple[float, float]] = []
    for turn in range(ROUNDS):
        for kind in KINDS:
            home = tmp_path / ("later" if kind in ("later", "attach") else f"{kind}{turn}")
            if kind == "first, pinned":
                monkeypatch.setenv("ROBUST_ENCODERS_HOME", str(home))
                write_pin(str(full.resolve()), Pin(files=Manifest.read(full).files))
            if kind == "later" and not home.exists():
                measured(kind, home, full, small)
            rows[kind].append(measured(kind, home, full, small))
        names = (LIBRARIES, f"{LIBRARIES}, robust_encoders")
        imports.append((imported(names[0], tmp_path), imported(names[1], tmp_path)))
    size = (full / "model.safetensors").stat().st_size / 2**20
    (full / "model.safetensors").unlink()
    columns = ("wall", "cpu", "peak", "own", "prompt")
    medians = {kind: {c: statistics.median(row[c] for row in runs) for c in columns} for kind, runs in rows.items()}
    libraries, added = statistics.median(a for a, _ in imports), statistics.median(b - a for a, b in imports)
    sys.stderr.write(table(medians))
    sys.stderr.write(f"import {LIBRARIES}: {libraries:.2f} s; robust_encoders after it: {added:+.3f} s\n")
    later, theirs, copy = medians["later"], medians["transformers"], medians["copy of the bytes"]
    assert later["cpu"] < medians["first, pinned"]["cpu"] < medians["first, unpinned"]["cpu"]
    # A load owns the bytes: it costs what transformers takes, and one copy of the file in memory, not two.
    assert later["cpu"] < 1.5 * (theirs["cpu"] + copy["cpu"])
    for kind in ("first, unpinned", "first, pinned", "later"):
        assert medians[kind]["own"] < size + 8
        assert medians[kind]["peak"] < 1.1 * size
    # Attaching copies no weights.
    assert medians["attach"]["own"] < 8
    assert medians["attach"]["cpu"] < medians["first, pinned"]["cpu"]
    assert added < 0.2
