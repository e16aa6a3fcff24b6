"""ESD on the UNet: what it trains and towards what, on whose latents, and without retain prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.concepts import Concept
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.distributed import Shard
from robust_encoders.training.methods import ESD
from robust_encoders.training.methods.terms import build_objective, student_of
from robust_encoders.training.objectives.attribute import EraseFrom
from robust_encoders.training.objectives.config import HardeningConfig, OutlierConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.objectives.terms import Iteration, Objective
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trainer.parameters import SelectionConfig
from robust_encoders.training.trainer.unet_parameters import UNetSelectionConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.trajectories.resample import FreshTrajectories, open_source
from robust_encoders.training.types import Edit
from robust_encoders.training.workspace import Workspace

CIRCLE = Concept(name="circle", kind="object", prompts=("a red circle", "a circle"))
RED = Concept(name="red", kind="attribute", prompts=("a red square",))
QUIET = Workspace(progress=False)
TINY = ESD(
    component="unet",
    unlearn=UnlearnConfig(batch=2),
    train=TrainingConfig(iterations=3, rate=1e-3),
    bank=BankConfig(steps=3),
)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def erase(method: ESD, pipe: Any, workspace: Workspace = QUIET, *, seed: int = 0, concept: Concept = CIRCLE) -> Edit:
    return method.erase(Backbone.from_pipeline(pipe), concept, generator=generator(seed), workspace=workspace)


def objective(method: ESD, pipe: Any, concept: Concept = CIRCLE) -> Objective:
    teacher = Backbone.from_pipeline(pipe)
    student = student_of(method, teacher)
    return build_objective(method, teacher, student.backbone, concept=concept, workspace=QUIET)


def test_the_papers_settings_are_the_defaults() -> None:
    method = ESD(component="unet")
    assert method.retain == RetainConfig(weight=0)
    assert not method.wants_retained
    assert (method.unlearn.eta, method.unlearn.batch, method.unlearn.target) == (1.0, 1, "negative_guidance")
    assert (method.train.iterations, method.train.rate) == (1000, 1e-5)
    assert (method.bank.steps, method.bank.guidance) == (50, 3.0)
    assert method.unet.group == "x"


def test_the_text_encoder_still_wants_retain_prompts() -> None:
    with pytest.raises(ValueError, match="expected retain prompts for component 'text_encoder', found none"):
        ESD()
    with pytest.raises(ValueError, match="expected retain prompts, found none"):
        ESD(retain=RetainConfig())
    assert not ESD(retain=RetainConfig(weight=0)).wants_retained
    standard = ESD.standard(("a star",))
    assert (standard.component, standard.retain) == ("text_encoder", RetainConfig(prompts=("a star",)))


def test_a_component_has_its_own_default_retention() -> None:
    standard = ESD.standard(("a star",))
    assert standard.for_component("text_encoder") is standard
    unet = standard.for_component("unet")
    assert (unet.component, unet.retain.weight, unet.wants_retained) == ("unet", 0.0, False)
    assert unet.for_component("text_encoder") == standard


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"component": "vae"}, r"expected a component in \('text_encoder', 'text_encoder_2', 'unet'\)"),
        ({"component": "unet", "rollout": "fresh"}, "rollout 'bank' or 'student'"),
        ({"component": "unet", "select": SelectionConfig(layers=(0,))}, "expected no select settings beside"),
        ({"retain": RetainConfig(weight=0), "unet": UNetSelectionConfig(group="u")}, "expected no unet settings"),
        (
            {"component": "unet", "erase_from": "a ball", "unlearn": UnlearnConfig(target="anchor")},
            "beside erase_from 'a ball'",
        ),
        (
            {"component": "unet", "erase_from": "a ball", "hardening": HardeningConfig(objective="conditioning")},
            "beside erase_from 'a ball'",
        ),
        ({"component": "unet", "outliers": OutlierConfig(searched_weight=1.0)}, "the search is an attack"),
    ],
)
def test_settings_without_effect_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ESD(**{"component": "text_encoder", "retain": RetainConfig(weight=0), **settings})


@pytest.mark.parametrize("group", ["x", "x-strict", "u", "all"])
def test_only_the_group_changes_and_nothing_is_retained(tiny_pipe: Any, group: Any) -> None:
    before = {part: content_sha256(getattr(tiny_pipe, part).state_dict()) for part in ("text_encoder", "unet")}
    edit = erase(replace(TINY, unet=UNetSelectionConfig(group=group)), tiny_pipe)
    assert {part: content_sha256(getattr(tiny_pipe, part).state_dict()) for part in before} == before
    assert (edit.form, edit.component) == ("delta", "unet")
    assert edit.tensors.keys() == UNetSelectionConfig(group=group).select(tiny_pipe.unet).keys()
    assert set(edit.log["losses"]) == {"unlearn"}
    assert edit.log["unet_calls"] == 3 * 2 * 2
    own = dict(tiny_pipe.unet.named_parameters())
    assert [name for name, tensor in edit.tensors.items() if not torch.equal(tensor, own[name])]


@pytest.mark.parametrize("rollout", ["bank", "student"])
def test_a_seed_fixes_the_result_and_a_run_resumes_exactly(tiny_pipe: Any, tmp_path: Path, rollout: Any) -> None:
    method = replace(TINY, rollout=rollout)
    whole = erase(method, tiny_pipe)
    assert content_sha256(erase(method, tiny_pipe).tensors) == content_sha256(whole.tensors)
    assert content_sha256(erase(method, tiny_pipe, seed=1).tensors) != content_sha256(whole.tensors)
    place = Workspace(folder=tmp_path, every=2, progress=False)
    erase(method, tiny_pipe, place)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-00000002"]
    again = erase(method, tiny_pipe, place)
    assert content_sha256(again.tensors) == content_sha256(whole.tensors)
    assert again.log["unet_calls"] == whole.log["unet_calls"]


def test_negative_guidance_is_the_papers(tiny_pipe: Any) -> None:
    # The newer script's eta of 2 starts at e(c): e(c) - 2 (e(c) - e(0)) is e(0) - 1 (e(c) - e(0)).
    made = objective(TINY, tiny_pipe)
    rows = made.terms[0].rows(Iteration(generator(), False))
    assert rows is not None
    assert rows.points is not None
    null, cond = rows.points.pred_null, rows.points.pred_cond
    assert torch.allclose(rows.target, null - (cond - null))
    assert torch.allclose(rows.target, cond - 2 * (cond - null))


def restated(pipe: Any, latents: Tensor, t: Tensor, texts: list[str]) -> Tensor:
    ids = pipe.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        found: Tensor = pipe.unet(latents, t, encoder_hidden_states=pipe.text_encoder(ids)[0]).sample
    return found


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_an_attribute_is_erased_from_another_concept(tiny_pipe: Any, component: Any) -> None:
    method = ESD(
        component=component,
        retain=RetainConfig(weight=0),
        erase_from="a square",
        unlearn=UnlearnConfig(batch=3, eta=1.5),
        bank=BankConfig(steps=3, mode="fresh"),
    )
    made = objective(method, tiny_pipe, RED)
    (term,) = made.terms
    assert isinstance(term, EraseFrom)
    assert term.prompts.texts == ("a square",), "the student is conditioned on f"
    rows = term.rows(Iteration(generator(), False))
    assert rows.points is not None
    at = (rows.points.latents, rows.points.t)
    f, c, null = (restated(tiny_pipe, *at, [text] * 3) for text in ("a square", "red", ""))
    assert torch.allclose(rows.target, f - 1.5 * (c - null), atol=1e-3)
    loss, _ = made(0, generator())
    assert torch.allclose(loss, (f - rows.target).square().mean(), rtol=1e-3), "student and base are equal at first"


def test_the_bank_of_an_attribute_holds_trajectories_of_the_other_concept(tiny_pipe: Any) -> None:
    method = replace(TINY, erase_from="a square", bank=BankConfig(steps=3))
    both = Concept.joint((RED, Concept(name="dotted", kind="style")))
    (term,) = objective(method, tiny_pipe, both).terms
    assert isinstance(term, EraseFrom)
    assert term.points.source.prompts == ("a square", "a square")
    edit = erase(method, tiny_pipe, concept=both)
    assert edit.log["bank_unet_calls"] == 2 * 3 * 3, "two names, three steps, three predictions"


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_the_model_in_training_draws_its_own_latents(tiny_pipe: Any, component: Any) -> None:
    teacher = Backbone.from_pipeline(tiny_pipe)
    method = ESD(component=component, retain=RetainConfig(weight=0), rollout="student", bank=BankConfig(steps=4))
    student = student_of(method, teacher)
    source = open_source(teacher, CIRCLE.prompts, method.bank, student=student.backbone)
    assert isinstance(source, FreshTrajectories)
    frozen = FreshTrajectories(teacher, CIRCLE.prompts, method.bank)
    before = source.sample(4, generator())
    assert torch.allclose(before.latents, frozen.sample(4, generator()).latents, atol=1e-5)
    with torch.no_grad():
        for parameter in student.parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(1)))
    after = source.sample(4, generator())
    assert after.start is not None
    assert before.start is not None
    assert torch.equal(after.start, before.start)
    moved = (after.latents - before.latents).flatten(1).abs().amax(1)
    at_start = after.t == teacher.timesteps(4)[0]
    assert torch.equal(moved == 0, at_start), "all but the first latent come from the student"
    for batch in (before, after):
        texts = [CIRCLE.prompts[i] for i in batch.prompt_index.tolist()]
        assert torch.allclose(batch.pred_cond, restated(tiny_pipe, batch.latents, batch.t, texts), atol=1e-4)
        assert torch.allclose(batch.pred_null, restated(tiny_pipe, batch.latents, batch.t, [""] * 4), atol=1e-4)


def test_the_calls_of_a_students_run_are_counted(tiny_pipe: Any) -> None:
    teacher = Backbone.from_pipeline(tiny_pipe)
    student = student_of(TINY, teacher)
    source = FreshTrajectories(teacher, CIRCLE.prompts, TINY.bank, student=student.backbone)
    points = source.sample(2, generator())
    grid = teacher.timesteps(3).tolist()
    steps = sum(grid.index(t) + 1 for t in points.t.tolist())
    assert teacher.unet_calls == 2 * steps + 2 * 2


def test_a_bank_knows_where_its_trajectories_begin(tiny_pipe: Any, tmp_path: Path) -> None:
    teacher = Backbone.from_pipeline(tiny_pipe)
    source = open_source(teacher, ("a circle",), BankConfig(steps=3), cache_dir=tmp_path, progress=False)
    points = source.sample(5, generator())
    assert points.start is not None
    assert points.start.dtype == torch.float32
    first = points.t == teacher.timesteps(3)[0]
    assert first.any()
    assert not first.all()
    assert torch.equal(points.start[first], points.latents[first])
    assert (points.start == points.start[0]).all(), "one trajectory begins at one noise"


def test_several_concepts_are_erased_in_one_run(tiny_pipe: Any) -> None:
    both = Concept.joint((CIRCLE, RED))
    (term,) = objective(TINY, tiny_pipe, both).terms
    rows = [term.rows(Iteration(generator(seed), False)) for seed in range(20)]
    drawn = {i for row in rows if row is not None and row.points is not None for i in row.points.prompt_index.tolist()}
    assert {both.prompts[i] for i in drawn} == {*CIRCLE.prompts, *RED.prompts}
    assert erase(TINY, tiny_pipe, concept=both).tensors


def test_several_processes_share_its_batches() -> None:
    assert TINY.for_processes(2).unlearn.batch == 4
    assert Shard.current().count == 1
