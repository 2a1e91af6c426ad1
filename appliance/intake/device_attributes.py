"""Attributes of a device: what it said of itself (client), and what people want of it (shared).

Rules of the file
  1  What a device said counts for its own questions at once, and for everybody when it is read back from the records.
  2  After a start nothing is answered before what was stored until then has been read: late is better than wrong.
  3  What people want is read from the documents on a thread, never on the event loop; questions wait for that in a queue.
  4  A device is told what changed since it was last told, and what went; one that was away and comes back to its session
     likewise, in one message, however much was changed meanwhile. One that opens its line anew hears nothing by
     itself: it asks, and from there on hears of changes. A long poll goes on where the one before it ended. A device
     that became a node while it was connected is told all at the first change; one that becomes a node because it is
     spoken of (`Nodes.coming`) is waited for, and so are its questions.

Name: attribute requests. Bound: `limits.attribute_requests_max`. When full: the question is refused, the device asks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from appliance.intake import attributes, topics
from appliance.intake.device_seats import Seat, Seats
from fleet import limits
from store.faults import StoreFault

log = logging.getLogger(__name__)

_BATCH = 250  # nodes read in one go
_FRESH_SENDERS_MAX = 4_096
_TOLD_NODES_MAX = 20_000
_FAULT_S = 1.0
_BEHIND_S = 0.05
_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

Values = Mapping[str, bytes]  # JSON by name
Wanted = Callable[[Sequence[str]], Mapping[str, Values]]


class Nodes(NamedTuple):
    """What is known of nodes elsewhere: which one a sender is, its senders, what it said; on a thread of its own, what is
    wanted of some; and whether what was stored before the start has been read."""

    of: Callable[[str], str]
    senders: Callable[[str], Collection[str]]
    said: Callable[[str], Mapping[str, str]]
    wanted: Wanted
    ready: Callable[[], bool]
    coming: Callable[[str], bool] = lambda sender: False  # whether a sender will have a node in a moment


class Ask(NamedTuple):
    """A question. None: nothing of that kind is asked for; no names: all there are."""

    sender: str
    client: Collection[str] | None
    shared: Collection[str] | None
    answer: Callable[[Values, Values], None]


class Attributes:
    def __init__(self, seats: Seats, nodes: Nodes) -> None:
        self._seats, self._nodes = seats, nodes
        self._fresh: OrderedDict[str, dict[str, bytes]] = OrderedDict()  # said since the start, by sender
        self._asks: list[Ask] = []
        self._opened: dict[str, bool] = {}  # senders; whether it goes on where it was
        self._back: dict[str, tuple[Seat, bytes]] = {}  # senders that came back, and what each had been told
        self._dirty: dict[str, None] = {}  # nodes of which something else is wanted now
        self._told: OrderedDict[str, bytes] = OrderedDict()  # by node: what it was told last
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._asks)

    # -- from lines -------------------------------------------------------------------------------------------

    def say(self, sender: str, values: Values) -> None:
        if not sender:
            return
        held = self._fresh.setdefault(sender, {})
        self._fresh.move_to_end(sender)
        for name, value in values.items():
            if attributes.fits(name, value) and (name in held or len(held) < limits.attributes_per_node_max):
                held[name] = value
        while len(self._fresh) > _FRESH_SENDERS_MAX:
            self._fresh.popitem(last=False)

    def ask(self, ask: Ask) -> bool:
        """Answered in a moment; False when too many wait."""
        node_id = self._nodes.of(ask.sender)
        alone = not node_id and not self._nodes.coming(ask.sender)
        if alone or (ask.shared is None and self._nodes.ready()):
            ask.answer(self._client(ask, node_id), {})
            return True
        if len(self._asks) >= limits.attribute_requests_max:
            return False
        self._asks.append(ask)
        self._wake.set()
        return True

    def opened(self, sender: str, *, goes_on: bool = False) -> None:
        self._opened[sender] = goes_on
        self._wake.set()

    def told(self, sender: str) -> bytes | None:
        """What it knows of, as far as that is known."""
        return self._told.get(self._nodes.of(sender))

    def back(self, sender: str, seat: Seat, told: bytes | None) -> None:
        if told is None:
            self.opened(sender)
            return
        self._back[sender] = seat, told
        self._wake.set()

    async def goes_on(self, sender: str) -> None:
        """A long poll begins. Until this returns, nothing is known to have been told, so nothing to differ from."""
        self.opened(sender, goes_on=True)
        known = asyncio.Event()
        if self.ask(Ask(sender, None, (), lambda said, wanted: known.set())):
            await known.wait()

    def _client(self, ask: Ask, node_id: str) -> Values:
        if ask.client is None:
            return {}
        held = {name: text.encode() for name, text in self._nodes.said(node_id).items()} if node_id else {}
        held.update(self._fresh.get(ask.sender, {}))
        return _chosen({name: value for name, value in held.items() if value != b"null"}, ask.client)

    # -- from documents ---------------------------------------------------------------------------------------

    def changed(self, node_ids: Collection[str] = (), bundles: Collection[str] = (), *, of_any: bool = False) -> None:
        """Something else may be wanted of these nodes, of those under these bundles, or of any. On the event loop."""
        concerned = [one for one in node_ids if self._listens(one)]
        if of_any or bundles:
            marks = [b'"policy_bundle_id":%s' % _encode(bundle) for bundle in bundles]
            concerned += [one for one, held in self._told.items() if of_any or any(mark in held for mark in marks)]
        self._dirty.update(dict.fromkeys(concerned))
        if concerned:
            self._wake.set()

    def _listens(self, node_id: str) -> bool:
        return node_id in self._told or bool(self._seats.of(self._nodes.senders(node_id)))

    # -- the loop ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Supervised, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty or self._opened or self._asks or self._back:
                if self._nodes.ready():
                    await self._some()
                else:
                    await asyncio.sleep(_BEHIND_S)

    async def _some(self) -> None:
        dirty, coming = _first(self._dirty), self._nodes.coming
        opened = {sender: self._opened.pop(sender) for sender in _first(self._opened) if not coming(sender)}
        asks: list[Ask] = []
        later: list[Ask] = []
        for ask in self._asks:
            (later if len(asks) >= _BATCH or coming(ask.sender) else asks).append(ask)
        self._asks = later
        back = {sender: self._back.pop(sender) for sender in _first(self._back)}
        if not dirty and not opened and not asks and not back:
            await asyncio.sleep(_BEHIND_S)
            return
        for node_id in dirty:
            del self._dirty[node_id]
        senders = dict.fromkeys((*opened, *back, *(ask.sender for ask in asks)))
        node_ids = {sender: node_id for sender in senders if (node_id := self._nodes.of(sender))}
        wanted = tuple(dict.fromkeys((*dirty, *node_ids.values())))
        try:
            found = await asyncio.to_thread(self._nodes.wanted, wanted)
        except StoreFault as fault:
            log.error("what is wanted of nodes cannot be read: %s (%s)", fault, fault.detail)
            self._dirty.update(dict.fromkeys(dirty))  # whoever asked asks again
            self._back = {**back, **self._back}
            await asyncio.sleep(_FAULT_S)
            return
        for node_id in dirty:
            self._tell(node_id, found.get(node_id, {}))
        for sender, goes_on in opened.items():
            node_id = node_ids.get(sender, "")
            if node_id and goes_on and node_id in self._told:
                self._tell(node_id, found.get(node_id, {}))
            elif node_id:
                self._remember(node_id, found.get(node_id, {}))
        for sender, (seat, told) in back.items():
            values = found.get(node_ids.get(sender, ""), {})
            body = _news(told, values)
            if node_ids.get(sender) and body is not None and _say(seat, body):
                self._remember(node_ids[sender], values)
        for ask in asks:
            node_id = node_ids.get(ask.sender, "")
            shared = {} if ask.shared is None else _chosen(found.get(node_id, {}), ask.shared)
            ask.answer(self._client(ask, node_id), shared)

    def _remember(self, node_id: str, values: Values) -> None:
        self._told[node_id] = _json(values)
        self._told.move_to_end(node_id)
        while len(self._told) > _TOLD_NODES_MAX:
            self._told.popitem(last=False)

    def _tell(self, node_id: str, values: Values) -> None:
        body = _news(self._told.get(node_id, b"{}"), values)
        if body is None:
            return
        heard = [_say(seat, body) for seat in self._seats.of(self._nodes.senders(node_id))]
        if any(heard):
            self._remember(node_id, values)


def _news(told: bytes, values: Values) -> bytes | None:
    """What is to be said to one who was told that; None when it is nothing."""
    former = {name: bytes(value) for name, value in _members(told).items()}
    news = {name: value for name, value in values.items() if former.get(name) != value}
    gone = [name for name in former if name not in values]
    if not news and not gone:
        return None
    return _json({**news, "deleted": _encode(gone)} if gone else news)


def _say(seat: Seat, body: bytes) -> bool:
    for style in topics.styles(seat.line.device, seat.behind):
        whole = _encode({"device": seat.behind, "data": msgspec.Raw(body)}) if style is topics.GATEWAY else body
        if seat.line.send(style.attributes, whole):
            return True
    return False


def _json(values: Values) -> bytes:
    return _encode({name: msgspec.Raw(value) for name, value in values.items()})


def _chosen(values: Values, names: Collection[str]) -> Values:
    return {name: values[name] for name in names if name in values} if names else values


def _first(some: Iterable[str]) -> list[str]:
    return [one for one, _ in zip(some, range(_BATCH), strict=False)]


def answer(client: Values, shared: Values) -> bytes:
    """As a device reads it: only what there is."""
    said = {"client": client, "shared": shared}
    return _encode({scope: {k: msgspec.Raw(v) for k, v in values.items()} for scope, values in said.items() if values})


def answer_of_gateway(number: int, device: str, values: Values, *, several: bool) -> bytes:
    head: dict[str, object] = {"id": number, "device": device}
    plain = {name: msgspec.Raw(value) for name, value in values.items()}
    if several:
        return _encode({**head, "values": plain})
    return _encode({**head, **({"value": next(iter(plain.values()))} if plain else {})})
