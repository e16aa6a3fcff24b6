"""What terms on conditionings make of prompts with the concept: tokens replaced, added and inserted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_training import ANCHORED, CIRCLE, RETAIN, TINY, generator, prepared, sharded
from torch import Tensor

from robust_encoders.training.distributed import Shard
from robust_encoders.training.objectives.config import HardeningConfig, OutlierConfig, RetainConfig
from robust_encoders.training.objectives.hardening import Additions, AttackedConditionings, KeptNeighbours
from robust_encoders.training.objectives.prompt_augmentation import ConceptPrompts, require_room

ALTERNATIVES = ("square", "star", "ring", "cross")
KEPT = RetainConfig(prompts=RETAIN, space="conditioning", conditioning_batch=4)


def concept_prompts(pipe: Any, outliers: OutlierConfig | None = None, **fields: Any) -> ConceptPrompts:
    """Return what the first hardening term has its rows from."""
    hardening = HardeningConfig(**fields)
    method = replace(TINY, retain=KEPT, hardening=hardening, outliers=outliers or OutlierConfig())
    made = prepared(method, pipe, concept=ANCHORED if outliers else CIRCLE)
    kinds = (AttackedConditionings, Additions, KeptNeighbours)
    return next(term.prompts for term in made.terms if isinstance(term, kinds))


def words(prompts: ConceptPrompts, ids: Tensor) -> list[int]:
    """Return a row without its special tokens."""
    return [token for token in ids.tolist() if token not in prompts.teacher.tokenizer.all_special_ids]


def test_additions_keep_every_word_of_the_prompt_and_come_from_the_retain_prompts(tiny_pipe: Any) -> None:
    made = concept_prompts(tiny_pipe, additions_weight=2.0, additions=3)
    heard = set(made.teacher.tokenize(RETAIN).flatten().tolist())
    counts = set()
    for seed in range(20):
        index, embeds, ids = made.extend(5, generator(seed))
        assert torch.equal(index, made.draw(5, generator(seed)))
        for row, old in zip(ids, made.ids[index], strict=True):
            found, before = words(made, row), words(made, old)
            rest = iter(found)
            assert all(i in rest for i in before)  # a subsequence
            assert set(found) <= heard | set(before)
            counts.add(len(found) - len(before))
        torch.testing.assert_close(embeds, made.teacher.embed(ids))
    assert counts == {1, 2, 3}


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_share_of_the_additions_is_from_the_whole_vocabulary(tiny_pipe: Any, share: float) -> None:
    made = concept_prompts(tiny_pipe, additions_weight=1.0, vocabulary=share)
    special = set(made.teacher.tokenizer.all_special_ids)
    drawn = made.draw_tokens(4000, made.added, share, generator()).flatten().tolist()
    everything = set(range(made.teacher.text_encoder.config.vocab_size)) - special
    assert set(made.ordinary.tolist()) == everything
    assert set(drawn) <= everything
    assert len(set(drawn)) > 0.9 * len(everything)
    heard = set(made.added.tolist())
    expected = 1 - share + share * len(heard) / len(everything)
    assert sum(token in heard for token in drawn) / 4000 == pytest.approx(expected, abs=0.03)


def test_from_a_share_of_the_additions_the_concepts_words_are_cut_out(tiny_pipe: Any) -> None:
    made = concept_prompts(tiny_pipe, additions_weight=1.0, additions=1, cut=0.25)
    assert made.cut is not None
    index, _, ids = made.extend(400, generator())
    cut = []
    for row, i in zip(ids, index, strict=True):
        found, whole, left = (words(made, one) for one in (row, made.ids[i], made.cut.ids[i]))
        cut.append(len(found) == len(left) + 1)
        rest = iter(found)
        assert all(token in rest for token in (left if cut[-1] else whole))
    assert sum(cut) / 400 == pytest.approx(0.25, abs=0.07)
    assert concept_prompts(tiny_pipe, additions_weight=1.0).cut is None


def test_tokens_that_may_mean_the_concept_are_no_replacements(tiny_pipe: Any) -> None:
    made = concept_prompts(tiny_pipe, neighbours_weight=3.0)
    near = {}
    for above in (0.0, 1.0):
        chosen = replace(made, config=replace(made.config, neighbours_from=above))
        with torch.no_grad():
            cond = made.teacher.encode(*chosen.replace(64, generator()))
        far = torch.stack([made.metric(cond, one.expand_as(cond)) for one in made.concept]).min(0).values
        near[above] = float(far.mean())
    assert near[1.0] > 1.1 * near[0.0]


def test_where_the_concepts_words_are_several_tokens_no_token_is_left_out(tiny_pipe: Any) -> None:
    made = concept_prompts(tiny_pipe, neighbours_weight=3.0)
    every = replace(made, config=replace(made.config, neighbours_from=0.0)).replace(16, generator())[1]
    assert not torch.equal(made.replace(16, generator())[1], every)
    longer = replace(made, ids=made.teacher.tokenize([f"{text} on white" for text in CIRCLE.prompts]))
    assert torch.equal(longer.replace(16, generator())[1], every)


def test_retain_prompts_are_drawn_as_they_are(tiny_pipe: Any) -> None:
    made = concept_prompts(tiny_pipe, neighbours_weight=3.0)
    embeds, ids = made.retain(40, generator())
    assert {tuple(row) for row in ids.tolist()} == {tuple(row) for row in made.teacher.tokenize(RETAIN).tolist()}
    torch.testing.assert_close(embeds, made.teacher.embed(ids))
    parts = [sharded(made, Shard(i, 2)).retain(40, generator())[1] for i in range(2)]
    assert torch.equal(torch.cat(parts), ids)


def test_embeddings_fill_the_place_of_the_words_or_stand_beside_them(tiny_pipe: Any) -> None:
    made = concept_prompts(tiny_pipe, neighbours_weight=1.0)
    adv, bos = torch.full((6, 1, 16), 7.0), made.teacher.tokenizer.bos_token_id
    for put, left in ((made.fill, made.cut_prompts.ids), (made.insert, made.ids)):
        index, (embeds, ids) = put(6, adv, generator())
        at = (embeds == 7.0).all(-1)
        assert at.sum(1).tolist() == [1] * 6
        assert (ids[at] == bos).all()
        for row, i in zip(ids, index, strict=True):
            assert words(made, row) == words(made, left[i])


def test_nothing_that_has_another_value_is_added_to_what_is_kept(tiny_pipe: Any) -> None:
    for alternatives, kept in ((ALTERNATIVES, True), ((), False)):
        outliers = OutlierConfig(alternatives=alternatives, strings_weight=1.0)
        made = concept_prompts(tiny_pipe, outliers, neighbours_weight=1.0, additions=2)
        rows = made.add_tokens(made.retain(40, generator()), 40, generator(1), least=0, kept=True)
        said = [
            len(set(text.split()) & set(ALTERNATIVES))
            for text in made.teacher.tokenizer.batch_decode(rows[1], skip_special_tokens=True)
        ]
        assert (max(said) == 1) is kept


def test_rows_want_room_and_prompts(tiny_pipe: Any) -> None:
    made, outliers = concept_prompts(tiny_pipe, neighbours_weight=3.0), OutlierConfig()
    require_room(made, outliers)
    with pytest.raises(ValueError, match="expected prompts of at most"):
        require_room(replace(made, config=replace(made.config, additions=22)), outliers)
    with pytest.raises(ValueError, match=r"expected retain prompts for hardening\.neighbours_weight, found none"):
        require_room(replace(made, retained=None), outliers)
    with pytest.raises(ValueError, match="without the concept's words"):
        require_room(replace(made, cut=None), outliers)
    bare = concept_prompts(tiny_pipe, additions_weight=1.0)
    require_room(bare, outliers)
    with pytest.raises(ValueError, match="without the concept's words"):
        require_room(bare, OutlierConfig(off_manifold_weight=1.0))
    with pytest.raises(ValueError, match=r"room for 23 more tokens, of 22 in all"):
        require_room(bare, OutlierConfig(inserted_weight=1.0, inserted_tokens=23))
    with pytest.raises(ValueError, match=r"expected tokens to add, .* found 0"):
        require_room(replace(bare, added=bare.added[:0]), outliers)
    with pytest.raises(ValueError, match=r"lower hardening\.additions"):
        concept_prompts(tiny_pipe, additions_weight=1.0, additions=22)
