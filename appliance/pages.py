"""Is anybody waiting for a page just now? Whoever reads records in the background lets them go first.

Python runs one thread at a time: a page made beside the reading takes twice as long, and a person waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


T = TypeVar("T")

_INTAKE = ("/v1/", "/write", "/api/v2/", "/api/v3/", "/ping", "/health")  # devices wait for the disk, not for us
OVER = "skerry.over"  # in the scope: what a handler calls that will wait for a device, and so is no work of ours
_SLICE = 128
_WAIT_S = 0.05  # so long at most in a slice: a page that takes long, or one after the other, must not end the reading


class Pages:
    """`none` is set while no request is being answered. A stream counts until its head is sent."""

    def __init__(self) -> None:
        self.none = threading.Event()
        self.none.set()
        self._waiting = 0

    def first(self, items: Iterable[T]) -> Iterator[T]:
        """`items`, each once nobody waits for a page. For a thread of its own."""
        patience_s = 0.0
        for index, item in enumerate(items):
            if not index % _SLICE:
                patience_s = _WAIT_S
            if patience_s > 0 and not self.none.is_set():
                began = time.monotonic()
                self.none.wait(patience_s)
                patience_s -= time.monotonic() - began
            yield item

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

            scope[OVER] = over
            self._waiting += 1
            self.none.clear()
            try:
                await app(scope, receive, sent)
            finally:
                over()

        return counted


def _streams(start: Message) -> bool:
    return not any(name.lower() == b"content-length" for name, _ in start.get("headers", ()))
