"""The byte budget: what goes, in which order, and what never does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import series
from fleet.limits import DAY, HOUR, SECOND
from store import budget
from store.budget import DISK_FULL, OVER_BUDGET, PAST_RETENTION, Bounds, Copy, DataClass, Shed, Usage
from store.folder import Folder
from store.series import SeriesStore
from store.telemetry import Segment

MIB = 1024 * 1024
NOW = 1_795_219_200 * SECOND
BOUNDS = Bounds(budget_bytes=100 * MIB, reserve_bytes=8 * MIB, retention_ns=30 * DAY)
ROOMY = Usage(reserve=8 * MIB, disk_free=1000 * MIB)


def _segment(number: int, *, age_ns: int = DAY, size: int = 10 * MIB, in_custody: bool = False) -> Segment:
    first = number * 100 + 1
    to_ns = NOW - age_ns
    return Segment(first, first + 99, bytes([number]) * 32, 100, to_ns - HOUR, to_ns, size, in_custody)


def _segments_of(sheds: Sequence[Shed]) -> list[Segment]:
    return [shed.segment for shed in sheds if shed.segment is not None]


def test_with_room_and_youth_nothing_goes() -> None:
    assert budget.plan(ROOMY, BOUNDS, NOW, [_segment(1)], [Copy("old.db", MIB, 1)]) == []


def test_what_is_past_its_retention_goes_oldest_first() -> None:
    segments = [_segment(1, age_ns=40 * DAY), _segment(2, age_ns=31 * DAY), _segment(3)]
    sheds = budget.plan(ROOMY, BOUNDS, NOW, segments)
    assert _segments_of(sheds) == segments[:2]
    assert {shed.reason for shed in sheds} == {PAST_RETENTION}


def test_a_clock_that_nobody_trusts_ends_no_retention() -> None:
    segments = [_segment(1, age_ns=4000 * DAY)]
    assert budget.plan(ROOMY, BOUNDS, NOW, segments, clock_trusted=False) == []


def test_over_the_budget_the_oldest_raw_records_go_and_no_more_than_needed() -> None:
    segments = [_segment(number) for number in range(1, 6)]
    usage = ROOMY._replace(raw=50 * MIB, log=57 * MIB)  # with the reserve 15 MiB too many
    sheds = budget.plan(usage, BOUNDS, NOW, segments)
    assert _segments_of(sheds) == segments[:2]
    assert {shed.reason for shed in sheds} == {OVER_BUDGET}


def test_what_a_hub_has_taken_over_goes_before_what_only_we_have() -> None:
    segments = [_segment(1), _segment(2), _segment(3, in_custody=True), _segment(4, in_custody=True)]
    usage = ROOMY._replace(raw=40 * MIB, log=77 * MIB)
    assert [one.first_id for one in _segments_of(budget.plan(usage, BOUNDS, NOW, segments))] == [301, 401, 101]


def test_with_a_hub_retention_takes_only_what_is_in_its_custody_and_the_budget_takes_all() -> None:
    old = [_segment(1, age_ns=40 * DAY), _segment(2, age_ns=39 * DAY, in_custody=True)]
    usage = ROOMY._replace(raw=20 * MIB)
    assert _segments_of(budget.plan(usage, BOUNDS, NOW, old)) == old
    assert _segments_of(budget.plan(usage, BOUNDS, NOW, old, has_hub=True)) == old[1:]
    assert _segments_of(budget.plan(usage._replace(log=97 * MIB), BOUNDS, NOW, old, has_hub=True)) == old[::-1]


def test_a_nearly_full_disk_sheds_even_within_the_budget() -> None:
    usage = ROOMY._replace(raw=20 * MIB, disk_free=3 * MIB)
    sheds = budget.plan(usage, BOUNDS, NOW, [_segment(1), _segment(2)])
    assert _segments_of(sheds) == [_segment(1)]
    assert sheds[0].reason == DISK_FULL


def test_a_lost_reserve_wants_twice_its_size_and_room_to_seal() -> None:
    usage = Usage(raw=20 * MIB, partition=3 * MIB, raw_open=3 * MIB, disk_free=18 * MIB)
    assert _segments_of(budget.plan(usage, BOUNDS, NOW, [_segment(1)])) == [_segment(1)]
    assert budget.plan(usage._replace(disk_free=19 * MIB), BOUNDS, NOW, [_segment(1)]) == []


def test_files_of_charts_go_before_the_records_of_their_sort_and_age_by_themselves() -> None:
    def charts(number: int, **rest: int) -> Segment:
        return _segment(number, **rest)._replace(first_id=number - (1 << 62), last_id=number - (1 << 62), records=0)

    old, new, taken = charts(1, age_ns=40 * DAY), charts(2), charts(3)._replace(in_custody=True)
    segments = [old, new, taken, _segment(4, in_custody=True), _segment(5)]
    usage = ROOMY._replace(raw=50 * MIB)
    assert _segments_of(budget.plan(usage, BOUNDS, NOW, segments)) == [old]
    assert _segments_of(budget.plan(usage, BOUNDS, NOW, segments, has_hub=True)) == []
    sheds = budget.plan(usage._replace(log=100 * MIB), BOUNDS, NOW, segments, has_hub=True)
    assert _segments_of(sheds) == [taken, segments[3], old, new, segments[4]]


def test_series_go_after_the_last_segment_and_damaged_copies_after_them() -> None:
    copies = [Copy("a.db", 2 * MIB, 1), Copy("b.db", 2 * MIB, 2)]
    usage = ROOMY._replace(log=120 * MIB, raw=10 * MIB, series=5 * MIB, damaged=4 * MIB)
    sheds = budget.plan(usage, BOUNDS, NOW, [_segment(1)], copies)
    assert [shed.data_class for shed in sheds] == [
        DataClass.RAW,
        DataClass.SERIES,
        DataClass.DAMAGED,
        DataClass.DAMAGED,
    ]
    assert [shed.copy for shed in sheds[2:]] == copies


def test_files_of_devices_go_between_segments_and_series() -> None:
    usage = ROOMY._replace(log=120 * MIB, raw=10 * MIB, files=4 * MIB, series=5 * MIB)
    sheds = budget.plan(usage, BOUNDS, NOW, [_segment(1)], files=[Copy("a", MIB, 1), Copy("b", 3 * MIB, 2)])
    assert [shed.data_class for shed in sheds] == [
        DataClass.RAW,
        DataClass.FILES,
        DataClass.FILES,
        DataClass.SERIES,
    ]


def test_an_empty_series_file_frees_nothing() -> None:
    usage = ROOMY._replace(log=90 * MIB, series=5 * MIB, damaged=MIB)
    sheds = budget.plan(usage, BOUNDS, NOW, [], [Copy("a.db", MIB, 1)], series_left=False)
    assert [shed.data_class for shed in sheds] == [DataClass.DAMAGED]


def test_no_more_series_are_asked_for_than_are_needed() -> None:
    usage = ROOMY._replace(log=90 * MIB, series=5 * MIB)
    assert [shed.bytes_freed for shed in budget.plan(usage, BOUNDS, NOW, [])] == [3 * MIB]


def test_what_is_still_open_is_sealed_before_series_go() -> None:
    usage = ROOMY._replace(log=84 * MIB, raw_open=10 * MIB, partition=10 * MIB, series=5 * MIB)
    assert budget.plan(usage, BOUNDS, NOW, []) == []
    assert budget.rotates(usage, BOUNDS)


def test_a_partition_is_closed_early_only_when_it_is_crowded_and_worth_it() -> None:
    assert not budget.rotates(ROOMY._replace(raw_open=9 * MIB), BOUNDS)
    assert budget.rotates(ROOMY._replace(raw_open=12 * MIB), BOUNDS)
    assert budget.rotates(ROOMY._replace(raw_open=2 * MIB, disk_free=4 * MIB), BOUNDS)
    assert not budget.rotates(ROOMY._replace(raw_open=MIB // 2, log=200 * MIB, disk_free=0), BOUNDS)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20), st.booleans()), max_size=12),
    st.integers(0, 200),
    st.integers(0, 60),
    st.integers(0, 20),
)
def test_a_plan_frees_enough_or_everything_it_may(
    given_segments: list[tuple[int, int, bool]], log: int, free: int, kept: int
) -> None:
    segments = [
        _segment(number, age_ns=age * DAY, size=size * MIB, in_custody=custody)
        for number, (age, size, custody) in enumerate(given_segments)
    ]
    copies = [Copy("one.db", kept * MIB, 1)]
    raw = sum(one.bytes_stored for one in segments)
    usage = ROOMY._replace(log=log * MIB, raw=raw, damaged=kept * MIB, disk_free=free * MIB)
    sheds = budget.plan(usage, BOUNDS, NOW, segments, copies)
    freed = sum(shed.bytes_freed for shed in sheds)
    enough = usage.used - freed <= BOUNDS.budget_bytes and usage.disk_free + freed >= BOUNDS.reserve_bytes
    assert enough or len(sheds) == len(segments) + len(copies)
    assert len({shed.segment for shed in sheds if shed.segment}) == len(_segments_of(sheds))
    assert DataClass.LOG not in {shed.data_class for shed in sheds}
    if sheds and sheds[-1].reason != PAST_RETENTION:  # the last one was needed
        less = freed - sheds[-1].bytes_freed
        assert usage.used - less > BOUNDS.budget_bytes or usage.disk_free + less < BOUNDS.reserve_bytes


# -- the forecast -------------------------------------------------------------------------------------------------


def test_a_steady_growth_is_foretold() -> None:
    history = [(NOW + minute * 60 * SECOND, minute * MIB) for minute in range(10)]
    found = budget.forecast(history, 600 * MIB)
    assert found.growth_bytes_per_day == pytest.approx(1440 * MIB)
    assert found.full_in_s == pytest.approx(600 * 60)


def test_it_is_too_early_to_say_within_a_minute() -> None:
    history = [(NOW + second * SECOND, second * MIB) for second in range(0, 60, 20)]
    assert budget.forecast(history, MIB) == (None, None)


def test_what_does_not_grow_never_fills() -> None:
    history = [(NOW + minute * 60 * SECOND, 5 * MIB) for minute in range(5)]
    assert budget.forecast(history, MIB) == (0.0, None)


def test_what_is_full_is_full_now() -> None:
    history = [(NOW + minute * 60 * SECOND, minute * MIB) for minute in range(5)]
    assert budget.forecast(history, -MIB).full_in_s == 0


# -- measuring, and the reserve -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.prepare()
    return made


def test_every_byte_is_counted_in_its_class(folder: Folder) -> None:
    (folder.telemetry / "1.db").write_bytes(bytes(MIB))
    (folder.telemetry / "1.db-wal").write_bytes(bytes(2 * MIB))
    (folder.segments / "a.jsonl.zst").write_bytes(bytes(3 * MIB))
    (folder.damaged / "2.db").write_bytes(bytes(4 * MIB))
    (folder.uploads / "3.part").write_bytes(bytes(2 * MIB))
    (folder.files / "4").write_bytes(bytes(MIB))
    folder.site_db.write_bytes(bytes(5 * MIB))
    folder.site_db.with_name("site.db-wal").write_bytes(bytes(MIB))
    folder.series_db.write_bytes(bytes(7 * MIB))
    assert budget.hold_reserve(folder, 8 * MIB)
    found = budget.usage(folder)
    assert found._replace(disk_free=0) == Usage(
        log=6 * MIB,
        raw_open=3 * MIB,
        raw=3 * MIB,
        files=3 * MIB,
        series=7 * MIB,
        damaged=4 * MIB,
        reserve=8 * MIB,
        partition=2 * MIB,
    )
    assert found.used == 34 * MIB
    assert [found.of(one) for one in DataClass] == list(found[:7])


def test_the_reserve_is_real_bytes_and_can_be_given_and_taken_again(folder: Folder) -> None:
    assert budget.hold_reserve(folder, 2 * MIB)
    assert folder.reserve.stat().st_blocks * 512 == 2 * MIB
    budget.release_reserve(folder)
    budget.release_reserve(folder)
    assert not folder.reserve.exists()
    assert budget.hold_reserve(folder, MIB)
    assert budget.hold_reserve(folder, 2 * MIB)
    assert folder.reserve.stat().st_size == 2 * MIB


def test_a_reserve_larger_than_the_disk_is_not_made(folder: Folder) -> None:
    assert not budget.hold_reserve(folder, 1 << 60)
    assert not folder.reserve.exists()
    assert budget.reserve_size(folder, 1 << 60) < 1 << 60


def test_copies_come_oldest_first(folder: Folder) -> None:
    for number, name in enumerate(("new", "old")):
        (folder.damaged / name).write_bytes(b"x")
        os.utime(folder.damaged / name, ns=(1, 10 - number))
    assert [copy.name for copy in budget.copies(folder)] == ["old", "new"]


# -- series, as far as the budget needs them ----------------------------------------------------------------------


async def test_oldest_series_go_and_give_their_bytes_back(folder: Folder) -> None:
    store = SeriesStore(folder.series_db)
    windows = []
    for number in range(200):
        window = series.Window(number * series.WINDOW_S)
        for step in range(60):
            window.add(window.start_s + step * 10, {f"metric{(number * 7 + step) % 50}": number * 1.37 + step})
        windows.append(("alder-1", window))
    store.save(windows, 1)
    await store.close()
    full = folder.series_db.stat().st_size
    store = SeriesStore(folder.series_db)
    oldest = store.oldest(1)
    assert oldest is not None
    assert (oldest.windows, oldest.before_s) == (1, 1)
    everything = store.oldest(1 << 40)
    assert everything is not None
    assert everything.windows == 200
    half = store.oldest(everything.bytes_stored // 2)
    assert half is not None
    assert store.drop_before(half.before_s) == half.windows
    assert await store.windows("alder-1", 0, 50 * series.WINDOW_S) == []
    await store.close()
    assert folder.series_db.stat().st_size < full * 2 // 3


async def test_a_damaged_window_is_no_window(folder: Folder) -> None:
    store = SeriesStore(folder.series_db)
    store.writer.submit(lambda db: db.execute("INSERT INTO series VALUES ('alder-1', 600, x'00ff')").rowcount).result()
    assert store.load("alder-1", 600) is None
    assert await store.windows("alder-1", 0, 1200) == []
    await store.close()
