"""The writer: one connection, whole transactions, callers that may come, go and be refused without harm to others."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from store import journal
from store.database import Reader, Writer, connect, connect_reader
from store.faults import Fault, StoreFault
from tests.store.alder import DRONE, Alder, heard

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(connect(tmp_path / "book.db")) as db:
        db.execute("CREATE TABLE line (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
    return tmp_path / "book.db"


@pytest.fixture
def writer(path: Path) -> Iterator[Writer]:
    made = Writer(path)
    yield made
    made.close()


def add(number: int) -> object:
    return lambda db: db.execute("INSERT INTO line VALUES (?, 'x')", (number,)).rowcount


def lines(path: Path) -> list[int]:
    with closing(connect_reader(path)) as db:
        return [row[0] for row in db.execute("SELECT id FROM line ORDER BY id")]


def held_back(writer: Writer) -> threading.Event:
    """Keep the writer busy until the event is set, so that what is submitted meanwhile is one transaction."""
    go = threading.Event()
    started = threading.Event()

    def job(db: sqlite3.Connection) -> None:
        started.set()
        go.wait(30)

    writer.submit(job)
    started.wait(30)
    return go


def test_pragmas_are_read_back(path: Path) -> None:
    with closing(connect(path)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert db.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_a_reader_can_neither_write_nor_checkpoint(path: Path) -> None:
    with closing(connect_reader(path)) as db:
        for sql in ("INSERT INTO line VALUES (1, 'x')", "PRAGMA user_version=1", "DROP TABLE line"):
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                db.execute(sql)


def test_jobs_that_wait_together_are_committed_together(writer: Writer) -> None:
    go = held_back(writer)
    futures = [writer.submit(add(number)) for number in range(100)]
    before = writer.commits
    go.set()
    assert [future.result(30) for future in futures] == [1] * 100
    assert writer.commits - before <= 2


def test_a_refused_job_is_undone_and_the_others_of_its_transaction_stand(writer: Writer, path: Path) -> None:
    def refused(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO line VALUES (1000, 'half')")
        raise ValueError("no")

    go = held_back(writer)
    good = [writer.submit(add(number)) for number in (1, 2)]
    bad = [writer.submit(refused), writer.submit(add(2))]  # a broken rule of the table is a refusal, too
    more = writer.submit(add(3))
    go.set()
    assert [future.result(30) for future in [*good, more]] == [1, 1, 1]
    with pytest.raises(ValueError, match="no"):
        bad[0].result(30)
    with pytest.raises(sqlite3.IntegrityError):
        bad[1].result(30)
    assert lines(path) == [1, 2, 3]
    assert writer.fault is None


def test_a_result_is_told_after_the_commit_not_before(writer: Writer, path: Path) -> None:
    for number in range(20):
        writer.submit(add(number)).result(30)
        assert number in lines(path)


def test_closing_finishes_what_waits_and_takes_no_more(path: Path) -> None:
    writer = Writer(path)
    go = held_back(writer)
    futures = [writer.submit(add(number)) for number in range(10)]
    closing_thread = threading.Thread(target=writer.close)
    closing_thread.start()
    go.set()
    closing_thread.join(30)
    assert not path.with_name("book.db-wal").exists()
    assert [future.result(0) for future in futures] == [1] * 10
    assert lines(path) == list(range(10))
    with pytest.raises(RuntimeError, match="closed"):
        writer.submit(add(99))


def test_a_full_disk_fails_everybody_at_once_and_goes_on_when_there_is_room(path: Path) -> None:
    """The fault is SQLite's own: a file that may not grow by a page."""
    turns: list[StoreFault | None] = []
    turned = threading.Event()
    writer = Writer(path, on_turn=lambda fault: (turns.append(fault), turned.set()))  # type: ignore[func-returns-value]

    def fill(db: sqlite3.Connection) -> None:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count={pages}")
        db.execute("INSERT INTO line VALUES (5, ?)", ("x" * 100_000,))

    go = held_back(writer)
    futures = [writer.submit(add(1)), writer.submit(fill), writer.submit(add(2))]
    go.set()
    for future in futures:
        with pytest.raises(StoreFault) as caught:
            future.result(30)
        assert caught.value.fault is Fault.FULL
        assert "nothing is acknowledged" in str(caught.value)
    while len(turns) < 2:
        turned.wait(30)
        turned.clear()
    assert turns[0] is not None
    assert turns[1] is None
    writer.submit(add(3)).result(30)
    writer.close()
    assert lines(path) == [3]


def test_a_bug_in_a_participant_does_not_end_the_thread_that_everybody_waits_for(tmp_path: Path) -> None:
    with Alder(tmp_path / "alder") as site:

        def listener(batch: object) -> None:
            if broken:
                raise RuntimeError("a fold that cannot")

        broken = True
        site.journal.listen(listener)
        with pytest.raises(StoreFault):
            site.say((DRONE, heard(1)))
        broken = False
        while site.site.fault is not None:
            threading.Event().wait(0.01)
        site.say((DRONE, heard(2)))
        assert said(site) == [1, 2]  # the first was on the disk before the listener fell
        assert site.verdicts()[0].fault is None


def test_a_damaged_file_is_named_not_served(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"this is no database at all, not by a long way" * 100)
    with pytest.raises(StoreFault) as caught:
        connect(tmp_path / "bad.db")
    assert caught.value.fault is Fault.DAMAGED
    with pytest.raises(StoreFault):
        connect_reader(tmp_path / "absent.db")


async def test_a_query_without_end_is_ended(path: Path) -> None:
    reader = Reader(path, 1)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n"
    try:
        with pytest.raises(TimeoutError, match="took over"):
            await reader.fetch(endless)
        assert await reader.fetch("SELECT 1") == [(1,)]
    finally:
        await reader.close()


async def test_a_query_that_cannot_be_answered_leaves_the_reader_usable(path: Path) -> None:
    reader = Reader(path, 1)
    try:
        with pytest.raises(StoreFault):
            await reader.fetch("SELECT * FROM nowhere")
        assert await reader.fetch("SELECT count(*) FROM line") == [(0,)]
    finally:
        await reader.close()


async def storm(site: Alder, callers: int, seed: int) -> list[int]:
    """Callers that write and are cancelled at random instants; returns the numbers that were acknowledged."""
    dice, acknowledged = random.Random(seed), []

    async def call(number: int) -> None:
        await site.site.write(lambda db: site.journal.stage(DRONE, heard(number)))
        acknowledged.append(number)

    for first in range(0, callers, 500):
        tasks = [asyncio.create_task(call(number)) for number in range(first, min(first + 500, callers))]
        for task in dice.sample(tasks, len(tasks) * 9 // 10):
            if dice.random() < 0.3:
                await asyncio.sleep(0)
            task.cancel()
        probe = asyncio.create_task(call(callers + first))
        await asyncio.gather(*tasks, return_exceptions=True)
        await probe
        assert callers + first in acknowledged
    return acknowledged


def said(site: Alder) -> list[int]:
    with closing(connect_reader(site.folder.site_db)) as db:
        return [event.body.record for batch in journal.read(db) for event in batch]  # type: ignore[union-attr]


@pytest.mark.parametrize("callers", [500, pytest.param(10_000, marks=pytest.mark.trial)])
async def test_a_storm_of_cancelled_callers_locks_nobody_and_loses_nothing_acknowledged(
    tmp_path: Path, callers: int
) -> None:
    """T25. What was cancelled may be there or not, but once at most."""
    with Alder(tmp_path / "alder") as site:
        acknowledged = await storm(site, callers, seed=25)
        held = said(site)
        assert set(acknowledged) <= set(held)
        assert len(held) == len(set(held))
        assert site.verdicts()[0].fault is None
        with closing(sqlite3.connect(site.folder.site_db, timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")  # nobody holds the lock
            other.execute("ROLLBACK")


_CHILD = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from tests.store.alder import DRONE, Alder, heard
    site = Alder(Path(sys.argv[1]))
    number = int(sys.argv[2])
    while True:
        site.say((DRONE, heard(number)), (DRONE, heard(-number)))
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
        number += 1
    """
)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.trial)])
def test_what_was_acknowledged_is_there_after_kill_9(tmp_path: Path, kills: int) -> None:
    dice, ledger = random.Random(9), 0
    for _ in range(kills):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", _CHILD, str(tmp_path / "alder"), str(ledger + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
            assert child.stdout is not None
            for _ in range(dice.randint(1, 120)):
                ledger = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            ledger = max([ledger, *(int(line) for line in child.stdout.read().splitlines()[:-1] if line)])
        with Alder(tmp_path / "alder") as site:
            held = said(site)
            assert held[: 2 * ledger] == [sign * n for n in range(1, ledger + 1) for sign in (1, -1)]
            assert len(held) % 2 == 0  # a commit is there whole or not at all
            assert site.verdicts()[0].fault is None
            ledger = len(held) // 2
