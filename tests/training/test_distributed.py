"""Several processes give the results of one, and each does its share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import ONE_THREAD, free_port
from sharded_worker import SAMPLING, prompts
from tree import HELPERS

from robust_encoders.training.diffusion.sampling import draw
from robust_encoders.training.distributed import Shard

WORKER = HELPERS / "sharded_worker.py"


def evaluated(launch: list[str], folder: Path, out: Path, threshold: float) -> dict[str, Any]:
    command = [*launch, str(WORKER), str(folder), str(out), repr(threshold)]
    subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD}, timeout=240)
    stored: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert stored.pop("seconds")
    return stored


def test_two_processes_give_the_results_of_one(make_pipe: Callable[..., Any], tmp_path: Path) -> None:
    pipe = make_pipe()
    pipe.save_pretrained(tmp_path / "pipe")
    cases = prompts("circle/name", 10).cases
    pictures = draw(pipe, [c.prompt for c in cases], [c.seed for c in cases], SAMPLING)
    threshold = float(pictures.mean((1, 2, 3)).sort().values[-3:-1].mean())  # two succeed by themselves
    # On CPUs, `accelerate launch` would want MPI for this.
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    alone = evaluated([sys.executable], tmp_path / "pipe", tmp_path / "one", threshold)
    shared = evaluated(two, tmp_path / "pipe", tmp_path / "two", threshold)
    assert json.dumps(alone).replace(str(tmp_path / "one"), "OUT") == json.dumps(shared).replace(
        str(tmp_path / "two"), "OUT"
    )
    assert {path.name for path in (tmp_path / "two").glob("ran-*")} == {"ran-0", "ran-1"}
    assert {path.name for path in (tmp_path / "one").glob("ran-*")} == {"ran-0"}


def test_every_part_is_taken_by_exactly_one_process() -> None:
    shards = [Shard(index, 3) for index in range(3)]
    assert all(sum(shard.takes(place) for shard in shards) == 1 for place in range(10))
    assert [shard.main for shard in shards] == [True, False, False]


def test_outside_of_a_launch_one_process_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    shard = Shard.current()
    assert (shard.index, shard.count) == (0, 1)
    assert all(map(shard.takes, range(5)))
    shard.wait()


def test_the_parts_of_all_processes_are_the_rows_in_order() -> None:
    for total in range(8):
        parts = [list(range(total))[Shard(index, 3).part(total)] for index in range(3)]
        assert [*chain(*parts)] == list(range(total))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_all_processes_have_gets_the_sum_of_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shard, "total", lambda self, tensor: 2 * tensor)
    tokens = torch.ones(1, 2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad((3 * Shard(0, 2).spread(tokens)).sum(), tokens)
    assert torch.equal(gradient, torch.full((1, 2, 3), 6.0))
