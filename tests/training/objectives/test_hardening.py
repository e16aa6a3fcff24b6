"""Terms on conditionings that harden an encoder beyond the paper's attack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_training import (
    ANCHORED,
    CIRCLE,
    RETAIN,
    TINY,
    drawn,
    erase,
    generator,
    prepared,
    sharded,
    term_of,
)
from torch import Tensor

from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.distributed import Shard
from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.methods.terms import beyond
from robust_encoders.training.objectives.config import AdversaryConfig, HardeningConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.objectives.hardening import Additions, AttackedConditionings, KeptNeighbours
from robust_encoders.training.objectives.terms import LossTerm, Objective
from robust_encoders.training.objectives.unlearning import Unlearn
from robust_encoders.training.prompts.concept_words import anchor_prompt
from robust_encoders.training.prompts.encoded import EncodedPrompts
from robust_encoders.training.protocols import InnerAttack

ATTACK = SoftPrompt(steps=3, rate=0.05)
KEPT = RetainConfig(prompts=RETAIN, space="conditioning", conditioning_batch=4)


def hardened(
    *, in_place: tuple[int, ...] = (), tokens: tuple[int, ...] = (1,), attack: InnerAttack = ATTACK, **fields: Any
) -> AdvUnlearn:
    return replace(
        TINY,
        retain=KEPT,
        unlearn=UnlearnConfig(batch=2),
        adversary=replace(TINY.adversary, in_place=in_place, tokens=tokens),
        hardening=HardeningConfig(**{"objective": "conditioning", "batch": 4, **fields}),
        hardening_attack=attack,
    )


def attacked(pipe: Any, **fields: Any) -> AttackedConditionings:
    return term_of(prepared(hardened(**fields), pipe), AttackedConditionings)


def hardening_terms(made: Objective) -> list[LossTerm]:
    return [term for term in made.terms if isinstance(term, (AttackedConditionings, Additions, KeptNeighbours))]


def after_attack(term: AttackedConditionings, seed: int) -> tuple[Tensor, Tensor]:
    """Return the student's conditionings (3, L, D) before and after an attack on the three prompts."""
    assert term.attack is not None
    index = torch.tensor([0, 1, 2])
    placement = term.placements.draw(generator(seed))
    start = term.random_tokens(3, term.placements.size(placement), generator(seed))
    end = term.attacked(term.attack, placement, index, start, generator=generator())
    with torch.no_grad():
        before, after = (
            term.prompts.student.encode(*term.placements.put(placement, index, tokens)) for tokens in (start, end)
        )
    return before, after


def test_by_default_nothing_is_hardened(tiny_pipe: Any) -> None:
    assert not hardening_terms(prepared(TINY, tiny_pipe))


def test_the_objectives_have_their_terms(tiny_pipe: Any) -> None:
    seen = {}
    for objective in ("noise", "conditioning", "both"):
        made = prepared(hardened(objective=objective), tiny_pipe)
        seen[objective] = set(made(5, generator())[1]) - {"retain_conditioning"}, made.teacher.unet_calls
    assert seen["noise"][0] == {"unlearn"}
    assert seen["conditioning"] == ({"attacked"}, 0)
    assert seen["both"][0] == {"unlearn", "attacked"}
    assert seen["both"][1] == seen["noise"][1] > 0


def test_rows_are_pulled_to_the_frozen_conditioning_of_their_anchored_prompts(tiny_pipe: Any) -> None:
    made = attacked(tiny_pipe)
    rows, teacher = drawn(made, attacked=False), made.prompts.teacher
    anchored = {text: anchor_prompt(text, CIRCLE) for text in CIRCLE.prompts}
    texts = [teacher.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows.ids]
    torch.testing.assert_close(rows.target, teacher.condition([anchored[text] for text in texts]))
    torch.testing.assert_close(rows.embeds, teacher.embed(rows.ids))
    assert (made.name, made.weight, made.least, rows.total) == ("attacked", 10.0, 4, 4)
    assert not rows.target.requires_grad


@pytest.mark.parametrize("in_place", [(), (1, 2)])
def test_the_attack_brings_the_conditioning_nearer_to_the_concepts(tiny_pipe: Any, in_place: tuple[int, ...]) -> None:
    made = attacked(tiny_pipe, in_place=in_place, attack=SoftPrompt(steps=3, rate=2e-3))
    for seed in range(4):
        before, after = (made.prompts.metric(cond, made.prompts.concept) for cond in after_attack(made, seed))
        assert (after < before).all()


def test_prompts_are_attacked_after_the_warmup_alone(tiny_pipe: Any) -> None:
    made = attacked(tiny_pipe)
    plain = {tuple(row) for row in made.prompts.ids.tolist()}
    seen = {on: {tuple(row) for row in drawn(made, attacked=on).ids.tolist()} for on in (False, True)}
    assert seen[False] <= plain
    assert not seen[True] & plain
    never = replace(made, attack=None)
    assert torch.equal(drawn(never, attacked=True).ids, drawn(made, attacked=False).ids)


def test_of_many_additions_the_farthest_are_kept(tiny_pipe: Any) -> None:
    method = hardened(objective="noise", additions_weight=1.0, additions_batch=4, candidates=5)
    made = term_of(prepared(method, tiny_pipe), Additions)
    rows, p = drawn(made), made.prompts
    index, embeds, ids = p.extend(20, generator())
    with torch.no_grad():
        far = p.metric(p.student.encode(embeds, ids), p.targets[index])
        kept = p.metric(p.student.encode(rows.embeds, rows.ids), rows.target)
    torch.testing.assert_close(kept, far.sort(descending=True).values[:4])
    assert float(far.std()) > 0


def test_additions_are_pulled_to_the_prompts_targets(tiny_pipe: Any) -> None:
    method = hardened(objective="noise", additions_weight=2.0, additions_batch=5, cut=0.5)
    (made,) = hardening_terms(prepared(method, tiny_pipe))
    assert isinstance(made, Additions)
    rows = drawn(made)
    index, embeds, ids = made.prompts.extend(5, generator())
    assert (made.name, made.weight, made.least, rows.total) == ("additions", 2.0, 5, 5)
    assert torch.equal(rows.ids, ids)
    torch.testing.assert_close(rows.embeds, embeds)
    torch.testing.assert_close(rows.target, made.prompts.targets[index])


def neighbours(pipe: Any, **fields: Any) -> KeptNeighbours:
    return term_of(prepared(hardened(objective="noise", neighbours_weight=3.0, **fields), pipe), KeptNeighbours)


def test_neighbours_keep_what_the_base_says(tiny_pipe: Any) -> None:
    made = neighbours(tiny_pipe, neighbours_batch=24)
    assert made.prompts.cut is not None
    rows, teacher = drawn(made, attacked=False), made.prompts.teacher
    assert (made.name, made.weight, made.least) == ("neighbours", 3.0, 12)
    assert (rows.total, rows.ids.shape[0]) == (24, 24)
    torch.testing.assert_close(rows.target, teacher.encode(rows.embeds, rows.ids))
    assert not rows.target.requires_grad
    kept = {tuple(row) for row in teacher.tokenize(RETAIN).tolist()}
    grown = neighbours(tiny_pipe, neighbours_batch=40, additions=1)
    found = [drawn(grown, seed, attacked=False).ids[20:] for seed in range(8)]
    unchanged = {all(tuple(row) in kept for row in rows.tolist()) for rows in found}
    assert unchanged == {True, False}, "with additions and without"


@pytest.mark.parametrize("n", [6, 7])
def test_processes_share_the_neighbours(tiny_pipe: Any, n: int) -> None:
    made = neighbours(tiny_pipe, neighbours_batch=n)
    whole = drawn(made, attacked=False)
    parts = [drawn(sharded(made, Shard(i, 2)), attacked=False) for i in range(2)]
    assert [part.total for part in parts] == [n, n]
    assert sum(len(part.ids) for part in parts) == len(whole.ids) == n
    shares = [Shard(i, 2).part(n // 2) for i in range(2)]
    kept = [part.ids[len(part.ids) - (own.stop - own.start) :] for part, own in zip(parts, shares, strict=True)]
    assert torch.equal(torch.cat(kept), whole.ids[n - n // 2 :]), "what is retained is what one process draws"


def test_processes_share_the_rows_of_one(tiny_pipe: Any) -> None:
    # Barely a step: the first of Adam follows the sign of gradients that rounding may turn.
    attack = SoftPrompt(steps=2, rate=1e-6)
    method = hardened(in_place=(1,), attack=attack, additions_weight=1.0, additions_batch=6, vocabulary=0.5)
    terms = hardening_terms(prepared(method, tiny_pipe))
    assert [term.name for term in terms] == ["attacked", "additions"]
    for made in terms:
        term, parts = drawn(made), [drawn(sharded(made, Shard(i, 2))) for i in range(2)]
        assert [part.total for part in parts] == [term.total] * 2
        torch.testing.assert_close(torch.cat([part.embeds for part in parts]), term.embeds)
        assert torch.equal(torch.cat([part.ids for part in parts]), term.ids)
        assert torch.equal(torch.cat([part.target for part in parts]), term.target)


def test_it_withstands_the_attack_better_than_a_student_that_never_met_it(tiny_pipe: Any) -> None:
    def left(adversary: AdversaryConfig) -> float:
        method = replace(hardened(batch=6), adversary=adversary)
        edit = erase(replace(method, train=replace(TINY.train, iterations=60, rate=3e-3)), tiny_pipe)
        made = attacked(tiny_pipe, in_place=(1,))
        encoder = made.prompts.student.text_encoder
        encoder.load_state_dict(dict(zip(encoder.state_dict(), edit.tensors.values(), strict=True)))
        ends = [after_attack(made, seed)[1] for seed in range(100, 110)]
        return float(torch.stack([made.prompts.metric(cond, made.prompts.targets).mean() for cond in ends]).mean())

    assert left(AdversaryConfig(warmup=0, in_place=(1,))) < left(AdversaryConfig(warmup=1000, in_place=(1,)))


def test_targets_lie_beyond_anchored_prompts_of_as_many_tokens(tiny_pipe: Any) -> None:
    base, texts, anchors = Backbone.from_pipeline(tiny_pipe), ("a red circle", "a circle"), ("a circle red", "circle")
    at = EncodedPrompts.read(base, texts, anchors)
    farther = beyond(base, at, anchors, 0.5)
    assert at.targets is not None
    assert farther.targets is not None
    own = base.condition(texts)
    torch.testing.assert_close(farther.targets[0], at.targets[0] - 0.5 * (own[0] - at.targets[0]))
    assert torch.equal(farther.targets[1], at.targets[1])
    with pytest.raises(ValueError, match="as many tokens"):
        beyond(base, EncodedPrompts.read(base, texts[1:], anchors[1:]), anchors[1:], 0.5)
    with pytest.raises(ValueError, match="expected target conditionings of the concept's prompts, found none"):
        beyond(base, EncodedPrompts.read(base, texts), anchors, 0.5)


def test_all_terms_on_the_concepts_conditionings_share_these_targets(tiny_pipe: Any) -> None:
    at, farther = (prepared(hardened(objective="both", eta=eta), tiny_pipe, concept=ANCHORED) for eta in (0.0, 0.5))
    here, there = (term_of(made, AttackedConditionings).prompts for made in (at, farther))
    torch.testing.assert_close(there.targets, here.targets - 0.5 * (here.concept - here.targets))
    assert term_of(farther, Unlearn).prompts.targets is there.targets
    with pytest.raises(ValueError, match="as many tokens"):
        prepared(hardened(eta=0.5), tiny_pipe)  # without an anchor the words are left out


def test_the_base_is_what_is_imitated_not_the_student(tiny_pipe: Any) -> None:
    made = attacked(tiny_pipe).prompts
    base = Backbone.from_pipeline(tiny_pipe)
    torch.testing.assert_close(made.concept, base.condition(CIRCLE.prompts))
    assert made.student.text_encoder is not made.teacher.text_encoder
