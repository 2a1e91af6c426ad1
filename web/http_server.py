"""The HTTP server: uvicorn over httptools, with the deadlines and the bound of a head that they do not have.

A connection that does not get a whole request head across within `HEAD_SECONDS` is closed, whether it is the first one
or a later one, and when many hold connections without a word, the one that waited longest makes room for each that comes:
slow clients cannot hold every connection. Bodies have their own deadline, where they are read. A peer
that takes nothing of what waits for it for `STALL_SECONDS` is let go; a slow one that takes something is not.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HEAD_SECONDS = 10.0
STALL_SECONDS = 30.0
_KEEP_ALIVE_SECONDS = 15
_HEAD_BYTES_MAX = 64 * 1024  # also of what follows a body that came in chunks
_FRAMING_MAX = 8  # bytes around one byte of a body: what chunks of a single byte take
_GATHERED_BYTES_MAX = 64 * 1024
WEBSOCKET_BYTES_MAX = 1024 * 1024  # of one message
_CONNECTIONS_MAX = 2_000  # beyond it a request is answered 503 at once
_SILENT_MAX = 1_000  # connections that have said no whole head, or nothing since their last answer


class Gathering:
    """A transport that sends what is written in one turn of the loop at once: an answer is head and body, and a call of the
    system for each costs a tenth of what a small request costs in all."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.behind = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > _GATHERED_BYTES_MAX:
            self.flush()  # a long answer waits for its reader, which the transport notices and we do not

    def flush(self) -> None:
        if self._parts:
            parts, self._parts, self._size = self._parts, [], 0
            self.behind.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def close(self) -> None:
        self.flush()
        self.behind.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


class _Heeded(asyncio.Protocol):
    """Lets go of a peer that stands still: no byte of what waits for it goes, and none is acknowledged."""

    transport: asyncio.Transport
    _stalled: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        later = asyncio.get_running_loop().call_later
        self._stalled = later(STALL_SECONDS, self._still, _untaken(self.transport))

    def _still(self, untaken: int) -> None:
        if _untaken(self.transport) < untaken:
            self._look_again()
        else:
            self.transport.abort()

    def _go_on(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


def _untaken(transport: asyncio.Transport) -> int:
    """Bytes that the peer has not acknowledged: here, and in the kernel (SIOCOUTQ)."""
    line: socket.socket | None = transport.get_extra_info("socket")
    waiting = transport.get_write_buffer_size()
    if line is None or line.fileno() < 0:
        return waiting
    (queued,) = struct.unpack("i", fcntl.ioctl(line.fileno(), termios.TIOCOUTQ, bytes(4)))
    return waiting + int(queued)


class Talking(_Heeded, WebSocketsSansIOProtocol):
    """A websocket."""


class Punctual(_Heeded, HttpToolsProtocol):
    """`silent` are those of this server whose turn it is to speak, the one that waited longest first."""

    silent: dict[Punctual, None]
    _deadline: asyncio.TimerHandle | None = None
    _loose = 0  # bytes that came and belong to no body, since the last head or message was whole

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Gathering(transport, self.loop))  # type: ignore[arg-type]
        self._wait_for_head()
        if len(self.silent) > _SILENT_MAX:
            longest = next(iter(self.silent))
            del self.silent[longest]
            longest.transport.close()

    def data_received(self, data: bytes) -> None:
        self._loose += len(data)
        super().data_received(data)
        if self._loose > _HEAD_BYTES_MAX and not self.transport.is_closing():
            self.send_400_response("The head of this request is too long.")  # the parser would hold all of it
        if self.transport.get_protocol() is not self:
            return  # it is a websocket from here on
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_came()
        elif self._deadline is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._loose = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._loose = max(self._loose - _FRAMING_MAX * len(body), 0)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._loose = 0
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._head_came()  # what it says from here on is no head
        if isinstance(self.transport, Gathering):
            self.transport.flush()
            self.transport = self.transport.behind
        super().handle_websocket_upgrade()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._head_came()
        if not self.transport.is_closing():
            self.silent[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._late)
        self.silent[self] = None

    def _head_came(self) -> None:
        self.silent.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


def server(app: ASGIApp) -> uvicorn.Server:
    """A server for `app` that leaves signals, logging and sockets to its caller."""
    protocol: type[asyncio.Protocol] = type("Punctual", (Punctual,), {"silent": {}})
    settings = uvicorn.Config(
        app,
        http=protocol,
        ws=Talking,
        ws_max_size=WEBSOCKET_BYTES_MAX,
        ws_per_message_deflate=False,  # what is worth it is compressed already, and a bomb costs more than it brings
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=3,
        limit_concurrency=_CONNECTIONS_MAX,
    )
    return uvicorn.Server(settings)
