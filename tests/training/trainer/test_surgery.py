"""Gradient surgery: a true projection of the whole gradient, for every method of two losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tiny_training import CIRCLE, QUIET, TINY, erase, generator, prepared
from torch import Generator, Tensor, nn

from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.distributed import Shard
from robust_encoders.training.methods import DES, ESD, SPM
from robust_encoders.training.methods.spm import SPMTrainingConfig
from robust_encoders.training.objectives.config import RetainConfig
from robust_encoders.training.objectives.terms import PreservingTerm
from robust_encoders.training.trainer.loop import TrainingConfig, finetune
from robust_encoders.training.trainer.surgery import LossPair, TwoLosses, set_gradients, without_conflict
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace

OPERATED = replace(TINY, train=replace(TINY.train, gradient_surgery=True))


def vectors(*values: tuple[float, ...]) -> list[Tensor]:
    return [torch.tensor(one) for one in values]


def test_the_projection_is_of_the_gradients_themselves_not_of_their_directions() -> None:
    # The authors' code subtracts the cosine times the unit vector from the un-normalised gradient: (.02, .437).
    (found,) = without_conflict(vectors((0.02, -0.01)), vectors((0.0, 0.05)))
    assert torch.allclose(found, torch.tensor((0.02, 0.0)), atol=1e-9)


def test_all_tensors_are_one_vector() -> None:
    erase, preserve = vectors((1.0,), (-3.0,)), vectors((1.0,), (1.0,))
    # Tensor by tensor, the first agrees and would stay as it is.
    assert [one.tolist() for one in without_conflict(erase, preserve)] == [[2.0], [-2.0]]


def test_after_it_the_inner_product_is_zero_or_the_gradient_unchanged() -> None:
    draw = generator()
    for _ in range(20):
        erase, preserve = ([torch.randn(3, 4, generator=draw), torch.randn(5, generator=draw)] for _ in range(2))
        flat = [torch.cat([one.flatten() for one in g]).double() for g in (erase, preserve)]
        inner = float(flat[0] @ flat[1])
        found = torch.cat([one.flatten() for one in without_conflict(erase, preserve)]).double()
        if inner >= 0:
            assert torch.equal(found, flat[0])
        else:
            assert abs(float(found @ flat[1])) < 1e-5
            half = torch.cat([one.flatten() for one in without_conflict(erase, preserve, 0.5)]).double()
            assert torch.allclose(half, flat[0] - 0.5 * inner / (flat[1] @ flat[1]) * flat[1], atol=1e-6)


def test_without_a_preserving_gradient_nothing_changes() -> None:
    erase = vectors((1.0, -2.0))
    assert torch.equal(without_conflict(erase, vectors((0.0, 0.0)))[0], erase[0])


@dataclass
class Opposed:
    """Two losses of one vector w: w . a, and w . b."""

    w: nn.Parameter
    a: Tensor
    b: Tensor
    share: float = 1.0
    warmup: int = 0

    def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
        pair = self.pair(iteration, generator)
        return pair.erase + pair.preserve, pair.parts

    def pair(self, iteration: int, generator: Generator) -> LossPair:
        if iteration < self.warmup:
            return LossPair(torch.zeros(()), torch.zeros(()), {})
        return LossPair(self.w @ self.a, self.w @ self.b, {"erase": 1.0}, share=self.share)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        pass


def opposed(**fields: Any) -> Opposed:
    return Opposed(nn.Parameter(torch.zeros(2)), torch.tensor((2.0, -1.0)), torch.tensor((0.0, 4.0)), **fields)


@pytest.mark.parametrize(("share", "wanted"), [(0.0, (2.0, 0.0)), (1.0, (2.0, 4.0)), (0.5, (2.0, 2.0))])
def test_the_preserving_gradient_is_applied_by_its_share(share: float, wanted: tuple[float, float]) -> None:
    loss = opposed(share=share)
    set_gradients({"w": loss.w}, loss.pair(0, generator()), Accelerator(), Shard())
    assert loss.w.grad is not None
    assert loss.w.grad.tolist() == list(wanted)


def test_gradients_are_summed_over_processes_before_the_surgery() -> None:
    loss = opposed(share=0.0)
    others = iter([torch.tensor((0.0, -3.0)), torch.tensor((4.0, 0.0))])  # the other process's two gradients

    class Two(Shard):
        def total(self, tensor: Tensor) -> Tensor:
            return tensor + next(others)

    set_gradients({"w": loss.w}, loss.pair(0, generator()), Accelerator(), Two(0, 2))
    a, b = torch.tensor((2.0, -4.0)), torch.tensor((4.0, 4.0))
    assert loss.w.grad is not None
    assert torch.allclose(loss.w.grad, a - (a @ b) / (b @ b) * b)


@pytest.mark.parametrize("surgery", [True, False])
def test_iterations_without_a_gradient_leave_the_optimizer_alone(surgery: bool) -> None:
    def trained(warmup: int, iterations: int) -> Tensor:
        loss = opposed(warmup=warmup)
        finetune(
            {"w": loss.w}, loss, TrainingConfig(iterations=iterations, rate=0.1, gradient_surgery=surgery),
            generator=generator(), workspace=QUIET, identity="",
        )  # fmt: skip
        return loss.w.detach()

    assert not trained(3, 3).any()
    # Adam's bias correction counts the steps taken, not the iterations.
    assert torch.equal(trained(3, 5), trained(0, 2))


def test_clipping_is_of_the_gradient_after_the_surgery() -> None:
    loss = opposed(share=0.0)
    training = TrainingConfig(iterations=1, rate=0.1, clip=0.5, gradient_surgery=True)
    finetune({"w": loss.w}, loss, training, generator=generator(), workspace=QUIET, identity="")
    assert loss.w.grad is not None
    assert loss.w.grad.tolist() == pytest.approx([0.5, 0.0], abs=1e-5)


def test_a_method_of_one_loss_is_refused(tiny_pipe: Any) -> None:
    class One:
        def __call__(self, iteration: int, generator: Generator) -> tuple[Tensor, dict[str, float]]:
            raise AssertionError

        def state(self) -> dict[str, Tensor]:
            return {}

        def load_state(self, state: Mapping[str, Tensor]) -> None:
            pass

    with pytest.raises(ValueError, match=r"expected a method of two losses .*, found one loss \(One\): leave train"):
        finetune(
            {"w": nn.Parameter(torch.zeros(1))}, One(), TrainingConfig(gradient_surgery=True),
            generator=generator(), workspace=QUIET, identity="",
        )  # fmt: skip
    alone = ESD(retain=RetainConfig(weight=0), train=OPERATED.train, bank=TINY.bank)
    with pytest.raises(ValueError, match="found one that erases and none that preserves: give retain"):
        erase(alone, tiny_pipe)  # type: ignore[arg-type]


def test_the_pair_of_an_objective_adds_up_to_its_loss(tiny_pipe: Any) -> None:
    objective = prepared(OPERATED, tiny_pipe)
    assert isinstance(objective, TwoLosses)
    assert [term.name for term in objective.terms if isinstance(term, PreservingTerm)] == ["retain"]
    total, parts = objective(0, generator())
    calls, objective.teacher.unet_calls = objective.teacher.unet_calls, 0
    pair = objective.pair(0, generator())
    assert torch.allclose(pair.erase + pair.preserve, total)
    assert pair.parts == parts
    assert list(pair.parts) == list(parts)
    assert objective.teacher.unet_calls == calls * 3 // 2  # one forward pass, and two backward passes


def test_an_objectives_gradients_are_those_of_a_naive_computation(tiny_pipe: Any) -> None:
    objective = prepared(OPERATED, tiny_pipe)
    parameters = dict(objective.student.text_encoder.named_parameters())
    pair = objective.pair(1, generator())
    e = torch.autograd.grad(pair.erase, [*parameters.values()], retain_graph=True, allow_unused=True)
    p = torch.autograd.grad(pair.preserve, [*parameters.values()], retain_graph=True, allow_unused=True)
    g_e, g_p = (
        torch.cat(
            [
                torch.zeros_like(w).flatten() if g is None else g.flatten()
                for w, g in zip(parameters.values(), found, strict=True)
            ]
        )
        for found in (e, p)
    )
    inner = float(g_e @ g_p)
    wanted = g_p + (g_e if inner >= 0 else g_e - inner / float(g_p @ g_p) * g_p)
    set_gradients(parameters, pair, Accelerator(), Shard())
    found = torch.cat(
        [torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in parameters.values()]
    )
    assert torch.allclose(found, wanted, atol=1e-7)


@pytest.mark.parametrize("options", [{"micro_batch": 1}, {"gradient_checkpointing": True}], ids=str)
def test_less_memory_gives_the_same_encoder(tiny_pipe: Any, options: dict[str, Any]) -> None:
    whole = erase(OPERATED, tiny_pipe)
    pieces = erase(OPERATED, tiny_pipe, Workspace(progress=False, **options))
    for name, one in whole.tensors.items():
        assert torch.allclose(one, pieces.tensors[name], atol=1e-4), name


def test_training_with_it_differs_repeats_itself_and_resumes(tiny_pipe: Any, tmp_path: Path) -> None:
    plain, once, again = erase(TINY, tiny_pipe), erase(OPERATED, tiny_pipe), erase(OPERATED, tiny_pipe)
    assert all(torch.equal(one, again.tensors[name]) for name, one in once.tensors.items())
    assert any(not torch.equal(one, plain.tensors[name]) for name, one in once.tensors.items())
    space = Workspace(folder=tmp_path, every=2, progress=False)
    erase(OPERATED, tiny_pipe, space)
    resumed = erase(OPERATED, tiny_pipe, space)
    assert all(torch.equal(one, resumed.tensors[name]) for name, one in once.tensors.items())


@pytest.mark.parametrize("name", ["spm", "des"])
def test_other_methods_of_two_losses_have_it_too(tiny_pipe: Any, name: str) -> None:
    retain = ("a blue square", "a green star")
    training = TrainingConfig(iterations=2, rate=1e-3, gradient_surgery=True)
    adapters = SPMTrainingConfig(iterations=2, rate=1e-2, warmup=0, cycles=1, gradient_surgery=True)
    bank = BankConfig(steps=2)
    method: Any = SPM(train=adapters, bank=bank) if name == "spm" else DES(safe=retain, train=training)
    edit = method.erase(Backbone.from_pipeline(tiny_pipe), CIRCLE, generator=generator(), workspace=QUIET)
    assert all(bool(one.isfinite().all()) for one in edit.tensors.values())
