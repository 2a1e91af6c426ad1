"""Made again from the log, by one process or by several: what a fold of every event gives, to the last row."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fleet import events
from fleet.connectivity import Mode
from store import anew, history, journal, views
from store.database import connect_reader
from store.history import HistoryIndex
from sync import receive
from tests.store.alder import Alder
from tests.store.test_history import NODES, a_day, caught_up, following

BIRCH = "01BIRCH0000000000000000000"


def a_busy_day(here: Alder, tmp_path: Path) -> None:
    """Many turns of many nodes, each said at once by two writers, birch's log in stretches between alder's."""
    dice = random.Random(7)
    with Alder(tmp_path / "birch") as birch:
        for _ in range(6):
            for site in (here, birch):
                a_day(site, dice, 8)
                site.say(*((f"node-{dice.randrange(300):03}", _turn(dice)) for _ in range(400)))
            _take(here, birch)


def _turn(dice: random.Random) -> events.Body:
    mode = dice.choice([*Mode])
    return dice.choice(
        (
            events.NodeHeard(mode, "", "syslog"),
            events.NodeDegraded(mode, "", "loss"),
            events.HeartbeatMissed(1, 5),
            events.HeartbeatResumed(9),
            events.HealthChanged("OK", f"word-{dice.randrange(50)}", "it says so"),
            events.LifecycleMoved("PROVISIONING", "ENROLLED", "why"),
            events.LifecycleMoved("RETIRED", "ACTIVE", "no edge"),
        )
    )


def _take(here: Alder, other: Alder) -> None:
    def job(db: sqlite3.Connection) -> None:
        known = journal.head_of(db, other.log._replace(writer=BIRCH)).seq
        for block in other.blocks():
            if block.first_seq > known:
                log_id = journal.start_log(db, block.log._replace(writer=BIRCH), other.public_key, 1)
                facts = [one._replace(writer=BIRCH) for one in receive.facts_of(block, here.journal.next_position)]
                here.journal.take(db, log_id, block, facts)

    here.site.submit(job).result()


@pytest.mark.parametrize("parts", [1, 2])
def test_it_is_what_a_fold_of_every_event_gives(tmp_path: Path, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anew, "_STRETCH_EVENTS", 500)
    with Alder(tmp_path / "alder") as alder:
        with following(alder) as index:
            a_busy_day(alder, tmp_path)
            caught_up(index, alder)
        steps: list[tuple[int, int]] = []
        fresh = tmp_path / "fresh.db"
        made = anew.make(alder.folder.site_db, fresh, lambda done, total: steps.append((done, total)), parts)
        head = alder.journal.position
        assert made.position == head > 4_000
        assert history.digest(fresh) == history.digest(alder.folder.history_db)
        with closing(connect_reader(alder.folder.site_db)) as db:
            for fold in anew.folds():
                state = fold.EMPTY
                for batch in views.replay(db):
                    state = fold.advance(state, batch)
                assert made.states[fold.NAME] == state, fold.NAME
        assert steps == sorted(steps)
        assert steps[-1] == (head, head)
        assert len(steps) > 5
        for table in ("born", "told", "meta"):
            assert _table(fresh, table) == _table(alder.folder.history_db, table), table
    assert [path.name for path in tmp_path.glob("fresh*")] == ["fresh.db"]


def _table(path: Path, table: str) -> list[object]:
    first = {"born": "(SELECT text FROM name WHERE id=subject)", "told": "(SELECT text FROM name WHERE id=writer)"}
    with closing(sqlite3.connect(path)) as db:
        columns = f"{first[table]}, hlc" if table in first else "key, value"
        return sorted(row for row in db.execute(f"SELECT {columns} FROM {table}") if row[0] not in ("made", "moments"))


def test_what_was_made_goes_on_as_if_it_had_always_followed(tmp_path: Path) -> None:
    with Alder(tmp_path / "alder") as alder:
        a_day(alder, random.Random(2))
        anew.make(alder.folder.site_db, alder.folder.history_db)
        with following(alder) as index:
            a_day(alder, random.Random(3))
            caught_up(index, alder)
            assert set(index.crowd(1 << 61).modes()) == set(NODES)
        again = tmp_path / "again.db"
        anew.make(alder.folder.site_db, again)
        assert history.digest(again) == history.digest(alder.folder.history_db)


def test_every_column_counts_in_the_comparison(tmp_path: Path) -> None:
    with Alder(tmp_path / "alder") as alder:
        a_day(alder, random.Random(2))
        built, right = tmp_path / "built.db", tmp_path / "right.db"
        anew.make(alder.folder.site_db, right)
        for column, value in (("said", 1), ("hlc", 12), ("position", 99), ("clock", 0), ("seq", 99)):
            anew.make(alder.folder.site_db, built)
            with closing(sqlite3.connect(built)) as db:
                row = "(track, subject, hlc) = (SELECT track, subject, hlc FROM turn LIMIT 1)"
                db.execute(f"UPDATE turn SET {column}=? WHERE {row}", (value,))
                db.commit()
            assert history.digest(built) != history.digest(right), column


def test_a_journal_of_nothing_gives_nothing(tmp_path: Path) -> None:
    with Alder(tmp_path / "alder") as alder:
        made = anew.make(alder.folder.site_db, tmp_path / "fresh.db")
        assert made.position == 0
        assert made.states == {fold.NAME: fold.EMPTY for fold in anew.folds()}
        index = HistoryIndex(tmp_path / "fresh.db", alder.folder.site_db, lambda: 0)
        assert index.known().first_ns is None


def test_a_part_that_dies_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anew, "_part", _dies)
    with Alder(tmp_path / "alder") as alder:
        a_day(alder, random.Random(2))
        with pytest.raises(ValueError, match="ended before"):
            anew.make(alder.folder.site_db, tmp_path / "fresh.db", parts=2)
    assert not list(tmp_path.glob("fresh*"))


def _dies(*_: object) -> None:
    raise SystemExit(3)
