"""Terms on prompts that keep their meaning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_training import OPTIONS, RETAIN, TINY, drawn, generator, prepared, sharded, term_of

from robust_encoders.training.distributed import Shard
from robust_encoders.training.objectives.config import RetainConfig
from robust_encoders.training.objectives.retention import RetainConditionings, RetainPredictions


def test_a_fully_conditioned_retain_term_calls_no_unet(tiny_pipe: Any) -> None:
    made = prepared(replace(TINY, retain=replace(TINY.retain, space="conditioning")), tiny_pipe)
    assert not any(isinstance(term, RetainPredictions) for term in made.terms)
    _, parts = made(0, generator())
    assert set(parts) == {"unlearn", "retain_conditioning"}
    assert made.teacher.unet_calls == 2 * 2


def test_predictions_are_to_stay_what_the_base_predicts(tiny_pipe: Any) -> None:
    made = prepared(replace(TINY, retain=replace(TINY.retain, weight=0.7)), tiny_pipe)
    term = term_of(made, RetainPredictions)
    assert (term.weight, term.least, term.space) == (0.7, 3, "noise")
    rows = drawn(term)
    assert rows.points is not None
    texts = [RETAIN[i] for i in rows.points.prompt_index.tolist()]
    assert torch.equal(rows.ids, made.teacher.tokenize(texts))
    torch.testing.assert_close(rows.embeds, made.teacher.embed(rows.ids))
    with torch.no_grad():
        wanted = made.teacher.predict(rows.points.latents, rows.points.t, made.teacher.condition(texts))
    torch.testing.assert_close(rows.target, wanted, rtol=2e-2, atol=2e-2)


def test_conditionings_are_to_stay_those_of_the_base(tiny_pipe: Any) -> None:
    retain = RetainConfig(prompts=RETAIN, space="conditioning", conditioning_weight=2.0, conditioning_batch=3)
    made = prepared(replace(TINY, retain=retain), tiny_pipe)
    term = term_of(made, RetainConditionings)
    assert (term.weight, term.space) == (2.0, "conditioning")
    rows = drawn(term)
    torch.testing.assert_close(rows.target, made.teacher.encode(rows.embeds, rows.ids).detach())
    assert (rows.total, len({tuple(row) for row in rows.ids.tolist()})) == (3, 3), "no prompt twice"
    assert not rows.target.requires_grad


@pytest.mark.parametrize(("batch", "total"), [(3, 3), (100, 4)])
def test_processes_share_the_rows_of_one_and_no_more_than_there_are(tiny_pipe: Any, batch: int, total: int) -> None:
    retain = replace(OPTIONS.retain, conditioning_batch=batch)
    term = term_of(prepared(replace(OPTIONS, retain=retain), tiny_pipe), RetainConditionings)
    whole, parts = drawn(term), [drawn(sharded(term, Shard(i, 2))) for i in range(2)]
    assert [part.total for part in (whole, *parts)] == [total] * 3
    for part in ("ids", "embeds", "target"):
        assert torch.equal(torch.cat([getattr(one, part) for one in parts]), getattr(whole, part))
