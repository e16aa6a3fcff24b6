"""Pins, kept in ``pins.json``: file hashes that a user accepted for a place; other files are refused there later."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_encoders.artifact.manifest import FileRecord, read_files
from robust_encoders.errors import IntegrityError, NotPinnedError
from robust_encoders.redaction import get_logger
from robust_encoders.utils.home import home, home_or_none, locked, write_atomically
from robust_encoders.utils.json_fields import Fields

logger = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pin:
    """The files that were found at a place: a folder or a repository.

    Args:
        files: Mapping of file names to size, hash and, for weights, hash of the tensors' contents.
        revision: Commit of the repository; empty for a folder.
    """

    files: Mapping[str, FileRecord]
    revision: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {"files": {name: vars(record) for name, record in self.files.items()}, "revision": self.revision}


def pins_file() -> Path:
    """Return the path of the pins file; the file may not exist."""
    return home() / "pins.json"


def read_pins() -> dict[str, Pin]:
    """Return all pins as a mapping of places to pins; none for a user who has no home or may not enter it.

    Raises:
        IntegrityError: If the pins file exists but cannot be read; no artifact is loaded then.
    """
    if home_or_none() is None:
        return {}
    path = pins_file()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, PermissionError) and not os.access(path.parent, os.X_OK):
            logger.warning("no pins apply: this user may not enter %s; set ROBUST_ENCODERS_HOME", path.parent)
            return {}
        raise IntegrityError(f"expected pins in {path}, cannot read them: {error}; {_REMEDY}") from error
    fields = Fields(data, "pins")
    pins = {place: _read_pin(fields.child(place)) for place in fields.names()}
    if fields.problems:
        raise IntegrityError(f"expected pins in {path}, found {'; '.join(fields.problems)}; {_REMEDY}")
    return pins


_REMEDY = "restore the file, or remove it and pin again what you trust"


def _read_pin(fields: Fields) -> Pin:
    pin = Pin(files=read_files(fields.child("files")), revision=fields.text("revision", empty=True))
    fields.no_others()
    return pin


def write_pin(place: str, pin: Pin, *, replace: bool = False) -> None:
    """Pin the files that were found at a place; safe while other processes do the same.

    Args:
        place: Name of the place, from :attr:`robust_encoders.hub.resolve.Location.key`.
        pin: Files that were found.
        replace: Switch that replaces a different pin of the place.

    Raises:
        IntegrityError: If other files are pinned there and ``replace`` is false.
    """
    with locked(pins_file()):
        pins = read_pins()
        if not replace:
            _require_same(place, pins.get(place), pin)
        _write({**pins, place: pin})


def remove_pin(place: str) -> Pin:
    """Remove the pin of a place, so that any files are accepted there; safe while other processes do the same.

    Args:
        place: Name of the place in the pins file.

    Returns:
        The removed pin.

    Raises:
        NotPinnedError: If nothing is pinned there; the message lists the places that are pinned.
        IntegrityError: If the pins file cannot be read; it stays as it is.
    """
    with locked(pins_file()):
        pins = read_pins()
        if place not in pins:
            raise NotPinnedError(f"expected a place with a pin, found none at {place!r}. {pinned_instead(place)}")
        _write({name: pin for name, pin in pins.items() if name != place})
    return pins[place]


def pinned_instead(place: str) -> str:
    """Return a sentence that lists the pinned places, for an error message about a place without a pin.

    Args:
        place: Place that was looked for.

    Raises:
        IntegrityError: If the pins file cannot be read.
    """
    pins = read_pins()
    if not pins:
        return f"Nothing is pinned in {pins_file()}."
    close = difflib.get_close_matches(place, pins)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"Pinned in {pins_file()} are: {', '.join(sorted(pins))}.{hint}"


def _write(pins: Mapping[str, Pin]) -> None:
    body = {place: pin.to_dict() for place, pin in sorted(pins.items())}
    write_atomically(pins_file(), (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode())


def enforce(place: str, seen: Pin, *, read: bool = True) -> Pin | None:
    """Refuse files that differ from the pin of their place.

    Args:
        place: Place where the files were found.
        seen: Files that were found.
        read: True if the files were read, so that the hashes of their contents are known and compared.

    Returns:
        The pin of the place, or None.

    Raises:
        IntegrityError: If other files are pinned there.
    """
    pin = read_pins().get(place)
    _require_same(place, pin, seen, read=read)
    return pin


def _require_same(place: str, pin: Pin | None, seen: Pin, *, read: bool = True) -> None:
    if pin is None:
        return
    names = sorted(pin.files.keys() | seen.files.keys())
    if wrong := [name for name in names if not _alike(pin.files.get(name), seen.files.get(name), read=read)]:
        raise IntegrityError(
            f"expected {place} as pinned in {pins_file()}"
            + (f" from revision {pin.revision}" if pin.revision else "")
            + "".join(f"\n  {name}: {_words(pin.files.get(name))}" for name in wrong)
            + "\nfound"
            + (f" at revision {seen.revision}" if seen.revision else "")
            + "".join(f"\n  {name}: {_words(seen.files.get(name))}" for name in wrong)
            + "\nload the pinned revision, or, if you trust the change, run `robust-encoders pin --replace` on it"
        )


def _alike(pinned: FileRecord | None, seen: FileRecord | None, *, read: bool) -> bool:
    if pinned is None or seen is None:
        return False
    contents = not read or pinned.content_sha256 in ("", seen.content_sha256)
    return contents and (pinned.sha256, pinned.size) == (seen.sha256, seen.size)


def _words(record: FileRecord | None) -> str:
    if record is None:
        return "no such file"
    content = f", contents {record.content_sha256}" if record.content_sha256 else ""
    return f"{record.size} bytes, sha256 {record.sha256}{content}"
