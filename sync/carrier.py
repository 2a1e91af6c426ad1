"""Who carries parcels between a link and a decider? A loop, the same at both ends: take what has come, let the decider
work in one transaction, send what it says after the commit.

Rules of the file
  1  What comes is held in a queue of `QUEUE_BYTES`; when it is full nothing is taken from the link, and the line pushes
     back.
  2  What is urgent goes into the next transaction, up to `_URGENT_MAX` parcels of it; of the log and segments goes in what
     takes about `TURN_S`, so nobody's present waits longer than two turns for anybody's history. (A turn that took longer
     than sites wait for a word would make each of them begin again, and the next turn longer still.)
  3  Parcels of one lane leave in order. Nothing waits for a broker's answer: what is lost is sent again by the decider.
  4  A link that is down is no error here. A transaction that falls ends the sessions, and the loop goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from sync.link import Link, LinkDown, Parcel
from sync.messages import Lane

log = logging.getLogger(__name__)

QUEUE_BYTES = 3 * 1024 * 1024
TURN_S = 0.2
_BATCH_BYTES_MIN = 64 * 1024  # of the log and segments in one transaction
_BATCH_BYTES_MAX = 1536 * 1024
_TICK_S = 0.25
_URGENT_MAX = 1_024
_LOOK_S = 0.03  # while there is no line: a line that comes up is used at once
_SENDING_BYTES = 16 * 1024 * 1024  # handed to the link and not taken yet; beyond it the decider is not asked for more
_GATHER_S = 0.002

Work = Callable[[Sequence[Parcel]], Awaitable[Sequence[Parcel]]]


def paced(batch_bytes: int, size: int, took_s: float) -> int:
    """How much of the log and segments the next transaction may hold, for it to take `TURN_S`: the last one might have
    held `batch_bytes`, held `size` and took so long. It grows slowly: what compresses well is dear by the byte."""
    if 2 * size < batch_bytes:
        return batch_bytes  # that tells little
    fits = max(batch_bytes, size) * min(max(TURN_S / max(took_s, 0.001), 0.5), 1.25)
    return min(max(int(fits), _BATCH_BYTES_MIN), _BATCH_BYTES_MAX)


class Carrier:
    def __init__(self, link: Link, work: Work) -> None:
        self.link = link
        self._work = work
        self._urgent: deque[Parcel] = deque()
        self._queue: deque[Parcel] = deque()
        self._queued = 0
        self._batch_bytes = 4 * _BATCH_BYTES_MIN
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._sending = 0
        self._was_up = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """There may be something to say; from any thread."""
        self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Until cancelled."""
        await self.link.open()
        reader = asyncio.create_task(self._read())
        try:
            while True:
                await self._turn()
        finally:
            reader.cancel()
            for task in tuple(self._tasks):
                task.cancel()

    async def _read(self) -> None:
        while True:
            await self._room.wait()
            parcel = await self.link.receive()
            if parcel is None:
                return
            (self._urgent if parcel.lane <= Lane.SNAPSHOTS else self._queue).append(parcel)
            self._queued += len(parcel.data)
            if self._queued >= QUEUE_BYTES:
                self._room.clear()
            self._wake.set()

    async def _turn(self) -> None:
        try:
            async with asyncio.timeout(_TICK_S if self.link.up else _LOOK_S):
                await self._wake.wait()
            await asyncio.sleep(_GATHER_S)  # what comes together is one transaction
        except TimeoutError:
            pass
        if not self._wake.is_set() and self.link.up == self._was_up and not self._was_up:
            return
        self._was_up = self.link.up
        self._wake.clear()
        began = time.monotonic()
        batch = self._batch()
        said = await self._work(batch)
        size = sum(len(parcel.data) for parcel in batch if parcel.lane > Lane.SNAPSHOTS)
        self._batch_bytes = paced(self._batch_bytes, size, time.monotonic() - began)
        for parcel in said:
            self._send(parcel)
        if self._queue or self._urgent or self._sending > _SENDING_BYTES:
            self._wake.set()
        if self._sending > _SENDING_BYTES:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED, timeout=_TICK_S)
        late = time.monotonic() - began
        if late > 5:
            log.warning("a turn of the link took %.1f s", late)

    def _batch(self) -> Sequence[Parcel]:
        batch = [self._urgent.popleft() for _ in range(min(len(self._urgent), _URGENT_MAX))]
        self._queued -= sum(len(parcel.data) for parcel in batch)
        size = 0
        while self._queue and size < self._batch_bytes:
            parcel = self._queue.popleft()
            batch.append(parcel)
            size += len(parcel.data)
        self._queued -= size
        if self._queued < QUEUE_BYTES:
            self._room.set()
        return batch

    def _send(self, parcel: Parcel) -> None:
        self._sending += len(parcel.data)
        task = self._loop.create_task(self._sent(parcel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sent(self, parcel: Parcel) -> None:
        try:
            await self.link.send(parcel)
        except LinkDown as down:
            log.debug("not sent: %s", down)
        finally:
            self._sending -= len(parcel.data)
            if self._sending <= _SENDING_BYTES // 2:
                self._wake.set()
