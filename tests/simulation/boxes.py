"""The real core of hub and sites without threads: real SQLite, real deciders, a clock and a link that a test moves."""

from __future__ import annotations

import hashlib
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import hub.shelf
from appliance.shelf import SiteShelf
from appliance.uplink import Uplink
from fleet import envelope, events
from fleet.document import Id, Value
from fleet.envelope import Log
from fleet.events import Body, Clock
from fleet.present import Present
from hub.harbor import Harbor
from hub.segments import Segments
from hub.shelf import HubShelf, load
from hub.state import FleetHere
from store import document, journal, peers
from store.clock import BUILT_NS
from store.database import connect
from store.folder import Folder, bring_up
from store.journal import Identity, Journal
from store.keys import public_bytes
from store.shared import Shared
from sync import hub as hub_side
from sync import site as site_side
from sync.link import Parcel
from sync.protocol import Caps, Cause, State

T = TypeVar("T")
TENANT = "fjord"


def memory_folder() -> Path:
    """Where a run keeps its boxes: in memory if the machine has such a folder."""
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="skerry-sim-", dir=shared if shared.is_dir() else None))


@cache
def _empty_db() -> bytes:
    """site.db as every box begins with it: made once."""
    root = memory_folder()
    bring_up(root / "site.db")
    raw = (root / "site.db").read_bytes()
    shutil.rmtree(root)
    return raw


class Killed(Exception):
    """The power went before the commit."""


class SimClock:
    """A box's wall clock: the simulation's time, off by `skew_ns`."""

    def __init__(self, world_ns: Callable[[], int], skew_ns: int = 0) -> None:
        self._world_ns, self.skew_ns = world_ns, skew_ns

    def now_ns(self) -> int:
        return self._world_ns() + self.skew_ns

    def confidence(self) -> Clock:
        return Clock.NOT_TRUSTED if self.now_ns() < BUILT_NS else Clock.FREE_RUNNING


@cache
def key_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(random.Random(f"key of {name}").randbytes(32))


class Box:
    """A data folder with its journal, and transactions run at once on the caller's thread."""

    def __init__(self, root: Path, name: str, writer: str, clock: SimClock, *, owner: bool) -> None:
        self.root, self.name, self.clock, self.owner = root, name, clock, owner
        self.key = key_of(writer)
        self.public_key = public_bytes(self.key)
        self.writer = writer
        self.aside: list[tuple[str, str, str]] = []
        self.open()

    def open(self) -> None:
        """As a process does when it starts."""
        self.folder = Folder(self.root)
        for folder in (self.root, self.folder.segments):
            folder.mkdir(parents=True, exist_ok=True)
        if not self.folder.site_db.exists():
            self.folder.site_db.write_bytes(_empty_db())
        self.db = connect(self.folder.site_db)
        self.db.execute("PRAGMA synchronous=0")  # what a disk loses is another trial's question
        held = journal.read_identity(self.db)
        log = held.log if held else Log(TENANT, self.writer, 1)
        if held is None:
            self.db.execute("BEGIN IMMEDIATE")
            journal.write_identity(self.db, Identity(log, self.name))
            journal.start_log(self.db, log, self.public_key, 0)
            self.db.execute("COMMIT")
        self.identity = Identity(log, self.name)
        self.journal = Journal(log, self.key, self.clock)  # type: ignore[arg-type]
        self.journal.opened(self.db)
        self.shared = Shared(self.journal, self.clock, owner=self.owner)  # type: ignore[arg-type]
        self.shared._check = _tried_here  # a process for each of fifty boxes would be most of the time
        if self.journal.head == envelope.EMPTY:
            self.write(log.writer, events.LogStarted("first", self.public_key))

    def run(self, job: Callable[[sqlite3.Connection], T], *, killed: bool = False) -> T:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            result = job(self.db)
            self.journal.seal(self.db)
            if killed:
                raise Killed
            self.db.execute("COMMIT")
        except BaseException:
            self.db.execute("ROLLBACK")
            self.journal.rolled_back()
            raise
        self.journal.committed()
        return result

    def write(self, subject: str, *bodies: Body) -> None:
        def job(db: sqlite3.Connection) -> None:
            for body in bodies:
                self.journal.stage(subject, body)

        self.run(job)

    def close(self) -> None:
        self.db.close()

    def restart(self) -> None:
        """A new process on the same folder."""
        self.close()
        self.open()

    def image(self, to: Path) -> None:
        """A copy of the folder as it is on the disk now."""
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.root, to)

    def restore(self, image: Path) -> None:
        self.close()
        shutil.rmtree(self.root)
        shutil.copytree(image, self.root)
        self.open()

    def events_of(self, writer: str) -> list[tuple[int, int, bytes]]:
        return self.db.execute(
            "SELECT log.epoch, event.seq, event.raw FROM event JOIN log ON log.id=event.log_id WHERE writer=?"
            " ORDER BY epoch, seq",
            (writer,),
        ).fetchall()


class SimSite(Box):
    def __init__(self, root: Path, name: str, writer: str, clock: SimClock, rng: random.Random, secret: str) -> None:
        self.rng = rng
        self.secret = secret
        self.nodes: dict[str, Present] = {}
        self.caps = Caps()
        self.turns: Counter[tuple[State, Cause]] = Counter()
        super().__init__(root, name, writer, clock, owner=False)

    def open(self) -> None:
        super().open()
        self.shelf = SiteShelf(
            self.identity,
            self.journal,
            self.key,
            self.public_key,
            self.shared,
            self.folder.segments,
            self.clock,  # type: ignore[arg-type]
            lambda: self.nodes,
            lambda changed: None,
            lambda intake, source, reason, raw: self.aside.append((intake, source, reason)),
            invitation=secret_hash(self.secret),
        )
        turned = self.shelf.turned

        def counted(state: State, cause: Cause, reason: str, now_ns: int) -> None:
            self.turns[self._before, cause] += 1
            self._before = state
            turned(state, cause, reason, now_ns)

        self.shelf.turned = counted  # type: ignore[method-assign]
        self._before = State.AUTONOMOUS
        me = site_side.Me(self.identity.log, self.name, self.public_key, self.key.sign, "test")
        self.uplink = Uplink(site_side.Site(me, self.caps), self.shelf, self.rng.randbytes)

    def turn(self, parcels: list[Parcel], up: bool, now_ns: int, *, killed: bool = False) -> list[Parcel]:
        said = self.run(lambda db: self.uplink.work(db, parcels, up, now_ns), killed=killed)
        self.uplink.committed()
        return said

    def fell(self, now_ns: int) -> None:
        self.uplink.fell(now_ns)
        self._before = State.AUTONOMOUS

    @property
    def state(self) -> str:
        return str(self.uplink.site.state)

    def edit(self, node: str, values: Mapping[str, Value], who: str) -> object:
        return self.run(lambda db: self.shared.edit(db, Id(TENANT, "node", node), values, who))


class SimHub(Box):
    def __init__(self, root: Path, name: str, writer: str, clock: SimClock, rng: random.Random) -> None:
        self.rng = rng
        super().__init__(root, name, writer, clock, owner=True)

    def open(self) -> None:
        super().open()
        hub.shelf.new_ulid = lambda now_ns: self.rng.randbytes(13).hex().upper()  # the same run twice is the same
        self.fleet = FleetHere()
        load(self.db, TENANT, self.fleet)
        self.segments = Segments(self.folder.segments)
        self.shelf = HubShelf(
            TENANT,
            self.name,
            self.journal,
            self.key,
            self.public_key,
            self.shared,
            self.fleet,
            self.segments,
            self.clock,  # type: ignore[arg-type]
            lambda intake, source, reason, raw: self.aside.append((intake, source, reason)),
        )
        me = hub_side.Me(TENANT, self.writer, self.name, self.public_key, self.key.sign)
        self.harbor = Harbor(me, self.shelf, self.fleet, self.rng.randbytes)

    def turn(self, parcels: list[Parcel], now_ns: int, *, killed: bool = False) -> list[Parcel]:
        said = self.run(lambda db: self.harbor.work(db, parcels, now_ns), killed=killed)
        self.harbor.committed(now_ns)
        return said

    def invite(self, name: str, secret: str) -> None:
        self.run(lambda db: peers.invite(db, peers.Invitation(name, TENANT, secret_hash(secret), "", 0)))

    def edit(self, site: str, node: str, values: Mapping[str, Value], who: str) -> object:
        def job(db: sqlite3.Connection) -> object:
            peer = peers.get(db, site)
            assert peer is not None
            return self.shared.edit(db, Id(TENANT, "node", node), values, who, peer.log)

        return self.run(job)

    def close(self) -> None:
        self.segments.close()
        super().close()


def _tried_here(work: Sequence[document.Work]) -> list[document.Merged | None]:
    return [document.merge(one.saved, one.changes, one.doubles) for one in work]


def secret_hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
