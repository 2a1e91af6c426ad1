"""Authority over real documents: what may be written at a site, what of the hub's is parked, and what is said again."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from fleet.authority import HUB, Cause, Expiry, Homecoming, Names
from fleet.document import Author, Id, Kind, Stamped, Value
from fleet.events import AuthorityBegan, AuthorityGranted, AuthoritySettled, Body, Clock, DocumentChanged, Recorded
from fleet.limits import MINUTE
from fleet.node import Master
from fleet.projections import authority
from store import document
from store.document import Made, Merged, Refused, Work
from store.rights import Rights
from tests.store.alder import TENANT, WRITER, Alder

TOWARDS = "01TWARDS000000000000000000"  # the hub's log towards alder
KESTREL, NORTH, SOUTH = Id(TENANT, Kind.NODE, "01KESTREL00000000000000001"), "north", "south"


def check(work: Sequence[Work]) -> list[Merged | None]:
    return [document.merge(one.saved, one.changes, one.doubles) for one in work]


class Harbor:
    """The hub's copy of one document, and what it writes into it."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:")
        self.db.executescript(document.TABLES)
        self.hlc = 1 << 50

    def hears(self, facts: Sequence[Recorded]) -> None:
        changes = [fact.body for fact in facts if isinstance(fact.body, DocumentChanged)]
        document.receive(self.db, [document.Incoming(KESTREL, one.generation, one.change) for one in changes], check, 0)

    def writes(self, epoch: int, values: Mapping[str, Value], under: str = NORTH) -> list[Recorded]:
        self.hlc += 1
        stamp = Stamped(None, "Bob", TOWARDS, 1, self.hlc, 0, Clock.SYNCED, epoch, under if epoch else "")
        made = document.edit(self.db, KESTREL, values, stamp)
        assert isinstance(made, Made)
        return [
            fact(TOWARDS, self.hlc, self.hlc, KESTREL.id, DocumentChanged(KESTREL.kind, KESTREL.id, 0, change))
            for change in made.changes
        ]


def fact(writer: str, seq: int, hlc: int, subject: str, body: Body) -> Recorded:
    return Recorded(0, writer, 1, seq, hlc, 0, Clock.SYNCED, body.KIND, 1, subject, body)


class Site:
    """Alder with its rights; `began` is what its log says of authority."""

    def __init__(self, root: Path) -> None:
        self.alder, self.harbor = Alder(root), Harbor()
        self.state = authority.EMPTY
        names = Names("harbor", "alder")
        self.shared = self.alder.shared
        self.shared.rights = Rights(
            lambda: self.state, WRITER, lambda node_id: WRITER, lambda place: names, lambda writer: writer != WRITER
        )
        self.said: list[Recorded] = []
        self.alder.journal.listen(self.said.extend)

    def began(self, epoch: int, cause: Cause, master: Master, subject: str = NORTH, home: str = "hand back") -> None:
        seen = ((WRITER, 1, self.alder.journal.stamp()), (TOWARDS, 1, self.harbor.hlc))
        terms = (master, (), MINUTE, Expiry.CARRY_ON, Homecoming(home))
        given = AuthorityGranted(WRITER, 1, Master.GLOBAL, (), MINUTE, Expiry.CARRY_ON, home, "Bob", "why")
        taken = AuthorityBegan(epoch, cause, *terms, seen, 1)
        self.state = authority.advance(
            self.state, [fact(TOWARDS, 1, 1, subject, given), fact(WRITER, 100 + epoch, 1, subject, taken)]
        )

    def write(self, **values: Value) -> Made | Refused | None:
        return self.alder.site.submit(lambda db: self.shared.edit(db, KESTREL, values, "Alice")).result()

    def settle(self, pointer: str, decision: str) -> Made | Refused | None:
        return self.alder.site.submit(
            lambda db: self.shared.settle(db, KESTREL, pointer, 0, decision, "Alice", "so it is")
        ).result()

    def hears(self, facts: Sequence[Recorded]) -> None:
        self.alder.site.submit(lambda db: self.shared.fold(db, TENANT, facts, 0, None)).result()

    def holds(self, pointer: str = "target_version") -> Value:
        found = self.alder.site.submit(lambda db: self.shared.look(db, KESTREL)).result().values.get(pointer)
        return found.value if found else None

    def parked(self) -> list[Value]:
        judged = self.alder.site.submit(lambda db: self.shared.judged(db, KESTREL)).result()
        return [one.stamped.value for one in judged.parked]

    def words(self, pointer: str) -> list[Stamped]:
        return self.alder.site.submit(lambda db: document.values(db, KESTREL)).result().get(pointer, [])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A drone of the domain north, for which harbor wants version 1."""
    made = Site(tmp_path / "alder")
    with contextlib.closing(made.harbor.db):
        made.write(name="kestrel", domain_id=NORTH)
        made.harbor.hears(made.said)
        made.hears(made.harbor.writes(0, {"target_version": "1"}))
        made.began(1, Cause.ACCEPTED, Master.GLOBAL)
        yield made
        made.shared.close()
        made.alder.stop()


def test_without_grants_everybody_writes_as_ever(site: Site) -> None:
    site.state = authority.EMPTY
    assert isinstance(site.write(target_version="2"), Made)
    assert site.words("target_version")[0].authority == 0


def test_a_site_that_does_not_decide_is_refused_what_is_wanted_and_nothing_else(site: Site) -> None:
    refused = site.write(target_version="2")
    assert isinstance(refused, Refused)
    assert refused.reason.startswith("harbor decides what is wanted here (epoch 1)")
    assert isinstance(site.write(notes="its arm is bent"), Made)
    assert site.holds() == "1"


def test_a_word_carries_the_epoch_under_which_it_was_written(site: Site) -> None:
    site.began(2, Cause.TAKEN, Master.LOCAL)
    site.write(min_battery_pct=30)
    assert [(one.authority, one.under) for one in site.words("min_battery_pct")] == [(2, NORTH)]


def test_what_a_stale_word_wrote_over_is_said_again_in_the_transaction_that_merges_it(site: Site) -> None:
    site.began(2, Cause.TAKEN, Master.LOCAL)
    site.hears(site.harbor.writes(1, {"target_version": "9"}))  # harbor had the right to when it wrote 1
    assert site.holds() == "1"
    assert site.parked() == ["9"]
    site.harbor.hears(site.said)
    there = document.values(site.harbor.db, KESTREL)["target_version"]
    assert sorted(str(one.value) for one in there) == ["1", "9"]


def test_a_stale_word_that_comes_after_it_was_handed_back_is_parked_all_the_same(site: Site) -> None:
    late = None
    site.began(2, Cause.TAKEN, Master.LOCAL)
    before = site.harbor.hlc
    late = site.harbor.writes(1, {"target_version": "9"})
    site.harbor.hlc, after = before, site.harbor.hlc
    site.began(3, Cause.RETURNED, Master.GLOBAL)
    site.harbor.hlc = after
    site.hears(late)
    assert site.holds() == "1"
    assert site.parked() == ["9"]
    site.hears(site.harbor.writes(3, {"target_version": "3"}))
    assert site.holds() == "3"


def test_an_ordinary_edit_leaves_what_is_parked_where_it_is(site: Site) -> None:
    site.began(2, Cause.TAKEN, Master.LOCAL)
    site.hears(site.harbor.writes(1, {"target_version": "9"}))
    site.write(target_version="2")
    assert site.holds() == "2"
    assert site.parked() == ["9"]


@pytest.mark.parametrize(("decision", "holds"), [("take", "9"), ("drop", "1")])
def test_a_parked_word_is_taken_or_let_go_and_the_log_says_who_and_why(site: Site, decision: str, holds: str) -> None:
    site.began(2, Cause.TAKEN, Master.LOCAL)
    site.hears(site.harbor.writes(1, {"target_version": "9"}))
    assert isinstance(site.settle("target_version", decision), Made)
    assert site.holds() == holds
    assert site.parked() == []
    (told,) = [one.body for one in site.said if isinstance(one.body, AuthoritySettled)]
    assert told == AuthoritySettled("target_version", "9", "Bob", decision, "Alice", "so it is")
    assert isinstance(site.settle("target_version", decision), Refused)


def test_a_parked_word_is_settled_by_whoever_decides_only(site: Site) -> None:
    site.began(2, Cause.TAKEN, Master.LOCAL)
    site.hears(site.harbor.writes(1, {"target_version": "9"}))
    site.began(3, Cause.RETURNED, Master.GLOBAL)
    assert isinstance(site.settle("target_version", "take"), Refused)
    assert site.parked() == ["9"]


def test_a_node_that_moves_takes_along_what_is_wanted_under_its_new_authority(site: Site) -> None:
    site.began(2, Cause.TAKEN, Master.LOCAL)
    site.began(1, Cause.ACCEPTED, Master.LOCAL, SOUTH)
    assert isinstance(site.write(domain_id=SOUTH), Made)
    assert site.holds() == "1"
    assert [(one.value, one.authority, one.under) for one in site.words("target_version")] == [("1", 1, SOUTH)]


def test_nobody_moves_a_node_to_where_somebody_else_decides(site: Site) -> None:
    site.began(2, Cause.TAKEN, Master.LOCAL)
    site.began(1, Cause.ACCEPTED, Master.GLOBAL, SOUTH)
    assert isinstance(site.write(domain_id=SOUTH), Refused)


def test_a_node_with_a_line_of_its_own_is_decided_on_by_itself(site: Site) -> None:
    site.began(1, Cause.ACCEPTED, Master.LOCAL, KESTREL.id)
    assert isinstance(site.write(target_version="2"), Made)
    assert site.words("target_version")[0].under == KESTREL.id
    assert Author(WRITER, 1) == site.words("target_version")[0].author
    assert HUB not in site.words("target_version")[0].writer
