"""Whose nodes were whose, and how they stood, as of a moment, at a hub: a node that moved is of both domains, each in its
time."""

from __future__ import annotations

from fleet import events
from fleet.connectivity import Mode, Reach
from fleet.document import Kind as DocumentKind
from hub.compose import Hub
from tests.hub.test_batch import BOB, EVERY, OF_ALDER, OF_BIRCH, harbor
from tests.hub.test_fleet_of_the_past import past_of, say
from web.ports import NodeQuery

__all__ = ["harbor"]


async def test_a_list_by_domain_and_by_bundle_is_of_the_moment(harbor: Hub) -> None:
    box, then = harbor.box, past_of(harbor)
    north = await box.policies.create(BOB, DocumentKind.DOMAIN, "North")
    south = await box.policies.create(BOB, DocumentKind.DOMAIN, "South")
    await say(harbor, *((one, events.NodeHeard(Mode.LIVE, "", "syslog")) for one in EVERY))
    await box.change_many(BOB, OF_ALDER, "domain_id", north, dry_run=False)
    before = await say(harbor)
    await box.change_many(BOB, OF_ALDER[:1], "domain_id", south, dry_run=False)
    after = await say(harbor)

    async def of(domain: str, moment_ns: int | None) -> set[str]:
        query = NodeQuery(domain=domain)
        view = await (box.site(BOB, query) if moment_ns is None else then.site(BOB, query, moment_ns))
        listed = await (box.nodes(BOB, "", 9, query) if moment_ns is None else then.nodes(BOB, "", 9, moment_ns, query))
        ids = {one[0].id if isinstance(one, tuple) else one.id for one in listed}
        assert {row.id for row in view.rows} == ids
        assert (view.matching, view.unread) == (len(ids), 0)
        assert sum(view.reach.values()) == len(EVERY), "tallies are of all"
        return ids

    assert await of(north, before) == {*OF_ALDER}
    assert await of(south, before) == set()
    for moment_ns in (after, None):
        assert await of(north, moment_ns) == {*OF_ALDER[1:]}
        assert await of(south, moment_ns) == {OF_ALDER[0]}
        assert await of("", moment_ns) == {*OF_BIRCH}
    only = await box.site(BOB, NodeQuery(domain=north, site="birch"))
    assert (only.rows, only.matching) == ((), 0)
    assert (await box.site(BOB, NodeQuery(domain=north, reach=Reach.ONLINE, text="nobody"))).matching == 0


async def test_sums_of_a_bundle_and_a_domain_are_of_the_moment(harbor: Hub) -> None:
    box, then = harbor.box, past_of(harbor)
    north = await box.policies.create(BOB, DocumentKind.DOMAIN, "North")
    base = await box.policies.create(BOB, DocumentKind.BUNDLE, "Base")
    await box.policies.write(BOB, DocumentKind.BUNDLE, base, {"target_version": "1.4"})
    await say(harbor, *((one, events.NodeHeard(Mode.LIVE, "", "syslog")) for one in EVERY))
    await say(harbor, *((one, events.VersionChanged("", "1.4")) for one in EVERY[:5]))
    await box.change_many(BOB, EVERY, "policy_bundle_id", base, dry_run=False)
    await box.change_many(BOB, OF_ALDER, "domain_id", north, dry_run=False)
    well = await say(harbor)
    await box.policies.write(BOB, DocumentKind.BUNDLE, base, {"target_version": "1.5"})
    wanting = await say(harbor, (OF_ALDER[0], events.VersionChanged("1.4", "1.5")))
    silent = await say(harbor, (OF_ALDER[1], events.NodeQuiet(Mode.DISCONNECTED, Mode.LIVE, 1, 15)))
    for site in harbor.fleet.sites.values():
        site.mode = Mode.LIVE  # and has told everything

    async def of(kind: DocumentKind, name: str, moment_ns: int) -> tuple[int, int, int, int, float | None]:
        view = await then.group(BOB, kind, name, moment_ns)
        assert view is not None
        assert view.sums is not None
        assert (view.sums.counted, view.sums.unread) == (view.sums.nodes, 0)
        listed = (await then.groups(BOB, kind, moment_ns)).groups
        assert {one.id: one.nodes for one in listed}[name] == view.sums.nodes
        return view.sums.nodes, view.sums.in_line, view.sums.out, view.sums.unknown, view.sums.score

    assert await of(DocumentKind.BUNDLE, base, well) == (6, 5, 0, 1, 0.0)
    assert await of(DocumentKind.DOMAIN, north, well) == (3, 3, 0, 0, 0.0)
    assert await of(DocumentKind.BUNDLE, base, wanting) == (6, 1, 4, 1, 80.0)
    assert await of(DocumentKind.DOMAIN, north, wanting) == (3, 1, 2, 0, 200 / 3)
    view = await then.group(BOB, DocumentKind.DOMAIN, north, silent)
    assert view is not None
    assert view.sums is not None
    assert dict(view.sums.reach) == {Reach.ONLINE: 2, Reach.DEGRADED: 0, Reach.OFFLINE: 1, Reach.UNKNOWN: 0}
    assert view.sums.reasons == (("runs 1.4, wanted 1.5", 2),)
    assert {one.id for one in view.sums.worst} == {*OF_ALDER[1:]}
    listed = await then.nodes(BOB, "", 9, wanting)
    out = {node.id for node, lines in listed if any(one.standing == "out of spec" for one in lines)}
    assert out == {*EVERY[1:5]}, "a list tells of each node the drift of the moment"


async def test_what_nodes_spoke_of_and_nobody_had_described_is_shown_as_well(harbor: Hub) -> None:
    """As the pages of now do: its document may come later, or never."""
    box, then = harbor.box, past_of(harbor)
    early = await say(harbor, *((one, events.NodeHeard(Mode.LIVE, "", "syslog")) for one in EVERY))
    await box.change_many(BOB, OF_ALDER, "domain_id", "varanger", dry_run=False)
    await box.change_many(BOB, EVERY[:1], "policy_bundle_id", "scouts", dry_run=False)
    spoken = await say(harbor)

    async def listed(kind: DocumentKind, moment_ns: int) -> dict[str, tuple[str, int, bool]]:
        found = (await then.groups(BOB, kind, moment_ns)).groups
        return {one.id: (one.name, one.nodes, one.described) for one in found}

    assert await listed(DocumentKind.DOMAIN, early) == {"": ("No domain", 6, False)}
    assert await listed(DocumentKind.BUNDLE, early) == {}
    assert await listed(DocumentKind.DOMAIN, spoken) == {
        "": ("No domain", 3, False),
        "varanger": ("varanger", 3, False),
    }
    assert await listed(DocumentKind.BUNDLE, spoken) == {"scouts": ("scouts", 1, False)}
    for kind, name, nodes in (
        (DocumentKind.DOMAIN, "varanger", 3),
        (DocumentKind.DOMAIN, "", 3),
        (DocumentKind.BUNDLE, "scouts", 1),
    ):
        view = await then.group(BOB, kind, name, spoken)
        assert view is not None
        assert view.sums is not None
        assert (view.nodes, view.sums.nodes, view.words, view.described) == (nodes, nodes, (), False)
    assert await then.group(BOB, DocumentKind.DOMAIN, "varanger", early) is None
