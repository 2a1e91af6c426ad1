"""InfluxDB's ways to write: bodies of line protocol in, offers at the gate, 204 only after the commit that holds them.

    POST /api/v2/write?org=&bucket=&precision=     InfluxDB 2, Telegraf's `outputs.influxdb_v2`, today's client libraries
    POST /write?db=&rp=&precision=&u=&p=           InfluxDB 1, Telegraf's `outputs.influxdb`
    POST /api/v3/write_lp?db=&precision=           InfluxDB 3
    GET  /ping, GET /health, POST /query           what clients ask before they write

Rules of the file
  1  Who writes is decided by what the request shows (token, password), never by tags. A device that may not speak for others
     is the sender of all its lines. For a gateway, and for one that nobody knows, the tags name the senders. Lines of one who is
     not let in are kept in quarantine.
  2  Good lines are stored whatever stands beside them. Bad ones go to quarantine with their line numbers, and the answer says
     how many, which the first one is and why: 400, as InfluxDB answers a partial write.
  3  An answer is worded as the InfluxDB of that address words it (`Dialect`), because clients act on it: on 400 they throw the
     batch away, on 413 they halve it, on 429 and 503 they come again after `Retry-After`.
  4  Organisation, bucket and database are taken and mean nothing: a site keeps everything in one place.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qs

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from appliance.intake import http
from appliance.intake.device import Device, Doorkeeper, Turned
from appliance.intake.gate import Gate, Outcome, Stored
from appliance.intake.http_listener import Room, body_of, committed
from appliance.intake.lines import NODE_TAGS, UNITS, Refusal, Split, Splitter
from appliance.intake.syslog_listeners import SourceNames
from fleet import limits
from fleet.people import Refused
from store.frames import Offer
from web.policy import Entry, Policy

INTAKE = "lines"
VERSION = "2.7.0-skerry"  # clients look at its first number
_BODY_SECONDS_MAX = 60.0
_SPLITS_MAX = 2  # × limits.http_inflated_bytes_max: the most that unpacking takes of the memory
_AT_ONCE_BYTES = 32_768  # a smaller body is quicker split than handed to another thread
_SHOWN_CHARS = 120  # of a bad line
_SHOWN_LINES = 100  # of a body, where the dialect lists them


class Dialect(NamedTuple):
    """How one generation of InfluxDB takes precisions and words its refusals."""

    precisions: Mapping[str, str]  # by the name that its clients use, the name in `UNITS`; "" is the default
    refusal: Callable[[int, str, Sequence[Refusal]], Mapping[str, object]]


_CODES = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    413: "request too large",
    415: "unsupported media type",
    429: "too many requests",
    503: "unavailable",
}


def _v2(status: int, words: str, refusals: Sequence[Refusal]) -> Mapping[str, object]:
    said: dict[str, object] = {"code": _CODES.get(status, "invalid"), "message": words}
    return said | {"line": refusals[0].line} if refusals else said


def _v1(status: int, words: str, refusals: Sequence[Refusal]) -> Mapping[str, object]:
    return {"error": words}


def _v3(status: int, words: str, refusals: Sequence[Refusal]) -> Mapping[str, object]:
    if not refusals:
        return {"error": words}
    data = [
        {"error_message": one.reason, "line_number": one.line, "original_line": _shown(one.raw)}
        for one in refusals[:_SHOWN_LINES]
    ]
    return {"error": f"partial write of line protocol occurred: {words}", "data": data}


_SHORT = {"": "ns", "n": "ns", "ns": "ns", "u": "us", "us": "us", "µ": "us", "ms": "ms", "s": "s"}
V1 = Dialect({**_SHORT, "m": "m", "h": "h"}, _v1)
V2 = Dialect(_SHORT, _v2)
_LONG = {"nanosecond": "ns", "microsecond": "us", "millisecond": "ms", "second": "s"}
V3 = Dialect({**_SHORT, **_LONG, "": "auto", "auto": "auto"}, _v3)

_TURNED: dict[Turned, int] = {Turned.FOREIGN: 403, Turned.FLOOD: 429}  # the others: 401


class Lines:
    def __init__(
        self,
        gate: Gate,
        quarantine: Callable[[str, str, str, bytes], None],
        doors: Doorkeeper,
        *,
        tags: Sequence[str] = NODE_TAGS,
        room: Room | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.room = room or Room()
        self._gate, self._quarantine, self._doors, self._now_ns = gate, quarantine, doors, now_ns
        self._splitter = Splitter(tags)
        self._names = SourceNames(INTAKE)
        self._splits = asyncio.Semaphore(_SPLITS_MAX)

    def routes(self) -> tuple[Entry, ...]:
        """PUBLIC: whoever writes is a device, and not one of the people that the policies know."""
        return (
            Entry("POST", "/api/v2/write", self.write_v2, Policy.PUBLIC, None),
            Entry("POST", "/write", self.write_v1, Policy.PUBLIC, None),
            Entry("POST", "/api/v3/write_lp", self.write_v3, Policy.PUBLIC, None),
            Entry("POST", "/query", self.query, Policy.PUBLIC),
            Entry("GET", "/ping", self.ping, Policy.PUBLIC),
            Entry("GET", "/health", self.health, Policy.PUBLIC),
        )

    async def write_v1(self, request: Request) -> Response:
        return await self._write(request, V1)

    async def write_v2(self, request: Request) -> Response:
        return await self._write(request, V2)

    async def write_v3(self, request: Request) -> Response:
        return await self._write(request, V3)

    async def ping(self, request: Request) -> Response:
        return _headed(Response(status_code=204))

    async def health(self, request: Request) -> Response:
        fault = self._gate.fault
        said: dict[str, object] = {
            "name": "influxdb",  # what clients compare with
            "message": str(fault) if fault else "ready for writes",
            "status": "fail" if fault else "pass",
            "checks": [],
            "version": VERSION,
            "commit": "",
        }
        return _headed(Response(msgspec.json.encode(said), 503 if fault else 200, media_type="application/json"))

    async def query(self, request: Request) -> Response:
        """Telegraf and the old clients make sure of their database first; there is nothing to make here."""
        asked = request.query_params.get("q")
        if asked is None:
            asked = parse_qs((await request.body()).decode(errors="replace")).get("q", [""])[0]
        if asked.strip().upper().startswith("CREATE DATABASE"):
            said: Mapping[str, object] = {"results": [{"statement_id": 0}]}
            return _headed(Response(msgspec.json.encode(said), media_type="application/json"))
        return _refused(V1, 400, "this is no database; what was written is read at /api/v1/telemetry and /api/v1/nodes")

    # -- writing ----------------------------------------------------------------------------------------------

    async def _write(self, request: Request, dialect: Dialect) -> Response:
        address = request.client.host if request.client else "console"
        parameters = request.query_params
        precision = dialect.precisions.get(parameters.get("precision", ""))
        if precision is None:
            known = ", ".join(filter(None, dialect.precisions))
            return self._turn_away(dialect, 400, f"unknown precision; one of {known}", "unreadable")
        device = await self._who(request, address)
        enrolled = device if isinstance(device, Device) and device.node_id else None
        alone = enrolled is not None and not enrolled.gateway
        with self.room.share() as take:
            try:
                async with asyncio.timeout(_BODY_SECONDS_MAX):
                    body = await body_of(request, take)
                body = await self._inflated(request, body)
                wait_s = self._doors.allow(enrolled, _lines_of(body), len(body)) if enrolled is not None else 0.0
                if wait_s:
                    words = f"this device sends more than it may; again in {math.ceil(wait_s)} s"
                    return self._turn_away(dialect, 429, words, Turned.FLOOD.value, math.ceil(wait_s))
                split = await self._split(body, UNITS[precision], by_name=not alone)
            except Refused as no:
                return self._turn_away(dialect, no.status, str(no), _REASONS.get(no.status, "unreadable"))
            except TimeoutError:
                words = f"the body did not arrive within {_BODY_SECONDS_MAX:.0f} s"
                return self._turn_away(dialect, 408, words, "too slow")
            except ClientDisconnect:
                return self._turn_away(dialect, 400, "the connection ended before the body did", "cut off")
        if isinstance(device, Turned):
            for name, raw in split.runs[: limits.quarantine_samples_max]:
                self._quarantine(INTAKE, self._names.key(address, name), device.value, raw)
            return self._turn_away(dialect, _TURNED.get(device, 401), f"not let in: {device.value}", device.value)
        return await self._store(dialect, device, address, split, precision)

    async def _store(self, dialect: Dialect, device: Device, address: str, split: Split, precision: str) -> Response:
        key = self._sources(device, address)
        if split.runs:
            now_ns = self._now_ns()
            marks = () if precision == "ns" else (f"precision-{precision}",)
            offers = [Offer(now_ns, key(name), raw, marks) for name, raw in split.runs]
            outcome = await committed(self._gate, INTAKE, offers)
            if not isinstance(outcome, Stored):
                return self._unavailable(dialect, outcome)
            self._gate.tally(INTAKE).points += split.points
        if not split.refusals:
            return _headed(Response(status_code=204))
        for refusal in split.refusals:
            self._gate.refuse(INTAKE, refusal.reason, refusal.lines)
            self._quarantine(INTAKE, key(""), f"line {_numbers(refusal)}: {refusal.reason}", refusal.raw)
        return _refused(dialect, 400, _words(split), split.refusals)

    def _sources(self, device: Device, address: str) -> Callable[[str], str]:
        """From a name in the tags to the key of a source."""
        if not device.node_id:
            return lambda name: self._names.key(device.address or address, name or device.name)
        if not device.gateway:
            return lambda name: device.source(INTAKE)
        return lambda name: device.source(INTAKE, name)

    async def _who(self, request: Request, address: str) -> Device | Turned:
        if address == "console":  # whoever holds the folder asks nobody
            return Device("", "", address=address)
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        scheme, shown = scheme.lower(), shown.strip()
        if scheme == "basic":
            try:
                shown = base64.b64decode(shown, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                return Turned.UNKNOWN
        elif scheme in ("token", "bearer") and ":" not in shown:
            return await self._doors.token(shown, address) if shown else await self._doors.anonymous("", address)
        elif scheme not in ("", "token"):
            return Turned.UNKNOWN
        if scheme:
            user, _, password = shown.partition(":")
        else:
            user, password = request.query_params.get("u", ""), request.query_params.get("p", "")
        if not user and not password:
            return await self._doors.anonymous("", address)
        found = await self._doors.password(user, password, "", address)
        if found is Turned.UNKNOWN and password:
            return await self._doors.token(password, address)  # as clients of version 1 show one of version 2
        return found

    async def _inflated(self, request: Request, body: bytes) -> bytes:
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding in ("identity", ""):
            return body
        if encoding != "gzip":
            raise Refused(f"content-encoding {encoding[:40]!r} is not understood; send gzip or none", 415)
        try:
            if len(body) < _AT_ONCE_BYTES // 8:
                return http.inflate(body, limits.http_inflated_bytes_max)
            async with self._splits:
                return await asyncio.to_thread(http.inflate, body, limits.http_inflated_bytes_max)
        except http.BadBody as bad:
            raise Refused(str(bad), bad.status) from bad

    async def _split(self, body: bytes, unit: int, *, by_name: bool) -> Split:
        if _lines_of(body) > limits.lines_body_lines_max:
            raise Refused(f"a body has at most {limits.lines_body_lines_max} lines; send smaller batches", 413)
        if len(body) < _AT_ONCE_BYTES:
            return self._splitter.split(body, unit, by_name=by_name)
        async with self._splits:
            return await asyncio.to_thread(self._splitter.split, body, unit, by_name=by_name)

    # -- answers ----------------------------------------------------------------------------------------------

    def _turn_away(self, dialect: Dialect, status: int, words: str, reason: str, retry_s: int = 1) -> Response:
        self._gate.refuse(INTAKE, reason)
        return _refused(dialect, status, words, (), retry_s)

    def _unavailable(self, dialect: Dialect, outcome: Outcome | str | None) -> Response:
        if outcome is None:
            words = "the disk took too long; send again, the lines may or may not be stored"
            return _refused(dialect, 503, words, (), 5)
        if isinstance(outcome, str) and self._gate.fault is None:
            words = f"more comes in than can be written now ({outcome}); keep the lines and send them again"
            return _refused(dialect, 503 if outcome == "stopping" else 429, words, ())
        return _refused(dialect, 503, str(self._gate.fault or outcome), (), 5)


_REASONS = {413: "too large", 415: "unknown encoding", 400: "unreadable", 429: "no room"}


def _lines_of(body: bytes) -> int:
    return body.count(b"\n") + (not body.endswith(b"\n") and bool(body))


def _shown(raw: bytes) -> str:
    first = raw.partition(b"\n")[0].decode(errors="replace")
    return first if len(first) <= _SHOWN_CHARS else first[:_SHOWN_CHARS] + "…"


def _numbers(refusal: Refusal) -> str:
    return str(refusal.line) if refusal.lines == 1 else f"{refusal.line} and the {refusal.lines - 1} after it"


def _words(split: Split) -> str:
    first, refused = split.refusals[0], split.refused
    why = f"unable to parse '{_shown(first.raw)}': {first.reason} (line {first.line})"
    if not split.points:
        return f"{why}; none of {refused} lines is stored"
    others = f"{why}, and {refused - 1} more" if refused > 1 else why
    return f"partial write: {others}; dropped={refused}, the other {split.points} are stored"


def _headed(response: Response) -> Response:
    response.headers["x-influxdb-version"] = VERSION
    response.headers["x-influxdb-build"] = "OSS"
    return response


def _refused(dialect: Dialect, status: int, words: str, refusals: Sequence[Refusal] = (), retry_s: int = 1) -> Response:
    body = msgspec.json.encode(dialect.refusal(status, words, refusals))
    response = _headed(Response(body, status, media_type="application/json"))
    if status in (429, 503):
        response.headers["retry-after"] = str(retry_s)
    if status == 401:
        response.headers["www-authenticate"] = "Token"
    if dialect is V1:
        response.headers["x-influxdb-error"] = words.encode("ascii", "replace").decode()[:200].replace("\n", " ")
    return response
