"""Which domain drifts most, which bundle, and why? All nodes' verdicts, folded as things change.

Rules of the file
  1  A node is judged anew only when it was told anew, when its site is heard or lost, when its own document or its
     bundle changed. Nothing here is stored: all of it follows from documents and presents.
  2  A group is a domain or a bundle; its counts are kept by taking a node's former verdict away and adding the new one.
  3  Not for two threads at once: whoever holds it takes care of that (`store.drifting`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from fleet import attention, drift
from fleet.document import Kind, Stamped, Value, View, taken_up
from fleet.drift import FREE, Standing, Verdict, Want
from fleet.present import Present


class Seen(Protocol):
    """A node as it was told; another object as soon as it is told anew."""

    @property
    def site(self) -> str: ...

    @property
    def present(self) -> Present: ...


class Own(msgspec.Struct, frozen=True):
    """What a node's own document says, as far as drift asks."""

    domain: str = ""
    bundle: str = ""
    said: Mapping[str, Stamped] = {}
    upstream: str = ""  # the node that it is reached over
    stamp: int = 0  # of the newest word in it: as of later moments it is the same


_NOTHING = Own()


class Judged(msgspec.Struct):
    """A node, what it was judged by and how it stood; of its lines only those that are out of spec are kept. `counts` are
    its site, its version (None while that is not known) and how each want stands: while they are the same, so is all
    that is counted."""

    seen: Seen
    own: Own
    base: tuple[Want, ...]  # what its bundle alone wants
    wanted: tuple[Want, ...]
    counts: tuple[str, str | None, tuple[Standing, ...]]
    verdict: Verdict


class Group(msgspec.Struct):
    """A domain's nodes or a bundle's, counted."""

    nodes: set[str] = msgspec.field(default_factory=set)
    standing: Counter[Standing] = msgspec.field(default_factory=Counter)
    scores: int = 0  # their sum
    scored: int = 0
    reasons: Counter[str] = msgspec.field(default_factory=Counter)
    versions: Counter[str | None] = msgspec.field(default_factory=Counter)
    sites: Counter[str] = msgspec.field(default_factory=Counter)
    out: dict[str, int] = msgspec.field(default_factory=dict)  # node id → score

    @property
    def score(self) -> float | None:
        """The mean over those whose score is known."""
        return self.scores / self.scored if self.scored else None


_EMPTY = Group()
_T = TypeVar("_T")


class Open(NamedTuple):
    """How many words stand against each other or are parked in a document, and since when by the clocks they have."""

    conflicts: int
    parked: int
    conflicts_ns: int
    parked_ns: int

    def __bool__(self) -> bool:
        return bool(self.conflicts or self.parked)


class Board:
    """`write` what documents say, `fold` what nodes say, read `group`, `nodes`, `out`."""

    def __init__(self) -> None:
        self.bundles: dict[str, View] = {}
        self.domains: dict[str, View] = {}
        self.nodes: dict[str, Judged] = {}
        self.handled: dict[tuple[str, str], Mapping[attention.Cause, attention.Handled]] = {}  # by document
        self.open: dict[tuple[str, str], Open] = {}  # documents in which somebody has to choose
        self.written = 0  # how often a document was
        self._own: dict[str, Own] = {}
        self._wants: dict[str, Mapping[str, Stamped]] = {}  # of a bundle alone
        self._shared: dict[str, tuple[Want, ...]] = {}  # of nodes of a bundle that say nothing themselves
        self._domain: defaultdict[str, Group] = defaultdict(Group)
        self._bundle: defaultdict[str, Group] = defaultdict(Group)
        self._sites: defaultdict[str, set[str]] = defaultdict(set)
        self._heard: frozenset[str] = frozenset()
        self._dirty: set[str] = set()

    # -- what changes -------------------------------------------------------------------------------------------

    def write(self, kind: str, name: str, view: View, parked: Sequence[Stamped] = ()) -> None:
        """A document as it stands now, and the words in it that are parked."""
        self.written += 1
        _keep(self.handled, (kind, name), attention.handled(view.values))
        held_ns = [word.wall_ns for one in view.conflicts if not taken_up(one.pointer) for word in one.others]
        _keep(self.open, (kind, name), Open(len(held_ns), len(parked), min(held_ns, default=0), _first(parked)))
        if kind == Kind.NODE:
            self._own[name] = own(view, parked)
            self._dirty.add(name)
        elif kind == Kind.DOMAIN:
            self.domains[name] = view
        elif kind == Kind.BUNDLE:
            self.bundles[name] = view
            self._wants[name] = drift.said(view.values)
            self._shared[name] = drift.wants(self._wants[name], title(view, name), {})
            self._dirty |= self.bundle(name).nodes

    def fold(
        self,
        seen: Mapping[str, Seen],
        heard: frozenset[str],
        most: int = 1 << 62,
        fresh: Iterable[str] | None = None,
    ) -> int:
        """The nodes as they are told now; `heard`: the sites that are. `fresh` holds all that were told or went since the
        last time, where somebody knows; else every one is looked at. At most `most` are judged anew; how many are left
        to do."""
        dirty, self._dirty = self._dirty, set()
        held = self.nodes
        for node_id in seen if fresh is None else fresh:
            judged, one = held.get(node_id), seen.get(node_id)
            if one is not None and (judged is None or judged.seen is not one):
                dirty.add(node_id)
        for site in self._heard ^ heard:
            dirty |= self._sites[site]
        self._heard = heard
        if len(held) + len(dirty - held.keys()) > len(seen):
            for node_id in held.keys() - seen.keys():
                self._leave(node_id, held.pop(node_id))
        dirty &= seen.keys()
        for node_id in islice(dirty, most):
            self._judge(node_id, seen[node_id])
        self._dirty = set(islice(dirty, most, None))
        return len(self._dirty)

    def _judge(self, node_id: str, seen: Seen) -> None:
        former, said = self.nodes.get(node_id), self._own.get(node_id, _NOTHING)
        base, heard = self._shared.get(said.bundle, ()), seen.site in self._heard
        kept = former is not None and former.own is said and former.base is base
        wanted = former.wanted if former is not None and kept else self._wanted(said)
        version = seen.present.version if heard else None
        missing = said.bundle != "" and said.bundle not in self.bundles
        counts = (seen.site, version, drift.weigh(wanted, seen.present, heard=heard, missing=missing))
        if former is not None:
            if kept and former.counts == counts:
                former.seen = seen
                return
            self._leave(node_id, former)
        verdict = self._verdict(seen, said, wanted, former.verdict if former else FREE)
        self.nodes[node_id] = Judged(seen, said, base, wanted, counts, verdict._replace(lines=verdict.out))
        self._sites[seen.site].add(node_id)
        for group in self._groups(said):
            group.nodes.add(node_id)
            group.standing[verdict.standing] += 1
            group.versions[version] += 1
            group.sites[seen.site] += 1
            if verdict.score is not None:
                group.scores, group.scored = group.scores + verdict.score, group.scored + 1
            if verdict.standing is Standing.OUT:
                group.out[node_id] = verdict.score or 0
                group.reasons.update(map(drift.reason, verdict.out))

    def _leave(self, node_id: str, one: Judged) -> None:
        self._sites[one.counts[0]].discard(node_id)
        for group in self._groups(one.own):
            group.nodes.discard(node_id)
            _less(group.standing, one.verdict.standing)
            _less(group.versions, one.counts[1])
            _less(group.sites, one.counts[0])
            if one.verdict.score is not None:
                group.scores, group.scored = group.scores - one.verdict.score, group.scored - 1
            if group.out.pop(node_id, None) is not None:
                for line in one.verdict.lines:
                    _less(group.reasons, drift.reason(line))

    def _groups(self, said: Own) -> Iterable[Group]:
        """A node without a domain is of the domain "" all the same; one without a bundle is of no bundle."""
        yield self._domain[said.domain]
        if said.bundle:
            yield self._bundle[said.bundle]

    # -- what it says -------------------------------------------------------------------------------------------

    def verdict(self, seen: Seen, said: Own, former: Verdict = FREE, version_ns: int | None = None) -> Verdict:
        return self._verdict(seen, said, self._wanted(said), former, version_ns)

    def _verdict(
        self, seen: Seen, said: Own, wanted: tuple[Want, ...], former: Verdict = FREE, version_ns: int | None = None
    ) -> Verdict:
        known = not said.bundle or said.bundle in self.bundles
        return drift.judge(
            wanted,
            seen.present,
            heard=seen.site in self._heard,
            missing="" if known else said.bundle,
            version_ns=version_ns,
            former=former.lines,
        )

    def _wanted(self, said: Own) -> tuple[Want, ...]:
        if not said.said:
            return self._shared.get(said.bundle, ())
        view = self.bundles.get(said.bundle)
        return drift.wants(self._wants.get(said.bundle, {}), title(view, said.bundle) if view else "", said.said)

    def own(self, node_id: str) -> Own:
        return self._own.get(node_id, _NOTHING)

    def owns(self) -> dict[str, Own]:
        """What each node's own document says, of those that are read."""
        return dict(self._own)

    def members(self, domain: str | None, bundle: str | None) -> frozenset[str]:
        """The nodes of a domain ("": of none) and of a bundle; None is any. One of the two is asked for."""
        groups = [self.domain(domain).nodes] if domain is not None else []
        groups += [self.bundle(bundle).nodes] if bundle is not None else []
        return frozenset(groups[0].intersection(*groups[1:]))

    def concerned(self, name: str) -> list[str]:
        """The nodes of a domain, or the node of that id."""
        return [node_id for node_id, said in self._own.items() if name in (said.domain, node_id)]

    def heard(self, site: str) -> bool:
        return site in self._heard

    def bundle_names(self) -> set[str]:
        return self.bundles.keys() | {name for name, group in self._bundle.items() if group.nodes}

    def domain(self, name: str) -> Group:
        return self._domain.get(name, _EMPTY)

    def bundle(self, name: str) -> Group:
        return self._bundle.get(name, _EMPTY)

    def domain_names(self) -> set[str]:
        """Those that are described, and those that nodes speak of."""
        return self.domains.keys() | {name for name, group in self._domain.items() if group.nodes}

    def preview(self, bundle: str, changes: Mapping[str, Value]) -> Preview:
        """What other words in a bundle would touch; nothing is changed."""
        view = self.bundles[bundle]
        new = dict(self._wants[bundle])
        stamp = next(iter(view.values.values()))
        for field, value in changes.items():
            new.pop(field, None)
            if drift.is_want(field) and value not in (None, ""):
                new[field] = msgspec.structs.replace(stamp, value=value)
        name = title(view, bundle)
        alone = drift.wants(new, name, {})
        found = Preview()
        for node_id in self.bundle(bundle).nodes:
            one = self.nodes[node_id]
            wanted = drift.wants(new, name, one.own.said) if one.own.said else alone
            verdict = self._verdict(one.seen, one.own, wanted)
            found.nodes += 1
            found.domains[one.own.domain] += 1
            found.before[one.verdict.standing] += 1
            found.after[verdict.standing] += 1
            found.turned += one.verdict.standing is not Standing.OUT and verdict.standing is Standing.OUT
        return found


class Preview(msgspec.Struct):
    """What a change of a bundle touches: nodes, by domain, how they stand and would stand, and how many would fall out of
    spec that are not so now."""

    nodes: int = 0
    domains: Counter[str] = msgspec.field(default_factory=Counter)
    before: Counter[Standing] = msgspec.field(default_factory=Counter)
    after: Counter[Standing] = msgspec.field(default_factory=Counter)
    turned: int = 0


def _first(words: Sequence[Stamped]) -> int:
    return min((one.wall_ns for one in words), default=0)


def _keep(held: dict[tuple[str, str], _T], place: tuple[str, str], value: _T) -> None:
    """Only what is something."""
    if value:
        held[place] = value
    else:
        held.pop(place, None)


def own(view: View, parked: Sequence[Stamped] = ()) -> Own:
    others = (word for one in view.conflicts for word in one.others)
    return (
        Own(
            text(view, "domain_id"),
            text(view, "policy_bundle_id"),
            drift.said(view.values),
            text(view, "upstream"),
            max((word.hlc for word in (*view.values.values(), *others, *parked)), default=0),
        )
        if view.values
        else _NOTHING
    )


def text(view: View, field: str) -> str:
    one = view.values.get(field)
    return one.value if one is not None and isinstance(one.value, str) else ""


def title(view: View, name: str) -> str:
    """What people call a bundle or a domain."""
    return text(view, "name") or name


_K = TypeVar("_K")


def _less(counted: Counter[_K], key: _K) -> None:
    counted[key] -= 1
    if not counted[key]:
        del counted[key]
