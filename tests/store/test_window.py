"""A stretch of time: the same events as by looking at every one of them, however late a log came and whatever its clock did."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from fleet import hlc
from fleet.events import UNREADABLE, Clock, Recorded, VersionChanged, decode_any, encode_all, encode_body
from fleet.limits import MS
from fleet.past import WHOLE, Stretch
from fleet.people import Refused
from store import window
from store.database import connect
from store.folder import bring_up

LOGS, EVENTS = 7, 40
BROKEN = b"no event at all"


@pytest.fixture
def told(tmp_path: Path) -> tuple[Path, list[Recorded]]:
    """Seven logs that came in pieces, now and then weeks late; the wall clock of each jumps to and fro."""
    path, dice = tmp_path / "site.db", random.Random(11)
    bring_up(path)
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
    with closing(connect(path)) as db:
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
    return path, [one for one in every if one.kind != UNREADABLE]


@pytest.mark.parametrize("together", [2, 500])
@pytest.mark.parametrize("raw_bytes_max", [10, 4_096])
def test_a_stretch_is_what_every_event_says_of_itself(
    told: tuple[Path, list[Recorded]], monkeypatch: pytest.MonkeyPatch, together: int, raw_bytes_max: int
) -> None:
    """However many logs are looked at together, and whether an event is read with them or by itself."""
    monkeypatch.setattr(window, "_TOGETHER", together)
    monkeypatch.setattr(window, "_RAW_BYTES_MAX", raw_bytes_max)
    path, every = told
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
        assert window.following(path, after, 9, stretch) == [one for one in wanted if one.position > after][:9]
        found = window.timeline(path, after, 9, None, stretch)
        assert window.timeline(path, after, 9, None, stretch) == found  # from where it was found before
        below = [one for one in wanted if not after or one.position < after]
        assert found == list(reversed(below))[:9]


def test_pages_of_a_stretch_neither_skip_nor_repeat(told: tuple[Path, list[Recorded]]) -> None:
    path, every = told
    middle = sorted(one.hlc for one in every)[len(every) // 2]
    stretch, after, seen = Stretch(until_ns=(middle >> 16) * MS), 0, list[Recorded]()
    while page := window.following(path, after, 7, stretch):
        seen += page
        after = page[-1].position
    assert seen == [one for one in every if one.hlc >> 16 <= middle >> 16]


def test_a_kind_that_is_looked_for_too_long_is_refused(
    told: tuple[Path, list[Recorded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, every = told
    assert len(window.timeline(path, 0, 1_000, every[0].kind, WHOLE)) == len(every)
    assert window.timeline(path, 0, 1_000, "node.heard", WHOLE) == []
    monkeypatch.setattr(window, "SEARCH_S", -1.0)
    with pytest.raises(Refused, match="choose a shorter one"):
        window.timeline(path, 0, 1_000, "node.heard", WHOLE)
