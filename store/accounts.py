"""Accounts, sessions and tokens: who may come in, without asking anybody outside this box.

Rules of the file
  1  A secret goes out once; its hash stays.
  2  Every change, every sign-in and every refusal is an event, in the transaction that makes it so.
  3  A refusal never tells whether the name or the password was wrong, and takes as long either way.
  4  Too many failures lock the account and the address for a while; the lock is per process, the trail is in the log.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fleet import events
from fleet.limits import DAY, MINUTE
from fleet.people import AccountView, Identity, Refused, Role, TokenView
from store import keys
from store.database import Reader, Writer
from store.journal import Journal

_SESSION_NS = 7 * DAY
_CLOCK_SLACK_NS = DAY
_NAME = re.compile(r"[\w.@-]{1,64}")
_PASSWORD_CHARS_MIN = 10
_PASSWORD_CHARS_MAX = 256
_ACCOUNT_FAILURES_MAX = 5
_ADDRESS_FAILURES_MAX = 20
_ENTRY_NS = 60 * MINUTE
_LOCK_NS = 15 * MINUTE
_HASHING_MAX = 2  # Argon2 takes 19 MiB each
_FAILURES_HELD_MAX = 10_000
_SESSIONS_HELD_MAX = 10_000

SETUP_KEY = "setup_hash"


class _Failures(NamedTuple):
    times: int
    since_ns: int  # monotonic


class Accounts:
    def __init__(
        self,
        journal: Journal,
        writer: Writer,
        reader: Reader,
        *,
        tenant: str,
        now_ns: Callable[[], int],
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._journal, self._writer, self._reader, self._tenant = journal, writer, reader, tenant
        self._now_ns, self._monotonic_ns = now_ns, monotonic_ns
        self._failures: dict[str, _Failures] = {}
        self._sessions: dict[bytes, tuple[Identity, int]] = {}
        self._tokens: dict[bytes, Identity] | None = None
        self._ended = 0  # counts what ended or changed: a look-up that began before must not be remembered
        self._entries: dict[bytes, tuple[str, int]] = {}  # sign-in links: account, until when (monotonic)
        self._hashing = asyncio.Semaphore(_HASHING_MAX)

    # -- first start ------------------------------------------------------------------------------------------

    async def needs_setup(self) -> bool:
        return not await self._reader.fetch("SELECT 1 FROM account LIMIT 1")

    async def setup_secret(self) -> str:
        """A new one-time secret for the first admin; an earlier one is worth nothing from now on."""
        secret = keys.new_secret("setup")
        await self._writer.write(lambda db: db.execute(_SET_META, (SETUP_KEY, keys.secret_hash(secret).hex())).rowcount)
        return secret

    async def set_up(self, link_secret: str, name: str, password: str, address: str) -> str:
        _check_name(name)
        _check_password(password)
        hashed = await self._hash(password)
        offered = keys.secret_hash(link_secret).hex()

        def job(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT value FROM meta WHERE key=?", (SETUP_KEY,)).fetchone()
            if row is None or not keys.same(row[0], offered) or db.execute("SELECT 1 FROM account").fetchone():
                raise Refused(
                    "this set-up link was used or is not the latest; sign in, or start the appliance anew", 403
                )
            db.execute("DELETE FROM meta WHERE key=?", (SETUP_KEY,))
            self._insert(db, name, hashed, Role.ADMIN, f"set-up link from {address}")

        await self._writer.write(job)
        return await self._open_session(name, address)

    # -- sessions ---------------------------------------------------------------------------------------------

    async def sign_in(self, name: str, password: str, address: str) -> str:
        self._check_lock(name, address)
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
        self._failures.pop(f"account {name}", None)
        return await self._open_session(name, address)

    async def create_entry(self, who: Identity, name: str) -> str:
        """The secret of a sign-in link for an account, good for an hour: the console's way back in for one who forgot
        the password. Kept in memory only."""
        if not await self._reader.fetch(
            "SELECT 1 FROM account WHERE name=? AND tenant=? AND NOT disabled", (name, self._tenant)
        ):
            raise Refused(f"there is no account {name}", 404)
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
        locked = max(self._locked(who, most) for who, most in _bounds(name, address))
        if locked:
            raise Refused(f"too many failed attempts; try again in {-(-locked // MINUTE)} min", 429)

    def _count_failure(self, name: str, address: str) -> None:
        if len(self._failures) > _FAILURES_HELD_MAX:
            self._failures.clear()  # a flood of invented names must not fill the memory
        for who, _ in _bounds(name, address):
            held = self._failures.get(who, _Failures(0, 0))
            self._failures[who] = _Failures(held.times + 1, self._monotonic_ns())

    async def _refuse_sign_in(self, name: str, address: str) -> None:
        for who, most in _bounds(name, address):
            if self._failures.get(who, _Failures(0, 0)).times == most:
                await self._record("", events.AccountRefused(name[:64], address, f"locked: {who}"))
        await self._record(name[:64], events.AccountRefused(name[:64], address, "wrong name or password"))
        raise Refused("the name or the password is wrong", 401)

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

    async def _open_session(self, name: str, address: str) -> str:
        secret = keys.new_secret("session")
        now_ns = self._now_ns()

        def job(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM session WHERE expires_ns < ?", (now_ns,))
            db.execute(
                "INSERT INTO session VALUES (?,?,?,?,?)",
                (keys.secret_hash(secret), name, now_ns, now_ns + _SESSION_NS, address),
            )
            self._journal.stage(name, events.AccountSignedIn(name, address))

        await self._writer.write(job)
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

    async def session(self, session_secret: str, address: str) -> Identity | None:
        digest = keys.secret_hash(session_secret)
        held = self._sessions.get(digest)
        now_ns, ended = self._now_ns(), self._ended
        if held is None:
            rows = await self._reader.fetch(
                "SELECT account.name, account.role, account.tenant, session.expires_ns FROM session JOIN account"
                " ON account.name = session.account WHERE session.secret_hash=? AND NOT account.disabled",
                (digest,),
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
            "SELECT name, role, created_ns, disabled FROM account WHERE tenant=? ORDER BY name", (self._tenant,)
        )
        return [AccountView(name=row[0], role=Role[row[1]], created_ns=row[2], disabled=bool(row[3])) for row in rows]

    async def create_account(self, who: Identity, name: str, password: str, role: Role) -> None:
        _check_name(name)
        _check_password(password)
        hashed = await self._hash(password)
        await self._writer.write(lambda db: self._insert(db, name, hashed, role, who.name))

    def _insert(self, db: sqlite3.Connection, name: str, hashed: str, role: Role, actor: str) -> None:
        if db.execute("SELECT 1 FROM account WHERE name=?", (name,)).fetchone():
            raise Refused(f"there is already an account {name}; choose another name")
        db.execute(
            "INSERT INTO account VALUES (?,?,?,?,?,?)", (name, self._tenant, role.name, hashed, self._now_ns(), False)
        )
        self._journal.stage(name, events.AccountCreated(name, role.name, actor))

    async def disable_account(self, who: Identity, name: str) -> None:
        def job(db: sqlite3.Connection) -> None:
            row = db.execute(
                "SELECT role, disabled FROM account WHERE name=? AND tenant=?", (name, self._tenant)
            ).fetchone()
            if row is None:
                raise Refused(f"there is no account {name}", 404)
            (others,) = db.execute(
                "SELECT count(*) FROM account WHERE role='ADMIN' AND NOT disabled AND name<>?", (name,)
            ).fetchone()
            if row[0] == Role.ADMIN.name and not others:
                raise Refused(f"{name} is the last admin; make another one first")
            db.execute("UPDATE account SET disabled=1 WHERE name=?", (name,))
            db.execute("DELETE FROM session WHERE account=?", (name,))
            self._journal.stage(name, events.AccountChanged(name, "disabled", "yes", who.name))

        await self._writer.write(job)
        self._forget(name)

    async def change_password(self, who: Identity, name: str, password: str) -> None:
        _check_password(password)
        if who.name != name and who.role < Role.ADMIN:
            raise Refused("only an admin changes another's password", 403)
        hashed = await self._hash(password)

        def job(db: sqlite3.Connection) -> None:
            changed = db.execute(
                "UPDATE account SET password_hash=? WHERE name=? AND tenant=?", (hashed, name, self._tenant)
            ).rowcount
            if not changed:
                raise Refused(f"there is no account {name}", 404)
            db.execute("DELETE FROM session WHERE account=?", (name,))
            self._journal.stage(name, events.AccountChanged(name, "password", "", who.name))

        await self._writer.write(job)
        self._forget(name)

    def _forget(self, name: str) -> None:
        self._ended += 1
        for digest, (identity, _) in tuple(self._sessions.items()):
            if identity.name == name:
                del self._sessions[digest]

    # -- tokens -----------------------------------------------------------------------------------------------

    async def bearer(self, token_secret: str, address: str) -> Identity | None:
        tokens, ended = self._tokens, self._ended
        if tokens is None:
            rows = await self._reader.fetch(
                "SELECT secret_hash, name, role, tenant FROM token WHERE revoked_ns IS NULL"
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
        _check_name(name)
        if role > who.role:
            raise Refused(f"a {who.role.name.lower()} cannot make a token that may do more than that", 403)
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


def _bounds(name: str, address: str) -> tuple[tuple[str, int], ...]:
    """What counts failures, and how many lock it."""
    return ((f"account {name}", _ACCOUNT_FAILURES_MAX), (f"address {address}", _ADDRESS_FAILURES_MAX))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Refused("a name has 1 to 64 letters, digits and . _ - @", 422)


def _check_password(password: str) -> None:
    if not _PASSWORD_CHARS_MIN <= len(password) <= _PASSWORD_CHARS_MAX:
        raise Refused(f"a password has {_PASSWORD_CHARS_MIN} to {_PASSWORD_CHARS_MAX} characters", 422)
