"""Which errors this package raised on purpose: the command line shows those as one message, without a traceback."""

from __future__ import annotations

import dis

# Errors of Python whose meaning fits: wrong settings, files that cannot be written, states that do not allow a step.
KINDS = (ValueError, RuntimeError, OSError)


def on_purpose(error: BaseException) -> bool:
    """Return True if a ``raise`` of this package made an error, False if Python or another package did.

    Args:
        error: Error that was caught.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not isinstance(error, KINDS):
        return False
    frame = trace.tb_frame
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    # ``int("x")`` in this package fails in this package, too, but in a call, not in a raise statement.
    return package == "robust_encoders" and dis.opname[frame.f_code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
