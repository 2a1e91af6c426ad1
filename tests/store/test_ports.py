"""Where a box listens: a socket that asyncio knows to be TCP."""

from __future__ import annotations

import asyncio
import socket

from store.ports import tcp_listener


async def test_what_is_accepted_does_not_wait_for_acknowledgements() -> None:
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made = writer.get_extra_info("socket")
        accepted.set_result(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    server = await asyncio.start_server(connected, sock=tcp_listener("http", "127.0.0.1", 0))
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    assert await accepted
    writer.close()
    server.close()
    await server.wait_closed()
