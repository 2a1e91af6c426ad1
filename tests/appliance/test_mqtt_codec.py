"""The codec of MQTT: what is written is read back, what is no packet is refused with the reason that says it best."""

from __future__ import annotations

import contextlib

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.intake import mqtt_codec as codec
from appliance.intake.mqtt_codec import (
    NONE,
    V5,
    V311,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Filter,
    Granted,
    Kind,
    Malformed,
    Packet,
    Ping,
    Properties,
    Property,
    ProtocolError,
    Publish,
    Reason,
    Subscribe,
    Unsubscribe,
    Will,
    decode,
    encode,
    head,
)

BIG = 1 << 20


def read(data: bytes, level: int) -> Packet:
    found = head(data, 0, BIG)
    assert found is not None
    first, begin, end = found
    assert end == len(data)
    return decode(first, data[begin:end], level)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
TOPICS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=40)
BLOBS = st.binary(max_size=300)
IDS = st.integers(1, 0xFFFF)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3)
VALUES: dict[Property, st.SearchStrategy[codec.Value]] = {
    Property.USER: PAIRS,
    Property.PAYLOAD_FORMAT: st.integers(0, 1),
    Property.MESSAGE_EXPIRY: st.integers(0, 0xFFFF_FFFF),
    Property.CONTENT_TYPE: TEXTS,
    Property.RESPONSE_TOPIC: TOPICS,
    Property.CORRELATION: BLOBS,
    Property.TOPIC_ALIAS: st.integers(0, 0xFFFF),
    Property.SESSION_EXPIRY: st.integers(0, 0xFFFF_FFFF),
    Property.RECEIVE_MAXIMUM: st.integers(1, 0xFFFF),
    Property.PACKET_MAXIMUM: st.integers(1, 0xFFFF_FFFF),
    Property.WILL_DELAY: st.integers(0, 0xFFFF_FFFF),
    Property.REASON_STRING: TEXTS,
    Property.REQUEST_PROBLEM: st.integers(0, 1),
    Property.AUTH_METHOD: TEXTS,
    Property.ASSIGNED_CLIENT_ID: TEXTS,
    Property.SERVER_KEEP_ALIVE: st.integers(0, 0xFFFF),
}


def said(*names: Property) -> st.SearchStrategy[Properties]:
    return st.fixed_dictionaries({}, optional={name: VALUES[name] for name in names}).map(Properties)


OF_MESSAGES = said(
    Property.USER, Property.PAYLOAD_FORMAT, Property.MESSAGE_EXPIRY, Property.CONTENT_TYPE, Property.RESPONSE_TOPIC,
    Property.CORRELATION,
)  # fmt: skip
OF_ACKS = said(Property.USER, Property.REASON_STRING)


@st.composite
def packets(draw: st.DrawFn) -> tuple[Packet, int]:
    level = draw(st.sampled_from((V311, V5)))

    def with_level(properties: st.SearchStrategy[Properties]) -> Properties:
        return draw(properties) if level == V5 else NONE

    kind = draw(st.sampled_from(list(Kind)[: 15 if level == V5 else 14]))
    match kind:
        case Kind.CONNECT:
            will = None
            if draw(st.booleans()):
                more = said(Property.USER, Property.WILL_DELAY, Property.CONTENT_TYPE, Property.RESPONSE_TOPIC)
                will = Will(draw(TOPICS), draw(BLOBS), draw(st.integers(0, 2)), draw(st.booleans()), with_level(more))
            user = draw(st.none() | TEXTS)
            password = draw(st.none() | BLOBS) if user is not None or level == V5 else None
            wishes = said(
                Property.USER, Property.SESSION_EXPIRY, Property.RECEIVE_MAXIMUM, Property.PACKET_MAXIMUM,
                Property.REQUEST_PROBLEM, Property.AUTH_METHOD,
            )  # fmt: skip
            keep_alive_s = draw(st.integers(0, 0xFFFF))
            return Connect(
                level, draw(TEXTS), draw(st.booleans()), keep_alive_s, will, user, password, with_level(wishes)
            ), level
        case Kind.CONNACK:
            reason = draw(st.sampled_from((0, 1, 5)))
            granted = said(
                Property.USER, Property.ASSIGNED_CLIENT_ID, Property.SERVER_KEEP_ALIVE, Property.REASON_STRING
            )
            return Connack(reason, draw(st.booleans()) and not reason, with_level(granted)), level
        case Kind.PUBLISH:
            qos = draw(st.integers(0, 2))
            dup, number = bool(qos) and draw(st.booleans()), draw(IDS) if qos else 0
            return Publish(
                draw(TOPICS), draw(BLOBS), qos, draw(st.booleans()), dup, number, with_level(OF_MESSAGES)
            ), level
        case Kind.PUBACK | Kind.PUBREC | Kind.PUBREL | Kind.PUBCOMP:
            reason = draw(st.sampled_from((0, 0x92) if kind >= Kind.PUBREL else (0, 0x10, 0x97))) if level == V5 else 0
            return Ack(kind, draw(IDS), reason, with_level(OF_ACKS)), level
        case Kind.SUBSCRIBE:
            none = st.just(False)
            line = st.builds(Filter, TOPICS, st.integers(0, 2), none, none, st.just(0))
            if level == V5:
                line = st.builds(Filter, TOPICS, st.integers(0, 2), none, st.booleans(), st.integers(0, 2))
            filters = tuple(draw(st.lists(line, min_size=1, max_size=4)))
            return Subscribe(draw(IDS), filters, with_level(said(Property.USER))), level
        case Kind.UNSUBSCRIBE:
            names = tuple(draw(st.lists(TOPICS, min_size=1, max_size=4)))
            return Unsubscribe(draw(IDS), names, with_level(said(Property.USER))), level
        case Kind.SUBACK:
            reasons = tuple(draw(st.lists(st.sampled_from((0, 1, 2, 0x80)), min_size=1, max_size=4)))
            return Granted(kind, draw(IDS), reasons, with_level(OF_ACKS)), level
        case Kind.UNSUBACK:
            reasons = tuple(draw(st.lists(st.sampled_from((0, 0x11)), min_size=1, max_size=4))) if level == V5 else ()
            return Granted(kind, draw(IDS), reasons, with_level(OF_ACKS)), level
        case Kind.DISCONNECT:
            reason = draw(st.sampled_from((0, 4, 0x81, 0x8E, 0xA2))) if level == V5 else 0
            return Disconnect(reason, with_level(said(Property.USER, Property.SESSION_EXPIRY))), level
        case Kind.AUTH:
            return Auth(draw(st.sampled_from((0, 0x18, 0x19))), draw(said(Property.USER, Property.AUTH_METHOD))), level
        case _:
            return Ping(kind), level


@given(packets())
def test_every_packet_that_is_written_is_read_back(made: tuple[Packet, int]) -> None:
    packet, level = made
    assert read(encode(packet, level), level) == packet


@given(packets(), st.data())
def test_a_packet_that_ends_too_early_is_malformed_or_another_packet(
    made: tuple[Packet, int], data: st.DataObject
) -> None:
    packet, level = made
    whole = encode(packet, level)
    found = head(whole, 0, BIG)
    assert found is not None
    body = whole[found[1] :]
    cut = body[: data.draw(st.integers(0, max(len(body) - 1, 0)))]
    with contextlib.suppress(Malformed):
        assert decode(found[0], cut, level) != packet or cut == body


@pytest.mark.parametrize(
    ("length", "said"),
    [(0, "00"), (127, "7f"), (128, "8001"), (16_383, "ff7f"), (16_384, "808001"), (2_097_151, "ffff7f"),
     (2_097_152, "80808001"), (268_435_455, "ffffff7f")],
)  # fmt: skip
def test_lengths_at_their_bounds_are_those_of_the_standard(length: int, said: str) -> None:
    assert codec.varint(length).hex() == said
    data = b"\x30" + bytes.fromhex(said)
    assert head(data, 0, codec.PACKET_BYTES_MAX + 5) == (0x30, len(data), len(data) + length)
    for cut in range(len(data)):
        assert head(data[:cut], 0, codec.PACKET_BYTES_MAX + 5) is None


def test_what_announces_too_much_is_refused_at_the_announcement() -> None:
    with pytest.raises(ProtocolError, match="at most 65536 bytes") as caught:
        head(bytes.fromhex("30ffffff7f"), 0, 65_536)
    assert caught.value.reason is Reason.TOO_LARGE
    assert head(b"\x30" + codec.varint(65_536 - 4), 0, 65_536) is not None
    with pytest.raises(ProtocolError):
        head(b"\x30" + codec.varint(65_536 - 3), 0, 65_536)


@pytest.mark.parametrize("said", ["30ffffffff", "3080808080", "308000", "30808000", "3080808000"])
def test_a_length_of_five_bytes_or_longer_than_it_need_be_is_malformed(said: str) -> None:
    with pytest.raises(Malformed) as caught:
        head(bytes.fromhex(said + "00"), 0, codec.PACKET_BYTES_MAX)
    assert caught.value.reason is Reason.MALFORMED


NAME4, NAME5 = "00044d51545404", "00044d51545405"
BOTH = (V311, V5)
BAD: list[tuple[str, str, tuple[int, ...], Reason]] = [
    ("type 0", "00", BOTH, Reason.MALFORMED),
    ("AUTH in 3.1.1", "f0", (V311,), Reason.MALFORMED),
    *((f"flags of {kind.name}", f"{kind << 4 | flags:02x}", BOTH, Reason.MALFORMED)
      for kind in Kind if kind is not Kind.PUBLISH
      for flags in range(16) if flags != (2 if kind in (Kind.PUBREL, Kind.SUBSCRIBE, Kind.UNSUBSCRIBE) else 0)),
    ("CONNECT that is empty", "10", BOTH, Reason.MALFORMED),
    ("CONNECT of another protocol", "10" + "00044d515458040200000000", BOTH, Reason.VERSION),
    ("CONNECT of MQTT 3.1", "10" + "00064d51497364700302003c0003626f62", BOTH, Reason.VERSION),
    ("CONNECT of level 6", "10" + "00044d5154540602003c0003626f62", BOTH, Reason.VERSION),
    ("CONNECT with the reserved flag", "10" + NAME4 + "03" + "0000" + "0000", BOTH, Reason.MALFORMED),
    ("a will QoS without a will", "10" + NAME4 + "0a" + "0000" + "0000", BOTH, Reason.MALFORMED),
    ("a will retain without a will", "10" + NAME4 + "22" + "0000" + "0000", BOTH, Reason.MALFORMED),
    ("a will QoS 3", "10" + NAME4 + "1e" + "0000" + "0000" + "000161" + "0000", BOTH, Reason.MALFORMED),
    ("a password without a user in 3.1.1", "10" + NAME4 + "42" + "0000" + "0000" + "0000", BOTH, Reason.PROTOCOL_ERROR),
    ("a user name that is missing", "10" + NAME4 + "82" + "0000" + "0000", BOTH, Reason.MALFORMED),
    ("a will that is missing", "10" + NAME4 + "06" + "0000" + "0000", BOTH, Reason.MALFORMED),
    ("a will without a topic", "10" + NAME4 + "06" + "0000" + "0000" + "0000" + "0000", BOTH, Reason.TOPIC_INVALID),
    ("a will to a filter", "10" + NAME4 + "06" + "0000" + "0000" + "000123" + "0000", BOTH, Reason.TOPIC_INVALID),
    ("a client identifier that is missing", "10" + NAME4 + "02" + "0000", BOTH, Reason.MALFORMED),
    ("a client identifier that is no UTF-8", "10" + NAME4 + "02" + "0000" + "0001ff", BOTH, Reason.MALFORMED),
    ("a surrogate", "10" + NAME4 + "02" + "0000" + "0003eda080", BOTH, Reason.MALFORMED),
    ("U+0000", "10" + NAME4 + "02" + "0000" + "000100", BOTH, Reason.MALFORMED),
    ("CONNECT with more behind it", "10" + NAME4 + "02" + "0000" + "0000" + "00", BOTH, Reason.MALFORMED),
    ("properties longer than the packet", "10" + NAME5 + "02" + "0000" + "09", BOTH, Reason.MALFORMED),
    ("a property that does not exist", "10" + NAME5 + "02" + "0000" + "027f00" + "0000", BOTH, Reason.MALFORMED),
    ("a property that may not stand there", "10" + NAME5 + "02" + "0000" + "020100" + "0000", BOTH, Reason.MALFORMED),
    ("a property twice", "10" + NAME5 + "02" + "0000" + "0621000a21000a" + "0000", BOTH, Reason.PROTOCOL_ERROR),
    ("a receive maximum of 0", "10" + NAME5 + "02" + "0000" + "03210000" + "0000", BOTH, Reason.PROTOCOL_ERROR),
    ("a packet maximum of 0", "10" + NAME5 + "02" + "0000" + "052700000000" + "0000", BOTH, Reason.PROTOCOL_ERROR),
    ("a request for problems of 2", "10" + NAME5 + "02" + "0000" + "021702" + "0000", BOTH, Reason.PROTOCOL_ERROR),
    ("authentication data without a method", "10" + NAME5 + "02" + "0000" + "04160001aa" + "0000", BOTH,
     Reason.PROTOCOL_ERROR),
    ("a property cut by the end of the properties", "10" + NAME5 + "02" + "0000" + "022100" + "0a0000", BOTH,
     Reason.MALFORMED),
    ("QoS 3", "36" + "000174" + "0001", BOTH, Reason.MALFORMED),
    ("a duplicate of QoS 0", "38" + "000174", BOTH, Reason.MALFORMED),
    ("a packet identifier of 0", "32" + "000174" + "0000", BOTH, Reason.PROTOCOL_ERROR),
    ("a topic with #", "30" + "000123", BOTH, Reason.TOPIC_INVALID),
    ("a topic with +", "30" + "0003612f2b", BOTH, Reason.TOPIC_INVALID),
    ("no topic", "30" + "0000", (V311,), Reason.TOPIC_INVALID),
    ("no topic and no alias", "30" + "0000" + "00", (V5,), Reason.TOPIC_INVALID),
    ("a topic longer than the packet", "30" + "00ff74", BOTH, Reason.MALFORMED),
    ("a response to a filter", "30" + "000174" + "0408000123", (V5,), Reason.TOPIC_INVALID),
    ("a payload format of 2", "30" + "000174" + "020102", (V5,), Reason.PROTOCOL_ERROR),
    ("a subscription identifier of 0", "82" + "0001" + "020b00" + "00017400", (V5,), Reason.PROTOCOL_ERROR),
    ("a number that is longer than it need be", "82" + "0001" + "030b8000" + "00017400", (V5,), Reason.MALFORMED),
    ("SUBSCRIBE without a filter", "82" + "0001", (V311,), Reason.PROTOCOL_ERROR),
    ("SUBSCRIBE without a filter", "82" + "000100", (V5,), Reason.PROTOCOL_ERROR),
    ("SUBSCRIBE of QoS 3", "82" + "0001" + "00017403", (V311,), Reason.MALFORMED),
    ("SUBSCRIBE of QoS 3", "82" + "000100" + "00017403", (V5,), Reason.MALFORMED),
    ("SUBSCRIBE with reserved bits", "82" + "0001" + "00017404", (V311,), Reason.MALFORMED),
    ("SUBSCRIBE with reserved bits", "82" + "000100" + "00017440", (V5,), Reason.MALFORMED),
    ("a retain handling of 3", "82" + "000100" + "00017430", (V5,), Reason.PROTOCOL_ERROR),
    ("no local on a shared subscription", "82" + "000100" + "000a2473686172652f612f74" + "04", (V5,),
     Reason.PROTOCOL_ERROR),
    ("UNSUBSCRIBE without a filter", "a2" + "0001", (V311,), Reason.PROTOCOL_ERROR),
    ("UNSUBSCRIBE without a filter", "a2" + "000100", (V5,), Reason.PROTOCOL_ERROR),
    ("PUBACK with more behind it", "40" + "000100", (V311,), Reason.MALFORMED),
    ("PUBACK with a reason that it has not", "40" + "000192", (V5,), Reason.PROTOCOL_ERROR),
    ("PUBREL with a reason that it has not", "62" + "000110", (V5,), Reason.PROTOCOL_ERROR),
    ("PUBACK of 0", "40" + "0000", BOTH, Reason.PROTOCOL_ERROR),
    ("PINGREQ with a body", "c0" + "00", BOTH, Reason.MALFORMED),
    ("DISCONNECT with a body", "e0" + "00", (V311,), Reason.MALFORMED),
    ("DISCONNECT with a reason that it has not", "e0" + "01", (V5,), Reason.PROTOCOL_ERROR),
    ("AUTH with a reason that it has not", "f0" + "01", (V5,), Reason.PROTOCOL_ERROR),
    ("CONNACK with reserved flags", "20" + "0200" + "00", BOTH, Reason.MALFORMED),
    ("CONNACK with a session and a no", "20" + "0105" + "00", BOTH, Reason.MALFORMED),
    ("SUBACK without a reason", "90" + "0001", (V311,), Reason.PROTOCOL_ERROR),
    ("SUBACK with a reason that it has not", "90" + "000103", (V311,), Reason.PROTOCOL_ERROR),
    ("UNSUBACK with more behind it", "b0" + "000100", (V311,), Reason.MALFORMED),
    ("UNSUBACK without a reason", "b0" + "000100", (V5,), Reason.PROTOCOL_ERROR),
]  # fmt: skip


@pytest.mark.parametrize(("said", "levels", "reason"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_no_packet_is_refused_with_its_reason(said: str, levels: tuple[int, ...], reason: Reason) -> None:
    raw = bytes.fromhex(said)
    for level in levels:
        with pytest.raises(Malformed) as caught:
            decode(raw[0], raw[1:], level)
        assert caught.value.reason is reason, caught.value
        assert isinstance(caught.value, ProtocolError) or reason is Reason.MALFORMED


def test_short_forms_of_mqtt_5_mean_success() -> None:
    for said in ("400001", "40000100", "4000010000"):
        raw = bytes.fromhex(said)
        assert decode(raw[0], raw[1:], V5) == Ack(Kind.PUBACK, 1)
    for said in ("e0", "e000", "e00000"):
        raw = bytes.fromhex(said)
        assert decode(raw[0], raw[1:], V5) == Disconnect()
    assert decode(0xF0, b"", V5) == Auth()
    assert encode(Ack(Kind.PUBREL, 7), V5).hex() == "62020007"
    assert encode(Disconnect(), V5).hex() == "e000"


def test_a_byte_order_mark_is_a_character_like_any_other() -> None:
    raw = b"\xef\xbb\xbft"
    assert decode(0x30, b"\x00\x04" + raw, V311) == Publish("\ufefft", b"")


def test_subscription_identifiers_of_a_message_are_a_list() -> None:
    message = Publish("t", b"", properties=Properties({Property.SUBSCRIPTION_ID: [1, 268_435_455]}))
    assert read(encode(message, V5), V5) == message


@pytest.mark.parametrize(
    ("body", "level"),
    [(b"\x00\x04MQTT\x04", 4), (b"\x00\x04MQTT\x05", 5), (b"\x00\x06MQIsdp\x03", 3), (b"\x00\x04MQTT\x84", 0x84),
     (b"\x00\x04MQTT", 0), (b"\x00\x04HTTP\x04", 0), (b"", 0)],
)  # fmt: skip
def test_the_level_is_known_before_the_packet_is_read(body: bytes, level: int) -> None:
    assert codec.level_of(body) == level


def test_paho_writes_the_same_bytes() -> None:
    """An independent encoder: the CONNECT that paho sends, level by level."""
    sent: list[bytes] = []
    for protocol, level in ((paho.MQTTv311, V311), (paho.MQTTv5, V5)):
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, "bob", protocol=protocol)
        client.username_pw_set("alice", "secret")
        client.will_set("last/words", b"bye", 1, True)
        client._keepalive = 60
        client._clean_start = True
        client._packet_queue = lambda command, packet, mid, qos, info=None: (
            sent.append(bytes(packet)) or paho.MQTT_ERR_SUCCESS
        )  # type: ignore[method-assign,func-returns-value]
        client._send_connect(60)
        will = Will("last/words", b"bye", 1, True)
        assert read(sent[-1], level) == Connect(level, "bob", True, 60, will, "alice", b"secret")
        assert encode(Connect(level, "bob", True, 60, will, "alice", b"secret"), level) == sent[-1]
