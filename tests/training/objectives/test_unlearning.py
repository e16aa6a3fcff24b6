"""Terms on prompts with the concept, and the attack through the UNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from tiny_training import (
    ANCHORED,
    CIRCLE,
    OPTIONS,
    RETAIN,
    TINY,
    attack_of,
    drawn,
    generator,
    prepared,
    sharded,
    term_of,
)
from torch import Generator, Tensor

from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.distributed import Shard
from robust_encoders.training.losses import squared_error
from robust_encoders.training.methods import ESD, AdvUnlearn
from robust_encoders.training.objectives.config import AdversaryConfig, HardeningConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.objectives.placement import TokenPlacement
from robust_encoders.training.objectives.terms import Iteration, Objective, rows_of
from robust_encoders.training.objectives.unlearning import (
    PlainConditionings,
    PlainPredictions,
    PredictionAttack,
    Pull,
    Unlearn,
    prediction_target,
)
from robust_encoders.training.prompts.concept_words import anchor_prompt
from robust_encoders.training.prompts.layout import PromptLayout
from robust_encoders.training.protocols import InnerAttack

KEPT = RetainConfig(prompts=RETAIN, space="conditioning", conditioning_batch=4)


@dataclass(frozen=True)
class Noting:
    """An inner attack that notes where another one began and ended."""

    name: ClassVar[str] = "noting"
    rule: InnerAttack
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, loss: Callable[[Tensor], Tensor], start: Tensor, *, generator: Generator) -> Tensor:
        found = self.rule(loss, start, generator=generator)
        self.seen.append((start, found))
        return found


@torch.no_grad()
def test_the_anchor_is_the_same_prompt_without_the_concept(tiny_pipe: Any) -> None:
    made = prepared(OPTIONS, tiny_pipe)
    unlearn = term_of(made, Unlearn)
    expected = made.teacher.condition(["a red", "a on white", ""])
    assert unlearn.prompts.targets is not None
    torch.testing.assert_close(unlearn.prompts.targets, expected)
    _, points = unlearn.points.sample(6, generator())
    fresh = made.teacher.predict(points.latents, points.t, expected[points.prompt_index])
    found = prediction_target(unlearn.config, points)
    torch.testing.assert_close(found, 2 * fresh - points.pred_cond, rtol=2e-2, atol=2e-2)


def test_terms_without_their_targets_are_refused(tiny_pipe: Any) -> None:
    unlearn = term_of(prepared(TINY, tiny_pipe), Unlearn)
    anchored = replace(OPTIONS.unlearn, plain_space="noise")
    plain = PlainPredictions(anchored, unlearn.prompts, unlearn.points)
    for term in (replace(unlearn, config=anchored), plain):
        with pytest.raises(ValueError, match="open the source with anchors"):
            drawn(term)
    with pytest.raises(ValueError, match="term 'plain', found none"):
        drawn(PlainConditionings(OPTIONS.unlearn, unlearn.prompts))
    iteration = Iteration(generator(), attacked=False)
    iteration.drawn["unlearn"] = unlearn.rows(iteration)
    with pytest.raises(ValueError, match="term 'pull', found none"):
        Pull(OPTIONS.unlearn, unlearn.prompts).rows(iteration)


def test_plain_conditionings_are_pulled_to_those_of_the_anchored_prompts(tiny_pipe: Any) -> None:
    made = prepared(OPTIONS, tiny_pipe)
    term = term_of(made, PlainConditionings)
    assert (term.weight, term.space) == (1.0, "conditioning")
    rows = drawn(term, attacked=False)
    said = dict(zip(map(tuple, made.teacher.tokenize(CIRCLE.prompts).tolist()), CIRCLE.prompts, strict=True))
    anchored = [anchor_prompt(said[tuple(row)], CIRCLE) for row in rows.ids.tolist()]
    torch.testing.assert_close(rows.target, made.teacher.condition(anchored))
    parts = [drawn(sharded(term, Shard(i, 2)), attacked=False) for i in range(2)]
    assert [part.total for part in parts] == [3, 3]
    assert torch.equal(torch.cat([part.ids for part in parts]), rows.ids)


def attacked(pipe: Any, adversary: AdversaryConfig) -> tuple[list[tuple[Tensor, Tensor]], Objective]:
    """Return what the attack was started from and gave, over two iterations after the warm-up."""
    noting = Noting(TINY.attack)
    made = prepared(replace(TINY, adversary=adversary, attack=noting), pipe)
    made(1, generator())
    made(2, generator(1))
    return noting.seen, made


def test_random_starts_are_embeddings_of_tokens(tiny_pipe: Any) -> None:
    seen, made = attacked(tiny_pipe, replace(TINY.adversary, tokens=(3,)))
    table = made.teacher.text_encoder.get_input_embeddings().weight
    for start, _ in seen:
        assert start.shape == (2, 3, 16)
        assert bool((start.flatten(0, 1)[:, None] == table).all(-1).any(-1).all())
    assert len(seen) == 2
    assert not attack_of(made).latest


def test_the_latest_start_is_where_the_last_attack_ended(tiny_pipe: Any) -> None:
    seen, made = attacked(tiny_pipe, replace(TINY.adversary, start="latest"))
    (_, first), (again, second) = seen
    assert torch.equal(again, first)
    assert torch.equal(attack_of(made).latest["latest.1"], second)
    restored = prepared(TINY, tiny_pipe)
    restored.load_state(made.state())
    assert torch.equal(attack_of(restored).latest["latest.1"], second)
    assert restored.teacher.unet_calls == made.teacher.unet_calls


def test_the_attack_lowers_its_loss(tiny_pipe: Any) -> None:
    adversary = AdversaryConfig(warmup=0, points="fixed", start="latest")
    made = prepared(replace(TINY, attack=SoftPrompt(steps=25, rate=0.05), adversary=adversary), tiny_pipe)
    unlearn, attack = term_of(made, Unlearn), attack_of(made)
    index, points = unlearn.points.sample(2, generator())
    rows = rows_of(unlearn.prompts, points.prompt_index)
    with torch.no_grad():  # a student that has gone astray, so that there is something to win back
        for parameter in made.student.text_encoder.encoder.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(2)))

    def loss_of(embeds: Tensor, ids: Tensor) -> Tensor:
        cond = made.student.encode(embeds, ids)
        return squared_error(made.teacher.predict(points.latents, points.t, cond), points.pred_cond)

    vocabulary = made.teacher.text_encoder.config.vocab_size
    start = made.teacher.embed(torch.randint(vocabulary, (2, 1), generator=generator(7))).detach()
    attack.latest = {"latest.1": start}
    placement, ended = attack(index, points, generator=generator())
    placed = attack.placements.put(placement, points.prompt_index, ended)
    eos_id = made.teacher.tokenizer.eos_token_id
    with torch.no_grad():
        before = loss_of(*PromptLayout("prefix", 1).place(*rows, start, eos_id=eos_id))
        assert bool((loss_of(*placed) < before).all())


@pytest.mark.parametrize(("points", "draws"), [("fresh", 1 + 4), ("fixed", 1)])
def test_each_attack_step_draws_fresh_points_of_the_same_prompts(
    tiny_pipe: Any, points: Any, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    adversary = AdversaryConfig(warmup=0, points=points)
    made = prepared(replace(TINY, attack=SoftPrompt(steps=4), adversary=adversary), tiny_pipe)
    seen: list[Tensor] = []
    source = term_of(made, Unlearn).points.source
    sample = source.sample

    def spying(n: int, g: Generator, **given: Any) -> Any:
        batch = sample(n, g, **given)
        seen.append(batch.prompt_index)
        return batch

    monkeypatch.setattr(source, "sample", spying)
    made(0, generator())
    assert len(seen) == draws
    assert all(torch.equal(index, seen[0]) for index in seen)


def test_the_attack_stops_at_nothing_but_its_warmup(tiny_pipe: Any) -> None:
    made = prepared(replace(TINY, adversary=replace(TINY.adversary, warmup=3)), tiny_pipe)
    calls = []
    for iteration in range(5):
        before = made.teacher.unet_calls
        made(iteration, generator())
        calls.append(made.teacher.unet_calls - before)
    assert calls == [10, 10, 10, 18, 18]


def test_without_an_attack_the_prompts_stay_as_they_are(tiny_pipe: Any) -> None:
    esd = ESD(retain=TINY.retain, unlearn=TINY.unlearn, train=TINY.train, bank=TINY.bank)
    made = prepared(esd, tiny_pipe)
    unlearn = term_of(made, Unlearn)
    assert unlearn.attack is None
    assert unlearn.state() == {}
    rows = drawn(unlearn, attacked=True)
    assert rows.points is not None
    assert torch.equal(rows.ids, made.teacher.tokenize([CIRCLE.prompts[i] for i in rows.points.prompt_index.tolist()]))


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_the_pull_wants_the_anchored_prompt_wherever_the_attack_ended(tiny_pipe: Any, eta: float) -> None:
    method = replace(
        TINY,
        unlearn=UnlearnConfig(batch=2, pull_weight=1.0),
        hardening=HardeningConfig(eta=eta),
        adversary=replace(TINY.adversary, in_place=(2,)),
    )
    choices: tuple[TokenPlacement, ...] = (PromptLayout("prefix", 1), 2)
    for choice in choices:
        made = prepared(method, tiny_pipe, concept=ANCHORED)
        attack = attack_of(made)
        here = replace(attack, placements=replace(attack.placements, choices=(choice,)))
        term, seen = replace(term_of(made, Unlearn), attack=here), set()
        for seed in range(4):
            iteration = Iteration(generator(seed), attacked=True)
            iteration.drawn["unlearn"] = unlearn = term.rows(iteration)
            pull = term_of(made, Pull).rows(iteration)
            assert pull is not None
            assert torch.equal(unlearn.embeds, pull.embeds)
            assert unlearn.points is not None
            told = [CIRCLE.prompts[i] for i in unlearn.points.prompt_index]
            own, wanted = (made.teacher.condition(p) for p in (told, [anchor_prompt(p, ANCHORED) for p in told]))
            torch.testing.assert_close(pull.target, wanted - eta * (own - wanted))
            assert not torch.allclose(pull.target, own)
            assert not pull.target.requires_grad
            seen |= set(told)
        assert seen == set(CIRCLE.prompts)


def ready(pipe: Any, **fields: Any) -> tuple[PredictionAttack, Callable[[int], Any]]:
    """Return an attack through the UNet, and a function that runs it on two prompts.

    It returns the placement, and the tokens at the attack's start and at its end.
    """
    noting = Noting(SoftPrompt(steps=3, rate=1e-2))
    adversary = AdversaryConfig(warmup=0, points="fixed", **fields)
    method: AdvUnlearn = replace(TINY, retain=KEPT, attack=noting, adversary=adversary)
    made = prepared(method, pipe)
    attack, index = attack_of(made), torch.tensor([0, 1])
    _, points = term_of(made, Unlearn).points.sample(2, generator(3), index)

    def run(seed: int) -> Any:
        placement, end = attack(index, points, generator=generator(seed))
        return placement, noting.seen[-1][0].expand_as(end), end

    return attack, run


def test_a_shared_attack_learns_one_set_of_tokens_for_all_prompts_on_and_on(tiny_pipe: Any) -> None:
    attack, run = ready(tiny_pipe, shared=1.0, restart=0.0)
    _, start, end = run(1)
    assert torch.equal(end[0], end[1])
    assert not torch.equal(start, end)
    (key,) = attack.latest
    assert key == "shared.prefix.1"
    assert torch.equal(attack.latest[key], end[:1])
    _, again, _ = run(2)
    assert torch.equal(again, end)
    restarted, run = ready(tiny_pipe, shared=1.0, restart=1.0)
    restarted.latest = dict(attack.latest)
    assert not torch.equal(run(2)[1], attack.latest[key].expand(2, -1, -1))


def test_without_sharing_every_prompt_has_its_own_attack(tiny_pipe: Any) -> None:
    attack, run = ready(tiny_pipe)
    _, _, end = run(1)
    assert not torch.equal(end[0], end[1])
    assert not attack.latest


def test_shared_tokens_survive_a_checkpoint_once_for_all_processes(tiny_pipe: Any) -> None:
    attack, run = ready(tiny_pipe, shared=1.0)
    run(1)
    other = sharded(ready(tiny_pipe, shared=1.0)[0], Shard(1, 2))
    other.load_state(attack.state())
    assert torch.equal(other.latest["shared.prefix.1"], attack.latest["shared.prefix.1"])


def test_tokens_are_put_in_place_of_the_concepts_words_too(tiny_pipe: Any) -> None:
    _, run = ready(tiny_pipe, in_place=(1, 2))
    sizes = {(type(placement).__name__, end.shape[1]) for placement, _, end in map(run, range(12))}
    assert sizes == {("PromptLayout", 1), ("int", 1), ("int", 2)}


def test_what_all_processes_have_gets_the_sum_of_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shard, "total", lambda self, tensor: 2 * tensor)
    tokens = torch.ones(1, 2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad((3 * Shard(0, 2).spread(tokens)).sum(), tokens)
    assert torch.equal(gradient, torch.full((1, 2, 3), 6.0))
