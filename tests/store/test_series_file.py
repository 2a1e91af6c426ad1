"""Charts in a file for a hub: written by one store, joined by another; what is no such file is refused where it is not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd

from fleet import series
from fleet.ids import ulid
from fleet.limits import SECOND
from fleet.series import WINDOW_S, Point, Window
from store import sealer, series_file
from store.faults import Fault, StoreFault
from store.series import SeriesStore
from store.telemetry import segment_path

NOON = 1_795_219_200
KESTREL, MERLIN = (ulid(NOON * 1_000, bytes([number]) * 10) for number in (1, 2))


@contextlib.contextmanager
def store(path: Path) -> Iterator[SeriesStore]:
    made = SeriesStore(path)
    try:
        yield made
    finally:
        made.writer.close()


def window(start_s: int, *values: float, every_s: int = 5) -> Window:
    made = Window(start_s)
    for number, value in enumerate(values):
        made.add(start_s + number * every_s, {"battery_pct": value})
    return made


def written(folder: Path, *windows: tuple[str, Window]) -> Path:
    """A file of these, by way of a site's store."""
    folder.mkdir(parents=True)
    with store(folder / "series.db") as site:
        site.save(windows, 1)
        made = series_file.write(site.path, [one.start_s for one in site.unsealed(99)], folder)
    return segment_path(folder, made.sha256)


def of_lines(path: Path, *lines: object) -> Path:
    path.write_bytes(zstd.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))
    return path


def test_what_a_site_charted_stands_in_the_file_by_the_minute(tmp_path: Path) -> None:
    path = written(
        tmp_path / "alder",
        (KESTREL, window(NOON, *range(80, 60, -1))),
        (MERLIN, window(NOON + WINDOW_S, 1.5)),
    )
    found = {node_id: one.points("battery_pct") for node_id, one in series_file.read(path)}
    assert found == {
        KESTREL: [Point(NOON, 12, 69.0, 74.5, 80.0), Point(NOON + 60, 8, 61.0, 64.5, 68.0)],
        MERLIN: [Point(NOON + WINDOW_S, 1, 1.5, 1.5, 1.5)],
    }
    assert series_file.is_one(path)


def test_anybody_can_read_it(tmp_path: Path) -> None:
    path = written(tmp_path / "alder", (KESTREL, window(NOON, 80, 79)))
    assert [json.loads(line) for line in zstd.decompress(path.read_bytes()).splitlines()] == [
        {
            "node": KESTREL,
            "start": NOON,
            "metrics": {"battery_pct": {"at": [0], "samples": [2], "low": [79], "mean": [79.5], "high": [80]}},
        }
    ]


def test_the_same_windows_make_the_same_file_here_and_in_a_process_of_its_own(tmp_path: Path) -> None:
    with store(tmp_path / "series.db") as site:
        site.save([(KESTREL, window(NOON, 80, 70)), (MERLIN, window(NOON, 60))], 1)
        made = series_file.write(site.path, [NOON], tmp_path)
        (tmp_path / "there").mkdir()
        assert sealer.seal_series(site.path, [NOON], tmp_path / "there") == made
        assert sealer.seal_series(site.path, [NOON], tmp_path, cut_off=lambda: True) in (None, made)
    assert (made.windows, made.from_ns, made.to_ns) == (2, NOON * SECOND, (NOON + 60) * SECOND)
    path = segment_path(tmp_path, made.sha256)
    assert path.stat().st_size == made.bytes_stored
    assert segment_path(tmp_path / "there", made.sha256).read_bytes() == path.read_bytes()


def test_where_there_is_nothing_to_write_there_is_no_file(tmp_path: Path) -> None:
    with store(tmp_path / "series.db") as site:
        site.save([(KESTREL, window(NOON, 80))], 1)
        (tmp_path / "segments").mkdir()
        assert series_file.write(site.path, [NOON + WINDOW_S], tmp_path / "segments") == series_file.Sealed()
        with pytest.raises(StoreFault) as refused:
            series_file.write(site.path, [NOON], tmp_path / "nowhere")
    assert list((tmp_path / "segments").iterdir()) == []
    assert (refused.value.fault, refused.value.store) == (Fault.IO, "segments")


def test_only_windows_that_changed_wait_to_be_sealed(tmp_path: Path) -> None:
    with store(tmp_path / "series.db") as site:
        first = window(NOON, 80)
        site.save([(KESTREL, first), (MERLIN, window(NOON + WINDOW_S, 70))], 1)
        changed = site.unsealed(99)
        assert [one.start_s for one in changed] == [NOON, NOON + WINDOW_S]
        first.add(NOON + 30, {"battery_pct": 75.0})
        site.save([(KESTREL, first)], 2)
        site.sealed(changed)
        assert [one.start_s for one in site.unsealed(99)] == [NOON], "it was saved again while it was sealed"
        site.sealed(site.unsealed(99))
        site.save([(KESTREL, first), (MERLIN, window(NOON + WINDOW_S, 70))], 3)
        assert site.unsealed(99) == [], "nothing has changed"


async def test_a_hub_joins_files_in_any_order_and_as_often_as_they_come(tmp_path: Path) -> None:
    early = written(tmp_path / "early", (KESTREL, window(NOON, 80)))
    whole = written(tmp_path / "whole", (KESTREL, window(NOON, 80, 79, 60)))
    for order in ((early, whole), (whole, early), (whole, early, early, whole)):
        hub = SeriesStore(tmp_path / f"hub-{order[0].parent.name}-{len(order)}.db")
        for path in order:
            hub.join(series_file.read(path), bytes.fromhex(path.name.partition(".")[0]))
        assert [one.points("battery_pct") for one in await hub.windows(KESTREL, NOON, NOON)] == [
            [Point(NOON, 3, 60.0, 73.0, 80.0)]
        ]
        assert hub.taken() == {bytes.fromhex(path.name.partition(".")[0]) for path in (early, whole)}
        await hub.close()


GOOD = {
    "node": KESTREL,
    "start": NOON,
    "metrics": {"battery_pct": {"at": [0], "samples": [1], "low": [1], "mean": [1], "high": [1]}},
}


@pytest.mark.parametrize(
    "bad",
    [
        {"id": 1, "at": 2, "source": "syslog/10.0.0.7/alder", "raw": "no chart"},
        {**GOOD, "node": "kestrel"},
        {**GOOD, "start": NOON + 1},
        {**GOOD, "start": -WINDOW_S},
        {**GOOD, "start": 1 << 50},
        {**GOOD, "metrics": {"x" * 300: {"at": [], "samples": [], "low": [], "mean": [], "high": []}}},
        {**GOOD, "metrics": {str(n): GOOD["metrics"]["battery_pct"] for n in range(series.METRICS_MAX + 1)}},  # type: ignore[index]
        {**GOOD, "metrics": {"x": {"at": [0, 60], "samples": [1], "low": [1], "mean": [1], "high": [1]}}},
        {**GOOD, "metrics": {"x": {"at": [30], "samples": [1], "low": [1], "mean": [1], "high": [1]}}},
        {**GOOD, "metrics": {"x": {"at": [600], "samples": [1], "low": [1], "mean": [1], "high": [1]}}},
        {**GOOD, "metrics": {"x": {"at": [0], "samples": [0], "low": [1], "mean": [1], "high": [1]}}},
        {**GOOD, "metrics": {"x": {"at": [0], "samples": [1 << 40], "low": [1], "mean": [1], "high": [1]}}},
        {**GOOD, "metrics": {"x": {"at": [0], "samples": [1], "low": [1e999], "mean": [1], "high": [1]}}},
        {**GOOD, "metrics": {"x": {"at": [0], "samples": [1], "low": ["1"], "mean": [1], "high": [1]}}},
        [1, 2, 3],
    ],
)
def test_a_line_that_is_no_chart_is_refused_where_it_stands(tmp_path: Path, bad: object) -> None:
    found = series_file.read(of_lines(tmp_path / "bad.jsonl.zst", GOOD, bad, GOOD))
    assert next(found)[0] == KESTREL
    with pytest.raises(ValueError, match="line 2"):
        next(found)


def test_bytes_that_are_no_file_of_charts_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "alder", (KESTREL, window(NOON, *range(20))))
    for raw in (path.read_bytes()[:-3], b"", b"no zstd at all", zstd.compress(b" " * 20_000_000)):
        bad = tmp_path / "bad.jsonl.zst"
        bad.write_bytes(raw)
        with pytest.raises(ValueError):
            list(series_file.read(bad))
        assert not series_file.is_one(bad) or raw == path.read_bytes()[:-3]
