"""``robust-encoders results``: finished evaluations as tables in Markdown, and as CSV for other programs."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from robust_encoders.redaction import get_logger
from robust_encoders.utils.console import EXIT_OK, UsageError, say
from robust_encoders.utils.home import expanded, write_atomically

from ..evaluation.benchmarks.mma_prompts import mma_text, unwritable
from ..evaluation.winners import keep_winners, winning_texts
from ..reports.matrix import tables
from ..reports.paired import paired_tables
from ..reports.tidy_csv import Source, csv_text
from .parsing import parser_of

logger = get_logger(__name__)


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
    options = _parser().parse_args(arguments)
    out = None if options.csv in (None, "-") else expanded(options.csv)
    if out is not None and out.is_dir():
        raise UsageError(f"expected a file name after --csv, found a folder: {out}; name a file, such as {out}/all.csv")
    mma = None if options.mma_csv is None else expanded(options.mma_csv)
    if mma is not None and (options.mma_csv == "-" or mma.is_dir()):
        raise UsageError(f"expected a file name after --mma-csv, found {options.mma_csv}; name a file, such as mma.csv")
    try:
        sources = [Source.read(path) for path in own_folders(options.found)]
        text = csv_text(sources)
        shown = "" if options.csv == "-" else _tables(sources)
    except FileNotFoundError as error:
        raise UsageError(f"expected the results of a finished evaluation, found no {error.filename}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    evaluated = [source.path for source in sources if source.evaluated]
    won = "" if mma is None else _winners(evaluated)
    if out is not None:
        _write(out, text)
    if mma is not None:
        _write(mma, won)
    if options.keep_winners is not None:
        _keep_winners(evaluated, options.keep_winners)
    say(text.removesuffix("\n") if options.csv == "-" else shown)
    return EXIT_OK


def _parser() -> ArgumentParser:
    parser = parser_of("results", "Print the tables of finished evaluations, by concept and in pairs, in Markdown.")
    parser.add_argument(
        "found",
        type=expanded,
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
        type=expanded,
        metavar="FOLDER",
        help="folder of small copies of the evaluations, with the best picture of each attacked prompt",
    )
    parser.add_argument(
        "--mma-csv",
        metavar="FILE",
        help="CSV file with the texts that won, as adversarial prompts for eval-unlearn's metric asr_mma_diffusion and "
        "for evaluate --prompts",
    )
    return parser


def _keep_winners(found: Sequence[Path], out: Path) -> None:
    """Copy evaluations with few of their pictures: one into the folder itself, several into one folder each."""
    folders = _folders(found)
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


def _winners(found: Sequence[Path]) -> str:
    """Return the texts that won in evaluations, as the text of a csv file."""
    won = dict.fromkeys(one for folder in _folders(found) for one in winning_texts(folder))
    left_out = [problem for one in won if (problem := unwritable(one))]
    for problem in left_out:
        logger.warning("a text that won is not written: %s", problem)
    if len(left_out) == len(won):
        raise UsageError(
            "expected evaluations in which an attack on text won, found no text that can be written; evaluate with "
            "further attacks on text"
        )
    return mma_text([one for one in won if not unwritable(one)])


def _folders(found: Sequence[Path]) -> list[Path]:
    return [path if path.is_dir() else path.parent for path in found]


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
