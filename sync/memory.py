"""What does a link do at its worst? One in memory, between ends of one process: for tests, with faults from a seed.

It keeps the promises of `sync.link` and not a bit more: it loses, delays and repeats, and lanes overtake each other.
Within one lane of one site the first copies come in order; a second copy may come much later.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import NamedTuple

from sync.inbox import Inbox
from sync.link import LinkDown, Parcel, Tally
from sync.messages import PARCEL_BYTES_MAX, Lane

UNDER_WAY_BYTES_MAX = 8 * 1024 * 1024  # of one site, way and lane, sent and not taken; when full, `send` waits


class _Way(NamedTuple):
    peer: str
    upward: bool
    lane: Lane


class Faults(NamedTuple):
    """Chances in [0, 1], delays in seconds."""

    loss: float = 0.0
    repeat: float = 0.0
    delay_s_min: float = 0.0
    delay_s_max: float = 0.0
    late_s_max: float = 0.05  # of a second copy


class Exchange:
    """A hub's end, and one for each site, made by `site`. `faults` may be changed at any time."""

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.hub = MemoryEnd(self, "")
        self._dice = random.Random(seed)
        self._sites: dict[str, MemoryEnd] = {}
        self._cut: set[str] = set()
        self._flying: dict[_Way, deque[Parcel]] = {}
        self._due_s: dict[_Way, float] = {}
        self._under_way: dict[_Way, int] = {}
        self._turn = asyncio.Event()

    def site(self, writer: str) -> MemoryEnd:
        if writer not in self._sites:
            self._sites[writer] = MemoryEnd(self, writer)
        return self._sites[writer]

    def cut(self, writer: str) -> None:
        """Nothing goes any more; what arrives before `restore` is gone."""
        self._cut.add(writer)
        self._turn.set()

    def restore(self, writer: str) -> None:
        self._cut.discard(writer)

    def is_cut(self, writer: str) -> bool:
        return writer in self._cut

    async def carry(self, parcel: Parcel, upward: bool) -> None:
        """LinkDown in a cut, also in one that comes while it waits for room."""
        way = _Way(parcel.peer, upward, parcel.lane)
        from_end = self.site(parcel.peer) if upward else self.hub
        while (used := self._under_way.get(way, 0)) and used + len(parcel.data) > UNDER_WAY_BYTES_MAX:
            self._turn.clear()
            await self._turn.wait()
            if self.is_cut(parcel.peer) or not from_end.up:
                break
        if self.is_cut(parcel.peer) or not from_end.up:
            raise LinkDown(from_end.problem or "the line to that site is cut")
        loop, faults, dice = asyncio.get_running_loop(), self.faults, self._dice
        due_s = loop.time() + dice.uniform(faults.delay_s_min, faults.delay_s_max)
        due_s = self._due_s[way] = max(due_s, self._due_s.get(way, 0.0))
        if dice.random() >= faults.loss:
            self._count(way, parcel)
            self._flying.setdefault(way, deque()).append(parcel)
            loop.call_at(due_s, self._next_arrives, way)
        if dice.random() < faults.repeat:
            self._count(way, parcel)
            loop.call_at(due_s + dice.uniform(0.0, faults.late_s_max), self._arrives, way, parcel)

    def taken(self, parcel: Parcel, upward: bool) -> None:
        self._under_way[_Way(parcel.peer, upward, parcel.lane)] -= len(parcel.data)
        self._turn.set()

    def _count(self, way: _Way, parcel: Parcel) -> None:
        self._under_way[way] = self._under_way.get(way, 0) + len(parcel.data)

    def _next_arrives(self, way: _Way) -> None:
        self._arrives(way, self._flying[way].popleft())  # timers for one instant fire in any order

    def _arrives(self, way: _Way, parcel: Parcel) -> None:
        end = self.hub if way.upward else self.site(way.peer)
        if self.is_cut(way.peer) or not end.accept(parcel):
            self.taken(parcel, way.upward)


class MemoryEnd:
    """A site's end, or the hub's if it is nobody's."""

    def __init__(self, exchange: Exchange, writer: str) -> None:
        self._exchange, self._writer = exchange, writer
        self._in = Inbox()
        self._tallies: dict[str, Tally] = {}
        self._open = self._closed = False

    @property
    def up(self) -> bool:
        return not self.problem

    @property
    def problem(self) -> str:
        if self._closed or not self._open:
            return "the link was closed" if self._closed else "the link was not opened yet"
        return "the line is cut" if self._exchange.is_cut(self._writer) else ""

    @property
    def url(self) -> str:
        return ""

    def tally(self, peer: str = "") -> Tally:
        rows = [self._tallies.get(peer, Tally())] if peer else self._tallies.values()
        return Tally(*map(sum, zip(Tally(), *rows, strict=True)))

    async def open(self) -> None:
        self._open = True

    async def send(self, parcel: Parcel) -> None:
        if len(parcel.data) > PARCEL_BYTES_MAX:
            raise ValueError(f"a parcel of {len(parcel.data):,} bytes; {PARCEL_BYTES_MAX:,} are the most")
        parcel = parcel._replace(peer=self._writer or parcel.peer)
        if not self.up:
            raise LinkDown(self.problem)
        await self._exchange.carry(parcel, upward=bool(self._writer))
        was = self._tallies.get(parcel.peer, Tally())
        size = was.sent_bytes + len(parcel.data)
        self._tallies[parcel.peer] = was._replace(sent=was.sent + 1, sent_bytes=size)

    def accept(self, parcel: Parcel) -> bool:
        if not self._open or not self._in.put(parcel):
            return False
        was = self._tallies.get(parcel.peer, Tally())
        size = was.received_bytes + len(parcel.data)
        self._tallies[parcel.peer] = was._replace(received=was.received + 1, received_bytes=size)
        return True

    async def receive(self) -> Parcel | None:
        taken = await self._in.take()
        if taken is None:
            return None
        self._exchange.taken(taken[0], upward=not self._writer)
        return taken[0]

    async def close(self) -> None:
        self._closed = True
        self._in.close()
