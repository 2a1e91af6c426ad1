"""MAVLink: which messages do these bytes hold, and what do they say?

A frame (https://mavlink.io/en/guide/serialization.html), numbers little endian:

    v1  FE  length  sequence  system  component  id        payload  crc
    v2  FD  length  incompat  compat  sequence  system  component  id[3]  payload  crc  [signature, 13 bytes]

The crc is CRC-16/MCRF4XX over everything between the magic byte and itself, and then over one byte that stands for the
layout of the message (CRC_EXTRA). A v2 sender cuts zeros off the end of a payload.

Rules of the file
  1  Only a frame whose checksum holds is a message; every other stretch of bytes is a `Bad` with its reason.
  2  Signatures are skipped, not verified: a signed message proves nothing more here than an unsigned one.
  3  A value that MAVLink calls unknown or invalid is left out of a reading, never passed on as a number.
"""

from __future__ import annotations

import binascii
import math
import re
import struct
from collections.abc import Callable
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

from fleet.reading import Flight, Health, Position, Reading

FRAMES_MAX = 64  # of one record, good and bad


class Id(IntEnum):
    HEARTBEAT = 0
    SYS_STATUS = 1
    GPS_RAW_INT = 24
    GLOBAL_POSITION_INT = 33
    BATTERY_STATUS = 147
    EXTENDED_SYS_STATE = 245
    STATUSTEXT = 253


class Message(NamedTuple):
    """One message as sent: raw integers under MAVLink's own names, arrays as tuples, texts cut at their first NUL."""

    id: Id
    sequence: int
    system: int
    component: int
    signed: bool
    fields: dict[str, Any]


class Fault(StrEnum):
    NOT_A_FRAME = "no MAVLink frame begins here"
    CUT = "the frame ends before its length says"
    FLAGS = "the frame needs a feature that this decoder does not have"
    UNKNOWN = "the message is not one of those read here"
    CHECKSUM = "the frame does not match its checksum"
    SHORT = "the payload is shorter than its message"
    MORE = "there are more frames than are read from one record"


class Bad(NamedTuple):
    """A stretch of bytes from `offset` on that is no message."""

    offset: int
    fault: Fault


class _Field(NamedTuple):
    name: str
    at: int  # its first value in what the struct unpacks
    length: int  # of an array; 0: a single value


class _Layout(NamedTuple):
    crc_extra: bytes
    struct: struct.Struct  # with the extension fields, which only v2 carries
    size_v1: int
    fields: tuple[_Field, ...]


def _layout(crc_extra: int, base: str, extension: str = "") -> _Layout:
    """From pairs of a struct format and a name, in the order of the wire."""
    words = f"{base} {extension}".split()
    formats = words[::2]
    fields: list[_Field] = []
    at = 0
    for form, name in zip(formats, words[1::2], strict=True):
        length = 0 if form.endswith("s") else int(form[:-1] or 0)
        fields.append(_Field(name, at, length))
        at += length or 1
    size_v1 = struct.calcsize("<" + "".join(base.split()[::2]))
    return _Layout(bytes([crc_extra]), struct.Struct("<" + "".join(formats)), size_v1, tuple(fields))


_LAYOUTS: dict[int, _Layout] = {
    Id.HEARTBEAT: _layout(50, "I custom_mode B type B autopilot B base_mode B system_status B mavlink_version"),
    Id.SYS_STATUS: _layout(
        124,
        "I sensors_present I sensors_enabled I sensors_health H load H voltage_battery h current_battery"
        " H drop_rate_comm H errors_comm 4H errors_count b battery_remaining",
        "I sensors_present_extended I sensors_enabled_extended I sensors_health_extended",
    ),
    Id.GPS_RAW_INT: _layout(
        24,
        "Q time_usec i lat i lon i alt H eph H epv H vel H cog B fix_type B satellites_visible",
        "i alt_ellipsoid I h_acc I v_acc I vel_acc I hdg_acc H yaw",
    ),
    Id.GLOBAL_POSITION_INT: _layout(
        104, "I time_boot_ms i lat i lon i alt i relative_alt h vx h vy h vz H hdg"
    ),
    Id.BATTERY_STATUS: _layout(
        154,
        "i current_consumed i energy_consumed h temperature 10H voltages h current_battery B id B battery_function"
        " B type b battery_remaining",
        "i time_remaining B charge_state 4H voltages_ext B mode I fault_bitmask",
    ),
    Id.EXTENDED_SYS_STATE: _layout(130, "B vtol_state B landed_state"),
    Id.STATUSTEXT: _layout(83, "B severity 50s text", "H id B chunk_seq"),
}  # fmt: skip

_V1, _V2 = 0xFE, 0xFD
_HEAD_V1 = struct.Struct("<xBBBBB")
_HEAD_V2 = struct.Struct("<xBBBBBBHB")
_CRC = struct.Struct("<H")
_SIGNED = 0x01  # the one incompatibility flag there is
_SIGNATURE_BYTES = 13
_MAGIC = re.compile(rb"[\xfd\xfe]")


def decode(data: bytes) -> tuple[Message | Bad, ...]:
    """All frames of `data` in their order, up to `FRAMES_MAX`. Whatever is no message is a `Bad`; nothing is raised."""
    found: list[Message | Bad] = []
    at = 0
    while at < len(data):
        if len(found) == FRAMES_MAX:
            found.append(Bad(at, Fault.MORE))
            break
        frame, at = _frame(data, at)
        found.append(frame)
    return tuple(found)


def _frame(data: bytes, at: int) -> tuple[Message | Bad, int]:
    """The frame at `at`, and where to go on."""
    head = {_V1: _HEAD_V1, _V2: _HEAD_V2}.get(data[at])
    if head is None:
        return Bad(at, Fault.NOT_A_FRAME), _next_magic(data, at)
    if at + head.size > len(data):
        return Bad(at, Fault.CUT), _next_magic(data, at)
    if head is _HEAD_V1:
        length, sequence, system, component, number = head.unpack_from(data, at)
        incompat = 0
    else:
        length, incompat, _, sequence, system, component, low, high = head.unpack_from(data, at)
        number = low | high << 16
    start = at + head.size
    stop = start + length
    end = stop + _CRC.size + (_SIGNATURE_BYTES if incompat & _SIGNED else 0)
    layout = _LAYOUTS.get(number)
    fault = _fault(data, at, start, stop, end, incompat, layout)
    if fault is not None or layout is None:
        return Bad(at, fault or Fault.UNKNOWN), _resume(data, at, end)
    fields = _fields(layout, data[start:stop])
    return Message(Id(number), sequence, system, component, bool(incompat), fields), end


def _fault(
    data: bytes, at: int, start: int, stop: int, end: int, incompat: int, layout: _Layout | None
) -> Fault | None:
    if end > len(data):
        return Fault.CUT
    if incompat & ~_SIGNED:
        return Fault.FLAGS
    if layout is None:
        return Fault.UNKNOWN
    if crc(data[at + 1 : stop] + layout.crc_extra) != _CRC.unpack_from(data, stop)[0]:
        return Fault.CHECKSUM
    if stop == start or (data[at] == _V1 and stop - start < layout.size_v1):
        return Fault.SHORT
    return None


def _resume(data: bytes, at: int, end: int) -> int:
    """Past a bad frame when another begins (or nothing follows) where it says it ends; else at the next magic byte."""
    return end if end == len(data) or data[end : end + 1] in (b"\xfd", b"\xfe") else _next_magic(data, at)


def _next_magic(data: bytes, at: int) -> int:
    match = _MAGIC.search(data, at + 1)
    return match.start() if match else len(data)


def _fields(layout: _Layout, payload: bytes) -> dict[str, Any]:
    size = layout.struct.size
    values = layout.struct.unpack(payload[:size].ljust(size, b"\x00"))
    fields: dict[str, Any] = {}
    for name, at, length in layout.fields:
        value = values[at : at + length] if length else values[at]
        fields[name] = value.split(b"\x00", 1)[0].decode(errors="replace") if isinstance(value, bytes) else value
    return fields


_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def crc(data: bytes) -> int:
    """CRC-16/MCRF4XX. It is the mirror image of the CCITT sum that `binascii` has in C, so: mirror, sum, mirror."""
    high, low = divmod(binascii.crc_hqx(data.translate(_MIRROR), 0xFFFF), 256)
    return _MIRROR[low] << 8 | _MIRROR[high]


# -- what a message says ------------------------------------------------------------------------------------------


def reading(message: Message) -> Reading:
    """One message in the fleet's words and units."""
    return _SAYS[message.id](message)


_GCS = 6  # MAV_TYPE_GCS
_AUTOPILOT = 1  # MAV_COMP_ID_AUTOPILOT1
_ARMED = 128  # MAV_MODE_FLAG_SAFETY_ARMED
_STATES = {3: Health.OK, 4: Health.OK, 5: Health.DEGRADED, 6: Health.FAILED, 8: Health.FAILED}  # MAV_STATE
_LANDED = {1: Flight.GROUND, 2: Flight.AIR, 3: Flight.TAKEOFF, 4: Flight.LANDING}  # MAV_LANDED_STATE


def _heartbeat(message: Message) -> Reading:
    fields = message.fields
    # Ground stations, gimbals and companions send heartbeats too; only the autopilot's own speaks for the vehicle.
    if message.component != _AUTOPILOT or fields["type"] == _GCS:
        return Reading()
    armed = bool(fields["base_mode"] & _ARMED)
    return Reading(heartbeat=True, armed=armed, health=_STATES.get(fields["system_status"]))


def _sys_status(message: Message) -> Reading:
    return Reading(metrics=_gauges(message.fields, _SYS_STATUS))


def _gps_raw(message: Message) -> Reading:
    fields = message.fields
    metrics = _gauges(fields, _GPS_RAW)
    if fields["fix_type"] >= 2:
        metrics |= _latitude_longitude(fields)
    if fields["fix_type"] >= 3:
        metrics["alt_m"] = fields["alt"] / 1000
    return Reading(metrics=metrics, position=_position(metrics))


def _global_position(message: Message) -> Reading:
    fields = message.fields
    metrics = _gauges(fields, _GLOBAL_POSITION) | _latitude_longitude(fields)
    metrics["speed_mps"] = round(math.hypot(fields["vx"], fields["vy"]) / 100, 3)
    return Reading(metrics=metrics, position=_position(metrics), uptime_s=fields["time_boot_ms"] / 1000)


def _battery(message: Message) -> Reading:
    fields = message.fields
    metrics = _gauges(fields, _BATTERY)
    cells = [cell for cell in fields["voltages"] if cell != 0xFFFF] + [cell for cell in fields["voltages_ext"] if cell]
    if cells:
        metrics["voltage_v"] = sum(cells) / 1000
    if fields["id"]:  # 0 is the vehicle's own battery; more batteries get names of their own
        metrics = {f"battery{fields['id']}_{name.removeprefix('battery_')}": value for name, value in metrics.items()}
    return Reading(metrics=metrics)


def _landed(message: Message) -> Reading:
    return Reading(flight=_LANDED.get(message.fields["landed_state"]))


def _statustext(message: Message) -> Reading:
    severity = message.fields["severity"]
    return Reading(severity=severity if severity <= 7 else None, text=message.fields["text"] or None)


_SAYS: dict[Id, Callable[[Message], Reading]] = {
    Id.HEARTBEAT: _heartbeat,
    Id.SYS_STATUS: _sys_status,
    Id.GPS_RAW_INT: _gps_raw,
    Id.GLOBAL_POSITION_INT: _global_position,
    Id.BATTERY_STATUS: _battery,
    Id.EXTENDED_SYS_STATE: _landed,
    Id.STATUSTEXT: _statustext,
}


class _Gauge(NamedTuple):
    """A field that is a metric: so many of its units make one of ours, and the value that stands for unknown."""

    field: str
    metric: str
    per: int = 1
    unknown: int | None = None


_SYS_STATUS = (
    _Gauge("load", "load_pct", 10),
    _Gauge("voltage_battery", "voltage_v", 1000, 0xFFFF),
    _Gauge("current_battery", "current_a", 100, -1),
    _Gauge("battery_remaining", "battery_pct", 1, -1),
)
_GPS_RAW = (
    _Gauge("vel", "speed_mps", 100, 0xFFFF),
    _Gauge("satellites_visible", "satellites", 1, 0xFF),
)
_GLOBAL_POSITION = (
    _Gauge("alt", "alt_m", 1000),
    _Gauge("relative_alt", "rel_alt_m", 1000),
    _Gauge("vz", "climb_mps", -100),  # MAVLink counts down as positive
    _Gauge("hdg", "heading_deg", 100, 0xFFFF),
)
_BATTERY = (
    _Gauge("current_battery", "current_a", 100, -1),
    _Gauge("battery_remaining", "battery_pct", 1, -1),
    _Gauge("temperature", "battery_temp_c", 100, 0x7FFF),
)


def _gauges(fields: dict[str, Any], gauges: tuple[_Gauge, ...]) -> dict[str, float]:
    # Adding 0.0 turns -0.0 (a climb of nothing) into 0.0.
    return {metric: fields[field] / per + 0.0 for field, metric, per, unknown in gauges if fields[field] != unknown}


def _latitude_longitude(fields: dict[str, Any]) -> dict[str, float]:
    """In degrees. Empty at 0, 0, which is how an autopilot without a fix says that it does not know."""
    lat, lon = fields["lat"] / 1e7, fields["lon"] / 1e7
    known = (lat or lon) and abs(lat) <= 90 and abs(lon) <= 180
    return {"lat_deg": lat, "lon_deg": lon} if known else {}


def _position(metrics: dict[str, float]) -> Position | None:
    if "lat_deg" not in metrics:
        return None
    ours = ("alt_m", "heading_deg", "speed_mps")
    return Position(metrics["lat_deg"], metrics["lon_deg"], *(metrics.get(name) for name in ours))
