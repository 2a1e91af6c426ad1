"""What has gone stale: every watcher learns of every mark once, whoever marks and however many there are."""

from __future__ import annotations

import asyncio
import threading

import pytest

from web import stale
from web.stale import Stale


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stale, "_PERIOD_S", 0.01)
    monkeypatch.setattr(stale, "_HEARTBEAT_S", 0.05)


async def test_each_watcher_learns_of_what_was_marked_since_it_came() -> None:
    made = Stale()
    made.mark("early")
    first = aiter(made.watch())
    one = asyncio.ensure_future(anext(first))
    await asyncio.sleep(0)
    made.mark("site", "node:1")
    assert await one == {"site", "node:1"}, "and not what was marked while nobody watched"
    second = aiter(made.watch())
    two = asyncio.ensure_future(anext(second))
    await asyncio.sleep(0)
    made.mark("site")
    assert await asyncio.gather(anext(first), two) == [{"site"}, {"site"}]
    assert await anext(first) == frozenset(), "a sign of life"
    for each in (first, second):
        await each.aclose()  # type: ignore[attr-defined]
    assert (made.watchers, made._marks) == (0, {})


async def test_of_many_threads_no_mark_is_lost() -> None:
    made, found = Stale(), set[str]()
    wanted = {f"node:{thread}-{number}" for thread in range(8) for number in range(500)}

    def mark(thread: int) -> None:
        for number in range(500):
            made.mark(f"node:{thread}-{number}")

    watch = aiter(made.watch())
    reading = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    threads = [threading.Thread(target=mark, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    while found < wanted:
        found |= await reading
        reading = asyncio.ensure_future(anext(watch))
    assert found == wanted
    reading.cancel()
    await asyncio.wait({reading})
    for thread in threads:
        thread.join()


async def test_it_ends_when_the_box_closes() -> None:
    made = Stale()
    made.closing = True
    assert [one async for one in made.watch()] == []
