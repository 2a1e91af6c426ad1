"""The MQTT conversation beyond the letter of the standard: whose sessions are whose, what is answered when, what pushes
back, and where everything ends that grows."""

from __future__ import annotations

import random
from typing import Any

import pytest

from appliance.intake import mqtt_codec as codec
from appliance.intake.device import Device, Turned
from appliance.intake.mqtt_codec import (
    V5,
    V311,
    Ack,
    Connack,
    Connect,
    Disconnect,
    Granted,
    Kind,
    Ping,
    Properties,
    Property,
    Publish,
    Reason,
    Will,
)
from appliance.intake.mqtt_session import Terms, matches
from fleet import limits
from tests.appliance.mqtt_talk import LEVELS, Box, Client, ack

ALICE, MALLORY = Device("01ALICE", "alice", "cred-a"), Device("01MALLORY", "mallory", "cred-m")


@pytest.fixture
def box() -> Box:
    made = Box()
    made.tokens = {"alice": ALICE, "mallory": MALLORY}
    return made


both = pytest.mark.parametrize("level", LEVELS, ids=["3.1.1", "5"])
STAYS: dict[str, Any] = {"clean": False, "properties": Properties({Property.SESSION_EXPIRY: 600})}


# -- who is who ---------------------------------------------------------------------------------------------------


def test_mallory_takes_nothing_of_alice_s_by_her_client_identifier(box: Box) -> None:
    alice = box.client(client_id="drone-1", token="alice", **STAYS)
    alice.subscribes("t")
    alice.publishes(b"hers", topic="t", retain=True)
    mallory = box.client(client_id="drone-1", token="mallory", **STAYS)
    assert not alice.ended
    assert mallory.last(Connack).session_present is False
    assert len(mallory.subscribes("t", "#")) == 1
    assert mallory.session is not alice.session
    assert {source for source, _ in box.stored} == {"mqtt/@01ALICE/"}


def test_records_stand_under_who_showed_the_credential_or_under_the_address_of_who_showed_none(box: Box) -> None:
    box.client(client_id="drone-1", token="alice").publishes(b"1", 1, topic="t")
    box.client(client_id="drone-1").publishes(b"2", 2, topic="t")
    box.client(client_id="mast", token="alice").publishes(b"3", 1, topic="gateway")
    assert box.stored == [
        ("mqtt/@01ALICE/", b"1"), ("mqtt/10.0.0.7/drone-1", b"2"), ("attributes/@01ALICE/mast", b"3"),
        ("attributes/@01ALICE/buoy", b"3"),
    ]  # fmt: skip


@both
def test_a_revoked_credential_ends_its_connections_and_their_sessions(box: Box, level: int) -> None:
    alice = box.client(level, "one", token="alice", **STAYS)
    box.client(level, "away", token="alice", **STAYS).breaks()
    mallory = box.client(level, "two", token="mallory", **STAYS)
    box.sessions.revoke("cred-a", box.now_ns, 0)
    box.settle()
    assert alice.ended
    assert not mallory.ended
    if level == V5:
        assert alice.last(Disconnect).reason == Reason.NOT_AUTHORIZED
    assert [session.device for session in box.sessions.held.values()] == [MALLORY]
    box.sessions.revoke("", box.now_ns, 0)
    assert not mallory.ended


@both
def test_while_the_disk_refuses_nobody_is_let_in(box: Box, level: int) -> None:
    box.fault = "the disk is full"
    client = Client(box, level).connect()
    assert client.last(Connack).reason == (3 if level == V311 else Reason.UNAVAILABLE)
    assert client.ended


# -- acknowledgements ---------------------------------------------------------------------------------------------


@both
def test_nothing_is_acknowledged_before_it_is_stored_and_then_in_the_order_in_which_it_came(
    box: Box, level: int
) -> None:
    box.slow = True
    bob = box.client(level)
    bob.publishes(b"1", 1, 1)
    bob.publishes(b"2", 2, 2)
    bob.publishes(b"", 1, 3, topic="nothing")  # there is nothing to store for it, and it has to wait all the same
    bob.publishes(b"4", 1, 4)
    assert [packet for packet in bob.heard if isinstance(packet, Ack)] == []
    box.waiting.reverse()  # even when commits were told out of their order
    box.commit()
    assert [packet for packet in bob.heard if isinstance(packet, Ack)] == [
        ack(Kind.PUBACK, 1), ack(Kind.PUBREC, 2), ack(Kind.PUBACK, 3), ack(Kind.PUBACK, 4)
    ]  # fmt: skip
    assert bob.connection.unacked == 0


@both
def test_many_messages_of_one_read_are_one_batch_with_one_answer(box: Box, level: int) -> None:
    bob = box.client(level)
    bob.publishes(b"first", topic="t")
    box.slow = True
    data = b"".join(
        codec.encode(Publish("t", b"%d" % number, number % 2, packet_id=number), level) for number in range(1, 800)
    )
    bob.bytes_say(data)
    assert len(box.waiting) == 1
    box.commit()
    assert box.raws[1:] == [b"%d" % number for number in range(1, 800)]
    assert [packet.packet_id for packet in bob.heard if isinstance(packet, Ack)] == list(range(1, 800, 2))


@both
def test_however_the_bytes_are_cut_the_same_records_come_out(level: int) -> None:
    rng = random.Random(5)
    packets = [
        Publish(f"t/{number % 3}", rng.randbytes(rng.choice((0, 3, 200, 20_000))), number % 3, packet_id=number or 1,
                retain=number % 7 == 0)
        for number in range(60)
    ]  # fmt: skip
    data = b"".join(codec.encode(packet, level) for packet in packets)
    for piece in (1 << 20, 4_096, 977, 64, 7):
        box = Box()
        box.client(level).bytes_say(data, piece)
        assert box.raws == [packet.payload for packet in packets], piece


def test_a_commit_that_fails_leaves_qos_2_to_be_sent_again(box: Box) -> None:
    box.slow = True
    bob = box.client(**STAYS)
    bob.publishes(b"x", 2, 7)
    box.commit(stored=False)
    bob.breaks()
    again = box.client(**STAYS)
    again.publishes(b"x", 2, 7, dup=True)
    box.commit()
    assert box.raws == [b"x"]
    assert again.last(Ack) == ack(Kind.PUBREC, 7)


def test_a_pubrec_that_was_due_on_a_broken_connection_goes_to_the_one_that_asked_again(box: Box) -> None:
    box.slow = True
    bob = box.client(**STAYS)
    bob.publishes(b"x", 2, 7)
    bob.publishes(b"y", 2, 8)
    bob.breaks()
    again = box.client(**STAYS)
    assert again.publishes(b"x", 2, 7, dup=True) == []
    box.commit()
    assert [packet for packet in again.heard if isinstance(packet, Ack)] == [ack(Kind.PUBREC, 7)]
    assert again.publishes(b"y", 2, 8, dup=True) == [ack(Kind.PUBREC, 8)]
    assert box.raws == [b"x", b"y"]


@both
def test_what_the_api_refuses_is_kept_apart_and_the_rest_of_the_read_is_stored(box: Box, level: int) -> None:
    bob = box.client(level)
    for topic in ("t", "mallory/t", "secret/t", "broken"):
        bob.publishes(b"known", topic=topic)
    box.said.clear()
    box.stored.clear()
    data = b"".join(
        codec.encode(Publish(topic, b"%d" % number, 1, packet_id=number), level)
        for number, topic in enumerate(("t", "mallory/t", "t", "secret/t", "broken"), 1)
    )
    heard = bob.bytes_say(data)
    reasons = (0, Reason.NOT_AUTHORIZED, 0, Reason.IMPLEMENTATION, Reason.PAYLOAD_FORMAT)
    said = reasons if level == V5 else (0,) * 5
    assert heard == [ack(Kind.PUBACK, number, reason) for number, reason in enumerate(said, 1)]
    assert box.raws == [b"1", b"3"]
    assert [(one.reason, one.raw) for one in box.said] == [
        (Turned.FOREIGN, b"2"),
        ("wrong key", b""),  # a secret is not kept
        ("this is no JSON", b"5"),
    ]
    answer = bob.publishes(b"x", 2, 9, topic="broken")
    assert answer == [ack(Kind.PUBREC, 9, Reason.PAYLOAD_FORMAT if level == V5 else 0)]


@both
def test_a_payload_longer_than_a_record_is_kept_apart(box: Box, level: int) -> None:
    bob = box.client(level)
    bob.publishes(b"x" * limits.record_bytes_max, 1)
    bob.publishes(b"x" * (limits.record_bytes_max + 1), 1)
    assert [len(raw) for raw in box.raws] == [limits.record_bytes_max]
    assert box.counted == ["too long for a record"]
    assert not bob.ended


# -- pushing back -------------------------------------------------------------------------------------------------


@both
def test_an_empty_bucket_stops_the_reading_and_loses_nothing(box: Box, level: int) -> None:
    bob = box.client(level)
    bob.publishes(b"known")
    data = b"".join(codec.encode(Publish("t", b"%d" % number, 1, packet_id=number), level) for number in range(1, 6))
    box.room = [0.5, 0.0, 0.0, 0.25]  # not all five; one; two; not the third
    bob.bytes_say(data)
    assert box.raws[1:] == [b"1", b"2"]
    assert bob.connection.wait_s == 0.25
    bob.bytes_say(codec.encode(Ping(Kind.PINGREQ), level))
    assert Ping(Kind.PINGRESP) not in bob.heard  # nothing behind it is read
    bob.goes_on()
    assert box.raws[1:] == [b"%d" % number for number in range(1, 6)]
    assert bob.last(Ping) == Ping(Kind.PINGRESP)
    box.room = [0.1]
    bob.publishes(b"alone", 2, 9)
    assert b"alone" not in box.raws
    bob.goes_on()
    assert box.raws[-1] == b"alone"


@both
def test_a_message_that_would_wait_for_ever_ends_the_connection(box: Box, level: int) -> None:
    bob = box.client(level)
    box.room = [1e9]
    bob.publishes(b"x", 1)
    assert bob.ended
    assert (box.said[0].reason, box.said[0].raw) == (Turned.FLOOD, b"x")
    assert "protocol error" in box.counted
    if level == V5:
        assert bob.last(Disconnect).reason == Reason.RATE


def test_who_does_not_finish_what_he_begins_is_cut_off(box: Box) -> None:
    silent, begun, dripping = Client(box), box.client(client_id="a"), box.client(client_id="b")
    begun.bytes_say(codec.encode(Publish("t", b"x" * 100), V5)[:50])
    for _ in range(7):
        box.pass_s(9)
        dripping.publishes(b"x")
    assert silent.ended
    assert begun.ended
    assert not dripping.ended
    assert box.counted == ["no CONNECT in time", "packet not finished in time"]


def test_256_mb_announced_are_refused_at_the_announcement(box: Box) -> None:
    for level in LEVELS:
        bob = box.client(level)
        bob.bytes_say(b"\x32\xff\xff\xff\x7f")
        assert bob.ended
        assert bob.connection.rest_bytes == 0
    client = Client(box, V5)
    client.bytes_say(b"\x10\xff\xff\xff\x7f")
    assert client.ended
    assert box.counted == ["too large"] * 3


def test_many_small_pieces_of_a_large_packet_are_joined_once(box: Box) -> None:
    bob = box.client()
    raw = codec.encode(Publish("t", b"x" * 60_000), V5)
    bob.bytes_say(raw[:-1], 10)
    assert len(bob.connection.rest) > 5_000  # they wait as they came
    bob.bytes_say(raw[-1:])
    assert [len(one) for one in box.raws] == [60_000]
    assert bob.connection.rest_bytes == 0


# -- bounds -------------------------------------------------------------------------------------------------------


@both
def test_a_session_has_so_many_subscriptions_and_no_more(box: Box, level: int) -> None:
    bob = box.client(level)
    bob.subscribes(*(f"t/{number}" for number in range(limits.mqtt_subscriptions_max - 1)))
    answer = bob.subscribes("u/1", "u/2")[0]
    assert isinstance(answer, Granted)
    assert answer.reasons[-2:] == (0, Reason.QUOTA if level == V5 else 0x80)
    assert len(bob.session.subscriptions) == limits.mqtt_subscriptions_max
    bob.subscribes(*("t" for _ in range(limits.mqtt_subscriptions_max + 1)))  # which costs more to read than to say
    assert bob.ended


def test_a_device_that_acknowledges_nothing_is_sent_so_much_and_no_more(box: Box) -> None:
    bob = box.client()
    bob.subscribes("t", qos=1)
    assert [bob.send("t", b"x") for _ in range(limits.mqtt_outgoing_max)] == [True] * limits.mqtt_outgoing_max
    assert not bob.send("t", b"x")
    bob.says(ack(Kind.PUBACK, 1))
    assert bob.send("t", b"x")


def test_of_too_much_for_a_client_that_is_away_the_oldest_goes_and_is_counted(box: Box) -> None:
    bob = box.client(**STAYS)
    bob.subscribes("t", qos=1)
    for number in range(3):  # on their way already: these are not let go
        bob.send("t", b"before %d" % number)
    bob.breaks()
    assert all(bob.send("t", b"%d" % number) for number in range(limits.mqtt_outgoing_max))
    again = box.client(**STAYS)
    heard = [packet.payload for packet in again.heard if isinstance(packet, Publish)]
    assert heard == [b"before 0", b"before 1", b"before 2"] + [b"%d" % n for n in range(3, limits.mqtt_outgoing_max)]
    assert box.counted == ["kept message let go"] * 3
    assert box.sessions.kept_bytes == 0


def test_bytes_for_those_who_are_away_are_bounded_for_each_and_for_all(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "mqtt_kept_each_bytes_max", 1_000)
    monkeypatch.setattr(limits, "mqtt_kept_bytes_max", 1_500)
    away = [box.client(client_id=name, **STAYS) for name in ("a", "b")]
    for one in away:
        one.subscribes("t", qos=2)
        one.breaks()
    assert not away[0].send("t", b"x" * 1_001)
    assert [away[0].send("t", b"%d" % number * 400) for number in range(5)] == [True] * 5
    assert box.sessions.kept_bytes == 800
    assert away[1].send("t", b"x" * 700)
    assert not away[1].send("t", b"y" * 200)
    assert box.counted == ["too much kept", *["kept message let go"] * 3, "too much kept"]
    back = box.client(client_id="a", **STAYS)
    assert [packet.payload[:1] for packet in back.heard if isinstance(packet, Publish)] == [b"3", b"4"]
    assert away[1].send("t", b"y" * 200)
    box.sessions.revoke("", box.now_ns, 0)
    box.pass_s(601)
    assert box.sessions.kept_bytes == 0
    assert box.api.away == []


def test_one_who_comes_back_and_takes_less_is_not_sent_what_is_too_large(box: Box) -> None:
    bob = box.client(**STAYS)
    bob.subscribes("t", qos=1)
    bob.breaks()
    assert bob.send("t", b"x" * 500)
    assert bob.send("t", b"short")
    small = {Property.SESSION_EXPIRY: 600, Property.PACKET_MAXIMUM: 100}
    again = box.client(clean=False, properties=Properties(small))
    assert [packet.payload for packet in again.heard if isinstance(packet, Publish)] == [b"short"]


def test_retained_messages_are_bounded_for_each_device_and_a_topic_counts_once(box: Box) -> None:
    bob = box.client()
    for number in range(limits.mqtt_retained_each_max + 5):
        bob.publishes(b"x", topic=f"t/{number}", retain=True)
    assert box.sessions.retained_count == limits.mqtt_retained_each_max
    assert box.counted == ["too much retained"] * 5
    assert len(box.stored) == limits.mqtt_retained_each_max + 5
    bob.publishes(b"yy", topic="t/0", retain=True)
    assert box.sessions.retained_bytes == limits.mqtt_retained_each_max + 1


def test_sessions_without_a_client_are_bounded_and_the_one_longest_alone_goes(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "mqtt_sessions_max", 3)
    for name in ("a", "b", "c", "d"):
        box.client(client_id=name, **STAYS).breaks()
    assert [client_id for _, client_id in box.sessions.held] == ["b", "c", "d"]
    assert box.counted == ["session let go"]


def test_the_memory_of_topics_begins_anew_when_it_is_full(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "mqtt_topics_max", 10)
    bob = box.client()
    for number in range(25):
        bob.publishes(b"x", topic=f"t/{number}")
    assert len(box.sessions.topics) <= 10
    bob.publishes(b"x", topic="t" * (limits.mqtt_topic_chars_max + 1))
    assert bob.last(Disconnect).reason == Reason.TOPIC_INVALID


def test_terms_are_those_of_the_box() -> None:
    box = Box(Terms(packet_bytes_max=1_000, session_s_max=60, receive_max=2))
    bob = box.client(**STAYS)
    granted = bob.last(Connack).properties
    assert granted[Property.PACKET_MAXIMUM] == 1_000
    assert granted[Property.SESSION_EXPIRY] == 60
    assert granted[Property.RECEIVE_MAXIMUM] == 2
    bob.breaks()
    box.pass_s(61)
    assert box.sessions.held == {}
    old = box.client(V311, clean=False)
    old.breaks()
    box.pass_s(61)
    assert box.sessions.held == {}


# -- wills --------------------------------------------------------------------------------------------------------


def test_a_will_passes_the_same_door_as_everything_else(box: Box) -> None:
    box.client(client_id="a", will=Will("mallory/t", b"no")).breaks()
    box.client(client_id="b", will=Will("secret/t", b"key")).breaks()
    box.room = [5.0]
    box.client(client_id="c", will=Will("t", b"flood")).breaks()
    box.client(client_id="d", token="alice", will=Will("gateway", b"yes")).breaks()
    assert [(one.reason, one.raw) for one in box.said] == [
        (Turned.FOREIGN, b"no"), ("wrong key", b""), (Turned.FLOOD, b"flood")
    ]  # fmt: skip
    assert box.stored == [("attributes/@01ALICE/mast", b"yes"), ("attributes/@01ALICE/buoy", b"yes")]


def test_a_will_is_sent_when_its_client_is_taken_over_and_the_session_ends(box: Box) -> None:
    box.client(will=Will("last", b"gone"))
    box.client()
    assert box.api.heard == [("last", b"gone")]


# -- filters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic_filter", "topic", "fits"),
    [
        ("a/b", "a/b", True), ("a/b", "a/b/", False), ("a/+", "a/b", True), ("a/+", "a", False), ("a/+", "a/", True),
        ("a/#", "a", True), ("a/#", "a/b/c", True), ("a/#", "b", False), ("#", "a/b", True), ("+", "a", True),
        ("+", "a/b", False), ("+/+", "/a", True), ("/+", "/a", True), ("+/b/#", "a/b", True), ("#", "$SYS", False),
        ("+/a", "$SYS/a", False), ("$SYS/#", "$SYS/a", True),
        ("v1/devices/me/rpc/request/+", "v1/devices/me/rpc/request/7", True),
    ],
)  # fmt: skip
def test_filters_match_topics_as_the_standard_says(topic_filter: str, topic: str, fits: bool) -> None:
    assert matches(topic_filter, topic) is fits


def test_whatever_stands_right_behind_a_connect_waits_for_it_and_is_judged_then(box: Box) -> None:
    hello = codec.encode(Connect(V5, "bob"), V5)
    for behind in (b"\x30\xff\xff\xff\xff\xff", b"\x30\xff\xff\xff\x7f", b"\x30\x80\x00", b"\x00\x00", b"\x30\xff"):
        client = Client(box, V5)
        client.bytes_say(hello + behind)
        assert isinstance(client.heard[0], Connack)
        assert bool(client.ended) is (behind != b"\x30\xff")


def test_a_connect_may_come_in_pieces_with_everything_behind_it(box: Box) -> None:
    client = Client(box, V5)
    data = codec.encode(Connect(V5, "bob"), V5) + codec.encode(Publish("t", b"x", 1, packet_id=1), V5)
    client.bytes_say(data, 3)
    assert box.raws == [b"x"]
    assert isinstance(client.heard[0], Connack)
