"""The pool of prompts that an attack keeps fitting to the concept while the student learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_language import language_objective
from tiny_training import drawn, generator, sharded, term_of
from torch.nn.functional import cosine_similarity

from robust_encoders.training.attacks.common.norm_bound import largest_norm
from robust_encoders.training.distributed import Shard
from robust_encoders.training.objectives.inverted_pool import InvertedPool
from robust_encoders.training.objectives.terms import Iteration


def pool_of(pipe: Any, **fields: Any) -> InvertedPool:
    return term_of(language_objective(pipe, pool_weight=1.0, **fields), InvertedPool)


def test_a_step_is_one_of_adam(tiny_pipe: Any) -> None:
    pool = pool_of(tiny_pipe)
    part = pool.fresh(3, 2, generator())
    naive = part.free.clone().requires_grad_()
    adam = torch.optim.Adam([naive], lr=0.01)
    for i in range(4):
        gradient = torch.randn(naive.shape, generator=generator(i))
        naive.grad = gradient
        adam.step()
        part.step(gradient, 0.01, 1e6)
    torch.testing.assert_close(part.free, naive.detach())
    assert part.steps.tolist() == [4, 4, 4]
    part.step(gradient, 0.01, 1e-3)
    assert float(part.free.norm(dim=-1).max()) <= 1e-3 + 1e-6


def test_the_attack_lowers_the_distance_as_the_unet_sees_it_or_the_cosine(tiny_pipe: Any) -> None:
    pool = pool_of(tiny_pipe)
    gram, draw = pool.prompts.metric.gram, generator()
    conds, goals = (torch.randn(2, 5, len(gram), generator=draw) for _ in range(2))
    seen = sum(float((a - b) @ gram @ (a - b)) for a, b in zip(conds[0], goals[0], strict=True))
    seen /= sum(float(b @ gram @ b) for b in goals[0])
    alike = sum(float(cosine_similarity(a, b, dim=0)) for a, b in zip(conds[1], goals[1], strict=True)) / 5
    found = pool.distance(conds, goals, torch.tensor([4, 7]))
    assert found.tolist() == pytest.approx([seen, 1 - alike], rel=1e-4)


def test_prompts_of_the_pool_come_nearer_to_the_concept_and_go_on_where_they_ended(tiny_pipe: Any) -> None:
    pool = pool_of(tiny_pipe, pool=4, pool_batch=4, pool_restart=0.0, pool_rate=0.01)

    def distances() -> list[float]:
        rows = drawn(pool)
        goals = pool.prompts.concept[torch.cat([part.goal for part in pool.parts.values()])]
        with torch.no_grad():
            conds = pool.prompts.student.encode(rows.embeds, rows.ids)
        return [float(one) for one in pool.prompts.metric(conds, goals)]

    first = distances()
    for _ in range(15):
        last = distances()
    assert sum(last) < 0.7 * sum(first)
    assert {int(n) for part in pool.parts.values() for n in part.steps} == {3 * 16}
    limit = largest_norm(pool.prompts.teacher) + 1e-5
    assert all(float(part.free.norm(dim=-1).max()) <= limit for part in pool.parts.values())


def test_rows_are_prompts_of_free_embeddings_alone_with_the_anchored_targets(tiny_pipe: Any) -> None:
    pool = pool_of(tiny_pipe, pool=4, pool_batch=4, pool_restart=0.0)
    row, eos = drawn(pool), pool.prompts.eos
    order = {k: torch.randperm(2, generator=generator(3)) for k in pool.parts}
    assert set(order) == {2, 3}
    lengths = [ids.index(eos, 1) - 1 for ids in row.ids.tolist()]
    assert lengths == [2, 2, 3, 3]
    goals = torch.cat([part.goal for part in pool.parts.values()])
    wanted = pool.prompts.targets[goals]
    assert sorted(row.target.sum((1, 2)).tolist()) == pytest.approx(sorted(wanted.sum((1, 2)).tolist()))
    for i, k in enumerate(lengths):
        free = pool.parts[k].free
        assert any(torch.allclose(row.embeds[i, 1 : 1 + k], one) for one in free)
    assert not row.embeds.requires_grad


def test_a_batch_continues_a_part_of_the_pool(tiny_pipe: Any) -> None:
    pool = pool_of(tiny_pipe, pool=16, pool_batch=4, pool_restart=0.0)
    drawn(pool)
    assert [sorted(part.steps.tolist()) for part in pool.parts.values()] == [[0] * 6 + [3] * 2] * 2


def test_prompts_begin_anew_by_chance(tiny_pipe: Any) -> None:
    always, never = (pool_of(tiny_pipe, pool=4, pool_batch=4, pool_restart=share) for share in (1.0, 0.0))
    for pool in (always, never):
        drawn(pool)
    for part in always.parts.values():
        assert part.steps.tolist() == [0, 0]
        assert not part.first.any()
        assert not part.second.any()
    assert all(part.steps.tolist() == [3, 3] for part in never.parts.values())
    some, counts = pool_of(tiny_pipe, pool=40, pool_batch=40, pool_restart=0.3), []
    drawn(some)
    for part in some.parts.values():
        counts += part.steps.tolist()
    assert 4 <= counts.count(0) <= 20


def test_the_pool_is_carried_on_and_equal_seeds_give_equal_pools(tiny_pipe: Any) -> None:
    one, other = (pool_of(tiny_pipe, pool_restart=0.3) for _ in range(2))
    draw = generator(5)
    one.rows(Iteration(draw, attacked=True))
    other.load_state({**one.state(), "unet_calls": torch.tensor(0)})
    again = generator(6)
    rows = [pool.rows(Iteration(generator(6), attacked=True)) for pool in (one, other)]
    assert rows[0] is not None
    assert rows[1] is not None
    assert torch.equal(rows[0].embeds, rows[1].embeds)
    assert (
        one.state().keys()
        == other.state().keys()
        == {f"pool.{k}.{name}" for k in (2, 3) for name in ("free", "first", "second", "steps", "goal")}
    )
    assert all(torch.equal(one.state()[name], other.state()[name]) for name in one.state())
    fresh = pool_of(tiny_pipe)
    fresh.load_state({})
    assert not fresh.parts
    assert torch.equal(fresh.fresh(4, 2, again).free, pool_of(tiny_pipe).fresh(4, 2, generator(6)).free)


def test_during_the_warm_up_there_is_no_pool(tiny_pipe: Any) -> None:
    pool = pool_of(tiny_pipe)
    assert pool.rows(Iteration(generator(), attacked=False)) is None
    assert not pool.state()


def test_a_process_continues_its_own_part(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(tiny_pipe, pool_restart=0.0)
    whole = drawn(pool)
    parts = []
    for i in range(2):
        other = sharded(pool_of(tiny_pipe, pool_restart=0.0), Shard(i, 2))
        monkeypatch.setattr(Shard, "gathered", lambda self, rows: torch.cat([rows, rows]))
        parts.append(drawn(other))
    assert [part.total for part in parts] == [whole.total] * 2
    halves = [torch.cat([parts[0].ids[a], parts[1].ids[a]]) for a in (slice(0, 1), slice(1, 2))]
    assert torch.equal(torch.cat(halves), whole.ids)
    embeds = [torch.cat([parts[0].embeds[a], parts[1].embeds[a]]) for a in (slice(0, 1), slice(1, 2))]
    torch.testing.assert_close(torch.cat(embeds), whole.embeds, rtol=1e-4, atol=1e-5)
