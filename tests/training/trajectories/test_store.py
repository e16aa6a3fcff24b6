"""A bank on disk: shared by processes, read without being loaded, and refused where it is not what it should be."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from changing_files import cut_off, deleted, emptied, overwritten
from safetensors.torch import load_file

from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.trajectories.bank import TrajectoryBank, bank_key
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.trajectories.rollout import Trajectory, halved
from robust_encoders.training.trajectories.store import KEY_NAME, BankError, BankStore, differences, in_memory

PROMPTS = ["a red circle", "nudity", "a star"]
SETTINGS = BankConfig(steps=4, guidance=2.0, seeds=2, batch=2)
HOLD = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])  # kept: a lock that nobody holds is released
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def backbone(tiny_pipe: Any) -> Backbone:
    return Backbone.from_pipeline(tiny_pipe)


def build(backbone: Backbone, cache: Path, settings: BankConfig = SETTINGS) -> TrajectoryBank:
    return TrajectoryBank.build(backbone, PROMPTS, settings, cache_dir=cache, progress=False)


def opened(backbone: Backbone, cache: Path) -> BankStore:
    return BankStore.open(cache, bank_key(backbone, SETTINGS))


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold a lock in another process, which dies by ``kill``."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_builders_at_the_same_time_share_the_work(make_pipe: Callable[..., Any], tmp_path: Path) -> None:
    workers = [Backbone.from_pipeline(make_pipe()) for _ in range(3)]
    banks: dict[int, TrajectoryBank] = {}

    def run(i: int) -> None:
        banks[i] = build(workers[i], tmp_path)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(worker.unet_calls for worker in workers) == 3 * 2 * 4 * 2
    assert len(banks) == 3
    for bank in banks.values():
        for ours, first in zip(bank.shards, banks[0].shards, strict=True):
            assert all(torch.equal(a["latents"], b["latents"]) for a, b in zip(ours, first, strict=True))


def test_what_a_killed_builder_held_is_taken_over(backbone: Backbone, tmp_path: Path) -> None:
    store = opened(backbone, tmp_path)
    names = [Trajectory(prompt, None, seed).name for prompt in PROMPTS for seed in range(2)]
    with held_elsewhere(store.folder / f"{names[0]}.lock") as holder:
        thread = threading.Thread(target=build, args=(backbone, tmp_path))
        thread.start()
        while not all(store.has(name) for name in names[1:]):
            thread.join(0.05)
        assert thread.is_alive()
        assert not store.has(names[0])
        holder.kill()
        thread.join(30)
    assert all(store.has(name) for name in names)
    assert not list(store.folder.glob("*.lock"))


def test_only_what_is_neither_there_nor_held_is_claimed(backbone: Backbone, tmp_path: Path) -> None:
    store = opened(backbone, tmp_path)
    with store.claimed(["a", "b", "c"], 2) as first, store.claimed(["a", "b", "c"], 2) as second:
        assert (first, second) == (["a", "b"], ["c"])
        store.write("a", {"latents": torch.zeros(1)})
    with store.claimed(["a", "b", "c"], 3) as rest:
        assert rest == ["b", "c"]


def full_size(folder: Path, count: int) -> BankStore:
    store = BankStore(folder, 50, (4, 64, 64))
    shard = {name: torch.ones(50, 4, 64, 64).half() for name in ("latents", "pred_null", "pred_cond")}
    for i in range(count):
        store.write(str(i), {**shard, "t": torch.arange(50)})
    return store


def test_open_trajectories_take_no_memory(tmp_path: Path) -> None:
    store, size = full_size(tmp_path, 8), 3 * 50 * 4 * 64 * 64 * 2

    def private() -> int:
        (line,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(line) * 1024

    before = private()
    shards = [store.read(str(i)) for i in range(8)]
    assert private() - before < size  # of one of eight
    assert all(float(s["pred_cond"][49, 3, 63, 63]) == 1 for s in shards)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("damage", [overwritten, cut_off, emptied, deleted])
def test_a_trajectory_that_changes_while_it_is_in_use_is_refused(
    backbone: Backbone, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    bank = build(backbone, tmp_path)
    time.sleep(0.05)
    for path in tmp_path.rglob("*.safetensors"):
        damage(path)
        if path.exists():
            os.utime(path)
    with pytest.raises(BankError, match=r"unchanged while the bank is in use, found .*; delete it and run"):
        bank.sample(4, torch.Generator().manual_seed(0))
    with pytest.raises(BankError, match="unchanged while the bank is in use"):
        bank.mean_difference()


def test_a_trajectory_that_another_process_wrote_once_more_is_used(backbone: Backbone, tmp_path: Path) -> None:
    bank = build(backbone, tmp_path)
    expected = bank.sample(4, torch.Generator().manual_seed(0))
    for path in tmp_path.rglob("*.safetensors"):
        aside = path.with_name("aside")
        shutil.copyfile(path, aside)
        aside.replace(path)
    assert torch.equal(bank.sample(4, torch.Generator().manual_seed(0)).latents, expected.latents)


@pytest.mark.slow
def test_reading_a_trajectory_of_full_size_costs_milliseconds(tmp_path: Path) -> None:
    """Study: ``pytest -m slow -s tests/training/trajectories/test_store.py``."""
    names, rounds = [str(i) for i in range(16)], 8
    store = full_size(tmp_path, len(names))
    owned = [store.read(name) for name in names]
    mapped = [load_file(tmp_path / f"{name}.safetensors") for name in names]

    def seconds(rows: list[Any]) -> float:
        start = time.process_time()
        for turn in range(rounds):
            for row in rows:
                read = in_memory(row)
                torch.stack([read[name][turn] for name in ("latents", "pred_null", "pred_cond")])
        return (time.process_time() - start) / (rounds * len(rows))

    seconds(mapped)
    found = {"mapped": seconds(mapped), "read": seconds(owned)}
    sys.stderr.write(f"\none point of a trajectory of 4.9 MB, processor time: {found}\n")
    assert found["read"] < 0.05


def test_a_bank_of_another_key_in_its_place_is_refused_with_what_differs(backbone: Backbone, tmp_path: Path) -> None:
    note = opened(backbone, tmp_path).folder / KEY_NAME
    key = json.loads(note.read_text())
    note.write_text(json.dumps({**key, "guidance": 7.5, "scheduler": {**key["scheduler"], "steps_offset": 0}}))
    with pytest.raises(BankError, match=r"guidance 7.5 instead of 2.0; scheduler.steps_offset 0 instead of 1; delete"):
        build(backbone, tmp_path)
    note.write_text("{")
    with pytest.raises(BankError, match="found no JSON"):
        build(backbone, tmp_path)


def test_a_new_bank_says_how_it_differs_from_the_closest(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(backbone, tmp_path)
    build(backbone, tmp_path, replace(SETTINGS, steps=2, guidance=5.0))
    with caplog.at_level(logging.INFO):
        build(backbone, tmp_path, replace(SETTINGS, steps=2))
    assert "new bank beside 2 others" in caplog.text
    assert re.search(r"the most similar one has (guidance 5.0 instead of 2.0|steps 4 instead of 2)\n", caplog.text)


def test_differences_of_equal_keys_are_none(backbone: Backbone) -> None:
    key = bank_key(backbone, SETTINGS)
    assert differences(key, json.loads(json.dumps(key))) == []
    assert differences({"a": 1}, {"b": 2}) == ["a None instead of 1", "b 2 instead of None"]


def test_damaged_trajectories_are_refused_by_path(backbone: Backbone, tmp_path: Path) -> None:
    build(backbone, tmp_path)
    store = opened(backbone, tmp_path)
    path = next(store.folder.glob("*.safetensors"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(BankError, match=f"{path.name}, cannot read it.*delete it"):
        build(backbone, tmp_path)
    store.write(path.stem, {name: torch.zeros(3, 4, 8, 8) for name in ("latents", "pred_null", "pred_cond")})
    with pytest.raises(BankError, match=r"shape \(4, 4, 8, 8\).*found .*\(3, 4, 8, 8\)"):
        build(backbone, tmp_path)
    path.unlink()
    build(backbone, tmp_path)
    assert path.stat().st_size == len(whole)


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_values_that_half_precision_does_not_hold_are_refused(value: float) -> None:
    assert halved(torch.tensor([1.0, -3.5])).tolist() == [1.0, -3.5]
    with pytest.raises(BankError, match="half precision"):
        halved(torch.tensor([1.0, value]))
