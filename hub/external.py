"""The NATS server is somebody else's: how does the hub reach it, and what must be entered there?

Rules of the file
  1  The hub starts, stops and configures nothing there. It connects as `link.user`, and makes the streams it needs.
  2  Who runs that server admits the hub and every site: the lines to enter are made here, with the same rights that
     the hub's own server gives (`sync.jetstream.rights_of`).
  3  Passwords leave this box as hashes (bcrypt, which that server reads). A site's has 256 random bits, so it is hashed
     at the least cost, or a fleet that comes back at once would keep that server busy.
"""

from __future__ import annotations

import ctypes
import json
import secrets
from collections.abc import Mapping
from itertools import chain

from hub.broker import Admission, entry_of
from hub.config import Link
from sync import jetstream

COST_OF_SITES, COST_OF_THE_HUB = 4, 11
_SALT = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2", None)  # of Debian; of others; in musl's libc itself


class External:
    """In the place of a `hub.broker.Broker`, with nothing to look after."""

    def __init__(self, config: Link, name: str, room_mib: int) -> None:
        self.url, self.user, self.password = config.url, config.user, config.password
        self._name, self._room_mib = name, room_mib

    def urls(self, host: str = "") -> tuple[str, ...]:
        return (self.url,)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def admit(self, *sites: Admission) -> None: ...

    async def expel(self, tenant: str, writer: str) -> None: ...

    def site_entry(self, one: Admission) -> str:
        """One line among the users of its configuration."""
        user, rights = jetstream.user_of(one.tenant, one.writer), jetstream.rights_of(one.tenant, one.writer)
        return json.dumps(entry_of(user, hashed(one.password, COST_OF_SITES), rights))

    def configuration(self, tenants: Mapping[str, Mapping[str, str]]) -> str:
        """An account with the hub and the sites of each tenant (name → `site_entry`), to be included in that server's
        configuration."""
        each = [jetstream.rights_of_hub(tenant, self.user) for tenant in tenants]
        rights = jetstream.Rights(*(tuple(dict.fromkeys(chain.from_iterable(way))) for way in zip(*each, strict=True)))
        users = [f"# hub {self._name}", json.dumps(entry_of(self.user, hashed(self.password, COST_OF_THE_HUB), rights))]
        for sites in tenants.values():
            for name, entry in sites.items():
                users += [f"# site {name}", entry]
        room_mib = self._room_mib * len(tenants)
        return "\n".join(
            (
                f"# What hub {self._name} needs of a NATS server: an account with JetStream, and {room_mib:,} MiB in it.",
                "accounts {",
                "  SKERRY {",
                "    jetstream: enabled",
                "    users: [",
                *(f"      {line}" for line in users),
                "    ]",
                "  }",
                "}",
                "",
            )
        )


def hashed(password: str, cost: int) -> str:
    """As bcrypt, by the C library's crypt(3). The password itself where that knows no bcrypt."""
    salt = "".join(secrets.choice(_SALT) for _ in range(22))
    for name in _LIBRARIES:
        try:
            crypt = ctypes.CDLL(name).crypt
        except (OSError, AttributeError):
            continue
        crypt.argtypes, crypt.restype = (ctypes.c_char_p, ctypes.c_char_p), ctypes.c_char_p
        made = crypt(password.encode(), f"$2b${cost:02}${salt}".encode())
        if made and made.startswith(b"$2b$"):
            return str(made.decode())
    return password
