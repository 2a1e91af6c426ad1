"""From a request to an answer: one table, one place for refusals, one set of headers.

The layers, outermost first: Headers (security headers on whatever leaves) → Finding (path → entry of the table) →
Authentication (who) → Answer (caps, policy, intent, handler, and every refusal in words).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from web import asked, render
from web.auth import Authentication, check_intent, same_origin
from web.policy import Entry, Policy, Table, Talk, admit
from web.ports import Box, People, Refused, Tenants, Unavailable
from web.routes import TABLE, TALKS

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}

_RAW_HEADERS = tuple((name.encode(), value.encode()) for name, value in HEADERS.items())


def application(
    box: Box,
    people: People,
    *,
    extra_routes: Iterable[Entry] = (),
    extra_talks: Iterable[Talk] = (),
    secure_cookies: bool = False,
    clock: Callable[[], int],
    tenant: str = "",
    prefix: str = "",
    across: People | None = None,
    tenants: Tenants | None = None,
) -> ASGIApp:
    """The pages and the API of a box. `extra_routes` and `extra_talks` (websockets) are the box's own, policy included;
    `clock` gives Unix ns; the rest is for a hub's tenants (`asked.House`). AssertionError when a route has no policy."""
    table = Table((*TABLE, *extra_routes), (*TALKS, *extra_talks))
    house = asked.House(box, people, clock, secure_cookies, tenant, prefix, across, tenants)
    return at_home(table, house)


def absent(house: asked.House, extra_routes: Iterable[Entry] = ()) -> ASGIApp:
    """A tenant that is not here, which to a stranger is as one where he has no account: the same rows, and behind none of
    them but the public ones is anything."""
    rows = (*TABLE, *extra_routes)
    table = Table(
        (row if row.policy is Policy.PUBLIC else row._replace(handler=_nothing) for row in rows),
        (talk._replace(handler=_silence) for talk in TALKS),
    )
    return at_home(table, house)


async def _silence(socket: WebSocket) -> None:
    await socket.receive()
    await socket.close(_NOT_ALLOWED)


async def _nothing(request: Request) -> Response:
    raise Refused(f"There is no tenant {asked.house(request).tenant} here that is open; see the page Tenants.", 404)


def at_home(table: Table, house: asked.House) -> ASGIApp:
    """What answers for one tenant; nothing of it knows another."""
    return Headers(Finding(Authentication(Answer()), table, house))


class Headers:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = message.get("headers", ())
                names = {name.lower() for name, _ in given}
                message["headers"] = [*given, *(pair for pair in _RAW_HEADERS if pair[0] not in names)]
            await send(message)

        await self._app(scope, receive, with_headers)


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing starts or stops with the pages; the box has its own supervisor."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


class Finding:
    def __init__(self, app: ASGIApp, table: Table, house: asked.House) -> None:
        self._app = app
        self._table = table
        self._house = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        entry: Entry | Talk | None
        entry, parameters, methods = self._table.find(scope.get("method", "GET"), scope["path"])
        if scope["type"] == "websocket":
            entry = self._table.talks.get(scope["path"])
        scope.update(
            {
                "skerry.house": self._house,
                "skerry.table": self._table,
                "skerry.entry": entry,
                "skerry.methods": methods,
                "path_params": parameters,
            }
        )
        await self._app(scope, receive, send)


class Answer:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _talk(WebSocket(scope, receive, send))
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        request = Request(scope, receive)
        try:
            response = await self._respond(request, receive)
            await response(scope, receive, watched)
        except Exception:
            # The page says that the fault is ours; the log gets the rest from whoever runs us.
            if not started:
                await refusal(request, 500, _OURS)(scope, receive, send)
            raise

    async def _respond(self, request: Request, receive: Receive) -> Response:
        try:
            entry = _entry(request)
            who = asked.whoever(request)
            capped = Request(request.scope, _capped(request, receive, entry.body_bytes_max))
            admit(entry, who)
            if request.scope["query_string"] and request.query_params.get("as_of") and not entry.past:
                raise Refused(entry.now or _NOW_ONLY, 400)
            await check_intent(capped, who)
            if who is not None and who.watched:
                agent = request.headers.get("user-agent", "")
                await asked.people(request).seen(who, f"{entry.method} {entry.path}", agent)
            return await entry.handler(capped)
        except Refused as refused:
            return _turned_away(request, refused)
        except Unavailable as unavailable:
            return refusal(request, unavailable.status, str(unavailable))
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except TimeoutError:
            return refusal(request, 503, "The box is busy and did not answer in time. Nothing is lost; try again.")


_NOW_ONLY = "This is done or told here and now; ask without “as_of”."
_OURS = (
    "Something in Skerry itself went wrong; you did nothing wrong. Nothing that was acknowledged is lost. "
    "Try again; if it stays, `skerry doctor` says more and the log has the detail."
)


def _entry(request: Request) -> Entry:
    entry: Entry | None = request.scope["skerry.entry"]
    if entry is not None:
        return entry
    methods: tuple[str, ...] = request.scope["skerry.methods"]
    if methods:
        raise Refused(f"This address takes {' and '.join(methods)}, not {request.method[:20]}.", 405)
    raise Refused("There is no page at this address.", 404)


def _capped(request: Request, receive: Receive, bytes_max: int | None) -> Receive:
    """A receive that stops at the cap. Refused (413) at once when the length is declared."""
    if bytes_max is None:
        return receive
    words = f"This is too large: at most {bytes_max // 1024} KiB fit here."
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > bytes_max:
        raise Refused(words, 413)
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > bytes_max:
            raise Refused(words, 413)
        return message

    return counted


def _turned_away(request: Request, refused: Refused) -> Response:
    if refused.status == 401 and not asked.wants_json(request):
        login = "/login" if request.method != "GET" or asked.is_htmx(request) else _login_for(asked.here(request))
        if asked.is_htmx(request):
            return Response(status_code=401, headers={"hx-redirect": login})
        return render.see(login)
    return refusal(request, refused.status, str(refused))


def _login_for(path: str) -> str:
    return "/login" if path == "/" else f"/login?next={quote(path, safe='/')}"


_TITLES = {400: "That cannot be read", 403: "Not allowed", 404: "Nothing here", 405: "Not this way", 413: "Too large"}


def refusal(request: Request, status: int, words: str) -> Response:
    """A refusal in words: a page for a person, {"error": words} for a program."""
    response = (
        render.data({"error": words}, status)
        if asked.wants_json(request)
        else render.page(
            request, "refusal", status=status, title=_TITLES.get(status, "Not done"), words_of_it=words, code=status
        )
    )
    if status == 401:
        response.headers["www-authenticate"] = "Bearer"
    if status == 405:
        response.headers["allow"] = ", ".join(request.scope["skerry.methods"])
    if status in (429, 503):
        response.headers["retry-after"] = "5"
    if status == 413:
        response.headers["connection"] = "close"  # the rest of the body stays unread
    return response


_NOT_ALLOWED = 1008  # RFC 6455 7.4.1: policy violation


async def _talk(socket: WebSocket) -> None:
    """Closed before it opens (the client sees 403) unless there is one at this address, for this one, from our own page."""
    talk: Talk | None = socket.scope["skerry.entry"]
    who = asked.whoever(socket)
    try:
        if talk is None:
            raise Refused("There is nothing at this address.", 404)
        admit(talk, who)
        if who is not None and who.via == "session" and not same_origin(socket):
            raise Refused("This was asked for by another site.", 403)
    except Refused as refused:
        await socket.receive()
        await socket.close(_NOT_ALLOWED, str(refused))
        return
    if who is not None and who.watched:
        await asked.people(socket).seen(who, f"WEBSOCKET {talk.path}", socket.headers.get("user-agent", ""))
    await talk.handler(socket)
