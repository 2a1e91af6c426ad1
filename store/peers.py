"""What does a box remember about the other ends of its links? Plain functions on the caller's connection and transaction.

Rules of the file
  1  A fence only rises. Whoever writes for a session checks it in the same transaction; a lease alone is no lock.
  2  Secrets of sessions stay in this table; nothing shows them.
  3  A receipt is stored as the bytes that were signed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from sys import intern
from typing import NamedTuple

import msgspec

from fleet.envelope import Head, Log
from fleet.present import Present, lean


class Peer(NamedTuple):
    """The other end. `quarantine` is a reason a line; `log` is the log that is written towards it (hub only)."""

    writer: str
    tenant: str
    name: str
    public_key: bytes
    sealing_key: bytes = b""
    fence: int = 0
    token: bytes = b""
    former: bytes = b""
    log_writer: str = ""
    log_epoch: int = 0
    quarantine: str = ""
    since_ns: int = 0
    seen_ns: int = 0
    told: bytes = b""

    @property
    def log(self) -> Log | None:
        return Log(self.tenant, self.log_writer, self.log_epoch) if self.log_writer else None


_COLUMNS = ", ".join(Peer._fields)
_SAVE = f"INSERT OR REPLACE INTO peer ({_COLUMNS}) VALUES ({', '.join('?' * len(Peer._fields))})"


def save(db: sqlite3.Connection, peer: Peer) -> None:
    db.execute(_SAVE, peer)


def get(db: sqlite3.Connection, writer: str) -> Peer | None:
    row = db.execute(f"SELECT {_COLUMNS} FROM peer WHERE writer=?", (writer,)).fetchone()
    return Peer(*row) if row else None


def every(db: sqlite3.Connection, tenant: str) -> list[Peer]:
    return [Peer(*row) for row in db.execute(f"SELECT {_COLUMNS} FROM peer WHERE tenant=? ORDER BY name", (tenant,))]


def logs_towards(db: sqlite3.Connection, tenant: str, but: str = "") -> list[Log]:
    """The logs that a hub writes towards its sites; `but` is the writer of one to leave out."""
    return [peer.log for peer in every(db, tenant) if peer.log is not None and peer.writer != but]


def any_here(db: sqlite3.Connection) -> bool:
    """Whether this box has spoken to another end at all: at a site, whether it has a hub."""
    return db.execute("SELECT 1 FROM peer LIMIT 1").fetchone() is not None


def raise_fence(db: sqlite3.Connection, writer: str, at_least: int = 0) -> int:
    """The next fence of this peer: every session before it is over from here on. `at_least` is a clock's seconds, so that
    a hub that was restored gives no fence a second time."""
    (fence,) = db.execute(
        "UPDATE peer SET fence = max(fence + 1, ?) WHERE writer=? RETURNING fence", (at_least, writer)
    ).fetchone()
    return int(fence)


def fence_of(db: sqlite3.Connection, writer: str) -> int:
    row = db.execute("SELECT fence FROM peer WHERE writer=?", (writer,)).fetchone()
    return int(row[0]) if row else 0


# -- invitations -------------------------------------------------------------------------------------------------


class Invitation(NamedTuple):
    """`link` and `password` are the site's credential for the line; the link is named before the site is known."""

    name: str
    tenant: str
    secret_hash: bytes
    writer: str  # of the site that used it; empty while it is open
    made_ns: int
    link: str = ""
    password: str = ""


def invite(db: sqlite3.Connection, invitation: Invitation) -> None:
    """A new invitation for a name takes the place of the one before it."""
    db.execute("INSERT OR REPLACE INTO invitation VALUES (?,?,?,?,?,?,?)", invitation)


def invitations(db: sqlite3.Connection, tenant: str) -> list[Invitation]:
    return [Invitation(*row) for row in db.execute("SELECT * FROM invitation WHERE tenant=? ORDER BY name", (tenant,))]


def secrets(db: sqlite3.Connection, tenant: str) -> Iterator[tuple[str, bytes, str]]:
    """Name, hash of the secret, and the writer that used it, of every invitation: the open ones first."""
    yield from db.execute(
        "SELECT name, secret_hash, writer FROM invitation WHERE tenant=? ORDER BY writer<>'', name", (tenant,)
    )


def invitation_used(db: sqlite3.Connection, name: str, writer: str) -> None:
    db.execute("UPDATE invitation SET writer=? WHERE name=?", (writer, name))


# -- the logs of a peer ------------------------------------------------------------------------------------------


def heads_of(db: sqlite3.Connection, tenant: str, writer: str) -> list[tuple[int, Head]]:
    """(epoch, end) of every log of a writer that is here, oldest epoch first."""
    found: list[tuple[int, Head]] = []
    for log_id, epoch in db.execute(
        "SELECT id, epoch FROM log WHERE tenant=? AND writer=? ORDER BY epoch", (tenant, writer)
    ).fetchall():
        row = db.execute(
            "SELECT last_seq, hash FROM block WHERE log_id=? ORDER BY first_seq DESC LIMIT 1", (log_id,)
        ).fetchone()
        found.append((epoch, Head(*row) if row else Head(0, bytes(32))))
    return found


def hash_at(db: sqlite3.Connection, log: Log, seq: int) -> bytes | None:
    """The hash of the block of `log` that ends at `seq`; None when none does."""
    row = db.execute(
        "SELECT last_seq, hash FROM block WHERE log_id=(SELECT id FROM log WHERE tenant=? AND writer=? AND epoch=?)"
        " AND first_seq<=? ORDER BY first_seq DESC LIMIT 1",
        (*log, seq),
    ).fetchone()
    return row[1] if row and row[0] == seq else None


_BRANCH = "FROM branch WHERE log_id=(SELECT id FROM log WHERE tenant=? AND writer=? AND epoch=?)"


def keep_branch(
    db: sqlite3.Connection, log: Log, first_seq: int, last_seq: int, digest: bytes, raw: bytes, at_ns: int
) -> bool:
    """Whether it is new here."""
    kept = db.execute(
        "INSERT OR IGNORE INTO branch VALUES ((SELECT id FROM log WHERE tenant=? AND writer=? AND epoch=?),?,?,?,?,?)",
        (*log, first_seq, digest, last_seq, raw, at_ns),
    )
    return bool(kept.rowcount)


def on_branch(db: sqlite3.Connection, log: Log, digest: bytes | None = None) -> bool:
    """Whether this block, or any, of a second history of the log is kept."""
    named, args = (" AND hash=?", (digest,)) if digest is not None else ("", ())
    return db.execute(f"SELECT 1 {_BRANCH}{named} LIMIT 1", (*log, *args)).fetchone() is not None


# -- the present -------------------------------------------------------------------------------------------------

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Present).decode


def save_present(
    db: sqlite3.Connection, rows: Iterable[tuple[Present, str, int, int]], gone: Iterable[str], site: str
) -> None:
    """Rows are (present, site, told, received)."""
    db.executemany(
        "INSERT OR REPLACE INTO present VALUES (?,?,?,?,?)",
        [(present.node_id, where, told, received, _encode(present)) for present, where, told, received in rows],
    )
    db.executemany("DELETE FROM present WHERE node_id=? AND site=?", [(node_id, site) for node_id in gone])


def presents(db: sqlite3.Connection) -> list[tuple[Present, str, int, int]]:
    rows = db.execute("SELECT site, told_ns, received_ns, body FROM present").fetchall()
    return [(lean(_decode(body)), intern(site), told, received) for site, told, received, body in rows]


# -- segments ----------------------------------------------------------------------------------------------------

WANTED, HERE, GONE = "wanted", "here", "gone"


class Segment(NamedTuple):
    """A site's segment, as it stands at the hub. `reason` says why it is gone; or, of one that is there, which receipt
    that both have signed lists it (empty: none yet). A site keeps only what is listed."""

    site: str
    sha256: bytes
    first_id: int
    last_id: int
    records: int
    bytes_stored: int
    from_ns: int
    to_ns: int
    state: str
    reason: str
    at_ns: int

    @property
    def is_series(self) -> bool:
        """Whether it holds charts (`store.series_file`), and so no records."""
        return self.records == 0


def want_segment(db: sqlite3.Connection, segment: Segment) -> None:
    db.execute("INSERT OR IGNORE INTO custody VALUES (?,?,?,?,?,?,?,?,?,?,?)", segment)


def segments(db: sqlite3.Connection, site: str, state: str | None = None, limit: int = 1 << 30) -> list[Segment]:
    where = "site=?" + (" AND state=?" if state else "")
    rows = db.execute(
        f"SELECT * FROM custody WHERE {where} ORDER BY first_id LIMIT ?", (site, *((state,) if state else ()), limit)
    )
    return [Segment(*row) for row in rows]


SERIES_STANDING = "SELECT state, count(*), max(to_ns) FROM custody WHERE site=? AND records=0 GROUP BY state"


def series_here(db: sqlite3.Connection) -> list[tuple[str, bytes]]:
    """Site and SHA-256 of every file of charts that is here, oldest first."""
    rows = db.execute("SELECT site, sha256 FROM custody WHERE state=? AND records=0 ORDER BY to_ns", (HERE,))
    return [(site, sha256) for site, sha256 in rows]


def settle_segment(db: sqlite3.Connection, site: str, sha256: bytes, state: str, reason: str, at_ns: int) -> None:
    db.execute(
        "UPDATE custody SET state=?, reason=?, at_ns=? WHERE site=? AND sha256=?", (state, reason, at_ns, site, sha256)
    )


def cover(db: sqlite3.Connection, site: str, number: int, hashes: Iterable[bytes]) -> None:
    """At the hub: the site signed that receipt, which lists these."""
    db.executemany(
        "UPDATE custody SET reason=? WHERE site=? AND sha256=? AND state=?",
        [(f"receipt {number}", site, sha256, HERE) for sha256 in hashes],
    )


def held_by_hub(db: sqlite3.Connection) -> frozenset[bytes]:
    """At the site: the SHA-256 of every segment that receipts list."""
    return frozenset(sha256 for (sha256,) in db.execute("SELECT sha256 FROM custody"))


def covered(db: sqlite3.Connection, site: str, number: int, hashes: Iterable[bytes], at_ns: int) -> None:
    """At the site: that receipt lists these. What this site never sealed is passed over."""
    db.executemany(
        "INSERT OR IGNORE INTO custody SELECT ?, sha256, first_id, last_id, records, bytes_stored, from_ns, to_ns, ?, ?, ?"
        " FROM segment WHERE sha256=?",
        [(site, HERE, f"receipt {number}", at_ns, sha256) for sha256 in hashes],
    )


# -- receipts ----------------------------------------------------------------------------------------------------


class Receipt(NamedTuple):
    site: str
    number: int
    content: bytes
    hub_signature: bytes
    site_signature: bytes
    at_ns: int


def save_receipt(db: sqlite3.Connection, receipt: Receipt) -> None:
    db.execute("INSERT OR REPLACE INTO receipt VALUES (?,?,?,?,?,?)", receipt)


def newest_receipt(db: sqlite3.Connection, site: str, *, both: bool = False) -> Receipt | None:
    """The newest; with `both`, the newest that both have signed."""
    signed = " AND length(site_signature) > 0" if both else ""
    row = db.execute(f"SELECT * FROM receipt WHERE site=?{signed} ORDER BY number DESC LIMIT 1", (site,)).fetchone()
    return Receipt(*row) if row else None


def receipt(db: sqlite3.Connection, site: str, number: int) -> Receipt | None:
    row = db.execute("SELECT * FROM receipt WHERE site=? AND number=?", (site, number)).fetchone()
    return Receipt(*row) if row else None


def receipt_as_of(db: sqlite3.Connection, site: str, moment_ns: int) -> Receipt | None:
    """The newest of those made until a moment that both have signed. Found by halving: their numbers rise with time."""
    low = 0
    high = db.execute("SELECT coalesce(max(number), 0) FROM receipt WHERE site=?", (site,)).fetchone()[0]
    while low < high:
        middle = (low + high + 1) // 2
        found = db.execute(_NOT_ABOVE, (site, middle)).fetchone()
        if found is None or found[1] <= moment_ns:
            low = middle
        else:
            high = found[0] - 1
    signed = (
        "SELECT * FROM receipt WHERE site=? AND number<=? AND length(site_signature)>0 ORDER BY number DESC LIMIT 1"
    )
    row = db.execute(signed, (site, low)).fetchone()
    return Receipt(*row) if row else None


_NOT_ABOVE = "SELECT number, at_ns FROM receipt WHERE site=? AND number<=? ORDER BY number DESC LIMIT 1"


def receipts(db: sqlite3.Connection, site: str, limit: int) -> Sequence[Receipt]:
    rows = db.execute("SELECT * FROM receipt WHERE site=? ORDER BY number DESC LIMIT ?", (site, limit))
    return [Receipt(*row) for row in rows]
