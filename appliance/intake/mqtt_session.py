"""The MQTT conversation, decided: bytes and the time in; bytes, records and effects out. No socket, no clock, no thread.

A `Connection` is one network connection, a `Session` what outlives it, `Sessions` all of them. This is no broker: what a
device publishes goes to `DeviceApi.published` and becomes records; what a device hears comes from `Line.send` alone.

Rules of the file
  1  A PUBLISH of QoS 1 or 2 is answered when its `Batch` has landed, so after the commit, and in the order in which they
     came [4.6]. A batch that did not land is answered by nothing: the device still has what it holds.
  2  QoS 2 stores once: an identifier is remembered from the PUBLISH to the PUBREL, over reconnections too, as long as
     the session lives. Sessions live in memory: after a restart of the box none is present, and clients are told so.
  3  A session, a retained message and a client identifier belong to whoever showed the credential. Nobody can take over
     or read those of somebody else by calling himself the same.
  4  Whoever breaks the protocol is told why where the protocol has words for it, and his connection ends; nobody else's.
  5  Everything that grows has a bound (`fleet.limits`, mqtt_…), and where a client can be told of it, it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from functools import partial
from typing import Final, NamedTuple

from appliance.intake import mqtt_codec as codec
from appliance.intake.device import Device, DeviceApi, Line, Turned, Unreadable
from appliance.intake.mqtt_codec import V5, Kind, Malformed, Properties, Property, ProtocolError, Reason, Will
from fleet import limits
from fleet.limits import SECOND
from store.frames import Offer

INTAKE: Final = "mqtt"

Allow = Callable[[Device, int, int], float]
"""`Doorkeeper.allow`."""


class Terms(NamedTuple):
    """What a box grants, and tells clients of MQTT 5."""

    packet_bytes_max: int = 256 * 1024
    session_s_max: int = 86_400
    receive_max: int = limits.mqtt_receive_max


class Said(NamedTuple):
    """Something that was turned away: one word for the counter, what is to be kept of it, and who said it. Nothing is
    kept of what is no data."""

    reason: str
    raw: bytes = b""
    source: str = ""
    messages: int = 1
    sample: bool = False  # of what has no end, some are kept as examples


class Batch:
    """Records that come to be stored together, and what is said when they are."""

    __slots__ = ("acks", "bytes", "ids", "landed", "offers", "unacked")

    def __init__(self) -> None:
        self.offers: list[Offer] = []
        self.acks: list[bytes] = []  # PUBACKs; for QoS 2 an empty one, in its place
        self.ids: list[int] = []  # of QoS 2, in the order of the empty ones
        self.bytes = 0
        self.unacked = 0
        self.landed = False


class Subscription(NamedTuple):
    qos: int
    number: int = 0  # the subscription identifier, 0 without


class Outgoing:
    """A message on its way to the device, QoS 1 or 2."""

    __slots__ = ("numbers", "payload", "qos", "received", "retain", "sent", "topic", "tried")

    def __init__(self, topic: str, payload: bytes, qos: int, retain: bool, numbers: list[int]) -> None:
        self.topic, self.payload, self.qos, self.retain, self.numbers = topic, payload, qos, retain, numbers
        self.sent = self.tried = self.received = False  # on this connection; ever; PUBREC came


class Retained(NamedTuple):
    payload: bytes
    qos: int
    expires_ns: int  # 0: never


class Storing(IntEnum):
    """How far a message of QoS 2 is."""

    STORING = 0
    ASKED_AGAIN = 1  # on another connection than it came by
    STORED = 2


class Session:
    """What outlives a connection [4.1]."""

    __slots__ = ("client_id", "connection", "device", "expires_ns", "expiry_s", "kept", "kept_bytes", "line", "outgoing",
                 "owner", "received", "subscriptions", "turn", "will", "will_due_ns")  # fmt: skip

    def __init__(self, owner: str, client_id: str, device: Device) -> None:
        self.owner, self.client_id, self.device = owner, client_id, device
        self.connection: Connection | None = None
        self.line: Line | None = None
        self.expiry_s = 0
        self.expires_ns = 0  # 0: connected
        self.will: Will | None = None
        self.will_due_ns = 0
        self.subscriptions: dict[str, Subscription] = {}
        self.received: dict[int, Storing] = {}
        self.outgoing: dict[int, Outgoing] = {}
        self.turn = 0  # the last packet identifier given
        self.kept: deque[int] = deque()  # of those going out, what was said while nobody was connected
        self.kept_bytes = 0

    def matching(self, topic: str) -> Iterator[Subscription]:
        for words, subscription in self.subscriptions.items():
            if words == topic or (("+" in words or "#" in words) and matches(words, topic)):
                yield subscription

    def takes(self, topic: str) -> bool:
        """Whether a message there is kept until it is acknowledged."""
        return any(one.qos for one in self.matching(topic))

    def hold(self, message: Outgoing) -> int:
        """The packet identifier under which it goes out."""
        self.turn = next(
            number
            for step in range(1, len(self.outgoing) + 2)
            if (number := (self.turn + step - 1) % 0xFFFF + 1) not in self.outgoing
        )
        self.outgoing[self.turn] = message
        return self.turn


def matches(topic_filter: str, topic: str) -> bool:
    """[4.7]"""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if topic[:1] == "$" and wanted[0] in ("+", "#"):
        return False
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place == len(levels) or level not in ("+", levels[place]):
            return False
    return len(wanted) == len(levels)


def filter_fault(topic_filter: str) -> Reason | None:
    """Why this is no filter that is taken here [4.7.1, 4.8.2]."""
    if not topic_filter or len(topic_filter) > limits.mqtt_topic_chars_max:
        return Reason.FILTER_INVALID
    if topic_filter.startswith("$share/"):
        return Reason.NO_SHARED
    levels = topic_filter.split("/")
    for place, level in enumerate(levels):
        if ("+" in level and level != "+") or ("#" in level and (level != "#" or place != len(levels) - 1)):
            return Reason.FILTER_INVALID
    return None


class Sessions:
    """Every session of a box, by who holds it and by client identifier."""

    def __init__(self, api: DeviceApi, allow: Allow, new_id: Callable[[], str], terms: Terms) -> None:
        self.api, self.allow, self.new_id, self.terms = api, allow, new_id, terms
        self.held: dict[tuple[str, str], Session] = {}
        self.detached: dict[tuple[str, str], Session] = {}  # of those held, the ones without a connection
        self.touched: list[Connection] = []  # connections with something to do beside the one that was called
        self.orphans: list[Offer] = []  # records of wills: they wait for nobody
        self.refused: list[Said] = []
        self.topics: dict[bytes, str] = {}  # names that were judged already
        self.retained: dict[str, dict[str, Retained]] = {}
        self.retained_count = self.retained_bytes = 0
        self.kept_bytes = 0  # for clients that are away

    def tick(self, now_ns: int, at_ns: int) -> None:
        """Wills that are due, sessions that are over."""
        for session in [one for one in self.detached.values() if one.will_due_ns and one.will_due_ns <= now_ns]:
            self._last_words(session, now_ns, at_ns)
        for session in [one for one in self.detached.values() if one.expires_ns <= now_ns]:
            self._forget(session, now_ns, at_ns)

    def revoke(self, credential: str, now_ns: int, at_ns: int) -> None:
        """A credential does not count any more: its connections end, and its sessions with them."""
        for session in [one for one in self.held.values() if credential and one.device.credential == credential]:
            session.expiry_s = 0
            if session.connection is not None:
                self.touched.append(session.connection)
                session.connection.end(Reason.NOT_AUTHORIZED, str(Turned.REVOKED), now_ns, at_ns)
            else:
                self._forget(session, now_ns, at_ns)

    def attach(self, connection: Connection, device: Device, wish: codec.Connect, now_ns: int, at_ns: int) -> Session:
        """The session for a connection; whether it was there before is `session.line is not None`."""
        key = (device.node_id, wish.client_id)
        session = self.held.get(key)
        if session is not None and session.connection is not None:
            self.touched.append(session.connection)
            session.connection.end(Reason.TAKEN_OVER, "taken over", now_ns, at_ns)
            session = self.held.get(key)  # gone, when it was to end with its connection
        if session is not None and (wish.clean or session.expires_ns <= now_ns):
            self._forget(session, now_ns, at_ns)
            session = None
        if session is None:
            session = Session(device.node_id or f"?{wish.client_id}", wish.client_id, device)
            self.held[key] = session
        if self.detached.pop(key, None) is not None:
            self._no_longer_kept(session)
            self.api.back(session, connection.line)
        session.will_due_ns = 0  # a new connection in time: the will of the one before is not sent [3.1.3.2.2]
        session.device, session.connection, session.expires_ns = device, connection, 0
        return session

    def detach(self, session: Session, now_ns: int, at_ns: int) -> None:
        session.connection = None
        key = (session.device.node_id, session.client_id)
        if session.will is not None:
            delay_s = min(session.will.properties.number(Property.WILL_DELAY, 0), session.expiry_s)
            session.will_due_ns = now_ns + delay_s * SECOND
            if not delay_s:
                self._last_words(session, now_ns, at_ns)
        if not session.expiry_s:
            self._forget(session, now_ns, at_ns)
            return
        session.expires_ns = now_ns + session.expiry_s * SECOND
        self.detached[key] = session
        if session.line is not None:
            self.api.left(session.line, session)
        if len(self.detached) > limits.mqtt_sessions_max:
            self.refused.append(Said("session let go"))
            self._forget(next(iter(self.detached.values())), now_ns, at_ns)

    def _forget(self, session: Session, now_ns: int, at_ns: int) -> None:
        key = (session.device.node_id, session.client_id)
        self.held.pop(key, None)
        if self.detached.pop(key, None) is not None:
            self._no_longer_kept(session)
            self.api.gone(session)
        session.expires_ns = 0
        if session.will is not None:  # the end of the session is the end of its delay
            self._last_words(session, now_ns, at_ns)

    def _last_words(self, session: Session, now_ns: int, at_ns: int) -> None:
        will, session.will, session.will_due_ns = session.will, None, 0
        if will is None or session.line is None:
            return
        device = session.device
        wait_s = self.allow(device, 1, len(will.payload))
        if wait_s:
            self.refused.append(Said(Turned.FLOOD, will.payload, device.source(INTAKE)))
            return
        if will.retain:
            self.retain(session.owner, will.topic, will.payload, will.qos, will.properties, now_ns)
        taken = self.api.published(session.line, will.topic, will.payload)
        if taken.refused:
            kept = b"" if taken.secret else will.payload
            self.refused.append(Said(taken.refused, kept, device.source(INTAKE)))
        intake = taken.intake or INTAKE
        self.orphans += [Offer(at_ns, device.source(intake, behind), raw) for behind, raw in taken.records]

    # -- what waits for a client that is away ----------------------------------------------------------------------

    def keep(self, session: Session, topic: str, payload: bytes) -> bool:
        """What is said to a line that ended: to the one that its client is on now, or kept for its return where it has
        subscribed with QoS 1 or 2 [3.1.1: 3.1.2-5]. Of too much the oldest goes; False when it is not kept."""
        line = session.connection
        if line is not None:
            self.touched.append(line)
            return line.send(topic, payload)
        found, size = list(session.matching(topic)), len(payload)
        qos = max((one.qos for one in found), default=0)
        if not session.expires_ns or not qos:
            return False
        most, bytes_max = limits.mqtt_outgoing_max, limits.mqtt_kept_each_bytes_max
        while session.kept and (len(session.outgoing) >= most or session.kept_bytes + size > bytes_max):
            dropped = len(session.outgoing.pop(session.kept.popleft()).payload)
            session.kept_bytes -= dropped
            self.kept_bytes -= dropped
            self.refused.append(Said("kept message let go"))
        if (
            len(session.outgoing) >= most
            or max(size - bytes_max, self.kept_bytes + size - limits.mqtt_kept_bytes_max) > 0
        ):
            self.refused.append(Said("too much kept"))
            return False
        numbers = [one.number for one in found if one.number]
        session.kept.append(session.hold(Outgoing(topic, payload, qos, False, numbers)))
        session.kept_bytes += size
        self.kept_bytes += size
        return True

    def _no_longer_kept(self, session: Session) -> None:
        self.kept_bytes -= session.kept_bytes
        session.kept_bytes = 0
        session.kept.clear()

    # -- retained messages: a device's own, for its own subscriptions ---------------------------------------------

    def retain(self, owner: str, topic: str, payload: bytes, qos: int, properties: Properties, now_ns: int) -> None:
        """Keep the last message of a topic, an empty one: none [3.3.1.3]. Beyond the bounds it is not kept, and counted."""
        kept = self.retained.get(owner, {})
        before = kept.pop(topic, None)
        if before is not None:
            self.retained_count -= 1
            self.retained_bytes -= len(before.payload)
        if payload:
            full = len(kept) >= limits.mqtt_retained_each_max or self.retained_count >= limits.mqtt_retained_max
            if full or self.retained_bytes + len(payload) > limits.mqtt_retained_bytes_max:
                self.refused.append(Said("too much retained"))
            else:
                expiry_s = properties.number(Property.MESSAGE_EXPIRY, 0)
                kept[topic] = Retained(payload, qos, now_ns + expiry_s * SECOND if expiry_s else 0)
                self.retained_count += 1
                self.retained_bytes += len(payload)
        if kept:
            self.retained[owner] = kept
        else:
            self.retained.pop(owner, None)

    def recall(self, owner: str, topic_filter: str, now_ns: int) -> list[tuple[str, Retained]]:
        kept = self.retained.get(owner, {})
        return [
            (topic, one)
            for topic, one in kept.items()
            if matches(topic_filter, topic) and (not one.expires_ns or one.expires_ns > now_ns)
        ]


class State(IntEnum):
    OPENING = 0  # no CONNECT yet
    ASKING = 1  # who it is, is being found out; what came behind the CONNECT waits
    OPEN = 2
    ENDED = 3


_RUN_MAX: Final = 1_024  # messages that are taken together
_WORK_MAX: Final = 512  # in one turn; about a millisecond
_PARTIAL_NS: Final = 60 * SECOND  # for the rest of a packet
_CONNECT_NS: Final = 10 * SECOND  # for the CONNECT
_offer: Final = partial(tuple.__new__, Offer)
_PUBACK: Final = b"\x40\x02"
_NO_MARKS: Final[tuple[str, ...]] = ()


class Connection:
    """One network connection. After each call its owner writes `out`, stores `batch`, and looks at the rest:

    `asked`    a CONNECT whose sender is to be looked up; the answer goes to `admit`
    `wait_s`   read no further for so long, then call `resume`: the device's bucket is empty
    `more`     call `go_on` when the others have had their turn: there is more to read than one turn is for
    `said`     what was turned away
    `ended`    close it, once what is in `out` is written; "" while it is not to be
    """

    __slots__ = ("aliases", "asked", "batch", "ended", "heard_ns", "keep_alive_ns", "level", "line", "more", "opened_ns", "out",
                 "out_bytes_max", "pending", "quota", "rest", "rest_bytes", "said", "session", "sessions", "since_ns",
                 "source", "state", "unacked", "wait_s", "wanted")  # fmt: skip

    def __init__(self, sessions: Sessions, line: Line, now_ns: int) -> None:
        self.sessions, self.line = sessions, line
        self.state = State.OPENING
        self.level = 0
        self.session: Session | None = None
        self.source = ""
        self.out: list[bytes] = []
        self.said: list[Said] = []
        self.asked: codec.Connect | None = None
        self.ended = ""
        self.wait_s = 0.0
        self.more = False
        self.batch: Batch | None = None
        self.pending: deque[Batch] | None = None
        self.unacked = 0  # messages of QoS 1 and 2 that wait for their commit
        self.rest: list[bytes] = []  # of a packet that is not all there
        self.rest_bytes = 0
        self.wanted = 0  # bytes, before it is worth looking again
        self.aliases: dict[int, str] | None = None
        self.quota = 0xFFFF  # messages of QoS 1 and 2 that the client takes at once
        self.out_bytes_max = codec.PACKET_BYTES_MAX
        self.keep_alive_ns = 0
        self.opened_ns = self.heard_ns = self.since_ns = now_ns

    # -- bytes that came ------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now_ns: int, at_ns: int) -> None:
        """`now_ns` is steady, `at_ns` what the wall clock says."""
        if self.state is State.ENDED:
            return
        if not self.rest:
            self.since_ns = now_ns
        self.rest.append(data)
        self.rest_bytes += len(data)
        if self.rest_bytes >= self.wanted and not self.wait_s and not self.more and self.state is not State.ASKING:
            self._look(now_ns, at_ns)

    def go_on(self, now_ns: int, at_ns: int) -> None:
        self.more = False
        if self.state is State.OPEN and not self.wait_s:
            self._look(now_ns, at_ns)

    def resume(self, now_ns: int, at_ns: int) -> None:
        """The wait is over: go on with what is here."""
        self.wait_s = 0.0
        self.heard_ns = now_ns
        if self.state is State.OPEN and self.rest_bytes >= self.wanted and not self.more:
            self._look(now_ns, at_ns)

    def _look(self, now_ns: int, at_ns: int) -> None:
        data = self.rest[0] if len(self.rest) == 1 else b"".join(self.rest)
        at = begun = work = 0
        found = None
        try:
            while self.state is not State.ENDED and not self.wait_s and self.state is not State.ASKING:
                begun = at
                if self.state is State.OPEN:
                    at = self._run(data, at, at_ns)
                    if self.wait_s:
                        break
                begun = at
                if self.state is State.OPENING and at < len(data) and data[at] >> 4 != Kind.CONNECT:
                    raise ProtocolError("the first packet is not CONNECT")  # a length of something else may be any
                found = codec.head(data, at, self.sessions.terms.packet_bytes_max)
                if found is None or found[2] > len(data):
                    break
                if work > _WORK_MAX:
                    self.more = True
                    break
                first, begin, end = found
                work += 1 + (end - begin) // 8  # a filter has seldom less
                at = self._packet(first, data[begin:end], at, end, now_ns, at_ns)
        except Malformed as error:
            self._broke(error, data[begun : begun + limits.record_bytes_max], now_ns, at_ns)
            return
        if at:
            self.heard_ns = self.since_ns = now_ns
        left = len(data) - at
        self.rest, self.rest_bytes = [data[at:]] if left else [], left
        self.wanted = found[2] - at if found is not None and found[2] > len(data) else 0

    def _packet(self, first: int, body: bytes, at: int, end: int, now_ns: int, at_ns: int) -> int:
        """Answer one packet; where the next begins: `at` again when this one has to wait."""
        kind = first >> 4
        if self.state is State.OPENING:
            self._connect(first, body, now_ns, at_ns)
            return end
        if kind == Kind.CONNECT:
            raise ProtocolError("a second CONNECT")
        packet = codec.decode(first, body, self.level)
        match packet:
            case codec.Publish():
                return self._publish(packet, at, end, now_ns, at_ns)
            case codec.Ack():
                self._acknowledged(packet)
            case codec.Subscribe():
                self._subscribe(packet, now_ns)
            case codec.Unsubscribe():
                self._unsubscribe(packet)
            case codec.Ping(Kind.PINGREQ):
                self.out.append(b"\xd0\x00")
            case codec.Disconnect():
                self._disconnect(packet, now_ns, at_ns)
            case _:
                raise ProtocolError(f"a client sends no {Kind(kind).name} here")
        return end

    def _broke(self, error: Malformed, raw: bytes, now_ns: int, at_ns: int) -> None:
        opened = self.state is State.OPEN
        word = "too large" if error.reason is Reason.TOO_LARGE else "malformed packet"
        if isinstance(error, ProtocolError) and error.reason is not Reason.TOO_LARGE:
            word = "protocol error"
        self.said.append(Said(word, raw if opened else b"", self.source, sample=True))
        self.end(error.reason, str(error), now_ns, at_ns)

    # -- coming and going -----------------------------------------------------------------------------------------

    def _connect(self, first: int, body: bytes, now_ns: int, at_ns: int) -> None:
        level = codec.level_of(body)
        self.level = V5 if level & 0x7F >= V5 else codec.V311 if level else 0  # 0x80: a bridge that asks for more
        packet = codec.decode(first, body, level)
        assert isinstance(packet, codec.Connect)
        if Property.AUTH_METHOD in packet.properties:
            raise ProtocolError("there is no enhanced authentication here", Reason.BAD_METHOD)
        if len(packet.client_id) > limits.mqtt_client_id_chars_max:
            raise ProtocolError("the client identifier is too long", Reason.CLIENT_ID)
        if not packet.client_id and self.level != V5 and not packet.clean:
            raise ProtocolError("a session that is to stay needs a client identifier", Reason.CLIENT_ID)
        self.state, self.asked = State.ASKING, packet

    def admit(self, wish: codec.Connect, who: Device | Turned, now_ns: int, at_ns: int, fault: str = "") -> None:
        """The answer to `asked`. `fault`: why nobody is let in just now."""
        if self.state is State.ENDED:
            return
        if isinstance(who, Turned):
            self.said.append(Said(who))
            self.end(_TURNED.get(who, Reason.NOT_AUTHORIZED), who, now_ns, at_ns)
            return
        if fault:
            self.said.append(Said("unavailable"))
            self.end(Reason.UNAVAILABLE, fault, now_ns, at_ns)
            return
        assigned = not wish.client_id
        if assigned:
            wish = wish._replace(client_id=self.sessions.new_id())
        session = self.sessions.attach(self, who, wish, now_ns, at_ns)
        present = session.line is not None
        asked_s = wish.properties.number(Property.SESSION_EXPIRY, 0) if self.level == V5 else 0xFFFF_FFFF
        if self.level != V5 and wish.clean:
            asked_s = 0
        session.expiry_s = min(asked_s, self.sessions.terms.session_s_max)
        session.will, session.line = wish.will, self.line
        self.session, self.source, self.state = session, who.source(INTAKE), State.OPEN
        self.heard_ns = now_ns
        self.keep_alive_ns = wish.keep_alive_s * SECOND * 3 // 2
        if self.level == V5:
            self.quota = wish.properties.number(Property.RECEIVE_MAXIMUM, 0xFFFF)
            self.out_bytes_max = wish.properties.number(Property.PACKET_MAXIMUM, codec.PACKET_BYTES_MAX)
        self._write(codec.Connack(0, present, self._granted(session, asked_s, assigned)))
        for message in session.outgoing.values():
            message.sent = False
        self._pump()
        self.resume(now_ns, at_ns)

    def _granted(self, session: Session, asked_s: int, assigned: bool) -> Properties:
        terms = self.sessions.terms
        told = Properties(
            {
                Property.RECEIVE_MAXIMUM: terms.receive_max,
                Property.PACKET_MAXIMUM: terms.packet_bytes_max,
                Property.ALIAS_MAXIMUM: limits.mqtt_aliases_max,
                Property.SHARED_AVAILABLE: 0,
            }
        )
        if session.expiry_s != asked_s:
            told[Property.SESSION_EXPIRY] = session.expiry_s
        if assigned:
            told[Property.ASSIGNED_CLIENT_ID] = session.client_id
        return told

    def _disconnect(self, packet: codec.Disconnect, now_ns: int, at_ns: int) -> None:
        session = self.session
        assert session is not None
        expiry_s = packet.properties.number(Property.SESSION_EXPIRY, session.expiry_s)
        if expiry_s and not session.expiry_s:
            raise ProtocolError("a session that was to end cannot be kept any more")
        session.expiry_s = min(expiry_s, self.sessions.terms.session_s_max)
        if packet.reason == Reason.SUCCESS:
            session.will = None
        self._over("left", now_ns, at_ns)

    def end(self, reason: Reason, words: str, now_ns: int, at_ns: int) -> None:
        """End it from our side, saying so in whatever words this client's protocol has for it at this point."""
        if self.state is State.ENDED:
            return
        if self.state is State.OPEN:
            if self.level == V5:
                self._last(codec.Disconnect(reason, _because(words)), codec.Disconnect(reason))
        elif self.level == V5:
            self._last(codec.Connack(reason, False, _because(words)), codec.Connack(reason))
        elif self.level and reason in _RETURN_CODES:
            self._write(codec.Connack(_RETURN_CODES[reason]))
        self._over(words, now_ns, at_ns)

    def lost(self, now_ns: int, at_ns: int) -> None:
        """The network connection ended by itself."""
        if self.state is not State.ENDED:
            self._over("lost", now_ns, at_ns)

    def _last(self, packet: codec.Packet, short: codec.Packet) -> None:
        said = codec.encode(packet, V5)
        self.out.append(said if len(said) <= self.out_bytes_max else codec.encode(short, V5))

    def _over(self, why: str, now_ns: int, at_ns: int) -> None:
        self.state, self.ended = State.ENDED, why
        self.rest, self.rest_bytes, self.pending = [], 0, None
        session = self.session
        if session is not None and session.connection is self:
            self.sessions.detach(session, now_ns, at_ns)

    def tick(self, now_ns: int, at_ns: int) -> None:
        """Silence, and packets that never end."""
        if self.state is State.OPENING and now_ns - self.opened_ns > _CONNECT_NS:
            self.said.append(Said("no CONNECT in time"))
            self.end(Reason.CONNECT_TIME, "no CONNECT in time", now_ns, at_ns)
        elif self.rest and not self.wait_s and now_ns - self.since_ns > _PARTIAL_NS:
            self.said.append(Said("packet not finished in time"))
            self.end(Reason.UNSPECIFIED, "the rest of a packet did not come in time", now_ns, at_ns)
        elif self.keep_alive_ns and self.state is State.OPEN and now_ns - self.heard_ns > self.keep_alive_ns:
            self.said.append(Said("keep alive timeout"))
            self.end(Reason.KEEP_ALIVE, "nothing came for one and a half times the keep alive", now_ns, at_ns)

    # -- what the device publishes --------------------------------------------------------------------------------

    def _run(self, data: bytes, at: int, at_ns: int) -> int:
        """Take the plain PUBLISH packets that stand here in a row: QoS 0 or 1, not retained, without properties, with a
        topic that was judged before. Whatever else comes, and whatever is wrong, is left to the slow way.

        This is where nearly all bytes go through, so it makes nothing for a message but its payload and its record."""
        names: list[str] = []
        payloads: list[bytes] = []
        numbers: list[bytes] = []  # b"" for QoS 0
        ends: list[int] = []
        size, topics, v5, begun = len(data), self.sessions.topics, self.level == V5, at
        while at + 4 < size and len(ends) < _RUN_MAX:
            first = data[at]
            if first not in _PLAIN:
                break
            length, begin = data[at + 1], at + 2
            if length > 0x7F:
                second = data[begin]
                if second > 0x7F or not second:
                    break
                length, begin = length & 0x7F | second << 7, at + 3
            end = begin + length
            if end > size or length < 2:
                break
            after = begin + 2 + (data[begin] << 8 | data[begin + 1])
            name = topics.get(data[begin + 2 : after])
            if name is None:
                break
            number = b""
            if first != 0x30:
                number = data[after : after + 2]
                after += 2
            if v5:
                if after >= end or data[after]:
                    break
                after += 1
            if after > end or number == b"\0\0":
                break
            names.append(name)
            payloads.append(data[after:end])
            numbers.append(number)
            ends.append(end)
            at = end
        if not ends:
            return begun
        asked = len(ends) - numbers.count(b"")
        if asked and self.level == V5:
            self._count_in(asked)
        fit = self._allowed(payloads)
        if fit < len(ends):
            if not fit:
                return begun
            at = ends[fit - 1]
            names, payloads, numbers = names[:fit], payloads[:fit], numbers[:fit]
            asked = fit - numbers.count(b"")
        self._take(names, payloads, numbers, asked, at_ns)
        return at

    def _take(
        self, names: Sequence[str], payloads: Sequence[bytes], numbers: Sequence[bytes], asked: int, at_ns: int
    ) -> None:
        """Messages of QoS 0 and 1 become records."""
        batch = self.batch
        if batch is None:
            batch = self.batch = Batch()
        published, line, offers, source = self.sessions.api.published, self.line, batch.offers, self.source
        refused: dict[int, int] = {}
        size = 0
        for place, payload in enumerate(payloads):
            taken = published(line, names[place], payload)
            if taken.refused:
                refused[place] = self._refuse(taken.refused, b"" if taken.secret else payload)
                continue
            for behind, raw in taken.records:
                if len(raw) > limits.record_bytes_max:
                    refused[place] = self._refuse("too long for a record", raw)
                    continue
                key = self._source(taken.intake, behind) if behind or taken.intake else source
                offers.append(_offer((at_ns, key, raw, _NO_MARKS)))
                size += len(raw)
        batch.bytes += size
        if not asked:
            return
        batch.unacked += asked
        self.unacked += asked
        if not refused or self.level != V5:  # 3.1.1 has no words for no: what was refused is kept in quarantine
            batch.acks.append(_PUBACK + _PUBACK.join(filter(None, numbers)))
            return
        for place, number in enumerate(numbers):
            if number:
                reason = refused.get(place, 0)
                batch.acks.append(_PUBACK + number if not reason else b"\x40\x03" + number + bytes((reason,)))

    def _source(self, intake: str, behind: str) -> str:
        assert self.session is not None
        return self.session.device.source(intake or INTAKE, behind)

    def _refuse(self, why: str, payload: bytes) -> int:
        self.said.append(Said(why, payload, self.source))
        return _reason(why)

    def _count_in(self, messages: int) -> None:
        """[4.9]"""
        assert self.session is not None
        if self.unacked + len(self.session.received) + messages > self.sessions.terms.receive_max:
            raise ProtocolError(f"more than {self.sessions.terms.receive_max} messages at once", Reason.RECEIVE_MAXIMUM)

    def _allowed(self, payloads: Sequence[bytes]) -> int:
        """How many of these the device's bucket holds; `wait_s` when not all."""
        assert self.session is not None
        allow, device = self.sessions.allow, self.session.device
        wait_s = allow(device, len(payloads), sum(map(len, payloads)))
        if not wait_s:
            return len(payloads)
        fit = 0
        if len(payloads) > 1:  # as many as there is room for
            while fit < len(payloads) and not (wait_s := allow(device, 1, len(payloads[fit]))):
                fit += 1
            if fit == len(payloads):
                return fit
        if wait_s > limits.mqtt_wait_seconds_max:
            self.said.append(Said(Turned.FLOOD, payloads[fit], self.source))
            raise ProtocolError("this message is more than the device may ever send at once", Reason.RATE)
        self.wait_s = wait_s
        return fit

    def _publish(self, packet: codec.Publish, at: int, end: int, now_ns: int, at_ns: int) -> int:
        """Any PUBLISH, one by one."""
        session = self.session
        assert session is not None
        topic = self._topic(packet)
        again = packet.qos == 2 and packet.packet_id in session.received
        if again:  # its records are stored, or will be; only the answer is missing
            if session.received[packet.packet_id] is Storing.STORED:
                self._write(codec.Ack(Kind.PUBREC, packet.packet_id))
            else:
                session.received[packet.packet_id] = Storing.ASKED_AGAIN
            return end
        if packet.qos and self.level == V5:
            self._count_in(1)
        if not self._allowed((packet.payload,)):
            return at
        if packet.retain:
            self.sessions.retain(session.owner, topic, packet.payload, packet.qos, packet.properties, now_ns)
        number = packet.packet_id.to_bytes(2, "big")
        if packet.qos < 2:
            self._take((topic,), (packet.payload,), (number if packet.qos else b"",), packet.qos, at_ns)
            return end
        before = len(self.said)
        self._take((topic,), (packet.payload,), (b"",), 0, at_ns)
        batch = self.batch
        assert batch is not None
        if len(self.said) > before and self.level == V5:  # a PUBREC that says no ends the exchange [4.3.3]
            batch.acks.append(b"\x50\x03" + number + bytes((_reason(self.said[-1].reason),)))
            return end
        session.received[packet.packet_id] = Storing.STORING
        batch.acks.append(b"")
        batch.ids.append(packet.packet_id)
        return end

    def _topic(self, packet: codec.Publish) -> str:
        alias = packet.properties.number(Property.TOPIC_ALIAS, -1)
        if Property.SUBSCRIPTION_ID in packet.properties:
            raise ProtocolError("a client sends no subscription identifier with a message")
        topic = packet.topic
        if alias >= 0:
            if not 1 <= alias <= limits.mqtt_aliases_max:
                raise ProtocolError(f"topic alias {alias}", Reason.ALIAS_INVALID)
            if self.aliases is None:
                self.aliases = {}
            if topic:
                self.aliases[alias] = topic
            elif alias not in self.aliases:
                raise ProtocolError(f"topic alias {alias} stands for nothing yet", Reason.ALIAS_INVALID)
            topic = self.aliases[alias]
        if len(topic) > limits.mqtt_topic_chars_max:
            raise ProtocolError("the topic is too long", Reason.TOPIC_INVALID)
        topics = self.sessions.topics
        if len(topics) >= limits.mqtt_topics_max:
            topics.clear()
        topics[topic.encode()] = topic
        return topic

    # -- what comes of it -----------------------------------------------------------------------------------------

    def take(self) -> Batch | None:
        """The batch that was put together since the last call; its owner stores it and says `landed`."""
        batch, self.batch = self.batch, None
        if batch is None or not (batch.offers or batch.acks):
            return None
        if batch.acks or batch.ids:
            if self.pending is None:
                self.pending = deque()
            self.pending.append(batch)
        return batch

    def landed(self, batch: Batch, stored: bool) -> None:
        """The records of a batch are on the disk, or they are not and never will be. Batches land in any order; they
        are answered in theirs."""
        batch.landed = True
        session = self.session
        assert session is not None
        here = session.connection
        for number in batch.ids:
            state = session.received.get(number)
            if state is None or not stored:
                session.received.pop(number, None)
                continue
            session.received[number] = Storing.STORED
            if here is not self and here is not None and state is Storing.ASKED_AGAIN:
                here._write(codec.Ack(Kind.PUBREC, number))
                self.sessions.touched.append(here)
        if not stored or self.pending is None:
            return
        while self.pending and self.pending[0].landed:
            done = self.pending.popleft()
            self.unacked -= done.unacked
            ids = iter(done.ids)
            self.out += [ack or b"\x50\x02" + next(ids).to_bytes(2, "big") for ack in done.acks]

    def _acknowledged(self, packet: codec.Ack) -> None:
        session = self.session
        assert session is not None
        kind, number = packet.kind, packet.packet_id
        if kind is Kind.PUBREL:
            known = session.received.get(number) is Storing.STORED
            if known:
                del session.received[number]
            self._write(codec.Ack(Kind.PUBCOMP, number, 0 if known else Reason.ID_NOT_FOUND))
            return
        message = session.outgoing.get(number)
        over = packet.reason >= 0x80
        if message is not None and message.qos == (1 if kind is Kind.PUBACK else 2) and message.tried:
            if kind is Kind.PUBREC and not over:
                message.received = True
                self._write(codec.Ack(Kind.PUBREL, number))
                return
            del session.outgoing[number]
            self._pump()
        elif kind is Kind.PUBREC and not over:
            self._write(codec.Ack(Kind.PUBREL, number, Reason.ID_NOT_FOUND))

    # -- what the device hears ------------------------------------------------------------------------------------

    def _subscribe(self, packet: codec.Subscribe, now_ns: int) -> None:
        session, api = self.session, self.sessions.api
        assert session is not None
        number = packet.properties.number(Property.SUBSCRIPTION_ID, 0)
        reasons: list[int] = []
        recalled: list[tuple[str, Retained, int]] = []
        for words, qos, _, _, handling in packet.filters:
            fault = filter_fault(words)
            known = words in session.subscriptions
            if fault is None and not api.may_subscribe(session.device, words):
                fault = Reason.NOT_AUTHORIZED
                self.said.append(Said(Turned.FOREIGN))
            if fault is None and not known and len(session.subscriptions) >= limits.mqtt_subscriptions_max:
                fault = Reason.QUOTA
            if fault is not None:
                reasons.append(fault if self.level == V5 else 0x80)
                continue
            session.subscriptions[words] = Subscription(qos, number)
            reasons.append(qos)
            if handling == 0 or (handling == 1 and not known):
                recalled += [(topic, one, qos) for topic, one in self.sessions.recall(session.owner, words, now_ns)]
        self._write(codec.Granted(Kind.SUBACK, packet.packet_id, tuple(reasons)))
        for topic, one, qos in recalled:
            self._send(topic, one.payload, min(qos, one.qos), [number] if number else [], retain=True)

    def _unsubscribe(self, packet: codec.Unsubscribe) -> None:
        assert self.session is not None
        held = self.session.subscriptions
        reasons = [0 if held.pop(words, None) is not None else Reason.NO_SUBSCRIPTION for words in packet.filters]
        self._write(codec.Granted(Kind.UNSUBACK, packet.packet_id, tuple(reasons)))

    def send(self, topic: str, payload: bytes) -> bool:
        """To the device, at the highest QoS of its matching subscriptions. False when it has none, is gone for good, has
        too much unacknowledged already, or takes no packet of this size."""
        session = self.session
        if session is None or self.state is not State.OPEN:
            return session is not None and self.sessions.keep(session, topic, payload)
        found = list(session.matching(topic))
        if not found:
            return False
        numbers = [one.number for one in found if one.number]
        return self._send(topic, payload, max(one.qos for one in found), numbers)

    def _send(self, topic: str, payload: bytes, qos: int, numbers: list[int], *, retain: bool = False) -> bool:
        session = self.session
        assert session is not None
        message = Outgoing(topic, payload, qos, retain, numbers)
        said = codec.encode(self._publication(message, 1), self.level)
        if len(said) > self.out_bytes_max:
            return False  # and as good as sent [3.1.2.11.4]
        if not qos:
            self.out.append(said)
            return True
        if len(session.outgoing) >= limits.mqtt_outgoing_max:
            return False
        session.hold(message)
        self._pump()
        return True

    def _publication(self, message: Outgoing, number: int) -> codec.Publish:
        properties = codec.NONE
        if message.numbers and self.level == V5:
            properties = Properties({Property.SUBSCRIPTION_ID: message.numbers})
        return codec.Publish(
            message.topic, message.payload, message.qos, message.retain, message.tried, number, properties
        )

    def _pump(self) -> None:
        """Send what waits, as far as the client takes it [4.9], in order [4.6]."""
        session = self.session
        assert session is not None
        going = sum(message.sent for message in session.outgoing.values())
        for number, message in tuple(session.outgoing.items()):
            if message.sent:
                continue
            if message.received:
                self._write(codec.Ack(Kind.PUBREL, number))
            elif going >= self.quota:
                break
            else:
                said = codec.encode(self._publication(message, number), self.level)
                if len(said) > self.out_bytes_max:  # kept for a client that takes less now: as good as sent [3.1.2-25]
                    del session.outgoing[number]
                    continue
                self.out.append(said)
            message.sent = message.tried = True
            going += 1

    def _write(self, packet: codec.Packet) -> None:
        self.out.append(codec.encode(packet, self.level))


_PLAIN: Final = frozenset((0x30, 0x32, 0x3A))  # PUBLISH of QoS 0, of QoS 1, of QoS 1 again


def _because(words: str) -> Properties:
    return Properties({Property.REASON_STRING: words})


def _reason(why: str) -> Reason:
    """Of what the device API refused."""
    if why == Turned.FOREIGN:
        return Reason.NOT_AUTHORIZED
    return Reason.PAYLOAD_FORMAT if isinstance(why, Unreadable) else Reason.IMPLEMENTATION


_TURNED: Final = {
    Turned.MISSING: Reason.BAD_LOGIN,
    Turned.UNKNOWN: Reason.NOT_AUTHORIZED,
    Turned.FLOOD: Reason.CONNECTION_RATE,
}
_RETURN_CODES: Final = {  # of 3.1.1 [3.1.1: 3.2.2.3]
    Reason.VERSION: 1,
    Reason.CLIENT_ID: 2,
    Reason.UNAVAILABLE: 3,
    Reason.QUOTA: 3,
    Reason.CONNECTION_RATE: 3,
    Reason.BAD_LOGIN: 4,
    Reason.NOT_AUTHORIZED: 5,
}
