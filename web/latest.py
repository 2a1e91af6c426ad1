"""How are the nodes now, for readers that want to be told of every change and may be slow?

A board holds the latest state of each node that somebody asks for, once, as it is sent, and in the order in which the nodes
changed. A reader is a place in that order.

Rules of the file
  1  The latest wins: what a reader has not fetched when the node changes again is never sent. `change` of a node counts its
     changes, so a reader sees how many it was not shown.
  2  A reader that does not fetch costs nothing and is waited for by nobody: it has a place and the set of nodes it holds.
  3  Readers of one scope (a tenant, or all of them) share a board; it lives as long as it has readers.
  4  A board that hears no sign of life from its box gives none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from itertools import islice, takewhile
from typing import NamedTuple
from weakref import WeakKeyDictionary

import msgspec

from fleet import limits
from web.ports import Box, Identity, Latest, LatestQuery, Unavailable

MESSAGE_NODES_MAX = 100
_PIECE_NODES = 200  # looked at in one go; between two pieces others have their turn
_SWEEP_SECONDS = 5.0  # what changes a node without naming it (a site that is lost) is found so soon
_SILENCE_SECONDS = 8.0  # the box promises a sign of life every five


class Wish(NamedTuple):
    """Which nodes somebody follows: any of each kind that is given, all if nothing is."""

    ids: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()

    def takes(self, one: Latest) -> bool:
        row = one.row
        return (
            (not self.ids or row.id in self.ids)
            and (not self.tags or not self.tags.isdisjoint(row.tags))
            and (not self.sites or row.site in self.sites)
        )


class Changed(msgspec.Struct, frozen=True):
    """A node as it is now; `change` counts the changes that its box saw since it is followed."""

    change: int
    node: msgspec.Raw


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """`kind` is state until everything was told once, then change, and beat when nothing is new. `seq` counts the messages
    of one connection from 1, without a hole. `nodes` replace what was said of them before; `gone` are not among the nodes
    asked for any more, or never were here. `whole`: with this one, everything asked for has been told at least once. `cut`:
    more nodes match than one connection is told of."""

    kind: str
    seq: int
    now_ns: int
    nodes: tuple[Changed, ...] = ()
    gone: tuple[str, ...] = ()
    whole: bool = False
    cut: bool = False


class _Held(NamedTuple):
    node_id: str
    version: int
    change: int
    latest: Latest | None  # None: it is gone
    body: bytes


class Reader:
    """One who follows. `seen` is the place in the order of changes up to which it has been told."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.seen = 0
        self.seq = 0
        self.holds: set[str] = set()
        self.cut = False
        self.whole = False
        self.absent: tuple[str, ...] = ()  # asked for by id, and not here at the start
        self.woken = asyncio.Event()

    @property
    def full(self) -> bool:
        return len(self.holds) >= limits.stream_nodes_max


class Board:
    def __init__(self, box: Box, who: Identity) -> None:
        self._box, self._who = box, who
        self._held: dict[str, _Held] = {}  # the one that changed last stands last
        self._version = 0
        self._readers: set[Reader] = set()
        self._missed: set[str] = set()  # marked while the box could not answer
        self._time = asyncio.get_running_loop().time
        self._heard = self._swept = self._time()
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self._time() - self._heard < _SILENCE_SECONDS

    @property
    def over(self) -> bool:
        """The box is closing. What made the board fall, if anything did, is raised."""
        if self._task is None or not self._task.done():
            return False
        self._task.result()
        return True

    async def join(self, reader: Reader) -> None:
        """From now on the board keeps what `reader` asks for; it is told all of it first. Unavailable as the box says."""
        self._readers.add(reader)
        if self._task is None:
            self._task = asyncio.create_task(self._follow())
        wish, after, found, full = reader.wish, "", 0, False
        while not full:
            page = await self._box.latest(self._who, LatestQuery(wish.ids, wish.tags, wish.sites, after, _PIECE_NODES))
            found += len(page)
            for one in page:
                self._put(one.row.id, one)
            full = found >= limits.stream_nodes_max or len(page) < _PIECE_NODES
            after = page[-1].row.id if page else after
        held = {node_id for node_id, one in self._held.items() if one.latest is not None}
        reader.absent = tuple(sorted(wish.ids - held))

    async def leave(self, reader: Reader) -> None:
        self._readers.discard(reader)
        if not self._readers:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait({self._task})
            return
        for node_id, one in tuple(self._held.items()):
            if one.latest is None or not self._wanted(one.latest):
                del self._held[node_id]

    @property
    def readers(self) -> int:
        return len(self._readers)

    def take(self, reader: Reader, now_ns: int) -> Message | None:
        """What is new to `reader`, the oldest change first, at most MESSAGE_NODES_MAX; None when there is nothing."""
        fresh = list(takewhile(lambda one: one.version > reader.seen, reversed(self._held.values())))
        nodes, gone, whole = list[Changed](), list[str](), True
        for one in reversed(fresh):
            if len(nodes) + len(gone) >= MESSAGE_NODES_MAX:
                whole = False
                break
            reader.seen = one.version
            if one.latest is None or not reader.wish.takes(one.latest):
                if one.node_id in reader.holds:
                    reader.holds.discard(one.node_id)
                    gone.append(one.node_id)
            elif one.node_id in reader.holds or not reader.full:
                reader.holds.add(one.node_id)
                nodes.append(Changed(one.change, msgspec.Raw(one.body)))
            else:
                reader.cut = True
        if reader.whole:
            return self._message("change", reader, now_ns, nodes, gone) if nodes or gone else None
        reader.whole = whole
        return self._message("state", reader, now_ns, nodes, (*gone, *(reader.absent if whole else ())))

    def beat(self, reader: Reader, now_ns: int) -> Message:
        return self._message("beat", reader, now_ns)

    @staticmethod
    def _message(
        kind: str, reader: Reader, now_ns: int, nodes: Iterable[Changed] = (), gone: Iterable[str] = ()
    ) -> Message:
        reader.seq += 1
        return Message(
            kind=kind,
            seq=reader.seq,
            now_ns=now_ns,
            nodes=tuple(nodes),
            gone=tuple(gone),
            whole=reader.whole,
            cut=reader.cut,
        )

    # -- what the box says ------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        watch = self._box.watch()
        try:
            async for marked in watch:
                self._heard = self._time()
                await self._look(self._concerned(marked))
        finally:
            await watch.aclose()  # type: ignore[attr-defined]
            for reader in self._readers:
                reader.woken.set()

    def _concerned(self, marked: Collection[str]) -> set[str]:
        """The nodes to look at: those marked that somebody follows, or may begin to."""
        ids = {topic.removeprefix("node:") for topic in marked if topic.startswith("node:")} | self._missed
        named = frozenset().union(*(reader.wish.ids for reader in self._readers))
        if not any(not reader.wish.ids and not reader.full for reader in self._readers):
            ids = {node_id for node_id in ids if node_id in self._held or node_id in named}
        if "site" in marked and self._time() - self._swept >= _SWEEP_SECONDS:
            self._swept = self._time()
            ids |= self._held.keys()
        self._missed = set()
        return ids

    async def _look(self, ids: set[str]) -> None:
        waiting = iter(ids)
        while piece := frozenset(islice(waiting, _PIECE_NODES)):
            try:
                page = await self._box.latest(self._who, LatestQuery(piece, limit=len(piece)))
            except Unavailable:
                self._missed |= piece.union(waiting)
                return
            found = {one.row.id: one for one in page}
            for node_id in piece:
                self._put(node_id, found.get(node_id))
            await asyncio.sleep(0)

    def _wanted(self, one: Latest) -> bool:
        return any(reader.wish.takes(one) for reader in self._readers)

    def _put(self, node_id: str, one: Latest | None) -> None:
        former = self._held.get(node_id)
        if former is None and (one is None or not self._wanted(one)):
            return
        body = b"" if one is None else msgspec.json.encode(one)
        if former is not None and former.body == body:
            return
        self._version += 1
        self._held.pop(node_id, None)
        change = former.change + 1 if former is not None else 1
        self._held[node_id] = _Held(node_id, self._version, change, one, body)
        for reader in self._readers:
            reader.woken.set()


_Scope = tuple[str, bool]
_boards: WeakKeyDictionary[Box, dict[_Scope, Board]] = WeakKeyDictionary()


async def follow(box: Box, who: Identity, wish: Wish) -> tuple[Board, Reader]:
    """A new reader of the board of its scope; `quit_board` ends it."""
    boards = _boards.setdefault(box, {})
    scope = (who.tenant, who.role.across)
    board = boards.get(scope)
    if board is None:
        board = boards[scope] = Board(box, who)
    reader = Reader(wish)
    try:
        await board.join(reader)
    except BaseException:
        await quit_board(box, who, board, reader)
        raise
    return board, reader


async def quit_board(box: Box, who: Identity, board: Board, reader: Reader) -> None:
    boards, scope = _boards.get(box, {}), (who.tenant, who.role.across)
    if board.readers <= 1 and boards.get(scope) is board:
        del boards[scope]  # before it is awaited: who comes now begins a board of its own
    await board.leave(reader)
