"""Connectivity: every step of the table, and no other."""

from __future__ import annotations

import itertools

import pytest

from fleet.connectivity import REACH, TABLE, Mode, Reach, Trigger, step

PAIRS = list(itertools.product([None, *Mode], Trigger))


@pytest.mark.parametrize(("mode", "trigger"), PAIRS)
def test_what_the_table_does_not_hold_cannot_happen(mode: Mode | None, trigger: Trigger) -> None:
    assert step(mode, trigger) is TABLE.get((mode, trigger))


def test_silence_always_leads_to_disconnected() -> None:
    heard = {mode for mode in Mode if mode is not Mode.DISCONNECTED}
    assert {mode for mode in heard if step(mode, Trigger.SILENT) is Mode.DISCONNECTED} == heard


def test_a_node_never_heard_can_only_be_heard() -> None:
    assert {trigger for trigger in Trigger if step(None, trigger)} == {Trigger.HEARD}


def test_nothing_goes_from_disconnected_straight_to_live() -> None:
    assert step(Mode.DISCONNECTED, Trigger.HEARD) is Mode.RETURNING
    assert Mode.LIVE not in {step(Mode.DISCONNECTED, trigger) for trigger in Trigger}


def test_every_mode_can_be_reached_and_every_mode_can_come_back_to_live() -> None:
    reached: set[Mode | None] = {None}
    for _ in Mode:
        reached |= {target for (origin, _), target in TABLE.items() if origin in reached}
    assert reached == {None, *Mode}
    back: set[Mode | None] = {Mode.LIVE}
    for _ in Mode:
        back |= {origin for (origin, _), target in TABLE.items() if target in back}
    assert back == {None, *Mode}


def test_unknown_is_never_green_and_only_live_is_online() -> None:
    assert REACH[None] is Reach.UNKNOWN
    assert [mode for mode, reach in REACH.items() if reach is Reach.ONLINE] == [Mode.LIVE]
    assert set(REACH) == {None, *Mode}
