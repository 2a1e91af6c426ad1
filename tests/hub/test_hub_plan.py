"""The plan at a hub: for one site or over all, said to the sites that it is about, and nothing half done."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from fleet.document import Author, Id, Kind, Stamped, Value
from fleet.envelope import Log
from fleet.events import Clock, ConflictDecided, DocumentChanged, PlanApplied, PlanUndone, Recorded
from fleet.ids import ulid
from fleet.people import Identity, Refused, Role
from hub.plan import Plans
from hub.state import FleetHere
from store import document, journal, peers
from store.folder import Folder
from store.ground import Ground
from store.shared import Shared
from tests.hub.sites import ALDER, BIRCH, filled, present
from web.ports import PlanQuery, PlanView, PlanWish

ALICE = Identity(name="alice", role=Role.OPERATOR)
SITES = {ALDER: "alder", BIRCH: "birch"}
KESTREL, MERLIN = present(0, 0, 1).node_id, present(1, 0, 1).node_id
BUNDLE = ulid(1_795_000_200_000, bytes(10))


class Harbor:
    """A hub with two sites, and what they wrote while it wrote too."""

    def __init__(self, root: Path) -> None:
        folder = Folder(root)
        folder.prepare()
        self.ground = ground = Ground(folder, "default", "harbor", lambda fault: None)
        ground.begin("0.1.0")
        self.shared = Shared(ground.journal, ground.clock, owner=True)
        self.fleet, self.stale = filled(FleetHere(), ground.clock.now_ns()), list[str]()
        self.towards = {writer: Log("default", f"{name:>026}".upper(), 1) for writer, name in SITES.items()}
        self.plans = Plans(
            folder.site_db,
            "default",
            "harbor",
            ground.journal,
            ground.writer,
            self.shared,
            self.fleet,
            ground.clock.now_ns,
            self.stale.append,
        )

    async def meet(self) -> None:
        def job(db: sqlite3.Connection) -> None:
            for writer, log in self.towards.items():
                journal.start_log(db, log, self.ground.public_key, 1)
                made = peers.Peer(writer, "default", SITES[writer], bytes(32), log_writer=log.writer, log_epoch=1)
                peers.save(db, made)

        await self.ground.writer.write(job)

    async def disagree(self, one: Id, site: str, theirs: Mapping[str, Value], ours: Mapping[str, Value]) -> None:
        elsewhere = sqlite3.connect(":memory:", isolation_level=None)
        elsewhere.executescript(document.TABLES)
        stamp = Stamped(None, "Alice", site, 1, 5, 1_795_000_000_000_000_000, Clock.FREE_RUNNING)
        made = document.edit(elsewhere, one, theirs, stamp)
        elsewhere.close()
        assert isinstance(made, document.Made)
        came = [document.Incoming(one, made.generation, raw, Author(site, 1)) for raw in made.changes]

        def job(db: sqlite3.Connection) -> None:
            self.shared.edit(db, one, ours, "Bob", self.towards[site])
            document.receive(db, came, lambda work: [document.merge(each.saved, each.changes) for each in work], 1)

        await self.ground.writer.write(job)

    async def view(self, peer: str = "") -> PlanView:
        return await self.plans.look(ALICE, PlanQuery(peer=peer))

    async def events(self) -> list[Recorded]:
        return journal.rows_to_events(await self.ground.reader.fetch(journal.AFTER, (0, 10_000)))


def wish(view: PlanView, choice: int = 1) -> PlanWish:
    decisions = {one.id: choice for one in view.steps}
    return PlanWish(plan=view.plan, state=view.state, decisions=decisions, why="agreed by radio", peer=view.peer)


@pytest.fixture
async def harbor(tmp_path: Path) -> AsyncIterator[Harbor]:
    made = Harbor(tmp_path / "harbor")
    await made.meet()
    await made.disagree(Id("default", Kind.NODE, KESTREL), ALDER, {"notes": "wet"}, {"notes": "dry"})
    await made.disagree(Id("default", Kind.NODE, MERLIN), BIRCH, {"notes": "cold"}, {"notes": "warm"})
    yield made
    made.shared.close()
    await made.ground.close()


async def test_the_plan_is_for_one_site_or_over_all(harbor: Harbor) -> None:
    assert {(one.site, one.document) for one in (await harbor.view()).steps} == {("alder", KESTREL), ("birch", MERLIN)}
    alder = await harbor.view(ALDER)
    assert [(one.site, one.document) for one in alder.steps] == [("alder", KESTREL)]
    assert alder.site == "alder"
    (step,) = alder.steps
    assert {(one.value, one.by, one.where) for one in step.choices} == {
        ("dry", "Bob", "harbor"),
        ("wet", "Alice", "alder"),
    }


async def test_a_site_that_is_not_there_has_no_plan(harbor: Harbor) -> None:
    with pytest.raises(Refused) as no:
        await harbor.view("01NOBODY")
    assert no.value.status == 404


async def test_each_site_is_told_what_is_about_it(harbor: Harbor) -> None:
    view = await harbor.view()
    before = len(await harbor.events())
    assert await harbor.plans.apply(ALICE, wish(view)) == 2
    said = (await harbor.events())[before:]
    told = {(one.writer, type(one.body)) for one in said}
    for log in harbor.towards.values():
        assert {(log.writer, ConflictDecided), (log.writer, DocumentChanged)} <= told
    (applied,) = [one for one in said if isinstance(one.body, PlanApplied)]
    assert applied.writer == harbor.ground.identity.log.writer  # about all of them, so in the hub's own log
    assert {f"node:{KESTREL}", f"node:{MERLIN}", "plan"} <= set(harbor.stale)
    after = await harbor.view()
    assert after.steps == ()
    assert [(one.decisions, one.by, one.undone_ns) for one in after.done] == [(2, "alice", None)]


async def test_a_site_hears_of_its_own_plan_and_of_its_undo(harbor: Harbor) -> None:
    view = await harbor.view(ALDER)
    await harbor.plans.apply(ALICE, wish(view))
    await harbor.plans.undo(ALICE, view.plan, "wrong after all")
    whole = [one for one in await harbor.events() if isinstance(one.body, PlanApplied | PlanUndone)]
    assert [(one.writer, one.kind) for one in whole] == [
        (harbor.towards[ALDER].writer, "plan.applied"),
        (harbor.towards[ALDER].writer, "plan.undone"),
    ]
    assert [one.undone_ns is None for one in (await harbor.view(ALDER)).done] == [False]
    assert (await harbor.view(BIRCH)).done == ()


async def test_a_preview_shows_what_would_change_and_writes_nothing(harbor: Harbor) -> None:
    view, before = await harbor.view(ALDER), await harbor.events()
    (change,) = await harbor.plans.preview(ALICE, wish(view))
    (step,) = view.steps
    assert (change.former, change.value) == (step.choices[0].value, step.choices[1].value)
    assert await harbor.events() == before
    older = PlanWish(plan="ab" * 32, state=view.state, decisions={}, why="x", peer=ALDER)
    with pytest.raises(Refused, match="older state"):
        await harbor.plans.preview(ALICE, older)


async def test_what_is_common_stands_in_every_plan_and_is_said_to_every_site(harbor: Harbor) -> None:
    bundle = Id("default", Kind.BUNDLE, BUNDLE)
    await harbor.disagree(bundle, ALDER, {"name": "calm"}, {"name": "storm"})
    for peer in ("", ALDER, BIRCH):
        assert BUNDLE in {one.document for one in (await harbor.view(peer)).steps}
    view = await harbor.view(ALDER)
    before = len(await harbor.events())
    await harbor.plans.apply(ALICE, wish(view))
    spoken = {
        one.writer
        for one in (await harbor.events())[before:]
        if isinstance(one.body, DocumentChanged) and one.subject == BUNDLE
    }
    assert spoken == {harbor.ground.identity.log.writer, *(log.writer for log in harbor.towards.values())}


async def test_a_node_that_belongs_to_no_site_any_more_undoes_the_whole(harbor: Harbor) -> None:
    view, before = await harbor.view(), await harbor.events()
    del harbor.fleet.nodes[MERLIN]
    with pytest.raises(Refused, match="belongs to no site"):
        await harbor.plans.apply(ALICE, wish(view))
    assert await harbor.events() == before
    assert len((await harbor.view()).steps) == 2
