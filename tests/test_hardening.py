from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_advunlearn import CIRCLE, RETAIN, TINY, erase, generator, prepared

from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.backbone import Backbone
from robust_encoders.training.hardening import Hardening
from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.prompts import anchor_prompt, prompt_lengths
from robust_encoders.training.settings import Adversary, Harden, Retain, Unlearn
from robust_encoders.training.sharding import Shard

ATTACK = SoftPrompt(steps=3, rate=0.05)
KEPT = Retain(prompts=RETAIN, space="conditioning", conditioning_batch=4)


def hardened(**fields: Any) -> AdvUnlearn:
    harden = Harden(**{"objective": "conditioning", "batch": 4, "attack": ATTACK, **fields})
    return replace(TINY, retain=KEPT, unlearn=Unlearn(batch=2, harden=harden))


def hardening(pipe: Any, **fields: Any) -> Hardening:
    made = prepared(hardened(**fields), pipe).hardening
    assert made is not None
    return made


def test_by_default_nothing_is_hardened(tiny_pipe: Any) -> None:
    assert prepared(TINY, tiny_pipe).hardening is None
    assert Unlearn().harden == Harden()
    assert Harden().in_noise
    assert not Harden().pulls


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
    made = hardening(tiny_pipe)
    (term,) = made(None, generator())
    anchored = {text: anchor_prompt(text, CIRCLE) for text in CIRCLE.prompts}
    texts = [made.teacher.tokenizer.decode(row, skip_special_tokens=True).strip() for row in term.ids]
    torch.testing.assert_close(term.target, made.teacher.condition([anchored[text] for text in texts]))
    torch.testing.assert_close(term.embeds, made.teacher.embed(term.ids))
    assert (term.name, term.weight, term.total) == ("attacked", 10.0, 4)
    assert not term.target.requires_grad


@pytest.mark.parametrize("slots", [(), (1, 2)])
def test_the_attack_brings_the_conditioning_nearer_to_the_concepts(tiny_pipe: Any, slots: tuple[int, ...]) -> None:
    made = hardening(tiny_pipe, slots=slots, attack=SoftPrompt(steps=3, rate=2e-3))
    index = torch.tensor([0, 1, 2])
    for seed in range(4):
        k, place = made._placement(Adversary(), index, generator(seed))
        start = made._random_tokens(3, k, generator(seed))
        end = made._attack(place, index, start, generator())
        with torch.no_grad():
            before, after = (made.metric(made.student.encode(*place(t)), made.concept[index]) for t in (start, end))
        assert (after < before).all()


def test_a_slot_takes_the_place_of_the_word(tiny_pipe: Any) -> None:
    made = hardening(tiny_pipe, slots=(1,))
    index = torch.tensor([0, 1, 2])
    lengths = set()
    for seed in range(20):
        k, place = made._placement(Adversary(tokens=(2,)), index, generator(seed))
        _, ids = place(torch.zeros(3, k, 16))
        lengths.add((k, tuple(prompt_lengths(ids, made._eos).tolist())))
    assert made.slots is not None
    left, whole = (prompt_lengths(rows, made._eos) for rows in (made.slots.ids, made.ids))
    assert lengths == {(1, tuple((left + 1).tolist())), (2, tuple((whole + 2).tolist()))}


def test_additions_keep_every_word_of_the_prompt_and_come_from_the_retain_prompts(tiny_pipe: Any) -> None:
    made = hardening(tiny_pipe, objective="noise", additions_weight=2.0, additions_batch=5, additions=3)
    known = set(made.teacher.tokenize(RETAIN).flatten().tolist())
    counts = set()
    for seed in range(20):
        (term,) = made(Adversary(), generator(seed))
        drawn = made._drawn(5, generator(seed))
        for row, old in zip(term.ids, made.ids[drawn], strict=True):
            words = [i for i in row.tolist() if i not in made.teacher.tokenizer.all_special_ids]
            before = [i for i in old.tolist() if i not in made.teacher.tokenizer.all_special_ids]
            rest = iter(words)
            assert all(i in rest for i in before)  # a subsequence
            assert set(words) <= known | set(before)
            counts.add(len(words) - len(before))
        torch.testing.assert_close(term.embeds, made.teacher.embed(term.ids))
        torch.testing.assert_close(term.target, made.anchored[drawn])
    assert counts == {1, 2, 3}


def test_processes_share_the_rows_of_one(tiny_pipe: Any) -> None:
    # Barely a step: the first of Adam follows the sign of gradients that rounding may turn.
    attack = SoftPrompt(steps=2, rate=1e-6)
    made = hardening(tiny_pipe, slots=(1,), attack=attack, additions_weight=1.0, additions_batch=6)
    whole = made(Adversary(), generator())
    parts = [replace(made, shard=Shard(i, 2))(Adversary(), generator()) for i in range(2)]
    for i, term in enumerate(whole):
        assert [part[i].total for part in parts] == [term.total] * 2
        torch.testing.assert_close(torch.cat([part[i].embeds for part in parts]), term.embeds)
        assert torch.equal(torch.cat([part[i].ids for part in parts]), term.ids)
        assert torch.equal(torch.cat([part[i].target for part in parts]), term.target)
    assert Harden(batch=3, additions_batch=5).for_processes(2) == Harden(batch=6, additions_batch=10)


def test_it_withstands_the_attack_better_than_a_student_that_never_met_it(tiny_pipe: Any) -> None:
    def left(adversary: Adversary) -> float:
        method = replace(hardened(slots=(1,), batch=6), adversary=adversary)
        edit = erase(replace(method, train=replace(TINY.train, iterations=60, rate=3e-3)), tiny_pipe)
        made = hardening(tiny_pipe, slots=(1,))
        encoder = made.student.text_encoder
        names = list(encoder.state_dict())
        encoder.load_state_dict(dict(zip(names, edit.tensors.values(), strict=True)))
        index, far = torch.tensor([0, 1, 2]), []
        for seed in range(100, 110):
            k, place = made._placement(adversary, index, generator(seed))
            adv = made._attack(place, index, made._random_tokens(3, k, generator(seed)), generator())
            with torch.no_grad():
                far.append(made.metric(made.student.encode(*place(adv)), made.anchored[index]).mean())
        return float(torch.stack(far).mean())

    assert left(Adversary(warmup=0)) < left(Adversary(warmup=1000))


def test_settings_and_prompts_that_leave_nothing_to_do_are_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Harden(slots=(0,))
    with pytest.raises(ValueError, match="weight above 0"):
        Harden(objective="conditioning", weight=0.0)
    with pytest.raises(ValueError, match=r"lower Harden\.additions"):
        hardening(tiny_pipe, additions_weight=1.0, additions=22)
    with pytest.raises(ValueError, match="use fewer adversarial tokens"):
        hardening(tiny_pipe, slots=(22,))
    made = replace(hardening(tiny_pipe, slots=(1,) * 50), slots=None)
    with pytest.raises(ValueError, match="cut out"):
        made._placement(Adversary(), torch.tensor([0]), generator(1))


def test_the_base_is_what_is_imitated_not_the_student(tiny_pipe: Any) -> None:
    made = hardening(tiny_pipe)
    base = Backbone.from_pipeline(tiny_pipe)
    torch.testing.assert_close(made.concept, base.condition(CIRCLE.prompts))
    assert made.student.text_encoder is not made.teacher.text_encoder
