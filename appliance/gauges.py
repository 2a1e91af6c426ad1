"""The numbers of /metrics: names after Prometheus' conventions (base units, `_total` for counters)."""

from __future__ import annotations

import resource
from collections.abc import Sequence

from appliance.intake.device import Turned
from appliance.parts import Parts
from fleet import limits, signs
from fleet.connectivity import Reach
from fleet.events import Clock
from fleet.lifecycle import Phase
from fleet.limits import SECOND
from web.ports import Durations, Gauge, NodeRow


def gauges(parts: Parts, rows: Sequence[NodeRow], quarantined: int) -> list[Gauge | Durations]:
    found: list[Gauge | Durations] = []

    def gauge(name: str, words: str, value: float, **labels: str) -> None:
        found.append(Gauge(name=f"skerry_{name}", help=words, kind="gauge", value=value, labels=tuple(labels.items())))

    def counter(name: str, words: str, value: float, **labels: str) -> None:
        found.append(
            Gauge(name=f"skerry_{name}", help=words, kind="counter", value=value, labels=tuple(labels.items()))
        )

    for reach in Reach:
        gauge("nodes", "Nodes by reach.", sum(row.reach is reach for row in rows), reach=reach.value)
    for intake, tally in tuple(parts.gate.tallies.items()):
        counter("intake_records_total", "Records taken in.", tally.records, intake=intake)
        if tally.points:
            counter("intake_points_total", "Points that these records hold.", tally.points, intake=intake)
        counter("intake_bytes_total", "Bytes of records taken in.", tally.bytes_in, intake=intake)
        for reason, count in tuple(tally.refused.items()):
            counter("intake_refused_total", "Messages refused, by reason.", count, intake=intake, reason=reason)
        gauge("intake_waiting_records", "Records that wait to be written, by way in.", tally.waiting, intake=intake)
        found.append(
            Durations(
                name="skerry_intake_durable_seconds",
                help="From when a record came until it was on the disk.",
                buckets=tuple(tally.durable.cumulative()),
                sum_s=tally.durable.sum_s,
                labels=(("intake", intake),),
            )
        )
    for intake, count in tuple(parts.interpreter.repeated.items()):
        counter("intake_repeated_total", "Messages that had come before, by way of their source.", count, intake=intake)
    keeper = parts.doorkeeper
    for why in Turned:
        counter("auth_refused_total", "Devices turned away, by reason.", keeper.turned[why], reason=why)
    counter("auth_lookups_total", "Credentials looked up because nothing was remembered of them.", keeper.looked_up)
    for what, count in zip(("credentials", "refusals", "buckets"), keeper.remembered, strict=True):
        gauge("auth_remembered", "What the doorkeeper remembers, by kind.", count, kind=what)
    gate = parts.gate
    gauge("gate_records", "Records that wait to be written.", gate.records)
    gauge("gate_bytes", "Bytes that wait to be written.", gate.bytes)
    gauge("gate_records_limit", "Records at which the gate refuses.", gate.records_max)
    uploads = tuple(parts.uploads.open_uploads.values())
    gauge("uploads_open", "Uploads of devices that are not stored yet.", len(uploads))
    gauge("uploads_open_limit", "Uploads at which one more is refused.", limits.uploads_max)
    gauge("uploads_bytes", "Bytes of them on the disk.", sum(held.upload.bytes_durable for held in uploads))
    gauge("uploads_body_bytes", "Bytes of chunks that are being received.", parts.uploads.room.bytes)
    counter("uploads_bytes_total", "Bytes of chunks taken in.", parts.uploads.bytes_in)
    lines = tuple(parts.control.lines.values())
    gauge("control_lines", "Devices on the control line.", len(lines))
    gauge("control_lines_limit", "Devices at which one more is turned away.", limits.control_lines_max)
    gauge("control_asks_open", "Requests for data that wait for an answer.", parts.control.asks_open)
    counter("control_asks_total", "Requests for data.", parts.control.asked_total)
    counter("control_asks_late_total", "Requests for data that nobody answered in time.", parts.control.late_total)
    gauge("records_waiting", "Stored records that are not interpreted yet.", parts.interpreter.waiting)
    counter("records_interpreted_total", "Records interpreted.", parts.interpreter.interpreted)
    for mark, count in tuple(parts.interpreter.unread.items()):
        counter("records_marked_total", "Records with a mark, by mark.", count, mark=mark)
    commits = tuple(parts.recorder.commit_seconds)
    gauge("commit_seconds", "Duration of the last telemetry commit.", commits[-1] if commits else 0.0)
    counter("journal_events_total", "Events appended since the start.", parts.journal.committed_events)
    gauge("history_behind_events", "Events that a page as of a moment does not know yet.", parts.turns.behind)
    gauge("journal_head_seq", "Sequence number of the log's last event.", parts.journal.head.seq)
    gauge("quarantine_items", "Items in quarantine that nobody settled.", quarantined)
    counter("quarantine_put_total", "Items put into quarantine.", parts.quarantine.put_count)
    budget = parts.keeper.budget_view_data()
    gauge("budget_bytes", "The byte budget.", budget.budget_bytes)
    gauge("budget_used_bytes", "Bytes used of the budget.", budget.used_bytes)
    gauge("disk_free_bytes", "Free bytes of the disk.", budget.disk_free_bytes)
    for part in budget.classes:
        gauge("budget_class_bytes", "Bytes used, by class.", part.bytes_used, data_class=part.name)
    counter("telemetry_shed_records_total", "Records dropped on purpose.", budget.shed_records)
    gauge("storage_fault", "1 while the disk refuses writes.", float(gate.fault is not None))
    gauge("clock_confidence", "0 not trusted, 1 free running, 2 synchronised.", float(parts.clock.confidence()))
    for name, restarts in parts.supervisor.restarts.items():
        counter("loop_restarts_total", "Restarts of a background loop.", restarts, loop=name)
    for bridge in parts.bridges:
        name = bridge.way.name
        gauge("bridge_up", "1 while the broker is connected.", float(bridge.up), bridge=name)
        gauge("bridge_unacknowledged", "Messages under way to the disk.", bridge.unacknowledged, bridge=name)
        counter("bridge_connections_total", "Connections made to the broker.", bridge.connections, bridge=name)
        counter("bridge_repeated_total", "Messages that the broker repeated.", bridge.repeated, bridge=name)
    for loop in (parts.recorder.loop, parts.interpreter.loop, *(bridge.loop for bridge in parts.bridges)):
        counter("loop_restarts_total", "Restarts of a background loop.", loop.falls, loop=loop.name)
    gauge("page_watchers", "Pages that are being kept up to date.", parts.stale.watchers)
    gauge("uptime_seconds", "Seconds since the start.", (parts.steady_ns() - parts.started_ns) / SECOND)
    gauge(
        "resident_memory_peak_bytes",
        "Largest resident memory.",
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    return found + _of_nodes(parts)


def _of_nodes(parts: Parts) -> list[Gauge | Durations]:
    """A few figures for each node that is not retired, so that a rule can name it; beyond `metrics_nodes_max` nodes only
    how many have none. Times are told as times, not as ages: an age would be wrong by the time it is read."""
    now_ns, trusted = parts.clock.now_ns(), parts.clock.confidence() is not Clock.NOT_TRUSTED
    states = [one for one in tuple(parts.world.nodes.values()) if one.place.phase is not Phase.RETIRED]
    states.sort(key=lambda one: one.node.id)
    left_out = max(len(states) - limits.metrics_nodes_max, 0)
    found: list[Gauge | Durations] = [
        Gauge(
            name="skerry_nodes_without_metrics",
            help="Nodes beyond the number that has figures of its own here.",
            kind="gauge",
            value=left_out,
        )
    ]
    for state in states[: limits.metrics_nodes_max]:
        labels, held = (("node", state.node.id), ("name", state.node.name)), state.signs
        for name, words, value in (
            ("seen_timestamp_seconds", "When a message of the node last came.", _seconds(state.snapshot.seen_ns)),
            (
                "clock_skew_seconds",
                "How far its clock is ahead of ours.",
                _seconds(signs.skew_ns(held, now_ns) if trusted else None),
            ),
            ("heartbeat_timestamp_seconds", "When its last heartbeat came.", _seconds(held.beat_ns)),
            ("heartbeat_interval_seconds", "Between two heartbeats, as a rule.", _seconds(held.interval_ns)),
            ("repeats_in_a_row", "Messages that had come before, with no new one between.", held.repeated_in_a_row),
        ):
            if value is not None:
                found.append(Gauge(name=f"skerry_node_{name}", help=words, kind="gauge", value=value, labels=labels))
        if held.repeated:
            words = "Messages of the node that had come before."
            found.append(
                Gauge(name="skerry_node_repeated_total", help=words, kind="counter", value=held.repeated, labels=labels)
            )
    return found


def _seconds(ns: float | None) -> float | None:
    return None if ns is None else ns / SECOND
