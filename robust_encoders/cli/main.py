"""The command line: ``robust-encoders list``, ``info``, ``check``, ``push`` and the others that its help names.

Answers go to stdout, logs and errors to stderr. Exit codes: 0 yes, 1 no or failed, 2 a command line without sense.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import robust_encoders
from robust_encoders import CATALOG, CatalogEntry, Manifest, RobustEncoder
from robust_encoders.cli import pipelines, trust
from robust_encoders.errors import BaseLoadError, RobustEncodersError, UnknownNameError
from robust_encoders.utils.console import (
    EXIT_NO,
    EXIT_OK,
    EXIT_USAGE,
    UsageError,
    columns,
    fail,
    flush,
    say,
    say_fields,
    say_json,
)

TRAINING_COMMANDS: Mapping[str, str] = {
    "demo": "draw the same prompts with and without a robust encoder into one picture",
    "shapes": "`shapes build`: train the embedded base from nothing",
    "train": "train an encoder by a named recipe or a method",
    "evaluate": "attack an encoder, judge the pictures, print the rates",
    "reproduce": "train an artifact again from its manifest and compare the tensors",
    "merge": "make one encoder of several that erased one concept each",
    "results": "print the tables of finished evaluations",
    "leaderboard": "rank many evaluations in one table and one plot",
}
EXTRA_OF: Mapping[str, str] = {
    "demo": "eval",
    "shapes": "train",
    "train": "train",
    "evaluate": "eval",
    "reproduce": "train",
    "merge": "train",
    "results": "eval",
    "leaderboard": "eval",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; ``sys.argv`` by default.

    Returns:
        The exit code.

    Raises:
        SystemExit: With 0 after help, with 2 on a command line that does not parse, with 141 where nobody reads on.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        code = _run(arguments)
        flush()
        return code
    except (BaseLoadError, UnknownNameError, UsageError) as error:
        return fail(str(error), EXIT_USAGE)
    except RobustEncodersError as error:
        return fail(str(error), EXIT_NO)
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get(arguments[0])
        if extra is None or not _installs(extra, error.name or ""):
            raise
        remedy = f"pip install 'robust-encoders[{extra}]'"
        return fail(f"this command needs {error.name}, which is not installed: {remedy}", EXIT_NO)


def _run(arguments: list[str]) -> int:
    # The training commands have options of their own, made from dataclasses, and are parsed over there.
    if arguments and arguments[0] in TRAINING_COMMANDS:
        from robust_encoders.training.cli.main import main as training_main

        return int(training_main(arguments))
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _installs(extra: str, module: str) -> bool:
    """Whether an extra of this distribution installs a module, going by what the distribution declares."""
    package = re.escape(module.partition(".")[0])
    declared = metadata.requires("robust-encoders") or []
    return any(re.match(rf"{package}\b.*extra == .{extra}\b", line) for line in declared)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="robust-encoders", description="Text encoders hardened against revival.")
    parser.add_argument("--version", action="version", version=robust_encoders.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="answer in JSON")
    listing = commands.add_parser("list", parents=[as_json], help="every encoder that the catalog knows")
    listing.set_defaults(command=_list)
    info = commands.add_parser("info", parents=[as_json], help="what an encoder erases, how it was made and measured")
    info.set_defaults(command=_info)
    pipelines.add_commands(commands, as_json)
    push = commands.add_parser("push", parents=[as_json], help="publish an encoder on the Hub, in one commit")
    push.set_defaults(command=_push)
    cards = commands.add_parser("cards", help="write the model card of every encoder in the catalog")
    cards.add_argument("out", metavar="OUT", type=Path, help="folder; hub_cards in a checkout")
    cards.set_defaults(command=_cards)
    trust.add_commands(commands, as_json)
    for command in (info, push):
        command.add_argument("name", metavar="NAME", help="a catalog name or a folder")
    _add_push_options(push)
    for name, text in TRAINING_COMMANDS.items():
        commands.add_parser(name, help=text)
    return parser


def _add_push_options(push: argparse.ArgumentParser) -> None:
    # No --token: a command line is seen by every user of a machine. The client reads HF_TOKEN and `hf auth login`.
    push.add_argument("repo", metavar="REPO", help="org/name, made if need be")
    push.add_argument("--private", action=argparse.BooleanOptionalAction, help="visibility of the repository")
    push.add_argument("--revision", help="branch, made if need be")
    push.add_argument("--message", default="", help="of the commit")
    push.add_argument("--create-pr", action="store_true", help="propose the commit instead of making it")


def _list(options: argparse.Namespace) -> int:
    if options.json:
        say_json([_entry(entry) for entry in CATALOG.values()])
        return EXIT_OK
    header = ("name", "erases", "base", "method", "licence", "pin", "state")
    rows = [(e.name, e.concept, e.base, e.method, e.licence, e.pin, _state(e)) for e in CATALOG.values()]
    for line in columns([header, *rows]):
        say(line)
    return EXIT_OK


def _info(options: argparse.Namespace) -> int:
    entry = CATALOG.get(options.name)
    if entry is not None and entry.format != "safetensors":
        if options.json:
            say_json(_entry(entry))
        else:
            say_fields({key: value for key, value in _entry(entry).items() if value not in ("", {}, ())})
        return EXIT_OK
    manifest = RobustEncoder.from_pretrained(options.name).manifest
    if options.json:
        say(manifest.to_json().rstrip())
    else:
        _say_manifest(manifest)
    return EXIT_OK


def _push(options: argparse.Namespace) -> int:
    url = RobustEncoder.from_pretrained(options.name).push_to_hub(
        options.repo,
        private=options.private,
        revision=options.revision,
        commit_message=options.message,
        create_pr=options.create_pr,
    )
    if options.json:
        say_json({"name": options.name, "repo": options.repo, "url": url})
    else:
        say(url)
    return EXIT_OK


def _cards(options: argparse.Namespace) -> int:
    from robust_encoders.hub.catalog_cards import write_cards

    for path in write_cards(options.out):
        say(str(path))
    return EXIT_OK


def _say_manifest(manifest: Manifest) -> None:
    concept, base = manifest.concept, manifest.base
    say_fields(
        {
            "erases": f"{concept.name} ({concept.kind})",
            "synonyms": ", ".join(concept.synonyms) or "none",
            "method": manifest.method["name"],
            "base": ", ".join((base.family, *base.ids)),
            "form": f"{manifest.form} of {manifest.component}",
            "licence": manifest.license or "not stated",
            "made with": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        }
    )
    say("results" if manifest.results else "results   none recorded")
    for line in columns([_result(result) for result in manifest.results]):
        say(f"  {line}")


def _result(result: Mapping[str, Any]) -> tuple[str, ...]:
    interval = result.get("interval")
    bounds = f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    attack = result.get("settings", {}).get("attack") or {}
    by = str(attack.get("label") or attack.get("name") or "") if isinstance(attack, Mapping) else str(attack)
    where = str(result.get("prompt_set", ""))
    count, origin = f"n={result['n']}", str(result["origin"])
    return (str(result["metric"]), by, f"{result['value']:.3f}", bounds, count, where, origin)


def _entry(entry: CatalogEntry) -> dict[str, Any]:
    return {**asdict(entry), "pin": entry.pin, "state": _state(entry)}


def _state(entry: CatalogEntry) -> str:
    states = {
        "pickle": "a pickle: converted on first use",
        "foreign": "listed, not read by this version",
    }
    return states.get(entry.format, "ready")
