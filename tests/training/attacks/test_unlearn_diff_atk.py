"""UnlearnDiffAtk: the projection is exact, the search lowers the loss, and no case sees its neighbours."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from attack_helpers import PROMPTS, PlantedUNet, make_cases, texts
from torch import Tensor

from robust_encoders.training.attacks import ATTACKS, UnlearnDiffAtk
from robust_encoders.training.attacks.common.denoising import case_generator
from robust_encoders.training.attacks.unlearn_diff_atk import allowed_tokens, project_to_simplex, sample_rows
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import Case


@pytest.fixture
def backbone(tiny_pipe: Any) -> Backbone:
    return Backbone.from_pipeline(tiny_pipe)


def project_by_bisection(row: Tensor) -> Tensor:
    low, high = row.min() - 1, row.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (row - middle).clamp(min=0).sum() > 1 else (low, middle)
    return (row - high).clamp(min=0)


def test_projection_equals_bisection_and_lies_on_the_simplex() -> None:
    rows = 3 * torch.randn(4, 5, 37, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    projected = project_to_simplex(rows)
    expected = torch.stack([torch.stack([project_by_bisection(row) for row in part]) for part in rows])
    torch.testing.assert_close(projected, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(projected.sum(-1), torch.ones(4, 5, dtype=torch.float64))
    assert projected.min() >= 0


def test_projection_is_idempotent_and_keeps_the_simplex() -> None:
    inside = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(project_to_simplex(inside), inside)
    assert project_to_simplex(torch.tensor([[-5.0]])).tolist() == [[1.0]]


def project_by_sorting(rows: Tensor) -> Tensor:
    ordered = rows.sort(dim=-1, descending=True).values
    excess, rank = ordered.cumsum(-1) - 1, torch.arange(1, rows.shape[-1] + 1)
    support = (ordered * rank > excess).sum(-1, keepdim=True)
    return (rows - excess.gather(-1, support - 1) / support).clamp(min=0)


@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.01, 1.0, 1e4])
def test_long_rows_are_projected_as_if_they_were_sorted_whole(spread: float) -> None:
    rng = torch.Generator().manual_seed(2)
    uniform = torch.full((2, 3, 20_000), 1 / 20_000)
    peaked = torch.softmax(9 * torch.randn(uniform.shape, generator=rng), -1)
    for start in (uniform, peaked):
        rows = start + spread * torch.randn(start.shape, generator=rng)
        assert torch.equal(project_to_simplex(rows), project_by_sorting(rows))


def test_projection_is_the_nearest_point() -> None:
    rng = torch.Generator().manual_seed(1)
    row = torch.randn(6, generator=rng, dtype=torch.float64)
    distance = (project_to_simplex(row) - row).norm()
    others = torch.distributions.Dirichlet(torch.ones(6, dtype=torch.float64)).sample((500,))
    assert bool(((others - row).norm(dim=1) >= distance).all())


def test_sampling_follows_the_distribution() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0]).expand(1, 20_000, 6)
    uniform = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0))
    counts = sample_rows(probabilities, uniform).flatten().bincount(minlength=6) / 20_000
    torch.testing.assert_close(counts, probabilities[0, 0], atol=0.02, rtol=0)
    assert counts[[0, 2, 5]].sum() == 0


def test_sampling_never_leaves_the_vocabulary_at_the_ends() -> None:
    probabilities = torch.tensor([[[0.0, 1.0, 0.0]]]).expand(1, 2, 3)
    ends = torch.tensor([[0.0, 1 - 2**-24]])
    assert sample_rows(probabilities, ends).tolist() == [[1, 1]]


def test_the_published_schedule_is_the_default(backbone: Backbone) -> None:
    attack = UnlearnDiffAtk()
    assert (attack.tokens, attack.iterations, attack.rate, attack.weight_decay) == (3, 40, 0.01, 0.1)
    assert attack.schedule(backbone) == list(range(10, 1000, 20))
    standard = UnlearnDiffAtk.standard(tokens=5)
    assert (standard.timesteps, standard.iterations, standard.tokens) == (10, 20, 5)


def test_one_candidate_after_every_timestep_as_text(backbone: Backbone) -> None:
    attack = UnlearnDiffAtk(timesteps=3, iterations=2, batch=3)
    cases = make_cases(backbone)
    results = attack.run(backbone, cases, seed=0)
    assert len(results) == len(cases)
    for case, result in zip(cases, results, strict=True):
        assert [c.kind for c in result.candidates] == ["text"] * 3
        assert [c.step for c in result.candidates] == [2, 4, 6]
        assert all(text.endswith(case.prompt) for text in texts(result))
        assert result.queries == 0


def test_the_reported_cost_is_what_the_unet_did(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    forwards = 0

    def count(module: object, args: tuple[Tensor, ...], output: object) -> None:
        nonlocal forwards
        forwards += args[0].shape[0]

    handle = backbone.unet.register_forward_hook(count)
    results = UnlearnDiffAtk(timesteps=2, iterations=3).run(backbone, make_cases(backbone), seed=0)
    handle.remove()
    assert sum(result.unet_calls for result in results) == 2 * forwards


def test_a_batch_equals_its_cases_one_by_one(make_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(make_pipe().to(torch.float64))
    cases = make_cases(backbone)
    attack = UnlearnDiffAtk(timesteps=2, iterations=4)
    together = attack.run(backbone, cases, seed=7)
    alone = [dataclasses.replace(attack, batch=1).run(backbone, [case], seed=7)[0] for case in cases]
    assert together == alone


def test_seeds_decide_and_nothing_else_does(backbone: Backbone) -> None:
    cases = make_cases(backbone)
    attack = UnlearnDiffAtk(timesteps=1, iterations=6)
    torch.manual_seed(1)
    first = attack.run(backbone, cases, seed=0)
    torch.manual_seed(2)
    assert attack.run(backbone, cases, seed=0) == first
    assert attack.run(backbone, cases, seed=1) != first


def test_special_tokens_are_no_candidates(backbone: Backbone) -> None:
    allowed = set(allowed_tokens(backbone, typable=False).tolist())
    assert allowed == set(range(len(backbone.tokenizer))) - set(backbone.tokenizer.all_special_ids)


def test_typable_tokens_survive_decoding(backbone: Backbone) -> None:
    allowed = allowed_tokens(backbone, typable=True).tolist()
    assert 0 < len(allowed) < len(backbone.tokenizer)
    for token in allowed:
        text = backbone.tokenizer.decode([token])
        assert backbone.tokenizer(text, add_special_tokens=False).input_ids == [token]
    result = UnlearnDiffAtk(timesteps=1, iterations=3, typable=True).run(backbone, make_cases(backbone)[:1], seed=0)
    prefix = texts(result[0])[0].removesuffix(PROMPTS[0])
    assert len(backbone.tokenizer(prefix, add_special_tokens=False).input_ids) == 3


@torch.no_grad()
def test_the_search_finds_a_planted_prefix(make_pipe: Any) -> None:
    pipe = make_pipe()
    pipe.text_encoder.get_input_embeddings().weight.mul_(50)
    goal = Backbone.from_pipeline(pipe).condition(["striped ball round circle"])
    pipe.unet = PlantedUNet(pipe.unet, goal)
    backbone = Backbone.from_pipeline(pipe)

    def distances(prompts: list[str]) -> Tensor:
        found: Tensor = (backbone.condition(prompts) - goal).square().mean((1, 2))
        return found

    cases = make_cases(backbone, ["circle"] * 3)
    with torch.enable_grad():
        results = UnlearnDiffAtk(timesteps=2, iterations=50, typable=True).run(backbone, cases, seed=0)
    words = [backbone.tokenizer.decode([token]) for token in allowed_tokens(backbone, typable=True)]
    picks = torch.randint(len(words), (400, 3), generator=torch.Generator().manual_seed(9)).tolist()
    random = distances([" ".join([*(words[i] for i in row), "circle"]) for row in picks])
    assert distances([texts(result)[-1] for result in results]).max() < random.quantile(0.02)


def test_tokens_in_place_of_the_prompt_are_all_of_the_text_after_the_empty_prompt(backbone: Backbone) -> None:
    attack = UnlearnDiffAtk(timesteps=2, iterations=2, placement="replace", typable=True)
    cases = make_cases(backbone)
    for result in attack.run(backbone, cases, seed=0):
        empty, *found = texts(result)
        assert empty == ""
        assert [candidate.step for candidate in result.candidates] == [0, 2, 4]
        assert all(len(backbone.tokenizer(text, add_special_tokens=False).input_ids) == 3 for text in found)
    words = [dataclasses.replace(case, prompt="star") for case in cases]
    other = attack.run(backbone, words, seed=0)
    assert [texts(result) for result in other] == [texts(result) for result in attack.run(backbone, cases, seed=0)]


@torch.no_grad()
def test_the_search_finds_a_planted_prompt(make_pipe: Any) -> None:
    pipe = make_pipe()
    pipe.text_encoder.get_input_embeddings().weight.mul_(50)
    goal = Backbone.from_pipeline(pipe).condition(["striped ball round"])
    pipe.unet = PlantedUNet(pipe.unet, goal)
    backbone = Backbone.from_pipeline(pipe)
    attack = UnlearnDiffAtk(timesteps=2, iterations=50, placement="replace", typable=True)
    with torch.enable_grad():
        results = attack.run(backbone, make_cases(backbone, ["a blue square"] * 3), seed=0)

    def distances(prompts: list[str]) -> Tensor:
        found: Tensor = (backbone.condition(prompts) - goal).square().mean((1, 2))
        return found

    words = [backbone.tokenizer.decode([token]) for token in allowed_tokens(backbone, typable=True)]
    picks = torch.randint(len(words), (400, 3), generator=torch.Generator().manual_seed(9)).tolist()
    random = distances([" ".join(words[i] for i in row) for row in picks])
    assert distances([texts(result)[-1] for result in results]).max() < random.quantile(0.02)


def test_the_model_is_left_as_it_was(backbone: Backbone) -> None:
    before = {name: tensor.clone() for name, tensor in backbone.text_encoder.state_dict().items()}
    UnlearnDiffAtk(timesteps=1, iterations=2).run(backbone, make_cases(backbone), seed=0)
    after = backbone.text_encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad and p.grad is None for p in backbone.unet.parameters())


def test_a_case_without_target_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"none in cases \[4\].*output_type='latent'"):
        UnlearnDiffAtk.standard().run(backbone, [*make_cases(backbone), Case(4, "a", seed=0)], seed=0)


def test_a_prompt_without_room_is_refused(backbone: Backbone) -> None:
    cases = make_cases(backbone, ["circle " * 20])
    with pytest.raises(ValueError, match="fewer adversarial tokens"):
        UnlearnDiffAtk.standard().run(backbone, cases, seed=0)


def test_an_empty_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        UnlearnDiffAtk(iterations=0)
    nowhere: Any = "suffix"
    with pytest.raises(ValueError, match="placement 'prefix' or 'replace', found 'suffix'"):
        UnlearnDiffAtk(placement=nowhere)


def test_generators_depend_on_seed_case_and_label_only() -> None:
    case = Case(2, "a", seed=5)

    def draw(*args: Any) -> float:
        return float(torch.rand((), generator=case_generator(*args)))

    assert draw(0, case, "x") == draw(0, Case(2, "b", seed=5), "x")
    others = {draw(1, case, "x"), draw(0, Case(3, "a", seed=5), "x"), draw(0, Case(2, "a", seed=6), "x")}
    assert len(others | {draw(0, case, "y"), draw(0, case, "x")}) == 5


def test_registered_and_of_the_protocol() -> None:
    assert ATTACKS["unlearn_diff_atk"] is UnlearnDiffAtk
    assert isinstance(UnlearnDiffAtk(), Attack)
