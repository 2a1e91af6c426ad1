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
    """Each includes the ones before it."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: a person with a session, a bearer token, or the console (the command line on this box)."""

    name: str
    role: Role
    tenant: str = "default"
    via: str = "session"  # session, token, console
    address: str = ""
    csrf: str = ""  # of the session; empty for token and console, which no foreign page can borrow


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    role: Role
    created_ns: int
    disabled: bool


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    role: Role
    created_ns: int
    revoked_ns: int | None
