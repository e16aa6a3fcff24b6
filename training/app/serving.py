"""What surrounds the server of the page: nothing is loaded from elsewhere, and no proxy stands before this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# A browser then loads nothing from anywhere else, whatever a script of the page asks for.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:"
)


@contextmanager
def without_proxy() -> Iterator[None]:
    """Let Gradio, which asks its own server at the start, reach it also where a proxy is set for everything."""
    before = os.environ.get("no_proxy")
    known = [before or os.environ.get("NO_PROXY", ""), "127.0.0.1", "localhost", "::1"]
    os.environ["no_proxy"] = ",".join(filter(None, known))
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before


class Sealed:
    """Middleware that tells browsers to load nothing from elsewhere.

    Args:
        app: Application behind it.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request of ASGI by the application, with the policy as a further header."""

        async def sealed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", _POLICY.encode())]
            await send(message)

        await self.app(scope, receive, sealed if scope["type"] == "http" else send)
