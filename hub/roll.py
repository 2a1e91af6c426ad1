"""Which nodes are there, how many of which, and which are asked for? For pages of a hub with a hundred thousand nodes.

Rules of the file
  1  A node is looked at anew only when it was told anew, or when its site was lost, heard again or renamed.
  2  Sums and the order by urgency are kept up with each look; what is asked for is a walk along that order. Of other
     orders the last few that somebody asked for are kept, and what moved since is put in its place when it is asked for
     again: sorting a hundred thousand anew takes ten times as long.
  3  Everything happens on the thread that answers pages.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from itertools import chain, islice
from operator import itemgetter
from typing import Any, NamedTuple

from fleet.attention import Item
from fleet.connectivity import Reach
from fleet.node import Kind
from hub.state import FleetHere, NodeHere, SiteHere
from web import rows
from web.ports import NodeQuery, NodeRow
from web.rows import Everyone

_FEW = 500  # moves in one order that are made one by one
_MANY = 5_000
_ORDERS_MAX = 3  # that are kept beside the order by urgency; each takes some twenty megabytes
_PIECE = 1_000

Lost = Callable[[SiteHere | None, NodeHere], int | None]  # since when the node's site is not heard
Make = Callable[[NodeHere, str, int | None], NodeRow]  # of a node, the name of its site, and since when that is lost
_Key = tuple[str, str]  # name, id
_Standing = tuple[str, bool, str, int | None]  # what of a site its nodes' rows depend on


class Found(NamedTuple):
    """A page of what matches, how many match in all, and those of them that the map shows."""

    page: tuple[NodeRow, ...]
    matching: int
    places: tuple[NodeRow, ...]


_Sort = tuple[Any, ...]  # what a node is sorted by, and its id


class _Line:
    """Nodes in one order, in pieces, so that one that moves costs a piece and not the whole."""

    def __init__(self, keys: list[_Sort]) -> None:
        self.moved: set[str] = set()  # what has changed since it was last put in order
        self._of = {key[-1]: key for key in keys}
        self.pieces = [keys[first : first + _PIECE] for first in range(0, len(keys), _PIECE)]

    def __iter__(self) -> Iterator[str]:
        return (key[-1] for piece in self.pieces for key in piece)

    def move(self, node_id: str, key: _Sort | None) -> None:
        """To where `key` says; None: away."""
        former = self._of.get(node_id)
        if former == key:
            return
        if former is not None:
            at = self._place(former)
            piece = self.pieces[at]
            del piece[bisect_left(piece, former)]
            if not piece:
                del self.pieces[at]
            del self._of[node_id]
        if key is not None:
            self._of[node_id] = key
            if not self.pieces:
                self.pieces.append([])
            at = self._place(key)
            piece = self.pieces[at]
            insort(piece, key)
            if len(piece) > 2 * _PIECE:
                self.pieces[at : at + 1] = [piece[:_PIECE], piece[_PIECE:]]

    def _place(self, key: _Sort) -> int:
        return max(bisect_right(self.pieces, key, key=itemgetter(0)) - 1, 0) if len(self.pieces) > 1 else 0


class Roll:
    def __init__(self, fleet: FleetHere, make: Make, lost_ns: Lost, heard: Callable[[SiteHere], bool]) -> None:
        self._fleet, self._make, self._lost_ns, self._heard = fleet, make, lost_ns, heard
        self.version = 0  # while it is the same, so is all that is asked here
        self._rows: dict[str, NodeRow] = {}
        self._words: dict[str, str] = {}  # by node, what a search finds it by
        self._kinds: dict[Kind, set[str]] = {kind: set() for kind in Kind}  # nodes of each; few are asked for, of many
        self._reach: dict[Reach, set[str]] = {reach: set() for reach in Reach}
        self._tags: Counter[str] = Counter()
        self._troubles: dict[str, list[Item]] = {}  # of nodes that may need a person
        self._standing: dict[str, _Standing] = {}  # by the site's writer
        self._ranks: dict[int, list[_Key]] = {}  # by urgency, in order
        self._lines: dict[str, _Line] = {}  # by the order that was asked for, the one asked for last at the end
        self._by_name: list[str] | None = None  # all nodes; None: one came, went or was renamed
        self._ids: list[str] | None = None  # all nodes, in the order of ids; None: nobody has asked yet
        self._placed = 0  # how often one came, went, or got another name or site

    # -- keeping up ---------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Look at what has changed since the last time."""
        fleet, fresh = self._fleet, set[str]()
        while fleet.changed:
            fresh.add(fleet.changed.pop())
        for writer, site in tuple(fleet.sites.items()):
            heard = self._heard(site)
            standing = (site.name, heard, site.via, None if heard else site.heard_ns)
            if self._standing.get(writer) != standing:
                self._standing[writer] = standing
                fresh |= fleet.nodes_of.get(writer, set())
        self.version += bool(fresh)
        for line in self._lines.values():
            line.moved |= fresh
        leave: dict[int, list[_Key]] = {}
        join: dict[int, list[_Key]] = {}
        for node_id in fresh:
            former, row = self._rows.get(node_id), self._row(node_id)
            was, now = _place(former), _place(row)
            if was != now:
                if was is not None:
                    leave.setdefault(was[0], []).append(was[1])
                if now is not None:
                    join.setdefault(now[0], []).append(now[1])
            self._count(former, row)
            self._keep(node_id, former, row)
        for rank, keys in leave.items():
            self._ranks[rank] = _without(self._ranks[rank], keys)
        for rank, keys in join.items():
            _insert(self._ranks.setdefault(rank, []), keys)

    def _row(self, node_id: str) -> NodeRow | None:
        here = self._fleet.nodes.get(node_id)
        if here is None:
            return None
        site = self._fleet.sites.get(here.site)
        return self._make(here, site.name if site else "", self._lost_ns(site, here))

    def _count(self, former: NodeRow | None, row: NodeRow | None) -> None:
        if former is not None:
            self._reach[former.reach].discard(former.id)
            self._tags.subtract(former.tags)
            self._kinds[former.kind].discard(former.id)
        if row is not None:
            self._reach[row.reach].add(row.id)
            self._tags.update(row.tags)
            self._kinds[row.kind].add(row.id)

    def _keep(self, node_id: str, former: NodeRow | None, row: NodeRow | None) -> None:
        if former is None or row is None or former.name != row.name:
            self._by_name = None
        if self._ids is not None and former is None and row is not None:
            insort(self._ids, node_id)
        elif self._ids is not None and former is not None and row is None:
            del self._ids[bisect_left(self._ids, node_id)]
        if former is None or row is None or (former.name, former.site) != (row.name, row.site):
            self._placed += 1
        if row is None:
            self._rows.pop(node_id, None)
            self._words.pop(node_id, None)
            self._troubles.pop(node_id, None)
            return
        self._rows[node_id] = row
        words = rows.words_of(row)
        if self._words.get(node_id) != words:
            self._words[node_id] = words
        lines = rows.troubles(row)
        if lines:
            self._troubles[node_id] = lines
        else:
            self._troubles.pop(node_id, None)

    # -- what is asked ------------------------------------------------------------------------------------------------

    def everyone(self) -> Everyone:
        if self._by_name is None:
            self._by_name = list(self._line("name"))
        return Everyone(self._rows.copy(), self._by_name, self._placed)

    def behind(self, node_id: str) -> Iterator[str]:
        """All nodes behind this id, in order."""
        if self._ids is None:
            self._ids = sorted(self._rows)
        return islice(self._ids, bisect_right(self._ids, node_id), None)

    def reach(self) -> dict[Reach, int]:
        return {reach: len(self._reach[reach]) for reach in Reach}

    def tags(self) -> tuple[str, ...]:
        return tuple(sorted(tag for tag, count in self._tags.items() if count > 0))

    def needs(self, now_ns: int) -> list[Item]:
        return rows.current(chain.from_iterable(self._troubles.values()), now_ns)

    def find(self, query: NodeQuery, among: Set[str] | None = None) -> Found:
        """`among`: only these, where a domain or a bundle is asked for."""
        order = query.order if query.order in rows.ORDERS else rows.BY_URGENCY
        found = self.matching(query, among) if rows.filters(query) else None
        every = self._rows.__getitem__
        page = tuple(map(every, self._page(order, found, query.offset, query.offset + max(1, query.limit))))
        urgent = self._urgent() if found is None else self._page(rows.BY_URGENCY, found, 0, len(found))
        return Found(page, len(self._rows if found is None else found), rows.places(map(every, urgent)))

    def _page(self, order: str, found: Set[str] | None, first: int, end: int) -> Iterable[str]:
        """From one place to another of what was found (None: all), in an order."""
        if found is not None and len(found) <= _MANY:
            key = rows.ORDERS[order]
            return sorted(found, key=lambda node_id: (*key(self._rows[node_id]), node_id))[first:end]
        if order == rows.BY_URGENCY:
            ids, pieces = self._urgent(), [self._ranks[rank] for rank in sorted(self._ranks)]
        else:
            line = self._line(order)
            ids, pieces = iter(line), line.pieces
        if found is None:
            return _cut(pieces, first, end)
        return islice((node_id for node_id in ids if node_id in found), first, end)

    def _urgent(self) -> Iterator[str]:
        """All nodes, the most urgent first."""
        return (node_id for rank in sorted(self._ranks) for _, node_id in self._ranks[rank])

    def _line(self, order: str) -> _Line:
        """All nodes in an order."""
        key, line = rows.ORDERS[order], self._lines.pop(order, None)
        if line is None or len(line.moved) > _MANY:
            while len(self._lines) >= _ORDERS_MAX:
                del self._lines[next(iter(self._lines))]
            line = _Line(sorted((*key(row), row.id) for row in self._rows.values()))
        moved, line.moved = line.moved, set()
        for node_id in moved:
            row = self._rows.get(node_id)
            line.move(node_id, None if row is None else (*key(row), node_id))
        self._lines[order] = line
        return line

    def matching(self, query: NodeQuery, within: Set[str] | None = None) -> Set[str]:
        """The ids of what matches, in no order; `within`: only of these."""
        sets: list[Set[str]] = [within] if within is not None else []
        if query.site:
            here = [writer for writer, standing in self._standing.items() if standing[0] == query.site]
            sets.append({node_id for writer in here for node_id in self._fleet.nodes_of.get(writer, ())})
        if query.kind:
            sets.append(self._kinds[query.kind])
        if query.reach:
            sets.append(self._reach[query.reach])
        among: Set[str] = self._rows.keys()
        for one in sorted(sets, key=lambda one: len(one)):
            among = among & one
        text = query.text.strip().lower()
        if text and len(among) == len(self._words):
            among = {node_id for node_id, words in self._words.items() if text in words}
        elif text:
            among = {node_id for node_id in among if text in self._words[node_id]}
        if query.tag:
            among = {node_id for node_id in among if query.tag in self._rows[node_id].tags}
        return among


def _cut(pieces: Iterable[Sequence[_Sort]], first: int, end: int) -> list[str]:
    """From one place to another of ordered pieces, the ids."""
    found: list[str] = []
    for piece in pieces:
        if first < len(piece):
            found += (key[-1] for key in piece[max(first, 0) : max(end, 0)])
        first, end = first - len(piece), end - len(piece)
        if end <= 0:
            break
    return found


def _place(row: NodeRow | None) -> tuple[int, _Key] | None:
    return None if row is None else (rows.rank(row), (row.name, row.id))


def _insert(into: list[_Key], keys: list[_Key]) -> None:
    if len(keys) > _FEW:
        into += keys
        into.sort()
        return
    for key in keys:
        insort(into, key)


def _without(held: list[_Key], keys: list[_Key]) -> list[_Key]:
    if len(keys) > _FEW:
        gone = set(keys)
        return [key for key in held if key not in gone]
    for key in keys:
        del held[bisect_left(held, key)]
    return held
