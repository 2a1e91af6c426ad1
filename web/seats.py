"""Which of a box's nodes sits where in a crowd of the past (`fleet.past.Crowd`)? In columns, since a crowd may be of a hundred
thousand: what is asked of all of them is asked of a column in one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from operator import itemgetter
from threading import Lock
from typing import NamedTuple

from fleet.past import Crowd
from web.rows import Everyone

NOT_HERE = "\0"  # the site of a node that the box does not have


class Seats(NamedTuple):
    """`sites` by seat: the name of the site that a node is of. The others say where who sits: by id, in the order of names
    (only nodes that the box has), and by the name of the site."""

    sites: list[str]
    of: dict[str, int]
    by_name: list[int]
    by_site: dict[str, list[int]]
    named: Callable[[bytearray], bytes]  # a column in the order of names

    def without(self, codes: bytes, sites: Iterable[str]) -> bytearray:
        """A column, 0 for the nodes of these sites and for those that the box does not have; 0 too for who came later."""
        left = bytearray(codes)
        left.extend(bytes(len(self.sites) - len(codes)))
        for site in (*sites, NOT_HERE):
            for seat in self.by_site.get(site, ()):
                left[seat] = 0
        return left


class There(NamedTuple):
    """Who was there at a moment; `of` says where each sits."""

    crowd: Crowd
    of: Mapping[str, int]

    def code(self, node_id: str) -> int:
        """How it stood, as in the crowd; 0: it was not there."""
        seat = self.of.get(node_id)
        return self.crowd.codes[seat] if seat is not None and seat < len(self.crowd.codes) else 0

    def ids(self) -> Iterator[str]:
        return compress(self.crowd.ids, self.crowd.codes)

    def size(self) -> int:
        return len(self.crowd.codes) - self.crowd.codes.count(0)


def seats(of: dict[str, int], everyone: Everyone) -> Seats:
    """`of`: where everybody sits, in that order."""
    held = everyone.rows
    sites = [NOT_HERE if row is None else row.site for row in map(held.get, of)]
    by_site: dict[str, list[int]] = {}
    for seat, site in enumerate(sites):
        by_site.setdefault(site, []).append(seat)
    by_name = [seat for seat in map(of.get, everyone.by_name) if seat is not None]
    return Seats(sites, of, by_name, by_site, _picker(by_name))


def _picker(seats: Sequence[int]) -> Callable[[bytearray], bytes]:
    if len(seats) < 2:  # of one or none an itemgetter answers otherwise
        return lambda column: bytes(column[seat] for seat in seats)
    pick = itemgetter(*seats)
    return lambda column: bytes(pick(column))


class Kept:
    """The seats of the last crowd, as long as nobody comes, goes, or gets another name or site."""

    def __init__(self) -> None:
        self._ids: Sequence[str] = ()
        self._key: object = None
        self._held: Seats | None = None
        self._lock = Lock()

    def of(self, crowd: Crowd, everyone: Everyone) -> Seats:
        with self._lock:
            count, key, held = len(crowd.ids), (len(crowd.ids), everyone.placed), self._held
            if held is None or crowd.ids is not self._ids:
                of = {}
            elif everyone.placed is not None and key == self._key:
                return held
            else:
                of = dict(held.of)  # who sat there sits there still
            for seat in range(len(of), count):
                of[crowd.ids[seat]] = seat
            self._ids, self._key, self._held = crowd.ids, key, seats(of, everyone)
            return self._held
