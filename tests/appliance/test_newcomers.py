"""Devices behind a gateway, in the whole box: they become nodes by themselves, within bounds, and nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import pytest

from appliance.compose import Appliance
from appliance.newcomers import Newcomers
from appliance.world import World
from fleet import limits
from fleet.node import Kind, Node
from fleet.people import Refused
from store.faults import Fault, StoreFault
from store.gateways import Brought, Gateways, Newcomer
from tests.appliance.test_devices_at_the_box import ALICE, Start, enrol, post
from tests.appliance.test_devices_at_the_box import start as start
from tests.cast import eventually_async


async def nodes(box: Appliance) -> dict[str, Node]:
    return {state.node.name: state.node for state in tuple(box.world.nodes.values())}


async def comes(box: Appliance, *names: str) -> dict[str, Node]:
    return await eventually_async(lambda: nodes(box), lambda found: found.keys() >= set(names))


def said(*names: str) -> str:
    return "".join(f'{{"device": "{name}", "temp_c": {number}}}\n' for number, name in enumerate(names, 1))


async def temperature(box: Appliance, node_id: str) -> float | None:
    view = await box.box.node(ALICE, node_id)
    return next((one.value for one in view.values if one.metric == "temp_c"), None) if view is not None else None


async def unclaimed(box: Appliance) -> list[str]:
    return sorted(text for text, held in tuple(box.world.sources.items()) if held.node_id is None)


async def test_who_a_gateway_speaks_of_is_a_node_behind_it_with_its_first_words(start: Start) -> None:
    box = await start()
    mast = await enrol(box, "mast", gateway=True)
    assert (await post(box, mast, said("Sensor A", "Sensor B"))).status_code == 200
    found = await comes(box, "Sensor A", "Sensor B")
    assert found["mast"].kind is Kind.GATEWAY
    for number, name in enumerate(("Sensor A", "Sensor B"), 1):
        node_id = found[name].id
        assert await eventually_async(partial(temperature, box, node_id)) == number
        view = await box.box.node(ALICE, node_id)
        assert view is not None
        assert view.upstream == mast.node_id
        assert [one.key for one in view.sources] == [f"http/@{mast.node_id}/{name}"]
        assert view.row.phase == "ACTIVE"
    told = [one for one in await box.box.events(ALICE, 0, 1_000) if one.subject == found["Sensor A"].id]
    actors = {type(one.body).__name__: getattr(one.body, "actor", "") for one in told}
    assert {"NodeAdopted", "SourceClaimed", "DocumentChanged"} <= actors.keys()
    assert actors["NodeAdopted"] == actors["SourceClaimed"] == "gateway mast"

    box = await start()
    again = await nodes(box)
    assert {name: node.id for name, node in again.items()} == {name: node.id for name, node in found.items()}
    assert (await post(box, mast, said("Sensor B", "Sensor A"))).status_code == 200
    assert await eventually_async(lambda: temperature(box, found["Sensor A"].id), lambda now: now == 2) == 2
    assert len(await nodes(box)) == 3


async def test_many_at_once_all_become_nodes(start: Start) -> None:
    box = await start()
    mast = await enrol(box, "mast", gateway=True)
    names = [f"buoy-{number}" for number in range(120)]
    assert (await post(box, mast, said(*names))).status_code == 200
    found = await comes(box, *names)
    assert len(found) == 121
    assert await unclaimed(box) == []


async def test_a_gateway_brings_so_many_and_no_more(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "gateway_nodes_max", 2)
    box = await start()
    mast, other = await enrol(box, "mast", gateway=True), await enrol(box, "pier", gateway=True)
    for name in ("a", "b", "c", "d"):
        assert (await post(box, mast, said(name))).status_code == 200
    assert (await post(box, other, said("e"))).status_code == 200
    assert (await comes(box, "a", "b", "e")).keys() == {"mast", "pier", "a", "b", "e"}
    left = [f"http/@{mast.node_id}/{name}" for name in ("c", "d")]
    assert await eventually_async(lambda: unclaimed(box), lambda found: len(found) == 2) == left
    await box.box.adopt(ALICE, left[0], "c", Kind.EDGE, ())  # a person may
    box = await start()
    assert (await post(box, mast, said("a", "f"))).status_code == 200
    assert await eventually_async(lambda: unclaimed(box), lambda found: len(found) == 2)
    assert (await nodes(box)).keys() == {"mast", "pier", "a", "b", "c", "e"}


async def test_whom_a_person_released_is_not_brought_again(start: Start) -> None:
    box = await start()
    mast = await enrol(box, "mast", gateway=True)
    assert (await post(box, mast, said("buoy"))).status_code == 200
    await comes(box, "buoy")
    await box.box.release(ALICE, f"http/@{mast.node_id}/buoy")
    await eventually_async(lambda: unclaimed(box))
    for _ in range(2):
        box.newcomers.heard(f"@{mast.node_id}/buoy")
        assert (await post(box, mast, said("buoy", "late"))).status_code == 200
        await comes(box, "late")
        assert len(await nodes(box)) == 3
        assert await unclaimed(box) == [f"http/@{mast.node_id}/buoy"]
        box = await start()


async def test_a_name_that_somebody_has_stays_theirs(start: Start) -> None:
    box = await start()
    mine = await box.box.adopt(ALICE, "syslog/10.0.0.7/buoy", "buoy", Kind.EDGE, ())
    for gateway in ("mast", "pier"):
        issued = await enrol(box, gateway, gateway=True)
        assert (await post(box, issued, said("buoy"))).status_code == 200
    found = await comes(box, "buoy", "buoy (mast)", "buoy (pier)")
    assert found["buoy"].id == mine
    assert await temperature(box, mine) is None


async def test_who_is_no_gateway_or_not_known_brings_nobody(start: Start) -> None:
    box = await start()
    plain = await enrol(box, "drone-01")
    gateways = Gateways(box.site, box.box._parts.commands, tenant="default", now_ns=box.clock.now_ns)
    for gateway in (plain.node_id, "01NOBODY"):
        assert await gateways.bring([Newcomer(gateway, "buoy", f"http/@{gateway}/buoy")]) == []
    assert (await nodes(box)).keys() == {"drone-01"}


# -- what may go wrong ---------------------------------------------------------------------------------------------


class Registry:
    """Brings whoever it is asked to, once it has no more to raise."""

    def __init__(self, *problems: Exception) -> None:
        self.problems = list(problems)
        self.asked: list[list[str]] = []

    async def bring(self, newcomers: Sequence[Newcomer]) -> list[Brought]:
        self.asked.append([one.name for one in newcomers])
        if any(one.name == "odd" for one in newcomers):
            raise Refused("no document takes this")
        if self.problems:
            raise self.problems.pop()
        return [Brought(Node(id=f"01{one.name}", name=one.name), one.source) for one in newcomers]


def newcomers(registry: Registry) -> tuple[Newcomers, list[str], list[str]]:
    entered: list[str] = []
    forgotten: list[str] = []

    async def enter(brought: Sequence[Brought]) -> None:
        entered.extend(one.node.name for one in brought)

    return Newcomers(cast("Any", registry), World(), enter, forgotten.append), entered, forgotten


async def test_when_the_disk_refuses_it_is_tried_again_and_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.newcomers._AGAIN_S", 0.01)
    made, entered, _ = newcomers(Registry(StoreFault(Fault.FULL, "site.db", "")))
    made.heard("@01MAST/buoy")
    assert made.coming("@01MAST/buoy")
    running = asyncio.create_task(made._some())
    await asyncio.sleep(0)
    assert not made.coming("@01MAST/buoy")
    await running
    assert (entered, len(made)) == ([], 1)
    await made._some()
    assert (entered, len(made)) == (["buoy"], 0)


async def test_one_that_cannot_be_had_costs_the_others_nothing() -> None:
    registry = Registry()
    made, entered, forgotten = newcomers(registry)
    for name in ("a", "odd", "b"):
        made.heard(f"@01MAST/{name}")
    await made._some()
    assert registry.asked == [["a", "odd", "b"], ["a"], ["odd"], ["b"]]
    assert (entered, forgotten, len(made)) == (["a", "b"], ["@01MAST/odd"], 0)


async def test_the_queue_of_newcomers_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "newcomers_max", 3)
    made, _, forgotten = newcomers(Registry())
    for name in ("a", "b", "c", "d", "a"):
        made.heard(f"@01MAST/{name}")
    assert (len(made), forgotten) == (3, ["@01MAST/d"])
