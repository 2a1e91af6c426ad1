"""The journal: numbered, chained, signed, durable; and whoever edits it is found, at the first place."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fleet import envelope, events, hlc, limits
from fleet.envelope import Fault, Log
from fleet.events import Recorded
from store import journal
from store.database import connect, connect_reader
from store.folder import bring_up
from tests.store.alder import DRONE, WRITER, Alder, heard, turns

NODES = [f"01DRNE{number:020d}" for number in range(7)]


@pytest.fixture
def alder(tmp_path: Path) -> Iterator[Alder]:
    with Alder(tmp_path / "alder") as site:
        yield site


def recorded(site: Alder, after: int = 0) -> list[Recorded]:
    with closing(connect_reader(site.folder.site_db)) as db:
        return [event for batch in journal.read(db, after, batch=7) for event in batch]


def asked(site: Alder, *question: object) -> list[Recorded]:
    sql, parameters = journal.newest(*question)  # type: ignore[arg-type]
    with closing(connect_reader(site.folder.site_db)) as db:
        return journal.rows_to_events(db.execute(sql, parameters))


def test_events_are_numbered_without_a_hole_and_stamps_only_grow(alder: Alder) -> None:
    for count in (1, 3, 2):
        alder.say(*turns(count))
    found = recorded(alder)
    assert [event.seq for event in found] == [1, 2, 3, 4, 5, 6]
    assert [event.position for event in found] == [1, 2, 3, 4, 5, 6]
    assert [event.hlc for event in found] == sorted({event.hlc for event in found})
    assert [len(block.events) for block in alder.blocks()] == [1, 3, 2]


def test_what_was_said_is_what_is_read(alder: Alder) -> None:
    facts = turns(50, NODES)
    alder.say(*facts)
    assert [(event.subject, event.body) for event in recorded(alder)] == facts


def test_a_listener_hears_each_commit_once_in_order_and_as_it_will_be_read(alder: Alder) -> None:
    seen: list[Recorded] = []
    alder.journal.listen(seen.extend)
    for count in (1, 20, 3):
        alder.say(*turns(count, NODES))
    assert seen == recorded(alder)


def test_a_restart_goes_on_where_the_log_ended(tmp_path: Path) -> None:
    for _ in range(3):
        with Alder(tmp_path / "alder") as site:
            site.say(*turns(4))
    with Alder(tmp_path / "alder") as site:
        assert (site.journal.head.seq, site.journal.position) == (12, 12)
        assert [verdict.fault for verdict in site.verdicts()] == [None]


def test_a_refused_job_leaves_no_number_behind(alder: Alder) -> None:
    def refused(db: sqlite3.Connection) -> None:
        alder.journal.stage(DRONE, heard())
        raise ValueError("Mallory may not")

    futures = [alder.site.submit(refused)] + [
        alder.site.submit(lambda db: alder.journal.stage(DRONE, heard())) for _ in range(3)
    ]
    with pytest.raises(ValueError, match="Mallory"):
        futures[0].result()
    assert [future.result() for future in futures[1:]] == [None] * 3
    assert [event.seq for event in recorded(alder)] == [1, 2, 3]
    assert alder.verdicts()[0].fault is None


def test_a_commit_larger_than_a_block_becomes_several(alder: Alder) -> None:
    alder.say(*turns(limits.block_events_max + 5, NODES))
    assert [len(block.events) for block in alder.blocks()] == [limits.block_events_max, 5]
    large = events.StorageFailed("site.db", "full", "x" * 200_000)
    alder.say(*[(WRITER, large)] * 100)
    sizes = [sum(map(len, block.events)) for block in alder.blocks()[2:]]
    assert len(sizes) == 2
    assert max(sizes) <= limits.block_bytes_max
    assert alder.verdicts()[0].fault is None


def test_what_is_too_large_to_be_an_event_is_refused_and_nothing_else(alder: Alder) -> None:
    huge = events.StorageFailed("site.db", "full", "x" * limits.event_bytes_max)
    with pytest.raises(ValueError, match="over the limit"):
        alder.say((DRONE, heard()), (WRITER, huge))
    with pytest.raises(ValueError, match="subject"):
        alder.say(("x" * (limits.subject_chars_max + 1), heard()))
    for half in ("\ud800", "\udcff"):
        with pytest.raises(ValueError, match="surrogates"):
            alder.say((half, heard()))
        with pytest.raises(ValueError, match="surrogates"):
            alder.say((DRONE, events.TokenRevoked(half, "Alice")))
    assert recorded(alder) == []
    alder.say(*turns(1))
    assert alder.verdicts()[0].events == 1


def test_stamps_are_those_of_the_hybrid_clock(alder: Alder) -> None:
    alder.say(*turns(3))
    first, *rest = recorded(alder)
    stamp = hlc.tick(0, first.wall_ns // limits.MS)
    assert first.hlc == stamp
    for event in rest:
        stamp = hlc.tick(stamp, event.wall_ns // limits.MS)
        assert event.hlc == stamp


def test_a_new_epoch_never_speaks_before_the_old_one(tmp_path: Path) -> None:
    with Alder(tmp_path / "alder") as site:
        site.say(*turns(3))
        last = recorded(site)[-1]
        ahead = last.hlc + (10**9 << 16)

        def put_ahead(db: sqlite3.Connection) -> None:
            site.journal._hlc = ahead

        site.site.submit(put_ahead).result()
        site.say(*turns(1))
    with closing(connect(tmp_path / "alder" / "site.db")) as db:
        log = site.log._replace(epoch=2)
        journal.start_log(db, log, site.public_key, 1)
        journal.write_identity(db, journal.Identity(log, "alder"))
    with Alder(tmp_path / "alder") as site:
        site.say(*turns(1))
        assert recorded(site)[-1].hlc > ahead
        assert recorded(site)[-1].seq == 1


def test_an_identity_is_read_as_it_was_written(tmp_path: Path) -> None:
    bring_up(tmp_path / "site.db")
    with closing(connect(tmp_path / "site.db")) as db:
        assert journal.read_identity(db) is None
        for epoch in (1, 2):
            identity = journal.Identity(Log("fleet", WRITER, epoch), "alder")
            journal.write_identity(db, identity)
            assert journal.read_identity(db) == identity


# -- questions --------------------------------------------------------------------------------------------------


def test_a_timeline_is_what_reading_everything_would_give(alder: Alder) -> None:
    dice = random.Random(3)
    for _ in range(60):
        alder.say(
            *[
                (dice.choice(NODES), dice.choice([heard(), events.HeartbeatResumed(1)]))
                for _ in range(dice.randint(1, 9))
            ]
        )
    everything = recorded(alder)[::-1]
    for subject in (None, *NODES, "nobody"):
        for kind in (None, "node.heard", "node.teleported"):
            wanted = [e for e in everything if subject in (None, e.subject) and kind in (None, e.kind)]
            assert asked(alder, 1 << 62, 10_000, subject, kind) == wanted
            assert asked(alder, 1 << 62, 5, subject, kind) == wanted[:5]
            before = dice.randint(1, len(everything))
            assert asked(alder, before, 9, subject, kind) == [e for e in wanted if e.position < before][:9]


def test_what_happens_seldom_is_found_without_looking_at_what_happens_often(alder: Alder) -> None:
    alder.say((DRONE, events.HeartbeatResumed(1)))
    for _ in range(40):
        alder.say(*turns(50))
    alder.say((DRONE, events.HeartbeatResumed(1)))
    sql, parameters = journal.newest(1 << 62, 5, None, "node.heartbeat_resumed")
    with closing(connect_reader(alder.folder.site_db)) as db:
        steps = 0

        def count() -> None:
            nonlocal steps
            steps += 1

        db.set_progress_handler(count, 100)
        assert len(db.execute(sql, parameters).fetchall()) == 2
    assert steps < 10, "2,002 events would take hundreds"


def test_a_timeline_needs_no_sorting(alder: Alder) -> None:
    for question in (
        (99, 5, DRONE, None),
        (99, 5, None, None),
        (99, 5, DRONE, "node.heard"),
        (99, 5, None, "node.heard"),
    ):
        sql, parameters = journal.newest(*question)
        with closing(connect_reader(alder.folder.site_db)) as db:
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
        assert not any("TEMP B-TREE" in step or "SCAN log" in step for step in plan), plan


# -- verification -----------------------------------------------------------------------------------------------


@pytest.fixture
def book(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, int]]:
    """A journal of 40 blocks in a closed file, opened to be edited; and the number of its events."""
    dice = random.Random(5)
    with Alder(tmp_path / "alder") as site:
        site.say((WRITER, events.LogStarted("first", site.public_key)))
        for _ in range(39):
            site.say(*turns(dice.randint(1, 5), NODES))
        total = site.journal.head.seq
    with closing(sqlite3.connect(tmp_path / "alder" / "site.db", isolation_level=None)) as db:
        yield db, total


def verdict_of(db: sqlite3.Connection) -> journal.Verdict:
    (verdict,) = journal.verify(db)
    return verdict


def first_of_block(db: sqlite3.Connection, seq: int) -> int:
    (first,) = db.execute("SELECT max(first_seq) FROM block WHERE first_seq <= ?", (seq,)).fetchone()
    return int(first)


EDITS = {
    "raw": "UPDATE event SET raw = ? WHERE seq = ?",
    "kind": "UPDATE event SET kind = 'node.quiet' WHERE seq = :seq",
    "subject": "UPDATE event SET subject = 'somebody else' WHERE seq = :seq",
    "wall_ns": "UPDATE event SET wall_ns = wall_ns + 1 WHERE seq = :seq",
    "position": "UPDATE event SET position = position + 100000 WHERE seq = :seq",
    "delete": "DELETE FROM event WHERE seq = :seq",
    "renumber": "UPDATE event SET seq = seq + 100000 WHERE seq = :seq",
    "hash": "UPDATE block SET hash = x'00' WHERE first_seq = :first",
    "signature": "UPDATE block SET signature = zeroblob(64) WHERE first_seq = :first",
    "previous": "UPDATE block SET previous = zeroblob(32) WHERE first_seq = :first AND first_seq > 1",
    "block": "DELETE FROM block WHERE first_seq = :first",
    "mention": "DELETE FROM mention WHERE first_position >= :first AND first_position <= :seq",
    "range": "UPDATE mention SET last_position = last_position + 1 WHERE first_position = :first",
}


def test_an_untouched_journal_is_never_accused(book: tuple[sqlite3.Connection, int]) -> None:
    db, total = book
    told: list[int] = []
    (verdict,) = journal.verify(db, told.append)
    assert (verdict.fault, verdict.events, verdict.blocks) == (None, total, 40)
    assert told == sorted(told)
    assert told[-1] == total


@pytest.mark.trial
def test_a_thousand_edits_are_found_at_the_first_bad_block_with_no_false_alarm(
    book: tuple[sqlite3.Connection, int],
) -> None:
    db, total = book
    dice, edits = random.Random(11), 0
    while edits < 1_000:
        name, seq = dice.choice(sorted(EDITS)), dice.randint(1, total)
        first = first_of_block(db, seq)
        db.execute("BEGIN")
        if name == "raw":
            (raw,) = db.execute("SELECT raw FROM event WHERE seq=?", (seq,)).fetchone()
            flipped = bytearray(raw)
            flipped[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
            changed = db.execute(EDITS[name], (bytes(flipped), seq)).rowcount
        else:
            changed = db.execute(EDITS[name], {"seq": seq, "first": first}).rowcount
        verdict = verdict_of(db)
        if changed:
            edits += 1
            assert verdict.fault is not None, (name, seq)
            # A block that is gone is missed where the next one begins; a block at the end, by the events it leaves.
            assert first <= verdict.seq <= first + 5, (name, seq, verdict)
            if name not in ("block", "delete", "renumber"):
                assert verdict.seq == first, (name, seq, verdict)
        db.execute("ROLLBACK")
        if edits % 20 == 0:
            assert verdict_of(db).fault is None
    assert edits == 1_000


@pytest.mark.parametrize("name", sorted(EDITS))
def test_each_kind_of_edit_is_found(book: tuple[sqlite3.Connection, int], name: str) -> None:
    db, total = book
    seq = total // 2
    first = first_of_block(db, seq)
    given = (b"\x90", seq) if name == "raw" else {"seq": seq, "first": first}
    assert db.execute(EDITS[name], given).rowcount
    verdict = verdict_of(db)
    assert verdict.fault is not None
    assert verdict.detail
    assert verdict.seq >= first


def test_events_slipped_in_behind_the_last_block_are_found(book: tuple[sqlite3.Connection, int]) -> None:
    db, total = book
    (raw,) = db.execute("SELECT raw FROM event WHERE seq=?", (total,)).fetchone()
    db.execute("INSERT INTO event VALUES (?,1,?,'node.heard','x',1,?)", (total + 1, total + 1, raw))
    assert verdict_of(db).fault is Fault.GAP


def test_mallory_cannot_rewrite_the_tail_with_a_key_of_her_own(book: tuple[sqlite3.Connection, int]) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    db, _ = book
    *_, former, last = journal.blocks(db, 1)
    forged = envelope.seal(last.log, former.head, list(last.events), Ed25519PrivateKey.generate())
    db.execute(
        "UPDATE block SET hash=?, signature=? WHERE first_seq=?", (forged.hash, forged.signature, last.first_seq)
    )
    assert verdict_of(db)[4:6] == (Fault.SIGNATURE, last.first_seq)


def test_a_log_whose_key_is_none_is_named(book: tuple[sqlite3.Connection, int]) -> None:
    db, _ = book
    db.execute("UPDATE log SET public_key = x'00'")
    assert verdict_of(db).fault is Fault.SIGNATURE
