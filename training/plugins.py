"""Registries of classes by name: classes of this package and of other installed packages."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from functools import lru_cache
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import Any, TypeVar

T = TypeVar("T")
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

    They are read once, and again after a package was added to a folder of ``sys.path`` or removed from it.

    Args:
        group: Group of entry points, for example ``robust_encoders.attacks``.
    """
    folders = tuple((folder, _changed(folder or os.curdir)) for folder in sys.path)
    found: Iterable[EntryPoint] = _installed(folders).select(group=group)
    return found


@lru_cache(maxsize=1)
def _installed(folders: tuple[tuple[str, int], ...]) -> Any:
    """Return all entry points; ``folders`` are those of ``sys.path``, each with the time of its last change."""
    return metadata.entry_points()


def _changed(folder: str) -> int:
    """Return when an entry was last added to a folder or removed from it, in nanoseconds; 0 if there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0
