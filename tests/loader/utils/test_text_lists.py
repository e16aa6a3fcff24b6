"""One string where several belong: refused with the name of the field, and with what to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from robust_encoders.errors import RobustEncodersError
from robust_encoders.utils.text_lists import (
    TextListError,
    comma_problems,
    listed,
    require_texts,
    single_text_problems,
)


@dataclass
class Inner:
    words: tuple[str, ...] = ()
    policy: str | Sequence[str] = "explicit"
    name: str = "a, b"


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    several: tuple[Inner, ...] = ()
    folders: tuple[Path, ...] = ()
    names: Sequence[str] | None = None
    layers: tuple[int, ...] | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    one_pair: tuple[str, str] = ("", "")


def test_only_fields_of_several_texts_are_looked_at() -> None:
    fit = Outer(Inner(("a", "b, c")), (Inner(),), (Path("x"),), ["n"], (1,), (("a", "b"),))
    assert single_text_problems(fit, "config") == []
    assert single_text_problems("a, b", "config") == []


def test_every_wrong_field_is_named_at_any_depth() -> None:
    wrong = Outer(Inner("disc, ball"), (Inner(), Inner("x")), "runs", "n")  # type: ignore[arg-type]  # what is refused
    problems = single_text_problems(wrong, "config")
    assert [text.partition(":")[0] for text in problems] == [
        "config.inner.words",
        "config.several[1].words",
        "config.folders",
        "config.names",
    ]
    assert "('disc', 'ball')" in problems[0]
    assert "('x',)" in problems[1]


def test_other_values_than_strings_are_named() -> None:
    (problem,) = single_text_problems(Inner((1,)), "config")  # type: ignore[arg-type]  # what is refused
    assert "found 1 of type int" in problem


def test_an_argument_is_several_strings() -> None:
    require_texts("prompts", ["a", "b"])
    require_texts("prompts", ())
    for wrong in ("a circle", b"a circle", [1]):
        with pytest.raises(TextListError, match="prompts"):
            require_texts("prompts", wrong)
    assert issubclass(TextListError, RobustEncodersError)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("circle", ()),
        ("Van Gogh", ()),
        ("circle, square", ("circle", "square")),
        ("circle;square", ("circle", "square")),
        ("circle\nsquare", ("circle", "square")),
        ("circle,", ("circle",)),
        ("", ()),
    ],
)
def test_a_list_is_told_by_its_commas(text: str, parts: tuple[str, ...]) -> None:
    assert listed(text) == parts


def test_the_remedy_names_what_to_write() -> None:
    assert comma_problems("--also", ["ring", "a b, c"], "write --also {}") == [
        "expected one word or phrase at a time with --also, found the list 'a b, c'; write --also \"a b\" c"
    ]
