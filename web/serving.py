"""How do pages come to be served? One server on the sockets it is given, up until it is asked to stop.

Signals and logging stay with the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp


class Serving:
    def __init__(self, app: ASGIApp, sockets: Sequence[socket.socket]) -> None:
        from web.http_server import server  # uvicorn takes a while to import

        made: Any = server(app)
        self._server = made
        self._server.capture_signals = contextlib.nullcontext
        self._sockets = list(sockets)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once it answers."""
        self._task = asyncio.create_task(self._server.serve(sockets=self._sockets))
        while not self._server.started:
            await asyncio.sleep(0.01)
            if self._task.done():
                await self._task

    def ask_to_stop(self) -> None:
        self._server.should_exit = True

    async def stopped(self) -> None:
        if self._task is not None:
            await self._task
