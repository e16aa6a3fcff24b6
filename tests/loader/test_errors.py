"""Every error is one of ours, and carries what a program needs."""

from __future__ import annotations

import inspect

import pytest

from robust_encoders import CompatReport, IncompatibleError, errors
from robust_encoders.compatibility.report import Check


@pytest.mark.parametrize(
    "kind", [k for _, k in inspect.getmembers(errors, inspect.isclass) if k.__module__ == errors.__name__]
)
def test_every_error_can_be_caught_as_one_of_ours(kind: type) -> None:
    assert issubclass(kind, (errors.RobustEncodersError, UserWarning))
    assert kind.__doc__


def test_missing_assets_are_also_a_missing_file() -> None:
    assert issubclass(errors.AssetsMissingError, FileNotFoundError)


def test_incompatible_error_carries_the_report() -> None:
    report = CompatReport((Check("width", False, "error", "16", "32", "load another base"),))
    error = IncompatibleError(report)
    assert error.report is report
    assert "width: expected 16, found 32; load another base" in str(error)
