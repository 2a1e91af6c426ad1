"""The keeper: what becomes of raw telemetry after it is written, and of the bytes of this box.

Rules of the file
  1  Every step can be cut off anywhere and done again: what is to go goes after the commit of the event that says so,
     what is to stay is on the disk before it. Charts that are sealed for a hub are a copy, and may be sealed again.
  2  A step that the disk refuses is said in `last_error` and tried again at the next pass; the others go on.
  3  What was lost, and when a store could not be written, is remembered here until the log can take it.
  4  While the reserve is not on the disk, raw records wait: what is free then belongs to the log.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from appliance.intake.gate import Gate
from appliance.recorder import Recorder
from fleet import events, series
from fleet.limits import HOUR, MINUTE, SECOND
from store import budget, peers, sealer, series_file, telemetry
from store.budget import Bounds, DataClass, Shed, Usage
from store.database import Writer, connect_reader
from store.faults import Fault, StoreFault
from store.folder import Folder
from store.journal import Journal
from store.series import SeriesStore
from store.telemetry import Closed, Sealing, Segment, Telemetry
from web.ports import BudgetClass, BudgetView

log = logging.getLogger(__name__)

PERIOD_S = 5.0
_ANSWER_S = 60.0  # no transaction takes that long; a disk that hangs must not hang this loop for good
_LOSS_EVERY_NS = 10 * SECOND
_CHARTS_EVERY_NS = HOUR + series.WINDOW_S * SECOND  # of a site that took in no record meanwhile
_CHARTS_MAX = 36  # starts of windows in one file: six hours
_CHARTS_ROOM_BYTES = 64 * 1024 * 1024
_SHEDS_MAX = 64  # segments in one transaction; the rest goes at the next pass
_SCRUB_BYTES_PER_S = 4 * 1024 * 1024
_SAMPLE_NS = 20 * SECOND
_SAMPLES_MAX = 24 * 60 * MINUTE // _SAMPLE_NS
_WORDS_MAX = 500

# Intakes whose senders hear no answer and whose losses the gate counts, those of the recorder included.
_COUNTED_AT_GATE = frozenset({"syslog-udp"})

_SHEDS: dict[DataClass, str] = {
    DataClass.LOG: "never dropped",
    DataClass.RAW_OPEN: "sealed when an hour old or large, then as raw",
    DataClass.RAW: "oldest first: past the retention, or when the budget or the disk is full",
    DataClass.FILES: "files of devices, oldest first, once no raw segment is left; of what is still coming, at once",
    DataClass.SERIES: "oldest first, once no raw segment and no file is left",
    DataClass.DAMAGED: "oldest first, once nothing else is left",
    DataClass.RESERVE: "released when the disk is full, so that pages, sign-in and the log go on",
}


class _Outage(NamedTuple):
    """A store that could not be written, since when, until when; `said`: its failure stands in the log."""

    fault: StoreFault
    since_ns: int
    until_ns: int | None = None
    said: bool = False


class _Loss(NamedTuple):
    messages: int
    from_ns: int
    to_ns: int


class Keeper:
    """`start`, then `stop` while the stores are still open. `pass_once` is one round of everything."""

    def __init__(
        self,
        *,
        folder: Folder,
        telemetry: Telemetry,
        journal: Journal,
        site: Writer,
        series: SeriesStore,
        recorder: Recorder,
        gate: Gate,
        subject: str,
        budget_bytes: int,
        reserve_bytes: int,
        retention_ns: int,
        now_ns: Callable[[], int],
        clock_trusted: Callable[[], bool] = lambda: True,
        period_s: float = PERIOD_S,
    ) -> None:
        self.last_error: str | None = None
        self.bounds = Bounds(budget_bytes, budget.reserve_size(folder, reserve_bytes), retention_ns)
        self._folder, self._telemetry, self._journal, self._site = folder, telemetry, journal, site
        self._series, self._recorder, self._gate, self._subject = series, recorder, gate, subject
        self._now_ns, self._clock_trusted, self._period_s = now_ns, clock_trusted, period_s
        self._turning = threading.Lock()  # the outages, and who has the reserve
        self._outages: dict[str, _Outage] = {}
        self._losses: dict[tuple[str, str], _Loss] = {}
        self._told_ns: dict[tuple[str, str], int] = {}
        self._refused: dict[tuple[str, str], int] = {}
        self._counted_ns = now_ns()
        self._charts_due = False  # records were sealed since charts were
        self._scrubbed = -1
        self._scrub_due_ns = 0
        self._history: deque[tuple[int, int]] = deque(maxlen=_SAMPLES_MAX)
        self._view = self._viewed(Usage(), None, 0)
        self._recovered = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # -- from other threads -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Put right what a crash left, then keep house on a thread of its own. May be called again when it fell."""
        if self.alive:
            return
        self._stopping.clear()
        self._run_steps(self._now_ns(), (self._recover, self._mind_reserve, self._look))
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the loop and say what is still to be said."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._told_ns.clear()
        self._run_steps(self._now_ns(), (self._tell_outages, self._tell_losses))

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def fault_turned(self, store: str, fault: StoreFault | None) -> None:
        """A store fell (again), or can be written again. From any thread, at once; the log hears of it later."""
        now_ns = self._now_ns()
        with self._turning:
            held = self._outages.get(store)
            if fault is None:
                if held is not None:
                    self._outages[store] = held._replace(until_ns=now_ns)
                return
            self._outages[store] = held._replace(until_ns=None) if held else _Outage(fault, now_ns)
            if fault.fault is Fault.FULL and store == self._folder.site_db.name:
                self._telemetry.paused = True
                budget.release_reserve(self._folder)

    def budget_view_data(self) -> BudgetView:
        """The budget as of the last pass."""
        return self._view

    # -- the loop ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.pass_once(self._now_ns())
            self._stopping.wait(self._period_s)

    def pass_once(self, now_ns: int) -> None:
        steps = (
            self._recover,
            self._tell_outages,
            self._tell_losses,
            self._mind_reserve,
            self._shed,
            self._seal,
            self._seal_charts,
            self._scrub,
            self._look,
        )
        self._run_steps(now_ns, steps)

    def _run_steps(self, now_ns: int, steps: Sequence[Callable[[int], None]]) -> None:
        problems: list[str] = []
        for step in steps:
            try:
                step(now_ns)
            except StoreFault as fault:
                problems.append(f"{fault} ({fault.detail})")
            except (OSError, sqlite3.DatabaseError) as error:
                problems.append(str(error))
        if problems and problems[0] != self.last_error:
            log.warning("keeper: %s", "; ".join(problems))
        self.last_error = problems[0] if problems else None

    def _commit(self, job: Callable[[sqlite3.Connection], None]) -> None:
        self._site.submit(job).result(_ANSWER_S)

    def _stage(self, body: events.Body) -> None:
        self._journal.stage(self._subject, body)

    # -- after a crash ----------------------------------------------------------------------------------------

    def _recover(self, now_ns: int) -> None:
        if self._recovered:
            return
        self.sweep_orphans(now_ns)
        for partition in self._telemetry.closed_partitions():
            if partition.path in self._telemetry.unreadable:
                self._seal_one(partition, now_ns)
        self._recovered = True

    def sweep_orphans(self, now_ns: int) -> None:
        """Files that a crash left between two steps: half-written ones and those already let go are removed; a segment
        that nobody knows is entered if its records stand nowhere else."""
        for path in self._folder.segments.glob("*.new"):
            path.unlink()
        for path in self._folder.telemetry.iterdir():
            if path.name.endswith(("-wal", "-shm")) and not path.with_name(path.name[:-4]).exists():
                path.unlink(missing_ok=True)
        with closing(connect_reader(self._folder.site_db)) as db:
            for path in telemetry.strays(db, self._folder):
                self._sweep(db, path, now_ns)

    def _sweep(self, db: sqlite3.Connection, path: Path, now_ns: int) -> None:
        if series_file.is_one(path):
            path.unlink()  # its windows are still marked, and are sealed again
            return
        try:
            found = telemetry.inspect(path)
        except StoreFault as fault:
            if fault.fault is not Fault.DAMAGED:
                raise
            found = None
        if found is None or found.sha256.hex() != _name(path):
            path.rename(self._folder.damaged / path.name)
            kept_as = f"damaged/{path.name}"
            body = events.TelemetryDamaged(path.name, "no whole segment, and in no table", 0, 0, kept_as)
            self._commit(lambda db: self._stage(body))
        elif telemetry.was_let_go(db, found.sha256) or telemetry.holds_any(db, found.first_id, found.last_id):
            path.unlink()
        elif not any(one.first_id <= found.first_id <= one.last_id for one in self._telemetry.closed_partitions()):
            self._announce(Sealing((found,), (), ""), "", now_ns)
        # Otherwise its partition is still here: sealed again, it gets the same name, and a row.

    # -- sealing ----------------------------------------------------------------------------------------------

    def _seal(self, now_ns: int) -> None:
        refusal: StoreFault | None = None
        for partition in self._telemetry.closed_partitions():
            if self._stopping.is_set():
                break
            try:
                self._seal_one(partition, now_ns)
            except StoreFault as fault:  # one that cannot be read now must not hold up those behind it
                refusal = refusal or fault
        if refusal is not None:
            raise refusal

    def _seal_one(self, partition: Closed, now_ns: int) -> None:
        with closing(connect_reader(self._folder.site_db)) as db:
            upto, last_id, lost = telemetry.announced(db, partition)
        if upto < last_id:
            self._check_room(partition)
            wanted = partition._replace(last_id=last_id)
            sealing = sealer.seal(wanted, self._folder.segments, upto, cut_off=self._stopping.is_set)
            if sealing is None:
                return
            self._announce(sealing, partition.path.name, now_ns)
            lost = lost or bool(sealing.lost)
            upto = max([upto, *(one.last_id for one in sealing.sealed), *(last for _, last in sealing.lost)])
        self._clear_away(partition, upto, lost)

    def _check_room(self, partition: Closed) -> None:
        """A segment is smaller than its partition; with less room than that, letting go comes first."""
        if budget.disk_free(self._folder) < partition.path.stat().st_size:
            raise StoreFault(Fault.FULL, "segments", f"no room to seal {partition.path.name}")

    def _announce(self, sealing: Sealing, file: str, now_ns: int) -> None:
        def job(db: sqlite3.Connection) -> None:
            for one in sealing.sealed:
                telemetry.enter(db, one, now_ns)
                self._stage(events.SegmentSealed(*one[:7]))
            for first_id, last_id in sealing.lost:
                telemetry.enter_lost(db, first_id, last_id, now_ns)
                reason = sealing.reason[:_WORDS_MAX]
                self._stage(events.TelemetryDamaged(file, reason, first_id, last_id, f"damaged/{file}"))

        self._commit(job)
        self._charts_due = True

    def _seal_charts(self, now_ns: int) -> None:
        """For a hub: the charts of the time whose records were sealed, and what changed in older ones since."""
        due, self._charts_due = self._charts_due, False
        changed = self._series.unsealed(_CHARTS_MAX)
        with closing(connect_reader(self._folder.site_db)) as db:
            has_hub = peers.any_here(db)
        if not has_hub or not changed or not (due or changed[0].start_s * SECOND < now_ns - _CHARTS_EVERY_NS):
            return
        self._charts_due = True  # until it is done
        if budget.disk_free(self._folder) < _CHARTS_ROOM_BYTES:
            raise StoreFault(Fault.FULL, "segments", "no room to seal charts")
        starts = [one.start_s for one in changed]
        sealed = sealer.seal_series(self._series.path, starts, self._folder.segments, cut_off=self._stopping.is_set)
        if sealed is None:
            return
        if sealed.windows:
            self._commit(lambda db: self._announce_charts(db, sealed, now_ns))
        self._series.sealed(changed)
        self._charts_due = len(changed) == _CHARTS_MAX

    def _announce_charts(self, db: sqlite3.Connection, sealed: series_file.Sealed, now_ns: int) -> None:
        if telemetry.enter_series(db, sealed, now_ns):
            times = sealed.from_ns, sealed.to_ns
            self._stage(events.SegmentSealed(sealed.sha256, 0, 0, 0, *times, sealed.bytes_stored, "series"))

    def _clear_away(self, partition: Closed, upto: int, lost: bool) -> None:
        if lost:
            self._telemetry.set_aside(partition)
        else:
            self._telemetry.discard(partition, upto)

    # -- letting go -------------------------------------------------------------------------------------------

    def _shed(self, now_ns: int) -> None:
        usage = budget.usage(self._folder)
        sheds = self._plan(usage, now_ns, series_left=True)
        if any(shed.data_class is DataClass.SERIES for shed in sheds) and self._series.oldest(1) is None:
            sheds = self._plan(usage, now_ns, series_left=False)
        self._shed_segments([shed for shed in sheds if shed.segment is not None][:_SHEDS_MAX], now_ns)
        for shed in sheds:
            if shed.copy is not None:
                self._shed_copy(shed)
            elif shed.data_class is DataClass.SERIES:
                self._shed_series(shed)
        if budget.rotates(usage, self.bounds):
            self._telemetry.rotation_wanted = True

    def _plan(self, usage: Usage, now_ns: int, *, series_left: bool) -> list[Shed]:
        with closing(connect_reader(self._folder.site_db)) as db:
            has_hub, taken = peers.any_here(db), peers.held_by_hub(db)
            segments = [one._replace(in_custody=one.sha256 in taken) for one in telemetry.live(db)]
        return budget.plan(
            usage,
            self.bounds,
            now_ns,
            segments,
            budget.copies(self._folder),
            clock_trusted=self._clock_trusted(),
            series_left=series_left,
            has_hub=has_hub,
            files=budget.files(self._folder),
        )

    def _segments(self) -> list[Segment]:
        with closing(connect_reader(self._folder.site_db)) as db:
            return telemetry.live(db)

    def _shed_segments(self, sheds: Sequence[Shed], now_ns: int) -> None:
        if not sheds:
            return

        def job(db: sqlite3.Connection) -> None:
            for shed in sheds:
                one = shed.segment
                if one is not None and telemetry.drop(db, one.first_id, now_ns):
                    self._stage(one.dropped(shed.reason))

        self._commit(job)
        self._unlink([shed.segment for shed in sheds if shed.segment is not None])

    def _unlink(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            telemetry.segment_path(self._folder.segments, segment.sha256).unlink(missing_ok=True)

    def _shed_series(self, shed: Shed) -> None:
        oldest = self._series.oldest(shed.bytes_freed)
        if oldest is None:
            return
        times = oldest.from_s * SECOND, oldest.before_s * SECOND
        body = events.TelemetryDropped("series", shed.reason, 0, 0, oldest.windows, oldest.bytes_stored, *times)
        self._commit(lambda db: self._stage(body))
        self._series.drop_before(oldest.before_s)

    def _shed_copy(self, shed: Shed) -> None:
        assert shed.copy is not None
        name, size, kept_ns = shed.copy
        body = events.TelemetryDropped(str(shed.data_class), f"{shed.reason}: {name}", 0, 0, 0, size, kept_ns, kept_ns)
        self._commit(lambda db: self._stage(body))
        folder = self._folder.files if shed.data_class is DataClass.FILES else self._folder.damaged
        (folder / name).unlink(missing_ok=True)

    # -- the reserve ------------------------------------------------------------------------------------------

    def _mind_reserve(self, now_ns: int) -> None:
        with self._turning:
            held = budget.hold_reserve(self._folder, self.bounds.reserve_bytes)
            self._telemetry.paused = not held

    # -- saying what happened ---------------------------------------------------------------------------------

    def _tell_outages(self, now_ns: int) -> None:
        with self._turning:
            outages = tuple(self._outages.items())
        for store, outage in outages:
            bodies: list[events.Body] = []
            if not outage.said:
                bodies.append(events.StorageFailed(store, outage.fault.fault, outage.fault.detail[:_WORDS_MAX]))
            if outage.until_ns is not None:
                bodies.append(events.StorageRecovered(store, max(outage.until_ns - outage.since_ns, 0)))
            if bodies:
                self._commit(lambda db, store=store, bodies=bodies: self._stage_all(store, bodies))  # type: ignore[misc]
                self._said(store, outage)

    def _stage_all(self, subject: str, bodies: Sequence[events.Body]) -> None:
        for body in bodies:
            self._journal.stage(subject, body)

    def _said(self, store: str, told: _Outage) -> None:
        """`told` stands in the log; what turned meanwhile is told next time."""
        with self._turning:
            held = self._outages[store]
            if told.until_ns is None:
                self._outages[store] = held._replace(said=True)
            elif held == told:
                del self._outages[store]
            else:
                self._outages[store] = _Outage(held.fault, told.until_ns, held.until_ns)

    def _tell_losses(self, now_ns: int) -> None:
        self._count_losses(now_ns)
        waits = {key for key, told_ns in self._told_ns.items() if abs(now_ns - told_ns) < _LOSS_EVERY_NS}
        due = {key: loss for key, loss in self._losses.items() if key not in waits}
        if not due:
            return

        def job(db: sqlite3.Connection) -> None:
            for (intake, reason), loss in due.items():
                self._stage(events.IntakeRefused(intake, reason, *loss))

        self._commit(job)
        for key in due:
            del self._losses[key]
            self._told_ns[key] = now_ns

    def _count_losses(self, now_ns: int) -> None:
        while self._recorder.lost:
            intake, reason, messages, at_ns = self._recorder.lost.popleft()
            if intake not in _COUNTED_AT_GATE:
                self._lose((intake, reason), _Loss(messages, at_ns, at_ns))
        for intake in _COUNTED_AT_GATE & self._gate.tallies.keys():
            for reason, count in tuple(self._gate.tallies[intake].refused.items()):
                key = intake, reason
                if count > self._refused.get(key, 0):
                    self._lose(key, _Loss(count - self._refused.get(key, 0), self._counted_ns, now_ns))
                    self._refused[key] = count
        self._counted_ns = now_ns

    def _lose(self, key: tuple[str, str], loss: _Loss) -> None:
        held = self._losses.get(key, loss._replace(messages=0))
        self._losses[key] = _Loss(
            held.messages + loss.messages, min(held.from_ns, loss.from_ns), max(held.to_ns, loss.to_ns)
        )

    # -- looking after what is sealed -------------------------------------------------------------------------

    def _scrub(self, now_ns: int) -> None:
        """Read one segment back, the one not read for longest, as slowly as `_SCRUB_BYTES_PER_S` says."""
        segments = self._segments()
        if not segments or 0 < self._scrub_due_ns - now_ns < 60 * MINUTE:
            return
        segment = next((one for one in segments if one.first_id > self._scrubbed), segments[0])
        self._scrubbed = segment.first_id  # first: one that cannot be read now must not hold up the others
        self._scrub_due_ns = now_ns + segment.bytes_stored * SECOND // _SCRUB_BYTES_PER_S
        path = telemetry.segment_path(self._folder.segments, segment.sha256)
        if not telemetry.intact(path, segment.sha256):
            self._give_up(segment, path, now_ns)

    def _give_up(self, segment: Segment, path: Path, now_ns: int) -> None:
        kept = self._folder.damaged / path.name
        if path.exists():
            path.rename(kept)
        kept_as = f"damaged/{kept.name}" if kept.exists() else ""
        reason = "its bytes are not those it is named by" if kept_as else "the file is gone"

        def job(db: sqlite3.Connection) -> None:
            if telemetry.drop(db, segment.first_id, now_ns, damaged=True):
                self._stage(events.TelemetryDamaged(path.name, reason, *segment.ids, kept_as))

        self._commit(job)
        log.error("keeper: segment %s: %s", path.name, reason)

    # -- the view ---------------------------------------------------------------------------------------------

    def _look(self, now_ns: int) -> None:
        usage = budget.usage(self._folder)
        with closing(connect_reader(self._folder.site_db)) as db:
            gone, segments = telemetry.let_go(db), telemetry.live(db)
        self._sample(now_ns, usage.used - usage.reserve + gone.bytes_freed)
        self._view = self._viewed(usage, self._oldest_ns(segments), gone.records)

    def _oldest_ns(self, segments: Sequence[Segment]) -> int | None:
        oldest = next((one for one in segments if not one.is_series), None)
        if oldest is not None:
            return oldest.from_ns
        for partition in self._telemetry.partitions()[:1]:
            with closing(telemetry.partition_frames(partition.path)) as found:
                return next((frame.from_ns for frame in found), None)
        return None

    def _sample(self, now_ns: int, written: int) -> None:
        if self._history and now_ns < self._history[-1][0]:
            self._history.clear()  # the clock went back
        if not self._history or now_ns - self._history[-1][0] >= _SAMPLE_NS:
            self._history.append((now_ns, written))

    def _viewed(self, usage: Usage, oldest_ns: int | None, shed_records: int) -> BudgetView:
        future = budget.forecast(self._history, self.bounds.budget_bytes - usage.used)
        return BudgetView(
            budget_bytes=self.bounds.budget_bytes,
            used_bytes=usage.used,
            disk_free_bytes=usage.disk_free,
            reserve_bytes=usage.reserve,
            classes=tuple(BudgetClass(name=one, bytes_used=usage.of(one), sheds=_SHEDS[one]) for one in DataClass),
            growth_bytes_per_day=future.growth_bytes_per_day,
            full_in_s=future.full_in_s,
            oldest_record_ns=oldest_ns,
            shed_records=shed_records,
        )


def _name(path: Path) -> str:
    return path.name.removesuffix(".jsonl.zst")
