"""Which relay a node is reached over, written at the hub: only one of its own site, and never in a circle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from fleet.document import Kind as DocumentKind
from fleet.node import Kind
from fleet.people import Refused
from hub.compose import Hub
from hub.state import NodeHere
from tests.hub.sites import ALDER, BIRCH, HARBOR, present
from tests.hub.test_granting import BOB, admitted


@pytest.fixture
async def harbor(tmp_path: Path) -> AsyncIterator[Hub]:
    """alder with three nodes, birch with one: relays all, but the last of alder."""
    hub = Hub(tmp_path / "harbor", HARBOR)
    await hub.start()
    now_ns = hub.ground.clock.now_ns()
    for site, writer, name, nodes in ((0, ALDER, "alder", 3), (1, BIRCH, "birch", 1)):
        await admitted(hub, writer, name)
        for index in range(nodes):
            kind = Kind.EDGE if index == 2 else Kind.RELAY
            told = msgspec.structs.replace(present(site, index, now_ns), kind=kind)
            hub.fleet.put(told.node_id, NodeHere(writer, told, now_ns, now_ns))
    yield hub
    await hub.stop()


FIRST, SECOND, DRONE = (present(0, index, 1).node_id for index in range(3))
OF_BIRCH = present(1, 0, 1).node_id


async def test_a_node_goes_over_a_relay_of_its_site_and_the_page_offers_no_other(harbor: Hub) -> None:
    await harbor.box.change(BOB, DRONE, "upstream", SECOND)
    view = await harbor.box.node(BOB, DRONE)
    assert view is not None
    assert view.upstream == SECOND
    assert view.relays == ((FIRST, "kestrel-1"), (SECOND, "kestrel-2"))
    for over in (OF_BIRCH, DRONE, "nobody"):
        with pytest.raises(Refused, match="no relay or gateway of that id at alder"):
            await harbor.box.change(BOB, DRONE, "upstream", over)


async def test_a_circle_is_refused_with_its_names(harbor: Hub) -> None:
    await harbor.box.change(BOB, SECOND, "upstream", FIRST)
    with pytest.raises(Refused, match="kestrel-1 → kestrel-2 → kestrel-1"):
        await harbor.box.change(BOB, FIRST, "upstream", SECOND)


async def test_the_paths_of_a_domain_are_drawn_from_what_is_written(harbor: Hub) -> None:
    north = await harbor.box.policies.create(BOB, DocumentKind.DOMAIN, "North")
    for node_id, over in ((DRONE, SECOND), (SECOND, FIRST)):
        await harbor.box.change(BOB, node_id, "upstream", over)
    await harbor.box.change(BOB, DRONE, "domain_id", north)
    (site,) = (await harbor.box.policies.paths(BOB, north)).sites
    (first,) = site.roots
    assert (site.site, site.nodes, first.name, first.inside) == ("alder", 1, "kestrel-1", False)
    assert [one.name for one in first.over[0].over] == ["kestrel-3"]
