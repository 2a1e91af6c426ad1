"""Bundles and domains are common: what is written in one is said in the log towards every site, once."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fleet.document import Id, Kind
from fleet.envelope import Log
from fleet.events import DocumentChanged
from fleet.limits import SECOND
from fleet.people import Refused
from store import document, journal
from store.clock import WallClock
from store.database import connect_reader
from store.policies import Policies
from store.shared import Shared
from store.then import Documents
from tests.store.alder import TENANT, Alder

TOWARDS = tuple(Log(TENANT, f"01TOWARDS{name}".ljust(26, "0"), 1) for name in ("ALDER", "BIRCH"))


class Harbor(Alder):
    """A box that writes logs towards two sites."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.shared = Shared(self.journal, WallClock(), owner=True)

        def begin(db: sqlite3.Connection) -> None:
            for log in TOWARDS:
                journal.start_log(db, log, self.public_key, 1)

        self.site.submit(begin).result()
        self.policies = Policies(self.site, self.shared, WallClock(), TENANT, lambda db: TOWARDS)

    def stop(self) -> None:
        self.shared.close()
        super().stop()

    def said(self, log: Log) -> list[DocumentChanged]:
        with closing(connect_reader(self.folder.site_db)) as db:
            every = [one for batch in journal.read(db) for one in batch]
        return [one.body for one in every if one.writer == log.writer and isinstance(one.body, DocumentChanged)]

    def view(self, name: str) -> dict[str, object]:
        with closing(connect_reader(self.folder.site_db)) as db:
            view = document.look(db, Id(TENANT, Kind.BUNDLE, name))
        return {field: one.value for field, one in view.values.items() if one.value is not None}


@pytest.fixture
def harbor(tmp_path: Path) -> Iterator[Harbor]:
    with Harbor(tmp_path / "harbor") as made:
        yield made


async def test_what_is_written_is_said_once_and_again_towards_each_site(harbor: Harbor) -> None:
    name = await harbor.policies.create("alice", Kind.BUNDLE, "scouts")
    fields = {"target_version": "1.5", "requires_online": "yes", "min_battery_pct": "20", "constraints/temp_c": "..60"}
    await harbor.policies.change("alice", Kind.BUNDLE, name, fields)
    assert harbor.view(name) == {
        "name": "scouts",
        "target_version": "1.5",
        "requires_online": True,
        "min_battery_pct": 20,
        "constraints/temp_c": "..60",
    }
    own = harbor.said(harbor.log)
    assert [one.repeated for one in own] == [False, False]
    for log in TOWARDS:
        assert [(one.change, one.repeated) for one in harbor.said(log)] == [(one.change, True) for one in own]


async def test_an_empty_text_takes_a_field_away(harbor: Harbor) -> None:
    name = await harbor.policies.create("alice", Kind.BUNDLE, "scouts")
    await harbor.policies.change("alice", Kind.BUNDLE, name, {"target_version": "1.5", "requires_online": "no"})
    await harbor.policies.change("alice", Kind.BUNDLE, name, {"target_version": "", "requires_online": ""})
    assert harbor.view(name) == {"name": "scouts"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"constraints/temp_c": "cool"}, "is no range; write 10..80"),
        ({"constraints/Temp C": "..60"}, "is no metric; write its name"),
        ({"constraints/": "..60"}, "is no metric"),
        ({"min_battery_pct": "101"}, "a number from 0 to 100"),
        ({"min_battery_pct": "full"}, "is not a number of percent"),
        ({"name": " "}, "a name has 1 to 128 printable characters"),
        ({"target_version": "x" * 200}, "text of at most 128 bytes"),
        ({"owner": "mallory"}, "is not a field that can be changed here"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_nothing_of_it_is_written(
    harbor: Harbor, fields: dict[str, str], words: str
) -> None:
    name = await harbor.policies.create("alice", Kind.BUNDLE, "scouts")
    with pytest.raises(Refused, match=words):
        await harbor.policies.change("mallory", Kind.BUNDLE, name, {"notes": "mine", **fields})
    assert harbor.view(name) == {"name": "scouts"}


async def test_a_name_is_given_once_and_a_domain_may_have_it_too(harbor: Harbor) -> None:
    await harbor.policies.create("alice", Kind.BUNDLE, "scouts")
    with pytest.raises(Refused, match="there is a policy bundle scouts already"):
        await harbor.policies.create("bob", Kind.BUNDLE, " scouts ")
    await harbor.policies.create("bob", Kind.DOMAIN, "scouts")
    with pytest.raises(Refused, match="there is no such domain"):
        await harbor.policies.change("bob", Kind.DOMAIN, "01NOWHERE", {"notes": "x"})


async def test_what_one_site_said_is_passed_on_to_the_others_and_not_twice(tmp_path: Path, harbor: Harbor) -> None:
    with Alder(tmp_path / "alder") as alder:
        here = Policies(alder.site, alder.shared, WallClock(), TENANT)
        name = await here.create("bob", Kind.BUNDLE, "masts")
        await here.change("bob", Kind.BUNDLE, name, {"target_version": "3.1"})
        with closing(connect_reader(alder.folder.site_db)) as db:
            facts = [one for batch in journal.read(db) for one in batch]

    def take(db: sqlite3.Connection) -> None:
        before = harbor.shared.common(db, TENANT, facts)
        assert not harbor.shared.fold(db, TENANT, facts, 1, TOWARDS[0]).refused
        harbor.shared.pass_on(db, before, TOWARDS[1:])

    for _ in range(2):
        harbor.site.submit(take).result()
    assert harbor.view(name) == {"name": "masts", "target_version": "3.1"}
    assert harbor.said(TOWARDS[0]) == []
    assert [one.repeated for one in harbor.said(TOWARDS[1])] == [True, True]


async def test_a_comparison_with_a_site_covers_every_bundle_and_only_its_own_nodes(harbor: Harbor) -> None:
    bundle = await harbor.policies.create("alice", Kind.BUNDLE, "scouts")

    def job(db: sqlite3.Connection) -> None:
        for node in ("KESTREL", "OSPREY"):
            harbor.shared.edit(db, Id(TENANT, Kind.NODE, node), {"name": node.lower()}, "alice", TOWARDS[0])
        listed = harbor.shared.listed(db, TENANT, frozenset({"KESTREL"}))
        assert [name.partition("#")[0] for _, name, _ in listed] == [bundle, "KESTREL"]

    harbor.site.submit(job).result()


async def test_what_was_written_at_a_moment_is_read_from_the_document_itself(harbor: Harbor) -> None:
    name = await harbor.policies.create("alice", Kind.BUNDLE, "Scouts")
    await harbor.policies.change("alice", Kind.BUNDLE, name, {"notes": "before the storm"})
    then = Documents(harbor.folder.site_db, TENANT, lambda writer: "harbor", lambda: ({}, 0))
    between = time.time_ns()
    await asyncio.sleep(0.005)  # a stamp counts milliseconds
    await harbor.policies.change("alice", Kind.BUNDLE, name, {"notes": "after the storm"})
    view, now = then.one(Kind.BUNDLE, name, between), then.one(Kind.BUNDLE, name, time.time_ns())
    assert view is not None
    assert now is not None
    assert (view.values["notes"].value, now.values["notes"].value) == ("before the storm", "after the storm")
    assert list(then.every(Kind.BUNDLE, between)) == [name]
    assert then.every(Kind.BUNDLE, 1_600_000_000 * SECOND) == {}
