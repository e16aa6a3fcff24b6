"""Probes on prompt sets: the evaluation draws their pictures, keeps them, and shares the base's among encoders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plans import SAMPLING, find, make_plan, prompt_set, run

from robust_encoders.training.diffusion.sampling import SamplingConfig, draw
from robust_encoders.training.diffusion.swapping import scheduled
from robust_encoders.training.evaluation.baselines import EmptyPrompt
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.plan import PictureSource, PromptSet
from robust_encoders.training.evaluation.preflight import picture_needs
from robust_encoders.training.types import Case, Result

LOOK = PromptSet(
    "circle/look",
    tuple(
        Case(i, text, 70 + i, negative=f"a ring {i}") for i, text in enumerate(["a box", "a star", "a disc", "ring"])
    ),
    sampling=SamplingConfig(steps=3, guidance=5.0, batch=4),
    scheduler="DPMSolverMultistepScheduler",
)
PLAIN = prompt_set("circle/plain", ["a box", "a star"])


@dataclass(frozen=True)
class Brightness:
    """The mean of the pictures of every drawing."""

    def drawings(self) -> Sequence[tuple[PromptSet, bool]]:
        return [(LOOK, False), (LOOK, True), (PLAIN, True)]

    def compare(self, pictures: PictureSource) -> Sequence[Result]:
        return [
            Result(f"bright_{p.name[7:]}_{base}", float(pictures(p, base=base).double().mean()), len(p.cases))
            for p, base in self.drawings()
        ]

    def described(self) -> dict[str, Any]:
        return {"name": "brightness", "prompts": [LOOK.sha256, PLAIN.sha256]}


def plan(pipe: Any) -> Any:
    return make_plan(pipe, attacks={}, probes={"one": Brightness(), "two": Brightness()})


def test_pictures_are_those_of_scheduler_sampling_and_negative_prompts(tiny_pipe: Any, tmp_path: Path) -> None:
    found = run(tiny_pipe, plan(tiny_pipe), tmp_path / "a", EmptyPrompt())
    texts, seeds = [c.prompt for c in LOOK.cases], [c.seed for c in LOOK.cases]
    assert LOOK.sampling is not None
    with scheduled(tiny_pipe, LOOK.scheduler):
        base = draw(tiny_pipe, texts, seeds, LOOK.sampling, negative=[c.negative for c in LOOK.cases])
        with EmptyPrompt().attached(tiny_pipe):
            own = draw(tiny_pipe, texts, seeds, LOOK.sampling, negative=[c.negative for c in LOOK.cases])
    assert find(found, "bright_look_True").value == pytest.approx(float(base.double().mean()), abs=0.5 / 255)
    assert find(found, "bright_look_False").value == pytest.approx(float(own.double().mean()), abs=0.5 / 255)
    assert find(found, "bright_look_True").value != find(found, "bright_look_False").value


def test_encoders_share_the_pictures_of_the_base(
    tiny_pipe: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    first = run(tiny_pipe, plan(tiny_pipe), tmp_path / "a", source=tmp_path / "base")
    names = sorted(path.name for path in (tmp_path / "base" / "chunks").glob("base-circle-*"))
    assert [name for name in names if "look" in name] == [f"base-circle-look-{i}.safetensors" for i in (0, 1)]
    stamps = {name: (tmp_path / "base" / "chunks" / name).stat().st_mtime_ns for name in names}
    second = run(tiny_pipe, plan(tiny_pipe), tmp_path / "b", EmptyPrompt(), source=tmp_path / "base")
    kept = {name: (tmp_path / "base" / "chunks" / name).stat().st_mtime_ns for name in names}
    assert kept == stamps
    assert [r.value for r in first.results if r.metric == "bright_look_True"] == [
        r.value for r in second.results if r.metric == "bright_look_True"
    ]
    own = sorted(path.name for path in (tmp_path / "b" / "cells" / "chunks").glob("*look*"))
    assert own == [f"drawn-circle-look-{i}.safetensors" for i in (0, 1)]
    assert not caplog.records  # no part was made twice


def test_the_hash_covers_what_differs_from_the_usual() -> None:
    usual = replace(LOOK, sampling=None, scheduler="")
    bare = replace(usual, cases=tuple(replace(case, negative="") for case in LOOK.cases))
    others = [LOOK, replace(LOOK, scheduler=""), replace(LOOK, sampling=SAMPLING), usual, bare]
    assert len({one.sha256 for one in others}) == 5
    assert LOOK.part(slice(1, 3)) == replace(LOOK, cases=LOOK.cases[1:3])


def test_drawings_of_several_probes_are_listed_once(tiny_pipe: Any) -> None:
    made = plan(tiny_pipe)
    assert made.probe_drawings() == list(Brightness().drawings())


def test_the_space_for_their_pictures_is_asked_for(tiny_pipe: Any, tmp_path: Path) -> None:
    with_probes, without = (
        picture_needs(tiny_pipe, one, EvaluationConfig(), tmp_path)[0]
        for one in (plan(tiny_pipe), make_plan(tiny_pipe, attacks={}))
    )
    picture = draw(tiny_pipe, ["a box"], [0], SAMPLING)
    assert with_probes.size - without.size == 10 * torch.numel(picture)
