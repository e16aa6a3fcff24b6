"""``robust-encoders bias``: success on each sub-group of the attacked prompts, from finished evaluations."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence

from robust_encoders.utils.console import EXIT_OK, UsageError, say
from robust_encoders.utils.home import expanded

from ..reports.bias import BiasReport
from .parsing import parser_of
from .results import own_folders


def bias(arguments: Sequence[str]) -> int:
    """Print the comparison of sub-groups of finished evaluations.

    Args:
        arguments: Folders and options.

    Returns:
        The exit code.

    Raises:
        UsageError: If a folder holds no verdicts, an attack is not on record, or no sub-group is known.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    options = _parser().parse_args(arguments)
    labels = [label for text in options.attacks.split(",") if (label := text.strip())]
    try:
        reports = [(path, BiasReport.read(path, labels)) for path in own_folders(options.found)]
    except FileNotFoundError as error:
        raise UsageError(f"expected the results of a finished evaluation, found no {error.filename}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    if options.json:
        found = [
            {"source": str(path), "title": one.title, "rows": [row.record() for row in one.rows]}
            for path, one in reports
        ]
        say(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        say("\n".join(report.markdown() for _, report in reports))
    return EXIT_OK


def _parser() -> ArgumentParser:
    parser = parser_of("bias", "Print the success on each sub-group of the attacked prompts, against the rest.")
    parser.add_argument(
        "found", type=expanded, nargs="+", metavar="RESULTS", help="folder of an evaluation, or its results.json"
    )
    parser.add_argument(
        "--attacks",
        default="",
        metavar="LABEL,...",
        help="labels of attacks to compare, too, besides the unattacked prompts and the worst cases",
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    return parser
