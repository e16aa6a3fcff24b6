"""RACE: it begins at ESD, attacks a ball, and trains there; each known error of other code has its test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, Tensor

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.concepts import Concept
from robust_encoders.training.attacks.embedding_pgd import EmbeddingPGD
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.distributed import Shard
from robust_encoders.training.methods import ESD, METHODS, RACE
from robust_encoders.training.methods.start_weights import StartWeights, student_at
from robust_encoders.training.objectives.config import HardeningConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.objectives.embedding_ball import AttackedUnlearn, attack_aim
from robust_encoders.training.objectives.terms import Iteration, Objective
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.reproduce import recorded_recipe, reproduce
from robust_encoders.training.recipes.run import run_recipe
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trainer.unet_parameters import UNetSelectionConfig
from robust_encoders.training.trajectories.bank import BankBatch
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.types import Edit
from robust_encoders.training.workspace import Workspace

CIRCLE = Concept(name="circle", kind="object", prompts=("a red circle", "a circle"))
QUIET = Workspace(progress=False)
TRAIN = TrainingConfig(iterations=3, rate=1e-3)
START = ESD(component="unet", unlearn=UnlearnConfig(batch=2), train=TRAIN, bank=BankConfig(steps=3))
TINY = RACE(start=START, attack=EmbeddingPGD(steps=2), train=TRAIN)
ON_TEXT = replace(START, component="text_encoder", retain=RetainConfig(weight=0))
BOTH = [pytest.param(START, id="unet"), pytest.param(ON_TEXT, id="text_encoder")]


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def erase(method: Any, pipe: Any, workspace: Workspace = QUIET, *, seed: int = 0) -> Edit:
    found: Edit = method.erase(Backbone.from_pipeline(pipe), CIRCLE, generator=generator(seed), workspace=workspace)
    return found


def saved(pipe: Any, folder: Path, start: ESD = START) -> str:
    """Train and save an ESD artifact."""
    recipe = Recipe(name="tiny/circle-esd", concept=CIRCLE, method=start, base="tiny")
    run_recipe(recipe, pipe, folder, progress=False)
    return str(folder)


@dataclass(frozen=True)
class Still:
    """An attack that stays where it begins."""

    name: ClassVar[str] = "still"

    def __call__(self, loss: Any, start: Tensor, *, generator: Generator) -> Tensor:
        loss(start)
        return start.detach()


def attacked(method: RACE, pipe: Any) -> tuple[AttackedUnlearn, Objective]:
    teacher = Backbone.from_pipeline(pipe)
    start = StartWeights.of(erase(method.start, pipe))
    student, _ = student_at(start, method.start, teacher)
    made: Any = method._loss(teacher, student, CIRCLE, QUIET)
    (term,) = made.terms
    assert isinstance(term, AttackedUnlearn)
    return term, made


def test_the_papers_settings_are_the_defaults() -> None:
    method = RACE()
    assert METHODS["race"] is RACE
    assert method.start == ESD(component="unet")
    assert method.attack == EmbeddingPGD(eps=0.1, steps=10, rate=0.25)
    assert (method.attack_target, method.regulariser, method.start_from) == ("start_noise", 0.0, "")
    assert (method.train.iterations, method.train.rate) == (1000, 1e-5)
    assert not method.wants_retained


@pytest.mark.parametrize("start", BOTH)
def test_it_begins_where_esd_ended(tiny_pipe: Any, start: ESD) -> None:
    # A published re-implementation loads the ESD weights and discards them.
    esd = erase(start, tiny_pipe)
    still = replace(TINY, start=start, train=TrainingConfig(iterations=1, rate=1e-30))
    race = erase(still, tiny_pipe)
    assert race.tensors.keys() == esd.tensors.keys()
    for name, tensor in race.tensors.items():
        assert torch.allclose(tensor, esd.tensors[name], atol=1e-7)
    student, _ = student_at(StartWeights.of(esd), start, Backbone.from_pipeline(tiny_pipe))
    moved = [name for name, one in student.parameters.items() if not torch.equal(one.cpu(), _named(esd, name))]
    assert not moved


def _named(edit: Edit, name: str) -> Tensor:
    return edit.tensors[name] if name in edit.tensors else edit.tensors[f"text_model.{name}"]


@pytest.mark.parametrize("start", BOTH)
def test_only_the_component_changes_and_a_seed_fixes_the_result(tiny_pipe: Any, start: ESD) -> None:
    before = {part: content_sha256(getattr(tiny_pipe, part).state_dict()) for part in ("text_encoder", "unet")}
    method = replace(TINY, start=start)
    edit = erase(method, tiny_pipe)
    assert {part: content_sha256(getattr(tiny_pipe, part).state_dict()) for part in before} == before
    assert edit.component == start.component
    assert content_sha256(erase(method, tiny_pipe).tensors) == content_sha256(edit.tensors)
    assert content_sha256(erase(method, tiny_pipe, seed=1).tensors) != content_sha256(edit.tensors)
    # Two steps of the attack and the training step for two rows, forward and backward; ESD has no attack.
    assert edit.log["unet_calls"] == 3 * 2 * 2 * (2 + 1) + 3 * 2 * 2
    assert edit.log["start"]["unet_calls"] == 3 * 2 * 2
    assert edit.log["bank_unet_calls"] == 2 * edit.log["start"]["bank_unet_calls"]


@pytest.mark.parametrize("start", BOTH)
@pytest.mark.parametrize("regulariser", [0.0, 0.1])
def test_a_run_resumes_exactly(tiny_pipe: Any, tmp_path: Path, start: ESD, regulariser: float) -> None:
    method = replace(TINY, start=start, regulariser=regulariser)
    whole = erase(method, tiny_pipe)
    place = Workspace(folder=tmp_path, every=2, progress=False)
    erase(method, tiny_pipe, place)
    assert (tmp_path / "checkpoint-00000002").is_dir()
    assert (tmp_path / "start" / "checkpoint-00000002").is_dir()
    again = erase(method, tiny_pipe, place)
    assert content_sha256(again.tensors) == content_sha256(whole.tensors)
    assert again.log["unet_calls"] == whole.log["unet_calls"]


def test_the_loss_is_esds_at_the_worst_conditioning_of_the_ball(tiny_pipe: Any) -> None:
    term, made = attacked(replace(TINY, attack=EmbeddingPGD(eps=0.3, steps=4)), tiny_pipe)
    rows = term.rows(Iteration(generator(), False))
    points = rows.points
    assert points is not None
    assert points.start is not None
    assert rows.cond is not None
    teacher, unet = made.teacher, made.student.unet
    clean = teacher.condition([CIRCLE.prompts[i] for i in points.prompt_index.tolist()]).detach()
    assert ((rows.cond - clean).abs() <= 0.3 + 1e-6).all()
    assert not torch.allclose(rows.cond, clean, atol=0.1)

    def error(cond: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            found = unet(points.latents, points.t, encoder_hidden_states=cond).sample
        error: Tensor = (found - target).square().flatten(1).mean(1)
        return error

    assert (error(rows.cond, points.start) < error(clean, points.start)).all(), "the attack wants the start noise"
    target = points.pred_null - (points.pred_cond - points.pred_null)
    loss, parts = made(0, generator())
    assert torch.allclose(loss, error(rows.cond, target).mean(), rtol=1e-4)
    assert parts["unlearn"] == pytest.approx(float(loss.detach()))
    assert loss.requires_grad


def test_without_steps_it_is_esds_loss(tiny_pipe: Any) -> None:
    for start in (START, ON_TEXT):
        term, made = attacked(replace(TINY, start=start, attack=Still()), tiny_pipe)
        plain = replace(made, terms=[term.plain])
        assert torch.allclose(made(0, generator())[0], plain(0, generator())[0], rtol=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_start_noise_is_the_noise_whatever_the_model_predicts(make_pipe: Any, prediction_type: str) -> None:
    backbone = Backbone.from_pipeline(make_pipe(prediction_type=prediction_type))
    clean, noise = (torch.randn(2, *backbone.latent_shape, generator=generator(seed)) for seed in (0, 1))
    t = torch.tensor([100, 700])
    latents = backbone.add_noise(clean, noise, t)
    points = BankBatch(latents, t, torch.zeros(2), clean, noise + 5, start=noise)
    found = attack_aim("start_noise", points, backbone)
    # A model that predicts `found` at these latents predicts this noise.
    assert torch.allclose(found, backbone.target(clean, noise, t), atol=1e-3)
    assert torch.equal(attack_aim("prediction", points, backbone), noise + 5)
    with pytest.raises(ValueError, match="expected points that know the noise of their trajectories"):
        attack_aim("start_noise", replace(points, start=None), backbone)


def test_the_attack_targets_differ(tiny_pipe: Any) -> None:
    noise = erase(TINY, tiny_pipe)
    prediction = erase(replace(TINY, attack_target="prediction"), tiny_pipe)
    assert content_sha256(noise.tensors) != content_sha256(prediction.tensors)


def test_the_ball_of_a_text_encoder_lies_around_token_embeddings_of_unit_size(tiny_pipe: Any) -> None:
    term, made = attacked(replace(TINY, start=ON_TEXT), tiny_pipe)
    rows = term.rows(Iteration(generator(), False))
    assert rows.cond is None
    assert rows.points is not None
    clean = made.teacher.embed(made.teacher.tokenize([CIRCLE.prompts[i] for i in rows.points.prompt_index.tolist()]))
    largest = float((rows.embeds - clean).detach().abs().max())
    conds = made.teacher.condition(CIRCLE.prompts).detach()
    share = float(term.plain.prompts.embeds.detach().square().mean().sqrt() / conds.square().mean().sqrt())
    assert largest == pytest.approx(0.1 * share, rel=0.05)


def test_the_regulariser_is_the_sum_of_mean_distances_from_esd(tiny_pipe: Any) -> None:
    method = replace(TINY, regulariser=0.1, train=replace(TRAIN, iterations=2, rate=0.01))
    edit, esd = erase(method, tiny_pipe), erase(START, tiny_pipe)
    curve = edit.log["losses"]["near_start"]
    assert curve[0] == 0
    first = erase(replace(method, train=replace(method.train, iterations=1)), tiny_pipe)
    distance = sum(float((first.tensors[n] - t).abs().mean()) for n, t in esd.tensors.items())
    assert curve[1] == pytest.approx(distance, rel=1e-2)
    strong = erase(replace(method, regulariser=1e4, train=replace(TRAIN, iterations=20)), tiny_pipe)
    free = erase(replace(method, regulariser=0.0, train=replace(TRAIN, iterations=20)), tiny_pipe)
    moved = [sum(float((one.tensors[n] - t).abs().mean()) for n, t in esd.tensors.items()) for one in (strong, free)]
    assert moved[0] < moved[1]


@pytest.mark.parametrize("start", BOTH)
def test_a_finished_artifact_can_be_the_start(tiny_pipe: Any, tmp_path: Path, start: ESD) -> None:
    place = saved(tiny_pipe, tmp_path / "esd", start)
    method = replace(TINY, start=start, start_from=place, train=TrainingConfig(iterations=1, rate=1e-30))
    edit, esd = erase(method, tiny_pipe), erase(start, tiny_pipe)
    for name, tensor in edit.tensors.items():
        assert torch.allclose(tensor, esd.tensors[name], atol=1e-7)
    assert edit.log["start"] == {"source": place, "content_sha256": content_sha256(esd.tensors)}


def test_a_start_of_another_group_is_kept_beside_the_trained_tensors(tiny_pipe: Any, tmp_path: Path) -> None:
    wide = replace(START, unet=UNetSelectionConfig(group="u"))
    place = saved(tiny_pipe, tmp_path / "esd", wide)
    edit, esd = erase(replace(TINY, start_from=place), tiny_pipe), erase(wide, tiny_pipe)
    crossed = UNetSelectionConfig(group="x").select(tiny_pipe.unet).keys()
    assert edit.tensors.keys() == esd.tensors.keys() | crossed
    assert all(torch.equal(edit.tensors[name], tensor) for name, tensor in esd.tensors.items())


def test_a_start_that_does_not_fit_is_refused(tiny_pipe: Any, make_pipe: Any, tmp_path: Path) -> None:
    place = saved(tiny_pipe, tmp_path / "esd")
    with pytest.raises(ValueError, match="expected an artifact of form 'weights' of the text_encoder in start_from"):
        erase(replace(TINY, start=ON_TEXT, start_from=place), tiny_pipe)
    with pytest.raises(ValueError, match="from another text_encoder, unet: train the start on this base"):
        erase(replace(TINY, start_from=place), make_pipe(seed=5))
    teacher = Backbone.from_pipeline(tiny_pipe)
    with pytest.raises(ValueError, match=r"expected a start for this UNet, found 1 tensors that do not fit"):
        student_at(StartWeights({"odd": torch.zeros(2)}, {}), START, teacher)
    with pytest.raises(ValueError, match="expected a start with the"):
        student_at(StartWeights({"odd": torch.zeros(2)}, {}), ON_TEXT, teacher)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regulariser": -0.1}, "expected a finite regulariser >= 0"),
        ({"attack_target": "noise"}, "attack_target 'start_noise' or 'prediction', found 0.0 and 'noise'"),
        ({"start": replace(START, erase_from="a square")}, "found erase_from 'a square'"),
        (
            {"start": replace(ON_TEXT, hardening=HardeningConfig(objective="conditioning"))},
            "hardening.objective 'conditioning'",
        ),
        ({"train": replace(TRAIN, gradient_surgery=True)}, "expected no gradient surgery"),
    ],
)
def test_bad_settings_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **settings)


def test_several_processes_are_refused(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shard, "current", classmethod(lambda cls: cls(0, 2)))
    with pytest.raises(ValueError, match="expected one process, found 2: RACE does not share its batches"):
        erase(TINY, tiny_pipe)


def test_another_inner_attack_can_take_its_place(tiny_pipe: Any) -> None:
    assert erase(replace(TINY, attack=SoftPrompt(steps=1)), tiny_pipe).tensors


def test_the_retain_terms_are_those_of_the_start(tiny_pipe: Any) -> None:
    retain = RetainConfig(prompts=("a star", "a cross"), batch=2)
    edit = erase(replace(TINY, start=replace(START, retain=retain)), tiny_pipe)
    assert set(edit.log["losses"]) == {"unlearn", "retain"}


def test_a_recorded_run_is_reproduced(tiny_pipe: Any, tmp_path: Path) -> None:
    recipe = Recipe(name="tiny/circle-race", concept=CIRCLE, method=TINY, seed=4, base="tiny")
    made = run_recipe(recipe, tiny_pipe, tmp_path / "made", progress=False)
    assert recorded_recipe(made.manifest) == recipe
    assert reproduce(made, tiny_pipe, progress=False).equal
