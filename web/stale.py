"""What has gone stale: topics with a number each, so that any thread can mark and every page can ask what is new."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

_PERIOD_S = 0.5
_HEARTBEAT_S = 5.0


class Stale:
    def __init__(self) -> None:
        self._marks: dict[str, int] = {}
        self._next = itertools.count(1)
        self.watchers = 0
        self.closing = False

    def mark(self, topic: str) -> None:
        self._marks[topic] = next(self._next)

    async def watch(self) -> AsyncIterator[frozenset[str]]:
        """The topics marked since the last item, at most twice a second; an empty set every five seconds at least."""
        seen = max(self._marks.values(), default=0)
        told = time.monotonic()
        self.watchers += 1
        try:
            while not self.closing:
                await asyncio.sleep(_PERIOD_S)
                topics = frozenset(topic for topic, mark in tuple(self._marks.items()) if mark > seen)
                seen = max(self._marks.values(), default=0)
                if topics or time.monotonic() - told >= _HEARTBEAT_S:
                    told = time.monotonic()
                    yield topics
        finally:
            self.watchers -= 1
