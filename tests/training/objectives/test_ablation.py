"""The loss of Ablating Concepts against restatements of its formula, and the gradient that it stops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robust_encoders import Concept
from robust_encoders.overlays.projection import key_value_layers
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods.ablation import Ablation
from robust_encoders.training.objectives.ablation import AblationObjective, first_token_detached, pictures_of
from robust_encoders.training.trainer.unet_parameters import UNetSelectionConfig, trainable_unet
from robust_encoders.training.trajectories.clean import Picture, clean_latents
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace

CIRCLE = Concept(name="circle", kind="object", synonyms=("disc",), anchor="star")
QUIET = Workspace(progress=False)
SMALL = Ablation(pictures=6, batch=4, anchor_prompts=("a star", "a red star"), bank=BankConfig(steps=2, guidance=2.0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prepared(method: Ablation, pipe: Any) -> tuple[AblationObjective, dict[str, nn.Parameter]]:
    """Return an objective whose student has left the teacher."""
    teacher = Backbone.from_pipeline(pipe)
    teacher.unet.requires_grad_(False)
    student, parameters = trainable_unet(teacher, UNetSelectionConfig(group="x-strict"))
    with torch.no_grad():
        for name, one in parameters.items():
            one.add_(0.3 * torch.randn(one.shape, generator=generator(len(name))))
    made = AblationObjective.of(method, teacher, student, concept=CIRCLE, workspace=QUIET)
    teacher.unet_calls = 0
    return made, parameters


@pytest.fixture(params=["epsilon", "v_prediction"])
def pipe(request: pytest.FixtureRequest, make_pipe: Any) -> Any:
    return make_pipe(prediction_type=request.param)


@pytest.mark.parametrize("target", ["current", "frozen", "noise"])
def test_the_loss_is_the_papers(pipe: Any, target: Any) -> None:
    """Every term from the same draws, one row after the other."""
    method = replace(SMALL, target=target, prior_weight=0.5, retain=("a cross", "a ring"), retain_batch=3)
    objective, _ = prepared(method, pipe)
    teacher, student = objective.teacher, objective.student
    total, parts = objective(0, generator(3))

    g, anchors = generator(3), ("a star", "a red star")
    levels = teacher.alphas_cumprod

    def noised(pictures: Tensor, n: int) -> list[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
        index, t = torch.randint(len(pictures), (n,), generator=g), torch.randint(1000, (n,), generator=g)
        noise, rows = torch.randn(n, 4, 8, 8, generator=g), []
        for i in range(n):
            a, x0 = levels[t[i]], pictures[index[i]]
            noisy = a.sqrt() * x0 + (1 - a).sqrt() * noise[i]
            v = a.sqrt() * noise[i] - (1 - a).sqrt() * x0
            wanted = noise[i] if teacher.prediction_type == "epsilon" else v
            rows.append((int(index[i]), noisy[None], t[i : i + 1], wanted[None], x0))
        return rows

    @torch.no_grad()
    def ask(model: Backbone, row: Any, text: str) -> Tensor:
        return model.predict(row[1], row[2], model.condition([text]))

    def mean(errors: list[Tensor]) -> float:
        return float(torch.stack([error.square().mean() for error in errors]).mean())

    rows, errors = noised(objective.pictures, 4), []
    turns = torch.rand(4, generator=g)
    for row, turn in zip(rows, turns, strict=True):
        anchor = anchors[row[0] % 2]
        wanted = {"current": ask(student, row, anchor), "frozen": ask(teacher, row, anchor), "noise": row[3]}[target]
        errors.append(ask(student, row, anchor.replace("star", "circle" if turn < 0.5 else "disc")) - wanted)
    assert parts["erase"] == pytest.approx(mean(errors), rel=1e-4)
    prior = [ask(student, row, anchors[row[0] % 2]) - row[3] for row in noised(objective.pictures, 4)]
    assert parts["prior"] == pytest.approx(mean(prior), rel=1e-4)
    assert objective.kept is not None
    kept = noised(objective.kept, 3)
    retain = [ask(student, row, text) - ask(teacher, row, text) for row in kept for text in [method.retain[row[0]]]]
    assert parts["retain"] == pytest.approx(mean(retain), rel=1e-4)
    assert float(total.detach()) == pytest.approx(parts["erase"] + 0.5 * parts["prior"] + parts["retain"], rel=1e-5)


def test_no_gradient_flows_through_the_current_target(pipe: Any) -> None:
    """As if the target were a constant: the student's own prediction for the anchor, detached."""
    objective, parameters = prepared(SMALL, pipe)
    found = torch.autograd.grad(objective(0, generator())[0], list(parameters.values()))
    constant = objective._erase(generator())
    cond = objective.student.condition(constant.texts)
    predicted = objective.student.predict(constant.at.noisy, constant.at.t, cond)
    loss = (predicted - constant.target.clone()).square().mean()
    assert not constant.target.requires_grad
    for one, other in zip(found, torch.autograd.grad(loss, list(parameters.values())), strict=True):
        torch.testing.assert_close(one, other)


def test_the_prior_is_optional_and_the_calls_are_counted(pipe: Any) -> None:
    objective, _ = prepared(SMALL, pipe)
    _, parts = objective(0, generator())
    assert set(parts) == {"erase"}
    assert objective.unet_calls == 4 + 2 * 4  # the target, and forward and backward of the student
    full, _ = prepared(replace(SMALL, prior_weight=1.0, retain=("a cross",), retain_batch=2), pipe)
    full(0, generator())
    assert full.unet_calls == 4 + 2 + 2 * (4 + 4 + 2)
    state = full.state()
    full.load_state({"unet_calls": state["unet_calls"] + 5})
    assert full.unet_calls == 31


def test_the_pictures_are_the_frozen_models_and_avoid_the_concept_on_request(tiny_pipe: Any) -> None:
    objective, _ = prepared(SMALL, tiny_pipe)
    listed = [Picture(("a star", "a red star")[j % 2], j // 2) for j in range(6)]
    with torch.no_grad():
        plain = clean_latents(objective.teacher, listed, SMALL.bank, progress=False)
        avoided = clean_latents(objective.teacher, listed, SMALL.bank, negative="circle, disc", progress=False)
    assert torch.equal(objective.pictures, plain)
    assert torch.equal(prepared(replace(SMALL, avoid=True), tiny_pipe)[0].pictures, avoided)
    assert not torch.equal(plain, avoided)


def test_a_repeated_prompt_gets_pictures_of_its_own() -> None:
    assert pictures_of(["a", "b", "a"], 5) == [
        Picture("a", 0), Picture("b", 0), Picture("a", 1), Picture("a", 2), Picture("b", 1),
    ]  # fmt: skip
    assert pictures_of(["a", "b", "c"], 2) == [Picture("a", 0), Picture("b", 0)]


class Naive(nn.Module):
    """A linear layer for K or V that stops the first token's gradient by masks, as the release does."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight

    def forward(self, x: Tensor) -> Tensor:
        out = functional.linear(x, self.weight)
        mask = torch.ones_like(out)
        mask[:, :1] = 0
        return mask * out + (1 - mask) * out.detach()


def gradients(student: Backbone, parameters: dict[str, nn.Parameter], cond: Tensor) -> list[Tensor]:
    """Return the prediction, and the gradients of the parameters and of the conditioning."""
    cond = cond.detach().requires_grad_()
    latents = torch.randn(2, 4, 8, 8, generator=generator(1))
    predicted = student.predict(latents, torch.tensor([10, 700]), cond)
    found = torch.autograd.grad(predicted.square().sum(), [cond, *parameters.values()])
    return [predicted.detach(), *found]


@pytest.mark.parametrize("group", ["x-strict", "attention", "full"])
def test_keys_and_values_of_the_first_token_pass_no_gradient_on(tiny_pipe: Any, group: Any) -> None:
    teacher = Backbone.from_pipeline(tiny_pipe)
    student, parameters = trainable_unet(teacher, UNetSelectionConfig(group=group))
    cond = teacher.condition(["a star", "a red circle"])
    free = gradients(student, parameters, cond)
    layers = key_value_layers(student.unet)
    with first_token_detached(student.unet):
        stopped = gradients(student, parameters, cond)
    assert not any(layer._forward_hooks for layer in layers.values())
    assert torch.equal(free[0], stopped[0]), "predictions stay"
    assert bool(free[1][:, 0].any())
    assert not bool(stopped[1][:, 0].any())
    names = ["", "", *parameters]
    key = next(i for i, name in enumerate(names) if "attn2.to_v" in name)
    assert not torch.allclose(free[key], stopped[key])
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        setattr(student.unet.get_submodule(parent), own, Naive(layer))
    for one, other in zip(stopped, gradients(student, parameters, cond), strict=True):
        torch.testing.assert_close(one, other)


def test_a_prompt_without_a_rest_moves_nothing(tiny_pipe: Any) -> None:
    """With the first token alone in the conditioning, keys and values get a zero gradient."""
    student, parameters = trainable_unet(Backbone.from_pipeline(tiny_pipe), UNetSelectionConfig(group="x-strict"))
    with first_token_detached(student.unet):
        found = gradients(student, parameters, torch.randn(2, 1, 16, generator=generator()))
    assert not any(bool(one.any()) for one in found[1:])
