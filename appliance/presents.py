"""The present of every node of this site, for the snapshot lane: an object that is replaced when anything about it changes.

It reads the world from another thread, as pages do: values are replaced there, never half written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from appliance.world import NodeState, World
from fleet.present import Present, Told
from fleet.projections import connectivity

_WORDS_CHARS_MAX = 120


class Presents:
    def __init__(self, world: World, turns: Callable[[], connectivity.State]) -> None:
        self._world, self._turns = world, turns
        self._held: dict[str, tuple[tuple[Any, ...], Present]] = {}

    def __call__(self) -> Mapping[str, Present]:
        turns = self._turns()
        found: dict[str, Present] = {}
        for node_id, state in tuple(self._world.nodes.items()):
            turn, beat = turns.standing.get(node_id), turns.heartbeat.get(node_id)
            marks = (state.node, state.place, state.snapshot.record, state.ping_ns, state.standing.mode, turn, beat)
            held = self._held.get(node_id)
            if held is None or held[0] != marks:
                held = self._held[node_id] = (marks, _present(state, turn, beat))
            found[node_id] = held[1]
        for node_id in self._held.keys() - found.keys():
            del self._held[node_id]
        return found

    def of(self, state: NodeState) -> Present:
        """One node's, as it is now."""
        turns, name = self._turns(), state.node.id
        return _present(state, turns.standing.get(name), turns.heartbeat.get(name))


class Here(NamedTuple):
    """A node of this site, which always hears itself."""

    present: Present
    site: str = ""


class Seen:
    """The nodes as drift looks at them: the same object until the node's present is another."""

    def __init__(self, presents: Presents) -> None:
        self._presents = presents
        self._held: dict[str, Here] = {}

    def __call__(self) -> tuple[Mapping[str, Here], frozenset[str], None]:
        held, found = self._held, self._presents()
        self._held = {
            node_id: held[node_id] if node_id in held and held[node_id].present is present else Here(present)
            for node_id, present in found.items()
        }
        return self._held, frozenset({""}), None


def _present(state: NodeState, turn: connectivity.Standing | None, beat: connectivity.Heartbeat | None) -> Present:
    node, snapshot, ping = state.node, state.snapshot, state.ping
    values = {
        name: Told(held.value, held.at_ns, held.source.partition("/")[0])
        for name, held in tuple(snapshot.values.items())
    }
    words = snapshot.text or ""
    told = bool(words) and not words.startswith("{")  # of an object only its values are worth a slow line
    seen_ns, seen_via = snapshot.seen_ns, snapshot.seen_via.partition("/")[0]
    if state.ping_ns is not None:
        if ping.losses == 0 and state.ping_ns > (seen_ns or 0):
            seen_ns, seen_via = state.ping_ns, "ping"
        if ping.rtt_ms is not None:
            values["rtt_ms"] = Told(round(ping.rtt_ms, 3), state.ping_ns, "ping")
        values["loss_pct"] = Told(ping.loss_pct, state.ping_ns, "ping")
    return Present(
        node.id,
        node.name,
        node.kind,
        node.tags,
        state.standing.mode,
        turn.since_ns if turn else None,
        seen_ns,
        seen_via,
        snapshot.health,
        beat.since_ns if beat and beat.missing else None,
        str(state.place),
        snapshot.version,
        snapshot.position,
        snapshot.position_ns,
        snapshot.flight,
        snapshot.armed,
        next((endpoint.address for endpoint in node.endpoints), None),
        words[:_WORDS_CHARS_MAX] if told else None,
        snapshot.text_ns if told else None,
        snapshot.uptime_s,
        values,
    )
