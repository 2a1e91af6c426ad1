"""The site alder on a disk, without its appliance: journal, telemetry and series as the appliance has them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleet import events
from fleet.connectivity import Mode
from fleet.envelope import Block, Log
from fleet.limits import SECOND
from store import journal, keys, telemetry
from store.clock import WallClock
from store.database import Writer, connect, connect_reader
from store.folder import Folder, bring_up
from store.frames import Offer
from store.series import SeriesStore
from store.shared import Shared
from store.telemetry import Telemetry

WRITER = "01ALDER0000000000000000000"
TENANT = "fleet"
DRONE = "01DRNE00000000000000000001"


def heard(record: int = 1) -> events.NodeHeard:
    return events.NodeHeard(Mode.LIVE, "", "syslog-udp", record)


class Alder:
    """`say` writes events and waits; `stop` closes all."""

    def __init__(self, root: Path, tenant: str = TENANT) -> None:
        self.folder = Folder(root)
        self.folder.prepare()
        bring_up(self.folder.site_db)
        self.key: Ed25519PrivateKey = keys.load_or_create(self.folder.writer_key)
        self.public_key = keys.public_bytes(self.key)
        with closing(connect(self.folder.site_db)) as db:
            identity = journal.read_identity(db) or journal.Identity(Log(tenant, WRITER, 1), "alder")
            db.execute("BEGIN IMMEDIATE")
            journal.write_identity(db, identity)
            journal.start_log(db, identity.log, self.public_key, 1)
            db.execute("COMMIT")
        self.log = identity.log
        self.journal = journal.Journal(self.log, self.key, WallClock())
        self.shared = Shared(self.journal, WallClock(), owner=False)
        self.site = Writer(self.folder.site_db, [self.journal])
        self.series = SeriesStore(self.folder.series_db)
        self.telemetry = Telemetry(self.folder)
        self.telemetry.open(0)

    def say(self, *facts: tuple[str, events.Body]) -> None:
        def job(db: sqlite3.Connection) -> None:
            for subject, body in facts:
                self.journal.stage(subject, body)

        self.site.submit(job).result()

    def hear(self, *raw: bytes) -> None:
        """Raw records, as from one sender."""
        self.telemetry.append(
            [Offer(SECOND * number, "syslog/10.0.0.7/drone-01", one) for number, one in enumerate(raw)]
        )

    def seal(self) -> None:
        self.telemetry.rotate()
        for partition in self.telemetry.closed_partitions():
            for sealed in telemetry.seal(partition, self.folder.segments).sealed:
                self.site.submit(lambda db, sealed=sealed: telemetry.enter(db, sealed, 1)).result()
                self.say((WRITER, events.SegmentSealed(*sealed[:7])))
            assert self.telemetry.discard(partition, partition.last_id)

    def blocks(self, after_seq: int = 0) -> list[Block]:
        with closing(connect_reader(self.folder.site_db)) as db:
            return list(journal.blocks(db, log_id(db, self.log), after_seq))

    def verdicts(self) -> list[journal.Verdict]:
        with closing(connect_reader(self.folder.site_db)) as db:
            return journal.verify(db)

    def stop(self) -> None:
        self.telemetry.close()
        self.series.writer.close()
        self.site.close()

    def __enter__(self) -> Alder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def log_id(db: sqlite3.Connection, log: Log) -> int:
    (found,) = db.execute("SELECT id FROM log WHERE tenant=? AND writer=? AND epoch=?", log).fetchone()
    return int(found)


def turns(count: int, nodes: Sequence[str] = (DRONE,)) -> list[tuple[str, events.Body]]:
    """`count` facts about `nodes`, in turn."""
    return [(nodes[number % len(nodes)], heard(number + 1)) for number in range(count)]
