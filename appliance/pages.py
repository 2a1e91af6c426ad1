"""Is anybody waiting for a page just now? Whoever reads records in the background lets them go first.

Python runs one thread at a time: a page made beside the reading takes twice as long, and a person waits for it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


_INTAKE = "/v1/"  # devices wait for the disk, not for us


class Pages:
    """`none` is set while no request is being answered. A stream counts until its head is sent."""

    def __init__(self) -> None:
        self.none = threading.Event()
        self.none.set()
        self._waiting = 0

    def around(self, app: ASGIApp) -> ASGIApp:
        """Count the requests to `app`, on the event loop's thread."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"].startswith(_INTAKE):
                await app(scope, receive, send)
                return
            waits = True

            def over() -> None:
                nonlocal waits
                if waits:
                    waits = False
                    self._waiting -= 1
                    if not self._waiting:
                        self.none.set()

            async def sent(message: Message) -> None:
                await send(message)
                if message["type"] == "http.response.start" and _streams(message):
                    over()

            self._waiting += 1
            self.none.clear()
            try:
                await app(scope, receive, sent)
            finally:
                over()

        return counted


def _streams(start: Message) -> bool:
    return not any(name.lower() == b"content-length" for name, _ in start.get("headers", ()))
