"""Which rows of a list are asked for, in which order, and which of them need a person? The same on both ends.

Rules of the file
  1  Values in, values out: rows, a query and the time; no box.
  2  A node whose site is not heard needs nobody: what it was when it was last told of is no alarm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import NamedTuple

from fleet import lifecycle
from fleet.attention import Cause, Item
from fleet.connectivity import Mode, Reach
from fleet.document import Kind as DocumentKind
from fleet.document import Value, View, taken_up
from fleet.limits import MINUTE
from fleet.node import Kind
from fleet.people import Refused
from fleet.reading import Health
from web.ports import (
    BatchRefusal,
    BatchView,
    Choice,
    FieldConflict,
    NodeQuery,
    NodeRow,
    QuarantineItem,
    RecordView,
    Word,
)

BATTERY_LOW_PCT = 20.0
PLACES_MAX = 1_000  # on the map


def visible(raw: bytes) -> str:
    """Bytes as text that cannot do anything: control characters as symbols, what is no UTF-8 as \\xNN."""
    return raw.decode("utf-8", "backslashreplace").translate(_VISIBLE)


_VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
_VISIBLE |= {code: f"\\u{code:04x}" for code in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def tally(rows: Sequence[NodeRow]) -> dict[Reach, int]:
    reach = dict.fromkeys(Reach, 0)
    for row in rows:
        reach[row.reach] += 1
    return reach


def chosen(rows: Iterable[NodeRow], query: NodeQuery, among: Set[str] | None = None) -> list[NodeRow]:
    """All rows that match, in the order asked for."""
    found = matching(rows, query, among)
    found.sort(key=ORDERS.get(query.order, ORDERS[BY_URGENCY]))
    return found


def matching(rows: Iterable[NodeRow], query: NodeQuery, among: Set[str] | None = None) -> list[NodeRow]:
    """All rows that match, as they come. `among` are the nodes of the domain and the bundle that are asked for (None: no
    such thing is)."""
    if among is not None:
        rows = [row for row in rows if row.id in among]
    return [row for row in rows if _matches(row, query)] if filters(query) else list(rows)


class Everyone(NamedTuple):
    """All nodes of a box as they are now, for whoever goes through them on another thread: rows by id, and ids in the order
    of names. While `placed` is the same, so are ids, names and sites; None: nobody keeps count."""

    rows: Mapping[str, NodeRow]
    by_name: Sequence[str]
    placed: object = None


def everyone(rows: Iterable[NodeRow]) -> Everyone:
    by_id = {row.id: row for row in rows}
    return Everyone(by_id, sorted(by_id, key=lambda one: (by_id[one].name, one)))


def ids(rows: Iterable[NodeRow], query: NodeQuery, among: Set[str] | None = None) -> Set[str]:
    """`matching`, by id."""
    return {row.id for row in matching(rows, query, among)}


def filters(query: NodeQuery) -> bool:
    """Whether anything less than all is asked for."""
    return bool(query.text or query.reach or query.kind or query.tag or query.site or groups(query))


def groups(query: NodeQuery) -> bool:
    """Whether a domain or a bundle is asked for: who is of it stands in no row."""
    return query.domain is not None or query.bundle is not None


def page(matching: Sequence[NodeRow], query: NodeQuery) -> tuple[NodeRow, ...]:
    return tuple(matching[query.offset : query.offset + max(1, query.limit)])


def places(matching: Iterable[NodeRow]) -> tuple[NodeRow, ...]:
    return tuple(islice((row for row in matching if row.position is not None), PLACES_MAX))


def tags(rows: Iterable[NodeRow]) -> tuple[str, ...]:
    return tuple(sorted({tag for row in rows for tag in row.tags}))


def _matches(row: NodeRow, query: NodeQuery) -> bool:
    """Whether a row is among those asked for."""
    if query.reach is not None and row.reach is not query.reach:
        return False
    if query.kind is not None and row.kind is not query.kind:
        return False
    if query.tag and query.tag not in row.tags:
        return False
    if query.site and query.site != row.site:
        return False
    text = query.text.strip().lower()
    return not text or text in words_of(row)


def words_of(row: NodeRow) -> str:
    """What a search finds a node by, in small letters."""
    return "\n".join((row.name, row.id, row.address or "", *row.tags)).lower()


_URGENCY = {Reach.OFFLINE: 0, Reach.DEGRADED: 1, Reach.UNKNOWN: 2, Reach.ONLINE: 3}


def rank(row: NodeRow) -> int:
    """How urgent a node is, the most urgent 0; among equals the name decides."""
    ill = row.lost_ns is None and (
        row.health in (Health.FAILED, Health.DEGRADED) or row.heartbeat_missing_ns is not None
    )
    return 2 * min(_URGENCY[row.reach], 1) if ill else 2 * _URGENCY[row.reach] + 1


BY_URGENCY = "attention"
ORDERS: dict[str, Callable[[NodeRow], tuple[object, ...]]] = {
    BY_URGENCY: lambda row: (rank(row), row.name),
    "name": lambda row: (row.name,),
    "battery": lambda row: (row.battery is None, row.battery.value if row.battery else 0, row.name),
    "seen": lambda row: (row.seen_ns is None, -(row.seen_ns or 0), row.name),
    "rtt": lambda row: (row.rtt is None, -(row.rtt.value if row.rtt else 0), row.name),
}


# -- what needs a person -------------------------------------------------------------------------------------------


_WELL = (Health.OK, Health.UNKNOWN)
_NOTHING: list[Item] = []


def is_well(row: NodeRow) -> bool:
    """Nobody is needed: nearly every node, nearly always, so it costs little."""
    if row.lost_ns is not None:
        return True
    if row.reach is not Reach.ONLINE or row.health not in _WELL or row.heartbeat_missing_ns is not None:
        return False
    low = row.battery is not None and row.battery.value < BATTERY_LOW_PCT
    return not low and row.phase != lifecycle.Phase.QUARANTINED


def needs(row: NodeRow, now_ns: int) -> list[Item]:
    """Why a node needs a person, in one sentence each."""
    return current(troubles(row), now_ns)


def troubles(row: NodeRow) -> list[Item]:
    """`needs`, as far as the row alone says it; `current` makes of it what holds at a time."""
    if is_well(row):
        return _NOTHING
    found: list[tuple[Cause, str, int]] = []
    since = row.since_ns or 0
    if row.reach is Reach.OFFLINE:
        airborne = row.flight is not None and row.flight.value in ("AIR", "TAKEOFF", "LANDING")
        words = "silent while in the air" if airborne else "silent: neither messages nor ping answers"
        found.append((Cause.IN_AIR if airborne else Cause.SILENT, words, since))
    elif row.mode is Mode.DELAYED:
        found.append((Cause.DELAYED, "link is slow or lossy, or it answers ping and sends nothing", since))
    if row.health is Health.FAILED:
        found.append((Cause.FAILED, "reports that it has failed", since))
    elif row.health is Health.DEGRADED:
        found.append((Cause.DEGRADED, "reports that it is degraded", since))
    if row.heartbeat_missing_ns is not None and row.reach is not Reach.OFFLINE:
        found.append((Cause.HEARTBEAT, "no heartbeat, though it is heard", row.heartbeat_missing_ns))
    if row.battery and row.battery.value < BATTERY_LOW_PCT:
        found.append((Cause.BATTERY, f"battery at {row.battery.value:.0f} %", row.battery.at_ns))
    if row.phase == lifecycle.Phase.QUARANTINED:
        found.append((Cause.QUARANTINE, "is quarantined", since))
    return [Item(cause, DocumentKind.NODE, row.id, row.name, words, at_ns, row.site) for cause, words, at_ns in found]


def current(lines: Iterable[Item], now_ns: int) -> list[Item]:
    """A battery is low as long as its word is fresh; what has no time of its own is of now."""
    return [
        line if line.since_ns else line._replace(since_ns=now_ns)
        for line in lines
        if line.cause is not Cause.BATTERY or now_ns - line.since_ns < _BATTERY_NS_MAX
    ]


_BATTERY_NS_MAX = 10 * MINUTE


def quarantined(
    number: int,
    at_ns: int,
    intake: str,
    source: str,
    reason: str,
    raw: bytes,
    times: int,
    settled_ns: int | None,
    decision: str | None,
) -> QuarantineItem:
    """One row of the quarantine (`store.quarantine.Item`) as pages show it."""
    return QuarantineItem(
        id=number,
        at_ns=at_ns,
        intake=intake,
        source=source,
        reason=reason,
        text=visible(raw),
        size=len(raw),
        times=times,
        settled_ns=settled_ns,
        decision=decision,
    )


def record(
    number: int, at_ns: int, source: str, content: bytes, marks: tuple[str, ...], node_id: str | None
) -> RecordView:
    """A raw record (`store.frames.Record`) as pages show it."""
    return RecordView(
        id=number,
        at_ns=at_ns,
        source=source,
        text=visible(content),
        marks=marks,
        node_id=node_id,
        content=content,
    )


def online(view: View) -> str:
    """What a node's own document says of being online: yes, no, or nothing."""
    said = view.values.get("requires_online")
    return "" if said is None or said.value is None else "yes" if said.value else "no"


_CARRY = (Kind.RELAY, Kind.GATEWAY)


def relays(nodes: Iterable[tuple[str, str, Kind]]) -> tuple[tuple[str, str], ...]:
    """Id and name of each that carries others' traffic, of ids, names and kinds; by name."""
    return tuple(sorted(((one, name) for one, name, kind in nodes if kind in _CARRY), key=lambda each: each[::-1]))


def check_relay(over: str, known: Sequence[tuple[str, str]], site: str) -> None:
    """Refused when no node can be reached over it there; empty is the site itself."""
    if over and over not in dict(known):
        raise Refused(f"there is no relay or gateway of that id at {site}; choose one of them, or the site itself", 422)


def batch(outcomes: Iterable[tuple[str, bool, str, str, str]], *, done: bool) -> BatchView:
    """What became of each node, of its id, whether it changes, why not, its name and its site."""
    sites: Counter[str] = Counter()
    refused: list[BatchRefusal] = []
    same = 0
    for node_id, changes, why, name, site in outcomes:
        if why:
            refused.append(BatchRefusal(id=node_id, name=name, site=site, why=why))
        elif changes:
            sites[site] += 1
        else:
            same += 1
    return BatchView(
        done=done, changed=sites.total(), same=same, sites=tuple(sorted(sites.items())), refused=tuple(refused)
    )


def conflicts(view: View, where: Callable[[str], str]) -> tuple[FieldConflict, ...]:
    """What was written at once; `where` names the place of a log's writer."""
    return tuple(
        FieldConflict(
            field=one.pointer,
            choices=tuple(
                Choice(
                    value="" if said.value is None else str(said.value),
                    by=said.who,
                    where=where(said.writer),
                    at_ns=said.wall_ns,
                    clock=said.clock,
                )
                for said in (one.effective, *one.others)
            ),
        )
        for one in view.conflicts
        if not taken_up(one.pointer)
    )


def written(view: View, where: Callable[[str], str]) -> tuple[Word, ...]:
    """The words that stand in a bundle or a domain; `where` names the place of a log's writer."""
    return tuple(
        Word(
            field=field, value=_said(one.value), by=one.who, where=where(one.writer), at_ns=one.wall_ns, clock=one.clock
        )
        for field, one in view.values.items()
        if one.value is not None
    )


def _said(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, int | float) else str(value)
