"""How far was the hub behind each site over the last day? Looked at once a minute, kept in memory.

Rules of the file
  1  A ring of minutes for each site; a minute in which the hub did not look, because it was down or the site was not known
     yet, holds nothing and is drawn as a gap.
  2  A start begins with an empty ring: what the journal holds is certain, this is only a picture of the last day.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable

from fleet.connectivity import Mode
from fleet.limits import MINUTE, SECOND
from hub.state import FleetHere, SiteHere

HEARD = frozenset({Mode.LIVE, Mode.REPLAYING, Mode.DELAYED, Mode.EDGE_CACHED})
MINUTES = 24 * 60
POINT_MINUTES = 10  # of a trail: the worst of so many
_PERIOD_S = MINUTE / SECOND
_NOTHING = -1
_S_MAX = (1 << 31) - 1


class Debts:
    """`run` looks, `trail` is for pages. The ring of a site that is not known any more is let go."""

    def __init__(self, fleet: FleetHere, now_ns: Callable[[], int]) -> None:
        self._fleet, self._now_ns = fleet, now_ns
        self._rings: dict[str, array[int]] = {}
        self._minute = 0

    async def run(self) -> None:
        """Supervised, for ever."""
        while True:
            self.look()
            await asyncio.sleep(_PERIOD_S)

    def look(self) -> None:
        now_ns = self._now_ns()
        minute = now_ns // MINUTE
        passed = minute - self._minute
        if not 0 <= passed < MINUTES:
            self._rings.clear()  # the clock was set, or this is the first look
        sites = dict(self._fleet.sites)
        self._rings = {writer: ring for writer, ring in self._rings.items() if writer in sites}
        for writer, site in sites.items():
            ring = self._rings.get(writer)
            if ring is None:
                ring = self._rings[writer] = array("i", [_NOTHING]) * MINUTES
            elif passed > 1:
                for skipped in range(self._minute + 1, minute):
                    ring[skipped % MINUTES] = _NOTHING
            behind = debt_s(site, now_ns, told=site.mode in HEARD)
            ring[minute % MINUTES] = _NOTHING if behind is None else min(int(behind), _S_MAX)
        self._minute = minute

    def trail(self, writer: str) -> tuple[float | None, ...]:
        """Seconds behind, the worst of each `POINT_MINUTES`, oldest first; None where nobody looked. Empty for a site that was
        never looked at."""
        ring = self._rings.get(writer)
        if ring is None:
            return ()
        at = (self._minute + 1) % MINUTES
        line = [*ring[at:], *ring[:at]]
        worst = [max(line[first : first + POINT_MINUTES]) for first in range(0, MINUTES, POINT_MINUTES)]
        return tuple(None if one == _NOTHING else float(one) for one in worst)


def debt_s(site: SiteHere, now_ns: int, *, told: bool) -> float | None:
    """Since when something is missing here; of a site that is not heard, since its last word."""
    since_ns = site.oldest_missing_ns if site.oldest_missing_ns is not None else site.heard_ns
    if told and not site.backlog:
        return 0.0
    if told and site.oldest_missing_ns is None:
        return None
    return max(now_ns - since_ns, 0) / SECOND if since_ns is not None else None
