"""Several processes train the encoder that one trains with their batches together, each on points of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import ONE_THREAD, free_port
from rounding import assert_same_but_for_rounding
from tiny_training import OPTIONS, TINY, attack_of, prepared, sharded
from torch import Generator, Tensor
from training_worker import RECIPES, main
from tree import HELPERS

from robust_encoders import RobustEncoder
from robust_encoders.training.distributed import Shard
from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.objectives.terms import Objective, Points
from robust_encoders.training.recipes.run import for_processes

WORKER = HELPERS / "training_worker.py"


def trained_by_two(pipeline: Path, out: Path) -> list[dict[str, Any]]:
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    command = [sys.executable, *launch, str(WORKER), str(pipeline), str(out)]
    subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD}, timeout=240)
    return [json.loads((out / f"record-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def trained_by_one(pipeline: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.delenv("RANK", raising=False)
    for kind, name in ((Objective, "__call__"), (Points, "sample")):
        monkeypatch.setattr(kind, name, getattr(kind, name))  # so that the worker's spies go again
    main(str(pipeline), out)
    record: dict[str, Any] = json.loads((out / "record-0.json").read_text(encoding="utf-8"))
    return record


def test_two_processes_train_what_one_trains_with_twice_the_batch(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "pipe")
    alone = trained_by_one(tmp_path / "pipe", tmp_path / "one", monkeypatch)
    first, second = trained_by_two(tmp_path / "pipe", tmp_path / "two")
    for name in RECIPES:
        one, two = (RobustEncoder.from_pretrained(tmp_path / out / name) for out in ("one", "two"))
        assert_same_but_for_rounding(two.tensors, one.tensors)
        assert first[name]["hash"] == second[name]["hash"]
        assert two.manifest.method == one.manifest.method, "the batches of both processes are on record"
        runs = (one.manifest.recipe["run"], two.manifest.recipe["run"])
        for key in ("unet_calls", "bank_unet_calls"):
            assert runs[0][key] == runs[1][key]
        for loss, series in runs[0]["losses"].items():
            # Nothing, on record as None, where a term was not computed.
            found, wanted = ([math.nan if x is None else x for x in one] for one in (runs[1]["losses"][loss], series))
            assert found == pytest.approx(wanted, rel=1e-2, abs=1e-5, nan_ok=True)
        if name == "spm":
            continue  # every process draws all points
        assert first[name]["points"] != second[name]["points"]
        joined = [
            [[*a, *b] for a, b in zip(*pair, strict=True)]
            for pair in zip(first[name]["points"], second[name]["points"], strict=True)
        ]
        assert joined == alone[name]["points"], "together they drew what one draws"
    for record in (alone, first, second):
        assert record["resumed"] == record["options"]["hash"], "an interrupted run gives the same bits"


@pytest.mark.parametrize("method", [TINY, OPTIONS], ids=["paper", "options"])
def test_the_shares_of_an_iteration_add_up_to_the_whole(tiny_pipe: Any, method: Any) -> None:
    found: dict[int, tuple[list[float], dict[str, float], list[Tensor]]] = {}
    for count in (1, 2):
        total, parts, gradients = 0.0, dict[str, float](), list[Tensor]()
        for index in range(count):
            made = sharded(prepared(method, tiny_pipe), Shard(index, count))
            loss, own = made(1, Generator().manual_seed(7))
            torch.autograd.backward(loss)
            total += float(loss.detach())
            parts = {name: parts.get(name, 0) + value for name, value in own.items()}
            grads = [p.grad for p in made.student.text_encoder.parameters() if p.grad is not None]
            gradients = [a + b for a, b in zip(gradients, grads, strict=True)] if gradients else grads
        found[count] = ([total], parts, gradients)
    assert found[2][0] == pytest.approx(found[1][0], rel=1e-4)
    assert found[2][1] == pytest.approx(found[1][1], rel=1e-2, abs=1e-6)
    scale = max(float(g.abs().max()) for g in found[1][2])
    for a, b in zip(found[2][2], found[1][2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * scale)


def test_more_processes_than_rows_are_refused(tiny_pipe: Any) -> None:
    made = prepared(TINY, tiny_pipe)
    with pytest.raises(ValueError, match=r"each of 3 processes, found \{'unlearn': 2, 'retain': 3\}: choose larger"):
        sharded(made, Shard(0, 3))


def test_a_recipe_for_several_processes_has_their_batches_together() -> None:
    method = for_processes(RECIPES["options"], 3).method
    assert isinstance(method, AdvUnlearn)
    assert (method.unlearn.batch, method.unlearn.plain_batch) == (6, 6)
    assert (method.retain.batch, method.retain.conditioning_batch) == (6, 6)
    assert for_processes(RECIPES["paper"], 1) == RECIPES["paper"]


def test_an_attacks_end_is_kept_for_the_rows_of_each_process(tiny_pipe: Any) -> None:
    made = prepared(OPTIONS, tiny_pipe)
    state = {"latest.1": torch.arange(5.0).view(5, 1, 1), "unet_calls": torch.tensor(40)}
    kept = []
    for index in range(2):
        own = sharded(made, Shard(index, 2))
        own.load_state(state)
        kept.append((attack_of(own).latest["latest.1"].flatten().tolist(), made.teacher.unet_calls))
    assert kept == [([0.0, 1.0], 40), ([2.0, 3.0, 4.0], 0)]
