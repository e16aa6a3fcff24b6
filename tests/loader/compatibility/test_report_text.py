"""print(report) is read by a stranger at once."""

from __future__ import annotations

from robust_encoders.compatibility.report import Check, CompatReport

PASSED = Check("layers", True, "error", "12", "12", "")
WIDTH = Check("width", False, "error", "768", "1024", "use an encoder of the same base " * 6)
VERSIONS = Check("library versions", False, "warning", "torch 2", "torch 3", "measure again")


def test_a_fit_is_one_sentence_and_the_names_of_the_checks() -> None:
    assert str(CompatReport((PASSED,))) == (
        "The encoder fits this pipeline: every check passed (1 checks).\n  passed: layers"
    )


def test_failures_come_first_with_expected_found_and_remedy() -> None:
    lines = str(CompatReport((PASSED, VERSIONS, WIDTH))).splitlines()
    assert lines[0] == "The encoder does not fit this pipeline: 1 error, 1 warning (3 checks)."
    assert lines[1:4] == ["  error: width", "    expected  768", "    found     1024"]
    assert lines[4].startswith("    do this   use an encoder")
    assert lines.index("  warning: library versions") > lines.index("  error: width")
    assert lines[-1] == "  passed: layers"
    assert max(map(len, lines)) <= 100


def test_warnings_alone_still_fit() -> None:
    assert str(CompatReport((VERSIONS,))).startswith("The encoder fits this pipeline: 1 warning (1 checks).")
