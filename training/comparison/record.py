"""The file ``comparison.json``: what a comparison is about, and how far each of its rows has come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..provenance import write_json

RECORD_NAME = "comparison.json"
BASE_ROW = "base"
SCHEMA = 1
Status = Literal["waiting", "finished", "reused", "failed"]
# Keys of `about` in words, for the message about another comparison.
_SETTINGS = "settings"


@dataclass(frozen=True)
class RowRecord:
    """One row of a comparison: a method with a seed, or the base.

    Args:
        name: Name of the method in the comparison, or ``base``.
        seed: Seed of the training, and of prompts, pictures and attacks of the evaluation.
        component: Component that the method trains; empty for the base.
        registered: False for a method without a recipe, which has its standard settings.
        status: State of the row.
        problem: Step that failed and the error, in words; empty unless the row failed.
        source: File of the numbers that were reused; empty for numbers of this comparison.
        note: Something that a reader has to know about the row.
    """

    name: str
    seed: int
    component: str = ""
    registered: bool = True
    status: Status = "waiting"
    problem: str = ""
    source: str = ""
    note: str = ""

    @property
    def slug(self) -> str:
        """Name of the row's folder, and of the row in the report."""
        return f"{self.name}-{self.seed}".replace("/", "-")


@dataclass
class ComparisonRecord:
    """The state of a comparison; ``write`` puts it into its folder.

    Args:
        folder: Folder of the comparison.
        about: Base, concept, benchmark and settings, as JSON values; another comparison differs in one of them.
        rows: Name of a row's folder to the row, in the order of the report.
    """

    folder: Path
    about: Mapping[str, Any]
    rows: dict[str, RowRecord] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> ComparisonRecord | None:
        """Return the comparison in a folder; None if there is none.

        Raises:
            ValueError: If the file is no such JSON.
        """
        path = folder / RECORD_NAME
        if not path.exists():
            return None
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["schema"] != SCHEMA:
                raise ValueError(f"schema {stored['schema']}")
            rows = {slug: RowRecord(**row) for slug, row in stored["rows"].items()}
            return cls(folder, stored["about"], rows)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"expected a comparison of schema {SCHEMA} in {path}, found something else ({error}); choose another "
                "folder with --out"
            ) from error

    def problems(self, about: Mapping[str, Any]) -> list[str]:
        """Return the reason why the folder cannot go on with a comparison that is about something else.

        Args:
            about: Base, concept, benchmark and settings of the new comparison.
        """
        others = [
            f"{name} {_shown(self.about, name)} instead of {_shown(about, name)}"
            for name in (*(one for one in about if one != _SETTINGS), *_names(self.about, about))
            if _value(self.about, name) != _value(about, name)
        ]
        if not others:
            return []
        return [
            f"expected a new folder or one of the same comparison, found another one in {self.folder}: "
            f"{', '.join(others)}; choose another folder with --out"
        ]

    def write(self) -> None:
        """Write the file atomically."""
        rows = {slug: asdict(row) for slug, row in self.rows.items()}
        write_json(self.folder / RECORD_NAME, {"schema": SCHEMA, "about": dict(self.about), "rows": rows})


def _names(*abouts: Mapping[str, Any]) -> list[str]:
    """Return the names of all settings."""
    return list(dict.fromkeys(name for about in abouts for name in about.get(_SETTINGS, {})))


def _value(about: Mapping[str, Any], name: str) -> Any:
    return about.get(_SETTINGS, {}).get(name, about.get(name))


def _shown(about: Mapping[str, Any], name: str) -> str:
    return str(_value(about, name))[:60]
