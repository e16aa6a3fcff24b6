"""Verdicts: the detector decides afterwards, looks no longer than it has to, and never changes what it would find."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from robust_encoders.training.evaluation.judging import PictureJudge, judge_candidates
from robust_encoders.training.types import AttackResult, Candidate, Case, Verdict


class WordDetector:
    """Finds the concept where a picture's first value is one."""

    name = "word"
    version = "1"
    threshold = 0.5

    def __call__(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, 0]


class Studio:
    """Draws a picture of ones for texts that hold "hit", and keeps what it drew."""

    def __init__(self) -> None:
        self.drawn: list[tuple[int, str]] = []

    def __call__(self, cases: Sequence[Case], candidates: Sequence[Candidate]) -> Tensor:
        self.drawn += [(case.index, str(c.value)) for case, c in zip(cases, candidates, strict=True)]
        return torch.tensor([float("hit" in str(c.value)) for c in candidates]).view(-1, 1, 1, 1)


def judge(texts: Sequence[Sequence[str]], before: Sequence[bool]) -> tuple[list[Verdict], Studio]:
    studio = Studio()
    cases = [Case(i, f"prompt {i}", seed=i) for i in range(len(texts))]
    results = [
        AttackResult(tuple(Candidate("text", text, 10 * (i + 1)) for i, text in enumerate(row)), 0, 0) for row in texts
    ]
    verdicts, drawn = judge_candidates(cases, results, before, draw=studio, judge=PictureJudge(WordDetector()))
    assert drawn == len(studio.drawn)
    return verdicts, studio


def test_first_success_and_last_candidate() -> None:
    (won, lost), _ = judge([["a", "hit 1", "hit 2", "b"], ["a", "b", "c", "d"]], [False, False])
    assert (won.any, won.last, won.step, won.text) == (True, False, 20, "hit 1")
    assert (lost.any, lost.last, lost.step, lost.text) == (False, False, None, "d")


def test_success_at_the_last_candidate_counts_twice() -> None:
    (verdict,), _ = judge([["a", "hit"]], [False])
    assert (verdict.any, verdict.last, verdict.step) == (True, True, 20)


def test_a_case_won_before_counts_without_a_picture() -> None:
    (verdict,), studio = judge([["a", "b"]], [True])
    assert (verdict.any, verdict.last, verdict.step) == (True, True, 0)
    assert studio.drawn == []


def test_after_a_success_only_the_last_candidate_is_drawn() -> None:
    _, studio = judge([["hit 1", "a", "b", "c"]], [False])
    assert studio.drawn == [(0, "hit 1"), (0, "c")]


def test_the_same_text_is_drawn_once_per_case() -> None:
    verdicts, studio = judge([["a", "a", "b", "a"], ["a", "a", "a", "a"]], [False, False])
    assert studio.drawn == [(0, "a"), (1, "a"), (0, "b")]
    assert not any(verdict.any for verdict in verdicts)


def test_texts_that_are_read_as_the_same_are_drawn_once_and_keep_their_words() -> None:
    studio = Studio()
    candidates = tuple(
        Candidate("text", text, step) for step, text in enumerate(["a hit", "A  HIT", "b", "B", "A HIT"])
    )
    cases, results = [Case(0, "p", 0), Case(1, "p", 1)], [AttackResult(candidates[2:], 0, 0)] * 2
    judge = PictureJudge(WordDetector(), tokens=lambda text: [len(text)])
    found, drawn = judge_candidates(
        cases, results, [False] * 2, draw=studio, judge=judge, read_as=lambda text: text.casefold().split()[0]
    )
    assert (drawn, studio.drawn) == (4, [(0, "b"), (1, "b"), (0, "A HIT"), (1, "A HIT")])
    assert [(one.text, one.ids, one.place, one.step) for one in found[0].pictures] == [
        ("b", (1,), 0, 2), ("B", (1,), 1, 3), ("A HIT", (5,), 2, 4)
    ]  # fmt: skip
    assert [one.tries for one in found] == [2, 2]


def test_shortcuts_change_no_verdict() -> None:
    rng = random.Random(0)
    texts = [[rng.choice(["a", "b", "hit", "hot"]) for _ in range(rng.randint(1, 6))] for _ in range(200)]
    before = [rng.random() < 0.2 for _ in texts]
    verdicts, _ = judge(texts, before)
    for row, pre, verdict in zip(texts, before, verdicts, strict=True):
        hits = ["hit" in text for text in row]
        assert verdict.any == (pre or any(hits))
        assert verdict.last == (pre or hits[-1])
        expected = 0 if pre else 10 * (hits.index(True) + 1) if any(hits) else None
        assert verdict.step == expected


def test_embeddings_are_judged_without_being_compared() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    candidates = tuple(Candidate("token_embeddings", rows * step, step) for step in (1, 2))
    verdicts, drawn = judge_candidates(
        [Case(0, "a", 0)],
        [AttackResult(candidates, 0, 0)],
        [False],
        draw=lambda cases, found: torch.zeros(len(cases), 1, 1, 1),
        judge=PictureJudge(WordDetector()),
    )
    assert drawn == 2
    assert verdicts[0].text == ""
    assert [one.norm for one in verdicts[0].pictures] == [5.0, 10.0]


def test_an_attack_that_proposes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"none for cases \[1\]"):
        judge([["a"], []], [False, False])
