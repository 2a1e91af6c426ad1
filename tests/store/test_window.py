"""A stretch of time: the same events as by looking at every one of them, however late a log came and whatever its clock did."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from fleet import hlc
from fleet.events import UNREADABLE, Clock, Recorded, VersionChanged, decode_any, encode_all, encode_body
from fleet.limits import MS, SECOND
from fleet.past import WHOLE, Stretch
from fleet.people import Refused, Unavailable
from store import window
from store.database import connect, connect_reader, transaction
from store.folder import Folder, bring_up

LOGS, EVENTS = 7, 40
BROKEN = b"no event at all"


@pytest.fixture
def told(tmp_path: Path) -> tuple[Folder, list[Recorded]]:
    """Seven logs that came in pieces, now and then weeks late; the wall clock of each jumps to and fro."""
    folder, dice = Folder(tmp_path), random.Random(11)
    bring_up(folder.site_db)
    pending = {log: list[tuple[int, bytes]]() for log in range(1, LOGS + 1)}
    for log, held in pending.items():
        stamp, wall_ms = 0, 1_000_000
        for seq in range(1, EVENTS + 1):
            wall_ms = max(wall_ms + dice.choice((-400_000, 50, 700, 90_000)), 1)
            stamp = hlc.tick(stamp, wall_ms)
            body = VersionChanged("", f"{log}.{seq}")
            (raw,) = encode_all(seq, stamp, wall_ms * MS, Clock.SYNCED, [("drone-1", body, encode_body(body))])
            held.append((seq, raw if seq % 13 else BROKEN))
    position = 0
    with closing(connect(folder.site_db)) as db:
        db.execute("BEGIN IMMEDIATE")
        for log in pending:
            db.execute("INSERT INTO log VALUES (?,?,?,1,?,1)", (log, "fleet", f"W{log}", b""))
        while any(pending.values()):
            log = dice.choice([one for one, held in pending.items() if held])
            piece = dice.randint(1, 9)
            for seq, raw in pending[log][:piece]:
                position += 1
                db.execute("INSERT INTO event VALUES (?,?,?,?,?,?,?)", (position, log, seq, "x", "drone-1", 0, raw))
            del pending[log][:piece]
        db.execute("COMMIT")
        every = [
            decode_any(raw, writer=f"W{log}", epoch=1, seq=seq, position=at)
            for at, log, seq, raw in db.execute("SELECT position, log_id, seq, raw FROM event ORDER BY position")
        ]
    return folder, [one for one in every if one.kind != UNREADABLE]


def make_rows(folder: Folder, upto: int) -> None:
    """As the thread of history.db does."""
    with closing(connect(folder.history_db)) as past, closing(connect_reader(folder.site_db)) as site:
        past.executescript(window.SCHEMA)
        more = True
        while more:
            with transaction(past):
                more = window.make(past, site, upto)


@pytest.mark.parametrize("raw_bytes_max", [10, 4_096])
@pytest.mark.parametrize("piece", [3, 128])
@pytest.mark.parametrize("upto", [None, 0, 30, 31, 99, 150, 1_000])
def test_a_stretch_is_what_every_event_says_of_itself(
    told: tuple[Folder, list[Recorded]],
    monkeypatch: pytest.MonkeyPatch,
    upto: int | None,
    piece: int,
    raw_bytes_max: int,
) -> None:
    """However far the rows go, and whether an event is read with others or by itself. None: there is no history.db."""
    monkeypatch.setattr(window, "_ROW", 16)
    monkeypatch.setattr(window, "_PIECE", piece)
    monkeypatch.setattr(window, "_RAW_BYTES_MAX", raw_bytes_max)
    folder, every = told
    if upto is not None:
        make_rows(folder, upto and min(upto, LOGS * EVENTS))
    assert len(every) == LOGS * (EVENTS - EVENTS // 13)
    assert [one.position for one in every] == sorted(one.position for one in every)
    dice, times = random.Random(5), sorted(one.hlc >> 16 for one in every)
    for _ in range(200):
        first, last = sorted((dice.choice(times) + dice.randint(-1, 1), dice.choice(times) + dice.randint(-1, 1)))
        stretch = Stretch(dice.choice((None, first * MS)), dice.choice((None, last * MS)))
        low = 0 if stretch.from_ns is None else first
        high = 1 << 60 if stretch.until_ns is None else last
        wanted = [one for one in every if low <= one.hlc >> 16 <= high]
        after = dice.choice((0, dice.randint(1, len(every))))
        assert window.following(folder, after, 9, stretch) == [one for one in wanted if one.position > after][:9]
        found = window.timeline(folder, after, 9, None, stretch)
        below = [one for one in wanted if not after or one.position < after]
        assert found == list(reversed(below))[:9]


def test_pages_of_a_stretch_neither_skip_nor_repeat(told: tuple[Folder, list[Recorded]]) -> None:
    folder, every = told
    middle = sorted(one.hlc for one in every)[len(every) // 2]
    stretch, after, seen = Stretch(until_ns=(middle >> 16) * MS), 0, list[Recorded]()
    while page := window.following(folder, after, 7, stretch):
        seen += page
        after = page[-1].position
    assert seen == [one for one in every if one.hlc >> 16 <= middle >> 16]


def test_a_kind_that_is_looked_for_too_long_is_refused(
    told: tuple[Folder, list[Recorded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, every = told
    assert len(window.timeline(folder, 0, 1_000, every[0].kind, WHOLE)) == len(every)
    assert window.timeline(folder, 0, 1_000, "node.heard", WHOLE) == []
    make_rows(folder, 1_023)
    monkeypatch.setattr(window, "SEARCH_S", -1.0)
    with pytest.raises(Refused, match="choose a shorter one"):
        window.timeline(folder, 0, 1_000, "node.heard", WHOLE)


def test_where_nothing_lies_in_the_stretch_its_events_are_not_read(
    told: tuple[Folder, list[Recorded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for those that are in no row yet."""
    monkeypatch.setattr(window, "_ROW", 16)
    folder, every = told
    make_rows(folder, LOGS * EVENTS)
    monkeypatch.setattr(window, "_read", lambda site, piece, *_: pytest.fail(f"{piece} were read"))
    late = Stretch(from_ns=(max(one.hlc for one in every) >> 16) * MS + 60 * SECOND)
    rest = LOGS * EVENTS // 16 * 16
    with pytest.raises(pytest.fail.Exception, match=f"range.280, {rest - 1}, -1. were read"):
        window.timeline(folder, 0, 9, None, late)
    assert window.timeline(folder, rest, 9, None, late) == []


def test_too_many_that_are_in_no_row_yet_are_not_all_looked_at(
    told: tuple[Folder, list[Recorded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "_PIECE", 16)
    monkeypatch.setattr(window, "SEARCH_S", -1.0)
    folder, _ = told
    with pytest.raises(Unavailable, match="look again in a minute"):
        window.timeline(folder, 0, 1_000, None, WHOLE)


def test_what_cannot_be_an_event_of_our_time_is_found_all_the_same(
    told: tuple[Folder, list[Recorded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock far beyond what a row can say."""
    monkeypatch.setattr(window, "_ROW", 16)
    folder, every = told
    stamp, body = hlc.tick(0, 1 << 46), VersionChanged("", "9")
    (raw,) = encode_all(EVENTS + 1, stamp, SECOND, Clock.NOT_TRUSTED, [("drone-1", body, encode_body(body))])
    with closing(connect(folder.site_db)) as db:
        db.execute("INSERT INTO event VALUES (?,1,?,'x','drone-1',0,?)", (LOGS * EVENTS + 1, EVENTS + 1, raw))
    make_rows(folder, LOGS * EVENTS + 15)
    (found,) = window.timeline(folder, 0, 9, None, Stretch(from_ns=(1 << 45) * MS))
    assert found.position == LOGS * EVENTS + 1
    assert found not in window.timeline(folder, 0, 1, None, Stretch(until_ns=(every[-1].hlc >> 16) * MS))


def test_a_damaged_order_of_time_is_no_error_of_the_program(
    told: tuple[Folder, list[Recorded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "_ROW", 16)
    folder, every = told
    make_rows(folder, LOGS * EVENTS)
    with closing(connect(folder.history_db)) as db:
        db.execute("DROP INDEX happened_between")
    with pytest.raises(Unavailable, match="look again in a minute"):
        window.timeline(folder, 0, 1_000, None, Stretch(until_ns=(every[0].hlc >> 16) * MS))
    folder.history_db.write_bytes(b"no database at all" * 100)
    assert len(window.timeline(folder, 0, 1_000, None, WHOLE)) == len(every)
