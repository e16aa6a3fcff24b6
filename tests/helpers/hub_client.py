"""The real client of the Hub in this process, talking to a Hub on loopback."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hub_server import Hub, Repo
from huggingface_hub import constants, file_download, hf_api, utils

from robust_encoders.hub import connection


def reset_sessions() -> None:
    """Let older clients see whether they are offline, which they decide once for each session."""
    getattr(utils, "reset_sessions", lambda: None)()


def connect(hub: Hub, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the client talk to ``hub``, with a cache in ``folder`` and without a token of its own.

    The client reads its environment once, at its first import, so its constants are replaced.
    """
    connection.forget()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)  # of the functions that diffusers imports
    reset_sessions()
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):  # older clients keep a copy of it where they download
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=module is constants)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's tries
    monkeypatch.delenv("HF_TOKEN", raising=False)


def push_folder(hub: Hub, repo: str, folder: Path) -> str:
    """Put all files of a folder into a repository of the Hub, and return the commit."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return hub.repos.setdefault(repo, Repo()).commit(files, "all files").sha
