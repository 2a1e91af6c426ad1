"""Which devices may come in, and with what? Their registry in site.db.

Rules of the file
  1  A secret goes out once, in the answer that makes it; its hash stays.
  2  Every enrolment, every credential that is issued, rotated or revoked, and every code is an event in the transaction
     that makes it so: a code is used and its device enrolled, or neither.
  3  A password that a person chose is kept under Argon2id; what this box made up carries 256 bits itself, so that SHA-256
     will do, and thousands of devices may come back at once.
  4  A credential that was replaced counts until its grace is over; one that was revoked counts no more from its commit
     on, and whoever listens hears of it right then.
  5  What ended is kept for a while, so that whoever shows it hears that it was revoked; the oldest go first.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from fleet import events, limits
from fleet.devices import (
    CODE_CHARS,
    CODE_GROUPS,
    CODE_LETTERS,
    CodeView,
    CodeWish,
    CredentialKind,
    CredentialView,
    DeviceView,
    EnrolWish,
    Issued,
    typed,
)
from fleet.limits import DAY, HOUR
from fleet.node import Kind, Node
from fleet.people import Refused
from store import device_certificates, keys
from store.certificates import CertificateProblem
from store.commands import Commands
from store.database import Reader, Writer
from store.device_certificates import Authority
from store.journal import Journal

_ENDED_KEPT = 16  # credentials of one device that count no more
_CODES_ENDED_KEPT = 200
_LABEL_CHARS = 8
_SERIAL_CHARS = 16
_USER = re.compile(r"[\w.@:+-]{1,128}")
_PASSWORD_CHARS_MIN, _PASSWORD_CHARS_MAX = 8, 256
_SHA256 = "sha256:"
_DAYS_MAX = 36_500.0
_IDS_AT_ONCE = 500


class Who(NamedTuple):
    """Who does it, and from where."""

    actor: str
    address: str


class Found(NamedTuple):
    """A credential as the doorkeeper needs it."""

    id: str
    node_id: str
    name: str
    gateway: bool
    proof: str
    expires_ns: int | None
    revoked_ns: int | None


class Enrolled(NamedTuple):
    """What came of an enrolment: `fresh` when the node is new here."""

    issued: Issued
    node: Node
    fresh: bool


class _New(NamedTuple):
    """A credential about to be written."""

    kind: CredentialKind
    lookup: bytes
    proof: str
    label: str
    expires_ns: int | None
    secret: str = ""
    certificate_pem: str = ""
    ca_pem: str = ""


def source_of(node_id: str) -> str:
    """The source by which a device's node claims its sender, `@NODE_ID/`, whatever way in it uses."""
    return f"device/@{node_id}/"


class Devices:
    def __init__(
        self,
        journal: Journal,
        writer: Writer,
        reader: Reader,
        commands: Commands,
        *,
        tenant: str,
        now_ns: Callable[[], int],
        authority: Authority,
        grace_ns: int = DAY,
        token_days: float = 0.0,
        certificate_days: float = 365.0,
    ) -> None:
        self._journal, self._writer, self._reader, self._commands = journal, writer, reader, commands
        self._tenant, self._now_ns = tenant, now_ns
        self._grace_ns, self._token_days, self._certificate_days = grace_ns, token_days, certificate_days
        self.authority = authority
        self._listeners: list[Callable[[Sequence[str], Sequence[str]], None]] = []
        self._hashing = asyncio.Semaphore(2)

    def listen(self, tell: Callable[[Sequence[str], Sequence[str]], None]) -> None:
        """`tell(ended, changed)` after each commit: the ids of credentials that count no more, and of those that count in
        another way. With neither, something new counts."""
        self._listeners.append(tell)

    def _told(self, ended: Sequence[str] = (), changed: Sequence[str] = ()) -> None:
        for tell in self._listeners:
            tell(ended, changed)

    # -- looking ----------------------------------------------------------------------------------------------

    async def find(self, kind: CredentialKind, lookup: bytes) -> list[Found]:
        """Those that count first, then the newest."""
        rows = await self._reader.fetch(_FIND, (kind, lookup, self._tenant))
        return [Found(*row) for row in rows]

    async def devices(self, text: str, after: str, limit: int) -> list[DeviceView]:
        """Those with `text` in their name that follow the name `after`, by name."""
        pattern = "%" + re.sub(r"([%_\\])", r"\\\1", text) + "%"
        held = await self._reader.fetch(_DEVICES, (self._tenant, pattern, after, limit))
        shown: dict[str, list[CredentialView]] = {row[0]: [] for row in held}
        ids = list(shown)
        for first in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[first : first + _IDS_AT_ONCE]
            for node_id, *columns in await self._reader.fetch(_CREDENTIALS % ",".join("?" * len(some)), some):
                shown[node_id].append(_credential(columns))
        return [
            DeviceView(
                node_id=row[0],
                name=row[1],
                gateway=bool(row[2]),
                enrolled_ns=row[3],
                enrolled_by=row[4],
                credentials=tuple(shown[row[0]]),
            )
            for row in held
        ]

    async def count(self) -> int:
        ((count,),) = await self._reader.fetch("SELECT count(*) FROM device WHERE tenant=?", (self._tenant,))
        return int(count)

    async def codes(self) -> list[CodeView]:
        """Those that can still be used, the newest first."""
        rows = await self._reader.fetch(_CODES, (self._tenant, self._now_ns()))
        return [_code(row) for row in rows]

    # -- activation codes -------------------------------------------------------------------------------------

    async def make_code(self, who: Who, wish: CodeWish) -> tuple[CodeView, str]:
        """The code, this once."""
        if not 1 <= wish.uses <= limits.code_uses_max:
            raise Refused(f"a code is good for 1 to {limits.code_uses_max:,} uses", 422)
        if not 0 < wish.hours <= 24 * 366:
            raise Refused("a code is good for up to a year; write how many hours", 422)
        if wish.name and wish.uses > 1:
            raise Refused("a code for one named node is good for one use", 422)
        _check_name(wish.name)
        groups = ("".join(secrets.choice(CODE_LETTERS) for _ in range(CODE_CHARS)) for _ in range(CODE_GROUPS))
        secret, now_ns = "-".join(groups), self._now_ns()
        made = CodeView(
            id=keys.new_ulid(now_ns),
            name=wish.name,
            node_kind=wish.node_kind,
            gateway=wish.gateway,
            uses=wish.uses,
            used=0,
            made_ns=now_ns,
            made_by=who.actor,
            expires_ns=now_ns + int(wish.hours * HOUR),
        )

        def job(db: sqlite3.Connection) -> None:
            db.execute(_DROP_CODES, {"now": now_ns, "kept": _CODES_ENDED_KEPT})
            ((count,),) = db.execute("SELECT count(*) FROM activation_code")
            if count >= limits.codes_max:
                raise Refused(f"there are {count:,} codes already; withdraw some first")
            db.execute(
                "INSERT INTO activation_code VALUES (?,?,?,?,?,?,?,0,?,?,?,NULL)",
                (
                    made.id,
                    self._tenant,
                    keys.secret_hash(typed(secret)),
                    made.name,
                    made.node_kind,
                    made.gateway,
                    made.uses,
                    made.made_ns,
                    made.made_by,
                    made.expires_ns,
                ),
            )
            said = events.CodeMade(made.id, made.name, made.gateway, made.uses, made.expires_ns, *who)
            self._journal.stage(made.id, said)

        await self._writer.write(job)
        return made, secret

    async def withdraw_code(self, who: Who, code_id: str, why: str) -> None:
        def job(db: sqlite3.Connection) -> None:
            changed = db.execute(
                "UPDATE activation_code SET revoked_ns=? WHERE id=? AND tenant=? AND revoked_ns IS NULL",
                (self._now_ns(), code_id, self._tenant),
            ).rowcount
            if not changed:
                raise Refused("there is no such code, or it was withdrawn already", 404)
            self._journal.stage(code_id, events.CodeWithdrawn(code_id, why[:500], *who))

        await self._writer.write(job)

    async def trade(self, code: str, name: str, address: str, pem: str = "") -> Enrolled | None:
        """A code for a credential, and a node for whoever comes with it; None when the code is not good. Refused when the
        name is not to be had (409) or the request for a certificate is none (422)."""
        offered, now_ns = keys.secret_hash(typed(code)), self._now_ns()
        _check_name(name)

        def job(db: sqlite3.Connection) -> Enrolled | None:
            row = db.execute(
                "SELECT id, name, node_kind, gateway FROM activation_code WHERE secret_hash=? AND tenant=?"
                " AND revoked_ns IS NULL AND used < uses AND expires_ns > ?",
                (offered, self._tenant, now_ns),
            ).fetchone()
            if row is None:
                return None
            code_id, wanted, node_kind, gateway = row[0], row[1], Kind(row[2]), bool(row[3])
            db.execute("UPDATE activation_code SET used=used+1 WHERE id=?", (code_id,))
            who = Who(f"activation code {code_id}", address)
            node_id = keys.new_ulid(now_ns)
            chosen = wanted or name or f"device-{node_id[-8:].lower()}"
            node, fresh = self._node(db, who, node_id, chosen, _kind(node_kind, gateway=gateway), known=bool(wanted))
            self._enter(db, who, node, gateway=gateway, code_id=code_id)
            new = self._certificate(db, node, pem, 0, now_ns) if pem else self._token(now_ns)
            return Enrolled(self._issue(db, who, node, new, "activation code"), node, fresh)

        enrolled = await self._writer.write(job)
        if enrolled is not None:
            self._told()
        return enrolled

    # -- credentials ------------------------------------------------------------------------------------------

    async def enrol(self, who: Who, wish: EnrolWish, why: str) -> Enrolled:
        """A node, there already or new, gets something to show."""
        if not wish.name:
            raise Refused("a device needs a name: of a node that is there, or of a new one", 422)
        _check_name(wish.name)
        now_ns = self._now_ns()
        proof, password = await self._password_of(wish)

        def job(db: sqlite3.Connection) -> Enrolled:
            kind = _kind(wish.node_kind, gateway=wish.gateway)
            node, fresh = self._node(db, who, keys.new_ulid(now_ns), wish.name, kind, known=True)
            self._enter(db, who, node, gateway=wish.gateway, code_id="")
            new = self._made_for(db, node, wish, proof, password, now_ns)
            return Enrolled(self._issue(db, who, node, new, why), node, fresh)

        enrolled = await self._writer.write(job)
        self._told()
        return enrolled

    async def rotate(self, who: Who, credential: str, why: str, pem: str = "", password: str = "") -> Issued:
        """A new one in place of `credential`, which counts until the grace is over."""
        now_ns = self._now_ns()
        proof, made_up = await self._password_of(EnrolWish(name="", password=password))

        def job(db: sqlite3.Connection) -> tuple[Issued, list[str]]:
            row = db.execute(_LIVE, {"id": credential, "tenant": self._tenant, "now": now_ns}).fetchone()
            if row is None:
                raise Refused("there is no such credential that still counts", 404)
            node_id, name, kind, label, expires_ns, made_ns = row
            node = Node(id=node_id, name=name, tenant=self._tenant)
            if kind == CredentialKind.CERTIFICATE:
                if not device_certificates.is_request(pem):
                    raise Refused("a certificate is renewed with a request (PKCS #10): the key never leaves the device")
                new = self._certificate(db, node, pem, 0, now_ns)
            elif kind == CredentialKind.PASSWORD:
                new = _New(CredentialKind.PASSWORD, label.encode(), proof, label, None, made_up)
            else:
                new = self._token(now_ns, None if expires_ns is None else expires_ns - made_ns)
            until_ns = min(now_ns + self._grace_ns, expires_ns or now_ns + self._grace_ns)
            db.execute("UPDATE credential SET expires_ns=? WHERE id=?", (until_ns, credential))
            # An answer that never came: whoever asks again from the same one has no use for what it asked for before.
            never = "former=? AND used_ns IS NULL AND revoked_ns IS NULL"
            lost = self._end(db, who, f"SELECT {_ENDING} WHERE {never}", (credential,), "replaced before it was used")
            issued = self._issue(db, who, node, new, why, former=credential, grace_until_ns=until_ns)
            return issued, lost + self._trim(db, node_id, now_ns)

        issued, gone = await self._writer.write(job)
        self._told(gone, (credential,))
        return issued

    async def revoke(self, who: Who, credential: str, why: str) -> None:
        """One credential, or, by the id of a node, all that it has."""
        which = f"SELECT {_ENDING} WHERE (id=? OR node_id=?) AND tenant=? AND revoked_ns IS NULL"

        def job(db: sqlite3.Connection) -> list[str]:
            ended = self._end(db, who, which, (credential, credential, self._tenant), why)
            if not ended:
                raise Refused("there is no such credential that still counts", 404)
            return ended

        self._told(await self._writer.write(job))

    async def used(self, uses: Iterable[tuple[str, int, str]]) -> None:
        """(credential, when, from where), written now and then: what is lost in a crash is told anew by its next use."""
        rows = [(at_ns, address, found) for found, at_ns, address in uses]
        await self._writer.write(
            lambda db: db.executemany("UPDATE credential SET used_ns=?, used_from=? WHERE id=?", rows).rowcount
        )

    async def expired(self, after_ns: int, until_ns: int) -> list[str]:
        """Credentials whose time came between the two."""
        rows = await self._reader.fetch(
            "SELECT id FROM credential WHERE expires_ns > ? AND expires_ns <= ? AND revoked_ns IS NULL",
            (after_ns, until_ns),
        )
        return [row[0] for row in rows]

    # -- in the transaction -----------------------------------------------------------------------------------

    def _node(
        self, db: sqlite3.Connection, who: Who, node_id: str, name: str, kind: Kind, *, known: bool
    ) -> tuple[Node, bool]:
        """The node of that name if one that is there may be taken, else a new one; its sender is claimed either way."""
        now_ns = self._now_ns()
        held = db.execute("SELECT id FROM node WHERE tenant=? AND name=?", (self._tenant, name)).fetchone()
        if held is not None and not known:
            raise Refused(f"there is already a node {name}; another name, or a code that is made for it")
        found = held[0] if held else node_id
        source = source_of(found)
        row = (source, self._tenant, now_ns, now_ns, 0, 0, b"")
        if held is None:
            node = Node(id=found, name=name, kind=kind, tenant=self._tenant)
            return self._commands.adopting(who.actor, node, (source,), (row,))(db), True
        if db.execute("SELECT 1 FROM device WHERE node_id=?", (found,)).fetchone():
            return self._commands.claiming(who.actor, (), (), found)(db), False
        return self._commands.claiming(who.actor, (source,), (row,), found)(db), False

    def _enter(self, db: sqlite3.Connection, who: Who, node: Node, *, gateway: bool, code_id: str) -> None:
        held = db.execute("SELECT gateway FROM device WHERE node_id=?", (node.id,)).fetchone()
        if held is not None and (bool(held[0]) or not gateway):
            return
        ((count,),) = db.execute("SELECT count(*) FROM device")
        if held is None and count >= limits.devices_max:
            raise Refused(f"this site has {count:,} devices, as many as it may have")
        db.execute(
            "INSERT INTO device VALUES (?,?,?,?,?) ON CONFLICT DO UPDATE SET gateway=excluded.gateway",
            (node.id, self._tenant, gateway, self._now_ns(), who.actor),
        )
        self._journal.stage(node.id, events.DeviceEnrolled(node.name, gateway, code_id, *who))

    def _issue(
        self,
        db: sqlite3.Connection,
        who: Who,
        node: Node,
        new: _New,
        why: str,
        *,
        former: str = "",
        grace_until_ns: int = 0,
    ) -> Issued:
        now_ns, why = self._now_ns(), why[:500]
        made = keys.new_ulid(now_ns)
        label = new.label or made[-_LABEL_CHARS:]
        ((live,),) = db.execute(
            "SELECT count(*) FROM credential WHERE node_id=? AND revoked_ns IS NULL AND (expires_ns IS NULL OR expires_ns>?)",
            (node.id, now_ns),
        )
        if live >= limits.credentials_per_device_max:
            raise Refused(f"{node.name} has {live} credentials that count, as many as it may have; revoke one first")
        db.execute(
            "INSERT INTO credential (id, tenant, node_id, kind, lookup, proof, label, made_ns, made_by, expires_ns,"
            " used_from, former) VALUES (?,?,?,?,?,?,?,?,?,?,'',?)",
            (
                made,
                self._tenant,
                node.id,
                new.kind,
                new.lookup,
                new.proof,
                label,
                now_ns,
                who.actor,
                new.expires_ns,
                former,
            ),
        )
        said = events.CredentialIssued(made, new.kind, label, new.expires_ns or 0, why, *who)
        self._journal.stage(node.id, said)
        if former:
            turned = events.CredentialRotated(made, former, grace_until_ns, why, *who)
            self._journal.stage(node.id, turned)
        return Issued(
            node_id=node.id,
            name=node.name,
            credential=made,
            kind=new.kind,
            user=new.label if new.kind is CredentialKind.PASSWORD else "",
            secret=new.secret,
            certificate_pem=new.certificate_pem,
            ca_pem=new.ca_pem,
            expires_ns=new.expires_ns,
        )

    def _end(self, db: sqlite3.Connection, who: Who, which: str, terms: Sequence[str], why: str) -> list[str]:
        rows = db.execute(which, terms).fetchall()
        for found, node_id, kind, label in rows:
            db.execute("UPDATE credential SET revoked_ns=? WHERE id=?", (self._now_ns(), found))
            self._journal.stage(node_id, events.CredentialRevoked(found, kind, label, why[:500], *who))
        return [row[0] for row in rows]

    def _trim(self, db: sqlite3.Connection, node_id: str, now_ns: int) -> list[str]:
        """Let go of what ended longest ago."""
        rows = db.execute(
            "DELETE FROM credential WHERE id IN (SELECT id FROM credential WHERE node_id=? AND"
            " (revoked_ns IS NOT NULL OR expires_ns <= ?) ORDER BY made_ns DESC LIMIT -1 OFFSET ?) RETURNING id",
            (node_id, now_ns, _ENDED_KEPT),
        )
        return [row[0] for row in rows.fetchall()]

    def _token(self, now_ns: int, lasts_ns: int | None = None) -> _New:
        secret = keys.new_secret("device")
        lasts_ns = lasts_ns or int(self._token_days * DAY) or None
        expires_ns = now_ns + lasts_ns if lasts_ns else None
        return _New(CredentialKind.TOKEN, keys.secret_hash(secret), "", "", expires_ns, secret)

    def _made_for(
        self, db: sqlite3.Connection, node: Node, wish: EnrolWish, proof: str, password: str, now_ns: int
    ) -> _New:
        if not 0 <= wish.days <= _DAYS_MAX:
            raise Refused("a credential lasts up to a hundred years; write how many days, 0 for ever", 422)
        lasts_ns = int(wish.days * DAY) or None
        if wish.credential is CredentialKind.CERTIFICATE:
            return self._certificate(db, node, wish.pem, wish.days, now_ns)
        if wish.credential is CredentialKind.TOKEN:
            return self._token(now_ns, lasts_ns)
        user = wish.user or node.name
        if not _USER.fullmatch(user):
            raise Refused("a user name has 1 to 128 letters, digits and . _ - @ : +; give one with the password", 422)
        held = db.execute(
            "SELECT node_id FROM credential WHERE kind=? AND lookup=? AND tenant=? AND revoked_ns IS NULL"
            " AND (expires_ns IS NULL OR expires_ns > ?)",
            (CredentialKind.PASSWORD, user.encode(), self._tenant, now_ns),
        ).fetchone()
        if held is not None:
            raise Refused(f"there is a user {user} already; revoke that first, or choose another name")
        expires_ns = now_ns + lasts_ns if lasts_ns else None
        return _New(CredentialKind.PASSWORD, user.encode(), proof, user, expires_ns, password)

    def _certificate(self, db: sqlite3.Connection, node: Node, pem: str, days: float, now_ns: int) -> _New:
        """One that is shown, or one for a request. Refused (422) when it will not do."""
        ours = device_certificates.is_request(pem)
        try:
            if ours:
                shown = self.authority.sign(pem, node.name, node.id, days or self._certificate_days, now_ns)
            else:
                shown = device_certificates.read(pem)
        except CertificateProblem as problem:
            raise Refused(str(problem), 422) from problem
        if shown.expires_ns <= now_ns:
            raise Refused("this certificate has expired", 422)
        if db.execute(
            "SELECT 1 FROM credential WHERE kind=? AND lookup=? AND revoked_ns IS NULL",
            (CredentialKind.CERTIFICATE, shown.fingerprint),
        ).fetchone():
            raise Refused("this certificate is a device's already; revoke it there first")
        return _New(
            CredentialKind.CERTIFICATE,
            shown.fingerprint,
            "",
            shown.serial[:_SERIAL_CHARS],
            shown.expires_ns,
            certificate_pem=shown.pem if ours else "",
            ca_pem=self.authority.ca_pem(now_ns) if ours else "",
        )

    async def _password_of(self, wish: EnrolWish) -> tuple[str, str]:
        """(how it is kept, what is told to the person: one that was made up)"""
        if not wish.password:
            made_up = keys.new_secret("pass")
            return _SHA256 + keys.secret_hash(made_up).hex(), made_up
        if not _PASSWORD_CHARS_MIN <= len(wish.password) <= _PASSWORD_CHARS_MAX:
            raise Refused(f"a password has {_PASSWORD_CHARS_MIN} to {_PASSWORD_CHARS_MAX} characters", 422)
        async with self._hashing:
            return await asyncio.to_thread(keys.hash_password, wish.password), ""


def is_slow(proof: str) -> bool:
    """Whether holding a password against it takes real work."""
    return not proof.startswith(_SHA256)


def proves(proof: str, password: str) -> bool:
    if is_slow(proof):
        return keys.password_matches(proof, password[:_PASSWORD_CHARS_MAX])
    return keys.same(proof, _SHA256 + keys.secret_hash(password).hex())


def _check_name(name: str) -> None:
    if name and (len(name) > limits.name_chars_max or not name.isprintable() or not name.strip()):
        raise Refused(f"a node's name has 1 to {limits.name_chars_max} printable characters", 422)


def _kind(said: Kind, *, gateway: bool) -> Kind:
    """Of a new node: one that brings others is no edge of the fleet, unless somebody says what it is."""
    return Kind.GATEWAY if gateway and said is Kind.EDGE else said


def _credential(columns: Sequence[object]) -> CredentialView:
    found, kind, label, made_ns, made_by, expires_ns, revoked_ns, used_ns, used_from = columns
    return CredentialView(
        id=str(found),
        kind=CredentialKind(str(kind)),
        label=str(label),
        made_ns=_whole(made_ns) or 0,
        made_by=str(made_by),
        expires_ns=_whole(expires_ns),
        revoked_ns=_whole(revoked_ns),
        used_ns=_whole(used_ns),
        used_from=str(used_from),
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _code(row: Sequence[object]) -> CodeView:
    found, name, node_kind, gateway, uses, used, made_ns, made_by, expires_ns, revoked_ns = row
    return CodeView(
        id=str(found),
        name=str(name),
        node_kind=Kind(str(node_kind)),
        gateway=bool(gateway),
        uses=_whole(uses) or 0,
        used=_whole(used) or 0,
        made_ns=_whole(made_ns) or 0,
        made_by=str(made_by),
        expires_ns=_whole(expires_ns) or 0,
        revoked_ns=_whole(revoked_ns),
    )


_FIND = (
    "SELECT c.id, c.node_id, n.name, d.gateway, c.proof, c.expires_ns, c.revoked_ns FROM credential c"
    " JOIN device d ON d.node_id=c.node_id JOIN node n ON n.id=c.node_id WHERE c.kind=? AND c.lookup=? AND c.tenant=?"
    " ORDER BY c.revoked_ns IS NOT NULL, c.made_ns DESC LIMIT 4"
)
_ENDING = "id, node_id, kind, label FROM credential"
_LIVE = (
    "SELECT c.node_id, n.name, c.kind, c.label, c.expires_ns, c.made_ns FROM credential c JOIN node n ON n.id=c.node_id"
    " WHERE c.id=:id AND c.tenant=:tenant AND c.revoked_ns IS NULL AND (c.expires_ns IS NULL OR c.expires_ns > :now)"
)
_DEVICES = (
    "SELECT d.node_id, n.name, d.gateway, d.enrolled_ns, d.enrolled_by FROM device d JOIN node n ON n.id=d.node_id"
    " WHERE d.tenant=? AND n.name LIKE ? ESCAPE '\\' AND n.name > ? ORDER BY n.name LIMIT ?"
)
_CREDENTIALS = (
    "SELECT node_id, id, kind, label, made_ns, made_by, expires_ns, revoked_ns, used_ns, used_from FROM credential"
    " WHERE node_id IN (%s) ORDER BY made_ns DESC, id DESC"
)
_CODES = (
    "SELECT id, name, node_kind, gateway, uses, used, made_ns, made_by, expires_ns, revoked_ns FROM activation_code"
    " WHERE tenant=? AND revoked_ns IS NULL AND used < uses AND expires_ns > ? ORDER BY made_ns DESC, id DESC"
)
_DROP_CODES = (
    "DELETE FROM activation_code WHERE id IN (SELECT id FROM activation_code WHERE revoked_ns IS NOT NULL OR used>=uses"
    " OR expires_ns<=:now ORDER BY made_ns DESC LIMIT -1 OFFSET :kept)"
)
