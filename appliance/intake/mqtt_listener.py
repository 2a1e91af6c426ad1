"""MQTT on the wire: TCP, TLS and WebSocket in, offers at the gate, PUBACK only after the commit.

What the bytes mean is `mqtt_session`'s business; this module moves them, and pushes back.

Rules of the file
  1  A connection is not read while: it is found out who it is; the gate is full; its device's bucket is empty; it does
     not read itself; too much of it waits for its commit; the others have their turn. What is not read waits at the
     sender: TCP tells it so.
  2  When the disk refuses there is no PUBACK, and the connection ends (MQTT 5: DISCONNECT 0x97), so that the device keeps
     what it has. A PUBACK with a reason would make it forget the message. Until the disk takes writes again a CONNECT is
     answered 0x88, or 3 in 3.1.1.
  3  One `Gate.offer` for all that one read brought, one write for all its answers, one wake-up of the loop for all
     batches of one commit.
  4  Whoever stalls, floods or breaks the protocol is cut off alone, and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import secrets
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from enum import IntFlag
from functools import partial

from starlette.websockets import WebSocket, WebSocketDisconnect

from appliance.intake import mqtt_codec as codec
from appliance.intake.device import PROVISION, Device, DeviceApi, Doorkeeper, Turned
from appliance.intake.gate import Gate, Outcome, Stored
from appliance.intake.mqtt_codec import Reason
from appliance.intake.mqtt_session import INTAKE, Batch, Connection, Said, Sessions, Terms
from fleet import limits
from fleet.limits import SECOND
from store.ports import listen_problem
from web.policy import Policy, Talk

log = logging.getLogger(__name__)

WEBSOCKET_PATH = "/mqtt"
_TICK_S = 1.0
_GATE_RETRY_S = 0.02
_HANDSHAKE_S = 10.0
_READ_BYTES = 64 * 1024  # of one connection, before the others have their turn
_CLOSE_S = 2.0  # for the last words to leave
_FULL = "gate full"
_SPARE_FILES = 1_024  # descriptors for everything that is no MQTT connection

Quarantine = Callable[[str, str, str, bytes], None]


class Held(IntFlag):
    """Why a connection is not read."""

    ASKING = 1
    GATE = 2
    BUCKET = 4
    UNREAD = 8
    UNACKED = 16
    TURN = 32


class Endpoint:
    """All MQTT connections of a box, whichever way they come."""

    def __init__(
        self,
        gate: Gate,
        door: Doorkeeper,
        api: DeviceApi,
        quarantine: Quarantine,
        *,
        terms: Terms,
        connections_max: int,
        now_ns: Callable[[], int] = time.time_ns,
        steady_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.gate, self.door, self.api = gate, door, api
        self.now_ns, self.steady_ns = now_ns, steady_ns
        self.sessions = Sessions(api, door.allow, lambda: f"skerry-{secrets.token_hex(8)}", terms)
        self.peers: set[Peer] = set()
        self.partial_bytes = 0  # of packets that are not all there
        self.buffer = memoryview(bytearray(_READ_BYTES))  # for all: what one read brought is taken out of it at once
        self.waiting: deque[Peer] = deque()  # for room at the gate, in the order in which they came
        self.connections_max = connections_max
        self._quarantine = quarantine
        self._servers: list[asyncio.Server] = []
        self._landed: deque[tuple[Peer, Batch, Outcome]] = deque()
        self._landing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        door.on_revoked(self._revoked)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> tuple[str, int]:
        """Take connections; where. ListenProblem when the address cannot be had."""
        _raise_files(self.connections_max)
        try:
            server = await self.loop.create_server(
                lambda: TcpPeer(self), host, port, ssl=tls, ssl_handshake_timeout=_HANDSHAKE_S if tls else None,
                backlog=1024,
            )  # fmt: skip
        except OSError as error:
            raise listen_problem("mqtt", host, port, error) from error
        self._servers.append(server)
        address: tuple[str, int] = server.sockets[0].getsockname()[:2]
        return address

    def talks(self) -> tuple[Talk, ...]:
        """The row for MQTT over WebSocket; who it is, the CONNECT says."""
        return (Talk(WEBSOCKET_PATH, self._talk, Policy.PUBLIC),)

    async def run(self) -> None:
        """The clock of everything that waits."""
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick()

    def tick(self) -> None:
        now_ns, at_ns = self.steady_ns(), self.now_ns()
        for peer in tuple(self.peers):
            peer.tick(now_ns, at_ns)
        self.sessions.tick(now_ns, at_ns)
        self.settle()

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for peer in tuple(self.peers):
            peer.cut(Reason.SHUTTING_DOWN, "the appliance stops; what was not acknowledged is to be sent again")
            peer.give_up()
        self.settle()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def wait_for_room(self, peer: Peer) -> None:
        self.waiting.append(peer)
        if len(self.waiting) == 1:
            self.loop.call_later(_GATE_RETRY_S, self._make_room)

    def _make_room(self) -> None:
        while self.waiting and self.waiting[0].again():
            self.waiting.popleft()
        if self.waiting:
            self.loop.call_later(_GATE_RETRY_S, self._make_room)

    # -- for peers ------------------------------------------------------------------------------------------------

    def task(self, peer: Peer, wish: codec.Connect) -> None:
        task = self.loop.create_task(self._ask(peer, wish))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, peer: Peer, wish: codec.Connect) -> None:
        try:
            who = await self._who(peer, wish)
        except Exception:
            log.exception("who is at %s cannot be found out", peer.address)
            peer.cut(Reason.UNAVAILABLE, "this cannot be found out just now")
            return
        fault = self.gate.fault
        peer.admit(wish, who, str(fault) if fault is not None else "")

    async def _who(self, peer: Peer, wish: codec.Connect) -> Device | Turned:
        password = (wish.password or b"").decode(errors="replace")
        if wish.user == PROVISION and not password:
            return Device("", PROVISION, PROVISION, address=peer.address)
        if wish.user is not None and password:
            return await self.door.password(wish.user, password, wish.client_id, peer.address)
        if wish.user:
            return await self.door.token(wish.user, peer.address)
        if password:  # of MQTT 5, without a user name
            return await self.door.token(password, peer.address)
        if wish.user is None and peer.certificate:
            return await self.door.certificate(peer.certificate, peer.address)
        return await self.door.anonymous(wish.client_id, peer.address)

    def offer(self, peer: Peer, batch: Batch) -> str | None:
        """At the gate; the reason why not."""
        if not batch.acks:
            return self.gate.offer(INTAKE, batch.offers)
        return self.gate.offer(INTAKE, batch.offers, partial(self._done, peer, batch))

    def _done(self, peer: Peer, batch: Batch, outcome: Outcome) -> None:
        """On the recorder's thread: whatever it commits together is answered in one go."""
        self._landed.append((peer, batch, outcome))
        if not self._landing:
            self._landing = True
            assert self._loop is not None
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it everybody who waited
                self._loop.call_soon_threadsafe(self._land)

    def _land(self) -> None:
        self._landing = False
        touched: dict[Peer, None] = {}
        while self._landed:
            peer, batch, outcome = self._landed.popleft()
            peer.connection.landed(batch, isinstance(outcome, Stored))
            if not isinstance(outcome, Stored):
                peer.refused_by_disk(str(outcome))
            touched[peer] = None
        for peer in touched:
            peer.after()
        self.settle()

    def count(self, said: list[Said]) -> None:
        refused = self.gate.tally(INTAKE).refused
        for one in said:
            self.gate.refuse(INTAKE, one.reason, one.messages)
            if one.raw and not (one.sample and refused[one.reason] > limits.quarantine_samples_max):
                self._quarantine(INTAKE, one.source, one.reason, one.raw)
        said.clear()

    def settle(self) -> None:
        """What one connection's packet meant for others, and what wills left."""
        sessions = self.sessions
        while sessions.touched:
            connection = sessions.touched.pop()
            line = connection.line
            if isinstance(line, Peer):
                line.after()
        if sessions.refused:
            self.count(sessions.refused)
        if sessions.orphans:
            orphans, sessions.orphans = sessions.orphans, []
            if self.gate.offer(INTAKE, orphans) == _FULL and len(orphans) < limits.mqtt_sessions_max:
                self.gate.tally(INTAKE).refused[_FULL] -= len(orphans)
                sessions.orphans = orphans  # with the next tick

    def _revoked(self, credential: str) -> None:
        self.sessions.revoke(credential, self.steady_ns(), self.now_ns())
        self.settle()

    # -- WebSocket ------------------------------------------------------------------------------------------------

    async def _talk(self, socket: WebSocket) -> None:
        if "mqtt" not in socket.scope.get("subprotocols", ()):
            await socket.close(1002, "offer the subprotocol mqtt")
            return
        await socket.accept("mqtt")
        peer = WebSocketPeer(self, socket)
        await peer.talk()


def _raise_files(connections_max: int) -> None:
    """As many descriptors as connections may come, as far as this user may have them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(connections_max + _SPARE_FILES, hard)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Peer:
    """One connection, however it comes: a `Line` for the device API, and what moves bytes for the decider."""

    __slots__ = ("_held", "_kept", "_partial", "address", "certificate", "connection", "device", "endpoint", "known",
                 "unread_ns")  # fmt: skip

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.address = ""
        self.certificate = b""
        self.device = Device("", "")
        self.known = False  # the API was told of it
        self.connection = Connection(endpoint.sessions, self, endpoint.steady_ns())
        self._held = Held(0)
        self._kept: Batch | None = None  # what the gate had no room for
        self._partial = 0
        self.unread_ns = 0

    # -- how it is done, which each way in knows ------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def unread(self) -> int:
        """Bytes written that did not leave."""
        raise NotImplementedError

    def stop_reading(self) -> None:
        raise NotImplementedError

    def go_on_reading(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Once what was written has left."""
        raise NotImplementedError

    # -- the same for all -----------------------------------------------------------------------------------------

    def came(self) -> bool:
        """Whether there is room for one more."""
        endpoint = self.endpoint
        if len(endpoint.peers) >= endpoint.connections_max:
            endpoint.gate.refuse(INTAKE, "too many connections")
            return False
        endpoint.peers.add(self)
        return True

    def feed(self, data: bytes) -> None:
        endpoint = self.endpoint
        self.connection.receive(data, endpoint.steady_ns(), endpoint.now_ns())
        self.after()

    def admit(self, wish: codec.Connect, who: Device | Turned, fault: str) -> None:
        endpoint = self.endpoint
        if isinstance(who, Device):
            self.device = who
        self._let(Held.ASKING)
        self.connection.admit(wish, who, endpoint.steady_ns(), endpoint.now_ns(), fault)
        if self.connection.session is not None and not self.known:
            self.known = True  # also when it has ended already: it may have come back to what it had
            if not self.connection.ended:
                endpoint.api.opened(self)
        self.after()
        endpoint.settle()

    def send(self, topic: str, payload: bytes) -> bool:
        sent = self.connection.send(topic, payload)
        if self.connection.ended:
            self.endpoint.settle()  # it may have gone out on the line that the client is on now
        elif sent:
            self._flush()
        return sent

    def cut(self, reason: Reason, words: str) -> None:
        endpoint = self.endpoint
        self.connection.end(reason, words, endpoint.steady_ns(), endpoint.now_ns())
        self.after()

    def refused_by_disk(self, words: str) -> None:
        endpoint = self.endpoint
        self.connection.end(Reason.QUOTA, words, endpoint.steady_ns(), endpoint.now_ns())

    def gone(self) -> None:
        """The network connection is no more."""
        endpoint = self.endpoint
        endpoint.peers.discard(self)
        self.connection.lost(endpoint.steady_ns(), endpoint.now_ns())
        self.after()
        endpoint.settle()

    def tick(self, now_ns: int, at_ns: int) -> None:
        if self.unread_ns and now_ns - self.unread_ns > limits.mqtt_unread_seconds_max * SECOND:
            self.stalled()
        elif not self._held:
            self.connection.tick(now_ns, at_ns)
            if self.connection.ended:
                self.after()

    def stalled(self) -> None:
        """It does not read what is sent to it: there is no use in telling it."""
        endpoint = self.endpoint
        endpoint.gate.refuse(INTAKE, "does not read")
        self.connection.lost(endpoint.steady_ns(), endpoint.now_ns())
        self.after()

    def after(self) -> None:
        """Do what the decider left to do."""
        connection, endpoint = self.connection, self.endpoint
        batch = connection.take()
        if batch is not None:
            self._store(batch)
        if connection.out:
            self._flush()
        if connection.said:
            endpoint.count(connection.said)
        if connection.asked is not None:
            wish, connection.asked = connection.asked, None
            self._hold(Held.ASKING)
            endpoint.task(self, wish)
        if connection.wait_s and not self._held & Held.BUCKET:
            self._hold(Held.BUCKET)
            endpoint.loop.call_later(connection.wait_s, self._resume)
        if connection.more and not self._held & Held.TURN:
            self._hold(Held.TURN)
            endpoint.loop.call_soon(self._go_on)
        if (connection.unacked >= limits.mqtt_unacked_max) != bool(self._held & Held.UNACKED):
            (self._let if self._held & Held.UNACKED else self._hold)(Held.UNACKED)
        self._count_partial()
        if connection.ended:
            if self.known:
                self.known = False
                endpoint.api.closed(self)
            endpoint.peers.discard(self)
            self.close()

    def _count_partial(self) -> None:
        connection, endpoint = self.connection, self.endpoint
        now = connection.rest_bytes
        if now == self._partial:
            return
        endpoint.partial_bytes += now - self._partial
        grows, self._partial = now > self._partial, now
        if grows and endpoint.partial_bytes > limits.mqtt_partial_bytes_max:
            endpoint.gate.refuse(INTAKE, "too many packets begun")
            self.cut(Reason.BUSY, "too many large packets come in at once; send it again later")

    def _store(self, batch: Batch) -> None:
        if not batch.offers:
            self.connection.landed(batch, True)
        elif self.endpoint.waiting or not self._offered(batch):
            self._kept = batch
            self._hold(Held.GATE)
            self.endpoint.wait_for_room(self)

    def _offered(self, batch: Batch) -> bool:
        """Whether the gate has judged it: False while it has no room."""
        reason = self.endpoint.offer(self, batch)
        if reason == _FULL:
            # Not lost: the sender still has what we do not read. Only what is in our hands waits here.
            self.endpoint.gate.tally(INTAKE).refused[reason] -= len(batch.offers)
            return False
        if reason is not None:
            self.connection.landed(batch, False)
            self.refused_by_disk(str(self.endpoint.gate.fault or "the appliance stops"))
        return True

    def again(self) -> bool:
        """Whether what was kept has passed the gate, or was given up."""
        batch = self._kept
        if batch is not None:
            if not self._offered(batch):
                return False
            self._kept = None
            self._let(Held.GATE)
            self.after()
        return True

    def _go_on(self) -> None:
        endpoint = self.endpoint
        if self._kept is not None:
            endpoint.loop.call_later(_GATE_RETRY_S, self._go_on)
            return
        self._let(Held.TURN)
        self.connection.go_on(endpoint.steady_ns(), endpoint.now_ns())
        self.after()

    def give_up(self) -> None:
        """What the gate has no room for will not be stored."""
        batch, self._kept = self._kept, None
        if batch is not None:
            self.endpoint.gate.refuse(INTAKE, "stopping", len(batch.offers))

    def _resume(self) -> None:
        endpoint = self.endpoint
        if self._kept is not None:  # what came before has its turn first
            endpoint.loop.call_later(_GATE_RETRY_S, self._resume)
            return
        self._let(Held.BUCKET)
        self.connection.resume(endpoint.steady_ns(), endpoint.now_ns())
        self.after()

    def _flush(self) -> None:
        out, self.connection.out = self.connection.out, []
        self.write(out[0] if len(out) == 1 else b"".join(out))
        if self.unread() > limits.mqtt_unread_bytes_max:
            self.stalled()

    def _hold(self, why: Held) -> None:
        if not self._held:
            self.stop_reading()
        self._held |= why

    def _let(self, why: Held) -> None:
        was, self._held = self._held, self._held & ~why
        if was and not self._held:
            if self.connection.session is not None:
                self.connection.heard_ns = self.endpoint.steady_ns()  # that nothing was read was our doing
            self.go_on_reading()

    def full(self) -> None:
        """It reads slower than we write."""
        self.unread_ns = self.endpoint.steady_ns()
        self._hold(Held.UNREAD)

    def empty(self) -> None:
        self.unread_ns = 0
        self._let(Held.UNREAD)


class TcpPeer(Peer, asyncio.BufferedProtocol):
    __slots__ = ("transport",)

    transport: asyncio.Transport

    def __init__(self, endpoint: Endpoint) -> None:
        Peer.__init__(self, endpoint)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.address = (transport.get_extra_info("peername") or ("",))[0]
        if not self.came():
            transport.abort()
            return
        line: socket.socket = transport.get_extra_info("socket")
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # for those that asked for no keep alive
        encrypted: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if encrypted is not None:
            self.certificate = encrypted.getpeercert(True) or b""

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.endpoint.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.feed(bytes(self.endpoint.buffer[:nbytes]))

    def connection_lost(self, error: Exception | None) -> None:
        self.gone()

    def pause_writing(self) -> None:
        self.full()

    def resume_writing(self) -> None:
        self.empty()

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def unread(self) -> int:
        return self.transport.get_write_buffer_size()

    def stop_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def go_on_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
            if self.transport.get_write_buffer_size():  # whoever does not read his last words is not waited for
                self.endpoint.loop.call_later(_CLOSE_S, self.transport.abort)


_UNREAD_BYTES = 64 * 1024  # above it a WebSocket counts as not read, as asyncio's transports do


class WebSocketPeer(Peer):
    """Binary frames, whose bounds mean nothing to MQTT [6]."""

    __slots__ = ("_closing", "_free", "_out", "_out_bytes", "_socket", "_wake")

    def __init__(self, endpoint: Endpoint, socket: WebSocket) -> None:
        super().__init__(endpoint)
        self._socket = socket
        self.address = socket.client.host if socket.client is not None else ""
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._wake, self._free = asyncio.Event(), asyncio.Event()
        self._free.set()
        self._closing = False

    async def talk(self) -> None:
        if not self.came():
            await self._socket.close(1013)
            return
        writer = asyncio.create_task(self._write_on())
        try:
            while not self._closing:
                await self._free.wait()
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                data = message.get("bytes")
                if data is None:
                    self.endpoint.gate.refuse(INTAKE, "malformed packet")
                    self.cut(Reason.MALFORMED, "MQTT over WebSocket comes in binary frames")
                else:
                    self.feed(data)
        finally:
            self.gone()
            self.close()
            await asyncio.wait((writer,), timeout=_CLOSE_S)
            writer.cancel()

    async def _write_on(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):  # it is gone; the reader hears of it too
            while not self._closing or self._out:
                await self._wake.wait()
                self._wake.clear()
                if self._out:
                    out, self._out = self._out, []
                    await self._socket.send_bytes(b"".join(out))
                    self._out_bytes -= sum(map(len, out))
                    if self.unread_ns and self._out_bytes <= _UNREAD_BYTES:
                        self.empty()
            await self._socket.close()

    def write(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)
        self._wake.set()
        if self._out_bytes > _UNREAD_BYTES and not self.unread_ns:
            self.full()

    def unread(self) -> int:
        return self._out_bytes

    def stop_reading(self) -> None:
        self._free.clear()

    def go_on_reading(self) -> None:
        self._free.set()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._free.set()
