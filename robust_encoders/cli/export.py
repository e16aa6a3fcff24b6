"""The command ``export``: an artifact becomes a file or folder that another application loads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from robust_encoders.artifact.reader import Artifact
from robust_encoders.conversion.export import export, name_of
from robust_encoders.conversion.export_words import TARGETS, WHAT, Exported
from robust_encoders.encoder import RobustEncoder
from robust_encoders.utils.console import EXIT_OK, UsageError, say, say_json
from robust_encoders.utils.dtypes import DTYPES, SHORT, dtype_or_none
from robust_encoders.utils.home import expanded


def add_commands(commands: Any, as_json: argparse.ArgumentParser) -> None:
    """Add ``export`` to the parser of the command line.

    Args:
        commands: Result of ``add_subparsers``.
        as_json: Parent parser with the option ``--json``.
    """
    parser = commands.add_parser(
        "export", parents=[as_json], help="write an encoder as a file that ComfyUI, A1111 and other applications load"
    )
    parser.set_defaults(command=_export)
    parser.add_argument("name", metavar="NAME", help="name in the catalog, folder of an artifact, or org/name")
    parser.add_argument("--to", required=True, choices=TARGETS, help="application that will load it")
    parser.add_argument("--out", required=True, type=expanded, metavar="FOLDER", help="folder for the file or folder")
    parser.add_argument(
        "--into",
        type=expanded,
        metavar="CHECKPOINT",
        help="base that a changed copy is made of: a single .safetensors file for comfyui, a1111 and sdcpp; the "
        "folder of a diffusers pipeline for invokeai and diffusers",
    )
    parser.add_argument(
        "--dtype",
        choices=(*SHORT, *DTYPES),
        help="dtype of all weights in the result; by default that of the base, or that of the encoder without a base",
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier export in FOLDER")


def _export(options: argparse.Namespace) -> int:
    into: Path | None = options.into
    if into is not None and not into.exists():
        raise UsageError(f"expected a checkpoint or the folder of a pipeline, found nothing at {into}; pass another")
    loaded = RobustEncoder.from_pretrained(options.name)
    artifact = Artifact(loaded.manifest, dict(loaded.tensors), dict(loaded.config), loaded.content_sha256)
    try:
        made = export(
            artifact,
            options.to,
            options.out,
            name=name_of(options.name),
            into=into,
            dtype=dtype_or_none(options.dtype),
            force=options.force,
        )
    except FileExistsError as error:
        raise UsageError(str(error)) from error
    if options.json:
        say_json({**vars(made), "path": str(made.path)})
    else:
        _say(made)
    return EXIT_OK


def _say(made: Exported) -> None:
    say(f"wrote    {WHAT[made.kind]} for {made.app}: {made.path}")
    say(f"put it   {made.place}")
    say(f"see it   {made.seen}")
    for one in made.lost:
        say(f"lost     {one}")
    for one in made.notes:
        say(f"note     {one}")
