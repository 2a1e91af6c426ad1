"""Payloads: what does the body of a message say, whichever way it came?

Understood, alone or mixed: a JSON object (or a list of them), `key=value` words, the structured data of RFC 5424, and
MAVLink frames in hexadecimal or base 64. The rest of a body is text for people.

Rules of the file
  1  Nothing is raised for any body. What a reader should know about it becomes a `Mark`.
  2  Every finite number is a metric, under its canonical name where `fleet.metrics` knows one; a later value replaces
     an earlier one. Latitude, longitude and what goes with them make up the position as well.
  3  What is not certain is left out: a number with a unit that its metric does not have, a word nobody agreed on.
  4  Depth is bounded before anything recurses, and every expression here is linear in its input.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache, partial
from typing import Any, NamedTuple

import msgspec

from fleet import limits, mavlink
from fleet.metrics import BY_NAME, CANONICAL
from fleet.reading import Flight, Health, Position, Reading


class Mark(StrEnum):
    """What may stand in `Reading.marks`."""

    OVERSIZE = "oversize"  # longer than a record may be; the rest was dropped
    CUT = "cut"  # the connection ended in the middle of it
    UNPARSED = "unparsed"  # its outer form is not one we know
    BAD_PRI = "bad-pri"
    BAD_UTF8 = "bad-utf8"  # bytes that are no UTF-8 were replaced
    BAD_JSON = "bad-json"
    BAD_MAVLINK = "bad-mavlink"  # a frame was announced, and is none or fails its checksum
    TOO_DEEP = "too-deep"
    TOO_MANY_METRICS = "too-many-metrics"
    LONG_NAME = "long-name"  # for its length a name was cut, or a metric left out
    NOT_A_NUMBER = "not-a-number"  # NaN or an infinity where a metric should be
    CLOCK_IMPLAUSIBLE = "clock-implausible"
    POSITION_IMPLAUSIBLE = "position-implausible"


NAMES = ("device", "device_id", "device_name", "node", "node_id", "name", "hostname", "id")
"""The keys under which a body names its sender. An earlier one outweighs a later one; so among those of its health."""
_HEALTHS = ("health", "status", "state")


class Draft:
    """A reading still being put together; several parts of one message may add to it."""

    claimed_ns: int | None = None
    name: str | None = None
    name_rank = len(NAMES)  # of the key that gave the name
    severity: int | None = None
    text: str | None = None
    health: Health | None = None
    health_rank = len(_HEALTHS)
    version: str | None = None
    heartbeat = False
    armed: bool | None = None
    flight: Flight | None = None
    mid: str | None = None
    marks: tuple[str, ...] = ()
    metrics_max = limits.metrics_per_record_max

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def mark(self, mark: Mark) -> None:
        if mark not in self.marks:
            self.marks += (mark,)


def read(body: str | bytes) -> Draft:
    """What a message body says."""
    draft = Draft()
    if isinstance(body, bytes):
        body = utf8(draft, body)
    add(draft, body)
    return draft


def add(draft: Draft, body: str) -> None:
    """Read `body` into `draft`: the JSON it is or ends with, then the words before that."""
    words = _json(draft, body)
    if "=" in words:
        for key, double, single, bare in _WORD.findall(words)[:_WORDS_MAX]:
            value = bare.rstrip(")]}>.") if bare else single or _unquoted(double)
            if value:
                _member(draft, key, value)
    if _may_hold_frames(words):
        for token in _FRAME.findall(words):
            _frames(draft, token, announced=False)
    if body[:1] in "hH" and _HEARTBEAT.match(body):
        draft.heartbeat = True


def structured(draft: Draft, elements: Mapping[str, Mapping[str, str]]) -> None:
    """RFC 5424 structured data, unescaped: parameters by SD-ID. What section 7 registers describes the message, not
    the node, and is passed over, but for the uptime (7.3.2, hundredths of a second)."""
    for identity, parameters in elements.items():
        if identity == "meta":
            uptime = _quantity(parameters.get("sysUpTime", ""), frozenset())
            if uptime is not None:
                _metric(draft, "uptime_s", uptime / 100)
        elif identity not in ("timeQuality", "origin"):
            for key, value in parameters.items():
                _member(draft, key, value)


def member(draft: Draft, key: str, value: str | float) -> None:
    """One value under its name, of a form that has types of its own."""
    _member(draft, key, value, False)


def metric(draft: Draft, name: str, value: float) -> None:
    """A number whose metric is certain already."""
    if len(name) > limits.name_chars_max:
        draft.mark(Mark.LONG_NAME)
    else:
        _metric(draft, name, value)


def reading(
    draft: Draft,
    *,
    claimed_ns: int | None = None,
    name: str | None = None,
    severity: int | None = None,
    text: str | None = None,
) -> Reading:
    """Close a draft. The arguments are what the message's header says: its name and severity outweigh the body's; the
    body's own time (when it was measured) and own text outweigh the header's."""
    uptime_s = draft.metrics.get("uptime_s")
    position = _position(draft)
    return Reading(
        claimed_ns=claimed_ns if draft.claimed_ns is None else draft.claimed_ns,
        name=name or draft.name,
        severity=draft.severity if severity is None else severity,
        text=draft.text or text or None,
        metrics=draft.metrics,
        position=position,
        health=draft.health,
        version=draft.version,
        heartbeat=draft.heartbeat,
        armed=draft.armed,
        flight=draft.flight,
        uptime_s=uptime_s,
        marks=draft.marks,
        mid=draft.mid,
    )


def utf8(draft: Draft, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        draft.mark(Mark.BAD_UTF8)
        return raw.decode(errors="replace")


# -- times and names, which headers have too ------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso_ns(text: str) -> int | None:
    """Unix ns of an ISO 8601 date and time (RFC 3339 included); UTC when it names no zone. None when it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    since = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * limits.SECOND + since.microseconds * 1000


def plausible(draft: Draft, at_ns: int | None) -> int | None:
    """`at_ns` when a device's clock may say so; else None, and a mark."""
    if at_ns is not None and limits.claimed_ns_min <= at_ns <= limits.claimed_ns_max:
        return at_ns
    draft.mark(Mark.CLOCK_IMPLAUSIBLE)
    return None


def own_name(value: object) -> str:
    """The name that a value gives, or nothing. A number is no name: it counts messages more often than nodes."""
    if not isinstance(value, str):
        return ""
    name = value.strip()[: limits.name_chars_max]
    return name if name.isprintable() else ""


# -- JSON -------------------------------------------------------------------------------------------------------------


def too_deep(raw: bytes) -> bool:
    """Whether JSON nests deeper than `limits.json_depth_max`, without recursion and in time linear in its length."""
    if raw.count(b"[") + raw.count(b"{") <= limits.json_depth_max:
        return False
    # Brackets inside strings rarely matter, so the strings are only taken out when the brackets look too deep.
    return _nested(raw) and _nested(_STRING.sub(b"", raw))


def _nested(raw: bytes) -> bool:
    brackets = raw.translate(_BRACKETS, _NO_BRACKETS)
    if b"(" * (limits.json_depth_max + 1) in brackets:
        return True
    for _ in range(limits.json_depth_max):
        peeled = brackets.replace(b"()", b"")  # takes away the innermost level, all of it and no other
        if len(peeled) == len(brackets):
            return brackets.count(b"(") > limits.json_depth_max  # never closed
        brackets = peeled
    return bool(brackets)


_BRACKETS = bytes.maketrans(b"[{]}", b"(())")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NOT_FINITE = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")|-?(?:NaN|Infinity)\b', re.DOTALL)
_LIST = re.compile(r"\[\s*+\{")
_DECODE = msgspec.json.Decoder().decode
_NESTING_MAX = 2  # levels of objects inside the outermost that are read
_WRAPPERS = frozenset(("data", "fields", "metrics", "payload", "system", "telemetry", "values"))
_GROUPS = frozenset(("gnss", "gps", "location", "pos", "position", "sensors"))  # whose numbers are the node's own


def _json(draft: Draft, body: str) -> str:
    """Read the JSON that `body` is or ends with; give back the words that stand before it."""
    trimmed = body.strip()
    if trimmed[-1:] not in ("}", "]"):
        if trimmed[:1] == "{":
            draft.mark(Mark.BAD_JSON)
        return body
    start = 0 if trimmed[0] == "[" and _LIST.match(trimmed) else trimmed.find("{")
    if start < 0:
        return body
    raw = trimmed[start:].encode(errors="replace")  # a lone surrogate is no UTF-8
    if too_deep(raw):
        draft.mark(Mark.TOO_DEEP)
        return trimmed[:start]
    try:
        value = _DECODE(raw)
    except (msgspec.MsgspecError, UnicodeError):
        value = _mended(draft, raw)
    for members in value if isinstance(value, list) else (value,):
        if isinstance(members, dict):
            _object(draft, members, "", _NESTING_MAX)
            _message(draft, members)
    if value is None and start == 0 and trimmed[0] == "{":
        draft.mark(Mark.BAD_JSON)
    return body if value is None else trimmed[:start]


def _mended(draft: Draft, raw: bytes) -> Any:
    """JSON with NaN and infinities in it, as many encoders write it: they become null and a mark. None if that is not
    what is wrong with it."""
    mended = _NOT_FINITE.sub(lambda match: match[1] or b"null", raw)
    if mended == raw:
        return None
    try:
        value = _DECODE(mended)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    draft.mark(Mark.NOT_A_NUMBER)
    return value


def _object(draft: Draft, members: Mapping[str, Any], prefix: str, nesting: int) -> None:
    for key, value in members.items():
        if prefix:
            key = prefix + key
        kind = type(value)
        if kind is float or kind is int or kind is str or kind is bool:
            _member(draft, key, value, False)
        elif kind is dict and nesting:
            _object(draft, value, "" if key.lower() in _WRAPPERS else f"{key}.", nesting - 1)


# -- one member, whatever it was written in ---------------------------------------------------------------------------

_Value = str | int | float  # bool is an int
_Field = Callable[["Draft", _Value], bool]


class _Known(NamedTuple):
    """What is known of a key."""

    field: _Field | None
    metric: str | None
    name: str  # of the metric that a number under this key is: the canonical one, or the key itself
    units: frozenset[str]


@lru_cache(maxsize=4096)
def _known(key: str) -> _Known:
    name = key.lower().replace(".", "_")
    group, _, leaf = key.lower().rpartition(".")
    metric = CANONICAL.get(name) or (CANONICAL.get(leaf) if group in _GROUPS else None)
    units: frozenset[str] = frozenset()
    if metric is not None:
        unit = BY_NAME[metric].unit
        units = frozenset((unit, *_SPELLINGS.get(unit, ())))
    return _Known(_FIELDS.get(name), metric, metric or key, units)


def _member(draft: Draft, key: str, value: _Value, loose: bool = True) -> None:
    """`loose`: a string of digits is a number, as where everything is a string. In JSON it is one only under a name
    that is known to be a number's; a serial number is not a metric."""
    if len(key) > limits.name_chars_max:
        draft.mark(Mark.LONG_NAME)
        return
    field, metric, name, units = _known(key)
    if field is not None and field(draft, value):
        return
    if isinstance(value, str):
        number = _quantity(value, units) if loose or metric is not None else None
        if number is not None:
            _metric(draft, name, number)
    elif metric is None or not isinstance(value, bool):  # a battery is never "true"
        _metric(draft, name, value)


def _metric(draft: Draft, name: str, value: float) -> None:
    metrics = draft.metrics
    if not -_FLOAT_MAX <= value <= _FLOAT_MAX:
        draft.mark(Mark.NOT_A_NUMBER)
    elif len(metrics) < draft.metrics_max or name in metrics:
        metrics[name] = float(value)
    else:
        draft.mark(Mark.TOO_MANY_METRICS)


_FLOAT_MAX = sys.float_info.max
_QUANTITY = re.compile(
    r"([+-]?(?:(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+|nan\Z|inf(?:inity)?\Z)) ?+(.*)",
    re.DOTALL | re.IGNORECASE,
)
_SPELLINGS = {"°C": ("C", "degC"), "°": ("deg",), "m/s²": ("m/s2", "m/s^2"), "%": ("pct",)}


def _quantity(value: str, units: frozenset[str]) -> float | None:
    """A number, without its unit when it is one of `units`. NaN and infinities are numbers here."""
    if value[-1:].isdigit() and "_" not in value:  # Python reads 1_000 as a number
        try:
            return float(value)
        except ValueError:
            return None
    match = _QUANTITY.fullmatch(value)
    return float(match[1]) if match is not None and (not match[2] or match[2] in units) else None


# -- members that are more than a number ------------------------------------------------------------------------------
# Each takes a value and says whether it understood it; what it did not may still be a metric.

_HEALTH = {
    word: health
    for health, words in {
        Health.OK: "ok good healthy nominal normal green pass passing",
        Health.DEGRADED: "degraded warn warning yellow amber limited",
        Health.FAILED: "failed fail failure error fault faulty critical red bad unhealthy emergency",
        Health.UNKNOWN: "unknown",
    }.items()
    for word in words.split()
}
_FLIGHT = {
    word: flight
    for flight, words in {
        Flight.GROUND: "ground on_ground landed 1",
        Flight.AIR: "air in_air airborne flying 2",
        Flight.TAKEOFF: "takeoff taking_off 3",
        Flight.LANDING: "landing land 4",
    }.items()
    for word in words.split()
}  # the numbers are MAV_LANDED_STATE
_TRUTH = {"1": True, "true": True, "yes": True, "on": True, "armed": True, "ok": True} | {
    "0": False, "false": False, "no": False, "off": False, "disarmed": False
}  # fmt: skip
_SEVERITY = {
    word: severity
    for severity, words in enumerate(
        (
            "0 emerg emergency panic",
            "1 alert",
            "2 crit critical fatal",
            "3 err error",
            "4 warning warn",
            "5 notice",
            "6 info informational",
            "7 debug trace",
        )
    )
    for word in words.split()
}


def _word(value: _Value) -> str:
    return str(value).strip().lower()


def _name(rank: int, draft: Draft, value: _Value) -> bool:
    name = own_name(value)
    if name and rank <= draft.name_rank:
        draft.name, draft.name_rank = name, rank
        if len(name) == limits.name_chars_max < len(str(value).strip()):
            draft.mark(Mark.LONG_NAME)
    return bool(name)


def _health(rank: int, draft: Draft, value: _Value) -> bool:
    health = _HEALTH.get(_word(value))
    if health is not None and rank <= draft.health_rank:
        draft.health, draft.health_rank = health, rank
    return health is not None


def _version(draft: Draft, value: _Value) -> bool:
    version = "" if isinstance(value, bool) else str(value).strip()
    draft.version = version[: limits.name_chars_max] or draft.version
    return True


def _mid(draft: Draft, value: _Value) -> bool:
    draft.mid = str(value)[: limits.name_chars_max] or draft.mid
    return True


def _flight(draft: Draft, value: _Value) -> bool:
    flight = _FLIGHT.get(_word(value).replace(" ", "_"))
    draft.flight = flight or draft.flight
    return flight is not None


def _mode(draft: Draft, value: _Value) -> bool:
    """Of the autopilots' modes only the words tell where the vehicle is; their numbers differ from make to make."""
    return isinstance(value, str) and not value.isdigit() and _flight(draft, value)


def _armed(draft: Draft, value: _Value) -> bool:
    armed = _TRUTH.get(_word(value))
    draft.armed = draft.armed if armed is None else armed
    return armed is not None


def _heartbeat(draft: Draft, value: _Value) -> bool:
    """True, or a counter."""
    alive = _TRUTH.get(_word(value), not isinstance(value, str) or value.isdigit())
    draft.heartbeat = draft.heartbeat or alive
    return True


def _kind(draft: Draft, value: _Value) -> bool:
    alive = _word(value) == "heartbeat"
    draft.heartbeat = draft.heartbeat or alive
    return alive


def _severity(draft: Draft, value: _Value) -> bool:
    severity = _SEVERITY.get(_word(value))
    draft.severity = draft.severity if severity is None else severity
    return severity is not None


def _level(draft: Draft, value: _Value) -> bool:
    """A level in words is a severity; a level in numbers may be that of a tank."""
    return not _word(value).isdigit() and _severity(draft, value)


def _message(draft: Draft, members: Mapping[str, Any]) -> None:
    """The text of a JSON record. Not of words: there `msg=` is a word of the text among others."""
    for key in ("message", "msg", "text"):
        text = members.get(key)
        if text and isinstance(text, str):
            draft.text = text
            _kind(draft, text)
            return


def _clock(draft: Draft, value: _Value) -> bool:
    if isinstance(value, str):
        number = _NUMBER.fullmatch(value)
        at_ns = iso_ns(value) if number is None else _unix_ns(float(value) if number[1] else int(value))
        if number is None and at_ns is None:
            return False  # "12 ms" is a duration
    else:
        at_ns = _unix_ns(value)
    draft.claimed_ns = plausible(draft, at_ns) or draft.claimed_ns
    return True


_NUMBER = re.compile(r"-?[0-9]{1,20}+(\.[0-9]*+)?+")


def _unix_ns(value: float) -> int | None:
    """Seconds, ms, µs or ns: at most one of them falls into the years that are believed."""
    for unit in (limits.SECOND, limits.MS, 1000, 1):
        if limits.claimed_ns_min <= value * unit <= limits.claimed_ns_max:
            # A float of today's seconds is good to a microsecond, not more.
            return value * unit if isinstance(value, int) else round(value * (unit / 1000)) * 1000
    return None


def _mavlink(draft: Draft, value: _Value) -> bool:
    if isinstance(value, str):
        _frames(draft, value.strip(), announced=True)
    return True


_FIELDS: dict[str, _Field] = {
    **{key: partial(_name, rank) for rank, key in enumerate(NAMES)},
    **{key: partial(_health, rank) for rank, key in enumerate(_HEALTHS)},
    **dict.fromkeys(("version", "fw", "firmware", "fw_version", "firmware_version", "sw_version"), _version),
    **dict.fromkeys(("flight", "flight_state", "landed_state"), _flight),
    **dict.fromkeys(("mode", "flight_mode"), _mode),
    **dict.fromkeys(("type", "event", "kind"), _kind),
    **dict.fromkeys(("ts", "time", "timestamp", "@timestamp"), _clock),
    **dict.fromkeys(("mavlink", "mav"), _mavlink),
    "armed": _armed,
    "mid": _mid,
    "heartbeat": _heartbeat,
    "severity": _severity,
    "level": _level,
}


# -- words and frames in text -----------------------------------------------------------------------------------------

_WORD = re.compile(
    r"""([\w@][\w.\-]*+)  # a word without "=" matches too, so that no start is tried twice
    (?:=(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"|'([^']*+)'|([^\s,;"']++(?:,(?=[0-9.+\-])[^\s,;]++)*+)))?+""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_WORDS_MAX = 2_048  # of one body; what stands beyond is text only
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
# Its own first word, or its only one: a text may also tell that a heartbeat was lost.
_HEARTBEAT = re.compile(r"heartbeat\b[\s:,;.\-]*+(?:\Z|[\w.\-]++=|\{)", re.IGNORECASE)

_FRAME = re.compile(
    r"[fF/](?<![\w+/\-].)(?:(?<=[fF])[dDeE][0-9a-fA-F]{22,}+|(?<=/)[Q-Za-v][A-Za-z0-9+/]{14,}+={0,2})", re.ASCII
)  # FD and FE begin with "/Q" to "/v" in base 64
_URLSAFE = str.maketrans("-_", "+/")


def _may_hold_frames(words: str) -> bool:
    return "FD" in words or "fd" in words or "FE" in words or "fe" in words or "/" in words


def _unquoted(value: str) -> str:
    return _ESCAPE.sub(r"\1", value) if "\\" in value else value


def _frames(draft: Draft, token: str, *, announced: bool) -> None:
    """Read the frames of a token. One that nobody announced as MAVLink counts only if a checksum bears it out."""
    frames = mavlink.decode(_unarmoured(token))
    messages = [frame for frame in frames if isinstance(frame, mavlink.Message)]
    # By id: so a filtered position stands above a raw one, and the battery's own word above a summary.
    for message in sorted(messages, key=lambda message: message.id):
        _take(draft, mavlink.reading(message))
    if (announced and not messages) or (messages and len(messages) < len(frames)):
        draft.mark(Mark.BAD_MAVLINK)


def _unarmoured(token: str) -> bytes:
    """Hexadecimal or base 64 (either alphabet, padding optional). Empty when it is neither."""
    try:
        if token[:1] in "fF":
            return binascii.unhexlify(token)
        token = token.rstrip("=").translate(_URLSAFE)
        return base64.b64decode(token + "=" * (-len(token) % 4), validate=True)
    except ValueError:
        return b""


def _take(draft: Draft, said: Reading) -> None:
    for name, value in said.metrics.items():
        _metric(draft, name, value)
    if said.uptime_s is not None:
        _metric(draft, "uptime_s", said.uptime_s)
    draft.heartbeat = draft.heartbeat or said.heartbeat
    draft.health = said.health or draft.health
    draft.flight = said.flight or draft.flight
    draft.text = said.text or draft.text
    draft.armed = draft.armed if said.armed is None else said.armed
    draft.severity = draft.severity if said.severity is None else said.severity


def _position(draft: Draft) -> Position | None:
    metrics = draft.metrics
    lat, lon = metrics.get("lat_deg"), metrics.get("lon_deg")
    if lat is None or lon is None:
        return None
    # 0, 0 is what receivers without a fix report.
    if not (lat or lon) or abs(lat) > 90 or abs(lon) > 180:
        draft.mark(Mark.POSITION_IMPLAUSIBLE)
        return None
    heading = metrics.get("heading_deg")
    if heading is not None and not 0 <= heading <= 360:
        heading = None
    return Position(lat, lon, metrics.get("alt_m"), heading, metrics.get("speed_mps"))
