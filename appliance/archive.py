"""What the command line does with a data folder or a file from one: verify, export, show, back up, restore.

Each works beside a running appliance: it only reads, through read-only connections.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fleet import events
from fleet.envelope import Log
from store import journal, keys
from store.database import connect_reader
from store.faults import Fault, StoreFault, fault_of
from store.folder import Folder, FolderProblem
from sync import wire

Progress = Callable[[int, int], None]  # done so far, in all (0: not known)
Told = tuple[bool, str]


@contextmanager
def _reading(data: Path) -> Iterator[sqlite3.Connection]:
    """site.db of a data folder. FolderProblem when this is none, StoreFault when it cannot be read."""
    path = Folder(data).site_db
    if not path.exists():
        raise FolderProblem(f"{data} is no data folder of an appliance: it holds no site.db. Is it the right --data?")
    try:
        with closing(connect_reader(path)) as db:
            yield db
    except sqlite3.DatabaseError as error:
        raise StoreFault(fault_of(error) or Fault.DAMAGED, str(path), str(error)) from error


def verify(data: Path, progress: Progress) -> Told:
    try:
        with _reading(data) as db:
            (total,) = db.execute("SELECT count(*) FROM event").fetchone()
            verdicts = journal.verify(db, lambda checked: progress(checked, total))
            progress(total, total)
            for (verdict,) in db.execute("PRAGMA quick_check(1)"):
                if verdict != "ok":
                    raise StoreFault(Fault.DAMAGED, f"{data}/site.db", verdict)
            strange = _strange_key(db, Folder(data))
    except (StoreFault, keys.KeyProblem, FolderProblem) as problem:
        return False, str(problem)
    if strange:
        return False, f"{data}: {strange}"
    bad = next((verdict for verdict in verdicts if verdict.fault), None)
    if bad is not None:
        place = f"log {bad.log.writer}, epoch {bad.log.epoch}, event {bad.seq}"
        return False, f"{data}: the journal does not hold at {place}: {bad.detail}"
    logs = "\n".join(
        f"  {verdict.log.writer} epoch {verdict.log.epoch}: {verdict.events:,} events in {verdict.blocks:,} blocks,"
        f" head {verdict.head.hash.hex()[:16]}"
        for verdict in verdicts
    )
    return True, f"{data}: every event holds, from the first to the last\n{logs}"


def _strange_key(db: sqlite3.Connection, folder: Folder) -> str | None:
    """A log that holds in itself may have been written anew under another key; this folder's own key says so."""
    identity = journal.read_identity(db)
    if identity is None or not folder.writer_key.exists():
        return None
    if journal.public_key(db, identity.log) == keys.public_bytes(keys.load_or_create(folder.writer_key)):
        return None
    return "the journal is not signed with keys/writer.pem: it was written anew, or the key was exchanged"


def export(data: Path, to: Path, progress: Progress) -> Told:
    if to.exists():
        return False, f"{to} is already there; choose another name"
    try:
        with _reading(data) as db, to.open("xb") as file:
            (total,) = db.execute("SELECT count(*) FROM event").fetchone()
            done = 0
            for log_id, tenant, writer, epoch, public_key in db.execute(
                "SELECT id, tenant, writer, epoch, public_key FROM log ORDER BY id"
            ).fetchall():
                log = Log(tenant, writer, epoch)
                for chunk in wire.write(journal.blocks(db, log_id), public_key, log):
                    file.write(chunk)
                    progress(min(done := done + 1, total), total)
            progress(total, total)
    except (StoreFault, FolderProblem) as problem:
        return False, str(problem)
    except OSError as error:
        return False, f"{to}: {error.strerror}"
    return True, f"{total:,} events are in {to}; check them anywhere with: skerry journal verify {to}"


def show(data: Path, *, after: int, limit: int, kind: str | None, subject: str | None) -> Iterator[str]:
    """Events as JSON, a line each, oldest first. StoreFault or FolderProblem when they cannot be read."""
    shown = 0
    with _reading(data) as db:
        for batch in journal.read(db, after):
            for event in batch:
                if (kind and event.kind != kind) or (subject and event.subject != subject):
                    continue
                yield json.dumps(
                    {
                        "position": event.position,
                        "writer": event.writer,
                        "epoch": event.epoch,
                        "seq": event.seq,
                        "wall_ns": event.wall_ns,
                        "clock": event.clock.name,
                        "kind": event.kind,
                        "subject": event.subject,
                        "body": events.fields(event.body),
                    },
                    ensure_ascii=False,
                )
                shown += 1
                if limit and shown >= limit:
                    return


def make_backup(data: Path, to: Path, progress: Progress) -> Told:
    from store import backup

    try:
        report = backup.backup(Folder(data), to, progress)
    except (backup.BackupProblem, StoreFault) as problem:
        return False, str(problem)
    return True, report


def restore_backup(source: Path, data: Path, progress: Progress) -> Told:
    from store import backup

    try:
        report = backup.restore(source, data, progress)
    except (backup.BackupProblem, StoreFault) as problem:
        return False, str(problem)
    return True, report


def roll_back(data: Path) -> Told:
    """The way back from an upgrade."""
    from store import backup, rollback

    try:
        return True, rollback.roll_back(Folder(data))
    except (backup.BackupProblem, StoreFault, FolderProblem, keys.KeyProblem) as problem:
        return False, str(problem)
