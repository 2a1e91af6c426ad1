"""The interpreter: reads what the recorder stored, and keeps the world of the site in step with it.

Rules of the file
  1  One thread owns the world; commands and echoes come in through `post`.
  2  What is handed over in memory is a courtesy. `World.cursor` says where reading stands, and what is missing is
     read back from the disk, after a restart and when intake is faster than reading alike.
  3  Turns of state, and the rows of the nodes they concern, are one transaction of site.db. Values are saved now and
     then: what is lost in a crash is read again, and every fold skips what it already holds.
  4  A record that cannot be read changes nothing and stays where it is; the reason is counted, and one example of
     each goes to quarantine.
"""

from __future__ import annotations

import heapq
import logging
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from appliance import evaluator
from appliance.evaluator import Bounds
from appliance.intake.bridge_topics import RETAINED
from appliance.intake.ping import Bounds as PingBounds
from appliance.intake.ping import Echo, advance
from appliance.pages import Pages
from appliance.world import (
    OWN_SOURCE,
    SPARK_STEP_NS,
    NodeState,
    Parse,
    Saved,
    SourceState,
    World,
    source_key,
)
from fleet import lifecycle, limits, series, signs, snapshot
from fleet.connectivity import Reach
from fleet.events import Body, LifecycleMoved, SourceClaimed
from fleet.lifecycle import Phase
from fleet.limits import SECOND
from fleet.node import Node
from fleet.reading import Reading
from store.database import Writer
from store.faults import StoreFault
from store.frames import Record
from store.journal import Journal
from store.series import SeriesStore
from store.supervisor import Loop
from store.telemetry import History

log = logging.getLogger(__name__)

_HANDED_RECORDS_MAX = 40_000  # beyond it batches are read back from the disk instead of waiting in memory
_HANDED_BYTES_MAX = 32 * 1024 * 1024
_SAVE_NS = 10 * SECOND
_SERIES_NS = 120 * SECOND
_TICK_NS = SECOND // 4
_JUST_NS = 5 * SECOND
_STOP_S = 3.0
_READ_RECORDS = 4_096
_SAMPLE_BYTES = 512
_NEWCOMER_RECORDS = 64  # of one that is about to become a node; what came before them is not in its first values
_NEWCOMER_BYTES_MAX = 8 * 1024 * 1024  # of all of them

REPEATED = "repeated"  # the mark of a record whose message had come before

Quarantine = Callable[[str, str, str, bytes], None]


class Interpreter:
    def __init__(
        self,
        world: World,
        journal: Journal,
        site: Writer,
        store: SeriesStore,
        history: History,
        parsers: Mapping[str, Parse],
        *,
        bounds: Bounds,
        ping_bounds: PingBounds,
        steady_ns: Callable[[], int],
        tenant: str,
        quarantine: Quarantine,
        wall_ns: Callable[[], int] | None = None,  # what stamps records; the steady clock if not given
        stale: Callable[[str], None] = lambda topic: None,
        busy: Callable[[], bool] = lambda: False,
        pages: Pages | None = None,
    ) -> None:
        self.world = world
        self.unread: Counter[str] = Counter()  # records that gave no reading, by mark
        self.repeated: Counter[str] = Counter()  # messages that had come before, by intake
        self.interpreted = 0
        self.newest = world.cursor  # the last record that is stored
        self._journal, self._site, self._store, self._history = journal, site, store, history
        self._parsers, self._bounds, self._ping_bounds = parsers, bounds, ping_bounds
        self._steady_ns, self._wall_ns = steady_ns, wall_ns or steady_ns
        self._tenant, self._quarantine = tenant, quarantine
        self._stale, self._busy = stale, busy
        self._pages = pages or Pages()
        self._handed: deque[Sequence[Record]] = deque()
        self._handed_records = 0
        self._handed_bytes = 0
        self._posts: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._stopping_since = 0.0
        self._turns: list[tuple[str, Body]] = []
        self._repeats = signs.Repeats(limits.mids_max)
        self._activating: set[str] = set()  # nodes whose first step to ACTIVE waits among the turns
        self.newcomer: Callable[[str], None] = lambda source: None  # told of a source behind a gateway that is new
        self._newcomers: dict[str, list[Record]] = {}  # what they said until they are nodes, by sender
        self._newcomer_bytes = 0
        self._forgotten: list[str] = []
        self._saved_ns = self._series_ns = self._ticked_ns = steady_ns()
        self.loop = Loop("interpreter", self._turn)

    # -- from other threads -----------------------------------------------------------------------------------

    def start(self) -> None:
        self.loop.start()

    @property
    def alive(self) -> bool:
        return self.loop.alive

    @property
    def waiting(self) -> int:
        """Stored records that are not interpreted yet."""
        return max(self.newest - self.world.cursor, 0)

    def stored(self, records: Sequence[Record]) -> None:
        """The recorder committed these."""
        if self._handed_records < _HANDED_RECORDS_MAX and self._handed_bytes < _HANDED_BYTES_MAX:
            self._handed_records += len(records)
            self._handed_bytes += _size(records)
            self._handed.append(records)
        self.newest = records[-1].id
        self._wake.set()

    def post(self, change: Callable[[], None]) -> None:
        """Run `change` on the interpreter's thread, in order."""
        self._posts.append(change)
        self._wake.set()

    def echoes(self, echoes: Sequence[Echo]) -> None:
        self.post(lambda: self._echoes(echoes))

    def enter(self, node: Node, source: str, past: Sequence[Record]) -> None:
        """A node was adopted: on this thread, give it its sources and the latest of its past (oldest first). The source
        may be one that has not spoken yet."""
        key, now_ns = source_key(source), time.time_ns()
        self.world.sources.setdefault(source, SourceState(key, node.id, now_ns, now_ns, 0, 0, b""))
        state = NodeState(node, evaluator.Standing(), snapshot.Snapshot(), place=lifecycle.Place(Phase.ENROLLED))
        self.world.nodes[node.id] = state
        self.world.claim(key.sender, node.id)
        for record in past:
            held = self.world.sources.get(record.source)
            if held is not None:  # the past fills the values; only its last word is a turn of state
                self._interpret(state, record, held, self._steady_ns(), judge=record is past[-1])
        self._stale("site")
        self._stale("intake")

    def enter_newcomer(self, node: Node, source: str) -> None:
        """`enter` for one behind a gateway: all its past is what it said since it was first spoken of."""
        self.enter(node, source, self._no_newcomer(source_key(source).sender))

    def forget_newcomer(self, sender: str) -> None:
        """It will not be a node by itself."""

        def forget() -> None:
            self._no_newcomer(sender)

        self.post(forget)

    def _no_newcomer(self, sender: str) -> list[Record]:
        held = self._newcomers.pop(sender, [])
        self._newcomer_bytes -= _size(held)
        return held

    def stop(self) -> None:
        """Read what is stored, as far as that is quick (the next start reads on), save, end."""
        self._stopping_since = time.monotonic()
        self._stopping = True
        self._wake.set()
        self.loop.join()

    # -- the thread -------------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        self._wake.wait(_TICK_NS / SECOND)
        self._wake.clear()
        while self._posts:
            self._posts.popleft()()
        batch = self._next_batch()
        if batch:
            self._read(batch)
            if self.waiting:
                self._wake.set()
                if self._busy():  # intake first: what arrives cannot wait, what is stored can
                    time.sleep(0.02)
        self._tick()
        self._commit_turns()
        late = self._stopping and time.monotonic() - self._stopping_since > _STOP_S
        over = self._stopping and not self._posts and (not self.waiting or late)
        self._save(final=over)
        return not over

    def _next_batch(self) -> Sequence[Record]:
        """The records right after the cursor: as handed over, or else from the disk."""
        while self._handed:
            batch = self._handed.popleft()
            self._handed_records -= len(batch)
            self._handed_bytes -= _size(batch)
            if batch[-1].id <= self.world.cursor:
                continue
            if batch[0].id <= self.world.cursor + 1:
                return batch
            self._handed.appendleft(batch)
            self._handed_records += len(batch)
            self._handed_bytes += _size(batch)
            break
        if self.world.cursor >= self.newest:
            return ()
        try:
            page = self._history.after(self.world.cursor, _READ_RECORDS)
        except StoreFault as fault:
            log.error("reading back: %s (%s)", fault, fault.detail)
            if not self._handed:
                return ()
            self.world.cursor = self._handed[0][0].id - 1  # what is damaged is reported by its own event
            return ()
        if not page.records:
            self.world.cursor = max(page.scanned, self.world.cursor)
            if self._handed and page.scanned <= self.world.cursor:
                self.world.cursor = max(self.world.cursor, self._handed[0][0].id - 1)  # a jump in the ids
        return page.records

    def _read(self, records: Sequence[Record]) -> None:
        now_ns = self._steady_ns()
        world, touched = self.world, set()
        for record in self._pages.first(records):
            if record.id <= world.cursor:
                continue
            world.cursor = record.id
            if record.source == OWN_SOURCE:
                continue
            source = world.sources.get(record.source)
            if source is None:
                source = self._new_source(record)
            if record.id > source.last_record:
                source.last_record, source.last_ns, source.dirty = record.id, record.at, True
                source.records += 1
            node_id = source.node_id
            if node_id is None:
                if self._newcomers:
                    self._keep_for_newcomer(source.key.sender, record)
                continue
            state = world.nodes[node_id]
            self._interpret(state, record, source, now_ns)
            touched.add(node_id)
        self.interpreted += len(records)
        for node_id in touched:
            self._stale(f"node:{node_id}")
        if touched:
            self._stale("site")

    def _new_source(self, record: Record) -> SourceState:
        if len(self.world.sources) >= limits.sources_max:
            self._forget_sources()
        key = source_key(record.source)
        node_id = self.world.claims.get(key.sender)
        source = SourceState(key, node_id, record.at, record.at, 0, 0, record.content[:_SAMPLE_BYTES])
        self.world.sources[record.source] = source
        if node_id is not None:
            self._turns.append((node_id, SourceClaimed(record.source, node_id, "same sender")))
        elif key.address[:1] == "@" and key.name:  # only the doorkeeper's devices have such addresses
            self._newcomers.setdefault(key.sender, [])
            self.newcomer(record.source)
        self._stale("intake")
        return source

    def _keep_for_newcomer(self, sender: str, record: Record) -> None:
        held, size = self._newcomers.get(sender), _size((record,))
        if held is None or len(held) >= _NEWCOMER_RECORDS or self._newcomer_bytes + size > _NEWCOMER_BYTES_MAX:
            return
        held.append(record)
        self._newcomer_bytes += size

    def _forget_sources(self) -> None:
        """A flood of invented senders must not fill the memory: a tenth of those nobody claims goes, longest silent
        first. Their records stay."""
        unclaimed = [(source.last_ns, text) for text, source in self.world.sources.items() if source.node_id is None]
        doomed = [text for _, text in heapq.nsmallest(max(len(unclaimed) // 10, 1), unclaimed)]
        for text in doomed:
            del self.world.sources[text]
        self.unread["source forgotten"] += len(doomed)
        self._forgotten += doomed

    def _interpret(
        self, state: NodeState, record: Record, source: SourceState, now_ns: int, *, judge: bool = True
    ) -> None:
        parse = self._parsers.get(source.key.intake)
        if parse is None:
            return
        if RETAINED in record.marks:  # how old it is nobody knows: no sign of life, and nothing beside what is known
            judge = False
            if state.standing.spoke_ns:
                return
        try:
            reading = parse(record.content, record.at)
        except Exception as error:
            log.exception("record %d cannot be read", record.id)
            reading = Reading(marks=("unparsed",), text=str(error)[:200])
        if record.id > state.snapshot.record:
            reading = self._signs(state, record, source, reading)
        for mark in reading.marks:
            self.unread[mark] += 1
            if mark == "unparsed" and self.unread[mark] <= limits.quarantine_samples_max:
                self._quarantine(source.key.intake, record.source, mark, record.content)
        # What just came is judged by the steady clock; what is read back later, by when it came.
        came_ns = record.at - (self._wall_ns() - now_ns)  # by the steady clock, whatever the wall clock did meanwhile
        at_ns = now_ns if abs(now_ns - came_ns) < _JUST_NS else min(came_ns, now_ns)
        turns: list[Body] = []
        if judge:
            turns = evaluator.spoke(state.standing, at_ns, record.id, source.key.intake, reading, self._bounds)
        if turns:
            self._turns += [(state.node.id, turn) for turn in turns]
            if state.place.phase is Phase.ENROLLED and state.node.id not in self._activating:
                self._activating.add(state.node.id)
                self._turns.append((state.node.id, LifecycleMoved(Phase.ENROLLED, Phase.ACTIVE, "first heard")))
        if record.id > state.snapshot.record:
            snapshot.fold(state.snapshot, record.id, record.at, record.source, reading)
            state.dirty = True
        if record.id > self._store.record and reading.metrics:
            for metrics in reading.samples or (reading.metrics,):
                self._chart(state, record.at // SECOND, metrics)

    def _signs(self, state: NodeState, record: Record, source: SourceState, reading: Reading) -> Reading:
        """Note what the record tells of the way it came. One that came before is a sign of life and says nothing new:
        what it told then may be older than what is known now (docs/decisions/0021)."""
        if reading.mid is None or not self._repeats.seen(state.node.id, reading.mid):
            signs.add(state.signs, record.at, reading)
            return reading
        signs.add_repeated(state.signs, record.at)
        self.repeated[source.key.intake] += 1
        return Reading(mid=reading.mid, marks=(REPEATED,))

    def _chart(self, state: NodeState, at_s: int, metrics: Mapping[str, float]) -> None:
        start_s = series.start_of(at_s)
        if state.window is None or state.window.start_s != start_s:
            if state.window is not None:
                state.closed.append(state.window)
            held = next((window for window in state.closed if window.start_s == start_s), None)
            if held is not None:
                state.closed.remove(held)
            state.window = held or self._store.load(state.node.id, start_s) or series.Window(start_s)
        state.window.add(at_s, metrics)

    def _echoes(self, echoes: Sequence[Echo]) -> None:
        now_ns = self._steady_ns()
        by_address = {echo.address: echo for echo in echoes}
        for node_id, state in self._pages.first(self.world.nodes.items()):
            endpoint = next((point.address for point in state.node.endpoints), None)
            echo = by_address.get(endpoint) if endpoint else None
            if echo is None:
                continue
            state.ping, state.ping_ns = advance(state.ping, echo, self._ping_bounds), now_ns
            ping, slow = state.ping, state.ping.reach is Reach.DEGRADED
            if echo.rtt_ms is not None:
                turns = evaluator.echoed(state.standing, now_ns, slow, ping.rtt_ms, ping.loss_pct, self._bounds)
                metrics = {"rtt_ms": echo.rtt_ms, "loss_pct": ping.loss_pct}
            else:
                turns = evaluator.unanswered(state.standing, now_ns, slow, ping.rtt_ms, ping.loss_pct)
                metrics = {"loss_pct": ping.loss_pct}
            self._chart(state, time.time_ns() // SECOND, metrics)
            self._turns += [(node_id, turn) for turn in turns]
            self._stale(f"node:{node_id}")
        self._stale("site")

    def _tick(self) -> None:
        now_ns = self._steady_ns()
        if now_ns - self._ticked_ns < SECOND or self.waiting > _READ_RECORDS:
            return  # silence is judged only when everything that was said has been read
        self._ticked_ns = now_ns
        for node_id, state in self._pages.first(self.world.nodes.items()):
            if state.place.phase is Phase.RETIRED:
                continue
            self._turns += [(node_id, turn) for turn in evaluator.tick(state.standing, now_ns, self._bounds)]
            if now_ns - state.spark_ns >= SPARK_STEP_NS:
                battery = state.snapshot.values.get("battery_pct")
                fresh = battery is not None and now_ns - battery.at_ns < SPARK_STEP_NS
                state.spark.append(battery.value if battery is not None and fresh else None)
                state.spark_ns = now_ns

    def _commit_turns(self) -> None:
        """Turns and the rows of their nodes, in one transaction; on a fault they stay and are tried again."""
        if not self._turns:
            return
        turns = tuple(self._turns)  # all of them: a node's row must not run ahead of its events
        nodes = self.world.nodes
        rows = [_row(node_id, nodes[node_id]) for node_id in {subject for subject, _ in turns} if node_id in nodes]

        def job(db: sqlite3.Connection) -> None:
            for subject, body in turns:
                self._journal.stage(subject, body)
            db.executemany(_SAVE_ROW, rows)

        try:
            self._site.submit(job).result()
        except StoreFault:
            time.sleep(0.1)
            return
        del self._turns[: len(turns)]
        for node_id, body in turns:
            if isinstance(body, LifecycleMoved):
                self._activated(node_id)
            self._stale(f"node:{node_id}")
        self._stale("site")
        self._stale("journal")

    def _activated(self, node_id: str) -> None:
        """Only now: a person who moves the node on must find the step that led here in the log before theirs."""
        self._activating.discard(node_id)
        state = self.world.nodes.get(node_id)
        if state is not None and state.place.phase is Phase.ENROLLED:
            state.place = lifecycle.Place(Phase.ACTIVE)

    def _save(self, *, final: bool) -> None:
        now_ns = self._steady_ns()
        try:
            if final or now_ns - self._series_ns >= _SERIES_NS:
                self._series_ns = now_ns
                self._save_series()
            if not self._turns and (final or now_ns - self._saved_ns >= _SAVE_NS):
                self._saved_ns = now_ns
                self._save_values()
        except StoreFault as fault:
            log.warning("values are not saved now: %s", fault)

    def _save_values(self) -> None:
        nodes = [(node_id, state) for node_id, state in self.world.nodes.items() if state.dirty]
        sources = [(text, source) for text, source in self.world.sources.items() if source.dirty]
        rows = [_row(node_id, state) for node_id, state in self._pages.first(nodes)]
        source_rows = [
            (
                text,
                self._tenant,
                source.node_id,
                source.first_ns,
                source.last_ns,
                source.records,
                source.last_record,
                source.sample,
            )
            for text, source in self._pages.first(sources)
        ]
        cursor, forgotten = self.world.cursor, [(text,) for text in self._forgotten]

        def job(db: sqlite3.Connection) -> None:
            db.executemany(_SAVE_ROW, rows)
            db.executemany("DELETE FROM source WHERE key=? AND node_id IS NULL", forgotten)
            db.executemany(_SAVE_SOURCE, source_rows)
            db.execute(_SAVE_CURSOR, (str(cursor),))

        self._site.submit(job).result()
        for _, state in nodes:
            state.dirty = False
        for _, source in sources:
            source.dirty = False
        del self._forgotten[: len(forgotten)]

    def _save_series(self) -> None:
        windows = [
            (node_id, window)
            for node_id, state in self.world.nodes.items()
            for window in (*state.closed, *([state.window] if state.window else ()))
        ]
        self._store.save(self._pages.first(windows), self.world.cursor)
        for state in self.world.nodes.values():
            state.closed.clear()


def _size(records: Sequence[Record]) -> int:
    return sum([len(record.raw or record.raw_b64 or b"") for record in records])


def _row(node_id: str, state: NodeState) -> tuple[str, bytes]:
    return node_id, msgspec.msgpack.encode(Saved(state.standing, state.snapshot))


_SAVE_ROW = "INSERT INTO snapshot VALUES (?,?) ON CONFLICT DO UPDATE SET body=excluded.body"
_SAVE_SOURCE = (
    "INSERT INTO source VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET"  # node_id is the commands'
    " last_ns=excluded.last_ns, records=excluded.records, last_record=excluded.last_record, sample=excluded.sample"
)
_SAVE_CURSOR = "INSERT INTO meta VALUES ('cursor', ?) ON CONFLICT DO UPDATE SET value=excluded.value"
