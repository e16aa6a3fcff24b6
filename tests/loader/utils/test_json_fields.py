"""Reading JSON: every problem is collected, none hides another."""

from __future__ import annotations

from typing import Any

import pytest

from robust_encoders import ManifestError
from robust_encoders.utils.json_fields import Column, Fields

GOOD: dict[str, Any] = {
    "text": "a",
    "empty": "",
    "choice": "x",
    "digest": "0" * 64,
    "number": 3,
    "integers": [1, 2],
    "numbers": [1, 2.5],
    "strings": ["a"],
    "mappings": [{"a": 1}],
    "mapping": {"a": [1]},
    "by_name": {"a": "b"},
    "null": None,
    "child": {"inner": "a"},
}


def read(fields: Fields) -> dict[str, Any]:
    return {
        "text": fields.text("text"),
        "empty": fields.text("empty", empty=True),
        "choice": fields.choice("choice", ("x", "y")),
        "digest": fields.digest("digest"),
        "number": fields.number("number"),
        "integers": fields.integers("integers"),
        "numbers": fields.numbers("numbers"),
        "strings": fields.strings("strings"),
        "mappings": fields.mappings("mappings"),
        "mapping": fields.mapping("mapping"),
        "by_name": fields.strings_by_name("by_name"),
        "null": fields.is_null("null"),
        "child": fields.child("child").text("inner"),
    }


def test_good_values_come_back() -> None:
    fields = Fields(GOOD, "top")
    values = read(fields)
    fields.no_others()
    fields.raise_problems()
    assert values == {**GOOD, "strings": ("a",), "null": True, "child": "a"}


BAD: dict[str, Any] = {
    "text": "",
    "empty": 1,
    "choice": "z",
    "digest": "0" * 63 + "G",
    "number": True,
    "integers": [1.5],
    "numbers": ["a"],
    "strings": "a",
    "mappings": [1],
    "mapping": [],
    "by_name": {"a": 1},
    "child": [],
}


@pytest.mark.parametrize("key", sorted(BAD))
def test_each_bad_value_is_named(key: str) -> None:
    fields = Fields({**GOOD, key: BAD[key]}, "top")
    read(fields)
    with pytest.raises(ManifestError, match=rf"top\.{key}.*: expected"):
        fields.raise_problems()


@pytest.mark.parametrize("key", sorted(GOOD.keys() - {"null"}))
def test_each_missing_field_is_named_once(key: str) -> None:
    fields = Fields({k: v for k, v in GOOD.items() if k != key}, "top")
    read(fields)
    assert fields.problems[0] == f"top.{key}: expected this field, found none"
    assert sum(p.startswith(f"top.{key}:") for p in fields.problems) == 1


def test_all_problems_are_named_at_once() -> None:
    fields = Fields({**BAD, "unknown": "x" * 200}, "top")
    read(fields)
    fields.no_others()
    with pytest.raises(ManifestError) as caught:
        fields.raise_problems()
    for key in [*BAD, "unknown"]:
        assert f"top.{key}" in str(caught.value)
    assert "x" * 100 not in str(caught.value)


def test_something_that_is_no_object_is_named() -> None:
    assert Fields([1], "top").problems == ["top: expected an object, found [1]"]


def test_a_table_is_read_in_one_pass_and_every_problem_of_it_is_named() -> None:
    columns: dict[str, Column] = {"size": Fields.number, "name": Fields.text}
    good = {"table": {"a": {"size": 1, "name": "x"}, "b": {"size": 2, "name": "y"}}}
    fields = Fields(good, "top")
    assert fields.table("table", columns) == good["table"]
    fields.no_others()
    fields.raise_problems()
    bad = Fields({"table": {"a": {"size": "1", "more": 0}, "b": 3}}, "top")
    bad.table("table", columns)
    assert bad.problems == [
        "top.table.a.size: expected an integer, found '1'",
        "top.table.a.name: expected this field, found none",
        "top.table.a.more: expected no such field, found 0",
        "top.table.b: expected an object, found 3",
        "top.table.b.size: expected this field, found none",
        "top.table.b.name: expected this field, found none",
    ]
