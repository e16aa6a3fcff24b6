"""Mechanism: a token search on losses of conditionings that know the defence, without the UNet."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from attack_helpers import (
    PROMPTS,
    assert_alone_is_together,
    assert_seeds_decide,
    counted,
    ids_of,
    make_cases,
    make_target,
    planted,
    texts,
)
from overlays import make_adapter, make_delta, make_projection
from torch import Tensor

from robust_encoders.overlays.adapters import DOWN, TEXT_PREFIX, UNET_PREFIX, UP
from robust_encoders.overlays.projection import key_value_layers
from robust_encoders.training.attacks import ATTACKS, Mechanism
from robust_encoders.training.attacks.common.mechanisms import loss_of, mechanism_of
from robust_encoders.training.attacks.common.slots import SlottedPrompts
from robust_encoders.training.attacks.mechanism import _TokenSearch
from robust_encoders.training.attacks.unlearn_diff_atk import allowed_tokens
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import AttackFacts, Case
from robust_encoders.training.worlds.shapes.concepts import CONCEPTS

SMALL = Mechanism(("circle", "square"), tokens=2, steps=3, width=5, top=4, restarts=2, kept=2)


@pytest.fixture
def target(make_pipe: Any) -> TargetModel:
    """An encoder of other weights than the base's, with the base's UNet."""
    pipe, base = make_pipe(seed=1), make_pipe()
    pipe.unet = base.unet
    return make_target(pipe, base)


def defended(pipe: Any, overlay: Any) -> TargetModel:
    """The model of ``pipe`` with an overlay attached, and the base without it."""
    base = Backbone.from_pipeline(pipe)
    overlay.attach(pipe)
    made: TargetModel = TargetModel.from_pipeline(pipe, base=base, artifact=overlay)
    return made


def losses(target: TargetModel, name: Any, prompts: list[str], wanted: list[str], weight: float = 0.5) -> Tensor:
    """The losses (N,) of prompts, each in the case of its own wanted prompt."""
    loss = loss_of(target, [Case(i, text, i) for i, text in enumerate(wanted)], name, weight)
    ids = target.tokenize(prompts)
    with torch.no_grad():
        return loss(target.embed(ids), ids, torch.arange(len(prompts)))


def length(target: TargetModel, value: Tensor) -> Tensor:
    """The squared length () of one conditioning (L, D) as the UNet sees it, layer by layer."""
    rows = [layer.weight @ row for layer in key_value_layers(target.unet).values() for row in value]
    return torch.stack([row.square().sum() for row in rows]).sum()


TRIED, WANTED = ["a star", "red circle red"], ["a red circle", "a green circle"]


def test_the_margin_is_the_two_distances_by_hand(target: TargetModel) -> None:
    with torch.no_grad():
        found, sent, goal = target.condition(TRIED), target.condition(WANTED), target.base.condition(WANTED)
        expected = [
            length(target, c - g) / length(target, g)
            + 0.5 * (length(target, c - g) - length(target, c - s)) / length(target, g - s)
            for c, s, g in zip(found, sent, goal, strict=True)
        ]
    torch.testing.assert_close(losses(target, "margin", TRIED, WANTED), torch.stack(expected))
    at_sent = losses(target, "margin", WANTED, WANTED) - losses(target, "margin", WANTED, WANTED, weight=0.0)
    torch.testing.assert_close(at_sent, torch.full((2,), 0.5))
    assert torch.equal(losses(target, "none", TRIED, WANTED), losses(target, "margin", TRIED, WANTED, weight=0.0))


def test_a_defence_that_sends_the_concept_nowhere_has_no_margin(tiny_pipe: Any) -> None:
    target = make_target(tiny_pipe)
    assert torch.equal(losses(target, "margin", TRIED, WANTED), losses(target, "none", TRIED, WANTED))


@pytest.mark.parametrize("prefixes", [(UNET_PREFIX,), (TEXT_PREFIX,), (UNET_PREFIX, TEXT_PREFIX)])
def test_the_gate_closes_what_the_unet_would_see_by_hand(tiny_pipe: Any, prefixes: tuple[str, ...]) -> None:
    adapter = make_adapter(tiny_pipe, prompts=("blue star", "red circle"), prefixes=prefixes)
    target = defended(tiny_pipe, adapter)
    flat = torch.nn.functional.normalize(target.base.condition([*TRIED, "blue star", "red circle"]).flatten(1), dim=1)
    expected = []
    with torch.no_grad():
        found, goal = target.condition(TRIED), target.base.condition(WANTED)
        for i, text in enumerate(TRIED):
            words = set(text.split())
            shares = [len(words & {"blue", "star"}) / 2, len(words & {"red", "circle"}) / 2]
            gate = torch.stack([flat[i] @ flat[2], flat[i] @ flat[3], *map(torch.tensor, shares)]).max()
            total = torch.zeros(())
            for name, layer in key_value_layers(target.unet).items():
                stem = UNET_PREFIX + name.replace(".", "_")
                added: Any = 0.0
                if stem + DOWN in adapter.tensors:
                    added = gate**2 * adapter.tensors[stem + UP] @ (adapter.tensors[stem + DOWN] @ found[i].T)
                total = total + (layer.weight @ (found[i] - goal[i]).T + added).square().sum()
            expected.append(total / length(target, goal[i]) + 0.5 * gate)
    torch.testing.assert_close(losses(target, "gate", TRIED, WANTED), torch.stack(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["none", "margin", "gate"])
def test_the_gradient_of_a_token_is_the_slope_towards_its_embedding(make_pipe: Any, name: Any) -> None:
    pipe = make_pipe().to(torch.float64)
    adapter = make_adapter(pipe, prompts=("zebra",)) if name == "gate" else make_projection(pipe)
    target, attack = defended(pipe, adapter), dataclasses.replace(SMALL, tokens=2, batch=2)
    cases = make_cases(target, PROMPTS[:2])
    search = _TokenSearch(attack, target, name, allowed_tokens(target, typable=True))
    slots = SlottedPrompts.before(target, [case.prompt for case in cases], 2)
    loss = loss_of(target, cases, name, 0.5)
    picked, step = torch.tensor([[3, 5], [2, 7]]), 1e-6
    with target.frozen(), target.base.frozen():
        gradient = search._gradient(slots, loss, picked)
        ids = slots.filled(search.allowed[picked], torch.arange(2))
        for position, token in ((0, 1), (1, 4)):
            plus, minus = search.table[picked].clone(), search.table[picked].clone()
            plus[:, position] += step * search.table[token]
            minus[:, position] -= step * search.table[token]
            high, low = (loss(slots.embeds(one), ids, torch.arange(2)) for one in (plus, minus))
            slope = (high - low) / (2 * step)
            torch.testing.assert_close(gradient[:, position, token], slope, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("place", ["prefix", "concept", "replace"])
def test_candidates_are_texts_of_the_place_nearest_first(target: TargetModel, place: Any) -> None:
    cases = make_cases(target, ["a red circle", "square on a circle", "a star"])
    attack = dataclasses.replace(SMALL, place=place, mechanism="margin")
    for case, result in zip(cases, attack.run(target, cases, seed=0), strict=True):
        first = [""] if place == "replace" else []
        found = texts(result)
        assert found[: len(first)] == first
        assert [c.step for c in result.candidates] == [0] * len(first) + [6] * (len(found) - len(first))
        assert 1 <= len(found) - len(first) <= 4
        assert len(set(found)) == len(found)
        own = found[len(first) :]
        nearness = losses(target, "margin", own, [case.prompt] * len(own), attack.weight)
        assert nearness.tolist() == pytest.approx(sorted(nearness.tolist()), abs=1e-5)
        for text in found[len(first) :]:
            if place == "prefix":
                assert ids_of(target, text)[2:] == ids_of(target, case.prompt)
            if place == "replace":
                assert len(ids_of(target, text)) == 2
            if place == "concept" and case.prompt == "a star":
                assert text.endswith("a star")
            if place == "concept" and case.prompt.startswith("square"):
                assert ids_of(target, text)[:2] == ids_of(target, text)[-2:], "every mention gets the same tokens"


def test_restarts_begin_elsewhere_and_all_of_them_count(target: TargetModel) -> None:
    cases = make_cases(target)
    one = dataclasses.replace(SMALL, restarts=1, kept=100)
    three = dataclasses.replace(one, restarts=3)
    for first, all_of_them in zip(one.run(target, cases, seed=0), three.run(target, cases, seed=0), strict=True):
        assert set(texts(first)) < set(texts(all_of_them))
        assert len(texts(all_of_them)) > 3


def test_the_candidates_of_a_restart_are_the_nearest_of_equal_parts_of_its_steps(target: TargetModel) -> None:
    cases = make_cases(target)
    every = dataclasses.replace(SMALL, steps=6, restarts=1, kept=6)
    slots = SlottedPrompts.before(target, [case.prompt for case in cases], 2)
    search, generator = _TokenSearch(every, target, "none", allowed_tokens(target, typable=True)), torch.Generator
    loss = loss_of(target, cases, "none", 0.0)
    seeds = range(len(cases))
    steps = search._descend(slots, loss, [generator().manual_seed(i) for i in seeds])
    assert len(steps) == 6
    few = dataclasses.replace(search, attack=dataclasses.replace(every, kept=2))
    for part, (picks, losses) in enumerate(few._descend(slots, loss, [generator().manual_seed(i) for i in seeds])):
        for case in seeds:
            own = steps[3 * part : 3 * part + 3]
            best = min(range(3), key=lambda i, own=own, case=case: float(own[i][1][case]))  # type: ignore[misc]
            assert losses[case] == own[best][1][case]
            assert torch.equal(picks[case], own[best][0][case])


@pytest.mark.parametrize("field", AttackFacts.of(Mechanism).budget_fields)
def test_every_field_of_the_budget_counts(target: TargetModel, field: str) -> None:
    rows = []
    handle = target.text_encoder.register_forward_hook(lambda module, args, output: rows.append(len(output[0])))
    cases, spent = make_cases(target), []
    for attack in (SMALL, dataclasses.replace(SMALL, **{field: 2 * getattr(SMALL, field)})):
        rows.clear()
        attack.run(target, cases, seed=0)
        spent.append(sum(rows))
    handle.remove()
    assert 1.6 * spent[0] < spent[1] <= 2 * spent[0]


def test_the_unet_is_not_called_and_nothing_is_changed(target: TargetModel) -> None:
    before = {name: tensor.clone() for name, tensor in target.text_encoder.state_dict().items()}
    with counted(target) as sizes:
        found = SMALL.run(target, make_cases(target), seed=0)
    assert sizes == []
    assert {(result.queries, result.unet_calls) for result in found} == {(0, 0)}
    assert all(torch.equal(before[name], tensor) for name, tensor in target.text_encoder.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in target.text_encoder.parameters())


def test_a_batch_equals_its_cases_one_by_one(make_pipe: Any) -> None:
    pipe, base = make_pipe(seed=1).to(torch.float64), make_pipe().to(torch.float64)
    pipe.unet = base.unet
    target = make_target(pipe, base)
    attack = dataclasses.replace(SMALL, mechanism="margin")
    assert_alone_is_together(attack, target, make_cases(target), one=dataclasses.replace(attack, batch=1))


def test_seeds_decide_and_nothing_else_does(target: TargetModel) -> None:
    assert_seeds_decide(SMALL, target, make_cases(target))


def test_the_search_finds_a_prompt_of_which_the_target_says_the_same(make_pipe: Any) -> None:
    prompt = "striped ball round circle"
    target, distances = planted(make_pipe, prompt)
    target.unet = make_pipe().unet  # for the layers that weigh the distance; it is not called
    attack = Mechanism(place="replace", tokens=4, steps=30, width=32, top=16, restarts=1)
    results = attack.run(target, make_cases(target, [prompt] * 3), seed=0)
    words = [target.tokenizer.decode([token]) for token in allowed_tokens(target, typable=True)]
    picks = torch.randint(len(words), (400, 4), generator=torch.Generator().manual_seed(9)).tolist()
    random = distances([" ".join(words[i] for i in row) for row in picks])
    found = torch.stack([distances(texts(result)).min() for result in results])
    assert found.max() < random.quantile(0.02)


def test_the_mechanism_is_that_of_the_attached_form(make_pipe: Any, make_encoder: Any) -> None:
    pipe = make_pipe()
    found = {make.__name__: mechanism_of(make(pipe)) for make in (make_adapter, make_projection, make_delta)}
    assert found == {"make_adapter": "gate", "make_projection": "none", "make_delta": "none"}
    assert mechanism_of(None) == "none"
    own_names: tuple[tuple[Any, Any], ...] = ((make_adapter, "gate"), (make_encoder, "margin"))
    for make, name in own_names:
        one = make_pipe()
        target = defended(one, make(one))
        cases = make_cases(target)
        own, other = (
            [texts(r) for r in dataclasses.replace(SMALL, mechanism=m, weight=5.0).run(target, cases, seed=0)]
            for m in (name, "none")
        )
        auto = dataclasses.replace(SMALL, weight=5.0).run(target, cases, seed=0)
        assert [texts(result) for result in auto] == own
        assert own != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[({field: 0}, "at least 1") for field in ("tokens", "steps", "width", "top", "restarts", "kept", "batch")],
        ({"place": "suffix"}, "expected a place among"),
        ({"mechanism": "pool"}, "a mechanism among"),
        ({"weight": -1.0}, "a weight of at least 0"),
        ({"weight": float("nan")}, "a weight of at least 0"),
        ({"words": (), "place": "concept"}, "name the words to replace"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_what_it_cannot_do_is_refused(target: TargetModel, tiny_pipe: Any) -> None:
    gate = dataclasses.replace(SMALL, mechanism="gate")
    with pytest.raises(ValueError, match="found no artifact: choose the mechanism 'auto'"):
        gate.run(target, make_cases(target), seed=0)
    assert dataclasses.replace(gate, mechanism="auto").run(target, make_cases(target), seed=0)
    with pytest.raises(ValueError, match="model before the erasure"):
        SMALL.run(TargetModel.from_pipeline(tiny_pipe), make_cases(target), seed=0)
    for place in ("prefix", "replace"):
        with pytest.raises(ValueError, match="learn fewer tokens"):
            dataclasses.replace(SMALL, place=place, tokens=23).run(target, make_cases(target), seed=0)
    projected = defended(tiny_pipe, make_projection(tiny_pipe))
    with pytest.raises(ValueError, match="found the form 'projection'"):
        gate.run(projected, make_cases(projected), seed=0)


def test_the_tokens_never_spell_the_concepts_words(target: TargetModel) -> None:
    """On an undefended model the concept's own words would be the nearest of all."""
    attack = dataclasses.replace(SMALL, words=("circle", "violet disc"), typable=False)
    kept = {target.tokenizer.decode([i]).strip() for i in attack._allowed(target).tolist()}
    every = {target.tokenizer.decode([i]).strip() for i in allowed_tokens(target, typable=False).tolist()}
    assert every - kept == {"circle"}
    assert attack.spells("one Circle")
    assert attack.spells("a violet disc!")
    assert not attack.spells("a violet square")
    whole = dataclasses.replace(attack, place="replace", words=("circle",), steps=8, width=20, top=40)
    found = [text for result in whole.run(target, make_cases(target), seed=0) for text in texts(result)]
    assert found
    assert not [text for text in found if whole.spells(text)]


def test_texts_that_all_spell_the_concept_are_refused(target: TargetModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mechanism, "spells", lambda self, text: True)
    with pytest.raises(ValueError, match=r"without the words \('circle', 'square'\), found none: raise restarts"):
        SMALL.run(target, make_cases(target)[:1], seed=0)


def test_registered_and_of_the_protocol() -> None:
    assert ATTACKS["mechanism"] is Mechanism
    assert isinstance(SMALL, Attack)
    made = Mechanism.for_concept(CONCEPTS["circle"])
    assert (made.words, made.place, made.restarts) == (CONCEPTS["circle"].words(), "concept", 3)
    assert [dataclasses.replace(SMALL, place=p).whole_prompt for p in ("prefix", "concept", "replace")] == [0, 0, 1]
