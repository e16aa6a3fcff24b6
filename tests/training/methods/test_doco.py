"""DoCo: the losses against their formulas, what is trained, what is refused, exact resume."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import full_size
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robust_encoders import Concept
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.distributed import Shard
from robust_encoders.training.methods.doco import DoCo, DoCoTrainingConfig
from robust_encoders.training.objectives.doco import CleanPictures, DoCoLosses, predicted_clean
from robust_encoders.training.objectives.patch_discriminator import Adversary, PatchDiscriminator, strided_layers
from robust_encoders.training.prompts.anchor_pairs import AnchorPair
from robust_encoders.training.trainer.unet_parameters import UNetSelectionConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace

CONCEPT = Concept(name="circle", kind="object", synonyms=("disc",), anchor="star", prompts=("a red circle", "a disc"))
QUIET = Workspace(progress=False)
TRAIN = DoCoTrainingConfig(iterations=4, rate=1e-3)
SMALL = DoCo(pictures=4, batch=2, warmup=2, train=TRAIN, bank=BankConfig(steps=2))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def erase(method: DoCo, pipe: Any, workspace: Workspace = QUIET, seed: int = 0) -> Any:
    return method.erase(Backbone.from_pipeline(pipe), CONCEPT, generator=generator(seed), workspace=workspace)


def prepared(pipe: Any, method: DoCo = SMALL) -> DoCoLosses:
    teacher = Backbone.from_pipeline(pipe)
    teacher.unet.requires_grad_(False)
    student = teacher.clone()
    with torch.no_grad():
        for one in student.text_encoder.parameters():
            one.add_(0.01 * torch.randn(one.shape, generator=generator(5)))
    return DoCoLosses.prepare(method, CONCEPT, (teacher, student), generator=generator(), workspace=QUIET)


def test_the_defaults_are_those_of_the_release() -> None:
    method = DoCo()
    assert (method.batch, method.warmup, method.pictures, method.surgery) == (8, 1000, 1000, 1.0)
    assert (method.train.iterations, method.train.rate, method.train.clip) == (2000, 8 * 6e-6, 1.0)
    assert (method.unet.group, method.discriminator_rate, method.prior_weight) == ("x-strict", 1e-4, 0.0)
    assert method.train.gradient_surgery


@pytest.mark.parametrize(("side", "layers"), [(96, 4), (64, 4), (32, 4), (16, 3), (8, 2), (4, 1)])
def test_small_latents_get_fewer_layers(side: int, layers: int) -> None:
    assert strided_layers(side) == layers
    network = PatchDiscriminator((4, side, side), generator())
    convolutions = [one for one in network.layers if isinstance(one, torch.nn.Conv2d)]
    assert [one.out_channels for one in convolutions] == [*[64, 128, 256, 512][:layers], 1]
    norms = [one for one in network.layers if isinstance(one, torch.nn.BatchNorm2d)]
    assert len(norms) == layers - 1  # the first layer has none
    assert network(torch.randn(2, 4, side, side, generator=generator())).numel() >= 2


def test_too_small_latents_are_refused() -> None:
    with pytest.raises(ValueError, match="expected latents of at least 4 x 4 for a discriminator, found a side of 2"):
        strided_layers(2)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_clean_latents_are_those_that_were_noised(make_pipe: Any, prediction_type: str) -> None:
    pipe = make_pipe()
    pipe.scheduler.register_to_config(prediction_type=prediction_type)
    backbone = Backbone.from_pipeline(pipe)
    clean, noise = (torch.randn(3, 4, 8, 8, generator=generator(i)) for i in (1, 2))
    t = torch.tensor([3, 400, 900])
    noised = backbone.add_noise(clean, noise, t)
    found = predicted_clean(backbone, noised, t, backbone.target(clean, noise, t))
    assert torch.allclose(found, clean, atol=1e-3)
    if prediction_type == "epsilon":
        level = backbone.alphas_cumprod[t].view(-1, 1, 1, 1)
        assert torch.allclose(found, (noised - (1 - level).sqrt() * noise) / level.sqrt(), atol=1e-5)


def test_the_discriminators_step_is_adam_on_its_loss() -> None:
    shape = (4, 8, 8)
    frozen, student = (torch.randn(3, *shape, generator=generator(i)) for i in (1, 2))
    adversary = Adversary(shape, 1e-3, generator=generator(), device=torch.device("cpu"))
    network = PatchDiscriminator(shape, generator())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.999))
    for _ in range(2):
        optimizer.zero_grad()
        on_frozen, on_student = network(frozen), network(student)
        zeros, ones = torch.zeros_like(on_frozen), torch.ones_like(on_student)
        bce = F.binary_cross_entropy_with_logits
        loss = bce(on_frozen, zeros) + bce(on_student, ones)
        torch.autograd.backward(loss)
        optimizer.step()
        assert adversary.step(frozen, student) == pytest.approx(float(loss.detach()), rel=1e-6)
    for one, other in zip(adversary.network.parameters(), network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_student_is_told_to_look_like_the_frozen_model_and_the_discriminator_stays() -> None:
    shape = (4, 8, 8)
    adversary = Adversary(shape, 1e-3, generator=generator(), device=torch.device("cpu"))
    before = [one.detach().clone() for one in adversary.network.parameters()]
    student = torch.randn(3, *shape, generator=generator(2)).requires_grad_()
    loss = adversary.fooled(student)
    torch.autograd.backward(loss)
    logits = adversary.network(student)
    assert torch.allclose(loss, -torch.log(1 - torch.sigmoid(logits)).mean())  # BCE with label 0
    assert student.grad is not None
    assert all(one.grad is None for one in adversary.network.parameters())
    assert all(torch.equal(one, b) for one, b in zip(adversary.network.parameters(), before, strict=True))


def test_both_losses_are_those_of_a_naive_restatement(tiny_pipe: Any) -> None:
    losses = prepared(tiny_pipe)
    seen: list[Tensor] = []
    step, fooled = losses.adversary.step, losses.adversary.fooled
    losses.adversary.step = lambda frozen, student: seen.extend((frozen, student)) or step(frozen, student)  # type: ignore[method-assign,func-returns-value]
    pair = losses.pair(2, generator(3))
    draw, teacher, student = generator(3), losses.teacher, losses.student

    def noised(pool: CleanPictures) -> tuple[Tensor, Tensor, Tensor, list[AnchorPair]]:
        index = torch.randint(len(pool.pairs), (2,), generator=draw)
        t = torch.randint(1000, (2,), generator=draw)
        clean, noise = pool.latents[index], torch.randn(2, *pool.latents.shape[1:], generator=draw)
        level = teacher.alphas_cumprod[t].view(-1, 1, 1, 1)
        return level.sqrt() * clean + (1 - level).sqrt() * noise, t, noise, [pool.pairs[i] for i in index]

    def clean(model: Backbone, x: Tensor, t: Tensor, prompts: list[str]) -> Tensor:
        level = teacher.alphas_cumprod[t].view(-1, 1, 1, 1)
        return (x - (1 - level).sqrt() * model.predict(x, t, model.condition(prompts))) / level.sqrt()

    assert teacher.prediction_type == "epsilon"
    x, t, _, pairs = noised(losses.anchored)
    other, at, noise, kept = noised(losses.prior)
    anchors, targets = [one.anchor for one in pairs], [one.targets[0] for one in pairs]
    assert {*anchors} <= {"a red star", "a star"}
    assert torch.allclose(seen[0], clean(teacher, x, t, anchors), atol=1e-4)
    made = clean(student, x, t, targets)
    assert torch.allclose(seen[1], made, atol=1e-4)
    assert torch.allclose(pair.erase, fooled(made), atol=1e-5)  # by the discriminator after its step
    error = student.predict(other, at, student.condition([one.anchor for one in kept])) - noise
    assert torch.allclose(pair.preserve, error.square().mean(), atol=1e-5)
    assert (pair.strength, pair.share) == (1.0, 0.0)
    assert pair.erase.requires_grad
    assert pair.preserve.requires_grad


def test_the_warm_up_trains_the_discriminator_alone(tiny_pipe: Any) -> None:
    losses = prepared(tiny_pipe)
    before = [one.detach().clone() for one in losses.adversary.network.parameters()]
    pair = losses.pair(1, generator())
    assert not pair.erase.requires_grad
    assert list(pair.parts) == ["discriminator"]
    assert any(not torch.equal(one, b) for one, b in zip(losses.adversary.network.parameters(), before, strict=True))
    method = replace(SMALL, warmup=3, unet=UNetSelectionConfig(group="full"))
    edit = erase(method, tiny_pipe)
    assert edit.log["losses"]["erase"][:3] == [None] * 3
    assert edit.log["losses"]["erase"][3] is not None
    # Adam's first step moves every parameter by the rate at most: nothing was stepped before.
    moved = max(float((one - tiny_pipe.unet.get_parameter(name)).abs().max()) for name, one in edit.tensors.items())
    assert moved == pytest.approx(TRAIN.rate, rel=1e-2)


@pytest.mark.parametrize("group", ["x-strict", "full"])
def test_it_changes_the_group_of_the_unet_and_nothing_else(tiny_pipe: Any, group: Any) -> None:
    parts = (tiny_pipe.text_encoder, tiny_pipe.unet)
    before = [{name: one.clone() for name, one in part.state_dict().items()} for part in parts]
    edit = erase(replace(SMALL, unet=UNetSelectionConfig(group=group)), tiny_pipe)
    assert (edit.form, edit.component) == ("delta", "unet")
    assert set(edit.tensors) == set(UNetSelectionConfig(group=group).select(tiny_pipe.unet))
    assert any(not torch.equal(one, before[1][name]) for name, one in edit.tensors.items())
    for part, states in zip(parts, before, strict=True):
        assert all(torch.equal(one, states[name]) for name, one in part.state_dict().items())
        assert all(one.requires_grad for one in part.parameters())


def test_it_changes_the_text_encoder_and_nothing_else(tiny_pipe: Any) -> None:
    before = {name: one.clone() for name, one in tiny_pipe.unet.state_dict().items()}
    edit = erase(replace(SMALL, component="text_encoder", retain=("a blue square",)), tiny_pipe)
    assert (edit.form, edit.component) == ("weights", "text_encoder")
    assert all(torch.equal(one, before[name]) for name, one in tiny_pipe.unet.state_dict().items())
    # Two pictures of an anchor and of a retain prompt; 2 in the warm-up: 2 + 2, then 2 + 4 + 4.
    assert edit.log["unet_calls"] == 2 * 4 + 2 * 10
    assert edit.log["bank_unet_calls"] == 2 * (4 * 2 * 2)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tiny_pipe: Any) -> None:
    once, again, other = erase(SMALL, tiny_pipe), erase(SMALL, tiny_pipe), erase(SMALL, tiny_pipe, seed=1)
    assert all(torch.equal(one, again.tensors[name]) for name, one in once.tensors.items())
    assert any(not torch.equal(one, other.tensors[name]) for name, one in once.tensors.items())


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_a_resumed_run_gives_the_same_bits(tiny_pipe: Any, tmp_path: Path, component: Any, every: int) -> None:
    method = replace(SMALL, component=component)
    whole = erase(method, tiny_pipe)
    longer = replace(method, train=replace(TRAIN, iterations=4))
    losses_at: list[int] = []
    call = DoCoLosses.pair

    class Killed(RuntimeError):
        pass

    def counted(self: Any, iteration: int, draw: Any) -> Any:
        losses_at.append(iteration)
        if len(losses_at) == every + 1:
            raise Killed
        return call(self, iteration, draw)

    space = Workspace(folder=tmp_path, every=every, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DoCoLosses, "pair", counted)
        with pytest.raises(Killed):
            erase(longer, tiny_pipe, space)
        resumed = erase(longer, tiny_pipe, space)
    assert losses_at[every + 1 :] == [*range(every, 4)]
    assert all(torch.equal(one, resumed.tensors[name]) for name, one in whole.tensors.items())
    assert resumed.log["unet_calls"] == whole.log["unet_calls"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"warmup": 4}, "expected a warm-up shorter than the 4 iterations, found 4: lower warmup"),
        ({"batch": 1}, "a batch of at least 2"),
        ({"pictures": 0}, "expected pictures of at least 1"),
        ({"surgery": 0.0}, "expected surgery above 0"),
        ({"prior_weight": -1.0}, "prior_weight of at least 0"),
        ({"component": "vae"}, "expected the component 'unet' or 'text_encoder', found 'vae'"),
        (
            {"train": replace(TRAIN, gradient_surgery=False), "surgery": 0.5, "retain": ("a star",)},
            "found surgery and retain beside no preserving loss: turn train.gradient_surgery on",
        ),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **fields)


def test_several_processes_are_refused(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shard, "current", classmethod(lambda cls: Shard(0, 2)))
    with pytest.raises(ValueError, match=r"expected one process for DoCo, found 2: start it without"):
        erase(SMALL, tiny_pipe)


@pytest.mark.slow
@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_two_iterations_at_full_size(component: Any, tmp_path: Path) -> None:
    pipe = full_size.base(full_size.SIZES["sd1"], tmp_path)
    train = DoCoTrainingConfig(iterations=2, precision="bf16")
    bank = BankConfig(steps=1, batch=1)
    method = DoCo(component=component, pictures=2, batch=2, warmup=1, train=train, bank=bank)
    edit = erase(method, pipe, Workspace(progress=False, gradient_checkpointing=True))
    assert all(bool(one.isfinite().all()) for one in edit.tensors.values())
    if component == "unet":
        assert len(edit.tensors) == 32  # keys and values of 16 cross-attentions
    peak = full_size.memory()["peak"] / full_size.GIB
    sys.stdout.write(f"\n{component}: peak {peak:.1f} GiB, {edit.log['seconds']:.0f} s\n")
