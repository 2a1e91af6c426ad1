"""A hub, sites, lines and everything that goes wrong between them, in one thread and in virtual time.

The core is real: the deciders, the shelves, the journal, SQLite. Pretended are the clock, the lines, and when a process
ends. A run is a function of its seed: the same seed makes the same bytes at the same instants (`World.hash`).

Rules of the file
  1  Nothing here asks the machine for time or chance.
  2  The ledger (`tests.simulation.ledger`) sees what producers did and what a commit answered, and nothing of the boxes.
  3  A line keeps the order within a lane, as the port promises (`sync.link`); a repeated parcel may come much later.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from fleet import events
from fleet.limits import MS, SECOND
from fleet.present import Present, Told
from store import peers
from store.telemetry import segment_path
from sync.link import Parcel
from sync.messages import Lane
from sync.protocol import Cause, State
from tests.simulation.boxes import TENANT, Killed, SimClock, SimHub, SimSite
from tests.simulation.ledger import Ledger

START_NS = 1_800_000_000 * SECOND
HUB = "01HARBOR000000000000000000"
YEAR_NS = 365 * 86_400 * SECOND
BURST_EVENTS = 5_100  # with more than 5,000 to send a site replays again
BURST_NS = 25 * SECOND


class Quality(NamedTuple):
    """Of a line, both ways. `bytes_per_s` 0 is no bound."""

    loss: float = 0.0
    twice: float = 0.0
    delay_ns: int = 5 * MS
    jitter_ns: int = 0
    bytes_per_s: int = 0


class Future(events.Body, frozen=True):
    """A fact of a kind that only a newer version knows."""

    KIND = "future.fact"
    VERSION = 3
    id: str
    more: tuple[int, ...] = (1, 2, 3)


class Line:
    def __init__(self) -> None:
        self.quality = Quality()
        self.up = self.passes_up = self.passes_down = True
        self.generation = 0  # what was under way when a line broke is gone
        self._free_ns = {"up": 0, "down": 0}
        self._last: dict[tuple[str, Lane], int] = {}

    def cut(self) -> None:
        self.up = False
        self.generation += 1

    def heal(self) -> None:
        self.up = self.passes_up = self.passes_down = True
        self.quality = Quality()

    def arrivals(self, way: str, parcel: Parcel, now_ns: int, rng: random.Random) -> list[int]:
        """When a parcel arrives: never, once, or more than once."""
        quality = self.quality
        if not self.up or not (self.passes_up if way == "up" else self.passes_down) or rng.random() < quality.loss:
            return []
        start = max(now_ns, self._free_ns[way])
        if quality.bytes_per_s:
            start += (len(parcel.data) + 60) * SECOND // quality.bytes_per_s
            self._free_ns[way] = start
        jitter = rng.randrange(quality.jitter_ns) if quality.jitter_ns else 0
        at = max(start + quality.delay_ns + jitter, self._last.get((way, parcel.lane), 0) + 1)
        self._last[way, parcel.lane] = at
        return [at, at + rng.randrange(1, 20 * SECOND)] if rng.random() < quality.twice else [at]


class Copy:
    """One running copy of a site. Most sites have one; a cloned card makes two, with one credential."""

    def __init__(self, box: SimSite, number: int) -> None:
        self.box, self.number, self.line = box, number, Line()
        self.inbox: list[Parcel] = []
        self.due_ns = -1
        self.gone = False
        self.skewed = False
        self.wrote = 0
        self.ambushes: list[tuple[State, Callable[[], None]]] = []

    @property
    def writer(self) -> str:
        return self.box.writer


class World:
    def __init__(self, root: Path, seed: int, sites: int) -> None:
        self.root, self.seed = root, seed
        self.rng = random.Random(seed)
        self.now_ns = START_NS
        self.counts: Counter[str] = Counter()
        self.turns: Counter[tuple[State, Cause]] = Counter()
        self.steps = 0
        self.ledger = Ledger()
        self._hash = hashlib.sha256()
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self.kill_at: dict[int, tuple[str, bool]] = {}  # at a step: whom, and whether before its commit
        self._doomed: list[tuple[str, int, bool]] = []  # whom, after how many of its turns
        self._clock = SimClock(lambda: self.now_ns)
        self.hub = SimHub(root / "hub", "harbor", HUB, self._clock, random.Random(seed + 1))
        self._hub_inbox: list[Parcel] = []
        self._hub_due_ns = -1
        self._images = 0
        self.copies: list[Copy] = []
        for number in range(sites):
            name = f"site-{number:03}"
            self.hub.invite(name, name)
            writer = f"01{name.upper().replace('-', ''):0<24}"
            clock = SimClock(lambda: self.now_ns)
            chance = random.Random(seed * 1000 + number)
            copy = Copy(SimSite(root / name, name, writer, clock, chance, name), number)
            self.copies.append(copy)
            self.ledger.began(copy.box)
            self._wake(copy, self.rng.randrange(SECOND))
        self._wake_hub(1)

    # -- time -------------------------------------------------------------------------------------------------

    def at(self, ns: int, do: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (ns, self._number, do))

    def after(self, ns: int, do: Callable[[], None]) -> None:
        self.at(self.now_ns + ns, do)

    def run_for(self, ns: int, until: Callable[[], bool] | None = None) -> bool:
        """Whether `until` came to be."""
        end = self.now_ns + ns
        looked = self.now_ns
        while self._heap and self._heap[0][0] <= end:
            at, _, do = heapq.heappop(self._heap)
            self.now_ns = max(at, self.now_ns)
            do()
            if until is not None and self.now_ns - looked >= SECOND // 2:
                looked = self.now_ns
                if until():
                    return True
        self.now_ns = end
        return until is not None and until()

    @property
    def hash(self) -> str:
        return self._hash.hexdigest()

    def _note(self, *parts: object) -> None:
        self._hash.update(repr((self.now_ns, *parts)).encode())

    # -- boxes ------------------------------------------------------------------------------------------------

    def _wake(self, copy: Copy, wait_ns: int) -> None:
        at = self.now_ns + wait_ns
        if copy.due_ns < 0 or at < copy.due_ns:
            copy.due_ns = at
            self.at(at, lambda: self._site_turn(copy, at))

    def _wake_hub(self, wait_ns: int) -> None:
        at = self.now_ns + wait_ns
        if self._hub_due_ns < 0 or at < self._hub_due_ns:
            self._hub_due_ns = at
            self.at(at, lambda: self._hub_turn(at))

    def _killed(self, who: str) -> bool | None:
        """Whether this turn is a box's last, and if so whether it falls before its commit."""
        self.steps += 1
        for number, (whom, turns, before) in enumerate(self._doomed):
            if whom == who:
                self._doomed[number] = (whom, turns - 1, before)
                if turns <= 1:
                    del self._doomed[number]
                    return before
                break
        fate = self.kill_at.pop(self.steps, None)
        return fate[1] if fate is not None and fate[0] == who else None

    def _site_turn(self, copy: Copy, due_ns: int) -> None:
        if copy.gone or copy.due_ns != due_ns:
            return
        copy.due_ns = -1
        inbox, copy.inbox = copy.inbox, []
        killed = self._killed("site")
        try:
            said = copy.box.turn(inbox, copy.line.up, self.now_ns + copy.box.clock.skew_ns, killed=bool(killed))
        except Killed:
            said = []
        if killed is not None:
            self.count("a site was killed before its commit" if killed else "a site was killed before it sent")
            copy.box.restart()
            said = []
        after = copy.box.state
        self.turns.update(copy.box.turns)
        copy.box.turns.clear()
        self._note(copy.box.root.name, after, len(said))
        for parcel in self._skewed(said) if copy.skewed else said:
            self._note(parcel.lane, hashlib.sha256(parcel.data).digest())
            for at in copy.line.arrivals("up", parcel, self.now_ns, self.rng):
                self.at(at, self._to_hub(copy, parcel, copy.line.generation))
        for ambush in [one for one in copy.ambushes if one[0] == after]:
            copy.ambushes.remove(ambush)
            ambush[1]()
        busy = inbox or said or (after not in (State.LIVE, State.QUARANTINED) and copy.line.up)
        self._wake(copy, SECOND if busy else 9 * SECOND if copy.line.up else 300 * SECOND)

    def _to_hub(self, copy: Copy, parcel: Parcel, generation: int) -> Callable[[], None]:
        def arrive() -> None:
            if copy.line.generation == generation and not copy.gone:
                self._hub_inbox.append(parcel)
                self._wake_hub(2 * MS)

        return arrive

    def _hub_turn(self, due_ns: int) -> None:
        if self._hub_due_ns != due_ns:
            return
        self._hub_due_ns = -1
        inbox, self._hub_inbox = self._hub_inbox, []
        killed = self._killed("hub")
        try:
            said = self.hub.turn(inbox, self.now_ns + self._clock.skew_ns, killed=bool(killed))
        except Killed:
            said = []
        if killed is not None:
            self.count("the hub was killed before its commit" if killed else "the hub was killed before it sent")
            self.hub.restart()
            said = []
        self._note("hub", len(inbox), len(said))
        for parcel in said:
            self._note(parcel.lane, hashlib.sha256(parcel.data).digest())
            for copy in self.copies:
                if copy.writer == parcel.peer and not copy.gone:  # whoever has the credential hears it
                    for at in copy.line.arrivals("down", parcel, self.now_ns, self.rng):
                        self.at(at, self._to_site(copy, parcel, copy.line.generation))
        spoken_to = any(session.in_session for session in self.hub.harbor.sessions.values())
        self._wake_hub(SECOND if said else 5 * SECOND if spoken_to else 60 * SECOND)

    def _to_site(self, copy: Copy, parcel: Parcel, generation: int) -> Callable[[], None]:
        def arrive() -> None:
            if copy.line.generation == generation and not copy.gone:
                copy.inbox.append(parcel)
                self._wake(copy, 2 * MS)

        return arrive

    def _skewed(self, said: list[Parcel]) -> list[Parcel]:
        """As a newer version says it: kinds that nobody here knows, and fields behind the ones that are known."""
        made: list[Parcel] = []
        for parcel in said:
            kind, body = msgspec.msgpack.decode(parcel.data)
            self.count("a message with fields of a newer version")
            made.append(parcel._replace(data=msgspec.msgpack.encode((kind, [*body, "later", {"and": 1}]))))
            if self.rng.random() < 0.2:
                self.count("a message of an unknown kind")
                made.append(parcel._replace(data=msgspec.msgpack.encode((f"{kind}.later", [1, "two"]))))
        return made

    # -- what producers do ------------------------------------------------------------------------------------

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def write(self, copy: Copy, count: int = 1, *, killed: bool = False) -> None:
        if copy.gone:
            return
        bodies: list[tuple[str, events.Body]] = []
        for _ in range(count):
            copy.wrote += 1
            mid = f"{copy.box.root.name}/{copy.wrote}"
            body: events.Body = events.TokenRevoked(mid, "Alice" * self.rng.randrange(1, 9))
            if copy.skewed and self.rng.random() < 0.3:
                self.count("an event of an unknown kind")
                body = Future(mid)
            bodies.append((mid, body))
            self.ledger.sending(copy.writer, mid, body)

        def job(db: object) -> None:
            for mid, body in bodies:
                copy.box.journal.stage(mid, body)

        try:
            copy.box.run(job, killed=killed)
        except Killed:
            self.count("a write fell before its commit")
            copy.box.restart()
        else:
            self.ledger.acknowledge(mid for mid, _ in bodies)
        self._wake(copy, MS)

    def present(self, copy: Copy) -> None:
        number = self.rng.randrange(4)
        node = f"{copy.box.name}-node-{number}"
        if self.rng.random() < 0.1 and node in copy.box.nodes:
            del copy.box.nodes[node]
            return
        now_ns = (self.now_ns - self.rng.randrange(5 * SECOND)) // MS * MS
        told = {"battery_pct": Told(self.rng.randrange(100_000) / 1000, now_ns, "mqtt")}
        copy.box.nodes[node] = Present(node, f"node {number}", seen_ns=now_ns, seen_via="mqtt", values=told)

    def edit(self, copy: Copy, *, at_hub: bool) -> None:
        if copy.gone:
            return
        node = f"{copy.box.name}-node-{self.rng.randrange(3)}"
        field = self.rng.choice(("name", "notes"))
        value = f"{field} {self.rng.randrange(1000)}"
        if at_hub:
            session = self.hub.harbor.sessions.get(copy.writer)
            if session is None or not session.in_session or not session.hello:
                return
            self.hub.edit(copy.writer, node, {field: value}, "Bob")
            self._wake_hub(MS)
        else:
            copy.box.edit(node, {field: value}, "Alice")
            self._wake(copy, MS)

    def seal(self, copy: Copy, *, drop: bool = False) -> None:
        if copy.gone:
            return
        size = self.rng.randrange(2_000, 30_000)
        data = self.rng.randbytes(size)
        sha256 = hashlib.sha256(data).digest()
        segment_path(copy.box.folder.segments, sha256).write_bytes(data)
        first = struct.unpack(">I", sha256[:4])[0]
        ns = self.now_ns
        row = (first, first + 9, sha256, 10, ns - SECOND, ns, size, ns)
        copy.box.run(lambda db: db.execute("INSERT OR IGNORE INTO segment VALUES (?,?,?,?,?,?,?,?,NULL)", row))
        copy.box.write("", events.SegmentSealed(sha256, first, first + 9, 10, ns - SECOND, ns, size))
        self.ledger.sealed(copy.writer, sha256, dropped=drop)
        if drop:
            segment_path(copy.box.folder.segments, sha256).unlink()
            said = events.TelemetryDropped(
                "raw", "the disk was full", first, first + 9, 10, size, ns - SECOND, ns, sha256
            )
            copy.box.write("", said)
            self.count("a segment was dropped before it was sent")

    # -- what goes wrong --------------------------------------------------------------------------------------

    def partition(self, copy: Copy, lasted_ns: int) -> None:
        copy.line.cut()
        self.count("a partition")
        self._wake(copy, MS)

        def end() -> None:
            copy.line.up = True
            self._wake(copy, MS)

        self.after(lasted_ns, end)

    def reset(self, copy: Copy) -> None:
        self.count("a reset in the middle")
        copy.line.generation += 1

    def half_open(self, copy: Copy, way: str, lasted_ns: int) -> None:
        self.count(f"half open: nothing goes {way}")
        setattr(copy.line, f"passes_{way}", False)
        self.after(lasted_ns, lambda: setattr(copy.line, f"passes_{way}", True))

    def degrade(self, copy: Copy, quality: Quality, lasted_ns: int) -> None:
        for what, value in quality._asdict().items():
            if value:
                self.count(f"a line with {what}")
        copy.line.quality = quality
        self.after(lasted_ns, lambda: setattr(copy.line, "quality", Quality()))

    def kill_soon(self, who: str, *, before_commit: bool) -> None:
        self._doomed.append((who, self.rng.randrange(1, 8), before_commit))

    def falls(self, who: str) -> None:
        """A transaction falls and the process goes on: a disk that gave an error."""
        self.count(f"a transaction of the {who} fell")
        if who == "hub":
            self.hub.harbor.fell(self.now_ns)
        else:
            copy = self.rng.choice(self.copies)
            if not copy.gone:
                copy.box.fell(self.now_ns)

    def ambush(self, copy: Copy, state: State, do: Callable[[], None]) -> None:
        """Do it at the end of the turn in which the site is next in `state`."""
        copy.ambushes.append((state, do))

    def burst(self, copy: Copy) -> None:
        """An operator lets the log stand still, and more gathers than a live site may have to send."""
        self.count("a burst while the log stands still")
        copy.box.caps.paused = frozenset({Lane.LOG})
        self.write(copy, BURST_EVENTS)

        def end() -> None:
            copy.box.caps.paused = frozenset()

        self.after(BURST_NS, end)

    def clock_jump(self, copy: Copy | None, skew_ns: int) -> None:
        self.count("a clock jumped")
        (self._clock if copy is None else copy.box.clock).skew_ns = skew_ns

    def image(self, copy: Copy) -> Path:
        self._images += 1
        path = self.root / f"image-{self._images}"
        copy.box.image(path)
        return path

    def clone(self, copy: Copy, image: Path) -> Copy:
        self.count("a cloned card")
        root = self.root / f"{copy.box.root.name}-clone-{len(self.copies)}"
        shutil.copytree(image, root)
        rng = random.Random(self.rng.random())
        clock = SimClock(lambda: self.now_ns)
        twin = Copy(SimSite(root, copy.box.name, copy.writer, clock, rng, copy.box.secret), copy.number)
        self.copies.append(twin)
        self._wake(twin, MS)
        return twin

    def restore(self, copy: Copy, image: Path) -> None:
        self.count("an old image was restored")
        self.ledger.disk_lost(copy.writer, self.hub)
        copy.box.restore(image)
        copy.inbox = []
        self._wake(copy, MS)

    def hub_image(self) -> Path:
        self._images += 1
        path = self.root / f"image-{self._images}"
        self.hub.image(path)
        return path

    def restore_hub(self, image: Path) -> None:
        self.count("the hub was restored from an old copy")
        self.hub.restore(image)
        self._hub_inbox = []
        self.ledger.hub_lost([self.hub, *(copy.box for copy in self.running)])

    # -- at rest ----------------------------------------------------------------------------------------------

    def heal(self) -> None:
        self.kill_at, self._doomed = {}, []
        self._clock.skew_ns = 0
        for copy in self.copies:
            copy.ambushes = []
            copy.line.heal()
            copy.box.clock.skew_ns = 0
            self._wake(copy, MS)

    def remove(self, copy: Copy) -> None:
        """A person takes a copy of a site away."""
        copy.gone = True
        copy.box.close()

    def held(self) -> list[str]:
        return [peer.writer for peer in peers.every(self.hub.db, TENANT) if peer.quarantine]

    def hold(self, copy: Copy) -> None:
        """The hub finds a reason to hold a site."""
        session = self.hub.harbor.sessions.get(copy.writer)
        if session is None or not session.in_session:
            return

        def job(db: object) -> None:
            self.hub.shelf.begin(self.hub.db)
            session._hold(("Alice wants to look",), self.now_ns, self.hub.shelf)

        self.count("a site was held")
        self.hub.run(job)
        self.hub.harbor.committed(self.now_ns)
        self._wake_hub(MS)

    def release(self, writer: str) -> None:
        def job(db: object) -> None:
            self.hub.shelf.begin(self.hub.db)
            self.hub.harbor.release(writer, self.now_ns)

        self.hub.run(job)
        self.hub.harbor.committed(self.now_ns)
        self._wake_hub(MS)

    @property
    def running(self) -> list[Copy]:
        return [copy for copy in self.copies if not copy.gone]

    def all_live(self) -> bool:
        return all(copy.box.state == State.LIVE for copy in self.running) and not self.held()

    def settle(self, ns: int) -> bool:
        """A person looks every half minute, and lets those go on who are held. Then everything comes to rest."""
        end = self.now_ns + ns
        while self.now_ns < end:
            if self.run_for(30 * SECOND, self.all_live):
                break
            for writer in self.held():
                self.count("a person released a site")
                self.release(writer)
        return self.all_live()

    def rest(self, ns: int) -> bool:
        """Until nothing is under way any more."""
        return self.run_for(ns, lambda: self.all_live() and not self.ledger.missing(self))

    def close(self) -> None:
        for copy in self.running:
            copy.box.close()
        self.hub.close()
