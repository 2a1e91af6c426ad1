"""What happens, as it happens, for programs: the journal's events as server-sent events.

Each message is one event of `/api/v1/events`; its `id` is the event's position, which is the cursor. Who comes back with
`Last-Event-ID` (a browser does so by itself) or `after` goes on behind it: nothing is skipped and nothing comes twice. The
stream ends after a while, so that a token that was revoked loses its feed; the client comes back by itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fleet.events import KINDS, Recorded
from web import api_shapes as shapes
from web import asked, forms
from web.ports import Refused, Unavailable

FEEDS_MAX = 64
BATCH_EVENTS = 500
BEAT_SECONDS = 5.0
FEED_SECONDS_MAX = 300.0
_CURSOR_MAX = 1 << 62

_open: Counter[str] = Counter()  # by tenant


async def feed(request: Request) -> Response:
    """Events as they happen (text/event-stream), from `after` or `Last-Event-ID` on; without either, from now on."""
    after = await _after(request)
    tenant = asked.house(request).tenant
    if _open[tenant] >= FEEDS_MAX:
        raise Unavailable(f"{FEEDS_MAX} programs follow the feed already; read /api/v1/events with a cursor instead")
    return StreamingResponse(
        _counted(tenant, _stream(request, after)),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def _after(request: Request) -> int:
    held = request.headers.get("last-event-id", "")
    if held:
        if not held.isascii() or not held.isdigit() or int(held) > _CURSOR_MAX:
            raise Refused("Last-Event-ID is the id of a message of this feed: a number", 400)
        return int(held)
    if "after" in request.query_params:
        return forms.number(request.query_params, "after", default=0, low=0, high=_CURSOR_MAX)
    newest = await asked.box(request).timeline(asked.who(request), 0, 1)
    return newest[0].position if newest else 0


async def _counted(tenant: str, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    _open[tenant] += 1
    try:
        async for message in stream:
            yield message
    finally:
        _open[tenant] -= 1


async def _stream(request: Request, after: int) -> AsyncIterator[bytes]:
    box, who, time = asked.box(request), asked.who(request), asyncio.get_running_loop().time
    watch, started = aiter(box.watch()), time()
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)  # what is marked from now on is noticed, also while the past is read
    try:
        yield b": from behind %d on\n\n" % after
        while time() - started < FEED_SECONDS_MAX:
            try:
                found = await box.events(who, after, BATCH_EVENTS)
            except Unavailable:
                return  # the client comes back to where it was
            for one in found:
                after = one.position
                yield _message(one)
            if len(found) == BATCH_EVENTS:
                continue
            done, _ = await asyncio.wait({waiting}, timeout=BEAT_SECONDS)
            if not done:
                yield b": alive\n\n"
                continue
            try:
                waiting.result()
            except StopAsyncIteration:
                return
            waiting = asyncio.ensure_future(anext(watch))
    finally:
        waiting.cancel()
        await asyncio.wait({waiting})
        await watch.aclose()  # type: ignore[attr-defined]


def _message(one: Recorded) -> bytes:
    kind = one.kind if one.kind in KINDS else "unknown"
    return b"event: %b\nid: %d\ndata: %b\n\n" % (kind.encode(), one.position, msgspec.json.encode(shapes.event(one)))
