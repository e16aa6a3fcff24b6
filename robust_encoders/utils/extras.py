"""The command that installs an optional dependency, for errors about a missing package."""

from __future__ import annotations


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this package, for the remedy of an error.

    The package is on no index, so it is installed from a clone.

    Args:
        extra: Name of the extra, or several names with commas between them.
    """
    return f"run `pip install '.[{extra}]'` in a clone of robust_encoders"
