"""Whose pages are asked for? The address says it: `/t/NAME/…` is tenant NAME's, everything else the hub's first tenant's.

Each tenant is an app of its own (`web.app.at_home`), with its own table, box and people; here is nothing but the way to it.

Rules of the file
  1  An address of a tenant that is not here is answered by an app that knows nobody and holds nothing, in the same words:
     who may not see a tenant cannot tell whether there is one.
  2  What the app says about where to go stays under its prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAME = "[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"
_UNDER = re.compile(rf"/t/({NAME})(/.*)?", re.DOTALL)
_OF_THE_HUB = frozenset(("/healthz", "/readyz"))  # anybody may ask, so they say nothing of one tenant
_ONWARD = ("location", "hx-redirect")


def prefix_of(name: str) -> str:
    return f"/t/{name}"


class Doors:
    """`house` is the app of the hub's first tenant; `nowhere` makes that of a tenant which is not here."""

    def __init__(self, house: ASGIApp, nowhere: Callable[[str], ASGIApp]) -> None:
        self.apps: dict[str, ASGIApp] = {}
        self._house, self._nowhere = house, nowhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _UNDER.fullmatch(scope["path"]) if scope["type"] in ("http", "websocket") else None
        if found is None:
            await self._house(scope, receive, send)
            return
        name, path = found[1], found[2] or "/"
        if path in _OF_THE_HUB:
            await self._house({**scope, "path": path}, receive, send)
            return
        app = self.apps.get(name) or self._nowhere(name)
        await app({**scope, "path": path}, receive, _staying(send, prefix_of(name)))


def _staying(send: Send, prefix: str) -> Send:
    async def placed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name in _ONWARD:
                to = headers.get(name, "")
                if to.startswith("/") and not to.startswith("//"):
                    headers[name] = prefix + to
        await send(message)

    return placed
