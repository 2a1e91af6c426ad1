"""What the island's bundles, domains and wants are kept in: the real board, documents that are plain dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from fleet.board import Board, own
from fleet.document import Kind, Stamped, View, view, wrong
from fleet.events import Clock, Recorded
from fleet.ids import ulid
from fleet.node import Node
from fleet.people import Refused
from fleet.present import Present, Told
from store import node_words
from store.node_words import common_values
from store.then import Owned
from web.policies import Policies, overview
from web.ports import DriftView, NodeRow

_T = TypeVar("_T")


class Here(NamedTuple):
    present: Present
    site: str = ""


class Slate:
    """Keeper and writer of `web.policies.Policies` in one."""

    def __init__(self, rows: Mapping[str, NodeRow], nodes: Mapping[str, Any], now_ns: Callable[[], int]) -> None:
        self.rows, self.nodes, self.now_ns = rows, nodes, now_ns
        self.documents: dict[tuple[str, str], dict[str, list[Stamped]]] = {}
        self.wanted: dict[str, dict[str, Stamped]] = {}  # of nodes, beside what their desired state says
        self.board = Board()
        self._here: dict[str, Here] = {}
        self.policies = Policies(self, self, common_values, now_ns, lambda site: "alder", lambda writer: writer)

    def stamped(self, value: object, who: str = "alice", where: str = "alder", ago_ns: int = 0) -> Stamped:
        at_ns = self.now_ns() - ago_ns
        return Stamped(value, who, where, 1, at_ns, at_ns, Clock.SYNCED)  # type: ignore[arg-type]

    where = staticmethod(lambda writer: str(writer))

    def one(self, kind: Kind, name: str, moment_ns: int) -> View | None:
        """As of a moment (`web.past.Documents`)."""
        held = self.wanted.get(name, {}) if kind is Kind.NODE else None
        words = (
            {field: [one] for field, one in held.items()} if held is not None else self.documents.get((kind, name), {})
        )
        then = {field: [one for one in said if one.wall_ns <= moment_ns] for field, said in words.items()}
        then = {field: said for field, said in then.items() if said}
        return view(kind, then) if then else None

    def some(self, names: Iterable[tuple[Kind, str]], moment_ns: int) -> dict[tuple[Kind, str], View]:
        found = {each: self.one(*each, moment_ns) for each in names}
        return {each: one for each, one in found.items() if one is not None}

    def every(self, kind: Kind, moment_ns: int) -> dict[str, View]:
        found = {name: self.one(kind, name, moment_ns) for each, name in self.documents if each == kind}
        return {name: one for name, one in found.items() if one is not None}

    def owns(self, moment_ns: int) -> Owned:
        """As of a moment, of all nodes."""
        views = ((node_id, self._document(node_id, moment_ns)) for node_id in self.nodes)
        return Owned({node_id: own(one) for node_id, one in views if one.values}, frozenset(), 0)

    def _document(self, node_id: str, moment_ns: int) -> View:
        values = {field: one for field, one in self._values(node_id).items() if one.wall_ns <= moment_ns}
        return View(values, ())

    def _values(self, node_id: str) -> dict[str, Stamped]:
        """What is written of a node; what stands in its desired state was written an hour ago."""
        node, values = self.nodes[node_id], dict[str, Stamped]()
        for field, value in (
            ("target_version", node.desired.target_version),
            ("policy_bundle_id", node.desired.policy_bundle_id),
            ("domain_id", node.domain_id),
        ):
            if value:
                values[field] = self.stamped(value, ago_ns=3_600 * 10**9)
        return values | self.wanted.get(node_id, {})

    def applied(self, node: Node, written: View) -> Node:
        return node_words.applied(node, written)

    def board_view(self, node_id: str) -> View:
        return View(self.wanted.get(node_id, {}), ())

    def put(self, kind: Kind, name: str, fields: Mapping[str, object], **said: Any) -> str:
        held = self.documents.setdefault((kind, name), {})
        for field, value in fields.items():
            assert wrong(kind, field, value) is None  # type: ignore[arg-type]
            held[field] = [self.stamped(value, **said)]
        return name

    async def refresh(self) -> None:
        for (kind, name), held in self.documents.items():
            self.board.write(kind, name, view(kind, held))
        for node_id in self.nodes:
            self.board.write(Kind.NODE, node_id, View(self._values(node_id), ()))
        self._here = {node_id: Here(_present(row)) for node_id, row in self.rows.items()}
        self.board.fold(self._here, frozenset({""}))

    async def latest(self) -> DriftView:
        await self.refresh()
        return overview(self.board)

    async def ask(self, work: Callable[[Board], _T]) -> _T:
        await self.refresh()
        return work(self.board)

    async def versions(self, node_ids: Sequence[str]) -> Mapping[str, tuple[str, int]]:
        return {}

    async def history(self, name: str, limit: int) -> Sequence[Recorded]:
        return ()

    async def create(self, actor: str, kind: Kind, name: str) -> str:
        values = common_values(kind, {"name": name})
        made = ulid(self.now_ns() // 1_000_000, len(self.documents).to_bytes(10, "big"))
        return self.put(kind, made, values, who=actor)

    async def change(self, actor: str, kind: Kind, name: str, fields: Mapping[str, str]) -> None:
        self.put(kind, name, common_values(kind, fields), who=actor)

    async def take(self, actor: str, kind: Kind, name: str, pointer: str, choice: int) -> None:
        conflict = next(
            (one for one in view(kind, self.documents[kind, name]).conflicts if one.pointer == pointer), None
        )
        if conflict is None:
            raise Refused("there is nothing to choose there any more; somebody has")
        value = (conflict.effective, *conflict.others)[choice].value
        self.put(kind, name, {pointer: value}, who=actor)


def _present(row: NodeRow) -> Present:
    values = {
        one.metric: Told(one.value, one.at_ns, one.source)
        for one in (row.battery, row.rtt, row.loss)
        if one is not None
    }
    return Present(
        row.id, row.name, row.kind, row.tags, row.mode, row.since_ns, row.seen_ns, version=row.version, values=values
    )
