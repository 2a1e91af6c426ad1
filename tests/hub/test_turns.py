"""`hub.turns`: who may send its log when many return; on sessions as they are, then with real sites behind a line."""

from __future__ import annotations

import shutil

from fleet.limits import MINUTE, MS, SECOND
from hub.turns import Turns
from sync.hub import WINDOW_BYTES, Me, Phase, Session
from sync.protocol import State
from tests.simulation.boxes import TENANT, memory_folder
from tests.simulation.world import World

HARBOR = Me(TENANT, "harbor", "harbor", bytes(32), bytes)


def returning(count: int) -> dict[str, Session]:
    sessions = {f"site-{number:03}": Session(HARBOR, f"site-{number:03}") for number in range(count)}
    for session in sessions.values():
        session.phase, session.window_bytes = Phase.REPLAYING, 0
    return sessions


def sending(sessions: dict[str, Session]) -> set[str]:
    return {writer for writer, session in sessions.items() if session.window_bytes}


def test_a_hub_that_is_behind_lets_few_send_at_a_time_and_everybody_in_turn() -> None:
    turns, sessions = Turns(), returning(50)
    turns.busy = True
    had: set[str] = set()
    for now_ns in range(SECOND, MINUTE, 200 * MS):
        turns.turn(sessions, sessions, now_ns)
        assert 0 < len(sending(sessions)) <= 8
        had |= sending(sessions)
    assert had == set(sessions)


def test_a_hub_that_keeps_up_lets_everybody_join_in_one_after_the_other() -> None:
    turns, sessions, counts = Turns(), returning(100), []
    for now_ns in range(SECOND, 5 * SECOND, 100 * MS):
        turns.turn(sessions, sessions, now_ns)
        counts.append(len(sending(sessions)))
    assert counts[0] < 50
    assert counts == sorted(counts)
    assert counts[-1] == 100
    assert not turns.waiting


def test_one_site_alone_never_waits() -> None:
    turns, sessions = Turns(), returning(1)
    turns.busy = True
    turns.turn(sessions, sessions, SECOND)
    turns.turn(sessions, sessions, MINUTE)
    assert sessions["site-000"].window_bytes == WINDOW_BYTES


def test_a_window_of_which_nothing_comes_is_said_again() -> None:
    turns, sessions = Turns(), returning(1)
    assert turns.turn(sessions, sessions, SECOND) == ["site-000"]
    assert turns.turn(sessions, sessions, 2 * SECOND) == []
    assert turns.turn(sessions, sessions, 10 * SECOND) == ["site-000"]
    assert turns.turn(sessions, sessions, 11 * SECOND) == []


def test_a_live_site_may_send_and_one_that_comes_anew_waits_again() -> None:
    turns, sessions = Turns(), returning(20)
    turns.busy = True
    last = sessions["site-019"]
    turns.turn(sessions, sessions, SECOND)
    assert not last.window_bytes
    last.phase = Phase.LIVE
    turns.turn(sessions, sessions, 2 * SECOND)
    assert last.window_bytes == WINDOW_BYTES
    last.phase, last.window_bytes = Phase.REPLAYING, 0
    turns.turn(sessions, sessions, 3 * SECOND)
    assert not last.window_bytes
    turns.forget("site-019")
    assert turns.waiting == 11


def test_real_sites_that_return_to_a_hub_that_is_behind_are_all_drained() -> None:
    root = memory_folder()
    world = World(root, 5, 12)
    try:
        world.hub.harbor.turns.busy = True
        for site in world.copies:
            world.write(site, 300)
        assert world.run_for(5 * MINUTE, world.all_live)
        assert {site.box.uplink.site.state for site in world.copies} == {State.LIVE}
    finally:
        world.close()
        shutil.rmtree(root)
