"""Calls of a device (RPC): a method with parameters goes to one that is connected, and its answer comes back.

Rules of the file
  1  A call lives as long as whoever made it waits for it, `limits.call_seconds_max` at most; nothing is kept for later.
  2  A device that is not connected is refused at once. One that is between two long polls, or has not subscribed yet, is
     tried until the time is over; so is one that is away and comes back to its session (MQTT), where it listens for calls
     with QoS 1 or 2.
  3  An answer counts only from the device that was asked, once.

Name: calls. Bound: `limits.calls_waiting_max`. When full: refused (429).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection
from typing import NamedTuple

import msgspec

from appliance.intake import device_bodies as bodies
from appliance.intake import topics
from appliance.intake.device_seats import Seat, Seats, sender
from fleet import limits
from fleet.people import Refused

_AGAIN_S = 0.1
_encode = msgspec.json.Encoder().encode


class _Open(NamedTuple):
    senders: Collection[str]
    answer: asyncio.Future[object]


class Calls:
    """`senders_of`: under which senders a node is known."""

    def __init__(self, seats: Seats, senders_of: Callable[[str], Collection[str]]) -> None:
        self._seats, self._senders_of = seats, senders_of
        self._open: dict[int, _Open] = {}
        self._numbers = itertools.count(1)
        self.made = self.answered = 0

    def __len__(self) -> int:
        return len(self._open)

    def check(self, node_id: str) -> None:
        """Refused when the node cannot be asked now."""
        if len(self._open) >= limits.calls_waiting_max:
            raise Refused("as many devices as may be are being asked just now; try again in a moment", 429)
        senders = self._senders_of(node_id)
        if not self._seats.lately(senders) and not self._comes_back(senders):
            raise Refused("the device is not connected, so nothing was sent; try again when it is")

    def _comes_back(self, senders: Collection[str]) -> bool:
        return any(
            left.away.takes(style.call if style is topics.GATEWAY else f"{style.call}0")
            for left in self._seats.away(senders)
            for style in topics.styles(left.away.device, left.behind)
        )

    async def call(self, node_id: str, method: str, params: object, timeout_s: float, *, one_way: bool) -> object:
        """What the device answers; None when nothing is awaited. Refused: 409 not connected, 429, 502 an answer that
        cannot be read, 504 none in time."""
        self.check(node_id)
        senders, number = self._senders_of(node_id), next(self._numbers)
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._open[number] = _Open(senders, answer)
        self.made += 1
        sent = False
        try:
            async with asyncio.timeout(timeout_s):
                await self._deliver(senders, number, method, params)
                sent = True
                return None if one_way else await answer
        except TimeoutError:
            raise Refused(_late(timeout_s, sent=sent, here=bool(self._seats.of(senders))), 504) from None
        finally:
            del self._open[number]

    async def _deliver(self, senders: Collection[str], number: int, method: str, params: object) -> None:
        while True:
            if any(_say(seat, number, method, params) for seat in self._seats.of(senders)):
                return
            await asyncio.sleep(_AGAIN_S)  # a line does not say when it has subscribed

    def hear(self, seat: Seat, request: str, body: bytes) -> str:
        """An answer came. Why it counts for nothing, or nothing."""
        held = self._open.get(int(request))
        if held is None or held.answer.done() or sender(seat.line.device, seat.behind) not in held.senders:
            return UNASKED
        said = bodies.value(body)
        if isinstance(said, bodies.Fault):
            held.answer.set_exception(Refused(f"the device answered with something that cannot be read: {said}", 502))
            return said
        held.answer.set_result(said)
        self.answered += 1
        return ""


UNASKED = "an answer to a call that nobody made, or that is over"


def _say(seat: Seat, number: int, method: str, params: object) -> bool:
    wish = {"method": method, "params": params}
    for style in topics.styles(seat.line.device, seat.behind):
        if style is topics.GATEWAY:
            body = _encode({"device": seat.behind, "data": {"id": number, **wish}})
            if seat.line.send(style.call, body):
                return True
        elif seat.line.send(f"{style.call}{number}", _encode(wish)):
            return True
    return False


def _late(timeout_s: float, *, sent: bool, here: bool) -> str:
    if sent:
        return f"the device did not answer within {timeout_s:g} s; it may have done what was asked all the same"
    if not here:
        return f"the device was not connected within {timeout_s:g} s; nothing was sent"
    return f"the device did not listen for calls within {timeout_s:g} s; nothing was sent"
