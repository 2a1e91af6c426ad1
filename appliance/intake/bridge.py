"""A broker that a fleet already has: subscribed to as one of its clients. The only module that knows paho-mqtt.

    bridge (this box) ── CONNECT, persistent session ──► broker ◄── devices
                      ── SUBSCRIBE, QoS 1 ─────────────►
                      ◄── PUBLISH ─────────────────────
                      ── PUBACK, after the commit ─────►

Rules of the file
  1  A message is acknowledged after the commit that holds it, or when it can never be a record (it is in quarantine then).
  2  While the gate is full, or the disk refuses, nothing is read and nothing acknowledged: the broker keeps it.
  3  What the broker repeats is stored once (`bridge_topics.Memory`); in doubt it is stored twice.
  4  The line is made again for ever, with pauses that grow and are never the same.
  5  One thread of its own does all of it. The recorder's thread only puts results into a queue and wakes it.

Unacknowledged messages that could not be stored are asked for again by a new connection: a broker repeats on that alone.

The address is the operator's own, out of the configuration file, so the guard for addresses that users give does not apply.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from appliance.intake import bridge_topics as topics
from appliance.intake.gate import Gate, Outcome, Stored
from appliance.intake.syslog_listeners import SourceNames
from fleet import limits
from store.frames import Offer
from store.supervisor import Loop

log = logging.getLogger(__name__)

INTAKE = "bridge"  # of the source keys: bridge/NAME/NODE
PORTS = {"mqtt": 1883, "mqtts": 8883}
_CONNECT_S = 10.0
_GREETING_S = 15.0  # until the CONNACK
_PAUSE_S, _PAUSE_S_MAX = 0.5, 30.0
_FULL_S = 0.05  # between two tries at a full gate
_TICK_S = 1.0
_ROUND_MESSAGES = 256  # read in one go, then handed to the gate together
_PACKET_BYTES_MAX = 1024 * 1024
_FOR_EVER = 0xFFFFFFFF  # MQTT 5, 3.1.2.11.2: the session does not expire


class Way(NamedTuple):
    """How to reach a broker, and what to ask it for. `password` is read when the line is made, so that a file that was
    changed counts; it is shown nowhere."""

    name: str
    url: str
    topics: tuple[str, ...]
    client_id: str
    node_key: str = ""
    version: str = "3.1.1"
    user: str = ""
    password_file: str = ""
    password_env: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    keep_alive_s: int = 60

    @property
    def intake(self) -> str:
        """Its name among the ways in."""
        return f"{INTAKE}-{self.name}"

    @property
    def password(self) -> str | None:
        """OSError when the file cannot be read."""
        if self.password_env:
            return os.environ.get(self.password_env)
        return Path(self.password_file).read_text().strip("\r\n") if self.password_file else None


class _Arrived(NamedTuple):
    source: str
    raw: bytes
    marks: tuple[str, ...]
    came: topics.Came


class _Unreachable(Exception):
    """There is no line; str() says why."""


class Bridge:
    """`remember` gives the latest records of all (newest last) to know again what a broker repeats; `subscribed` reads and
    writes which filters the session at the broker has. `told` hears how the line stands: words, and whether that is a problem."""

    def __init__(
        self,
        way: Way,
        gate: Gate,
        *,
        now_ns: Callable[[], int],
        quarantine: Callable[[str, str, str, bytes], None],
        remember: Callable[[], Iterable[tuple[str, bytes, Sequence[str]]]],
        subscribed: tuple[Callable[[], frozenset[str]], Callable[[frozenset[str]], None]],
        told: Callable[[str, bool], None] = lambda words, problem: None,
    ) -> None:
        self.way = way
        self.up = False
        self.connections = 0
        self._lines = 0  # lines that were tried: a packet identifier means nothing on another one
        self.repeated = 0
        self.unacknowledged = 0  # handed to the gate, and not acknowledged yet
        self._gate, self._now_ns, self._quarantine, self._told = gate, now_ns, quarantine, told
        self._remember, (self._load, self._save) = remember, subscribed
        made = [topics.template(text) for text in way.topics]
        self._templates = [one for one in made if isinstance(one, topics.Template)]
        self._memory = topics.Memory(limits.bridge_messages_max)
        self._remembers = False
        self._subscribed: frozenset[str] | None = None
        self._arrived: list[_Arrived] = []
        self._flying: dict[topics.Came, int] = {}  # at the gate now, and of which line its packet identifier is
        self._results: deque[tuple[list[_Arrived], Outcome]] = deque()
        self._acknowledge: list[int] = []
        self._names = SourceNames(INTAKE)
        self._again = ""  # why the line is to be made anew
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._stopping = False
        self._pause_s = _PAUSE_S
        self.loop = Loop(way.intake, self._turn)

    # -- from other threads -------------------------------------------------------------------------------------

    def start(self) -> None:
        self.loop.start()

    def stop(self) -> None:
        """What is not acknowledged stays with the broker."""
        self._stopping = True
        self._wake()
        self.loop.join()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is awake
            os.write(self._wake_out, b"!")

    def _stored(self, messages: list[_Arrived]) -> Callable[[Outcome], None]:
        def done(outcome: Outcome) -> None:
            self._results.append((messages, outcome))
            self._wake()

        return done

    # -- the thread ---------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        if not self._remembers:
            self._memory.restore(self._remember())
            self._remembers = True
        try:
            self._live()
            words = "the broker closed the line"
        except (_Unreachable, OSError, ValueError) as problem:
            words = str(problem) or type(problem).__name__
        self.up = False
        for one in self._arrived:  # none of it is acknowledged: it comes again
            self._flying.pop(one.came, None)
        self._arrived = []
        if self._stopping:
            return False
        log.warning("bridge %s: %s", self.way.name, words)
        pause_s = self._pause_s * random.uniform(0.5, 1.5)
        self._told(f"{words}; again in {pause_s:.0f} s", True)
        self._pause_s = min(self._pause_s * 2, _PAUSE_S_MAX)
        self._rest(pause_s)
        return not self._stopping

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            select.select([self._wake_in], [], [], left)
            self._settle()

    def _live(self) -> None:
        """One connection, until it ends."""
        self._again, self._acknowledge = "", []
        self._lines += 1
        client, deadline = self._connect(), time.monotonic() + _GREETING_S
        try:
            while not self._stopping:
                self._settle()
                for packet in self._acknowledge:
                    client.ack(packet, 1)
                self._acknowledge.clear()
                if not self._hand_over():
                    self._go_on(client, reads=False, wait_s=_FULL_S)
                    continue
                self._go_on(client, reads=True, wait_s=_TICK_S)
                if self._again:
                    raise _Unreachable(self._again)
                if not self.up and time.monotonic() > deadline:
                    raise _Unreachable("the broker does not answer")
        finally:
            client.disconnect()  # the session stays, and with it what is not acknowledged

    def _go_on(self, client: Client, *, reads: bool, wait_s: float) -> None:
        """Wait for something to do, and do it. With TLS, what is decrypted already is not to be waited for."""
        line: Any = client.socket()
        if line is None:
            raise _Unreachable(self._again or "the line ended")
        pending = getattr(line, "pending", lambda: 0)
        waiting = [self._wake_in, line] if reads else [self._wake_in]
        readable, writable, _ = select.select(
            waiting, [line] if client.want_write() else [], [], 0 if reads and pending() else wait_s
        )
        if reads and (line in readable or pending()):
            for _ in range(_ROUND_MESSAGES):
                self._check(client.loop_read())
                if client.socket() is None or not (pending() or select.select([line], [], [], 0)[0]):
                    break
        if writable:
            self._check(client.loop_write())
        self._check(client.loop_misc())

    def _check(self, code: MQTTErrorCode) -> None:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise _Unreachable(self._again or f"the line ended ({code.name.removeprefix('MQTT_ERR_').lower()})")

    def _connect(self) -> Client:
        way, address = self.way, urlsplit(self.way.url)
        newer = way.version == "5"
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=way.client_id,
            clean_session=None if newer else False,
            protocol=MQTTProtocolVersion.MQTTv5 if newer else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = _CONNECT_S
        client.on_connect = self._greeted
        client.on_subscribe = self._granted
        client.on_message = self._heard
        if way.user:
            client.username_pw_set(way.user, way.password)
        if address.scheme == "mqtts":
            context = ssl.create_default_context(cafile=way.ca_file or None)
            if way.certificate_file:
                context.load_cert_chain(way.certificate_file, way.key_file or None)
            client.tls_set_context(context)
        host, port = address.hostname or "", address.port or PORTS[address.scheme]
        if newer:
            wishes = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            wishes.SessionExpiryInterval = _FOR_EVER
            wishes.MaximumPacketSize = _PACKET_BYTES_MAX
            client.connect(host, port, way.keep_alive_s, clean_start=False, properties=wishes)
        else:
            client.connect(host, port, way.keep_alive_s)
        return client

    def _greeted(self, client: Client, data: object, flags: Any, code: ReasonCode, properties: object) -> None:
        if code.is_failure:
            self._again = f"the broker refuses: {code}"
            return
        self.up = True
        self.connections += 1
        self._pause_s = _PAUSE_S
        wanted = frozenset(one.filter for one in self._templates)
        held = self._load() if self._subscribed is None else self._subscribed
        if flags.session_present and (left := held - wanted):
            client.unsubscribe(sorted(left))
        # Each time: a broker that fell may have kept the session without all of its subscriptions. What is retained comes once
        # more with it, but for version 5, which can be asked not to.
        options = [(one, SubscribeOptions(qos=1, retainHandling=1)) for one in sorted(wanted)]
        client.subscribe(options if self.way.version == "5" else [(one, 1) for one, _ in options])
        self._subscribed = wanted
        if wanted != held:
            self._save(wanted)

    def _granted(self, client: Client, data: object, mid: int, codes: Sequence[ReasonCode], properties: object) -> None:
        refused = [one for one, code in zip(sorted(self._subscribed or ()), codes, strict=False) if code.is_failure]
        if refused:
            self._told(f"connected, but the broker refuses {', '.join(refused)}", True)
        else:
            self._told("connected", False)

    def _heard(self, client: Client, data: object, message: MQTTMessage) -> None:
        raw, packet = bytes(message.payload), message.mid if message.qos else 0
        try:
            topic = message.topic
        except UnicodeError:
            topic = ""
        name = topics.node_of(self._templates, self.way.node_key, topic, raw)
        if not name or len(raw) > limits.record_bytes_max:
            reason = "names no node" if not name else "longer than a record may be"
            self._gate.refuse(self.way.intake, reason)
            source = self._names.key(self.way.name, "")
            self._quarantine(self.way.intake, source, reason, raw[: limits.record_bytes_max])
            if packet:
                self._acknowledge.append(packet)
            return
        source = self._names.key(self.way.name, name)
        came, retained = topics.came(packet, source, raw), bool(message.retain)
        if message.dup and came in self._flying:
            self.repeated += 1
            self._flying[came] = self._lines  # acknowledged with the one that is under way
        elif self._memory.repeated(came, dup=bool(message.dup), retained=retained):
            self.repeated += 1
            if packet:
                self._acknowledge.append(packet)
        else:
            marks = (*((topics.packet_mark(packet),) if packet else ()), *((topics.RETAINED,) if retained else ()))
            self._arrived.append(_Arrived(source, raw, marks, came))

    def _hand_over(self) -> bool:
        """What arrived, to the gate. False when that takes nothing now: it is tried again, and nothing more is read."""
        if not self._arrived:
            return True
        messages, now_ns = self._arrived, self._now_ns()
        for one in messages:
            self._flying[one.came] = self._lines
        offers = [Offer(now_ns, one.source, one.raw, one.marks) for one in messages]
        refused = self._gate.offer(self.way.intake, offers, self._stored(messages))
        if refused is not None:  # nothing is lost: the broker has it
            self._gate.tally(self.way.intake).refused[refused] -= len(offers)
            self._told(f"connected; {refused}, so the broker keeps what comes", False)
            return False
        self.unacknowledged += len(messages)
        self._arrived = []
        return True

    def _settle(self) -> None:
        """What became of what was handed over."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_in, 4096):
                pass
        while self._results:
            messages, outcome = self._results.popleft()
            self.unacknowledged -= len(messages)
            for one in messages:
                line = self._flying.pop(one.came, 0)
                if not isinstance(outcome, Stored):
                    self._again = str(outcome)  # asked for again by a new line
                    continue
                self._memory.stored(one.came)
                if one.came.packet and line == self._lines:
                    self._acknowledge.append(one.came.packet)
