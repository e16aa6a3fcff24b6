"""The command ``check``: does an encoder fit a pipeline?"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from robust_encoders import CompatReport, RobustEncoder
from robust_encoders.hub.embedded import EMBEDDED_BASES
from robust_encoders.hub.pipelines import load_pipeline
from robust_encoders.utils.console import EXIT_NO, EXIT_OK, say, say_json


def add_commands(commands: Any, as_json: argparse.ArgumentParser) -> None:
    """Add ``check`` to the parser of the command line.

    Args:
        commands: Result of ``add_subparsers``.
        as_json: Parent parser with the option ``--json``.
    """
    check = commands.add_parser("check", parents=[as_json], help="check if an encoder fits a pipeline")
    check.set_defaults(command=_check)
    check.add_argument("name", metavar="NAME", help="name in the catalog, or folder of an artifact")
    check.add_argument(
        "pipeline",
        metavar="PIPELINE",
        help="folder of a diffusers pipeline, with a model_index.json; or its ORG/NAME or ORG/NAME@REVISION on the "
        f"Hub; or {' or '.join(EMBEDDED_BASES)} for an embedded base",
    )
    check.add_argument(
        "--allow-large-vectors",
        action="store_true",
        help="report learned vectors above ten times the largest norm of the vocabulary as a warning, not as an error",
    )
    check.add_argument(
        "--allow-partial",
        action="store_true",
        help="report other text encoders, through which the concept stays reachable, as a warning, not as an error",
    )


def _check(options: argparse.Namespace) -> int:
    pipe = load_pipeline(options.pipeline).pipe
    report = RobustEncoder.from_pretrained(options.name).check(
        pipe, allow_partial=options.allow_partial, allow_large_vectors=options.allow_large_vectors
    )
    if options.json:
        checks = [asdict(check) for check in report.checks]
        answer = {"name": options.name, "pipeline": str(options.pipeline), "ok": report.ok}
        say_json({**answer, "fit": report.fit, "verdict": report.verdict, "slots": _slots(report), "checks": checks})
    else:
        _say_report(report)
    return EXIT_OK if report.ok else EXIT_NO


def _slots(report: CompatReport) -> dict[str, Any] | None:
    found = report.slots
    if found is None:
        return None
    return {
        "component": found.component,
        "number": found.number,
        "of": len(found.kinds),
        "kinds": dict(found.kinds),
        "open": list(found.open),
        "covered": list(found.covered),
        "empty": list(found.empty),
    }


def _say_report(report: CompatReport) -> None:
    for check in report.checks:
        say(f"{'ok' if check.ok else check.severity:8}{check.name}")
        if not check.ok:
            say(f"{'':8}expected {check.expected}, found {check.found}; {check.remedy}")
    for sentence in report.slots.told() if report.slots is not None else ():
        say(sentence)
    say(report.verdict)
