"""Whether the Hub can be reached: dead names and ports, servers that never answer, connections that hang."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import connect, push_folder
from hub_server import READER, serve
from huggingface_hub import constants

from robust_encoders import DownloadError
from robust_encoders.hub import connection
from robust_encoders.hub.download import HubOptions, fetch_file


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    connection.forget()
    yield
    connection.forget()


def test_a_port_where_nobody_listens_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    assert connection.unreachable().startswith("Connection refused")
    assert time.monotonic() - began < connection.CONNECT


def test_a_name_that_nobody_knows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "Name or service not known" in connection.unreachable()


def test_a_name_server_that_hangs_costs_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def hang(*_: object, **__: object) -> None:
        ended.wait(20)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    try:
        assert connection.unreachable() == "no connection to http://hub.invalid within 2 seconds"
    finally:
        ended.set()
    assert time.monotonic() - began < connection.CONNECT + 1


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        began = time.monotonic()
        assert connection.unreachable() != ""
    assert time.monotonic() - began < connection.CONNECT + 1.5


def test_the_clients_own_limit_replaces_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection._limits() == (connection.CONNECT, connection.ANSWER)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 30)
    assert connection._limits() == (30.0, 30.0)


def test_one_question_serves_many_files_and_an_offline_client_asks_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as hub:
        connect(hub, monkeypatch, tmp_path)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert connection.unreachable() == ""
        assert hub.requests == []
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert [connection.unreachable() for _ in range(5)] == [""] * 5
        assert len(hub.requests) == 1


def test_what_is_cached_still_loads_and_what_is_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.json").write_text("{}")
    with serve() as hub:
        connect(hub, monkeypatch, tmp_path)
        commit = push_folder(hub, "org/name", source)
        fetched = fetch_file("org/name", "a.json", subfolder="", options=HubOptions())
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    assert fetch_file("org/name", "a.json", subfolder="", options=HubOptions()) == fetched
    assert "the Hub cannot be reached (Connection refused" in caplog.text
    caplog.clear()
    assert fetch_file("org/name", "a.json", subfolder="", options=HubOptions(revision=commit)) == fetched
    assert caplog.text == "", "a commit in the cache needs no network"
    with pytest.raises(DownloadError, match=r"not in the cache .* cannot be reached \(Connection refused") as caught:
        fetch_file("org/name", "b.json", subfolder="", options=HubOptions())
    assert "local_files_only" not in str(caught.value)
    with pytest.raises(DownloadError, match=r"cannot fetch a\.json of org/name again"):
        fetch_file("org/name", "a.json", subfolder="", options=HubOptions(force_download=True, token=READER))
    assert time.monotonic() - began < 5
