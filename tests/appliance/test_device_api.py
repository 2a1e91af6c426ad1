"""What a message on a topic comes to: records, answers, or a sentence why not. On pretended lines."""

from __future__ import annotations

import asyncio
import json

import pytest

from appliance.intake import attributes
from appliance.intake.device import Taken, Turned
from appliance.intake.device_api import NO_PACKAGE
from appliance.intake.device_bodies import Fault
from appliance.intake.device_calls import UNASKED
from appliance.intake.device_seats import LATELY_S
from fleet import limits, snapshot
from fleet.people import Refused
from tests.appliance.lines import KESTREL, MAST, NEW, STRANGER, Session, Site, Wire
from tests.cast import eventually_async

CALLS = "v1/devices/me/rpc/request/"
ANSWERS = "v1/devices/me/rpc/response/"


def say(site: Site, wire: Wire, topic: str, body: object) -> Taken:
    return site.api.published(wire, topic, body if isinstance(body, bytes) else json.dumps(body).encode())


# -- data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b'{"k":1}',
        b'[{"k":1}]',
        b'{"ts":1,"values":{"k":1}}',
        b'[{"ts":1,"values":{"k":1}},{"k":2}]',
        b" {}\n",
        b'{"k":NaN}',
    ],
)
@pytest.mark.parametrize("topic", ["v1/devices/me/telemetry", "v2/t", "v2/t/j", "v1/devices/kestrel/telemetry"])
def test_telemetry_is_kept_as_it_came(topic: str, body: bytes) -> None:
    assert say(Site(), Wire(KESTREL), topic, body) == Taken((("", body),))


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", Fault.NOT_JSON),
        (b"{", Fault.NOT_JSON),
        (b'{"a":1} tail', Fault.NOT_JSON),
        (b"7", Fault.NOT_DATA),
        (b"null", Fault.NOT_DATA),
        (b"\xff\xfe", Fault.NOT_JSON),
        (b'{"a":' * 40 + b"1" + b"}" * 40, Fault.TOO_DEEP),
        (b"[" * 100_000, Fault.TOO_LONG),
        (b"[" * 60_000, Fault.TOO_DEEP),
    ],
)
def test_what_is_no_telemetry_is_refused_with_a_sentence(body: bytes, fault: Fault) -> None:
    for topic in ("v1/devices/me/telemetry", "v2/t"):
        assert say(Site(), Wire(KESTREL), topic, body) == Taken(refused=fault)


def test_what_is_somebody_elses_is_refused_with_one_word() -> None:
    site = Site()
    assert say(site, Wire(KESTREL), "v1/devices/merlin/telemetry", {"k": 1}).refused == Turned.FOREIGN
    assert say(site, Wire(KESTREL), "v1/gateway/telemetry", {"A": [{"k": 1}]}).refused == Turned.FOREIGN
    assert say(site, Wire(KESTREL), "v1/devices/merlin/claim", {"secretKey": "s"}) == Taken(
        refused=Turned.FOREIGN, secret=True
    )


def test_one_that_nobody_knows_may_say_and_ask_and_hears_nothing_of_others() -> None:
    site, wire = Site(), Wire(STRANGER, "#")
    site.api.opened(wire)
    assert say(site, wire, "v1/devices/me/telemetry", b'{"k":1}') == Taken((("", b'{"k":1}'),))
    assert say(site, wire, "v1/devices/me/attributes/request/1", {}) == Taken()
    assert wire.heard == [("v1/devices/me/attributes/response/1", {})]
    assert len(site.api.seats) == 0


# -- attributes ---------------------------------------------------------------------------------------------------


async def test_a_device_hears_what_it_said_and_what_is_wanted_of_it() -> None:
    site, wire = Site(), Wire(KESTREL, "v1/devices/me/attributes/response/+")
    site.said["01KESTREL"] = {"serial": '"K-1"', "mode": '"old"'}
    site.api.opened(wire)
    taken = say(site, wire, "v1/devices/me/attributes", {"mode": "new", "gone": None})
    assert taken == Taken((("", b'{"mode": "new", "gone": null}'),), intake="attributes")
    say(
        site,
        wire,
        "v1/devices/me/attributes/request/1",
        {"clientKeys": "mode, serial,gone", "sharedKeys": "target_version"},
    )
    say(site, wire, "v1/devices/me/attributes/request/2", {"clientKeys": "mode"})
    say(site, wire, "v1/devices/me/attributes/request/3", {})
    await site.settle()
    answers = dict(wire.heard)
    root = "v1/devices/me/attributes/response/"
    assert answers[root + "1"] == {"client": {"mode": "new", "serial": "K-1"}, "shared": {"target_version": "2.5"}}
    assert answers[root + "2"] == {"client": {"mode": "new"}}
    assert answers[root + "3"]["shared"] == {"target_version": "2.5", "name": "kestrel"}


@pytest.mark.parametrize(
    ("topic", "answer"),
    [
        ("v2/a/req/5", "v2/a/res/5"),
        ("v2/a/req/j/5", "v2/a/res/j/5"),
        ("v1/devices/kestrel/attributes/request/5", "v1/devices/kestrel/attributes/response/5"),
    ],
)
async def test_an_answer_comes_in_the_words_of_the_question(topic: str, answer: str) -> None:
    site, wire = Site(), Wire(KESTREL, "#")
    say(site, wire, topic, {"sharedKeys": "target_version"})
    await site.settle()
    assert wire.heard == [(answer, {"shared": {"target_version": "2.5"}})]


@pytest.mark.parametrize("topic", ["v1/devices/me/attributes", "v2/a", "v1/devices/01KESTREL/attributes"])
async def test_a_device_is_told_what_changes_and_what_goes(topic: str) -> None:
    site, wire = Site(), Wire(KESTREL, topic)
    site.api.opened(wire)
    await site.settle()
    assert wire.heard == []
    site.wanted["01KESTREL"] = {"target_version": b'"2.6"', "name": b'"kestrel"'}
    site.api.attributes.changed(["01KESTREL", "01OTHER"])
    await site.settle()
    del site.wanted["01KESTREL"]["target_version"]
    site.api.attributes.changed(of_any=True)
    await site.settle()
    site.api.attributes.changed(["01KESTREL"])  # nothing new
    await site.settle()
    assert wire.heard == [(topic, {"target_version": "2.6"}), (topic, {"deleted": ["target_version"]})]


async def test_a_device_that_subscribes_late_is_told_all_that_changed() -> None:
    site, wire = Site(), Wire(KESTREL)
    site.api.opened(wire)
    await site.settle()
    site.wanted["01KESTREL"]["name"] = b'"kestrel-1"'
    site.api.attributes.changed(["01KESTREL"])
    await site.settle()
    wire.filters.append("v1/devices/me/attributes")
    site.wanted["01KESTREL"]["tags"] = b'["scout"]'
    site.api.attributes.changed(["01KESTREL"])
    await site.settle()
    assert wire.heard == [("v1/devices/me/attributes", {"name": "kestrel-1", "tags": ["scout"]})]


async def test_who_comes_back_is_told_in_one_word_what_changed_since_it_left_whoever_else_was_told_meanwhile() -> None:
    site, first, other = Site(), Wire(KESTREL, "v1/devices/me/attributes"), Wire(KESTREL, "v1/devices/me/attributes")
    site.api.opened(first)
    site.api.opened(other)
    await site.settle()
    away = Session(KESTREL)
    site.api.left(first, away)
    site.api.closed(first)
    for wanted in (b'"2.6"', b'"2.7"'):
        site.wanted["01KESTREL"]["target_version"] = wanted
        site.api.attributes.changed(["01KESTREL"])
        await site.settle()
    assert first.heard == []
    assert len(other.heard) == 2
    back = Wire(KESTREL, "v1/devices/me/attributes")
    site.api.back(away, back)
    site.api.opened(back)
    await site.settle()
    assert back.heard == [("v1/devices/me/attributes", {"target_version": "2.7"})]
    assert len(other.heard) == 2
    site.api.left(back, away)
    site.api.closed(back)
    site.api.gone(away)
    assert site.api.seats.away(["@01KESTREL/"]) == []
    again = Wire(KESTREL, "v1/devices/me/attributes")
    site.api.back(away, again)
    await site.settle()
    assert again.heard == []


async def test_a_gateway_that_comes_back_brings_those_behind_it_with_it() -> None:
    site, wire = Site(), Wire(MAST, "v1/gateway/attributes", "v1/gateway/rpc")
    site.api.opened(wire)
    say(site, wire, "v1/gateway/connect", {"device": "buoy"})
    site.wanted["01BUOY"] = {"name": b'"buoy"'}
    await site.settle()
    away = Session(MAST, "v1/gateway/rpc")
    site.api.left(wire, away)
    site.api.closed(wire)
    assert not site.api.connected("01BUOY")
    site.api.calls.check("01BUOY")  # it is worth waiting
    asked = asyncio.create_task(site.api.calls.call("01BUOY", "blink", 1, 20.0, one_way=True))
    site.wanted["01BUOY"]["target_version"] = b'"2.5"'
    site.api.attributes.changed(["01BUOY"])
    await site.settle()
    back = Wire(MAST, "v1/gateway/attributes", "v1/gateway/rpc")
    site.api.back(away, back)
    site.api.opened(back)
    await site.settle()
    assert await asked is None
    assert back.heard == [
        ("v1/gateway/attributes", {"device": "buoy", "data": {"target_version": "2.5"}}),
        ("v1/gateway/rpc", {"device": "buoy", "data": {"id": 1, "method": "blink", "params": 1}}),
    ]


def test_so_many_may_be_away_and_who_is_beyond_them_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "away_seats_max", 2)
    site, wire, other = Site(), Wire(MAST), Wire(KESTREL)
    site.api.opened(wire)
    site.api.opened(other)
    say(site, wire, "v1/gateway/connect", {"device": "buoy"})
    mast, kestrel = Session(MAST), Session(KESTREL)
    for line, away in ((wire, mast), (other, kestrel)):
        site.api.left(line, away)
        site.api.closed(line)
    assert site.api.waiting()["seats_away"] == 2
    site.api.back(kestrel, Wire(KESTREL))
    site.api.back(mast, Wire(MAST))
    assert (site.api.connected("01KESTREL"), site.api.connected("01MAST"), site.api.connected("01BUOY")) == (
        False,
        True,
        True,
    )
    assert site.api.waiting()["seats_away"] == 0


async def test_a_call_to_one_who_listens_to_none_when_it_is_back_is_refused_at_once() -> None:
    site, wire = Site(), Wire(KESTREL)
    site.api.opened(wire)
    site.api.left(wire, Session(KESTREL, "v1/devices/me/attributes"))
    site.api.closed(wire)
    site.now_s += LATELY_S + 1
    with pytest.raises(Refused, match="not connected, so nothing was sent"):
        site.api.calls.check("01KESTREL")


async def test_after_a_start_a_question_waits_until_what_was_stored_is_read() -> None:
    site, wire = Site(), Wire(KESTREL, "#")
    site.ready = False
    say(site, wire, "v1/devices/me/attributes/request/1", {"clientKeys": "mode"})
    running = asyncio.create_task(site.api.attributes.run())
    await asyncio.sleep(0.1)
    assert wire.heard == []
    site.said["01KESTREL"] = {"mode": '"as stored"'}
    site.ready = True
    await eventually_async(lambda: _heard(wire))
    assert wire.heard == [("v1/devices/me/attributes/response/1", {"client": {"mode": "as stored"}})]
    running.cancel()


async def test_a_question_for_one_that_is_about_to_be_a_node_waits_for_that() -> None:
    site, wire = Site(), Wire(MAST, "v1/gateway/attributes/response", "v1/gateway/attributes")
    site.coming.add("@01MAST/tern")
    say(site, wire, "v1/gateway/connect", {"device": "tern"})
    say(site, wire, "v1/gateway/attributes/request", {"id": 1, "device": "tern", "client": False, "key": "name"})
    await site.api.attributes._some()
    assert wire.heard == []
    site.coming.clear()
    site.claims["@01MAST/tern"] = "01TERN"
    site.wanted["01TERN"] = {"name": b'"tern"'}
    await site.settle()
    assert wire.heard == [("v1/gateway/attributes/response", {"id": 1, "device": "tern", "value": "tern"})]
    site.wanted["01TERN"]["target_version"] = b'"2.5"'
    site.api.attributes.changed(["01TERN"])
    await site.settle()
    news = {"device": "tern", "data": {"target_version": "2.5"}}
    assert wire.heard[1:] == [("v1/gateway/attributes", news)], "what it opened its line with is no news"


@pytest.mark.parametrize("body", [b"[]", b"7", b"{", b'{"a"}', b"\xff"])
def test_what_is_no_attributes_is_refused(body: bytes) -> None:
    assert say(Site(), Wire(KESTREL), "v1/devices/me/attributes", body).refused in (
        Fault.NOT_ATTRIBUTES,
        Fault.NOT_JSON,
    )


def test_the_record_of_attributes_is_a_reading_with_bounds() -> None:
    body = {"fw": "2.4.1", "battery": 81, "long": "x" * 2_000, "nested": {"a": [1]}, "gone": None}
    reading = attributes.parse(json.dumps(body).encode(), 0)
    assert (reading.version, reading.metrics) == ("2.4.1", {"battery_pct": 81.0})
    assert reading.attributes == {"fw": '"2.4.1"', "battery": "81", "nested": '{"a": [1]}', "gone": "null"}
    assert attributes.LONG in reading.marks
    held = snapshot.Snapshot()
    snapshot.fold(held, 1, 10, "attributes/@K/", attributes.parse(b'{"gone":1,"kept":2}', 0))
    snapshot.fold(held, 2, 20, "attributes/@K/", reading)
    assert {name: said.at_ns for name, said in held.attributes.items()} == {
        "kept": 10,
        "fw": 20,
        "battery": 20,
        "nested": 20,
    }
    many = json.dumps({f"k{n}": n for n in range(1_000)}).encode()
    snapshot.fold(held, 3, 30, "attributes/@K/", attributes.parse(many, 0))
    assert len(held.attributes) == limits.attributes_per_node_max


@pytest.mark.parametrize("which", ["fw", "sw"])
def test_who_asks_for_a_package_is_told_that_there_is_none(which: str) -> None:
    site, listens, deaf = Site(), Wire(KESTREL, f"v2/{which}/error"), Wire(KESTREL, f"v2/{which}/response/+")
    listens.raw = True
    for chunk in (0, 1):
        assert say(site, listens, f"v2/{which}/request/7/chunk/{chunk}", b"16384") == Taken()
    assert listens.heard == [(f"v2/{which}/error", NO_PACKAGE.encode())] * 2
    assert say(site, deaf, f"v2/{which}/request/7/chunk/0", b"16384") == Taken(refused=NO_PACKAGE)
    assert say(site, deaf, f"v2/{which}/request/x/chunk/0", b"").refused == "this topic has no meaning here"


# -- calls --------------------------------------------------------------------------------------------------------


def test_a_device_calls_what_there_is() -> None:
    site, wire = Site(), Wire(KESTREL, "#")
    assert say(site, wire, CALLS + "1", {"method": "getSessionLimits", "params": {}}) == Taken()
    say(site, wire, "v2/r/req/2", {"method": "getCurrentTime"})
    say(site, wire, CALLS + "3", {"method": "openDoor", "params": 7})
    (_, told), (short, now_ms), (_, none) = wire.heard
    assert told["maxPayloadSize"] == limits.record_bytes_max
    assert told["rateLimits"] == {"messages": "", "telemetryMessages": "", "telemetryDataPoints": ""}
    assert "gatewayRateLimits" not in told
    assert (short, now_ms) == ("v2/r/res/2", 1_795_253_400_000)
    assert "openDoor" in none["error"]
    assert say(site, wire, CALLS + "4", b"[]").refused == Fault.NOT_A_CALL


async def called(site: Site, node_id: str, *, timeout_s: float = 20.0, one_way: bool = False) -> asyncio.Task[object]:
    task = asyncio.create_task(site.api.calls.call(node_id, "blink", {"n": 2}, timeout_s, one_way=one_way))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize(
    ("topic", "answer"),
    [
        (CALLS, ANSWERS),
        ("v2/r/req/", "v2/r/res/"),
        ("v1/devices/kestrel/rpc/request/", "v1/devices/kestrel/rpc/response/"),
    ],
)
async def test_a_device_is_called_where_it_listens_and_answers(topic: str, answer: str) -> None:
    site, wire = Site(), Wire(KESTREL, topic + "+")
    site.api.opened(wire)
    task = await called(site, "01KESTREL")
    ((where, wish),) = wire.heard
    assert (where.removeprefix(topic), wish) == ("1", {"method": "blink", "params": {"n": 2}})
    assert say(site, wire, answer + "1", {"done": True}) == Taken()
    assert await task == {"done": True}
    assert say(site, wire, answer + "1", {"done": True}).refused == UNASKED


async def test_an_answer_counts_from_whom_was_asked_only() -> None:
    site, wire, other = Site(), Wire(KESTREL, CALLS + "+"), Wire(MAST)
    site.api.opened(wire)
    task = await called(site, "01KESTREL")
    assert say(site, other, ANSWERS + "1", {"done": False}).refused == UNASKED
    assert say(site, Wire(STRANGER), ANSWERS + "1", {"done": False}).refused == UNASKED
    say(site, wire, ANSWERS + "1", b"true")
    assert await task is True


async def test_an_answer_that_cannot_be_read_ends_the_call() -> None:
    site, wire = Site(), Wire(KESTREL, CALLS + "+")
    site.api.opened(wire)
    task = await called(site, "01KESTREL")
    assert say(site, wire, ANSWERS + "1", b"\xff{").refused == Fault.NOT_JSON
    with pytest.raises(Refused, match="cannot be read") as refused:
        await task
    assert refused.value.status == 502


async def test_who_is_not_connected_is_refused_and_who_subscribes_late_is_called() -> None:
    site, wire = Site(), Wire(KESTREL)
    with pytest.raises(Refused, match="not connected"):
        await site.api.calls.call("01KESTREL", "blink", None, 1.0, one_way=True)
    site.api.opened(wire)
    task = await called(site, "01KESTREL", one_way=True)
    wire.filters.append(CALLS + "+")
    assert await task is None
    site.api.closed(wire)
    site.now_s += 60
    with pytest.raises(Refused, match="not connected"):
        await site.api.calls.call("01KESTREL", "blink", None, 1.0, one_way=True)
    assert len(site.api.calls) == len(site.api.seats) == 0


async def test_a_call_that_nobody_hears_ends_in_time_with_a_sentence() -> None:
    site, wire = Site(), Wire(KESTREL)
    site.api.opened(wire)
    with pytest.raises(Refused, match="nothing was sent") as refused:
        await site.api.calls.call("01KESTREL", "blink", None, 0.05, one_way=False)
    assert refused.value.status == 504


# -- gateways -----------------------------------------------------------------------------------------------------


def test_each_device_behind_a_gateway_has_its_own_bytes() -> None:
    body = b'{"buoy": [{"ts":1,"values":{"t":1.50}}] , "fjord 2":[{"t":2}], "mast":{"t":3}}'
    taken = say(Site(), Wire(MAST), "v1/gateway/telemetry", body)
    assert taken.records == (
        ("buoy", b'[{"ts":1,"values":{"t":1.50}}]'),
        ("fjord 2", b'[{"t":2}]'),
        ("mast", b'{"t":3}'),
    )
    taken = say(Site(), Wire(MAST), "v1/gateway/attributes", b'{"buoy":{"rev": 1},"mast":{}}')
    assert taken == Taken((("buoy", b'{"rev": 1}'), ("mast", b"{}")), intake="attributes")


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"[]", Fault.NOT_DEVICES),
        (b"{", Fault.NOT_JSON),
        (b'{"buoy":7}', Fault.NOT_DATA),
        (b'{"":[{"t":1}]}', Fault.BAD_NAME),
        (b'{"a\\nb":[{"t":1}]}', Fault.BAD_NAME),
        (json.dumps({f"d{n}": [{"t": 1}] for n in range(10_000)}).encode(), Fault.TOO_MANY_DEVICES),
        (b'{"buoy":[{"x":"' + b"x" * limits.record_bytes_max + b'"}]}', Fault.TOO_LONG),
    ],
)
def test_what_a_gateway_may_not_say_is_refused_whole(body: bytes, fault: Fault) -> None:
    site, wire = Site(), Wire(MAST)
    assert say(site, wire, "v1/gateway/telemetry", body) == Taken(refused=fault)
    assert len(site.api.seats) == 0


async def test_a_device_behind_a_gateway_is_called_and_told_through_it() -> None:
    site, wire = Site(), Wire(MAST, "v1/gateway/rpc", "v1/gateway/attributes")
    site.wanted["01BUOY"] = {"tags": b'["sea"]'}
    site.api.opened(wire)
    say(site, wire, "v1/gateway/connect", {"device": "buoy", "type": "float"})
    await site.settle()
    task = await called(site, "01BUOY")
    assert wire.heard.pop() == (
        "v1/gateway/rpc",
        {"device": "buoy", "data": {"id": 1, "method": "blink", "params": {"n": 2}}},
    )
    assert say(site, wire, "v1/gateway/rpc", {"device": "mast", "id": 1, "data": 1}).refused == UNASKED
    assert say(site, wire, "v1/gateway/rpc", {"device": "buoy", "id": 1, "data": {"ok": 1}}) == Taken()
    assert await task == {"ok": 1}
    site.wanted["01BUOY"] = {"tags": b'["sea","deep"]'}
    site.api.attributes.changed(["01BUOY"])
    await site.settle()
    assert wire.heard == [("v1/gateway/attributes", {"device": "buoy", "data": {"tags": ["sea", "deep"]}})]
    say(site, wire, "v1/gateway/disconnect", {"device": "buoy"})
    site.now_s += 60
    with pytest.raises(Refused, match="not connected"):
        await site.api.calls.call("01BUOY", "blink", None, 1.0, one_way=True)


async def test_a_gateway_asks_for_those_behind_it() -> None:
    site, wire = Site(), Wire(MAST, "v1/gateway/attributes/response")
    site.wanted["01BUOY"] = {"tags": b'["sea"]', "name": b'"buoy"'}
    say(site, wire, "v1/gateway/attributes", {"buoy": {"rev": 3}})
    ask = "v1/gateway/attributes/request"
    say(site, wire, ask, {"id": 1, "device": "buoy", "client": True, "key": "rev"})
    say(site, wire, ask, {"id": 2, "device": "buoy", "client": False, "keys": ["tags", "name", "no"]})
    say(site, wire, ask, {"id": 3, "device": "unheard", "client": False, "key": "tags"})
    await site.settle()
    assert sorted(body["id"] for _, body in wire.heard) == [1, 2, 3]
    by_id = {body["id"]: body for _, body in wire.heard}
    assert by_id[1] == {"id": 1, "device": "buoy", "value": 3}
    assert by_id[2] == {"id": 2, "device": "buoy", "values": {"tags": ["sea"], "name": "buoy"}}
    assert by_id[3] == {"id": 3, "device": "unheard"}


def test_a_gateway_stands_for_so_many_and_more_are_stored_all_the_same() -> None:
    site, wire = Site(), Wire(MAST)
    for batch in range(3):
        names = {f"d{batch}-{n}": [{"t": 1}] for n in range(limits.gateway_devices_max)}
        assert len(say(site, wire, "v1/gateway/telemetry", names).records) == limits.gateway_devices_max
    assert len(site.api.seats) == limits.gateway_devices_max + 1
    site.api.closed(wire)
    assert len(site.api.seats) == 0


# -- claims and provisioning --------------------------------------------------------------------------------------


def test_a_claim_ends_after_its_time_and_after_five_guesses() -> None:
    site, wire = Site(), Wire(KESTREL)
    assert say(site, wire, "v1/devices/me/claim", {"secretKey": "tern", "durationMs": 30_000}) == Taken()
    site.now_s += 31
    with pytest.raises(Refused, match="does not offer itself"):
        site.api.claim("01KESTREL", "tern")
    say(site, wire, "v1/devices/me/claim", {"secretKey": "tern"})
    for _ in range(5):
        with pytest.raises(Refused, match="not the secret"):
            site.api.claim("01KESTREL", "gull")
    with pytest.raises(Refused, match="does not offer itself"):
        site.api.claim("01KESTREL", "tern")


def test_a_gateway_offers_those_behind_it() -> None:
    site = Site()
    assert say(site, Wire(MAST), "v1/gateway/claim", {"buoy": {"secretKey": "tern", "durationMs": 60_000}}) == Taken()
    site.api.claim("01BUOY", "tern")
    assert say(site, Wire(MAST), "v1/gateway/claim", {"buoy": 7}) == Taken(refused=Fault.NOT_A_CLAIM, secret=True)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"provisionDeviceKey": "k", "provisionDeviceSecret": "GOOD-CODE", "deviceName": "x"}, ("SUCCESS", "token")),
        ({"provisionDeviceKey": "GOOD-CODE"}, ("SUCCESS", "token")),
        (
            {"provisionDeviceSecret": "GOOD-CODE", "credentialsType": "X509_CERTIFICATE", "csr": "PEM"},
            ("SUCCESS", "CERT"),
        ),
        ({"provisionDeviceSecret": "GUESSED"}, ("FAILURE", None)),
        ({"provisionDeviceSecret": "GOOD-CODE", "credentialsType": "MQTT_BASIC"}, ("FAILURE", None)),
        ([], ("FAILURE", None)),
    ],
)
async def test_a_new_device_trades_its_code(wish: object, said: tuple[str, str | None]) -> None:
    site, wire = Site(), Wire(NEW, "/provision/response")
    site.api.opened(wire)
    assert say(site, wire, "/provision/request", wish) == Taken()
    await eventually_async(lambda: _heard(wire))
    ((_, answer),) = wire.heard
    assert (answer["status"], answer.get("credentialsValue")) == said
    assert ("errorMsg" in answer) == (said[0] == "FAILURE")


async def _heard(wire: Wire) -> int:
    return len(wire.heard)
