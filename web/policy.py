"""Who may ask for what: a route is a row with a policy, and a table of rows is checked before it serves.

Rules: no handler looks at a role to open a door (it may to hide a button); a row without a policy cannot be made;
`Table.find` is the only way from a path to a handler.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from enum import IntEnum
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from web.ports import Identity, Refused, Role

Handler = Callable[[Request], Awaitable[Response]]

FORM_BYTES_MAX = 65_536


class Policy(IntEnum):
    """The least role that may come in; but for ACROSS. PUBLIC asks nobody who they are."""

    PUBLIC = 0
    VIEWER = Role.VIEWER
    OPERATOR = Role.OPERATOR
    ADMIN = Role.ADMIN
    OPERATOR_ADMIN = Role.OPERATOR_ADMIN
    ACROSS = 9  # whoever looks across tenants, which an admin of one does not


class Entry(NamedTuple):
    """One row of the route table. `body_bytes_max` is None where the handler bounds what it reads by itself; `uploads`
    where a form may bring a file; `past` where it answers `as_of`; `now`: why it does not, in a sentence."""

    method: str
    path: str  # with {name} for one segment
    handler: Handler
    policy: Policy
    body_bytes_max: int | None = FORM_BYTES_MAX
    uploads: bool = False
    past: bool = False
    now: str = ""


class Talk(NamedTuple):
    """One row for a websocket: the handler accepts it, or closes it. Whoever comes with a session comes from our own
    page (`app.Answer` looks at the origin); PUBLIC asks nobody, the handler then finds out who it is by itself."""

    path: str
    handler: Callable[[WebSocket], Awaitable[None]]
    policy: Policy


class Table:
    """The one route table: static paths by dictionary, patterns in the order given."""

    def __init__(self, entries: Iterable[Entry], talks: Iterable[Talk] = ()) -> None:
        self.entries = tuple(entries)
        self.talks = {talk.path: talk for talk in talks}
        for talk in self.talks.values():
            assert isinstance(talk.policy, Policy), f"the websocket {talk.path} has no policy"
        self._exact: dict[str, dict[str, Entry]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Entry]]] = []
        seen: dict[str, dict[str, Entry]] = {}
        for entry in self.entries:
            assert isinstance(entry.policy, Policy), f"{entry.method} {entry.path} has no policy"
            assert entry.path.startswith("/"), entry
            assert entry.method in ("GET", "POST", "PATCH", "DELETE"), entry
            methods = seen.setdefault(entry.path, {})
            assert entry.method not in methods, f"{entry.method} {entry.path} stands in the table twice"
            if not methods:
                self._place(entry.path, methods)
            methods[entry.method] = entry

    def _place(self, path: str, methods: dict[str, Entry]) -> None:
        if "{" in path:
            segments = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]{1,512})", re.escape(path))
            self._patterns.append((re.compile(segments), methods))
        else:
            self._exact[path] = methods

    def find(self, method: str, path: str) -> tuple[Entry | None, dict[str, str], tuple[str, ...]]:
        """The entry and the parameters of the path; without an entry, the methods that the path does take."""
        wanted = "GET" if method == "HEAD" else method
        methods, found = self._exact.get(path), {}
        if methods is None:
            for pattern, candidate in self._patterns:
                if match := pattern.fullmatch(path):
                    methods, found = candidate, match.groupdict()
                    break
        if methods is None:
            return None, {}, ()
        return methods.get(wanted), found, tuple(sorted(methods))


def admit(entry: Entry | Talk, who: Identity | None) -> None:
    """Refused (401 or 403) unless `who` may pass."""
    if entry.policy is Policy.PUBLIC:
        return
    if who is None:
        raise Refused("Sign in first.", 401)
    if entry.policy is Policy.ACROSS:
        if not who.role.across:
            raise Refused(f"This is for who looks across tenants; {who.name} is {who.role.word}.", 403)
        return
    if who.role < entry.policy:
        needed = Role(entry.policy).word
        raise Refused(f"This needs the role {needed}; {who.name} is {who.role.word}. Ask an admin.", 403)
