"""The way on after Ctrl-C: what the stopped command keeps, and how to continue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EXIT_INTERRUPTED = 130  # a shell's exit code for a program that SIGINT ended

_AGAIN = "run the same command again"
_KEPT: Mapping[str, str] = {
    "certify": f"{_AGAIN} to go on: the finished parts are kept in {{out}}",
    "compare": f"{_AGAIN} to go on: finished rows, trainings and parts are kept in {{out}}",
    "emoji": f"{_AGAIN} to go on from the newest checkpoint in {{work}}",
    "evaluate": f"{_AGAIN} to go on: the finished parts are kept in {{out}}",
    "shapes": f"{_AGAIN} to go on from the newest checkpoint in {{work}}",
    "train": f"{_AGAIN} to go on: trajectories and checkpoints are kept in {{out}}.work",
}


def way_on(arguments: Sequence[str]) -> str:
    """Return how to continue a command that was stopped.

    Args:
        arguments: Arguments of the command line, the command first.
    """
    out = _value_of("--out", arguments).rstrip("/") or "the folder of --out"
    if "--no-resume" in arguments:
        return _KEPT["train"].format(out=out).replace(_AGAIN, f"{_AGAIN}, without --no-resume,")
    work = _value_of("--work", arguments).rstrip("/") or out
    return _KEPT.get(next(iter(arguments), ""), f"{_AGAIN}, which starts it anew").format(out=out, work=work)


def _value_of(option: str, arguments: Sequence[str]) -> str:
    for i, argument in enumerate(arguments):
        name, sign, value = argument.partition("=")
        if name == option:
            return value if sign else next(iter(arguments[i + 1 : i + 2]), "")
    return ""
