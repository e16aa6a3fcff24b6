"""The command ``ready``: can the catalog list an artifact, and what is missing?"""

from __future__ import annotations

import argparse
from typing import Any

from robust_encoders.hub.catalog import CATALOG
from robust_encoders.hub.download import HubOptions
from robust_encoders.hub.readiness import Readiness, readiness
from robust_encoders.utils.console import EXIT_NO, EXIT_OK, UsageError, say, say_json


def add_commands(commands: Any, as_json: argparse.ArgumentParser) -> None:
    """Add ``ready`` to the parser of the command line.

    Args:
        commands: Result of ``add_subparsers``.
        as_json: Parent parser with the option ``--json``.
    """
    ready = commands.add_parser(
        "ready", parents=[as_json], help="say whether the catalog can list an artifact, and what is missing"
    )
    ready.set_defaults(command=_ready)
    ready.add_argument("name", metavar="NAME", help="folder of an artifact, or org/name on the Hub")
    ready.add_argument("--subfolder", default="", help="subfolder of the folder or repository")
    ready.add_argument("--revision", help="branch, tag or commit of the repository")


def _ready(options: argparse.Namespace) -> int:
    if options.name in CATALOG:
        raise UsageError(
            f"expected an artifact that the catalog does not list yet, found {options.name}, which it lists; pass the "
            "folder of an artifact, or org/name on the Hub"
        )
    found = readiness(options.name, subfolder=options.subfolder, options=HubOptions(revision=options.revision))
    if options.json:
        demands = [demand._asdict() for demand in found.demands]
        say_json({"name": options.name, "ok": found.ok, "demands": demands, "entry": found.entry})
    else:
        _say_demands(found)
    return EXIT_OK if found.ok else EXIT_NO


def _say_demands(found: Readiness) -> None:
    for demand in found.demands:
        say(f"{'ok' if demand.ok else 'missing':9}{demand.name}: {demand.found}")
        if not demand.ok:
            say(f"{'':9}{demand.remedy}")
    missing = sum(not demand.ok for demand in found.demands)
    if missing:
        say(f"not ready: {missing} of {len(found.demands)} demands are not met")
    elif not found.entry:
        say("ready to be pushed; run this command on the repository afterwards: it prints the commit to list")
    else:
        say(f"ready: {found.entry['repo']} at revision {found.entry['revision']}")
        for name, digest in found.entry["sha256"].items():
            say(f"  {name}  {found.entry['sizes'][name]} bytes  sha256 {digest}")
