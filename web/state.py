"""The latest state of the nodes, streamed: as server-sent events and over a websocket, with the same messages.

First how every node asked for is now, then its changes, and a beat when nothing else was said for five seconds. `web.latest`
says what a slow reader gets: the newest, and nothing in between. Every connection begins anew with the whole state, so one
that was cut has missed nothing by the time of its first `whole`. It ends with the token or the session that opened it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from fleet import limits
from fleet.ids import is_ulid
from web import asked, latest
from web.auth import identify
from web.ports import Identity, Refused, Unavailable

STREAMS_MAX = 256
BEAT_SECONDS = 5.0
_WORDS_MAX = 64  # tags, or sites, in one request
_AGAINST, _RESTART, _LATER = 1008, 1012, 1013  # RFC 6455 7.4.1, and its registry
_REASON_CHARS_MAX = 120  # a close frame holds 125 bytes
_FULL = f"{STREAMS_MAX} programs follow already; ask /api/v1/nodes instead"

_open: Counter[str] = Counter()  # by tenant


async def stream(request: Request) -> Response:
    """The latest state of nodes, and its changes as they come (text/event-stream)."""
    wish, who = _wish(request), asked.who(request)
    if _open[asked.house(request).tenant] >= STREAMS_MAX:
        raise Unavailable(_FULL)
    return StreamingResponse(
        _events(request, who, wish),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def _events(request: Request, who: Identity, wish: latest.Wish) -> AsyncIterator[bytes]:
    async with aclosing(_messages(request, who, wish)) as messages:
        with suppress(Unavailable):  # the client comes back
            async for one in messages:
                yield b"event: %b\nid: %d\ndata: %b\n\n" % (one.kind.encode(), one.seq, msgspec.json.encode(one))


async def socket(talk: WebSocket) -> None:
    """The same over a websocket: each message is one text."""
    who = asked.whoever(talk)
    assert who is not None
    try:
        wish = _wish(talk)
        if _open[asked.house(talk).tenant] >= STREAMS_MAX:
            raise Refused(_FULL, 503)
    except Refused as refused:
        await talk.receive()
        await talk.close(_LATER if refused.status == 503 else _AGAINST, str(refused))
        return
    await talk.accept()
    saying, hearing = asyncio.create_task(_say(talk, who, wish)), asyncio.create_task(_hear(talk))
    done, _ = await asyncio.wait({saying, hearing}, return_when=asyncio.FIRST_COMPLETED)
    for task in (saying, hearing):
        task.cancel()
    await asyncio.wait({saying, hearing})
    for task in done:
        task.result()


async def _say(talk: WebSocket, who: Identity, wish: latest.Wish) -> None:
    with suppress(WebSocketDisconnect):
        try:
            async with aclosing(_messages(talk, who, wish)) as messages:
                async for one in messages:
                    await talk.send_text(msgspec.json.encode(one).decode())
        except Unavailable as unavailable:
            await talk.close(_LATER, str(unavailable)[:_REASON_CHARS_MAX])
            return
        still = await identify(talk.scope, asked.house(talk)) is not None
        await talk.close(*((_RESTART, "the box is stopping") if still else (_AGAINST, "signed out, or let go")))


async def _hear(talk: WebSocket) -> None:
    """Nothing is expected from the other side; what it says is read, so that its end is heard."""
    while (await talk.receive())["type"] != "websocket.disconnect":
        pass


async def _messages(request: HTTPConnection, who: Identity, wish: latest.Wish) -> AsyncGenerator[latest.Message, None]:
    tenant = asked.house(request).tenant
    box, clock, time = asked.box(request), asked.house(request).clock, asyncio.get_running_loop().time
    _open[tenant] += 1
    try:
        board, reader = await latest.follow(box, who, wish)
        told = known = time()
        try:
            while not board.over:
                if time() - known >= BEAT_SECONDS:
                    known = time()
                    if await identify(request.scope, asked.house(request)) is None:
                        return
                reader.woken.clear()
                message = board.take(reader, clock())
                if message is None:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(max(told + BEAT_SECONDS - time(), 0)):
                            await reader.woken.wait()
                        continue
                    told = time()
                    if not board.alive:
                        continue
                    message = board.beat(reader, clock())
                yield message
                told = time()
        finally:
            await latest.quit_board(box, who, board, reader)
    finally:
        _open[tenant] -= 1


def _wish(request: HTTPConnection) -> latest.Wish:
    """Refused (400) for what names no node, and for too much of it."""
    query = request.query_params
    ids, tags, sites = (frozenset(query.getlist(name)) for name in ("node", "tag", "site"))
    if wrong := next((one for one in ids if not is_ulid(one)), None):
        raise Refused(f"“node” is the id of a node; this is {wrong[:40]!r}.", 400)
    if len(ids) > limits.stream_nodes_max:
        raise Refused(f"At most {limits.stream_nodes_max} nodes can be followed at once.", 400)
    if (
        any(len(one) > limits.name_chars_max for one in tags | sites)
        or len(tags) > _WORDS_MAX
        or len(sites) > _WORDS_MAX
    ):
        raise Refused(f"At most {_WORDS_MAX} tags and as many sites, of {limits.name_chars_max} characters each.", 400)
    return latest.Wish(ids, tags, sites)
