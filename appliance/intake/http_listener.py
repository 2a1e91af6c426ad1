"""`POST /v1/ingest`: bodies in, offers at the gate, 2xx only after the commit that holds the records.

What the bytes mean is `http`'s business. Answers: 200 with the ids, 207 when some lines of the body were refused (the
good ones are stored, the bad ones quarantined), 400 when nothing could be read, 401 for a credential that does not count
(what came is quarantined), 413, 415, 429 when the gate is full or the device sends too much, 507 when the disk is.

With a bearer token the records stand under the device that it belongs to; a gateway's, each under the name that it gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from appliance.intake import http
from appliance.intake.device import Device, Doorkeeper, Turned
from appliance.intake.gate import Gate, Outcome, Stored
from appliance.intake.syslog_listeners import SourceNames
from fleet import limits
from fleet.people import Refused
from store.frames import Offer
from web.policy import Entry, Policy

INTAKE = "http"
_BODY_SECONDS_MAX = 60.0
_COMMIT_SECONDS_MAX = 30.0
_ROOM_BYTES_MAX = 64 * 1024 * 1024
_SPLITS_MAX = 2  # × limits.http_inflated_bytes_max: the most that unpacking takes of the memory


class Answer(msgspec.Struct, omit_defaults=True):
    stored: int = 0
    first_id: int = 0
    last_id: int = 0
    refused: list[dict[str, object]] = msgspec.field(default_factory=list)
    error: str = ""


class Room:
    """The bytes of bodies that are being read, over all connections. When full, a body is turned away (429).

    It counts bytes that came, not connections: a sender that dawdles takes no room from the others.
    """

    def __init__(self, bytes_max: int = _ROOM_BYTES_MAX) -> None:
        self.bytes, self.bytes_max = 0, bytes_max

    @contextlib.contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes, all given back at the end. It raises Refused when there is no room."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self.bytes + size > self.bytes_max:
                raise Refused("too many bodies come in at once; keep the records and send them again", 429)
            self.bytes += size
            taken += size

        try:
            yield take
        finally:
            self.bytes -= taken


async def body_of(request: Request, take: Callable[[int], None]) -> bytes:
    """The body, as it came. Refused (413) as soon as it is too large, (429) when `take` finds no room."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limits.http_body_bytes_max:
        raise Refused(_TOO_LARGE, 413)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limits.http_body_bytes_max:
            raise Refused(_TOO_LARGE, 413)
        take(len(part))
        parts.append(part)
    return b"".join(parts)


async def committed(gate: Gate, intake: str, offers: Sequence[Offer]) -> Outcome | str | None:
    """What became of `offers`: the gate's reason when it refuses them, None when the disk does not answer in time."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Outcome | None] = loop.create_future()

    def done(result: Outcome) -> None:
        loop.call_soon_threadsafe(_settle, outcome, result)

    reason = gate.offer(intake, offers, done)
    if reason is not None:
        return reason
    late = loop.call_later(_COMMIT_SECONDS_MAX, _settle, outcome, None)  # asyncio.timeout costs ten times as much
    try:
        return await outcome
    finally:
        late.cancel()


class Ingest:
    def __init__(
        self,
        gate: Gate,
        quarantine: Callable[[str, str, str, bytes], None],
        *,
        now_ns: Callable[[], int] = time.time_ns,
        doorkeeper: Doorkeeper | None = None,  # without one everybody comes in as a network address
        splits_max: int = _SPLITS_MAX,
    ) -> None:
        self._gate, self._quarantine, self._now_ns, self._doorkeeper = gate, quarantine, now_ns, doorkeeper
        self._names = SourceNames(INTAKE)
        self.room = Room()
        self._splits = asyncio.Semaphore(splits_max)

    def routes(self) -> tuple[Entry, ...]:
        return (Entry("POST", "/v1/ingest", self.ingest, Policy.PUBLIC, None),)

    async def ingest(self, request: Request) -> Response:
        address = request.client.host if request.client else "console"
        who = await self._who(request, address)
        with self.room.share() as take:
            try:
                async with asyncio.timeout(_BODY_SECONDS_MAX):
                    body = await body_of(request, take)
                records, refusals = await self._split(body, request)
            except Refused as no:
                self._gate.refuse(INTAKE, _REASONS.get(no.status, "unreadable"))
                return _answer(no.status, Answer(error=str(no)), {"retry-after": "1"} if no.status == 429 else None)
            except TimeoutError:
                self._gate.refuse(INTAKE, "too slow")
                return _answer(408, Answer(error=f"the body did not arrive within {_BODY_SECONDS_MAX:.0f} s"))
            except ClientDisconnect:
                self._gate.refuse(INTAKE, "cut off")
                return _answer(400, Answer(error="the connection ended before the body did"))
        if isinstance(who, Turned):
            return self._turn(who, address, records)
        for refusal in refusals:
            self._gate.refuse(INTAKE, refusal.reason)
            self._quarantine(INTAKE, self._source(who, ""), refusal.reason, refusal.raw)
        refused = [{"index": refusal.index, "reason": refusal.reason} for refusal in refusals[:100]]
        if not records:
            why = "; ".join(sorted({refusal.reason for refusal in refusals})) or "the body holds no record"
            return _answer(400, Answer(refused=refused, error=why))
        if who.node_id and self._doorkeeper is not None:
            wait_s = self._doorkeeper.allow(who, len(records), len(body))
            if wait_s:
                self._gate.refuse(INTAKE, Turned.FLOOD, len(records))
                words = f"this device sends more than it may; send these records again in {wait_s:.1f} s"
                return _answer(429, Answer(error=words), {"retry-after": str(math.ceil(wait_s))})
        return await self._store(who, records, refused)

    async def _who(self, request: Request, address: str) -> Device | Turned:
        """Whoever holds the folder (the console) asks nobody."""
        token = bearer_of(request)
        if self._doorkeeper is None or address == "console":
            return Device("", "", address=address)
        return await (self._doorkeeper.token(token, address) if token else self._doorkeeper.anonymous("", address))

    def _turn(self, why: Turned, address: str, records: Sequence[http.Named]) -> Response:
        self._gate.refuse(INTAKE, why, len(records))
        for raw, name in records[: limits.quarantine_samples_max]:
            self._quarantine(INTAKE, self._names.key(address, name), why, raw)
        return _answer(401, Answer(error=_TURNED[why]), {"www-authenticate": "Bearer"})

    def _source(self, who: Device, name: str) -> str:
        if not who.node_id:
            return self._names.key(who.address, name)
        return who.source(INTAKE, name if who.gateway else "")

    async def _store(self, who: Device, records: Sequence[http.Named], refused: list[dict[str, object]]) -> Response:
        now_ns = self._now_ns()
        offers = [Offer(now_ns, self._source(who, name), raw) for raw, name in records]
        stored = await committed(self._gate, INTAKE, offers)
        if stored is None:
            return _answer(
                503, Answer(error="the disk took too long; send again, the records may or may not be stored")
            )
        if isinstance(stored, str):
            return _turned_away(stored, str(self._gate.fault or ""))
        if not isinstance(stored, Stored):
            return _turned_away(stored.fault.value, str(stored))
        answer = Answer(len(offers), stored.first_id, stored.last_id, refused)
        return _answer(207 if refused else 200, answer)

    async def _split(self, body: bytes, request: Request) -> tuple[list[http.Named], list[http.Refusal]]:
        encoding = request.headers.get("content-encoding", "identity").lower()
        kind = request.headers.get("content-type", "")
        if encoding not in ("identity", "gzip", ""):
            raise Refused(f"content-encoding {encoding[:40]!r} is not understood; send gzip or none", 415)

        def work() -> tuple[list[http.Named], list[http.Refusal]]:
            inflated = body
            if encoding == "gzip":
                try:
                    inflated = http.inflate(body, limits.http_inflated_bytes_max)
                except http.BadBody as bad:
                    raise Refused(str(bad), bad.status) from bad
            return http.named(inflated, kind)

        if len(body) < 16_384 and encoding != "gzip":
            return work()  # a small body is quicker split than handed to another thread
        async with self._splits:
            return await asyncio.to_thread(work)


def bearer_of(request: Request) -> str:
    """The token that a request shows; empty without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


_TURNED = {
    Turned.UNKNOWN: "nobody knows this credential here; ask an operator of this site for an activation code",
    Turned.REVOKED: "this credential was revoked; ask an operator of this site",
    Turned.EXPIRED: "the time of this credential is over; ask an operator of this site for an activation code",
    Turned.MISSING: "this site takes records from devices that say who they are: Authorization: Bearer <device token>",
    Turned.FLOOD: "too much at once; wait and send again",
    Turned.FOREIGN: "this is not the device's own",
}
_TOO_LARGE = f"a body has at most {limits.http_body_bytes_max} bytes; send smaller batches"
_REASONS = {413: "too large", 415: "unknown encoding", 400: "unreadable", 429: "no room"}


def _turned_away(reason: str, words: str) -> Response:
    status = 507 if reason in ("full", "read-only", "damaged", "i/o error") else 429
    said = words or "the appliance takes in more than it can write now; keep the records and send them again"
    return _answer(status, Answer(error=said), {"retry-after": "5" if status == 507 else "1"})


def _answer(status: int, answer: Answer, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(answer), status, headers, "application/json")


def _settle(future: asyncio.Future[Outcome | None], outcome: Outcome | None) -> None:
    if not future.done():
        future.set_result(outcome)
