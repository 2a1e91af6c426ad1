"""What the command line asks of a running appliance beyond the API, and the sign-in link it may make for a person."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fleet.people import BREAK_GLASS, Refused, role_of
from web import asked, auth, render
from web.policy import Entry, Policy

_BODY_BYTES_MAX = 4_096
_W = TypeVar("_W")


def wish_of(raw: bytes, shape: type[_W]) -> _W:
    """A body as the shape that a route takes. Refused (422) otherwise."""
    try:
        return msgspec.json.decode(raw, type=shape)
    except msgspec.MsgspecError as error:
        raise Refused(f"the body is not what this takes: {error}", 422) from error


class _Wish(msgspec.Struct, frozen=True):
    name: str


class _Seal(msgspec.Struct, frozen=True):
    again: bool = False  # void the one that is sealed already


class _Role(msgspec.Struct, frozen=True):
    name: str
    role: str


async def seal_glass(request: Request) -> Response:
    """POST /console/break-glass: the secret, this once; empty when one is sealed already and is to stay."""
    wish, people = wish_of(await request.body(), _Seal), asked.people(request)
    stays = not wish.again and people.glass.sealed_ns is not None
    secret = "" if stays else await people.seal_glass(asked.who(request))
    return render.data({"name": BREAK_GLASS, "secret": secret}, 201)


async def change_role(request: Request) -> Response:
    wish = wish_of(await request.body(), _Role)
    role = role_of(wish.role)
    await asked.people(request).change_account(asked.who(request), wish.name, role)
    return render.data({"name": wish.name, "role": role.word})


async def accounts(request: Request) -> Response:
    found = await asked.people(request).accounts()
    return render.data({"accounts": [{"name": one.name, "role": one.role.word} for one in found]})


async def make_entry(request: Request) -> Response:
    wish = wish_of(await request.body(), _Wish)
    secret = await asked.people(request).create_entry(asked.who(request), wish.name)
    return render.data({"secret": secret}, 201)


async def enter(request: Request) -> Response:
    """GET /enter/{secret}: a link from the console opens a session and leads to the first page."""
    secret = await asked.people(request).enter(request.path_params["secret"], auth.address_of(request.scope))
    response = RedirectResponse("/", 303)
    auth.open_session(request, response, secret)
    return response


ROUTES: tuple[Entry, ...] = (
    Entry("GET", "/console/accounts", accounts, Policy.ADMIN),
    Entry("POST", "/console/entries", make_entry, Policy.ADMIN, _BODY_BYTES_MAX),
    Entry("POST", "/console/role", change_role, Policy.ADMIN, _BODY_BYTES_MAX),
    Entry("POST", "/console/break-glass", seal_glass, Policy.ADMIN, _BODY_BYTES_MAX),
    Entry("GET", "/enter/{secret}", enter, Policy.PUBLIC),
)
