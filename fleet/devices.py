"""Devices that prove who they are, as pages, stores and ways in speak of them. Shapes and words only.

A *device* is a node that may show a credential; a *credential* is a token, a user with a password, or a certificate; an
*activation code* is what an operator gives to one that is to come, to be traded for a credential.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from fleet.node import Kind
from fleet.people import Refused

CODE_GROUPS, CODE_CHARS = 4, 4  # 80 bits, and gloved hands can type them
CODE_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: none looks like another
_LOOK_ALIKE = str.maketrans("OIL", "011")


class CredentialKind(StrEnum):
    TOKEN = "token"
    PASSWORD = "password"
    CERTIFICATE = "certificate"


def kind_of(word: str) -> CredentialKind:
    """Refused (422) unless it is the word of a kind."""
    try:
        return CredentialKind(word)
    except ValueError:
        raise Refused(f"A credential is one of {', '.join(CredentialKind)}.", 422) from None


def typed(code: str) -> str:
    """A code as it is compared, however its groups were typed."""
    return "".join(char for char in code.upper() if char.isalnum()).translate(_LOOK_ALIKE)


class _Shape(msgspec.Struct, frozen=True, kw_only=True):
    pass


class CredentialView(_Shape, frozen=True):
    """Never what it is; `label` tells it from others."""

    id: str
    kind: CredentialKind
    label: str
    made_ns: int
    made_by: str
    expires_ns: int | None = None
    revoked_ns: int | None = None
    used_ns: int | None = None
    used_from: str = ""


class DeviceView(_Shape, frozen=True):
    """One device with what it shows, the newest first."""

    node_id: str
    name: str
    gateway: bool
    enrolled_ns: int
    enrolled_by: str
    credentials: tuple[CredentialView, ...] = ()


class CodeView(_Shape, frozen=True):
    """An activation code that was made; the code itself was shown once."""

    id: str
    name: str
    node_kind: Kind
    gateway: bool
    uses: int
    used: int
    made_ns: int
    made_by: str
    expires_ns: int
    revoked_ns: int | None = None


class DevicesView(_Shape, frozen=True):
    """Devices by name, and the codes that can still be used. `enrolled` is how many there are, `next` the name behind which
    there are more that match; empty: none."""

    now_ns: int
    mode: str
    enrolled: int
    devices: tuple[DeviceView, ...]
    next: str
    codes: tuple[CodeView, ...]
    ca_pem: str = ""
    ca_sha256: str = ""


class CodeWish(_Shape, frozen=True):
    """What a new activation code is for. `hours` until it expires."""

    name: str = ""
    node_kind: Kind = Kind.EDGE
    gateway: bool = False
    uses: int = 1
    hours: float = 24.0


class EnrolWish(_Shape, frozen=True):
    """Who is enrolled: `name` is of a node that is there, or of a new one. `user` and `password` belong to a password (an
    empty one is made up), `pem` to a certificate: one of its own, or a request for one. `days`: 0 for ever."""

    name: str
    node_kind: Kind = Kind.EDGE
    gateway: bool = False
    credential: CredentialKind = CredentialKind.TOKEN
    user: str = ""
    password: str = ""
    pem: str = ""
    days: float = 0.0


class Issued(_Shape, frozen=True):
    """What a device is given, this once. `secret` is its token or password."""

    node_id: str
    name: str
    credential: str
    kind: CredentialKind
    user: str = ""
    secret: str = ""
    certificate_pem: str = ""
    ca_pem: str = ""
    expires_ns: int | None = None
