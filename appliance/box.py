"""The appliance as its pages see it (`web.ports.Box`): reads put together from the world, the views and the stores;
commands passed on. It decides nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from typing import NamedTuple, TypeVar

import msgspec

from appliance import attention as needs
from appliance.device_commands import DeviceCommands
from appliance.gauges import gauges
from appliance.parts import Line, Parts
from appliance.presents import Here, Presents, Seen
from appliance.retaking import Retaking
from appliance.world import NodeState, SourceState, source_key
from fleet import lifecycle, series, signs
from fleet.attention import Item
from fleet.audit import Page, Query
from fleet.authority import Chain, Judged, handed_back
from fleet.board import text as text_of
from fleet.connectivity import REACH, Mode, Reach
from fleet.document import Id
from fleet.document import Kind as DocumentKind
from fleet.events import Clock, Recorded
from fleet.histogram import quantile
from fleet.limits import MS, SECOND
from fleet.metrics import BY_NAME
from fleet.node import Actual, Connectivity, Endpoint, Firmware, Kind, Lifecycle, LinkQuality, Node, SupplyChain
from fleet.past import WHOLE, Stretch
from fleet.people import Identity, Refused, Unavailable
from fleet.signs import Signs
from store import audit, journal, keys, node_words, peers, proof, window
from store.attention import Marks
from store.database import connect_reader
from store.devices import source_of
from store.drifting import Drifting
from store.faults import StoreFault
from store.frames import Record
from store.gateways import Brought
from store.link_file import LinkFile
from store.shared import told
from store.then import Documents
from sync import audit_file, export, receipt, receipt_file
from sync.messages import Lane
from sync.protocol import State
from web import attention, deciding, policies, ports
from web import rows as lists
from web.attention import Made
from web.past import Then

T = TypeVar("T")

_ROWS_FRESH_S = 0.5
_CHART_POINTS_MAX = 400
_SEARCH_S = 0.25
_CHUNK_RECORDS = 500
_REMEMBERED_RECORDS = 2_000  # an adopted node's past that its first snapshot is made of
_MODES = {
    State.AUTONOMOUS: Mode.AUTONOMOUS,
    State.RETURNING: Mode.RETURNING,
    State.REPLAYING: Mode.REPLAYING,
    State.LIVE: Mode.LIVE,
    State.QUARANTINED: Mode.DELAYED,
}
_WRITTEN = (
    "SELECT wall_ns FROM event WHERE log_id=(SELECT id FROM log WHERE tenant=? AND writer=? AND epoch=?) AND seq=?"
)


class _Listed(NamedTuple):
    """All rows, and what follows from them alone, as of a moment (monotonic seconds)."""

    at_s: float
    rows: Sequence[ports.NodeRow]
    needs: Sequence[Item]
    reach: dict[Reach, int]
    tags: tuple[str, ...]


class ApplianceBox:
    hub = False
    plans: ports.Plans  # given by whoever wires it
    devices: ports.Devices | None = None  # likewise
    marks: Marks
    device_commands: DeviceCommands

    def __init__(self, parts: Parts) -> None:
        self.name = parts.identity.site
        self.version = parts.version
        self._parts = parts
        self._list: _Listed | None = None
        self._presents = Presents(parts.world, lambda: parts.connectivity.state)
        seen = Seen(Presents(parts.world, lambda: parts.connectivity.state))
        self.drifting = Drifting(parts.folder.site_db, parts.identity.log.tenant, seen, policies.overview)
        self.drifting.look = parts.shared.judged
        self._queue = attention.Queue(self.drifting.board, hub=False)
        self.policies = policies.Policies(
            self.drifting,
            parts.policies,
            node_words.common_values,
            parts.clock.now_ns,
            lambda site: self.name,
            self._where,
        )
        self.past = Then(
            parts.turns,
            self,
            lambda: lists.everyone(self._listed().rows),
            lambda query, among: lists.ids(self._listed().rows, query, among),
            tuple,
            Documents(parts.folder.site_db, parts.identity.log.tenant, self._where, self.drifting.owns),
            parts.autonomy.rights,
            self._receipts_then,
            parts.identity.log.writer,
        )
        self._moving = asyncio.Lock()
        self._retaking = Retaking(
            parts.quarantine,
            parts.gate,
            parts.history,
            parts.world,
            parts.parsers,
            lambda: parts.interpreter.newest,
        )
        self.looked: Callable[[str], None] = lambda node_id: None  # somebody looks at this node

    # -- site -------------------------------------------------------------------------------------------------

    async def site(self, who: Identity, query: ports.NodeQuery) -> ports.SiteView:
        parts, now_ns = self._parts, self._parts.clock.now_ns()
        listed, among = self._listed(), await self._among(query)
        matching, drift = lists.chosen(listed.rows, query, among), await self.drifting.latest()
        needing = await self._needing(drift, now_ns)
        return ports.SiteView(
            site=self.name,
            now_ns=now_ns,
            reach=listed.reach,
            attention=self._queue.lines(needing, now_ns),
            needing=len(needing.awake),
            rows=lists.page(matching, query),
            matching=len(matching),
            places=lists.places(matching),
            tags=listed.tags,
            messages_per_s=sum(_rate(line.rates) for line in parts.lines.values()),
            unclaimed=sum(source.node_id is None for source in tuple(parts.world.sources.values())),
            uptime_s=(parts.steady_ns() - parts.started_ns) / SECOND,
            drift=drift,
        )

    async def _among(self, query: ports.NodeQuery) -> frozenset[str] | None:
        """The nodes of the domain and of the bundle that are asked for; None when neither is."""
        if not lists.groups(query):
            return None
        return await self.drifting.ask(lambda board: board.members(query.domain, query.bundle))

    def _listed(self) -> _Listed:
        now_s, listed = time.monotonic(), self._list
        if listed is None or now_s - listed.at_s > _ROWS_FRESH_S:
            rows = [self._row(state) for state in tuple(self._parts.world.nodes.values())]
            now_ns = self._parts.clock.now_ns()
            items = [one for row in rows for one in lists.needs(row, now_ns)]
            listed = self._list = _Listed(now_s, rows, items, lists.tally(rows), lists.tags(rows))
        return listed

    def _row(self, state: NodeState) -> ports.NodeRow:
        snapshot, standing, ping = state.snapshot, state.standing, state.ping
        endpoints = state.node.endpoints
        address = endpoints[0].address if endpoints else None
        turn = self._parts.connectivity.state.standing.get(state.node.id)
        beat = self._parts.connectivity.state.heartbeat.get(state.node.id)
        battery = snapshot.values.get("battery_pct")
        seen_ns, seen_via = snapshot.seen_ns, snapshot.seen_via.partition("/")[0]
        if state.ping_ns is not None and ping.losses == 0 and state.ping_ns > (seen_ns or 0):
            seen_ns, seen_via = state.ping_ns, "ping"
        return ports.NodeRow(
            id=state.node.id,
            name=state.node.name,
            kind=state.node.kind,
            tags=state.node.tags,
            mode=standing.mode,
            reach=REACH[standing.mode],
            since_ns=turn.since_ns if turn else None,
            seen_ns=seen_ns,
            seen_via=seen_via,
            health=snapshot.health,
            heartbeat_missing_ns=beat.since_ns if beat and beat.missing else None,
            phase=str(state.place),
            version=snapshot.version,
            battery=_value("battery_pct", battery.value, battery.at_ns, battery.source) if battery else None,
            rtt=_ping_value("rtt_ms", ping.rtt_ms, state.ping_ns),
            loss=_ping_value("loss_pct", ping.loss_pct if ping.window else None, state.ping_ns),
            position=snapshot.position,
            position_ns=snapshot.position_ns,
            flight=snapshot.flight,
            armed=snapshot.armed,
            address=address,
            spark=tuple(state.spark),
        )

    async def look(self) -> None:
        """Note what needs a person as of now (`web.attention.attend`)."""
        await self._needing(await self.drifting.latest(), self._parts.clock.now_ns())

    async def _needing(self, drift: ports.DriftView, now_ns: int) -> Made:
        """All that needs a person, in order."""
        parts, listed = self._parts, self._listed()
        others = needs.of_box(parts, self.name)
        others += self._queue.common(drift, await parts.quarantine.count())
        others = self._queue.begun(others, drift.pending, now_ns)
        return self._queue.order(listed.at_s, lambda: listed.needs, others, now_ns)

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

    # -- node -------------------------------------------------------------------------------------------------

    async def node(self, who: Identity, node_id: str) -> ports.NodeView | None:
        state = self._parts.world.nodes.get(node_id)
        if state is None:
            return None
        self.looked(node_id)
        row, snapshot = self._row(state), state.snapshot
        values = [_value(name, held.value, held.at_ns, held.source) for name, held in tuple(snapshot.values.items())]
        values += [value for value in (row.rtt, row.loss) if value is not None]
        order = {metric: place for place, metric in enumerate(BY_NAME)}
        node = self._canonical(state, row)
        judged, chain = await _in_thread(lambda: self._judgement(node_id))
        node, view = deciding.stated(node, chain), judged.view
        notes = view.values.get("notes")
        present = self._presents.of(state)
        verdict, (domains, bundles) = (
            await self.policies.verdict(node_id, Here(present)),
            await self.policies.names(),
        )
        return ports.NodeView(
            now_ns=self._parts.clock.now_ns(),
            row=row,
            node=node,
            values=tuple(sorted(values, key=lambda value: (order.get(value.metric, len(order)), value.metric))),
            drift=verdict.lines,
            score=verdict.score,
            requires_online=lists.online(view),
            domains=domains,
            policies=bundles,
            upstream=text_of(view, "upstream"),
            relays=self._relays(node_id),
            sources=tuple(_source_view(source) for source in self._parts.world.sources_of(node_id)),
            moves=tuple(str(place) for place in lifecycle.targets(state.place)),
            text=snapshot.text,
            text_ns=snapshot.text_ns,
            metrics=tuple(sorted({*snapshot.values, *(("rtt_ms", "loss_pct") if row.address else ())})),
            notes=str(notes.value or "") if notes else "",
            conflicts=lists.conflicts(view, self._where),
            authority=self._authority_line(chain),
            device=self.device_commands.state(node_id, snapshot),
            parked=deciding.parked(judged.parked, self._where),
            way_in=self._way_in(state.signs),
        )

    def _way_in(self, held: Signs) -> ports.WayIn:
        clock = self._parts.clock
        now_ns, trusted = clock.now_ns(), clock.confidence() is not Clock.NOT_TRUSTED
        skew_ns = signs.skew_ns(held, now_ns) if trusted else None  # by a clock that is wrong itself, all others are
        return ports.WayIn(
            per_s=signs.per_s(held, now_ns),
            repeated=held.repeated,
            repeated_in_a_row=held.repeated_in_a_row,
            skew_ns=skew_ns,
            skewed=skew_ns is not None and abs(skew_ns) > signs.SKEW_NS_MAX,
            beat_interval_s=held.interval_ns / SECOND if held.interval_ns else None,
            missed_beats=signs.missed_beats(held, now_ns),
        )

    def _relays(self, node_id: str) -> tuple[tuple[str, str], ...]:
        held = [state.node for state in tuple(self._parts.world.nodes.values())]
        return lists.relays((node.id, node.name, node.kind) for node in held if node.id != node_id)

    def _judgement(self, node_id: str) -> tuple[Judged, Chain]:
        """A node's document with the words that take effect, and the authority that says which."""
        place = Id(self._parts.identity.log.tenant, DocumentKind.NODE, node_id)
        with closing(connect_reader(self._parts.folder.site_db)) as db:
            return self._parts.shared.judgement(db, place)

    # -- authority --------------------------------------------------------------------------------------------

    def _authority_line(self, chain: Chain) -> ports.AuthorityLine:
        autonomy, place = self._parts.autonomy, self._parts.identity.log.writer
        heard_ns = self._parts.clock.now_ns() - autonomy.lease.silent_ns if self._parts.link.file else None
        return deciding.line(chain._replace(place=place), place, autonomy.rights.names(place), heard_ns)

    async def authority(self, who: Identity, subject: str) -> ports.AuthorityView:
        place, state = self._parts.identity.log.writer, self._parts.world.nodes.get(subject)
        chain = self._parts.autonomy.rights.chain(subject, place)
        domains, _ = await self.policies.names()
        return ports.AuthorityView(
            now_ns=self._parts.clock.now_ns(),
            subject=subject,
            name=state.node.name if state is not None else dict(domains).get(subject, subject),
            lines=(self._authority_line(chain),) if chain.claims or chain.grant else (),
            actions=("return",) if handed_back(chain) is not None else (),
        )

    async def grant(self, who: Identity, subject: str, terms: ports.AuthorityTerms, why: str) -> None:
        raise Refused("the hub grants; this site takes up what it grants, and takes over when its lease runs out")

    async def hand_back(self, who: Identity, subject: str, why: str) -> None:
        await self._parts.autonomy.hand_back(who.name, subject, why)

    async def settle_parked(
        self, who: Identity, node_id: str, field: str, choice: int, decision: str, why: str
    ) -> None:
        if node_id not in self._parts.world.nodes:
            raise Refused("there is no such node", 404)
        self._followed(node_id, await self._parts.commands.settle(who.name, node_id, field, choice, decision, why))

    def _where(self, writer: str) -> str:
        """Only this site and its hub write here by themselves; what else is here came from another site, by the hub."""
        file = self._parts.link.file
        if writer == self._parts.identity.log.writer:
            return self.name
        with closing(connect_reader(self._parts.folder.site_db)) as db:
            of_hub = db.execute("SELECT 1 FROM log WHERE writer=?", (writer,)).fetchone()
        if of_hub or (file is not None and writer == file.hub_writer):
            return file.hub if file else "the hub"
        return "another site"

    async def nodes(
        self, who: Identity, after: str, limit: int, query: ports.NodeQuery = ports.ALL_NODES
    ) -> Sequence[Node]:
        among, held = await self._among(query), dict(self._parts.world.nodes)
        ids = [row.id for row in lists.matching(self._listed().rows, query, among)] if lists.filters(query) else held
        states = [held[node_id] for node_id in sorted(one for one in ids if one > after and one in held)[:limit]]
        return [self._canonical(state, self._row(state)) for state in states]

    async def latest(self, who: Identity, query: ports.LatestQuery) -> Sequence[ports.Latest]:
        held = self._parts.world.nodes
        if query.sites and self.name not in query.sites:
            return []
        chosen = sorted(
            node_id
            for node_id in (query.ids & held.keys() if query.ids else tuple(held))
            if node_id > query.after and (not query.tags or not query.tags.isdisjoint(held[node_id].node.tags))
        )
        return [self._latest(held[node_id]) for node_id in chosen[: query.limit]]

    def _latest(self, state: NodeState) -> ports.Latest:
        row, snapshot = self._row(state), state.snapshot
        values = [_value(name, one.value, one.at_ns, one.source) for name, one in tuple(snapshot.values.items())]
        values += [value for value in (row.rtt, row.loss) if value is not None]
        row = msgspec.structs.replace(row, spark=(), site=self.name)
        return ports.Latest(row=row, values=tuple(values), text=snapshot.text, text_ns=snapshot.text_ns)

    async def called(self, who: Identity, ids: Collection[str]) -> Mapping[str, str]:
        held = self._parts.world.nodes
        return {one: held[one].node.name for one in ids if one in held}

    def _canonical(self, state: NodeState, row: ports.NodeRow) -> Node:
        snapshot, held = state.snapshot, self._parts.lifecycle.state.standing.get(state.node.id)
        return msgspec.structs.replace(
            state.node,
            connectivity=Connectivity(
                mode=row.mode,
                last_seen_ns=row.seen_ns,
                link=LinkQuality(
                    rtt_ms=row.rtt.value if row.rtt else None, loss_pct=row.loss.value if row.loss else None
                ),
            ),
            actual=Actual(
                reported_version=snapshot.version,
                health=snapshot.health,
                last_heartbeat_ns=snapshot.heartbeat_ns,
                uptime_s=snapshot.uptime_s,
                inventory=state.node.actual.inventory,
            ),
            supply_chain=SupplyChain(
                hardware=state.node.supply_chain.hardware, firmware=Firmware(version=snapshot.version)
            ),
            lifecycle=Lifecycle(
                phase=state.place.phase,
                state=state.place.state,
                last_transition_ns=held.since_ns if held else None,
                reason=held.reason if held else None,
            ),
        )

    async def series(self, who: Identity, node_id: str, metric: str, from_ns: int, to_ns: int) -> ports.Series:
        state = self._parts.world.nodes.get(node_id)
        if state is None:
            raise Refused("there is no such node", 404)
        from_s, to_s = from_ns // SECOND, to_ns // SECOND
        windows = {window.start_s: window for window in await self._parts.series.windows(node_id, from_s, to_s)}
        windows |= {window.start_s: window for window in (*state.closed, *([state.window] if state.window else ()))}
        points = [point for start in sorted(windows) for point in windows[start].points(metric)]
        step_s, thinned = series.thin(points, from_s, to_s, _CHART_POINTS_MAX)
        known = BY_NAME.get(metric)
        return ports.Series(
            metric=metric,
            unit=known.unit if known else "",
            step_s=step_s,
            at_s=tuple(float(point.at_s) for point in thinned),
            low=tuple(point.low for point in thinned),
            mean=tuple(point.mean for point in thinned),
            high=tuple(point.high for point in thinned),
        )

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
        sources = self._sources(node_id)
        if sources is not None and not sources:
            return ports.RecordPage(records=(), next=after)
        page = await _in_thread(lambda: self._parts.history.after(after, limit, sources))
        return ports.RecordPage(
            records=tuple(self._record_view(record) for record in page.records),
            next=page.scanned,
            gaps=tuple((gap.first_id, gap.last_id, gap.reason) for gap in page.gaps),
        )

    async def records_before(
        self, who: Identity, before: int, limit: int, node_id: str | None, text: str
    ) -> ports.RecordPage:
        sources = self._sources(node_id)
        if sources is not None and not sources:
            return ports.RecordPage(records=(), next=0)
        needle = text.encode()

        def search() -> tuple[list[Record], int]:
            found: list[Record] = []
            scanned, deadline = before or 1 << 62, time.monotonic() + _SEARCH_S
            while len(found) < limit and scanned > 0 and time.monotonic() < deadline:
                page = self._parts.history.before(scanned, _CHUNK_RECORDS if needle else limit, sources, _SEARCH_S / 2)
                scanned = page.scanned
                for record in page.records:
                    if needle in record.content:
                        found.append(record)
                        if len(found) == limit:
                            return found, record.id
            return found, scanned

        found, scanned = await _in_thread(search)
        return ports.RecordPage(records=tuple(self._record_view(record) for record in found), next=scanned)

    def _sources(self, node_id: str | None) -> frozenset[str] | None:
        if node_id is None:
            return None
        return frozenset(str(source.key) for source in self._parts.world.sources_of(node_id))

    def _record_view(self, record: Record) -> ports.RecordView:
        source = self._parts.world.sources.get(record.source)
        return lists.record(*record.parts, source.node_id if source else None)

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

    # -- the link to the hub ----------------------------------------------------------------------------------

    async def links(self, who: Identity, query: ports.LinkQuery | None = None) -> ports.LinksView:
        parts, now_ns = self._parts, self._parts.clock.now_ns()
        file = parts.link.file
        if file is None:
            return ports.LinksView(now_ns=now_ns, links=(), problem=parts.link.problem)
        return ports.LinksView(
            now_ns=now_ns, links=(await self._link(file, now_ns),), problem=parts.link.problem, matching=1
        )

    async def _link(self, file: LinkFile, now_ns: int) -> ports.LinkView:
        parts, link = self._parts, self._parts.link
        site, orders, tally, log = link.uplink.site, link.orders, link.tally(), parts.journal.log
        up = link.link is not None and link.link.up
        made = await self._receipt_view()
        acked = max(site.acked.get(log.epoch, 0), made.seq if made else 0)
        missing = max(parts.journal.head.seq - acked, 0)
        written = await parts.reader.fetch(_WRITTEN, (*log, acked + 1)) if missing else ()
        sealed, kept = await self._segments_missing()
        known = await parts.reader.fetch("SELECT since_ns, seen_ns FROM peer WHERE writer=?", (file.hub_writer,))
        alone_ns, seen_ns = known[0] if known else (0, 0)
        parted_ns = max(alone_ns, seen_ns)
        problem = link.problem or site.reason or (link.link.problem if link.link else "")
        return ports.LinkView(
            peer=file.hub_writer,
            name=file.hub,
            mode=_MODES[site.state],
            since_ns=(seen_ns if site.in_session else parted_ns) or None,
            heard_ns=(site.heard_ns if site.in_session else parted_ns) or None,
            problem="" if up and site.in_session else problem,
            debt_s=max(now_ns - written[0][0], 0) / SECOND if written else 0.0,
            missing_events=missing,
            missing_segments=sealed,
            missing_bytes=kept,
            drained_s=0.0 if not missing and not sealed else None,
            rtt_ms=site.out.rate.rtt_ns / MS if site.out.rate.rtt_ns is not None else None,
            bytes_in=tally.received_bytes,
            bytes_out=tally.sent_bytes,
            parcels_in=tally.received,
            parcels_out=tally.sent,
            receipt=made,
            quarantine=site.quarantine,
            via="wire",
            address=link.url,
            lanes=tuple(
                ports.LaneView(
                    name=lane.name.lower(),
                    paused=int(lane) in orders.paused,
                    waiting=missing if lane is Lane.LOG else sealed if lane is Lane.SEGMENTS else None,
                    waiting_bytes=kept if lane is Lane.SEGMENTS else None,
                )
                for lane in Lane
            ),
            per_s_max=orders.per_s,
            per_hour_max=orders.per_hour,
            cut=orders.cut,
            actions=("restore" if orders.cut else "cut", "pause", "resume", "per_s", "per_hour"),
        )

    async def _segments_missing(self) -> tuple[int, int]:
        """How many sealed segments, and bytes of them, the hub lacks. What it took since the last receipt is known to this
        process only."""
        rows = await self._parts.reader.fetch(
            "SELECT sha256, bytes_stored FROM segment WHERE dropped_ns IS NULL"
            " AND sha256 NOT IN (SELECT sha256 FROM custody)"
        )
        custody = self._parts.link.uplink.site.custody
        sizes = [size for sha256, size in rows if sha256 not in custody]
        return len(sizes), sum(sizes)

    async def _receipt_view(self) -> ports.ReceiptView | None:
        """The newest that both have signed."""
        log = self._parts.journal.log
        found = await self._parts.reader.fetch(
            "SELECT content FROM receipt WHERE site=? AND length(site_signature) > 0 ORDER BY number DESC LIMIT 1",
            (log.writer,),
        )
        return self._receipt_of(found[0][0]) if found else None

    def _receipts_then(self, hubs: Iterable[str], moment_ns: int) -> dict[str, ports.ReceiptView]:
        with closing(connect_reader(self._parts.folder.site_db)) as db:
            found = peers.receipt_as_of(db, self._parts.journal.log.writer, moment_ns)
        return dict.fromkeys(hubs, self._receipt_of(found.content)) if found is not None else {}

    def _receipt_of(self, content: bytes) -> ports.ReceiptView:
        made = receipt.read(content)
        return ports.ReceiptView(
            number=made.number,
            at_ns=made.at_ns,
            events=made.lanes.events,
            segments=made.lanes.segments,
            drops=len(made.drops),
            gaps=len(made.gaps),
            root=made.root.hex(),
            countersigned=True,
            seq=next((span.seq for span in made.logs if span.epoch == self._parts.journal.log.epoch), 0),
        )

    async def link_change(self, who: Identity, peer: str, action: str, value: str) -> None:
        self._to_hub(peer)
        await self._parts.link.order(who.name, action, value)

    async def link_join(self, who: Identity, raw: bytes) -> str:
        file = await self._parts.link.join(raw)
        return f"This site belongs to the hub {file.hub} from now on. It goes on by itself, with or without a line."

    async def receipt(self, who: Identity, peer: str, number: int) -> bytes:
        try:
            return await _in_thread(lambda: receipt_file.export(self._parts.folder.root, number, None))
        except ValueError as error:
            raise Refused(str(error), 404) from error

    async def bundle_export(self, who: Identity, peer: str) -> AsyncIterator[bytes]:
        self._to_hub(peer)
        async for piece in self._parts.bundles.download():
            yield piece

    async def bundle_import(self, who: Identity, chunks: AsyncIterator[bytes]) -> str:
        return await self._parts.bundles.upload(chunks)

    async def bundle_state(self, who: Identity, peer: str) -> ports.BundleView:
        link = await self._link(self._to_hub(peer), self._parts.clock.now_ns())
        events, files = link.missing_events or 0, link.missing_segments or 0
        return ports.BundleView(
            words=(
                f"A file for {link.name} holds how every node is now, the {events:,} events that {link.name} lacks, and"
                f" {files:,} sealed files of raw records.",
                "Reading a file twice, or an old one, changes nothing.",
            )
        )

    def _to_hub(self, peer: str) -> LinkFile:
        file = self._parts.link.file
        if file is None or peer != file.hub_writer:
            raise Refused("this site has no such link", 404)
        return file

    # -- intake and quarantine --------------------------------------------------------------------------------

    async def intake(self, who: Identity) -> ports.IntakeView:
        parts, gate = self._parts, self._parts.gate
        sources = tuple(parts.world.sources.values())
        unclaimed = sorted((one for one in sources if one.node_id is None), key=lambda one: -one.last_ns)
        commits = sorted(parts.recorder.commit_seconds)
        return ports.IntakeView(
            now_ns=parts.clock.now_ns(),
            lines=tuple(self._line(line) for line in parts.lines.values()),
            gate_records=gate.records,
            gate_records_max=gate.records_max,
            gate_bytes=gate.bytes,
            gate_bytes_max=gate.bytes_max,
            gate_high_records=gate.high_records,
            waiting_to_read=parts.interpreter.waiting,
            commit_ms_p95=commits[int(len(commits) * 0.95)] * 1000 if commits else None,
            budget=parts.keeper.budget_view_data(),
            clock=parts.clock.confidence(),
            clock_step_ns=parts.clock.stepped_ns,
            unclaimed=tuple(_source_view(source) for source in unclaimed[:200]),
            storage_problem=str(gate.fault) if gate.fault else None,
            repeated=dict(parts.interpreter.repeated),
        )

    def _line(self, line: Line) -> ports.IntakeLine:
        tally = self._parts.gate.tally(line.intake)
        lately = line.durable_lately(tally)
        return ports.IntakeLine(
            intake=line.intake,
            address=line.address,
            records=tally.records,
            per_s=_rate(line.rates),
            bytes_in=tally.bytes_in,
            refused={reason: count for reason, count in tuple(tally.refused.items()) if count},
            problem=line.problem,
            spark=tuple(line.rates),
            points=tally.points,
            waiting=tally.waiting,
            durable_s_p50=quantile(lately, 0.5),
            durable_s_p99=quantile(lately, 0.99),
            state=line.state,
        )

    async def quarantine(
        self, who: Identity, before: int, limit: int, settled: bool, moment_ns: int | None = None
    ) -> Sequence[ports.QuarantineItem]:
        found = await self._parts.quarantine.items(before, limit, settled=settled, moment_ns=moment_ns)
        return [
            msgspec.structs.replace(lists.quarantined(*item), outside=self._retaking.is_outside(item)) for item in found
        ]

    async def settle(self, who: Identity, item: int, decision: str, node: str = "", *, alike: bool = False) -> None:
        """Retry reads the raw bytes again with today's parsers: they may be newer than the ones that refused. What never
        became a record becomes one."""
        if decision == "retry":
            await self._retaking.retry(item, node, who.name, alike=alike)
        elif decision == "drop":
            held = await self._parts.quarantine.item(item)
            await self._parts.quarantine.settle(item, decision, held.reason, who.name)
        else:
            raise Refused(f"{decision!r} is not a decision; it is retry or drop", 422)
        self._parts.stale.mark("quarantine")

    # -- commands ---------------------------------------------------------------------------------------------

    async def adopt(self, who: Identity, source: str, name: str, kind: Kind, tags: tuple[str, ...]) -> str:
        key = source_key(source)
        if not key.intake or not key.address:
            raise Refused(f"{source!r} is no source; sources are listed on the Intake page", 422)
        siblings = self._siblings(source)
        endpoints = (Endpoint(address=key.address),) if key.address not in ("", "::1", "127.0.0.1") else ()
        node_id = keys.new_ulid(self._parts.clock.now_ns())
        tenant = self._parts.identity.log.tenant
        node = Node(id=node_id, name=name, kind=kind, tags=tags, tenant=tenant, endpoints=endpoints)
        rows = tuple(self._source_row(text) for text in siblings)
        await self._parts.commands.adopt(who.name, node, siblings, rows)
        await self._enter(node, source)
        return node_id

    async def _enter(self, node: Node, source: str) -> None:
        """Bring a new node into the world, with its past: the latest records of its sources, folded once."""
        world, sender = self._parts.world, source_key(source).sender
        known = frozenset(text for text, held in tuple(world.sources.items()) if held.key.sender == sender)
        past = await _in_thread(lambda: self._parts.history.before(1 << 62, _REMEMBERED_RECORDS, known, 1.0))
        entered = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def change() -> None:
            self._parts.interpreter.enter(node, source, list(reversed(past.records)))
            loop.call_soon_threadsafe(_done, entered)

        self._parts.interpreter.post(change)
        async with asyncio.timeout(10):
            await entered
        self._list = None

    async def entered(self, node: Node, fresh: bool) -> None:
        """A device was enrolled: its node, new or there already, speaks as `@NODE_ID` from now on."""
        source = source_of(node.id)
        if fresh:
            await self._enter(node, source)
            return
        claimed = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        now_ns = self._parts.clock.now_ns()

        def change() -> None:
            key = source_key(source)
            self._parts.world.sources.setdefault(source, SourceState(key, node.id, now_ns, now_ns, 0, 0, b""))
            self._parts.world.claim(key.sender, node.id)
            loop.call_soon_threadsafe(_done, claimed)

        self._parts.interpreter.post(change)
        async with asyncio.timeout(10):
            await claimed

    async def brought(self, brought: Sequence[Brought]) -> None:
        """Devices behind gateways became nodes: what they said, and will say, is theirs."""
        entered, loop = asyncio.get_running_loop().create_future(), asyncio.get_running_loop()

        def change() -> None:
            for node, source in brought:
                self._parts.interpreter.enter_newcomer(node, source)
            loop.call_soon_threadsafe(_done, entered)

        self._parts.interpreter.post(change)
        async with asyncio.timeout(10):
            await entered
        self._list = None

    async def claim(self, who: Identity, source: str, node_id: str) -> None:
        if node_id not in self._parts.world.nodes:
            raise Refused("there is no such node", 404)
        siblings = self._siblings(source)
        await self._parts.commands.claim(who.name, siblings, tuple(map(self._source_row, siblings)), node_id)
        self._parts.interpreter.post(lambda: self._parts.world.claim(source_key(source).sender, node_id))
        self._parts.stale.mark("intake")

    async def release(self, who: Identity, source: str) -> None:
        held = self._parts.world.sources.get(source)
        if held is None or held.node_id is None:
            raise Refused("no node claims this source", 404)
        await self._parts.commands.release(who.name, self._siblings(source), held.node_id)
        self._parts.interpreter.post(lambda: self._parts.world.release(held.key.sender))
        self._parts.stale.mark("intake")

    async def change(self, who: Identity, node_id: str, field: str, value: str) -> None:
        if field == "upstream":
            lists.check_relay(value.strip(), self._relays(node_id), self.name)
        self._followed(node_id, await self._parts.commands.change(who.name, node_id, field, value))

    async def debts(self, who: Identity, domain: str) -> Sequence[ports.DebtLine]:
        return ()

    async def change_many(
        self, who: Identity, node_ids: Sequence[str], field: str, value: str, *, dry_run: bool
    ) -> ports.BatchView:
        done, nodes = await self._parts.commands.change_many(who.name, node_ids, field, value, dry_run=dry_run)
        for node in nodes:
            self._followed(node.id, node)
        if nodes:
            await self.drifting.refresh()
        held = self._parts.world.nodes
        named = ((*one, held[one.node_id].node.name if one.node_id in held else one.node_id, self.name) for one in done)
        return lists.batch(named, done=not dry_run)

    def _followed(self, node_id: str, node: Node) -> None:
        state = self._parts.world.nodes[node_id]
        self._parts.interpreter.post(lambda: setattr(state, "node", node))
        state.node = node
        self._list = None
        self._parts.stale.mark(f"node:{node_id}")

    async def take(self, who: Identity, node_id: str, field: str, choice: int) -> None:
        self._followed(node_id, await self._parts.commands.take(who.name, node_id, field, choice))

    async def call_device(
        self, who: Identity, node_id: str, method: str, params: object, timeout_s: float, *, one_way: bool
    ) -> object:
        return await self.device_commands.call(who.name, node_id, method, params, timeout_s, one_way=one_way)

    async def claim_device(self, who: Identity, node_id: str, secret: str) -> None:
        await self.device_commands.claim(who.name, node_id, secret)

    async def move(self, who: Identity, node_id: str, target: str, reason: str) -> None:
        state = self._parts.world.nodes.get(node_id)
        if state is None:
            raise Refused("there is no such node", 404)
        async with self._moving:  # the second of two moves at once starts from where the first one led
            try:
                state.place = await self._parts.commands.move(who.name, node_id, state.place, target, reason)
            except Refused as refused:
                self._parts.quarantine.put("lifecycle", node_id, str(refused), f"{state.place} -> {target}".encode())
                raise
        if state.place.phase is lifecycle.Phase.RETIRED and self.devices is not None:
            with suppress(Refused):  # it has none
                await self.devices.revoke(who, node_id, "the node is retired")
        self._list = None

    def _siblings(self, source: str) -> tuple[str, ...]:
        """All sources of the same sender, this one first: a node is adopted with every way in it uses."""
        sender = source_key(source).sender
        others = [text for text, held in tuple(self._parts.world.sources.items()) if held.key.sender == sender]
        return (source, *sorted(text for text in others if text != source))

    def _source_row(self, text: str) -> tuple[object, ...]:
        held = self._parts.world.sources.get(text)
        tenant, now_ns = self._parts.identity.log.tenant, self._parts.clock.now_ns()
        if held is None:
            return (text, tenant, now_ns, now_ns, 0, 0, b"")
        return (text, tenant, held.first_ns, held.last_ns, held.records, held.last_record, held.sample)

    # -- for machines -----------------------------------------------------------------------------------------

    def watch(self) -> AsyncIterator[frozenset[str]]:
        return self._parts.stale.watch()

    async def gauges(self) -> Sequence[ports.Gauge | ports.Durations]:
        found = gauges(self._parts, self._listed().rows, await self._parts.quarantine.count())
        return [*found, *self.device_commands.gauges()]

    async def health(self) -> ports.Fitness:
        parts = self._parts
        loops = dict(parts.supervisor.condition)
        for name, alive in (
            ("recorder", parts.recorder.alive),
            ("interpreter", parts.interpreter.alive),
            ("keeper", parts.keeper.alive),
        ):
            loops[name] = "running" if alive else "stopped"
        loops["history"] = parts.turns.condition
        loops |= {bridge.loop.name: bridge.loop.condition for bridge in parts.bridges}
        if parts.keeper.alive and parts.keeper.last_error:
            loops["keeper"] = f"running; last pass: {parts.keeper.last_error}"
        problems = [str(parts.gate.fault)] if parts.gate.fault else []
        problems += [f"{name}: {state}" for name, state in loops.items() if not state.startswith(("running", "ended"))]
        return ports.Fitness(ready=not problems, problems=tuple(problems), loops=loops)


# -- small things -----------------------------------------------------------------------------------------------


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except StoreFault as fault:
        raise Unavailable(str(fault)) from fault


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _rate(rates: Sequence[float]) -> float:
    recent = tuple(rates)[-10:]
    return sum(recent) / len(recent) if recent else 0.0


def _value(metric: str, value: float, at_ns: int, source: str) -> ports.Value:
    return ports.Value(metric=metric, value=value, at_ns=at_ns, source=source)


def _ping_value(metric: str, value: float | None, at_ns: int | None) -> ports.Value | None:
    return None if value is None or at_ns is None else _value(metric, value, at_ns, "ping")


def _source_view(source: SourceState) -> ports.SourceView:
    return ports.SourceView(
        key=str(source.key),
        intake=source.key.intake,
        address=source.key.address,
        name=source.key.name,
        node_id=source.node_id,
        first_ns=source.first_ns,
        last_ns=source.last_ns,
        records=source.records,
        sample=lists.visible(source.sample),
    )
