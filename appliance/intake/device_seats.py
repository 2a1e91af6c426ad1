"""Who is connected just now, and how is something said to one of them?

A *seat* is a device on a line: the one that the line belongs to, or one behind it when the line is a gateway's. A device
is known by its *sender*, `@NODE/` or `@GATEWAY/NAME`, as nodes claim it (`appliance.world`).

Rules of the file
  1  One that nobody knows has no seat: nothing is said to it that it did not ask for.
  2  A line has at most `limits.gateway_devices_max` seats; a device beyond that is stored and not spoken to.
  3  Of several seats of one device the newest is the one that counts.
  4  Whoever leaves and means to come back has its seats again then, with what each had been told when it left: as many as
     `limits.away_seats_max`, the device's own first.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from appliance.intake.device import Away, Device, Line
from fleet import limits

LATELY_S = 10.0  # one that asks again and again by HTTP is gone in between


class Seat(NamedTuple):
    line: Line
    behind: str = ""


class Left(NamedTuple):
    """A seat of one that is away; `told`: which shared attributes it knew of, None when that was not known."""

    away: Away
    behind: str
    told: bytes | None


def sender(device: Device, behind: str = "") -> str:
    """What a node claims; empty for one that nobody knows."""
    return f"@{device.node_id}/{behind}" if device.node_id else ""


class Seats:
    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._by_sender: dict[str, dict[int, Seat]] = {}  # by the identity of the line
        self._of_line: dict[int, dict[str, str]] = {}  # its senders and their names behind it
        self._left: OrderedDict[str, float] = OrderedDict()
        self._away: dict[int, dict[str, Left]] = {}  # by the identity of who is away, by sender
        self._away_by_sender: dict[str, dict[int, Left]] = {}
        self.away_count = 0

    def enter(self, line: Line, behind: str = "") -> bool:
        """Whether it is new there."""
        who, held = sender(line.device, behind), self._of_line.get(id(line), {})
        if not who or who in held or len(held) > limits.gateway_devices_max:
            return False
        self._of_line.setdefault(id(line), held)[who] = behind
        self._by_sender.setdefault(who, {})[id(line)] = Seat(line, behind)
        return True

    def leave(self, line: Line, behind: str = "") -> None:
        self._stand_up(id(line), sender(line.device, behind))

    def close(self, line: Line) -> None:
        for who in tuple(self._of_line.get(id(line), ())):
            self._stand_up(id(line), who)

    def leave_for_now(self, line: Line, away: Away, told: Callable[[str], bytes | None]) -> None:
        for who, behind in self._of_line.get(id(line), {}).items():
            if self.away_count >= limits.away_seats_max:
                return
            self.away_count += 1
            left = Left(away, behind, told(who))
            self._away.setdefault(id(away), {})[who] = left
            self._away_by_sender.setdefault(who, {})[id(away)] = left

    def come_back(self, away: Away) -> dict[str, Left]:
        """The seats that it had, by sender; it has them no more."""
        found = self._away.pop(id(away), {})
        self.away_count -= len(found)
        for who in found:
            held = self._away_by_sender[who]
            del held[id(away)]
            if not held:
                del self._away_by_sender[who]
        return found

    def away(self, senders: Iterable[str]) -> list[Left]:
        return [left for who in senders for left in self._away_by_sender.get(who, {}).values()]

    def _stand_up(self, line: int, who: str) -> None:
        if self._of_line.get(line, {}).pop(who, None) is None:
            return
        if not self._of_line[line]:
            del self._of_line[line]
        seats = self._by_sender[who]
        del seats[line]
        if not seats:
            del self._by_sender[who]
            self._left[who] = self._now_s()
            self._left.move_to_end(who)
            while len(self._left) > limits.long_polls_max:
                self._left.popitem(last=False)

    def of(self, senders: Iterable[str]) -> list[Seat]:
        """The newest first."""
        return [seat for who in senders for seat in reversed(self._by_sender.get(who, {}).values())]

    def lately(self, senders: Iterable[str]) -> bool:
        """Whether one of them is here, or was a moment ago."""
        since_s = self._now_s() - LATELY_S
        return any(who in self._by_sender or self._left.get(who, since_s) > since_s for who in senders)

    def __len__(self) -> int:
        return sum(map(len, self._by_sender.values()))
