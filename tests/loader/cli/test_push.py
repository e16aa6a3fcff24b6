"""What a push needs is asked before an encoder is fetched or loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import refused
from huggingface_hub import constants

from robust_encoders import RobustEncoder
from robust_encoders.hub.client import sending_problems


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if an encoder is loaded, and have no token."""
    monkeypatch.setattr(RobustEncoder, "from_pretrained", lambda *a, **k: pytest.fail("an encoder was loaded"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


def test_a_catalog_name_is_not_fetched_for_a_push_that_cannot_be_sent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = refused(capsys, 2, "push", "shapes/circle", "org/two words")
    assert said.startswith("3 things are missing or wrong")
    for text in ("expected a repository as org/name", "unset HF_HUB_OFFLINE", "hf auth login"):
        assert text in said


def test_a_folder_is_refused_only_for_the_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, 2, "push", str(tmp_path), "a/b/c")
    assert said.startswith("expected a repository as org/name")


def test_a_server_of_ones_own_may_need_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(sending_problems("org/name", token=True)) == 1
    monkeypatch.setattr(constants, "ENDPOINT", "http://localhost:1")
    assert sending_problems("org/name", token=True) == []
