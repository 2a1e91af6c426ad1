"""What needed a person at a moment, as far as the log knows: silent and failing nodes, sites in quarantine, and two who
believed that they decide. Batteries, drift and what stood open in documents are not known of the past.

Rules of the file
  1  A node whose site had told nothing of the moment needed nobody: what it was when it was last told of is no alarm.
  2  What people had said of an item is looked up for the first of them, by score; the others stand as if nobody had.
  3  Of a fleet tens of thousands needed somebody: they are counted, and only of the first of each cause an item is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from heapq import nsmallest
from itertools import compress, islice
from typing import NamedTuple

from fleet import attention
from fleet.attention import Cause, Handled, Item
from fleet.authority import Chain
from fleet.board import Own
from fleet.connectivity import REACH, Mode, Reach
from fleet.document import Kind, View
from fleet.lifecycle import Phase
from fleet.node import Kind as NodeKind
from fleet.past import MISSING, Track
from fleet.reading import Health
from web import rows
from web.attention import SHOWN_MAX, Made, Sums, matches, summed
from web.ports import AttentionQuery, NodeRow, SiteLine

LOOKED_UP_MAX = 50  # documents
_FIRST = SHOWN_MAX + LOOKED_UP_MAX  # of a cause; some of them may turn out to be seen
_NOTHING = Own()
_NOBODY: Mapping[Cause, Handled] = {}
_NOT_HERE = "\0"  # the site of a node that the box does not have

Place = tuple[Kind, str]  # whose document it is
Stood = Mapping[Track, Mapping[str, Mapping[str, int]]]  # by track, then by word: of which nodes it stood, since when

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


class Many(NamedTuple):
    """What nodes needed somebody for: how many of them by cause, domain and site, how many match a query, and items of the
    first of those, enough for a page."""

    sums: Sums
    first: list[Item]


def of_nodes(
    every: Mapping[str, NodeRow], stood: Stood, silent: frozenset[str], own: Mapping[str, Own], query: AttentionQuery
) -> Many:
    """`every` row by id; `silent` are the sites that have told nothing of the moment; `own` is what nodes' documents said."""
    causes, domains, sites = Counter[str](), Counter[str](), Counter[str]()
    first, matching = list[Item](), 0
    for (cause, words), waiting in _waiting(every, stood, silent).items():
        ids = waiting.ids
        at = [own.get(node_id, _NOTHING).domain for node_id in ids]
        causes[str(cause)] += len(ids)
        domains.update(at)
        sites.update(waiting.sites)
        if query.cause not in ("", cause):
            continue
        here: Iterable[tuple[int, str, str, str]] = zip(waiting.since_ns, ids, waiting.sites, at, strict=True)
        many = len(ids)
        if query.site or query.domain:
            asked = [one for one in here if query.site in ("", one[2]) and query.domain in ("", one[3])]
            here, many = asked, len(asked)
        matching += many
        # Of one cause, who has waited longest comes first.
        for since_ns, node_id, site, domain in nsmallest(_FIRST, here):
            first.append(Item(cause, Kind.NODE, node_id, every[node_id].name, words, since_ns, site, domain))
    return Many(Sums(causes.total(), matching, causes, domains, sites), first)


class _Waiting(NamedTuple):
    """Columns: a tuple for each of fifty thousand would cost more than all that is asked of them."""

    ids: list[str]
    since_ns: list[int]
    sites: list[str]


def _waiting(every: Mapping[str, NodeRow], stood: Stood, silent: frozenset[str]) -> dict[tuple[Cause, str], _Waiting]:
    """By cause and words: which nodes have waited since when."""
    found: dict[tuple[Cause, str], _Waiting] = {}
    seen, several, passed_over = set[str](), set[str](), silent | {_NOT_HERE}
    for by_word in stood.values():
        for held in by_word.values():
            several |= seen & held.keys()
        seen.update(*by_word.values())

    def wait(troubles: Iterable[tuple[Cause, str]], ids: Collection[str], since_ns: Mapping[str, int]) -> None:
        at = [row.site if row is not None else _NOT_HERE for row in map(every.get, ids)]
        which = [site not in passed_over for site in at]
        ids, sites = [*compress(ids, which)], [*compress(at, which)]
        for trouble in troubles:
            waiting = found.setdefault(trouble, _Waiting([], [], []))
            waiting.ids.extend(ids)
            waiting.since_ns.extend(map(since_ns.__getitem__, ids))
            waiting.sites.extend(sites)

    for track, by_word in stood.items():  # nearly all stand on one track only, in few words
        for word, held in by_word.items():
            alone = held.keys() if not several else [node_id for node_id in held if node_id not in several]
            wait([(cause, words) for cause, words, _ in _troubles({track: word})], alone, held)
    for node_id in several:
        was = {
            track: (word, held) for track, by_word in stood.items() for word, held in by_word.items() if node_id in held
        }
        for cause, words, track in _troubles({track: word for track, (word, _) in was.items()}):
            wait([(cause, words)], [node_id], was[track][1])
    return found


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
    many: Many,
    others: Sequence[Item],
    query: AttentionQuery,
    documents: Callable[[Collection[Place]], Mapping[Place, View]],
    moment_ns: int,
) -> tuple[Made, Sums]:
    """`documents` are those of subjects as they stood then; asked for of the first that match."""
    ordered, awake, quiet = attention.queue([*many.first, *others], moment_ns), list[Item](), list[Item]()
    first = dict.fromkeys((Kind(one.subject_kind), one.subject) for one in ordered if matches(one, query))
    said = {place: attention.handled(view.values) for place, view in documents([*islice(first, LOOKED_UP_MAX)]).items()}
    for one in ordered:
        held = said.get((Kind(one.subject_kind), one.subject), _NOBODY).get(one.cause)
        if held is None:
            awake.append(one)
        else:
            one = one._replace(handled=held)
            (quiet if attention.is_quiet(one, moment_ns) else awake).append(one)
    return Made(None, awake, quiet), many.sums.plus(summed(others, query)).minus(summed(quiet, query))
