"""The hub grants: to every site, to those that come later, and never without terms and a reason."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from fleet.authority import HUB, Terms
from fleet.envelope import Log
from fleet.events import AuthorityBegan, AuthorityGranted, LogStarted
from fleet.limits import MINUTE, SECOND
from fleet.node import Master
from fleet.people import Identity, Refused, Role
from hub.compose import Hub
from hub.state import SiteHere
from store import journal, keys, peers
from store.database import connect_reader
from store.peers import Peer
from store.rights import Rights
from tests.hub.sites import ALDER, BIRCH, HARBOR
from web.ports import AuthorityTerms

BOB = Identity(name="Bob", role=Role.OPERATOR)
NORTH = "north"


@pytest.fixture
async def harbor(tmp_path: Path) -> AsyncIterator[Hub]:
    hub = Hub(tmp_path / "harbor", HARBOR)
    await hub.start()
    await admitted(hub, ALDER, "alder")
    yield hub
    await hub.stop()


async def admitted(hub: Hub, writer: str, name: str) -> None:
    tenant, key = hub.ground.identity.log.tenant, keys.public_bytes(hub.ground.key)
    towards = Log(tenant, keys.new_ulid(1), 1)

    def job(db: sqlite3.Connection) -> None:
        journal.start_log(db, towards, key, 1)
        hub.ground.journal.stage(writer, LogStarted("towards a site", key), towards)
        peers.save(db, Peer(writer, tenant, name, key, log_writer=towards.writer, log_epoch=1))

    await hub.ground.writer.write(job)
    hub.fleet.sites[writer] = SiteHere(writer=writer, name=name, public_key=key)


def granted(hub: Hub) -> list[AuthorityGranted]:
    with closing(connect_reader(hub.folder.site_db)) as db:
        facts = [one for batch in journal.read(db) for one in batch]
    return [one.body for one in facts if isinstance(one.body, AuthorityGranted)]


async def test_a_domain_is_granted_to_each_site_and_to_one_that_comes_later(harbor: Hub) -> None:
    await harbor.box.grant(BOB, NORTH, AuthorityTerms(master="GLOBAL", lease_ns=MINUTE), "one hand on the helm")
    (told,) = granted(harbor)
    assert (told.site, told.epoch, told.master, told.lease_ns, told.actor) == (ALDER, 1, "GLOBAL", MINUTE, "Bob")
    await admitted(harbor, BIRCH, "birch")
    for _ in range(2):
        await harbor.granting.complete()
        await asyncio.sleep(0)
    assert [one.site for one in granted(harbor)] == [ALDER, BIRCH]
    assert "told again to a site that came later" in granted(harbor)[1].why


async def test_until_the_site_takes_it_up_it_is_pending(harbor: Hub) -> None:
    await harbor.box.grant(BOB, NORTH, AuthorityTerms(master="LOCAL"), "it knows its hills best")
    (line,) = (await harbor.box.authority(BOB, NORTH)).lines
    assert (line.site, line.epoch, line.pending) == ("alder", 0, "the site decides")


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        (AuthorityTerms(master="KING"), "so"),
        (AuthorityTerms(master="GLOBAL", lease_ns=SECOND), "so"),
        (AuthorityTerms(master="GLOBAL", on_expiry="panic"), "so"),
        (AuthorityTerms(master="GLOBAL"), "  "),
    ],
)
async def test_terms_that_will_not_do_are_refused_with_a_sentence(harbor: Hub, terms: AuthorityTerms, why: str) -> None:
    with pytest.raises(Refused) as refused:
        await harbor.box.grant(BOB, NORTH, terms, why)
    assert refused.value.status == 422
    assert granted(harbor) == []


async def test_a_site_cannot_grant_in_the_hubs_name(harbor: Hub) -> None:
    """What birch says of alder in its own log is birch's, and no grant."""
    rights = harbor.granting.rights
    await harbor.granting.grant("Bob", NORTH, Terms(Master.GLOBAL), "so")
    given = rights.chain(NORTH, ALDER).grant
    assert given is not None
    assert given.writer not in harbor.fleet.sites
    harbor.fleet.sites[given.writer] = SiteHere(writer=given.writer, name="mallory", public_key=b"")
    sites = harbor.fleet.sites
    fresh = Rights(lambda: rights.state, HUB, rights.place_of, rights.names, lambda writer: writer not in sites)
    assert fresh.chain(NORTH, ALDER).grant is None


async def test_who_decided_as_of_a_moment_is_what_had_been_granted_and_begun_by_then(harbor: Hub) -> None:
    """An epoch that a site tells of weeks later stands where it began."""
    hub, terms = harbor.ground, ("GLOBAL", (), MINUTE, "carry on", "hand back")
    before_ns = hub.clock.now_ns()
    await asyncio.sleep(0.005)
    await harbor.box.grant(BOB, NORTH, AuthorityTerms(master="GLOBAL", lease_ns=MINUTE), "one hand on the helm")
    granted_ns = hub.clock.now_ns()
    await asyncio.sleep(0.005)
    of_alder, given = Log(hub.identity.log.tenant, ALDER, 1), harbor.granting.rights.chain(NORTH, ALDER).grant
    assert given is not None

    def begin(db: sqlite3.Connection) -> None:
        journal.start_log(db, of_alder, keys.public_bytes(hub.key), 1)
        hub.journal.stage(NORTH, AuthorityBegan(1, "accepted", *terms, (), given.hlc), of_alder)

    await hub.writer.write(begin)
    begun_ns = hub.clock.now_ns()
    await asyncio.sleep(0.005)
    await harbor.box.grant(BOB, NORTH, AuthorityTerms(master="LOCAL"), "it knows its hills best")
    then = harbor.box.past
    assert then is not None
    assert (await then.authority(BOB, NORTH, before_ns)).lines == ()
    (granted,) = (await then.authority(BOB, NORTH, granted_ns)).lines
    assert (granted.site, granted.epoch, granted.pending) == ("alder", 0, "the hub decides")
    (begun,) = (await then.authority(BOB, NORTH, begun_ns)).lines
    assert (begun.epoch, begun.holders, begun.lease_ns, begun.pending) == (1, ("harbor",), MINUTE, "")
    (now,) = (await then.authority(BOB, NORTH, hub.clock.now_ns())).lines
    assert (now.epoch, now.pending) == (1, "the site decides")
