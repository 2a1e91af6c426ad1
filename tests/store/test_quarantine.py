"""Quarantine: bad input is kept with its reason, counts up instead of piling up, and makes room by saying so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleet import events, limits
from fleet.people import Refused
from store import journal
from store.database import Reader, connect_reader
from store.quarantine import Item, Quarantine
from tests.store.alder import TENANT, Alder

MALLORY = "syslog/10.6.6.6/"


class Corner:
    def __init__(self, root: Path) -> None:
        self.alder = Alder(root)
        self.now_ns = 1_000
        self.reader = Reader(self.alder.folder.site_db)
        self.quarantine = Quarantine(
            self.alder.journal, self.alder.site, self.reader, tenant=TENANT, now_ns=lambda: self.now_ns
        )

    async def held(self, *, settled: bool = False) -> list[Item]:
        return await self.quarantine.items(0, 100_000, settled=settled)

    def told(self) -> list[events.Recorded]:
        with connect_reader(self.alder.folder.site_db) as db:
            return [event for batch in journal.read(db) for event in batch]


@pytest.fixture
async def corner(tmp_path: Path) -> AsyncIterator[Corner]:
    made = Corner(tmp_path / "alder")
    yield made
    await made.reader.close()
    made.alder.stop()


async def test_what_is_put_in_is_kept_byte_for_byte_with_its_reason(corner: Corner) -> None:
    corner.quarantine.put("syslog", MALLORY, "unparsed", b"\x00\xff<script>")
    assert await corner.held() == []
    assert await corner.quarantine.flush()
    (item,) = await corner.held()
    assert item == Item(1, 1_000, "syslog", MALLORY, "unparsed", b"\x00\xff<script>", 1, None, None)
    assert not await corner.quarantine.flush()


async def test_the_same_again_counts_up(corner: Corner) -> None:
    for number in range(5):
        corner.now_ns = number
        corner.quarantine.put("syslog", MALLORY, "unparsed", b"same")
        await corner.quarantine.flush()
    corner.quarantine.put("syslog", MALLORY, "unparsed", b"other")
    await corner.quarantine.flush()
    assert [(item.raw, item.times, item.at_ns) for item in await corner.held()] == [(b"other", 1, 4), (b"same", 5, 4)]


async def test_what_was_settled_does_not_count_up_again(corner: Corner) -> None:
    for _ in range(2):
        corner.quarantine.put("syslog", MALLORY, "unparsed", b"same")
        await corner.quarantine.flush()
        (item,) = await corner.held()
        await corner.quarantine.settle(item.id, "drop", item.reason, "bob")
    assert [item.times for item in await corner.held(settled=True)] == [1, 1]


async def test_a_decision_is_made_once_and_is_an_event(corner: Corner) -> None:
    corner.quarantine.put("syslog", MALLORY, "unparsed", b"x")
    await corner.quarantine.flush()
    both = await asyncio.gather(
        corner.quarantine.settle(1, "drop", "unparsed", "alice"),
        corner.quarantine.settle(1, "retry", "unparsed", "bob"),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Refused) for one in both) == 1
    assert [event.body for event in corner.told()] == [events.QuarantineSettled(1, "drop", "unparsed", "alice")]
    assert await corner.quarantine.count() == 0
    with pytest.raises(Refused, match="already settled: drop"):
        await corner.quarantine.item(1)
    with pytest.raises(Refused, match="no such item"):
        await corner.quarantine.item(2)


async def test_a_flood_waits_in_memory_up_to_a_bound_and_the_rest_is_counted(corner: Corner) -> None:
    for number in range(1_500):
        corner.quarantine.put("syslog", MALLORY, "unparsed", b"%d" % number)
    assert corner.quarantine.put_count == 1_500
    assert corner.quarantine.overflowed == 500
    await corner.quarantine.flush()
    assert await corner.quarantine.count() == 1_000


async def test_long_words_are_cut(corner: Corner) -> None:
    corner.quarantine.put("syslog", "s" * 1_000, "r" * 1_000, b"x" * 100_000)
    await corner.quarantine.flush()
    (item,) = await corner.held()
    assert (len(item.source), len(item.reason), len(item.raw)) == (256, 500, 65_536)


async def test_a_full_quarantine_lets_the_settled_go_first_and_no_more_than_it_must(corner: Corner) -> None:
    size = 65_536
    fits = limits.quarantine_bytes_max // size
    for number in range(fits):
        corner.quarantine.put("syslog", MALLORY, "unparsed", b"%4d" % number + bytes(size - 4))
    await corner.quarantine.flush()
    assert await corner.quarantine.count() == fits
    await corner.quarantine.settle(fits, "drop", "unparsed", "bob")
    corner.quarantine.put("syslog", MALLORY, "unparsed", b"one more")
    await corner.quarantine.flush()
    held = [item.raw[:8] for item in await corner.held()]
    assert held[0] == b"one more"
    assert len(held) >= fits * 8 // 10, "a tenth goes, not everything"
    assert await corner.held(settled=True) == []
    dropped = corner.told()[-1].body
    assert isinstance(dropped, events.TelemetryDropped)
    assert (dropped.data_class, dropped.records) == ("quarantine", fits + 1 - len(held))
    assert dropped.bytes_freed >= size


async def test_too_many_small_items_make_room_too(corner: Corner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "quarantine_items_max", 100)
    for number in range(150):
        corner.quarantine.put("syslog", MALLORY, "unparsed", b"%d" % number)
    await corner.quarantine.flush()
    held = await corner.held()
    assert 80 <= len(held) <= 100
    assert held[0].raw == b"149"
    gone = sum(event.body.records for event in corner.told() if isinstance(event.body, events.TelemetryDropped))
    assert gone == 150 - len(held)


async def test_pages_go_back_from_the_newest(corner: Corner) -> None:
    for number in range(7):
        corner.quarantine.put("syslog", MALLORY, "unparsed", b"%d" % number)
    await corner.quarantine.flush()
    first = await corner.quarantine.items(0, 3, settled=False)
    second = await corner.quarantine.items(first[-1].id, 3, settled=False)
    assert [item.raw for item in (*first, *second)] == [b"6", b"5", b"4", b"3", b"2", b"1"]


async def test_another_tenant_sees_none_of_it(corner: Corner) -> None:
    corner.quarantine.put("syslog", MALLORY, "unparsed", b"x")
    await corner.quarantine.flush()
    other = Quarantine(corner.alder.journal, corner.alder.site, corner.reader, tenant="birch", now_ns=lambda: 0)
    assert await other.items(0, 10, settled=False) == []
    assert await other.count() == 0
    with pytest.raises(Refused):
        await other.settle(1, "drop", "", "mallory")


async def test_two_that_write_what_waits_at_once_keep_each_item_once(corner: Corner) -> None:
    for number in range(5):
        corner.quarantine.put("http", MALLORY, "no JSON", b"%d" % number)
    done = await asyncio.gather(*(corner.quarantine.flush() for _ in range(3)))
    assert sorted(done) == [False, False, True]
    assert [item.times for item in await corner.held()] == [1] * 5


async def test_as_of_a_moment_it_is_what_had_come_by_then_and_nobody_had_settled(corner: Corner) -> None:
    for at_ns, raw in ((1_000, b"one"), (2_000, b"two"), (3_000, b"one"), (4_000, b"three")):
        corner.now_ns = at_ns
        corner.quarantine.put("syslog", MALLORY, "unparsed", raw)
        await corner.quarantine.flush()
    corner.now_ns = 5_000
    await corner.quarantine.settle(2, "drop", "of no use", "Alice")

    async def then(moment_ns: int, *, settled: bool = False) -> list[tuple[bytes, int, int, str | None]]:
        found = await corner.quarantine.items(0, 10, settled=settled, moment_ns=moment_ns)
        return [(one.raw, one.at_ns, one.times, one.decision) for one in found]

    one, two, three = (b"one", 1_000, 1, None), (b"two", 2_000, 1, None), (b"three", 4_000, 1, None)
    assert await then(999) == []
    assert await then(1_000) == [one]
    assert await then(3_500) == [two, one]
    assert await then(4_999) == [three, two, one]
    assert await then(4_999, settled=True) == []
    assert await then(5_000) == [three, one]
    assert await then(5_000, settled=True) == [(b"two", 2_000, 1, "drop")]
