"""Find the place of an artifact by name: in the package, the catalog, a folder or the Hub, in that order."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import NamedTuple

from robust_encoders.artifact.embedded_bases import REINSTALL
from robust_encoders.errors import AssetsMissingError, CompatibilityWarning, UnknownNameError
from robust_encoders.hub.catalog import CATALOG, CatalogEntry, did_you_mean, entry_at
from robust_encoders.hub.embedded import EMBEDDED_BASES, embedded_folder
from robust_encoders.utils.home import expanded

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class Location(NamedTuple):
    """The place of an artifact: a local folder, or a repository on the Hub."""

    folder: Path | None
    repo: str = ""
    subfolder: str = ""
    revision: str | None = None

    @property
    def key(self) -> str:
        """Name of the place in the pins file."""
        return str(self.folder.resolve()) if self.folder else f"{self.repo}/{self.subfolder}".strip("/")

    @property
    def entry(self) -> CatalogEntry | None:
        """Entry of the catalog for this place, or None."""
        return entry_at(self.repo, self.subfolder) if self.repo else None


def resolve(name_or_path: str | Path, *, subfolder: str, revision: str | None) -> Location:
    """Return the place of the artifact of that name; nothing is downloaded.

    A ``Path``, and a string that starts with ``.``, ``~`` or ``/``, is always a folder.

    Args:
        name_or_path: Name or folder of the artifact.
        subfolder: Subfolder of the folder or repository.
        revision: Revision of the repository.

    Raises:
        UnknownNameError: If nothing has that name.
        AssetsMissingError: If an embedded encoder is not in the installed package.
    """
    name = os.fspath(name_or_path)
    if not isinstance(name_or_path, Path) and not name.startswith((".", "~", os.sep)):
        if name.partition("/")[0] in EMBEDDED_BASES and "/" in name:
            return Location(_embedded(name) / subfolder)
        if name in CATALOG:
            return _catalogued(CATALOG[name], revision)
    folder = expanded(name)
    if name and folder.is_dir():
        return Location(folder / subfolder)
    if not _REPOSITORY.fullmatch(name) or isinstance(name_or_path, Path) or name.startswith("."):
        raise UnknownNameError(
            f"expected an encoder's name, an existing folder or a repository as org/name, found {name!r}. "
            f"{did_you_mean(name)}"
        )
    return Location(None, name, subfolder, revision)


def _embedded(name: str) -> Path:
    base, _, short = name.partition("/")
    encoders = embedded_folder(base) / "encoders"
    there = sorted(f"{base}/{path.name}" for path in encoders.glob("*") if path.is_dir())
    if name in there:
        _warn_of_namesake(name, "of the package", "the package")
        return encoders / short
    if not there and not (encoders.parent / "base").is_dir():
        raise AssetsMissingError(
            f"expected the embedded base {base!r} for {name}, found none in {encoders.parent}; {REINSTALL}"
            f"{_namesake(name)}"
        )
    if name in CATALOG:
        raise AssetsMissingError(
            f"expected {name} inside the package, in {encoders}, found {', '.join(there) or 'no encoders'} there; "
            f"{REINSTALL}{_namesake(name)}"
        )
    raise UnknownNameError(
        f"expected an embedded encoder ({', '.join(there) or 'none are installed'}), found {name!r}"
        f"{_namesake(name) or f'. {did_you_mean(name)}'}"
    )


def _catalogued(entry: CatalogEntry, revision: str | None) -> Location:
    _warn_of_namesake(entry.name, "of the catalog", "the catalog")
    return Location(None, entry.repo, entry.subfolder, revision or entry.revision or None)


def _warn_of_namesake(name: str, known: str, taken: str) -> None:
    """Warn if a folder or file here has the name of an encoder that is taken from elsewhere."""
    if Path(name).exists():
        warnings.warn(
            f"{name!r} is both an encoder {known} and a folder here; {taken} is used. Write './{name}' for the folder.",
            CompatibilityWarning,
            stacklevel=6,
        )


def _namesake(name: str) -> str:
    """Return how to name a folder here that has an embedded encoder's name; empty if there is none."""
    return f"; write './{name}' for the folder of that name here" if Path(name).is_dir() else ""
