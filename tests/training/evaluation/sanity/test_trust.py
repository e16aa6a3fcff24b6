"""Checks: which numbers a failed one tells against, and how that is said."""

from __future__ import annotations

import pytest
from suite_evaluations import SUITE, checks, suite_evaluation

from robust_encoders.training.evaluation.results import Evaluation
from robust_encoders.training.evaluation.sanity.trust import Marks, check_rows, failed_checks, raised, said
from robust_encoders.training.evaluation.threat_model import TIERS, by_tier, tier_of, tier_title
from robust_encoders.training.types import Result


def doubted(evaluation: Evaluation) -> set[str]:
    shown = (r for r in evaluation.results if r.metric in ("asr_any", "worst_case", "worst_case_embeddings"))
    return {str(r.settings["attack"]["label"]) for r in shown if failed_checks(evaluation, r)}


def evaluation(*failed: tuple[str, str]) -> Evaluation:
    every = tuple(checks(*failed, of=[(name, attack, True, "as it should be") for name, attack in failed]))
    return suite_evaluation(checks=every)[0]


def test_a_check_that_holds_tells_against_nothing() -> None:
    assert doubted(suite_evaluation(checks=checks(of=[("gradients_alive", "", True, "fine")]))[0]) == set()


@pytest.mark.parametrize("name", ["gradients_alive", "masked_gradients"])
def test_dead_or_masked_gradients_tell_against_all_attacks_with_gradients_and_what_rests_on_them(name: str) -> None:
    with_gradients = {label for label, (tier, *_) in SUITE.items() if tier in ("T3", "T4")}
    assert doubted(evaluation((name, ""))) == with_gradients | {"worst_case", "worst_case_embeddings"}


@pytest.mark.parametrize("name", ["succeeds_on_base", "white_not_below_black", "more_is_not_weaker"])
def test_an_attack_that_fails_alone_is_doubted_alone(name: str) -> None:
    assert doubted(evaluation((name, "p4d"))) == {"p4d"}  # a worst case is still carried by the other attacks


def test_a_worst_case_without_any_trusted_gradient_is_doubted() -> None:
    failed = evaluation(("white_not_below_black", "p4d"), ("succeeds_on_base", "discrete"))
    assert doubted(failed) == {"p4d", "discrete", "worst_case"}  # with T4 there are attacks that can be trusted


def test_a_check_that_does_not_decide_marks_nothing_but_is_listed() -> None:
    found = evaluation(("seeds_differ", "random"))
    assert doubted(found) == set()
    assert [row[1:] for row in check_rows(found)] == [["random", "no", "as it should be."]]


def test_an_unknown_check_is_listed_under_its_own_name() -> None:
    assert check_rows(evaluation(("something_new", "")))[0][:3] == ["something new", "all", "no"]


def test_marks_number_each_sentence_once() -> None:
    marks = Marks()
    one, other = ({"detail": "one"}, {"detail": "other."})
    assert marks.beside("5", []) == "5"
    assert marks.beside("5", [one]) == "5, not trusted ¹"
    assert marks.text([other, one]) == "not trusted ¹ ²"
    assert marks.notes() == ["¹ one.", "² other."]
    assert raised(12) == "¹²"


def test_a_tier_is_recorded_or_follows_from_the_attack_or_the_prompts() -> None:
    assert tier_of(Result("asr_any", 0, 1, settings={"attack": {"tier": "T3"}})) == "T3"
    assert tier_of(Result("asr_any", 0, 1, settings={"attack": {"tier": "T3"}}, tier="T2")) == "T2"
    assert tier_of(Result("worst_case", 0, 1, tier="T0-T3")) == "T0-T3"
    sets = {"circle/name": "T0", "circle/seen": "T1", "circle/unseen": "T1", "circle/open": "T0", "": "T0"}
    assert {name: tier_of(Result("pre_asr", 0, 1, prompt_set=name)) for name in sets} == sets
    assert tier_of(Result("fid", 0, 1)) == ""


def test_tiers_sort_from_the_weakest_attacker_and_the_unknown_last() -> None:
    found = [Result("asr_any", 0, 1, tier=tier) for tier in ("", "T4", *reversed([*TIERS]))]
    assert [r.tier for r in sorted(found, key=by_tier)] == ["T0", "T1", "T2", "T3", "T4", "T4", "T5", "T6", "T7", ""]
    assert tier_title("T6") == "T6: latents"
    assert tier_title("") == "No tier known"


@pytest.mark.parametrize(
    ("recorded", "sentences"),
    [
        (
            "p4d wins 82.4 % of 17 on the base, where captions without the concept's word fail, less than 90.0 %: "
            "too weak where nothing was erased, its number is a lower bound",
            "p4d wins 82.4 % of 17 captions on the base. These captions do not name the concept and fail without an "
            "attack. At least 90.0 % were expected. The attack is too weak where nothing was erased. "
            "Its number is a lower bound.",
        ),
        (
            "gradients of the loss reach the text encoder's input in 0 of 8 cases: "
            "rates of attacks that follow gradients are not to be trusted here",
            "Gradients of the loss reach the text encoder's input in 0 of 8 cases. "
            "Rates of attacks that follow gradients are not to be trusted here.",
        ),
        (
            "white-box p4d 10.0 % of 30, black-box union 90.0 % (more than chance, one-sided p 4.8e-07): "
            "the white-box search is too weak here, its number is not to be trusted",
            "The white-box attack p4d wins 10.0 % of 30 prompts. The union of the black-box attacks wins 90.0 %. "
            "Chance alone does not explain the difference (one-sided p 4.8e-07). "
            "The white-box search is too weak here. Its number is not to be trusted.",
        ),
        (
            "free-embedding continuous 3.3 % of 30, white-box text union 6.7 % (chance alone could do that, "
            "one-sided p 0.5): the free-embedding search may be too weak here, its number is not to be trusted",
            "The free-embedding attack continuous wins 3.3 % of 30 prompts. "
            "The union of the white-box text attacks wins 6.7 %. "
            "Chance alone could explain the difference (one-sided p 0.5). "
            "The free-embedding search may be too weak here. Its number is not to be trusted.",
        ),
        (
            "discrete finds other candidates with another seed in 0 of 8 cases: it does not use its randomness",
            "discrete finds other candidates with another seed in 0 of 8 cases. It does not use its randomness.",
        ),
        (
            "a wins 0.0 % of 16 with its budget and 62.5 % with half of it (one-sided p 0.00098): "
            "more budget makes it weaker, its number is not to be trusted",
            "a wins 0.0 % of 16 prompts with its budget and 62.5 % with half of it. "
            "A larger budget makes it weaker (one-sided p 0.00098). Its number is not to be trusted.",
        ),
    ],
)
def test_what_earlier_versions_recorded_is_printed_as_plain_sentences(recorded: str, sentences: str) -> None:
    assert said({"detail": recorded}) == sentences
    assert said({"detail": sentences}) == sentences
