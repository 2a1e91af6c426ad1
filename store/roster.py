"""Which people of the hub may come in at which site? The hub makes a roster for each of its sites, and a site takes it in:
whole, in one transaction, so that they sign in there with no line to anybody.

Rules of the file
  1  A roster's version only rises. One that is older than what is here is refused: a stranger may keep a copy of it, and
     whoever was removed since would be back.
  2  An account that was made at the site holds its name; the hub's of that name is told of and passed over.
  3  A password's hash stands in the table of accounts, in a roster on its way, and, of who looks across tenants, in what
     the other tenants' rosters are made of; nowhere else: what is returned, staged or raised names people only.
  4  Every call is inside the caller's transaction. Signatures are checked before (`sync.messages.roster_content`).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from fleet import events
from fleet.limits import SECOND
from fleet.people import ALL, BREAK_GLASS, Refused, Role, RosterView
from store.journal import Journal

ENTRIES_MAX = 2_000  # people with a way to a site: a roster is one message
SITES_MAX = 1_000  # named for one person
_SAID_MAX = 200  # of what one event tells
_VERSION_MAX = 1 << 62
_MADE, _HERE, _HELD, _GLASS = "roster_made", "roster_here", "roster_held:", "glass_at:"
_ACROSS = "across"  # who looks across all tenants; not among what views are made of, for their hashes stand there
replace = msgspec.structs.replace
_SET = "INSERT INTO meta VALUES (?,?) ON CONFLICT DO UPDATE SET value=excluded.value"


class Bound(msgspec.Struct, frozen=True):
    """For which sites an account is, by name, and which it was for: those are told that it is gone."""

    sites: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    def reaches(self, site: str) -> bool:
        return ALL in self.sites or site in self.sites

    def left_it(self, site: str) -> bool:
        return not self.reaches(site) and (ALL in self.left or site in self.left)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One account. Of one that is closed no hash goes along. `gone`: it is no longer for this site."""

    name: str
    role: str
    disabled: bool
    gone: bool
    by: str  # who changed it last
    password_hash: str


class Roster(msgspec.Struct, frozen=True, array_like=True):
    tenant: str
    hub: str  # its writer
    hub_name: str
    site: str  # its writer
    version: int
    made_ns: int
    people: tuple[Entry, ...]


class Here(msgspec.Struct, frozen=True):
    """What a site remembers of the roster that it holds."""

    hub: str
    version: int
    made_ns: int
    heard_ns: int  # when the hub last said that this is how it stands
    sha256: str
    clashes: tuple[str, ...] = ()


class Taken(NamedTuple):
    """The version that is here now; why the one that was offered is not; whose sessions and roles changed."""

    version: int
    problem: str = ""
    names: frozenset[str] = frozenset()


def _meta(db: sqlite3.Connection, key: str) -> str:
    row = db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
    return str(row[0]) if row else ""


# -- at the hub --------------------------------------------------------------------------------------------------


def bound_of(raw: str | None) -> Bound:
    return msgspec.json.decode(raw, type=Bound) if raw else Bound()


def bind(former: str | None, sites: Iterable[str]) -> str | None:
    """The column `sites` for these names. Refused (422) when they cannot be."""
    named = tuple(dict.fromkeys(one.strip() for one in sites if one.strip()))
    if len(named) > SITES_MAX or any(len(one) > 64 or not one.isprintable() for one in named):
        raise Refused(f"name up to {SITES_MAX:,} sites, each with 1 to 64 printable characters, or {ALL} for all", 422)
    before = bound_of(former)
    if former is None and not named:
        return None
    sites = (ALL,) if ALL in named else named
    left = tuple(one for one in dict.fromkeys((*before.left, *before.sites)) if one not in sites)
    return msgspec.json.encode(Bound(sites, left[-SITES_MAX:])).decode()


def changed(db: sqlite3.Connection, now_ns: int) -> int:
    """An account with a way to a site was changed: the next version. As high as the clock's seconds, so that a hub that was
    restored gives no version a second time."""
    (count,) = db.execute("SELECT count(*) FROM account WHERE sites IS NOT NULL").fetchone()
    if count > ENTRIES_MAX:
        raise Refused(f"{ENTRIES_MAX:,} people have a way to a site already; close some of them first")
    version = max(made(db)[0] + 1, now_ns // SECOND)
    db.execute(_SET, (_MADE, f"{version} {now_ns}"))
    return version


def made(db: sqlite3.Connection) -> tuple[int, int]:
    """The newest version and when it was made; 0 while nobody has a way to a site."""
    version, _, at_ns = _meta(db, _MADE).partition(" ")
    return (int(version), int(at_ns)) if version else (0, 0)


class Bounded(NamedTuple):
    """An account with a way to sites, and to which."""

    entry: Entry
    bound: Bound


_BOUNDED = (
    "SELECT name, role, password_hash, disabled, sites, changed_by FROM account"
    " WHERE sites IS NOT NULL AND (tenant=? OR role IN ('OPERATOR','OPERATOR_ADMIN')) ORDER BY name"
)


def bounded(db: sqlite3.Connection, tenant: str) -> tuple[Bounded, ...]:
    """All accounts that a site of the tenant may have to know of. A name of its own outweighs that of who looks across."""
    own = _accounts(db, tenant)
    held = _meta(db, _ACROSS)
    guests = msgspec.json.decode(held, type=tuple[Bounded, ...]) if held else ()
    named = {one.entry.name for one in own}
    return (*own, *(one for one in guests if one.entry.name not in named))


def _accounts(db: sqlite3.Connection, tenant: str) -> tuple[Bounded, ...]:
    return tuple(
        Bounded(Entry(name, role, bool(disabled), False, by or "", "" if disabled else hashed), bound_of(sites))
        for name, role, hashed, disabled, sites, by in db.execute(_BOUNDED, (tenant,))
    )


def across(db: sqlite3.Connection) -> tuple[Bounded, ...]:
    """At a hub's first tenant: the accounts that look across all tenants and are, or were, for all sites."""
    found = _accounts(db, "")  # of no tenant: what is left are those who look across
    return tuple(one for one in found if ALL in one.bound.sites or ALL in one.bound.left)


def take_across(db: sqlite3.Connection, people: Sequence[Bounded], now_ns: int) -> bool:
    """At another tenant of that hub: its sites have to know of them too. Whether that is news."""
    said = msgspec.json.encode(people).decode()
    if said == (_meta(db, _ACROSS) or "[]"):
        return False
    db.execute(_SET, (_ACROSS, said))
    changed(db, now_ns)
    return True


def entries_for(people: Iterable[Bounded], site: str) -> tuple[Entry, ...]:
    """Those that a site of that name has to be told."""
    return tuple(
        entry if bound.reaches(site) else replace(entry, gone=True, password_hash="")
        for entry, bound in people
        if bound.reaches(site) or bound.left_it(site)
    )


def held_by(db: sqlite3.Connection, site: str, version: int, problem: str = "") -> None:
    """A site said what it holds."""
    db.execute(_SET, (_HELD + site, f"{version} {problem[:300]}"))


HELD = "SELECT key, value FROM meta WHERE key GLOB 'roster_*'"  # what the two views are made of


def hub_view(meta: Mapping[str, str]) -> RosterView | None:
    version, _, made_ns = meta.get(_MADE, "").partition(" ")
    if not version:
        return None
    said = {key.removeprefix(_HELD): value.partition(" ") for key, value in meta.items() if key.startswith(_HELD)}
    return RosterView(
        version=int(version),
        made_ns=int(made_ns),
        held={site: int(number) for site, (number, _, _) in said.items()},
        problems={site: problem for site, (_, _, problem) in said.items() if problem},
    )


def glass_at(db: sqlite3.Connection, site: str, at_ns: int, address: str) -> None:
    """A site's sealed account was used; `at_ns` 0: another one lies there."""
    if at_ns:
        db.execute(_SET, (_GLASS + site, f"{at_ns} {address}"))
    else:
        db.execute("DELETE FROM meta WHERE key=?", (_GLASS + site,))


def glasses(db: sqlite3.Connection) -> dict[str, tuple[int, str]]:
    """By site: when its sealed account was used, and from where."""
    rows = db.execute("SELECT key, value FROM meta WHERE key GLOB ?", (f"{_GLASS}*",))
    said = {key.removeprefix(_GLASS): value.partition(" ") for key, value in rows}
    return {site: (int(at_ns), address) for site, (at_ns, _, address) in said.items()}


# -- at a site ---------------------------------------------------------------------------------------------------

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Roster).decode


def read(raw: bytes) -> Roster:
    """ValueError when the bytes are none, without a word of what stood in them."""
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise ValueError("the bytes are no roster") from None


def here(db: sqlite3.Connection) -> Here | None:
    raw = _meta(db, _HERE)
    return msgspec.json.decode(raw, type=Here) if raw else None


def site_view(meta: Mapping[str, str]) -> RosterView | None:
    if _HERE not in meta:
        return None
    held = msgspec.json.decode(meta[_HERE], type=Here)
    return RosterView(
        version=held.version, made_ns=held.made_ns, hub=held.hub, heard_ns=held.heard_ns, clashes=held.clashes
    )


def heard(db: sqlite3.Connection, since_ns: int, now_ns: int) -> None:
    """A session that began at `since_ns` is over: if the hub said in it how its roster stands, it stood so until now."""
    held = here(db)
    if held is not None and held.heard_ns >= since_ns:
        _remember(db, replace(held, heard_ns=max(held.heard_ns, now_ns)))


def _remember(db: sqlite3.Connection, now: Here) -> None:
    db.execute(_SET, (_HERE, msgspec.json.encode(now).decode()))


def take(db: sqlite3.Connection, journal: Journal, raw: bytes, hub: str, now_ns: int) -> Taken:
    """Take in what `hub` signed for this very site. An account that it no longer names goes, with its sessions."""
    held = here(db)
    version = held.version if held else 0
    (tenant, site, _), digest = journal.log, hashlib.sha256(raw).hexdigest()
    try:
        offered = read(raw)
    except ValueError as error:
        return Taken(version, str(error))
    problem = _unfit(offered, tenant, site, hub, held, digest)
    if problem:
        return Taken(version, f"version {offered.version}: {problem}")
    if held is not None and held.sha256 == digest:
        _remember(db, replace(held, heard_ns=now_ns))
        return Taken(version)
    said, clashes, names = _apply(db, offered, now_ns)
    _remember(db, Here(offered.hub_name, offered.version, offered.made_ns, now_ns, digest, tuple(clashes)))
    if said or clashes != list(held.clashes if held else ()):
        told = (*said[:_SAID_MAX], *([("…", f"{len(said) - _SAID_MAX:,} more", "")] if len(said) > _SAID_MAX else ()))
        journal.stage(site, events.RosterTaken(offered.hub_name, offered.version, told, tuple(clashes[:_SAID_MAX])))
    return Taken(offered.version, "", frozenset(names))


def _unfit(offered: Roster, tenant: str, site: str, hub: str, held: Here | None, digest: str) -> str:
    if (offered.tenant, offered.site) != (tenant, site):
        return "it is for another site"
    if offered.hub != hub:
        return "it is of another hub"
    if not 0 < offered.version <= _VERSION_MAX or len(offered.people) > ENTRIES_MAX:
        return "it has numbers that cannot be"
    if held is not None and offered.version < held.version:
        return f"it is older than the one that is here, version {held.version}"
    if held is not None and offered.version == held.version and held.sha256 != digest:
        return "the hub made two of one version"
    return ""


def _apply(
    db: sqlite3.Connection, offered: Roster, now_ns: int
) -> tuple[list[tuple[str, str, str]], list[str], set[str]]:
    rows = db.execute("SELECT name, role, password_hash, disabled, origin FROM account").fetchall()
    ours = {name for name, *_, origin in rows if origin is None} | {BREAK_GLASS}
    before = {
        name: (role, hashed, bool(disabled)) for name, role, hashed, disabled, origin in rows if origin is not None
    }
    wanted = {one.name: one for one in offered.people if one.name not in ours and not one.gone}
    by = {one.name: one.by for one in offered.people}
    clashes = sorted(one.name for one in offered.people if one.name in ours and not one.gone and not one.disabled)
    said: list[tuple[str, str, str]] = []
    for name in sorted(before.keys() - wanted.keys()):
        _end(db, name)
        db.execute("DELETE FROM account WHERE name=?", (name,))
        said.append((name, "removed", by.get(name, "")))
    for name, one in sorted(wanted.items()):
        known = one.role in Role.__members__
        role, shut = (one.role if known else Role.VIEWER.name), one.disabled or not known
        former = before.get(name)
        what = _difference(former, role, one.password_hash, shut)
        if not what:
            continue
        if former is None:
            db.execute(
                "INSERT INTO account (name, tenant, role, password_hash, created_ns, disabled, origin, changed_by)"
                " VALUES (?,?,?,?,?,?,?,?)",
                (name, offered.tenant, role, one.password_hash, now_ns, shut, offered.hub_name, one.by),
            )
        else:
            db.execute(
                "UPDATE account SET role=?, password_hash=?, disabled=?, origin=?, changed_by=? WHERE name=?",
                (role, one.password_hash, shut, offered.hub_name, one.by, name),
            )
            if shut or former[1] != one.password_hash:
                _end(db, name)
        said += [(name, word, one.by) for word in what]
    return said, clashes, {name for name, _, _ in said}


def _difference(former: tuple[str, str, bool] | None, role: str, hashed: str, shut: bool) -> Sequence[str]:
    word = Role[role].word
    if former is None:
        return (f"added as {word}, closed" if shut else f"added as {word}",)
    was_role, was_hashed, was_shut = former
    what = [f"made {word}"] if was_role != role else []
    if was_shut != shut:
        return (*what, "closed" if shut else "opened again")
    return (*what, "given a new password") if was_hashed != hashed else what


def _end(db: sqlite3.Connection, name: str) -> None:
    db.execute("DELETE FROM session WHERE account=?", (name,))
