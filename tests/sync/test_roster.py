"""People of the hub at its sites: told at the begin of each session and when they change, by stick as well, signed, and
never older than what a site has."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import appliance.stick as site_stick
import hub.stick as hub_stick
from fleet import events
from fleet.limits import MS
from fleet.people import ALL, Role
from hub.harbor import Me
from store import journal, roster
from store.keys import hash_password, password_matches
from sync import messages
from sync.link import Parcel
from sync.messages import LogHead, RosterHeld, RosterOffered
from tests.simulation.boxes import TENANT, SimClock, SimHub, SimSite
from tests.simulation.world import START_NS

HUB, ALDER, BIRCH = "01HARBOR000000000000000000", "01ALDER0000000000000000000", "01BIRCH0000000000000000000"
HASH = hash_password("correct horse battery")
_PERSON = (
    "INSERT INTO account (name, tenant, role, password_hash, created_ns, disabled, sites, changed_by)"
    " VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET role=excluded.role, password_hash=excluded.password_hash,"
    " disabled=excluded.disabled, sites=excluded.sites, changed_by=excluded.changed_by"
)


class Fjord:
    """Harbor, alder and birch, and a line to each that a test cuts."""

    def __init__(self, root: Path) -> None:
        self.now = START_NS
        clock = SimClock(lambda: self.now)
        self.hub = SimHub(root / "hub", "harbor", HUB, clock, random.Random(1))
        self.sites: dict[str, SimSite] = {}
        self.down: list[Parcel] = []
        self.said: list[tuple[str, Any]] = []
        self.ended: list[frozenset[str]] = []
        for name, writer in (("alder", ALDER), ("birch", BIRCH)):
            self.hub.invite(name, name)
            self.sites[writer] = SimSite(root / name, name, writer, clock, random.Random(name), name)
        self.alder.shelf.people = self.ended.append

    @property
    def alder(self) -> SimSite:
        return self.sites[ALDER]

    @property
    def birch(self) -> SimSite:
        return self.sites[BIRCH]

    def talk(self, turns: int = 40, *, cut: frozenset[str] = frozenset()) -> None:
        for _ in range(turns):
            self.now += 100 * MS
            up: list[Parcel] = []
            for writer, site in self.sites.items():
                heard = [one for one in self.down if one.peer == writer and writer not in cut]
                up += site.turn(heard, writer not in cut, self.now)
            self.down = self.hub.turn(up, self.now)
            self.said += [(one.peer, messages.decode(one.data)) for one in (*up, *self.down)]

    def person(
        self, name: str, role: Role, *sites: str, hashed: str = HASH, disabled: bool = False, by: str = "Alice"
    ) -> None:
        def job(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT sites FROM account WHERE name=?", (name,)).fetchone()
            column = roster.bind(row[0] if row else None, sites)
            db.execute(_PERSON, (name, TENANT, role.name, hashed, self.now, disabled, column, by))
            roster.changed(db, self.now)

        self.hub.run(job)

    def local(self, site: SimSite, name: str) -> None:
        site.run(lambda db: db.execute(_PERSON, (name, TENANT, "VIEWER", "local", 1, False, None, "Bob")))

    def close(self) -> None:
        self.hub.close()
        for site in self.sites.values():
            site.close()


def people(site: SimSite) -> dict[str, tuple[str, bool, str | None]]:
    rows = site.db.execute("SELECT name, role, disabled, origin FROM account ORDER BY name").fetchall()
    return {name: (role, bool(disabled), origin) for name, role, disabled, origin in rows}


def told(site: SimSite, kind: type[events.Body]) -> list[Any]:
    return [one.body for batch in journal.read(site.db) for one in batch if isinstance(one.body, kind)]


def offered(fjord: Fjord, writer: str) -> list[RosterOffered]:
    return [said for peer, said in fjord.said if peer == writer and isinstance(said, RosterOffered)]


@pytest.fixture
def fjord(tmp_path: Path) -> Iterator[Fjord]:
    made = Fjord(tmp_path)
    yield made
    made.close()


def test_people_come_to_the_sites_that_they_are_for(fjord: Fjord) -> None:
    fjord.person("olga", Role.OPERATOR, ALL)
    fjord.person("bob", Role.VIEWER, "birch")
    fjord.person("alice", Role.OPERATOR_ADMIN)
    fjord.talk()
    assert people(fjord.alder) == {"olga": ("OPERATOR", False, "harbor")}
    assert people(fjord.birch) == {"bob": ("VIEWER", False, "harbor"), "olga": ("OPERATOR", False, "harbor")}
    stored = fjord.alder.db.execute("SELECT password_hash FROM account").fetchone()[0]
    assert password_matches(stored, "correct horse battery"), "as it does with no line to anybody"
    (event,) = told(fjord.alder, events.RosterTaken)
    assert (event.hub, event.said) == ("harbor", (("olga", "added as operator", "Alice"),))


def test_a_hub_without_people_for_sites_says_nothing(fjord: Fjord) -> None:
    fjord.talk()
    assert offered(fjord, ALDER) == []


def test_who_is_closed_at_the_hub_is_out_at_a_site_in_session_within_a_second(fjord: Fjord) -> None:
    fjord.person("mallory", Role.OPERATOR, ALL)
    fjord.talk()
    session = "INSERT INTO session VALUES (x'00', 'mallory', 1, 2, '')"
    fjord.alder.run(lambda db: db.execute(session))
    fjord.ended.clear()
    fjord.person("mallory", Role.OPERATOR, ALL, disabled=True)
    fjord.talk(3)  # 300 ms
    assert people(fjord.alder) == {"mallory": ("OPERATOR", True, "harbor")}
    assert fjord.alder.db.execute("SELECT count(*) FROM session").fetchone() == (0,)
    assert fjord.ended == [frozenset({"mallory"})]
    assert told(fjord.alder, events.RosterTaken)[-1].said == (("mallory", "closed", "Alice"),)
    assert fjord.alder.db.execute("SELECT password_hash FROM account").fetchone() == ("",)


def test_who_is_closed_while_a_site_is_cut_off_is_out_at_the_next_contact(fjord: Fjord) -> None:
    fjord.person("mallory", Role.OPERATOR, ALL)
    fjord.talk()
    heard_ns = fjord.now
    fjord.talk(200, cut=frozenset({ALDER}))
    fjord.person("mallory", Role.OPERATOR, ALL, disabled=True)
    fjord.talk(200, cut=frozenset({ALDER}))
    assert people(fjord.alder) == {"mallory": ("OPERATOR", False, "harbor")}
    here = roster.here(fjord.alder.db)
    assert here is not None
    assert here.heard_ns <= heard_ns + 1_000 * MS, "a site that has lost its hub knows how old its list is"
    fjord.talk(200)
    assert people(fjord.alder) == {"mallory": ("OPERATOR", True, "harbor")}


def test_a_site_that_an_account_is_no_longer_for_hears_by_whom(fjord: Fjord) -> None:
    fjord.person("olga", Role.OPERATOR, ALL)
    fjord.talk()
    fjord.person("olga", Role.OPERATOR, "birch", by="Bob")
    fjord.talk()
    assert people(fjord.alder) == {}
    assert told(fjord.alder, events.RosterTaken)[-1].said == (("olga", "removed", "Bob"),)
    assert people(fjord.birch) == {"olga": ("OPERATOR", False, "harbor")}


def test_an_account_that_was_made_here_keeps_its_name(fjord: Fjord) -> None:
    fjord.local(fjord.alder, "olga")
    fjord.person("olga", Role.ADMIN, ALL)
    fjord.talk()
    assert people(fjord.alder) == {"olga": ("VIEWER", False, None)}
    (event,) = told(fjord.alder, events.RosterTaken)
    assert (event.said, event.clashes) == ((), ("olga",))
    here = roster.here(fjord.alder.db)
    assert here is not None
    assert here.clashes == ("olga",)


def test_nobody_becomes_the_sealed_account_from_afar(fjord: Fjord) -> None:
    fjord.person("break-glass", Role.ADMIN, ALL)
    fjord.talk()
    assert people(fjord.alder) == {}


def test_roles_and_passwords_follow_and_a_role_that_is_newer_than_the_site_opens_nothing(fjord: Fjord) -> None:
    fjord.person("olga", Role.VIEWER, ALL)
    fjord.talk()
    fjord.person("olga", Role.ADMIN, ALL, hashed=hash_password("another long password"))
    fjord.talk()
    assert people(fjord.alder)["olga"] == ("ADMIN", False, "harbor")
    assert [what for _, what, _ in told(fjord.alder, events.RosterTaken)[-1].said] == [
        "made admin",
        "given a new password",
    ]
    fjord.hub.run(lambda db: db.execute("UPDATE account SET role='AUDITOR'"))
    fjord.hub.run(lambda db: roster.changed(db, fjord.now))
    fjord.talk()
    assert people(fjord.alder)["olga"] == ("VIEWER", True, "harbor")


def test_a_roster_is_said_once_a_session_and_again_only_when_it_was_lost(fjord: Fjord) -> None:
    fjord.person("olga", Role.VIEWER, ALL)
    fjord.talk(200)
    assert len(offered(fjord, ALDER)) == 1
    assert fjord.hub.harbor.sessions[ALDER]._roster_due is False
    fjord.person("olga", Role.ADMIN, ALL)
    fjord.now += 100 * MS
    fjord.down = fjord.hub.turn([], fjord.now)
    fjord.down = [one for one in fjord.down if not isinstance(messages.decode(one.data), RosterOffered)]  # lost
    fjord.talk(20)
    assert people(fjord.alder)["olga"][0] == "VIEWER"
    fjord.talk(60)
    assert people(fjord.alder)["olga"][0] == "ADMIN"


def test_the_hub_knows_who_holds_the_newest(fjord: Fjord) -> None:
    fjord.person("olga", Role.VIEWER, ALL)
    fjord.talk(cut=frozenset({BIRCH}))
    view = roster.hub_view(dict(fjord.hub.db.execute(roster.HELD)))
    assert view is not None
    assert view.held == {ALDER: view.version}


def test_a_hub_that_was_restored_is_refused_its_older_list_and_says_so(fjord: Fjord, tmp_path: Path) -> None:
    fjord.person("mallory", Role.ADMIN, ALL)
    fjord.talk()
    fjord.hub.image(tmp_path / "image")
    fjord.now += 60_000 * MS
    fjord.person("mallory", Role.ADMIN, ALL, disabled=True)
    fjord.talk(300)
    assert people(fjord.alder) == {"mallory": ("ADMIN", True, "harbor")}
    fjord.hub.restore(tmp_path / "image")
    fjord.talk(300)
    assert people(fjord.alder) == {"mallory": ("ADMIN", True, "harbor")}, "she is not let in again"
    (refused, *_) = told(fjord.alder, events.RosterRefused)
    assert "older" in refused.reason
    view = roster.hub_view(dict(fjord.hub.db.execute(roster.HELD)))
    assert view is not None
    assert "older" in view.problems[ALDER]
    fjord.person("bob", Role.VIEWER, ALL)  # any change is newer than both
    fjord.talk()
    assert people(fjord.alder)["bob"] == ("VIEWER", False, "harbor")


def test_people_come_on_a_stick_and_an_older_stick_changes_nothing(fjord: Fjord) -> None:
    fjord.person("mallory", Role.VIEWER, ALL)
    fjord.talk()
    older = _stick(fjord)
    fjord.now += 60_000 * MS
    fjord.person("mallory", Role.VIEWER, ALL, disabled=True)
    newer = _stick(fjord)
    for stick, shut in ((newer, True), (older, True), (newer, True)):
        assert _read(fjord, stick) == ""
        assert people(fjord.alder) == {"mallory": ("VIEWER", shut, "harbor")}


def _stick(fjord: Fjord) -> list[Parcel]:
    me = fjord.hub.harbor.me
    assert isinstance(me, Me)
    heard = (LogHead(fjord.alder.shelf.heard()[0].writer, 1, 0, bytes(32)),)
    return fjord.hub.run(lambda db: hub_stick.take_back(db, me, fjord.hub.shelf, ALDER, heard, fjord.now))


def _read(fjord: Fjord, parcels: list[Parcel]) -> str:
    site = fjord.alder
    bringing = site_stick.Bringing(site.uplink.site.me, site.shelf, fjord.now)
    site.run(lambda db: bringing.feed(db, parcels, fjord.now))
    return bringing.problem


def test_a_file_of_a_site_that_says_who_may_come_in_at_the_hub_means_nothing(fjord: Fjord) -> None:
    fjord.person("olga", Role.VIEWER, ALL)
    fjord.talk()
    parcel = Parcel(ALDER, messages.Lane.CONTROL, messages.encode(offered(fjord, ALDER)[0]))
    before = fjord.hub.db.execute("SELECT * FROM account").fetchall()
    fjord.hub.turn([parcel], fjord.now)
    assert fjord.hub.db.execute("SELECT * FROM account").fetchall() == before


def test_no_hash_of_a_password_stands_in_a_log_or_in_what_is_kept_aside(fjord: Fjord) -> None:
    fjord.person("olga", Role.ADMIN, ALL)
    fjord.talk()
    fjord.person("olga", Role.ADMIN, ALL, hashed=hash_password("another long password"))
    fjord.talk()
    for box in (fjord.hub, fjord.alder, fjord.birch):
        raws = b"".join(raw for (raw,) in box.db.execute("SELECT raw FROM event"))
        held = [value for (value,) in box.db.execute("SELECT value FROM meta")]
        assert b"argon2" not in raws
        assert not any("argon2" in str(value) for value in held)
    assert messages.withheld(messages.encode(offered(fjord, ALDER)[0])[:-3]) == b""


def test_a_sealed_account_that_was_used_is_known_at_the_hub_until_another_one_is_sealed(fjord: Fjord) -> None:
    fjord.talk()
    fjord.alder.write("break-glass", events.GlassSealed("console"), events.GlassBroken("10.0.0.8", 5))
    fjord.talk()
    here = fjord.hub.fleet.sites[ALDER]
    assert here.glass_ns
    assert here.glass_address == "10.0.0.8"
    fjord.hub.restart()
    again = fjord.hub.fleet.sites[ALDER]
    assert (again.glass_ns, again.glass_address) == (here.glass_ns, "10.0.0.8")
    assert fjord.hub.fleet.sites[BIRCH].glass_ns == 0
    fjord.alder.write("break-glass", events.GlassSealed("Alice"))
    fjord.talk(300)
    assert fjord.hub.fleet.sites[ALDER].glass_ns == 0
    fjord.hub.restart()
    assert fjord.hub.fleet.sites[ALDER].glass_ns == 0


def test_a_version_that_cannot_be_is_kept_apart(fjord: Fjord) -> None:
    fjord.talk()
    fence = fjord.alder.uplink.site.fence
    said = messages.encode(RosterHeld(fence, 1 << 63))
    fjord.hub.turn([Parcel(ALDER, messages.Lane.CONTROL, said)], fjord.now)
    assert fjord.hub.aside[-1][2] == "a version of people that cannot be"
