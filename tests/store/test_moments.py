"""Where every node stood, kept by time: at every moment it is what the turns say, in whatever order they came."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from fleet import past
from fleet.past import Row, Sifted, Track
from store import history, moments
from store.database import transaction
from store.moments import Pending

STRETCH = 1 << 38  # stamps
MODES = ("LIVE", "DELAYED", "DISCONNECTED")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a few hundred turns come across."""
    monkeypatch.setattr(moments, "_WAY_MIN", 20)
    monkeypatch.setattr(moments, "_ROW_TURNS", 5)
    monkeypatch.setattr(moments, "_ROOM_MIN", 4)
    monkeypatch.setattr(moments, "_GAP", 2)
    monkeypatch.setattr(moments, "_PIECE", 3)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as site:
        site.execute("CREATE TABLE event (position, raw)")
        with closing(history.open_history(tmp_path / "history.db", site)) as opened:
            yield opened


def turns(db: sqlite3.Connection, dice: random.Random, many: int, first: int, nodes: int, stamps: int) -> list[Row]:
    """Of some nodes on two tracks, some of them with one stamp, by two writers."""
    names = history.Names(db)
    found = []
    for position in range(first, first + many):
        track = Track.CONNECTIVITY if dice.random() < 0.8 else Track.HEALTH
        said = dice.choice(MODES) if track is Track.CONNECTIVITY else "FAILED"
        node, writer = names[f"NODE{dice.randrange(nodes)}"], names[dice.choice("AB")]
        stamp = dice.randrange(stamps) * STRETCH // 3 + 7
        found.append((int(track), node, stamp, writer, 1, position, names[said], 2, position))
    return found


def write(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """As a step of a history does, one that begins where the last one ended."""
    with transaction(db):
        names, pending = history.Names(db), Pending()
        tied, kept = history._write(db, names, rows, Sifted()), moments.made(db)
        pending.add(rows, tied, {names[word]: code for word, code in past.CODES.items()})
        if kept:
            moments.follow(db, pending, 0)


def tend(db: sqlite3.Connection) -> int:
    frames = 0
    with transaction(db):
        while moments.tend(db):
            frames += 1
    return frames


def by_turns(db: sqlite3.Connection, stamp: int) -> dict[str, tuple[str, int]]:
    rows = db.execute(
        "SELECT (SELECT text FROM name WHERE id=subject), (SELECT text FROM name WHERE id=said), hlc FROM turn"
        " WHERE track=1 AND hlc<=? ORDER BY hlc",
        (stamp,),
    )
    return {node: (mode, at) for node, mode, at in rows}


def by_time(db: sqlite3.Connection, stamp: int) -> dict[str, tuple[str, int]]:
    packs = moments.at(db, stamp)
    assert packs is not None
    ids = [text for (text,) in db.execute("SELECT text FROM seat JOIN name ON name.id=subject ORDER BY seat")]
    return {
        node: (past.WORDS[pack & 15], pack >> past.CODE_BITS) for node, pack in zip(ids, packs, strict=True) if pack
    }


def agrees(db: sqlite3.Connection, stamps: int) -> None:
    for place in range(stamps + 3):
        for stamp in (place * STRETCH // 3 + 6, place * STRETCH // 3 + 7):
            assert by_time(db, stamp) == by_turns(db, stamp), place


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(5))
def test_at_every_moment_it_is_what_the_turns_say(db: sqlite3.Connection, seed: int) -> None:
    dice, first, frames = random.Random(seed), 0, 0
    moments.make(db)
    for part in range(12):  # nodes come one after the other, and each part is of any time
        write(db, turns(db, dice, 60, first, 3 + 2 * part, 60))
        first += 60
        frames += tend(db)
        if part % 4 == 3:
            agrees(db, 60)
    assert frames > 3
    assert tend(db) == 0
    moments.make(db)  # of the same turns: what stood is the same, though seats are others
    agrees(db, 60)
    assert tend(db) > 3
    agrees(db, 60)


@pytest.mark.usefixtures("small")
def test_a_late_turn_goes_into_every_frame_behind_it(db: sqlite3.Connection) -> None:
    names = history.Names(db)
    moments.make(db)
    rows = [(1, names[f"N{one % 4}"], one * STRETCH, names["A"], 1, one, names["LIVE"], 2, one) for one in range(1, 90)]
    write(db, rows)
    assert tend(db) >= 3
    state = db.execute("SELECT length(state) FROM frame").fetchall()
    late = [(1, names[f"L{one}"], 5, names["B"], 1, one, names["DELAYED"], 2, 100 + one) for one in range(12)]
    write(db, late)
    for (stretch,) in db.execute("SELECT stretch FROM frame").fetchall():
        stood = by_time(db, (stretch << 38) + 1)
        assert all(stood[f"L{one}"] == ("DELAYED", 5) for one in range(12))
    assert db.execute("SELECT min(length(state)) FROM frame").fetchone() > max(state), "frames have grown"
    agrees(db, 300)


def test_where_it_is_missing_or_the_way_is_too_long_the_turns_are_asked(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert moments.at(db, STRETCH) is None
    write(db, turns(db, random.Random(1), 300, 0, 3, 60))
    assert moments.at(db, STRETCH) is None, "it is not written before it was made"
    moments.make(db)
    assert by_time(db, 20 * STRETCH) == by_turns(db, 20 * STRETCH)
    monkeypatch.setattr(moments, "_WAY_MIN", 3)
    assert moments.at(db, 20 * STRETCH) is None


def test_a_stamp_that_no_moment_reaches_is_left_out(db: sqlite3.Connection) -> None:
    names = history.Names(db)
    moments.make(db)
    far = (1, names["N"], (1 << 63) - 1, names["A"], 1, 2, names["DELAYED"], 2, 2)
    write(db, [(1, names["N"], 7, names["A"], 1, 1, names["LIVE"], 2, 1), far])
    assert by_time(db, 1 << 60) == {"N": ("LIVE", 7)}
    moments.make(db)
    assert by_time(db, 1 << 60) == {"N": ("LIVE", 7)}


@pytest.mark.usefixtures("small")
def test_what_was_begun_and_not_ended_is_begun_anew(db: sqlite3.Connection) -> None:
    write(db, turns(db, random.Random(3), 200, 0, 12, 30))

    class Over(Exception):
        pass

    def rest() -> None:
        raise Over

    with pytest.raises(Over):
        moments.make(db, rest)
    assert not moments.made(db)
    assert moments.at(db, 30 * STRETCH) is None
    write(db, turns(db, random.Random(4), 100, 200, 14, 30))
    moments.make(db)
    agrees(db, 30)
