"""Who did what, from where: the events of people, searched; and the file that proves them."""

from __future__ import annotations

import re
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fleet import audit, limits
from fleet.audit import Query
from web import api_shapes, asked, forms, render
from web.names import names, of_policies
from web.pages.journal import joined
from web.ports import Refused

_PERSON_CHARS_MAX = 64
_FIELDS = ("person", "kind", "subject", "from", "to")
KINDS: dict[str, str] = {
    "account": "accounts and sign-ins",
    "token": "tokens",
    "access": "who looked, across tenants",
    "glass": "break glass",
    "roster": "people from the hub",
    "document": "edits",
    "node": "nodes",
    "lifecycle": "nodes’ lives",
    "link": "links",
    "site": "sites",
    "quarantine": "quarantine",
}


async def show(request: Request) -> Response:
    """GET /audit"""
    moment, who, box = await asked.moment(request), asked.who(request), asked.box(request)
    query = _query(request, moment)
    page = await box.audit(who, query)
    if asked.wants_json(request):
        found = [
            {"who": audit.person_of(one), "from": audit.place_of(one), "event": api_shapes.event(one)}
            for one in page.events
        ]
        return render.data({"events": found, "before": page.next or None, "looked_ns": page.looked_ns})
    links = (await box.links(who)).links
    asked_for = {name: request.query_params.get(name, "") for name in _FIELDS}
    return render.page(
        request,
        "audit",
        page=page,
        query=query,
        sites={one.peer: one.name for one in links},
        names=await names(request, [one.subject for one in page.events]),
        called=await of_policies(request),
        person_of=audit.person_of,
        place_of=audit.place_of,
        kinds=KINDS,
        every=audit.AUDITED,
        asked_for=asked_for,
        same=urlencode({name: value for name, value in asked_for.items() if value}),
        **await asked.of_moment(request, moment),
    )


def _query(request: Request, moment: asked.Moment | None = None) -> Query:
    query, stretch = request.query_params, asked.stretch(request, moment)
    kind = forms.text(query, "kind", chars_max=64)
    found = Query(
        before=forms.number(query, "before", default=0, low=0, high=2**62),
        limit=forms.number(query, "limit", default=50, low=1, high=limits.page_items_max),
        person=forms.text(query, "person", chars_max=_PERSON_CHARS_MAX),
        kind=kind,
        subject=forms.text(query, "subject", chars_max=limits.subject_chars_max),
        from_ns=stretch.from_ns,
        to_ns=stretch.until_ns + 1 if stretch.until_ns is not None else None,
    )
    if not audit.kinds_of(found):
        raise Refused("No event of that kind is anybody’s deed. Choose one of those in the list.", 400)
    return found


async def export(request: Request) -> Response:
    """GET /audit/export: what the same question finds, all of it, as JSON Lines with the proof beside each event."""
    house, query = asked.house(request), _query(request)
    site = re.sub(r"[^a-z0-9-]+", "-", house.box.name.lower()).strip("-") or "site"
    name = f"audit-{site}-{render.stamp(house.clock())}.jsonl"
    pieces = aiter(house.box.audit_export(asked.who(request), query))
    first = await anext(pieces, b"")  # what is refused is refused before the answer has begun
    return StreamingResponse(
        joined(first, pieces),
        media_type="application/jsonl",
        headers={"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"},
    )
