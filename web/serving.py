"""How do pages come to be served? One server on the sockets it is given, up until it is asked to stop.

Signals and logging stay with the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp


_HANDSHAKE_SECONDS = 10.0


class Serving:
    """`tls`: a socket, bound, over which the same is served, and its context."""

    def __init__(
        self,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
        tls: tuple[socket.socket, ssl.SSLContext] | None = None,
    ) -> None:
        from web.http_server import server  # uvicorn takes a while to import

        made: Any = server(app)
        self._server = made
        self._server.capture_signals = contextlib.nullcontext
        self._sockets, self._tls = list(sockets), tls
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once it answers."""
        self._task = asyncio.create_task(self._server.serve(sockets=self._sockets))
        while not self._server.started:
            await asyncio.sleep(0.01)
            if self._task.done():
                await self._task
        if self._tls is not None:
            await self._listen(*self._tls)

    async def _listen(self, line: socket.socket, context: ssl.SSLContext) -> None:
        """The same server, with the same bounds on its connections; uvicorn knows sockets with TLS or without, not both, and
        gives a handshake a minute."""
        server = self._server
        protocol = partial(
            server.config.http_protocol_class,
            config=server.config,
            server_state=server.server_state,
            app_state=server.lifespan.state,
        )
        server.servers.append(
            await asyncio.get_running_loop().create_server(
                protocol,
                sock=line,
                backlog=server.config.backlog,
                ssl=context,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            )
        )

    def ask_to_stop(self) -> None:
        self._server.should_exit = True

    async def stopped(self) -> None:
        if self._task is not None:
            await self._task
