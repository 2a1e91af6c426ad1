"""Accounts, sessions and tokens: who may come in, without asking anybody outside this box.

Rules of the file
  1  A secret goes out once; its hash stays.
  2  Every change, every sign-in and every refusal is an event, in the transaction that makes it so.
  3  A refusal never tells whether the name or the password was wrong, and takes as long either way.
  4  Too many failures lock the account for the address they came from, and the address, for a while; only very many from
     everywhere lock the account for all, or anybody could lock everybody out. The lock is per process, the trail in the log.
  5  At a site an account of its hub is the hub's: it is changed there, and comes with the next roster (`store.roster`).
  6  The sealed account opens one session, and then nothing more until somebody seals another.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from fleet import events
from fleet.limits import DAY, MINUTE
from fleet.people import (
    BREAK_GLASS,
    AccountView,
    Glass,
    Identity,
    Refused,
    Role,
    RosterView,
    TokenView,
    check_gift,
)
from store import keys, roster
from store.database import Reader, Writer
from store.faults import StoreFault
from store.journal import Journal

log = logging.getLogger(__name__)

_SESSION_NS = 7 * DAY
_CLOCK_SLACK_NS = DAY
_NAME = re.compile(r"[\w.@-]{1,64}")
_PASSWORD_CHARS_MIN = 10
_PASSWORD_CHARS_MAX = 256
_PAIR_FAILURES_MAX = 5  # for one account from one address
_ACCOUNT_FAILURES_MAX = 100
_ADDRESS_FAILURES_MAX = 20
_ENTRY_NS = 60 * MINUTE
_LOCK_NS = 15 * MINUTE
_HASHING_MAX = 2  # Argon2 takes 19 MiB each
_FAILURES_HELD_MAX = 10_000
_SESSIONS_HELD_MAX = 10_000
_GLASS_NS = 8 * 60 * MINUTE  # how long the session of the sealed account may last
_GLASS_GROUPS, _GLASS_CHARS = 6, 5  # of the secret in the envelope: 150 bits that gloved hands can type
_GLASS_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: none looks like another
_SEEN_HELD_MAX = 10_000
_AGENT_CHARS_MAX = 200

SETUP_KEY = "setup_hash"
_GLASS_USED = "glass_used"


class _Held(NamedTuple):
    """An account that is about to be changed."""

    role: Role
    disabled: bool
    origin: str
    sites: str | None


class _Failures(NamedTuple):
    times: int
    since_ns: int  # monotonic


class Guesses:
    """Wrong passwords, by account and by address, and how many are hashed at once. All tenants of a hub share one, so that
    an address is locked out whichever of them it tries."""

    def __init__(self) -> None:
        self.failures: dict[str, _Failures] = {}
        self.hashing = asyncio.Semaphore(_HASHING_MAX)


class Accounts:
    """`house` is False at a hub's tenants beside its first: their people are viewers and admins of that one tenant, whom an
    operator-admin gives the first account, and nobody is let in by a set-up link."""

    def __init__(
        self,
        journal: Journal,
        writer: Writer,
        reader: Reader,
        *,
        tenant: str,
        now_ns: Callable[[], int],
        hub: bool = False,
        house: bool = True,
        guesses: Guesses | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._journal, self._writer, self._reader, self._tenant = journal, writer, reader, tenant
        self._now_ns, self._monotonic_ns, self._hub = now_ns, monotonic_ns, hub
        self._house = house
        guesses = guesses or Guesses()
        self._failures, self._hashing = guesses.failures, guesses.hashing
        self._sessions: dict[bytes, tuple[Identity, int]] = {}
        self._tokens: dict[bytes, Identity] | None = None
        self._ended = 0  # counts what ended or changed: a look-up that began before must not be remembered
        self._entries: dict[bytes, tuple[str, int]] = {}  # sign-in links: account, until when (monotonic)
        self._glass: Glass | None = None
        self._seen: dict[tuple[str, str, str, str], int] = {}  # person, way, route, address: minute

    # -- first start ------------------------------------------------------------------------------------------

    async def needs_setup(self) -> bool:
        if not self._house:
            return False
        await self.look_at_glass()
        return not await self._reader.fetch("SELECT 1 FROM account WHERE name<>? LIMIT 1", (BREAK_GLASS,))

    async def setup_secret(self) -> str:
        """A new one-time secret for the first admin; an earlier one is worth nothing from now on."""
        secret = keys.new_secret("setup")
        await self._writer.write(lambda db: db.execute(_SET_META, (SETUP_KEY, keys.secret_hash(secret).hex())).rowcount)
        return secret

    async def set_up(self, link_secret: str, name: str, password: str, address: str) -> str:
        if not self._house:
            raise Refused("this set-up link was used or is not the latest; sign in", 403)
        check_name(name)
        _check_password(password)
        hashed = await self._hash(password)
        offered = keys.secret_hash(link_secret).hex()

        def job(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT value FROM meta WHERE key=?", (SETUP_KEY,)).fetchone()
            if row is None or not keys.same(row[0], offered) or db.execute(_ANYBODY, (BREAK_GLASS,)).fetchone():
                raise Refused(
                    "this set-up link was used or is not the latest; sign in, or start the appliance anew", 403
                )
            db.execute("DELETE FROM meta WHERE key=?", (SETUP_KEY,))
            # Whoever sets up a hub decides about all that it keeps; a site has one tenant.
            role = Role.OPERATOR_ADMIN if self._hub else Role.ADMIN
            self._insert(db, name, hashed, role, f"set-up link from {address}", ())

        await self._writer.write(job)
        return await self._open_session(name, address)

    # -- sessions ---------------------------------------------------------------------------------------------

    async def sign_in(self, name: str, password: str, address: str) -> str:
        self._check_lock(name, address)
        if name == BREAK_GLASS:
            password = _typed(password)
        rows = await self._reader.fetch(
            "SELECT password_hash FROM account WHERE name=? AND tenant=? AND NOT disabled", (name, self._tenant)
        )
        stored = rows[0][0] if rows else None
        async with self._hashing:
            self._check_lock(name, address)  # guesses side by side wait here while the first ones fail
            matches = await asyncio.to_thread(keys.password_matches, stored, password[:_PASSWORD_CHARS_MAX])
            if not matches:
                self._count_failure(name, address)
        if not matches:
            await self._refuse_sign_in(name, address)
        self._failures.pop(self._pair(name, address), None)
        return await self._open_session(name, address, stored)

    async def create_entry(self, who: Identity, name: str) -> str:
        """The secret of a sign-in link for an account, good for an hour: the console's way back in for one who forgot
        the password. Kept in memory only."""
        rows = await self._reader.fetch(
            "SELECT role, origin FROM account WHERE name=? AND tenant=? AND NOT disabled", (name, self._tenant)
        )
        if not rows:
            raise Refused(f"there is no account {name}", 404)
        if name != who.name:
            check_gift(who.role, Role[rows[0][0]], hub=self._hub)
        if rows[0][1] and who.via != "console":
            raise Refused(f"{name} comes from hub {rows[0][1]}; whoever forgot the password asks there")
        if name == BREAK_GLASS:
            raise Refused("the sealed account opens with what is in its envelope alone")
        secret = keys.new_secret("enter")
        self._entries[keys.secret_hash(secret)] = (name, self._monotonic_ns() + _ENTRY_NS)
        await self._record(name, events.AccountChanged(name, "sign-in link", "made", who.name))
        return secret

    async def enter(self, link_secret: str, address: str) -> str:
        """The secret of a new session, by a sign-in link."""
        name, until_ns = self._entries.get(keys.secret_hash(link_secret), ("", 0))
        if self._monotonic_ns() >= until_ns:
            raise Refused("this sign-in link is no longer good; make another one with: skerry account link", 403)
        return await self._open_session(name, address)

    def _check_lock(self, name: str, address: str) -> None:
        locked = max(self._locked(who, most) for who, most in self._bounds(name, address))
        if locked:
            raise Refused(f"too many failed attempts; try again in {-(-locked // MINUTE)} min", 429)

    def _count_failure(self, name: str, address: str) -> None:
        if len(self._failures) > _FAILURES_HELD_MAX:
            self._failures.clear()  # a flood of invented names must not fill the memory
        for who, _ in self._bounds(name, address):
            held = self._failures.get(who, _Failures(0, 0))
            self._failures[who] = _Failures(held.times + 1, self._monotonic_ns())

    async def _refuse_sign_in(self, name: str, address: str) -> None:
        for who, most in self._bounds(name, address):
            if self._failures.get(who, _Failures(0, 0)).times == most:
                locked = {self._pair(name, address): f"account {name} from {address}"}.get(who, who)
                await self._record("", events.AccountRefused(name[:64], address, f"locked: {locked}"))
        await self._record(name[:64], events.AccountRefused(name[:64], address, "wrong name or password"))
        raise Refused("the name or the password is wrong", 401)

    def _bounds(self, name: str, address: str) -> tuple[tuple[str, int], ...]:
        """What counts failures, and how many lock it. The sealed account's secret is beyond guessing, and nobody may lock
        it."""
        by_address = (f"address {address}", _ADDRESS_FAILURES_MAX)
        by_account = (f"account {name} of {self._tenant}", _ACCOUNT_FAILURES_MAX)
        by_pair = (self._pair(name, address), _PAIR_FAILURES_MAX)
        return (by_address,) if name == BREAK_GLASS else (by_pair, by_address, by_account)

    def _pair(self, name: str, address: str) -> str:
        return f"{self._tenant} {name} {address}"

    def _locked(self, who: str, most: int) -> int:
        """For how many ns `who` stays locked out; 0: not at all."""
        held = self._failures.get(who)
        if held is None:
            return 0
        left = held.since_ns + _LOCK_NS - self._monotonic_ns()
        if left <= 0:
            del self._failures[who]
            return 0
        return left if held.times >= most else 0

    async def _open_session(self, name: str, address: str, stored: str | None = None) -> str:
        """`stored` is the hash that the password was held against: the sealed account opens once."""
        secret = keys.new_secret("session")
        now_ns = self._now_ns()
        until_ns = now_ns + (_GLASS_NS if name == BREAK_GLASS else _SESSION_NS)

        def job(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM session WHERE expires_ns < ?", (now_ns,))
            held = db.execute("SELECT password_hash FROM account WHERE name=? AND NOT disabled", (name,)).fetchone()
            if held is None or stored not in (None, held[0]):
                # It was closed, or its password changed, while the one that was typed was held against it.
                raise Refused("this account was changed just now; sign in again", 401)
            if name == BREAK_GLASS:
                self._break(db, address, stored, now_ns, until_ns)
            db.execute(
                "INSERT INTO session VALUES (?,?,?,?,?)", (keys.secret_hash(secret), name, now_ns, until_ns, address)
            )
            self._journal.stage(name, events.AccountSignedIn(name, address))

        await self._writer.write(job)
        if name == BREAK_GLASS:
            await self.look_at_glass()
        return secret

    async def sign_out(self, session_secret: str, address: str) -> None:
        digest = keys.secret_hash(session_secret)

        def job(db: sqlite3.Connection) -> None:
            row = db.execute("DELETE FROM session WHERE secret_hash=? RETURNING account", (digest,)).fetchone()
            if row is not None:
                self._journal.stage(row[0], events.AccountSignedOut(row[0], address))

        await self._writer.write(job)
        self._ended += 1
        self._sessions.pop(digest, None)
        await self.look_at_glass()

    async def session(self, session_secret: str, address: str) -> Identity | None:
        digest = keys.secret_hash(session_secret)
        held = self._sessions.get(digest)
        now_ns, ended = self._now_ns(), self._ended
        if held is None:
            rows = await self._reader.fetch(
                "SELECT account.name, account.role, account.tenant, session.expires_ns FROM session JOIN account"
                " ON account.name = session.account WHERE session.secret_hash=? AND account.tenant=?"
                " AND NOT account.disabled",
                (digest, self._tenant),
            )
            if not rows:
                return None
            name, role, tenant, expires_ns = rows[0]
            csrf = keys.secret_hash(f"csrf {session_secret}").hex()
            held = Identity(name=name, role=Role[role], tenant=tenant, address=address, csrf=csrf), expires_ns
            if len(self._sessions) > _SESSIONS_HELD_MAX:
                self._sessions.clear()
            if self._ended == ended:
                self._sessions[digest] = held
        identity, expires_ns = held
        # One that was made under a clock far ahead of this one must not last until then.
        return identity if expires_ns - _SESSION_NS - _CLOCK_SLACK_NS <= now_ns < expires_ns else None

    # -- accounts ---------------------------------------------------------------------------------------------

    async def accounts(self) -> Sequence[AccountView]:
        rows = await self._reader.fetch(
            "SELECT name, role, created_ns, disabled, tenant, origin, sites, changed_by FROM account"
            " WHERE tenant=? AND name<>? ORDER BY name",
            (self._tenant, BREAK_GLASS),
        )
        return [
            AccountView(
                name=name,
                role=Role[role],
                created_ns=created_ns,
                disabled=bool(disabled),
                tenant=tenant,
                origin=origin or "",
                sites=roster.bound_of(sites).sites,
                changed_by=by or "",
            )
            for name, role, created_ns, disabled, tenant, origin, sites, by in rows
        ]

    async def create_account(
        self, who: Identity, name: str, password: str, role: Role, sites: Sequence[str] = ()
    ) -> None:
        """At a hub `sites` are the names of those where it holds as well, `ALL` for every one."""
        check_name(name)
        _check_password(password)
        self._check_gift(who, role)
        self._check_sites(sites)
        hashed = await self._hash(password)
        await self._writer.write(lambda db: self._insert(db, name, hashed, role, who.name, sites))

    def _insert(
        self, db: sqlite3.Connection, name: str, hashed: str, role: Role, actor: str, sites: Sequence[str]
    ) -> None:
        held = db.execute("SELECT origin FROM account WHERE name=?", (name,)).fetchone()
        if held is not None:
            whose = f", from hub {held[0]}" if held[0] else ""
            raise Refused(f"there is already an account {name}{whose}; choose another name")
        column = roster.bind(None, sites)
        db.execute(
            "INSERT INTO account (name, tenant, role, password_hash, created_ns, disabled, sites, changed_by)"
            " VALUES (?,?,?,?,?,?,?,?)",
            (name, self._tenant, role.name, hashed, self._now_ns(), False, column, actor),
        )
        if column is not None:
            roster.changed(db, self._now_ns())
        for_sites = roster.bound_of(column).sites
        self._journal.stage(name, events.AccountCreated(name, role.name, actor, for_sites, self._tenant))

    def _check_gift(self, who: Identity, role: Role) -> None:
        check_gift(who.role, role, hub=self._hub)
        if not self._house and role.across:
            raise Refused("who looks across tenants has an account at the hub’s first tenant; make it there", 403)

    def _check_sites(self, sites: Sequence[str]) -> None:
        if sites and not self._hub:
            raise Refused("an account of a site is for that site; accounts for several are made at their hub")

    async def change_account(
        self, who: Identity, name: str, role: Role | None = None, sites: Sequence[str] | None = None
    ) -> None:
        """Give another role, or at a hub other sites; what is None stays."""
        if role is not None:
            self._check_gift(who, role)
        self._check_sites(sites or ())

        def job(db: sqlite3.Connection) -> None:
            held = self._held(db, who, name)
            if role is not None and role is not held.role:
                if role < Role.ADMIN:
                    self._check_last(db, held, name)
                db.execute("UPDATE account SET role=?, changed_by=? WHERE name=?", (role.name, who.name, name))
                self._journal.stage(name, events.AccountChanged(name, "role", role.word, who.name))
            column = held.sites if sites is None else roster.bind(held.sites, sites)
            if column != held.sites:
                db.execute("UPDATE account SET sites=?, changed_by=? WHERE name=?", (column, who.name, name))
                for_sites = ", ".join(roster.bound_of(column).sites) or "the hub alone"
                self._journal.stage(name, events.AccountChanged(name, "sites", for_sites[:500], who.name))
            if column is not None:
                roster.changed(db, self._now_ns())

        await self._writer.write(job)
        self.forget((name,))

    async def disable_account(self, who: Identity, name: str) -> None:
        def job(db: sqlite3.Connection) -> None:
            held = self._held(db, who, name)
            self._check_last(db, held, name)
            db.execute("UPDATE account SET disabled=1, changed_by=? WHERE name=?", (who.name, name))
            db.execute("DELETE FROM session WHERE account=?", (name,))
            if held.sites is not None:
                roster.changed(db, self._now_ns())
            self._journal.stage(name, events.AccountChanged(name, "disabled", "yes", who.name))

        await self._writer.write(job)
        self.forget((name,))
        await self.look_at_glass()

    async def change_password(self, who: Identity, name: str, password: str) -> None:
        _check_password(password)
        if who.name != name and who.role < Role.ADMIN:
            raise Refused("only an admin changes another's password", 403)
        if name == BREAK_GLASS:
            raise Refused("the sealed account opens once; seal another with: skerry account break-glass")
        hashed = await self._hash(password)

        def job(db: sqlite3.Connection) -> None:
            held = self._held(db, who, name)
            db.execute("UPDATE account SET password_hash=?, changed_by=? WHERE name=?", (hashed, who.name, name))
            db.execute("DELETE FROM session WHERE account=?", (name,))
            if held.sites is not None:
                roster.changed(db, self._now_ns())
            self._journal.stage(name, events.AccountChanged(name, "password", "", who.name))

        await self._writer.write(job)
        self.forget((name,))

    def _held(self, db: sqlite3.Connection, who: Identity, name: str) -> _Held:
        """An account that `who` may change here. Refused (403, 404, 409) otherwise."""
        row = db.execute(
            "SELECT role, disabled, origin, sites FROM account WHERE name=? AND tenant=?", (name, self._tenant)
        ).fetchone()
        if row is None:
            raise Refused(f"there is no account {name}", 404)
        held = _Held(Role[row[0]], bool(row[1]), row[2] or "", row[3])
        if held.origin:
            raise Refused(f"{name} comes from hub {held.origin}; change it on {held.origin}’s own page")
        if name != who.name:
            check_gift(who.role, held.role, hub=self._hub)
        return held

    def _check_last(self, db: sqlite3.Connection, held: _Held, name: str) -> None:
        (others,) = db.execute(
            "SELECT count(*) FROM account WHERE role IN ('ADMIN', 'OPERATOR_ADMIN') AND NOT disabled AND origin IS NULL"
            " AND name NOT IN (?,?)",
            (name, BREAK_GLASS),
        ).fetchone()
        if held.role >= Role.ADMIN and name != BREAK_GLASS and not others:
            raise Refused(f"{name} is the last admin; make another one first")

    async def roster(self) -> RosterView | None:
        """The hub's accounts as they have come; None while there are none with a way to a site."""
        held = dict(await self._reader.fetch(roster.HELD))
        return roster.hub_view(held) if self._hub else roster.site_view(held)

    # -- the sealed account -----------------------------------------------------------------------------------

    @property
    def glass(self) -> Glass:
        return self._glass or Glass()

    async def look_at_glass(self) -> None:
        ((sealed_ns, used, until_ns),) = await self._reader.fetch(
            _GLASS, {"name": BREAK_GLASS, "used": _GLASS_USED, "now": self._now_ns()}
        )
        at_ns, _, address = (used or "").partition(" ")
        self._glass = Glass(
            sealed_ns=sealed_ns, used_ns=int(at_ns) if at_ns else None, address=address, until_ns=until_ns
        )

    async def seal_glass(self, who: Identity) -> str:
        """The secret of a new sealed account, shown this once; the one before it is worth nothing."""
        if self._hub:
            raise Refused("a break-glass account is sealed at a site: it is for who is alone there")
        groups = ("".join(secrets.choice(_GLASS_LETTERS) for _ in range(_GLASS_CHARS)) for _ in range(_GLASS_GROUPS))
        secret = "-".join(groups)
        hashed = await self._hash(_typed(secret))

        def job(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM session WHERE account=?", (BREAK_GLASS,))
            db.execute("DELETE FROM account WHERE name=?", (BREAK_GLASS,))
            db.execute("DELETE FROM meta WHERE key=?", (_GLASS_USED,))
            db.execute(
                "INSERT INTO account (name, tenant, role, password_hash, created_ns, disabled, changed_by)"
                " VALUES (?,?,?,?,?,?,?)",
                (BREAK_GLASS, self._tenant, Role.ADMIN.name, hashed, self._now_ns(), False, who.name),
            )
            self._journal.stage(BREAK_GLASS, events.GlassSealed(who.name))

        await self._writer.write(job)
        self.forget((BREAK_GLASS,))
        await self.look_at_glass()
        return secret

    def _break(self, db: sqlite3.Connection, address: str, stored: str | None, now_ns: int, until_ns: int) -> None:
        used = db.execute(
            "UPDATE account SET password_hash='' WHERE name=? AND password_hash=? AND password_hash<>''",
            (BREAK_GLASS, stored or ""),
        ).rowcount
        if not used:
            raise Refused("the sealed account was used already; another one is made with: skerry account break-glass")
        db.execute(_SET_META, (_GLASS_USED, f"{now_ns} {address}"))
        self._journal.stage(BREAK_GLASS, events.GlassBroken(address, until_ns))

    # -- who looked -------------------------------------------------------------------------------------------

    async def seen(self, who: Identity, route: str, agent: str) -> None:
        """Tell in the log that somebody who may look across tenants looked: once for each person, route and minute. A disk
        that refuses to be written on does not keep anybody from looking; it is told as soon as it can be."""
        key, minute = (who.name, who.via, route, who.address), self._now_ns() // MINUTE
        if self._seen.get(key) == minute:
            return
        if len(self._seen) >= _SEEN_HELD_MAX:
            self._seen.clear()
        self._seen[key] = minute
        plain = "".join(char if char.isprintable() else "?" for char in agent[:_AGENT_CHARS_MAX])
        try:
            await self._record(who.name, events.AccessSeen(who.name, who.role.name, who.via, route, who.address, plain))
        except StoreFault as fault:
            self._seen.pop(key, None)
            log.warning("that %s looked at %s could not be told in the log: %s", who.name, route, fault)

    def forget(self, names: Iterable[str]) -> None:
        """What is known of these people's sessions is looked up again."""
        self._ended += 1
        gone = frozenset(names)
        for digest, (identity, _) in tuple(self._sessions.items()):
            if identity.name in gone:
                del self._sessions[digest]

    # -- tokens -----------------------------------------------------------------------------------------------

    async def bearer(self, token_secret: str, address: str) -> Identity | None:
        tokens, ended = self._tokens, self._ended
        if tokens is None:
            rows = await self._reader.fetch(
                "SELECT secret_hash, name, role, tenant FROM token WHERE revoked_ns IS NULL AND tenant=?",
                (self._tenant,),
            )
            tokens = {
                digest: Identity(name=name, role=Role[role], tenant=tenant, via="token")
                for digest, name, role, tenant in rows
            }
            if self._ended == ended:
                self._tokens = tokens
        return tokens.get(keys.secret_hash(token_secret))

    async def tokens(self) -> Sequence[TokenView]:
        rows = await self._reader.fetch(
            "SELECT name, role, created_ns, revoked_ns FROM token WHERE tenant=? ORDER BY created_ns", (self._tenant,)
        )
        return [TokenView(name=row[0], role=Role[row[1]], created_ns=row[2], revoked_ns=row[3]) for row in rows]

    async def create_token(self, who: Identity, name: str, role: Role) -> str:
        check_name(name)
        self._check_gift(who, role)
        secret = keys.new_secret("skerry")

        def job(db: sqlite3.Connection) -> None:
            if db.execute("SELECT 1 FROM token WHERE name=? AND revoked_ns IS NULL", (name,)).fetchone():
                raise Refused(f"there is already a token {name}; revoke it first or choose another name")
            db.execute(
                "INSERT INTO token VALUES (?,?,?,?,?,NULL)",
                (keys.secret_hash(secret), self._tenant, name, role.name, self._now_ns()),
            )
            self._journal.stage(name, events.TokenCreated(name, role.name, who.name))

        await self._writer.write(job)
        self._forget_tokens()
        return secret

    async def revoke_token(self, who: Identity, name: str) -> None:
        def job(db: sqlite3.Connection) -> None:
            changed = db.execute(
                "UPDATE token SET revoked_ns=? WHERE name=? AND tenant=? AND revoked_ns IS NULL",
                (self._now_ns(), name, self._tenant),
            ).rowcount
            if not changed:
                raise Refused(f"there is no token {name}", 404)
            self._journal.stage(name, events.TokenRevoked(name, who.name))

        await self._writer.write(job)
        self._forget_tokens()

    def _forget_tokens(self) -> None:
        self._ended += 1
        self._tokens = None

    # -- small things -----------------------------------------------------------------------------------------

    async def _hash(self, password: str) -> str:
        async with self._hashing:
            return await asyncio.to_thread(keys.hash_password, password)

    async def _record(self, subject: str, body: events.Body) -> None:
        await self._writer.write(lambda db: self._journal.stage(subject, body))


_SET_META = "INSERT INTO meta VALUES (?,?) ON CONFLICT DO UPDATE SET value=excluded.value"


_ANYBODY = "SELECT 1 FROM account WHERE name<>? LIMIT 1"


def _typed(secret: str) -> str:
    """The secret in an envelope as it is held against the hash, however its groups were typed."""
    return "".join(char for char in secret.upper() if char.isalnum()).translate(_LOOK_ALIKE)


_LOOK_ALIKE = str.maketrans("OIL", "011")


_GLASS = (
    "SELECT (SELECT created_ns FROM account WHERE name=:name AND password_hash<>'' AND NOT disabled),"
    " (SELECT value FROM meta WHERE key=:used),"
    " (SELECT max(expires_ns) FROM session WHERE account=:name AND expires_ns>:now)"
)


def check_name(name: str) -> None:
    """Refused (422) unless an account may have it."""
    if name == BREAK_GLASS:
        raise Refused(f"{BREAK_GLASS} is the name of the sealed account; choose another one", 422)
    if not _NAME.fullmatch(name):
        raise Refused("a name has 1 to 64 letters, digits and . _ - @", 422)


def _check_password(password: str) -> None:
    if not _PASSWORD_CHARS_MIN <= len(password) <= _PASSWORD_CHARS_MAX:
        raise Refused(f"a password has {_PASSWORD_CHARS_MIN} to {_PASSWORD_CHARS_MAX} characters", 422)
