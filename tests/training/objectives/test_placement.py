from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_training import generator

from robust_encoders.concepts import Concept
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.objectives.config import AdversaryConfig
from robust_encoders.training.objectives.placement import CutPrompts, TokenPlacements, insert_tokens, placement_name
from robust_encoders.training.prompts.layout import PromptLayout, prompt_lengths

CIRCLE = Concept(name="circle", kind="object", synonyms=("disc",))
PROMPTS = ("a red circle", "a disc on white", "circle")


def words_of(base: Backbone, row: torch.Tensor) -> str:
    return str(base.tokenizer.decode(row, skip_special_tokens=True)).strip()


def test_inserted_tokens_stand_where_a_list_would_have_them(tiny_pipe: Any) -> None:
    base = Backbone.from_pipeline(tiny_pipe)
    ids = base.tokenize(PROMPTS)
    adv_ids = base.tokenize(["green star"])[:, 1:3].expand(3, -1)
    after = torch.tensor([0, 2, 1])
    embeds, placed = insert_tokens(base.embed(ids), ids, after, base.embed(adv_ids), adv_ids=adv_ids)
    for row, old, new, at in zip(placed.tolist(), ids.tolist(), adv_ids.tolist(), after.tolist(), strict=True):
        assert row == [*old[: 1 + at], *new, *old[1 + at :]][: len(old)]
    torch.testing.assert_close(embeds, base.embed(placed))


def test_tokens_without_ids_are_never_taken_for_an_end(tiny_pipe: Any) -> None:
    base = Backbone.from_pipeline(tiny_pipe)
    ids = base.tokenize(PROMPTS)
    adv = torch.full((3, 2, 16), 7.0)
    embeds, placed = insert_tokens(base.embed(ids), ids, torch.tensor([0, 1, 1]), adv)
    own = (embeds == 7.0).all(dim=2)
    assert own.sum(dim=1).tolist() == [2, 2, 2]
    assert (placed[own] == base.tokenizer.bos_token_id).all()


def test_the_place_of_the_concepts_words_is_where_the_first_of_them_stood(tiny_pipe: Any) -> None:
    base = Backbone.from_pipeline(tiny_pipe)
    cut = CutPrompts.of(base, PROMPTS, CIRCLE)
    assert [words_of(base, row) for row in cut.ids] == ["a red", "a on white", ""]
    index = torch.tensor([1, 0, 2])
    words = base.tokenize(["circle"])[0, 1:]
    k = int((words != base.tokenizer.eos_token_id).sum())
    token = base.embed(words[None, :k]).expand(3, -1, -1)
    embeds, _ = cut.fill(index, token)
    torch.testing.assert_close(embeds, base.embed(base.tokenize(["a circle on white", "a red circle", "circle"])))


def test_prompts_without_the_concept_or_without_room_are_refused(tiny_pipe: Any) -> None:
    base = Backbone.from_pipeline(tiny_pipe)
    with pytest.raises(ValueError, match="found none in \\['a star'\\]"):
        CutPrompts.of(base, ("a circle", "a star"), CIRCLE)
    cut = CutPrompts.of(base, PROMPTS, CIRCLE)
    cut.check(1, base.tokenizer.eos_token_id)
    with pytest.raises(ValueError, match="use fewer adversarial tokens"):
        cut.check(22, base.tokenizer.eos_token_id)


def placements(base: Backbone, **fields: Any) -> TokenPlacements:
    ids = base.tokenize(PROMPTS)
    return TokenPlacements.read(base, AdversaryConfig(**fields), PROMPTS, CIRCLE, rows=(base.embed(ids), ids))


def test_tokens_in_place_stand_for_the_words_and_others_beside_them(tiny_pipe: Any) -> None:
    base = Backbone.from_pipeline(tiny_pipe)
    made = placements(base, in_place=(1,), tokens=(2,))
    index, lengths = torch.tensor([0, 1, 2]), set()
    for seed in range(20):
        placement = made.draw(generator(seed))
        k = made.size(placement)
        _, ids = made.put(placement, index, torch.zeros(3, k, 16))
        lengths.add((k, tuple(prompt_lengths(ids, made.eos_id).tolist())))
    assert made.cut is not None
    left, whole = (prompt_lengths(rows, made.eos_id) for rows in (made.cut.ids, made.ids))
    assert lengths == {(1, tuple((left + 1).tolist())), (2, tuple((whole + 2).tolist()))}
    assert {placement_name(choice) for choice in made.choices} == {"prefix.2", "in_place.1"}


def test_without_an_adversary_there_is_no_placement_and_nothing_is_cut(tiny_pipe: Any) -> None:
    base = Backbone.from_pipeline(tiny_pipe)
    ids = base.tokenize(PROMPTS)
    made = TokenPlacements.read(base, None, PROMPTS, CIRCLE, rows=(base.embed(ids), ids))
    assert made.choices == ()
    assert made.cut is None
    assert placements(base).choices == (PromptLayout("prefix", 1),)
    assert placements(base).cut is None


def test_the_words_of_every_part_are_cut_out(tiny_pipe: Any) -> None:
    circle, red = replace(CIRCLE, prompts=PROMPTS), Concept(name="red", kind="attribute", anchor="green")
    base = Backbone.from_pipeline(tiny_pipe)
    cut = CutPrompts.of(base, ("a red circle on white", "red", "a circle"), Concept.joint([circle, red]))
    assert [words_of(base, row) for row in cut.ids] == ["a on white", "", "a"]
    assert cut.after[1:].tolist() == [0, cut.after[0].item()]


def test_placements_without_room_or_without_cut_prompts_are_refused(tiny_pipe: Any) -> None:
    base = Backbone.from_pipeline(tiny_pipe)
    with pytest.raises(ValueError, match="use fewer adversarial tokens"):
        placements(base, in_place=(22,))
    with pytest.raises(ValueError, match="without the concept's words for 1 tokens"):
        replace(placements(base, in_place=(1,)), cut=None)
