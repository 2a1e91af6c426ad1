"""From a whole upload to records that are stored once: what happens between the finish and its answer.

Rules of the file
  1  Look first: a file that cannot be unpacked, or holds another number of lines than was said, stores nothing.
  2  Each line has a number, bad ones too; a bad one goes to quarantine, and its number is settled like the others'.
  3  Records are offered in order, a batch at a time, the next after the commit of the one before. A batch that the disk
     refused may have reached it: the marks of what is stored are read before anything is offered again.
  4  Cut off anywhere, it is run again from the note in site.db (`store.streams`), and stores only what is missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from appliance.intake import http
from appliance.intake.gate import Gate, Outcome, Stored
from appliance.intake.upload import Announcement
from fleet import limits, spans
from fleet.spans import Spans
from store import streams, uploads
from store.database import Writer
from store.faults import StoreFault
from store.frames import Offer
from store.streams import Delivery
from store.telemetry import History
from store.uploads import Part

log = logging.getLogger(__name__)
T = TypeVar("T")

INTAKE = "sensor"
_BATCH_RECORDS = 2_000
_BATCH_BYTES = 2 * 1024 * 1024
_PAUSE_S_MIN, _PAUSE_S_MAX = 0.1, 2.0
_RUNNING_MAX = 4  # side by side; each holds a batch and a piece of its file
_NAMED_MAX = 20  # refused lines that an answer names


class Cargo(NamedTuple):
    """One upload on its way into the records."""

    upload: str
    device: str
    source: str
    said: Announcement
    part: Part


class Done(msgspec.Struct, omit_defaults=True):
    first: int
    last: int
    stored: int
    refused: int = 0
    lines: list[dict[str, object]] = []


class Untrue(Exception):
    """The file is not what was announced; str() says what is wrong."""


class Delivering:
    def __init__(
        self,
        gate: Gate,
        site: Writer,
        history: History,
        quarantine: Callable[[str, str, str, bytes], None],
        pool: Executor,
        *,
        files: Path,
        tenant: str,
        newest: Callable[[], int],
        now_ns: Callable[[], int],
    ) -> None:
        self._gate, self._site, self._history, self._quarantine = gate, site, history, quarantine
        self._pool, self._files, self._tenant = pool, files, tenant
        self._newest, self._now_ns = newest, now_ns
        self._turn = asyncio.Semaphore(_RUNNING_MAX)

    async def check(self, cargo: Cargo) -> None:
        """Untrue unless the file is what was announced. StoreFault."""
        said = cargo.said
        digest = await self._away(partial(cargo.part.digest, said.bytes))
        if digest.hex() != said.sha256:
            raise Untrue("the whole has another SHA-256 than was announced; send it again from the start")
        if said.form == "file":
            return
        count = await self._away(partial(_count, cargo))
        if said.last and count != said.last - said.first + 1:
            raise Untrue(f"it holds {count} lines; {said.first} to {said.last} are {said.last - said.first + 1}")
        if not count:
            raise Untrue("it holds no record; send one JSON object a line")

    async def begin(self, cargo: Cargo) -> Delivery:
        """Note that it is about to be stored; from then on it will be, whatever happens."""
        after_id, now_ns = self._newest(), self._now_ns()
        return await self._site.write(lambda db: streams.begin(db, self._tenant, cargo.upload, after_id, now_ns))

    async def run(self, cargo: Cargo, note: Delivery) -> Done:
        """Store what is missing, and settle it. Does not give up while the disk refuses; Untrue when the file is gone or
        has changed since it was checked."""
        again = note.again
        async with self._turn:
            if cargo.said.form == "file":
                await self._away(partial(cargo.part.keep_as, self._files / cargo.said.sha256))
            pause_s = _PAUSE_S_MIN
            while True:
                try:
                    have = await self._have(cargo, note.after_id, again=again)
                    done = await self._store(cargo, have)
                    await self._settle(cargo, done)
                    return done
                except StoreFault as fault:
                    log.warning("upload %s waits: %s", cargo.upload, fault)
                except (uploads.Unreadable, OSError) as error:
                    raise Untrue(f"its file cannot be read any more: {error}") from error
                await asyncio.sleep(pause_s)
                again, pause_s = True, min(pause_s * 2, _PAUSE_S_MAX)

    async def _have(self, cargo: Cargo, after_id: int, *, again: bool) -> Spans:
        said, tenant = cargo.said, self._tenant
        have = (await self._site.write(lambda db: streams.held(db, tenant, cargo.device, said.stream))).all
        if again:
            read = partial(streams.stored, self._history, cargo.source, said.stream, after_id)
            for first, last in await self._away(read):
                have = spans.add(have, first, last)
        return have

    async def _store(self, cargo: Cargo, have: Spans) -> Done:
        said = cargo.said
        if said.form == "file":
            numbered: Iterator[tuple[int, bytes]] = iter([(said.first, _file_record(said))])
        else:
            numbered = enumerate(_lines(cargo), said.first)
        done = Done(said.first, said.first - 1, 0)
        while batch := await self._away(lambda: _batch(numbered)):
            offers: list[Offer] = []
            now_ns = self._now_ns()
            for number, raw, reason in batch:
                done.last = number
                if reason is not None:
                    self._refuse(cargo, number, raw, reason, done)
                elif not spans.holds(have, number, number):
                    offers.append(Offer(now_ns, cargo.source, raw, streams.marks(said.stream, number, said.doubt)))
            if offers:
                await self._offer(offers)
            done.stored += len(batch) - sum(reason is not None for *_, reason in batch)
        return done

    def _refuse(self, cargo: Cargo, number: int, raw: bytes, reason: http.Reason, done: Done) -> None:
        done.refused += 1
        if len(done.lines) < _NAMED_MAX:
            done.lines.append({"number": number, "reason": reason})
        self._gate.refuse(INTAKE, reason)
        self._quarantine(INTAKE, cargo.source, reason, raw)

    async def _offer(self, offers: list[Offer]) -> None:
        """Until they are stored. StoreFault when the disk refused: then some of them may be."""
        loop = asyncio.get_running_loop()
        pause_s = _PAUSE_S_MIN
        while True:
            outcome: asyncio.Future[Outcome] = loop.create_future()

            def done(result: Outcome, outcome: asyncio.Future[Outcome] = outcome) -> None:
                loop.call_soon_threadsafe(_settled, outcome, result)

            reason = self._gate.offer(INTAKE, offers, done)
            if reason is None:
                result = await outcome
                if isinstance(result, Stored):
                    return
                raise result
            if self._gate.fault is not None:
                raise self._gate.fault
            await asyncio.sleep(pause_s)  # full, or stopping: then this task ends, and the next start goes on
            pause_s = min(pause_s * 2, _PAUSE_S_MAX)

    async def _settle(self, cargo: Cargo, done: Done) -> None:
        said, now_ns = cargo.said, self._now_ns()
        await self._site.write(
            lambda db: streams.settle(
                db, self._tenant, cargo.device, said.stream, cargo.upload, said.first, done.last, said.floor, now_ns
            )
        )

    async def _away(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _settled(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)


def _lines(cargo: Cargo) -> Iterator[bytes]:
    return uploads.lines(
        cargo.part.path, cargo.said.encoding, limits.upload_inflated_bytes_max, limits.record_bytes_max
    )


def _count(cargo: Cargo) -> int:
    count = 0
    try:
        for _ in _lines(cargo):
            count += 1
            if count > limits.upload_records_max:
                raise Untrue(f"it holds more than {limits.upload_records_max} lines")
    except uploads.Unreadable as bad:
        raise Untrue(f"it cannot be read as {cargo.said.encoding}: {bad}") from bad
    return count


def _batch(numbered: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes, http.Reason | None]]:
    """The next lines, each with its number and what is wrong with it."""
    batch: list[tuple[int, bytes, http.Reason | None]] = []
    size = 0
    for number, raw in numbered:
        line = raw.strip(b" \t\r")
        batch.append((number, line, http.fault(line) if line else http.Reason.EMPTY))
        size += len(raw)
        if len(batch) >= _BATCH_RECORDS or size >= _BATCH_BYTES:
            break
    return batch


def _file_record(said: Announcement) -> bytes:
    """The record that stands for an opaque file; its bytes are `files/<sha256>`."""
    return msgspec.json.encode({"file": said.name, "file_sha256": said.sha256, "file_bytes": said.bytes})
