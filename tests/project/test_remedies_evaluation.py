"""Errors of evaluations and of their parts, and what each names as the way on: it is followed, and it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attack_helpers import make_cases
from commands import refused, save_artifact
from evaluations import set_version, write_evaluation
from tiny_training import TINY, prepared

from robust_encoders.artifact.manifest import Manifest
from robust_encoders.cli.main import main
from robust_encoders.hub import pipelines
from robust_encoders.hub.embedded import embedded_pipeline
from robust_encoders.training.attacks.paraphrase import Paraphrase
from robust_encoders.training.attacks.unlearn_diff_atk import UnlearnDiffAtk
from robust_encoders.training.detectors import JudgeDetector, hub_models, image_classifier
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.evaluation import evaluate, reruns
from robust_encoders.training.evaluation.benchmarks.chance_pool import ChancePool, at_seeds
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.evaluation.sanity import checks
from robust_encoders.training.evaluation.suite import SUITE_VERSION
from robust_encoders.training.methods import ESD
from robust_encoders.training.metrics.clip_score import ClipScore
from robust_encoders.training.metrics.fid_kid import FrechetDistance, KernelDistance
from robust_encoders.training.objectives.config import HardeningConfig, RetainConfig
from robust_encoders.training.objectives.hardening import KeptNeighbours
from robust_encoders.training.trajectories.bank import TrajectoryBank
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.types import Case, DraftScores
from robust_encoders.training.worlds.shapes.judge import load_judge

# As little as an evaluation on the embedded base can do.
LITTLE = ["--attacks", "none", "--n", "2", "--n-kept", "2", "--n-probes", "2", "--n-renders", "1", "--steps", "2"]
LITTLE += ["--checks", "0", "--metrics", "retain_all"]


@pytest.fixture(scope="module")
def embedded() -> Any:
    return embedded_pipeline()


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch, embedded: Any) -> list[str]:
    """Concepts of the evaluations that the command line accepted; none is run."""
    concepts: list[str] = []
    monkeypatch.setattr(pipelines, "embedded_pipeline", lambda *values, **named: embedded)

    def take(pipe: Any, defence: Any, plan: Any, **more: Any) -> Evaluation:
        concepts.append(plan.plan(pipe, more["config"]).concept.name)
        return Evaluation("a-label", concepts[-1], (), {})

    monkeypatch.setattr(evaluate, "evaluate", take)
    return concepts


BOTH = ("shapes/circle", "shapes/red")
# Arguments, what the message says, and the arguments that follow each remedy.
OPTIONS: list[tuple[tuple[str, ...], str, list[tuple[str, ...]]]] = [
    (("base",), "add --concept", [("base", "--concept", "red")]),
    (BOTH, "evaluate them apart", [BOTH[:1], BOTH[1:], (*BOTH, "--concept", "red")]),
    (("base", "base", "--concept", "red"), "names of their own", [("base", "--concept", "red")]),
    (("FOLDER", "--concept", "red", "--record"), "erase 'red' with --record", [("FOLDER", "--concept", "red")]),
    (("FOLDER", "base", "--record"), "expected folders of encoders with --record", [("FOLDER", "base")]),
    (("MERGED",), "name one with --concept", [("MERGED", "--concept", "red")]),
]


@pytest.mark.parametrize(("wrong", "fragment", "ways"), OPTIONS)
def test_options_of_an_evaluation(
    wrong: tuple[str, ...], fragment: str, ways: list[tuple[str, ...]], accepted: list[str], tiny_pipe: Any,
    make_encoder: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from robust_encoders import Concept

    parts = (Concept(name="circle", kind="object"), Concept(name="red", kind="object"))
    make_encoder(tiny_pipe, concept=Concept(name="circle and red", kind="object", parts=parts)).save_pretrained(
        tmp_path / "merged"
    )
    places = {"FOLDER": save_artifact(tiny_pipe, tmp_path / "one"), "MERGED": tmp_path / "merged"}

    def typed(arguments: tuple[str, ...]) -> list[str]:
        named = [str(places.get(one, one)) for one in arguments]
        return ["evaluate", *named, "--out", str(tmp_path / "out")]

    assert fragment in refused(capsys, 2, *typed(wrong))
    for way in ways:
        assert main(typed(way)) == 0, way
    assert accepted


def test_prompts_without_a_base(tiny_pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.csv").write_text("case_number,prompt,evaluation_seed\n0,a red circle,1\n1,a circle,2\n")
    tiny_pipe.save_pretrained(tmp_path / "base")
    command = ["evaluate", "base", "--concept", "circle", "--out", str(tmp_path / "out")]
    command += ["--prompts", str(tmp_path / "p.csv"), "--kept", str(tmp_path / "p.csv")]
    assert "expected --base with --prompts" in refused(capsys, 2, *command)
    told = refused(capsys, 2, *command, "--base", str(tmp_path / "base"), "--detector", "none")
    assert "expected --base" not in told  # the next question is about the detector


def test_strength_and_numbers_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = str(tmp_path / "mine"), tmp_path / "out"
    assert main(["convert", "shapes/circle", folder]) == 0
    before = Manifest.read(folder).results
    other = set_version(write_evaluation(tmp_path, {"random": ("T2", [None, 1])}), SUITE_VERSION)
    capsys.readouterr()
    main(["ready", folder])
    assert "`robust-encoders evaluate FOLDER --record`" in capsys.readouterr().out
    command = ["evaluate", folder, "--record", *LITTLE, "--out", str(out), "--strength"]
    told = refused(capsys, 2, *command, str(other))
    assert "evaluate base with --captions open and these settings" in told
    base = ["evaluate", "base", "--concept", "circle", *LITTLE, "--out", str(tmp_path / "base")]
    assert main([*base, "--captions", "open"]) == 0
    assert main([*command, str(tmp_path / "base")]) == 0
    recorded = [one for one in Manifest.read(folder).results if one not in before]
    assert any(one["metric"] == "pre_asr" for one in recorded)


def test_an_attack_without_a_budget() -> None:
    search = SimpleNamespace(tier="T2")
    jobs: Any = SimpleNamespace(
        plan=SimpleNamespace(attacks={"none": search, "diff": UnlearnDiffAtk(iterations=4)}),
        config=SimpleNamespace(checks=2),
    )
    with pytest.raises(ValueError, match=r"name one of checkable\(\)"):
        reruns.again(jobs, "none")
    assert reruns.checkable(jobs) == ["diff"]
    assert checks.halved(jobs.plan.attacks["diff"]) is not None


def test_a_target_without_what_an_attack_uses(tiny_pipe: Any) -> None:
    target = TargetModel.from_pipeline(tiny_pipe)
    with pytest.raises(ValueError, match=r"base=Backbone\.from_pipeline\(pipe\)"):
        _ = target.base
    base = Backbone.from_pipeline(tiny_pipe)
    assert TargetModel.from_pipeline(tiny_pipe, base=base).base is base
    parts = (tiny_pipe.tokenizer, tiny_pipe.text_encoder, tiny_pipe.unet, tiny_pipe.scheduler)
    assert TargetModel(*parts, base=base).base is base
    with pytest.raises(ValueError, match=r"TargetModel\(\.\.\., query=\.\.\.\)"):
        _ = target.query

    def query(texts: Any, cases: Any) -> Any:
        return torch.zeros(len(texts))

    assert TargetModel(*parts, query=query).query is query
    with pytest.raises(ValueError, match=r"TargetModel\(\.\.\., draft=\.\.\.\)"):
        _ = target.draft

    def draft(texts: Any, cases: Any, steps: int) -> Any:
        return DraftScores(torch.zeros(len(texts)), (steps,) * len(texts))

    assert TargetModel(*parts, draft=draft).draft is draft
    wordings = Paraphrase(("circle",), ("{}!", "{}?"), whole=1, draft_steps=0)
    assert len(wordings.run(target, [Case(0, "a circle", 0)], seed=0)[0].candidates) == 2


def test_cases_without_reference_latents(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    attack = UnlearnDiffAtk(timesteps=1, iterations=1)
    with pytest.raises(ValueError, match="output_type='latent'"):
        attack.run(backbone, [Case(0, "a red circle", seed=0)], seed=0)
    latents = tiny_pipe("a red circle", num_inference_steps=1, height=16, width=16, output_type="latent").images
    case = Case(0, "a red circle", seed=0, reference_latent=latents[0].reshape(backbone.latent_shape))
    assert attack.run(backbone, [case], seed=0)[0].candidates
    assert make_cases(backbone)[0].reference_latent is not None


@pytest.mark.parametrize("one", [{"top": 1}, {"threshold": 0.5}])
def test_a_rule_of_a_classifier(one: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Reached(Exception):
        """The rule was accepted."""

    def stop(*values: Any, **more: Any) -> Any:
        raise Reached

    monkeypatch.setattr(hub_models.Source, "parse", stop)
    with pytest.raises(ValueError, match="expected top or threshold"):
        image_classifier.ImageClassifier("org/name", "church", top=1, threshold=0.5)
    with pytest.raises(Reached):
        image_classifier.ImageClassifier("org/name", "church", **one)


class Blocks(torch.nn.Module):
    """Features of pictures: the means of quarters."""

    name = "blocks"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def test_metrics_without_pictures() -> None:
    pictures = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    score = ClipScore(lambda images, prompts: images.mean((1, 2, 3)))
    with pytest.raises(ValueError, match=r"call update\(\) first"):
        score.compute()
    score.update(pictures, [Case(i, "a", seed=0) for i in range(6)])
    assert score.compute().n == 6
    distance = FrechetDistance(Blocks())
    with pytest.raises(ValueError, match=r"add pictures and references with update\(\)"):
        distance.compute()
    distance.update(pictures, [], pictures)
    assert distance.compute().value == pytest.approx(0, abs=1e-3)
    kernel = KernelDistance(Blocks(), subset_size=8)
    kernel.update(pictures, [], pictures)
    with pytest.raises(ValueError, match="draw more pictures, or choose smaller subsets"):
        kernel.compute()
    smaller = KernelDistance(Blocks(), subset_size=4)
    for metric in (smaller, kernel):  # the larger subsets have their pictures after a second update
        metric.update(pictures, [], pictures)
        assert metric.compute().n >= 6


def test_numbers_of_seeds_for_each_set(tiny_pipe: Any) -> None:
    backbone, config = Backbone.from_pipeline(tiny_pipe), BankConfig(steps=1, seeds=(2, 1))
    with pytest.raises(ValueError, match=r"use for_concept\(\) or for_retain\(\)"):
        TrajectoryBank.build(backbone, ["a red circle"], config)
    for own, seeds in ((config.for_concept(), 2), (config.for_retain(), 1)):
        assert len(TrajectoryBank.build(backbone, ["a red circle"], own).shards[0]) == seeds


def test_retain_prompts_in_python() -> None:
    with pytest.raises(ValueError, match=r"give retain\.prompts, or set retain\.weight and"):
        RetainConfig()
    assert RetainConfig(prompts=("a star",)).prompts
    assert RetainConfig(weight=0, conditioning_weight=0).prompts == ()
    with pytest.raises(ValueError, match=r"give retain=RetainConfig\(prompts=\.\.\.\), or RetainConfig\(weight=0\)"):
        ESD()
    for retain in (RetainConfig(prompts=("a star",)), RetainConfig(weight=0)):
        assert ESD(retain=retain).retain == retain


def test_prompts_without_the_concept(tiny_pipe: Any) -> None:
    method = replace(TINY, hardening=HardeningConfig(neighbours_weight=1.0))
    made = next(term.prompts for term in prepared(method, tiny_pipe).terms if isinstance(term, KeptNeighbours))
    with pytest.raises(ValueError, match="give such prompts, or leave both weights at 0"):
        _ = replace(made, cut=None).cut_prompts
    with pytest.raises(ValueError, match="give retain prompts, or leave the weight at 0"):
        _ = replace(made, retained=None).retain_prompts
    assert made.cut_prompts is made.cut  # with the prompts
    assert made.retain_prompts is made.retained
    terms = prepared(replace(TINY, hardening=HardeningConfig(neighbours_weight=0.0)), tiny_pipe).terms
    assert not any(isinstance(term, KeptNeighbours) for term in terms)


def test_a_pool_with_other_seeds() -> None:
    empty, opened = at_seeds("pool", [4, 9], ["a star", "a ring", "a box", "a cross"])
    with pytest.raises(ValueError, match=r"make both sets with at_seeds\(\)"):
        ChancePool(empty, opened.part(slice(3)), JudgeDetector(load_judge(), "circle"), SamplingConfig(), 0)
    pool = ChancePool(empty, opened, JudgeDetector(load_judge(), "circle"), SamplingConfig(), 0)
    assert pool.captions_per_seed == 2
