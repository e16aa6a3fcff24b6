"""The commands ``verify``, ``pin`` and ``unpin``, which concern trust in published files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from robust_encoders.errors import AssetsMissingError, NotPinnedError, RobustEncodersError, UnknownNameError
from robust_encoders.hub.download import HubOptions
from robust_encoders.hub.load import FetchedArtifact, load
from robust_encoders.hub.pins import Pin, enforce, pinned_instead, pins_file, read_pins, remove_pin, write_pin
from robust_encoders.hub.resolve import resolve
from robust_encoders.utils.console import EXIT_NO, EXIT_OK, say, say_json
from robust_encoders.utils.home import expanded

_VARIANT = re.compile(r"model\.(.+)\.safetensors")


def add_commands(commands: Any, as_json: argparse.ArgumentParser) -> None:
    """Add the three commands to the parser of the command line.

    Args:
        commands: Result of ``add_subparsers``.
        as_json: Parent parser with the option ``--json``.
    """
    verify = commands.add_parser("verify", parents=[as_json], help="verify every byte of an encoder and its pin")
    verify.set_defaults(command=_verify)
    pin = commands.add_parser("pin", parents=[as_json], help="accept only the present files of an encoder from now on")
    pin.set_defaults(command=_pin)
    pin.add_argument("--replace", action="store_true", help="replace an earlier pin that names other files")
    unpin = commands.add_parser("unpin", parents=[as_json], help="remove the pin of an encoder, so that any files load")
    unpin.set_defaults(command=_unpin)
    for command in (verify, pin, unpin):
        command.add_argument(
            "name", metavar="NAME", help="name in the catalog, folder of an artifact, or org/name on the Hub"
        )
        command.add_argument("--subfolder", default="", help="subfolder of the folder or repository")
    for command in (verify, pin):
        command.add_argument("--revision", help="branch, tag or commit of the repository")


def _look(options: argparse.Namespace, variant: str | None = None) -> FetchedArtifact:
    hub = HubOptions(revision=options.revision)
    return load(options.name, subfolder=options.subfolder, variant=variant, options=hub, enforced=False)


def _verify(options: argparse.Namespace) -> int:
    try:
        found = _look(options)
        for name in found.artifact.manifest.files:
            if variant := _VARIANT.fullmatch(name):
                _look(options, variant[1])
        pinned = enforce(found.place.key, found.seen) is not None
    except UnknownNameError:
        raise
    except RobustEncodersError as error:
        return _say_problem(options, error)
    _say_found(options, found, {"ok": True, "pinned": pinned})
    return EXIT_OK


def _say_problem(options: argparse.Namespace, error: RobustEncodersError) -> int:
    if not options.json:
        raise error
    say_json({"name": options.name, "ok": False, "problem": str(error)})
    return EXIT_NO


def _pin(options: argparse.Namespace) -> int:
    found = _look(options)
    write_pin(found.place.key, found.seen, replace=options.replace)
    _say_found(options, found, {"pins": str(pins_file())})
    return EXIT_OK


def _unpin(options: argparse.Namespace) -> int:
    try:
        place = _pinned_place(options.name, options.subfolder)
        pin = remove_pin(place)
    except RobustEncodersError as error:
        return _say_problem(options, error)
    if options.json:
        facts = {"name": options.name, "place": place, "ok": True, "pins": str(pins_file()), **pin.to_dict()}
        say_json(facts)
        return EXIT_OK
    _say_files(pin)
    say(f"no longer pinned: {place}{_at(pin)}, in {pins_file()}")
    return EXIT_OK


def _pinned_place(name: str, subfolder: str) -> str:
    """Return the name of a place in the pins file; a folder that no longer exists is found, too."""
    pins, folder = read_pins(), str((expanded(name) / subfolder).resolve())
    if name in pins and not subfolder:
        return name
    try:
        return resolve(name, subfolder=subfolder, revision=None).key
    except (UnknownNameError, AssetsMissingError) as error:
        if folder in pins:
            return folder
        raise NotPinnedError(f"{error} {pinned_instead(name)}") from error


def _say_found(options: argparse.Namespace, found: FetchedArtifact, more: Mapping[str, Any]) -> None:
    facts = {"name": options.name, "place": found.place.key, **more, **found.seen.to_dict()}
    if options.json:
        say_json(facts)
        return
    _say_files(found.seen)
    if "pins" in more:
        say(f"pinned: {found.place.key}{_at(found.seen)}, in {more['pins']}")
    else:
        say(f"verified: {found.place.key}{_at(found.seen)}, {'as pinned' if more['pinned'] else 'not pinned'}")


def _say_files(pin: Pin) -> None:
    for name, record in pin.files.items():
        say(f"{name}  {record.size} bytes  sha256 {record.sha256}")
        if record.content_sha256:
            say(f"  contents {record.content_sha256}")


def _at(pin: Pin) -> str:
    return f" at revision {pin.revision}" if pin.revision else ""
