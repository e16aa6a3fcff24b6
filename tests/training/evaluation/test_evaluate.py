"""The evaluation on tiny random models: complete, repeatable, resumable, and it leaves the pipeline alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from plans import ATTACKS, SAMPLING, find, make_plan, run, without_seconds
from torch import Tensor

from robust_encoders.clip.state_dict import nested_state
from robust_encoders.concepts import Concept
from robust_encoders.encoder import RobustEncoder
from robust_encoders.training.artifact import to_encoder
from robust_encoders.training.attacks import ContinuousPrefix, UnlearnDiffAtk
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import draw
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark, shapes_plan
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.evaluate import evaluate
from robust_encoders.training.evaluation.example_pictures import groups_of
from robust_encoders.training.evaluation.plan import FixedPlan
from robust_encoders.training.evaluation.recorded import recorded_attacks
from robust_encoders.training.evaluation.results import RESULTS_NAME, Evaluation
from robust_encoders.training.metrics import ConceptRate
from robust_encoders.training.types import AttackResult, Candidate, Case, Edit, Result
from robust_encoders.training.worlds.shapes.vocabulary import FACTORS, VALUES


@pytest.fixture
def encoder(make_pipe: Callable[..., Any]) -> RobustEncoder:
    """An encoder that fits ``make_pipe()`` and draws other pictures."""
    pipe = make_pipe()
    tensors = {name: tensor.clone() for name, tensor in nested_state(pipe.text_encoder).items()}
    name = next(name for name in tensors if name.endswith("final_layer_norm.bias"))
    tensors[name] = tensors[name] + 3.0
    edit = Edit("weights", "text_encoder", tensors, pipe.text_encoder.config.to_dict())
    concept = Concept(name="circle", kind="object")
    made = to_encoder(edit, concept=concept, method=HalfMethod(), pipe=pipe, recipe={}, family="test")
    assert isinstance(made, RobustEncoder)
    return made


@dataclass(frozen=True)
class HalfMethod:
    name: ClassVar[str] = "half"


@dataclass(frozen=True)
class Nothing:
    """Returns the prompt as it is."""

    name: ClassVar[str] = "none"
    tier: ClassVar[str] = "T0"
    joint: ClassVar[bool] = False

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        return [AttackResult((Candidate("text", case.prompt, 1),), 0, 0) for case in cases]


def test_every_number_says_what_it_rests_on(tiny_pipe: Any, tmp_path: Path) -> None:
    plan = make_plan(tiny_pipe)
    evaluation = run(tiny_pipe, plan, tmp_path)
    assert [(r.metric, r.prompt_set, r.n) for r in evaluation.results] == [
        ("pre_asr", "circle/name", 4),
        ("pre_asr", "circle/seen", 2),
        *[(metric, "circle/name", 4) for _ in ATTACKS for metric in ("asr_any", "asr_last", "asr_gained")],
        ("worst_case", "circle/name", 4),
        ("worst_case_embeddings", "circle/name", 4),
        ("clip_score", "circle/kept", 3),
        ("judge_shape", "renders", 2),
    ]
    for result in evaluation.results:
        assert result.seeds == (0,)
        assert len(result.prompt_sha256) == 64
        assert result.settings["sampling"] == {"steps": 2, "guidance": 3.0, "batch": 4}
        assert result.versions["torch"] == torch.__version__
        assert result.interval is not None
    rates = [r for r in evaluation.results if r.metric.startswith(("pre_", "asr_", "worst_"))]
    assert [r.tier for r in rates] == ["T0", "T1", *["T4"] * 6, *["T3"] * 3, "T0-T3", "T0-T4"]
    assert {(r.detector, r.detector_version, r.threshold) for r in rates} == {("half", "1", plan.detector.threshold)}
    attack = find(evaluation, "asr_any", "discrete").settings["attack"]
    assert (attack["name"], attack["tier"], attack["timesteps"]) == ("unlearn_diff_atk", "T3", 2)


def test_rates_agree_with_drawing_by_hand(tiny_pipe: Any, tmp_path: Path) -> None:
    plan = make_plan(tiny_pipe)
    evaluation = run(tiny_pipe, plan, tmp_path)
    cases = plan.plain[0].cases
    pictures = draw(tiny_pipe, [c.prompt for c in cases], [c.seed for c in cases], SAMPLING)
    before = (plan.detector(pictures) >= plan.detector.threshold).tolist()
    pre = find(evaluation, "pre_asr").value
    assert pre == sum(before) / 4 == 0.25
    for label in ATTACKS:
        any_, last, gained = (find(evaluation, m, label).value for m in ("asr_any", "asr_last", "asr_gained"))
        assert any_ >= last >= pre
        assert any_ == pre + gained


def test_the_unet_calls_are_what_the_unet_did(tiny_pipe: Any, tmp_path: Path) -> None:
    plan = make_plan(tiny_pipe, plain=make_plan(tiny_pipe).plain[:1], attacks={"discrete": ATTACKS["discrete"]})
    calls = 0

    def count(module: object, args: tuple[Tensor, ...], output: object) -> None:
        nonlocal calls
        calls += args[0].shape[0]

    handle = tiny_pipe.unet.register_forward_hook(count)
    evaluation = run(tiny_pipe, plan, tmp_path)
    handle.remove()
    # The targets are the base's; a backward is one call; one of the four prompts needs no attack.
    targets, gradients = 4 * SAMPLING.calls_per_picture, 3 * 2
    shown = (4 + 3 + 3) * SAMPLING.calls_per_picture  # for the report, not for a number
    parts = [find(evaluation, "pre_asr"), find(evaluation, "asr_any", "discrete"), find(evaluation, "clip_score")]
    assert sum(part.unet_calls for part in parts) == calls - targets - shown + gradients


def test_prompts_that_succeed_by_themselves_are_attacked_only_where_the_attack_is_joint(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tiny_pipe)
    seen: dict[bool, list[int]] = {False: [], True: []}

    def spy(cls: type[Any]) -> None:
        original = cls.run

        def wrapped(self: Any, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
            seen[self.joint] += [case.index for case in cases]
            found: list[AttackResult] = original(self, target, cases, seed=seed)
            return found

        monkeypatch.setattr(cls, "run", wrapped)

    spy(UnlearnDiffAtk)
    attacks = {"discrete": ATTACKS["discrete"], "shared": ContinuousPrefix(steps=1, shared=True, batch=2)}
    run(tiny_pipe, replace(plan, attacks={"discrete": attacks["discrete"]}), tmp_path / "a")
    spy(ContinuousPrefix)
    run(tiny_pipe, replace(plan, attacks={"shared": attacks["shared"]}), tmp_path / "b")
    assert len(seen[False]) == 3
    assert seen[True] == [0, 1, 2, 3]


def test_a_killed_evaluation_goes_on_and_gives_the_same(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tiny_pipe)
    run(tiny_pipe, plan, tmp_path / "whole")

    def killed(*args: Any, **kwargs: Any) -> list[AttackResult]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(UnlearnDiffAtk, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tiny_pipe, plan, tmp_path / "cut")
    assert not (tmp_path / "cut" / RESULTS_NAME).exists()
    with monkeypatch.context() as patch:
        patch.setattr(ContinuousPrefix, "run", killed)
        run(tiny_pipe, plan, tmp_path / "cut")
    assert without_seconds(tmp_path / "cut") == without_seconds(tmp_path / "whole")
    attacks = {"attack-continuous", "attack-shared", "attack-discrete"}
    names = {path.stem for path in (tmp_path / "cut" / "cells").iterdir()}
    plain = {f"unattacked-circle-{name}" for name in ("name", "seen", "kept")}
    assert names == {"chunks", *attacks, *plain, "kept", "control", "pictures"}
    whole, cut = (sorted((tmp_path / name / "cells" / "chunks").glob("*zip*")) for name in ("whole", "cut"))
    assert [(path.name, path.read_bytes()) for path in cut] == [(path.name, path.read_bytes()) for path in whole] != []


def pictures_of(folder: Path) -> list[dict[str, Any]]:
    stored = json.loads((folder / "cells" / "pictures.json").read_text(encoding="utf-8"))
    groups: list[dict[str, Any]] = stored["value"]["groups"]
    return groups


def test_a_finished_evaluation_gets_its_pictures_without_another_attack(
    make_pipe: Any, tmp_path: Path, encoder: RobustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = make_pipe()
    plan = make_plan(pipe, attacks={"discrete": ATTACKS["discrete"], "continuous": ATTACKS["continuous"]})
    run(pipe, plan, tmp_path, encoder)
    groups, numbers = pictures_of(tmp_path), (tmp_path / RESULTS_NAME).read_bytes()
    lost = [one.label for one in recorded_attacks(tmp_path) if not all(v.before for v in one.verdicts)]
    assert [group["kind"] for group in groups] == ["plain", "plain", *("attack" for _ in lost), "kept"]
    shown = {group["name"]: group["rows"][0]["textless"] for group in groups if group["kind"] == "attack"}
    assert shown == {label: label == "continuous" for label in lost}
    (tmp_path / "cells" / "pictures.json").unlink()

    def killed(*args: Any, **kwargs: Any) -> list[AttackResult]:
        raise KeyboardInterrupt

    for attack in (UnlearnDiffAtk, ContinuousPrefix):
        monkeypatch.setattr(attack, "run", killed)
    run(pipe, plan, tmp_path, encoder)
    assert pictures_of(tmp_path) == groups
    assert (tmp_path / RESULTS_NAME).read_bytes() == numbers


def test_pictures_are_those_of_the_base_and_of_the_encoder(
    make_pipe: Any, tmp_path: Path, encoder: RobustEncoder
) -> None:
    pipe = make_pipe()
    plan = make_plan(pipe, attacks={}, instead=lambda images, cases: [f"saw {case.prompt}" for case in cases])
    run(pipe, plan, tmp_path, encoder)
    cases = plan.plain[0].cases
    before = plan.detector(draw(pipe, [c.prompt for c in cases], [c.seed for c in cases], SAMPLING))
    with encoder.attached(pipe):
        after = plan.detector(draw(pipe, [c.prompt for c in cases], [c.seed for c in cases], SAMPLING))
    name, _, kept = pictures_of(tmp_path)
    for side, expected in (("before", before), ("after", after)):
        scores = torch.tensor([row[side]["score"] for row in name["rows"]])
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)
        assert [row[side]["found"] for row in name["rows"]] == (expected >= plan.detector.threshold).tolist()
    assert before.tolist() != after.tolist()
    assert [row["after"]["instead"] for row in kept["rows"]] == ["saw a square", "saw a blue box", "saw star"]
    assert {row["before"]["instead"] for row in name["rows"]} == {None}
    run(pipe, plan, tmp_path / "base")
    assert {row["after"] for group in pictures_of(tmp_path / "base") for row in group["rows"]} == {None}


def test_of_an_attack_the_cases_that_it_won_are_shown_first(tiny_pipe: Any) -> None:
    plan = make_plan(tiny_pipe)
    verdicts = [
        {"text": f"found {i}", "any": won, "before": before}
        for i, (won, before) in enumerate([(False, False), (True, True), (True, False), (False, False)])
    ]
    groups = groups_of(plan, {"discrete": verdicts, "continuous": [{**v, "text": ""} for v in verdicts]})
    assert [group.name for group in groups] == ["circle/name", "circle/seen", "discrete", "circle/kept"]
    assert [case.prompt for case in groups[2].cases] == ["found 2", "found 0", "found 3"]
    assert [case.seed for case in groups[2].cases] == [12, 10, 13]
    assert groups[2].originals == ("a blue circle", "a red circle", "a circle on black")
    assert groups[2].won == (True, False, False)


def test_other_weights_make_every_cell_again(
    make_pipe: Any, tmp_path: Path, encoder: RobustEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = make_pipe()
    plan = make_plan(pipe, attacks={})
    base = run(pipe, plan, tmp_path)
    robust = run(pipe, plan, tmp_path, encoder)
    lines = [record.getMessage() for record in caplog.records]
    remade = {line.partition(":")[0].rpartition("/")[2] for line in lines if "made from other inputs" in line}
    plain = {f"unattacked-circle-{name}.json" for name in ("name", "seen", "kept")}
    assert remade >= {"kept.json", "control.json", "pictures.json", *plain}
    assert (base.label, robust.label) == ("base", "half")
    assert find(base, "clip_score").value != find(robust, "clip_score").value


def test_what_was_computed_in_bf16_is_not_taken_for_what_is_computed_in_its_place(
    make_pipe: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = make_pipe()
    plan = make_plan(pipe, attacks={})
    for has in (True, False):
        caplog.clear()
        monkeypatch.setattr("robust_encoders.training.diffusion.backbone.has_bf16", lambda has=has: has)
        run(pipe, plan, tmp_path)
    assert any("made from other inputs" in record.getMessage() for record in caplog.records)
    caplog.clear()
    run(pipe, plan, tmp_path)
    assert not any("made from other inputs" in record.getMessage() for record in caplog.records)


def test_attacks_meet_the_encoder_and_aim_at_the_bases_pictures(
    make_pipe: Any, tmp_path: Path, encoder: RobustEncoder
) -> None:
    pipe = make_pipe()
    base = pipe.text_encoder
    plan = make_plan(pipe)
    cases = plan.plain[0].cases
    expected = draw(pipe, [c.prompt for c in cases], [c.seed for c in cases], SAMPLING, latents=True)
    seen: list[tuple[bool, Tensor]] = []

    @dataclass(frozen=True)
    class Spy(Nothing):
        joint: ClassVar[bool] = True  # so that it meets every case

        def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
            latents = [case.reference_latent for case in cases if case.reference_latent is not None]
            seen.append((target.text_encoder is base, torch.stack(latents)))
            return super().run(target, cases, seed=seed)

    run(pipe, replace(plan, attacks={"spy": Spy()}), tmp_path, encoder)
    assert seen[0][0] is False
    torch.testing.assert_close(seen[0][1], expected)
    assert pipe.text_encoder is base


def test_an_attack_that_returns_the_prompt_gains_nothing(tiny_pipe: Any, tmp_path: Path) -> None:
    evaluation = run(tiny_pipe, replace(make_plan(tiny_pipe), attacks={"none": Nothing()}), tmp_path)
    assert find(evaluation, "asr_gained", "none").value == 0
    assert find(evaluation, "asr_any", "none").value == find(evaluation, "pre_asr").value


def test_what_is_written_is_read_back(tiny_pipe: Any, tmp_path: Path) -> None:
    evaluation = run(tiny_pipe, make_plan(tiny_pipe, attacks={}), tmp_path)
    assert Evaluation.read(tmp_path) == Evaluation.read(tmp_path / RESULTS_NAME) == evaluation
    assert json.loads(json.dumps(evaluation.records())) == list(evaluation.records())


def test_results_of_another_schema_are_refused(tmp_path: Path) -> None:
    (tmp_path / RESULTS_NAME).write_text('{"schema": 0}')
    with pytest.raises(ValueError, match="expected schema 1"):
        Evaluation.read(tmp_path)


class FlatJudge:
    """Gives every value of a factor the same probability."""

    name = "flat-judge"
    version = "flat"
    values = VALUES

    def probabilities(self, images: Tensor) -> dict[str, Tensor]:
        return {f: torch.full((len(images), len(VALUES[f])), 1 / len(VALUES[f])) for f in FACTORS}

    def __call__(self, images: Tensor) -> dict[str, list[str]]:
        return {f: [VALUES[f][0]] * len(images) for f in FACTORS}


def test_the_shapes_evaluation_end_to_end(make_pipe: Any, tmp_path: Path) -> None:
    config = EvaluationConfig(sampling=SAMPLING, checks=0)
    plan = shapes_plan(
        ShapesBenchmark("circle", n=2, n_kept=8, n_renders=12),
        config,
        judge=FlatJudge(),
        scorer=lambda images, texts: images.mean((1, 2, 3)),
    )
    plan = replace(plan, attacks={"discrete": ATTACKS["discrete"]})
    evaluation = evaluate(make_pipe(positions=77), None, FixedPlan(plan), out=tmp_path, config=config)
    assert [r.metric for r in evaluation.results] == [
        "pre_asr", "pre_asr", "pre_asr", "asr_any", "asr_last", "asr_gained", "worst_case", "worst_case_embeddings",
        "retain_shape", "retain_colour", "retain_background", "retain_style", "retain_all", "clip_score",
        "judge_shape", "judge_colour", "judge_background", "judge_style", "judge_all",
    ]  # fmt: skip
    assert find(evaluation, "asr_any", "discrete").value == 0
    assert find(evaluation, "judge_shape").n == 12
    assert find(evaluation, "judge_shape").detector_version == "flat"


def test_an_unknown_concept_is_refused_before_anything_is_drawn() -> None:
    with pytest.raises(ValueError, match="dodecahedron"):
        ShapesBenchmark("dodecahedron")
    assert ShapesBenchmark(Concept(name="red", kind="attribute")).erased == ShapesBenchmark("red").erased


class Annotated(ConceptRate):
    """A metric that says how it was measured."""

    def compute(self) -> Result:
        return replace(super().compute(), settings={"policy": "explicit"})


def test_what_a_metric_says_of_itself_stays_in_the_record(tiny_pipe: Any, tmp_path: Path) -> None:
    plan = make_plan(tiny_pipe, attacks={})
    plan = replace(plan, utility={"annotated": lambda: Annotated(plan.detector, "annotated")})
    settings = find(run(tiny_pipe, plan, tmp_path), "annotated").settings
    assert settings["policy"] == "explicit"
    assert settings["sampling"]["steps"] == SAMPLING.steps
