"""How did a node's numbers go? Charts at the hub, from two springs: what sites tell of their present, folded as it comes, and
the files of charts that they seal and send, which bring the time in which no line was there.

    present → `told` (a bounded queue) → minutes in memory → series.db ← files of charts, verified, in custody

Rules of the file
  1  All of it can be made again or done without: it has a thread and a database of its own, stands in no transaction of
     the log, and a disk that refuses it stops nothing else. Which files were read stands in series.db beside what they
     brought, so a series.db that was lost is filled from them again.
  2  Everything is joined (`Window.join`): of a minute that is told twice the fuller telling stays. A site's own minute
     holds every number that the hub was told of it, and more; so it takes the place of what was folded here.
  3  A value counts once, at the time at which it was true at its site. A minute of which nothing was told has no point.
  4  A site charts its own nodes and no others.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from fleet import limits, series
from fleet.limits import DAY, MS, SECOND
from fleet.series import Point, Window
from hub.shelf import Turn
from hub.state import FleetHere
from store import peers, series_file
from store.database import connect_reader
from store.faults import Fault, StoreFault, fault_of
from store.folder import Folder
from store.series import SeriesStore
from store.supervisor import Loop
from store.telemetry import segment_path

log = logging.getLogger(__name__)

STEP_S = series_file.STEP_OF_HUB_S
BYTES_MAX = 4 * 1024**3  # of series.db; beyond it the oldest go
_QUEUE_PRESENTS_MAX = 8_192  # told and not folded yet; when full, what comes is not charted, and counted
_WINDOWS_MAX = 50_000  # in memory; when full they are written early, or, when the disk refuses, not begun
_TICK_S = 0.5
_SAVE_NS = 60 * SECOND
_GROWS_S = 120  # how long a minute is held in memory, to be told more of
_BATCH = 200  # windows in one transaction
_AHEAD_NS_MAX = DAY  # by how much a site's clock may be ahead and be charted
_TRIM_NS = 600 * SECOND
_SPARK_STEP_S, _SPARK_POINTS, _SPARKS_MAX = 120, 30, 10_000

Stored = tuple[str, Window]


class Charts:
    """`start`, then `stop` and `close`. `told` and `came` are for the lane's thread, the reads for pages."""

    def __init__(self, folder: Folder, fleet: FleetHere, now_ns: Callable[[], int]) -> None:
        self.problem = ""  # why nothing can be kept at the moment
        self.missed = 0  # nodes' presents, and windows, that found no room
        self._folder, self._fleet, self._now_ns = folder, fleet, now_ns
        self._store = _open(folder, now_ns())
        self._queue: deque[Sequence[Turn]] = deque()
        self._live: dict[str, dict[int, Window]] = {}  # by node and start: the minutes that may still grow
        self._changed: set[tuple[str, int]] = set()
        self._reading = threading.Lock()  # pages read what the thread folds
        self._files: deque[tuple[str, bytes]] = deque()
        self._look = True  # for files in custody that were not read
        self._sparks: dict[str, tuple[int, tuple[float | None, ...]]] = {}
        self._saved_ns = self._trimmed_ns = now_ns()
        self._wake = threading.Event()
        self._stopping = False
        self.loop = Loop("charts", self._turn)

    def start(self) -> None:
        self.loop.start()

    def stop(self) -> None:
        """Fold and save what was told, end."""
        self._stopping = True
        self._wake.set()
        self.loop.join()

    async def close(self) -> None:
        await self._store.close()

    # -- from the lane ------------------------------------------------------------------------------------------

    def told(self, turns: Sequence[Turn]) -> None:
        if len(self._queue) < _QUEUE_PRESENTS_MAX:
            self._queue.append(turns)
        else:
            self.missed += len(turns)

    def came(self) -> None:
        self._look = True

    # -- for pages ----------------------------------------------------------------------------------------------

    async def points(self, node_id: str, metric: str, from_s: int, to_s: int) -> list[Point]:
        """Ascending. StoreFault when they cannot be read."""
        windows = {window.start_s: window for window in await self._store.windows(node_id, from_s, to_s)}
        for window in self._live_of(node_id):
            windows.setdefault(window.start_s, Window(window.start_s)).join(window)
        return [point for start_s in sorted(windows) for point in windows[start_s].points(metric)]

    def _live_of(self, node_id: str) -> list[Window]:
        with self._reading:
            return [_copy(window) for window in self._live.get(node_id, {}).values()]

    async def sparks(self, node_ids: Sequence[str], metric: str) -> dict[str, tuple[float | None, ...]]:
        """The last hour of a metric in lines of a list, made anew every two minutes."""
        to_s = self._now_ns() // SECOND // _SPARK_STEP_S * _SPARK_STEP_S
        for node_id in node_ids:
            if self._sparks.get(node_id, (0, ()))[0] != to_s:
                if len(self._sparks) >= _SPARKS_MAX:
                    self._sparks.clear()
                self._sparks[node_id] = to_s, await self._spark(node_id, metric, to_s)
        return {node_id: self._sparks[node_id][1] for node_id in node_ids}

    async def _spark(self, node_id: str, metric: str, to_s: int) -> tuple[float | None, ...]:
        from_s = to_s - _SPARK_STEP_S * _SPARK_POINTS
        means = {
            (point.at_s - from_s) // _SPARK_STEP_S: point.mean
            for point in await self.points(node_id, metric, from_s, to_s)
        }
        return tuple(means.get(step) for step in range(_SPARK_POINTS)) if means else ()

    # -- the thread ---------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        self._wake.wait(_TICK_S)
        over = self._stopping  # before the queue: what was told until now is in it
        while self._queue:
            self._fold(self._queue.popleft())
        try:
            now_ns = self._now_ns()
            full = len(self._changed) >= _WINDOWS_MAX
            if over or full or not 0 <= now_ns - self._saved_ns < _SAVE_NS:
                self._save(now_ns // SECOND, everything=full)
                self._saved_ns = now_ns
            if not over:
                self._read_files()
                self._trim(now_ns)
            self.problem = ""
        except StoreFault as fault:
            if not self.problem:
                log.warning("charts are not kept now: %s (%s)", fault, fault.detail)
            self.problem = str(fault)
        return not over

    def _fold(self, turns: Iterable[Turn]) -> None:
        latest_ns = self._now_ns() + _AHEAD_NS_MAX
        for former, now in turns:
            for metric, value in now.values.items():
                before = former.values.get(metric) if former is not None else None
                if value is before or not limits.claimed_ns_min <= value.at_ns < latest_ns:
                    continue
                if before is not None and value.at_ns < before.at_ns + MS:  # times travel in milliseconds
                    continue
                if math.isfinite(value.value):
                    self._add(now.node_id, value.at_ns // SECOND, metric, value.value)

    def _add(self, node_id: str, at_s: int, metric: str, value: float) -> None:
        start_s = series.start_of(at_s)
        with self._reading:
            windows = self._live.setdefault(node_id, {})
            window = windows.get(start_s)
            if window is None:
                if self.problem and len(self._changed) >= _WINDOWS_MAX:
                    self.missed += 1
                    return
                window = windows[start_s] = Window(start_s)
            window.add(at_s // STEP_S * STEP_S, {metric: value})
        self._changed.add((node_id, start_s))

    def _save(self, now_s: int, *, everything: bool) -> None:
        """Write what has changed; then forget the minutes that will not grow any more, or all."""
        changed = iter(sorted(self._changed))  # by the key of the table: its pages come out full
        while keys := tuple(islice(changed, _BATCH)):
            self._store.join([(node_id, self._live[node_id][start_s]) for node_id, start_s in keys])
            self._changed.difference_update(keys)
            self._give_way()
        with self._reading:
            self._live = {} if everything else _recent(self._live, now_s - _GROWS_S)

    def _give_way(self) -> None:
        """Between two transactions: this can wait, the lane and the pages cannot."""
        if not self._stopping:
            self._wake.wait(0.02)

    # -- files of charts ----------------------------------------------------------------------------------------

    def _read_files(self) -> None:
        """One file, or as much of it as there is time for until the stop."""
        if self._look and not self._files:
            self._look = False
            self._files.extend(self._unread())
        if self._files:
            site, sha256 = self._files.popleft()
            try:
                self._read_file(site, sha256)
            except StoreFault:
                self._look = True
                raise

    def _unread(self) -> list[tuple[str, bytes]]:
        taken = self._store.taken()
        try:
            with closing(connect_reader(self._folder.site_db)) as db:
                return [one for one in peers.series_here(db) if one[1] not in taken]
        except sqlite3.DatabaseError as error:
            raise StoreFault(fault_of(error) or Fault.IO, self._folder.site_db.name, str(error)) from error

    def _read_file(self, site: str, sha256: bytes) -> None:
        try:
            found = self._of(site, segment_path(self._folder.segments, sha256))
            while batch := list(islice(found, _BATCH)):
                if self._stopping:
                    return
                self._store.join(batch)
                self._give_way()
        except OSError as error:
            log.warning("charts: %s cannot be read; it is tried again at the next start: %s", sha256.hex(), error)
            return
        except ValueError as error:
            log.warning("charts: a file of %s is passed over: %s", site, error)
        self._store.join((), sha256)

    def _of(self, site: str, path: Path) -> Iterator[Stored]:
        latest_s = (self._now_ns() + _AHEAD_NS_MAX) // SECOND
        for node_id, window in series_file.read(path):
            here = self._fleet.nodes.get(node_id)
            if here is not None and here.site == site and window.start_s < latest_s:
                yield node_id, window

    # -- its bound ----------------------------------------------------------------------------------------------

    def _trim(self, now_ns: int) -> None:
        if 0 <= now_ns - self._trimmed_ns < _TRIM_NS:
            return
        self._trimmed_ns = now_ns
        over = self._store.size() - BYTES_MAX
        oldest = self._store.oldest(over + BYTES_MAX // 20) if over > 0 else None
        if oldest is not None:
            log.info("charts: %d windows before %d are let go", oldest.windows, oldest.before_s)
            self._store.drop_before(oldest.before_s)


def _open(folder: Folder, now_ns: int) -> SeriesStore:
    """StoreFault when the disk refuses. A damaged file is put aside and begun anew."""
    path = folder.series_db
    try:
        return SeriesStore(path)
    except StoreFault as fault:
        if fault.fault is not Fault.DAMAGED:
            raise
        kept = folder.damaged / f"series-{now_ns}.db"
        path.rename(kept)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        log.error("%s; kept as damaged/%s, charts are made again from the files that sites sent", fault, kept.name)
        return SeriesStore(path)


def _copy(window: Window) -> Window:
    made = Window(window.start_s)
    made.steps = {
        metric: {step: list(told) for step, told in column.items()} for metric, column in window.steps.items()
    }
    return made


def _recent(live: dict[str, dict[int, Window]], from_s: int) -> dict[str, dict[int, Window]]:
    """The minutes that are not over before `from_s`."""
    kept: dict[str, dict[int, Window]] = {}
    for node_id, windows in live.items():
        for start_s, window in windows.items():
            first = (from_s - start_s) // series.STEP_S
            steps = {
                metric: {step: told for step, told in column.items() if step >= first}
                for metric, column in window.steps.items()
            }
            window.steps = {metric: column for metric, column in steps.items() if column}
            if window.steps:
                kept.setdefault(node_id, {})[start_s] = window
    return kept
