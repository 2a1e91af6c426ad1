"""How does a box go back to the program that it ran before its last upgrade? From the copy of site.db that the upgrade made.

Rules of the file
  1  The box goes on in a new epoch, beyond every one that it has used: a number of the log that somebody may have heard is
     not given again. The tables stay as the older program knows them.
  2  site.db is there at every instant, the newer or the older; what is replaced is kept (`former/aside.db`).
  3  Telemetry, segments and files stay: records that came since the upgrade are read by the older program as well.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from fleet import events
from store import keys
from store.backup import BackupProblem
from store.clock import WallClock
from store.database import connect
from store.faults import Fault, StoreFault, fault_of
from store.folder import FORMER, Folder, former
from store.journal import Identity, Journal, head_of, read_identity, start_log, write_identity

ASIDE = "aside.db"


def roll_back(folder: Folder) -> str:
    """Put site.db back as it was before the last upgrade, at a hub for each tenant. A sentence for the person.

    FolderTaken while the box runs; BackupProblem when there is no copy, StoreFault when the disk refuses: then that
    box is as it was.
    """
    kept = former(folder.site_db)
    if kept is None:
        raise BackupProblem(
            f"{folder.root / FORMER} holds no copy of site.db from an upgrade; restore a backup that the older version"
            " made: skerry restore"
        )
    folder.hold()
    try:
        newer = [one for one in folder.tenants() if former(one.site_db) is None]
        for one in folder.tenants():  # the hub's own last: it is what says that all of it was done
            if one not in newer:
                _one(one)
        epoch = _one(folder)
    finally:
        folder.release()
    words = f"{folder.root} has the tables of revision {kept.stem} again and goes on in epoch {epoch}; start the older version"
    left = ", ".join(one.root.name for one in newer)
    return f"{words}; {left} came after the upgrade, and only the newer version opens it" if left else words


def _one(folder: Folder) -> int:
    path, kept = folder.site_db, former(folder.site_db)
    assert kept is not None
    fresh, aside = kept.with_suffix(".new"), kept.parent / ASIDE
    try:
        for one in kept.parent.glob("*.new*"):
            one.unlink()
        shutil.copyfile(kept, fresh)
        fresh.chmod(0o600)
        epoch = _begin_epoch(folder, fresh, _settled(path))
        aside.unlink(missing_ok=True)
        os.link(path, aside)
        fresh.rename(path)
        keys.sync_folder(kept.parent)
        keys.sync_folder(path.parent)
    except (OSError, sqlite3.DatabaseError) as error:
        raise StoreFault(fault_of(error) or Fault.IO, path.name, str(error)) from error
    return epoch


def _settled(path: Path) -> int:
    """All of site.db in one file; the epoch in which it writes. A write-ahead log must not stay beside another file."""
    with closing(connect(path)) as db:
        identity = read_identity(db)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if path.with_name(f"{path.name}-wal").exists():
        raise BackupProblem(f"{path} is in use; stop whatever reads it, then try again")
    return identity.log.epoch if identity else 0


def _begin_epoch(folder: Folder, path: Path, beyond: int) -> int:
    key, clock = keys.load_or_create(folder.writer_key), WallClock()
    with closing(connect(path)) as db:
        identity = read_identity(db)
        if identity is None:
            raise BackupProblem(f"{path.with_suffix('.db')} is of a box that was never started")
        before = identity.log
        log = before._replace(epoch=max(before.epoch, beyond) + 1)
        journal, public_key = Journal(log, key, clock), keys.public_bytes(key)
        began = events.LogStarted("restored", public_key, before.writer, before.epoch, *head_of(db, before))
        db.execute("BEGIN IMMEDIATE")
        start_log(db, log, public_key, clock.now_ns())
        write_identity(db, Identity(log, identity.site))
        db.execute("DELETE FROM session")  # who was signed out since must stay so
        journal.opened(db)
        journal.stage(log.writer, began)
        journal.seal(db)
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return log.epoch
