"""Policy bundles and domains as pages see them (`web.ports.Policies`), the same on both ends: what stands on the board
(`fleet.board`), put into shapes; wishes passed on. It decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from heapq import nsmallest
from itertools import islice
from typing import Protocol, TypeVar

import msgspec

from fleet import drift
from fleet.board import Board, Group, Seen, text, title
from fleet.connectivity import REACH, Reach
from fleet.document import Kind, Value, View
from fleet.drift import Difference, Standing, Verdict
from fleet.events import Recorded
from fleet.people import Identity, Refused
from fleet.reading import Health
from web import paths, ports, rows

NO_DOMAIN = "No domain"
REASONS_MAX = 5
VERSIONS_MAX = 8
OUT_LOOKED_AT = 200
_T = TypeVar("_T")
_OUT = {Standing.OUT: True, Standing.IN_LINE: False}


class Keeper(Protocol):
    """Who keeps the board (`store.drifting`)."""

    async def latest(self) -> ports.DriftView: ...

    async def refresh(self) -> None: ...

    async def ask(self, work: Callable[[Board], _T]) -> _T: ...

    async def versions(self, node_ids: Sequence[str]) -> Mapping[str, tuple[str, int]]:
        """Which version each node turned to last, and when, as far as the journal knows."""
        ...

    async def history(self, name: str, limit: int) -> Sequence[Recorded]: ...


class Writer(Protocol):
    """Who writes it down (`store.policies`)."""

    async def create(self, actor: str, kind: Kind, name: str) -> str: ...

    async def change(self, actor: str, kind: Kind, name: str, fields: Mapping[str, str]) -> None: ...

    async def take(self, actor: str, kind: Kind, name: str, pointer: str, choice: int) -> None: ...


class Policies:
    """`parse` makes values of a form's fields, or refuses; `site` names a node's site, `where` the place of a log's writer.
    Without a `writer` nothing can be changed here."""

    def __init__(
        self,
        keeper: Keeper,
        writer: Writer | None,
        parse: Callable[[Kind, Mapping[str, str]], Mapping[str, Value]],
        now_ns: Callable[[], int],
        site: Callable[[str], str],
        where: Callable[[str], str],
    ) -> None:
        self._keeper, self._writer, self._parse = keeper, writer, parse
        self._now_ns, self._site, self._where = now_ns, site, where

    # -- reads --------------------------------------------------------------------------------------------------

    async def drift(self, who: Identity) -> ports.DriftView:
        return await self._keeper.latest()

    async def differences(self, who: Identity, node_ids: Sequence[str]) -> Mapping[str, tuple[Difference, ...]]:
        found = await self._verdicts(node_ids)
        return {node_id: verdict.lines for node_id, verdict in found.items()}

    async def verdict(self, node_id: str, seen: Seen) -> Verdict:
        """How one node stands at this moment."""
        return (await self._verdicts((node_id,), {node_id: seen}))[node_id]

    async def _verdicts(self, node_ids: Sequence[str], fresh: Mapping[str, Seen] = {}) -> dict[str, Verdict]:
        versions = await self._keeper.versions(node_ids)

        def work(board: Board) -> dict[str, Verdict]:
            found: dict[str, Verdict] = {}
            for node_id in node_ids:
                held = board.nodes.get(node_id)
                seen = fresh.get(node_id) or (held.seen if held else None)
                if seen is None:
                    continue
                version, at_ns = versions.get(node_id, ("", 0))
                since_ns = at_ns if version == seen.present.version else None
                former = held.verdict if held else drift.FREE
                found[node_id] = board.verdict(seen, board.own(node_id), former, since_ns)
            return found

        return await self._keeper.ask(work)

    async def names(self) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
        """Id and name of each domain, and of each bundle, by name."""

        def work(board: Board) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
            return _named(board.domains), _named(board.bundles)

        return await self._keeper.ask(work)

    async def group(self, who: Identity, kind: Kind, name: str, offset: int, limit: int) -> ports.GroupView | None:
        def work(board: Board) -> tuple[ports.GroupView, list[str]] | None:
            documents = board.domains if kind is Kind.DOMAIN else board.bundles
            group = board.domain(name) if kind is Kind.DOMAIN else board.bundle(name)
            if name not in documents and not group.nodes:
                return None
            return self._group(board, kind, name, group, documents.get(name), offset, limit)

        found = await self._keeper.ask(work)
        if found is None:
            return None
        view, ids = found
        lines = await self._verdicts(ids)
        told = {one.id: one for one in view.out}
        out = tuple(_since(told[node_id], lines[node_id]) for node_id in ids if node_id in lines)
        return msgspec.structs.replace(view, out=out)

    def _group(
        self, board: Board, kind: Kind, name: str, group: Group, view: View | None, offset: int, limit: int
    ) -> tuple[ports.GroupView, list[str]]:
        reach, health, beside = Counter[Reach](), Counter[Health](), Counter[str]()
        for node_id in group.nodes:
            one = board.nodes[node_id]
            heard = board.heard(one.seen.site)
            reach[REACH[one.seen.present.mode] if heard else Reach.UNKNOWN] += 1
            health[one.seen.present.health if heard else Health.UNKNOWN] += 1
            beside[one.own.bundle if kind is Kind.DOMAIN else one.own.domain] += 1
        others = board.bundles if kind is Kind.DOMAIN else board.domains
        worst = nsmallest(
            offset + limit, group.out.items(), key=lambda item: (-item[1], board.nodes[item[0]].seen.present.name)
        )
        ids = [node_id for node_id, _ in worst[offset:]]
        return (
            ports.GroupView(
                now_ns=self._now_ns(),
                group=_summary(board, kind, name, group, view),
                words=rows.written(view, self._where) if view is not None else (),
                conflicts=rows.conflicts(view, self._where) if view else (),
                beside=tuple((other, _called(other, others), count) for other, count in beside.most_common()),
                sites=tuple(sorted((self._site(site), count) for site, count in group.sites.items())),
                reach=tuple((one, reach[one]) for one in Reach),
                health=tuple((one, health[one]) for one in Health),
                out=tuple(
                    ports.Drifter(
                        id=node_id,
                        name=board.nodes[node_id].seen.present.name,
                        site=self._site(board.nodes[node_id].seen.site),
                        score=group.out[node_id],
                        lines=(),
                    )
                    for node_id in ids
                ),
                offset=offset,
                limit=limit,
            ),
            ids,
        )

    async def members(self, who: Identity, name: str, query: ports.MemberQuery) -> ports.MembersView | None:
        return await self._keeper.ask(lambda board: self._members(board, name, query))

    def _members(self, board: Board, name: str, query: ports.MemberQuery) -> ports.MembersView | None:
        ids = board.domain(name).nodes
        if name not in board.domains and not ids:
            return None
        every = [
            (
                held.own.bundle,
                ports.Member(
                    id=node_id,
                    name=held.seen.present.name,
                    site=self._site(held.seen.site),
                    bundle=_called(held.own.bundle, board.bundles),
                    version=held.seen.present.version or "",
                    out=_OUT.get(held.verdict.standing),
                ),
            )
            for node_id, held in ((one, board.nodes[one]) for one in ids)
        ]
        chosen = [
            one
            for bundle, one in every
            if (not query.out or one.out)
            and query.site in ("", one.site)
            and query.bundle in ("", bundle)
            and query.version in ("", one.version)
        ]
        bundles = {bundle: one.bundle for bundle, one in every if bundle}
        return ports.MembersView(
            name=_called(name, board.domains) or NO_DOMAIN,
            nodes=tuple(sorted(chosen, key=lambda one: (one.site, one.name, one.id))),
            sites=tuple(sorted({one.site for _, one in every})),
            bundles=tuple(sorted(bundles.items(), key=lambda one: one[::-1])),
            versions=tuple(sorted({one.version for _, one in every if one.version})),
        )

    async def paths(self, who: Identity, name: str) -> ports.PathsView:
        return await self._keeper.ask(lambda board: paths.of_domain(board, name, self._site))

    async def history(self, who: Identity, name: str, limit: int) -> Sequence[Recorded]:
        return await self._keeper.history(name, limit)

    async def preview(self, who: Identity, name: str, fields: Mapping[str, str]) -> ports.Preview:
        values = self._parse(Kind.BUNDLE, fields)

        def work(board: Board) -> ports.Preview | None:
            if name not in board.bundles:
                return None
            found = board.preview(name, values)
            domains = tuple((_called(one, board.domains), count) for one, count in found.domains.most_common())
            return ports.Preview(
                nodes=found.nodes,
                domains=domains,
                out=found.before[Standing.OUT],
                out_then=found.after[Standing.OUT],
                in_line=found.before[Standing.IN_LINE],
                in_line_then=found.after[Standing.IN_LINE],
                unknown_then=found.after[Standing.UNKNOWN],
                turned=found.turned,
            )

        preview = await self._keeper.ask(work)
        if preview is None:
            raise Refused("there is no such policy bundle", 404)
        return preview

    # -- wishes -------------------------------------------------------------------------------------------------

    def _writing(self) -> Writer:
        if self._writer is None:
            raise Refused("nothing can be changed here")
        return self._writer

    async def create(self, who: Identity, kind: Kind, name: str) -> str:
        made = await self._writing().create(who.name, kind, name)
        await self._keeper.refresh()
        return made

    async def write(self, who: Identity, kind: Kind, name: str, fields: Mapping[str, str]) -> None:
        await self._writing().change(who.name, kind, name, fields)
        await self._keeper.refresh()

    async def take(self, who: Identity, kind: Kind, name: str, field: str, choice: int) -> None:
        await self._writing().take(who.name, kind, name, field, choice)
        await self._keeper.refresh()


# -- shapes ------------------------------------------------------------------------------------------------------


def overview(board: Board, pending: int = 0) -> ports.DriftView:
    """Domains with the worst first, bundles by name."""
    domains = [
        _summary(board, Kind.DOMAIN, name, board.domain(name), board.domains.get(name)) for name in board.domain_names()
    ]
    bundles = [
        _summary(board, Kind.BUNDLE, name, board.bundle(name), board.bundles.get(name)) for name in board.bundle_names()
    ]
    domains.sort(key=lambda one: (one.score is None, -(one.score or 0), -one.out, one.name))
    bundles.sort(key=lambda one: (one.name, one.id))
    return ports.DriftView(domains=tuple(domains), policies=tuple(bundles), pending=pending)


def _summary(board: Board, kind: Kind, name: str, group: Group, view: View | None) -> ports.DriftGroup:
    newest = max(view.values.values(), key=lambda one: (one.hlc, one.wall_ns)) if view and view.values else None
    return ports.DriftGroup(
        id=name,
        name=title(view, name) if view else name or NO_DOMAIN,
        nodes=len(group.nodes),
        in_line=group.standing[Standing.IN_LINE],
        out=group.standing[Standing.OUT],
        unknown=group.standing[Standing.UNKNOWN],
        free=group.standing[Standing.FREE],
        score=group.score,
        reasons=tuple(group.reasons.most_common(REASONS_MAX)),
        versions=_versions(group.versions.most_common()),
        target_version=text(view, "target_version") if view else "",
        written_ns=newest.wall_ns if newest else None,
        written_by=newest.who if newest else "",
        conflicts=len(view.conflicts) if view else 0,
        since_ns=_since_when(board, group) if kind is Kind.DOMAIN else None,
        described=view is not None or not name,
    )


def _since_when(board: Board, group: Group) -> int | None:
    """Since when any of its nodes is out of spec, as far as is known of the first few."""
    lines = (line for node_id in islice(group.out, OUT_LOOKED_AT) for line in board.nodes[node_id].verdict.lines)
    return min((line.since_ns for line in lines if line.since_ns is not None), default=None)


def _versions(counted: Sequence[tuple[str | None, int]]) -> tuple[tuple[str, int], ...]:
    """The most frequent by name; the rest, and what is not known, in one sum each."""
    known = [(version, count) for version, count in counted if version is not None]
    shown, rest = known[:VERSIONS_MAX], sum(count for _, count in known[VERSIONS_MAX:])
    unknown = sum(count for version, count in counted if version is None)
    return (*shown, *((("others", rest),) if rest else ()), *((("", unknown),) if unknown else ()))


def _named(documents: Mapping[str, View]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(((name, title(view, name)) for name, view in documents.items()), key=lambda one: one[::-1]))


def _called(name: str, documents: Mapping[str, View]) -> str:
    return title(documents[name], name) if name in documents else name


def _since(one: ports.Drifter, verdict: Verdict) -> ports.Drifter:
    return ports.Drifter(id=one.id, name=one.name, site=one.site, score=one.score, lines=verdict.out)
