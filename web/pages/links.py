"""The links: how far behind the other end is, what proves that nothing was lost, and what an operator may do about it.

At a site there is one link, to its hub, and the page shows it whole; at a hub there is one to each site, in a list, and
each has a page of its own. Sticks stand on the same pages: a file is only a slower line.
"""

from __future__ import annotations

import re
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fleet import limits
from web import asked, forms, render
from web.pages.journal import joined
from web.ports import BundleView, LinkQuery, LinkState, LinksView, LinkView, Refused, Unavailable

LINK_FILE_BYTES_MAX = 65_536
REASON_CHARS_MAX = 300
PAGE_LINKS = 50
LINKS_MAX = 1_000_000


async def show(request: Request) -> Response:
    """GET /links"""
    return await _show(request)


async def show_one(request: Request) -> Response:
    """GET /links/{id}"""
    return await _show(request, request.path_params["id"])


async def _show(request: Request, peer: str = "", *, problem: str = "", status: int = 200, said: str = "") -> Response:
    if problem and asked.wants_json(request):
        raise Refused(problem, status)
    box, who = asked.box(request), asked.who(request)
    moment = await asked.moment(request) if not problem else None
    if moment is not None:
        return await _then(request, moment, peer)
    query = LinkQuery(peer=peer) if peer else query_of(request)
    view = await box.links(who, query)
    one = _find(view, peer) if peer else None
    if one is None and not box.hub and view.links:
        one = view.links[0]
    if asked.wants_json(request):
        return render.data(one if peer else view)
    return render.page(
        request,
        "links",
        status=status,
        problem=problem,
        said=said,
        topic="links",
        view=view,
        now_ns=view.now_ns,
        one=one,
        query=query,
        link=lambda **change: link(query, **change),
        stick=await _stick(request, one) if one else BundleView(),
        hub_name=box.name if box.hub else one.name if one else "",
        site_of_link=one.name if box.hub and one else box.name,
        back=f"/links/{one.peer}" if one else link(query, offset=query.offset),
    )


async def _then(request: Request, moment: asked.Moment, peer: str) -> Response:
    """How each link stood at a moment."""
    view = await moment.past.links(asked.who(request), moment.at_ns)
    query, links = query_of(request), (_find(view, peer),) if peer else view.links
    if asked.wants_json(request):
        return render.data(links[0] if peer else view)
    return render.page(
        request,
        "links_then",
        now_ns=view.now_ns,
        as_of=view.as_of,
        links=links[query.offset : query.offset + query.limit],
        matching=len(links),
        query=query,
        base=f"/links/{peer}" if peer else "/links",
    )


def query_of(request: Request) -> LinkQuery:
    """Refused (400) for what no form of ours sends. Machines that ask for no page get all."""
    asked_for = request.query_params
    most = PAGE_LINKS if not asked.wants_json(request) else LINKS_MAX
    return LinkQuery(
        text=forms.text(asked_for, "text", chars_max=limits.name_chars_max),
        state=forms.choice(asked_for, "state", LinkState),
        offset=forms.number(asked_for, "offset", default=0, low=0, high=LINKS_MAX),
        limit=forms.number(asked_for, "limit", default=most, low=1, high=most),
    )


def link(query: LinkQuery, **change: object) -> str:
    """The list with one thing changed; a change of filter starts at its first page."""
    asked_for: dict[str, object] = {"text": query.text, "state": query.state, **change}
    filled = urlencode({name: str(value) for name, value in asked_for.items() if value})
    return f"/links?{filled}" if filled else "/links"


def _find(view: LinksView, peer: str) -> LinkView:
    found = next((one for one in view.links if one.peer == peer), None)
    if found is None:
        raise Refused("There is no link to that place here.", 404)
    return found


async def _stick(request: Request, one: LinkView) -> BundleView:
    try:
        return await asked.box(request).bundle_state(asked.who(request), one.peer)
    except (Refused, Unavailable) as reason:
        return BundleView(words=(str(reason)[:1].upper() + str(reason)[1:] + ".",))


async def change(request: Request) -> Response:
    """POST /links/{id}: one word of an operator."""
    fields, peer = await forms.form(request), request.path_params["id"]
    try:
        # A button says all in one field, so that it works without a script: pause:segments
        action, _, value = forms.text(fields, "action", chars_max=64, need="Choose what to do.").partition(":")
        value = value or forms.text(fields, "value", chars_max=REASON_CHARS_MAX)
        await act(request, action, value)
    except Refused as refused:
        return await _show(request, peer, problem=str(refused), status=refused.status)
    done = action if action in ("cut", "restore", "pause", "resume", "per_s", "per_hour", "release") else ""
    return render.see(f"/links/{peer}?done={done}")


async def act(request: Request, action: str, value: str) -> None:
    """Refused (404, 422 or 409) when it is not one of the link's actions."""
    box, who, peer = asked.box(request), asked.who(request), request.path_params["id"]
    one = _find(await box.links(who, LinkQuery(peer=peer)), peer)
    if action not in one.actions:
        words = ", ".join(one.actions) or "nothing"
        raise Refused(f"What can be done to this link here and now: {words}.", 409)
    if action in ("per_s", "per_hour") and not (value.isascii() and value.isdigit() and len(value) < 16):
        raise Refused("A cap is a whole number of bytes; 0 is no cap.", 422)
    if action == "release" and not value.strip():
        raise Refused("Write why: the journal keeps it with your name.", 422)
    await box.link_change(who, peer, action, value.strip())


async def join(request: Request) -> Response:
    """POST /links/join: take in the link file that a hub made."""
    try:
        _, chunks = await forms.upload(request)
        raw = b""
        async for chunk in chunks:
            raw += chunk
            if len(raw) > LINK_FILE_BYTES_MAX:
                raise Refused("This is no link file; it is too large.", 413)
        await asked.box(request).link_join(asked.who(request), raw)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see("/links?done=joined")


async def write_bundle(request: Request) -> Response:
    """POST /links/{id}/bundle: a file for a stick, with what the other end lacks."""
    box, who, peer = asked.box(request), asked.who(request), request.path_params["id"]
    try:
        one = _find(await box.links(who, LinkQuery(peer=peer)), peer)
        chunks = aiter(box.bundle_export(who, peer))
        first = await anext(chunks, b"")  # what is refused is refused before the answer has begun
    except Refused as refused:
        return await _show(request, peer, problem=str(refused), status=refused.status)
    name = f"{_plain(box.name)}-to-{_plain(one.name)}-{render.stamp(asked.house(request).clock())}.skb"
    return StreamingResponse(joined(first, chunks), media_type="application/octet-stream", headers=_attached(name))


async def read_bundle(request: Request) -> Response:
    """POST /links/bundle: take in a file from a stick."""
    try:
        _, chunks = await forms.upload(request)
        said = await asked.box(request).bundle_import(asked.who(request), chunks)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    if asked.wants_json(request):
        return render.data({"done": True, "words": said})
    return await _show(request, said=said)


async def receipt(request: Request) -> Response:
    """GET /links/{id}/receipts/{number}: a completeness receipt, as a file that anybody can check."""
    box, peer = asked.box(request), request.path_params["id"]
    number = forms.number(request.path_params, "number", default=0, low=1, high=limits.page_items_max * 1_000_000)
    content = await box.receipt(asked.who(request), peer, number)
    headers = _attached(f"receipt-{_plain(box.name)}-{number}.json")
    return Response(content, headers=headers, media_type="application/json")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-") or "site"


def _attached(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
