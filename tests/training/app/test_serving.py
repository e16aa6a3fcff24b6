"""The surroundings of the server: what browsers may load, and proxies."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from robust_encoders.training.app.serving import Sealed, without_proxy


def answer_of(kind: str) -> list[dict[str, Any]]:
    """Return what a server with one header sends through the middleware."""
    sent: list[dict[str, Any]] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"z"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Sealed(inner)({"type": kind}, None, send))
    return sent


def test_browsers_are_told_to_load_nothing_from_elsewhere() -> None:
    start, body = answer_of("http")
    headers = dict(start["headers"])
    assert headers[b"x"] == b"y"
    policy = headers[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'self';")
    assert "//" not in policy
    assert body == {"type": "http.response.body", "body": b"z"}
    assert dict(answer_of("websocket")[0]["headers"]) == {b"x": b"y"}


@pytest.mark.parametrize("before", [None, "example.org"])
def test_this_machine_is_reached_without_a_proxy_and_the_environment_is_restored(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    if before is None:
        monkeypatch.delenv("no_proxy", raising=False)
    else:
        monkeypatch.setenv("no_proxy", before)

    def inside() -> None:
        with without_proxy():
            assert os.environ["no_proxy"] == ",".join([*([before] if before else []), "127.0.0.1", "localhost", "::1"])
            raise ValueError("in the block")

    with pytest.raises(ValueError, match="in the block"):
        inside()
    assert os.environ.get("no_proxy") == before
