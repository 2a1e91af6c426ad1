"""T18, HTTP: a crowd that drips heads, sends heads of 60 MB, forms of ten thousand fields, ten thousand ranges and guesses
at passwords. Whoever keeps to the protocol is answered all the while, at a site and at a hub, and memory stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import cast
import httpx2
import mainland
import pytest

from bench.mainland import rss_bytes

SEED = int(os.environ.get("SEED", "20261129"))
PROBES = 20
RSS_BYTES_MAX = 256 * 1024 * 1024
FORM = "content-type: application/x-www-form-urlencoded\r\n"
PARTS = "content-type: multipart/form-data; boundary=b\r\n"

pytestmark = [pytest.mark.trial, pytest.mark.timeout(300)]

Mischief = Callable[[asyncio.StreamReader, asyncio.StreamWriter, random.Random], Awaitable[None]]


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    await reader.read()


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    writer.write(b"GET / HTTP/1.1\r\nx: ")
    for _ in range(1_000):
        await asyncio.sleep(2 + 2 * rng.random())
        writer.write(b"a")
        await writer.drain()


async def dawdling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    """Over a body."""
    writer.write(b"POST /v1/ingest HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{")
    await reader.read()


async def boasting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    """With a head of 60 MB."""
    writer.write(b"GET / HTTP/1.1\r\nx: ")
    for _ in range(60 * 16):
        writer.write(b"a" * 65_536)
        await writer.drain()


async def forms(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    if rng.random() < 0.5:
        kind, body = FORM, b"&".join(b"k%d=v" % number for number in range(10_000))
    else:
        kind, body = (
            PARTS,
            b"".join(b'--b\r\ncontent-disposition: form-data; name="k"\r\n\r\nv\r\n' for _ in range(10_000)),
        )
    writer.write(f"POST /login HTTP/1.1\r\nhost: a\r\n{kind}content-length: {len(body)}\r\n\r\n".encode() + body)
    await reader.read(4_096)


async def ranges(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    wanted = ",".join(f"{number}-{number}" for number in range(10_000))
    writer.write(f"GET /static/skerry.css HTTP/1.1\r\nhost: a\r\nrange: bytes={wanted}\r\n\r\n".encode())
    await reader.read(1 << 20)


async def guessing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    body = f"name=alice&password=guess-{rng.random()}".encode()
    writer.write(f"POST /login HTTP/1.1\r\nhost: a\r\n{FORM}content-length: {len(body)}\r\n\r\n".encode() + body)
    await reader.read(4_096)


CROWD: dict[Mischief, int] = {
    silent: 1_000, dripping: 1_000, dawdling: 100, boasting: 8, forms: 4, ranges: 4, guessing: 4,
}  # fmt: skip


async def misbehave(port: int, kind: Mischief, rng: random.Random, over: asyncio.Event) -> None:
    while not over.is_set():
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(cast.MALLORY, 0))
            try:
                await asyncio.wait_for(kind(reader, writer, rng), 60)
            finally:
                writer.close()
        await asyncio.sleep(1)


@pytest.fixture(params=["alder", "harbor"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, int, Callable[[], str]]]:
    """Its HTTP port, its process, and what it said."""
    if request.param == "alder":
        with cast.island(tmp_path / "alder") as site:
            yield site.http, site.process.pid, site.said
    else:
        with mainland.mainland(tmp_path) as (hub,):
            yield int(hub.http.rpartition(":")[2]), hub.process.pid, hub.said


async def test_a_crowd_of_two_thousand_keeps_nobody_out(box: tuple[int, int, Callable[[], str]]) -> None:
    port, pid, said = box
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 10_000)), hard))
    rng, over = random.Random(SEED), asyncio.Event()
    crowd = [
        asyncio.create_task(misbehave(port, kind, random.Random(rng.random()), over))
        for kind, many in CROWD.items()
        for _ in range(many)
    ]
    most = 0
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as bob:
            for _ in range(PROBES):
                await asyncio.sleep(0.5)
                answer = await bob.get("/healthz", headers={"connection": "close"})
                assert answer.status_code == 200, answer.text
                most = max(most, rss_bytes(pid))
    finally:
        over.set()
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    assert most < RSS_BYTES_MAX, f"{most / 1e6:.0f} MB"
    assert "Traceback" not in said()


async def test_guesses_from_one_address_lock_nobody_else_out(tmp_path: Path) -> None:
    with cast.island(tmp_path / "alder") as site:
        site.call("POST", "/api/v1/accounts", {"name": "alice", "role": "admin", "password": cast.PASSWORD})
        over = asyncio.Event()
        crowd = [asyncio.create_task(misbehave(site.http, guessing, random.Random(n), over)) for n in range(8)]
        try:
            await asyncio.sleep(3)
            line = httpx2.AsyncHTTPTransport(local_address=cast.BOB)
            async with httpx2.AsyncClient(base_url=site.url, timeout=30, trust_env=False, transport=line) as alice:
                answer = await alice.post("/login", data={"name": "alice", "password": cast.PASSWORD})
            assert answer.status_code == 303, answer.text
        finally:
            over.set()
            for task in crowd:
                task.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)
