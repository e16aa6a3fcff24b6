"""Reader of typed fields from parsed JSON, which collects all problems instead of stopping at the first."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from robust_encoders.errors import ManifestError

T = TypeVar("T")
_DIGEST = re.compile(r"[0-9a-f]{64}")


# Method of Fields that reads one field, for example Fields.number.
Column = Callable[["Fields", str], Any]


class Fields:
    """One JSON object that is being read; its children share the list of problems.

    Args:
        data: Parsed JSON value; any value but an object is a problem.
        where: Dotted path of the object in the file, for the messages.
        problems: Shared list of problems; None starts a new list.
    """

    def __init__(self, data: object, where: str, problems: list[str] | None = None) -> None:
        self.problems: list[str] = [] if problems is None else problems
        self._where = where
        self._read: set[str] = set()
        self._data: dict[str, Any] = data if isinstance(data, dict) else {}
        if not isinstance(data, dict):
            self.problems.append(f"{where}: expected an object, found {short(data)}")

    def problem(self, key: str, expected: str, found: object) -> None:
        """Add the problem that ``key`` holds another value than ``expected``."""
        self.problems.append(f"{self._where}.{key}: expected {expected}, found {short(found)}")

    def raise_problems(self) -> None:
        """Raise a ManifestError that names every problem, if there are any."""
        if self.problems:
            raise ManifestError(
                f"this manifest has {len(self.problems)} problem(s):\n  " + "\n  ".join(self.problems)
                + "\nfetch or build the artifact again; do not edit a manifest by hand"
            )  # fmt: skip

    def no_others(self) -> None:
        """Add a problem for every key that was never read."""
        for key in sorted(self._data.keys() - self._read):
            self.problems.append(f"{self._where}.{key}: expected no such field, found {short(self._data[key])}")

    def names(self) -> list[str]:
        """Return all keys and mark them as read."""
        self._read.update(self._data)
        return list(self._data)

    def is_null(self, key: str) -> bool:
        """Return true if ``key`` exists and is null."""
        self._read.add(key)
        return key in self._data and self._data[key] is None

    def is_empty_text(self, key: str) -> bool:
        """Return true if ``key`` exists and is an empty string."""
        self._read.add(key)
        return self._data.get(key) == ""

    def child(self, key: str) -> Fields:
        """Return the object under ``key``."""
        return Fields(self._get(key, {}), f"{self._where}.{key}", self.problems)

    def children(self, key: str) -> list[Fields]:
        """Return the objects in the list under ``key``."""
        found = self.mappings(key)
        return [Fields(one, f"{self._where}.{key}[{i}]", self.problems) for i, one in enumerate(found)]

    def table(self, key: str, columns: Mapping[str, Column]) -> dict[str, dict[str, Any]]:
        """Return an object of objects that all have the same fields, as a table with one row for each of them.

        Args:
            key: Key of the outer object.
            columns: Mapping of each field's name to the method that reads it, for example ``Fields.number``.
        """
        rows, table = self.child(key), {}
        for name in rows.names():
            row = rows.child(name)
            table[name] = {column: read(row, column) for column, read in columns.items()}
            row.no_others()
        return table

    def has(self, key: str) -> bool:
        """Return true if ``key`` exists."""
        return key in self._data

    def text(self, key: str, *, empty: bool = False) -> str:
        """Return a string, by default a non-empty one."""
        expected = "a string" if empty else "a non-empty string"
        return self._checked(key, expected, lambda v: isinstance(v, str) and bool(v or empty), "")

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """Return one of ``choices``."""
        return self._checked(key, "one of " + ", ".join(choices), lambda v: v in choices, "")

    def digest(self, key: str) -> str:
        """Return a SHA-256 as 64 hexadecimal digits."""
        return self._checked(
            key, "64 hexadecimal digits", lambda v: isinstance(v, str) and _DIGEST.fullmatch(v) is not None, ""
        )

    def number(self, key: str) -> int:
        """Return an integer."""
        return self._checked(key, "an integer", _is_integer, 0)

    def integers(self, key: str) -> list[int]:
        """Return a list of integers."""
        return self._list(key, "integers", _is_integer)

    def numbers(self, key: str) -> list[float]:
        """Return a list of numbers as floats."""
        return [float(v) for v in self._list(key, "numbers", _is_number)]

    def strings(self, key: str) -> tuple[str, ...]:
        """Return a list of strings as a tuple."""
        return tuple(self._list(key, "strings", lambda v: isinstance(v, str)))

    def mappings(self, key: str) -> list[dict[str, Any]]:
        """Return a list of objects."""
        return self._list(key, "objects", lambda v: isinstance(v, dict))

    def mapping(self, key: str) -> dict[str, Any]:
        """Return an object with any values."""
        return self._checked(key, "an object", lambda v: isinstance(v, dict), {})

    def strings_by_name(self, key: str) -> dict[str, str]:
        """Return an object whose values are strings."""
        return self._checked(
            key,
            "an object of strings",
            lambda v: isinstance(v, dict) and all(isinstance(s, str) for s in v.values()),
            {},
        )

    def _list(self, key: str, of: str, fits: Callable[[Any], bool]) -> list[Any]:
        empty: list[Any] = []
        return self._checked(key, f"a list of {of}", lambda v: isinstance(v, list) and all(map(fits, v)), empty)

    def _checked(self, key: str, expected: str, fits: Callable[[Any], bool], default: T) -> T:
        before = len(self.problems)
        value: T = self._get(key, default)
        if fits(value) or len(self.problems) > before:
            return value
        self.problem(key, expected, value)
        return default

    def _get(self, key: str, default: Any) -> Any:
        self._read.add(key)
        if key not in self._data:
            self.problems.append(f"{self._where}.{key}: expected this field, found none")
            return default
        return self._data[key]


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    # An integer of a thousand digits is valid JSON, but does not fit into a float.
    return isinstance(value, float) or (_is_integer(value) and abs(cast(int, value)) < 2**1000)


def short(value: object) -> str:
    """Return the text of a value for a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
