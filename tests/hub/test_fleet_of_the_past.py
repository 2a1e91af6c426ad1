"""The fleet as of a moment, at a hub: what sites told, when it happened there; what they have not told yet is unknown."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleet import events
from fleet.connectivity import Mode, Reach
from fleet.limits import HOUR, SECOND
from fleet.people import Identity, Refused, Role
from hub.compose import Hub
from tests.hub.sites import ALDER, CEDAR, HARBOR, filled, present
from web.past import Then
from web.ports import AttentionQuery, NodeQuery

ALICE = Identity(name="alice", role=Role.ADMIN, via="console")
KESTREL, MERLIN_OF_ALDER = (present(0, index, 1).node_id for index in (0, 1))
OSPREY = present(2, 0, 1).node_id  # of cedar, cut off for three weeks


async def say(hub: Hub, *facts: tuple[str, events.Body]) -> int:
    """The moment after it was said."""

    def job(db: sqlite3.Connection) -> None:
        for subject, body in facts:
            hub.ground.journal.stage(subject, body)

    await hub.ground.writer.write(job)
    while hub.turns.position < hub.ground.journal.position:
        await asyncio.sleep(0.02)
    moment_ns = hub.ground.clock.now_ns()
    await asyncio.sleep(0.005)
    return moment_ns


@pytest.fixture
async def harbor(tmp_path: Path) -> AsyncIterator[Hub]:
    hub = Hub(tmp_path / "harbor", HARBOR)
    await hub.start()
    filled(hub.fleet, hub.ground.clock.now_ns())
    yield hub
    await hub.stop()


def past_of(hub: Hub) -> Then:
    assert hub.box.past is not None
    return hub.box.past


async def test_a_node_is_as_it_was_at_each_moment(harbor: Hub) -> None:
    first = await say(harbor, (KESTREL, events.NodeHeard(Mode.LIVE, "", "syslog")))
    second = await say(
        harbor,
        (KESTREL, events.NodeQuiet(Mode.DISCONNECTED, Mode.LIVE, 1, 15)),
        (KESTREL, events.VersionChanged("", "1.4.2")),
    )
    then = past_of(harbor)
    for moment_ns, mode, version in ((first, Mode.LIVE, None), (second, Mode.DISCONNECTED, "1.4.2")):
        view = await then.node(ALICE, KESTREL, moment_ns)
        assert view is not None
        assert (view.row.mode, view.row.version, view.node.connectivity.mode) == (mode, version, mode)
        assert view.now_ns == moment_ns
        assert not view.editable
        assert view.as_of is not None
        assert view.as_of.behind == 0
        timeline = await then.timeline(ALICE, 0, 20, KESTREL, moment_ns)
        assert len(timeline) == (1 if moment_ns == first else 3)
    with pytest.raises(Refused, match="was not there"):
        await then.node(ALICE, MERLIN_OF_ALDER, second)
    with pytest.raises(Refused, match="was not there"):
        await then.node(ALICE, KESTREL, first - HOUR)
    assert await then.node(ALICE, "01NOBODY000000000000000000", second) is None


async def test_what_a_site_has_not_told_yet_is_unknown_since_its_last_word(harbor: Hub) -> None:
    moment_ns = await say(
        harbor,
        (KESTREL, events.NodeHeard(Mode.LIVE, "", "syslog")),
        (OSPREY, events.NodeHeard(Mode.LIVE, "", "syslog")),
    )
    view = await past_of(harbor).site(ALICE, NodeQuery(), moment_ns)
    assert view.reach == {Reach.ONLINE: 1, Reach.DEGRADED: 0, Reach.OFFLINE: 0, Reach.UNKNOWN: 1}
    unknown, live = view.rows
    assert (unknown.id, unknown.reach, unknown.mode) == (OSPREY, Reach.UNKNOWN, Mode.LIVE)
    assert unknown.lost_ns == harbor.fleet.sites[CEDAR].since_ns
    assert (live.id, live.reach, live.lost_ns) == (KESTREL, Reach.ONLINE, None)
    only = await past_of(harbor).site(ALICE, NodeQuery(site="alder"), moment_ns)
    assert [row.id for row in only.rows] == [KESTREL]
    assert sum(only.reach.values()) == 2, "tallies are of all"
    none = await past_of(harbor).site(ALICE, NodeQuery(reach=Reach.OFFLINE), moment_ns)
    assert (none.rows, none.matching) == ((), 0)


async def test_a_line_of_a_site_is_as_its_own_log_says(harbor: Hub) -> None:
    live = await say(harbor, (ALDER, events.LinkTurned("harbor", "REPLAYING", "LIVE", "caught up")))
    alone = await say(harbor, (ALDER, events.LinkTurned("harbor", "LIVE", "AUTONOMOUS", "line down")))
    for moment_ns, mode in ((live, Mode.LIVE), (alone, Mode.AUTONOMOUS), (live - HOUR, None)):
        view = await past_of(harbor).site(ALICE, NodeQuery(), moment_ns)
        line = next(line for line in view.sites if line.name == "alder")
        assert line.mode == mode
    cedar = next(line for line in view.sites if line.name == "cedar")
    assert cedar.mode is None or cedar.heard_ns is not None


async def test_a_new_event_is_in_the_past_without_being_asked_for(harbor: Hub) -> None:
    """`say` waits for it; that it comes at all, though nobody looks, is what is shown."""
    await say(harbor)
    before = await past_of(harbor).known(ALICE)
    await say(harbor, (KESTREL, events.NodeHeard(Mode.LIVE, "", "syslog")))
    after = await past_of(harbor).known(ALICE)
    assert after.position == before.position + 1
    assert after.behind == 0
    assert after.first_ns is not None
    assert after.first_ns < harbor.ground.clock.now_ns() + SECOND


async def test_what_needed_a_person_then_is_of_nodes_whose_site_had_told_of_it(harbor: Hub) -> None:
    quiet = events.NodeQuiet(Mode.DISCONNECTED, Mode.LIVE, 1, 15)
    before = await say(harbor, (KESTREL, events.NodeHeard(Mode.LIVE, "", "syslog")))
    moment_ns = await say(
        harbor, (KESTREL, quiet), (OSPREY, quiet), (KESTREL, events.HealthChanged("OK", "FAILED", "motor 3"))
    )
    after = await say(harbor, (KESTREL, events.NodeHeard(Mode.LIVE, Mode.DISCONNECTED, "syslog")))
    for at_ns, causes in ((before, []), (moment_ns, ["failed", "silent"]), (after, ["failed"])):
        view = await past_of(harbor).attention(ALICE, AttentionQuery(), at_ns)
        assert [(one.node_id, one.cause) for one in view.items] == [(KESTREL, cause) for cause in causes], (
            "cedar is away"
        )
        assert all(one.site == "alder" for one in view.items)
    earlier = events.NodeHeard(
        Mode.LIVE, "", "syslog"
    )  # the answer of a moment is forgotten when something older comes
    assert [*harbor.turns.crowd(moment_ns).modes().values()].count("LIVE") == 0
    assert [*harbor.turns.crowd(after).modes().values()].count("LIVE") == 1
    late_ns = await say(harbor, (MERLIN_OF_ALDER, earlier))
    assert [*harbor.turns.crowd(late_ns).modes().values()].count("LIVE") == 2
