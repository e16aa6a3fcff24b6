from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import CIRCLE, OPTIONS, QUIET, RETAIN, TINY, erase, generator, prepared
from torch import Tensor

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.clip.state_dict import nested_state
from robust_encoders.concepts import Concept
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.losses import squared_error
from robust_encoders.training.methods import METHODS, AdvUnlearn
from robust_encoders.training.methods.advunlearn import _prepare
from robust_encoders.training.objectives import unlearning as objective_module
from robust_encoders.training.objectives.config import AdversaryConfig, HardeningConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.objectives.unlearning import Objective
from robust_encoders.training.prompts.concept_words import anchor_prompt
from robust_encoders.training.prompts.layout import PromptLayout
from robust_encoders.training.protocols import Method
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trainer.parameters import SelectionConfig
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace


def test_methods_are_erasers() -> None:
    assert METHODS["advunlearn"] is AdvUnlearn
    assert isinstance(TINY, Method)


@pytest.mark.parametrize("method", [TINY, OPTIONS], ids=["paper", "options"])
def test_erasing_leaves_the_base_as_it_was(tiny_pipe: Any, method: AdvUnlearn) -> None:
    tiny_pipe.unet.train()
    state = {part: content_sha256(getattr(tiny_pipe, part).state_dict()) for part in ("text_encoder", "unet")}
    edit = erase(method, tiny_pipe)
    for part, digest in state.items():
        module = getattr(tiny_pipe, part)
        assert content_sha256(module.state_dict()) == digest
        assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert tiny_pipe.unet.training
    assert content_sha256(edit.tensors) != content_sha256(nested_state(tiny_pipe.text_encoder))


def test_only_the_selected_parameters_change(tiny_pipe: Any) -> None:
    select = SelectionConfig(layers=(1,), part="mlp", final_norm=False)
    edit = erase(replace(TINY, select=select), tiny_pipe)
    before = nested_state(tiny_pipe.text_encoder)
    changed = {name for name, tensor in edit.tensors.items() if not torch.equal(tensor, before[name])}
    assert set(edit.tensors) == set(before)
    assert changed == {name for name in before if "layers.1.mlp." in name}


def test_half_precision_encoders_get_half_precision_tensors(tiny_pipe: Any) -> None:
    tiny_pipe.text_encoder.to(torch.bfloat16)
    edit = erase(replace(TINY, train=TrainingConfig(iterations=1, rate=1e-2)), tiny_pipe)
    assert {tensor.dtype for tensor in edit.tensors.values()} == {torch.bfloat16}


def test_no_weight_gradient_is_computed_for_the_unet(tiny_pipe: Any) -> None:
    made = prepared(TINY, tiny_pipe)
    total, _ = made(5, generator())
    total.backward()
    assert all(p.grad is None for p in tiny_pipe.unet.parameters())
    assert any(p.grad is not None for p in made.student.text_encoder.parameters())


def test_the_same_seed_gives_the_same_encoder(tiny_pipe: Any) -> None:
    digests = [content_sha256(erase(OPTIONS, tiny_pipe, seed=seed).tensors) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_a_killed_erasure_resumes_to_the_same_bits(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = replace(OPTIONS, train=replace(OPTIONS.train, iterations=5, precision="fp32"))
    whole = erase(method, tiny_pipe)
    space = Workspace(folder=tmp_path / "run", cache_dir=tmp_path / "bank", every=2, progress=False)
    call = Objective.__call__

    def interrupted(self: Objective, iteration: int, g: torch.Generator) -> Any:
        if iteration == 3:
            raise KeyboardInterrupt
        return call(self, iteration, g)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            erase(method, tiny_pipe, space)
    resumed = erase(method, tiny_pipe, space)
    assert content_sha256(whole.tensors) == content_sha256(resumed.tensors)
    assert whole.log["losses"] == resumed.log["losses"]
    assert whole.log["unet_calls"] == resumed.log["unet_calls"]
    with pytest.raises(RuntimeError, match="choose another folder"):
        erase(replace(method, select=SelectionConfig(layers=(0,))), tiny_pipe, space)


def test_unet_calls_are_forwards_and_backwards_on_one_latent(tiny_pipe: Any) -> None:
    log = erase(TINY, tiny_pipe).log
    assert log["bank_unet_calls"] == (3 + 4) * 3 * 2  # prompts, steps, with and without prompt
    unlearn, retain, attack_steps = 2, 3, 2
    assert log["unet_calls"] == 3 * 2 * (unlearn + retain) + 2 * 2 * attack_steps * unlearn


def test_a_fully_conditioned_retain_term_calls_no_unet(tiny_pipe: Any) -> None:
    method = replace(TINY, retain=replace(TINY.retain, space="conditioning"))
    made = prepared(method, tiny_pipe)
    assert made.retain_points is None
    _, parts = made(0, generator())
    assert set(parts) == {"unlearn", "retain_conditioning"}
    assert made.teacher.unet_calls == 2 * 2


def test_terms_come_and_go_with_settings_and_warmup(tiny_pipe: Any) -> None:
    plain = replace(TINY, unlearn=UnlearnConfig(batch=2, plain_weight=1.0, plain_batch=4))
    made = prepared(plain, tiny_pipe)
    assert set(made(0, generator())[1]) == {"unlearn", "retain"}
    assert set(made(1, generator())[1]) == {"unlearn", "plain", "retain"}
    pulled = prepared(OPTIONS, tiny_pipe)
    for iteration in (0, 1):
        assert set(pulled(iteration, generator())[1]) == {"unlearn", "plain", "retain", "retain_conditioning"}


def test_the_first_iteration_agrees_with_the_papers_equations(tiny_pipe: Any) -> None:
    made = prepared(
        replace(TINY, retain=replace(TINY.retain, weight=0.7), unlearn=UnlearnConfig(batch=2, eta=2.0)), tiny_pipe
    )
    total, parts = made(0, generator(3))
    g = generator(3)
    points = made.concept_points.sample(2, g)
    kept = made.retain_points.sample(3, g)
    cond = made.student.condition([CIRCLE.prompts[i] for i in points.prompt_index.tolist()])
    target = points.pred_null - 2.0 * (points.pred_cond - points.pred_null)
    unlearn = (made.teacher.predict(points.latents, points.t, cond) - target).square().mean()
    cond = made.student.condition([RETAIN[i] for i in kept.prompt_index.tolist()])
    retain = (made.teacher.predict(kept.latents, kept.t, cond) - kept.pred_cond).square().mean()
    assert parts["unlearn"] == pytest.approx(float(unlearn), rel=1e-4)
    assert parts["retain"] == pytest.approx(float(retain), rel=1e-3, abs=1e-9)
    assert float(total) == pytest.approx(float(unlearn + 0.7 * retain), rel=1e-4)


@torch.no_grad()
def test_the_anchor_is_the_same_prompt_without_the_concept(tiny_pipe: Any) -> None:
    made = prepared(OPTIONS, tiny_pipe)
    expected = made.teacher.condition(["a red", "a on white", ""])
    assert made.concept_prompts.targets is not None
    torch.testing.assert_close(made.concept_prompts.targets, expected)
    points = made.concept_points.sample(6, generator())
    fresh = made.teacher.predict(points.latents, points.t, expected[points.prompt_index])
    torch.testing.assert_close(made._target(points), 2 * fresh - points.pred_cond, rtol=2e-2, atol=2e-2)


def test_terms_without_their_targets_are_refused(tiny_pipe: Any) -> None:
    made = prepared(TINY, tiny_pipe)
    made.unlearn = replace(OPTIONS.unlearn, plain_space="noise")
    with pytest.raises(ValueError, match="open the source with anchors"):
        made(0, generator())
    made.unlearn = replace(OPTIONS.unlearn, target="negative_guidance")
    with pytest.raises(ValueError, match="term 'plain', found none"):
        made(0, generator())


def attacked(pipe: Any, adversary: AdversaryConfig) -> tuple[list[Tensor], Objective]:
    """Return what the attack was started from and gave, over two iterations after the warm-up."""
    seen: list[Tensor] = []
    call = SoftPrompt.__call__

    def spying(self: SoftPrompt, loss: Callable[[Tensor], Tensor], start: Tensor, *, generator: Any) -> Tensor:
        found: Tensor = call(self, loss, start, generator=generator)
        seen.extend([start, found])
        return found

    made = prepared(TINY, pipe, adversary)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SoftPrompt, "__call__", spying)
        made(1, generator())
        made(2, generator(1))
    return seen, made


def test_random_starts_are_embeddings_of_tokens(tiny_pipe: Any) -> None:
    seen, made = attacked(tiny_pipe, replace(TINY.adversary, tokens=(3,)))
    table = made.teacher.text_encoder.get_input_embeddings().weight
    for start in (seen[0], seen[2]):
        assert start.shape == (2, 3, 16)
        assert bool((start.flatten(0, 1)[:, None] == table).all(-1).any(-1).all())
    assert not made.latest


def test_the_latest_start_is_where_the_last_attack_ended(tiny_pipe: Any) -> None:
    seen, made = attacked(tiny_pipe, replace(TINY.adversary, start="latest"))
    assert torch.equal(seen[2], seen[1])
    assert torch.equal(made.latest["latest.1"], seen[3])
    restored = prepared(TINY, tiny_pipe)
    restored.load_state(made.state())
    assert torch.equal(restored.latest["latest.1"], seen[3])
    assert restored.teacher.unet_calls == made.teacher.unet_calls


def test_the_attack_lowers_its_loss(tiny_pipe: Any) -> None:
    adversary = AdversaryConfig(attack=SoftPrompt(steps=25, rate=0.05), warmup=0, points="fixed")
    made = prepared(replace(TINY, adversary=adversary), tiny_pipe)
    points = made.concept_points.sample(2, generator())
    rows = objective_module._rows(made.concept_prompts, points.prompt_index)
    with torch.no_grad():  # a student that has gone astray, so that there is something to win back
        for parameter in made.student.text_encoder.encoder.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(2)))

    def loss_of(embeds: Tensor, ids: Tensor) -> Tensor:
        cond = made.student.encode(embeds, ids)
        error: Tensor = squared_error(made.teacher.predict(points.latents, points.t, cond), points.pred_cond)
        return error

    eos_id = made.teacher.tokenizer.eos_token_id
    start = made._random_tokens(2, 1, generator(7))
    made.latest = {"latest.1": start}
    assert made.places is not None
    told = replace(adversary, start="latest")
    place, ended = made._attack(told, made.places, points.prompt_index, points, generator=generator())
    placed = made.places.put(place, points.prompt_index, ended)
    with torch.no_grad():
        before = loss_of(*PromptLayout("prefix", 1).place(*rows, start, eos_id=eos_id))
        assert bool((loss_of(*placed) < before).all())


@pytest.mark.parametrize(("points", "draws"), [("fresh", 1 + 4), ("fixed", 1)])
def test_each_attack_step_draws_fresh_points_of_the_same_prompts(tiny_pipe: Any, points: Any, draws: int) -> None:
    adversary = AdversaryConfig(attack=SoftPrompt(steps=4), warmup=0, points=points)
    made = prepared(TINY, tiny_pipe, adversary)
    drawn: list[Tensor] = []
    sample = made.concept_points.sample

    def spying(n: int, g: torch.Generator, **given: Any) -> Any:
        batch = sample(n, g, **given)
        drawn.append(batch.prompt_index)
        return batch

    made.concept_points.sample = spying
    made(0, generator())
    assert len(drawn) == draws
    assert all(torch.equal(index, drawn[0]) for index in drawn)


def test_the_attack_stops_at_nothing_but_its_warmup(tiny_pipe: Any) -> None:
    made = prepared(TINY, tiny_pipe, replace(TINY.adversary, warmup=3))
    calls = []
    for iteration in range(5):
        before = made.teacher.unet_calls
        made(iteration, generator())
        calls.append(made.teacher.unet_calls - before)
    assert calls == [10, 10, 10, 18, 18]


def test_fresh_trajectories_train_as_well(tiny_pipe: Any) -> None:
    edit = erase(replace(OPTIONS, bank=BankConfig(mode="fresh", steps=2)), tiny_pipe)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in edit.tensors.values())
    assert edit.log["unet_calls"] > 0


def test_the_concepts_name_stands_in_for_missing_prompts(tiny_pipe: Any) -> None:
    bare = Concept(name="nudity", kind="content")
    base = Backbone.from_pipeline(tiny_pipe)
    made = _prepare(TINY, None, base, base, concept=bare, workspace=QUIET)
    assert made.concept_points.prompts == ("nudity",)


def test_prompts_without_room_are_refused_before_anything_is_run(tiny_pipe: Any) -> None:
    adversary = AdversaryConfig(tokens=(1, 22))
    with pytest.raises(ValueError, match="beside 22 adversarial ones"):
        erase(replace(TINY, adversary=adversary), tiny_pipe)


def test_empty_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="expected retain prompts, found none"):
        RetainConfig()
    with pytest.raises(ValueError, match="at least one placement"):
        AdversaryConfig(tokens=())
    assert not RetainConfig(weight=0.0).in_noise


def test_defaults_are_the_papers() -> None:
    paper = AdvUnlearn(retain=RetainConfig(prompts=RETAIN))
    assert (paper.unlearn.batch, paper.unlearn.eta, paper.unlearn.target) == (1, 1.0, "negative_guidance")
    assert (paper.retain.batch, paper.retain.weight, paper.retain.space) == (5, 0.3, "noise")
    assert (paper.train.iterations, paper.train.rate, paper.adversary.warmup) == (1000, 1e-5, 200)
    assert (paper.adversary.attack.steps, paper.adversary.attack.rate) == (30, 1e-3)
    assert (paper.adversary.placements, paper.adversary.tokens, paper.adversary.start) == (("prefix",), (1,), "random")
    assert (paper.bank.steps, paper.bank.guidance, paper.unlearn.plain_weight) == (50, 3.0, 0.0)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_the_pull_wants_the_anchored_prompt_wherever_the_attack_ended(tiny_pipe: Any, eta: float) -> None:
    method = replace(TINY, unlearn=UnlearnConfig(batch=2, pull_weight=1.0, harden=HardeningConfig(eta=eta)))
    anchored = replace(CIRCLE, anchor="star")
    adversary = replace(method.adversary, slots=(2,))
    for place in (PromptLayout("prefix", 1), 2):
        made = prepared(method, tiny_pipe, adversary, concept=anchored)
        assert made.places is not None
        made.places = replace(made.places, choices=(place,))
        seen = set()
        for seed in range(4):
            unlearn, pull = made._unlearn_terms(adversary, generator(seed))
            assert torch.equal(unlearn.embeds, pull.embeds)
            assert unlearn.points is not None
            drawn = [CIRCLE.prompts[i] for i in unlearn.points.prompt_index]
            own, wanted = (made.teacher.condition(p) for p in (drawn, [anchor_prompt(p, anchored) for p in drawn]))
            torch.testing.assert_close(pull.target, wanted - eta * (own - wanted))
            assert not torch.allclose(pull.target, own)
            assert not pull.target.requires_grad
            seen |= set(drawn)
        assert seen == set(CIRCLE.prompts)


def test_pulling_brings_the_conditioning_nearer_to_the_anchored_one(tiny_pipe: Any) -> None:
    unlearn = UnlearnConfig(batch=4, pull_weight=100.0, target="anchor", eta=0.0)
    adversary = AdversaryConfig(attack=SoftPrompt(steps=1, rate=0.01), warmup=1000)
    method = replace(TINY, unlearn=unlearn, adversary=adversary, train=TrainingConfig(iterations=40, rate=2e-3))
    edit = erase(method, tiny_pipe)
    teacher = Backbone.from_pipeline(tiny_pipe)
    student = teacher.clone()
    names = dict(zip(nested_state(student.text_encoder), student.text_encoder.state_dict(), strict=True))
    student.text_encoder.load_state_dict({names[name]: tensor for name, tensor in edit.tensors.items()})
    with torch.no_grad():
        wanted, before, after = (
            teacher.condition(["a red"]),
            teacher.condition(["a red circle"]),
            student.condition(["a red circle"]),
        )
    assert squared_error(after, wanted) < 0.7 * squared_error(before, wanted)
