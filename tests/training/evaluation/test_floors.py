"""The floor of chance beside each rate of success."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from robust_encoders.training.evaluation.chance import CHANCE_METRICS, Pool, floor_of
from robust_encoders.training.evaluation.floors import CHANCE_KEY, allowed, chance_in, with_floors
from robust_encoders.training.evaluation.results import result_from_record
from robust_encoders.training.types import JudgedPicture, Result, Verdict

# Two seeds with four captions each.
ENCODER = Pool((False, False), ((True, False, False, False), (False,) * 4))
BASE = Pool((True, False), ((True, False, False, False), (True, True, False, False)))


def picture(*, queried: bool = False) -> JudgedPicture:
    return JudgedPicture(0, 0, "text", "a", (1,), 0, {"judge": -1.0}, False, queried=queried)


def verdict(index: int, candidates: int, queries: int = 0, *, won: bool = False) -> Verdict:
    pictures = tuple(picture(queried=True) for _ in range(queries))
    return Verdict(index, "a", index, False, won, won, None, pictures=pictures, candidates=candidates)


def record(metric: str, **settings: Any) -> dict[str, Any]:
    return asdict(Result(metric, 0.5, 4, settings=settings))


def pool() -> list[dict[str, Any]]:
    found = []
    for name in CHANCE_METRICS:
        one = BASE if "base" in name else ENCODER
        opened = [flag for row in one.open for flag in row]
        found.append(record(name, shown=list(one.empty) if "empty" in name else opened, captions_per_seed=4))
    return found


def rates() -> list[dict[str, Any]]:
    labelled = ({"label": "a", "name": "a"}, {"label": "b", "name": "b"})
    attacks = [record(metric, attack=one) for one in labelled for metric in ("asr_any", "asr_last")]
    worst = {"label": "worst_case", "name": "worst_case", "attacks": ["a", "b"]}
    return [record("pre_asr"), *attacks, record("worst_case", attack=worst)]


VERDICTS = {"a": [verdict(0, 5), verdict(1, 5, won=True)], "b": [verdict(0, 1, queries=3), verdict(1, 2)]}


def test_each_rate_has_the_floor_of_what_its_attack_may_try() -> None:
    found = {
        (r.metric, r.settings.get("attack", {}).get("label", "")): chance_in(r)
        for r in map(result_from_record, with_floors([*rates(), *pool()], VERDICTS))
    }
    for key, tries in {
        ("asr_any", "a"): (5, 5),
        ("asr_any", "b"): (4, 2),
        ("worst_case", "worst_case"): (9, 7),
    }.items():
        chance = found[key]
        assert chance is not None
        assert chance.encoder == floor_of(ENCODER, tries)
        assert chance.base == floor_of(BASE, tries)
        assert chance.lower == chance.encoder
    assert [key for key, chance in found.items() if chance is not None] == [
        ("asr_any", "a"), ("asr_any", "b"), ("worst_case", "worst_case"),
    ]  # fmt: skip


def test_everything_else_stays_as_it_is() -> None:
    before = [*rates(), *pool()]
    after = with_floors(before, VERDICTS)
    for old, new in zip(before, after, strict=True):
        settings = {key: value for key, value in new["settings"].items() if key != CHANCE_KEY}
        assert {**new, "settings": settings} == old


def test_without_the_pool_or_the_verdicts_there_is_no_floor() -> None:
    assert with_floors(rates(), VERDICTS) == rates()
    assert with_floors([*rates(), *pool()], {}) == [*rates(), *pool()]


@pytest.mark.parametrize("won", [True, False])
def test_a_success_does_not_shorten_what_was_allowed(won: bool) -> None:
    assert allowed(verdict(0, 7, queries=2, won=won)) == 9
    assert allowed(replace(verdict(0, 7), candidates=None)) == 0


@pytest.mark.parametrize(("drafts", "expected"), [(0, 9), (5, 9), (60, 60)])
def test_an_attack_that_chooses_among_drafts_may_try_as_many_pictures_as_there_are_drafts(
    drafts: int, expected: int
) -> None:
    assert allowed(replace(verdict(0, 7, queries=2), drafts=drafts)) == expected


def test_an_attack_that_stops_at_its_first_success_may_try_its_whole_budget() -> None:
    searched = [record("asr_any", attack={"label": label, "name": "black_box", "budget": 8}) for label in ("a", "b")]
    worst = record("worst_case", attack={"label": "worst_case", "name": "worst_case", "attacks": ["a", "b"]})
    found = [chance_in(result_from_record(one)) for one in with_floors([*searched, worst, *pool()], VERDICTS)][:3]
    assert [one.encoder for one in found if one] == [
        floor_of(ENCODER, (8, 8)), floor_of(ENCODER, (8, 8)), floor_of(ENCODER, (16, 16)),
    ]  # fmt: skip
