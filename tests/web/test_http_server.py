"""A client that does not finish its request is let go; one that does is served on the same connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import httpx2
import pytest
from websockets.asyncio.client import connect

from web import http_server

LONG = bytes(range(256)) * 4_000


async def _app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        return
    if scope["path"] == "/echo":
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
        return
    if scope["path"] == "/long":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(LONG))]})
        for at in range(0, len(LONG), 10_000):
            await send({"type": "http.response.body", "body": LONG[at : at + 10_000], "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.3)
    listener = socket.create_server(("127.0.0.1", 0))
    server = http_server.server(_app)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield listener.getsockname()[1]
    server.should_exit = True
    await serving


async def test_a_head_that_never_ends_is_cut_off(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: al")
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()


async def test_a_second_head_that_never_ends_is_cut_off_too(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: alder\r\n\r\n")
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    writer.write(b"GET / HT")
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()


async def test_a_head_over_64_kib_is_refused_and_others_are_served(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nx: " + b"a" * 200_000)
    answer = b""
    with contextlib.suppress(ConnectionResetError):  # the rest of what we sent was never read
        answer = await asyncio.wait_for(reader.read(), 30)
    assert b" 400 " in answer or answer == b""
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: alder\r\n\r\n")
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_body_in_chunks_of_a_byte_comes_whole(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /echo HTTP/1.1\r\nhost: alder\r\ntransfer-encoding: chunked\r\n\r\n")
    writer.write(b"".join(b"1\r\n%c\r\n" % (97 + number % 26) for number in range(40_000)) + b"0\r\n\r\n")
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    assert answer.startswith(b"HTTP/1.1 200")
    assert len(await reader.readexactly(40_000)) == 40_000
    writer.close()


async def test_what_follows_a_body_in_chunks_is_bounded_too(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /echo HTTP/1.1\r\nhost: alder\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: ")
    answer = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for _ in range(100):
            writer.write(b"a" * 65_536)
            await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 30)
    assert b" 400 " in answer or answer == b""
    writer.close()


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/9.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["two lengths", "lengths that differ", "space before the colon", "folded", "not ascii", "version 9", "tls"],
)
async def test_what_can_be_read_in_two_ways_is_refused(port: int, said: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    answer = await asyncio.wait_for(reader.read(), 30)
    assert answer.startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_an_answer_longer_than_what_is_gathered_comes_whole(port: int) -> None:
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/long")
    assert answer.content == LONG


async def test_a_websocket_speaks_on_the_same_port(port: int) -> None:
    async with connect(f"ws://127.0.0.1:{port}/", proxy=None) as talk:
        for words in ("hello", "x" * 100_000):
            await talk.send(words)
            assert await asyncio.wait_for(talk.recv(), 30) == words
