"""Rows of a csv file of prompts with their line numbers, and errors that list what is wrong with them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...prompts.text_files import PromptFileError

_SHOWN = 10  # problems named in one error


@dataclass(frozen=True)
class CsvRow:
    """One row of a csv file.

    Args:
        line: Number of its first line in the file, from 1.
        cells: Column to value; a value is None if the row is too short, and the column None holds surplus values.
    """

    line: int
    cells: Mapping[str, str | None]

    @property
    def is_complete(self) -> bool:
        """True if the row has as many values as there are columns."""
        return None not in self.cells and None not in self.cells.values()

    def text(self, column: str) -> str:
        """Return a value without spaces around it; empty if there is none."""
        return (self.cells.get(column) or "").strip()


def csv_rows(text: str, file: str) -> list[CsvRow]:
    """Return the rows of a csv file; a prompt may contain line ends.

    Args:
        text: Text of the file.
        file: Name of the file, for errors.

    Raises:
        PromptFileError: If quotes are not closed, or stand inside of a value.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        return list(_numbered(reader))
    except csv.Error as error:
        raise PromptFileError(
            f"expected comma-separated values in {file}, found {error} at line {reader.line_num}"
        ) from error


def columns_of(text: str) -> list[str]:
    """Return the names of the columns of a csv file; empty for an empty file."""
    return next(csv.reader(io.StringIO(text, newline="")), [])


def refuse_missing_columns(rows: Sequence[CsvRow], needed: Sequence[str], source: str) -> None:
    """Refuse a file without rows, or without a column.

    Raises:
        PromptFileError: If there is no row, or a column is missing.
    """
    if not rows:
        raise PromptFileError(f"expected rows with {', '.join(needed)} in {source}, found none; add one a prompt")
    missing = [column for column in needed if column not in rows[0].cells]
    if missing:
        found = ", ".join(str(column) for column in rows[0].cells)
        raise PromptFileError(
            f"expected the columns {', '.join(missing)} in {source}, found {found}; rename or add them"
        )


def refuse(problems: Sequence[str], source: str) -> None:
    """Refuse a file with problems; the message shows the first ten.

    Raises:
        PromptFileError: If there are problems.
    """
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise PromptFileError(f"{source}: {'; '.join(problems[:_SHOWN])}{more}")


def _numbered(reader: csv.DictReader[str]) -> Iterator[CsvRow]:
    while True:
        line = reader.line_num + 1
        row = next(reader, None)
        if row is None:
            return
        # The line number includes the header only after the first row is read.
        yield CsvRow(max(line, 2), row)
