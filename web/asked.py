"""What a handler needs to know of the request in hand: the box, the people, who asks, how they want the answer.

Reads the scope that `web.app` filled; keeps no state.

`as_of` is a moment in one of three ways: RFC 3339 (2026-11-20T14:21:00Z; UTC where no zone is given, as the time fields
of browsers send it), Unix seconds (up to eleven digits), Unix nanoseconds (eighteen or nineteen).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from starlette.requests import HTTPConnection, Request

from fleet.limits import SECOND
from fleet.past import Stretch
from web.ports import AsOf, Box, Identity, Past, People, Refused, Tenants
from web.words import when


class House(NamedTuple):
    """What all requests share."""

    box: Box
    people: People
    clock: Callable[[], int]
    secure_cookies: bool  # also where the connection itself has no TLS: a proxy before it has
    tenant: str = ""  # of a hub; a site has one for good, and does not name it
    prefix: str = ""  # where the pages of this tenant are: /t/NAME, or nothing for the hub's first
    across: People | None = None  # of another tenant: those among the hub's first who look across all of them
    tenants: Tenants | None = None  # all of a hub's


def house(request: HTTPConnection) -> House:
    found: House = request.scope["skerry.house"]
    return found


def is_secure(request: HTTPConnection) -> bool:
    """Whether cookies are to travel over TLS only."""
    return house(request).secure_cookies or request.url.scheme == "https"


def box(request: HTTPConnection) -> Box:
    return house(request).box


def people(request: HTTPConnection) -> People:
    return house(request).people


def whoever(request: HTTPConnection) -> Identity | None:
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


def waits_elsewhere(request: Request) -> None:
    """From here on the answer waits for a device, and is no page that others should make room for."""
    over = request.scope.get("skerry.over")
    if over is not None:
        over()


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


# -- the moment that is asked for ----------------------------------------------------------------------------------

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_HOW = "Write 2026-11-20T14:21:00Z, or Unix seconds, or Unix nanoseconds."


class Moment(NamedTuple):
    """A past moment that may be asked for, and of whom."""

    at_ns: int
    past: Past


def read_moment(raw: str) -> int:
    """Unix ns. Refused (400) for what is no moment."""
    if raw.isascii() and raw.isdigit() and (len(raw) <= 11 or 18 <= len(raw) <= 19):
        return int(raw) * (SECOND if len(raw) <= 11 else 1)
    try:
        if not _RFC3339.fullmatch(raw):
            raise ValueError
        at = datetime.fromisoformat(raw.upper())
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = int(at.replace(microsecond=0).timestamp())
    except (ValueError, OverflowError) as error:
        raise Refused(f"“as_of” is a moment; this is {raw[:40]!r}. {_HOW}", 400) from error
    return seconds * SECOND + at.microsecond * 1_000


async def moment(request: Request) -> Moment | None:
    """What `as_of` asks for; None when the page is of now. Refused (400) in the future and before the first event, with
    what may be asked for."""
    raw = request.query_params.get("as_of", "").strip()
    if not raw:
        return None
    at_ns, past, now_ns = read_moment(raw), box(request).past, house(request).clock()
    if past is None:
        raise Refused("This box keeps no past; ask without “as_of”.", 400)
    known = await past.known(who(request))
    if known.first_ns is None:
        more = " It is still being put together; ask again in a moment." if known.behind else ""
        raise Refused(f"Nothing has happened here yet, so there is no past to look at.{more}", 400)
    if at_ns > now_ns or at_ns < known.first_ns // SECOND * SECOND:
        where = "in the future" if at_ns > now_ns else "before the first event"
        raise Refused(f"{when(at_ns)} is {where}. Ask for a moment from {when(known.first_ns)} to {when(now_ns)}.", 400)
    return Moment(at_ns, past)


def time_of(request: Request, name: str) -> int | None:
    """A moment of the query by that name (Unix ns); None when it names none. Refused (400) for what is no moment."""
    raw = request.query_params.get(name, "").strip()
    if not raw:
        return None
    try:
        return read_moment(raw)
    except Refused as refused:
        raise Refused(str(refused).replace("as_of", name), 400) from refused


def stretch(request: Request, asked_for: Moment | None = None) -> Stretch:
    """From `from` up to `to`, which is outside, and up to the moment that is asked for. Refused (400) when nothing lies
    between them."""
    from_ns, to_ns = time_of(request, "from"), time_of(request, "to")
    if from_ns is not None and to_ns is not None and from_ns >= to_ns:
        raise Refused("“From” is not before “to”, so nothing lies between them.", 400)
    ends = [to_ns - 1] if to_ns is not None else []
    ends += [asked_for.at_ns] if asked_for is not None else []
    return Stretch(from_ns, min(ends, default=None))


async def of_moment(request: Request, asked_for: Moment | None) -> dict[str, Any]:
    """What a page of the past says of itself (`render.context`); nothing for one of now."""
    if asked_for is None:
        return {}
    known = await asked_for.past.known(who(request))
    return {
        "as_of": AsOf(at_ns=asked_for.at_ns, position=known.position, behind=known.behind),
        "now_ns": asked_for.at_ns,
    }
