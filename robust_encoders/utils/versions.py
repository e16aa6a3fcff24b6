"""Versions of libraries, also of those that were not installed by a package manager."""

from __future__ import annotations

from importlib import import_module, metadata


def version(name: str) -> str:
    """Return the version of an installed library.

    A clone on PYTHONPATH and a frozen application have modules without metadata; their ``__version__`` counts then.

    Args:
        name: Name of the distribution, for example ``diffusers``.

    Raises:
        ModuleNotFoundError: If no module of that name can be imported either.
    """
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        module = import_module(name.replace("-", "_"))
        return str(getattr(module, "__version__", "unknown"))
