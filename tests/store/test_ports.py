"""Where a box listens: a socket that asyncio knows to be TCP."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from store.ports import free_port, tcp_listener


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


def test_a_wanted_port_is_had_if_it_is_free_and_another_if_not() -> None:
    free = free_port()
    assert free_port(free) == free
    with socket.create_server(("127.0.0.1", free)):
        assert free_port(free) not in (0, free)


def test_a_port_that_is_taken_for_datagrams_is_taken() -> None:
    free = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", free))
        assert free_port(free) not in (0, free)


def test_no_connection_outwards_takes_the_port_before_the_box_listens() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert not any(first <= free_port() <= last for _ in range(100))
