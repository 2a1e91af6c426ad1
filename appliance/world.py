"""The world of a site as the interpreter holds it: nodes, sources and who claims whom. One thread changes it.

Pages read it from another thread: they take a copy of a table first (one step under the interpreter's lock-free
rules: values are replaced, never half written).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from appliance.evaluator import Standing
from appliance.intake.ping import START, PingState
from fleet import lifecycle, series
from fleet.node import Node
from fleet.reading import Reading
from fleet.signs import Signs
from fleet.snapshot import Snapshot

SPARK_STEP_NS = 120 * 1_000_000_000
SPARK_POINTS = 30
TAIL_RECORDS = 200
OWN_SOURCE = "skerry//"  # of records that the appliance writes itself: nobody's, and nothing to adopt


class SourceKey(NamedTuple):
    """Where records come from: `intake/address/name`; the name is what the sender calls itself, or empty."""

    intake: str
    address: str
    name: str

    def __str__(self) -> str:
        return f"{self.intake}/{self.address}/{self.name}"

    @property
    def sender(self) -> str:
        """What a node claims: the sender, whatever way in it uses."""
        return f"{self.address}/{self.name}"


def source_key(text: str) -> SourceKey:
    intake, address, name = (*text.split("/", 2), "", "")[:3]
    return SourceKey(intake, address, name)


class SourceState(msgspec.Struct):
    key: SourceKey
    node_id: str | None
    first_ns: int
    last_ns: int
    records: int
    last_record: int
    sample: bytes
    dirty: bool = True


class NodeState(msgspec.Struct):
    node: Node
    standing: Standing
    snapshot: Snapshot
    place: lifecycle.Place = lifecycle.START
    ping: PingState = START
    ping_ns: int | None = None
    window: series.Window | None = None
    closed: list[series.Window] = msgspec.field(default_factory=list)  # full, not saved yet
    spark: deque[float | None] = msgspec.field(default_factory=lambda: deque(maxlen=SPARK_POINTS))
    spark_ns: int = 0
    dirty: bool = False
    claims: frozenset[str] = frozenset()  # senders
    signs: Signs = msgspec.field(default_factory=Signs)


class Saved(msgspec.Struct, array_like=True):
    """The row of a node in the table `snapshot`."""

    standing: Standing
    snapshot: Snapshot


Parse = Callable[[bytes, int], Reading]


class World:
    def __init__(self) -> None:
        self.nodes: dict[str, NodeState] = {}
        self.sources: dict[str, SourceState] = {}
        self.claims: dict[str, str] = {}  # sender → node id
        self.let_go: set[str] = set()  # senders that a person released, or found unclaimed at the start
        self.cursor = 0  # the last record that was read

    def claim(self, sender: str, node_id: str) -> None:
        self.claims[sender] = node_id
        self.let_go.discard(sender)
        state = self.nodes[node_id]
        state.claims = state.claims | {sender}
        for source in tuple(self.sources.values()):
            if source.key.sender == sender:
                source.node_id, source.dirty = node_id, True

    def release(self, sender: str) -> None:
        node_id = self.claims.pop(sender, None)
        self.let_go.add(sender)
        if node_id in self.nodes:
            state = self.nodes[node_id]
            state.claims = state.claims - {sender}
        for source in tuple(self.sources.values()):
            if source.key.sender == sender:
                source.node_id, source.dirty = None, True

    def sources_of(self, node_id: str) -> list[SourceState]:
        return [source for source in tuple(self.sources.values()) if source.node_id == node_id]
