"""The inner attack through the UNet: where it begins, what it draws, and what it carries on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from tiny_training import (
    RETAIN,
    TINY,
    attack_of,
    generator,
    prepared,
    sharded,
    term_of,
)
from torch import Generator, Tensor

from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.distributed import Shard
from robust_encoders.training.losses import squared_error
from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.objectives.config import AdversaryConfig, RetainConfig
from robust_encoders.training.objectives.terms import Objective, rows_of
from robust_encoders.training.objectives.unlearning import (
    PredictionAttack,
    Unlearn,
)
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
