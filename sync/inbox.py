"""What came over a link and waits to be taken: the most urgent lane first, within a lane a turn for every peer.

Rules of the file
  1  Within one lane of one peer, what came first is taken first.
  2  Every queue has a bound. What finds no room is refused, and whoever put it decides what that means; only snapshots
     push out the oldest of their own, because the newest wins anyway.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from sync.link import Parcel
from sync.messages import Lane

PEER_LANE_BYTES_MAX = 8 * 1024 * 1024  # of one peer in one lane
BYTES_MAX = 128 * 1024 * 1024  # of all


class Inbox:
    """Parcels, each with a note of whoever put it (an address to acknowledge to, or nothing)."""

    def __init__(self, peer_lane_bytes_max: int = PEER_LANE_BYTES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.refused = 0
        self._peer_lane_bytes_max = peer_lane_bytes_max
        self._bytes_max = bytes_max
        self._lanes: dict[Lane, OrderedDict[str, deque[tuple[Parcel, str]]]] = {lane: OrderedDict() for lane in Lane}
        self._held: dict[tuple[str, Lane], int] = {}
        self._held_in = dict.fromkeys(Lane, 0)
        self._takers: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def held(self, peer: str, lane: Lane) -> int:
        """Bytes that wait."""
        return self._held.get((peer, lane), 0)

    def held_in(self, *lanes: Lane) -> int:
        return sum(self._held_in[lane] for lane in lanes)

    def put(self, parcel: Parcel, note: str = "") -> bool:
        """False, and counted, when there is no room."""
        size, lane, peer = len(parcel.data), parcel.lane, parcel.peer
        while lane is Lane.SNAPSHOTS and self.held(peer, lane) and not self._has_room(peer, lane, size):
            self._pop(lane, peer)
            self.refused += 1
        if self._closed or not self._has_room(peer, lane, size):
            self.refused += 1
            return False
        self._lanes[lane].setdefault(peer, deque()).append((parcel, note))
        self._count(peer, lane, size)
        self._wake()
        return True

    async def take(self) -> tuple[Parcel, str] | None:
        """The next one and its note; None after `close`."""
        while not self._closed:
            for lane, peers in self._lanes.items():
                if peers:
                    return self._pop(lane, next(iter(peers)))
            turn = asyncio.get_running_loop().create_future()
            self._takers.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()  # it was woken for a parcel that another may take now
                raise
        return None

    def clear(self, *lanes: Lane) -> None:
        for lane in lanes:
            for peer in tuple(self._lanes[lane]):
                self._count(peer, lane, -self.held(peer, lane))
            self._lanes[lane].clear()

    def close(self) -> None:
        self._closed = True
        self.clear(*Lane)
        while self._takers:
            self._wake()

    def _has_room(self, peer: str, lane: Lane, size: int) -> bool:
        held = self.held(peer, lane)
        return held + size <= self._peer_lane_bytes_max and self.held_in(*Lane) + size <= self._bytes_max

    def _count(self, peer: str, lane: Lane, size: int) -> None:
        self._held_in[lane] += size
        held = self._held.pop((peer, lane), 0) + size
        if held:
            self._held[peer, lane] = held

    def _pop(self, lane: Lane, peer: str) -> tuple[Parcel, str]:
        queue = self._lanes[lane][peer]
        parcel, note = queue.popleft()
        self._count(peer, lane, -len(parcel.data))
        if queue:
            self._lanes[lane].move_to_end(peer)
        else:
            del self._lanes[lane][peer]
        return parcel, note

    def _wake(self) -> None:
        while self._takers:
            turn = self._takers.popleft()
            if not turn.done():
                turn.set_result(None)
                return
