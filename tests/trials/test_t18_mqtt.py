"""T18, MQTT: a crowd that holds connections without a word, drips bytes, floods, sends what is no packet and does not read:
a device that keeps to the protocol is answered all the while, by MQTT and by HTTP, and the crowd is counted."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import cast
import pytest

from appliance.intake import mqtt_codec as codec
from appliance.intake.mqtt_codec import V5, Ack, Connect, Filter, Publish, Subscribe
from store.folder import Folder
from store.telemetry import History

SEED = int(os.environ.get("SEED", "20261129"))
PROBES = 20
RSS_BYTES_MAX = 256 * 1024 * 1024

pytestmark = [pytest.mark.trial, pytest.mark.timeout(300)]

HELLO = codec.encode(Connect(V5, "mallory"), V5)
Mischief = Callable[[asyncio.StreamReader, asyncio.StreamWriter, random.Random], Awaitable[None]]


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    await reader.read()


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    for byte in HELLO + b"\x30\xff\xff\x0b" + bytes(1_000):
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0.1)


async def announcing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    writer.write(HELLO + b"\x32\xff\xff\xff\x7f" + bytes(4_000))
    await reader.read()


async def garbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    writer.write(HELLO if rng.random() < 0.5 else b"")
    writer.write(rng.randbytes(2_000))
    await reader.read()


async def flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    """Thousands a second, for ever."""
    message = codec.encode(Publish("t", b'{"flood":1}', 0), V5) * 200
    writer.write(codec.encode(Connect(V5, f"flood-{rng.random()}"), V5))
    while True:
        writer.write(message)
        await writer.drain()
        await asyncio.sleep(0.05)  # the probe lives in this process, and has to have its turn


async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random) -> None:
    writer.write(codec.encode(Connect(V5, f"deaf-{rng.random()}"), V5))
    many = codec.encode(Subscribe(1, tuple(Filter(f"x/{number}") for number in range(100))), V5) * 10
    for _ in range(5_000):  # each is answered by 1 KiB that nobody reads
        writer.write(many)
        await asyncio.wait_for(writer.drain(), 30)


CROWD: dict[Mischief, int] = {silent: 200, dripping: 200, announcing: 50, garbling: 20, flooding: 2, deaf: 20}


async def misbehave(site: cast.Site, kind: Mischief, rng: random.Random, over: asyncio.Event) -> None:
    while not over.is_set():
        try:
            line = socket.socket()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            line.setblocking(False)
            await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", site.mqtt))
            reader, writer = await asyncio.open_connection(sock=line, limit=4_096)
            try:
                await kind(reader, writer, rng)
            finally:
                writer.transport.abort()
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(0.2)


async def probe(site: cast.Site) -> list[float]:
    """A device that keeps to the protocol: the seconds that each of its messages waited for its PUBACK."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.mqtt)
    writer.write(codec.encode(Connect(V5, "bob", keep_alive_s=60), V5))
    head = await reader.readexactly(2)
    await reader.readexactly(head[1])
    waits = []
    for number in range(1, PROBES + 1):
        began = time.monotonic()
        writer.write(codec.encode(Publish("t", b'{"probe":%d}' % number, 1, packet_id=number), V5))
        assert await asyncio.wait_for(reader.readexactly(4), 60) == codec.encode(Ack(codec.Kind.PUBACK, number), V5)
        waits.append(time.monotonic() - began)
        await asyncio.sleep(0.05)
        await asyncio.to_thread(site.call, "GET", "/readyz")
    writer.close()
    return waits


async def crowd(site: cast.Site) -> list[float]:
    over = asyncio.Event()
    tasks = [
        asyncio.create_task(misbehave(site, kind, random.Random(f"{SEED} {kind.__name__} {number}"), over))
        for kind, many in CROWD.items()
        for number in range(many)
    ]
    await asyncio.sleep(1.0)
    try:
        return await probe(site)
    finally:
        over.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_crowd_that_misbehaves_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    with cast.island(tmp_path / "alder") as site:
        waits = sorted(asyncio.run(crowd(site)))
        rss_bytes = site.rss_bytes()
        line = next(one for one in site.call("GET", "/intake?format=json")["lines"] if one["intake"] == "mqtt")
        refused = line["refused"]
        assert {"malformed packet", "protocol error", "too large"} <= set(refused), refused
        assert rss_bytes < RSS_BYTES_MAX
        assert site.stop() == 0
    page = History(Folder(tmp_path / "alder")).after(0, 1_000, frozenset(("mqtt/127.0.0.1/bob",)), seconds=60)
    assert [one.content for one in page.records] == [b'{"probe":%d}' % number for number in range(1, PROBES + 1)]
    half_ms, last_ms = waits[len(waits) // 2] * 1e3, waits[-1] * 1e3
    print(
        f"T18 MQTT seed {SEED}: {sum(CROWD.values())} at once, {dict(refused)}; {PROBES} probes answered,"
        f" the middle one in {half_ms:.0f} ms, the last in {last_ms:.0f} ms; RSS {rss_bytes >> 20} MiB"
    )
