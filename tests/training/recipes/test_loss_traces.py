"""The objectives give the losses that were recorded before they became lists of terms: ``tests/data/loss_traces.json``.

The record is of 30 iterations of shipped recipes with banks of 16 prompts, an attack that begins after five of them,
seed 0 and one thread. It holds means of pairs of iterations, to four digits.

On the processor and the version of torch that made the record every digit is the same. Elsewhere sums are ordered
otherwise, and the last bits of the first losses differ. An attack follows the sign of gradients, and Adam's first steps
do, however small these are: differences grow with the iterations. So there the losses agree to a thousandth before the
attack begins, and no later ones are compared. The record was made without instructions for bfloat16. With them the UNet
computes in bfloat16, and the losses between its predictions agree to a tenth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator
from tree import ROOT

from robust_encoders import embedded_pipeline
from robust_encoders.training import RECIPES, Recipe, run_recipe
from robust_encoders.training.diffusion.backbone import Backbone, has_bf16
from robust_encoders.training.protocols import WorkspaceMethod
from robust_encoders.training.trainer.checkpoint import TrainingLog
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.workspace import Workspace

RECORD: Mapping[str, Any] = json.loads((ROOT / "tests" / "data" / "loss_traces.json").read_text(encoding="utf-8"))
WHOLE = 30  # iterations on record
WARMUP = 5
# Iterations that are compared by default: two, and those up to the first attack of the paper's and of the longest list.
FIRST = dict.fromkeys(RECORD["recipes"], 2) | dict.fromkeys(["shapes/circle-advunlearn", "shapes/circle-strict"], 6)
APART = WARMUP // 2  # pairs before the attack begins
THROUGH_THE_UNET = ("retain", "unlearn")


@dataclass(frozen=True, kw_only=True)
class FirstIterations(TrainingConfig):
    """The first iterations of a longer training, at its rates."""

    whole: TrainingConfig

    def rate_at(self, iteration: int) -> float:
        return self.whole.rate_at(iteration)

    @classmethod
    def of(cls, whole: TrainingConfig, iterations: int) -> FirstIterations:
        return cls(iterations=iterations, rate=whole.rate, clip=whole.clip, precision=whole.precision, whole=whole)


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for trajectory banks: all recipes share the base."""
    return tmp_path_factory.mktemp("banks")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return embedded_pipeline()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recorded(name: str) -> Recipe:
    """Return the recipe as it was when its losses were recorded."""
    recipe = RECIPES[name]()
    method: Any = recipe.method
    changed: dict[str, Any] = {"train": replace(method.train, iterations=WHOLE)}
    if hasattr(method, "bank"):
        changed["bank"] = replace(method.bank, limit=16)
    if hasattr(method, "adversary"):
        changed["adversary"] = replace(method.adversary, warmup=WARMUP)
    return replace(recipe, method=replace(method, **changed), seed=0)


def here_as_there() -> bool:
    """Return whether this processor and this torch made the record."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    found = {
        "cpu": cpu,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__.split("+")[0],
    }
    return found == {key: RECORD[key] for key in found}


def assert_as_recorded(losses: Mapping[str, list[float | None]], name: str, pairs: int) -> None:
    """Compare the first pairs of iterations with the record."""
    wanted: Mapping[str, list[float | None]] = RECORD["recipes"][name]["losses"]
    assert losses.keys() <= wanted.keys()
    same, compared = here_as_there(), pairs if here_as_there() else min(pairs, APART)
    for key, series in wanted.items():
        found, before = losses.get(key, [None] * pairs)[:compared], series[:compared]
        assert len(found) == len(before), key
        near = 0.1 if key in THROUGH_THE_UNET and has_bf16() else 1e-3
        for one, other in zip(found, before, strict=True):  # None: no such row was in these iterations
            assert one == (other if same or other is None else pytest.approx(other, rel=near)), key


@pytest.mark.parametrize("name", RECORD["recipes"])
def test_the_first_losses_are_those_on_record(
    name: str, pipe: Any, banks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingLog, "curves", partialmethod(TrainingLog.curves, points=FIRST[name] // 2))
    recipe = recorded(name)
    assert isinstance(recipe.method, WorkspaceMethod)
    method: Any = recipe.method
    first = replace(method, train=FirstIterations.of(method.train, FIRST[name]))
    space = Workspace(cache_dir=banks, progress=False)
    edit = first.erase(
        Backbone.from_pipeline(pipe), recipe.concept, generator=Generator().manual_seed(0), workspace=space
    )
    assert_as_recorded(edit.log["losses"], name, FIRST[name] // 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORD["recipes"])
def test_all_losses_and_the_encoder_are_those_on_record(name: str, pipe: Any, banks: Path, tmp_path: Path) -> None:
    encoder = run_recipe(recorded(name), pipe, tmp_path / "made", cache_dir=banks, progress=False)
    run, wanted = encoder.manifest.recipe["run"], RECORD["recipes"][name]
    assert run["unet_calls"] == wanted["unet_calls"]
    assert_as_recorded(run["losses"], name, WHOLE // 2)
    if here_as_there():
        assert encoder.content_sha256 == wanted["content_sha256"]
