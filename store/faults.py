"""What can go wrong with a disk, told apart by what a person can do about it.

A store that meets a fault stops acknowledging, rolls back, closes its file and says so. It opens the file anew before
it writes again; a failed fsync is never retried as if nothing had happened (the kernel may have dropped the pages).
"""

from __future__ import annotations

import errno
import sqlite3
from enum import StrEnum

from fleet.people import Unavailable


class Fault(StrEnum):
    FULL = "full"
    READ_ONLY = "read-only"
    DAMAGED = "damaged"
    IO = "i/o error"


WORDS: dict[Fault, str] = {
    Fault.FULL: "the disk is full; nothing is acknowledged until there is space. Free space or lower [budget] in the"
    " configuration; the appliance goes on by itself",
    Fault.READ_ONLY: "the disk is read-only; nothing is acknowledged until it can be written. Look at the kernel's log"
    " (dmesg) and remount it; the appliance goes on by itself",
    Fault.DAMAGED: "the file holds a damaged page; it is never served as good. Restore a backup (skerry restore) or"
    " move the file away",
    Fault.IO: "the disk reports an error; nothing is acknowledged until it answers again. Look at the kernel's log"
    " (dmesg); the disk may be dying",
}


class StoreFault(Unavailable):
    """The store cannot write (or read) now. `fault` says why in one word, str() in one sentence for a person."""

    def __init__(self, fault: Fault, store: str, detail: str) -> None:
        super().__init__(f"{store}: {WORDS[fault]}", 507 if fault is Fault.FULL else 503)
        self.fault, self.store, self.detail = fault, store, detail


_PRIMARY = {
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_READONLY: Fault.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Fault.READ_ONLY,
    sqlite3.SQLITE_PERM: Fault.READ_ONLY,
    sqlite3.SQLITE_CORRUPT: Fault.DAMAGED,
    sqlite3.SQLITE_NOTADB: Fault.DAMAGED,
    sqlite3.SQLITE_IOERR: Fault.IO,
}
_ERRNO = {
    errno.ENOSPC: Fault.FULL,
    errno.EDQUOT: Fault.FULL,
    errno.EFBIG: Fault.FULL,
    errno.EROFS: Fault.READ_ONLY,
    errno.EACCES: Fault.READ_ONLY,
    errno.EPERM: Fault.READ_ONLY,
}


def fault_of(error: Exception) -> Fault | None:
    """The fault behind an exception, or None when it is not the disk's."""
    if isinstance(error, sqlite3.DatabaseError):
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # the index of a WAL could not be made: SQLite's word for a full disk
            return Fault.FULL
        return _PRIMARY.get(code & 0xFF) if code is not None else None
    if isinstance(error, OSError):
        return _ERRNO.get(error.errno or 0, Fault.IO)
    return None
