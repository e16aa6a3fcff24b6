"""Optional packages: missing, broken or there; every message has the command that installs them."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from robust_encoders.utils.extras import OptionalPackage, install_command, installed, names_extra, package_problems

ABSENT = OptionalPackage(("json", "no_such_module"), install_command("eval"))


def test_what_is_installed_is_no_problem() -> None:
    assert OptionalPackage(("json", "csv"), "").problem("tables") == ""


def test_what_is_missing_is_named_with_its_use_and_its_command() -> None:
    said = ABSENT.problem("FID")
    assert "for FID, found no no_such_module" in said
    assert "pip install '.[eval]'" in said


def test_a_blocked_module_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "csv", None)
    assert not installed("csv")
    assert installed("json")


def test_a_broken_installation_is_found_unless_only_its_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    broken = OptionalPackage(("broken_module",), "pip install broken")
    assert "RuntimeError: operator nms does not exist" in broken.problem("LPIPS")
    assert OptionalPackage(("broken_module",), "", imported=False).problem("LPIPS") == ""


def test_one_problem_a_package_names_all_its_uses() -> None:
    part = SimpleNamespace(packages=(ABSENT,))
    (said,) = package_problems([("fid", part), ("kid", part), ("asr", object())])
    assert "for fid, kid" in said


@pytest.mark.parametrize(
    ("extra", "module", "expected"),
    [
        ("train", "docstring_parser", True),
        ("eval", "docstring_parser.google", True),
        ("train", "tomli_w", True),
        ("eval", "tomli_w", False),
        ("train", "docstring", False),
        ("train", "torch", False),
        ("tr", "tyro", False),
        ("eval", "", False),
    ],
)
def test_a_module_belongs_to_the_extra_that_installs_it(extra: str, module: str, expected: bool) -> None:
    assert names_extra(extra, module) == expected


@pytest.mark.parametrize(
    ("recorded", "command"),
    [
        (
            {"url": "file:///a%20b/robust_encoders-1-py3-none-any.whl"},
            "'/a b/robust_encoders-1-py3-none-any.whl[eval]'",
        ),
        ({"url": "file:///a/clone", "dir_info": {"editable": True}}, "'.[eval]'` in a clone"),
        ({"url": "https://example.org/robust_encoders-1-py3-none-any.whl"}, "'.[eval]'` in a clone"),
        (None, "'.[eval]'` in a clone"),
    ],
)
def test_the_command_names_the_wheel_that_was_installed(
    recorded: object, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = None if recorded is None else json.dumps(recorded)
    monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda file: text))
    assert f"pip install {command}" in install_command("eval")
