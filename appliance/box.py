"""The appliance as its pages see it (`web.ports.Box`): reads put together from the world, the views and the stores;
commands passed on. It decides nothing.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from typing import TypeVar

import msgspec

from appliance.gauges import gauges
from appliance.parts import Line, Parts
from appliance.world import NodeState, SourceState, source_key
from fleet import lifecycle, series
from fleet.connectivity import REACH, Mode, Reach
from fleet.envelope import Log
from fleet.events import Recorded
from fleet.limits import MINUTE, SECOND
from fleet.metrics import BY_NAME
from fleet.node import Actual, Connectivity, Endpoint, Firmware, Kind, Lifecycle, LinkQuality, Node, SupplyChain, drift
from fleet.people import Identity, Refused, Unavailable
from fleet.reading import Health
from store import journal, keys
from store.database import connect_reader
from store.faults import StoreFault
from store.frames import Record
from sync import wire
from web import ports

T = TypeVar("T")

_ROWS_FRESH_S = 0.5
_CHART_POINTS_MAX = 400
_SEARCH_S = 0.25
_CHUNK_RECORDS = 500
_REMEMBERED_RECORDS = 2_000  # an adopted node's past that its first snapshot is made of
BATTERY_LOW_PCT = 20.0


class ApplianceBox:
    def __init__(self, parts: Parts) -> None:
        self.name = parts.identity.site
        self.version = parts.version
        self._parts = parts
        self._rows: tuple[float, list[ports.NodeRow]] = (0.0, [])
        self._moving = asyncio.Lock()

    # -- site -------------------------------------------------------------------------------------------------

    async def site(self, who: Identity, query: ports.NodeQuery) -> ports.SiteView:
        parts, now_ns = self._parts, self._parts.clock.now_ns()
        rows = self._all_rows()
        reach = dict.fromkeys(Reach, 0)
        for row in rows:
            reach[row.reach] += 1
        asked = bool(query.text or query.reach or query.kind or query.tag)
        matching = [row for row in rows if _matches(row, query)] if asked else list(rows)
        matching.sort(key=_ORDERS.get(query.order, _ORDERS["attention"]))
        limit = max(1, query.limit)
        placed = [row for row in matching if row.position is not None]
        return ports.SiteView(
            site=self.name,
            now_ns=now_ns,
            reach=reach,
            attention=tuple(await self._attention(rows, now_ns)),
            rows=tuple(matching[query.offset : query.offset + limit]),
            matching=len(matching),
            places=tuple(placed[:1000]),
            tags=tuple(sorted({tag for row in rows for tag in row.tags})),
            messages_per_s=sum(_rate(line.rates) for line in parts.lines.values()),
            unclaimed=sum(source.node_id is None for source in tuple(parts.world.sources.values())),
            uptime_s=(parts.steady_ns() - parts.started_ns) / SECOND,
        )

    def _all_rows(self) -> list[ports.NodeRow]:
        made, rows = self._rows
        now = time.monotonic()
        if now - made > _ROWS_FRESH_S:
            rows = [self._row(state) for state in tuple(self._parts.world.nodes.values())]
            self._rows = (now, rows)
        return rows

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

    async def _attention(self, rows: Sequence[ports.NodeRow], now_ns: int) -> list[ports.Attention]:
        lines = [line for row in rows for line in _needs(row, now_ns)]
        parts = self._parts
        lines += [
            _notice(ports.Severity.ACT, intake.problem, now_ns, intake.intake, "/intake")
            for intake in parts.lines.values()
            if intake.problem
        ]
        fault = parts.gate.fault
        if fault is not None:
            lines.append(_notice(ports.Severity.ACT, str(fault), now_ns, "storage", "/intake"))
        waiting = await parts.quarantine.count()
        if waiting:
            words = f"{waiting} item{'s wait' if waiting > 1 else ' waits'} in quarantine"
            lines.append(_notice(ports.Severity.LOOK, words, now_ns, "quarantine", "/quarantine"))
        return sorted(lines, key=lambda line: (line.severity is not ports.Severity.ACT, -line.since_ns))

    # -- node -------------------------------------------------------------------------------------------------

    async def node(self, who: Identity, node_id: str) -> ports.NodeView | None:
        state = self._parts.world.nodes.get(node_id)
        if state is None:
            return None
        row, snapshot = self._row(state), state.snapshot
        values = [_value(name, held.value, held.at_ns, held.source) for name, held in tuple(snapshot.values.items())]
        values += [value for value in (row.rtt, row.loss) if value is not None]
        order = {metric: place for place, metric in enumerate(BY_NAME)}
        node = self._canonical(state, row)
        return ports.NodeView(
            now_ns=self._parts.clock.now_ns(),
            row=row,
            node=node,
            values=tuple(sorted(values, key=lambda value: (order.get(value.metric, len(order)), value.metric))),
            drift=drift(node.desired, node.actual),
            sources=tuple(_source_view(source) for source in self._parts.world.sources_of(node_id)),
            moves=tuple(str(place) for place in lifecycle.targets(state.place)),
            text=snapshot.text,
            text_ns=snapshot.text_ns,
            metrics=tuple(sorted({*snapshot.values, *(("rtt_ms", "loss_pct") if row.address else ())})),
        )

    async def nodes(self, who: Identity, after: str, limit: int) -> Sequence[Node]:
        chosen = sorted(node_id for node_id in tuple(self._parts.world.nodes) if node_id > after)[:limit]
        states = [self._parts.world.nodes[node_id] for node_id in chosen]
        return [self._canonical(state, self._row(state)) for state in states]

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

    async def events(self, who: Identity, after: int, limit: int) -> Sequence[Recorded]:
        return journal.rows_to_events(await self._parts.reader.fetch(journal.AFTER, (after, limit)))

    async def timeline(
        self, who: Identity, before: int, limit: int, subject: str | None = None, kind: str | None = None
    ) -> Sequence[Recorded]:
        sql, parameters = journal.newest(before or 1 << 62, limit, subject, kind)
        return journal.rows_to_events(await self._parts.reader.fetch(sql, parameters))

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
        return ports.RecordView(
            id=record.id,
            at_ns=record.at,
            source=record.source,
            text=visible(record.content),
            marks=record.marks,
            node_id=source.node_id if source else None,
            content=record.content,
        )

    async def verify(self, who: Identity) -> AsyncIterator[ports.VerifyStep]:
        """Runs on a thread of its own; this end looks in twice a second."""
        total = self._parts.journal.position
        seen = [0]
        verdicts: list[journal.Verdict] = []
        problem: list[str] = []

        def work() -> None:
            try:
                with closing(connect_reader(self._parts.folder.site_db)) as db:
                    verdicts.extend(journal.verify(db, lambda checked: seen.__setitem__(0, checked)))
            except StoreFault as fault:
                problem.append(str(fault))

        thread = threading.Thread(target=work, name="verify", daemon=True)
        thread.start()
        while thread.is_alive():
            yield ports.VerifyStep(checked=seen[0], total=max(total, seen[0]))
            await asyncio.sleep(0.2)
        bad = next((verdict for verdict in verdicts if verdict.fault), None)
        checked = sum(verdict.events for verdict in verdicts)
        words = problem[0] if problem else _verdict_words(bad, verdicts, checked)
        yield ports.VerifyStep(checked=checked, total=checked, done=True, good=not (bad or problem), words=words)

    async def export(self, who: Identity) -> AsyncIterator[bytes]:
        parts = self._parts
        with closing(connect_reader(parts.folder.site_db)) as db:
            for log_id, tenant, writer, epoch, public_key in db.execute(
                "SELECT id, tenant, writer, epoch, public_key FROM log ORDER BY id"
            ).fetchall():
                log = Log(tenant, writer, epoch)
                for chunk in wire.write(journal.blocks(db, log_id), public_key, log):
                    yield chunk
                    await asyncio.sleep(0)

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
        )

    def _line(self, line: Line) -> ports.IntakeLine:
        tally = self._parts.gate.tally(line.intake)
        return ports.IntakeLine(
            intake=line.intake,
            address=line.address,
            records=tally.records,
            per_s=_rate(line.rates),
            bytes_in=tally.bytes_in,
            refused={reason: count for reason, count in tuple(tally.refused.items()) if count},
            problem=line.problem,
            spark=tuple(line.rates),
        )

    async def quarantine(self, who: Identity, before: int, limit: int, settled: bool) -> Sequence[ports.QuarantineItem]:
        return [
            ports.QuarantineItem(
                id=item.id,
                at_ns=item.at_ns,
                intake=item.intake,
                source=item.source,
                reason=item.reason,
                text=visible(item.raw),
                size=len(item.raw),
                times=item.times,
                settled_ns=item.settled_ns,
                decision=item.decision,
            )
            for item in await self._parts.quarantine.items(before, limit, settled=settled)
        ]

    async def settle(self, who: Identity, item: int, decision: str) -> None:
        """Retry reads the raw bytes again with today's parsers: they may be newer than the ones that refused."""
        held = await self._parts.quarantine.item(item)
        if decision == "retry":
            parse = self._parts.parsers.get(source_key(held.source).intake)
            if parse is None:
                raise Refused("this kind of input cannot be read again; drop it when it is of no use")
            marks = parse(held.raw, held.at_ns).marks
            if "unparsed" in marks:
                raise Refused(f"it still cannot be read ({', '.join(marks)}); drop it, or update the appliance first")
        elif decision != "drop":
            raise Refused(f"{decision!r} is not a decision; it is retry or drop", 422)
        await self._parts.quarantine.settle(item, decision, held.reason, who.name)
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
        await asyncio.wait_for(entered, 10)
        self._rows = (0.0, [])

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
        node = await self._parts.commands.change(who.name, node_id, field, value)
        state = self._parts.world.nodes[node_id]
        self._parts.interpreter.post(lambda: setattr(state, "node", node))
        state.node = node
        self._rows = (0.0, [])
        self._parts.stale.mark(f"node:{node_id}")

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
        self._rows = (0.0, [])

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

    async def gauges(self) -> Sequence[ports.Gauge]:
        return gauges(self._parts, self._all_rows(), await self._parts.quarantine.count())

    async def health(self) -> ports.Fitness:
        parts = self._parts
        loops = dict(parts.supervisor.condition)
        for name, alive in (
            ("recorder", parts.recorder.alive),
            ("interpreter", parts.interpreter.alive),
            ("keeper", parts.keeper.alive),
        ):
            loops[name] = "running" if alive else "stopped"
        if parts.keeper.alive and parts.keeper.last_error:
            loops["keeper"] = f"running; last pass: {parts.keeper.last_error}"
        problems = [str(parts.gate.fault)] if parts.gate.fault else []
        problems += [f"{name}: {state}" for name, state in loops.items() if not state.startswith(("running", "ended"))]
        return ports.Fitness(ready=not problems, problems=tuple(problems), loops=loops)


# -- small things -----------------------------------------------------------------------------------------------


def visible(raw: bytes) -> str:
    """Bytes as text that cannot do anything: control characters as symbols, what is no UTF-8 as \\xNN."""
    return raw.decode("utf-8", "backslashreplace").translate(_VISIBLE)


_VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
_VISIBLE |= {code: f"\\u{code:04x}" for code in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


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
        sample=visible(source.sample),
    )


def _notice(severity: ports.Severity, words: str, since_ns: int, name: str, link: str) -> ports.Attention:
    return ports.Attention(severity=severity, words=words, since_ns=since_ns, name=name, link=link)


_WELL = (Health.OK, Health.UNKNOWN)
_NOTHING: list[ports.Attention] = []


def _needs(row: ports.NodeRow, now_ns: int) -> list[ports.Attention]:
    """Why a node needs a person, in one sentence each."""
    if row.reach is Reach.ONLINE and row.health in _WELL and row.heartbeat_missing_ns is None:
        low = row.battery is not None and row.battery.value < BATTERY_LOW_PCT
        if not low and row.phase != lifecycle.Phase.QUARANTINED:
            return _NOTHING  # nearly every node, nearly always: it costs nothing
    found: list[tuple[ports.Severity, str, int]] = []
    since = row.since_ns or now_ns
    if row.reach is Reach.OFFLINE:
        airborne = row.flight is not None and row.flight.value in ("AIR", "TAKEOFF", "LANDING")
        words = "silent while in the air" if airborne else "silent: neither messages nor ping answers"
        found.append((ports.Severity.ACT, words, since))
    elif row.mode is Mode.DELAYED:
        found.append((ports.Severity.LOOK, "link is slow or lossy, or it answers ping and sends nothing", since))
    if row.health is Health.FAILED:
        found.append((ports.Severity.ACT, "reports that it has failed", since))
    elif row.health is Health.DEGRADED:
        found.append((ports.Severity.LOOK, "reports that it is degraded", since))
    if row.heartbeat_missing_ns is not None and row.reach is not Reach.OFFLINE:
        found.append((ports.Severity.ACT, "no heartbeat, though it is heard", row.heartbeat_missing_ns))
    if row.battery and row.battery.value < BATTERY_LOW_PCT and now_ns - row.battery.at_ns < 10 * MINUTE:
        found.append((ports.Severity.ACT, f"battery at {row.battery.value:.0f} %", row.battery.at_ns))
    if row.phase == lifecycle.Phase.QUARANTINED:
        found.append((ports.Severity.ACT, "is quarantined", since))
    return [
        ports.Attention(severity=severity, words=words, since_ns=at_ns, node_id=row.id, name=row.name)
        for severity, words, at_ns in found
    ]


def _verdict_words(bad: journal.Verdict | None, verdicts: Sequence[journal.Verdict], checked: int) -> str:
    if bad is not None:
        return f"the log of {bad.log.writer}, epoch {bad.log.epoch}, does not hold at event {bad.seq}: {bad.detail}"
    blocks = sum(verdict.blocks for verdict in verdicts)
    return f"{checked:,} events in {blocks:,} signed blocks hold, without a hole, from the first to the last"


def _matches(row: ports.NodeRow, query: ports.NodeQuery) -> bool:
    """Whether a row is among those asked for."""
    if query.reach is not None and row.reach is not query.reach:
        return False
    if query.kind is not None and row.kind is not query.kind:
        return False
    if query.tag and query.tag not in row.tags:
        return False
    text = query.text.strip().lower()
    return not text or any(text in field.lower() for field in (row.name, row.id, row.address or "", *row.tags))


_URGENCY = {Reach.OFFLINE: 0, Reach.DEGRADED: 1, Reach.UNKNOWN: 2, Reach.ONLINE: 3}


def _urgency(row: ports.NodeRow) -> tuple[int, int, str]:
    ill = row.health in (Health.FAILED, Health.DEGRADED) or row.heartbeat_missing_ns is not None
    return (_URGENCY[row.reach] if not ill else min(_URGENCY[row.reach], 1), 0 if ill else 1, row.name)


_ORDERS: dict[str, Callable[[ports.NodeRow], tuple[object, ...]]] = {
    "attention": _urgency,
    "name": lambda row: (row.name,),
    "battery": lambda row: (row.battery is None, row.battery.value if row.battery else 0, row.name),
    "seen": lambda row: (row.seen_ns is None, -(row.seen_ns or 0), row.name),
    "rtt": lambda row: (row.rtt is None, -(row.rtt.value if row.rtt else 0), row.name),
}
