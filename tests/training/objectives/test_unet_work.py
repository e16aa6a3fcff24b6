"""What an adversarial iteration costs at the paper's settings, counted by hooks, and what it holds in memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tiny_training import CIRCLE, QUIET, RETAIN, prepared
from torch import Generator, Tensor, nn

from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.objectives.config import AdversaryConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.objectives.terms import Objective
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trajectories import resample
from robust_encoders.training.trajectories.bank import draw
from robust_encoders.training.trajectories.config import BankConfig

# The paper's schedule: 30 attack steps on one prompt, then one prompt against five retained ones.
PAPER = AdvUnlearn(retain=RetainConfig(prompts=RETAIN), adversary=AdversaryConfig(warmup=0))
STEPS, BATCH, KEPT = 30, 1, 5
# Zhang et al.'s code, by its own schedule: 36 draws of 25.48 guided steps, two frozen predictions in each of 31
# unlearning steps and one for each retained prompt, and four passes (forward, again for the checkpointed activations,
# backward to activations and to weights) through the UNet.
AUTHORS = (STEPS + BATCH) * (2 * 25.48 + 2 + 4) + KEPT * (2 * 25.48 + 1 + 4)


@dataclass
class Work:
    """UNet passes on one latent.

    Args:
        forward: Forward passes.
        backward: Backward passes to activations.
        weights: Backward passes to weights.
    """

    forward: int = 0
    backward: int = 0
    weights: int = 0

    @property
    def total(self) -> int:
        """All of them, each at the price of a forward pass."""
        return self.forward + self.backward + self.weights


@contextmanager
def counted(unet: Any) -> Iterator[Work]:
    """Count what goes through a UNet, forward and backward, from its own outputs and parameters."""
    work = Work()

    def passed(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        sample: Any = output.sample
        rows = len(sample)
        work.forward += rows

        def back(gradient: Tensor) -> None:
            work.backward += rows
            work.weights += rows * any(p.requires_grad for p in unet.parameters())

        if sample.requires_grad:
            sample.register_hook(back)

    handle = unet.register_forward_hook(passed)
    try:
        yield work
    finally:
        handle.remove()


def iteration(made: Objective, seed: int = 0) -> None:
    total, _ = made(0, Generator().manual_seed(seed))
    torch.autograd.backward(total)


def test_an_iteration_from_the_bank_is_72_passes(tiny_pipe: Any) -> None:
    made = prepared(PAPER, tiny_pipe)
    with counted(tiny_pipe.unet) as work:
        iteration(made)
    assert (work.forward, work.backward, work.weights) == (36, 36, 0)
    assert work.total == made.teacher.unet_calls == 2 * (STEPS * BATCH + BATCH + KEPT) == 72
    assert pytest.approx(2045.6, abs=0.2) == AUTHORS
    assert AUTHORS / work.total > 28


def test_a_micro_batch_costs_no_more_passes(tiny_pipe: Any) -> None:
    made = prepared(PAPER, tiny_pipe)
    made = replace(made, errors=replace(made.errors, micro_batch=2))
    with counted(tiny_pipe.unet) as work:
        iteration(made)
    assert work.total == made.teacher.unet_calls == 72


def test_an_iteration_of_fresh_trajectories_is_1908_passes_on_average(
    tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 50
    stops: list[int] = []

    def noting(high: int, n: int, generator: Generator) -> Tensor:
        found = draw(high, n, generator)
        if high == steps:
            stops.extend(found.tolist())
        return found

    monkeypatch.setattr(resample, "draw", noting)
    made = prepared(replace(PAPER, bank=BankConfig(mode="fresh")), tiny_pipe)
    with counted(tiny_pipe.unet) as work:
        iteration(made)
    points = STEPS * BATCH + BATCH + KEPT
    assert len(stops) == points
    # With and without the prompt at each step up to the drawn one, then once forward and backward.
    assert work.total == made.teacher.unet_calls == sum(2 * (stop + 1) for stop in stops) + 2 * points
    assert points * 2 * (steps + 1) / 2 + 2 * points == 1908


def alive() -> list[nn.Parameter]:
    return [found for found in gc.get_objects() if type(found) is nn.Parameter]


def test_memory_holds_one_unet_and_two_text_encoders(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (tiny_pipe.tokenizer, tiny_pipe.text_encoder, tiny_pipe.unet, tiny_pipe.scheduler)
    backbone = Backbone(*parts)
    unet, teacher = list(backbone.unet.parameters()), list(backbone.text_encoder.parameters())
    vae = list(tiny_pipe.vae.parameters())
    gc.collect()
    before = {id(p) for p in alive()}
    assert {id(p) for p in [*unet, *teacher, *vae]} <= before
    method = replace(
        PAPER,
        train=TrainingConfig(iterations=2),
        attack=SoftPrompt(steps=2),
        adversary=AdversaryConfig(),
        unlearn=UnlearnConfig(),
    )
    seen: list[tuple[int, int]] = []
    call = Objective.__call__

    def looking(self: Objective, iteration: int, generator: Generator) -> Any:
        gc.collect()
        student = [p for p in alive() if id(p) not in before]
        trained = [p for p in student if p.requires_grad]
        assert [p.shape for p in self.student.text_encoder.parameters()] == [p.shape for p in teacher]
        assert {id(p) for p in student} == {id(p) for p in self.student.text_encoder.parameters()}
        assert not any(p.requires_grad for p in [*unet, *teacher])
        assert self.teacher.unet is self.student.unet is backbone.unet
        found = call(self, iteration, generator)
        assert all(p.grad is None for p in [*unet, *teacher, *vae])
        seen.append((sum(p.numel() for p in student), sum(p.numel() for p in trained)))
        return found

    monkeypatch.setattr(Objective, "__call__", looking)
    method.erase(backbone, CIRCLE, generator=Generator(), workspace=QUIET)
    chosen = method.select.select(backbone.text_encoder)
    expected = (sum(p.numel() for p in teacher), sum(p.numel() for p in chosen.values()))
    assert seen == [expected, expected]


def test_training_needs_no_autoencoder(tiny_pipe: Any) -> None:
    def refusing(*given: Any) -> Any:
        raise AssertionError("the autoencoder was used")

    for module in tiny_pipe.vae.modules():
        module.register_forward_pre_hook(refusing)
    method = replace(PAPER, train=TrainingConfig(iterations=1), attack=SoftPrompt(steps=1))
    edit = method.erase(Backbone.from_pipeline(tiny_pipe), CIRCLE, generator=Generator(), workspace=QUIET)
    assert edit.log["unet_calls"] == 2 * (1 + 1 + 5)
