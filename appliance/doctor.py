"""The doctor: what this machine lacks for an appliance, each with the way to mend it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from store.clock import WallClock
from store.database import connect_reader
from store.faults import StoreFault
from store.folder import REVISION, Folder, FolderProblem, former, is_known, revision_of, way_back

_FREE_BYTES_MIN = 256 * 1024 * 1024


class Finding(NamedTuple):
    good: bool
    what: str
    mend: str = ""


def examine(data: Path) -> list[Finding]:
    return [*_python(), *_packages(), *_sqlite(), *_clock(), *_ping(), *_folder(data)]


def _python() -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] == (3, 11)
    yield Finding(good, f"Python {found}", "" if good else "install Python 3.11; others are not tested")


def _packages() -> Iterator[Finding]:
    for name in (
        "starlette",
        "uvicorn",
        "msgspec",
        "cryptography",
        "backports.zstd",
        "icmplib",
        "aiosqlite",
        "argon2-cffi",
    ):
        try:
            yield Finding(True, f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(False, f"{name} is missing", "pip install --require-hashes -r requirements.lock")


def _sqlite() -> Iterator[Finding]:
    # Older libraries can corrupt a WAL when two connections write and checkpoint; one writing connection rules it out.
    yield Finding(True, f"SQLite {sqlite3.sqlite_version}, used with one writing connection a file")


def _clock() -> Iterator[Finding]:
    clock = WallClock()
    confidence = clock.confidence()
    words = confidence.name.lower().replace("_", " ")
    mend = "" if confidence else "set the date, or start chrony; records keep their order, their times will be wrong"
    yield Finding(bool(confidence), f"the wall clock is {words}", mend)


def _ping() -> Iterator[Finding]:
    from appliance.intake.ping import PingNotPermitted, Sweeper

    with contextlib.closing(Sweeper()) as sweeper:
        try:
            sweeper.open()
        except PingNotPermitted as problem:
            yield Finding(False, "ping is not permitted", str(problem))
            return
    yield Finding(True, "ping may be sent")


def _folder(data: Path) -> Iterator[Finding]:
    place = data if data.exists() else data.absolute().parent
    if not place.exists():
        yield Finding(False, f"{place} does not exist", f"mkdir -p {place}")
        return
    writable = os.access(place, os.W_OK)
    yield Finding(
        writable, f"{place} can{'' if writable else 'not'} be written", "" if writable else f"chown it to {os.getuid()}"
    )
    free = shutil.disk_usage(place).free
    enough = free >= _FREE_BYTES_MIN
    yield Finding(
        enough, f"{free // 2**20:,} MiB free at {place}", "" if enough else "free space: an appliance wants 256 MiB"
    )
    if (data / "site.db").exists():
        yield from _held(data)
        yield from _readable(data / "site.db")
    for tenant in Folder(data).tenants():  # of a hub
        yield from _readable(tenant.site_db)


def _held(data: Path) -> Iterator[Finding]:
    folder = Folder(data)
    try:
        folder.hold()
    except FolderProblem as taken:
        yield Finding(True, str(taken).split(";")[0])
    except StoreFault as fault:
        yield Finding(False, "the data folder cannot be held", str(fault))
    else:
        folder.release()
        yield Finding(True, f"no appliance runs on {data}")


def _readable(path: Path) -> Iterator[Finding]:
    """The first pages of the journal; every event is checked by `skerry journal verify`."""
    try:
        with contextlib.closing(connect_reader(path)) as db:
            (events,) = db.execute("SELECT coalesce(max(position), 0) FROM event").fetchone()
            revision = revision_of(db) or ""
    except (StoreFault, sqlite3.DatabaseError) as problem:
        yield Finding(False, f"{path} cannot be read: {problem}", "skerry restore BACKUP --data ANOTHER-DIR")
        return
    yield Finding(True, f"the journal holds {events:,} events; check them with: skerry journal verify {path.parent}")
    yield from _upgraded(path, revision)


def _upgraded(path: Path, revision: str) -> Iterator[Finding]:
    """Whether this program can run on these tables, and the way back to the one before."""
    kept = former(path)
    if not is_known(revision):
        mend = f"install that version, or {way_back(path)}"
        yield Finding(False, f"{path} was written by a newer Skerry (tables of revision {revision})", mend)
    elif revision != REVISION:
        yield Finding(True, f"{path} is of an older Skerry (tables of revision {revision}); the next start upgrades it")
    elif kept is not None:
        size = kept.stat().st_size
        words = f"{kept} is site.db as it was before the last upgrade, {size:,} bytes"
        yield Finding(True, f"{words}; remove it when nobody goes back")
