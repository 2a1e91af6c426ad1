"""The gate: the one bounded place between everything that arrives and the one thread that writes.

Name: gate. Bound: `limits.gate_records_max` records and `limits.gate_bytes_max` bytes. When full: the offer is refused
with a reason and counted; what that means is up to the intake (HTTP answers 429, TCP syslog waits and so pushes back,
UDP counts a loss). Nothing is taken in part.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fleet import limits
from fleet.histogram import Histogram
from store.faults import StoreFault
from store.frames import Offer


class Stored(NamedTuple):
    """The ids under which the records of one offer are on the disk."""

    first_id: int
    last_id: int


Outcome = Stored | StoreFault
Done = Callable[[Outcome], None]


class Entry(NamedTuple):
    intake: str
    offers: Sequence[Offer]
    size: int
    done: Done | None


class Tally:
    """Counts of one intake since the start of the process."""

    def __init__(self) -> None:
        self.records = 0
        self.points = 0  # what the records hold, where one holds many
        self.bytes_in = 0
        self.refused: Counter[str] = Counter()
        self.waiting = 0  # records at the gate now
        self.durable = Histogram()  # from when a record came to its commit


class Gate:
    def __init__(
        self,
        records_max: int = limits.gate_records_max,
        bytes_max: int = limits.gate_bytes_max,
        batch_max: int = limits.batch_records_max,
    ) -> None:
        self.records_max, self.bytes_max, self.batch_max = records_max, bytes_max, batch_max
        self.records = 0
        self.bytes = 0
        self.high_records = 0  # the deepest it has been
        self.tallies: dict[str, Tally] = {}
        self.fault: StoreFault | None = None  # while set, nothing is taken in
        self._entries: deque[Entry] = deque()
        self._wake = threading.Condition()
        self._urgent = 0
        self._closed = False

    def tally(self, intake: str) -> Tally:
        return self.tallies.get(intake) or self.tallies.setdefault(intake, Tally())

    def offer(self, intake: str, offers: Sequence[Offer], done: Done | None = None) -> str | None:
        """Take `offers` in, or refuse them all and say why in one word (full, or the disk's fault).

        `done` is called on the writing thread after the commit that holds them (Stored) or after it failed.
        """
        size, tally = sum(len(offer.raw) for offer in offers), self.tally(intake)
        with self._wake:
            reason = self._refusal(len(offers), size)
            if reason is None:
                self._entries.append(Entry(intake, offers, size, done))
                self.records += len(offers)
                tally.waiting += len(offers)
                self.bytes += size
                self.high_records = max(self.high_records, self.records)
                if done is not None:
                    self._urgent += 1
                self._wake.notify()
        if reason is None:
            tally.records += len(offers)
            tally.bytes_in += size
        else:
            tally.refused[reason] += len(offers)
        return reason

    def refuse(self, intake: str, reason: str, messages: int = 1) -> None:
        """Count messages that an intake turned away by itself."""
        self.tally(intake).refused[reason] += messages

    def take(self, linger_s: float) -> list[Entry]:
        """Everything that waits, up to one frame. Waits for a first entry; then, unless somebody waits for an answer,
        `linger_s` for more, so that frames are large. Empty after a while without entries, and when closed."""
        with self._wake:
            if not self._entries and not self._closed:
                self._wake.wait(0.5)
            if self._entries and not self._urgent and not self._closed and self.records < self.batch_max:
                self._wake.wait_for(lambda: self._urgent or self._closed or self.records >= self.batch_max, linger_s)
            return self._pop()

    def close(self) -> None:
        """Take nothing more; `take` empties what is left."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def _refusal(self, records: int, size: int) -> str | None:
        if self.fault is not None:
            return self.fault.fault.value
        if self._closed:
            return "stopping"
        full = self.records + records > self.records_max or self.bytes + size > self.bytes_max
        return "gate full" if full else None

    def _pop(self) -> list[Entry]:
        batch: list[Entry] = []
        records = size = 0
        while self._entries:
            entry = self._entries[0]
            over = records + len(entry.offers) > self.batch_max or size + entry.size > limits.frame_bytes_max
            if batch and over:
                break
            batch.append(self._entries.popleft())
            records += len(entry.offers)
            size += entry.size
            self.tally(entry.intake).waiting -= len(entry.offers)
            if entry.done is not None:
                self._urgent -= 1
        self.records -= records
        self.bytes -= size
        return batch
