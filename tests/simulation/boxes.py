"""The real core of hub and sites without threads: real SQLite, real deciders, a clock and a link that a test moves."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

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
from store import journal, peers
from store.database import connect
from store.folder import Folder, bring_up
from store.journal import Identity, Journal
from store.keys import public_bytes
from store.shared import Shared
from sync import hub as hub_side
from sync import site as site_side
from sync.link import Parcel
from sync.protocol import Caps

T = TypeVar("T")
TENANT = "fjord"
SECOND = 1_000_000_000


class SimClock:
    """A box's wall clock: the simulation's time, off by `skew_ns`."""

    def __init__(self, world_ns: Callable[[], int], skew_ns: int = 0) -> None:
        self._world_ns, self.skew_ns = world_ns, skew_ns

    def now_ns(self) -> int:
        return self._world_ns() + self.skew_ns

    def confidence(self) -> Clock:
        return Clock.FREE_RUNNING


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
        self.folder.prepare()
        bring_up(self.folder.site_db)
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
        if self.journal.head == envelope.EMPTY:
            self.write(log.writer, events.LogStarted("first", self.public_key))

    def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            result = job(self.db)
            self.journal.seal(self.db)
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
        self.shared.close()
        self.db.close()

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
        me = site_side.Me(self.identity.log, self.name, self.public_key, self.key.sign, "test")
        self.uplink = Uplink(site_side.Site(me, self.caps), self.shelf, self.rng.randbytes)

    def turn(self, parcels: list[Parcel], up: bool, now_ns: int) -> list[Parcel]:
        said = self.run(lambda db: self.uplink.work(db, parcels, up, now_ns))
        self.uplink.committed()
        return said

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

    def turn(self, parcels: list[Parcel], now_ns: int) -> list[Parcel]:
        said = self.run(lambda db: self.harbor.work(db, parcels, now_ns))
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


def secret_hash(secret: str) -> bytes:
    import hashlib

    return hashlib.sha256(secret.encode()).digest()
