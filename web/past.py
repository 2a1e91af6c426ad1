"""The pages as of a moment: what the history says stood then, on the rows that the box has now.

Rules of the file
  1  What the log knows of a moment is shown: modes, places, health, versions, links, who decided, what people had
     written; and what the means of the charts say. In lists, names and tags are those of now. What nobody kept is not
     shown at all.
  2  A site that was cut off at that moment and has told of it since is shown as it was. What it has not told yet is
     unknown, since its last word.
  3  The times of an answer are seen from the moment: `now_ns` of a view is the moment itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import NamedTuple, Protocol

import msgspec

from fleet import authority, drift, lifecycle
from fleet.authority import Chain, Names
from fleet.board import Own, own
from fleet.connectivity import REACH, Mode, Reach
from fleet.document import Kind as DocumentKind
from fleet.document import View
from fleet.events import Recorded
from fleet.limits import MINUTE, SECOND
from fleet.node import Actual, Connectivity, Desired, Firmware, Lifecycle, Node, SupplyChain
from fleet.past import MISSING, WHOLE, WORDS, Crowd, Known, Stretch, Track, Was, stamp_at
from fleet.people import Identity, Refused
from fleet.reading import Health, Position
from web import attention, deciding, needed, ports, rows, seats, stood
from web.policies import NO_DOMAIN
from web.rows import Everyone
from web.seats import Seats, There
from web.words import age, when

TURNS_MAX = 2_000  # of one node, for its slider
VALUES_MAX = 32  # metrics of a node whose mean is looked up
SUMMED_NODES_MAX = 5_000  # of a bundle or a domain: each is looked up
_MEAN_NS_MAX = 10 * MINUTE  # an older mean says nothing of the moment
_URGENCY = (Reach.OFFLINE, Reach.DEGRADED, Reach.UNKNOWN, Reach.ONLINE)
_MODES: Mapping[str, Mode | None] = {mode.value: mode for mode in Mode}
_LINKS = {"QUARANTINED": Mode.DELAYED}  # the other states of a session are modes by name
_HEALTH: Mapping[str, Health] = {health.value: health for health in Health}


class History(Protocol):
    """`store.history`, as far as it is read here. Calls block; Unavailable when the file cannot be read."""

    def known(self) -> Known: ...

    def first_of(self, subject: str) -> int | None: ...

    def crowd(self, moment_ns: int) -> Crowd: ...

    def of(
        self, subjects: Iterable[str], moment_ns: int, tracks: Iterable[Track] = Track
    ) -> Mapping[str, Mapping[Track, Was]]: ...

    def standing(self, moment_ns: int, track: Track, said: frozenset[str]) -> Mapping[str, Mapping[str, int]]: ...

    def turns(self, subject: str, limit: int) -> Sequence[Was]: ...


class Owned(Protocol):
    """`store.then.Owned`: what nodes' own documents said; of which nodes that is not known; how many were not read."""

    @property
    def own(self) -> Mapping[str, Own]: ...

    @property
    def left(self) -> frozenset[str]: ...

    @property
    def unread(self) -> int: ...


class Documents(Protocol):
    """`store.then`. Calls block."""

    where: Callable[[str], str]

    def one(self, kind: DocumentKind, name: str, moment_ns: int) -> View | None: ...

    def some(
        self, names: Iterable[tuple[DocumentKind, str]], moment_ns: int
    ) -> Mapping[tuple[DocumentKind, str], View]: ...

    def every(self, kind: DocumentKind, moment_ns: int) -> Mapping[str, View]: ...

    def owns(self, moment_ns: int) -> Owned: ...

    def applied(self, node: Node, view: View) -> Node: ...


class Rights(Protocol):
    """`store.rights`."""

    here: str
    place_of: Callable[[str], str]
    names: Callable[[str], Names]

    def at(self, stamp: int) -> Rights: ...

    def chain(self, subject: str, place: str) -> Chain: ...

    def of_node(self, node_id: str, plain: View) -> Chain: ...

    def contested(self) -> list[Chain]: ...


class SiteTold(msgspec.Struct, frozen=True):
    """A site of a hub, and up to which moment it has told everything (None: up to now)."""

    peer: str
    name: str
    upto_ns: int | None


class Now(Protocol):
    """The box as it is now."""

    name: str

    async def node(self, who: Identity, node_id: str) -> ports.NodeView | None: ...

    async def nodes(
        self, who: Identity, after: str, limit: int, query: ports.NodeQuery = ports.ALL_NODES
    ) -> Sequence[Node]: ...

    async def series(self, who: Identity, node_id: str, metric: str, from_ns: int, to_ns: int) -> ports.Series: ...

    async def links(self, who: Identity) -> ports.LinksView: ...

    async def authority(self, who: Identity, subject: str) -> ports.AuthorityView: ...

    async def timeline(
        self,
        who: Identity,
        before: int,
        limit: int,
        subject: str | None = None,
        kind: str | None = None,
        stretch: Stretch = WHOLE,
    ) -> Sequence[Recorded]: ...


class Then:
    """`ports.Past` of a box: its history, and what the box has now: itself, all its rows, and what its sites have told."""

    def __init__(
        self,
        history: History,
        box: Now,
        everyone: Callable[[], Everyone],
        matching: Callable[[ports.NodeQuery, Set[str] | None], Set[str]],
        told: Callable[[], Sequence[SiteTold]],
        documents: Documents,
        rights: Rights | None,
        receipts: Callable[[Iterable[str], int], Mapping[str, ports.ReceiptView]],
        own: str = "",
    ) -> None:
        """`matching`: the ids of those that a query asks for, of these (None: of all). `rights` is
        None where nobody grants anything. `receipts`: the newest of each peer as of a moment; it blocks. `own`: at
        a site its writer, under which its link's turns stand."""
        self._history, self._box, self._everyone, self._matching = history, box, everyone, matching
        self._told, self._documents = told, documents
        self._rights, self._receipts, self._own = rights, receipts, own
        self._seats = seats.Kept()

    async def known(self, who: Identity) -> Known:
        return await asyncio.to_thread(self._history.known)

    async def timeline(
        self, who: Identity, before: int, limit: int, subject: str | None, moment_ns: int
    ) -> Sequence[Recorded]:
        return await self._box.timeline(who, before, limit, subject, None, Stretch(until_ns=moment_ns))

    async def turns(self, who: Identity, node_id: str) -> Sequence[Was]:
        return await asyncio.to_thread(lambda: self._history.turns(node_id, TURNS_MAX))

    # -- the fleet --------------------------------------------------------------------------------------------

    async def site(self, who: Identity, query: ports.NodeQuery, moment_ns: int) -> ports.SiteView:
        """Tallies, lines of sites and a page of the list. In the past a list is ordered by reach and name, or by name."""
        told, everyone = self._told(), self._everyone()
        among = await self._among(query, everyone, moment_ns)
        wanted = self._wanting(query, among)
        known, listed = await asyncio.to_thread(
            lambda: (
                self._history.known(),
                self._listed(everyone, told, query, moment_ns, wanted),
            )
        )
        return ports.SiteView(
            site=self._box.name,
            now_ns=moment_ns,
            reach=listed.tally,
            attention=(),
            rows=tuple(await self._rows(listed.page, moment_ns, told)),
            matching=listed.matching,
            places=(),
            tags=rows.tags(everyone.rows.values()) if len(everyone.rows) <= _TAGS_ROWS_MAX else (),
            messages_per_s=0.0,
            unclaimed=0,
            uptime_s=0.0,
            sites=tuple(await self._lines(told, listed.nodes, moment_ns)),
            as_of=_as_of(known, moment_ns),
            unread=among.unread,
        )

    def _listed(
        self,
        everyone: Everyone,
        told: Sequence[SiteTold],
        query: ports.NodeQuery,
        moment_ns: int,
        wanted: Set[str] | None,
    ) -> _Listed:
        crowd = self._history.crowd(moment_ns)
        return _list(everyone, self._seats.of(crowd, everyone), crowd, told, query, moment_ns, wanted)

    def _there(self, everyone: Everyone, moment_ns: int) -> There:
        crowd = self._history.crowd(moment_ns)
        return There(crowd, self._seats.of(crowd, everyone).of)

    async def _among(self, query: ports.NodeQuery, everyone: Everyone, moment_ns: int) -> _Among:
        """The nodes that were of the domain and of the bundle that are asked for."""
        if not rows.groups(query):
            return _Among(None, 0)

        def work() -> _Among:
            owned, there = self._documents.owns(moment_ns), self._there(everyone, moment_ns)
            return _Among(frozenset(_members(owned, there, query.domain, query.bundle)), owned.unread)

        return await asyncio.to_thread(work)

    def _wanting(self, query: ports.NodeQuery, among: _Among) -> Set[str] | None:
        """The nodes that are asked for, whatever their reach was; None: all. On the thread of the pages."""
        asked = msgspec.structs.replace(query, reach=None)
        return self._matching(asked, among.ids) if rows.filters(asked) else None

    async def _rows(
        self, now: Sequence[ports.NodeRow], moment_ns: int, told: Sequence[SiteTold]
    ) -> list[ports.NodeRow]:
        stood = await asyncio.to_thread(lambda: self._history.of([row.id for row in now], moment_ns))
        upto = {one.name: one.upto_ns for one in told}
        return [row_then(row, stood.get(row.id, {}), moment_ns, upto.get(row.site)) for row in now]

    async def _lines(self, told: Sequence[SiteTold], nodes: Mapping[str, int], moment_ns: int) -> list[ports.SiteLine]:
        stood = await asyncio.to_thread(lambda: self._history.of([one.peer for one in told], moment_ns, (Track.LINK,)))
        lines = [_line(one, stood.get(one.peer, {}).get(Track.LINK), nodes[one.name], moment_ns) for one in told]
        return sorted(lines, key=lambda line: (not line.quarantined, line.mode is Mode.LIVE, line.name))

    async def links(self, who: Identity, moment_ns: int) -> ports.LinksView:
        """The link of each site, those that needed somebody first. At a site, its own."""
        now = (await self._box.links(who)).links
        told = {one.peer: one for one in self._told()}
        subjects = {one.peer: self._own or one.peer for one in now}
        known, stood, receipts = await asyncio.to_thread(
            lambda: (
                self._history.known(),
                self._history.of(subjects.values(), moment_ns, (Track.LINK,)),
                self._receipts(subjects, moment_ns),
            )
        )
        made = []
        for one in now:
            link = stood.get(subjects[one.peer], {}).get(Track.LINK)
            made.append(_line(told.get(one.peer) or SiteTold(one.peer, one.name, None), link, 0, moment_ns))
        links = [
            ports.LinkView(
                peer=line.peer,
                name=line.name,
                mode=line.mode,
                since_ns=line.since_ns,
                heard_ns=line.heard_ns,
                receipt=receipts.get(line.peer),
                quarantine=("it was held in quarantine then",) if line.quarantined else (),
            )
            for line in sorted(made, key=lambda line: (not line.quarantined, line.mode is Mode.LIVE, line.name))
        ]
        return ports.LinksView(now_ns=moment_ns, links=tuple(links), as_of=_as_of(known, moment_ns))

    async def attention(self, who: Identity, query: ports.AttentionQuery, moment_ns: int) -> ports.AttentionView:
        """What needed a person, as far as the log knows (`web.needed`)."""
        told, everyone, rights = self._told(), self._everyone(), self._rights_at(moment_ns)
        lines, owned, domains, crowd, found = await asyncio.gather(
            self._lines(told, Counter(), moment_ns),
            asyncio.to_thread(self._documents.owns, moment_ns),
            asyncio.to_thread(self._documents.every, DocumentKind.DOMAIN, moment_ns),
            asyncio.to_thread(self._history.crowd, moment_ns),
            asyncio.gather(
                *(asyncio.to_thread(self._history.standing, moment_ns, *one) for one in needed.SAID.items())
            ),
        )

        def work() -> ports.AttentionView:
            names = {one.peer: one.name for one in told} | {name: _called(view, name) for name, view in domains.items()}
            if self._own:
                names[self._own] = self._box.name
            others, every = needed.of_sites(lines), everyone.rows
            if rights is not None:
                others += needed.of_authority(
                    rights.contested(),
                    lambda name: every[name].name if name in every else names.get(name, name),
                    lambda name: name in every,
                )
            stood, where = dict(zip(needed.SAID, found, strict=True)), self._seats.of(crowd, everyone)
            many = needed.of_nodes(every, where, crowd, stood, _silent(told, moment_ns), owned.own, query)
            made, sums = needed.queue(
                many, others, query, lambda places: self._documents.some(places, moment_ns), moment_ns
            )
            as_of = _as_of(self._history.known(), moment_ns)
            return attention.view(made, sums, query, names, moment_ns, hub=not self._own, as_of=as_of)

        return await asyncio.to_thread(work)

    # -- who decided -------------------------------------------------------------------------------------------

    async def authority(self, who: Identity, subject: str, moment_ns: int) -> ports.AuthorityView:
        """The lines of now, each as it stood; a site at which nobody had been put in charge has none."""
        now, rights, told = await self._box.authority(who, subject), self._rights_at(moment_ns), self._told()
        chains = [rights.chain(subject, one.place) for one in now.lines] if rights is not None else []
        chains = [one for one in chains if one.claims or one.grant]
        known, heard = await asyncio.to_thread(
            lambda: (self._history.known(), self._heard([one.place for one in chains], told, moment_ns))
        )
        return ports.AuthorityView(
            now_ns=moment_ns,
            subject=subject,
            name=now.name,
            lines=tuple(_decided(one, rights, heard[one.place]) for one in chains) if rights is not None else (),
            as_of=_as_of(known, moment_ns),
        )

    def _rights_at(self, moment_ns: int) -> Rights | None:
        return self._rights.at(stamp_at(moment_ns)) if self._rights is not None else None

    def _heard(self, places: Iterable[str], told: Sequence[SiteTold], moment_ns: int) -> dict[str, int | None]:
        """When the two ends had last heard each other, of each site, as far as its link's turns say: while a session
        lasted, just then."""
        subjects = {place: self._own or place for place in places}
        stood = self._history.of(subjects.values(), moment_ns, (Track.LINK,))
        upto = {one.peer: one.upto_ns for one in told}
        found: dict[str, int | None] = {}
        for place, subject in subjects.items():
            link, silent_ns = stood.get(subject, {}).get(Track.LINK), upto.get(place)
            at_ns = link.since_ns if link is not None and link.said == Mode.AUTONOMOUS else moment_ns
            at_ns = min(at_ns, silent_ns) if silent_ns is not None else at_ns
            found[place] = at_ns if link is not None else None
        return found

    # -- what people had written ------------------------------------------------------------------------------

    async def groups(self, who: Identity, kind: DocumentKind, moment_ns: int) -> ports.GroupsThen:
        everyone = self._everyone()
        known, views, there, owned = await asyncio.to_thread(
            lambda: (
                self._history.known(),
                self._documents.every(kind, moment_ns),
                self._there(everyone, moment_ns),
                self._documents.owns(moment_ns),
            )
        )
        nodes = _named(owned, there, kind)
        as_of = _as_of(known, moment_ns)
        groups = [
            msgspec.structs.replace(self._group(kind, name, views.get(name), as_of), nodes=nodes[name])
            for name in views.keys() | nodes.keys()
        ]
        return ports.GroupsThen(
            now_ns=moment_ns,
            kind=kind,
            groups=tuple(sorted(groups, key=lambda one: (one.name, one.id))),
            as_of=as_of,
            unread=owned.unread,
        )

    async def group(self, who: Identity, kind: DocumentKind, name: str, moment_ns: int) -> ports.GroupThen | None:
        known, view, there = await asyncio.to_thread(
            lambda: (
                self._history.known(),
                self._documents.one(kind, name, moment_ns),
                self._documents.one(kind, name, _LAST_NS),
            )
        )
        told, everyone = self._told(), self._everyone()
        sums = await asyncio.to_thread(lambda: self._sums(kind, name, everyone, told, moment_ns))
        if view is None and not sums.nodes:  # nor did nodes speak of it
            if there is None:
                return None
            raise Refused(f"{_called(there, name)} had not been written at {when(moment_ns)}.", 400)
        made = self._group(kind, name, view, _as_of(known, moment_ns))
        return msgspec.structs.replace(made, nodes=sums.nodes, sums=sums)

    def _sums(
        self,
        kind: DocumentKind,
        name: str,
        everyone: Everyone,
        told: Sequence[SiteTold],
        moment_ns: int,
    ) -> ports.GroupSums:
        """How the nodes of a bundle or a domain stood, over the first `SUMMED_NODES_MAX` of them."""
        owned, there, every = self._documents.owns(moment_ns), self._there(everyone, moment_ns), everyone.rows
        asked = (name, None) if kind is DocumentKind.DOMAIN else (None, name)
        ids = frozenset(_members(owned, there, *asked))
        members = [every[node_id] for node_id in sorted(ids & every.keys())]
        counted = [row.id for row in members[:SUMMED_NODES_MAX]]
        versions = self._history.of(counted, moment_ns, (Track.VERSION,))
        return stood.sums(
            members,
            len(counted),
            owned.own,
            self._wants(moment_ns),
            {node_id: _MODES.get(WORDS[there.code(node_id)]) for node_id in counted},
            {node_id: held[Track.VERSION] for node_id, held in versions.items()},
            _silent(told, moment_ns),
            owned.unread,
        )

    def _wants(self, moment_ns: int) -> stood.Wanted:
        return stood.Wanted(lambda name: self._documents.one(DocumentKind.BUNDLE, name, moment_ns))

    def _group(self, kind: DocumentKind, name: str, view: View | None, as_of: ports.AsOf) -> ports.GroupThen:
        return ports.GroupThen(
            now_ns=as_of.at_ns,
            kind=kind,
            id=name,
            name=_called(view, name) if view is not None else name or NO_DOMAIN,
            words=rows.written(view, self._documents.where) if view is not None else (),
            as_of=as_of,
            described=view is not None,
        )

    # -- nodes ------------------------------------------------------------------------------------------------

    async def node(self, who: Identity, node_id: str, moment_ns: int) -> ports.NodeView | None:
        """None when there is no such node; Refused (400) when it was not there yet."""
        view = await self._box.node(who, node_id)
        if view is None:
            return None
        first_ns, known, stood = await asyncio.to_thread(
            lambda: (
                self._history.first_of(node_id),
                self._history.known(),
                self._history.of([node_id], moment_ns).get(node_id, {}),
            )
        )
        if not stood:
            since = f" It is known since {when(first_ns)}." if first_ns is not None else " Nothing has happened to it."
            raise Refused(f"{view.row.name} was not there at {when(moment_ns)}.{since}", 400)
        upto = {one.name: one.upto_ns for one in self._told()}
        row = row_then(view.row, stood, moment_ns, upto.get(view.row.site))
        values = await self._values(who, node_id, view.metrics, moment_ns)
        places = {value.metric: value for value in values}
        lat, lon = places.get("lat_deg"), places.get("lon_deg")
        if lat is not None and lon is not None:
            where = Position(lat.value, lon.value)
            row = msgspec.structs.replace(row, position=where, position_ns=min(lat.at_ns, lon.at_ns))
        told = self._told()
        wrote, verdict = await asyncio.to_thread(lambda: self._wanted(row, stood, values, moment_ns))
        line, chain = await asyncio.to_thread(lambda: self._line_of_node(node_id, wrote, told, moment_ns))
        then = self._documents.applied(_blank(view.node), wrote) if wrote is not None else _blank(view.node)
        if wrote is not None:
            row = msgspec.structs.replace(row, name=then.name, kind=then.kind, tags=then.tags)
        return ports.NodeView(
            now_ns=moment_ns,
            row=row,
            node=deciding.stated(node_then(then, stood, row), chain),
            values=tuple(value for value in values if value.metric not in ("lat_deg", "lon_deg")),
            drift=verdict.lines,
            score=verdict.score,
            sources=(),
            moves=(),
            metrics=view.metrics,
            editable=(),
            authority=line,
            as_of=_as_of(known, moment_ns),
            clock=max(stood.values(), key=lambda was: was.since_ns).clock,
        )

    def _line_of_node(
        self, node_id: str, wrote: View | None, told: Sequence[SiteTold], moment_ns: int
    ) -> tuple[ports.AuthorityLine | None, Chain]:
        rights = self._rights_at(moment_ns)
        if rights is None:
            return None, authority.NOBODY
        chain = rights.of_node(node_id, wrote if wrote is not None else View({}, ()))
        chain = chain._replace(place=rights.place_of(node_id))
        return _decided(chain, rights, self._heard((chain.place,), told, moment_ns)[chain.place]), chain

    def _wanted(
        self, row: ports.NodeRow, was: Mapping[Track, Was], values: Sequence[ports.Value], moment_ns: int
    ) -> tuple[View | None, drift.Verdict]:
        """What had been written of a node by then, and how it stood to that."""
        wrote = self._documents.one(DocumentKind.NODE, row.id, moment_ns)
        if wrote is None:
            return None, drift.FREE
        wants = self._wants(moment_ns).of(own(wrote))
        mode, version = was.get(Track.CONNECTIVITY), was.get(Track.VERSION)
        return wrote, stood.verdict(
            wants,
            row,
            row.mode,
            mode.since_ns if mode else None,
            row.version,
            version.since_ns if version else None,
            values,
            heard=row.lost_ns is None,
        )

    async def _values(self, who: Identity, node_id: str, metrics: Sequence[str], moment_ns: int) -> list[ports.Value]:
        found: list[ports.Value] = []
        for metric in metrics[:VALUES_MAX]:
            series = await self._box.series(who, node_id, metric, moment_ns - _MEAN_NS_MAX, moment_ns)
            if series.mean:
                at_ns, source = int(series.at_s[-1] * SECOND), f"mean of {age(series.step_s)}"
                found.append(ports.Value(metric=metric, value=series.mean[-1], at_ns=at_ns, source=source))
        return found

    async def nodes(
        self, who: Identity, after: str, limit: int, moment_ns: int, query: ports.NodeQuery = ports.ALL_NODES
    ) -> Sequence[tuple[Node, tuple[drift.Difference, ...]]]:
        """Canonical objects by ascending id, of the nodes that were there."""
        told, everyone = self._told(), self._everyone()
        there = await asyncio.to_thread(lambda: self._there(everyone, moment_ns))
        among = await self._among(query, everyone, moment_ns)
        wanted, every = self._wanting(query, among), everyone.rows
        if rows.filters(query):
            whole = msgspec.structs.replace(query, offset=0, limit=len(every))
            listed = await asyncio.to_thread(lambda: self._listed(everyone, told, whole, moment_ns, wanted))
            every = {row.id: row for row in listed.page}
        found: list[Node] = []
        while len(found) < limit:
            some = await self._box.nodes(who, after, limit)
            found += [node for node in some if there.code(node.id) and node.id in every]
            if len(some) < limit:
                break
            after = some[-1].id
        found = found[:limit]
        was, owned = await asyncio.to_thread(
            lambda: (self._history.of([node.id for node in found], moment_ns), self._documents.owns(moment_ns))
        )
        upto = {one.name: one.upto_ns for one in told}
        return await asyncio.to_thread(lambda: self._then(found, every, was, owned, upto, moment_ns))

    def _then(
        self,
        found: Sequence[Node],
        by_id: Mapping[str, ports.NodeRow],
        was: Mapping[str, Mapping[Track, Was]],
        owned: Owned,
        upto: Mapping[str, int | None],
        moment_ns: int,
    ) -> list[tuple[Node, tuple[drift.Difference, ...]]]:
        wants, made = self._wants(moment_ns), list[tuple[Node, tuple[drift.Difference, ...]]]()
        for node in found:
            held = was.get(node.id, {})
            row = row_then(by_id[node.id], held, moment_ns, upto.get(by_id[node.id].site))
            mode, version = held.get(Track.CONNECTIVITY), held.get(Track.VERSION)
            lines = stood.verdict(
                wants.of(owned.own.get(node.id, _NOTHING)),
                row,
                row.mode,
                mode.since_ns if mode else None,
                row.version,
                version.since_ns if version else None,
                heard=row.lost_ns is None and node.id not in owned.left,
            ).lines
            made.append((node_then(node, held, row), lines))
        return made


_LAST_NS = 1 << 62
_TAGS_ROWS_MAX = 5_000
_FEW_PART = 10  # of all nodes, below which sorting some costs less than going through all in order


class _Among(NamedTuple):
    """Nodes (None: all), and how many documents were not looked at."""

    ids: frozenset[str] | None
    unread: int


def _members(owned: Owned, there: There, domain: str | None, bundle: str | None) -> Iterator[str]:
    """Of the nodes that were there, those of a domain ("": of none) and of a bundle; None is any."""
    named = domain or bundle  # then their documents say so, and few are looked at
    for node_id in owned.own if named else there.ids():
        said = owned.own.get(node_id, _NOTHING)
        fits = domain in (None, said.domain) and bundle in (None, said.bundle)
        if fits and node_id not in owned.left and (not named or there.code(node_id)):
            yield node_id


def _named(owned: Owned, there: There, kind: DocumentKind) -> Counter[str]:
    """How many of the nodes that were there spoke of each bundle, or were of each domain ("": of none)."""
    domain = kind is DocumentKind.DOMAIN
    said = (one for node_id, one in owned.own.items() if node_id not in owned.left and there.code(node_id))
    named = Counter(one.domain if domain else one.bundle for one in said)
    del named[""]
    of_none = there.size() - sum(map(bool, map(there.code, owned.left))) - named.total()
    if domain and of_none:
        named[""] = of_none
    return named


_NOTHING = Own()


class _Listed(msgspec.Struct, frozen=True):
    """The list of a moment: tallies of all nodes, a page of rows as they are now, and how many nodes each site had."""

    tally: dict[Reach, int]
    page: list[ports.NodeRow]
    matching: int
    nodes: Counter[str]


_NUMBERS = {reach: number for number, reach in enumerate(Reach, 1)}  # 0: it was not there
_NUMBER_OF = bytes(
    _NUMBERS[REACH[_MODES.get(WORDS[code])]] if code in WORDS else 0 for code in range(256)
)  # by the code of a mode
_EACH = bytes(range(256))


def _list(
    everyone: Everyone,
    seats: Seats,
    crowd: Crowd,
    told: Sequence[SiteTold],
    query: ports.NodeQuery,
    moment_ns: int,
    wanted: Set[str] | None,
) -> _Listed:
    """`wanted` are the nodes that the query asks for, whatever their reach was (None: all). Of a hundred thousand rows only
    those of the page are looked at."""
    reach, unknown = seats.without(crowd.codes.translate(_NUMBER_OF), ()), _NUMBERS[Reach.UNKNOWN]
    for site in _silent(told, moment_ns):
        for seat in seats.by_site.get(site, ()):
            if reach[seat]:
                reach[seat] = unknown
    nodes = Counter({site: len(its) for site, its in seats.by_site.items()})
    nodes.subtract(seats.sites[seat] for seat in _places(reach, {0}))
    order, asked = seats.by_name, reach
    if wanted is None:
        in_order = seats.named(reach)
    else:
        asked, some = bytearray(len(reach)), [seat for seat in map(seats.of.get, wanted) if seat is not None]
        for seat in some:
            asked[seat] = reach[seat]
        if len(some) < len(order) // _FEW_PART:
            order = sorted(some, key=lambda seat: everyone.rows[crowd.ids[seat]].name)
            in_order = bytes(map(asked.__getitem__, order))
        else:
            in_order = seats.named(asked)
    counts = {one: asked.count(number) for one, number in _NUMBERS.items()}
    groups = [one for one in _URGENCY if query.reach in (None, one)]
    parts = [(one,) for one in groups] if query.order == "attention" else [tuple(groups)]
    page, skip = list[ports.NodeRow](), query.offset
    for which in parts:
        count = sum(counts[one] for one in which)
        if skip < count and len(page) < query.limit:
            places = _places(in_order, {_NUMBERS[one] for one in which})
            end = skip + query.limit - len(page)
            page += [everyone.rows[crowd.ids[order[place]]] for place in islice(places, skip, end)]
        skip = max(skip - count, 0)
    tally = {one: reach.count(number) for one, number in _NUMBERS.items()}
    return _Listed(tally, page, sum(counts[one] for one in groups), nodes)


def _places(column: bytes | bytearray, which: Set[int]) -> Iterator[int]:
    """Where one of these stands."""
    found = column.translate(bytes(number in which for number in _EACH))
    place = found.find(1)
    while place >= 0:
        yield place
        place = found.find(1, place + 1)


def _silent(told: Iterable[SiteTold], moment_ns: int) -> frozenset[str]:
    """The sites that have told nothing of a moment."""
    return frozenset(one.name for one in told if one.upto_ns is not None and one.upto_ns < moment_ns)


def _as_of(known: Known, moment_ns: int) -> ports.AsOf:
    return ports.AsOf(at_ns=moment_ns, position=known.position, behind=known.behind)


def row_then(row: ports.NodeRow, stood: Mapping[Track, Was], moment_ns: int, upto_ns: int | None) -> ports.NodeRow:
    """A row of now as it was. `upto_ns`: its site has told nothing after that."""
    mode, beat, place = stood.get(Track.CONNECTIVITY), stood.get(Track.HEARTBEAT), stood.get(Track.LIFECYCLE)
    version, health = stood.get(Track.VERSION), stood.get(Track.HEALTH)
    lost_ns = upto_ns if upto_ns is not None and upto_ns < moment_ns else None
    was = _MODES.get(mode.said) if mode else None
    return ports.NodeRow(
        id=row.id,
        name=row.name,
        kind=row.kind,
        tags=row.tags,
        site=row.site,
        mode=was,
        reach=REACH[was] if lost_ns is None else Reach.UNKNOWN,
        since_ns=mode.since_ns if mode else None,
        health=_HEALTH.get(health.said, Health.UNKNOWN) if health else Health.UNKNOWN,
        heartbeat_missing_ns=beat.since_ns if beat and beat.said == MISSING else None,
        phase=place.said if place else str(lifecycle.START),
        version=version.said if version else None,
        lost_ns=lost_ns,
    )


def _called(view: View, name: str) -> str:
    said = view.values.get("name")
    return str(said.value or name) if said is not None else name


def _decided(chain: Chain, rights: Rights, heard_ns: int | None) -> ports.AuthorityLine:
    return deciding.line(chain, rights.here, rights.names(chain.place), heard_ns)


def _blank(node: Node) -> Node:
    """Without what was wanted of it: that is asked of its document."""
    return msgspec.structs.replace(node, desired=Desired())


def node_then(node: Node, stood: Mapping[Track, Was], row: ports.NodeRow) -> Node:
    """A canonical object as it was; `node` says what had been written of it."""
    moved = stood.get(Track.LIFECYCLE)
    place = lifecycle.place(row.phase)
    return msgspec.structs.replace(
        node,
        connectivity=Connectivity(mode=row.mode),
        actual=Actual(reported_version=row.version, health=row.health),
        supply_chain=SupplyChain(firmware=Firmware(version=row.version)),
        lifecycle=Lifecycle(phase=place.phase, state=place.state, last_transition_ns=moved.since_ns if moved else None),
    )


def _line(site: SiteTold, link: Was | None, nodes: int, moment_ns: int) -> ports.SiteLine:
    silent = site.upto_ns is not None and site.upto_ns < moment_ns
    said = link.said if link else ""
    mode = Mode.DISCONNECTED if silent else _LINKS.get(said, _MODES.get(said))
    since_ns = site.upto_ns if silent and site.upto_ns is not None else link.since_ns if link else moment_ns
    return ports.SiteLine(
        peer=site.peer,
        name=site.name,
        mode=mode,
        since_ns=since_ns,
        heard_ns=site.upto_ns if silent else None,
        nodes=nodes,
        quarantined=said == "QUARANTINED" and not silent,
    )


# -- the slider of a node -------------------------------------------------------------------------------------------

_BAND = 1_000  # units of the drawing
_STEPS_S = (1, 5, 10, 30, 60, 300, 600, 1_800, 3_600)


class Band(msgspec.Struct, frozen=True):
    """What a slider shows: from the first to the last second, in steps; spans of reach, ticks of everything else that
    turned (in thousandths of the width); the turns before and after the moment."""

    first_s: int
    last_s: int
    step_s: int
    spans: tuple[tuple[Reach, float, float], ...]
    ticks: tuple[float, ...]
    before: Was | None
    after: Was | None
    words: str


def band(turns: Sequence[Was], now_ns: int, moment_ns: int) -> Band | None:
    """None when nothing has turned yet."""
    if not turns or turns[0].since_ns >= now_ns:
        return None
    first_s, last_s = turns[0].since_ns // SECOND, now_ns // SECOND + 1
    step_s = next((step for step in _STEPS_S if (last_s - first_s) / step <= _BAND), _STEPS_S[-1])
    modes = [was for was in turns if was.track is Track.CONNECTIVITY]
    ends = [*(was.since_ns for was in modes[1:]), *((now_ns,) if modes else ())]

    def x(at_ns: int) -> float:
        return round((at_ns / SECOND - first_s) / (last_s - first_s) * _BAND, 1)

    spans = [
        (REACH[_MODES.get(was.said)], x(was.since_ns), max(round(x(end) - x(was.since_ns), 1), 1.0))
        for was, end in zip(modes, ends, strict=True)
    ]
    silent = sum(reach is Reach.OFFLINE for reach, _, _ in spans)
    return Band(
        first_s=first_s,
        last_s=last_s,
        step_s=step_s,
        spans=tuple(sorted(spans, key=lambda span: -span[2])),  # a short outage is drawn over what is long
        ticks=tuple(dict.fromkeys(x(was.since_ns) for was in turns if was.track is not Track.CONNECTIVITY)),
        before=next((was for was in reversed(turns) if was.since_ns // SECOND < moment_ns // SECOND), None),
        after=next((was for was in turns if was.since_ns // SECOND > moment_ns // SECOND), None),
        words=f"{len(turns)} turns since {when(turns[0].since_ns)}, silent {silent} times",
    )
