"""What has gone stale? One stream of server-sent events per open page.

`stale` tells the page's live parts to ask again; `beat` says that the box is alive. A page that returns after a cut
(it sends Last-Event-ID) is told `stale` at once. The stream ends with the session, and after a while in any case; the
page comes back by itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from web import asked
from web.auth import identify
from web.ports import Unavailable

STREAMS_MAX = 256
BEAT_SECONDS = 2.0
STALLED_SECONDS = 8.0  # the box promises a sign of life every five; without one there is no beat
STREAM_SECONDS_MAX = 300.0

_open: Counter[str] = Counter()  # by tenant: one that has many pages open leaves the others theirs


async def live(request: Request) -> Response:
    """GET /live?topic=site"""
    tenant = asked.house(request).tenant
    if _open[tenant] >= STREAMS_MAX:
        raise Unavailable(f"{STREAMS_MAX} pages are open already. This page is right, but does not move; reload it.")
    topics = frozenset(request.query_params.getlist("topic")[:8])
    return StreamingResponse(
        _counted(tenant, _stream(request, topics, resumed="last-event-id" in request.headers)),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def _counted(tenant: str, stream: AsyncIterator[str]) -> AsyncIterator[str]:
    _open[tenant] += 1
    try:
        async for message in stream:
            yield message
    finally:
        _open[tenant] -= 1


async def _stream(request: Request, topics: frozenset[str], *, resumed: bool) -> AsyncIterator[str]:
    clock = asked.house(request).clock
    time = asyncio.get_running_loop().time
    watch = aiter(asked.box(request).watch())
    started = heard = time()
    waiting: asyncio.Future[frozenset[str]] | None = None
    yield _message("stale" if resumed else "beat", clock())
    try:
        while time() - started < STREAM_SECONDS_MAX:
            waiting = waiting or asyncio.ensure_future(anext(watch))
            done, _ = await asyncio.wait({waiting}, timeout=BEAT_SECONDS)
            if await identify(request.scope, asked.house(request)) is None:  # signed out, or let go, meanwhile:
                yield _message("stale", clock())  # what the page asks for now leads it to the sign-in
                return
            if done:
                try:
                    stale = waiting.result()
                except StopAsyncIteration:
                    return
                waiting, heard = None, time()
                yield _message("stale" if stale & topics else "beat", clock())
            elif time() - heard < STALLED_SECONDS:
                yield _message("beat", clock())
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.wait({waiting})
        await watch.aclose()  # type: ignore[attr-defined]


def _message(event: str, now_ns: int) -> str:
    return f"event: {event}\nid: {now_ns}\ndata: {now_ns}\n\n"
