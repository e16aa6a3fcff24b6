"""How long AdvUnlearn takes on the embedded base by the authors' schedule, with fresh trajectories, and from a bank.

Study: ``pytest -m slow -s tests/training/methods/test_training_speed.py``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from authors_schedule import AuthorsSchedule
from recorded import record, table

import robust_encoders
from robust_encoders import Concept
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone, has_bf16
from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.objectives.config import RetainConfig
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace
from robust_encoders.training.worlds.shapes.retain import retain_prompts

ITERATIONS = 20
WARMUP, ATTACKED = 200, 800
CONCEPT = Concept(name="circle", kind="object")
RETAINED = retain_prompts("circle")[:282]
Row = dict[str, Any]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def authors(backbone: Backbone, retained: tuple[str, ...] = RETAINED, **settings: Any) -> AuthorsSchedule:
    return AuthorsSchedule(backbone, backbone.clone(), CONCEPT.name, retained, **settings)


def timed(iteration: Callable[[], object], n: int) -> float:
    """Seconds per iteration, the first one apart."""
    iteration()
    started = time.perf_counter()
    for _ in range(n):
        iteration()
    return (time.perf_counter() - started) / n


def whole(row: Row) -> Row:
    """Add what a run of 1,000 iterations takes."""
    seconds = row["bank s"] + WARMUP * row["s/warm-up"] + ATTACKED * row["s/attacked"]
    work = row["bank F"] + WARMUP * row["F/warm-up"] + ATTACKED * row["F/attacked"]
    return {**row, "1,000 s": seconds, "1,000 F": work}


def measure_authors(pipe: Any) -> Row:
    schedule = authors(Backbone.from_pipeline(pipe))
    row: Row = {"schedule": "the authors' schedule", "bank s": 0.0, "bank F": 0}
    for name, attacked in (("warm-up", False), ("attacked", True)):
        g, before = generator(), schedule.teacher.unet_calls
        row[f"s/{name}"] = timed(lambda: schedule.iteration(g, attacked=attacked), ITERATIONS)  # noqa: B023
        row[f"F/{name}"] = (schedule.teacher.unet_calls - before) / (ITERATIONS + 1)
    pipe.unet.requires_grad_(False)
    for parameter in pipe.unet.parameters():
        parameter.grad = None
    return whole(row)


def measure_ours(pipe: Any, name: str, method: AdvUnlearn, cache: Path) -> Row:
    row: Row = {"schedule": name}
    for kind, warmup in (("attacked", 0), ("warm-up", ITERATIONS)):
        chosen = replace(
            method,
            train=replace(method.train, iterations=ITERATIONS),
            adversary=replace(method.adversary, warmup=warmup),
        )
        workspace = Workspace(cache_dir=cache, progress=False)
        log = chosen.erase(Backbone.from_pipeline(pipe), CONCEPT, generator=generator(), workspace=workspace).log
        row[f"s/{kind}"], row[f"F/{kind}"] = log["seconds"] / ITERATIONS, log["unet_calls"] / ITERATIONS
        if kind == "attacked":  # the second finds the bank there; with it counts all that comes before training
            row["bank s"], row["bank F"] = log["seconds_total"] - log["seconds"], log["bank_unet_calls"]
    return whole(row)


@pytest.mark.slow
@pytest.mark.base
def test_the_bank_against_fresh_trajectories_and_the_authors_schedule(tmp_path: Path) -> None:
    pipe: Any = robust_encoders.embedded_pipeline()
    published = RECIPES["sd1/nudity"]().method
    assert isinstance(published, AdvUnlearn)
    bank = replace(
        published,
        retain=replace(published.retain, prompts=RETAINED),
        train=replace(published.train, precision="fp32"),
        bank=replace(published.bank, batch=64),
    )
    rows = [
        measure_authors(pipe),
        measure_ours(pipe, "fresh trajectories", replace(bank, bank=replace(bank.bank, mode="fresh")), tmp_path),
        measure_ours(pipe, "bank", bank, tmp_path),
    ]
    if has_bf16():
        half = replace(bank.train, precision="bf16")
        built_in_half = replace(bank, bank=replace(bank.bank, precision="bf16"))
        rows += [
            measure_ours(pipe, "bank, bf16", replace(bank, train=half), tmp_path / "half"),
            measure_ours(pipe, "bank in bf16, training in fp32", built_in_half, tmp_path / "built in half"),
        ]
    rows = [{**row, "times faster": rows[0]["1,000 s"] / row["1,000 s"]} for row in rows]
    where = record("training_speed", {"iterations": ITERATIONS, "rows": rows})
    sys.stdout.write(f"\n{table(rows)}\n{where}\n")
    assert rows[2]["times faster"] >= 15
    assert rows[2]["F/attacked"] <= 75


def test_the_re_created_schedule_does_the_work_that_was_counted(tiny_pipe: Any) -> None:
    """Per iteration, in UNet forwards on one latent: 2 a step of a run, 2 frozen predictions, and 3 with gradients."""
    backbone = Backbone.from_pipeline(tiny_pipe)
    schedule = authors(backbone, ("a star", "a ring", "a box", "a cross", "a block"), steps=5, attack_steps=2)
    for attacked, points in ((False, 1), (True, 3)):
        g, before = generator(), backbone.unet_calls
        schedule.iteration(g, attacked=attacked)
        g = generator()
        if attacked:
            torch.randint(1, (1, 1), generator=g)
        runs = []
        for _ in range(points):
            k, _ = schedule._level(g)
            runs.append(5 - max(k, 1))
            torch.randn((1, *backbone.latent_shape), generator=g)
        concept, retain = 2 * sum(runs) + points * (2 + 3), 5 * (2 * runs[-1] + 1 + 3)
        assert backbone.unet_calls - before == concept + retain


def test_the_re_created_schedule_trains_the_student_and_wastes_gradients_on_the_unet(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    schedule = authors(backbone, ("a star", "a ring", "a box", "a cross", "a block"), steps=3, attack_steps=1)
    before = [parameter.clone() for parameter in schedule.parameters]
    loss = schedule.iteration(generator(), attacked=True)
    assert loss > 0
    assert all(not torch.equal(a, b) for a, b in zip(before, schedule.parameters, strict=True))
    assert all(parameter.grad is not None for parameter in tiny_pipe.unet.parameters())


def test_the_rows_of_the_study_add_up(tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ITERATIONS", 2)
    method = AdvUnlearn(
        retain=RetainConfig(prompts=("a star", "a ring"), batch=2),
        train=TrainingConfig(),
        bank=BankConfig(steps=2, seeds=(2, 1)),
        attack=SoftPrompt(steps=2),
    )
    row = measure_ours(tiny_pipe, "bank", method, tmp_path)
    assert (row["F/attacked"], row["F/warm-up"], row["bank F"]) == (2 * 2 + 2 * 3, 2 * 3, (2 + 2) * 2 * 2)
    assert row["1,000 F"] == 16 + 200 * 6 + 800 * 10
    assert row["1,000 s"] >= row["bank s"] >= 0  # on a tiny model less than the clock shows
