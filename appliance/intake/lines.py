r"""Line protocol (InfluxDB): which lines does a body hold, who sent each, and what does it say?

    measurement,tag=value field=1.5,count=3i,total=4u,on=true,text="q\"u" 1795253400000000000

Read here is what InfluxDB 1 and 2 take: escapes (`\,` `\ ` `\=` in names and tags, `\"` `\\` in strings), strings with line
feeds, `#` comments, lines without a time, CR LF. Where we differ stands in docs/decisions/0018.

Rules of the file
  1  A record is a run: whole lines of one sender in the order of the body, their very bytes, without the line feed at the
     end. It has at most `limits.lines_run_bytes_max` bytes, so that a batch is few records, each short enough to look at.
  2  Every line is read against the whole grammar before it is called good; a bad one costs nobody else.
  3  What is done for every line is one expression and one look into a dictionary. What a sender repeats, its series keys, is
     read once; everything else waits until somebody asks (`parse`).
  4  Time is linear in the length of the body, whatever is in it.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from functools import cache, lru_cache
from typing import NamedTuple

import msgspec

from appliance.intake import payload
from appliance.intake.payload import Draft, Mark
from fleet import limits
from fleet.metrics import BY_NAME
from fleet.reading import Reading

NODE_TAGS = ("host", "hostname", "device", "device_id", "node", "node_id")
"""The tags that name a node, unless the configuration says others. An earlier one outweighs a later one."""

UNITS = {"ns": 1, "us": 1_000, "ms": limits.MS, "s": limits.SECOND, "m": limits.MINUTE, "h": limits.HOUR, "auto": 0}
"""The precisions, in ns. `auto`: as large as the time looks."""


class Reason(StrEnum):
    """Why a line is no point: the sentence that its sender reads, in InfluxDB's own words where it has some."""

    NO_MEASUREMENT = "missing measurement"
    BAD_TAGS = "invalid tag format"
    NO_FIELDS = "missing fields"
    BAD_FIELDS = "invalid field format"
    BAD_NUMBER = "invalid number"
    BAD_BOOLEAN = "invalid boolean"
    OPEN_QUOTE = "unbalanced quotes"
    BAD_TIME = "bad timestamp"
    TIME_RANGE = "time outside range"
    TOO_LONG = f"a line has at most {limits.record_bytes_max} bytes"


class Refusal(NamedTuple):
    """Bad lines that follow each other and have one reason: the first one's number in the body, from 1, how many, bytes."""

    line: int
    lines: int
    reason: Reason
    raw: bytes


class Run(NamedTuple):
    """Lines of one sender in their order, as one record."""

    name: str  # of the sender, as the tags say; empty where they say none
    raw: bytes


class Split(NamedTuple):
    runs: list[Run]
    points: int
    refusals: list[Refusal]

    @property
    def refused(self) -> int:
        return sum(refusal.lines for refusal in self.refusals)


# -- the grammar ------------------------------------------------------------------------------------------------------

# In names and tags a comma, space or equals sign is one of the text when a backslash stands right before it; a backslash
# before anything else is a backslash.
_PLAIN = rb"[^\\ ,=\r\n]"
_ESCAPED = rb"\\++[ ,=]?+"
_NAME = rb"(?:" + _PLAIN + rb"|" + _ESCAPED + rb")++"
_MEASUREMENT = rb"(?:[^\\ ,\r\n]|" + _ESCAPED + rb")++"
_KEY = re.compile(_MEASUREMENT + rb"(?:," + _NAME + rb"=" + _NAME + rb")*+")
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NUMBER = rb"-?+(?:[0-9]++(?:[iu]|(?:\.[0-9]*+)?+(?:[eE][+-]?+[0-9]++)?+)|\.[0-9]++(?:[eE][+-]?+[0-9]++)?+)"
_BOOLEAN = rb"(?:true|True|TRUE|false|False|FALSE|[tTfF])(?![a-zA-Z])"
_FIELD_NAME = rb"(?:[^\\ ,=\r\n]|\\[^\r\n]?+)++="
_FIELD = _FIELD_NAME + rb"(?:" + _NUMBER + rb"|" + _STRING + rb"|" + _BOOLEAN + rb")"

# The whole of it, for what the quick expression below does not know.
_WHOLE = re.compile(
    rb"[ \t]*+((?:[^\\ \r\n]|\\++ ?+)++)[ \t]++("
    + _FIELD + rb"(?:," + _FIELD + rb")*+)(?:[ \t]++(-?+[0-9]++))?+[ \t]*+\r?+(?:\n|\Z)",
    re.DOTALL,
)  # fmt: skip
# A line that is none ends where InfluxDB says: at the first line feed outside of a string.
_END = re.compile(rb'(?:[^\\ \n]|\\++ ?+)*+(?:[^="\\\n]|\\[^\n]?+|=(?:' + _STRING + rb')?+|")*+(?:\n|\Z)', re.DOTALL)
_BLANK = re.compile(rb"[ \t\x00\r]*+(?:#[^\n]*+)?+(?:\n|\Z)")
_ONE_FIELD = re.compile(
    rb"((?:[^\\ ,=\r\n]|\\[^\r\n]?+)++)=(?:(" + _NUMBER + rb")|(" + _STRING + rb")|(" + _BOOLEAN + rb"))(?:,|\Z)", re.DOTALL
)  # fmt: skip
# To say what is wrong with a line.
_KEY_REGION = re.compile(rb"(?:[^\\ \r\n]|\\++ ?+)++")
_GOOD_FIELDS = re.compile(rb"(?:" + _FIELD + rb"(?:,|(?=[ \t])|\Z))*+", re.DOTALL)
_FIELD_KEY = re.compile(_FIELD_NAME)
_A_STRING = re.compile(_STRING, re.DOTALL)
_A_MEASUREMENT = re.compile(_MEASUREMENT)
_DIGITS_MAX = 4_000  # beyond it Python reads no integer; those of 64 bits have 20


@cache
def _quick(unit: int) -> re.Pattern[bytes]:
    """Most lines of most senders: no escapes, no odd numbers, a time that is within its bounds by its digits alone. Group 1
    is the series key. What is none of these is taken up to its line feed, and looked at by `_WHOLE`."""
    last = str(((1 << 63) - 1) // (unit or 1))
    first, more = int(last[0]), len(last) - 1
    time = rb"(?:[1-%d][0-9]{%d}|[0-9]{1,%d}+)" % (first - 1, more, more) if first > 1 else rb"[0-9]{1,%d}+" % more
    number = rb"-?+[0-9]{1,18}+(?:i|(?:\.[0-9]{0,200}+)?+(?:[eE][+-]?+[0-9]{1,2}+)?+)"
    value = rb"(?:" + number + rb'|"[^"\\\n]*+"|(?:true|True|TRUE|false|False|FALSE|[tTfF]))'
    field = rb'[^ ,="\\\r\n\t]++=' + value
    return re.compile(
        rb"([^ \\\r\n#\t\x00][^ \\\r\n]*+) " + field + rb"(?:," + field + rb")*+(?: -?+" + time + rb")?+\r?+\n"
        rb"|[^\n]*+(?:\n|\Z)"
    )  # fmt: skip


_INT64 = range(-(1 << 63), 1 << 63)
_UINT64 = range(1 << 64)
_TIMES = range(-(1 << 63) + 2, (1 << 63) - 1)  # as InfluxDB has them; the three others mean something to it


# -- bodies -----------------------------------------------------------------------------------------------------------

_KEYS_MAX = 65_536
_KEY_BYTES_MAX = 512  # a longer one is read each time


class Splitter:
    """Splits bodies into runs. It remembers which name a series key gives, because senders repeat their keys. Bounded: when
    the memory is full it begins anew. Several threads may use one."""

    def __init__(self, tags: Sequence[str] = NODE_TAGS) -> None:
        self._tags = tuple(tag.encode() for tag in tags)
        self._names: dict[bytes, str] = {}

    def split(self, body: bytes, unit: int = 1, *, by_name: bool = True) -> Split:
        """`unit` in ns, one of `UNITS`. Without `by_name` all lines are one sender's, whatever their tags say."""
        known, lines = self._names, _quick(unit).finditer
        size, run_max = len(body), limits.lines_run_bytes_max
        runs, bad = _Runs(), _Bad(body)
        points = at = start = 0  # `start`: where the lines of `current` begin that are not put away yet
        current = ""
        while at < size:
            for match in lines(body, at):
                key, begin, at = match[1], at, match.end()
                name = known.get(key) if key is not None else None
                if name is None:
                    at, name = self._look(body, begin, at, key, unit, bad)
                if name is None:
                    runs.put(current, body[start:begin])
                    start = at
                else:
                    if not by_name:
                        name = ""
                    points += 1
                    if name != current or at - start > run_max:
                        runs.put(current, body[start:begin])
                        start, current = begin, name
                        if at - begin > limits.record_bytes_max < len(body[begin:at].rstrip(b"\r\n")):
                            bad.put(begin, at, Reason.TOO_LONG)
                            points, start = points - 1, at
                if at != match.end():
                    break  # it went on behind a line feed within a string
        runs.put(current, body[start:])
        return Split(runs.close(), points, bad.close())

    def _look(
        self, body: bytes, begin: int, end: int, key: bytes | None, unit: int, bad: _Bad
    ) -> tuple[int, str | None]:
        """A line that is new or odd: where it ends, and its sender's name. None: a comment, or a bad one, which is noted."""
        if key is None:
            if (blank := _BLANK.match(body, begin)) is not None:
                return blank.end(), None
            whole = _WHOLE.match(body, begin)
            reason = _out_of_range(whole[2], whole[3], unit) if whole is not None else None
            if whole is None or reason is not None:
                found = _END.match(body, begin)
                end = found.end() if found is not None else end
                bad.put(begin, end, reason or _reason(body[begin:end]))
                return end, None
            key, end = whole[1], whole.end()
        name = self._name(key)
        if name is None:
            bad.put(begin, end, Reason.NO_MEASUREMENT if key.startswith(b",") else Reason.BAD_TAGS)
        return end, name

    def _name(self, key: bytes) -> str | None:
        """The name that a series key gives ("" for none); None when it is no key."""
        if _KEY.fullmatch(key) is None:
            return None
        name = _node(_tags(key), self._tags)[1]
        if len(key) <= _KEY_BYTES_MAX:
            if len(self._names) >= _KEYS_MAX:
                self._names.clear()
            self._names[key] = name
        return name


class _Runs:
    """The good lines of a body, put together by sender."""

    def __init__(self) -> None:
        self._full: list[Run] = []
        self._held: dict[str, list[bytes]] = {}
        self._sizes: dict[str, int] = {}

    def put(self, name: str, lines: bytes) -> None:
        if not lines:
            return
        held = self._held.get(name)
        size = self._sizes.get(name, 0) + len(lines)
        if held is None or size > limits.lines_run_bytes_max:
            if held is not None:
                self._full.append(_run(name, held))
            self._held[name], size = [lines], len(lines)
        else:
            held.append(lines)
        self._sizes[name] = size

    def close(self) -> list[Run]:
        return self._full + [_run(name, held) for name, held in self._held.items()]


def _run(name: str, lines: Sequence[bytes]) -> Run:
    return Run(name, (lines[0] if len(lines) == 1 else b"".join(lines)).rstrip(b"\r\n"))


class _Bad:
    """The bad lines of a body. Those that follow each other with one reason are one refusal, up to the length of a run."""

    def __init__(self, body: bytes) -> None:
        self._body, self._line, self._counted = body, 1, 0  # the line that begins at `_counted`
        self._closed: list[Refusal] = []
        self._first = self._lines = self._begin = self._end = 0  # of the refusal that may still grow
        self._reason: Reason | None = None

    def put(self, begin: int, end: int, reason: Reason) -> None:
        self._line += self._body.count(b"\n", self._counted, begin)
        self._counted = begin
        if reason is self._reason and begin == self._end and end - self._begin <= limits.lines_run_bytes_max:
            self._lines += 1
        else:
            self._close()
            self._first, self._lines, self._begin, self._reason = self._line, 1, begin, reason
        self._end = end

    def close(self) -> list[Refusal]:
        self._close()
        return self._closed

    def _close(self) -> None:
        if self._reason is not None:
            raw = self._body[self._begin : min(self._end, self._begin + limits.record_bytes_max)].rstrip(b"\r\n")
            self._closed.append(Refusal(self._first, self._lines, self._reason, raw))


def _out_of_range(fields: bytes, time: bytes | None, unit: int) -> Reason | None:
    """What the grammar allows and the types do not."""
    if time is not None:
        at = int(time) if len(time) <= _DIGITS_MAX else None
        if at is None or at not in _INT64:
            return Reason.BAD_TIME
        if at * (unit or 1) not in _TIMES:
            return Reason.TIME_RANGE
    for _, number, _, _ in _ONE_FIELD.findall(fields):
        if number.endswith((b"i", b"u")):
            bounds = _INT64 if number.endswith(b"i") else _UINT64
            if len(number) > _DIGITS_MAX or int(number[:-1]) not in bounds:
                return Reason.BAD_NUMBER
        elif number and not -sys.float_info.max <= float(number) <= sys.float_info.max:
            return Reason.BAD_NUMBER
    return None


def _reason(line: bytes) -> Reason:
    """Why this one is bad."""
    line = line.strip(b" \t\x00\r\n")
    key = _KEY_REGION.match(line)
    if key is None or line.startswith(b","):
        return Reason.NO_MEASUREMENT
    if _KEY.fullmatch(key[0]) is None:
        return Reason.BAD_TAGS
    fields = line[key.end() :].lstrip(b" \t")
    if not fields:
        return Reason.NO_FIELDS
    good = _GOOD_FIELDS.match(fields)
    rest = fields[good.end() :] if good is not None else fields
    if good is not None and good.end() and fields[good.end() - 1 : good.end()] != b",":
        return Reason.BAD_TIME
    begun = _FIELD_KEY.match(rest)
    value = rest[begun.end() :] if begun is not None else b""
    if value.startswith(b'"'):
        return Reason.BAD_FIELDS if _A_STRING.match(value) else Reason.OPEN_QUOTE
    if not value or value[:1] in b", ":
        return Reason.BAD_FIELDS
    return Reason.BAD_NUMBER if value[:1] in b"0123456789.-+nNiI" else Reason.BAD_BOOLEAN


# -- what a series key says -------------------------------------------------------------------------------------------

_TAG = re.compile(rb",(" + _NAME + rb")=(" + _NAME + rb")")
_ESCAPE = re.compile(rb"\\([ ,=])")


def _tags(key: bytes) -> list[tuple[bytes, bytes]]:
    return _TAG.findall(key)


def _node(tags: Sequence[tuple[bytes, bytes]], order: Sequence[bytes]) -> tuple[bytes, str]:
    """The tag that names the node, and the name."""
    said = dict(reversed(tags))  # the first one counts
    for tag in order:
        if tag in said and (name := payload.own_name(_text(said[tag]))):
            return tag, name
    return b"", ""


def _text(raw: bytes) -> str:
    return (_ESCAPE.sub(rb"\1", raw) if b"\\" in raw else raw).decode(errors="replace")


def sender(raw: bytes, tags: Sequence[str] = NODE_TAGS) -> str:
    """The node that the first line of a record names; empty when it names none."""
    whole = _WHOLE.match(raw)
    if whole is None or _KEY.fullmatch(whole[1]) is None:
        return ""
    return _node(_tags(whole[1]), [tag.encode() for tag in tags])[1]


# -- readings ---------------------------------------------------------------------------------------------------------

# Measurements whose fields are the node's own words, as the members of a JSON object are.
_OWN = frozenset(
    (
        "data", "device", "drone", "gnss", "gps", "health", "location", "metrics", "node", "pos", "position", "sensor",
        "sensors", "state", "status", "telemetry", "values", "vehicle",
    )
)  # fmt: skip


class _Alias(NamedTuple):
    """What a field of a well-known collector is in the fleet's own words; `tag` must be there with this value."""

    metric: str
    tag: tuple[str, str] | None = None
    rest_of: float | None = None  # the metric is this less the value


_CERTAIN: dict[tuple[str, str], _Alias] = {  # Telegraf's, of which the unit is certain
    ("cpu", "usage_idle"): _Alias("cpu_pct", ("cpu", "cpu-total"), 100.0),
    ("mem", "used_percent"): _Alias("ram_pct"),
    ("disk", "used_percent"): _Alias("disk_pct", ("path", "/")),
    ("system", "uptime"): _Alias("uptime_s"),
}


class _Series(NamedTuple):
    """What a series key says of its fields."""

    measurement: str
    name: str  # of the node
    tags: tuple[tuple[str, str], ...]  # but for the one that names the node

    @property
    def suffix(self) -> str:
        """Tags tell series apart, so they are a part of a metric's name: cpu0 and cpu1 are two."""
        return "{" + ",".join(f"{tag}={value}" for tag, value in self.tags) + "}" if self.tags else ""


@lru_cache(maxsize=4096)
def _series(key: bytes) -> _Series:
    found = _tags(key)
    named, name = _node(found, _NODE_TAGS)
    others = tuple((_text(tag), _text(value)) for tag, value in found if tag != named)
    return _Series(_text(key[: _measurement_end(key)]), name, others)


def _measurement_end(key: bytes) -> int:
    found = _A_MEASUREMENT.match(key)
    return found.end() if found is not None else 0


_NODE_TAGS = tuple(tag.encode() for tag in NODE_TAGS)


@lru_cache(maxsize=16_384)
def _field_of(key: bytes, field: bytes) -> tuple[str, str, _Alias | None]:
    """A member of the node's own words, or a metric's name; and what else it is."""
    series, name = _series(key), _text(field)
    alias = _CERTAIN.get((series.measurement, name))
    if alias is not None and alias.tag is not None and alias.tag not in series.tags:
        alias = None
    if not series.tags and (series.measurement in _OWN or name in BY_NAME):
        return name, "", alias
    return "", f"{series.measurement}.{name}{series.suffix}", alias


def parse(raw: bytes, received_ns: int) -> Reading:
    """What the lines of one record say together: of each metric the last value, of the times the latest one. `samples` has
    all values where a metric stands there more than once. `received_ns` has no part in it: a line without a time has none.

    The unit of a time is taken from its size: of all units at most one gives a year that is believed."""
    draft = Draft()
    draft.metrics_max = limits.metrics_per_node_max
    merged: dict[str, float] = {}
    samples: list[dict[str, float]] = []
    name, latest, at, points = "", None, 0, 0
    if len(raw) > limits.record_bytes_max:
        raw = raw[: limits.record_bytes_max]
        draft.mark(Mark.OVERSIZE)
    while at < len(raw):
        whole = _WHOLE.match(raw, at)
        if whole is None or _KEY.fullmatch(whole[1]) is None:
            found = _BLANK.match(raw, at)
            if found is None:
                draft.mark(Mark.UNPARSED)
                found = _END.match(raw, at)
            at = found.end() if found is not None else len(raw)
            continue
        at, points = whole.end(), points + 1
        name = name or _series(whole[1]).name
        draft.metrics = {}
        _point(draft, whole[1], whole[2])
        _sample(samples, draft.metrics)
        merged.update(draft.metrics)
        if whole[3] is not None:
            claimed_ns = payload.plausible(draft, _claimed_ns(whole[3]))
            latest = claimed_ns if latest is None or claimed_ns is None else max(latest, claimed_ns)
    if not points:
        draft.mark(Mark.UNPARSED)
    if len(merged) > limits.metrics_per_node_max:
        draft.mark(Mark.TOO_MANY_METRICS)
        merged = dict(itertools.islice(merged.items(), limits.metrics_per_node_max))
    draft.metrics = merged
    said = payload.reading(draft, claimed_ns=latest, name=name)
    return msgspec.structs.replace(said, samples=tuple(samples)) if len(samples) > 1 else said


def _sample(samples: list[dict[str, float]], metrics: dict[str, float]) -> None:
    """As few as hold every value: lines about different things are one sample."""
    if not samples or not samples[-1].keys().isdisjoint(metrics):
        samples.append(metrics)
    else:
        samples[-1].update(metrics)


def _point(draft: Draft, key: bytes, fields: bytes) -> None:
    for field, number, string, boolean in _ONE_FIELD.findall(fields):
        member, metric, alias = _field_of(key, field)
        value: str | float
        if number:
            value = int(number[:-1][-_DIGITS_MAX:]) if number[-1:] in b"iu" else float(number)
        elif boolean:
            value = boolean[:1] in b"tT"
        else:
            value = _unquoted(string)
        if member:
            payload.member(draft, member, value)
        elif not isinstance(value, str):
            payload.metric(draft, metric, value)
        if alias is not None and not isinstance(value, str):
            payload.metric(draft, alias.metric, value if alias.rest_of is None else alias.rest_of - float(value))


def _unquoted(string: bytes) -> str:
    return _IN_STRING.sub(rb"\1", string[1:-1]).decode(errors="replace")


_IN_STRING = re.compile(rb'\\(["\\])')


def _claimed_ns(time: bytes) -> int | None:
    if len(time) > _DIGITS_MAX:
        return None
    at = int(time)
    for unit in UNITS.values():
        if unit and limits.claimed_ns_min <= at * unit <= limits.claimed_ns_max:
            return at * unit
    return None
