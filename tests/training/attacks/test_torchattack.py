"""Attacks of torchattacks on the conditioning: inside their ball, towards the concept, by seed and case alone."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import pytest
import torch
import torchattacks
from attack_helpers import (
    assert_alone_is_together,
    assert_same,
    assert_seeds_decide,
    counted,
    make_cases,
    make_target,
    planted,
    tensors,
)
from torch import Tensor

from robust_encoders import RobustEncoder, embedded_pipeline
from robust_encoders.training.attacks import ATTACKS, TorchAttack
from robust_encoders.training.attacks.common.conditioning_ball import Norm
from robust_encoders.training.attacks.common.denoising import DenoisingLoss
from robust_encoders.training.attacks.torchattack import REFUSED, RUNNABLE
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw, draw_candidates
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.protocols import Attack
from robust_encoders.training.provenance import describe
from robust_encoders.training.types import Case

SMALL = TorchAttack(eps=0.5, steps=3, samples=2)
RUNS = [(norm, name) for norm, names in RUNNABLE.items() for name in names]
# What attacks without a number of steps, or with many tries for each, need to be done within a second.
QUICK = {"SPSA": (("nb_sample", 8),), "EADL1": (("binary_search_steps", 2),), "EADEN": (("binary_search_steps", 2),)}


@pytest.fixture
def target(tiny_pipe: Any) -> TargetModel:
    return make_target(tiny_pipe)


def away(target: TargetModel, attack: TorchAttack, cases: list[Case], *, seed: int = 0) -> Tensor:
    """How far (B, L, D) every case's candidate lies from its prompt's conditioning, in its root mean squares."""
    with torch.no_grad():
        centre = target.condition([case.prompt for case in cases])
    found = torch.cat([tensors(result) for result in attack.run(target, cases, seed=seed)])
    moved: Tensor = (found - centre) / centre.square().mean((1, 2), keepdim=True).sqrt()
    return moved


def test_every_attack_of_the_library_runs_or_is_refused_by_name() -> None:
    assert {name for _, name in RUNS} | set(REFUSED) == set(torchattacks.__all__)
    assert not {name for _, name in RUNS} & set(REFUSED)


# SparseFool indexes with a tensor where NumPy wants a number.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("norm", "name"), RUNS)
def test_what_runs_stays_inside_its_ball_never_does_worse_than_the_start_and_says_what_it_cost(
    make_pipe: Any, norm: Norm, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target, _ = planted(make_pipe, "a striped ball")
    cases = make_cases(target, ["a red circle"])
    attack = dataclasses.replace(SMALL, attack=name, norm=norm, options=QUICK.get(name, ()))
    with counted(target) as sizes:
        moved = away(target, attack, cases)
    assert float(moved.abs().max() if norm == "linf" else moved.square().mean().sqrt()) <= 0.5 + 1e-5
    centre, goal = target.condition(["a red circle"]).detach(), target.unet.goal
    rms = centre.square().mean().sqrt()
    assert (centre + rms * moved - goal).square().mean() <= (centre - goal).square().mean() + 1e-6
    (result,) = attack.run(target, cases, seed=0)
    assert result.unet_calls >= sum(sizes)
    assert 0 < result.candidates[0].step <= sum(sizes) / attack.samples
    assert capsys.readouterr().out == "", "the library prints where it fails to find the device"


@pytest.mark.parametrize(
    ("norm", "name"),
    [("linf", n) for n in ("PGD", "BIM", "MIFGSM", "NIFGSM", "VNIFGSM", "UPGD", "Jitter", "APGD", "APGDT", "EADL1")]
    + [("l2", n) for n in ("PGDL2", "APGD", "APGDT", "FAB", "CW", "EADEN")],
)
def test_it_finds_what_the_model_denoises_well_for(make_pipe: Any, norm: Norm, name: str) -> None:
    target, _ = planted(make_pipe, "a striped ball")
    cases = make_cases(target, ["a red circle"])
    attack = TorchAttack(name, norm, eps=0.5, steps=20, samples=2, options=QUICK.get(name, ()))
    goal, centre = target.unet.goal.detach(), target.condition(["a red circle"]).detach()
    found = tensors(attack.run(target, cases, seed=0)[0])
    assert (found - goal).square().mean() < 0.7 * (centre - goal).square().mean()


def test_single_step_attacks_lower_the_loss_in_a_small_ball(make_pipe: Any) -> None:
    target, _ = planted(make_pipe, "a striped ball")
    cases = make_cases(target, ["a red circle"])
    for name in ("FGSM", "FFGSM"):
        moved = away(target, TorchAttack(name, eps=0.02, samples=2), cases)
        assert float(moved.abs().max()) == pytest.approx(0.02, rel=1e-3), name


@pytest.mark.parametrize("name", ["PGD", "APGD", "MIFGSM", "DeepFool"])
def test_the_reported_cost_is_what_the_unet_did(target: TargetModel, name: str) -> None:
    backward: list[int] = []

    def count(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if output.sample.requires_grad:
            output.sample.register_hook(lambda gradient: backward.append(gradient.shape[0]))

    attack = dataclasses.replace(SMALL, attack=name)
    handle = target.unet.register_forward_hook(count)
    try:
        with counted(target) as sizes:
            results = attack.run(target, make_cases(target)[:2], seed=0)
    finally:
        handle.remove()
    assert backward
    assert sum(result.unet_calls for result in results) == sum(sizes) + sum(backward)


@pytest.mark.parametrize(("norm", "name"), [("linf", "PGD"), ("l2", "PGDL2"), ("linf", "APGD"), ("l2", "APGD")])
def test_seeds_decide_and_nothing_else_does(target: TargetModel, norm: Norm, name: str) -> None:
    assert_seeds_decide(dataclasses.replace(SMALL, attack=name, norm=norm), target, make_cases(target)[:2])


def test_attacks_that_seed_the_global_generator_do_so_from_the_case() -> None:
    arguments = TorchAttack("APGD")._arguments(torchattacks.APGD, 7, (16, 24))
    assert arguments == {"eps": 0.5, "norm": "Linf", "seed": 7, "steps": 10}


@pytest.mark.parametrize("name", ["PGD", "APGD"])
def test_no_case_sees_its_neighbours(target: TargetModel, name: str) -> None:
    assert_alone_is_together(dataclasses.replace(SMALL, attack=name), target, make_cases(target))


@pytest.mark.parametrize("name", ["PGD", "APGD", "FAB", "Square", "CW"])
def test_global_randomness_and_the_model_are_left_as_they_were(target: TargetModel, name: str) -> None:
    state, modes = torch.get_rng_state(), [module.training for module in target.unet.modules()]
    before = {key: tensor.clone() for key, tensor in target.text_encoder.state_dict().items()}
    target.unet.train()
    dataclasses.replace(SMALL, attack=name).run(target, make_cases(target)[:1], seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert target.unet.training
    target.unet.eval()
    assert [module.training for module in target.unet.modules()] == modes
    assert all(torch.equal(before[key], tensor) for key, tensor in target.text_encoder.state_dict().items())
    for part in (target.text_encoder, target.unet):
        assert all(p.requires_grad and p.grad is None for p in part.parameters())


def test_options_reach_the_attack_and_the_library_s_step_keeps_its_share_of_the_ball(target: TargetModel) -> None:
    cases = make_cases(target)[:1]
    still = dataclasses.replace(SMALL, options=(("alpha", 0.0), ("random_start", False)))
    torch.testing.assert_close(away(target, still, cases), torch.zeros(1, 24, 16))
    arguments = SMALL._arguments(torchattacks.PGD, 7, (16, 24))
    assert arguments == {"eps": 0.5, "alpha": pytest.approx(0.125), "steps": 3}
    l2 = dataclasses.replace(SMALL, attack="PGDL2", norm="l2")
    assert l2._arguments(torchattacks.PGDL2, 7, (16, 24)) == {"eps": 0.5, "alpha": pytest.approx(0.1), "steps": 3}


def test_a_run_within_no_grad_is_the_same(target: TargetModel) -> None:
    cases = make_cases(target)[:1]
    with torch.no_grad():
        found = SMALL.run(target, cases, seed=0)
    assert_same(found, SMALL.run(target, cases, seed=0))


def test_candidates_can_be_drawn(tiny_pipe: Any) -> None:
    target = make_target(tiny_pipe)
    cases = make_cases(target)[:2]
    found = [result.candidates[0] for result in SMALL.run(target, cases, seed=0)]
    assert draw_candidates(tiny_pipe, cases, found, SamplingConfig(steps=1)).shape == (2, 3, 16, 16)


def test_bf16_runs_on_the_tiny_model(target: TargetModel) -> None:
    moved = away(target, dataclasses.replace(SMALL, precision="bf16"), make_cases(target)[:1])
    assert 0 < float(moved.abs().max()) <= 0.5 + 1e-5


@pytest.mark.base
def test_the_loss_of_the_shipped_encoder_falls_on_the_embedded_base() -> None:
    pipe: Any = embedded_pipeline()
    prompt = "a red circle"
    latents = draw(pipe, [prompt], [3], SamplingConfig(steps=6), latents=True)
    with RobustEncoder.from_pretrained("shapes/circle").attached(pipe):
        target = make_target(pipe)
        attack = TorchAttack.standard(steps=4, samples=4)
        (result,) = attack.run(target, [Case(0, prompt, seed=3, reference_latent=latents[0])], seed=0)
        rng = torch.Generator().manual_seed(0)
        noise, t = torch.randn(4, *target.latent_shape, generator=rng), torch.tensor([100, 350, 600, 850])
        loss = DenoisingLoss(target, latents.expand(4, -1, -1, -1))
        with torch.no_grad():
            before, after = (
                float(loss(one.expand(4, -1, -1), t, noise).mean())
                for one in (target.condition([prompt]), tensors(result))
            )
    assert result.candidates[0].step > 1
    assert after < 0.97 * before, "on points of time and noise that the attack did not see"


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_a_conditioning_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(ValueError, match=f"found '{name}': it") as caught:
        TorchAttack(name)
    assert REFUSED[name] in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attack": "PGB"}, "no attack of that name. Choose one of APGD, .*PGD.*VNIFGSM"),
        ({"attack": "PGDL2"}, "it runs in the ball of norm='l2'"),
        ({"attack": "PGD", "norm": "l2"}, "it runs in the ball of norm='linf'"),
        ({"norm": "l1"}, "expected norm 'linf' or 'l2'"),
        ({"eps": 0.0}, "eps above 0"),
        ({"eps": float("nan")}, "eps above 0"),
        ({"steps": 0}, "steps and samples of at least 1"),
        ({"samples": 0}, "steps and samples of at least 1"),
        ({"options": (("eps", 1.0),)}, "options that TorchAttack does not set itself"),
        ({"options": (("n_queries", 1),)}, "options that TorchAttack does not set itself"),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchAttack(**fields)


def test_what_does_not_fit_is_refused_at_the_run(target: TargetModel) -> None:
    with pytest.raises(ValueError, match=r"options that PGD takes \(alpha, random_start\), found \['decay'\]"):
        dataclasses.replace(SMALL, options=(("decay", 1.0),)).run(target, make_cases(target), seed=0)
    with pytest.raises(ValueError, match="expected a reference latent in every case"):
        SMALL.run(target, [Case(0, "circle", seed=0)], seed=0)


def test_without_the_library_the_error_says_how_to_get_it(target: TargetModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(
        ImportError, match=r"pip install '\.\[attacks,eval\]'` in a clone.*pip install --no-deps torchattacks"
    ):
        SMALL.run(target, make_cases(target), seed=0)


def test_registered_described_and_of_the_protocol() -> None:
    assert ATTACKS["torchattack"] is TorchAttack
    attack = TorchAttack(options=(("alpha", 0.05), ("random_start", False)))
    assert isinstance(attack, Attack)
    assert (attack.tier, attack.joint) == ("T4", False)
    assert isinstance(hash(attack), int)
    standard = TorchAttack.standard(samples=4)
    assert (standard.attack, standard.norm, standard.samples) == ("PGD", "linf", 4)
    described = json.loads(json.dumps(describe(attack)))
    assert described["options"] == [["alpha", 0.05], ["random_start", False]]
