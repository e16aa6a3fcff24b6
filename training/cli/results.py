"""``robust-encoders results``: finished evaluations as tables in Markdown, and as CSV for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robust_encoders.utils.console import EXIT_OK, UsageError, say
from robust_encoders.utils.home import write_atomically

from ..reports.matrix import tables
from ..reports.paired import paired_tables
from ..reports.tidy_csv import Source, csv_text
from .parsing import parser_of


def results(arguments: Sequence[str]) -> int:
    """Print the tables of finished evaluations and artifacts, or write all their numbers as CSV.

    Args:
        arguments: Folders and options.

    Returns:
        The exit code.

    Raises:
        UsageError: If a folder holds no numbers, or the CSV file cannot be written.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    parser = parser_of("results", "Print the tables of finished evaluations, by concept and in pairs, in Markdown.")
    parser.add_argument(
        "found",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="folder of an evaluation or artifact, or its JSON file",
    )
    parser.add_argument(
        "--csv",
        metavar="FILE",
        help="CSV file with one row for each number; - prints it instead of the tables",
    )
    options = parser.parse_args(arguments)
    out = None if options.csv in (None, "-") else Path(options.csv)
    if out is not None and out.is_dir():
        raise UsageError(f"expected a file name after --csv, found a folder: {out}; name a file, such as {out}/all.csv")
    try:
        sources = [Source.read(path) for path in own_folders(options.found)]
        text = csv_text(sources)
        shown = "" if options.csv == "-" else _tables(sources)
    except FileNotFoundError as error:
        raise UsageError(f"expected the results of a finished evaluation, found no {error.filename}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    if out is not None:
        _write(out, text)
    say(text.removesuffix("\n") if options.csv == "-" else shown)
    return EXIT_OK


def own_folders(found: Sequence[Path]) -> list[Path]:
    """Return the named paths without the shared folder of evaluations side by side, which a shell glob also names."""
    return [path for path in found if not (path.is_dir() and [one.name for one in path.iterdir()] == ["chunks"])]


def _tables(sources: Sequence[Source]) -> str:
    paired = paired_tables([source.path for source in sources if source.evaluated])
    return "\n".join(filter(None, (tables([source.stored.evaluation for source in sources]), paired)))


def _write(out: Path, text: str) -> None:
    try:
        write_atomically(out, text.encode())
    except OSError as error:
        raise UsageError(f"expected a place for the CSV file, cannot write {out}: {error.strerror}") from error
