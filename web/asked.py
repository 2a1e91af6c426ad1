"""What a handler needs to know of the request in hand: the box, the people, who asks, how they want the answer.

Reads the scope that `web.app` filled; keeps no state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from starlette.requests import Request

from web.ports import Box, Identity, People


class House(NamedTuple):
    """What all requests share. `names` is kept by `web.names`: by tenant, since when, and id → name."""

    box: Box
    people: People
    clock: Callable[[], int]
    secure_cookies: bool
    names: dict[str, tuple[int, dict[str, str]]]


def house(request: Request) -> House:
    found: House = request.scope["skerry.house"]
    return found


def box(request: Request) -> Box:
    return house(request).box


def people(request: Request) -> People:
    return house(request).people


def whoever(request: Request) -> Identity | None:
    found: Identity | None = request.scope.get("skerry.who")
    return found


def who(request: Request) -> Identity:
    """For handlers behind a policy, which has made sure of it."""
    found = whoever(request)
    assert found is not None
    return found


def wants_json(request: Request) -> bool:
    path = request.url.path
    if path.startswith(("/api/", "/v1/")) or request.query_params.get("format") == "json":
        return True
    accept = request.headers.get("accept", "")
    return "application/json" in accept and "text/html" not in accept


def is_htmx(request: Request) -> bool:
    return request.headers.get("hx-request") == "true"


def target(request: Request) -> str:
    """The id of the element that htmx will put the answer into: `div#live` → `live`."""
    return request.headers.get("hx-target", "").partition("#")[2] if is_htmx(request) else ""


def here(request: Request) -> str:
    """Path and query of this page, always from its root: what a live part asks for again."""
    query = request.url.query
    return path(request) + (f"?{query}" if query else "")


def path(request: Request) -> str:
    """The path with one slash at its head: with two, a browser would take its first part for a host."""
    return "/" + request.url.path.lstrip("/")
