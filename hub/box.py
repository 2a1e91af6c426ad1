"""The hub as its pages see it (`web.ports.Box`): reads put together from what the sites told, the journal and the stores;
commands passed on. It decides nothing.

Rules of the file
  1  A value is shown with the time at which it was true at its site. While a site is not heard, its nodes are unknown
     since then: one line about the site, no alarm for each of them.
  2  What only a site can do is refused with a sentence that says where to do it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence, Set
from contextlib import closing
from itertools import islice
from typing import Any, Protocol, TypeVar

import msgspec

from fleet import lifecycle, series
from fleet.attention import Cause, Item
from fleet.audit import Page, Query
from fleet.authority import NOBODY, Chain, Judged
from fleet.board import text as text_of
from fleet.connectivity import REACH, Mode, Reach
from fleet.document import Id, Value, View
from fleet.document import Kind as DocumentKind
from fleet.events import Recorded, SourceClaimed, SourceReleased, Stamp
from fleet.limits import SECOND
from fleet.metrics import BY_NAME
from fleet.node import Actual, Connectivity, Endpoint, Firmware, Kind, Lifecycle, LinkQuality, Node, SupplyChain
from fleet.past import WHOLE, Stretch
from fleet.people import Identity, Refused, Unavailable
from fleet.present import Present, Told
from fleet.projections import lifecycle as lifecycle_view
from hub import attention as needs
from hub import gauges
from hub.authority import Granting
from hub.charts import STEP_S, Charts
from hub.debts import HEARD as _HEARD
from hub.debts import Debts, debt_s
from hub.records import Records
from hub.roll import Roll
from hub.shelf import certificate_of
from hub.state import Certificate, FleetHere, NodeHere, SiteHere
from store import audit, batch, journal, node_words, peers, proof, window
from store.attention import Marks
from store.clock import WallClock
from store.database import Reader, connect_reader
from store.drifting import Drifting
from store.faults import StoreFault
from store.folder import Folder
from store.history import HistoryIndex
from store.policies import Policies
from store.quarantine import Quarantine
from store.shared import Shared, look, told
from store.supervisor import Supervisor
from store.then import Documents
from store.views import View as Folded
from sync import audit_file, export, receipt, receipt_file
from sync.link import Link
from web import attention, deciding, policies, ports, rows
from web.attention import Made
from web.past import SiteTold, Then
from web.stale import Stale
from web.words import age, counted, when

T = TypeVar("T")

_NO_LINE = "this hub has no line for sites open, so nothing can be said to them"
_NAME_A_NODE = "records belong to a node; name one"
_NO_RECORDS = "None is here yet: {site} seals its records once an hour, and sends them when nothing more urgent waits."
_SOURCES_MAX = 1_000
_LINES_MAX = 200
_CHART_POINTS_MAX = 400
_BEHIND = "Events of the journal that a page as of a moment does not know yet."
_NO_STICK = "files for sticks cannot be written or read here yet"
EDITABLE = tuple(field for field in ports.EDITABLE if field != "address")


class Lines(Protocol):
    """What goes out to sites on a person's word (`hub.wharf`)."""

    link: Link | None

    @property
    def refused(self) -> Mapping[str, int]: ...

    async def release(self, actor: str, writer: str, reason: str) -> None: ...

    async def edit(self, actor: str, node_id: str, values: Mapping[str, Value]) -> None: ...

    async def edit_many(
        self, actor: str, node_ids: Sequence[str], values: Mapping[str, Value], *, dry_run: bool
    ) -> list[batch.Outcome]: ...

    async def take(self, actor: str, node_id: str, pointer: str, choice: int) -> None: ...

    async def settle(self, actor: str, node_id: str, pointer: str, choice: int, decision: str, why: str) -> None: ...


class Sticks(Protocol):
    """Files for sites and from them (`hub.bundles`)."""

    def download(self, writer: str) -> AsyncIterator[bytes]: ...

    async def upload(self, chunks: AsyncIterator[bytes]) -> str: ...


class Parts(msgspec.Struct, kw_only=True):
    """What the box answers from, in one value; wired in `hub.compose`. `lines` comes with the harbor."""

    folder: Folder
    clock: WallClock
    identity: journal.Identity
    journal: journal.Journal
    reader: Reader
    quarantine: Quarantine
    supervisor: Supervisor
    stale: Stale
    fleet: FleetHere
    lifecycle: Folded[lifecycle_view.State]
    fault: Callable[[], StoreFault | None]
    steady_ns: Callable[[], int]
    version: str
    started_ns: int
    charts: Charts | None = None
    debts: Debts | None = None
    lines: Lines | None = None
    sticks: Sticks | None = None
    granting: Granting | None = None
    shared: Shared | None = None
    policies: Policies | None = None
    turns: HistoryIndex | None = None


class HubBox:
    hub = True
    plans: ports.Plans  # given by whoever wires it
    devices: ports.Devices | None = None  # they belong to sites
    marks: Marks

    def __init__(self, parts: Parts) -> None:
        self.name = parts.identity.site
        self.version = parts.version
        self._parts = parts
        self._records = Records(parts.folder)
        self._roll = Roll(parts.fleet, _row, _lost_ns, lambda site: site.mode in _HEARD)
        self._roll.refresh()
        self.drifting = Drifting(parts.folder.site_db, parts.identity.log.tenant, self._seen, policies.overview)
        if parts.shared is not None:
            self.drifting.look = parts.shared.judged
        self._queue = attention.Queue(self.drifting.board, hub=True)
        self.policies = policies.Policies(
            self.drifting,
            parts.policies,
            node_words.common_values,
            parts.clock.now_ns,
            lambda writer: parts.fleet.sites[writer].name if writer in parts.fleet.sites else "",
            self._where,
        )
        documents = Documents(parts.folder.site_db, parts.identity.log.tenant, self._where, self.drifting.owns)
        rights = parts.granting.rights if parts.granting is not None else None
        self.past = (
            Then(parts.turns, self, self._everyone, self._matching, self._told, documents, rights, self._receipts_then)
            if parts.turns is not None
            else None
        )

    # -- the fleet ----------------------------------------------------------------------------------------------

    async def site(self, who: Identity, query: ports.NodeQuery) -> ports.SiteView:
        parts, now_ns = self._parts, self._parts.clock.now_ns()
        roll, sites, nodes_of = self._rolled(), self._sites(), parts.fleet.nodes_of
        found, drift = roll.find(query, await self._among(query)), await self.drifting.latest()
        needing = await self._needing(drift, now_ns)
        lines = [_line(site, len(nodes_of.get(site.writer, ())), now_ns) for site in _in_order(sites)]
        return ports.SiteView(
            site=self.name,
            now_ns=now_ns,
            reach=roll.reach(),
            attention=self._queue.lines(needing, now_ns),
            needing=len(needing.awake),
            rows=await self._with_sparks(found.page),
            matching=found.matching,
            places=found.places,
            tags=roll.tags(),
            messages_per_s=sum(site.events_per_s for site in sites),
            unclaimed=0,
            uptime_s=(parts.steady_ns() - parts.started_ns) / SECOND,
            sites=tuple(lines),
            drift=drift,
        )

    async def _among(self, query: ports.NodeQuery) -> frozenset[str] | None:
        """The nodes of the domain and of the bundle that are asked for; None when neither is."""
        if not rows.groups(query):
            return None
        return await self.drifting.ask(lambda board: board.members(query.domain, query.bundle))

    async def _with_sparks(self, page: tuple[ports.NodeRow, ...]) -> tuple[ports.NodeRow, ...]:
        """As sites have them: the battery over the last hour. A list is shown without them too."""
        if self._parts.charts is None:
            return page
        try:
            sparks = await self._parts.charts.sparks([row.id for row in page], "battery_pct")
        except StoreFault:
            return page
        return tuple(msgspec.structs.replace(row, spark=sparks[row.id]) for row in page)

    def _seen(self) -> tuple[Mapping[str, NodeHere], frozenset[str], set[str]]:
        fresh, fleet = set[str](), self._parts.fleet
        while fleet.unjudged:  # first: what is told from here on is looked at the next time
            fresh.add(fleet.unjudged.pop())
        return dict(fleet.nodes), frozenset(site.writer for site in self._sites() if site.mode in _HEARD), fresh

    def _sites(self) -> list[SiteHere]:
        return list(dict(self._parts.fleet.sites).values())

    def _rolled(self) -> Roll:
        self._roll.refresh()
        return self._roll

    def _everyone(self) -> rows.Everyone:
        return self._rolled().everyone()

    def _matching(self, query: ports.NodeQuery, among: Set[str] | None) -> Set[str]:
        return self._rolled().matching(query, among)

    def _row(self, here: NodeHere) -> ports.NodeRow:
        site = self._parts.fleet.sites.get(here.site)
        return _row(here, site.name if site else "", _lost_ns(site, here))

    async def look(self) -> None:
        """Note what needs a person as of now (`web.attention.attend`)."""
        await self._needing(await self.drifting.latest(), self._parts.clock.now_ns())

    async def _needing(self, drift: ports.DriftView, now_ns: int) -> Made:
        """All that needs a person, in order."""
        parts, sites, fault = self._parts, self._sites(), self._parts.fault()
        others = [one for site in sites for one in needs.of_site(site, now_ns, heard=site.mode in _HEARD)]
        others += self._queue.common(drift, await parts.quarantine.count())
        if fault is not None:
            others.append(Item(Cause.STORAGE, attention.BOX, "storage", "storage", str(fault), 0))
        for line in parts.granting.contested() if parts.granting is not None else ():
            others.append(needs.contested(line, parts.fleet.nodes.get(line.subject)))
        others, roll = self._queue.begun(others, drift.pending, now_ns), self._rolled()
        return self._queue.order(roll.version, lambda: roll.needs(now_ns), others, now_ns)

    async def attention(self, who: Identity, query: ports.AttentionQuery) -> ports.AttentionView:
        now_ns, drift = self._parts.clock.now_ns(), await self.drifting.latest()
        names = {one.id: one.name for one in drift.domains}
        return self._queue.view(await self._needing(drift, now_ns), query, names, now_ns)

    async def handle(self, who: Identity, wish: ports.AttentionWish) -> None:
        now_ns = self._parts.clock.now_ns()
        made = await self._needing(await self.drifting.latest(), now_ns)
        item, values = attention.values_of(made, wish, who.name, now_ns)
        await self.marks.write(who.name, item.subject_kind, item.subject, values)
        await self.drifting.refresh()
        self._parts.stale.mark("site")

    async def node(self, who: Identity, node_id: str) -> ports.NodeView | None:
        here = self._parts.fleet.nodes.get(node_id)
        if here is None:
            return None
        present, row = here.present, self._row(here)
        judged, chain = await _in_thread(lambda: self._judgement(node_id))
        view = judged.view
        node = deciding.stated(node_words.applied(self._canonical(here), view), chain)
        order = {metric: place for place, metric in enumerate(BY_NAME)}
        values = sorted(present.values, key=lambda metric: (order.get(metric, len(order)), metric))
        notes = view.values.get("notes")
        verdict, (domains, bundles) = await self.policies.verdict(node_id, here), await self.policies.names()
        return ports.NodeView(
            now_ns=self._parts.clock.now_ns(),
            row=row,
            node=node,
            values=tuple(_value(metric, present.values[metric]) for metric in values),
            metrics=tuple(sorted(present.values)) if self._parts.charts is not None else (),
            drift=verdict.lines,
            score=verdict.score,
            requires_online=rows.online(view),
            domains=domains,
            policies=bundles,
            upstream=text_of(view, "upstream"),
            relays=self._relays(node_id, here.site),
            sources=(),
            moves=(),
            text=present.text,
            text_ns=present.text_ns,
            notes=str(notes.value or "") if notes else "",
            conflicts=rows.conflicts(view, self._where),
            editable=EDITABLE if self._parts.lines is not None else (),
            authority=self._parts.granting.line(chain) if self._parts.granting else None,
            parked=deciding.parked(judged.parked, self._where),
        )

    def _relays(self, node_id: str, site: str) -> tuple[tuple[str, str], ...]:
        held = ((one, self._parts.fleet.nodes[one].present) for one in tuple(self._parts.fleet.nodes_of.get(site, ())))
        return rows.relays((one, present.name, present.kind) for one, present in held if one != node_id)

    def _document(self, node_id: str) -> View:
        return self._judgement(node_id)[0].view

    def _judgement(self, node_id: str) -> tuple[Judged, Chain]:
        """A node's document with the words that take effect, and the authority that says which."""
        place = Id(self._parts.identity.log.tenant, DocumentKind.NODE, node_id)
        with closing(connect_reader(self._parts.folder.site_db)) as db:
            if self._parts.shared is None:
                return Judged(look(db, *place)), NOBODY
            return self._parts.shared.judgement(db, place)

    # -- authority ------------------------------------------------------------------------------------------------

    async def authority(self, who: Identity, subject: str) -> ports.AuthorityView:
        granting, held = self._parts.granting, self._parts.fleet.nodes.get(subject)
        lines = [granting.line(chain) for chain in granting.chains(subject)] if granting is not None else []
        domains, _ = await self.policies.names()
        return ports.AuthorityView(
            now_ns=self._parts.clock.now_ns(),
            subject=subject,
            name=held.present.name if held is not None else dict(domains).get(subject, subject),
            lines=tuple(lines[:_LINES_MAX]),
            actions=("grant",) if granting is not None else (),
        )

    async def grant(self, who: Identity, subject: str, terms: ports.AuthorityTerms, why: str) -> None:
        if self._parts.granting is None:
            raise Refused(_NO_LINE)
        await self._parts.granting.grant(who.name, subject, deciding.terms_of(terms), why)

    async def hand_back(self, who: Identity, subject: str, why: str) -> None:
        raise Refused("a site hands back what it took, on its own page; here you take it back by a grant")

    async def settle_parked(
        self, who: Identity, node_id: str, field: str, choice: int, decision: str, why: str
    ) -> None:
        self._site_of(node_id)
        await self._lines().settle(who.name, node_id, field, choice, decision, why)

    def _where(self, writer: str) -> str:
        site = self._parts.fleet.sites.get(writer)
        return site.name if site else self.name  # towards each site the hub writes a log of its own

    async def nodes(
        self, who: Identity, after: str, limit: int, query: ports.NodeQuery = ports.ALL_NODES
    ) -> Sequence[Node]:
        among, held, roll = await self._among(query), self._parts.fleet.nodes, self._rolled()
        if rows.filters(query):
            chosen = heapq.nsmallest(limit, (one for one in roll.matching(query, among) if one > after))
        else:
            chosen = [*islice(roll.behind(after), limit)]
        return [self._canonical(held[node_id]) for node_id in chosen]

    async def latest(self, who: Identity, query: ports.LatestQuery) -> Sequence[ports.Latest]:
        fleet = self._parts.fleet
        writers = {site.writer for site in self._sites() if site.name in query.sites}
        behind = self._rolled().behind(query.after)
        if query.ids:
            behind = iter(sorted(one for one in query.ids & fleet.nodes.keys() if one > query.after))
        chosen = (
            node_id
            for node_id in behind
            if (not query.sites or fleet.nodes[node_id].site in writers)
            and (not query.tags or not query.tags.isdisjoint(fleet.nodes[node_id].present.tags))
        )
        return [self._latest(fleet.nodes[node_id]) for node_id in islice(chosen, query.limit)]

    def _latest(self, here: NodeHere) -> ports.Latest:
        present = here.present
        values = tuple(_value(metric, told) for metric, told in present.values.items())
        return ports.Latest(row=self._row(here), values=values, text=present.text, text_ns=present.text_ns)

    async def called(self, who: Identity, ids: Collection[str]) -> Mapping[str, str]:
        held = self._parts.fleet.nodes
        return {one: held[one].present.name for one in ids if one in held}

    def _canonical(self, here: NodeHere) -> Node:
        present, row = here.present, self._row(here)
        place = _place(present.phase)
        held = self._parts.lifecycle.state.standing.get(present.node_id)
        return Node(
            id=present.node_id,
            name=present.name,
            kind=present.kind,
            tags=present.tags,
            tenant=self._parts.identity.log.tenant,
            endpoints=(Endpoint(address=present.address),) if present.address else (),
            connectivity=Connectivity(
                mode=row.mode,
                last_seen_ns=row.seen_ns,
                link=LinkQuality(
                    rtt_ms=row.rtt.value if row.rtt else None, loss_pct=row.loss.value if row.loss else None
                ),
            ),
            actual=Actual(reported_version=present.version, health=present.health, uptime_s=present.uptime_s),
            supply_chain=SupplyChain(firmware=Firmware(version=present.version)),
            lifecycle=Lifecycle(
                phase=place.phase,
                state=place.state,
                last_transition_ns=held.since_ns if held else None,
                reason=held.reason if held else None,
            ),
        )

    async def series(self, who: Identity, node_id: str, metric: str, from_ns: int, to_ns: int) -> ports.Series:
        site, charts = self._site_of(node_id), self._parts.charts
        known, from_s, to_s = BY_NAME.get(metric), from_ns // SECOND, to_ns // SECOND
        words, points = await self._charted(site, self._parts.fleet.nodes[node_id].site), list[series.Point]()
        try:
            points = await charts.points(node_id, metric, from_s, to_s) if charts is not None else points
        except StoreFault as fault:
            words = f"Charts cannot be read now: {fault}"
        step_s, thinned = series.thin(points, from_s, to_s, _CHART_POINTS_MAX, STEP_S)
        return ports.Series(
            metric=metric,
            unit=known.unit if known else "",
            step_s=step_s,
            at_s=tuple(float(point.at_s) for point in thinned),
            low=tuple(point.low for point in thinned),
            mean=tuple(point.mean for point in thinned),
            high=tuple(point.high for point in thinned),
            words=words,
        )

    async def _charted(self, site: str, writer: str) -> str:
        """Where a chart is from, and what of it is still to come."""
        rows = await self._parts.reader.fetch(peers.SERIES_STANDING, (writer,))
        standing = {state: (files, upto_ns) for state, files, upto_ns in rows}
        words = f"As told to the hub, {age(STEP_S)} apart"
        if peers.HERE in standing:
            words += f"; up to {when(standing[peers.HERE][1])} as {site} sealed it"
        if peers.WANTED in standing:
            words += f"; {counted(standing[peers.WANTED][0], 'file')} of charts still to come from {site}"
        problem = self._parts.charts.problem if self._parts.charts is not None else ""
        return f"{words}. What came since cannot be kept: {problem}" if problem else f"{words}."

    def _site_of(self, node_id: str) -> str:
        """The name of a node's site. Refused (404) when nobody told of the node."""
        here = self._parts.fleet.nodes.get(node_id)
        if here is None:
            raise Refused("there is no such node", 404)
        site = self._parts.fleet.sites.get(here.site)
        return site.name if site else "its site"

    # -- journal and records ----------------------------------------------------------------------------------

    async def events(self, who: Identity, after: int, limit: int, stretch: Stretch = WHOLE) -> Sequence[Recorded]:
        if stretch != WHOLE:
            return await _in_thread(lambda: window.following(self._parts.folder, after, limit, stretch))
        return journal.rows_to_events(await self._parts.reader.fetch(journal.AFTER, (after, limit)))

    async def timeline(
        self,
        who: Identity,
        before: int,
        limit: int,
        subject: str | None = None,
        kind: str | None = None,
        stretch: Stretch = WHOLE,
    ) -> Sequence[Recorded]:
        if stretch != WHOLE and not subject:
            return await _in_thread(lambda: window.timeline(self._parts.folder, before, limit, kind, stretch))
        sql, parameters = journal.newest(before or 1 << 62, limit, subject, kind, stretch)
        return told(journal.rows_to_events(await self._parts.reader.fetch(sql, parameters)))

    async def records_after(self, who: Identity, after: int, limit: int, node_id: str | None) -> ports.RecordPage:
        site = self._writer_of(node_id)
        if node_id is None or site is None:
            return ports.RecordPage(records=(), next=after, words=_NAME_A_NODE)
        sources = await self._claims(node_id)
        page = await asyncio.to_thread(lambda: self._records.after(site, after, limit, sources))
        return ports.RecordPage(
            records=tuple(rows.record(*record.parts, node_id) for record in page.records),
            next=page.scanned,
            gaps=tuple((gap.first_id, gap.last_id, gap.reason) for gap in page.gaps),
        )

    async def records_before(
        self, who: Identity, before: int, limit: int, node_id: str | None, text: str
    ) -> ports.RecordPage:
        site = self._writer_of(node_id)
        if node_id is None or site is None:
            return ports.RecordPage(records=(), next=0, words=_NAME_A_NODE)
        sources, name = await self._claims(node_id), self._site_of(node_id)
        known = await asyncio.to_thread(lambda: self._records.known(site))
        upto_ns = max((one.to_ns for one in known if one.state == peers.HERE), default=0)
        if not upto_ns:
            return ports.RecordPage(records=(), next=0, words=_NO_RECORDS.format(site=name))
        page = await asyncio.to_thread(
            lambda: self._records.before(site, before or 1 << 62, limit, sources, text.encode())
        )
        return ports.RecordPage(
            records=tuple(rows.record(*record.parts, node_id) for record in page.records),
            next=page.scanned,
            words=f"As {name} sealed and sent them, up to {when(upto_ns)}. What came since is on {name}’s own page.",
        )

    def _writer_of(self, node_id: str | None) -> str | None:
        held = self._parts.fleet.nodes.get(node_id or "")
        return held.site if held else None

    async def _claims(self, node_id: str) -> frozenset[str]:
        """The sources that the node's site says are its own."""
        last: dict[str, tuple[Stamp, bool]] = {}
        for kind in ("source.claimed", "source.released"):
            sql, parameters = journal.newest(1 << 62, _SOURCES_MAX, node_id, kind)
            for one in journal.rows_to_events(await self._parts.reader.fetch(sql, parameters)):
                if isinstance(one.body, SourceClaimed | SourceReleased) and one.body.node == node_id:
                    said = (one.stamp, isinstance(one.body, SourceClaimed))
                    last[one.body.source] = max(last.get(one.body.source, said), said)
        return frozenset(source for source, (_, claimed) in last.items() if claimed)

    async def audit(self, who: Identity, query: Query) -> Page:
        return await _in_thread(lambda: audit.page(self._parts.folder.site_db, query))

    def audit_export(self, who: Identity, query: Query) -> AsyncIterator[bytes]:
        parts = self._parts
        now_ns = parts.clock.now_ns()
        return audit_file.chunks(parts.folder.site_db, parts.identity, parts.journal.vouch, query, now_ns)

    async def verify(self, who: Identity) -> AsyncIterator[ports.VerifyStep]:
        async for step in proof.steps(self._parts.folder.site_db, self._parts.journal.position):
            yield ports.VerifyStep(**step._asdict())

    def export(self, who: Identity) -> AsyncIterator[bytes]:
        return export.chunks(self._parts.folder.site_db)

    def _told(self) -> list[SiteTold]:
        """How far each site has told what happened there."""
        turns = self._parts.turns
        return [SiteTold(site.writer, site.name, _told_ns(site, turns)) for site in self._sites()] if turns else []

    # -- links ------------------------------------------------------------------------------------------------

    async def links(self, who: Identity, query: ports.LinkQuery | None = None) -> ports.LinksView:
        now_ns, sites = self._parts.clock.now_ns(), self._sites()
        found = [site for site in sites if query is None or _asked_for(site, query)]
        first = query.offset if query is not None else 0
        end = first + max(1, query.limit) if query is not None else len(found)
        return ports.LinksView(
            now_ns=now_ns,
            links=tuple(self._link(site, now_ns) for site in _in_order(found)[first:end]),
            problem=self._parts.lines.link.problem if self._parts.lines and self._parts.lines.link else "",
            matching=len(found),
            sums=_link_sums(sites),
        )

    def _receipts_then(self, sites: Iterable[str], moment_ns: int) -> dict[str, ports.ReceiptView]:
        with closing(connect_reader(self._parts.folder.site_db)) as db:
            found = {site: peers.receipt_as_of(db, site, moment_ns) for site in sites}
        return {
            site: _receipt(certificate_of(receipt.read(one.content), countersigned=True))
            for site, one in found.items()
            if one is not None
        }

    def _link(self, site: SiteHere, now_ns: int) -> ports.LinkView:
        backlog, missing = site.backlog, site.segments_missing
        told = site.mode in _HEARD
        behind = bool(backlog or missing)
        releasable = bool(site.quarantine) and self._parts.lines is not None
        return ports.LinkView(
            peer=site.writer,
            name=site.name,
            mode=site.mode,
            since_ns=site.since_ns or None,
            heard_ns=site.heard_ns,
            debt_s=debt_s(site, now_ns, told=told),
            missing_events=backlog if told or backlog else None,
            missing_segments=missing if told or missing else None,
            missing_bytes=site.segment_bytes_missing if told or missing else None,
            drained_s=0.0
            if told and not behind
            else backlog / site.events_per_s
            if told and backlog and site.events_per_s > 0
            else None,
            rtt_ms=site.rtt_ms,
            events_per_s=site.events_per_s if told else None,
            bytes_in=site.bytes_received,
            bytes_out=site.bytes_sent,
            parcels_in=site.parcels_received,
            receipt=_receipt(site.certificate) if site.certificate else None,
            quarantine=site.quarantine,
            forks=site.forks,
            via=site.via,
            lanes=(
                ports.LaneView(name="control"),
                ports.LaneView(name="snapshots"),
                ports.LaneView(name="log", waiting=backlog, per_s=site.events_per_s if told else None),
                ports.LaneView(name="segments", waiting=missing, waiting_bytes=site.segment_bytes_missing),
            ),
            actions=("release",) if releasable else (),
        )

    async def link_change(self, who: Identity, peer: str, action: str, value: str) -> None:
        site = self._known(peer)
        if action != "release":
            raise Refused(f"{site.name} holds this line; cut it, cap it or pause a lane on {site.name}’s own page")
        await self._lines().release(who.name, peer, value)

    async def link_join(self, who: Identity, raw: bytes) -> str:
        raise Refused("this is a hub; a link file is taken in at the site that it is for")

    async def receipt(self, who: Identity, peer: str, number: int) -> bytes:
        self._known(peer)
        try:
            return await _in_thread(lambda: receipt_file.export(self._parts.folder.root, number, peer))
        except ValueError as error:
            raise Refused(str(error), 404) from error

    def _known(self, peer: str) -> SiteHere:
        site = self._parts.fleet.sites.get(peer)
        if site is None:
            raise Refused("there is no such site", 404)
        return site

    def _lines(self) -> Lines:
        if self._parts.lines is None:
            raise Refused(_NO_LINE)
        return self._parts.lines

    async def bundle_export(self, who: Identity, peer: str) -> AsyncIterator[bytes]:
        async for piece in self._sticks().download(self._known(peer).writer):
            yield piece

    async def bundle_import(self, who: Identity, chunks: AsyncIterator[bytes]) -> str:
        return await self._sticks().upload(chunks)

    async def bundle_state(self, who: Identity, peer: str) -> ports.BundleView:
        site = self._known(peer)
        return ports.BundleView(
            words=(
                f"A file for {site.name} holds the receipts, what was written here for it, and the heads of documents.",
                "Reading a file twice, or an old one, changes nothing.",
            )
        )

    def _sticks(self) -> Sticks:
        if self._parts.sticks is None:
            raise Refused(_NO_STICK)
        return self._parts.sticks

    # -- intake and quarantine --------------------------------------------------------------------------------

    async def intake(self, who: Identity) -> ports.IntakeView:
        raise Refused("devices speak to their site, not to the hub; look at Intake on the site’s own page", 404)

    async def quarantine(
        self, who: Identity, before: int, limit: int, settled: bool, moment_ns: int | None = None
    ) -> Sequence[ports.QuarantineItem]:
        found = await self._parts.quarantine.items(before, limit, settled=settled, moment_ns=moment_ns)
        return [rows.quarantined(*item) for item in found]

    async def settle(self, who: Identity, item: int, decision: str, node: str = "", *, alike: bool = False) -> None:
        held = await self._parts.quarantine.item(item)
        if decision == "retry":
            raise Refused("the hub takes in what sites send again, by itself; drop this when it is of no use")
        if decision != "drop":
            raise Refused(f"{decision!r} is not a decision; it is retry or drop", 422)
        await self._parts.quarantine.settle(item, decision, held.reason, who.name)
        self._parts.stale.mark("quarantine")

    # -- commands ---------------------------------------------------------------------------------------------

    async def change(self, who: Identity, node_id: str, field: str, value: str) -> None:
        site = self._site_of(node_id)
        if field == "address":
            raise Refused(f"an address is what {site} knows by itself; change it on {site}’s own page")
        if field == "kind" and value not in Kind.__members__:
            raise Refused(f"a kind is one of {', '.join(Kind)}", 422)
        if field == "upstream":
            rows.check_relay(value.strip(), self._relays(node_id, self._parts.fleet.nodes[node_id].site), site)
        view = await _in_thread(lambda: self._document(node_id))
        await self._lines().edit(who.name, node_id, node_words.values_of(field, value, view))

    async def debts(self, who: Identity, domain: str) -> Sequence[ports.DebtLine]:
        debts, now_ns, fleet = self._parts.debts, self._parts.clock.now_ns(), self._parts.fleet
        writers = await self.drifting.ask(lambda board: tuple(board.domain(domain).sites))
        return [
            ports.DebtLine(
                site=_line(site, len(fleet.nodes_of.get(site.writer, ())), now_ns),
                debt_s=debt_s(site, now_ns, told=site.mode in _HEARD),
                trail=debts.trail(site.writer) if debts is not None else (),
            )
            for site in _in_order([fleet.sites[writer] for writer in writers if writer in fleet.sites])
        ]

    async def change_many(
        self, who: Identity, node_ids: Sequence[str], field: str, value: str, *, dry_run: bool
    ) -> ports.BatchView:
        values = batch.values_of(field, value)
        done = await self._lines().edit_many(who.name, node_ids, values, dry_run=dry_run)

        def called(node_id: str) -> tuple[str, str]:
            here = self._parts.fleet.nodes.get(node_id)
            return (here.present.name, self._where(here.site)) if here is not None else (node_id, "")

        if not dry_run:
            await self.drifting.refresh()
        return rows.batch(((*one, *called(one.node_id)) for one in done), done=not dry_run)

    async def take(self, who: Identity, node_id: str, field: str, choice: int) -> None:
        self._site_of(node_id)
        await self._lines().take(who.name, node_id, field, choice)

    async def adopt(self, who: Identity, source: str, name: str, kind: Kind, tags: tuple[str, ...]) -> str:
        raise Refused("a source is adopted where it speaks: on its site’s own page")

    async def claim(self, who: Identity, source: str, node_id: str) -> None:
        raise Refused(f"claim it on {self._site_of(node_id)}’s own page: the source speaks there")

    async def release(self, who: Identity, source: str) -> None:
        raise Refused("a source is let go of where it speaks: on its site’s own page")

    async def move(self, who: Identity, node_id: str, target: str, reason: str) -> None:
        raise Refused(f"move it on {self._site_of(node_id)}’s own page: the site decides its nodes’ lifecycle")

    async def call_device(
        self, who: Identity, node_id: str, method: str, params: object, timeout_s: float, *, one_way: bool
    ) -> object:
        raise Refused(f"call it on {self._site_of(node_id)}’s own page: devices are connected to their site")

    async def claim_device(self, who: Identity, node_id: str, secret: str) -> None:
        raise Refused(f"claim it on {self._site_of(node_id)}’s own page: devices are connected to their site")

    # -- for machines -----------------------------------------------------------------------------------------

    def watch(self) -> AsyncIterator[frozenset[str]]:
        return self._parts.stale.watch()

    async def gauges(self) -> Sequence[ports.Gauge]:
        parts = self._parts
        refused = parts.lines.refused if parts.lines is not None else {}
        return [
            *gauges.fleet(self._rolled().reach(), self._sites(), refused),
            gauges.gauge("journal_head_seq", "Sequence number of the log's last event.", parts.journal.head.seq),
            gauges.gauge("journal_position", "Events of all logs in the journal.", parts.journal.position),
            gauges.gauge("history_behind_events", _BEHIND, parts.turns.behind if parts.turns is not None else 0),
            gauges.gauge(
                "quarantine_items", "Items in quarantine that nobody settled.", await parts.quarantine.count()
            ),
            gauges.gauge("storage_fault", "1 while the disk refuses writes.", float(parts.fault() is not None)),
            gauges.gauge(
                "clock_confidence", "0 not trusted, 1 free running, 2 synchronised.", parts.clock.confidence()
            ),
            gauges.gauge("uptime_seconds", "Since the start.", (parts.steady_ns() - parts.started_ns) / SECOND),
        ]

    async def health(self) -> ports.Fitness:
        loops, fault = dict(self._parts.supervisor.condition), self._parts.fault()
        if self._parts.turns is not None:
            loops["history"] = self._parts.turns.condition
        problems = [str(fault)] if fault else []
        problems += [f"{name}: {state}" for name, state in loops.items() if not state.startswith(("running", "ended"))]
        return ports.Fitness(ready=not problems, problems=tuple(problems), loops=loops)


# -- small things -----------------------------------------------------------------------------------------------


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except StoreFault as fault:
        raise Unavailable(str(fault)) from fault


def _value(metric: str, told: Told) -> ports.Value:
    return ports.Value(metric=metric, value=told.value, at_ns=told.at_ns, source=told.via)


def _told_ns(site: SiteHere, turns: HistoryIndex) -> int | None:
    """Up to when the site has told everything that happened there; None: up to now."""
    if site.mode in _HEARD and not site.backlog:
        return None
    heard_ns = site.heard_ns if site.via != "stick" and not site.backlog else None
    return max(turns.told_ns(site.writer) or 0, heard_ns or 0) or site.since_ns


def _lost_ns(site: SiteHere | None, here: NodeHere) -> int | None:
    """Since when the node's site is not heard; None while it is."""
    if site is None or site.mode in _HEARD:
        return None if site else here.received_ns
    if site.via == "stick":
        return here.told_ns  # what a file says was over when it was written
    return site.heard_ns or here.received_ns


def _row(here: NodeHere, site: str, lost_ns: int | None) -> ports.NodeRow:
    present = here.present
    same: dict[str, Any] = {name: getattr(present, name) for name in _SAME}
    for name, metric in (("battery", "battery_pct"), ("rtt", "rtt_ms"), ("loss", "loss_pct")):
        if metric in present.values:
            same[name] = _value(metric, present.values[metric])
    return ports.NodeRow(
        **same,
        id=present.node_id,
        reach=REACH[present.mode] if lost_ns is None else Reach.UNKNOWN,
        site=site,
        told_ns=here.told_ns,
        lost_ns=lost_ns,
    )


_SAME = tuple(name for name in Present.__struct_fields__ if name in ports.NodeRow.__struct_fields__)


def _place(text: str) -> lifecycle.Place:
    """A newer site may have places that this hub does not know."""
    try:
        return lifecycle.place(text)
    except ValueError:
        return lifecycle.START


_FIRST = {Mode.REPLAYING: 1, Mode.RETURNING: 1, Mode.DELAYED: 2, Mode.EDGE_CACHED: 2, Mode.LIVE: 4}


def _in_order(sites: Sequence[SiteHere]) -> list[SiteHere]:
    """What is held in quarantine first, then what is coming back, then the cut off, then the live."""
    return sorted(sites, key=lambda site: (0 if site.quarantine else _FIRST.get(site.mode, 3), site.name))


def _link_state(site: SiteHere) -> ports.LinkState:
    if site.quarantine:
        return ports.LinkState.HELD
    return _STATES.get(_FIRST.get(site.mode, 3), ports.LinkState.LIVE)


_STATES = {1: ports.LinkState.COMING, 3: ports.LinkState.AWAY}


def _asked_for(site: SiteHere, query: ports.LinkQuery) -> bool:
    text = query.text.strip().lower()
    return (
        (not query.peer or site.writer == query.peer)
        and (query.state is None or _link_state(site) is query.state)
        and (not text or text in site.name.lower())
    )


def _link_sums(sites: Sequence[SiteHere]) -> ports.LinkSums:
    states = dict.fromkeys(ports.LinkState, 0)
    for site in sites:
        states[_link_state(site)] += 1
    return ports.LinkSums(
        states=states,
        missing_events=sum(site.backlog for site in sites),
        missing_segments=sum(site.segments_missing for site in sites),
        missing_bytes=sum(site.segment_bytes_missing for site in sites),
    )


def _line(site: SiteHere, nodes: int, now_ns: int) -> ports.SiteLine:
    return ports.SiteLine(
        peer=site.writer,
        name=site.name,
        mode=site.mode,
        since_ns=site.since_ns or now_ns,
        heard_ns=site.heard_ns,
        present_ns=site.present_ns,
        backlog=site.backlog,
        nodes=nodes,
        quarantined=bool(site.quarantine),
    )


def _receipt(made: Certificate) -> ports.ReceiptView:
    return ports.ReceiptView(
        number=made.number,
        at_ns=made.at_ns,
        events=made.events,
        segments=made.segments,
        drops=made.drops,
        gaps=made.gaps,
        root=made.root.hex(),
        countersigned=made.countersigned,
    )
