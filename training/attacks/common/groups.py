"""The division of cases into groups, for attacks that learn one thing on many prompts and try it on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ...types import Case

T = TypeVar("T")


def group_of_each(n: int, groups: int) -> tuple[int, ...]:
    """Return the group of each of n cases: the cases are dealt out in turn, to at most ``groups`` groups."""
    return tuple(i % min(groups, n) for i in range(n))


def crossed(
    cases: Sequence[Case], groups: int, learn: Callable[[Sequence[Case], int], T], what: str
) -> list[tuple[list[int], T]]:
    """Learn something for each group on the cases of all other groups.

    Args:
        cases: At least two cases.
        groups: Largest number of groups.
        learn: Function from cases and the number of a group to what is learned for that group.
        what: Name of what is learned, for the message.

    Returns:
        One pair for each group: the positions of its cases, and what was learned on the others.

    Raises:
        ValueError: If there are fewer than two cases.
    """
    if len(cases) < 2:
        raise ValueError(f"expected at least 2 cases to learn {what} on some and try it on others, found {len(cases)}")
    dealt = group_of_each(len(cases), groups)
    found = []
    for group in range(max(dealt) + 1):
        others = [case for case, one in zip(cases, dealt, strict=True) if one != group]
        found.append(([i for i, one in enumerate(dealt) if one == group], learn(others, group)))
    return found


def others_than_own(n: int, groups: int) -> list[int]:
    """Return the number of cases that each group learns on."""
    dealt = group_of_each(n, groups)
    return [n - dealt.count(group) for group in range(max(dealt) + 1)]


def shares(total: int, n: int) -> list[int]:
    """Divide the joint cost ``total`` of all cases into ``n`` nearly equal whole numbers with that sum."""
    return [total // n + (i < total % n) for i in range(n)]
