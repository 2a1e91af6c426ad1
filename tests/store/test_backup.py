"""A backup is a whole box at one instant; restoring it starts a new epoch, or is refused with one sentence."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from fleet import events
from store import backup, journal, keys, telemetry
from store.database import connect_reader
from store.telemetry import History
from tests.store.alder import DRONE, TENANT, WRITER, Alder, turns


@pytest.fixture
def alder(tmp_path: Path):
    with Alder(tmp_path / "alder") as site:
        site.say((WRITER, events.LogStarted("first", site.public_key)), *turns(20))
        site.hear(b"one", b"two")
        site.seal()
        site.hear(b"three")
        yield site


@pytest.fixture
def made(alder: Alder, tmp_path: Path) -> Path:
    backup.backup(alder.folder, tmp_path / "copy")
    return tmp_path / "copy"


def events_of(root: Path) -> list[events.Recorded]:
    with closing(connect_reader(root / "site.db")) as db:
        return [event for batch in journal.read(db) for event in batch]


def test_a_backup_of_a_running_site_is_restored_whole(alder: Alder, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    words = backup.backup(alder.folder, tmp_path / "copy", lambda done, total: told.append((done, total)))
    assert "alder up to event 22" in words
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]

    before = events_of(alder.folder.root)
    alder.say(*turns(5))  # what comes after the backup is not in it
    assert "goes on in epoch 2" in backup.restore(tmp_path / "copy", tmp_path / "birch")

    after = events_of(tmp_path / "birch")
    assert after[:-1] == before
    started = after[-1].body
    assert isinstance(started, events.LogStarted)
    head = before[-1]
    assert (started.reason, started.previous_writer, started.previous_epoch) == ("restored", WRITER, 1)
    assert (started.previous_seq, after[-1].epoch, after[-1].seq) == (head.seq, 2, 1)
    assert after[-1].hlc > head.hlc

    with Alder(tmp_path / "birch") as restored:
        assert restored.log.epoch == 2
        restored.say(*turns(3))
        assert [verdict.fault for verdict in restored.verdicts()] == [None, None]
        first, second = restored.verdicts()
        assert (first.head.hash, second.events) == (started.previous_hash, 4)
        page = History(restored.folder).after(0, 10)
        assert [record.content for record in page.records] == [b"one", b"two", b"three"]


def test_a_backup_is_for_its_owner_alone(made: Path) -> None:
    assert made.stat().st_mode & 0o777 == 0o700
    assert (made / "keys" / "writer.pem").stat().st_mode & 0o777 == 0o600
    assert not list(made.rglob("*-wal"))


def test_a_backup_taken_while_the_site_writes_holds_every_record_its_journal_has_seen(
    alder: Alder, tmp_path: Path
) -> None:
    stop = threading.Event()

    def work() -> None:
        for number in range(200):
            if stop.is_set():
                return
            alder.hear(b"more")
            last = alder.telemetry.next_id - 1
            alder.say((DRONE, events.HeartbeatResumed(1, last)))
            if number % 20 == 19:
                alder.seal()

    busy = threading.Thread(target=work)
    busy.start()
    try:
        for number in range(4):
            backup.backup(alder.folder, tmp_path / f"copy{number}")
    finally:
        stop.set()
        busy.join()
    for number in range(4):
        root = tmp_path / f"birch{number}"
        backup.restore(tmp_path / f"copy{number}", root)
        seen = max((e.body.record for e in events_of(root) if isinstance(e.body, events.HeartbeatResumed)), default=0)
        with Alder(root) as restored:
            assert all(verdict.fault is None for verdict in restored.verdicts())
            held = [record.id for record in History(restored.folder).after(0, 10_000).records]
            assert held[: max(seen, 3)] == list(range(1, max(seen, 3) + 1))


def test_any_byte_changed_in_any_file_is_found_before_anything_is_written(made: Path, tmp_path: Path) -> None:
    for path in sorted(path for path in made.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(backup.BackupProblem, match="use another backup"):
                backup.restore(made, tmp_path / "birch")
        path.write_bytes(whole[:-1])
        with pytest.raises(backup.BackupProblem):
            backup.restore(made, tmp_path / "birch")
        path.unlink()
        with pytest.raises(backup.BackupProblem):
            backup.restore(made, tmp_path / "birch")
        path.write_bytes(whole)
        assert not (tmp_path / "birch").exists()
    backup.restore(made, tmp_path / "birch")


def resign(made: Path, **changes: object) -> None:
    """Mallory has the key too: it is in the backup."""
    manifest = json.loads((made / backup.MANIFEST).read_bytes()) | changes
    raw = json.dumps(manifest).encode()
    (made / backup.MANIFEST).write_bytes(raw)
    key = keys.load_or_create(made / "keys" / "writer.pem")
    (made / backup.SIGNATURE).write_bytes(key.sign(b"skerry backup manifest\x00" + raw))


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/cron.d/evil", "telemetry/../../evil.db", "control.sock", "keys/other.pem", "site.db"]
)
def test_mallory_cannot_write_outside_the_folder(made: Path, tmp_path: Path, path: str) -> None:
    files = json.loads((made / backup.MANIFEST).read_bytes())["files"]
    resign(made, files=[*files, {"path": path, "bytes": 0, "sha256": "0" * 64}])
    with pytest.raises(backup.BackupProblem, match="does not describe a backup"):
        backup.restore(made, tmp_path / "birch")


def test_a_backup_of_a_newer_version_names_who_can_restore_it(made: Path, tmp_path: Path) -> None:
    resign(made, format="skerry backup 2")
    with pytest.raises(backup.BackupProblem, match="restore it with that version"):
        backup.restore(made, tmp_path / "birch")
    resign(made, format=backup.FORMAT, revision="0099")
    with pytest.raises(backup.BackupProblem, match="revision 0099"):
        backup.restore(made, tmp_path / "birch")


def test_a_manifest_signed_by_another_key_is_refused(made: Path, tmp_path: Path) -> None:
    (made / "keys" / "writer.pem").rename(tmp_path / "alders.pem")
    keys.load_or_create(made / "keys" / "writer.pem")
    with pytest.raises(backup.BackupProblem, match=r"keys/writer\.pem is not what the manifest says"):
        backup.restore(made, tmp_path / "birch")
    resign(made)
    (made / "keys" / "writer.pem").unlink()
    (tmp_path / "alders.pem").rename(made / "keys" / "writer.pem")
    with pytest.raises(backup.BackupProblem, match="changed after it was signed"):
        backup.restore(made, tmp_path / "birch")


def test_a_manifest_about_another_journal_is_refused(made: Path, tmp_path: Path) -> None:
    resign(made, seq=7)
    with pytest.raises(backup.BackupProblem, match="not the one that the manifest names"):
        backup.restore(made, tmp_path / "birch")
    assert not (tmp_path / "birch").exists()


def test_neither_backup_nor_restore_overwrites(alder: Alder, made: Path, tmp_path: Path) -> None:
    with pytest.raises(backup.BackupProblem, match="already there"):
        backup.backup(alder.folder, made)
    with pytest.raises(backup.BackupProblem, match="not empty"):
        backup.restore(made, alder.folder.root)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(backup.BackupProblem, match="not empty"):
        backup.restore(made, tmp_path / "file")


def test_an_empty_folder_may_be_a_mounted_disk(made: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    backup.restore(made, tmp_path / "disk")
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == [
        "damaged",
        "files",
        "keys",
        "segments",
        "series.db",
        "site.db",
        "telemetry",
        "uploads",
    ]


def test_a_folder_without_an_appliance_is_not_backed_up(tmp_path: Path) -> None:
    from store.folder import Folder, bring_up

    with pytest.raises(backup.BackupProblem, match="holds no appliance"):
        backup.backup(Folder(tmp_path), tmp_path / "copy")
    with pytest.raises(backup.BackupProblem, match="is no backup"):
        backup.restore(tmp_path, tmp_path / "birch")
    keys.load_or_create(Folder(tmp_path).writer_key)
    bring_up(tmp_path / "site.db")
    with pytest.raises(backup.BackupProblem, match="never started"):
        backup.backup(Folder(tmp_path), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_damaged_segment_is_left_out_and_named_by_an_event_after_the_restore(alder: Alder, tmp_path: Path) -> None:
    (segment,) = alder.folder.segments.iterdir()
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "1 files are missing" in backup.backup(alder.folder, tmp_path / "copy")
    backup.restore(tmp_path / "copy", tmp_path / "birch")
    dropped = events_of(tmp_path / "birch")[-1].body
    assert isinstance(dropped, events.TelemetryDropped)
    assert (dropped.reason, dropped.first_id, dropped.last_id) == ("damaged when the backup was made", 1, 2)
    with closing(connect_reader(tmp_path / "birch" / "site.db")) as db:
        assert telemetry.live(db) == []


def test_a_damaged_partition_is_left_out_and_named(alder: Alder, tmp_path: Path) -> None:
    alder.telemetry.rotate()
    (partition,) = alder.folder.telemetry.glob("*.db")
    partition.write_bytes(b"not a database" * 1000)
    backup.backup(alder.folder, tmp_path / "copy")
    (missing,) = json.loads((tmp_path / "copy" / backup.MANIFEST).read_bytes())["missing"]
    assert missing["path"] == f"telemetry/{partition.name}"


def test_who_was_signed_in_must_sign_in_again(alder: Alder, tmp_path: Path) -> None:
    def job(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO account VALUES ('Alice', ?, 'ADMIN', 'x', 1, 0, NULL, NULL, NULL)", (TENANT,))
        db.execute("INSERT INTO session VALUES (x'00', 'Alice', 1, 9, '10.0.0.1')")

    alder.site.submit(job).result()
    backup.backup(alder.folder, tmp_path / "copy")
    backup.restore(tmp_path / "copy", tmp_path / "birch")
    with closing(connect_reader(tmp_path / "birch" / "site.db")) as db:
        assert db.execute("SELECT count(*) FROM session").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM account").fetchone() == (1,)


def test_a_disk_that_fills_up_leaves_nothing_behind(alder: Alder, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> tuple[str, int]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys, "sync_folder", full)
    with pytest.raises(backup.BackupProblem, match="No space left on device"):
        backup.backup(alder.folder, tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alder"]


def test_a_backup_can_be_carried_anywhere(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "stick" / "deep" / "copy")
    shutil.rmtree(tmp_path / "alder")
    backup.restore(tmp_path / "stick" / "deep" / "copy", tmp_path / "new" / "alder")
