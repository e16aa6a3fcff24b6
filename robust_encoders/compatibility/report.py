"""The report on the fit of an artifact to a pipeline, which lists all failed checks at once."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Literal

from robust_encoders.errors import RobustEncodersError

_WIDTH = 100  # characters of a line of the report
Severity = Literal["error", "warning"]


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
        place: Object that the artifact was checked against, in words.
    """

    checks: tuple[Check, ...]
    place: str = "this pipeline"

    @property
    def ok(self) -> bool:
        """True if the artifact can be attached; warnings do not forbid it."""
        return not self.errors

    @property
    def errors(self) -> tuple[Check, ...]:
        """Failed checks that forbid attaching."""
        return tuple(check for check in self.checks if not check.ok and check.severity == "error")

    @property
    def warnings(self) -> tuple[Check, ...]:
        """Failed checks that do not forbid attaching."""
        return tuple(check for check in self.checks if not check.ok and check.severity == "warning")

    def __str__(self) -> str:
        """Return the verdict, each failed check with expected, found and remedy, and the names of those that passed."""
        return "\n".join(
            [
                _verdict(self),
                *(line for check in (*self.errors, *self.warnings) for line in _told(check)),
                *_passed(self),
            ]
        )

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def explain(self) -> str:
        """Return every failed check with expected, found and remedy, errors first."""
        if self.ok and not self.warnings:
            return f"the encoder fits {self.place} ({len(self.checks)} checks)"
        head = f"the encoder fits {self.place}, but" if self.ok else f"the encoder does not fit {self.place}:"
        failed = [f"{check.severity}: {check}" for check in (*self.errors, *self.warnings)]
        return "\n  ".join([f"{head} {len(failed)} of {len(self.checks)} checks failed", *failed])

    def raise_if_incompatible(self) -> None:
        """Raise if a check of severity ``error`` failed.

        Raises:
            IncompatibleError: If one failed; the message lists all failures with expected, found and remedy.
        """
        if not self.ok:
            raise IncompatibleError(self)


def _verdict(report: CompatReport) -> str:
    found = {"error": len(report.errors), "warning": len(report.warnings)}
    counts = [f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in found.items() if n]
    head = f"The encoder {'fits' if report.ok else 'does not fit'} {report.place}"
    return f"{head}: {', '.join(counts) or 'every check passed'} ({len(report.checks)} checks)."


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
