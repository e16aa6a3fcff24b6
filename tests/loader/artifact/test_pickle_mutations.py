"""No mutated pickle takes much more memory than its size, crashes the converter, or leaves a half-written artifact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import mutated_pickles
import pytest
from processes import ONE_THREAD

from robust_encoders import IntegrityError

MIB = 2**20


def study(folder: Path, count: int) -> list[dict[str, Any]]:
    """Convert mutated pickles in another process, one for each seed from 0; return what came of each."""
    command = [sys.executable, str(Path(mutated_pickles.__file__)), str(folder), "0", str(count)]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["seed"] for one in found] == list(range(count))
    return found


def require_harmless(found: list[dict[str, Any]]) -> None:
    odd = [one for one in found if one["outcome"] not in ("refused", *mutated_pickles.DONE) or one["left"]]
    assert odd == []
    assert [one for one in found if one["grown"] > 2 * one["size"] + 200 * MIB] == []
    assert [one for one in found if one["seconds"] > 10] == []


def test_mutated_pickles_are_refused_or_converted_within_bounds(tmp_path: Path) -> None:
    found = study(tmp_path, len(mutated_pickles.MUTATIONS))
    require_harmless(found)
    assert sum(one["outcome"] == "refused" for one in found) > len(found) // 2


def test_the_measurement_sees_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robust_encoders.conversion import convert as module

    def hungry(*_: Any, **__: Any) -> None:
        bytearray(300 * MIB)
        raise IntegrityError("too much")

    monkeypatch.setattr(module, "convert", hungry)
    found = mutated_pickles.in_a_child(tmp_path / "a.pt", tmp_path / "out", "")
    assert found["outcome"] == "refused"
    assert found["grown"] > 250 * MIB


@pytest.mark.slow
def test_two_thousand_mutated_pickles(tmp_path: Path) -> None:
    started = time.perf_counter()
    found = study(tmp_path, 2000)
    outcomes = Counter(one["outcome"] for one in found)
    most, longest = max(found, key=lambda one: one["grown"]), max(found, key=lambda one: one["seconds"])
    sys.stderr.write(
        f"{dict(outcomes)} in {time.perf_counter() - started:.0f} s; most memory +{most['grown'] / MIB:.0f} MiB "
        f"({most['mutation']}, seed {most['seed']}, a file of {most['size'] / MIB:.1f} MiB); longest "
        f"{longest['seconds']:.2f} s ({longest['mutation']}, seed {longest['seed']})\n"
    )
    require_harmless(found)
    assert outcomes["refused"] > 1500
