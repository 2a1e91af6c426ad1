"""Frames encoded by pymavlink, decoded by ours; then the same frames damaged."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pymavlink.dialects.v20 import common

from fleet import mavlink
from fleet.mavlink import Bad, Fault, Message
from fleet.reading import Flight, Health, Position, Reading

WIRES = ("v1", "v2", "v2 signed")

HEARTBEAT = common.MAVLink_heartbeat_message(2, 3, 0x81, 4, 4, 3)
SYS_STATUS = common.MAVLink_sys_status_message(1, 2, 3, 155, 12_587, 1_250, 87, 1, 2, 3, 4, 5, 6)
GPS_RAW = common.MAVLink_gps_raw_int_message(7, 3, 599_139_000, -107_522_000, 12_500, 90, 120, 350, 9_000, 14)
POSITION = common.MAVLink_global_position_int_message(
    12_000, 599_139_000, -107_522_000, 12_500, 2_500, 300, -400, -120, 9_050
)
BATTERY = common.MAVLink_battery_status_message(0, 1, 1, 2_550, [4_100] * 4 + [0xFFFF] * 6, 1_250, 10, 20, 87)
LANDED = common.MAVLink_extended_sys_state_message(0, 3)
TEXT = common.MAVLink_statustext_message(4, b"motor 3 hot")
MESSAGES = (HEARTBEAT, SYS_STATUS, GPS_RAW, POSITION, BATTERY, LANDED, TEXT)


def encode(message: Any, wire: str = "v2", component: int = 1) -> bytes:
    link = common.MAVLink(None, srcSystem=7, srcComponent=component)
    if wire == "v2 signed":
        link.signing.secret_key = b"k" * 32
        link.signing.sign_outgoing = True
    return bytes(message.pack(link, force_mavlink1=wire == "v1"))


def only(data: bytes) -> Message:
    (message,) = mavlink.decode(data)
    assert isinstance(message, Message)
    return message


def said(message: Any, component: int = 1) -> Reading:
    return mavlink.reading(only(encode(message, component=component)))


def resummed(frame: bytes, crc_extra: int) -> bytes:
    return frame[:-2] + struct.pack("<H", mavlink.crc(frame[1:-2] + bytes([crc_extra])))


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.get_type())
def test_every_message_reads_as_it_was_written(message: Any, wire: str) -> None:
    decoded = only(encode(message, wire))
    assert (decoded.id, decoded.system, decoded.component) == (message.get_msgId(), 7, 1)
    assert decoded.signed is (wire == "v2 signed")
    theirs = message.to_dict()
    shared = {name for name in decoded.fields if name in theirs}
    assert len(shared) >= len(theirs) - 11  # theirs has "mavpackettype"; some of SYS_STATUS go by shorter names here
    for name in shared:
        value = theirs[name]
        assert decoded.fields[name] == (tuple(value) if isinstance(value, list) else value), name


def test_zeros_cut_off_the_end_come_back() -> None:
    quiet = common.MAVLink_global_position_int_message(1, 0, 0, 0, 0, 0, 0, 0, 0)
    frame = encode(quiet)
    assert frame[1] == 1
    assert only(frame).fields["hdg"] == 0


def test_a_newer_sender_may_append_fields() -> None:
    frame = encode(LANDED)
    grown = resummed(bytes([frame[0], frame[1] + 3]) + frame[2:-2] + b"new\0\0", 130)
    assert only(grown).fields["landed_state"] == 3


def test_frames_in_a_row_are_all_read() -> None:
    data = b"".join(encode(message, wire) for message in MESSAGES for wire in WIRES)
    ids = [frame.id for frame in mavlink.decode(data) if isinstance(frame, Message)]
    assert ids == [message.get_msgId() for message in MESSAGES for _ in WIRES]


def test_noise_between_frames_is_named_and_passed_over() -> None:
    frames = mavlink.decode(b"noise" + encode(LANDED) + b"more" + encode(HEARTBEAT))
    assert [getattr(frame, "fault", None) for frame in frames] == [Fault.NOT_A_FRAME, None, Fault.NOT_A_FRAME, None]
    assert frames[2] == Bad(5 + len(encode(LANDED)), Fault.NOT_A_FRAME)


@pytest.mark.parametrize("false", [b"\xfd\x08", b"\xfe\x10", b"\xfd\x20\x00\x00\x00\x00\x00\x21\x00\x00"])
def test_a_false_beginning_does_not_swallow_the_frame_behind_it(false: bytes) -> None:
    bad, good = mavlink.decode(false + encode(HEARTBEAT) + bytes(40))[:2]
    assert isinstance(bad, Bad)
    assert isinstance(good, Message)


@pytest.mark.parametrize("wire", WIRES)
def test_every_single_flipped_bit_is_found(wire: str) -> None:
    frame = encode(POSITION, wire)
    checked = len(frame) - (13 if wire == "v2 signed" else 0)
    for bit in range(checked * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        assert not any(isinstance(found, Message) for found in mavlink.decode(bytes(damaged))), bit


@pytest.mark.parametrize("wire", WIRES)
def test_a_frame_cut_anywhere_is_no_message(wire: str) -> None:
    frame = encode(BATTERY, wire)
    for length in range(1, len(frame)):
        assert mavlink.decode(frame[:length])[0] == Bad(0, Fault.CUT)
    assert mavlink.decode(b"") == ()


def test_a_frame_with_an_unknown_flag_is_refused_and_the_next_one_read() -> None:
    frame = bytearray(encode(LANDED))
    frame[2] = 0x02
    bad, good = mavlink.decode(resummed(bytes(frame), 130) + encode(HEARTBEAT))
    assert bad == Bad(0, Fault.FLAGS)
    assert isinstance(good, Message)


def test_a_message_that_nobody_reads_here_is_passed_over() -> None:
    other = encode(common.MAVLink_system_time_message(1, 2))
    bad, good = mavlink.decode(other + encode(HEARTBEAT))
    assert bad == Bad(0, Fault.UNKNOWN)
    assert isinstance(good, Message)


def test_a_v1_payload_that_is_too_short_is_refused() -> None:
    frame = encode(LANDED, "v1")
    short = resummed(bytes([frame[0], 1]) + frame[2:6] + frame[6:7] + b"\0\0", 130)
    assert mavlink.decode(short) == (Bad(0, Fault.SHORT),)


@pytest.mark.parametrize("junk", [b"\xfd", b"\xfe", b"\xfd\x00", bytes([0xFE, 0])])
def test_a_record_full_of_beginnings_ends_soon(junk: bytes) -> None:
    frames = mavlink.decode(junk * (65_536 // len(junk)))
    assert len(frames) <= mavlink.FRAMES_MAX + 1
    assert isinstance(frames[-1], Bad)


def test_more_frames_than_are_read_are_named() -> None:
    frames = mavlink.decode(encode(LANDED) * (mavlink.FRAMES_MAX + 1))
    assert len(frames) == mavlink.FRAMES_MAX + 1
    assert frames[-1] == Bad(len(encode(LANDED)) * mavlink.FRAMES_MAX, Fault.MORE)


def test_the_checksum_is_that_of_the_catalogue() -> None:
    assert mavlink.crc(b"123456789") == 0x6F91  # the check value of CRC-16/MCRF4XX


# -- what a message says ---------------------------------------------------------------------------------------------


def test_the_autopilots_heartbeat_tells_armed_and_health() -> None:
    assert said(HEARTBEAT) == Reading(heartbeat=True, armed=True, health=Health.OK)
    crashed = common.MAVLink_heartbeat_message(2, 3, 0, 0, 6, 3)
    assert said(crashed) == Reading(heartbeat=True, armed=False, health=Health.FAILED)
    booting = common.MAVLink_heartbeat_message(2, 3, 0, 0, 1, 3)
    assert said(booting).health is None


def test_a_relay_is_not_the_device() -> None:
    ground_station = common.MAVLink_heartbeat_message(6, 8, 0x80, 0, 4, 3)
    assert said(ground_station) == Reading()
    companion = said(HEARTBEAT, component=191)
    assert companion == Reading()


def test_a_position_comes_in_degrees_metres_and_metres_a_second() -> None:
    reading = said(POSITION)
    assert reading.position == Position(59.9139, -10.7522, 12.5, 90.5, 5.0)
    assert reading.metrics["rel_alt_m"] == 2.5
    assert reading.metrics["climb_mps"] == 1.2  # MAVLink counts down as positive
    assert reading.uptime_s == 12.0


def test_what_mavlink_calls_unknown_is_left_out() -> None:
    unknown = common.MAVLink_global_position_int_message(1, 0, 0, 0, 0, 0, 0, 0, 0xFFFF)
    assert said(unknown).position is None
    assert not {"lat_deg", "lon_deg", "heading_deg"} & said(unknown).metrics.keys()
    assert said(common.MAVLink_sys_status_message(0, 0, 0, 10, 0xFFFF, -1, -1, 0, 0, 0, 0, 0, 0)).metrics == {
        "load_pct": 1.0
    }
    no_battery = common.MAVLink_battery_status_message(0, 0, 0, 0x7FFF, [0xFFFF] * 10, -1, -1, -1, -1)
    assert said(no_battery).metrics == {}


def test_a_receiver_without_a_fix_has_no_position() -> None:
    searching = common.MAVLink_gps_raw_int_message(0, 1, 599_139_000, 107_522_000, 0, 0, 0, 0xFFFF, 0xFFFF, 255)
    assert said(searching) == Reading()
    flat = said(common.MAVLink_gps_raw_int_message(0, 2, 599_139_000, 107_522_000, 5, 0, 0, 100, 0, 6))
    assert flat.position == Position(59.9139, 10.7522, None, None, 1.0)


def test_batteries_come_in_percent_volts_and_amperes() -> None:
    assert said(SYS_STATUS).metrics == {"load_pct": 15.5, "voltage_v": 12.587, "current_a": 12.5, "battery_pct": 87.0}
    assert said(BATTERY).metrics == {
        "current_a": 12.5,
        "battery_pct": 87.0,
        "battery_temp_c": 25.5,
        "voltage_v": 16.4,
    }


def test_a_second_battery_does_not_hide_the_first() -> None:
    spare = common.MAVLink_battery_status_message(1, 0, 0, 2_000, [3_700] + [0xFFFF] * 9, -1, 0, 0, 12)
    assert said(spare).metrics == {"battery1_pct": 12.0, "battery1_temp_c": 20.0, "battery1_voltage_v": 3.7}


def test_flight_and_text_are_told() -> None:
    assert said(LANDED) == Reading(flight=Flight.TAKEOFF)
    assert said(common.MAVLink_extended_sys_state_message(0, 0)) == Reading()
    assert said(TEXT) == Reading(severity=4, text="motor 3 hot")
    assert said(common.MAVLink_statustext_message(200, b"")) == Reading()
