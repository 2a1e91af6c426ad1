"""What harbor decides about blocks of alder's log: nothing twice, nothing over another, nothing unsigned."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fleet import envelope, events
from fleet.envelope import Block, Fault, Head, Log
from fleet.events import Clock
from store import journal
from store.database import connect, connect_reader
from store.folder import bring_up
from store.keys import public_bytes
from sync import receive, wire
from sync.receive import Accept, Duplicate, Fork, Gap, Refuse
from sync.wire import Problem

ALDER_KEY = Ed25519PrivateKey.from_private_bytes(b"alder".ljust(32))
MALLORY_KEY = Ed25519PrivateKey.from_private_bytes(b"mallory".ljust(32))
ALDER, MALLORY = public_bytes(ALDER_KEY), public_bytes(MALLORY_KEY)
LOG = Log("fleet", "01ALDER0000000000000000000", 1)


class Pen:
    """Writes a log by hand, so that it can be continued in two ways."""

    def __init__(self, log: Log = LOG, key: Ed25519PrivateKey = ALDER_KEY, head: Head = envelope.EMPTY) -> None:
        self.log, self.key, self.head = log, key, head
        self.blocks: list[Block] = []
        if head == envelope.EMPTY:
            self.write(("log", events.LogStarted("first", public_bytes(key))))

    def write(self, *facts: tuple[str, events.Body]) -> Block:
        staged = [(subject, body, events.encode_body(body)) for subject, body in facts]
        raw = events.encode_all(self.head.seq + 1, self.head.seq + 1, 1_000, Clock.SYNCED, staged)
        return self.raw(raw)

    def raw(self, encoded: list[bytes]) -> Block:
        block = envelope.seal(self.log, self.head, encoded, self.key)
        self.head = block.head
        self.blocks.append(block)
        return block

    def quiet(self, count: int = 1, silence_ns: int = 30) -> Block:
        return self.write(*[("drone", events.NodeQuiet("DISCONNECTED", "LIVE", n, silence_ns)) for n in range(count)])

    def branch(self) -> Pen:
        other = Pen(self.log, self.key, self.head)
        other.blocks = list(self.blocks)
        return other


@pytest.fixture
def harbor(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    bring_up(tmp_path / "harbor.db")
    with closing(connect(tmp_path / "harbor.db")) as db:
        yield db


@pytest.fixture
def pen() -> Pen:
    pen = Pen()
    for count in (3, 1, 5):
        pen.quiet(count)
    return pen


def take(db: sqlite3.Connection, block: Block, key: bytes = ALDER) -> receive.Decision:
    db.execute("BEGIN IMMEDIATE")
    decision = receive.receive(db, block, key, 1)
    db.execute("COMMIT")
    return decision


def content(db: sqlite3.Connection) -> list[tuple[object, ...]]:
    return [*db.execute("SELECT * FROM event"), *db.execute("SELECT * FROM block"), *db.execute("SELECT * FROM log")]


def to_file(path: Path, *pens: Pen, cut: int = 0) -> Path:
    raw = b"".join(b"".join(wire.write(pen.blocks, public_bytes(pen.key), pen.log)) for pen in pens)
    path.write_bytes(raw[: len(raw) - cut])
    return path


def test_a_log_in_order_is_accepted_and_verifies_here(harbor: sqlite3.Connection, pen: Pen) -> None:
    for block in pen.blocks:
        assert take(harbor, block) == Accept(block.head)
    (verdict,) = journal.verify(harbor)
    assert (verdict.fault, verdict.head, verdict.events) == (None, pen.head, 10)


def test_a_block_that_comes_twice_is_stored_once(harbor: sqlite3.Connection, pen: Pen) -> None:
    for block in pen.blocks:
        take(harbor, block)
    before = content(harbor)
    for block in pen.blocks:
        assert take(harbor, block) == Duplicate()
    assert content(harbor) == before


def test_any_order_and_any_repeats_end_in_the_same_log(harbor: sqlite3.Connection) -> None:
    dice, pen = random.Random(7), Pen()
    for _ in range(12):
        pen.quiet(dice.randint(1, 4))
    deliveries = pen.blocks * 12
    dice.shuffle(deliveries)
    for block in deliveries:
        assert isinstance(take(harbor, block), Accept | Duplicate | Gap)
    for block in pen.blocks:
        take(harbor, block)
    (verdict,) = journal.verify(harbor)
    assert (verdict.fault, verdict.head) == (None, pen.head)


def test_a_hole_is_named_by_its_first_and_last_event(harbor: sqlite3.Connection, pen: Pen) -> None:
    take(harbor, pen.blocks[0])
    assert take(harbor, pen.blocks[3]) == Gap(2, 5)
    assert take(harbor, pen.blocks[1]) == Accept(pen.blocks[1].head)


def test_two_continuations_of_one_log_are_a_fork_and_the_first_stays(harbor: sqlite3.Connection, pen: Pen) -> None:
    clone = pen.branch()
    genuine, other = pen.quiet(2), clone.quiet(2, silence_ns=31)
    for block in pen.blocks:
        take(harbor, block)
    before = content(harbor)
    assert take(harbor, other) == Fork(genuine.first_seq, genuine.hash, other.hash)
    assert take(harbor, clone.quiet()) == Fork(pen.head.seq, pen.head.hash, clone.blocks[-1].previous)
    assert content(harbor) == before
    assert "continued in two ways" in receive.words(Fork(11, genuine.hash, other.hash))


def test_a_fork_with_other_block_bounds_is_a_fork_too(harbor: sqlite3.Connection, pen: Pen) -> None:
    clone = pen.branch()
    for block in (*pen.blocks, pen.quiet(4)):
        take(harbor, block)
    clone.quiet(1)
    inside = clone.quiet(2)
    assert isinstance(take(harbor, inside), Fork)


def test_mallory_cannot_write_into_alders_log(harbor: sqlite3.Connection, pen: Pen) -> None:
    for block in pen.blocks:
        take(harbor, block)
    before = content(harbor)
    forged = Pen(LOG, MALLORY_KEY, pen.head).quiet()
    assert take(harbor, forged) == Refuse(Fault.SIGNATURE)
    assert take(harbor, forged, MALLORY) == Refuse(Fault.SIGNATURE)  # another key than the log began with
    assert content(harbor) == before


def test_a_forged_copy_of_an_old_block_is_refused_not_called_a_fork(harbor: sqlite3.Connection, pen: Pen) -> None:
    for block in pen.blocks:
        take(harbor, block)
    forged = Pen(LOG, MALLORY_KEY, pen.blocks[0].head).quiet(3, silence_ns=99)
    assert take(harbor, forged) == Refuse(Fault.SIGNATURE)


def test_a_log_must_begin_with_the_key_it_is_signed_with(harbor: sqlite3.Connection) -> None:
    keyless = Pen(head=envelope.EMPTY)
    keyless.head, keyless.blocks = envelope.EMPTY, []
    assert take(harbor, keyless.quiet()) == Refuse(Fault.START)
    wrong = Pen(head=envelope.EMPTY)
    wrong.head = envelope.EMPTY
    assert take(harbor, wrong.write(("log", events.LogStarted("first", MALLORY)))) == Refuse(Fault.START)
    assert content(harbor) == []


def kept_apart(harbor: sqlite3.Connection, pen: Pen, block: Block) -> None:
    """It stands in the log as it came, under a kind that says so, and what follows follows."""
    assert isinstance(take(harbor, block), Accept)
    (fact,) = [fact for batch in journal.read(harbor) for fact in batch][-1:]
    assert (fact.kind, fact.body) == (events.UNREADABLE, events.Unknown(block.events[0]))
    assert isinstance(take(harbor, pen.quiet()), Accept)
    assert journal.verify(harbor)[0].fault is None


@pytest.mark.parametrize(
    "number", [0, 3, 1 << 62, (1 << 64) - 1], ids=["zero", "another's", "far", "more than a database holds"]
)
def test_an_event_out_of_its_place_is_kept_apart_and_the_line_moves_on(
    harbor: sqlite3.Connection, pen: Pen, number: int
) -> None:
    for block in pen.blocks:
        take(harbor, block)
    body = events.HeartbeatResumed(1)
    raw = events.encode_all(number, 1, 1, Clock.SYNCED, [("drone", body, events.encode_body(body))])
    kept_apart(harbor, pen, pen.raw(raw))


@pytest.mark.parametrize("at", [1, 2])
def test_a_number_beyond_what_a_database_holds_is_kept_apart(harbor: sqlite3.Connection, pen: Pen, at: int) -> None:
    for block in pen.blocks:
        take(harbor, block)
    import msgspec

    event = [pen.head.seq + 1, 1, 1, 2, "node.heartbeat_resumed", 1, "drone", [1, 0]]
    event[at] = (1 << 64) - 1
    kept_apart(harbor, pen, pen.raw([msgspec.msgpack.encode(event)]))


def test_what_is_no_event_is_kept_as_it_came_when_it_is_signed(harbor: sqlite3.Connection, pen: Pen) -> None:
    for block in pen.blocks:
        take(harbor, block)
    for raw in (b"", b"\xc1", b"\x90", b"\x91" * 3_000 + b"\x01"):
        kept_apart(harbor, pen, pen.raw([raw]))


def test_kinds_of_a_newer_version_are_kept_as_they_came(harbor: sqlite3.Connection, pen: Pen) -> None:
    import msgspec

    newer = msgspec.msgpack.encode([pen.head.seq + 1, 1, 1, 2, "node.teleported", 7, "drone", [{"far": True}], "more"])
    pen.raw([newer])
    for block in pen.blocks:
        assert isinstance(take(harbor, block), Accept)
    assert list(journal.blocks(harbor, 1))[-1].events == (newer,)
    assert journal.verify(harbor)[0].fault is None


def test_tenants_writers_and_epochs_do_not_mix(harbor: sqlite3.Connection, pen: Pen) -> None:
    for block in pen.blocks:
        take(harbor, block)
    for log in (LOG._replace(tenant="other"), LOG._replace(writer="01BRCH00000000000000000000"), LOG._replace(epoch=2)):
        moved = Block(1, *log, *[getattr(pen.blocks[-1], name) for name in Block.__struct_fields__[4:]])
        assert take(harbor, moved) == Refuse(Fault.HASH)
        assert take(harbor, Pen(log).blocks[0]) == Accept(Pen(log).head)
    assert len(journal.verify(harbor)) == 4


# -- files ------------------------------------------------------------------------------------------------------


def test_a_file_is_received_and_received_again(tmp_path: Path, pen: Pen) -> None:
    birch = Pen(LOG._replace(writer="01BRCH00000000000000000000"))
    path = to_file(tmp_path / "logs", pen, birch)
    first = receive.receive_file(path, tmp_path / "harbor")
    assert (first.accepted, first.duplicates, first.stopped, first.problem) == (11, 0, None, None)
    again = receive.receive_file(path, tmp_path / "harbor")
    assert (again.accepted, again.duplicates, again.stopped) == (0, 11, None)
    pen.quiet(2)
    more = receive.receive_file(to_file(tmp_path / "more", pen), tmp_path / "harbor")
    assert (more.accepted, more.duplicates) == (2, 10)
    with closing(connect_reader(tmp_path / "harbor" / "site.db")) as db:
        assert {verdict.head for verdict in journal.verify(db)} == {pen.head, birch.head}


def test_a_file_that_was_cut_off_gives_what_is_whole(tmp_path: Path, pen: Pen) -> None:
    birch = Pen(LOG._replace(writer="01BRCH00000000000000000000"))
    report = receive.receive_file(to_file(tmp_path / "cut", pen, birch, cut=20), tmp_path / "harbor")
    assert report.problem is not None
    assert report.problem.problem is Problem.TRUNCATED
    assert (report.accepted, len(report.logs)) == (11, 2)


def test_a_forked_log_stops_and_the_one_behind_it_comes_through(tmp_path: Path, pen: Pen) -> None:
    clone, birch = pen.branch(), Pen(LOG._replace(writer="01BRCH00000000000000000000"))
    pen.quiet()
    clone.quiet(silence_ns=31)
    clone.quiet()
    receive.receive_file(to_file(tmp_path / "genuine", pen), tmp_path / "harbor")
    report = receive.receive_file(to_file(tmp_path / "cloned", clone, birch), tmp_path / "harbor")
    assert report.stopped is not None
    assert isinstance(report.stopped.stopped, Fork)
    assert (report.stopped.seq, report.accepted, report.duplicates) == (11, 1, 10)


def test_checking_a_file_needs_no_folder_and_names_the_first_bad_event(tmp_path: Path, pen: Pen) -> None:
    good, words = receive.check_file(to_file(tmp_path / "good", pen))
    assert good
    assert "10 events in 4 blocks" in words
    pen.blocks[2] = Pen(LOG, MALLORY_KEY, pen.blocks[1].head).quiet()
    good, words = receive.check_file(to_file(tmp_path / "forged", pen))
    assert not good
    assert "event 5: the block is not signed by the writer it names" in words
    del pen.blocks[2]
    assert "events 5 to 5 are missing before it" in receive.check_file(to_file(tmp_path / "holed", pen))[1]
    assert "cut off" in receive.check_file(to_file(tmp_path / "cut", Pen(), cut=1))[1]
    assert "is no log" in receive.check_file(Path(__file__))[1]
    assert "cannot be read" in receive.check_file(tmp_path / "absent")[1]
