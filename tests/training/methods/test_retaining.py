"""Methods whose retain prompts are one of their fields."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from robust_encoders.training.methods.retaining import RetainsField


@dataclass(frozen=True, kw_only=True)
class Keeping(RetainsField):
    retain: tuple[str, ...] = ()
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Guarding(RetainsField):
    retain_field: ClassVar[str] = "guarded"
    guarded: tuple[str, ...]
    rate: float = 0.5


@pytest.mark.parametrize("kind", [Keeping, Guarding])
def test_the_named_field_alone_changes(kind: type[Keeping | Guarding]) -> None:
    method = kind.standard(("a cat",))
    assert method.retained == ("a cat",)
    assert not method.wants_retained, "no prompts of everyday objects unless a method asks for them"

    slower = replace(method, rate=0.1)
    other = slower.retaining(("a dog", "a tree"))
    assert other.retained == ("a dog", "a tree")
    assert (other.rate, slower.retained) == (0.1, ("a cat",))
    assert other.retaining(("a cat",)) == slower
