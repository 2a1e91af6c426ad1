"""The past: at every moment the index says what a fold of the log up to that moment says, however the events came."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from fleet import events, past
from fleet.connectivity import Mode
from fleet.events import Recorded
from fleet.past import Stretch, Track
from fleet.people import Unavailable
from fleet.projections import connectivity, lifecycle
from store import history, journal, moments, window
from store.database import connect, connect_reader
from store.history import HistoryIndex
from sync import receive
from tests.store.alder import Alder

NODES = tuple(f"01KESTREL0000000000000000{number}" for number in range(4))


@pytest.fixture
def alder(tmp_path: Path) -> Iterator[Alder]:
    with Alder(tmp_path / "alder") as made:
        yield made


@contextmanager
def following(site: Alder) -> Iterator[HistoryIndex]:
    index = HistoryIndex(site.folder.history_db, site.folder.site_db, lambda: site.journal.position)
    site.journal.listen(index.noticed)
    index.start()
    try:
        yield index
    finally:
        index.stop()


def caught_up(index: HistoryIndex, site: Alder) -> None:
    until(lambda: index.position == site.journal.position)


def until(good: Callable[[], bool]) -> None:
    for _ in range(600):
        if good():
            return
        time.sleep(0.02)
    raise AssertionError("not within 12 s")


def a_day(site: Alder, dice: random.Random, turns: int = 30) -> None:
    modes = [mode.value for mode in Mode]
    for _ in range(turns):
        node, mode = dice.choice(NODES), dice.choice(modes)
        facts: list[events.Body] = [
            events.NodeHeard(mode, "", "syslog"),
            events.NodeQuiet(mode, "", 1, 15),
            events.NodeDegraded("SOMETHING_NEWER", "", "loss"),
            events.HeartbeatMissed(1, 5),
            events.HeartbeatResumed(9),
            events.VersionChanged("", f"1.{dice.randrange(9)}"),
            events.LifecycleMoved("PROVISIONING", "ENROLLED", "why"),
            events.LifecycleMoved("ENROLLED", "ACTIVE", "why"),
            events.LifecycleMoved("RETIRED", "ACTIVE", "no edge"),
            events.ClockStepped(5, 0),
        ]
        site.say((node, dice.choice(facts)))
        time.sleep(0.001 * dice.randrange(3))


def log_of(site: Alder) -> list[Recorded]:
    with closing(connect_reader(site.folder.site_db)) as db:
        return [event for batch in journal.read(db) for event in batch]


def agrees(index: HistoryIndex, facts: list[Recorded]) -> None:
    """At the moment of every event."""
    for moment_ns in {past.moment_of(fact.hlc) for fact in facts}:
        upto = [fact for fact in facts if fact.hlc <= past.stamp_at(moment_ns)]
        modes = connectivity.advance(connectivity.EMPTY, upto)
        places = lifecycle.advance(lifecycle.EMPTY, upto)
        stood = index.of(NODES, moment_ns)
        there = index.crowd(moment_ns).modes()
        crowd = index.crowd(moment_ns)
        assert {
            node: (past.WORDS[code], past.since_of(pack) if pack else None)
            for node, code, pack in zip(crowd.ids, crowd.codes, crowd.packs, strict=False)
            if code
        } == {
            node: (mode.said, mode.since_ns) if (mode := held.get(Track.CONNECTIVITY)) else ("", None)
            for node, held in stood.items()
        }
        for track in (Track.HEARTBEAT, Track.LIFECYCLE):
            words = frozenset(held[track].said for held in stood.values() if track in held)
            told = {
                word: {
                    node: held[track].since_ns
                    for node, held in stood.items()
                    if track in held and held[track].said == word
                }
                for word in words
            }
            assert index.standing(moment_ns, track, words | {"NOBODY"}) == told
        for node in NODES:
            held = stood.get(node, {})
            mode, beat, place = modes.standing.get(node), modes.heartbeat.get(node), places.standing.get(node)
            assert (held[Track.CONNECTIVITY].said if Track.CONNECTIVITY in held else None) == (mode and mode.mode)
            assert there.get(node, "") == (mode.mode if mode else "")
            assert (Track.HEARTBEAT in held) == (beat is not None)
            assert beat is None or (held[Track.HEARTBEAT].said == past.MISSING) == beat.missing
            assert (held[Track.LIFECYCLE].said if Track.LIFECYCLE in held else None) == (place and str(place.place))
            assert (node in there) == bool(held)


@pytest.mark.parametrize("seed", range(3))
def test_at_every_moment_the_index_says_what_a_fold_up_to_it_says(alder: Alder, seed: int) -> None:
    with following(alder) as index:
        a_day(alder, random.Random(seed))
        caught_up(index, alder)
        agrees(index, log_of(alder))
        assert (index.behind, index.condition) == (0, "running")
        known = index.known()
        assert (known.position, known.behind) == (alder.journal.position, 0)
        assert known.first_ns is not None
        assert not index.crowd(known.first_ns - 1_000_000_000).modes()


def test_what_comes_weeks_late_falls_into_its_own_place(alder: Alder, tmp_path: Path) -> None:
    """Birch's log was written between alder's two turns, and comes after both."""
    with following(alder) as index, Alder(tmp_path / "birch") as birch:
        alder.say((NODES[0], events.NodeHeard(Mode.LIVE, "", "syslog")))
        time.sleep(0.005)
        birch.say((NODES[0], events.NodeQuiet(Mode.DISCONNECTED, Mode.LIVE, 1, 15)))
        time.sleep(0.005)
        alder.say((NODES[0], events.NodeDegraded(Mode.DELAYED, Mode.LIVE, "slow")))
        caught_up(index, alder)
        (quiet,) = log_of(birch)
        assert index.crowd(past.moment_of(quiet.hlc)).modes() == {NODES[0]: "LIVE"}
        take(alder, birch)
        caught_up(index, alder)
        assert index.crowd(past.moment_of(quiet.hlc)).modes() == {NODES[0]: "DISCONNECTED"}, (
            "a kept answer was forgotten"
        )
        assert index.crowd(time.time_ns()).modes() == {NODES[0]: "DELAYED"}
        agrees(index, log_of(alder))


def take(here: Alder, other: Alder) -> None:
    """A log of another writer, as a hub takes it in."""

    def job(db: sqlite3.Connection) -> None:
        for block in other.blocks():
            log_id = journal.start_log(db, block.log._replace(writer="01BIRCH0000000000000000000"), other.public_key, 1)
            facts = [
                fact._replace(writer="01BIRCH0000000000000000000")
                for fact in receive.facts_of(block, here.journal.next_position)
            ]
            here.journal.take(db, log_id, block, facts)

    here.site.submit(job).result()


def test_of_two_turns_with_one_stamp_the_later_writer_stands(tmp_path: Path) -> None:
    """In whichever order they come, as in the projections."""
    for order in (1, -1):
        path = tmp_path / f"history{order}.db"
        with closing(sqlite3.connect(":memory:")) as site:
            site.execute("CREATE TABLE event (position, raw)")
            with closing(history.open_history(path, site)) as db:
                names = history.Names(db)
                for writer, said in [("B", "LIVE"), ("A", "DELAYED")][::order]:
                    row = (1, names[NODES[0]], 7, names[writer], 1, 1, names[said], 2, 1)
                    db.execute(history._TURN, row)
                stood = history._standing(db, f'["{NODES[0]}"]', "[1]", 7)
                assert stood[NODES[0]][Track.CONNECTIVITY].said == "LIVE"


def test_a_file_that_an_earlier_program_made_is_gone_on_with(alder: Alder) -> None:
    """It has no index of what was said seldom, and no name of its own."""
    with following(alder) as index:
        a_day(alder, random.Random(7))
        caught_up(index, alder)
    with closing(sqlite3.connect(alder.folder.history_db)) as db:
        db.executescript("DROP INDEX spoken; DELETE FROM meta WHERE key='made'")
        (turns,) = db.execute("SELECT count(*) FROM turn").fetchone()
    with following(alder) as index:
        caught_up(index, alder)
        agrees(index, log_of(alder))
    with closing(sqlite3.connect(alder.folder.history_db)) as db:
        assert db.execute("SELECT count(*) FROM turn").fetchone() == (turns,)


def test_where_there_is_no_room_to_keep_it_by_time_the_turns_are_asked(
    alder: Alder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(db: sqlite3.Connection, rest: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(moments, "make", full)
    with following(alder) as index:
        a_day(alder, random.Random(9))
        caught_up(index, alder)
        agrees(index, log_of(alder))
        assert index.condition == "running"
    monkeypatch.undo()
    with following(alder) as index:
        a_day(alder, random.Random(10))
        caught_up(index, alder)
        agrees(index, log_of(alder))
        with closing(connect_reader(alder.folder.history_db)) as db:
            assert moments.made(db)


def test_while_much_comes_in_it_is_kept_by_time_in_larger_parts(alder: Alder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then the turns are asked."""
    monkeypatch.setattr(history, "FOLLOWED_EVENTS_MAX", 50)
    monkeypatch.setattr(moments, "TOGETHER", 200)
    a_day(alder, random.Random(12))
    with following(alder) as index:
        while index.position < alder.journal.position:
            if index.position:
                index.crowd(time.time_ns())
        agrees(index, log_of(alder))
        with closing(connect_reader(alder.folder.history_db)) as db:
            assert moments.made(db)


def test_the_order_of_time_goes_on_behind_the_journal(alder: Alder, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file of an earlier program too, which has none."""
    monkeypatch.setattr(window, "_ROW", 16)
    a_day(alder, random.Random(13))

    def whole() -> bool:
        with suppress(sqlite3.OperationalError), closing(connect_reader(alder.folder.history_db)) as db:
            return bool(db.execute(window._MADE).fetchone()[0] == (alder.journal.position + 1) // 16)
        return False

    def agreed() -> None:
        facts = log_of(alder)
        for fact in facts[:: len(facts) // 7]:
            moment_ns = past.moment_of(fact.hlc)
            wanted = [one for one in facts if past.moment_of(one.hlc) <= moment_ns]
            found = window.timeline(alder.folder, 0, 20, None, Stretch(until_ns=moment_ns))
            assert [one.position for one in found] == [one.position for one in reversed(wanted)][:20]

    with following(alder) as index:
        caught_up(index, alder)
        until(whole)
        a_day(alder, random.Random(14))
        until(whole)
        agreed()
    with closing(connect(alder.folder.history_db)) as db:
        db.execute("DROP TABLE happened")
    agreed()
    with following(alder):
        until(whole)
        agreed()


def test_what_an_earlier_program_went_on_with_is_kept_by_time_anew(alder: Alder) -> None:
    """After a way back and another upgrade: it wrote turns, and nothing else."""
    with following(alder) as index:
        a_day(alder, random.Random(11))
        caught_up(index, alder)
    alder.say((NODES[0], events.NodeQuiet(Mode.DISCONNECTED, Mode.LIVE, 1, 15)))
    assert history.catch_up(alder.folder.history_db, alder.folder.site_db)
    with following(alder) as index:
        caught_up(index, alder)
        agrees(index, log_of(alder))
        assert index.crowd(time.time_ns()).modes()[NODES[0]] == "DISCONNECTED"


def test_names_of_a_file_that_was_made_anew_are_not_those_of_the_last_one(alder: Alder) -> None:
    """Numbers are given in the order in which names come: here in another."""
    with following(alder) as index:
        alder.say(
            (NODES[0], events.NodeHeard(Mode.LIVE, "", "syslog")), (NODES[1], events.NodeHeard(Mode.LIVE, "", "ping"))
        )
        caught_up(index, alder)
        assert index.crowd(time.time_ns()).modes().keys() == {NODES[0], NODES[1]}
        with closing(sqlite3.connect(alder.folder.history_db)) as db:
            names = dict(db.execute("SELECT text, id FROM name"))
            first, second = names[NODES[0]], names[NODES[1]]
            db.executescript(
                f"UPDATE name SET text='x' WHERE id={first}; UPDATE name SET text='{NODES[0]}' WHERE id={second};"
                f"UPDATE name SET text='{NODES[1]}' WHERE id={first}; UPDATE turn SET said={names['LIVE']};"
                f"DELETE FROM born WHERE subject={second}; UPDATE meta SET value=x'00' WHERE key='made'"
            )
        assert index.crowd(time.time_ns() + 1_000_000_000).modes().keys() == {NODES[1]}


def test_an_index_goes_on_where_the_last_one_stopped(alder: Alder) -> None:
    dice = random.Random(5)
    with following(alder) as index:
        a_day(alder, dice, 8)
        caught_up(index, alder)
    a_day(alder, dice, 8)
    with following(alder) as index:
        caught_up(index, alder)
        agrees(index, log_of(alder))


@pytest.mark.parametrize("what", ["damaged", "another version", "another past", "gone"])
def test_a_file_that_cannot_be_used_is_made_anew(alder: Alder, what: str) -> None:
    with following(alder) as index:
        a_day(alder, random.Random(1), 10)
        caught_up(index, alder)
    path = alder.folder.history_db
    if what == "damaged":
        path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 4_096)
    elif what == "gone":
        path.unlink()
    else:
        key, value = ("version", 99) if what == "another version" else ("mark", b"of another event")
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE meta SET value=? WHERE key=?", (value, key))
            db.execute("DELETE FROM turn")
            db.commit()
    with following(alder) as index:
        until(lambda: path.exists() and index.position == alder.journal.position)
        agrees(index, log_of(alder))


def test_while_there_is_no_file_the_past_is_unavailable_in_a_sentence(alder: Alder) -> None:
    index = HistoryIndex(alder.folder.history_db, alder.folder.site_db, lambda: 0)
    with pytest.raises(Unavailable, match="put together"):
        index.known()


def test_the_turns_of_a_node_are_told_oldest_first(alder: Alder) -> None:
    with following(alder) as index:
        for mode in (Mode.LIVE, Mode.DELAYED, Mode.LIVE):
            alder.say((NODES[0], events.NodeHeard(mode, "", "syslog")))
            time.sleep(0.002)
        caught_up(index, alder)
        assert [was.said for was in index.turns(NODES[0], 2)] == ["DELAYED", "LIVE"]
        first_ns = index.first_of(NODES[0])
        assert first_ns == index.turns(NODES[0], 9)[0].since_ns
        assert index.first_of("nobody") is None
        assert index.told_ns(alder.log.writer) == past.moment_of(log_of(alder)[-1].hlc)
