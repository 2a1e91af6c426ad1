"""How is a box copied while it runs, and how does the copy become a box again?

A backup is a folder: site.db, series.db, the open partitions of telemetry, the sealed segments (at a hub those that it
took over from its sites), the writer's key, at a hub the authority that its sites pinned, and `manifest.json` with the
SHA-256 of each, signed by that key (`manifest.sig`). docs/formats.md has the layout.

A hub's other tenants lie under `tenants/`, each a backup of its own; the hub's manifest names the hash of each one's.

Rules of the file
  1  All databases are read in one instant: a read transaction is opened on each before the first page is copied, and
     the instant is taken again if a partition was sealed in between. So every record that site.db has seen is in a
     partition or in a segment of the same backup.
  2  A backup only reads. Each database is copied page by page (SQLite's backup API) from that read transaction, on a
     read-only connection, which the rule of `store.database` allows: it neither commits nor checkpoints, and it may be
     in another process than the writer. A job on the writer would keep everybody waiting for as long as the copy
     takes; VACUUM INTO cannot stand in a transaction, so it could not keep rule 1. The price: until the copy of a
     database is done, its write-ahead log grows by what is written meanwhile.
  3  A folder under its final name is whole: it is made beside it and renamed when all is on the disk.
  4  Segments are copied, not linked: a link would keep the space that the byte budget lets go, and share the damage.
  5  `restore` writes nothing before every file has been checked, and ends in a new epoch whose first event names the
     last hash of the old one. Sessions are not restored: who was signed out since must stay so.

The signature finds damage and careless edits. Whoever holds a backup holds the key; keep it like one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from fleet import envelope, events
from fleet.envelope import Head, Log, PrivateKey
from store import keys, peers, telemetry
from store.clock import WallClock
from store.database import connect, connect_reader
from store.faults import Fault, StoreFault, fault_of
from store.folder import REVISION, TENANTS, Folder, is_known, revision_of
from store.journal import Identity, Journal, head_of, read_identity, start_log, write_identity
from store.telemetry import Segment

FORMAT = "skerry backup 1"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"

Progress = Callable[[int, int], None]  # bytes done, bytes in all

_DOMAIN = b"skerry backup manifest\x00"
_SITE, _SERIES, _KEY = "site.db", "series.db", "keys/writer.pem"
_MORE_KEYS = ("keys/sealing.pem", "keys/hub.link", "keys/hub-ca.pem", "tls/ca.pem", "tls/ca.key")  # with a link
_FOLDERS = ("keys", "telemetry", "segments", "tls")
_PATH = re.compile(
    r"site\.db|series\.db|keys/(writer\.pem|sealing\.pem|hub\.link|hub-ca\.pem)|tls/ca\.(pem|key)|telemetry/\d{1,19}\.db"
    r"|segments/[0-9a-f]{64}\.jsonl\.zst"
)
_MANIFEST_BYTES_MAX = 64 * 1024 * 1024
_COPY_BYTES = 1024 * 1024
_PAGES = 2_048  # copied between two words of progress
_INSTANTS_MAX = 10
_LOCAL = (Fault.DAMAGED, Fault.IO)  # one such file is left out, and named; the rest is worth having all the more


class BackupProblem(Exception):
    """A backup cannot be made or used; str() says why, and what to do."""


class File(msgspec.Struct, frozen=True):
    path: str
    bytes: int
    sha256: str


class Missing(msgspec.Struct, frozen=True):
    """A file that should be here and is not: let go by the byte budget meanwhile, or damaged on the box."""

    path: str
    reason: str


class Manifest(msgspec.Struct, frozen=True):
    """`epoch`, `seq` and `hash` are the head of the box's own log; hashes and keys are hexadecimal."""

    format: str
    made_ns: int
    revision: str
    tenant: str
    writer: str
    epoch: int
    site: str
    seq: int
    hash: str
    public_key: str
    files: tuple[File, ...]
    missing: tuple[Missing, ...] = ()
    tenants: dict[str, str] = {}  # of a hub's other tenants, each a backup under tenants/: the SHA-256 of its manifest


# -- making one -------------------------------------------------------------------------------------------------


class _Instant(NamedTuple):
    """Read transactions on every database of a box, all opened at one moment."""

    site: sqlite3.Connection
    others: dict[str, sqlite3.Connection]  # by path in the backup
    unreadable: list[Missing]
    segments: list[Segment]


def backup(folder: Folder, to: Path, progress: Progress = lambda done, total: None) -> str:
    """Copy the box in `folder`, running or not, to the new folder `to`. Returns a sentence for the person.

    BackupProblem or StoreFault when that cannot be done; then there is no folder `to`.
    """
    if to.exists():
        raise BackupProblem(f"{to} is already there; choose another name")
    if not folder.site_db.exists():
        raise BackupProblem(f"{folder.root} holds no appliance: there is no site.db in it")
    with _made_whole(to) as fresh:
        tenants, missing = _tenants(folder, fresh, progress)
        _, manifest = _one(folder, fresh, progress, tenants, missing)
    size = sum(file.bytes for file in manifest.files)
    words = f"{to} holds {manifest.site} up to event {manifest.seq:,} in {len(manifest.files)} files, {size:,} bytes"
    words += f", and {len(tenants)} more tenants" if tenants else ""
    return f"{words}; {len(manifest.missing)} files are missing, see {MANIFEST}" if manifest.missing else words


def _one(
    folder: Folder, to: Path, progress: Progress, tenants: dict[str, str], missing: Sequence[Missing]
) -> tuple[str, Manifest]:
    """One box into a folder that is there; the hash of its manifest, and that."""
    key = _key_of(folder.writer_key)
    with ExitStack() as held:
        manifest = _Copying(to, progress).everything(folder, _instant(folder, held))
    manifest = msgspec.structs.replace(manifest, tenants=tenants, missing=(*manifest.missing, *missing))
    raw = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    _write(to / MANIFEST, raw)
    _write(to / SIGNATURE, key.sign(_DOMAIN + raw))
    return hashlib.sha256(raw).hexdigest(), manifest


def _tenants(folder: Folder, fresh: Path, progress: Progress) -> tuple[dict[str, str], list[Missing]]:
    """A hub's other tenants, each with its manifest. One that cannot be read is left out, and named."""
    made: dict[str, str] = {}
    missing: list[Missing] = []
    for one in folder.tenants():
        name, to = one.root.name, fresh / TENANTS / one.root.name
        to.mkdir(mode=0o700, parents=True)
        try:
            made[name], _ = _one(one, to, progress, {}, ())
        except (StoreFault, BackupProblem) as problem:
            shutil.rmtree(to)
            missing.append(Missing(f"{TENANTS}/{name}", str(problem)))
            continue
        keys.sync_folder(to)
    if made:
        keys.sync_folder(fresh / TENANTS)
    return made, missing


def _instant(folder: Folder, held: ExitStack) -> _Instant:
    for _ in range(_INSTANTS_MAX):
        attempt = ExitStack()
        try:
            instant = _open(folder, attempt)
            with closing(connect_reader(folder.site_db)) as db:
                moved = telemetry.live(db) != telemetry.live(instant.site)
        except FileNotFoundError:
            moved = True
        except BaseException:
            attempt.close()
            raise
        if not moved:
            held.enter_context(attempt)
            return instant
        attempt.close()
    raise BackupProblem("the appliance is sealing telemetry faster than it can be copied; try again in a minute")


def _open(folder: Folder, held: ExitStack) -> _Instant:
    site = _snapshot(folder.site_db, held)
    others: dict[str, sqlite3.Connection] = {}
    unreadable: list[Missing] = []
    paths = sorted(path for path in folder.telemetry.glob("*.db") if path.stem.isdigit())
    for path in [*paths, *([folder.series_db] if folder.series_db.exists() else [])]:
        name = str(path.relative_to(folder.root))
        try:
            others[name] = _snapshot(path, held)
        except StoreFault as fault:
            if not path.exists():
                raise FileNotFoundError(path) from fault
            if fault.fault not in _LOCAL:
                raise
            unreadable.append(Missing(name, f"cannot be read: {fault.detail}"))
    return _Instant(site, others, unreadable, _segments(site))


def _segments(db: sqlite3.Connection) -> list[Segment]:
    """The box's own, and at a hub those of its sites."""
    if not _has_links(db):
        return telemetry.live(db)
    taken = db.execute(
        "SELECT first_id, last_id, sha256, records, from_ns, to_ns, bytes_stored FROM custody WHERE state=?"
        " AND sha256 NOT IN (SELECT sha256 FROM segment) ORDER BY site, first_id",
        (peers.HERE,),
    )
    return telemetry.live(db) + [Segment(*row) for row in taken]


def _snapshot(path: Path, held: ExitStack) -> sqlite3.Connection:
    db = held.enter_context(closing(connect_reader(path)))
    try:
        db.execute("BEGIN")
        db.execute("SELECT 1 FROM sqlite_master").fetchone()  # a transaction begins with its first read
    except sqlite3.DatabaseError as error:
        raise StoreFault(fault_of(error) or Fault.IO, path.name, str(error)) from error
    return db


def _has_links(db: sqlite3.Connection) -> bool:
    """False for a folder that an older version left and none has opened since."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE name='custody'").fetchone() is not None


class _Copying:
    """One pass over a box: where to, how far, what was copied and what was not there."""

    def __init__(self, to: Path, progress: Progress) -> None:
        self._to, self._progress = to, progress
        self._done = self._total = 0
        self._files: list[File] = []
        self._missing: list[Missing] = []

    def everything(self, folder: Folder, instant: _Instant) -> Manifest:
        databases = {_SITE: instant.site, **instant.others}
        self._missing = list(instant.unreadable)
        self._total = sum(map(_size, databases.values())) + sum(one.bytes_stored for one in instant.segments)
        for name in _FOLDERS:
            (self._to / name).mkdir(mode=0o700)
        identity, head, revision = _who(instant.site)
        for path, db in databases.items():
            self._database(path, db)
        self._plain(folder.writer_key, _KEY)
        for name in _MORE_KEYS:
            if (folder.root / name).exists():
                self._plain(folder.root / name, name)
        for one in instant.segments:
            self._segment(folder, one)
        for name in _FOLDERS:
            keys.sync_folder(self._to / name)
        self._progress(self._total, self._total)
        public_key = keys.public_bytes(_key_of(folder.writer_key)).hex()
        return Manifest(
            FORMAT,
            WallClock().now_ns(),
            revision,
            *identity.log,
            identity.site,
            head.seq,
            head.hash.hex(),
            public_key,
            tuple(self._files),
            tuple(self._missing),
        )

    def _database(self, path: str, source: sqlite3.Connection) -> None:
        target = self._to / path
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        before, page_bytes = self._done, _page_bytes(source)

        def step(status: int, remaining: int, pages: int) -> None:
            self._tell(before + (pages - remaining) * page_bytes)

        try:
            with closing(sqlite3.connect(target, isolation_level=None)) as copy:
                source.backup(copy, pages=_PAGES, progress=step, sleep=0)
                copy.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
        except sqlite3.DatabaseError as error:
            fault = fault_of(error) or Fault.IO
            if path == _SITE or fault not in _LOCAL:
                raise StoreFault(fault, path, str(error)) from error
            target.unlink()
            self._missing.append(Missing(path, f"cannot be read: {error}"))
            return
        source.execute("ROLLBACK")  # its write-ahead log may start over now
        self._tell(before + target.stat().st_size)
        self._files.append(_described(target, path))

    def _segment(self, folder: Folder, one: Segment) -> None:
        source = telemetry.segment_path(folder.segments, one.sha256)
        path = f"segments/{source.name}"
        try:
            file = self._plain(source, path)
        except FileNotFoundError:
            self._missing.append(Missing(path, "let go while the backup was made"))
            return
        if file.sha256 != one.sha256.hex():
            self._files.remove(file)
            (self._to / path).unlink()
            self._missing.append(Missing(path, "damaged when the backup was made"))

    def _plain(self, source: Path, path: str) -> File:
        file = _copy(source, self._to / path, path, lambda size: self._tell(self._done + size))
        self._files.append(file)
        return file

    def _tell(self, done: int) -> None:
        self._done = done
        self._progress(min(done, self._total), self._total)


def _who(db: sqlite3.Connection) -> tuple[Identity, Head, str]:
    identity, revision = read_identity(db), revision_of(db)
    if identity is None or revision is None:
        raise BackupProblem("this appliance was never started; there is nothing to back up yet")
    return identity, head_of(db, identity.log), revision


def _size(db: sqlite3.Connection) -> int:
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    return int(pages) * _page_bytes(db)


def _page_bytes(db: sqlite3.Connection) -> int:
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int(size)


# -- making a box of one ----------------------------------------------------------------------------------------


def restore(source: Path, root: Path, progress: Progress = lambda done, total: None) -> str:
    """Make a data folder of the backup in `source`. `root` is empty, or absent. Returns a sentence for the person.

    BackupProblem or StoreFault when that cannot be done; then `root` is as it was.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise BackupProblem(f"{root} is not empty; restore into a new folder, or move the old one away first")
    manifest = _manifest(source)
    parts = {"": manifest} | {f"{TENANTS}/{name}": _part(source, name, told) for name, told in manifest.tenants.items()}
    total = 2 * sum(file.bytes for part in parts.values() for file in part.files)
    done = 0

    def tell(size: int) -> None:
        nonlocal done
        progress(done := done + size, total)

    for place, part in parts.items():
        for file in part.files:
            if _digest(source / place / file.path, tell) != (file.bytes, file.sha256):
                raise BackupProblem(f"{source / place}: {file.path} is not what the manifest says; use another backup")
        _check_key(source / place, part)
    with _made_whole(root) as fresh:
        logs = [_put(source / place, part, fresh / place, tell) for place, part in parts.items()]
    progress(total, total)
    lost = f"; {len(manifest.missing)} files were missing from the backup" if manifest.missing else ""
    more = f", with {len(parts) - 1} more tenants" if len(parts) > 1 else ""
    return f"{root} is {manifest.site} as of event {manifest.seq:,}; it goes on in epoch {logs[0].epoch}{more}{lost}"


def _part(source: Path, name: str, told: str) -> Manifest:
    """What the signed manifest of a hub says of another of its tenants."""
    place = source / TENANTS / name
    if Path(name).name != name or name in (".", ".."):
        raise BackupProblem(f"{source}: the manifest does not describe a backup ({name!r} is no tenant)")
    part = _manifest(place)
    if hashlib.sha256((place / MANIFEST).read_bytes()).hexdigest() != told or part.tenant != name:
        raise BackupProblem(f"{place} is not the backup that was made with this one; use another backup")
    return part


def _put(source: Path, manifest: Manifest, to: Path, tell: Callable[[int], None]) -> Log:
    folder = Folder(to)
    folder.prepare()
    for file in manifest.files:
        (to / file.path).parent.mkdir(mode=0o700, exist_ok=True)
        if _copy(source / file.path, to / file.path, file.path, tell) != file:
            raise BackupProblem(f"{source}: {file.path} changed while it was read; the medium may be failing")
    log = _start_epoch(folder, manifest)
    for name in filter(Path.is_dir, map(to.joinpath, _FOLDERS)):
        keys.sync_folder(name)
    return log


def _manifest(source: Path) -> Manifest:
    try:
        with (source / MANIFEST).open("rb") as file:
            raw = file.read(_MANIFEST_BYTES_MAX)
        signature = (source / SIGNATURE).read_bytes()
    except OSError as error:
        raise BackupProblem(f"{source} is no backup of Skerry, or not all of one: {error}") from error
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
        key = envelope.public_key(bytes.fromhex(manifest.public_key))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BackupProblem(f"{source}: {MANIFEST} cannot be read ({error}); use another backup") from error
    if not envelope.vouches(key, signature, _DOMAIN + raw):
        raise BackupProblem(f"{source}: {MANIFEST} was changed after it was signed; use another backup")
    _check_manifest(source, manifest)
    return manifest


def _check_manifest(source: Path, manifest: Manifest) -> None:
    if manifest.format != FORMAT or not is_known(manifest.revision):
        made_by = f"{manifest.format}, tables of revision {manifest.revision}"
        raise BackupProblem(
            f"{source} was made by another version of Skerry ({made_by}; this one knows {FORMAT}, {REVISION});"
            " restore it with that version"
        )
    paths = [file.path for file in manifest.files]
    stray = next((path for path in paths if not _PATH.fullmatch(path)), None)
    if stray is not None or len(set(paths)) != len(paths) or not {_SITE, _KEY} <= set(paths):
        raise BackupProblem(
            f"{source}: the manifest does not describe a backup ({stray or 'files are missing from it'})"
        )


def _check_key(source: Path, manifest: Manifest) -> None:
    if keys.public_bytes(_key_of(source / _KEY)).hex() != manifest.public_key:
        raise BackupProblem(f"{source}: the key in it is not the one that signed the manifest; use another backup")


def _start_epoch(folder: Folder, manifest: Manifest) -> Log:
    former = Log(manifest.tenant, manifest.writer, manifest.epoch)
    log = former._replace(epoch=former.epoch + 1)
    key = keys.load_or_create(folder.writer_key)
    public_key, clock = keys.public_bytes(key), WallClock()
    journal = Journal(log, key, clock)
    with closing(connect(folder.site_db)) as db:
        head = head_of(db, former)
        identity = read_identity(db)
        if (identity, head.seq, head.hash.hex()) != (Identity(former, manifest.site), manifest.seq, manifest.hash):
            raise BackupProblem("the journal in this backup is not the one that the manifest names; use another backup")
        try:
            db.execute("BEGIN IMMEDIATE")
            start_log(db, log, public_key, clock.now_ns())
            write_identity(db, Identity(log, manifest.site))
            db.execute("DELETE FROM session")
            journal.opened(db)
            journal.stage(log.writer, events.LogStarted("restored", public_key, former.writer, former.epoch, *head))
            _ask_again(db, manifest)
            for body in _let_go(db, manifest, clock.now_ns()):
                journal.stage(log.writer, body)
            journal.seal(db)
            db.execute("COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.DatabaseError as error:
            raise StoreFault(fault_of(error) or Fault.IO, _SITE, str(error)) from error
    return log


def _ask_again(db: sqlite3.Connection, manifest: Manifest) -> None:
    """What a site once handed over and is not in the backup is asked for again; the site may have it still."""
    hashes = [(peers.WANTED, bytes.fromhex(name)) for name in _lost(manifest) if _has_links(db)]
    db.executemany("UPDATE custody SET state=?, reason='' WHERE sha256=?", hashes)


def _lost(manifest: Manifest) -> dict[str, str]:
    """Segments that are not in the backup, by the hash in their name, and why."""
    missing = [one for one in manifest.missing if one.path.startswith("segments/")]
    return {Path(one.path).name.partition(".")[0]: one.reason for one in missing}


def _let_go(db: sqlite3.Connection, manifest: Manifest, now_ns: int) -> Iterator[events.TelemetryDropped]:
    reasons = _lost(manifest)
    for one in telemetry.live(db):
        reason = reasons.get(one.sha256.hex())
        if reason is not None and telemetry.drop(db, one.first_id, now_ns):
            yield one.dropped(reason)


# -- small things -----------------------------------------------------------------------------------------------


@contextmanager
def _made_whole(to: Path) -> Iterator[Path]:
    """A folder that becomes `to` when the block ends well, and is gone when it does not.

    It is made beside `to` and renamed; or within, when `to` is there already (an empty one may be a mounted disk).
    """
    within = to.exists()
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to if within else to.parent))
    except OSError as error:
        raise BackupProblem(f"{to} cannot be made: {error.strerror}") from error
    try:
        yield fresh
        keys.sync_folder(fresh)
        if within:
            for path in sorted(fresh.iterdir(), key=lambda path: path.name == _SITE):  # what makes it a box comes last
                path.rename(to / path.name)
            fresh.rmdir()
        else:
            fresh.rename(to)
        keys.sync_folder(to if within else to.parent)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise BackupProblem(f"{error.filename or to}: {error.strerror}; nothing is left of {to}") from error
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _key_of(path: Path) -> PrivateKey:
    if not path.exists():
        raise BackupProblem(f"{path}, the writer's key, is missing")
    try:
        return keys.load_or_create(path)
    except keys.KeyProblem as problem:
        raise BackupProblem(str(problem)) from problem


def _copy(source: Path, target: Path, path: str, tell: Callable[[int], None]) -> File:
    """A durable copy, for its owner alone. What is hashed is what was written."""
    digest, size = hashlib.sha256(), 0
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as reading, os.fdopen(fd, "wb") as writing:
        while chunk := reading.read(_COPY_BYTES):
            digest.update(chunk)
            size += writing.write(chunk)
            tell(len(chunk))
        writing.flush()
        os.fsync(writing.fileno())
    return File(path, size, digest.hexdigest())


def _described(target: Path, path: str) -> File:
    """A database that was just copied, made durable. Only copies come here: closing a database's file would drop the
    locks that SQLite holds on it in this process."""
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return File(path, target.stat().st_size, digest)


def _digest(path: Path, tell: Callable[[int], None]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_COPY_BYTES):
                digest.update(chunk)
                size += len(chunk)
                tell(len(chunk))
    except OSError as error:
        raise BackupProblem(f"{path} cannot be read: {error.strerror}; use another backup") from error
    return size, digest.hexdigest()


def _write(path: Path, raw: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
