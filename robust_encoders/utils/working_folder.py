"""The working folder of the process, without which torch ends the whole program while it is imported."""

from __future__ import annotations

import os
import sys


def _require_working_folder() -> None:
    """Refuse to import torch in a folder that was deleted: some builds for Linux then end the program.

    Raises:
        FileNotFoundError: If the working folder no longer exists, and torch is not imported yet.
    """
    if sys.platform != "linux" or "torch" in sys.modules:
        return
    try:
        os.getcwd()
    except FileNotFoundError:
        raise FileNotFoundError(
            "the working folder no longer exists, and torch cannot be imported in it; change to a folder that exists"
        ) from None


_require_working_folder()
