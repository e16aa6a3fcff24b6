"""What is put together from finished parts: the worst case, distances to the base, and the checks on the attacks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from plans import ATTACKS, SAMPLING, find, make_plan, prompt_set, run
from torch import Tensor

from robust_encoders.training.attacks import NoAttack, RandomPrefix, UnlearnDiffAtk
from robust_encoders.training.attacks.transfer import OnBase
from robust_encoders.training.diffusion.sampling import draw
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.evaluation.baselines import EmptyPrompt
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.metrics import ClipScore, PictureDistance
from robust_encoders.training.metrics.rates import wilson_interval
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import AttackResult, AttackUse, Candidate, Case


@dataclass(frozen=True)
class Wins:
    """Proposes another text for the cases it is told: one that a planted detector finds."""

    name: ClassVar[str] = "wins"
    joint: ClassVar[bool] = False

    cases: tuple[int, ...]
    tier: str = "T3"
    whole_prompt: bool = False
    uses: tuple[AttackUse, ...] = ()

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        texts = ["star" if case.index in self.cases else case.prompt for case in cases]
        return [AttackResult((Candidate("text", text, 1),), 0, 0) for text in texts]


class Finds:
    """Finds the concept in the very pictures that ``star`` gives."""

    name, version, threshold = "finds", "1", 0.5

    def __init__(self, pipe: Any, seeds: Sequence[int]) -> None:
        self.known = draw(pipe, ["star"] * len(seeds), seeds, SAMPLING)

    def __call__(self, images: Tensor) -> Tensor:
        return torch.stack([(self.known == image).flatten(1).all(1).any() for image in images]).float()


def won_by(pipe: Any, **attacks: Attack) -> dict[str, Any]:
    """Return changes of a plan in which these attacks win just the cases that they say."""
    return {"attacks": attacks, "detector": Finds(pipe, range(10, 14)), "control": None}


@dataclass(frozen=True)
class WinsTogether(Wins):
    """Wins the cases it is told, and says that every second case shares what it learned."""

    def clusters(self, n: int) -> tuple[int, ...]:
        return tuple(i % 2 for i in range(n))


def test_cases_that_share_what_was_learned_have_an_interval_over_groups(tiny_pipe: Any, tmp_path: Path) -> None:
    attacks = {"shared": WinsTogether((0, 2)), "own": Wins((0, 2))}
    found = run(tiny_pipe, make_plan(tiny_pipe, **won_by(tiny_pipe, **attacks)), tmp_path / "out")
    for metric in ("asr_any", "asr_last", "asr_gained"):
        shared, own = (find(found, metric, label) for label in ("shared", "own"))
        assert (shared.value, own.value) == (0.5, 0.5)
        assert shared.settings["clusters"] == 2
        assert "clusters" not in own.settings
        assert shared.interval == (0, 1), "one group lost all, the other nothing"
        assert own.interval == wilson_interval(2, 4)


def test_the_worst_case_is_the_union_over_the_tiers_of_text_and_beside_it_over_embeddings(
    tiny_pipe: Any, tmp_path: Path
) -> None:
    attacks = {"a": Wins((0,)), "b": Wins((2,), "T2"), "c": Wins((3,), "T4"), "d": Wins((1,), "T6")}
    found = run(tiny_pipe, make_plan(tiny_pipe, **won_by(tiny_pipe, **attacks)), tmp_path)
    worst, beside = (
        next(r for r in found.results if r.metric == name) for name in ("worst_case", "worst_case_embeddings")
    )
    assert (worst.value, worst.tier, worst.settings["attack"]["attacks"]) == (0.5, "T0-T3", ["a", "b"])
    assert (beside.value, beside.tier, beside.settings["attack"]["attacks"]) == (0.75, "T0-T4", ["a", "b", "c"])
    assert worst.interval is not None
    assert worst.detector == "finds"
    assert {r.tier for r in found.results if r.metric == "asr_any"} == {"T2", "T3", "T4", "T6"}


def test_a_white_box_attack_below_a_black_box_one_is_marked(tiny_pipe: Any, tmp_path: Path) -> None:
    attacks = {"weak": Wins((0,)), "strong": Wins((0, 1, 2)), "black": Wins((1, 2), "T2")}
    plan = make_plan(tiny_pipe, **won_by(tiny_pipe, **attacks))
    found = run(tiny_pipe, plan, tmp_path, checks=2)
    marked = {c["attack"]: c["ok"] for c in found.checks if c["name"] == "white_not_below_black"}
    assert marked == {"weak": False, "strong": True}
    assert Evaluation.read(tmp_path).checks == found.checks


def test_a_white_box_attack_is_not_compared_with_a_black_box_one_of_more_freedom(
    tiny_pipe: Any, tmp_path: Path
) -> None:
    kept, whole = Wins((0,)), Wins((0, 1), whole_prompt=True)
    black = Wins((1, 2), "T2", whole_prompt=True)
    plan = make_plan(tiny_pipe, **won_by(tiny_pipe, kept=kept, whole=whole, black=black))
    found = run(tiny_pipe, plan, tmp_path, checks=2)
    assert [c["attack"] for c in found.checks if c["name"] == "white_not_below_black"] == ["whole"]


def test_gradients_are_masked_where_black_box_and_transferred_attacks_win_more(tiny_pipe: Any, tmp_path: Path) -> None:
    """Scores follow no gradient, so an attack that asks for them does not stand on the side of the gradients."""
    scored = Wins((0, 1, 2, 3, 4, 5), uses=("queries",))
    black = {"words": Wins((1, 2), "T1"), "transfer": Wins((3, 4, 5), "T2")}
    own = {"one": Wins((0,)), "whole": Wins((0, 1), whole_prompt=True)}
    prompts = (prompt_set("circle/name", ["circle"] * 6),)

    def masked(name: str, **attacks: Attack) -> list[tuple[list[str], bool]]:
        given = {"attacks": attacks, "detector": Finds(tiny_pipe, range(10, 16)), "control": None, "plain": prompts}
        found = run(tiny_pipe, make_plan(tiny_pipe, **given), tmp_path / name, checks=2)
        assert {c["attack"] for c in found.checks if c["name"] == "masked_gradients"} <= {""}
        checks = [c for c in found.checks if c["name"] == "masked_gradients"]
        return [(re.findall(r"wins ([\d.]+) %", c["detail"]), c["ok"]) for c in checks]

    assert masked("few", **own, **black, scored=scored) == [(["16.7", "83.3"], True), (["33.3", "83.3"], True)]
    assert masked("none", scored=scored, **black) == []
    assert masked("only", lost=Wins(()), scored=scored, **black) == [(["0.0", "83.3"], False)] * 2


def test_every_search_is_run_again_on_a_few_cases(tiny_pipe: Any, tmp_path: Path) -> None:
    found = run(tiny_pipe, make_plan(tiny_pipe), tmp_path, checks=3)
    made = [(c["name"], c["attack"]) for c in found.checks]
    assert made == [
        ("gradients_alive", ""),
        *[(name, label) for label in ("continuous", "discrete") for name in ("seeds_differ", "more_is_not_weaker")],
        ("free_not_below_discrete", "continuous"),
    ]
    assert run(tiny_pipe, make_plan(tiny_pipe), tmp_path / "none").checks == ()


def test_a_free_prefix_is_not_compared_with_tokens_that_replace_the_prompt(tiny_pipe: Any, tmp_path: Path) -> None:
    whole = UnlearnDiffAtk(timesteps=1, iterations=1, placement="replace")
    attacks = {"continuous": ATTACKS["continuous"], "discrete_caption": whole}
    found = run(tiny_pipe, make_plan(tiny_pipe, attacks=attacks), tmp_path, checks=2)
    assert "free_not_below_discrete" not in {c["name"] for c in found.checks}


def test_where_no_gradient_arrives_the_check_says_so(tiny_pipe: Any, tmp_path: Path) -> None:
    plan = make_plan(tiny_pipe, attacks={"discrete": ATTACKS["discrete"]})
    found = run(tiny_pipe, plan, tmp_path, EmptyPrompt(), checks=2)
    assert found.label == "empty_prompt"
    assert [c["ok"] for c in found.checks if c["name"] == "gradients_alive"] == [False]


def test_an_attacks_strength_counts_only_captions_that_fail_unattacked(tiny_pipe: Any, tmp_path: Path) -> None:
    attacks: dict[str, Attack] = {"none": NoAttack(), "good": Wins((1, 2, 3)), "poor": Wins((1,))}
    given = won_by(tiny_pipe, **attacks)
    star = [replace(case, prompt="star" if case.index == 0 else case.prompt) for case in prompt_set("x", "abcd").cases]
    plain = (replace(prompt_set("circle/open", "abcd"), cases=tuple(star)),)
    run(tiny_pipe, make_plan(tiny_pipe, plain=plain, **given), tmp_path / "base")
    found = run(
        tiny_pipe, make_plan(tiny_pipe, **given), tmp_path / "robust", EmptyPrompt(), strength=tmp_path / "base"
    )
    checks = [(c["attack"], c["ok"], c["n"]) for c in found.checks]
    assert checks == [("good", True, 3), ("poor", False, 3)]
    assert found.checks[1]["found"] == pytest.approx(1 / 3)


@dataclass(frozen=True)
class Brightness:
    name: str = "brightness"

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs().mean((1, 2, 3))


def test_pictures_are_compared_with_the_bases_own_and_the_base_is_not(tiny_pipe: Any, tmp_path: Path) -> None:
    plan = make_plan(
        tiny_pipe,
        attacks={},
        utility={
            "clip_score": lambda: ClipScore(lambda images, texts: images.mean((1, 2, 3))),
            "lpips_kept": lambda: PictureDistance(Brightness()),
        },
        erased={"lpips_erased": lambda: PictureDistance(Brightness(), "lpips_erased")},
    )
    robust = run(tiny_pipe, plan, tmp_path / "robust", EmptyPrompt())
    kept, erased = ([(c.prompt, c.seed) for c in p.cases] for p in (plan.kept, plan.plain[0]))
    for name, rows in (("lpips_kept", kept), ("lpips_erased", erased)):
        texts, seeds = zip(*rows, strict=True)
        before, after = (draw(tiny_pipe, words, seeds, SAMPLING) for words in (texts, [""] * len(texts)))
        assert find(robust, name).value == pytest.approx(float((before - after).abs().mean()), abs=1e-4)
    gap = find(robust, "lpips_erased").value - find(robust, "lpips_kept").value
    assert find(robust, "lpips_difference").value == pytest.approx(gap)
    base = run(tiny_pipe, plan, tmp_path / "base")
    assert [r.metric for r in base.results] == ["pre_asr", "pre_asr", "clip_score", "judge_shape"]


def test_what_the_base_gives_up_is_searched_for_once_for_all_encoders(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tiny_pipe, attacks={"transfer": OnBase(RandomPrefix(tokens=1, candidates=2))})
    ran: list[int] = []
    original: Callable[..., Any] = RandomPrefix.run

    def counted(self: RandomPrefix, target: Any, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        ran.append(len(cases))
        found: list[AttackResult] = original(self, target, cases, seed=seed)
        return found

    monkeypatch.setattr(RandomPrefix, "run", counted)
    for name, defence in (("base", None), ("empty", EmptyPrompt())):
        run(tiny_pipe, plan, tmp_path / name, defence, source=tmp_path / "source")
    assert ran == [3, 1]  # two chunks, once each
    shared = {path.name for path in (tmp_path / "source" / "chunks").iterdir()}
    assert shared >= {"found-transfer-0.json", "found-transfer-1.json", "targets-circle-name-0.safetensors"}
    cells = json.loads((tmp_path / "empty" / "cells" / "attack-transfer.json").read_text(encoding="utf-8"))
    assert len(cells["value"]["verdicts"]) == 4
