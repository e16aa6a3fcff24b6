"""The command ``check``, and the function by which commands load a pipeline from a folder."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from robust_encoders import CompatReport, RobustEncoder
from robust_encoders.hub.pipelines import PipelineOptions, load_pipeline
from robust_encoders.utils.console import EXIT_NO, EXIT_OK, say, say_json


def open_pipeline(folder: Path | None) -> Any:
    """Load a diffusers pipeline from a folder, never from the Hub.

    Args:
        folder: Folder with a ``model_index.json``; None stands for the embedded base.

    Raises:
        BaseLoadError: If the folder holds no pipeline, or diffusers cannot load it.
    """
    return load_pipeline(folder, PipelineOptions(local=True)).pipe


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
        "pipeline", metavar="PIPELINE_FOLDER", type=Path, help="folder of a diffusers pipeline, with a model_index.json"
    )
    check.add_argument(
        "--allow-large-vectors",
        action="store_true",
        help="report learned vectors above ten times the largest norm of the vocabulary as a warning, not as an error",
    )


def _check(options: argparse.Namespace) -> int:
    pipe = open_pipeline(options.pipeline)
    report = RobustEncoder.from_pretrained(options.name).check(pipe, allow_large_vectors=options.allow_large_vectors)
    if options.json:
        checks = [asdict(check) for check in report.checks]
        say_json({"name": options.name, "pipeline": str(options.pipeline), "ok": report.ok, "checks": checks})
    else:
        _say_report(report)
    return EXIT_OK if report.ok else EXIT_NO


def _say_report(report: CompatReport) -> None:
    for check in report.checks:
        say(f"{'ok' if check.ok else check.severity:8}{check.name}")
        if not check.ok:
            say(f"{'':8}expected {check.expected}, found {check.found}; {check.remedy}")
    say("fits" if report.ok else "does not fit")
