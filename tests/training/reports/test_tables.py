"""The model of tables: numbers with interval and mark, and entries that stand the same in every rendering."""

from __future__ import annotations

import pytest

from robust_encoders.training.evaluation.sanity.trust import Marks
from robust_encoders.training.reports.tables import MISSING, Entry, Number, Row, Table, markdown

FAILED = ({"name": "succeeds_on_base", "attack": "a", "ok": False, "detail": "too weak"},)
NUMBER = Number(0.5, 40, (0.25, 0.75))


def test_columns_line_up_as_plain_text() -> None:
    lines = markdown(["a", "long head"], [["cell", "b"], ["x", "y"]])
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| ---- | --------- |"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (NUMBER, "50.0 [25.0, 75.0]"),
        (Number(0.5, 40, bound=True), "≥ 50.0"),
        (Number(0.5, 40, scale=1, digits=3), "0.500"),
        (Number(0.5, 40, before="discrete", failed=FAILED), "discrete 50.0"),
    ],
)
def test_a_number_stands_with_its_interval(number: Number, text: str) -> None:
    assert number.text == text
    assert number.n == 40


def test_marks_stand_behind_their_numbers_and_are_counted_in_reading_order() -> None:
    other = ({**FAILED[0], "detail": "weaker still"},)
    rows: list[list[Entry]] = [
        [Number(0.5, 4, failed=other, after=", reported"), None],
        [Number(1, 4, failed=FAILED), "words"],
    ]
    marks = Marks()
    texts = Table("title", ["one", "two"], {"first": rows[:1], "second": rows[1:]}).texts(marks)
    assert texts == {
        "first": [["50.0, not trusted ¹, reported", MISSING]],
        "second": [["100.0, not trusted ²", "words"]],
    }
    assert marks.notes() == ["¹ weaker still.", "² too weak."]


def test_markdown_has_the_rows_of_all_groups() -> None:
    table = Table("title", ["one"], {"first": [[NUMBER]], "second": [["x"]]})
    assert table.markdown(Marks()) == markdown(["one"], [["50.0 [25.0, 75.0]"], ["x"]])


def test_only_an_attack_is_named_with_its_tier() -> None:
    assert Row("discrete", NUMBER, "T3", "asr_any").title == "discrete T3"
    assert Row("unknown attack", NUMBER, "", "asr_any").title == "unknown attack"
    assert Row("worst case, T0-T3", NUMBER, "T0-T3", "worst_case").title == "worst case, T0-T3"
