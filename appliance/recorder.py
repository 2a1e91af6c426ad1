"""The recorder: the one thread that takes what waits at the gate and makes it durable, a frame at a time.

Rules of the file
  1  Whoever waits for an answer hears it after the commit, or hears that there was none.
  2  A batch that the disk refused is refused to those who wait, and counted as lost for those who cannot (UDP).
  3  While the disk refuses, the gate is shut; every half second one attempt is made to open it.
  4  What is stored is handed on to the interpreter, which may be slow: it can always read it back from the disk.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from appliance.intake.gate import Entry, Gate, Stored
from appliance.world import OWN_SOURCE
from fleet.limits import SECOND
from store.faults import Fault, StoreFault
from store.frames import Offer, Record
from store.supervisor import Loop
from store.telemetry import Telemetry

log = logging.getLogger(__name__)

LINGER_S = 0.2
_RETRY_S = 0.5


class Recorder:
    def __init__(
        self,
        gate: Gate,
        telemetry: Telemetry,
        *,
        stored: Callable[[Sequence[Record]], None],
        fault_turned: Callable[[StoreFault | None], None] = lambda fault: None,
        now_ns: Callable[[], int] = time.time_ns,
        linger_s: float = LINGER_S,
    ) -> None:
        self.commit_seconds: deque[float] = deque(maxlen=512)  # the last commits' durations, for the page
        self.lost: deque[tuple[str, str, int, int]] = deque(maxlen=4096)  # (intake, reason, messages, at_ns)
        self._gate, self._telemetry = gate, telemetry
        self._stored, self._fault_turned, self._now_ns, self._linger_s = stored, fault_turned, now_ns, linger_s
        self.loop = Loop("recorder", self._turn)

    def start(self) -> None:
        self.loop.start()

    @property
    def alive(self) -> bool:
        return self.loop.alive

    def join(self) -> None:
        """Wait until the closed gate is empty and the file is closed."""
        self.loop.join()

    def _turn(self) -> bool:
        if self._gate.closed and not self._gate.records:
            self._telemetry.close()
            return False
        if self._gate.fault is not None and not self._gate.closed:
            time.sleep(_RETRY_S)
            self._probe()
        batch = self._gate.take(self._linger_s)
        if batch:
            self._commit(batch)
        self._rotate()
        return True

    def _commit(self, batch: list[Entry]) -> None:
        offers = [offer for entry in batch for offer in entry.offers]
        if not offers:
            return
        started = time.perf_counter()
        try:
            records = self._telemetry.append(offers)
        except StoreFault as fault:
            self._fell(fault, batch)
            return
        self.commit_seconds.append(time.perf_counter() - started)
        first, now_ns = records[0].id, self._now_ns()
        for entry in batch:
            if entry.offers:
                took_s = (now_ns - entry.offers[0].at_ns) / SECOND
                self._gate.tally(entry.intake).durable.add(took_s, len(entry.offers))
            if entry.done is not None:
                entry.done(Stored(first, first + len(entry.offers) - 1))
            first += len(entry.offers)
        self._stored(records)

    def _fell(self, fault: StoreFault, batch: list[Entry]) -> None:
        log.error("%s (%s)", fault, fault.detail)
        if self._gate.fault is None:
            self._gate.fault = fault
            self._fault_turned(fault)
        for entry in batch:
            self._gate.tally(entry.intake).refused[fault.fault.value] += len(entry.offers)
            if entry.done is not None:
                entry.done(fault)
            else:
                self.lost.append((entry.intake, fault.fault.value, len(entry.offers), self._now_ns()))

    def _probe(self) -> None:
        """One real record decides whether the disk takes writes again; it says so for the reader of the file."""
        try:
            records = self._telemetry.append([Offer(self._now_ns(), OWN_SOURCE, b"the disk takes writes again")])
        except StoreFault as fault:
            self._gate.fault = fault
            return
        self._gate.fault = None
        self._fault_turned(None)
        self._stored(records)

    def _rotate(self) -> None:
        try:
            self._telemetry.rotate_if_due()
        except Exception as error:  # noqa: BLE001 - a failed checkpoint must not end the one thread that stores
            self._fell(StoreFault(Fault.IO, "telemetry", str(error)), [])
