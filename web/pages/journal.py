"""Everything that happened, newest first; the proof that nobody changed it; the file to carry away."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fleet import limits
from fleet.events import KINDS
from web import api_shapes, asked, forms, render
from web.names import names, of_policies
from web.ports import Refused, Unavailable


async def show(request: Request) -> Response:
    """GET /journal"""
    query = request.query_params
    before = forms.number(query, "before", default=0, low=0, high=2**62)
    limit = forms.number(query, "limit", default=50, low=1, high=limits.page_items_max)
    kind = forms.text(query, "kind", chars_max=64)
    if kind and kind not in KINDS:
        raise Refused("There is no such kind of event.", 400)
    subject = forms.text(query, "subject", chars_max=limits.subject_chars_max)
    moment, who, box = await asked.moment(request), asked.who(request), asked.box(request)
    stretch = asked.stretch(request, moment)
    events = await box.timeline(who, before, limit, subject or None, kind or None, stretch)
    older = events[-1].position if len(events) == limit else 0
    if asked.wants_json(request):
        return render.data({"events": [api_shapes.event(one) for one in events], "before": older or None})
    links = (await box.links(who)).links if box.hub else ()
    return render.page(
        request,
        "journal",
        sites={one.peer: one.name for one in links},
        topic="journal" if moment is None else "",
        events=events,
        names=await names(request, [one.subject for one in events]),
        called=await of_policies(request),
        older=older,
        before=before,
        kind=kind,
        kinds=tuple(KINDS),
        subject=subject,
        within={name: query.get(name, "").strip() for name in ("from", "to")},
        same=_same(query),
        **await asked.of_moment(request, moment),
    )


def _same(query: Mapping[str, str]) -> str:
    """What goes along to an older page."""
    return urlencode({name: query[name] for name in ("kind", "subject", "from", "to") if query.get(name)})


async def verify(request: Request) -> Response:
    """GET /journal/verify: a page that is written while the check runs, and ends with its verdict. The steps replace
    each other by style alone, so that it reads the same without a script."""
    head, tail = render.halves(request, "verify")
    return StreamingResponse(
        _steps(request, head, tail), media_type="text/html; charset=utf-8", headers={"cache-control": "no-store"}
    )


async def _steps(request: Request, head: str, tail: str) -> AsyncIterator[str]:
    ui = render.environment().get_template("components.html").module
    yield head
    verdict = None
    try:
        async for step in asked.box(request).verify(asked.who(request)):
            verdict = step
            yield str(ui.verify_step(step))  # type: ignore[attr-defined]
    except (Refused, Unavailable, TimeoutError) as error:
        yield str(ui.verify_cut(str(error)))  # type: ignore[attr-defined]
    else:
        if verdict is None or not verdict.done:
            yield str(ui.verify_cut("The check ended without a verdict. Start it again."))  # type: ignore[attr-defined]
    yield tail


async def export(request: Request) -> Response:
    """GET /journal/export: the whole journal as one file."""
    house = asked.house(request)
    site = re.sub(r"[^a-z0-9-]+", "-", house.box.name.lower()).strip("-") or "site"
    name = f"journal-{site}-{render.stamp(house.clock())}.skj.zst"
    blocks = aiter(house.box.export(asked.who(request)))
    first = await anext(blocks, b"")  # what is refused is refused before the answer has begun
    return StreamingResponse(
        joined(first, blocks),
        media_type="application/zstd",
        headers={"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"},
    )


async def joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in rest:
        yield block
