"""One domain: its sites and nodes, how they are, what drifts and why."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from fleet.document import Kind
from web import asked, forms, render
from web.pages import policies
from web.ports import Refused


async def show(request: Request) -> Response:
    """GET /domains/{id}"""
    return await _show(request)


async def _show(request: Request, *, problem: str = "", status: int = 200) -> Response:
    view = await policies.find(request, Kind.DOMAIN)
    if asked.wants_json(request):
        return render.data(view)
    common = await policies.shown(request, Kind.DOMAIN, view)
    return render.page(request, "domain", status=status, problem=problem, **common)


async def create(request: Request) -> Response:
    """POST /domains"""
    return await policies.create_one(request, Kind.DOMAIN)


async def change(request: Request) -> Response:
    """POST /domains/{id}"""
    fields, view = await forms.form(request), await policies.find(request, Kind.DOMAIN)
    try:
        wanted = policies.wishes(Kind.DOMAIN, fields)
        if wanted:
            await asked.box(request).policies.write(asked.who(request), Kind.DOMAIN, view.group.id, wanted)
    except Refused as refused:
        return await _show(request, problem=str(refused), status=refused.status)
    return render.see(f"/domains/{view.group.id}?done=changed")


async def take(request: Request) -> Response:
    """POST /domains/{id}/take"""
    try:
        return render.see(await policies.take_one(request, Kind.DOMAIN))
    except Refused as refused:
        if refused.status == 404:
            raise
        return await _show(request, problem=str(refused), status=refused.status)
