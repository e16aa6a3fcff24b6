"""Names where encoders belong: refused with how to load the encoder."""

from __future__ import annotations

import os

from robust_encoders.errors import RobustEncodersError


class EncoderNameError(RobustEncodersError, TypeError):
    """The name or folder of an encoder was passed where a loaded encoder belongs."""


def refuse_names(*encoders: object) -> None:
    """Refuse names and folders among values that should be loaded encoders.

    Args:
        encoders: Values that were passed as encoders.

    Raises:
        EncoderNameError: If one of them is a string or a path.
    """
    for given in encoders:
        if isinstance(given, str | os.PathLike):
            shown = repr(given) if isinstance(given, str) else f"Path({os.fspath(given)!r})"
            raise EncoderNameError(
                f"expected an encoder, found the name {shown}; pass RobustEncoder.from_pretrained({shown})"
            )
