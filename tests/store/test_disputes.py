"""A plan of what stands against each other in real documents: the same on both sides, carried out and undone as a whole."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.authority import HUB, Cause, Claim, Names, Terms
from fleet.document import Id, Value
from fleet.events import ConflictDecided, DocumentChanged, PlanApplied, PlanUndone, Recorded
from fleet.people import Refused
from fleet.plan import Plan, Rule, Sort, proposals
from fleet.projections.authority import State
from store import document, journal, migrations
from store.disputes import Disputes, Wish
from store.folder import bring_up
from store.migrations import upgrade
from store.rights import Rights
from tests.simulation.boxes import TENANT, Box, SimClock, memory_folder

DRONE = Id(TENANT, "node", "01DRONE")
WHO = {"alder": "Alice", "harbor": "Bob"}


class End(Box):
    """One end of a link, its documents and its plan. `bring` takes in what the other said since the last time."""

    def __init__(self, root: Path, name: str, *, owner: bool) -> None:
        self.now = 1_800_000_000_000_000_000
        super().__init__(root / name, name, f"01{name.upper():0<24}", SimClock(self.tick), owner=owner)
        self.disputes = Disputes(TENANT, self.journal, self.shared, lambda db, one: (None, ()))
        self.read = 0

    def tick(self) -> int:
        self.now += 1_000_000
        return self.now

    def edit(self, values: Mapping[str, Value], of: Id = DRONE) -> None:
        made = self.run(lambda db: self.shared.edit(db, of, values, WHO[self.name]))
        assert not isinstance(made, document.Refused)

    def rotate(self) -> None:
        self.run(lambda db: self.shared._say(document.rotate(db, DRONE, self.shared._author(None)), None))

    def bring(self, other: End) -> int:
        facts = [one for batch in journal.read(other.db, self.read) for one in batch]
        if facts:
            self.read = facts[-1].position
            self.run(lambda db: self.shared.fold(db, TENANT, facts, 0, None))
        return len(facts)

    @property
    def plan(self) -> Plan:
        return self.disputes.look(self.db).plan

    def apply(self, decisions: Mapping[str, int] | None = None, made: Plan | None = None) -> str:
        made = made or self.plan
        chosen = proposals(made.steps) if decisions is None else decisions
        wish = Wish(made.hash, made.state, chosen, WHO[self.name], "agreed by radio")
        self.run(lambda db: self.disputes.apply(db, wish, None, "alder", None))
        return made.hash

    def undo(self, plan: str) -> None:
        self.run(lambda db: self.disputes.undo(db, plan, WHO[self.name], "wrong after all", lambda site: None))

    def values(self, of: Id = DRONE) -> dict[str, Value]:
        return {pointer: one.value for pointer, one in document.look(self.db, of).values.items()}

    def events(self) -> list[Recorded]:
        return [one for batch in journal.read(self.db) for one in batch]


def together(one: End, other: End) -> None:
    while one.bring(other) + other.bring(one):
        pass


Ends = tuple[End, End]


def ends(root: Path) -> Ends:
    return End(root, "alder", owner=False), End(root, "harbor", owner=True)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Ends]:
    """Alder and harbor, who agreed on a name and wrote on both sides since."""
    alder, harbor = ends(tmp_path)
    harbor.edit({"name": "drone", "notes": "new", "tags/scout": True})
    together(alder, harbor)
    alder.edit({"name": "north", "notes": "wet"})
    harbor.edit({"name": "south", "notes": "dry", "min_battery_pct": 30})
    together(alder, harbor)
    yield alder, harbor
    alder.close()
    harbor.close()


def test_both_ends_make_the_same_plan_with_what_they_last_agreed_on(both: Ends) -> None:
    alder, harbor = both
    assert alder.plan == harbor.plan
    assert [(one.place.pointer, one.sort, one.base, one.based) for one in alder.plan.steps] == [
        ("name", Sort.PERSON, "drone", True),
        ("notes", Sort.PERSON, "new", True),
    ]


def test_only_one_changed_it_and_that_settles_it(both: Ends) -> None:
    alder, harbor = both
    alder.apply()
    together(alder, harbor)
    alder.edit({"name": "east"})
    harbor.edit({"name": "west"})
    alder.edit({"name": "south"})
    together(alder, harbor)
    (one,) = harbor.plan.steps
    assert (one.rule, one.base, one.words[one.choice or 0].value) == (Rule.ONE_CHANGED, "south", "west")


def test_nobody_knows_the_base_of_a_word_that_was_carried_over(both: Ends) -> None:
    alder, harbor = both
    harbor.rotate()
    together(alder, harbor)
    assert alder.plan == harbor.plan
    assert [(one.place.pointer, one.based, one.sort) for one in alder.plan.steps] == [
        ("name", False, Sort.PERSON),
        ("notes", False, Sort.PERSON),
    ]


def test_a_part_is_applied_and_each_decision_says_who_and_why(both: Ends) -> None:
    alder, harbor = both
    name, notes = harbor.plan.steps
    made = harbor.apply({name.id: 1, notes.id: -1})
    together(alder, harbor)
    assert alder.values()["name"] == harbor.values()["name"] == "north"
    assert [one.place.pointer for one in alder.plan.steps] == ["notes"]
    (decided,) = [one.body for one in harbor.events() if isinstance(one.body, ConflictDecided)]
    assert decided == ConflictDecided(
        *name.place, "north", "south", (("Bob", "south"),), "later", made, "Bob", "agreed by radio"
    )
    (applied,) = [one.body for one in harbor.events() if isinstance(one.body, PlanApplied)]
    assert (applied.plan, applied.decisions, applied.documents) == (made, 1, (("node", "01DRONE"),))
    assert applied.state_before != applied.state_after


def test_a_plan_of_an_older_state_is_refused_whole(both: Ends) -> None:
    _, harbor = both
    older = harbor.plan
    harbor.edit({"notes": "frozen"})
    before = harbor.events()
    with pytest.raises(Refused, match="made on an older state"):
        harbor.apply(made=older)
    assert harbor.events() == before


def test_an_undo_leads_back_to_the_former_state(both: Ends) -> None:
    alder, harbor = both
    name, notes = harbor.plan.steps
    made = harbor.apply({name.id: 1, notes.id: 1})
    assert harbor.values()["name"] == "north"
    harbor.undo(made)
    assert (harbor.values()["name"], harbor.values()["notes"]) == ("south", "dry")
    applied, undone = (one.body for one in harbor.events() if isinstance(one.body, PlanApplied | PlanUndone))
    assert isinstance(applied, PlanApplied)
    assert isinstance(undone, PlanUndone)
    assert (undone.state_before, undone.state_after) == (applied.state_after, applied.state_before)
    (shown,) = harbor.disputes.recent(harbor.db)
    assert (shown.plan, shown.undone_ns is None) == (made, False)
    with pytest.raises(Refused, match="undone already"):
        harbor.undo(made)
    together(alder, harbor)
    assert alder.plan == harbor.plan
    assert alder.values() == harbor.values()


def test_an_undo_after_somebody_wrote_there_is_refused_and_says_what(both: Ends) -> None:
    alder, harbor = both
    made = harbor.apply()
    together(alder, harbor)
    alder.edit({"notes": "soaked"})
    alder.edit({"notes": "dry"})  # as the plan left it, and yet somebody's word
    together(alder, harbor)
    before = harbor.events()
    with pytest.raises(Refused, match="notes of south by Alice"):
        harbor.undo(made)
    assert harbor.events() == before


def test_an_undo_of_what_was_never_applied_is_refused(both: Ends) -> None:
    with pytest.raises(Refused, match="no such plan") as no:
        both[1].undo("ab" * 32)
    assert no.value.status == 404


def test_what_one_edit_refuses_undoes_the_whole(both: Ends) -> None:
    _, harbor = both
    other = Id(TENANT, "node", "01OTHER")
    harbor.edit({"name": "kite"}, other)

    def route(db: sqlite3.Connection, one: Id) -> tuple[None, Sequence[journal.Log]]:
        if one == other:
            raise Refused("there is no such node", 404)
        return None, ()

    harbor.disputes = Disputes(TENANT, harbor.journal, harbor.shared, route)
    alder = both[0]
    alder.edit({"name": "kestrel"}, other)
    together(alder, harbor)
    before = harbor.events()
    with pytest.raises(Refused):
        harbor.apply()
    assert harbor.events() == before
    assert len(harbor.plan.steps) == 3


def test_what_is_remembered_is_found_again_by_the_heads(both: Ends) -> None:
    _, harbor = both
    first = harbor.disputes.look(harbor.db)
    assert harbor.disputes.look(harbor.db) == first
    harbor.edit({"notes": "frozen"})
    assert [one.place.pointer for one in harbor.disputes.look(harbor.db).plan.steps] == ["name"]


def test_only_the_nodes_that_were_asked_for_are_in_the_plan(both: Ends) -> None:
    _, harbor = both
    assert len(harbor.disputes.look(harbor.db, frozenset({"01DRONE"})).plan.steps) == 2
    assert harbor.disputes.look(harbor.db, frozenset({"01OTHER"})).plan.steps == ()


def test_a_word_without_authority_is_a_refused_step_and_the_same_at_both_ends(both: Ends) -> None:
    alder, harbor = both
    alder.edit({"target_version": "1.5"})  # before the epoch, and unseen when it began
    claim = Claim(1, 1, 1, Cause.ACCEPTED, Terms(), (), 0, 0, "Bob", "ours")
    state = State({("01DRONE", alder.writer): {(1, 1): claim}}, {})
    for end, here in ((alder, alder.writer), (harbor, HUB)):
        end.shared.rights = Rights(
            lambda: state,
            here,
            lambda node_id: alder.writer,
            lambda place: Names("harbor", "alder"),
            lambda writer: writer == harbor.writer,
        )
    harbor.edit({"target_version": "1.4"})
    together(alder, harbor)
    assert alder.plan == harbor.plan
    (refused,) = harbor.plan.of(Sort.REFUSED)
    assert (refused.rule, [one.value for one in refused.words]) == (Rule.PARKED, ["1.4", "1.5"])
    assert "without having seen it" in refused.why
    with pytest.raises(Refused, match="cannot be settled here"):
        harbor.apply({refused.id: 1})
    assert len(harbor.plan.of(Sort.PERSON)) == 2  # a name and notes are nobody's to command


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.store.test_disputes import End
harbor = End(Path(sys.argv[1]), "harbor", owner=True)
edit, left = harbor.shared.edit, [int(sys.argv[2])]
def killed(*args, **more):
    made = edit(*args, **more)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return made
harbor.shared.edit = killed
harbor.apply()
"""


@pytest.mark.parametrize("edits", [1, 2, 3])
def test_a_kill_in_the_middle_leaves_nothing_half_done(tmp_path: Path, edits: int) -> None:
    alder, harbor = ends(tmp_path)
    nodes = [Id(TENANT, "node", f"01NODE{number}") for number in range(3)]
    for one in nodes:
        alder.edit({"name": "north"}, one)
        harbor.edit({"name": "south"}, one)
    together(alder, harbor)
    made, before = harbor.plan, harbor.events()
    harbor.close()
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(edits)]
    ended = subprocess.run(command, check=False, capture_output=True, cwd=Path(__file__).parents[2], env=os.environ)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    again = End(tmp_path, "harbor", owner=True)
    assert (again.plan, again.events()) == (made, before)
    again.apply()
    assert again.plan.steps == ()
    again.close()
    alder.close()


@pytest.mark.parametrize("scale", [300])
def test_a_large_plan_is_applied_as_one(tmp_path: Path, scale: int) -> None:
    alder, harbor = ends(tmp_path)
    for number in range(scale):
        one = Id(TENANT, "node", f"01NODE{number:04}")
        alder.edit({"name": f"north {number}"}, one)
        harbor.edit({"name": f"south {number}"}, one)
    together(alder, harbor)
    made = harbor.apply()
    together(alder, harbor)
    assert alder.plan.steps == harbor.plan.steps == ()
    alder.bring(harbor)
    harbor.undo(made)
    alder.close()
    harbor.close()


# -- any interleaving ------------------------------------------------------------------------------------------

edits = st.tuples(
    st.sampled_from(["alder", "harbor"]),
    st.sampled_from(["name", "notes", "tags/scout", "min_battery_pct"]),
    st.integers(0, 3),
)
steps = st.one_of(edits, edits, edits, st.sampled_from(["up", "down", "rotate"]))
VALUES: Mapping[str, Sequence[Value]] = {
    "name": ("a", "b", " a", None),
    "notes": ("x", "y", "", None),
    "tags/scout": (True, None, True, None),
    "min_battery_pct": (10, 20, 10.0, None),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=2, max_size=25), st.data())
def test_any_interleaving_ends_in_one_plan_and_a_part_undone_in_the_former_state(
    happened: list[tuple[str, str, int] | str], data: st.DataObject
) -> None:
    root = memory_folder()
    alder, harbor = ends(root)
    try:
        for one in happened:
            match one:
                case "up":
                    harbor.bring(alder)
                case "down":
                    alder.bring(harbor)
                case "rotate":
                    if harbor.values():
                        harbor.rotate()
                case str():
                    pass
                case (where, pointer, value):
                    (alder if where == "alder" else harbor).edit({pointer: VALUES[pointer][value]})
        together(alder, harbor)
        assert alder.plan == harbor.plan
        flags = harbor.db.execute("SELECT saved, disputed FROM document").fetchall()
        assert all(document.is_disputed(saved) == bool(disputed) for saved, disputed in flags)
        shown = document.look(harbor.db, DRONE)
        assert {one.place.pointer for one in harbor.plan.steps} == {one.pointer for one in shown.conflicts}
        if not harbor.plan.steps:
            return
        at = data.draw(st.sampled_from([alder, harbor]), label="decided at")
        made = at.plan
        taken = {
            one.id: data.draw(st.integers(-1, len(one.words) - 1), label=one.place.pointer) for one in made.steps
        } | {made.steps[0].id: made.steps[0].choice or 0}
        before = at.values()
        at.apply(taken)
        together(alder, harbor)
        assert alder.plan == harbor.plan
        assert {one.id for one in alder.plan.steps} == {one for one, choice in taken.items() if choice < 0}
        other = data.draw(st.sampled_from([alder, harbor]), label="undone at")
        if other is at:
            other.undo(made.hash)
            together(alder, harbor)
            assert alder.values() == harbor.values() == before
            assert alder.plan == harbor.plan
    finally:
        alder.close()
        harbor.close()
        shutil.rmtree(root)


# -- an older database -----------------------------------------------------------------------------------------


def test_an_older_database_finds_out_what_is_open_at_its_upgrade(both: Ends, tmp_path: Path) -> None:
    _, harbor = both
    harbor.edit({"name": "calm"}, Id(TENANT, "node", "01CALM"))
    older = tmp_path / "older.db"
    migrations.upgrade(older, "0003")
    rows = harbor.db.execute("SELECT tenant, kind, id, generation, heads, changes, saved FROM document").fetchall()
    with closing(sqlite3.connect(older, isolation_level=None)) as db:
        db.executemany("INSERT INTO document VALUES (?,?,?,?,?,?,?)", rows)
    upgrade(older)
    bring_up(older)
    with closing(sqlite3.connect(older)) as db:
        found = dict(db.execute("SELECT id, disputed FROM document").fetchall())
    assert found == {"01DRONE": 1, "01CALM": 0}


def test_a_change_that_others_said_sets_the_flag(both: Ends) -> None:
    alder, harbor = both
    flags = [box.db.execute("SELECT disputed FROM document").fetchall() for box in both]
    assert flags == [[(1,)], [(1,)]]
    harbor.apply()
    together(alder, harbor)
    assert [box.db.execute("SELECT disputed FROM document").fetchall() for box in both] == [[(0,)], [(0,)]]
    assert any(isinstance(one.body, DocumentChanged) for one in harbor.events())
    assert msgspec.json.encode(harbor.plan)
