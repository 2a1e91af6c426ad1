"""People and what they may do; and the two answers a wish can get other than yes.

The same words on an appliance and on a hub, so that pages and stores agree without knowing each other.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Refused(Exception):
    """What was asked cannot be done; str() says why and what would work. Shown as a 4xx."""

    def __init__(self, words: str, status: int = 409) -> None:
        super().__init__(words)
        self.status = status


class Unavailable(Exception):
    """The box cannot answer now; str() says whose fault it is and what happens next. Shown as a 503 or 507."""

    def __init__(self, words: str, status: int = 503) -> None:
        super().__init__(words)
        self.status = status


class Role(IntEnum):
    """What a person may do; each includes the ones before it. Two of them are of one tenant, two look across all of them,
    and whatever those two look at is told in the log (docs/decisions/0014)."""

    VIEWER = 1  # of a tenant: looks
    OPERATOR = 2  # across tenants: looks and acts
    ADMIN = 3  # of a tenant: acts, and decides who else may
    OPERATOR_ADMIN = 4  # across tenants: all of it

    @property
    def across(self) -> bool:
        """Across tenants."""
        return self in (Role.OPERATOR, Role.OPERATOR_ADMIN)

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", "-")


def role_of(word: str) -> Role:
    """Refused (422) unless it is the word of a role."""
    for role in Role:
        if role.word == word.lower().replace("_", "-"):
            return role
    raise Refused(f"A role is one of {', '.join(role.word for role in Role)}.", 422)


def check_gift(giver: Role, role: Role, *, hub: bool) -> None:
    """Refused (403) when `giver` may not give `role`, or change who has it: nobody decides about more than he has, and at a
    hub, which may keep several tenants, only who is across them decides about another one such. A site has one tenant."""
    if role > giver:
        raise Refused(f"{_one(giver)} cannot make or change one who may do more than that", 403)
    if hub and role.across and not giver.across:
        raise Refused(f"{_one(role)} looks across all tenants, so only an operator-admin makes or changes one", 403)


def _one(role: Role) -> str:
    return f"a{'' if role is Role.VIEWER else 'n'} {role.word}"


BREAK_GLASS = "break-glass"  # the name of a site's sealed account


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: a person with a session, a bearer token, or the console (the command line on this box)."""

    name: str
    role: Role
    tenant: str = "default"
    via: str = "session"  # session, token, console
    address: str = ""
    csrf: str = ""  # of the session; empty for token and console, which no foreign page can borrow

    @property
    def watched(self) -> bool:
        """Whether what this one reads is told in the log. Who holds the folder asks nobody, so the console is not."""
        return self.role.across and self.via != "console"


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """`origin` is the hub that the account came from, at a site; `sites` are those that it is for, at a hub (`ALL`: every
    one; none: the hub alone)."""

    name: str
    role: Role
    created_ns: int
    disabled: bool
    tenant: str = "default"
    origin: str = ""
    sites: tuple[str, ...] = ()
    changed_by: str = ""


ALL = "*"


class Glass(msgspec.Struct, frozen=True, kw_only=True):
    """The sealed account: lying there since `sealed_ns`, or used, with a session open until `until_ns`."""

    sealed_ns: int | None = None
    used_ns: int | None = None
    address: str = ""
    until_ns: int | None = None


class RosterView(msgspec.Struct, frozen=True, kw_only=True):
    """The hub's accounts, as far as they have come. At a hub `held` is the version that each site (by writer) has said to
    hold; at a site `hub` is where they come from, `heard_ns` when the hub last said that this is how it stands, and
    `clashes` are names that an account of the site holds already."""

    version: int
    made_ns: int
    hub: str = ""
    heard_ns: int = 0
    clashes: tuple[str, ...] = ()
    held: dict[str, int] = {}
    problems: dict[str, str] = {}  # by site: why it refused the newest one


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    role: Role
    created_ns: int
    revoked_ns: int | None
