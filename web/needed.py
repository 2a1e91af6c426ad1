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
from functools import cache
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
from fleet.limits import MS
from fleet.node import Kind as NodeKind
from fleet.past import BELOW_MS, MISSING, WORDS, Crowd, Track, since_of
from fleet.reading import Health
from web import rows
from web.attention import SHOWN_MAX, Made, Sums, matches, summed
from web.ports import AttentionQuery, NodeRow, SiteLine
from web.seats import Seats

LOOKED_UP_MAX = 50  # documents
_FIRST = SHOWN_MAX + LOOKED_UP_MAX  # of a cause; some of them may turn out to be seen
_NOTHING = Own()
_NOBODY: Mapping[Cause, Handled] = {}

Place = tuple[Kind, str]  # whose document it is
Stood = Mapping[Track, Mapping[str, Mapping[str, int]]]  # by track, then by word: of which nodes it stood, since when

_MODES = frozenset(str(mode) for mode in Mode if REACH[mode] is Reach.OFFLINE or mode is Mode.DELAYED)
_WAITS = bytes(code if WORDS.get(code) in _MODES else 0 for code in range(256))
# What of each other track may need somebody
SAID: Mapping[Track, frozenset[str]] = {
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
    every: Mapping[str, NodeRow],
    seats: Seats,
    crowd: Crowd,
    stood: Stood,
    silent: frozenset[str],
    own: Mapping[str, Own],
    query: AttentionQuery,
) -> Many:
    """`every` row by id; `stood` is what the tracks of `SAID` say; `silent` are the sites that have told nothing of the
    moment; `own` is what nodes' documents said."""
    causes, domains, sites = Counter[str](), Counter[str](), Counter[str]()
    first, matching = list[Item](), 0
    for (cause, words), waiting in _waiting(seats, crowd, stood, silent).items():
        its, since = waiting
        at = [own.get(crowd.ids[seat], _NOTHING).domain for seat in its]
        of = [*map(seats.sites.__getitem__, its)]
        causes[str(cause)] += len(its)
        domains.update(at)
        sites.update(of)
        if query.cause not in ("", cause):
            continue
        which: Sequence[int] = range(len(its))
        if query.site or query.domain:
            which = [one for one in which if query.site in ("", of[one]) and query.domain in ("", at[one])]
        matching += len(which)
        # Of one cause, who has waited longest comes first.
        last = max(nsmallest(_FIRST, map(since.__getitem__, which)), default=0) | (1 << BELOW_MS) - 1
        longest = [(since_of(since[one]), crowd.ids[its[one]], of[one], at[one]) for one in which if since[one] <= last]
        for since_ns, node_id, site, domain in sorted(longest)[:_FIRST]:
            first.append(Item(cause, Kind.NODE, node_id, every[node_id].name, words, since_ns, site, domain))
    return Many(Sums(causes.total(), matching, causes, domains, sites), first)


class _Waiting(NamedTuple):
    """Columns: a tuple for each of fifty thousand would cost more than all that is asked of them."""

    seats: list[int]
    since: list[int]  # as in a crowd


def _waiting(seats: Seats, crowd: Crowd, stood: Stood, silent: frozenset[str]) -> dict[tuple[Cause, str], _Waiting]:
    """By cause and words: which nodes have waited since when."""
    here = seats.without(crowd.codes, silent)
    modes = here.translate(_WAITS)
    spoken: list[tuple[Track, str, dict[int, int]]] = []  # on the other tracks, by seat, since when
    for track, by_word in stood.items():
        for word, held in by_word.items():
            sat = zip(map(seats.of.get, held), held.values(), strict=True)
            spoken.append(
                (track, word, {seat: ns // MS << BELOW_MS for seat, ns in sat if seat is not None and here[seat]})
            )
    alike: dict[int, int] = {}  # whoever stands on another track: on which of them, a bit each
    for bit, (_, _, since) in enumerate(spoken):
        for seat in since:
            alike[seat] = alike.get(seat, 0) | 1 << bit
    together: dict[tuple[int, int], list[int]] = {}  # and with which mode
    for seat, bits in alike.items():
        together.setdefault((modes[seat], bits), []).append(seat)
        modes[seat] = 0
    found: dict[tuple[Cause, str], _Waiting] = {}

    def wait(its: Sequence[int], said: Mapping[tuple[Track, str], Callable[[int], int]]) -> None:
        by_track = {track: since for (track, _), since in said.items()}
        for cause, words, track in _troubles(*said):
            waiting = found.setdefault((cause, words), _Waiting([], []))
            waiting.seats.extend(its)
            waiting.since.extend(map(by_track[track], its))

    packs = crowd.packs.__getitem__
    for (mode, bits), its in together.items():
        said = {(track, word): since.__getitem__ for bit, (track, word, since) in enumerate(spoken) if bits >> bit & 1}
        wait(its, said | {(Track.CONNECTIVITY, WORDS[mode]): packs} if mode else said)
    waits = [*compress(range(len(modes)), modes)]
    codes = modes.translate(None, b"\0")
    for mode in {*codes}:  # nearly all stand on one track only, in few words
        which = codes.translate(bytes(one == mode for one in range(256)))
        wait([*compress(waits, which)], {(Track.CONNECTIVITY, WORDS[mode]): packs})
    return found


@cache
def _troubles(*stood: tuple[Track, str]) -> list[tuple[Cause, str, Track]]:
    """What whoever stood so needed somebody for, in which words, and the track that says since when."""
    said = dict(stood)
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
