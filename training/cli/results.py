"""``robust-encoders results``: finished evaluations as tables in Markdown, and as CSV for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robust_encoders.utils.console import EXIT_OK, UsageError, say
from robust_encoders.utils.home import write_atomically

from ..evaluation.winners import keep_winners
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
    parser.add_argument(
        "--keep-winners",
        type=Path,
        metavar="FOLDER",
        help="folder of small copies of the evaluations, with the best picture of each attacked prompt",
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
    if options.keep_winners is not None:
        _keep_winners([source.path for source in sources if source.evaluated], options.keep_winners)
    say(text.removesuffix("\n") if options.csv == "-" else shown)
    return EXIT_OK


def _keep_winners(found: Sequence[Path], out: Path) -> None:
    """Copy evaluations with few of their pictures: one into the folder itself, several into one folder each."""
    folders = [path if path.is_dir() else path.parent for path in found]
    places = [out] if len(folders) == 1 else [out / folder.resolve().name for folder in folders]
    if len({*places}) < len(places):
        raise UsageError(f"expected folders with names of their own, found {', '.join(map(str, folders))}")
    try:
        for folder, place in zip(folders, places, strict=True):
            keep_winners(folder, place)
    except FileExistsError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"expected a place for the copies in {out}, found: {error}") from error


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
