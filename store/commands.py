"""Commands on nodes: a person's wish, checked against what stands, becomes an event and a changed row in one transaction.

What cannot be done raises `Refused` with the sentence for the person, and nothing is half done. Each job runs on the
writer's thread, so what it checks cannot change under it.
"""

from __future__ import annotations

import ipaddress
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from fleet import events, lifecycle
from fleet.document import Id, Value, View
from fleet.document import Kind as DocumentKind
from fleet.node import Constraints, Desired, Endpoint, Kind, Node
from fleet.people import Refused
from store import batch, node_words, upstream
from store.database import Writer
from store.document import Made
from store.document import Refused as RefusedChange
from store.journal import Journal
from store.shared import Shared

_TAG = re.compile(r"[\w.:/-]{1,64}")
_NAME_CHARS_MAX = 128
_TAGS_MAX = 32

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Node).decode


class Adopted(NamedTuple):
    node: Node
    claims: tuple[str, ...]  # the sources taken on


class Commands:
    def __init__(self, journal: Journal, writer: Writer, tenant: str, shared: Shared) -> None:
        self._journal, self._writer, self._tenant, self._shared = journal, writer, tenant, shared

    async def adopt(
        self, actor: str, node: Node, sources: tuple[str, ...], source_rows: tuple[tuple[object, ...], ...]
    ) -> Node:
        """Take `sources` on as `node`. `source_rows` are their rows as far as they are known."""
        return await self._writer.write(self.adopting(actor, node, sources, source_rows))

    def adopting(
        self,
        actor: str,
        node: Node,
        sources: tuple[str, ...],
        source_rows: tuple[tuple[object, ...], ...],
        words: Mapping[str, Value] | None = None,
    ) -> Callable[[sqlite3.Connection], Node]:
        """`adopt` as a job, for whoever does more in the same transaction. `words`: what its document says besides."""
        _check_name(node.name)
        _check_tags(node.tags)

        def job(db: sqlite3.Connection) -> Node:
            for source in sources:
                held = db.execute("SELECT node_id FROM source WHERE key=?", (source,)).fetchone()
                if held and held[0]:
                    raise Refused(f"{source} already belongs to a node; release it there first")
            if db.execute("SELECT 1 FROM node WHERE tenant=? AND name=?", (self._tenant, node.name)).fetchone():
                raise Refused(f"there is already a node {node.name}; choose another name, or claim the source for it")
            db.execute("INSERT INTO node VALUES (?,?,?,?)", (node.id, self._tenant, node.name, _encode(node)))
            db.executemany(_CLAIM, [(*row, node.id) for row in source_rows])
            self._journal.stage(node.id, events.NodeAdopted(node.name, node.kind, sources[0], actor, node.tags))
            for source in sources:
                self._journal.stage(node.id, events.SourceClaimed(source, node.id, actor))
            moved = events.LifecycleMoved(lifecycle.Phase.PROVISIONING, lifecycle.Phase.ENROLLED, "adopted", actor)
            self._journal.stage(node.id, moved)
            self._edit(db, node, {**node_words.of_node(node), **(words or {})}, actor)
            return node

        return job

    async def claim(
        self, actor: str, sources: tuple[str, ...], rows: tuple[tuple[object, ...], ...], node_id: str
    ) -> None:
        await self._writer.write(self.claiming(actor, sources, rows, node_id))

    def claiming(
        self, actor: str, sources: tuple[str, ...], rows: tuple[tuple[object, ...], ...], node_id: str
    ) -> Callable[[sqlite3.Connection], Node]:
        """`claim` as a job, for whoever does more in the same transaction."""

        def job(db: sqlite3.Connection) -> Node:
            node = _load(db, self._tenant, node_id)
            for source in sources:
                held = db.execute("SELECT node_id FROM source WHERE key=?", (source,)).fetchone()
                if held and held[0] and held[0] != node_id:
                    raise Refused(f"{source} already belongs to another node; release it there first")
                self._journal.stage(node_id, events.SourceClaimed(source, node_id, actor))
            db.executemany(_CLAIM, [(*row, node_id) for row in rows])
            return node

        return job

    async def release(self, actor: str, sources: tuple[str, ...], node_id: str) -> None:
        def job(db: sqlite3.Connection) -> None:
            for source in sources:
                db.execute("UPDATE source SET node_id=NULL WHERE key=?", (source,))
                self._journal.stage(node_id, events.SourceReleased(source, node_id, actor))

        await self._writer.write(job)

    async def change(self, actor: str, node_id: str, field: str, value: str) -> Node:
        """Change one field of a node; returns the node as it is then."""

        def job(db: sqlite3.Connection) -> Node:
            node, view = self._look(db, node_id)
            text = value.strip()
            former, changed = _changed(node, field, text)
            if field in node_words.FIELDS:
                values = node_words.values_of(field, text, view)
                if field == upstream.FIELD:
                    self._check_upstream(db, node_id, text)
                if field in ("notes", "upstream", "policy_bundle_id", "maintenance_window", "requires_online"):
                    held = view.values.get(field)
                    former = str(held.value) if held and held.value is not None else ""
                if self._edit(db, node, values, actor) is None:
                    return node
                changed = node_words.applied(node, self._look(db, node_id)[1])
            elif changed == node:
                return node
            self._store(db, changed)
            self._journal.stage(node_id, events.NodeChanged(field, former[:1_000], text[:1_000], actor))
            return changed

        return await self._writer.write(job)

    async def change_many(
        self, actor: str, node_ids: Sequence[str], field: str, text: str, *, dry_run: bool
    ) -> tuple[list[batch.Outcome], list[Node]]:
        """One change to many nodes, in one transaction; what became of each, and the nodes as they are then."""
        values = batch.values_of(field, text)

        def job(db: sqlite3.Connection) -> tuple[list[batch.Outcome], list[Node]]:
            outcomes: list[batch.Outcome] = []
            changed: list[Node] = []
            for node_id in node_ids:
                outcome = self._one_of_many(db, node_id, values)
                if outcome.changes and not dry_run:
                    node, view = self._look(db, node_id)
                    former = [view.values[one].value for one in values if one in view.values]
                    try:
                        self._edit(db, node, values, actor)
                    except Refused as refused:
                        outcomes.append(batch.Outcome(node_id, refused=str(refused)))
                        continue
                    changed.append(node_words.applied(node, self._look(db, node_id)[1]))
                    store_node(db, changed[-1])
                    self._journal.stage(node_id, _many_changed(field, former, node, changed[-1], text.strip(), actor))
                outcomes.append(outcome)
            return outcomes, changed

        return await self._writer.write(job)

    def _one_of_many(self, db: sqlite3.Connection, node_id: str, values: Mapping[str, Value]) -> batch.Outcome:
        try:
            node = _load(db, self._tenant, node_id)
        except Refused as refused:
            return batch.Outcome(node_id, refused=str(refused))
        place = Id(self._tenant, DocumentKind.NODE, node_id)
        return batch.look(db, self._shared, place, values, node_words.of_node(node))

    async def take(self, actor: str, node_id: str, pointer: str, choice: int) -> Node:
        """Of words written at once, take one: 0 is the one that holds, the others follow as they are shown."""

        def job(db: sqlite3.Connection) -> Node:
            node, view = self._look(db, node_id)
            conflict = next((one for one in view.conflicts if one.pointer == pointer), None)
            if conflict is None:
                raise Refused("there is nothing to choose there any more; somebody has")
            choices = (conflict.effective, *conflict.others)
            if not 0 <= choice < len(choices):
                raise Refused("there is no such choice; look again", 422)
            value, former = choices[choice].value, conflict.effective.value
            self._edit(db, node, {pointer: value}, actor)
            changed = node_words.applied(node, self._look(db, node_id)[1])
            self._store(db, changed)
            self._journal.stage(node_id, events.NodeChanged(pointer, str(former)[:1_000], str(value)[:1_000], actor))
            return changed

        return await self._writer.write(job)

    async def settle(self, actor: str, node_id: str, pointer: str, choice: int, decision: str, why: str) -> Node:
        """A person's word on a value that is parked: take it, or drop it (`Shared.settle`)."""

        def job(db: sqlite3.Connection) -> Node:
            node = _load(db, self._tenant, node_id)
            place = Id(self._tenant, DocumentKind.NODE, node_id)
            made = self._shared.settle(db, place, pointer, choice, decision, actor, why)
            if isinstance(made, RefusedChange):
                raise Refused(made.reason)
            changed = node_words.applied(node, self._look(db, node_id)[1])
            self._store(db, changed)
            return changed

        return await self._writer.write(job)

    def _check_upstream(self, db: sqlite3.Connection, node_id: str, over: str) -> None:
        def called(one: str) -> str:
            row = db.execute("SELECT name FROM node WHERE id=? AND tenant=?", (one, self._tenant)).fetchone()
            return str(row[0]) if row else one

        reason = upstream.refusal(db, self._tenant, node_id, over, self._shared.look, called)
        if reason:
            raise Refused(reason)

    def _look(self, db: sqlite3.Connection, node_id: str) -> tuple[Node, View]:
        """The node and its document; one without a document gets the document that it would have begun with."""
        node = _load(db, self._tenant, node_id)
        place = Id(self._tenant, DocumentKind.NODE, node_id)
        view = self._shared.judged(db, place).view
        if not view.values:
            self._edit(db, node, node_words.of_node(node), self._journal.log.writer)
            view = self._shared.judged(db, place).view
        return node, view

    def _edit(self, db: sqlite3.Connection, node: Node, values: Mapping[str, Value], actor: str) -> Made | None:
        made = self._shared.edit(db, Id(self._tenant, DocumentKind.NODE, node.id), values, actor)
        if isinstance(made, RefusedChange):
            raise Refused(made.reason, 422)
        return made

    def _store(self, db: sqlite3.Connection, node: Node) -> None:
        taken = db.execute(
            "SELECT 1 FROM node WHERE tenant=? AND name=? AND id<>?", (self._tenant, node.name, node.id)
        ).fetchone()
        if taken:
            raise Refused(f"there is already a node {node.name}; choose another name")
        store_node(db, node)

    async def move(
        self, actor: str, node_id: str, origin: lifecycle.Place, target: str, reason: str
    ) -> lifecycle.Place:
        """One step in the lifecycle, from `origin`, where the projection has the node."""
        try:
            place = lifecycle.place(target)
        except ValueError as error:
            raise Refused(f"there is no place {target!r} in the lifecycle", 422) from error
        refusal = lifecycle.refusal(origin, place)
        if refusal:
            raise Refused(refusal)
        moved = events.LifecycleMoved(str(origin), str(place), reason[:500], actor)
        await self._writer.write(lambda db: self._journal.stage(node_id, moved))
        return place


_CLAIM = (
    "INSERT INTO source (key, tenant, first_ns, last_ns, records, last_record, sample, node_id) VALUES (?,?,?,?,?,?,?,?)"
    " ON CONFLICT DO UPDATE SET node_id=excluded.node_id"
)


def store_node(db: sqlite3.Connection, node: Node) -> None:
    db.execute("UPDATE node SET name=?, document=? WHERE id=?", (node.name, _encode(node), node.id))


def follow(db: sqlite3.Connection, tenant: str, node_ids: Iterable[str], shared: Shared) -> list[Node]:
    """Bring the rows of nodes in step with their documents, after somebody else's changes were merged."""
    changed: list[Node] = []
    for node_id in node_ids:
        row = db.execute("SELECT document FROM node WHERE id=? AND tenant=?", (node_id, tenant)).fetchone()
        if row is None:
            continue
        former = _decode(row[0])
        node = node_words.applied(former, shared.judged(db, Id(tenant, DocumentKind.NODE, node_id)).view)
        if node != former:
            store_node(db, node)
            changed.append(node)
    return changed


def load_nodes(db: sqlite3.Connection, tenant: str) -> list[Node]:
    return [_decode(row[0]) for row in db.execute("SELECT document FROM node WHERE tenant=? ORDER BY id", (tenant,))]


def _load(db: sqlite3.Connection, tenant: str, node_id: str) -> Node:
    row = db.execute("SELECT document FROM node WHERE id=? AND tenant=?", (node_id, tenant)).fetchone()
    if row is None:
        raise Refused("there is no such node", 404)
    return _decode(row[0])


def _changed(node: Node, field: str, value: str) -> tuple[str, Node]:
    """(former value as text, the changed node). Refused when the field or the value will not do."""
    replace = msgspec.structs.replace
    desired = node.desired
    match field:
        case "name":
            _check_name(value)
            return node.name, replace(node, name=value)
        case "tags":
            tags = tuple(dict.fromkeys(value.replace(",", " ").split()))
            _check_tags(tags)
            return " ".join(node.tags), replace(node, tags=tags)
        case "kind":
            if value not in Kind.__members__:
                raise Refused(f"a kind is one of {', '.join(Kind)}", 422)
            return node.kind.value, replace(node, kind=Kind(value))
        case "domain_id":
            return node.domain_id or "", replace(node, domain_id=value[:_NAME_CHARS_MAX] or None)
        case "target_version":
            wanted = replace(desired, target_version=value[:_NAME_CHARS_MAX] or None)
            return desired.target_version or "", replace(node, desired=wanted)
        case "min_battery_pct":
            limits = _constraints(desired, value)
            return str(desired.constraints.min_battery_pct or ""), replace(
                node, desired=replace(desired, constraints=limits)
            )
        case "notes" | "upstream" | "policy_bundle_id" | "maintenance_window" | "requires_online":
            return "", node  # its document says it
        case "address":
            former = ", ".join(endpoint.address for endpoint in node.endpoints)
            return former, replace(node, endpoints=_endpoints(value))
        case _:
            raise Refused(f"{field!r} is not a field that can be changed here", 422)


def _many_changed(
    field: str, former: Sequence[Value], before: Node, after: Node, text: str, actor: str
) -> events.NodeChanged:
    if field in (batch.ADD_TAG, batch.REMOVE_TAG):
        return events.NodeChanged("tags", " ".join(before.tags)[:1_000], " ".join(after.tags)[:1_000], actor)
    was = next((str(one) for one in former if one is not None), "")
    return events.NodeChanged(field, was[:1_000], text[:1_000], actor)


def _constraints(desired: Desired, value: str) -> Constraints:
    try:
        number = float(value) if value else None
    except ValueError as error:
        raise Refused(f"{value!r} is not a number of percent", 422) from error
    if number is not None and not 0 <= number <= 100:
        raise Refused("a battery limit is between 0 and 100 %", 422)
    return msgspec.structs.replace(desired.constraints, min_battery_pct=number)


def _endpoints(value: str) -> tuple[Endpoint, ...]:
    endpoints = []
    for part in value.replace(",", " ").split():
        address, _, role = part.partition("=")
        try:
            ipaddress.ip_address(address.partition("%")[0])
        except ValueError as error:
            raise Refused(f"{address!r} is not an IP address; write 10.0.0.7 or 10.0.0.7=fts", 422) from error
        endpoints.append(Endpoint(address=address, role=role or "primary"))
    return tuple(endpoints)


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > _NAME_CHARS_MAX or not name.isprintable():
        raise Refused(f"a node's name has 1 to {_NAME_CHARS_MAX} printable characters", 422)


def _check_tags(tags: tuple[str, ...]) -> None:
    if len(tags) > _TAGS_MAX or not all(_TAG.fullmatch(tag) for tag in tags):
        raise Refused(f"at most {_TAGS_MAX} tags, each of letters, digits and . : / _ -", 422)
