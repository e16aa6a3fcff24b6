"""The encoders that a node offers: those of the catalog, those in ComfyUI's folders of models, and any other name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from robust_encoders.artifact.manifest import MANIFEST_NAME
from robust_encoders.artifact.reader import read_manifest
from robust_encoders.errors import RobustEncodersError, UnknownNameError
from robust_encoders.hub.catalog import CATALOG
from robust_encoders.hub.resolve import resolve
from robust_encoders.utils.bounded_files import read_small

OTHER = "the name or folder below"
_FOLDER = "folder: "


def choices(folders: Iterable[str]) -> list[str]:
    """Return the entries of the node's list.

    Encoders of the embedded bases are left out, because ComfyUI cannot draw with those bases. So are those of the
    catalog that this version does not fetch.

    Args:
        folders: ComfyUI's folders of robust encoders; every artifact in them is offered.
    """
    known = [entry.name for entry in CATALOG.values() if not entry.embedded and entry.format != "foreign"]
    return [OTHER, *known, *(_FOLDER + name for name in _artifacts(folders))]


def _artifacts(folders: Iterable[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in map(Path, folders):
        for path in sorted(folder.glob(f"*/{MANIFEST_NAME}")):
            found.setdefault(path.parent.name, path.parent)
    return found


def chosen(choice: str, other: str, folders: Iterable[str]) -> str | Path:
    """Return what to load: a name, or the path of a folder.

    Args:
        choice: Entry of the list.
        other: Text below the list: a name, a folder or ``org/name``.
        folders: ComfyUI's folders of robust encoders.

    Raises:
        UnknownNameError: If nothing or two things are chosen, or a folder is gone.
    """
    other = other.strip()
    if choice == OTHER and not other:
        raise UnknownNameError(
            "expected a robust encoder, found none chosen; choose one in the list, or write a name or folder below it. "
            f"Names: {', '.join(choices(()))[len(OTHER) + 2 :]}"
        )
    if choice != OTHER and other:
        raise UnknownNameError(
            f"expected one robust encoder, found {choice!r} in the list and {other!r} below it; empty the text, or "
            f"choose {OTHER!r} in the list"
        )
    if not choice.startswith(_FOLDER):
        return other or choice
    name, found = choice.removeprefix(_FOLDER), _artifacts(folders)
    if name not in found:
        raise UnknownNameError(
            f"expected the folder {name!r} of a robust encoder among ComfyUI's models, found "
            f"{', '.join(found) or 'none'}; copy it there, or choose another encoder"
        )
    return found[name]


def problem(choice: str, other: str, folders: Iterable[str]) -> str:
    """Return why an encoder cannot be loaded, as far as that is known without the network; empty if it can.

    Args:
        choice: Entry of the list.
        other: Text below the list.
        folders: ComfyUI's folders of robust encoders.
    """
    try:
        place = resolve(chosen(choice, other, folders), subfolder="", revision=None)
        if place.folder is not None:
            read_manifest(place.folder)
    except RobustEncodersError as error:
        return str(error)
    return ""


def state(choice: str, other: str, folders: Iterable[str]) -> str:
    """Return a text that changes when another encoder would be loaded, so that ComfyUI runs the node again.

    Args:
        choice: Entry of the list.
        other: Text below the list.
        folders: ComfyUI's folders of robust encoders.

    Raises:
        UnknownNameError: If nothing has that name.
    """
    name = chosen(choice, other, folders)
    place = resolve(name, subfolder="", revision=None)
    if place.folder is None:
        return str(name)
    return hashlib.sha256(read_small(place.folder / MANIFEST_NAME)).hexdigest()
