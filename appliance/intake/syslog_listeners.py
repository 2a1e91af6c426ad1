"""Syslog over UDP and TCP: sockets in, offers at the gate. What the bytes mean is `syslog`'s business.

UDP is drained by a thread of its own as fast as the kernel hands it over; what the gate refuses, and what the kernel
dropped before we came, is counted. TCP is served on the event loop; a full gate stops the reading, and so pushes back
to the sender.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable

from appliance.intake import syslog
from appliance.intake.gate import Gate
from fleet import limits
from store.frames import Offer
from store.ports import listen_problem
from store.supervisor import Loop

UDP = "syslog-udp"
TCP = "syslog-tcp"
INTAKE = "syslog"  # one source, whichever transport carries it

_DRAIN_RECORDS = 2_048
_DRAIN_BYTES = 4 * 1024 * 1024  # an offer is taken whole or not at all, so it must be small beside the gate
_RECEIVE_BUFFER_BYTES = 128 * 1024 * 1024
_SO_MEMINFO = 55  # asm-generic/socket.h; nine u32, the ninth counts drops (sk_meminfo, SK_MEMINFO_DROPS)
_SO_RCVBUFFORCE = 33
_SENDERS_MAX = 65_536


class SourceNames:
    """Source keys by (address, name), kept so that one is made once. Bounded: beyond it a name no longer counts."""

    def __init__(self, intake: str) -> None:
        self._intake = intake
        self._keys: dict[tuple[str, str], str] = {}

    def key(self, address: str, name: str) -> str:
        held = self._keys.get((address, name))
        if held is None:
            if len(self._keys) >= limits.sources_max and name:
                return self.key(address, "")
            if len(self._keys) >= _SENDERS_MAX:
                self._keys.clear()
            held = self._keys[address, name] = f"{self._intake}/{address}/{name}"
        return held


class UdpListener:
    def __init__(self, gate: Gate, host: str, port: int, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.kernel_drops = 0
        self._gate, self._now_ns = gate, now_ns
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise listen_problem(UDP, host, port, error) from error
        _widen(self._socket)
        self._socket.setblocking(False)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._names = SourceNames(INTAKE)
        self._stopping = False
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self.loop = Loop(UDP, self._turn)

    def start(self) -> None:
        self.loop.start()

    def stop(self) -> None:
        """Take what already arrived, then close."""
        self._stopping = True
        self.loop.join()
        self._socket.close()

    def _turn(self) -> bool:
        if self._poll.poll(250):
            while self._drain():
                pass
        self._count_drops()
        return not self._stopping

    def _drain(self) -> bool:
        """One slice of what waits in the kernel; whether there may be more."""
        receive, key, sender = self._socket.recvfrom, self._names.key, syslog.sender
        offers: list[Offer] = []
        now_ns, size = self._now_ns(), 0
        more = False
        try:
            for _ in range(_DRAIN_RECORDS):
                raw, peer = receive(65_536)  # no datagram is longer: RFC 5426 3.2 leaves the bound to IP
                offers.append(Offer(now_ns, key(peer[0], sender(raw)), raw))
                size += len(raw)
                if size >= _DRAIN_BYTES:
                    break
            more = True
        except BlockingIOError:
            pass
        except OSError:  # an ICMP error of an earlier answer; the socket itself stands
            more = not self._stopping
        if offers:
            self._gate.offer(UDP, offers)
        return more

    def _count_drops(self) -> None:
        """What the kernel threw away because we were too slow: known loss is better than loss."""
        raw = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
        drops = struct.unpack("9I", raw)[8]
        if drops != self.kernel_drops:
            self._gate.refuse(UDP, "kernel buffer full", (drops - self.kernel_drops) & 0xFFFF_FFFF)
            self.kernel_drops = drops


def _widen(listener: socket.socket) -> None:
    """A receive buffer for a burst: by force where this user may, as far as the kernel allows otherwise."""
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except OSError:
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)


class TcpListener:
    def __init__(self, gate: Gate, host: str, port: int, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.connections = 0
        self._gate, self._host, self._port, self._now_ns = gate, host, port, now_ns
        self._names = SourceNames(INTAKE)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = (host, port)

    async def start(self) -> None:
        try:
            self._server = await asyncio.start_server(
                self._serve, self._host, self._port, limit=limits.record_bytes_max
            )
        except OSError as error:
            raise listen_problem(TCP, self._host, self._port, error) from error
        self.address = self._server.sockets[0].getsockname()[:2]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.connections >= limits.tcp_connections_max:
            self._gate.refuse(TCP, "too many connections")
            writer.close()
            return
        self.connections += 1
        self._tasks.add(task)
        address = writer.get_extra_info("peername")[0]
        framer = syslog.Framer()
        try:
            while True:
                async with asyncio.timeout(limits.tcp_idle_seconds_max):
                    data = await reader.read(65_536)
                await self._offer(address, framer.feed(data) if data else framer.close())
                if not data:
                    return
        except (OSError, TimeoutError, asyncio.CancelledError):
            await self._offer(address, framer.close(), wait=False)
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.close()

    async def _offer(self, address: str, frames: list[syslog.Frame], *, wait: bool = True) -> None:
        if not frames:
            return
        now_ns = self._now_ns()
        offers = [Offer(now_ns, self._names.key(address, syslog.sender(raw)), raw, marks) for raw, marks in frames]
        while (reason := self._gate.offer(TCP, offers)) and wait and not self._gate.closed:
            # Not lost: the sender still has what we do not read. Only what is in our hands waits here.
            self._gate.tally(TCP).refused[reason] -= len(offers)
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                self._gate.refuse(TCP, "stopping", len(offers))
                raise
