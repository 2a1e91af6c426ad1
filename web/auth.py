"""Who is asking? Session cookie, bearer token or the control socket, for http and websocket alike.

Pure ASGI: it puts `Identity | None` under scope["skerry.who"] and decides nothing; policies do. The proof that a
change was asked for by our own page (origin and token) stands here too, because only sessions need it.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie

import msgspec
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from web import asked, forms
from web.policy import Policy
from web.ports import Identity, Refused, Role

SESSION_COOKIE = "skerry_session"
SESSION_SECONDS = 30 * 86_400  # the browser's side; the box ends a session when it sees fit
CSRF_FIELD = "csrf"
CSRF_HEADER = "x-csrf-token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_SECRET_CHARS_MAX = 256


class Authentication:
    """A PUBLIC route asks nobody: no look-up is spent on it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            entry = scope.get("skerry.entry")
            public = entry is not None and entry.policy is Policy.PUBLIC
            scope["skerry.who"] = None if public else await identify(scope, scope["skerry.house"])
        await self._app(scope, receive, send)


async def identify(scope: Scope, house: asked.House) -> Identity | None:
    """One of this tenant's people, or of those at the hub's first tenant who look across. Whoever has an account elsewhere is
    nobody here."""
    if from_control_socket(scope):
        return Identity(name="console", role=Role.OPERATOR_ADMIN, via="console", address="console")
    address = address_of(scope)
    found = await _known(scope, address, house)
    # From where this one asks: what is known of a session or a token was perhaps first asked for from elsewhere.
    return msgspec.structs.replace(found, address=address) if found is not None else None


async def _known(scope: Scope, address: str, house: asked.House) -> Identity | None:
    headers = Headers(scope=scope)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        token = token.strip()
        if not 0 < len(token) <= _SECRET_CHARS_MAX:
            return None
        found = await house.people.bearer(token, address)
        if found is None and house.across is not None:
            found = _across(await house.across.bearer(token, address))
        return found
    own = cookie(headers, session_cookie(scope, house.tenant if house.prefix else ""))
    found = await house.people.session(own, address) if own else None
    if found is None and house.across is not None and (other := cookie(headers, session_cookie(scope))):
        found = _across(await house.across.session(other, address))
    return found


def _across(who: Identity | None) -> Identity | None:
    return guest(who) if who is not None and who.role.across else None


def guest(who: Identity) -> Identity:
    """At another tenant than his own, under a name that none of its accounts can have."""
    return msgspec.structs.replace(who, name=f"{who.name} of {who.tenant}")


def session_cookie(scope: Scope, tenant: str = "") -> str:
    """Browsers keep cookies by host, whatever the port. So each of a machine's boxes, each port of a box and each tenant of a
    hub (but its first) has one of its own name: one browser may be signed in at all of them."""
    port = Headers(scope=scope).get("host", "").rpartition(":")[2]
    where = port if port.isascii() and port.isdecimal() else "tls" if scope["scheme"] in ("https", "wss") else ""
    return f"{SESSION_COOKIE}{'_' if where else ''}{where[:5]}{'.' if tenant else ''}{tenant}"


def from_control_socket(scope: Scope) -> bool:
    """A UNIX socket has no port on our side (uvicorn gives (path, None)); only who may open its file can use it.

    The client alone proves nothing: it is None, too, for a TCP peer that hung up early.
    """
    server = scope.get("server")
    return server is not None and server[1] is None and scope.get("client") is None


def address_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def cookie(headers: Headers, name: str) -> str:
    """One cookie, or nothing when the header is not to be read."""
    try:
        jar = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    value = jar[name].value if name in jar else ""
    return value if len(value) <= _SECRET_CHARS_MAX else ""


def same_origin(connection: HTTPConnection) -> bool:
    """True unless the browser says that another site sent this. Programs say nothing and carry no cookie."""
    headers = connection.headers
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    return origin.partition("://")[2] == headers.get("host", "")


async def check_intent(request: Request, who: Identity | None) -> None:
    """Refused (403) when a change may have been asked for by a foreign page.

    Origin for everyone (the sign-in form has no session yet, and a foreign page must not sign anybody in); the token
    for sessions. A bearer token or the control socket cannot be borrowed by a page.
    """
    if request.method in _SAFE or (who is not None and who.via != "session"):
        return
    if not same_origin(request):
        raise Refused("This was sent by another site, so nothing was done. Use the buttons of this page.", 403)
    if who is None:
        return
    sent = request.headers.get(CSRF_HEADER) or (await forms.form(request)).get(CSRF_FIELD, "")
    if not who.csrf or not hmac.compare_digest(sent.encode(), who.csrf.encode()):
        raise Refused("This page is older than your session, so nothing was done. Reload it and try again.", 403)


def open_session(request: Request, response: Response, secret: str) -> None:
    house = asked.house(request)
    response.set_cookie(
        session_cookie(request.scope, house.tenant if house.prefix else ""),
        secret,
        max_age=SESSION_SECONDS,
        path=f"{house.prefix}/",
        httponly=True,
        samesite="lax",
        secure=asked.is_secure(request),
    )


async def close_session(request: Request, response: Response) -> None:
    """The session at this tenant, or the one at the hub's first that looks in here."""
    house, headers, scope = asked.house(request), request.headers, request.scope
    address = address_of(scope)
    for people, name, path in (
        (house.people, session_cookie(scope, house.tenant if house.prefix else ""), f"{house.prefix}/"),
        (house.across, session_cookie(scope), "/"),
    ):
        secret = cookie(headers, name)
        if people is not None and secret:
            await people.sign_out(secret, address)
            response.delete_cookie(name, path=path, httponly=True, samesite="lax", secure=asked.is_secure(request))
            return
