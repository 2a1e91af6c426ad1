"""The data folder of a box: where everything is, who holds it, and how it comes to be.

site.db          the journal, nodes, accounts, cursors
telemetry/       open partitions of raw records (SQLite), one being written
segments/        sealed records, <sha256>.jsonl.zst
series.db        downsampled metrics
history.db       what stood when, made from site.db and to be made again
tls/             the authority of this box and the certificate of its server
keys/            the writer's key, the key that files on a stick are sealed to, the way to the hub
reserve          bytes set aside so that login, pages and audit work on a full disk
damaged/         files that a disk gave back wrong, kept as they are
uploads/         what devices upload, until it is whole and its records are stored
files/           opaque files of devices, named by their SHA-256
sticks/          files on their way to or from a stick, for as long as that takes
former/          site.db as an older program left it, named by its revision: the way back from an upgrade, one kept
tenants/         at a hub with several: the folder of each but the first, named as the tenant, built as this one
control.sock     the command line's way in, for whoever may read this folder
lock             held by the one process that runs on this folder
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import logging
import os
import shutil
import sqlite3
from pathlib import Path
from typing import IO

from store.database import connect, connect_reader
from store.faults import Fault, StoreFault, fault_of
from store.keys import sync_folder

log = logging.getLogger(__name__)

REVISION = "0010"
TENANTS = "tenants"
FORMER = "former"
_ROOM_TIMES = 3  # the size of site.db: for the copy, and for what the steps write


class FolderProblem(Exception):
    """This program cannot run on this data folder; str() says why and what to do."""


class FolderTaken(FolderProblem):
    """Another process runs on this data folder; str() says which and what to do."""


class FolderNewer(FolderProblem):
    """A newer program wrote this data folder, in a way that this one does not know."""


class Folder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.site_db = root / "site.db"
        self.series_db = root / "series.db"
        self.history_db = root / "history.db"
        self.telemetry = root / "telemetry"
        self.segments = root / "segments"
        self.damaged = root / "damaged"
        self.sticks = root / "sticks"
        self.uploads = root / "uploads"
        self.files = root / "files"
        self.writer_key = root / "keys" / "writer.pem"
        self.sealing_key = root / "keys" / "sealing.pem"
        self.link_file = root / "keys" / "hub.link"
        self.hub_ca = root / "keys" / "hub-ca.pem"
        self.reserve = root / "reserve"
        self.control = root / "control.sock"
        self._lock: IO[str] | None = None

    def tenants(self) -> list[Folder]:
        """At a hub with several tenants, those of all but the first."""
        return [Folder(path.parent) for path in sorted((self.root / TENANTS).glob("*/site.db"))]

    def prepare(self) -> None:
        """Make the folders. StoreFault when the disk does not allow it."""
        try:
            missing = [one for one in (self.root, *self.root.parents) if not one.exists()]
            kept = (self.telemetry, self.segments, self.damaged, self.uploads, self.files)
            for folder in (self.root, *kept, self.writer_key.parent):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.root, *(one.parent for one in missing)):  # a power loss takes a name nobody synced
                sync_folder(folder)
        except OSError as error:
            raise StoreFault(fault_of(error) or Fault.IO, str(self.root), str(error)) from error

    def hold(self) -> None:
        """Take the folder for this process until it ends. FolderTaken when another has it."""
        try:
            lock = (self.root / "lock").open("a+")
        except OSError as error:
            raise StoreFault(fault_of(error) or Fault.IO, str(self.root), str(error)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise FolderTaken(
                f"an appliance already runs on {self.root} (process {owner});"
                " stop it first, or give this one another --data folder"
            ) from error
        self._lock = lock
        with contextlib.suppress(OSError):  # whose it is is a courtesy that a full disk may refuse
            lock.seek(0)
            lock.truncate()
            lock.write(str(os.getpid()))
            lock.flush()

    def release(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.close()
            self._lock = None

    def bytes_used(self) -> int:
        """What the folder takes on the disk, in bytes."""
        total = 0
        for path in self.root.rglob("*"):
            try:
                total += path.stat().st_blocks * 512
            except FileNotFoundError:  # rotated away while we looked
                continue
        return total


def bring_up(path: Path) -> None:
    """site.db at this program's revision: made from schema.sql when new, migrated by Alembic when older, after a copy for
    the way back (`former`).

    FolderNewer when its revision is none that this program knows; the file is left as it is.
    """
    _refuse_newer(path)
    db = connect(path)
    try:
        found = revision_of(db)
        if found == REVISION:
            return
        if found is None:
            schema = (Path(__file__).parent / "schema.sql").read_text()
            db.executescript(
                f"BEGIN IMMEDIATE;\n{schema}\n{_STAMP}\nINSERT INTO alembic_version VALUES ('{REVISION}');\nCOMMIT;"
            )
            return
    except sqlite3.DatabaseError as error:
        raise StoreFault(fault_of(error) or Fault.IO, path.name, str(error)) from error
    finally:
        db.close()
    from store.migrations import upgrade

    kept = _keep(path, found) if found else None
    upgrade(path)
    words = f"; as it was it is kept in {kept}" if kept else ""
    log.info("%s goes from tables of revision %s to %s%s", path, found or "none", REVISION, words)


def _refuse_newer(path: Path) -> None:
    """By a connection that only reads: one that writes would bring a write-ahead log in, in another program's file. A file
    at rest is read as one that nobody changes: otherwise an empty write-ahead log would be left beside it."""
    if not path.exists():
        return
    rests = not path.with_name(f"{path.name}-wal").exists()
    try:
        how = f"file:{path}?mode=ro{'&immutable=1' if rests else ''}"
        with contextlib.closing(sqlite3.connect(how, uri=True)) as db:
            found = revision_of(db)
    except sqlite3.DatabaseError:  # whoever opens it for writing may mend it, or say what is wrong
        return
    if found and not is_known(found):
        raise FolderNewer(
            f"{path} was written by a newer Skerry (tables of revision {found}; this one knows them up to {REVISION});"
            f" install that version or a newer one, or {way_back(path)}"
        )


def former(path: Path) -> Path | None:
    """The copy of site.db that was made before its last upgrade, when there is one that this program can read."""
    found = sorted(one for one in (path.parent / FORMER).glob("*.db") if is_known(one.stem))
    return found[-1] if found else None


def way_back(path: Path) -> str:
    """What to do with a site.db that is too new for this program, when the newer one is not wanted."""
    backup = "restore a backup that this version made"
    return f"go back to before the upgrade: skerry rollback --data {path.parent}" if former(path) else backup


def _keep(path: Path, revision: str) -> Path | None:
    """Copy site.db as it is, one file under its revision, for whoever has to go back to the program that wrote it. It takes
    the place of the one before. An upgrade does not wait for it: without room it is left out, and that is said."""
    kept = path.parent / FORMER / f"{revision}.db"
    fresh = kept.with_suffix(".new")
    try:
        size = sum(one.stat().st_size for one in path.parent.glob(f"{path.name}*"))
        if shutil.disk_usage(path.parent).free < _ROOM_TIMES * size:
            log.warning("%s is not copied before its upgrade: that takes %d bytes free", path, _ROOM_TIMES * size)
            return None
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        for one in kept.parent.glob("*.new*"):  # of a copy that was cut off
            one.unlink()
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.closing(connect_reader(path)) as source, contextlib.closing(sqlite3.connect(fresh)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
        fresh.rename(kept)
        sync_folder(kept.parent)
        for one in kept.parent.glob("*.db"):
            if one != kept and is_known(one.stem):
                one.unlink()
        sync_folder(path.parent)
    except (OSError, sqlite3.DatabaseError, StoreFault) as error:
        log.warning("%s could not be copied before its upgrade: %s", path, error)
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        return None
    return kept


_STAMP = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL,"
    " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num));"
)


def revision_of(db: sqlite3.Connection) -> str | None:
    """The revision of the tables in site.db; None when there are none yet."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name='alembic_version'").fetchone():
        return None
    row = db.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else ""


def is_known(revision: str) -> bool:
    """Whether this program has the step that leads to `revision`."""
    steps = Path(__file__).parent / "migrations" / "versions"
    return any(steps.glob(f"{glob.escape(revision)}_*.py"))
