"""`/v1/uploads`: announcements and chunks in, 2xx for a chunk once it is on the disk, for a finish once its records are.

What may come when is `upload`'s business, the bytes on the disk `store.uploads`', the records `delivery`'s.

Answers: 200 with what is acknowledged and what is asked for next; 202 while records are being stored; 400 and 409 for a
chunk that has no place now; 401 and 403 for who may not come in; 404 for an upload that is not known (announce it
again); 413; 422 for a wrong hash, of a chunk (send that one again) or of the whole (it begins anew); 429 and 507.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from appliance.intake.delivery import INTAKE, Cargo, Delivering, Done, Untrue
from appliance.intake.device import Device, Doorkeeper, Turned
from appliance.intake.gate import Gate
from appliance.intake.http_listener import Room
from appliance.intake.upload import (
    Announcement,
    Ask,
    Bad,
    State,
    Step,
    Upload,
    announced,
    digest_of,
    number_of,
)
from fleet import limits
from fleet.people import Refused, Unavailable
from fleet.spans import Spans
from store import budget, streams, uploads
from store.database import Reader
from store.faults import StoreFault
from store.folder import Folder
from store.uploads import Chunk, Part
from web.policy import Entry, Policy

log = logging.getLogger(__name__)
T = TypeVar("T")

_BODY_SECONDS_MAX = 60.0
_FINISH_SECONDS = 20.0
_SWEEP_S = 15.0
_ROOM_BYTES = 64 * 1024 * 1024
_BUDGET_PARTS = 4  # unfinished uploads take at most this part of the budget
_ANNOUNCEMENT_BYTES_MAX = 16 * 1024
_TOKEN_CHARS_MAX = 1_024
_LEFT_NS = 60 * limits.SECOND
_THREADS = 2  # hash and write; more would only share the same two cores

STATUS = {
    Turned.UNKNOWN: 401,
    Turned.REVOKED: 401,
    Turned.EXPIRED: 401,
    Turned.MISSING: 401,
    Turned.FOREIGN: 403,
    Turned.FLOOD: 429,
}


class Ack(msgspec.Struct, frozen=True):
    """A ChunkAck: windows up to `window_id` are on the disk, and so many bytes in all."""

    window_id: int
    bytes_durable: int


class Answer(msgspec.Struct, omit_defaults=True):
    site: str = ""
    id: str = ""
    state: str = ""
    ack: Ack | None = None
    ask: Ask | None = None
    done: Done | None = None
    error: str = ""
    noted: bool = False  # it is finished, and will be stored here whatever its state says


class StreamAnswer(msgspec.Struct):
    site: str
    stream: str
    floor: int
    held: Spans


class Head(msgspec.Struct, frozen=True):
    """The first line of an upload's log."""

    device: str
    source: str
    began_ns: int
    said: Announcement


class Held:
    """One open upload: its decider, its files, and who waits for the disk."""

    def __init__(self, upload: Upload, source: str, part: Part) -> None:
        self.upload, self.source, self.part = upload, source, part
        self.waiting: list[Chunk] = []
        self.syncing: asyncio.Task[None] | None = None
        self.delivering: asyncio.Task[Done | None] | None = None
        self.checking = asyncio.Lock()
        self.noted = False  # it may stand in site.db as one that is being stored

    @property
    def cargo(self) -> Cargo:
        return Cargo(self.upload.id, self.upload.device, self.source, self.upload.said, self.part)


class Uploads:
    """`open` before it serves, `run` beside it, `close` at the end. `told(device, upload)` hears of every step of an
    upload; `hints` are added to what is asked for."""

    def __init__(
        self,
        folder: Folder,
        gate: Gate,
        delivering: Callable[[ThreadPoolExecutor], Delivering],
        reader: Reader,
        doorkeeper: Doorkeeper,
        quarantine: Callable[[str, str, str, bytes], None],
        *,
        site: str,
        tenant: str,
        bounds: Callable[[], budget.Bounds],
        now_ns: Callable[[], int],
    ) -> None:
        self.pool = ThreadPoolExecutor(_THREADS, "uploads")
        self.open_uploads: dict[str, Held] = {}
        self.bytes_in = 0
        self.told: Callable[[str, Upload], None] = lambda device, upload: None
        self.hints: Callable[[str], dict[str, object]] = lambda device: {}
        self.room = Room(_ROOM_BYTES)
        self._folder, self._gate, self._reader, self._doorkeeper = folder, gate, reader, doorkeeper
        self._delivering = delivering(self.pool)
        self._quarantine, self._site, self._tenant = quarantine, site, tenant
        self._bounds, self._now_ns = bounds, now_ns
        self._running: set[asyncio.Task[Done | None]] = set()

    def routes(self) -> tuple[Entry, ...]:
        public = Policy.PUBLIC
        return (
            Entry("POST", "/v1/uploads", self.answering(self.announce), public, _ANNOUNCEMENT_BYTES_MAX),
            Entry("GET", "/v1/uploads/{id}", self.answering(self.show), public),
            Entry("PATCH", "/v1/uploads/{id}", self.answering(self.chunk), public, None),
            Entry("DELETE", "/v1/uploads/{id}", self.answering(self.drop), public),
            Entry("POST", "/v1/uploads/{id}/finish", self.answering(self.finish), public),
            Entry("GET", "/v1/streams/{stream}", self.answering(self.stream), public),
        )

    def answering(
        self, handler: Callable[[Request, Device], Awaitable[Response]]
    ) -> Callable[..., Awaitable[Response]]:
        """Who it is, then the handler; every refusal in one form, and counted."""

        async def answer(request: Request) -> Response:
            try:
                return await handler(request, await self._device(request))
            except _Turned as no:
                self._gate.refuse(INTAKE, no.bad.reason)
                return _answer(no.bad.status, Answer(error=no.bad.words), no.wait_s)
            except Refused as no:  # no room for one more body
                self._gate.refuse(INTAKE, "no room")
                return _answer(no.status, Answer(error=str(no)), 1.0)
            except Unavailable as fault:
                self._gate.refuse(INTAKE, fault.fault if isinstance(fault, StoreFault) else "unavailable")
                return _answer(fault.status, Answer(error=str(fault)), 5.0)
            except TimeoutError:
                self._gate.refuse(INTAKE, "too slow")
                return _answer(408, Answer(error=f"the body did not arrive within {_BODY_SECONDS_MAX:.0f} s"))
            except ClientDisconnect:
                self._gate.refuse(INTAKE, "cut off")
                return _answer(400, Answer(error="the connection ended before the body did"))

        return answer

    async def _device(self, request: Request) -> Device:
        address = request.client.host if request.client else "console"
        turned = await who(self._doorkeeper, request.headers, address)
        if isinstance(turned, Turned):
            raise _Turned(Bad(STATUS[turned], f"{turned.value}: show the device's token as a bearer token", turned))
        return turned

    # -- what a device does -----------------------------------------------------------------------------------

    async def announce(self, request: Request, device: Device) -> Response:
        said = announced(await self._body(request, _ANNOUNCEMENT_BYTES_MAX))
        if isinstance(said, Bad):
            raise _Turned(said)
        self._allow(device, 1, 0)
        key, now_ns = key_of(device), self._now_ns()
        fresh = Upload(key, said, now_ns)
        if (held := self.open_uploads.get(fresh.id)) is not None:
            held.upload.touched_ns = now_ns
            return self._state(held)
        here = await self.held(key, said.stream)
        last = said.last or said.first
        if here.holds(said.first, last):
            return _answer(200, Answer(self._site, fresh.id, State.DONE, done=Done(said.first, last, 0)))
        if len(here.ranges) >= limits.stream_ranges_max:
            words = "this stream has too many holes; announce its floor, the lowest number that may still come"
            raise _Turned(Bad(409, words, "too many ranges"))
        self._admit(key, said)
        if fresh.id in self.open_uploads:  # announced twice at once
            return self._state(self.open_uploads[fresh.id])
        source = device.source(INTAKE)
        head = msgspec.json.encode(Head(key, source, now_ns, said))
        held = self.open_uploads[fresh.id] = Held(fresh, source, Part(self._folder.uploads, fresh.id, head))
        self.told(key, fresh)
        return self._state(held)

    async def show(self, request: Request, device: Device) -> Response:
        return self._state(self._mine(request, device))

    async def chunk(self, request: Request, device: Device) -> Response:
        held = self._mine(request, device)
        upload, headers = held.upload, request.headers
        size = number_of(headers.get("content-length", "")) or 0
        offset, window = number_of(headers.get("upload-offset", "")), number_of(headers.get("upload-window", ""))
        place = upload.place(offset, size, window)
        if isinstance(place, Bad):
            raise _Turned(place)
        digest = digest_of(headers.get("content-digest", ""))
        if digest is None:
            raise _Turned(Bad(400, "a chunk carries Content-Digest: sha-256=:BASE64:", "unreadable"))
        self._allow(device, 0, size)
        with self.room.share() as take:
            async with asyncio.timeout(_BODY_SECONDS_MAX):
                pieces = await _pieces(request, size, take)
            if upload.has(place):
                return self._state(held)
            if self._space() < size:
                words = "unfinished uploads take all the room that they may have; keep it and send it later"
                raise _Turned(Bad(507, words, "no space"), 30.0)
            began = upload.state
            if not await self._away(partial(uploads.same, pieces, digest)):
                self._quarantine(INTAKE, held.source, "wrong hash", b"".join(pieces[:1])[:512])
                raise _Turned(
                    Bad(422, f"the chunk at {offset} has another SHA-256; send that chunk again", "wrong hash")
                )
            try:
                await self._away(partial(held.part.write, offset or 0, pieces))
                await self._durable(held, Chunk(place, size, digest))
            except StoreFault:
                self._gone(held, "the disk")
                raise
        self.bytes_in += size
        if upload.state is not began or upload.ask() is None:
            self.told(upload.device, upload)
        return self._state(held)

    async def finish(self, request: Request, device: Device) -> Response:
        """Idempotent: as often as it is asked for, it is stored once."""
        held = self._mine(request, device)
        async with held.checking:
            if held.upload.state is State.OPEN:
                raise _Turned(Bad(409, "chunks are missing; what is wanted stands in ask", "not whole"))
            if held.upload.state is State.WHOLE:
                await self._begin(held)
        assert held.delivering is not None
        await asyncio.wait([held.delivering], timeout=_FINISH_SECONDS)
        if not held.delivering.done():
            return _answer(202, Answer(self._site, held.upload.id, held.upload.state), 1.0)
        done = held.delivering.result()
        if done is None:
            raise _Turned(Bad(404, "this upload was lost here; announce it again", "unknown upload"))
        return _answer(200, Answer(self._site, held.upload.id, State.DONE, done=done))

    async def drop(self, request: Request, device: Device) -> Response:
        held = self._mine(request, device)
        if held.upload.state is State.DELIVERING:
            raise _Turned(Bad(409, "it is finished, and its records are being stored", "too late"))
        held.upload.step(Step.DROP)
        self._gone(held, "given up")
        return _answer(200, Answer(self._site, held.upload.id, State.GONE))

    async def stream(self, request: Request, device: Device) -> Response:
        """What this site holds of a stream: how a device learns what became of a finish that nobody answered."""
        name = str(request.path_params["stream"])
        here = await self.held(key_of(device), name)
        answer = StreamAnswer(self._site, name, here.floor, here.all)
        return Response(msgspec.json.encode(answer), media_type="application/json")

    # -- the steps --------------------------------------------------------------------------------------------

    async def _begin(self, held: Held) -> None:
        """Check the whole, note it, and store its records, whatever becomes of whoever asked."""
        cargo = held.cargo
        try:
            await self._delivering.check(cargo)
            held.noted = True  # a commit that was reported as failed may have reached the disk
            note = await self._delivering.begin(cargo)
        except Untrue as untrue:
            self._quarantine(INTAKE, held.source, "untrue upload", msgspec.json.encode(cargo.said))
            held.upload.step(Step.UNTRUE)
            self._gone(held, "untrue")
            raise _Turned(Bad(422, str(untrue), "untrue upload")) from untrue
        held.upload.step(Step.FINISH)
        self._deliver(held, note)

    def _deliver(self, held: Held, note: streams.Delivery) -> None:
        held.delivering = asyncio.create_task(self._delivered(held, note))
        self._running.add(held.delivering)
        held.delivering.add_done_callback(self._running.discard)

    async def _delivered(self, held: Held, note: streams.Delivery) -> Done | None:
        """None when the file was lost in between. What of it was stored then is known by its note, when it comes again."""
        try:
            done = await self._delivering.run(held.cargo, note)
        except Untrue as untrue:
            log.error("upload %s: %s", held.upload.id, untrue)
            held.upload.step(Step.UNTRUE)
            self._gone(held, "untrue")
            return None
        held.upload.step(Step.STORED)
        self.open_uploads.pop(held.upload.id, None)
        await self._away(held.part.remove)
        self.told(held.upload.device, held.upload)
        return done

    async def _durable(self, held: Held, chunk: Chunk) -> None:
        """Until the chunk is on the disk. Whoever comes while the disk is busy shares its next turn."""
        held.waiting.append(chunk)
        while chunk in held.waiting:
            if held.syncing is None or held.syncing.done():
                held.syncing = asyncio.create_task(self._sync(held))
            await asyncio.shield(held.syncing)
        if not held.upload.has(chunk.place):
            await asyncio.shield(held.syncing or asyncio.sleep(0))

    async def _sync(self, held: Held) -> None:
        batch, held.waiting = held.waiting, []
        await self._away(partial(held.part.sync, batch))
        for chunk in batch:
            held.upload.took(chunk.place, self._now_ns())

    def _gone(self, held: Held, reason: str) -> None:
        log.info("upload %s of %s is gone: %s", held.upload.id, held.upload.device, reason)
        held.upload.state = State.GONE
        self.open_uploads.pop(held.upload.id, None)
        held.part.remove()
        self.told(held.upload.device, held.upload)

    # -- bounds -----------------------------------------------------------------------------------------------

    def _admit(self, key: str, said: Announcement) -> None:
        mine = [held for held in self.open_uploads.values() if held.upload.device == key]
        if len(mine) >= limits.uploads_per_device_max and not self._let_idle_go(mine):
            words = f"{len(mine)} uploads of this device are open; finish or delete one first"
            raise _Turned(Bad(429, words, "too many uploads"), 5.0)
        if len(self.open_uploads) >= limits.uploads_max:
            raise _Turned(Bad(429, f"{limits.uploads_max} uploads are open here; come again", "too many uploads"), 5.0)
        if self._space() < said.bytes:
            words = "there is no room for an upload of this size now; keep it and send it later"
            raise _Turned(Bad(507, words, "no space"), 30.0)

    def _let_idle_go(self, mine: list[Held]) -> bool:
        """A device that went on elsewhere leaves uploads behind: the one that lies longest makes room for its next."""
        for held in sorted(mine, key=lambda held: held.upload.touched_ns):
            idle = self._now_ns() - held.upload.touched_ns > _LEFT_NS
            if idle and not held.noted and held.upload.state in (State.OPEN, State.WHOLE):
                held.upload.step(Step.EXPIRE)
                self._gone(held, "left behind")
                return True
        return False

    def _space(self) -> int:
        """Bytes that unfinished uploads may still take: of their part of the budget, and of the disk."""
        bounds = self._bounds()
        taken = sum(held.upload.bytes_durable for held in self.open_uploads.values())
        free = budget.disk_free(self._folder) - 2 * bounds.reserve_bytes
        return min(bounds.budget_bytes // _BUDGET_PARTS - taken, free)

    def _allow(self, device: Device, messages: int, size: int) -> None:
        wait_s = self._doorkeeper.allow(device, messages, size)
        if wait_s > 0:
            raise _Turned(Bad(429, "this device sends more than it may; wait", Turned.FLOOD), wait_s)

    def _mine(self, request: Request, device: Device) -> Held:
        held = self.open_uploads.get(str(request.path_params["id"]))
        if held is None:
            raise _Turned(Bad(404, "this upload is not known; announce it (again)", "unknown upload"))
        if held.upload.device != key_of(device):
            raise _Turned(Bad(403, "this upload is another device's", Turned.FOREIGN))
        return held

    async def held(self, key: str, stream: str) -> streams.Held:
        """What this site holds of a device's stream. StoreFault, TimeoutError."""
        rows = await self._reader.fetch(streams.SELECT, (self._tenant, key, stream))
        return streams.read((int(rows[0][0]), bytes(rows[0][1])) if rows else None)

    async def _body(self, request: Request, size_max: int) -> bytes:
        with self.room.share() as take:
            parts = [piece async for piece in _stream(request, size_max, take)]
        return b"".join(parts)

    def _state(self, held: Held) -> Response:
        upload = held.upload
        ack = Ack(upload.acknowledged(), upload.bytes_durable)
        ask = upload.ask(self.hints(upload.device))
        return _answer(200, Answer(self._site, upload.id, upload.state, ack, ask, noted=held.noted))

    async def _away(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    # -- start, run, end --------------------------------------------------------------------------------------

    async def open(self, noted: list[streams.Delivery]) -> None:
        """Take up what an earlier run left: unfinished uploads wait on, noted ones are stored."""
        notes = {one.upload: one for one in noted}
        for one in await self._away(partial(uploads.found, self._folder.uploads)):
            part, note = Part(self._folder.uploads, one.id, one.head), notes.get(one.id)
            try:
                head = msgspec.json.decode(one.head, type=Head)
            except msgspec.MsgspecError:
                log.warning("uploads/%s.log is none of ours, and is removed", one.id)
                part.remove()
                continue
            upload = Upload(head.device, head.said, head.began_ns)
            here = await self.held(upload.device, head.said.stream)
            stored = note is None and here.holds(head.said.first, head.said.last or head.said.first)
            if stored or (note is None and not part.path.exists()):
                part.remove()  # cut off while its files were to go
                continue
            held = self.open_uploads[upload.id] = Held(upload, head.source, part)
            for chunk in one.chunks:
                if chunk.place < upload.chunks and chunk.size == upload.size_of(chunk.place):
                    upload.took(chunk.place, self._now_ns())
            held.noted = note is not None
            if note is not None and upload.state is State.WHOLE:
                upload.step(Step.FINISH)
                self._deliver(held, note)

    async def run(self) -> None:
        """For ever: let go what nobody goes on with, and the oldest of the rest where the room is gone."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now_ns = self._now_ns()
            idle = sorted(
                (held for held in self.open_uploads.values() if held.upload.state in (State.OPEN, State.WHOLE)),
                key=lambda held: held.upload.touched_ns,
            )
            for held in idle:
                short = self._space() < 0 and held.upload.bytes_durable > 0
                if held.upload.expires_ns() <= now_ns or short:
                    self._gate.refuse(INTAKE, "no space" if short else "expired")
                    held.upload.step(Step.EXPIRE)
                    self._gone(held, "no space" if short else "expired")

    async def close(self) -> None:
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.to_thread(self.pool.shutdown)
        for held in self.open_uploads.values():
            held.part.close()


class _Turned(Exception):
    def __init__(self, bad: Bad, wait_s: float = 0.0) -> None:
        super().__init__(bad.words)
        self.bad, self.wait_s = bad, wait_s


async def who(doorkeeper: Doorkeeper, headers: Headers, address: str) -> Device | Turned:
    """By its bearer token; without one, by the name that it gives itself, where strangers may come in."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and 0 < len(token.strip()) <= _TOKEN_CHARS_MAX:
        return await doorkeeper.token(token.strip(), address)
    if scheme:
        return Turned.UNKNOWN
    name = headers.get("skerry-device", "")[: limits.name_chars_max]
    return await doorkeeper.anonymous(name, address) if name else Turned.MISSING


def key_of(device: Device) -> str:
    """Whose streams these are: the node's, or, of one that nobody knows, those of its name."""
    return f"@{device.node_id}" if device.node_id else device.name or device.address


async def _stream(request: Request, size_max: int, take: Callable[[int], None]) -> AsyncIterator[bytes]:
    size = 0
    async for piece in request.stream():
        if not piece:
            continue
        size += len(piece)
        if size > size_max:
            raise _Turned(Bad(413, f"at most {size_max} bytes", "too large"))
        take(len(piece))
        yield piece


async def _pieces(request: Request, size: int, take: Callable[[int], None]) -> list[bytes]:
    return [piece async for piece in _stream(request, size, take)]


def _answer(status: int, answer: Answer, wait_s: float = 0.0) -> Response:
    headers = {"retry-after": str(max(round(wait_s), 1))} if wait_s else None
    if status == 413:
        headers = {"connection": "close"}
    return Response(msgspec.json.encode(answer), status, headers, "application/json")
