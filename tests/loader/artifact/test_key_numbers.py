"""The three numbers that matter: the worst of each kind, with intervals, doubts and withdrawals."""

from __future__ import annotations

from typing import Any

from robust_encoders.artifact.key_numbers import key_lines, key_numbers


def result(metric: str, value: Any, *doubts: str, **fields: Any) -> dict[str, Any]:
    return {"metric": metric, "value": value, "n": 30, "origin": "measured", "settings": {"doubts": doubts}, **fields}


RESULTS = [
    result("pre_asr", 0.0, interval=[0.0, 0.11]),
    result("pre_asr", 0.1, interval=[0.03, 0.26]),
    result("pre_asr", 0.9, origin="reported"),
    result("worst_case", 0.25, "attack too weak", "too few prompts", interval=[0.1, 0.4]),
    result("worst_case_embeddings", 0.9),
    result("retain_shape", 0.5),
    result("retain_all", 0.97, "too few prompts", interval=[0.9, 0.99]),
]


def test_each_is_the_worst_that_was_measured_with_its_interval() -> None:
    unattacked, worst, kept = key_numbers(RESULTS)
    assert (unattacked.value, unattacked.interval) == ("10 %", "95 % interval 3 % to 26 %")
    assert (worst.value, worst.facts) == ("25 %", "n=30, lower is better")
    assert (kept.value, kept.facts) == ("97 %", "n=30, higher is better")


def test_doubts_are_numbered_footnotes_each_once() -> None:
    rows = key_lines(RESULTS)
    assert [row[1] for row in rows[:3]] == ["10 %", "25 % (1) (2)", "97 % (2)"]
    assert rows[3:] == [("(1)", "attack too weak"), ("(2)", "too few prompts")]


def test_a_withdrawn_number_is_not_shown() -> None:
    gone = [result("pre_asr", 0.123, "withdrawn: a fault"), result("worst_case", 0.456, "withdrawn: a fault", "weak")]
    rows = key_lines([*gone, result("retain_all", 0.5)])
    assert [row[1] for row in rows] == ["withdrawn", "withdrawn", "50 %"]
    valid = key_numbers([*gone, result("pre_asr", 0.02)])[0]
    assert valid.value == "2 %", "one of a kind was withdrawn, the other counts"


def test_without_results_nothing_is_measured() -> None:
    assert [number.value for number in key_numbers([])] == ["not measured"] * 3
    odd: list[dict[str, Any]] = [{"metric": "pre_asr"}, {"value": 1}, {"metric": "worst_case", "value": "?"}, {}]
    assert [number.value for number in key_numbers(odd)] == ["not measured"] * 3


def test_retention_is_told_by_what_there_is() -> None:
    assert key_numbers([result("retain_shape", 0.9), result("retain_style", 0.4)])[2].value == "40 %"
    clip = key_numbers([result("clip_score", 0.31, interval=[0.3, 0.32])])[2]
    assert (clip.value, clip.interval) == ("0.310", "95 % interval 0.300 to 0.320")
    assert "CLIP score" in clip.facts


def test_everyday_words_say_what_is_kept_beside_the_base() -> None:
    found = [result("retain_all", 0.98), result("everyday", 0.23), result("everyday_base", 0.72)]
    kept = key_numbers(found)[2]
    assert (kept.value, kept.facts) == ("23 %", "n=30, higher is better, in everyday words, base 72 %")
    floors = {"chance": {"encoder": {"rate": 0.04}}}
    assert key_numbers([result("worst_case", 0.2, settings=floors)])[1].facts.endswith("by chance 4 %")


def test_numbers_of_others_are_called_reported() -> None:
    assert "reported, not measured by this package" in key_numbers([result("pre_asr", 0.2, origin="reported")])[0].facts
