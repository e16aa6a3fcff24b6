"""Optional packages: whether they are installed, and the command that installs them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this package, for the remedy of an error.

    The package is on no index, so it is installed from a clone.

    Args:
        extra: Name of the extra, or several names with commas between them.
    """
    return f"run `pip install '.[{extra}]'` in a clone of robust_encoders"


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
