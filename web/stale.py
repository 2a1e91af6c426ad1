"""What has gone stale: topics with a number each, so that any thread can mark and every page can ask what is new."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

# What happens shows on an open page within a second: it is noticed, the page lets this long pass between two looks, and asks.
_PERIOD_S = 0.25
PAUSE = "600ms"
_HEARTBEAT_S = 5.0


class Stale:
    def __init__(self) -> None:
        self._marks: dict[str, int] = {}  # what was marked last stands at the end
        self._count = 0
        self._lock = threading.Lock()
        self.watchers = 0
        self.closing = False

    def mark(self, *topics: str) -> None:
        """While nobody watches it costs nothing: who comes later begins with what is then."""
        if not self.watchers:
            return
        with self._lock:
            for topic in topics:
                self._count += 1
                self._marks.pop(topic, None)
                self._marks[topic] = self._count

    async def watch(self) -> AsyncIterator[frozenset[str]]:
        """The topics marked since the last item, at most four times a second; an empty set every five seconds at least."""
        self.watchers += 1
        try:
            seen, told = self._count, time.monotonic()
            while not self.closing:
                await asyncio.sleep(_PERIOD_S)
                topics, seen = self._since(seen)
                if topics or time.monotonic() - told >= _HEARTBEAT_S:
                    told = time.monotonic()
                    yield topics
        finally:
            self.watchers -= 1
            with self._lock:
                if not self.watchers:
                    self._marks.clear()

    def _since(self, seen: int) -> tuple[frozenset[str], int]:
        found = set[str]()
        with self._lock:
            for topic in reversed(self._marks):
                if self._marks[topic] <= seen:
                    break
                found.add(topic)
            return frozenset(found), self._count
