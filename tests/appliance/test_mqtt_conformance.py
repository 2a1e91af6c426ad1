"""What the standards say a server MUST do, each by its number, in MQTT 3.1.1 and in MQTT 5.

`must` names the statements that a test shows; the table is made of these marks. The lists at the end hold every normative
number of both standards: those for a server, each of which must have its test; those that bind clients; and those that
cannot arise here, with the reason. A number in no list, or in two, fails.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import InvalidStatus

from appliance.compose import Appliance
from appliance.intake import mqtt_codec as codec
from appliance.intake.device import Device, Turned
from appliance.intake.mqtt_codec import (
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
    Ping,
    Properties,
    Property,
    Publish,
    Reason,
    Subscribe,
    Unsubscribe,
    Will,
)
from tests.appliance.mqtt_talk import LEVELS, Box, Client, ack

T = TypeVar("T", bound=Callable[..., Any])
SHOWN: dict[str, list[str]] = {}


def must(v311: str = "", v5: str = "") -> Callable[[T], T]:
    def mark(test: T) -> T:
        for standard, numbers in (("3.1.1", v311), ("5", v5)):
            for number in numbers.split():
                SHOWN.setdefault(f"{standard} {number}", []).append(test.__name__)
        return test

    return mark


@pytest.fixture
def box() -> Box:
    return Box()


both = pytest.mark.parametrize("level", LEVELS, ids=["3.1.1", "5"])


def stays(expiry_s: int = 600, **more: Any) -> dict[str, Any]:
    """Wishes of a CONNECT whose session outlives its connection, at either level."""
    return {"clean": False, "properties": Properties({Property.SESSION_EXPIRY: expiry_s}), **more}


def refused(box: Box, level: int, data: bytes) -> Client:
    """A connected client that says this, and is cut off for it."""
    bob = box.client(level)
    assert not bob.ended
    bob.bytes_say(data)
    assert bob.ended
    assert box.sessions.held == {}
    if level == V5:
        assert bob.last(Disconnect).reason >= 0x80
    return bob


# -- 1 and 2: data, headers, identifiers --------------------------------------------------------------------------


@both
@must("1.5.3-1 1.5.3-2 4.7.3-2 4.8.0-1 3.3.2-1 3.8.3-1 3.10.3-1 3.1.3-4 3.1.3-10 3.1.3-11",
      "1.5.4-1 1.5.4-2 1.5.7-1 4.7.3-2 4.13.1-1 4.13.2-1 3.3.2-1 3.8.3-1 3.10.3-1 3.1.3-4 3.1.3-11 3.1.3-12"
      " 3.3.2-13 3.3.2-19")  # fmt: skip
def test_text_that_is_no_utf_8_or_holds_a_null_ends_the_connection(box: Box, level: int) -> None:
    more = b"\x00" if level == V5 else b""
    for bad in (b"\xff", b"\xed\xa0\x80", b"\x00", b"\xc0\x80"):
        text = len(bad).to_bytes(2, "big") + bad
        for body in (
            b"\x30" + bytes((len(text + more),)) + text + more,
            b"\x82" + bytes((len(text + more) + 3,)) + b"\x00\x01" + more + text + b"\x00",
            b"\xa2" + bytes((len(text + more) + 2,)) + b"\x00\x01" + more + text,
        ):
            refused(box, level, body)
        for flags, payload in ((2, text), (6, b"\x00\x01b" + more + text + b"\x00\x00"), (0x82, b"\x00\x01b" + text)):
            body = b"\x00\x04MQTT" + bytes((level, flags, 0, 0)) + more + payload
            client = Client(box, level)
            client.bytes_say(b"\x10" + bytes((len(body),)) + body)
            assert client.ended
    if level == V5:
        for number in (3, 8):  # content type, response topic
            refused(box, level, b"\x30\x08\x00\x01t\x04" + bytes((number,)) + b"\x00\x01\xff")
        refused(box, level, b"\x30\x0b\x00\x01t\x07\x26\x00\x01a\x00\x01\xff")


@both
@must("1.5.3-3", "1.5.4-3 4.7.3-4")
def test_a_byte_order_mark_in_a_topic_is_kept(box: Box, level: int) -> None:
    box.client(level).publishes(b"x", topic="\ufefft")
    assert box.api.heard == [("\ufefft", b"x")]


@must("", "1.5.5-1")
def test_numbers_are_written_in_the_fewest_bytes(box: Box) -> None:
    refused(box, V5, b"\x30\x84\x00\x00\x01t\x00")
    assert codec.varint(127) + codec.varint(128) == b"\x7f\x80\x01"


@both
@must("2.2.2-1 2.2.2-2 3.6.1-1 3.8.1-1 3.10.1-1 3.14.1-1", "2.1.3-1 3.6.1-1 3.8.1-1 3.10.1-1 3.14.1-1 3.15.1-1")
def test_reserved_flags_of_a_header_end_the_connection(box: Box, level: int) -> None:
    whole = [
        ack(Kind.PUBREL, 1),
        Subscribe(1, (Filter("t"),)),
        Unsubscribe(1, ("t",)),
        Disconnect(),
        Ping(Kind.PINGREQ),
    ]
    for packet in [*whole, Auth(Reason.AGAIN)] if level == V5 else whole:
        raw = codec.encode(packet, level)
        bob = refused(box, level, bytes((raw[0] ^ 1,)) + raw[1:])
        if level == V5:
            assert bob.last(Disconnect).reason == Reason.MALFORMED


@both
@must("2.3.1-1 2.3.1-4 2.3.1-5 4.3.2-1 4.3.3-1", "2.2.1-2 2.2.1-4 4.3.1-1 4.3.2-1 4.3.2-2 4.3.3-1 4.3.3-2 3.3.1-2")
def test_what_we_send_has_an_unused_identifier_that_is_not_0_and_none_at_qos_0(box: Box, level: int) -> None:
    bob = box.client(level)
    bob.subscribes("one", qos=1)
    bob.subscribes("two", qos=2)
    bob.subscribes("zero", qos=0)
    for topic in ("one", "two", "zero", "one"):
        assert bob.send(topic, b"x")
    sent = [packet for packet in bob.heard if isinstance(packet, Publish)]
    assert [(packet.qos, packet.packet_id, packet.dup) for packet in sent] == [
        (1, 1, False), (2, 2, False), (0, 0, False), (1, 3, False)
    ]  # fmt: skip
    assert bob.session.outgoing.keys() == {1, 2, 3}
    bob.session.turn = 0xFFFF
    bob.says(ack(Kind.PUBACK, 1))
    bob.send("one", b"x")
    bob.send("one", b"x")
    assert bob.session.outgoing.keys() == {1, 2, 3, 4}


@both
@must("2.3.1-6 2.3.1-7 3.3.4-1 3.8.4-2 3.10.4-4 4.3.2-2 4.3.3-2",
      "2.2.1-5 2.2.1-6 3.3.4-1 3.8.4-2 3.10.4-5 4.3.2-4 4.3.3-8 4.3.3-11 3.4.2-1 3.5.2-1 3.7.2-1")  # fmt: skip
def test_answers_carry_the_identifier_of_what_they_answer(box: Box, level: int) -> None:
    bob = box.client(level)
    assert bob.publishes(b"0", 0) == []
    assert bob.publishes(b"1", 1, 0x1234) == [ack(Kind.PUBACK, 0x1234)]
    assert bob.publishes(b"2", 2, 0xFFFF) == [ack(Kind.PUBREC, 0xFFFF)]
    assert bob.says(ack(Kind.PUBREL, 0xFFFF)) == [ack(Kind.PUBCOMP, 0xFFFF)]
    (suback,) = bob.says(Subscribe(77, (Filter("t"),)))
    (unsuback,) = bob.says(Unsubscribe(78, ("t",)))
    assert isinstance(suback, Granted)
    assert isinstance(unsuback, Granted)
    assert (suback.packet_id, unsuback.packet_id) == (77, 78)
    assert box.raws == [b"0", b"1", b"2"]


@both
@must("3.3.1-2", "3.3.1-2 2.2.1-3")
def test_a_duplicate_of_qos_0_and_an_identifier_of_0_end_the_connection(box: Box, level: int) -> None:
    more = b"\x00" if level == V5 else b""
    refused(box, level, b"\x38" + bytes((3 + len(more),)) + b"\x00\x01t" + more)
    refused(box, level, b"\x32" + bytes((5 + len(more),)) + b"\x00\x01t\x00\x00" + more)
    bob = box.client(level)
    bob.publishes(b"x", 1, 1)  # so that the topic is known
    raw = codec.encode(Publish("t", b"x", 1, packet_id=1), level)
    bob.bytes_say(raw.replace(b"t\x00\x01", b"t\x00\x00"))
    assert bob.ended


@must("", "2.2.2-1")
def test_no_properties_are_said_by_a_length_of_0() -> None:
    assert codec.encode(Publish("t", b"x"), V5) == b"\x30\x05\x00\x01t\x00x"
    assert codec.encode(Connack(0), V5) == b"\x20\x03\x00\x00\x00"


# -- 3.1 CONNECT, 3.2 CONNACK -------------------------------------------------------------------------------------


@both
@must("3.1.0-1 3.1.4-1", "3.1.0-1 3.1.4-1")
def test_what_does_not_begin_with_connect_is_closed_without_a_word(box: Box, level: int) -> None:
    for packet in (Publish("t", b"x"), Ping(Kind.PINGREQ), Subscribe(1, (Filter("t"),)), Disconnect()):
        client = Client(box, level)
        assert client.says(packet) == []
        assert client.ended
    assert box.raws == []
    assert box.sessions.held == {}


@both
@must("3.1.0-2", "3.1.0-2 3.2.0-2")
def test_a_second_connect_ends_the_connection(box: Box, level: int) -> None:
    bob = box.client(level)
    bob.says(Connect(level, "bob"))
    assert bob.ended
    assert sum(isinstance(packet, Connack) for packet in bob.heard) == 1
    if level == V5:
        assert bob.last(Disconnect).reason == Reason.PROTOCOL_ERROR


@must("3.1.2-1 3.1.2-2 3.2.2-5", "3.1.2-1 3.1.2-2 3.2.2-7 3.2.2-8")
def test_another_protocol_or_version_is_told_so_and_closed(box: Box) -> None:
    for name, said, heard in (
        ("00044d51545403", V311, Connack(1)),  # a level that never was
        ("00064d514973647003", V311, Connack(1)),  # MQTT 3.1
        ("00044d51545484", V311, Connack(1)),  # a bridge of Mosquitto that tries for more, and then does without
    ):
        client = Client(box, said)
        body = bytes.fromhex(name) + b"\x02\x00\x00\x00\x03bob"
        assert client.bytes_say(b"\x10" + bytes((len(body),)) + body) == [heard]
        assert client.ended
    client = Client(box, V5)
    client.bytes_say(b"\x10\x0f\x00\x04MQTT\x06\x02\x00\x00\x00\x03bob")
    assert client.last(Connack).reason == Reason.VERSION
    assert client.ended
    client = Client(box, V5)
    assert client.bytes_say(b"\x10\x0f\x00\x04HTTP\x04\x02\x00\x00\x00\x03bob") == []
    assert client.ended


@both
@must("3.1.2-3 3.1.2-9 3.1.2-11 3.1.2-13 3.1.2-14 3.1.2-15 3.1.2-18 3.1.2-19 3.1.2-20 3.1.2-21 3.1.3-1 3.1.3-3 3.1.4-1",
      "3.1.2-3 3.1.2-9 3.1.2-11 3.1.2-12 3.1.2-13 3.1.2-16 3.1.2-17 3.1.2-18 3.1.2-19 3.1.3-1 3.1.3-3 3.1.4-1")  # fmt: skip
def test_a_connect_whose_flags_and_fields_do_not_agree_is_closed(box: Box, level: int) -> None:
    more = b"\x00" if level == V5 else b""
    bob, will, user, password = b"\x00\x03bob", more + b"\x00\x01t\x00\x01w", b"\x00\x01u", b"\x00\x01p"
    whole = {2: bob, 6: bob + will, 0xC2: bob + user + password, 0xF6: bob + will + user + password, 0x82: bob + user}
    broken = {
        3: bob, 0x0A: bob, 0x22: bob, 0x1E: bob + will, 6: bob, 0x82: bob, 0xC2: bob + user, 2: bob + user, 0: b"",
    }  # fmt: skip
    for payloads, good in ((whole, True), (broken, False)):
        for flags, payload in payloads.items():
            body = b"\x00\x04MQTT" + bytes((level, flags, 0, 0)) + more + payload
            box.tokens["u"] = Device("01BOB", "bob")
            client = Client(box, level)
            client.bytes_say(b"\x10" + bytes((len(body),)) + body)
            assert bool(client.ended) is not good, f"{flags:02x} {payload!r}"
            if level == V311 and not good:
                assert client.heard == []


@must("3.1.2-22", "")
def test_a_password_without_a_user_name_is_closed(box: Box) -> None:
    client = Client(box, V311)
    client.says(Connect(V311, "bob", password=b"p"))
    assert client.ended


@both
@must("3.1.2-4 3.1.2-6 3.1.4-3 3.2.2-1 3.2.2-2 3.2.2-3 4.1.0-1 4.1.0-2",
      "3.1.2-4 3.1.2-5 3.1.2-6 3.1.2-23 3.1.4-4 3.2.2-2 3.2.2-3 4.1.0-1")  # fmt: skip
def test_a_session_is_resumed_or_begun_anew_as_the_client_asks(box: Box, level: int) -> None:
    def comes(**wishes: Any) -> Client:
        return box.client(level, **wishes)

    first = comes(**stays())
    assert first.last(Connack).session_present is False
    first.subscribes("t", qos=1)
    first.breaks()
    again = comes(**stays())
    assert again.last(Connack).session_present is True
    assert again.send("t", b"still subscribed")
    again.says(Disconnect())
    anew = comes(clean=True)
    assert anew.last(Connack).session_present is False
    assert not anew.send("t", b"not any more")
    anew.breaks()
    assert comes(**stays()).last(Connack).session_present is False


@both
@must("3.1.2-5", "")
def test_what_is_said_to_a_client_that_is_away_waits_for_its_return(box: Box, level: int) -> None:
    bob = box.client(level, **stays())
    bob.subscribes("one", qos=1)
    bob.subscribes("two", qos=2)
    bob.subscribes("zero", qos=0)
    bob.breaks()
    said = [bob.send(topic, b"while away") for topic in ("one", "two", "zero", "other")]
    assert said == [True, True, False, False]
    again = box.client(level, **stays())
    heard = [(packet.topic, packet.qos, packet.dup) for packet in again.heard if isinstance(packet, Publish)]
    assert heard == [("one", 1, False), ("two", 2, False)]
    again.breaks()
    once_more = box.client(level, **stays())  # nothing was acknowledged, so it comes again
    assert [packet.dup for packet in once_more.heard if isinstance(packet, Publish)] == [True, True]
    once_more.says(ack(Kind.PUBACK, 1), ack(Kind.PUBREC, 2), ack(Kind.PUBCOMP, 2))
    once_more.breaks()
    assert not [packet for packet in box.client(level, **stays()).heard if isinstance(packet, Publish)]


def test_what_waits_for_a_client_ends_with_its_session(box: Box) -> None:
    bob = box.client(**stays(60))
    bob.subscribes("t", qos=1)
    bob.breaks()
    assert bob.send("t", b"x")
    box.pass_s(61)
    assert (box.sessions.held, box.sessions.kept_bytes) == ({}, 0)
    assert not bob.send("t", b"too late")
    assert not [packet for packet in box.client(**stays()).heard if isinstance(packet, Publish)]
    plain = box.client(client_id="carol")
    plain.subscribes("t", qos=1)
    plain.breaks()
    assert not plain.send("t", b"it did not mean to come back")


@must("", "4.1.0-2 3.14.2-2")
def test_a_session_ends_when_its_expiry_has_passed(box: Box) -> None:
    box.client(**stays(60)).breaks()
    box.pass_s(61)
    assert box.sessions.held == {}
    box.client(**stays(60)).says(Disconnect(0, Properties({Property.SESSION_EXPIRY: 5})))
    box.pass_s(6)
    assert box.sessions.held == {}
    bob = box.client()
    bob.says(Disconnect(0, Properties({Property.SESSION_EXPIRY: 5})))
    said = bob.last(Disconnect)  # a session that was to end cannot be kept any more
    assert said.reason == Reason.PROTOCOL_ERROR
    assert Property.SESSION_EXPIRY not in said.properties


@both
@must("3.1.2-7 3.1.2-8 3.1.2-12 3.1.2-16 3.1.2-17", "3.1.2-7 3.1.2-8 3.1.2-14 3.1.2-15")
def test_a_will_is_published_when_the_line_breaks_retained_or_not(box: Box, level: int) -> None:
    bob = box.client(level, will=Will("last", b"gone", 1))
    bob.breaks()
    assert box.api.heard == [("last", b"gone")]
    assert box.raws == [b"gone"]
    assert box.sessions.retained == {}
    bob = box.client(level, will=Will("last", b"kept", 0, retain=True))
    bob.breaks()
    assert box.client(level).subscribes("last")[1] == Publish("last", b"kept", retain=True)
    box.client(level, "carol").breaks()
    assert len(box.api.heard) == 2


@both
@must("3.1.2-10 3.14.4-3", "3.1.2-10 3.14.4-3")
def test_a_will_is_discarded_by_an_orderly_disconnect(box: Box, level: int) -> None:
    bob = box.client(level, will=Will("last", b"gone"), **stays())
    bob.says(Disconnect())
    box.pass_s(2_000)
    assert box.api.heard == []
    bob = box.client(level, will=Will("last", b"gone"), **stays())
    bob.breaks()
    box.client(level, **stays()).breaks()
    box.pass_s(100_000)
    assert box.api.heard == [("last", b"gone")]


@must("", "3.1.3-9 3.1.2-8")
def test_a_will_waits_for_its_delay_and_is_not_sent_to_who_is_back_in_time(box: Box) -> None:
    will = Will("last", b"gone", properties=Properties({Property.WILL_DELAY: 10}))
    box.client(will=will, **stays(60)).breaks()
    box.pass_s(9)
    assert box.api.heard == []
    bob = box.client(will=will, **stays(60))
    box.pass_s(100)
    assert box.api.heard == []
    bob.breaks()
    box.pass_s(11)
    assert box.api.heard == [("last", b"gone")]
    box.client(will=will, **stays(5)).breaks()
    box.pass_s(6)  # the end of the session is the end of the delay
    assert len(box.api.heard) == 2


@must("", "3.1.2-10 3.2.2-12 3.2.2-13")
def test_disconnect_with_will_sends_the_will(box: Box) -> None:
    box.client(will=Will("last", b"gone", 2, retain=True)).says(Disconnect(Reason.WITH_WILL))
    assert box.api.heard == [("last", b"gone")]


@both
@must("3.1.2-24", "3.1.2-22 3.2.2-22")
def test_silence_for_one_and_a_half_times_the_keep_alive_ends_the_connection(box: Box, level: int) -> None:
    bob = box.client(level, keep_alive_s=10)
    assert Property.SERVER_KEEP_ALIVE not in bob.last(Connack).properties
    for _ in range(3):
        box.pass_s(14.9)
        bob.says(Ping(Kind.PINGREQ))
    box.pass_s(10)
    bob.bytes_say(b"\xc0")  # half a packet is none
    box.pass_s(5.1)
    assert bob.ended
    if level == V5:
        assert bob.last(Disconnect).reason == Reason.KEEP_ALIVE
    for_ever = box.client(level, "carol")
    box.pass_s(1e6)
    assert not for_ever.ended


@both
@must("3.1.3-2 3.1.4-2", "3.1.3-2 3.1.4-3")
def test_a_client_that_is_connected_already_is_ended_by_the_one_that_comes(box: Box, level: int) -> None:
    first = box.client(level, **stays())
    first.subscribes("t")
    other = box.client(level, "carol")
    second = box.client(level, **stays())
    assert first.ended
    assert not other.ended
    if level == V5:
        assert first.last(Disconnect).reason == Reason.TAKEN_OVER
    assert second.last(Connack).session_present
    assert second.send("t", b"x")
    assert first.send("t", b"an answer that was under way")
    assert second.last(Publish).payload == b"an answer that was under way"
    assert not isinstance(first.heard[-1], Publish)


@both
@must("3.1.3-5 3.1.3-6", "3.1.3-5 3.1.3-6 3.1.3-7 3.2.2-16")
def test_client_identifiers_of_23_characters_and_of_none_are_taken(box: Box, level: int) -> None:
    letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for at in range(0, len(letters), 23):
        box.client(level, letters[at : at + 23])
    unnamed = [box.client(level, "") for _ in range(2)]
    assert not any(client.ended for client in unnamed)
    if level == V5:
        given = [client.last(Connack).properties.text(Property.ASSIGNED_CLIENT_ID) for client in unnamed]
        assert given == ["made-1", "made-2"]
    assert {session.client_id for session in box.sessions.held.values()} >= {"made-1", "made-2"}


@must("3.1.3-8 3.1.3-9 3.2.2-4", "3.1.3-8 3.2.2-6")
def test_a_client_identifier_that_is_refused_is_told_so_and_closed(box: Box) -> None:
    client = Client(box, V311)
    assert client.says(Connect(V311, "", clean=False)) == [Connack(2)]
    assert client.ended
    for level, reason in ((V311, 2), (V5, Reason.CLIENT_ID)):
        client = Client(box, level).connect("b" * 257)
        assert (client.last(Connack).reason, client.last(Connack).session_present) == (reason, False)
        assert client.ended


@both
@must("3.1.4-4 3.2.0-1", "3.1.4-5 3.2.0-1 3.2.2-1")
def test_connack_comes_first(box: Box, level: int) -> None:
    bob = Client(box, level)
    hello = codec.encode(Connect(level, "bob", clean=True), level)
    bob.bytes_say(hello + codec.encode(Publish("t", b"x", 1, packet_id=5), level))
    assert isinstance(bob.heard[0], Connack)
    assert bob.heard[0].reason == 0
    assert bob.heard[1:] == [ack(Kind.PUBACK, 5)]
    first = box.client(level, "carol", **stays())
    first.subscribes("t", qos=1)
    first.send("t", b"x")
    first.breaks()
    again = Client(box, level).connect("carol", **stays())
    assert [type(packet) for packet in again.heard] == [Connack, Publish]


@both
@must("3.1.4-5 3.2.2-4 3.2.2-5", "3.1.4-2 3.1.4-6 3.2.2-6 3.2.2-7 3.14.0-1")
def test_who_is_not_let_in_is_told_why_and_nothing_else_of_him_is_read(box: Box, level: int) -> None:
    box.tokens = {"old": Turned.EXPIRED, "gone": Turned.REVOKED, "none": Turned.MISSING, "fast": Turned.FLOOD}
    expected = {
        "nobody": (5, Reason.NOT_AUTHORIZED), "old": (5, Reason.NOT_AUTHORIZED), "gone": (5, Reason.NOT_AUTHORIZED),
        "none": (4, Reason.BAD_LOGIN), "fast": (3, Reason.CONNECTION_RATE),
    }  # fmt: skip
    for token, reasons in expected.items():
        client = Client(box, level)
        hello = codec.encode(Connect(level, "bob", user=token), level)
        client.bytes_say(hello + codec.encode(Publish("t", b"never"), level))
        (said,) = client.heard
        assert isinstance(said, Connack)
        assert (said.reason, said.session_present) == (reasons[level == V5], False)
        assert client.ended
    assert box.raws == []
    assert box.counted.count("unknown credential") == 1


@must("3.2.2-6", "")
def test_without_a_return_code_that_fits_there_is_no_connack(box: Box) -> None:
    client = Client(box, V311)
    assert client.bytes_say(b"\x10\x0c\x00\x04MQTT\x04\x03\x00\x00\x00\x00") == []
    assert client.ended


@must("", "3.1.2-24 3.1.2-25 3.2.2-19 3.2.2-20 3.14.2-3 3.14.2-4")
def test_nothing_longer_than_the_client_takes_is_sent(box: Box) -> None:
    bob = box.client(properties=Properties({Property.PACKET_MAXIMUM: 30}))
    bob.subscribes("t", qos=1)
    assert not bob.send("t", b"x" * 40)
    assert bob.send("t", b"x")  # as if the long one were done
    assert bob.last(Publish).payload == b"x"
    before = bob.bytes_heard
    bob.bytes_say(b"\x00\x00")
    assert bob.last(Disconnect) == Disconnect(Reason.MALFORMED)  # without its words, which would not fit
    assert bob.bytes_heard - before <= 30


@must("", "3.1.2-26 3.1.2-27 3.3.2-11")
def test_no_topic_alias_is_ever_sent(box: Box) -> None:
    bob = box.client(properties=Properties({Property.ALIAS_MAXIMUM: 9}))
    bob.subscribes("t")
    for _ in range(3):
        bob.send("t", b"x")
        assert bob.last(Publish) == Publish("t", b"x")


@must("", "3.1.2-28 3.1.2-29 3.4.2-2 3.4.2-3 3.5.2-2 3.5.2-3 3.6.2-2 3.6.2-3 3.7.2-2 3.7.2-3 3.9.2-1 3.9.2-2 3.11.2-1"
          " 3.11.2-2")  # fmt: skip
def test_neither_response_information_nor_words_in_acknowledgements_are_sent(box: Box) -> None:
    wishes = Properties({Property.REQUEST_RESPONSE: 0, Property.REQUEST_PROBLEM: 0})
    bob = box.client(properties=wishes)
    assert Property.RESPONSE_INFORMATION not in bob.last(Connack).properties
    bob.publishes(b"x", 1, topic="mallory/t")
    bob.publishes(b"x", 2, 2, topic="mallory/t")
    bob.subscribes("mallory/t")
    bob.says(Unsubscribe(3, ("none",)), ack(Kind.PUBREL, 9))
    acks = [packet for packet in bob.heard if isinstance(packet, Ack | Granted)]
    assert len(acks) == 5
    assert all(packet.properties == {} for packet in acks)


@must("", "3.2.2-9 3.2.2-10 3.2.2-14 3.2.2-17 3.2.2-18 3.2.2-15")
def test_what_is_granted_is_told(box: Box) -> None:
    granted = box.client().last(Connack).properties
    assert granted == {
        Property.RECEIVE_MAXIMUM: 1_000, Property.PACKET_MAXIMUM: 256 * 1024, Property.ALIAS_MAXIMUM: 32,
        Property.SHARED_AVAILABLE: 0,
    }  # fmt: skip
    capped = box.client(client_id="carol", **stays(0xFFFF_FFFF)).last(Connack).properties
    assert capped[Property.SESSION_EXPIRY] == 86_400
    bob = box.client()
    bob.bytes_say(b"\x30\xff\xff\xff\x7f")
    assert bob.last(Disconnect).reason == Reason.TOO_LARGE


@must("", "4.12.0-1 4.12.0-4 4.12.0-6 3.1.2-30 3.15.2-1 4.12.1-2")
def test_enhanced_authentication_is_refused(box: Box) -> None:
    client = Client(box).connect(properties=Properties({Property.AUTH_METHOD: "SCRAM-SHA-256"}))
    assert client.last(Connack).reason == Reason.BAD_METHOD
    assert client.ended
    bob = box.client()
    bob.says(Auth(Reason.AGAIN))
    assert bob.last(Disconnect).reason == Reason.PROTOCOL_ERROR
    assert not any(isinstance(packet, Auth) for packet in bob.heard)


# -- 3.3 PUBLISH and what follows it -----------------------------------------------------------------------------


@both
@must("3.3.1-4 3.3.2-2 4.7.1-1 4.7.3-1", "3.3.1-4 3.3.2-2 3.3.2-14 4.7.0-1 4.7.3-1")
def test_qos_3_and_topics_with_wildcards_or_without_a_character_end_the_connection(box: Box, level: int) -> None:
    more = b"\x00" if level == V5 else b""
    refused(box, level, b"\x36" + bytes((5 + len(more),)) + b"\x00\x01t\x00\x01" + more)
    for topic in (b"#", b"+", b""):
        text = len(topic).to_bytes(2, "big") + topic
        bob = refused(box, level, b"\x30" + bytes((len(text + more),)) + text + more)
        if level == V5:
            assert bob.last(Disconnect).reason == Reason.TOPIC_INVALID
    if level == V5:
        refused(box, level, b"\x30\x08\x00\x01t\x04\x08\x00\x01#")


@both
@must("3.3.1-1 3.3.1-3 4.4.0-1 4.6.0-1", "3.3.1-1 3.3.1-3 4.4.0-1 4.3.2-3 4.3.3-3 4.3.3-4 4.3.3-5 4.3.3-6 3.6.2-1")
def test_what_was_not_acknowledged_is_sent_again_in_order_after_a_reconnect(box: Box, level: int) -> None:
    bob = box.client(level, **stays())
    bob.subscribes("one", qos=1)
    bob.subscribes("two", qos=2)
    bob.publishes(b"x", 1, 9, topic="one", dup=True)  # the DUP of what came has no part in it
    for topic, payload in (("one", b"a"), ("two", b"b"), ("two", b"c"), ("one", b"d")):
        bob.send(topic, payload)
    assert bob.says(ack(Kind.PUBREC, 2)) == [ack(Kind.PUBREL, 2)]
    bob.says(ack(Kind.PUBACK, 4))
    bob.breaks()
    again = box.client(level, **stays())
    assert again.heard[1:] == [
        Publish("one", b"a", 1, dup=True, packet_id=1), ack(Kind.PUBREL, 2), Publish("two", b"c", 2, dup=True, packet_id=3)
    ]  # fmt: skip
    again.says(ack(Kind.PUBACK, 1), ack(Kind.PUBCOMP, 2), ack(Kind.PUBREC, 3))
    assert again.last(Ack) == ack(Kind.PUBREL, 3)
    again.says(ack(Kind.PUBCOMP, 3))
    assert again.session.outgoing == {}


@must("", "4.4.0-2")
def test_an_acknowledgement_that_says_no_is_one(box: Box) -> None:
    bob = box.client()
    bob.subscribes("one", qos=1)
    bob.subscribes("two", qos=2)
    bob.send("one", b"a")
    bob.send("two", b"b")
    assert bob.says(ack(Kind.PUBACK, 1, Reason.QUOTA), ack(Kind.PUBREC, 2, Reason.QUOTA)) == []
    assert bob.session.outgoing == {}


@both
@must("3.3.1-5 3.3.1-6 3.3.1-7 3.3.1-8 3.3.1-9", "3.3.1-5 3.3.1-9 3.3.1-12")
def test_the_last_retained_message_of_a_topic_is_sent_to_who_subscribes(box: Box, level: int) -> None:
    bob = box.client(level)
    bob.publishes(b"old", 1, topic="a/b", retain=True)
    bob.publishes(b"new", topic="a/b", retain=True)
    bob.publishes(b"else", topic="a/c", retain=True)
    suback, *sent = bob.subscribes("a/+", qos=1)
    assert isinstance(suback, Granted)
    assert sent == [Publish("a/b", b"new", retain=True), Publish("a/c", b"else", retain=True)]
    bob.send("a/b", b"live")
    assert bob.last(Publish).retain is False
    assert box.raws == [b"old", b"new", b"else"]


@both
@must("3.3.1-10 3.3.1-11 3.3.1-12", "3.3.1-6 3.3.1-7 3.3.1-8")
def test_an_empty_message_removes_the_retained_one_and_a_plain_one_leaves_it(box: Box, level: int) -> None:
    bob = box.client(level)
    bob.publishes(b"kept", topic="t", retain=True)
    bob.publishes(b"plain", topic="t")
    assert bob.subscribes("t")[1:] == [Publish("t", b"kept", retain=True)]
    bob.publishes(b"", topic="t", retain=True)
    assert bob.subscribes("t")[1:] == []
    assert (box.sessions.retained, box.sessions.retained_count, box.sessions.retained_bytes) == ({}, 0, 0)
    assert box.raws == [b"kept", b"plain", b""]


@must("", "3.3.1-10 3.3.1-11")
def test_retained_messages_are_sent_as_the_subscription_asks(box: Box) -> None:
    bob = box.client()
    bob.publishes(b"kept", topic="t", retain=True)
    assert len(bob.subscribes("t", handling=2)) == 1
    assert len(bob.subscribes("t", handling=1)) == 1  # not new
    assert len(bob.subscribes("t", handling=0)) == 2
    assert len(bob.subscribes("+", handling=1)) == 2


@must("", "3.3.2-5")
def test_a_retained_message_whose_time_is_over_is_not_sent(box: Box) -> None:
    bob = box.client()
    expiry = Properties({Property.MESSAGE_EXPIRY: 10})
    bob.publishes(b"kept", topic="t", retain=True, properties=expiry)
    assert len(bob.subscribes("t")) == 2
    box.pass_s(11)
    assert len(bob.subscribes("t")) == 1


@must("", "3.3.2-7 3.3.2-8 3.3.2-9 3.3.2-12 3.2.2-17")
def test_topic_aliases_hold_for_one_connection_and_up_to_what_was_told(box: Box) -> None:
    def alias(number: int) -> Properties:
        return Properties({Property.TOPIC_ALIAS: number})

    bob = box.client(**stays())
    for number in (1, 32):
        bob.publishes(b"x", topic=f"t/{number}", properties=alias(number))
    for number in (1, 32):
        bob.publishes(b"y", topic="", properties=alias(number))
    bob.publishes(b"z", topic="other", properties=alias(1))
    bob.publishes(b"z", topic="", properties=alias(1))
    assert [topic for topic, _ in box.api.heard] == ["t/1", "t/32", "t/1", "t/32", "other", "other"]
    bob.breaks()
    for number, topic in ((1, ""), (0, "t"), (33, "t")):
        again = box.client(**stays())
        again.publishes(b"x", topic=topic, properties=alias(number))
        assert again.last(Disconnect).reason == Reason.ALIAS_INVALID


@both
@must("3.3.2-3 3.3.5-1 4.7.2-1 4.7.3-4", "3.3.2-3 3.3.4-2 4.7.2-1 4.7.3-4 3.8.4-8")
def test_a_message_goes_once_to_who_subscribed_to_it_at_the_highest_qos_granted(box: Box, level: int) -> None:
    bob = box.client(level)
    bob.subscribes("a/#", qos=0)
    bob.subscribes("a/+", qos=2)
    bob.subscribes("a/b", qos=1)
    bob.subscribes("#", qos=0)
    before = len(bob.heard)
    assert bob.send("a/b", b"x")
    assert [type(packet) for packet in bob.heard[before:]] == [Publish]
    assert bob.last(Publish).qos == 2
    bob.send("a/b/c", b"x")
    assert bob.last(Publish) == Publish("a/b/c", b"x")
    assert bob.send("A/b", b"x")  # by `#`: topics are never mended, nor case folded
    assert not bob.send("$SYS/x", b"x")
    carol = box.client(level, "carol")
    assert not carol.send("a/b", b"x")


@must("", "3.3.4-3 3.3.4-4 3.3.4-6")
def test_subscription_identifiers_come_back_with_the_message(box: Box) -> None:
    bob = box.client()
    for number, words in enumerate(("a/#", "a/+", "b"), 1):
        bob.says(Subscribe(1, (Filter(words),), Properties({Property.SUBSCRIPTION_ID: number})))
    bob.send("a/b", b"x")
    assert bob.last(Publish).properties == {Property.SUBSCRIPTION_ID: [1, 2]}
    raw = codec.encode(Publish("t", b"", properties=Properties({Property.SUBSCRIPTION_ID: [1]})), V5)
    bob.bytes_say(raw)
    assert bob.last(Disconnect).reason == Reason.PROTOCOL_ERROR


@both
@must("3.3.5-2", "3.3.4-1 3.4.2-1 3.5.2-1")
def test_a_topic_of_somebody_else_is_answered_and_kept_apart(box: Box, level: int) -> None:
    bob = box.client(level)
    no = Reason.NOT_AUTHORIZED if level == V5 else 0
    assert bob.publishes(b"1", 1, 1, topic="mallory/t") == [ack(Kind.PUBACK, 1, no)]
    assert bob.publishes(b"2", 2, 2, topic="mallory/t") == [ack(Kind.PUBREC, 2, no)]
    assert not bob.ended
    assert box.raws == []
    assert [(one.reason, one.raw) for one in box.said] == [(Turned.FOREIGN, b"1"), (Turned.FOREIGN, b"2")]


@must("", "3.3.4-7 3.3.4-8 4.9.0-1")
def test_more_at_once_than_was_told_ends_the_connection(box: Box) -> None:
    box.slow = True
    bob = box.client()
    for number in range(1, 1_001):
        bob.publishes(b"x", 1 + number % 2, number)
    assert not bob.ended
    bob.publishes(b"x", 1, 1_001)
    assert bob.last(Disconnect).reason == Reason.RECEIVE_MAXIMUM


@must("", "3.3.4-9 3.3.4-10 4.9.0-1 4.9.0-2 4.9.0-3")
def test_no_more_is_sent_at_once_than_the_client_takes(box: Box) -> None:
    bob = box.client(properties=Properties({Property.RECEIVE_MAXIMUM: 2}))
    bob.subscribes("t", qos=1)
    bob.subscribes("u", qos=2)
    for payload in (b"a", b"b", b"c"):
        assert bob.send("t", payload)
    assert bob.send("u", b"d")

    def sent() -> list[bytes]:
        return [packet.payload for packet in bob.heard if isinstance(packet, Publish)]

    assert sent() == [b"a", b"b"]
    assert bob.says(Ping(Kind.PINGREQ)) == [Ping(Kind.PINGRESP)]
    bob.says(ack(Kind.PUBACK, 1))
    assert sent() == [b"a", b"b", b"c"]
    bob.says(ack(Kind.PUBACK, 2))
    assert sent() == [b"a", b"b", b"c", b"d"]


@both
@must("4.3.3-2 4.6.0-6 4.6.0-5", "4.3.3-10 4.3.3-12 4.3.3-11 4.6.0-5 4.6.0-6")
def test_qos_2_is_stored_once_until_its_pubrel_and_then_anew(box: Box, level: int) -> None:
    bob = box.client(level, **stays())
    bob.publishes(b"a", 2, 5)
    assert bob.publishes(b"a", 2, 5, dup=True) == [ack(Kind.PUBREC, 5)]
    bob.breaks()
    again = box.client(level, **stays())
    assert again.publishes(b"a", 2, 5, dup=True) == [ack(Kind.PUBREC, 5)]
    assert box.raws == [b"a"]
    assert again.says(ack(Kind.PUBREL, 5)) == [ack(Kind.PUBCOMP, 5)]
    again.publishes(b"b", 2, 5)
    assert box.raws == [b"a", b"b"]
    again.subscribes("t")
    for payload in (b"1", b"2", b"3"):
        again.send("t", payload)
    assert [packet.payload for packet in again.heard if isinstance(packet, Publish)] == [b"1", b"2", b"3"]


@must("", "4.3.3-9 4.3.3-13")
def test_after_a_pubrec_that_said_no_the_identifier_is_free(box: Box) -> None:
    bob = box.client()
    bob.publishes(b"1", 2, 5, topic="mallory/t")
    bob.publishes(b"2", 2, 5)
    assert box.raws == [b"2"]
    assert bob.says(ack(Kind.PUBREL, 5)) == [ack(Kind.PUBCOMP, 5)]
    assert bob.says(ack(Kind.PUBREL, 5)) == [ack(Kind.PUBCOMP, 5, Reason.ID_NOT_FOUND)]


@both
@must("4.3.2-2", "4.3.2-4 4.3.2-5")
def test_qos_1_after_its_puback_is_a_new_message(box: Box, level: int) -> None:
    bob = box.client(level)
    bob.publishes(b"a", 1, 5)
    bob.publishes(b"b", 1, 5, dup=True)
    assert box.raws == [b"a", b"b"]


@both
@must("4.3.1-1 4.8.0-2", "4.3.1-1")
def test_a_disk_that_refuses_is_answered_by_no_acknowledgement(box: Box, level: int) -> None:
    box.slow = True
    bob = box.client(level)
    bob.publishes(b"0", 0)
    bob.publishes(b"1", 1, 1)
    bob.publishes(b"2", 2, 2)
    box.commit(stored=False)
    assert [packet for packet in bob.heard if isinstance(packet, Ack)] == []
    assert bob.session.received == {}


# -- 3.8 to 3.12 --------------------------------------------------------------------------------------------------


@both
@must("3.8.3-3 3.8.3-4 3.10.3-2", "3.8.3-2 3.8.3-4 3.8.3-5 3.10.3-2")
def test_a_subscription_without_a_filter_or_with_reserved_bits_ends_the_connection(box: Box, level: int) -> None:
    more = b"\x00" if level == V5 else b""
    for first in (b"\x82", b"\xa2"):
        refused(box, level, first + bytes((2 + len(more),)) + b"\x00\x01" + more)
    for options in (0x03, 0x40, 0x80) if level == V5 else (0x03, 0x04, 0x80):
        refused(box, level, b"\x82" + bytes((6 + len(more),)) + b"\x00\x01" + more + b"\x00\x01t" + bytes((options,)))


@both
@must("3.8.4-1 3.8.4-4 3.8.4-5 3.9.3-1 3.9.3-2 4.7.1-2 4.7.1-3 4.7.3-1 4.7.3-3",
      "3.8.4-1 3.8.4-5 3.8.4-6 3.8.4-7 3.9.3-1 3.9.3-2 4.7.1-1 4.7.1-2 4.7.3-1 4.7.3-3 4.8.2-1")  # fmt: skip
def test_every_filter_has_its_answer_in_its_place(box: Box, level: int) -> None:
    bob = box.client(level)
    wishes = ("a/b", "+", "#", "a/+/c", "a/#", "/", "a+", "a/#/b", "#a", "", "mallory/t", "$share/g/t", "b" * 600)
    (answer,) = bob.says(Subscribe(3, tuple(Filter(words, number % 3) for number, words in enumerate(wishes))))
    assert isinstance(answer, Granted)
    bad = (Reason.FILTER_INVALID,) * 4 + (Reason.NOT_AUTHORIZED, Reason.NO_SHARED, Reason.FILTER_INVALID)
    assert answer.reasons == (0, 1, 2, 0, 1, 2, *(bad if level == V5 else (0x80,) * 7))
    assert list(bob.session.subscriptions) == list(wishes[:6])


@both
@must("3.8.4-3 3.8.4-6", "3.8.4-3 3.8.4-4")
def test_the_same_filter_again_replaces_the_subscription(box: Box, level: int) -> None:
    bob = box.client(level)
    bob.publishes(b"kept", 2, topic="t", retain=True)
    assert bob.subscribes("t", qos=2)[1] == Publish("t", b"kept", 2, retain=True, packet_id=1)
    assert bob.subscribes("t", qos=0)[1] == Publish("t", b"kept", 0, retain=True)
    bob.send("t", b"x")
    assert bob.last(Publish) == Publish("t", b"x")
    assert len(bob.session.subscriptions) == 1


@both
@must("3.10.4-1 3.10.4-2 3.10.4-3 3.10.4-5 3.10.4-6",
      "3.10.4-1 3.10.4-2 3.10.4-3 3.10.4-4 3.10.4-5 3.10.4-6 3.11.3-1 3.11.3-2")  # fmt: skip
def test_unsubscribe_stops_new_messages_and_completes_those_under_way(box: Box, level: int) -> None:
    bob = box.client(level)
    bob.subscribes("a/+", "a/b", qos=2)
    bob.send("a/b", b"under way")
    (answer,) = bob.says(Unsubscribe(4, ("a/b", "none", "A/+", "a/+")))
    assert isinstance(answer, Granted)
    assert answer.reasons == ((0, 0x11, 0x11, 0) if level == V5 else ())
    assert not bob.send("a/b", b"late")
    assert bob.says(ack(Kind.PUBREC, 1)) == [ack(Kind.PUBREL, 1)]
    bob.says(ack(Kind.PUBCOMP, 1))
    assert bob.session.outgoing == {}
    (answer,) = bob.says(Unsubscribe(5, ("a/b",)))
    assert isinstance(answer, Granted)
    assert answer.packet_id == 5


@both
@must("3.12.4-1", "3.12.4-1")
def test_pingreq_is_answered(box: Box, level: int) -> None:
    assert box.client(level).says(Ping(Kind.PINGREQ)) == [Ping(Kind.PINGRESP)]


@both
@must("", "3.14.4-1 3.14.4-2")
def test_after_disconnect_nothing_is_said_and_nothing_is_read(box: Box, level: int) -> None:
    bob = box.client(level)
    heard = bob.bytes_say(
        codec.encode(Disconnect(), level) + codec.encode(Publish("t", b"late", 1, packet_id=1), level)
    )
    assert heard == []
    assert bob.ended
    cut = refused(box, level, b"\x00\x00" + codec.encode(Publish("t", b"late", 1, packet_id=1), level))
    cut.bytes_say(codec.encode(Ping(Kind.PINGREQ), level))
    assert not isinstance(cut.heard[-1], Ping)
    assert box.raws == []


@both
@must("", "4.13.1-1")
def test_a_server_s_own_packets_from_a_client_end_the_connection(box: Box, level: int) -> None:
    for packet in (
        Connack(0), Granted(Kind.SUBACK, 1, (0,)), Granted(Kind.UNSUBACK, 1, (0,)), Ping(Kind.PINGRESP),
    ):  # fmt: skip
        refused(box, level, codec.encode(packet, level))


# -- 6: WebSocket -------------------------------------------------------------------------------------------------


@must("6.0.0-1 6.0.0-2 6.0.0-4 4.2.0-1", "4.2-1 6.0.0-1 6.0.0-2 6.0.0-4")
async def test_mqtt_over_websocket_takes_binary_frames_whatever_their_bounds(alder: Appliance) -> None:
    url = f"ws://{alder.addresses['http']}/mqtt"
    hello = codec.encode(Connect(V5, "bob"), V5)
    message = codec.encode(Publish("t", b"x", 1, packet_id=1), V5)
    async with websocket(url, subprotocols=["mqtt"], proxy=None) as line:  # type: ignore[list-item]
        assert line.subprotocol == "mqtt"
        for byte in hello + message[:-1]:  # a packet over many frames, and the end of one with the next in one frame
            await line.send(bytes((byte,)))
        await line.send(message[-1:] + b"\xc0\x00")
        heard = b""
        while not heard.endswith(b"\xd0\x00") or b"\x40\x02\x00\x01" not in heard:
            part = await asyncio.wait_for(line.recv(), 10)
            assert isinstance(part, bytes)
            heard += part
            if b"\x40\x02\x00\x01" in heard and b"\xd0\x00" in heard:
                break
        await line.send("text")
        await asyncio.wait_for(line.wait_closed(), 10)


@must("6.0.0-3", "6.0.0-3")
async def test_websocket_without_the_subprotocol_is_refused(alder: Appliance) -> None:
    with pytest.raises(InvalidStatus):
        async with websocket(f"ws://{alder.addresses['http']}/mqtt", proxy=None):
            raise AssertionError("it was let in")


# -- the table ----------------------------------------------------------------------------------------------------


def numbers(section: str, last: int, *besides: str) -> list[str]:
    return [f"{section}-{number}" for number in range(1, last + 1)] + list(besides)


ALL = {
    "3.1.1": [
        *numbers("1.5.3", 3), *numbers("2.2.2", 2), *numbers("2.3.1", 7), *numbers("3.1.0", 2), *numbers("3.1.2", 24),
        *numbers("3.1.3", 11), *numbers("3.1.4", 5), *numbers("3.2.0", 1), *numbers("3.2.2", 6), *numbers("3.3.1", 12),
        *numbers("3.3.2", 3), *numbers("3.3.4", 1), *numbers("3.3.5", 2), *numbers("3.6.1", 1), *numbers("3.8.1", 1),
        *numbers("3.8.3", 4), *numbers("3.8.4", 6), *numbers("3.9.3", 2), *numbers("3.10.1", 1), *numbers("3.10.3", 2),
        *numbers("3.10.4", 6), *numbers("3.12.4", 1), *numbers("3.14.1", 1), *numbers("3.14.4", 3), *numbers("4.1.0", 2),
        *numbers("4.2.0", 1), *numbers("4.3.1", 1), *numbers("4.3.2", 2), *numbers("4.3.3", 2), *numbers("4.4.0", 1),
        *numbers("4.5.0", 2), *numbers("4.6.0", 6), *numbers("4.7.1", 3), *numbers("4.7.2", 1), *numbers("4.7.3", 4),
        *numbers("4.8.0", 2), *numbers("6.0.0", 4), *numbers("7.0.0", 2), *numbers("7.1.1", 2), *numbers("7.1.2", 2),
    ],
    "5": [
        *numbers("1.5.4", 3), "1.5.5-1", "1.5.7-1", "2.1.3-1", *numbers("2.2.1", 6)[1:], "2.2.2-1", *numbers("3.1.0", 2),
        *numbers("3.1.2", 30), *numbers("3.1.3", 9), "3.1.3-11", "3.1.3-12", *numbers("3.1.4", 6), *numbers("3.2.0", 2),
        *numbers("3.2.2", 22), *numbers("3.3.1", 13), *numbers("3.3.2", 20), *numbers("3.3.4", 4),
        *(f"3.3.4-{number}" for number in range(6, 11)), *numbers("3.4.2", 3), *numbers("3.5.2", 3), "3.6.1-1",
        *numbers("3.6.2", 3), *numbers("3.7.2", 3), "3.8.1-1", *numbers("3.8.3", 5), *numbers("3.8.4", 8),
        *numbers("3.9.2", 2), *numbers("3.9.3", 2), "3.10.1-1", *numbers("3.10.3", 2), *numbers("3.10.4", 6),
        *numbers("3.11.2", 2), *numbers("3.11.3", 2), "3.12.4-1", "3.14.0-1", "3.14.1-1", *numbers("3.14.2", 4)[1:],
        *numbers("3.14.4", 3), "3.15.1-1", *numbers("3.15.2", 3), *numbers("4.1.0", 2), "4.2-1", "4.3.1-1",
        *numbers("4.3.2", 5), *numbers("4.3.3", 13), *numbers("4.4.0", 2), *numbers("4.5.0", 2), *numbers("4.6.0", 6),
        "4.7.0-1", *numbers("4.7.1", 2), "4.7.2-1", *numbers("4.7.3", 4), *numbers("4.8.2", 4), "4.8.2-6",
        *numbers("4.9.0", 3), *numbers("4.12.0", 7), *numbers("4.12.1", 2), "4.13.1-1", "4.13.2-1", *numbers("6.0.0", 4),
    ],
}  # fmt: skip

OF_CLIENTS = {
    "3.1.1": "2.3.1-2 2.3.1-3 3.1.2-23 3.1.3-7 3.14.4-1 3.14.4-2 4.5.0-2 4.6.0-2 4.6.0-3 4.6.0-4",
    "5": "3.1.2-20 3.1.2-21 3.2.2-4 3.2.2-5 3.2.2-11 3.2.2-21 3.3.2-10 4.5.0-2 4.6.0-1 4.6.0-2 4.6.0-3 4.6.0-4 4.12.0-3"
    " 4.12.0-7 4.12.1-1",
}

_NO_FORWARDING = (
    "what a device publishes is stored and goes to no other client; what it hears comes from the device API"
)
_NO_SHARING = "shared subscriptions are refused with 0x9E"
_NO_AUTH = "there is no enhanced authentication; a CONNECT that asks for it is refused"
_WHOLE = "that the whole holds, for clients and servers; the other statements are its parts"
NOT_HERE = {
    "3.1.1": {
        "3.8.3-2": "wildcards are taken",
        "4.5.0-1": _NO_FORWARDING,
        "7.0.0-1": _WHOLE,
        "7.0.0-2": _WHOLE,
        "7.1.1-1": _WHOLE,
        "7.1.1-2": _WHOLE,
        "7.1.2-1": _WHOLE,
        "7.1.2-2": _WHOLE,
    },
    "5": {
        **dict.fromkeys(("3.3.1-13", "3.3.2-4", "3.3.2-6", "3.3.2-15", "3.3.2-16", "3.3.2-17", "3.3.2-18", "3.3.2-20",
                         "3.8.3-3", "4.3.3-7", "4.5.0-1"), _NO_FORWARDING),
        **dict.fromkeys(("4.8.2-2", "4.8.2-3", "4.8.2-4", "4.8.2-6"), _NO_SHARING),
        **dict.fromkeys(("3.15.2-2", "3.15.2-3", "4.12.0-2", "4.12.0-5"), _NO_AUTH),
    },
}  # fmt: skip


@pytest.mark.parametrize("standard", ["3.1.1", "5"])
def test_every_statement_has_its_test_or_its_reason(standard: str) -> None:
    shown = {key.split()[1] for key in SHOWN if key.split()[0] == standard}
    clients = set(OF_CLIENTS[standard].split())
    apart = set(NOT_HERE[standard])
    assert not [number for number, times in Counter(ALL[standard]).items() if times > 1]
    assert shown | clients | apart >= set(ALL[standard]), sorted(set(ALL[standard]) - shown - clients - apart)
    assert not (shown | clients | apart) - set(ALL[standard])
    assert not (shown & apart) | (clients & apart)


def test_every_control_packet_is_in_the_table() -> None:
    for kind in Kind:
        section = f"5 3.{kind - 1 if kind is Kind.PINGRESP else kind}."  # PINGRESP has no statement but that of PINGREQ
        assert any(key.startswith(section) for key in SHOWN), kind
