"""Terms on prompts with the concept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_training import (
    ANCHORED,
    CIRCLE,
    OPTIONS,
    TINY,
    attack_of,
    drawn,
    generator,
    prepared,
    sharded,
    term_of,
)

from robust_encoders.training.distributed import Shard
from robust_encoders.training.methods import ESD
from robust_encoders.training.objectives.config import HardeningConfig, UnlearnConfig
from robust_encoders.training.objectives.placement import TokenPlacement
from robust_encoders.training.objectives.terms import Iteration
from robust_encoders.training.objectives.unlearning import (
    PlainConditionings,
    PlainPredictions,
    Pull,
    Unlearn,
    prediction_target,
)
from robust_encoders.training.prompts.concept_words import anchor_prompt
from robust_encoders.training.prompts.layout import PromptLayout


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
