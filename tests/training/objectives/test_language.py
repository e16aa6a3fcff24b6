"""Terms on any text: two words in one place, random tokens around retain prompts, negative prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_language import RETAINED, WEIGHTS, language_objective, on_language
from tiny_training import ANCHORED, QUIET, TINY, drawn, erase, generator, prepared, sharded, term_of

from robust_encoders.concepts import Concept
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.distributed import Shard
from robust_encoders.training.losses import gram_distance
from robust_encoders.training.methods import ESD
from robust_encoders.training.objectives.concept_place import ConceptPlace, concept_places
from robust_encoders.training.objectives.config import RetainConfig
from robust_encoders.training.objectives.language import EmptyPrompt, KeptContext, NegativePrompts, pulled_back
from robust_encoders.training.objectives.language_config import LanguageConfig
from robust_encoders.training.objectives.language_rows import LanguageRows
from robust_encoders.training.objectives.terms import Objective
from robust_encoders.training.objectives.word_pairs import Pairs, aligned
from robust_encoders.training.prompts.concept_words import texts_around
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.workspace import Workspace

NAMES = ("pairs", "pool", "context", "negative", "empty_prompt")


def text(rows: LanguageRows, ids: torch.Tensor) -> str:
    return str(rows.teacher.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def test_by_default_there_is_no_term(tiny_pipe: Any) -> None:
    assert not {term.name for term in prepared(TINY, tiny_pipe).terms} & {*NAMES}
    assert not LanguageConfig().batches()


def test_every_term_has_its_weight_and_rows_and_none_runs_the_unet(tiny_pipe: Any) -> None:
    made = language_objective(tiny_pipe, **WEIGHTS)
    terms = {term.name: term for term in made.terms if term.name in NAMES}
    assert tuple(terms) == NAMES
    found = {name: (term.weight, len(drawn(term).ids)) for name, term in terms.items()}
    sizes = {"pairs": (2.0, 4), "pool": (3.0, 4), "context": (4.0, 4), "negative": (5.0, 4), "empty_prompt": (80.0, 1)}
    assert found == sizes
    assert {*made(5, generator())[1]} == {*NAMES, "attacked", "retain_conditioning"}
    assert "pool" not in made(0, generator())[1], "the pool begins with the attack"
    assert made.teacher.unet_calls == 0


def test_a_training_without_predictions_needs_no_bank(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the UNet was run")

    monkeypatch.setattr(type(tiny_pipe.unet), "forward", never)
    method = on_language(**WEIGHTS)
    assert erase(method, tiny_pipe, concept=ANCHORED).log["bank_unet_calls"] == 0
    assert not method.stored(ANCHORED).trajectories
    assert TINY.stored(ANCHORED).trajectories


def place_of(term: Pairs) -> ConceptPlace:
    (place,) = term.language.places
    return place


def test_two_words_mean_the_first(tiny_pipe: Any) -> None:
    term = term_of(language_objective(tiny_pipe, **WEIGHTS, foreign=0.5), Pairs)
    made = place_of(term)
    assert set(made.fitting) == {"square", "star"}
    assert {"green", "ring", "cross"} <= set(made.foreign)
    assert not {"circle", "disc"} & set(made.foreign)
    odd = 0
    for pair in term.draw(200, generator()):
        said, wanted = pair.both.split(), pair.alone.split()
        assert len(said) == len(wanted) + 1
        at = next(i for i in range(len(said)) if [*said[:i], *said[i + 1 :]] == wanted)
        assert said[at] in {*made.foreign, *made.fitting}
        assert said[at - 1] in made.fitting or said[at] in made.fitting, "the first word fits"
        odd += said[at] not in made.fitting
    assert 50 < odd < 150, "about half of the pairs have a word from anywhere"


def with_prompts(pipe: Any, prompts: tuple[str, ...], retained: tuple[str, ...], concept: Concept = ANCHORED) -> Pairs:
    """Return the term on pairs of other prompts, with 1 as the share of words from anywhere."""
    retain = RetainConfig(prompts=retained, space="conditioning")
    method = replace(on_language(pairs_weight=1.0, foreign=1.0), retain=retain)
    return term_of(prepared(method, pipe, concept=replace(concept, prompts=prompts)), Pairs)


def test_words_beside_the_concept_are_never_second(tiny_pipe: Any) -> None:
    """After "a green", a prompt without "red" may go on with "striped star": "striped" means something there."""
    red, prompts = Concept(name="Red", kind="attribute", anchor="blue"), ("a red star", "A Striped red ring, hand-made")
    term = with_prompts(tiny_pipe, prompts, ("a Green star", "a striped ring", "a green cross, made by hand"), red)
    place = place_of(term)
    assert place.fitting == ("green",)
    assert "cross" in place.foreign
    assert not {"star", "striped", "ring", "hand", "made", "hand-made", "a", "red"} & set(place.foreign)
    assert {pair.second for pair in term.draw(100, generator())} <= set(place.foreign)


def test_words_of_one_part_are_never_second_in_the_place_of_another(tiny_pipe: Any) -> None:
    """A green star is kept, so "green star" does not mean "green", and a prompt that names both keeps the other's."""
    parts = (
        Concept(name="circle", kind="object", anchor="square", prompts=("a circle", "a red circle")),
        Concept(name="red", kind="attribute", anchor="blue", prompts=("a red cross", "a red circle")),
    )
    whole, retained = Concept.joint(parts), ("a star", "a green cross", "a blue ring", "a ring", "a blue cross")
    retain = RetainConfig(prompts=retained, space="conditioning")
    method = replace(on_language(pairs_weight=1.0), retain=retain)
    term = term_of(prepared(method, tiny_pipe, concept=whole), Pairs)
    circle, red = term.language.places
    assert (circle.texts, red.texts) == (("a circle", "a blue circle"), ("a red cross", "a red square"))
    assert (circle.fitting, red.fitting) == (("star", "ring", "cross"), ("green", "blue"))
    assert not {"green", "blue", "red", "cross"} & set(circle.foreign)
    assert not {"star", "ring", "circle"} & set(red.foreign)
    drawn_pairs = term.draw(200, generator())
    assert {pair.first for pair in drawn_pairs} == {"star", "ring", "cross", "green", "blue"}
    assert not any({pair.first, pair.second} >= {"green", "star"} for pair in drawn_pairs)
    assert not any("red" in pair.both or "circle" in pair.both for pair in drawn_pairs)


def test_of_overlapping_parts_the_longest_word_is_meant(tiny_pipe: Any) -> None:
    """A hot dog is no dog: each prompt stands for the part that it names, and keeps that part's word as it is."""
    parts = (
        Concept(name="dog", kind="object", anchor="cat", prompts=("a dog",)),
        Concept(name="Hot Dog", kind="object", anchor="sandwich", prompts=("a hot dog",)),
    )
    texts = ("a dog", "a HOT dog", "a hot dog beside a Dog", "a star")
    for order in (parts, parts[::-1]):
        places = concept_places(Backbone.from_pipeline(tiny_pipe), Concept.joint(order), texts, ("a ring",))
        assert {place.name: place.texts for place in places} == {
            "dog": ("a dog", "a sandwich beside a Dog"),
            "Hot Dog": ("a HOT dog", "a hot dog beside a cat"),
        }


def test_prompts_without_room_for_two_words_are_left_out_of_the_pairs(tiny_pipe: Any) -> None:
    long = "a red circle on white " * 3
    retain = RetainConfig(prompts=("a red xyzxyzxyz", "a red star"), space="conditioning")
    method = replace(on_language(pairs_weight=1.0), retain=retain)
    made = prepared(method, tiny_pipe, concept=replace(ANCHORED, prompts=(long, "a red circle")))
    term = term_of(made, Pairs)
    assert place_of(term).roomy == ("a red circle",)
    assert not any("on white" in pair.both for pair in term.draw(50, generator()))


def test_a_long_word_from_anywhere_is_second_only_where_it_has_room(tiny_pipe: Any) -> None:
    long, short = "a red circle on white, a red circle on white", "a red circle"
    term = with_prompts(
        tiny_pipe, (long, short), ("a red star", "some zyxwvutsrqp", "wide-eyed xyzxyz zz-zz (very) _x_")
    )
    place, teacher = place_of(term), term.language.teacher
    assert place.roomy == (long, short), "no prompt is lost to a long word"
    assert {"zyxwvutsrqp", "wide-eyed", "very"} <= set(place.foreign)
    assert not {"(very)", "_x_"} & set(place.foreign)
    found = term.draw(400, generator())
    assert all(teacher.fits(pair.both) for pair in found)
    behind = {text: {p.second for p in found if len(p.around) == n} for text, n in ((long, 3), (short, 2))}
    assert "zyxwvutsrqp" in behind[short]
    assert "zyxwvutsrqp" not in behind[long]
    assert behind[long] & behind[short]


PAIRS = {
    "twice": ("a red circle beside a circle", ANCHORED),
    "both names": ("A Circle or a disc", ANCHORED),
    "marks": ("a 'circle', (disc)-on", ANCHORED),
    "two words": ("a hot dog, a Hot Dog", Concept(name="hot dog", kind="object", anchor="star")),
}


@pytest.mark.parametrize("case", PAIRS)
def test_a_prompt_that_names_the_concept_twice_is_aligned_at_every_mention(case: str, tiny_pipe: Any) -> None:
    """The second word's tokens get the counterpart of the first, wherever they stand, and the others get their own."""
    prompt, concept = PAIRS[case]
    retained = (*RETAINED, "a cross, a big star", "a star, a big cross", "xyxy and zz")
    term = with_prompts(tiny_pipe, (prompt,), retained, concept)
    teacher = term.language.teacher
    for pair in term.draw(100, generator()):
        both, alone = (teacher.tokenizer(text).input_ids for text in (pair.both, pair.alone))
        assert len(both) <= teacher.max_length
        seconds = pair.seconds(teacher)
        index = aligned(seconds, teacher.max_length)
        spelled = teacher.tokenizer(pair.second, add_special_tokens=False).input_ids
        assert [both[i] for i in seconds] == spelled * (len(pair.around) - 1)
        kept = [i for i in range(len(both)) if i not in seconds]
        assert [both[i] for i in kept] == alone
        assert [index[i] for i in kept] == list(range(len(alone)))
        assert all(index[i] == index[i - 1] for i in seconds)
        assert pair.around == texts_around(prompt, concept.words(), pair.first)
    row = drawn(term)
    assert row.target.shape[:2] == row.ids.shape


def test_the_target_of_a_pair_is_the_base_with_one_word_token_by_token(tiny_pipe: Any) -> None:
    term = term_of(language_objective(tiny_pipe, **WEIGHTS, pairs_batch=20), Pairs)
    row, pairs = drawn(term), term.draw(20, generator())
    teacher = term.language.teacher
    assert torch.equal(row.ids, teacher.tokenize([pair.both for pair in pairs]))
    assert not row.target.requires_grad
    frozen = teacher.condition([pair.alone for pair in pairs])
    for i, pair in enumerate(pairs):
        said, one = ([*teacher.tokenizer(text).input_ids] for text in (pair.both, pair.alone))
        extra = len(said) - len(one)
        assert extra > 0
        torch.testing.assert_close(row.target[i, 0], frozen[i, 0])
        torch.testing.assert_close(row.target[i, len(said) - 1 :], frozen[i, len(one) - 1 : frozen.shape[1] - extra])
        for j in range(len(said)):
            assert any(torch.allclose(row.target[i, j], frozen[i, k]) for k in (j, j - extra, *range(len(one))))


def test_tokens_of_two_words_have_counterparts_in_the_row_with_the_first() -> None:
    # The second word has one token or two; what follows moves along.
    assert aligned([4], 9) == [0, 1, 2, 3, 3, 4, 5, 6, 7]
    assert aligned([3, 4], 9) == [0, 1, 2, 2, 2, 3, 4, 5, 6]
    assert aligned([2], 5) == [0, 1, 1, 2, 3], "a word beside itself"
    assert aligned([], 4) == [0, 1, 2, 3]
    assert aligned([2, 5, 6], 8) == [0, 1, 1, 2, 3, 3, 3, 4], "two mentions"


def test_without_foreign_words_both_fit(tiny_pipe: Any) -> None:
    term = term_of(language_objective(tiny_pipe, **WEIGHTS, foreign=0.0), Pairs)
    known = {*place_of(term).fitting, "a", "an", "red", "on", "white"}
    assert {word for pair in term.draw(50, generator()) for word in pair.both.split()} <= known


@pytest.mark.parametrize("end", [False, True])
def test_a_retain_prompt_keeps_its_own_positions_among_random_tokens(tiny_pipe: Any, *, end: bool) -> None:
    objective = language_objective(tiny_pipe, **WEIGHTS, context_batch=40, context_end=end)
    term = term_of(objective, KeptContext)
    row, made = drawn(term), term.language
    eos, named = made.prompts.eos, {i for word in ("circle", "disc") for i in made.teacher.tokenizer(word).input_ids}
    assert row.compared is not None
    torch.testing.assert_close(row.target, made.teacher.encode(row.embeds, row.ids))
    sides = set()
    for ids, compared in zip(row.ids.tolist(), row.compared.tolist(), strict=True):
        last = ids.index(eos, 1)
        assert compared[last:] == [end] * (len(ids) - last)
        own = [i for i in range(last) if compared[i]]
        assert own == list(range(own[0], own[-1] + 1)), "the prompt stands in one piece"
        assert text(made, torch.tensor([ids[i] for i in own])) in RETAINED
        around = [ids[i] for i in range(1, last) if i not in own]
        assert 1 <= len(around) <= 5
        assert not named & set(around)
        sides |= {"before"} if own[0] > 1 else set()
        sides |= {"after"} if own[-1] < last - 1 else set()
    assert sides == {"before", "after"}


def test_no_word_that_fits_stands_around_a_retain_prompt(tiny_pipe: Any) -> None:
    """The base blends two words that fit one place, and a kept blend would teach the student to show the concept."""
    for weights in (WEIGHTS, {"context_weight": 1.0}):
        made = term_of(language_objective(tiny_pipe, **weights), KeptContext).language
        left_out = set(made.prompts.ordinary.tolist()) - set(made.around.tolist())
        tokens = made.teacher.tokenizer.convert_ids_to_tokens(sorted(left_out))
        words = ("circle", "disc", "star", "square")
        spelled = {i for word in words[:2] for i in made.teacher.tokenizer(word, add_special_tokens=False).input_ids}
        listed = [f"{word}{ending}{end}" for word in words for ending in ("", "s", "es") for end in ("", "</w>")]
        assert {"star</w>", "square</w>", "circle</w>"} <= set(tokens)
        assert all(token in listed or i in spelled for token, i in zip(tokens, sorted(left_out), strict=True))


def test_without_a_word_that_fits_only_the_concepts_are_left_out_around(tiny_pipe: Any) -> None:
    method = on_language(context_weight=1.0)
    method = replace(method, retain=replace(method.retain, prompts=("the sea", "a red star on white")))
    concept = replace(ANCHORED, prompts=("circle",))
    made = term_of(prepared(method, tiny_pipe, concept=concept), KeptContext).language
    tokens = made.teacher.tokenizer.convert_ids_to_tokens(made.around.tolist())
    assert "star</w>" in tokens
    assert "circle</w>" not in tokens


def test_only_compared_positions_count(tiny_pipe: Any) -> None:
    made = language_objective(tiny_pipe, context_weight=1.0)
    row = drawn(term_of(made, KeptContext))
    assert made.metric is not None
    assert row.compared is not None
    cond = row.target + torch.randn(row.target.shape, generator=generator())
    naive = torch.zeros(len(cond))
    for i in range(len(cond)):
        for j in range(cond.shape[1]):
            away = (cond - row.target)[i, j]
            naive[i] += float(row.compared[i, j]) * (away @ made.metric.gram @ away) / cond.shape[1]
    torch.testing.assert_close(made.metric(row.seen(cond), row.target), naive)
    assert torch.equal(row._replace(compared=None).seen(cond), cond)


def test_a_prompt_that_fills_the_row_gets_no_token(tiny_pipe: Any) -> None:
    long = "a red star on white " * 9
    method = on_language(context_weight=1.0)
    method = replace(method, retain=replace(method.retain, prompts=(long,)))
    term = term_of(prepared(method, tiny_pipe, concept=ANCHORED), KeptContext)
    ids, starts, sizes = term.draw(3, generator())
    assert torch.equal(ids, term.language.teacher.tokenize([long] * 3))
    assert starts.tolist() == [1] * 3
    assert sizes.tolist() == [ids.shape[1] - 2] * 3


def test_what_lies_beyond_the_anchor_is_pulled_back_and_nothing_else() -> None:
    draw = generator()
    concept, anchored, noise = (torch.randn(1, 3, 4, generator=draw) for _ in range(3))
    half = torch.randn(4, 4, generator=draw)
    gram = half @ half.T

    def along(cond: torch.Tensor) -> float:
        away = (anchored - concept).flatten(0, 1)
        seen = sum(float((cond - anchored)[0, i] @ gram @ away[i]) for i in range(3))
        return seen / sum(float(row @ gram @ row) for row in away)

    between = concept + 0.6 * (anchored - concept)
    torch.testing.assert_close(pulled_back(between, concept, anchored, gram), between)
    student = (anchored + 0.5 * (anchored - concept) + noise).requires_grad_()
    beyond = along(student.detach())
    if beyond < 0:
        student = (student.detach() + (1 - beyond) * (anchored - concept)).requires_grad_()
        beyond = along(student.detach())
    target = pulled_back(student, concept, anchored, gram).detach()
    assert along(target) == pytest.approx(0, abs=1e-5)
    (ours,) = torch.autograd.grad(gram_distance(student, target, gram).sum(), student)
    away = anchored - concept
    length = gram_distance(anchored, concept, gram)
    share = (((student - anchored) @ gram) * away).sum() / (3 * length)
    (wanted,) = torch.autograd.grad((share.clamp(min=0).square() * length).sum(), student)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_negative_prompts_are_the_words_and_prompts_of_the_concept(tiny_pipe: Any) -> None:
    made = language_objective(tiny_pipe, negative_weight=1.0, negative_batch=40)
    term = term_of(made, NegativePrompts)
    row = drawn(term)
    said = [text(term.language, ids) for ids in row.ids]
    assert set(said[:20]) == {"circle", "disc"}
    assert set(said[20:]) == set(ANCHORED.prompts)
    assert made.metric is not None
    same = made.metric(term.language.teacher.encode(row.embeds, row.ids), row.target)
    assert float(same.detach().abs().max()) < 1e-6, "the base does not lie beyond the anchor"
    with torch.no_grad():
        ahead = 2 * term.anchored - term.concept
        index = [term.ids.tolist().index(ids) for ids in row.ids.tolist()]
    pulled = pulled_back(ahead, term.concept, term.anchored, made.metric.gram)[index]
    torch.testing.assert_close(pulled, term.anchored[index], rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_student_and_not_the_base(tiny_pipe: Any) -> None:
    made = language_objective(tiny_pipe, **WEIGHTS)
    with torch.no_grad():
        for parameter in made.student.text_encoder.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator()))
    made.teacher.text_encoder.requires_grad_(True)
    for name in NAMES:
        alone = replace(made, terms=[term for term in made.terms if term.name == name])
        loss, _ = alone(5, generator())
        made.student.text_encoder.zero_grad()
        torch.autograd.backward(loss)
        reached = [p.grad for p in made.student.text_encoder.parameters() if p.grad is not None]
        beyond = name == "negative"  # no gradient where nothing lies beyond the anchor
        assert beyond or any(bool(grad.abs().sum() > 0) for grad in reached), name
        assert all(p.grad is None for p in made.teacher.text_encoder.parameters()), name


def test_a_run_interrupted_in_the_middle_ends_where_a_whole_one_does(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = on_language(**WEIGHTS, pool_restart=0.3)
    method = replace(method, train=TrainingConfig(iterations=6, rate=1e-3, average=0.9))
    whole = erase(method, tiny_pipe, QUIET, concept=ANCHORED)
    space, call = Workspace(folder=tmp_path, every=2, progress=False), Objective.__call__

    def interrupted(self: Objective, iteration: int, draw: torch.Generator) -> Any:
        if iteration == 5:
            raise KeyboardInterrupt
        return call(self, iteration, draw)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            erase(method, tiny_pipe, space, concept=ANCHORED)
    again = erase(method, tiny_pipe, space, concept=ANCHORED)
    assert all(torch.equal(whole.tensors[name], again.tensors[name]) for name in whole.tensors)
    other = erase(method, tiny_pipe, QUIET, seed=1, concept=ANCHORED)
    assert not all(torch.equal(whole.tensors[name], other.tensors[name]) for name in whole.tensors)


def test_processes_share_the_rows_of_one(tiny_pipe: Any) -> None:
    made = language_objective(tiny_pipe, **WEIGHTS)
    kinds: tuple[type[Pairs | KeptContext | NegativePrompts], ...] = (Pairs, KeptContext, NegativePrompts)
    for kind in kinds:
        term = term_of(made, kind)
        whole, parts = drawn(term), [drawn(sharded(term, Shard(i, 2))) for i in range(2)]
        assert [part.total for part in parts] == [whole.total] * 2
        for what in ("embeds", "ids", "target"):
            torch.testing.assert_close(torch.cat([getattr(p, what) for p in parts]), getattr(whole, what))
    both = sharded(term_of(made, EmptyPrompt), Shard(1, 2))
    assert (drawn(both).total, len(drawn(both).ids)) == (2, 1)


def refused(pipe: Any, retained: tuple[str, ...], concept: Concept = ANCHORED, **fields: Any) -> str:
    retain = RetainConfig(prompts=retained, **{"space": "conditioning", **fields.pop("retain", {})})
    with pytest.raises(ValueError, match="expected") as error:
        prepared(replace(on_language(**fields), retain=retain), pipe, concept=concept)
    return str(error.value)


def test_a_training_is_refused_before_anything_is_run(tiny_pipe: Any) -> None:
    said = refused(tiny_pipe, ("the sea",), pairs_weight=1.0)
    assert "found none among 1, such as ('the sea',): retain prompts that differ" in said
    none = {"conditioning_weight": 0.0}
    said = refused(tiny_pipe, RETAINED, retain=none, context_weight=1.0)
    assert "expected retain prompts for language.pairs_weight and language.context_weight" in said
    long = replace(ANCHORED, prompts=("a red circle on white " * 3,))
    said = refused(tiny_pipe, ("a red xyzxyzxyz", "a red star"), long, pairs_weight=1.0)
    assert "room for two words in the concept's place, of 22 tokens" in said
    with pytest.raises(ValueError, match=r"expected language\.pool_weight 0, found 1\.0: the pool is fitted by an att"):
        ESD(retain=RetainConfig(prompts=RETAINED), language=LanguageConfig(pool_weight=1.0))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pairs_batch": 0}, "at least 1"),
        ({"foreign": 1.5}, r"in \[0, 1\]"),
        ({"pool_rate": 0.0}, "above 0"),
        ({"pool_tokens": (3, 3)}, "choose multiples of 1"),
        ({"pool_batch": 25}, "choose multiples of 2"),
        ({"pool": 8}, "enlarge the pool"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LanguageConfig(**wrong)


def test_several_processes_get_several_times_the_batches() -> None:
    once = LanguageConfig(**WEIGHTS)
    assert once.for_processes(2).batches() == {name: 2 * n for name, n in once.batches().items()}
    assert once.for_processes(2).pool == 2 * once.pool
    method = on_language(**WEIGHTS).for_processes(3)
    assert method.language == on_language(**WEIGHTS).language.for_processes(3)
