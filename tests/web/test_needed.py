"""What needed a person at a moment: counted as if an item had been made of each, though only the first are made."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Mapping

import pytest

from fleet import attention, past
from fleet.attention import Cause, Item
from fleet.board import Own
from fleet.connectivity import Mode, Reach
from fleet.document import Kind, Stamped, View
from fleet.events import Clock
from fleet.limits import HOUR, MINUTE, SECOND
from fleet.node import Kind as NodeKind
from fleet.past import MISSING, Crowd, Track
from web import needed, rows, seats
from web.ports import AttentionQuery, NodeRow

NOW_NS = 1_790_000_000 * SECOND
SITES = ("alder", "birch", "cedar")
DOMAINS = ("", "fjord", "skerries")
QUERIES = (
    AttentionQuery(),
    AttentionQuery(cause="silent"),
    AttentionQuery(site="birch"),
    AttentionQuery(domain="fjord"),
    AttentionQuery(cause="failed", site="alder", domain="skerries"),
    AttentionQuery(site="nowhere"),
)


def fleet(nodes: int) -> dict[str, NodeRow]:
    made = {}
    for number in range(nodes):
        name = f"N{number:04}"
        made[name] = NodeRow(
            id=name,
            name=f"drone-{number}",
            kind=NodeKind.EDGE,
            site=SITES[number % 3],
            mode=Mode.LIVE,
            reach=Reach.ONLINE,
        )
    return made


def stood(nodes: int, dice: random.Random) -> dict[Track, dict[str, dict[str, int]]]:
    """Each node on each track in one of its words, or well; some are of nobody here."""
    found: dict[Track, dict[str, dict[str, int]]] = {}
    for track, words in WORDS.items():
        for number in range(nodes + 5):
            if dice.random() < 0.3:
                held = found.setdefault(track, {}).setdefault(dice.choice(sorted(words)), {})
                held[f"N{number:04}"] = NOW_NS - dice.randrange(90) * HOUR
    return found


WORDS = {
    Track.CONNECTIVITY: frozenset(map(str, (Mode.DELAYED, Mode.DISCONNECTED, Mode.AUTONOMOUS))),
    **needed.SAID,
}


def of_nodes(
    every: dict[str, NodeRow],
    told: Mapping[Track, dict[str, dict[str, int]]],
    silent: frozenset[str],
    own: dict[str, Own],
    query: AttentionQuery,
) -> needed.Many:
    """What a history says: columns for the modes, of whom is here and of some who are not."""
    modes = {
        node_id: (mode, since_ns)
        for mode, held in told.get(Track.CONNECTIVITY, {}).items()
        for node_id, since_ns in held.items()
    }
    ids = sorted({*every, *modes}, reverse=True)
    said = [modes.get(node_id, (Mode.LIVE, NOW_NS)) for node_id in ids]
    packs = array("Q", [past.stamp_at(since_ns) << past.CODE_BITS | past.CODES[mode] for mode, since_ns in said])
    crowd = Crowd(ids, past.codes_of(packs), packs)
    others = {track: told.get(track, {}) for track in needed.SAID}
    where = seats.Kept().of(crowd, rows.everyone(every.values()))
    return needed.of_nodes(every, where, crowd, others, silent, own, query)


def one_by_one(
    every: dict[str, NodeRow], told: dict[Track, dict[str, dict[str, int]]], own: dict[str, Own], silent: frozenset[str]
) -> list[Item]:
    items = []
    for row in every.values():
        was = {
            track: (word, held[row.id])
            for track, words in told.items()
            for word, held in words.items()
            if row.id in held
        }
        mode = was.get(Track.CONNECTIVITY, ("", 0))
        offline = mode[0] not in ("", Mode.DELAYED)
        causes = {
            Cause.SILENT if offline else Cause.DELAYED: mode[1] if mode[0] else None,
            Cause.FAILED: was[Track.HEALTH][1] if was.get(Track.HEALTH, ("",))[0] == "FAILED" else None,
            Cause.DEGRADED: was[Track.HEALTH][1] if was.get(Track.HEALTH, ("",))[0] == "DEGRADED" else None,
            Cause.HEARTBEAT: was[Track.HEARTBEAT][1] if Track.HEARTBEAT in was and not offline else None,
            Cause.QUARANTINE: was[Track.LIFECYCLE][1] if Track.LIFECYCLE in was else None,
        }
        for cause, since_ns in causes.items():
            if since_ns is not None and row.site not in silent:
                domain = own.get(row.id, Own()).domain
                items.append(Item(cause, Kind.NODE, row.id, row.name, "", since_ns, row.site, domain))
    return attention.queue(items, NOW_NS)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("query", QUERIES)
def test_sums_and_the_first_are_those_of_a_look_at_every_node(seed: int, query: AttentionQuery) -> None:
    dice = random.Random(seed)
    every, told, silent = fleet(400), stood(400, dice), frozenset(SITES[: seed % 2])
    own = {node_id: Own(domain=dice.choice(DOMAINS)) for node_id in every}
    items = one_by_one(every, told, own, silent)
    wanted = [
        one
        for one in items
        if query.cause in ("", one.cause) and query.site in ("", one.site) and query.domain in ("", one.domain)
    ]
    made, sums = needed.queue(of_nodes(every, told, silent, own, query), [], query, lambda places: {}, NOW_NS)
    assert [one._replace(words="") for one in made.awake[:100]] == wanted[:100]
    assert (sums.total, sums.matching) == (len(items), len(wanted))
    assert sums.causes == Counter(str(one.cause) for one in items)
    assert sums.domains == Counter(one.domain for one in items)
    assert sums.sites == Counter(one.site for one in items)


def test_what_somebody_had_seen_is_not_counted() -> None:
    every = fleet(3)
    told = {Track.HEARTBEAT: {MISSING: dict.fromkeys(every, NOW_NS - HOUR)}}
    seen = View({"acknowledged/heartbeat": Stamped("2026", "bob", "alder", 1, 0, NOW_NS - MINUTE, Clock.SYNCED)}, ())
    made, sums = needed.queue(
        of_nodes(every, told, frozenset(), {}, AttentionQuery()),
        [],
        AttentionQuery(),
        lambda places: {place: seen for place in places if place[1] == "N0001"},
        NOW_NS,
    )
    assert [one.subject for one in made.awake] == ["N0000", "N0002"]
    assert [one.subject for one in made.asleep] == ["N0001"]
    assert (sums.total, sums.matching, sums.causes) == (2, 2, Counter(heartbeat=2))
