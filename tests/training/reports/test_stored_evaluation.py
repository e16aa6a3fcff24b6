"""Stored evaluations: verdicts only of the same numbers, and the worst case recorded, counted or bounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evaluations import Attacks, write_evaluation
from suite_evaluations import SUITE, write_suite

from robust_encoders.training.evaluation.results import RESULTS_NAME
from robust_encoders.training.metrics.rates import wilson_interval
from robust_encoders.training.reports.plots.data import rates_of
from robust_encoders.training.reports.stored_evaluation import (
    StoredEvaluation,
    worst_case_by_text,
    worst_case_with_embeddings,
)


def test_the_worst_case_is_the_union_over_the_attacks_by_text(tmp_path: Path) -> None:
    steps: Attacks = {"a": ("T3", [20, None, None, None]), "b": ("T2", [None, 1, None, None]), "c": ("T4", [5] * 4)}
    worst = StoredEvaluation.read(write_evaluation(tmp_path, steps)).worst_case
    assert worst is not None
    assert (worst.value, worst.n, worst.labels, worst.exact) == (0.5, 4, ("b", "a"), True)
    assert worst.interval == wilson_interval(2, 4)


def test_without_its_verdicts_the_worst_case_is_a_bound(tmp_path: Path) -> None:
    steps: Attacks = {"a": ("T3", [20, 20, None, None]), "b": ("T2", [None, None, 1, None])}
    folder = write_evaluation(tmp_path, steps)
    (folder / "cells" / "attack-b.json").unlink()
    stored = StoredEvaluation.read(folder / RESULTS_NAME)
    assert set(stored.verdicts) == {"a"}
    assert stored.worst_case is not None
    assert (stored.worst_case.value, stored.worst_case.exact) == (0.5, False)
    assert rates_of(stored)[-1].bound


def test_verdicts_of_other_numbers_are_left_out(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path, {"a": ("T3", [20, None, None, None])})
    other = write_evaluation(tmp_path / "other", {"a": ("T3", [20, 20, None, None])})
    (other / "cells" / "attack-a.json").replace(folder / "cells" / "attack-a.json")
    assert StoredEvaluation.read(folder).verdicts == {}


def test_the_recorded_worst_case_needs_no_verdicts(tmp_path: Path) -> None:
    with_cells, alone = (
        StoredEvaluation.read(write_suite(tmp_path / str(cells), cells=cells)) for cells in (True, False)
    )
    assert alone.verdicts == {}
    for one in (with_cells, alone):
        assert one.worst_case == with_cells.recorded("worst_case")
        assert one.worst_case is not None
        assert one.worst_case.exact
        assert one.worst_case.labels == tuple(label for label, (tier, *_) in SUITE.items() if tier <= "T3")
        assert one.worst_case_embeddings is not None
        assert one.worst_case_embeddings.value >= one.worst_case.value


def test_the_recorded_worst_case_is_the_one_that_verdicts_give(tmp_path: Path) -> None:
    stored = StoredEvaluation.read(write_suite(tmp_path))
    bare = [r for r in stored.evaluation.results if not r.metric.startswith("worst_")]
    counted = replace(stored, evaluation=replace(stored.evaluation, results=tuple(bare)))
    assert counted.recorded("worst_case") is None
    assert counted.worst_case == stored.worst_case
    assert counted.worst_case_embeddings == stored.worst_case_embeddings


def test_what_two_folders_know_about_an_encoder_is_joined_prompt_by_prompt(tmp_path: Path) -> None:
    """Each wins one prompt of four by an attack of the same label and other numbers."""
    steps: list[Attacks] = [{"a": ("T3", [20, None, None, None])}, {"a": ("T3", [None, 20, 30, None])}]
    folders = [write_evaluation(tmp_path / str(i), attacks) for i, attacks in enumerate(steps)]
    sources = [(folder.name, StoredEvaluation.read(folder)) for folder in folders]
    worst = worst_case_by_text(sources)
    assert worst is not None
    assert (worst.value, worst.exact, worst.labels) == (0.75, True, ("a", "a (1)"))
    assert worst_case_with_embeddings(sources) is None
