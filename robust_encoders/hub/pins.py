"""``pins.json``: what a user saw at a place once and wants to see there again, or nothing."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_encoders.artifact.manifest import FileRecord, read_files
from robust_encoders.errors import IntegrityError, NotPinnedError
from robust_encoders.utils.home import home, locked, write_atomically
from robust_encoders.utils.json_fields import Fields


@dataclass(frozen=True, kw_only=True)
class Pin:
    """What was seen at a place.

    Args:
        files: Name to size, hash and, for weights, hash of the tensors' contents.
        revision: Commit of the repository; empty for a folder.
    """

    files: Mapping[str, FileRecord]
    revision: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {"files": {name: vars(record) for name, record in self.files.items()}, "revision": self.revision}


def pins_file() -> Path:
    """Return where the pins are kept; the file may not exist."""
    return home() / "pins.json"


def read_pins() -> dict[str, Pin]:
    """Return every pin by its place.

    Raises:
        IntegrityError: If there is a file of pins that cannot be understood; nothing is loaded past it.
    """
    path = pins_file()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
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
    """Keep what was seen at a place; safe while other processes do the same.

    Args:
        place: As :attr:`robust_encoders.hub.resolve.Location.key` names it.
        pin: Files that were seen.
        replace: Accept that something else is pinned there.

    Raises:
        IntegrityError: If something else is pinned there and ``replace`` is false.
    """
    with locked(pins_file()):
        pins = read_pins()
        if not replace:
            _require_same(place, pins.get(place), pin)
        _write({**pins, place: pin})


def remove_pin(place: str) -> Pin:
    """Accept at a place from now on whatever is there; safe while other processes do the same.

    Args:
        place: As it is named among the pins.

    Returns:
        What was pinned there.

    Raises:
        NotPinnedError: If nothing was, with what is pinned instead.
        IntegrityError: If the file of pins cannot be understood; it stays as it is.
    """
    with locked(pins_file()):
        pins = read_pins()
        if place not in pins:
            raise NotPinnedError(f"expected a place with a pin, found none at {place!r}. {pinned_instead(place)}")
        _write({name: pin for name, pin in pins.items() if name != place})
    return pins[place]


def pinned_instead(place: str) -> str:
    """Return a sentence that names what is pinned, for somebody who looked for a place that is not.

    Args:
        place: Place that was looked for.

    Raises:
        IntegrityError: If the file of pins cannot be understood.
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
    """Refuse what is not as pinned.

    Args:
        place: Place where they were found.
        seen: Files that were found.
        read: Whether the hashes of contents are known; where they are not yet, they are not compared.

    Returns:
        What is pinned there, or nothing.

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
