"""The command line ``robust-encoders`` with its commands ``list``, ``info``, ``check``, ``push`` and others.

Answers go to stdout, logs and errors to stderr. Exit codes: 0 for success or yes, 1 for failure or no, 2 for a wrong
command line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import robust_encoders
from robust_encoders import CATALOG, CatalogEntry, RobustEncoder
from robust_encoders.artifact.forms import PICTURE_NAME
from robust_encoders.cli import annotate, convert, export, pipelines, ready, trust
from robust_encoders.cli.encoder_summary import say_file, say_manifest
from robust_encoders.cli.interrupted import EXIT_INTERRUPTED, way_on
from robust_encoders.cli.on_purpose import on_purpose
from robust_encoders.cli.surroundings import configure_logs, fail_in_words, run_in_shell
from robust_encoders.errors import BaseLoadError, NotReadyError, RobustEncodersError, UnknownNameError
from robust_encoders.hub.client import sending_problems
from robust_encoders.redaction import redacted
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
from robust_encoders.utils.extras import install_command, names_extra
from robust_encoders.utils.home import expanded
from robust_encoders.utils.targets import place_problems

TRAINING_COMMANDS: Mapping[str, str] = {
    "app": "serve a page to draw with encoders side by side, and to attack them",
    "demo": "draw the same prompts with and without a robust encoder into one picture",
    "shapes": "`shapes build`: train the base of coloured shapes from random weights",
    "emoji": "`emoji fetch`, `build` and `measure`: train the base with real words from licensed icons",
    "train": "train an encoder by a named recipe or a method",
    "synonyms": "print the words nearest to a concept in a base's text encoder",
    "evaluate": "attack an encoder, classify the pictures and print the attack success rates",
    "certify": "encode all prompts of up to two tokens, and judge those nearest to the concept",
    "reproduce": "train an artifact again from its manifest and compare the tensors",
    "merge": "merge several encoders that erased one concept each into one encoder",
    "results": "print the tables of finished evaluations",
    "compare": "train and evaluate many methods on one concept, and write one report",
    "bias": "compare the success on sub-groups of the prompts of finished evaluations",
    "judge": "judge a finished evaluation by another detector, without drawing",
    "leaderboard": "rank many evaluations in one table and one plot",
}
EXTRA_OF: Mapping[str, str] = {
    "app": "app",
    "demo": "eval",
    "shapes": "train",
    "emoji": "train",
    "train": "train",
    "synonyms": "train",
    "evaluate": "eval",
    "certify": "eval",
    "reproduce": "train",
    "merge": "train",
    "results": "eval",
    "compare": "train,eval",
    "bias": "eval",
    "judge": "eval",
    "leaderboard": "eval",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; ``sys.argv`` by default.

    Returns:
        The exit code.

    Raises:
        SystemExit: Exit code 0 after help, 2 for a command line that does not parse, 141 if the reader of stdout
            closed the pipe.
    """
    if argv is None:
        return run_in_shell(lambda: main(sys.argv[1:]))
    arguments = list(argv)
    configure_logs()
    try:
        code = _run(arguments)
        flush()
        return code
    except KeyboardInterrupt:
        return fail(f"stopped; {way_on(arguments)}", EXIT_INTERRUPTED)
    except (BaseLoadError, NotReadyError, UnknownNameError, UsageError) as error:
        return fail(str(error), EXIT_USAGE)
    except RobustEncodersError as error:
        return fail(str(error), EXIT_NO)
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get(arguments[0])
        if extra is None or not names_extra(extra, error.name or ""):
            raise
        remedy = install_command(extra)
        return fail(f"expected {error.name} for this command, found none; {remedy}", EXIT_NO)
    except Exception as error:  # noqa: BLE001 - ours and failures of the machine are put into words, others are raised
        if on_purpose(error):
            return fail(redacted(str(error)), EXIT_USAGE if isinstance(error, ValueError) else EXIT_NO)
        return fail_in_words(error)


def _run(arguments: list[str]) -> int:
    # The training commands have their own options, made from dataclasses; robust_encoders.training parses them.
    if arguments and arguments[0] in TRAINING_COMMANDS:
        from robust_encoders.training.cli.main import main as training_main

        return int(training_main(arguments))
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robust-encoders",
        description="Text encoders for Stable Diffusion that have unlearned a concept and are hardened against its "
        "revival.",
    )
    parser.add_argument("--version", action="version", version=robust_encoders.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print the answer as JSON")
    listing = commands.add_parser("list", parents=[as_json], help="list all encoders of the catalog")
    listing.set_defaults(command=_list)
    _add_info(commands, as_json)
    pipelines.add_commands(commands, as_json)
    _add_push(commands, as_json)
    _add_cards(commands)
    trust.add_commands(commands, as_json)
    convert.add_commands(commands, as_json)
    export.add_commands(commands, as_json)
    annotate.add_commands(commands, as_json)
    ready.add_commands(commands, as_json)
    for name, text in TRAINING_COMMANDS.items():
        commands.add_parser(name, help=text)
    return parser


def _add_info(commands: Any, as_json: argparse.ArgumentParser) -> None:
    info = commands.add_parser(
        "info", parents=[as_json], help="print an encoder's concept, method, base, licence and results"
    )
    info.add_argument(
        "name", metavar="NAME", help="name in the catalog, folder of an artifact, or a single file of its weights"
    )
    info.set_defaults(command=_info)


def _add_cards(commands: Any) -> None:
    cards = commands.add_parser("cards", help="write the model card of every encoder in the catalog")
    cards.add_argument(
        "out", metavar="OUT", type=expanded, help="folder for the cards; use hub_cards in a checkout of this repository"
    )
    cards.add_argument(
        "--pictures", action="store_true", help="draw the pictures that the cards of embedded encoders show, too"
    )
    cards.set_defaults(command=_cards)


def _add_push(commands: Any, as_json: argparse.ArgumentParser) -> None:
    push = commands.add_parser("push", parents=[as_json], help="publish an encoder on the Hub, in one commit")
    push.set_defaults(command=_push)
    push.add_argument("name", metavar="NAME", help="name in the catalog, or folder of an artifact")
    # There is no --token, because every user of a machine can see its command lines. The Hub client reads HF_TOKEN and
    # the login of `hf auth login`.
    push.add_argument("repo", metavar="REPO", help="repository as org/name; created if it does not exist")
    push.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        help="visibility of the repository; by default unchanged, or the Hub's default for a new one",
    )
    push.add_argument("--revision", help="branch; created if it does not exist")
    push.add_argument("--message", default="", help="message of the commit; by default concept and method")
    push.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")


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
    if entry is None and expanded(options.name).is_file():
        say_file(expanded(options.name), as_json=options.json)
        return EXIT_OK
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
        say_manifest(manifest)
    return EXIT_OK


def _push(options: argparse.Namespace) -> int:
    # A catalog name is never the name of a folder.
    folder = None if options.name in CATALOG else expanded(options.name)
    # An encoder of the catalog may have to be fetched first; a folder is read soon, and its facts are checked first.
    if problems := sending_problems(options.repo, token=folder is None):
        raise NotReadyError.of(problems)
    picture = None if folder is None else folder / PICTURE_NAME
    url = RobustEncoder.from_pretrained(options.name).push_to_hub(
        options.repo,
        private=options.private,
        revision=options.revision,
        commit_message=options.message,
        create_pr=options.create_pr,
        picture=picture if picture is not None and picture.is_file() else None,
    )
    if options.json:
        say_json({"name": options.name, "repo": options.repo, "url": url})
    else:
        say(url)
    return EXIT_OK


def _cards(options: argparse.Namespace) -> int:
    from robust_encoders.cli.card_pictures import write_pictures
    from robust_encoders.hub.catalog_cards import PICTURES, write_cards

    if problems := place_problems(options.out / PICTURES if options.pictures else options.out):
        raise NotReadyError.of(problems)
    drawn = write_pictures(options.out) if options.pictures else []
    for path in [*write_cards(options.out), *drawn]:
        say(str(path))
    return EXIT_OK


def _entry(entry: CatalogEntry) -> dict[str, Any]:
    return {**asdict(entry), "pin": entry.pin, "state": _state(entry)}


def _state(entry: CatalogEntry) -> str:
    states = {
        "pickle": "a pickle: converted on first use",
        "foreign": "listed, but not readable by this version",
    }
    return states.get(entry.format, "ready")
