"""The journal: append-only logs of signed blocks, and the queue that everything else reads from.

Rules of the file
  1  Events get their numbers, their hash and their signature as the last step before COMMIT, one block a commit.
  2  What is in a block is what was encoded at that moment; nothing encodes it again.
  3  An event is never changed and never deleted.
  4  A reader is a position: `after` it means everything it has not seen. There is no second queue.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from fleet import envelope, events, hlc, limits
from fleet.envelope import Block, Fault, Head, Log, PrivateKey
from fleet.past import WHOLE, Stretch
from store.clock import WallClock


class Identity(NamedTuple):
    """Who writes here. A restore or a re-key starts the next epoch."""

    log: Log
    site: str


_STATEMENT_ROWS = 128


class _At(NamedTuple):
    """The instant of a commit."""

    wall_ns: int
    clock: events.Clock


Listener = Callable[[Sequence[events.Recorded]], None]


class _Own:
    """A log that is written here: its row, its end."""

    def __init__(self, log_id: int, head: Head) -> None:
        self.log_id, self.head = log_id, head


class _Wish(NamedTuple):
    log: Log
    event: events.Staged


class Mark(NamedTuple):
    """How much of a transaction's work stood at a place to come back to."""

    staged: int
    taken: int


class Journal:
    """A participant of site.db's writer. `stage` and `take` may only be called from a job on that writer's thread.

    Most boxes write one log. A hub writes one more towards each site, so that a site gets what concerns it and can
    check it without a hole; `stage` says which.
    """

    def __init__(self, log: Log, key: PrivateKey, clock: WallClock) -> None:
        self.log = log
        self.position = 0
        self.head = envelope.EMPTY
        self.committed_events = 0
        self._key = key
        self._clock = clock
        self._hlc = 0
        self._staged: list[_Wish] = []
        self._taken: list[events.Recorded] = []
        self._sealed: list[events.Recorded] = []
        self._own: dict[Log, _Own] = {}
        self._next: tuple[dict[Log, Head], int, int] = ({}, 0, 0)
        self._listeners: list[Listener] = []
        self._given = 0
        self._grown: dict[
            str, int
        ] = {}  # by the writer of a log that is written here, `committed_events` when it last grew
        self._former: Log | None = None  # the epoch before one that is not committed yet

    def listen(self, listener: Listener) -> None:
        """Call `listener` with each commit's events, in order, on the writer's thread, after they are durable."""
        self._listeners.append(listener)

    def stage(self, subject: str, body: events.Body, log: Log | None = None) -> None:
        """Make `body` part of the block of this transaction, in the box's own log or another that it writes (and that
        is entered in the table of logs). ValueError when it cannot be an event: too large, or with text that is no
        Unicode."""
        subject.encode()
        if len(subject) > limits.subject_chars_max:
            raise ValueError(f"a subject of {len(subject)} characters is over the limit of {limits.subject_chars_max}")
        self._staged.append(_Wish(log or self.log, (subject, body, events.encode_body(body))))

    @property
    def next_position(self) -> int:
        """Where the next block that is taken will stand."""
        return self.position + len(self._taken) + 1

    def take(self, db: sqlite3.Connection, log_id: int, block: Block, facts: Sequence[events.Recorded]) -> None:
        """Store a block of somebody else's log, behind everything that is here: from `next_position` on, as its facts
        say already."""
        insert_block(
            db,
            log_id,
            self.next_position,
            block,
            [fact.kind for fact in facts],
            [fact.subject for fact in facts],
            [fact.wall_ns for fact in facts],
        )
        self._taken += facts

    def begin(self, db: sqlite3.Connection, log: Log, body: events.LogStarted) -> None:
        """Go on in a new epoch of this box's own log, from this transaction on. `log` is entered by the caller."""
        self._former = self._former or self.log
        self._own[log] = _Own(*_load(db, log)[:2])
        self.log = log
        self.stage(log.writer, body)

    def vouch(self, content: bytes) -> bytes:
        """The writer's signature over what this box says in a file; `content` begins with what kind of word it is."""
        return self._key.sign(content)

    def stamp(self) -> int:
        """A hybrid stamp for what is written inside this transaction: later than all that was committed, and than the
        stamps given out before."""
        self._given = hlc.tick(max(self._hlc, self._given), self._clock.now_ns() // limits.MS)
        return self._given

    def grown(self, writer: str) -> int:
        """Another number than before whenever a log of this writer, that is written here, has grown; 0 at the start."""
        return self._grown.get(writer, 0)

    def head_of(self, log: Log) -> Head:
        """The committed end of a log that is written here; the empty head when nothing was."""
        own = self._own.get(log)
        return own.head if own else envelope.EMPTY

    # -- the participant's side -------------------------------------------------------------------------

    def opened(self, db: sqlite3.Connection) -> None:
        log_id, self.head, self._hlc = _load(db, self.log)
        self._own = {self.log: _Own(log_id, self.head)}
        (self.position,) = db.execute("SELECT coalesce(max(position), 0) FROM event").fetchone()
        self.rolled_back()

    def mark(self) -> Mark:
        return Mark(len(self._staged), len(self._taken))

    def undo(self, mark: Mark) -> None:
        del self._staged[mark.staged :]
        del self._taken[mark.taken :]

    def seal(self, db: sqlite3.Connection) -> None:
        self._sealed = list(self._taken) if self._listeners else []
        position = self.position + len(self._taken)
        self._next = ({}, position, self._hlc)
        if not self._staged:
            return
        at = _At(self._clock.now_ns(), self._clock.confidence())
        by_log: dict[Log, list[events.Staged]] = {}
        for wish in self._staged:
            by_log.setdefault(wish.log, []).append(wish.event)
        heads: dict[Log, Head] = {}
        stamp = max(self._hlc, self._given)
        for log, staged in by_log.items():
            own = self._own.get(log)
            if own is None:
                own = self._own[log] = _Own(*_load(db, log)[:2])
            first_stamp = hlc.tick(stamp, at.wall_ns // limits.MS)  # while the wall clock stands, a tick adds one
            heads[log] = self._seal(db, log, own, staged, position + 1, first_stamp, at)
            if self._listeners:
                self._sealed += _recorded(log, own.head.seq + 1, position + 1, first_stamp, at, staged)
            position, stamp = position + len(staged), first_stamp + len(staged) - 1
        self._next = (heads, position, stamp)

    def _seal(
        self,
        db: sqlite3.Connection,
        log: Log,
        own: _Own,
        staged: Sequence[events.Staged],
        first_position: int,
        first_stamp: int,
        at: _At,
    ) -> Head:
        encoded = events.encode_all(own.head.seq + 1, first_stamp, *at, staged)
        head, start = own.head, 0
        for end in _ends(encoded):
            block = envelope.seal(log, head, encoded[start:end], self._key)
            kinds = [body.KIND for _, body, _ in staged[start:end]]
            subjects = [subject for subject, _, _ in staged[start:end]]
            insert_block(db, own.log_id, first_position + start, block, kinds, subjects, [at.wall_ns] * len(kinds))
            head, start = block.head, end
        return head

    def committed(self) -> None:
        self.committed_events += len(self._staged)
        heads, self.position, self._hlc = self._next
        for log, head in heads.items():
            self._own[log].head = head
            self._grown[log.writer] = self.committed_events
        self.head = self._own[self.log].head
        sealed, self._former = self._sealed, None
        self.rolled_back()
        if sealed:
            for listener in self._listeners:
                listener(sealed)

    def rolled_back(self) -> None:
        if self._former is not None:
            self.log, self._former = self._former, None
        self._staged, self._taken, self._sealed = [], [], []


def _recorded(
    log: Log, first_seq: int, first_position: int, first_stamp: int, at: _At, staged: Sequence[events.Staged]
) -> list[events.Recorded]:
    return [
        events.Recorded(
            first_position + index,
            log.writer,
            log.epoch,
            first_seq + index,
            first_stamp + index,
            *at,
            body.KIND,
            body.VERSION,
            subject,
            body,
        )
        for index, (subject, body, _) in enumerate(staged)
    ]


_IDENTITY = ("tenant", "writer", "epoch", "site")


def read_identity(db: sqlite3.Connection) -> Identity | None:
    """Who writes in this folder; None when nobody has yet."""
    held = dict(db.execute("SELECT key, value FROM meta WHERE key IN (?,?,?,?)", _IDENTITY).fetchall())
    if len(held) < len(_IDENTITY):
        return None
    return Identity(Log(held["tenant"], held["writer"], int(held["epoch"])), held["site"])


def write_identity(db: sqlite3.Connection, identity: Identity) -> None:
    """Inside the caller's transaction, beside `start_log` for the same log."""
    (tenant, writer, epoch), site = identity
    db.executemany(
        "INSERT INTO meta VALUES (?,?) ON CONFLICT DO UPDATE SET value=excluded.value",
        zip(_IDENTITY, (tenant, writer, str(epoch), site), strict=True),
    )


def start_log(db: sqlite3.Connection, log: Log, public_key: bytes, now_ns: int) -> int:
    """Enter a log into the table of logs and return its row id. A log that is there already is left as it is."""
    db.execute(
        "INSERT OR IGNORE INTO log (tenant, writer, epoch, public_key, started_ns) VALUES (?,?,?,?,?)",
        (*log, public_key, now_ns),
    )
    (log_id,) = db.execute("SELECT id FROM log WHERE tenant=? AND writer=? AND epoch=?", log).fetchone()
    return int(log_id)


def head_of(db: sqlite3.Connection, log: Log) -> Head:
    """The end of a log as stored; the empty head when it holds nothing, or is not here."""
    row = db.execute(
        "SELECT last_seq, hash FROM block WHERE log_id=(SELECT id FROM log WHERE tenant=? AND writer=? AND epoch=?)"
        " ORDER BY first_seq DESC LIMIT 1",
        log,
    ).fetchone()
    return Head(*row) if row else envelope.EMPTY


def blocks_after(db: sqlite3.Connection, log: Log, after_seq: int, bytes_max: int) -> list[Block]:
    """The next blocks of a log, at least one if there is one, and about `bytes_max` of event bytes."""
    row = db.execute("SELECT id FROM log WHERE tenant=? AND writer=? AND epoch=?", log).fetchone()
    found: list[Block] = []
    size = 0
    for block in blocks(db, row[0], after_seq) if row else ():
        found.append(block)
        size += sum(map(len, block.events)) + 80
        if size >= bytes_max:
            break
    return found


def public_key(db: sqlite3.Connection, log: Log) -> bytes | None:
    """The key that a log says it is signed with; None when there is no such log."""
    row = db.execute("SELECT public_key FROM log WHERE tenant=? AND writer=? AND epoch=?", log).fetchone()
    return row[0] if row else None


# By the end of each log: a walk back along all events would be long for a writer who said nothing lately, or nothing yet.
_NEWEST = """
SELECT event.raw FROM log JOIN event ON event.log_id = log.id
    AND event.seq = (SELECT max(seq) FROM event AS one WHERE one.log_id = log.id)
WHERE log.tenant=? AND log.writer=? ORDER BY event.position DESC LIMIT 1
"""


def _load(db: sqlite3.Connection, log: Log) -> tuple[int, Head, int]:
    """The log's row, its end, and the stamp to go on from: the newest of this box, so that what a new epoch says is
    never older than what the one before it said."""
    row = db.execute("SELECT id FROM log WHERE tenant=? AND writer=? AND epoch=?", log).fetchone()
    if row is None:
        raise ValueError(f"this folder holds no log of {log.writer} in epoch {log.epoch}")
    last = db.execute(_NEWEST, (log.tenant, log.writer)).fetchone()
    stamp = events.decode_any(last[0], writer=log.writer, epoch=log.epoch).hlc if last else 0
    return int(row[0]), head_of(db, log), stamp


def insert_block(
    db: sqlite3.Connection,
    log_id: int,
    first_position: int,
    block: Block,
    kinds: Sequence[str],
    subjects: Sequence[str],
    walls_ns: Sequence[int],
) -> None:
    """Store a block and its events from `first_position` on. sqlite3.IntegrityError when one of them is there."""
    count = len(block.events)
    positions = range(first_position, first_position + count)
    seqs = range(block.first_seq, block.first_seq + count)
    _insert(db, "event", (positions, [log_id] * count, seqs, kinds, subjects, walls_ns, block.events))
    _insert(db, "mention", mentions(positions, subjects, kinds))
    db.execute(
        "INSERT INTO block VALUES (?,?,?,?,?,?)",
        (log_id, block.first_seq, block.head.seq, block.previous, block.hash, block.signature),
    )


def mentions(
    positions: Sequence[int], subjects: Sequence[str], kinds: Sequence[str]
) -> tuple[Sequence[str], list[int], list[int]]:
    """Where in a block each subject and each kind comes first and last: the columns of `mention`, in the order of its key.

    An index entry per event would spread a burst about every node over as many pages as there are nodes, several
    times over; an entry per subject and block halves the cost of appending.
    """
    names = [name for pair in zip(subjects, map(_of_kind, kinds), strict=True) for name in pair]
    twice = [position for position in positions for _ in range(2)]
    last = dict(zip(names, twice, strict=True))
    first = dict(zip(reversed(names), reversed(twice), strict=True))
    about = sorted(last)
    return about, [first[name] for name in about], [last[name] for name in about]


def _of_kind(kind: str) -> str:
    """The name under which a kind is mentioned. A subject that is called so too only widens where is looked."""
    return f"kind {kind}"


def _insert(db: sqlite3.Connection, table: str, columns: Sequence[Sequence[object]]) -> None:
    """Whole columns as rows, many to a statement: a statement costs more than a row."""
    width, rows = len(columns), len(columns[0])
    flat: list[object] = [None] * (width * rows)
    for index, column in enumerate(columns):
        flat[index::width] = column
    step = _STATEMENT_ROWS * width
    whole = len(flat) - len(flat) % step
    one = f"({','.join('?' * width)})"
    if whole:
        many = ",".join([one] * _STATEMENT_ROWS)
        db.executemany(
            f"INSERT INTO {table} VALUES {many}", (flat[start : start + step] for start in range(0, whole, step))
        )
    rest = (flat[start : start + width] for start in range(whole, len(flat), width))
    db.executemany(f"INSERT INTO {table} VALUES {one}", rest)


def _ends(encoded: Sequence[bytes]) -> Iterator[int]:
    """Where each block of these events ends: as few blocks as their bounds allow, nearly always one."""
    sizes = list(map(len, encoded))
    if len(sizes) > limits.block_events_max or sum(sizes) > limits.block_bytes_max:
        start = held = 0
        for index, size in enumerate(sizes):
            if index - start == limits.block_events_max or held + size > limits.block_bytes_max:
                yield index
                start, held = index, 0
            held += size
    yield len(sizes)


# -- readers ------------------------------------------------------------------------------------------------

_SELECT = (
    "SELECT event.position, log.writer, log.epoch, event.seq, event.raw"
    " FROM event JOIN log ON log.id = event.log_id WHERE {where}"
)
AFTER = _SELECT.format(where="position > ? ORDER BY position LIMIT ?")


_MENTIONED_AS = (
    "SELECT event.position, log.writer, log.epoch, event.seq, event.raw FROM mention CROSS JOIN event"
    " ON event.position BETWEEN mention.first_position AND mention.last_position JOIN log ON log.id = event.log_id"
    " WHERE mention.subject = ? AND mention.first_position < ? AND {where}"
    " ORDER BY mention.first_position DESC, event.position DESC LIMIT ?"
)


def newest(
    before: int,
    limit: int,
    subject: str | None,
    kind: str | None,
    stretch: Stretch = WHOLE,
    *,
    once: bool = False,
) -> tuple[str, tuple[object, ...]]:
    """A query for the newest events below a position, within a stretch of time by the clocks that wrote them, and its
    parameters. `once`: without what a hub says again in its logs towards sites. For what is of no subject `store.window`
    is quicker."""
    where, parameters = "event.position < ?", list[object]([before])
    for term, value in (
        ("event.subject = ?", subject or None),
        ("event.kind = ?", kind or None),
        ("event.wall_ns >= ?", stretch.from_ns),
        ("event.wall_ns <= ?", stretch.until_ns),
    ):
        if value is not None:
            where, parameters = f"{where} AND {term}", [*parameters, value]
    if once:
        where += " AND log.writer NOT IN (SELECT log_writer FROM peer)"
    name = subject or (_of_kind(kind) if kind else None)
    if name is None:
        return _SELECT.format(where=f"{where} ORDER BY event.position DESC LIMIT ?"), (*parameters, limit)
    return _MENTIONED_AS.format(where=where), (name, before, *parameters, limit)


def rows_to_events(rows: Iterable[tuple[int, str, int, int, bytes]]) -> list[events.Recorded]:
    return [
        events.decode_any(raw, writer=writer, epoch=epoch, seq=seq, position=position)
        for position, writer, epoch, seq, raw in rows
    ]


def read(db: sqlite3.Connection, after: int = 0, batch: int = 5_000) -> Iterator[list[events.Recorded]]:
    """All events after a position, in batches."""
    while rows := db.execute(AFTER, (after, batch)).fetchall():
        yield rows_to_events(rows)
        after = rows[-1][0]


def blocks(db: sqlite3.Connection, log_id: int, after_seq: int = 0) -> Iterator[Block]:
    """The blocks of one log, in order, with their events' bytes as stored."""
    tenant, writer, epoch = db.execute("SELECT tenant, writer, epoch FROM log WHERE id=?", (log_id,)).fetchone()
    cursor = db.execute(
        "SELECT first_seq, last_seq, previous, hash, signature FROM block WHERE log_id=? AND last_seq>?"
        " ORDER BY first_seq",
        (log_id, after_seq),
    )
    for first, last, previous, digest, signature in cursor:
        raw = db.execute(
            "SELECT raw FROM event WHERE log_id=? AND seq BETWEEN ? AND ? ORDER BY seq", (log_id, first, last)
        )
        yield Block(
            envelope.VERSION, tenant, writer, epoch, first, previous, digest, signature, tuple(row[0] for row in raw)
        )


class Verdict(NamedTuple):
    """What a check of one log found: `fault` at `seq`, or all `events` of it good up to `head`."""

    log: Log
    events: int
    blocks: int
    head: Head
    fault: Fault | None = None
    seq: int = 0
    detail: str = ""


def verify(db: sqlite3.Connection, progress: Callable[[int], None] = lambda events: None) -> list[Verdict]:
    """Every log from its first block: hash, signature, chain, numbers, and that the columns say what the bytes say.

    `progress` is told the number of events checked so far, a block at a time.
    """
    verdicts: list[Verdict] = []
    checked, by_kind = 0, _mentions_kinds(db)
    for log_id, tenant, writer, epoch, raw_key in db.execute(
        "SELECT id, tenant, writer, epoch, public_key FROM log ORDER BY id"
    ).fetchall():
        log, head, count, total = Log(tenant, writer, epoch), envelope.EMPTY, 0, 0
        try:
            key = envelope.public_key(raw_key)
        except (ValueError, TypeError) as error:
            verdicts.append(Verdict(log, 0, 0, head, Fault.SIGNATURE, 1, str(error)))
            continue
        problem: tuple[Fault, int, str] | None = None
        for block in blocks(db, log_id):
            if not _typed(block):
                problem = (Fault.HASH, head.seq + 1, "a column of the block or of its events is of a wrong type")
                break
            fault = envelope.check(block, key) or envelope.follows(block, head)
            if fault:
                problem = (fault, block.first_seq, fault.value)
                break
            stray = _stray(db, log_id, block, by_kind)
            if stray:
                problem = (Fault.HASH, block.first_seq, stray)
                break
            head, count, total = block.head, count + 1, total + len(block.events)
            progress(checked + total)
        (held,) = db.execute(_HELD, (log_id, head.seq, log_id)).fetchone()
        if problem is None and held != total:
            problem = (Fault.GAP, head.seq + 1, f"{held} events are stored, {total} stand in signed blocks")
        checked += total
        verdicts.append(Verdict(log, total, count, head, *(problem or ())))
    return verdicts


# Events of a log without those of blocks that were appended since we read: an appliance may be running here.
_HELD = (
    "SELECT count(*) FROM event WHERE log_id=? AND"
    " (seq <= ? OR seq > (SELECT coalesce(max(last_seq), 0) FROM block WHERE log_id=?))"
)

_TYPES = (int, str, str, int, int, bytes, bytes, bytes, tuple)


def _typed(block: Block) -> bool:
    """SQLite keeps whatever is put into a column; what is hashed must be what a block is made of."""
    fields = (getattr(block, name) for name in block.__struct_fields__)
    return (
        all(map(isinstance, fields, _TYPES))
        and block.epoch >= 0
        and all(isinstance(raw, bytes) for raw in block.events)
    )


_MENTIONED = "SELECT 1 FROM mention WHERE subject=? AND first_position=? AND last_position=?"


def _mentions_kinds(db: sqlite3.Connection) -> bool:
    """The step to revision 0010 adds what is mentioned of kinds; a folder may be looked at before that."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name='alembic_version'").fetchone():
        return True  # tables of this program's, in no folder
    return bool(db.execute("SELECT 1 FROM alembic_version WHERE version_num >= '0010'").fetchone())


def _stray(db: sqlite3.Connection, log_id: int, block: Block, by_kind: bool) -> str | None:
    """Columns and mentions are copies for queries; they must say what the signed bytes say."""
    rows = db.execute(
        "SELECT seq, position, kind, subject, wall_ns, raw FROM event WHERE log_id=? AND seq BETWEEN ? AND ?"
        " ORDER BY seq",
        (log_id, block.first_seq, block.head.seq),
    ).fetchall()
    first_position = rows[0][1]
    for index, (seq, position, kind, subject, wall_ns, raw) in enumerate(rows):
        here = block.first_seq + index
        event = events.decode_any(raw, writer=block.writer, epoch=block.epoch, seq=here)
        signed = (here, first_position + index, event.seq, event.kind, event.subject, event.wall_ns)
        if signed != (seq, position, seq, kind, subject, wall_ns):
            return f"event {seq}: its columns differ from its signed bytes"
    _, positions, kinds, subjects, _, _ = zip(*rows, strict=True)
    for mention in zip(*mentions(positions, subjects, kinds), strict=True):
        if (by_kind or not mention[0].startswith(_of_kind(""))) and not db.execute(_MENTIONED, mention).fetchone():
            seq = rows[mention[1] - first_position][0]
            return f"event {seq}: it is missing from the list of what is about {mention[0]}"
    return None
