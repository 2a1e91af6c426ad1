"""Reading in the background lets a page that somebody waits for go first, and streams do not hold it up for ever."""

from __future__ import annotations

import asyncio
import threading

from starlette.types import Message, Receive, Scope, Send

from appliance.pages import Pages


async def _call(pages: Pages, path: str, app_headers: list[tuple[bytes, bytes]], seen: list[bool]) -> asyncio.Event:
    end = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(pages.none.is_set())
        await send({"type": "http.response.start", "status": 200, "headers": app_headers})
        seen.append(pages.none.is_set())
        await end.wait()

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        pass

    task = asyncio.create_task(pages.around(app)({"type": "http", "path": path}, receive, send))
    await asyncio.sleep(0)
    end.set()
    await task
    seen.append(pages.none.is_set())
    return end


async def test_while_a_page_is_made_the_reading_waits_and_then_goes_on() -> None:
    pages, seen = Pages(), list[bool]()
    await _call(pages, "/", [(b"content-length", b"5")], seen)
    assert seen == [False, False, True]


async def test_a_stream_holds_the_reading_only_until_its_head_is_sent() -> None:
    pages, seen = Pages(), list[bool]()
    await _call(pages, "/live", [(b"content-type", b"text/event-stream")], seen)
    assert seen == [False, True, True]


async def test_what_devices_send_does_not_hold_the_reading() -> None:
    pages, seen = Pages(), list[bool]()
    await _call(pages, "/v1/ingest", [(b"content-length", b"5")], seen)
    assert seen == [True, True, True]


def test_what_is_read_while_a_page_is_made_comes_right_after_it() -> None:
    pages, read = Pages(), list[int]()
    pages.none.clear()
    reading = threading.Thread(target=lambda: read.extend(pages.first(range(3))))
    reading.start()
    pages.none.set()
    reading.join()
    assert read == [0, 1, 2]


def test_a_page_that_never_ends_does_not_end_the_reading() -> None:
    pages = Pages()
    pages.none.clear()
    assert list(pages.first(range(300))) == list(range(300))
