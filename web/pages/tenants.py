"""All tenants of a hub, for those who look across them: how each stands, the way to its pages, and one more.

The switch is an address: every page of another tenant lies under /t/NAME, so that a link, a bookmark and an open tab keep
to the tenant that they were made at.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fleet import limits
from web import asked, forms, render
from web.console import wish_of
from web.doors import prefix_of
from web.policy import Entry, Policy
from web.ports import Refused, Role, TenantLine

_BODY_BYTES_MAX = 4_096


class _Wish(msgspec.Struct, frozen=True):
    name: str
    admin: str


class Made(msgspec.Struct, frozen=True):
    """`enter` is the path of a sign-in link for the first admin, good for an hour."""

    name: str
    prefix: str
    enter: str


async def show(request: Request) -> Response:
    """GET /tenants"""
    return await _show(request)


async def _show(
    request: Request, *, problem: str = "", status: int = 200, made: Made | None = None, name: str = "", admin: str = ""
) -> Response:
    house, who = asked.house(request), asked.who(request)
    lines = await _lines(request)
    if asked.wants_json(request):
        return render.data({"tenants": lines})
    return render.page(
        request,
        "tenants",
        status=status,
        problem=problem,
        lines=lines,
        made=made,
        name=name,
        admin=admin,
        may_add=who.role >= Role.OPERATOR_ADMIN and len(lines) < limits.tenants_max,
        tenants_max=limits.tenants_max,
        now_ns=house.clock(),
    )


async def _lines(request: Request) -> tuple[TenantLine, ...]:
    tenants, agent = asked.house(request).tenants, request.headers.get("user-agent", "")
    assert tenants is not None
    return tuple(await tenants.lines(asked.who(request), f"GET {asked.path(request)}", agent))


async def add(request: Request) -> Response:
    """POST /tenants: the one answer that shows the link."""
    fields = await forms.form(request)
    name, admin = fields.get("name", "").strip(), fields.get("admin", "").strip()
    try:
        made = await _add(request, name, admin)
    except Refused as refused:
        return await _show(
            request, problem=str(refused), status=refused.status, name=name[:64], admin=admin[: limits.name_chars_max]
        )
    return await _show(request, made=made)


async def _add(request: Request, name: str, admin: str) -> Made:
    tenants = asked.house(request).tenants
    assert tenants is not None
    secret = await tenants.add(asked.who(request), name, admin)
    return Made(name, prefix_of(name), f"{prefix_of(name)}/enter/{secret}")


async def read(request: Request) -> Response:
    """All tenants that this hub keeps, and how each stands."""
    return render.data({"tenants": await _lines(request)})


async def create(request: Request) -> Response:
    """Another tenant with its first admin."""
    wish = wish_of(await request.body(), _Wish)
    return render.data(await _add(request, wish.name, wish.admin), 201)


ROUTES: tuple[Entry, ...] = (  # of a hub's first tenant alone
    Entry("GET", "/tenants", show, Policy.ACROSS),
    Entry("POST", "/tenants", add, Policy.OPERATOR_ADMIN),
    Entry("GET", "/console/tenants", read, Policy.ACROSS),
    Entry("POST", "/console/tenants", create, Policy.OPERATOR_ADMIN, _BODY_BYTES_MAX),
)
