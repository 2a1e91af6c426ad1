"""What does a receiving box decide about the blocks of a log, and how does it keep them?

Rules of the file
  1  `decide` is pure: the end of the log as it is here, the block, the key, and what is here in its place.
  2  Nothing is stored over. A block that is here already is a duplicate, another one in its place is a fork; both are
     answers, and change nothing.
  3  The events of a block, its hash and so the new end of the log are stored in one transaction, under the unique key
     (log, seq); a log is (tenant, writer, epoch). That is the only dedupe there is.
  4  The key of a log is the one its first event names. A file or a link may say so too; it must say the same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol

from fleet import envelope, events
from fleet.envelope import Block, Fault, Head, Log, PublicKey
from store import journal
from store.clock import WallClock
from store.database import connect
from store.folder import Folder, bring_up
from sync import wire
from sync.wire import Header, WireProblem


class Accept(NamedTuple):
    """It is the next one; `head` is the end of the log with it."""

    head: Head


class Duplicate(NamedTuple):
    """It is here already."""


class Gap(NamedTuple):
    """Events `first_seq` to `last_seq` must come first."""

    first_seq: int
    last_seq: int


class Fork(NamedTuple):
    """The writer signed two histories: at `seq` or before, `here` and `there` are the hashes of two of its blocks."""

    seq: int
    here: bytes
    there: bytes


class Refuse(NamedTuple):
    fault: Fault


Decision = Accept | Duplicate | Gap | Fork | Refuse


def decide(head: Head, block: Block, key: PublicKey, held: bytes | None = None) -> Decision:
    """What becomes of `block`, where the log ends at `head`. `held` is the hash of the block that is here with the same
    first event, None when there is none."""
    fault = envelope.check(block, key)
    return Refuse(fault) if fault is not None else _place(head, block, held)


def _place(head: Head, block: Block, held: bytes | None) -> Decision:
    """`decide`, for a block that holds in itself."""
    if block.first_seq <= head.seq:
        return Duplicate() if held == block.hash else Fork(block.first_seq, held or head.hash, block.hash)
    if block.first_seq > head.seq + 1:
        return Gap(head.seq + 1, block.first_seq - 1)
    if block.previous != head.hash:
        return Fork(head.seq, head.hash, block.previous)
    return Accept(block.head)


def words(decision: Gap | Fork | Refuse) -> str:
    """The sentence a person reads."""
    match decision:
        case Refuse(fault):
            return fault.value
        case Gap(first, last):
            return f"events {first:,} to {last:,} are missing before it"
        case Fork(seq, here, there):
            return (
                f"the log was continued in two ways after event {seq - 1:,} ({here.hex()[:16]} and {there.hex()[:16]})"
            )


# -- keeping ----------------------------------------------------------------------------------------------------


class Desk(Protocol):
    """Where blocks are stored: a running journal (`store.journal.Journal`), or `_Plain` where none runs."""

    @property
    def next_position(self) -> int: ...

    def take(self, db: sqlite3.Connection, log_id: int, block: Block, facts: Sequence[events.Recorded], /) -> None: ...


class _Plain:
    def __init__(self, db: sqlite3.Connection) -> None:
        (position,) = db.execute("SELECT coalesce(max(position), 0) FROM event").fetchone()
        self.next_position = position + 1

    def take(self, db: sqlite3.Connection, log_id: int, block: Block, facts: Sequence[events.Recorded], /) -> None:
        kinds, subjects, walls_ns = [f.kind for f in facts], [f.subject for f in facts], [f.wall_ns for f in facts]
        journal.insert_block(db, log_id, self.next_position, block, kinds, subjects, walls_ns)


def receive(
    db: sqlite3.Connection,
    block: Block,
    public_key: bytes,
    now_ns: int,
    desk: Desk | None = None,
    into: list[events.Recorded] | None = None,
) -> Decision:
    """Decide about one block and, when it is the next one, store it; inside the caller's transaction.

    `public_key` is the key that whoever brings the block names for its log. Its events are added to `into`.
    """
    fault = envelope.check(block, envelope.public_key(public_key))
    if fault is not None:
        return Refuse(fault)
    found = db.execute("SELECT id, public_key FROM log WHERE tenant=? AND writer=? AND epoch=?", block.log).fetchone()
    if found is not None and found[1] != public_key:
        return Refuse(Fault.SIGNATURE)
    held = None
    if found is not None:
        row = db.execute(
            "SELECT hash FROM block WHERE log_id=? AND first_seq=?", (found[0], block.first_seq)
        ).fetchone()
        held = row[0] if row else None
    decision = _place(journal.head_of(db, block.log), block, held)
    if not isinstance(decision, Accept):
        return decision
    desk = desk or _Plain(db)
    facts = facts_of(block, desk.next_position)
    if not _begins(block, facts, public_key):
        return Refuse(Fault.START)
    log_id = found[0] if found is not None else journal.start_log(db, block.log, public_key, now_ns)
    desk.take(db, log_id, block, facts)
    if into is not None:
        into += facts
    return decision


def facts_of(block: Block, first_position: int = 0) -> list[events.Recorded]:
    """The events of a block that holds. One that cannot be read is kept as it came, and the line moves on."""
    return events.decode_block(
        block.events,
        writer=block.writer,
        epoch=block.epoch,
        first_seq=block.first_seq,
        first_position=first_position,
    )


def _begins(block: Block, facts: Sequence[events.Recorded], public_key: bytes) -> bool:
    """A log begins with the event that names its key."""
    start = facts[0].body
    return block.first_seq > 1 or (isinstance(start, events.LogStarted) and start.public_key == public_key)


# -- files ------------------------------------------------------------------------------------------------------


class Received(NamedTuple):
    """One log of a file: events and blocks that are new, events that were here, the end of the log as the file has it,
    and what stopped it, at which event."""

    log: Log
    accepted: int
    blocks: int
    duplicates: int
    head: Head
    stopped: Gap | Fork | Refuse | None = None
    seq: int = 0


class Report(NamedTuple):
    """What came of a file. `problem` says where its bytes stop making sense; what came before it counts."""

    logs: tuple[Received, ...]
    problem: WireProblem | None = None

    @property
    def accepted(self) -> int:
        return sum(log.accepted for log in self.logs)

    @property
    def duplicates(self) -> int:
        return sum(log.duplicates for log in self.logs)

    @property
    def stopped(self) -> Received | None:
        """The first log that did not come through to its end."""
        return next((log for log in self.logs if log.stopped is not None), None)


Progress = Callable[[int, int], None]  # events so far, in all (0: not known)
_Judge = Callable[[Block, Header, Head], Decision]


def receive_file(path: Path, folder: Path, progress: Progress = lambda done, total: None) -> Report:
    """Bring every log of a file into the journal in `folder`, made when it is not there; a block to a transaction.

    OSError when the file cannot be read, StoreFault or FolderProblem when the folder cannot be used.
    """
    here = Folder(folder)
    here.prepare()
    bring_up(here.site_db)
    now_ns = WallClock().now_ns()
    with closing(connect(here.site_db)) as db:

        def judge(block: Block, header: Header, head: Head) -> Decision:
            db.execute("BEGIN IMMEDIATE")
            try:
                decision = receive(db, block, header.public_key, now_ns)
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
            return decision

        return _pass(path, judge, progress)


def check_file(path: Path, progress: Progress = lambda done, total: None) -> tuple[bool, str]:
    """Whether every log in a file holds from its first event to its end, and the words for it. Stores nothing."""

    def judge(block: Block, header: Header, head: Head) -> Decision:
        decision = decide(head, block, envelope.public_key(header.public_key))
        if isinstance(decision, Accept) and not _begins(block, facts_of(block), header.public_key):
            return Refuse(Fault.START)
        return decision

    try:
        report = _pass(path, judge, progress)
    except OSError as error:
        return False, f"{path} cannot be read: {error.strerror}"
    stopped = report.stopped
    if stopped is not None and stopped.stopped is not None:
        place = f"log {stopped.log.writer}, epoch {stopped.log.epoch}, event {stopped.seq:,}"
        return False, f"{path}: the log does not hold at {place}: {words(stopped.stopped)}"
    if report.problem is not None:
        return False, f"{path}: {report.problem}; {report.accepted:,} events before it hold"
    logs = "\n".join(
        f"  {one.log.writer} epoch {one.log.epoch}: {one.accepted:,} events in {one.blocks:,} blocks,"
        f" head {one.head.hash.hex()[:16]}"
        for one in report.logs
    )
    return True, f"{path}: every event holds, from the first to the last\n{logs}"


def _pass(path: Path, judge: _Judge, progress: Progress) -> Report:
    logs: list[Received] = []
    problem, done = None, 0
    with path.open("rb") as file:
        try:
            for part in wire.read(wire.pieces(file)):
                if isinstance(part, Header):
                    header = part
                    logs.append(Received(header.log, 0, 0, 0, envelope.EMPTY))
                elif logs[-1].stopped is None:
                    logs[-1] = _after(logs[-1], part, judge(part, header, logs[-1].head))
                    done += len(part.events)
                    progress(done, 0)
        except WireProblem as found:
            problem = found
    progress(done, done)
    return Report(tuple(logs), problem)


def _after(so_far: Received, block: Block, decision: Decision) -> Received:
    count = len(block.events)
    match decision:
        case Accept(head):
            return so_far._replace(accepted=so_far.accepted + count, blocks=so_far.blocks + 1, head=head)
        case Duplicate():
            return so_far._replace(duplicates=so_far.duplicates + count, head=block.head)
        case _:
            return so_far._replace(stopped=decision, seq=block.first_seq)
