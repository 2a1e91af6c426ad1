"""Raw records at the hub: what a site sealed and sent is found again, by node, upwards and downwards, and what is not here
is named."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from hub.records import Records
from store import peers, telemetry
from store.database import connect
from store.faults import Fault, StoreFault
from store.folder import Folder, bring_up
from store.frames import Offer
from store.peers import GONE, HERE, WANTED
from store.telemetry import Closed, Gap, Telemetry
from tests.hub.sites import ALDER

KESTREL, MERLIN = "http/10.0.0.7/kestrel", "http/10.0.0.8/merlin"
BOTH = frozenset({KESTREL, MERLIN})
NOW = 1_795_219_200_000_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Three segments of alder with ten records each, kestrel's and merlin's by turns."""
    made = Folder(tmp_path / "harbor")
    made.prepare()
    bring_up(made.site_db)
    with contextlib.closing(connect(made.site_db)) as db:
        for first in (1, 11, 21):
            said = [Offer(NOW + n, (KESTREL, MERLIN)[n % 2], b"line %d" % n) for n in range(first, first + 10)]
            there = Folder(tmp_path / f"alder-{first}")
            there.prepare()
            store = Telemetry(there)
            store.open(first - 1)
            store.append(said)
            store.close()
            (path,) = there.telemetry.glob("*.db")
            (one,) = telemetry.seal(Closed(path, first, first + 9), made.segments).sealed
            peers.want_segment(
                db, peers.Segment(ALDER, one.sha256, *one[1:4], one.bytes_stored, one.from_ns, one.to_ns, HERE, "", NOW)
            )
    return made


def settle(folder: Folder, first_id: int, state: str, reason: str) -> None:
    (one,) = [one for one in Records(folder).known(ALDER) if one.first_id == first_id]
    with contextlib.closing(connect(folder.site_db)) as db:
        peers.settle_segment(db, ALDER, one.sha256, state, reason, NOW)


def test_the_newest_come_first_page_by_page(folder: Folder) -> None:
    records, before, ids = Records(folder), 1 << 62, list[int]()
    while before:
        page = records.before(ALDER, before, 4, BOTH)
        ids += [record.id for record in page.records]
        before = page.scanned
    assert ids == list(range(30, 0, -1))


def test_upwards_too_and_of_one_node_only(folder: Folder) -> None:
    records, after, found = Records(folder), 0, list[str | None]()
    while (page := records.after(ALDER, after, 4, frozenset({KESTREL}))).scanned > after:
        found += [record.raw for record in page.records]
        after = page.scanned
    assert found == [f"line {n}" for n in range(2, 31, 2)]
    assert records.after(ALDER, 0, 100, frozenset({"http/10.0.0.9/else"})) == telemetry.Page([], 30, [])


def test_a_word_is_searched_for(folder: Folder) -> None:
    page = Records(folder).before(ALDER, 1 << 62, 9, BOTH, b"line 2")
    assert [record.id for record in page.records] == [29, 28, 27, 26, 25, 24, 23, 22, 21]
    assert [record.id for record in Records(folder).before(ALDER, page.scanned, 9, BOTH, b"line 2").records] == [20, 2]


def test_a_search_that_ran_out_of_time_goes_on_where_it_stopped(folder: Folder) -> None:
    page = Records(folder).before(ALDER, 1 << 62, 99, BOTH, seconds=-1)
    assert ([record.id for record in page.records], page.scanned) == (list(range(30, 20, -1)), 21)


def test_what_the_site_let_go_is_a_gap_and_what_is_still_there_is_waited_for(folder: Folder) -> None:
    settle(folder, 11, GONE, "over the byte budget")
    page = Records(folder).after(ALDER, 0, 99, BOTH)
    assert [record.id for record in page.records] == [*range(1, 11), *range(21, 31)]
    assert page.gaps == [Gap(11, 20, "over the byte budget")]
    settle(folder, 11, WANTED, "")
    page = Records(folder).after(ALDER, 0, 99, BOTH)
    assert ([record.id for record in page.records], page.scanned) == (list(range(1, 11)), 10)
    assert [record.id for record in Records(folder).before(ALDER, 1 << 62, 99, BOTH).records] == [
        *range(30, 20, -1),
        *range(10, 0, -1),
    ]


def test_a_file_that_rotted_is_named(folder: Folder) -> None:
    path = next(folder.segments.glob("*.zst"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreFault) as fault:
        Records(folder).before(ALDER, 1 << 62, 99, BOTH)
    assert fault.value.fault is Fault.DAMAGED


def test_a_file_of_charts_is_no_record(folder: Folder) -> None:
    sha256 = b"\x07" * 32
    (folder.segments / f"{sha256.hex()}.jsonl.zst").write_bytes(b"no records")
    with contextlib.closing(connect(folder.site_db)) as db:
        peers.want_segment(db, peers.Segment(ALDER, sha256, 0, 0, 0, 10, NOW, NOW * 2, HERE, "", NOW))
        peers.want_segment(db, peers.Segment(ALDER, b"\x08" * 32, 0, 0, 0, 10, NOW, NOW * 2, WANTED, "", NOW))
    records = Records(folder)
    assert [one.first_id for one in records.known(ALDER)] == [1, 11, 21]
    assert [record.id for record in records.before(ALDER, 1 << 62, 99, BOTH).records] == list(range(30, 0, -1))
    page = records.after(ALDER, 0, 99, BOTH)
    assert ([record.id for record in page.records], page.gaps) == (list(range(1, 31)), [])


def test_of_a_site_that_sent_nothing_there_is_nothing(folder: Folder) -> None:
    assert Records(folder).before("01BIRCH", 1 << 62, 9, BOTH) == telemetry.Page([], 0, [])
    assert Records(folder).after("01BIRCH", 7, 9, BOTH) == telemetry.Page([], 7, [])
