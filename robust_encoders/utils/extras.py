"""Optional packages: whether they are installed, and the command that installs them."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import url2pathname

_DISTRIBUTION = "robust-encoders"


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this package, for the remedy of an error.

    The package is on no index, so it is installed from a clone, or from the wheel that it was installed from.

    Args:
        extra: Name of the extra, or several names with commas between them.
    """
    if wheel := _wheel():
        return f"run `pip install '{wheel}[{extra}]'`"
    return f"run `pip install '.[{extra}]'` in a clone of robust_encoders"


def names_extra(extra: str, module: str) -> bool:
    """Return True if an extra of this distribution installs a module of that name, by the distribution's metadata.

    Args:
        extra: Name of the extra, or several names with commas between them.
        module: Name of the module, for example ``docstring_parser``, whose distribution is ``docstring-parser``.
    """
    package = _normal(module.partition(".")[0])
    for line in _requirements():
        requirement, _, marker = line.partition(";")
        named = re.match(r"[\w.-]+", requirement)
        extras = (re.search(rf"extra == .{re.escape(one)}['\"]", marker) for one in extra.split(","))
        if named and _normal(named[0]) == package and any(extras):
            return True
    return False


def _requirements() -> list[str]:
    """Return the requirements of this distribution; empty for a clone that is not installed."""
    try:
        return metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []


def _normal(name: str) -> str:
    """Return the name of a distribution as the index compares it, which makes it equal to most modules' names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _wheel() -> str:
    """Return the path of the wheel that this package was installed from; empty for any other origin."""
    try:
        recorded = metadata.distribution(_DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return ""
    url = str(json.loads(recorded).get("url", "")) if recorded else ""
    return url2pathname(urlsplit(url).path) if url.startswith("file:") and url.endswith(".whl") else ""


@dataclass(frozen=True)
class OptionalPackage:
    """A package that only some runs need.

    Args:
        modules: Modules that must all be installed.
        remedy: Command that installs them, in words.
        imported: Switch that tries to import the modules as well, which finds broken installations. False for a
            package of which only files are read.
    """

    modules: tuple[str, ...]
    remedy: str
    imported: bool = True

    def problem(self, use: str) -> str:
        """Return in words what is missing or broken, and the command that installs it; empty if nothing is.

        Args:
            use: Part of the run that needs the package, for example "FID and KID".
        """
        if missing := [name for name in self.modules if not installed(name)]:
            return f"expected {' and '.join(self.modules)} for {use}, found no {', '.join(missing)}; {self.remedy}"
        for name in self.modules if self.imported else ():
            try:
                importlib.import_module(name)
            except Exception as error:  # noqa: BLE001 - a broken installation raises anything
                return (
                    f"expected {name} for {use}, found one that cannot be imported ({type(error).__name__}: {error}); "
                    f"{self.remedy}"
                )
        return ""


def installed(module: str) -> bool:
    """Return True if a module can be found; it is not imported.

    Args:
        module: Name of the module.
    """
    if module in sys.modules:
        return sys.modules[module] is not None
    return find_spec(module) is not None


def package_problems(parts: Iterable[tuple[str, object]]) -> list[str]:
    """Return the problems of the optional packages that parts of a run declare.

    Args:
        parts: Names and parts, such as attacks or metrics. A part or its class declares packages as ``packages``, a
            tuple of ``OptionalPackage``.
    """
    uses: dict[OptionalPackage, list[str]] = {}
    for name, part in parts:
        for package in getattr(part, "packages", ()):
            uses.setdefault(package, []).append(name)
    return [text for package, names in uses.items() if (text := package.problem(", ".join(dict.fromkeys(names))))]
