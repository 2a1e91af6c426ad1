"""What stands in the attention queue, and what of it is seen or sleeps? The same on both ends.

Rules of the file
  1  Both boxes say what there is, as items (`fleet.attention`); this puts what people said of it beside each, orders and
     cuts it. One place, so that the first screen, the page and the API never disagree.
  2  The order is made anew when something changed, or every ten seconds; not for each who looks.
  3  What has no time of its own began when this process first saw it. What was seen before a restart stays seen.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from fleet import attention
from fleet.attention import ACT_FROM, NOBODY, WEIGHT, Cause, Item
from fleet.board import Board
from fleet.document import TAKEN_UP, Kind, Value
from fleet.limits import SECOND
from fleet.people import Refused
from web.ports import (
    AsOf,
    Attention,
    AttentionQuery,
    AttentionView,
    AttentionWish,
    DriftView,
    Severity,
)
from web.words import counted, iso

SHOWN_MAX = 200
BOX = "box"  # an item of the box itself: no document, so it goes when its cause goes
_ANOTHER = frozenset({Cause.FORK, Cause.GAP})  # more of it is another one
_FRESH_NS = 10 * SECOND
_REMARK_BYTES = TAKEN_UP[attention.SEEN].bytes_max - 128  # type: ignore[union-attr]


LOOK_S = 5.0


async def attend(look: Callable[[], Awaitable[object]]) -> None:
    """Look at the queue when nobody does: what has no time of its own began when it did, not when somebody came to see it.
    Supervised, for ever."""
    while True:
        await look()
        await asyncio.sleep(LOOK_S)


class Made(NamedTuple):
    key: object
    awake: list[Item]
    asleep: list[Item]


class Sums(NamedTuple):
    """Of what stands in the queue: how many items, how many that match a query, and how many by cause, domain and site."""

    total: int
    matching: int
    causes: Counter[str]
    domains: Counter[str]
    sites: Counter[str]

    def plus(self, other: Sums) -> Sums:
        return Sums(
            self.total + other.total,
            self.matching + other.matching,
            self.causes + other.causes,
            self.domains + other.domains,
            self.sites + other.sites,
        )

    def minus(self, other: Sums) -> Sums:
        return Sums(
            self.total - other.total,
            self.matching - other.matching,
            self.causes - other.causes,
            self.domains - other.domains,
            self.sites - other.sites,
        )


def summed(items: Sequence[Item], query: AttentionQuery) -> Sums:
    return Sums(
        len(items),
        sum(matches(one, query) for one in items),
        Counter([str(one.cause) for one in items]),
        Counter([one.domain for one in items]),
        Counter([one.site for one in items]),
    )


class Queue:
    def __init__(self, board: Board, *, hub: bool) -> None:
        self._board, self._hub = board, hub
        self._made: Made | None = None
        self._since: dict[tuple[str, str, str], int] = {}
        self._looked = False

    # -- items that follow from what both ends hold -------------------------------------------------------------------

    def begun(self, items: Iterable[Item], pending: int, now_ns: int) -> list[Item]:
        """Items, those without a time of their own (0) with the one at which they began; what is gone is forgotten.
        While documents are `pending` after a start, nobody knows yet what was seen."""
        found, since = list[Item](), dict[tuple[str, str, str], int]()
        for one in items:
            if not one.since_ns:
                key = (one.cause, one.subject, one.words if one.cause in _ANOTHER else "")
                seen_ns = None if self._looked else self._said(one).seen_ns
                since[key] = self._since.get(key) or seen_ns or now_ns
                one = one._replace(since_ns=since[key])
            found.append(one)
        if not pending:
            self._since, self._looked = since, True
        return found

    def common(self, drift: DriftView, input_items: int) -> list[Item]:
        """Domains that drift; what waits for a decision under Plan, in one line each; what could not be read."""
        found = [
            Item(
                Cause.DRIFT,
                Kind.DOMAIN if one.id else BOX,
                one.id or "none",
                one.name,
                f"{one.out:,} of {one.nodes:,} out of spec{_why(one.reasons)}",
                one.since_ns or 0,
                domain=one.id,
            )
            for one in drift.domains
            if one.out
        ]
        held = tuple(dict(self._board.open).values())
        for cause, count, since_ns, what in (
            (Cause.PARKED, sum(one.parked for one in held), _first(one.parked_ns for one in held), "parked"),
            (
                Cause.CONFLICT,
                sum(one.conflicts for one in held),
                _first(one.conflicts_ns for one in held),
                "written in two places at once",
            ),
        ):
            if count:
                words = f"{counted(count, 'word is', 'words are')} {what}; choose what holds"
                found.append(Item(cause, BOX, "plan", "plan", words, since_ns))
        if input_items:
            words = f"{input_items:,} item{'s wait' if input_items > 1 else ' waits'} in quarantine"
            found.append(Item(Cause.INPUT, BOX, "quarantine", "quarantine", words, 0))
        return found

    # -- the queue ----------------------------------------------------------------------------------------------------

    def order(self, version: object, nodes: Callable[[], Iterable[Item]], others: Sequence[Item], now_ns: int) -> Made:
        """All items in order. `version` is that of the nodes: while it is the same, they are not asked for."""
        key = (version, tuple(others), self._board.written, now_ns // _FRESH_NS)
        if self._made is None or self._made.key != key:
            items = [self._dressed(one) for part in (nodes(), others) for one in part]
            quiet = [one for one in items if attention.is_quiet(one, now_ns)]
            asleep = sorted(quiet, key=lambda one: -max(one.handled.seen_ns or 0, one.handled.later_until_ns or 0))
            self._made = Made(key, attention.queue(items, now_ns), asleep)
        return self._made

    def _said(self, one: Item) -> attention.Handled:
        return self._board.handled.get((one.subject_kind, one.subject), {}).get(one.cause, NOBODY)

    def _dressed(self, one: Item) -> Item:
        domain = one.domain or (self._board.own(one.subject).domain if one.subject_kind == Kind.NODE else "")
        said = self._said(one)
        return one if said is NOBODY and domain == one.domain else one._replace(handled=said, domain=domain)

    def lines(self, made: Made, now_ns: int) -> tuple[Attention, ...]:
        """The first of those that stand in the queue."""
        return tuple(line(one, {}, now_ns, hub=self._hub) for one in made.awake[:SHOWN_MAX])

    def view(self, made: Made, query: AttentionQuery, names: Mapping[str, str], now_ns: int) -> AttentionView:
        """`names` are those of the domains."""
        return view(made, summed(made.awake, query), query, names, now_ns, hub=self._hub)


def view(
    made: Made,
    sums: Sums,
    query: AttentionQuery,
    names: Mapping[str, str],
    now_ns: int,
    *,
    hub: bool,
    as_of: AsOf | None = None,
) -> AttentionView:
    """`sums` are those of all that is awake, of which `made` holds the first at least."""
    awake = islice((one for one in made.awake if matches(one, query)), SHOWN_MAX)
    asleep = [one for one in made.asleep if matches(one, query)]
    return AttentionView(
        now_ns=now_ns,
        items=tuple(line(one, names, now_ns, hub=hub) for one in awake),
        matching=sums.matching,
        total=sums.total,
        quiet=tuple(line(one, names, now_ns, hub=hub) for one in asleep[:SHOWN_MAX]),
        quiet_matching=len(asleep),
        causes=tuple(sums.causes.most_common()),
        domains=tuple((one, names.get(one, one), count) for one, count in sums.domains.most_common() if one),
        sites=tuple((one, count) for one, count in sorted(sums.sites.items()) if one),
        as_of=as_of,
    )


def matches(one: Item, query: AttentionQuery) -> bool:
    return query.cause in ("", one.cause) and query.domain in ("", one.domain) and query.site in ("", one.site)


def _why(reasons: Sequence[tuple[str, int]]) -> str:
    return f": {reasons[0][0]} × {reasons[0][1]:,}" if reasons else ""


def _first(times_ns: Iterable[int]) -> int:
    return min((one for one in times_ns if one), default=0)


def key_of(one: Item) -> str:
    return f"{one.cause}:{one.subject_kind}:{one.subject}"


def line(one: Item, names: Mapping[str, str], now_ns: int, *, hub: bool) -> Attention:
    said = one.handled
    return Attention(
        severity=Severity.ACT if WEIGHT[one.cause] >= ACT_FROM else Severity.LOOK,
        words=one.words,
        since_ns=one.since_ns or now_ns,
        node_id=one.subject if one.subject_kind == Kind.NODE and one.cause is not Cause.CONTEST else None,
        name=one.name,
        link=_link(one, hub=hub),
        cause=one.cause,
        key=key_of(one),
        score=round(attention.score(one.cause, one.since_ns or now_ns, now_ns), 1),
        site=one.site,
        domain=names.get(one.domain, one.domain),
        takes=one.subject_kind != BOX,
        seen_by=said.seen_by,
        seen_ns=said.seen_ns,
        later_by=said.later_by,
        later_until_ns=said.later_until_ns,
        assigned=said.assigned,
        assigned_by=said.assigned_by,
        remark=said.remark,
    )


_PAGES = {Kind.NODE: "/nodes/{}", Kind.DOMAIN: "/domains/{}", Kind.SITE: "/links/{}"}
_BOX_PAGES = {
    Cause.STORAGE: "/journal",
    Cause.INTAKE: "/intake",
    Cause.INPUT: "/quarantine",
    Cause.PARKED: "/plan",
    Cause.CONFLICT: "/plan",
    Cause.DRIFT: "/domains/none",
}


def _link(one: Item, *, hub: bool) -> str:
    if one.subject_kind == Kind.SITE and not hub:
        return "/account" if one.cause is Cause.BREAK_GLASS else "/links"
    if one.subject_kind == BOX:
        return _BOX_PAGES.get(one.cause, "/")
    page = _PAGES[Kind(one.subject_kind)].format(one.subject)
    return f"{page}/authority" if one.cause is Cause.CONTEST else page


# -- what a person says of it -----------------------------------------------------------------------------------------


def values_of(made: Made, wish: AttentionWish, who: str, now_ns: int) -> tuple[Item, dict[str, Value]]:
    """The item of that key, and what to write in its subject's document. Refused when there is none, or nothing can be
    said of it."""
    item = next((one for held in (made.awake, made.asleep) for one in held if key_of(one) == wish.key), None)
    if item is None:
        raise Refused("that does not need anybody any more; look again", 404)
    if item.subject_kind == BOX:
        raise Refused("this goes by itself when its cause goes; nobody can take it up")
    if len(wish.remark.encode()) > _REMARK_BYTES:
        raise Refused(f"a remark has at most {_REMARK_BYTES} bytes", 422)
    match wish.action:
        case "seen":
            return item, {**attention.words(attention.SEEN, item.cause, iso(now_ns), wish.remark)}
        case "later" if now_ns < wish.until_ns <= now_ns + LATER_MAX_NS:
            return item, {**attention.words(attention.LATER, item.cause, iso(wish.until_ns), wish.remark)}
        case "later":
            raise Refused("say until when, from now on and at most a month from now", 422)
        case "mine":
            return item, {**attention.words(attention.MINE, item.cause, (wish.to or who)[:64], wish.remark)}
        case "back":
            return item, {**attention.untaken(item.cause)}
    raise Refused("“action” is seen, later, mine or back", 422)


LATER_MAX_NS = 31 * 86_400 * SECOND
