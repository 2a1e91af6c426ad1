"""What trials found, each kept small: the seed that failed stands beside it."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alder import Alder, turns

from fleet import envelope
from fleet.people import Unavailable
from store import budget, journal
from store.database import connect, connect_reader
from store.faults import Fault, StoreFault, fault_of
from store.telemetry import History, last_stray_id


def test_a_partition_that_is_being_made_is_empty_and_not_damaged(tmp_path: Path) -> None:
    """T1, seed 20261124: killed between the making of the file and of its table, or read just then."""
    with Alder(tmp_path / "alder") as alder:
        alder.hear(b"one", b"two")
        alder.telemetry.rotate()
        connect(alder.folder.telemetry / f"{3:016d}.db").close()
        history = History(alder.folder)
        assert [record.content for record in history.after(0, 10).records] == [b"one", b"two"]
        assert [record.content for record in history.before(1 << 62, 10).records] == [b"two", b"one"]


def test_a_journal_that_grows_while_it_is_verified_holds(tmp_path: Path) -> None:
    """T4, seed 20261121: `skerry journal verify` beside a running appliance took its newest events for strays."""
    with Alder(tmp_path / "alder") as alder:
        alder.say(*turns(3))
        with closing(connect_reader(alder.folder.site_db)) as db:
            more = iter([turns(2)])
            (verdict,) = journal.verify(db, lambda checked: alder.say(*next(more, ())))
        assert verdict.fault is None


def test_an_event_behind_the_last_block_is_still_a_stray(tmp_path: Path) -> None:
    with Alder(tmp_path / "alder") as alder:
        alder.say(*turns(3))
        alder.say(*turns(2))
    with closing(connect(alder.folder.site_db)) as db:
        db.execute("DELETE FROM block WHERE last_seq=5")
    (verdict,) = alder.verdicts()
    assert (verdict.fault, verdict.seq) == (envelope.Fault.GAP, 4)


@pytest.mark.parametrize("fault", Fault)
def test_a_store_that_falls_is_said_to_be_unavailable(fault: Fault) -> None:
    """T4, seed 20261129: signing in while site.db could not be written was answered with 500."""
    problem = StoreFault(fault, "site.db", "")
    assert isinstance(problem, Unavailable)
    assert problem.status == (507 if fault is Fault.FULL else 503)


def test_a_disk_without_room_for_the_index_of_a_log_is_full() -> None:
    """T4, seed 20261121: a start on a full disk blamed the disk's health."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert fault_of(error) is Fault.FULL


def test_a_start_on_a_full_disk_lives_on_the_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T4, seed 20261121: stopped while the disk was full, it did not start again."""
    with Alder(tmp_path / "alder") as alder:
        assert budget.hold_reserve(alder.folder, 65_536)
        budget.make_room_to_start(alder.folder)
        assert alder.folder.reserve.exists()
        monkeypatch.setattr(budget, "disk_free", lambda folder: 0)
        budget.make_room_to_start(alder.folder)
        assert not alder.folder.reserve.exists()


def test_a_disk_that_cannot_take_a_number_still_lets_the_folder_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Alder(tmp_path / "alder") as alder:

        def full() -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.getpid", full)
        alder.folder.hold()
        alder.folder.release()


def test_an_id_in_a_segment_is_not_given_again_when_site_db_was_set_back(tmp_path: Path) -> None:
    """T23: sealed since the copy that was put back, it stands in no table; its ids went to other records."""
    with Alder(tmp_path / "alder") as alder, closing(connect_reader(alder.folder.site_db)) as db:
        assert last_stray_id(db, alder.folder) == 0
        alder.hear(b"one", b"two", b"three")
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM segment").fetchone()  # as it was then
        alder.seal()
        assert last_stray_id(db, alder.folder) == 3
        (alder.folder.segments / f"{'0' * 64}.jsonl.zst").write_bytes(b"cut off")
        assert last_stray_id(db, alder.folder) == 3
