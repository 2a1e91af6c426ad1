"""Raw telemetry: one sequence of records through partitions, segments and what was let go."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import frames, telemetry
from store.database import connect
from store.faults import Fault, StoreFault
from store.folder import Folder, bring_up
from store.frames import Offer, Record
from store.telemetry import Closed, Gap, History, Telemetry

NOW = 1_795_219_200_000_000_000
SOURCES = [f"syslog/10.0.0.{number}/alder" for number in range(3)]


class Store:
    """A data folder with raw telemetry, and what must be readable from it."""

    def __init__(self, root: Path) -> None:
        self.folder = Folder(root)
        self.folder.prepare()
        if not self.folder.site_db.exists():
            bring_up(self.folder.site_db)
        self.db = connect(self.folder.site_db)
        self.history = History(self.folder)
        self.ledger: list[Record] = []
        self.open()

    def open(self) -> None:
        self.telemetry = Telemetry(self.folder)
        (sealed,) = self.db.execute("SELECT coalesce(max(last_id), 0) FROM segment").fetchone()
        self.telemetry.open(sealed)

    def append(self, count: int, source: int = 0) -> list[Record]:
        offers = [Offer(NOW, SOURCES[(source + number) % 3], b"line %d" % number) for number in range(count)]
        self.ledger += (records := self.telemetry.append(offers))
        return records

    def seal(self, partition: Closed, *, discard: bool = True) -> telemetry.Sealing:
        """As the keeper does it."""
        upto, last_id, _ = telemetry.announced(self.db, partition)
        sealing = telemetry.Sealing((), (), "")
        if upto < last_id:
            sealing = telemetry.seal(partition._replace(last_id=last_id), self.folder.segments, upto)
            self.db.execute("BEGIN")
            for one in sealing.sealed:
                telemetry.enter(self.db, one, NOW)
            for lost in sealing.lost:
                telemetry.enter_lost(self.db, *lost, NOW)
            self.db.execute("COMMIT")
        if discard:
            assert self.telemetry.discard(partition, last_id)
        return sealing

    def seal_all(self) -> None:
        self.telemetry.rotate()
        for partition in self.telemetry.closed_partitions():
            self.seal(partition)

    def drop(self, index: int) -> bool:
        segments = telemetry.live(self.db)
        if not segments:
            return False
        segment = segments[index % len(segments)]
        telemetry.drop(self.db, segment.first_id, NOW)
        telemetry.segment_path(self.folder.segments, segment.sha256).unlink()
        self.ledger = [one for one in self.ledger if not segment.first_id <= one.id <= segment.last_id]
        return True

    def close(self) -> None:
        self.telemetry.close()
        self.db.close()

    def all_after(self, limit: int, sources: frozenset[str] | None = None) -> tuple[list[Record], list[Gap]]:
        records: list[Record] = []
        gaps: list[Gap] = []
        position = 0
        while True:
            page = self.history.after(position, limit, sources)
            records += page.records
            gaps += page.gaps
            if page.scanned == position:
                return records, gaps
            position = page.scanned

    def all_before(self, limit: int, sources: frozenset[str] | None = None) -> tuple[list[Record], list[Gap]]:
        records: list[Record] = []
        gaps: list[Gap] = []
        position = 1 << 62
        while position:
            page = self.history.before(position, limit, sources)
            records += page.records
            gaps += page.gaps
            assert page.scanned < position
            position = page.scanned
        return records, gaps


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store(tmp_path)) as made:
        yield made


def _ids(gaps: list[Gap]) -> set[int]:
    return {number for gap in gaps for number in range(gap.first_id, gap.last_id + 1)}


# -- one sequence, whatever happens to its parts ------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 30)),
    st.tuples(st.just("rotate"), st.just(0)),
    st.tuples(st.just("seal one"), st.integers(0, 5)),
    st.tuples(st.just("seal, and crash"), st.integers(0, 5)),
    st.tuples(st.just("drop"), st.integers(0, 5)),
    st.tuples(st.just("restart"), st.just(0)),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=1, max_size=16), st.integers(1, 40), st.sets(st.sampled_from(SOURCES), min_size=1))
def test_what_is_here_is_read_once_and_in_order(steps: list[tuple[str, int]], limit: int, some: set[str]) -> None:
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shared) as root, contextlib.closing(Store(Path(root))) as store:
        for step, number in steps:
            _take(store, step, number)
        everything = store.telemetry.next_id - 1
        for sources in (None, frozenset(some)):
            expected = [one for one in store.ledger if sources is None or one.source in sources]
            forward, gaps = store.all_after(limit, sources)
            assert forward == expected
            here = {one.id for one in store.ledger}
            assert _ids(gaps) == set(range(1, everything + 1)) - here
            backward, gaps = store.all_before(limit, sources)
            assert backward == expected[::-1]
            assert _ids(gaps) == set(range(1, everything + 1)) - here


def _take(store: Store, step: str, number: int) -> None:
    closed = store.telemetry.closed_partitions()
    match step:
        case "append":
            store.append(number, number)
        case "rotate":
            store.telemetry.rotate()
        case "seal one" if closed:  # in any order: one that cannot be read now must not hold up the others
            assert store.seal(closed[number % len(closed)]).lost == ()
        case "seal, and crash" if closed:
            assert store.seal(closed[number % len(closed)], discard=False).lost == ()
        case "drop":
            # What is let go has no partition any more: the keeper finishes one before it takes up the other.
            for partition in closed:
                upto, last_id, _ = telemetry.announced(store.db, partition)
                if upto >= last_id:
                    assert store.telemetry.discard(partition, upto)
            store.drop(number)
        case "restart":
            store.telemetry.close()
            store.open()


def test_a_reader_beside_the_sealer_misses_nothing_and_repeats_nothing(store: Store) -> None:
    for _ in range(12):
        store.append(40)
        store.append(3)
        store.telemetry.rotate()
    store.append(5)
    expected = [one.id for one in store.ledger]
    wrong: list[list[int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            forward = [one.id for one in store.all_after(17)[0]]
            backward = [one.id for one in store.all_before(17)[0]][::-1]
            wrong.extend(ids for ids in (forward, backward) if ids != expected)

    reader = threading.Thread(target=read)
    reader.start()
    for partition in reversed(store.telemetry.closed_partitions()):
        store.seal(partition)
    done.set()
    reader.join()
    assert wrong == []


def test_when_everything_was_let_go_reading_still_comes_to_the_end(store: Store) -> None:
    store.append(10)
    store.seal_all()
    store.drop(0)
    page = store.history.after(0, 10)
    assert (page.records, page.scanned) == ([], 10)
    assert [(gap.first_id, gap.last_id) for gap in page.gaps] == [(1, 10)]


def test_a_segment_that_goes_while_it_is_read_becomes_a_gap(store: Store) -> None:
    store.append(10)
    store.seal_all()
    store.append(5)
    (segment,) = telemetry.live(store.db)
    rows = store.history._frames_after(0)
    _, _, _, load = next(rows)
    telemetry.drop(store.db, segment.first_id, NOW)
    telemetry.segment_path(store.folder.segments, segment.sha256).unlink()
    assert load() is None
    assert [one.id for one in store.history.after(0, 50).records] == list(range(11, 16))


def test_a_segment_whose_file_vanished_is_damage_and_not_a_gap(store: Store) -> None:
    store.append(10)
    store.seal_all()
    (segment,) = telemetry.live(store.db)
    telemetry.segment_path(store.folder.segments, segment.sha256).unlink()
    with pytest.raises(StoreFault) as caught:
        store.history.after(0, 50)
    assert caught.value.fault is Fault.DAMAGED


# -- ids ----------------------------------------------------------------------------------------------------------


def test_ids_go_on_after_a_restart_and_no_partition_is_lost(store: Store) -> None:
    store.append(10)
    store.telemetry.close()
    store.telemetry = Telemetry(store.folder)
    store.telemetry.open(0, known_up_to=10)
    assert store.append(1)[0].id == 11
    assert [one.id for one in store.all_after(50)[0]] == list(range(1, 12))


def test_an_id_that_a_cursor_has_seen_is_never_given_again(store: Store) -> None:
    store.telemetry.open(0, known_up_to=500)
    assert store.append(1)[0].id == 501


def test_a_partition_sealed_before_an_older_one_takes_nothing_with_it(store: Store) -> None:
    store.append(10)
    store.telemetry.rotate()
    store.append(10)
    store.telemetry.rotate()
    store.seal(store.telemetry.closed_partitions()[1])
    store.telemetry.close()
    store.open()
    assert [one.id for one in store.all_after(7)[0]] == list(range(1, 21))
    assert store.telemetry.next_id == 21


def test_past_an_unreadable_partition_ids_jump(store: Store) -> None:
    store.append(10)
    store.telemetry.close()
    (partition,) = store.telemetry.partitions()
    partition.path.write_bytes(b"not a database" * 1000)
    store.open()
    assert store.telemetry.unreadable == [partition.path]
    assert store.append(1)[0].id > 1_000_000


def test_a_large_offer_is_one_transaction_of_several_frames(store: Store) -> None:
    records = store.telemetry.append([Offer(NOW, SOURCES[0], bytes(60_000)) for _ in range(300)])
    held = list(telemetry.partition_frames(store.telemetry.partitions()[0].path))
    assert len(held) > 1
    assert [one for frame in held for one in frames.decode(frame.data)] == records


# -- what is closed, and what may go ------------------------------------------------------------------------------


def test_the_active_partition_is_never_closed_and_never_removed(store: Store) -> None:
    store.append(10)
    (partition,) = store.telemetry.partitions()
    assert store.telemetry.closed_partitions() == []
    assert not store.telemetry.discard(Closed(*partition, 10), 10)
    assert not store.telemetry.set_aside(Closed(*partition, 10))
    assert partition.path.exists()


def test_a_partition_that_holds_more_than_was_announced_stays(store: Store) -> None:
    store.append(10)
    store.telemetry.rotate()
    (partition,) = store.telemetry.closed_partitions()
    assert partition.last_id == 10
    assert not store.telemetry.discard(partition, 9)
    assert store.telemetry.discard(partition, 10)
    assert not partition.path.exists()


def test_a_rotation_that_was_asked_for_comes_at_the_next_look(store: Store) -> None:
    store.append(1)
    assert not store.telemetry.rotate_if_due()
    store.telemetry.rotation_wanted = True
    assert store.telemetry.rotate_if_due()
    assert [one.last_id for one in store.telemetry.closed_partitions()] == [1]


def test_a_paused_store_refuses_as_a_full_disk_does(store: Store) -> None:
    store.append(1)
    store.telemetry.paused = True
    with pytest.raises(StoreFault) as caught:
        store.append(1)
    assert caught.value.fault is Fault.FULL
    store.telemetry.paused = False
    assert store.append(1)[0].id == 2


def test_a_log_left_by_a_kill_is_read_and_sealed(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from store.folder import Folder;"
        "from store.frames import Offer; from store.telemetry import Telemetry;"
        "t = Telemetry(Folder(Path(sys.argv[1]))); t.open(0);"
        "[t.append([Offer(1, 'http//', b'kept')]) for _ in range(5)]; os.kill(os.getpid(), signal.SIGKILL)"
    )
    with contextlib.closing(Store(tmp_path)) as store:
        died = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
        assert died.returncode == -signal.SIGKILL
        assert list(store.folder.telemetry.glob("*-wal"))
        store.open()
        assert store.telemetry.next_id == 6
        store.seal_all()
        assert [one.content for one in store.all_after(9)[0]] == [b"kept"] * 5
        assert list(store.folder.telemetry.iterdir()) == []


# -- sealing ------------------------------------------------------------------------------------------------------


def test_sealing_twice_gives_one_file(store: Store) -> None:
    store.append(100)
    store.append(7)
    store.telemetry.rotate()
    (partition,) = store.telemetry.closed_partitions()
    first, second = (telemetry.seal(partition, store.folder.segments) for _ in range(2))
    assert first == second
    assert len(list(store.folder.segments.iterdir())) == 1
    assert first.lost == ()
    assert (first.sealed[0].first_id, first.sealed[0].last_id, first.sealed[0].records) == (1, 107, 107)


def test_a_segment_tells_from_its_bytes_alone_what_the_table_says_of_it(store: Store) -> None:
    for _ in range(3):
        store.append(3000)
    store.telemetry.rotate()
    (partition,) = store.telemetry.closed_partitions()
    (sealed,) = telemetry.seal(partition, store.folder.segments).sealed
    path = telemetry.segment_path(store.folder.segments, sealed.sha256)
    assert telemetry.inspect(path) == sealed
    assert telemetry.intact(path, sealed.sha256)


def test_an_empty_partition_seals_to_nothing_and_goes(store: Store) -> None:
    store.append(1)
    store.telemetry.rotate()
    store.seal_all()
    empty = store.folder.telemetry / f"{2:016d}.db"
    empty.touch()
    (partition,) = store.telemetry.closed_partitions()
    sealing = telemetry.seal(partition, store.folder.segments)
    assert (sealing.sealed, sealing.lost) == ((), ())
    assert store.telemetry.discard(partition, partition.last_id)


def test_a_damaged_partition_gives_what_can_be_read_and_names_the_rest(store: Store) -> None:
    for _ in range(40):
        store.telemetry.append([Offer(NOW, SOURCES[0], os.urandom(2000)) for _ in range(5)])
    store.telemetry.rotate()
    (partition,) = store.telemetry.closed_partitions()
    data = bytearray(partition.path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    partition.path.write_bytes(data)
    sealing = store.seal(partition, discard=False)
    assert sealing.lost
    assert store.telemetry.set_aside(partition)
    records, gaps = store.all_after(50)
    assert len(records) > 150
    assert {one.id for one in records} | _ids(gaps) == set(range(1, 201))
    assert {one.id for one in records} & _ids(gaps) == set()
    assert {gap.reason for gap in gaps} == {"damaged on the disk"}


def test_records_missing_at_the_end_are_named(store: Store) -> None:
    store.append(10)
    store.append(5)
    store.telemetry.rotate()
    (partition,) = store.telemetry.closed_partitions()
    with contextlib.closing(sqlite3.connect(partition.path)) as db, db:
        db.execute("DELETE FROM frame WHERE first_id=11")
    assert telemetry.seal(partition, store.folder.segments).lost == ((11, 15),)
