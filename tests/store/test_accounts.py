"""Accounts: who may come in. Every change, sign-in and refusal stands in the log; no secret stands anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleet import events
from fleet.limits import DAY, MINUTE, SECOND
from fleet.people import ALL, BREAK_GLASS, Identity, Refused, Role
from store import journal, keys, roster
from store.accounts import Accounts
from store.database import Reader, connect_reader
from tests.store.alder import TENANT, WRITER, Alder

NOW = 1_795_219_200 * SECOND
PASSWORD = "correct horse battery"
HERE, ELSEWHERE = "10.0.0.7", "10.6.6.6"
CONSOLE = Identity(name="console", role=Role.OPERATOR_ADMIN, via="console")


class House:
    """Alder's accounts, with both clocks in the test's hand."""

    def __init__(self, root: Path) -> None:
        self.alder = Alder(root)
        self.now_ns, self.mono_ns = NOW, 0
        self.reader = Reader(self.alder.folder.site_db)
        self.accounts = self.open()

    def open(self, *, hub: bool = False) -> Accounts:
        return Accounts(
            self.alder.journal,
            self.alder.site,
            self.reader,
            tenant=TENANT,
            now_ns=lambda: self.now_ns,
            hub=hub,
            monotonic_ns=lambda: self.mono_ns,
        )

    def told(self) -> list[tuple[str, str]]:
        """(kind, subject) of every event."""
        with connect_reader(self.alder.folder.site_db) as db:
            return [(event.kind, event.subject) for batch in journal.read(db) for event in batch]

    def everything_on_disk(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.alder.folder.root.rglob("*") if path.is_file())


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path / "alder")
    await made.accounts.create_account(CONSOLE, "alice", PASSWORD, Role.ADMIN)
    yield made
    await made.reader.close()
    made.alder.stop()


async def refused(wish: object, status: int) -> str:
    with pytest.raises(Refused) as no:
        await wish  # type: ignore[misc]
    assert no.value.status == status
    return str(no.value)


# -- first start -----------------------------------------------------------------------------------------------------


async def test_the_first_start_makes_one_admin_with_one_link(tmp_path: Path) -> None:
    house = House(tmp_path / "birch")
    accounts = house.accounts
    assert await accounts.needs_setup()
    old, link = await accounts.setup_secret(), await accounts.setup_secret()
    await refused(accounts.set_up(old, "alice", PASSWORD, HERE), 403)
    await refused(accounts.set_up("setup_guess", "mallory", PASSWORD, HERE), 403)
    session = await accounts.set_up(link, "alice", PASSWORD, HERE)
    who = await accounts.session(session, HERE)
    assert who is not None
    assert (who.name, who.role, who.tenant) == ("alice", Role.ADMIN, TENANT)
    assert not await accounts.needs_setup()
    words = await refused(accounts.set_up(link, "mallory", PASSWORD, HERE), 403)
    assert "sign in" in words
    await house.reader.close()
    house.alder.stop()


async def test_two_people_with_the_same_link_make_one_admin(tmp_path: Path) -> None:
    house = House(tmp_path / "birch")
    link = await house.accounts.setup_secret()
    both = await asyncio.gather(
        house.accounts.set_up(link, "alice", PASSWORD, HERE),
        house.accounts.set_up(link, "mallory", PASSWORD, HERE),
        return_exceptions=True,
    )
    assert sum(isinstance(one, str) for one in both) == 1
    assert len(await house.accounts.accounts()) == 1
    await house.reader.close()
    house.alder.stop()


# -- sessions --------------------------------------------------------------------------------------------------------


async def test_a_session_lasts_until_it_ends(house: House) -> None:
    session = await house.accounts.sign_in("alice", PASSWORD, HERE)
    assert await house.accounts.session(session, HERE)
    assert await house.open().session(session, HERE), "it outlives a restart"
    house.now_ns += 8 * DAY
    assert await house.accounts.session(session, HERE) is None
    assert await house.open().session(session, HERE) is None


async def test_a_session_that_was_signed_out_is_nobody(house: House) -> None:
    session = await house.accounts.sign_in("alice", PASSWORD, HERE)
    await house.accounts.session(session, HERE)
    await house.accounts.sign_out(session, HERE)
    assert await house.accounts.session(session, HERE) is None
    assert await house.open().session(session, HERE) is None
    assert ("account.signed_out", "alice") in house.told()
    await house.accounts.sign_out(session, HERE)
    assert house.told().count(("account.signed_out", "alice")) == 1


async def test_a_made_up_session_is_nobody(house: House) -> None:
    assert await house.accounts.session("session_made-up", HERE) is None


async def test_a_refusal_does_not_tell_which_part_was_wrong(house: House) -> None:
    wrong_password = await refused(house.accounts.sign_in("alice", "wrong password", HERE), 401)
    wrong_name = await refused(house.accounts.sign_in("nobody", PASSWORD, HERE), 401)
    assert wrong_password == wrong_name
    assert ("account.refused", "alice") in house.told()


async def test_five_failures_lock_the_account_for_that_address_and_the_log_says_so(house: House) -> None:
    for _ in range(5):
        await refused(house.accounts.sign_in("alice", "wrong password", ELSEWHERE), 401)
    words = await refused(house.accounts.sign_in("alice", PASSWORD, ELSEWHERE), 429)
    assert "try again in 15 min" in words
    assert ("account.refused", "") in house.told()
    assert await house.accounts.sign_in("alice", PASSWORD, HERE), "whoever guesses locks himself out, and not her"
    house.mono_ns += 15 * MINUTE
    assert await house.accounts.sign_in("alice", PASSWORD, ELSEWHERE)


async def test_guesses_from_everywhere_lock_the_account_for_all(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.accounts._ACCOUNT_FAILURES_MAX", 8)
    for number in range(8):
        await refused(house.accounts.sign_in("alice", "wrong password", f"10.0.0.{number}"), 401)
    await refused(house.accounts.sign_in("alice", PASSWORD, HERE), 429)
    house.mono_ns += 15 * MINUTE
    assert await house.accounts.sign_in("alice", PASSWORD, HERE)


async def test_one_address_that_tries_many_names_is_locked_out(house: House) -> None:
    for number in range(20):
        await refused(house.accounts.sign_in(f"guess-{number}", PASSWORD, ELSEWHERE), 401)
    await refused(house.accounts.sign_in("alice", PASSWORD, ELSEWHERE), 429)
    assert await house.accounts.sign_in("alice", PASSWORD, HERE), "others are not"


async def test_guesses_side_by_side_get_no_more_tries_than_one_after_the_other(house: House) -> None:
    guesses = [house.accounts.sign_in("alice", f"wrong password {number}", ELSEWHERE) for number in range(16)]
    statuses = [no.status for no in await asyncio.gather(*guesses, return_exceptions=True) if isinstance(no, Refused)]
    assert statuses.count(401) <= 6  # two are hashed at a time: one may be on its way when the fifth fails
    assert statuses.count(429) >= 10


async def test_a_right_password_clears_the_count(house: House) -> None:
    for _ in range(3):
        for _ in range(4):
            await refused(house.accounts.sign_in("alice", "wrong password", HERE), 401)
        assert await house.accounts.sign_in("alice", PASSWORD, HERE)
        house.accounts._failures.clear()  # those of the address


async def test_a_console_link_lets_one_in_for_an_hour(house: House) -> None:
    link = await house.accounts.create_entry(CONSOLE, "alice")
    assert await house.accounts.session(await house.accounts.enter(link, HERE), HERE)
    house.mono_ns += 61 * MINUTE
    await refused(house.accounts.enter(link, HERE), 403)
    await refused(house.accounts.enter("enter_made-up", HERE), 403)
    await refused(house.accounts.create_entry(CONSOLE, "nobody"), 404)


# -- accounts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "<script>", "å/ä"])
async def test_a_name_is_plain(house: House, name: str) -> None:
    await refused(house.accounts.create_account(CONSOLE, name, PASSWORD, Role.VIEWER), 422)


@pytest.mark.parametrize("password", ["", "short", "x" * 257])
async def test_a_password_has_ten_characters_or_more(house: House, password: str) -> None:
    await refused(house.accounts.create_account(CONSOLE, "bob", password, Role.VIEWER), 422)
    await refused(house.accounts.change_password(CONSOLE, "alice", password), 422)


async def test_a_name_is_given_once(house: House) -> None:
    await refused(house.accounts.create_account(CONSOLE, "alice", PASSWORD, Role.VIEWER), 409)
    assert [(one.name, one.role, one.disabled) for one in await house.accounts.accounts()] == [
        ("alice", Role.ADMIN, False)
    ]


async def test_a_disabled_account_is_out_at_once(house: House) -> None:
    await house.accounts.create_account(CONSOLE, "bob", PASSWORD, Role.OPERATOR)
    session = await house.accounts.sign_in("bob", PASSWORD, HERE)
    assert await house.accounts.session(session, HERE)
    await house.accounts.disable_account(CONSOLE, "bob")
    assert await house.accounts.session(session, HERE) is None
    await refused(house.accounts.sign_in("bob", PASSWORD, HERE), 401)
    assert ("account.changed", "bob") in house.told()


async def test_a_look_at_a_session_that_overtakes_its_end_does_not_revive_it(house: House) -> None:
    link = await house.accounts.create_entry(CONSOLE, "alice")
    for _ in range(20):
        session = await house.accounts.enter(link, HERE)
        looks = [asyncio.create_task(house.accounts.session(session, HERE)) for _ in range(3)]
        await asyncio.gather(*looks, house.accounts.sign_out(session, HERE))
        assert await house.accounts.session(session, HERE) is None


async def test_the_last_admin_stays(house: House) -> None:
    words = await refused(house.accounts.disable_account(CONSOLE, "alice"), 409)
    assert "last admin" in words
    await house.accounts.create_account(CONSOLE, "carol", PASSWORD, Role.ADMIN)
    await house.accounts.disable_account(CONSOLE, "alice")
    await refused(house.accounts.disable_account(CONSOLE, "carol"), 409)
    await refused(house.accounts.disable_account(CONSOLE, "nobody"), 404)


async def test_a_new_password_ends_every_session_of_the_old_one(house: House) -> None:
    session = await house.accounts.sign_in("alice", PASSWORD, HERE)
    who = await house.accounts.session(session, HERE)
    assert who is not None
    await house.accounts.change_password(who, "alice", "another horse battery")
    assert await house.accounts.session(session, HERE) is None
    await refused(house.accounts.sign_in("alice", PASSWORD, HERE), 401)
    assert await house.accounts.sign_in("alice", "another horse battery", HERE)


async def test_only_an_admin_changes_another_s_password(house: House) -> None:
    bob = Identity(name="bob", role=Role.OPERATOR)
    await refused(house.accounts.change_password(bob, "alice", "bob was here, alice"), 403)
    await refused(house.accounts.change_password(CONSOLE, "nobody", PASSWORD), 404)


async def test_another_role_holds_at_once_and_the_last_admin_keeps_theirs(house: House) -> None:
    await house.accounts.create_account(CONSOLE, "bob", PASSWORD, Role.VIEWER)
    session = await house.accounts.sign_in("bob", PASSWORD, HERE)
    assert await house.accounts.session(session, HERE)
    await house.accounts.change_account(CONSOLE, "bob", Role.OPERATOR)
    who = await house.accounts.session(session, HERE)
    assert who is not None
    assert who.role is Role.OPERATOR
    await refused(house.accounts.change_account(CONSOLE, "alice", Role.VIEWER), 409)
    await refused(house.accounts.change_account(CONSOLE, "nobody", Role.VIEWER), 404)


async def test_nobody_decides_about_one_who_may_do_more(house: House) -> None:
    alice = Identity(name="alice", role=Role.ADMIN)
    await house.accounts.create_account(CONSOLE, "carol", PASSWORD, Role.OPERATOR_ADMIN)
    await refused(house.accounts.create_account(alice, "up", PASSWORD, Role.OPERATOR_ADMIN), 403)
    await refused(house.accounts.change_account(alice, "alice", Role.OPERATOR_ADMIN), 403)
    await refused(house.accounts.change_password(alice, "carol", PASSWORD), 403)
    await refused(house.accounts.create_entry(alice, "carol"), 403)
    await refused(house.accounts.disable_account(alice, "carol"), 403)


async def test_at_a_hub_only_who_is_across_tenants_makes_another_such(house: House) -> None:
    hub, alice = house.open(hub=True), Identity(name="alice", role=Role.ADMIN)
    await refused(hub.create_account(alice, "olga", PASSWORD, Role.OPERATOR), 403)
    await refused(hub.create_token(alice, "olga", Role.OPERATOR), 403)
    await hub.create_account(CONSOLE, "olga", PASSWORD, Role.OPERATOR)
    await refused(hub.disable_account(alice, "olga"), 403)
    await house.accounts.create_account(alice, "nils", PASSWORD, Role.OPERATOR)  # a site has one tenant


async def test_whoever_sets_up_a_hub_decides_about_all_that_it_keeps(tmp_path: Path) -> None:
    house = House(tmp_path / "harbor")
    hub = house.open(hub=True)
    await hub.set_up(await hub.setup_secret(), "alice", PASSWORD, HERE)
    assert [one.role for one in await hub.accounts()] == [Role.OPERATOR_ADMIN]
    await house.reader.close()
    house.alder.stop()


# -- people of a hub at its sites ------------------------------------------------------------------------------------


async def test_each_change_of_one_who_has_a_way_to_a_site_makes_a_newer_roster(house: House) -> None:
    hub = house.open(hub=True)
    await hub.create_account(CONSOLE, "bob", PASSWORD, Role.VIEWER)
    assert await hub.roster() is None
    versions = []

    async def noted() -> None:
        found = await hub.roster()
        assert found is not None
        versions.append(found.version)

    await hub.change_account(CONSOLE, "bob", sites=("alder", "birch"))
    await noted()
    await hub.change_account(CONSOLE, "bob", role=Role.OPERATOR)
    await noted()
    await hub.change_password(CONSOLE, "bob", "another horse battery")
    await noted()
    await hub.change_account(CONSOLE, "bob", sites=(ALL,))
    await noted()
    await hub.disable_account(CONSOLE, "bob")
    await noted()
    assert versions == sorted(set(versions))
    assert versions[0] >= NOW // SECOND, "a hub that was restored gives none a second time"
    (_, bob) = await hub.accounts()
    assert (bob.sites, bob.changed_by) == ((ALL,), "console")


async def test_an_account_of_a_site_is_for_that_site(house: House) -> None:
    await refused(house.accounts.create_account(CONSOLE, "bob", PASSWORD, Role.VIEWER, (ALL,)), 409)
    await refused(house.accounts.change_account(CONSOLE, "alice", sites=("birch",)), 409)


async def test_an_account_of_the_hub_signs_in_at_a_site_and_is_changed_at_the_hub_alone(house: House) -> None:
    take(house, version=1)
    session = await house.accounts.sign_in("olga", PASSWORD, HERE)
    who = await house.accounts.session(session, HERE)
    assert who is not None
    assert who.role is Role.OPERATOR
    words = await refused(house.accounts.change_password(who, "olga", "another horse battery"), 409)
    assert "from hub harbor" in words
    await refused(house.accounts.disable_account(CONSOLE, "olga"), 409)
    await refused(house.accounts.create_entry(Identity(name="alice", role=Role.ADMIN), "olga"), 409)
    assert "from hub harbor" in await refused(
        house.accounts.create_account(CONSOLE, "olga", PASSWORD, Role.VIEWER), 409
    )
    assert [one.origin for one in await house.accounts.accounts()] == ["", "harbor"]
    view = await house.accounts.roster()
    assert view is not None
    assert (view.hub, view.version, view.heard_ns) == ("harbor", 1, NOW)
    names = take(house, version=2, gone=True)
    house.accounts.forget(names)
    assert await house.accounts.session(session, HERE) is None
    await refused(house.accounts.sign_in("olga", PASSWORD, HERE), 401)


async def test_an_admin_of_the_hub_is_not_the_last_admin_of_a_site(house: House) -> None:
    take(house, version=1, role=Role.ADMIN)
    await refused(house.accounts.disable_account(CONSOLE, "alice"), 409)


def take(house: House, version: int, *, role: Role = Role.OPERATOR, gone: bool = False) -> frozenset[str]:
    olga = roster.Entry("olga", role.name, False, gone, "Bob", "" if gone else keys.hash_password(PASSWORD))
    made = roster.Roster(TENANT, "01HARBOR", "harbor", WRITER, version, NOW, (olga,))
    raw = roster.encode(made)
    taken = house.alder.site.submit(lambda db: roster.take(db, house.alder.journal, raw, "01HARBOR", NOW)).result()
    assert taken.problem == ""
    return taken.names


# -- the sealed account ----------------------------------------------------------------------------------------------


async def test_what_is_in_the_envelope_opens_once(house: House) -> None:
    accounts = house.accounts
    secret = await accounts.seal_glass(CONSOLE)
    assert accounts.glass.sealed_ns == NOW
    assert [one.name for one in await accounts.accounts()] == ["alice"]
    session = await accounts.sign_in(BREAK_GLASS, secret.lower().replace("-", " ").replace("0", "o"), HERE)
    who = await accounts.session(session, HERE)
    assert who is not None
    assert (who.name, who.role) == (BREAK_GLASS, Role.ADMIN)
    assert (accounts.glass.sealed_ns, accounts.glass.used_ns, accounts.glass.address) == (None, NOW, HERE)
    assert accounts.glass.until_ns is not None
    assert ("glass.broken", BREAK_GLASS) in house.told()
    await refused(accounts.sign_in(BREAK_GLASS, secret, HERE), 401)
    again = house.open()
    await again.needs_setup()
    assert again.glass == accounts.glass, "it is as loud after a restart"
    house.now_ns = accounts.glass.until_ns + 1
    assert await accounts.session(session, HERE) is None


async def test_two_who_open_one_envelope_at_once_are_one(house: House) -> None:
    secret = await house.accounts.seal_glass(CONSOLE)
    both = await asyncio.gather(
        *(house.accounts.sign_in(BREAK_GLASS, secret, HERE) for _ in range(2)), return_exceptions=True
    )
    assert sum(isinstance(one, str) for one in both) == 1


async def test_another_envelope_makes_the_one_before_it_void_and_ends_its_session(house: House) -> None:
    first = await house.accounts.seal_glass(CONSOLE)
    session = await house.accounts.sign_in(BREAK_GLASS, first, HERE)
    second = await house.accounts.seal_glass(CONSOLE)
    assert await house.accounts.session(session, HERE) is None
    assert house.accounts.glass.until_ns is None
    await refused(house.accounts.sign_in(BREAK_GLASS, first, HERE), 401)
    session = await house.accounts.sign_in(BREAK_GLASS, second, HERE)
    await house.accounts.sign_out(session, HERE)
    assert house.accounts.glass.until_ns is None


async def test_an_admin_ends_what_the_envelope_opened(house: House) -> None:
    session = await house.accounts.sign_in(BREAK_GLASS, await house.accounts.seal_glass(CONSOLE), HERE)
    await house.accounts.disable_account(CONSOLE, BREAK_GLASS)
    assert await house.accounts.session(session, HERE) is None
    assert house.accounts.glass.until_ns is None


async def test_nobody_locks_the_sealed_account_by_guessing(house: House) -> None:
    secret = await house.accounts.seal_glass(CONSOLE)
    for _ in range(8):
        await refused(house.accounts.sign_in(BREAK_GLASS, "wrong password", ELSEWHERE), 401)
    assert await house.accounts.sign_in(BREAK_GLASS, secret, HERE)


async def test_the_sealed_account_is_no_account_like_others(house: House) -> None:
    await house.accounts.seal_glass(CONSOLE)
    await refused(house.accounts.create_account(CONSOLE, BREAK_GLASS, PASSWORD, Role.VIEWER), 422)
    await refused(house.accounts.change_password(CONSOLE, BREAK_GLASS, PASSWORD), 409)
    await refused(house.accounts.create_entry(CONSOLE, BREAK_GLASS), 409)
    await refused(house.open(hub=True).seal_glass(CONSOLE), 409)
    await refused(house.accounts.disable_account(CONSOLE, "alice"), 409)


async def test_a_box_with_nobody_but_an_envelope_still_asks_for_its_first_admin(tmp_path: Path) -> None:
    house = House(tmp_path / "birch")
    await house.accounts.seal_glass(CONSOLE)
    assert await house.accounts.needs_setup()
    assert await house.accounts.set_up(await house.accounts.setup_secret(), "alice", PASSWORD, HERE)
    await house.reader.close()
    house.alder.stop()


# -- who looked ------------------------------------------------------------------------------------------------------


async def test_who_looks_across_tenants_is_told_once_a_minute_and_route(house: House) -> None:
    olga = Identity(name="olga", role=Role.OPERATOR, address=HERE)
    for _ in range(3):
        await house.accounts.seen(olga, "GET /", "Firefox\x1b[31m" + "x" * 300)
        await house.accounts.seen(olga, "GET /nodes/{id}", "Firefox")
    house.now_ns += MINUTE
    await house.accounts.seen(olga, "GET /", "Firefox")
    with connect_reader(house.alder.folder.site_db) as db:
        seen = [one.body for batch in journal.read(db) for one in batch if isinstance(one.body, events.AccessSeen)]
    assert [(one.name, one.route, one.address) for one in seen] == [
        ("olga", "GET /", HERE),
        ("olga", "GET /nodes/{id}", HERE),
        ("olga", "GET /", HERE),
    ]
    assert seen[0].agent.startswith("Firefox?[31m")
    assert len(seen[0].agent) == 200


def test_the_two_that_look_across_tenants_are_watched_and_the_console_is_not() -> None:
    watched = [role for role in Role if Identity(name="x", role=role).watched]
    assert watched == [Role.OPERATOR, Role.OPERATOR_ADMIN]
    assert not CONSOLE.watched


# -- tokens ----------------------------------------------------------------------------------------------------------


async def test_a_token_is_good_until_it_is_revoked(house: House) -> None:
    secret = await house.accounts.create_token(CONSOLE, "collector", Role.VIEWER)
    who = await house.accounts.bearer(secret, HERE)
    assert who is not None
    assert (who.name, who.role, who.via) == ("collector", Role.VIEWER, "token")
    assert await house.open().bearer(secret, HERE), "it outlives a restart"
    await house.accounts.revoke_token(CONSOLE, "collector")
    assert await house.accounts.bearer(secret, HERE) is None
    assert await house.open().bearer(secret, HERE) is None
    assert [(kind, subject) for kind, subject in house.told() if kind.startswith("token")] == [
        ("token.created", "collector"),
        ("token.revoked", "collector"),
    ]
    await refused(house.accounts.revoke_token(CONSOLE, "collector"), 404)


async def test_a_look_at_a_token_that_overtakes_its_end_does_not_revive_it(house: House) -> None:
    for number in range(20):
        secret = await house.accounts.create_token(CONSOLE, f"t{number}", Role.VIEWER)
        looks = [asyncio.create_task(house.accounts.bearer(secret, HERE)) for _ in range(3)]
        await asyncio.gather(*looks, house.accounts.revoke_token(CONSOLE, f"t{number}"))
        assert await house.accounts.bearer(secret, HERE) is None


async def test_a_name_that_was_revoked_can_be_given_again(house: House) -> None:
    first = await house.accounts.create_token(CONSOLE, "collector", Role.VIEWER)
    await refused(house.accounts.create_token(CONSOLE, "collector", Role.VIEWER), 409)
    await house.accounts.revoke_token(CONSOLE, "collector")
    house.now_ns += 1
    second = await house.accounts.create_token(CONSOLE, "collector", Role.VIEWER)
    assert await house.accounts.bearer(first, HERE) is None
    assert await house.accounts.bearer(second, HERE)
    assert [(one.name, one.revoked_ns is None) for one in await house.accounts.tokens()] == [
        ("collector", False),
        ("collector", True),
    ]


async def test_nobody_makes_a_token_that_may_do_more_than_they(house: House) -> None:
    bob = Identity(name="bob", role=Role.OPERATOR)
    await refused(house.accounts.create_token(bob, "up", Role.ADMIN), 403)


# -- secrets ---------------------------------------------------------------------------------------------------------


async def test_no_secret_is_on_the_disk_in_the_clear(house: House) -> None:
    secrets = [
        PASSWORD,
        await house.accounts.create_token(CONSOLE, "collector", Role.VIEWER),
        await house.accounts.sign_in("alice", PASSWORD, HERE),
        await house.accounts.create_entry(CONSOLE, "alice"),
        await house.accounts.setup_secret(),
        await house.accounts.seal_glass(CONSOLE),
    ]
    held = house.everything_on_disk()
    assert [secret for secret in secrets if secret.encode() in held] == []


async def test_what_is_refused_leaves_no_event_of_success(house: House) -> None:
    before = len(house.told())
    await refused(house.accounts.create_account(CONSOLE, "alice", PASSWORD, Role.VIEWER), 409)
    await refused(house.accounts.disable_account(CONSOLE, "alice"), 409)
    assert len(house.told()) == before
    assert events.KINDS["account.refused"]
