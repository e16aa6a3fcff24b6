"""What an attached encoder and the package itself cost in processor time.

Studies: ``pytest -m slow -s tests/loader/test_costs.py``.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import robust_encoders
from robust_encoders import RobustEncoder

ROUNDS = 15
LIBRARIES = "torch, transformers"


def seconds(action: Callable[[], object]) -> float:
    """Of this process alone, whatever else the machine does."""
    start = time.process_time()
    action()
    return time.process_time() - start


@pytest.mark.slow
@pytest.mark.base
def test_an_attached_pipeline_is_as_fast_as_a_plain_one(capsys: pytest.CaptureFixture[str]) -> None:
    """By turns, so that whatever else the machine does falls on both."""
    pipe: Any = robust_encoders.embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    encoder = RobustEncoder.from_pretrained("shapes/circle")

    def draw() -> object:
        return pipe("a red circle", num_inference_steps=10, generator=torch.Generator().manual_seed(0))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    draw()
    plain, attached = [], []
    for _ in range(ROUNDS):
        plain.append(seconds(draw))
        with encoder.attached(pipe):
            attached.append(seconds(draw))
    torch.set_num_threads(threads)
    ratio = statistics.median(a / p for a, p in zip(attached, plain, strict=True))
    with capsys.disabled():
        sys.stdout.write(f"\nten steps: plain {statistics.median(plain):.3f} s, attached / plain {ratio:.3f}\n")
    assert 0.95 < ratio < 1.05


@pytest.mark.slow
def test_importing_the_package_adds_little_to_its_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    """In processes of their own, by turns."""

    def imported(names: str) -> float:
        program = f"import time; t = time.process_time(); import {names}; print(time.process_time() - t)"
        return float(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout)

    imported(f"{LIBRARIES}, robust_encoders")
    alone, together, ours = [], [], []
    for _ in range(ROUNDS // 2):
        alone.append(imported(LIBRARIES))
        together.append(imported(f"{LIBRARIES}, robust_encoders"))
        ours.append(imported("robust_encoders"))
    added = statistics.median(b - a for a, b in zip(alone, together, strict=True))
    with capsys.disabled():
        sys.stdout.write(
            f"\nimport {LIBRARIES}: {statistics.median(alone):.2f} s; and robust_encoders: {added:+.3f} s; "
            f"robust_encoders alone: {statistics.median(ours):.2f} s\n"
        )
    assert added < 0.2
