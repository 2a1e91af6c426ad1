"""MQTT packets: which packet do these bytes hold, and which bytes is this packet? 3.1.1 (level 4) and 5 (level 5).

Rules of the file
  1  Values in, values out; nothing is known of connections, sessions or time.
  2  Whatever the bytes, nothing is raised but `Malformed` and its kind `ProtocolError`, each with the reason code of
     MQTT 5 that says it best. 3.1.1 has no such codes: there the connection just ends.
  3  The work is bounded before it begins: a packet that announces more than is taken is refused at the announcement
     (`head`), nothing is read beyond the length that was announced, and no more filters than a session may have.
  4  What only a conversation can judge (an identifier in use, a topic that is somebody else's) is not judged here.

Sections in brackets are those of the OASIS standards, MQTT 5.0 where nothing else is said.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, Literal, NamedTuple

from fleet import limits

V311: Final = 4
V5: Final = 5
PACKET_BYTES_MAX: Final = 268_435_455  # what a remaining length can say [2.1.4]


class Kind(IntEnum):
    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class Reason(IntEnum):
    """The reason codes of MQTT 5 [2.4]."""

    SUCCESS = 0x00  # and normal disconnection, and granted QoS 0
    GRANTED_1 = 0x01
    GRANTED_2 = 0x02
    WITH_WILL = 0x04
    NO_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION = 0x11
    CONTINUE = 0x18
    AGAIN = 0x19
    UNSPECIFIED = 0x80
    MALFORMED = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION = 0x83
    VERSION = 0x84
    CLIENT_ID = 0x85
    BAD_LOGIN = 0x86
    NOT_AUTHORIZED = 0x87
    UNAVAILABLE = 0x88
    BUSY = 0x89
    BANNED = 0x8A
    SHUTTING_DOWN = 0x8B
    BAD_METHOD = 0x8C
    KEEP_ALIVE = 0x8D
    TAKEN_OVER = 0x8E
    FILTER_INVALID = 0x8F
    TOPIC_INVALID = 0x90
    ID_IN_USE = 0x91
    ID_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM = 0x93
    ALIAS_INVALID = 0x94
    TOO_LARGE = 0x95
    RATE = 0x96
    QUOTA = 0x97
    ADMINISTRATIVE = 0x98
    PAYLOAD_FORMAT = 0x99
    NO_RETAIN = 0x9A
    NO_QOS = 0x9B
    OTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    NO_SHARED = 0x9E
    CONNECTION_RATE = 0x9F
    CONNECT_TIME = 0xA0
    NO_SUBSCRIPTION_IDS = 0xA1
    NO_WILDCARDS = 0xA2


class Malformed(Exception):
    """Bytes that are no packet. str() says what is wrong, `reason` the code of MQTT 5 for it."""

    default = Reason.MALFORMED

    def __init__(self, words: str, reason: Reason | None = None) -> None:
        super().__init__(words)
        self.reason = self.default if reason is None else reason


class ProtocolError(Malformed):
    """A packet that may not be, or not say this."""

    default = Reason.PROTOCOL_ERROR


# -- properties ---------------------------------------------------------------------------------------------------


class Property(IntEnum):
    """[2.2.2.2]"""

    PAYLOAD_FORMAT = 0x01
    MESSAGE_EXPIRY = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION = 0x09
    SUBSCRIPTION_ID = 0x0B
    SESSION_EXPIRY = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTH_METHOD = 0x15
    AUTH_DATA = 0x16
    REQUEST_PROBLEM = 0x17
    WILL_DELAY = 0x18
    REQUEST_RESPONSE = 0x19
    RESPONSE_INFORMATION = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER = 0x26
    PACKET_MAXIMUM = 0x27
    WILDCARDS_AVAILABLE = 0x28
    SUBSCRIPTION_IDS_AVAILABLE = 0x29
    SHARED_AVAILABLE = 0x2A


Value = int | str | bytes | list[int] | list[tuple[str, str]]


class Properties(dict[Property, Value]):
    """What a packet says beside its fields. User properties and, in PUBLISH, subscription identifiers are lists."""

    def number(self, name: Property, default: int) -> int:
        value = self.get(name, default)
        return value if isinstance(value, int) else default

    def text(self, name: Property) -> str:
        value = self.get(name, "")
        return value if isinstance(value, str) else ""


NONE: Final = Properties()  # never changed
WILL: Final = 0  # the place of properties in a will, beside the kinds of packets

_Type = Literal["byte", "two", "four", "varint", "text", "binary", "pair"]


class _Rule(NamedTuple):
    type: _Type
    places: frozenset[int]
    least: int = 0  # for numbers
    most: int = 0xFFFF_FFFF


def _rule(kind: _Type, *places: int, least: int = 0, most: int = 0xFFFF_FFFF) -> _Rule:
    return _Rule(kind, frozenset(places), least, most)


_ACKS = (Kind.PUBACK, Kind.PUBREC, Kind.PUBREL, Kind.PUBCOMP, Kind.SUBACK, Kind.UNSUBACK)
_RULES: Final[dict[int, _Rule]] = {
    Property.PAYLOAD_FORMAT: _rule("byte", Kind.PUBLISH, WILL, most=1),
    Property.MESSAGE_EXPIRY: _rule("four", Kind.PUBLISH, WILL),
    Property.CONTENT_TYPE: _rule("text", Kind.PUBLISH, WILL),
    Property.RESPONSE_TOPIC: _rule("text", Kind.PUBLISH, WILL),
    Property.CORRELATION: _rule("binary", Kind.PUBLISH, WILL),
    Property.SUBSCRIPTION_ID: _rule("varint", Kind.PUBLISH, Kind.SUBSCRIBE, least=1),
    Property.SESSION_EXPIRY: _rule("four", Kind.CONNECT, Kind.CONNACK, Kind.DISCONNECT),
    Property.ASSIGNED_CLIENT_ID: _rule("text", Kind.CONNACK),
    Property.SERVER_KEEP_ALIVE: _rule("two", Kind.CONNACK),
    Property.AUTH_METHOD: _rule("text", Kind.CONNECT, Kind.CONNACK, Kind.AUTH),
    Property.AUTH_DATA: _rule("binary", Kind.CONNECT, Kind.CONNACK, Kind.AUTH),
    Property.REQUEST_PROBLEM: _rule("byte", Kind.CONNECT, most=1),
    Property.WILL_DELAY: _rule("four", WILL),
    Property.REQUEST_RESPONSE: _rule("byte", Kind.CONNECT, most=1),
    Property.RESPONSE_INFORMATION: _rule("text", Kind.CONNACK),
    Property.SERVER_REFERENCE: _rule("text", Kind.CONNACK, Kind.DISCONNECT),
    Property.REASON_STRING: _rule("text", Kind.CONNACK, *_ACKS, Kind.DISCONNECT, Kind.AUTH),
    Property.RECEIVE_MAXIMUM: _rule("two", Kind.CONNECT, Kind.CONNACK, least=1),
    Property.ALIAS_MAXIMUM: _rule("two", Kind.CONNECT, Kind.CONNACK),
    Property.TOPIC_ALIAS: _rule("two", Kind.PUBLISH),
    Property.MAXIMUM_QOS: _rule("byte", Kind.CONNACK, most=1),
    Property.RETAIN_AVAILABLE: _rule("byte", Kind.CONNACK, most=1),
    Property.USER: _rule(
        "pair", Kind.CONNECT, Kind.CONNACK, Kind.PUBLISH, WILL, *_ACKS, Kind.SUBSCRIBE, Kind.UNSUBSCRIBE,
        Kind.DISCONNECT, Kind.AUTH,
    ),
    Property.PACKET_MAXIMUM: _rule("four", Kind.CONNECT, Kind.CONNACK, least=1),
    Property.WILDCARDS_AVAILABLE: _rule("byte", Kind.CONNACK, most=1),
    Property.SUBSCRIPTION_IDS_AVAILABLE: _rule("byte", Kind.CONNACK, most=1),
    Property.SHARED_AVAILABLE: _rule("byte", Kind.CONNACK, most=1),
}  # fmt: skip


# -- packets ------------------------------------------------------------------------------------------------------


class Will(NamedTuple):
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = NONE


class Connect(NamedTuple):
    """`clean`: Clean Session of 3.1.1, Clean Start of 5."""

    level: int
    client_id: str
    clean: bool = True
    keep_alive_s: int = 0
    will: Will | None = None
    user: str | None = None
    password: bytes | None = None
    properties: Properties = NONE


class Connack(NamedTuple):
    """`reason`: of MQTT 5 at level 5, the return code of 3.1.1 (0 to 5) at level 4."""

    reason: int
    session_present: bool = False
    properties: Properties = NONE


class Publish(NamedTuple):
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = NONE


class Ack(NamedTuple):
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""

    kind: Kind
    packet_id: int
    reason: int = 0
    properties: Properties = NONE


class Filter(NamedTuple):
    """One line of a SUBSCRIBE. `handling` of retained messages: 0 send, 1 only when new, 2 never."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    as_published: bool = False
    handling: int = 0


class Subscribe(NamedTuple):
    packet_id: int
    filters: tuple[Filter, ...]
    properties: Properties = NONE


class Unsubscribe(NamedTuple):
    packet_id: int
    filters: tuple[str, ...]
    properties: Properties = NONE


class Granted(NamedTuple):
    """SUBACK or UNSUBACK; an UNSUBACK of 3.1.1 has no reasons."""

    kind: Kind
    packet_id: int
    reasons: tuple[int, ...] = ()
    properties: Properties = NONE


class Ping(NamedTuple):
    """PINGREQ or PINGRESP."""

    kind: Kind


class Disconnect(NamedTuple):
    reason: int = 0
    properties: Properties = NONE


class Auth(NamedTuple):
    reason: int = 0
    properties: Properties = NONE


Packet = Connect | Connack | Publish | Ack | Subscribe | Unsubscribe | Granted | Ping | Disconnect | Auth


# -- from bytes ---------------------------------------------------------------------------------------------------


def head(data: bytes | bytearray, at: int, packet_bytes_max: int) -> tuple[int, int, int] | None:
    """Of the packet that begins at `at`: its first byte, where its body begins, and where it ends (perhaps behind what
    is there). None while its length is not all there. ProtocolError when it announces more than is taken."""
    start = length = shift = 0
    for start in range(at + 1, at + 5):
        if start >= len(data):
            return None
        digit = data[start]
        length |= (digit & 0x7F) << shift
        if not digit & 0x80:
            break
        shift += 7
    else:
        raise Malformed("the remaining length has more than four bytes")
    if start > at + 1 and not data[start]:
        raise Malformed("the remaining length is longer than it need be")
    if start + 1 + length - at > packet_bytes_max:
        raise ProtocolError(f"a packet has at most {packet_bytes_max} bytes here", Reason.TOO_LARGE)
    return data[at], start + 1, start + 1 + length


_FLAGS: Final = {Kind.PUBREL: 2, Kind.SUBSCRIBE: 2, Kind.UNSUBSCRIBE: 2}  # [2.1.3]; elsewhere 0, PUBLISH apart


def decode(first: int, body: bytes, level: int) -> Packet:
    """The packet with this first byte and this body, at this protocol level (of no consequence for CONNECT)."""
    kind, flags = first >> 4, first & 0x0F
    reader = _READERS.get(kind)
    if reader is None or (kind == Kind.AUTH and level != V5):
        raise Malformed(f"there is no packet of type {kind}")
    if kind != Kind.PUBLISH and flags != _FLAGS.get(Kind(kind), 0):
        raise Malformed(f"the flags of {Kind(kind).name} are {flags:04b}")
    return reader(_Body(body), flags, level)


def level_of(body: bytes) -> int:
    """The protocol level that the body of a CONNECT announces, 0 when it names no MQTT at all."""
    for name in (b"\x00\x04MQTT", b"\x00\x06MQIsdp"):
        if body.startswith(name) and len(body) > len(name):
            return body[len(name)]
    return 0


class _Body:
    """Reads a body from its beginning. Malformed when it ends too early."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise Malformed("the packet ends too early")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def byte(self) -> int:
        return self.take(1)[0]

    def two(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def four(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def varint(self) -> int:
        """[1.5.5]"""
        value = 0
        for shift in (0, 7, 14, 21):
            digit = self.byte()
            value |= (digit & 0x7F) << shift
            if not digit & 0x80:
                if shift and not digit:
                    raise Malformed("a number is longer than it need be")
                return value
        raise Malformed("a number has more than four bytes")

    def binary(self) -> bytes:
        return self.take(self.two())

    def text(self) -> str:
        """[1.5.4]"""
        return text(self.binary())

    def pair(self) -> tuple[str, str]:
        return self.text(), self.text()

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def rest(self) -> bytes:
        return self.take(self.left)

    def end(self) -> None:
        if self.left:
            raise Malformed(f"{self.left} bytes too many")

    def packet_id(self) -> int:
        number = self.two()
        if not number:
            raise ProtocolError("the packet identifier is 0")
        return number

    def properties(self, place: int, level: int) -> Properties:
        """[2.2.2]"""
        if level != V5:
            return NONE
        size = self.varint()
        if not size:
            return NONE
        end = self.at + size
        if end > len(self.data):
            raise Malformed("the properties are longer than the packet")
        found = Properties()
        while self.at < end:
            self._property(found, place)
        if self.at != end:
            raise Malformed("a property reaches beyond the properties")
        return found

    def _property(self, found: Properties, place: int) -> None:
        number = self.varint()
        rule = _RULES.get(number)
        if rule is None or place not in rule.places:
            raise Malformed(f"property {number} may not stand here")
        name = Property(number)
        value: int | str | bytes | tuple[str, str] = _TYPES[rule.type](self)
        if isinstance(value, int) and not rule.least <= value <= rule.most:
            raise ProtocolError(f"{name.name} is {value}")
        if isinstance(value, tuple):
            pairs = found.setdefault(name, [])
            assert isinstance(pairs, list)
            pairs.append(value)  # type: ignore[arg-type]
        elif name is Property.SUBSCRIPTION_ID and place == Kind.PUBLISH:
            numbers = found.setdefault(name, [])
            assert isinstance(numbers, list)
            numbers.append(value)  # type: ignore[arg-type]
        elif name in found:
            raise ProtocolError(f"{name.name} stands there twice")
        else:
            found[name] = value


_TYPES: Final[dict[_Type, Callable[[_Body], int | str | bytes | tuple[str, str]]]] = {
    "byte": _Body.byte,
    "two": _Body.two,
    "four": _Body.four,
    "varint": _Body.varint,
    "text": _Body.text,
    "binary": _Body.binary,
    "pair": _Body.pair,
}


def text(raw: bytes) -> str:
    try:
        words = raw.decode()
    except UnicodeDecodeError:
        raise Malformed("a text is no UTF-8") from None
    if "\0" in words:
        raise Malformed("a text holds U+0000")
    return words


def topic_name(raw: bytes) -> str:
    """The topic that a message is published to [4.7]; empty stays empty."""
    words = text(raw)
    if "+" in words or "#" in words:
        raise ProtocolError("a message is published to one topic, not to a filter", Reason.TOPIC_INVALID)
    return words


def _connect(body: _Body, flags: int, level: int) -> Connect:
    name, level = body.binary(), body.byte()
    if (name, level) not in ((b"MQTT", V311), (b"MQTT", V5)):
        raise ProtocolError("this speaks MQTT 3.1.1 and 5", Reason.VERSION)
    flags = body.byte()
    if flags & 1:
        raise Malformed("the reserved flag of CONNECT is set")
    qos, willed, retain = flags >> 3 & 3, bool(flags & 4), bool(flags & 0x20)
    if qos == 3 or (not willed and (qos or retain)):
        raise Malformed("the flags of the will contradict each other")
    if flags & 0xC0 == 0x40 and level == V311:
        raise ProtocolError("a password without a user name")
    keep_alive_s = body.two()
    properties = body.properties(Kind.CONNECT, level)
    if Property.AUTH_DATA in properties and Property.AUTH_METHOD not in properties:
        raise ProtocolError("authentication data without a method")
    client_id = body.text()
    will = None
    if willed:
        will_properties = body.properties(WILL, level)
        _response_topic(will_properties)
        topic = topic_name(body.binary())
        if not topic:
            raise ProtocolError("the will has no topic", Reason.TOPIC_INVALID)
        will = Will(topic, body.binary(), qos, retain, will_properties)
    user = body.text() if flags & 0x80 else None
    password = body.binary() if flags & 0x40 else None
    body.end()
    return Connect(level, client_id, bool(flags & 2), keep_alive_s, will, user, password, properties)


def _response_topic(properties: Properties) -> None:
    words = properties.text(Property.RESPONSE_TOPIC)
    if "+" in words or "#" in words:
        raise ProtocolError("a response goes to one topic, not to a filter", Reason.TOPIC_INVALID)


def _connack(body: _Body, flags: int, level: int) -> Connack:
    flags, reason = body.byte(), body.byte()
    if flags & 0xFE or (flags and reason):
        raise Malformed("the flags of CONNACK")
    properties = body.properties(Kind.CONNACK, level)
    body.end()
    return Connack(reason, bool(flags), properties)


def _publish(body: _Body, flags: int, level: int) -> Publish:
    qos, dup = flags >> 1 & 3, bool(flags & 8)
    if qos == 3:
        raise Malformed("there is no QoS 3")
    if dup and not qos:
        raise Malformed("a message of QoS 0 is never a duplicate")
    topic = topic_name(body.binary())
    packet_id = body.packet_id() if qos else 0
    properties = body.properties(Kind.PUBLISH, level)
    _response_topic(properties)
    if not topic and Property.TOPIC_ALIAS not in properties:
        raise ProtocolError("a message without a topic", Reason.TOPIC_INVALID)
    return Publish(topic, body.rest(), qos, bool(flags & 1), dup, packet_id, properties)


_ACK_REASONS: Final = {
    Kind.PUBACK: frozenset((0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)),
    Kind.PUBREL: frozenset((0x00, 0x92)),
}
_ACK_REASONS[Kind.PUBREC] = _ACK_REASONS[Kind.PUBACK]
_ACK_REASONS[Kind.PUBCOMP] = _ACK_REASONS[Kind.PUBREL]


def _reader_of_ack(kind: Kind) -> _Reader:
    def read(body: _Body, flags: int, level: int) -> Ack:
        packet_id = body.packet_id()
        if level != V5 or not body.left:
            body.end()
            return Ack(kind, packet_id)
        reason = _reason(body, _ACK_REASONS[kind])
        properties = body.properties(kind, level) if body.left else NONE
        body.end()
        return Ack(kind, packet_id, reason, properties)

    return read


def _reason(body: _Body, known: frozenset[int]) -> int:
    reason = body.byte()
    if reason not in known:
        raise ProtocolError(f"reason code {reason:#04x} may not stand here")
    return reason


def _subscribe(body: _Body, flags: int, level: int) -> Subscribe:
    packet_id = body.packet_id()
    properties = body.properties(Kind.SUBSCRIBE, level)
    filters: list[Filter] = []
    while body.left:
        words, options = body.text(), body.byte()
        qos, handling = options & 3, options >> 4 & 3
        if options & (0xC0 if level == V5 else 0xFC) or qos == 3:
            raise Malformed("the options of a subscription")
        if handling == 3:
            raise ProtocolError("there is no retain handling 3")
        one = Filter(words, qos, bool(options & 4), bool(options & 8), handling)
        if one.no_local and words.startswith("$share/"):
            raise ProtocolError("a shared subscription cannot leave out what is local")
        if len(filters) == limits.mqtt_subscriptions_max:
            raise ProtocolError("more filters than a session may have", Reason.QUOTA)
        filters.append(one)
    if not filters:
        raise ProtocolError("a SUBSCRIBE without a filter")
    return Subscribe(packet_id, tuple(filters), properties)


def _unsubscribe(body: _Body, flags: int, level: int) -> Unsubscribe:
    packet_id = body.packet_id()
    properties = body.properties(Kind.UNSUBSCRIBE, level)
    filters: list[str] = []
    while body.left:
        if len(filters) == limits.mqtt_subscriptions_max:
            raise ProtocolError("more filters than a session may have", Reason.QUOTA)
        filters.append(body.text())
    if not filters:
        raise ProtocolError("an UNSUBSCRIBE without a filter")
    return Unsubscribe(packet_id, tuple(filters), properties)


_SUBACK_REASONS: Final = {
    V311: frozenset((0, 1, 2, 0x80)),
    V5: frozenset((0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2)),
}
_UNSUBACK_REASONS: Final = frozenset((0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91))


def _suback(body: _Body, flags: int, level: int) -> Granted:
    packet_id = body.packet_id()
    properties = body.properties(Kind.SUBACK, level)
    known = _SUBACK_REASONS.get(level, _SUBACK_REASONS[V311])
    reasons = tuple(_reason(body, known) for _ in range(body.left))
    if not reasons:
        raise ProtocolError("a SUBACK without a reason code")
    return Granted(Kind.SUBACK, packet_id, reasons, properties)


def _unsuback(body: _Body, flags: int, level: int) -> Granted:
    packet_id = body.packet_id()
    properties = body.properties(Kind.UNSUBACK, level)
    if level != V5:
        body.end()
    reasons = tuple(_reason(body, _UNSUBACK_REASONS) for _ in range(body.left))
    if level == V5 and not reasons:
        raise ProtocolError("an UNSUBACK without a reason code")
    return Granted(Kind.UNSUBACK, packet_id, reasons, properties)


def _reader_of_ping(kind: Kind) -> _Reader:
    def read(body: _Body, flags: int, level: int) -> Ping:
        body.end()
        return Ping(kind)

    return read


_DISCONNECT_REASONS: Final = frozenset(
    (0x00, 0x04, *range(0x80, 0x84), 0x87, 0x89, 0x8B, *range(0x8D, 0x91), *range(0x93, 0xA3))
)  # fmt: skip
_AUTH_REASONS: Final = frozenset((0x00, 0x18, 0x19))


def _disconnect(body: _Body, flags: int, level: int) -> Disconnect:
    if level != V5 or not body.left:
        body.end()
        return Disconnect()
    reason = _reason(body, _DISCONNECT_REASONS)
    properties = body.properties(Kind.DISCONNECT, level) if body.left else NONE
    body.end()
    return Disconnect(reason, properties)


def _auth(body: _Body, flags: int, level: int) -> Auth:
    if not body.left:
        return Auth()
    reason = _reason(body, _AUTH_REASONS)
    properties = body.properties(Kind.AUTH, level) if body.left else NONE
    body.end()
    return Auth(reason, properties)


_Reader = Callable[[_Body, int, int], Packet]
_READERS: Final[dict[int, _Reader]] = {
    Kind.CONNECT: _connect,
    Kind.CONNACK: _connack,
    Kind.PUBLISH: _publish,
    **{kind: _reader_of_ack(kind) for kind in (Kind.PUBACK, Kind.PUBREC, Kind.PUBREL, Kind.PUBCOMP)},
    Kind.SUBSCRIBE: _subscribe,
    Kind.SUBACK: _suback,
    Kind.UNSUBSCRIBE: _unsubscribe,
    Kind.UNSUBACK: _unsuback,
    Kind.PINGREQ: _reader_of_ping(Kind.PINGREQ),
    Kind.PINGRESP: _reader_of_ping(Kind.PINGRESP),
    Kind.DISCONNECT: _disconnect,
    Kind.AUTH: _auth,
}


# -- to bytes -----------------------------------------------------------------------------------------------------
# What is encoded is ours, so it is not judged: whoever makes a packet knows what may stand in it.


def varint(number: int) -> bytes:
    digits = bytearray()
    while True:
        number, digit = number >> 7, number & 0x7F
        digits.append(digit | 0x80 if number else digit)
        if not number:
            return bytes(digits)


def _two(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _long(raw: bytes | str) -> bytes:
    raw = raw if isinstance(raw, bytes) else raw.encode()
    return _two(len(raw)) + raw


def _properties(properties: Properties, level: int) -> bytes:
    if level != V5:
        return b""
    said = b"".join(_said(name, value) for name, value in properties.items())
    return varint(len(said)) + said


_NUMBERS: Final[dict[str, Callable[[int], bytes]]] = {
    "byte": lambda number: bytes((number,)),
    "two": _two,
    "four": lambda number: number.to_bytes(4, "big"),
    "varint": varint,
}


def _said(name: Property, value: Value) -> bytes:
    mark = bytes((name,))
    if isinstance(value, int):
        return mark + _NUMBERS[_RULES[name].type](value)
    if isinstance(value, list):
        pieces = (mark + (varint(one) if isinstance(one, int) else _long(one[0]) + _long(one[1])) for one in value)
        return b"".join(pieces)
    return mark + _long(value)


def _framed(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((first,)) + varint(len(body)) + body


def _will(will: Will | None, level: int) -> bytes:
    if will is None:
        return b""
    return _properties(will.properties, level) + _long(will.topic) + _long(will.payload)


def _with_reason(kind: Kind, reason: int, properties: Properties, level: int, before: bytes = b"") -> bytes:
    """A packet whose reason and properties are left out when they say nothing."""
    flags = _FLAGS.get(kind, 0)
    if level != V5 or (not reason and not properties):
        return _framed(kind << 4 | flags, before)
    said = _properties(properties, level) if properties else b""
    return _framed(kind << 4 | flags, before, bytes((reason,)), said)


def encode(packet: Packet, level: int) -> bytes:
    """The bytes of a packet at this protocol level."""
    match packet:
        case Publish(topic, payload, qos, retain, dup, packet_id, properties):
            first = Kind.PUBLISH << 4 | dup << 3 | qos << 1 | retain
            number = _two(packet_id) if qos else b""
            return _framed(first, _long(topic), number, _properties(properties, level), payload)
        case Ack(kind, packet_id, reason, properties):
            return _with_reason(kind, reason, properties, level, _two(packet_id))
        case Ping(kind):
            return _framed(kind << 4)
        case Granted(kind, packet_id, reasons, properties):
            said = bytes(reasons) if kind is Kind.SUBACK or level == V5 else b""
            return _framed(kind << 4, _two(packet_id), _properties(properties, level), said)
        case Connack(reason, present, properties):
            return _framed(Kind.CONNACK << 4, bytes((present, reason)), _properties(properties, level))
        case Disconnect(reason, properties):
            return _with_reason(Kind.DISCONNECT, reason, properties, level)
        case Auth(reason, properties):
            return _with_reason(Kind.AUTH, reason, properties, level)
        case Subscribe(packet_id, filters, properties):
            return _framed(Kind.SUBSCRIBE << 4 | 2, _two(packet_id), _properties(properties, level), _options(filters))
        case Unsubscribe(packet_id, names, properties):
            said = b"".join(map(_long, names))
            return _framed(Kind.UNSUBSCRIBE << 4 | 2, _two(packet_id), _properties(properties, level), said)
        case Connect():
            return _framed(Kind.CONNECT << 4, *_connect_parts(packet))


def _options(filters: Sequence[Filter]) -> bytes:
    return b"".join(
        _long(words) + bytes((qos | no_local << 2 | as_published << 3 | handling << 4,))
        for words, qos, no_local, as_published, handling in filters
    )


def _connect_parts(connect: Connect) -> tuple[bytes, ...]:
    level, will = connect.level, connect.will
    flags = connect.clean << 1 | (connect.user is not None) << 7 | (connect.password is not None) << 6
    if will is not None:
        flags |= 4 | will.qos << 3 | will.retain << 5
    return (
        _long(b"MQTT"),
        struct.pack("!BBH", level, flags, connect.keep_alive_s),
        _properties(connect.properties, level),
        _long(connect.client_id),
        _will(will, level),
        _long(connect.user) if connect.user is not None else b"",
        _long(connect.password) if connect.password is not None else b"",
    )
