from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from tiny_training import CIRCLE, RETAIN, TINY, erase, generator, prepared
from torch import Tensor

from robust_encoders import Concept
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.distributed import Shard
from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.methods.advunlearn import _beyond
from robust_encoders.training.objectives.config import AdversaryConfig, HardeningConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.objectives.hardening import HardeningTerms
from robust_encoders.training.objectives.outlier_config import OutlierConfig
from robust_encoders.training.objectives.placement import CutPrompts
from robust_encoders.training.prompts.concept_words import anchor_prompt
from robust_encoders.training.prompts.encoded import EncodedPrompts
from robust_encoders.training.prompts.layout import prompt_lengths

ATTACK = SoftPrompt(steps=3, rate=0.05)
KEPT = RetainConfig(prompts=RETAIN, space="conditioning", conditioning_batch=4)


def hardened(*, slots: tuple[int, ...] = (), tokens: tuple[int, ...] = (1,), **fields: Any) -> AdvUnlearn:
    harden = HardeningConfig(**{"objective": "conditioning", "batch": 4, "attack": ATTACK, **fields})
    adversary = replace(TINY.adversary, slots=slots, tokens=tokens)
    return replace(TINY, retain=KEPT, unlearn=UnlearnConfig(batch=2, harden=harden), adversary=adversary)


def hardening(pipe: Any, **fields: Any) -> HardeningTerms:
    made = prepared(hardened(**fields), pipe).hardening
    assert made is not None
    return made


def test_by_default_nothing_is_hardened(tiny_pipe: Any) -> None:
    assert prepared(TINY, tiny_pipe).hardening is None
    assert UnlearnConfig().harden == HardeningConfig()
    assert HardeningConfig().in_noise
    assert not HardeningConfig().pulls


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
    (term,) = made(generator(), attacked=False)
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
        place = made.places.draw(generator(seed))
        start = made._random_tokens(3, made.places.size(place), generator(seed))
        end = made._attack(place, index, start, generator())
        with torch.no_grad():
            conds = [made.student.encode(*made.places.put(place, index, tokens)) for tokens in (start, end)]
            before, after = (made.metric(cond, made.concept[index]) for cond in conds)
        assert (after < before).all()


def test_a_slot_takes_the_place_of_the_word(tiny_pipe: Any) -> None:
    made = hardening(tiny_pipe, slots=(1,), tokens=(2,))
    index = torch.tensor([0, 1, 2])
    lengths = set()
    for seed in range(20):
        place = made.places.draw(generator(seed))
        k = made.places.size(place)
        _, ids = made.places.put(place, index, torch.zeros(3, k, 16))
        lengths.add((k, tuple(prompt_lengths(ids, made._eos).tolist())))
    assert made.places.slots is not None
    left, whole = (prompt_lengths(rows, made._eos) for rows in (made.places.slots.ids, made.ids))
    assert lengths == {(1, tuple((left + 1).tolist())), (2, tuple((whole + 2).tolist()))}


def test_additions_keep_every_word_of_the_prompt_and_come_from_the_retain_prompts(tiny_pipe: Any) -> None:
    made = hardening(tiny_pipe, objective="noise", additions_weight=2.0, additions_batch=5, additions=3)
    known = set(made.teacher.tokenize(RETAIN).flatten().tolist())
    counts = set()
    for seed in range(20):
        (term,) = made(generator(seed), attacked=True)
        drawn = made._drawn(5, generator(seed))
        for row, old in zip(term.ids, made.ids[drawn], strict=True):
            words = [i for i in row.tolist() if i not in made.teacher.tokenizer.all_special_ids]
            before = [i for i in old.tolist() if i not in made.teacher.tokenizer.all_special_ids]
            rest = iter(words)
            assert all(i in rest for i in before)  # a subsequence
            assert set(words) <= known | set(before)
            counts.add(len(words) - len(before))
        torch.testing.assert_close(term.embeds, made.teacher.embed(term.ids))
        torch.testing.assert_close(term.target, made.targets[drawn])
    assert counts == {1, 2, 3}


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_share_of_the_additions_is_from_the_whole_vocabulary(tiny_pipe: Any, share: float) -> None:
    made = hardening(tiny_pipe, additions_weight=1.0, vocabulary=share)
    special = set(made.teacher.tokenizer.all_special_ids)
    drawn = made._drawn_tokens(4000, made.added, share, generator()).flatten().tolist()
    everything = set(range(made.teacher.text_encoder.config.vocab_size)) - special
    assert set(drawn) <= everything
    assert len(set(drawn)) > 0.9 * len(everything)
    known = set(made.added.tolist())
    expected = 1 - share + share * len(known) / len(everything)
    assert sum(token in known for token in drawn) / 4000 == pytest.approx(expected, abs=0.03)


def test_from_a_share_of_the_additions_the_concepts_words_are_cut_out(tiny_pipe: Any) -> None:
    made = hardening(tiny_pipe, objective="noise", additions_weight=1.0, additions_batch=400, additions=1, cut=0.25)
    assert made.slots is not None
    (term,) = made(generator(), attacked=True)
    index = made._drawn(400, generator())
    ends = set(made.teacher.tokenizer.all_special_ids)
    cut = []
    for row, i in zip(term.ids, index, strict=True):
        words, whole, left = (
            [t for t in ids.tolist() if t not in ends] for ids in (row, made.ids[i], made.slots.ids[i])
        )
        cut.append(len(words) == len(left) + 1)
        rest = iter(words)
        assert all(token in rest for token in (left if cut[-1] else whole))
    assert sum(cut) / 400 == pytest.approx(0.25, abs=0.07)
    torch.testing.assert_close(term.target, made.targets[index])
    assert hardening(tiny_pipe, additions_weight=1.0).slots is None


def test_neighbours_keep_what_the_base_says_and_lie_far_from_the_concept(tiny_pipe: Any) -> None:
    made = hardening(tiny_pipe, objective="noise", neighbours_weight=3.0, neighbours_batch=24)
    assert made.slots is not None
    (term,) = made(generator(), attacked=False)
    assert (term.name, term.weight, term.total, term.ids.shape[0]) == ("neighbours", 3.0, 24, 24)
    torch.testing.assert_close(term.target, made.teacher.encode(term.embeds, term.ids))
    assert not term.target.requires_grad
    kept = {tuple(row) for row in made.teacher.tokenize(RETAIN).tolist()}
    grown = hardening(tiny_pipe, objective="noise", neighbours_weight=3.0, neighbours_batch=40, additions=1)
    found = [grown(generator(seed), attacked=False)[0].ids[20:] for seed in range(8)]
    unchanged = {all(tuple(row) in kept for row in rows.tolist()) for rows in found}
    assert unchanged == {True, False}, "with additions and without"


def test_tokens_that_may_mean_the_concept_are_no_neighbours(tiny_pipe: Any) -> None:
    made = hardening(tiny_pipe, objective="noise", neighbours_weight=3.0)
    near = {}
    for above in (0.0, 1.0):
        chosen = replace(made, settings=replace(made.settings, neighbours_from=above))
        with torch.no_grad():
            cond = made.teacher.encode(*chosen._filled(64, generator()))
        far = torch.stack([made.metric(cond, one.expand_as(cond)) for one in made.concept]).min(0).values
        near[above] = float(far.mean())
    assert near[1.0] > 1.1 * near[0.0]


def test_where_the_concepts_words_are_several_tokens_no_token_is_left_out(tiny_pipe: Any) -> None:
    made = hardening(tiny_pipe, objective="noise", neighbours_weight=3.0)
    every = replace(made, settings=replace(made.settings, neighbours_from=0.0))._filled(16, generator())[1]
    assert not torch.equal(made._filled(16, generator())[1], every)
    longer = replace(made, ids=made.teacher.tokenize([f"{text} on white" for text in CIRCLE.prompts]))
    assert torch.equal(longer._filled(16, generator())[1], every)


def test_neighbours_want_room_and_prompts(tiny_pipe: Any) -> None:
    made = hardening(tiny_pipe, objective="noise", neighbours_weight=3.0)
    with pytest.raises(ValueError, match="expected prompts of at most"):
        replace(made, settings=replace(made.settings, additions=22))
    with pytest.raises(ValueError, match=r"expected retain prompts for hardening\.neighbours_weight, found none"):
        replace(made, retained=None)
    with pytest.raises(ValueError, match="without the concept's words"):
        replace(made, slots=None)


@pytest.mark.parametrize("n", [6, 7])
def test_processes_share_the_neighbours(tiny_pipe: Any, n: int) -> None:
    made = hardening(tiny_pipe, objective="noise", neighbours_weight=3.0, neighbours_batch=n)
    (whole,) = made(generator(), attacked=False)
    parts = [replace(made, shard=Shard(i, 2))(generator(), attacked=False)[0] for i in range(2)]
    assert [part.total for part in parts] == [n, n]
    assert sum(len(part.ids) for part in parts) == len(whole.ids) == n
    shares = [Shard(i, 2).part(n // 2) for i in range(2)]
    kept = [part.ids[len(part.ids) - (own.stop - own.start) :] for part, own in zip(parts, shares, strict=True)]
    assert torch.equal(torch.cat(kept), whole.ids[n - n // 2 :]), "what is retained is what one process draws"


def test_processes_share_the_rows_of_one(tiny_pipe: Any) -> None:
    # Barely a step: the first of Adam follows the sign of gradients that rounding may turn.
    attack = SoftPrompt(steps=2, rate=1e-6)
    made = hardening(tiny_pipe, slots=(1,), attack=attack, additions_weight=1.0, additions_batch=6, vocabulary=0.5)
    whole = made(generator(), attacked=True)
    parts = [replace(made, shard=Shard(i, 2))(generator(), attacked=True) for i in range(2)]
    for i, term in enumerate(whole):
        assert [part[i].total for part in parts] == [term.total] * 2
        torch.testing.assert_close(torch.cat([part[i].embeds for part in parts]), term.embeds)
        assert torch.equal(torch.cat([part[i].ids for part in parts]), term.ids)
        assert torch.equal(torch.cat([part[i].target for part in parts]), term.target)
    twice = HardeningConfig(batch=6, additions_batch=10, neighbours_batch=14, doubt=OutlierConfig().for_processes(2))
    assert HardeningConfig(batch=3, additions_batch=5, neighbours_batch=7).for_processes(2) == twice


def test_it_withstands_the_attack_better_than_a_student_that_never_met_it(tiny_pipe: Any) -> None:
    def left(adversary: AdversaryConfig) -> float:
        method = replace(hardened(batch=6), adversary=adversary)
        edit = erase(replace(method, train=replace(TINY.train, iterations=60, rate=3e-3)), tiny_pipe)
        made = hardening(tiny_pipe, slots=(1,))
        encoder = made.student.text_encoder
        names = list(encoder.state_dict())
        encoder.load_state_dict(dict(zip(names, edit.tensors.values(), strict=True)))
        index, far = torch.tensor([0, 1, 2]), []
        for seed in range(100, 110):
            place = made.places.draw(generator(seed))
            start = made._random_tokens(3, made.places.size(place), generator(seed))
            adv = made._attack(place, index, start, generator())
            with torch.no_grad():
                cond = made.student.encode(*made.places.put(place, index, adv))
                far.append(made.metric(cond, made.targets[index]).mean())
        return float(torch.stack(far).mean())

    assert left(AdversaryConfig(warmup=0, slots=(1,))) < left(AdversaryConfig(warmup=1000, slots=(1,)))


def attacked(pipe: Any, **fields: Any) -> Any:
    """An objective whose attack goes through the UNet, and a function that runs it on two prompts.

    It returns the place, and the tokens at the attack's start and at its end.
    """
    adversary = AdversaryConfig(attack=SoftPrompt(steps=3, rate=1e-2), warmup=0, points="fixed", **fields)
    starts: list[Tensor] = []

    def noting(loss: Any, start: Tensor, **given: Any) -> Tensor:
        starts.append(start)
        found: Tensor = adversary.attack(loss, start, **given)
        return found

    noted = replace(adversary, attack=cast(SoftPrompt, noting))
    made = prepared(replace(TINY, retain=KEPT), pipe, adversary)
    index = torch.tensor([0, 1])
    points = made.concept_points.sample(2, generator(3), prompt_index=index)

    def attack(seed: int) -> Any:
        assert made.places is not None
        place, end = made._attack(noted, made.places, index, points, generator=generator(seed))
        return place, starts[-1].expand_as(end), end

    return made, attack


def test_a_shared_attack_learns_one_set_of_tokens_for_all_prompts_on_and_on(tiny_pipe: Any) -> None:
    made, attack = attacked(tiny_pipe, shared=1.0, restart=0.0)
    _, start, end = attack(1)
    assert torch.equal(end[0], end[1])
    assert not torch.equal(start, end)
    (key,) = made.latest
    assert key == "shared.prefix.1"
    assert torch.equal(made.latest[key], end[:1])
    _, again, _ = attack(2)
    assert torch.equal(again, end)
    restarted, attack = attacked(tiny_pipe, shared=1.0, restart=1.0)
    restarted.latest = dict(made.latest)
    assert not torch.equal(attack(2)[1], made.latest[key].expand(2, -1, -1))


def test_without_sharing_every_prompt_has_its_own_attack(tiny_pipe: Any) -> None:
    made, attack = attacked(tiny_pipe)
    _, _, end = attack(1)
    assert not torch.equal(end[0], end[1])
    assert not made.latest


def test_shared_tokens_survive_a_checkpoint_once_for_all_processes(tiny_pipe: Any) -> None:
    made, attack = attacked(tiny_pipe, shared=1.0)
    attack(1)
    state = made.state()
    other, _ = attacked(tiny_pipe, shared=1.0)
    other.shard = Shard(1, 2)
    other.load_state(state)
    assert torch.equal(other.latest["shared.prefix.1"], made.latest["shared.prefix.1"])


def test_the_attack_through_the_unet_fills_slots_too(tiny_pipe: Any) -> None:
    _, attack = attacked(tiny_pipe, slots=(1, 2))
    sizes = {(type(place).__name__, end.shape[1]) for place, _, end in map(attack, range(12))}
    assert sizes == {("PromptLayout", 1), ("int", 1), ("int", 2)}


def test_a_slot_takes_the_place_of_the_words_of_every_part(tiny_pipe: Any) -> None:
    red = Concept(name="red", kind="attribute", anchor="green")
    joint = Concept.joint([CIRCLE, red])
    base = Backbone.from_pipeline(tiny_pipe)
    slots = CutPrompts.cut(base, ("a red circle on white", "red", "a circle"), joint)
    left = [base.tokenizer.decode(row, skip_special_tokens=True).strip() for row in slots.ids]
    assert left == ["a on white", "", "a"]
    assert slots.after[1:].tolist() == [0, slots.after[0].item()]


def test_what_all_processes_have_gets_the_sum_of_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shard, "total", lambda self, tensor: 2 * tensor)
    tokens = torch.ones(1, 2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad((3 * Shard(0, 2).spread(tokens)).sum(), tokens)
    assert torch.equal(gradient, torch.full((1, 2, 3), 6.0))


def test_settings_and_prompts_that_leave_nothing_to_do_are_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        HardeningConfig(candidates=0)
    with pytest.raises(ValueError, match="slots of at least 1"):
        AdversaryConfig(slots=(0,))
    with pytest.raises(ValueError, match=r"shared and restart in \[0, 1\]"):
        AdversaryConfig(shared=1.5)
    for objective in ("conditioning", "both"):
        with pytest.raises(ValueError, match="weight above 0"):
            HardeningConfig(objective=objective, weight=0.0)  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(ValueError, match=r"for vocabulary and cut, found 1\.5"):
        HardeningConfig(vocabulary=1.5)
    for share in ({"vocabulary": 0.5}, {"cut": 0.5}):
        with pytest.raises(ValueError, match="found none: give additions_weight"):
            HardeningConfig(**share)  # type: ignore[arg-type, unused-ignore]
    for weight in (0.0, 1.0):  # neighbours keep what the base says
        with pytest.raises(ValueError, match=r"found none to which its 1\.0 would matter"):
            UnlearnConfig(harden=HardeningConfig(eta=1.0, neighbours_weight=weight))
    with pytest.raises(ValueError, match=r"attacks through the UNet for adversary\.shared"):
        replace(hardened(), adversary=AdversaryConfig(shared=0.5))
    with pytest.raises(ValueError, match=r"lower hardening\.additions"):
        hardening(tiny_pipe, additions_weight=1.0, additions=22)
    with pytest.raises(ValueError, match="use fewer adversarial tokens"):
        hardening(tiny_pipe, slots=(22,))
    made = hardening(tiny_pipe, slots=(1,))
    with pytest.raises(ValueError, match="without the concept's words for 1 tokens"):
        replace(made.places, slots=None)


def test_targets_lie_beyond_anchored_prompts_of_as_many_tokens(tiny_pipe: Any) -> None:
    base, texts, anchors = Backbone.from_pipeline(tiny_pipe), ("a red circle", "a circle"), ("a circle red", "circle")
    at = EncodedPrompts.read(base, texts, anchors)
    beyond = _beyond(base, at, anchors, 0.5)
    assert at.targets is not None
    assert beyond.targets is not None
    own = base.condition(texts)
    torch.testing.assert_close(beyond.targets[0], at.targets[0] - 0.5 * (own[0] - at.targets[0]))
    assert torch.equal(beyond.targets[1], at.targets[1])
    with pytest.raises(ValueError, match="as many tokens"):
        _beyond(base, EncodedPrompts.read(base, texts[1:], anchors[1:]), anchors[1:], 0.5)


def test_all_terms_on_the_concepts_conditionings_share_these_targets(tiny_pipe: Any) -> None:
    anchored = replace(CIRCLE, anchor="star")
    at, beyond = (prepared(hardened(eta=eta), tiny_pipe, concept=anchored) for eta in (0.0, 0.5))
    assert at.hardening is not None
    assert beyond.hardening is not None
    own, wanted = at.hardening.concept, at.hardening.targets
    torch.testing.assert_close(beyond.hardening.targets, wanted - 0.5 * (own - wanted))
    assert beyond.concept_prompts.targets is beyond.hardening.targets
    with pytest.raises(ValueError, match="as many tokens"):
        prepared(hardened(eta=0.5), tiny_pipe)  # without an anchor the words are left out


def test_of_many_additions_the_farthest_are_kept(tiny_pipe: Any) -> None:
    fields = {"objective": "noise", "additions_weight": 1.0, "additions_batch": 4}
    made = hardening(tiny_pipe, **fields, candidates=5)
    (term,) = made(generator(), attacked=True)
    index, embeds, ids = made._made(20, generator())
    with torch.no_grad():
        far = made.metric(made.student.encode(embeds, ids), made.targets[index])
        kept = made.metric(made.student.encode(term.embeds, term.ids), term.target)
    torch.testing.assert_close(kept, far.sort(descending=True).values[:4])
    assert float(far.std()) > 0


def test_the_base_is_what_is_imitated_not_the_student(tiny_pipe: Any) -> None:
    made = hardening(tiny_pipe)
    base = Backbone.from_pipeline(tiny_pipe)
    torch.testing.assert_close(made.concept, base.condition(CIRCLE.prompts))
    assert made.student.text_encoder is not made.teacher.text_encoder
