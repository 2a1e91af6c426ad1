"""How does a bad line behave? A proxy in front of a real TCP port, on a thread of its own, that behaves like one.

    far = Way(delay_s=0.3, bytes_per_s=21_000)
    proxy = Proxy(("127.0.0.1", 4222), up=far, down=far)
    with proxy: ... connect to proxy.port ...

`up` is what the client sends. What a `Way` says may be changed at any time (`proxy.up = Way(...)`). Delay does not
limit throughput: bytes are read as fast as the rate allows and given on when they are due. Nothing is read ahead of the
rate, and kernel buffers are small when there is one, so the sender feels it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass
from typing import Self

_PIECE_BYTES_MAX = 64 * 1024
_TICK_S = 0.02  # a piece takes about this long at the rate
_FLYING_BYTES_MAX = 64 * 1024 * 1024  # on a way with a delay and no rate
_BUFFER_BYTES = 4 * 1024  # of a socket on a way with a rate; the kernel doubles it and rounds up
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


@dataclass(frozen=True)
class Way:
    delay_s: float = 0.0
    bytes_per_s: float = 0.0  # 0: as fast as it goes
    stall_chance: float = 0.0  # of every piece
    stall_s_max: float = 1.0


class Pacer:
    """When may the next bytes go, at so many a second? A clock of its own: being late once is made good afterwards."""

    def __init__(self, lag_s_max: float = 0.1) -> None:
        self._free_s = 0.0
        self._lag_s_max = lag_s_max

    def due_s(self, size: int, bytes_per_s: float, now_s: float) -> float:
        """When `size` bytes that are there now have passed."""
        if bytes_per_s <= 0:
            return now_s
        self._free_s = max(self._free_s, now_s - self._lag_s_max) + size / bytes_per_s
        return max(self._free_s, now_s)


class Proxy:
    """Bytes that passed are counted in `passed_up` and `passed_down`."""

    def __init__(self, target: tuple[str, int], up: Way = Way(), down: Way = Way(), seed: int = 0) -> None:
        self.target, self.up, self.down = target, up, down
        self.passed_up = self.passed_down = 0
        self.port = 0
        self.connections = 0
        self._swallows = self._is_cut = False
        self._dice = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._listening = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    # -- faults, from any thread ---------------------------------------------------------------------------------

    def cut(self) -> None:
        """Close every connection, and every new one."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._drop, False)

    def reset(self) -> None:
        """Every connection ends with RST, in the middle of whatever goes on; new ones are welcome."""
        self._loop.call_soon_threadsafe(self._drop, True)

    def swallow(self) -> None:
        """Half open: both sides may send, nothing arrives, nothing is closed."""
        self._swallows = True

    def restore(self) -> None:
        """As if nothing had been. Connections that were swallowed from stay deaf: bytes are missing in them."""
        self._is_cut = False
        if self._swallows:
            self._swallows = False
            self._loop.call_soon_threadsafe(self._drop, True)

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.up.bytes_per_s:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)  # inherited by what it accepts
            listener.bind(("127.0.0.1", self.port))
            listener.listen(64)
            listener.setblocking(False)
            self.port = listener.getsockname()[1]
            self._listening.set()
            accepting = asyncio.create_task(self._accept(listener))
            await self._stop.wait()
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
        self._drop(False)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = await self._loop.sock_accept(listener)
            if self._is_cut:
                client.close()
                continue
            self.connections += 1
            task = asyncio.create_task(self._pair(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pair(self, client: socket.socket) -> None:
        server = socket.socket()
        self._sockets |= {client, server}
        try:
            for one in (client, server):
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.down.bytes_per_s:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            await self._loop.sock_connect(server, self.target)
            ways = [asyncio.create_task(self._way(client, server, True))]
            ways.append(asyncio.create_task(self._way(server, client, False)))
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass
        finally:
            self._sockets -= {client, server}
            client.close()
            server.close()

    async def _way(self, source: socket.socket, sink: socket.socket, upward: bool) -> None:
        """Until the source ends, and all that it sent is delivered."""
        flight, pacer = _Flight(), Pacer()
        giving = asyncio.create_task(self._give(sink, flight, upward))
        try:
            while not giving.done():
                way = self.up if upward else self.down
                piece = _PIECE_BYTES_MAX
                if way.bytes_per_s:
                    piece = min(max(int(way.bytes_per_s * _TICK_S), 64), piece)
                raw = await self._loop.sock_recv(source, piece)
                while self._swallows and not raw:
                    await asyncio.sleep(_TICK_S)
                if self._swallows:
                    continue
                now_s = self._loop.time()
                passed_s = pacer.due_s(len(raw), way.bytes_per_s, now_s)
                if way.stall_chance and self._dice.random() < way.stall_chance:
                    passed_s += self._dice.uniform(0, way.stall_s_max)
                flight.add(passed_s + way.delay_s, raw)
                if not raw:
                    break
                await asyncio.sleep(max(passed_s - now_s, 0))
                await flight.has_room()
            await giving
        finally:
            giving.cancel()

    async def _give(self, sink: socket.socket, flight: _Flight, upward: bool) -> None:
        while True:
            due_s, raw = await flight.first()
            if (wait_s := due_s - self._loop.time()) > 0:
                await asyncio.sleep(wait_s)
            if not raw:
                return
            await self._loop.sock_sendall(sink, raw)
            flight.landed()
            if upward:
                self.passed_up += len(raw)
            else:
                self.passed_down += len(raw)

    def _drop(self, reset: bool) -> None:
        for one in self._sockets:
            if reset:
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        for task in self._tasks:
            task.cancel()


class _Flight:
    """Bytes on their way, first in, first out; empty ones are the end."""

    def __init__(self) -> None:
        self._parts: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._more, self._room = asyncio.Event(), asyncio.Event()

    def add(self, due_s: float, raw: bytes) -> None:
        self._parts.append((due_s, raw))
        self._bytes += len(raw)
        self._more.set()

    async def first(self) -> tuple[float, bytes]:
        while not self._parts:
            self._more.clear()
            await self._more.wait()
        return self._parts[0]

    def landed(self) -> None:
        self._bytes -= len(self._parts.popleft()[1])
        self._room.set()

    async def has_room(self) -> None:
        while self._bytes > _FLYING_BYTES_MAX:
            self._room.clear()
            await self._room.wait()
