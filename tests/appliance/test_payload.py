"""What bodies say: JSON, words, structured data, frames in text; and what they cannot be made to say."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest

from appliance.intake import payload
from appliance.intake.payload import Mark
from fleet import limits, mavlink
from fleet.metrics import KNOWN
from fleet.reading import Flight, Health, Position, Reading

NOON_NS = 1_795_262_400 * limits.SECOND  # 2026-11-21 12:00:00 UTC


def read(body: str | bytes) -> Reading:
    return payload.reading(payload.read(body))


def frame(number: int, crc_extra: int, content: bytes) -> bytes:
    head = struct.pack("<BBBBBBHB", len(content), 0, 0, 1, 7, 1, number, 0)
    return b"\xfd" + head + content + struct.pack("<H", mavlink.crc(head + content + bytes([crc_extra])))


HEARTBEAT = frame(0, 50, struct.pack("<IBBBBB", 0, 2, 3, 0x81, 4, 3))
POSITION = frame(33, 104, struct.pack("<IiiiihhhH", 1000, 599_139_000, 107_522_000, 9000, 500, 30, 40, 0, 4500))
RAW_POSITION = frame(24, 24, struct.pack("<QiiiHHHHBB", 0, 10_000_000, 20_000_000, 0, 0, 0, 0, 0, 3, 9))


# -- JSON ------------------------------------------------------------------------------------------------------------


def test_a_json_object_is_read_in_the_fleets_words() -> None:
    body = {"device": "drone-7", "battery": 87, "temp": 21.5, "status": "OK", "version": "2.4.1", "armed": True}
    assert read(json.dumps(body)) == Reading(
        name="drone-7",
        metrics={"battery_pct": 87.0, "temp_c": 21.5},
        health=Health.OK,
        version="2.4.1",
        armed=True,
    )


@pytest.mark.parametrize(("alias", "metric"), [(alias, metric.name) for metric in KNOWN for alias in metric.aliases])
def test_every_alias_leads_to_its_metric(alias: str, metric: str) -> None:
    assert read(f'{{"{alias}": 12.5}}').metrics == {metric: 12.5}
    assert read(f"{alias.upper()}=12.5").metrics == {metric: 12.5}


def test_an_unknown_number_keeps_its_name() -> None:
    assert read('{"Rotor2": 4100, "motor": {"temp": 55}}').metrics == {"Rotor2": 4100.0, "motor.temp": 55.0}


@pytest.mark.parametrize(
    ("body", "metrics"),
    [
        ({"battery": {"pct": 87, "voltage": 12.1}}, {"battery_pct": 87.0, "voltage_v": 12.1}),
        ({"gps": {"satellites": 9, "hdop": 0.7}}, {"satellites": 9.0, "gps.hdop": 0.7}),
        ({"values": {"battery": 87}}, {"battery_pct": 87.0}),
        ({"payload": {"motor": {"rpm": 9}}}, {"motor.rpm": 9.0}),
        ({"a": {"b": {"c": 1, "d": {"e": 2}}}}, {"a.b.c": 1.0}),
        ({"cells": [3.7, 3.8], "none": None, "empty": {}}, {}),
    ],
)
def test_nested_objects_are_read_two_levels_down(body: dict[str, Any], metrics: dict[str, float]) -> None:
    assert read(json.dumps(body)).metrics == metrics


def test_a_position_is_put_together_wherever_it_stands() -> None:
    inside = {"gps": {"lat": 59.9, "lng": 10.7, "alt": 120}, "heading": 45, "speed": 3}
    assert read(json.dumps(inside)).position == Position(59.9, 10.7, 120.0, 45.0, 3.0)
    assert read("lat=-33.9 lon=151.2").position == Position(-33.9, 151.2)
    assert read('{"lat": 59.9}').position is None


@pytest.mark.parametrize("body", ["lat=91 lon=10", "lat=0 lon=0", "lat=59 lon=180.5", "lat=599139000 lon=107522000"])
def test_an_impossible_position_is_none_and_marked(body: str) -> None:
    reading = read(body)
    assert (reading.position, reading.marks) == (None, ("position-implausible",))


def test_a_list_of_objects_is_read_in_its_order() -> None:
    reading = read('[{"battery": 90, "temp": 20}, {"battery": 89}]')
    assert reading.metrics == {"battery_pct": 89.0, "temp_c": 20.0}


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    assert read('{"battery": 90, "battery": 12}').metrics == {"battery_pct": 12.0}
    assert read("battery=90 battery=12").metrics == {"battery_pct": 12.0}


def test_truth_is_a_number_but_never_that_of_a_known_metric() -> None:
    assert read('{"door": true, "lamp": false, "battery": true}').metrics == {"door": 1.0, "lamp": 0.0}


def test_digits_in_a_string_are_a_number_only_where_one_is_meant() -> None:
    assert read('{"battery": "87%", "serial": "0042", "imei": "35209900"}').metrics == {"battery_pct": 87.0}


def test_json_may_follow_words() -> None:
    assert read('@cee: {"battery": 87}').metrics == {"battery_pct": 87.0}
    assert read('[info] rssi=-71 report {"battery": 87}').metrics == {"battery_pct": 87.0, "rssi_dbm": -71.0}


def test_a_text_of_its_own_is_taken_from_json_and_left_in_words() -> None:
    assert read('{"msg": "motor hot", "level": "error"}') == Reading(text="motor hot", severity=3)
    assert read("type=SYSCALL msg=audit(1364481363.243:24287)").text is None


@pytest.mark.parametrize("body", ['{"battery": 87', '{"battery": }', "{]}", '{"a":"\\ud800"}'])
def test_broken_json_is_marked(body: str) -> None:
    assert read(body).marks == ("bad-json",)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_what_is_not_finite_is_refused_and_the_rest_read(word: str) -> None:
    reading = read(f'{{"battery": {word}, "temp": 21, "note": "NaN \\" {word}"}}')
    assert reading == Reading(metrics={"temp_c": 21.0}, marks=("not-a-number",))


@pytest.mark.parametrize("body", ["battery=nan", "battery=inf", "rotor=-Infinity", "battery=1e999", "x=" + "9" * 400])
def test_words_that_are_not_finite_are_refused(body: str) -> None:
    assert read(body) == Reading(marks=("not-a-number",))


@pytest.mark.parametrize("digits", [400, 4_299, 4_300, 4_301, 60_000])
def test_a_number_beyond_all_numbers_is_refused(digits: int) -> None:
    for body in ('{"battery": %s}', '{"version": %s}', '{"ts": %s}', '{"severity": %s}', '{"heartbeat": %s}'):
        reading = read(body % ("9" * digits))
        assert reading.metrics == {}
        assert all(math.isfinite(value) for value in reading.metrics.values())


def test_depth_is_bounded_to_the_level() -> None:
    for depth in (limits.json_depth_max, limits.json_depth_max + 1):
        body = '{"a":' * depth + "1" + "}" * depth
        assert payload.too_deep(body.encode()) is (depth > limits.json_depth_max)
        assert read(body).marks == (("too-deep",) if depth > limits.json_depth_max else ())


@pytest.mark.parametrize(
    "body",
    [
        "[" * 10_000 + "]" * 10_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        '[{"a":' * 10_000 + "1" + "}]" * 10_000,
        "[[]," * 10_000 + "]" * 10_000,
        '{"a":[],"b":' * 10_000 + "1" + "}" * 10_000,
        "[[],[" * 10_000 + "]",
        '{"a":' * 10_000 + "}",
    ],
    ids=lambda body: body[:12],
)
def test_ten_thousand_levels_are_refused_without_recursion(body: str) -> None:
    assert payload.too_deep(body.encode())
    assert payload.read(body).metrics == {}


def test_brackets_in_strings_are_not_levels() -> None:
    body = json.dumps({"note": '[{"' * 100, "battery": 87})
    assert not payload.too_deep(body.encode())
    assert read(body).metrics == {"battery_pct": 87.0}


def test_siblings_are_not_levels() -> None:
    assert not payload.too_deep(json.dumps([{"a": [1]}] * 1_000).encode())


def test_metrics_are_bounded_and_the_first_kept() -> None:
    names = [f"m{number}" for number in range(limits.metrics_per_record_max + 1)]
    full = read(" ".join(f"{name}=1" for name in names[:-1]))
    assert (len(full.metrics), full.marks) == (limits.metrics_per_record_max, ())
    over = read(json.dumps(dict.fromkeys(names, 1) | {"m0": 2}))
    assert list(over.metrics) == names[:-1]
    assert over.marks == ("too-many-metrics",)
    again = read(" ".join(f"{name}=1" for name in (*names[:-1], "m0")))
    assert again.marks == ()


def test_a_name_that_is_too_long_is_left_out_or_cut() -> None:
    fits, over = "k" * limits.name_chars_max, "k" * (limits.name_chars_max + 1)
    assert read(f'{{"{fits}": 1}}').metrics == {fits: 1.0}
    assert read(f'{{"{over}": 1}}') == Reading(marks=("long-name",))
    assert read(f'{{"device": "{fits}"}}') == Reading(name=fits)
    assert read(f'{{"device": "{over}"}}') == Reading(name=fits, marks=("long-name",))


# -- words -----------------------------------------------------------------------------------------------------------


def test_words_are_read_whatever_stands_between_them() -> None:
    assert read("up battery=87% temp=21.5, rssi=-71;speed=.5 (load=12) ok").metrics == {
        "battery_pct": 87.0,
        "temp_c": 21.5,
        "rssi_dbm": -71.0,
        "speed_mps": 0.5,
        "load_pct": 12.0,
    }


def test_quoted_values_keep_their_blanks() -> None:
    reading = read(r"""device="drone 7" version='2.4 rc' note="say \"battery=5\"" battery="87 %" """)
    assert reading == Reading(name="drone 7", version="2.4 rc", metrics={"battery_pct": 87.0})


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("battery=87%", {"battery_pct": 87.0}),
        ("temp=21.5°C", {"temp_c": 21.5}),
        ("temp=21.5C", {"temp_c": 21.5}),
        ("voltage=12.1V", {"voltage_v": 12.1}),
        ("rssi=-71dBm", {"rssi_dbm": -71.0}),
        ("speed=1e1m/s", {"speed_mps": 10.0}),
        ("rtt=+12.ms", {"rtt_ms": 12.0}),
        ("temp=70F", {}),
        ("voltage=12100mV", {}),
        ("rotor=12ms", {}),
        ("battery=1_000", {}),
        ("battery=0x10", {}),
        ("battery=8 7", {"battery_pct": 8.0}),
        ("ip=10.0.0.3", {}),
        ("pos=59.9,10.7", {}),
        ("path=/dev/sda1", {}),
        ("=5", {}),
        ("battery=", {}),
    ],
)
def test_a_unit_is_taken_off_only_when_it_is_the_metrics_own(word: str, value: dict[str, float]) -> None:
    assert read(word).metrics == value


@pytest.mark.parametrize(
    ("body", "health"),
    [
        ("status=ok", Health.OK),
        ("health=DEGRADED", Health.DEGRADED),
        ("state=fault", Health.FAILED),
        ("status=ok health=failed", Health.FAILED),
        ("health=failed status=ok", Health.FAILED),
        ("health=unknown", Health.UNKNOWN),
        ("status=flying", None),
        ("motor.status=failed", None),
    ],
)
def test_health_is_told_in_words_that_are_agreed_on(body: str, health: Health | None) -> None:
    assert read(body).health is health


@pytest.mark.parametrize(
    ("body", "flight"),
    [
        ("flight=AIR", Flight.AIR),
        ("mode=LAND", Flight.LANDING),
        ('{"mode": "takeoff"}', Flight.TAKEOFF),
        ('{"landed_state": 1}', Flight.GROUND),
        ("mode=AUTO", None),
        ("mode=4", None),
        ("flight=IN_AIR", Flight.AIR),
    ],
)
def test_flight_is_told_by_words_and_not_by_a_makers_numbers(body: str, flight: Flight | None) -> None:
    assert read(body).flight is flight


@pytest.mark.parametrize(("word", "armed"), [("1", True), ("armed", True), ("false", False), ("0", False), ("x", None)])
def test_armed_is_told_or_not(word: str, armed: bool | None) -> None:
    assert read(f"armed={word}").armed is armed


@pytest.mark.parametrize(
    ("body", "beats"),
    [
        ("heartbeat", True),
        ("HEARTBEAT battery=87", True),
        ("heartbeat: seq=4", True),
        ('heartbeat {"battery": 87}', True),
        ('{"heartbeat": true}', True),
        ('{"heartbeat": 17}', True),
        ('{"type": "heartbeat"}', True),
        ('{"msg": "heartbeat"}', True),
        ("event=heartbeat", True),
        ("heartbeat=1", True),
        ("heartbeat lost", False),
        ("no heartbeat since 12 s", False),
        ("heartbeat_interval=5", False),
        ("heartbeat=0", False),
        ("heartbeat=lost", False),
        ('{"heartbeat": false}', False),
        ("NO_HEARTBEAT node=7", False),
    ],
)
def test_only_a_heartbeat_is_a_heartbeat(body: str, beats: bool) -> None:
    assert read(body).heartbeat is beats


def test_of_several_names_the_devices_own_counts() -> None:
    assert read('{"id": "a1", "name": "drone-7", "device": "alder-7"}').name == "alder-7"
    assert read('{"device": "alder-7", "name": "drone-7", "id": "a1"}').name == "alder-7"
    assert read('{"id": "a1", "name": "drone-7"}').name == "drone-7"
    assert read('{"id": 17}').name is None
    assert read('{"name": "  "}').name is None
    assert read('{"name": "drone\\u00007"}').name is None


def test_the_header_outweighs_the_body_in_name_and_severity() -> None:
    draft = payload.read('{"device": "birch", "severity": "debug", "ts": 1795262400}')
    reading = payload.reading(draft, claimed_ns=1, name="alder", severity=4, text="all of it")
    assert reading == Reading(name="alder", severity=4, claimed_ns=NOON_NS, text="all of it")


@pytest.mark.parametrize(
    ("body", "severity"), [("level=warn", 4), ("severity=3", 3), ("level=3", None), ("severity=12", None)]
)
def test_a_severity_is_a_word_or_one_of_eight(body: str, severity: int | None) -> None:
    assert read(body).severity == severity


# -- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        '{"ts": 1795262400}',
        '{"ts": 1795262400.0}',
        '{"time": 1795262400000}',
        '{"timestamp": 1795262400000000}',
        '{"ts": 1795262400000000000}',
        '{"ts": "1795262400"}',
        "ts=1795262400000000000",
        '{"@timestamp": "2026-11-21T12:00:00Z"}',
        '{"time": "2026-11-21T13:00:00.000+01:00"}',
        '{"time": "2026-11-21 12:00:00"}',
        'time="20261121T120000Z"',
    ],
)
def test_a_time_is_read_in_every_unit(body: str) -> None:
    reading = read(body)
    assert (reading.claimed_ns, reading.marks) == (NOON_NS, ())


def test_a_fraction_of_a_second_is_kept_to_the_microsecond() -> None:
    assert read('{"ts": 1795262400.123456}').claimed_ns == NOON_NS + 123_456_000
    assert read('{"ts": 1795262400123.5}').claimed_ns == NOON_NS + 123_500_000
    assert read("ts=1795262400123456789").claimed_ns == NOON_NS + 123_456_789


@pytest.mark.parametrize(
    "body",
    [
        '{"ts": 12}',
        '{"ts": -1795262400}',
        '{"time": "1970-01-01T00:00:07Z"}',
        '{"time": "2090-01-01T00:00:00Z"}',
        '{"time": "0001-01-01T00:00:00+23:59"}',
        "ts=3471292801",
    ],
)
def test_an_implausible_clock_is_marked_and_not_believed(body: str) -> None:
    assert read(body) == Reading(marks=("clock-implausible",))


def test_the_years_that_are_believed_have_exact_ends() -> None:
    for at_ns in (limits.claimed_ns_min, limits.claimed_ns_max):
        assert read(f"ts={at_ns}").claimed_ns == at_ns
    for at_ns in (limits.claimed_ns_min - 1, limits.claimed_ns_max + 1):
        assert read(f"ts={at_ns}").marks == ("clock-implausible",)


def test_what_is_no_time_claims_none() -> None:
    assert read("time=12.5ms") == Reading()
    assert read("time=05:40:26") == Reading()
    assert read('{"time": "yesterday"}') == Reading()


# -- frames in text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "mavlink=" + (HEARTBEAT + POSITION).hex(),
        "mavlink=" + (HEARTBEAT + POSITION).hex().upper(),
        "mav=" + base64.b64encode(HEARTBEAT + POSITION).decode(),
        json.dumps({"mavlink": base64.b64encode(HEARTBEAT + POSITION).decode()}),
        json.dumps({"mavlink": base64.urlsafe_b64encode(HEARTBEAT + POSITION).decode().rstrip("=")}),
        json.dumps({"data": {"mavlink": (HEARTBEAT + POSITION).hex()}}),
        (HEARTBEAT + POSITION).hex(),
        f"frame {HEARTBEAT.hex().upper()} then {POSITION.hex()}",
        base64.b64encode(HEARTBEAT + POSITION).decode(),
        f"frames: {base64.b64encode(HEARTBEAT + POSITION).decode()}, two",
    ],
)
def test_frames_are_found_in_hex_and_in_base_64(body: str) -> None:
    reading = read(body)
    assert reading.heartbeat
    assert reading.armed
    assert reading.health is Health.OK
    assert reading.position == Position(59.9139, 10.7522, 9.0, 45.0, 0.5)
    assert reading.uptime_s == 1.0
    assert reading.marks == ()


def test_a_filtered_position_stands_above_a_raw_one() -> None:
    for frames in (POSITION + RAW_POSITION, RAW_POSITION + POSITION):
        reading = read("mavlink=" + frames.hex())
        assert reading.position is not None
        assert reading.position.lat_deg == 59.9139
        assert reading.metrics["satellites"] == 9.0


@pytest.mark.parametrize(
    "body",
    [
        "mavlink=" + HEARTBEAT.hex()[:-1],
        "mavlink=" + HEARTBEAT.hex()[:-2],
        "mavlink=" + HEARTBEAT.hex()[:-2] + "00",
        "mavlink=none",
        '{"mavlink": "%%%"}',
        '{"mavlink": ""}',
    ],
)
def test_an_announced_frame_that_is_none_is_marked(body: str) -> None:
    assert read(body) == Reading(marks=("bad-mavlink",))


def test_a_good_frame_beside_a_bad_one_is_read_and_both_are_known() -> None:
    reading = read("mavlink=" + HEARTBEAT.hex() + "fd0900")
    assert (reading.heartbeat, reading.marks) == (True, ("bad-mavlink",))


@pytest.mark.parametrize(
    "body", ["/Users/alice/projects/skerry/notes.txt", "sha256 fe09" + "ab" * 30, HEARTBEAT.hex()[:-2] + "00"]
)
def test_what_only_looks_like_a_frame_is_text(body: str) -> None:
    assert read(body) == Reading()


# -- bytes and structured data -----------------------------------------------------------------------------------------


def test_bytes_that_are_no_utf8_are_replaced_and_marked() -> None:
    assert read(b"battery=87 caf\xe9") == Reading(metrics={"battery_pct": 87.0}, marks=("bad-utf8",))


def test_structured_data_is_read_like_words() -> None:
    draft = payload.Draft()
    elements = {
        "telemetry@32473": {"battery": "87", "temp": "21.5", "status": "ok"},
        "timeQuality": {"tzKnown": "1", "isSynced": "0"},
        "origin": {"software": "rsyslogd", "swVersion": "8"},
        "meta": {"sequenceId": "29", "sysUpTime": "1250"},
    }
    payload.structured(draft, elements)
    assert payload.reading(draft) == Reading(
        metrics={"battery_pct": 87.0, "temp_c": 21.5, "uptime_s": 12.5}, health=Health.OK, uptime_s=12.5
    )


def test_every_mark_is_a_plain_word() -> None:
    assert all(mark == mark.value and mark.isascii() and mark.islower() for mark in Mark)


@pytest.mark.parametrize(
    "body",
    [
        "a" * limits.record_bytes_max,
        "a." * 32_768,
        "a=" * 32_768,
        'a="' * 20_000,
        "a='" * 20_000,
        'a="\\"' * 10_000,
        "a=1," * 16_000,
        "fd" * 32_768,
        "/Q" * 32_768,
        "f" * limits.record_bytes_max,
        '{"' * 32_768,
        '{"a":"' + "\\" * 60_000 + '"}',
        "heartbeat" + " " * 65_000,
        "{" * 65_000 + "}",
        '{"NaN":NaN}' * 5_000 + "}",
    ],
    ids=lambda body: body[:12],
)
def test_a_long_body_of_one_kind_is_read_all_the_same(body: str) -> None:
    payload.reading(payload.read(body))  # quadratic work would show here as a test that takes minutes


@pytest.mark.parametrize(
    ("body", "metrics", "claimed_ms"),
    [
        (b'{"temp_c":1.5,"on":true}', {"temp_c": 1.5, "on": 1.0}, None),
        (b'[{"temp_c":1.5},{"battery_pct":80}]', {"temp_c": 1.5, "battery_pct": 80.0}, None),
        (b'{"ts":1795253400123,"values":{"temp_c":1.5}}', {"temp_c": 1.5}, 1_795_253_400_123),
        (
            b'[{"ts":1795253400123,"values":{"temp_c":1.5}},{"ts":1795253401123,"values":{"temp_c":2.5}}]',
            {"temp_c": 2.5},
            1_795_253_401_123,
        ),
    ],
)
def test_the_shapes_of_thingsboard_are_read_and_of_several_points_the_last_one_holds(
    body: bytes, metrics: dict[str, float], claimed_ms: int | None
) -> None:
    said = payload.reading(payload.read(body))
    assert said.metrics == metrics
    assert said.claimed_ns == (claimed_ms * limits.MS if claimed_ms else None)
    assert said.marks == ()
