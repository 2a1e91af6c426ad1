"""Over which relays does a site reach a node, and how well does each path carry?

A node says in its document which node it is reached over (`upstream`); without one it is reached from the site itself. So
the paths of a site are a forest, unless two people at two ends wrote a circle. A circle is no path: whoever is in it, or
behind it, is shown apart, and nothing here runs for ever on it.

Rules of the file
  1  A path is as good as its worst hop; a hop that nobody measured makes it unknown, never good.
  2  An edit that would close a circle is refused before it is written (`circle`); one that came about by merging stands
     in `Forest.circles` until a person cuts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from fleet.connectivity import Reach

hops_max = 64  # longer than any radio path; what claims more is shown as cut there

_WORST = (Reach.OFFLINE, Reach.UNKNOWN, Reach.DEGRADED, Reach.ONLINE)


class Hop(NamedTuple):
    """A node as the last hop of its path: how it is heard, and what was measured towards it."""

    id: str
    name: str
    reach: Reach
    rtt_ms: float | None = None
    loss_pct: float | None = None


class Branch(NamedTuple):
    """A node and what is reached over it. `path` is the worst of all hops from the site down to it."""

    hop: Hop
    path: Reach
    over: tuple[Branch, ...] = ()

    @property
    def size(self) -> int:
        """Nodes from here on."""
        return 1 + sum(one.size for one in self.over)


class Forest(NamedTuple):
    roots: tuple[Branch, ...]
    circles: tuple[tuple[str, ...], ...]  # ids, in the order of the path; each once, however one comes to it
    behind: tuple[str, ...] = ()  # ids that are reached only over a circle, or over too many hops
    missing: tuple[tuple[str, str], ...] = ()  # (id, the upstream that nobody here knows)


def circle(upstream: Mapping[str, str], node_id: str, over: str) -> tuple[str, ...]:
    """The circle that `node_id` over `over` would close, from `node_id` on; empty when it closes none."""
    path = [node_id]
    at = over
    while at and len(path) <= hops_max:
        if at == node_id:
            return tuple(path)
        if at in path:
            return ()  # a circle that is there already, and that this node only leads into
        path.append(at)
        at = upstream.get(at, "")
    return ()


def forest(hops: Iterable[Hop], upstream: Mapping[str, str]) -> Forest:
    """All paths of one site. What is reached over a node that is not among `hops` hangs from the site, and is named."""
    held = {hop.id: hop for hop in hops}
    below: dict[str, list[str]] = {}
    roots: list[str] = []
    missing: list[tuple[str, str]] = []
    for node_id in held:
        over = upstream.get(node_id, "")
        if over and over in held:
            below.setdefault(over, []).append(node_id)
        else:
            roots.append(node_id)
            if over:
                missing.append((node_id, over))
    placed: set[str] = set()
    grown = tuple(_grow(held, below, root, Reach.ONLINE, placed) for root in _by_name(held, roots))
    rest = [node_id for node_id in held if node_id not in placed]
    circles = _circles(rest, upstream)
    inside = {node_id for one in circles for node_id in one}
    return Forest(grown, circles, tuple(sorted(one for one in rest if one not in inside)), tuple(sorted(missing)))


def _grow(
    held: Mapping[str, Hop],
    below: Mapping[str, Sequence[str]],
    node_id: str,
    so_far: Reach,
    placed: set[str],
    depth: int = 1,
) -> Branch:
    placed.add(node_id)
    path = worst(so_far, held[node_id].reach)
    over = below.get(node_id, ()) if depth < hops_max else ()
    return Branch(
        held[node_id], path, tuple(_grow(held, below, one, path, placed, depth + 1) for one in _by_name(held, over))
    )


def _by_name(held: Mapping[str, Hop], ids: Sequence[str]) -> list[str]:
    return sorted(ids, key=lambda node_id: (held[node_id].name, node_id))


def worst(*hops: Reach) -> Reach:
    return min(hops, key=_WORST.index)


def _circles(rest: Sequence[str], upstream: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    found: list[tuple[str, ...]] = []
    known: set[str] = set()
    for start in sorted(rest):
        path: list[str] = []
        at = start
        while at and at not in known:
            known.add(at)
            path.append(at)
            at = upstream.get(at, "")
        if at in path:
            found.append(tuple(path[path.index(at) :]))
    return tuple(found)
