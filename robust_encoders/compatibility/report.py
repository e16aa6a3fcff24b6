"""The report on the fit of an artifact to a pipeline, which lists all failed checks at once."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from robust_encoders.errors import RobustEncodersError
from robust_encoders.pipeline.slots import Slots

_WIDTH = 100  # characters of a line of the report
_INDENTED: Mapping[str, Any] = {"initial_indent": "  ", "subsequent_indent": "    "}
Severity = Literal["error", "warning"]
Fit = Literal["whole", "partial", "none"]
# Name of the check that only the caller's consent decides.
OTHERS = "other text encoders"


@dataclass(frozen=True)
class Check:
    """One check of an artifact against a pipeline, with its result.

    Args:
        name: Name of the check.
        ok: True if the check passed.
        severity: Weight of a failure: an ``error`` forbids attaching, a ``warning`` does not.
        expected: Expected value in words.
        found: Value that was found, in words.
        remedy: Advice to the user if the check failed.
    """

    name: str
    ok: bool
    severity: Severity
    expected: str
    found: str
    remedy: str

    def __str__(self) -> str:
        if self.ok:
            return f"{self.name}: ok ({self.found})"
        return f"{self.name}: expected {self.expected}, found {self.found}; {self.remedy}"


@dataclass(frozen=True)
class CompatReport:
    """The results of all checks of an artifact against a pipeline.

    Args:
        checks: Checks in a fixed order; checks that do not apply to this pipeline are left out.
        slots: Text encoders of the pipeline, as the artifact sees them; None if the pipeline could not be examined.
        place: Object that the artifact was checked against, in words.
    """

    checks: tuple[Check, ...]
    slots: Slots | None = None
    place: str = "this pipeline"

    @property
    def ok(self) -> bool:
        """True if the artifact can be attached; warnings do not forbid it."""
        return not self.errors

    @property
    def fit(self) -> Fit:
        """Extent of the fit, whatever the caller accepts.

        ``whole``: no other text encoder of the pipeline knows the concept. ``partial``: it fits its slot, and
        ``slots.open`` names the others. ``none``: a check of the slot itself failed.
        """
        if self.slots is None:
            return "whole" if self.ok else "none"
        if any(check.name != OTHERS for check in self.errors):
            return "none"
        return "partial" if self.slots.open else "whole"

    @property
    def verdict(self) -> str:
        """The extent of the fit in words: ``fits``, ``fits slot 1 of 2: partial``, or ``does not fit``, for example."""
        if self.fit == "none":
            return "does not fit"
        several = self.slots is not None and len(self.slots.kinds) > 1
        return f"fits {self.slots}" + ": partial" * (self.fit == "partial") if several else "fits"

    @property
    def errors(self) -> tuple[Check, ...]:
        """Failed checks that forbid attaching."""
        return tuple(check for check in self.checks if not check.ok and check.severity == "error")

    @property
    def warnings(self) -> tuple[Check, ...]:
        """Failed checks that do not forbid attaching."""
        return tuple(check for check in self.checks if not check.ok and check.severity == "warning")

    def __str__(self) -> str:
        """Return the verdict, the slots of a pipeline with several, each failed check, and the names of the others."""
        return "\n".join(
            [
                _verdict(self),
                *(line for slot in _slots_of(self) for line in textwrap.wrap(slot, _WIDTH, **_INDENTED)),
                *(line for check in (*self.errors, *self.warnings) for line in _told(check)),
                *_passed(self),
            ]
        )

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def explain(self) -> str:
        """Return every failed check with expected, found and remedy, errors first."""
        head = f"the encoder {_in_words(self)}"
        if self.ok and not self.warnings:
            return f"{head} ({len(self.checks)} checks)"
        head += ", but" if self.ok else ":" if self.fit == "none" else ", and is attached only with consent:"
        failed = [f"{check.severity}: {check}" for check in (*self.errors, *self.warnings)]
        slots = _slots_of(self) if self.fit == "partial" else ()
        return "\n  ".join([f"{head} {len(failed)} of {len(self.checks)} checks failed", *slots, *failed])

    def raise_if_incompatible(self) -> None:
        """Raise if a check of severity ``error`` failed.

        Raises:
            IncompatibleError: If one failed; the message lists all failures with expected, found and remedy.
        """
        if not self.ok:
            raise IncompatibleError(self)


def _in_words(report: CompatReport) -> str:
    return report.verdict if "slot" in report.verdict else f"{report.verdict} {report.place}"


def _slots_of(report: CompatReport) -> tuple[str, ...]:
    return () if report.slots is None else report.slots.told()


def _verdict(report: CompatReport) -> str:
    found = {"error": len(report.errors), "warning": len(report.warnings)}
    counts = [f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in found.items() if n]
    head = f"The encoder {_in_words(report)}" + ("." if report.fit == "partial" else ":")
    told = ", ".join(counts) or "every check passed"
    told = told.capitalize() if report.fit == "partial" else told
    return f"{head} {told} ({len(report.checks)} checks)."


def _told(check: Check) -> list[str]:
    parts = {"expected": check.expected, "found": check.found, "do this": check.remedy}
    lines = [f"  {check.severity}: {check.name}"]
    for name, text in parts.items():
        lines += textwrap.wrap(text, _WIDTH, initial_indent=f"    {name:10}", subsequent_indent=" " * 14)
    return lines


def _passed(report: CompatReport) -> list[str]:
    names = ", ".join(check.name for check in report.checks if check.ok)
    return textwrap.wrap(names, _WIDTH, initial_indent="  passed: ", subsequent_indent=" " * 10) if names else []


class IncompatibleError(RobustEncodersError):
    """An artifact does not fit a pipeline.

    Args:
        report: Results of all checks; ``report.errors`` are the failed ones that forbid attaching.
    """

    def __init__(self, report: CompatReport) -> None:
        super().__init__(report.explain())
        self.report = report
