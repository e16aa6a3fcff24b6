"""Names of options in errors: the settings of a method inside another one have the outer one's prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from robust_encoders.errors import RobustEncodersError


@contextmanager
def options_under(part: str) -> Iterator[None]:
    """Name options in errors as the command line of the outer method has them.

    Args:
        part: Field of the outer method that holds the inner one; ``--train.rate`` becomes ``--PART.train.rate``.

    Raises:
        RobustEncodersError: The same error with the other names.
    """
    try:
        yield
    except RobustEncodersError as error:
        text = re.sub(r"(?<![\w-])--(?=[a-z]+\.[a-z])", f"--{part}.", str(error))
        if text == str(error):
            raise
        raise type(error)(text) from error
