"""The continuous prefix: it lowers the loss it is given, per prompt and shared, and sees no neighbours and no judge."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from attack_helpers import PROMPTS, PlantedUNet, make_cases, tensors
from torch import Tensor

from robust_encoders.training.attacks import ATTACKS, ContinuousPrefix
from robust_encoders.training.attacks.common.denoising import DenoisingLoss, draw_noise
from robust_encoders.training.attacks.common.norm_bound import largest_norm
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import Case


@pytest.fixture
def backbone(tiny_pipe: Any) -> Backbone:
    return Backbone.from_pipeline(tiny_pipe)


@pytest.mark.parametrize("shared", [False, True])
def test_it_approaches_a_planted_conditioning(make_pipe: Any, shared: bool) -> None:
    pipe = make_pipe()
    with torch.no_grad():
        goal = Backbone.from_pipeline(pipe).condition(["striped ball round circle"])
    pipe.unet = PlantedUNet(pipe.unet, goal)
    backbone = Backbone.from_pipeline(pipe)
    cases = make_cases(backbone)

    @torch.no_grad()
    def distance(steps: int) -> float:
        attack = ContinuousPrefix(steps=steps, rate=0.05, shared=shared)
        with torch.enable_grad():
            results = attack.run(backbone, cases, seed=0)
        embeds = torch.cat([tensors(result) for result in results])
        return float((backbone.encode(embeds, backbone.tokenize(PROMPTS)) - goal).square().mean())

    assert distance(60) < 0.8 * distance(1)


def test_only_the_places_before_the_prompt_are_free(backbone: Backbone) -> None:
    results = ContinuousPrefix(tokens=2, steps=3).run(backbone, make_cases(backbone), seed=0)
    ids = backbone.tokenize(PROMPTS)
    for row, result in enumerate(results):
        found, plain = tensors(result)[0], backbone.embed(ids[row])
        assert torch.equal(found[0], plain[0])
        assert torch.equal(found[3:], plain[1:-2])
        assert not (found[1:3, None] == plain).all(-1).any()


def test_restarts_are_candidates_from_different_starts(backbone: Backbone) -> None:
    results = ContinuousPrefix(steps=2, restarts=3).run(backbone, make_cases(backbone), seed=0)
    assert all([c.kind for c in r.candidates] == ["token_embeddings"] * 3 for r in results)
    assert [c.step for c in results[0].candidates] == [2, 4, 6]
    first, second, third = tensors(results[0])
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_a_batch_equals_its_cases_one_by_one(make_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(make_pipe().to(torch.float64))
    cases = make_cases(backbone)
    attack = ContinuousPrefix(steps=5)
    together = attack.run(backbone, cases, seed=7)
    for case, result in zip(cases, together, strict=True):
        alone = dataclasses.replace(attack, batch=1).run(backbone, [case], seed=7)[0]
        torch.testing.assert_close(tensors(alone), tensors(result), atol=1e-8, rtol=0)


def test_a_shared_prefix_is_one_per_group_and_never_saw_its_prompts(backbone: Backbone) -> None:
    cases = make_cases(backbone)
    attack = ContinuousPrefix(steps=3, shared=True, prefixes=2)
    assert attack.clusters(4) == (0, 1, 0, 1)
    prefixes = [tensors(r)[0, 1:4] for r in attack.run(backbone, cases, seed=0)]
    assert torch.equal(prefixes[0], prefixes[2])
    assert torch.equal(prefixes[1], prefixes[3])
    assert not torch.equal(prefixes[0], prefixes[1])
    target = cases[0].reference_latent
    assert target is not None
    other = dataclasses.replace(cases[0], reference_latent=-target)
    changed = [tensors(r)[0, 1:4] for r in attack.run(backbone, [other, *cases[1:]], seed=0)]
    assert torch.equal(changed[0], prefixes[0])
    assert not torch.equal(changed[1], prefixes[1])


def test_seeds_decide_and_nothing_else_does(backbone: Backbone) -> None:
    cases = make_cases(backbone)
    for attack in (ContinuousPrefix(steps=2), ContinuousPrefix(steps=2, shared=True)):
        torch.manual_seed(1)
        first = torch.cat([tensors(r) for r in attack.run(backbone, cases, seed=0)])
        torch.manual_seed(2)
        assert torch.equal(torch.cat([tensors(r) for r in attack.run(backbone, cases, seed=0)]), first)
        assert not torch.equal(torch.cat([tensors(r) for r in attack.run(backbone, cases, seed=1)]), first)


@pytest.mark.parametrize("attack", [ContinuousPrefix(steps=3), ContinuousPrefix(steps=3, shared=True, batch=2)])
def test_the_reported_cost_is_what_the_unet_did(backbone: Backbone, attack: ContinuousPrefix) -> None:
    forwards = 0

    def count(module: object, args: tuple[Tensor, ...], output: object) -> None:
        nonlocal forwards
        forwards += args[0].shape[0]

    handle = backbone.unet.register_forward_hook(count)
    results = attack.run(backbone, make_cases(backbone), seed=0)
    handle.remove()
    assert sum(result.unet_calls for result in results) == 2 * forwards


def test_the_loss_is_the_error_of_the_models_own_prediction(make_pipe: Any) -> None:
    """By hand, for a v model: noised by the schedule, compared with the velocity."""
    backbone = Backbone.from_pipeline(make_pipe(prediction_type="v_prediction"))
    latents, noise = torch.randn(2, 2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([100, 900])
    a = backbone.alphas_cumprod[t].view(2, 1, 1, 1)
    with torch.no_grad():
        cond = backbone.condition(["circle", "square"])
        found = backbone.unet(a.sqrt() * latents + (1 - a).sqrt() * noise, t, encoder_hidden_states=cond).sample
        loss = DenoisingLoss(backbone, latents)(cond, t, noise)
    velocity = a.sqrt() * noise - (1 - a).sqrt() * latents
    torch.testing.assert_close(loss, (found - velocity).square().mean((1, 2, 3)))


def test_noise_comes_from_each_cases_own_generator() -> None:
    latents = torch.zeros(2, 4, 3, 3)
    both = draw_noise(latents, [torch.Generator().manual_seed(i) for i in (1, 2)])
    second = draw_noise(latents[:1], [torch.Generator().manual_seed(2)])
    assert torch.equal(both[1], second[0])


def test_sharing_needs_two_halves(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="at least 2 cases"):
        ContinuousPrefix(shared=True).run(backbone, make_cases(backbone)[:1], seed=0)


def test_a_case_without_target_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="expected a reference latent"):
        ContinuousPrefix().run(backbone, [Case(0, "a", seed=0)], seed=0)


def test_there_are_as_many_prefixes_as_asked_for_or_one_a_case(backbone: Backbone) -> None:
    cases = [
        Case(i, "a star", i, reference_latent=case.reference_latent) for i, case in enumerate(make_cases(backbone))
    ]
    for prefixes, expected in ((3, (0, 1, 2, 0)), (8, (0, 1, 2, 3))):
        attack = ContinuousPrefix(steps=1, shared=True, prefixes=prefixes)
        assert attack.clusters(4) == expected
        found = {tuple(tensors(r)[0, 1:4].flatten().tolist()) for r in attack.run(backbone, cases, seed=0)}
        assert len(found) == len(set(expected))
    assert ContinuousPrefix().clusters(3) == (0, 1, 2)


def test_one_prefix_for_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 shared prefixes, found 1"):
        ContinuousPrefix(prefixes=1)


@pytest.mark.parametrize("shared", [False, True])
def test_embeddings_stay_in_their_ball_and_say_how_large_they_are(backbone: Backbone, shared: bool) -> None:
    for bound in (0.5, 2.0, None):
        attack = ContinuousPrefix(steps=3, rate=0.5, shared=shared, bound=bound)
        assert attack.tier == ("T7" if bound is None else "T4")
        norms = []
        for result in attack.run(backbone, make_cases(backbone), seed=0):
            free = tensors(result)[0, 1:4].norm(dim=-1).max() / largest_norm(backbone)
            assert result.candidates[0].norm == pytest.approx(float(free), rel=1e-5)
            norms.append(float(free))
        assert max(norms) > 2.5 if bound is None else max(norms) == pytest.approx(bound)


def test_zero_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ContinuousPrefix(steps=0)


def test_registered_and_of_the_protocol() -> None:
    assert ATTACKS["continuous_prefix"] is ContinuousPrefix
    assert isinstance(ContinuousPrefix(), Attack)
