"""What needed a person at a moment, as far as the log knows: silent and failing nodes, sites in quarantine, and two who
believed that they decide. Batteries, drift and what stood open in documents are not known of the past.

Rules of the file
  1  A node whose site had told nothing of the moment needed nobody: what it was when it was last told of is no alarm.
  2  What people had said of an item is looked up for the first of them, by score; the others stand as if nobody had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from fleet import attention
from fleet.attention import Cause, Handled, Item
from fleet.authority import Chain
from fleet.connectivity import REACH, Mode, Reach
from fleet.document import Kind, View
from fleet.lifecycle import Phase
from fleet.node import Kind as NodeKind
from fleet.past import MISSING, Track
from fleet.reading import Health
from web import rows
from web.attention import Made, matches
from web.ports import AttentionQuery, NodeRow, SiteLine

LOOKED_UP_MAX = 50  # documents

_Way = tuple[tuple[Track, str], ...]
Stood = Mapping[Track, Mapping[str, tuple[str, int]]]  # by track, then by node: what stood, since when

# What of each track may need somebody
WORDS: Mapping[Track, frozenset[str]] = {
    Track.CONNECTIVITY: frozenset(str(mode) for mode in Mode if REACH[mode] is Reach.OFFLINE or mode is Mode.DELAYED),
    Track.HEALTH: frozenset((str(Health.FAILED), str(Health.DEGRADED))),
    Track.HEARTBEAT: frozenset((MISSING,)),
    Track.LIFECYCLE: frozenset((str(Phase.QUARANTINED),)),
}
_TOLD_BY: Mapping[Cause, Track] = {
    Cause.SILENT: Track.CONNECTIVITY,
    Cause.DELAYED: Track.CONNECTIVITY,
    Cause.FAILED: Track.HEALTH,
    Cause.DEGRADED: Track.HEALTH,
    Cause.HEARTBEAT: Track.HEARTBEAT,
    Cause.QUARANTINE: Track.LIFECYCLE,
}


def of_nodes(
    every: Iterable[NodeRow], stood: Stood, silent: frozenset[str], domain: Callable[[str], str], moment_ns: int
) -> list[Item]:
    """In order. `silent` are the sites that have told nothing of the moment; `domain` is that of a node."""
    found: list[Item] = []
    concerned = frozenset().union(*(held.keys() for held in stood.values()))
    tracks = tuple(stood.items())
    alike: dict[_Way, list[tuple[Cause, str, Track]]] = {}  # a hundred thousand stand in few ways
    for row in every:
        if row.id not in concerned or row.site in silent:
            continue
        was = {track: held[row.id] for track, held in tracks if row.id in held}
        way = tuple([(track, said) for track, (said, _) in was.items()])
        troubles = alike.get(way)
        if troubles is None:
            troubles = alike[way] = _troubles(dict(way))
        for cause, words, track in troubles:
            found.append(Item(cause, Kind.NODE, row.id, row.name, words, was[track][1], row.site, domain(row.id)))
    return attention.queue(found, moment_ns)


def _troubles(said: Mapping[Track, str]) -> list[tuple[Cause, str, Track]]:
    """What whoever stood so needed somebody for, in which words, and the track that says since when."""
    mode = Mode(said.get(Track.CONNECTIVITY, Mode.LIVE))
    then = NodeRow(
        id="",
        name="",
        kind=NodeKind.EDGE,
        site="",
        mode=mode,
        reach=REACH[mode],
        health=Health(said.get(Track.HEALTH, Health.OK)),
        heartbeat_missing_ns=0 if Track.HEARTBEAT in said else None,
        phase=said.get(Track.LIFECYCLE, str(Phase.ACTIVE)),
    )
    return [(one.cause, one.words, _TOLD_BY[one.cause]) for one in rows.troubles(then)]


def of_sites(lines: Iterable[SiteLine]) -> list[Item]:
    words = "was held in quarantine"
    return [
        Item(Cause.QUARANTINE, Kind.SITE, one.peer, one.name, words, one.since_ns, one.name)
        for one in lines
        if one.quarantined
    ]


def of_authority(chains: Iterable[Chain], called: Callable[[str], str], node: Callable[[str], bool]) -> list[Item]:
    """`called` names a node, a domain or a site; `node` says whether that is the id of a node."""
    return [
        Item(
            Cause.CONTEST,
            Kind.NODE if node(one.subject) else Kind.DOMAIN,
            one.subject,
            called(one.subject),
            f"two believed that they decide there. {one.contests[0].words}",
            one.contests[0].since_ns,
            called(one.place),
            "" if node(one.subject) else one.subject,
        )
        for one in chains
    ]


def queue(
    ordered: Sequence[Item], query: AttentionQuery, document: Callable[[str, str], View | None], moment_ns: int
) -> Made:
    """`document` is what was written of a subject by then; it is asked for the first that match."""
    asked, awake, quiet = 0, list[Item](), list[Item]()
    said = dict[tuple[str, str], Mapping[Cause, Handled]]()
    for one in ordered:
        place = (one.subject_kind, one.subject)
        if place not in said and asked < LOOKED_UP_MAX and matches(one, query):
            asked += 1
            view = document(*place)
            said[place] = attention.handled(view.values) if view is not None else {}
        held = said.get(place, {}).get(one.cause)
        if held is None:
            awake.append(one)
        else:
            one = one._replace(handled=held)
            (quiet if attention.is_quiet(one, moment_ns) else awake).append(one)
    return Made(None, awake, quiet)
