"""The box behind the pages, whole and in this process: what a person asks of it, it does once, in order, and remembers."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from websockets.asyncio.client import connect

from appliance import gauges
from appliance.compose import Appliance
from appliance.config import Config, Http
from fleet import events
from fleet.connectivity import Mode, Reach
from fleet.lifecycle import Phase, Place
from fleet.limits import SECOND
from fleet.node import Kind
from fleet.people import Identity, Refused, Role
from store.faults import Fault
from store.ports import ListenProblem
from tests.cast import BOB, eventually_async, send_udp
from tests.conftest import ALDER
from web.metrics import text
from web.ports import Durations, Gauge, LatestQuery, NodeQuery
from web.rows import visible

T = TypeVar("T")
ALICE = Identity(name="alice", role=Role.ADMIN)
WORD = b"<13>1 2026-11-21T05:40:26Z kestrel fc - - - battery_pct=%d"


async def say(alder: Appliance, *messages: bytes, address: str = BOB) -> None:
    """Over UDP; returns when they have been read."""
    before = alder.interpreter.interpreted
    port = int(alder.addresses["syslog-udp"].rpartition(":")[2])
    await asyncio.to_thread(send_udp, port, *messages, address=address)
    await until(lambda: alder.interpreter.interpreted >= before + len(messages))


async def until(look: Callable[[], T], good: Callable[[T], bool] = bool) -> T:
    async def looking() -> T:
        return look()

    return await eventually_async(looking, good)


async def adopted(alder: Appliance, name: str = "kestrel", source: str = f"syslog/{BOB}/kestrel") -> str:
    return await alder.box.adopt(ALICE, source, name, Kind.EDGE, ("drone",))


async def told(alder: Appliance, kind: str) -> list[events.Recorded]:
    return [event for event in await alder.box.events(ALICE, 0, 10_000) if event.kind == kind]


async def refused(wish: Awaitable[object], status: int) -> str:
    with pytest.raises(Refused) as no:
        await wish
    assert no.value.status == status
    return str(no.value)


async def test_a_source_is_listed_until_it_is_adopted_and_its_past_comes_along(alder: Appliance) -> None:
    await say(alder, *(WORD % number for number in (90, 89)))
    (source,) = (await alder.box.intake(ALICE)).unclaimed
    assert (source.key, source.records) == (f"syslog/{BOB}/kestrel", 2)
    assert (await alder.box.site(ALICE, NodeQuery())).unclaimed == 1
    node_id = await adopted(alder)
    site = await alder.box.site(ALICE, NodeQuery())
    assert (site.unclaimed, site.reach[Reach.ONLINE], [row.name for row in site.rows]) == (0, 1, ["kestrel"])
    view = await alder.box.node(ALICE, node_id)
    assert view is not None
    assert view.row.battery is not None
    assert (view.row.battery.value, view.row.mode, view.row.address) == (89.0, Mode.LIVE, BOB)
    page = await alder.box.records_after(ALICE, 0, 10, node_id)
    assert len(page.records) == 2


async def test_a_source_that_has_not_spoken_can_be_adopted_and_is_unknown_until_it_does(alder: Appliance) -> None:
    node_id = await adopted(alder)
    (row,) = (await alder.box.site(ALICE, NodeQuery())).rows
    assert (row.mode, row.reach, row.phase) == (None, Reach.UNKNOWN, "ENROLLED")
    await say(alder, WORD % 70)
    await until(lambda: alder.world.nodes[node_id].place, lambda place: place == Place(Phase.ACTIVE))


@pytest.mark.parametrize("source", ["", "syslog", "syslog//", "//kestrel", "skerry//"])
async def test_what_is_no_source_cannot_be_adopted(alder: Appliance, source: str) -> None:
    await refused(adopted(alder, source=source), 422)
    assert alder.world.nodes == {}


async def test_two_moves_at_once_are_one_after_the_other(alder: Appliance) -> None:
    await say(alder, WORD % 90)
    node_id = await adopted(alder)
    await until(lambda: alder.world.nodes[node_id].place, lambda place: place == Place(Phase.ACTIVE))
    moves = [alder.box.move(ALICE, node_id, target, "why") for target in ("UPDATING", "DECOMMISSIONING")]
    done = await asyncio.gather(*moves, return_exceptions=True)
    assert [isinstance(one, Refused) for one in done] == [False, True]
    bodies = [event.body for event in await told(alder, "lifecycle.moved")]
    steps = [(body.origin, body.target) for body in bodies if isinstance(body, events.LifecycleMoved)]
    assert all(former[1] == later[0] for former, later in itertools.pairwise(steps)), steps
    assert alder.lifecycle.state.refused == {}
    await alder.quarantine.flush()
    (item,) = await alder.box.quarantine(ALICE, 0, 10, False)
    assert (item.intake, item.source, item.text) == ("lifecycle", node_id, "UPDATING -> DECOMMISSIONING")


async def test_a_claim_holds_for_every_way_in_after_a_restart_too(tmp_path: Path) -> None:
    alder = Appliance(tmp_path / "alder", ALDER)
    await alder.start()
    await say(alder, WORD % 90)
    node_id = await adopted(alder)
    alder.interpreter.post(alder.interpreter._save_values)
    await alder.stop()
    again = Appliance(tmp_path / "alder", ALDER)
    await again.start()
    try:
        assert again.world.claims == {f"{BOB}/kestrel": node_id}
        assert [str(source.key) for source in again.world.sources_of(node_id)] == [f"syslog/{BOB}/kestrel"]
        await say(again, WORD % 55)
        await until(lambda: again.world.nodes[node_id].snapshot.values["battery_pct"].value, lambda held: held == 55.0)
        assert len(await told(again, "node.adopted")) == 1
    finally:
        await again.stop()


async def test_a_release_makes_the_source_unclaimed_again(alder: Appliance) -> None:
    await say(alder, WORD % 90)
    node_id = await adopted(alder)
    await alder.box.release(ALICE, f"syslog/{BOB}/kestrel")
    await until(lambda: alder.world.sources_of(node_id), lambda held: not held)
    assert [source.key for source in (await alder.box.intake(ALICE)).unclaimed] == [f"syslog/{BOB}/kestrel"]
    await refused(alder.box.release(ALICE, f"syslog/{BOB}/kestrel"), 404)
    await alder.box.claim(ALICE, f"syslog/{BOB}/kestrel", node_id)
    await until(lambda: alder.world.sources_of(node_id))
    await refused(alder.box.claim(ALICE, f"syslog/{BOB}/kestrel", "nobody"), 404)


async def test_a_change_is_seen_at_once(alder: Appliance) -> None:
    node_id = await adopted(alder)
    await alder.box.change(ALICE, node_id, "name", "kestrel-2")
    await alder.box.change(ALICE, node_id, "target_version", "1.5")
    (row,) = (await alder.box.site(ALICE, NodeQuery(text="kestrel-2"))).rows
    assert row.id == node_id
    view = await alder.box.node(ALICE, node_id)
    assert view is not None
    assert view.node.desired.target_version == "1.5"


async def test_quarantine_is_settled_by_reading_again_or_by_dropping(alder: Appliance) -> None:
    await adopted(alder)
    alder.quarantine.put("syslog", f"syslog/{BOB}/kestrel", "unparsed", WORD % 1)
    alder.quarantine.put("syslog", f"syslog/{BOB}/kestrel", "unparsed", b"\x00\x01")
    alder.quarantine.put("lifecycle", "x", "no", b"A -> B")
    await alder.quarantine.flush()
    life, junk, good = await alder.box.quarantine(ALICE, 0, 10, False)
    assert junk.text == "␀␁"
    await alder.box.settle(ALICE, good.id, "retry")
    assert "still cannot be read" in await refused(alder.box.settle(ALICE, junk.id, "retry"), 409)
    assert "cannot be read again" in await refused(alder.box.settle(ALICE, life.id, "retry"), 409)
    await refused(alder.box.settle(ALICE, junk.id, "burn"), 422)
    await alder.box.settle(ALICE, junk.id, "drop")
    await refused(alder.box.settle(ALICE, junk.id, "drop"), 409)
    assert [item.decision for item in await alder.box.quarantine(ALICE, 0, 10, True)] == ["drop", "retry"]


async def test_a_node_that_falls_silent_needs_attention(alder: Appliance) -> None:
    await say(alder, WORD % 90)
    node_id = await adopted(alder)
    await until(lambda: alder.world.nodes[node_id].standing.mode, lambda mode: mode is Mode.DISCONNECTED)

    async def attention() -> list[str]:
        return [line.words for line in (await alder.box.site(ALICE, NodeQuery())).attention]

    await eventually_async(attention, lambda words: any("silent" in one for one in words))


async def test_a_fault_of_the_disk_is_on_the_page_and_makes_it_not_ready(alder: Appliance) -> None:
    assert (await alder.box.health()).ready
    alder.telemetry.paused = True
    port = int(alder.addresses["syslog-udp"].rpartition(":")[2])
    await asyncio.to_thread(send_udp, port, WORD % 3)
    fault = await until(lambda: alder.gate.fault)
    assert fault is not None
    assert fault.fault is Fault.FULL
    health = await alder.box.health()
    assert (health.ready, health.problems[0]) == (False, str(fault))
    assert (await alder.box.intake(ALICE)).storage_problem == str(fault)
    assert str(fault) in [line.words for line in (await alder.box.site(ALICE, NodeQuery())).attention]
    alder.telemetry.paused = False
    await until(lambda: alder.gate.fault is None)
    assert (await alder.box.health()).ready
    await until(lambda: alder.interpreter.waiting, lambda waiting: not waiting)
    assert (await alder.box.intake(ALICE)).unclaimed == (), "what the box writes itself is not to be adopted"


async def test_every_number_of_the_metrics_has_a_name_a_kind_and_words(alder: Appliance) -> None:
    await say(alder, WORD % 90)
    found = await alder.box.gauges()
    assert len({(one.name, one.labels) for one in found}) == len(found)
    for one in found:
        assert one.name.startswith("skerry_")
        if isinstance(one, Durations):
            continue
        assert one.kind in ("gauge", "counter")
        assert one.name.endswith("_total") == (one.kind == "counter")
        assert one.help.endswith(".")


async def test_verify_tells_how_far_it_is_and_ends_with_a_sentence(alder: Appliance) -> None:
    await adopted(alder)
    steps = [step async for step in alder.box.verify(ALICE)]
    assert steps[-1].done
    assert steps[-1].good
    assert "hold, without a hole" in steps[-1].words


async def test_a_box_that_cannot_listen_leaves_nothing_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = Config(
            http=Http(listen=f"127.0.0.1:{port}"), syslog=ALDER.syslog, mqtt=ALDER.mqtt, budget=ALDER.budget
        )
        with pytest.raises(ListenProblem, match=rf"http cannot listen on 127\.0\.0\.1:{port}"):
            await Appliance(tmp_path / "alder", config).start()
    again = Appliance(tmp_path / "alder", ALDER)  # neither lock nor socket is left behind
    await again.start()
    assert (await again.box.health()).ready
    await again.stop()


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        (b"\x1b[31mred\x00\x7f", "␛[31mred␀␡"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("a\u202eb\u2066c\u0085".encode(), "a\\u202eb\\u2066c\\u0085"),
        ("fjärd ⚓".encode(), "fjärd ⚓"),
    ],
)
def test_bytes_are_shown_so_that_they_can_do_nothing(raw: bytes, shown: str) -> None:
    assert visible(raw) == shown


async def test_the_latest_state_of_a_node_is_its_row_and_every_value_with_its_age_and_source(alder: Appliance) -> None:
    await say(alder, WORD % 71)
    node_id = await adopted(alder)
    (one,) = await alder.box.latest(
        ALICE, LatestQuery(frozenset({node_id}), frozenset({"drone"}), frozenset({"alder"}))
    )
    assert (one.row.id, one.row.name, one.row.site) == (node_id, "kestrel", "alder")
    (battery,) = (value for value in one.values if value.metric == "battery_pct")
    assert (battery.value, battery.source) == (71, f"syslog/{BOB}/kestrel")
    assert one.row.seen_ns == battery.at_ns
    for other in (LatestQuery(tags=frozenset({"boat"})), LatestQuery(sites=frozenset({"birch"}))):
        assert await alder.box.latest(ALICE, other) == []
    assert await alder.box.latest(ALICE, LatestQuery(after=node_id)) == []


async def test_a_program_is_told_the_latest_state_over_a_websocket(alder: Appliance) -> None:
    await say(alder, WORD % 71)
    node_id = await adopted(alder)
    token = await alder.accounts.create_token(ALICE, "collector", Role.VIEWER)
    url = f"ws://{alder.addresses['http']}/api/v1/state/socket?node={node_id}"
    async with connect(url, additional_headers={"authorization": f"Bearer {token}"}) as line, asyncio.timeout(30):
        first = msgspec.json.decode(await line.recv())
        assert (first["kind"], first["whole"], len(first["nodes"])) == ("state", True, 1)
        await say(alder, WORD % 64)
        while True:
            said = msgspec.json.decode(await line.recv())
            if any(one["node"]["row"]["battery"]["value"] == 64 for one in said["nodes"]):
                break


async def test_how_a_node_comes_in_is_told_on_its_page_and_to_prometheus(alder: Appliance) -> None:
    ahead = datetime.fromtimestamp(alder.clock.now_ns() / SECOND + 3.2, UTC).isoformat().encode()
    await say(alder, b"<13>1 %b kestrel fc - - - heartbeat=1 mid=k-1" % ahead)
    node_id = await adopted(alder)
    again = b"<13>1 %b kestrel fc - - - heartbeat=1 mid=k-2" % ahead
    await say(alder, again, again)
    view = await alder.box.node(ALICE, node_id)
    assert view is not None
    assert view.way_in is not None
    assert view.way_in.skewed
    assert view.way_in.skew_ns is not None
    assert 2 * SECOND < view.way_in.skew_ns < 4 * SECOND
    assert (view.way_in.repeated, view.way_in.repeated_in_a_row) == (1, 1)
    intake = await alder.box.intake(ALICE)
    assert intake.repeated == {"syslog": 1}
    line = next(one for one in intake.lines if one.intake == "syslog-udp")
    assert line.waiting == 0
    assert line.durable_s_p50 is not None
    assert line.durable_s_p99 is not None
    assert 0 < line.durable_s_p50 <= line.durable_s_p99
    told = text(await alder.box.gauges()).decode()
    for name in ("seen_timestamp_seconds", "clock_skew_seconds", "heartbeat_timestamp_seconds", "repeated_total"):
        assert f'skerry_node_{name}{{name="kestrel",node="{node_id}"}}' in told
    assert 'skerry_intake_durable_seconds_bucket{intake="syslog-udp",le="+Inf"} 3.0' in told


async def test_the_nodes_that_have_figures_of_their_own_are_bounded(
    alder: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges.limits, "metrics_nodes_max", 1)
    for name in ("kestrel", "merlin", "osprey"):
        await adopted(alder, name, f"syslog/{BOB}/{name}")
    told = await alder.box.gauges()
    assert len({one.labels for one in told if one.name.startswith("skerry_node_")}) == 1
    assert [one.value for one in told if isinstance(one, Gauge) and one.name == "skerry_nodes_without_metrics"] == [2]
