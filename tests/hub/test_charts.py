"""Charts at the hub: what sites tell is folded once, by the minute; files of charts fill in the rest, in any order; and a
disk that refuses them costs nothing else."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from fleet.limits import DAY, MS, SECOND
from fleet.present import Present, Told
from fleet.series import WINDOW_S, Window
from hub import charts
from hub.charts import Charts
from hub.shelf import Turn
from hub.state import FleetHere
from store import peers, series_file
from store.database import connect
from store.folder import Folder, bring_up
from store.peers import GONE, HERE
from store.series import SeriesStore
from tests.hub.sites import ALDER, BIRCH, filled, present

NOON = 1_795_219_200 // WINDOW_S * WINDOW_S
KESTREL = present(0, 0, SECOND).node_id  # alder's
MERLIN = present(1, 0, SECOND).node_id  # birch's


class Harbor:
    """Charts over the fleet of `tests.hub.sites`; the thread does not run, `turn` is one turn of it."""

    def __init__(self, root: Path) -> None:
        self.now_ns = NOON * SECOND
        self.folder = Folder(root)
        self.folder.prepare()
        if not self.folder.site_db.exists():
            bring_up(self.folder.site_db)
        self.fleet = filled(FleetHere(), self.now_ns)
        self.charts = Charts(self.folder, self.fleet, lambda: self.now_ns)
        self._former: dict[str, Present] = {}

    def tell(self, node_id: str, after_s: float, **values: float) -> None:
        """A present: these values were true so long after noon."""
        at_ns = NOON * SECOND + int(after_s * SECOND)
        former = self._former.get(node_id)
        told = {name: Told(value, at_ns, "syslog") for name, value in values.items()}
        now = Present(node_id, "kestrel", values={**(former.values if former else {}), **told})
        self._former[node_id] = now
        self.charts.told([(former, now)])

    def again(self, node_id: str, by_ns: int = 0) -> None:
        """The same present once more; times may come out a little differently."""
        now = self._former[node_id]
        values = {name: one._replace(at_ns=one.at_ns + by_ns) for name, one in now.values.items()}
        self.charts.told([(now, msgspec.structs.replace(now, values=values))])

    def turn(self, after_s: float = 0) -> None:
        self.now_ns = max(self.now_ns, NOON * SECOND + int(after_s * SECOND))
        self.charts._turn()

    def brings(self, site: str, windows: Mapping[str, Window], name: str = "one") -> bytes:
        """A file of charts of a site, in custody."""
        root = self.folder.root.parent / f"{site}-{name}"
        root.mkdir()
        store = SeriesStore(root / "series.db")
        store.save(windows.items(), 1)
        sealed = series_file.write(store.path, [one.start_s for one in store.unsealed(99)], self.folder.segments)
        store.writer.close()
        self.custody(site, sealed.sha256)
        return sealed.sha256

    def custody(self, site: str, sha256: bytes, state: str = HERE) -> None:
        with contextlib.closing(connect(self.folder.site_db)) as db:
            peers.want_segment(db, peers.Segment(site, sha256, 0, 0, 0, 9, 0, NOON * SECOND, state, "", 0))
        self.charts.came()

    async def shown(self, node_id: str, metric: str = "battery_pct") -> list[tuple[int, int, float, float]]:
        """Minute after noon, samples, lowest, highest."""
        points = await self.charts.points(node_id, metric, NOON - 3600, NOON + 7200)
        return [((point.at_s - NOON) // 60, point.samples, point.low, point.high) for point in points]

    async def close(self) -> None:
        self.charts._store.writer.close()
        await self.charts.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "_TICK_S", 0)


@pytest.fixture
async def harbor(tmp_path: Path) -> AsyncIterator[Harbor]:
    made = Harbor(tmp_path / "harbor")
    yield made
    await made.close()


def window(*values: tuple[int, float], start_s: int = NOON) -> Window:
    made = Window(start_s)
    for after_s, value in values:
        made.add(NOON + after_s, {"battery_pct": value})
    return made


# -- what sites tell ------------------------------------------------------------------------------------------------


async def test_what_is_told_is_charted_by_the_minute_at_once(harbor: Harbor) -> None:
    for after_s, value in ((1, 80), (31, 76), (61, 75)):
        harbor.tell(KESTREL, after_s, battery_pct=value)
    harbor.turn(62)
    assert await harbor.shown(KESTREL) == [(0, 2, 76, 80), (1, 1, 75, 75)]
    assert await harbor.shown(MERLIN) == []


async def test_a_value_that_is_told_again_counts_once(harbor: Harbor) -> None:
    harbor.tell(KESTREL, 1, battery_pct=80)
    harbor.tell(KESTREL, 5, temp_c=41)  # the present of all nodes tells of the battery too
    harbor.again(KESTREL)
    harbor.again(KESTREL, MS - 1)
    harbor.again(KESTREL, -SECOND)
    harbor.turn(6)
    assert await harbor.shown(KESTREL) == [(0, 1, 80, 80)]


async def test_a_time_of_which_nothing_was_told_has_no_point(harbor: Harbor) -> None:
    harbor.tell(KESTREL, 1, battery_pct=80)
    harbor.turn(60)
    harbor.tell(KESTREL, 601, battery_pct=60)
    harbor.turn(602)
    assert [minute for minute, *_ in await harbor.shown(KESTREL)] == [0, 10]


async def test_what_was_told_outlives_a_restart_and_goes_on(tmp_path: Path) -> None:
    harbor = Harbor(tmp_path / "harbor")
    for after_s in range(0, 300, 20):
        harbor.tell(KESTREL, after_s, battery_pct=80 - after_s / 100)
        harbor.turn(after_s)
    before = await harbor.shown(KESTREL)
    harbor.charts.start()
    harbor.charts.stop()
    await harbor.close()
    harbor = Harbor(tmp_path / "harbor")
    assert [one[:2] for one in await harbor.shown(KESTREL)] == [one[:2] for one in before] == [(m, 3) for m in range(5)]
    harbor.tell(KESTREL, 301, battery_pct=70)
    harbor.turn(302)
    assert (await harbor.shown(KESTREL))[-1] == (5, 1, 70, 70)
    await harbor.close()


async def test_memory_holds_the_minutes_that_may_still_grow_and_no_others(harbor: Harbor) -> None:
    for minute in range(30):
        harbor.tell(KESTREL, minute * 60, battery_pct=80)
        harbor.turn(minute * 60)
    assert [len(one.steps["battery_pct"]) for one in harbor.charts._live[KESTREL].values()] == [3]
    harbor.turn(3_600)
    assert harbor.charts._live == {}
    assert len(await harbor.shown(KESTREL)) == 30


@pytest.mark.parametrize(
    ("after_s", "value"), [(2 * DAY / SECOND, 80.0), (-NOON, 80.0), (1, float("nan")), (1, float("inf"))]
)
async def test_what_no_chart_can_hold_is_passed_over(harbor: Harbor, after_s: float, value: float) -> None:
    harbor.tell(KESTREL, after_s, battery_pct=value)
    harbor.turn(2)
    assert harbor.charts._live == {}


async def test_when_more_is_told_than_is_folded_it_is_counted_and_nobody_waits(
    harbor: Harbor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "_QUEUE_PRESENTS_MAX", 3)
    for number in range(5):
        harbor.tell(KESTREL, number, battery_pct=80)
    harbor.turn(5)
    assert harbor.charts.missed == 2
    assert await harbor.shown(KESTREL) == [(0, 3, 80, 80)]


async def test_more_nodes_than_memory_has_room_for_are_written_early(
    harbor: Harbor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "_WINDOWS_MAX", 2)
    for index in range(4):
        harbor.tell(present(0, index, SECOND).node_id, 1, battery_pct=80)
    harbor.turn(2)
    assert harbor.charts._live == {}
    for index in range(4):
        assert await harbor.shown(present(0, index, SECOND).node_id) == [(0, 1, 80, 80)]


async def test_the_last_hour_stands_in_the_lines_of_a_list(harbor: Harbor) -> None:
    for minute in (0, 2, 3, 8):
        harbor.tell(KESTREL, minute * 60, battery_pct=80 - minute)
    harbor.turn(601)
    found = await harbor.charts.sparks([KESTREL, MERLIN], "battery_pct")
    assert found[KESTREL][-5:] == (80, 77, None, None, 72)
    assert len(found[KESTREL]) == 30
    assert found[MERLIN] == ()


# -- files of charts ------------------------------------------------------------------------------------------------


async def test_a_file_fills_in_what_happened_while_no_line_was_there(harbor: Harbor) -> None:
    harbor.tell(KESTREL, 1, battery_pct=80)
    harbor.tell(KESTREL, 481, battery_pct=60)
    harbor.turn(482)
    harbor.brings(ALDER, {KESTREL: window((1, 80), (70, 78), (200, 70), (481, 60), (500, 59))})
    harbor.turn()
    assert await harbor.shown(KESTREL) == [(0, 1, 80, 80), (1, 1, 78, 78), (3, 1, 70, 70), (8, 2, 59, 60)]


async def test_the_sites_own_minute_takes_the_place_of_what_was_told_whichever_comes_first(tmp_path: Path) -> None:
    own = window(*((after_s, 80.0 - after_s) for after_s in range(0, 60, 5)))
    for first in ("told", "file"):
        harbor = Harbor(tmp_path / first / "harbor")
        for now in (first, "file" if first == "told" else "told"):
            if now == "file":
                harbor.brings(ALDER, {KESTREL: own})
            else:
                harbor.tell(KESTREL, 5, battery_pct=75)
                harbor.tell(KESTREL, 30, battery_pct=50)
            harbor.turn(120)
        harbor.turn(400)
        assert await harbor.shown(KESTREL) == [(0, 12, 25, 80)]
        await harbor.close()


async def test_files_are_read_once_and_after_a_lost_database_again(tmp_path: Path) -> None:
    harbor = Harbor(tmp_path / "harbor")
    files = {harbor.brings(ALDER, {KESTREL: window((60 * n, 80 - n))}, str(n)) for n in range(3)}
    for _ in range(4):
        harbor.turn()
    assert harbor.charts._store.taken() == files
    before = await harbor.shown(KESTREL)
    assert len(before) == 3
    await harbor.close()
    for again in (False, True):
        if again:
            for path in tmp_path.glob("harbor/series.db*"):
                path.unlink()
        harbor = Harbor(tmp_path / "harbor")
        assert len(harbor.charts._unread()) == 3 * again
        for _ in range(4):
            harbor.turn()
        assert await harbor.shown(KESTREL) == before
        await harbor.close()


async def test_a_site_charts_no_node_of_another(harbor: Harbor) -> None:
    harbor.brings(BIRCH, {KESTREL: window((0, 1)), MERLIN: window((0, 2))})
    harbor.turn()
    assert await harbor.shown(KESTREL) == []
    assert await harbor.shown(MERLIN) == [(0, 1, 2, 2)]


async def test_a_file_that_is_none_is_passed_over_once_and_those_behind_it_are_read(harbor: Harbor) -> None:
    path = harbor.folder.segments / f"{bytes(32).hex()}.jsonl.zst"
    path.write_bytes(b"no charts")
    harbor.custody(ALDER, bytes(32))
    harbor.custody(ALDER, b"\x01" * 32, GONE)
    harbor.custody(ALDER, b"\x02" * 32)  # its file is not there; a start later it may be
    good = harbor.brings(ALDER, {KESTREL: window((0, 80))})
    for _ in range(4):
        harbor.turn()
    assert await harbor.shown(KESTREL) == [(0, 1, 80, 80)]
    assert harbor.charts._store.taken() == {good, bytes(32)}


# -- a disk that refuses ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def refused(harbor: Harbor) -> Iterator[None]:
    """The disk that holds the charts is gone for a while."""
    store, away = harbor.charts._store, harbor.folder.root / "away"
    store.path.rename(away)
    store.path.mkdir()
    try:
        yield
    finally:
        store.path.rmdir()
        shutil.move(away, store.path)


async def test_a_disk_that_refuses_charts_stops_nothing_and_they_are_kept_when_it_is_back(harbor: Harbor) -> None:
    harbor.tell(KESTREL, 1, battery_pct=80)
    with refused(harbor):
        harbor.turn(61)
        assert harbor.charts.problem
        harbor.tell(KESTREL, 62, battery_pct=79)
        harbor.turn(63)
    harbor.turn(200)
    harbor.turn(400)
    assert harbor.charts.problem == ""
    assert harbor.charts._live == {}
    assert await harbor.shown(KESTREL) == [(0, 1, 80, 80), (1, 1, 79, 79)]


async def test_a_damaged_database_is_put_aside_and_filled_again_from_the_files(tmp_path: Path) -> None:
    harbor = Harbor(tmp_path / "harbor")
    harbor.brings(ALDER, {KESTREL: window((0, 80))})
    harbor.turn()
    await harbor.close()
    harbor.folder.series_db.write_bytes(b"SQLite format 3\x00" + b"\xff" * 8192)
    harbor = Harbor(tmp_path / "harbor")
    harbor.turn()
    assert await harbor.shown(KESTREL) == [(0, 1, 80, 80)]
    assert list(harbor.folder.damaged.glob("series-*.db"))
    await harbor.close()


async def test_beyond_its_bound_the_oldest_go(harbor: Harbor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "BYTES_MAX", 80_000)
    names: Sequence[str] = [present(0, index, SECOND).node_id for index in range(6)]
    for step in range(144):  # a day, of which the bound has room for the better part
        at_ns = (NOON + step * WINDOW_S) * SECOND
        turns: list[Turn] = [(None, Present(one, "x", values={"battery_pct": Told(80.0, at_ns)})) for one in names]
        harbor.charts.told(turns)
        harbor.turn(step * WINDOW_S + 61)
    harbor.turn(145 * WINDOW_S)
    assert harbor.charts._store.size() < 88_000, "a page is given back when the last of its windows goes"
    kept = [one.start_s for one in await harbor.charts._store.windows(names[0], NOON, NOON + DAY // SECOND)]
    last_s = NOON + 143 * WINDOW_S
    assert kept == list(range(kept[0], last_s + 1, WINDOW_S)), "the latest are all there"
    assert 36 <= len(kept) < 144
