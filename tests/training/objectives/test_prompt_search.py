"""Strings under search: each goes on from where it was left."""

from __future__ import annotations

from typing import Any

import torch
from tiny_outliers import outlier_objective
from tiny_training import generator, term_of
from torch import Tensor

from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.distributed import Shard
from robust_encoders.training.losses import ConditioningMetric
from robust_encoders.training.objectives.outliers import SearchedStrings
from robust_encoders.training.objectives.prompt_search import PromptSearch, SearchLoss
from robust_encoders.training.prompts.layout import prompt_lengths


def searched(pipe: Any, **fields: Any) -> SearchedStrings:
    return term_of(outlier_objective(pipe, searched_weight=1.0, **fields), SearchedStrings)


def towards(teacher: Backbone, metric: ConditioningMetric, text: str) -> SearchLoss:
    """Return how far strings are from a prompt's conditioning."""
    wanted = teacher.condition([text]).detach()

    def loss(embeds: Tensor, ids: Tensor) -> Tensor:
        cond = teacher.encode(embeds, ids)
        return metric(cond, wanted.expand_as(cond))

    return loss


def search(pipe: Any, **fields: Any) -> tuple[PromptSearch, SearchLoss]:
    made = searched(pipe, **fields)
    return made.search, towards(made.outliers.teacher, made.outliers.prompts.metric, "a red circle")


def test_the_search_goes_on_from_where_it_was_left_and_lowers_the_loss(tiny_pipe: Any) -> None:
    made, loss = search(tiny_pipe, searched=4, searched_batch=4, searched_steps=5, restart=0.0)
    teacher = made.teacher
    first = made.advance(generator(), loss, Shard())
    with torch.no_grad():
        before = loss(teacher.embed(first), first).mean()
    for seed in range(12):
        last = made.advance(generator(seed), loss, Shard())
    with torch.no_grad():
        after = loss(teacher.embed(last), last).mean()
    assert after < before
    assert set(prompt_lengths(last, int(teacher.tokenizer.eos_token_id)).tolist()) == {3}
    inside = set(last[:, 1:4].flatten().tolist())
    assert not inside & set(teacher.tokenizer.all_special_ids)


def test_a_string_is_where_it_would_be_had_nobody_stopped(tiny_pipe: Any) -> None:
    found = {}
    for steps, times in ((4, 1), (2, 2)):
        made, loss = search(tiny_pipe, searched=3, searched_batch=3, searched_steps=steps, restart=0.0)
        for seed in range(times):
            made.advance(generator(seed), loss, Shard())
        found[times] = made.soft
    torch.testing.assert_close(found[1], found[2])


def test_strings_begin_anew_as_often_as_they_should(tiny_pipe: Any) -> None:
    for chance in (0.0, 1.0):
        term = searched(tiny_pipe, searched=3, searched_batch=3, searched_rate=1e-6, restart=chance)
        made, loss = term.search, term.loss(generator())
        made.advance(generator(1), loss, Shard())
        before = made.soft.clone()
        made.advance(generator(2), loss, Shard())
        moved = float((made.soft - before).abs().max())
        assert (moved < 1e-4) is (chance == 0.0)


def test_the_nearest_token_of_a_tokens_embedding_is_itself(tiny_pipe: Any) -> None:
    made, _ = search(tiny_pipe)
    own = made.allowed[torch.randint(len(made.allowed), (3, 5), generator=generator())]
    assert torch.equal(made.nearest(2.0 * made.teacher.embed(own)), own)


def test_the_search_survives_a_checkpoint(tiny_pipe: Any) -> None:
    one, other = (outlier_objective(tiny_pipe, searched_weight=1.0) for _ in range(2))
    one(5, generator(1))
    other.load_state(one.state())
    assert len(term_of(one, SearchedStrings).search.soft) == 6
    assert one(6, generator(2))[1] == other(6, generator(2))[1]
