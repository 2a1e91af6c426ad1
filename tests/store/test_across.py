"""Who looks across all tenants, in what the roster of another tenant's sites is made of."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fleet.limits import SECOND
from fleet.people import ALL
from store import roster
from store.database import connect
from store.folder import bring_up

NOW_NS = 1_795_000_000 * SECOND
ACCOUNT = (
    "INSERT INTO account (name, tenant, role, password_hash, created_ns, disabled, sites, changed_by)"
    " VALUES (?,?,?,?,0,?,?,'olga')"
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    bring_up(tmp_path / "site.db")
    with closing(connect(tmp_path / "site.db")) as made:
        yield made


def account(db: sqlite3.Connection, name: str, role: str, sites: str | None, disabled: bool = False) -> None:
    db.execute(
        ACCOUNT, (name, "default", role, f"hash of {name}", disabled, roster.bind(None, [sites] if sites else []))
    )


def names(db: sqlite3.Connection, site: str = "birch") -> dict[str, str]:
    """Who is for a site of tropic, and the hash that goes along."""
    found = roster.entries_for(roster.bounded(db, "tropic"), site)
    return {one.name: one.password_hash for one in found if not one.gone}


def test_those_who_look_across_and_are_for_all_sites_are_meant(db: sqlite3.Connection) -> None:
    for name, role, sites in (
        ("olga", "OPERATOR_ADMIN", ALL),
        ("oscar", "OPERATOR", ALL),
        ("otto", "OPERATOR", "alder"),  # a site of the first tenant
        ("ossi", "OPERATOR", None),
        ("vera", "VIEWER", ALL),
        ("adam", "ADMIN", ALL),
    ):
        account(db, name, role, sites)
    assert [one.entry.name for one in roster.across(db)] == ["olga", "oscar"]


def test_at_another_tenant_they_are_in_the_roster_and_each_change_is_a_version(db: sqlite3.Connection) -> None:
    olga = roster.Bounded(roster.Entry("olga", "OPERATOR_ADMIN", False, False, "olga", "hash"), roster.Bound((ALL,)))
    assert not roster.take_across(db, (), NOW_NS), "nobody, as before: no version, no roster"
    assert roster.made(db) == (0, 0)
    assert roster.take_across(db, (olga,), NOW_NS)
    version, _ = roster.made(db)
    assert names(db) == {"olga": "hash"}
    assert not roster.take_across(db, (olga,), NOW_NS)
    assert roster.made(db)[0] == version
    assert roster.take_across(db, (), NOW_NS), "as of a folder that is a hub of its own now"
    assert roster.made(db)[0] > version
    assert names(db) == {}


def test_a_name_of_its_own_outweighs_theirs(db: sqlite3.Connection) -> None:
    db.execute(ACCOUNT, ("olga", "tropic", "VIEWER", "tropic's own", False, roster.bind(None, ["birch"])))
    olga = roster.Bounded(roster.Entry("olga", "OPERATOR_ADMIN", False, False, "olga", "hash"), roster.Bound((ALL,)))
    roster.take_across(db, (olga,), NOW_NS)
    assert names(db) == {"olga": "tropic's own"}
    assert names(db, "fir") == {}
