from __future__ import annotations

from typing import Any

import pytest
import torch

from robust_encoders.concepts import Concept
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.objectives.placement import CutPrompts, insert_tokens

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


def test_a_slot_is_where_the_concepts_word_stood(tiny_pipe: Any) -> None:
    base = Backbone.from_pipeline(tiny_pipe)
    slots = CutPrompts.cut(base, PROMPTS, CIRCLE)
    assert [words_of(base, row) for row in slots.ids] == ["a red", "a on white", ""]
    index = torch.tensor([1, 0, 2])
    words = base.tokenize(["circle"])[0, 1:]
    k = int((words != base.tokenizer.eos_token_id).sum())
    token = base.embed(words[None, :k]).expand(3, -1, -1)
    embeds, _ = slots.fill(index, token)
    torch.testing.assert_close(embeds, base.embed(base.tokenize(["a circle on white", "a red circle", "circle"])))


def test_prompts_without_the_concept_or_without_room_are_refused(tiny_pipe: Any) -> None:
    base = Backbone.from_pipeline(tiny_pipe)
    with pytest.raises(ValueError, match="found none in \\['a star'\\]"):
        CutPrompts.cut(base, ("a circle", "a star"), CIRCLE)
    slots = CutPrompts.cut(base, PROMPTS, CIRCLE)
    slots.check(1, base.tokenizer.eos_token_id)
    with pytest.raises(ValueError, match="use fewer adversarial tokens"):
        slots.check(22, base.tokenizer.eos_token_id)
