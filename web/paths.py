"""Over which relays are a domain's nodes reached? The board's nodes as forests (`fleet.topology`), put into shapes.

Rules of the file
  1  A path begins at the site, so relays that are of another domain are on it too, and are marked so.
  2  Beyond `DRAWN_MAX` nodes those with nothing behind them are only counted, by how their path is: what carries others
     stays.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from fleet import topology
from fleet.board import Board
from fleet.connectivity import REACH, Reach
from fleet.topology import Branch, Hop
from web import ports

SITES_MAX = 12
DRAWN_MAX = 60
RELAYS_MAX = 120  # of one site; what is beyond is counted


def of_domain(board: Board, name: str, called: Callable[[str], str]) -> ports.PathsView:
    """`called` names a site."""
    nodes: defaultdict[str, list[str]] = defaultdict(list)
    relayed: Counter[str] = Counter()
    for node_id in board.domain(name).nodes:
        site = board.nodes[node_id].seen.site
        nodes[site].append(node_id)
        relayed[site] += bool(board.own(node_id).upstream)
    order = sorted(nodes, key=lambda site: (-relayed[site], called(site), site))
    shown = order[:SITES_MAX]
    fold = sum(len(nodes[site]) for site in shown) > DRAWN_MAX
    return ports.PathsView(
        sites=tuple(_site(board, site, called(site), nodes[site], fold=fold) for site in shown),
        more=len(order) - len(shown),
    )


def _site(board: Board, site: str, called: str, ids: Sequence[str], *, fold: bool) -> ports.SitePaths:
    inside, heard = frozenset(ids), board.heard(site)
    upstream = _upstream(board, site, ids)
    hops = [_hop(board, node_id, heard=heard) for node_id in upstream]
    forest = topology.forest(hops, upstream)

    def named(one: str) -> tuple[str, str]:
        return one, board.nodes[one].seen.present.name

    roots, folded = _shapes(forest.roots, inside, _Room(RELAYS_MAX) if fold else None)
    return ports.SitePaths(
        site=called,
        nodes=len(ids),
        heard=heard,
        roots=roots,
        folded=folded,
        circles=tuple(tuple(map(named, one)) for one in forest.circles),
        behind=tuple(map(named, forest.behind)),
        missing=tuple(named(one) for one, _ in forest.missing),
    )


def _upstream(board: Board, site: str, ids: Iterable[str]) -> dict[str, str]:
    """Nodes, and all that are on their way from the site, each with what it is reached over."""
    found: dict[str, str] = {}
    for node_id in ids:
        at = node_id
        while at and at not in found and at in board.nodes and board.nodes[at].seen.site == site:
            found[at] = board.own(at).upstream
            at = found[at]
    return found


def _hop(board: Board, node_id: str, *, heard: bool) -> Hop:
    present = board.nodes[node_id].seen.present
    rtt, loss = (present.values.get(metric) for metric in ("rtt_ms", "loss_pct"))
    return Hop(
        node_id,
        present.name,
        REACH[present.mode] if heard else Reach.UNKNOWN,
        rtt.value if rtt else None,
        loss.value if loss else None,
    )


class _Room:
    """How many relays may still be shown."""

    def __init__(self, left: int) -> None:
        self.left = left


def _shapes(
    branches: Iterable[Branch], inside: frozenset[str], room: _Room | None
) -> tuple[tuple[ports.PathNode, ...], tuple[tuple[Reach, int], ...]]:
    """The branches, and how many were only counted. Without a `room` none is."""
    shown: list[ports.PathNode] = []
    counted: Counter[Reach] = Counter()
    for one in sorted(branches, key=lambda each: not each.over):  # what carries others first
        if room is not None and (not one.over or room.left <= 0):
            counted.update(_paths(one))
            continue
        if room is not None:
            room.left -= 1
        over, folded = _shapes(one.over, inside, room)
        shown.append(
            ports.PathNode(
                id=one.hop.id,
                name=one.hop.name,
                reach=one.hop.reach,
                path=one.path,
                rtt_ms=one.hop.rtt_ms,
                loss_pct=one.hop.loss_pct,
                inside=one.hop.id in inside,
                over=over,
                folded=folded,
            )
        )
    return tuple(shown), tuple((reach, counted[reach]) for reach in Reach if counted[reach])


def _paths(branch: Branch) -> Iterable[Reach]:
    yield branch.path
    for one in branch.over:
        yield from _paths(one)
