#!/usr/bin/env python3
"""How does what a device measures reach the nearest Skerry site, once, whatever happens in between?

    agent.py put  --config agent.json [LINE ...]     queue records, one JSON object a line (from standard input without LINE)
    agent.py file --config agent.json PATH           queue a file
    agent.py run  --config agent.json                send what is queued, for ever
    agent.py status --config agent.json              what waits

Rules of this file
  1  Standard library only, one file: it runs on whatever has Python 3.9.
  2  `put` returns after the record is on the disk. It leaves the queue when a site has acknowledged it, or when it is too
     old or the queue too large; what goes like that is counted, and told to the site by a record of its own.
  3  A record's number in the queue is its number for ever. A site stores each number once.
  4  A finish that nobody answered is in doubt: that batch waits for that site, since elsewhere it might count twice. After
     `doubt_s` it goes elsewhere all the same, and says so. Nothing else waits for it.
  5  Nobody who is not vouched for by the pinned CA hears the token. A site that was only discovered is never spoken to
     in the clear.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import hashlib
import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import ssl
import struct
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

NS = 1_000_000_000
RECORD_BYTES_MAX = 65_536
ANSWER_BYTES_MAX = 1 << 20
TIMEOUT_S = 10.0
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.5, 60.0
PROBE_BAD_MAX = 2  # silent probes in a row, and a site counts as away
BETTER = 0.7  # another site is nearer when its round trip is this part of ours,
BETTER_S = 0.002  # and so much less in seconds,
BETTER_PROBES = 3  # so often in a row
CHUNK_TRIES = 3
TICK_S = 15.0  # between two looks at what has become too old, and two writes of the time


class Settings(NamedTuple):
    """agent.json. `sites` are URLs; those with http: are trusted as they stand, so they belong on a line of your own."""

    queue: str
    device: str = ""
    token_file: str = ""
    ca_file: str = ""
    sites: tuple[str, ...] = ()
    discover: bool = False
    discover_interface: str = ""
    keep_hours: float = 72.0
    keep_mib: float = 256.0
    batch_records: int = 500
    batch_kib: int = 512
    chunk_kib: int = 256
    every_s: float = 2.0
    probe_s: float = 5.0
    doubt_s: float = 900.0
    control: bool = True


def read_settings(path: str) -> Settings:
    said = json.loads(Path(path).read_text(encoding="utf-8"))
    unknown = set(said) - set(Settings._fields)
    if unknown:
        raise SystemExit(f"agent: {path}: unknown keys {', '.join(sorted(unknown))}")
    if "sites" in said:
        said["sites"] = tuple(said["sites"])
    return Settings(**said)


# -- the queue ------------------------------------------------------------------------------------------------------

_TABLES = """
CREATE TABLE IF NOT EXISTS entry (seq INTEGER PRIMARY KEY AUTOINCREMENT, tick REAL NOT NULL, size INTEGER NOT NULL,
    raw BLOB NOT NULL, path TEXT);
CREATE TABLE IF NOT EXISTS batch (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, site TEXT NOT NULL, since REAL NOT NULL,
    doubt TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS gap (reason TEXT PRIMARY KEY, first INTEGER, last INTEGER, records INTEGER, bytes INTEGER);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value);
"""


class Batch(NamedTuple):
    """Consecutive records under way. `site` is where it is in doubt, or empty; `doubt` are sites that it was released from."""

    first: int
    last: int
    site: str
    since: float
    doubt: tuple[str, ...]


class Queue:
    """Durable, and shared by any number of processes. It has no write-ahead log: with several connections, SQLite before
    3.51.3 may corrupt one. Time is counted in `ticks`, seconds that the agent ran: a wall clock may be decades off."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        path = Path(settings.queue)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        self._lock = threading.RLock()
        for pragma in ("journal_mode=PERSIST", "synchronous=FULL"):
            self._db.execute(f"PRAGMA {pragma}")
        with self._transaction() as db:
            for statement in _TABLES.split(";"):
                db.execute(statement)
            db.execute("INSERT OR IGNORE INTO meta VALUES ('stream', ?)", (os.urandom(8).hex(),))
            for key in ("tick", "bytes"):
                db.execute("INSERT OR IGNORE INTO meta VALUES (?, 0)", (key,))
        self.stream = str(self._meta("stream"))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _meta(self, key: str) -> Any:
        return self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()[0]

    def close(self) -> None:
        self._db.close()

    # -- in

    def put(self, lines: Iterable[bytes], path: str | None = None) -> list[int]:
        """The numbers of the records, which are on the disk then. ValueError for what is no JSON object on one line."""
        raws = [checked(line) for line in lines]
        with self._transaction() as db:
            tick = self._meta("tick")
            rows = [(tick, len(raw), raw, path) for raw in raws]
            sql = "INSERT INTO entry (tick,size,raw,path) VALUES (?,?,?,?)"
            numbers = [db.execute(sql, row).lastrowid or 0 for row in rows]
            self._count(db, sum(map(len, raws)))
            self._trim(db)
        return numbers

    def tick(self, seconds: float) -> None:
        """So much time has passed; what has become too old goes."""
        with self._transaction() as db:
            db.execute("UPDATE meta SET value=value+? WHERE key='tick'", (seconds,))
            self._trim(db)

    def _count(self, db: sqlite3.Connection, size: int) -> None:
        db.execute("UPDATE meta SET value=value+? WHERE key='bytes'", (size,))

    def _trim(self, db: sqlite3.Connection) -> None:
        """Let go of the oldest that are not under way: those of a batch may have arrived."""
        free = "SELECT seq, size FROM entry WHERE NOT EXISTS (SELECT 1 FROM batch WHERE seq BETWEEN first AND last)"
        oldest = self._meta("tick") - self._settings.keep_hours * 3600
        for seq, size in db.execute(f"{free} AND tick < ? ORDER BY seq", (oldest,)).fetchall():
            self._let_go(db, "too old", seq, size)
        over = self._meta("bytes") - self._settings.keep_mib * 1024 * 1024
        if over > 0:
            for seq, size in db.execute(f"{free} ORDER BY seq"):
                if over <= 0:
                    break
                over -= size
                self._let_go(db, "queue full", seq, size)

    def _let_go(self, db: sqlite3.Connection, reason: str, seq: int, size: int) -> None:
        db.execute("DELETE FROM entry WHERE seq=?", (seq,))
        self._count(db, -size)
        db.execute(
            "INSERT INTO gap VALUES (?,?,?,1,?) ON CONFLICT (reason) DO UPDATE SET first=min(first,excluded.first),"
            " last=max(last,excluded.last), records=records+1, bytes=bytes+excluded.bytes",
            (reason, seq, seq, size),
        )

    # -- out

    def batches(self) -> list[Batch]:
        with self._lock:
            rows = self._db.execute("SELECT * FROM batch ORDER BY first").fetchall()
        return [Batch(first, last, site, since, tuple(json.loads(doubt))) for first, last, site, since, doubt in rows]

    def next(self, site: str) -> Batch | None:
        """What may go to `site` now, oldest first: what is under way and not in doubt elsewhere, else a new batch."""
        tick = self._meta("tick")
        for batch in self.batches():
            if batch.site in ("", site):
                return batch
            if tick - batch.since >= self._settings.doubt_s:
                return self._write(batch._replace(site="", doubt=tuple(sorted({*batch.doubt, batch.site}))))
        return self._cut()

    def _cut(self) -> Batch | None:
        """A new batch: consecutive records that are in none, or one file."""
        with self._transaction() as db:
            self._tell_gaps(db)
            first = last = size = 0
            rows = db.execute(
                "SELECT seq, size, path FROM entry WHERE NOT EXISTS (SELECT 1 FROM batch WHERE seq BETWEEN first AND last)"
                " ORDER BY seq LIMIT ?",
                (self._settings.batch_records,),
            )
            for seq, more, path in rows:
                if first and (seq != last + 1 or path is not None or size + more > self._settings.batch_kib * 1024):
                    break
                first, last, size = first or seq, seq, size + more
                if path is not None:
                    break
            if not first:
                return None
            batch = Batch(first, last, "", 0.0, ())
            db.execute("INSERT INTO batch VALUES (?,?,?,?,?)", (first, last, "", 0.0, "[]"))
        return batch

    def _tell_gaps(self, db: sqlite3.Connection) -> None:
        """What was let go becomes a record like any other."""
        for reason, first, last, records, size in db.execute("SELECT * FROM gap").fetchall():
            said = {"type": "gap", "gap_reason": reason, "gap_first": first, "gap_last": last}
            raw = json.dumps({**said, "gap_records": records, "gap_bytes": size}).encode()
            db.execute("INSERT INTO entry (tick,size,raw) VALUES (?,?,?)", (self._meta("tick"), len(raw), raw))
            self._count(db, len(raw))
        db.execute("DELETE FROM gap")

    def _write(self, batch: Batch) -> Batch:
        with self._transaction() as db:
            row = (batch.site, batch.since, json.dumps(batch.doubt), batch.first)
            db.execute("UPDATE batch SET site=?, since=?, doubt=? WHERE first=?", row)
        return batch

    def lines(self, batch: Batch) -> list[bytes]:
        with self._lock:
            rows = self._db.execute(
                "SELECT raw FROM entry WHERE seq BETWEEN ? AND ? ORDER BY seq", batch[:2]
            ).fetchall()
        return [bytes(raw) for (raw,) in rows]

    def path(self, batch: Batch) -> str | None:
        with self._lock:
            row = self._db.execute("SELECT path FROM entry WHERE seq=?", (batch.first,)).fetchone()
        return row[0] if row else None

    def doubted(self, batch: Batch, site: str) -> Batch:
        """About to finish it at `site`: from here on only that site can say what became of it."""
        return self._write(batch._replace(site=site, since=self._meta("tick")))

    def sure(self, batch: Batch) -> Batch:
        """`site` says that it does not hold it: it may go anywhere."""
        return self._write(batch._replace(site=""))

    def done(self, batch: Batch) -> None:
        """A site has it: it leaves the queue."""
        with self._transaction() as db:
            self._remove(db, batch)

    def refused(self, batch: Batch, words: str) -> None:
        """No site will ever take it: it goes, and is told like what was too old."""
        with self._transaction() as db:
            for seq, size in db.execute("SELECT seq, size FROM entry WHERE seq BETWEEN ? AND ?", batch[:2]).fetchall():
                self._let_go(db, f"refused: {words[:100]}", seq, size)
            db.execute("DELETE FROM batch WHERE first=?", (batch.first,))

    def _remove(self, db: sqlite3.Connection, batch: Batch) -> None:
        (size,) = db.execute("SELECT coalesce(sum(size), 0) FROM entry WHERE seq BETWEEN ? AND ?", batch[:2]).fetchone()
        db.execute("DELETE FROM entry WHERE seq BETWEEN ? AND ?", batch[:2])
        db.execute("DELETE FROM batch WHERE first=?", (batch.first,))
        self._count(db, -size)

    def backlog(self) -> dict[str, Any]:
        """What waits: numbers, bytes, and the lowest number that may still come (`floor`)."""
        with self._lock:
            first, last, records = self._db.execute("SELECT min(seq), max(seq), count(*) FROM entry").fetchone()
            (next_seq,) = self._db.execute("SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence").fetchone()
            size, doubts = (
                self._meta("bytes"),
                self._db.execute("SELECT count(*) FROM batch WHERE site<>''").fetchone()[0],
            )
        floor = first if first is not None else next_seq
        said = {"stream": self.stream, "floor": floor, "last": last or 0, "records": records}
        return {**said, "bytes": size, "in_doubt": doubts}


def checked(line: bytes) -> bytes:
    raw = line.strip()
    if len(raw) > RECORD_BYTES_MAX or b"\n" in raw:
        raise ValueError(f"a record is one line of at most {RECORD_BYTES_MAX} bytes")
    try:
        if not isinstance(json.loads(raw), dict):
            raise ValueError("a record is a JSON object")
    except RecursionError as error:
        raise ValueError("a record nests too deep") from error
    return raw


# -- talking to a site ----------------------------------------------------------------------------------------------


class Gone(Exception):
    """The site did not answer; what it did is not known."""


class No(Exception):
    """The site answered, and refused. `status`, its words, and how long to wait."""

    def __init__(self, status: int, words: str, wait_s: float) -> None:
        super().__init__(f"{status}: {words}")
        self.status, self.words, self.wait_s = status, words, wait_s


class Address(NamedTuple):
    """Where a site is. `name` is what its certificate must say; `discovered` by multicast, so trusted with a CA only."""

    scheme: str
    host: str
    port: int
    name: str
    discovered: bool = False


def address_of(url: str) -> Address:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SystemExit(f"agent: {url!r} is no address of a site; write https://HOST:PORT")
    return Address(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), parts.hostname)


class Credentials:
    """What this device shows, and whom it believes."""

    def __init__(self, settings: Settings) -> None:
        self.headers = {"skerry-device": settings.device} if settings.device else {}
        if settings.token_file:
            token = Path(settings.token_file).read_text(encoding="ascii").strip()
            self.headers = {"authorization": f"Bearer {token}"}
        self.context: ssl.SSLContext | None = None
        self.fingerprint = ""
        if settings.ca_file:
            self.context = ssl.create_default_context(cafile=settings.ca_file)
            der = ssl.PEM_cert_to_DER_cert(Path(settings.ca_file).read_text(encoding="ascii"))
            self.fingerprint = hashlib.sha256(der).hexdigest()

    def trusts(self, address: Address) -> bool:
        return address.scheme == "https" or not address.discovered

    def connect(self, address: Address, timeout_s: float) -> socket.socket:
        """OSError (TLS failures are some)."""
        if not self.trusts(address):
            raise OSError("a discovered site without TLS is not spoken to")
        line = socket.create_connection((address.host, address.port), timeout_s)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.scheme == "http":
            return line
        try:
            context = self.context or ssl.create_default_context()
            return context.wrap_socket(line, server_hostname=address.name)
        except BaseException:
            line.close()
            raise


class Site:
    """One site over one connection that is kept while it lasts."""

    def __init__(self, address: Address, credentials: Credentials, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address
        self._credentials, self._timeout_s = credentials, timeout_s
        self._line: http.client.HTTPConnection | None = None

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """The answer's JSON. No when it refuses, Gone when nobody knows."""
        try:
            if self._line is None:
                line = http.client.HTTPConnection(self.address.host, self.address.port, timeout=self._timeout_s)
                line.sock = self._credentials.connect(self.address, self._timeout_s)
                self._line = line
            said = {**self._credentials.headers, **(headers or {})}
            self._line.request(method, path, body, said)
            answer = self._line.getresponse()
            raw = answer.read(ANSWER_BYTES_MAX)
            if answer.will_close:
                self.close()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Gone(f"{self.address.host}:{self.address.port}: {error or type(error).__name__}") from error
        try:
            found = json.loads(raw)
        except ValueError:
            found = None
        if answer.status >= 300:
            wait = answer.headers.get("retry-after", "")
            words = str(found.get("error", "")) if isinstance(found, dict) else str(answer.reason)
            raise No(answer.status, words, float(wait) if wait.isdigit() else 0.0)
        if not isinstance(found, dict):  # cut off in the middle, or no site of ours: what it did is not known
            self.close()
            raise Gone(f"{self.address.host}:{self.address.port}: half an answer")
        return found

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


class Content:
    """The bytes of a batch: its lines, compressed in memory, or a file that is read where it lies."""

    def __init__(self, queue: Queue, batch: Batch) -> None:
        path = queue.path(batch)
        self.path = Path(path) if path is not None else None
        self.error = ""
        if self.path is None:
            self.form, self.encoding, self.name = "records", "gzip", ""
            self.raw = gzip.compress(b"\n".join(queue.lines(batch)) + b"\n", 5, mtime=0)
            self.size, self.sha256 = len(self.raw), hashlib.sha256(self.raw).hexdigest()
            return
        self.form, self.encoding, self.name, hashed = "file", "identity", self.path.name, hashlib.sha256()
        self.size = 0
        try:
            with self.path.open("rb") as file:
                while piece := file.read(1 << 20):
                    hashed.update(piece)
                    self.size += len(piece)
        except OSError as error:
            self.error = str(error)
        self.sha256 = hashed.hexdigest()

    def read(self, offset: int, size: int) -> bytes:
        if self.path is None:
            return self.raw[offset : offset + size]
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


class Dispatch:
    """Brings batches to a site. `send` returns once the batch has left the queue."""

    def __init__(self, queue: Queue, settings: Settings) -> None:
        self._queue, self._settings = queue, settings
        self.sent = 0

    def greet(self, site: Site) -> str:
        """Who is there. No, Gone."""
        return str(site.ask("GET", f"/v1/streams/{self._queue.stream}")["site"])

    def send(self, site: Site, name: str, batch: Batch, window_id: int = 0) -> None:
        """No, Gone: it stays in the queue, in doubt if it was to be finished."""
        content = Content(self._queue, batch)
        if content.error or not content.size:
            self._queue.refused(batch, content.error or "an empty file")
            return
        said = {
            "bytes": content.size,
            "sha256": content.sha256,
            "stream": self._queue.stream,
            "first": batch.first,
            "last": batch.last,
            "floor": min(self._queue.backlog()["floor"], batch.first),
            "form": content.form,
            "encoding": content.encoding,
            "name": content.name,
            "chunk_bytes": self._settings.chunk_kib * 1024,
            "doubt": [one for one in batch.doubt if one != name],
            "window_id": window_id,
        }
        try:
            self._send(site, name, batch, content, json.dumps(said).encode())
        except No as no:
            if no.status in (413, 422):
                self._queue.refused(batch, no.words)
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise Gone(f"{site.address.host}:{site.address.port} speaks otherwise: {error!r}") from error

    def _send(self, site: Site, name: str, batch: Batch, content: Content, said: bytes) -> None:
        answer = site.ask("POST", "/v1/uploads", said)
        if answer["state"] == "done":
            return self._done(batch)
        upload = str(answer["id"])
        if batch.site and answer["state"] in ("open", "whole") and not answer.get("noted"):
            batch = self._queue.sure(batch)  # it was in doubt here, and is not stored
        while answer.get("ask"):
            answer = self._window(site, upload, content, answer)
        batch = self._queue.doubted(batch, name)
        try:
            while answer["state"] != "done":
                answer = site.ask("POST", f"/v1/uploads/{upload}/finish")
        except No as no:
            if no.status in (401, 403, 409, 422, 429):
                self._queue.sure(batch)  # it was turned away before anything was begun
            raise
        return self._done(batch)

    def _window(self, site: Site, upload: str, content: Content, answer: dict[str, Any]) -> dict[str, Any]:
        """All chunks that are missing of the window that is asked for. What is acknowledged is the answer to the last."""
        ask = answer["ask"]
        size = int(ask["hints"]["chunk_bytes"])
        for offset in ask["hints"]["missing"]:
            chunk = content.read(offset, size)
            digest = base64.b64encode(hashlib.sha256(chunk).digest()).decode()
            headers = {"upload-offset": str(offset), "upload-window": str(ask["window_id"])}
            headers["content-digest"] = f"sha-256=:{digest}:"
            for attempt in range(CHUNK_TRIES):
                try:
                    answer = site.ask("PATCH", f"/v1/uploads/{upload}", chunk, headers)
                    break
                except No as no:
                    if no.status != 422 or attempt == CHUNK_TRIES - 1:  # it was changed on its way: once more
                        raise No(503 if no.status == 422 else no.status, no.words, no.wait_s) from no
        return answer

    def _done(self, batch: Batch) -> None:
        self._queue.done(batch)
        self.sent += batch.last - batch.first + 1


class Backoff:
    """Bounded, exponential, with a random part, so that a fleet does not come back all at once."""

    def __init__(self, dice: random.Random | None = None) -> None:
        self._dice = dice or random.Random()
        self._step_s = BACKOFF_S_MIN

    def wait_s(self, at_least_s: float = 0.0) -> float:
        wait_s = self._dice.uniform(self._step_s / 2, self._step_s)
        self._step_s = min(self._step_s * 2, BACKOFF_S_MAX)
        return max(wait_s, at_least_s)

    def reset(self) -> None:
        self._step_s = BACKOFF_S_MIN


# -- which site is nearest ------------------------------------------------------------------------------------------


class Peer:
    """A site as seen from here: its round trip (smoothed, seconds), and how often in a row it was silent or nearer."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.name = ""
        self.rtt_s = 0.0
        self.silent = PROBE_BAD_MAX  # until it has answered once
        self.nearer = 0

    @property
    def is_there(self) -> bool:
        return self.silent < PROBE_BAD_MAX

    def answered(self, name: str, rtt_s: float) -> None:
        self.rtt_s = rtt_s if not self.is_there or name != self.name else self.rtt_s * 0.7 + rtt_s * 0.3
        self.name, self.silent = name, 0

    def missed(self) -> None:
        self.silent += 1


def choose(current: Peer | None, peers: Sequence[Peer]) -> Peer | None:
    """The site to send to. One that serves is left when it is away, or when another is clearly nearer for a while."""
    there = sorted((peer for peer in peers if peer.is_there), key=lambda peer: peer.rtt_s)
    if not there:
        return current
    if current is None or not current.is_there or current not in peers:
        return there[0]
    for peer in there:
        clearly = peer.rtt_s < current.rtt_s * BETTER and current.rtt_s - peer.rtt_s > BETTER_S
        peer.nearer = peer.nearer + 1 if peer is not current and clearly else 0
    return there[0] if there[0].nearer >= BETTER_PROBES else current


SERVICE = "_skerry._tcp.local"
_MDNS = ("224.0.0.251", 5353)


def discovered(fingerprint: str, interface: str = "", seconds: float = 1.0) -> list[Address]:
    """Sites that answer by multicast DNS (RFC 6762 6.7: a one-shot query) and name the CA that is pinned here. What they
    say is a hint only: the certificate decides."""
    query = (
        struct.pack(">6H", random.getrandbits(16), 0, 1, 0, 0, 0) + _dns_name(SERVICE) + struct.pack(">2H", 12, 0x8001)
    )
    found: dict[str, Address] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        if interface:
            line.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
            line.bind((interface, 0))
        until = time.monotonic() + seconds
        try:
            line.sendto(query, _MDNS)
            while (left := until - time.monotonic()) > 0:
                line.settimeout(left)
                raw, _ = line.recvfrom(9_000)
                found.update((name, address) for name, address, ca in sites_in(raw) if ca and ca == fingerprint)
        except OSError:
            pass  # no network to ask, or nobody answers any more
    return list(found.values())


def sites_in(raw: bytes) -> list[tuple[str, Address, str]]:
    """Instance, address and the CA's fingerprint of each site in a DNS message. Never raises."""
    try:
        return _sites_in(raw)
    except (struct.error, IndexError, ValueError):
        return []


def _sites_in(raw: bytes) -> list[tuple[str, Address, str]]:
    _, flags, questions, *counts = struct.unpack_from(">6H", raw)
    at = 12
    for _ in range(questions):
        at = _name_at(raw, at)[1] + 4
    services: dict[str, tuple[int, str]] = {}
    texts: dict[str, dict[str, str]] = {}
    hosts: dict[str, str] = {}
    for _ in range(min(sum(counts), 256) if flags & 0x8000 else 0):
        name, at = _name_at(raw, at)
        kind, _, _, size = struct.unpack_from(">HHIH", raw, at)
        at += 10
        if at + size > len(raw):
            raise ValueError("cut off")
        if kind == 33:
            services[name] = (struct.unpack_from(">H", raw, at + 4)[0], _name_at(raw, at + 6)[0])
        elif kind == 16:
            texts[name] = _texts(raw[at : at + size])
        elif kind == 1 and size == 4:
            hosts[name] = socket.inet_ntoa(raw[at : at + 4])
        at += size
    found = []
    for instance, (port, host) in services.items():
        if instance.lower().endswith(SERVICE) and host in hosts:
            said = texts.get(instance, {})
            address = Address("https", hosts[host], port, said.get("name") or host.rstrip("."), True)
            found.append((instance, address, said.get("ca", "")))
    return found


def _dns_name(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def _name_at(raw: bytes, at: int) -> tuple[str, int]:
    """A name (RFC 1035 4.1.4), and where what follows it begins."""
    parts: list[str] = []
    end = 0
    for _ in range(64):
        size = raw[at]
        if size >= 0xC0:
            end = end or at + 2
            at = (size & 0x3F) << 8 | raw[at + 1]
        elif size:
            parts.append(raw[at + 1 : at + 1 + size].decode(errors="replace"))
            at += 1 + size
        else:
            return ".".join(parts), end or at + 1
    raise ValueError("a name without an end")


def _texts(raw: bytes) -> dict[str, str]:
    said, at = {}, 0
    while at < len(raw):
        key, _, value = raw[at + 1 : at + 1 + raw[at]].decode(errors="replace").partition("=")
        said[key], at = value, at + 1 + raw[at]
    return said


# -- the control line -----------------------------------------------------------------------------------------------


class Control(threading.Thread):
    """A WebSocket (RFC 6455) to the site that serves: it says when somebody looks at this device, and asks for data at once.
    Without it everything works, a little later. What it asked for stands in `asked` until it is taken."""

    def __init__(self, address: Address, credentials: Credentials, queue: Queue, wake: threading.Event) -> None:
        super().__init__(name="control", daemon=True)
        self.every_s = 0.0  # what the site wishes; 0: nothing
        self.asked: list[int] = []
        self.over = False
        self._address, self._credentials, self._queue, self._wake = address, credentials, queue, wake
        self._line: socket.socket | None = None
        self._sending = threading.Lock()
        self._rest = b""

    def run(self) -> None:
        backoff = Backoff()
        while not self.over:
            with contextlib.suppress(OSError, ValueError, KeyError, struct.error):  # it is a help, and comes back
                self._talk(backoff)
            self.every_s = 0.0
            self.stop_line()
            time.sleep(backoff.wait_s())

    def _talk(self, backoff: Backoff) -> None:
        self._line = line = self._credentials.connect(self._address, TIMEOUT_S)
        key = base64.b64encode(os.urandom(16)).decode()
        head = [f"GET /v1/control HTTP/1.1\r\nhost: {self._address.name}\r\nupgrade: websocket\r\nconnection: upgrade"]
        head += [f"sec-websocket-key: {key}\r\nsec-websocket-version: 13"]
        head += [f"{name}: {value}" for name, value in self._credentials.headers.items()]
        line.sendall("\r\n".join([*head, "\r\n"]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = line.recv(4_096)
            if not more or len(answer) > 16_384:
                raise OSError("no answer")
            answer += more
        head_raw, _, self._rest = answer.partition(b"\r\n\r\n")
        proof = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        if b" 101 " not in head_raw.split(b"\r\n")[0] or proof not in head_raw:
            raise OSError("it is no websocket")
        backoff.reset()
        line.settimeout(TIMEOUT_S * 6)  # the site pings more often than that
        self.say({"type": "hello", **self._queue.backlog()})
        while not self.over:
            self._heard(json.loads(self._message()))

    def _heard(self, said: dict[str, Any]) -> None:
        if said["type"] == "chunk.request":
            self.asked.append(int(said["window_id"]))
            self._wake.set()
        elif said["type"] == "pace":
            self.every_s = max(float(said["every_s"]), 0.1)
            self._wake.set()

    def say(self, said: dict[str, Any]) -> None:
        self._send(1, json.dumps(said).encode())

    def backlog(self) -> None:
        """Tell what waits, if somebody listens."""
        with contextlib.suppress(OSError):
            self.say({"type": "backlog", **self._queue.backlog()})

    def _send(self, kind: int, raw: bytes) -> None:
        mask = os.urandom(4)
        size = len(raw)
        head = bytes([0x80 | kind, 0x80 | size]) if size < 126 else struct.pack(">BBH", 0x80 | kind, 0xFE, size)
        masked = bytes(byte ^ mask[place & 3] for place, byte in enumerate(raw))
        with self._sending:
            if self._line is not None:
                self._line.sendall(head + mask + masked)

    def _message(self) -> bytes:
        """The next message; pings are answered on the way."""
        whole = b""
        while True:
            first, size = self._read(2)
            size &= 0x7F
            if size > 125:
                size = int.from_bytes(self._read(2 if size == 126 else 8), "big")
            if size + len(whole) > ANSWER_BYTES_MAX:
                raise OSError("a message without measure")
            raw = self._read(size)
            kind = first & 0x0F
            if kind == 8:
                raise OSError("closed")
            if kind == 9:
                self._send(10, raw)
            elif kind < 3:
                whole += raw
                if first & 0x80:
                    return whole

    def _read(self, size: int) -> bytes:
        while len(self._rest) < size:
            line = self._line
            more = line.recv(65_536) if line is not None else b""
            if not more:
                raise OSError("closed")
            self._rest += more
        raw, self._rest = self._rest[:size], self._rest[size:]
        return raw

    def stop_line(self) -> None:
        with self._sending:
            line, self._line = self._line, None
        if line is not None:
            line.close()

    def stop(self) -> None:
        self.over = True
        self.stop_line()


# -- all of it ------------------------------------------------------------------------------------------------------


class Agent:
    """`run` until `stop`."""

    def __init__(self, settings: Settings, say: Callable[[str], None] = lambda words: None) -> None:
        self.settings, self.queue, self._say = settings, Queue(settings), say
        self.current: Peer | None = None
        self.moves = 0
        self._credentials = Credentials(settings)
        self._dispatch = Dispatch(self.queue, settings)
        self._peers: dict[Address, Peer] = {}
        self._peers_lock = threading.Lock()
        self._wake, self._over = threading.Event(), threading.Event()
        self._control: Control | None = None

    def stop(self, *_: object) -> None:
        self._over.set()
        self._wake.set()

    def run(self) -> None:
        prober = threading.Thread(target=self._probe_loop, name="prober", daemon=True)
        prober.start()
        backoff, site, ticked = Backoff(), None, time.monotonic()
        while not self._over.is_set():
            now = time.monotonic()
            if now - ticked >= TICK_S:
                self.queue.tick(now - ticked)
                ticked = now
            peer, wait_s = self._choose(), self.settings.every_s
            if peer is not None:
                if site is None or site.address != peer.address:
                    site = self._move(site, peer)
                wait_s = self._turn(site, peer, backoff)
            self._wake.wait(wait_s if peer is not None else 0.2)
            self._wake.clear()
        if self._control is not None:
            self._control.stop()
        prober.join(TIMEOUT_S)
        self.queue.close()

    def _turn(self, site: Site, peer: Peer, backoff: Backoff) -> float:
        """Send what waits, and say how long to wait then."""
        control = self._control
        self._settle_elsewhere(peer)
        try:
            while not self._over.is_set() and (batch := self.queue.next(peer.name)) is not None:
                window_id = control.asked.pop(0) if control is not None and control.asked else 0
                self._dispatch.send(site, peer.name, batch, window_id)
                backoff.reset()
                if self._choose() is not peer:
                    return 0.0
        except Gone as gone:
            self._say(f"no answer: {gone}")
            if any(batch.site == peer.name for batch in self.queue.batches()):
                self._say(f"in doubt at {peer.name}")
            with self._peers_lock:
                peer.silent = PROBE_BAD_MAX
            self.current = None
            return backoff.wait_s() if not any(one.is_there for one in self._known()) else 0.0
        except No as no:
            self._say(f"refused: {no}")
            return backoff.wait_s(no.wait_s)
        if control is not None:
            control.asked.clear()  # there was nothing (more) to send
            control.backlog()
            if control.every_s:
                return min(control.every_s, self.settings.every_s)
        return self.settings.every_s

    def _settle_elsewhere(self, here: Peer) -> None:
        """What is in doubt at a site that answers again is settled there, though another is nearer."""
        for batch in self.queue.batches():
            peer = next((one for one in self._known() if one.is_there and one.name == batch.site), None)
            if peer is None or peer.name == here.name:
                continue
            site = Site(peer.address, self._credentials)
            try:
                self._dispatch.send(site, peer.name, batch)
            except Gone:
                with self._peers_lock:
                    peer.silent = PROBE_BAD_MAX
            except No as no:
                self._say(f"refused: {no}")
            finally:
                site.close()

    def _known(self) -> list[Peer]:
        with self._peers_lock:
            return list(self._peers.values())

    def _choose(self) -> Peer | None:
        peers = self._known()
        self.current = choose(self.current, peers)
        return self.current if self.current is not None and self.current.is_there else None

    def _move(self, site: Site | None, peer: Peer) -> Site:
        self.moves += 1
        self._say(f"sending to {peer.name} at {peer.address.host}:{peer.address.port}, {peer.rtt_s * 1000:.1f} ms away")
        if site is not None:
            site.close()
        if self._control is not None:
            self._control.stop()
            self._control = None
        if self.settings.control:
            self._control = Control(peer.address, self._credentials, self.queue, self._wake)
            self._control.start()
        return Site(peer.address, self._credentials)

    def _probe_loop(self) -> None:
        lines: dict[Address, Site] = {}
        while not self._over.is_set():
            here = [address_of(url) for url in self.settings.sites]
            if self.settings.discover and self._credentials.fingerprint:
                here += discovered(self._credentials.fingerprint, self.settings.discover_interface)
            with self._peers_lock:
                for address in here:
                    self._peers.setdefault(address, Peer(address))
                peers = list(self._peers.values())
            for peer in peers:
                self._probe(peer, lines.setdefault(peer.address, Site(peer.address, self._credentials, 2.0)))
                if peer.silent > 20 and peer.address not in here:
                    with self._peers_lock:
                        del self._peers[peer.address]
                    lines.pop(peer.address).close()
            self._wake.set()
            self._over.wait(self.settings.probe_s * random.uniform(0.8, 1.2))

    def _probe(self, peer: Peer, site: Site) -> None:
        """The round trip on a line that stands: the second question, where the first had to connect."""
        try:
            self._dispatch.greet(site)
            began = time.monotonic()
            name = self._dispatch.greet(site)
            with self._peers_lock:
                peer.answered(name, time.monotonic() - began)
        except (Gone, No, KeyError) as problem:
            self._say(f"probe: {problem}")
            with self._peers_lock:
                peer.missed()


def main() -> int:
    parser = argparse.ArgumentParser(description="Brings what a device measures to the nearest Skerry site, once.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, words in (
        ("run", "send what is queued, until stopped"),
        ("put", "queue records; exit status 0 when they are on the disk"),
        ("file", "queue a file, which must stay where it is until it is sent"),
        ("status", "what waits, as JSON"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("--config", required=True, metavar="FILE")
        if name in ("put", "file"):
            command.add_argument(
                "words", nargs="*" if name == "put" else "+", metavar="LINE" if name == "put" else "PATH"
            )
    args = parser.parse_args()
    settings = read_settings(args.config)
    if args.command == "run":
        agent = Agent(settings, lambda words: print(f"agent: {words}", file=sys.stderr, flush=True))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, agent.stop)
        agent.run()
        return 0
    with contextlib.closing(Queue(settings)) as queue:
        if args.command == "status":
            print(json.dumps(queue.backlog()))
        elif args.command == "file":
            for word in args.words:
                path = Path(word).resolve()
                said = {"file": path.name, "bytes": path.stat().st_size}
                queue.put([json.dumps(said).encode()], str(path))
        else:
            try:
                queue.put([word.encode() for word in args.words] or [line for line in sys.stdin.buffer if line.strip()])
            except ValueError as error:
                print(f"agent: {error}", file=sys.stderr)
                return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
