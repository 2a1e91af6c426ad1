"""The keeper: what is written is sealed, kept, let go or named as lost, and a crash anywhere changes none of it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from appliance.intake.gate import Gate
from appliance.keeper import Keeper
from appliance.recorder import Recorder
from fleet import events, series
from fleet.envelope import Log
from fleet.limits import DAY, HOUR, SECOND
from store import journal, keys, peers, series_file, telemetry
from store.clock import WallClock
from store.database import Writer, connect, connect_reader
from store.faults import Fault, StoreFault
from store.folder import Folder, bring_up
from store.frames import Offer
from store.journal import Journal
from store.series import SeriesStore
from store.telemetry import Closed, History, Segment, Telemetry

MIB = 1024 * 1024
NOW = 1_795_219_200 * SECOND
WRITER = "01KAJ6X00000000000000000AD"
KESTREL = "01KAJ6X00000000000000000KE"
B = TypeVar("B", bound=events.Body)


class Crash(Exception):
    """The power went here."""


class Island:
    """The stores of alder, with a keeper over them. `crash` and a new Island on the same folder is a restart."""

    def __init__(
        self, root: Path, *, budget_bytes: int = 1 << 40, reserve_bytes: int = MIB, keeper: type[Keeper] = Keeper
    ) -> None:
        self.folder = Folder(root)
        self.folder.prepare()
        self.folder.hold()
        bring_up(self.folder.site_db)
        key = keys.load_or_create(self.folder.writer_key)
        log = Log("default", WRITER, 1)
        with contextlib.closing(connect(self.folder.site_db)) as db:
            journal.start_log(db, log, keys.public_bytes(key), NOW)
            (sealed,) = db.execute("SELECT coalesce(max(last_id), 0) FROM segment").fetchone()
        self.journal = Journal(log, key, WallClock())
        self.site = Writer(
            self.folder.site_db, [self.journal], on_turn=lambda fault: self.keeper.fault_turned("site.db", fault)
        )
        self.series = SeriesStore(self.folder.series_db)
        self.telemetry = Telemetry(self.folder)
        self.telemetry.open(sealed)
        self.gate = Gate()
        self.recorder = Recorder(
            self.gate,
            self.telemetry,
            stored=lambda records: None,
            fault_turned=lambda fault: self.keeper.fault_turned("telemetry", fault),
        )
        self.now_ns = NOW
        self.keeper = keeper(
            folder=self.folder,
            telemetry=self.telemetry,
            journal=self.journal,
            site=self.site,
            series=self.series,
            recorder=self.recorder,
            gate=self.gate,
            subject=WRITER,
            budget_bytes=budget_bytes,
            reserve_bytes=reserve_bytes,
            retention_ns=30 * DAY,
            now_ns=lambda: self.now_ns,
            period_s=0.01,
        )

    def close(self) -> None:
        self.telemetry.close()
        self.site.close()
        self.series.writer.close()
        self.folder.release()

    def append(self, count: int, *, size: int = 20, at_ns: int = NOW) -> None:
        self.telemetry.append([Offer(at_ns, "syslog/10.0.0.7/alder", os.urandom(size)) for _ in range(count)])

    def partition(self, count: int, *, size: int = 20, at_ns: int = NOW) -> None:
        self.append(count, size=size, at_ns=at_ns)
        self.telemetry.rotate()

    def look(self, seconds: float = 5) -> None:
        self.now_ns += int(seconds * SECOND)
        self.keeper.pass_once(self.now_ns)

    def told(self, kind: type[B]) -> list[B]:
        with contextlib.closing(connect_reader(self.folder.site_db)) as db:
            bodies = [event.body for batch in journal.read(db) for event in batch]
        return [body for body in bodies if isinstance(body, kind)]

    def segments(self) -> list[Segment]:
        with contextlib.closing(connect_reader(self.folder.site_db)) as db:
            return telemetry.live(db)

    def files(self) -> set[str]:
        return {path.name for path in self.folder.segments.iterdir()}

    def readable(self) -> tuple[list[int], set[int]]:
        """The ids that are read, and those reported as gaps."""
        history, ids, gone, position = History(self.folder), list[int](), set[int](), 0
        while True:
            page = history.after(position, 500, seconds=30)
            ids += [record.id for record in page.records]
            for gap in page.gaps:
                gone.update(range(gap.first_id, gap.last_id + 1))
            if page.scanned == position:
                return ids, gone
            position = page.scanned


@pytest.fixture
def island(tmp_path: Path) -> Iterator[Island]:
    with contextlib.closing(Island(tmp_path)) as made:
        yield made


# -- sealing ------------------------------------------------------------------------------------------------------


def test_closed_partitions_become_segments_and_the_open_one_stays(island: Island) -> None:
    island.partition(10)
    island.partition(20)
    island.append(5)
    island.look()
    assert [(one.first_id, one.last_id) for one in island.told(events.SegmentSealed)] == [(1, 10), (11, 30)]
    assert [one.first_id for one in island.telemetry.partitions()] == [31]
    assert island.readable() == (list(range(1, 36)), set())
    assert island.keeper.last_error is None


def test_looking_again_changes_nothing(island: Island) -> None:
    island.partition(10)
    island.look()
    position = island.journal.position
    island.look()
    assert island.journal.position == position


def test_the_log_stays_whole_and_names_each_segment(island: Island) -> None:
    island.partition(10)
    island.look()
    (said,) = island.told(events.SegmentSealed)
    assert island.files() == {f"{said.sha256.hex()}.jsonl.zst"}
    with contextlib.closing(connect_reader(island.folder.site_db)) as db:
        assert all(verdict.fault is None for verdict in journal.verify(db))


class CrashBeforeTheLog(Keeper):
    def _announce(self, *_: object) -> None:
        raise Crash


class CrashBeforeTheDiscard(Keeper):
    def _clear_away(self, *_: object) -> None:
        raise Crash


@pytest.mark.parametrize("broken", [CrashBeforeTheLog, CrashBeforeTheDiscard])
def test_a_crash_while_sealing_is_as_if_it_had_not_been(tmp_path: Path, broken: type[Keeper]) -> None:
    with contextlib.closing(Island(tmp_path, keeper=broken)) as island:
        island.partition(10)
        island.append(3)
        with pytest.raises(Crash):
            island.look()
    with contextlib.closing(Island(tmp_path)) as island:
        assert island.readable() == (list(range(1, 14)), set())
        island.look()
        assert [(one.first_id, one.last_id) for one in island.told(events.SegmentSealed)] == [(1, 10), (11, 13)]
        assert island.telemetry.partitions() == []
        assert len(island.files()) == 2
        assert island.readable() == (list(range(1, 14)), set())


class OldestUnreadable(Keeper):
    def _check_room(self, partition: Closed) -> None:
        if partition.first_id == 1:
            raise StoreFault(Fault.IO, "telemetry", "disk I/O error")


def test_a_partition_that_cannot_be_read_now_waits_and_the_others_go_on(tmp_path: Path) -> None:
    with contextlib.closing(Island(tmp_path, keeper=OldestUnreadable)) as island:
        for _ in range(3):
            island.partition(10)
        island.look()
        island.look()
        assert [one.first_id for one in island.segments()] == [11, 21]
        assert island.keeper.last_error is not None
        assert island.readable() == (list(range(1, 31)), set())
    with contextlib.closing(Island(tmp_path)) as island:
        island.look()
        assert [one.first_id for one in island.segments()] == [1, 11, 21]
        assert island.readable() == (list(range(1, 31)), set())
        assert island.told(events.TelemetryDamaged) == []


class LogRefusesDrops(Keeper):
    def _commit(self, job: Callable[[sqlite3.Connection], None]) -> None:
        if self._segments():
            raise FULL
        super()._commit(job)


def test_nothing_goes_before_the_log_has_said_so(tmp_path: Path) -> None:
    with contextlib.closing(Island(tmp_path, keeper=LogRefusesDrops)) as island:
        island.partition(10, at_ns=NOW - 40 * DAY)
        island.look()
        island.look()
        assert island.keeper.last_error is not None
        assert len(island.files()) == 1
        assert island.readable() == (list(range(1, 11)), set())


def test_a_segment_that_no_table_knows_is_entered_and_not_removed(tmp_path: Path) -> None:
    """As after the restore of an older backup: the file is there, its row is not, its partition is gone."""
    with contextlib.closing(Island(tmp_path)) as island:
        island.partition(10)
        island.look()
        with contextlib.closing(connect(island.folder.site_db)) as db:
            db.execute("DELETE FROM segment_frame")
            db.execute("DELETE FROM segment")
    with contextlib.closing(Island(tmp_path)) as island:
        island.look()
        assert island.readable() == (list(range(1, 11)), set())
        assert len(island.segments()) == 1


def test_what_a_crash_half_wrote_is_swept_and_what_is_no_segment_is_kept_aside(island: Island) -> None:
    (island.folder.segments / "sealing.new").write_bytes(b"half")
    (island.folder.segments / f"{'ab' * 32}.jsonl.zst").write_bytes(b"not a segment")
    (island.folder.telemetry / "0000000000000007.db-wal").write_bytes(b"")
    island.look()
    assert island.files() == set()
    assert [path.name for path in island.folder.damaged.iterdir()] == [f"{'ab' * 32}.jsonl.zst"]
    assert list(island.folder.telemetry.iterdir()) == []
    assert len(island.told(events.TelemetryDamaged)) == 1


def test_a_damaged_partition_holds_nothing_up(tmp_path: Path) -> None:
    with contextlib.closing(Island(tmp_path)) as island:
        for _ in range(30):
            island.append(5, size=2000)
        island.telemetry.rotate()
        island.partition(10)
        path = island.telemetry.partitions()[0].path
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
        path.write_bytes(data)
        island.look()
        damaged = island.told(events.TelemetryDamaged)
        ids, gone = island.readable()
        assert damaged
        assert {number for one in damaged for number in range(one.first_id, one.last_id + 1)} == gone
        assert sorted({*ids, *gone}) == list(range(1, 161)) == sorted([*ids, *gone])
        assert ids[-10:] == list(range(151, 161))
        assert [one.kept_as for one in damaged] == [f"damaged/{path.name}"] * len(damaged)
        assert (island.folder.damaged / path.name).exists()
        assert island.telemetry.partitions() == []


def test_an_unreadable_partition_is_put_right_before_anybody_reads(tmp_path: Path) -> None:
    with contextlib.closing(Island(tmp_path)) as island:
        island.partition(10)
        island.append(10)
    (_, last) = sorted((tmp_path / "telemetry").glob("*.db"))
    last.write_bytes(b"no database at all" * 500)
    with contextlib.closing(Island(tmp_path)) as island:
        island.keeper.start()
        ids, gone = island.readable()
        island.keeper.stop()
        assert ids == list(range(1, 11))
        assert set(range(11, 21)) <= gone
        assert island.telemetry.next_id > max(gone)


# -- letting go ---------------------------------------------------------------------------------------------------


def test_past_the_retention_records_go_and_the_log_says_which(island: Island) -> None:
    island.partition(10, at_ns=NOW - 40 * DAY)
    island.partition(10)
    island.look()
    island.look()
    (dropped,) = island.told(events.TelemetryDropped)
    assert (dropped.data_class, dropped.first_id, dropped.last_id, dropped.records) == ("raw", 1, 10, 10)
    assert island.readable() == (list(range(11, 21)), set(range(1, 11)))
    assert len(island.files()) == 1
    assert island.keeper.budget_view_data().shed_records == 10


def test_past_the_retention_a_site_with_a_hub_waits_until_a_receipt_lists_them(island: Island) -> None:
    hub = peers.Peer("01HARBOR", "default", "harbor", bytes(32))
    island.site.submit(lambda db: peers.save(db, hub)).result()
    island.partition(10, at_ns=NOW - 40 * DAY)
    island.partition(10)
    island.look()
    island.look()
    assert island.told(events.TelemetryDropped) == []
    hashes = [one.sha256 for one in island.segments()]
    island.site.submit(lambda db: peers.covered(db, "01ALDER", 1, [*hashes, b"never sealed"], NOW)).result()
    island.look()
    (dropped,) = island.told(events.TelemetryDropped)
    assert (dropped.first_id, dropped.last_id) == (1, 10)
    assert [one.first_id for one in island.segments()] == [11]


def test_over_the_budget_the_oldest_go_and_the_rest_is_readable(tmp_path: Path) -> None:
    with contextlib.closing(Island(tmp_path, budget_bytes=6 * MIB)) as island:
        for _ in range(12):
            island.partition(100, size=5000)
            island.look()
        island.look()  # what the last sealing added goes with the next look
        view = island.keeper.budget_view_data()
        assert view.used_bytes <= 6 * MIB
        ids, gone = island.readable()
        assert gone == set(range(1, ids[0]))
        assert ids == list(range(ids[0], 1201))
        assert ids[0] > 1
        assert {one.reason for one in island.told(events.TelemetryDropped)} == {"the byte budget is full"}


def test_an_open_partition_that_takes_more_than_its_part_is_closed(tmp_path: Path) -> None:
    with contextlib.closing(Island(tmp_path, budget_bytes=6 * MIB)) as island:
        island.append(300, size=5000)
        island.look()
        assert island.telemetry.rotate_if_due()
        island.look()
        assert [one.records for one in island.segments()] == [300]


class CrashBeforeTheUnlink(Keeper):
    def _unlink(self, segments: Sequence[Segment]) -> None:
        raise Crash


def test_a_crash_between_the_log_and_the_file_leaves_nothing_behind(tmp_path: Path) -> None:
    with contextlib.closing(Island(tmp_path, keeper=CrashBeforeTheUnlink)) as island:
        island.partition(10, at_ns=NOW - 40 * DAY)
        island.look()
        with pytest.raises(Crash):
            island.look()
        assert len(island.files()) == 1
    with contextlib.closing(Island(tmp_path)) as island:
        island.look()
        assert island.files() == set()
        assert len(island.told(events.TelemetryDropped)) == 1
        assert island.readable() == ([], set(range(1, 11)))


def test_series_go_when_no_segment_is_left_and_the_log_says_so(tmp_path: Path) -> None:
    with contextlib.closing(Island(tmp_path, budget_bytes=1)) as island:
        window = series.Window(600)
        window.add(600, {"battery_pct": 80.0})
        island.series.save([("alder-1", window)], 1)
        (island.folder.damaged / "old.db").write_bytes(bytes(5000))
        island.partition(10)
        island.look()
        island.look()
        assert {one.data_class for one in island.told(events.TelemetryDropped)} == {"raw", "series", "damaged"}
        assert island.series.load("alder-1", 600) is None
        assert list(island.folder.damaged.iterdir()) == []


# -- charts for a hub ---------------------------------------------------------------------------------------------


def met_a_hub(island: Island) -> None:
    with contextlib.closing(connect(island.folder.site_db)) as db:
        peers.save(db, peers.Peer("01KAJ6X00000000000000000HB", "default", "harbor", bytes(32)))


def charted(island: Island, *values: float, start_s: int = NOW // SECOND, record: int = 1) -> None:
    window = series.Window(start_s)
    for number, value in enumerate(values):
        window.add(start_s + number, {"battery_pct": value})
    island.series.save([(KESTREL, window)], record)


def charts(island: Island) -> list[events.SegmentSealed]:
    return [one for one in island.told(events.SegmentSealed) if one.content == "series"]


def covered(island: Island, *hashes: bytes) -> None:
    with contextlib.closing(connect(island.folder.site_db)) as db:
        peers.covered(db, WRITER, 1, hashes, NOW)


def test_with_the_records_of_an_hour_its_charts_are_sealed_for_the_hub(island: Island) -> None:
    met_a_hub(island)
    charted(island, 80, 79)
    island.look()
    assert charts(island) == [], "nothing was sealed yet"
    island.partition(10)
    island.look()
    (said,) = charts(island)
    assert (said.first_id, said.last_id, said.records) == (0, 0, 0)
    path = telemetry.segment_path(island.folder.segments, said.sha256)
    assert path.stat().st_size == said.bytes_stored
    ((node_id, window),) = series_file.read(path)
    assert (node_id, [point.samples for point in window.points("battery_pct")]) == (KESTREL, [2])
    position = island.journal.position
    for _ in range(3):
        island.look()
    assert island.journal.position == position
    assert island.keeper.last_error is None


def test_without_a_hub_no_charts_are_sealed_and_with_the_first_all_are(island: Island) -> None:
    charted(island, 80)
    island.partition(10)
    island.look()
    assert charts(island) == []
    met_a_hub(island)
    island.look(2 * HOUR / SECOND)
    assert len(charts(island)) == 1


def test_a_site_where_no_record_comes_seals_its_charts_by_the_hour(island: Island) -> None:
    met_a_hub(island)
    for hour in range(3):
        for window in range(6):
            charted(island, 80, hour, start_s=NOW // SECOND + hour * 7_200 + window * 600)
        for _ in range(2):
            island.look(HOUR / SECOND)
    assert [one.from_ns - NOW for one in charts(island)] == [0, 2 * HOUR, 4 * HOUR]


def test_what_grew_since_is_sealed_again_and_what_did_not_is_not(island: Island) -> None:
    met_a_hub(island)
    charted(island, 80)
    charted(island, 50, start_s=NOW // SECOND - 600)
    island.partition(10)
    island.look()
    charted(island, 80, 79)
    island.partition(10)
    island.look()
    again = charts(island)[1]
    found = list(series_file.read(telemetry.segment_path(island.folder.segments, again.sha256)))
    assert [window.start_s for _, window in found] == [NOW // SECOND]


def test_charts_of_months_alone_go_into_files_of_some_hours(island: Island) -> None:
    for number in range(100):
        charted(island, number, start_s=NOW // SECOND + number * 600)
    met_a_hub(island)
    island.partition(10)
    for _ in range(5):
        island.look()
    assert len(charts(island)) == 3


class CrashBeforeTheChartsAreTold(Keeper):
    def _announce_charts(self, *_: object) -> None:
        raise Crash


def test_a_crash_while_charts_are_sealed_leaves_one_file_and_one_word_of_it(tmp_path: Path) -> None:
    with contextlib.closing(Island(tmp_path, keeper=CrashBeforeTheChartsAreTold)) as island:
        met_a_hub(island)
        charted(island, 80)
        island.partition(10)
        with pytest.raises(Crash):
            island.look()
        assert len(island.files()) == 2
    with contextlib.closing(Island(tmp_path)) as island:
        island.look()
        assert len(island.files()) == 1, "the copy that nobody told of is gone"
        island.partition(10)
        island.look()
        (said,) = charts(island)
        assert f"{said.sha256.hex()}.jsonl.zst" in island.files()
        assert island.told(events.TelemetryDamaged) == []
        assert island.readable() == (list(range(1, 21)), set())


def test_charts_are_no_records(island: Island) -> None:
    met_a_hub(island)
    charted(island, 80)
    island.partition(10)
    island.look()
    charted(island, 80, 20)
    island.partition(10)
    island.look()
    assert len(island.files()) == 4
    assert island.readable() == (list(range(1, 21)), set())
    assert island.keeper.budget_view_data().oldest_record_ns == NOW
    with contextlib.closing(connect_reader(island.folder.site_db)) as db:
        (last_id,) = db.execute("SELECT coalesce(max(last_id), 0) FROM segment").fetchone()
        assert last_id == 20
        assert sum(one.records for one in telemetry.live(db)) == 20


def test_charts_past_the_retention_go_once_the_hub_has_them(island: Island) -> None:
    met_a_hub(island)
    charted(island, 80, start_s=(NOW - 40 * DAY) // SECOND // 600 * 600)
    island.partition(10)
    island.look()
    island.look()
    assert len(island.files()) == 2, "the hub does not hold them yet"
    (said,) = charts(island)
    covered(island, said.sha256)
    island.look()
    (dropped,) = island.told(events.TelemetryDropped)
    assert (dropped.data_class, dropped.sha256) == ("series", said.sha256)
    assert (dropped.first_id, dropped.last_id, dropped.records) == (0, 0, 0)
    assert island.readable() == (list(range(1, 11)), set())
    assert island.series.load(KESTREL, (NOW - 40 * DAY) // SECOND // 600 * 600) is not None


def test_for_room_sealed_charts_go_before_records_that_nobody_else_has(tmp_path: Path) -> None:
    with contextlib.closing(Island(tmp_path)) as island:
        met_a_hub(island)
        charted(island, 80)
        island.partition(10, size=2_000_000 // 10)
        island.look()
        used = island.keeper.budget_view_data().used_bytes
        island.keeper.bounds = island.keeper.bounds._replace(budget_bytes=used - 1)
        island.look()
        assert [one.data_class for one in island.told(events.TelemetryDropped)][:1] == ["series"]


def test_rotten_charts_are_named_and_no_record_with_them(island: Island) -> None:
    met_a_hub(island)
    charted(island, 80)
    island.partition(10)
    island.look()
    (said,) = charts(island)
    telemetry.segment_path(island.folder.segments, said.sha256).write_bytes(b"rotten")
    for _ in range(3):
        island.look()
    (damaged,) = island.told(events.TelemetryDamaged)
    assert (damaged.first_id, damaged.last_id) == (0, 0)
    assert island.readable() == (list(range(1, 11)), set())


# -- what was lost ------------------------------------------------------------------------------------------------


def test_losses_are_told_at_once_and_then_together(island: Island) -> None:
    island.gate.refuse("syslog-udp", "gate full", 5)
    island.look()
    island.gate.refuse("syslog-udp", "gate full", 7)
    island.look(3)
    island.gate.refuse("syslog-udp", "gate full", 8)
    island.look(3)
    assert [one.messages for one in island.told(events.IntakeRefused)] == [5]
    island.look(6)
    assert [(one.intake, one.reason, one.messages) for one in island.told(events.IntakeRefused)] == [
        ("syslog-udp", "gate full", 5),
        ("syslog-udp", "gate full", 15),
    ]


def test_a_loss_is_counted_once_whoever_reports_it(island: Island) -> None:
    """The recorder counts what it lost at the gate as well; what TCP refuses there, it offers again."""
    island.gate.tally("syslog-udp").refused["full"] += 4
    island.recorder.lost.append(("syslog-udp", "full", 4, NOW))
    island.gate.tally("syslog-tcp").refused["full"] += 6
    island.recorder.lost.append(("syslog-tcp", "full", 2, NOW))
    island.recorder.lost.append(("syslog-tcp", "full", 1, NOW + 1))
    island.look()
    assert {(one.intake, one.messages) for one in island.told(events.IntakeRefused)} == {
        ("syslog-udp", 4),
        ("syslog-tcp", 3),
    }


def test_the_last_losses_are_told_at_the_stop(island: Island) -> None:
    island.gate.refuse("syslog-udp", "gate full", 5)
    island.look()
    island.gate.refuse("syslog-udp", "gate full", 1)
    island.keeper.stop()
    assert [one.messages for one in island.told(events.IntakeRefused)] == [5, 1]


# -- when the disk refuses ----------------------------------------------------------------------------------------


FULL = StoreFault(Fault.FULL, "telemetry", "database or disk is full")


def test_a_failure_of_another_store_is_told_while_it_lasts(island: Island) -> None:
    island.keeper.fault_turned("telemetry", FULL)
    island.look()
    assert [(one.store, one.reason) for one in island.told(events.StorageFailed)] == [("telemetry", "full")]
    island.keeper.fault_turned("telemetry", None)
    island.look()
    island.look()
    assert [(one.store, one.down_ns) for one in island.told(events.StorageRecovered)] == [("telemetry", 5 * SECOND)]
    assert len(island.told(events.StorageFailed)) == 1


def test_a_failure_that_came_and_went_unseen_is_told_afterwards(island: Island) -> None:
    island.keeper.fault_turned("site.db", FULL)
    island.now_ns += 3 * SECOND
    island.keeper.fault_turned("site.db", None)
    island.look()
    assert len(island.told(events.StorageFailed)) == 1
    assert [one.down_ns for one in island.told(events.StorageRecovered)] == [3 * SECOND]


def test_a_recovery_nobody_needed_says_nothing(island: Island) -> None:
    island.keeper.fault_turned("telemetry", None)
    island.look()
    assert island.told(events.StorageRecovered) == []


def test_a_full_log_gets_the_reserve_and_raw_records_wait(island: Island) -> None:
    island.look()
    assert island.folder.reserve.stat().st_size == MIB
    island.keeper.fault_turned("site.db", FULL)
    assert not island.folder.reserve.exists()
    with pytest.raises(StoreFault):
        island.append(1)
    island.look()  # this disk has room
    assert island.folder.reserve.exists()
    island.append(1)


def _fill(island: Island) -> StoreFault:
    while True:
        try:
            island.append(100, size=5000)
        except StoreFault as fault:
            return fault


def _alive(island: Island) -> bool:
    return island.keeper.alive


def _until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", tmp_path], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_on_a_full_disk_the_log_goes_on_and_raw_records_come_back_by_themselves(small_disk: Path) -> None:
    with contextlib.closing(Island(small_disk, reserve_bytes=2 * MIB)) as island:
        island.look()
        island.partition(200, size=5000)
        island.look()
        filler = small_disk / "somebody-else"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        fault = _fill(island)
        assert fault.fault is Fault.FULL
        island.keeper.fault_turned("telemetry", fault)
        # The log runs full as well, gets the reserve, and takes what people do.
        signed_in = events.AccountSignedIn("Alice", "10.0.0.9")
        written = refused = 0
        while written < 25:
            try:
                island.site.submit(lambda db: island.journal.stage("Alice", signed_in)).result()
                written += 1
            except StoreFault:
                refused += 1
                time.sleep(0.05)
        assert refused
        assert written == 25
        assert not island.folder.reserve.exists()
        with pytest.raises(StoreFault):
            island.append(1)
        # Our own raw records make what room they can; then somebody else goes.
        island.look()
        filler.unlink()
        for _ in range(3):
            island.look()
        assert island.folder.reserve.exists()
        island.append(1)
        island.keeper.fault_turned("telemetry", None)
        island.look()
        assert {one.store for one in island.told(events.StorageFailed)} == {"telemetry", "site.db"}
        assert {one.store for one in island.told(events.StorageRecovered)} == {"telemetry", "site.db"}
        assert len(island.told(events.AccountSignedIn)) == 25
        ids, gone = island.readable()
        assert sorted([*ids, *gone]) == list(range(1, island.telemetry.next_id))


def test_a_disk_that_refuses_never_ends_the_loop(island: Island) -> None:
    island.partition(10)
    island.folder.segments.rename(island.folder.root / "elsewhere")
    island.keeper.start()
    _until(lambda: island.keeper.last_error is not None)
    assert _alive(island)
    (island.folder.root / "elsewhere").rename(island.folder.segments)
    _until(lambda: island.keeper.last_error is None and bool(island.segments()))
    island.keeper.stop()
    assert not _alive(island)
    assert island.readable() == (list(range(1, 11)), set())


# -- looking after what is sealed ---------------------------------------------------------------------------------


def test_a_rotten_segment_is_found_set_aside_and_named(island: Island) -> None:
    for _ in range(3):
        island.partition(10)
    island.look()
    rotten = island.segments()[1]
    path = telemetry.segment_path(island.folder.segments, rotten.sha256)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for _ in range(3):
        island.look()
    (damaged,) = island.told(events.TelemetryDamaged)
    assert (damaged.first_id, damaged.last_id, damaged.kept_as) == (11, 20, f"damaged/{path.name}")
    assert island.readable() == ([*range(1, 11), *range(21, 31)], set(range(11, 21)))
    assert (island.folder.damaged / path.name).read_bytes() == bytes(data)


def test_a_segment_that_vanished_is_named_too(island: Island) -> None:
    island.partition(10)
    island.look()
    (segment,) = island.segments()
    telemetry.segment_path(island.folder.segments, segment.sha256).unlink()
    island.look()
    assert [(one.reason, one.kept_as) for one in island.told(events.TelemetryDamaged)] == [("the file is gone", "")]


# -- the view -----------------------------------------------------------------------------------------------------


def test_the_view_counts_every_class_and_foretells(island: Island) -> None:
    assert island.keeper.budget_view_data().growth_bytes_per_day is None
    for _ in range(6):
        island.partition(100, size=1000)
        island.look(30)
    view = island.keeper.budget_view_data()
    assert view.used_bytes == sum(one.bytes_used for one in view.classes)
    assert view.reserve_bytes == MIB
    assert view.oldest_record_ns == NOW
    assert view.growth_bytes_per_day is not None
    assert view.growth_bytes_per_day > 0
    assert view.full_in_s is not None


def test_the_oldest_record_may_still_stand_in_an_open_partition(island: Island) -> None:
    island.append(3, at_ns=NOW - SECOND)
    island.look()
    assert island.keeper.budget_view_data().oldest_record_ns == NOW - SECOND


# -- a real kill --------------------------------------------------------------------------------------------------

VICTIM = """
import sys, threading
from pathlib import Path
from tests.appliance.test_keeper import Island
island = Island(Path(sys.argv[1]), budget_bytes=4 << 20)
island.keeper.start()
while True:
    island.append(50, size=400)
    sys.stdout.write(f"{island.telemetry.next_id - 1}\\n")
    sys.stdout.flush()
    if island.telemetry.next_id % 7 == 0:
        island.telemetry.rotate()
    island.telemetry.rotate_if_due()
"""


def test_killed_in_the_midst_of_it_nothing_acknowledged_is_lost_or_repeated(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for seed in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", VICTIM, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
        ) as victim:
            assert victim.stdout is not None
            for _ in range(random.Random(seed).randint(10, 60)):
                acknowledged = int(victim.stdout.readline())
            victim.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *(int(line) for line in victim.stdout.read().split("\n")[:-1] if line)])
        with contextlib.closing(Island(tmp_path, budget_bytes=4 << 20)) as island:
            ids, gone = island.readable()
            assert sorted([*ids, *gone]) == list(range(1, island.telemetry.next_id))
            assert island.telemetry.next_id > acknowledged
            island.look()
            island.look()
            assert island.telemetry.partitions() == []
            ids, gone = island.readable()
            assert sorted([*ids, *gone]) == list(range(1, island.telemetry.next_id))
            assert len(island.files()) == len(island.segments())
            dropped = {n for one in island.told(events.TelemetryDropped) for n in range(one.first_id, one.last_id + 1)}
            assert dropped == gone
            assert island.told(events.TelemetryDamaged) == []
