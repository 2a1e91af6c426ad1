"""The hub behind its pages: what it shows of its sites, live, returning, cut off or held; what it leaves to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet import events
from fleet.connectivity import Mode, Reach
from fleet.document import Value
from fleet.ids import is_ulid
from fleet.limits import DAY, SECOND
from fleet.metrics import BY_NAME
from fleet.node import Kind
from fleet.people import Identity, Refused, Role
from fleet.present import Present, Told
from hub.box import HubBox, Parts
from hub.charts import Charts
from hub.realm import LIFECYCLE
from hub.state import FleetHere
from store import peers
from store.database import connect
from store.folder import Folder
from store.ground import Ground
from store.quarantine import Quarantine
from store.supervisor import Supervisor
from store.views import View
from tests.hub.sites import ALDER, BIRCH, CEDAR, ELM, NODES_EACH, filled, present
from web.ports import LatestQuery, LinkQuery, LinkState, NodeQuery, Severity
from web.stale import Stale

ALICE = Identity(name="alice", role=Role.ADMIN)


class Outbox:
    """What was said to sites."""

    link = None

    def __init__(self) -> None:
        self.refused = {"not a message": 3}
        self.said: list[tuple[object, ...]] = []

    async def release(self, actor: str, writer: str, reason: str) -> None:
        self.said.append(("release", actor, writer, reason))

    async def edit(self, actor: str, node_id: str, values: Mapping[str, Value]) -> None:
        self.said.append(("edit", actor, node_id, dict(values)))

    async def take(self, actor: str, node_id: str, pointer: str, choice: int) -> None:
        self.said.append(("take", actor, node_id, pointer, choice))


class Harbor:
    """The box on a ground of its own, its fleet filled."""

    def __init__(self, root: Path) -> None:
        folder = Folder(root)
        folder.prepare()
        self.ground = Ground(folder, "default", "harbor", lambda fault: None)
        self.ground.begin("0.1.0")
        self.fleet = filled(FleetHere(), self.ground.clock.now_ns())
        self.outbox = Outbox()
        quarantine = Quarantine(
            self.ground.journal,
            self.ground.writer,
            self.ground.reader,
            tenant="default",
            now_ns=self.ground.clock.now_ns,
        )
        self.parts = Parts(
            folder=folder,
            clock=self.ground.clock,
            identity=self.ground.identity,
            journal=self.ground.journal,
            reader=self.ground.reader,
            quarantine=quarantine,
            supervisor=Supervisor(),
            stale=Stale(),
            fleet=self.fleet,
            lifecycle=View(LIFECYCLE, type(LIFECYCLE.empty)),
            fault=lambda: None,
            steady_ns=time.time_ns,
            version="0.1.0",
            started_ns=time.time_ns(),
            lines=self.outbox,
        )
        self.box = HubBox(self.parts)


@pytest.fixture
async def harbor(tmp_path: Path) -> AsyncIterator[Harbor]:
    made = Harbor(tmp_path / "harbor")
    yield made
    if made.parts.charts is not None:
        await made.parts.charts.close()
    await made.ground.close()


async def refused(wish: Awaitable[object], status: int = 409) -> str:
    with pytest.raises(Refused) as no:
        await wish
    assert no.value.status == status
    return str(no.value)


def node_of(site: int, index: int) -> str:
    return present(site, index, SECOND).node_id


async def test_the_sites_stand_in_lines_those_that_need_somebody_first(harbor: Harbor) -> None:
    view = await harbor.box.site(ALICE, NodeQuery())
    assert [(line.name, line.mode, line.quarantined) for line in view.sites] == [
        ("elm", Mode.DISCONNECTED, True),
        ("birch", Mode.REPLAYING, False),
        ("cedar", Mode.DISCONNECTED, False),
        ("alder", Mode.LIVE, False),
    ]
    assert [line.nodes for line in view.sites] == [NODES_EACH] * 4
    assert view.sites[1].backlog == 280_000


async def test_the_nodes_of_a_site_that_is_not_heard_are_unknown_since_then_and_no_alarm(harbor: Harbor) -> None:
    view = await harbor.box.site(ALICE, NodeQuery(limit=100))
    assert view.reach == {Reach.ONLINE: 10, Reach.DEGRADED: 0, Reach.OFFLINE: 2, Reach.UNKNOWN: 12}
    lost = [row for row in view.rows if row.site == "cedar"]
    assert {row.reach for row in lost} == {Reach.UNKNOWN}
    assert {(view.now_ns - (row.lost_ns or 0)) // DAY for row in lost} == {21}
    assert {(view.now_ns - (row.told_ns or 0)) // DAY for row in lost} == {21}
    needing = {line.name for line in view.attention}
    assert needing == {"kestrel-1", "kestrel-2", "merlin-1", "merlin-2", "elm"}, "nothing of cedar, though one failed"
    held = next(line for line in view.attention if line.name == "elm")
    assert (held.severity, held.link) == (Severity.ACT, f"/links/{ELM}")


async def test_a_site_that_comes_back_brings_its_nodes_back(harbor: Harbor) -> None:
    assert (await harbor.box.site(ALICE, NodeQuery(site="cedar"))).rows[0].reach is Reach.UNKNOWN
    harbor.fleet.sites[CEDAR].mode = Mode.REPLAYING
    harbor.box._rows = (0.0, [])
    view = await harbor.box.site(ALICE, NodeQuery(site="cedar"))
    assert {row.reach for row in view.rows} == {Reach.ONLINE, Reach.OFFLINE}
    assert {row.lost_ns for row in view.rows} == {None}


async def test_the_list_is_filtered_by_site_and_keeps_its_other_filters(harbor: Harbor) -> None:
    view = await harbor.box.site(ALICE, NodeQuery(site="birch", order="name"))
    assert [row.name for row in view.rows] == [f"merlin-{number}" for number in range(1, 7)]
    assert view.matching == len(view.places) == 6
    assert (await harbor.box.site(ALICE, NodeQuery(site="birch", text="kestrel"))).matching == 0
    assert (await harbor.box.site(ALICE, NodeQuery(site="alder", reach=Reach.OFFLINE))).matching == 1


async def test_a_node_is_shown_with_its_site_and_the_age_of_every_value(harbor: Harbor) -> None:
    view = await harbor.box.node(ALICE, node_of(0, 2))
    assert view is not None
    assert (view.row.site, view.row.name, view.row.phase) == ("alder", "kestrel-3", "ACTIVE/LIVE_OK")
    assert [value.metric for value in view.values] == sorted(
        ("battery_pct", "rtt_ms", "loss_pct", "temp_c"), key=list(BY_NAME).index
    )
    assert {value.source for value in view.values} == {"syslog", "ping"}
    assert all(view.now_ns - value.at_ns > 0 for value in view.values)
    assert (view.node.lifecycle.phase, view.node.actual.reported_version) == ("ACTIVE", "1.4.2")
    assert "address" not in view.editable
    assert await harbor.box.node(ALICE, ALDER) is None


async def test_a_place_of_the_lifecycle_that_only_a_newer_site_knows_stops_nothing(harbor: Harbor) -> None:
    node_id = node_of(0, 2)
    here = harbor.fleet.nodes[node_id]
    newer = msgspec.structs.replace(here.present, phase="HIBERNATING/DEEP")
    harbor.fleet.put(node_id, here._replace(present=newer))
    view = await harbor.box.node(ALICE, node_id)
    assert view is not None
    assert view.row.phase == "HIBERNATING/DEEP"


async def test_nodes_for_programs_come_by_ascending_id_without_gap_or_repeat(harbor: Harbor) -> None:
    found: list[str] = []
    while page := await harbor.box.nodes(ALICE, found[-1] if found else "", 7):
        found += [node.id for node in page]
    assert found == sorted(harbor.fleet.nodes)


async def test_links_say_what_is_missing_and_what_is_proven(harbor: Harbor) -> None:
    view = await harbor.box.links(ALICE)
    elm, birch, cedar, alder = view.links
    assert (alder.debt_s, alder.missing_events, alder.drained_s) == (0.0, 0, 0.0)
    assert alder.receipt is not None
    assert (alder.receipt.number, alder.receipt.drops, alder.receipt.root) == (7, 2, "5c" * 32)
    assert (birch.missing_events, birch.missing_segments, birch.missing_bytes) == (280_000, 41, 812_000_000)
    assert (birch.debt_s or 0) // 86_400 == 9
    assert birch.drained_s == 280_000 / 1_400
    assert (cedar.missing_events, cedar.missing_segments, cedar.drained_s) == (None, None, None), "nobody knows"
    assert (cedar.debt_s or 0) // 86_400 == 21
    assert (elm.actions, alder.actions) == (("release",), ())
    assert elm.forks


async def test_links_are_found_by_name_and_state_and_come_by_the_page(harbor: Harbor) -> None:
    async def names(**asked: Any) -> list[str]:
        view = await harbor.box.links(ALICE, LinkQuery(**asked))
        assert view.sums is not None
        assert view.sums.states == {
            LinkState.HELD: 1,
            LinkState.COMING: 1,
            LinkState.AWAY: 1,
            LinkState.LIVE: 1,
        }
        assert (view.sums.missing_events, view.sums.missing_segments) == (280_800, 41), "over all, whatever is asked"
        return [link.name for link in view.links]

    assert await names() == ["elm", "birch", "cedar", "alder"]
    assert await names(text=" EL") == ["elm"]
    assert await names(state=LinkState.AWAY) == ["cedar"]
    assert await names(offset=1, limit=2) == ["birch", "cedar"]
    assert (await harbor.box.links(ALICE, LinkQuery(offset=1, limit=2))).matching == 4
    assert await names(peer="nobody") == []
    assert await names(offset=9) == []


async def test_a_site_is_released_and_everything_else_on_a_line_is_the_sites_own(harbor: Harbor) -> None:
    await harbor.box.link_change(ALICE, ELM, "release", "the card was cloned; the copy is destroyed")
    assert harbor.outbox.said == [("release", "alice", ELM, "the card was cloned; the copy is destroyed")]
    assert "on birch’s own page" in await refused(harbor.box.link_change(ALICE, BIRCH, "cut", ""))
    await refused(harbor.box.link_change(ALICE, "nobody", "release", "why"), 404)


async def test_what_is_written_here_goes_to_the_site(harbor: Harbor) -> None:
    node_id = node_of(2, 0)
    await harbor.box.change(ALICE, node_id, "target_version", "1.5.0")
    await harbor.box.take(ALICE, node_id, "notes", 1)
    assert harbor.outbox.said == [
        ("edit", "alice", node_id, {"target_version": "1.5.0"}),
        ("take", "alice", node_id, "notes", 1),
    ]
    assert "cedar knows by itself" in await refused(harbor.box.change(ALICE, node_id, "address", "10.0.0.1"))
    await refused(harbor.box.change(ALICE, node_id, "kind", "SUBMARINE"), 422)
    await refused(harbor.box.change(ALICE, ALDER, "name", "nobody"), 404)


async def test_a_hub_without_a_line_says_so(harbor: Harbor) -> None:
    harbor.parts.lines = None
    assert "no line" in await refused(harbor.box.change(ALICE, node_of(0, 0), "notes", "hello"))
    view = await harbor.box.node(ALICE, node_of(0, 0))
    assert view is not None
    assert view.editable == ()


async def test_what_only_a_site_can_do_is_refused_with_the_place_to_do_it(harbor: Harbor) -> None:
    box, node_id = harbor.box, node_of(1, 3)
    assert "birch’s own page" in await refused(box.move(ALICE, node_id, "RETIRED", "old"))
    assert "birch’s own page" in await refused(box.claim(ALICE, "syslog/10.0.0.1/x", node_id))
    assert "own page" in await refused(box.adopt(ALICE, "syslog/10.0.0.1/x", "x", Kind.EDGE, ()))
    assert "own page" in await refused(box.release(ALICE, "syslog/10.0.0.1/x"))
    assert "not to the hub" in await refused(box.intake(ALICE), 404)
    assert "at the site" in await refused(box.link_join(ALICE, b"{}"))
    assert "birch seals its records" in (await box.records_before(ALICE, 0, 10, node_id, "")).words
    assert (await box.records_after(ALICE, 5, 10, None)).next == 5
    assert (await box.series(ALICE, node_id, "battery_pct", 0, 1)).at_s == ()


async def test_a_node_is_charted_by_the_minute_and_says_where_that_is_from(harbor: Harbor) -> None:
    box, node_id, now_ns = harbor.box, node_of(0, 2), harbor.ground.clock.now_ns()
    view = await box.node(ALICE, node_id)
    assert view is not None
    assert view.metrics == (), "nobody charts here"
    charts = harbor.parts.charts = Charts(harbor.parts.folder, harbor.fleet, lambda: now_ns)
    former: Present | None = None
    for step in (30, 20, 10):
        now = Present(node_id, "kestrel-3", values={"battery_pct": Told(50.0 + step, now_ns - step * 60 * SECOND)})
        charts.told([(former, now)])
        former = now
    charts.start()
    await asyncio.to_thread(charts.stop)
    found = await box.series(ALICE, node_id, "battery_pct", now_ns - 3_600 * SECOND, now_ns)
    assert (found.step_s, found.unit, found.mean) == (60, "%", (80.0, 70.0, 60.0))
    assert found.words == "As told to the hub, 1 min apart."
    view = await box.node(ALICE, node_id)
    assert view is not None
    assert "battery_pct" in view.metrics
    rows = (await box.site(ALICE, NodeQuery(limit=100))).rows
    assert [one for row in rows for one in row.spark if one is not None] == [80.0, 70.0, 60.0]
    with closing(connect(harbor.parts.folder.site_db)) as db:
        for number, state in enumerate((peers.HERE, peers.WANTED)):
            upto_ns = 1_795_219_200 * SECOND
            one = peers.Segment(ALDER, bytes([number]) * 32, 0, 0, 0, 9, 1, upto_ns, state, "", 1)
            peers.want_segment(db, one)
    found = await box.series(ALICE, node_id, "battery_pct", now_ns - 3_600 * SECOND, now_ns)
    assert found.words == (
        "As told to the hub, 1 min apart; up to 2026-11-21 00:00:00 UTC as alder sealed it;"
        " 1 file of charts still to come from alder."
    )
    charts.problem = "the disk is full"
    found = await box.series(ALICE, node_id, "battery_pct", now_ns - 3_600 * SECOND, now_ns)
    assert found.words.endswith("What came since cannot be kept: the disk is full")


async def test_a_receipt_that_is_not_there_is_a_404(harbor: Harbor) -> None:
    assert "no such receipt" in await refused(harbor.box.receipt(ALICE, ALDER, 7), 404)
    assert "no such site" in await refused(harbor.box.receipt(ALICE, "nobody", 7), 404)


async def test_the_journal_is_read_checked_and_carried_away(harbor: Harbor) -> None:
    found = await harbor.box.events(ALICE, 0, 10)
    assert [event.kind for event in found] == ["log.started", "appliance.started"]
    assert [event.kind for event in await harbor.box.timeline(ALICE, 0, 1)] == ["appliance.started"]
    steps = [step async for step in harbor.box.verify(ALICE)]
    assert (steps[-1].done, steps[-1].good, steps[-1].checked) == (True, True, 2)
    assert len(b"".join([piece async for piece in harbor.box.export(ALICE)])) > 100


async def test_what_sites_sent_that_is_no_message_is_dropped_by_a_person(harbor: Harbor) -> None:
    harbor.parts.quarantine.put("link", BIRCH, "these bytes are no message", b"\xff\x00")
    await harbor.parts.quarantine.flush()
    (item,) = await harbor.box.quarantine(ALICE, 0, 10, settled=False)
    assert (item.reason, item.text) == ("these bytes are no message", "\\xff␀")
    assert "drop this" in await refused(harbor.box.settle(ALICE, item.id, "retry"))
    await harbor.box.settle(ALICE, item.id, "drop")
    assert not await harbor.box.quarantine(ALICE, 0, 10, settled=False)
    (last,) = await harbor.box.timeline(ALICE, 0, 1)
    assert isinstance(last.body, events.QuarantineSettled)
    assert last.body.actor == "alice"


async def test_the_numbers_for_machines_count_sites_and_what_is_missing(harbor: Harbor) -> None:
    found = {(gauge.name, gauge.labels): gauge.value for gauge in await harbor.box.gauges()}
    assert found["skerry_sites", (("mode", "DISCONNECTED"),)] == 2
    assert found["skerry_nodes", (("reach", "unknown"),)] == 12
    assert found["skerry_missing_events", ()] == 280_800
    assert found["skerry_sites_quarantined", ()] == 1
    assert found["skerry_site_quarantined", (("site", "elm"),)] == 1
    assert found["skerry_site_quarantined", (("site", "cedar"),)] == 0
    assert found["skerry_site_mode", (("site", "cedar"), ("mode", "DISCONNECTED"))] == 1
    assert sum(value for (name, _), value in found.items() if name == "skerry_site_missing_events") == 280_800
    assert found["skerry_site_heard_timestamp_seconds", (("site", "cedar"),)] < time.time()
    assert found["skerry_link_refused_total", (("reason", "not a message"),)] == 3
    assert (await harbor.box.health()).ready


def test_the_cast_of_these_tests_has_ids() -> None:
    assert all(map(is_ulid, (ALDER, BIRCH, CEDAR, ELM, node_of(3, 5))))


async def test_the_latest_state_is_as_the_sites_told_it_and_knows_which_of_them_are_lost(harbor: Harbor) -> None:
    every = await harbor.box.latest(ALICE, LatestQuery(limit=10_000))
    assert [one.row.id for one in every] == sorted(harbor.fleet.nodes)
    birch = await harbor.box.latest(ALICE, LatestQuery(sites=frozenset({"birch"}), limit=10_000))
    assert {one.row.id for one in birch} == harbor.fleet.nodes_of[BIRCH]
    told = harbor.fleet.nodes[birch[0].row.id]
    assert {(value.metric, value.at_ns, value.source) for value in birch[0].values} == {
        (metric, one.at_ns, one.via) for metric, one in told.present.values.items()
    }
    assert {one.row.id for one in every if one.row.lost_ns is not None} == {
        row.id for row in harbor.box._everyone().rows.values() if row.lost_ns is not None
    }
    few = await harbor.box.latest(ALICE, LatestQuery(after=every[2].row.id, limit=2))
    assert [one.row.id for one in few] == [one.row.id for one in every[3:5]]
