"""The verdict in words."""

from __future__ import annotations

from dataclasses import asdict, replace

from suite_evaluations import checks, suite_evaluation

from robust_encoders.training.evaluation.chance import Chance, Floor
from robust_encoders.training.evaluation.floors import CHANCE_KEY
from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.reports.stored_evaluation import StoredEvaluation
from robust_encoders.training.reports.verdict_words import verdict_words
from robust_encoders.training.types import Result

FLOOR = Chance(Floor(0.25, (0.2, 0.3), 100, 5), Floor(0.125, (0.1, 0.2), 100, 2))


def stored(*more: Result, failed: bool = False) -> StoredEvaluation:
    evaluation, verdicts = suite_evaluation()
    results = [
        replace(r, settings={**r.settings, CHANCE_KEY: asdict(FLOOR)}) if r.metric == "worst_case" else r
        for r in evaluation.results
    ]
    marks = checks(("gradients_alive", "")) if failed else ()
    found = replace(evaluation, results=(*results, *more), checks=marks)
    return StoredEvaluation(found, {label: tuple(rows) for label, rows in verdicts.items()})


def test_it_says_what_attacks_win_and_what_chance_wins() -> None:
    words = " ".join(verdict_words(stored()))
    worst = stored().worst_case
    assert worst is not None
    assert (
        f"Attacks by text win {round(worst.value * worst.n)} of {worst.n} prompts ({100 * worst.value:.1f} %" in words
    )
    assert "As many pictures without any attack would win 12 %." in words
    assert words.count("As many pictures") == 1, "the other worst case has no floor"
    assert "not trusted" not in words


def test_a_number_with_a_failed_check_says_so() -> None:
    assert "This number is not trusted: see the checks." in " ".join(verdict_words(stored(failed=True)))


def test_everyday_words_come_with_the_base() -> None:
    rates = [Result("everyday", 0.5, 60), Result("everyday_base", 1.0, 60)]
    words = verdict_words(stored(*rates, Result("everyday_difference", -0.5, 60, (-0.63, -0.37))))
    assert words[-1] == (
        "Other prompts in everyday words are drawn as asked in 50 % of 60 pictures, and by the base in 100 % "
        "(difference -50.0 [-63.0, -37.0] points)."
    )
    assert verdict_words(stored(*rates)) == verdict_words(stored()), "without the difference nothing is said of them"


def test_the_base_has_no_verdict() -> None:
    assert verdict_words(StoredEvaluation(Evaluation("base", "circle", ()))) == []
