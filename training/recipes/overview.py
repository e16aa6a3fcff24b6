"""All recipes in a few lines: bases and concepts that have the same methods share a line."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

SHIPPED = "(shipped)"  # method of a name without one
Table = Mapping[tuple[str, ...], tuple[str, ...]]


def overview(names: Iterable[str], *, width: int) -> str:
    """Return the names of recipes as lines of text: bases, then their concepts with the methods of each.

    Args:
        names: Names of recipes, ``base/concept-method`` or ``base/concept``.
        width: Largest number of characters in a line.
    """
    bases: dict[str, dict[str, list[str]]] = {}
    for name in names:
        base, _, rest = name.partition("/")
        concept, _, method = rest.partition("-")
        bases.setdefault(base, {}).setdefault(concept, []).append(method)
    tables: dict[str, Table] = {base: _keys_by_value(methods) for base, methods in bases.items()}
    lines = []
    for alike in {tuple(table.items()): None for table in tables.values()}:
        owners = [base for base, table in tables.items() if tuple(table.items()) == alike]
        lines.append(f"{', '.join(owners)}:")
        for methods, concepts in alike:
            text = f"{', '.join(concepts)}: {', '.join(method or SHIPPED for method in methods)}"
            lines += textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
    return "\n".join(lines)


def _keys_by_value(methods: Mapping[str, list[str]]) -> Table:
    """Return each set of methods with the concepts that have it."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for concept, values in methods.items():
        key = tuple(sorted(values))
        found[key] = (*found.get(key, ()), concept)
    return found
