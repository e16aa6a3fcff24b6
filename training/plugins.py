"""Registries of classes by name: classes of this package and of other installed packages."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from functools import lru_cache
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
_Stamp: TypeAlias = tuple[int, int, int, int] | None
_Folder: TypeAlias = tuple[str, tuple[tuple[str, _Stamp], ...]]
_FILE, _METADATA = "entry_points.txt", (".dist-info", ".egg-info", "egg-info")
# A folder whose last change is younger is listed at every look-up: a second change within one tick of the clock of the
# file system leaves the same time. The coarsest clock in use ticks every two seconds.
_SETTLED = 3_000_000_000
# Place of a folder to its stamp and to the names of the metadata in it.
_LISTED: dict[str, tuple[_Stamp, tuple[str, ...]]] = {}
logger = logging.getLogger(__name__)


class Registry(MutableMapping[str, T]):
    """Classes by name; attack suites and the command line look them up here.

    The names of this package come first, in their own order, then the others in the order of registration.

    A name comes from this package, from a plain assignment, or from an entry point of an installed package. An entry
    point is imported at the first look-up of its name:

        [project.entry-points."robust_encoders.attacks"]
        shout = "my_package.shout:Shout"

    Args:
        group: Group of entry points, for example ``robust_encoders.attacks``.
        ours: Classes of this package by name; no entry point can replace them.
    """

    def __init__(self, group: str, ours: Mapping[str, T]) -> None:
        self.group = group
        self._ours = tuple(ours)
        self._known: dict[str, T] = dict(ours)
        self._removed: set[str] = set()

    def __getitem__(self, name: str) -> T:
        if name not in self._known:
            self._known[name] = self._load(self._offered()[name])
        return self._known[name]

    def __setitem__(self, name: str, value: T) -> None:
        self._removed.discard(name)
        self._known[name] = value

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._known.pop(name, None)
        self._removed.add(name)

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._offered()

    def __iter__(self) -> Iterator[str]:
        ours = (name for name in self._ours if name in self._known)
        known = (name for name in self._known if name not in self._ours)
        return iter([*ours, *known, *(name for name in self._offered() if name not in self._known)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"Registry({self.group!r}: {', '.join(self)})"

    @property
    def others(self) -> tuple[str, ...]:
        """Names that this package does not bring itself: of plain assignments, and of other packages."""
        return tuple(name for name in self if name not in self._ours)

    def _offered(self) -> dict[str, EntryPoint]:
        """Return the entry points of installed packages by name, without deleted names."""
        found = {point.name: point for point in entry_points(group=self.group)}
        return {name: point for name, point in found.items() if name not in self._removed}

    def _load(self, point: EntryPoint) -> T:
        """Import the object that an entry point names.

        Raises:
            ImportError: The import fails; the message names the entry point and the package that offers it.
        """
        owner = point.dist.name if point.dist is not None else "an installed package"
        try:
            loaded: Any = point.load()
        except (ImportError, AttributeError) as error:
            raise ImportError(
                f"expected {point.value} of {owner} for {point.name!r} in {self.group}, cannot import it: {error}; "
                f"mend or uninstall {owner}"
            ) from error
        logger.info("%s: %s from %s", self.group, point.name, owner)
        found: T = loaded
        return found


def entry_points(*, group: str) -> Iterable[EntryPoint]:
    """Return the entry points of all installed packages in one group.

    They are read once, and again after a package in a folder of ``sys.path`` came, went or changed its entry points.

    Args:
        group: Group of entry points, for example ``robust_encoders.attacks``.
    """
    found: Iterable[EntryPoint] = _installed(tuple(_packages_in(folder) for folder in sys.path)).select(group=group)
    return found


@lru_cache(maxsize=1)
def _installed(packages: tuple[_Folder, ...]) -> Any:
    """Return all entry points; ``packages`` are what the folders of ``sys.path`` hold of packages."""
    # It keeps the listing of a folder while the time of its last change is the same. Python 3.11 asks for an object.
    metadata.MetadataPathFinder().invalidate_caches()
    return metadata.entry_points()


def _packages_in(folder: str) -> _Folder:
    """Return the metadata of packages in a folder of ``sys.path``, each with the stamp of its entry points.

    Another entry of ``sys.path``, such as a zip, has its own stamp.
    """
    place = folder or os.curdir
    stamp = _stamp(place)
    names = _names(place, stamp)
    if names is None:
        return folder, ((folder, stamp),)
    return folder, tuple((name, _stamp(os.path.join(place, name, _FILE))) for name in names)


def _names(place: str, stamp: _Stamp) -> tuple[str, ...] | None:
    """Return the names of the metadata in a folder; None for anything else. A folder is listed again if it changed."""
    known = _LISTED.get(place)
    if known is not None and known[0] == stamp:
        return known[1]
    try:
        names = tuple(sorted(name for name in os.listdir(place) if name.lower().endswith(_METADATA)))
    except OSError:
        return None
    if stamp is not None and time.time_ns() - stamp[-1] > _SETTLED:
        _LISTED[place] = (stamp, names)
    return names


def _stamp(path: str) -> _Stamp:
    """Return device, number, size and time of the last change (in nanoseconds) of a file or folder; None if absent."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
