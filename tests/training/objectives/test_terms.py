"""An objective is the weighted sum of the means of its terms, encoded and predicted together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import pytest
import torch
from tiny_training import CIRCLE, OPTIONS, RETAIN, TINY, attack_of, generator, prepared, sharded, term_of
from torch import Generator, Tensor

from robust_encoders.training.distributed import Shard
from robust_encoders.training.objectives.config import UnlearnConfig
from robust_encoders.training.objectives.retention import RetainPredictions
from robust_encoders.training.objectives.terms import Iteration, Objective, StatefulTerm, TermRows, targets_of
from robust_encoders.training.objectives.unlearning import PlainPredictions, Pull, Unlearn
from robust_encoders.training.prompts.encoded import EncodedPrompts


@dataclass(frozen=True)
class Toy:
    """A term of anybody's: the prompts keep a target of its own."""

    name: ClassVar[str] = "toy"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    least: ClassVar[int] = 2
    weight: float
    prompts: EncodedPrompts
    target: Tensor

    def rows(self, iteration: Iteration) -> TermRows | None:
        return TermRows(2, *self.prompts.rows, self.target) if iteration.attacked else None


def test_no_weight_gradient_is_computed_for_the_unet(tiny_pipe: Any) -> None:
    made = prepared(TINY, tiny_pipe)
    total, _ = made(5, generator())
    torch.autograd.backward(total)
    assert all(p.grad is None for p in tiny_pipe.unet.parameters())
    assert any(p.grad is not None for p in made.student.text_encoder.parameters())


def test_terms_come_and_go_with_settings_and_warmup(tiny_pipe: Any) -> None:
    plain = replace(TINY, unlearn=UnlearnConfig(batch=2, plain_weight=1.0, plain_batch=4))
    made = prepared(plain, tiny_pipe)
    assert [term.name for term in made.terms] == ["unlearn", "plain", "retain"]
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
    _, points = term_of(made, Unlearn).points.sample(2, g)
    _, kept = term_of(made, RetainPredictions).points.sample(3, g)
    cond = made.student.condition([CIRCLE.prompts[i] for i in points.prompt_index.tolist()])
    target = points.pred_null - 2.0 * (points.pred_cond - points.pred_null)
    unlearn = (made.teacher.predict(points.latents, points.t, cond) - target).square().mean()
    cond = made.student.condition([RETAIN[i] for i in kept.prompt_index.tolist()])
    retain = (made.teacher.predict(kept.latents, kept.t, cond) - kept.pred_cond).square().mean()
    assert parts["unlearn"] == pytest.approx(float(unlearn.detach()), rel=1e-4)
    assert parts["retain"] == pytest.approx(float(retain.detach()), rel=1e-3, abs=1e-9)
    assert float(total.detach()) == pytest.approx(float((unlearn + 0.7 * retain).detach()), rel=1e-4)


def test_a_term_of_anybodys_counts_by_its_weight(tiny_pipe: Any) -> None:
    made = prepared(OPTIONS, tiny_pipe)
    assert made.metric is not None
    prompts = EncodedPrompts.read(made.teacher, ["a star", "a red circle"])
    target = made.teacher.condition(["a cross", "a ring"]).detach()
    toy = Toy(3.0, prompts, target)
    alone = replace(made, terms=[toy])
    total, parts = alone(1, generator())
    wanted = made.metric(made.student.condition(prompts.texts), target).mean().detach()
    assert parts == {"toy": pytest.approx(float(wanted), rel=1e-5)}
    assert float(total.detach()) == pytest.approx(3.0 * float(wanted), rel=1e-5)
    beside, without = replace(made, terms=[*made.terms, toy]), prepared(OPTIONS, tiny_pipe)
    assert {*beside(1, generator())[1]} == {*without(1, generator())[1], "toy"}


def test_the_terms_before_are_told_to_those_after_them(tiny_pipe: Any) -> None:
    made = prepared(replace(OPTIONS, unlearn=replace(OPTIONS.unlearn, pull_weight=1.0)), tiny_pipe)
    pull = term_of(made, Pull)
    assert pull.rows(Iteration(generator(), attacked=True)) is None, "without the term it pulls"
    iteration = Iteration(generator(), attacked=True)
    rows = term_of(made, Unlearn).rows(iteration)
    iteration.drawn["unlearn"] = rows
    pulled = pull.rows(iteration)
    assert pulled is not None
    assert pulled.embeds is rows.embeds


def test_without_a_warmup_nothing_is_ever_attacked(tiny_pipe: Any) -> None:
    made = prepared(TINY, tiny_pipe)
    seen = []

    class Noting:
        name, weight, space, least = "noting", 1.0, "noise", None

        def rows(self, iteration: Iteration) -> TermRows:
            seen.append(iteration.attacked)
            return term_of(made, RetainPredictions).rows(iteration)

    for warmup in (None, 0, 3):
        noting: Any = Noting()
        for i in (0, 3, 1000):
            replace(made, terms=[noting], warmup=warmup)(i, generator())
    assert seen == [False] * 3 + [True] * 3 + [False, True, True]


def test_targets_that_were_never_read_are_refused(tiny_pipe: Any) -> None:
    prompts = term_of(prepared(TINY, tiny_pipe), Unlearn).prompts
    with pytest.raises(ValueError, match="for the term 'plain', found none"):
        targets_of("plain", prompts, torch.tensor([0]))


def test_each_process_needs_a_row_of_every_term(tiny_pipe: Any) -> None:
    made = prepared(TINY, tiny_pipe)
    with pytest.raises(ValueError, match=r"each of 3 processes, found \{'unlearn': 2, 'retain': 3\}: choose larger"):
        sharded(made, Shard(0, 3))
    sharded(made, Shard(0, 2))


def test_only_terms_that_carry_something_on_are_in_a_checkpoint(tiny_pipe: Any) -> None:
    made = prepared(replace(TINY, adversary=replace(TINY.adversary, start="latest")), tiny_pipe)
    assert isinstance(term_of(made, Unlearn), StatefulTerm)
    assert not isinstance(term_of(made, RetainPredictions), StatefulTerm)
    assert set(made.state()) == {"unet_calls"}
    made(1, generator())
    assert set(made.state()) == {"latest.1", "unet_calls"}
    other = prepared(TINY, tiny_pipe)
    other.load_state(made.state())
    assert torch.equal(attack_of(other).latest["latest.1"], made.state()["latest.1"])
    assert other.teacher.unet_calls == made.teacher.unet_calls > 0


def test_a_micro_batch_changes_no_loss(tiny_pipe: Any) -> None:
    def told(made: Objective, g: Generator) -> dict[str, float]:
        return made(0, g)[1]

    made = prepared(TINY, tiny_pipe)
    pieces = replace(made, errors=replace(made.errors, micro_batch=2))
    assert told(pieces, generator()) == pytest.approx(told(made, generator()), rel=1e-4, abs=1e-10)


def test_a_plain_term_of_predictions_is_drawn_after_the_warmup_alone(tiny_pipe: Any) -> None:
    plain = replace(TINY, unlearn=UnlearnConfig(batch=2, plain_weight=1.0, plain_batch=4))
    term = term_of(prepared(plain, tiny_pipe), PlainPredictions)
    assert (term.weight, term.least, term.space) == (1.0, 4, "noise")
    assert term.rows(Iteration(generator(), attacked=False)) is None
    rows = term.rows(Iteration(generator(), attacked=True))
    assert rows is not None
    assert (rows.total, len(rows.ids)) == (4, 4)
