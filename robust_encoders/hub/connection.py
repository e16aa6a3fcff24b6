"""Whether the Hub can be reached: asked once, within seconds, before the Hub's client begins to try again and again.

The client tries six times to fetch a file that is not in its cache, and waits 23 seconds in total between its tries. A
machine without a network would learn only then that it is offline.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from robust_encoders.hub.client import transport_error
from robust_encoders.redaction import redacted

CONNECT, ANSWER, VALID = 2.0, 5.0, 30.0  # seconds: limit of a connection, of an answer; time that a finding is valid
_SYSTEM = re.compile(r"\[Errno -?\d+\] ([\w ,.-]+)")
_found: dict[str, tuple[float, str]] = {}
_lock = threading.Lock()


def unreachable() -> str:
    """Return why the Hub cannot be reached, for an error message; empty if it can, or if the client is set offline.

    A connection has two seconds, an answer five more. ``HF_HUB_ETAG_TIMEOUT``, the client's own limit in seconds,
    replaces both for slow networks. A finding is valid for thirty seconds.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return ""  # the client refuses at once, and says so
    endpoint = constants.ENDPOINT
    with _lock:  # the threads of one program ask once
        asked_at, why = _found.get(endpoint, (-VALID, ""))
        if time.monotonic() - asked_at > VALID:
            why = redacted(_asked(endpoint))
            _found[endpoint] = (time.monotonic(), why)
    return why


def forget() -> None:
    """Forget all findings, so that the next call of :func:`unreachable` asks again."""
    _found.clear()


def _limits() -> tuple[float, float]:
    from huggingface_hub import constants

    chosen = float(constants.HF_HUB_ETAG_TIMEOUT)
    return (CONNECT, ANSWER) if chosen == constants.DEFAULT_ETAG_TIMEOUT else (chosen, chosen)


def _asked(endpoint: str) -> str:
    """Ask the endpoint by the client's own session, which knows proxies and certificates, in a thread of its own.

    Looking up a name has no time limit that a program could set, so the thread is left behind if it takes too long.
    """
    answers: SimpleQueue[str] = SimpleQueue()
    connected = threading.Event()
    connect, answer = _limits()
    _start(lambda: answers.put(_request(endpoint, (connect, answer))))
    _start(lambda: _connect(endpoint, connect, connected))
    try:
        return answers.get(timeout=connect)
    except Empty:
        pass
    if not connected.is_set() and not getproxies():
        return f"no connection to {endpoint} within {connect:g} seconds"
    try:
        return answers.get(timeout=answer)
    except Empty:
        return f"no answer from {endpoint} within {connect + answer:g} seconds"


def _request(endpoint: str, limits: tuple[float, float]) -> str:
    from huggingface_hub import get_session

    session: Any = get_session()  # of requests or httpx, depending on the client's version
    # requests has (connect, read), httpx has (connect, read, write, pool).
    old = transport_error().__module__.startswith("requests")
    timeout = limits if old else (*limits, limits[1], limits[1])
    try:
        session.head(endpoint, timeout=timeout)
    except Exception as error:  # noqa: BLE001 - each HTTP library has exceptions of its own
        return _shortened(error)
    return ""


def _connect(endpoint: str, limit: float, connected: threading.Event) -> None:
    """Set the event once a server of the endpoint accepts a connection, by whichever kind of address."""
    place = urlsplit(endpoint)
    try:
        port = place.port or (80 if place.scheme == "http" else 443)
        found = socket.getaddrinfo(place.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return
    for address in {info[0]: info[4] for info in reversed(found)}.values():
        _start(partial(_try, address, limit, connected))


def _try(address: tuple[Any, ...], limit: float, connected: threading.Event) -> None:
    try:
        socket.create_connection(address[:2], timeout=limit).close()
    except OSError:
        return
    connected.set()


def _start(run: Callable[[], None]) -> None:
    threading.Thread(target=run, daemon=True).start()


def _shortened(error: Exception) -> str:
    """Return the operating system's part of an HTTP library's error, or else its beginning."""
    text = " ".join(str(error).split())
    found = _SYSTEM.search(text)
    return found[1].strip() if found else f"{type(error).__name__}: {text[:200]}".strip(": ")
