"""Syslog: who sent this message, what does it say, and where does the next one begin?

Read here: RFC 5424; RFC 3164, with all that real senders leave out of it; rsyslog's hybrid of the two (the layout of
RFC 3164 with the time of RFC 5424). On streams RFC 6587, with octet counting and with delimiters.

Rules of the file
  1  Nothing is raised for any bytes. A message of no known form is read as text and marked "unparsed".
  2  `sender` and `parse` find the same name, with the same expressions; `sender` does nothing else.
  3  What is stored is the message without its framing. Everything more is done when reading, and can be done again.
  4  Parsing and framing stand on top and are pure; what listens comes below.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from typing import NamedTuple

from appliance.intake import payload
from appliance.intake.payload import Draft, Mark
from fleet import limits
from fleet.reading import Reading

# -- one message ------------------------------------------------------------------------------------------------------

_SEVERITY = {str(pri): pri % 8 for pri in range(192)}  # RFC 5424 6.2.1: 191 at most, and no leading zeros
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_AHEAD_DAYS_MAX = 7  # a date without a year lies at most so far ahead of its receipt; else it is last year's
_EPOCH_DAY = date(1970, 1, 1).toordinal()

# In RFC 3164 any part may be missing: a word with one of these signs, or a colon at its end, is no name but a tag or
# the message already.
_NAME = r"""[^\x00-\x20\[\]<>{}"=]++(?<!:)(?![^\x00-\x20])"""
_WORD = r"[^\x00-\x20]++"
_ISO = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.,]++(?:Z|[+-][0-9:]++)?+"
_DAY = rf"(?:{'|'.join(_MONTHS)}) [ 0-9]?[0-9]"
_CLOCK = r"[0-9]{2}:[0-9]{2}:[0-9]{2}"
_FRACTION = r"\.[0-9]++"
_SD_NAME = r'[^\x00-\x20=\]"]++'
_VALUE = r'[^"\\]*+(?:\\.[^"\\]*+)*+'
_PARAMETERS = rf'(?: ++{_SD_NAME}="{_VALUE}")*+ *+'

_SENDER = re.compile(
    rf"<[0-9]++>1 {_WORD} ({_WORD}) |(?:<[0-9]++>)?+ ?+(?:{_DAY}(?: [0-9]{{4}})?+ {_CLOCK}(?:{_FRACTION})?+|{_ISO})"
    rf":?+ ({_NAME})".encode(),
    re.DOTALL,
)
_RFC5424 = re.compile(
    rf"<([0-9]++)>1 ({_WORD}) ({_WORD}) {_WORD} {_WORD} ({_WORD}) (-|(?:\[{_SD_NAME}{_PARAMETERS}\])++)(?: (.*))?+\Z",
    re.DOTALL,
)
_RFC3164 = re.compile(
    rf"(?:<([0-9]++)>)?+ ?+(?:(?:({_DAY})(?: ([0-9]{{4}}))?+ ({_CLOCK})({_FRACTION})?+|({_ISO}))"
    rf":?+(?![^\x00-\x20])(?: ({_NAME})?+ ?+)?+)?+",
    re.DOTALL,
)
_TAG = re.compile(r"[^\x00-\x20\[\]<>{}\"=:]{1,64}+(?:\[[^\]\x00-\x1f]{0,128}+\])?+:(?=\s|\Z) ?+")
_ELEMENT = re.compile(rf"\[({_SD_NAME})({_PARAMETERS})\]", re.DOTALL)
_PARAMETER = re.compile(rf'({_SD_NAME})="({_VALUE})"', re.DOTALL)
_ESCAPED = re.compile(r'\\(["\\\]])')


def sender(raw: bytes) -> str:
    """The host or device name that a message gives itself; empty when it gives none."""
    match = _SENDER.match(raw, 0, limits.record_bytes_max)
    if match is None:
        return ""
    name = (match[1] or match[2]).decode(errors="replace")
    return "" if name == "-" else name[: limits.name_chars_max]


def parse(raw: bytes, *, received_ns: int) -> Reading:
    """What one message says. `received_ns` (Unix) lends its year to dates that have none (RFC 3164 4.1.2)."""
    draft = Draft()
    if len(raw) > limits.record_bytes_max:
        raw = raw[: limits.record_bytes_max]
        draft.mark(Mark.OVERSIZE)
    text = payload.utf8(draft, raw.rstrip(b"\x00\r\n"))
    match = _RFC5424.match(text)
    return _parse_3164(draft, text, received_ns) if match is None else _parse_5424(draft, match)


def _parse_5424(draft: Draft, match: re.Match[str]) -> Reading:
    pri, time, name, message_id, elements, message = match.groups("")
    claimed_ns = None if time == "-" else payload.plausible(draft, payload.iso_ns(time))
    if elements != "-":
        payload.structured(draft, _structured(elements))
    if message_id.lower() == "heartbeat":
        draft.heartbeat = True
    return _reading(draft, pri, name, claimed_ns, message.removeprefix("\ufeff"))


def _parse_3164(draft: Draft, text: str, received_ns: int) -> Reading:
    match = _RFC3164.match(text)
    assert match is not None, "each part of the expression may be missing"
    pri, day, year, clock, fraction, iso, name = match.groups("")
    claimed_ns = None
    if day:
        claimed_ns = payload.plausible(draft, _bsd_ns(day, year, clock, fraction, received_ns))
    elif iso:
        claimed_ns = payload.plausible(draft, payload.iso_ns(iso))
    message = text[match.end() :]
    if message.startswith("1 ") and pri and not (day or iso):
        name = sender(text.encode())  # RFC 5424 with a broken header
        draft.mark(Mark.UNPARSED)
    elif pri or day or iso:
        tag = _TAG.match(message)
        message = message[tag.end() :] if tag else message
    else:
        draft.mark(Mark.UNPARSED)
    return _reading(draft, pri, name, claimed_ns, message)


def _reading(draft: Draft, pri: str, name: str, claimed_ns: int | None, message: str) -> Reading:
    severity = _SEVERITY.get(pri)
    if pri and severity is None:
        draft.mark(Mark.BAD_PRI)
    if len(name) > limits.name_chars_max:
        name = name[: limits.name_chars_max]
        draft.mark(Mark.LONG_NAME)
    payload.add(draft, message)
    return payload.reading(
        draft, claimed_ns=claimed_ns, name=None if name == "-" else name, severity=severity, text=message
    )


def _structured(elements: str) -> dict[str, dict[str, str]]:
    """RFC 5424 6.3, unescaped. A backslash before another character is one (6.3.3)."""
    found: dict[str, dict[str, str]] = {}
    for identity, parameters in _ELEMENT.findall(elements):
        values = found.setdefault(identity, {})
        for name, value in _PARAMETER.findall(parameters):
            values[name] = _ESCAPED.sub(r"\1", value) if "\\" in value else value
    return found


def _bsd_ns(day: str, year: str, clock: str, fraction: str, received_ns: int) -> int | None:
    """Unix ns, in UTC for want of a zone. None when there is no such time."""
    midnight_ns = _midnight_ns(day, year, received_ns // limits.DAY)
    since_ns = _since_midnight_ns(clock)
    if midnight_ns is None or since_ns is None:
        return None
    return midnight_ns + since_ns + (int(fraction[1:10].ljust(9, "0")) if fraction else 0)


@lru_cache(maxsize=1024)
def _midnight_ns(day: str, year: str, received_day: int) -> int | None:
    """Unix ns of the beginning of `Mmm dd`. Without a year it is the latest such day that is not far in the future."""
    latest = _EPOCH_DAY + received_day + _AHEAD_DAYS_MAX
    around = date.fromordinal(latest).year
    for candidate in (int(year),) if year else (around, around - 1):
        try:
            found = date(candidate, _MONTHS.index(day[:3]) + 1, int(day[4:])).toordinal()
        except ValueError:
            continue
        if year or found <= latest:
            return (found - _EPOCH_DAY) * limits.DAY
    return None


@lru_cache(maxsize=1024)
def _since_midnight_ns(clock: str) -> int | None:
    hours, minutes, seconds = int(clock[:2]), int(clock[3:5]), int(clock[6:])
    if hours > 23 or minutes > 59 or seconds > 60:
        return None
    return hours * limits.HOUR + minutes * limits.MINUTE + seconds * limits.SECOND


# -- many messages on a stream ----------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """One message off a stream, without its framing; marks are "oversize" and "cut"."""

    raw: bytes
    marks: tuple[str, ...] = ()


_COUNT = re.compile(rb"[1-9][0-9]{0,8}+ ")
_COUNT_BEGUN = re.compile(rb"[1-9][0-9]{0,8}+\Z")
_BETWEEN = re.compile(rb"[\x00\r\n]*+")
_NUL_OR_NEXT = re.compile(rb"\x00|\n(?=<[0-9]|[1-9][0-9]{0,8}+ <)")
_NEXT_BYTES_MAX = 12  # an LF and as much behind it as that expression looks at
_SLACK_BYTES = 2  # a delimiter or two that do not count as content


class Framer:
    """Splits one connection's stream into messages (RFC 6587 3.4). Bytes in, frames out, no I/O.

    Each frame is judged by its first byte: a digit 1 to 9 begins a count of octets (3.4.1), anything else a message up
    to its delimiter (3.4.2). A count of more than nine digits, or one that no space follows, is a message as well.

    The delimiter is LF. It is NUL for senders that leave LF inside their messages (Python's SysLogHandler), which shows
    when a message is followed by a NUL: from then on a message ends at NUL, or at an LF with the beginning of another
    message right behind it, which turns back to LF. So one stray NUL does not glue a stream of lines together.

    Held at most: one record and its framing. A longer one is cut and marked at once, and the rest of it is skipped.
    """

    def __init__(self) -> None:
        self._held = b""
        self._nul = False  # this sender ends its messages with NUL
        self._nul_held = False  # there is one in what is held
        self._skip_octets = 0  # what is left of a counted frame that was too long
        self._skip_message = False  # the same of a delimited one

    def feed(self, data: bytes) -> list[Frame]:
        """The messages that are complete now, in order."""
        held, at = self._held + data, 0
        self._nul_held = b"\x00" in held
        frames: list[Frame] = []
        while at < len(held) and (step := self._step(held, at)) is not None:
            at, frame = step
            if frame is not None:
                frames.append(frame)
        self._held = held[at:]
        return frames

    def close(self) -> list[Frame]:
        """The stream ended: half a message, marked "cut", if there is one."""
        held, skipping = self._held, self._skip_octets > 0 or self._skip_message
        # Under the NUL rule an LF at the very end was waiting for what comes behind it.
        whole = self._nul and held.endswith(b"\n")
        count = _COUNT.match(held)
        frame = _frame(held[count.end() :] if count else held)
        self._held = b""
        if skipping or frame is None:
            return []
        return [frame if whole else Frame(frame.raw, (*frame.marks, Mark.CUT))]

    def _step(self, held: bytes, at: int) -> tuple[int, Frame | None] | None:
        """What is at `at`, and where the next begins. None: that takes more bytes."""
        if self._skip_octets:
            skipped = min(self._skip_octets, len(held) - at)
            self._skip_octets -= skipped
            return at + skipped, None
        if self._skip_message:
            return self._skip(held, at)
        first = held[at]
        if 0x31 <= first <= 0x39:
            count = _COUNT.match(held, at)
            if count is not None:
                return self._counted(held, count.end(), int(count[0]))
            if _COUNT_BEGUN.match(held, at) is not None:
                return None
        elif first in b"\x00\r\n":
            return _BETWEEN.match(held, at).end(), None  # type: ignore[union-attr]
        return self._delimited(held, at)

    def _counted(self, held: bytes, at: int, octets: int) -> tuple[int, Frame | None] | None:
        taken = min(octets, limits.record_bytes_max + _SLACK_BYTES)
        if len(held) - at < taken:
            return None
        if octets == taken:
            return at + taken, _frame(held[at : at + taken])
        self._skip_octets = octets - limits.record_bytes_max
        return at + limits.record_bytes_max, _oversize(held[at:])

    def _delimited(self, held: bytes, at: int) -> tuple[int, Frame | None] | None:
        end = self._end(held, at)
        if end >= 0:
            return end + 1, _frame(held[at:end])
        if len(held) - at <= limits.record_bytes_max + _SLACK_BYTES:
            return None
        self._skip_message = True
        return at + limits.record_bytes_max, _oversize(held[at:])

    def _skip(self, held: bytes, at: int) -> tuple[int, Frame | None] | None:
        end = self._end(held, at)
        if end >= 0:
            self._skip_message = False
            return end + 1, None
        unsure = held.rfind(b"\n", max(at, len(held) - _NEXT_BYTES_MAX))
        return None if unsure == at else (unsure if unsure > at else len(held), None)

    def _end(self, held: bytes, at: int) -> int:
        """Where the delimiter of the message at `at` is; -1 when it is not here yet."""
        if self._nul or self._nul_held:
            match = _NUL_OR_NEXT.search(held, at)
            if match is not None:
                self._nul = match[0] == b"\x00"
                return match.start()
            if self._nul:
                return -1
            self._nul_held = False  # it lies behind us; do not look again
        return held.find(b"\n", at)


def _frame(raw: bytes) -> Frame | None:
    """Without the delimiters at its end (rsyslog counts its LF too). None when that is all there was."""
    raw = raw.rstrip(b"\x00\r\n")
    if len(raw) > limits.record_bytes_max:
        return _oversize(raw)
    return Frame(raw) if raw else None


def _oversize(raw: bytes) -> Frame:
    return Frame(raw[: limits.record_bytes_max], (Mark.OVERSIZE,))
