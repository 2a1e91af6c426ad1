"""HTTP bodies: which records does this body hold, who sent each, and what does it say?

A body is one JSON object, an array of them, or one to a line (NDJSON), perhaps compressed with gzip.

Rules of the file
  1  A record is the very bytes between its braces as they came; nothing is encoded again.
  2  What is kept as a record can be read: each was decoded once before it is called one.
  3  A bad record is refused with its reason and its place; the good ones beside it are kept.
  4  The work is bounded before it begins: by bytes, then by records, then by depth.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from appliance.intake import payload
from appliance.intake.payload import Mark
from fleet import limits
from fleet.reading import Reading


class Reason(StrEnum):
    """Why something is no record: the sentence that its sender reads."""

    EMPTY = "the body holds no record; send one JSON object, an array of them, or one to a line"
    NOT_JSON = "this is no valid JSON"
    NOT_AN_OBJECT = "a record is a JSON object"
    BAD_UTF8 = "JSON is UTF-8, and this is not"
    TOO_DEEP = f"a record nests at most {limits.json_depth_max} deep"
    TOO_LONG = f"a record has at most {limits.record_bytes_max} bytes"
    TOO_MANY = f"a body holds at most {limits.http_records_max} records; send smaller batches"


class Refusal(msgspec.Struct, frozen=True):
    """What is no record: why, its bytes (up to the length of a record), and its place in the body, from 0: the element
    of an array, or the line."""

    reason: Reason
    raw: bytes
    index: int = 0


class BadBody(Exception):
    """A body that cannot be unpacked. str() says why and what to do; `status` is the HTTP status of the answer."""

    def __init__(self, words: str, status: int) -> None:
        super().__init__(words)
        self.status = status


_MEMBERS_MAX = 16  # of one gzip stream (RFC 1952 2.2); usual is one
_AUTO = 32 + zlib.MAX_WBITS  # gzip or zlib, as the bytes say


def inflate(body: bytes, limit: int = limits.http_inflated_bytes_max) -> bytes:
    """Unpack gzip (or zlib). BadBody 413 as soon as more than `limit` bytes come out, 400 when the stream is broken."""
    inflated = b""
    for _ in range(_MEMBERS_MAX):
        stream = zlib.decompressobj(_AUTO)
        try:
            inflated += stream.decompress(body, limit + 1 - len(inflated))
        except zlib.error as error:
            raise BadBody("the body is not what its content-encoding says; send gzip or none", 400) from error
        if len(inflated) > limit:
            raise BadBody(f"a body has at most {limit} bytes when unpacked; send smaller batches", 413)
        if not stream.eof:
            raise BadBody("the compressed body ends too early; send it again", 400)
        body = stream.unused_data
        if not body:
            return inflated
    raise BadBody(f"a compressed body has at most {_MEMBERS_MAX} parts", 400)


_LINES = frozenset(
    (
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "application/jsonlines",
    )
)
_BLANK = b" \t\r\n"
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw]).decode
_ONE = msgspec.json.Decoder(msgspec.Raw).decode
_ANY = msgspec.json.Decoder().decode
_COMMAS_MAX = limits.http_records_max * limits.metrics_per_record_max


class Named(NamedTuple):
    """A record and the name under which its sender goes, as `sender` finds it."""

    raw: bytes
    name: str


def split(body: bytes, content_type: str) -> tuple[list[bytes], list[Refusal]]:
    """The records of a body, and what is none. The content type decides only where the bytes leave it open."""
    records, refusals = named(body, content_type)
    return [record.raw for record in records], refusals


def named(body: bytes, content_type: str) -> tuple[list[Named], list[Refusal]]:
    """As `split`, each with its sender's name: they are decoded anyway."""
    body = body.removeprefix(b"\xef\xbb\xbf").strip(_BLANK)
    if not body:
        return [], [Refusal(Reason.EMPTY, b"")]
    if content_type.partition(";")[0].strip().lower() in _LINES:
        return _lines(body)
    if body[:1] == b"[":
        return _array(body)
    try:
        return _judged([bytes(_ONE(body))])
    except (msgspec.MsgspecError, RecursionError):
        first = body.partition(b"\n")[0].strip(_BLANK)
    # One bad line must not spoil the others; one bad object over several lines is no lines at all.
    if b"\n{" in body or (len(first) < len(body) and _decoded(first) is not Reason.NOT_JSON):
        return _lines(body)
    fault = _decoded(body)
    return [], [_refusal(fault if isinstance(fault, Reason) else Reason.NOT_JSON, body)]


def _lines(body: bytes) -> tuple[list[Named], list[Refusal]]:
    if body.count(b"\n") >= limits.http_records_max:
        return [], [_refusal(Reason.TOO_MANY, body)]
    return _judged([line.strip(_BLANK) for line in body.split(b"\n")])


def _array(body: bytes) -> tuple[list[Named], list[Refusal]]:
    # Every element becomes an object of Python's before it can be counted; their commas can be counted first.
    if body.count(b",") >= _COMMAS_MAX:
        return [], [_refusal(Reason.TOO_MANY, body)]
    try:
        records = _ARRAY(body)
    except RecursionError:
        return [], [_refusal(Reason.TOO_DEEP, body)]
    except msgspec.MsgspecError:
        return [], [_refusal(Reason.NOT_JSON, body)]
    if len(records) > limits.http_records_max:
        return [], [_refusal(Reason.TOO_MANY, body)]
    if not records:
        return [], [_refusal(Reason.EMPTY, body)]
    return _judged([bytes(record) for record in records])


def _judged(candidates: list[bytes]) -> tuple[list[Named], list[Refusal]]:
    records: list[Named] = []
    refusals: list[Refusal] = []
    for index, raw in enumerate(candidates):
        if not raw:
            continue  # a blank line
        value = _decoded(raw)
        if isinstance(value, Reason):
            refusals.append(_refusal(value, raw, index))
        else:
            records.append(Named(raw, _name_in(value)))
    return records, refusals


def fault(raw: bytes) -> Reason | None:
    """Why these bytes are no record; None when they are one."""
    found = _decoded(raw)
    return found if isinstance(found, Reason) else None


def _decoded(raw: bytes) -> dict[str, object] | Reason:
    if len(raw) > limits.record_bytes_max:
        return Reason.TOO_LONG
    if payload.too_deep(raw):
        return Reason.TOO_DEEP
    try:
        value = _ANY(raw)
    except UnicodeError:
        return Reason.BAD_UTF8
    except msgspec.MsgspecError:
        return Reason.NOT_JSON
    return value if isinstance(value, dict) else Reason.NOT_AN_OBJECT


def _name_in(members: Mapping[str, object]) -> str:
    for key in payload.NAMES:
        if key in members and (name := payload.own_name(members[key])):
            return name
    return ""


def _refusal(reason: Reason, raw: bytes, index: int = 0) -> Refusal:
    return Refusal(reason, raw[: limits.record_bytes_max], index)


# Only these members are decoded; the others are skipped, which is several times faster.
_Named: Any = msgspec.defstruct("_Named", [(name, Any, None) for name in payload.NAMES])
_NAMED = msgspec.json.Decoder(_Named)


def sender(raw: bytes) -> str:
    """The name under which a record's sender goes; empty when it gives none."""
    if payload.too_deep(raw):
        return ""
    try:
        named = _NAMED.decode(raw)
    except (msgspec.MsgspecError, UnicodeError):
        return ""
    return next(filter(None, (payload.own_name(getattr(named, name)) for name in payload.NAMES)), "")


def parse(raw: bytes, received_ns: int) -> Reading:
    """What one record says. `received_ns` has no part in it: JSON names its own time, or none."""
    draft = payload.read(raw)
    if not raw.lstrip(_BLANK).startswith(b"{") or Mark.BAD_JSON in draft.marks or Mark.TOO_DEEP in draft.marks:
        draft.mark(Mark.UNPARSED)
    return payload.reading(draft, name=sender(raw))
