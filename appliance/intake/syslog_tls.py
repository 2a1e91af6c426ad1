"""Syslog over TLS (RFC 5425): connections in, offers at the gate. Who sends is who its certificate says.

Rules of the file
  1  Frames are octet-counted, as the RFC has it; what a sender separates by line feeds is read too, as rsyslog does by
     default.
  2  A handshake has its own bound and deadline. When too many are under way the one that began first is cut off: those
     who dawdle keep nobody out.
  3  A full gate, or a bucket that is empty, stops the reading, and so pushes back to the sender.
  4  A connection ends as soon as its certificate is revoked or its time is over. One that may not come in is told by the
     end of its connection; what it sent until then is kept in quarantine.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence

from appliance.intake import syslog
from appliance.intake.device import Device, Doorkeeper, Turned
from appliance.intake.gate import Gate
from appliance.intake.syslog_listeners import INTAKE, SourceNames
from fleet import limits
from fleet.people import Unavailable
from store.frames import Offer
from store.ports import tcp_listener

TLS = "syslog-tls"
_READ_BYTES = 65_536
_GRACE_S = 1.0  # for one that is turned away to have its first message read
_PAUSE_S = 0.05
_BUCKET_PAUSE_S = 1.0


class TlsListener:
    def __init__(
        self,
        gate: Gate,
        host: str,
        port: int,
        context: ssl.SSLContext,
        doorkeeper: Doorkeeper,
        quarantine: Callable[[str, str, str, bytes], None],
        *,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._gate, self._context, self._doorkeeper = gate, context, doorkeeper
        self._quarantine, self._now_ns = quarantine, now_ns
        self._names = SourceNames(INTAKE)
        self._listener = tcp_listener(TLS, host, port)
        self._listener.setblocking(False)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshakes: OrderedDict[asyncio.Task[None], None] = OrderedDict()
        self._open: dict[str, set[asyncio.Transport]] = {}  # by credential
        self.connections = 0
        doorkeeper.on_revoked(self._revoked)

    def start(self) -> None:
        self._begin(self._accept())

    async def stop(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _revoked(self, credential: str) -> None:
        for transport in tuple(self._open.get(credential, ())):
            transport.abort()

    # -- coming in --------------------------------------------------------------------------------------------

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                line, peer = await loop.sock_accept(self._listener)
            except OSError:  # out of descriptors, or a peer that hung up at once
                await asyncio.sleep(_PAUSE_S)
                continue
            if self.connections >= limits.tcp_connections_max:
                self._gate.refuse(TLS, "too many connections")
                line.close()
                continue
            if len(self._handshakes) >= limits.tls_handshakes_max:
                oldest, _ = self._handshakes.popitem(last=False)
                oldest.cancel()
            task = self._begin(self._serve(line, str(peer[0])))
            self._handshakes[task] = None

    async def _serve(self, line: socket.socket, address: str) -> None:
        task, transport = asyncio.current_task(), None
        assert task is not None
        self.connections += 1
        reader = asyncio.StreamReader(limits.record_bytes_max)
        try:
            transport = await self._shake_hands(line, reader)
            self._handshakes.pop(task, None)
            if transport is not None:
                await self._attend(transport, reader, address)
        except asyncio.CancelledError:
            if transport is None:
                self._gate.refuse(TLS, "no handshake")
            raise
        finally:
            self._handshakes.pop(task, None)
            self.connections -= 1
            if transport is not None:  # else whoever failed to make one has closed the line
                transport.close()

    async def _shake_hands(self, line: socket.socket, reader: asyncio.StreamReader) -> asyncio.Transport | None:
        loop = asyncio.get_running_loop()
        line.setblocking(False)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: asyncio.StreamReaderProtocol(reader),
                line,
                ssl=self._context,
                ssl_handshake_timeout=limits.tls_handshake_seconds_max,
            )
        except ssl.SSLCertVerificationError:
            self._gate.refuse(TLS, "foreign certificate")
        except ssl.SSLError as error:
            missing = error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
            self._gate.refuse(TLS, Turned.MISSING if missing else "no handshake")
        except OSError:  # TimeoutError is one
            self._gate.refuse(TLS, "no handshake")
        else:
            return transport
        return None

    async def _attend(self, transport: asyncio.Transport, reader: asyncio.StreamReader, address: str) -> None:
        shown: ssl.SSLObject = transport.get_extra_info("ssl_object")
        der = shown.getpeercert(binary_form=True)
        try:
            who = await (self._doorkeeper.certificate(der, address) if der else self._doorkeeper.anonymous("", address))
        except (Unavailable, TimeoutError):  # the registry cannot be read now; the sender comes again
            self._gate.refuse(TLS, "registry unavailable")
            return
        if isinstance(who, Turned):
            await self._turn(who, reader, address)
            return
        self._open.setdefault(who.credential, set()).add(transport)  # no await since the answer: none slips through
        try:
            await self._read(who, reader)
        finally:
            held = self._open[who.credential]
            held.discard(transport)
            if not held:
                del self._open[who.credential]

    async def _turn(self, why: Turned, reader: asyncio.StreamReader, address: str) -> None:
        framer = syslog.Framer()
        sent = b""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                sent = await reader.read(_READ_BYTES)
        frames = [*framer.feed(sent), *framer.close()]
        self._gate.refuse(TLS, why, max(len(frames), 1))
        for frame in frames[: limits.quarantine_samples_max]:
            self._quarantine(INTAKE, self._names.key(address, syslog.sender(frame.raw)), why, frame.raw)

    # -- what comes -------------------------------------------------------------------------------------------

    async def _read(self, who: Device, reader: asyncio.StreamReader) -> None:
        framer = syslog.Framer()
        try:
            while True:
                async with asyncio.timeout(limits.tcp_idle_seconds_max):
                    data = await reader.read(_READ_BYTES)
                await self._offer(who, framer.feed(data) if data else framer.close())
                if not data:
                    return
        except (OSError, TimeoutError, asyncio.CancelledError):
            await self._offer(who, framer.close(), wait=False)

    async def _offer(self, who: Device, frames: Sequence[syslog.Frame], *, wait: bool = True) -> None:
        if not frames:
            return
        offers = [Offer(self._now_ns(), self._source(who, frame.raw), frame.raw, frame.marks) for frame in frames]
        size = sum(len(frame.raw) for frame in frames)
        if wait:
            await self._room(who, len(frames), size)
        while (reason := self._gate.offer(TLS, offers)) and wait and not self._gate.closed:
            # Not lost: the sender still has what we do not read. Only what is in our hands waits here.
            self._gate.tally(TLS).refused[reason] -= len(offers)
            try:
                await asyncio.sleep(_PAUSE_S)
            except asyncio.CancelledError:
                self._gate.refuse(TLS, "stopping", len(offers))
                raise

    async def _room(self, who: Device, messages: int, size: int) -> None:
        pause_s = self._doorkeeper.allow(who, messages, size)
        while pause_s and not self._gate.closed:
            await asyncio.sleep(min(pause_s, _BUCKET_PAUSE_S))
            pause_s = self._doorkeeper.allow(who, messages, size)

    def _source(self, who: Device, raw: bytes) -> str:
        """A relay that speaks for others has each of them told apart by the name in the message."""
        if not who.node_id:
            return self._names.key(who.address, syslog.sender(raw))
        return who.source(INTAKE, syslog.sender(raw) if who.gateway else "")
